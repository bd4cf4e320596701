//! Reads a request's body whole, within a limit, a deadline and a budget of memory for all of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, EXPECT};
use pingora_core::protocols::http::ServerSession;
use tokio::time::{Instant, timeout_at};
use tollway_filter_api::{Reject, Rejection};

/// As long as anybody waits for a body, where the config says longer than there are times.
const PATIENCE_MAX: Duration = Duration::from_secs(24 * 3600);

/// Bytes of request bodies that may be held at once, by all requests together.
pub(crate) struct BodyMemory {
    left: AtomicUsize,
}

/// A share of [`BodyMemory`], given back when dropped.
pub(crate) struct Held {
    memory: Arc<BodyMemory>,
    bytes: usize,
}

impl BodyMemory {
    pub(crate) fn new(bytes: usize) -> Arc<BodyMemory> {
        Arc::new(BodyMemory { left: AtomicUsize::new(bytes) })
    }

    fn hold(self: &Arc<Self>) -> Held {
        Held { memory: Arc::clone(self), bytes: 0 }
    }
}

impl Held {
    /// Takes more, if there is.
    fn grow(&mut self, by: usize) -> bool {
        let taken = self
            .memory
            .left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(by));
        if taken.is_ok() {
            self.bytes += by;
        }
        taken.is_ok()
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.memory.left.fetch_add(self.bytes, Ordering::Relaxed);
    }
}

/// Why there is no body.
pub(crate) enum BodyError {
    /// The client is to be told.
    Rejected(Rejection),
    /// The client left.
    Gone(Box<pingora_error::Error>),
}

/// Reads the whole body.
///
/// A declared length over `max` is refused before a byte is read; an undeclared one as soon as it
/// is passed.
pub(crate) async fn read(
    session: &mut ServerSession,
    max: usize,
    patience: Duration,
    memory: &Arc<BodyMemory>,
) -> Result<(Bytes, Held), BodyError> {
    let declared = session.req_header().headers.get(CONTENT_LENGTH);
    let declared = declared.and_then(|value| value.to_str().ok()?.trim().parse::<usize>().ok());
    if declared.is_some_and(|declared| declared > max) {
        refuse_packed(session)?;
        return Err(too_large(max));
    }
    let mut held = memory.hold();
    if !held.grow(declared.unwrap_or(0)) {
        return Err(busy());
    }
    let (whole, _) = pieces(session, max, patience, &mut held, declared, &mut |_| false).await?;
    Ok((whole, held))
}

/// Reads a body until `is_enough` says so of what is there, or until its end. What was read, and
/// whether it was enough before that.
///
/// Nothing is refused for its declared length, because it may be somebody else's to take.
pub(crate) async fn read_until(
    session: &mut ServerSession,
    max: usize,
    patience: Duration,
    memory: &Arc<BodyMemory>,
    is_enough: &mut (dyn FnMut(&[u8]) -> bool + Send),
) -> Result<(Bytes, Held, bool), BodyError> {
    let mut held = memory.hold();
    let (read, enough) = pieces(session, max, patience, &mut held, None, is_enough).await?;
    Ok((read, held, enough))
}

fn too_large(max: usize) -> BodyError {
    let message = format!("Request body is too large: at most {max} bytes are accepted.");
    BodyError::Rejected(
        Reject::new(413, "invalid_request_error", message).with_code("request_too_large"),
    )
}

fn refuse_packed(session: &ServerSession) -> Result<(), BodyError> {
    let packing = session.req_header().headers.get(CONTENT_ENCODING);
    if packing.is_some_and(|value| value.as_bytes() != b"identity") {
        let message = "Compressed request bodies are not accepted; send it plain.";
        return Err(BodyError::Rejected(Reject::new(415, "invalid_request_error", message)));
    }
    Ok(())
}

async fn pieces(
    session: &mut ServerSession,
    max: usize,
    patience: Duration,
    held: &mut Held,
    declared: Option<usize>,
    is_enough: &mut (dyn FnMut(&[u8]) -> bool + Send),
) -> Result<(Bytes, bool), BodyError> {
    refuse_packed(session)?;
    // Pingora answers this only when an upstream does; a client that waits for it would wait for
    // ever, because here the body is read first.
    let headers = &session.req_header().headers;
    let waits =
        headers.get(EXPECT).is_some_and(|v| v.as_bytes().eq_ignore_ascii_case(b"100-continue"));
    if waits {
        session.write_continue_response().await.map_err(BodyError::Gone)?;
    }

    let now = Instant::now();
    let until = now.checked_add(patience).unwrap_or(now + PATIENCE_MAX);
    let mut whole = Whole::default();
    loop {
        // Pingora's own limit is 60 s for each read of HTTP/1.1, and none for HTTP/2.
        let read = match timeout_at(until, session.read_request_body()).await {
            Ok(read) => read.map_err(BodyError::Gone)?,
            Err(_) => {
                let message = "Request body did not arrive in time.";
                let reject = Reject::new(408, "invalid_request_error", message);
                return Err(BodyError::Rejected(reject.with_code("request_timeout")));
            }
        };
        let Some(bytes) = read else { break };
        let len = whole.len() + bytes.len();
        if len > max {
            return Err(too_large(max));
        }
        if len > held.bytes && !held.grow(len - held.bytes) {
            return Err(busy());
        }
        whole.push(bytes, declared);
        if is_enough(whole.bytes()) {
            return Ok((whole.into_bytes(), true));
        }
        // The usual case, a body in one piece, needs no second read to learn that it is over.
        if session.is_body_done() {
            break;
        }
    }
    Ok((whole.into_bytes(), false))
}

fn busy() -> BodyError {
    let message = "The gateway holds too many request bodies at the moment.";
    let mut reject = Reject::new(503, "internal_server_error", message).with_code("overloaded");
    reject.retry_after = Some(Duration::from_secs(1));
    BodyError::Rejected(reject)
}

/// Pieces of a body; a single one is not copied.
#[derive(Default)]
struct Whole {
    first: Bytes,
    rest: BytesMut,
}

impl Whole {
    fn len(&self) -> usize {
        self.first.len() + self.rest.len()
    }

    fn bytes(&self) -> &[u8] {
        if self.rest.is_empty() { &self.first } else { &self.rest }
    }

    fn push(&mut self, bytes: Bytes, declared: Option<usize>) {
        if self.first.is_empty() && self.rest.is_empty() {
            self.first = bytes;
            return;
        }
        if self.rest.is_empty() {
            self.rest.reserve(declared.unwrap_or(0).max(2 * (self.first.len() + bytes.len())));
            self.rest.extend_from_slice(&std::mem::take(&mut self.first));
        }
        self.rest.extend_from_slice(&bytes);
    }

    fn into_bytes(self) -> Bytes {
        if self.rest.is_empty() { self.first } else { self.rest.freeze() }
    }
}
