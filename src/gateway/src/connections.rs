//! Fresh connections: which version of HTTP they speak, and an end to those that say nothing.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use pingora_core::apps::{HttpServerApp, HttpServerOptions, ServerApp};
use pingora_core::protocols::Stream;
use pingora_core::server::ShutdownWatch;
use pingora_proxy::HttpProxy;

use crate::http_app::HttpApp;
use crate::proxy::Proxy;
use crate::state::Gateway;

/// How long a fresh connection may take to begin its first request.
const FIRST_BYTES: Duration = Duration::from_secs(60);
/// How long an HTTP/2 connection without a request is kept. Pingora has no default.
const H2_IDLE: Duration = Duration::from_secs(120);
/// What a connection begins with that speaks HTTP/2 without TLS (RFC 9113, 3.4).
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Takes connections, and hands them to the proxy as what they are.
///
/// Pingora can tell HTTP/2 without TLS by itself, but waits for all 24 bytes of the preface and
/// without a deadline: a shorter request is never answered, and a silent connection never closed.
pub(crate) struct Connections {
    http1_or_tls: Arc<HttpApp>,
    http2: Arc<HttpApp>,
}

impl Connections {
    pub(crate) fn new(gateway: Arc<Gateway>, proxy: HttpProxy<Proxy>) -> Connections {
        let proxy = Arc::new(proxy);
        let versioned = |h2c| {
            let mut options = HttpServerOptions::default();
            options.h2c = h2c;
            options.h2_idle_timeout = Some(H2_IDLE);
            Arc::new(HttpApp::new(Arc::clone(&gateway), Arc::clone(&proxy), options))
        };
        Connections { http1_or_tls: versioned(false), http2: versioned(true) }
    }
}

#[async_trait]
impl ServerApp for Connections {
    async fn process_new(
        self: &Arc<Self>,
        stream: Stream,
        shutdown: &ShutdownWatch,
    ) -> Option<Stream> {
        // A task of our own: Pingora's has room for a TLS handshake for as long as it lives, and
        // what it awaits has room for every kind of connection.
        tokio::spawn(Arc::clone(self).serve(stream, shutdown.clone()));
        None
    }

    async fn cleanup(&self) {
        self.http1_or_tls.http_cleanup().await;
        self.http2.http_cleanup().await;
    }
}

impl Connections {
    async fn serve(self: Arc<Self>, mut stream: Stream, shutdown: ShutdownWatch) {
        // With TLS the version was negotiated.
        let app = if stream.get_ssl_digest().is_some() {
            &self.http1_or_tls
        } else {
            // No method begins like the preface, and no request is shorter than three bytes.
            let mut first = [0; 3];
            if !peek(&mut stream, &mut first).await {
                return;
            }
            if first[..] == PREFACE[..3] {
                let mut preface = [0; PREFACE.len()];
                if !peek(&mut stream, &mut preface).await {
                    return;
                }
                &self.http2
            } else {
                &self.http1_or_tls
            }
        };
        app.connection(stream, &shutdown).await;
    }
}

/// Waits for bytes and leaves them where they are. False where they do not come: nothing is left of
/// the connection then.
async fn peek(stream: &mut Stream, bytes: &mut [u8]) -> bool {
    matches!(tokio::time::timeout(FIRST_BYTES, stream.try_peek(bytes)).await, Ok(Ok(true)))
}
