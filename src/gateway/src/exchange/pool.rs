//! Connections to providers: Pingora opens them and keeps those of HTTP/2; those of HTTP/1.1 wait
//! here for their next request.

use std::collections::HashMap;
use std::future::Future;
use std::pin::pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use pingora_core::connectors::ConnectorOptions;
use pingora_core::connectors::http::v2;
use pingora_core::protocols::Stream;
use pingora_core::protocols::http::client::HttpSession;
use pingora_core::upstreams::peer::{HttpPeer, Peer};
use pingora_error::Result;
use tokio::io::AsyncReadExt;

use super::http1::Http1;

/// How often waiting connections are looked through for those that were closed or have grown old.
const SWEEP: Duration = Duration::from_secs(5);

/// The address of a provider, and under which key its connections wait: what differs in anything
/// that matters (address, TLS, name) has another key.
pub(super) struct Address {
    pub(super) peer: HttpPeer,
    key: u64,
}

impl Address {
    pub(super) fn new(peer: HttpPeer) -> Address {
        let key = peer.reuse_hash();
        Address { peer, key }
    }
}

/// A connection for one request. Boxed, because futures that hold it are moved.
pub(super) enum Connection {
    Http1(Box<Http1>),
    Http2(Box<HttpSession>),
}

/// Pools of HTTP/1.1 and HTTP/2 connections.
pub(crate) struct Pool {
    /// Its transport opens connections for HTTP/1.1 as well: certificates to trust are read, and
    /// kept, once.
    h2: v2::Connector,
    waiting: Arc<Mutex<Waiting>>,
    size: usize,
}

/// HTTP/1.1 connections between two requests.
#[derive(Default)]
struct Waiting {
    /// The most recently used one last: it is taken first, so that a pool can shrink.
    by_place: HashMap<u64, Vec<Idle>>,
    count: usize,
    /// Whether somebody looks through them from time to time.
    is_swept: bool,
}

struct Idle {
    stream: Stream,
    until: Instant,
}

impl Idle {
    /// Whether nothing has come: a provider that says something unasked, mostly goodbye, has no
    /// answer for the next request. Asks the reactor, not the system.
    fn is_quiet(&mut self) -> bool {
        let mut byte = [0];
        let read = tokio::task::unconstrained(self.stream.read(&mut byte));
        let mut nobody = Context::from_waker(Waker::noop());
        matches!(pin!(read).poll(&mut nobody), Poll::Pending)
    }
}

impl Waiting {
    /// Closes what is old or was closed, and says whether there are others.
    fn sweep(&mut self, now: Instant) -> bool {
        self.by_place.retain(|_, idle| {
            idle.retain_mut(|idle| now < idle.until && idle.is_quiet());
            !idle.is_empty()
        });
        self.count = self.by_place.values().map(Vec::len).sum();
        self.is_swept = self.count > 0;
        self.is_swept
    }
}

impl Pool {
    /// Empty pools that keep up to `size` connections each.
    pub(crate) fn new(size: usize) -> Pool {
        let h2 = v2::Connector::new(Some(ConnectorOptions::new(size)));
        Pool { h2, waiting: Arc::default(), size }
    }

    /// A connection to `place`, and whether it has been used before.
    pub(super) async fn take(&self, place: &Address) -> Result<(Connection, bool)> {
        let peer = &place.peer;
        let speaks_h2 = peer.options.alpn.get_max_http_version() == 2;
        if speaks_h2 && let Some(h2) = self.h2.reused_http_session(peer).await? {
            return Ok((Connection::Http2(Box::new(HttpSession::H2(h2))), true));
        }
        if let Some(stream) = self.take_waiting(place.key) {
            return Ok((Connection::Http1(Box::new(Http1::new(stream))), true));
        }
        // Boxed: the state of a whole TLS handshake, which every request would carry and move,
        // although nearly all take a connection that is open.
        let opened = match speaks_h2 {
            true => match Box::pin(self.h2.new_http_session(peer)).await? {
                HttpSession::H1(h1) => Connection::Http1(Box::new(Http1::new(h1.into_inner()))),
                h2 => Connection::Http2(Box::new(h2)),
            },
            false => Connection::Http1(Box::new(Http1::new(self.dial(peer).await?))),
        };
        Ok((opened, false))
    }

    fn take_waiting(&self, key: u64) -> Option<Stream> {
        let now = Instant::now();
        let mut waiting = self.waiting.lock();
        loop {
            let mut idle = waiting.by_place.get_mut(&key)?.pop()?;
            waiting.count -= 1;
            if now < idle.until && idle.is_quiet() {
                return Some(idle.stream);
            }
        }
    }

    /// A fresh HTTP/1.1 connection that belongs to the caller alone.
    pub(crate) async fn dial(&self, peer: &HttpPeer) -> Result<Stream> {
        Box::pin(self.h2.transport().new_stream(peer)).await
    }

    /// Gives a connection back. One that cannot carry another request is closed.
    pub(super) fn release(&self, connection: Connection, place: &Address) {
        let idle = place.peer.idle_timeout();
        match connection {
            Connection::Http1(http1) => {
                if let Some(stream) = http1.into_reusable() {
                    self.keep(stream, place.key, idle.unwrap_or(Duration::MAX));
                }
            }
            Connection::Http2(session) => {
                if let HttpSession::H2(h2) = *session {
                    self.h2.release_http_session(h2, &place.peer, idle);
                }
            }
        }
    }

    fn keep(&self, stream: Stream, key: u64, time: Duration) {
        let now = Instant::now();
        let Some(until) = now.checked_add(time) else { return };
        let mut idle = Idle { stream, until };
        if !idle.is_quiet() {
            return;
        }
        let mut waiting = self.waiting.lock();
        if waiting.count >= self.size {
            return;
        }
        waiting.count += 1;
        waiting.by_place.entry(key).or_default().push(idle);
        if !std::mem::replace(&mut waiting.is_swept, true) {
            tokio::spawn(sweep(Arc::downgrade(&self.waiting)));
        }
    }
}

/// Looks through the waiting connections for as long as there are any.
async fn sweep(waiting: Weak<Mutex<Waiting>>) {
    loop {
        tokio::time::sleep(SWEEP).await;
        let Some(waiting) = waiting.upgrade() else { return };
        if !waiting.lock().sweep(Instant::now()) {
            return;
        }
    }
}
