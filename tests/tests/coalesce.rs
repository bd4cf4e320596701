//! Requests that are the same and come at once share one upstream call: who gets what, who pays,
//! and what becomes of it when some of them, or all, leave.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tollway_simulator::{End, Reply};
use tollway_tests::dialects::Client;
use tollway_tests::gateway::{MASTER_KEY, PATIENCE};
use tollway_tests::setup::within;
use tollway_tests::{Connection, Response, Setup, chat, post_with, stream};

const SHARED: &str = "
litellm_settings: { cache: true }
router_settings: { num_retries: 0, model_group_alias: { quick: gpt-4o-mini } }
keys:
  - { alias: anna, key: sk-anna-00000001, user: anna }
  - { alias: ben, key: sk-ben-000000001, user: ben }
";
const ANNA: &str = "sk-anna-00000001";
const BEN: &str = "sk-ben-000000001";
const OUTPUT: &str = "litellm_output_tokens_metric_total";
const INPUT: &str = "litellm_input_tokens_metric_total";

/// Each one pays.
fn each_pays() -> String {
    format!(
        "{SHARED}
filters:
  - request_log
  - usage
  - auth
  - validate
  - model_alias
  - filter: response_cache
    coalesce_metering: each
"
    )
}

/// Sends the same request `count` times; all of them are in flight when this returns, and the
/// upstream has the first one.
async fn send_all(setup: &Setup, count: usize, body: &Value) -> Vec<Connection> {
    let before = setup.asked().len();
    let mut connections = vec![setup.send_chat(ANNA, body).await];
    setup.simulator.wait_for(|_| setup.asked().len() > before).await;
    for _ in 1..count {
        connections.push(setup.send_chat(ANNA, body).await);
    }
    // The request that asks is one of them.
    let all = (count + 1) as f64;
    setup.gateway.metric_becomes("litellm_in_flight_requests", &[], |now| now >= all).await;
    connections
}

async fn answers(connections: Vec<Connection>) -> Vec<Response> {
    let mut answers = Vec::new();
    for mut connection in connections {
        answers.push(connection.response().await);
    }
    answers
}

async fn begin(setup: &Setup, body: &Value) -> Connection {
    let mut connection = setup.send_chat(ANNA, body).await;
    assert_eq!(connection.head().await.0, 200);
    connection.next_event().await.expect("a first event");
    connection
}

#[tokio::test]
async fn hundred_streams_within_a_second_are_one_call() {
    let setup = Arc::new(Setup::with(SHARED).await);
    let body = stream("gpt-4o-mini", "[[sim tokens=30 rate=15]]");
    let mut pace = tokio::time::interval(Duration::from_millis(10));
    let mut tasks = Vec::new();
    for _ in 0..100 {
        pace.tick().await;
        let (setup, body) = (Arc::clone(&setup), body.clone());
        tasks.push(tokio::spawn(async move { setup.chat_as(ANNA, &body).await }));
    }
    let mut first: Option<Response> = None;
    for task in tasks {
        let response = task.await.expect("no request panics");
        assert_eq!(response.status, 200, "{}", response.text());
        let seen = Client::Chat.read(&response.text());
        assert!(Client::Chat.is_complete(&seen), "{}", response.text());
        assert_eq!(seen.pieces, 30);
        let first = first.get_or_insert_with(|| response.clone());
        assert_eq!(response.text(), first.text());
    }
    assert_eq!(setup.asked().len(), 1);
    setup.gateway.idle().await;
    assert_eq!(setup.gateway.metric(OUTPUT, &[]).await, 30.0);
}

#[tokio::test]
async fn whole_answers_are_shared_as_well() {
    let setup = Setup::with(SHARED).await;
    let body = chat("claude", "[[sim tokens=30 first_byte_delay=1s]]");
    let answers = answers(send_all(&setup, 20, &body).await).await;
    for response in &answers {
        assert_eq!(response.status, 200, "{}", response.text());
        assert_eq!(response.text(), answers[0].text());
    }
    assert_eq!(setup.asked().len(), 1);
    setup.gateway.idle().await;
    let bill = setup.simulator.billed();
    assert_eq!(setup.gateway.metric(OUTPUT, &[]).await as u64, bill.completion_tokens);
    assert_eq!(setup.gateway.metric(INPUT, &[]).await as u64, bill.prompt_tokens);
}

#[tokio::test]
async fn one_request_pays_or_each() {
    for (config, pays) in [(SHARED.to_owned(), 1), (each_pays(), 10)] {
        for streamed in [true, false] {
            let setup = Setup::with(&config).await;
            let mut body = chat("gpt-4o-mini", "[[sim tokens=30 first_byte_delay=1s]]");
            body["stream"] = streamed.into();
            for response in answers(send_all(&setup, 10, &body).await).await {
                assert_eq!(response.status, 200, "{}", response.text());
            }
            setup.gateway.idle().await;
            let bill = setup.simulator.billed();
            assert_eq!(bill.requests, 1);
            let (input, output) = (
                setup.gateway.metric(INPUT, &[]).await as u64,
                setup.gateway.metric(OUTPUT, &[]).await as u64,
            );
            let expect = (bill.prompt_tokens * pays, bill.completion_tokens * pays);
            assert_eq!((input, output), expect, "{streamed} {pays}");
            let spend = setup.gateway.metric("litellm_spend_metric_total", &[]).await;
            let expect = (input as f64 * 0.15 + output as f64 * 0.60) / 1e6;
            assert!((spend - expect).abs() < 1e-12, "{spend} and not {expect}");
        }
    }
}

#[tokio::test]
async fn call_goes_on_for_the_others_when_the_first_one_leaves() {
    for config in [SHARED.to_owned(), each_pays()] {
        let setup = Setup::with(&config).await;
        let body = stream("gpt-4o-mini", "[[sim tokens=30 rate=20]]");
        let leader = begin(&setup, &body).await;
        let mut followers = Vec::new();
        for _ in 0..5 {
            followers.push(setup.send_chat(ANNA, &body).await);
        }
        for follower in &mut followers {
            assert_eq!(follower.head().await.0, 200);
        }
        leader.reset();
        for follower in &mut followers {
            let mut text = String::new();
            while let Some(chunk) = follower.chunk().await {
                text.push_str(&String::from_utf8_lossy(&chunk));
            }
            let seen = Client::Chat.read(&text);
            assert!(Client::Chat.is_complete(&seen), "{text}");
            assert_eq!(seen.pieces, 30, "{text}");
        }
        let asked = setup.asked();
        assert_eq!(asked.len(), 1);
        assert_eq!(setup.simulator.outcome(asked[0].id).await.end, End::Complete);
        setup.gateway.idle().await;
        let metered = setup.gateway.metric(OUTPUT, &[]).await;
        if config == SHARED {
            assert_eq!(metered, 30.0, "exactly one pays");
        } else {
            // And the one that left for what it had been sent.
            assert!((151.0..=180.0).contains(&metered), "{metered}");
        }
    }
}

#[tokio::test]
async fn first_one_leaves_before_the_answer_begins() {
    let setup = Setup::with(SHARED).await;
    for streamed in [true, false] {
        let said = format!("[[sim tokens=30 first_byte_delay=1s]] {streamed}");
        let mut body = chat("gpt-4o-mini", &said);
        body["stream"] = streamed.into();
        let before = setup.asked().len();
        let mut connections = send_all(&setup, 4, &body).await;
        connections.remove(0).reset();
        for response in answers(connections).await {
            assert_eq!(response.status, 200, "{}", response.text());
            if streamed {
                let seen = Client::Chat.read(&response.text());
                assert!(Client::Chat.is_complete(&seen), "{}", response.text());
            }
        }
        assert_eq!(setup.asked().len() - before, 1);
    }
    setup.gateway.idle().await;
    assert_eq!(setup.gateway.metric(OUTPUT, &[]).await, 60.0);
}

#[tokio::test]
async fn call_is_cancelled_when_all_have_left_and_what_came_is_paid() {
    for config in [SHARED.to_owned(), each_pays()] {
        // The one that leads leaves first, or last.
        for leader_first in [true, false] {
            let setup = Setup::with(&config).await;
            let body = stream("gpt-4o-mini", "[[sim tokens=10000 rate=50]]");
            let mut connections = vec![begin(&setup, &body).await];
            for _ in 0..3 {
                connections.push(begin(&setup, &body).await);
            }
            for connection in &mut connections {
                connection.next_event().await.expect("it goes on");
            }
            if !leader_first {
                connections.reverse();
            }
            for connection in connections {
                connection.reset();
            }
            let cancelled = setup.simulator.next_cancelled();
            within(PATIENCE, "the call is cancelled", cancelled).await;
            assert_eq!(setup.asked().len(), 1);
            setup.gateway.idle().await;
            let metered = setup.gateway.metric(OUTPUT, &[]).await;
            assert!(metered >= 1.0, "{leader_first}: nobody pays");
            assert!(setup.gateway.metric(INPUT, &[]).await >= 1.0, "{leader_first}");
            let billed = setup.simulator.billed().completion_tokens as f64;
            let most = if config == SHARED { billed + 2.0 } else { 4.0 * billed + 8.0 };
            assert!(metered <= most, "{leader_first}: {metered} of {billed}");
        }
    }
}

#[tokio::test]
async fn client_that_does_not_read_holds_up_none_of_the_others() {
    let setup = Setup::with(SHARED).await;
    // More than sockets hold.
    let body = stream("gpt-4o-mini", "[[sim tokens=100000 rate=1000000]]");
    let mut leader = setup.send_chat(ANNA, &body).await;
    assert_eq!(leader.head().await.0, 200);
    let mut follower = setup.send_chat(ANNA, &body).await;
    assert_eq!(follower.head().await.0, 200);
    for connection in [&mut follower, &mut leader] {
        let mut text = String::new();
        while let Some(chunk) = connection.chunk().await {
            text.push_str(&String::from_utf8_lossy(&chunk));
        }
        let seen = Client::Chat.read(&text);
        assert!(Client::Chat.is_complete(&seen), "{} bytes", text.len());
        assert_eq!(seen.pieces, 100_000);
    }
    assert_eq!(setup.asked().len(), 1);
    setup.gateway.idle().await;
    assert_eq!(setup.gateway.metric(OUTPUT, &[]).await, 100_000.0);
}

#[tokio::test]
async fn other_tenants_names_and_forms_do_not_share() {
    let setup = Setup::with(SHARED).await;
    let said = "[[sim tokens=10 first_byte_delay=1s]]";
    let body = stream("gpt-4o-mini", said);
    let mut with_usage = body.clone();
    with_usage["stream_options"] = json!({"include_usage": true});
    let sent = [
        (ANNA, body.clone(), "gpt-4o-mini"),
        (BEN, body.clone(), "gpt-4o-mini"),
        (MASTER_KEY, body, "gpt-4o-mini"),
        (ANNA, stream("quick", said), "quick"),
        (ANNA, stream("fast", said), "fast"),
        (ANNA, with_usage, "gpt-4o-mini"),
        (ANNA, chat("gpt-4o-mini", said), "gpt-4o-mini"),
    ];
    let mut connections = Vec::new();
    for (key, body, _) in &sent {
        connections.push(setup.send_chat(key, body).await);
    }
    for (response, (key, body, name)) in answers(connections).await.iter().zip(&sent) {
        assert_eq!(response.status, 200, "{}", response.text());
        let is_stream = body["stream"] == true;
        assert_eq!(response.text().starts_with("data: "), is_stream, "{key} {body}");
        assert!(response.text().contains(&format!("\"model\":\"{name}\"")), "{}", response.text());
        let has_usage = response.text().contains("\"prompt_tokens\"");
        let wants_usage = !is_stream || body.get("stream_options").is_some();
        assert_eq!(has_usage, wants_usage, "{body}: {}", response.text());
    }
    assert_eq!(setup.asked().len(), sent.len());
}

#[tokio::test]
async fn requests_with_other_betas_do_not_share() {
    let setup = Setup::with(SHARED).await;
    let body = Client::Messages.body("claude", "[[sim tokens=10 first_byte_delay=1s]]", true);
    let address = setup.gateway.address;
    let ask = |beta: &'static str| {
        let body = &body;
        async move { post_with(address, "/v1/messages", &[("anthropic-beta", beta)], body).await }
    };
    let (one, other) =
        tokio::join!(ask("context-1m-2025-08-07"), ask("interleaved-thinking-2025-05-14"));
    assert_eq!((one.status, other.status), (200, 200), "{} {}", one.text(), other.text());
    let mut betas: Vec<_> = setup
        .asked()
        .iter()
        .map(|asked| asked.header("anthropic-beta").unwrap_or_default().to_owned())
        .collect();
    betas.sort();
    assert_eq!(betas, ["context-1m-2025-08-07", "interleaved-thinking-2025-05-14"]);
}

#[tokio::test]
async fn failure_before_the_answer_is_told_to_all() {
    let setup = Setup::with(SHARED).await;
    for (said, status) in [
        ("[[sim status=400 message=No code=odd first_byte_delay=1s]]", 400),
        ("[[sim status=500 message=No first_byte_delay=1s]]", 500),
        ("[[sim status=429 retry_after=60 message=No first_byte_delay=1s]]", 429),
    ] {
        let before = setup.asked().len();
        let answers = answers(send_all(&setup, 5, &stream("gpt-4o-mini", said)).await).await;
        for response in &answers {
            assert_eq!(response.status, status, "{}", response.text());
            assert_eq!(response.text(), answers[0].text());
            assert_eq!(response.header("retry-after"), answers[0].header("retry-after"));
        }
        assert_eq!(setup.asked().len() - before, 1, "{said}");
        // It is not kept: who asks now asks anew.
        setup.gateway.idle().await;
        assert_eq!(setup.chat_as(ANNA, &stream("gpt-4o-mini", said)).await.status, status);
        assert_eq!(setup.asked().len() - before, 2, "{said}");
    }
    assert_eq!(setup.gateway.metric(OUTPUT, &[]).await, 0.0);
}

#[tokio::test]
async fn retry_of_the_call_serves_all() {
    let setup = Setup::with(&SHARED.replace("num_retries: 0", "num_retries: 1")).await;
    let fault: Reply = "status=500 first_byte_delay=1s".parse().expect("it parses");
    setup.simulator.enqueue(fault);
    setup.simulator.enqueue(Reply::text("second"));
    for response in answers(send_all(&setup, 5, &stream("gpt-4o-mini", "Hi")).await).await {
        assert_eq!(response.status, 200, "{}", response.text());
        assert_eq!(Client::Chat.read(&response.text()).text, "second");
    }
    assert_eq!(setup.asked().len(), 2);
}

#[tokio::test]
async fn stream_that_breaks_breaks_for_all() {
    let setup = Setup::with(SHARED).await;
    for (model, client) in [("gpt-4o-mini", Client::Chat), ("claude", Client::Chat)] {
        let body = stream(model, "[[sim tokens=30 cut_after=10 first_byte_delay=1s]]");
        let before = setup.asked().len();
        for response in answers(send_all(&setup, 5, &body).await).await {
            assert_eq!(response.status, 200);
            let seen = client.read(&response.text());
            assert_eq!((seen.pieces, seen.errors.len()), (10, 1), "{}", response.text());
            assert!(seen.error_is_last && seen.ends.is_empty(), "{}", response.text());
        }
        assert_eq!(setup.asked().len() - before, 1);
    }
    setup.gateway.idle().await;
    let metered = setup.gateway.metric(OUTPUT, &[]).await;
    assert!((20.0..=28.0).contains(&metered), "one request of each five pays: {metered}");
}

#[tokio::test]
async fn other_dialects_share_unless_the_answer_is_kept_under_an_id() {
    let setup = Setup::with(SHARED).await;
    for (client, model, calls) in [
        (Client::Messages, "gpt-4o-mini", 1),
        (Client::Responses, "claude", 5),
        (Client::Gemini, "claude", 1),
    ] {
        let body = client.body(model, "[[sim tokens=30 first_byte_delay=1s]]", true).to_string();
        let before = setup.asked().len();
        let mut connections = Vec::new();
        for _ in 0..5 {
            let mut connection = Connection::open(setup.gateway.address).await;
            connection.request("POST", &client.path(model, true), &[], body.as_bytes()).await;
            connections.push(connection);
        }
        for response in answers(connections).await {
            let seen = client.read(&response.text());
            assert!(client.is_complete(&seen), "{client:?}: {}", response.text());
        }
        assert_eq!(setup.asked().len() - before, calls, "{client:?}");
    }
}
