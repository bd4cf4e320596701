//! A client that leaves: its provider is told at once, and nothing stays behind. HTTP/2 clients
//! leave in `http2.rs`.

use std::time::Duration;

use tokio::time::Instant;
use tollway_simulator::{End, Reply};
use tollway_tests::gateway::{MASTER_KEY, PATIENCE};
use tollway_tests::servers::HandMade;
use tollway_tests::setup::within;
use tollway_tests::{Connection, Setup, chat, stream};

/// How soon a provider has to be told.
const PROMISED: Duration = Duration::from_millis(100);
/// And at the worst, on a machine that has other things to do as well.
const BUSY: Duration = Duration::from_secs(5);

/// The fastest of several cancellations keeps what is promised, and none takes for ever: what is
/// slow by design would be slow every time.
#[track_caller]
fn check_fast(times: &[Duration]) {
    let fastest = times.iter().min().expect("there are some");
    assert!(*fastest < PROMISED, "{times:?}");
    assert!(times.iter().all(|time| *time < BUSY), "{times:?}");
}

enum Leave {
    Close,
    Reset,
}

impl Leave {
    fn now(&self, connection: Connection) -> Instant {
        let at = Instant::now();
        match self {
            Leave::Close => drop(connection),
            Leave::Reset => connection.reset(),
        }
        at
    }
}

async fn check_cancelled(
    setup: &Setup,
    model: &str,
    streamed: bool,
    reply: impl Fn() -> Reply,
    leave: Leave,
) {
    let mut times = Vec::new();
    for _ in 0..5 {
        setup.simulator.enqueue(reply());
        let body = if streamed { stream(model, "Hi") } else { chat(model, "Hi") };
        let mut connection = setup.send_chat(MASTER_KEY, &body).await;
        let asked = setup.simulator.next_request().await;
        if streamed {
            connection.head().await;
            connection.next_event().await.expect("no end");
        }
        let left = leave.now(connection);
        let cancelled = setup.simulator.next_cancelled();
        let outcome = within(PATIENCE, "the upstream is told", cancelled).await;
        assert_eq!((outcome.id, outcome.end), (asked.id, End::ClientLeft));
        times.push(outcome.at - left);
    }
    check_fast(&times);
    setup.gateway.idle().await;
}

#[tokio::test]
async fn client_that_leaves_before_the_answer_cancels_the_upstream() {
    let setup = Setup::start().await;
    for model in ["gpt-4o-mini", "claude"] {
        check_cancelled(&setup, model, false, Reply::hang, Leave::Close).await;
        check_cancelled(&setup, model, false, Reply::hang, Leave::Reset).await;
    }
    // It was not retried either.
    assert_eq!(setup.asked().len(), 20);
}

#[tokio::test]
async fn client_that_leaves_in_the_middle_of_a_stream_cancels_the_upstream() {
    let setup = Setup::start().await;
    let silent = || Reply::text("one two").stall_after(1);
    let busy = || Reply::tokens(100_000).rate(500.0);
    for model in ["gpt-4o-mini", "claude"] {
        check_cancelled(&setup, model, true, silent, Leave::Close).await;
        check_cancelled(&setup, model, true, busy, Leave::Close).await;
        check_cancelled(&setup, model, true, busy, Leave::Reset).await;
    }
}

#[tokio::test]
async fn client_that_leaves_while_a_connection_is_made_ends_the_attempt() {
    // It takes connections and never says a word of TLS.
    let silent = HandMade::start().await;
    let config = format!(
        "
model_list:
  - model_name: far
    litellm_params: {{ model: openai/gpt-4o-mini, api_key: $KEY, api_base: 'https://{}/v1' }}
",
        silent.address
    );
    let setup = Setup::with(&config).await;
    let mut times = Vec::new();
    for _ in 0..5 {
        let connection = setup.send_chat(MASTER_KEY, &chat("far", "Hi")).await;
        let mut upstream = silent.accept().await;
        let left = Leave::Close.now(connection);
        let mut hello = Vec::new();
        let read = tokio::io::AsyncReadExt::read_to_end(&mut upstream, &mut hello);
        let _ = within(PATIENCE, "the attempt ends", read).await;
        times.push(left.elapsed());
    }
    check_fast(&times);
    setup.gateway.idle().await;
}

#[tokio::test]
async fn client_that_leaves_during_the_pause_before_a_retry_ends_it() {
    let rest = "router_settings: { num_retries: 5, retry_after: 300ms }";
    let setup = Setup::with(rest).await;
    let connection = setup.send_chat(MASTER_KEY, &chat("gpt-4o-mini", "[[sim status=500]]")).await;
    setup.simulator.next_request().await;
    drop(connection);
    setup.gateway.idle().await;
    // Without the client it would have been asked six times.
    assert!(setup.asked().len() <= 2, "{}", setup.asked().len());
}

#[tokio::test]
async fn client_that_leaves_before_its_body_is_whole_costs_no_call() {
    let setup = Setup::start().await;
    for _ in 0..5 {
        let mut connection = Connection::open(setup.gateway.address).await;
        let head = format!(
            "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {MASTER_KEY}\
             \r\ncontent-length: 1000\r\n\r\n{{\"model\": \"gpt-4o-mini\""
        );
        connection.write(head.as_bytes()).await;
        drop(connection);
    }
    setup.gateway.idle().await;
    assert!(setup.asked().is_empty());
}

#[tokio::test]
async fn places_of_parallel_limits_are_given_back() {
    let config = "
keys:
  - { alias: one, key: sk-one-000000001, max_parallel_requests: 1 }
";
    let setup = Setup::with(config).await;
    let key = "sk-one-000000001";
    for streamed in [false, true] {
        for _ in 0..3 {
            setup.simulator.enqueue(match streamed {
                true => Reply::text("one two").stall_after(1),
                false => Reply::hang(),
            });
            let body = if streamed { stream("claude", "Hi") } else { chat("claude", "Hi") };
            let mut connection = setup.send_chat(key, &body).await;
            setup.simulator.next_request().await;
            if streamed {
                connection.head().await;
            }
            let refused = setup.chat_as(key, &chat("claude", "Hi")).await;
            assert_eq!(refused.status, 429, "the place is taken");
            drop(connection);
            setup.simulator.next_cancelled().await;
            setup.gateway.idle().await;
            let response = setup.chat_as(key, &chat("claude", "Hi")).await;
            assert_eq!(response.status, 200, "the place is free again: {}", response.text());
            setup.simulator.next_request().await;
            setup.settled(&response).await;
        }
    }
}

#[tokio::test]
async fn cancelled_call_is_logged_and_what_was_used_is_metered() {
    let setup = Setup::start().await;
    setup.simulator.enqueue(Reply::text("one two three").stall_after(2));
    let mut body = stream("claude", "Hi");
    body["user"] = "someone".into();
    let mut connection = Connection::open(setup.gateway.address).await;
    let id = [("x-litellm-call-id", "cancelled-1")];
    let body = body.to_string();
    connection.request("POST", "/v1/chat/completions", &id, body.as_bytes()).await;
    connection.head().await;
    while !connection.next_event().await.expect("no end").contains("two") {}
    drop(connection);
    let line = setup.log_line("cancelled-1").await;
    assert_eq!(line["outcome"], "client_gone");
    // Anthropic tells the prompt's tokens at the beginning.
    assert_eq!(line["prompt_tokens"], setup.simulator.billed().prompt_tokens);
    let label = ["route=\"/v1/chat/completions\""];
    let total = "litellm_proxy_total_requests_metric_total";
    setup.gateway.metric_becomes(total, &label, |count| count == 1.0).await;
}

#[tokio::test]
async fn hundred_clients_that_leave_leave_nothing_behind() {
    let setup = Setup::start().await;
    setup.chat(&chat("gpt-4o-mini", "Hi")).await;
    for _ in 0..100 {
        setup.simulator.enqueue(Reply::text("one two").stall_after(1));
    }
    let mut connections = Vec::new();
    for _ in 0..100 {
        connections.push(setup.send_chat(MASTER_KEY, &stream("claude", "Hi")).await);
    }
    for connection in &mut connections {
        connection.head().await;
    }
    drop(connections);
    for _ in 0..100 {
        within(PATIENCE, "all are cancelled", setup.simulator.next_cancelled()).await;
    }
    setup.gateway.idle().await;
    let left = setup.simulator.wait_connections(|now| now.open <= 1);
    within(PATIENCE, "connections are closed", left).await;
}
