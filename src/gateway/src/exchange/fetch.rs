//! One small document from a server that is no provider: a token, or an identity provider's keys.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE, HOST, USER_AGENT};
use http::uri::PathAndQuery;
use http::{HeaderValue, Method};
use pingora_core::upstreams::peer::HttpPeer;
use pingora_http::RequestHeader;
use tollway_filter_api::Clock;
use tollway_providers::UpstreamBody;

use super::attempt::read_whole;
use super::fault::Fault;
use super::pool::{Address, Pool};
use super::upstream::{Prepared, Upstream};
use crate::config::Base;

/// What is wanted. Redirects are not followed.
pub(crate) struct Asked<'a> {
    pub(crate) url: &'a str,
    /// A form to post; `None` is a `GET`.
    pub(crate) form: Option<Bytes>,
    /// How long each step may take, and all together.
    pub(crate) wait: Duration,
    /// The largest answer.
    pub(crate) bytes_max: usize,
}

impl Asked<'_> {
    /// The status and the body. `name` is what a fault calls the server.
    pub(crate) async fn fetch(
        self,
        pool: &Arc<Pool>,
        clock: &Clock,
        name: &'static str,
    ) -> Result<(u16, Bytes), Fault> {
        let failed = |what: String| Fault::connect(name, what);
        let (place, path) = split(self.url).ok_or_else(|| failed("no URL".into()))?;
        let addresses = tokio::net::lookup_host((place.host.as_str(), place.port))
            .await
            .map_err(|error| failed(error.to_string()))?;
        let now = clock.now();
        let mut opened = Err(failed("the name has no address".into()));
        for address in addresses {
            let mut peer = HttpPeer::new(address, place.tls, place.host.clone());
            peer.options.connection_timeout = Some(self.wait);
            peer.options.total_connection_timeout = Some(self.wait);
            peer.options.write_timeout = Some(self.wait);
            let at = Arc::new(Address::new(peer));
            opened = Upstream::connect(pool, at, name, now + self.wait, self.wait).await;
            if opened.is_ok() {
                break;
            }
        }
        let mut upstream = opened?;
        let head = self.head(&place, &path).map_err(|error| failed(error.to_string()))?;
        let body = UpstreamBody::plain(self.form.unwrap_or_default());
        upstream.write(&Prepared::new(head), &body).await?;
        upstream.head(None, now).await?;
        let status = upstream.response_header().map_or(0, |head| head.status.as_u16());
        let answer = read_whole(&mut upstream, None, self.bytes_max, name, self.wait).await?;
        upstream.release().await;
        Ok((status, answer))
    }

    fn head(&self, place: &Base, path: &PathAndQuery) -> pingora_error::Result<RequestHeader> {
        let method = if self.form.is_some() { Method::POST } else { Method::GET };
        let mut head = RequestHeader::build_no_case(method, path.as_str().as_bytes(), Some(6))?;
        head.insert_header(HOST, place.authority())?;
        if self.form.is_some() {
            let form = HeaderValue::from_static("application/x-www-form-urlencoded");
            head.insert_header(CONTENT_TYPE, form)?;
        }
        head.insert_header(ACCEPT, HeaderValue::from_static("application/json"))?;
        head.insert_header(USER_AGENT, HeaderValue::from_static(crate::USER_AGENT))?;
        Ok(head)
    }
}

/// Where a URL leads, and its path and query.
fn split(url: &str) -> Option<(Base, PathAndQuery)> {
    let uri: http::Uri = url.parse().ok()?;
    let origin = url.split(['?', '#']).next()?;
    Some((origin.parse().ok()?, uri.path_and_query()?.clone()))
}
