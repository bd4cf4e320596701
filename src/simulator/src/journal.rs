//! What the simulator has seen: requests, how they ended, connections, and what it would bill.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use serde_json::Value;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::encoding::form_value;
use crate::multipart::Form;
use crate::route::route;

/// The journal forgets its oldest requests when their bodies are more than this together.
const JOURNAL_BYTES_MAX: usize = 64 << 20;

/// A request as it arrived.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Received {
    /// Counts the simulator's requests from 1, those to fixed paths left out.
    pub id: u64,
    /// Counts the simulator's connections from 1.
    pub connection: u64,
    /// When it had arrived whole.
    pub at: Instant,
    /// The method, as sent; `WEBSOCKET` for a message in one, which has no headers.
    pub method: String,
    /// The path with its query, as sent.
    pub path: String,
    /// The headers in their order. Names keep their case; bytes that are not UTF-8 are replaced.
    pub headers: Vec<(String, String)>,
    /// The body, with any transfer encoding undone.
    pub body: Bytes,
}

impl Received {
    /// The first header of this name, in any case.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut all = self.headers.iter().filter(|(key, _)| key.eq_ignore_ascii_case(name));
        all.next().map(|(_, value)| value.as_str())
    }

    /// The body as JSON, or null if it is not JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    /// The model that is asked for, in the path, the JSON or the form.
    pub fn model(&self) -> Option<String> {
        if let Some(model) = route(&self.path).model {
            return Some(model);
        }
        match Form::read(self) {
            Ok(form) => form.text("model"),
            Err(_) => Some(self.json().get("model")?.as_str()?.to_owned()),
        }
    }

    /// Whether the path or the body asks for a stream.
    pub fn is_stream(&self) -> bool {
        route(&self.path)
            .stream
            .or_else(|| self.json().get("stream").and_then(Value::as_bool))
            .unwrap_or(false)
    }

    /// How the request says who sends it. If it says so in several ways, the first of them in the
    /// order of [`Credential`].
    pub fn credential(&self) -> Credential {
        self.credentials().next().unwrap_or(Credential::None)
    }

    fn credentials(&self) -> impl Iterator<Item = Credential> {
        let authorization = self.header("authorization").unwrap_or_default();
        let signature = authorization.strip_prefix("AWS4-HMAC-SHA256 ").map(|signature| {
            let part = |name: &str| {
                let mut parts = signature.split(',').map(str::trim);
                let part = parts.find_map(|part| part.strip_prefix(name)?.strip_prefix('='));
                part.unwrap_or_default().to_owned()
            };
            Credential::Signature(Signature {
                credential: part("Credential"),
                signed_headers: part("SignedHeaders"),
                signature: part("Signature"),
                date: self.header("x-amz-date").unwrap_or_default().to_owned(),
                session: self.header("x-amz-security-token").map(str::to_owned),
            })
        });
        let bearer = authorization.strip_prefix("Bearer ");
        let headers = ["x-api-key", "api-key", "x-goog-api-key"]
            .into_iter()
            .filter_map(|name| Some(Credential::Header(name, self.header(name)?.to_owned())));
        let query = self.path.split_once('?').map_or("", |(_, query)| query);
        let protocols = self.header("sec-websocket-protocol").unwrap_or_default();
        let protocols = protocols
            .split(',')
            .filter_map(|protocol| protocol.trim().strip_prefix("openai-insecure-api-key."));
        signature
            .into_iter()
            .chain(bearer.map(|token| Credential::Bearer(token.to_owned())))
            .chain(headers)
            .chain(form_value(query, "key").map(Credential::Query))
            .chain(protocols.map(|key| Credential::Protocol(key.to_owned())))
    }

    /// Whether the request has this key, wherever. Of a signature only the name of the key is seen.
    pub(crate) fn carries_key(&self, key: &str) -> bool {
        self.credentials().any(|credential| match credential {
            Credential::Signature(signature) => signature.credential.split('/').next() == Some(key),
            Credential::Bearer(found)
            | Credential::Header(_, found)
            | Credential::Query(found)
            | Credential::Protocol(found) => found == key,
            Credential::None => false,
        })
    }
}

/// How a request says who sends it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Credential {
    /// Amazon's signature, version 4. It is read, not verified.
    Signature(Signature),
    /// `authorization: Bearer`.
    Bearer(String),
    /// A header of its own, by its name: `x-api-key`, `api-key` or `x-goog-api-key`.
    Header(&'static str, String),
    /// `?key=`.
    Query(String),
    /// A websocket's protocol `openai-insecure-api-key.KEY`.
    Protocol(String),
    /// Not at all.
    None,
}

/// The parts of a signature of Amazon's; empty where they are missing.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Signature {
    /// The key's id, the day, the region and the service: `AKIA…/20261122/us-east-1/bedrock/…`.
    pub credential: String,
    /// The names of the headers it covers, separated by semicolons.
    pub signed_headers: String,
    /// The signature itself, in hexadecimal.
    pub signature: String,
    /// The header `x-amz-date`.
    pub date: String,
    /// The header `x-amz-security-token`.
    pub session: Option<String>,
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The answer was written to its end.
    Complete,
    /// The client went away before.
    ClientLeft,
    /// A fault that was asked for broke the answer off.
    Broken,
}

/// How and when a request ended.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Outcome {
    /// The request's [`Received::id`].
    pub id: u64,
    /// How it ended.
    pub end: End,
    /// When that was noticed.
    pub at: Instant,
    /// How many content chunks of a stream had been sent.
    pub chunks: u64,
}

/// What the provider would put on its bill.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Totals {
    /// Requests that were answered by the model; errors cost nothing.
    pub requests: u64,
    /// Their prompt tokens.
    pub prompt_tokens: u64,
    /// Those of them that were read from the provider's cache, and are cheaper.
    pub cached_tokens: u64,
    /// The tokens generated, also those a client did not wait for.
    pub completion_tokens: u64,
}

/// How many connections there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Connections {
    /// Open now.
    pub open: u64,
    /// Ever accepted.
    pub total: u64,
}

#[derive(Debug, Default)]
struct Entries {
    received: VecDeque<Received>,
    outcomes: VecDeque<Outcome>,
    bytes: usize,
    /// How many of `received` have been forgotten.
    forgotten: usize,
    /// How many `next_request` has handed out or passed over. Not an id: two connections can
    /// record their requests in another order than they drew their ids.
    handed_out: usize,
    /// Outcomes that `next_cancelled` has yet to hand out.
    cancelled: VecDeque<Outcome>,
}

/// The journal and the counters.
#[derive(Debug)]
pub(crate) struct Journal {
    capacity: usize,
    entries: Mutex<Entries>,
    /// Its version changes with everything that is recorded.
    changed: watch::Sender<()>,
    requests: AtomicU64,
    open: AtomicU64,
    connections: AtomicU64,
    billed: [AtomicU64; 4],
}

impl std::ops::AddAssign for Totals {
    fn add_assign(&mut self, more: Totals) {
        self.requests += more.requests;
        self.prompt_tokens += more.prompt_tokens;
        self.cached_tokens += more.cached_tokens;
        self.completion_tokens += more.completion_tokens;
    }
}

impl Totals {
    /// One answer to a prompt.
    pub(crate) fn prompt(prompt_tokens: u64, cached_tokens: u64) -> Totals {
        Totals { requests: 1, prompt_tokens, cached_tokens, completion_tokens: 0 }
    }

    /// What was generated for one.
    pub(crate) fn generated(completion_tokens: u64) -> Totals {
        Totals { completion_tokens, ..Totals::default() }
    }
}

impl Journal {
    pub(crate) fn new(capacity: usize) -> Journal {
        Journal {
            capacity,
            entries: Mutex::default(),
            changed: watch::Sender::new(()),
            requests: AtomicU64::new(0),
            open: AtomicU64::new(0),
            connections: AtomicU64::new(0),
            billed: Default::default(),
        }
    }

    fn entries(&self) -> MutexGuard<'_, Entries> {
        // Nothing panics while it holds the lock, and a list of records cannot be half-changed.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn next_id(&self) -> u64 {
        self.requests.fetch_add(1, Relaxed) + 1
    }

    pub(crate) fn record(&self, received: &Received) {
        if self.capacity == 0 {
            return;
        }
        let mut entries = self.entries();
        entries.bytes += received.body.len();
        entries.received.push_back(received.clone());
        while entries.received.len() > self.capacity || entries.bytes > JOURNAL_BYTES_MAX {
            let Some(oldest) = entries.received.pop_front() else { break };
            entries.bytes -= oldest.body.len();
            entries.forgotten += 1;
        }
        drop(entries);
        self.changed.send_replace(());
    }

    pub(crate) fn end(&self, outcome: Outcome) {
        if self.capacity == 0 {
            return;
        }
        let mut entries = self.entries();
        entries.outcomes.push_back(outcome);
        if outcome.end == End::ClientLeft {
            entries.cancelled.push_back(outcome);
        }
        if entries.outcomes.len() > self.capacity {
            entries.outcomes.pop_front();
        }
        if entries.cancelled.len() > self.capacity {
            entries.cancelled.pop_front();
        }
        drop(entries);
        self.changed.send_replace(());
    }

    pub(crate) fn opened(&self) -> u64 {
        self.open.fetch_add(1, Relaxed);
        let number = self.connections.fetch_add(1, Relaxed) + 1;
        self.changed.send_replace(());
        number
    }

    pub(crate) fn closed(&self) {
        self.open.fetch_sub(1, Relaxed);
        self.changed.send_replace(());
    }

    pub(crate) fn bill(&self, more: Totals) {
        let Totals { requests, prompt_tokens, cached_tokens, completion_tokens } = more;
        let more = [requests, prompt_tokens, cached_tokens, completion_tokens];
        for (total, more) in self.billed.iter().zip(more) {
            if more > 0 {
                total.fetch_add(more, Relaxed);
            }
        }
    }

    pub(crate) fn totals(&self) -> Totals {
        let [requests, prompt_tokens, cached_tokens, completion_tokens] =
            [0, 1, 2, 3].map(|index: usize| self.billed[index].load(Relaxed));
        Totals { requests, prompt_tokens, cached_tokens, completion_tokens }
    }

    pub(crate) fn connections(&self) -> Connections {
        Connections { open: self.open.load(Relaxed), total: self.connections.load(Relaxed) }
    }

    pub(crate) fn received(&self) -> Vec<Received> {
        self.entries().received.iter().cloned().collect()
    }

    /// Waits until `look` finds something. It is called again after each change.
    pub(crate) async fn wait<T>(&self, mut look: impl FnMut() -> Option<T>) -> T {
        let mut changed = self.changed.subscribe();
        loop {
            changed.mark_unchanged();
            if let Some(found) = look() {
                return found;
            }
            // The sender lives as long as `self`, so this only ever ends with a change.
            let _ = changed.changed().await;
        }
    }

    pub(crate) async fn next_request(&self) -> Received {
        self.wait(|| {
            let mut entries = self.entries();
            let at = entries.handed_out.max(entries.forgotten);
            let next = entries.received.get(at - entries.forgotten).cloned()?;
            entries.handed_out = at + 1;
            Some(next)
        })
        .await
    }

    pub(crate) async fn wait_for(&self, mut wanted: impl FnMut(&Received) -> bool) -> Received {
        // On a copy, so that the closure may ask the journal something itself.
        self.wait(|| self.received().into_iter().find(|received| wanted(received))).await
    }

    pub(crate) async fn outcome(&self, id: u64) -> Outcome {
        self.wait(|| self.entries().outcomes.iter().find(|outcome| outcome.id == id).copied()).await
    }

    pub(crate) async fn next_cancelled(&self) -> Outcome {
        self.wait(|| self.entries().cancelled.pop_front()).await
    }
}
