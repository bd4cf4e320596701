//! What a request itself asks of the exchange: LiteLLM's overrides.

use std::sync::Arc;
use std::time::Duration;

use http::HeaderName;
use pingora_core::protocols::http::ServerSession;
use tollway_filter_api::{Reject, Rejection, RequestView, VirtualKey};
use tollway_wire::scan;

use crate::config::RouterSettings;

/// LiteLLM's overrides of one request.
pub(crate) struct Wishes {
    pub(crate) timeout: Option<Duration>,
    pub(crate) retries: Option<u32>,
    pub(crate) fallbacks: Option<Vec<Arc<str>>>,
    /// For deployments that are kept for some requests.
    pub(crate) tags: Vec<String>,
}

impl Wishes {
    /// How often a request may ask to be retried.
    const RETRIES_MAX: u64 = 10;
    /// How long a request may ask to be waited for.
    const TIMEOUT_MAX: f64 = 3600.0;

    /// Whether the request asks for nothing of its own, so that another one's call can serve it.
    pub(crate) fn are_usual(&self) -> bool {
        self.timeout.is_none()
            && self.retries.is_none()
            && self.fallbacks.is_none()
            && self.tags.is_empty()
    }

    /// Reads them.
    pub(crate) fn read(
        session: &ServerSession,
        view: &RequestView,
        tags: &[Arc<str>],
        router: &RouterSettings,
    ) -> Result<Wishes, Rejection> {
        let headers = &session.req_header().headers;
        let header =
            |name: &HeaderName| headers.get(name).and_then(|v| v.to_str().ok()?.parse().ok());
        let seconds: Option<f64> = (view.stream)
            .then(|| header(&X_LITELLM_STREAM_TIMEOUT))
            .flatten()
            .or_else(|| header(&X_LITELLM_TIMEOUT))
            .or_else(|| view.object.f64(&view.body, "timeout"));
        if seconds.is_some_and(|s| s.is_nan() || s <= 0.0) {
            return Err(wrong("timeout", "a number of seconds greater than 0"));
        }
        let retries: Option<f64> =
            header(&X_LITELLM_NUM_RETRIES).or_else(|| view.object.f64(&view.body, "num_retries"));
        if retries.is_some_and(|n| n.is_nan() || n < 0.0) {
            return Err(wrong("num_retries", "an integer of at least 0"));
        }
        let fallbacks = match view.object.raw(&view.body, "fallbacks") {
            None | Some(b"null") => None,
            Some(raw) => {
                let names: Vec<String> = serde_json::from_slice(raw)
                    .map_err(|_| wrong("fallbacks", "a list of model names"))?;
                Some(names.into_iter().map(Arc::from).collect())
            }
        };
        Ok(Wishes {
            timeout: seconds.map(|s| Duration::from_secs_f64(s.min(Self::TIMEOUT_MAX))),
            retries: retries.map(|n| (n as u64).min(Self::RETRIES_MAX) as u32),
            fallbacks,
            tags: match router.tag_filtering {
                true => tags.iter().map(ToString::to_string).collect(),
                false => Vec::new(),
            },
        })
    }
}

/// The request's tags: of the header (a list with commas), the body's `tags`, or its
/// `metadata.tags`; and those of its key.
pub(crate) fn tags(
    session: &ServerSession,
    view: &RequestView,
    key: Option<&VirtualKey>,
) -> Vec<Arc<str>> {
    let mut tags = tags_of_head(session, key);
    if listed(session).is_some() {
        return tags;
    }
    let of_metadata = || {
        let metadata = view.object.get(&view.body, "metadata")?;
        let members = scan::members(&view.body, metadata.value, &scan::Limits::default()).ok()?;
        members.raw(&view.body, "tags")
    };
    let raw = view.object.raw(&view.body, "tags").or_else(of_metadata);
    let own = raw.and_then(|json| serde_json::from_slice::<Vec<String>>(json).ok());
    own.iter().flatten().for_each(|tag| add(&mut tags, tag));
    tags
}

/// The tags of a request without a body of ours: those of the header, and of its key.
pub(crate) fn tags_of_head(session: &ServerSession, key: Option<&VirtualKey>) -> Vec<Arc<str>> {
    let mut tags: Vec<Arc<str>> = key.map(|key| key.settings.tags.clone()).unwrap_or_default();
    let list = listed(session).unwrap_or_default();
    list.split(',').map(str::trim).for_each(|tag| add(&mut tags, tag));
    tags
}

/// What the header lists.
fn listed(session: &ServerSession) -> Option<&str> {
    session.req_header().headers.get(&X_LITELLM_TAGS)?.to_str().ok()
}

/// Adds a tag, within bounds and once.
fn add(tags: &mut Vec<Arc<str>>, tag: &str) {
    const TAGS_MAX: usize = 64;
    const BYTES_MAX: usize = 256;
    let is_new = !tags.iter().any(|have| **have == *tag);
    if is_new && !tag.is_empty() && tag.len() <= BYTES_MAX && tags.len() < TAGS_MAX {
        tags.push(tag.into());
    }
}

fn wrong(param: &'static str, expected: &str) -> Rejection {
    Reject::invalid_request(format!("Invalid value for '{param}': expected {expected}."))
        .with_param(param)
        .with_code("invalid_value")
}

const X_LITELLM_TIMEOUT: HeaderName = HeaderName::from_static("x-litellm-timeout");
const X_LITELLM_STREAM_TIMEOUT: HeaderName = HeaderName::from_static("x-litellm-stream-timeout");
const X_LITELLM_TAGS: HeaderName = HeaderName::from_static("x-litellm-tags");
const X_LITELLM_NUM_RETRIES: HeaderName = HeaderName::from_static("x-litellm-num-retries");
