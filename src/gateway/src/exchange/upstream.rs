//! One upstream connection in use: written once, read under deadlines, given back or closed.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::CONTENT_LENGTH;
use http::{HeaderMap, HeaderValue, StatusCode};
use pingora_core::protocols::http::client::HttpSession;
use pingora_error::ErrorType;
use pingora_http::RequestHeader;
use tokio::time::Sleep;
use tollway_providers::UpstreamBody;

use super::fault::{Cause, Fault};
use super::http1::{Broken, Http1, JOINED_BYTES_MAX};
use super::pool::{Address, Connection, Pool};

/// How many informational heads (103 …) may come before the real one.
const INFORMATIONAL_MAX: usize = 8;
/// How long an answer that came before the request was read whole is waited for.
const EARLY_ANSWER: Duration = Duration::from_millis(500);

/// A connection that carries one request. Dropping it closes the connection (HTTP/1.1) or resets
/// the stream (HTTP/2), which is how a provider learns that nobody waits any more.
pub(super) struct Upstream {
    /// `None` once it has been given back.
    connection: Option<Connection>,
    place: Arc<Address>,
    pool: Arc<Pool>,
    provider: &'static str,
    /// When the whole answer must be here.
    deadline: Instant,
    /// How long the whole answer may take, for the message.
    total: Duration,
    /// Whether the connection had been used before.
    pub(super) reused: bool,
    patience: Patience,
}

/// The head of an answer.
pub(super) struct AnswerHead<'a> {
    pub(super) status: StatusCode,
    pub(super) headers: &'a HeaderMap,
}

/// Why nothing came.
enum Failure {
    TimedOut,
    Broken(String),
}

impl From<Broken> for Failure {
    fn from(broken: Broken) -> Failure {
        Failure::Broken(broken.to_string())
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Failure {
        Failure::Broken(error.to_string())
    }
}

impl From<Box<pingora_error::Error>> for Failure {
    fn from(error: Box<pingora_error::Error>) -> Failure {
        match error.etype() {
            ErrorType::ReadTimedout => Failure::TimedOut,
            _ => Failure::Broken(error.to_string()),
        }
    }
}

impl Upstream {
    /// Takes a connection from the pool or opens one.
    pub(super) async fn connect(
        pool: &Arc<Pool>,
        place: Arc<Address>,
        provider: &'static str,
        deadline: Instant,
        total: Duration,
    ) -> Result<Upstream, Fault> {
        let opened = pool.take(&place).await;
        let (connection, reused) = opened.map_err(|error| match error.etype() {
            ErrorType::ConnectTimedout | ErrorType::TLSHandshakeTimedout => Fault::timeout(
                provider,
                "no connection",
                place.peer.options.connection_timeout.unwrap_or_default(),
            )
            .with_detail(error.to_string()),
            _ => Fault::connect(provider, error.to_string()),
        })?;
        Ok(Upstream {
            connection: Some(connection),
            place,
            pool: Arc::clone(pool),
            provider,
            deadline,
            total,
            reused,
            patience: Patience::default(),
        })
    }

    fn connection(&mut self) -> (&mut Connection, &mut Patience) {
        let connection = self.connection.as_mut();
        let given_back = "a connection is given back only when it is consumed";
        (connection.expect(given_back), &mut self.patience)
    }

    /// Writes the request.
    pub(super) async fn write(
        &mut self,
        head: &Prepared,
        body: &UpstreamBody,
    ) -> Result<(), Fault> {
        let provider = self.provider;
        let timeout = self.place.peer.options.write_timeout.unwrap_or(self.total);
        let (connection, patience) = self.connection();
        let written = match connection {
            Connection::Http1(http1) => {
                http1.request(head.http1(body), body);
                write_http1(http1, patience, timeout).await
            }
            Connection::Http2(session) => {
                session.set_write_timeout(Some(timeout));
                Box::pin(write_http2(session, head.http2(body), body)).await
            }
        };
        let Err(failure) = written else { return Ok(()) };
        // A provider may refuse a request (413, 401) before it has read it whole, and close: what
        // it said is then still there to be read.
        let early = Instant::now() + EARLY_ANSWER;
        if self.read_head(early).await.is_ok()
            && self.response_header().is_some_and(|head| head.status.as_u16() >= 400)
        {
            return Ok(());
        }
        let detail = match failure {
            Failure::TimedOut => "it took no more of the request".to_owned(),
            Failure::Broken(why) => why,
        };
        Err(Fault::broken(provider, "Connection lost while the request was sent.")
            .with_detail(detail))
    }

    /// Waits for the head of the answer, `within` at most, and never past the deadline.
    pub(super) async fn head(
        &mut self,
        within: Option<Duration>,
        now: Instant,
    ) -> Result<(), Fault> {
        if self.response_header().is_some() {
            return Ok(());
        }
        let left = self.deadline.saturating_duration_since(now);
        let wait = within.map_or(left, |within| within.min(left));
        let read = self.read_head(now + wait).await;
        read.map_err(|failure| self.read_fault(failure, "no answer", wait))
    }

    /// Reads the head of the answer, and those that come before it.
    async fn read_head(&mut self, until: Instant) -> Result<(), Failure> {
        let (connection, patience) = self.connection();
        for _ in 0..INFORMATIONAL_MAX {
            let is_final = match connection {
                Connection::Http1(http1) => {
                    patience.wait(until, |cx| http1.poll_head(cx)).await??
                }
                Connection::Http2(session) => {
                    let wait = until.saturating_duration_since(Instant::now());
                    session.set_read_timeout(Some(wait));
                    session.read_response_header().await?;
                    session.response_header().is_some_and(|head| !head.status.is_informational())
                }
            };
            if is_final {
                return Ok(());
            }
        }
        Err(Failure::Broken("The provider sent no final answer.".to_owned()))
    }

    /// Whether the connection had been used before and was closed without a word, as happens where
    /// the provider closes it in the very moment it is taken: the request may be sent once more.
    pub(super) fn was_closed_meanwhile(&self, fault: &Fault) -> bool {
        let was_heard = match &self.connection {
            Some(Connection::Http1(http1)) => http1.was_heard(),
            Some(Connection::Http2(_)) | None => self.response_header().is_some(),
        };
        self.reused && !was_heard && fault.cause == Cause::Broken
    }

    /// The head of the answer, once it is there.
    pub(super) fn response_header(&self) -> Option<AnswerHead<'_>> {
        match self.connection.as_ref()? {
            Connection::Http1(http1) => {
                http1.head().map(|head| AnswerHead { status: head.status, headers: &head.headers })
            }
            Connection::Http2(session) => session
                .response_header()
                .map(|head| AnswerHead { status: head.status, headers: &head.headers }),
        }
    }

    /// The next bytes of the answer; `None` at its end. `idle` is how long they may take.
    pub(super) async fn chunk(&mut self, idle: Duration) -> Result<Option<Bytes>, Fault> {
        let now = Instant::now();
        let left = self.deadline.saturating_duration_since(now);
        if left.is_zero() {
            return Err(Fault::timeout(self.provider, "the answer was not complete", self.total));
        }
        let wait = idle.min(left);
        let (connection, patience) = self.connection();
        let read = match connection {
            Connection::Http1(http1) => {
                let read = patience.wait(now + wait, |cx| http1.poll_body(cx)).await;
                read.and_then(|read| read.map_err(Failure::from))
            }
            Connection::Http2(session) => {
                session.set_read_timeout(Some(wait));
                session.read_response_body().await.map_err(Failure::from)
            }
        };
        read.map_err(|failure| {
            let (what, after) = match wait < left {
                true => ("nothing more came", idle),
                false => ("the answer was not complete", self.total),
            };
            self.read_fault(failure, what, after)
        })
    }

    fn read_fault(&self, failure: Failure, what: &str, after: Duration) -> Fault {
        match failure {
            Failure::TimedOut => Fault::timeout(self.provider, what, after),
            Failure::Broken(why) => {
                Fault::broken(self.provider, "Connection lost while the answer was read.")
                    .with_detail(why)
            }
        }
    }

    /// Gives the connection back to the pool: the answer was read to its end. It is closed where
    /// that is not so.
    pub(super) async fn release(&mut self) {
        if let Some(connection) = self.connection.take() {
            self.pool.release(connection, &self.place);
        }
    }
}

/// Writes a request that was handed over. `timeout` is how long a provider may take none of it.
async fn write_http1(
    http1: &mut Http1,
    patience: &mut Patience,
    timeout: Duration,
) -> Result<(), Failure> {
    loop {
        let until = Instant::now() + timeout;
        if patience.wait(until, |cx| http1.poll_write(cx)).await?? {
            return Ok(());
        }
    }
}

async fn write_http2(
    session: &mut HttpSession,
    head: pingora_error::Result<Box<RequestHeader>>,
    body: &UpstreamBody,
) -> Result<(), Failure> {
    session.write_request_header(head?).await?;
    session.write_request_body(body.bytes.clone(), body.rest.is_empty()).await?;
    for (at, piece) in body.rest.iter().enumerate() {
        session.write_request_body(piece.clone(), at + 1 == body.rest.len()).await?;
    }
    Ok(session.finish_request_body().await?)
}

/// The head of the requests to one endpoint, but for what depends on the body.
pub(super) struct Prepared {
    head: RequestHeader,
    /// The same as it stands on the wire, without the empty line.
    bytes: Vec<u8>,
}

impl Prepared {
    pub(super) fn new(head: RequestHeader) -> Prepared {
        let mut bytes = Vec::with_capacity(512);
        bytes.extend_from_slice(head.method.as_str().as_bytes());
        bytes.push(b' ');
        bytes.extend_from_slice(head.raw_path());
        bytes.extend_from_slice(b" HTTP/1.1\r\n");
        for (name, value) in &head.headers {
            push_header(&mut bytes, name.as_str(), value.as_bytes());
        }
        Prepared { head, bytes }
    }

    pub(super) fn head(&self) -> &RequestHeader {
        &self.head
    }

    fn http1(&self, body: &UpstreamBody) -> Vec<u8> {
        let joined = if body.length() <= JOINED_BYTES_MAX { body.length() } else { 0 };
        let mut bytes = Vec::with_capacity(self.bytes.len() + 256 + joined);
        bytes.extend_from_slice(&self.bytes);
        let mut length = itoa::Buffer::new();
        let length = length.format(body.length());
        push_header(&mut bytes, CONTENT_LENGTH.as_str(), length.as_bytes());
        // After those of the config: `anthropic-beta` may be there already.
        for (name, value) in &body.headers {
            push_header(&mut bytes, name.as_str(), value.as_bytes());
        }
        bytes.extend_from_slice(b"\r\n");
        bytes
    }

    fn http2(&self, body: &UpstreamBody) -> pingora_error::Result<Box<RequestHeader>> {
        let mut head = Box::new(self.head.clone());
        head.insert_header(CONTENT_LENGTH, HeaderValue::from(body.length()))?;
        for (name, value) in &body.headers {
            head.append_header(name.clone(), value.clone())?;
        }
        Ok(head)
    }
}

fn push_header(bytes: &mut Vec<u8>, name: &str, value: &[u8]) {
    bytes.extend_from_slice(name.as_bytes());
    bytes.extend_from_slice(b": ");
    bytes.extend_from_slice(value);
    bytes.extend_from_slice(b"\r\n");
}

/// The timer of a connection: one for all of its waits. It is set for the first of them, and moved
/// only when it goes off too early, so that a stream that never stalls costs it nothing.
#[derive(Default)]
struct Patience {
    timer: Option<Pin<Box<Sleep>>>,
}

impl Patience {
    /// Waits for `what`, but not longer than `until`.
    async fn wait<T>(
        &mut self,
        until: Instant,
        mut what: impl FnMut(&mut Context<'_>) -> Poll<T>,
    ) -> Result<T, Failure> {
        poll_fn(|cx| {
            if let Poll::Ready(done) = what(cx) {
                return Poll::Ready(Ok(done));
            }
            ready!(self.poll_passed(until, cx));
            Poll::Ready(Err(Failure::TimedOut))
        })
        .await
    }

    fn poll_passed(&mut self, until: Instant, cx: &mut Context<'_>) -> Poll<()> {
        let until = tokio::time::Instant::from_std(until);
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(until)));
        if timer.deadline() > until {
            timer.as_mut().reset(until);
        }
        loop {
            ready!(timer.as_mut().poll(cx));
            if timer.deadline() >= until {
                return Poll::Ready(());
            }
            timer.as_mut().reset(until);
        }
    }
}
