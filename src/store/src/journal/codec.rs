//! How records look in the journal.
//!
//! A record is the length of its payload (`u32`, little endian), a CRC-32C of the payload (`u32`) and
//! the payload: its kind, the version of its form, two check bytes, and numbers and texts one after
//! another. Numbers are LEB128, a text is its length and its bytes, and what may be missing is
//! preceded by 0 or 1. What a later version adds goes to the end: where a payload ends early, the rest is nothing.
//!
//! CRC and check bytes begin with a number that is drawn for each folder. Texts of strangers are in
//! records; without that number none of them can be made to look like a record of its own where a
//! damaged piece is searched for the next good one.

use std::sync::Arc;

use crc_fast::{CrcAlgorithm, Digest};
use tollway_filter_api::ledger::SpendRecord;
use tollway_wire::price::PicoDollars;
use tollway_wire::usage::Usage;
use tollway_wire::varint;

/// Length and CRC.
pub(crate) const HEADER: usize = 8;
/// Kind, version and check bytes.
const PREFIX: usize = 4;
const VERSION: u8 = 1;
/// No payload is longer: texts are cut at [`TEXT_MAX`], lists at [`LIST_MAX`].
pub(crate) const PAYLOAD_MAX: usize = 512 * 1024;
/// Texts are names and ids. What is longer is nonsense, and is cut.
const TEXT_MAX: usize = 4096;
const LIST_MAX: usize = 64;

/// The number that a folder's checksums begin with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Salt(pub u32);

impl Salt {
    fn crc(self, payload: &[u8]) -> u32 {
        let mut digest = Digest::new_with_init_state(CrcAlgorithm::Crc32Iscsi, self.0.into());
        digest.update(payload);
        digest.finalize() as u32
    }

    /// Lets nearly every wrong place be passed over without a look at its payload.
    fn check(self, length: u32) -> [u8; 2] {
        let crc = self.crc(&length.to_le_bytes());
        [crc as u8, (crc >> 8) as u8]
    }
}

/// A record of the journal.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// The first of a segment.
    Head(Head),
    /// A call was opened.
    Reserve {
        /// Which of the node's calls.
        call: u64,
        /// The most it can cost.
        amount: PicoDollars,
        /// When, in milliseconds since the Unix epoch.
        at_ms: u64,
        /// What its record is made of if nobody lives to write it.
        draft: Box<SpendRecord>,
    },
    /// More was reserved for a call.
    Extend {
        /// Which.
        call: u64,
        /// All that is reserved for it now.
        amount: PicoDollars,
    },
    /// A call has streamed so far.
    Progress {
        /// Which.
        call: u64,
        /// What that costs.
        cost: PicoDollars,
        /// What it took.
        usage: Usage,
    },
    /// A call is over, and paid for.
    Settle {
        /// Which.
        call: u64,
        /// The record's place in the ledger: the node's settlements, in their order.
        seq: u64,
        /// What the ledger gets.
        record: Box<SpendRecord>,
    },
    /// A call was never made.
    Cancel {
        /// Which.
        call: u64,
    },
}

/// What a segment begins with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Head {
    /// Calls from here on are in this segment or later ones.
    pub next_call: u64,
    /// Settlements from here on are in this segment or later ones.
    pub next_seq: u64,
    /// The segment is made of the room that was kept for a full disk: zeros at its end were never
    /// written.
    pub from_reserve: bool,
}

/// Appends a record.
fn frame(out: &mut Vec<u8>, salt: Salt, kind: u8, body: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend_from_slice(&[0; HEADER]);
    out.extend_from_slice(&[kind, VERSION, 0, 0]);
    body(out);
    seal(out, start, salt);
}

fn seal(out: &mut [u8], start: usize, salt: Salt) {
    let (header, payload) = out[start..].split_at_mut(HEADER);
    // Far below 4 GiB: texts and lists are cut.
    let length = payload.len() as u32;
    payload[2..PREFIX].copy_from_slice(&salt.check(length));
    header[..4].copy_from_slice(&length.to_le_bytes());
    header[4..].copy_from_slice(&salt.crc(payload).to_le_bytes());
}

/// Appends a payload that was read before, as it is.
pub(crate) fn copy(out: &mut Vec<u8>, salt: Salt, payload: &[u8]) {
    let start = out.len();
    out.extend_from_slice(&[0; HEADER]);
    out.extend_from_slice(payload);
    seal(out, start, salt);
}

pub(crate) fn head(out: &mut Vec<u8>, salt: Salt, head: Head) {
    frame(out, salt, 1, |out| {
        varint::put(out, head.next_call);
        varint::put(out, head.next_seq);
        out.push(u8::from(head.from_reserve));
    });
}

/// Appends the opening of a call: its number, what it may cost and when that was reserved. The payload
/// that was written, for [`decode`].
pub(crate) fn reserve<'a>(
    out: &'a mut Vec<u8>,
    salt: Salt,
    (call, amount, at_ms): (u64, PicoDollars, u64),
    draft: &SpendRecord,
    started_ms: u64,
) -> &'a [u8] {
    let start = out.len();
    frame(out, salt, 2, |out| {
        varint::put(out, call);
        varint::put(out, amount.0);
        varint::put(out, at_ms);
        put_record(out, draft, started_ms);
    });
    &out[start + HEADER..]
}

pub(crate) fn extend(out: &mut Vec<u8>, salt: Salt, call: u64, amount: PicoDollars) {
    frame(out, salt, 3, |out| {
        varint::put(out, call);
        varint::put(out, amount.0);
    });
}

pub(crate) fn progress(out: &mut Vec<u8>, salt: Salt, call: u64, cost: PicoDollars, usage: &Usage) {
    frame(out, salt, 4, |out| {
        varint::put(out, call);
        varint::put(out, cost.0);
        put_usage(out, usage);
    });
}

pub(crate) fn settle(out: &mut Vec<u8>, salt: Salt, call: u64, seq: u64, record: &SpendRecord) {
    frame(out, salt, 5, |out| {
        varint::put(out, call);
        varint::put(out, seq);
        put_record(out, record, record.started_ms);
    });
}

pub(crate) fn cancel(out: &mut Vec<u8>, salt: Salt, call: u64) {
    frame(out, salt, 6, |out| varint::put(out, call));
}

/// Appends any record.
pub fn encode(out: &mut Vec<u8>, salt: Salt, event: &Event) {
    match event {
        Event::Head(said) => head(out, salt, *said),
        Event::Reserve { call, amount, at_ms, draft } => {
            reserve(out, salt, (*call, *amount, *at_ms), draft, draft.started_ms);
        }
        Event::Extend { call, amount } => extend(out, salt, *call, *amount),
        Event::Progress { call, cost, usage } => progress(out, salt, *call, *cost, usage),
        Event::Settle { call, seq, record } => settle(out, salt, *call, *seq, record),
        Event::Cancel { call } => cancel(out, salt, *call),
    }
}

/// The payload of the record at the beginning of `bytes`, if there is a good one.
pub(crate) fn payload(bytes: &[u8], salt: Salt) -> Option<&[u8]> {
    let (header, rest) = bytes.split_at_checked(HEADER)?;
    let (length, crc) = header.split_at(4);
    let length = u32::from_le_bytes(length.try_into().ok()?);
    if !(PREFIX..=PAYLOAD_MAX).contains(&(length as usize)) {
        return None;
    }
    let payload = rest.get(..length as usize)?;
    let good = payload[2..PREFIX] == salt.check(length)
        && crc == salt.crc(payload).to_le_bytes().as_slice();
    good.then_some(payload)
}

/// What a payload is about. Quicker than [`decode`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Head,
    Reserve {
        call: u64,
    },
    /// Something about a call that is open.
    Note {
        call: u64,
    },
    /// A call is over; with the record's place in the ledger if it was made.
    End {
        call: u64,
        seq: Option<u64>,
    },
}

pub(crate) fn kind(payload: &[u8]) -> Option<Kind> {
    let (prefix, mut rest) = payload.split_at_checked(PREFIX)?;
    if prefix[1] != VERSION {
        return None;
    }
    let from = &mut rest;
    Some(match prefix[0] {
        1 => Kind::Head,
        2 => Kind::Reserve { call: varint::take(from)? },
        3 | 4 => Kind::Note { call: varint::take(from)? },
        5 => Kind::End { call: varint::take(from)?, seq: Some(varint::take(from)?) },
        6 => Kind::End { call: varint::take(from)?, seq: None },
        _ => return None,
    })
}

/// What a payload says. `None` where it makes no sense, or was written by a later version.
pub fn decode(payload: &[u8]) -> Option<Event> {
    let (prefix, mut rest) = payload.split_at_checked(PREFIX)?;
    if prefix[1] != VERSION {
        return None;
    }
    let from = &mut rest;
    Some(match prefix[0] {
        1 => Event::Head(Head {
            next_call: varint::take(from)?,
            next_seq: varint::take(from)?,
            from_reserve: take_byte(from)? != 0,
        }),
        2 => Event::Reserve {
            call: varint::take(from)?,
            amount: PicoDollars(varint::take(from)?),
            at_ms: varint::take(from)?,
            draft: Box::new(take_record(from)?),
        },
        3 => Event::Extend { call: varint::take(from)?, amount: PicoDollars(varint::take(from)?) },
        4 => Event::Progress {
            call: varint::take(from)?,
            cost: PicoDollars(varint::take(from)?),
            usage: take_usage(from)?,
        },
        5 => Event::Settle {
            call: varint::take(from)?,
            seq: varint::take(from)?,
            record: Box::new(take_record(from)?),
        },
        6 => Event::Cancel { call: varint::take(from)? },
        _ => return None,
    })
}

// ------------------------------------------------------------------------------- numbers and texts

fn take_byte(from: &mut &[u8]) -> Option<u8> {
    let (first, rest) = from.split_first()?;
    *from = rest;
    Some(*first)
}

fn text(out: &mut Vec<u8>, text: &str) {
    let text = &text[..text.floor_char_boundary(TEXT_MAX)];
    varint::put(out, text.len() as u64);
    out.extend_from_slice(text.as_bytes());
}

fn take_text(from: &mut &[u8]) -> Option<Arc<str>> {
    let length = usize::try_from(varint::take(from)?).ok()?;
    let (text, rest) = from.split_at_checked(length)?;
    *from = rest;
    std::str::from_utf8(text).ok().map(Arc::from)
}

fn maybe_text(out: &mut Vec<u8>, said: Option<&Arc<str>>) {
    out.push(u8::from(said.is_some()));
    if let Some(said) = said {
        text(out, said);
    }
}

fn take_maybe_text(from: &mut &[u8]) -> Option<Option<Arc<str>>> {
    match take_byte(from)? {
        0 => Some(None),
        _ => take_text(from).map(Some),
    }
}

// --------------------------------------------------------------------------------------- the record

/// A mask of the counts that are not zero, and those.
fn put_usage(out: &mut Vec<u8>, usage: &Usage) {
    let counts = usage.counts();
    let mask =
        counts.iter().enumerate().fold(0, |mask, (at, count)| mask | u64::from(*count > 0) << at);
    varint::put(out, mask);
    counts.into_iter().filter(|count| *count > 0).for_each(|count| varint::put(out, count));
}

fn take_usage(from: &mut &[u8]) -> Option<Usage> {
    let mask = varint::take(from)?;
    let mut usage = Usage::default();
    let mut counts = usage.counts_mut();
    for at in 0..64 {
        if mask >> at & 1 == 1 {
            let count = varint::take(from)?;
            if let Some(known) = counts.get_mut(at) {
                **known = count;
            }
        }
    }
    Some(usage)
}

fn put_record(out: &mut Vec<u8>, record: &SpendRecord, started_ms: u64) {
    // Without `..`, so that a new field is not forgotten.
    let SpendRecord {
        request_id,
        operation,
        key,
        key_alias,
        user,
        team,
        end_user,
        tags,
        group,
        model,
        model_id,
        provider,
        api_base,
        started_ms: _,
        first_byte_ms,
        ended_ms,
        usage,
        usage_estimated,
        cost,
        unpriced,
        cache_hit,
        status,
        client,
    } = record;
    for said in [request_id, operation, key, group, model, model_id, provider, api_base] {
        text(out, said);
    }
    for said in [key_alias, user, team, end_user, client] {
        maybe_text(out, said.as_ref());
    }
    let tags = &tags[..tags.len().min(LIST_MAX)];
    varint::put(out, tags.len() as u64);
    tags.iter().for_each(|tag| text(out, tag));
    varint::put(out, started_ms);
    // Times after the start are small numbers.
    varint::put(out, first_byte_ms.map_or(0, |at| at.saturating_sub(started_ms).saturating_add(1)));
    varint::put(out, ended_ms.saturating_sub(started_ms));
    put_usage(out, usage);
    varint::put(out, cost.0);
    varint::put(out, u64::from(*status));
    out.push(u8::from(*usage_estimated) | u8::from(*unpriced) << 1 | u8::from(*cache_hit) << 2);
}

fn take_record(from: &mut &[u8]) -> Option<SpendRecord> {
    let mut record = SpendRecord {
        request_id: take_text(from)?,
        operation: take_text(from)?,
        key: take_text(from)?,
        group: take_text(from)?,
        model: take_text(from)?,
        model_id: take_text(from)?,
        provider: take_text(from)?,
        api_base: take_text(from)?,
        key_alias: take_maybe_text(from)?,
        user: take_maybe_text(from)?,
        team: take_maybe_text(from)?,
        end_user: take_maybe_text(from)?,
        client: take_maybe_text(from)?,
        ..SpendRecord::default()
    };
    let tags = varint::take(from)?;
    if tags > LIST_MAX as u64 {
        return None;
    }
    for _ in 0..tags {
        record.tags.push(take_text(from)?);
    }
    record.started_ms = varint::take(from)?;
    let first_byte = varint::take(from)?;
    record.first_byte_ms =
        first_byte.checked_sub(1).map(|after| record.started_ms.saturating_add(after));
    record.ended_ms = record.started_ms.saturating_add(varint::take(from)?);
    record.usage = take_usage(from)?;
    record.cost = PicoDollars(varint::take(from)?);
    record.status = u16::try_from(varint::take(from)?).ok()?;
    let flags = take_byte(from)?;
    record.usage_estimated = flags & 1 != 0;
    record.unpriced = flags & 2 != 0;
    record.cache_hit = flags & 4 != 0;
    Some(record)
}
