//! Amazon's binary event stream, `application/vnd.amazon.eventstream`: cutting bytes into messages,
//! reading them, writing them.
//!
//! A message is its length (4 bytes, big endian, everything included), the length of its headers
//! (4), the CRC-32 of these eight bytes (4), the headers, the payload, and the CRC-32 of all that
//! (4). A header is a name (length in 1 byte), a type (1) and a value. Facts from
//! <https://smithy.io/2.0/aws/amazon-eventstream.html>, read 2026-11.
//!
//! Both checksums are checked: a stream that was damaged on its way is an error and no event.
//! Nothing is held but the one message that is not complete, and that within the limit.

/// The largest message that is accepted unless the caller says otherwise: 16 MiB, the limit of
/// AWS's own C library.
pub const MAX_MESSAGE_BYTES: usize = 16 << 20;

/// The most bytes the headers of a message may take: 128 KiB, as the format has it.
pub const MAX_HEADERS_BYTES: usize = 128 << 10;

/// Two lengths and their checksum.
const PRELUDE_BYTES: usize = 12;
/// The checksum at the end.
const CHECKSUM_BYTES: usize = 4;
const OVERHEAD_BYTES: usize = PRELUDE_BYTES + CHECKSUM_BYTES;

/// The type of a header whose value is text.
const TEXT: u8 = 7;

/// Why bytes are no event stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// A message is longer than the limit.
    #[error("a message of the event stream is longer than {limit} bytes")]
    TooLong {
        /// The limit that was passed.
        limit: usize,
    },
    /// The lengths contradict each other.
    #[error("a message of the event stream has lengths that cannot be")]
    Length,
    /// The bytes are not those that were sent.
    #[error("a message of the event stream has a wrong checksum")]
    Checksum,
    /// The headers do not follow the format.
    #[error("a message of the event stream has headers that cannot be read")]
    Header,
}

/// A header's value. What nobody reads here keeps its bytes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum HeaderValue<'a> {
    /// Types 0 and 1.
    Bool(bool),
    /// Types 2 to 5: signed integers of 1, 2, 4 and 8 bytes.
    Integer(i64),
    /// Type 6.
    Bytes(&'a [u8]),
    /// Type 7. UTF-8 by the format, but not checked.
    Text(&'a [u8]),
    /// Type 8: milliseconds since the Unix epoch.
    Timestamp(i64),
    /// Type 9.
    Uuid([u8; 16]),
}

/// One message.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    /// Checked when the message was read.
    headers: &'a [u8],
    /// What it carries: JSON, for Bedrock.
    pub payload: &'a [u8],
}

impl<'a> Message<'a> {
    /// Its headers, in their order.
    pub fn headers(&self) -> impl Iterator<Item = (&'a [u8], HeaderValue<'a>)> {
        let mut rest = self.headers;
        std::iter::from_fn(move || {
            if rest.is_empty() {
                return None;
            }
            read_header(&mut rest).ok()
        })
    }

    /// The text of a header; empty where there is none of that name, or it is no text.
    pub fn text(&self, name: &str) -> &'a [u8] {
        let value = self.headers().find(|(key, _)| *key == name.as_bytes());
        match value {
            Some((_, HeaderValue::Text(text))) => text,
            _ => b"",
        }
    }
}

/// Takes the next `N` bytes off the front.
fn take<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], FrameError> {
    let (bytes, after) = rest.split_first_chunk().ok_or(FrameError::Header)?;
    *rest = after;
    Ok(*bytes)
}

/// Takes bytes off the front whose length stands before them in two bytes.
fn take_sized<'a>(rest: &mut &'a [u8]) -> Result<&'a [u8], FrameError> {
    let length = u16::from_be_bytes(take(rest)?);
    take_slice(rest, usize::from(length))
}

fn take_slice<'a>(rest: &mut &'a [u8], length: usize) -> Result<&'a [u8], FrameError> {
    let (bytes, after) = rest.split_at_checked(length).ok_or(FrameError::Header)?;
    *rest = after;
    Ok(bytes)
}

fn read_header<'a>(rest: &mut &'a [u8]) -> Result<(&'a [u8], HeaderValue<'a>), FrameError> {
    let [length] = take(rest)?;
    if length == 0 {
        return Err(FrameError::Header);
    }
    let name = take_slice(rest, usize::from(length))?;
    let [kind] = take(rest)?;
    let value = match kind {
        0 => HeaderValue::Bool(true),
        1 => HeaderValue::Bool(false),
        2 => HeaderValue::Integer(i8::from_be_bytes(take(rest)?).into()),
        3 => HeaderValue::Integer(i16::from_be_bytes(take(rest)?).into()),
        4 => HeaderValue::Integer(i32::from_be_bytes(take(rest)?).into()),
        5 => HeaderValue::Integer(i64::from_be_bytes(take(rest)?)),
        6 => HeaderValue::Bytes(take_sized(rest)?),
        TEXT => HeaderValue::Text(take_sized(rest)?),
        8 => HeaderValue::Timestamp(i64::from_be_bytes(take(rest)?)),
        9 => HeaderValue::Uuid(take(rest)?),
        _ => return Err(FrameError::Header),
    };
    Ok((name, value))
}

fn number(bytes: &[u8], at: usize) -> u32 {
    let four = bytes.get(at..at + 4).and_then(|four| four.try_into().ok());
    four.map(u32::from_be_bytes).unwrap_or_default()
}

/// The length of the message that begins with these bytes. `None` while its prelude is not there.
fn message_length(bytes: &[u8], limit: usize) -> Result<Option<usize>, FrameError> {
    let Some(prelude) = bytes.get(..PRELUDE_BYTES) else { return Ok(None) };
    // First the checksum: damaged lengths say nothing.
    if crc32fast::hash(&prelude[..8]) != number(prelude, 8) {
        return Err(FrameError::Checksum);
    }
    let (total, headers) = (number(prelude, 0) as usize, number(prelude, 4) as usize);
    if total > limit {
        return Err(FrameError::TooLong { limit });
    }
    if headers > MAX_HEADERS_BYTES {
        return Err(FrameError::TooLong { limit: MAX_HEADERS_BYTES });
    }
    if total < OVERHEAD_BYTES || headers > total - OVERHEAD_BYTES {
        return Err(FrameError::Length);
    }
    Ok(Some(total))
}

/// Reads one whole message whose prelude has been checked.
fn read_message(bytes: &[u8]) -> Result<Message<'_>, FrameError> {
    let end = bytes.len() - CHECKSUM_BYTES;
    if crc32fast::hash(&bytes[..end]) != number(bytes, end) {
        return Err(FrameError::Checksum);
    }
    let (headers, payload) = bytes[PRELUDE_BYTES..end].split_at(number(bytes, 4) as usize);
    let mut rest = headers;
    while !rest.is_empty() {
        read_header(&mut rest)?;
    }
    Ok(Message { headers, payload })
}

/// Reads a stream message by message.
#[derive(Debug)]
pub struct Parser {
    held: Vec<u8>,
    limit: usize,
}

impl Default for Parser {
    fn default() -> Self {
        Self::new(MAX_MESSAGE_BYTES)
    }
}

impl Parser {
    /// Starts on a new stream whose messages are at most `limit` bytes long.
    pub fn new(limit: usize) -> Self {
        Parser { held: Vec::new(), limit }
    }

    /// Takes the next bytes, cut anywhere, and gives `each` the messages they complete. A message
    /// that lies whole in `bytes` is not copied.
    ///
    /// # Errors
    /// What `each` returns, or [`FrameError`]. The stream cannot be continued after an error.
    pub fn push<E: From<FrameError>>(
        &mut self,
        mut bytes: &[u8],
        mut each: impl FnMut(Message<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        if !self.held.is_empty() {
            self.hold_up_to(PRELUDE_BYTES, &mut bytes);
            let Some(length) = message_length(&self.held, self.limit)? else { return Ok(()) };
            self.hold_up_to(length, &mut bytes);
            if self.held.len() < length {
                return Ok(());
            }
            each(read_message(&self.held)?)?;
            self.held.clear();
        }
        while let Some(length) = message_length(bytes, self.limit)? {
            let Some((message, rest)) = bytes.split_at_checked(length) else { break };
            each(read_message(message)?)?;
            bytes = rest;
        }
        self.held.extend_from_slice(bytes);
        Ok(())
    }

    /// Moves bytes over until `length` are held.
    fn hold_up_to(&mut self, length: usize, bytes: &mut &[u8]) {
        let missing = length.saturating_sub(self.held.len()).min(bytes.len());
        let (now, later) = bytes.split_at(missing);
        self.held.extend_from_slice(now);
        *bytes = later;
    }

    /// What has arrived of a message that is not complete.
    pub fn held(&self) -> &[u8] {
        &self.held
    }
}

/// Appends a message with these headers, all of them text. What the format cannot hold is cut off:
/// names after 255 bytes, values after 65535.
pub fn write_message(out: &mut Vec<u8>, headers: &[(&str, &str)], payload: &[u8]) {
    let start = out.len();
    out.extend_from_slice(&[0; PRELUDE_BYTES]);
    for (name, value) in headers {
        let name = &name.as_bytes()[..name.len().min(usize::from(u8::MAX))];
        let value = &value.as_bytes()[..value.len().min(usize::from(u16::MAX))];
        out.push(name.len() as u8);
        out.extend_from_slice(name);
        out.push(TEXT);
        out.extend_from_slice(&(value.len() as u16).to_be_bytes());
        out.extend_from_slice(value);
    }
    let headers = out.len() - start - PRELUDE_BYTES;
    out.extend_from_slice(payload);
    let total = out.len() - start + CHECKSUM_BYTES;
    out[start..start + 4].copy_from_slice(&(total as u32).to_be_bytes());
    out[start + 4..start + 8].copy_from_slice(&(headers as u32).to_be_bytes());
    let prelude = crc32fast::hash(&out[start..start + 8]);
    out[start + 8..start + 12].copy_from_slice(&prelude.to_be_bytes());
    let checksum = crc32fast::hash(&out[start..]);
    out.extend_from_slice(&checksum.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    type Read = Vec<(Vec<(Vec<u8>, String)>, Vec<u8>)>;

    fn read(limit: usize, pieces: &[&[u8]]) -> (Read, Result<(), FrameError>, usize) {
        let mut parser = Parser::new(limit);
        let mut messages = Vec::new();
        let mut result = Ok(());
        for piece in pieces {
            result = result.and_then(|()| {
                parser.push(piece, |message| {
                    let headers = message.headers();
                    let headers =
                        headers.map(|(name, value)| (name.to_vec(), format!("{value:?}")));
                    messages.push((headers.collect(), message.payload.to_vec()));
                    Ok::<_, FrameError>(())
                })
            });
        }
        (messages, result, parser.held().len())
    }

    fn message(headers: &[u8], payload: &[u8]) -> Vec<u8> {
        let total = (OVERHEAD_BYTES + headers.len() + payload.len()) as u32;
        let mut out = [total.to_be_bytes(), (headers.len() as u32).to_be_bytes()].concat();
        out.extend_from_slice(&crc32fast::hash(&out).to_be_bytes());
        out.extend_from_slice(headers);
        out.extend_from_slice(payload);
        out.extend_from_slice(&crc32fast::hash(&out).to_be_bytes());
        out
    }

    /// The vectors that AWS publishes with its SDKs (`aws-c-event-stream`,
    /// `botocore/tests/unit/test_eventstream.py`): an empty message, and one with a payload.
    #[test]
    fn published_messages_are_read() {
        let empty = [0, 0, 0, 0x10, 0, 0, 0, 0, 5, 0xc2, 0x48, 0xeb, 0x7d, 0x98, 0xc8, 0xff];
        assert_eq!(read(100, &[&empty]), (vec![(vec![], vec![])], Ok(()), 0));
        let payload = b"\x00\x00\x00\x1d\x00\x00\x00\x00\xfdR\x8cZ{'foo':'bar'}\xc3e96";
        assert_eq!(read(100, &[payload]), (vec![(vec![], b"{'foo':'bar'}".to_vec())], Ok(()), 0));
        let mut written = Vec::new();
        write_message(&mut written, &[], b"{'foo':'bar'}");
        assert_eq!(written, payload);
    }

    #[test]
    fn every_type_of_header_is_read() {
        let mut headers = Vec::new();
        for (name, kind, value) in [
            ("t", 0, b"".as_slice()),
            ("f", 1, b""),
            ("byte", 2, b"\xff"),
            ("short", 3, b"\x01\x00"),
            ("int", 4, b"\xff\xff\xff\xfe"),
            ("long", 5, b"\x00\x00\x00\x00\x00\x00\x00\x09"),
            ("bytes", 6, b"\x00\x02\x00\x01"),
            ("text", 7, b"\x00\x02hi"),
            ("time", 8, b"\x00\x00\x00\x00\x00\x00\x00\x01"),
            ("uuid", 9, b"0123456789abcdef"),
        ] {
            headers.push(name.len() as u8);
            headers.extend_from_slice(name.as_bytes());
            headers.push(kind);
            headers.extend_from_slice(value);
        }
        let bytes = message(&headers, b"x");
        let (messages, result, _) = read(1000, &[&bytes]);
        assert_eq!(result, Ok(()));
        let values: Vec<&str> = messages[0].0.iter().map(|(_, value)| value.as_str()).collect();
        let expect = [
            "Bool(true)",
            "Bool(false)",
            "Integer(-1)",
            "Integer(256)",
            "Integer(-2)",
            "Integer(9)",
            "Bytes([0, 1])",
            "Text([104, 105])",
            "Timestamp(1)",
        ];
        assert_eq!(values[..9], expect);
        assert!(values[9].starts_with("Uuid([48, 49,"));
    }

    #[test]
    fn what_is_wrong_is_told() {
        let mut good = Vec::new();
        write_message(&mut good, &[(":event-type", "chunk")], b"{}");
        for at in [0, 5, 9] {
            let mut bad = good.clone();
            bad[at] ^= 1;
            assert_eq!(read(1000, &[&bad]).1, Err(FrameError::Checksum), "byte {at}");
        }
        let mut bad = good.clone();
        let last = bad.len() - 6;
        bad[last] ^= 1;
        assert_eq!(read(1000, &[&bad]).1, Err(FrameError::Checksum));
        assert_eq!(read(20, &[&good]).1, Err(FrameError::TooLong { limit: 20 }));
        for headers in [b"\x00".as_slice(), b"\x05ab", b"\x01a\x0a", b"\x01a\x07\x00\x09x", b"\x01"]
        {
            assert_eq!(read(1000, &[&message(headers, b"")]).1, Err(FrameError::Header));
        }
        let lengths = |total: u32, headers: u32| {
            let mut out = [total.to_be_bytes(), headers.to_be_bytes()].concat();
            out.extend_from_slice(&crc32fast::hash(&out).to_be_bytes());
            out
        };
        assert_eq!(read(1000, &[&lengths(15, 0)]).1, Err(FrameError::Length));
        assert_eq!(read(1000, &[&lengths(20, 5)]).1, Err(FrameError::Length));
        let limit = MAX_HEADERS_BYTES;
        let (total, headers) = (MAX_MESSAGE_BYTES as u32, limit as u32 + 1);
        assert_eq!(
            read(MAX_MESSAGE_BYTES, &[&lengths(total, headers)]).1,
            Err(FrameError::TooLong { limit })
        );
    }

    #[test]
    fn a_message_that_is_not_complete_is_held() {
        let mut bytes = Vec::new();
        write_message(&mut bytes, &[("a", "b")], b"payload");
        assert_eq!(read(1000, &[&bytes[..bytes.len() - 1]]), (vec![], Ok(()), bytes.len() - 1));
        assert_eq!(read(1000, &[b"HTTP"]), (vec![], Ok(()), 4));
    }

    proptest! {
        #[test]
        fn any_split_gives_the_same_messages(
            payloads in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..5),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8),
            damage in prop::option::of((any::<prop::sample::Index>(), any::<u8>())),
        ) {
            let mut bytes = Vec::new();
            for payload in &payloads {
                write_message(&mut bytes, &[(":event-type", "chunk"), ("x", "")], payload);
            }
            if let Some((at, byte)) = damage && !bytes.is_empty() {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            } else {
                let read: Vec<_> = read(1000, &[&bytes]).0.into_iter().map(|(_, p)| p).collect();
                prop_assert_eq!(read, payloads);
            }
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
            cuts.sort_unstable();
            let mut pieces = Vec::new();
            let mut from = 0;
            for cut in cuts.into_iter().chain([bytes.len()]) {
                pieces.push(&bytes[from..cut]);
                from = cut;
            }
            let (whole, result, held) = read(1000, &[&bytes]);
            let (cut, cut_result, cut_held) = read(1000, &pieces);
            prop_assert_eq!((whole, &result), (cut, &cut_result));
            prop_assert!(result.is_err() || held == cut_held);
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
            let _ = read(64, &[&bytes]);
        }
    }
}
