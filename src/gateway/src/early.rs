//! Answers that are given before the request was read to its end: refusals above all.

use std::time::Duration;

use pingora_core::protocols::http::ServerSession;
use pingora_error::Result;
use tollway_filter_api::{Answer, Outcome, Rejection, RequestCtx};

use crate::respond;
use crate::state::Generation;

/// Answers without a model.
pub(crate) async fn finish(
    session: &mut ServerSession,
    generation: &Generation,
    ctx: &mut RequestCtx,
    answer: Result<Answer, Rejection>,
) -> Result<Outcome> {
    match answer {
        Ok(answer) => {
            drain(session).await;
            if !session.is_body_done() {
                session.set_keepalive(None);
            }
            respond::answer(session, &generation.chain, ctx, answer).await?;
            Ok(Outcome::Done)
        }
        Err(reject) => refuse(session, generation, ctx, reject).await,
    }
}

/// Refuses.
pub(crate) async fn refuse(
    session: &mut ServerSession,
    generation: &Generation,
    ctx: &mut RequestCtx,
    reject: Rejection,
) -> Result<Outcome> {
    drain(session).await;
    if !session.is_body_done() {
        // Pingora would otherwise read the rest, whatever its length, to use the connection again.
        session.set_keepalive(None);
    }
    let codes = generation.config.error_codes;
    respond::reject(session, &generation.chain, ctx, *reject, codes).await?;
    linger(session).await;
    Ok(Outcome::Done)
}

/// Reads and forgets for a moment what a refused client is still sending. Closing at once would reset
/// the connection, and many clients would then report the reset instead of the answer.
pub(crate) async fn linger(session: &mut ServerSession) {
    const WAIT: Duration = Duration::from_secs(1);
    const BYTES_MAX: usize = 1024 * 1024;
    if session.is_body_done() || session.is_http2() {
        return;
    }
    let rest = async {
        let mut left = BYTES_MAX;
        while let Ok(Some(bytes)) = session.read_request_body().await {
            left = left.saturating_sub(bytes.len());
            if left == 0 {
                break;
            }
        }
    };
    let _ = tokio::time::timeout(WAIT, rest).await;
}

/// Takes a small rest of a body off the connection before the head of an early answer is written,
/// so that the connection stays usable. What is large or slow is left, and Pingora closes.
async fn drain(session: &mut ServerSession) {
    const BYTES_MAX: usize = 64 * 1024;
    const WAIT: Duration = Duration::from_millis(100);
    if session.is_body_done() {
        return;
    }
    let headers = &session.req_header().headers;
    let declared = headers
        .get(http::header::CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
    let waits_to_send = headers.contains_key(http::header::EXPECT);
    if waits_to_send || declared.is_none_or(|declared| declared > BYTES_MAX) {
        return;
    }
    // Fails when the client is slow or gone: the connection is closed after the answer then.
    let _ = tokio::time::timeout(WAIT, session.drain_request_body()).await;
}
