//! One HTTP/1.1 connection to a provider, for one request after the other.
//!
//! Pingora makes the connection; what goes over it is written and read here, because Pingora's own
//! session has buffers of 64 KiB and a timer for each read, where a gateway has thousands of streams
//! that say a few words now and then.

use std::collections::VecDeque;
use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use pingora_core::protocols::Stream;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tollway_providers::UpstreamBody;

use super::framing::{Answer, Head, Malformed, Piece};

/// How much is read at once. A stream that says a few words at a time never needs more.
const READ_BYTES: usize = 2 * 1024;
/// A smaller rest of the buffer is not worth a read: it begins anew.
const READ_BYTES_MIN: usize = 512;
/// How much is read at once where the last read was full, or the answer is known to be large.
const READ_BYTES_MAX: usize = 64 * 1024;
/// A body up to this size is copied behind its head, so that both leave as one write and one TLS
/// record.
pub(super) const JOINED_BYTES_MAX: usize = 16 * 1024;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum Broken {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Malformed(#[from] Malformed),
}

/// A connection that carries a request. Dropping it closes the connection.
pub(super) struct Http1 {
    stream: Stream,
    /// What was read and not yet taken.
    read: BytesMut,
    /// Whether the last read took all the room there was.
    was_full: bool,
    /// Whether any byte of an answer has come.
    was_heard: bool,
    answer: Answer,
    head: Option<Head>,
    /// What of the request is not written yet.
    unwritten: Unwritten,
}

/// What is left of a request.
#[derive(Default)]
struct Unwritten {
    pieces: VecDeque<Bytes>,
    /// Whether everything was written and flushed.
    is_done: bool,
}

impl Buf for Unwritten {
    fn remaining(&self) -> usize {
        self.pieces.iter().map(Bytes::len).sum()
    }

    fn chunk(&self) -> &[u8] {
        self.pieces.front().map_or(&[], |piece| piece)
    }

    fn advance(&mut self, mut written: usize) {
        while let Some(first) = self.pieces.front_mut() {
            if written < first.len() {
                return first.advance(written);
            }
            written -= first.len();
            self.pieces.pop_front();
        }
    }

    fn chunks_vectored<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let both = slices.iter_mut().zip(&self.pieces);
        both.map(|(slice, piece)| *slice = IoSlice::new(piece)).count()
    }
}

impl Http1 {
    /// Takes a connection on which nothing is under way.
    pub(super) fn new(stream: Stream) -> Http1 {
        Http1 {
            stream,
            read: BytesMut::new(),
            was_full: false,
            was_heard: false,
            answer: Answer::new(),
            head: None,
            unwritten: Unwritten::default(),
        }
    }

    /// Says what is to be sent. `head` ends with the empty line.
    pub(super) fn request(&mut self, mut head: Vec<u8>, body: &UpstreamBody) {
        let mut pieces = VecDeque::with_capacity(1);
        if body.length() <= JOINED_BYTES_MAX {
            [&body.bytes].into_iter().chain(&body.rest).for_each(|b| head.extend_from_slice(b));
            pieces.push_back(head.into());
        } else {
            pieces.push_back(head.into());
            pieces.push_back(body.bytes.clone());
            pieces.extend(body.rest.iter().cloned());
        }
        self.unwritten = Unwritten { pieces, is_done: false };
    }

    /// Sends some of the request; true once all of it is sent.
    pub(super) fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        if self.unwritten.has_remaining() {
            let write = self.stream.write_buf(&mut self.unwritten);
            if ready!(pin!(write).poll(cx))? == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            if self.unwritten.has_remaining() {
                return Poll::Ready(Ok(false));
            }
        }
        ready!(pin!(self.stream.flush()).poll(cx))?;
        self.unwritten.is_done = true;
        Poll::Ready(Ok(true))
    }

    /// Whether any byte of an answer has come.
    pub(super) fn was_heard(&self) -> bool {
        self.was_heard
    }

    /// The head of the answer, once it was read.
    pub(super) fn head(&self) -> Option<&Head> {
        self.head.as_ref()
    }

    /// Reads the next head of the answer; true if it is that of the answer itself.
    pub(super) fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<bool, Broken>> {
        loop {
            if !self.read.is_empty()
                && let Some(head) = self.answer.head(&mut self.read)?
            {
                let is_final = !head.status.is_informational();
                self.head = is_final.then_some(head);
                return Poll::Ready(Ok(is_final));
            }
            if ready!(self.poll_read(cx))? == 0 {
                return Poll::Ready(Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()));
            }
        }
    }

    /// The next bytes of the body; `None` at its end.
    pub(super) fn poll_body(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<Bytes>, Broken>> {
        loop {
            match self.answer.body(&mut self.read)? {
                Piece::Bytes(bytes) => return Poll::Ready(Ok(Some(bytes))),
                Piece::End => return Poll::Ready(Ok(None)),
                Piece::NotYet => {
                    if ready!(self.poll_read(cx))? == 0 {
                        self.answer.closed()?;
                    }
                }
            }
        }
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.read.capacity() - self.read.len() < READ_BYTES_MIN {
            // Takes the old memory where all that was given out of it is gone.
            let least = if self.was_full { READ_BYTES_MAX / 4 } else { READ_BYTES };
            self.read.reserve(self.answer.missing().clamp(least, READ_BYTES_MAX));
        }
        let read = ready!(pin!(self.stream.read_buf(&mut self.read)).poll(cx))?;
        self.was_full = self.read.len() == self.read.capacity();
        self.was_heard |= read > 0;
        Poll::Ready(Ok(read))
    }

    /// The connection, if the answer was read to its end and another request may follow.
    pub(super) fn into_reusable(self) -> Option<Stream> {
        let is_clean = self.read.is_empty() && self.unwritten.is_done;
        (is_clean && self.answer.keeps_connection()).then_some(self.stream)
    }
}
