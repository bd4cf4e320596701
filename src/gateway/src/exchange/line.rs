//! A connection of its own to a provider, for what is neither a model call nor buffered: stored
//! objects, and websockets. It is HTTP/1.1, by Pingora's own session, and carries one request.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use pingora_core::protocols::http::v1::client::HttpSession as Http1Session;
use pingora_core::protocols::tls::ALPN;
use pingora_error::{Error, ErrorType, Result};
use pingora_http::RequestHeader;
use tokio::time::timeout;
use tollway_filter_api::{ModelDirectory, ModelGroup, Rejection};
use tollway_providers::Access;

use super::attempt::{exception_name, passed_headers, retry_after};
use super::endpoint::{Endpoint, WRITE_TIMEOUT};
use super::fault::Fault;
use super::routing::{InFlight, Traffic};
use super::{Admission, Call, Exchange};

/// How many interim answers may come before the real one.
const INTERIM_MAX: usize = 8;
/// How much of an error's body is read, and for how long.
const ERROR_BODY_MAX: usize = 64 * 1024;
const ERROR_BODY_WAIT: Duration = Duration::from_secs(5);

/// A connection that was opened for one request, and the head to begin it with: our address and
/// credentials, and nothing of a client.
pub(crate) struct Line {
    pub(crate) session: Http1Session,
    pub(crate) head: RequestHeader,
}

/// A websocket that a provider has accepted.
pub(crate) struct Upgraded {
    pub(crate) session: Http1Session,
    /// The deployment's place among its own limits, until the socket closes.
    pub(crate) admission: Admission,
    /// It counts as a call in flight.
    _in_flight: InFlight,
}

impl Endpoint {
    /// Where it is called, without credentials.
    pub(crate) fn api_base(&self) -> String {
        let scheme = if self.tls { "https" } else { "http" };
        format!("{scheme}://{}{}", self.authority, self.base_path)
    }

    /// Where a stored object's `path` is, if the provider keeps any in OpenAI's way. Without a
    /// query of the client's.
    pub(crate) fn stored_path(&self, path: &str) -> Option<String> {
        self.provider.stored_path(path, &self.access.expose())
    }

    /// What of an answer's head the client may see, and how it is called for the client.
    pub(crate) fn passed(&self, headers: &HeaderMap) -> Vec<(HeaderName, HeaderValue)> {
        passed_headers(headers, self)
    }

    /// The credentials its requests carry, as they may be echoed. What is shorter than 8 bytes is
    /// found in any text, and is none.
    pub(crate) fn secrets(&self, head: &RequestHeader) -> Vec<Vec<u8>> {
        let sensitive = head.headers.values().filter(|value| value.is_sensitive());
        let sensitive = sensitive.map(|value| value.as_bytes());
        let key = |access: &Access<'_>| access.api_key.map(|key| key.as_bytes().to_vec());
        sensitive
            .map(|value| value.strip_prefix(b"Bearer ").unwrap_or(value).to_vec())
            .chain(key(&self.access.expose()))
            .filter(|secret| secret.len() >= 8)
            .collect()
    }
}

impl Exchange {
    /// Opens a connection for a request to `path`, which is below the endpoint's base.
    pub(crate) async fn line(
        &self,
        endpoint: &Arc<Endpoint>,
        method: Method,
        path: &str,
    ) -> Result<Line, Rejection> {
        self.open_line(endpoint, method, path).await.map_err(Fault::into_reject)
    }

    /// Has a stored object deleted; what the provider answered by.
    pub(crate) async fn delete(
        &self,
        endpoint: &Arc<Endpoint>,
        path: &str,
    ) -> Result<u16, Rejection> {
        let name = exception_name(endpoint.provider);
        let Line { mut session, head } = self.line(endpoint, Method::DELETE, path).await?;
        let lost = |error: Box<Error>| {
            let message = "Connection lost while something was deleted.";
            Fault::broken(name, message).with_detail(error.to_string()).into_reject()
        };
        session.write_request_header(Box::new(head)).await.map_err(lost)?;
        let wait = endpoint.deadlines.first_byte;
        match timeout(wait, final_head(&mut session)).await {
            Ok(read) => read.map_err(lost)?,
            Err(_) => return Err(Fault::timeout(name, "no answer", wait).into_reject()),
        }
        Ok(session.resp_header().map_or(0, |head| head.status.as_u16()))
    }

    async fn open_line(
        &self,
        endpoint: &Arc<Endpoint>,
        method: Method,
        path: &str,
    ) -> Result<Line, Fault> {
        let name = exception_name(endpoint.provider);
        let unusable = |error: Box<Error>| Fault::connect(name, error.to_string());
        let token = match endpoint.needs_token() {
            true => endpoint.token.get(endpoint, &self.pool, &self.clock).await?,
            false => None,
        };
        let mut head = endpoint.bare_head().clone();
        head.remove_header(&CONTENT_TYPE);
        head.remove_header(&ACCEPT);
        head.set_method(method);
        let path = format!("{}{path}", endpoint.base_path());
        head.set_raw_path(path.as_bytes()).map_err(unusable)?;
        if let Some(mut token) = token {
            token.set_sensitive(true);
            head.insert_header(AUTHORIZATION, token).map_err(unusable)?;
        }
        let peers = endpoint
            .peers(self.clock.now())
            .await
            .map_err(|error| Fault::connect(name, format!("name lookup: {error}")))?;
        let mut last = None;
        for place in peers.iter() {
            let mut peer = place.peer.clone();
            peer.options.alpn = ALPN::H1;
            match self.pool.dial(&peer).await {
                Ok(stream) => {
                    let mut session = Http1Session::new(stream);
                    session.write_timeout = Some(WRITE_TIMEOUT);
                    return Ok(Line { session, head });
                }
                Err(error) => last = Some(unusable(error)),
            }
        }
        Err(last.unwrap_or_else(|| Fault::connect(name, "the name has no address")))
    }

    /// Opens a websocket to a deployment of the call's group, or of one it falls back to: the first
    /// one that takes it. `offers` are the client's headers that make the upgrade.
    pub(crate) async fn upgrade(
        &self,
        call: &Call,
        offers: &[(HeaderName, HeaderValue)],
    ) -> Result<Upgraded, Rejection> {
        let group = &call.plan.group;
        let mut last = match self.upgrade_in(call, group, offers).await {
            Ok(upgraded) => return Ok(upgraded),
            Err(fault) => fault,
        };
        for name in group.fallbacks.iter().take(call.router().max_fallbacks) {
            if !last.falls_back() {
                break;
            }
            let Some(group) = call.generation.config.directory.resolve(name) else { continue };
            call.report.lock().fallbacks += 1;
            last = match self.upgrade_in(call, &group, offers).await {
                Ok(upgraded) => return Ok(upgraded),
                Err(fault) => fault,
            };
        }
        Err(last.into_reject())
    }

    /// Tries the deployments of one group.
    async fn upgrade_in(
        &self,
        call: &Call,
        group: &Arc<ModelGroup>,
        offers: &[(HeaderName, HeaderValue)],
    ) -> Result<Upgraded, Fault> {
        let now = self.clock.now();
        let order = self.order(call, group, now)?;
        let before = call.report.lock().attempts;
        let mut last: Option<Fault> = None;
        for deployment in order {
            let attempts = (call.report.lock().attempts - before) as usize;
            if last.as_ref().is_some_and(|fault| attempts > call.retries_after(fault, deployment)) {
                break;
            }
            let endpoint = call.endpoint(deployment);
            let path =
                endpoint.provider.realtime_path(&deployment.model, &endpoint.access.expose());
            let Some(path) = path else {
                let name = exception_name(endpoint.provider);
                last.get_or_insert_with(|| Fault::not_served(name, "/realtime", &group.name));
                continue;
            };
            {
                let mut report = call.report.lock();
                report.attempts += 1;
                report.deployment = Some(Arc::clone(deployment));
                report.upstream_started.get_or_insert(self.clock.now());
            }
            let admission = match self.admit(deployment, &call.view, self.clock.now()).await {
                Ok(admission) => admission,
                Err(full) => {
                    last = Some(full);
                    continue;
                }
            };
            match self.ask_upgrade(endpoint, &path, offers).await {
                Ok(session) => {
                    endpoint.cooldown.succeeded();
                    let in_flight = Traffic::enter(endpoint);
                    return Ok(Upgraded { session, admission, _in_flight: in_flight });
                }
                Err(fault) => {
                    endpoint.cooldown.failed(&fault, self.clock.now());
                    let retries = fault.retries();
                    last = Some(fault);
                    if !retries {
                        break;
                    }
                }
            }
        }
        Err(last.unwrap_or_else(|| Fault::no_deployment(&group.name)))
    }

    async fn ask_upgrade(
        &self,
        endpoint: &Arc<Endpoint>,
        path: &str,
        offers: &[(HeaderName, HeaderValue)],
    ) -> Result<Http1Session, Fault> {
        let name = exception_name(endpoint.provider);
        let Line { mut session, mut head } = self.open_line(endpoint, Method::GET, path).await?;
        for (header, value) in offers {
            head.insert_header(header.clone(), value.clone())
                .map_err(|error| Fault::connect(name, error.to_string()))?;
        }
        let lost = |error: Box<Error>| {
            Fault::broken(name, "Connection lost while a websocket was opened.")
                .with_detail(error.to_string())
        };
        session.write_request_header(Box::new(head)).await.map_err(lost)?;
        let wait = endpoint.deadlines.first_byte;
        match timeout(wait, final_head(&mut session)).await {
            Ok(read) => read.map_err(lost)?,
            Err(_) => return Err(Fault::timeout(name, "no answer", wait)),
        }
        let answer = session.resp_header();
        let status = answer.map_or(0, |head| head.status.as_u16());
        if status == 101 && session.was_upgraded() {
            session.maybe_upgrade_body_writer();
            return Ok(session);
        }
        if (200..400).contains(&status) || status == 101 {
            let message = format!("The provider opened no websocket ({status}).");
            return Err(Fault::broken(name, message));
        }
        if status == 401 {
            endpoint.token.forget();
        }
        let after = answer.and_then(|head| retry_after(&head.headers));
        let body = timeout(ERROR_BODY_WAIT, error_body(&mut session)).await.unwrap_or_default();
        let after = after.or_else(|| endpoint.provider.retry_after(&body));
        let error = endpoint.provider.error(status, &endpoint.scrub(body));
        Err(Fault::status(name, error, after))
    }
}

/// Reads heads until one is final.
pub(crate) async fn final_head(upstream: &mut Http1Session) -> Result<()> {
    for _ in 0..INTERIM_MAX {
        upstream.read_response().await.map_err(Error::into_up)?;
        let status = upstream.resp_header().map(|head| head.status);
        if status.is_some_and(|status| !status.is_informational() || status == 101) {
            return Ok(());
        }
    }
    Err(no_answer())
}

pub(crate) fn no_answer() -> Box<Error> {
    Error::explain(ErrorType::InvalidHTTPHeader, "the upstream sent no final answer").into_up()
}

/// What there is of an error's body. One that is cut short still says something.
async fn error_body(session: &mut Http1Session) -> Bytes {
    let mut body = BytesMut::new();
    while let Ok(Some(bytes)) = session.read_body_bytes().await {
        body.extend_from_slice(&bytes);
        if body.len() > ERROR_BODY_MAX {
            body.truncate(ERROR_BODY_MAX);
            break;
        }
    }
    body.freeze()
}
