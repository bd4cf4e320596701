//! What serves requests, one after the other: ours, or Pingora's loop where it is needed.
//!
//! Pingora's loop carries the state of a whole proxy, 16 KiB of it, with every request. Only
//! pass-through routes need it, so that a gateway without any does what is left of it here:
//! read a head, have it answered, settle, and make the connection ready for the next request.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use pingora_core::apps::{
    HttpPersistentSettings, HttpServerApp, HttpServerOptions, ReusedHttpStream, ServerApp as _,
};
use pingora_core::protocols::http::ServerSession;
use pingora_core::protocols::{ALPN, Stream};
use pingora_core::server::ShutdownWatch;
use pingora_error::{Error, ErrorType};
use pingora_proxy::HttpProxy;
use tokio::sync::futures::Notified;

use crate::proxy::{self, Proxy};
use crate::serve_request;
use crate::state::{Gateway, RequestState};

/// How long a connection may wait for its next request.
const KEEPALIVE_SECONDS: u64 = 60;

/// Serves the requests of connections.
pub(crate) struct HttpApp {
    gateway: Arc<Gateway>,
    proxy: Arc<HttpProxy<Proxy>>,
    options: HttpServerOptions,
    /// Whether connections that wait for a request are to be closed.
    stopping: AtomicBool,
}

impl HttpApp {
    pub(crate) fn new(
        gateway: Arc<Gateway>,
        proxy: Arc<HttpProxy<Proxy>>,
        options: HttpServerOptions,
    ) -> HttpApp {
        HttpApp { gateway, proxy, options, stopping: AtomicBool::new(false) }
    }

    /// Serves all requests of a connection.
    pub(crate) async fn connection(self: &Arc<Self>, stream: Stream, shutdown: &ShutdownWatch) {
        // TLS says which version it is; without it, the app for it was chosen.
        if self.options.h2c || stream.selected_alpn_proto() == Some(ALPN::H2) {
            Box::pin(self.process_new(stream, shutdown)).await;
            return;
        }
        let mut session = Box::new(ServerSession::new_http1(stream));
        session.set_keepalive(if *shutdown.borrow() { None } else { Some(KEEPALIVE_SECONDS) });
        loop {
            // It hears of all that happens from now on: what is looked at afterwards cannot be missed.
            let stop = self.gateway.wake_waiting.notified();
            let reused = if self.needs_pingora() {
                self.proxy.process_new_http(*session, shutdown).await
            } else {
                self.serve(session, shutdown, stop).await
            };
            let Some((stream, settings)) = reused.map(ReusedHttpStream::consume) else { return };
            session = Box::new(ServerSession::new_http1(stream));
            if let Some(settings) = settings {
                settings.apply_to_session(&mut session);
            }
        }
    }

    /// Whether there are routes that only Pingora's loop can serve.
    fn needs_pingora(&self) -> bool {
        !self.gateway.live.load().pass_through.is_empty()
    }

    /// Waits for a request, unless `stop` says that there is none to be waited for. False where
    /// there is none to be answered.
    async fn next_request(&self, session: &mut ServerSession, stop: Notified<'_>) -> bool {
        let stop = pin!(stop);
        if self.stopping.load(Ordering::Acquire) {
            return false;
        }
        let read = tokio::select! {
            biased;
            read = session.read_request() => read,
            // Also after a reload that brought pass-through routes, which cannot be served from here.
            () = stop => return false,
        };
        let refusal = match read {
            // Nobody but a forward proxy is asked to connect somewhere.
            Ok(true) if session.req_header().method == http::Method::CONNECT => 405,
            Ok(true) => return true,
            Ok(false) => return false,
            Err(error) if *error.etype() == ErrorType::InvalidHTTPHeader => 400,
            Err(_) => {
                session.shutdown().await;
                return false;
            }
        };
        // A client that is gone need not be told.
        let _ = session.respond_error(refusal).await;
        session.shutdown().await;
        false
    }

    /// Serves one request. The connection, if it can carry another.
    async fn serve(
        &self,
        mut session: Box<ServerSession>,
        shutdown: &ShutdownWatch,
        stop: Notified<'_>,
    ) -> Option<ReusedHttpStream> {
        if !self.next_request(&mut session, stop).await {
            return None;
        }
        if *shutdown.borrow() {
            session.set_keepalive(None);
        }
        let mut state = RequestState::new(&self.gateway);
        let served = match serve_request::serve(&mut session, &mut state).await {
            Ok(true) => Ok(()),
            // A reload brought the route while the head came.
            Ok(false) => Err(Error::explain(ErrorType::InternalError, "a route of a moment ago")),
            Err(error) => Err(error),
        };
        if let Err(error) = served {
            proxy::fail(&mut session, &error, &mut state).await;
            state.end();
            session.on_proxy_failure(error);
            return None;
        }
        state.end();
        let settings = HttpPersistentSettings::for_session(&session);
        // Boxed: it has more room than all that a request needs while it lasts.
        let finished = Box::pin(session.finish()).await.ok().flatten()?;
        Some(ReusedHttpStream::from_reusable_stream(finished, settings))
    }
}

#[async_trait]
impl HttpServerApp for HttpApp {
    async fn process_new_http(
        self: &Arc<Self>,
        session: ServerSession,
        shutdown: &ShutdownWatch,
    ) -> Option<ReusedHttpStream> {
        let stop = self.gateway.wake_waiting.notified();
        if self.needs_pingora() {
            return self.proxy.process_new_http(session, shutdown).await;
        }
        self.serve(Box::new(session), shutdown, stop).await
    }

    fn server_options(&self) -> Option<&HttpServerOptions> {
        Some(&self.options)
    }

    async fn http_cleanup(&self) {
        self.stopping.store(true, Ordering::Release);
        self.gateway.wake_waiting.notify_waiters();
        self.proxy.http_cleanup().await;
    }
}
