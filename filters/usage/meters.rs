//! The figures behind `/metrics`: one [`Series`] for each combination of labels.
//!
//! The prometheus crate keeps a set of strings for every metric of every combination, and money as
//! a float. Here a combination is found once a request, its strings are kept once, and everything is
//! counted in integers: nanoseconds, tokens, pico-dollars. Floats appear when somebody reads.

use std::collections::HashSet;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use foldhash::fast::RandomState;
use papaya::{Equivalent, HashMap};
use parking_lot::{Mutex, RwLock};
use tollway_filter_api::identity::KeyStore;
use tollway_wire::price::PicoDollars;

use super::histogram::Histogram;

/// What stands where a label has no value, as LiteLLM writes it.
pub(super) const NONE: &str = "None";
/// What stands for all that a bound keeps apart.
pub(super) const OTHER: &str = "other";

/// The label values of one combination that are strings of somebody else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Value {
    EndUser,
    KeyHash,
    KeyAlias,
    Team,
    User,
    ClientIp,
    UserAgent,
    RequestedModel,
    ModelGroup,
    ModelId,
    Model,
    LitellmModel,
    Provider,
    ApiBase,
    ErrorKind,
}

/// How many [`Value`]s there are.
const VALUES: usize = 15;

/// The labels of a request, borrowed from where they are. `None` is shown as `None`.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Labels<'a> {
    values: [Option<&'a str>; VALUES],
    pub(super) route: &'static str,
    pub(super) operation: &'static str,
    pub(super) tier: &'static str,
    pub(super) status: u16,
}

impl<'a> Labels<'a> {
    pub(super) fn set(&mut self, value: Value, to: Option<&'a str>) {
        self.values[value as usize] = to;
    }

    pub(super) fn get(&self, value: Value) -> Option<&'a str> {
        self.values[value as usize]
    }
}

/// The labels of a [`Series`], kept.
#[derive(Debug)]
pub(super) struct OwnedLabels {
    pub(super) values: [Option<Arc<str>>; VALUES],
    pub(super) route: &'static str,
    pub(super) operation: &'static str,
    pub(super) tier: &'static str,
    pub(super) status: u16,
}

impl OwnedLabels {
    fn borrow(&self) -> Labels<'_> {
        let &OwnedLabels { ref values, route, operation, tier, status } = self;
        Labels { values: values.each_ref().map(Option::as_deref), route, operation, tier, status }
    }
}

// Equality looks at everything, the hash only at what tells requests apart in practice. Hashes of
// keys and ids of deployments are hashes themselves, of which a part will do.
impl Hash for Labels<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let tail = |value| {
            let text = self.get(value).unwrap_or_default().as_bytes();
            u64::from_le_bytes(text.last_chunk::<8>().copied().unwrap_or_default())
        };
        let ids = tail(Value::KeyHash) ^ tail(Value::ModelId).rotate_left(32);
        state.write_u64(ids.wrapping_add(self.status.into()));
        for value in [Value::RequestedModel, Value::EndUser] {
            state.write(self.get(value).unwrap_or_default().as_bytes());
        }
    }
}

impl PartialEq for Labels<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.status == other.status
            && self.values == other.values
            && self.route == other.route
            && self.operation == other.operation
            && self.tier == other.tier
    }
}

impl Eq for Labels<'_> {}

impl Hash for OwnedLabels {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.borrow().hash(state);
    }
}

impl PartialEq for OwnedLabels {
    fn eq(&self, other: &Self) -> bool {
        self.borrow() == other.borrow()
    }
}

impl Eq for OwnedLabels {}

impl Equivalent<OwnedLabels> for Labels<'_> {
    fn equivalent(&self, key: &OwnedLabels) -> bool {
        *self == key.borrow()
    }
}

/// How much of what callers send may become label values.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// How many model names have figures of their own.
    pub(super) models_max: usize,
    /// How many combinations of labels have figures of their own.
    pub(super) series_max: usize,
}

/// All figures. Lives as long as the process.
#[derive(Default)]
pub(super) struct Meters {
    pub(super) series: HashMap<OwnedLabels, Arc<Mutex<Series>>, RandomState>,
    /// The model names that have figures of their own: those of the config, and those that a
    /// wildcard led to and that answered.
    models: Mutex<HashSet<Arc<str>>>,
    /// Who knows what teams and users are called.
    pub(super) keys: RwLock<Option<Arc<dyn KeyStore>>>,
}

impl Meters {
    /// Gives a model of the config a place that invented names cannot take.
    pub(super) fn know_model(&self, name: Arc<str>) {
        self.models.lock().insert(name);
    }

    /// Asks these from now on what teams and users are called. It is asked when somebody reads, so
    /// that a new name makes no second series.
    pub(super) fn ask_names(&self, keys: Arc<dyn KeyStore>) {
        *self.keys.write() = Some(keys);
    }

    /// Lets `record` count under these labels.
    pub(super) fn with<T>(
        &self,
        labels: &Labels<'_>,
        bounds: Bounds,
        record: impl FnOnce(&mut Series) -> T,
    ) -> T {
        let series = self.series.pin();
        match series.get(labels) {
            Some(found) => record(&mut found.lock()),
            None => record(&mut self.make(labels, bounds).lock()),
        }
    }

    /// The way taken once per combination, and by those that are beyond the bounds.
    #[cold]
    fn make(&self, labels: &Labels<'_>, bounds: Bounds) -> Arc<Mutex<Series>> {
        let mut labels = *labels;
        if let Some(model) = labels.get(Value::RequestedModel)
            && !self.admit_model(model, labels.status, bounds)
        {
            use Value::{LitellmModel, Model, ModelGroup, ModelId, RequestedModel};
            for value in [RequestedModel, ModelGroup, Model, ModelId, LitellmModel] {
                labels.set(value, labels.get(value).map(|_| OTHER));
            }
        }
        let series = self.series.pin();
        if series.len() >= bounds.series_max && series.get(&labels).is_none() {
            use Value::{ClientIp, EndUser, ErrorKind, KeyAlias, KeyHash, Team, User, UserAgent};
            for value in [EndUser, KeyHash, KeyAlias, Team, User, ClientIp, UserAgent, ErrorKind] {
                labels.set(value, labels.get(value).map(|_| OTHER));
            }
        }
        if let Some(found) = series.get(&labels) {
            return Arc::clone(found);
        }
        let Labels { values, route, operation, tier, status } = labels;
        let values = values.map(|value| value.map(Arc::from));
        let owned = OwnedLabels { values, route, operation, tier, status };
        Arc::clone(series.get_or_insert_with(owned, Arc::default))
    }

    /// Whether a model name may have figures of its own. One that nobody has heard of has to answer
    /// before it may, so that made-up names below a wildcard fill nothing.
    fn admit_model(&self, model: &str, status: u16, bounds: Bounds) -> bool {
        let mut models = self.models.lock();
        if models.contains(model) {
            return true;
        }
        let is_admitted = (1..400).contains(&status) && models.len() < bounds.models_max;
        if is_admitted {
            models.insert(model.into());
        }
        is_admitted
    }
}

/// What was counted for one combination of labels. Behind one lock: twenty counters that are each
/// counted up by an instruction of its own take ten times as long.
#[derive(Debug, Default)]
pub(super) struct Series {
    /// Requests, whatever became of them.
    pub(super) requests: u64,
    /// Requests that failed.
    pub(super) failures: u64,
    /// Requests that failed at a deployment.
    pub(super) deployment_failures: u64,
    /// Requests that a fallback has answered.
    pub(super) fallbacks_answered: u64,
    /// Requests that no fallback could answer.
    pub(super) fallbacks_failed: u64,
    pub(super) calls: Option<Box<Calls>>,
}

impl Series {
    /// The figures of model calls. Series that hold refusals only do without.
    pub(super) fn calls(&mut self) -> &mut Calls {
        self.calls.get_or_insert_default()
    }
}

/// What was counted of model calls.
#[derive(Debug, Default)]
pub(super) struct Calls {
    pub(super) answered: u64,
    pub(super) unpriced: u64,
    pub(super) unmetered: u64,
    /// Input tokens; the counters show the sum.
    pub(super) input: Histogram,
    /// Output tokens; the counters show the sum.
    pub(super) output: Histogram,
    pub(super) cached: u64,
    pub(super) cache_writes: u64,
    pub(super) reasoning: u64,
    pub(super) audio_input: u64,
    pub(super) audio_output: u64,
    /// What was spent, in pico-dollars.
    pub(super) spent: u128,
    pub(super) total_latency: Histogram,
    pub(super) upstream_latency: Histogram,
    pub(super) first_token: Histogram,
    pub(super) overhead: Histogram,
    pub(super) queue_time: Histogram,
    pub(super) latency_per_token: Histogram,
    pub(super) genai_duration: Histogram,
    pub(super) genai_first_token: Histogram,
    pub(super) genai_per_token: Histogram,
}

impl Calls {
    pub(super) fn spend(&mut self, amount: PicoDollars) {
        self.spent = self.spent.saturating_add(amount.0.into());
    }
}
