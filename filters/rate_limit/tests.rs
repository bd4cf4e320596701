use std::collections::HashMap;
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::json;
use tollway_filter_api::identity::KeySettings;
use tollway_filter_api::{Flow, ModelGroup, Plan, Reject, RequestView};
use tollway_wire::operation::{Dialect, Operation};
use tollway_wire::scan::{Limits, scan};
use tollway_wire::usage::Usage;

use super::*;

const MINUTE: Duration = Duration::from_secs(60);

/// Counts exactly, by a list of all grants: a `LimitStore` as the contract describes it.
#[derive(Default)]
struct ExactLimits {
    grants: Mutex<HashMap<LimitKey, Vec<(Instant, u64)>>>,
}

impl LimitStore for ExactLimits {
    fn reserve(
        &self,
        key: LimitKey,
        limit: u64,
        amount: u64,
        now: Instant,
    ) -> Result<(Ticket, Remaining), Exceeded> {
        let mut all = self.grants.lock();
        let grants = all.entry(key.clone()).or_default();
        let parallel = key.unit == LimitUnit::Parallel;
        grants.retain(|(at, _)| parallel || now - *at < MINUTE);
        let remaining = limit.saturating_sub(grants.iter().map(|(_, amount)| amount).sum());
        if amount > remaining {
            let retry_after = grants.first().map_or(MINUTE, |(at, _)| *at + MINUTE - now);
            let retry_after = if parallel { Duration::ZERO } else { retry_after };
            return Err(Exceeded { limit, remaining, retry_after });
        }
        grants.push((now, amount));
        let reset = if parallel { Duration::ZERO } else { MINUTE };
        let remaining = Remaining { limit, remaining: remaining - amount, reset };
        Ok((Ticket { key, at: now, amount }, remaining))
    }

    fn settle(&self, ticket: &Ticket, used: u64) {
        let mut all = self.grants.lock();
        let grants = all.get_mut(&ticket.key).unwrap();
        let grant = grants.iter_mut().find(|grant| **grant == (ticket.at, ticket.amount));
        grant.unwrap().1 = used;
    }
}

/// The filter with `settings`, and what it counts with.
struct Bench {
    filter: RateLimit,
    deps: Deps,
    limits: Arc<ExactLimits>,
}

/// What became of a request.
type Admitted = Result<RequestCtx, Box<Reject>>;

impl Bench {
    fn new(settings: serde_json::Value) -> Bench {
        let limits = Arc::new(ExactLimits::default());
        let deps = Deps { limits: Arc::clone(&limits) as _, ..Deps::for_test() };
        let config = serde_json::from_value(settings).unwrap();
        let filter = RateLimit::build(config, &deps, Slot(3)).unwrap();
        Bench { filter, deps, limits }
    }

    /// A chat request that has arrived.
    fn ctx(&self, key: Option<&Arc<VirtualKey>>) -> RequestCtx {
        let mut ctx = RequestCtx::new("id".into(), self.deps.clock.now(), "/v1/chat/completions");
        ctx.operation = Some(Operation::ChatCompletions);
        ctx.identity = key.cloned();
        ctx.client = Some("192.0.2.1".parse().unwrap());
        ctx.plan = Some(Plan { requested: "gpt".into(), group: Arc::new(group("gpt")) });
        ctx.view =
            Some(Arc::new(view(Operation::ChatCompletions, r#"{"messages":[],"max_tokens":100}"#)));
        ctx
    }

    /// Sends a request through both phases.
    fn admit(&self, mut ctx: RequestCtx) -> Admitted {
        let (head, ()) = http::Request::new(()).into_parts();
        for phase in [Filter::head, Filter::body] {
            let refused = match phase(&self.filter, &mut ctx, &head) {
                Step::Ready(Flow::Next) => continue,
                Step::Ready(Flow::Reject(refused)) => refused,
                _ => panic!("neither let on nor refused"),
            };
            // As the gateway does it: a refused request ends like any other.
            assert!(self.headers(&mut ctx).is_empty());
            self.filter.end(&mut ctx, Outcome::Done);
            return Err(refused);
        }
        Ok(ctx)
    }

    fn send(&self, key: Option<&Arc<VirtualKey>>) -> Admitted {
        self.admit(self.ctx(key))
    }

    /// The headers a request is answered with.
    fn headers(&self, ctx: &mut RequestCtx) -> Vec<String> {
        let (head, ()) = http::Request::new(()).into_parts();
        let mut response = ResponseHead { status: 200, headers: Vec::new(), streaming: false };
        self.filter.response(ctx, &head, &mut response);
        let line = |(name, value): (_, http::HeaderValue)| format!("{name}: {}", text(&value));
        response.headers.into_iter().map(line).collect()
    }

    /// What is counted now for one thing: `key/tokens`.
    fn counted(&self, scope: &str, unit: LimitUnit) -> u64 {
        let all = self.limits.grants.lock();
        let of = all.iter().filter(|(key, _)| key.scope == scope && key.unit == unit);
        of.flat_map(|(_, grants)| grants).map(|(_, amount)| amount).sum()
    }
}

fn text(value: &http::HeaderValue) -> &str {
    value.to_str().unwrap()
}

fn key(number: u8, limits: RateLimits) -> Arc<VirtualKey> {
    let settings = Arc::new(KeySettings { limits, ..KeySettings::default() });
    Arc::new(VirtualKey { settings, ..VirtualKey::new(KeyHash([number; 32])) })
}

fn limits(rpm: Option<u64>, tpm: Option<u64>, max_parallel_requests: Option<u64>) -> RateLimits {
    RateLimits { rpm, tpm, max_parallel_requests }
}

fn group(name: &str) -> ModelGroup {
    ModelGroup { name: name.into(), ..ModelGroup::default() }
}

fn view(operation: Operation, body: &str) -> RequestView {
    RequestView {
        dialect: Dialect::OpenAi,
        form: None,
        operation,
        body: body.to_owned().into(),
        object: scan(body.as_bytes(), &Limits::default()).unwrap(),
        stream: false,
        include_usage: false,
    }
}

fn usage(total: u64) -> Option<Usage> {
    Some(Usage { prompt_tokens: total, ..Usage::default() })
}

#[test]
fn over_the_keys_requests_is_refused_until_the_window_has_room() {
    let bench = Bench::new(json!({}));
    let key = key(1, limits(Some(2), None, None));
    bench.send(Some(&key)).unwrap();
    bench.deps.clock.advance(Duration::from_millis(29_500));
    bench.send(Some(&key)).unwrap();
    let refused = bench.send(Some(&key)).map(drop).unwrap_err();
    assert_eq!((refused.status, &*refused.kind), (429, "rate_limit_error"));
    assert_eq!(refused.code.as_deref(), Some("rate_limit_exceeded"));
    assert_eq!(
        refused.message,
        format!(
            "Rate limit exceeded for api_key: {}. Limit type: requests. Current limit: 2, \
             Remaining: 0. Limit resets at: 2026-01-01 00:01:00 UTC",
            "01".repeat(32)
        )
    );
    assert_eq!(refused.retry_after, Some(Duration::from_secs(31)), "30.5 seconds, rounded up");
    let headers: Vec<_> =
        refused.headers.iter().map(|(name, value)| format!("{name}: {}", text(value))).collect();
    assert_eq!(
        headers,
        [
            "rate_limit_type: requests",
            "reset_at: 2026-01-01 00:01:00 UTC",
            "x-ratelimit-limit-requests: 2",
            "x-ratelimit-remaining-requests: 0",
            "x-ratelimit-reset-requests: 31s",
            "x-ratelimit-api_key-limit-requests: 2",
            "x-ratelimit-api_key-remaining-requests: 0",
        ]
    );
    bench.deps.clock.advance(refused.retry_after.unwrap());
    bench.send(Some(&key)).unwrap();
}

#[test]
fn each_limit_names_itself_when_it_refuses() {
    fn check(settings: serde_json::Value, key: VirtualKey, expect: &str) {
        let bench = Bench::new(settings);
        let key = Arc::new(key);
        bench.send(Some(&key)).unwrap();
        let refused = bench.send(Some(&key)).map(drop).unwrap_err();
        assert!(refused.message.starts_with(expect), "{} is not {expect}", refused.message);
    }
    let plain = || VirtualKey { user: Some("ann".into()), ..VirtualKey::new(KeyHash([0xab; 32])) };
    let hash = "ab".repeat(32);
    let exceeded = "Rate limit exceeded for";
    let one = json!({"rpm": 1});
    check(
        json!({"global": one}),
        plain(),
        &format!("{exceeded} global: all. Limit type: requests. Current limit: 1, Remaining: 0."),
    );
    check(json!({"per_key": one}), plain(), &format!("{exceeded} api_key: {hash}. Limit type"));
    check(json!({"per_user": one}), plain(), &format!("{exceeded} user: ann. Limit type"));
    check(json!({"per_model": one}), plain(), &format!("{exceeded} model: gpt. Limit type"));
    check(
        json!({"per_key": {"max_parallel_requests": 1}}),
        plain(),
        &format!("{exceeded} api_key: {hash}. Limit type: max_parallel_requests. Current limit: 1"),
    );
    check(
        json!({"per_user": {"tpm": 150}}),
        plain(),
        &format!("{exceeded} user: ann. Limit type: tokens. Current limit: 150, Remaining: 50."),
    );
    let model_limits = [("gpt".to_owned(), limits(Some(1), None, None))].into();
    let settings = Arc::new(KeySettings { model_limits, ..KeySettings::default() });
    let of_model = VirtualKey { settings, ..plain() };
    check(json!({}), of_model, &format!("{exceeded} model_per_key: {hash}:gpt. Limit type"));
    let rate = json!({"requests_per_second": 1});
    check(
        json!({"per_address": rate}),
        plain(),
        &format!("{exceeded} address: 192.0.2.1. Limit type: requests_per_second. Current limit"),
    );
    check(json!({"per_key_rate": rate}), plain(), &format!("{exceeded} api_key: {hash}. Limit"));
    check(json!({"global_rate": rate}), plain(), &format!("{exceeded} global: all. Limit type"));
}

#[test]
fn a_keys_own_limit_goes_before_the_default() {
    let bench = Bench::new(json!({"per_key": {"rpm": 1}}));
    let generous = key(1, limits(Some(3), None, None));
    assert_eq!((0..9).filter(|_| bench.send(Some(&generous)).is_ok()).count(), 3);
    assert_eq!(
        (0..9)
            .filter(|_| bench.send(Some(&key(2, limits(None, Some(10_000), None)))).is_ok())
            .count(),
        1
    );
}

#[test]
fn requests_without_a_key_share_one_allowance() {
    let bench = Bench::new(json!({"per_key": {"rpm": 2}}));
    bench.send(None).unwrap();
    bench.send(None).unwrap();
    let refused = bench.send(None).map(drop).unwrap_err();
    assert!(refused.message.contains("api_key: anonymous."), "{}", refused.message);
    bench.send(Some(&key(1, RateLimits::default()))).unwrap();
}

#[test]
fn users_are_counted_over_all_their_keys() {
    let bench = Bench::new(json!({"per_user": {"rpm": 2}}));
    let of_ann = |number| {
        let key = VirtualKey::new(KeyHash([number; 32]));
        Arc::new(VirtualKey { user: Some("ann".into()), ..key })
    };
    bench.send(Some(&of_ann(1))).unwrap();
    bench.send(Some(&of_ann(2))).unwrap();
    assert!(bench.send(Some(&of_ann(3))).is_err());
    bench.send(Some(&key(4, RateLimits::default()))).unwrap();
}

#[test]
fn end_users_count_only_if_asked_for_and_by_key() {
    let send = |bench: &Bench, number, user: &str| {
        let mut ctx = bench.ctx(Some(&key(number, RateLimits::default())));
        ctx.end_user = Some(user.into());
        bench.admit(ctx).is_ok()
    };
    let bench = Bench::new(json!({"per_user": {"rpm": 1}, "user_from_request": true}));
    assert!(send(&bench, 1, "ann") && !send(&bench, 1, "ann"));
    assert!(send(&bench, 1, "bob"));
    assert!(send(&bench, 2, "ann"), "one tenant's names are not another's");
    let bench = Bench::new(json!({"per_user": {"rpm": 1}}));
    assert!(send(&bench, 1, "ann") && send(&bench, 1, "ann"));
}

#[test]
fn master_key_is_held_to_global_limits_only() {
    let tight = json!({"rpm": 1, "tpm": 1, "max_parallel_requests": 1});
    let rate = json!({"requests_per_second": 1});
    let bench = Bench::new(json!({
        "per_key": tight, "per_user": tight, "per_model": tight, "per_address": rate,
        "per_key_rate": rate, "global": {"rpm": 3},
    }));
    let master = VirtualKey {
        master: true,
        user: Some("admin".into()),
        ..VirtualKey::new(KeyHash([9; 32]))
    };
    let master = Arc::new(master);
    assert_eq!((0..9).filter(|_| bench.send(Some(&master)).is_ok()).count(), 3);
}

#[test]
fn only_model_calls_count() {
    let bench = Bench::new(json!({
        "global": {"rpm": 1}, "per_address": {"requests_per_second": 1},
    }));
    for _ in 0..9 {
        let mut ctx = bench.ctx(None);
        ctx.operation = None;
        bench.admit(ctx).unwrap();
    }
    bench.send(None).unwrap();
}

#[test]
fn refused_request_is_counted_nowhere() {
    let bench = Bench::new(json!({
        "global": {"rpm": 9, "tpm": 120, "max_parallel_requests": 9},
        "per_key": {"rpm": 9, "tpm": 9_000, "max_parallel_requests": 9},
    }));
    let first = bench.send(None).unwrap();
    assert!(bench.send(None).is_err(), "there is no room for 100 tokens more");
    for scope in ["global", "api_key"] {
        assert_eq!(bench.counted(scope, LimitUnit::Requests), 1, "{scope}");
        assert_eq!(bench.counted(scope, LimitUnit::Parallel), 1, "{scope}");
        assert_eq!(bench.counted(scope, LimitUnit::Tokens), 100, "{scope}");
    }
    drop(first);
}

#[test]
fn reservation_becomes_what_was_used() {
    fn check(report: impl FnOnce(&mut RequestCtx), outcome: Outcome, expect: u64) {
        let bench = Bench::new(json!({
            "per_key": {"rpm": 9, "tpm": 1000, "max_parallel_requests": 1},
        }));
        let mut ctx = bench.send(None).unwrap();
        assert_eq!(bench.counted("api_key", LimitUnit::Tokens), 100);
        report(&mut ctx);
        bench.filter.end(&mut ctx, outcome);
        assert_eq!(bench.counted("api_key", LimitUnit::Tokens), expect);
        assert_eq!(bench.counted("api_key", LimitUnit::Requests), 1, "it was a request");
        assert_eq!(bench.counted("api_key", LimitUnit::Parallel), 0, "its place is free");
    }
    let now = Instant::now();
    check(|ctx| ctx.report.usage = usage(42), Outcome::Done, 42);
    check(|ctx| ctx.report.usage = usage(700), Outcome::Broken, 700);
    let cut_short = |ctx: &mut RequestCtx| {
        let body = format!(r#"{{"messages":["{}"]}}"#, "x".repeat(36));
        ctx.view = Some(Arc::new(view(Operation::ChatCompletions, &body)));
        ctx.report.usage = Some(Usage { completion_tokens: 7, ..Usage::default() });
        ctx.report.usage_estimated = true;
    };
    check(cut_short, Outcome::ClientGone, 10 + 7);
    // A later filter refused it, or no provider could be reached.
    check(|_| {}, Outcome::Done, 0);
    check(|ctx| ctx.report.upstream_started = Some(now), Outcome::Done, 0);
    let hit = |ctx: &mut RequestCtx| {
        ctx.report.cache_hit = true;
        ctx.report.usage = usage(42);
    };
    check(hit, Outcome::Done, 0);
    let answered = |status| {
        move |ctx: &mut RequestCtx| {
            ctx.report.upstream_started = Some(now);
            ctx.report.first_byte = Some(now);
            ctx.report.status = Some(status);
        }
    };
    // An answer nobody counted is taken for what was guessed; an error is not an answer.
    check(answered(200), Outcome::Broken, 100);
    check(answered(400), Outcome::Done, 0);
    let left = |ctx: &mut RequestCtx| ctx.report.upstream_started = Some(now);
    check(left, Outcome::ClientGone, 100);
    check(|_| {}, Outcome::ClientGone, 0);
}

#[test]
fn place_is_free_again_when_a_request_ends() {
    let bench = Bench::new(json!({"per_model": {"max_parallel_requests": 1}}));
    let mut first = bench.send(None).unwrap();
    let refused = bench.send(None).map(drop).unwrap_err();
    assert_eq!(refused.retry_after, Some(Duration::from_secs(1)), "nobody knows; not at once");
    bench.filter.end(&mut first, Outcome::ClientGone);
    bench.send(None).unwrap();
}

#[test]
fn answer_carries_the_keys_limits_first() {
    let bench = Bench::new(json!({
        "global": {"rpm": 2, "tpm": 900}, "per_model": {"tpm": 300}, "scope_headers": true,
    }));
    let mut ctx = bench.send(Some(&key(1, limits(Some(10), None, Some(4))))).unwrap();
    assert_eq!(
        bench.headers(&mut ctx),
        [
            "x-ratelimit-limit-requests: 10",
            "x-ratelimit-remaining-requests: 9",
            "x-ratelimit-reset-requests: 1m0s",
            "x-ratelimit-api_key-limit-requests: 10",
            "x-ratelimit-api_key-remaining-requests: 9",
            "x-ratelimit-api_key-limit-max_parallel_requests: 4",
            "x-ratelimit-api_key-remaining-max_parallel_requests: 3",
            "x-ratelimit-limit-tokens: 300",
            "x-ratelimit-remaining-tokens: 200",
            "x-ratelimit-reset-tokens: 1m0s",
            "x-ratelimit-model-limit-tokens: 300",
            "x-ratelimit-model-remaining-tokens: 200",
        ]
    );
}

#[test]
fn headers_of_each_limit_are_left_out_unless_they_are_wanted() {
    let bench = Bench::new(json!({"per_model": {"tpm": 300}}));
    let mut ctx = bench.send(Some(&key(1, limits(Some(10), None, Some(4))))).unwrap();
    assert_eq!(
        bench.headers(&mut ctx),
        [
            "x-ratelimit-limit-requests: 10",
            "x-ratelimit-remaining-requests: 9",
            "x-ratelimit-reset-requests: 1m0s",
            "x-ratelimit-limit-tokens: 300",
            "x-ratelimit-remaining-tokens: 200",
            "x-ratelimit-reset-tokens: 1m0s",
        ]
    );
}

#[test]
fn upstreams_own_limits_give_way_to_the_callers() {
    let bench = Bench::new(json!({"per_key": {"rpm": 5}}));
    let mut ctx = bench.send(None).unwrap();
    let (head, ()) = http::Request::new(()).into_parts();
    let mut response = ResponseHead { status: 200, headers: Vec::new(), streaming: false };
    let names = ["x-ratelimit-remaining-requests", "x-ratelimit-remaining-tokens"];
    for name in names.map(http::HeaderName::from_static) {
        response.set(name, http::HeaderValue::from_static("77"));
    }
    bench.filter.response(&mut ctx, &head, &mut response);
    let value = |name| {
        let all: Vec<_> = response.headers.iter().filter(|(have, _)| have == name).collect();
        assert_eq!(all.len(), 1, "{name}");
        text(&all[0].1)
    };
    assert_eq!(value(names[0]), "4");
    assert_eq!(value(names[1]), "77", "we have none to say instead");
}

#[test]
fn without_limits_nothing_is_kept_and_nothing_said() {
    let bench = Bench::new(json!({}));
    let mut ctx = bench.send(Some(&key(1, RateLimits::default()))).unwrap();
    assert!(ctx.slot::<Reserved>(Slot(3)).is_none());
    assert!(bench.headers(&mut ctx).is_empty());
    bench.filter.end(&mut ctx, Outcome::Done);
    assert!(bench.limits.grants.lock().is_empty());
}

#[test]
fn request_that_never_fits_is_told_so() {
    let bench = Bench::new(json!({"per_key": {"tpm": 99}}));
    let refused = bench.send(None).map(drop).unwrap_err();
    let hint = "never fits: shorten it or lower its maximum of output tokens";
    assert!(refused.message.ends_with(hint), "{}", refused.message);
    assert_eq!(refused.retry_after, Some(MINUTE));
}

#[test]
fn tokens_are_guessed_from_body_and_maximum() {
    fn check(operation: Operation, body: &str, expect: u64) {
        assert_eq!(estimate::tokens(&view(operation, body), None, 1_024), expect, "{body:.90}");
    }
    let chat = Operation::ChatCompletions;
    check(chat, r#"{"messages":[],"max_tokens":100}"#, 100);
    check(chat, r#"{"messages":[],"max_completion_tokens":5,"max_tokens":100}"#, 5);
    check(chat, r#"{"messages":[],"max_tokens":100,"n":3}"#, 300);
    check(chat, r#"{"messages":[],"max_tokens":"many"}"#, 1_024);
    check(chat, r#"{"messages":[],"max_tokens":-1,"n":0}"#, 1_024);
    check(chat, r#"{"messages":[],"max_tokens":0}"#, 1);
    check(chat, r#"{"messages":[],"max_tokens":18446744073709551615,"n":9}"#, u64::MAX);
    let text = "x".repeat(396);
    check(chat, &format!(r#"{{"messages":["{text}"],"max_tokens":1}}"#), 101);
    check(chat, &format!(r#"{{"messages":[],"tools":["{text}"],"max_tokens":1}}"#), 101);
    check(Operation::Completions, &format!(r#"{{"prompt":["{text}"]}}"#), 1_124);
    check(Operation::Embeddings, &format!(r#"{{"input":["{text}"],"max_tokens":7}}"#), 100);
    let photo = format!(r#"{{"url":"data:image/png;base64,{}"}}"#, "A".repeat(1 << 20));
    let body = format!(r#"{{"messages":[{photo},{photo}],"max_tokens":1}}"#);
    // The 21 bytes around the two files are text.
    check(chat, &body, 2 * 1_024 + 21 / 4 + 1);
    let scan = format!(r#"{{"type":"base64","data":"{}"}}"#, "A".repeat(1 << 20));
    check(chat, &format!(r#"{{"messages":[{scan}],"max_tokens":1}}"#), 1_024 + 29 / 4 + 1);
}

#[test]
fn models_bounds_bound_the_guess() {
    let model = |input, output| {
        let mut group = group("gpt");
        group.deployments.push(deployment(input, output));
        group
    };
    let text = "x".repeat(4_000);
    let body = format!(r#"{{"messages":["{text}"],"max_tokens":5000,"n":2}}"#);
    let view = view(Operation::ChatCompletions, &body);
    let guess = |group: &ModelGroup| estimate::tokens(&view, Some(group), 1_024);
    assert_eq!(guess(&model(None, None)), 1_001 + 10_000);
    assert_eq!(guess(&model(Some(500), Some(2_000))), 500 + 4_000);
    let mut mixed = model(Some(500), Some(2_000));
    mixed.deployments.push(deployment(Some(700), None));
    assert_eq!(guess(&mixed), 700 + 10_000);
}

fn deployment(
    max_input_tokens: Option<u64>,
    max_output_tokens: Option<u64>,
) -> Arc<tollway_filter_api::Deployment> {
    Arc::new(tollway_filter_api::Deployment {
        id: "d".into(),
        entry: 0,
        provider: "openai",
        model: "gpt".into(),
        litellm_model: "openai/gpt".into(),
        api_base: "https://api.openai.com/v1".into(),
        price: None,
        max_input_tokens,
        max_output_tokens,
        limits: RateLimits::default(),
        weight: 1,
    })
}

#[test]
fn settings_that_make_no_sense_are_refused() {
    fn check(settings: serde_json::Value, path: &str, message: &str) {
        let built = tollway_filter_api::Builtin::of::<RateLimit>().build;
        let error = built(settings, &Deps::for_test(), Slot(0)).err().unwrap();
        assert_eq!(error.path, path);
        assert!(error.message.contains(message), "{}", error.message);
    }
    check(json!({"per_key": {"rmp": 1}}), "per_key.rmp", "unknown field");
    check(json!({"per_key": {"rpm": 0}}), "per_key.rpm", "nonzero");
    check(json!({"per_adress": {}}), "per_adress", "unknown field");
    check(json!({"per_address": {"burst": 1}}), "per_address", "requests_per_second");
    let fast = json!({"global_rate": {"requests_per_second": 2_000_000}});
    check(fast, "global_rate.requests_per_second", "at most");
}

/// Has nothing at hand until it was asked: a limit that is counted elsewhere.
#[derive(Default)]
struct AskedFirst {
    counted: ExactLimits,
    brought: Arc<Mutex<Vec<LimitKey>>>,
    /// How often it was asked.
    asked: Mutex<usize>,
    /// Whether it brings what it is asked for.
    is_vain: bool,
}

impl LimitStore for AskedFirst {
    fn reserve(
        &self,
        key: LimitKey,
        limit: u64,
        amount: u64,
        now: Instant,
    ) -> Result<(Ticket, Remaining), Exceeded> {
        if !self.brought.lock().contains(&key) {
            return Err(Exceeded { limit, remaining: 0, retry_after: MINUTE });
        }
        self.counted.reserve(key, limit, amount, now)
    }

    fn settle(&self, ticket: &Ticket, used: u64) {
        self.counted.settle(ticket, used);
    }

    fn refill(
        &self,
        key: &LimitKey,
        _: u64,
        _: u64,
        _: Instant,
        within: Duration,
    ) -> Option<Refill> {
        if within.is_zero() || (self.brought.lock().contains(key) && !self.is_vain) {
            return None;
        }
        *self.asked.lock() += 1;
        let (brought, key, is_vain) = (Arc::clone(&self.brought), key.clone(), self.is_vain);
        Some(Box::pin(async move {
            if !is_vain {
                brought.lock().push(key);
            }
        }))
    }
}

/// What the head phase comes to, after waiting, and whether it waited.
async fn head_of(filter: &RateLimit, ctx: &mut RequestCtx) -> (Flow, bool) {
    let (head, ()) = http::Request::new(()).into_parts();
    match filter.head(ctx, &head) {
        Step::Ready(flow) => (flow, false),
        Step::Wait(wait) => (wait.await, true),
    }
}

#[tokio::test]
async fn limits_that_are_counted_elsewhere_are_asked_together_before_anybody_is_refused() {
    let bench = Bench::new(json!({}));
    for is_vain in [false, true] {
        let limits = Arc::new(AskedFirst { is_vain, ..AskedFirst::default() });
        let deps = Deps { limits: Arc::clone(&limits) as _, ..Deps::for_test() };
        let settings = json!({
            "global": {"rpm": 2, "max_parallel_requests": 9},
            "per_key": {"rpm": 5},
            "global_rate": {"requests_per_second": 1, "burst": 3},
        });
        let config = serde_json::from_value(settings).unwrap();
        let filter = RateLimit::build(config, &deps, Slot(3)).unwrap();
        let mut ctx = bench.ctx(None);
        let (flow, waited) = head_of(&filter, &mut ctx).await;
        assert!(waited);
        if is_vain {
            // Twice for each, and not for ever.
            assert!(matches!(flow, Flow::Reject(_)));
            assert_eq!(*limits.asked.lock(), 6);
            continue;
        }
        assert!(matches!(flow, Flow::Next));
        assert_eq!(*limits.asked.lock(), 3);
        // What is at hand is not waited for, and what is used up is refused at once.
        let (flow, waited) = head_of(&filter, &mut bench.ctx(None)).await;
        assert!(matches!(flow, Flow::Next) && !waited);
        let (flow, waited) = head_of(&filter, &mut bench.ctx(None)).await;
        assert!(matches!(flow, Flow::Reject(_)) && !waited);
        // Trying again after the wait was no second request to the rate in a second.
        let counted = limits.counted.grants.lock();
        assert!(counted.values().all(|grants| grants.iter().filter(|(_, n)| *n == 1).count() == 2));
    }
}
