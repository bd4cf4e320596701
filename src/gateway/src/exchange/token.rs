//! Short-lived bearer tokens: fetched when the first call needs one, shared, and renewed before
//! they end.

use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use http::header::{ACCEPT, CONTENT_TYPE, HOST, USER_AGENT};
use http::uri::PathAndQuery;
use http::{HeaderValue, Method};
use pingora_core::upstreams::peer::HttpPeer;
use pingora_http::RequestHeader;
use tokio::sync::Mutex;
use tollway_filter_api::Clock;
use tollway_providers::{Token, TokenRequest, UpstreamBody};

use super::attempt::{exception_name, read_whole};
use super::endpoint::Endpoint;
use super::fault::Fault;
use super::pool::{Address, Pool};
use super::upstream::{Prepared, Upstream};
use crate::config::Base;

/// How long a token server may take.
const WAIT: Duration = Duration::from_secs(10);
/// The largest answer of a token server.
const ANSWER_BYTES_MAX: usize = 64 * 1024;
/// How long before its end a token is not used any more: a call that begins now must still be let
/// in when it arrives, and clocks differ.
const MARGIN: Duration = Duration::from_secs(60);

/// The token of one endpoint.
#[derive(Default)]
pub(crate) struct TokenCache {
    kept: ArcSwapOption<Kept>,
    /// Held while a token is fetched, so that a crowd of calls asks once.
    fetching: Mutex<()>,
}

struct Kept {
    header: HeaderValue,
    until: Instant,
}

impl TokenCache {
    /// The `authorization` header to use now; `None` where the provider needs no token.
    pub(super) async fn get(
        &self,
        endpoint: &Endpoint,
        pool: &Arc<Pool>,
        clock: &Clock,
    ) -> Result<Option<HeaderValue>, Fault> {
        if let Some(header) = self.kept(clock.now()) {
            return Ok(Some(header));
        }
        let _fetching = self.fetching.lock().await;
        if let Some(header) = self.kept(clock.now()) {
            return Ok(Some(header));
        }
        let name = exception_name(endpoint.provider);
        let request = endpoint.provider.token_request(&endpoint.access.expose(), clock.unix());
        let Some(request) = request.map_err(|error| Fault::credentials(name, &error))? else {
            return Ok(None);
        };
        let token = fetch(&request, pool, clock, name).await?;
        let mut header = HeaderValue::from_str(&format!("Bearer {}", token.bearer))
            .map_err(|_| Fault::connect(name, "the token is not a header value"))?;
        header.set_sensitive(true);
        // Half of a very short life is better than none of it.
        let life = token.lifetime.saturating_sub(MARGIN).max(token.lifetime / 2);
        let until = clock.now() + life;
        self.kept.store(Some(Arc::new(Kept { header: header.clone(), until })));
        Ok(Some(header))
    }

    fn kept(&self, now: Instant) -> Option<HeaderValue> {
        let kept = self.kept.load();
        kept.as_ref().filter(|kept| now < kept.until).map(|kept| kept.header.clone())
    }

    /// The provider does not take it any more.
    pub(super) fn forget(&self) {
        self.kept.store(None);
    }
}

/// Asks a token server.
async fn fetch(
    request: &TokenRequest,
    pool: &Arc<Pool>,
    clock: &Clock,
    name: &'static str,
) -> Result<Token, Fault> {
    let failed = |what: String| Fault::connect(name, format!("token: {what}"));
    let (place, path) = split(&request.url).ok_or_else(|| failed("no URL".into()))?;
    let mut addresses = tokio::net::lookup_host((place.host.as_str(), place.port))
        .await
        .map_err(|error| failed(error.to_string()))?;
    let address = addresses.next().ok_or_else(|| failed("the name has no address".into()))?;
    let mut peer = HttpPeer::new(address, place.tls, place.host.clone());
    peer.options.connection_timeout = Some(WAIT);
    peer.options.total_connection_timeout = Some(WAIT);
    peer.options.write_timeout = Some(WAIT);
    let now = clock.now();
    let mut upstream =
        Upstream::connect(pool, Arc::new(Address::new(peer)), name, now + WAIT, WAIT).await?;
    let head = head(&place, &path).map_err(|error| failed(error.to_string()))?;
    let body = UpstreamBody::plain(request.body.clone().into());
    upstream.write(&Prepared::new(head), &body).await?;
    upstream.head(None, now).await?;
    let status = upstream.response_header().map_or(0, |head| head.status.as_u16());
    let answer = read_whole(&mut upstream, None, ANSWER_BYTES_MAX, name, WAIT).await?;
    upstream.release().await;
    if status != 200 {
        // Not quoted: it may repeat what was sent.
        return Err(failed(format!("the token server answered {status}")));
    }
    Token::of_answer(&answer).map_err(|error| failed(error.to_string()))
}

/// Where a URL leads, and its path and query.
fn split(url: &str) -> Option<(Base, PathAndQuery)> {
    let uri: http::Uri = url.parse().ok()?;
    let origin = url.split(['?', '#']).next()?;
    Some((origin.parse().ok()?, uri.path_and_query()?.clone()))
}

fn head(place: &Base, path: &PathAndQuery) -> pingora_error::Result<RequestHeader> {
    let mut head = RequestHeader::build_no_case(Method::POST, path.as_str().as_bytes(), Some(6))?;
    head.insert_header(HOST, place.authority())?;
    head.insert_header(
        CONTENT_TYPE,
        HeaderValue::from_static("application/x-www-form-urlencoded"),
    )?;
    head.insert_header(ACCEPT, HeaderValue::from_static("application/json"))?;
    head.insert_header(USER_AGENT, HeaderValue::from_static(crate::USER_AGENT))?;
    Ok(head)
}
