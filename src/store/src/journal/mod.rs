//! What calls reserve and what they cost, in files of this machine, before anybody is told.
//!
//! The folder belongs to one process, which holds its `lock`. `node` says what the node is called in
//! the ledger. Records ([`codec`]) are appended to segments, `0000000000000001.seg` and so on, by
//! the call that finds nobody writing, or by a thread (`writer`): what came meanwhile is the next batch. A segment that is full is
//! followed by another; a process that starts begins a new one. `place` says how far the ledger has
//! it, and `reserve` is room for when the disk is full.

pub mod codec;
pub mod files;
mod identity;
mod queue;
pub mod reader;
mod recovery;
mod writer;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::Mutex;
use tollway_filter_api::ledger::SpendRecord;
use tollway_wire::price::PicoDollars;
use tollway_wire::usage::Usage;

use self::codec::Salt;
use self::files::Files;
pub(crate) use self::identity::save_place;
pub use self::identity::{Identity, IdentityError};
pub(crate) use self::queue::{Queue, Segment, Written};
pub use self::recovery::Piece;
pub(crate) use self::recovery::{Found, OpenCall};
use self::writer::Writer;

/// When what was written is made to survive a power failure. A process that is killed loses nothing
/// in any case: a call is not made before the kernel has its reservation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fsync {
    /// When the system feels like it; an orderly stop makes the newest segment safe.
    None,
    /// As often as this. The default, every 100 ms: that much spend is lost at most, and no call
    /// waits for a disk.
    Interval(Duration),
    /// Before a call is made. It waits for the disk, together with all that came meanwhile.
    Always,
}

impl Default for Fsync {
    fn default() -> Fsync {
        Fsync::Interval(Duration::from_millis(100))
    }
}

/// What the journal is to be like.
#[derive(Clone)]
pub(crate) struct JournalConfig {
    pub(crate) folder: PathBuf,
    pub(crate) fsync: Fsync,
    pub(crate) segment_bytes: u64,
    pub(crate) reserve_bytes: u64,
    pub(crate) files: Arc<dyn Files>,
}

/// The journal of this process.
pub(crate) struct Journal {
    queue: Arc<Queue>,
    writer: Arc<Mutex<Writer>>,
    threads: Vec<JoinHandle<()>>,
    identity: Identity,
    config: JournalConfig,
}

/// A call that is in the journal, or waits to be.
pub(crate) struct Reserved {
    pub(crate) call: u64,
    /// What it says.
    pub(crate) payload: Box<[u8]>,
}

impl Journal {
    /// Takes a folder and reads what is in it. Nothing is written to segments before
    /// [`Journal::start`].
    pub(crate) fn find(config: &JournalConfig) -> Result<(Identity, Found), IdentityError> {
        let identity = Identity::take(&config.folder)?;
        let found = recovery::read(&config.folder, &identity)
            .map_err(|source| IdentityError::Folder { path: config.folder.clone(), source })?;
        Ok((identity, found))
    }

    /// Begins a new segment.
    pub(crate) fn start(
        config: JournalConfig,
        identity: Identity,
        found: &Found,
    ) -> Result<Journal, IdentityError> {
        let first = identity.first();
        let queue = Arc::new(Queue::new(identity.salt, config.fsync, first, found));
        let folder = config.folder.clone();
        let failed = |source| IdentityError::Folder { path: folder.clone(), source };
        let writer = Writer::new(Arc::clone(&queue), config.clone());
        let writer = Arc::new(Mutex::new(writer));
        let mut journal = Journal { queue, writer, threads: Vec::new(), identity, config };
        let thread = |name: &str| std::thread::Builder::new().name(name.to_owned());
        let (writer, queue) = (Arc::clone(&journal.writer), Arc::clone(&journal.queue));
        let writing = thread("journal").spawn(move || Writer::run(&writer, &queue));
        let writing = writing.map_err(failed)?;
        journal.threads.push(writing);
        if let Fsync::Interval(every) = journal.config.fsync {
            let queue = Arc::clone(&journal.queue);
            let syncing = thread("journal-sync").spawn(move || queue.sync_every(every));
            journal.threads.push(syncing.map_err(failed)?);
        }
        Ok(journal)
    }

    /// What the node is called in the ledger.
    pub(crate) fn node(&self) -> &Arc<str> {
        &self.identity.node
    }

    /// The first number of this start.
    pub(crate) fn first(&self) -> u64 {
        self.identity.first()
    }

    /// What is written is made safe by and by.
    pub(crate) fn is_synced(&self) -> bool {
        self.config.fsync != Fsync::None
    }

    /// Up to here the ledger had everything when the process started, as far as was known.
    pub(crate) fn place(&self) -> u64 {
        self.identity.place
    }

    pub(crate) fn salt(&self) -> Salt {
        self.identity.salt
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.config.folder
    }

    pub(crate) fn queue(&self) -> &Queue {
        &self.queue
    }

    /// Why no call can be made at present.
    pub(crate) fn refusal(&self) -> Option<&'static str> {
        self.queue.refusal()
    }

    /// Opens a call that began then: what is written, and where that ends, which is to be waited for.
    pub(crate) fn reserve(
        &self,
        amount: PicoDollars,
        at_ms: u64,
        draft: &SpendRecord,
        started_ms: u64,
    ) -> (Reserved, u64) {
        let append = |out: &mut Vec<u8>, salt, next: &mut queue::Next| {
            let call = next.call;
            next.call += 1;
            (call, codec::reserve(out, salt, (call, amount, at_ms), draft, started_ms).into())
        };
        let ((call, payload), at) = self.queue.append(false, append);
        (Reserved { call, payload }, at)
    }

    /// Notes all that a call has reserved now.
    pub(crate) fn extend(&self, call: u64, amount: PicoDollars) {
        self.queue.append(true, |out, salt, _| codec::extend(out, salt, call, amount));
    }

    /// Notes what a call has streamed.
    pub(crate) fn progress(&self, call: u64, cost: PicoDollars, usage: &Usage) {
        self.queue.append(true, |out, salt, _| codec::progress(out, salt, call, cost, usage));
    }

    /// Closes a call. One that was never opened, because it needed nobody, gets its number here.
    pub(crate) fn settle(&self, call: Option<u64>, record: &SpendRecord) {
        self.queue.append(true, |out, salt, next| {
            let call = call.unwrap_or(next.call);
            next.call = next.call.max(call + 1);
            codec::settle(out, salt, call, next.seq, record);
            next.seq += 1;
            next.backlog += 1;
        });
    }

    /// Takes back a call that was never made.
    pub(crate) fn cancel(&self, call: u64) {
        self.queue.append(true, |out, salt, _| codec::cancel(out, salt, call));
    }

    /// Appends a record that was read from an old segment, so that this can go.
    pub(crate) fn keep(&self, payload: &[u8]) {
        self.queue.append(true, |out, salt, _| codec::copy(out, salt, payload));
    }

    /// Whether a record is written already.
    pub(crate) fn has_written(&self, at: u64) -> bool {
        self.queue.has_written(at)
    }

    /// Writes all that waits, if nobody does so already and it takes no time.
    pub(crate) fn write_at_once(&self) {
        if !self.queue.is_ill()
            && let Some(mut writer) = self.writer.try_lock()
        {
            writer.write_at_once();
        }
    }

    /// Waits until a record is written, and on the disk where the policy says so.
    pub(crate) fn written(&self, at: u64) -> Written<'_> {
        self.queue.written(at, self.config.fsync == Fsync::Always)
    }

    /// Waits until everything is on the disk.
    pub(crate) fn flushed(&self) -> Written<'_> {
        self.queue.flushed()
    }

    /// Deletes the oldest segment; one with damage is put aside.
    pub(crate) fn drop_oldest(&self, segment: &Segment) -> std::io::Result<()> {
        let path = segment.path(self.folder());
        if segment.damaged {
            self.config.files.rename(&path, &path.with_extension("damaged"))?;
        } else {
            self.config.files.remove(&path)?;
        }
        self.queue.forget_oldest();
        Ok(())
    }
}

impl Drop for Journal {
    /// Writes what is left.
    fn drop(&mut self) {
        self.queue.stop();
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}
