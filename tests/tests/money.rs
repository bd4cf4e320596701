//! Money is exact, under everything that can go wrong. The same at full size: `bench/money.sh`.

use std::os::unix::fs::DirBuilderExt;

use serde_json::{Value, json};
use tollway_simulator::Reply;
use tollway_tests::gateway::{Folder, PATIENCE, run};
use tollway_tests::proof::{kill, mixed, tell};
use tollway_tests::setup::{eventually, within};
use tollway_tests::{Setup, chat, post, stream};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ledger_is_the_providers_own_sum_to_the_pico_dollar() {
    let report = mixed::prove(16, 1_600).await;
    assert!(report.wrong.is_empty(), "{report:#?}");
    assert_eq!(report.refused, 0, "nobody was refused whose budget sufficed");
    assert!(report.billed > 1_000 && report.cut > 100, "{report:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_gateway_has_charged_every_token_that_a_client_read_and_none_twice() {
    let report = kill::prove(3, 12).await;
    tell(&format!("ready {:?} after a start, at most", report.ready));
    assert!(report.wrong.is_empty(), "{report:#?}");
    assert!(report.open > 0 && report.delivered > 1_000, "{report:?}");
}

/// A key that the gateway has made.
async fn generated(setup: &Setup, body: &Value) -> String {
    let made = post(setup.gateway.address, "/key/generate", body).await;
    assert_eq!(made.status, 200, "{}", made.text());
    made.json()["key"].as_str().expect("a key").to_owned()
}

/// The ledger's line of a call, once it is there.
async fn line(setup: &Setup, id: &str) -> Value {
    let mut rows = json!([]);
    eventually("the call is in the ledger", async || {
        rows = setup.get(&format!("/spend/logs?request_id={id}")).await.json();
        rows != json!([])
    })
    .await;
    rows[0].clone()
}

#[tokio::test]
async fn stream_of_a_key_that_is_deleted_goes_on_and_is_charged() {
    let setup = Setup::start().await;
    let key = generated(&setup, &json!({"max_budget": 1})).await;
    let body = stream("gpt-4o-mini", "[[sim tokens=40 rate=100]]");
    let mut connection = setup.send_chat(&key, &body).await;
    let (status, headers) = connection.head().await;
    assert_eq!(status, 200);
    connection.next_event().await.expect("it has begun");
    let deleted = post(setup.gateway.address, "/key/delete", &json!({"keys": [key]})).await;
    assert_eq!(deleted.status, 200, "{}", deleted.text());
    assert_eq!(setup.chat_as(&key, &chat("gpt-4o-mini", "Hi")).await.status, 401);
    let mut last = String::new();
    while let Some(event) = connection.next_event().await {
        last = event;
    }
    assert_eq!(last, "[DONE]", "what was begun is not broken off");
    let id = headers.into_iter().find(|(name, _)| name == "x-litellm-call-id");
    let row = line(&setup, &id.expect("answers have an id").1).await;
    assert_eq!(row["completion_tokens"], 40, "{row}");
    assert!(row["spend"].as_f64().is_some_and(|spend| spend > 40.0 * 6e-7), "{row}");
}

#[tokio::test]
async fn budget_that_is_lowered_below_what_is_spent_is_over() {
    let setup = Setup::start().await;
    let key = generated(&setup, &json!({"max_budget": 1})).await;
    let body = chat("gpt-4o-mini", "[[sim tokens=40]]");
    let first = setup.chat_as(&key, &body).await;
    assert_eq!(first.status, 200, "{}", first.text());
    setup.settled(&first).await;
    let lower = json!({"key": key, "max_budget": 0.00001});
    let updated = post(setup.gateway.address, "/key/update", &lower).await;
    assert_eq!(updated.status, 200, "{}", updated.text());
    let refused = setup.chat_as(&key, &body).await;
    assert_eq!((refused.status, refused.error("type")), (422, json!("budget_exceeded")));
    let higher = json!({"key": key, "max_budget": 1});
    post(setup.gateway.address, "/key/update", &higher).await;
    assert_eq!(setup.chat_as(&key, &body).await.status, 200, "and so is its end");
}

#[tokio::test]
async fn damaged_database_is_said_at_the_start() {
    let folder = Folder::fresh();
    let mut data = std::fs::DirBuilder::new();
    data.mode(0o700).create(folder.0.join("tollway-data")).expect("a folder");
    folder.write("tollway-data/tollway.db", &"this is no database\n".repeat(500));
    let args = ["serve", "--listen", "127.0.0.1:0"];
    let ended = within(PATIENCE, "it ends", run(&folder.0, &[], &args)).await;
    assert!(!ended.success);
    assert!(ended.stderr.contains("tollway.db: "), "{}", ended.stderr);
    assert!(ended.stderr.contains("not a database"), "{}", ended.stderr);
}

const TIERS: &str = "
model_list:
  - model_name: gpt-5
    litellm_params: { model: openai/gpt-5, api_key: $KEY, api_base: $SIM/v1 }
  - model_name: opus
    litellm_params: { model: anthropic/claude-opus-4-8, api_key: $KEY, api_base: $SIM }
";

/// What the ledger has of a call, in millionths of a dollar.
async fn billed(setup: &Setup, body: &Value) -> f64 {
    let answer = setup.chat(body).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let id = answer.header("x-litellm-call-id").expect("answers have an id").to_owned();
    let spend = line(setup, &id).await["spend"].as_f64().expect("a number");
    (spend * 1e9).round() / 1e3
}

#[tokio::test]
async fn tier_that_the_provider_says_it_served_is_what_is_billed() {
    let setup = Setup::with(TIERS).await;
    let usage = json!({"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110});
    // gpt-5: 1.25 and 10 dollars a million; half of it in flex, twice as much in priority.
    for (asked, served, expect) in [
        (json!("priority"), json!("default"), 225.0),
        (json!("priority"), json!("priority"), 450.0),
        (json!("priority"), Value::Null, 450.0),
        (json!("auto"), json!("flex"), 112.5),
    ] {
        let message = json!({"role": "assistant", "content": "Hi", "service_tier": "flex"});
        let choice = json!({"index": 0, "message": message, "finish_reason": "stop"});
        let whole = json!({"id": "chatcmpl-1", "object": "chat.completion", "created": 1,
            "model": "gpt-5", "choices": [choice], "usage": usage, "service_tier": served});
        setup.simulator.enqueue(Reply::json(200, &whole));
        let mut body = chat("gpt-5", "Hi");
        body["service_tier"] = asked.clone();
        assert_eq!(billed(&setup, &body).await, expect, "{asked} {served}, whole");

        let chunk = |choices: Value, usage: &Value| {
            let chunk = json!({"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1,
                "model": "gpt-5", "service_tier": served, "choices": choices, "usage": usage});
            format!("data: {chunk}\n\n")
        };
        let delta = json!([{"index": 0, "delta": {"content": "Hi"}, "finish_reason": "stop"}]);
        setup.simulator.enqueue(Reply::events([
            chunk(delta, &Value::Null),
            chunk(json!([]), &usage),
            "data: [DONE]\n\n".to_owned(),
        ]));
        body["stream"] = true.into();
        assert_eq!(billed(&setup, &body).await, expect, "{asked} {served}, streamed");
    }
    // 5 and 25 dollars a million; twice as much in fast mode, and a tenth more in the United States.
    for (said, expect) in [
        (json!({"speed": "standard", "inference_geo": "global"}), 750.0),
        (json!({"speed": "fast", "inference_geo": "us"}), 1650.0),
        (json!({"inference_geo": "us", "service_tier": "standard"}), 825.0),
    ] {
        let mut usage = json!({"input_tokens": 100, "output_tokens": 10});
        usage.as_object_mut().expect("a map").extend(said.as_object().expect("a map").clone());
        let whole = json!({"id": "msg_1", "type": "message", "role": "assistant", "model": "opus",
            "content": [{"type": "text", "text": "Hi"}], "stop_reason": "end_turn", "usage": usage});
        setup.simulator.enqueue(Reply::json(200, &whole));
        assert_eq!(billed(&setup, &chat("opus", "Hi")).await, expect, "{said}");
    }
}
