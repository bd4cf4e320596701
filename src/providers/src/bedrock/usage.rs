//! Bedrock's token counts, which leave out what the cache had, in OpenAI's inclusive convention.

use serde::Deserialize;
use tollway_wire::anthropic::UsageCounts;
use tollway_wire::anthropic::usage::CacheCreation;

/// Converse's `TokenUsage`.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct TokenUsage {
    /// Without what was read from or written to the cache. `totalTokens` has them, so the two
    /// together do not add up to it.
    input_tokens: Option<u64>,
    output_tokens: Option<u64>,
    cache_read_input_tokens: Option<u64>,
    cache_write_input_tokens: Option<u64>,
    /// What was written to the cache, by how long it lives.
    cache_details: Option<Vec<CacheDetail>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct CacheDetail {
    ttl: String,
    input_tokens: u64,
}

impl TokenUsage {
    /// The same counts in Anthropic's words, which have the same convention.
    pub(super) fn counts(&self) -> UsageCounts {
        let of = |ttl: &str| {
            let details = self.cache_details.iter().flatten();
            let of_ttl = details.filter(|detail| detail.ttl == ttl);
            of_ttl.fold(0u64, |sum, detail| sum.saturating_add(detail.input_tokens))
        };
        UsageCounts {
            input_tokens: self.input_tokens,
            output_tokens: self.output_tokens,
            cache_creation_input_tokens: self.cache_write_input_tokens,
            cache_read_input_tokens: self.cache_read_input_tokens,
            cache_creation: self.cache_details.is_some().then(|| CacheCreation {
                ephemeral_5m_input_tokens: of("5m"),
                ephemeral_1h_input_tokens: of("1h"),
            }),
            ..UsageCounts::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cached_tokens_are_part_of_the_prompt() {
        let usage: TokenUsage = serde_json::from_str(
            r#"{"inputTokens":16,"outputTokens":9,"totalTokens":2412,"cacheReadInputTokens":0,
                "cacheWriteInputTokens":2387,
                "cacheDetails":[{"ttl":"1h","inputTokens":387},{"ttl":"5m","inputTokens":2000}]}"#,
        )
        .expect("valid");
        let total = usage.counts().total();
        assert_eq!((total.prompt_tokens, total.total_tokens()), (2403, 2412));
        assert_eq!((total.cache_write_tokens, total.cache_write_1h_tokens), (2000, 387));
    }
}
