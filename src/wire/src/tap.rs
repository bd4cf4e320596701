//! Watching a stream that passes in its own dialect: bytes in, bytes out, and on the way usage,
//! errors and the end are seen.

use bytes::Bytes;

use crate::openai::StreamTap;
use crate::sse::TooLong;
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

impl Tap for StreamTap {
    fn push(&mut self, bytes: &Bytes, send: &mut dyn FnMut(Bytes)) -> Result<(), TapError> {
        StreamTap::push(self, bytes, send)
    }

    fn end(&mut self, send: &mut dyn FnMut(Bytes)) -> Result<(), TapError> {
        StreamTap::end(self, send)
    }

    fn is_done(&self) -> bool {
        StreamTap::is_done(self)
    }

    fn usage(&self) -> Option<Usage> {
        StreamTap::usage(self)
    }

    fn events(&self) -> u64 {
        StreamTap::events(self)
    }
}
