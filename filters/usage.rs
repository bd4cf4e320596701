//! `usage` meters: what a request cost, how long it took, and who made it.
//!
//! Place it first, or after `request_log`, which shows what was found out here. Metrics have
//! LiteLLM's names and labels, so that its dashboards keep working; missing label values are the
//! text `None`. Money is counted in whole pico-dollars and becomes a float when Prometheus reads it.
//!
//! What callers can invent must not fill the memory: `end_user`, `client_ip` and `user_agent` stay
//! `None` unless switched on; a model name below a wildcard has figures of its own once it has
//! answered; and beyond `models_max` and `series_max` all is counted as `other`.
//!
//! ```yaml
//! - filter: usage
//!   response_headers: minimal
//!   end_user_label: true
//! ```

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use http::header::USER_AGENT;
use http::{HeaderName, HeaderValue};
use serde::Deserialize;
use smallvec::SmallVec;
use tollway_filter_api::ctx::Report;
use tollway_filter_api::{
    BuildFilter, Clock, ConfigError, Deps, Filter, Outcome, Phases, RequestCtx, RequestHead,
    ResponseHead, Slot,
};
use tollway_wire::price::PicoDollars;

use crate::settle::{service_tier, settle};
use crate::text::{push_dollars, push_millis};

mod headers;
mod meters;

use headers::{TargetHeaders, Texts};
use meters::{Bounds, Calls, Exposition, Labels, Meters, NONE, Value};

/// How much of a `user-agent` becomes a label.
const USER_AGENT_BYTES_MAX: usize = 64;

/// The status that counts for a client that left before it got one, as in LiteLLM.
const CLIENT_LEFT: u16 = 499;

/// The `usage` entry of a filter list.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct UsageConfig {
    /// Which headers tell the caller about the request. Each costs a little.
    pub response_headers: ResponseHeaders,
    /// Whether the `end_user` label holds the end user named in the request. Makes series for each.
    pub end_user_label: bool,
    /// Whether the `client_ip` label holds the caller's address. Makes series for each.
    pub client_ip_label: bool,
    /// Whether the `user_agent` label holds the first 64 bytes of that header. Makes series for
    /// each.
    pub user_agent_label: bool,
    /// How many model names have figures of their own.
    pub models_max: usize,
    /// How many combinations of labels have figures of their own. Each takes about 3 KiB.
    pub series_max: usize,
}

impl Default for UsageConfig {
    fn default() -> Self {
        UsageConfig {
            response_headers: ResponseHeaders::Full,
            end_user_label: false,
            client_ip_label: false,
            user_agent_label: false,
            models_max: 1_000,
            series_max: 10_000,
        }
    }
}

/// Which response headers are set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ResponseHeaders {
    /// All of LiteLLM's that are known.
    #[default]
    Full,
    /// The ids and the cost.
    Minimal,
    /// None.
    None,
}

/// Finds out the cost, sets headers and counts.
pub struct Metering {
    config: UsageConfig,
    bounds: Bounds,
    clock: Clock,
    slot: Slot,
    meters: Arc<Meters>,
    targets: TargetHeaders,
    version: HeaderValue,
}

/// What [`Filter::end`] has to know of the head.
struct UserAgent(Box<str>);

impl BuildFilter for Metering {
    const NAME: &'static str = "usage";
    type Config = UsageConfig;

    fn build(config: UsageConfig, deps: &Deps, slot: Slot) -> Result<Self, ConfigError> {
        let meters = deps
            .metrics
            .get_or_make(|registry| {
                let meters = Arc::new(Meters::default());
                registry.register(Box::new(Exposition::new(Arc::clone(&meters))?))?;
                Ok(meters)
            })
            .map_err(|error| ConfigError::new("", format!("metrics: {error}")))?;
        meters.ask_names(Arc::clone(&deps.keys));
        for group in deps.models.groups() {
            meters.know_model(Arc::clone(&group.name));
        }
        Ok(Metering {
            bounds: Bounds { models_max: config.models_max, series_max: config.series_max },
            config,
            clock: deps.clock.clone(),
            slot,
            meters: Arc::clone(&meters),
            targets: TargetHeaders::default(),
            version: HeaderValue::from_static(concat!("tollway-", env!("CARGO_PKG_VERSION"))),
        })
    }
}

impl Filter for Metering {
    fn phases(&self) -> Phases {
        Phases::RESPONSE | Phases::END
    }

    fn response(&self, ctx: &mut RequestCtx, head: &RequestHead, response: &mut ResponseHead) {
        if self.config.user_agent_label
            && let Some(agent) = head.headers.get(USER_AGENT)
        {
            let agent = agent.as_bytes();
            let agent = &agent[..agent.len().min(USER_AGENT_BYTES_MAX)];
            ctx.set_slot(self.slot, UserAgent(String::from_utf8_lossy(agent).into()));
        }
        if !response.streaming {
            settle(ctx);
        }
        if self.config.response_headers != ResponseHeaders::None {
            self.add_headers(ctx, response);
        }
    }

    fn end(&self, ctx: &mut RequestCtx, outcome: Outcome) {
        settle(ctx);
        // Those who watch us are not what we watch.
        if !ctx.route.starts_with("/health") && ctx.route != "/metrics" {
            self.count(ctx, outcome);
        }
    }
}

/// What the request cost, where that is known before the answer is sent.
fn known_cost(ctx: &RequestCtx, response: &ResponseHead) -> Option<PicoDollars> {
    if response.status >= 400 {
        return Some(PicoDollars::ZERO);
    }
    // That of a stream is known when it has ended.
    ctx.report.cost.map(|cost| cost.total())
}

impl Metering {
    // Headers are pushed, not set: to look for an earlier one of each name takes longer than all the
    // rest. Those that came from upstream, which may be a gateway like us, are dropped beforehand.
    fn add_headers(&self, ctx: &RequestCtx, response: &mut ResponseHead) {
        let is_full = self.config.response_headers == ResponseHeaders::Full;
        let report = &ctx.report;
        let target = ctx.plan.as_ref().zip(report.deployment.as_ref());
        let cost = known_cost(ctx, response);

        let mut texts = Texts::with_capacity(192);
        let mut names: SmallVec<[HeaderName; 8]> = SmallVec::new();
        texts.add(|text| text.extend_from_slice(ctx.id.as_bytes()));
        names.push(headers::REQUEST_ID);
        if let Some(cost) = cost {
            texts.add(|text| push_dollars(text, cost));
            names.push(headers::COST);
        }
        if is_full {
            if let Some(cost) = report.cost.filter(|_| response.status < 400) {
                for (name, amount) in headers::parts(&cost) {
                    texts.add(|text| push_dollars(text, amount));
                    names.push(name);
                }
            }
            let times = Times::of(ctx, self.clock.now());
            texts.add(|text| push_millis(text, times.total));
            names.push(headers::DURATION);
            if let Some(upstream) = times.upstream {
                texts.add(|text| push_millis(text, times.total.saturating_sub(upstream)));
                names.push(headers::OVERHEAD);
            }
        }

        response.headers.retain(|(name, _)| !headers::is_ours(name));
        response.headers.reserve(16);
        let id_at = response.headers.len();
        response.headers.extend(names.into_iter().zip(texts.into_values()));
        let id = response.headers[id_at].1.clone();
        response.headers.push((headers::CALL_ID, id));
        if !is_full {
            return;
        }
        response.headers.push((headers::VERSION, self.version.clone()));
        if let Some(key) = &ctx.identity {
            let limits = [(headers::KEY_RPM, key.limits.rpm), (headers::KEY_TPM, key.limits.tpm)];
            for (name, limit) in limits {
                response.headers.extend(limit.map(|limit| (name, headers::count(limit))));
            }
        }
        if let Some((plan, deployment)) = target {
            self.targets.add(&plan.group.name, deployment, response);
            let retries = headers::count(report.attempts.saturating_sub(1).into());
            response.headers.push((headers::RETRIES, retries));
            response.headers.push((headers::FALLBACKS, headers::count(report.fallbacks.into())));
        }
    }

    fn count(&self, ctx: &RequestCtx, outcome: Outcome) {
        let now = self.clock.now();
        let report = &ctx.report;
        let status = match (report.status, outcome) {
            (Some(status), _) => status,
            (None, Outcome::ClientGone) => CLIENT_LEFT,
            (None, _) => 0,
        };
        let is_answered = (1..400).contains(&status) && outcome != Outcome::Broken;
        let mut address = String::new();
        let labels = self.labels(ctx, status, is_answered, &mut address);
        self.meters.with(&labels, self.bounds, |series| {
            series.requests.fetch_add(1, Relaxed);
            if !is_answered {
                series.failures.fetch_add(1, Relaxed);
                if report.deployment.is_some() {
                    series.deployment_failures.fetch_add(1, Relaxed);
                }
            }
            if report.fallbacks > 0 {
                let counter = match is_answered {
                    true => &series.fallbacks_answered,
                    false => &series.fallbacks_failed,
                };
                counter.fetch_add(1, Relaxed);
            }
            // A call that broke off may have cost something, one that never began did not.
            if ctx.plan.is_some() && (is_answered || report.usage.is_some()) {
                let calls = series.calls();
                count_usage(report, is_answered, calls);
                if is_answered && outcome == Outcome::Done {
                    count_times(ctx, now, calls);
                }
            }
        });
    }

    fn labels<'a>(
        &self,
        ctx: &'a RequestCtx,
        status: u16,
        is_answered: bool,
        address: &'a mut String,
    ) -> Labels<'a> {
        let mut labels = Labels::default();
        labels.status = status;
        labels.route = ctx.route;
        labels.operation = ctx.operation.map_or(NONE, |operation| operation.name());
        labels.tier = service_tier(ctx).map_or(NONE, |(name, _)| name);
        if let Some(key) = &ctx.identity {
            labels.set(Value::KeyHash, Some(&key.hash_hex));
            labels.set(Value::KeyAlias, key.alias.as_deref());
            labels.set(Value::Team, key.team.as_deref());
            labels.set(Value::User, key.user.as_deref());
        }
        if self.config.end_user_label {
            labels.set(Value::EndUser, ctx.end_user.as_deref());
        }
        if let (true, Some(client)) = (self.config.client_ip_label, ctx.client) {
            *address = client.to_string();
            labels.set(Value::ClientIp, Some(address));
        }
        if self.config.user_agent_label {
            let agent = ctx.slot::<UserAgent>(self.slot);
            labels.set(Value::UserAgent, agent.map(|agent| &*agent.0));
        }
        // Without a plan nobody knows whether there is a model of that name.
        if let Some(plan) = &ctx.plan {
            labels.set(Value::RequestedModel, Some(&plan.requested));
            labels.set(Value::ModelGroup, Some(&plan.group.name));
        }
        if let Some(deployment) = &ctx.report.deployment {
            labels.set(Value::ModelId, Some(&deployment.id));
            labels.set(Value::Model, Some(&deployment.model));
            labels.set(Value::LitellmModel, Some(&deployment.litellm_model));
            labels.set(Value::Provider, Some(deployment.provider));
            labels.set(Value::ApiBase, Some(&deployment.api_base));
        }
        if !is_answered {
            labels.set(Value::ErrorKind, ctx.report.error_kind.as_deref());
        }
        labels
    }
}

fn count_usage(report: &Report, is_answered: bool, calls: &Calls) {
    if is_answered {
        calls.answered.fetch_add(1, Relaxed);
    }
    // The tokens of an answer out of the cache were counted when it was made.
    if report.cache_hit {
        return;
    }
    let Some(usage) = &report.usage else {
        calls.unmetered.fetch_add(1, Relaxed);
        return;
    };
    match &report.cost {
        Some(cost) => calls.spend(cost.total()),
        None => {
            calls.unpriced.fetch_add(1, Relaxed);
        }
    }
    let cache_writes = usage.cache_write_tokens.saturating_add(usage.cache_write_1h_tokens);
    for (counter, tokens) in [
        (&calls.cached, usage.cache_read_tokens),
        (&calls.cache_writes, cache_writes),
        (&calls.reasoning, usage.reasoning_tokens),
        (&calls.audio_input, usage.audio_prompt_tokens),
        (&calls.audio_output, usage.audio_completion_tokens),
    ] {
        if tokens > 0 {
            counter.fetch_add(tokens, Relaxed);
        }
    }
    calls.input.observe(&meters::GENAI_TOKENS, usage.prompt_tokens);
    calls.output.observe(&meters::GENAI_TOKENS, usage.completion_tokens);
}

fn count_times(ctx: &RequestCtx, now: Instant, calls: &Calls) {
    let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
    let times = Times::of(ctx, now);
    calls.total_latency.observe(&meters::LATENCY, nanos(times.total));
    if let Some(upstream) = times.upstream {
        calls.genai_duration.observe(&meters::GENAI_DURATION, nanos(times.total));
        calls.upstream_latency.observe(&meters::LATENCY, nanos(upstream));
        calls.overhead.observe(&meters::LATENCY, nanos(times.total.saturating_sub(upstream)));
        let tokens = ctx.report.usage.map_or(0, |usage| usage.completion_tokens);
        if let Some(each) = nanos(upstream).checked_div(tokens) {
            calls.latency_per_token.observe(&meters::GENAI_PER_TOKEN, each);
        }
    }
    if let Some(started) = ctx.report.upstream_started {
        calls.queue_time.observe(&meters::LATENCY, nanos(ctx.elapsed(started)));
    }
    // The first byte of an answer in one piece says nothing of tokens.
    let is_stream = ctx.view.as_ref().is_some_and(|view| view.stream);
    if let (true, Some(first)) = (is_stream, ctx.report.first_byte) {
        if let Some(started) = ctx.report.upstream_started {
            let waited = first.saturating_duration_since(started);
            calls.first_token.observe(&meters::LATENCY, nanos(waited));
        }
        calls.genai_first_token.observe(&meters::GENAI_FIRST_TOKEN, nanos(ctx.elapsed(first)));
        let tokens = ctx.report.usage.map_or(0, |usage| usage.completion_tokens);
        if let (Some(ended), 2..) = (ctx.report.upstream_ended, tokens) {
            let each = nanos(ended.saturating_duration_since(first)) / (tokens - 1);
            calls.genai_per_token.observe(&meters::GENAI_PER_TOKEN, each);
        }
    }
}

/// How long a request took, and what of it was the provider's.
struct Times {
    total: Duration,
    upstream: Option<Duration>,
}

impl Times {
    fn of(ctx: &RequestCtx, now: Instant) -> Times {
        let report = &ctx.report;
        // When the head of a stream is sent, its first event is as far as the provider got.
        let until = report.upstream_ended.or(report.first_byte).unwrap_or(now);
        let upstream = report.upstream_started.map(|from| until.saturating_duration_since(from));
        Times { total: ctx.elapsed(now), upstream }
    }
}

#[cfg(test)]
mod tests {
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
            fallbacks: Vec::new(),
            context_window_fallbacks: Vec::new(),
            content_policy_fallbacks: Vec::new(),
            limits: RateLimits::default(),
            access_groups: Vec::new(),
            hidden: false,
            mode: None,
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
            key.limits.rpm = Some(60);
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
            report.usage =
                Some(Usage { prompt_tokens: 11, completion_tokens: 5, ..Usage::default() });
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
        let mut response =
            ResponseHead { status: 200, headers: headers.collect(), streaming: false };
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
        let line =
            text.lines().find(|line| line.starts_with("litellm_spend")).expect("it is there");
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
}
