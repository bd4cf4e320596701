//! Learning what was spent before.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tollway_filter_api::ledger::{Span, SpendRecord};
use tollway_filter_api::treasury::Unpaid;

use super::{Inner, LEDGER_PATIENCE, in_time};
use crate::journal::codec::{self, Event, Kind};
use crate::journal::reader::{Found, Pieces};

const UNKNOWN: &str = "the ledger cannot be asked what has been spent";
/// A ledger that is away is not asked again by every call.
const AGAIN: Duration = Duration::from_secs(1);

/// A window that does not know what was spent before it was there.
#[derive(Clone, Copy)]
pub(super) struct Missing {
    pub(super) window: usize,
}

/// When the ledger was last asked in vain.
#[derive(Default)]
pub(super) struct Loading {
    failed_at: Mutex<Option<Instant>>,
}

impl Inner {
    /// Asks the ledger and the journal what was spent in a window's period.
    ///
    /// The ledger does not move meanwhile: the feeder waits. What this process settles from the
    /// moment on at which the window is cleared is counted as it comes, and what it settled before
    /// is in the ledger or in the journal.
    pub(super) async fn load(
        self: &Arc<Self>,
        missing: Missing,
        now_ms: u64,
    ) -> Result<(), Unpaid> {
        let feeding = tokio::time::timeout(LEDGER_PATIENCE, self.feed.lock()).await;
        let mut feeding = feeding.map_err(|_| Unpaid::Unavailable(UNKNOWN))?;
        let (dimension, mut scratch, era, before, end) = {
            let mut state = self.state.lock();
            let window = &mut state.windows.list[missing.window];
            window.turn(now_ms, &self.clock);
            let Some(dimension) = window.dimension.filter(|_| !window.ready) else {
                return Ok(());
            };
            // Only those who come after the one that failed are spared the wait.
            let failed_at = *self.loading.failed_at.lock();
            if failed_at.is_some_and(|at| at.elapsed() < AGAIN) {
                return Err(Unpaid::Unavailable(UNKNOWN));
            }
            window.clear();
            let (next, end) = self.journal.queue().end();
            (dimension, window.scratch(), window.era, next.seq, end)
        };
        let failed = |error: String| {
            tracing::warn!(%error, "what was spent cannot be learnt: calls with budgets are refused");
            *self.loading.failed_at.lock() = Some(Instant::now());
            self.feed.failed(error);
            Unpaid::Unavailable(UNKNOWN)
        };
        // The feeder may have been told that a batch failed which did not.
        let last = in_time(self.ledger.last_seq(self.journal.node())).await.map_err(failed)?;
        self.advance(&mut feeding, last.unwrap_or_default()).map_err(failed)?;
        let (from_ms, to_ms) = (scratch.start_ms, scratch.end_ms);
        let sums = in_time(self.ledger.sums(dimension, Span::All, from_ms, to_ms)).await;
        let sums = sums.map_err(failed)?;
        self.journal.queue().written(end, false).await.map_err(Unpaid::Unavailable)?;
        let after = feeding.place();
        let inner = Arc::clone(self);
        let waiting = tokio::task::spawn_blocking(move || {
            inner.settled(after, before, |record| {
                if (from_ms..to_ms).contains(&record.started_ms) {
                    scratch.add_record(scratch.era, &record, &inner.global);
                }
            })?;
            Ok::<_, std::io::Error>(scratch)
        });
        let waiting = match waiting.await {
            Ok(Ok(waiting)) => waiting,
            Ok(Err(error)) => return Err(failed(error.to_string())),
            Err(error) => return Err(failed(error.to_string())),
        };
        let mut state = self.state.lock();
        let window = &mut state.windows.list[missing.window];
        // If the next period has begun meanwhile, all of it has been seen.
        if window.era == era {
            for sum in &sums {
                window.add_sum(&sum.subject, sum.cost);
            }
            window.merge(waiting);
            window.ready = true;
        }
        Ok(())
    }

    /// Reads the settlements after one and before another in the journal.
    fn settled(
        &self,
        after: u64,
        before: u64,
        mut on: impl FnMut(SpendRecord),
    ) -> std::io::Result<()> {
        let mut last = after;
        for segment in self.journal.queue().segments() {
            if segment.next_seq <= after.saturating_add(1) {
                continue;
            }
            let path = segment.path(self.journal.folder());
            let mut pieces = Pieces::open(&path, self.journal.salt(), 0)?;
            while pieces.next(segment.bytes, |found| {
                let Found::Record(payload) = found else { return };
                let Some(Kind::End { seq: Some(seq), .. }) = codec::kind(payload) else { return };
                if seq > last
                    && seq < before
                    && let Some(Event::Settle { record, .. }) = codec::decode(payload)
                {
                    last = seq;
                    on(*record);
                }
            })? {}
        }
        Ok(())
    }
}
