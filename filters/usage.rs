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

mod exposition;
mod headers;
mod histogram;
mod meters;
#[cfg(test)]
mod tests;

use exposition::Exposition;
use headers::{TargetHeaders, Texts};
use meters::{Bounds, Calls, Labels, Meters, NONE, Value};

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
            let limits = [
                (headers::KEY_RPM, key.settings.limits.rpm),
                (headers::KEY_TPM, key.settings.limits.tpm),
            ];
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
        let now = ctx.ended(&self.clock);
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
            series.requests += 1;
            if !is_answered {
                series.failures += 1;
                if report.deployment.is_some() {
                    series.deployment_failures += 1;
                }
            }
            if report.fallbacks > 0 {
                let counter = match is_answered {
                    true => &mut series.fallbacks_answered,
                    false => &mut series.fallbacks_failed,
                };
                *counter += 1;
            }
            if let (Some(_), None, Some(cost)) = (&ctx.passage, &ctx.plan, &report.cost) {
                series.calls().spend(cost.total());
            }
            // A call that broke off may have cost something, one that never began did not.
            if ctx.plan.is_some() && (is_answered || report.usage.is_some()) {
                let calls = series.calls();
                count_usage(report, is_answered, calls);
                // How long the calls of a batch took, nobody knows.
                if is_answered && outcome == Outcome::Done && ctx.passage.is_none() {
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
        if let Some(passage) = ctx.passage.as_ref().filter(|passage| !passage.name.is_empty()) {
            labels.set(Value::RequestedModel, Some(&passage.name));
            labels.set(Value::ModelGroup, Some(&passage.name));
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

fn count_usage(report: &Report, is_answered: bool, calls: &mut Calls) {
    if is_answered {
        calls.answered += 1;
    }
    // The tokens of an answer out of the cache were counted when it was made.
    if report.cache_hit {
        return;
    }
    let Some(usage) = &report.usage else {
        calls.unmetered += 1;
        return;
    };
    match &report.cost {
        Some(cost) => calls.spend(cost.total()),
        None => {
            calls.unpriced += 1;
        }
    }
    let cache_writes = usage.cache_write_tokens.saturating_add(usage.cache_write_1h_tokens);
    for (counter, tokens) in [
        (&mut calls.cached, usage.cache_read_tokens),
        (&mut calls.cache_writes, cache_writes),
        (&mut calls.reasoning, usage.reasoning_tokens),
        (&mut calls.audio_input, usage.audio_prompt_tokens),
        (&mut calls.audio_output, usage.audio_completion_tokens),
    ] {
        *counter = counter.saturating_add(tokens);
    }
    calls.input.observe(&histogram::GENAI_TOKENS, usage.prompt_tokens);
    calls.output.observe(&histogram::GENAI_TOKENS, usage.completion_tokens);
}

fn count_times(ctx: &RequestCtx, now: Instant, calls: &mut Calls) {
    let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
    let times = Times::of(ctx, now);
    calls.total_latency.observe(&histogram::LATENCY, nanos(times.total));
    if let Some(upstream) = times.upstream {
        calls.genai_duration.observe(&histogram::GENAI_DURATION, nanos(times.total));
        calls.upstream_latency.observe(&histogram::LATENCY, nanos(upstream));
        calls.overhead.observe(&histogram::LATENCY, nanos(times.total.saturating_sub(upstream)));
        let tokens = ctx.report.usage.map_or(0, |usage| usage.completion_tokens);
        if let Some(each) = nanos(upstream).checked_div(tokens) {
            calls.latency_per_token.observe(&histogram::GENAI_PER_TOKEN, each);
        }
    }
    if let Some(started) = ctx.report.upstream_started {
        calls.queue_time.observe(&histogram::LATENCY, nanos(ctx.elapsed(started)));
    }
    // The first byte of an answer in one piece says nothing of tokens.
    let is_stream = ctx.view.as_ref().is_some_and(|view| view.stream);
    if let (true, Some(first)) = (is_stream, ctx.report.first_byte) {
        if let Some(started) = ctx.report.upstream_started {
            let waited = first.saturating_duration_since(started);
            calls.first_token.observe(&histogram::LATENCY, nanos(waited));
        }
        calls.genai_first_token.observe(&histogram::GENAI_FIRST_TOKEN, nanos(ctx.elapsed(first)));
        let tokens = ctx.report.usage.map_or(0, |usage| usage.completion_tokens);
        if let (Some(ended), 2..) = (ctx.report.upstream_ended, tokens) {
            let each = nanos(ended.saturating_duration_since(first)) / (tokens - 1);
            calls.genai_per_token.observe(&histogram::GENAI_PER_TOKEN, each);
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
