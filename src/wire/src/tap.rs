//! Watching a stream that passes in its own dialect: bytes in, bytes out, and on the way usage,
//! errors and the end are seen.

use std::ops::Range;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::sse::{self, Block, Event, Splitter, TooLong};
use crate::usage::Usage;

/// Why a stream must not be passed on, or not as complete.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TapError {
    /// The bytes are not an event stream of this dialect.
    #[error("the provider's stream is malformed: {0}")]
    Malformed(&'static str),
    /// The stream ended before its end was announced.
    #[error("the provider's stream ended before it was complete")]
    Truncated,
    /// The provider reported an error inside the stream: the JSON it sent.
    #[error("the provider reported an error inside its stream")]
    Reported(Bytes),
}

impl From<TooLong> for TapError {
    fn from(_: TooLong) -> Self {
        TapError::Malformed("an event is too long")
    }
}

/// Watches one stream.
pub trait Tap: Send {
    /// Takes the next bytes, cut anywhere, and gives `send` the whole events among them, mostly as
    /// the bytes they came in.
    ///
    /// # Errors
    /// When the stream is malformed or carries an error. What was sent before is good.
    fn push(&mut self, bytes: &Bytes, send: &mut dyn FnMut(Bytes)) -> Result<(), TapError>;

    /// The provider has closed the stream: gives `send` what is still owed to the client.
    ///
    /// # Errors
    /// [`TapError::Truncated`] when the end had not been announced.
    fn end(&mut self, send: &mut dyn FnMut(Bytes)) -> Result<(), TapError>;

    /// Whether the announced end has passed.
    fn is_done(&self) -> bool;

    /// The last usage the provider reported.
    fn usage(&self) -> Option<Usage>;

    /// The answer in its whole form, once the stream has ended with it, for dialects that keep
    /// answers.
    fn response(&self) -> Option<&[u8]> {
        None
    }

    /// How many events with content have passed, which is about a token each.
    fn events(&self) -> u64;
}

/// What becomes of one block.
pub(crate) enum Verdict {
    Pass,
    Drop,
    /// The range of the block that is to be replaced by the alias.
    Rename(Range<usize>),
}

/// What goes to the client in one piece.
enum Run {
    Empty,
    /// Part of the bytes that were pushed: sent as they are.
    Here(Range<usize>),
    Made(Vec<u8>),
}

/// Where a part of an event lies in its block. Data of several lines was put together elsewhere and
/// has no place in it.
pub(crate) fn place_in(block: &[u8], part: &[u8]) -> Option<Range<usize>> {
    let start = (part.as_ptr() as usize).wrapping_sub(block.as_ptr() as usize);
    (start < block.len() && part.len() <= block.len() - start).then(|| start..start + part.len())
}

/// Cuts what was pushed into blocks, has `look` judge each, and gives `send` what goes to the
/// client, in as few pieces as can be.
pub(crate) fn pass(
    splitter: &mut Splitter,
    bytes: &Bytes,
    alias: Option<&[u8]>,
    mut look: impl FnMut(&[u8]) -> Result<Verdict, TapError>,
    mut send: impl FnMut(Bytes),
) -> Result<(), TapError> {
    let mut run = Run::Empty;
    let result = splitter.split(bytes, |block| {
        let verdict = match &block {
            Block::Here(range) => look(&bytes[range.clone()]),
            Block::Joined(joined) => look(joined),
        }?;
        run.add(block, verdict, alias, bytes, &mut send);
        Ok(())
    });
    run.flush(bytes, &mut send);
    result
}

impl Run {
    fn add(
        &mut self,
        block: Block,
        verdict: Verdict,
        alias: Option<&[u8]>,
        bytes: &Bytes,
        send: &mut impl FnMut(Bytes),
    ) {
        match (block, verdict, alias) {
            (_, Verdict::Drop, _) => {}
            (Block::Here(range), Verdict::Rename(model), Some(alias)) => {
                self.rename(&bytes[range], model, alias, bytes, send);
            }
            (Block::Joined(joined), Verdict::Rename(model), Some(alias)) => {
                self.rename(&joined, model, alias, bytes, send);
            }
            (Block::Here(range), _, _) => match self {
                Run::Here(run) if run.end == range.start => run.end = range.end,
                Run::Made(made) => made.extend_from_slice(&bytes[range]),
                _ => {
                    self.flush(bytes, send);
                    *self = Run::Here(range);
                }
            },
            (Block::Joined(joined), _, _) => {
                self.flush(bytes, send);
                send(Bytes::from(joined));
            }
        }
    }

    fn rename(
        &mut self,
        block: &[u8],
        model: Range<usize>,
        alias: &[u8],
        bytes: &Bytes,
        send: &mut impl FnMut(Bytes),
    ) {
        if !matches!(self, Run::Made(_)) {
            self.flush(bytes, send);
            // Exactly what is needed where one event came alone, as most do.
            // The block may have begun in bytes pushed before, and be the longer of the two.
            let length = bytes.len().max(block.len()) - model.len() + alias.len();
            *self = Run::Made(Vec::with_capacity(length));
        }
        if let Run::Made(made) = self {
            made.extend_from_slice(&block[..model.start]);
            made.extend_from_slice(alias);
            made.extend_from_slice(&block[model.end..]);
        }
    }

    fn flush(&mut self, bytes: &Bytes, send: &mut impl FnMut(Bytes)) {
        match std::mem::replace(self, Run::Empty) {
            Run::Empty => {}
            Run::Here(range) if range.len() == bytes.len() => send(bytes.clone()),
            Run::Here(range) => send(bytes.slice(range)),
            Run::Made(made) => send(Bytes::from(made)),
        }
    }
}

/// The event in a block; `None` where the block carries none, such as a comment. `is_error` tells
/// whether JSON that stands there bare is an error.
pub(crate) fn event_in<'a>(
    block: &'a [u8],
    scratch: &'a mut Vec<u8>,
    is_error: impl FnOnce(&[u8]) -> bool,
) -> Result<Option<Event<'a>>, TapError> {
    if let Some(event) = sse::read_block(block, scratch) {
        return Ok(Some(event));
    }
    if sse::is_event_block(block) {
        return Ok(None);
    }
    let json = block.trim_ascii();
    Err(if json.starts_with(b"{") && is_error(json) {
        TapError::Reported(Bytes::copy_from_slice(json))
    } else {
        TapError::Malformed("not an event stream")
    })
}

/// Refuses data that, seen from outside, is no JSON object.
pub(crate) fn check_object(data: &[u8]) -> Result<(), TapError> {
    match data.first() == Some(&b'{') && data.last() == Some(&b'}') {
        true => Ok(()),
        false => Err(TapError::Malformed("an event is not a JSON object")),
    }
}

/// Whether JSON is an error of Anthropic's or Google's.
pub(crate) fn has_error(json: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct Suspect<'a> {
        #[serde(borrow)]
        error: &'a RawValue,
    }
    serde_json::from_slice::<Suspect<'_>>(json).is_ok_and(|body| body.error.get() != "null")
}
