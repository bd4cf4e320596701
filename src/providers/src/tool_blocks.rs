//! Tool calls of a stream whose providers, Anthropic and Bedrock, send them as content blocks.

use crate::DecodeError;
use crate::chunks::Chunks;
use crate::tools::JSON_TOOL;

/// More content blocks than this open at once are no honest stream. Providers have one.
const OPEN_MAX: usize = 64;

/// The tool calls of one stream.
#[derive(Default)]
pub(crate) struct ToolBlocks {
    open: Vec<OpenTool>,
    /// How many calls there were.
    pub(crate) count: usize,
    /// There was the tool that stands in for structured output.
    pub(crate) has_answer: bool,
}

/// A tool call that is being written.
struct OpenTool {
    block: u64,
    /// OpenAI counts tool calls, providers all content blocks. `None` for the tool that stands in
    /// for structured output, whose input is content.
    index: Option<usize>,
    has_input: bool,
}

impl ToolBlocks {
    pub(crate) fn start(
        &mut self,
        block: u64,
        (id, name): (Option<&[u8]>, Option<&[u8]>),
        chunks: &mut Chunks,
        out: &mut Vec<u8>,
    ) -> Result<(), DecodeError> {
        let (Some(id), Some(name)) = (id, name) else {
            return Err(DecodeError::Malformed("a tool call has no id or no name".into()));
        };
        if self.open.len() >= OPEN_MAX {
            return Err(DecodeError::Malformed("too many content blocks are open".into()));
        }
        let is_answer = name[1..name.len() - 1] == *JSON_TOOL.as_bytes();
        let index = (!is_answer).then_some(self.count);
        self.open.push(OpenTool { block, index, has_input: false });
        self.has_answer |= is_answer;
        if let Some(index) = index {
            self.count += 1;
            chunks.call(index, id, name, out);
        }
        Ok(())
    }

    /// More of the input of the call in a block.
    pub(crate) fn input(
        &mut self,
        block: u64,
        json: &[u8],
        chunks: &mut Chunks,
        out: &mut Vec<u8>,
    ) {
        let Some(tool) = self.open.iter_mut().find(|tool| tool.block == block) else { return };
        tool.has_input = true;
        match tool.index {
            None => chunks.text(json, out),
            Some(index) => chunks.arguments(index, json, out),
        }
    }

    pub(crate) fn stop(&mut self, block: u64, chunks: &mut Chunks, out: &mut Vec<u8>) {
        let Some(at) = self.open.iter().position(|tool| tool.block == block) else { return };
        // A tool without parameters gets no input at all, but OpenAI's clients parse what they get.
        if !self.open[at].has_input {
            self.input(block, b"\"{}\"", chunks, out);
        }
        self.open.swap_remove(at);
    }
}
