//! Copies of answers that pass, until it is known whether they are kept.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use bytes::Bytes;

/// How much room is made at a time for a stream, whose length nobody knows. It is not moved when
/// there is more: streams are long and many.
const BLOCK_BYTES: usize = 4 * 1024;

/// Bytes that all copies together may still take.
pub(super) struct Budget {
    left: AtomicUsize,
}

impl Budget {
    pub(super) fn new(bytes: usize) -> Arc<Budget> {
        Arc::new(Budget { left: AtomicUsize::new(bytes) })
    }

    fn take(&self, bytes: usize) -> bool {
        self.left.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(bytes)).is_ok()
    }
}

/// The copy of one answer. Not the pieces themselves: the small pieces of a stream are parts of
/// larger read buffers, which they would keep alive until its end.
pub(super) struct Recording {
    budget: Arc<Budget>,
    taken: usize,
    blocks: Vec<Vec<u8>>,
    length: usize,
}

impl Recording {
    pub(super) fn new(budget: &Arc<Budget>) -> Recording {
        Recording { budget: Arc::clone(budget), taken: 0, blocks: Vec::new(), length: 0 }
    }

    pub(super) fn length(&self) -> usize {
        self.length
    }

    /// Copies the next piece; there are more to come if it is `streamed`. False where there is no
    /// room for it.
    #[must_use]
    pub(super) fn add(&mut self, piece: &[u8], streamed: bool) -> bool {
        let room = self.blocks.last().map_or(0, |block| block.capacity() - block.len());
        let (here, rest) = piece.split_at(room.min(piece.len()));
        if !rest.is_empty() {
            // An answer that comes in one piece is kept in one of the same length.
            let more = if streamed { rest.len().max(BLOCK_BYTES) } else { rest.len() };
            if !self.budget.take(more) {
                return false;
            }
            self.taken += more;
        }
        if let Some(block) = self.blocks.last_mut() {
            block.extend_from_slice(here);
        }
        if !rest.is_empty() {
            let least = if streamed { BLOCK_BYTES } else { 0 };
            let mut block = Vec::with_capacity(rest.len().max(least));
            block.extend_from_slice(rest);
            self.blocks.push(block);
        }
        self.length += piece.len();
        true
    }

    /// All of it, in memory no larger than it.
    pub(super) fn into_bytes(mut self) -> Bytes {
        match self.blocks.as_mut_slice() {
            [one] if one.len() == one.capacity() => std::mem::take(one).into(),
            blocks => blocks.concat().into(),
        }
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        self.budget.left.fetch_add(self.taken, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_come_out_as_they_went_in() {
        let budget = Budget::new(100_000);
        let mut recording = Recording::new(&budget);
        let mut expect = Vec::new();
        for length in [1, 4_000, 200, 0, 9_000, 3, 4_096] {
            let piece = vec![b'a' + (length % 26) as u8; length];
            assert!(recording.add(&piece, true));
            expect.extend(piece);
        }
        assert_eq!(recording.length(), expect.len());
        let bytes = recording.into_bytes();
        assert_eq!(bytes, expect);
        assert_eq!(Vec::from(bytes).capacity(), expect.len());
    }

    #[test]
    fn all_together_stay_within_the_budget() {
        let budget = Budget::new(2 * BLOCK_BYTES);
        let mut first = Recording::new(&budget);
        let mut second = Recording::new(&budget);
        assert!(first.add(b"x", true));
        assert!(second.add(b"x", true));
        assert!(!first.add(&[b'x'; BLOCK_BYTES], true));
        drop(second);
        assert!(first.add(&[b'x'; BLOCK_BYTES], true));
        drop(first);
        assert!(budget.take(2 * BLOCK_BYTES));
    }
}
