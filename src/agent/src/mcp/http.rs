//! Servers by streamable HTTP: each request is a POST, its answer JSON or a stream of events.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use http::header::{ACCEPT, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use serde_json::{Value, json};
use tollway_wire::sse::{Parser, TooLong};
use url::Url;

use crate::mcp::MESSAGE_BYTES_MAX;
use crate::mcp::connection::{
    Ears, McpError, Progress, answer_to, cancelled, greeting, progress_of, version_of,
};
use crate::mcp::message::{self, Message};
use crate::mcp::settings::Endpoint;
use crate::outgoing::{Answer, Client, Outgoing, OutgoingError, Request};

const SESSION: HeaderName = HeaderName::from_static("mcp-session-id");
const VERSION: HeaderName = HeaderName::from_static("mcp-protocol-version");
const JSON: HeaderValue = HeaderValue::from_static("application/json");
const ANY: HeaderValue = HeaderValue::from_static("application/json, text/event-stream");
const EVENTS: HeaderValue = HeaderValue::from_static("text/event-stream");
/// How long what is only said may take.
const SAYING: Duration = Duration::from_secs(10);

/// An endpoint, and the client that may call it and nothing else.
#[derive(Clone)]
pub(crate) struct Place {
    client: Client,
    pub(crate) url: Url,
    headers: HeaderMap,
}

impl Place {
    /// Where an operator's endpoint is.
    pub(crate) fn of(endpoint: &Endpoint, outgoing: &Outgoing) -> Result<Place, McpError> {
        let client = outgoing.trusted(&endpoint.url);
        let client = client.map_err(|error| McpError::Away(error.to_string()))?;
        Ok(Place { client, url: endpoint.url.clone(), headers: endpoint.headers.clone() })
    }

    /// The same at another path there.
    pub(crate) fn at(&self, url: Url) -> Place {
        Place { url, ..self.clone() }
    }

    /// Sends a message; the answer's head.
    pub(crate) async fn post(
        &self,
        body: &Value,
        more: &HeaderMap,
        within: Duration,
    ) -> Result<Answer, McpError> {
        let mut request = self.request(Method::POST, more, within);
        request.headers.insert(CONTENT_TYPE, JSON);
        request.headers.insert(ACCEPT, ANY);
        request.body = body.to_string().into();
        self.send(request).await
    }

    /// Opens a stream of events.
    pub(crate) async fn listen(&self, within: Duration) -> Result<Answer, McpError> {
        let mut request = self.request(Method::GET, &HeaderMap::new(), within);
        request.headers.insert(ACCEPT, EVENTS);
        request.body_bytes_max = usize::MAX;
        self.send(request).await
    }

    fn request(&self, method: Method, more: &HeaderMap, within: Duration) -> Request {
        let mut headers = self.headers.clone();
        headers.extend(more.clone());
        Request {
            method,
            headers,
            within,
            body_bytes_max: MESSAGE_BYTES_MAX,
            ..Request::get(self.url.clone())
        }
    }

    async fn send(&self, request: Request) -> Result<Answer, McpError> {
        self.client.send(request).await.map_err(|error| match error {
            OutgoingError::TimedOut(within) => McpError::TimedOut(within),
            error @ OutgoingError::TooLarge(_) => McpError::Broken(error.to_string()),
            error => McpError::Away(format!("it cannot be reached: {error}")),
        })
    }
}

/// What an answer that is no success means.
pub(crate) fn refused(status: StatusCode) -> McpError {
    let away = |why: String| McpError::Away(why);
    match status.as_u16() {
        401 | 403 => away(format!("it does not take our credentials: HTTP {status}")),
        429 => McpError::Busy,
        502..=504 => away(format!("it is away: HTTP {status}")),
        _ => McpError::Broken(format!("HTTP {status}")),
    }
}

fn lost(error: OutgoingError) -> McpError {
    match error {
        OutgoingError::TimedOut(within) => McpError::TimedOut(within),
        error => McpError::Lost(error.to_string()),
    }
}

/// A server.
pub(crate) struct Http {
    place: Place,
    within: Duration,
    /// What each request carries since the greeting: session and version.
    state: ArcSwap<HeaderMap>,
    greeting: tokio::sync::Mutex<()>,
}

impl Http {
    pub(crate) fn new(place: Place, within: Duration) -> Http {
        Http { place, within, state: ArcSwap::default(), greeting: tokio::sync::Mutex::default() }
    }

    /// Begins a session.
    pub(crate) async fn greet(&self, ears: &Ears) -> Result<(), McpError> {
        let state = self.state.load_full();
        self.greet_again(&state, ears).await
    }

    /// Begins a session in the place of one that is gone, unless somebody has done so meanwhile.
    async fn greet_again(&self, gone: &Arc<HeaderMap>, ears: &Ears) -> Result<(), McpError> {
        let _alone = self.greeting.lock().await;
        if !Arc::ptr_eq(gone, &self.state.load()) {
            return Ok(());
        }
        let body = message::request(0, "initialize", &greeting());
        let answer = self.place.post(&body, &HeaderMap::new(), self.within).await?;
        let session = answer.headers().get(SESSION).cloned();
        let result = self.read(answer, 0, None, &HeaderMap::new(), ears).await?;
        let mut state = HeaderMap::new();
        state.insert(VERSION, HeaderValue::from_static(version_of(&result)?));
        if let Some(mut session) = session {
            session.set_sensitive(true);
            state.insert(SESSION, session);
        }
        let said = message::notification("notifications/initialized", &json!({}));
        let answer = self.place.post(&said, &state, self.within).await?;
        if !answer.status().is_success() {
            return Err(refused(answer.status()));
        }
        self.state.store(Arc::new(state));
        Ok(())
    }

    /// Asks. Where the server has forgotten our session, it is greeted anew and asked once more: it
    /// has done nothing then.
    pub(crate) async fn ask(
        &self,
        id: u64,
        method: &str,
        params: &Value,
        progress: Option<Progress<'_>>,
        ears: &Ears,
    ) -> Result<Value, McpError> {
        let body = message::request(id, method, params);
        let state = self.state.load_full();
        match self.ask_once(id, &body, progress, &state, ears).await {
            Err(McpError::SessionGone) => {
                self.greet_again(&state, ears).await?;
                let state = self.state.load_full();
                self.ask_once(id, &body, progress, &state, ears).await
            }
            asked => asked,
        }
    }

    async fn ask_once(
        &self,
        id: u64,
        body: &Value,
        progress: Option<Progress<'_>>,
        state: &Arc<HeaderMap>,
        ears: &Ears,
    ) -> Result<Value, McpError> {
        let mut guard = Guard { place: &self.place, state, id: Some(id) };
        let asked = async {
            let answer = self.place.post(body, state, self.within).await?;
            if answer.status() == StatusCode::NOT_FOUND && state.contains_key(SESSION) {
                return Err(McpError::SessionGone);
            }
            self.read(answer, id, progress, state, ears).await
        };
        let asked = asked.await;
        if !matches!(asked, Err(McpError::TimedOut(_))) {
            guard.id = None;
        }
        asked
    }

    /// The answer to a request, out of JSON or of a stream.
    async fn read(
        &self,
        mut answer: Answer,
        id: u64,
        progress: Option<Progress<'_>>,
        state: &HeaderMap,
        ears: &Ears,
    ) -> Result<Value, McpError> {
        if !answer.status().is_success() {
            return Err(refused(answer.status()));
        }
        let media_type = answer.media_type();
        if media_type.as_deref() == Some("application/json") {
            let bytes = answer.body().await.map_err(lost)?;
            return match Message::read(&bytes) {
                Ok(Message::Answer { id: of, result }) if of.as_u64() == Some(id) => {
                    result.map_err(McpError::Refused)
                }
                Ok(_) => Err(McpError::Broken("it answers what nobody has asked".to_owned())),
                Err(error) => Err(McpError::Broken(format!("it answers with {error}"))),
            };
        }
        if media_type.as_deref() != Some("text/event-stream") {
            return Err(McpError::Broken("it answers with neither JSON nor events".to_owned()));
        }
        let mut parser = Parser::new(MESSAGE_BYTES_MAX);
        let mut heard = Vec::new();
        while let Some(bytes) = answer.chunk().await.map_err(lost)? {
            let read = parser.push(&bytes, |event| {
                heard.extend(Message::read(event.data));
                Ok::<_, TooLong>(())
            });
            read.map_err(|error| McpError::Broken(error.to_string()))?;
            for message in heard.drain(..) {
                match message {
                    Message::Answer { id: of, result } if of.as_u64() == Some(id) => {
                        return result.map_err(McpError::Refused);
                    }
                    Message::Answer { .. } => {
                        tracing::debug!("an MCP server answers what nobody has asked");
                    }
                    Message::Request { id, method, .. } => {
                        let said = answer_to(&id, &method);
                        self.place.post(&said, state, SAYING).await?;
                    }
                    Message::Notification { method, params } => {
                        match progress_of(&params).filter(|_| method == "notifications/progress") {
                            Some((of, text)) if of == id => {
                                progress.into_iter().for_each(|progress| progress(&text));
                            }
                            _ => ears.hear(&method),
                        }
                    }
                }
            }
        }
        Err(McpError::Lost("its answer was cut short".to_owned()))
    }
}

/// Tells a server that nobody waits for a request any more.
struct Guard<'a> {
    place: &'a Place,
    state: &'a Arc<HeaderMap>,
    id: Option<u64>,
}

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        let Some(id) = self.id else { return };
        let (place, state) = (self.place.clone(), Arc::clone(self.state));
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                let _ = place.post(&cancelled(id), &state, SAYING).await;
            });
        }
    }
}
