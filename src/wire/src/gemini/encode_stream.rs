//! Chunks as Google's events, each of which is a `GenerateContentResponse`.
//!
//! Text is copied as the raw JSON string it arrives in. Google sends calls whole, so they are put
//! together and go with the last event, as do the reason it ended and the usage. There is no
//! `[DONE]`: the reason is the end.

use serde_json::{Value, json};

use super::encode::{Head, UsageOut, call_part, finish_reason, inline_data, logprobs};
use crate::client::EncodeError;
use crate::openai::read::{Choice, Chunk, Event, Reader, ToolPiece, inside, not_a_chunk};
use crate::usage::Usage;

/// The most answers at once; Google's own limit is 8, OpenAI's 128.
const CANDIDATES_MAX: usize = 128;
/// What calls may hold together, in bytes.
const HELD_MAX: usize = 8 << 20;

/// A stream that is being written.
#[derive(Debug, Default)]
pub(super) struct Stream {
    reader: Reader,
    state: State,
}

#[derive(Debug, Default)]
struct State {
    candidates: Vec<Candidate>,
    held: usize,
    usage: Option<Usage>,
}

#[derive(Debug, Default)]
struct Candidate {
    index: u64,
    tools: Vec<Tool>,
    finish: Option<String>,
    /// What came last is a thought: a signature that follows is of it.
    thinks: bool,
}

#[derive(Debug)]
struct Tool {
    index: u64,
    id: String,
    name: String,
    arguments: String,
    signature: Option<String>,
}

impl Stream {
    pub(super) fn push(
        &mut self,
        head: &Head,
        events: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), EncodeError> {
        let state = &mut self.state;
        self.reader.push(events, |event| match event {
            Event::Chunk(chunk) => state.chunk(head, chunk, out),
            Event::End => {
                state.end(head, out);
                Ok(())
            }
        })
    }
}

impl State {
    fn chunk(
        &mut self,
        head: &Head,
        chunk: Chunk<'_>,
        out: &mut Vec<u8>,
    ) -> Result<(), EncodeError> {
        self.usage = chunk.usage().or(self.usage);
        for choice in chunk.choices.into_iter().flatten() {
            self.choice(head, choice, out)?;
        }
        Ok(())
    }

    fn candidate(&mut self, index: u64) -> Result<&mut Candidate, EncodeError> {
        let at = match self.candidates.iter().position(|candidate| candidate.index == index) {
            Some(at) => at,
            None if self.candidates.len() >= CANDIDATES_MAX => {
                return Err(EncodeError("too many answers at once".into()));
            }
            None => {
                self.candidates.push(Candidate { index, ..Candidate::default() });
                self.candidates.len() - 1
            }
        };
        Ok(&mut self.candidates[at])
    }

    fn choice(
        &mut self,
        head: &Head,
        choice: Choice<'_>,
        out: &mut Vec<u8>,
    ) -> Result<(), EncodeError> {
        let index = choice.index;
        let candidate = self.candidate(index)?;
        if let Some(finish) = choice.finish_reason {
            candidate.finish = Some(finish.into_owned());
        }
        let delta = choice.delta.unwrap_or_default();
        let mut thinks = candidate.thinks;
        let mut has_blocks = false;
        for block in delta.thinking_blocks.iter().flatten() {
            let (thought, signature) = (inside(block.thinking), inside(block.signature));
            has_blocks |= thought.is_some();
            thinks |= thought.is_some();
            if thinks {
                thought_part(head, index, thought, signature, out);
            } else if let Some(signature) = signature {
                // Of the text before it, as Google's own streams have it.
                let open = b"{\"text\":\"\",\"thoughtSignature\":\"";
                write(head, index, &[open, signature, b"\"}"], None, out);
            }
            // A signature ends its thought.
            thinks &= signature.is_none();
        }
        let reasoning = delta.reasoning();
        if !has_blocks && reasoning.is_some() {
            thought_part(head, index, reasoning, None, out);
        }
        let says = inside(delta.content).is_some() || delta.tool_calls.is_some();
        self.candidate(index)?.thinks = thinks && !says;
        let probabilities: Option<Value> =
            choice.logprobs.and_then(|raw| logprobs(&serde_json::from_str(raw.get()).ok()?));
        for text in [delta.content, delta.refusal] {
            if let Some(text) = inside(text) {
                let part: [&[u8]; 3] = [b"{\"text\":\"", text, b"\"}"];
                write(head, index, &part, probabilities.as_ref(), out);
            }
        }
        if let Some(raw) = delta.images {
            let images: Vec<Value> = serde_json::from_str(raw.get()).unwrap_or_default();
            for part in images.iter().filter_map(inline_data) {
                write(head, index, &[part.to_string().as_bytes()], None, out);
            }
        }
        for piece in delta.tool_calls.iter().flatten() {
            self.tool_piece(index, piece)?;
        }
        Ok(())
    }

    fn tool_piece(&mut self, index: u64, piece: &ToolPiece<'_>) -> Result<(), EncodeError> {
        let arguments: String = match piece.arguments() {
            Some(raw) => serde_json::from_str(raw.get()).map_err(not_a_chunk)?,
            None => String::new(),
        };
        self.held =
            self.held.saturating_add(piece.id().len() + piece.name().len() + arguments.len());
        if self.held > HELD_MAX {
            return Err(EncodeError("tool calls are too long".into()));
        }
        let tools = &mut self.candidate(index)?.tools;
        let extra: Option<Value> =
            piece.extra_content.and_then(|raw| serde_json::from_str(raw.get()).ok());
        let google = extra.as_ref().and_then(|extra| extra.get("google"));
        let signature =
            google.and_then(|google| google.get("thought_signature")?.as_str()).map(str::to_owned);
        match piece.place(tools, |tool| (tool.index, &tool.id))? {
            Some(at) => {
                tools[at].arguments.push_str(&arguments);
                tools[at].signature = signature.or(tools[at].signature.take());
            }
            None => {
                let (index, id, name) = (piece.own_index(), piece.id(), piece.name());
                let (id, name) = (id.to_owned(), name.to_owned());
                tools.push(Tool { index, id, name, arguments, signature });
            }
        }
        Ok(())
    }

    /// The last event: calls, reasons and usage.
    fn end(&mut self, head: &Head, out: &mut Vec<u8>) {
        if self.candidates.is_empty() {
            self.candidates.push(Candidate::default());
        }
        let candidate = |candidate: &Candidate| {
            let part = |(n, tool): (usize, &Tool)| {
                let signature = tool.signature.as_deref();
                call_part(head, n, &tool.id, &tool.name, &tool.arguments, signature)
            };
            let mut parts: Vec<Value> = candidate.tools.iter().enumerate().map(part).collect();
            if parts.is_empty() {
                parts.push(json!({"text": ""}));
            }
            json!({
                "content": {"parts": parts, "role": "model"},
                "finishReason": finish_reason(candidate.finish.as_deref().unwrap_or("stop")),
                "index": candidate.index,
            })
        };
        let candidates: Vec<Value> = self.candidates.iter().map(candidate).collect();
        let mut last = json!({"candidates": candidates});
        if let Some(usage) = self.usage {
            last["usageMetadata"] = json!(UsageOut::from(usage));
        }
        last["modelVersion"] = head.model.as_str().into();
        last["responseId"] = head.id.as_str().into();
        out.extend_from_slice(format!("data: {last}\r\n\r\n").as_bytes());
    }
}

/// Writes a piece of a thought, its signature, or both, if the client wants to see thoughts. A
/// signature without its thought is good for nothing.
fn thought_part(
    head: &Head,
    index: u64,
    text: Option<&[u8]>,
    signature: Option<&[u8]>,
    out: &mut Vec<u8>,
) {
    if !head.thoughts || (text.is_none() && signature.is_none()) {
        return;
    }
    let open = b"{\"text\":\"";
    let text = text.unwrap_or_default();
    match signature {
        None => write(head, index, &[open, text, b"\",\"thought\":true}"], None, out),
        Some(signature) => {
            let middle = b"\",\"thought\":true,\"thoughtSignature\":\"";
            write(head, index, &[open, text, middle, signature, b"\"}"], None, out);
        }
    }
}

/// Writes one event with one part, given in pieces.
fn write(head: &Head, index: u64, part: &[&[u8]], logprobs: Option<&Value>, out: &mut Vec<u8>) {
    out.extend_from_slice(b"data: {\"candidates\":[{\"content\":{\"parts\":[");
    part.iter().for_each(|piece| out.extend_from_slice(piece));
    out.extend_from_slice(b"],\"role\":\"model\"},\"index\":");
    out.extend_from_slice(index.to_string().as_bytes());
    if let Some(logprobs) = logprobs {
        out.extend_from_slice(format!(",\"logprobsResult\":{logprobs}").as_bytes());
    }
    out.extend_from_slice(b"}],\"modelVersion\":");
    out.extend_from_slice(Value::from(head.model.as_str()).to_string().as_bytes());
    out.extend_from_slice(b",\"responseId\":");
    out.extend_from_slice(Value::from(head.id.as_str()).to_string().as_bytes());
    out.extend_from_slice(b"}\r\n\r\n");
}
