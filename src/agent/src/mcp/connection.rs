//! A connection to a server, whatever carries it: it is greeted, asked, and told no.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use serde_json::{Map, Value, json};
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::time::timeout;

use crate::mcp::http::Http;
use crate::mcp::message::{self, METHOD_NOT_FOUND, Message, RpcError};
use crate::mcp::pipe::Pipe;
use crate::mcp::sse::Sse;
use crate::mcp::{VERSION, VERSIONS, implementation};
use crate::secrets::Secrets;
use crate::tool::ToolError;

/// Requests that wait for their answers on one connection.
const WAITING_MAX: usize = 256;
/// Messages that wait to be sent on one connection.
const UNSENT_MAX: usize = 64;
/// What a tool says while it works, until somebody has read it.
const PROGRESS_MAX: usize = 32;
/// The longest text of an error that is passed on.
const ERROR_BYTES_MAX: usize = 2 * 1024;

/// Why a server has not done what it was asked.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub(crate) enum McpError {
    /// It cannot be reached: nothing was done.
    #[error("{0}")]
    Away(String),
    /// It went away while it was at it: nobody knows what was done.
    #[error("{0}")]
    Lost(String),
    /// It took too long.
    #[error("no answer within {} s", .0.as_secs())]
    TimedOut(Duration),
    /// It says no.
    #[error("{0}")]
    Refused(RpcError),
    /// It answers with what cannot be understood.
    #[error("{0}")]
    Broken(String),
    /// It has too much to do.
    #[error("too many calls are under way")]
    Busy,
    /// It has forgotten who we are.
    #[error("the session is gone")]
    SessionGone,
}

impl From<McpError> for ToolError {
    fn from(error: McpError) -> ToolError {
        match error {
            McpError::Away(why) => unavailable(why),
            McpError::SessionGone => unavailable("the MCP server has no session any more"),
            McpError::TimedOut(limit) => ToolError::TimedOut(limit),
            McpError::Busy => ToolError::RateLimited(Duration::from_secs(1)),
            McpError::Refused(error) => {
                ToolError::Failed(format!("the MCP server refused it: {}", cut(error.message)))
            }
            McpError::Lost(why) | McpError::Broken(why) => {
                ToolError::Failed(format!("the MCP server failed: {}", cut(why)))
            }
        }
    }
}

/// A server's tool cannot be used now.
pub(crate) fn unavailable(why: impl Into<String>) -> ToolError {
    ToolError::Unavailable { code: "mcp_server_unavailable", message: cut(why.into()) }
}

fn cut(mut text: String) -> String {
    text.truncate(text.floor_char_boundary(ERROR_BYTES_MAX));
    text
}

/// What a connection hears beside answers.
#[derive(Debug)]
pub(crate) struct Ears {
    /// The server has other tools now.
    pub(crate) list_changed: Notify,
    /// Why the connection is over.
    ended: watch::Sender<Option<String>>,
}

impl Ears {
    fn new() -> Arc<Ears> {
        Arc::new(Ears { list_changed: Notify::new(), ended: watch::Sender::new(None) })
    }

    /// The connection is over. The first reason counts.
    pub(crate) fn end(&self, why: impl Into<String>) {
        let why = why.into();
        self.ended.send_if_modified(|ended| match ended {
            Some(_) => false,
            None => {
                *ended = Some(why);
                true
            }
        });
    }

    /// Waits until the connection is over: why.
    pub(crate) async fn ended(&self) -> String {
        let mut ended = self.ended.subscribe();
        match ended.wait_for(Option::is_some).await {
            Ok(why) => why.clone().unwrap_or_default(),
            Err(_) => String::new(),
        }
    }

    /// Takes what the server has said by itself.
    pub(crate) fn hear(&self, method: &str) {
        if method == "notifications/tools/list_changed" {
            self.list_changed.notify_one();
        }
    }
}

/// What is answered to a server that wants something of us: nothing but that we are there.
pub(crate) fn answer_to(id: &Value, method: &str) -> Value {
    match method {
        "ping" => message::answer(id, &json!({})),
        _ => {
            let method: String = method.chars().take(100).collect();
            let message = format!("This client does not offer {method}.");
            message::refusal(id, &RpcError::new(METHOD_NOT_FOUND, message))
        }
    }
}

/// What a notification says of the progress of this request.
pub(crate) fn progress_of(params: &Map<String, Value>) -> Option<(u64, String)> {
    let token = params.get("progressToken")?.as_u64()?;
    let number = |name| params.get(name).filter(|value| value.is_number());
    let text = match (params.get("message").and_then(Value::as_str), number("progress")) {
        (Some(text), _) => cut(text.to_owned()),
        (None, Some(done)) => match number("total") {
            Some(total) => format!("{done}/{total}"),
            None => done.to_string(),
        },
        (None, None) => return None,
    };
    Some((token, text + "\n"))
}

/// Takes what a tool says while it works.
pub(crate) type Progress<'a> = &'a (dyn Fn(&str) + Send + Sync);

/// A server that has been greeted.
pub(crate) struct Session {
    carrier: Carrier,
    ids: AtomicU64,
    pub(crate) ears: Arc<Ears>,
    within: Duration,
    /// What the server knows of us, and is not to tell.
    secrets: Secrets,
}

/// What carries messages.
enum Carrier {
    Pipe(Pipe),
    Http(Box<Http>),
    Sse(Sse),
}

impl Session {
    /// A program that was started.
    pub(crate) async fn of_pipe(
        open: impl FnOnce(Mux) -> Result<Pipe, McpError>,
        within: Duration,
        secrets: Secrets,
    ) -> Result<Session, McpError> {
        let ears = Ears::new();
        let pipe = open(Mux::new(Arc::clone(&ears)))?;
        Session::greeted(Carrier::Pipe(pipe), ears, within, secrets).await
    }

    /// A server by streamable HTTP.
    pub(crate) async fn of_http(
        http: Http,
        within: Duration,
        secrets: Secrets,
    ) -> Result<Session, McpError> {
        let ears = Ears::new();
        Session::greeted(Carrier::Http(Box::new(http)), ears, within, secrets).await
    }

    /// A server by HTTP and one stream of events.
    pub(crate) async fn of_sse(
        open: impl AsyncFnOnce(Mux) -> Result<Sse, McpError>,
        within: Duration,
        secrets: Secrets,
    ) -> Result<Session, McpError> {
        let ears = Ears::new();
        let sse = open(Mux::new(Arc::clone(&ears))).await?;
        Session::greeted(Carrier::Sse(sse), ears, within, secrets).await
    }

    async fn greeted(
        carrier: Carrier,
        ears: Arc<Ears>,
        within: Duration,
        secrets: Secrets,
    ) -> Result<Session, McpError> {
        let session = Session { carrier, ids: AtomicU64::new(1), ears, within, secrets };
        let greeting = timeout(within, session.greet()).await;
        let greeted = greeting.unwrap_or(Err(McpError::TimedOut(within)));
        greeted.map_err(|error| session.hidden(error))?;
        Ok(session)
    }

    async fn greet(&self) -> Result<(), McpError> {
        match &self.carrier {
            // It does so by itself, and again where its session is lost.
            Carrier::Http(http) => http.greet(&self.ears).await,
            Carrier::Pipe(Pipe { mux, .. }) | Carrier::Sse(Sse { mux, .. }) => {
                let id = self.ids.fetch_add(1, Ordering::Relaxed);
                let result = mux.ask(id, "initialize", &greeting(), None).await?;
                version_of(&result)?;
                mux.say("notifications/initialized", &json!({})).await
            }
        }
    }

    /// Asks, and waits for the answer, within the time that the server has. Dropping the future tells
    /// the server that nobody waits any more.
    pub(crate) async fn ask(
        &self,
        method: &str,
        mut params: Value,
        progress: Option<Progress<'_>>,
    ) -> Result<Value, McpError> {
        let id = self.ids.fetch_add(1, Ordering::Relaxed);
        if progress.is_some() {
            params["_meta"]["progressToken"] = id.into();
        }
        let hidden = |text: &str| {
            let mut text = text.to_owned();
            self.secrets.hide_in(&mut text);
            progress.into_iter().for_each(|progress| progress(&text));
        };
        let progress = progress.is_some().then_some(&hidden as Progress<'_>);
        let asking = async {
            match &self.carrier {
                Carrier::Http(http) => http.ask(id, method, &params, progress, &self.ears).await,
                Carrier::Pipe(Pipe { mux, .. }) | Carrier::Sse(Sse { mux, .. }) => {
                    mux.ask(id, method, &params, progress).await
                }
            }
        };
        let asked = timeout(self.within, asking).await;
        match asked.unwrap_or(Err(McpError::TimedOut(self.within))) {
            Ok(mut result) => {
                self.secrets.hide_in_value(&mut result);
                Ok(result)
            }
            Err(error) => Err(self.hidden(error)),
        }
    }

    /// An error without what the server may have said of us in it.
    fn hidden(&self, mut error: McpError) -> McpError {
        match &mut error {
            McpError::Refused(refusal) => self.secrets.hide_in(&mut refusal.message),
            McpError::Away(why) | McpError::Lost(why) | McpError::Broken(why) => {
                self.secrets.hide_in(why);
            }
            McpError::TimedOut(_) | McpError::Busy | McpError::SessionGone => {}
        }
        error
    }
}

/// What we say first.
pub(crate) fn greeting() -> Value {
    json!({
        "protocolVersion": VERSION,
        "capabilities": {},
        "clientInfo": implementation(),
    })
}

/// The version a server has chosen.
pub(crate) fn version_of(result: &Value) -> Result<&'static str, McpError> {
    let chosen = result.get("protocolVersion").and_then(Value::as_str).unwrap_or_default();
    VERSIONS.iter().find(|version| **version == chosen).copied().ok_or_else(|| {
        // Cut short, a secret in it would not be known for one.
        let is_short = chosen.len() <= 40;
        let chosen = if is_short { chosen } else { "…" };
        McpError::Broken(format!("the MCP server speaks version {chosen:?} of the protocol"))
    })
}

/// One who waits for an answer.
struct Waiting {
    answer: oneshot::Sender<Result<Value, RpcError>>,
    progress: Option<mpsc::Sender<String>>,
}

/// Puts answers to their requests where both go through one line.
#[derive(Clone)]
pub(crate) struct Mux {
    waiting: Arc<Mutex<HashMap<u64, Waiting>>>,
    outbox: mpsc::Sender<Bytes>,
    /// What is to be sent: taken once, by who sends it.
    unsent: Arc<Mutex<Option<mpsc::Receiver<Bytes>>>>,
    pub(crate) ears: Arc<Ears>,
}

impl Mux {
    fn new(ears: Arc<Ears>) -> Mux {
        let (outbox, unsent) = mpsc::channel(UNSENT_MAX);
        let unsent = Arc::new(Mutex::new(Some(unsent)));
        Mux { waiting: Arc::default(), outbox, unsent, ears }
    }

    /// What is to be sent. None the second time.
    pub(crate) fn take_unsent(&self) -> Option<mpsc::Receiver<Bytes>> {
        self.unsent.lock().take()
    }

    async fn send(&self, message: &Value) -> Result<(), McpError> {
        let sent = self.outbox.send(message.to_string().into()).await;
        sent.map_err(|_| McpError::Away("the MCP server is gone".to_owned()))
    }

    async fn say(&self, method: &str, params: &Value) -> Result<(), McpError> {
        self.send(&message::notification(method, params)).await
    }

    async fn ask(
        &self,
        id: u64,
        method: &str,
        params: &Value,
        progress: Option<Progress<'_>>,
    ) -> Result<Value, McpError> {
        let (answer, mut answered) = oneshot::channel();
        let (teller, mut told) = mpsc::channel(PROGRESS_MAX);
        {
            let mut waiting = self.waiting.lock();
            if waiting.len() >= WAITING_MAX {
                return Err(McpError::Busy);
            }
            let progress = progress.is_some().then_some(teller);
            waiting.insert(id, Waiting { answer, progress });
        }
        let mut guard = Guard { mux: self, id, is_cancellable: method != "initialize" };
        self.send(&message::request(id, method, params)).await?;
        loop {
            tokio::select! {
                biased;
                Some(text) = told.recv() => {
                    if let Some(progress) = progress {
                        progress(&text);
                    }
                }
                answered = &mut answered => {
                    guard.is_cancellable = false;
                    return match answered {
                        Ok(result) => result.map_err(McpError::Refused),
                        Err(_) => Err(McpError::Broken("its answer was lost".to_owned())),
                    };
                }
                why = self.ears.ended() => {
                    guard.is_cancellable = false;
                    return Err(McpError::Lost(why));
                }
            }
        }
    }

    /// Takes a message as it has come. What is none, or is meant for nobody, is passed over: programs
    /// print what they like.
    pub(crate) fn received(&self, bytes: &[u8]) {
        match Message::read(bytes) {
            Ok(Message::Answer { id, result }) => {
                let waiting = id.as_u64().and_then(|id| self.waiting.lock().remove(&id));
                match waiting {
                    // Who does not wait any more has dropped it.
                    Some(waiting) => drop(waiting.answer.send(result)),
                    None => tracing::debug!("an MCP server answers what nobody has asked"),
                }
            }
            Ok(Message::Request { id, method, .. }) => {
                // Where it asks faster than it reads, it waits for ever.
                let answer = answer_to(&id, &method).to_string().into();
                let _ = self.outbox.try_send(answer);
            }
            Ok(Message::Notification { method, params }) => {
                if method != "notifications/progress" {
                    return self.ears.hear(&method);
                }
                let Some((token, text)) = progress_of(&params) else { return };
                let teller = self.waiting.lock().get(&token).and_then(|w| w.progress.clone());
                if let Some(teller) = teller {
                    let _ = teller.try_send(text);
                }
            }
            Err(error) => tracing::debug!(%error, "an MCP server says what is no message"),
        }
    }
}

/// Forgets a request that nobody waits for any more, and tells the server.
struct Guard<'a> {
    mux: &'a Mux,
    id: u64,
    is_cancellable: bool,
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        self.mux.waiting.lock().remove(&self.id);
        if self.is_cancellable {
            let said = cancelled(self.id).to_string().into();
            let _ = self.mux.outbox.try_send(said);
        }
    }
}

/// Nobody waits for this request any more.
pub(crate) fn cancelled(id: u64) -> Value {
    message::notification("notifications/cancelled", &json!({"requestId": id}))
}
