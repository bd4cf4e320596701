//! Where a deployment is called: addresses, peers and the prepared request head.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use arc_swap::{ArcSwap, ArcSwapOption};
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST, USER_AGENT};
use http::uri::PathAndQuery;
use http::{HeaderName, HeaderValue, Method, Uri};
use memchr::memmem;
use pingora_core::protocols::tls::ALPN;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_error::{Error, ErrorType, Result};
use pingora_http::RequestHeader;
use tollway_filter_api::Clock;
use tollway_filter_api::trace::Span;
use tollway_providers::{Place, Provider, Unsigned};
use tollway_wire::operation::{Dialect, Operation};

use super::attempt::{Sending, exception_name};
use super::cooldown::Cooldown;
use super::fault::Fault;
use super::pool::Address;
use super::routing::Traffic;
use super::tally::Tallies;
use super::token::TokenCache;
use super::upstream::Prepared;
use crate::config::{Entry, EntryAccess, RouterSettings};
use crate::scrub;

/// How long a resolved name is used before it is looked up again. Providers move their addresses
/// within minutes; a stale one still works meanwhile.
const RESOLVED_FOR: Duration = Duration::from_secs(30);
/// How many addresses of a name are tried for one attempt.
pub(super) const ADDRESSES_MAX: usize = 3;
/// How many calls share one HTTP/2 connection. Pingora's default of 1 would open one for each.
const H2_STREAMS: usize = 100;
/// Where our request belongs in a trace.
pub(super) const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// How long an unused connection is kept.
const IDLE_CONNECTION: Duration = Duration::from_secs(60);
pub(super) const WRITE_TIMEOUT: Duration = Duration::from_secs(30);

/// The deadlines of one attempt.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deadlines {
    /// From the connection's start to the end of TLS.
    pub(crate) connect: Duration,
    /// From the sent request to the head of a streamed answer. An answer that is not streamed has
    /// its head only when it is finished: there only `total` counts.
    pub(crate) first_byte: Duration,
    /// Between two reads of a streamed answer.
    pub(crate) idle: Duration,
    /// From the start of an attempt to the end of its answer.
    pub(crate) total: Duration,
}

/// How many paths are kept. A wildcard's deployments share an endpoint, and their models' names
/// come from clients.
const PATHS_MAX: usize = 16;

#[derive(Clone, PartialEq, Eq)]
struct PathKey {
    operation: Operation,
    dialect: Dialect,
    stream: bool,
    model: Box<str>,
}

impl PathKey {
    fn is(&self, place: &Place<'_>) -> bool {
        self.operation == place.operation
            && self.dialect == place.dialect
            && self.stream == place.stream
            && *self.model == *place.model
    }
}

/// One entry of `model_list`, ready to be called.
pub(crate) struct Endpoint {
    pub(crate) provider: &'static dyn Provider,
    pub(crate) drop_params: bool,
    pub(crate) deadlines: Deadlines,
    pub(crate) cooldown: Cooldown,
    /// Tries after the first one, if the entry has its own number.
    pub(crate) retries: Option<u32>,
    /// LiteLLM's `order`: those with a lower one are asked first.
    pub(super) order: u32,
    /// The requests it is kept for.
    pub(super) tags: Vec<String>,
    pub(super) traffic: Traffic,
    /// What the last background check said.
    healthy: AtomicBool,
    /// The token its calls carry, where that is neither a key nor lasting.
    pub(super) token: TokenCache,
    /// What the provider is told of the deployment: its credentials above all.
    pub(super) access: Arc<EntryAccess>,
    host: String,
    port: u16,
    pub(super) tls: bool,
    /// What the `host` header says.
    pub(super) authority: String,
    pub(super) base_path: String,
    /// The head of every request, but for its path and length.
    head: RequestHeader,
    /// The paths of the calls that were made: a deployment mostly has one or two.
    paths: ArcSwap<Vec<(PathKey, Arc<Prepared>)>>,
    signs: bool,
    needs_token: bool,
    resolved: ArcSwapOption<Resolved>,
    /// Finds our credential in what comes back.
    secret: Option<memmem::Finder<'static>>,
}

struct Resolved {
    /// When to look again; never, where the host is an address.
    until: Option<Instant>,
    peers: Arc<[Arc<Address>]>,
}

impl Endpoint {
    /// Prepares an entry.
    pub(crate) fn new(
        entry: &Entry,
        router: &RouterSettings,
        tallies: &Tallies,
        now: Instant,
    ) -> Result<Endpoint> {
        let base = &entry.base;
        let access = entry.access.expose();
        let needs_token = entry.provider.token_request(&access, Duration::ZERO);
        Ok(Endpoint {
            provider: entry.provider,
            drop_params: entry.drop_params,
            deadlines: Deadlines {
                connect: entry.connect_timeout,
                first_byte: entry.first_byte_timeout,
                idle: entry.idle_timeout,
                total: entry.timeout,
            },
            cooldown: Cooldown::new(
                router.allowed_fails,
                router.cooldown_time,
                now,
                tallies.of(&entry.id),
            ),
            retries: entry.max_retries,
            order: entry.order,
            tags: entry.tags.clone(),
            traffic: Traffic::default(),
            healthy: AtomicBool::new(true),
            token: TokenCache::default(),
            signs: entry.provider.signs(&access),
            needs_token: !matches!(needs_token, Ok(None)),
            access: Arc::clone(&entry.access),
            host: base.host.clone(),
            port: base.port,
            tls: base.tls,
            authority: base.authority(),
            base_path: base.path.clone(),
            head: head_of(entry)?,
            paths: ArcSwap::default(),
            resolved: ArcSwapOption::empty(),
            secret: entry.secret().map(|secret| memmem::Finder::new(secret).into_owned()),
        })
    }

    /// Whether the last background check found it working, or there was none.
    pub(super) fn is_healthy(&self) -> bool {
        self.healthy.load(Ordering::Relaxed)
    }

    /// What a check has found: routing avoids what does not work.
    pub(super) fn set_healthy(&self, healthy: bool) {
        self.healthy.store(healthy, Ordering::Relaxed);
        if healthy {
            self.cooldown.tally().works();
        }
    }

    /// The head of every request, but for its method, path and length.
    pub(super) fn bare_head(&self) -> &RequestHeader {
        &self.head
    }

    /// What comes before all paths.
    pub(super) fn base_path(&self) -> &str {
        &self.base_path
    }

    /// Whether calls carry a token that has to be fetched.
    pub(super) fn needs_token(&self) -> bool {
        self.needs_token
    }

    /// The head of a request, ready to be sent.
    pub(super) fn head(
        &self,
        sending: &Sending<'_>,
        token: Option<&HeaderValue>,
        clock: &Clock,
    ) -> std::result::Result<Arc<Prepared>, Fault> {
        let Sending { body, traceparent, .. } = sending;
        let prepared = self.prepared(&sending.place)?;
        let is_usual = token.is_none() && body.content_type.is_none() && traceparent.is_none();
        if is_usual && !self.signs {
            return Ok(prepared);
        }
        // What differs from call to call replaces what was prepared.
        let mut head = prepared.head().clone();
        let mut set = |name: HeaderName, value: HeaderValue| {
            head.insert_header(name, value).map_err(|error| self.unusable(&error))
        };
        if self.signs {
            let path = prepared.head().uri.path_and_query();
            let whole = (!body.rest.is_empty()).then(|| body.joined());
            let unsigned = Unsigned {
                host: &self.authority,
                path_and_query: path.map_or("/", PathAndQuery::as_str),
                body: whole.as_ref().unwrap_or(&body.bytes),
                now: clock.unix(),
            };
            let signed = self.provider.sign(&unsigned, &self.access.expose());
            let name = exception_name(self.provider);
            for (name, value) in signed.map_err(|error| Fault::credentials(name, &error))? {
                set(name, value)?;
            }
        }
        if let Some(token) = token {
            set(AUTHORIZATION, token.clone())?;
        }
        if let Some(content_type) = &body.content_type {
            set(CONTENT_TYPE, content_type.clone())?;
        }
        if let Some(traceparent) = traceparent {
            set(TRACEPARENT, HeaderValue::clone(traceparent))?;
        }
        Ok(Arc::new(Prepared::new(head)))
    }

    /// Says of an attempt's span where it goes.
    pub(super) fn tell(&self, span: &mut Span) {
        if span.is_recorded() {
            span.set("server.address", self.host.clone());
            span.set("server.port", u64::from(self.port));
        }
    }

    /// The head of a call, but for what depends on the request.
    fn prepared(&self, place: &Place<'_>) -> std::result::Result<Arc<Prepared>, Fault> {
        let kept = self.paths.load();
        if let Some((_, prepared)) = kept.iter().find(|(key, _)| key.is(place)) {
            return Ok(Arc::clone(prepared));
        }
        let own = self.provider.path(place, &self.access.expose());
        let path: Uri =
            format!("{}{own}", self.base_path).parse().map_err(|error| self.unusable(&error))?;
        let mut head = self.head.clone();
        head.set_uri(path);
        let prepared = Arc::new(Prepared::new(head));
        if kept.len() < PATHS_MAX {
            let key = PathKey {
                operation: place.operation,
                dialect: place.dialect,
                stream: place.stream,
                model: place.model.into(),
            };
            let mut paths = Vec::clone(&kept);
            paths.push((key, Arc::clone(&prepared)));
            // Two that do this at once: one of them is forgotten, and made again.
            self.paths.store(Arc::new(paths));
        }
        Ok(prepared)
    }

    fn unusable(&self, error: &dyn std::fmt::Display) -> Fault {
        Fault::connect(exception_name(self.provider), error.to_string())
    }

    /// The peers to try, best first.
    pub(super) async fn peers(&self, now: Instant) -> io::Result<Arc<[Arc<Address>]>> {
        let known = self.resolved.load();
        match known.as_ref() {
            Some(known) if known.until.is_none_or(|until| now < until) => {
                Ok(Arc::clone(&known.peers))
            }
            // Boxed, because it is rare and every request would carry its state.
            known => Box::pin(self.look_up(known, now)).await,
        }
    }

    async fn look_up(
        &self,
        known: Option<&Arc<Resolved>>,
        now: Instant,
    ) -> io::Result<Arc<[Arc<Address>]>> {
        let found = match tokio::net::lookup_host((self.host.as_str(), self.port)).await {
            Ok(found) => found.take(ADDRESSES_MAX).collect::<Vec<_>>(),
            Err(error) => match known {
                // A name server that is away must not stop calls to addresses that work.
                Some(known) => return Ok(Arc::clone(&known.peers)),
                None => return Err(error),
            },
        };
        if found.is_empty() {
            return Err(io::Error::new(io::ErrorKind::NotFound, "the name has no address"));
        }
        let is_name = self.host.parse::<IpAddr>().is_err();
        let peers: Arc<[_]> =
            found.into_iter().map(|address| Arc::new(Address::new(self.peer(address)))).collect();
        let until = is_name.then(|| now + RESOLVED_FOR);
        self.resolved.store(Some(Arc::new(Resolved { until, peers: Arc::clone(&peers) })));
        Ok(peers)
    }

    fn peer(&self, address: SocketAddr) -> HttpPeer {
        let mut peer = HttpPeer::new(address, self.tls, self.host.clone());
        let options = &mut peer.options;
        options.connection_timeout = Some(self.deadlines.connect);
        options.total_connection_timeout = Some(self.deadlines.connect);
        options.write_timeout = Some(WRITE_TIMEOUT);
        options.idle_timeout = Some(IDLE_CONNECTION);
        options.max_h2_streams = H2_STREAMS;
        // Without TLS there is nothing to negotiate HTTP/2 with.
        options.alpn = if self.tls { ALPN::H2H1 } else { ALPN::H1 };
        peer
    }

    /// Overwrites our credential where a provider echoes it.
    pub(crate) fn scrub(&self, bytes: bytes::Bytes) -> bytes::Bytes {
        match &self.secret {
            Some(secret) => scrub::overwrite(bytes, secret),
            None => bytes,
        }
    }

    /// Whether `bytes` hold our credential.
    pub(super) fn echoes_secret(&self, bytes: &[u8]) -> bool {
        self.secret.as_ref().is_some_and(|finder| finder.find(bytes).is_some())
    }
}

fn head_of(entry: &Entry) -> Result<RequestHeader> {
    let wrong = |what: String| Error::explain(ErrorType::InvalidHTTPHeader, what);
    let room = entry.headers.len() + 6;
    let mut head = RequestHeader::build_no_case(Method::POST, b"/", Some(room))?;
    let authority = entry.base.authority();
    let authority = HeaderValue::from_str(&authority)
        .map_err(|_| wrong(format!("`{authority}` is not a host")))?;
    head.insert_header(HOST, authority)?;
    head.insert_header(CONTENT_TYPE, HeaderValue::from_static("application/json"))?;
    head.insert_header(ACCEPT, HeaderValue::from_static("*/*"))?;
    head.insert_header(USER_AGENT, HeaderValue::from_static(crate::USER_AGENT))?;
    for (name, value) in &entry.headers {
        head.insert_header(name.clone(), value.clone())?;
    }
    Ok(head)
}
