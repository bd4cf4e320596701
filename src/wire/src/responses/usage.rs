//! Token usage in the Responses API's words.

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::usage::{Served, Usage};

/// The members of a `Response` that are counted.
#[derive(Deserialize)]
pub(super) struct Counted {
    #[serde(default)]
    usage: Option<Counts>,
    #[serde(default)]
    output: Option<Vec<Item>>,
    #[serde(default)]
    service_tier: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Counts {
    input_tokens: Count,
    input_tokens_details: Option<InputDetails>,
    output_tokens: Count,
    output_tokens_details: Option<OutputDetails>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct InputDetails {
    cached_tokens: Count,
    cache_write_tokens: Count,
    audio_tokens: Count,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct OutputDetails {
    reasoning_tokens: Count,
    audio_tokens: Count,
}

#[derive(Deserialize)]
struct Item {
    #[serde(rename = "type", default)]
    kind: String,
    #[serde(default)]
    action: Option<Action>,
}

#[derive(Deserialize)]
struct Action {
    #[serde(rename = "type", default)]
    kind: String,
}

/// A count as servers write it: whole, with a fraction, or null.
#[derive(Clone, Copy, Default)]
struct Count(u64);

impl<'de> Deserialize<'de> for Count {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let number = Option::<serde_json::Number>::deserialize(deserializer)?;
        let whole = number.map_or(0, |number| {
            // A float to integer cast saturates, and not a number becomes 0.
            number.as_u64().unwrap_or_else(|| number.as_f64().unwrap_or(0.0) as u64)
        });
        Ok(Count(whole))
    }
}

impl Counted {
    /// The usage, unless nothing was counted.
    pub(super) fn usage(self) -> Option<Usage> {
        let counts = self.usage?;
        let input = counts.input_tokens_details.unwrap_or_default();
        let output = counts.output_tokens_details.unwrap_or_default();
        let (prompt, completion) = (counts.input_tokens.0, counts.output_tokens.0);
        // A search is billed, a look at one of the pages it found is not
        // (platform.openai.com/docs/pricing, 2026-11).
        let searches = self.output.unwrap_or_default();
        let searches = searches.iter().filter(|item| {
            item.kind == "web_search_call"
                && item.action.as_ref().is_none_or(|action| action.kind == "search")
        });
        let usage = Usage {
            prompt_tokens: prompt,
            completion_tokens: completion,
            cache_read_tokens: input.cached_tokens.0.min(prompt),
            cache_write_tokens: input.cache_write_tokens.0.min(prompt),
            audio_prompt_tokens: input.audio_tokens.0.min(prompt),
            audio_completion_tokens: output.audio_tokens.0.min(completion),
            reasoning_tokens: output.reasoning_tokens.0.min(completion),
            web_searches: searches.count() as u64,
            ..Usage::default()
        };
        let usage = usage.served(Served::in_tier(self.service_tier.as_deref()));
        (usage != Usage::default()).then_some(usage)
    }
}

/// The usage of a whole `Response`.
pub fn usage_of_body(body: &[u8]) -> Option<Usage> {
    serde_json::from_slice::<Counted>(body).ok()?.usage()
}

/// Reads the `usage` of a chat answer.
pub(super) fn of_chat(usage: Option<&RawValue>) -> Option<Usage> {
    crate::openai::usage::usage_of_object(usage?.get().as_bytes())
}

/// Writes `usage`. The reference demands every member, so that what was not counted is 0.
pub(super) fn write(usage: &Usage) -> String {
    let written = usage.cache_write_tokens.saturating_add(usage.cache_write_1h_tokens);
    format!(
        "{{\"input_tokens\":{},\"input_tokens_details\":{{\"cached_tokens\":{},\"cache_write_tokens\":{written}}},\
         \"output_tokens\":{},\"output_tokens_details\":{{\"reasoning_tokens\":{}}},\"total_tokens\":{}}}",
        usage.prompt_tokens,
        usage.cache_read_tokens,
        usage.completion_tokens,
        usage.reasoning_tokens,
        usage.total_tokens(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_count_is_read() {
        let usage = usage_of_body(
            br#"{"output":[{"type":"web_search_call","action":{"type":"search"}},{"type":"message"},
                {"type":"web_search_call","action":{"type":"open_page"}},{"type":"web_search_call"}],
                "usage":{"input_tokens":100,"input_tokens_details":{"cached_tokens":40,"cache_write_tokens":null},
                "output_tokens":20.0,"output_tokens_details":{"reasoning_tokens":7},"total_tokens":120}}"#,
        );
        let expect = Usage {
            prompt_tokens: 100,
            completion_tokens: 20,
            cache_read_tokens: 40,
            reasoning_tokens: 7,
            web_searches: 2,
            ..Usage::default()
        };
        assert_eq!(usage, Some(expect));
        assert_eq!(usage_of_body(b"{\"usage\":null}"), None);
        assert_eq!(usage_of_body(b"{\"usage\":{}}"), None);
        assert_eq!(usage_of_body(b"nothing"), None);
    }
}
