//! A stream: Anthropic's events as OpenAI's chunks.
//!
//! What the model writes is copied as the raw JSON string it arrives in, so that a text delta
//! costs one pass over the event and no allocation.

use serde_json::value::RawValue;
use tollway_wire::anthropic::{BlockStart, Delta, ErrorBody, StreamEvent, UsageCounts};
use tollway_wire::sse::{self, Parser, TooLong};
use tollway_wire::surrogate::mend;
use tollway_wire::usage::Usage;

use crate::{Asked, DecodeError, Decoder};

use super::error::read_event;
use super::{JSON_TOOL, finish_reason, response};

/// More content blocks than this open at once are no honest stream. Anthropic has one.
const OPEN_BLOCKS_MAX: usize = 64;

impl From<TooLong> for DecodeError {
    fn from(error: TooLong) -> Self {
        DecodeError::Malformed(error.to_string())
    }
}

/// Decodes one answer of Anthropic's.
pub(super) struct AnthropicDecoder {
    parser: Parser,
    state: State,
}

struct State {
    asked: Asked,
    /// A chunk up to its delta; empty until the message has started.
    head: Vec<u8>,
    /// A chunk after its delta.
    tail: &'static [u8],
    open: Vec<OpenTool>,
    tools: u32,
    has_json_tool: bool,
    stop_reason: Option<String>,
    usage: Option<UsageCounts>,
    stopped: bool,
}

/// A tool call that is being written.
struct OpenTool {
    block: u64,
    /// OpenAI counts tool calls, Anthropic all content blocks. `None` for the tool that stands in
    /// for structured output, whose input is content.
    index: Option<u32>,
    has_input: bool,
}

impl AnthropicDecoder {
    pub(super) fn new(asked: Asked) -> Self {
        // With usage asked for, every chunk says that it has none (OpenAI's
        // `ChatCompletionStreamOptions`, 2026-11).
        let tail: &[u8] = if asked.include_usage {
            b",\"finish_reason\":null}],\"usage\":null}\n\n"
        } else {
            b",\"finish_reason\":null}]}\n\n"
        };
        let state = State {
            asked,
            head: Vec::new(),
            tail,
            open: Vec::new(),
            tools: 0,
            has_json_tool: false,
            stop_reason: None,
            usage: None,
            stopped: false,
        };
        AnthropicDecoder { parser: Parser::default(), state }
    }
}

impl Decoder for AnthropicDecoder {
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
        // A proxy before Anthropic may answer JSON or a page although a stream was asked for.
        let held = self.parser.held().trim_ascii();
        if self.state.head.is_empty() && !held.is_empty() && !sse::is_event_block(held) {
            return Err(match serde_json::from_slice::<ErrorBody>(held) {
                Ok(body) if !body.error.kind.is_empty() => {
                    DecodeError::Reported(read_event(body.error))
                }
                _ => DecodeError::Malformed("not an event stream".into()),
            });
        }
        Err(DecodeError::Truncated)
    }

    fn usage(&self) -> Option<Usage> {
        // Counts of nothing at all are no counts.
        let total = self.state.usage.as_ref().map(UsageCounts::total);
        total.filter(|usage| *usage != Usage::default())
    }
}

impl State {
    fn event(&mut self, data: &[u8], out: &mut Vec<u8>) -> Result<(), DecodeError> {
        if self.stopped {
            return Ok(());
        }
        let data = &*mend(data);
        let event: StreamEvent<'_> = match serde_json::from_slice(data) {
            Ok(event) => event,
            // Anthropic adds kinds of events, and a client must skip those it does not know.
            Err(_) if is_unknown(data) => return Ok(()),
            Err(error) => return Err(DecodeError::Malformed(error.to_string())),
        };
        match event.kind.as_ref() {
            "content_block_delta" => {
                let delta = event.delta.unwrap_or_default();
                self.content_delta(event.index, &delta, out);
            }
            "content_block_start" => {
                let block = event.content_block.unwrap_or_default();
                self.block_start(event.index, &block, out)?;
            }
            "content_block_stop" => self.block_stop(event.index, out),
            "message_start" => {
                let message = event.message.unwrap_or_default();
                if let Some(usage) = message.usage {
                    self.usage.get_or_insert_default().update(usage);
                }
                self.start(&message.id, out);
            }
            "message_delta" => {
                if let Some(usage) = event.usage {
                    self.usage.get_or_insert_default().update(usage);
                }
                if let Some(reason) = event.delta.and_then(|delta| delta.stop_reason) {
                    self.stop_reason = Some(reason);
                }
            }
            "message_stop" => self.stop(out),
            "error" => {
                return Err(DecodeError::Reported(read_event(event.error.unwrap_or_default())));
            }
            _ => {}
        }
        Ok(())
    }

    /// Writes the first chunk, and what all chunks begin with.
    fn start(&mut self, id: &str, out: &mut Vec<u8>) {
        if !self.head.is_empty() {
            return;
        }
        let quoted = |text: &str| serde_json::Value::from(text).to_string();
        self.head = format!(
            "data: {{\"id\":{},\"object\":\"chat.completion.chunk\",\"created\":{},\"model\":{},\"choices\":[{{\"index\":0,\"delta\":",
            quoted(&format!("chatcmpl-{id}")),
            self.asked.created,
            quoted(&self.asked.model),
        )
        .into_bytes();
        self.chunk(out, &[b"{\"role\":\"assistant\",\"content\":\"\"}"]);
    }

    /// Writes a chunk whose delta is the parts put together.
    fn chunk(&mut self, out: &mut Vec<u8>, delta: &[&[u8]]) {
        if self.head.is_empty() {
            self.start("unknown", out);
        }
        out.reserve(
            self.head.len() + self.tail.len() + delta.iter().map(|p| p.len()).sum::<usize>(),
        );
        out.extend_from_slice(&self.head);
        delta.iter().for_each(|part| out.extend_from_slice(part));
        out.extend_from_slice(self.tail);
    }

    fn content_delta(&mut self, block: u64, delta: &Delta<'_>, out: &mut Vec<u8>) {
        match delta.kind.as_ref() {
            "text_delta" => self.text(string(delta.text), out),
            "input_json_delta" => {
                if let Some(json) = string(delta.partial_json) {
                    self.tool_input(block, json, out);
                }
            }
            "thinking_delta" => self.thinking(string(delta.thinking), out),
            "signature_delta" => {
                if let Some(signature) = string(delta.signature) {
                    let open = b"{\"thinking_blocks\":[{\"type\":\"thinking\",\"thinking\":\"\",\"signature\":";
                    self.chunk(out, &[open, signature, b"}]}"]);
                }
            }
            "citations_delta" => {
                if let Some(citation) = delta.citation {
                    let open = b"{\"provider_specific_fields\":{\"citation\":";
                    self.chunk(out, &[open, citation.get().as_bytes(), b"}}"]);
                }
            }
            _ => {}
        }
    }

    fn text(&mut self, text: Option<&[u8]>, out: &mut Vec<u8>) {
        if let Some(text) = text {
            self.chunk(out, &[b"{\"content\":", text, b"}"]);
        }
    }

    /// Thinking goes out twice, as LiteLLM has it: as text to show, and as the block to hand back.
    fn thinking(&mut self, thinking: Option<&[u8]>, out: &mut Vec<u8>) {
        if let Some(thinking) = thinking {
            self.chunk(
                out,
                &[
                    b"{\"reasoning_content\":",
                    thinking,
                    b",\"thinking_blocks\":[{\"type\":\"thinking\",\"thinking\":",
                    thinking,
                    b",\"signature\":\"\"}]}",
                ],
            );
        }
    }

    fn tool_input(&mut self, block: u64, json: &[u8], out: &mut Vec<u8>) {
        let Some(tool) = self.open.iter_mut().find(|tool| tool.block == block) else { return };
        tool.has_input = true;
        match tool.index {
            None => self.chunk(out, &[b"{\"content\":", json, b"}"]),
            Some(index) => {
                let index = index.to_string();
                let open = b"{\"tool_calls\":[{\"index\":";
                let function = b",\"function\":{\"arguments\":";
                self.chunk(out, &[open, index.as_bytes(), function, json, b"}}]}"]);
            }
        }
    }

    fn block_start(
        &mut self,
        block: u64,
        start: &BlockStart<'_>,
        out: &mut Vec<u8>,
    ) -> Result<(), DecodeError> {
        match start.kind.as_ref() {
            "text" => self.text(string(start.text), out),
            "thinking" => self.thinking(string(start.thinking), out),
            "redacted_thinking" => {
                if let Some(data) = start.data {
                    let open = b"{\"thinking_blocks\":[{\"type\":\"redacted_thinking\",\"data\":";
                    self.chunk(out, &[open, data.get().as_bytes(), b"}]}"]);
                }
            }
            "tool_use" => {
                let (Some(id), Some(name)) = (string(start.id), string(start.name)) else {
                    return Err(DecodeError::Malformed("a tool call has no id or no name".into()));
                };
                if self.open.len() >= OPEN_BLOCKS_MAX {
                    return Err(DecodeError::Malformed("too many content blocks are open".into()));
                }
                let is_json = name[1..name.len() - 1] == *JSON_TOOL.as_bytes();
                let index = (!is_json).then_some(self.tools);
                self.open.push(OpenTool { block, index, has_input: false });
                if let Some(index) = index {
                    self.tools += 1;
                    let index = index.to_string();
                    self.chunk(
                        out,
                        &[
                            b"{\"tool_calls\":[{\"index\":",
                            index.as_bytes(),
                            b",\"id\":",
                            id,
                            b",\"type\":\"function\",\"function\":{\"name\":",
                            name,
                            b",\"arguments\":\"\"}}]}",
                        ],
                    );
                } else {
                    self.has_json_tool = true;
                }
                // Anthropic sends an empty object here and the input in pieces; servers that
                // resemble it may send it whole.
                let input = start.input.map(|input| input.get().trim());
                if let Some(input) = input.filter(|input| !matches!(*input, "{}" | "null" | "\"\""))
                {
                    let json = serde_json::Value::from(input).to_string();
                    self.tool_input(block, json.as_bytes(), out);
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn block_stop(&mut self, block: u64, out: &mut Vec<u8>) {
        let Some(at) = self.open.iter().position(|tool| tool.block == block) else { return };
        // A tool without parameters gets no input at all, but OpenAI's clients parse what they get.
        if !self.open[at].has_input {
            self.tool_input(block, b"\"{}\"", out);
        }
        self.open.swap_remove(at);
    }

    fn stop(&mut self, out: &mut Vec<u8>) {
        if self.head.is_empty() {
            self.start("unknown", out);
        }
        let mut reason = finish_reason(self.stop_reason.as_deref());
        if reason == "tool_calls" && self.has_json_tool && self.tools == 0 {
            reason = "stop";
        }
        let null: &[u8] = if self.asked.include_usage { b",\"usage\":null}\n\n" } else { b"}\n\n" };
        out.extend_from_slice(&self.head);
        for part in [b"{},\"finish_reason\":\"".as_slice(), reason.as_bytes(), b"\"}]", null] {
            out.extend_from_slice(part);
        }
        if self.asked.include_usage
            && let Some(usage) = &self.usage
            && let Ok(usage) = serde_json::to_vec(&usage.to_openai())
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

/// A raw JSON string that is not empty, quotes included.
fn string(raw: Option<&RawValue>) -> Option<&[u8]> {
    raw.map(|raw| raw.get().as_bytes()).filter(|raw| raw.len() > 2 && raw[0] == b'"')
}

/// Whether an event that could not be read is of a kind nobody here knows.
fn is_unknown(data: &[u8]) -> bool {
    #[derive(serde::Deserialize)]
    struct Kind {
        #[serde(rename = "type")]
        kind: String,
    }
    serde_json::from_slice::<Kind>(data).is_ok_and(|event| {
        !matches!(
            event.kind.as_str(),
            "message_start"
                | "message_delta"
                | "message_stop"
                | "content_block_start"
                | "content_block_delta"
                | "content_block_stop"
                | "error"
        )
    })
}
