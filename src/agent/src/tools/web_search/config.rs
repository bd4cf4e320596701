//! The settings of searches.

use std::num::NonZeroU32;
use std::time::Duration;

use secrecy::SecretString;
use serde::Deserialize;
use serde::de::IgnoredAny;
use tollway_filter_api::duration;
use tollway_wire::price::PicoDollars;

use crate::tools::settings::dollars;

/// A search provider with its key, as LiteLLM's configs have it. Searches try them in their order.
///
/// ```yaml
/// search_tools:
///   - search_tool_name: my-search
///     litellm_params:
///       search_provider: tavily
///       api_key: os.environ/TAVILY_API_KEY
///       cost_per_query: 0.008
/// ```
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SearchTool {
    /// By which requests may ask for it.
    pub search_tool_name: String,
    /// What it is.
    pub litellm_params: SearchParams,
    /// `search_tool_info`: what LiteLLM shows of it. Nothing here does.
    #[serde(default, rename = "search_tool_info")]
    pub _info: IgnoredAny,
}

/// Where and how a provider is asked.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SearchParams {
    /// Which one.
    pub search_provider: ProviderName,
    /// The key for it. Default: what [`ProviderName::key_variable`] has.
    #[serde(default)]
    pub api_key: Option<SecretString>,
    /// Where it is, if not where it usually is. It may be a private address.
    #[serde(default)]
    pub api_base: Option<String>,
    /// How long one search may take there. Default 10 s.
    #[serde(default = "ten_seconds", deserialize_with = "duration::deserialize")]
    pub timeout: Duration,
    /// What a search costs, in dollars, for the bill. Default 0.
    #[serde(default, deserialize_with = "dollars")]
    pub cost_per_query: PicoDollars,
    /// `max_retries`: LiteLLM's. Here the next provider is asked instead.
    #[serde(default, rename = "max_retries")]
    pub _max_retries: IgnoredAny,
    /// How many searches a minute the key allows. Others go to the next provider. Default: any.
    #[serde(default)]
    pub rpm: Option<NonZeroU32>,
}

fn ten_seconds() -> Duration {
    Duration::from_secs(10)
}

/// The providers there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProviderName {
    /// tavily.com
    Tavily,
    /// search.brave.com
    Brave,
    /// serpapi.com: Google
    Serpapi,
}

impl ProviderName {
    /// The environment variable that usually has the key.
    pub fn key_variable(self) -> &'static str {
        match self {
            ProviderName::Tavily => "TAVILY_API_KEY",
            ProviderName::Brave => "BRAVE_API_KEY",
            ProviderName::Serpapi => "SERPAPI_API_KEY",
        }
    }
}

/// What holds for all providers.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WebSearchSettings {
    /// How long results are remembered, for whoever has asked for them. 0 remembers nothing.
    #[serde(deserialize_with = "duration::deserialize")]
    pub cache_ttl: Duration,
    /// How much memory they may take.
    pub cache_bytes_max: u64,
    /// How many searches a minute one owner may make, remembered ones apart.
    pub searches_per_minute: NonZeroU32,
}

impl Default for WebSearchSettings {
    fn default() -> WebSearchSettings {
        WebSearchSettings {
            cache_ttl: Duration::from_secs(600),
            cache_bytes_max: 16 * 1024 * 1024,
            searches_per_minute: NonZeroU32::new(60).expect("60 is not 0"),
        }
    }
}
