//! Where lines go: the gateway's own messages to stderr, the request log to stdout.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use tollway_filter_api::LogSink;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::Directive;

/// How many bytes of lines may wait for a slow reader of stdout. More are dropped and counted:
/// requests never wait for their log.
const WAITING_BYTES_MAX: usize = 4 * 1024 * 1024;
/// How long a line waits for company.
const FLUSH_EVERY: Duration = Duration::from_millis(50);

/// Collects lines and lets one thread write them, many at once: a `write(2)` a request would cost
/// more than the line.
pub(crate) struct StdoutLog {
    waiting: Mutex<Vec<u8>>,
    some: Condvar,
    dropped: AtomicU64,
}

impl StdoutLog {
    /// Starts the writing thread.
    pub(crate) fn start() -> std::io::Result<Arc<StdoutLog>> {
        let log = Arc::new(StdoutLog {
            waiting: Mutex::new(Vec::new()),
            some: Condvar::new(),
            dropped: AtomicU64::new(0),
        });
        let writer = Arc::clone(&log);
        std::thread::Builder::new().name("request-log".into()).spawn(move || {
            let mut lines = Vec::new();
            loop {
                {
                    let mut waiting = writer.waiting.lock();
                    while waiting.is_empty() {
                        writer.some.wait(&mut waiting);
                    }
                }
                std::thread::sleep(FLUSH_EVERY);
                writer.write_out(&mut lines);
            }
        })?;
        Ok(log)
    }

    /// Writes what waits, now. For the end of the process.
    pub(crate) fn flush(&self) {
        self.write_out(&mut Vec::new());
    }

    fn write_out(&self, lines: &mut Vec<u8>) {
        lines.clear();
        // Held while writing, so that two writers cannot swap their lines.
        let mut out = std::io::stdout().lock();
        std::mem::swap(lines, &mut *self.waiting.lock());
        let dropped = self.dropped.swap(0, Ordering::Relaxed);
        if dropped > 0 {
            tracing::warn!(dropped, "request log lines were dropped: stdout is read too slowly");
        }
        // A closed stdout must not stop the gateway.
        let _ = out.write_all(lines).and_then(|()| out.flush());
    }
}

impl LogSink for StdoutLog {
    fn line(&self, line: &[u8]) {
        let mut waiting = self.waiting.lock();
        if waiting.len() + line.len() > WAITING_BYTES_MAX {
            self.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let was_empty = waiting.is_empty();
        waiting.extend_from_slice(line);
        waiting.push(b'\n');
        drop(waiting);
        if was_empty {
            self.some.notify_one();
        }
    }
}

/// Sets up the gateway's own messages. `TOLLWAY_LOG` chooses their level, `info` by default.
///
/// Pingora and the HTTP libraries print heads, and so credentials, at their finer levels; they stay
/// at `warn` whatever is asked for.
pub(crate) fn start_messages(level: Option<&str>) {
    let mut filter =
        EnvFilter::try_new(level.unwrap_or("info")).unwrap_or_else(|_| EnvFilter::new("info"));
    for target in [
        "pingora_core",
        "pingora_proxy",
        "pingora_pool",
        "pingora_http",
        "h2",
        "rustls",
        "tokio",
        "redis",
        "mio",
        "hyper",
    ] {
        let directive: Result<Directive, _> = format!("{target}=off").parse();
        if let Ok(directive) = directive {
            filter = filter.add_directive(directive);
        }
    }
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_target(false)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .init();
}
