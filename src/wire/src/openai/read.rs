//! Chat's answers as the encoders of other dialects read them. Chunks are borrowed, and what the
//! model wrote in them is left as raw JSON.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::response::ChatResponse;
use super::usage::usage_of_object;
use crate::client::EncodeError;
use crate::sse::Parser;
use crate::surrogate::mend;
use crate::usage::Usage;

/// More calls than this in one answer are no honest answer.
const TOOLS_MAX: usize = 512;

/// Reads the events of a stream.
#[derive(Debug, Default)]
pub(crate) struct Reader {
    parser: Parser,
    ended: bool,
}

/// What an event is.
pub(crate) enum Event<'a> {
    Chunk(Chunk<'a>),
    /// The end that the provider has announced. Nothing follows.
    End,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Chunk<'a> {
    #[serde(borrow)]
    pub(crate) choices: Option<Vec<Choice<'a>>>,
    #[serde(borrow)]
    usage: Option<&'a RawValue>,
    #[serde(borrow)]
    error: Option<&'a RawValue>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Choice<'a> {
    pub(crate) index: u64,
    #[serde(borrow)]
    pub(crate) delta: Option<Delta<'a>>,
    #[serde(borrow)]
    pub(crate) finish_reason: Option<Cow<'a, str>>,
    // vLLM and its kin: the sequence or the token they stopped at.
    #[serde(borrow)]
    pub(crate) stop_reason: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(crate) logprobs: Option<&'a RawValue>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Delta<'a> {
    #[serde(borrow)]
    pub(crate) content: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(crate) refusal: Option<&'a RawValue>,
    #[serde(borrow)]
    reasoning_content: Option<&'a RawValue>,
    /// What some servers call it.
    #[serde(borrow)]
    reasoning: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(crate) thinking_blocks: Option<Vec<Thinking<'a>>>,
    #[serde(borrow)]
    pub(crate) tool_calls: Option<Vec<ToolPiece<'a>>>,
    #[serde(borrow)]
    pub(crate) images: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(crate) annotations: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(crate) provider_specific_fields: Option<&'a RawValue>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Thinking<'a> {
    #[serde(borrow)]
    pub(crate) thinking: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(crate) signature: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(crate) data: Option<&'a RawValue>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct ToolPiece<'a> {
    pub(crate) index: Option<u64>,
    id: Option<String>,
    #[serde(borrow)]
    function: Option<FunctionPiece<'a>>,
    #[serde(borrow)]
    pub(crate) extra_content: Option<&'a RawValue>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct FunctionPiece<'a> {
    name: Option<String>,
    #[serde(borrow)]
    arguments: Option<&'a RawValue>,
}

impl Reader {
    /// Takes whole events, and gives `take` what they are. An error among them is none of them.
    pub(crate) fn push(
        &mut self,
        events: &[u8],
        mut take: impl FnMut(Event<'_>) -> Result<(), EncodeError>,
    ) -> Result<(), EncodeError> {
        let ended = &mut self.ended;
        self.parser.push(events, |event| {
            if *ended {
                return Ok(());
            }
            if event.data.trim_ascii() == b"[DONE]" {
                *ended = true;
                return take(Event::End);
            }
            let data = mend(event.data);
            let chunk: Chunk<'_> = serde_json::from_slice(&data).map_err(not_a_chunk)?;
            if chunk.choices.is_none() && chunk.error.is_some() {
                return Err(EncodeError("an error inside the stream".into()));
            }
            take(Event::Chunk(chunk))
        })
    }
}

/// A chunk that is of another shape than OpenAI's reference has it.
pub(crate) fn not_a_chunk(error: serde_json::Error) -> EncodeError {
    EncodeError(format!("not a chunk: {error}"))
}

impl Chunk<'_> {
    pub(crate) fn usage(&self) -> Option<Usage> {
        usage_of_object(self.usage?.get().as_bytes())
    }
}

impl Delta<'_> {
    /// Thinking, as the inside of a JSON string.
    pub(crate) fn reasoning(&self) -> Option<&[u8]> {
        inside(self.reasoning_content).or_else(|| inside(self.reasoning))
    }
}

impl ToolPiece<'_> {
    pub(crate) fn id(&self) -> &str {
        self.id.as_deref().unwrap_or_default()
    }

    pub(crate) fn name(&self) -> &str {
        let function = self.function.as_ref();
        function.and_then(|function| function.name.as_deref()).unwrap_or_default()
    }

    /// More of the arguments, as a raw JSON string.
    pub(crate) fn arguments(&self) -> Option<&RawValue> {
        self.function.as_ref()?.arguments
    }

    /// Which of the `known` calls the piece goes on with; `None` where it begins another. `key` is
    /// a call's index and id: providers that give several calls the same index tell them apart by
    /// id.
    pub(crate) fn place<T>(
        &self,
        known: &[T],
        key: impl Fn(&T) -> (u64, &str),
    ) -> Result<Option<usize>, EncodeError> {
        let (id, name) = (self.id(), self.name());
        let at = match self.index {
            Some(index) => known.iter().rposition(|call| key(call).0 == index),
            // Some providers leave it out: a piece with a name begins a call, another goes on.
            None if name.is_empty() => known.len().checked_sub(1),
            None => None,
        };
        let is_other = |at: &usize| !id.is_empty() && !name.is_empty() && key(&known[*at]).1 != id;
        match at.filter(|at| !is_other(at)) {
            Some(at) => Ok(Some(at)),
            None if name.is_empty() => Err(EncodeError("a tool call begins without a name".into())),
            None if known.len() >= TOOLS_MAX => Err(EncodeError("too many tool calls".into())),
            None => Ok(None),
        }
    }

    /// The index of a call that begins; one that no piece has, where there is none.
    pub(crate) fn own_index(&self) -> u64 {
        self.index.unwrap_or(u64::MAX)
    }
}

/// The inside of a raw JSON string that is not empty. Such pieces may be put together as they are.
pub(crate) fn inside(raw: Option<&RawValue>) -> Option<&[u8]> {
    let raw = raw?.get().as_bytes();
    (raw.len() > 2 && raw[0] == b'"').then(|| &raw[1..raw.len() - 1])
}

/// Reads a whole answer, which has a choice, and its usage.
pub(crate) fn completion(answer: &[u8]) -> Result<(ChatResponse, Option<Usage>), EncodeError> {
    let answer: ChatResponse = serde_json::from_slice(&mend(answer))
        .map_err(|error| EncodeError(format!("not a chat completion: {error}")))?;
    if answer.choices.is_empty() {
        return Err(EncodeError("a chat completion without choices".into()));
    }
    let usage = answer.usage.as_ref();
    let usage = usage.and_then(|usage| usage_of_object(&serde_json::to_vec(usage).ok()?));
    Ok((answer, usage))
}
