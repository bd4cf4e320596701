//! OpenAI's Batch API, as far as it says what a batch took: the batch itself, and the lines of its
//! output file.

use memchr::memmem;
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
struct WrittenBatch {
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
        let written: WrittenBatch = serde_json::from_slice(json).ok()?;
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
struct Written<'l> {
    #[serde(borrow, default)]
    response: Option<Response<'l>>,
}

#[derive(Deserialize)]
struct Response<'l> {
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
pub fn answered(line: Line<'_>) -> Result<Option<Answered>, serde_json::Error> {
    match line {
        Line::Whole(line) => {
            let line: Written<'_> = serde_json::from_slice(line)?;
            let body = line.response.and_then(|response| response.body);
            Ok(body.and_then(|body| of_body(body.get().as_bytes())))
        }
        Line::Cut { head, tail } => Ok(of_body(&put_together(head, tail)?)),
    }
}

fn of_body(body: &[u8]) -> Option<Answered> {
    // What is not an object, or has a usage of another shape, was no model's answer.
    let Body { model, usage } = serde_json::from_slice(body).ok()?;
    let usage = match usage?.input_tokens {
        Some(_) => responses::usage_of_body(body),
        None => openai::usage_of_body(body),
    };
    let model = model.unwrap_or_default();
    usage.map(|usage| Answered { model, usage: without_tier(usage) })
}

/// The members that count of an answer that is too long to be read whole. Its model stands before what
/// makes it long (chat), or behind (embeddings), and its usage behind. A quote within a text has a
/// backslash before it, so that only a member's name is found.
fn put_together(head: &[u8], tail: &[u8]) -> Result<Vec<u8>, serde_json::Error> {
    let member = |piece: &[u8], name: &str, at: fn(&[u8], &[u8]) -> Option<usize>| {
        let from = at(piece, name.as_bytes())? + name.len();
        let value = piece[from..].trim_ascii_start().strip_prefix(b":")?;
        let mut values = serde_json::Deserializer::from_slice(value).into_iter::<Box<RawValue>>();
        values.next()?.ok()
    };
    let (first, last) = (memmem::find as fn(&[u8], &[u8]) -> _, memmem::rfind);
    let model = member(tail, "\"model\"", last).or_else(|| member(head, "\"model\"", first));
    let usage = member(tail, "\"usage\"", last);
    let (Some(usage), null) = (usage, RawValue::NULL) else {
        return Err(serde::de::Error::custom("too long, and without a usage at its end"));
    };
    let model = model.as_deref().unwrap_or(null);
    Ok(format!("{{\"model\":{model},\"usage\":{usage}}}").into_bytes())
}

/// A batch is billed as one, whatever tier an answer in it names.
fn without_tier(usage: Usage) -> Usage {
    Usage { served: Served { tier: None, ..usage.served }, ..usage }
}

/// How much is kept of the beginning and of the end of a line that is too long.
const HEAD: usize = 4 * 1024;
const TAIL: usize = 16 * 1024;

/// A line of an output file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Line<'l> {
    /// All of it.
    Whole(&'l [u8]),
    /// Of one that is too long its first 4 KiB and its last 16 KiB.
    Cut {
        /// The beginning.
        head: &'l [u8],
        /// The end.
        tail: &'l [u8],
    },
}

/// Takes bytes apart into lines, of which no more than so many bytes are kept, or 20 KiB.
#[derive(Debug)]
pub struct Lines {
    /// The line so far; of one that is too long its beginning.
    line: Vec<u8>,
    /// The end of one that is too long.
    tail: Vec<u8>,
    bytes_max: usize,
    is_too_long: bool,
}

impl Lines {
    /// Nothing has come yet.
    pub fn new(bytes_max: usize) -> Lines {
        Lines { line: Vec::new(), tail: Vec::new(), bytes_max, is_too_long: false }
    }

    /// Takes bytes, and hands on each line that ends in them, empty ones left out.
    pub fn take(&mut self, bytes: &[u8], on: &mut impl FnMut(Line<'_>)) {
        let mut rest = bytes;
        while let Some(at) = memchr::memchr(b'\n', rest) {
            self.add(&rest[..at]);
            self.hand_on(on);
            rest = &rest[at + 1..];
        }
        self.add(rest);
    }

    /// Hands on what stands behind the last line feed.
    pub fn end(mut self, on: &mut impl FnMut(Line<'_>)) {
        self.hand_on(on);
    }

    fn add(&mut self, bytes: &[u8]) {
        if !self.is_too_long {
            let room = self.bytes_max.max(HEAD + TAIL).saturating_sub(self.line.len());
            let (fits, rest) = bytes.split_at(bytes.len().min(room));
            self.line.extend_from_slice(fits);
            if rest.is_empty() {
                return;
            }
            self.is_too_long = true;
            self.tail.extend_from_slice(&self.line[self.line.len() - TAIL..]);
            self.line.truncate(HEAD);
            return self.add(rest);
        }
        self.tail.extend_from_slice(&bytes[bytes.len().saturating_sub(TAIL)..]);
        // Not for every few bytes.
        if self.tail.len() >= 2 * TAIL {
            self.tail.drain(..self.tail.len() - TAIL);
        }
    }

    fn hand_on(&mut self, on: &mut impl FnMut(Line<'_>)) {
        if std::mem::take(&mut self.is_too_long) {
            let tail = &self.tail[self.tail.len().saturating_sub(TAIL)..];
            on(Line::Cut { head: &self.line, tail });
            self.tail.clear();
        } else if !self.line.trim_ascii().is_empty() {
            on(Line::Whole(&self.line));
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
            let answered = answered(Line::Whole(line.as_bytes())).expect("a line");
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
        let failed = Line::Whole(br#"{"response":null,"error":{"code":"x"}}"#);
        assert_eq!(answered(failed).expect("a line"), None);
        assert!(answered(Line::Whole(b"nothing")).is_err());
    }

    /// What a [`Line`] is, kept.
    type Owned = (Vec<u8>, Option<Vec<u8>>);

    fn owned(line: Line<'_>) -> Owned {
        match line {
            Line::Whole(line) => (line.to_vec(), None),
            Line::Cut { head, tail } => (head.to_vec(), Some(tail.to_vec())),
        }
    }

    fn all(pieces: &[&[u8]]) -> Vec<Owned> {
        let (mut lines, mut found) = (Lines::new(0), Vec::new());
        let mut on = |line: Line<'_>| found.push(owned(line));
        pieces.iter().for_each(|piece| lines.take(piece, &mut on));
        lines.end(&mut on);
        found
    }

    /// Line by line; slow and plain.
    fn expected(bytes: &[u8]) -> Vec<Owned> {
        let lines = bytes.split(|byte| *byte == b'\n');
        let of = |line: &[u8]| match line.len() > HEAD + TAIL {
            true => (line[..HEAD].to_vec(), Some(line[line.len() - TAIL..].to_vec())),
            false => (line.to_vec(), None),
        };
        let is_empty = |line: &&[u8]| line.len() <= HEAD + TAIL && line.trim_ascii().is_empty();
        lines.filter(|line| !is_empty(line)).map(of).collect()
    }

    #[test]
    fn line_that_is_too_long_says_what_it_took() {
        let numbers = "0.5,".repeat(30_000);
        let said = "\\\"usage\\\": {\\\"model\\\": 7} ".repeat(3_000);
        let embeddings = format!(
            r#"{{"id":"r","response":{{"status_code":200,"body":{{"object":"list","data":[{{"embedding":[{numbers}1]}}],"model":"emb","usage":{{"prompt_tokens":8,"total_tokens":8}}}}}},"error":null}}"#
        );
        let chat = format!(
            r#"{{"id":"r","response":{{"body":{{"model":"gpt-4o","choices":[{{"message":{{"content":"{said}"}}}}],"usage":{{"prompt_tokens":8,"completion_tokens":2,"prompt_tokens_details":{{"cached_tokens":3}}}},"system_fingerprint":"f"}}}},"error":null}}"#
        );
        let response = format!(
            r#"{{"response":{{"body":{{"object":"response","model":"gpt-5","output":[{{"text":"{said}"}}],"usage" : {{"input_tokens":8,"output_tokens":2}}}}}}}}"#
        );
        for (line, model) in [(&embeddings, "emb"), (&chat, "gpt-4o"), (&response, "gpt-5")] {
            let found = all(&[line.as_bytes()]);
            let (head, tail) = (&found[0].0, found[0].1.as_ref().expect("it is too long"));
            let cut = answered(Line::Cut { head, tail }).expect("a line");
            assert_eq!(cut, answered(Line::Whole(line.as_bytes())).expect("a line"), "{model}");
            assert_eq!(cut.expect("it took something").model, model);
        }
        let without = "x".repeat(HEAD + TAIL + 1);
        let (head, tail) = without.as_bytes().split_at(HEAD);
        assert!(answered(Line::Cut { head, tail }).is_err());
    }

    proptest! {
        #[test]
        fn any_split_has_the_same_lines(
            runs in proptest::collection::vec((prop_oneof![Just(b'\n'), Just(b' '), any::<u8>()], prop_oneof![1_usize..4, 1_usize..40_000]), 0..20),
            cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..8),
        ) {
            let bytes: Vec<u8> =
                runs.into_iter().flat_map(|(byte, count)| std::iter::repeat_n(byte, count)).collect();
            let mut at: Vec<_> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
            at.sort_unstable();
            at.push(bytes.len());
            let mut from = 0;
            let pieces: Vec<&[u8]> =
                at.into_iter().map(|to| &bytes[std::mem::replace(&mut from, to)..to]).collect();
            prop_assert_eq!(all(&pieces), expected(&bytes));
        }

        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = Batch::read(&bytes);
            let _ = answered(Line::Whole(&bytes));
            let _ = answered(Line::Cut { head: &bytes, tail: &bytes });
            let text = format!("\"model\":1,\"usage\" :{}", String::from_utf8_lossy(&bytes));
            let _ = answered(Line::Cut { head: text.as_bytes(), tail: text.as_bytes() });
        }
    }
}
