//! Small servers that say what they are told to, and names that point to them.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tollway_agent::outgoing::{LookingUp, Lookup};

/// A request as it came.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Seen {
    /// The method and the target, `GET /path`.
    pub(crate) fn line(&self) -> &str {
        self.head.split(" HTTP/1.1").next().unwrap_or_default()
    }

    /// A header's value.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (key, value) = line.split_once(": ")?;
            key.eq_ignore_ascii_case(name).then_some(value)
        })
    }
}

/// What a server does with a request: writes these bytes, and closes unless there are none, which
/// keeps the connection open and silent.
type Script = dyn Fn(&Seen) -> Vec<u8> + Send + Sync;

/// A server. Dropping it stops it.
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Server {
    /// Starts one on a free port of an address of this machine.
    pub(crate) async fn start(
        address: &str,
        script: impl Fn(&Seen) -> Vec<u8> + Send + Sync + 'static,
    ) -> Server {
        Server::start_at((address, 0), script).await
    }

    /// Starts one on a given port.
    pub(crate) async fn start_at(
        address: (&str, u16),
        script: impl Fn(&Seen) -> Vec<u8> + Send + Sync + 'static,
    ) -> Server {
        let listener = TcpListener::bind(address).await.expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let (seen, script) = (Arc::default(), Arc::new(script));
        let task = tokio::spawn(serve(listener, script, Arc::clone(&seen)));
        Server { address, seen, task }
    }

    /// A URL there.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// The requests so far.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(listener: TcpListener, script: Arc<Script>, seen: Arc<Mutex<Vec<Seen>>>) {
    while let Ok((stream, _)) = listener.accept().await {
        let (script, seen) = (script.clone(), seen.clone());
        tokio::spawn(async move {
            // Clients that go away in the middle are part of the tests.
            let _ = answer(stream, &*script, &seen).await;
        });
    }
}

async fn answer(mut stream: TcpStream, script: &Script, seen: &Mutex<Vec<Seen>>) -> io::Result<()> {
    let mut bytes = Vec::new();
    let end = loop {
        if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            break end + 4;
        }
        if stream.read_buf(&mut bytes).await? == 0 {
            return Ok(());
        }
    };
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let mut request = Seen { head, body: String::new() };
    let length: usize =
        request.header("content-length").map_or(0, |n| n.parse().expect("a number"));
    while bytes.len() < end + length {
        if stream.read_buf(&mut bytes).await? == 0 {
            return Ok(());
        }
    }
    request.body = String::from_utf8_lossy(&bytes[end..]).into_owned();
    seen.lock().push(request.clone());
    let answer = script(&request);
    if answer.is_empty() {
        // Until the client has had enough.
        stream.read_buf(&mut bytes).await?;
        return Ok(());
    }
    stream.write_all(&answer).await?;
    stream.shutdown().await
}

/// An answer with a body.
pub(crate) fn ok(media_type: &str, body: impl AsRef<[u8]>) -> Vec<u8> {
    with_head(200, &format!("content-type: {media_type}\r\n"), body)
}

/// An answer with a status, more of a head, and a body.
pub(crate) fn with_head(status: u16, head: &str, body: impl AsRef<[u8]>) -> Vec<u8> {
    let body = body.as_ref();
    let length = body.len();
    let mut answer =
        format!("HTTP/1.1 {status} Said\r\ncontent-length: {length}\r\n{head}\r\n").into_bytes();
    answer.extend_from_slice(body);
    answer
}

/// An answer that sends on to another place.
pub(crate) fn redirect(status: u16, to: &str) -> Vec<u8> {
    with_head(status, &format!("location: {to}\r\n"), "")
}

/// Listens where nobody has any business.
pub(crate) struct Canary {
    pub(crate) address: SocketAddr,
    listener: TcpListener,
}

impl Canary {
    pub(crate) async fn start() -> Canary {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a free port");
        Canary { address: listener.local_addr().expect("it is bound"), listener }
    }

    /// Nobody has connected: who comes first is we. Whoever had connected before us would be first,
    /// because the system queues them.
    pub(crate) async fn assert_untouched(&self, after: &str) {
        let own = TcpStream::connect(self.address).await.expect("the canary listens");
        let (_, first) = self.listener.accept().await.expect("somebody connects");
        assert_eq!(first, own.local_addr().expect("it is connected"), "reached by {after}");
    }

    /// Waits until somebody connects, and turns them away.
    pub(crate) async fn listens_until_touched(&self, by: &str) {
        let patience = std::time::Duration::from_secs(30);
        let touched = tokio::time::timeout(patience, self.listener.accept()).await;
        touched.unwrap_or_else(|_| panic!("not reached by {by}")).expect("somebody connects");
    }
}

/// Names as a test wants them. The answers to one name come in turn; the last one stays.
#[derive(Clone, Default)]
pub(crate) struct Names(Arc<Mutex<HashMap<String, Answers>>>);

#[derive(Default)]
struct Answers {
    answers: Vec<Vec<IpAddr>>,
    asked: usize,
}

impl Names {
    /// With another name.
    pub(crate) fn with(self, host: &str, answers: &[&[&str]]) -> Names {
        let read =
            |list: &&[&str]| list.iter().map(|text| text.parse().expect("an address")).collect();
        let answers = answers.iter().map(read).collect();
        self.0.lock().insert(host.to_owned(), Answers { answers, asked: 0 });
        self
    }

    /// How often a name was asked for.
    pub(crate) fn asked(&self, host: &str) -> usize {
        self.0.lock().get(host).map_or(0, |answers| answers.asked)
    }
}

impl Lookup for Names {
    fn lookup<'a>(&'a self, host: &'a str) -> LookingUp<'a> {
        let mut names = self.0.lock();
        let answer = names.get_mut(host).map(|known| {
            known.asked += 1;
            known.answers[known.asked.min(known.answers.len()) - 1].clone()
        });
        let answer = answer.ok_or_else(|| io::Error::other("no such name"));
        Box::pin(std::future::ready(answer))
    }
}
