//! A tiny HTTP/1.1 client. Unlike a real one it sends exactly what it is told, also when that is
//! wrong, and lets a test look at a stream event by event.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::gateway::{MASTER_KEY, PATIENCE};

/// An answer, read whole.
#[derive(Clone, Debug)]
pub struct Response {
    /// The status.
    pub status: u16,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body, chunks joined.
    pub body: Vec<u8>,
}

impl Response {
    /// The first header of that name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(have, _)| have == name).map(|(_, value)| value.as_str())
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    ///
    /// # Panics
    /// When it is not JSON.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("not JSON ({error}): {}", self.text()))
    }

    /// The data of each event of a stream.
    pub fn events(&self) -> Vec<String> {
        events_of(&self.text())
    }

    /// `error.message`, `error.type`, `error.code` and so on.
    pub fn error(&self, member: &str) -> serde_json::Value {
        self.json()["error"][member].clone()
    }
}

/// The data of each event in a stream's text.
pub fn events_of(text: &str) -> Vec<String> {
    // A line may end in either or both of them.
    text.replace("\r\n", "\n")
        .replace('\r', "\n")
        .split("\n\n")
        .filter_map(|event| event.trim_start().strip_prefix("data: "))
        .map(str::to_owned)
        .collect()
}

/// `GET` with the master key unless `headers` say otherwise.
pub async fn get(address: SocketAddr, path: &str, headers: &[(&str, &str)]) -> Response {
    send(address, "GET", path, headers, b"").await
}

/// `POST` of JSON with the master key.
pub async fn post(address: SocketAddr, path: &str, body: &serde_json::Value) -> Response {
    post_with(address, path, &[], body).await
}

/// `POST` of JSON with headers; the master key unless they name another.
pub async fn post_with(
    address: SocketAddr,
    path: &str,
    headers: &[(&str, &str)],
    body: &serde_json::Value,
) -> Response {
    send(address, "POST", path, headers, body.to_string().as_bytes()).await
}

/// Any request, whole.
pub async fn send(
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Response {
    let mut connection = Connection::open(address).await;
    connection.request(method, path, headers, body).await;
    connection.response().await
}

/// A connection to play with.
pub struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
    /// What has come of a stream and is no whole event yet.
    event: String,
}

impl Connection {
    /// Connects.
    pub async fn open(address: SocketAddr) -> Connection {
        let stream = TcpStream::connect(address).await.expect("the server listens");
        stream.set_nodelay(true).expect("a fresh socket takes options");
        Connection { stream, buffer: Vec::new(), event: String::new() }
    }

    /// Connects, where somebody listens.
    pub async fn try_open(address: SocketAddr) -> Option<Connection> {
        let stream = TcpStream::connect(address).await.ok()?;
        Some(Connection { stream, buffer: Vec::new(), event: String::new() })
    }

    /// Writes bytes as they are.
    pub async fn write(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.expect("the server reads");
    }

    /// Writes bytes; false where the server has closed.
    pub async fn try_write(&mut self, bytes: &[u8]) -> bool {
        self.stream.write_all(bytes).await.is_ok()
    }

    /// Writes a request with a content length. The master key is shown unless `headers` have an
    /// `authorization`, `x-api-key` or an `authorization` that is empty, which is left out.
    pub async fn request(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) {
        let mut head = format!("{method} {path} HTTP/1.1\r\nhost: gateway\r\n");
        if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("authorization")) {
            head.push_str(&format!("authorization: Bearer {MASTER_KEY}\r\n"));
        }
        for (name, value) in headers.iter().filter(|(_, value)| !value.is_empty()) {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        if method != "GET" || !body.is_empty() {
            head.push_str("content-type: application/json\r\n");
            head.push_str(&format!("content-length: {}\r\n", body.len()));
        }
        head.push_str("\r\n");
        let mut bytes = head.into_bytes();
        bytes.extend_from_slice(body);
        // A server may answer and close before it has read everything.
        let _ = self.stream.write_all(&bytes).await;
    }

    /// Reads more; the number of bytes, 0 at the end.
    async fn fill(&mut self) -> usize {
        let read = tokio::time::timeout(PATIENCE, self.stream.read_buf(&mut self.buffer));
        // A reset after the answer is an end as well.
        read.await.expect("the server answers in time").unwrap_or_default()
    }

    /// Reads the head of an answer: status and headers.
    ///
    /// # Panics
    /// When the server closes first.
    pub async fn head(&mut self) -> (u16, Vec<(String, String)>) {
        self.try_head().await.expect("an answer, not a closed connection")
    }

    /// Reads the head of an answer, or `None` if the server closes first. Interim answers (1xx) but
    /// 101 are skipped.
    pub async fn try_head(&mut self) -> Option<(u16, Vec<(String, String)>)> {
        loop {
            let mut headers = [httparse::EMPTY_HEADER; 128];
            let mut head = httparse::Response::new(&mut headers);
            match head.parse(&self.buffer).expect("a well-formed answer") {
                httparse::Status::Complete(length) => {
                    let status = head.code.expect("parsed");
                    let headers = head
                        .headers
                        .iter()
                        .map(|h| {
                            let value = String::from_utf8_lossy(h.value).into_owned();
                            (h.name.to_ascii_lowercase(), value)
                        })
                        .collect();
                    self.buffer.drain(..length);
                    if (100..200).contains(&status) && status != 101 {
                        continue;
                    }
                    return Some((status, headers));
                }
                httparse::Status::Partial => {
                    if self.fill().await == 0 {
                        return None;
                    }
                }
            }
        }
    }

    /// Reads a whole answer.
    pub async fn response(&mut self) -> Response {
        let (status, headers) = self.head().await;
        let mut response = Response { status, headers, body: Vec::new() };
        if response.header("transfer-encoding").is_some_and(|v| v.contains("chunked")) {
            while let Some(chunk) = self.chunk().await {
                response.body.extend_from_slice(&chunk);
            }
        } else if let Some(length) = response.header("content-length") {
            let length: usize = length.parse().expect("a number");
            while self.buffer.len() < length {
                assert_ne!(self.fill().await, 0, "the body is cut: {:?}", self.buffer);
            }
            response.body = self.buffer.drain(..length).collect();
        } else if status != 204 && status != 304 {
            while self.fill().await > 0 {}
            response.body = std::mem::take(&mut self.buffer);
        }
        response
    }

    /// The next chunk of a chunked body; `None` at its end.
    ///
    /// # Panics
    /// When the connection closes inside the body, which is how a client sees a cut answer.
    pub async fn chunk(&mut self) -> Option<Vec<u8>> {
        self.try_chunk().await.expect("the body is not cut")
    }

    /// The next chunk; `Some(None)` at the proper end, `None` where the connection closed inside.
    pub async fn try_chunk(&mut self) -> Option<Option<Vec<u8>>> {
        loop {
            if let Some(line) = self.buffer.windows(2).position(|pair| pair == b"\r\n") {
                let size = std::str::from_utf8(&self.buffer[..line]).expect("a chunk size");
                let size = usize::from_str_radix(size.trim(), 16).expect("a chunk size");
                let end = line + 2 + size + 2;
                if self.buffer.len() >= end {
                    let chunk = self.buffer[line + 2..line + 2 + size].to_vec();
                    self.buffer.drain(..end);
                    return Some((size > 0).then_some(chunk));
                }
            }
            if self.fill().await == 0 {
                return None;
            }
        }
    }

    /// Reads from a chunked stream until the text so far holds `wanted`; the text.
    pub async fn read_until(&mut self, wanted: &str) -> String {
        let mut text = String::new();
        while !text.contains(wanted) {
            let chunk =
                self.chunk().await.unwrap_or_else(|| panic!("ended without {wanted}: {text}"));
            text.push_str(&String::from_utf8_lossy(&chunk));
        }
        text
    }

    /// The data of the next event of a chunked stream; `None` at its proper end. Comments are
    /// skipped.
    pub async fn next_event(&mut self) -> Option<String> {
        self.try_event().await.expect("the body is not cut")
    }

    /// The data of the next event; `Some(None)` at the proper end, `None` where the connection closed
    /// inside.
    pub async fn try_event(&mut self) -> Option<Option<String>> {
        loop {
            while let Some(end) = self.event.find("\n\n") {
                let event: String = self.event.drain(..end + 2).collect();
                if let Some(data) = event.lines().find_map(|line| line.strip_prefix("data: ")) {
                    return Some(Some(data.trim().to_owned()));
                }
            }
            let Some(chunk) = self.try_chunk().await? else { return Some(None) };
            self.event.push_str(&String::from_utf8_lossy(&chunk).replace("\r\n", "\n"));
        }
    }

    /// Says that nothing more will be sent, and keeps reading.
    pub async fn half_close(&mut self) {
        self.stream.shutdown().await.expect("the connection is open");
    }

    /// Sends bytes as they are and reads the first answer; `None` if there is none. Where it says
    /// that the server closes, the server has to, without a second answer.
    ///
    /// # Panics
    /// When it does not.
    pub async fn raw_exchange(address: SocketAddr, bytes: &[u8]) -> Option<Response> {
        let mut connection = Connection::open(address).await;
        connection.try_write(bytes).await;
        let (status, headers) = connection.try_head().await?;
        let mut response = Response { status, headers, body: Vec::new() };
        if let Some(length) = response.header("content-length") {
            let length: usize = length.parse().expect("a number");
            while connection.buffer.len() < length && connection.fill().await > 0 {}
            let end = length.min(connection.buffer.len());
            response.body = connection.buffer.drain(..end).collect();
        }
        let closes = response.header("connection").is_some_and(|v| v.eq_ignore_ascii_case("close"));
        let rest = if closes {
            assert!(
                connection.closes(PATIENCE).await,
                "open after {}: {}",
                response.status,
                response.text()
            );
            std::mem::take(&mut connection.buffer)
        } else {
            Vec::new()
        };
        assert!(
            !rest.windows(5).any(|five| five == b"HTTP/"),
            "a second answer: {}",
            String::from_utf8_lossy(&rest)
        );
        Some(response)
    }

    /// Exactly `count` raw bytes.
    pub async fn bytes(&mut self, count: usize) -> Vec<u8> {
        while self.buffer.len() < count {
            assert_ne!(self.fill().await, 0, "closed");
        }
        self.buffer.drain(..count).collect()
    }

    /// Whether the server closes the connection within `within`, reading what it still says.
    pub async fn closes(&mut self, within: Duration) -> bool {
        tokio::time::timeout(within, async { while self.fill().await > 0 {} }).await.is_ok()
    }

    /// Closes hard, with a reset.
    pub fn reset(self) {
        let _ = self.stream.set_zero_linger();
    }
}
