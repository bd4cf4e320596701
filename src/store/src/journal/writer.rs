//! What writes the journal: calls themselves where that takes no time, else a thread.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::codec::{self, Head};
use super::files::Writing;
use super::queue::{Batch, Next, Order, Queue, Segment};
use super::{Fsync, JournalConfig};

/// The reserve is filled in pieces of this.
static ZEROS: [u8; 64 * 1024] = [0; 64 * 1024];

/// A disk that takes longer than this to take a batch is left to the thread (less is said of a
/// processor with much to do) …
const SLOW: Duration = Duration::from_millis(20);
/// … for so long: no call may hold up the others of its runtime thread.
const REST: Duration = Duration::from_secs(1);

/// The segment that is written.
struct Present {
    file: Arc<dyn Writing>,
    bytes: u64,
    /// It is the reserve: there is no other until the disk has room again.
    is_reserve: bool,
}

/// Whoever has the lock on it writes: a call that finds it free, and the thread otherwise.
pub(super) struct Writer {
    queue: Arc<Queue>,
    config: JournalConfig,
    present: Option<Present>,
    /// The number of the next segment.
    number: u64,
    /// What the next segment begins with.
    next: Next,
    bytes: Vec<u8>,
    /// `bytes` are not written yet.
    unwritten: Option<Batch>,
    /// Until then the disk is too slow for calls to write by themselves.
    slow_until: Option<Instant>,
}

impl Writer {
    pub(super) fn new(queue: Arc<Queue>, config: JournalConfig) -> Writer {
        let number = queue.segments().last().map_or(1, |last| last.number + 1);
        let (next, _) = queue.end();
        let (bytes, unwritten, slow_until) = (Vec::new(), None, None);
        Writer { queue, config, present: None, number, next, bytes, unwritten, slow_until }
    }

    /// What the thread does: everything that takes time, and what nobody else has written.
    pub(super) fn run(writer: &Mutex<Writer>, queue: &Queue) {
        if let Err(error) = writer.lock().fill_reserve() {
            queue.ill("keeping room for a full disk", &error);
        }
        loop {
            match queue.next() {
                Order::Write => {
                    if !writer.lock().write() {
                        break;
                    }
                }
                Order::Sync => queue.sync(),
                Order::Probe => writer.lock().probe(),
                Order::Stop => break,
            }
        }
        if writer.lock().config.fsync != Fsync::Always {
            queue.sync();
        }
    }

    /// Writes what waits, if that is a mere copy into the kernel's memory: the segment is begun and
    /// has room, nobody waits for the disk, and the disk was not slow of late.
    pub(super) fn write_at_once(&mut self) {
        let is_ready =
            |present: &Present| present.is_reserve || present.bytes < self.config.segment_bytes;
        if self.config.fsync == Fsync::Always
            || self.unwritten.is_some()
            || !self.present.as_ref().is_some_and(is_ready)
            || self.queue.must_rotate()
        {
            return;
        }
        let since = Instant::now();
        if self.slow_until.is_some_and(|until| since < until) {
            return;
        }
        self.slow_until = None;
        self.unwritten = self.queue.take(&mut self.bytes);
        let Some(batch) = self.unwritten else { return };
        // What went wrong is for the thread to find out again, and to deal with.
        if self.try_write().is_ok() {
            self.wrote(batch);
        }
        let now = Instant::now();
        if now.duration_since(since) > SLOW {
            self.slow_until = Some(now + REST);
        }
    }

    /// Writes what waits, however long it takes. False if the process ends before.
    fn write(&mut self) -> bool {
        if self.unwritten.is_none() {
            self.unwritten = self.queue.take(&mut self.bytes);
        }
        let Some(batch) = self.unwritten else { return true };
        while let Err(error) = self.try_write() {
            self.queue.ill("writing", &error);
            self.present = None;
            if self.begin_reserve().is_ok() {
                continue;
            }
            if !self.queue.give_up_for_now() {
                tracing::error!(
                    bytes = self.bytes.len(),
                    "stopped with spend that is not in the journal: open calls are charged whole"
                );
                return false;
            }
        }
        self.wrote(batch);
        true
    }

    fn wrote(&mut self, batch: Batch) {
        self.unwritten = None;
        self.next = batch.next;
        if let Some(present) = &self.present {
            self.queue.wrote(batch, present.bytes, &present.file);
        }
        if self.bytes.capacity() > 1024 * 1024 {
            self.bytes = Vec::new();
        }
    }

    fn try_write(&mut self) -> io::Result<()> {
        let full =
            |present: &Present| !present.is_reserve && present.bytes >= self.config.segment_bytes;
        if self.present.as_ref().is_none_or(full) || self.queue.must_rotate() {
            self.present = Some(self.begin(false, false)?);
        }
        let Some(present) = &mut self.present else { return Ok(()) };
        present.file.write_at(&self.bytes, present.bytes)?;
        if self.config.fsync == Fsync::Always {
            present.file.sync()?;
        }
        present.bytes += self.bytes.len() as u64;
        Ok(())
    }

    fn segment(&self) -> Segment {
        Segment {
            number: self.number,
            bytes: 0,
            next_call: self.next.call,
            next_seq: self.next.seq,
            damaged: false,
        }
    }

    /// Begins a segment.
    fn begin(&mut self, is_reserve: bool, sync: bool) -> io::Result<Present> {
        let mut segment = self.segment();
        let path = segment.path(&self.config.folder);
        if is_reserve {
            self.config.files.rename(&self.reserve(), &path)?;
        }
        let file = self.config.files.open(&path)?;
        // From here on the name is taken, whatever happens.
        self.number += 1;
        let head =
            Head { next_call: self.next.call, next_seq: self.next.seq, from_reserve: is_reserve };
        let mut bytes = Vec::new();
        codec::head(&mut bytes, self.queue.salt(), head);
        let written = file.write_at(&bytes, 0);
        let written = written.and_then(|()| if sync { file.sync() } else { Ok(()) });
        if let Err(error) = written {
            if !is_reserve {
                let _ = self.config.files.remove(&path);
            }
            return Err(error);
        }
        if self.config.fsync != Fsync::None {
            self.config.files.sync_folder(&self.config.folder)?;
        }
        segment.bytes = bytes.len() as u64;
        self.queue.began(segment);
        Ok(Present { file, bytes: segment.bytes, is_reserve })
    }

    // ---------------------------------------------------------------------------------- a full disk

    fn reserve(&self) -> PathBuf {
        self.config.folder.join("reserve")
    }

    /// Goes on in the room that was kept.
    fn begin_reserve(&mut self) -> io::Result<()> {
        self.present = Some(self.begin(true, false)?);
        Ok(())
    }

    /// Keeps room: a file of zeros, which becomes a segment when no other can be had.
    fn fill_reserve(&self) -> io::Result<()> {
        let path = self.reserve();
        let wanted = self.config.reserve_bytes;
        if wanted == 0 || std::fs::metadata(&path).is_ok_and(|there| there.len() == wanted) {
            return Ok(());
        }
        let new = path.with_extension("new");
        let files = &self.config.files;
        let filled = files.open(&new).and_then(|file| {
            let mut at = 0;
            while at < wanted {
                let piece = (wanted - at).min(ZEROS.len() as u64);
                file.write_at(&ZEROS[..piece as usize], at)?;
                at += piece;
            }
            file.sync()
        });
        let filled = filled.and_then(|()| files.rename(&new, &path));
        if filled.is_err() {
            let _ = files.remove(&new);
        }
        filled
    }

    /// Sees whether the disk has room for all that is needed to go on as if nothing had happened.
    fn probe(&mut self) {
        let tried = self.fill_reserve().and_then(|()| {
            // A disk that writes but does not sync is not well yet.
            self.begin(false, true)
        });
        match tried {
            Ok(present) => {
                self.present = Some(present);
                self.queue.well();
            }
            Err(error) => self.queue.ill("writing", &error),
        }
    }
}
