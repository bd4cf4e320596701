//! Small documents for servers of others, each over a connection of its own. What they answer is not
//! read but for its status, and redirects are not followed.

use std::time::Duration;

use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HOST, USER_AGENT};
use http::{HeaderName, HeaderValue, Method};
use pingora_core::protocols::http::v1::client::HttpSession as Http1Session;
use pingora_core::protocols::tls::ALPN;
use pingora_core::upstreams::peer::HttpPeer;
use pingora_http::RequestHeader;
use tokio::time::timeout;

use crate::config::Base;
use crate::exchange::Pool;

/// Why something did not arrive. The words are ours: those of libraries may quote what was sent.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) why: String,
    /// It may help to try again.
    pub(crate) is_passing: bool,
}

impl Failure {
    fn passing(why: &str) -> Failure {
        Failure { why: why.to_owned(), is_passing: true }
    }
}

/// Where it goes.
pub(crate) struct Letterbox<'a> {
    /// Its path is not asked for.
    pub(crate) place: &'a Base,
    /// The path that is, with its query.
    pub(crate) path: &'a [u8],
    pub(crate) headers: &'a [(HeaderName, HeaderValue)],
    /// How long it may take, all together.
    pub(crate) patience: Duration,
}

/// Posts JSON.
pub(crate) async fn post(pool: &Pool, to: &Letterbox<'_>, body: &[u8]) -> Result<(), Failure> {
    let posted = timeout(to.patience, deliver(pool, to, body)).await;
    posted.unwrap_or_else(|_| Err(Failure::passing("no answer in time")))
}

async fn deliver(pool: &Pool, to: &Letterbox<'_>, body: &[u8]) -> Result<(), Failure> {
    let place = to.place;
    let unreachable = |_| Failure::passing("it cannot be reached");
    let addresses = tokio::net::lookup_host((place.host.as_str(), place.port)).await;
    let address = addresses.ok().and_then(|mut addresses| addresses.next());
    let address = address.ok_or_else(|| Failure::passing("its name has no address"))?;
    let mut peer = HttpPeer::new(address, place.tls, place.host.clone());
    peer.options.alpn = ALPN::H1;
    peer.options.connection_timeout = Some(to.patience);
    peer.options.total_connection_timeout = Some(to.patience);
    let stream = pool.dial(&peer).await.map_err(unreachable)?;
    let mut session = Http1Session::new(stream);
    let head = head(to, body.len()).map_err(|_| Failure {
        why: "its URL cannot be asked for".to_owned(),
        is_passing: false,
    })?;
    let lost = |_| Failure::passing("the connection was lost");
    session.write_request_header(Box::new(head)).await.map_err(lost)?;
    session.write_body(body).await.map_err(lost)?;
    session.read_response().await.map_err(|_| Failure::passing("no answer that is HTTP"))?;
    let status = session.get_status().map_or(0, |status| status.as_u16());
    if (200..300).contains(&status) {
        return Ok(());
    }
    let is_passing = status >= 500 || matches!(status, 408 | 429);
    Err(Failure { why: format!("it answered {status}"), is_passing })
}

fn head(to: &Letterbox<'_>, length: usize) -> pingora_error::Result<RequestHeader> {
    let room = to.headers.len() + 4;
    let mut head = RequestHeader::build_no_case(Method::POST, to.path, Some(room))?;
    head.insert_header(USER_AGENT, HeaderValue::from_static(crate::USER_AGENT))?;
    for (name, value) in to.headers {
        head.insert_header(name.clone(), value.clone())?;
    }
    head.insert_header(HOST, to.place.authority())?;
    head.insert_header(CONTENT_TYPE, HeaderValue::from_static("application/json"))?;
    head.insert_header(CONTENT_LENGTH, HeaderValue::from(length))?;
    Ok(head)
}
