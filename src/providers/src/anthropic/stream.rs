//! A stream: Anthropic's events as OpenAI's chunks.
//!
//! What the model writes is copied as the raw JSON string it arrives in, so that a text delta
//! costs one pass over the event and no allocation.

use tollway_wire::anthropic::{BlockStart, Delta, StreamEvent, UsageCounts};
use tollway_wire::sse::Parser;
use tollway_wire::surrogate::mend;
use tollway_wire::usage::Usage;

use crate::chunks::{Chunks, string};
use crate::tool_blocks::ToolBlocks;
use crate::{Asked, DecodeError, Decoder};

use super::error::{read_body, read_event};
use super::{finish_reason, response};

/// Decodes one answer of Anthropic's.
pub(super) struct AnthropicDecoder {
    parser: Parser,
    state: State,
}

struct State {
    chunks: Chunks,
    tools: ToolBlocks,
    stop_reason: Option<String>,
    usage: Option<UsageCounts>,
}

impl AnthropicDecoder {
    pub(super) fn new(asked: Asked) -> Self {
        let chunks = Chunks::new(asked);
        let state = State { chunks, tools: ToolBlocks::default(), stop_reason: None, usage: None };
        AnthropicDecoder { parser: Parser::default(), state }
    }
}

impl Decoder for AnthropicDecoder {
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
        Err(self.state.chunks.unfinished(self.parser.held(), read_body))
    }

    fn usage(&self) -> Option<Usage> {
        // Counts of nothing at all are no counts.
        let total = self.state.usage.as_ref().map(UsageCounts::total);
        total.filter(|usage| *usage != Usage::default())
    }
}

impl State {
    fn event(&mut self, data: &[u8], out: &mut Vec<u8>) -> Result<(), DecodeError> {
        if self.chunks.has_ended() {
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
            "content_block_stop" => self.tools.stop(event.index, &mut self.chunks, out),
            "message_start" => {
                let message = event.message.unwrap_or_default();
                if let Some(usage) = message.usage {
                    self.usage.get_or_insert_default().update(usage);
                }
                self.chunks.begin(|_| format!("chatcmpl-{}", message.id), out);
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

    fn content_delta(&mut self, block: u64, delta: &Delta<'_>, out: &mut Vec<u8>) {
        let chunks = &mut self.chunks;
        match delta.kind.as_ref() {
            "text_delta" => string(delta.text).into_iter().for_each(|text| chunks.text(text, out)),
            "input_json_delta" => {
                if let Some(json) = string(delta.partial_json) {
                    self.tools.input(block, json, chunks, out);
                }
            }
            "thinking_delta" => {
                string(delta.thinking).into_iter().for_each(|text| chunks.thinking(text, out));
            }
            "signature_delta" => {
                string(delta.signature).into_iter().for_each(|text| chunks.signature(text, out));
            }
            "citations_delta" => {
                if let Some(citation) = delta.citation {
                    chunks.citation(citation.get().as_bytes(), out);
                }
            }
            _ => {}
        }
    }

    fn block_start(
        &mut self,
        block: u64,
        start: &BlockStart<'_>,
        out: &mut Vec<u8>,
    ) -> Result<(), DecodeError> {
        let chunks = &mut self.chunks;
        match start.kind.as_ref() {
            "text" => string(start.text).into_iter().for_each(|text| chunks.text(text, out)),
            "thinking" => {
                string(start.thinking).into_iter().for_each(|text| chunks.thinking(text, out));
            }
            "redacted_thinking" => {
                if let Some(data) = start.data {
                    chunks.redacted(data.get().as_bytes(), out);
                }
            }
            "tool_use" => {
                self.tools.start(block, (string(start.id), string(start.name)), chunks, out)?;
                // Anthropic sends an empty object here and the input in pieces; servers that
                // resemble it may send it whole.
                let input = start.input.map(|input| input.get().trim());
                if let Some(input) = input.filter(|input| !matches!(*input, "{}" | "null" | "\"\""))
                {
                    let json = serde_json::Value::from(input).to_string();
                    self.tools.input(block, json.as_bytes(), chunks, out);
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn stop(&mut self, out: &mut Vec<u8>) {
        let mut reason = finish_reason(self.stop_reason.as_deref());
        if reason == "tool_calls" && self.tools.has_answer && self.tools.count == 0 {
            reason = "stop";
        }
        self.chunks.finish(reason, out);
        self.chunks.end(self.usage.as_ref().map(UsageCounts::to_openai), "", out);
    }
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
