//! Agents as models whose answers are made in the background: the client asks for them later, or
//! follows their events and comes back for the rest.

use serde_json::{Value, json};
use tollway_simulator::Reply;
use tollway_tests::Setup;
use tollway_tests::agents::{ANN, BOB, CONFIG, call, reckons};

fn asks(more: Value) -> Value {
    let mut body = json!({"model": "agent/reckoner", "input": "Six times seven?",
                          "background": true});
    if let (Some(body), Value::Object(more)) = (body.as_object_mut(), more) {
        body.extend(more);
    }
    body
}

fn text(response: &Value) -> &Value {
    &response["output"][0]["content"][0]["text"]
}

#[tokio::test]
async fn answer_in_the_background_is_asked_for_later_and_gone_on_from() {
    let setup = Setup::with(CONFIG).await;
    setup.simulator.enqueue(reckons("6 * 7"));
    setup.simulator.enqueue(Reply::text("It is 42."));
    let first = call(&setup, "POST", "/v1/responses", ANN, Some(&asks(json!({})))).await;
    assert_eq!((first.status, &first.json()["status"]), (200, &json!("queued")));
    let run = first.header("x-tollway-run-id").expect("a run").to_owned();
    // The request ends when the response is there.
    setup.settled(&first).await;
    let path = format!("/v1/responses/{}", first.json()["id"].as_str().expect("an id"));
    let done = call(&setup, "GET", &path, ANN, None).await.json();
    assert_eq!(
        (&done["status"], text(&done)),
        (&json!("completed"), &json!("It is 42.")),
        "{done}"
    );
    assert_eq!((&done["id"], &done["background"]), (&first.json()["id"], &json!(true)));
    assert!(done["usage"]["output_tokens"].as_u64() > Some(0), "{done}");
    assert_eq!(call(&setup, "GET", &path, BOB, None).await.status, 404);
    let run = call(&setup, "GET", &format!("/agent/runs/{run}"), ANN, None).await.json();
    assert_eq!(run["status"], "completed");

    setup.simulator.enqueue(Reply::text("I said 42."));
    let on =
        json!({"model": "agent/reckoner", "input": "What?", "previous_response_id": done["id"]});
    let on = call(&setup, "POST", "/v1/responses", ANN, Some(&on)).await.json();
    assert_eq!(text(&on), "I said 42.", "{on}");
}

#[tokio::test]
async fn events_in_the_background_are_gone_on_with_behind_each() {
    let setup = Setup::with(CONFIG).await;
    setup.simulator.enqueue(reckons("6 * 7"));
    setup.simulator.enqueue(Reply::text("It is 42, as you know."));
    let body = asks(json!({"stream": true}));
    let first = call(&setup, "POST", "/v1/responses", ANN, Some(&body)).await;
    let all = first.text();
    let events = all.lines().filter_map(|line| line.strip_prefix("data: "));
    let events: Vec<Value> =
        events.map(|event| serde_json::from_str(event).expect("an event")).collect();
    let kinds: Vec<_> = events.iter().map(|event| event["type"].as_str()).collect();
    assert_eq!(kinds.first(), Some(&Some("response.created")), "{all}");
    assert_eq!(kinds.last(), Some(&Some("response.completed")), "{all}");
    let id = events[0]["response"]["id"].as_str().expect("an id");
    setup.settled(&first).await;
    for number in 0..events.len() {
        let path = format!("/v1/responses/{id}?stream=true&starting_after={number}");
        let tail = call(&setup, "GET", &path, ANN, None).await.text();
        assert!(all.ends_with(&tail) && tail.len() < all.len(), "{tail}");
        assert_eq!(tail.matches("data: ").count(), events.len() - number - 1);
    }
}

#[tokio::test]
async fn run_in_the_background_ends_where_its_response_is_cancelled() {
    let setup = Setup::with(CONFIG).await;
    setup.simulator.enqueue(Reply::hang());
    let first = call(&setup, "POST", "/v1/responses", ANN, Some(&asks(json!({})))).await;
    let run = format!("/agent/runs/{}", first.header("x-tollway-run-id").expect("a run"));
    let path = format!("/v1/responses/{}", first.json()["id"].as_str().expect("an id"));
    setup.simulator.next_request().await;
    assert_eq!(call(&setup, "GET", &path, ANN, None).await.json()["status"], "in_progress");
    assert_eq!(call(&setup, "GET", &run, ANN, None).await.json()["status"], "in_progress");
    let cancel = format!("{path}/cancel");
    assert_eq!(call(&setup, "POST", &cancel, BOB, None).await.status, 404);
    assert_eq!(call(&setup, "POST", &cancel, ANN, None).await.status, 200);
    setup.settled(&first).await;
    setup.simulator.next_cancelled().await;
    assert_eq!(call(&setup, "GET", &path, ANN, None).await.json()["status"], "cancelled");
    tollway_tests::setup::eventually("the run is cancelled", async || {
        call(&setup, "GET", &run, ANN, None).await.json()["status"] == "cancelled"
    })
    .await;
}

#[tokio::test]
async fn failure_in_the_background_is_told_by_the_response() {
    let setup = Setup::with(CONFIG).await;
    for (more, status) in [(json!({"store": false}), 400), (json!({"model": "agent/nobody"}), 404)]
    {
        let refused = call(&setup, "POST", "/v1/responses", ANN, Some(&asks(more))).await;
        assert_eq!(refused.status, status, "{}", refused.text());
    }
    setup.simulator.enqueue(Reply::error(400));
    let first = call(&setup, "POST", "/v1/responses", ANN, Some(&asks(json!({})))).await;
    setup.settled(&first).await;
    let path = format!("/v1/responses/{}", first.json()["id"].as_str().expect("an id"));
    let failed = call(&setup, "GET", &path, ANN, None).await.json();
    assert_eq!(failed["status"], "failed", "{failed}");
    assert!(failed["error"]["message"].is_string(), "{failed}");
}
