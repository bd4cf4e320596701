//! Token usage on the wire, and how to read it from a whole answer without parsing the answer.

use std::sync::LazyLock;

use memchr::memmem::{self, Finder, FinderRev};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::model::{is_top_level, string_at};
use crate::usage::{Served, Usage};

mod counts;

/// OpenAI's `usage` object, with what LiteLLM adds for Anthropic models.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct UsageObject {
    /// All input tokens.
    #[serde(deserialize_with = "count")]
    pub prompt_tokens: u64,
    /// All output tokens. Absent in an answer to an embeddings call.
    #[serde(deserialize_with = "count")]
    pub completion_tokens: u64,
    /// Both together.
    #[serde(deserialize_with = "count")]
    pub total_tokens: u64,
    /// Of the input tokens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt_tokens_details: Option<PromptDetails>,
    /// Of the output tokens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub completion_tokens_details: Option<CompletionDetails>,
    /// Everything else.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// What the input tokens were.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PromptDetails {
    /// Read from the prompt cache.
    #[serde(deserialize_with = "count")]
    pub cached_tokens: u64,
    /// Audio.
    #[serde(deserialize_with = "count")]
    pub audio_tokens: u64,
    /// Written to the prompt cache; LiteLLM's member.
    #[serde(deserialize_with = "count", skip_serializing_if = "is_zero")]
    pub cache_creation_tokens: u64,
    /// Everything else.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// What the output tokens were.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct CompletionDetails {
    /// Thinking.
    #[serde(deserialize_with = "count")]
    pub reasoning_tokens: u64,
    /// Audio.
    #[serde(deserialize_with = "count")]
    pub audio_tokens: u64,
    /// Everything else.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// Reads a count: a number, also one with a fraction as some providers write it; null is 0.
fn count<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Count {
        Whole(u64),
        Other(f64),
    }
    Ok(match Option::<Count>::deserialize(deserializer)? {
        Some(Count::Whole(count)) => count,
        // A float to integer cast saturates, and not a number becomes 0.
        Some(Count::Other(count)) => count as u64,
        None => 0,
    })
}

/// The members of a `usage` object that are counted, and nothing that must be allocated.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Counts {
    #[serde(deserialize_with = "count")]
    prompt_tokens: u64,
    #[serde(deserialize_with = "count")]
    completion_tokens: u64,
    #[serde(deserialize_with = "count")]
    total_tokens: u64,
    prompt_tokens_details: Option<PromptCounts>,
    completion_tokens_details: Option<CompletionCounts>,
    // DeepSeek's own name for what is read from its cache (api-docs.deepseek.com, 2026-11).
    #[serde(deserialize_with = "count")]
    prompt_cache_hit_tokens: u64,
    // LiteLLM's members for Anthropic's counts, seen where a LiteLLM proxy is the provider.
    #[serde(deserialize_with = "count")]
    cache_read_input_tokens: u64,
    #[serde(deserialize_with = "count")]
    cache_creation_input_tokens: u64,
    cache_creation: Option<CacheCreation>,
    server_tool_use: Option<ServerToolUse>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct PromptCounts {
    #[serde(deserialize_with = "count")]
    cached_tokens: u64,
    #[serde(deserialize_with = "count")]
    audio_tokens: u64,
    #[serde(deserialize_with = "count")]
    cache_creation_tokens: u64,
    // OpenRouter's name for it (openrouter.ai/docs/use-cases/usage-accounting, 2026-11).
    #[serde(deserialize_with = "count")]
    cache_write_tokens: u64,
    // Seen where models make or read images; part of the total (openai.com, images API, 2026-11).
    #[serde(deserialize_with = "count")]
    image_tokens: u64,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct CompletionCounts {
    #[serde(deserialize_with = "count")]
    reasoning_tokens: u64,
    #[serde(deserialize_with = "count")]
    audio_tokens: u64,
    #[serde(deserialize_with = "count")]
    image_tokens: u64,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct CacheCreation {
    #[serde(deserialize_with = "count")]
    ephemeral_1h_input_tokens: u64,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ServerToolUse {
    #[serde(deserialize_with = "count")]
    web_search_requests: u64,
}

impl From<Counts> for Usage {
    fn from(counts: Counts) -> Usage {
        let prompt = counts.prompt_tokens_details.unwrap_or_default();
        let completion = counts.completion_tokens_details.unwrap_or_default();
        // A provider that gives only the total counts nothing as output; it is all input.
        let bare = counts.prompt_tokens == 0 && counts.completion_tokens == 0;
        let prompt_tokens = if bare { counts.total_tokens } else { counts.prompt_tokens };
        let written = prompt
            .cache_creation_tokens
            .max(prompt.cache_write_tokens)
            .max(counts.cache_creation_input_tokens);
        let hour = counts.cache_creation.unwrap_or_default().ephemeral_1h_input_tokens.min(written);
        let read = prompt
            .cached_tokens
            .max(counts.prompt_cache_hit_tokens)
            .max(counts.cache_read_input_tokens);
        Usage {
            prompt_tokens,
            completion_tokens: counts.completion_tokens,
            cache_read_tokens: read.min(prompt_tokens),
            cache_write_tokens: (written - hour).min(prompt_tokens),
            cache_write_1h_tokens: hour.min(prompt_tokens),
            audio_prompt_tokens: prompt.audio_tokens.min(prompt_tokens),
            audio_completion_tokens: completion.audio_tokens.min(counts.completion_tokens),
            reasoning_tokens: completion.reasoning_tokens.min(counts.completion_tokens),
            web_searches: counts.server_tool_use.unwrap_or_default().web_search_requests,
            image_prompt_tokens: prompt.image_tokens.min(prompt_tokens),
            image_completion_tokens: completion.image_tokens.min(counts.completion_tokens),
            ..Usage::default()
        }
    }
}

/// Reads a `usage` object. `None` where it is not one, or counts nothing.
pub fn usage_of_object(json: &[u8]) -> Option<Usage> {
    // What nearly all providers write is read by hand, in a fifth of the time.
    let counts = match counts::read(json) {
        Some(counts) => counts,
        None => serde_json::from_slice(json).ok()?,
    };
    let usage = Usage::from(counts);
    (usage != Usage::default()).then_some(usage)
}

impl From<&Usage> for UsageObject {
    /// Writes counts as OpenAI would: with details only where there is something to tell.
    fn from(usage: &Usage) -> UsageObject {
        let written = usage.cache_write_tokens.saturating_add(usage.cache_write_1h_tokens);
        UsageObject {
            prompt_tokens: usage.prompt_tokens,
            completion_tokens: usage.completion_tokens,
            total_tokens: usage.total_tokens(),
            prompt_tokens_details: Some(PromptDetails {
                cached_tokens: usage.cache_read_tokens,
                audio_tokens: usage.audio_prompt_tokens,
                cache_creation_tokens: written,
                extra: Map::new(),
            }),
            completion_tokens_details: Some(CompletionDetails {
                reasoning_tokens: usage.reasoning_tokens,
                audio_tokens: usage.audio_completion_tokens,
                extra: Map::new(),
            }),
            extra: Map::new(),
        }
    }
}

/// The usage of a whole answer: chat, legacy completion or embeddings.
///
/// It stands near the end of most answers, so it is looked for from there: the text between it and
/// the end must close exactly one object. Where that does not hold, as when the last `"usage"` is
/// a member of something nested, the whole answer is read.
pub fn usage_of_body(body: &[u8]) -> Option<Usage> {
    counts_of_body(body).map(|usage| usage.served(Served::in_tier(service_tier(body))))
}

/// The `service_tier` of an answer or a chunk: the one that served it.
///
/// Searched from the front: an answer without it is gone through whole, and embeddings have megabytes.
pub(crate) fn service_tier(json: &[u8]) -> Option<&str> {
    const KEY: &str = "\"service_tier\"";
    /// So often it may stand in something nested before it.
    const TRIES: usize = 4;
    static TIER: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(KEY));
    let is_own = |at: &usize| *at > 0 && json[at - 1] != b'\\' && is_top_level(json, *at);
    let at = TIER.find_iter(json).take(TRIES).find(is_own)?;
    let colon = skip_space(json, at + KEY.len());
    let value = (json.get(colon) == Some(&b':')).then(|| string_at(json, colon + 1))??;
    std::str::from_utf8(&json[value]).ok().map(|text| text.trim_matches('"'))
}

fn counts_of_body(body: &[u8]) -> Option<Usage> {
    match tail_usage(body) {
        Some(object) => usage_of_object(object),
        None => {
            #[derive(Deserialize)]
            struct Body {
                #[serde(default)]
                usage: Option<Counts>,
            }
            memmem::find(body, b"usage")?;
            let usage = Usage::from(serde_json::from_slice::<Body>(body).ok()?.usage?);
            (usage != Usage::default()).then_some(usage)
        }
    }
}

/// The `usage` object, if it is provably a top-level member and the last of that name.
fn tail_usage(body: &[u8]) -> Option<&[u8]> {
    static USAGE: LazyLock<FinderRev<'static>> = LazyLock::new(|| FinderRev::new("\"usage\""));
    let at = USAGE.rfind(body)?;
    // A raw quote inside a string is escaped, so only a key is followed by a colon. The one
    // exception is a key that itself ends in an escaped quote and the word.
    if at == 0 || body[at - 1] == b'\\' {
        return None;
    }
    let (object, after) = member_object(body, at + b"\"usage\"".len())?;
    closes_once(&body[after..]).then_some(object)
}

/// The object that is the value of a member whose key ends at `at`, and where it ends.
pub(crate) fn member_object(json: &[u8], at: usize) -> Option<(&[u8], usize)> {
    let colon = skip_space(json, at);
    if json.get(colon) != Some(&b':') {
        return None;
    }
    let start = skip_space(json, colon + 1);
    if json.get(start) != Some(&b'{') {
        return None;
    }
    let end = start + nested_end(&json[start..])?;
    Some((&json[start..end], end))
}

/// The first byte at or after `at` that is not white space.
pub(crate) fn skip_space(json: &[u8], at: usize) -> usize {
    let blank = |byte: &&u8| matches!(byte, b' ' | b'\n' | b'\r' | b'\t');
    at + json[at.min(json.len())..].iter().take_while(blank).count()
}

/// The end of the string whose opening quote is at 0.
pub(crate) fn string_end(json: &[u8]) -> Option<usize> {
    let mut at = 1;
    loop {
        let offset = memchr::memchr2(b'"', b'\\', json.get(at..)?)?;
        at += offset + 1;
        if json[at - 1] == b'"' {
            return Some(at);
        }
        at += 1;
    }
}

/// The end of the object or array that begins at 0.
pub(crate) fn nested_end(json: &[u8]) -> Option<usize> {
    let mut depth = 0usize;
    let mut at = 0;
    while at < json.len() {
        match json[at] {
            b'"' => {
                at += string_end(&json[at..])?;
                continue;
            }
            b'{' | b'[' => depth += 1,
            b'}' | b']' => {
                depth = depth.checked_sub(1)?;
                if depth == 0 {
                    return Some(at + 1);
                }
            }
            _ => {}
        }
        at += 1;
    }
    None
}

/// Whether `rest`, begun inside one object, closes that object with its last byte.
fn closes_once(rest: &[u8]) -> bool {
    let mut depth = 1usize;
    let mut at = 0;
    while at < rest.len() {
        match rest[at] {
            b'"' => match string_end(&rest[at..]) {
                Some(end) => {
                    at += end;
                    continue;
                }
                None => return false,
            },
            b'{' | b'[' => depth += 1,
            b'}' | b']' => {
                depth -= 1;
                if depth == 0 {
                    return rest[at] == b'}' && skip_space(rest, at + 1) == rest.len();
                }
            }
            _ => {}
        }
        at += 1;
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(body: &str, expect: Option<(u64, u64)>) {
        let got = usage_of_body(body.as_bytes()).map(|u| (u.prompt_tokens, u.completion_tokens));
        assert_eq!(got, expect, "{body}");
    }

    #[test]
    fn tier_is_that_of_the_answer_and_not_of_what_it_says() {
        for (json, expect) in [
            (r#"{"usage":{},"service_tier":"flex"}"#, Some("flex")),
            (r#"{"service_tier" : "priority","x":{"service_tier":"flex"}}"#, Some("priority")),
            (r#"{"x":{"service_tier":"flex"},"service_tier":"priority"}"#, Some("priority")),
            (r#"{"t":"\"service_tier\":\"flex\""}"#, None),
            (r#"{"x":{"service_tier":"flex"}}"#, None),
            (r#"{"service_tier":null}"#, None),
            (r#"{"service_tier""#, None),
        ] {
            assert_eq!(service_tier(json.as_bytes()), expect, "{json}");
        }
    }

    #[test]
    fn usage_is_found_at_the_top_level_only() {
        check(r#"{"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":4}}"#, Some((3, 4)));
        check(
            r#"{"usage": {"prompt_tokens":3,"completion_tokens":4}, "fp":"}\"usage\":{" }
"#,
            Some((3, 4)),
        );
        check(
            r#"{"usage":{"prompt_tokens":3,"completion_tokens":4},"x_groq":{"usage":{"prompt_tokens":9}}}"#,
            Some((3, 4)),
        );
        check(r#"{"x_groq":{"usage":{"prompt_tokens":9}}}"#, None);
        check(r#"{"choices":[{"message":{"content":"\"usage\":{\"prompt_tokens\":5}"}}]}"#, None);
        check(r#"{"\"usage":{"prompt_tokens":5}}"#, None);
        check(r#"{"data":["usage"],"usage":{"prompt_tokens":8,"total_tokens":8}}"#, Some((8, 0)));
        check(r#"{"usage":null}"#, None);
        check(r#"{"usage":{"prompt_tokens":3"#, None);
        check("", None);
        check("\"usage\"", None);
    }

    #[test]
    fn details_are_read_whatever_they_are_called() {
        let usage = usage_of_object(
            br#"{"prompt_tokens":100,"completion_tokens":20.0,"total_tokens":120,"queue_time":0.1,
                "prompt_tokens_details":{"cached_tokens":40,"audio_tokens":null},
                "completion_tokens_details":{"reasoning_tokens":7}}"#,
        );
        let expect = Usage {
            prompt_tokens: 100,
            completion_tokens: 20,
            cache_read_tokens: 40,
            reasoning_tokens: 7,
            ..Usage::default()
        };
        assert_eq!(usage, Some(expect));
        let images = usage_of_object(
            br#"{"prompt_tokens":9,"completion_tokens":1300,"prompt_tokens_details":{"image_tokens":5},
                "completion_tokens_details":{"image_tokens":1290}}"#,
        );
        let images = images.map(|u| (u.image_prompt_tokens, u.image_completion_tokens));
        assert_eq!(images, Some((5, 1290)));
        let deepseek = usage_of_object(br#"{"prompt_tokens":9,"prompt_cache_hit_tokens":5}"#);
        assert_eq!(deepseek.map(|u| u.cache_read_tokens), Some(5));
    }
}
