//! Routes that Pingora's own loop carries: websockets, uploads, downloads. Nothing is buffered.
//!
//! Head filters run before it and the response and end phases after it, as for every route.

use std::sync::Arc;

use http::header::HOST;
use http::{HeaderName, HeaderValue, Method};
use pingora_core::protocols::http::ServerSession;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_error::{Error, ErrorType, Result};
use pingora_http::{RequestHeader, ResponseHeader};
use tollway_filter_api::ResponseHead;
use tollway_filter_api::ctx::Passage;
use tollway_filter_api::trace::Span;
use tollway_wire::price::PicoDollars;

use crate::config::PassThroughSettings;
use crate::scrub::Scrub;
use crate::state::{Generation, RequestState};

/// Headers in which callers show us their key. They are for us, never for the upstream.
const CREDENTIALS: [&str; 6] = [
    "authorization",
    "x-api-key",
    "api-key",
    "x-goog-api-key",
    "ocp-apim-subscription-key",
    "x-litellm-api-key",
];
/// How long a connection may take to come about.
const CONNECT: std::time::Duration = std::time::Duration::from_secs(10);

/// One pass-through route.
pub(crate) struct PassThrough {
    /// The path it is reached by, with everything below it. Without a slash at its end.
    path: String,
    /// The same for labels. Routes live as long as the process may, and there are few.
    pattern: &'static str,
    methods: Vec<Method>,
    target_path: String,
    authority: HeaderValue,
    host: String,
    port: u16,
    tls: bool,
    headers: Vec<(HeaderName, HeaderValue)>,
    /// Where it goes, for the ledger.
    target: Arc<str>,
    cost: PicoDollars,
}

impl PassThrough {
    /// Prepares a configured endpoint.
    pub(crate) fn new(endpoint: &PassThroughSettings) -> Result<PassThrough> {
        let base = &endpoint.target;
        let authority = HeaderValue::from_str(&base.authority()).map_err(|_| {
            Error::explain(ErrorType::InvalidHTTPHeader, "the host is not a header value")
        })?;
        Ok(PassThrough {
            path: endpoint.path.clone(),
            pattern: interned(&endpoint.path),
            methods: endpoint.methods.clone(),
            target_path: base.path.clone(),
            authority,
            host: base.host.clone(),
            port: base.port,
            tls: base.tls,
            headers: endpoint.headers.clone(),
            target: base.to_string().into(),
            cost: endpoint.cost,
        })
    }

    /// What the ledger is told of a request.
    pub(crate) fn passage(&self) -> Passage {
        Passage {
            call_type: "pass_through_endpoint",
            provider: "",
            api_base: Arc::clone(&self.target),
            name: std::sync::Arc::from(""),
            cost: self.cost,
            is_billed_later: false,
        }
    }

    /// Whether `path` is this route's.
    pub(crate) fn takes(&self, path: &str) -> bool {
        path.strip_prefix(self.path.as_str())
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }

    /// The credentials among its headers. One shorter than 8 bytes is found in any text, and is none.
    fn secrets(&self) -> Vec<Vec<u8>> {
        let secrets = self.headers.iter().filter(|(_, value)| value.is_sensitive());
        secrets
            .map(|(_, value)| value.as_bytes())
            .map(|value| value.strip_prefix(b"Bearer ").unwrap_or(value))
            .filter(|value| value.len() >= 8)
            .map(<[u8]>::to_vec)
            .collect()
    }

    /// The methods that are let through; empty means all.
    pub(crate) fn methods(&self) -> &[Method] {
        &self.methods
    }

    pub(crate) async fn peer(&self) -> Result<Box<HttpPeer>> {
        let mut found =
            tokio::net::lookup_host((self.host.as_str(), self.port)).await.map_err(|error| {
                Error::because(ErrorType::ConnectNoRoute, "name lookup", error).into_up()
            })?;
        let address = found.next().ok_or_else(|| {
            Error::explain(ErrorType::ConnectNoRoute, "the name has no address").into_up()
        })?;
        let mut peer = HttpPeer::new(address, self.tls, self.host.clone());
        peer.options.connection_timeout = Some(CONNECT);
        peer.options.total_connection_timeout = Some(CONNECT);
        Ok(Box::new(peer))
    }

    /// Turns the caller's head into the upstream's: our path, our credentials, not theirs.
    pub(crate) fn rewrite(
        &self,
        asked: &RequestHeader,
        upstream: &mut RequestHeader,
        span: Option<&Span>,
    ) -> Result<()> {
        let rest = asked.uri.path().get(self.path.len()..).unwrap_or_default();
        let mut path = format!("{}{rest}", self.target_path);
        if path.is_empty() {
            path.push('/');
        }
        if let Some(query) = asked.uri.query() {
            path.push('?');
            path.push_str(query);
        }
        upstream.set_raw_path(path.as_bytes())?;
        for name in CREDENTIALS {
            upstream.remove_header(name);
        }
        upstream.remove_header("accept-encoding");
        // What callers note of themselves and of their users is not for others.
        upstream.remove_header("baggage");
        if let Some(span) = span {
            upstream.remove_header("tracestate");
            upstream.insert_header("traceparent", span.traceparent().to_string())?;
        }
        strip_key_from_subprotocols(upstream)?;
        upstream.insert_header(HOST, self.authority.clone())?;
        for (name, value) in &self.headers {
            upstream.insert_header(name.clone(), value.clone())?;
        }
        Ok(())
    }
}

/// Browsers cannot set headers on a websocket and show their key as a subprotocol.
fn strip_key_from_subprotocols(upstream: &mut RequestHeader) -> Result<()> {
    const PROTOCOLS: &str = "sec-websocket-protocol";
    let Some(given) = upstream.headers.get(PROTOCOLS).and_then(|v| v.to_str().ok()) else {
        return Ok(());
    };
    if !given.contains("openai-insecure-api-key.") {
        return Ok(());
    }
    let kept: Vec<&str> = given
        .split(',')
        .map(str::trim)
        .filter(|protocol| !protocol.starts_with("openai-insecure-api-key."))
        .collect();
    let kept = kept.join(", ");
    upstream.remove_header(PROTOCOLS);
    if !kept.is_empty() {
        upstream.insert_header(PROTOCOLS, kept)?;
    }
    Ok(())
}

/// Metric labels want static text; the same path gives the same text after every reload.
fn interned(path: &str) -> &'static str {
    static KNOWN: parking_lot::Mutex<Vec<&'static str>> = parking_lot::Mutex::new(Vec::new());
    let mut known = KNOWN.lock();
    if let Some(have) = known.iter().find(|have| **have == path) {
        return have;
    }
    let fresh: &'static str = Box::leak(path.to_owned().into_boxed_str());
    known.push(fresh);
    fresh
}

/// Puts what filters say into the head of the upstream's answer.
pub(crate) fn answer_head(
    session: &ServerSession,
    upstream: &mut ResponseHeader,
    state: &mut RequestState,
) -> Result<()> {
    let generation = Arc::clone(&state.generation);
    let Some(ctx) = &mut state.ctx else { return Ok(()) };
    let status = upstream.status.as_u16();
    ctx.report.status = Some(status);
    let mut head = ResponseHead { status, headers: Vec::new(), streaming: false };
    generation.chain.response(ctx, session.req_header(), &mut head);
    for (name, value) in head.headers {
        upstream.insert_header(name, value)?;
    }
    remove_echoes(state, upstream)
}

/// A provider that repeats our credentials must not hand them to the caller: not in its answer's
/// head, nor in the body, which is looked through as it passes.
fn remove_echoes(state: &mut RequestState, upstream: &mut ResponseHeader) -> Result<()> {
    let secrets = state.pass_through_route()?.secrets();
    if secrets.is_empty() {
        return Ok(());
    }
    let holds = |value: &HeaderValue| {
        secrets.iter().any(|secret| memchr::memmem::find(value.as_bytes(), secret).is_some())
    };
    let echoing: Vec<HeaderName> = upstream
        .headers
        .iter()
        .filter(|(_, value)| holds(value))
        .map(|(name, _)| name.clone())
        .collect();
    for name in &echoing {
        upstream.remove_header(name);
    }
    state.scrub = Some(Scrub::new(&secrets));
    Ok(())
}

impl RequestState {
    /// The route this request is passed through by.
    pub(crate) fn pass_through_route(&self) -> Result<&PassThrough> {
        self.pass_through
            .and_then(|at| self.generation.pass_through.get(at))
            .ok_or_else(|| Error::explain(ErrorType::InternalError, "not a pass-through request"))
    }
}

impl Generation {
    /// The pass-through route of a path.
    pub(crate) fn pass_through_of(&self, path: &str) -> Option<(usize, &'static str)> {
        let at = self.pass_through.iter().position(|route| route.takes(path))?;
        Some((at, self.pass_through[at].pattern))
    }
}
