//! HTTP/1.1 answers as bytes: where the head ends, how long the body is, where it is over.
//!
//! Knows no socket. It is strict wherever two readers could disagree about the end of an answer
//! (RFC 9112, 6.3): who gets that wrong on a connection that carries many callers' answers gives
//! one caller the answer of another.

use std::mem::MaybeUninit;

use bytes::{Buf, Bytes, BytesMut};
use http::header::{CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use memchr::memchr;

/// The longest head that is read.
const HEAD_BYTES_MAX: usize = 64 * 1024;
/// The most headers an answer may have.
const HEADERS_MAX: usize = 128;
/// The longest line that says how long a chunk is. Nobody sends extensions that are worth more.
const CHUNK_LINE_BYTES_MAX: usize = 1024;
/// How much may come after the last chunk. It is read and forgotten.
const TRAILER_BYTES_MAX: usize = 8 * 1024;
/// How many digits a chunk's length may have: more than any chunk is long, fewer than overflow.
const CHUNK_DIGITS_MAX: usize = 12;

/// Why bytes are not an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(super) struct Malformed(&'static str);

/// The head of an answer.
#[derive(Debug)]
pub(super) struct Head {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
}

/// What comes next of a body.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Piece {
    /// Bytes of it.
    Bytes(Bytes),
    /// Nothing until more was read.
    NotYet,
    /// Nothing: it is complete.
    End,
}

/// Reads one answer.
#[derive(Debug)]
pub(super) struct Answer {
    state: State,
    /// Whether the connection may carry another request after this answer.
    keeps: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Head,
    /// So many bytes are missing.
    Length(u64),
    ChunkLine,
    /// So many bytes of this chunk are missing.
    Chunk(u64),
    ChunkEnd,
    /// So many bytes of trailers have come.
    Trailers(usize),
    UntilClose,
    Done,
}

impl Answer {
    /// An answer of which nothing has come.
    pub(super) fn new() -> Answer {
        Answer { state: State::Head, keeps: true }
    }

    /// Takes a head out of `read`, if it is there whole. After an informational one comes another.
    ///
    /// # Errors
    /// When it is not HTTP/1, is too large, or does not say clearly how long the body is.
    pub(super) fn head(&mut self, read: &mut BytesMut) -> Result<Option<Head>, Malformed> {
        let mut headers = [const { MaybeUninit::uninit() }; HEADERS_MAX];
        let mut parsed = httparse::Response::new(&mut []);
        let result = httparse::ParserConfig::default().parse_response_with_uninit_headers(
            &mut parsed,
            read,
            &mut headers,
        );
        let length = match result {
            Ok(httparse::Status::Complete(length)) if length <= HEAD_BYTES_MAX => length,
            Ok(httparse::Status::Partial) if read.len() < HEAD_BYTES_MAX => return Ok(None),
            Ok(_) => return Err(Malformed("the head of the answer is too large")),
            Err(httparse::Error::TooManyHeaders) => {
                return Err(Malformed("the answer has too many headers"));
            }
            Err(_) => return Err(Malformed("the answer is not HTTP")),
        };
        let status = parsed.code.and_then(|code| StatusCode::from_u16(code).ok());
        let status = status.ok_or(Malformed("the answer's status is none"))?;
        // A copy of its own: the values are kept for longer than the buffer should be.
        let text = Bytes::copy_from_slice(&read[..length]);
        let start = read.as_ptr() as usize;
        let mut headers = HeaderMap::with_capacity(parsed.headers.len());
        for header in parsed.headers.iter() {
            let at = (header.value.as_ptr() as usize).wrapping_sub(start);
            let value = match header.value.len() {
                0 => Bytes::new(),
                length => text.slice(at..at + length),
            };
            let name = HeaderName::from_bytes(header.name.as_bytes());
            let value = HeaderValue::from_maybe_shared(value);
            let (Ok(name), Ok(value)) = (name, value) else {
                return Err(Malformed("the answer has a malformed header"));
            };
            headers.append(name, value);
        }
        let is_http11 = parsed.version == Some(1);
        read.advance(length);
        if status == StatusCode::SWITCHING_PROTOCOLS {
            return Err(Malformed("the provider changed the protocol unasked"));
        }
        if !status.is_informational() {
            self.keeps = is_http11 && !says_close(&headers);
            self.state = framing(status, &headers, is_http11)?;
        }
        Ok(Some(Head { status, headers }))
    }

    /// Takes the next piece of the body out of `read`, after the head.
    ///
    /// # Errors
    /// When a chunk is malformed.
    pub(super) fn body(&mut self, read: &mut BytesMut) -> Result<Piece, Malformed> {
        loop {
            match &mut self.state {
                State::Head => return Err(Malformed("the head was not read")),
                State::Done | State::Length(0) => {
                    self.state = State::Done;
                    return Ok(Piece::End);
                }
                State::Length(left) => return Ok(take(read, left)),
                State::UntilClose => return Ok(take(read, &mut { u64::MAX })),
                State::Chunk(0) => self.state = State::ChunkEnd,
                State::Chunk(left) => return Ok(take(read, left)),
                State::ChunkEnd => match read.get(..2) {
                    Some(b"\r\n") => {
                        read.advance(2);
                        self.state = State::ChunkLine;
                    }
                    Some(_) => return Err(Malformed("a chunk is longer than it said")),
                    None => return Ok(Piece::NotYet),
                },
                State::ChunkLine => match line(read, CHUNK_LINE_BYTES_MAX)? {
                    Some((line, length)) => {
                        let size = chunk_size(line)?;
                        read.advance(length);
                        self.state = match size {
                            0 => State::Trailers(0),
                            size => State::Chunk(size),
                        };
                    }
                    None => return Ok(Piece::NotYet),
                },
                State::Trailers(before) => match line(read, TRAILER_BYTES_MAX - *before)? {
                    Some(([], length)) => {
                        read.advance(length);
                        self.state = State::Done;
                    }
                    Some((_, length)) => {
                        *before += length;
                        read.advance(length);
                    }
                    None => return Ok(Piece::NotYet),
                },
            }
        }
    }

    /// The provider has closed the connection, and all that was read has been taken.
    ///
    /// # Errors
    /// When the answer was not complete.
    pub(super) fn closed(&mut self) -> Result<(), Malformed> {
        match self.state {
            State::UntilClose | State::Done | State::Length(0) => {
                self.state = State::Done;
                self.keeps = false;
                Ok(())
            }
            _ => Err(Malformed("the provider closed the connection before the answer's end")),
        }
    }

    /// How many bytes are known to be missing, where it is a great many.
    pub(super) fn missing(&self) -> usize {
        match self.state {
            State::Length(left) | State::Chunk(left) => usize::try_from(left).unwrap_or(usize::MAX),
            _ => 0,
        }
    }

    /// Whether the answer was read to its end and the connection may carry another request,
    /// provided that nothing came after the answer.
    pub(super) fn keeps_connection(&self) -> bool {
        self.keeps && self.state == State::Done
    }
}

/// Takes up to `left` bytes.
fn take(read: &mut BytesMut, left: &mut u64) -> Piece {
    if read.is_empty() {
        return Piece::NotYet;
    }
    let length = usize::try_from(*left).unwrap_or(usize::MAX).min(read.len());
    *left -= length as u64;
    Piece::Bytes(read.split_to(length).freeze())
}

/// A line without its end, and its length with it; `None` if it is not there whole.
fn line(read: &[u8], max: usize) -> Result<Option<(&[u8], usize)>, Malformed> {
    match memchr(b'\n', &read[..read.len().min(max)]) {
        Some(end) => match read[..end].strip_suffix(b"\r") {
            Some(line) => Ok(Some((line, end + 1))),
            None => Err(Malformed("a line between chunks ends without a carriage return")),
        },
        None if read.len() >= max => Err(Malformed("a line between chunks is too long")),
        None => Ok(None),
    }
}

/// The length a chunk begins with, in hexadecimal digits, maybe with extensions after it.
fn chunk_size(line: &[u8]) -> Result<u64, Malformed> {
    let malformed = Malformed("a chunk's length is malformed");
    let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
    if digits == 0 || digits > CHUNK_DIGITS_MAX {
        return Err(malformed);
    }
    let extension = line[digits..].trim_ascii_start();
    let is_extension = extension.is_empty() || extension[0] == b';';
    if !is_extension || line.iter().any(|&byte| byte.is_ascii_control() && byte != b'\t') {
        return Err(malformed);
    }
    Ok(line[..digits].iter().fold(0, |size, digit| {
        size << 4 | u64::from(char::from(*digit).to_digit(16).unwrap_or_default())
    }))
}

/// How the body is delimited (RFC 9112, 6.3).
fn framing(status: StatusCode, headers: &HeaderMap, is_http11: bool) -> Result<State, Malformed> {
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    match (codings.next(), lengths.next()) {
        (Some(_), Some(_)) => Err(Malformed("the answer has two lengths")),
        (Some(coding), None) => {
            let is_chunked = coding.as_bytes().eq_ignore_ascii_case(b"chunked");
            match is_chunked && is_http11 && codings.next().is_none() {
                true if has_no_body(status) => Ok(State::Done),
                true => Ok(State::ChunkLine),
                false => Err(Malformed("the answer's transfer coding is not `chunked`")),
            }
        }
        (None, Some(length)) => {
            let digits = length.as_bytes();
            let is_number = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
            let number = length.to_str().ok().filter(|_| is_number).and_then(|n| n.parse().ok());
            match number {
                Some(_) if lengths.next().is_some() => Err(Malformed("the answer has two lengths")),
                Some(_) if has_no_body(status) => Ok(State::Done),
                Some(length) => Ok(State::Length(length)),
                None => Err(Malformed("the answer's length is not a number")),
            }
        }
        (None, None) if has_no_body(status) => Ok(State::Done),
        (None, None) => Ok(State::UntilClose),
    }
}

fn has_no_body(status: StatusCode) -> bool {
    matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
}

fn says_close(headers: &HeaderMap) -> bool {
    headers.get_all(CONNECTION).iter().any(|value| {
        value.as_bytes().split(|&byte| byte == b',').any(|option| {
            let option = option.trim_ascii();
            option.eq_ignore_ascii_case(b"close") || option.eq_ignore_ascii_case(b"upgrade")
        })
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What came of bytes: statuses, the body, what was left over and may be used again.
    #[derive(Debug, PartialEq, Eq)]
    struct Outcome {
        statuses: Vec<u16>,
        body: String,
        left: String,
        keeps: bool,
    }

    /// Reads an answer that comes in pieces and then ends.
    fn read(pieces: &[&[u8]]) -> Result<Outcome, Malformed> {
        let mut answer = Answer::new();
        let mut read = BytesMut::new();
        let mut outcome = Outcome {
            statuses: Vec::new(),
            body: String::new(),
            left: String::new(),
            keeps: false,
        };
        let mut body = Vec::new();
        let mut has_head = false;
        'pieces: for piece in pieces {
            read.extend_from_slice(piece);
            while !has_head {
                let Some(head) = answer.head(&mut read)? else { continue 'pieces };
                outcome.statuses.push(head.status.as_u16());
                has_head = !head.status.is_informational();
            }
            while let Piece::Bytes(bytes) = answer.body(&mut read)? {
                body.extend_from_slice(&bytes);
            }
        }
        outcome.keeps = answer.keeps_connection();
        if !outcome.keeps {
            answer.closed()?;
        }
        outcome.body = String::from_utf8_lossy(&body).into_owned();
        outcome.left = String::from_utf8_lossy(&read).into_owned();
        Ok(outcome)
    }

    #[track_caller]
    fn check(bytes: &str, body: &str, keeps: bool) {
        let expect =
            Outcome { statuses: vec![200], body: body.to_owned(), left: String::new(), keeps };
        assert_eq!(read(&[bytes.as_bytes()]), Ok(expect), "{bytes:?}");
    }

    #[track_caller]
    fn check_malformed(bytes: &str) {
        assert!(read(&[bytes.as_bytes()]).is_err(), "{bytes:?}");
    }

    const OK: &str = "HTTP/1.1 200 OK\r\n";

    #[test]
    fn bodies_end_where_the_head_says() {
        check(&format!("{OK}Content-Length: 5\r\n\r\nhello"), "hello", true);
        check(&format!("{OK}content-length: 0\r\n\r\n"), "", true);
        check(&format!("{OK}\r\nuntil it closes"), "until it closes", false);
        check(&format!("{OK}connection: close\r\ncontent-length: 2\r\n\r\nhi"), "hi", false);
        check(&format!("{OK}connection: x, Close\r\ncontent-length: 2\r\n\r\nhi"), "hi", false);
        check("HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nhi", "hi", false);
    }

    #[test]
    fn chunks_are_put_together() {
        let chunked = format!("{OK}Transfer-Encoding: Chunked\r\n\r\n");
        check(&format!("{chunked}5\r\nhello\r\n6;a=b\r\n world\r\n0\r\n\r\n"), "hello world", true);
        check(&format!("{chunked}00A ;x\r\n0123456789\r\n0\r\nx: y\r\n\r\n"), "0123456789", true);
        check(&format!("{chunked}0\r\n\r\n"), "", true);
    }

    #[test]
    fn statuses_without_a_body_have_none() {
        for head in ["204 No\r\n", "304 No\r\ncontent-length: 9\r\n"] {
            let bytes = format!("HTTP/1.1 {head}\r\n");
            let outcome = read(&[bytes.as_bytes()]).expect("it is well-formed");
            assert_eq!((outcome.body.as_str(), outcome.keeps), ("", true));
        }
    }

    #[test]
    fn informational_heads_come_before_the_answer() {
        let bytes = format!("HTTP/1.1 103 Hints\r\nlink: x\r\n\r\n{OK}content-length: 1\r\n\r\nx");
        let outcome = read(&[bytes.as_bytes()]).expect("it is well-formed");
        assert_eq!((outcome.statuses, outcome.body), (vec![103, 200], "x".to_owned()));
        check_malformed("HTTP/1.1 101 Switching\r\nupgrade: x\r\n\r\n");
    }

    #[test]
    fn what_comes_after_an_answer_is_left() {
        let two = format!("{OK}content-length: 1\r\n\r\nx{OK}\r\n");
        let outcome = read(&[two.as_bytes()]).expect("it is well-formed");
        assert_eq!(outcome.left, format!("{OK}\r\n"));
    }

    #[test]
    fn a_length_that_can_be_read_in_two_ways_is_refused() {
        for headers in [
            "content-length: 5\r\ntransfer-encoding: chunked\r\n",
            "content-length: 5\r\ncontent-length: 6\r\n",
            "content-length: 5\r\ncontent-length: 5\r\n",
            "content-length: 5, 5\r\n",
            "content-length: +5\r\n",
            "content-length: -5\r\n",
            "content-length: 0x5\r\n",
            "content-length: 5 5\r\n",
            "content-length:\r\n",
            "content-length: 99999999999999999999999\r\n",
            "transfer-encoding: gzip, chunked\r\n",
            "transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n",
            "transfer-encoding: identity\r\n",
            "transfer-encoding : chunked\r\n",
            "x: y\r\n content-length: 5\r\n",
            "content-length\r\n",
        ] {
            check_malformed(&format!("{OK}{headers}\r\nhello"));
        }
        check_malformed("HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n");
    }

    #[test]
    fn malformed_chunks_are_refused() {
        for chunks in [
            "5\nhello\r\n0\r\n\r\n",
            "5\r\nhello0\r\n\r\n",
            "5\r\nhello world\r\n0\r\n\r\n",
            "\r\nhello\r\n0\r\n\r\n",
            "+5\r\nhello\r\n0\r\n\r\n",
            "0x5\r\nhello\r\n0\r\n\r\n",
            "5 5\r\nhello\r\n0\r\n\r\n",
            " 5\r\nhello\r\n0\r\n\r\n",
            "5;\u{1}\r\nhello\r\n0\r\n\r\n",
            "fffffffffffffffff\r\nhello\r\n0\r\n\r\n",
            "5\r\nhello\r\n0\r\n",
            "5\r\nhel",
            "",
        ] {
            check_malformed(&format!("{OK}transfer-encoding: chunked\r\n\r\n{chunks}"));
        }
        let long = "x".repeat(TRAILER_BYTES_MAX);
        check_malformed(&format!("{OK}transfer-encoding: chunked\r\n\r\n5;{long}"));
        check_malformed(&format!("{OK}transfer-encoding: chunked\r\n\r\n0\r\nx: {long}\r\n\r\n"));
    }

    #[test]
    fn heads_have_bounds() {
        check_malformed(&format!("{OK}x: {}", "y".repeat(HEAD_BYTES_MAX)));
        check_malformed(&format!("{OK}{}\r\n", "x: y\r\n".repeat(HEADERS_MAX + 1)));
        check_malformed("SSH-2.0-OpenSSH\r\n\r\n");
        check_malformed("HTTP/2 200 OK\r\n\r\n");
        check_malformed("HTTP/1.1 099 No\r\n\r\n");
    }

    /// Answers made of the parts that matter, mostly well-formed.
    fn answers() -> impl Strategy<Value = Vec<u8>> {
        let head = prop::sample::select(vec![
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 12\r\nx: \r\n\r\n",
            "HTTP/1.1 200 OK\r\n\r\n",
            "HTTP/1.0 500\r\n\r\n",
        ]);
        let part = prop::sample::select(vec![
            "5\r\nhello\r\n",
            "A;x=y\r\n0123456789\r\n",
            "0\r\n",
            "x: y\r\n",
            "\r\n",
            "\n",
            "z",
        ]);
        (head, prop::collection::vec(part, 0..6))
            .prop_map(|(head, parts)| [head, &parts.concat()].concat().into_bytes())
    }

    proptest! {
        #[test]
        fn any_split_of_an_answer_reads_the_same(
            answer in answers(),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
        ) {
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(answer.len() + 1)).collect();
            cuts.sort_unstable();
            let mut pieces = Vec::new();
            let mut from = 0;
            for cut in cuts.into_iter().chain([answer.len()]) {
                pieces.push(&answer[from..cut]);
                from = cut;
            }
            prop_assert_eq!(read(&pieces), read(&[&answer]));
        }

        #[test]
        fn no_bytes_are_too_strange(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = read(&[&bytes]);
            let chunked = [b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", &*bytes].concat();
            let _ = read(&[&chunked]);
        }
    }
}
