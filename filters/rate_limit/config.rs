//! The settings of `rate_limit`.

use std::num::{NonZeroU32, NonZeroU64};

use serde::Deserialize;
use tollway_filter_api::ConfigError;
use tollway_filter_api::limits::RateLimits;

/// The `rate_limit` entry of a filter list. Keys, models and their combinations have limits of
/// their own in the config; they count wherever this filter is listed, also with no settings here.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RateLimitConfig {
    /// What all callers together may use, the master key included.
    pub global: Allowance,
    /// What each key may use that does not set the limit in question itself. Requests without a
    /// key share one such allowance.
    pub per_key: Allowance,
    /// What each user may use, all keys of the user together.
    pub per_user: Allowance,
    /// Whether a request whose key belongs to no user counts for the end user it names itself (its
    /// `user` member). Callers choose that name, so this shares a key's capacity out among its end
    /// users and is no protection against the caller: end users are counted for each key apart,
    /// and requests that name none share one allowance.
    pub user_from_request: bool,
    /// What each model group may be used for that does not set the limit in question itself.
    pub per_model: Allowance,
    /// How fast all callers together may send requests.
    pub global_rate: Option<Rate>,
    /// How fast each key may send requests. Requests without a key share one allowance.
    pub per_key_rate: Option<Rate>,
    /// How fast each address may send requests. IPv6 addresses are taken together by /64, which is
    /// what one customer gets.
    pub per_address: Option<Rate>,
    /// Output tokens to reserve for a request that sets no maximum, unless the model writes fewer
    /// at most. What it really used replaces the reservation at the end.
    pub output_tokens_default: Option<NonZeroU64>,
    /// Whether answers carry LiteLLM's headers of each limit apart (`x-ratelimit-api_key-…`,
    /// `x-ratelimit-model-…` …) besides `x-ratelimit-limit-requests` and the others that OpenAI has.
    /// There may be a dozen of them; refusals have theirs in any case.
    pub scope_headers: bool,
}

/// What somebody may use. What is left out is not limited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Allowance {
    /// Requests in any 60 seconds. All of them may come at once.
    pub rpm: Option<NonZeroU64>,
    /// Tokens in any 60 seconds, input and output together.
    pub tpm: Option<NonZeroU64>,
    /// Requests at once.
    pub max_parallel_requests: Option<NonZeroU64>,
}

/// How fast requests may come. Unlike an [`Allowance`], it is also used up by requests that are
/// then refused for another reason, and it starts afresh when the config is reloaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rate {
    /// Requests per second in the long run, a million at most.
    pub requests_per_second: NonZeroU32,
    /// Requests at once after a quiet time. As many as per second if left out.
    #[serde(default)]
    pub burst: Option<NonZeroU32>,
}

impl From<Allowance> for RateLimits {
    fn from(allowance: Allowance) -> RateLimits {
        RateLimits {
            rpm: allowance.rpm.map(NonZeroU64::get),
            tpm: allowance.tpm.map(NonZeroU64::get),
            max_parallel_requests: allowance.max_parallel_requests.map(NonZeroU64::get),
        }
    }
}

impl Rate {
    /// Refuses what cannot be measured in whole nanoseconds any more.
    pub(super) fn check(self, path: &str) -> Result<Rate, ConfigError> {
        if self.requests_per_second.get() > 1_000_000 {
            let path = format!("{path}.requests_per_second");
            return Err(ConfigError::new(path, "at most 1000000"));
        }
        Ok(self)
    }
}
