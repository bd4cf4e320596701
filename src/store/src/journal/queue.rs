//! Where records wait to be written, and callers for their records.

use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::Fsync;
use super::codec::Salt;
use super::files::Writing;
use super::recovery::Found;

/// No call is opened while more than this waits to be written. What calls under way have to say is
/// taken all the same: there are only so many of them.
const WAITING_BYTES_MAX: usize = 4 * 1024 * 1024;
const UNWRITABLE: &str = "the journal of spend cannot be written: the disk is full or broken";
/// How long the writer looks for more by itself before it has to be woken: in that time, ends of
/// calls cost nobody a wake-up.
const DOZE: Duration = Duration::from_millis(2);
const DOZES: u32 = 5;
/// How often a disk that is full is asked again.
pub(super) const RETRY: Duration = Duration::from_secs(1);

/// A segment of the journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Segment {
    pub(crate) number: u64,
    /// How much of it is written.
    pub(crate) bytes: u64,
    /// All its calls have numbers below this one.
    pub(crate) next_call: u64,
    /// All its settlements have numbers below this one.
    pub(crate) next_seq: u64,
    pub(crate) damaged: bool,
}

impl Segment {
    pub(crate) fn path(&self, folder: &Path) -> PathBuf {
        folder.join(format!("{:016x}.seg", self.number))
    }
}

/// The next numbers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Next {
    pub(crate) call: u64,
    pub(crate) seq: u64,
    /// Settlements that the ledger does not have yet.
    pub(crate) backlog: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Parked {
    /// It is at work, and will look again.
    No,
    /// It will look again in a moment.
    Dozing,
    Asleep,
}

struct Waiter {
    at: u64,
    durable: bool,
    waker: Waker,
}

/// A piece of the journal that is being written.
#[derive(Clone, Copy)]
pub(super) struct Batch {
    /// Where it ends.
    pub(super) end: u64,
    /// The numbers that follow it.
    pub(super) next: Next,
}

/// What is wrong with the disk.
struct Trouble {
    text: String,
    /// When to try again.
    probe_at: Instant,
}

struct State {
    /// Records that nobody has written yet.
    pending: Vec<u8>,
    next: Next,
    /// Bytes since the start: appended, written, safe from a power failure; those of which it is
    /// known that they cannot be written for now, and those that were perhaps not made safe.
    appended: u64,
    written: u64,
    synced: u64,
    unwritable: u64,
    unsafe_to: u64,
    /// Somebody waits for these to be safe.
    wanted: u64,
    waiters: Vec<Waiter>,
    parked: Parked,
    stop: bool,
    trouble: Option<Trouble>,
    /// A file that could not be synced is not written to again: what it holds is not known.
    rotate: bool,
    segments: VecDeque<Segment>,
    /// The newest segment with bytes that would survive a power failure, and how many.
    safe: (u64, u64),
    /// Files with bytes that are not safe yet.
    dirty: Vec<Arc<dyn Writing>>,
}

/// What the writer's thread is to do.
pub(super) enum Order {
    /// Write what waits.
    Write,
    /// Make what is written safe.
    Sync,
    /// See whether the disk can be written again.
    Probe,
    /// Everything is written.
    Stop,
}

/// Between those who append and the writer.
pub(crate) struct Queue {
    state: Mutex<State>,
    /// There is something to write.
    work: Condvar,
    /// There is something to make safe.
    dirty: Condvar,
    /// One at a time: the other would think that all is safe.
    syncing: Mutex<()>,
    in_trouble: AtomicBool,
    salt: Salt,
    fsync: Fsync,
}

impl Queue {
    pub(super) fn new(salt: Salt, fsync: Fsync, first: u64, found: &Found) -> Queue {
        let state = State {
            pending: Vec::new(),
            next: Next { call: first, seq: first, backlog: found.backlog },
            appended: 0,
            written: 0,
            synced: 0,
            unwritable: 0,
            unsafe_to: 0,
            wanted: 0,
            waiters: Vec::new(),
            parked: Parked::No,
            stop: false,
            trouble: None,
            rotate: false,
            segments: found.segments.iter().copied().collect(),
            safe: found.segments.last().map_or((0, 0), |last| (last.number, last.bytes)),
            dirty: Vec::new(),
        };
        Queue {
            state: Mutex::new(state),
            work: Condvar::new(),
            dirty: Condvar::new(),
            syncing: Mutex::new(()),
            in_trouble: AtomicBool::new(false),
            salt,
            fsync,
        }
    }

    // ---------------------------------------------------------------------------- for who appends

    /// Why no call can be made at present.
    pub(super) fn refusal(&self) -> Option<&'static str> {
        if self.is_ill() {
            return Some(UNWRITABLE);
        }
        let waits = self.state.lock().pending.len();
        (waits > WAITING_BYTES_MAX).then_some("the journal of spend cannot be written fast enough")
    }

    /// Something is wrong with the disk.
    pub(super) fn is_ill(&self) -> bool {
        self.in_trouble.load(Ordering::Relaxed)
    }

    /// Appends a record: what `write` returns, and where the record ends. The writer is woken unless
    /// whoever appends sees to it that the record is written.
    pub(super) fn append<T>(
        &self,
        wake: bool,
        write: impl FnOnce(&mut Vec<u8>, Salt, &mut Next) -> T,
    ) -> (T, u64) {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        let before = state.pending.len();
        let said = write(&mut state.pending, self.salt, &mut state.next);
        state.appended += (state.pending.len() - before) as u64;
        let at = state.appended;
        if wake && state.parked == Parked::Asleep {
            state.parked = Parked::No;
            drop(guard);
            self.work.notify_one();
        }
        (said, at)
    }

    /// The next numbers, and where the journal ends.
    pub(crate) fn end(&self) -> (Next, u64) {
        let state = self.state.lock();
        (state.next, state.appended)
    }

    pub(super) fn has_written(&self, at: u64) -> bool {
        self.state.lock().written >= at
    }

    pub(crate) fn written(&self, at: u64, durable: bool) -> Written<'_> {
        Written { queue: self, at, durable }
    }

    pub(super) fn flushed(&self) -> Written<'_> {
        let mut state = self.state.lock();
        state.wanted = state.appended;
        state.parked = Parked::No;
        let at = state.appended;
        drop(state);
        self.work.notify_one();
        Written { queue: self, at, durable: true }
    }

    pub(super) fn stop(&self) {
        self.state.lock().stop = true;
        self.work.notify_all();
        self.dirty.notify_all();
    }

    // ---------------------------------------------------------------------------- for the feeder

    /// The segments there are, the oldest first. The last is being written.
    pub(crate) fn segments(&self) -> Vec<Segment> {
        self.state.lock().segments.iter().copied().collect()
    }

    /// The same, without what might not survive a power failure.
    pub(crate) fn safe_segments(&self) -> Vec<Segment> {
        let state = self.state.lock();
        let (number, bytes) = state.safe;
        let safe = state.segments.iter().copied().filter(|segment| segment.number <= number);
        safe.map(|mut segment| {
            if segment.number == number {
                segment.bytes = bytes;
            }
            segment
        })
        .collect()
    }

    pub(crate) fn oldest(&self) -> Option<(Segment, usize)> {
        let state = self.state.lock();
        state.segments.front().map(|first| (*first, state.segments.len()))
    }

    pub(super) fn forget_oldest(&self) {
        self.state.lock().segments.pop_front();
    }

    pub(crate) fn fed(&self, count: u64) {
        let mut state = self.state.lock();
        state.next.backlog = state.next.backlog.saturating_sub(count);
    }

    /// How many settlements the ledger lacks, how many bytes all segments have, what is wrong.
    pub(crate) fn status(&self) -> (u64, u64, Option<String>) {
        let state = self.state.lock();
        let bytes = state.segments.iter().map(|segment| segment.bytes).sum();
        let trouble = state.trouble.as_ref().map(|trouble| trouble.text.clone());
        (state.next.backlog, bytes, trouble)
    }

    // ---------------------------------------------------------------------------- for the writer

    pub(super) fn salt(&self) -> Salt {
        self.salt
    }

    /// Takes all that waits to be written into `batch`, whose memory is used again: where it ends,
    /// and the numbers that follow it.
    pub(super) fn take(&self, batch: &mut Vec<u8>) -> Option<Batch> {
        let mut state = self.state.lock();
        if state.pending.is_empty() {
            return None;
        }
        batch.clear();
        std::mem::swap(&mut state.pending, batch);
        Some(Batch { end: state.appended, next: state.next })
    }

    /// Waits for something to do.
    pub(super) fn next(&self) -> Order {
        let mut state = self.state.lock();
        let mut dozes = 0;
        let mut others_wrote = false;
        let order = loop {
            // They will write what they have left, too: the next call that begins does.
            let is_spared = std::mem::take(&mut others_wrote) && !state.stop;
            let probe_at = state.trouble.as_ref().map(|trouble| trouble.probe_at);
            if let Some(at) = probe_at.filter(|at| *at <= Instant::now() && !state.stop) {
                if let Some(trouble) = &mut state.trouble {
                    trouble.probe_at = at.max(Instant::now()) + RETRY;
                }
                break Order::Probe;
            }
            if state.appended > state.written && !is_spared {
                break Order::Write;
            }
            if state.wanted > state.synced.max(state.unwritable).max(state.unsafe_to) {
                break Order::Sync;
            }
            if state.stop {
                break Order::Stop;
            }
            if let Some(at) = probe_at {
                state.parked = Parked::Asleep;
                self.work.wait_until(&mut state, at);
            } else if dozes < DOZES || is_spared {
                dozes += u32::from(!is_spared);
                state.parked = Parked::Dozing;
                let written = state.written;
                self.work.wait_for(&mut state, DOZE);
                others_wrote = state.parked == Parked::Dozing && state.written > written;
            } else {
                state.parked = Parked::Asleep;
                self.work.wait(&mut state);
            }
        };
        state.parked = Parked::No;
        order
    }

    /// A segment was begun.
    pub(super) fn began(&self, segment: Segment) {
        let mut state = self.state.lock();
        state.rotate = false;
        state.segments.push_back(segment);
    }

    /// The present segment must not be written to any more.
    pub(super) fn must_rotate(&self) -> bool {
        self.state.lock().rotate
    }

    /// A batch is in the present segment, which has so many bytes now.
    pub(super) fn wrote(&self, batch: Batch, bytes: u64, file: &Arc<dyn Writing>) {
        let Batch { end, next } = batch;
        let mut guard = self.state.lock();
        let state = &mut *guard;
        state.written = end;
        // What is still to be written can be: its turn comes.
        state.unwritable = 0;
        if let Some(last) = state.segments.back_mut() {
            (last.bytes, last.next_call, last.next_seq) = (bytes, next.call, next.seq);
        }
        if self.fsync == Fsync::Always {
            state.synced = end;
            state.safe = state.place();
        } else if !state.dirty.last().is_some_and(|last| Arc::ptr_eq(last, file)) {
            if self.fsync == Fsync::None {
                state.dirty.clear();
            }
            state.dirty.push(Arc::clone(file));
            self.dirty.notify_one();
        }
        let wakers = state.ready();
        drop(guard);
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Something is wrong with the disk: no call is opened until [`Queue::well`].
    pub(super) fn ill(&self, doing: &str, error: &io::Error) {
        let text = format!("{doing}: {error}");
        let mut state = self.state.lock();
        if !self.in_trouble.swap(true, Ordering::Relaxed) {
            tracing::error!(error = %text, "the journal of spend cannot be written: no call is made until it can");
        }
        let probe_at = Instant::now() + RETRY;
        let probe_at = state.trouble.as_ref().map_or(probe_at, |trouble| trouble.probe_at);
        state.trouble = Some(Trouble { text, probe_at });
    }

    /// Those who wait are told that their records cannot be written. Waits before the next try;
    /// false if there is to be none.
    pub(super) fn give_up_for_now(&self) -> bool {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        state.unwritable = state.appended;
        let wakers = state.ready();
        if !state.stop {
            // Those who append need not wake anybody.
            state.parked = Parked::No;
        }
        parking_lot::MutexGuard::unlocked(&mut guard, || {
            wakers.into_iter().for_each(Waker::wake);
        });
        if !guard.stop {
            self.work.wait_for(&mut guard, RETRY);
        }
        !guard.stop
    }

    /// The disk can be written again.
    pub(super) fn well(&self) {
        let mut state = self.state.lock();
        state.trouble = None;
        if self.in_trouble.swap(false, Ordering::Relaxed) {
            tracing::info!("the journal of spend can be written again");
        }
    }

    /// Makes safe what is written.
    pub(super) fn sync(&self) {
        let _one_at_a_time = self.syncing.lock();
        let (files, end, place) = {
            let mut state = self.state.lock();
            (std::mem::take(&mut state.dirty), state.written, state.place())
        };
        let synced = files.iter().try_for_each(|file| file.sync());
        if let Err(error) = &synced {
            self.ill("fsync", error);
        }
        let mut guard = self.state.lock();
        let state = &mut *guard;
        if synced.is_ok() {
            state.synced = state.synced.max(end);
            state.safe = state.safe.max(place);
        } else {
            // The kernel forgets what it could not write: asking again would be answered with a lie.
            state.unsafe_to = state.unsafe_to.max(end);
            state.rotate = true;
        }
        let wakers = state.ready();
        drop(guard);
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Syncs at most as often as `every`, and rests while there is nothing to sync.
    pub(super) fn sync_every(&self, every: Duration) {
        loop {
            let mut state = self.state.lock();
            while state.dirty.is_empty() && !state.stop {
                self.dirty.wait(&mut state);
            }
            let until = Instant::now() + every;
            while !state.stop && !self.dirty.wait_until(&mut state, until).timed_out() {}
            if state.stop {
                // The writer does the rest: it writes until the end.
                return;
            }
            drop(state);
            self.sync();
        }
    }
}

impl State {
    /// The newest segment, and how much of it is written.
    fn place(&self) -> (u64, u64) {
        self.segments.back().map_or((0, 0), |last| (last.number, last.bytes))
    }

    /// Takes those who need not wait any longer.
    fn ready(&mut self) -> Vec<Waker> {
        let written = self.written.max(self.unwritable);
        let synced = self.synced.max(self.unwritable).max(self.unsafe_to);
        let is_ready =
            |waiter: &mut Waiter| waiter.at <= if waiter.durable { synced } else { written };
        self.waiters.extract_if(.., is_ready).map(|waiter| waiter.waker).collect()
    }
}

/// Waits for a record to be written.
pub(crate) struct Written<'a> {
    queue: &'a Queue,
    at: u64,
    durable: bool,
}

impl Future for Written<'_> {
    /// Why it could not be written for now. It may be later.
    type Output = Result<(), &'static str>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.queue.state.lock();
        let done = if self.durable { state.synced } else { state.written };
        if done >= self.at {
            return Poll::Ready(Ok(()));
        }
        let is_unsafe = self.durable && state.unsafe_to >= self.at;
        if state.unwritable >= self.at || is_unsafe {
            return Poll::Ready(Err(UNWRITABLE));
        }
        let (at, durable, waker) = (self.at, self.durable, context.waker().clone());
        state.waiters.push(Waiter { at, durable, waker });
        if state.parked != Parked::No {
            state.parked = Parked::No;
            drop(state);
            self.queue.work.notify_one();
        }
        Poll::Pending
    }
}
