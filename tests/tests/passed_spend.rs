//! What is handed on as it is has its line in the ledger, too, and costs what the config says.

use serde_json::{Value, json};
use tollway_tests::gateway::{Gateway, MASTER_KEY};
use tollway_tests::servers::HandMade;
use tollway_tests::setup::{UPSTREAM_KEY, within};
use tollway_tests::{Response, Setup, get};

const KEY: &str = "sk-passed-0123456789";
const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}";
const FAILED: &str = "HTTP/1.1 500 Oh\r\ncontent-length: 2\r\n\r\n{}";

/// The lines of the ledger about a request, as soon as there is one.
async fn logged(gateway: &Gateway, response: &Response) -> Value {
    let id = response.header("x-litellm-call-id").expect("answers have an id");
    let bearer = format!("Bearer {MASTER_KEY}");
    let path = format!("/spend/logs?request_id={id}");
    let look = async {
        loop {
            let found = get(gateway.address, &path, &[("authorization", &bearer)]).await.json();
            if found.as_array().is_some_and(|lines| !lines.is_empty()) {
                return found;
            }
        }
    };
    let found = within(tollway_tests::gateway::PATIENCE, "a line of the ledger", look).await;
    assert_eq!(found.as_array().map(Vec::len), Some(1), "{found}");
    found[0].clone()
}

async fn ask(gateway: &Gateway, upstream: &HandMade, path: &str, answer: &str) -> Response {
    let bearer = format!("Bearer {KEY}");
    let headers = [("authorization", bearer.as_str())];
    let serve = async { upstream.call().await.write(answer).await };
    let (response, ()) = tokio::join!(get(gateway.address, path, &headers), serve);
    response
}

#[tokio::test]
async fn pass_through_costs_what_is_configured_and_no_more_than_its_caller_may_spend() {
    let upstream = HandMade::start().await;
    let target = format!("http://{}", upstream.address);
    let gateway = Gateway::start(&format!(
        "
general_settings:
  master_key: {MASTER_KEY}
  pass_through_endpoints:
    - {{ path: /search, target: '{target}/v2', cost_per_request: 0.004, headers: {{ x-api-key: {UPSTREAM_KEY} }} }}
    - {{ path: /free, target: '{target}' }}
keys:
  - {{ alias: ci, key: {KEY}, team: dev, user: anna, max_budget: 0.01 }}
"
    ))
    .await;
    let first = ask(&gateway, &upstream, "/search/a?q=secret", OK).await;
    let line = logged(&gateway, &first).await;
    let expect = json!({
        "call_type": "pass_through_endpoint", "api_base": format!("{target}/v2"), "spend": 0.004,
        "status": "success", "user": "anna", "team_id": "dev", "total_tokens": 0,
    });
    for (name, value) in expect.as_object().expect("a map") {
        assert_eq!(&line[name], value, "{name}: {line}");
    }
    assert_eq!(line["metadata"]["user_api_key_alias"], "ci");
    assert!(!line.to_string().contains("secret"), "{line}");
    // What failed there is free.
    let failed = ask(&gateway, &upstream, "/search", FAILED).await;
    let line = logged(&gateway, &failed).await;
    assert_eq!((&line["status"], &line["spend"]), (&json!("failure"), &json!(0)));
    assert_eq!(line["metadata"]["status_code"], 500);
    // Two fit into the key's budget, the third does not; nobody is asked.
    assert_eq!(ask(&gateway, &upstream, "/search", OK).await.status, 200);
    let bearer = format!("Bearer {KEY}");
    let refused = get(gateway.address, "/search", &[("authorization", &bearer)]).await;
    assert_eq!((refused.status, refused.error("type")), (422, json!("budget_exceeded")));
    let told =
        gateway.metric("tollway_budget_spent_dollars", &["scope=\"key\"", "alias=\"ci\""]).await;
    assert_eq!(told, 0.008);
    // What costs nothing goes on.
    let free = ask(&gateway, &upstream, "/free", OK).await;
    assert_eq!(free.status, 200);
    assert_eq!(logged(&gateway, &free).await["spend"], 0);
}

#[tokio::test]
async fn files_and_batches_have_their_lines() {
    let setup = Setup::with(&format!(
        "
keys:
  - {{ alias: ci, key: {KEY}, team: dev }}
"
    ))
    .await;
    let bearer = format!("Bearer {KEY}");
    let headers = [("authorization", bearer.as_str())];
    for (path, call_type, status) in [
        ("/v1/files", "afile_list", "success"),
        ("/v1/files/file-nothing", "afile_retrieve", "failure"),
        ("/batches", "alist_batches", "success"),
        ("/v1/fine_tuning/jobs", "alist_fine_tuning_jobs", "success"),
        ("/v1/batches?model=gpt-4o-mini", "alist_batches", "success"),
    ] {
        let response = get(setup.gateway.address, path, &headers).await;
        let line = logged(&setup.gateway, &response).await;
        assert_eq!((&line["call_type"], &line["spend"]), (&json!(call_type), &json!(0)), "{path}");
        assert_eq!((&line["status"], &line["team_id"]), (&json!(status), &json!("dev")), "{path}");
        assert_eq!(line["custom_llm_provider"], "openai");
        let base = format!("{}/v1", setup.simulator.base_url());
        assert_eq!(line["api_base"], base);
    }
}
