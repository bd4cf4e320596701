//! The figures behind `/metrics`: one [`Series`] for each combination of labels, and the table that
//! says which of them goes into which metric.
//!
//! The prometheus crate keeps a set of strings for every metric of every combination, and money as
//! a float. Here a combination is found once a request, its strings are kept once, and everything is
//! counted in integers: nanoseconds, tokens, pico-dollars. Floats appear when somebody reads.

use std::borrow::Cow;
use std::collections::HashSet;
use std::hash::{Hash, Hasher};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};

use papaya::{Equivalent, HashMap};
use parking_lot::{Mutex, RwLock};
use prometheus::core::{Collector, Desc};
use prometheus::proto;
use tollway_filter_api::accounts::Kind;
use tollway_filter_api::identity::KeyStore;
use tollway_wire::price::PicoDollars;

/// What stands where a label has no value, as LiteLLM writes it.
pub(super) const NONE: &str = "None";
/// What stands for all that a bound keeps apart.
pub(super) const OTHER: &str = "other";

/// How many buckets a histogram may have.
const BUCKETS_MAX: usize = 18;

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
struct OwnedLabels {
    values: [Option<Arc<str>>; VALUES],
    route: &'static str,
    operation: &'static str,
    tier: &'static str,
    status: u16,
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
    series: HashMap<OwnedLabels, Arc<Series>>,
    /// The model names that have figures of their own: those of the config, and those that a
    /// wildcard led to and that answered.
    models: Mutex<HashSet<Arc<str>>>,
    /// Who knows what teams and users are called.
    keys: RwLock<Option<Arc<dyn KeyStore>>>,
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
        record: impl FnOnce(&Series) -> T,
    ) -> T {
        let series = self.series.pin();
        match series.get(labels) {
            Some(found) => record(found),
            None => record(&self.make(labels, bounds)),
        }
    }

    /// The way taken once per combination, and by those that are beyond the bounds.
    #[cold]
    fn make(&self, labels: &Labels<'_>, bounds: Bounds) -> Arc<Series> {
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

/// What was counted for one combination of labels.
#[derive(Debug, Default)]
pub(super) struct Series {
    /// Requests, whatever became of them.
    pub(super) requests: AtomicU64,
    /// Requests that failed.
    pub(super) failures: AtomicU64,
    /// Requests that failed at a deployment.
    pub(super) deployment_failures: AtomicU64,
    /// Requests that a fallback has answered.
    pub(super) fallbacks_answered: AtomicU64,
    /// Requests that no fallback could answer.
    pub(super) fallbacks_failed: AtomicU64,
    calls: OnceLock<Box<Calls>>,
}

impl Series {
    /// The figures of model calls. Series that hold refusals only do without.
    pub(super) fn calls(&self) -> &Calls {
        self.calls.get_or_init(Box::default)
    }
}

/// What was counted of model calls.
#[derive(Debug, Default)]
pub(super) struct Calls {
    pub(super) answered: AtomicU64,
    pub(super) unpriced: AtomicU64,
    pub(super) unmetered: AtomicU64,
    /// Input tokens; the counters show the sum.
    pub(super) input: Histogram,
    /// Output tokens; the counters show the sum.
    pub(super) output: Histogram,
    pub(super) cached: AtomicU64,
    pub(super) cache_writes: AtomicU64,
    pub(super) reasoning: AtomicU64,
    pub(super) audio_input: AtomicU64,
    pub(super) audio_output: AtomicU64,
    spend: Spend,
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
    pub(super) fn spend(&self, amount: PicoDollars) {
        self.spend.add(amount);
    }
}

/// Money, exactly.
#[derive(Debug, Default)]
struct Spend {
    low: AtomicU64,
    /// How often `low` went round, which takes 18 million dollars each.
    high: AtomicU64,
}

impl Spend {
    fn add(&self, amount: PicoDollars) {
        if self.low.fetch_add(amount.0, Relaxed).checked_add(amount.0).is_none() {
            self.high.fetch_add(1, Relaxed);
        }
    }

    fn total(&self) -> u128 {
        (u128::from(self.high.load(Relaxed)) << 64) | u128::from(self.low.load(Relaxed))
    }
}

/// Where a histogram's buckets end, and how many of the counted unit go into one of the shown.
#[derive(Debug)]
pub(super) struct Buckets {
    bounds: &'static [f64],
    unit: f64,
}

/// LiteLLM's buckets for all latencies.
pub(super) static LATENCY: Buckets = Buckets {
    bounds: &[
        0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0,
        420.0, 600.0,
    ],
    unit: 1e9,
};

// The rest are those of OpenTelemetry's semantic conventions for generative AI.

pub(super) static GENAI_TOKENS: Buckets = Buckets {
    bounds: &[
        1.0, 4.0, 16.0, 64.0, 256.0, 1024.0, 4096.0, 16384.0, 65536.0, 262144.0, 1048576.0,
        4194304.0, 16777216.0, 67108864.0,
    ],
    unit: 1.0,
};

pub(super) static GENAI_DURATION: Buckets = Buckets {
    bounds: &[
        0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92,
    ],
    unit: 1e9,
};

pub(super) static GENAI_FIRST_TOKEN: Buckets = Buckets {
    bounds: &[
        0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
    ],
    unit: 1e9,
};

pub(super) static GENAI_PER_TOKEN: Buckets = Buckets {
    bounds: &[0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5],
    unit: 1e9,
};

/// How often a value fell into which bucket. Buckets are counted apart and added up when read, so
/// that the count always is their sum.
#[derive(Debug, Default)]
pub(super) struct Histogram {
    counts: [AtomicU64; BUCKETS_MAX],
    sum: AtomicU64,
}

impl Histogram {
    /// Counts one value, in the unit that is counted: nanoseconds or tokens.
    pub(super) fn observe(&self, buckets: &Buckets, value: u64) {
        let shown = value as f64 / buckets.unit;
        let bucket = buckets.bounds.partition_point(|bound| *bound < shown);
        if let Some(count) = self.counts.get(bucket) {
            count.fetch_add(1, Relaxed);
            self.sum.fetch_add(value, Relaxed);
        }
    }

    fn sum(&self) -> u64 {
        self.sum.load(Relaxed)
    }
}

/// Where the value of a metric's label comes from.
#[derive(Clone, Copy)]
enum Source {
    From(Value),
    Route,
    Operation,
    Tier,
    Status,
    /// What the team is called, and the user's address.
    TeamAlias,
    UserEmail,
    Always(&'static str),
}

/// One label of a metric.
type Label = (&'static str, Source);

/// What of a series a metric shows.
enum Figure {
    Requests(fn(&Series) -> u64),
    Calls(fn(&Calls) -> u64),
    Spend,
    Histogram(&'static Buckets, fn(&Calls) -> &Histogram),
}

/// One metric.
struct Metric {
    name: &'static str,
    help: &'static str,
    labels: &'static [&'static [Label]],
    figure: Figure,
}

use Source::{Always, From};

const CALLER: &[Label] = &[
    ("end_user", From(Value::EndUser)),
    ("hashed_api_key", From(Value::KeyHash)),
    ("api_key_alias", From(Value::KeyAlias)),
    ("team", From(Value::Team)),
    ("team_alias", Source::TeamAlias),
    ("user", From(Value::User)),
    ("user_email", Source::UserEmail),
    ("org_id", Always(NONE)),
    ("org_alias", Always(NONE)),
];
const CLIENT: &[Label] =
    &[("client_ip", From(Value::ClientIp)), ("user_agent", From(Value::UserAgent))];
const TARGET: &[Label] = &[
    ("requested_model", From(Value::RequestedModel)),
    ("model_id", From(Value::ModelId)),
    ("api_provider", From(Value::Provider)),
];
const MODEL: &[Label] = &[("model", From(Value::Model))];
const GROUP: &[Label] = &[("model_group", From(Value::ModelGroup))];
const TIER: &[Label] = &[("service_tier", Source::Tier)];
const ANSWERED: &[Label] = &[("status_code", Source::Status), ("route", Source::Route)];
const FAILED: &[Label] = &[
    ("exception_status", Source::Status),
    ("exception_class", From(Value::ErrorKind)),
    ("route", Source::Route),
];
const OVERHEAD: &[Label] = &[
    ("model_group", From(Value::ModelGroup)),
    ("api_provider", From(Value::Provider)),
    ("api_base", From(Value::ApiBase)),
    ("litellm_model_name", From(Value::LitellmModel)),
    ("hashed_api_key", From(Value::KeyHash)),
    ("api_key_alias", From(Value::KeyAlias)),
    ("model_id", From(Value::ModelId)),
];
const DEPLOYMENT: &[Label] = &[
    ("litellm_model_name", From(Value::LitellmModel)),
    ("model_id", From(Value::ModelId)),
    ("api_base", From(Value::ApiBase)),
    ("api_provider", From(Value::Provider)),
    ("hashed_api_key", From(Value::KeyHash)),
    ("api_key_alias", From(Value::KeyAlias)),
    ("team", From(Value::Team)),
    ("team_alias", Source::TeamAlias),
];
const FALLBACK: &[Label] = &[
    ("requested_model", From(Value::RequestedModel)),
    ("fallback_model", From(Value::LitellmModel)),
    ("hashed_api_key", From(Value::KeyHash)),
    ("api_key_alias", From(Value::KeyAlias)),
    ("team", From(Value::Team)),
    ("team_alias", Source::TeamAlias),
];
const GENAI: &[Label] = &[
    ("gen_ai_operation_name", Source::Operation),
    ("gen_ai_system", From(Value::Provider)),
    ("gen_ai_request_model", From(Value::RequestedModel)),
    ("gen_ai_response_model", From(Value::Model)),
];
const INPUT: &[Label] = &[("gen_ai_token_type", Always("input"))];
const OUTPUT: &[Label] = &[("gen_ai_token_type", Always("output"))];

const LATENCY_LABELS: &[&[Label]] = &[CALLER, TARGET, MODEL, GROUP, TIER];

/// Every metric of this filter. Names and labels are LiteLLM's, those of `gen_ai_…` agentgateway's.
static METRICS: &[Metric] = &[
    Metric {
        name: "litellm_proxy_total_requests_metric_total",
        help: "Requests, whatever became of them",
        labels: &[CALLER, CLIENT, TARGET, ANSWERED],
        figure: Figure::Requests(|series| series.requests.load(Relaxed)),
    },
    Metric {
        name: "litellm_proxy_failed_requests_metric_total",
        help: "Requests that were refused or failed",
        labels: &[CALLER, CLIENT, TARGET, FAILED],
        figure: Figure::Requests(|series| series.failures.load(Relaxed)),
    },
    Metric {
        name: "litellm_spend_metric_total",
        help: "What the calls cost, in dollars",
        labels: &[CALLER, CLIENT, TARGET, MODEL, TIER],
        figure: Figure::Spend,
    },
    Metric {
        name: "litellm_requests_metric_total",
        help: "Model calls that were answered",
        labels: &[CALLER, TARGET, MODEL],
        figure: Figure::Calls(|calls| calls.answered.load(Relaxed)),
    },
    Metric {
        name: "litellm_total_tokens_metric_total",
        help: "Input and output tokens",
        labels: &[CALLER, TARGET, MODEL],
        figure: Figure::Calls(|calls| calls.input.sum().saturating_add(calls.output.sum())),
    },
    Metric {
        name: "litellm_input_tokens_metric_total",
        help: "Input tokens, cached ones included",
        labels: &[CALLER, TARGET, MODEL],
        figure: Figure::Calls(|calls| calls.input.sum()),
    },
    Metric {
        name: "litellm_output_tokens_metric_total",
        help: "Output tokens, reasoning included",
        labels: &[CALLER, TARGET, MODEL],
        figure: Figure::Calls(|calls| calls.output.sum()),
    },
    Metric {
        name: "litellm_input_cached_tokens_metric_total",
        help: "Input tokens read from the provider's prompt cache",
        labels: &[CALLER, TARGET, MODEL],
        figure: Figure::Calls(|calls| calls.cached.load(Relaxed)),
    },
    Metric {
        name: "litellm_input_cache_creation_tokens_metric_total",
        help: "Input tokens written to the provider's prompt cache",
        labels: &[CALLER, TARGET, MODEL],
        figure: Figure::Calls(|calls| calls.cache_writes.load(Relaxed)),
    },
    Metric {
        name: "litellm_output_reasoning_tokens_metric_total",
        help: "Output tokens spent on thinking",
        labels: &[CALLER, TARGET, MODEL],
        figure: Figure::Calls(|calls| calls.reasoning.load(Relaxed)),
    },
    Metric {
        name: "litellm_provider_cache_read_input_tokens_metric_total",
        help: "Input tokens read from the provider's prompt cache",
        labels: &[CALLER, TARGET, MODEL],
        figure: Figure::Calls(|calls| calls.cached.load(Relaxed)),
    },
    Metric {
        name: "litellm_provider_cache_creation_input_tokens_metric_total",
        help: "Input tokens written to the provider's prompt cache",
        labels: &[CALLER, TARGET, MODEL],
        figure: Figure::Calls(|calls| calls.cache_writes.load(Relaxed)),
    },
    Metric {
        name: "litellm_input_audio_tokens_metric_total",
        help: "Input tokens of audio",
        labels: &[CALLER, TARGET, MODEL],
        figure: Figure::Calls(|calls| calls.audio_input.load(Relaxed)),
    },
    Metric {
        name: "litellm_output_audio_tokens_metric_total",
        help: "Output tokens of audio",
        labels: &[CALLER, TARGET, MODEL],
        figure: Figure::Calls(|calls| calls.audio_output.load(Relaxed)),
    },
    Metric {
        name: "litellm_llm_api_failed_requests_metric_total",
        help: "Requests that failed at a deployment",
        labels: &[CALLER, MODEL],
        figure: Figure::Requests(|series| series.deployment_failures.load(Relaxed)),
    },
    Metric {
        name: "litellm_deployment_successful_fallbacks_total",
        help: "Requests that a fallback has answered",
        labels: &[FALLBACK],
        figure: Figure::Requests(|series| series.fallbacks_answered.load(Relaxed)),
    },
    Metric {
        name: "litellm_deployment_failed_fallbacks_total",
        help: "Requests that no fallback could answer",
        labels: &[FALLBACK],
        figure: Figure::Requests(|series| series.fallbacks_failed.load(Relaxed)),
    },
    Metric {
        name: "tollway_unpriced_requests_total",
        help: "Calls of models that a wildcard led to and whose price is not known",
        labels: &[TARGET, MODEL],
        figure: Figure::Calls(|calls| calls.unpriced.load(Relaxed)),
    },
    Metric {
        name: "tollway_unmetered_requests_total",
        help: "Calls whose tokens the provider did not tell, so that no cost is known",
        labels: &[TARGET, MODEL],
        figure: Figure::Calls(|calls| calls.unmetered.load(Relaxed)),
    },
    Metric {
        name: "litellm_request_total_latency_metric",
        help: "Seconds from the request's head to the end of the answer",
        labels: LATENCY_LABELS,
        figure: Figure::Histogram(&LATENCY, |calls| &calls.total_latency),
    },
    Metric {
        name: "litellm_llm_api_latency_metric",
        help: "Seconds from the first attempt to the end of the provider's answer",
        labels: LATENCY_LABELS,
        figure: Figure::Histogram(&LATENCY, |calls| &calls.upstream_latency),
    },
    Metric {
        name: "litellm_llm_api_time_to_first_token_metric",
        help: "Seconds from the first attempt to a stream's first event",
        labels: LATENCY_LABELS,
        figure: Figure::Histogram(&LATENCY, |calls| &calls.first_token),
    },
    Metric {
        name: "litellm_overhead_latency_metric",
        help: "Seconds that the gateway itself took",
        labels: &[OVERHEAD],
        figure: Figure::Histogram(&LATENCY, |calls| &calls.overhead),
    },
    Metric {
        name: "litellm_request_queue_time_seconds",
        help: "Seconds from the request's head to the first attempt",
        labels: &[CALLER, TARGET, MODEL],
        figure: Figure::Histogram(&LATENCY, |calls| &calls.queue_time),
    },
    Metric {
        name: "litellm_deployment_latency_per_output_token",
        help: "Seconds that the provider took for each output token",
        labels: &[DEPLOYMENT],
        figure: Figure::Histogram(&GENAI_PER_TOKEN, |calls| &calls.latency_per_token),
    },
    Metric {
        name: "gen_ai_client_token_usage",
        help: "Tokens of a call",
        labels: &[GENAI, INPUT],
        figure: Figure::Histogram(&GENAI_TOKENS, |calls| &calls.input),
    },
    Metric {
        name: "gen_ai_client_token_usage",
        help: "Tokens of a call",
        labels: &[GENAI, OUTPUT],
        figure: Figure::Histogram(&GENAI_TOKENS, |calls| &calls.output),
    },
    Metric {
        name: "gen_ai_server_request_duration",
        help: "Seconds from the request's head to the end of the answer",
        labels: &[GENAI],
        figure: Figure::Histogram(&GENAI_DURATION, |calls| &calls.genai_duration),
    },
    Metric {
        name: "gen_ai_server_time_to_first_token",
        help: "Seconds from the request's head to a stream's first event",
        labels: &[GENAI],
        figure: Figure::Histogram(&GENAI_FIRST_TOKEN, |calls| &calls.genai_first_token),
    },
    Metric {
        name: "gen_ai_server_time_per_output_token",
        help: "Seconds per output token after the first",
        labels: &[GENAI],
        figure: Figure::Histogram(&GENAI_PER_TOKEN, |calls| &calls.genai_per_token),
    },
];

/// Shows [`Meters`] to Prometheus.
pub(super) struct Exposition {
    meters: Arc<Meters>,
    descriptions: Vec<Desc>,
}

impl Exposition {
    /// # Errors
    /// When a name in the table is none, which a test rules out.
    pub(super) fn new(meters: Arc<Meters>) -> prometheus::Result<Exposition> {
        let mut descriptions: Vec<Desc> = Vec::with_capacity(METRICS.len());
        for metric in METRICS {
            // A metric may take several lines of the table, but is described once.
            if descriptions.last().is_none_or(|known| known.fq_name != metric.name) {
                let names = metric.labels().map(|(name, _)| (*name).to_owned()).collect();
                let (name, help) = (metric.name.to_owned(), metric.help.to_owned());
                descriptions.push(Desc::new(name, help, names, Default::default())?);
            }
        }
        Ok(Exposition { meters, descriptions })
    }
}

impl Collector for Exposition {
    fn desc(&self) -> Vec<&Desc> {
        self.descriptions.iter().collect()
    }

    fn collect(&self) -> Vec<proto::MetricFamily> {
        let series = self.meters.series.pin();
        let keys = self.meters.keys.read().clone();
        METRICS.iter().map(|metric| metric.collect(series.iter(), keys.as_deref())).collect()
    }
}

/// The sum of what several series count under the same labels of one metric.
#[derive(Default)]
struct Sum {
    amount: u128,
    counts: [u64; BUCKETS_MAX],
}

impl Metric {
    fn labels(&self) -> impl Iterator<Item = &'static Label> {
        self.labels.iter().flat_map(|part| part.iter())
    }

    /// A metric shows fewer labels than a series has, so series that look the same are added up:
    /// Prometheus takes no two lines with the same labels.
    fn collect<'a>(
        &self,
        series: impl Iterator<Item = (&'a OwnedLabels, &'a Arc<Series>)>,
        keys: Option<&dyn KeyStore>,
    ) -> proto::MetricFamily {
        let mut sums: std::collections::HashMap<Vec<Cow<'a, str>>, Sum> = Default::default();
        for (labels, series) in series {
            let calls = series.calls.get();
            let (amount, histogram) = match (&self.figure, calls) {
                (Figure::Requests(read), _) => (u128::from(read(series)), None),
                (Figure::Calls(read), Some(calls)) => (u128::from(read(calls)), None),
                (Figure::Spend, Some(calls)) => (calls.spend.total(), None),
                (Figure::Histogram(_, read), Some(calls)) => {
                    let histogram = read(calls);
                    (u128::from(histogram.sum()), Some(histogram))
                }
                (_, None) => continue,
            };
            let counts = histogram.map(|histogram| histogram.counts.each_ref());
            let counts = counts.map(|counts| counts.map(|count| count.load(Relaxed)));
            if amount == 0 && counts.is_none_or(|counts| counts.iter().all(|count| *count == 0)) {
                continue;
            }
            let values = self.labels().map(|(_, source)| source.read(labels, keys)).collect();
            let sum = sums.entry(values).or_default();
            sum.amount += amount;
            for (sum, count) in sum.counts.iter_mut().zip(counts.unwrap_or_default()) {
                *sum += count;
            }
        }
        let metrics = sums.into_iter().map(|(values, sum)| {
            let pairs = self.labels().zip(values).map(|((name, _), value)| {
                let mut pair = proto::LabelPair::default();
                pair.set_name((*name).to_owned());
                pair.set_value(value.into_owned());
                pair
            });
            let mut metric = proto::Metric::from_label(pairs.collect());
            self.figure.show(&sum, &mut metric);
            metric
        });
        let mut family = proto::MetricFamily::default();
        family.set_name(self.name.to_owned());
        family.set_help(self.help.to_owned());
        family.set_field_type(match self.figure {
            Figure::Histogram(..) => proto::MetricType::HISTOGRAM,
            _ => proto::MetricType::COUNTER,
        });
        family.set_metric(metrics.collect());
        family
    }
}

impl Source {
    fn read<'a>(self, labels: &'a OwnedLabels, keys: Option<&dyn KeyStore>) -> Cow<'a, str> {
        let account = |kind, value| keys?.account(kind, labels.values[value as usize].as_deref()?);
        let said = |name: Option<Arc<str>>| match name {
            Some(name) => Cow::Owned(name.to_string()),
            None => Cow::Borrowed(NONE),
        };
        let text = match self {
            Source::From(value) => labels.values[value as usize].as_deref().unwrap_or(NONE),
            Source::TeamAlias => {
                return said(account(Kind::Team, Value::Team).and_then(|team| team.alias.clone()));
            }
            Source::UserEmail => {
                return said(account(Kind::User, Value::User).and_then(|user| user.email.clone()));
            }
            Source::Route => labels.route,
            Source::Operation => labels.operation,
            Source::Tier => labels.tier,
            Source::Always(text) => text,
            Source::Status if labels.status == 0 => NONE,
            Source::Status => return Cow::Owned(labels.status.to_string()),
        };
        Cow::Borrowed(text)
    }
}

impl Figure {
    fn show(&self, sum: &Sum, metric: &mut proto::Metric) {
        let mut counter = proto::Counter::default();
        match self {
            Figure::Requests(_) | Figure::Calls(_) => counter.set_value(sum.amount as f64),
            Figure::Spend => counter.set_value(dollars(sum.amount)),
            Figure::Histogram(buckets, _) => {
                metric.set_histogram(buckets.show(sum));
                return;
            }
        }
        metric.set_counter(counter);
    }
}

impl Buckets {
    fn show(&self, sum: &Sum) -> proto::Histogram {
        let mut below = 0;
        let buckets = self.bounds.iter().zip(sum.counts).map(|(bound, count)| {
            below += count;
            let mut bucket = proto::Bucket::default();
            bucket.set_upper_bound(*bound);
            bucket.set_cumulative_count(below);
            bucket
        });
        let mut histogram = proto::Histogram::default();
        histogram.set_bucket(buckets.collect());
        histogram.set_sample_count(sum.counts.iter().sum());
        histogram.set_sample_sum(sum.amount as f64 / self.unit);
        histogram
    }
}

/// The float nearest to an exact amount: read from its digits, because a division would round a
/// second time.
fn dollars(pico: u128) -> f64 {
    let unit = u128::from(PicoDollars::PER_DOLLAR);
    let text = format!("{}.{:012}", pico / unit, pico % unit);
    text.parse().unwrap_or(f64::INFINITY)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds { models_max: 3, series_max: 100 };

    fn labels<'a>(key: &'a str, model: &'a str, status: u16) -> Labels<'a> {
        let mut labels = Labels { status, route: "/r", tier: NONE, ..Labels::default() };
        labels.set(Value::KeyHash, Some(key));
        labels.set(Value::RequestedModel, Some(model));
        labels
    }

    /// What a scrape says, without comments.
    fn scrape(meters: &Arc<Meters>) -> String {
        let registry = prometheus::Registry::new();
        let exposition = Exposition::new(Arc::clone(meters)).expect("the table is right");
        registry.register(Box::new(exposition)).expect("the names are new");
        let text = prometheus::TextEncoder::new().encode_to_string(&registry.gather());
        text.expect("it can be shown").lines().filter(|line| !line.starts_with('#')).fold(
            String::new(),
            |mut all, line| {
                all.push_str(line);
                all.push('\n');
                all
            },
        )
    }

    fn count(meters: &Arc<Meters>, name: &str) -> usize {
        scrape(meters).lines().filter(|line| line.starts_with(&format!("{name}{{"))).count()
    }

    const TOTAL: &str = "litellm_proxy_total_requests_metric_total";

    #[test]
    fn money_is_exact_after_many_calls() {
        let meters = Arc::new(Meters::default());
        for _ in 0..100_000 {
            meters.with(&labels("k", "m", 200), BOUNDS, |series| {
                series.calls().spend(PicoDollars(100_000_000_001));
            });
        }
        let text = scrape(&meters);
        assert!(text.contains("} 10000.0000001\n"), "{text}");
    }

    #[test]
    fn money_goes_on_where_64_bits_end() {
        let spend = Spend::default();
        spend.add(PicoDollars::MAX);
        spend.add(PicoDollars(2));
        assert_eq!(spend.total(), u128::from(u64::MAX) + 2);
        assert_eq!(dollars(spend.total()), 18_446_744.073_709_55);
    }

    #[test]
    fn series_that_look_alike_in_a_metric_are_added_up() {
        let meters = Arc::new(Meters::default());
        for agent in ["a", "b"] {
            let mut labels = labels("k", "m", 200);
            labels.set(Value::UserAgent, Some(agent));
            meters.with(&labels, BOUNDS, |series| {
                series.requests.fetch_add(1, Relaxed);
                series.calls().input.observe(&GENAI_TOKENS, 7);
            });
        }
        assert_eq!(count(&meters, TOTAL), 2);
        assert_eq!(count(&meters, "litellm_input_tokens_metric_total"), 1);
        let text = scrape(&meters);
        let line = text.lines().find(|line| line.starts_with("litellm_input_tokens")).expect("one");
        assert!(line.ends_with("} 14"), "{line}");
    }

    #[test]
    fn invented_models_make_no_series() {
        let meters = Arc::new(Meters::default());
        meters.know_model("house".into());
        let see = |model: &str, status| {
            meters.with(&labels("k", model, status), BOUNDS, |series| {
                series.requests.fetch_add(1, Relaxed);
            });
        };
        for n in 0..50 {
            see(&format!("failed-{n}"), 404);
        }
        assert_eq!(count(&meters, TOTAL), 1);
        for n in 0..50 {
            see(&format!("answered-{n}"), 200);
        }
        // The known one, two that were learned, and all others as one for each status.
        see("house", 404);
        assert_eq!(count(&meters, TOTAL), 2 + 2 + 1);
        let text = scrape(&meters);
        assert!(text.contains(r#"requested_model="other""#) && text.contains("} 48\n"), "{text}");
    }

    #[test]
    fn callers_beyond_the_bound_are_counted_together() {
        let meters = Arc::new(Meters::default());
        meters.know_model("m".into());
        for n in 0..1000 {
            meters.with(&labels(&format!("{n:016}"), "m", 200), BOUNDS, |series| {
                series.requests.fetch_add(1, Relaxed);
            });
        }
        assert_eq!(count(&meters, TOTAL), BOUNDS.series_max + 1);
        let text = scrape(&meters);
        assert!(text.contains(r#"hashed_api_key="other""#) && text.contains("} 900\n"), "{text}");
    }

    #[test]
    fn histogram_values_fall_into_the_bucket_they_do_not_exceed() {
        let check = |nanos: u64, expect: usize| {
            let histogram = Histogram::default();
            histogram.observe(&LATENCY, nanos);
            let hit = histogram.counts.iter().position(|count| count.load(Relaxed) == 1);
            assert_eq!(hit, Some(expect), "{nanos}");
        };
        check(0, 0);
        check(5_000_000, 0);
        check(5_000_001, 1);
        check(600_000_000_000, 16);
        check(600_000_000_001, 17);
        check(u64::MAX, 17);
    }

    #[test]
    fn buckets_fit() {
        for buckets in
            [&LATENCY, &GENAI_TOKENS, &GENAI_DURATION, &GENAI_FIRST_TOKEN, &GENAI_PER_TOKEN]
        {
            assert!(buckets.bounds.len() < BUCKETS_MAX);
            assert!(buckets.bounds.is_sorted());
        }
    }

    #[test]
    fn histograms_are_shown_as_prometheus_reads_them() {
        let meters = Arc::new(Meters::default());
        meters.with(&labels("k", "m", 200), BOUNDS, |series| {
            for tokens in [1, 5, 1_000_000_000] {
                series.calls().output.observe(&GENAI_TOKENS, tokens);
            }
        });
        let text = scrape(&meters);
        let lines: Vec<_> = text.lines().filter(|line| line.contains("gen_ai_client")).collect();
        let value = |part: &str| {
            let line = lines.iter().find(|line| line.contains(part)).expect(part);
            line.rsplit_once(' ').expect("a line has a value").1
        };
        assert_eq!(value(r#"le="1""#), "1");
        assert_eq!(value(r#"le="16""#), "2");
        assert_eq!(value(r#"le="+Inf""#), "3");
        assert_eq!(value("_count{"), "3");
        assert_eq!(value("_sum{"), "1000000006");
        assert!(lines[0].contains(r#"gen_ai_token_type="output""#));
    }
}
