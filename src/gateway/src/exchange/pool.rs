//! Connections to providers: Pingora's pools, asked in an order that is cheap for a busy gateway.

use pingora_core::connectors::ConnectorOptions;
use pingora_core::connectors::http::v2;
use pingora_core::protocols::Stream;
use pingora_core::protocols::http::client::HttpSession;
use pingora_core::protocols::http::v1::client::HttpSession as Http1Session;
use pingora_core::upstreams::peer::{HttpPeer, Peer};
use pingora_error::Result;

use super::corked::Corked;

/// Pingora's pools of HTTP/1.1 and HTTP/2 connections.
///
/// Its own `Connector` puts both together in the same way, in one future that holds the state of a
/// whole TLS handshake: KiBs that every request would carry and move, although nearly all take a
/// connection that is open.
pub(crate) struct Pool {
    /// Its transport serves HTTP/1.1 as well: certificates to trust are read, and kept, once.
    h2: v2::Connector,
}

impl Pool {
    /// Empty pools that keep up to `size` connections each.
    pub(crate) fn new(size: usize) -> Pool {
        Pool { h2: v2::Connector::new(Some(ConnectorOptions::new(size))) }
    }

    /// A connection to `peer`, and whether it has been used before.
    pub(super) async fn take(&self, peer: &HttpPeer) -> Result<(HttpSession, bool)> {
        let speaks_h2 = peer.options.alpn.get_max_http_version() == 2;
        if speaks_h2 && let Some(h2) = self.h2.reused_http_session(peer).await? {
            return Ok((HttpSession::H2(h2), true));
        }
        if let Some(stream) = self.h2.transport().reused_stream(peer).await {
            return Ok((HttpSession::H1(Http1Session::new_with_options(stream, peer)), true));
        }
        let opened = match speaks_h2 {
            true => Box::pin(self.h2.new_http_session(peer)).await?,
            false => {
                let stream = Box::pin(self.h2.transport().new_stream(peer)).await?;
                let stream: Stream = Box::new(Corked::new(stream));
                HttpSession::H1(Http1Session::new_with_options(stream, peer))
            }
        };
        Ok((opened, false))
    }

    /// A fresh HTTP/1.1 connection that belongs to the caller alone.
    pub(crate) async fn dial(&self, peer: &HttpPeer) -> Result<Stream> {
        self.h2.transport().new_stream(peer).await
    }

    /// Gives a connection back. One that cannot carry another request is closed.
    pub(super) async fn release(&self, session: &mut Option<HttpSession>, peer: &HttpPeer) {
        let idle = peer.idle_timeout();
        // Taken here and not handed over: every hand through which it goes would move it twice.
        match session.take() {
            Some(HttpSession::H1(mut h1)) => {
                h1.respect_keepalive();
                if let Some(stream) = h1.reuse().await {
                    self.h2.transport().release_stream(stream, peer.reuse_hash(), idle);
                }
            }
            Some(HttpSession::H2(h2)) => self.h2.release_http_session(h2, peer, idle),
            Some(HttpSession::Custom(())) | None => {}
        }
    }
}
