//! A model call: its body, the filters that want to see it, the exchange, and the answer on its way
//! to the client.

use std::sync::Arc;

use http::{HeaderName, HeaderValue};
use pingora_core::protocols::http::ServerSession;
use pingora_error::{Error, ErrorType, Result};
use tollway_filter_api::{Flow, Outcome, Reject, Rejection, RequestCtx, RequestView};
use tollway_wire::operation::Dialect;
use tollway_wire::scan::{self, Limits};
use tollway_wire::splice::{Edits, json_string};

use crate::body::{self, BodyError};
use crate::early::{finish, refuse};
use crate::exchange::{self, AnswerStream, Opened, Translated};
use crate::routes::Asked;
use crate::state::{Gateway, Generation};
use crate::wishes::Wishes;
use crate::{models, observe, respond};

/// Serves a model call.
pub(crate) async fn serve(
    session: &mut ServerSession,
    gateway: &Gateway,
    generation: &Generation,
    ctx: &mut RequestCtx,
    asked: &Asked,
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
    ctx.view = match view_of(asked, body) {
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
        translated: Translated::default(),
        history: None,
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
    let content_type = stream.content_type().cloned();
    respond::begin_stream(session, &generation.chain, ctx, headers, content_type).await?;
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
        let codes = generation.config.error_codes;
        let told = stream.error_event(broken.status, &respond::error_object(&broken, codes));
        let event = match told {
            Some(event) => event.into(),
            None if stream.content_type().is_some() => bytes::Bytes::new(),
            None => respond::error_event(&broken, ctx.dialect, codes),
        };
        session.write_response_body(event, true).await?;
        return Ok(Outcome::Broken);
    }
}

/// Reads the body once.
fn view_of(asked: &Asked, body: bytes::Bytes) -> Result<RequestView, Rejection> {
    let &Asked { operation, dialect, .. } = asked;
    let scanned = |body: &bytes::Bytes| {
        scan::scan(body, &Limits::default()).map_err(|error| {
            Reject::invalid_request(format!("Invalid JSON payload: {error}"))
                .with_param("request_body")
                .with_code("invalid_json")
        })
    };
    let mut body = body;
    if asked.model.is_some() || asked.stream.is_some() {
        // What the path says wins, as it does at Azure and Google.
        let mut edits = Edits::new();
        if let Some(model) = &asked.model {
            edits.set("model", json_string(model));
        }
        match asked.stream {
            Some(true) => edits.set("stream", &b"true"[..]),
            Some(false) => edits.remove("stream"),
            None => {}
        }
        body = edits.apply(&body, &scanned(&body)?);
    }
    let object = scanned(&body)?;
    let stream = object.bool(&body, "stream").unwrap_or(false);
    let include_usage = stream
        && dialect == Dialect::OpenAi
        && object
            .get(&body, "stream_options")
            .and_then(|options| scan::members(&body, options.value, &Limits::default()).ok())
            .is_some_and(|options| options.bool(&body, "include_usage") == Some(true));
    Ok(RequestView { operation, dialect, body, object, stream, include_usage })
}

const X_LITELLM_END_USER_ID: HeaderName = HeaderName::from_static("x-litellm-end-user-id");
const X_LITELLM_CUSTOMER_ID: HeaderName = HeaderName::from_static("x-litellm-customer-id");

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
