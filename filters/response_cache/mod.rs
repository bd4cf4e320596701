//! `response_cache` answers a request with what was answered to the same request before.
//!
//! Two requests are the same when the same caller sends the same body to the same model group; see
//! [`ResponseCacheConfig::scope`] for who else may share, and `key.rs` for what of a body counts.
//! Streams and whole answers serve each other. Place it last of the filters that judge a request,
//! after `budget` and `rate_limit`, so that a hit still counts towards the limits.
//!
//! ```yaml
//! - filter: response_cache
//!   ttl: 10m
//!   scope: key
//! ```
//!
//! A caller can steer it by the `cache` member of the body and the header `cache-control`; see
//! `control.rs`. A hit carries `x-litellm-cache-key`.
//!
//! Kept is only what a provider has answered completely with status 200. Not kept are errors,
//! broken or abandoned streams, answers in which a choice has no `finish_reason`, answers larger
//! than `entry_bytes_max`, and answers of a group that was fallen back to. Nor are streams that come
//! while the copies of all streams under way take all they may: 64 MiB, or half of the cache where
//! calls are not shared.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, HeaderValue};
use serde::Deserialize;
use tollway_filter_api::cache::{CacheKey, CacheStore, CachedAnswer, CachedBody, Lookup, Recorded};
use tollway_filter_api::ctx::Coalesce;
use tollway_filter_api::duration;
use tollway_filter_api::{
    Answer, BuildFilter, Clock, ConfigError, Deps, Filter, Flow, Outcome, Phases, Rejection,
    RequestCtx, RequestHead, RequestView, ResponseHead, Slot, Step,
};
use tollway_wire::event_log::{Budget, EventLog};
use tollway_wire::operation::{Dialect, Operation};

mod control;
mod key;
mod meters;
mod replay;
#[cfg(test)]
mod tests;

use control::{Control, Malformed};
use key::{KeyRules, KeyedHash};
use meters::Meters;

/// How much the copies of answers that are passing may take together, at most.
const RECORDINGS_BYTES_MAX: usize = 64 << 20;

const CACHE_KEY: HeaderName = HeaderName::from_static("x-litellm-cache-key");

/// The `response_cache` entry of a route's filter list.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ResponseCacheConfig {
    /// How long an answer is kept where the request does not say: seconds, or with a unit, `10m`.
    #[serde(deserialize_with = "duration::deserialize")]
    pub ttl: Duration,
    /// The longest time a request may ask for; a longer one is shortened to it.
    #[serde(deserialize_with = "duration::deserialize")]
    pub ttl_max: Duration,
    /// Whether requests that say nothing of caching use the cache.
    pub mode: Mode,
    /// Who shares answers.
    pub scope: Scope,
    /// Whether end users of one caller (`user` in the body, or a header) are kept apart.
    pub per_end_user: bool,
    /// What is cached, by LiteLLM's names or ours; everything if left out.
    pub supported_call_types: Option<Vec<CallType>>,
    /// The largest answer that is kept, in bytes.
    pub entry_bytes_max: usize,
    /// Keeps the answers apart from those of other namespaces; a request may name another one.
    pub namespace: String,
    /// Requests that are the same and come while the first one is still being answered get its
    /// answer, as it comes, instead of a call of their own.
    pub coalesce: bool,
    /// Who pays for an answer that several requests share.
    pub coalesce_metering: Metering,
}

/// Who pays for an answer that several requests share.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Metering {
    /// The one that caused the call. To the others it is what a hit of the cache is.
    #[default]
    Shared,
    /// Each, as if it had been alone.
    Each,
}

impl Default for ResponseCacheConfig {
    fn default() -> Self {
        ResponseCacheConfig {
            ttl: Duration::from_secs(10 * 60),
            ttl_max: Duration::from_secs(30 * 24 * 3600),
            mode: Mode::DefaultOn,
            scope: Scope::Key,
            per_end_user: true,
            supported_call_types: None,
            entry_bytes_max: 2 << 20,
            namespace: String::new(),
            coalesce: true,
            coalesce_metering: Metering::Shared,
        }
    }
}

/// Whether requests that say nothing of caching use the cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// They do.
    #[default]
    DefaultOn,
    /// They do not; those with `cache: {"use-cache": true}` do.
    DefaultOff,
}

/// Who shares answers. Callers without a key share among themselves, and with others only under
/// `global`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// Nobody: each virtual key has its own answers.
    #[default]
    Key,
    /// The keys of one user; keys without a user stay alone.
    User,
    /// The keys of one team; keys without a team share as under `user`.
    Team,
    /// Everybody who may call the model.
    Global,
}

/// A kind of call, under LiteLLM's names (which tell synchronous and asynchronous Python apart) or
/// ours. Kinds that are not cached yet may be named, because LiteLLM's own example names them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CallType {
    /// Chat completions.
    #[serde(alias = "completion", alias = "acompletion", alias = "chat")]
    ChatCompletions,
    /// Legacy text completions.
    #[serde(alias = "text_completion", alias = "atext_completion")]
    Completions,
    /// Embeddings.
    #[serde(alias = "embedding", alias = "aembedding")]
    Embeddings,
    /// Transcriptions; not cached.
    #[serde(alias = "atranscription")]
    Transcription,
    /// Rerankings.
    #[serde(alias = "arerank")]
    Rerank,
    /// Responses that are not stored.
    #[serde(alias = "aresponses")]
    Responses,
}

impl CallType {
    /// The kind of a call; `None` for what is never kept.
    fn of(view: &RequestView) -> Option<CallType> {
        match (view.operation, view.dialect) {
            // What a provider or we keep under an id must not be given out twice.
            (Operation::ChatCompletions, Dialect::Responses) => {
                let is_kept = view.object.bool(&view.body, "store") != Some(false);
                (!is_kept).then_some(CallType::Responses)
            }
            (Operation::ChatCompletions, _) => Some(CallType::ChatCompletions),
            (Operation::Completions, _) => Some(CallType::Completions),
            (Operation::Embeddings, _) => Some(CallType::Embeddings),
            (Operation::Rerank, _) => Some(CallType::Rerank),
            _ => None,
        }
    }
}

/// Answers out of the cache, and fills it.
pub struct ResponseCache {
    slot: Slot,
    clock: Clock,
    store: Arc<dyn CacheStore>,
    config: ResponseCacheConfig,
    rules: KeyRules,
    meters: Meters,
    recordings: Arc<Budget>,
}

impl BuildFilter for ResponseCache {
    const NAME: &'static str = "response_cache";
    type Config = ResponseCacheConfig;

    fn build(config: ResponseCacheConfig, deps: &Deps, slot: Slot) -> Result<Self, ConfigError> {
        let Some(store) = deps.cache.clone() else {
            let message = "there is no cache to use; configure one, or leave the filter out";
            return Err(ConfigError::new("", message));
        };
        if config.ttl.is_zero() || config.ttl > config.ttl_max {
            let message = "must be more than 0 and at most ttl_max";
            return Err(ConfigError::new("ttl", message));
        }
        let meters = Meters::new(&deps.metrics)
            .map_err(|error| ConfigError::new("", format!("metrics: {error}")))?;
        let hash = KeyedHash::new(&deps.secret);
        let rules = KeyRules { scope: config.scope, per_end_user: config.per_end_user, hash };
        // More than that would push one another out as soon as they are kept.
        let half = store.bytes_max().map_or(usize::MAX, |max| (max / 2) as usize);
        let recordings = Budget::new(half.min(RECORDINGS_BYTES_MAX));
        let clock = deps.clock.clone();
        Ok(ResponseCache { slot, clock, store, config, rules, meters, recordings })
    }
}

/// A request that uses the cache.
struct Wanted {
    key: CacheKey,
    control: Control,
}

/// An answer that may be kept, while it passes.
struct Passing {
    key: CacheKey,
    ttl: Duration,
    /// Whether it has turned out to be a good answer.
    good: bool,
    body: Body,
}

/// What has come of an answer.
enum Body {
    /// All of it at once.
    Whole,
    /// Events. Not the pieces themselves: those are parts of larger read buffers, which they would
    /// keep alive until the end.
    Events(EventLog),
    /// Events that are written down already.
    Recorded(Arc<dyn Recorded>),
}

impl Filter for ResponseCache {
    fn phases(&self) -> Phases {
        Phases::BODY | Phases::RESPONSE | Phases::CHUNK | Phases::END
    }

    fn body<'a>(&'a self, ctx: &'a mut RequestCtx, head: &'a RequestHead) -> Step<'a> {
        let wanted = match self.wanted(ctx, head) {
            Ok(Some(wanted)) => wanted,
            Ok(None) => return Step::next(),
            Err(malformed) => return Step::reject(malformed),
        };
        if wanted.control.no_cache {
            self.expect(ctx, &wanted);
            return Step::next();
        }
        match self.store.get(wanted.key) {
            Lookup::Ready(found) => Step::Ready(self.decide(ctx, &wanted, found)),
            Lookup::Wait(lookup) => Step::Wait(Box::pin(async move {
                let found = lookup.await;
                self.decide(ctx, &wanted, found)
            })),
        }
    }

    fn response(&self, ctx: &mut RequestCtx, _: &RequestHead, response: &mut ResponseHead) {
        let recorded = ctx.recorded.clone();
        if let Some(passing) = ctx.slot_mut::<Passing>(self.slot) {
            passing.good = response.status == 200;
            if response.streaming {
                passing.body = match recorded {
                    Some(recorded) => Body::Recorded(recorded),
                    None => Body::Events(EventLog::new(&self.recordings)),
                };
            }
        }
    }

    fn chunk(&self, ctx: &mut RequestCtx, chunk: &mut Bytes) -> Result<(), Rejection> {
        let Some(passing) = ctx.slot_mut::<Passing>(self.slot).filter(|passing| passing.good)
        else {
            return Ok(());
        };
        let is_kept = match &mut passing.body {
            Body::Whole => {
                // Before it is sent: who has an answer finds it here.
                if let Some(passing) = ctx.take_slot::<Passing>(self.slot)
                    && chunk.len() <= self.config.entry_bytes_max
                    && is_kept(ctx, false, chunk)
                {
                    // A copy of its own size: what was read may be a part of something larger.
                    let body = CachedBody::Whole(Bytes::copy_from_slice(chunk));
                    self.keep(ctx, &passing, body);
                }
                return Ok(());
            }
            Body::Events(log) => {
                log.length() + chunk.len() <= self.config.entry_bytes_max && log.push(chunk).is_ok()
            }
            Body::Recorded(_) => true,
        };
        if !is_kept {
            ctx.take_slot::<Passing>(self.slot);
        }
        Ok(())
    }

    fn end(&self, ctx: &mut RequestCtx, outcome: Outcome) {
        let Some(passing) = ctx.take_slot::<Passing>(self.slot) else { return };
        if outcome != Outcome::Done || !passing.good {
            return;
        }
        let events = match &passing.body {
            // It was kept as it passed, or there was none.
            Body::Whole => return,
            Body::Events(log) => Some(log.packed()),
            Body::Recorded(recorded) => recorded.events(self.config.entry_bytes_max),
        };
        if let Some(events) = events
            && events.unpack().is_some_and(|text| is_kept(ctx, true, &text))
        {
            self.keep(ctx, &passing, CachedBody::Events(events));
        }
    }
}

impl ResponseCache {
    /// What to look for; `None` if this request has nothing to do with the cache.
    fn wanted(&self, ctx: &RequestCtx, head: &RequestHead) -> Result<Option<Wanted>, Malformed> {
        let (Some(view), Some(plan)) = (&ctx.view, &ctx.plan) else { return Ok(None) };
        let Some(call_type) = CallType::of(view) else { return Ok(None) };
        let is_supported = |types: &Vec<_>| types.contains(&call_type);
        if !self.config.supported_call_types.as_ref().is_none_or(is_supported) {
            return Ok(None);
        }
        let is_on = self.config.mode == Mode::DefaultOn;
        if !is_on && view.object.get(&view.body, "cache").is_none() {
            return Ok(None);
        }
        let control = Control::of(view, &head.headers)?;
        let is_used = is_on || control.use_cache;
        if !is_used || (control.no_cache && control.no_store) {
            return Ok(None);
        }
        let namespace = control.namespace.as_deref().unwrap_or(&self.config.namespace);
        let key = self.rules.key(ctx, view, plan, namespace, head);
        Ok(Some(Wanted { key, control }))
    }

    fn decide(
        &self,
        ctx: &mut RequestCtx,
        wanted: &Wanted,
        found: Option<Arc<CachedAnswer>>,
    ) -> Flow {
        if let Some(answer) = found
            && self.is_young_enough(&answer, wanted.control.age_max)
            && let (Some(view), Some(plan)) = (&ctx.view, &ctx.plan)
            && let Some(body) = replay::replay(&answer, view, &plan.requested)
        {
            self.meters.hit(ctx, answer.usage.as_ref());
            ctx.report.cache_hit = true;
            ctx.report.usage = answer.usage;
            let name = HeaderValue::try_from(wanted.key.hex()).ok().map(|hex| (CACHE_KEY, hex));
            return Flow::Answer(Answer { status: 200, headers: name.into_iter().collect(), body });
        }
        self.meters.miss(ctx);
        self.expect(ctx, wanted);
        Flow::Next
    }

    fn keep(&self, ctx: &RequestCtx, passing: &Passing, body: CachedBody) {
        let (Some(view), Some(plan)) = (&ctx.view, &ctx.plan) else { return };
        let usage = ctx.report.usage;
        let is_streamed = matches!(body, CachedBody::Events(_));
        let answer = CachedAnswer {
            usage_event: is_streamed && view.include_usage && usage.is_some(),
            model: Arc::clone(&plan.requested),
            body,
            usage,
            stored: self.clock.unix(),
        };
        self.store.put(passing.key, answer, passing.ttl);
    }

    fn is_young_enough(&self, answer: &CachedAnswer, age_max: Option<Duration>) -> bool {
        age_max.is_none_or(|max| self.clock.unix().saturating_sub(answer.stored) < max)
    }

    /// Gets ready to keep the answer, if it may be kept.
    fn expect(&self, ctx: &mut RequestCtx, wanted: &Wanted) {
        let ttl = wanted.control.ttl.unwrap_or(self.config.ttl).min(self.config.ttl_max);
        if wanted.control.no_store || ttl.is_zero() {
            return;
        }
        let key = wanted.key;
        let each_pays = self.config.coalesce_metering == Metering::Each;
        ctx.coalesce = self.config.coalesce.then_some(Coalesce { key, each_pays });
        let passing = Passing { key, ttl, good: false, body: Body::Whole };
        ctx.set_slot(self.slot, passing);
    }
}

/// Whether an answer is worth keeping: a provider's, and complete.
fn is_kept(ctx: &RequestCtx, streamed: bool, text: &[u8]) -> bool {
    // Without an attempt it is not a provider's answer but, say, another filter's.
    let ours = ctx.report.attempts > 0 && ctx.report.fallbacks == 0;
    ours && ctx.view.as_ref().is_some_and(|view| replay::is_complete(view, streamed, text))
}
