//! OpenAI's Batch API, as far as it says what a batch took: the batch itself, and the lines of its
//! output file.

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::usage::{Served, Usage};
use crate::{openai, responses};

/// What a batch says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// Its id.
    pub id: String,
    /// How it stands: `in_progress`, `completed` …
    pub status: String,
    /// What each of its requests calls: `/v1/chat/completions` …
    pub endpoint: String,
    /// The file with the answers, once there are any.
    pub output_file_id: Option<String>,
    /// The model, where the provider names it.
    pub model: Option<String>,
    /// What all requests took together, where the provider has added it up.
    pub usage: Option<Usage>,
    /// How many requests were answered.
    pub completed: u64,
}

#[derive(Deserialize)]
struct Written {
    #[serde(default)]
    object: Option<String>,
    id: String,
    status: String,
    #[serde(default)]
    endpoint: Option<String>,
    #[serde(default)]
    output_file_id: Option<String>,
    #[serde(default)]
    model: Option<String>,
    #[serde(default)]
    request_counts: Option<Counts>,
}

#[derive(Deserialize)]
struct Counts {
    #[serde(default)]
    completed: Option<u64>,
}

impl Batch {
    /// Reads a batch. `None` where it is none.
    pub fn read(json: &[u8]) -> Option<Batch> {
        let written: Written = serde_json::from_slice(json).ok()?;
        if written.object.is_some_and(|object| object != "batch") {
            return None;
        }
        let filled = |text: Option<String>| text.filter(|text| !text.is_empty());
        Some(Batch {
            id: written.id,
            status: written.status,
            endpoint: written.endpoint.unwrap_or_default(),
            output_file_id: filled(written.output_file_id),
            model: filled(written.model),
            // The counts of a batch have the names that the Responses API gives them.
            usage: responses::usage_of_body(json).map(without_tier),
            completed: written.request_counts.and_then(|counts| counts.completed).unwrap_or(0),
        })
    }

    /// Whether nothing more comes of it.
    pub fn is_over(&self) -> bool {
        matches!(&*self.status, "completed" | "failed" | "expired" | "cancelled")
    }
}

/// What one request of a batch took.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answered {
    /// The model that its answer names; empty where it names none.
    pub model: String,
    /// What it took.
    pub usage: Usage,
}

#[derive(Deserialize)]
struct Line<'l> {
    #[serde(borrow, default)]
    response: Option<LineResponse<'l>>,
}

#[derive(Deserialize)]
struct LineResponse<'l> {
    #[serde(borrow, default)]
    body: Option<&'l RawValue>,
}

/// The members of an answer that tell its dialect.
#[derive(Deserialize)]
struct Body {
    #[serde(default)]
    model: Option<String>,
    #[serde(default)]
    usage: Option<InResponsesWords>,
}

#[derive(Deserialize)]
struct InResponsesWords {
    #[serde(default)]
    input_tokens: Option<serde_json::Number>,
}

/// Reads a line of an output file. `Ok(None)` where the request took nothing, as one that failed.
///
/// # Errors
/// When the line is none.
pub fn answered(line: &[u8]) -> Result<Option<Answered>, serde_json::Error> {
    let line: Line<'_> = serde_json::from_slice(line)?;
    let Some(body) = line.response.and_then(|response| response.body) else { return Ok(None) };
    let bytes = body.get().as_bytes();
    // What is not an object, or has a usage of another shape, was no model's answer.
    let Ok(Body { model, usage }) = serde_json::from_slice::<Body>(bytes) else { return Ok(None) };
    let Some(words) = usage else { return Ok(None) };
    let usage = match words.input_tokens {
        Some(_) => responses::usage_of_body(bytes),
        None => openai::usage_of_body(bytes),
    };
    let model = model.unwrap_or_default();
    Ok(usage.map(|usage| Answered { model, usage: without_tier(usage) }))
}

/// A batch is billed as one, whatever tier an answer in it names.
fn without_tier(usage: Usage) -> Usage {
    Usage { served: Served { tier: None, ..usage.served }, ..usage }
}

/// Takes bytes apart into lines, which have at most so many bytes.
#[derive(Debug)]
pub struct Lines {
    line: Vec<u8>,
    bytes_max: usize,
    is_too_long: bool,
}

impl Lines {
    /// Nothing has come yet.
    pub fn new(bytes_max: usize) -> Lines {
        Lines { line: Vec::new(), bytes_max, is_too_long: false }
    }

    /// Takes bytes, and hands on each line that ends in them, empty ones left out; `None` for one
    /// that is too long.
    pub fn take(&mut self, bytes: &[u8], on: &mut impl FnMut(Option<&[u8]>)) {
        let mut rest = bytes;
        while let Some(at) = memchr::memchr(b'\n', rest) {
            self.add(&rest[..at]);
            self.hand_on(on);
            rest = &rest[at + 1..];
        }
        self.add(rest);
    }

    /// Hands on what stands behind the last line feed.
    pub fn end(mut self, on: &mut impl FnMut(Option<&[u8]>)) {
        self.hand_on(on);
    }

    fn add(&mut self, bytes: &[u8]) {
        if self.is_too_long || self.line.len() + bytes.len() > self.bytes_max {
            self.is_too_long = true;
            self.line.clear();
        } else {
            self.line.extend_from_slice(bytes);
        }
    }

    fn hand_on(&mut self, on: &mut impl FnMut(Option<&[u8]>)) {
        if std::mem::take(&mut self.is_too_long) {
            on(None);
        } else if !self.line.trim_ascii().is_empty() {
            on(Some(&self.line));
        }
        self.line.clear();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn batch_says_what_it_took() {
        let json = br#"{"id":"batch_1","object":"batch","endpoint":"/v1/chat/completions",
            "status":"completed","output_file_id":"file-1","model":"gpt-5-2025-08-07",
            "request_counts":{"total":3,"completed":2,"failed":1},
            "usage":{"input_tokens":100,"input_tokens_details":{"cached_tokens":40},
            "output_tokens":20,"output_tokens_details":{"reasoning_tokens":7},"total_tokens":120}}"#;
        let batch = Batch::read(json).expect("it is one");
        assert!(batch.is_over());
        assert_eq!(batch.completed, 2);
        assert_eq!(batch.model.as_deref(), Some("gpt-5-2025-08-07"));
        let usage = batch.usage.expect("counted");
        assert_eq!((usage.prompt_tokens, usage.cache_read_tokens), (100, 40));
        assert_eq!((usage.completion_tokens, usage.reasoning_tokens), (20, 7));
    }

    #[test]
    fn only_what_is_over_is_over() {
        for (status, is_over) in [
            ("validating", false),
            ("in_progress", false),
            ("finalizing", false),
            ("cancelling", false),
            ("completed", true),
            ("failed", true),
            ("expired", true),
            ("cancelled", true),
        ] {
            let json = format!(r#"{{"id":"b","status":"{status}","usage":null}}"#);
            let batch = Batch::read(json.as_bytes()).expect("it is one");
            assert_eq!(batch.is_over(), is_over, "{status}");
            assert_eq!(batch.usage, None);
        }
        for none in ["", "{}", "[]", r#"{"id":"f","status":"completed","object":"file"}"#] {
            assert_eq!(Batch::read(none.as_bytes()), None, "{none}");
        }
    }

    #[test]
    fn lines_of_every_endpoint_are_read() {
        let check = |body: &str, expect: Option<(&str, u64, u64, u64)>| {
            let line = format!(
                r#"{{"id":"r","custom_id":"1","response":{{"status_code":200,"body":{body}}},"error":null}}"#
            );
            let answered = answered(line.as_bytes()).expect("a line");
            let seen = answered.as_ref().map(|it| {
                let usage = &it.usage;
                assert_eq!(usage.served, Served::default(), "{body}");
                (&*it.model, usage.prompt_tokens, usage.completion_tokens, usage.cache_read_tokens)
            });
            assert_eq!(seen, expect, "{body}");
        };
        check(
            r#"{"object":"chat.completion","model":"gpt-4o","service_tier":"priority","usage":
            {"prompt_tokens":9,"completion_tokens":3,"total_tokens":12,
            "prompt_tokens_details":{"cached_tokens":4}}}"#,
            Some(("gpt-4o", 9, 3, 4)),
        );
        check(
            r#"{"object":"response","model":"gpt-5","service_tier":"flex","usage":{"input_tokens":9,
            "input_tokens_details":{"cached_tokens":2},"output_tokens":3,"total_tokens":12}}"#,
            Some(("gpt-5", 9, 3, 2)),
        );
        check(
            r#"{"object":"list","data":[],"model":"emb","usage":{"prompt_tokens":8,"total_tokens":8}}"#,
            Some(("emb", 8, 0, 0)),
        );
        check(r#"{"usage":{"prompt_tokens":1,"completion_tokens":1}}"#, Some(("", 1, 1, 0)));
        check(r#"{"error":{"message":"no"}}"#, None);
        check(r#"{"model":"m","usage":null}"#, None);
        check(r#"{"model":"m","usage":[]}"#, None);
        check("null", None);
        check("7", None);
        assert_eq!(answered(br#"{"response":null,"error":{"code":"x"}}"#).expect("a line"), None);
        assert!(answered(b"nothing").is_err());
    }

    fn all(pieces: &[&[u8]], bytes_max: usize) -> Vec<Option<Vec<u8>>> {
        let (mut lines, mut found) = (Lines::new(bytes_max), Vec::new());
        let mut on = |line: Option<&[u8]>| found.push(line.map(<[u8]>::to_vec));
        pieces.iter().for_each(|piece| lines.take(piece, &mut on));
        lines.end(&mut on);
        found
    }

    #[test]
    fn line_that_is_too_long_hides_no_other() {
        let found = all(&[b"abc\nabcd", b"e\r\n\n \nab"], 4);
        assert_eq!(found, [Some(b"abc".to_vec()), None, Some(b"ab".to_vec())]);
    }

    proptest! {
        #[test]
        fn any_split_has_the_same_lines(
            bytes in proptest::collection::vec(prop_oneof![Just(b'\n'), Just(b' '), any::<u8>()], 0..200),
            cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..8),
            bytes_max in 0_usize..40,
        ) {
            let mut at: Vec<_> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
            at.sort_unstable();
            at.push(bytes.len());
            let mut from = 0;
            let pieces: Vec<&[u8]> = at.into_iter().map(|to| &bytes[std::mem::replace(&mut from, to)..to]).collect();
            let expect: Vec<_> = bytes
                .split(|byte| *byte == b'\n')
                .filter(|line| line.len() > bytes_max || !line.trim_ascii().is_empty())
                .map(|line| (line.len() <= bytes_max).then(|| line.to_vec()))
                .collect();
            prop_assert_eq!(all(&pieces, bytes_max), expect);
        }

        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = Batch::read(&bytes);
            let _ = answered(&bytes);
        }
    }
}
