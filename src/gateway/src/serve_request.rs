//! One request, from its head to its answer.

use std::sync::Arc;

use http::{HeaderName, HeaderValue, Method};
use pingora_core::protocols::http::ServerSession;
use pingora_error::{ErrorSource, Result};
use serde_json::json;
use tollway_filter_api::Clock;
use tollway_filter_api::{
    Answer, AnswerBody, Flow, Outcome, Reject, Rejection, RequestCtx, RequestHead,
};
use tollway_wire::operation::{Dialect, Operation};

use crate::background::Job;
use crate::early::{finish, refuse};
use crate::percent::percent_decoded;
use crate::routes::{self, Route};
use crate::state::{Gateway, RequestState};
use crate::{
    admin, agents, background, health, model_call, models, observe, random, realtime, responses,
    stored, tunnel,
};

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
    // What an operator hands on stands before agents, whose paths are many.
    if matches!(found.route, Route::Unknown | Route::Agent(_))
        && let Some((at, pattern)) = generation.pass_through_of(head.uri.path())
    {
        found.route = Route::PassThrough(at);
        found.pattern = pattern;
        found.methods = &[];
    }
    let header_bytes: usize = head.headers.iter().map(|(n, v)| n.as_str().len() + v.len()).sum();
    // HEAD is GET without the body; OPTIONS that no filter answers is refused below.
    let is_method = |wanted: &Method| {
        *wanted == head.method || (*wanted == Method::GET && head.method == Method::HEAD)
    };
    let wrong_method = !found.methods.is_empty() && !found.methods.iter().any(is_method);
    let mut ctx =
        RequestCtx::new(request_id(session, &gateway.clock), gateway.clock.now(), found.pattern);
    ctx.client = client_address(session);
    match &found.route {
        Route::Call(asked) => {
            ctx.operation = Some(asked.operation);
            ctx.dialect = asked.dialect;
        }
        Route::Response(_) => ctx.dialect = Dialect::Responses,
        // It counts as a call, of the kind that has no body of its own.
        Route::Realtime => ctx.operation = Some(Operation::Realtime),
        Route::PassThrough(at) => {
            ctx.passage = Some(Box::new(generation.pass_through[*at].passage()));
        }
        Route::Stored => stored::arrive(session, &mut ctx),
        Route::Models | Route::Model => ctx.dialect = models::dialect(session.req_header()),
        _ => {}
    }
    // Probes and scrapes would be most of what there is to look at.
    let is_probe =
        matches!(found.route, Route::Alive | Route::Ready | Route::Health | Route::Metrics);
    if let Some(traces) = generation.traces.as_ref().filter(|_| !is_probe) {
        ctx.span = Some(traces.request(session.req_header(), found.pattern));
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
            let reject = wrong_method_of(found.methods.iter().map(Method::as_str));
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
                    state.outcome = Box::pin(tunnel::carry(session, state, &gateway.pool)).await?;
                    return Ok(true);
                }
                let reject = wrong_method_of(methods.iter().map(Method::as_str));
                refuse(session, &generation, ctx, reject).await
            }
            Route::Call(asked) => {
                model_call::serve(session, &gateway, &generation, ctx, &asked).await
            }
            Route::Health => {
                let query = session.req_header().uri.query().unwrap_or_default().to_owned();
                let key = ctx.identity.clone();
                let health =
                    Box::pin(health::answer(&gateway, &generation, key.as_deref(), &query));
                let answer = json_answer(&Box::pin(health).await);
                finish(session, &generation, ctx, Ok(answer)).await
            }
            // Boxed, like all that is rare and large: each request carries the room for what may
            // become of it.
            Route::Realtime => Box::pin(realtime::serve(session, &gateway, &generation, ctx)).await,
            Route::Response(route) => {
                Box::pin(responses::serve(route, session, &gateway, &generation, ctx)).await
            }
            Route::Admin(_) => Box::pin(admin::serve(session, &gateway, &generation, ctx)).await,
            Route::Models => {
                let who = agents::caller(&gateway, &generation, ctx.identity.clone());
                let agents = Box::pin(agents::names(&gateway, &who)).await;
                let list = models::list(&generation, ctx.identity.as_deref(), ctx.dialect, &agents);
                finish(session, &generation, ctx, Ok(json_answer(&list))).await
            }
            Route::Model => {
                let id = routes::model_id(session.req_header().uri.path()).unwrap_or_default();
                let id = percent_decoded(id);
                let who = agents::caller(&gateway, &generation, ctx.identity.clone());
                // Only these are in the store.
                let agents = match id.starts_with(agents::PREFIX) {
                    true => Box::pin(agents::names(&gateway, &who)).await,
                    false => Vec::new(),
                };
                let key = ctx.identity.as_deref();
                let found = models::one(&generation, key, &id, ctx.dialect, &agents);
                finish(session, &generation, ctx, found.map(|found| json_answer(&found))).await
            }
            Route::Agent(route) => {
                Box::pin(agents::serve(session, &gateway, &generation, ctx, route)).await
            }
            Route::Stored => {
                Box::pin(agents::files::serve(session, &gateway, &generation, ctx)).await
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
                let answer = local(route, &gateway);
                finish(session, &generation, ctx, answer).await
            }
        },
        Flow::Answer(answer) => finish(session, &generation, ctx, Ok(answer)).await,
        Flow::Reject(reject) => refuse(session, &generation, ctx, reject).await,
    };
    if let Some(job) = ctx.held.take_if(|held| held.is::<Job>())
        && let Ok(job) = job.downcast::<Job>()
        && let Some(ctx) = state.ctx.take()
    {
        // The answer is still to be made: the request ends when it is there.
        if let Some(follower) = background::begin(&gateway, ctx, *job) {
            let followed = Box::pin(background::pass_on(session, follower)).await;
            return settle(&mut state.outcome, followed.map(|_| Outcome::Done));
        }
    }
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
            *kept = match error.esource() {
                ErrorSource::Upstream => Outcome::Broken,
                _ => Outcome::ClientGone,
            };
            Err(error.into_down())
        }
    }
}

fn json_answer(value: &serde_json::Value) -> Answer {
    let body =
        AnswerBody::Full { content_type: "application/json", bytes: value.to_string().into() };
    Answer { status: 200, headers: Vec::new(), body }
}

/// Answers that need no model.
fn local(route: Route, gateway: &Gateway) -> Result<Answer, Rejection> {
    let json = |value: serde_json::Value| json_answer(&value);
    match route {
        Route::Alive => Ok(json(json!("I'm alive!"))),
        Route::Ready if gateway.in_flight.draining() => {
            Err(Reject::new(503, "internal_server_error", "The gateway is shutting down."))
        }
        // Requests are served with what is known, also where the database is away.
        Route::Ready => {
            let is_connected = gateway.money.is_connected() && gateway.admin.is_current();
            let db = if is_connected { "connected" } else { "Not connected" };
            Ok(json(json!({"status": "healthy", "db": db})))
        }
        Route::Call(_)
        | Route::Response(_)
        | Route::Stored
        | Route::Admin(_)
        | Route::Agent(_)
        | Route::Models
        | Route::Model
        | Route::Realtime
        | Route::Health
        | Route::Metrics
        | Route::PassThrough(_)
        | Route::Unknown => Err(Reject::internal("no such route", "a route without an answer")),
    }
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

pub(crate) fn wrong_method_of<'m>(allowed: impl Iterator<Item = &'m str>) -> Rejection {
    let allowed = allowed.collect::<Vec<_>>().join(", ");
    let message = format!("This path takes {allowed} requests only.");
    let allow = HeaderValue::from_str(&allowed).unwrap_or(HeaderValue::from_static(""));
    Reject::new(405, "invalid_request_error", message)
        .with_code("method_not_allowed")
        .with_header(http::header::ALLOW, allow)
}

const X_LITELLM_CALL_ID: HeaderName = HeaderName::from_static("x-litellm-call-id");
/// The caller's own id where it is sane, so that both sides' logs can be joined.
fn request_id(session: &ServerSession, clock: &Clock) -> Arc<str> {
    let given = session.req_header().headers.get(&X_LITELLM_CALL_ID).map(HeaderValue::as_bytes);
    match given {
        Some(id)
            if !id.is_empty()
                && id.len() <= CALL_ID_MAX
                && id.iter().all(|b| b.is_ascii_alphanumeric() || b"-_.:".contains(b)) =>
        {
            String::from_utf8_lossy(id).into()
        }
        _ => random::uuid(clock.unix()).into(),
    }
}

fn client_address(session: &ServerSession) -> Option<std::net::IpAddr> {
    session.client_addr()?.as_inet().map(|address| address.ip())
}
