//! LiteLLM's metrics of its response cache, with the labels of them that are known here.

use std::hash::Hash;
use std::sync::Arc;

use foldhash::fast::RandomState;
use papaya::{Equivalent, HashMap};
use prometheus::{Counter, CounterVec, IntCounter, IntCounterVec, Opts, Registry};
use tollway_filter_api::deps::Metrics;
use tollway_filter_api::{KeyHash, RequestCtx};
use tollway_wire::price::{PicoDollars, cost};
use tollway_wire::usage::Usage;

use crate::settle::tier;

/// `model` is the name of the group: no deployment has been chosen when a cache is asked.
const LABELS: [&str; 3] = ["model", "hashed_api_key", "api_key_alias"];

/// How many sets of labels there may be before further groups are all called [`OTHER`]: under a
/// wildcard, callers can make up as many names as they like.
const LABEL_SETS_MAX: usize = 4096;

const OTHER: &str = "other";

/// What LiteLLM writes where a label has no value.
const NONE: &str = "None";

struct Vectors {
    hits: IntCounterVec,
    misses: IntCounterVec,
    tokens: IntCounterVec,
    saved: CounterVec,
}

impl Vectors {
    fn register(registry: &Registry) -> prometheus::Result<Vectors> {
        let register = |name, help| {
            let vector = IntCounterVec::new(Opts::new(name, help), &LABELS)?;
            registry.register(Box::new(vector.clone()))?;
            Ok::<_, prometheus::Error>(vector)
        };
        let saved = CounterVec::new(
            Opts::new(
                "tollway_cache_saved_dollars_total",
                "What the answers given out of the response cache would have cost",
            ),
            &LABELS,
        )?;
        registry.register(Box::new(saved.clone()))?;
        Ok(Vectors {
            saved,
            hits: register(
                "litellm_cache_hits_metric_total",
                "Requests answered out of the response cache",
            )?,
            misses: register(
                "litellm_cache_misses_metric_total",
                "Requests looked up in the response cache in vain",
            )?,
            tokens: register(
                "litellm_cached_tokens_metric_total",
                "Tokens of the answers given out of the response cache",
            )?,
        })
    }
}

/// The counters of one set of labels. Asking a vector for them costs more than counting does, so
/// they are kept.
struct Counters {
    hits: IntCounter,
    misses: IntCounter,
    tokens: IntCounter,
    saved: Counter,
}

#[derive(PartialEq, Eq, Hash)]
struct Labels {
    key: Option<KeyHash>,
    group: Arc<str>,
}

/// [`Labels`] to look for; its fields hash like those of the owned ones.
#[derive(Hash)]
struct LabelsRef<'a> {
    key: Option<&'a KeyHash>,
    group: &'a str,
}

impl Equivalent<Labels> for LabelsRef<'_> {
    fn equivalent(&self, labels: &Labels) -> bool {
        self.key == labels.key.as_ref() && *self.group == *labels.group
    }
}

/// Counts hits and misses.
pub(super) struct Meters {
    vectors: Arc<Vectors>,
    counters: HashMap<Labels, Counters, RandomState>,
}

impl Meters {
    pub(super) fn new(metrics: &Metrics) -> prometheus::Result<Meters> {
        Ok(Meters {
            vectors: metrics.get_or_make(Vectors::register)?,
            counters: HashMap::default(),
        })
    }

    pub(super) fn hit(&self, ctx: &RequestCtx, usage: Option<&Usage>) {
        self.count(ctx, |counters| {
            counters.hits.inc();
            counters.tokens.inc_by(usage.map_or(0, Usage::total_tokens));
            if let Some(saved) = usage.and_then(|usage| worth(ctx, usage)) {
                counters.saved.inc_by(saved.as_dollars());
            }
        });
    }

    pub(super) fn miss(&self, ctx: &RequestCtx) {
        self.count(ctx, |counters| counters.misses.inc());
    }

    fn count(&self, ctx: &RequestCtx, count: impl FnOnce(&Counters)) {
        let key = ctx.identity.as_deref();
        let group = ctx.plan.as_ref().map_or(NONE, |plan| &plan.group.name);
        let counters = self.counters.pin();
        let labels = LabelsRef { key: key.map(|key| &key.hash), group };
        if let Some(known) = counters.get(&labels) {
            return count(known);
        }
        let group = if counters.len() < LABEL_SETS_MAX { group } else { OTHER };
        let hash = key.map_or(NONE, |key| &key.hash_hex);
        let alias = key.and_then(|key| key.alias.as_deref()).unwrap_or(NONE);
        let values = [group, hash, alias];
        let labels = Labels { key: key.map(|key| key.hash), group: group.into() };
        count(counters.get_or_insert_with(labels, || Counters {
            hits: self.vectors.hits.with_label_values(&values),
            misses: self.vectors.misses.with_label_values(&values),
            tokens: self.vectors.tokens.with_label_values(&values),
            saved: self.vectors.saved.with_label_values(&values),
        }));
    }
}

/// What a call would cost at the first deployment of its group whose price is known.
fn worth(ctx: &RequestCtx, usage: &Usage) -> Option<PicoDollars> {
    let group = &ctx.plan.as_ref()?.group;
    let price = group.deployments.iter().find_map(|deployment| deployment.price.as_deref())?;
    Some(cost(usage, price, tier(ctx)).total())
}
