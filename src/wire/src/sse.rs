//! Server-sent events: cutting a stream into events, reading them, writing them.
//!
//! Follows the WHATWG specification (<https://html.spec.whatwg.org/multipage/server-sent-events.html>,
//! read 2026-11). [`Splitter`] cuts and nothing more, for the path where bytes pass through;
//! [`Parser`] also reads name and data, for the path where they are translated. Neither copies an
//! event that lies whole in one read, and neither holds more than its limit.

use std::ops::Range;

use bytes::Bytes;
use memchr::{memchr, memchr2};

/// The largest event that is accepted unless the caller says otherwise: 8 MiB. Providers send
/// images and whole tool arguments in one event, but no honest one sends more than this.
pub const MAX_EVENT_BYTES: usize = 8 << 20;

/// An event, or a line of it, is longer than the limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a server-sent event is longer than {limit} bytes")]
pub struct TooLong {
    /// The limit that was passed.
    pub limit: usize,
}

/// One event, as the specification would dispatch it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event<'a> {
    /// The `event` field; empty where there was none, which means `message`.
    pub name: &'a [u8],
    /// The `data` field; several are joined by a line feed.
    pub data: &'a [u8],
}

/// Finds where blocks end, that is, the byte after a blank line. Keeps what it must know of the
/// bytes before, so that it can go on in the middle of anything, a CRLF included.
#[derive(Clone, Copy, Debug)]
struct Boundary {
    /// Nothing stands on the current line so far.
    blank: bool,
    /// The last byte seen was a CR, so an LF that follows belongs to the same line end.
    after_cr: bool,
}

impl Boundary {
    const START: Boundary = Boundary { blank: true, after_cr: false };

    /// The end of the block that `bytes` begin or continue, if they hold it.
    fn find(&mut self, bytes: &[u8]) -> Option<usize> {
        let mut at = 0;
        if self.after_cr && !bytes.is_empty() {
            self.after_cr = false;
            at = usize::from(bytes[0] == b'\n');
        }
        loop {
            let rest = &bytes[at..];
            let Some(offset) = memchr2(b'\n', b'\r', rest) else {
                self.blank &= rest.is_empty();
                return None;
            };
            let mut next = at + offset + 1;
            if rest[offset] == b'\r' {
                match bytes.get(next) {
                    Some(b'\n') => next += 1,
                    Some(_) => {}
                    None => self.after_cr = true,
                }
            }
            let was_blank = self.blank && offset == 0;
            self.blank = true;
            if was_blank {
                return Some(next);
            }
            at = next;
        }
    }
}

/// Cuts a stream into blocks: one event each, with the blank line that ends it. Put together, the
/// blocks are the stream, byte by byte.
///
/// Where a CRLF is cut between two reads, its LF begins the next block; a reader takes it for an
/// empty line, which means nothing.
#[derive(Debug)]
pub struct Splitter {
    boundary: Boundary,
    held: Vec<u8>,
    limit: usize,
}

impl Default for Splitter {
    fn default() -> Self {
        Self::new(MAX_EVENT_BYTES)
    }
}

impl Splitter {
    /// Starts on a new stream whose events are at most `limit` bytes long.
    pub fn new(limit: usize) -> Self {
        Splitter { boundary: Boundary::START, held: Vec::new(), limit }
    }

    /// Takes the next bytes and gives `each` the blocks they complete.
    ///
    /// # Errors
    /// What `each` returns, or [`TooLong`]. The stream cannot be continued after an error.
    pub fn push<E: From<TooLong>>(
        &mut self,
        bytes: &Bytes,
        mut each: impl FnMut(Bytes) -> Result<(), E>,
    ) -> Result<(), E> {
        self.split(bytes, |block| match block {
            Block::Here(range) => each(bytes.slice(range)),
            Block::Joined(joined) => each(Bytes::from(joined)),
        })
    }

    /// As [`Splitter::push`], for a caller that wants to know where in `bytes` a block lies.
    ///
    /// # Errors
    /// What `each` returns, or [`TooLong`]. The stream cannot be continued after an error.
    pub fn split<E: From<TooLong>>(
        &mut self,
        bytes: &[u8],
        mut each: impl FnMut(Block) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut at = 0;
        if !self.held.is_empty() {
            let Some(end) = self.boundary.find(bytes) else {
                return Ok(hold(&mut self.held, bytes, self.limit)?);
            };
            hold(&mut self.held, &bytes[..end], self.limit)?;
            at = end;
            each(Block::Joined(std::mem::take(&mut self.held)))?;
        }
        while at < bytes.len() {
            let Some(end) = self.boundary.find(&bytes[at..]) else {
                return Ok(hold(&mut self.held, &bytes[at..], self.limit)?);
            };
            if end > self.limit {
                return Err(TooLong { limit: self.limit }.into());
            }
            each(Block::Here(at..at + end))?;
            at += end;
        }
        Ok(())
    }

    /// What has arrived of a block that is not complete.
    pub fn held(&self) -> &[u8] {
        &self.held
    }

    /// Ends the stream: the bytes of the block that was not completed.
    pub fn take_held(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.held)
    }
}

/// A block as [`Splitter::split`] finds it.
#[derive(Debug)]
pub enum Block {
    /// Whole in the bytes that were pushed.
    Here(Range<usize>),
    /// Begun in bytes pushed before, and put together.
    Joined(Vec<u8>),
}

fn hold(held: &mut Vec<u8>, bytes: &[u8], limit: usize) -> Result<(), TooLong> {
    if bytes.len() > limit.saturating_sub(held.len()) {
        return Err(TooLong { limit });
    }
    held.extend_from_slice(bytes);
    Ok(())
}

/// Reads a stream event by event.
#[derive(Debug)]
pub struct Parser {
    boundary: Boundary,
    held: Vec<u8>,
    joined: Vec<u8>,
    limit: usize,
    first: bool,
}

impl Default for Parser {
    fn default() -> Self {
        Self::new(MAX_EVENT_BYTES)
    }
}

impl Parser {
    /// Starts on a new stream whose events are at most `limit` bytes long.
    pub fn new(limit: usize) -> Self {
        Parser {
            boundary: Boundary::START,
            held: Vec::new(),
            joined: Vec::new(),
            limit,
            first: true,
        }
    }

    /// Takes the next bytes, cut anywhere, and gives `each` the events they complete.
    ///
    /// # Errors
    /// What `each` returns, or [`TooLong`]. The stream cannot be continued after an error.
    pub fn push<E: From<TooLong>>(
        &mut self,
        bytes: &[u8],
        mut each: impl FnMut(Event<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut at = 0;
        if !self.held.is_empty() {
            match self.boundary.find(bytes) {
                Some(end) => {
                    hold(&mut self.held, &bytes[..end], self.limit)?;
                    at = end;
                    let block = without_bom(&self.held, &mut self.first);
                    if let Some(event) = read_block(block, &mut self.joined) {
                        each(event)?;
                    }
                    self.held.clear();
                }
                None => return Ok(hold(&mut self.held, bytes, self.limit)?),
            }
        }
        while at < bytes.len() {
            match self.boundary.find(&bytes[at..]) {
                Some(end) => {
                    if end > self.limit {
                        return Err(TooLong { limit: self.limit }.into());
                    }
                    let block = without_bom(&bytes[at..at + end], &mut self.first);
                    at += end;
                    if let Some(event) = read_block(block, &mut self.joined) {
                        each(event)?;
                    }
                }
                None => {
                    hold(&mut self.held, &bytes[at..], self.limit)?;
                    break;
                }
            }
        }
        Ok(())
    }

    /// What has arrived of an event that is not complete. The specification discards it when the
    /// stream ends.
    pub fn held(&self) -> &[u8] {
        &self.held
    }
}

/// Takes the byte order mark off the first block of a stream.
fn without_bom<'a>(block: &'a [u8], first: &mut bool) -> &'a [u8] {
    if std::mem::take(first) { block.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(block) } else { block }
}

/// Reads one block. `None` where it has no `data`, which the specification does not dispatch.
/// `joined` is where several data lines are put together.
pub fn read_block<'a>(block: &'a [u8], joined: &'a mut Vec<u8>) -> Option<Event<'a>> {
    if let Some(data) = only_data(block) {
        return Some(Event { name: b"", data });
    }
    let mut name: &[u8] = b"";
    let mut data: Option<&[u8]> = None;
    let mut several = false;
    for line in lines(block) {
        let Some((field, value)) = field(line) else { continue };
        match field {
            b"data" => match data {
                None => data = Some(value),
                Some(first) => {
                    if !several {
                        several = true;
                        joined.clear();
                        joined.extend_from_slice(first);
                    }
                    joined.push(b'\n');
                    joined.extend_from_slice(value);
                }
            },
            b"event" => name = value,
            // `id` and `retry` are for browsers that reconnect; nobody here does.
            _ => {}
        }
    }
    let data = if several { joined.as_slice() } else { data? };
    Some(Event { name, data })
}

/// The data of a block that is one line of it and the blank line, as nearly all are.
fn only_data(block: &[u8]) -> Option<&[u8]> {
    let value = block.strip_prefix(b"data:")?;
    let end = memchr2(b'\n', b'\r', value)?;
    let value = matches!(&value[end..], b"\n\n" | b"\r\n\r\n").then_some(&value[..end])?;
    Some(value.strip_prefix(b" ").unwrap_or(value))
}

/// Whether every line of a block is something the specification knows: a comment or one of its
/// four fields. HTML and bare JSON are not, although the specification would skip them in silence.
pub fn is_event_block(block: &[u8]) -> bool {
    lines(block).all(|line| match field(line) {
        None => true,
        Some((name, _)) => matches!(name, b"data" | b"event" | b"id" | b"retry"),
    })
}

/// The lines of a block, without their ends.
fn lines(block: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = block;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let Some(end) = memchr2(b'\n', b'\r', rest) else {
            return Some(std::mem::take(&mut rest));
        };
        let line = &rest[..end];
        let crlf = rest[end] == b'\r' && rest.get(end + 1) == Some(&b'\n');
        rest = &rest[end + 1 + usize::from(crlf)..];
        Some(line)
    })
}

/// A line's field name and value. `None` for a blank line or a comment.
fn field(line: &[u8]) -> Option<(&[u8], &[u8])> {
    match memchr(b':', line) {
        Some(0) => None,
        Some(colon) => {
            let value = &line[colon + 1..];
            Some((&line[..colon], value.strip_prefix(b" ").unwrap_or(value)))
        }
        None if line.is_empty() => None,
        None => Some((line, b"")),
    }
}

/// Appends an event that carries `json`, which must be on one line.
pub fn write_data(out: &mut Vec<u8>, json: &[u8]) {
    out.reserve(json.len() + 8);
    out.extend_from_slice(b"data: ");
    out.extend_from_slice(json);
    out.extend_from_slice(b"\n\n");
}

/// The event that ends a stream of OpenAI's.
pub const DONE: &[u8] = b"data: [DONE]\n\n";

/// Appends the event that ends a stream of OpenAI's.
pub fn write_done(out: &mut Vec<u8>) {
    out.extend_from_slice(DONE);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    type Events = Vec<(Vec<u8>, Vec<u8>)>;

    fn parse_in(pieces: &[&[u8]]) -> Result<Events, TooLong> {
        let mut parser = Parser::default();
        let mut events = Vec::new();
        for piece in pieces {
            parser.push(piece, |event| {
                events.push((event.name.to_vec(), event.data.to_vec()));
                Ok::<_, TooLong>(())
            })?;
        }
        Ok(events)
    }

    fn check(stream: &str, expect: &[(&str, &str)]) {
        let expect: Events =
            expect.iter().map(|(n, d)| (n.as_bytes().to_vec(), d.as_bytes().to_vec())).collect();
        assert_eq!(parse_in(&[stream.as_bytes()]), Ok(expect.clone()), "whole: {stream:?}");
        let bytes: Vec<&[u8]> = stream.as_bytes().chunks(1).collect();
        assert_eq!(parse_in(&bytes), Ok(expect), "byte by byte: {stream:?}");
    }

    #[test]
    fn events_are_read_as_the_specification_says() {
        check("data: one\n\ndata:two\n\n", &[("", "one"), ("", "two")]);
        check("event: ping\ndata: {}\n\n", &[("ping", "{}")]);
        check("data: a\r\n\r\ndata: b\r\r", &[("", "a"), ("", "b")]);
        check("data: a\r\ndata: b\n\n", &[("", "a\nb")]);
        check("data:  two spaces\n\n", &[("", " two spaces")]);
        check(": a comment\n\n:another\ndata: x\n\n", &[("", "x")]);
        check("\u{FEFF}data: x\n\n\u{FEFF}data: y\n\n", &[("", "x")]);
        check("data\n\n", &[("", "")]);
        check("data\ndata\n\n", &[("", "\n")]);
        check("event: only a name\n\ndata: x\n\n", &[("", "x")]);
        check("id: 7\nretry: 3000\ndata: x\nunknown: y\n\n", &[("", "x")]);
        check("\n\n\ndata: x\n\n", &[("", "x")]);
        check("data: never finished\n", &[]);
        check("", &[]);
    }

    #[test]
    fn an_event_above_the_limit_is_refused_and_not_kept() {
        let mut parser = Parser::new(64);
        let nothing = |_: Event<'_>| Ok::<_, TooLong>(());
        assert_eq!(parser.push(&[b'x'; 60], nothing), Ok(()));
        assert_eq!(parser.push(&[b'x'; 60], nothing), Err(TooLong { limit: 64 }));
        assert_eq!(parser.held().len(), 60);
        let mut splitter = Splitter::new(64);
        let long = Bytes::from(format!("data: {}\n\n", "y".repeat(80)));
        assert_eq!(splitter.push(&long, |_| Ok(())), Err(TooLong { limit: 64 }));
    }

    #[test]
    fn a_whole_event_is_not_copied() {
        let read = Bytes::from_static(b"data: 1\n\ndata: 2\n\n");
        let mut starts = Vec::new();
        let split = Splitter::default().push(&read, |block| {
            starts.push(block.as_ptr() as usize - read.as_ptr() as usize);
            Ok::<_, TooLong>(())
        });
        assert_eq!((split, starts), (Ok(()), vec![0, 9]));
    }

    #[test]
    fn what_is_no_event_stream_is_told_apart() {
        assert!(is_event_block(b": comment\nevent: x\ndata: {}\n\n"));
        assert!(is_event_block(b"\r\n"));
        assert!(!is_event_block(b"<html>\n\n"));
        assert!(!is_event_block(b"{\"error\": {}}\n\n"));
    }

    /// Streams made of the pieces that matter, so that cuts fall in interesting places.
    fn streams() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop::sample::select(vec![
            "data", ":", " ", "x", "\n", "\r", "\r\n", "\n\n", "event: e", "data: {}", "\u{FEFF}",
        ]);
        prop::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat().into_bytes())
    }

    proptest! {
        #[test]
        fn any_split_of_a_stream_yields_the_same_events(
            stream in streams(),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
        ) {
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(stream.len() + 1)).collect();
            cuts.sort_unstable();
            let mut pieces = Vec::new();
            let mut from = 0;
            for cut in cuts.into_iter().chain([stream.len()]) {
                pieces.push(&stream[from..cut]);
                from = cut;
            }
            prop_assert_eq!(parse_in(&pieces), parse_in(&[&stream]));

            let mut splitter = Splitter::default();
            let mut joined = Vec::new();
            for piece in &pieces {
                let split = splitter.push(&Bytes::copy_from_slice(piece), |block| {
                    joined.extend_from_slice(&block);
                    Ok::<_, TooLong>(())
                });
                prop_assert_eq!(split, Ok(()));
            }
            joined.extend_from_slice(splitter.held());
            prop_assert_eq!(joined, stream);
        }
    }
}
