//! Who may call, with which key in which place, and what the others are told.

use serde_json::{Value, json};
use tollway_tests::gateway::MASTER_KEY;
use tollway_tests::{Setup, chat, get};

// The hash is that of `sk-hashed-000001`.
const KEYS: &str = "
keys:
  - { alias: ci, key: sk-ci-00000000001, models: [gpt-4o-mini] }
  - { alias: hashed, key_hash: 21bc2a5ccc031ecf12ca866f94be8b827be2da3bb5cd66d4e13cfc1c8c404a0c }
  - { alias: blocked, key: sk-blocked-000001, blocked: true }
  - { alias: expired, key: sk-expired-000001, expires: 2020-01-31T12:00:00Z }
  - alias: renaming
    key: sk-renaming-00001
    aliases: { assistant: gpt-4o-mini }
";

fn error(message: &str, kind: &str, param: Option<&str>, code: Option<&str>) -> Value {
    json!({"error": {"message": message, "type": kind, "param": param, "code": code}})
}

#[tokio::test]
async fn key_is_taken_from_every_header_that_clients_use() {
    let setup = Setup::with(KEYS).await;
    let bearer = format!("Bearer {MASTER_KEY}");
    for (name, value) in [
        ("authorization", bearer.as_str()),
        ("Authorization", bearer.as_str()),
        ("x-api-key", MASTER_KEY),
        ("api-key", MASTER_KEY),
        ("x-goog-api-key", MASTER_KEY),
        ("Ocp-Apim-Subscription-Key", MASTER_KEY),
        ("x-litellm-api-key", MASTER_KEY),
        ("x-litellm-api-key", bearer.as_str()),
    ] {
        let headers = [(name, value), ("authorization", "")];
        let headers =
            if name.eq_ignore_ascii_case("authorization") { &headers[..1] } else { &headers[..] };
        let response = get(setup.gateway.address, "/v1/models", headers).await;
        assert_eq!(response.status, 200, "{name}: {}", response.text());
    }
}

#[tokio::test]
async fn call_without_a_key_is_refused_in_litellms_words() {
    let setup = Setup::with(KEYS).await;
    for headers in [
        &[("authorization", "")][..],
        &[("authorization", "Basic Zm9vOmJhcg==")],
        &[("authorization", "Bearer ")],
    ] {
        let response = setup.chat_with(headers, &chat("gpt-4o-mini", "Hi")).await;
        assert_eq!(response.status, 401);
        let expect = error("Authentication Error, No api key passed in.", "auth_error", None, None);
        assert_eq!(response.json(), expect);
        assert_eq!(response.header("www-authenticate"), Some("Bearer"));
    }
    assert!(setup.asked().is_empty());
}

#[tokio::test]
async fn wrong_key_is_refused_and_never_quoted() {
    let setup = Setup::with(KEYS).await;
    let response = setup.chat_as("sk-wrong-canary", &chat("gpt-4o-mini", "Hi")).await;
    assert_eq!(response.status, 401);
    assert_eq!(
        response.json(),
        error(
            "Authentication Error, Invalid API key provided.",
            "token_not_found_in_db",
            Some("key"),
            Some("invalid_api_key")
        )
    );
    assert!(response.header("x-litellm-call-id").is_some());
    assert_eq!(response.header("x-litellm-response-cost"), Some("0"));
    // Neither a beginning of a key nor its hash is the key.
    let hash = "21bc2a5ccc031ecf12ca866f94be8b827be2da3bb5cd66d4e13cfc1c8c404a0c";
    for almost in [&MASTER_KEY[..MASTER_KEY.len() - 1], &format!("{MASTER_KEY}x"), hash] {
        assert_eq!(setup.chat_as(almost, &chat("gpt-4o-mini", "Hi")).await.status, 401);
    }
}

#[tokio::test]
async fn blocked_key_is_refused() {
    let setup = Setup::with(KEYS).await;
    let response = setup.chat_as("sk-blocked-000001", &chat("gpt-4o-mini", "Hi")).await;
    assert_eq!(response.status, 401);
    assert_eq!(response.error("type"), "auth_error");
    assert_eq!(
        response.error("message"),
        "Authentication Error, Key is blocked. Update via `/key/unblock` if you're an admin."
    );
}

#[tokio::test]
async fn expired_key_is_refused_with_both_times() {
    let setup = Setup::with(KEYS).await;
    let response = setup.chat_as("sk-expired-000001", &chat("gpt-4o-mini", "Hi")).await;
    assert_eq!(response.status, 401);
    assert_eq!(response.error("type"), "expired_key");
    assert_eq!(response.error("code"), "expired_key");
    let message = response.error("message").as_str().expect("a text").to_owned();
    let start = "Authentication Error - Expired Key. Key Expiry time 2020-01-31T12:00:00";
    assert!(message.starts_with(start), "{message}");
    assert!(message.contains("and current time 20"), "{message}");
}

#[tokio::test]
async fn key_that_is_only_known_by_its_hash_is_taken() {
    let setup = Setup::with(KEYS).await;
    let response = setup.chat_as("sk-hashed-000001", &chat("claude", "Hi")).await;
    assert_eq!(response.status, 200, "{}", response.text());
    let line = setup.settled(&response).await;
    assert_eq!(line["key_alias"], "hashed");
}

#[tokio::test]
async fn key_may_call_its_own_models_only() {
    let setup = Setup::with(KEYS).await;
    let key = "sk-ci-00000000001";
    assert_eq!(setup.chat_as(key, &chat("gpt-4o-mini", "Hi")).await.status, 200);
    for model in ["claude", "fast", "no-such-model"] {
        let response = setup.chat_as(key, &chat(model, "Hi")).await;
        assert_eq!(response.status, 403, "{model}: {}", response.text());
        assert_eq!(response.error("type"), "key_model_access_denied");
        assert_eq!(response.error("param"), "model");
        let message = response.error("message");
        let start = format!("The requested model '{model}' is not available for this API key");
        assert!(message.as_str().expect("a text").starts_with(&start), "{message}");
    }
    assert_eq!(setup.asked().len(), 1);
}

#[tokio::test]
async fn unknown_model_is_a_400_with_openais_code() {
    let setup = Setup::start().await;
    let response = setup.chat(&chat("nope", "Hi")).await;
    assert_eq!(response.status, 400);
    assert_eq!(
        response.json(),
        error(
            "litellm.BadRequestError: You passed in model=nope. There are no healthy deployments \
             for this model",
            "invalid_request_error",
            Some("model"),
            Some("model_not_found")
        )
    );
}

#[tokio::test]
async fn keys_own_alias_leads_to_the_model_it_means() {
    let setup = Setup::with(KEYS).await;
    let response = setup.chat_as("sk-renaming-00001", &chat("assistant", "Hi")).await;
    assert_eq!(response.status, 200, "{}", response.text());
    assert_eq!(response.json()["model"], "assistant");
    assert_eq!(setup.simulator.next_request().await.model().as_deref(), Some("gpt-4o-mini"));
    // It is that key's alone.
    assert_eq!(setup.chat(&chat("assistant", "Hi")).await.status, 400);
}

#[tokio::test]
async fn compat_litellm_puts_the_status_into_the_code() {
    let setup = Setup::with(&format!("compat: litellm\n{KEYS}")).await;
    let refused = setup.chat_as("sk-wrong-canary", &chat("gpt-4o-mini", "Hi")).await;
    assert_eq!(refused.error("code"), "401");
    let unknown = setup.chat(&chat("nope", "Hi")).await;
    assert_eq!(unknown.error("code"), "400");
    assert_eq!(setup.get("/nowhere").await.error("code"), "404");
    let failed = setup.chat(&chat("gpt-4o-mini", "[[sim status=400]]")).await;
    assert_eq!(failed.error("code"), "400");
}

#[tokio::test]
async fn without_the_auth_filter_everybody_may_call() {
    let filters = "filters: [request_log, usage, validate, model_alias]";
    let setup = Setup::with(filters).await;
    let response = setup.chat_with(&[("authorization", "")], &chat("gpt-4o-mini", "Hi")).await;
    assert_eq!(response.status, 200, "{}", response.text());
}
