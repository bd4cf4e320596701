//! Upgraded connections: websockets, carried both ways until a side closes.
//!
//! Pingora's loop carries them as well, but takes the end of the request's empty body for the end
//! of the upgraded stream where the upstream answers first, and then closes a fresh websocket.

use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderName, HeaderValue};
use pingora_core::protocols::http::ServerSession;
use pingora_core::protocols::http::v1::client::HttpSession as Http1Session;
use pingora_error::{Error, ErrorType, OrErr, Result};
use pingora_http::RequestHeader;
use tokio::time::timeout;
use tollway_filter_api::trace::Span;
use tollway_filter_api::{Outcome, Rejection};

use crate::exchange::{Pool, final_head, no_answer};
use crate::pass_through::{self, PassThrough};
use crate::state::RequestState;

/// How long a tunnel may be silent in both directions.
pub(crate) const SILENCE: Duration = Duration::from_secs(600);
/// How long the upstream may take to answer the upgrade.
const ANSWER: Duration = Duration::from_secs(30);
/// What belongs to the client's own connection and not to what is carried.
const HOP_BY_HOP: [HeaderName; 6] = [
    http::header::TE,
    http::header::TRAILER,
    http::header::PROXY_AUTHORIZATION,
    TRANSFER_ENCODING,
    CONTENT_LENGTH,
    HeaderName::from_static("keep-alive"),
];

/// Carries an upgrade request.
///
/// # Errors
/// When the upstream cannot be reached or a side breaks the connection.
pub(crate) async fn carry(
    session: &mut ServerSession,
    state: &mut RequestState,
    pool: &Pool,
) -> Result<Outcome> {
    let route = state.pass_through_route()?;
    let span = state.ctx.as_ref().and_then(|ctx| ctx.span.as_deref());
    let head = request_head(route, session.req_header(), span)?;
    let peer = route.peer().await?;
    let stream = Box::pin(pool.dial(&peer)).await.map_err(Error::into_up)?;
    let mut upstream = Http1Session::new(stream);
    upstream.write_request_header(Box::new(head)).await.map_err(Error::into_up)?;
    let answer = timeout(ANSWER, final_head(&mut upstream)).await;
    answer.or_err(ErrorType::ReadTimedout, "the upgrade was not answered")??;

    let mut answer = Box::new(upstream.resp_header().cloned().ok_or_else(no_answer)?);
    pass_through::answer_head(session, &mut answer, state)?;
    let is_upgraded = upstream.was_upgraded() || answer.status == 101;
    if is_upgraded {
        upstream.maybe_upgrade_body_writer();
    } else if !answer.headers.contains_key(CONTENT_LENGTH) {
        answer.insert_header(TRANSFER_ENCODING, HeaderValue::from_static("chunked"))?;
    }
    session.write_response_header(answer).await?;
    session.set_read_timeout(Some(SILENCE));
    let ctx = state.ctx.as_mut();
    let mut nothing = 0;
    let sent = ctx.map_or(&mut nothing, |ctx| &mut ctx.report.bytes_sent);
    if is_upgraded {
        let mut count = |bytes: &[u8]| {
            *sent += bytes.len() as u64;
            Ok(())
        };
        // What only counts ends nothing.
        let _ = both_ways(session, &mut upstream, &mut count).await?;
    } else {
        refused(session, &mut upstream, sent).await?;
    }
    Ok(Outcome::Done)
}

/// The head for the upstream: our path and credentials, and of the connection's own headers only
/// those that make the upgrade.
fn request_head(
    route: &PassThrough,
    asked: &RequestHeader,
    span: Option<&Span>,
) -> Result<RequestHeader> {
    let mut head = asked.clone();
    route.rewrite(asked, &mut head, span)?;
    for name in HOP_BY_HOP {
        head.remove_header(&name);
    }
    // Whatever else the client nominated there is between it and us.
    head.insert_header(CONNECTION, HeaderValue::from_static("Upgrade"))?;
    if !head.headers.contains_key(UPGRADE) {
        return Error::e_explain(ErrorType::InvalidHTTPHeader, "an upgrade to nothing");
    }
    Ok(head)
}

/// Looks at what the upstream sends before the client gets it, and may end the tunnel there.
pub(crate) type Passing<'a> =
    &'a mut (dyn FnMut(&[u8]) -> std::result::Result<(), Rejection> + Send);

/// Carries bytes until a side closes, or `passing` ends it: why.
pub(crate) async fn both_ways(
    session: &mut ServerSession,
    upstream: &mut Http1Session,
    passing: Passing<'_>,
) -> Result<Option<Rejection>> {
    // Two sides that both send and do not read would otherwise wait for each other for ever.
    session.set_write_timeout(Some(SILENCE));
    upstream.write_timeout = Some(SILENCE);
    loop {
        let step = tokio::select! {
            down = session.read_request_body() => Side::Client(down),
            up = upstream.read_body_bytes() => Side::Upstream(up),
            () = tokio::time::sleep(SILENCE) => return Ok(None),
        };
        match step {
            Side::Client(Ok(Some(bytes))) => {
                upstream.write_body(&bytes).await.map_err(Error::into_up)?;
            }
            Side::Upstream(Ok(Some(bytes))) => {
                let passed = passing(&bytes);
                session.write_response_body(bytes, false).await?;
                if let Err(end) = passed {
                    return Ok(Some(end));
                }
            }
            // A side has closed, in order or not: a tunnel ends as a whole.
            Side::Client(_) | Side::Upstream(_) => return Ok(None),
        }
    }
}

enum Side {
    Client(Result<Option<Bytes>>),
    Upstream(Result<Option<Bytes>>),
}

/// Passes an answer on that is no upgrade.
async fn refused(
    session: &mut ServerSession,
    upstream: &mut Http1Session,
    sent: &mut u64,
) -> Result<()> {
    upstream.read_timeout = Some(ANSWER);
    while let Some(bytes) = upstream.read_body_bytes().await.map_err(Error::into_up)? {
        *sent += bytes.len() as u64;
        session.write_response_body(bytes, false).await?;
    }
    session.write_response_body(Bytes::new(), true).await
}
