//! Reading segments, whole ones and damaged ones.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::codec::{self, HEADER, PAYLOAD_MAX, Salt};

/// What is found in a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found<'a> {
    /// A good record's payload.
    Record(&'a [u8]),
    /// Bytes that are no record, with good records after them.
    Damage {
        /// Where they begin.
        from: u64,
        /// Where the next record does.
        to: u64,
    },
    /// Bytes at the end that are no record: what was being written when the process or the machine
    /// stopped.
    Torn {
        /// Where they begin.
        from: u64,
        /// They are nothing but zeros.
        zeros: bool,
    },
}

/// Walks the records of a segment, or of a part of one that begins at a record.
#[derive(Debug)]
pub struct Scan<'a> {
    bytes: &'a [u8],
    salt: Salt,
    at: usize,
    /// Where `bytes` begins in its segment.
    offset: u64,
}

impl<'a> Scan<'a> {
    /// Walks `bytes`.
    pub fn new(bytes: &'a [u8], salt: Salt) -> Scan<'a> {
        Scan { bytes, salt, at: 0, offset: 0 }
    }

    fn place(&self, at: usize) -> u64 {
        self.offset + at as u64
    }
}

impl<'a> Iterator for Scan<'a> {
    type Item = Found<'a>;

    fn next(&mut self) -> Option<Found<'a>> {
        let rest = self.bytes.get(self.at..).filter(|rest| !rest.is_empty())?;
        if let Some(payload) = codec::payload(rest, self.salt) {
            self.at += HEADER + payload.len();
            return Some(Found::Record(payload));
        }
        let from = self.at;
        let good = |at: &usize| codec::payload(&self.bytes[*at..], self.salt).is_some();
        if let Some(to) = (from + 1..self.bytes.len().saturating_sub(HEADER)).find(good) {
            self.at = to;
            return Some(Found::Damage { from: self.place(from), to: self.place(to) });
        }
        self.at = self.bytes.len();
        Some(Found::Torn { from: self.place(from), zeros: rest.iter().all(|byte| *byte == 0) })
    }
}

/// Reads a segment piece by piece, so that memory does not grow with it.
#[derive(Debug)]
pub(crate) struct Pieces {
    file: File,
    salt: Salt,
    /// The next record begins here.
    pub(crate) at: u64,
}

/// How much is read at once. At least twice the longest record, so that one always fits.
const PIECE: usize = 2 * 1024 * 1024;
const RECORD_MAX: usize = HEADER + PAYLOAD_MAX;

impl Pieces {
    pub(crate) fn open(path: &Path, salt: Salt, at: u64) -> io::Result<Pieces> {
        Ok(Pieces { file: File::open(path)?, salt, at })
    }

    /// Shows what the next piece holds, none of it beyond `end`. False when `end` was reached.
    pub(crate) fn next(&mut self, end: u64, mut on: impl FnMut(Found<'_>)) -> io::Result<bool> {
        let left = end.saturating_sub(self.at);
        if left == 0 {
            return Ok(false);
        }
        let is_last = left <= PIECE as u64;
        let mut bytes = vec![0; if is_last { left as usize } else { PIECE }];
        self.file.read_exact_at(&mut bytes, self.at)?;
        let piece_end = self.at + bytes.len() as u64;
        let scan = Scan { bytes: &bytes, salt: self.salt, at: 0, offset: self.at };
        let mut at = piece_end;
        for found in scan {
            if let (Found::Torn { from, .. }, false) = (found, is_last) {
                // What no record begins in is shown; what may be one cut in two is read again.
                let cut = from.max(piece_end - RECORD_MAX as u64);
                if cut > from {
                    on(Found::Damage { from, to: cut });
                }
                at = cut;
                break;
            }
            on(found);
        }
        self.at = at;
        Ok(!is_last)
    }
}
