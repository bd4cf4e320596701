//! The events of the Responses API that a client comes back for: `stream=true&starting_after=N`, and
//! responses in the background whose events are followed.

use std::time::Duration;

use serde_json::{Value, json};
use tollway_simulator::Reply;
use tollway_tests::client::{Connection, get, post_with, send};
use tollway_tests::responses::{CONFIG, ONE, TWO};
use tollway_tests::setup::within;
use tollway_tests::{Response, Setup, post};

const PATIENCE: Duration = Duration::from_secs(10);

fn followed(model: &str) -> Value {
    json!({"model": model, "input": "Take your time.", "background": true, "stream": true})
}

/// The events of a stream, whose numbers must go on from `from`.
fn numbered(text: &str, from: usize) -> Vec<Value> {
    let events: Vec<Value> = text
        .lines()
        .filter_map(|line| line.strip_prefix("data: "))
        .map(|data| serde_json::from_str(data).unwrap_or_else(|error| panic!("{error}: {data}")))
        .collect();
    for (at, event) in events.iter().enumerate() {
        assert_eq!(event["sequence_number"], from + at, "{text}");
    }
    events
}

fn kinds(events: &[Value]) -> Vec<&str> {
    events.iter().map(|event| event["type"].as_str().unwrap_or_default()).collect()
}

/// Reads events until `count` are there, and where there are more, what came with them.
async fn some_events(connection: &mut Connection, count: usize) -> Vec<Value> {
    let mut text = String::new();
    while text.matches("\n\n").count() < count {
        let chunk = within(PATIENCE, "an event", connection.chunk()).await.expect("no end");
        text.push_str(&String::from_utf8_lossy(&chunk));
    }
    numbered(&text, 0)
}

async fn follow(setup: &Setup, path: &str) -> Connection {
    let mut connection = Connection::open(setup.gateway.address).await;
    connection.request("GET", path, &ONE, b"").await;
    let (status, _) = connection.head().await;
    assert_eq!(status, 200);
    connection
}

async fn rest(connection: &mut Connection) -> String {
    let mut text = String::new();
    while let Some(chunk) = within(PATIENCE, "the rest", connection.chunk()).await {
        text.push_str(&String::from_utf8_lossy(&chunk));
    }
    text
}

fn path_of(events: &[Value]) -> String {
    format!("/v1/responses/{}", events[0]["response"]["id"].as_str().expect("an id"))
}

#[tokio::test]
async fn stream_in_the_background_goes_on_behind_every_event() {
    let setup = Setup::with(CONFIG).await;
    let address = setup.gateway.address;
    for model in ["claude", "gpt"] {
        setup.simulator.enqueue(Reply::text("Some words, one after the other.").thinking("Hm."));
        let first = post_with(address, "/v1/responses", &ONE, &followed(model)).await;
        assert_eq!(first.status, 200, "{}", first.text());
        let all = first.text();
        let events = numbered(&all, 0);
        let kinds = kinds(&events);
        assert_eq!(kinds[..3], ["response.created", "response.queued", "response.in_progress"]);
        assert_eq!(events[0]["response"]["status"], "queued");
        assert_eq!(kinds.last(), Some(&"response.completed"), "{model}");
        let path = path_of(&events);
        for event in events.iter().filter(|event| event.get("response").is_some()) {
            assert_eq!(event["response"]["id"], events[0]["response"]["id"]);
            assert_eq!(event["response"]["background"], true, "{event}");
        }
        let line = setup.settled(&first).await;
        assert!(line["completion_tokens"].as_u64() > Some(0), "{line}");

        let again = get(address, &format!("{path}?stream=true"), &ONE).await;
        assert_eq!(again.header("content-type"), Some("text/event-stream; charset=utf-8"));
        assert_eq!(again.text(), all, "{model}");
        for (number, _) in events.iter().enumerate() {
            let query = format!("{path}?stream=true&starting_after={number}");
            let tail = get(address, &query, &ONE).await.text();
            assert!(all.ends_with(&tail), "{tail}");
            assert_eq!(numbered(&tail, number + 1), events[number + 1..]);
        }

        let whole = get(address, &path, &ONE).await.json();
        assert_eq!(whole["status"], "completed");
        assert_eq!(whole["id"], events[0]["response"]["id"]);
        assert_eq!(get(address, &format!("{path}?stream=true"), &TWO).await.status, 404);
        let wrong = get(address, &format!("{path}?stream=true&starting_after=x"), &ONE).await;
        assert_eq!((wrong.status, wrong.error("param")), (400, json!("starting_after")));
        let asked = setup.simulator.next_request().await.json();
        assert_eq!((asked.get("background"), &asked["stream"]), (None, &json!(true)));

        // And it is gone on from like any other.
        let on = json!({"model": model, "input": "More.", "previous_response_id": whole["id"]});
        assert_eq!(post_with(address, "/v1/responses", &ONE, &on).await.status, 200);
        setup.simulator.next_request().await;
    }
}

#[tokio::test]
async fn stream_in_the_background_outlives_its_client_and_is_followed_live() {
    let setup = Setup::with(CONFIG).await;
    for model in ["claude", "gpt"] {
        setup.simulator.enqueue(Reply::tokens(60).rate(60.0));
        let mut connection = Connection::open(setup.gateway.address).await;
        let body = followed(model).to_string();
        connection.request("POST", "/v1/responses", &ONE, body.as_bytes()).await;
        connection.head().await;
        let had = some_events(&mut connection, 5).await;
        let path = path_of(&had);
        drop(connection);

        let last = had.len() - 1;
        let mut others = [
            follow(&setup, &format!("{path}?stream=true&starting_after={last}")).await,
            follow(&setup, &format!("{path}?stream=true")).await,
        ];
        let running = get(setup.gateway.address, &path, &ONE).await.json();
        assert_eq!(running["status"], "in_progress", "{model}");
        let [tail, all] = [rest(&mut others[0]).await, rest(&mut others[1]).await];
        assert!(all.ends_with(&tail));
        let (tail, all) = (numbered(&tail, had.len()), numbered(&all, 0));
        assert_eq!([had, tail].concat(), all);
        assert_eq!(kinds(&all).last(), Some(&"response.completed"), "{model}");
        setup.simulator.next_request().await;
    }
    setup.gateway.idle().await;
}

#[tokio::test]
async fn cancelling_ends_those_who_follow() {
    let setup = Setup::with(CONFIG).await;
    let address = setup.gateway.address;
    for model in ["claude", "gpt"] {
        setup.simulator.enqueue(Reply::text("one two three").stall_after(1));
        let mut connection = Connection::open(address).await;
        let body = followed(model).to_string();
        connection.request("POST", "/v1/responses", &ONE, body.as_bytes()).await;
        connection.head().await;
        let had = some_events(&mut connection, 4).await;
        let path = path_of(&had);
        let other = post_with(address, &format!("{path}/cancel"), &TWO, &json!({})).await;
        assert_eq!(other.status, 404);
        let cancelled = post_with(address, &format!("{path}/cancel"), &ONE, &json!({})).await;
        assert_eq!(cancelled.json()["status"], "cancelled", "{}", cancelled.text());
        let told = numbered(&rest(&mut connection).await, had.len());
        assert_eq!(kinds(&told).last(), Some(&"response.cancelled"), "{told:?}");
        setup.simulator.next_cancelled().await;

        let again = get(address, &format!("{path}?stream=true"), &ONE).await.text();
        assert_eq!(numbered(&again, 0), [had, told].concat());
        setup.simulator.next_request().await;

        // Deleting ends them as well, and nothing is left.
        setup.simulator.enqueue(Reply::text("one two three").stall_after(1));
        let mut connection = Connection::open(address).await;
        connection.request("POST", "/v1/responses", &ONE, body.as_bytes()).await;
        connection.head().await;
        let had = some_events(&mut connection, 4).await;
        let path = path_of(&had);
        assert_eq!(send(address, "DELETE", &path, &ONE, b"").await.status, 200);
        let told = numbered(&rest(&mut connection).await, had.len());
        assert_eq!(kinds(&told).last(), Some(&"response.cancelled"), "{told:?}");
        assert_eq!(get(address, &path, &ONE).await.status, 404);
        setup.simulator.next_cancelled().await;
        setup.simulator.next_request().await;
    }
}

#[tokio::test]
async fn failure_in_the_background_is_told_to_those_who_follow() {
    let setup = Setup::with(CONFIG).await;
    let address = setup.gateway.address;
    for model in ["claude", "gpt"] {
        for reply in
            [Reply::error(400).message("No such thing."), Reply::text("a b c").cut_after(1)]
        {
            setup.simulator.enqueue(reply);
            let first = post_with(address, "/v1/responses", &ONE, &followed(model)).await;
            let events = numbered(&first.text(), 0);
            let kinds = kinds(&events);
            assert_eq!(kinds[kinds.len() - 2..], ["error", "response.failed"], "{model}");
            let path = path_of(&events);
            let kept = get(address, &path, &ONE).await.json();
            assert_eq!(kept["status"], "failed");
            assert_eq!(events.last().map(|event| &event["response"]), Some(&kept));
            let again = get(address, &format!("{path}?stream=true"), &ONE).await;
            assert_eq!(again.text(), first.text());
            setup.settled(&first).await;
        }
    }
}

/// What a response says, in the words of its deltas.
fn said(events: &[Value]) -> String {
    let deltas = events.iter().filter(|event| event["type"] == "response.output_text.delta");
    deltas.filter_map(|event| event["delta"].as_str()).collect()
}

#[tokio::test]
async fn response_that_was_no_stream_is_told_as_one() {
    let setup = Setup::with(CONFIG).await;
    let address = setup.gateway.address;
    for model in ["claude", "gpt"] {
        setup.simulator.enqueue(Reply::text("All at once."));
        let body = json!({"model": model, "input": "Hi."});
        let first: Response = post(address, "/v1/responses", &body).await;
        let path = format!("/v1/responses/{}", first.json()["id"].as_str().expect("an id"));
        let all = setup.get(&format!("{path}?stream=true")).await.text();
        let events = numbered(&all, 0);
        assert_eq!(said(&events), "All at once.");
        assert_eq!(events.last().map(|event| &event["response"]), Some(&first.json()));
        let tail = setup.get(&format!("{path}?stream=true&starting_after=2")).await.text();
        assert_eq!(numbered(&tail, 3), events[3..]);

        // One in the background is waited for.
        setup
            .simulator
            .enqueue(Reply::text("At last.").first_byte_delay(Duration::from_millis(300)));
        let body = json!({"model": model, "input": "Hi.", "background": true});
        let queued = post_with(address, "/v1/responses", &ONE, &body).await.json();
        let path = format!("/v1/responses/{}", queued["id"].as_str().expect("an id"));
        let all = get(address, &format!("{path}?stream=true"), &ONE).await.text();
        assert_eq!(said(&numbered(&all, 0)), "At last.", "{all}");
    }
}
