//! `rate_limit` caps requests and tokens per minute, parallel requests, and requests per second.
//!
//! List it once, after `auth` and `model_alias`, which say who is calling what, and before
//! `response_cache`, so that a cache hit is a request like any other. All limits that apply to a
//! request must leave room for it: those of the key, of its team and user, of the model group, of
//! each of them for that model, and of everybody together. A request that one of them refuses is counted by
//! none, gets a 429 that says which one it was, and may come back after `retry-after`.
//!
//! Requests count when they arrive. Tokens are reserved by a guess (see `estimate.rs`) and replaced
//! at the end by what the provider counted: nothing for a cache hit or when no provider answered.
//! Only model calls count. The master key is held to the limits for everybody alone.
//!
//! ```yaml
//! - filter: rate_limit
//!   global:      { rpm: 10000, tpm: 5000000, max_parallel_requests: 500 }
//!   per_key:     { rpm: 600 }
//!   per_user:    { tpm: 200000 }
//!   per_model:   { max_parallel_requests: 100 }
//!   per_address: { requests_per_second: 20, burst: 40 }
//! ```

mod config;
mod estimate;
mod headers;
mod per_second;
mod refusal;
#[cfg(test)]
mod tests;

use std::mem;
use std::net::IpAddr;
use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tollway_filter_api::accounts::Kind;
use tollway_filter_api::identity::{Account, KeyStore};
use tollway_filter_api::limits::{
    Exceeded, LimitKey, LimitStore, LimitUnit, RateLimits, Refill, Remaining, Ticket,
};
use tollway_filter_api::{
    BuildFilter, Clock, ConfigError, Deps, Filter, Flow, KeyHash, Outcome, Phases, Rejection,
    RequestCtx, RequestHead, ResponseHead, Slot, Step, VirtualKey,
};

pub use self::config::{Allowance, Rate, RateLimitConfig};
use self::per_second::{PerSecond, TooFast};
use self::refusal::{Hint, OverLimit, Utc};

/// Output tokens to reserve where neither the request nor the config says how many.
const OUTPUT_TOKENS_DEFAULT: u64 = 1_024;

/// How long a request waits in all to hear whether limits that are counted elsewhere leave room. With
/// what the exchange waits for a deployment's, it is 50 ms at most.
const WAIT_MAX: Duration = Duration::from_millis(25);
/// How often it is asked: another request may take what was brought for this one.
const ASKED_MAX: usize = 2;

/// Counts model calls and their tokens, and refuses what is over a limit.
pub struct RateLimit {
    clock: Clock,
    limits: Arc<dyn LimitStore>,
    keys: Arc<dyn KeyStore>,
    slot: Slot,
    global: RateLimits,
    per_key: RateLimits,
    per_user: RateLimits,
    per_model: RateLimits,
    user_from_request: bool,
    scope_headers: bool,
    output_tokens_default: u64,
    global_rate: Option<PerSecond<()>>,
    /// `None` is a request without a key: leaving the key out is never a way round the limit.
    per_key_rate: Option<PerSecond<Option<KeyHash>>>,
    per_address: Option<PerSecond<IpAddr>>,
}

/// What the filter keeps of a request: what it has reserved for it.
type Reserved = Vec<Held>;

/// The limits of a phase.
type Allow = fn(&RateLimit, &mut Reserving<'_>) -> Result<(), Rejection>;

/// One reservation.
#[derive(Debug)]
struct Held {
    scope: Scope,
    ticket: Ticket,
    remaining: Remaining,
}

/// Whose limit it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scope {
    Global,
    ApiKey,
    Team,
    User,
    EndUser,
    Model,
    ModelPerKey,
    ModelPerTeam,
    ModelPerUser,
}

/// Who or what is counted.
#[derive(Clone, Copy)]
struct Who<'a> {
    scope: Scope,
    subject: Option<&'a Arc<str>>,
    part: Option<&'a Arc<str>>,
}

impl BuildFilter for RateLimit {
    const NAME: &'static str = "rate_limit";
    type Config = RateLimitConfig;

    fn build(config: RateLimitConfig, deps: &Deps, slot: Slot) -> Result<Self, ConfigError> {
        let RateLimitConfig { global_rate, per_key_rate, per_address, .. } = config;
        let checked = |rate: Option<Rate>, path| rate.map(|rate| rate.check(path)).transpose();
        let clock = &deps.clock;
        Ok(RateLimit {
            clock: clock.clone(),
            limits: Arc::clone(&deps.limits),
            keys: Arc::clone(&deps.keys),
            slot,
            global: config.global.into(),
            per_key: config.per_key.into(),
            per_user: config.per_user.into(),
            per_model: config.per_model.into(),
            user_from_request: config.user_from_request,
            scope_headers: config.scope_headers,
            output_tokens_default: config
                .output_tokens_default
                .map_or(OUTPUT_TOKENS_DEFAULT, NonZeroU64::get),
            global_rate: checked(global_rate, "global_rate")?
                .map(|rate| PerSecond::new(rate, clock)),
            per_key_rate: checked(per_key_rate, "per_key_rate")?
                .map(|rate| PerSecond::new(rate, clock)),
            per_address: checked(per_address, "per_address")?
                .map(|rate| PerSecond::new(rate, clock)),
        })
    }
}

impl Filter for RateLimit {
    fn phases(&self) -> Phases {
        Phases::HEAD | Phases::BODY | Phases::RESPONSE | Phases::END
    }

    fn head<'a>(&'a self, ctx: &'a mut RequestCtx, _head: &'a RequestHead) -> Step<'a> {
        if ctx.operation.is_none() {
            return Step::next();
        }
        match self.check_rates(ctx) {
            Ok(()) => self.decide(ctx, RateLimit::allow_head),
            Err(refused) => Step::reject(refused),
        }
    }

    fn body<'a>(&'a self, ctx: &'a mut RequestCtx, _head: &'a RequestHead) -> Step<'a> {
        if ctx.operation.is_none() {
            return Step::next();
        }
        self.decide(ctx, RateLimit::allow_body)
    }

    fn diverted(&self, ctx: &mut RequestCtx) {
        if let Some(reserved) = ctx.take_slot::<Reserved>(self.slot) {
            self.give_back(&reserved);
        }
    }

    fn response(&self, ctx: &mut RequestCtx, _head: &RequestHead, response: &mut ResponseHead) {
        if let Some(reserved) = ctx.slot::<Reserved>(self.slot) {
            headers::write(reserved, self.scope_headers, response);
        }
    }

    fn end(&self, ctx: &mut RequestCtx, outcome: Outcome) {
        let Some(reserved) = ctx.take_slot::<Reserved>(self.slot) else { return };
        let used = tokens_used(ctx, outcome);
        for Held { ticket, .. } in reserved.iter() {
            match (ticket.key.unit, used) {
                (LimitUnit::Parallel, _) => self.limits.settle(ticket, 0),
                (LimitUnit::Tokens, Some(used)) => self.limits.settle(ticket, used),
                // A request is a request, and an unknown number of tokens is the reserved one.
                (LimitUnit::Requests, _) | (LimitUnit::Tokens, None) => {}
            }
        }
    }
}

impl RateLimit {
    /// Reserves what a phase needs, at once where nothing has to be asked first.
    fn decide<'a>(&'a self, ctx: &'a mut RequestCtx, allow: Allow) -> Step<'a> {
        let mut reserving = Reserving::new(self, ctx, WAIT_MAX);
        let allowed = allow(self, &mut reserving);
        let (mut reserved, refills) = (reserving.reserved, reserving.refills);
        if allowed.is_err() || refills.is_empty() {
            return Step::Ready(self.conclude(ctx, &mut reserved, allowed));
        }
        self.give_back(&reserved);
        Step::Wait(Box::pin(self.decide_later(ctx, allow, refills)))
    }

    /// Waits for what had to be asked, and decides then.
    async fn decide_later(
        &self,
        ctx: &mut RequestCtx,
        allow: Allow,
        mut refills: Vec<Refill>,
    ) -> Flow {
        let began = self.clock.now();
        let mut asked = 0;
        loop {
            asked += 1;
            for refill in mem::take(&mut refills) {
                refill.await;
            }
            let waited = self.clock.now().saturating_duration_since(began);
            let left = WAIT_MAX.saturating_sub(waited);
            let left = if asked < ASKED_MAX { left } else { Duration::ZERO };
            let mut reserving = Reserving::new(self, ctx, left);
            let allowed = allow(self, &mut reserving);
            let mut reserved = reserving.reserved;
            if allowed.is_err() || reserving.refills.is_empty() {
                return self.conclude(ctx, &mut reserved, allowed);
            }
            refills = reserving.refills;
            self.give_back(&reserved);
        }
    }

    /// What can be decided before the body is read.
    fn allow_head(&self, reserve: &mut Reserving<'_>) -> Result<(), Rejection> {
        let key = reserve.ctx.identity.as_ref();
        if !is_master(key) {
            let limits = self.key_limits(key);
            reserve.requests(Who::key(key), &limits)?;
            // Which one of several teams it is depends on the model.
            if !(has_several_teams(key) && reserve.ctx.operation.is_some())
                && let Some((team, account)) = self.team_of(key)
            {
                reserve.requests(Who::of(Scope::Team, team), &account.limits)?;
            }
            if let Some((user, account)) = self.user_of(key) {
                let limits = self.user_limits(account.as_deref());
                reserve.requests(Who::of(Scope::User, user), &limits)?;
            }
        }
        // Last, because it is the one that all requests meet at.
        reserve.requests(Who::EVERYBODY, &self.global)
    }

    /// What depends on the model or on the number of tokens.
    fn allow_body(&self, reserve: &mut Reserving<'_>) -> Result<(), Rejection> {
        let ctx = reserve.ctx;
        let key = ctx.identity.as_ref();
        if !is_master(key) {
            let (team, user) = (self.team_of(key), self.user_of(key));
            if let Some(plan) = &ctx.plan {
                let model = &plan.group.name;
                if let Some((id, account)) = &team
                    && let Some(limits) = account.model_limits.get(&**model)
                {
                    reserve.all(Who::model_of(Scope::ModelPerTeam, id, model), limits)?;
                }
                if let Some((id, Some(account))) = &user
                    && let Some(limits) = account.model_limits.get(&**model)
                {
                    reserve.all(Who::model_of(Scope::ModelPerUser, id, model), limits)?;
                }
                if let Some(limits) = key.and_then(|key| key.settings.model_limits.get(&**model)) {
                    reserve.all(Who::model_of_key(key, model), limits)?;
                }
                let limits = plan.group.limits.or(self.per_model);
                reserve.all(Who::of(Scope::Model, model), &limits)?;
            }
            reserve.tokens(Who::key(key), &self.key_limits(key))?;
            if let Some((team, account)) = team {
                if has_several_teams(key) {
                    reserve.requests(Who::of(Scope::Team, team), &account.limits)?;
                }
                reserve.tokens(Who::of(Scope::Team, team), &account.limits)?;
            }
            if let Some((user, account)) = user {
                let limits = self.user_limits(account.as_deref());
                reserve.tokens(Who::of(Scope::User, user), &limits)?;
            } else if self.user_from_request {
                reserve.all(Who::end_user(key, ctx.end_user.as_ref()), &self.per_user)?;
            }
        }
        reserve.tokens(Who::EVERYBODY, &self.global)
    }

    /// Requests per second. They come first: what they refuse costs next to nothing.
    fn check_rates(&self, ctx: &RequestCtx) -> Result<(), Rejection> {
        let key = ctx.identity.as_ref();
        if let (Some(rate), Some(address)) = (&self.per_address, ctx.client)
            && !is_master(key)
        {
            let caller = per_second::caller_of(address);
            rate.check(&caller)
                .map_err(|fast| self.too_fast("address", address.to_string(), fast))?;
        }
        if let Some(rate) = &self.per_key_rate
            && !is_master(key)
        {
            rate.check(&key.map(|key| key.hash))
                .map_err(|fast| self.too_fast("api_key", Who::key(key).label(), fast))?;
        }
        if let Some(rate) = &self.global_rate {
            rate.check(&()).map_err(|fast| self.too_fast("global", "all".into(), fast))?;
        }
        Ok(())
    }

    /// Keeps what was reserved until the end, or gives it all back if the request goes no further:
    /// what this filter refuses, it does not count.
    fn conclude(
        &self,
        ctx: &mut RequestCtx,
        reserved: &mut Reserved,
        allowed: Result<(), Rejection>,
    ) -> Flow {
        match allowed {
            Ok(()) if reserved.is_empty() => Flow::Next,
            Ok(()) => {
                match ctx.slot_mut::<Reserved>(self.slot) {
                    Some(earlier) => earlier.append(reserved),
                    None => ctx.set_slot(self.slot, mem::take(reserved)),
                }
                Flow::Next
            }
            Err(refused) => {
                if let Some(earlier) = ctx.take_slot::<Reserved>(self.slot) {
                    self.give_back(&earlier);
                }
                self.give_back(reserved);
                Flow::Reject(refused)
            }
        }
    }

    /// As if it had not been reserved.
    fn give_back(&self, reserved: &Reserved) {
        for held in reserved {
            self.limits.settle(&held.ticket, 0);
        }
    }

    fn key_limits(&self, key: Option<&Arc<VirtualKey>>) -> RateLimits {
        key.map_or(self.per_key, |key| key.settings.limits.or(self.per_key))
    }

    /// The team of a key, if somebody has said something about it.
    fn team_of<'k>(
        &self,
        key: Option<&'k Arc<VirtualKey>>,
    ) -> Option<(&'k Arc<str>, Arc<Account>)> {
        let team = key?.team.as_ref()?;
        Some((team, self.keys.account(Kind::Team, team)?))
    }

    /// The user of a key, and what somebody has said about them.
    fn user_of<'k>(
        &self,
        key: Option<&'k Arc<VirtualKey>>,
    ) -> Option<(&'k Arc<str>, Option<Arc<Account>>)> {
        let user = key?.user.as_ref()?;
        Some((user, self.keys.account(Kind::User, user)))
    }

    fn user_limits(&self, user: Option<&Account>) -> RateLimits {
        user.map_or(self.per_user, |user| user.limits.or(self.per_user))
    }

    #[cold]
    fn too_fast(&self, scope: &'static str, subject: String, fast: TooFast) -> Rejection {
        self.over_limit(OverLimit {
            scope,
            subject,
            kind: "requests_per_second",
            limit: fast.per_second.into(),
            remaining: 0,
            retry_after: fast.retry_after,
            resets_at: Utc::default(),
            hint: Hint::None,
        })
    }

    #[cold]
    fn exceeded(&self, who: Who<'_>, unit: LimitUnit, asked: u64, exceeded: Exceeded) -> Rejection {
        let Exceeded { limit, remaining, retry_after } = exceeded;
        let mut refused = self.over_limit(OverLimit {
            scope: who.scope.name(),
            subject: who.label(),
            kind: unit.name(),
            limit,
            remaining,
            retry_after,
            resets_at: Utc::default(),
            hint: match unit {
                LimitUnit::Tokens if asked > limit => Hint::NeverFits { amount: asked },
                _ => Hint::None,
            },
        });
        let state = Remaining { limit, remaining, reset: retry_after };
        refused.headers.extend(headers::of_refusal(who.scope, unit, state));
        refused
    }

    /// Says when it is worth trying again, in whole seconds and as a date.
    fn over_limit(&self, mut over: OverLimit) -> Rejection {
        over.resets_at = Utc::after(self.clock.unix(), over.retry_after);
        over.retry_after = refusal::whole_seconds(over.retry_after);
        over.into()
    }
}

/// Reserves for one request.
struct Reserving<'a> {
    filter: &'a RateLimit,
    ctx: &'a RequestCtx,
    reserved: Reserved,
    /// What to wait for before the answer is final.
    refills: Vec<Refill>,
    /// How long it may be waited for.
    within: Duration,
    /// Asked for when the first limit applies: a request without limits does not read the clock.
    now: Option<Instant>,
    /// Guessed when the first limit on tokens applies.
    tokens: Option<u64>,
}

impl<'a> Reserving<'a> {
    fn new(filter: &'a RateLimit, ctx: &'a RequestCtx, within: Duration) -> Self {
        let (reserved, refills) = (Reserved::new(), Vec::new());
        Reserving { filter, ctx, reserved, refills, within, now: None, tokens: None }
    }

    /// Everything there may be a limit on.
    fn all(&mut self, who: Who<'_>, limits: &RateLimits) -> Result<(), Rejection> {
        self.requests(who, limits)?;
        self.tokens(who, limits)
    }

    /// What needs no body: a request, and a place among the parallel ones.
    fn requests(&mut self, who: Who<'_>, limits: &RateLimits) -> Result<(), Rejection> {
        if let Some(limit) = limits.rpm {
            self.reserve(who, LimitUnit::Requests, limit, 1)?;
        }
        if let Some(limit) = limits.max_parallel_requests {
            self.reserve(who, LimitUnit::Parallel, limit, 1)?;
        }
        Ok(())
    }

    /// The tokens the request may use.
    fn tokens(&mut self, who: Who<'_>, limits: &RateLimits) -> Result<(), Rejection> {
        let Some(limit) = limits.tpm else { return Ok(()) };
        let Reserving { filter, ctx, .. } = *self;
        let tokens = *self.tokens.get_or_insert_with(|| {
            let group = ctx.plan.as_ref().map(|plan| &*plan.group);
            let guess = |view| estimate::tokens(view, group, filter.output_tokens_default);
            ctx.view.as_deref().map_or(1, guess)
        });
        self.reserve(who, LimitUnit::Tokens, limit, tokens)
    }

    fn reserve(
        &mut self,
        who: Who<'_>,
        unit: LimitUnit,
        limit: u64,
        amount: u64,
    ) -> Result<(), Rejection> {
        let now = *self.now.get_or_insert_with(|| self.filter.clock.now());
        match self.filter.limits.reserve(who.limit_key(unit), limit, amount, now) {
            Ok((ticket, remaining)) => {
                self.reserved.push(Held { scope: who.scope, ticket, remaining });
                Ok(())
            }
            Err(exceeded) => {
                // What else is missing is asked for at the same time.
                let limits = &self.filter.limits;
                match limits.refill(&who.limit_key(unit), limit, amount, now, self.within) {
                    Some(refill) => self.refills.push(refill),
                    None => return Err(self.filter.exceeded(who, unit, amount, exceeded)),
                }
                Ok(())
            }
        }
    }
}

impl Scope {
    /// LiteLLM's name, in messages, headers and the store.
    fn name(self) -> &'static str {
        match self {
            Scope::Global => "global",
            Scope::ApiKey => "api_key",
            Scope::Team => "team",
            Scope::User => "user",
            Scope::EndUser => "end_user",
            Scope::Model => "model",
            Scope::ModelPerKey => "model_per_key",
            Scope::ModelPerTeam => "model_per_team",
            Scope::ModelPerUser => "model_per_user",
        }
    }
}

impl<'a> Who<'a> {
    const EVERYBODY: Who<'static> = Who { scope: Scope::Global, subject: None, part: None };

    fn of(scope: Scope, subject: &'a Arc<str>) -> Who<'a> {
        Who { scope, subject: Some(subject), part: None }
    }

    /// The key, or all requests that have none.
    fn key(key: Option<&'a Arc<VirtualKey>>) -> Who<'a> {
        Who { scope: Scope::ApiKey, subject: key.map(|key| &key.hash_hex), part: None }
    }

    fn model_of(scope: Scope, subject: &'a Arc<str>, model: &'a Arc<str>) -> Who<'a> {
        Who { scope, subject: Some(subject), part: Some(model) }
    }

    fn model_of_key(key: Option<&'a Arc<VirtualKey>>, model: &'a Arc<str>) -> Who<'a> {
        Who { scope: Scope::ModelPerKey, part: Some(model), ..Who::key(key) }
    }

    /// For each key apart: names given by one tenant's callers must not use up another's.
    fn end_user(key: Option<&'a Arc<VirtualKey>>, name: Option<&'a Arc<str>>) -> Who<'a> {
        Who { scope: Scope::EndUser, part: name, ..Who::key(key) }
    }

    fn limit_key(self, unit: LimitUnit) -> LimitKey {
        LimitKey {
            scope: self.scope.name(),
            subject: self.subject.cloned(),
            part: self.part.cloned(),
            unit,
        }
    }

    /// How a refusal names it.
    fn label(self) -> String {
        let subject = self.subject.map_or("anonymous", |subject| subject);
        match self.scope {
            Scope::Global => "all".to_owned(),
            Scope::ApiKey | Scope::Team | Scope::User | Scope::Model => subject.to_owned(),
            Scope::EndUser => self.part.map_or("anonymous", |part| part).to_owned(),
            Scope::ModelPerKey | Scope::ModelPerTeam | Scope::ModelPerUser => {
                format!("{subject}:{}", self.part.map_or("", |part| part))
            }
        }
    }
}

fn has_several_teams(key: Option<&Arc<VirtualKey>>) -> bool {
    key.is_some_and(|key| !key.other_teams().is_empty())
}

fn is_master(key: Option<&Arc<VirtualKey>>) -> bool {
    key.is_some_and(|key| key.master)
}

/// What a request has really used. `None` where nobody can say: the reservation stands then.
fn tokens_used(ctx: &RequestCtx, outcome: Outcome) -> Option<u64> {
    let report = &ctx.report;
    if report.cache_hit {
        return Some(0);
    }
    if let Some(usage) = &report.usage {
        // What was cut short we have counted ourselves, and perhaps only what was sent out.
        let input = match &ctx.view {
            Some(view) if report.usage_estimated && usage.prompt_tokens == 0 => {
                estimate::input(view, ctx.plan.as_ref().map(|plan| &*plan.group))
            }
            _ => 0,
        };
        return Some(usage.total_tokens().saturating_add(input));
    }
    let answered = report.first_byte.is_some() && report.status.is_none_or(|status| status < 400);
    // Hanging up just before the answer is no way to get it counted as nothing.
    let abandoned = report.upstream_started.is_some() && outcome == Outcome::ClientGone;
    if answered || abandoned { None } else { Some(0) }
}
