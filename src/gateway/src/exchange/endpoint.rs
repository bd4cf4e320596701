//! Where a deployment is called: addresses, peers and the prepared request head.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use http::header::{ACCEPT, CONTENT_TYPE, HOST, USER_AGENT};
use http::uri::PathAndQuery;
use http::{HeaderValue, Method, Uri};
use memchr::memmem;
use pingora_core::protocols::tls::ALPN;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_error::{Error, ErrorType, Result};
use pingora_http::RequestHeader;
use tollway_providers::Provider;
use tollway_wire::operation::Operation;

use super::cooldown::Cooldown;
use super::pool::Place;
use super::upstream::Prepared;
use crate::config::{Entry, RouterSettings};
use crate::scrub;

/// How long a resolved name is used before it is looked up again. Providers move their addresses
/// within minutes; a stale one still works meanwhile.
const RESOLVED_FOR: Duration = Duration::from_secs(30);
/// How many addresses of a name are tried for one attempt.
pub(super) const ADDRESSES_MAX: usize = 3;
/// How many calls share one HTTP/2 connection. Pingora's default of 1 would open one for each.
const H2_STREAMS: usize = 100;
/// How long an unused connection is kept.
const IDLE_CONNECTION: Duration = Duration::from_secs(60);
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);

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

/// One entry of `model_list`, ready to be called.
pub(crate) struct Endpoint {
    pub(crate) provider: &'static dyn Provider,
    pub(crate) drop_params: bool,
    pub(crate) deadlines: Deadlines,
    pub(crate) cooldown: Cooldown,
    /// Tries after the first one, if the entry has its own number.
    pub(crate) retries: Option<u32>,
    host: String,
    port: u16,
    tls: bool,
    heads: [Prepared; 3],
    resolved: ArcSwapOption<Resolved>,
    /// Finds our credential in what comes back.
    secret: Option<memmem::Finder<'static>>,
}

struct Resolved {
    /// When to look again; never, where the host is an address.
    until: Option<Instant>,
    peers: Arc<[Arc<Place>]>,
}

impl Endpoint {
    /// Prepares an entry.
    pub(crate) fn new(entry: &Entry, router: &RouterSettings, now: Instant) -> Result<Endpoint> {
        let base = &entry.base;
        let operations =
            [Operation::ChatCompletions, Operation::Completions, Operation::Embeddings];
        let mut heads = Vec::with_capacity(operations.len());
        for operation in operations {
            heads.push(Prepared::new(head_of(entry, operation)?));
        }
        let heads = heads.try_into().unwrap_or_else(|_| unreachable!("one head an operation"));
        Ok(Endpoint {
            provider: entry.provider,
            drop_params: entry.drop_params,
            deadlines: Deadlines {
                connect: entry.connect_timeout,
                first_byte: entry.first_byte_timeout,
                idle: entry.idle_timeout,
                total: entry.timeout,
            },
            cooldown: Cooldown::new(router.allowed_fails, router.cooldown_time, now),
            retries: entry.max_retries,
            host: base.host.clone(),
            port: base.port,
            tls: base.tls,
            heads,
            resolved: ArcSwapOption::empty(),
            secret: entry.secret().map(|secret| memmem::Finder::new(secret).into_owned()),
        })
    }

    /// The head of a request for `operation`, but for its length.
    pub(super) fn head(&self, operation: Operation) -> &Prepared {
        let at = match operation {
            Operation::ChatCompletions => 0,
            Operation::Completions => 1,
            Operation::Embeddings => 2,
        };
        &self.heads[at]
    }

    /// The peers to try, best first.
    pub(super) async fn peers(&self, now: Instant) -> io::Result<Arc<[Arc<Place>]>> {
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
    ) -> io::Result<Arc<[Arc<Place>]>> {
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
            found.into_iter().map(|address| Arc::new(Place::new(self.peer(address)))).collect();
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

fn head_of(entry: &Entry, operation: Operation) -> Result<RequestHeader> {
    let wrong = |what: String| Error::explain(ErrorType::InvalidHTTPHeader, what);
    let url = entry.provider.url(&entry.base.to_string(), operation);
    let uri: Uri = url.parse().map_err(|_| wrong(format!("`{url}` is not a URL")))?;
    let path = uri.path_and_query().map_or("/", PathAndQuery::as_str);
    let mut head =
        RequestHeader::build_no_case(Method::POST, path.as_bytes(), Some(entry.headers.len() + 6))?;
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
