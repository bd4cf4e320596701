//! `impl ProxyHttp`, methods in phase order: read it to learn what happens when.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use pingora_core::protocols::http::ServerSession;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_error::{Error, ErrorSource, Result};
use pingora_http::{RequestHeader, ResponseHeader};
use pingora_proxy::{FailToProxy, ProxyHttp, Session};
use tollway_filter_api::{Outcome, Reject};

use crate::respond;
use crate::serve_request;
use crate::state::{Gateway, RequestState};

/// The gateway as Pingora sees it.
pub(crate) struct Proxy(pub(crate) Arc<Gateway>);

#[async_trait]
impl ProxyHttp for Proxy {
    type CTX = RequestState;

    fn new_ctx(&self) -> RequestState {
        RequestState::new(&self.0)
    }

    /// Pingora would build a compression module for every request; we never compress.
    fn init_downstream_modules(&self, _: &mut pingora_core::modules::http::HttpModules) {}

    /// Everything but pass-through is answered here, where `http_app.rs` has not answered it already.
    async fn request_filter(
        &self,
        session: &mut Session,
        state: &mut RequestState,
    ) -> Result<bool> {
        serve_request::serve(session.as_mut(), state).await
    }

    // From here on: pass-through only.

    async fn upstream_peer(
        &self,
        _session: &mut Session,
        state: &mut RequestState,
    ) -> Result<Box<HttpPeer>> {
        state.pass_through_route()?.peer().await
    }

    async fn upstream_request_filter(
        &self,
        session: &mut Session,
        upstream_request: &mut RequestHeader,
        state: &mut RequestState,
    ) -> Result<()> {
        let span = state.ctx.as_ref().and_then(|ctx| ctx.span.as_deref());
        state.pass_through_route()?.rewrite(session.req_header(), upstream_request, span)
    }

    async fn response_filter(
        &self,
        session: &mut Session,
        upstream_response: &mut ResponseHeader,
        state: &mut RequestState,
    ) -> Result<()> {
        crate::pass_through::answer_head(session, upstream_response, state)
    }

    fn response_body_filter(
        &self,
        _session: &mut Session,
        body: &mut Option<Bytes>,
        end_of_stream: bool,
        state: &mut RequestState,
    ) -> Result<Option<std::time::Duration>> {
        if let Some(scrub) = &mut state.scrub {
            let clean = scrub.piece(body.take().unwrap_or_default(), end_of_stream);
            *body = (!clean.is_empty()).then_some(clean);
        }
        if let (Some(ctx), Some(body)) = (&mut state.ctx, body) {
            ctx.report.bytes_sent += body.len() as u64;
        }
        Ok(None)
    }

    async fn fail_to_proxy(
        &self,
        session: &mut Session,
        error: &Error,
        state: &mut RequestState,
    ) -> FailToProxy {
        let answered = fail(session.as_mut(), error, state).await;
        FailToProxy { error_code: if answered { 502 } else { 0 }, can_reuse_downstream: false }
    }

    /// Our own request log tells failures, with the request's id and without its path.
    fn suppress_error_log(&self, _: &Session, _: &RequestState, _: &Error) -> bool {
        true
    }

    /// What Pingora's own messages may say of a request: never its query, which may hold a key.
    fn request_summary(&self, session: &Session, state: &RequestState) -> String {
        let route = state.ctx.as_ref().map_or("unknown", |ctx| ctx.route);
        format!("{} {route}", session.req_header().method)
    }

    /// Settles the request, always, once, whatever happened.
    async fn logging(
        &self,
        _session: &mut Session,
        error: Option<&Error>,
        state: &mut RequestState,
    ) {
        if error.is_none() && state.pass_through.is_some() {
            state.outcome = Outcome::Done;
        }
        state.end();
    }
}

/// Answers a request that failed for a reason of the upstream's, where it still can be answered.
/// The connection is closed in any case.
pub(crate) async fn fail(
    session: &mut ServerSession,
    error: &Error,
    state: &mut RequestState,
) -> bool {
    if *error.esource() == ErrorSource::Downstream || session.response_written().is_some() {
        return false;
    }
    let Some(ctx) = &mut state.ctx else { return false };
    let message = "litellm.APIConnectionError: The upstream could not be reached.";
    let mut reject = Reject::new(502, "internal_server_error", message);
    reject.code = Some("upstream_error".into());
    reject.source = Some(error.to_string().into());
    session.set_keepalive(None);
    let codes = state.generation.config.error_codes;
    let chain = &state.generation.chain;
    if respond::reject(session, chain, ctx, *reject, codes).await.is_ok() {
        state.outcome = Outcome::Done;
    }
    true
}
