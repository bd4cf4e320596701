//! A stream of Converse: its events as OpenAI's chunks.
//!
//! What the model writes is copied as the raw JSON string it arrives in, so that a text delta
//! costs one pass over the event and no allocation.

use serde::Deserialize;
use serde_json::value::RawValue;
use tollway_wire::anthropic::UsageCounts;
use tollway_wire::usage::Usage;

use crate::chunks::{Chunks, string};
use crate::tool_blocks::ToolBlocks;
use crate::{Asked, DecodeError, Decoder};

use super::finish_reason;
use super::frames::Frames;
use super::response::{self, ServiceTier, id_of};
use super::usage::TokenUsage;

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
    chunks: Chunks,
    tools: ToolBlocks,
    usage: Option<UsageCounts>,
    /// The model has stopped; the usage is still to come.
    stopped: bool,
}

impl ConverseDecoder {
    pub(super) fn new(asked: Asked) -> Self {
        let chunks = Chunks::new(asked);
        let state = State { chunks, tools: ToolBlocks::default(), usage: None, stopped: false };
        ConverseDecoder { frames: Frames::default(), state }
    }
}

impl Decoder for ConverseDecoder {
    fn whole(&mut self, body: &[u8]) -> Result<Vec<u8>, DecodeError> {
        let (json, usage) = response::translate(body, &self.state.chunks.asked)?;
        self.state.usage = usage;
        Ok(json)
    }

    fn stream(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<(), DecodeError> {
        let state = &mut self.state;
        self.frames.push(bytes, |kind, payload| state.event(kind, payload, out))
    }

    fn finish(&mut self, out: &mut Vec<u8>) -> Result<(), DecodeError> {
        if self.state.chunks.has_ended() {
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
        if self.chunks.has_ended() || !is_known {
            return Ok(());
        }
        let event: Event<'_> = serde_json::from_slice(payload)
            .map_err(|error| DecodeError::Malformed(error.to_string()))?;
        self.chunks.begin(|asked| id_of(asked, payload), out);
        match kind {
            b"contentBlockDelta" if !self.stopped => {
                self.delta(event.content_block_index, &event.delta.unwrap_or_default(), out);
            }
            b"contentBlockStart" if !self.stopped => {
                let tool = event.start.unwrap_or_default().tool_use;
                if let Some(tool) = tool.filter(|tool| tool.kind.is_none()) {
                    let named = (string(tool.tool_use_id), string(tool.name));
                    self.tools.start(event.content_block_index, named, &mut self.chunks, out)?;
                }
            }
            b"contentBlockStop" if !self.stopped => {
                self.tools.stop(event.content_block_index, &mut self.chunks, out);
            }
            b"messageStop" if !self.stopped => self.stop(event.stop_reason.as_deref(), out),
            b"metadata" => {
                self.usage = event.usage.as_ref().map(TokenUsage::counts).or(self.usage.take());
                if self.stopped {
                    self.end(event.trace, event.service_tier.as_ref(), out);
                }
                if let (Some(usage), Some(tier)) = (&mut self.usage, event.service_tier) {
                    usage.service_tier = Some(tier.kind);
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn delta(&mut self, block: u64, delta: &Delta<'_>, out: &mut Vec<u8>) {
        let chunks = &mut self.chunks;
        if let Some(text) = string(delta.text) {
            chunks.text(text, out);
        }
        if let Some(input) = delta.tool_use.as_ref().and_then(|tool| string(tool.input)) {
            self.tools.input(block, input, chunks, out);
        }
        if let Some(reasoning) = &delta.reasoning_content {
            string(reasoning.text).into_iter().for_each(|text| chunks.thinking(text, out));
            string(reasoning.signature).into_iter().for_each(|text| chunks.signature(text, out));
            string(reasoning.redacted_content)
                .into_iter()
                .for_each(|data| chunks.redacted(data, out));
        }
        if let Some(citation) = delta.citation.and_then(one_line) {
            chunks.citation(citation.as_bytes(), out);
        }
    }

    fn stop(&mut self, stop_reason: Option<&str>, out: &mut Vec<u8>) {
        let mut reason = finish_reason(stop_reason);
        if reason == "tool_calls" && self.tools.count == 0 {
            reason = "stop";
        }
        self.chunks.finish(reason, out);
        self.stopped = true;
    }

    /// Writes the usage, if it was asked for and told, and the end.
    fn end(&mut self, trace: Option<&RawValue>, tier: Option<&ServiceTier>, out: &mut Vec<u8>) {
        let mut more = String::new();
        if let Some(trace) = trace.and_then(one_line) {
            more = format!(",\"trace\":{trace}");
        }
        if let Some(tier) = tier {
            let tier = serde_json::Value::from(tier.kind.as_str());
            more = format!("{more},\"service_tier\":{tier}");
        }
        self.chunks.end(self.usage.as_ref().map(UsageCounts::to_openai), &more, out);
    }
}

/// Raw JSON without white space between its tokens: a line feed would cut the event it goes into.
fn one_line(raw: &RawValue) -> Option<String> {
    let value: serde_json::Value = serde_json::from_str(raw.get()).ok()?;
    Some(value.to_string())
}
