//! Chunks as Anthropic's events.
//!
//! What the model writes is copied as the raw JSON string it arrives in. Anthropic has one content
//! block open at a time, while OpenAI's tool calls may come in turns: what belongs to a later block
//! waits until the earlier one is complete.

use std::collections::VecDeque;

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::encode::{Head, UsageOut, citation};
use crate::client::EncodeError;
use crate::openai::read::{Chunk, Delta, Event, Reader, ToolPiece, inside, not_a_chunk};
use crate::usage::Usage;

/// What may wait for an earlier call to be complete, in bytes.
const WAITING_MAX: usize = 8 << 20;
/// And in pieces that are not of the same kind.
const WAITING_COUNT_MAX: usize = 4096;

/// A stream that is being written.
#[derive(Debug, Default)]
pub(super) struct Stream {
    reader: Reader,
    state: State,
}

#[derive(Debug, Default)]
struct State {
    started: bool,
    pinged: bool,
    /// The index of the next block.
    next: u64,
    open: Open,
    /// A delta of the open block up to what is new.
    delta: Vec<u8>,
    tools: Vec<Tool>,
    waiting: VecDeque<(Kind, Vec<u8>)>,
    waiting_bytes: usize,
    refused: bool,
    finish: Option<String>,
    stopped_at: Option<String>,
    usage: Option<Usage>,
}

/// The block that is open.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
enum Open {
    #[default]
    None,
    Text,
    Thinking,
    Tool(usize),
}

/// What a piece is, which comes as the inside of a JSON string.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Text,
    Thinking,
    Signature,
    Redacted,
    /// A whole JSON object and not the inside of a string.
    Citation,
    Tool(usize),
}

#[derive(Debug)]
struct Tool {
    /// OpenAI's index. Providers that give several calls the same one tell them apart by id.
    index: u64,
    given_id: String,
    id: String,
    name: String,
    is_closed: bool,
    json: Progress,
}

/// How far a call's arguments are: whether the object they begin has ended.
#[derive(Debug, Default)]
struct Progress {
    depth: u32,
    in_string: bool,
    escaped: bool,
    is_done: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Fields<'a> {
    #[serde(borrow)]
    citation: Option<&'a RawValue>,
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
        self.start(head, out);
        // The others were asked for by nobody: Anthropic has one answer.
        for choice in chunk.choices.into_iter().flatten().filter(|choice| choice.index == 0) {
            if let Some(delta) = choice.delta {
                self.delta(head, delta, out)?;
            }
            if let Some(finish) = choice.finish_reason {
                self.finish = Some(finish.into_owned());
                self.stopped_at =
                    choice.stop_reason.and_then(|raw| serde_json::from_str(raw.get()).ok());
            }
        }
        Ok(())
    }

    fn delta(
        &mut self,
        head: &Head,
        delta: Delta<'_>,
        out: &mut Vec<u8>,
    ) -> Result<(), EncodeError> {
        let fields: Option<Fields<'_>> = match delta.provider_specific_fields {
            Some(raw) => Some(serde_json::from_str(raw.get()).map_err(not_a_chunk)?),
            None => None,
        };
        // The blocks are the same text as `reasoning_content`, with the signature.
        match delta.thinking_blocks.as_deref().filter(|blocks| !blocks.is_empty()) {
            Some(blocks) => {
                for block in blocks {
                    self.string(Kind::Thinking, block.thinking, out)?;
                    self.string(Kind::Signature, block.signature, out)?;
                    self.string(Kind::Redacted, block.data, out)?;
                }
            }
            None => {
                if let Some(reasoning) = delta.reasoning() {
                    self.piece(Kind::Thinking, reasoning, out)?;
                }
            }
        }
        self.string(Kind::Text, delta.content, out)?;
        if let Some(refusal) = inside(delta.refusal) {
            self.refused = true;
            self.piece(Kind::Text, refusal, out)?;
        }
        match fields.and_then(|fields| fields.citation) {
            Some(own) if own.get().starts_with('{') => {
                // Written anew, because raw JSON may hold line ends, which end an event's line.
                let own: Value = serde_json::from_str(own.get()).unwrap_or_default();
                self.piece(Kind::Citation, own.to_string().as_bytes(), out)?;
            }
            _ => {
                if let Some(raw) = delta.annotations {
                    let annotations: Vec<Value> =
                        serde_json::from_str(raw.get()).unwrap_or_default();
                    for citation in annotations.iter().filter_map(|one| citation(one, None)) {
                        self.piece(Kind::Citation, citation.to_string().as_bytes(), out)?;
                    }
                }
            }
        }
        for piece in delta.tool_calls.into_iter().flatten() {
            self.tool_piece(head, piece, out)?;
        }
        Ok(())
    }

    fn string(
        &mut self,
        kind: Kind,
        raw: Option<&RawValue>,
        out: &mut Vec<u8>,
    ) -> Result<(), EncodeError> {
        match inside(raw) {
            Some(raw) => self.piece(kind, raw, out),
            None => Ok(()),
        }
    }

    fn tool_piece(
        &mut self,
        head: &Head,
        piece: ToolPiece<'_>,
        out: &mut Vec<u8>,
    ) -> Result<(), EncodeError> {
        let known = piece.place(&self.tools, |tool| (tool.index, &tool.given_id))?;
        let at = match known {
            Some(at) => at,
            None => {
                let at = self.tools.len();
                let extra: Option<Value> =
                    piece.extra_content.and_then(|raw| serde_json::from_str(raw.get()).ok());
                self.tools.push(Tool {
                    index: piece.own_index(),
                    id: head.call_id(piece.id(), at, extra.as_ref()),
                    given_id: piece.id().to_owned(),
                    name: head.names.restore(piece.name()).to_owned(),
                    is_closed: false,
                    json: Progress::default(),
                });
                self.piece(Kind::Tool(at), b"", out)?;
                at
            }
        };
        match inside(piece.arguments()) {
            None => Ok(()),
            // Nothing but space may follow what is complete.
            Some(raw) if self.tools[at].is_closed => match raw.trim_ascii().is_empty() {
                true => Ok(()),
                false => Err(EncodeError("more arguments of a tool call that is complete".into())),
            },
            Some(raw) => self.piece(Kind::Tool(at), raw, out),
        }
    }

    /// Writes a piece, or keeps it until the open call is complete.
    fn piece(&mut self, kind: Kind, raw: &[u8], out: &mut Vec<u8>) -> Result<(), EncodeError> {
        let goes_on = matches!((kind, self.open), (Kind::Tool(at), Open::Tool(open)) if at == open);
        if goes_on || self.waiting.is_empty() && self.may_close() {
            self.write(kind, raw, out);
            if goes_on && !self.waiting.is_empty() {
                self.drain(false, out);
            }
            return Ok(());
        }
        self.waiting_bytes += raw.len();
        if self.waiting_bytes > WAITING_MAX || self.waiting.len() >= WAITING_COUNT_MAX {
            return Err(EncodeError("too much waits for a tool call to be complete".into()));
        }
        // What belongs to the same block is put together; calls that wait, wherever they are.
        let same = match kind {
            Kind::Tool(_) => self.waiting.iter_mut().find(|(waits, _)| *waits == kind),
            Kind::Text | Kind::Thinking => {
                self.waiting.back_mut().filter(|(waits, _)| *waits == kind)
            }
            Kind::Signature | Kind::Redacted | Kind::Citation => None,
        };
        match same {
            Some((_, waiting)) => waiting.extend_from_slice(raw),
            None => self.waiting.push_back((kind, raw.to_vec())),
        }
        Ok(())
    }

    /// Whether the open block may be closed: a call whose arguments are not complete may not.
    fn may_close(&self) -> bool {
        match self.open {
            Open::Tool(at) => self.tools[at].json.is_done,
            _ => true,
        }
    }

    /// Writes what waits, as far as it can be written; with `all` to its end.
    fn drain(&mut self, all: bool, out: &mut Vec<u8>) {
        while all || self.may_close() {
            let Some((kind, raw)) = self.waiting.pop_front() else { return };
            self.waiting_bytes = self.waiting_bytes.saturating_sub(raw.len());
            self.write(kind, &raw, out);
        }
    }

    fn write(&mut self, kind: Kind, raw: &[u8], out: &mut Vec<u8>) {
        match kind {
            Kind::Text => {
                self.open_text(out);
                self.write_delta(raw, out);
            }
            Kind::Thinking => {
                self.open_thinking(out);
                self.write_delta(raw, out);
            }
            Kind::Signature => {
                self.open_thinking(out);
                let index = (self.next - 1).to_string();
                let open = b"\"delta\":{\"type\":\"signature_delta\",\"signature\":\"";
                event(
                    out,
                    b"content_block_delta",
                    &[b"\"index\":", index.as_bytes(), b",", open, raw, b"\"}"],
                );
                // A signature ends its block: more thinking is another one.
                self.close(out);
            }
            Kind::Redacted => {
                self.close(out);
                self.start_block(
                    Open::None,
                    out,
                    &[b"{\"type\":\"redacted_thinking\",\"data\":\"", raw, b"\"}"],
                );
                self.stop_block(out);
            }
            Kind::Citation => {
                self.open_text(out);
                let index = (self.next - 1).to_string();
                let open = b"\"delta\":{\"type\":\"citations_delta\",\"citation\":";
                event(
                    out,
                    b"content_block_delta",
                    &[b"\"index\":", index.as_bytes(), b",", open, raw, b"}"],
                );
            }
            Kind::Tool(at) => {
                if self.open != Open::Tool(at) {
                    self.close(out);
                    let tool = &self.tools[at];
                    let id = Value::from(tool.id.as_str()).to_string();
                    let name = Value::from(tool.name.as_str()).to_string();
                    self.start_block(
                        Open::Tool(at),
                        out,
                        &[
                            b"{\"type\":\"tool_use\",\"id\":",
                            id.as_bytes(),
                            b",\"name\":",
                            name.as_bytes(),
                            b",\"input\":{}}",
                        ],
                    );
                }
                if !raw.is_empty() {
                    self.tools[at].json.feed(raw);
                    self.write_delta(raw, out);
                }
            }
        }
    }

    fn open_text(&mut self, out: &mut Vec<u8>) {
        if self.open != Open::Text {
            self.close(out);
            self.start_block(Open::Text, out, &[b"{\"type\":\"text\",\"text\":\"\"}"]);
        }
    }

    fn open_thinking(&mut self, out: &mut Vec<u8>) {
        if self.open != Open::Thinking {
            self.close(out);
            let block = b"{\"type\":\"thinking\",\"thinking\":\"\",\"signature\":\"\"}";
            self.start_block(Open::Thinking, out, &[block]);
        }
    }

    fn write_delta(&self, raw: &[u8], out: &mut Vec<u8>) {
        out.reserve(self.delta.len() + raw.len() + 8);
        out.extend_from_slice(&self.delta);
        out.extend_from_slice(raw);
        out.extend_from_slice(b"\"}}\n\n");
    }

    fn start_block(&mut self, open: Open, out: &mut Vec<u8>, block: &[&[u8]]) {
        let index = self.next.to_string();
        self.next += 1;
        self.open = open;
        let head: [&[u8]; 3] = [b"\"index\":", index.as_bytes(), b",\"content_block\":"];
        event(out, b"content_block_start", &[&head, block].concat());
        let member: &[u8] = match open {
            Open::None => b"",
            Open::Text => b"text_delta\",\"text\":\"",
            Open::Thinking => b"thinking_delta\",\"thinking\":\"",
            Open::Tool(_) => b"input_json_delta\",\"partial_json\":\"",
        };
        self.delta = [
            b"event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":",
            index.as_bytes(),
            b",\"delta\":{\"type\":\"",
            member,
        ]
        .concat();
        // Where Anthropic has it: behind the first block's start.
        if !self.pinged {
            self.pinged = true;
            out.extend_from_slice(b"event: ping\ndata: {\"type\":\"ping\"}\n\n");
        }
    }

    fn stop_block(&mut self, out: &mut Vec<u8>) {
        let index = (self.next - 1).to_string();
        event(out, b"content_block_stop", &[b"\"index\":", index.as_bytes()]);
    }

    fn close(&mut self, out: &mut Vec<u8>) {
        if let Open::Tool(at) = self.open {
            self.tools[at].is_closed = true;
        }
        if self.open != Open::None {
            self.open = Open::None;
            self.stop_block(out);
        }
    }

    fn start(&mut self, head: &Head, out: &mut Vec<u8>) {
        if self.started {
            return;
        }
        self.started = true;
        let quoted = |text: &str| Value::from(text).to_string();
        let (id, model) = (quoted(&format!("msg_{}", head.id)), quoted(&head.model));
        let usage = usage_json(self.usage);
        event(
            out,
            b"message_start",
            &[
                b"\"message\":{\"id\":",
                id.as_bytes(),
                b",\"type\":\"message\",\"role\":\"assistant\",\"model\":",
                model.as_bytes(),
                b",\"content\":[],\"stop_reason\":null,\"stop_sequence\":null,\"usage\":",
                &usage,
                b"}",
            ],
        );
    }

    /// The end that the provider has announced.
    fn end(&mut self, head: &Head, out: &mut Vec<u8>) {
        self.start(head, out);
        self.drain(true, out);
        self.close(out);
        let has_tools = !self.tools.is_empty();
        let (reason, sequence) = head.stop_reason(
            self.finish.as_deref(),
            has_tools,
            self.refused,
            self.stopped_at.as_deref(),
        );
        let sequence = Value::from(sequence).to_string();
        event(
            out,
            b"message_delta",
            &[
                b"\"delta\":{\"stop_reason\":\"",
                reason.as_bytes(),
                b"\",\"stop_sequence\":",
                sequence.as_bytes(),
                b"},\"usage\":",
                &usage_json(self.usage),
            ],
        );
        out.extend_from_slice(b"event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n");
    }
}

fn usage_json(usage: Option<Usage>) -> Vec<u8> {
    let usage = UsageOut::from(usage.unwrap_or_default());
    serde_json::to_vec(&usage).expect("numbers can always be written as JSON")
}

/// Appends one event whose members behind `type` are the parts put together.
fn event(out: &mut Vec<u8>, kind: &[u8], members: &[&[u8]]) {
    out.extend_from_slice(b"event: ");
    out.extend_from_slice(kind);
    out.extend_from_slice(b"\ndata: {\"type\":\"");
    out.extend_from_slice(kind);
    out.extend_from_slice(b"\",");
    members.iter().for_each(|part| out.extend_from_slice(part));
    out.extend_from_slice(b"}\n\n");
}

impl Progress {
    /// Takes more of the arguments, as they stand inside a JSON string.
    fn feed(&mut self, raw: &[u8]) {
        let mut at = 0;
        while at < raw.len() {
            let mut byte = raw[at];
            at += 1;
            if byte == b'\\' {
                let Some(escape) = raw.get(at) else { return };
                at += 1;
                byte = match escape {
                    b'"' | b'\\' | b'/' => *escape,
                    b'u' => {
                        let code = raw.get(at..at + 4).and_then(|hex| {
                            u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok()
                        });
                        at += 4;
                        code.unwrap_or(b'x')
                    }
                    _ => b' ',
                };
            }
            self.byte(byte);
        }
    }

    fn byte(&mut self, byte: u8) {
        if self.in_string {
            match byte {
                _ if self.escaped => self.escaped = false,
                b'\\' => self.escaped = true,
                b'"' => self.in_string = false,
                _ => {}
            }
            return;
        }
        match byte {
            b'"' => self.in_string = true,
            b'{' | b'[' => self.depth = self.depth.saturating_add(1),
            b'}' | b']' => {
                self.depth = self.depth.saturating_sub(1);
                self.is_done = self.depth == 0;
            }
            _ => {}
        }
    }
}
