//! What a caller says about caching one request.
//!
//! Members of the body's `cache` object, as LiteLLM defines them; all may be left out:
//!
//! | Member | Meaning |
//! |---|---|
//! | `no-cache` | do not answer out of the cache; the fresh answer is kept |
//! | `no-store` | do not keep the answer |
//! | `ttl` | keep the answer for so many seconds |
//! | `s-maxage` | accept a kept answer only if it is younger than so many seconds |
//! | `namespace` | keep to the answers kept under this name |
//! | `use-cache` | use the cache although `mode` is `default_off` |
//!
//! `"caching": false` in the body is `no-cache` and `no-store` in one. The header `cache-control`
//! can say `no-cache` and `no-store` as well. Members of `cache` that are not in the list are
//! ignored, as LiteLLM does, for its clients' sake.

use std::time::Duration;

use http::HeaderMap;
use http::header::CACHE_CONTROL;
use tollway_filter_api::{Reject, Rejection, RequestView};
use tollway_wire::scan::{self, Kind, Limits, Object};

/// How long a namespace may be, in bytes.
const NAMESPACE_BYTES_MAX: usize = 256;

/// What one request asks of the cache.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Control {
    /// Do not answer out of the cache.
    pub(super) no_cache: bool,
    /// Do not keep the answer.
    pub(super) no_store: bool,
    /// How long to keep the answer.
    pub(super) ttl: Option<Duration>,
    /// How old a kept answer may be.
    pub(super) age_max: Option<Duration>,
    /// The namespace to keep to.
    pub(super) namespace: Option<String>,
    /// Use the cache even where that is not the default.
    pub(super) use_cache: bool,
}

/// A `cache` member that makes no sense.
#[derive(Debug, thiserror::Error)]
pub(super) enum Malformed {
    #[error("'cache' must be an object such as {{\"no-cache\": true}}")]
    NotAnObject,
    #[error("'cache' is malformed: {0}")]
    Members(#[from] scan::ScanError),
    #[error("'cache.{0}' must be true or false")]
    NotABool(&'static str),
    #[error("'cache.{0}' must be a number of seconds, 0 or more")]
    NotSeconds(&'static str),
    #[error("'cache.namespace' must be a string of at most {NAMESPACE_BYTES_MAX} bytes")]
    Namespace,
}

impl From<Malformed> for Rejection {
    fn from(malformed: Malformed) -> Rejection {
        Reject::invalid_request(malformed.to_string()).with_param("cache")
    }
}

impl Control {
    /// Reads what a request says. Where it says nothing, this allocates nothing.
    pub(super) fn of(view: &RequestView, headers: &HeaderMap) -> Result<Control, Malformed> {
        let mut control = Control::default();
        if let Some(member) = view.object.get(&view.body, "cache") {
            match member.kind {
                Kind::Null => {}
                Kind::Object => {
                    let object = scan::members(&view.body, member.value, &Limits::default())?;
                    control.read(&Members { body: &view.body, object })?;
                }
                _ => return Err(Malformed::NotAnObject),
            }
        }
        if view.object.bool(&view.body, "caching") == Some(false) {
            control.no_cache = true;
            control.no_store = true;
        }
        for directive in headers.get_all(CACHE_CONTROL).iter().flat_map(|value| {
            // A header that is not text has no directive we know.
            value.to_str().unwrap_or_default().split(',').map(str::trim)
        }) {
            control.no_cache |= directive.eq_ignore_ascii_case("no-cache");
            control.no_store |= directive.eq_ignore_ascii_case("no-store");
        }
        Ok(control)
    }

    fn read(&mut self, cache: &Members<'_>) -> Result<(), Malformed> {
        self.no_cache = cache.bool("no-cache")?;
        self.no_store = cache.bool("no-store")?;
        self.use_cache = cache.bool("use-cache")?;
        self.ttl = cache.seconds("ttl")?;
        // LiteLLM reads both spellings.
        self.age_max = match cache.seconds("s-maxage")? {
            Some(age) => Some(age),
            None => cache.seconds("s-max-age")?,
        };
        self.namespace = cache.namespace()?;
        Ok(())
    }
}

/// The members of the `cache` object. One that is null is one that is not there.
struct Members<'a> {
    body: &'a [u8],
    object: Object,
}

impl Members<'_> {
    fn kind(&self, name: &str) -> Option<Kind> {
        self.object.get(self.body, name).map(|member| member.kind).filter(|&k| k != Kind::Null)
    }

    fn bool(&self, name: &'static str) -> Result<bool, Malformed> {
        match self.kind(name) {
            None => Ok(false),
            Some(Kind::Bool(value)) => Ok(value),
            Some(_) => Err(Malformed::NotABool(name)),
        }
    }

    fn seconds(&self, name: &'static str) -> Result<Option<Duration>, Malformed> {
        if self.kind(name).is_none() {
            return Ok(None);
        }
        let seconds = self.object.f64(self.body, name);
        match seconds.map(Duration::try_from_secs_f64) {
            Some(Ok(duration)) => Ok(Some(duration)),
            // More seconds than a Duration holds are as good as for ever.
            Some(Err(_)) if seconds > Some(0.0) => Ok(Some(Duration::MAX)),
            _ => Err(Malformed::NotSeconds(name)),
        }
    }

    fn namespace(&self) -> Result<Option<String>, Malformed> {
        if self.kind("namespace").is_none() {
            return Ok(None);
        }
        match self.object.str(self.body, "namespace") {
            Some(name) if name.len() <= NAMESPACE_BYTES_MAX => Ok(Some(name.into_owned())),
            _ => Err(Malformed::Namespace),
        }
    }
}
