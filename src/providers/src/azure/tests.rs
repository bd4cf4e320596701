use std::collections::BTreeMap;

use bytes::Bytes;
use serde_json::{Value, json};
use tollway_wire::scan::{Limits, scan};

use super::*;

fn place(operation: Operation, dialect: Dialect, model: &str) -> Place<'_> {
    Place { operation, dialect, model, stream: false }
}

/// Where a chat goes.
#[track_caller]
fn check(azure: &Azure, base: &str, version: Option<&str>, model: &str, expect: &str) {
    let access = Access { api_base: Some(base), api_version: version, ..Access::default() };
    let place = place(Operation::ChatCompletions, Dialect::OpenAi, model);
    let url = format!("{}{}", azure.base(base), azure.path(&place, &access));
    assert_eq!(url, expect);
}

#[test]
fn deployments_have_dated_versions() {
    let expect = "https://r.openai.azure.com/openai/deployments/gpt-4o/chat/completions?api-version=2024-10-21";
    for base in [
        "https://r.openai.azure.com",
        "https://r.openai.azure.com/",
        "https://r.openai.azure.com/openai",
        "https://r.openai.azure.com/openai/deployments/other/chat/completions",
    ] {
        check(&Azure::OPENAI, base, Some("2024-10-21"), "gpt-4o", expect);
    }
    check(
        &Azure::OPENAI,
        &format!("{}?api-version=2024-10-21", &expect[..66]),
        None,
        "gpt-4o",
        expect,
    );
    check(
        &Azure::OPENAI,
        "https://r.openai.azure.com",
        None,
        "o_series/mine",
        "https://r.openai.azure.com/openai/deployments/mine/chat/completions?api-version=2025-04-01-preview",
    );
    check(&Azure::FOUNDRY, "https://r.openai.azure.com", Some("2024-10-21"), "gpt-4o", expect);
}

#[test]
fn v1_has_no_deployments() {
    let expect = "https://r.openai.azure.com/openai/v1/chat/completions";
    let base = "https://r.openai.azure.com";
    check(&Azure::OPENAI, base, Some("v1"), "gpt-4o", expect);
    check(&Azure::OPENAI, base, Some("latest"), "gpt-4o", expect);
    check(
        &Azure::OPENAI,
        base,
        Some("preview"),
        "gpt-4o",
        &format!("{expect}?api-version=preview"),
    );
    check(&Azure::OPENAI, &format!("{base}/openai/v1/"), Some("2024-10-21"), "gpt-4o", expect);
    check(&Azure::OPENAI, expect, None, "gpt-4o", expect);
    check(
        &Azure::FOUNDRY,
        "https://r.services.ai.azure.com/openai/v1",
        None,
        "m",
        "https://r.services.ai.azure.com/openai/v1/chat/completions",
    );
}

#[test]
fn foundry_has_its_own_api() {
    let expect =
        "https://r.services.ai.azure.com/models/chat/completions?api-version=2024-05-01-preview";
    check(&Azure::FOUNDRY, "https://r.services.ai.azure.com", None, "m", expect);
    check(&Azure::FOUNDRY, "https://r.services.ai.azure.com/models", None, "m", expect);
    check(&Azure::FOUNDRY, expect, None, "m", expect);
    check(
        &Azure::FOUNDRY,
        "https://m.eastus.models.ai.azure.com/",
        None,
        "m",
        "https://m.eastus.models.ai.azure.com/chat/completions",
    );
}

#[test]
fn a_deployment_never_leaves_its_segment() {
    check(
        &Azure::OPENAI,
        "https://r.openai.azure.com",
        Some("2024-10-21"),
        "a/../b?x=1#&\u{e9}",
        "https://r.openai.azure.com/openai/deployments/a%2F..%2Fb%3Fx%3D1%23%26%C3%A9/chat/completions?api-version=2024-10-21",
    );
    check(
        &Azure::OPENAI,
        "https://r.openai.azure.com",
        Some("x&y=z"),
        "..",
        "https://r.openai.azure.com/openai/deployments/_/chat/completions?api-version=x%26y%3Dz",
    );
    let body = Bytes::from_static(b"{\"model\":\"m\",\"messages\":[]}");
    let object = scan(&body, &Limits::default()).expect("valid");
    let call = Call::new(Operation::ChatCompletions, Dialect::OpenAi, &body, &object);
    for model in ["", ".", "..", "o_series/.."] {
        let target = Target { model: model.into(), drop_params: false, max_output_tokens: None };
        assert!(Azure::OPENAI.request(&call, &target).is_err(), "{model}");
    }
}

#[test]
fn responses_go_where_they_are() {
    let path = |version| {
        let access = Access { api_version: version, ..Access::default() };
        let place = place(Operation::ChatCompletions, Dialect::Responses, "m");
        Azure::OPENAI.path(&place, &access).into_owned()
    };
    assert_eq!(path(None), "/openai/v1/responses");
    assert_eq!(path(Some("v1")), "/openai/v1/responses");
    assert_eq!(path(Some("2024-10-21")), "/openai/v1/responses");
    assert_eq!(
        path(Some("2025-04-01-preview")),
        "/openai/responses?api-version=2025-04-01-preview"
    );
    assert_eq!(path(Some("\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}\u{e9}")), "/openai/v1/responses");
    let dialect = Azure::OPENAI.dialect(Operation::ChatCompletions, Dialect::Responses, "m");
    assert_eq!(dialect, Some(Dialect::Responses));
}

fn settings(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

#[test]
fn keys_and_tokens_are_marked_sensitive() {
    let access = Access { api_key: Some("k"), ..Access::default() };
    let headers = Azure::OPENAI.headers(&access).expect("valid");
    assert_eq!((headers[0].0.as_str(), &headers[0].1), ("api-key", &HeaderValue::from_static("k")));
    assert!(headers[0].1.is_sensitive());
    let serverless = "https://m.eastus.models.ai.azure.com";
    let access = Access { api_key: Some("k"), api_base: Some(serverless), ..Access::default() };
    assert_eq!(Azure::FOUNDRY.headers(&access).expect("valid")[0].1, "Bearer k");

    let with_token = settings(&[("azure_ad_token", "t")]);
    let access = Access { settings: &with_token, ..Access::default() };
    let headers = Azure::OPENAI.headers(&access).expect("valid");
    assert_eq!(headers[0].1, "Bearer t");
    assert!(headers[0].1.is_sensitive());
    assert!(Azure::OPENAI.token_request(&access, Duration::ZERO) == Ok(None));
}

#[test]
fn an_application_asks_for_a_token() {
    let all = [("tenant_id", "t/1"), ("client_id", "c"), ("client_secret", "s&x=~")];
    let some = settings(&all);
    let access = Access { settings: &some, ..Access::default() };
    assert_eq!(Azure::OPENAI.headers(&access), Ok(Vec::new()));
    let request =
        Azure::OPENAI.token_request(&access, Duration::ZERO).expect("valid").expect("one");
    assert_eq!(request.url, "https://login.microsoftonline.com/t%2F1/oauth2/v2.0/token");
    assert_eq!(
        String::from_utf8(request.body).expect("text"),
        "grant_type=client_credentials&client_id=c&client_secret=s%26x%3D~&scope=https%3A%2F%2Fcognitiveservices.azure.com%2F.default"
    );
    let mut elsewhere = all.to_vec();
    elsewhere.push(("azure_authority_host", "login.microsoftonline.us"));
    let elsewhere = settings(&elsewhere);
    let access = Access { settings: &elsewhere, ..Access::default() };
    let request =
        Azure::OPENAI.token_request(&access, Duration::ZERO).expect("valid").expect("one");
    assert!(request.url.starts_with("https://login.microsoftonline.us/"), "{}", request.url);
}

#[test]
fn what_is_missing_is_named() {
    let refused = |pairs: &[(&str, &str)]| {
        let some = settings(pairs);
        let access = Access { settings: &some, ..Access::default() };
        Azure::OPENAI.headers(&access).expect_err("refused").setting
    };
    assert_eq!(refused(&[]), "api_key");
    assert_eq!(refused(&[("tenant_id", "t"), ("client_id", "c")]), "client_secret");
    assert_eq!(refused(&[("client_secret", "c")]), "tenant_id");
    assert_eq!(refused(&[("azure_ad_token", "oidc/x")]), "azure_ad_token");
    let insecure = settings(&[
        ("tenant_id", "t"),
        ("client_id", "c"),
        ("client_secret", "s"),
        ("azure_authority_host", "http://x"),
    ]);
    let access = Access { settings: &insecure, ..Access::default() };
    let error = Azure::OPENAI.token_request(&access, Duration::ZERO).err();
    assert_eq!(error.map(|error| error.setting), Some("azure_authority_host"));
}

#[test]
fn stored_objects_and_websockets_have_their_paths() {
    let check = |azure: &Azure, base, version, stored: Option<&str>, socket: Option<&str>| {
        let access = Access { api_base: Some(base), api_version: version, ..Access::default() };
        assert_eq!(azure.stored_path("/files/f", &access).as_deref(), stored);
        assert_eq!(azure.realtime_path("o_series/a b", &access).as_deref(), socket);
    };
    let base = "https://r.openai.azure.com";
    check(
        &Azure::OPENAI,
        base,
        Some("2024-10-21"),
        Some("/openai/files/f?api-version=2024-10-21"),
        Some("/openai/realtime?api-version=2024-10-21&deployment=a%20b"),
    );
    let newer = (Some("/openai/v1/files/f"), Some("/openai/v1/realtime?model=a%20b"));
    check(&Azure::OPENAI, base, Some("v1"), newer.0, newer.1);
    let preview = Some("/openai/v1/files/f?api-version=preview");
    check(&Azure::OPENAI, base, Some("preview"), preview, newer.1);
    check(&Azure::FOUNDRY, "https://r.services.ai.azure.com", None, None, None);
}

#[test]
fn filtered_content_has_its_code() {
    let body = json!({"error": {"message": "The response was filtered due to the prompt triggering Azure OpenAI's content management policy.",
        "type": null, "param": "prompt", "code": "content_filter", "status": 400,
        "innererror": {"code": "ResponsibleAIPolicyViolation", "content_filter_result": {"jailbreak": {"filtered": true, "detected": true}}}}});
    let error = Azure::OPENAI.error(400, body.to_string().as_bytes());
    assert_eq!((error.status, error.code.as_deref()), (400, Some("content_policy_violation")));
    let body = json!({"error": {"code": "DeploymentNotFound", "message": "The API deployment for this resource does not exist."}});
    let error = Azure::OPENAI.error(404, body.to_string().as_bytes());
    assert_eq!(error.code.as_deref(), Some("model_not_found"));
    let body = json!({"error": {"code": "401", "message": "Access denied due to invalid subscription key."}});
    let error = Azure::OPENAI.error(401, body.to_string().as_bytes());
    assert_eq!(error.code.as_deref(), Some("invalid_api_key"));
}

#[test]
fn the_deployment_is_the_model_of_the_body() {
    let body = Bytes::from_static(b"{\"model\":\"alias\",\"messages\":[],\"stream\":true}");
    let object = scan(&body, &Limits::default()).expect("valid");
    let call =
        Call::new(Operation::ChatCompletions, Dialect::OpenAi, &body, &object).streamed(true);
    let target = Target { model: "gpt-4o".into(), drop_params: false, max_output_tokens: None };
    let sent = Azure::OPENAI.request(&call, &target).expect("valid");
    let json: Value = serde_json::from_slice(&sent.bytes).expect("JSON");
    assert_eq!(
        json,
        json!({"model": "gpt-4o", "messages": [], "stream": true, "stream_options": {"include_usage": true}})
    );
    assert!(sent.usage_added);

    let target = Target { model: "o_series/mine".into(), ..target };
    let sent = Azure::OPENAI.request(&call, &target).expect("valid");
    let json: Value = serde_json::from_slice(&sent.bytes).expect("JSON");
    assert_eq!(json["model"], "mine");
}
