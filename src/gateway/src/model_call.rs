//! A model call: its body, the filters that want to see it, the exchange, and the answer on its way
//! to the client.

use std::sync::Arc;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderName, HeaderValue};
use pingora_core::protocols::http::ServerSession;
use pingora_error::{Error, ErrorType, Result};
use tollway_filter_api::ctx::Report;
use tollway_filter_api::view::Form;
use tollway_filter_api::{Flow, KeyHash, Outcome, Reject, Rejection, RequestCtx, RequestView};
use tollway_wire::operation::{Dialect, Operation};
use tollway_wire::scan::{self, Limits, Object};
use tollway_wire::splice::{Edits, json_string};
use tollway_wire::{count, form};

use crate::background::Maker;
use crate::body::{self, BodyError};
use crate::coalesce::{FlightKey, Seat};
use crate::early::{finish, refuse};
use crate::exchange::{self, AnswerStream, Opened};
use crate::responses::Turn;
use crate::routes::Asked;
use crate::state::{Gateway, Generation};
use crate::wishes::{self, Wishes};
use crate::{agents, background, models, observe, random, respond, responses, shared_call};

/// Serves a model call.
pub(crate) async fn serve(
    session: &mut ServerSession,
    gateway: &Arc<Gateway>,
    generation: &Arc<Generation>,
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
    let content_type = session.req_header().headers.get(CONTENT_TYPE);
    ctx.view = match view_of(asked, content_type, body) {
        Ok(view) => Some(Arc::new(view)),
        Err(reject) => return refuse(session, generation, ctx, reject).await,
    };
    ctx.end_user = end_user(session, ctx);
    if let Some(view) = &ctx.view {
        ctx.tags = wishes::tags(session, view, ctx.identity.as_deref());
    }
    if ctx.view.as_deref().is_some_and(agents::model::asked_for) {
        return Box::pin(agents::model::serve(session, gateway, generation, ctx)).await;
    }
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
    gateway: &Arc<Gateway>,
    generation: &Arc<Generation>,
    ctx: &mut RequestCtx,
) -> Result<Outcome> {
    let Prepared { mut call, key } = match prepare(session, generation, ctx) {
        Ok(prepared) => prepared,
        Err(reject) => return refuse(session, generation, ctx, reject).await,
    };
    if responses::concerns(&call.view) {
        let tenant = ctx.identity.as_ref().map(|key| key.hash);
        // Boxed for the sake of all other calls.
        let turn = match Box::pin(goes_on(gateway, tenant, &mut call)).await {
            Ok(turn) => turn,
            Err(reject) => return refuse(session, generation, ctx, reject).await,
        };
        if background::is_wanted(&call.view) {
            return Box::pin(in_background(session, gateway, ctx, call, turn)).await;
        }
        return Box::pin(alone(session, gateway, ctx, call, Some(turn))).await;
    }
    match key.map(|key| gateway.flights.board(key)) {
        None => Box::pin(alone(session, gateway, ctx, call, None)).await,
        Some(Seat::Lead(lead)) => shared_call::lead(session, gateway, ctx, call, lead).await,
        Some(Seat::Follow(follower)) => {
            Box::pin(shared_call::follow(session, gateway, generation, ctx, follower)).await
        }
    }
}

/// A call that is ready to be made. Boxed, because it is passed on, and a future has room for each
/// place where it has been.
struct Prepared {
    call: Box<exchange::Call>,
    /// By what other requests find it.
    key: Option<FlightKey>,
}

/// Reads what the request says about how it is to be made.
fn prepare(
    session: &ServerSession,
    generation: &Arc<Generation>,
    ctx: &mut RequestCtx,
) -> Result<Prepared, Rejection> {
    if ctx.plan.is_none()
        && let Some(view) = &ctx.view
    {
        ctx.plan = Some(generation.plan_without_filter(view)?);
    }
    let (Some(view), Some(plan)) = (&ctx.view, &ctx.plan) else {
        return Err(Reject::internal("no request", "the body was not read"));
    };
    let mut wishes = Wishes::read(session, view, &ctx.tags, &generation.config.router)?;
    // What the operator configured is the operator's choice; what a caller names must be the
    // caller's to call.
    if let (Some(key), Some(fallbacks)) = (&ctx.identity, &mut wishes.fallbacks) {
        fallbacks.retain(|name| models::may_call(generation, Some(key), name));
    }
    // Who may not go to every deployment shares no call that may.
    let shares = wishes.are_usual() && ctx.left_out.is_empty();
    let key = ctx.coalesce.filter(|_| shares).map(|coalesce| FlightKey {
        request: coalesce.key,
        form: (view.stream, view.include_usage),
        model: Arc::clone(&plan.requested),
    });
    let (view, plan) = (Arc::clone(view), plan.clone());
    let mut call = Box::new(exchange::Call::new(view, plan, Arc::clone(generation), ctx.arrived));
    call.betas = betas(session, ctx.dialect);
    call.tags = wishes.tags;
    call.left_out.clone_from(&ctx.left_out);
    call.retries = wishes.retries;
    call.fallbacks = wishes.fallbacks;
    call.deadline = wishes.timeout.map(|timeout| ctx.arrived + timeout);
    call.trace = ctx.span.as_deref().map(|span| span.trace().clone());
    Ok(Prepared { call, key })
}

/// Reads what a call of the Responses API goes on from.
async fn goes_on(
    gateway: &Gateway,
    tenant: Option<KeyHash>,
    call: &mut exchange::Call,
) -> Result<Box<Turn>, Rejection> {
    let id = random::unguessable();
    let turn = Turn::read(&call.view, tenant, &gateway.responses, &id).await?;
    call.id = Some(id);
    call.history = turn.history.clone();
    call.expanded = turn.expanded.clone();
    call.prefers = turn.deployment.clone();
    Ok(Box::new(turn))
}

/// A call for one request.
async fn alone(
    session: &mut ServerSession,
    gateway: &Gateway,
    ctx: &mut RequestCtx,
    call: Box<exchange::Call>,
    turn: Option<Box<Turn>>,
) -> Result<Outcome> {
    let opened = {
        let open = gateway.exchange.open(&call);
        tokio::pin!(open);
        tokio::select! {
            biased;
            opened = &mut open => Ok(opened),
            gone = session.read_body_or_idle(true) => Err(gone_error(gone)),
        }
    };
    told(&mut ctx.report, &mut call.report.lock());
    match opened? {
        Ok(Opened::Stream(mut stream)) => {
            let keep = turn.as_deref().map(|turn| (turn, gateway));
            let result = relay(session, &call.generation, ctx, &mut stream, keep).await;
            settle(gateway, ctx, &mut stream, &result);
            result
        }
        Ok(Opened::Whole(answer)) => {
            // It begins for us when it is complete.
            ctx.report.upstream_ended = ctx.report.first_byte;
            if let Some(turn) = turn {
                let knows = deployment_of(ctx).filter(|_| answer.is_native);
                let response = answer.kept.as_ref().unwrap_or(&answer.body);
                turn.keep(&gateway.responses, response, knows);
            }
            whole(session, &call.generation, ctx, answer.headers, answer.body).await
        }
        Err(reject) => refuse(session, &call.generation, ctx, reject).await,
    }
}

/// Answers at once, and leaves the call to be made afterwards.
async fn in_background(
    session: &mut ServerSession,
    gateway: &Arc<Gateway>,
    ctx: &mut RequestCtx,
    mut call: Box<exchange::Call>,
    turn: Box<Turn>,
) -> Result<Outcome> {
    let generation = Arc::clone(&call.generation);
    let (view, plan) = (Arc::clone(&call.view), Arc::clone(&call.plan.requested));
    let id = call.id.clone().unwrap_or_default();
    let asked = tollway_wire::client::Asked {
        operation: view.operation,
        model: &plan,
        stream: view.stream,
        body: &view.body,
        id: &id,
        created: gateway.clock.unix().as_secs(),
    };
    // To the provider it is a call like any other.
    call.view = match without_background(&call.view.body, &call.view.object) {
        Ok((body, object)) => {
            Arc::new(RequestView { body, object, ..RequestView::clone(&call.view) })
        }
        Err(reject) => return refuse(session, &generation, ctx, reject).await,
    };
    if let Some((body, object)) = &call.expanded {
        call.expanded = match without_background(body, object) {
            Ok(expanded) => Some(expanded),
            Err(reject) => return refuse(session, &generation, ctx, reject).await,
        };
    }
    let maker = Maker::Call(call);
    background::promise(session, gateway, &generation, ctx, &asked, turn, maker).await
}

/// The request without `background`.
fn without_background(body: &Bytes, object: &Object) -> Result<(Bytes, Object), Rejection> {
    let mut edits = Edits::new();
    edits.remove("background");
    let body = edits.apply(body, object);
    let object = scan::scan(&body, &Limits::default())
        .map_err(|error| Reject::internal("The request cannot be read again.", error))?;
    Ok((body, object))
}

/// The id of the deployment that answered.
fn deployment_of(ctx: &RequestCtx) -> Option<Arc<str>> {
    ctx.report.deployment.as_ref().map(|deployment| Arc::clone(&deployment.id))
}

/// Takes over what the exchange tells of a call.
pub(crate) fn told(report: &mut Report, of_call: &mut Report) {
    report.attempts = of_call.attempts;
    report.fallbacks = of_call.fallbacks;
    report.deployment = of_call.deployment.take();
    report.upstream_started = of_call.upstream_started;
    report.first_byte = of_call.first_byte;
    report.usage = of_call.usage;
}

/// Writes a whole answer.
pub(crate) async fn whole(
    session: &mut ServerSession,
    generation: &Generation,
    ctx: &mut RequestCtx,
    headers: Vec<(HeaderName, HeaderValue)>,
    body: Bytes,
) -> Result<Outcome> {
    let json = HeaderValue::from_static("application/json");
    respond::full(session, &generation.chain, ctx, 200, headers, json, body).await?;
    Ok(Outcome::Done)
}

/// Writes down what a stream took.
pub(crate) fn settle(
    gateway: &Gateway,
    ctx: &mut RequestCtx,
    stream: &mut AnswerStream,
    result: &Result<Outcome>,
) {
    let is_done = result.as_ref().is_ok_and(|outcome| *outcome == Outcome::Done);
    let is_text = is_text(ctx);
    stream.settle(&mut ctx.report, is_done, is_text);
    settled(gateway, ctx);
}

/// Whether text is asked for, which can be counted where the provider does not.
pub(crate) fn is_text(ctx: &RequestCtx) -> bool {
    let operation = ctx.view.as_ref().map(|view| view.operation);
    matches!(operation, Some(Operation::ChatCompletions | Operation::Completions))
}

/// What a stream took is written down, as far as it is known.
pub(crate) fn settled(gateway: &Gateway, ctx: &mut RequestCtx) {
    if ctx.report.usage_estimated {
        estimate_prompt(ctx);
    }
    ctx.report.upstream_ended = Some(gateway.clock.now());
}

/// A stream that was cut short has no usage: what went in is counted by ourselves, as it is for a
/// budget, so that a client cannot read for free by leaving early.
pub(crate) fn estimate_prompt(ctx: &mut RequestCtx) {
    let counted = || ctx.view.as_ref().map_or(0, |view| count::input_tokens(&view.body));
    let told = ctx.report.usage.map_or(0, |usage| usage.prompt_tokens);
    let prompt_tokens = if told == 0 { counted() } else { told };
    ctx.report.usage.get_or_insert_default().prompt_tokens = prompt_tokens;
}

/// Passes a stream on, each event as it comes.
async fn relay(
    session: &mut ServerSession,
    generation: &Generation,
    ctx: &mut RequestCtx,
    stream: &mut AnswerStream,
    mut keep: Option<(&Turn, &Gateway)>,
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
                session.write_response_body(Bytes::new(), true).await?;
                return Ok(Outcome::Done);
            }
            Some(Ok(mut events)) => {
                // Before the client knows that it is complete, and asks for it.
                if let Some((turn, gateway)) = keep
                    && let Some(response) = stream.response()
                {
                    let knows = deployment_of(ctx).filter(|_| stream.is_native());
                    turn.keep(&gateway.responses, response, knows);
                    keep = None;
                }
                match generation.chain.chunk(ctx, &mut events) {
                    Ok(()) => {
                        ctx.report.bytes_sent += events.len() as u64;
                        session.write_response_body(events, false).await?;
                        continue;
                    }
                    Err(reject) => reject,
                }
            }
            Some(Err(reject)) => reject,
        };
        return broken_stream(session, generation, ctx, Some(stream), &broken).await;
    }
}

/// Tells the client why a stream ends here. The status is long sent: the error goes into the stream,
/// and no `[DONE]` follows it.
pub(crate) async fn broken_stream(
    session: &mut ServerSession,
    generation: &Generation,
    ctx: &mut RequestCtx,
    stream: Option<&mut AnswerStream>,
    broken: &Reject,
) -> Result<Outcome> {
    observe::broken_stream(ctx, broken);
    ctx.report.error_kind = Some(broken.kind.to_string());
    let codes = generation.config.error_codes;
    let told = match stream {
        Some(stream) => {
            stream.error_event(broken.status, &respond::error_object(broken, ctx, codes))
        }
        None => None,
    };
    let event = told.map_or_else(|| respond::error_event(broken, ctx, codes), Bytes::from);
    session.write_response_body(event, true).await?;
    Ok(Outcome::Broken)
}

/// What OpenAI takes where a request names none: the one call that may leave it out
/// (<https://platform.openai.com/docs/api-reference/moderations/create>, 2026-11).
const MODERATION_MODEL: &str = "omni-moderation-latest";

/// Reads the body once.
pub(crate) fn view_of(
    asked: &Asked,
    content_type: Option<&HeaderValue>,
    body: Bytes,
) -> Result<RequestView, Rejection> {
    let &Asked { operation, dialect, .. } = asked;
    let (mut body, form) = match takes_forms(operation) {
        true => form_of(content_type, body)?,
        false => (body, None),
    };
    let scanned = |body: &Bytes| {
        scan::scan(body, &Limits::default()).map_err(|error| {
            Reject::invalid_request(format!("Invalid JSON payload: {error}"))
                .with_param("request_body")
                .with_code("invalid_json")
        })
    };
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
    let mut object = scanned(&body)?;
    if operation == Operation::Moderations && object.get(&body, "model").is_none() {
        let mut edits = Edits::new();
        edits.set("model", json_string(MODERATION_MODEL));
        body = edits.apply(&body, &object);
        object = scanned(&body)?;
    }
    let stream = object.bool(&body, "stream").unwrap_or(false);
    let include_usage = stream
        && dialect == Dialect::OpenAi
        && object
            .get(&body, "stream_options")
            .and_then(|options| scan::members(&body, options.value, &Limits::default()).ok())
            .is_some_and(|options| options.bool(&body, "include_usage") == Some(true));
    Ok(RequestView { operation, dialect, body, object, stream, include_usage, form })
}

/// Whether a call comes as a form with files. Image edits come as JSON as well, with files by id.
fn takes_forms(operation: Operation) -> bool {
    matches!(
        operation,
        Operation::ImageEdit
            | Operation::ImageVariation
            | Operation::Transcription
            | Operation::Translation
    )
}

/// The text fields of a form as JSON, and the form itself; a body that is no form stays as it is.
fn form_of(
    content_type: Option<&HeaderValue>,
    body: Bytes,
) -> Result<(Bytes, Option<Box<Form>>), Rejection> {
    let Some((value, text)) = content_type
        .and_then(|value| Some((value, value.to_str().ok()?)))
        .filter(|(_, text)| form::is_form(text))
    else {
        return Ok((body, None));
    };
    let found = form::scan(text, &body, &form::Limits::default()).map_err(|error| {
        Reject::invalid_request(format!("Invalid form: {error}."))
            .with_param("request_body")
            .with_code("invalid_form")
    })?;
    let form = Form { content_type: value.clone(), bytes: body, model: found.model };
    Ok((found.fields.into(), Some(Box::new(form))))
}

/// What an Anthropic client lists in `anthropic-beta`, where it is a list of names and nothing else:
/// it is written into requests of ours.
fn betas(session: &ServerSession, dialect: Dialect) -> Option<String> {
    const BYTES_MAX: usize = 2048;
    if dialect != Dialect::Anthropic {
        return None;
    }
    let values = session.req_header().headers.get_all("anthropic-beta");
    let lists: Vec<&str> = values.iter().filter_map(|value| value.to_str().ok()).collect();
    let list = lists.join(",");
    let is_plain = |b: u8| b.is_ascii_alphanumeric() || b"-_., ".contains(&b);
    (!list.is_empty() && list.len() <= BYTES_MAX && list.bytes().all(is_plain)).then_some(list)
}

const X_LITELLM_END_USER_ID: HeaderName = HeaderName::from_static("x-litellm-end-user-id");
const X_LITELLM_CUSTOMER_ID: HeaderName = HeaderName::from_static("x-litellm-customer-id");

/// The longest name of an end user.
const END_USER_MAX: usize = 256;

fn end_user(session: &ServerSession, ctx: &RequestCtx) -> Option<Arc<str>> {
    if let Some(signed) = signed_end_user(ctx) {
        return Some(signed);
    }
    let view = ctx.view.as_ref()?;
    // Anthropic's word for it.
    let of_metadata = || {
        let metadata = view.object.get(&view.body, "metadata")?;
        let members = scan::members(&view.body, metadata.value, &Limits::default()).ok()?;
        members.str(&view.body, "user_id").map(|id| id.into_owned())
    };
    if view.dialect == Dialect::Anthropic
        && let Some(user) = of_metadata()
    {
        return (user.len() <= END_USER_MAX).then(|| user.into());
    }
    if let Some(user) = view.object.str(&view.body, "user") {
        return (user.len() <= END_USER_MAX).then(|| user.as_ref().into());
    }
    end_user_of_head(session, ctx)
}

/// The end user that a request without a body of ours names.
pub(crate) fn end_user_of_head(session: &ServerSession, ctx: &RequestCtx) -> Option<Arc<str>> {
    if let Some(signed) = signed_end_user(ctx) {
        return Some(signed);
    }
    let headers = &session.req_header().headers;
    let named = headers.get(&X_LITELLM_END_USER_ID).or_else(|| headers.get(&X_LITELLM_CUSTOMER_ID));
    let named = named?.to_str().ok()?;
    (named.len() <= END_USER_MAX).then(|| named.into())
}

/// The one that an identity provider has signed, who is believed first.
fn signed_end_user(ctx: &RequestCtx) -> Option<Arc<str>> {
    ctx.identity.as_ref()?.token.as_ref()?.end_user.clone()
}

/// What it means that the client's side of the connection did something while an answer was made.
pub(crate) fn gone_error(gone: Result<Option<Bytes>>) -> Box<Error> {
    match gone {
        Err(error) => error,
        Ok(_) => Error::explain(ErrorType::ConnectionClosed, "the client left"),
    }
}
