//! What is found in the segments when a process starts.

use std::collections::{HashMap, HashSet};
use std::fs::OpenOptions;
use std::io;
use std::path::Path;

use tollway_filter_api::ledger::SpendRecord;
use tollway_wire::price::PicoDollars;
use tollway_wire::usage::Usage;

use super::codec::{self, Event, Kind};
use super::identity::Identity;
use super::queue::Segment;
use super::reader::{self, Pieces};

/// A piece of a segment that could not be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    /// The segment's number.
    pub segment: u64,
    /// Where it begins.
    pub from: u64,
    /// Where it ends.
    pub to: u64,
}

/// A call that was open.
#[derive(Clone, Debug)]
pub(crate) struct OpenCall {
    pub(crate) call: u64,
    /// The most it can cost.
    pub(crate) amount: PicoDollars,
    pub(crate) draft: SpendRecord,
    /// What had streamed.
    pub(crate) progress: Option<(PicoDollars, Usage)>,
}

/// What the segments hold.
#[derive(Debug, Default)]
pub(crate) struct Found {
    pub(crate) segments: Vec<Segment>,
    /// In the order in which they were opened.
    pub(crate) open: Vec<OpenCall>,
    /// The highest number of a settlement.
    pub(crate) last_seq: u64,
    /// Settlements that the ledger has perhaps not had.
    pub(crate) backlog: u64,
    pub(crate) records: u64,
    /// Good records that make no sense: a later version's.
    pub(crate) unreadable: u64,
    pub(crate) torn: Vec<Piece>,
    pub(crate) damaged: Vec<Piece>,
}

/// What is known of a call while the segments are read. Payloads are understood only in the end:
/// few calls are open then.
#[derive(Default)]
struct Known {
    reserve: Vec<u8>,
    amount: u64,
    progress: Option<(PicoDollars, Usage)>,
}

#[derive(Default)]
struct Reading {
    found: Found,
    calls: HashMap<u64, Known>,
    /// A batch that was written twice, because the disk was full at first, must not open a call
    /// again.
    settled: HashSet<u64>,
    place: u64,
}

/// Reads all segments of a folder.
pub(super) fn read(folder: &Path, identity: &Identity) -> io::Result<Found> {
    let mut numbers = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let name = entry?.file_name();
        let Some(name) = name.to_str() else { continue };
        if let Some(number) = name.strip_suffix(".seg")
            && number.len() == 16
            && let Ok(number) = u64::from_str_radix(number, 16)
        {
            numbers.push(number);
        }
    }
    numbers.sort_unstable();
    let mut reading = Reading { place: identity.place, ..Reading::default() };
    let last = numbers.last().copied();
    for number in numbers {
        reading.segment(folder, identity, number, Some(number) == last)?;
    }
    Ok(reading.done())
}

impl Reading {
    fn segment(
        &mut self,
        folder: &Path,
        identity: &Identity,
        number: u64,
        is_last: bool,
    ) -> io::Result<()> {
        let mut segment = Segment { number, bytes: 0, next_call: 0, next_seq: 0, damaged: false };
        let path = segment.path(folder);
        let length = std::fs::metadata(&path)?.len();
        segment.bytes = length;
        let mut pieces = Pieces::open(&path, identity.salt, 0)?;
        let mut from_reserve = false;
        let mut cut = None;
        let mut more = length > 0;
        while more {
            more = pieces.next(length, |found| match found {
                reader::Found::Record(payload) => {
                    from_reserve |= self.record(payload, &mut segment);
                }
                reader::Found::Damage { from, to } => {
                    segment.damaged = true;
                    self.found.damaged.push(Piece { segment: number, from, to });
                }
                reader::Found::Torn { from, zeros } => {
                    cut = Some(from);
                    // Room that was kept and not needed is no loss.
                    if !(zeros && from_reserve) {
                        self.found.torn.push(Piece { segment: number, from, to: length });
                    }
                }
            })?;
        }
        if let Some(from) = cut {
            segment.bytes = from;
            if is_last && let Ok(file) = OpenOptions::new().write(true).open(&path) {
                // If it cannot be cut it is passed over.
                let _ = file.set_len(from);
            }
        }
        self.found.segments.push(segment);
        Ok(())
    }

    /// Takes note of a record. True of the head of a segment that is made of the reserve.
    fn record(&mut self, payload: &[u8], segment: &mut Segment) -> bool {
        self.found.records += 1;
        let kind = codec::kind(payload);
        if let Some(Kind::Reserve { call } | Kind::Note { call } | Kind::End { call, .. }) = kind {
            segment.next_call = segment.next_call.max(call.saturating_add(1));
        }
        match kind {
            Some(Kind::Head) => {
                if let Some(Event::Head(head)) = codec::decode(payload) {
                    segment.next_call = segment.next_call.max(head.next_call);
                    segment.next_seq = segment.next_seq.max(head.next_seq);
                    return head.from_reserve;
                }
                self.found.unreadable += 1;
            }
            Some(Kind::Reserve { call }) => {
                if !self.settled.contains(&call) {
                    self.calls.entry(call).or_default().reserve = payload.to_vec();
                }
            }
            Some(Kind::Note { call }) => {
                if !self.settled.contains(&call) {
                    self.note(call, payload);
                }
            }
            Some(Kind::End { call, seq }) => {
                self.calls.remove(&call);
                self.settled.insert(call);
                if let Some(seq) = seq {
                    segment.next_seq = segment.next_seq.max(seq.saturating_add(1));
                    // A batch that was written twice counts once.
                    if seq > self.found.last_seq {
                        self.found.last_seq = seq;
                        self.found.backlog += u64::from(seq > self.place);
                    }
                }
            }
            None => self.found.unreadable += 1,
        }
        false
    }

    fn note(&mut self, call: u64, payload: &[u8]) {
        let known = self.calls.entry(call).or_default();
        match codec::decode(payload) {
            Some(Event::Extend { amount, .. }) => known.amount = known.amount.max(amount.0),
            Some(Event::Progress { cost, usage, .. })
                if known.progress.is_none_or(|(before, _)| before <= cost) =>
            {
                known.progress = Some((cost, usage));
            }
            Some(_) => {}
            None => self.found.unreadable += 1,
        }
    }

    fn done(mut self) -> Found {
        for (call, known) in self.calls {
            let (mut amount, mut draft) = (known.amount, SpendRecord::default());
            match codec::decode(&known.reserve) {
                Some(Event::Reserve { amount: at_first, at_ms, draft: said, .. }) => {
                    amount = amount.max(at_first.0);
                    draft = *said;
                    if draft.started_ms == 0 {
                        draft.started_ms = at_ms;
                    }
                }
                // Its reservation was in a damaged piece: nobody knows whose call it was, but not
                // what it cost.
                _ if amount > 0 || known.progress.is_some() => {}
                _ => {
                    self.found.unreadable += 1;
                    continue;
                }
            }
            let amount = PicoDollars(amount);
            self.found.open.push(OpenCall { call, amount, draft, progress: known.progress });
        }
        self.found.open.sort_by_key(|open| open.call);
        self.found
    }
}
