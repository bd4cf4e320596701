//! Brings spans to the collector, many at once. Nothing waits for it: what cannot be brought in time
//! is dropped and counted.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{sleep, timeout_at};

use super::{Counts, Waiting, otlp};
use crate::config::TraceSettings;
use crate::exchange::Pool;
use crate::post::{Letterbox, post};

/// The pauses before the same spans are sent again.
const PAUSES: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(4)];
/// How long a process that ends waits for its last spans to be sent.
pub(super) const FLUSH_WAIT: Duration = Duration::from_secs(3);

/// The way to the collector.
pub(super) struct Exporter {
    settings: TraceSettings,
    pool: Arc<Pool>,
    counts: Arc<Counts>,
    /// It did not work the last time, and was said so.
    is_away: bool,
}

impl Exporter {
    pub(super) fn new(settings: TraceSettings, pool: Arc<Pool>, counts: Arc<Counts>) -> Exporter {
        Exporter { settings, pool, counts, is_away: false }
    }

    pub(super) async fn run(mut self, mut queue: mpsc::Receiver<Waiting>) {
        let mut spans = Vec::new();
        while let Some(first) = queue.recv().await {
            // Others come along with the first one.
            let until = tokio::time::Instant::now() + self.settings.delay;
            let mut next = Some(first);
            let mut flushed = None;
            while let Some(waiting) = next {
                match waiting {
                    Waiting::Span(span) => spans.push(span),
                    Waiting::Flush(done) => {
                        flushed = Some(done);
                        break;
                    }
                }
                if spans.len() >= self.settings.batch {
                    break;
                }
                next = timeout_at(until, queue.recv()).await.ok().flatten();
            }
            self.export(&spans, flushed.is_some()).await;
            spans.clear();
            if let Some(done) = flushed {
                let _ = done.send(());
            }
        }
    }

    async fn export(&mut self, spans: &[Box<tollway_filter_api::trace::Ended>], is_last: bool) {
        if spans.is_empty() {
            return;
        }
        let body = otlp::request(&self.settings.resource, spans);
        let path = match self.settings.place.path.as_str() {
            "" => "/",
            path => path,
        };
        let to = Letterbox {
            place: &self.settings.place,
            path: path.as_bytes(),
            headers: &self.settings.headers,
            patience: self.settings.timeout,
        };
        let mut pauses = PAUSES.into_iter();
        let failure = loop {
            let Err(failure) = post(&self.pool, &to, &body).await else { break None };
            match pauses.next().filter(|_| failure.is_passing && !is_last) {
                Some(pause) => sleep(pause).await,
                None => break Some(failure),
            }
        };
        let count = spans.len() as u64;
        match failure {
            None => {
                self.counts.exported.inc_by(count);
                self.is_away = false;
            }
            Some(failure) => {
                self.counts.failed.inc_by(count);
                // Once, not with each batch.
                if !std::mem::replace(&mut self.is_away, true) {
                    tracing::warn!(count, why = failure.why, "spans did not reach the collector");
                }
            }
        }
    }
}
