//! A client that sees every byte.

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tollway_simulator::Simulator;

/// How a response ended.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Ended {
    /// As its framing said.
    Complete,
    /// By the end of the connection, where the framing promised more.
    Short,
    /// By a reset.
    Reset,
    /// By chunked encoding that is none.
    BadChunk,
}

#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: Vec<u8>,
    pub(crate) chunks: usize,
    pub(crate) ended: Ended,
}

impl Response {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The data of each event; `[DONE]` as a string.
    pub(crate) fn events(&self) -> Vec<Value> {
        let text = self.text();
        let data = text.lines().filter_map(|line| line.strip_prefix("data: "));
        data.map(|data| serde_json::from_str(data).unwrap_or_else(|_| data.into())).collect()
    }

    /// The text that OpenAI's chunks add up to.
    pub(crate) fn streamed(&self) -> String {
        let events = self.events();
        events.iter().filter_map(|e| e["choices"][0]["delta"]["content"].as_str()).collect()
    }

    pub(crate) fn header(&self, name: &str) -> Option<String> {
        let mut lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.to_owned())
    }
}

pub(crate) struct Client {
    pub(crate) stream: TcpStream,
    pub(crate) buffer: Vec<u8>,
    pub(crate) gone: Option<Ended>,
}

impl Client {
    pub(crate) async fn new(simulator: &Simulator) -> Client {
        let stream = TcpStream::connect(simulator.addr()).await.unwrap();
        Client { stream, buffer: Vec::new(), gone: None }
    }

    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).await.unwrap();
    }

    pub(crate) async fn post(
        &mut self,
        path: &str,
        headers: &str,
        body: &Value,
    ) -> Option<Response> {
        let body = body.to_string();
        let length = body.len();
        let head = format!("POST {path} HTTP/1.1\r\n{headers}content-length: {length}\r\n\r\n");
        self.send(head + &body).await;
        self.response().await
    }

    pub(crate) async fn more(&mut self) -> bool {
        if self.gone.is_none() {
            match self.stream.read_buf(&mut self.buffer).await {
                Ok(0) => self.gone = Some(Ended::Short),
                Ok(_) => return true,
                Err(_) => self.gone = Some(Ended::Reset),
            }
        }
        false
    }

    pub(crate) async fn take(&mut self, count: usize) -> Option<Vec<u8>> {
        while self.buffer.len() < count {
            if !self.more().await {
                return None;
            }
        }
        Some(self.buffer.drain(..count).collect())
    }

    pub(crate) async fn until(&mut self, end: &[u8]) -> Option<Vec<u8>> {
        loop {
            if let Some(at) = self.buffer.windows(end.len()).position(|window| window == end) {
                return self.take(at + end.len()).await;
            }
            if !self.more().await {
                return None;
            }
        }
    }

    /// One response, or `None` if the connection ends before its head does.
    pub(crate) async fn response(&mut self) -> Option<Response> {
        let head = String::from_utf8_lossy(&self.until(b"\r\n\r\n").await?).into_owned();
        let status = head.get(9..12)?.parse().ok()?;
        let mut response =
            Response { status, head, body: Vec::new(), chunks: 0, ended: Ended::Complete };
        if status < 200 {
            return Some(response);
        }
        if let Some(length) = response.header("content-length") {
            let length: usize = length.parse().ok()?;
            match self.take(length).await {
                Some(body) => response.body = body,
                None => self.cut(&mut response),
            }
        } else if response.header("transfer-encoding").is_some() {
            loop {
                let Some(line) = self.until(b"\r\n").await else {
                    self.cut(&mut response);
                    break;
                };
                let line = String::from_utf8_lossy(&line).into_owned();
                let Ok(size) = usize::from_str_radix(line.trim(), 16) else {
                    response.ended = Ended::BadChunk;
                    break;
                };
                let Some(chunk) = self.take(size + 2).await else {
                    self.cut(&mut response);
                    break;
                };
                if size == 0 {
                    break;
                }
                response.chunks += 1;
                response.body.extend_from_slice(&chunk[..size]);
            }
        } else {
            while self.more().await {}
            response.body = std::mem::take(&mut self.buffer);
        }
        Some(response)
    }

    pub(crate) fn cut(&mut self, response: &mut Response) {
        response.ended = self.gone.take().unwrap_or(Ended::Short);
        response.body.append(&mut self.buffer);
    }

    pub(crate) async fn is_closed(&mut self) -> bool {
        !self.more().await
    }
}
