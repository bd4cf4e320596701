//! Servers by HTTP as it was in the protocol's first version: one stream of events that says where
//! requests are posted, and has all answers.

use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tollway_wire::sse::{Parser, TooLong};

use crate::mcp::MESSAGE_BYTES_MAX;
use crate::mcp::connection::{McpError, Mux};
use crate::mcp::http::{Place, refused};
use crate::outgoing::Answer;

/// How long one stream is used: then it is opened again.
const STREAM: Duration = Duration::from_secs(24 * 3600);

/// A server. Dropping this closes its stream.
pub(crate) struct Sse {
    pub(crate) mux: Mux,
    tasks: [JoinHandle<()>; 2],
}

impl Drop for Sse {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

impl Sse {
    /// Opens the stream, and learns where requests go: to the same host, and nowhere else.
    pub(crate) async fn open(place: Place, within: Duration, mux: Mux) -> Result<Sse, McpError> {
        let answer = place.listen(STREAM);
        let answer = tokio::time::timeout(within, answer);
        let answer = answer.await.unwrap_or(Err(McpError::TimedOut(within)))?;
        if !answer.status().is_success() {
            return Err(refused(answer.status()));
        }
        if answer.media_type().as_deref() != Some("text/event-stream") {
            return Err(McpError::Broken("it has no stream of events".to_owned()));
        }
        let Some(unsent) = mux.take_unsent() else {
            return Err(McpError::Away("it is written to already".to_owned()));
        };
        let (tell, told) = oneshot::channel();
        let reader = mux.clone();
        let reading = tokio::spawn(async move {
            let why = read(answer, &reader, tell).await;
            reader.ears.end(why);
        });
        let posts = tokio::time::timeout(within, told).await;
        let path = match posts {
            Ok(Ok(path)) => path,
            _ => {
                reading.abort();
                let why = "its stream does not say where requests go";
                return Err(McpError::Broken(why.to_owned()));
            }
        };
        let url = place.url.join(&path).ok().filter(|url| url.origin() == place.url.origin());
        let Some(url) = url else {
            reading.abort();
            return Err(McpError::Broken("its stream sends requests elsewhere".to_owned()));
        };
        let writer = mux.clone();
        let writing = tokio::spawn(write(place.at(url), unsent, within, writer));
        Ok(Sse { mux, tasks: [reading, writing] })
    }
}

async fn write(place: Place, mut unsent: mpsc::Receiver<Bytes>, within: Duration, mux: Mux) {
    while let Some(message) = unsent.recv().await {
        let Ok(message) = serde_json::from_slice(&message) else { continue };
        match place.post(&message, &HeaderMap::new(), within).await {
            Ok(answer) if answer.status().is_success() => {}
            Ok(answer) => return mux.ears.end(refused(answer.status()).to_string()),
            Err(error) => return mux.ears.end(error.to_string()),
        }
    }
}

/// Reads to the end: why.
async fn read(mut answer: Answer, mux: &Mux, tell: oneshot::Sender<String>) -> String {
    let mut parser = Parser::new(MESSAGE_BYTES_MAX);
    let mut tell = Some(tell);
    loop {
        let bytes = match answer.chunk().await {
            Ok(Some(bytes)) => bytes,
            Ok(None) => return "it has closed its stream".to_owned(),
            Err(error) => return error.to_string(),
        };
        let read = parser.push(&bytes, |event| {
            match event.name {
                b"endpoint" => {
                    let path = String::from_utf8_lossy(event.data).trim().to_owned();
                    tell.take().into_iter().for_each(|tell| drop(tell.send(path.clone())));
                }
                _ => mux.received(event.data),
            }
            Ok::<_, TooLong>(())
        });
        if let Err(error) = read {
            return error.to_string();
        }
    }
}
