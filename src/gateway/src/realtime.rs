//! `GET /v1/realtime`: a websocket to a model that speaks OpenAI's realtime events.
//!
//! The upgrade is a model call like any other: the key, aliases and limits decide, and the exchange
//! finds the deployment, in a group to fall back to if need be. Then frames pass both ways as they are, and what the server's
//! `response.done` events say of usage is metered when the socket closes. Limits on tokens are
//! settled only then.

use std::sync::Arc;

use bytes::Bytes;
use http::header::{
    CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, SEC_WEBSOCKET_PROTOCOL,
    SEC_WEBSOCKET_VERSION, UPGRADE,
};
use http::{HeaderName, HeaderValue};
use pingora_core::protocols::http::ServerSession;
use pingora_error::Result;
use pingora_http::{RequestHeader, ResponseHeader};
use tollway_filter_api::{Outcome, Reject, Rejection, RequestCtx, ResponseHead};
use tollway_wire::realtime::Meter;

use crate::early::refuse;
use crate::exchange::{self, Upgraded};
use crate::state::{Gateway, Generation};
use crate::{named, observe, tunnel};

/// What clients say to get the API's first version.
const OPENAI_BETA: HeaderName = HeaderName::from_static("openai-beta");
const BETA: &[u8] = b"realtime=v1";
/// The subprotocols that mean something to a provider. The others carry keys and organizations.
const PROTOCOL: &str = "realtime";
const BETA_PROTOCOL: &str = "openai-beta.realtime-v1";

/// Serves the upgrade and carries the socket.
pub(crate) async fn serve(
    session: &mut ServerSession,
    gateway: &Gateway,
    generation: &Arc<Generation>,
    ctx: &mut RequestCtx,
) -> Result<Outcome> {
    let offers = match offers(session) {
        Ok(offers) => offers,
        Err(reject) => return refuse(session, generation, ctx, reject).await,
    };
    let query = session.req_header().uri.query().unwrap_or_default().to_owned();
    // Azure's clients call it a deployment.
    let model = named::of_query(&query, &["model", "deployment"]).find(|name| !name.is_empty());
    let Some(model) = model else {
        let message = "Missing required parameter: 'model'. Name it in the query.";
        let reject = Reject::invalid_request(message)
            .with_param("model")
            .with_code("missing_required_parameter");
        return refuse(session, generation, ctx, reject).await;
    };
    if let Err(reject) = named::plan(session, generation, ctx, &model).await {
        return refuse(session, generation, ctx, reject).await;
    }
    let (Some(view), Some(plan)) = (&ctx.view, &ctx.plan) else {
        let reject = Reject::internal("no request", "nothing was planned");
        return refuse(session, generation, ctx, reject).await;
    };
    let (view, plan) = (Arc::clone(view), plan.clone());
    let mut call = exchange::Call::new(view, plan, Arc::clone(generation), ctx.arrived);
    call.left_out.clone_from(&ctx.left_out);
    let upgraded = Box::pin(gateway.exchange.upgrade(&call, &offers)).await;
    {
        let mut told = call.report.lock();
        ctx.report.attempts = told.attempts;
        ctx.report.fallbacks = told.fallbacks;
        ctx.report.deployment = told.deployment.take();
        ctx.report.upstream_started = told.upstream_started;
    }
    let mut upgraded = match upgraded {
        Ok(upgraded) => upgraded,
        Err(reject) => return refuse(session, generation, ctx, reject).await,
    };
    ctx.report.first_byte = Some(gateway.clock.now());
    let head = answer_head(session, &upgraded, generation, ctx)?;
    session.write_response_header(head).await?;
    session.set_read_timeout(Some(tunnel::SILENCE));
    let mut meter = Meter::default();
    let mut responses = 0;
    let mut passing = |bytes: &[u8]| {
        ctx.report.bytes_sent += bytes.len() as u64;
        meter.take(bytes);
        if meter.responses() == responses {
            return Ok(());
        }
        // Filters see what was used so far: whether there is money for another turn.
        responses = meter.responses();
        ctx.report.usage = meter.usage();
        generation.chain.chunk(ctx, &mut Bytes::new())
    };
    let carried = tunnel::both_ways(session, &mut upgraded.session, &mut passing).await;
    ctx.report.upstream_ended = Some(gateway.clock.now());
    ctx.report.usage = meter.usage();
    // Nothing was used where the server finished no response.
    let used = ctx.report.usage.get_or_insert_default().total_tokens();
    upgraded.admission.settle(Some(used));
    // There is no telling where a frame begins: the socket closes, and the log says why.
    Ok(match carried? {
        None => Outcome::Done,
        Some(end) => {
            observe::broken_stream(ctx, &end);
            ctx.report.error_kind = Some(end.kind.to_string());
            Outcome::Broken
        }
    })
}

/// What of the client's head makes the upgrade. Extensions are not offered: what is compressed
/// cannot be metered.
fn offers(session: &ServerSession) -> Result<Vec<(HeaderName, HeaderValue)>, Rejection> {
    let head = session.req_header();
    let is_websocket = head
        .headers
        .get(UPGRADE)
        .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"websocket"));
    let key = head.headers.get(SEC_WEBSOCKET_KEY);
    let (true, true, Some(key)) = (session.is_upgrade_req(), is_websocket, key) else {
        let message = "This path is a websocket: ask for an upgrade, over HTTP/1.1.";
        return Err(Reject::new(426, "invalid_request_error", message)
            .with_code("upgrade_required")
            .with_header(UPGRADE, HeaderValue::from_static("websocket")));
    };
    let version = head.headers.get(SEC_WEBSOCKET_VERSION);
    let mut offers = vec![
        (CONNECTION, HeaderValue::from_static("Upgrade")),
        (UPGRADE, HeaderValue::from_static("websocket")),
        (SEC_WEBSOCKET_KEY, key.clone()),
        (SEC_WEBSOCKET_VERSION, version.cloned().unwrap_or(HeaderValue::from_static("13"))),
    ];
    let protocols: Vec<&str> = [PROTOCOL, BETA_PROTOCOL]
        .into_iter()
        .filter(|protocol| protocols(head).any(|offered| offered == *protocol))
        .collect();
    if let Ok(protocols) = HeaderValue::from_str(&protocols.join(", "))
        && !protocols.is_empty()
    {
        offers.push((SEC_WEBSOCKET_PROTOCOL, protocols));
    }
    let beta = head.headers.get(&OPENAI_BETA).filter(|value| value.as_bytes() == BETA);
    offers.extend(beta.map(|value| (OPENAI_BETA, value.clone())));
    Ok(offers)
}

/// The subprotocols the client offers.
fn protocols(head: &RequestHeader) -> impl Iterator<Item = &str> {
    let values = head.headers.get_all(SEC_WEBSOCKET_PROTOCOL).iter();
    values.filter_map(|value| value.to_str().ok()).flat_map(|list| list.split(',')).map(str::trim)
}

/// The head that accepts the upgrade.
fn answer_head(
    session: &ServerSession,
    upgraded: &Upgraded,
    generation: &Generation,
    ctx: &mut RequestCtx,
) -> Result<Box<ResponseHeader>> {
    let asked = session.req_header();
    let said = upgraded.session.resp_header();
    let of = |name: HeaderName| said.and_then(|head| head.headers.get(name));
    let mut response = ResponseHead { status: 101, headers: Vec::new(), streaming: true };
    generation.chain.response(ctx, asked, &mut response);
    ctx.report.status = Some(101);
    let mut head = ResponseHeader::build(101, Some(response.headers.len() + 4))?;
    for (name, value) in response.headers {
        head.insert_header(name, value)?;
    }
    head.insert_header(CONNECTION, HeaderValue::from_static("Upgrade"))?;
    head.insert_header(UPGRADE, HeaderValue::from_static("websocket"))?;
    if let Some(accept) = of(SEC_WEBSOCKET_ACCEPT) {
        head.insert_header(SEC_WEBSOCKET_ACCEPT, accept.clone())?;
    }
    // A browser that offered some closes a socket that chose none.
    let chosen = of(SEC_WEBSOCKET_PROTOCOL).and_then(|value| value.to_str().ok());
    let chosen = chosen.filter(|chosen| protocols(asked).any(|offered| offered == *chosen));
    let ours = || protocols(asked).find(|offered| *offered == PROTOCOL);
    if let Some(chosen) = chosen.or_else(ours) {
        head.insert_header(
            SEC_WEBSOCKET_PROTOCOL,
            HeaderValue::from_str(chosen).unwrap_or(HeaderValue::from_static(PROTOCOL)),
        )?;
    }
    Ok(Box::new(head))
}
