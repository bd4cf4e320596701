//! The one HTTP client of all tools, which models and strangers can talk into much.
//!
//! [`Outgoing::guarded`] makes a client for URLs of anybody's: a [`Policy`] says where it may go, each
//! name is looked up once, every address it has is checked, the connection goes to one of these
//! addresses, and each redirect is treated like a new request. [`Outgoing::trusted`] makes one for an
//! endpoint that an operator has written into the config: there, and nowhere else, wherever that is.
//! Neither keeps cookies or uses a proxy, and every answer has a largest size and a latest time.

mod address;
mod error;
mod lookup;
mod policy;

use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::PROXY_AUTHORIZATION;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE, COOKIE, LOCATION};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use rustls::RootCertStore;
use tokio::time::Sleep;
use url::{Origin, Url};

pub use address::{Net, NotANet};
pub use error::OutgoingError;
pub use lookup::{LookingUp, Lookup, SystemLookup};
pub use policy::{HostPattern, NotAHost, Policy, Refused};

/// How often a request may be sent elsewhere.
pub const REDIRECTS_MAX: usize = 5;

/// The longest URL.
pub const URL_BYTES_MAX: usize = 8 * 1024;

/// The longest head of an answer.
const HEAD_BYTES_MAX: usize = 64 * 1024;

/// How long an idle connection is kept, and how many to one host.
const IDLE: Duration = Duration::from_secs(30);
const IDLE_MAX: usize = 4;

/// How long stores may take to be connected to, and for each piece of an answer.
const STORES_CONNECT: Duration = Duration::from_secs(5);
const STORES_READ: Duration = Duration::from_secs(30);

/// What clients are made of.
#[derive(Clone)]
pub struct Outgoing {
    tls: rustls::ClientConfig,
    lookup: Arc<dyn Lookup>,
}

/// A client cannot be made.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{0}")]
pub struct ClientError(String);

impl Outgoing {
    /// Clients that look names up as the system does, and believe in the certificates it believes
    /// in; where it has none, in Mozilla's.
    ///
    /// # Errors
    /// When TLS cannot be set up.
    pub fn new() -> Result<Outgoing, ClientError> {
        Outgoing::with_lookup(Arc::new(SystemLookup))
    }

    /// Clients that look names up in another way.
    ///
    /// # Errors
    /// When TLS cannot be set up.
    pub fn with_lookup(lookup: Arc<dyn Lookup>) -> Result<Outgoing, ClientError> {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if roots.is_empty() {
            roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| ClientError(error.to_string()))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Outgoing { tls, lookup })
    }

    /// A client for URLs of anybody's.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn guarded(&self, policy: Policy) -> Result<Client, ClientError> {
        self.client(Rule::Guarded(policy))
    }

    /// A client for an endpoint that an operator has named: it calls what has the same scheme, host
    /// and port, private or not, and follows no redirects.
    ///
    /// # Errors
    /// When `base` is not a URL of HTTP, or the client cannot be made.
    pub fn trusted(&self, base: &Url) -> Result<Client, ClientError> {
        if !matches!(base.scheme(), "http" | "https") || !base.has_host() {
            return Err(ClientError("a URL with http: or https: is wanted".to_owned()));
        }
        self.client(Rule::Trusted(base.origin()))
    }

    /// A client for the stores of clouds that an operator has named. They call more than one host: to
    /// get credentials, for one thing.
    ///
    /// # Errors
    /// When it cannot be made.
    pub(crate) fn of_stores(&self) -> Result<reqwest::Client, ClientError> {
        let builder = self.builder().connect_timeout(STORES_CONNECT).read_timeout(STORES_READ);
        builder.build().map_err(|error| ClientError(error.without_url().to_string()))
    }

    fn client(&self, rule: Rule) -> Result<Client, ClientError> {
        let rule = Arc::new(rule);
        let guard = lookup::Guard { lookup: self.lookup.clone(), rule: rule.clone() };
        let http = self
            .builder()
            .dns_resolver(Arc::new(guard))
            .build()
            .map_err(|error| ClientError(error.without_url().to_string()))?;
        Ok(Client { http, rule })
    }

    fn builder(&self) -> reqwest::ClientBuilder {
        reqwest::Client::builder()
            .tls_backend_preconfigured(self.tls.clone())
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .referer(false)
            .no_proxy()
            .http1_only()
            .pool_idle_timeout(IDLE)
            .pool_max_idle_per_host(IDLE_MAX)
            .user_agent(concat!("tollway/", env!("CARGO_PKG_VERSION")))
    }
}

/// Where a client may go.
enum Rule {
    Guarded(Policy),
    Trusted(Origin),
}

impl Rule {
    fn check_url(&self, url: &Url) -> Result<(), Refused> {
        if url.as_str().len() > URL_BYTES_MAX {
            return Err(Refused(format!("the URL is longer than {URL_BYTES_MAX} bytes")));
        }
        match self {
            Rule::Guarded(policy) => policy.check_url(url),
            Rule::Trusted(origin) if url.origin() == *origin => Ok(()),
            Rule::Trusted(_) => Err(Refused("only the configured host may be called".to_owned())),
        }
    }

    fn check_addresses(&self, host: &str, addresses: &[IpAddr]) -> Result<(), Refused> {
        match self {
            Rule::Guarded(policy) => policy.check_addresses(host, addresses),
            Rule::Trusted(_) => Ok(()),
        }
    }
}

/// A request. It has no `Debug`, because there are secrets in it.
#[derive(Clone)]
pub struct Request {
    /// How.
    pub method: Method,
    /// Where.
    pub url: Url,
    /// What is said beside. Credentials do not go along to another host.
    pub headers: HeaderMap,
    /// What is sent.
    pub body: Bytes,
    /// When the last byte of the answer has to be there.
    pub within: Duration,
    /// How large the answer's body may be, uncompressed.
    pub body_bytes_max: usize,
    /// What kinds of answers are wanted, such as `text/html` and `text/*`. Empty means any.
    pub media_types: &'static [&'static str],
}

impl Request {
    /// A request for what is at `url`: within 20 s and 4 MiB.
    pub fn get(url: Url) -> Request {
        Request {
            method: Method::GET,
            url,
            headers: HeaderMap::new(),
            body: Bytes::new(),
            within: Duration::from_secs(20),
            body_bytes_max: 4 * 1024 * 1024,
            media_types: &[],
        }
    }

    /// A request that sends JSON.
    pub fn post_json(url: Url, body: &serde_json::Value) -> Request {
        let headers = [(CONTENT_TYPE, HeaderValue::from_static("application/json"))];
        Request {
            method: Method::POST,
            headers: headers.into_iter().collect(),
            body: body.to_string().into(),
            ..Request::get(url)
        }
    }

    /// With a header that is a secret.
    ///
    /// # Errors
    /// When the value cannot be a header's.
    pub fn with_secret(mut self, name: HeaderName, value: &str) -> Result<Request, OutgoingError> {
        let mut value = HeaderValue::from_str(value).map_err(|_| {
            OutgoingError::Failed("the configured key cannot be sent in a header".to_owned())
        })?;
        value.set_sensitive(true);
        self.headers.insert(name, value);
        Ok(self)
    }

    /// Goes on elsewhere. What is meant for one host is not told to another one.
    fn redirect(&mut self, url: Url) {
        if url.origin() != self.url.origin() {
            let is_secret = |name: &HeaderName, value: &HeaderValue| {
                value.is_sensitive() || [AUTHORIZATION, COOKIE, PROXY_AUTHORIZATION].contains(name)
            };
            let kept = self.headers.iter().filter(|(name, value)| !is_secret(name, value));
            self.headers = kept.map(|(name, value)| (name.clone(), value.clone())).collect();
        }
        self.url = url;
    }
}

/// Sends requests where it may.
#[derive(Clone)]
pub struct Client {
    http: reqwest::Client,
    rule: Arc<Rule>,
}

impl Client {
    /// Sends a request; the answer, as soon as its head is there.
    ///
    /// # Errors
    /// When there is no answer, or none that may be read.
    pub async fn send(&self, request: Request) -> Result<Answer, OutgoingError> {
        let (within, limit) = (request.within, request.body_bytes_max);
        let mut end = Box::pin(tokio::time::sleep(within));
        let (response, url) = tokio::select! {
            followed = self.follow(request) => followed?,
            () = &mut end => return Err(OutgoingError::TimedOut(within)),
        };
        Ok(Answer { response, url, left: limit, limit, end, within })
    }

    async fn follow(
        &self,
        mut request: Request,
    ) -> Result<(reqwest::Response, Url), OutgoingError> {
        if !request.media_types.is_empty() && !request.headers.contains_key(ACCEPT) {
            let accept = HeaderValue::from_str(&request.media_types.join(", "));
            request.headers.extend(accept.ok().map(|accept| (ACCEPT, accept)));
        }
        for _ in 0..=REDIRECTS_MAX {
            self.rule.check_url(&request.url)?;
            let sent = self
                .http
                .request(request.method.clone(), request.url.clone())
                .headers(request.headers.clone())
                .body(request.body.clone());
            let response = sent.send().await.map_err(|error| OutgoingError::of(&error))?;
            check_head(&response, &request)?;
            match self.next(&request, &response)? {
                Some(url) => request.redirect(url),
                None => return Ok((response, request.url)),
            }
        }
        Err(OutgoingError::TooManyRedirects(REDIRECTS_MAX))
    }

    /// Where an answer sends a request on to. Only what looks goes on: what a request would change
    /// is changed where it was meant, or not at all.
    fn next(
        &self,
        request: &Request,
        response: &reqwest::Response,
    ) -> Result<Option<Url>, OutgoingError> {
        let is_redirect = matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308);
        let looks = matches!(request.method, Method::GET | Method::HEAD);
        let is_guarded = matches!(*self.rule, Rule::Guarded(_));
        let Some(location) = response.headers().get(LOCATION) else { return Ok(None) };
        if !is_redirect || !looks || !is_guarded {
            return Ok(None);
        }
        let url =
            std::str::from_utf8(location.as_bytes()).ok().filter(|l| l.len() <= URL_BYTES_MAX);
        match url.map(|url| request.url.join(url)) {
            Some(Ok(url)) => Ok(Some(url)),
            _ => Err(OutgoingError::Failed("redirected to what is no URL".to_owned())),
        }
    }
}

/// Whether an answer can be read at all.
fn check_head(response: &reqwest::Response, request: &Request) -> Result<(), OutgoingError> {
    let headers = response.headers();
    let bytes: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
    if bytes > HEAD_BYTES_MAX {
        return Err(OutgoingError::TooLarge(HEAD_BYTES_MAX));
    }
    if !response.status().is_success() {
        return Ok(());
    }
    // What is still there was not undone: a coding nobody asked for, or one over the other.
    let coding = headers.get(CONTENT_ENCODING).map(HeaderValue::as_bytes);
    if coding.is_some_and(|coding| !coding.eq_ignore_ascii_case(b"identity")) {
        return Err(OutgoingError::Failed("the answer is compressed in an unknown way".to_owned()));
    }
    let limit = request.body_bytes_max;
    if response.content_length().is_some_and(|length| length > limit as u64) {
        return Err(OutgoingError::TooLarge(limit));
    }
    let wanted = request.media_types;
    let is_wanted = |media_type: &str| {
        wanted.iter().any(|wanted| match wanted.strip_suffix('*') {
            Some(kind) => media_type.starts_with(kind),
            None => media_type == *wanted,
        })
    };
    match media_type(headers) {
        _ if wanted.is_empty() => Ok(()),
        Some(media_type) if is_wanted(&media_type) => Ok(()),
        Some(media_type) => Err(OutgoingError::MediaType(media_type)),
        None => Err(OutgoingError::MediaType("of no declared type".to_owned())),
    }
}

/// What kind of body a head announces, in lower case and without parameters.
fn media_type(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(CONTENT_TYPE)?.to_str().ok()?;
    let essence = value.split(';').next()?.trim();
    (!essence.is_empty()).then(|| essence.to_ascii_lowercase())
}

/// An answer whose head is there.
pub struct Answer {
    response: reqwest::Response,
    url: Url,
    left: usize,
    limit: usize,
    end: Pin<Box<Sleep>>,
    within: Duration,
}

impl Answer {
    /// How it went.
    pub fn status(&self) -> StatusCode {
        self.response.status()
    }

    /// What is said beside.
    pub fn headers(&self) -> &HeaderMap {
        self.response.headers()
    }

    /// Where the answer came from, redirects followed.
    pub fn url(&self) -> &Url {
        &self.url
    }

    /// What kind of body it is: `text/html`.
    pub fn media_type(&self) -> Option<String> {
        media_type(self.headers())
    }

    /// The next piece of the body; none at its end.
    ///
    /// # Errors
    /// When it is too large, too late or cut short.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, OutgoingError> {
        let chunk = tokio::select! {
            chunk = self.response.chunk() => chunk.map_err(|error| OutgoingError::of(&error))?,
            () = &mut self.end => return Err(OutgoingError::TimedOut(self.within)),
        };
        let length = chunk.as_ref().map_or(0, Bytes::len);
        self.left = self.left.checked_sub(length).ok_or(OutgoingError::TooLarge(self.limit))?;
        Ok(chunk)
    }

    /// The whole body.
    ///
    /// # Errors
    /// As [`Answer::chunk`].
    pub async fn body(mut self) -> Result<Vec<u8>, OutgoingError> {
        let mut body = Vec::new();
        while let Some(chunk) = self.chunk().await? {
            body.extend_from_slice(&chunk);
        }
        Ok(body)
    }
}
