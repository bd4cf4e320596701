//! Listening, signals, reload and the orderly end.
//!
//! Pingora's `Server` is not used: its stop is a fixed sleep, not a drain, and it cannot tell which
//! port it got. Its listening service and its proxy run here on our own runtime.

use std::net::{SocketAddr, TcpListener};
use std::os::fd::IntoRawFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use pingora_core::listeners::tls::TlsSettings;
use pingora_core::listeners::{L4BufferSettings, ListenerConfig, Listeners};
use pingora_core::server::Fds;
use pingora_core::server::configuration::ServerConf;
use pingora_core::services::Service as _;
use pingora_core::services::listening::Service;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::cli::say;
use crate::config::TlsFiles;
use crate::connections::Connections;
use crate::proxy::Proxy;
use crate::start::{Loader, StartError};
use crate::state::Gateway;

/// Enough for the head and the body of a usual answer, so that both leave in one `write(2)`.
const WRITE_BUFFER: usize = 4 * 1024;
/// TLS reads in small pieces; without it, Pingora's session has a buffer of its own, and a second
/// one would only be memory that every connection holds.
const READ_BUFFER_TLS: usize = 16 * 1024;
/// How often a config file is looked at for a change.
const RELOAD_POLL: Duration = Duration::from_secs(1);
/// After the last answer: time for HTTP/2 connections to write what they hold.
const LAST_WORDS: Duration = Duration::from_millis(50);

/// A bound address, not yet served.
pub(crate) struct Bound {
    listener: TcpListener,
    pub(crate) address: SocketAddr,
    tls: Option<TlsSettings>,
}

/// Binds. `tls` files are read here, because Pingora panics on bad ones later.
pub(crate) fn bind(address: &str, tls: Option<&TlsFiles>) -> Result<Bound, StartError> {
    let listener = TcpListener::bind(address)
        .map_err(|error| StartError::new(format!("cannot listen on {address}: {error}")))?;
    let bound = listener
        .local_addr()
        .map_err(|error| StartError::new(format!("cannot listen on {address}: {error}")))?;
    listener
        .set_nonblocking(true)
        .map_err(|error| StartError::new(format!("cannot listen on {address}: {error}")))?;
    let tls = tls.map(tls_settings).transpose()?;
    Ok(Bound { listener, address: bound, tls })
}

fn tls_settings(files: &TlsFiles) -> Result<TlsSettings, StartError> {
    let (cert, key) = (files.cert.display().to_string(), files.key.display().to_string());
    let wrong = |what: &str, error: &dyn std::fmt::Display| {
        StartError::new(format!("listen.tls.{what}: {error}"))
    };
    let mut settings =
        TlsSettings::intermediate(&cert, &key).map_err(|error| wrong("cert", &error))?;
    settings.set_certificate_chain_file(&cert).map_err(|error| wrong("cert", &error))?;
    settings.set_private_key_file(&key).map_err(|error| wrong("key", &error))?;
    settings.enable_h2();
    Ok(settings)
}

/// Serves until SIGTERM or SIGINT, then lets every request end, for `drain` at most.
pub(crate) async fn run(
    gateway: Arc<Gateway>,
    bound: Bound,
    mut loader: Loader,
    drain: Duration,
    announcement: &str,
) -> Result<(), StartError> {
    let failed = |error: std::io::Error| StartError::new(format!("signals: {error}"));
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    let mut hangup = signal(SignalKind::hangup()).map_err(failed)?;

    let mut seen = changed_at(loader.file());
    // Only now: whoever reads this may send a signal or change the file at once.
    say(announcement);

    let (stop, stopping) = watch::channel(false);
    let serving = tokio::spawn(serve(Arc::clone(&gateway), bound, stopping));

    let mut poll = tokio::time::interval(RELOAD_POLL);
    poll.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            _ = hangup.recv() => reload(&gateway, &mut loader).await,
            _ = poll.tick() => {
                let now = changed_at(loader.file());
                if now != seen {
                    seen = now;
                    reload(&gateway, &mut loader).await;
                }
            }
        }
    }
    gateway.in_flight.begin_draining();
    tracing::info!(in_flight = gateway.in_flight.count(), "stopping: no new requests are taken");
    let _ = stop.send(true);
    let drained = async {
        // First the listener, so that a request cannot slip in after the count was 0.
        let _ = serving.await;
        gateway.in_flight.drained().await;
        tokio::time::sleep(LAST_WORDS).await;
    };
    tokio::select! {
        () = drained => tracing::info!("stopped"),
        () = tokio::time::sleep(drain) => {
            let cut = gateway.in_flight.count();
            tracing::warn!(cut, "stopped: requests were still running after {drain:?}");
        }
        _ = terminate.recv() => tracing::warn!("stopped at once: told twice"),
        _ = interrupt.recv() => tracing::warn!("stopped at once: told twice"),
    }
    Ok(())
}

async fn serve(gateway: Arc<Gateway>, bound: Bound, stopping: watch::Receiver<bool>) {
    let conf = Arc::new(ServerConf { upstream_keepalive_pool_size: 256, ..ServerConf::default() });
    let proxy = pingora_proxy::http_proxy(&conf, Proxy(Arc::clone(&gateway)));
    let connections = Connections::new(gateway, proxy);

    let address = bound.address.to_string();
    let read_buffer = if bound.tls.is_some() { READ_BUFFER_TLS } else { 0 };
    let buffers = L4BufferSettings::new(read_buffer, WRITE_BUFFER);
    let mut config = ListenerConfig::tcp(address.clone()).l4_buffer(buffers);
    if let Some(tls) = bound.tls {
        config = config.tls(tls);
    }
    let mut listeners = Listeners::new();
    listeners.add_listener(config);
    // The way Pingora hands sockets over between processes hands ours to its service.
    let mut sockets = Fds::new();
    sockets.add(address, bound.listener.into_raw_fd());
    let sockets = Some(Arc::new(Mutex::new(sockets)));
    let mut service = Service::with_listeners("tollway".into(), listeners, connections);
    service.start_service(sockets, stopping, 1).await;
}

fn changed_at(file: Option<&Path>) -> Option<SystemTime> {
    std::fs::metadata(file?).ok()?.modified().ok()
}

/// Puts a new generation in place; a bad file leaves the old one serving.
async fn reload(gateway: &Arc<Gateway>, loader: &mut Loader) {
    let file: PathBuf = match loader.file() {
        Some(file) => file.to_owned(),
        None => return,
    };
    let made = match loader.generation() {
        Ok(generation) => {
            loader.agents(&generation.config).await.map(|agents| (generation, agents))
        }
        Err(error) => Err(error),
    };
    match made {
        Ok((generation, agents)) => {
            gateway.replace(generation);
            gateway.agents.replace(agents);
            tracing::info!(file = %file.display(), "config reloaded");
        }
        Err(error) => {
            tracing::error!(file = %file.display(), "config not reloaded, the old one serves on:\n{error}");
        }
    }
}
