//! The filter from its config to what is shown.

use bytes::Bytes;
use http::Request;
use serde_json::json;
use tollway_filter_api::limits::RateLimits;
use tollway_filter_api::{
    Deployment, KeyHash, ModelDirectory, ModelGroup, Plan, RequestView, VirtualKey,
};
use tollway_wire::operation::{Dialect, Operation};
use tollway_wire::price::Price;
use tollway_wire::scan::{Limits, scan};
use tollway_wire::usage::Usage;

use super::*;

struct Models(Arc<ModelGroup>);

impl ModelDirectory for Models {
    fn resolve(&self, _: &str) -> Option<Arc<ModelGroup>> {
        None
    }
    fn groups(&self) -> Vec<Arc<ModelGroup>> {
        vec![Arc::clone(&self.0)]
    }
}

fn group() -> Arc<ModelGroup> {
    let dollars = |text: &str| text.parse().expect("a price");
    let deployment = Deployment {
        id: "id-1".into(),
        entry: 0,
        provider: "openai",
        model: "gpt-4o".into(),
        litellm_model: "openai/gpt-4o".into(),
        api_base: "https://api.openai.com/v1".into(),
        price: Some(Arc::new(Price::new(dollars("0.0000025"), dollars("0.00001")))),
        max_input_tokens: None,
        max_output_tokens: None,
        limits: RateLimits::default(),
        weight: 1,
    };
    Arc::new(ModelGroup {
        name: "gpt-4o-group".into(),
        deployments: vec![Arc::new(deployment)],
        ..ModelGroup::default()
    })
}

/// A filter, and a request that is about to be answered.
struct Case {
    deps: Deps,
    filter: Metering,
    ctx: RequestCtx,
    head: RequestHead,
}

impl Case {
    fn new(settings: serde_json::Value, body: &str) -> Case {
        let group = group();
        let deps = Deps { models: Arc::new(Models(Arc::clone(&group))), ..Deps::for_test() };
        let config = serde_json::from_value(settings).expect("settings are of the right kind");
        let filter = Metering::build(config, &deps, Slot(0)).expect("the settings are right");

        let arrived = deps.clock.now();
        let route = "/v1/chat/completions";
        let mut ctx = RequestCtx::new("call-1".into(), arrived, route);
        let mut key = VirtualKey::new(KeyHash([7; 32]));
        key.alias = Some("ci".into());
        Arc::make_mut(&mut key.settings).limits.rpm = Some(60);
        ctx.identity = Some(Arc::new(key));
        ctx.operation = Some(Operation::ChatCompletions);
        ctx.client = Some([10, 0, 0, 1].into());
        ctx.end_user = Some("jane".into());
        let object = scan(body.as_bytes(), &Limits::default()).expect("the body is valid");
        ctx.view = Some(Arc::new(RequestView {
            operation: Operation::ChatCompletions,
            dialect: Dialect::OpenAi,
            form: None,
            body: Bytes::copy_from_slice(body.as_bytes()),
            stream: object.bool(body.as_bytes(), "stream") == Some(true),
            object,
            include_usage: false,
        }));
        ctx.plan = Some(Plan { requested: "gpt-4o-group".into(), group: Arc::clone(&group) });
        deps.clock.advance(Duration::from_millis(2));
        let report = &mut ctx.report;
        report.status = Some(200);
        report.attempts = 1;
        report.deployment = group.deployments.first().cloned();
        report.upstream_started = Some(deps.clock.now());
        deps.clock.advance(Duration::from_millis(100));
        report.first_byte = Some(deps.clock.now());
        deps.clock.advance(Duration::from_millis(40));
        report.upstream_ended = Some(deps.clock.now());
        deps.clock.advance(Duration::from_millis(1));
        report.usage = Some(Usage { prompt_tokens: 11, completion_tokens: 5, ..Usage::default() });
        let head = Request::builder().header("user-agent", "test/1").body(());
        let head = head.expect("the head is valid").into_parts().0;
        Case { deps, filter, ctx, head }
    }

    fn respond(&mut self) -> Vec<(String, String)> {
        let status = self.ctx.report.status.unwrap_or(200);
        let streaming = self.ctx.view.as_ref().is_some_and(|view| view.stream);
        let mut response = ResponseHead { status, headers: Vec::new(), streaming };
        self.filter.response(&mut self.ctx, &self.head, &mut response);
        let text = |(name, value): (http::HeaderName, HeaderValue)| {
            (name.to_string(), value.to_str().expect("it is text").to_owned())
        };
        response.headers.into_iter().map(text).collect()
    }

    /// The metrics that are not 0 after the request's end, without their labels.
    fn end(&mut self, outcome: Outcome) -> Vec<String> {
        self.filter.end(&mut self.ctx, outcome);
        self.scrape().lines().filter(|line| !line.contains("_bucket{")).map(strip).collect()
    }

    fn scrape(&self) -> String {
        let families = self.deps.metrics.registry.gather();
        let text = prometheus::TextEncoder::new().encode_to_string(&families);
        let text = text.expect("it can be shown");
        let lines: Vec<_> = text.lines().filter(|line| !line.starts_with('#')).collect();
        lines.join("\n")
    }
}

fn strip(line: &str) -> String {
    let (name, rest) = line.split_once('{').expect("every metric has labels");
    let (_, value) = rest.rsplit_once("} ").expect("every metric has a value");
    format!("{name} {value}")
}

const PLAIN: &str = r#"{"model":"gpt-4o-group"}"#;
const STREAM: &str = r#"{"model":"gpt-4o-group","stream":true}"#;

#[test]
fn answer_says_what_it_cost_and_where_it_came_from() {
    let mut case = Case::new(json!({}), PLAIN);
    let expect = [
        ("x-request-id", "call-1"),
        ("x-litellm-response-cost", "0.0000775"),
        ("x-litellm-response-cost-original", "0.0000775"),
        ("x-litellm-response-cost-input", "0.0000275"),
        ("x-litellm-response-cost-output", "0.00005"),
        ("x-litellm-response-duration-ms", "143.000"),
        ("x-litellm-overhead-duration-ms", "3.000"),
        ("x-litellm-call-id", "call-1"),
        ("x-litellm-version", concat!("tollway-", env!("CARGO_PKG_VERSION"))),
        ("x-litellm-key-rpm-limit", "60"),
        ("x-litellm-model-id", "id-1"),
        ("x-litellm-model-name", "openai/gpt-4o"),
        ("x-litellm-model-group", "gpt-4o-group"),
        ("x-litellm-model-api-base", "https://api.openai.com/v1"),
        ("x-litellm-attempted-retries", "0"),
        ("x-litellm-attempted-fallbacks", "0"),
    ];
    let expect = expect.map(|(name, value)| (name.to_owned(), value.to_owned()));
    assert_eq!(case.respond(), expect);
    // The second time the headers of the deployment are there already.
    assert_eq!(case.respond(), expect);
}

#[test]
fn headers_of_a_gateway_upstream_are_replaced() {
    let mut case = Case::new(json!({}), PLAIN);
    let theirs = ["x-request-id", "x-litellm-call-id", "x-litellm-model-id"];
    let kept = ["x-litellm-cache-key", "x-ratelimit-limit-requests"];
    let names = theirs.into_iter().chain(kept);
    let headers = names.map(|name| (HeaderName::from_static(name), "theirs".parse().unwrap()));
    let mut response = ResponseHead { status: 200, headers: headers.collect(), streaming: false };
    case.filter.response(&mut case.ctx, &case.head, &mut response);
    let left = response.headers.iter().filter(|(_, value)| value == "theirs");
    assert_eq!(left.map(|(name, _)| name.as_str()).collect::<Vec<_>>(), kept);
}

#[test]
fn headers_can_be_fewer() {
    let names = |setting: &str| -> Vec<String> {
        let mut case = Case::new(json!({"response_headers": setting}), PLAIN);
        case.respond().into_iter().map(|(name, _)| name).collect()
    };
    let minimal = ["x-request-id", "x-litellm-response-cost", "x-litellm-call-id"];
    assert_eq!(names("minimal"), minimal);
    assert!(names("none").is_empty());
    // The cost is known all the same.
    let mut case = Case::new(json!({"response_headers": "none"}), PLAIN);
    case.respond();
    assert_eq!(case.ctx.report.cost.expect("it is known").total(), PicoDollars(77_500_000));
}

#[test]
fn stream_says_no_cost_in_its_head_but_is_charged() {
    let mut case = Case::new(json!({}), STREAM);
    let usage = case.ctx.report.usage.take();
    assert!(case.respond().iter().all(|(name, _)| name != "x-litellm-response-cost"));
    case.ctx.report.usage = usage;
    let metrics = case.end(Outcome::Done);
    assert!(metrics.contains(&"litellm_spend_metric_total 0.0000775".to_owned()));
    let per_token = "gen_ai_server_time_per_output_token_sum 0.01".to_owned();
    assert!(metrics.contains(&per_token), "{metrics:?}");
}

#[test]
fn error_carries_the_ids_and_costs_nothing() {
    let mut case = Case::new(json!({}), PLAIN);
    case.ctx.report = Report { status: Some(401), ..Report::default() };
    (case.ctx.plan, case.ctx.identity) = (None, None);
    let headers = case.respond();
    assert!(headers.contains(&("x-litellm-call-id".to_owned(), "call-1".to_owned())));
    assert!(headers.contains(&("x-request-id".to_owned(), "call-1".to_owned())));
    assert!(headers.contains(&("x-litellm-response-cost".to_owned(), "0".to_owned())));
}

#[test]
fn answered_call_is_counted_in_every_metric() {
    let mut case = Case::new(json!({}), STREAM);
    let expect = [
        "gen_ai_client_token_usage_sum 11",
        "gen_ai_client_token_usage_count 1",
        "gen_ai_client_token_usage_sum 5",
        "gen_ai_client_token_usage_count 1",
        "gen_ai_server_request_duration_sum 0.143",
        "gen_ai_server_request_duration_count 1",
        "gen_ai_server_time_per_output_token_sum 0.01",
        "gen_ai_server_time_per_output_token_count 1",
        "gen_ai_server_time_to_first_token_sum 0.102",
        "gen_ai_server_time_to_first_token_count 1",
        "litellm_deployment_latency_per_output_token_sum 0.028",
        "litellm_deployment_latency_per_output_token_count 1",
        "litellm_input_tokens_metric_total 11",
        "litellm_llm_api_latency_metric_sum 0.14",
        "litellm_llm_api_latency_metric_count 1",
        "litellm_llm_api_time_to_first_token_metric_sum 0.1",
        "litellm_llm_api_time_to_first_token_metric_count 1",
        "litellm_output_tokens_metric_total 5",
        "litellm_overhead_latency_metric_sum 0.003",
        "litellm_overhead_latency_metric_count 1",
        "litellm_proxy_total_requests_metric_total 1",
        "litellm_request_queue_time_seconds_sum 0.002",
        "litellm_request_queue_time_seconds_count 1",
        "litellm_request_total_latency_metric_sum 0.143",
        "litellm_request_total_latency_metric_count 1",
        "litellm_requests_metric_total 1",
        "litellm_spend_metric_total 0.0000775",
        "litellm_total_tokens_metric_total 16",
    ];
    assert_eq!(case.end(Outcome::Done), expect);
}

#[test]
fn labels_are_those_of_litellm() {
    let mut case = Case::new(json!({}), PLAIN);
    case.end(Outcome::Done);
    let text = case.scrape();
    let line = text.lines().find(|line| line.starts_with("litellm_spend")).expect("it is there");
    let hash = "07".repeat(32);
    assert_eq!(
        line,
        format!(
            "litellm_spend_metric_total{{end_user=\"None\",hashed_api_key=\"{hash}\",\
                 api_key_alias=\"ci\",team=\"None\",team_alias=\"None\",user=\"None\",\
                 user_email=\"None\",org_id=\"None\",org_alias=\"None\",client_ip=\"None\",\
                 user_agent=\"None\",requested_model=\"gpt-4o-group\",model_id=\"id-1\",\
                 api_provider=\"openai\",model=\"gpt-4o\",service_tier=\"None\"}} 0.0000775"
        )
    );
}

#[test]
fn labels_that_callers_choose_have_to_be_switched_on() {
    let settings =
        json!({"end_user_label": true, "client_ip_label": true, "user_agent_label": true});
    let mut case = Case::new(settings, PLAIN);
    case.respond();
    case.end(Outcome::Done);
    let text = case.scrape();
    for label in [r#"end_user="jane""#, r#"client_ip="10.0.0.1""#, r#"user_agent="test/1""#] {
        assert!(text.contains(label), "{label} in {text}");
    }
}

#[test]
fn refused_request_is_a_failure_without_tokens() {
    let mut case = Case::new(json!({}), PLAIN);
    let kind = Some("rate_limit_error".to_owned());
    case.ctx.report = Report { status: Some(429), error_kind: kind, ..Report::default() };
    let expect = [
        "litellm_proxy_failed_requests_metric_total 1",
        "litellm_proxy_total_requests_metric_total 1",
    ];
    assert_eq!(case.end(Outcome::Done), expect);
    let text = case.scrape();
    assert!(text.contains(r#"exception_status="429",exception_class="rate_limit_error""#));
}

#[test]
fn broken_stream_is_a_failure_that_is_charged() {
    let mut case = Case::new(json!({}), STREAM);
    let metrics = case.end(Outcome::Broken);
    let has = |line: &str| metrics.contains(&line.to_owned());
    assert!(has("litellm_proxy_failed_requests_metric_total 1"));
    assert!(has("litellm_spend_metric_total 0.0000775"));
    assert!(!has("litellm_requests_metric_total 1"));
}

#[test]
fn client_that_leaves_early_counts_as_499() {
    let mut case = Case::new(json!({}), PLAIN);
    case.ctx.report = Report::default();
    case.end(Outcome::ClientGone);
    assert!(case.scrape().contains(r#"status_code="499""#));
}

#[test]
fn cache_hit_costs_nothing_and_counts_no_tokens() {
    let mut case = Case::new(json!({}), PLAIN);
    let usage = case.ctx.report.usage;
    case.ctx.report = Report { status: Some(200), cache_hit: true, usage, ..Report::default() };
    let headers = case.respond();
    assert!(headers.contains(&("x-litellm-response-cost".to_owned(), "0".to_owned())));
    let expect = [
        "litellm_proxy_total_requests_metric_total 1",
        "litellm_request_total_latency_metric_sum 0.143",
        "litellm_request_total_latency_metric_count 1",
        "litellm_requests_metric_total 1",
    ];
    assert_eq!(case.end(Outcome::Done), expect);
}

#[test]
fn call_without_a_price_is_counted_as_such() {
    let mut case = Case::new(json!({}), PLAIN);
    let deployment = case.ctx.report.deployment.as_deref().expect("it is there").clone();
    case.ctx.report.deployment = Some(Arc::new(Deployment { price: None, ..deployment }));
    assert!(case.respond().iter().all(|(name, _)| name != "x-litellm-response-cost"));
    let metrics = case.end(Outcome::Done);
    assert!(metrics.contains(&"tollway_unpriced_requests_total 1".to_owned()));
    assert!(metrics.contains(&"litellm_input_tokens_metric_total 11".to_owned()));
}

#[test]
fn call_without_token_counts_is_counted_as_such() {
    let mut case = Case::new(json!({}), STREAM);
    case.ctx.report.usage = None;
    let metrics = case.end(Outcome::ClientGone);
    assert!(metrics.contains(&"tollway_unmetered_requests_total 1".to_owned()));
}

#[test]
fn service_tier_is_a_label_and_sets_the_price() {
    let body = r#"{"model":"gpt-4o-group","service_tier":"flex"}"#;
    let mut case = Case::new(json!({}), body);
    case.end(Outcome::Done);
    assert!(case.scrape().contains(r#"service_tier="flex""#));
    let body = r#"{"model":"gpt-4o-group","service_tier":"invented"}"#;
    let mut case = Case::new(json!({}), body);
    case.end(Outcome::Done);
    assert!(!case.scrape().contains("invented"));
}

#[test]
fn probes_are_not_counted() {
    let mut case = Case::new(json!({}), PLAIN);
    case.ctx.route = "/metrics";
    assert!(case.end(Outcome::Done).is_empty());
}

#[test]
fn figures_outlive_a_reload() {
    let mut case = Case::new(json!({}), PLAIN);
    case.filter = Metering::build(UsageConfig::default(), &case.deps, Slot(1)).expect("again");
    case.end(Outcome::Done);
    case.filter = Metering::build(UsageConfig::default(), &case.deps, Slot(1)).expect("again");
    let metrics = case.end(Outcome::Done);
    assert!(metrics.contains(&"litellm_proxy_total_requests_metric_total 2".to_owned()));
}
