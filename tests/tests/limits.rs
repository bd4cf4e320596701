//! Limits: never more than N, counted for whom they are meant, and told in the headers. That a
//! window slides over any 60 seconds is shown beside the code, where a test has the clock.

use std::time::Duration;

use serde_json::json;
use tokio::task::JoinSet;
use tollway_simulator::Reply;
use tollway_tests::gateway::MASTER_KEY;
use tollway_tests::setup::filters_with_limits;
use tollway_tests::{Response, Setup, chat, post_with, stream};

const KEYS: &str = "
keys:
  - { alias: five, key: sk-five-00000001, rpm: 5 }
  - { alias: tokens, key: sk-tokens-000001, tpm: 1000 }
  - { alias: one, key: sk-one-000000001, max_parallel_requests: 1 }
  - { alias: anna-1, key: sk-anna-00000001, user: anna }
  - { alias: anna-2, key: sk-anna-00000002, user: anna }
  - { alias: ben, key: sk-ben-000000001, user: ben }
  - { alias: per-model, key: sk-per-model-001, model_rpm_limit: { claude: 2 } }
";

/// Sends so many at once; the answers.
async fn burst(setup: &Setup, count: usize, key: &str, model: &str) -> Vec<Response> {
    let mut calls = JoinSet::new();
    let address = setup.gateway.address;
    for _ in 0..count {
        let (bearer, body) = (format!("Bearer {key}"), chat(model, "Hi"));
        calls.spawn(async move {
            let headers = [("authorization", bearer.as_str())];
            post_with(address, "/v1/chat/completions", &headers, &body).await
        });
    }
    calls.join_all().await
}

fn answered(responses: &[Response]) -> usize {
    responses.iter().filter(|response| response.status == 200).count()
}

#[track_caller]
fn check_refused(response: &Response, scope: &str, kind: &str) {
    assert_eq!(response.status, 429, "{}", response.text());
    assert_eq!(response.error("type"), "rate_limit_error");
    assert_eq!(response.error("code"), "rate_limit_exceeded");
    let message = response.error("message").as_str().expect("a text").to_owned();
    let start = format!("Rate limit exceeded for {scope}: ");
    assert!(message.starts_with(&start), "{message}");
    assert!(message.contains(&format!("Limit type: {kind}. Current limit: ")), "{message}");
    assert!(message.contains("Limit resets at: 20") && message.contains(" UTC"), "{message}");
    let after: u64 = response.header("retry-after").and_then(|n| n.parse().ok()).expect("a number");
    // Counted in whole seconds, of which the window's first and last may be parts.
    assert!((1..=61).contains(&after), "{after}");
    assert_eq!(response.header("rate_limit_type"), Some(kind));
    assert!(response.header("reset_at").is_some_and(|at| at.ends_with(" UTC")));
    assert_eq!(response.header("x-litellm-response-cost"), Some("0"));
}

#[tokio::test]
async fn burst_gets_exactly_as_many_answers_as_the_key_may_have() {
    let setup = Setup::with(KEYS).await;
    let responses = burst(&setup, 30, "sk-five-00000001", "gpt-4o-mini").await;
    assert_eq!(answered(&responses), 5);
    assert_eq!(setup.asked().len(), 5);
    let refused: Vec<_> = responses.iter().filter(|response| response.status != 200).collect();
    for response in &refused {
        check_refused(response, "api_key", "requests");
        assert_eq!(response.header("x-ratelimit-limit-requests"), Some("5"));
        assert_eq!(response.header("x-ratelimit-remaining-requests"), Some("0"));
    }
    let mut remaining: Vec<_> = responses
        .iter()
        .filter(|response| response.status == 200)
        .map(|response| response.header("x-ratelimit-remaining-requests").expect("a number"))
        .collect();
    remaining.sort_unstable();
    assert_eq!(remaining, ["0", "1", "2", "3", "4"]);
}

#[tokio::test]
async fn refused_request_names_no_key() {
    let setup = Setup::with(KEYS).await;
    for response in burst(&setup, 6, "sk-five-00000001", "gpt-4o-mini").await {
        assert!(!response.text().contains("sk-five"), "{}", response.text());
    }
}

#[tokio::test]
async fn bad_request_counts_and_other_keys_do_not_share() {
    let setup = Setup::with(KEYS).await;
    for _ in 0..5 {
        let response = setup.chat_as("sk-five-00000001", &json!({"model": "gpt-4o-mini"})).await;
        assert_eq!(response.status, 400);
    }
    let refused = setup.chat_as("sk-five-00000001", &chat("gpt-4o-mini", "Hi")).await;
    check_refused(&refused, "api_key", "requests");
    for key in ["sk-ben-000000001", MASTER_KEY] {
        assert_eq!(setup.chat_as(key, &chat("gpt-4o-mini", "Hi")).await.status, 200);
    }
    // What is no model call does not count at all.
    let bearer = [("authorization", "Bearer sk-five-00000001")];
    let models = tollway_tests::get(setup.gateway.address, "/v1/models", &bearer).await;
    assert_eq!(models.status, 200);
}

#[tokio::test]
async fn tokens_are_reserved_and_then_settled_by_what_was_used() {
    let setup = Setup::with(KEYS).await;
    let key = "sk-tokens-000001";
    let mut body = stream("claude", "Hi");
    body["max_tokens"] = 600.into();
    setup.simulator.enqueue(Reply::text("one two").usage(20, 30).stall_after(1));
    let mut first = setup.send_chat(key, &body).await;
    let (status, headers) = first.head().await;
    assert_eq!(status, 200);
    let left = headers.iter().find(|(name, _)| name == "x-ratelimit-remaining-tokens");
    let left: u64 = left.and_then(|(_, n)| n.parse().ok()).expect("a number");
    assert!((300..400).contains(&left), "reserved: {left} left of 1000");
    // While it runs, nobody knows what it will use: a second one of that size does not fit.
    body["stream"] = false.into();
    let refused = setup.chat_as(key, &body).await;
    check_refused(&refused, "api_key", "tokens");
    assert_eq!(refused.header("x-ratelimit-limit-tokens"), Some("1000"));
    // A small one does, and so do those of others.
    body["max_tokens"] = 10.into();
    setup.simulator.enqueue(Reply::text("ok").usage(5, 2));
    let small = setup.chat_as(key, &body).await;
    assert_eq!(small.status, 200, "{}", small.text());
    setup.settled(&small).await;
    drop(first);
    setup.gateway.idle().await;
}

#[tokio::test]
async fn settled_tokens_leave_room_for_the_next_call() {
    let setup = Setup::with(KEYS).await;
    let mut body = chat("gpt-4o-mini", "Hi");
    body["max_tokens"] = 900.into();
    for round in 1..=4 {
        setup.simulator.enqueue(Reply::text("ok").usage(10, 10));
        let response = setup.chat_as("sk-tokens-000001", &body).await;
        assert_eq!(response.status, 200, "round {round}: {}", response.text());
        setup.settled(&response).await;
    }
    // 80 are used. What is used stays used.
    body["max_tokens"] = 910.into();
    setup.simulator.enqueue(Reply::text("ok").usage(500, 410));
    let response = setup.chat_as("sk-tokens-000001", &body).await;
    assert_eq!(response.status, 200, "{}", response.text());
    setup.settled(&response).await;
    body["max_tokens"] = 50.into();
    let refused = setup.chat_as("sk-tokens-000001", &body).await;
    check_refused(&refused, "api_key", "tokens");
}

#[tokio::test]
async fn request_that_can_never_fit_is_told_so() {
    let setup = Setup::with(KEYS).await;
    let mut body = chat("gpt-4o-mini", "Hi");
    body["max_tokens"] = 5000.into();
    let refused = setup.chat_as("sk-tokens-000001", &body).await;
    assert_eq!(refused.status, 429);
    assert!(refused.text().contains("never fits"), "{}", refused.text());
    assert!(setup.asked().is_empty());
}

#[tokio::test]
async fn failed_call_uses_no_tokens() {
    let setup = Setup::with(&format!("router_settings: {{ num_retries: 0 }}\n{KEYS}")).await;
    let mut body = chat("gpt-4o-mini", "[[sim status=500]]");
    body["max_tokens"] = 900.into();
    for _ in 0..4 {
        let response = setup.chat_as("sk-tokens-000001", &body).await;
        assert_eq!(response.status, 500, "{}", response.text());
        setup.settled(&response).await;
    }
}

#[tokio::test]
async fn parallel_requests_are_counted_while_they_run() {
    let setup = Setup::with(KEYS).await;
    let key = "sk-one-000000001";
    setup.simulator.enqueue(Reply::tokens(3).stall_after(1));
    let mut first = setup.send_chat(key, &stream("gpt-4o-mini", "Hi")).await;
    first.head().await;
    let refused = setup.chat_as(key, &chat("gpt-4o-mini", "Hi")).await;
    assert_eq!(refused.status, 429);
    assert_eq!(refused.header("rate_limit_type"), Some("max_parallel_requests"));
    let header = "x-ratelimit-api_key-remaining-max_parallel_requests";
    assert_eq!(refused.header(header), Some("0"));
    drop(first);
    setup.gateway.idle().await;
    for _ in 0..3 {
        let response = setup.chat_as(key, &chat("gpt-4o-mini", "Hi")).await;
        assert_eq!(response.status, 200, "{}", response.text());
        setup.settled(&response).await;
    }
}

#[tokio::test]
async fn address_may_send_so_many_a_second() {
    let limits = "per_address: { requests_per_second: 1, burst: 3 }";
    let setup = Setup::with(&(filters_with_limits(limits) + KEYS)).await;
    let started = std::time::Instant::now();
    let responses = burst(&setup, 30, "sk-ben-000000001", "gpt-4o-mini").await;
    // Three at once, and one more for each second that has passed meanwhile.
    let passed = started.elapsed().as_secs() as usize;
    let count = answered(&responses);
    assert!((3..=4 + passed).contains(&count), "{count} after {passed} s");
    let refused = responses.iter().find(|response| response.status != 200).expect("some are");
    check_refused(refused, "address", "requests_per_second");
    assert_eq!(refused.header("retry-after"), Some("1"));
    // The master key is not held to it.
    assert_eq!(answered(&burst(&setup, 10, MASTER_KEY, "gpt-4o-mini").await), 10);
}

#[tokio::test]
async fn key_and_everybody_may_send_so_many_a_second() {
    for (limits, scope, key) in [
        ("per_key_rate: { requests_per_second: 1, burst: 3 }", "api_key", "sk-ben-000000001"),
        ("global_rate: { requests_per_second: 1, burst: 3 }", "global", MASTER_KEY),
    ] {
        let setup = Setup::with(&(filters_with_limits(limits) + KEYS)).await;
        let started = std::time::Instant::now();
        let responses = burst(&setup, 30, key, "gpt-4o-mini").await;
        let passed = started.elapsed().as_secs() as usize;
        let count = answered(&responses);
        assert!((3..=4 + passed).contains(&count), "{scope}: {count} after {passed} s");
        let refused = responses.iter().find(|response| response.status != 200).expect("some are");
        check_refused(refused, scope, "requests_per_second");
    }
}

#[tokio::test]
async fn keys_of_one_user_share_the_users_limit() {
    let setup = Setup::with(&(filters_with_limits("per_user: { rpm: 3 }") + KEYS)).await;
    let mut all = burst(&setup, 4, "sk-anna-00000001", "gpt-4o-mini").await;
    all.extend(burst(&setup, 4, "sk-anna-00000002", "claude").await);
    assert_eq!(answered(&all), 3);
    check_refused(all.last().expect("one"), "user", "requests");
    assert_eq!(answered(&burst(&setup, 4, "sk-ben-000000001", "gpt-4o-mini").await), 3);
}

#[tokio::test]
async fn model_is_limited_for_all_its_callers() {
    let setup = Setup::with(&(filters_with_limits("per_model: { rpm: 2 }") + KEYS)).await;
    let mut all = burst(&setup, 3, "sk-anna-00000001", "claude").await;
    all.extend(burst(&setup, 3, "sk-ben-000000001", "claude").await);
    assert_eq!(answered(&all), 2);
    check_refused(all.last().expect("one"), "model", "requests");
    assert_eq!(answered(&burst(&setup, 3, "sk-ben-000000001", "gpt-4o-mini").await), 2);
}

#[tokio::test]
async fn key_is_limited_for_one_model() {
    let setup = Setup::with(KEYS).await;
    let key = "sk-per-model-001";
    let limited = burst(&setup, 5, key, "claude").await;
    assert_eq!(answered(&limited), 2);
    let refused = limited.iter().find(|response| response.status != 200).expect("some are");
    check_refused(refused, "model_per_key", "requests");
    assert_eq!(answered(&burst(&setup, 5, key, "gpt-4o-mini").await), 5);
}

#[tokio::test]
async fn global_limit_holds_for_the_master_key_as_well() {
    let setup = Setup::with(&(filters_with_limits("global: { rpm: 4 }") + KEYS)).await;
    let mut all = burst(&setup, 3, MASTER_KEY, "gpt-4o-mini").await;
    all.extend(burst(&setup, 3, "sk-ben-000000001", "gpt-4o-mini").await);
    assert_eq!(answered(&all), 4);
    check_refused(&setup.chat(&chat("gpt-4o-mini", "Hi")).await, "global", "requests");
    // What all callers together have used is nobody's business.
    let answer = all.iter().find(|response| response.status == 200).expect("one");
    assert!(answer.headers.iter().all(|(name, _)| !name.starts_with("x-ratelimit-global")));
}

#[tokio::test]
async fn master_key_is_held_to_no_other_limit() {
    let limits = "per_key: { rpm: 1, tpm: 10, max_parallel_requests: 1 }";
    let setup = Setup::with(&(filters_with_limits(limits) + KEYS)).await;
    assert_eq!(answered(&burst(&setup, 10, MASTER_KEY, "gpt-4o-mini").await), 10);
    assert_eq!(answered(&burst(&setup, 10, "sk-ben-000000001", "gpt-4o-mini").await), 0);
}

#[tokio::test]
async fn global_parallel_requests_of_litellms_config_hold() {
    let config = "general_settings: { master_key: $MASTER, global_max_parallel_requests: 1 }";
    let setup = Setup::with(config).await;
    setup.simulator.enqueue(Reply::hang());
    let running = setup.send_chat(MASTER_KEY, &chat("claude", "Hi")).await;
    setup.simulator.next_request().await;
    assert_eq!(setup.chat(&chat("claude", "Hi")).await.status, 429);
    drop(running);
    setup.gateway.idle().await;
    assert_eq!(setup.chat(&chat("claude", "Hi")).await.status, 200);
}

#[tokio::test]
async fn limits_survive_a_reload() {
    let setup = Setup::with(KEYS).await;
    assert_eq!(answered(&burst(&setup, 6, "sk-five-00000001", "gpt-4o-mini").await), 5);
    setup.gateway.reload(&tollway_tests::setup::config(KEYS, &setup.simulator));
    setup.gateway.stderr_line(|line| line.contains("config reloaded")).await;
    let refused = setup.chat_as("sk-five-00000001", &chat("gpt-4o-mini", "Hi")).await;
    check_refused(&refused, "api_key", "requests");
    let after = refused.header("retry-after").and_then(|n| n.parse().ok()).expect("a number");
    assert!(Duration::from_secs(after) <= Duration::from_secs(61));
}
