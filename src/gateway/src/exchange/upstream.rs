//! One upstream connection in use: written once, read under deadlines, given back or closed.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use pingora_core::protocols::http::client::HttpSession;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_error::ErrorType;
use pingora_http::{RequestHeader, ResponseHeader};

use super::fault::Fault;
use super::pool::Pool;

/// How many informational heads (103 …) may come before the real one.
const INFORMATIONAL_MAX: usize = 8;
/// How long an answer that came before the request was read whole is waited for.
const EARLY_ANSWER: Duration = Duration::from_millis(500);

/// A connection that carries one request. Dropping it closes the connection (HTTP/1.1) or resets
/// the stream (HTTP/2), which is how a provider learns that nobody waits any more.
pub(super) struct Upstream {
    /// `None` once it has been given back.
    session: Option<HttpSession>,
    peer: Arc<HttpPeer>,
    pool: Arc<Pool>,
    provider: &'static str,
    /// When the whole answer must be here.
    deadline: Instant,
    /// How long the whole answer may take, for the message.
    total: Duration,
    /// Whether the connection had been used before.
    pub(super) reused: bool,
}

impl Upstream {
    /// Takes a connection from the pool or opens one.
    pub(super) async fn connect(
        pool: &Arc<Pool>,
        peer: Arc<HttpPeer>,
        provider: &'static str,
        deadline: Instant,
        total: Duration,
    ) -> Result<Upstream, Fault> {
        let opened = pool.take(&peer).await;
        let (mut session, reused) = opened.map_err(|error| match error.etype() {
            ErrorType::ConnectTimedout | ErrorType::TLSHandshakeTimedout => Fault::timeout(
                provider,
                "no connection",
                peer.options.connection_timeout.unwrap_or_default(),
            )
            .with_detail(error.to_string()),
            _ => Fault::connect(provider, error.to_string()),
        })?;
        session.set_write_timeout(peer.options.write_timeout);
        Ok(Upstream {
            session: Some(session),
            peer,
            pool: Arc::clone(pool),
            provider,
            deadline,
            total,
            reused,
        })
    }

    fn session(&mut self) -> &mut HttpSession {
        self.session.as_mut().expect("a connection is given back only when it is consumed")
    }

    /// Writes the request.
    pub(super) async fn write(
        &mut self,
        head: Box<RequestHeader>,
        body: Bytes,
    ) -> Result<(), Fault> {
        let provider = self.provider;
        let session = self.session();
        let written = async {
            session.write_request_header(head).await?;
            session.write_request_body(body, true).await?;
            session.finish_request_body().await
        };
        match written.await {
            Ok(()) => Ok(()),
            Err(error) => {
                // A provider may refuse a request (413, 401) before it has read it whole, and
                // close: what it said is then still there to be read.
                session.set_read_timeout(Some(EARLY_ANSWER));
                let answered = session.read_response_header().await.is_ok()
                    && session.response_header().is_some_and(|head| head.status.as_u16() >= 400);
                if answered {
                    return Ok(());
                }
                Err(Fault::broken(provider, "Connection lost while the request was sent.")
                    .with_detail(error.to_string()))
            }
        }
    }

    /// Waits for the head of the answer, `within` at most, and never past the deadline.
    pub(super) async fn head(
        &mut self,
        within: Option<Duration>,
        now: Instant,
    ) -> Result<(), Fault> {
        if self.session().response_header().is_some() {
            return Ok(());
        }
        let left = self.deadline.saturating_duration_since(now);
        let wait = within.map_or(left, |within| within.min(left));
        for _ in 0..INFORMATIONAL_MAX {
            self.session().set_read_timeout(Some(wait));
            if let Err(error) = self.session().read_response_header().await {
                return Err(self.read_fault(&error, "no answer", wait));
            }
            let informational =
                self.response_header().is_none_or(|head| head.status.is_informational());
            if !informational {
                return Ok(());
            }
        }
        Err(Fault::broken(self.provider, "The provider sent no final answer."))
    }

    /// The head of the answer, once it is there.
    pub(super) fn response_header(&self) -> Option<&ResponseHeader> {
        self.session.as_ref().and_then(HttpSession::response_header)
    }

    /// The next bytes of the answer; `None` at its end. `idle` is how long they may take.
    pub(super) async fn chunk(&mut self, idle: Duration) -> Result<Option<Bytes>, Fault> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(Fault::timeout(self.provider, "the answer was not complete", self.total));
        }
        let wait = idle.min(left);
        self.session().set_read_timeout(Some(wait));
        let read = self.session().read_response_body().await;
        read.map_err(|error| {
            let what =
                if wait < left { "nothing more came" } else { "the answer was not complete" };
            self.read_fault(&error, what, if wait < left { idle } else { self.total })
        })
    }

    fn read_fault(&self, error: &pingora_error::Error, what: &str, after: Duration) -> Fault {
        match error.etype() {
            ErrorType::ReadTimedout => Fault::timeout(self.provider, what, after),
            _ => Fault::broken(self.provider, "Connection lost while the answer was read.")
                .with_detail(error.to_string()),
        }
    }

    /// Gives the connection back to the pool: the answer was read to its end. Pingora itself closes
    /// it where that is not so.
    pub(super) async fn release(&mut self) {
        self.pool.release(&mut self.session, &self.peer).await;
    }
}
