//! Anthropic's token counts, which are exclusive, and their sum in OpenAI's inclusive convention.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::openai::usage::{CompletionDetails, PromptDetails, UsageObject};
use crate::usage::{Served, Usage};

/// The `usage` of a message, of `message_start` and of `message_delta`. Every count is optional,
/// because the events of a stream bring them in parts and the later one holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct UsageCounts {
    /// Input tokens that were neither read from nor written to the cache.
    pub input_tokens: Option<u64>,
    /// Output tokens, thinking included.
    pub output_tokens: Option<u64>,
    /// Input tokens written to the cache.
    pub cache_creation_input_tokens: Option<u64>,
    /// Input tokens read from the cache.
    pub cache_read_input_tokens: Option<u64>,
    /// The written ones by how long they live.
    pub cache_creation: Option<CacheCreation>,
    /// Of the output tokens.
    pub output_tokens_details: Option<OutputDetails>,
    /// What Anthropic's own tools did.
    pub server_tool_use: Option<Map<String, Value>>,
    /// The counts of each pass, where Anthropic's own tools or compaction took several.
    pub iterations: Option<Vec<UsageCounts>>,
    /// The tier that served the call.
    pub service_tier: Option<String>,
    /// Where it was served.
    pub inference_geo: Option<String>,
    /// `standard` or `fast`, which costs more.
    pub speed: Option<String>,
}

/// Cache writes by how long they live.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CacheCreation {
    /// For five minutes.
    pub ephemeral_5m_input_tokens: u64,
    /// For one hour, which costs more.
    pub ephemeral_1h_input_tokens: u64,
}

/// What the output tokens were.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct OutputDetails {
    /// Thinking.
    pub thinking_tokens: u64,
}

impl UsageCounts {
    /// Takes over what a later event says. The counts are cumulative, so the later one holds.
    pub fn update(&mut self, later: UsageCounts) {
        fn take<T>(mine: &mut Option<T>, later: Option<T>) {
            if later.is_some() {
                *mine = later;
            }
        }
        take(&mut self.input_tokens, later.input_tokens);
        take(&mut self.output_tokens, later.output_tokens);
        take(&mut self.cache_creation_input_tokens, later.cache_creation_input_tokens);
        take(&mut self.cache_read_input_tokens, later.cache_read_input_tokens);
        take(&mut self.cache_creation, later.cache_creation);
        take(&mut self.output_tokens_details, later.output_tokens_details);
        take(&mut self.server_tool_use, later.server_tool_use);
        take(&mut self.iterations, later.iterations);
        take(&mut self.service_tier, later.service_tier);
        take(&mut self.inference_geo, later.inference_geo);
        take(&mut self.speed, later.speed);
    }

    /// One count, over all passes. The top level leaves out passes that compacted the context, so
    /// the sum of the passes is what is billed; where there are none, the top level is
    /// (platform.claude.com, "Compaction", 2026-11).
    fn sum(&self, count: impl Fn(&UsageCounts) -> u64) -> u64 {
        let passes = self.iterations.iter().flatten();
        let sum = passes.fold(0u64, |sum, pass| sum.saturating_add(count(pass)));
        sum.max(count(self))
    }

    /// The counts in OpenAI's convention, where input includes what the cache had.
    pub fn total(&self) -> Usage {
        let input = self.sum(|pass| pass.input_tokens.unwrap_or(0));
        let output = self.sum(|pass| pass.output_tokens.unwrap_or(0));
        let read = self.sum(|pass| pass.cache_read_input_tokens.unwrap_or(0));
        let written = self.sum(|pass| {
            let parts = pass.cache_creation.unwrap_or_default();
            let sum =
                parts.ephemeral_5m_input_tokens.saturating_add(parts.ephemeral_1h_input_tokens);
            pass.cache_creation_input_tokens.unwrap_or(sum)
        });
        // In a stream the parts come with `message_start` and the sum again, larger, with
        // `message_delta`; what is not said to live an hour is counted as the common kind.
        let hour = self
            .sum(|pass| pass.cache_creation.unwrap_or_default().ephemeral_1h_input_tokens)
            .min(written);
        let thinking =
            self.sum(|pass| pass.output_tokens_details.unwrap_or_default().thinking_tokens);
        let usage = Usage {
            prompt_tokens: input.saturating_add(read).saturating_add(written),
            completion_tokens: output,
            cache_read_tokens: read,
            cache_write_tokens: written - hour,
            cache_write_1h_tokens: hour,
            reasoning_tokens: thinking.min(output),
            web_searches: self
                .server_tool_use
                .as_ref()
                .and_then(|uses| uses.get("web_search_requests")?.as_u64())
                .unwrap_or(0),
            ..Usage::default()
        };
        usage.served(Served {
            is_fast: self.speed.as_deref() == Some("fast"),
            is_us: self.inference_geo.as_deref() == Some("us"),
            ..Served::in_tier(self.service_tier.as_deref())
        })
    }

    /// OpenAI's `usage` object, with the members LiteLLM adds for Anthropic models.
    pub fn to_openai(&self) -> UsageObject {
        let total = self.total();
        let written = total.cache_write_tokens + total.cache_write_1h_tokens;
        let mut extra = Map::new();
        extra.insert("cache_creation_input_tokens".into(), written.into());
        extra.insert("cache_read_input_tokens".into(), total.cache_read_tokens.into());
        if written > 0 {
            let mut parts = Map::new();
            parts.insert("ephemeral_5m_input_tokens".into(), total.cache_write_tokens.into());
            parts.insert("ephemeral_1h_input_tokens".into(), total.cache_write_1h_tokens.into());
            extra.insert("cache_creation".into(), parts.into());
        }
        if let Some(uses) = &self.server_tool_use {
            extra.insert("server_tool_use".into(), uses.clone().into());
        }
        for (key, value) in [
            ("service_tier", &self.service_tier),
            ("inference_geo", &self.inference_geo),
            ("speed", &self.speed),
        ] {
            if let Some(value) = value {
                extra.insert(key.into(), value.as_str().into());
            }
        }
        // Saturating, because a provider may send numbers whose sum did.
        let uncached =
            total.prompt_tokens.saturating_sub(total.cache_read_tokens).saturating_sub(written);
        let mut prompt_extra = Map::new();
        prompt_extra.insert("text_tokens".into(), uncached.into());
        UsageObject {
            prompt_tokens: total.prompt_tokens,
            completion_tokens: total.completion_tokens,
            total_tokens: total.total_tokens(),
            prompt_tokens_details: Some(PromptDetails {
                cached_tokens: total.cache_read_tokens,
                audio_tokens: 0,
                cache_creation_tokens: written,
                extra: prompt_extra,
            }),
            completion_tokens_details: Some(CompletionDetails {
                reasoning_tokens: total.reasoning_tokens,
                ..CompletionDetails::default()
            }),
            extra,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(json: &str) -> UsageCounts {
        serde_json::from_str(json).expect("valid")
    }

    #[test]
    fn cached_tokens_are_part_of_the_prompt() {
        let total = counts(
            r#"{"input_tokens":16,"output_tokens":9,"cache_read_input_tokens":100,
                "cache_creation_input_tokens":2387,
                "cache_creation":{"ephemeral_5m_input_tokens":2000,"ephemeral_1h_input_tokens":387}}"#,
        )
        .total();
        assert_eq!(total.prompt_tokens, 16 + 100 + 2387);
        assert_eq!((total.cache_write_tokens, total.cache_write_1h_tokens), (2000, 387));
        assert_eq!(total.total_tokens(), 2512);
    }

    #[test]
    fn the_last_event_of_a_stream_holds() {
        let mut usage = counts(
            r#"{"input_tokens":10,"output_tokens":1,"cache_creation_input_tokens":5,
                "cache_creation":{"ephemeral_5m_input_tokens":5,"ephemeral_1h_input_tokens":0}}"#,
        );
        usage.update(counts(
            r#"{"input_tokens":900,"output_tokens":70,"cache_creation_input_tokens":50,
                "cache_read_input_tokens":null,"server_tool_use":{"web_search_requests":2}}"#,
        ));
        let total = usage.total();
        assert_eq!((total.prompt_tokens, total.completion_tokens), (950, 70));
        assert_eq!((total.cache_write_tokens, total.web_searches), (50, 2));
    }

    #[test]
    fn passes_are_added_up() {
        let total = counts(
            r#"{"input_tokens":20,"output_tokens":5,"iterations":[
                {"type":"compaction","input_tokens":1000,"output_tokens":200},
                {"type":"message","input_tokens":20,"output_tokens":5}]}"#,
        )
        .total();
        assert_eq!((total.prompt_tokens, total.completion_tokens), (1020, 205));
    }
}
