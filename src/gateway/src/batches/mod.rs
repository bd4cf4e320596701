//! What batches cost, which nobody knows before they end: who began one is noted when it begins, and
//! billed once when somebody sees that it has ended.
//!
//! Of a batch that begins, a document is kept (`kept`). It is seen in the answers to clients who ask
//! for it, and by a task that asks its provider from time to time (`watch`, `ask`). Whoever sees
//! first that it has ended finds out what it took (`tally`), and changes the document and writes the
//! ledger's lines in one transaction (`bill`).

mod ask;
mod bill;
mod kept;
mod tally;
mod watch;

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::Method;
use parking_lot::Mutex;
use pingora_core::protocols::http::v1::client::HttpSession as Http1Session;
use pingora_error::{Error, Result};
use pingora_http::RequestHeader;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tollway_filter_api::RequestCtx;
use tollway_filter_api::documents::{self, Document, Documents};
use tollway_filter_api::ledger::StoreError;
use tollway_wire::batch::Batch;

use crate::exchange::Endpoint;
use crate::random;
use crate::state::{Gateway, Generation};
use kept::Kept;
pub(crate) use watch::watch;

/// How much of an answer is looked at: a batch takes a few KiB.
const LOOKED_AT: usize = 64 * 1024;
/// How long an answer waits until it is noted who has begun a batch.
const NOTED_WITHIN: Duration = Duration::from_secs(5);
/// How many batches can wait to be looked at. Those beyond are seen when their provider is asked.
const WAITING_MAX: usize = 256;

/// What an answer says about a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sight {
    /// It has begun.
    Begun,
    /// How it stands.
    Seen,
}

/// What the answer to a request will say about a batch, if anything.
pub(crate) fn sight(head: &RequestHeader) -> Option<Sight> {
    let path = head.uri.path();
    let rest = path.strip_prefix("/v1").unwrap_or(path).strip_prefix("/batches")?;
    let mut pieces = rest.split('/').filter(|piece| !piece.is_empty());
    match (pieces.next(), pieces.next(), &head.method) {
        (None, _, &Method::POST) => Some(Sight::Begun),
        (Some(_), None, &Method::GET) | (Some(_), Some("cancel"), &Method::POST) => {
            Some(Sight::Seen)
        }
        _ => None,
    }
}

/// Something that is to be done about a batch.
enum Event {
    /// It could not be noted yet.
    Begun(Document),
    /// It has ended, says the provider.
    Ended(Arc<Endpoint>, Batch),
}

/// Batches that wait to be looked at. Lives as long as the process.
pub(crate) struct Batches {
    events: mpsc::Sender<Event>,
    waiting: Mutex<Option<mpsc::Receiver<Event>>>,
    /// Tells this process from earlier ones of the same node.
    process: String,
}

impl Default for Batches {
    fn default() -> Batches {
        let (events, waiting) = mpsc::channel(WAITING_MAX);
        let process = random::unguessable();
        Batches { events, waiting: Mutex::new(Some(waiting)), process }
    }
}

impl Batches {
    fn tell(&self, event: Event) -> bool {
        self.events.try_send(event).is_ok()
    }

    /// What this process holds documents as.
    fn holder(&self, gateway: &Gateway) -> Arc<str> {
        format!("{} {}", gateway.money.books.status().node, self.process).into()
    }
}

/// Reads the beginning of an answer, all of it where it is a batch, and takes note of the batch. What
/// was read is to be passed on.
pub(crate) async fn look(
    gateway: &Gateway,
    generation: &Generation,
    ctx: &RequestCtx,
    (upstream, endpoint): (&mut Http1Session, &Arc<Endpoint>),
    (sight, group): (Sight, Option<Arc<str>>),
) -> Result<Bytes> {
    let status = upstream.resp_header().map_or(0, |head| head.status.as_u16());
    if !(200..300).contains(&status) {
        return Ok(Bytes::new());
    }
    upstream.read_timeout = Some(endpoint.deadlines.idle);
    let mut held = BytesMut::new();
    while held.len() <= LOOKED_AT {
        let Some(piece) = upstream.read_body_bytes().await.map_err(Error::into_up)? else { break };
        held.extend_from_slice(&piece);
    }
    let held = held.freeze();
    let batch = Batch::read(&held).filter(|batch| is_name(&batch.id));
    match (sight, batch) {
        (Sight::Begun, Some(batch)) => {
            let kept = Kept::begun(generation, ctx, endpoint, group, &batch);
            note(gateway, kept.document(generation, gateway.clock.unix())).await;
            // A provider may answer an earlier request once more.
            if batch.is_over() {
                gateway.batches.tell(Event::Ended(Arc::clone(endpoint), batch));
            }
        }
        (Sight::Begun, None) => {
            let provider = endpoint.provider.name();
            tracing::error!(provider, "a batch that cannot be read has begun: it is not billed");
        }
        (Sight::Seen, Some(batch)) if batch.is_over() => {
            gateway.batches.tell(Event::Ended(Arc::clone(endpoint), batch));
        }
        (Sight::Seen, _) => {}
    }
    Ok(held)
}

/// Notes that a batch has begun: now, or as soon as the store is there.
async fn note(gateway: &Gateway, document: Document) {
    let id = Arc::clone(&document.id);
    let put = put(gateway, document.clone());
    let why = match timeout(NOTED_WITHIN, put).await {
        // The other one was first: a provider answers the same request with the same batch.
        Ok(Ok(_) | Err(StoreError::Conflict(_))) => return,
        Ok(Err(error)) => error.to_string(),
        Err(_) => "it does not answer".to_owned(),
    };
    match gateway.batches.tell(Event::Begun(document)) {
        true => tracing::warn!(%why, "the store cannot note yet that a batch has begun"),
        false => {
            tracing::error!(%id, %why, "a batch has begun and cannot be noted: it is not billed")
        }
    }
}

/// Writes one document.
async fn put(gateway: &Gateway, document: Document) -> std::result::Result<u64, StoreError> {
    let batch = documents::Batch { put: vec![document], ..documents::Batch::default() };
    let versions = gateway.money.store().write(batch).await?;
    Ok(versions.first().copied().unwrap_or_default())
}

/// Whether a provider's id can be part of a path.
fn is_name(id: &str) -> bool {
    let is_sane = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte);
    (1..=256).contains(&id.len()) && id.bytes().all(is_sane) && id.bytes().any(|byte| byte != b'.')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_that_are_batches_are_looked_at() {
        let check = |method: Method, path: &str, expect: Option<Sight>| {
            let head = RequestHeader::build(method, path.as_bytes(), None).expect("a head");
            assert_eq!(sight(&head), expect, "{path}");
        };
        check(Method::POST, "/v1/batches", Some(Sight::Begun));
        check(Method::POST, "/batches/?model=a", Some(Sight::Begun));
        check(Method::GET, "/v1/batches/batch_1", Some(Sight::Seen));
        check(Method::POST, "/v1/batches/batch_1/cancel", Some(Sight::Seen));
        for path in ["/v1/batches", "/v1/files/a", "/v1/batches/a/b", "/v1/files"] {
            check(Method::GET, path, None);
        }
        check(Method::POST, "/v1/files", None);
    }

    #[test]
    fn only_names_are_asked_for() {
        for name in ["batch_68b1-x", "file.1:2"] {
            assert!(is_name(name), "{name}");
        }
        for wrong in ["", ".", "..", "a/b", "a?b", "é", "a b", &"x".repeat(257)] {
            assert!(!is_name(wrong), "{wrong}");
        }
    }
}
