//! `cors` lets pages of other origins call the gateway from the browser.
//!
//! Place it before `auth`: a browser asks for permission (the preflight) without a key, and can
//! read an error only if the error carries these headers as well. Without any settings it allows
//! every origin, as LiteLLM does; that is safe as long as callers authenticate with a key and not
//! with a cookie, which is why credentials are off.
//!
//! ```yaml
//! - filter: cors
//!   allow_origins: ["https://chat.example.com"]
//!   allow_credentials: true
//! ```

use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE,
    ACCESS_CONTROL_REQUEST_HEADERS, ACCESS_CONTROL_REQUEST_METHOD, ORIGIN, VARY,
};
use http::{HeaderName, HeaderValue, Method};
use serde::Deserialize;
use tollway_filter_api::{
    Answer, AnswerBody, BuildFilter, ConfigError, Deps, Filter, Phases, RequestCtx, RequestHead,
    ResponseHead, Slot, Step,
};

/// The methods that `*` stands for.
const METHODS: &[&str] = &["DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"];

/// The headers that pages may read unless the config says otherwise. By name, because older
/// browsers do not know `*` here.
const EXPOSED: &[&str] = &[
    "x-request-id",
    "x-litellm-call-id",
    "x-litellm-model-id",
    "x-litellm-model-name",
    "x-litellm-model-group",
    "x-litellm-model-api-base",
    "x-litellm-version",
    "x-litellm-cache-key",
    "x-litellm-response-cost",
    "x-litellm-response-duration-ms",
    "x-litellm-overhead-duration-ms",
    "x-litellm-attempted-retries",
    "x-litellm-attempted-fallbacks",
    "x-litellm-key-rpm-limit",
    "x-litellm-key-tpm-limit",
    "x-tollway-run-id",
    "x-ratelimit-limit-requests",
    "x-ratelimit-remaining-requests",
    "x-ratelimit-reset-requests",
    "x-ratelimit-limit-tokens",
    "x-ratelimit-remaining-tokens",
    "x-ratelimit-reset-tokens",
    "retry-after",
];

/// The `cors` entry of a filter list.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CorsConfig {
    /// The origins whose pages may call, as browsers write them: `https://chat.example.com`,
    /// without a path. `*` stands for all and is the default.
    pub allow_origins: Vec<String>,
    /// The methods they may use. `*`, the default, stands for all.
    pub allow_methods: Vec<String>,
    /// The request headers they may set. `*`, the default, allows whatever the page asks for.
    pub allow_headers: Vec<String>,
    /// The response headers they may read. By default those that the gateway sets.
    pub expose_headers: Vec<String>,
    /// Whether the browser may send cookies along. Not together with `*` in `allow_origins`.
    pub allow_credentials: bool,
    /// How many seconds a browser may remember the permission before it asks again.
    pub max_age_seconds: u32,
}

impl Default for CorsConfig {
    fn default() -> Self {
        let all = || vec!["*".to_owned()];
        CorsConfig {
            allow_origins: all(),
            allow_methods: all(),
            allow_headers: all(),
            expose_headers: EXPOSED.iter().map(|name| (*name).to_owned()).collect(),
            allow_credentials: false,
            max_age_seconds: 600,
        }
    }
}

/// Answers preflights, and tells browsers who may read an answer.
pub struct Cors {
    origins: Origins,
    methods: HeaderValue,
    /// `None` allows what is asked for.
    headers: Option<HeaderValue>,
    exposed: Option<HeaderValue>,
    credentials: bool,
    max_age: HeaderValue,
}

enum Origins {
    Any,
    These(Vec<HeaderValue>),
}

impl BuildFilter for Cors {
    const NAME: &'static str = "cors";
    type Config = CorsConfig;

    fn build(config: CorsConfig, _deps: &Deps, _slot: Slot) -> Result<Self, ConfigError> {
        let any = |list: &[String]| list.iter().any(|entry| entry == "*");
        if config.allow_credentials && any(&config.allow_origins) {
            return Err(ConfigError::new(
                "allow_credentials",
                "with credentials every origin must be named: list them in allow_origins",
            ));
        }
        if config.allow_credentials && any(&config.expose_headers) {
            return Err(ConfigError::new(
                "expose_headers",
                "with credentials browsers take `*` literally: name the headers",
            ));
        }
        let origins = match any(&config.allow_origins) {
            true => Origins::Any,
            false => Origins::These(
                config
                    .allow_origins
                    .iter()
                    .enumerate()
                    .map(|(at, origin)| parse_origin(at, origin))
                    .collect::<Result<_, _>>()?,
            ),
        };
        let methods = match any(&config.allow_methods) {
            true => METHODS.iter().map(|method| (*method).to_owned()).collect(),
            false => config.allow_methods,
        };
        let methods = join("allow_methods", &methods, |method| {
            Method::from_bytes(method.as_bytes()).is_ok() && method.to_uppercase() == method
        })?;
        let is_header = |name: &str| name == "*" || HeaderName::from_bytes(name.as_bytes()).is_ok();
        let headers = match any(&config.allow_headers) {
            true => None,
            false => Some(join("allow_headers", &config.allow_headers, is_header)?),
        };
        let exposed = match config.expose_headers.is_empty() {
            true => None,
            false => Some(join("expose_headers", &config.expose_headers, is_header)?),
        };
        let max_age = HeaderValue::from(config.max_age_seconds);
        let credentials = config.allow_credentials;
        Ok(Cors { origins, methods, headers, exposed, credentials, max_age })
    }
}

impl Filter for Cors {
    fn phases(&self) -> Phases {
        Phases::HEAD | Phases::RESPONSE
    }

    fn head<'a>(&'a self, _ctx: &'a mut RequestCtx, head: &'a RequestHead) -> Step<'a> {
        // Anything else with OPTIONS is not a preflight and takes the usual way.
        let is_preflight = head.method == Method::OPTIONS
            && head.headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD);
        match head.headers.get(ORIGIN) {
            Some(origin) if is_preflight => Step::answer(self.preflight(origin, head)),
            _ => Step::next(),
        }
    }

    fn response(&self, _ctx: &mut RequestCtx, head: &RequestHead, response: &mut ResponseHead) {
        if let Some(origin) = head.headers.get(ORIGIN) {
            self.allow(origin, response);
        }
    }
}

impl Cors {
    /// The permission itself comes with [`Filter::response`], as for every answer. An origin that
    /// is not allowed gets an answer without it, which is how browsers are told no.
    fn preflight(&self, origin: &HeaderValue, head: &RequestHead) -> Answer {
        let mut headers = Vec::with_capacity(8);
        if self.allowed_origin(origin).is_some() {
            headers.push((ACCESS_CONTROL_ALLOW_METHODS, self.methods.clone()));
            // A literal `*` would not cover `authorization`, so the page's own list is allowed.
            let asked = head.headers.get(ACCESS_CONTROL_REQUEST_HEADERS);
            if let Some(allowed) = self.headers.as_ref().or(asked) {
                headers.push((ACCESS_CONTROL_ALLOW_HEADERS, allowed.clone()));
            }
            headers.push((ACCESS_CONTROL_MAX_AGE, self.max_age.clone()));
            if self.headers.is_none() {
                headers.push((VARY, HeaderValue::from_static("Access-Control-Request-Headers")));
            }
        }
        Answer { status: 204, headers, body: AnswerBody::Empty }
    }

    fn allow(&self, origin: &HeaderValue, response: &mut ResponseHead) {
        if matches!(self.origins, Origins::These(_)) {
            // A cache between us and the browser must not give one origin's answer to another.
            add_vary(response, "Origin");
        }
        let Some(allowed) = self.allowed_origin(origin) else { return };
        response.set(ACCESS_CONTROL_ALLOW_ORIGIN, allowed);
        if self.credentials {
            response.set(ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
        }
        if let Some(exposed) = &self.exposed {
            response.set(ACCESS_CONTROL_EXPOSE_HEADERS, exposed.clone());
        }
    }

    /// What `access-control-allow-origin` says to this origin, if it may call.
    fn allowed_origin(&self, origin: &HeaderValue) -> Option<HeaderValue> {
        match &self.origins {
            Origins::Any => Some(HeaderValue::from_static("*")),
            Origins::These(origins) => origins.iter().find(|allowed| *allowed == origin).cloned(),
        }
    }
}

fn add_vary(response: &mut ResponseHead, name: &'static str) {
    let joined = match response.headers.iter().find(|(have, _)| *have == VARY) {
        Some((_, have)) => have.to_str().ok().and_then(|have| {
            let known = have.split(',').any(|one| one.trim().eq_ignore_ascii_case(name));
            let joined = if known { have.to_owned() } else { format!("{have}, {name}") };
            HeaderValue::from_str(&joined).ok()
        }),
        None => None,
    };
    response.set(VARY, joined.unwrap_or(HeaderValue::from_static(name)));
}

/// An origin must be written as browsers write it, for they are compared byte by byte.
fn parse_origin(at: usize, origin: &str) -> Result<HeaderValue, ConfigError> {
    let host = origin.strip_prefix("https://").or(origin.strip_prefix("http://")).unwrap_or("");
    let is_host = !host.is_empty()
        && host.bytes().all(|byte| {
            byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-._:[]".contains(&byte)
        });
    match HeaderValue::from_str(origin) {
        Ok(value) if is_host => Ok(value),
        _ => Err(ConfigError::new(
            format!("allow_origins[{at}]"),
            format!(
                "{origin:?} is not an origin: expected `*`, or scheme, host and port in lower case, \
                 such as https://chat.example.com"
            ),
        )),
    }
}

fn join(
    path: &str,
    list: &[String],
    is_valid: impl Fn(&str) -> bool,
) -> Result<HeaderValue, ConfigError> {
    let wrong = |at: usize, entry: &str| {
        ConfigError::new(format!("{path}[{at}]"), format!("{entry:?} cannot stand here"))
    };
    match list.iter().enumerate().find(|(_, entry)| !is_valid(entry)) {
        Some((at, entry)) => Err(wrong(at, entry)),
        None => HeaderValue::from_str(&list.join(", ")).map_err(|_| wrong(0, "the list")),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use http::Request;
    use serde_json::{Value, json};
    use tollway_filter_api::Flow;

    use super::*;

    fn build(settings: Value) -> Result<Cors, ConfigError> {
        let config = serde_json::from_value(settings).expect("settings are of the right kind");
        Cors::build(config, &Deps::for_test(), Slot(0))
    }

    fn head(method: &str, headers: &[(&str, &str)]) -> RequestHead {
        let mut request = Request::builder().method(method).uri("/v1/chat/completions");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).expect("the head is valid").into_parts().0
    }

    /// Runs a request through head and response, as the gateway does.
    fn run(cors: &Cors, head: &RequestHead) -> ResponseHead {
        let mut ctx = RequestCtx::new("id".into(), Instant::now(), "/v1/chat/completions");
        let (status, headers) = match cors.head(&mut ctx, head) {
            Step::Ready(Flow::Answer(answer)) => (answer.status, answer.headers),
            _ => (200, Vec::new()),
        };
        let mut response = ResponseHead { status, headers, streaming: false };
        cors.response(&mut ctx, head, &mut response);
        response
    }

    #[track_caller]
    fn check(settings: Value, head: RequestHead, status: u16, expect: &[(&str, &str)]) {
        let cors = build(settings).expect("the settings are right");
        let response = run(&cors, &head);
        let mut have: Vec<_> =
            response.headers.iter().map(|(n, v)| (n.as_str(), v.to_str().unwrap())).collect();
        have.retain(|(name, _)| *name != "access-control-expose-headers");
        have.sort_unstable();
        assert_eq!((response.status, have.as_slice()), (status, expect));
    }

    fn preflight(origin: &str) -> RequestHead {
        head(
            "OPTIONS",
            &[
                ("origin", origin),
                ("access-control-request-method", "POST"),
                ("access-control-request-headers", "authorization, content-type"),
            ],
        )
    }

    const ALL: &str = "DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT";

    #[test]
    fn request_without_origin_is_left_alone() {
        check(json!({}), head("POST", &[]), 200, &[]);
        check(json!({"allow_origins": ["https://a.example"]}), head("POST", &[]), 200, &[]);
    }

    #[test]
    fn any_origin_is_allowed_by_default() {
        let allowed = [("access-control-allow-origin", "*")];
        check(json!({}), head("POST", &[("origin", "https://a.example")]), 200, &allowed);
        check(json!({}), head("GET", &[("origin", "null")]), 200, &allowed);
    }

    #[test]
    fn preflight_is_answered_and_allows_what_it_asks_for() {
        let expect = [
            ("access-control-allow-headers", "authorization, content-type"),
            ("access-control-allow-methods", ALL),
            ("access-control-allow-origin", "*"),
            ("access-control-max-age", "600"),
            ("vary", "Access-Control-Request-Headers"),
        ];
        check(json!({}), preflight("https://a.example"), 204, &expect);
    }

    #[test]
    fn preflight_names_what_is_configured() {
        let settings = json!({
            "allow_origins": ["https://a.example", "http://localhost:3000"],
            "allow_methods": ["POST"],
            "allow_headers": ["authorization"],
            "allow_credentials": true,
            "max_age_seconds": 5,
        });
        let expect = [
            ("access-control-allow-credentials", "true"),
            ("access-control-allow-headers", "authorization"),
            ("access-control-allow-methods", "POST"),
            ("access-control-allow-origin", "http://localhost:3000"),
            ("access-control-max-age", "5"),
            ("vary", "Origin"),
        ];
        check(settings.clone(), preflight("http://localhost:3000"), 204, &expect);
        check(settings, preflight("https://evil.example"), 204, &[("vary", "Origin")]);
    }

    #[test]
    fn options_without_a_requested_method_is_no_preflight() {
        let allowed = [("access-control-allow-origin", "*")];
        check(json!({}), head("OPTIONS", &[("origin", "https://a.example")]), 200, &allowed);
        check(json!({}), head("OPTIONS", &[("access-control-request-method", "GET")]), 200, &[]);
    }

    #[test]
    fn vary_is_added_to_what_is_there() {
        let cors = build(json!({"allow_origins": ["https://a.example"]})).expect("valid");
        let mut ctx = RequestCtx::new("id".into(), Instant::now(), "/");
        let head = head("POST", &[("origin", "https://a.example")]);
        let headers = vec![(VARY, HeaderValue::from_static("accept-encoding"))];
        let mut response = ResponseHead { status: 200, headers, streaming: false };
        cors.response(&mut ctx, &head, &mut response);
        cors.response(&mut ctx, &head, &mut response);
        assert_eq!(response.headers[0].1, "accept-encoding, Origin");
    }

    #[test]
    fn gateway_headers_are_exposed_by_name() {
        let cors = build(json!({})).expect("valid");
        let response = run(&cors, &head("POST", &[("origin", "https://a.example")]));
        let exposed = response.headers.iter().find(|(n, _)| *n == ACCESS_CONTROL_EXPOSE_HEADERS);
        let exposed = exposed.expect("it is there").1.to_str().unwrap();
        for name in ["x-request-id", "x-litellm-call-id", "x-ratelimit-remaining-tokens"] {
            assert!(exposed.split(", ").any(|one| one == name), "{name} in {exposed}");
        }
    }

    #[test]
    fn settings_that_browsers_would_ignore_are_refused() {
        let check = |settings, path: &str| {
            assert_eq!(build(settings).err().expect("it is refused").path, path);
        };
        check(json!({"allow_credentials": true}), "allow_credentials");
        let settings = json!({"allow_credentials": true, "allow_origins": ["https://a.example"],
            "expose_headers": ["*"]});
        check(settings, "expose_headers");
        check(json!({"allow_origins": ["https://a.example/"]}), "allow_origins[0]");
        check(json!({"allow_origins": ["http://a.example", "a.example"]}), "allow_origins[1]");
        check(json!({"allow_origins": ["https://A.example"]}), "allow_origins[0]");
        check(json!({"allow_origins": ["https://*.example"]}), "allow_origins[0]");
        check(json!({"allow_methods": ["post"]}), "allow_methods[0]");
        check(json!({"allow_headers": ["x y"]}), "allow_headers[0]");
    }
}
