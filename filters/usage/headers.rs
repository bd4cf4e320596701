//! The response headers that tell a caller what became of the request.

use std::sync::Arc;

use bytes::Bytes;
use foldhash::fast::RandomState;
use http::{HeaderName, HeaderValue};
use papaya::{Equivalent, HashMap};
use smallvec::SmallVec;
use tollway_filter_api::header::number;
use tollway_filter_api::{Deployment, ResponseHead};
use tollway_wire::price::{Cost, PicoDollars};

pub(super) const CALL_ID: HeaderName = HeaderName::from_static("x-litellm-call-id");
pub(super) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
pub(super) const VERSION: HeaderName = HeaderName::from_static("x-litellm-version");
pub(super) const RETRIES: HeaderName = HeaderName::from_static("x-litellm-attempted-retries");
pub(super) const FALLBACKS: HeaderName = HeaderName::from_static("x-litellm-attempted-fallbacks");
pub(super) const DURATION: HeaderName = HeaderName::from_static("x-litellm-response-duration-ms");
pub(super) const OVERHEAD: HeaderName = HeaderName::from_static("x-litellm-overhead-duration-ms");
pub(super) const COST: HeaderName = HeaderName::from_static("x-litellm-response-cost");
pub(super) const KEY_RPM: HeaderName = HeaderName::from_static("x-litellm-key-rpm-limit");
pub(super) const KEY_TPM: HeaderName = HeaderName::from_static("x-litellm-key-tpm-limit");
const COST_ORIGINAL: HeaderName = HeaderName::from_static("x-litellm-response-cost-original");
const COST_INPUT: HeaderName = HeaderName::from_static("x-litellm-response-cost-input");
const COST_OUTPUT: HeaderName = HeaderName::from_static("x-litellm-response-cost-output");
const COST_CACHE_READ: HeaderName = HeaderName::from_static("x-litellm-response-cost-cache-read");
const COST_CACHE_CREATION: HeaderName =
    HeaderName::from_static("x-litellm-response-cost-cache-creation");
const COST_REASONING: HeaderName = HeaderName::from_static("x-litellm-response-cost-reasoning");
const COST_TOOLS: HeaderName = HeaderName::from_static("x-litellm-response-cost-tool-usage");
const MODEL_ID: HeaderName = HeaderName::from_static("x-litellm-model-id");
const MODEL_NAME: HeaderName = HeaderName::from_static("x-litellm-model-name");
const MODEL_GROUP: HeaderName = HeaderName::from_static("x-litellm-model-group");
const API_BASE: HeaderName = HeaderName::from_static("x-litellm-model-api-base");

/// The headers that are set here, behind what all of LiteLLM's begin with.
const PREFIX: &str = "x-litellm-";
const OURS: [&str; 20] = [
    "call-id",
    "version",
    "attempted-retries",
    "attempted-fallbacks",
    "response-duration-ms",
    "overhead-duration-ms",
    "response-cost",
    "response-cost-original",
    "response-cost-input",
    "response-cost-output",
    "response-cost-cache-read",
    "response-cost-cache-creation",
    "response-cost-reasoning",
    "response-cost-tool-usage",
    "key-rpm-limit",
    "key-tpm-limit",
    "model-id",
    "model-name",
    "model-group",
    "model-api-base",
];

/// Whether this is a header that is set here.
pub(super) fn is_ours(name: &HeaderName) -> bool {
    match name.as_str().strip_prefix(PREFIX) {
        Some(rest) => OURS.contains(&rest),
        None => *name == REQUEST_ID,
    }
}

/// What a cost consists of. Discounts and margins there are none; the prompt and the answer are told
/// in any case, the rest where it cost anything.
pub(super) fn parts(cost: &Cost) -> impl Iterator<Item = (HeaderName, PicoDollars)> {
    let writes = cost.cache_write.saturating_add(cost.cache_write_1h);
    let always = [
        (COST_ORIGINAL, cost.total()),
        (COST_INPUT, cost.prompt()),
        (COST_OUTPUT, cost.completion()),
    ];
    let others = [
        (COST_CACHE_READ, cost.cache_read),
        (COST_CACHE_CREATION, writes),
        (COST_REASONING, cost.reasoning),
        (COST_TOOLS, cost.web_search),
    ];
    let others = others.into_iter().filter(|(_, amount)| *amount > PicoDollars::ZERO);
    always.into_iter().chain(others)
}

/// How many deployments' headers are kept. A wildcard can make more, which are made each time.
const KEPT_MAX: usize = 4096;

/// The headers of a deployment in a group, made once and shared by all answers.
#[derive(Default)]
pub(super) struct TargetHeaders {
    made: HashMap<Target, [HeaderValue; 4], RandomState>,
}

#[derive(PartialEq, Eq, Hash)]
struct Target {
    group: Arc<str>,
    deployment: Arc<str>,
}

#[derive(Hash)]
struct TargetRef<'a> {
    group: &'a str,
    deployment: &'a str,
}

impl Equivalent<Target> for TargetRef<'_> {
    fn equivalent(&self, key: &Target) -> bool {
        self.group == &*key.group && self.deployment == &*key.deployment
    }
}

impl TargetHeaders {
    /// Adds `x-litellm-model-…` for a call that `deployment` answered on behalf of `group`.
    pub(super) fn add(
        &self,
        group: &Arc<str>,
        deployment: &Deployment,
        response: &mut ResponseHead,
    ) {
        let made = self.made.pin();
        let target = TargetRef { group, deployment: &deployment.id };
        let values = match made.get(&target) {
            Some(values) => values.clone(),
            None => {
                let texts =
                    [&deployment.id, &deployment.litellm_model, group, &deployment.api_base];
                let values = texts.map(|text| header(text.as_bytes()));
                if made.len() < KEPT_MAX {
                    let deployment = Arc::clone(&deployment.id);
                    made.insert(Target { group: Arc::clone(group), deployment }, values.clone());
                }
                values
            }
        };
        let names = [MODEL_ID, MODEL_NAME, MODEL_GROUP, API_BASE];
        // A name that cannot stand in a header is left out.
        response.headers.extend(names.into_iter().zip(values).filter(|(_, text)| !text.is_empty()));
    }
}

/// A header's value; empty if the text cannot stand in a header.
fn header(text: &[u8]) -> HeaderValue {
    HeaderValue::from_bytes(text).unwrap_or(HeaderValue::from_static(""))
}

/// A small number. Nearly always 0, for which nothing is allocated.
pub(super) fn count(count: u64) -> HeaderValue {
    match count {
        0 => HeaderValue::from_static("0"),
        1 => HeaderValue::from_static("1"),
        _ => number(count),
    }
}

/// Texts that become values together: they share one piece of memory.
#[derive(Default)]
pub(super) struct Texts {
    bytes: Vec<u8>,
    ends: SmallVec<[usize; 4]>,
}

impl Texts {
    pub(super) fn with_capacity(bytes: usize) -> Texts {
        Texts { bytes: Vec::with_capacity(bytes), ends: SmallVec::new() }
    }

    /// Adds one text.
    pub(super) fn add(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        write(&mut self.bytes);
        self.ends.push(self.bytes.len());
    }

    /// The values in the order in which they were added. A text that cannot stand in a header is
    /// empty.
    pub(super) fn into_values(self) -> impl Iterator<Item = HeaderValue> {
        let bytes = Bytes::from(self.bytes);
        let mut start = 0;
        self.ends.into_iter().map(move |end| {
            let text = bytes.slice(start..end);
            start = end;
            HeaderValue::from_maybe_shared(text).unwrap_or(HeaderValue::from_static(""))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_set_here_is_ours() {
        let set = [
            CALL_ID,
            REQUEST_ID,
            VERSION,
            RETRIES,
            FALLBACKS,
            DURATION,
            OVERHEAD,
            COST,
            KEY_RPM,
            KEY_TPM,
            COST_ORIGINAL,
            COST_INPUT,
            COST_OUTPUT,
            COST_CACHE_READ,
            COST_CACHE_CREATION,
            COST_REASONING,
            COST_TOOLS,
            MODEL_ID,
            MODEL_NAME,
            MODEL_GROUP,
            API_BASE,
        ];
        assert!(set.iter().all(is_ours));
        assert_eq!(set.len(), OURS.len() + 1);
        assert!(!is_ours(&HeaderName::from_static("x-litellm-key-spend")));
    }

    #[test]
    fn texts_become_values_one_by_one() {
        let mut texts = Texts::with_capacity(2);
        texts.add(|text| text.extend_from_slice(b"first"));
        texts.add(|_| ());
        texts.add(|text| text.extend_from_slice(b"not\na header"));
        texts.add(|text| text.extend_from_slice(b"last"));
        let values: Vec<_> = texts.into_values().collect();
        assert_eq!(values, ["first", "", "", "last"]);
    }

    #[test]
    fn small_counts_are_numbers_too() {
        let check = |number, expect: &str| assert_eq!(count(number), expect);
        check(0, "0");
        check(1, "1");
        check(1_000_000, "1000000");
    }
}
