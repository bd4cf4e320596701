//! What happens when a provider fails: another try, another deployment, another group, and in the
//! end an error that says what it was.

use std::time::Duration;

use serde_json::json;
use tollway_simulator::{Options, Reply, Simulator};
use tollway_tests::gateway::{MASTER_KEY, PATIENCE};
use tollway_tests::servers::{HandMade, Refusing};
use tollway_tests::setup::{UPSTREAM_KEY, simulator, within};
use tollway_tests::{Setup, chat, stream};

/// One deployment of the group `pair`, at another address than the simulator's.
fn deployment(base: &str) -> String {
    format!(
        "  - model_name: pair
    litellm_params: {{ model: openai/gpt-4o-mini, api_key: {UPSTREAM_KEY}, api_base: '{base}/v1' }}
"
    )
}

/// The group `pair` of these deployments.
fn group(bases: &[&str], rest: &str) -> String {
    let list: String = bases.iter().map(|base| deployment(base)).collect();
    format!("model_list:\n{list}{rest}\n")
}

/// A first deployment that fails with `reply` to every request, and a second one that works.
async fn failing_first(reply: &str) -> Simulator {
    let reply: Reply = reply.parse().expect("it parses");
    let script = move |_: &_| Some(reply.clone());
    Simulator::start(Options::default().with_script(script)).await.expect("a port is free")
}

/// Weights that put the first deployment first, practically always; what is tested must hold for
/// either order.
fn weighted(first: &str, second: &str, rest: &str) -> String {
    format!(
        "model_list:
  - model_name: pair
    litellm_params: {{ model: openai/gpt-4o-mini, api_key: {UPSTREAM_KEY}, api_base: '{first}/v1', weight: 1000000 }}
  - model_name: pair
    litellm_params: {{ model: openai/gpt-4o-mini, api_key: {UPSTREAM_KEY}, api_base: '{second}/v1', weight: 1 }}
{rest}
"
    )
}

#[tokio::test]
async fn failure_is_retried_and_the_answer_is_that_of_the_retry() {
    let setup = Setup::start().await;
    for fault in [
        "status=500",
        "status=502",
        "status=503",
        "status=429 retry_after=0",
        "status=408",
        "close_before_head",
        "reset_before_head",
        "cut_head",
        "html",
        "cut_after=10",
        "garbage",
    ] {
        for model in ["gpt-4o-mini", "claude"] {
            let before = setup.asked().len();
            setup.simulator.enqueue(fault.parse().expect("it parses"));
            setup.simulator.enqueue(Reply::text("second"));
            let response = setup.chat(&chat(model, "Hi")).await;
            assert_eq!(response.status, 200, "{fault} {model}: {}", response.text());
            assert_eq!(response.json()["choices"][0]["message"]["content"], "second");
            assert_eq!(setup.asked().len() - before, 2, "{fault} {model}");
            // A connection from the pool that turns out to be closed is replaced without counting.
            if !fault.ends_with("_head") {
                assert_eq!(response.header("x-litellm-attempted-retries"), Some("1"), "{fault}");
            }
        }
    }
}

#[tokio::test]
async fn stream_that_fails_before_its_first_event_is_retried() {
    let setup = Setup::start().await;
    for fault in ["status=500", "close_before_head", "cut_head"] {
        for model in ["gpt-4o-mini", "claude"] {
            setup.simulator.enqueue(fault.parse().expect("it parses"));
            setup.simulator.enqueue(Reply::text("second"));
            let response = setup.chat(&stream(model, "Hi")).await;
            assert_eq!(response.status, 200, "{fault} {model}: {}", response.text());
            assert_eq!(response.events().last().map(String::as_str), Some("[DONE]"));
        }
    }
}

#[tokio::test]
async fn stream_that_fails_after_its_first_event_is_not_retried() {
    let setup = Setup::start().await;
    let response = setup.chat(&stream("gpt-4o-mini", "[[sim say=\"a b c\" cut_after=1]]")).await;
    assert!(!response.text().contains("[DONE]"));
    assert_eq!(setup.asked().len(), 1);
}

#[tokio::test]
async fn there_are_two_retries_by_default() {
    let setup = Setup::start().await;
    let response = setup.chat(&chat("gpt-4o-mini", "[[sim status=500 message=Sorry]]")).await;
    assert_eq!(response.status, 500);
    assert_eq!(setup.asked().len(), 3);
    let message = "litellm.InternalServerError: OpenAIException - Sorry";
    assert_eq!(response.error("message"), message);
    assert_eq!(response.error("type"), "internal_server_error");
    assert_eq!(response.header("x-litellm-attempted-retries"), Some("2"));
    assert_eq!(response.header("x-litellm-response-cost"), Some("0"));
}

#[tokio::test]
async fn num_retries_of_the_config_holds() {
    for retries in [0, 1] {
        let rest = format!("router_settings: {{ num_retries: {retries} }}");
        let setup = Setup::with(&rest).await;
        let response = setup.chat(&chat("gpt-4o-mini", "[[sim status=500]]")).await;
        assert_eq!(response.status, 500);
        assert_eq!(setup.asked().len(), retries + 1);
    }
}

#[tokio::test]
async fn request_may_set_its_own_number_of_retries() {
    let setup = Setup::start().await;
    let mut body = chat("gpt-4o-mini", "[[sim status=500]]");
    let header = [("x-litellm-num-retries", "1")];
    assert_eq!(setup.chat_with(&header, &body).await.status, 500);
    assert_eq!(setup.asked().len(), 2);
    body["num_retries"] = 0.into();
    assert_eq!(setup.chat(&body).await.status, 500);
    assert_eq!(setup.asked().len(), 3);
    for wrong in [json!(-1), json!(-0.5)] {
        body["num_retries"] = wrong;
        let response = setup.chat(&body).await;
        assert_eq!((response.status, response.error("param")), (400, json!("num_retries")));
    }
}

#[tokio::test]
async fn retry_policy_counts_by_the_kind_of_failure() {
    let rest =
        "router_settings: { num_retries: 0, retry_policy: { InternalServerErrorRetries: 1 } }";
    let setup = Setup::with(rest).await;
    assert_eq!(setup.chat(&chat("gpt-4o-mini", "[[sim status=500]]")).await.status, 500);
    assert_eq!(setup.asked().len(), 2);
    assert_eq!(setup.chat(&chat("gpt-4o-mini", "[[sim status=429]]")).await.status, 429);
    assert_eq!(setup.asked().len(), 3);
}

#[tokio::test]
async fn bad_request_is_neither_retried_nor_held_against_the_deployment() {
    let first = simulator().await;
    let rest = "router_settings: { allowed_fails: 0, cooldown_time: 1h }";
    let config = weighted("$SIM", &first.base_url(), rest);
    let setup = Setup::with(&config).await;
    let said = "[[sim status=400 message=Nonsense code=invalid_value]]";
    for round in 1..=6 {
        let response = setup.chat(&chat("pair", said)).await;
        assert_eq!(response.status, 400);
        let message = "litellm.BadRequestError: OpenAIException - Nonsense";
        assert_eq!(response.error("message"), message);
        assert_eq!(response.error("type"), "invalid_request_error");
        assert_eq!(response.error("code"), "invalid_value");
        assert_eq!(setup.asked().len() + first.requests().len(), round);
    }
    assert_eq!(setup.chat(&chat("pair", "Hi")).await.status, 200);
}

#[tokio::test]
async fn providers_machine_code_reaches_the_caller() {
    let setup = Setup::start().await;
    for (directive, status, class, kind, code) in [
        (
            "status=400 code=context_length_exceeded",
            400,
            "ContextWindowExceededError",
            "invalid_request_error",
            json!("context_length_exceeded"),
        ),
        (
            "status=400 code=content_policy_violation",
            400,
            "ContentPolicyViolationError",
            "invalid_request_error",
            json!("content_policy_violation"),
        ),
        (
            "status=401",
            401,
            "AuthenticationError",
            "authentication_error",
            json!("invalid_api_key"),
        ),
        ("status=404", 404, "NotFoundError", "invalid_request_error", json!("model_not_found")),
        ("status=429", 429, "RateLimitError", "throttling_error", json!("rate_limit_exceeded")),
        ("status=503", 503, "ServiceUnavailableError", "internal_server_error", json!(null)),
    ] {
        let mut body = chat("gpt-4o-mini", &format!("[[sim {directive} message=Said]]"));
        body["num_retries"] = 0.into();
        let response = setup.chat(&body).await;
        assert_eq!(response.status, status, "{directive}");
        let message = format!("litellm.{class}: OpenAIException - Said");
        assert_eq!(response.error("message"), message, "{directive}");
        assert_eq!(response.error("type"), kind, "{directive}");
        assert_eq!(response.error("code"), code, "{directive}");
    }
    // Anthropic's own shape says the same.
    let mut body = chat("claude", "[[sim status=529 message=Said]]");
    body["num_retries"] = 0.into();
    let response = setup.chat(&body).await;
    assert_eq!(response.error("message"), "litellm.InternalServerError: AnthropicException - Said");
}

#[tokio::test]
async fn another_deployment_of_the_group_answers_at_once() {
    for fault in
        ["status=500", "status=401", "status=404", "close_before_head", "status=429 retry_after=60"]
    {
        let first = failing_first(fault).await;
        let setup = Setup::with(&weighted(&first.base_url(), "$SIM", "")).await;
        let response = setup.chat(&chat("pair", "Hi")).await;
        assert_eq!(response.status, 200, "{fault}: {}", response.text());
        assert_eq!(setup.asked().len(), 1, "{fault}");
        assert!(first.requests().len() <= 1, "{fault}");
    }
}

#[tokio::test]
async fn refused_connection_leads_to_the_next_deployment() {
    let nobody = Refusing::start();
    let base = format!("http://{}", nobody.address);
    let setup = Setup::with(&weighted(&base, "$SIM", "")).await;
    for _ in 0..3 {
        assert_eq!(setup.chat(&chat("pair", "Hi")).await.status, 200);
    }
    let alone = Setup::with(&group(&[&base], "router_settings: { num_retries: 1 }")).await;
    let response = alone.chat(&chat("pair", "Hi")).await;
    assert_eq!(response.status, 500);
    let message = "litellm.APIConnectionError: OpenAIException - Connection error.";
    assert_eq!(response.error("message"), message);
    assert_eq!(response.error("code"), "upstream_error");
}

#[tokio::test]
async fn tls_handshake_that_hangs_uses_up_the_connect_timeout() {
    let silent = HandMade::start().await;
    let base = format!("https://{}", silent.address);
    let rest = "server: { connect_timeout: 300ms }\nrouter_settings: { num_retries: 0 }";
    let setup = Setup::with(&group(&[&base], rest)).await;
    let (response, mut connection) =
        tokio::join!(setup.send_and_read("pair"), async { silent.accept().await });
    assert_eq!(response.status, 408, "{}", response.text());
    assert!(response.text().contains("litellm.Timeout"), "{}", response.text());
    // The gateway has let go of it.
    let mut rest = Vec::new();
    let closed = tokio::io::AsyncReadExt::read_to_end(&mut connection, &mut rest);
    let _ = within(PATIENCE, "the connection is closed", closed).await;
}

/// A shorthand for this file.
trait SendAndRead {
    async fn send_and_read(&self, model: &str) -> tollway_tests::Response;
}

impl SendAndRead for Setup {
    async fn send_and_read(&self, model: &str) -> tollway_tests::Response {
        let mut connection = self.send_chat(MASTER_KEY, &chat(model, "Hi")).await;
        connection.response().await
    }
}

#[tokio::test]
async fn fallback_group_answers_when_the_first_one_cannot() {
    let rest = "router_settings: { num_retries: 1, fallbacks: [{gpt-4o-mini: [claude]}] }";
    let setup = Setup::with(rest).await;
    setup.simulator.enqueue(Reply::error(500));
    setup.simulator.enqueue(Reply::error(503));
    let response = setup.chat(&chat("gpt-4o-mini", "Hi")).await;
    assert_eq!(response.status, 200, "{}", response.text());
    let paths: Vec<_> = setup.asked().into_iter().map(|asked| asked.path).collect();
    assert_eq!(paths, ["/v1/chat/completions", "/v1/chat/completions", "/v1/messages"]);
    assert_eq!(response.header("x-litellm-attempted-fallbacks"), Some("1"));
    let name = response.header("x-litellm-model-name");
    assert_eq!(name, Some("anthropic/claude-3-5-sonnet-20241022"));
    // The caller asked for this one and sees this one.
    assert_eq!(response.json()["model"], "gpt-4o-mini");
}

#[tokio::test]
async fn bad_request_does_not_fall_back() {
    let rest = "router_settings: { fallbacks: [{gpt-4o-mini: [claude]}] }";
    let setup = Setup::with(rest).await;
    assert_eq!(setup.chat(&chat("gpt-4o-mini", "[[sim status=400]]")).await.status, 400);
    assert_eq!(setup.asked().len(), 1);
}

#[tokio::test]
async fn request_may_name_its_own_fallbacks() {
    let setup = Setup::start().await;
    let mut body = chat("gpt-4o-mini", "Hi");
    body["fallbacks"] = json!(["no-such-model", "claude"]);
    body["num_retries"] = 0.into();
    setup.simulator.enqueue(Reply::error(500));
    let response = setup.chat(&body).await;
    assert_eq!(response.status, 200, "{}", response.text());
    assert_eq!(setup.asked().last().expect("a request").path, "/v1/messages");
}

#[tokio::test]
async fn fallbacks_of_a_request_are_no_way_round_a_keys_models() {
    let keys = "keys: [{ alias: small, key: sk-small-00000001, models: [gpt-4o-mini] }]";
    let setup = Setup::with(keys).await;
    let mut body = chat("gpt-4o-mini", "Hi");
    body["fallbacks"] = json!(["claude"]);
    body["num_retries"] = 0.into();
    setup.simulator.enqueue(Reply::error(500));
    let response = setup.chat_as("sk-small-00000001", &body).await;
    assert_ne!(response.status, 200, "claude answered: {}", response.text());
    let reached = setup.asked().iter().any(|asked| asked.path == "/v1/messages");
    assert!(!reached, "the key may not call claude");
}

#[tokio::test]
async fn fallback_streams_as_well() {
    let rest = "router_settings: { num_retries: 0, fallbacks: [{claude: [gpt-4o-mini]}] }";
    let setup = Setup::with(rest).await;
    setup.simulator.enqueue(Reply::error(529));
    let response = setup.chat(&stream("claude", "Hi")).await;
    assert_eq!(response.events().last().map(String::as_str), Some("[DONE]"));
    assert!(response.text().contains("\"model\":\"claude\""));
    assert_eq!(setup.asked().len(), 2);
}

#[tokio::test]
async fn deployment_that_had_enough_is_left_alone() {
    let first = failing_first("status=429 retry_after=3600").await;
    let rest = "router_settings: { cooldown_time: 1s }";
    let setup = Setup::with(&weighted(&first.base_url(), "$SIM", rest)).await;
    for _ in 0..20 {
        assert_eq!(setup.chat(&chat("pair", "Hi")).await.status, 200);
    }
    // Once, and then it rested for as long as it had asked for.
    assert_eq!(first.requests().len(), 1);
}

#[tokio::test]
async fn deployment_that_keeps_failing_is_left_alone() {
    let first = failing_first("status=500").await;
    let rest = "router_settings: { allowed_fails: 2, cooldown_time: 1h }";
    let setup = Setup::with(&weighted(&first.base_url(), "$SIM", rest)).await;
    for _ in 0..30 {
        assert_eq!(setup.chat(&chat("pair", "Hi")).await.status, 200);
    }
    assert_eq!(first.requests().len(), 3);
}

#[tokio::test]
async fn rested_deployment_comes_back() {
    let first = simulator().await;
    first.enqueue(Reply::error(429));
    let rest = "router_settings: { cooldown_time: 300ms }";
    let setup = Setup::with(&weighted(&first.base_url(), "$SIM", rest)).await;
    let back = async {
        while first.requests().len() < 2 {
            assert_eq!(setup.chat(&chat("pair", "Hi")).await.status, 200);
        }
    };
    within(PATIENCE, "it is asked again", back).await;
}

#[tokio::test]
async fn group_that_rests_as_a_whole_says_when_to_come_back() {
    let (first, second) = tokio::join!(failing_first("status=429"), failing_first("status=429"));
    let rest = "router_settings: { num_retries: 0, cooldown_time: 30s }";
    let bases = [first.base_url(), second.base_url()];
    let setup = Setup::with(&group(&[&bases[0], &bases[1]], rest)).await;
    for _ in 0..2 {
        assert_eq!(setup.chat(&chat("pair", "Hi")).await.error("type"), "throttling_error");
    }
    let response = setup.chat(&chat("pair", "Hi")).await;
    assert_eq!(response.status, 429);
    assert_eq!(response.error("type"), "all_deployments_in_cooldown");
    let message = response.error("message").as_str().expect("a text").to_owned();
    let start = "No deployments available for selected model, Try again in ";
    assert!(message.starts_with(start), "{message}");
    let after: u64 = response.header("retry-after").and_then(|n| n.parse().ok()).expect("a number");
    assert!((1..=30).contains(&after), "{after}");
    assert_eq!(first.requests().len() + second.requests().len(), 2);
}

#[tokio::test]
async fn deployment_without_a_second_one_never_rests() {
    let rest = "router_settings: { num_retries: 0, allowed_fails: 0, cooldown_time: 1h }";
    let setup = Setup::with(rest).await;
    for _ in 0..5 {
        assert_eq!(setup.chat(&chat("gpt-4o-mini", "[[sim status=429]]")).await.status, 429);
    }
    assert_eq!(setup.asked().len(), 5);
    assert_eq!(setup.chat(&chat("gpt-4o-mini", "Hi")).await.status, 200);
}

#[tokio::test]
async fn retry_after_is_passed_on_bare_and_a_long_one_is_not_waited_for() {
    let setup = Setup::start().await;
    let begun = std::time::Instant::now();
    let response = setup.chat(&chat("gpt-4o-mini", "[[sim status=429 retry_after=40]]")).await;
    assert_eq!(response.status, 429);
    assert_eq!(response.header("retry-after"), Some("40"));
    assert_eq!(response.error("type"), "throttling_error");
    assert_eq!(setup.asked().len(), 1);
    assert!(begun.elapsed() < Duration::from_secs(30));
}

#[tokio::test]
async fn short_retry_after_is_waited_for() {
    let setup = Setup::start().await;
    setup.simulator.enqueue("status=429 retry_after=300ms".parse().expect("it parses"));
    let response = setup.chat(&chat("gpt-4o-mini", "Hi")).await;
    assert_eq!(response.status, 200);
    let asked = setup.asked();
    assert!(asked[1].at - asked[0].at >= Duration::from_millis(300));
}

#[tokio::test]
async fn hanging_upstream_uses_up_the_deadline_of_config_request_and_header() {
    let rest = "router_settings: { num_retries: 0, timeout: 300ms }";
    let setup = Setup::with(rest).await;
    let response = setup.chat(&chat("gpt-4o-mini", "[[sim hang]]")).await;
    assert_eq!(response.status, 408, "{}", response.text());
    let message = response.error("message").as_str().expect("a text").to_owned();
    assert!(
        message.starts_with("litellm.Timeout: OpenAIException - Request timed out"),
        "{message}"
    );
    assert_eq!(response.error("type"), "invalid_request_error");
    assert_eq!(response.error("code"), "timeout");

    let setup = Setup::with("router_settings: { num_retries: 0 }").await;
    let mut body = chat("gpt-4o-mini", "[[sim hang]]");
    let header = [("x-litellm-timeout", "0.3")];
    assert_eq!(setup.chat_with(&header, &body).await.status, 408);
    body["timeout"] = 0.3.into();
    assert_eq!(setup.chat(&body).await.status, 408);
    for wrong in [json!(0), json!(-1)] {
        body["timeout"] = wrong;
        let response = setup.chat(&body).await;
        assert_eq!((response.status, response.error("param")), (400, json!("timeout")));
    }
    // All of them were let go of.
    for _ in 0..2 {
        setup.simulator.next_cancelled().await;
    }
}

#[tokio::test]
async fn timeout_leads_to_another_deployment() {
    let first = failing_first("hang").await;
    let rest = "router_settings: { timeout: 400ms }";
    let setup = Setup::with(&weighted(&first.base_url(), "$SIM", rest)).await;
    let response = setup.chat(&chat("pair", "Hi")).await;
    assert_eq!(response.status, 200, "{}", response.text());
}

#[tokio::test]
async fn stream_that_does_not_begin_in_time_is_given_up() {
    let rest = "router_settings: { num_retries: 0, stream_timeout: 300ms }";
    let setup = Setup::with(rest).await;
    for model in ["gpt-4o-mini", "claude"] {
        let response = setup.chat(&stream(model, "[[sim hang]]")).await;
        assert_eq!(response.status, 408, "{}", response.text());
        // An answer that is not streamed may take its time.
        let said = "[[sim first_byte_delay=600ms]]";
        assert_eq!(setup.chat(&chat(model, said)).await.status, 200);
    }
}

#[tokio::test]
async fn stream_may_not_outlast_the_total_deadline() {
    let rest = "router_settings: { num_retries: 0, timeout: 500ms }";
    let setup = Setup::with(rest).await;
    for model in ["gpt-4o-mini", "claude"] {
        // It is never silent for long, so that only the total time can end it.
        let response = setup.chat(&stream(model, "[[sim tokens=2000 rate=40]]")).await;
        assert_eq!(response.status, 200);
        assert!(!response.text().contains("[DONE]"));
        let last = response.events().pop().expect("an error");
        assert!(last.contains("litellm.Timeout"), "{last}");
        let asked = setup.simulator.next_request().await;
        let outcome = setup.simulator.outcome(asked.id).await;
        assert!(outcome.chunks < 2000);
    }
}

#[tokio::test]
async fn redirect_is_not_followed() {
    let elsewhere = simulator().await;
    let setup = Setup::with("router_settings: { num_retries: 0 }").await;
    for status in ["", "status=307", "status=308"] {
        let said =
            format!("[[sim redirect={}/v1/chat/completions {status}]]", elsewhere.base_url());
        for body in [chat("gpt-4o-mini", &said), stream("claude", &said)] {
            let response = setup.chat(&body).await;
            assert_eq!(response.status, 500, "{}", response.text());
            assert_eq!(response.header("location"), None);
            assert!(!response.text().contains(&elsewhere.base_url()));
        }
    }
    assert_eq!(elsewhere.connections().total, 0);
}

#[tokio::test]
async fn informational_heads_are_skipped_and_a_flood_of_them_is_not_endured() {
    let setup = Setup::with("router_settings: { num_retries: 0 }").await;
    let response = setup.chat(&chat("gpt-4o-mini", "[[sim informational=3]]")).await;
    assert_eq!(response.status, 200, "{}", response.text());
    for body in ["gpt-4o-mini", "claude"].map(|m| chat(m, "[[sim informational=100000]]")) {
        let response = setup.chat(&body).await;
        assert_eq!(response.status, 500, "{}", response.text());
        assert_eq!(setup.chat(&chat("gpt-4o-mini", "Hi")).await.status, 200);
    }
}

#[tokio::test]
async fn head_without_end_is_refused() {
    let setup = Setup::with("router_settings: { num_retries: 0 }").await;
    let before = setup.gateway.resident_bytes();
    let said = "[[sim big_header=4000000]]";
    for _ in 0..15 {
        for body in [chat("gpt-4o-mini", said), stream("claude", said)] {
            let response = setup.chat(&body).await;
            assert_eq!(response.status, 500, "{}", response.text());
            assert_eq!(setup.chat(&chat("gpt-4o-mini", "Hi")).await.status, 200);
        }
    }
    // 120 MB were offered.
    let grown = setup.gateway.resident_bytes().saturating_sub(before);
    assert!(grown < 60 << 20, "grown by {} KiB", grown >> 10);
}

#[tokio::test]
async fn compressed_answer_that_nobody_asked_for_is_refused() {
    let setup = Setup::with("router_settings: { num_retries: 0 }").await;
    for model in ["gpt-4o-mini", "claude"] {
        let response = setup.chat(&chat(model, "[[sim gzip]]")).await;
        assert_eq!(response.status, 500, "{}", response.text());
        let asked = setup.simulator.next_request().await;
        assert_eq!(asked.header("accept-encoding"), None);
    }
}

#[tokio::test]
async fn answer_whose_length_is_a_lie_is_refused() {
    let setup = Setup::with("router_settings: { num_retries: 0 }").await;
    for wrong in [10, -5] {
        let said = format!("[[sim wrong_content_length={wrong}]]");
        for model in ["gpt-4o-mini", "claude"] {
            let response = setup.chat(&chat(model, &said)).await;
            assert_eq!(response.status, 500, "{wrong}: {}", response.text());
            // Nothing of it is left for the next call.
            let next = setup.chat(&chat(model, "[[sim say=clean]]")).await;
            assert_eq!(next.json()["choices"][0]["message"]["content"], "clean");
        }
    }
}

#[tokio::test]
async fn bytes_after_an_answer_are_not_taken_for_the_next_one() {
    let setup = Setup::with("router_settings: { num_retries: 0 }").await;
    let body = |content: &str| {
        json!({"id": "c", "object": "chat.completion", "created": 1, "model": "gpt-4o-mini",
            "choices": [{"index": 0, "message": {"role": "assistant", "content": content},
                         "finish_reason": "stop"}]})
        .to_string()
    };
    let answer = |content: &str| {
        let body = body(content);
        let length = body.len();
        format!(
            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
        )
    };
    setup.simulator.enqueue(Reply::raw(answer("first") + &answer("injected")));
    for said in ["first", "own"] {
        let response = setup.chat(&chat("gpt-4o-mini", "[[sim say=own]]")).await;
        assert_eq!(response.json()["choices"][0]["message"]["content"], said);
        setup.settled(&response).await;
    }
}

#[tokio::test]
async fn connection_that_the_provider_closed_meanwhile_costs_no_call() {
    let setup = Setup::with("router_settings: { num_retries: 0 }").await;
    for _ in 0..10 {
        let response = setup.chat(&chat("gpt-4o-mini", "[[sim close_after]]")).await;
        assert_eq!(response.status, 200, "{}", response.text());
    }
}

#[tokio::test]
async fn refusal_that_comes_before_the_request_was_read_is_heard() {
    let options = Options { body_bytes_max: 1 << 20, ..Options::default() };
    let small = Simulator::start(options).await.expect("a port is free");
    let rest = "router_settings: { num_retries: 0 }";
    let setup = Setup::with(&group(&[&small.base_url()], rest)).await;
    let response = setup.chat(&chat("pair", &"x".repeat(12 << 20))).await;
    assert_eq!(response.status, 413, "{}", response.text());
    assert!(response.text().contains("the request's body is too large"), "{}", response.text());
    assert_eq!(setup.chat(&chat("pair", "Hi")).await.status, 200);
}

#[tokio::test]
async fn deployments_share_the_load_by_their_weights() {
    let other = simulator().await;
    let config = format!(
        "model_list:
  - model_name: pair
    litellm_params: {{ model: openai/gpt-4o-mini, api_key: $KEY, api_base: $SIM/v1, weight: 3 }}
  - model_name: pair
    litellm_params: {{ model: openai/gpt-4o-mini, api_key: $KEY, api_base: '{}/v1', weight: 1 }}
",
        other.base_url()
    );
    let setup = Setup::with(&config).await;
    let mut connection = tollway_tests::Connection::open(setup.gateway.address).await;
    for _ in 0..400 {
        let body = chat("pair", "Hi").to_string();
        connection.request("POST", "/v1/chat/completions", &[], body.as_bytes()).await;
        assert_eq!(connection.response().await.status, 200);
    }
    // 300 are expected; beyond eight standard deviations something is wrong.
    let first = setup.asked().len();
    assert!((230..370).contains(&first), "{first} of 400");
}

#[tokio::test]
async fn deployments_own_limits_send_calls_to_the_others() {
    let other = simulator().await;
    let config = format!(
        "model_list:
  - model_name: pair
    litellm_params: {{ model: openai/gpt-4o-mini, api_key: $KEY, api_base: $SIM/v1, rpm: 2, weight: 1000000 }}
  - model_name: pair
    litellm_params: {{ model: openai/gpt-4o-mini, api_key: $KEY, api_base: '{}/v1', rpm: 3, weight: 1 }}
",
        other.base_url()
    );
    let setup = Setup::with(&config).await;
    for _ in 0..5 {
        assert_eq!(setup.chat(&chat("pair", "Hi")).await.status, 200);
    }
    assert_eq!((setup.asked().len(), other.requests().len()), (2, 3));
    let full = setup.chat(&chat("pair", "Hi")).await;
    assert_eq!(full.status, 429, "{}", full.text());
    assert!(full.header("retry-after").is_some());
    assert_eq!((setup.asked().len(), other.requests().len()), (2, 3));
}
