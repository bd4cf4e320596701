//! Which deployment of a group is asked first, and which next.
//!
//! ```text
//! deployments ─ tags ─ budgets ─ cooldown, health ─ context window ─ strategy ─ priority ─ order to try
//! ```
//! Whatever the strategy, the order is one over all deployments that may be asked: where the first
//! one fails, the exchange goes on down the list.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use smallvec::{SmallVec, smallvec};
use tollway_filter_api::limits::{LimitKey, LimitUnit};
use tollway_filter_api::{Deployment, ModelGroup};
use tollway_wire::count;
use tollway_wire::price::{Tier, cost};
use tollway_wire::usage::Usage;

use super::endpoint::Endpoint;
use super::fault::Fault;
use super::{Call, Exchange};
use crate::config::Strategy;
use crate::random;

/// The order in which deployments are tried.
pub(super) type Order<'g> = SmallVec<[&'g Arc<Deployment>; 4]>;

/// How fast old latencies are forgotten: after this long without news, a deployment counts as
/// fast as the newest sample says (Finagle's peak-EWMA has the same default).
const LATENCY_DECAY: Duration = Duration::from_secs(10);
/// What an answer is taken to be as long as, where the request sets no limit, when deployments are
/// compared by what the request would cost.
const OUTPUT_TOKENS_ASSUMED: u64 = 1_000;
/// An estimate of tokens has to pass a window by this much before the deployment is left out.
const WINDOW_MARGIN_PERCENT: u64 = 10;

/// What is known of an endpoint's load and speed.
#[derive(Default)]
pub(super) struct Traffic {
    in_flight: AtomicU32,
    /// Nanoseconds to the first byte of a stream, and to a whole answer: they are not comparable.
    latency: [PeakEwma; 2],
}

impl Traffic {
    /// A call begins. It counts until what is returned is dropped.
    pub(super) fn enter(endpoint: &Arc<Endpoint>) -> InFlight {
        endpoint.traffic.in_flight.fetch_add(1, Ordering::Relaxed);
        InFlight(Arc::clone(endpoint))
    }

    /// A call was answered after `took`.
    pub(super) fn answered(&self, stream: bool, took: Duration, since_start: Duration) {
        self.latency[usize::from(stream)].observe(took, since_start);
    }

    fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// What the next call would wait for, more or less.
    fn load(&self, stream: bool, since_start: Duration) -> f64 {
        let latency = self.latency[usize::from(stream)].now(since_start);
        // One that nobody has asked is asked first.
        latency * f64::from(self.in_flight() + 1)
    }
}

/// One call in flight.
pub(crate) struct InFlight(Arc<Endpoint>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.traffic.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A moving average of latencies that jumps up at once and comes down slowly: one slow answer is a
/// warning, one fast answer no promise.
#[derive(Default)]
struct PeakEwma {
    nanos: AtomicU64,
    /// When the last sample came, in nanoseconds after the start.
    seen: AtomicU64,
}

impl PeakEwma {
    fn observe(&self, took: Duration, since_start: Duration) {
        let sample = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        let now = u64::try_from(since_start.as_nanos()).unwrap_or(u64::MAX);
        let last = self.seen.swap(now, Ordering::Relaxed);
        let mean = self.nanos.load(Ordering::Relaxed);
        let next = if sample >= mean {
            sample
        } else {
            let keep = kept_after(now.saturating_sub(last));
            (mean as f64 * keep + sample as f64 * (1.0 - keep)) as u64
        };
        // Two at once: one sample is lost, which an average survives.
        self.nanos.store(next, Ordering::Relaxed);
    }

    /// The average as it counts now: one that was slow once and is not asked since is forgiven, or
    /// it would never be asked again.
    fn now(&self, since_start: Duration) -> f64 {
        let now = u64::try_from(since_start.as_nanos()).unwrap_or(u64::MAX);
        let mean = self.nanos.load(Ordering::Relaxed) as f64;
        mean * kept_after(now.saturating_sub(self.seen.load(Ordering::Relaxed)))
    }
}

/// How much of an average is left after so many nanoseconds.
fn kept_after(nanos: u64) -> f64 {
    (-(nanos as f64) / LATENCY_DECAY.as_nanos() as f64).exp()
}

impl Exchange {
    /// The deployments of a group, in the order in which they are to be tried.
    pub(super) fn order<'g>(
        &self,
        call: &Call,
        group: &'g ModelGroup,
        now: Instant,
    ) -> Result<Order<'g>, Fault> {
        // A group of one never cools: there is nothing better to do than to try it.
        if let [only] = group.deployments.as_slice()
            && call.left_out.is_empty()
            && !call.router().tag_filtering
            && !call.router().pre_call_checks
        {
            return Ok(smallvec![only]);
        }
        let mut order = tagged(call, group);
        if !call.left_out.is_empty() {
            order.retain(|deployment| !call.left_out.contains(&deployment.id));
        }
        if order.is_empty() {
            return Err(Fault::no_deployment(&group.name));
        }
        if order.len() > 1 {
            let mut soonest: Option<Duration> = None;
            order.retain(|deployment| match call.endpoint(deployment).cooldown.remaining(now) {
                None => true,
                Some(left) => {
                    soonest = Some(soonest.map_or(left, |s| s.min(left)));
                    false
                }
            });
            if order.is_empty() {
                return Err(match soonest {
                    Some(left) => Fault::all_cooled(left),
                    None => Fault::no_deployment(&group.name),
                });
            }
            // Health checks are a hint: where all have failed, all are tried.
            keep_some(&mut order, |deployment| call.endpoint(deployment).is_healthy());
        }
        if call.router().pre_call_checks {
            self.fit_window(call, group, &mut order)?;
        }
        if order.len() > 1 {
            self.arrange(call, &mut order, now);
            // The one that has what the request goes on from, whatever its load.
            if let Some(at) =
                order.iter().position(|deployment| call.prefers.as_ref() == Some(&deployment.id))
            {
                order[..=at].rotate_right(1);
            }
        }
        Ok(order)
    }

    /// Leaves out deployments whose window the request passes. Where it passes all of them, the
    /// groups for larger requests are next; without such groups all are tried, because our count is
    /// an estimate and the provider's is not.
    fn fit_window(
        &self,
        call: &Call,
        group: &ModelGroup,
        order: &mut Order<'_>,
    ) -> Result<(), Fault> {
        let tokens = call.input_tokens();
        let fits = |deployment: &Deployment| {
            deployment.max_input_tokens.is_none_or(|window| {
                tokens <= window.saturating_add(window / 100 * WINDOW_MARGIN_PERCENT)
            })
        };
        if !order.iter().any(|deployment| fits(deployment))
            && !group.context_window_fallbacks.is_empty()
        {
            let window = order.iter().filter_map(|deployment| deployment.max_input_tokens).max();
            return Err(Fault::context_window(tokens, window.unwrap_or_default()));
        }
        keep_some(order, fits);
        Ok(())
    }

    /// Sorts by the strategy, then by priority.
    fn arrange(&self, call: &Call, order: &mut Order<'_>, now: Instant) {
        let of = |deployment: &Deployment| call.endpoint(deployment);
        // All begin with a draw, so that equals share.
        draw(order);
        match call.router().strategy {
            Strategy::Shuffle => {}
            Strategy::LeastBusy => {
                order.sort_by_key(|deployment| of(deployment).traffic.in_flight());
            }
            Strategy::LowestLatency => {
                let stream = call.view.stream;
                let since_start = now.saturating_duration_since(self.started);
                let load =
                    |deployment: &Deployment| of(deployment).traffic.load(stream, since_start);
                // The better one of two that were drawn: the best of all would get every call
                // until it is the worst.
                if load(order[1]) < load(order[0]) {
                    order.swap(0, 1);
                }
                order[1..].sort_by(|a, b| load(a).total_cmp(&load(b)));
            }
            Strategy::LowestCost => {
                let usage = call.assumed_usage();
                let dollars = |deployment: &Deployment| match &deployment.price {
                    Some(price) => cost(&usage, price, Tier::default()).total().0,
                    None => u64::MAX,
                };
                order.sort_by_cached_key(|deployment| dollars(deployment));
            }
            Strategy::MostRemaining => {
                let used = |deployment: &Deployment| self.used(deployment, now);
                order.sort_by_cached_key(|deployment| used(deployment));
            }
        }
        order.sort_by_key(|deployment| of(deployment).order);
    }

    /// How much of a deployment's `rpm` or `tpm` is used, whichever is more, in thousandths.
    fn used(&self, deployment: &Deployment, now: Instant) -> u64 {
        let wants = [
            (LimitUnit::Requests, deployment.limits.rpm),
            (LimitUnit::Tokens, deployment.limits.tpm),
        ];
        let of = |(unit, limit): (LimitUnit, Option<u64>)| {
            let limit = limit?.max(1);
            // A reservation of nothing tells what is left.
            let left = match self.limits.reserve(key(deployment, unit), limit, 0, now) {
                Ok((_, state)) => state.remaining,
                Err(exceeded) => exceeded.remaining,
            };
            Some((limit - left.min(limit)).saturating_mul(1000) / limit)
        };
        wants.into_iter().filter_map(of).max().unwrap_or(0)
    }
}

impl Call {
    /// About how many tokens the request has.
    pub(super) fn input_tokens(&self) -> u64 {
        *self.input_tokens.get_or_init(|| count::input_tokens(&self.view.body))
    }

    /// What the request is taken to use, to compare prices.
    fn assumed_usage(&self) -> Usage {
        let (object, body) = (&self.view.object, &self.view.body);
        let names = ["max_completion_tokens", "max_tokens", "max_output_tokens"];
        let most = names.into_iter().find_map(|name| object.u64(body, name));
        Usage {
            prompt_tokens: self.input_tokens(),
            completion_tokens: most.unwrap_or(OUTPUT_TOKENS_ASSUMED),
            ..Usage::default()
        }
    }
}

/// What counts a deployment's own limits.
pub(super) fn key(deployment: &Deployment, unit: LimitUnit) -> LimitKey {
    LimitKey { scope: "deployment", subject: Some(Arc::clone(&deployment.id)), part: None, unit }
}

/// The deployments a request's tags lead to, as in LiteLLM: those that share one of its tags (all of
/// its tags, where so configured), else those for everybody, which are tagged `default` or, for a
/// request without tags, not at all.
fn tagged<'g>(call: &Call, group: &'g ModelGroup) -> Order<'g> {
    let all = group.deployments.iter();
    if !call.router().tag_filtering {
        return all.collect();
    }
    let of = |deployment: &Deployment| &call.endpoint(deployment).tags;
    let has = |tags: &[String], tag: &str| tags.iter().any(|have| have == tag);
    if !call.tags.is_empty() {
        let matches = |deployment: &&Arc<Deployment>| {
            let tags = of(deployment);
            match call.router().tag_match_any {
                true => call.tags.iter().any(|tag| has(tags, tag)),
                false => !tags.is_empty() && call.tags.iter().all(|tag| has(tags, tag)),
            }
        };
        let found: Order<'g> = all.clone().filter(matches).collect();
        if !found.is_empty() {
            return found;
        }
        return all.filter(|deployment| has(of(deployment), "default")).collect();
    }
    let (untagged, tagged): (Order<'g>, Order<'g>) =
        all.partition(|deployment| of(deployment).is_empty() || has(of(deployment), "default"));
    if untagged.is_empty() { tagged } else { untagged }
}

/// Keeps those that are `good`; all of them, if none is.
fn keep_some(order: &mut Order<'_>, good: impl Fn(&Deployment) -> bool) {
    if order.iter().any(|deployment| good(deployment)) {
        order.retain(|deployment| good(deployment));
    }
}

/// A random order that follows the weights: draw, swap to the front, draw from the rest.
fn draw(order: &mut Order<'_>) {
    for first in 0..order.len() - 1 {
        let total: u64 = order[first..].iter().map(|d| u64::from(d.weight)).sum();
        let mut draw = random::below(total.max(1));
        let chosen = order[first..].iter().position(|d| {
            let weight = u64::from(d.weight);
            let here = draw < weight;
            draw = draw.saturating_sub(weight);
            here
        });
        order.swap(first, first + chosen.unwrap_or(0));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_answer_counts_at_once_and_is_forgotten_slowly() {
        let (ewma, ms) = (PeakEwma::default(), Duration::from_millis);
        let nanos = || Duration::from_nanos(ewma.nanos.load(Ordering::Relaxed));
        ewma.observe(ms(10), ms(0));
        ewma.observe(ms(500), ms(100));
        assert_eq!(nanos(), ms(500));
        ewma.observe(ms(10), ms(200));
        assert!(nanos() > ms(480), "{:?}", nanos());
        ewma.observe(ms(10), ms(60_000));
        assert!(nanos() < ms(15), "{:?}", nanos());
        // Also while nobody asks.
        ewma.observe(ms(500), ms(60_000));
        assert!(ewma.now(ms(90_000)) < ms(30).as_nanos() as f64);
    }
}
