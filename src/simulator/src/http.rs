//! A small HTTP/1.1 server, written by hand because it must be able to break HTTP on purpose.

use std::io;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::time::{Duration, Instant};

use crate::fixed::Fixed;

/// A request's head may be this long.
const HEAD_BYTES_MAX: usize = 64 << 10;
/// And have this many headers.
const HEADERS_MAX: usize = 100;
/// A line of chunked encoding, with its extensions, may be this long; the trailers together too.
const CHUNK_LINE_MAX: usize = 8 << 10;
/// What may arrive while an answer is sent, before reading pauses.
const EARLY_BYTES_MAX: usize = 64 << 10;

/// How the length of a request's body is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Length {
    Known(u64),
    Chunked,
}

/// A request's head.
#[derive(Debug)]
pub(crate) struct Head {
    /// Bytes of the head itself.
    pub(crate) size: usize,
    pub(crate) length: Length,
    pub(crate) keep_alive: bool,
    pub(crate) http_10: bool,
    pub(crate) expects_continue: bool,
    pub(crate) target: Target,
}

/// What a request is for.
#[derive(Debug)]
pub(crate) enum Target {
    /// The fixed answer at this place of the list; nothing else of the head is kept.
    Fixed(usize),
    Other {
        method: String,
        path: String,
        headers: Vec<(String, String)>,
    },
}

/// A request that cannot be served, with the status that says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadRequest {
    #[error("the request's head is not HTTP/1")]
    Head,
    #[error("the request's head is larger than 64 KiB or has more than 100 headers")]
    HeadTooLarge,
    #[error("the length of the request's body is not clear")]
    Length,
    #[error("the request's chunked encoding is broken")]
    Chunked,
    #[error("the request's body is too large")]
    BodyTooLarge,
}

impl BadRequest {
    pub(crate) fn status(self) -> u16 {
        match self {
            BadRequest::Head | BadRequest::Length | BadRequest::Chunked => 400,
            BadRequest::HeadTooLarge => 431,
            BadRequest::BodyTooLarge => 413,
        }
    }
}

/// Why no request could be read.
#[derive(Debug)]
pub(crate) enum ReadError {
    /// The client has gone, between requests or within one.
    Gone,
    Bad(BadRequest),
}

impl From<io::Error> for ReadError {
    fn from(_: io::Error) -> ReadError {
        ReadError::Gone
    }
}

impl From<BadRequest> for ReadError {
    fn from(bad: BadRequest) -> ReadError {
        ReadError::Bad(bad)
    }
}

/// Parses a head, if it is complete.
fn parse_head(buffer: &[u8], fixed: &[Fixed]) -> Result<Option<Head>, BadRequest> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut request = httparse::Request::new(&mut headers);
    let size = match request.parse(buffer) {
        Ok(httparse::Status::Complete(size)) => size,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(httparse::Error::TooManyHeaders) => return Err(BadRequest::HeadTooLarge),
        Err(_) => return Err(BadRequest::Head),
    };
    let http_10 = request.version == Some(0);
    let (method, path) = (request.method.unwrap_or_default(), request.path.unwrap_or_default());
    let mut head = Head {
        size,
        length: Length::Known(0),
        keep_alive: !http_10,
        http_10,
        expects_continue: false,
        target: Target::Fixed(0),
    };
    let (mut known, mut chunked) = (None, false);
    for header in request.headers.iter() {
        let value = header.value.trim_ascii();
        // The length of a name is a quick sieve before comparing it.
        match header.name.len() {
            14 if header.name.eq_ignore_ascii_case("content-length") => {
                let digits = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
                let text = std::str::from_utf8(value).ok().filter(|_| digits);
                let length = text.and_then(|text| text.parse::<u64>().ok());
                let length = length.ok_or(BadRequest::Length)?;
                if known.replace(length).is_some_and(|earlier| earlier != length) {
                    return Err(BadRequest::Length);
                }
            }
            17 if header.name.eq_ignore_ascii_case("transfer-encoding") => {
                if chunked || !value.eq_ignore_ascii_case(b"chunked") {
                    return Err(BadRequest::Length);
                }
                chunked = true;
            }
            10 if header.name.eq_ignore_ascii_case("connection") => {
                for option in value.split(|byte| *byte == b',') {
                    match option.trim_ascii() {
                        close if close.eq_ignore_ascii_case(b"close") => head.keep_alive = false,
                        keep if keep.eq_ignore_ascii_case(b"keep-alive") => head.keep_alive = true,
                        _ => {}
                    }
                }
            }
            6 if header.name.eq_ignore_ascii_case("expect") => {
                head.expects_continue = value.eq_ignore_ascii_case(b"100-continue");
            }
            _ => {}
        }
    }
    head.length = match (known, chunked) {
        (Some(_), true) => return Err(BadRequest::Length),
        (None, true) => Length::Chunked,
        (known, false) => Length::Known(known.unwrap_or(0)),
    };
    head.target = match fixed.iter().position(|fixed| fixed.path == path) {
        Some(place) => Target::Fixed(place),
        None => Target::Other {
            method: method.to_owned(),
            path: path.to_owned(),
            headers: request
                .headers
                .iter()
                .map(|header| {
                    let value = String::from_utf8_lossy(header.value).into_owned();
                    (header.name.to_owned(), value)
                })
                .collect(),
        },
    };
    Ok(Some(head))
}

/// Reads a head; its bytes are taken from the buffer.
pub(crate) async fn read_head(
    stream: &mut TcpStream,
    buffer: &mut BytesMut,
    fixed: &[Fixed],
) -> Result<Head, ReadError> {
    loop {
        if !buffer.is_empty() {
            if let Some(head) = parse_head(buffer, fixed)? {
                if head.size > HEAD_BYTES_MAX {
                    return Err(BadRequest::HeadTooLarge.into());
                }
                buffer.advance(head.size);
                return Ok(head);
            }
            if buffer.len() > HEAD_BYTES_MAX {
                return Err(BadRequest::HeadTooLarge.into());
            }
        }
        fill(stream, buffer, 16 << 10).await?;
    }
}

/// Reads a body to its end. It is kept only if `keep`; the limit counts either way.
pub(crate) async fn read_body(
    stream: &mut TcpStream,
    buffer: &mut BytesMut,
    head: &Head,
    keep: bool,
    max: u64,
) -> Result<Bytes, ReadError> {
    if let Length::Known(length) = head.length
        && length > max
    {
        return Err(BadRequest::BodyTooLarge.into());
    }
    if head.expects_continue && buffer.is_empty() && head.length != Length::Known(0) {
        stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await?;
    }
    let mut body = BytesMut::new();
    match head.length {
        Length::Known(length) => {
            if keep && length <= buffer.len() as u64 {
                return Ok(buffer.split_to(length as usize).freeze());
            }
            let mut left = length;
            loop {
                let here = left.min(buffer.len() as u64);
                if keep {
                    body.extend_from_slice(&buffer[..here as usize]);
                }
                buffer.advance(here as usize);
                left -= here;
                if left == 0 {
                    break;
                }
                fill(stream, buffer, left.clamp(4 << 10, 256 << 10) as usize).await?;
            }
        }
        Length::Chunked => {
            let mut chunks = Chunks { max, ..Chunks::default() };
            while !chunks.advance(buffer, keep.then_some(&mut body))? {
                fill(stream, buffer, 64 << 10).await?;
            }
        }
    }
    Ok(body.freeze())
}

/// Reads once, with room for this many bytes.
async fn fill(stream: &mut TcpStream, buffer: &mut BytesMut, room: usize) -> Result<(), ReadError> {
    buffer.reserve(room);
    match stream.read_buf(buffer).await? {
        0 => Err(ReadError::Gone),
        _ => Ok(()),
    }
}

/// Undoes chunked encoding, piece by piece.
#[derive(Debug, Default)]
struct Chunks {
    state: ChunkState,
    received: u64,
    max: u64,
    trailer_bytes: usize,
}

#[derive(Debug, Default)]
enum ChunkState {
    #[default]
    Size,
    Data(u64),
    LineEnd,
    Trailers,
}

impl Chunks {
    /// Takes what it can from the buffer; true at the end of the body.
    fn advance(
        &mut self,
        buffer: &mut BytesMut,
        mut kept: Option<&mut BytesMut>,
    ) -> Result<bool, BadRequest> {
        loop {
            match self.state {
                ChunkState::Size => {
                    let Some(line) = take_line(buffer)? else { return Ok(false) };
                    let size = match httparse::parse_chunk_size(&line) {
                        Ok(httparse::Status::Complete((_, size))) => size,
                        _ => return Err(BadRequest::Chunked),
                    };
                    self.received = self.received.saturating_add(size);
                    if self.received > self.max {
                        return Err(BadRequest::BodyTooLarge);
                    }
                    self.state =
                        if size == 0 { ChunkState::Trailers } else { ChunkState::Data(size) };
                }
                ChunkState::Data(left) => {
                    let here = left.min(buffer.len() as u64);
                    if let Some(kept) = &mut kept {
                        kept.extend_from_slice(&buffer[..here as usize]);
                    }
                    buffer.advance(here as usize);
                    if here < left {
                        self.state = ChunkState::Data(left - here);
                        return Ok(false);
                    }
                    self.state = ChunkState::LineEnd;
                }
                ChunkState::LineEnd => {
                    if buffer.len() < 2 {
                        return Ok(false);
                    }
                    if !buffer.starts_with(b"\r\n") {
                        return Err(BadRequest::Chunked);
                    }
                    buffer.advance(2);
                    self.state = ChunkState::Size;
                }
                ChunkState::Trailers => {
                    let Some(line) = take_line(buffer)? else { return Ok(false) };
                    if line.trim_ascii().is_empty() {
                        return Ok(true);
                    }
                    self.trailer_bytes += line.len();
                    if self.trailer_bytes > CHUNK_LINE_MAX {
                        return Err(BadRequest::Chunked);
                    }
                }
            }
        }
    }
}

/// Takes a line with its end, if it is complete.
fn take_line(buffer: &mut BytesMut) -> Result<Option<Bytes>, BadRequest> {
    match buffer.iter().take(CHUNK_LINE_MAX).position(|byte| *byte == b'\n') {
        Some(at) => Ok(Some(buffer.split_to(at + 1).freeze())),
        None if buffer.len() >= CHUNK_LINE_MAX => Err(BadRequest::Chunked),
        None => Ok(None),
    }
}

/// Why an answer was not finished.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// The client went away.
    ClientLeft,
    /// The fault asked for: the connection closes now.
    Close,
    /// The fault asked for: the connection is reset now.
    Reset,
}

/// How the end of an answer's body is marked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    /// By a length, or by the end of the connection: bytes go out as they are.
    Plain,
    Chunked,
}

/// The sending side of one answer. Whatever it waits for, it notices when the client goes away.
pub(crate) struct Sender<'c> {
    reader: ReadHalf<'c>,
    writer: WriteHalf<'c>,
    early: &'c mut BytesMut,
    pub(crate) framing: Framing,
    /// Each write is cut into pieces of this many bytes.
    pub(crate) split: Option<usize>,
    /// Events are gathered here and sent in one piece by `finish`.
    pub(crate) gathered: Option<Vec<u8>>,
    /// So many bytes of the body may still be sent; then the connection closes.
    pub(crate) left: Option<u64>,
    frame: Vec<u8>,
}

impl<'c> Sender<'c> {
    pub(crate) fn new(stream: &'c mut TcpStream, early: &'c mut BytesMut) -> Sender<'c> {
        let (reader, writer) = stream.split();
        let (framing, frame) = (Framing::Plain, Vec::new());
        Sender { reader, writer, early, framing, split: None, gathered: None, left: None, frame }
    }

    /// Writes bytes as they are.
    pub(crate) async fn raw(&mut self, bytes: &[u8]) -> Result<(), Stop> {
        let (writer, size) = (&mut self.writer, self.split.unwrap_or(usize::MAX));
        let write = async {
            for piece in bytes.chunks(size) {
                writer.write_all(piece).await?;
                if piece.len() < bytes.len() {
                    // Lets a reader in the same runtime see the piece by itself.
                    tokio::task::yield_now().await;
                }
            }
            io::Result::Ok(())
        };
        let written = unless_closed(&mut self.reader, self.early, write).await?;
        written.map_err(|_| Stop::ClientLeft)
    }

    /// Sends a part of the body in its framing.
    pub(crate) async fn body(&mut self, bytes: &[u8]) -> Result<(), Stop> {
        if bytes.is_empty() {
            return Ok(());
        }
        if let Some(gathered) = &mut self.gathered {
            gathered.extend_from_slice(bytes);
            return Ok(());
        }
        match &mut self.left {
            Some(left) if *left <= bytes.len() as u64 => {
                let last = &bytes[..*left as usize];
                if !last.is_empty() {
                    self.framed(last).await?;
                }
                Err(Stop::Close)
            }
            left => {
                if let Some(left) = left {
                    *left -= bytes.len() as u64;
                }
                self.framed(bytes).await
            }
        }
    }

    async fn framed(&mut self, bytes: &[u8]) -> Result<(), Stop> {
        if self.framing == Framing::Plain {
            return self.raw(bytes).await;
        }
        let mut frame = std::mem::take(&mut self.frame);
        frame.clear();
        frame.extend_from_slice(format!("{:x}\r\n", bytes.len()).as_bytes());
        frame.extend_from_slice(bytes);
        frame.extend_from_slice(b"\r\n");
        let sent = self.raw(&frame).await;
        self.frame = frame;
        sent
    }

    /// Ends the body.
    pub(crate) async fn finish(&mut self) -> Result<(), Stop> {
        if let Some(gathered) = self.gathered.take() {
            self.body(&gathered).await?;
        }
        if self.left.is_some() {
            // A cut beyond the end of the body happens at its end.
            return Err(Stop::Close);
        }
        match self.framing {
            Framing::Plain => Ok(()),
            Framing::Chunked => self.raw(b"0\r\n\r\n").await,
        }
    }

    /// What the client has sent that nobody has taken yet.
    pub(crate) fn received(&mut self) -> &mut BytesMut {
        self.early
    }

    /// Waits for more of it.
    pub(crate) async fn receive(&mut self) -> Result<(), Stop> {
        self.early.reserve(16 << 10);
        match self.reader.read_buf(self.early).await {
            Ok(0) | Err(_) => Err(Stop::ClientLeft),
            Ok(_) => Ok(()),
        }
    }

    /// Waits until this moment.
    pub(crate) async fn until(&mut self, moment: Instant) -> Result<(), Stop> {
        unless_closed(&mut self.reader, self.early, tokio::time::sleep_until(moment)).await
    }

    /// Waits this long.
    pub(crate) async fn pause(&mut self, delay: Duration) -> Result<(), Stop> {
        if delay.is_zero() {
            return Ok(());
        }
        unless_closed(&mut self.reader, self.early, tokio::time::sleep(delay)).await
    }

    /// Waits until the client goes away.
    pub(crate) async fn hang(&mut self) -> Stop {
        match unless_closed(&mut self.reader, self.early, std::future::pending::<Stop>()).await {
            Ok(stop) | Err(stop) => stop,
        }
    }
}

/// Drives a future while watching for the end of the connection.
///
/// A client that only closes its sending side looks the same as one that left. HTTP clients do
/// not do that, and waiting to find out would keep a cancelled stream running.
async fn unless_closed<F: Future>(
    reader: &mut ReadHalf<'_>,
    early: &mut BytesMut,
    work: F,
) -> Result<F::Output, Stop> {
    tokio::pin!(work);
    loop {
        early.reserve(1024);
        tokio::select! {
            // First, so that a stream that is always ready to write still notices. It costs no
            // system call while the socket is not readable.
            biased;
            read = reader.read_buf(early), if early.len() < EARLY_BYTES_MAX => match read {
                Ok(0) | Err(_) => return Err(Stop::ClientLeft),
                Ok(_) => {}
            },
            done = &mut work => return Ok(done),
        }
    }
}

/// Says why a request is refused, and lets the client read it before the connection closes: to
/// close with unread data waiting would reset it.
pub(crate) async fn refuse(stream: &mut TcpStream, bad: BadRequest) {
    let body = serde_json::json!({
        "error": {
            "message": bad.to_string(),
            "type": "invalid_request_error",
            "param": null,
            "code": null,
        }
    })
    .to_string();
    let status = bad.status();
    let head = format!(
        "HTTP/1.1 {status} {}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\
         x-tollway-simulated: true\r\nconnection: close\r\n\r\n",
        reason(status),
        body.len(),
    );
    let linger = async {
        stream.write_all((head + &body).as_bytes()).await?;
        stream.shutdown().await?;
        let mut waste = vec![0; 16 << 10];
        for _ in 0..1024 {
            if stream.read(&mut waste).await? == 0 {
                break;
            }
        }
        io::Result::Ok(())
    };
    // Whether the client is still there to hear it does not matter here.
    let _ = tokio::time::timeout(Duration::from_secs(2), linger).await;
}

/// The reason phrase of a status.
pub(crate) fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        201 => "Created",
        302 => "Found",
        307 => "Temporary Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        409 => "Conflict",
        413 => "Content Too Large",
        424 => "Failed Dependency",
        426 => "Upgrade Required",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        529 => "Overloaded",
        _ => "Simulated",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(mut bytes: &[u8], step: usize, max: u64) -> Result<Option<Vec<u8>>, BadRequest> {
        let mut chunks = Chunks { max, ..Chunks::default() };
        let (mut buffer, mut kept) = (BytesMut::new(), BytesMut::new());
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(step.min(bytes.len()));
            buffer.extend_from_slice(now);
            bytes = later;
            if chunks.advance(&mut buffer, Some(&mut kept))? {
                return Ok(Some(kept.to_vec()));
            }
        }
        Ok(None)
    }

    #[test]
    fn chunked_bodies_decode_the_same_however_they_are_cut() {
        let bytes = b"3;name=value\r\nabc\r\n0A\r\n0123456789\r\n0\r\nx-trailer: 1\r\n\r\n";
        for step in 1..bytes.len() {
            assert_eq!(decode(bytes, step, 100), Ok(Some(b"abc0123456789".to_vec())));
        }
    }

    #[test]
    fn broken_and_oversized_chunks_are_refused() {
        assert_eq!(decode(b"xyz\r\n", 1, 100), Err(BadRequest::Chunked));
        assert_eq!(decode(b"3\r\nabcde\r\n", 1, 100), Err(BadRequest::Chunked));
        assert_eq!(decode(b"ffffffffffffffffff\r\n", 1, 100), Err(BadRequest::Chunked));
        assert_eq!(decode(b"ffffffffffffffff\r\n", 1, 100), Err(BadRequest::BodyTooLarge));
        assert_eq!(decode(b"60\r\n", 1, 100).map(|_| ()), Ok(()));
        assert_eq!(decode(&[b'1'; 9000], 9000, 100), Err(BadRequest::Chunked));
        assert_eq!(decode(b"3\r\nabc\r\n0\r\n", 1, 100), Ok(None));
    }

    #[test]
    fn heads_whose_length_is_not_clear_are_refused() {
        let parse = |headers: &str| {
            let head = format!("POST / HTTP/1.1\r\n{headers}\r\n");
            parse_head(head.as_bytes(), &[]).map(|head| head.map(|head| head.length))
        };
        assert_eq!(parse("Content-Length: 5\r\n"), Ok(Some(Length::Known(5))));
        assert_eq!(parse("Transfer-Encoding: Chunked\r\n"), Ok(Some(Length::Chunked)));
        for headers in [
            "content-length: 5\r\ncontent-length: 6\r\n",
            "content-length: +5\r\n",
            "content-length: 99999999999999999999\r\n",
            "content-length: 5\r\ntransfer-encoding: chunked\r\n",
            "transfer-encoding: gzip, chunked\r\n",
        ] {
            assert_eq!(parse(headers), Err(BadRequest::Length), "{headers}");
        }
        assert_eq!(parse("broken"), Err(BadRequest::Head));
    }
}
