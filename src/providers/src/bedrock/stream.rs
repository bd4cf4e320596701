//! A stream of Converse: its events as OpenAI's chunks.
//!
//! What the model writes is copied as the raw JSON string it arrives in, so that a text delta
//! costs one pass over the event and no allocation.

use serde::Deserialize;
use serde_json::value::RawValue;
use tollway_wire::anthropic::UsageCounts;
use tollway_wire::sse;
use tollway_wire::usage::Usage;

use crate::{Asked, DecodeError, Decoder};

use super::frames::Frames;
use super::response::{self, ServiceTier, id_of};
use super::usage::TokenUsage;
use super::{JSON_TOOL, finish_reason};

/// More content blocks than this open at once are no honest stream. Bedrock has one.
const OPEN_BLOCKS_MAX: usize = 64;

/// One event. One type for all kinds, told apart by a header.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Event<'a> {
    content_block_index: u64,
    #[serde(borrow)]
    start: Option<Start<'a>>,
    #[serde(borrow)]
    delta: Option<Delta<'a>>,
    stop_reason: Option<String>,
    usage: Option<TokenUsage>,
    #[serde(borrow)]
    trace: Option<&'a RawValue>,
    service_tier: Option<ServiceTier>,
}

/// What `contentBlockStart` says of the block. Strings stay raw.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Start<'a> {
    #[serde(borrow)]
    tool_use: Option<ToolStart<'a>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct ToolStart<'a> {
    #[serde(borrow)]
    tool_use_id: Option<&'a RawValue>,
    #[serde(borrow)]
    name: Option<&'a RawValue>,
    /// Told for what Bedrock runs itself.
    #[serde(rename = "type", borrow)]
    kind: Option<&'a RawValue>,
}

/// What is new. Strings stay raw.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Delta<'a> {
    #[serde(borrow)]
    text: Option<&'a RawValue>,
    #[serde(borrow)]
    tool_use: Option<ToolDelta<'a>>,
    #[serde(borrow)]
    reasoning_content: Option<ReasoningDelta<'a>>,
    #[serde(borrow)]
    citation: Option<&'a RawValue>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ToolDelta<'a> {
    #[serde(borrow)]
    input: Option<&'a RawValue>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct ReasoningDelta<'a> {
    #[serde(borrow)]
    text: Option<&'a RawValue>,
    #[serde(borrow)]
    signature: Option<&'a RawValue>,
    #[serde(borrow)]
    redacted_content: Option<&'a RawValue>,
}

/// Decodes one answer of Converse.
pub(super) struct ConverseDecoder {
    frames: Frames,
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
    usage: Option<UsageCounts>,
    /// The model has stopped; the usage is still to come.
    stopped: bool,
    done: bool,
}

/// A tool call that is being written.
struct OpenTool {
    block: u64,
    /// OpenAI counts tool calls, Bedrock all content blocks. `None` for the tool that stands in for
    /// structured output, whose input is content.
    index: Option<u32>,
    has_input: bool,
}

impl ConverseDecoder {
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
            usage: None,
            stopped: false,
            done: false,
        };
        ConverseDecoder { frames: Frames::default(), state }
    }
}

impl Decoder for ConverseDecoder {
    fn whole(&mut self, body: &[u8]) -> Result<Vec<u8>, DecodeError> {
        let (json, usage) = response::translate(body, &self.state.asked)?;
        self.state.usage = usage;
        Ok(json)
    }

    fn stream(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<(), DecodeError> {
        let state = &mut self.state;
        self.frames.push(bytes, |kind, payload| state.event(kind, payload, out))
    }

    fn finish(&mut self, out: &mut Vec<u8>) -> Result<(), DecodeError> {
        if self.state.done {
            return Ok(());
        }
        // The end of the message is the announced end; what follows it only counts.
        if self.state.stopped {
            self.state.end(None, None, out);
            return Ok(());
        }
        Err(self.frames.truncated())
    }

    fn usage(&self) -> Option<Usage> {
        // Counts of nothing at all are no counts.
        let total = self.state.usage.as_ref().map(UsageCounts::total);
        total.filter(|usage| *usage != Usage::default())
    }
}

impl State {
    fn event(&mut self, kind: &[u8], payload: &[u8], out: &mut Vec<u8>) -> Result<(), DecodeError> {
        let is_known = matches!(
            kind,
            b"messageStart"
                | b"contentBlockStart"
                | b"contentBlockDelta"
                | b"contentBlockStop"
                | b"messageStop"
                | b"metadata"
        );
        // Kinds of events are added, and a client must skip those it does not know.
        if self.done || !is_known {
            return Ok(());
        }
        let event: Event<'_> = serde_json::from_slice(payload)
            .map_err(|error| DecodeError::Malformed(error.to_string()))?;
        self.start(payload, out);
        match kind {
            b"contentBlockDelta" if !self.stopped => {
                self.delta(event.content_block_index, &event.delta.unwrap_or_default(), out);
            }
            b"contentBlockStart" if !self.stopped => {
                let tool = event.start.unwrap_or_default().tool_use;
                if let Some(tool) = tool.filter(|tool| tool.kind.is_none()) {
                    self.tool_start(event.content_block_index, &tool, out)?;
                }
            }
            b"contentBlockStop" if !self.stopped => {
                self.block_stop(event.content_block_index, out);
            }
            b"messageStop" if !self.stopped => self.stop(event.stop_reason.as_deref(), out),
            b"metadata" => {
                self.usage = event.usage.as_ref().map(TokenUsage::counts).or(self.usage.take());
                if self.stopped {
                    self.end(event.trace, event.service_tier.as_ref(), out);
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Writes the first chunk, and what all chunks begin with, unless it has been done.
    fn start(&mut self, payload: &[u8], out: &mut Vec<u8>) {
        if !self.head.is_empty() {
            return;
        }
        self.head = format!(
            "data: {{\"id\":\"{}\",\"object\":\"chat.completion.chunk\",\"created\":{},\"model\":{},\"choices\":[{{\"index\":0,\"delta\":",
            id_of(&self.asked, payload),
            self.asked.created,
            serde_json::Value::from(self.asked.model.as_str()),
        )
        .into_bytes();
        self.chunk(out, &[b"{\"role\":\"assistant\",\"content\":\"\"}"]);
    }

    /// Writes a chunk whose delta is the parts put together.
    fn chunk(&self, out: &mut Vec<u8>, delta: &[&[u8]]) {
        out.reserve(
            self.head.len() + self.tail.len() + delta.iter().map(|p| p.len()).sum::<usize>(),
        );
        out.extend_from_slice(&self.head);
        delta.iter().for_each(|part| out.extend_from_slice(part));
        out.extend_from_slice(self.tail);
    }

    fn delta(&mut self, block: u64, delta: &Delta<'_>, out: &mut Vec<u8>) {
        if let Some(text) = string(delta.text) {
            self.chunk(out, &[b"{\"content\":", text, b"}"]);
        }
        if let Some(input) = delta.tool_use.as_ref().and_then(|tool| string(tool.input)) {
            self.tool_input(block, input, out);
        }
        if let Some(reasoning) = &delta.reasoning_content {
            self.reasoning(reasoning, out);
        }
        if let Some(citation) = delta.citation.and_then(one_line) {
            let open = b"{\"provider_specific_fields\":{\"citation\":";
            self.chunk(out, &[open, citation.as_bytes(), b"}}"]);
        }
    }

    /// Thinking goes out twice, as LiteLLM has it: as text to show, and as the block to hand back.
    fn reasoning(&self, delta: &ReasoningDelta<'_>, out: &mut Vec<u8>) {
        let block = b"{\"thinking_blocks\":[{\"type\":\"thinking\",\"thinking\":";
        if let Some(text) = string(delta.text) {
            let open = b"{\"reasoning_content\":";
            let (block, end) = (&block[1..], b",\"signature\":\"\"}]}");
            self.chunk(out, &[open, text, b",", block, text, end]);
        }
        if let Some(signature) = string(delta.signature) {
            self.chunk(out, &[block, b"\"\",\"signature\":", signature, b"}]}"]);
        }
        if let Some(data) = string(delta.redacted_content) {
            let open = b"{\"thinking_blocks\":[{\"type\":\"redacted_thinking\",\"data\":";
            self.chunk(out, &[open, data, b"}]}"]);
        }
    }

    fn tool_start(
        &mut self,
        block: u64,
        tool: &ToolStart<'_>,
        out: &mut Vec<u8>,
    ) -> Result<(), DecodeError> {
        let (Some(id), Some(name)) = (string(tool.tool_use_id), string(tool.name)) else {
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
        }
        Ok(())
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

    fn block_stop(&mut self, block: u64, out: &mut Vec<u8>) {
        let Some(at) = self.open.iter().position(|tool| tool.block == block) else { return };
        // A tool without parameters gets no input at all, but OpenAI's clients parse what they get.
        if !self.open[at].has_input {
            self.tool_input(block, b"\"{}\"", out);
        }
        self.open.swap_remove(at);
    }

    fn stop(&mut self, stop_reason: Option<&str>, out: &mut Vec<u8>) {
        let mut reason = finish_reason(stop_reason);
        if reason == "tool_calls" && self.tools == 0 {
            reason = "stop";
        }
        let null: &[u8] = if self.asked.include_usage { b",\"usage\":null}\n\n" } else { b"}\n\n" };
        out.extend_from_slice(&self.head);
        for part in [b"{},\"finish_reason\":\"".as_slice(), reason.as_bytes(), b"\"}]", null] {
            out.extend_from_slice(part);
        }
        self.stopped = true;
    }

    /// Writes the usage, if it was asked for and told, and the end.
    fn end(&mut self, trace: Option<&RawValue>, tier: Option<&ServiceTier>, out: &mut Vec<u8>) {
        if self.asked.include_usage
            && let Some(usage) = &self.usage
            && let Ok(usage) = serde_json::to_vec(&usage.to_openai())
        {
            // The head without the choice it opens.
            let head = self.head.len() - b"{\"index\":0,\"delta\":".len();
            for part in [&self.head[..head], b"],\"usage\":", &usage] {
                out.extend_from_slice(part);
            }
            if let Some(trace) = trace.and_then(one_line) {
                out.extend_from_slice(format!(",\"trace\":{trace}").as_bytes());
            }
            if let Some(tier) = tier {
                let tier = serde_json::Value::from(tier.kind.as_str());
                out.extend_from_slice(format!(",\"service_tier\":{tier}").as_bytes());
            }
            out.extend_from_slice(b"}\n\n");
        }
        sse::write_done(out);
        self.done = true;
    }
}

/// Raw JSON without white space between its tokens: a line feed would cut the event it goes into.
fn one_line(raw: &RawValue) -> Option<String> {
    let value: serde_json::Value = serde_json::from_str(raw.get()).ok()?;
    Some(value.to_string())
}

/// A raw JSON string that is not empty, quotes included.
fn string(raw: Option<&RawValue>) -> Option<&[u8]> {
    raw.map(|raw| raw.get().as_bytes()).filter(|raw| raw.len() > 2 && raw[0] == b'"')
}
