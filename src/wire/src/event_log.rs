//! A log of what a stream has said, to be read again: by those who join later, by a cache.
//!
//! The events of a stream are alike: OpenAI's repeat their id, model and time two hundred bytes long
//! around a word of text. So a piece is kept as what differs from the one before it:
//!
//! ```text
//! same at the start:varint  same at the end:varint  length of what differs:varint  what differs
//! ```
//! A tenth of the bytes is left of a usual stream, and the copy costs no more than the bytes it saves.
//! That is also the form in which a finished stream is kept, as [`Packed`].

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use bytes::Bytes;
use memchr::memmem;

use crate::varint;

const EVENT_END: &[u8] = b"\n\n";

/// How much room is made at a time: at least, and at most. Blocks are never moved when there is more.
const BLOCK_BYTES_MIN: usize = 512;
const BLOCK_BYTES_MAX: usize = 16 * 1024;
/// Larger pieces are kept as they are: comparing them finds little, and the last one is held twice.
const COMPARED_BYTES_MAX: usize = 1024;
const HEAD_BYTES_MAX: usize = 3 * varint::BYTES_MAX;

/// How many bytes all logs together may still take.
#[derive(Debug)]
pub struct Budget {
    left: AtomicUsize,
}

impl Budget {
    /// A budget of so many bytes.
    pub fn new(bytes: usize) -> Arc<Budget> {
        Arc::new(Budget { left: AtomicUsize::new(bytes) })
    }

    fn take(&self, bytes: usize) -> bool {
        self.left.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(bytes)).is_ok()
    }

    fn give_back(&self, bytes: usize) {
        self.left.fetch_add(bytes, Relaxed);
    }
}

/// What a stream has said, piece by piece. It only grows.
#[derive(Debug)]
pub struct EventLog {
    budget: Arc<Budget>,
    /// Taken out of the budget.
    held: usize,
    blocks: Vec<Vec<u8>>,
    /// The last piece, if it may be compared with.
    last: Vec<u8>,
    length: usize,
    /// A piece had no room.
    is_cut: bool,
}

/// There is no room for more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the log is full")]
pub struct Full;

impl EventLog {
    /// An empty one, whose memory comes out of `budget`.
    pub fn new(budget: &Arc<Budget>) -> EventLog {
        EventLog {
            budget: Arc::clone(budget),
            held: 0,
            blocks: Vec::new(),
            last: Vec::new(),
            length: 0,
            is_cut: false,
        }
    }

    /// Whether it has all that was pushed.
    pub fn is_whole(&self) -> bool {
        !self.is_cut
    }

    /// How many bytes it stands for.
    pub fn length(&self) -> usize {
        self.length
    }

    /// How many bytes it takes.
    pub fn held(&self) -> usize {
        self.held
    }

    /// Adds a piece.
    ///
    /// # Errors
    /// When the budget has no room for it. The log stays what it was, and is no longer whole.
    pub fn push(&mut self, piece: &[u8]) -> Result<(), Full> {
        if piece.is_empty() {
            return Ok(());
        }
        let start = same_at_the_start(&self.last, piece);
        let end = same_at_the_end(&self.last[start..], &piece[start..]);
        let differs = &piece[start..piece.len() - end];
        let block = self.block_for(HEAD_BYTES_MAX + differs.len())?;
        for number in [start, end, differs.len()] {
            varint::put(block, number as u64);
        }
        block.extend_from_slice(differs);
        keep_last(&mut self.last, piece);
        self.length += piece.len();
        Ok(())
    }

    /// Forgets everything. Nobody may have begun to read.
    pub fn clear(&mut self) {
        self.is_cut = true;
        self.budget.give_back(std::mem::take(&mut self.held));
        self.blocks = Vec::new();
        self.last = Vec::new();
        self.length = 0;
    }

    /// A block with so much room.
    fn block_for(&mut self, bytes: usize) -> Result<&mut Vec<u8>, Full> {
        let room = self.blocks.last().map_or(0, |block| block.capacity() - block.len());
        if room < bytes {
            let doubled = self.blocks.last().map_or(BLOCK_BYTES_MIN, |block| block.capacity() * 2);
            let size = doubled.min(BLOCK_BYTES_MAX).max(bytes);
            if !self.budget.take(size) {
                self.is_cut = true;
                return Err(Full);
            }
            self.held += size;
            self.blocks.push(Vec::with_capacity(size));
        }
        self.blocks.last_mut().ok_or(Full)
    }

    /// All that has come, to be kept.
    pub fn packed(&self) -> Packed {
        Packed { pieces: Bytes::from(self.blocks.concat()), length: self.length }
    }

    /// All that has come since `reader` was here last. Empty if there is nothing new.
    pub fn read(&self, reader: &mut Reader) -> Bytes {
        let mut out = Vec::with_capacity(self.length - reader.length);
        while let Some(block) = self.blocks.get(reader.block) {
            while let Some(after) = reader.piece(&block[reader.at..], &mut out) {
                reader.at += after;
            }
            if reader.block + 1 == self.blocks.len() {
                break;
            }
            reader.block += 1;
            reader.at = 0;
        }
        reader.length += out.len();
        let mut new = Bytes::from(out);
        while reader.skips > 0
            && let Some(end) = memmem::find(&new, EVENT_END)
        {
            new = new.slice(end + EVENT_END.len()..);
            reader.skips -= 1;
        }
        new
    }
}

impl Drop for EventLog {
    fn drop(&mut self) {
        self.budget.give_back(self.held);
    }
}

/// What a stream has said, as little of it as tells all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packed {
    pieces: Bytes,
    length: usize,
}

impl Packed {
    /// Of what [`Packed::pieces`] and [`Packed::length`] were. Whether the two fit is seen when they are
    /// unpacked.
    pub fn new(pieces: Bytes, length: usize) -> Packed {
        Packed { pieces, length }
    }

    /// The differences between its pieces.
    pub fn pieces(&self) -> &Bytes {
        &self.pieces
    }

    /// How many bytes it stands for.
    pub fn length(&self) -> usize {
        self.length
    }

    /// What the stream has said. `None` if that is damaged.
    pub fn unpack(&self) -> Option<Bytes> {
        // No more is believed than what a usual stream has.
        let mut out = Vec::with_capacity(self.length.min(64 * self.pieces.len()));
        let mut reader = Reader::default();
        let mut rest = &self.pieces[..];
        while !rest.is_empty() {
            rest = &rest[reader.piece(rest, &mut out)?..];
            if out.len() > self.length {
                return None;
            }
        }
        (out.len() == self.length).then(|| Bytes::from(out))
    }
}

/// How far somebody has read a log.
#[derive(Clone, Debug, Default)]
pub struct Reader {
    block: usize,
    at: usize,
    last: Vec<u8>,
    length: usize,
    /// Events that are not wanted.
    skips: u64,
}

impl Reader {
    /// One that reads on behind the first `events`, where each piece is of whole events.
    pub fn behind(events: u64) -> Reader {
        Reader { skips: events, ..Reader::default() }
    }

    /// How many bytes it has read.
    pub fn length(&self) -> usize {
        self.length
    }

    /// Puts back one piece. How many bytes of the block it took; `None` at the end of what is there.
    fn piece(&mut self, block: &[u8], out: &mut Vec<u8>) -> Option<usize> {
        let mut rest = block;
        let mut take = || usize::try_from(varint::take(&mut rest)?).ok();
        let [start, end, differs] = [take()?, take()?, take()?];
        let (differs, rest) = rest.split_at_checked(differs)?;
        let from = out.len();
        out.extend_from_slice(self.last.get(..start)?);
        out.extend_from_slice(differs);
        out.extend_from_slice(self.last.get(self.last.len().checked_sub(end)?..)?);
        keep_last(&mut self.last, &out[from..]);
        Some(block.len() - rest.len())
    }
}

/// Remembers a piece that the next one may be like.
fn keep_last(last: &mut Vec<u8>, piece: &[u8]) {
    last.clear();
    if piece.len() <= COMPARED_BYTES_MAX {
        last.extend_from_slice(piece);
    }
}

fn same_at_the_start(a: &[u8], b: &[u8]) -> usize {
    let words = a.as_chunks::<16>().0.iter().zip(b.as_chunks::<16>().0);
    let same = 16 * words.take_while(|(a, b)| a == b).count();
    same + a[same..].iter().zip(&b[same..]).take_while(|(a, b)| a == b).count()
}

fn same_at_the_end(a: &[u8], b: &[u8]) -> usize {
    let words = a.as_rchunks::<16>().1.iter().rev().zip(b.as_rchunks::<16>().1.iter().rev());
    let same = 16 * words.take_while(|(a, b)| a == b).count();
    let (a, b) = (&a[..a.len() - same], &b[..b.len() - same]);
    same + a.iter().rev().zip(b.iter().rev()).take_while(|(a, b)| a == b).count()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn event(word: &str) -> Vec<u8> {
        format!(
            "data: {{\"id\":\"chatcmpl-8f2b60d1c4\",\"object\":\"chat.completion.chunk\",\
             \"created\":1790000000,\"model\":\"gpt-4o-mini\",\"choices\":[{{\"index\":0,\
             \"delta\":{{\"content\":\"{word}\"}},\"finish_reason\":null}}]}}\n\n"
        )
        .into_bytes()
    }

    #[test]
    fn usual_stream_takes_a_tenth() {
        let mut log = EventLog::new(&Budget::new(1 << 20));
        for number in 0..500 {
            log.push(&event(&format!(" word{number}"))).unwrap();
        }
        assert!(log.held() * 8 < log.length(), "{} of {}", log.held(), log.length());
    }

    #[test]
    fn all_logs_together_stay_within_the_budget() {
        let budget = Budget::new(2 * BLOCK_BYTES_MIN);
        let mut first = EventLog::new(&budget);
        let mut second = EventLog::new(&budget);
        let piece = [b'x'; BLOCK_BYTES_MIN - HEAD_BYTES_MAX];
        first.push(&piece).unwrap();
        second.push(&piece).unwrap();
        let other = [b'y'; BLOCK_BYTES_MIN];
        assert_eq!(first.push(&other), Err(Full));
        assert_eq!(first.read(&mut Reader::default()), &piece[..]);
        drop((first, second));
        assert!(budget.take(2 * BLOCK_BYTES_MIN));
    }

    #[test]
    fn reader_goes_on_behind_the_events_it_had() {
        let mut log = EventLog::new(&Budget::new(1 << 20));
        let mut reader = Reader::behind(2);
        log.push(&event("one")).unwrap();
        assert!(log.read(&mut reader).is_empty());
        log.push(&[event("two"), event("three")].concat()).unwrap();
        assert_eq!(log.read(&mut reader), event("three"));
        log.push(&event("four")).unwrap();
        assert_eq!(log.read(&mut reader), event("four"));
    }

    fn any_piece() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![
            4 => "[a-c ]{0,8}".prop_map(|word| event(&word)),
            1 => prop::collection::vec(prop::sample::select(b"ab".to_vec()), 0..40),
            1 => prop::collection::vec(any::<u8>(), 0..3000),
        ]
    }

    proptest! {
        #[test]
        fn pieces_come_out_as_they_went_in(
            pieces in prop::collection::vec(any_piece(), 0..60),
            reads in prop::collection::vec(any::<bool>(), 60),
        ) {
            let mut log = EventLog::new(&Budget::new(1 << 20));
            let (mut early, mut had) = (Reader::default(), Vec::new());
            for (piece, reads) in pieces.iter().zip(reads) {
                prop_assert_eq!(log.push(piece), Ok(()));
                if reads {
                    had.extend_from_slice(&log.read(&mut early));
                    prop_assert_eq!(had.len(), log.length());
                }
            }
            had.extend_from_slice(&log.read(&mut early));
            prop_assert_eq!(&had, &pieces.concat());
            prop_assert_eq!(log.packed().length(), had.len());
            prop_assert_eq!(log.packed().unpack(), Some(Bytes::from(had.clone())));
            prop_assert_eq!(log.read(&mut Reader::default()), had);
            prop_assert!(log.read(&mut early).is_empty());
        }

        #[test]
        fn damaged_pieces_are_no_stream(
            pieces in prop::collection::vec(any_piece(), 1..20),
            (at, byte) in (any::<prop::sample::Index>(), any::<u8>()),
            off in prop::sample::select(vec![-1, 1]),
        ) {
            let mut log = EventLog::new(&Budget::new(1 << 20));
            for piece in &pieces {
                prop_assert_eq!(log.push(piece), Ok(()));
            }
            let packed = log.packed();
            prop_assume!(packed.length() > 0);
            let cut = packed.pieces().slice(..at.index(packed.pieces().len()));
            prop_assert_eq!(Packed::new(cut, packed.length()).unpack(), None);
            let other = packed.length().wrapping_add_signed(off);
            prop_assert_eq!(Packed::new(packed.pieces().clone(), other).unpack(), None);
            let mut damaged = packed.pieces().to_vec();
            damaged[at.index(packed.pieces().len())] = byte;
            if let Some(text) = Packed::new(damaged.into(), packed.length()).unpack() {
                prop_assert_eq!(text.len(), packed.length());
            }
        }
    }
}
