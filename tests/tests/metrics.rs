//! `/metrics` has LiteLLM's names and labels, so that its dashboards keep working.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::json;
use tollway_tests::servers::Refusing;
use tollway_tests::setup::eventually;
use tollway_tests::{Setup, chat, post_with, stream};

const KEY: &str = "sk-metrics-0000000001";
const FREE: &str = "sk-metrics-0000000002";

const CALLER: &str =
    "end_user hashed_api_key api_key_alias team team_alias user user_email org_id org_alias";
const CLIENT: &str = "client_ip user_agent";
const TARGET: &str = "requested_model model_id api_provider";
const PLACE: &str = "litellm_model_name model_id api_base api_provider";
const GENAI: &str =
    "gen_ai_operation_name gen_ai_system gen_ai_request_model gen_ai_response_model";

/// Names as they are exposed, and their labels.
fn wanted() -> Vec<(&'static str, String)> {
    let tokens = format!("{CALLER} {TARGET} model");
    let latency = format!("{CALLER} {TARGET} model model_group service_tier");
    let cache = "model hashed_api_key api_key_alias".to_owned();
    let key = "hashed_api_key api_key_alias".to_owned();
    let team = "team team_alias".to_owned();
    let own = "scope id alias model period user".to_owned();
    vec![
        (
            "litellm_proxy_total_requests_metric_total",
            format!("{CALLER} {CLIENT} {TARGET} status_code route"),
        ),
        (
            "litellm_proxy_failed_requests_metric_total",
            format!("{CALLER} {CLIENT} {TARGET} exception_status exception_class route"),
        ),
        ("litellm_spend_metric_total", format!("{CALLER} {CLIENT} {TARGET} model service_tier")),
        ("litellm_requests_metric_total", tokens.clone()),
        ("litellm_total_tokens_metric_total", tokens.clone()),
        ("litellm_input_tokens_metric_total", tokens.clone()),
        ("litellm_output_tokens_metric_total", tokens.clone()),
        ("litellm_llm_api_failed_requests_metric_total", format!("{CALLER} model")),
        ("litellm_request_total_latency_metric_bucket", format!("{latency} le")),
        ("litellm_llm_api_latency_metric_bucket", format!("{latency} le")),
        ("litellm_llm_api_time_to_first_token_metric_bucket", format!("{latency} le")),
        ("litellm_overhead_latency_metric_bucket", format!("model_group {PLACE} {key} le")),
        ("litellm_request_queue_time_seconds_bucket", format!("{tokens} le")),
        ("litellm_deployment_latency_per_output_token_bucket", format!("{PLACE} {key} {team} le")),
        ("litellm_deployment_state", PLACE.to_owned()),
        ("litellm_deployment_total_requests_total", PLACE.to_owned()),
        ("litellm_deployment_success_responses_total", PLACE.to_owned()),
        ("litellm_deployment_failure_responses_total", format!("{PLACE} exception_status")),
        ("litellm_deployment_cooled_down_total", PLACE.to_owned()),
        (
            "litellm_deployment_successful_fallbacks_total",
            format!("requested_model fallback_model {key} {team}"),
        ),
        ("litellm_deployment_rpm_limit", PLACE.to_owned()),
        ("litellm_deployment_tpm_limit", PLACE.to_owned()),
        ("litellm_remaining_api_key_budget_metric", key.clone()),
        ("litellm_api_key_max_budget_metric", key.clone()),
        ("litellm_api_key_budget_remaining_hours_metric", key),
        ("litellm_remaining_team_budget_metric", team.clone()),
        ("litellm_team_max_budget_metric", team.clone()),
        ("litellm_team_budget_remaining_hours_metric", team),
        ("litellm_remaining_user_budget_metric", "user".to_owned()),
        ("litellm_user_max_budget_metric", "user".to_owned()),
        ("litellm_user_budget_remaining_hours_metric", "user".to_owned()),
        ("litellm_remaining_customer_budget_metric", "end_user".to_owned()),
        ("litellm_customer_max_budget_metric", "end_user".to_owned()),
        ("litellm_provider_remaining_budget_metric", "api_provider".to_owned()),
        ("litellm_cache_hits_metric_total", cache.clone()),
        ("litellm_cache_misses_metric_total", cache.clone()),
        ("litellm_cached_tokens_metric_total", cache.clone()),
        ("tollway_cache_saved_dollars_total", cache),
        ("litellm_in_flight_requests", String::new()),
        ("tollway_budget_limit_dollars", own.clone()),
        ("tollway_budget_spent_dollars", own.clone()),
        ("tollway_budget_reserved_dollars", own.clone()),
        ("tollway_budget_reset_seconds", own),
        ("gen_ai_client_token_usage_bucket", format!("{GENAI} gen_ai_token_type le")),
        ("gen_ai_server_request_duration_bucket", format!("{GENAI} le")),
        ("gen_ai_server_time_to_first_token_bucket", format!("{GENAI} le")),
        ("gen_ai_server_time_per_output_token_bucket", format!("{GENAI} le")),
    ]
}

fn with_everything(nobody: &Refusing) -> String {
    format!(
        "
model_list:
  - model_name: gpt-4o-mini
    litellm_params: {{ model: openai/gpt-4o-mini, api_key: $KEY, api_base: $SIM/v1, rpm: 9000, tpm: 9000000 }}
  - model_name: fails
    litellm_params: {{ model: openai/gpt-4o, api_key: $KEY, api_base: 'http://{nobody}/v1' }}
  - model_name: falls
    litellm_params: {{ model: openai/gpt-4.1, api_key: $KEY, api_base: 'http://{nobody}/v1' }}
router_settings:
  num_retries: 0
  fallbacks: [{{ falls: [gpt-4o-mini] }}]
  provider_budget_config: {{ openai: {{ budget_limit: 9, time_period: 1d }} }}
litellm_settings: {{ cache: true, max_end_user_budget: 1 }}
teams: [{{ id: platform, alias: Platform, max_budget: 10, budget_duration: 1mo }}]
users: [{{ id: ann, email: ann@example.com, max_budget: 5, budget_duration: 1d }}]
keys:
  - {{ alias: ci, key: {KEY}, team: platform, user: ann, max_budget: 1, budget_duration: 1w }}
  - {{ alias: free, key: {FREE} }}
",
        nobody = nobody.address
    )
}

/// Every metric's names of labels.
fn exposed(text: &str) -> BTreeMap<&str, BTreeSet<&str>> {
    let mut exposed: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (name, rest) = line.split_at(line.find(['{', ' ']).expect("a value"));
        // The label before each `="`.
        let labels = rest.split("=\"").map(|part| part.rsplit(['{', ',']).next().expect("a name"));
        let count = rest.matches("=\"").count();
        exposed.entry(name).or_default().extend(labels.take(count));
    }
    exposed
}

#[tokio::test]
async fn names_and_labels_are_litellms() {
    let nobody = Refusing::start();
    let setup = Setup::with(&with_everything(&nobody)).await;
    let mut body = chat("gpt-4o-mini", "[[sim tokens=20]]");
    body["user"] = "jane".into();
    for body in [&body, &body, &stream("gpt-4o-mini", "slowly"), &chat("falls", "Hi")] {
        let response = setup.chat_as(KEY, body).await;
        assert_eq!(response.status, 200, "{}", response.text());
        setup.settled(&response).await;
    }
    for _ in 0..5 {
        setup.settled(&setup.chat_as(KEY, &chat("fails", "Hi")).await).await;
    }
    let text = setup.gateway.metrics().await;
    let exposed = exposed(&text);
    for (name, labels) in wanted() {
        let labels: BTreeSet<&str> = labels.split_whitespace().collect();
        assert_eq!(exposed.get(name), Some(&labels), "{name}");
    }
    for part in [
        r#"team="platform",team_alias="Platform",user="ann",user_email="ann@example.com""#,
        r#"litellm_deployment_rpm_limit{api_base"#,
        r#"exception_status="500""#,
    ] {
        assert!(text.contains(part), "{part}");
    }
    // The deployment that nobody answers for is down, and its figures outlive a reload.
    let metric = async |name, label| setup.gateway.metric(name, &[label]).await;
    let fails = r#"litellm_model_name="openai/gpt-4o""#;
    assert_eq!(metric("litellm_deployment_state", fails).await, 2.0);
    assert_eq!(metric("litellm_deployment_total_requests_total", fails).await, 5.0);
    let works = r#"litellm_model_name="openai/gpt-4o-mini""#;
    assert_eq!(metric("litellm_deployment_state", works).await, 0.0);
    assert_eq!(metric("litellm_deployment_success_responses_total", works).await, 3.0);
    let text = tollway_tests::setup::config(&with_everything(&nobody), &setup.simulator);
    setup.gateway.reload(&format!("{text}server: {{ body_timeout: 20s }}\n"));
    setup.gateway.stderr_line(|line| line.contains("reloaded")).await;
    assert_eq!(metric("litellm_deployment_failure_responses_total", fails).await, 5.0);
}

#[tokio::test]
async fn what_callers_choose_makes_no_series() {
    let nobody = Refusing::start();
    let setup = Setup::with(&with_everything(&nobody)).await;
    let count = async || setup.gateway.metrics().await.lines().count();
    let ask = async |n: usize| {
        let mut body = chat(&format!("invented-{n}"), "Hi");
        body["user"] = format!("user-{n}").into();
        body["metadata"] = json!({"tags": [format!("tag-{n}")]});
        let agent = format!("agent/{n}");
        let bearer = format!("Bearer {FREE}");
        let headers = [("authorization", bearer.as_str()), ("user-agent", agent.as_str())];
        post_with(setup.gateway.address, "/v1/chat/completions", &headers, &body).await;
        let headers = [("authorization", "Bearer sk-wrong"), ("user-agent", agent.as_str())];
        post_with(setup.gateway.address, &format!("/v1/{n}"), &headers, &body).await;
        body["model"] = "fails".into();
        body["service_tier"] = format!("tier-{n}").into();
        setup.settled(&setup.chat_as(FREE, &body).await).await;
    };
    ask(0).await;
    let before = count().await;
    for n in 1..20 {
        ask(n).await;
    }
    // End users have a budget each, whose gauges are as many as `series_max` and say so.
    let budgets = setup.gateway.metrics().await;
    let budgets = budgets.lines().filter(|line| line.contains("user-")).count();
    assert!(count().await <= before + budgets, "{}", setup.gateway.metrics().await);
}

#[tokio::test]
async fn key_without_a_budget_is_told_what_it_has_spent() {
    let nobody = Refusing::start();
    let mut setup = Setup::with(&with_everything(&nobody)).await;
    let dollars = |text: &str| text.parse::<f64>().expect("a number");
    let mut spent = 0.0;
    for n in 0..3 {
        let response = setup.chat_as(FREE, &chat("gpt-4o-mini", &format!("Hi {n}"))).await;
        spent += dollars(response.header("x-litellm-response-cost").expect("it has a cost"));
        let told = dollars(response.header("x-litellm-key-spend").expect("what it has spent"));
        assert!((told - spent).abs() < 1e-12, "{told} {spent}");
        assert_eq!(response.header("x-litellm-key-max-budget"), None);
        let parts = ["original", "input", "output"].map(|part| {
            let name = format!("x-litellm-response-cost-{part}");
            dollars(response.header(&name).expect("a part of the cost"))
        });
        assert!((parts[1] + parts[2] - parts[0]).abs() < 1e-12, "{parts:?}");
        setup.settled(&response).await;
    }
    let refused = setup.chat_as(FREE, &chat("nothing", "Hi")).await;
    let told = dollars(refused.header("x-litellm-key-spend").expect("errors tell it as well"));
    assert!((told - spent).abs() < 1e-12, "{told} {spent}");
    // Also after a restart.
    setup.gateway.signal("TERM");
    setup.gateway.ended().await;
    let options = tollway_tests::Options {
        config: Some(tollway_tests::setup::config(&with_everything(&nobody), &setup.simulator)),
        folder: Some(setup.gateway.folder.clone()),
        ..Default::default()
    };
    let again = tollway_tests::Gateway::start_with(options).await;
    let bearer = format!("Bearer {FREE}");
    let headers = [("authorization", bearer.as_str())];
    eventually("the ledger is read", async || {
        let body = chat("nothing", "Hi");
        let told = post_with(again.address, "/v1/chat/completions", &headers, &body).await;
        let told = dollars(told.header("x-litellm-key-spend").expect("what it has spent"));
        (told - spent).abs() < 1e-12
    })
    .await;
}
