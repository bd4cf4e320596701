//! One request, from its head to its answer.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue, Method};
use pingora_core::protocols::http::ServerSession;
use pingora_error::{Error, ErrorType, Result};
use serde_json::json;
use tollway_filter_api::{
    Answer, AnswerBody, Flow, Outcome, Reject, Rejection, RequestCtx, RequestHead, RequestView,
};
use tollway_wire::operation::Operation;
use tollway_wire::scan::{self, Limits};

use crate::body::{self, BodyError};
use crate::exchange::{self, AnswerStream, Opened};
use crate::routes::{self, Route};
use crate::state::{Gateway, Generation, RequestState};
use crate::{models, observe, random, respond, tunnel};

/// The longest id of a caller's that is taken over.
const CALL_ID_MAX: usize = 128;

/// Serves a request. False hands it to Pingora's loop, as pass-through.
pub(crate) async fn serve(session: &mut ServerSession, state: &mut RequestState) -> Result<bool> {
    let gateway = Arc::clone(&state.gateway);
    let generation = Arc::clone(&state.generation);

    // Otherwise a client that sends its next request early would look like one that left.
    session.set_pipelining_enabled(true);
    let head = session.req_header();
    let mut found = routes::find(head.uri.path());
    if found.route == Route::Unknown
        && let Some((at, pattern)) = generation.pass_through_of(head.uri.path())
    {
        found.route = Route::PassThrough(at);
        found.pattern = pattern;
    }
    let header_bytes: usize = head.headers.iter().map(|(n, v)| n.as_str().len() + v.len()).sum();
    let wrong_method = found.method.as_ref().is_some_and(|wanted| {
        // HEAD is GET without the body; OPTIONS that no filter answers is refused below.
        *wanted != head.method && !(*wanted == Method::GET && head.method == Method::HEAD)
    });
    let mut ctx = RequestCtx::new(request_id(session), gateway.clock.now(), found.pattern);
    ctx.client = client_address(session);
    if let Route::Call(operation) = found.route {
        ctx.operation = Some(operation);
    }
    let ctx = state.ctx.insert(ctx);

    let header_bytes_max = generation.config.server.request_header_bytes_max;
    if header_bytes > header_bytes_max {
        let message = format!("Request headers are too large: at most {header_bytes_max} bytes.");
        let reject = Reject::new(431, "invalid_request_error", message);
        let result = refuse(session, &generation, ctx, reject).await;
        return settle(&mut state.outcome, result);
    }
    if let Some(reject) = strange_framing(session.req_header()) {
        session.set_keepalive(None);
        let result = refuse(session, &generation, ctx, reject).await;
        return settle(&mut state.outcome, result);
    }
    let flow = match found.route {
        Route::Unknown => Flow::Reject(unknown_route(session)),
        _ => generation.chain.head(ctx, session.req_header()).await,
    };
    let result = match flow {
        Flow::Next if wrong_method => {
            let reject = wrong_method_of(found.method.iter().map(Method::as_str));
            refuse(session, &generation, ctx, reject).await
        }
        Flow::Next => match found.route {
            Route::PassThrough(at) => {
                let methods = generation.pass_through[at].methods();
                if methods.is_empty() || methods.contains(&session.req_header().method) {
                    state.pass_through = Some(at);
                    if !session.is_upgrade_req() {
                        return Ok(false);
                    }
                    state.outcome = tunnel::carry(session, state, &gateway.pool).await?;
                    return Ok(true);
                }
                let reject = wrong_method_of(methods.iter().map(Method::as_str));
                refuse(session, &generation, ctx, reject).await
            }
            Route::Call(operation) => {
                model_call(session, &gateway, &generation, ctx, operation).await
            }
            Route::Metrics => {
                let gateway = Arc::clone(&gateway);
                // Many keys make megabytes of text: that must not hold up the other requests.
                let text = tokio::task::spawn_blocking(move || observe::metrics(&gateway)).await;
                let answer =
                    text.unwrap_or_else(|e| Err(Reject::internal("metrics cannot be written", e)));
                finish(session, &generation, ctx, answer).await
            }
            route => {
                let answer = local(route, session, &gateway, &generation, ctx);
                finish(session, &generation, ctx, answer).await
            }
        },
        Flow::Answer(answer) => finish(session, &generation, ctx, Ok(answer)).await,
        Flow::Reject(reject) => refuse(session, &generation, ctx, reject).await,
    };
    settle(&mut state.outcome, result)
}

/// Remembers how it ended and tells Pingora.
fn settle(kept: &mut Outcome, result: Result<Outcome>) -> Result<bool> {
    match result {
        Ok(outcome) => {
            *kept = outcome;
            Ok(true)
        }
        Err(error) => {
            *kept = Outcome::ClientGone;
            Err(error.into_down())
        }
    }
}

/// A model call: body, body filters, exchange.
async fn model_call(
    session: &mut ServerSession,
    gateway: &Gateway,
    generation: &Generation,
    ctx: &mut RequestCtx,
    operation: Operation,
) -> Result<Outcome> {
    let server = &generation.config.server;
    let read = body::read(
        session,
        server.request_body_bytes_max,
        server.body_timeout,
        &gateway.body_memory,
    );
    let (body, _held) = match read.await {
        Ok(read) => read,
        Err(BodyError::Rejected(reject)) => return refuse(session, generation, ctx, reject).await,
        Err(BodyError::Gone(error)) => return Err(error),
    };
    ctx.view = match view_of(operation, body) {
        Ok(view) => Some(view),
        Err(reject) => return refuse(session, generation, ctx, reject).await,
    };
    ctx.end_user = end_user(session, ctx);
    match generation.chain.body(ctx, session.req_header()).await {
        Flow::Next => {}
        Flow::Answer(answer) => return finish(session, generation, ctx, Ok(answer)).await,
        Flow::Reject(reject) => return refuse(session, generation, ctx, reject).await,
    }
    exchange(session, gateway, generation, ctx).await
}

/// Asks the exchange and passes on what comes, for as long as the client is there.
async fn exchange(
    session: &mut ServerSession,
    gateway: &Gateway,
    generation: &Generation,
    ctx: &mut RequestCtx,
) -> Result<Outcome> {
    if ctx.plan.is_none() {
        match ctx.view.as_ref().map(|view| generation.plan_without_filter(view)) {
            Some(Ok(plan)) => ctx.plan = Some(plan),
            Some(Err(reject)) => return refuse(session, generation, ctx, reject).await,
            None => {}
        }
    }
    let (Some(view), Some(plan)) = (&ctx.view, &ctx.plan) else {
        let reject = Reject::internal("no request", "the body was not read");
        return refuse(session, generation, ctx, reject).await;
    };
    let wishes = match Wishes::read(session, view) {
        Ok(mut wishes) => {
            // What the operator configured is the operator's choice; what a caller names must be
            // the caller's to call.
            if let (Some(key), Some(fallbacks)) = (&ctx.identity, &mut wishes.fallbacks) {
                fallbacks.retain(|name| models::may_call(generation, Some(key), name));
            }
            wishes
        }
        Err(reject) => return refuse(session, generation, ctx, reject).await,
    };
    let call = exchange::Call {
        view,
        plan,
        endpoints: &generation.endpoints,
        directory: &*generation.config.directory,
        router: &generation.config.router,
        retries: wishes.retries,
        fallbacks: wishes.fallbacks,
        arrived: ctx.arrived,
        deadline: wishes.timeout.map(|timeout| ctx.arrived + timeout),
    };
    let opened = {
        let open = gateway.exchange.open(&call, &mut ctx.report);
        tokio::pin!(open);
        tokio::select! {
            biased;
            opened = &mut open => opened,
            gone = session.read_body_or_idle(true) => return Err(gone_error(gone)),
        }
    };
    match opened {
        Ok(Opened::Whole(answer)) => {
            ctx.report.upstream_ended = Some(gateway.clock.now());
            let (chain, headers) = (&generation.chain, answer.headers);
            let json = HeaderValue::from_static("application/json");
            respond::full(session, chain, ctx, 200, headers, json, answer.body).await?;
            Ok(Outcome::Done)
        }
        Ok(Opened::Stream(mut stream)) => {
            let result = relay(session, generation, ctx, &mut stream).await;
            stream.report(&mut ctx.report, result.as_ref().is_ok_and(|o| *o == Outcome::Done));
            if ctx.report.usage_estimated {
                estimate_prompt(ctx);
            }
            ctx.report.upstream_ended = Some(gateway.clock.now());
            result
        }
        Err(reject) => refuse(session, generation, ctx, reject).await,
    }
}

/// A stream that was cut short has no usage: what went in is counted by the usual rule of thumb of
/// four bytes a token, so that a client cannot read for free by leaving early.
fn estimate_prompt(ctx: &mut RequestCtx) {
    let bytes = ctx.view.as_ref().map_or(0, |view| view.body.len() as u64);
    let usage = ctx.report.usage.get_or_insert_default();
    if usage.prompt_tokens == 0 {
        usage.prompt_tokens = bytes.div_ceil(4);
    }
}

/// Passes a stream on, each event as it comes.
async fn relay(
    session: &mut ServerSession,
    generation: &Generation,
    ctx: &mut RequestCtx,
    stream: &mut AnswerStream,
) -> Result<Outcome> {
    let headers = stream.take_headers();
    respond::begin_stream(session, &generation.chain, ctx, headers).await?;
    loop {
        let next = tokio::select! {
            biased;
            next = stream.next() => next,
            gone = session.read_body_or_idle(true) => return Err(gone_error(gone)),
        };
        let broken = match next {
            None => {
                session.write_response_body(bytes::Bytes::new(), true).await?;
                return Ok(Outcome::Done);
            }
            Some(Ok(mut events)) => match generation.chain.chunk(ctx, &mut events) {
                Ok(()) => {
                    ctx.report.bytes_sent += events.len() as u64;
                    session.write_response_body(events, false).await?;
                    continue;
                }
                Err(reject) => reject,
            },
            Some(Err(reject)) => reject,
        };
        // The status is long sent: the error goes into the stream, and no `[DONE]` follows it.
        observe::broken_stream(ctx, &broken);
        ctx.report.error_kind = Some(broken.kind.to_string());
        let event = respond::error_event(&broken, generation.config.error_codes);
        session.write_response_body(event, true).await?;
        return Ok(Outcome::Broken);
    }
}

/// Answers that need no model.
fn local(
    route: Route,
    session: &ServerSession,
    gateway: &Gateway,
    generation: &Generation,
    ctx: &RequestCtx,
) -> Result<Answer, Rejection> {
    let json = |value: serde_json::Value| Answer {
        status: 200,
        headers: Vec::new(),
        body: AnswerBody::Full {
            content_type: "application/json",
            bytes: value.to_string().into(),
        },
    };
    match route {
        Route::Models => Ok(json(models::list(generation, ctx.identity.as_deref()))),
        Route::Model => {
            let id = routes::model_id(session.req_header().uri.path()).unwrap_or_default();
            models::one(generation, ctx.identity.as_deref(), id).map(json)
        }
        Route::Alive => Ok(json(json!("I'm alive!"))),
        Route::Ready if gateway.in_flight.draining() => {
            Err(Reject::new(503, "internal_server_error", "The gateway is shutting down."))
        }
        Route::Ready => Ok(json(json!({"status": "healthy", "db": "Not connected"}))),
        Route::Call(_) | Route::Metrics | Route::PassThrough(_) | Route::Unknown => {
            Err(Reject::internal("no such route", "a route without an answer"))
        }
    }
}

async fn finish(
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

async fn refuse(
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
async fn linger(session: &mut ServerSession) {
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

/// A transfer coding other than `chunked` alone: whoever stands between the client and us may read
/// such a request's length differently (RFC 9112, 6.1), which is how requests are smuggled.
fn strange_framing(head: &RequestHead) -> Option<Rejection> {
    let mut codings = head.headers.get_all(http::header::TRANSFER_ENCODING).iter();
    let first = codings.next()?;
    if first.as_bytes().eq_ignore_ascii_case(b"chunked") && codings.next().is_none() {
        return None;
    }
    let message = "Transfer-Encoding must be absent or `chunked` alone.";
    Some(Reject::invalid_request(message).with_code("invalid_framing"))
}

fn unknown_route(session: &ServerSession) -> Rejection {
    let head = session.req_header();
    // The path is the caller's own; bounded, because it is repeated.
    let path: String = head.uri.path().chars().take(200).collect();
    let message = format!("Unknown request URL: {} {path}.", head.method);
    Reject::new(404, "invalid_request_error", message).with_code("unknown_url")
}

fn wrong_method_of<'m>(allowed: impl Iterator<Item = &'m str>) -> Rejection {
    let allowed = allowed.collect::<Vec<_>>().join(", ");
    let message = format!("This path takes {allowed} requests only.");
    let allow = HeaderValue::from_str(&allowed).unwrap_or(HeaderValue::from_static(""));
    Reject::new(405, "invalid_request_error", message)
        .with_code("method_not_allowed")
        .with_header(http::header::ALLOW, allow)
}

/// Reads the body once.
fn view_of(operation: Operation, body: bytes::Bytes) -> Result<RequestView, Rejection> {
    let object = scan::scan(&body, &Limits::default()).map_err(|error| {
        Reject::invalid_request(format!("Invalid JSON payload: {error}"))
            .with_param("request_body")
            .with_code("invalid_json")
    })?;
    let stream = object.bool(&body, "stream").unwrap_or(false);
    let include_usage = stream
        && object
            .get(&body, "stream_options")
            .and_then(|options| scan::members(&body, options.value, &Limits::default()).ok())
            .is_some_and(|options| options.bool(&body, "include_usage") == Some(true));
    Ok(RequestView { operation, body, object, stream, include_usage })
}

/// What a request itself asks of the exchange: LiteLLM's overrides.
struct Wishes {
    timeout: Option<Duration>,
    retries: Option<u32>,
    fallbacks: Option<Vec<Arc<str>>>,
}

impl Wishes {
    /// How often a request may ask to be retried.
    const RETRIES_MAX: u64 = 10;
    /// How long a request may ask to be waited for.
    const TIMEOUT_MAX: f64 = 3600.0;

    fn read(session: &ServerSession, view: &RequestView) -> Result<Wishes, Rejection> {
        let headers = &session.req_header().headers;
        let header =
            |name: &HeaderName| headers.get(name).and_then(|v| v.to_str().ok()?.parse().ok());
        let seconds: Option<f64> = (view.stream)
            .then(|| header(&X_LITELLM_STREAM_TIMEOUT))
            .flatten()
            .or_else(|| header(&X_LITELLM_TIMEOUT))
            .or_else(|| view.object.f64(&view.body, "timeout"));
        if seconds.is_some_and(|s| s.is_nan() || s <= 0.0) {
            return Err(wrong("timeout", "a number of seconds greater than 0"));
        }
        let retries: Option<f64> =
            header(&X_LITELLM_NUM_RETRIES).or_else(|| view.object.f64(&view.body, "num_retries"));
        if retries.is_some_and(|n| n.is_nan() || n < 0.0) {
            return Err(wrong("num_retries", "an integer of at least 0"));
        }
        let fallbacks = match view.object.raw(&view.body, "fallbacks") {
            None | Some(b"null") => None,
            Some(raw) => {
                let names: Vec<String> = serde_json::from_slice(raw)
                    .map_err(|_| wrong("fallbacks", "a list of model names"))?;
                Some(names.into_iter().map(Arc::from).collect())
            }
        };
        Ok(Wishes {
            timeout: seconds.map(|s| Duration::from_secs_f64(s.min(Self::TIMEOUT_MAX))),
            retries: retries.map(|n| (n as u64).min(Self::RETRIES_MAX) as u32),
            fallbacks,
        })
    }
}

fn wrong(param: &'static str, expected: &str) -> Rejection {
    Reject::invalid_request(format!("Invalid value for '{param}': expected {expected}."))
        .with_param(param)
        .with_code("invalid_value")
}

const X_LITELLM_TIMEOUT: HeaderName = HeaderName::from_static("x-litellm-timeout");
const X_LITELLM_STREAM_TIMEOUT: HeaderName = HeaderName::from_static("x-litellm-stream-timeout");
const X_LITELLM_NUM_RETRIES: HeaderName = HeaderName::from_static("x-litellm-num-retries");
const X_LITELLM_CALL_ID: HeaderName = HeaderName::from_static("x-litellm-call-id");
const X_LITELLM_END_USER_ID: HeaderName = HeaderName::from_static("x-litellm-end-user-id");
const X_LITELLM_CUSTOMER_ID: HeaderName = HeaderName::from_static("x-litellm-customer-id");

/// The caller's own id where it is sane, so that both sides' logs can be joined.
fn request_id(session: &ServerSession) -> Arc<str> {
    let given = session.req_header().headers.get(&X_LITELLM_CALL_ID).map(HeaderValue::as_bytes);
    match given {
        Some(id)
            if !id.is_empty()
                && id.len() <= CALL_ID_MAX
                && id.iter().all(|b| b.is_ascii_alphanumeric() || b"-_.:".contains(b)) =>
        {
            String::from_utf8_lossy(id).into()
        }
        _ => random::uuid().into(),
    }
}

fn client_address(session: &ServerSession) -> Option<std::net::IpAddr> {
    session.client_addr()?.as_inet().map(|address| address.ip())
}

fn end_user(session: &ServerSession, ctx: &RequestCtx) -> Option<Arc<str>> {
    const MAX: usize = 256;
    let view = ctx.view.as_ref()?;
    if let Some(user) = view.object.str(&view.body, "user") {
        return (user.len() <= MAX).then(|| user.as_ref().into());
    }
    let headers = &session.req_header().headers;
    let named = headers.get(&X_LITELLM_END_USER_ID).or_else(|| headers.get(&X_LITELLM_CUSTOMER_ID));
    let named = named?.to_str().ok()?;
    (named.len() <= MAX).then(|| named.into())
}

/// What it means that the client's side of the connection did something while an answer was made.
fn gone_error(gone: Result<Option<bytes::Bytes>>) -> Box<Error> {
    match gone {
        Err(error) => error,
        Ok(_) => Error::explain(ErrorType::ConnectionClosed, "the client left"),
    }
}
