//! Brings what is settled from the journal to the ledger.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tollway_filter_api::ledger::Entry;

use super::{Inner, LEDGER_PATIENCE, in_time};
use crate::journal::codec::{self, Event, Kind};
use crate::journal::reader::{Found, Pieces};
use crate::journal::{Segment, save_place};

/// So many records go to the ledger at once.
const BATCH: usize = 500;
/// How long is waited after a failure: twice as long each time, up to the other.
const BACKOFF: Duration = Duration::from_millis(200);
const BACKOFF_MAX: Duration = Duration::from_secs(10);
/// Open calls are copied out of the oldest segment once there are more segments than this.
const SEGMENTS_KEPT: usize = 4;

/// What went wrong on the way.
type Failed = String;

/// How the feeder is.
#[derive(Default)]
struct Seen {
    /// When the oldest record that it has read and not brought was over.
    oldest_ms: Option<u64>,
    error: Option<String>,
}

/// Where the feeder is.
pub(super) struct Place {
    /// The ledger has everything up to here.
    place: u64,
    /// It has been sent everything up to here.
    sent: u64,
    /// The segment that is read, and how far.
    segment: u64,
    at: u64,
    /// Read and not brought yet.
    read: VecDeque<Entry>,
}

impl Place {
    pub(super) fn place(&self) -> u64 {
        self.place
    }
}

/// The feeder's part of the books.
pub(super) struct Feed {
    place: tokio::sync::Mutex<Place>,
    seen: Mutex<Seen>,
    /// Up to here, the ledger has everything.
    brought: AtomicU64,
    /// The place that was last saved.
    saved: AtomicU64,
    every: Duration,
}

impl Feed {
    pub(super) fn new(place: u64, first: u64, every: Duration) -> Feed {
        // What earlier starts of this node have sent is in order, however far it came.
        let sent = first.saturating_sub(1);
        let at = place;
        let place = Place { place, sent, segment: 0, at: 0, read: VecDeque::new() };
        Feed {
            place: tokio::sync::Mutex::new(place),
            seen: Mutex::default(),
            brought: AtomicU64::new(at),
            saved: AtomicU64::new(0),
            every,
        }
    }

    pub(super) async fn lock(&self) -> tokio::sync::MutexGuard<'_, Place> {
        self.place.lock().await
    }

    /// Up to where the ledger is known to have everything.
    pub(super) fn brought(&self) -> u64 {
        self.brought.load(Ordering::Acquire)
    }

    pub(super) fn failed(&self, error: String) {
        self.seen.lock().error = Some(error);
    }

    /// When the oldest record that waits was over, and what went wrong last.
    pub(super) fn status(&self) -> (Option<u64>, Option<String>) {
        let seen = self.seen.lock();
        (seen.oldest_ms, seen.error.clone())
    }
}

impl Inner {
    pub(super) async fn run_feeder(self: &Arc<Self>, shutdown: impl Future<Output = ()> + Send) {
        let mut shutdown = pin!(shutdown);
        let every = self.feed.every;
        let mut wait = every;
        let mut backoff = BACKOFF;
        loop {
            let stopping = tokio::select! {
                () = &mut shutdown => true,
                () = tokio::time::sleep(wait) => false,
            };
            match self.feed_all().await {
                Ok(()) => {
                    (wait, backoff) = (every, BACKOFF);
                    self.feed.seen.lock().error = None;
                }
                Err(error) => {
                    tracing::warn!(%error, "spend cannot be brought to the ledger: it waits in the journal");
                    self.feed.failed(error);
                    (wait, backoff) = (backoff, (backoff * 2).min(BACKOFF_MAX));
                }
            }
            if stopping {
                return;
            }
        }
    }

    /// Brings everything there is.
    async fn feed_all(self: &Arc<Self>) -> Result<(), Failed> {
        if self.journal.queue().status().0 == 0 {
            // Nobody is woken to find nothing.
            self.feed.seen.lock().oldest_ms = None;
            return self.drop_segments().await;
        }
        // What the ledger has and the journal has lost would be charged again after a power failure,
        // so only what is safe is brought. A disk that is full is no reason to wait: it is the feeder
        // that makes room.
        let is_safe = self.journal.flushed().await.is_ok() && self.journal.is_synced();
        let queue = self.journal.queue();
        let segments = if is_safe { queue.safe_segments() } else { queue.segments() };
        loop {
            // Between batches others may ask the ledger.
            let mut place = self.feed.lock().await;
            self.read(&mut place, &segments).await?;
            self.feed.seen.lock().oldest_ms = place.read.front().map(|entry| entry.record.ended_ms);
            if place.read.is_empty() {
                break;
            }
            self.bring(&mut place).await?;
        }
        self.save().await;
        self.drop_segments().await
    }

    /// Notes the place beside the journal: a help for the next start.
    async fn save(self: &Arc<Self>) {
        let (inner, place) = (Arc::clone(self), self.feed.lock().await.place);
        let saved = tokio::task::spawn_blocking(move || {
            if inner.feed.saved.swap(place, Ordering::Relaxed) == place {
                return Ok(());
            }
            save_place(inner.journal.folder(), place)
        });
        if let Ok(Err(error)) = saved.await {
            tracing::debug!(%error, "the feeder's place cannot be saved: it asks the ledger");
        }
    }

    /// Brings one batch.
    async fn bring(&self, place: &mut Place) -> Result<(), Failed> {
        let node = self.journal.node();
        // If the last batch failed, it may be there all the same.
        let last = in_time(self.ledger.last_seq(node)).await?;
        self.advance(place, last.unwrap_or_default())?;
        let count = place.read.len().min(BATCH);
        let Some(last) = count.checked_sub(1).map(|at| place.read[at].seq) else { return Ok(()) };
        place.sent = place.sent.max(last);
        let batch = &place.read.make_contiguous()[..count];
        // A ledger with much to do may need longer for a batch than for an answer.
        match tokio::time::timeout(LEDGER_PATIENCE * 6, self.ledger.append(node, batch)).await {
            Ok(Ok(())) => self.advance(place, last),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!("the ledger has not answered for {:?}", LEDGER_PATIENCE * 6)),
        }
    }

    /// Takes note that the ledger has everything up to `last`.
    pub(super) fn advance(&self, place: &mut Place, last: u64) -> Result<(), Failed> {
        if last > place.sent {
            let node = self.journal.node();
            return Err(format!(
                "another gateway writes to the ledger as {node}: it runs with a copy of this one's data folder. Spend stays in the journal until it is stopped"
            ));
        }
        if last <= place.place {
            return Ok(());
        }
        place.place = last;
        self.feed.brought.store(last, Ordering::Release);
        let before = place.read.len();
        while place.read.front().is_some_and(|entry| entry.seq <= last) {
            place.read.pop_front();
        }
        self.journal.queue().fed((before - place.read.len()) as u64);
        Ok(())
    }

    /// Reads on in these segments, if nothing that was read is left.
    async fn read(self: &Arc<Self>, place: &mut Place, segments: &[Segment]) -> Result<(), Failed> {
        while place.read.is_empty() {
            let Some(at) = segments.iter().position(|segment| segment.number >= place.segment)
            else {
                return Ok(());
            };
            let segment = segments[at];
            if segment.number != place.segment {
                (place.segment, place.at) = (segment.number, 0);
            }
            if place.at >= segment.bytes {
                // Nothing is added to a segment that has a successor.
                let Some(next) = segments.get(at + 1) else { return Ok(()) };
                (place.segment, place.at) = (next.number, 0);
                continue;
            }
            let (inner, from, after) = (Arc::clone(self), place.at, place.place);
            let read = tokio::task::spawn_blocking(move || inner.read_piece(segment, from, after));
            let (to, entries, skipped) = match read.await {
                Ok(read) => read.map_err(|error| format!("reading the journal: {error}"))?,
                Err(error) => return Err(error.to_string()),
            };
            place.at = to;
            place.read.extend(entries);
            self.journal.queue().fed(skipped);
        }
        Ok(())
    }

    /// The settlements in the next piece of a segment that the ledger does not have; and how many
    /// it has that were thought to be missing.
    fn read_piece(
        &self,
        segment: Segment,
        from: u64,
        place: u64,
    ) -> std::io::Result<(u64, Vec<Entry>, u64)> {
        let path = segment.path(self.journal.folder());
        let mut pieces = Pieces::open(&path, self.journal.salt(), from)?;
        let (mut entries, mut skipped, mut last) = (Vec::new(), 0, place);
        let saved = self.journal.place();
        pieces.next(segment.bytes, |found| {
            let Found::Record(payload) = found else { return };
            let Some(Kind::End { seq: Some(seq), .. }) = codec::kind(payload) else { return };
            if seq <= last {
                skipped += u64::from(seq > saved && seq <= place);
            } else if let Some(Event::Settle { seq, record, .. }) = codec::decode(payload) {
                last = seq;
                entries.push(Entry { seq, record: *record });
            }
        })?;
        Ok((pieces.at, entries, skipped))
    }

    // ------------------------------------------------------------------------------------ segments

    /// Deletes segments whose settlements the ledger has, the oldest first: a call's end is never
    /// deleted before its beginning.
    async fn drop_segments(self: &Arc<Self>) -> Result<(), Failed> {
        loop {
            let Some((segment, segments)) = self.journal.queue().oldest() else { return Ok(()) };
            let place = self.feed.lock().await;
            let is_read = place.segment > segment.number && place.read.is_empty();
            drop(place);
            let is_kept = self.leases.as_ref().is_some_and(|leases| leases.keeps(segment.next_seq));
            if !is_read || segments < 2 || is_kept {
                return Ok(());
            }
            let has_open = {
                let state = self.state.lock();
                state.open.first().is_some_and(|first| *first < segment.next_call)
            };
            if has_open {
                if segments <= SEGMENTS_KEPT {
                    return Ok(());
                }
                self.keep_open_calls(segment).await?;
            }
            let inner = Arc::clone(self);
            let dropped = tokio::task::spawn_blocking(move || inner.journal.drop_oldest(&segment));
            match dropped.await {
                Ok(dropped) => dropped
                    .map_err(|error| format!("deleting a segment of the journal: {error}"))?,
                Err(error) => return Err(error.to_string()),
            }
        }
    }

    /// Copies what a segment says of calls that are still open to the end of the journal.
    async fn keep_open_calls(self: &Arc<Self>, segment: Segment) -> Result<(), Failed> {
        let inner = Arc::clone(self);
        let copied = tokio::task::spawn_blocking(move || {
            let path = segment.path(inner.journal.folder());
            let mut pieces = Pieces::open(&path, inner.journal.salt(), 0)?;
            while pieces.next(segment.bytes, |found| {
                let Found::Record(payload) = found else { return };
                let (Some(Kind::Reserve { call }) | Some(Kind::Note { call })) =
                    codec::kind(payload)
                else {
                    return;
                };
                // With the lock, so that the call's end comes after the copy.
                let state = inner.state.lock();
                if state.open.contains(&call) {
                    inner.journal.keep(payload);
                }
            })? {}
            Ok::<_, std::io::Error>(())
        });
        match copied.await {
            Ok(copied) => copied.map_err(|error| format!("reading the journal: {error}"))?,
            Err(error) => return Err(error.to_string()),
        }
        self.journal.flushed().await.map_err(str::to_owned)
    }
}
