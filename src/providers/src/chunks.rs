//! OpenAI's chunks, as the decoders of other providers' streams write them.
//!
//! Strings are handed in as the raw JSON they came in, quotes included, so that a delta costs one
//! pass and no allocation.

use std::io::Write as _;

use serde_json::Value;
use serde_json::value::RawValue;
use tollway_wire::openai::usage::UsageObject;
use tollway_wire::sse;

use crate::{Asked, DecodeError, UpstreamError};

/// Writes the chunks of one stream.
pub(crate) struct Chunks {
    pub(crate) asked: Asked,
    /// A chunk up to the delta of the choice at hand; empty until the stream has begun.
    head: Vec<u8>,
    /// How much of it stands before its choice.
    choices: usize,
    choice: u64,
    /// A chunk after its delta.
    tail: &'static [u8],
    ended: bool,
}

impl Chunks {
    pub(crate) fn new(asked: Asked) -> Chunks {
        // With usage asked for, every chunk says that it has none (OpenAI's
        // `ChatCompletionStreamOptions`, 2026-11).
        let tail: &[u8] = if asked.include_usage {
            b",\"finish_reason\":null}],\"usage\":null}\n\n"
        } else {
            b",\"finish_reason\":null}]}\n\n"
        };
        Chunks { asked, head: Vec::new(), choices: 0, choice: 0, tail, ended: false }
    }

    /// Whether anything has been written.
    pub(crate) fn has_begun(&self) -> bool {
        !self.head.is_empty()
    }

    /// Whether the end has been written.
    pub(crate) fn has_ended(&self) -> bool {
        self.ended
    }

    /// Gives the answer its id, unless it has one.
    pub(crate) fn identify(&mut self, id: impl FnOnce(&Asked) -> String) {
        if self.has_begun() {
            return;
        }
        self.head = format!(
            "data: {{\"id\":{},\"object\":\"chat.completion.chunk\",\"created\":{},\"model\":{},\"choices\":[",
            Value::from(id(&self.asked)),
            self.asked.created,
            Value::from(self.asked.model.as_str()),
        )
        .into_bytes();
        self.choices = self.head.len();
        self.head.extend_from_slice(b"{\"index\":0,\"delta\":");
    }

    /// Begins the only choice, unless it has begun.
    pub(crate) fn begin(&mut self, id: impl FnOnce(&Asked) -> String, out: &mut Vec<u8>) {
        if !self.has_begun() {
            self.identify(id);
            self.role(out);
        }
    }

    /// What is written next is of this choice.
    pub(crate) fn of_choice(&mut self, index: u64) -> &mut Chunks {
        if index != self.choice {
            self.choice = index;
            self.head.truncate(self.choices);
            // A vector takes whatever is written.
            let _ = write!(self.head, "{{\"index\":{index},\"delta\":");
        }
        self
    }

    /// The first chunk of a choice.
    pub(crate) fn role(&mut self, out: &mut Vec<u8>) {
        self.delta(&[b"{\"role\":\"assistant\",\"content\":\"\"}"], out);
    }

    /// A chunk whose delta, and what follows it in the choice, is the parts put together.
    pub(crate) fn delta(&mut self, parts: &[&[u8]], out: &mut Vec<u8>) {
        self.begin(|_| "chatcmpl-unknown".into(), out);
        let length: usize = parts.iter().map(|part| part.len()).sum();
        out.reserve(self.head.len() + length + self.tail.len());
        out.extend_from_slice(&self.head);
        parts.iter().for_each(|part| out.extend_from_slice(part));
        out.extend_from_slice(self.tail);
    }

    pub(crate) fn text(&mut self, text: &[u8], out: &mut Vec<u8>) {
        self.delta(&[b"{\"content\":", text, b"}"], out);
    }

    /// Text with its log probabilities, as JSON.
    pub(crate) fn scored(&mut self, text: &[u8], logprobs: &[u8], out: &mut Vec<u8>) {
        self.begin(|_| "chatcmpl-unknown".into(), out);
        let (reason, tail) = self.tail.split_at(b",\"finish_reason\":null".len());
        let open = b"{\"content\":".as_slice();
        for part in [&self.head, open, text, b"}", reason, b",\"logprobs\":", logprobs, tail] {
            out.extend_from_slice(part);
        }
    }

    /// Thinking that is not handed back.
    pub(crate) fn reasoning(&mut self, text: &[u8], out: &mut Vec<u8>) {
        self.delta(&[b"{\"reasoning_content\":", text, b"}"], out);
    }

    /// Thinking goes out twice, as LiteLLM has it: as text to show, and as the block to hand back.
    pub(crate) fn thinking(&mut self, text: &[u8], out: &mut Vec<u8>) {
        self.delta(
            &[
                b"{\"reasoning_content\":",
                text,
                b",\"thinking_blocks\":[{\"type\":\"thinking\",\"thinking\":",
                text,
                b",\"signature\":\"\"}]}",
            ],
            out,
        );
    }

    /// The signature of the thinking before it, or of text.
    pub(crate) fn signature(&mut self, signature: &[u8], out: &mut Vec<u8>) {
        let open = b"{\"thinking_blocks\":[{\"type\":\"thinking\",\"thinking\":\"\",\"signature\":";
        self.delta(&[open, signature, b"}]}"], out);
    }

    /// Thinking that only the provider can read.
    pub(crate) fn redacted(&mut self, data: &[u8], out: &mut Vec<u8>) {
        let open = b"{\"thinking_blocks\":[{\"type\":\"redacted_thinking\",\"data\":";
        self.delta(&[open, data, b"}]}"], out);
    }

    /// A citation in the provider's own form, as JSON.
    pub(crate) fn citation(&mut self, citation: &[u8], out: &mut Vec<u8>) {
        self.delta(&[b"{\"provider_specific_fields\":{\"citation\":", citation, b"}}"], out);
    }

    /// A tool call begins.
    pub(crate) fn call(&mut self, index: usize, id: &[u8], name: &[u8], out: &mut Vec<u8>) {
        self.delta(
            &[
                b"{\"tool_calls\":[{\"index\":",
                index.to_string().as_bytes(),
                b",\"id\":",
                id,
                b",\"type\":\"function\",\"function\":{\"name\":",
                name,
                b",\"arguments\":\"\"}}]}",
            ],
            out,
        );
    }

    /// More of a call's arguments.
    pub(crate) fn arguments(&mut self, index: usize, arguments: &[u8], out: &mut Vec<u8>) {
        let (open, index) = (b"{\"tool_calls\":[{\"index\":", index.to_string());
        let function = b",\"function\":{\"arguments\":";
        self.delta(&[open, index.as_bytes(), function, arguments, b"}}]}"], out);
    }

    /// A choice is complete.
    pub(crate) fn finish(&mut self, reason: &str, out: &mut Vec<u8>) {
        self.begin(|_| "chatcmpl-unknown".into(), out);
        let null: &[u8] = if self.asked.include_usage { b",\"usage\":null}\n\n" } else { b"}\n\n" };
        let open = b"{},\"finish_reason\":\"".as_slice();
        for part in [&self.head, open, reason.as_bytes(), b"\"}]", null] {
            out.extend_from_slice(part);
        }
    }

    /// Writes the usage, if it was asked for and told, and the end. The members `more`, which begin
    /// with a comma, stand beside the usage.
    pub(crate) fn end(&mut self, usage: Option<UsageObject>, more: &str, out: &mut Vec<u8>) {
        if self.asked.include_usage
            && let Some(usage) = usage
            && let Ok(usage) = serde_json::to_vec(&usage)
        {
            let head = &self.head[..self.choices];
            for part in [head, b"],\"usage\":", &usage, more.as_bytes(), b"}\n\n"] {
                out.extend_from_slice(part);
            }
        }
        sse::write_done(out);
        self.ended = true;
    }

    /// Why a stream that was closed before its end is none. A proxy before the provider may answer
    /// JSON or a page although a stream was asked for: `read` finds the error in what is `held`.
    pub(crate) fn unfinished(
        &self,
        held: &[u8],
        read: impl FnOnce(&[u8]) -> Option<UpstreamError>,
    ) -> DecodeError {
        let held = held.trim_ascii();
        if self.has_begun() || held.is_empty() || sse::is_event_block(held) {
            return DecodeError::Truncated;
        }
        match read(held) {
            Some(error) => DecodeError::Reported(error),
            None => DecodeError::Malformed("not an event stream".into()),
        }
    }
}

/// A raw JSON string that is not empty, quotes included.
pub(crate) fn string(raw: Option<&RawValue>) -> Option<&[u8]> {
    raw.map(|raw| raw.get().as_bytes()).filter(|raw| raw.len() > 2 && raw[0] == b'"')
}
