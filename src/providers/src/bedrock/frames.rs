//! The event stream of an answer: its messages, and what came instead of them.

use tollway_wire::event_stream::{FrameError, Message, Parser};

use crate::{DecodeError, UpstreamError};

use super::error::{is_error, read_error, read_exception, read_stream_error};

/// The most that is kept of a body that is no event stream.
const OTHER_BYTES_MAX: usize = 64 << 10;

impl From<FrameError> for DecodeError {
    fn from(error: FrameError) -> Self {
        DecodeError::Malformed(error.to_string())
    }
}

/// Cuts an answer into events.
#[derive(Default)]
pub(super) struct Frames {
    parser: Parser,
    has_begun: bool,
    /// The answer is something else: an error's JSON, a proxy's page.
    other: Vec<u8>,
}

impl Frames {
    /// Takes the next bytes and gives `each` the events they complete: type and payload.
    pub(super) fn push(
        &mut self,
        bytes: &[u8],
        mut each: impl FnMut(&[u8], &[u8]) -> Result<(), DecodeError>,
    ) -> Result<(), DecodeError> {
        // A message begins with a length of at most 16 MiB, so with a zero; no text does.
        if !self.other.is_empty() || (!self.has_begun && bytes.first().is_some_and(|b| *b != 0)) {
            let room = OTHER_BYTES_MAX.saturating_sub(self.other.len());
            self.other.extend_from_slice(&bytes[..bytes.len().min(room)]);
            return Ok(());
        }
        self.has_begun |= !bytes.is_empty();
        self.parser.push(bytes, |message| match reported(&message) {
            Some(error) => Err(DecodeError::Reported(error)),
            None => each(message.text(":event-type"), message.payload),
        })
    }

    /// The error of a stream that was closed before its end.
    pub(super) fn truncated(&self) -> DecodeError {
        if self.other.is_empty() {
            DecodeError::Truncated
        } else if is_error(&self.other) {
            DecodeError::Reported(read_error(200, &self.other))
        } else {
            DecodeError::Malformed("not an event stream".into())
        }
    }
}

/// The error that a message is, if it is one.
fn reported(message: &Message<'_>) -> Option<UpstreamError> {
    match message.text(":message-type") {
        b"exception" => Some(read_exception(message.text(":exception-type"), message.payload)),
        b"error" => {
            Some(read_stream_error(message.text(":error-code"), message.text(":error-message")))
        }
        _ => None,
    }
}
