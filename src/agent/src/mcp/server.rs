//! The servers: each is connected to, listed and connected to again by a task of its own, whatever
//! happens to it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Weak};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use parking_lot::Mutex;
use serde::Serialize;
use serde_json::{Value, json};
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

use crate::mcp::connection::{McpError, Session, unavailable};
use crate::mcp::http::{Http, Place};
use crate::mcp::offer::{Offer, Offered};
use crate::mcp::pipe::{Count, Pipe};
use crate::mcp::settings::{ServerSettings, ServersSettings, Transport};
use crate::mcp::sse::Sse;
use crate::mcp::{GROUP, call};
use crate::outgoing::Outgoing;
use crate::ports::Caller;
use crate::tool::{Call, Called, Output, Tool, ToolError, ToolSpec};
use crate::toolbox::{Missing, Tools, function_name, is_of};

/// How long a server that is away is left alone: at first, and at most.
const PAUSE: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(60));
/// A connection that lasted so long was one.
const STEADY: Duration = Duration::from_secs(30);
/// How often tools are listed again: not every server says when they change.
const LIST_AGAIN: Duration = Duration::from_secs(60);
const LIST_PAUSE: Duration = Duration::from_millis(100);
/// The most pages of a list.
const PAGES_MAX: usize = 32;
/// How long the programs may take to end.
const FAREWELL: Duration = Duration::from_secs(5);
/// Tools of one server that are remembered, also when they are not there any more.
const KNOWN_MAX: usize = 1024;

/// All servers of the config. They outlive a reload that does not change them.
#[derive(Clone)]
pub struct Servers(Arc<Shared>);

struct Shared {
    outgoing: Outgoing,
    running: Mutex<BTreeMap<String, Running>>,
    changes: Changes,
    programs: Count,
}

/// Counts how often the tools there are have changed.
type Changes = Arc<watch::Sender<u64>>;

struct Running {
    settings: ServerSettings,
    server: Arc<Server>,
    task: JoinHandle<()>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
        self.server.leave();
    }
}

/// How a server is.
#[derive(Clone, Debug, Serialize)]
pub struct ServerStatus {
    /// `connected`, `connecting` or `away`.
    pub state: &'static str,
    /// Why it is away.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// What it is for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// How many of its tools can be used.
    pub tools: usize,
    /// Tools that are not what they were when they were first seen: a reload of the config accepts
    /// them as they are.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub changed: Vec<String>,
    /// Tools that cannot be taken, and why.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub refused: BTreeMap<String, &'static str>,
}

impl Servers {
    /// None yet.
    pub fn new(outgoing: Outgoing) -> Servers {
        Servers(Arc::new(Shared {
            outgoing,
            running: Mutex::default(),
            changes: Arc::new(watch::Sender::new(0)),
            programs: Count::new(0),
        }))
    }

    /// The servers there should be, from now on. Those whose settings are the same stay, and what
    /// they offer now is accepted; calls that are under way at others end first. Needs a runtime.
    pub fn replace(&self, wanted: &ServersSettings) {
        let mut running = self.0.running.lock();
        running.retain(|name, have| wanted.get(name) == Some(&have.settings));
        for (name, settings) in wanted {
            if let Some(have) = running.get(name) {
                have.server.accept();
                continue;
            }
            let server = Arc::new(Server {
                name: name.as_str().into(),
                settings: settings.clone(),
                outgoing: self.0.outgoing.clone(),
                programs: self.0.programs.clone(),
                changes: Arc::clone(&self.0.changes),
                session: ArcSwapOption::empty(),
                known: Mutex::default(),
                look: Notify::new(),
            });
            let task = tokio::spawn(Arc::clone(&server).watch());
            running.insert(name.clone(), Running { settings: settings.clone(), server, task });
        }
        drop(running);
        self.0.changes.send_modify(|count| *count += 1);
    }

    /// Told when the tools there are have changed.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.0.changes.subscribe()
    }

    /// Puts the tools there are now in the place of those there were.
    pub(crate) fn put_into(&self, tools: &mut Tools) {
        tools.remove_group(GROUP);
        let mut taken = BTreeSet::new();
        for (name, running) in &*self.0.running.lock() {
            running.server.put_into(name, tools, &mut taken);
        }
    }

    /// How each server is.
    pub fn status(&self) -> BTreeMap<String, ServerStatus> {
        let running = self.0.running.lock();
        running.iter().map(|(name, have)| (name.clone(), have.server.status())).collect()
    }

    /// How those servers are of which a caller may use something.
    pub(crate) fn shown(&self, caller: &Caller, tools: &Tools) -> BTreeMap<String, ServerStatus> {
        let mut shown = self.status();
        shown.retain(|name, _| {
            let group = format!("{GROUP}.{name}");
            let of_group = |tool: &Arc<dyn Tool>| is_of(&group, &tool.spec().name);
            caller.sees_all
                || caller.tools.iter().all(|list| list.allows(&group))
                || tools.allowed_by(&caller.tools).any(of_group)
        });
        shown
    }

    /// Ends all connections, and waits for the programs.
    pub async fn close(&self) {
        self.0.running.lock().clear();
        let mut programs = self.0.programs.subscribe();
        if timeout(FAREWELL, programs.wait_for(|count| *count == 0)).await.is_err() {
            tracing::warn!("programs of MCP servers are still running");
        }
    }
}

/// A server.
struct Server {
    name: Arc<str>,
    settings: ServerSettings,
    outgoing: Outgoing,
    programs: Count,
    changes: Changes,
    /// While it is connected.
    session: ArcSwapOption<Session>,
    known: Mutex<Known>,
    /// Something went wrong: it is looked after at once.
    look: Notify,
}

/// What is known of a server.
#[derive(Default)]
struct Known {
    /// Why it is away. None while it is connected, or for the first time connected to.
    away: Option<String>,
    is_connected: bool,
    /// All tools it ever offered, by its own names, as they were first.
    tools: BTreeMap<String, Remembered>,
    refused: BTreeMap<String, &'static str>,
}

struct Remembered {
    tool: Arc<ServerTool>,
    is_there: bool,
    /// What it offers now, where that is something else.
    changed: Option<Arc<ServerTool>>,
}

impl Server {
    /// Connects, and again. Never returns.
    async fn watch(self: Arc<Self>) {
        let mut pause = PAUSE.0;
        loop {
            let begun = Instant::now();
            let why = self.serve().await.to_string();
            self.session.store(None);
            if begun.elapsed() >= STEADY {
                pause = PAUSE.0;
            }
            self.is_away(why);
            sleep(pause).await;
            pause = (pause * 2).min(PAUSE.1);
        }
    }

    /// Connects and follows what changes, until the connection is over: why.
    async fn serve(self: &Arc<Self>) -> McpError {
        let session = match self.connect().await {
            Ok(session) => Arc::new(session),
            Err(error) => return error,
        };
        loop {
            let limit = self.settings.timeout;
            match timeout(limit, self.list(&session)).await {
                Ok(Ok(offer)) => self.learn(offer),
                Ok(Err(error)) => return error,
                Err(_) => return McpError::TimedOut(limit),
            }
            self.session.store(Some(Arc::clone(&session)));
            self.is_there();
            tokio::select! {
                why = session.ears.ended() => return McpError::Away(why),
                // Not as often as a server may say it.
                () = session.ears.list_changed.notified() => sleep(LIST_PAUSE).await,
                () = self.look.notified() => {}
                () = sleep(LIST_AGAIN) => {}
            }
        }
    }

    async fn connect(&self) -> Result<Session, McpError> {
        let within = self.settings.timeout;
        let secrets = self.settings.secrets();
        match &self.settings.transport {
            Transport::Stdio(program) => {
                let open = |mux| Pipe::open(program, &self.name, &self.programs, mux);
                Session::of_pipe(open, within, secrets).await
            }
            Transport::Http(endpoint) => {
                let place = Place::of(endpoint, &self.outgoing)?;
                Session::of_http(Http::new(place, within), within, secrets).await
            }
            Transport::Sse(endpoint) => {
                let place = Place::of(endpoint, &self.outgoing)?;
                let open = async |mux| Sse::open(place, within, mux).await;
                Session::of_sse(open, within, secrets).await
            }
        }
    }

    /// Everything it offers.
    async fn list(&self, session: &Session) -> Result<Offer, McpError> {
        let mut offer = Offer::default();
        let mut params = json!({});
        for _ in 0..PAGES_MAX {
            let page = session.ask("tools/list", params, None).await?;
            if !offer.add(&page, &self.settings) {
                return Err(McpError::Broken("it lists no tools".to_owned()));
            }
            match page.get("nextCursor").and_then(Value::as_str) {
                Some(cursor) => params = json!({"cursor": cursor}),
                None => break,
            }
        }
        Ok(offer)
    }

    /// Takes what it offers now. What it offered before stays what it was.
    fn learn(self: &Arc<Self>, offer: Offer) {
        let known = &mut *self.known.lock();
        let names = offer.names();
        for (name, remembered) in &mut known.tools {
            remembered.is_there = names.contains(name.as_str());
        }
        known.refused = offer.refused.into_iter().collect();
        for offered in offer.tools {
            let is_full = known.tools.len() >= KNOWN_MAX;
            match known.tools.get_mut(&offered.name) {
                Some(have) if have.tool.digest == offered.digest && have.changed.is_none() => {}
                // Also where it is what it was again: somebody should have a look.
                Some(have) => {
                    if have.changed.is_none() {
                        tracing::warn!(
                            server = &*self.name,
                            tool = offered.name,
                            "a tool of an MCP server is not what it was: it is not available until \
                             the config is reloaded"
                        );
                    }
                    have.changed = Some(ServerTool::new(self, offered));
                }
                None if is_full => {
                    known.refused.insert(offered.name, "there were too many tools");
                }
                None => {
                    let name = offered.name.clone();
                    let tool = ServerTool::new(self, offered);
                    known.tools.insert(name, Remembered { tool, is_there: true, changed: None });
                }
            }
        }
    }

    /// What it offers now is what is wanted: an operator has said so.
    fn accept(&self) {
        for remembered in self.known.lock().tools.values_mut() {
            if let Some(changed) = remembered.changed.take() {
                remembered.tool = changed;
            }
        }
    }

    fn is_there(&self) {
        let was_connected = {
            let known = &mut *self.known.lock();
            known.away = None;
            std::mem::replace(&mut known.is_connected, true)
        };
        if !was_connected {
            let tools = self.status().tools;
            tracing::info!(server = &*self.name, tools, "an MCP server is connected");
        }
        self.tell();
    }

    fn is_away(&self, why: String) {
        let is_new = {
            let known = &mut *self.known.lock();
            let is_new = known.is_connected || known.away.as_ref() != Some(&why);
            known.is_connected = false;
            known.away = Some(why.clone());
            is_new
        };
        if is_new {
            tracing::warn!(server = &*self.name, why, "an MCP server is away");
            self.tell();
        }
    }

    /// It is not wanted any more.
    fn leave(&self) {
        self.session.store(None);
        let known = &mut *self.known.lock();
        known.is_connected = false;
        known.away = Some("it is not in the config any more".to_owned());
    }

    fn tell(&self) {
        self.changes.send_modify(|count| *count += 1);
    }

    fn put_into(&self, name: &str, tools: &mut Tools, taken: &mut BTreeSet<String>) {
        let known = &*self.known.lock();
        let missing = |code, message: &str| Missing { code, message: message.to_owned() };
        if !known.is_connected {
            let why = known.away.as_deref().unwrap_or("it is being connected to");
            let why = missing("mcp_server_unavailable", why);
            return tools.add_missing(format!("{GROUP}.{name}"), why);
        }
        for remembered in known.tools.values().filter(|remembered| remembered.is_there) {
            let full = &remembered.tool.spec.name;
            if remembered.changed.is_some() {
                let why = missing("mcp_tool_changed", CHANGED);
                tools.add_missing(Arc::clone(full), why);
            } else if taken.insert(function_name(full)) {
                tools.add(Arc::clone(&remembered.tool) as Arc<dyn Tool>);
            } else {
                let why = "models cannot tell it from another tool";
                tools.add_missing(Arc::clone(full), missing("mcp_tool_ambiguous", why));
            }
        }
    }

    fn status(&self) -> ServerStatus {
        let known = &*self.known.lock();
        let there = || known.tools.iter().filter(|(_, tool)| tool.is_there && known.is_connected);
        let changed = there().filter(|(_, tool)| tool.changed.is_some());
        let changed: Vec<String> = changed.map(|(name, _)| name.clone()).collect();
        ServerStatus {
            state: match (known.is_connected, &known.away) {
                (true, _) => "connected",
                (false, Some(_)) => "away",
                (false, None) => "connecting",
            },
            message: known.away.clone(),
            description: self.settings.description.clone(),
            tools: there().count() - changed.len(),
            changed,
            refused: known.refused.clone(),
        }
    }

    /// Whether a tool is still what it was when a run began with it.
    fn check(&self, tool: &ServerTool) -> Result<(), ToolError> {
        let known = self.known.lock();
        let why = match known.tools.get(&tool.own_name) {
            Some(have) if have.changed.is_some() || have.tool.digest != tool.digest => CHANGED,
            Some(have) if have.is_there => return Ok(()),
            _ => "the MCP server does not have this tool any more",
        };
        let code = if why == CHANGED { "mcp_tool_changed" } else { "mcp_server_unavailable" };
        Err(ToolError::Unavailable { code, message: why.to_owned() })
    }

    async fn call(&self, tool: &ServerTool, call: Call<'_>) -> Result<Output, ToolError> {
        self.check(tool)?;
        let Some(session) = self.session.load_full() else {
            let away = self.known.lock().away.clone();
            let why = away.unwrap_or_else(|| "it is being connected to".to_owned());
            return Err(unavailable(format!("the MCP server is away: {why}")));
        };
        let params = json!({
            "name": tool.own_name,
            "arguments": call.arguments,
            "_meta": {"tollway/idempotency_key": call.idempotency_key},
        });
        match session.ask("tools/call", params, Some(call.progress)).await {
            Ok(result) => call::read(result),
            Err(error) => {
                if matches!(error, McpError::Away(_) | McpError::Lost(_) | McpError::SessionGone) {
                    self.look.notify_one();
                }
                Err(error.into())
            }
        }
    }
}

const CHANGED: &str = "it is not what it was when it was first seen; an operator has to reload the \
                       config to accept it";

/// A tool of a server.
struct ServerTool {
    spec: ToolSpec,
    own_name: String,
    digest: [u8; 32],
    /// Weak, because the server has its tools.
    server: Weak<Server>,
}

impl ServerTool {
    fn new(server: &Arc<Server>, offered: Offered) -> Arc<ServerTool> {
        let Offered { name, description, schema, risk, is_idempotent, digest } = offered;
        let spec = ToolSpec {
            name: format!("{GROUP}.{}.{name}", server.name).into(),
            description: description.into(),
            parameters: Arc::new(schema),
            risk,
            is_idempotent,
        };
        Arc::new(ServerTool { spec, own_name: name, digest, server: Arc::downgrade(server) })
    }
}

impl Tool for ServerTool {
    fn spec(&self) -> &ToolSpec {
        &self.spec
    }

    fn call<'a>(&'a self, call: Call<'a>) -> Called<'a> {
        Box::pin(async move {
            match self.server.upgrade() {
                Some(server) => server.call(self, call).await,
                None => Err(unavailable("the MCP server is not in the config any more")),
            }
        })
    }
}
