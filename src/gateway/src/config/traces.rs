//! Where traces go. LiteLLM's callback `otel` switches them on; the rest is in OpenTelemetry's own
//! variables of the environment, or of the config's `environment_variables`.

use std::time::Duration;

use http::{HeaderName, HeaderValue};

use super::base::{Base, BaseError};
use super::env::Environment;
use super::mistake::Report;

/// Which traces that begin here are recorded.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Sampling {
    /// Of traces that begin here, this part: from 0 to 1.
    pub(crate) ratio: f64,
    /// Others that call us have decided for the traces they began.
    pub(crate) follows_parent: bool,
}

/// Where traces go.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct TraceSettings {
    /// With the path that spans are posted to.
    pub(crate) place: Base,
    pub(crate) headers: Vec<(HeaderName, HeaderValue)>,
    /// What we are called, and what else is said of this process.
    pub(crate) resource: Vec<(String, String)>,
    pub(crate) sampling: Sampling,
    /// How long spans wait for others to be sent with them.
    pub(crate) delay: Duration,
    /// How many may wait.
    pub(crate) queue: usize,
    /// How many are sent at once.
    pub(crate) batch: usize,
    /// How long the collector may take.
    pub(crate) timeout: Duration,
    /// Providers are told of the trace.
    pub(crate) tells_providers: bool,
}

/// What the file says, and what the environment knows.
pub(super) fn resolve(
    is_wanted: bool,
    tells_providers: Option<bool>,
    environment: &Environment,
    report: &mut Report,
) -> Option<TraceSettings> {
    let is_off = environment.get("OTEL_SDK_DISABLED").is_some_and(|is| is.trim() == "true");
    if !is_wanted || is_off {
        return None;
    }
    let mut reading = Reading { environment, report };
    let place = reading.place();
    let settings = TraceSettings {
        place: place.clone().unwrap_or_else(|| Base {
            tls: false,
            host: String::new(),
            port: 0,
            path: String::new(),
        }),
        headers: reading.headers(),
        resource: reading.resource(),
        sampling: reading.sampling(),
        delay: reading.millis("OTEL_BSP_SCHEDULE_DELAY", 5000),
        queue: reading.count("OTEL_BSP_MAX_QUEUE_SIZE", 2048),
        batch: reading.count("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", 512),
        timeout: reading.millis("OTEL_EXPORTER_OTLP_TIMEOUT", 10_000),
        tells_providers: tells_providers.unwrap_or(true),
    };
    place.map(|_| settings)
}

/// The most that may be said of this process, and the most headers.
const PAIRS_MAX: usize = 64;
/// The most spans that may wait, whatever is asked for.
const SPANS_MAX: usize = 1 << 16;

struct Reading<'a> {
    environment: &'a Environment,
    report: &'a mut Report,
}

impl<'a> Reading<'a> {
    /// The first of these variables that is set.
    fn any(&self, names: &[&'static str]) -> Option<(&'static str, &'a str)> {
        names.iter().find_map(|name| Some((*name, self.environment.get(name)?)))
    }

    fn place(&mut self) -> Option<Base> {
        let protocols = ["OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"];
        if let Some((name, protocol)) = self.any(&protocols)
            && protocol != "http/json"
        {
            let message = "only `http/json` is spoken, which every collector takes at the port of \
                           `http/protobuf`: it is used";
            self.report.warning(name, message);
        }
        let whole = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT";
        let names = [whole, "OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_ENDPOINT"];
        let Some((name, url)) = self.any(&names) else {
            let message = "`otel` needs the URL of a collector as OTEL_EXPORTER_OTLP_ENDPOINT in \
                           the environment, such as http://localhost:4318";
            self.report.mistake("litellm_settings.callbacks", message);
            return None;
        };
        let place: Result<Base, BaseError> = url.parse();
        match place {
            Ok(mut place) => {
                if name != whole && !place.path.ends_with("/v1/traces") {
                    place.path.push_str("/v1/traces");
                }
                Some(place)
            }
            Err(error) => {
                self.report.mistake(name, error.to_string());
                None
            }
        }
    }

    fn headers(&mut self) -> Vec<(HeaderName, HeaderValue)> {
        let names =
            ["OTEL_EXPORTER_OTLP_TRACES_HEADERS", "OTEL_EXPORTER_OTLP_HEADERS", "OTEL_HEADERS"];
        let Some((variable, text)) = self.any(&names) else { return Vec::new() };
        let mut headers = Vec::new();
        for (at, pair) in pairs(text).into_iter().enumerate() {
            let header = pair.and_then(|(name, value)| {
                let mut value = HeaderValue::from_str(&value).ok()?;
                value.set_sensitive(true);
                Some((HeaderName::from_bytes(name.as_bytes()).ok()?, value))
            });
            match header {
                Some(header) => headers.push(header),
                // Not shown: it may be a secret.
                None => {
                    let message = format!("its entry {} is not `name=value`", at + 1);
                    self.report.mistake(variable, message);
                }
            }
        }
        headers
    }

    fn resource(&mut self) -> Vec<(String, String)> {
        let name = self.environment.get("OTEL_SERVICE_NAME").unwrap_or("tollway");
        let mut resource = vec![("service.name".to_owned(), name.to_owned())];
        let text = self.environment.get("OTEL_RESOURCE_ATTRIBUTES").unwrap_or_default();
        for (at, pair) in pairs(text).into_iter().enumerate() {
            match pair {
                Some((name, _)) if resource.iter().any(|(have, _)| *have == name) => {}
                Some(pair) => resource.push(pair),
                None => {
                    let message = format!("its entry {} is not `name=value`", at + 1);
                    self.report.mistake("OTEL_RESOURCE_ATTRIBUTES", message);
                }
            }
        }
        resource
    }

    fn sampling(&mut self) -> Sampling {
        let name = self.environment.get("OTEL_TRACES_SAMPLER").unwrap_or("parentbased_always_on");
        let (follows_parent, own) = match name.strip_prefix("parentbased_") {
            Some(own) => (true, own),
            None => (false, name),
        };
        let ratio = match own {
            "always_on" => 1.0,
            "always_off" => 0.0,
            "traceidratio" => self.ratio(),
            _ => {
                let message = "must be always_on, always_off or traceidratio, or one of them with \
                               parentbased_ in front";
                self.report.mistake("OTEL_TRACES_SAMPLER", message);
                1.0
            }
        };
        Sampling { ratio, follows_parent }
    }

    fn ratio(&mut self) -> f64 {
        let text = self.environment.get("OTEL_TRACES_SAMPLER_ARG").unwrap_or("1");
        match text.trim().parse::<f64>() {
            Ok(ratio) if (0.0..=1.0).contains(&ratio) => ratio,
            _ => {
                self.report.mistake("OTEL_TRACES_SAMPLER_ARG", "must be a number from 0 to 1");
                1.0
            }
        }
    }

    fn number(&mut self, name: &'static str, usual: u64, max: u64) -> u64 {
        let Some(text) = self.environment.get(name) else { return usual };
        match text.trim().parse() {
            Ok(number) if (1..=max).contains(&number) => number,
            _ => {
                self.report.mistake(name, format!("must be a whole number from 1 to {max}"));
                usual
            }
        }
    }

    fn count(&mut self, name: &'static str, usual: u64) -> usize {
        self.number(name, usual, SPANS_MAX as u64) as usize
    }

    fn millis(&mut self, name: &'static str, usual: u64) -> Duration {
        Duration::from_millis(self.number(name, usual, 600_000))
    }
}

/// `name=value,name=value`, values as in URLs. `None` for one that is not so.
fn pairs(text: &str) -> Vec<Option<(String, String)>> {
    let given = text.split(',').map(str::trim).filter(|pair| !pair.is_empty());
    let pair = |pair: &str| {
        let (name, value) = pair.split_once('=')?;
        let name = name.trim();
        (!name.is_empty()).then(|| (name.to_owned(), crate::percent::percent_decoded(value.trim())))
    };
    given.take(PAIRS_MAX).map(pair).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> (Option<TraceSettings>, Vec<String>) {
        let environment: Environment = variables.iter().copied().collect();
        let mut report = Report::default();
        let settings = resolve(true, None, &environment, &mut report);
        let mistakes = report.finish().err().unwrap_or_default();
        (settings, mistakes.iter().map(ToString::to_string).collect())
    }

    const PLACE: (&str, &str) = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318");

    #[test]
    fn variables_are_those_of_the_standard() {
        let (settings, mistakes) = read(&[
            PLACE,
            ("OTEL_EXPORTER_OTLP_HEADERS", "x-key=a%20b, Authorization=Basic%20eA=="),
            ("OTEL_SERVICE_NAME", "edge"),
            ("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment=prod,service.name=not-this"),
            ("OTEL_TRACES_SAMPLER", "traceidratio"),
            ("OTEL_TRACES_SAMPLER_ARG", "0.25"),
            ("OTEL_BSP_SCHEDULE_DELAY", "100"),
        ]);
        assert_eq!(mistakes, [""; 0]);
        let settings = settings.unwrap();
        assert_eq!(settings.place.to_string(), "http://collector:4318/v1/traces");
        let value = |at: usize| settings.headers[at].1.to_str().unwrap().to_owned();
        assert_eq!((value(0), value(1)), ("a b".to_owned(), "Basic eA==".to_owned()));
        assert!(!format!("{settings:?}").contains("eA=="));
        let resource = [("service.name", "edge"), ("deployment.environment", "prod")];
        assert_eq!(settings.resource, resource.map(|(n, v)| (n.to_owned(), v.to_owned())));
        assert_eq!(settings.sampling, Sampling { ratio: 0.25, follows_parent: false });
        assert_eq!(settings.delay, Duration::from_millis(100));
        assert_eq!((settings.queue, settings.batch), (2048, 512));
    }

    #[test]
    fn endpoint_of_traces_is_taken_as_it_stands() {
        let whole = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "https://traces.example.com/otlp");
        let settings = read(&[PLACE, whole]).0.unwrap();
        assert_eq!(settings.place.to_string(), "https://traces.example.com/otlp");
    }

    #[test]
    fn what_is_wrong_is_said_without_secrets() {
        let (settings, mistakes) = read(&[
            ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://user:hidden@collector"),
            ("OTEL_EXPORTER_OTLP_HEADERS", "hidden"),
            ("OTEL_TRACES_SAMPLER", "sometimes"),
            ("OTEL_BSP_MAX_QUEUE_SIZE", "0"),
        ]);
        assert_eq!((settings, mistakes.len()), (None, 4), "{mistakes:?}");
        assert!(!mistakes.concat().contains("hidden"), "{mistakes:?}");
        let (_, mistakes) = read(&[]);
        assert!(mistakes[0].contains("OTEL_EXPORTER_OTLP_ENDPOINT"), "{mistakes:?}");
        assert_eq!(read(&[("OTEL_SDK_DISABLED", "true")]), (None, Vec::new()));
    }
}
