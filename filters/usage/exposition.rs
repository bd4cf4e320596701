//! The table that says which of the figures goes into which metric, and how they are shown.

use std::borrow::Cow;
use std::sync::Arc;

use parking_lot::Mutex;
use prometheus::core::{Collector, Desc};
use prometheus::proto;
use tollway_filter_api::accounts::Kind;
use tollway_filter_api::identity::KeyStore;
use tollway_wire::price::PicoDollars;

use super::histogram::{
    BUCKETS_MAX, Buckets, GENAI_DURATION, GENAI_FIRST_TOKEN, GENAI_PER_TOKEN, GENAI_TOKENS,
    Histogram, LATENCY,
};
use super::meters::{Calls, Meters, NONE, OwnedLabels, Series, Value};

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
        figure: Figure::Requests(|series| series.requests),
    },
    Metric {
        name: "litellm_proxy_failed_requests_metric_total",
        help: "Requests that were refused or failed",
        labels: &[CALLER, CLIENT, TARGET, FAILED],
        figure: Figure::Requests(|series| series.failures),
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
        figure: Figure::Calls(|calls| calls.answered),
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
        figure: Figure::Calls(|calls| calls.cached),
    },
    Metric {
        name: "litellm_input_cache_creation_tokens_metric_total",
        help: "Input tokens written to the provider's prompt cache",
        labels: &[CALLER, TARGET, MODEL],
        figure: Figure::Calls(|calls| calls.cache_writes),
    },
    Metric {
        name: "litellm_output_reasoning_tokens_metric_total",
        help: "Output tokens spent on thinking",
        labels: &[CALLER, TARGET, MODEL],
        figure: Figure::Calls(|calls| calls.reasoning),
    },
    Metric {
        name: "litellm_provider_cache_read_input_tokens_metric_total",
        help: "Input tokens read from the provider's prompt cache",
        labels: &[CALLER, TARGET, MODEL],
        figure: Figure::Calls(|calls| calls.cached),
    },
    Metric {
        name: "litellm_provider_cache_creation_input_tokens_metric_total",
        help: "Input tokens written to the provider's prompt cache",
        labels: &[CALLER, TARGET, MODEL],
        figure: Figure::Calls(|calls| calls.cache_writes),
    },
    Metric {
        name: "litellm_input_audio_tokens_metric_total",
        help: "Input tokens of audio",
        labels: &[CALLER, TARGET, MODEL],
        figure: Figure::Calls(|calls| calls.audio_input),
    },
    Metric {
        name: "litellm_output_audio_tokens_metric_total",
        help: "Output tokens of audio",
        labels: &[CALLER, TARGET, MODEL],
        figure: Figure::Calls(|calls| calls.audio_output),
    },
    Metric {
        name: "litellm_llm_api_failed_requests_metric_total",
        help: "Requests that failed at a deployment",
        labels: &[CALLER, MODEL],
        figure: Figure::Requests(|series| series.deployment_failures),
    },
    Metric {
        name: "litellm_deployment_successful_fallbacks_total",
        help: "Requests that a fallback has answered",
        labels: &[FALLBACK],
        figure: Figure::Requests(|series| series.fallbacks_answered),
    },
    Metric {
        name: "litellm_deployment_failed_fallbacks_total",
        help: "Requests that no fallback could answer",
        labels: &[FALLBACK],
        figure: Figure::Requests(|series| series.fallbacks_failed),
    },
    Metric {
        name: "tollway_unpriced_requests_total",
        help: "Calls of models that a wildcard led to and whose price is not known",
        labels: &[TARGET, MODEL],
        figure: Figure::Calls(|calls| calls.unpriced),
    },
    Metric {
        name: "tollway_unmetered_requests_total",
        help: "Calls whose tokens the provider did not tell, so that no cost is known",
        labels: &[TARGET, MODEL],
        figure: Figure::Calls(|calls| calls.unmetered),
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
        series: impl Iterator<Item = (&'a OwnedLabels, &'a Arc<Mutex<Series>>)>,
        keys: Option<&dyn KeyStore>,
    ) -> proto::MetricFamily {
        let mut sums: std::collections::HashMap<Vec<Cow<'a, str>>, Sum> = Default::default();
        for (labels, series) in series {
            let series = series.lock();
            let calls = series.calls.as_deref();
            let (amount, histogram) = match (&self.figure, calls) {
                (Figure::Requests(read), _) => (u128::from(read(&series)), None),
                (Figure::Calls(read), Some(calls)) => (u128::from(read(calls)), None),
                (Figure::Spend, Some(calls)) => (calls.spent, None),
                (Figure::Histogram(_, read), Some(calls)) => {
                    let histogram = read(calls);
                    (u128::from(histogram.sum()), Some(histogram))
                }
                (_, None) => continue,
            };
            let counts = histogram.map(Histogram::counts);
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
                metric.set_histogram(buckets.show(sum.counts, sum.amount));
                return;
            }
        }
        metric.set_counter(counter);
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
    use super::super::meters::{Bounds, Labels};
    use super::*;

    const BOUNDS: Bounds = Bounds { models_max: 3, series_max: 100 };

    fn labels<'a>(key: &'a str, model: &'a str, status: u16) -> Labels<'a> {
        let mut labels = Labels::default();
        (labels.status, labels.route, labels.tier) = (status, "/r", NONE);
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
        let mut calls = Calls::default();
        calls.spend(PicoDollars::MAX);
        calls.spend(PicoDollars(2));
        assert_eq!(calls.spent, u128::from(u64::MAX) + 2);
        assert_eq!(dollars(calls.spent), 18_446_744.073_709_55);
    }

    #[test]
    fn series_that_look_alike_in_a_metric_are_added_up() {
        let meters = Arc::new(Meters::default());
        for agent in ["a", "b"] {
            let mut labels = labels("k", "m", 200);
            labels.set(Value::UserAgent, Some(agent));
            meters.with(&labels, BOUNDS, |series| {
                series.requests += 1;
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
                series.requests += 1;
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
                series.requests += 1;
            });
        }
        assert_eq!(count(&meters, TOTAL), BOUNDS.series_max + 1);
        let text = scrape(&meters);
        assert!(text.contains(r#"hashed_api_key="other""#) && text.contains("} 900\n"), "{text}");
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
