//! One HTTP/1.1 connection, written by hand: the client shares its core with the upstream, and what
//! it saves lets the proxy under test be the bottleneck.

use std::net::SocketAddr;
use std::ops::Range;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::Failure;

/// How much is read at once.
const READ_BYTES: usize = 16 << 10;

/// A keep-alive connection that carries one request at a time.
pub struct Connection {
    stream: TcpStream,
    /// What was read; from `at` on it is not used yet.
    read: Vec<u8>,
    at: usize,
    body: Vec<u8>,
}

/// A whole answer.
#[derive(Debug)]
pub struct Answer<'a> {
    /// The status code.
    pub status: u16,
    /// The body, without chunk framing.
    pub body: &'a [u8],
}

/// What a head says that matters here.
struct Head {
    status: u16,
    /// The length of the body; `None` if it comes in chunks.
    length: Option<usize>,
}

impl Connection {
    /// Connects.
    ///
    /// # Errors
    /// When nobody listens.
    pub async fn open(address: SocketAddr) -> Result<Connection, Failure> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Connection { stream, read: Vec::new(), at: 0, body: Vec::new() })
    }

    /// Sends a request, head and body, and waits for the whole answer.
    ///
    /// # Errors
    /// When the connection ends before the answer does, or the answer is not HTTP.
    pub async fn ask(&mut self, request: &[u8]) -> Result<Answer<'_>, Failure> {
        self.body.clear();
        if let Err(error) = self.stream.write_all(request).await {
            // A server may refuse a request before it has read it whole; what it said tells why.
            let _ = self.more().await;
            let said = String::from_utf8_lossy(&self.read[self.at..]);
            return Err(format!("{error} while sending; the server said {said:?}").into());
        }
        let head = self.head().await?;
        match head.length {
            Some(length) => self.take(length).await?,
            None => loop {
                let size = self.chunk_size().await?;
                self.take(size).await?;
                // Behind a chunk, and behind the last one, which is empty.
                if !self.line().await?.is_empty() {
                    return Err("a chunk is longer than it says".into());
                }
                if size == 0 {
                    break;
                }
            },
        }
        Ok(Answer { status: head.status, body: &self.body })
    }

    async fn head(&mut self) -> Result<Head, Failure> {
        let line = self.line().await?;
        let status = std::str::from_utf8(&self.read[line])?.split(' ').nth(1);
        let status = status.and_then(|status| status.parse().ok()).ok_or("no status line")?;
        let (mut length, mut chunked) = (None, false);
        loop {
            let line = self.line().await?;
            if line.is_empty() {
                break;
            }
            let line = &self.read[line];
            let colon =
                line.iter().position(|byte| *byte == b':').ok_or("a header has no colon")?;
            let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
            if name.eq_ignore_ascii_case(b"content-length") {
                length = Some(std::str::from_utf8(value)?.parse()?);
            } else if name.eq_ignore_ascii_case(b"transfer-encoding") {
                chunked = value.eq_ignore_ascii_case(b"chunked");
            }
        }
        if length.is_none() && !chunked {
            return Err("the answer has neither a length nor chunks".into());
        }
        Ok(Head { status, length: if chunked { None } else { length } })
    }

    async fn chunk_size(&mut self) -> Result<usize, Failure> {
        let line = self.line().await?;
        let size = std::str::from_utf8(&self.read[line])?;
        usize::from_str_radix(size, 16).map_err(|_| format!("{size:?} is no chunk size").into())
    }

    /// Where the next line is, without its end.
    async fn line(&mut self) -> Result<Range<usize>, Failure> {
        let mut searched = 0;
        loop {
            let unused = &self.read[self.at..];
            if let Some(end) = unused[searched..].iter().position(|byte| *byte == b'\n') {
                let line = self.at..self.at + searched + end;
                self.at = line.end + 1;
                let ends_with_return = self.read[line.clone()].ends_with(b"\r");
                return Ok(line.start..line.end - usize::from(ends_with_return));
            }
            searched = unused.len();
            self.more().await?;
        }
    }

    /// Moves the next bytes into the body.
    async fn take(&mut self, mut bytes: usize) -> Result<(), Failure> {
        loop {
            let here = bytes.min(self.read.len() - self.at);
            self.body.extend_from_slice(&self.read[self.at..self.at + here]);
            self.at += here;
            bytes -= here;
            if bytes == 0 {
                return Ok(());
            }
            self.more().await?;
        }
    }

    async fn more(&mut self) -> Result<(), Failure> {
        if self.at == self.read.len() {
            self.read.clear();
            self.at = 0;
        }
        self.read.reserve(READ_BYTES);
        match self.stream.read_buf(&mut self.read).await? {
            0 => Err("the connection was closed before the answer was complete".into()),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    /// Answers one request with these writes and closes.
    async fn check(writes: &'static [&'static str], expect: Result<(u16, &str), &str>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 4];
            stream.read_exact(&mut request).await.unwrap();
            for write in writes {
                stream.write_all(write.as_bytes()).await.unwrap();
                tokio::task::yield_now().await;
            }
        });
        let mut connection = Connection::open(address).await.unwrap();
        let answer = connection.ask(b"ping").await;
        let have = answer.map(|answer| (answer.status, std::str::from_utf8(answer.body).unwrap()));
        let have = have.map_err(|error| error.to_string());
        assert_eq!(have.as_ref().map_err(String::as_str), expect.as_ref().map_err(|e| *e));
        server.await.unwrap();
    }

    #[tokio::test]
    async fn answers_are_read_in_any_pieces() {
        check(&["HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi"], Ok((200, "hi"))).await;
        check(&["HTTP/1.1 429 No\r\ncon", "tent-length:2\r", "\n\r\nh", "i"], Ok((429, "hi")))
            .await;
        const CHUNKED: &str = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
        check(&[CHUNKED, "1\r\nh\r", "\nA\r\n0123456789\r\n0\r\n\r\n"], Ok((200, "h0123456789")))
            .await;
    }

    #[tokio::test]
    async fn an_answer_that_is_cut_is_an_error() {
        let closed = Err("the connection was closed before the answer was complete");
        check(&["HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nhi"], closed).await;
        check(&["HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n"], closed).await;
        check(&[], closed).await;
        check(&["HTTP/1.1 200 OK\r\n\r\nhi"], Err("the answer has neither a length nor chunks"))
            .await;
    }
}
