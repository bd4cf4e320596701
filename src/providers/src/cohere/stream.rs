//! A stream: Cohere's events as OpenAI's chunks.
//!
//! What the model writes is copied as the raw JSON string it arrives in, so that a text delta costs
//! one pass over the event and no allocation.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use tollway_wire::openai::usage::UsageObject;
use tollway_wire::sse::{self, Parser};
use tollway_wire::surrogate::mend;
use tollway_wire::usage::Usage;

use crate::{Asked, DecodeError, Decoder};

use super::response::{Logprob, annotations, logprobs};
use super::usage::Counts;
use super::{error, finish_reason, response};

/// More tool calls than this in one answer are no honest stream.
const TOOLS_MAX: usize = 256;

/// One event. What its members hold depends on its kind, so they stay raw until that is known.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Event<'a> {
    #[serde(rename = "type", borrow)]
    kind: Cow<'a, str>,
    #[serde(borrow)]
    id: Option<Cow<'a, str>>,
    index: u64,
    #[serde(borrow)]
    delta: Option<Delta<'a>>,
    #[serde(borrow)]
    logprobs: Option<&'a RawValue>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Delta<'a> {
    #[serde(borrow)]
    message: Option<Message<'a>>,
    finish_reason: Option<String>,
    error: Option<String>,
    usage: Option<Counts>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Message<'a> {
    #[serde(borrow)]
    content: Option<&'a RawValue>,
    #[serde(borrow)]
    tool_plan: Option<&'a RawValue>,
    #[serde(borrow)]
    tool_calls: Option<&'a RawValue>,
    #[serde(borrow)]
    citations: Option<&'a RawValue>,
}

/// New content: text or thinking.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Content<'a> {
    #[serde(borrow)]
    text: Option<&'a RawValue>,
    #[serde(borrow)]
    thinking: Option<&'a RawValue>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ToolCall<'a> {
    #[serde(borrow)]
    id: Option<&'a RawValue>,
    #[serde(borrow)]
    function: Function<'a>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Function<'a> {
    #[serde(borrow)]
    name: Option<&'a RawValue>,
    #[serde(borrow)]
    arguments: Option<&'a RawValue>,
}

/// Decodes one chat answer of Cohere's.
pub(super) struct ChatDecoder {
    parser: Parser,
    state: State,
}

struct State {
    asked: Asked,
    /// A chunk up to its delta; empty until the message has started.
    head: Vec<u8>,
    /// What a chunk ends with after its choice.
    tail: &'static [u8],
    /// The index Cohere gave to each tool call, in the order in which they began, and whether it has
    /// had arguments.
    tools: Vec<(u64, bool)>,
    usage: Option<Usage>,
    stopped: bool,
}

impl ChatDecoder {
    pub(super) fn new(asked: Asked) -> Self {
        // With usage asked for, every chunk says that it has none (OpenAI's
        // `ChatCompletionStreamOptions`, 2026-11).
        let tail: &[u8] = if asked.include_usage { b"}],\"usage\":null}\n\n" } else { b"}]}\n\n" };
        let state =
            State { asked, head: Vec::new(), tail, tools: Vec::new(), usage: None, stopped: false };
        ChatDecoder { parser: Parser::default(), state }
    }
}

impl Decoder for ChatDecoder {
    fn whole(&mut self, body: &[u8]) -> Result<Vec<u8>, DecodeError> {
        let (json, usage) = response::translate(body, &self.state.asked)?;
        self.state.usage = usage;
        Ok(json)
    }

    fn stream(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<(), DecodeError> {
        let state = &mut self.state;
        self.parser.push(bytes, |event| state.event(event.data, out))
    }

    fn finish(&mut self, _out: &mut Vec<u8>) -> Result<(), DecodeError> {
        if self.state.stopped {
            return Ok(());
        }
        // A proxy before Cohere may answer JSON or a page although a stream was asked for.
        let held = self.parser.held().trim_ascii();
        if self.state.head.is_empty() && !held.is_empty() && !sse::is_event_block(held) {
            return Err(match error::inside(held) {
                Some(error) => DecodeError::Reported(error),
                None => DecodeError::Malformed("not an event stream".into()),
            });
        }
        Err(DecodeError::Truncated)
    }

    fn usage(&self) -> Option<Usage> {
        self.state.usage
    }
}

/// Reads a member whose shape its event's kind tells; what is of another shape is nothing.
fn read<'a, T: Deserialize<'a> + Default>(raw: Option<&'a RawValue>) -> T {
    raw.and_then(|raw| serde_json::from_str(raw.get()).ok()).unwrap_or_default()
}

/// A raw JSON string that is not empty, quotes included.
fn string(raw: Option<&RawValue>) -> Option<&[u8]> {
    raw.map(|raw| raw.get().as_bytes()).filter(|raw| raw.len() > 2 && raw[0] == b'"')
}

impl State {
    fn event(&mut self, data: &[u8], out: &mut Vec<u8>) -> Result<(), DecodeError> {
        // The event after the end, which OpenAI's dialect has and Cohere's sends too.
        if self.stopped || data == b"[DONE]" {
            return Ok(());
        }
        let data = &*mend(data);
        let event: Event<'_> = match serde_json::from_slice(data) {
            Ok(event) => event,
            Err(fault) => return Err(not_an_event(data, &fault)),
        };
        let delta = event.delta.unwrap_or_default();
        let message = delta.message.unwrap_or_default();
        match event.kind.as_ref() {
            "content-delta" | "content-start" => {
                self.content(&read::<Content<'_>>(message.content), event.logprobs, out);
            }
            "tool-plan-delta" => self.reasoning(string(message.tool_plan), out),
            "tool-call-start" => self.tool_start(event.index, message.tool_calls, out)?,
            "tool-call-delta" => {
                let call: ToolCall<'_> = read(message.tool_calls);
                self.arguments(event.index, string(call.function.arguments), out);
            }
            "tool-call-end" => self.tool_end(event.index, out),
            "citation-start" => self.citation(message.citations, out),
            "message-start" => self.start(&event.id.unwrap_or_default(), out),
            "message-end" => {
                self.usage = delta.usage.and_then(|counts| counts.total()).or(self.usage);
                let reason = delta.finish_reason.as_deref();
                if let Some(error) = error::of_finish(reason, delta.error.as_deref()) {
                    return Err(DecodeError::Reported(error));
                }
                self.stop(reason, out);
            }
            // The ends of what has begun say nothing new, and `debug` nothing at all.
            "content-end" | "citation-end" | "debug" => {}
            // What comes outside of any event of the reference may be an error.
            _ => {
                if let Some(error) = error::inside(data) {
                    return Err(DecodeError::Reported(error));
                }
            }
        }
        Ok(())
    }

    /// Writes the first chunk, and what all chunks begin with.
    fn start(&mut self, id: &str, out: &mut Vec<u8>) {
        if !self.head.is_empty() {
            return;
        }
        let id = if id.is_empty() { "unknown" } else { id };
        self.head = format!(
            "data: {{\"id\":{},\"object\":\"chat.completion.chunk\",\"created\":{},\"model\":{},\"choices\":[{{\"index\":0,\"delta\":",
            Value::from(format!("chatcmpl-{id}")),
            self.asked.created,
            Value::from(self.asked.model.as_str()),
        )
        .into_bytes();
        self.chunk(out, &[b"{\"role\":\"assistant\",\"content\":\"\"},\"finish_reason\":null"]);
    }

    /// Writes a chunk whose choice is the parts put together.
    fn chunk(&mut self, out: &mut Vec<u8>, choice: &[&[u8]]) {
        if self.head.is_empty() {
            self.start("", out);
        }
        let parts: usize = choice.iter().map(|part| part.len()).sum();
        out.reserve(self.head.len() + self.tail.len() + parts);
        out.extend_from_slice(&self.head);
        choice.iter().for_each(|part| out.extend_from_slice(part));
        out.extend_from_slice(self.tail);
    }

    fn content(
        &mut self,
        content: &Content<'_>,
        raw_logprobs: Option<&RawValue>,
        out: &mut Vec<u8>,
    ) {
        self.reasoning(string(content.thinking), out);
        let Some(text) = string(content.text) else { return };
        match raw_logprobs.map(|raw| serde_json::from_str::<Logprob>(raw.get())) {
            Some(Ok(piece)) => {
                let logprobs = logprobs(vec![piece]).to_string();
                let middle = b"},\"finish_reason\":null,\"logprobs\":";
                self.chunk(out, &[b"{\"content\":", text, middle, logprobs.as_bytes()]);
            }
            _ => self.chunk(out, &[b"{\"content\":", text, b"},\"finish_reason\":null"]),
        }
    }

    fn reasoning(&mut self, thinking: Option<&[u8]>, out: &mut Vec<u8>) {
        if let Some(thinking) = thinking {
            let open = b"{\"reasoning_content\":";
            self.chunk(out, &[open, thinking, b"},\"finish_reason\":null"]);
        }
    }

    fn tool_start(
        &mut self,
        index: u64,
        call: Option<&RawValue>,
        out: &mut Vec<u8>,
    ) -> Result<(), DecodeError> {
        let call: ToolCall<'_> = read(call);
        let (Some(id), Some(name)) = (string(call.id), string(call.function.name)) else {
            return Err(DecodeError::Malformed("a tool call has no id or no name".into()));
        };
        if self.tools.len() >= TOOLS_MAX {
            return Err(DecodeError::Malformed("too many tool calls".into()));
        }
        let place = self.tools.len().to_string();
        self.tools.push((index, false));
        self.chunk(
            out,
            &[
                b"{\"tool_calls\":[{\"index\":",
                place.as_bytes(),
                b",\"id\":",
                id,
                b",\"type\":\"function\",\"function\":{\"name\":",
                name,
                b",\"arguments\":\"\"}}]},\"finish_reason\":null",
            ],
        );
        self.arguments(index, string(call.function.arguments), out);
        Ok(())
    }

    fn arguments(&mut self, index: u64, arguments: Option<&[u8]>, out: &mut Vec<u8>) {
        let Some(arguments) = arguments else { return };
        // The last one of this index is the one that is being written.
        let Some(place) = self.tools.iter().rposition(|(of, _)| *of == index) else { return };
        self.tools[place].1 = true;
        let place = place.to_string();
        self.chunk(
            out,
            &[
                b"{\"tool_calls\":[{\"index\":",
                place.as_bytes(),
                b",\"function\":{\"arguments\":",
                arguments,
                b"}}]},\"finish_reason\":null",
            ],
        );
    }

    /// A tool without parameters may get no arguments at all, but OpenAI's clients parse what they
    /// get.
    fn tool_end(&mut self, index: u64, out: &mut Vec<u8>) {
        let call = self.tools.iter().rfind(|(of, _)| *of == index);
        if call.is_some_and(|(_, has_arguments)| !has_arguments) {
            self.arguments(index, Some(b"\"{}\""), out);
        }
    }

    fn citation(&mut self, citation: Option<&RawValue>, out: &mut Vec<u8>) {
        let Some(raw) = citation.filter(|raw| raw.get().starts_with('{')) else { return };
        let mut delta = json!({"provider_specific_fields": {"citation": raw}});
        let annotations = annotations(&read::<Value>(Some(raw)));
        if !annotations.is_empty() {
            delta["annotations"] = annotations.into();
        }
        self.chunk(out, &[delta.to_string().as_bytes(), b",\"finish_reason\":null"]);
    }

    fn stop(&mut self, reason: Option<&str>, out: &mut Vec<u8>) {
        let mut reason = finish_reason(reason);
        // OpenAI's clients look for calls by this word alone.
        if reason == "stop" && !self.tools.is_empty() {
            reason = "tool_calls";
        }
        self.chunk(out, &[b"{},\"finish_reason\":\"", reason.as_bytes(), b"\""]);
        if self.asked.include_usage
            && let Some(usage) = &self.usage
            && let Ok(usage) = serde_json::to_vec(&UsageObject::from(usage))
        {
            // The head without the choice it opens.
            let head = self.head.len() - b"{\"index\":0,\"delta\":".len();
            for part in [&self.head[..head], b"],\"usage\":", &usage, b"}\n\n"] {
                out.extend_from_slice(part);
            }
        }
        sse::write_done(out);
        self.stopped = true;
    }
}

/// What data that is no event is: an error, a kind of event nobody here knows, or nonsense.
fn not_an_event(data: &[u8], fault: &serde_json::Error) -> DecodeError {
    match error::inside(data) {
        Some(error) => DecodeError::Reported(error),
        None => DecodeError::Malformed(fault.to_string()),
    }
}
