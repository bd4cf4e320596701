//! A stream that is Google's from end to end: bytes pass, and on the way usage, errors and the end
//! are seen. No event is parsed.

use bytes::Bytes;
use memchr::memmem;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::usage::UsageMetadata;
use crate::openai::usage::{member_object, skip_space, string_end};
use crate::sse::{self, Splitter};
use crate::tap::{Tap, TapError, Verdict, check_object, event_in, has_error, pass, place_in};
use crate::usage::Usage;

/// Watches one stream of `GenerateContentResponse`s.
///
/// A quote inside a JSON string is escaped, so `"usageMetadata"` followed by a colon in the raw bytes
/// is always a key and never something the model wrote.
#[derive(Debug)]
pub struct GeminiTap {
    splitter: Splitter,
    alias: Option<Vec<u8>>,
    watch: Watch,
}

#[derive(Debug, Default)]
struct Watch {
    renames: bool,
    scratch: Vec<u8>,
    usage: Option<Usage>,
    searches: u64,
    finished: bool,
    done: bool,
    events: u64,
}

impl GeminiTap {
    /// Watches a stream. With `alias` every event's `modelVersion` is replaced by that name.
    pub fn new(alias: Option<&str>) -> Self {
        GeminiTap {
            splitter: Splitter::default(),
            alias: alias.map(|name| serde_json::Value::from(name).to_string().into_bytes()),
            watch: Watch { renames: alias.is_some(), ..Watch::default() },
        }
    }
}

impl Tap for GeminiTap {
    fn push(&mut self, bytes: &Bytes, send: &mut dyn FnMut(Bytes)) -> Result<(), TapError> {
        let watch = &mut self.watch;
        let look = |block: &[u8]| watch.look(block);
        pass(&mut self.splitter, bytes, self.alias.as_deref(), look, send)
    }

    fn end(&mut self, send: &mut dyn FnMut(Bytes)) -> Result<(), TapError> {
        let held = self.splitter.take_held();
        let rest = held.trim_ascii();
        if rest.starts_with(b"{") && has_error(rest) {
            return Err(TapError::Reported(Bytes::copy_from_slice(rest)));
        }
        // Some servers close right behind the last event, without the line ends that complete it.
        if rest.ends_with(b"}") && sse::is_event_block(rest) {
            self.push(&Bytes::from([rest, b"\r\n\r\n"].concat()), send)?;
        } else if !rest.is_empty() {
            return Err(match self.watch.events == 0 && !sse::is_event_block(rest) {
                true => TapError::Malformed("not an event stream"),
                false => TapError::Truncated,
            });
        }
        // There is nothing behind the reason but usage, in the same event or the next one, so only
        // the close tells the end.
        self.watch.done = self.watch.finished;
        if self.watch.done { Ok(()) } else { Err(TapError::Truncated) }
    }

    fn is_done(&self) -> bool {
        self.watch.done
    }

    fn usage(&self) -> Option<Usage> {
        let searched = |usage| Usage { web_searches: self.watch.searches, ..usage };
        self.watch.usage.map(searched)
    }

    fn events(&self) -> u64 {
        self.watch.events
    }
}

impl Watch {
    fn look(&mut self, block: &[u8]) -> Result<Verdict, TapError> {
        let Some(event) = event_in(block, &mut self.scratch, has_error)? else {
            return Ok(Verdict::Pass);
        };
        let data = event.data.trim_ascii();
        check_object(data)?;
        if member(data, b"\"candidates\"").is_none()
            && member(data, b"\"error\"").is_some()
            && has_error(data)
        {
            return Err(TapError::Reported(Bytes::copy_from_slice(data)));
        }
        self.events += 1;
        if !self.finished {
            let reasons = [b"\"finishReason\"".as_slice(), b"\"blockReason\""];
            self.finished =
                reasons.iter().any(|key| member(data, key).is_some()) && is_finish(data);
        }
        if let Some(usage) = usage_in(data) {
            self.usage = Some(usage);
        }
        // Later events may tell again of what was searched.
        self.searches = self.searches.max(searches_in(data));
        if self.renames
            && let Some(start) = member(data, b"\"modelVersion\"")
            && data[start] == b'"'
            && let Some(length) = string_end(&data[start..])
            && let Some(place) = place_in(block, &data[start..start + length])
        {
            return Ok(Verdict::Rename(place));
        }
        Ok(Verdict::Pass)
    }
}

/// Where the value of the last member of this name begins.
fn member(json: &[u8], key: &[u8]) -> Option<usize> {
    memmem::rfind_iter(json, key).find_map(|at| {
        let colon = skip_space(json, at + key.len());
        let value = skip_space(json, colon + 1);
        (json.get(colon) == Some(&b':') && value < json.len()).then_some(value)
    })
}

/// Whether an event tells why an answer ended. Only asked where the word is a key in it, which may
/// also be an argument of a call. A prompt that is refused has no candidates and so no reason of
/// theirs.
fn is_finish(json: &[u8]) -> bool {
    #[derive(Default, Deserialize)]
    #[serde(default, rename_all = "camelCase")]
    struct Answer<'a> {
        #[serde(borrow)]
        candidates: Option<Vec<Candidate<'a>>>,
        #[serde(borrow)]
        prompt_feedback: Option<Feedback<'a>>,
    }
    #[derive(Default, Deserialize)]
    #[serde(default, rename_all = "camelCase")]
    struct Candidate<'a> {
        #[serde(borrow)]
        finish_reason: Option<&'a RawValue>,
    }
    #[derive(Default, Deserialize)]
    #[serde(default, rename_all = "camelCase")]
    struct Feedback<'a> {
        #[serde(borrow)]
        block_reason: Option<&'a RawValue>,
    }
    serde_json::from_slice::<Answer<'_>>(json).is_ok_and(|answer| {
        answer.candidates.iter().flatten().any(|candidate| candidate.finish_reason.is_some())
            || answer.prompt_feedback.is_some_and(|feedback| feedback.block_reason.is_some())
    })
}

/// The last usage in an event or a body.
fn usage_in(json: &[u8]) -> Option<Usage> {
    const KEY: &[u8] = b"\"usageMetadata\"";
    memmem::rfind_iter(json, KEY)
        .find_map(|at| member_object(json, at + KEY.len()))
        .and_then(|(object, _)| serde_json::from_slice::<UsageMetadata>(object).ok())
        .map(|counts| counts.usage(0))
        .filter(|usage| *usage != Usage::default())
}

/// How many searches Google bills: each query with Gemini 3, each answer before
/// (<https://ai.google.dev/gemini-api/docs/google-search>, "Pricing", read 2026-11).
fn searches_in(json: &[u8]) -> u64 {
    #[derive(Default, Deserialize)]
    #[serde(default, rename_all = "camelCase")]
    struct Answer {
        candidates: Option<Vec<Candidate>>,
        model_version: Option<String>,
    }
    #[derive(Default, Deserialize)]
    #[serde(default, rename_all = "camelCase")]
    struct Candidate {
        grounding_metadata: Option<Grounding>,
    }
    #[derive(Default, Deserialize)]
    #[serde(default, rename_all = "camelCase")]
    struct Grounding {
        web_search_queries: Option<Vec<serde::de::IgnoredAny>>,
    }
    if memmem::find(json, b"\"webSearchQueries\"").is_none() {
        return 0;
    }
    let Ok(answer) = serde_json::from_slice::<Answer>(json) else { return 0 };
    let version = answer.model_version.unwrap_or_default();
    let is_billed_by_answer =
        ["gemini-1", "gemini-2"].iter().any(|before| version.starts_with(before));
    let queries = |candidate: Candidate| {
        let queries = candidate.grounding_metadata?.web_search_queries?.len() as u64;
        Some(if is_billed_by_answer { queries.min(1) } else { queries })
    };
    answer.candidates.into_iter().flatten().filter_map(queries).sum()
}

/// The usage of a whole answer.
pub fn usage_of_body(body: &[u8]) -> Option<Usage> {
    usage_in(body).map(|usage| Usage { web_searches: searches_in(body), ..usage })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_and_searches_are_counted_as_what_they_are() {
        let answer = |version: &str| {
            format!(
                r#"{{"candidates":[{{"finishReason":"STOP","groundingMetadata":{{"webSearchQueries":["a","b"]}}}}],
                "usageMetadata":{{"promptTokenCount":300,"candidatesTokenCount":1300,"totalTokenCount":1600,
                "promptTokensDetails":[{{"modality":"IMAGE","tokenCount":258}},{{"modality":"TEXT","tokenCount":42}}],
                "candidatesTokensDetails":[{{"modality":"IMAGE","tokenCount":1290}}]}},"modelVersion":"{version}"}}"#
            )
        };
        for (version, searches) in [("gemini-2.5-flash-image", 1), ("gemini-3-pro-image", 2)] {
            let expect = Usage {
                prompt_tokens: 300,
                completion_tokens: 1300,
                image_prompt_tokens: 258,
                image_completion_tokens: 1290,
                web_searches: searches,
                ..Usage::default()
            };
            let answer = answer(version).replace('\n', "");
            assert_eq!(usage_of_body(answer.as_bytes()), Some(expect), "{version}");
            let mut tap = GeminiTap::new(None);
            let event = Bytes::from(format!("data: {answer}\r\n\r\n").repeat(2));
            tap.push(&event, &mut |_| {}).expect("it is an answer");
            assert_eq!(tap.usage(), Some(expect), "{version}");
        }
    }
}
