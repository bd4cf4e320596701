//! A stream: Cohere's events as OpenAI's chunks.
//!
//! What the model writes is copied as the raw JSON string it arrives in, so that a text delta costs
//! one pass over the event and no allocation.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use tollway_wire::openai::usage::UsageObject;
use tollway_wire::sse::Parser;
use tollway_wire::surrogate::mend;
use tollway_wire::usage::Usage;

use crate::chunks::{Chunks, string};
use crate::{Asked, DecodeError, Decoder};

use super::response::{Logprob, annotations, logprobs};
use super::usage::{Counts, counted};
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
    chunks: Chunks,
    /// The index Cohere gave to each tool call, in the order in which they began, and whether it has
    /// had arguments.
    tools: Vec<(u64, bool)>,
    usage: Option<Usage>,
}

impl ChatDecoder {
    pub(super) fn new(asked: Asked) -> Self {
        let state = State { chunks: Chunks::new(asked), tools: Vec::new(), usage: None };
        ChatDecoder { parser: Parser::default(), state }
    }
}

impl Decoder for ChatDecoder {
    fn whole(&mut self, body: &[u8]) -> Result<Vec<u8>, DecodeError> {
        let (json, usage) = response::translate(body, &self.state.chunks.asked)?;
        self.state.usage = usage;
        Ok(json)
    }

    fn stream(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<(), DecodeError> {
        let state = &mut self.state;
        self.parser.push(bytes, |event| state.event(event.data, out))
    }

    fn finish(&mut self, _out: &mut Vec<u8>) -> Result<(), DecodeError> {
        if self.state.chunks.has_ended() {
            return Ok(());
        }
        Err(self.state.chunks.unfinished(self.parser.held(), error::inside))
    }

    fn usage(&self) -> Option<Usage> {
        counted(self.state.usage)
    }
}

/// Reads a member whose shape its event's kind tells; what is of another shape is nothing.
fn read<'a, T: Deserialize<'a> + Default>(raw: Option<&'a RawValue>) -> T {
    raw.and_then(|raw| serde_json::from_str(raw.get()).ok()).unwrap_or_default()
}

impl State {
    fn event(&mut self, data: &[u8], out: &mut Vec<u8>) -> Result<(), DecodeError> {
        // The event after the end, which OpenAI's dialect has and Cohere's sends too.
        if self.chunks.has_ended() || data == b"[DONE]" {
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
            "tool-plan-delta" => {
                let plan = string(message.tool_plan).into_iter();
                plan.for_each(|text| self.chunks.reasoning(text, out));
            }
            "tool-call-start" => self.tool_start(event.index, message.tool_calls, out)?,
            "tool-call-delta" => {
                let call: ToolCall<'_> = read(message.tool_calls);
                self.arguments(event.index, string(call.function.arguments), out);
            }
            "tool-call-end" => self.tool_end(event.index, out),
            "citation-start" => self.citation(message.citations, out),
            "message-start" => {
                let id = event.id.filter(|id| !id.is_empty()).unwrap_or("unknown".into());
                self.chunks.begin(|_| format!("chatcmpl-{id}"), out);
            }
            "message-end" => {
                self.usage = delta.usage.map(|counts| counts.total()).or(self.usage);
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

    fn content(
        &mut self,
        content: &Content<'_>,
        raw_logprobs: Option<&RawValue>,
        out: &mut Vec<u8>,
    ) {
        let chunks = &mut self.chunks;
        string(content.thinking).into_iter().for_each(|text| chunks.reasoning(text, out));
        let Some(text) = string(content.text) else { return };
        match raw_logprobs.map(|raw| serde_json::from_str::<Logprob>(raw.get())) {
            Some(Ok(piece)) => {
                let logprobs = logprobs(vec![piece]).to_string();
                chunks.scored(text, logprobs.as_bytes(), out);
            }
            _ => chunks.text(text, out),
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
        self.chunks.call(self.tools.len(), id, name, out);
        self.tools.push((index, false));
        self.arguments(index, string(call.function.arguments), out);
        Ok(())
    }

    fn arguments(&mut self, index: u64, arguments: Option<&[u8]>, out: &mut Vec<u8>) {
        let Some(arguments) = arguments else { return };
        // The last one of this index is the one that is being written.
        let Some(place) = self.tools.iter().rposition(|(of, _)| *of == index) else { return };
        self.tools[place].1 = true;
        self.chunks.arguments(place, arguments, out);
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
        self.chunks.delta(&[delta.to_string().as_bytes()], out);
    }

    fn stop(&mut self, reason: Option<&str>, out: &mut Vec<u8>) {
        let mut reason = finish_reason(reason);
        // OpenAI's clients look for calls by this word alone.
        if reason == "stop" && !self.tools.is_empty() {
            reason = "tool_calls";
        }
        self.chunks.finish(reason, out);
        self.chunks.end(self.usage.as_ref().map(UsageObject::from), "", out);
    }
}

/// What data that is no event is: an error, a kind of event nobody here knows, or nonsense.
fn not_an_event(data: &[u8], fault: &serde_json::Error) -> DecodeError {
    match error::inside(data) {
        Some(error) => DecodeError::Reported(error),
        None => DecodeError::Malformed(fault.to_string()),
    }
}
