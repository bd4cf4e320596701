//! The stack of filters is the config's: which there are, in which order, with which settings.

use serde_json::json;
use tollway_simulator::Reply;
use tollway_tests::gateway::MASTER_KEY;
use tollway_tests::{Setup, chat, stream};

const ALL: [&str; 8] = [
    "request_log",
    "usage",
    "cors",
    "auth",
    "validate",
    "model_alias",
    "rate_limit",
    "response_cache",
];

#[tokio::test]
async fn every_filter_can_be_left_out() {
    for left_out in ALL {
        let names: Vec<_> = ALL.into_iter().filter(|name| *name != left_out).collect();
        let setup = Setup::with(&format!("filters: [{}]", names.join(", "))).await;
        for body in [chat("gpt-4o-mini", "Hi"), stream("claude", "Hi")] {
            let response = setup.chat(&body).await;
            assert_eq!(response.status, 200, "without {left_out}: {}", response.text());
        }
        let response = setup.chat(&chat("gpt-4o-mini", "Hi")).await;
        let is_hit = response.header("x-litellm-cache-key").is_some();
        let has_headers = response.header("x-litellm-call-id").is_some();
        assert_eq!(has_headers, left_out != "usage");
        // Without the log there is no line to tell that the first answer is kept by now.
        assert!(!is_hit || left_out != "response_cache");
    }
}

#[tokio::test]
async fn one_filter_alone_is_a_stack_as_well() {
    for name in ALL {
        let setup = Setup::with(&format!("filters: [{name}]")).await;
        let response = setup.chat(&chat("gpt-4o-mini", "Hi")).await;
        assert_eq!(response.status, 200, "{name}: {}", response.text());
        let nonsense = setup.chat(&json!({"model": "no-such-model", "messages": [{}]})).await;
        assert_eq!(nonsense.status, 400, "{name}: {}", nonsense.text());
    }
}

#[tokio::test]
async fn settings_of_a_filter_are_those_of_the_config() {
    let config = "
filters:
  - filter: usage
    response_headers: minimal
    end_user_label: true
  - auth
  - filter: validate
    tools_max: 1
    temperature_max: 1
    body_bytes_max: { chat_completions: 5000 }
  - filter: model_alias
    aliases: { assistant: gpt-4o-mini }
";
    let setup = Setup::with(config).await;
    let mut body = chat("assistant", "Hi");
    body["user"] = "somebody".into();
    let response = setup.chat(&body).await;
    assert_eq!(response.status, 200, "{}", response.text());
    assert_eq!(response.json()["model"], "assistant");
    assert!(response.header("x-litellm-call-id").is_some());
    assert_eq!(response.header("x-litellm-model-group"), None);
    let requests = "litellm_proxy_total_requests_metric_total";
    setup.gateway.metric_becomes(requests, &["end_user=\"somebody\""], |n| n == 1.0).await;

    for (name, value) in [("temperature", json!(1.5)), ("tools", json!([{}, {}]))] {
        let mut body = chat("assistant", "Hi");
        body[name] = value;
        let refused = setup.chat(&body).await;
        assert_eq!((refused.status, refused.error("param")), (400, json!(name)));
    }
    let refused = setup.chat(&chat("assistant", &"x".repeat(6000))).await;
    assert_eq!(refused.status, 413, "{}", refused.text());
}

#[tokio::test]
async fn order_of_the_list_is_the_order_of_the_filters() {
    // Whoever comes first refuses first.
    for (order, status) in [("[auth, rate_limit]", 401), ("[rate_limit, auth]", 429)] {
        let order = order.replace(
            "rate_limit",
            "{ filter: rate_limit, per_key: { rpm: 1 }, global: { rpm: 1 } }",
        );
        let setup = Setup::with(&format!("filters: {order}")).await;
        let first = setup.chat_with(&[("authorization", "")], &chat("gpt-4o-mini", "Hi")).await;
        assert_eq!(first.status, 401);
        let second = setup.chat_with(&[("authorization", "")], &chat("gpt-4o-mini", "Hi")).await;
        assert_eq!(second.status, status, "{order}: {}", second.text());
    }
}

#[tokio::test]
async fn cors_names_the_origins_of_the_config() {
    let config = "
filters:
  - filter: cors
    allow_origins: ['https://chat.example.com']
  - auth
";
    let setup = Setup::with(config).await;
    let bearer = format!("Bearer {MASTER_KEY}");
    for (origin, allowed) in [
        ("https://chat.example.com", Some("https://chat.example.com")),
        ("https://evil.example.com", None),
        ("https://chat.example.com.evil.com", None),
    ] {
        setup.simulator.enqueue(Reply::text("Hi"));
        let headers = [("origin", origin), ("authorization", bearer.as_str())];
        let response = setup.chat_with(&headers, &chat("gpt-4o-mini", "Hi")).await;
        assert_eq!(response.header("access-control-allow-origin"), allowed, "{origin}");
    }
}

#[tokio::test]
async fn request_log_may_be_kept_to_what_went_wrong() {
    let config = "filters: [{ filter: request_log, level: warn }, usage, auth, model_alias]";
    let setup = Setup::with(config).await;
    for (id, model) in [("log-fine", "gpt-4o-mini"), ("log-wrong", "nope")] {
        setup.chat_with(&[("x-litellm-call-id", id)], &chat(model, "Hi")).await;
    }
    let line = setup.log_line("log-wrong").await;
    assert_eq!(line["level"], "warn");
    assert!(!setup.gateway.stdout().contains("log-fine"));
}
