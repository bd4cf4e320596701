//! The one way out: answers and errors, in the client's dialect.

use std::cell::RefCell;

use bytes::Bytes;
use http::header::{
    CACHE_CONTROL, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, DATE, RETRY_AFTER, TRANSFER_ENCODING,
};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Version};
use pingora_core::protocols::http::ServerSession;
use pingora_http::ResponseHeader;
use tollway_filter_api::header::number;
use tollway_filter_api::{Answer, AnswerBody, Reject, RequestCtx, ResponseHead};
use tollway_wire::client;
use tollway_wire::openai::response::ErrorObject;
use tollway_wire::operation::Dialect;

use crate::chain::Chain;

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const EVENT_STREAM: HeaderValue = HeaderValue::from_static("text/event-stream; charset=utf-8");
const NO_CACHE: HeaderValue = HeaderValue::from_static("no-cache");
const NO: HeaderValue = HeaderValue::from_static("no");
const CHUNKED: HeaderValue = HeaderValue::from_static("chunked");
/// Under which Anthropic's SDKs look for a request's id.
const REQUEST_ID: HeaderName = HeaderName::from_static("request-id");
/// Tells nginx not to collect the events of a stream.
const X_ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// How errors name their `code`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum ErrorCodes {
    /// OpenAI's machine-readable codes: `model_not_found`, `rate_limit_exceeded`.
    #[default]
    OpenAi,
    /// LiteLLM's: the HTTP status as a string.
    LiteLlm,
}

/// What writing to the client came to.
pub(crate) type Written = Result<(), Box<pingora_error::Error>>;

/// An error as the client is told it, before it is put into the client's dialect.
pub(crate) fn error_object(reject: &Reject, ctx: &RequestCtx, codes: ErrorCodes) -> ErrorObject {
    ErrorObject {
        message: reject.message.clone(),
        kind: Some(reject.kind.to_string()),
        param: reject.param.as_deref().map(str::to_owned),
        code: match codes {
            ErrorCodes::OpenAi => reject.code.as_deref().map(str::to_owned),
            ErrorCodes::LiteLlm => Some(reject.status.to_string()),
        },
        request_id: Some(ctx.id.to_string()),
    }
}

/// The body of an error.
fn error_body(reject: &Reject, ctx: &RequestCtx, codes: ErrorCodes) -> Vec<u8> {
    client::error_body(ctx.dialect, reject.status, &error_object(reject, ctx, codes))
}

/// An error inside a stream that has begun: one event, after which nothing follows, because the
/// answer is not complete.
pub(crate) fn error_event(reject: &Reject, ctx: &RequestCtx, codes: ErrorCodes) -> Bytes {
    client::error_event(ctx.dialect, reject.status, &error_object(reject, ctx, codes)).into()
}

/// Writes a refusal.
pub(crate) async fn reject(
    session: &mut ServerSession,
    chain: &Chain,
    ctx: &mut RequestCtx,
    reject: Reject,
    codes: ErrorCodes,
) -> Written {
    if let Some(source) = &reject.source {
        let status = reject.status;
        tracing::warn!(request_id = %ctx.id, status, error = %source, "request failed");
    }
    ctx.report.error_kind = Some(reject.kind.to_string());
    let body = error_body(&reject, ctx, codes);
    let mut headers = reject.headers;
    if let Some(after) = reject.retry_after {
        // Whole seconds, rounded up: a client that waits as told must not come too early.
        let seconds = after.as_secs() + u64::from(after.subsec_nanos() > 0);
        headers.push((RETRY_AFTER, HeaderValue::from(seconds.max(1))));
    }
    let status = reject.status;
    full(session, chain, ctx, status, headers, JSON, body.into()).await
}

/// Writes an answer that a filter gave.
pub(crate) async fn answer(
    session: &mut ServerSession,
    chain: &Chain,
    ctx: &mut RequestCtx,
    answer: Answer,
) -> Written {
    match answer.body {
        AnswerBody::Empty => {
            let mut response =
                ResponseHead { status: answer.status, headers: answer.headers, streaming: false };
            chain.response(ctx, session.req_header(), &mut response);
            ctx.report.status = Some(response.status);
            if response.status != 204 {
                response.headers.push((CONTENT_LENGTH, HeaderValue::from_static("0")));
            }
            session.write_response_header(header_of(response)).await?;
            session.write_response_body(Bytes::new(), true).await
        }
        AnswerBody::Full { content_type, bytes } => {
            let content_type = HeaderValue::from_static(content_type);
            full(session, chain, ctx, answer.status, answer.headers, content_type, bytes).await
        }
        AnswerBody::Events(events) => {
            begin_stream(session, chain, ctx, answer.headers, None).await?;
            for mut event in events {
                if let Err(reject) = chain.chunk(ctx, &mut event) {
                    let event = error_event(&reject, ctx, ErrorCodes::OpenAi);
                    session.write_response_body(event, false).await?;
                    break;
                }
                ctx.report.bytes_sent += event.len() as u64;
                session.write_response_body(event, false).await?;
            }
            session.write_response_body(Bytes::new(), true).await
        }
    }
}

/// Writes an answer of known length, through the response and chunk phases.
pub(crate) async fn full(
    session: &mut ServerSession,
    chain: &Chain,
    ctx: &mut RequestCtx,
    status: u16,
    headers: Vec<(HeaderName, HeaderValue)>,
    content_type: HeaderValue,
    mut bytes: Bytes,
) -> Written {
    let mut response = ResponseHead { status, headers, streaming: false };
    chain.response(ctx, session.req_header(), &mut response);
    // Filters that keep answers look at the bytes, whatever the status is.
    if let Err(refused) = chain.chunk(ctx, &mut bytes) {
        response.status = refused.status;
        bytes = error_body(&refused, ctx, ErrorCodes::OpenAi).into();
    }
    ctx.report.status = Some(response.status);
    add_own_headers(ctx, &mut response);
    response.headers.push((CONTENT_TYPE, content_type));
    response.headers.push((CONTENT_LENGTH, number(bytes.len() as u64)));
    session.write_response_header(header_of(response)).await?;
    if session.req_header().method != http::Method::HEAD {
        ctx.report.bytes_sent += bytes.len() as u64;
        session.write_response_body(bytes, true).await?;
    }
    Ok(())
}

/// Begins a stream: of server-sent events, unless `content_type` says otherwise.
pub(crate) async fn begin_stream(
    session: &mut ServerSession,
    chain: &Chain,
    ctx: &mut RequestCtx,
    headers: Vec<(HeaderName, HeaderValue)>,
    content_type: Option<HeaderValue>,
) -> Written {
    let mut response = ResponseHead { status: 200, headers, streaming: true };
    chain.response(ctx, session.req_header(), &mut response);
    ctx.report.status = Some(response.status);
    add_own_headers(ctx, &mut response);
    response.headers.push((CONTENT_TYPE, content_type.unwrap_or(EVENT_STREAM)));
    response.headers.push((CACHE_CONTROL, NO_CACHE));
    response.headers.push((X_ACCEL_BUFFERING, NO));
    // In this phase Pingora does not choose a framing by itself: without this an HTTP/1.1 stream
    // would end by closing the connection. HTTP/1.0 knows no other end.
    if session.req_header().version == Version::HTTP_11 {
        response.headers.push((TRANSFER_ENCODING, CHUNKED));
    }
    session.write_response_header(header_of(response)).await
}

/// The headers that only clients of one dialect know.
fn add_own_headers(ctx: &RequestCtx, response: &mut ResponseHead) {
    if ctx.dialect == Dialect::Anthropic
        && let Ok(id) = HeaderValue::from_str(&ctx.id)
    {
        response.headers.push((REQUEST_ID, id));
    }
}

/// The head as Pingora writes it. A later header of the same name replaces an earlier one.
///
/// Made of a `HeaderMap` and not by Pingora's own methods, which parse every name anew: a quarter
/// of the instructions of a small answer.
fn header_of(response: ResponseHead) -> Box<ResponseHeader> {
    let (mut parts, ()) = http::Response::new(()).into_parts();
    // A filter that sets a status that is none has failed.
    parts.status =
        StatusCode::from_u16(response.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    parts.headers = LAST.with_borrow_mut(|last| {
        let kind = response.headers.len() % KINDS;
        map_of(response.headers, &mut last[kind])
    });
    Box::new(ResponseHeader::from(parts))
}

/// How many kinds of answers take turns (whole ones, streams, hits of the cache, errors): they differ
/// in how many headers they have.
const KINDS: usize = 8;

thread_local! {
    /// The last answer of each kind of this thread.
    static LAST: RefCell<[Option<Named>; KINDS]> = RefCell::default();
}

/// The names of an answer's headers, with nothing behind them.
struct Named {
    names: Vec<HeaderName>,
    map: HeaderMap,
}

/// Makes a map of headers. Where they have the names of `last`, which is what nearly all answers have,
/// that is copied: sorting thirty names into a table takes three times as long.
fn map_of(headers: Vec<(HeaderName, HeaderValue)>, last: &mut Option<Named>) -> HeaderMap {
    const NOTHING: HeaderValue = HeaderValue::from_static("");
    // Names of constants are the very same text, which need not be read.
    let same = |(one, other): (&HeaderName, &HeaderName)| {
        std::ptr::eq(one.as_str(), other.as_str()) || one == other
    };
    let names = headers.iter().map(|(name, _)| name);
    if let Some(last) = last
        && headers.len() == last.names.len()
        && names.zip(&last.names).all(same)
    {
        let mut map = last.map.clone();
        for (slot, (_, value)) in map.values_mut().zip(headers) {
            *slot = value;
        }
        return map;
    }
    let names: Vec<_> = headers.iter().map(|(name, _)| name.clone()).collect();
    // Pingora sets these two in any case: where they are there already the map does not have to grow.
    let pingoras = [DATE, CONNECTION].map(|name| (name, NOTHING));
    let mut map = HeaderMap::with_capacity(headers.len() + pingoras.len());
    for (name, value) in headers.into_iter().chain(pingoras) {
        map.insert(name, value);
    }
    *last = None;
    // A name that comes twice has one place only.
    if map.len() == names.len() + 2 {
        let mut map = map.clone();
        map.values_mut().for_each(|value| *value = NOTHING);
        *last = Some(Named { names, map });
    }
    map
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(texts: &[(&'static str, &'static str)]) -> Vec<(HeaderName, HeaderValue)> {
        let header =
            |&(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value));
        texts.iter().map(header).collect()
    }

    #[test]
    fn headers_are_the_same_whatever_the_last_answer_had() {
        let answers = [
            headers(&[("content-type", "a"), ("x-own", "1")]),
            headers(&[("content-type", "b"), ("x-own", "2")]),
            headers(&[("x-own", "3"), ("content-type", "c")]),
            headers(&[("x-own", "4"), ("x-own", "5")]),
            headers(&[("x-own", "6"), ("x-own", "7")]),
            headers(&[("x-own", "8")]),
            headers(&[]),
            headers(&[("content-type", "d"), ("x-own", "9")]),
        ];
        let mut last = None;
        for headers in answers {
            let mut expect = HeaderMap::new();
            for (name, value) in headers.clone() {
                expect.insert(name, value);
            }
            for name in [DATE, CONNECTION] {
                expect.insert(name, HeaderValue::from_static(""));
            }
            assert_eq!(map_of(headers, &mut last), expect);
            let is_empty = |last: &Named| last.map.values().all(HeaderValue::is_empty);
            assert!(last.as_ref().is_none_or(is_empty), "no value outlives its answer");
        }
    }
}
