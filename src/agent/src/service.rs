//! Agents as a service: begins runs, takes them up again, and answers for them.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;
use tollway_filter_api::documents::{Append, Batch, Collection, Document, Documents, Wanted};
use tollway_filter_api::ledger::StoreError;
use tollway_filter_api::{Clock, Reject, Rejection};
use tollway_wire::event_log::Budget;
use tollway_wire::price::PicoDollars;

use crate::agent::{AgentSpec, ConfigAgents};
use crate::mcp::settings::ServersSettings;
use crate::mcp::{self, Servers};
use crate::metrics::AgentMetrics;
use crate::ports::{Caller, Completions};
use crate::request::{RunRequest, read_json};
use crate::run::engine::{Engine, Stop};
use crate::run::feed::{self, Feed, Follower};
use crate::run::journal::{self, CalledBy, Decision, State, Step, ToolResult};
use crate::run::{Approval, Plan, Status, view};
use crate::threads;
use crate::tool::{Call, Output, Tool, ToolError};
use crate::toolbox::{NoTool, Toolbox, Tools, needs_approval};
use crate::tools::web_search::WebSearch;

/// For how long a run is held by the node that works on it, unless it says so again.
pub(crate) const HOLD: Duration = Duration::from_secs(60);
/// How often it says so.
const HOLD_AGAIN: Duration = Duration::from_secs(20);
/// How often runs are looked for that nobody works on any more, and documents that are past their time.
const LOOK: Duration = Duration::from_secs(15);
/// What the events of all runs that are at work may take.
const EVENTS_BYTES_MAX: usize = 256 << 20;
/// The most of a journal that is read at once.
const JOURNAL_BYTES: u64 = 16 << 20;
/// Runs in a list.
const LIST_MAX: u64 = 100;

/// What operators set.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The agents of the config.
    pub agents: ConfigAgents,
    /// Model calls of a run where nothing is said, and at most.
    pub max_steps: (u32, u32),
    /// What a run may spend where nothing is said.
    pub max_cost: Option<PicoDollars>,
    /// How long a run may be at work where nothing is said, and at most.
    pub deadline: (Duration, Duration),
    /// How long one tool call may take.
    pub tool_timeout: Duration,
    /// Which tools have to be approved, whatever agents and requests say.
    pub approval: Approval,
    /// For how long runs can be asked for.
    pub retention: Duration,
    /// The MCP servers whose tools there are beside the built-in ones.
    pub mcp_servers: ServersSettings,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            agents: ConfigAgents::new(),
            max_steps: (12, 100),
            max_cost: None,
            deadline: (Duration::from_secs(300), Duration::from_secs(3600)),
            tool_timeout: Duration::from_secs(60),
            approval: Approval::default(),
            retention: Duration::from_secs(30 * 86_400),
            mcp_servers: ServersSettings::new(),
        }
    }
}

/// What can be changed while runs are at work: a run keeps the tools that it began with.
pub struct Live {
    /// What operators set.
    pub settings: Settings,
    /// The tools there are.
    pub tools: Tools,
    /// Searches the web, if somebody is configured to.
    pub web_search: Option<Arc<WebSearch>>,
}

/// What all runs share.
pub struct Shared {
    pub(crate) completions: Arc<dyn Completions>,
    pub(crate) documents: Arc<dyn Documents>,
    pub(crate) metrics: Arc<AgentMetrics>,
    live: ArcSwap<Live>,
    /// Held by who puts other tools in the place of those there are.
    replacing: Mutex<()>,
    servers: Servers,
    clock: Clock,
    /// This node's name: a run that it held before a restart is its own to take up again.
    node: Arc<str>,
    events: Arc<Budget>,
    working: Mutex<HashMap<Arc<str>, Working>>,
    places: Semaphore,
    runs_max: usize,
}

/// A run that this node works on.
struct Working {
    feed: Arc<Feed>,
    cancel: watch::Sender<bool>,
    document: Arc<tokio::sync::Mutex<Document>>,
}

/// What is needed to begin.
pub struct Parts {
    /// Makes model calls.
    pub completions: Arc<dyn Completions>,
    /// Keeps runs and what else agents keep.
    pub documents: Arc<dyn Documents>,
    /// Counts.
    pub metrics: Arc<AgentMetrics>,
    /// MCP servers.
    pub servers: Servers,
    /// Tells the time.
    pub clock: Clock,
    /// This node's name.
    pub node: Arc<str>,
    /// How many runs may be at work at once.
    pub running_max: usize,
    /// How many more may wait for a place.
    pub waiting_max: usize,
}

/// The agents.
#[derive(Clone)]
pub struct Agents {
    shared: Arc<Shared>,
}

/// The refusal where the store does not answer.
pub(crate) fn unavailable(error: StoreError) -> Rejection {
    match error {
        StoreError::Invalid(why) => Reject::invalid_request(why),
        StoreError::Conflict(_) => {
            Reject::new(409, "invalid_request_error", "It was changed by somebody else meanwhile.")
                .with_code("conflict")
        }
        StoreError::Unavailable(why) => {
            let mut reject = Reject::new(
                503,
                "internal_server_error",
                "What agents keep cannot be reached at the moment.",
            )
            .with_code("store_unavailable");
            reject.retry_after = Some(Duration::from_secs(1));
            reject.source = Some(why.into());
            reject
        }
    }
}

/// An id that nobody can guess, in the order of time.
pub(crate) fn new_id(prefix: &str) -> String {
    let mut bytes = [0; 16];
    // Without the machine's randomness an id would be guessable: there is none of this kind then.
    getrandom::fill(&mut bytes).expect("the machine has randomness");
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{prefix}{hex}")
}

fn not_found(what: &str, id: &str) -> Rejection {
    let id: String = id.chars().take(100).collect();
    let message = format!("No {what} found with id '{id}'.");
    Reject::new(404, "invalid_request_error", message).with_code(format!("{what}_not_found"))
}

fn conflict(code: &'static str, message: impl Into<String>) -> Rejection {
    Reject::new(409, "invalid_request_error", message.into()).with_code(code)
}

/// The refusal of a tool.
pub fn refused_tool(why: NoTool) -> Rejection {
    match why {
        NoTool::Unknown(name) => {
            let name: String = name.chars().take(100).collect();
            Reject::invalid_request(format!("There is no tool '{name}'."))
                .with_param("tools")
                .with_code("tool_not_found")
        }
        NoTool::Forbidden(name) => {
            let message = format!("The tool '{name}' is not allowed for this key.");
            Reject::new(403, "permission_error", message)
                .with_param("tools")
                .with_code("tool_not_allowed")
        }
        NoTool::Missing(name, missing) => {
            let message = format!("The tool '{name}' cannot be used here: {}.", missing.message);
            Reject::new(501, "invalid_request_error", message)
                .with_param("tools")
                .with_code(missing.code)
        }
    }
}

/// Calls a tool: in time, and counted.
pub(crate) async fn call_tool(
    shared: &Shared,
    tool: &dyn Tool,
    call: Call<'_>,
) -> Result<Output, ToolError> {
    let limit = shared.live.load().settings.tool_timeout;
    let begun = Instant::now();
    let called = match timeout(limit, tool.call(call)).await {
        Ok(called) => called,
        Err(_) => Err(ToolError::TimedOut(limit)),
    };
    shared.metrics.called(&tool.spec().name, &called, begun.elapsed());
    called
}

impl Shared {
    pub(crate) fn now_ms(&self) -> u64 {
        u64::try_from(self.clock.unix().as_millis()).unwrap_or(u64::MAX)
    }

    /// When a run that ends now is forgotten.
    pub(crate) fn expires_ms(&self) -> u64 {
        let retention = self.live.load().settings.retention.as_millis();
        let kept = u64::try_from(retention).unwrap_or(u64::MAX);
        // No store keeps larger numbers.
        self.now_ms().saturating_add(kept).min(i64::MAX as u64)
    }

    fn held_until_ms(&self) -> u64 {
        self.now_ms() + HOLD.as_millis() as u64
    }
}

/// A run that has begun or goes on.
pub struct Begun {
    /// Its id.
    pub id: Arc<str>,
    feed: Arc<Feed>,
    /// Ends it when it is dropped, where nobody else wants it.
    guard: Guard,
}

/// Ends a run whose caller has left, unless it is to go on.
struct Guard(Option<(Arc<Shared>, Arc<str>)>);

impl Drop for Guard {
    fn drop(&mut self) {
        if let Some((shared, id)) = self.0.take() {
            shared.cancel_here(&id);
        }
    }
}

impl Begun {
    /// Follows it from its beginning.
    pub fn follow(&self) -> Follower {
        Follower::new(Arc::clone(&self.feed), 0)
    }

    /// Waits until it stops.
    pub async fn stopped(&self) {
        self.feed.ended().await;
    }

    /// It goes on whether or not somebody listens.
    pub fn let_go(&mut self) {
        self.guard.0 = None;
    }
}

impl Shared {
    /// Ends a run that this node works on. False if it does not.
    fn cancel_here(&self, id: &str) -> bool {
        let working = self.working.lock();
        working.get(id).map(|run| run.cancel.send_replace(true)).is_some()
    }
}

impl Agents {
    /// Begins. Nothing is taken up before [`Agents::watch`].
    pub fn new(parts: Parts, live: Live) -> Agents {
        let Parts {
            completions,
            documents,
            metrics,
            servers,
            clock,
            node,
            running_max,
            waiting_max,
        } = parts;
        servers.replace(&live.settings.mcp_servers);
        let shared = Shared {
            completions,
            documents,
            metrics,
            live: ArcSwap::from_pointee(live),
            replacing: Mutex::default(),
            servers,
            clock,
            node,
            events: Budget::new(EVENTS_BYTES_MAX),
            working: Mutex::default(),
            places: Semaphore::new(running_max),
            runs_max: running_max.saturating_add(waiting_max),
        };
        Agents { shared: Arc::new(shared) }
    }

    /// Other settings and tools, for runs that begin from now on.
    pub fn replace(&self, mut live: Live) {
        let shared = &self.shared;
        let _alone = shared.replacing.lock();
        shared.servers.replace(&live.settings.mcp_servers);
        shared.servers.put_into(&mut live.tools);
        shared.live.store(Arc::new(live));
    }

    /// Puts tools of MCP servers in their place as they come and go. Never returns.
    pub async fn watch_servers(&self) {
        let shared = &self.shared;
        let mut changes = shared.servers.changes();
        changes.mark_changed();
        while changes.changed().await.is_ok() {
            let _alone = shared.replacing.lock();
            let live = shared.live.load();
            let mut tools = live.tools.clone();
            shared.servers.put_into(&mut tools);
            let live = Live {
                settings: live.settings.clone(),
                tools,
                web_search: live.web_search.clone(),
            };
            shared.live.store(Arc::new(live));
        }
    }

    /// Ends what runs beside this process.
    pub async fn close(&self) {
        self.shared.servers.close().await;
    }

    /// The settings and tools as they are.
    pub fn live(&self) -> Arc<Live> {
        self.shared.live.load_full()
    }

    /// How many runs are at work or wait here.
    pub fn working(&self) -> usize {
        self.shared.working.lock().len()
    }

    /// Holds this node's runs, takes up those that nobody works on any more, and forgets what is past
    /// its time. Never returns.
    pub async fn watch(&self) {
        let mut is_first = true;
        let mut held = Instant::now();
        loop {
            if let Err(error) = self.take_up(is_first).await {
                tracing::warn!(%error, "runs cannot be looked for");
            } else {
                is_first = false;
            }
            if let Err(error) = self.forget_expired().await {
                tracing::warn!(%error, "what is past its time cannot be removed");
            }
            tokio::time::sleep(if is_first { Duration::from_secs(1) } else { LOOK }).await;
            if held.elapsed() >= HOLD_AGAIN {
                held = Instant::now();
                self.hold_again().await;
            }
        }
    }

    async fn hold_again(&self) {
        let documents: Vec<_> = {
            let working = self.shared.working.lock();
            working.iter().map(|(id, run)| (Arc::clone(id), Arc::clone(&run.document))).collect()
        };
        for (id, document) in documents {
            let mut document = document.lock().await;
            if document.holder.is_none() {
                continue;
            }
            let mut held = document.clone();
            held.held_until_ms = self.shared.held_until_ms();
            let batch = Batch { put: vec![held.clone()], ..Batch::default() };
            match self.shared.documents.write(batch).await {
                Ok(versions) => {
                    held.version = versions.first().copied().unwrap_or(held.version);
                    *document = held;
                }
                // Somebody has cancelled it elsewhere.
                Err(StoreError::Conflict(_)) => {
                    self.shared.cancel_here(&id);
                }
                Err(_) => {}
            }
        }
    }

    /// Takes up runs that nobody works on.
    async fn take_up(&self, own_as_well: bool) -> Result<(), StoreError> {
        let shared = &self.shared;
        let states = [Status::Queued, Status::InProgress].map(|status| status.name().into());
        let mut after = None;
        loop {
            let free_at_ms = (!own_as_well).then(|| shared.now_ms());
            let wanted = Wanted {
                states: states.to_vec(),
                free_at_ms,
                is_latest_first: false,
                after: after.take(),
                ..Wanted::of(Collection::Run, LIST_MAX)
            };
            let found = shared.documents.list(wanted).await?;
            let Some(last) = found.last() else { return Ok(()) };
            after = Some((last.created_ms, Arc::clone(&last.id)));
            for document in found {
                let is_free = document.held_until_ms <= shared.now_ms();
                let is_ours = own_as_well && document.holder.as_deref() == Some(&*shared.node);
                let is_here = shared.working.lock().contains_key(&document.id);
                if is_here || !(is_free || is_ours) {
                    continue;
                }
                let id = Arc::clone(&document.id);
                match self.take_one_up(document).await {
                    Ok(()) => tracing::info!(run = &*id, "a run goes on"),
                    Err(reject) => tracing::warn!(run = &*id, error = %reject, "a run stays"),
                }
            }
        }
    }

    async fn take_one_up(&self, mut document: Document) -> Result<(), Rejection> {
        let shared = &self.shared;
        document.holder = Some(Arc::clone(&shared.node));
        document.held_until_ms = shared.held_until_ms();
        let batch = Batch { put: vec![document.clone()], ..Batch::default() };
        let versions = shared.documents.write(batch).await.map_err(unavailable)?;
        document.version = versions.first().copied().unwrap_or_default();
        let (state, last_event) = self.journal(&document.id).await?;
        let Some(plan) = state.plan.clone() else { return Err(unreadable()) };
        let caller = shared.completions.caller(&document.owner, &plan.caller);
        let is_known = caller.is_some();
        let caller = caller.unwrap_or_else(|| Caller {
            owner: Arc::clone(&document.owner),
            identity: None,
            end_user: None,
            client: None,
            tools: vec![Default::default()],
            sees_all: false,
            is_admin: false,
        });
        let caller = Arc::new(caller);
        self.spawn(document, plan, state, caller, last_event, !is_known).let_go();
        Ok(())
    }

    async fn forget_expired(&self) -> Result<(), StoreError> {
        for collection in Collection::ALL {
            // Files have more than a document: whoever keeps them removes them.
            if collection == Collection::File {
                continue;
            }
            loop {
                let wanted = Wanted {
                    // Not at once: who has begun it may be about to ask how it ended.
                    expired_at_ms: Some(self.shared.now_ms().saturating_sub(60_000)),
                    is_latest_first: false,
                    ..Wanted::of(collection, LIST_MAX)
                };
                let expired = self.shared.documents.list(wanted).await?;
                if expired.is_empty() {
                    break;
                }
                let remove = expired.into_iter().map(|found| (collection, found.id)).collect();
                self.shared.documents.write(Batch { remove, ..Batch::default() }).await?;
            }
        }
        Ok(())
    }

    /// What a run's journal amounts to, and the number of its last event.
    async fn journal(&self, id: &str) -> Result<(State, u64), Rejection> {
        let mut state = State::default();
        let mut last_event = 0;
        loop {
            let entries = self
                .shared
                .documents
                .entries(Collection::Run, id, state.entries, JOURNAL_BYTES)
                .await
                .map_err(unavailable)?;
            if entries.is_empty() {
                return Ok((state, last_event));
            }
            for entry in entries {
                state.entries += 1;
                if &*entry.kind == journal::EVENTS {
                    last_event = feed::last_number(&entry.body).unwrap_or(last_event);
                    continue;
                }
                let step = Step::read(&entry).map_err(|_| unreadable())?;
                state.apply(step);
            }
        }
    }

    /// Lets a run work.
    fn spawn(
        &self,
        document: Document,
        plan: Arc<Plan>,
        state: State,
        caller: Arc<Caller>,
        last_event: u64,
        is_orphan: bool,
    ) -> Begun {
        let shared = &self.shared;
        let id = Arc::clone(&document.id);
        let feed = Arc::new(Feed::new(Arc::clone(&id), last_event, &shared.events));
        let interrupted: BTreeSet<String> = state
            .calls
            .iter()
            .filter(|call| call.was_begun && call.result.is_none())
            .map(|call| call.asked.id.clone())
            .collect();
        // What has been forbidden since is not in it.
        let tools = &shared.live.load().tools;
        let allowed: Vec<Arc<str>> = tools
            .allowed_by(&caller.tools)
            .map(|tool| Arc::clone(&tool.spec().name))
            .filter(|name| plan.tools.contains(name))
            .collect();
        let toolbox = Toolbox::of(tools, &allowed);
        let document = Arc::new(tokio::sync::Mutex::new(document));
        let (cancel, mut cancelled) = watch::channel(false);
        let working = Working { feed: Arc::clone(&feed), cancel, document: Arc::clone(&document) };
        shared.working.lock().insert(Arc::clone(&id), working);
        let deadline = Instant::now() + Duration::from_secs(plan.deadline_s);
        let engine = Engine {
            shared: Arc::clone(shared),
            caller,
            plan,
            state,
            toolbox,
            feed: Arc::clone(&feed),
            document,
            id: Arc::clone(&id),
            interrupted,
            deadline,
        };
        let place = Place { shared: Arc::clone(shared), id: Arc::clone(&id) };
        tokio::spawn(async move {
            let place = place;
            let cancelled = async move {
                // An error means that nobody can cancel it any more.
                if cancelled.wait_for(|is_cancelled| *is_cancelled).await.is_err() {
                    std::future::pending::<()>().await;
                }
            };
            if is_orphan {
                let why = "The gateway was restarted, and the key this run works for is gone, \
                           switched off or over, or was a token that cannot be renewed.";
                engine.give_up(Stop::failed("caller_gone", why)).await;
            } else {
                engine.run(&place.shared.places, cancelled).await;
            }
            drop(place);
        });
        let guard = Guard(Some((Arc::clone(shared), Arc::clone(&id))));
        Begun { id, feed, guard }
    }

    /// The agent of this name, as this caller sees it.
    pub async fn agent(&self, caller: &Caller, name: &str) -> Result<AgentSpec, Rejection> {
        if let Some(agent) = self.shared.live.load().settings.agents.get(name) {
            return Ok(agent.clone());
        }
        for owner in ["*", &*caller.owner] {
            let id = format!("{owner}/{name}");
            let found = self.shared.documents.get(Collection::Agent, &id).await;
            if let Some(found) = found.map_err(unavailable)? {
                return serde_json::from_slice(&found.body).map_err(|_| unreadable());
            }
        }
        Err(not_found("agent", name))
    }

    /// Begins a run.
    ///
    /// # Errors
    /// Where the request makes no sense, asks for what the caller may not have, or there is no room.
    pub async fn begin(&self, caller: Caller, request: RunRequest) -> Result<Begun, Rejection> {
        let shared = &self.shared;
        let id: Arc<str> = new_id("run_").into();
        let (mut plan, thread) = self.plan(&caller, request, &id).await?;
        if shared.working.lock().len() >= shared.runs_max {
            return Err(Reject::too_many_requests(
                "Too many runs are at work.",
                Duration::from_secs(1),
            ));
        }
        let mut document = Document {
            collection: Collection::Run,
            id: Arc::clone(&id),
            owner: Arc::clone(&caller.owner),
            parent: thread.as_ref().map(|thread| Arc::clone(&thread.document.id)),
            state: Status::InProgress.name().into(),
            created_ms: shared.now_ms(),
            expires_ms: None,
            holder: Some(Arc::clone(&shared.node)),
            held_until_ms: shared.held_until_ms(),
            size: 0,
            body: Default::default(),
            version: 0,
        };
        if let Some(thread) = thread {
            plan.known_messages = thread.messages.len();
            plan.messages.splice(0..0, thread.messages);
            plan.before = thread.before;
            plan.thread = Some(Arc::clone(&thread.document.id));
            let busy = self.write_begin(&mut document, plan, Some(thread.document)).await;
            return self.started(busy?, document, caller);
        }
        let state = self.write_begin(&mut document, plan, None).await?;
        self.started(state, document, caller)
    }

    fn started(
        &self,
        state: State,
        document: Document,
        caller: Caller,
    ) -> Result<Begun, Rejection> {
        let Some(plan) = state.plan.clone() else { return Err(unreadable()) };
        self.shared.metrics.began();
        let begun = self.spawn(document, plan, state, Arc::new(caller), 0, false);
        Ok(begun)
    }

    /// Writes down that a run begins.
    async fn write_begin(
        &self,
        document: &mut Document,
        plan: Plan,
        thread: Option<Document>,
    ) -> Result<State, Rejection> {
        let mut state = State::default();
        document.body = view::summary(&plan, &state).to_string().into();
        let step = Step::Began(Box::new(plan));
        let append = Append {
            collection: Collection::Run,
            id: Arc::clone(&document.id),
            from: 0,
            entries: vec![step.entry()],
        };
        let mut batch =
            Batch { put: vec![document.clone()], append: vec![append], ..Batch::default() };
        let is_on_thread = thread.is_some();
        batch.put.extend(thread);
        let versions = match self.shared.documents.write(batch).await {
            Ok(versions) => versions,
            Err(StoreError::Conflict(_)) if is_on_thread => return Err(threads::busy(None)),
            Err(error) => return Err(unavailable(error)),
        };
        document.version = versions.first().copied().unwrap_or_default();
        state.apply(step);
        state.entries = 1;
        Ok(state)
    }

    /// What a request amounts to, with its agent and what operators have set.
    async fn plan(
        &self,
        caller: &Caller,
        request: RunRequest,
        run: &Arc<str>,
    ) -> Result<(Plan, Option<threads::Opened>), Rejection> {
        let live = self.live();
        let settings = &live.settings;
        let named = request.model.as_deref().and_then(|model| model.strip_prefix("agent/"));
        let name = request.agent.as_deref().or(named);
        let agent = match name {
            Some(name) => Some(self.agent(caller, name).await?),
            None => None,
        };
        let model = request.model.clone().filter(|_| named.is_none());
        let model = match (model, &agent) {
            // Which model an agent uses is its owner's to say.
            (_, Some(agent)) => agent.model.clone(),
            (Some(model), None) => model,
            (None, None) => {
                let message = "Missing required parameter: 'model' or 'agent'.";
                return Err(Reject::invalid_request(message).with_param("model"));
            }
        };
        let (names, functions) = split_tools(request.tools)?;
        let mut lists = caller.tools.clone();
        let wanted = match (&agent, names) {
            // An agent has the tools it was given; a request may leave some out.
            (Some(agent), names) => {
                lists.push(crate::toolbox::Allowed(agent.tools.iter().cloned().collect()));
                names
            }
            (None, names) => Some(names.unwrap_or_default()),
        };
        let tools = match &wanted {
            Some(wanted) => live.tools.select(wanted, &lists).map_err(refused_tool)?,
            None => {
                let own: Vec<_> = live.tools.allowed_by(&lists).collect();
                own.into_iter().map(|tool| Arc::clone(&tool.spec().name)).collect()
            }
        };
        for function in &functions {
            let name = function.pointer("/function/name").and_then(Value::as_str);
            let is_taken = |tool: &Arc<str>| Some(&*crate::toolbox::function_name(tool)) == name;
            if tools.iter().any(is_taken) {
                let message = format!("Two tools have the name '{}'.", name.unwrap_or_default());
                return Err(Reject::invalid_request(message).with_param("tools"));
            }
        }
        let of_agent = agent.as_ref();
        let asked = request.approval.clone().unwrap_or_default();
        let parties =
            [Some(&settings.approval), of_agent.map(|agent| &agent.approval), Some(&asked)];
        let parties: Vec<&Approval> = parties.into_iter().flatten().collect();
        let approval = joined(&parties, &live.tools, &tools, request.approval.is_some());
        let instructions: Vec<&str> = of_agent
            .and_then(|agent| agent.instructions.as_deref())
            .into_iter()
            .chain(request.instructions.as_deref())
            .collect();
        let instructions = (!instructions.is_empty()).then(|| instructions.join("\n\n"));
        let (steps, steps_max) = settings.max_steps;
        let (seconds, seconds_max) = (settings.deadline.0.as_secs(), settings.deadline.1.as_secs());
        let least = |one: Option<u64>, other: Option<u64>| match (one, other) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        };
        let max_steps = least(
            of_agent.and_then(|agent| agent.max_steps).map(u64::from),
            request.max_steps.map(u64::from),
        );
        let deadline = least(of_agent.and_then(|agent| agent.deadline_s), request.deadline_s);
        let amount = |amount: Option<PicoDollars>| amount.map(|amount| amount.0);
        let max_cost = least(
            least(
                amount(of_agent.and_then(|agent| agent.max_cost_usd)),
                amount(request.max_cost_usd),
            ),
            amount(settings.max_cost),
        );
        let thread = match &request.thread_id {
            Some(id) => {
                let found = self.owned(caller, Collection::Thread, "thread", id).await?;
                Some(threads::open(&self.shared, found, run).await?)
            }
            None => None,
        };
        let mut sampling = request.rest;
        for name in ["tools", "tool_choice", "stream", "model", "messages"] {
            sampling.remove(name);
        }
        let plan = Plan {
            model,
            agent: agent.map(|agent| agent.name),
            instructions,
            messages: request.messages,
            known_messages: 0,
            before: None,
            tools,
            functions,
            tool_choice: request.tool_choice,
            parallel_tool_calls: request.parallel_tool_calls.unwrap_or(true),
            sampling,
            max_steps: max_steps
                .map_or(steps, |n| u32::try_from(n).unwrap_or(u32::MAX))
                .min(steps_max),
            max_cost: max_cost.map(PicoDollars),
            deadline_s: deadline.unwrap_or(seconds).min(seconds_max),
            approval,
            user_context: Arc::new(Value::Object(request.user_context.unwrap_or_default())),
            metadata: request.metadata.unwrap_or_default(),
            thread: None,
            is_kept: request.store.unwrap_or(true),
            caller: caller.mark(),
        };
        Ok((plan, thread))
    }

    /// A document that this caller may see.
    pub(crate) async fn owned(
        &self,
        caller: &Caller,
        collection: Collection,
        what: &'static str,
        id: &str,
    ) -> Result<Document, Rejection> {
        let found = self.shared.documents.get(collection, id).await.map_err(unavailable)?;
        let is_over = |document: &Document| {
            document.expires_ms.is_some_and(|expires| expires <= self.shared.now_ms())
        };
        // To anybody else it is not there.
        found
            .filter(|document| caller.sees(&document.owner) && !is_over(document))
            .ok_or_else(|| not_found(what, id))
    }

    /// The same for one that this caller may change.
    pub(crate) async fn ruled(
        &self,
        caller: &Caller,
        collection: Collection,
        what: &'static str,
        id: &str,
    ) -> Result<Document, Rejection> {
        let document = self.owned(caller, collection, what, id).await?;
        if caller.rules(&document.owner) { Ok(document) } else { Err(not_found(what, id)) }
    }

    /// A run, whole.
    pub async fn run(&self, caller: &Caller, id: &str) -> Result<Value, Rejection> {
        let document = self.owned(caller, Collection::Run, "run", id).await?;
        self.view(document).await
    }

    async fn view(&self, document: Document) -> Result<Value, Rejection> {
        let (state, _) = self.journal(&document.id).await?;
        let Some(plan) = &state.plan else { return Err(unreadable()) };
        let status = Status::from_name(&document.state).ok_or_else(unreadable)?;
        Ok(view::run(&document, status, plan, &state))
    }

    /// Runs of this caller, latest first.
    pub async fn runs(&self, caller: &Caller, asked: &ListQuery) -> Result<Value, Rejection> {
        let mut wanted = self.wanted(caller, Collection::Run, asked).await?;
        wanted.states = asked.status.iter().map(|status| status.as_str().into()).collect();
        wanted.parent = asked.thread_id.as_deref().map(Into::into);
        let found = self.shared.documents.list(wanted).await.map_err(unavailable)?;
        Ok(list(found.iter().map(view::item), asked.limit()))
    }

    pub(crate) async fn wanted(
        &self,
        caller: &Caller,
        collection: Collection,
        asked: &ListQuery,
    ) -> Result<Wanted, Rejection> {
        let mut wanted = Wanted::of(collection, asked.limit() + 1);
        wanted.owner = (!caller.sees_all).then(|| Arc::clone(&caller.owner));
        if let Some(after) = &asked.after {
            let found = self.shared.documents.get(collection, after).await.map_err(unavailable)?;
            let found = found.filter(|document| caller.sees(&document.owner));
            let Some(found) = found else {
                let message = "'after' is no id of this list.";
                return Err(Reject::invalid_request(message).with_param("after"));
            };
            wanted.after = Some((found.created_ms, found.id));
        }
        Ok(wanted)
    }

    /// A run that has stopped, for the one who began it: also one that is not kept.
    pub async fn ended(&self, caller: &Caller, begun: &Begun) -> Result<Value, Rejection> {
        let found = self.shared.documents.get(Collection::Run, &begun.id).await;
        match found.map_err(unavailable)?.filter(|document| caller.sees(&document.owner)) {
            Some(document) => self.view(document).await,
            None => Err(not_found("run", &begun.id)),
        }
    }

    /// How the module is.
    pub fn status(&self, caller: &Caller) -> Value {
        let live = self.shared.live.load();
        let tools: Vec<&Arc<str>> =
            live.tools.allowed_by(&caller.tools).map(|tool| &tool.spec().name).collect();
        let missing: Map<String, Value> = live
            .tools
            .missing()
            .map(|(name, why)| {
                (name.to_string(), json!({"code": why.code, "message": why.message}))
            })
            .collect();
        let mut servers = self.shared.servers.status();
        servers.retain(|name, _| {
            let of_server = |tool: &&Arc<str>| {
                let rest = tool.strip_prefix(mcp::GROUP).and_then(|rest| rest.strip_prefix('.'));
                rest.and_then(|rest| rest.strip_prefix(name.as_str()))
                    .is_some_and(|rest| rest.starts_with('.'))
            };
            let group = format!("{}.{name}", mcp::GROUP);
            caller.sees_all
                || caller.tools.iter().all(|list| list.allows(&group))
                || tools.iter().any(of_server)
        });
        let working = self.working();
        let running = usize::try_from(self.shared.metrics.running.get()).unwrap_or(0);
        json!({
            "object": "agent.status",
            "enabled": true,
            "running": running,
            "queued": working.saturating_sub(running),
            "tools": tools,
            "unavailable": missing,
            "mcp_servers": servers,
        })
    }

    /// What a run has done, step by step.
    pub async fn steps(&self, caller: &Caller, id: &str) -> Result<Value, Rejection> {
        let document = self.owned(caller, Collection::Run, "run", id).await?;
        let (state, _) = self.journal(&document.id).await?;
        let mut results = state.done.iter();
        let mut steps = Vec::new();
        for (at, answer) in state.answers.iter().enumerate() {
            let calls: Vec<Value> = answer
                .calls
                .iter()
                .map(|call| {
                    let open = || state.calls.iter().find(|open| open.asked.id == call.id);
                    let result = match results.as_slice().first() {
                        Some((done, result)) if done.id == call.id => {
                            results.next();
                            Some(result)
                        }
                        _ => open().and_then(|open| open.result.as_ref()),
                    };
                    let mut shown = view::function_call(call);
                    shown["risk"] = json!(call.risk);
                    if let Some(result) = result {
                        shown["result"] = json!({
                            "ok": result.is_ok,
                            "content": result.content,
                            "duration_ms": result.duration_ms,
                        });
                    }
                    shown
                })
                .collect();
            steps.push(json!({
                "step": at + 1,
                "message": answer.message,
                "finish_reason": answer.finish_reason,
                "usage": view::took(&answer.took),
                "tool_calls": calls,
            }));
        }
        Ok(json!({"object": "list", "run_id": id, "data": steps}))
    }

    /// Ends a run, if it is not over.
    pub async fn cancel(&self, caller: &Caller, id: &str) -> Result<Value, Rejection> {
        let mut document = self.ruled(caller, Collection::Run, "run", id).await?;
        for _ in 0..3 {
            let status = Status::from_name(&document.state).ok_or_else(unreadable)?;
            if status.is_final() {
                break;
            }
            let feed = self.shared.working.lock().get(id).map(|run| Arc::clone(&run.feed));
            if let Some(feed) = feed {
                self.shared.cancel_here(id);
                feed.ended().await;
            } else if let Err(error) = self.cancel_stored(&document).await
                && !matches!(error, StoreError::Conflict(_))
            {
                return Err(unavailable(error));
            }
            document = self.ruled(caller, Collection::Run, "run", id).await?;
        }
        self.view(document).await
    }

    /// Ends a run that waits, or that another node works on, which notices.
    async fn cancel_stored(&self, document: &Document) -> Result<(), StoreError> {
        let Ok((state, _)) = self.journal(&document.id).await else { return Ok(()) };
        let mut cancelled = document.clone();
        cancelled.state = Status::Cancelled.name().into();
        cancelled.holder = None;
        cancelled.held_until_ms = 0;
        cancelled.expires_ms = Some(self.shared.expires_ms());
        let step = Step::Stopped { status: Status::Cancelled, reason: None, error: None };
        let append = Append {
            collection: Collection::Run,
            id: Arc::clone(&document.id),
            from: state.entries,
            entries: vec![step.entry()],
        };
        let mut batch = Batch { put: vec![cancelled], append: vec![append], ..Batch::default() };
        if let Some(plan) = &state.plan {
            let closed =
                threads::close(&self.shared, plan, &state, Status::Cancelled, &mut batch).await;
            if closed.is_err() {
                return Err(StoreError::Unavailable("the thread cannot be given back".to_owned()));
            }
        }
        self.shared.documents.write(batch).await.map(|_| ())
    }

    /// Takes what somebody has decided about a run that waits, and lets it go on.
    pub async fn resume(&self, caller: Caller, id: &str, body: Resume) -> Result<Begun, Rejection> {
        let mut document = self.ruled(&caller, Collection::Run, "run", id).await?;
        if *document.state != *Status::RequiresAction.name() {
            let message = format!("The run is {}: nothing is to be decided.", document.state);
            return Err(conflict("already_decided", message));
        }
        let (mut state, last_event) = self.journal(id).await?;
        let Some(plan) = state.plan.clone() else { return Err(unreadable()) };
        let steps = body.steps(&state, &caller)?;
        // Whoever decides for somebody else does not pay for it.
        let payer = match *caller.owner == *document.owner {
            true => caller,
            false => {
                let owner = self.shared.completions.caller(&document.owner, &plan.caller);
                owner.ok_or_else(|| {
                    Reject::new(403, "permission_error", "The key this run works for is gone.")
                        .with_code("caller_gone")
                })?
            }
        };
        document.state = Status::InProgress.name().into();
        document.holder = Some(Arc::clone(&self.shared.node));
        document.held_until_ms = self.shared.held_until_ms();
        let append = Append {
            collection: Collection::Run,
            id: Arc::clone(&document.id),
            from: state.entries,
            entries: steps.iter().map(Step::entry).collect(),
        };
        let batch = Batch { put: vec![document.clone()], append: vec![append], ..Batch::default() };
        let versions = match self.shared.documents.write(batch).await {
            Ok(versions) => versions,
            // Two have decided at once: one of them was first.
            Err(StoreError::Conflict(_)) => {
                return Err(conflict("already_decided", "Somebody else has decided meanwhile."));
            }
            Err(error) => return Err(unavailable(error)),
        };
        document.version = versions.first().copied().unwrap_or_default();
        state.entries += steps.len() as u64;
        steps.into_iter().for_each(|step| state.apply(step));
        Ok(self.spawn(document, plan, state, Arc::new(payer), last_event, false))
    }

    /// A new run that goes on from a step of an earlier one.
    pub async fn fork(&self, caller: Caller, id: &str, body: Fork) -> Result<Begun, Rejection> {
        let document = self.owned(&caller, Collection::Run, "run", id).await?;
        let (state, _) = self.journal(&document.id).await?;
        let Some(plan) = &state.plan else { return Err(unreadable()) };
        let step = body.step as usize;
        if step > state.answers.len() {
            let message = format!("The run has {} steps.", state.answers.len());
            return Err(Reject::invalid_request(message).with_param("step"));
        }
        let mut plan = Plan::clone(plan);
        // The tools of the one who forks it, and of no one else.
        let lists = &caller.tools;
        plan.tools.retain(|tool| lists.iter().all(|list| list.allows(tool)));
        plan.caller = caller.mark();
        plan.thread = None;
        plan.messages.extend(messages_until(&state, step));
        plan.messages.extend(body.messages);
        let new = Document {
            id: new_id("run_").into(),
            owner: Arc::clone(&caller.owner),
            parent: None,
            state: Status::InProgress.name().into(),
            created_ms: self.shared.now_ms(),
            expires_ms: None,
            holder: Some(Arc::clone(&self.shared.node)),
            held_until_ms: self.shared.held_until_ms(),
            version: 0,
            ..document
        };
        let mut new = new;
        let state = self.write_begin(&mut new, plan, None).await?;
        self.started(state, new, caller)
    }

    /// The events of a run behind the one of number `after`: those that are stored, and a follower
    /// of the rest where it is at work here.
    pub async fn events(
        &self,
        caller: &Caller,
        id: &str,
        after: u64,
    ) -> Result<(Vec<u8>, Option<Follower>), Rejection> {
        let document = self.owned(caller, Collection::Run, "run", id).await?;
        let feed = self.shared.working.lock().get(id).map(|run| Arc::clone(&run.feed));
        let mut stored = Vec::new();
        // What is told live need not be read.
        let until = feed.as_ref().map_or(u64::MAX, |feed| feed.first());
        let mut at = 0;
        while after + 1 < until {
            let entries = self
                .shared
                .documents
                .entries(Collection::Run, &document.id, at, JOURNAL_BYTES)
                .await
                .map_err(unavailable)?;
            if entries.is_empty() {
                break;
            }
            at += entries.len() as u64;
            for entry in entries.iter().filter(|entry| &*entry.kind == journal::EVENTS) {
                let is_live = feed::last_number(&entry.body).is_some_and(|last| last >= until);
                if !is_live {
                    stored.extend_from_slice(feed::behind(&entry.body, after));
                }
            }
        }
        Ok((stored, feed.map(|feed| Follower::new(feed, after))))
    }

    /// What somebody has to approve of a tool, whoever calls it.
    pub fn must_approve(&self, tool: &dyn Tool) -> bool {
        let live = self.shared.live.load();
        let spec = tool.spec();
        needs_approval(&[&live.settings.approval], &spec.name, spec.risk)
    }

    /// Calls a tool for a caller, without a run.
    pub async fn call_tool(&self, tool: &dyn Tool, call: Call<'_>) -> Result<Output, ToolError> {
        call_tool(&self.shared, tool, call).await
    }

    /// What is shared, for the parts of this service that live in other files.
    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }
}

/// The messages of the first `step` answers, with the results of their tools.
fn messages_until(state: &State, step: usize) -> Vec<Value> {
    let mut answers = 0;
    let mut messages = Vec::new();
    for message in &state.messages {
        if message["role"] == "assistant" {
            answers += 1;
            if answers > step {
                break;
            }
        }
        messages.push(message.clone());
    }
    // An answer whose tools have not all come back cannot be gone on from.
    let open =
        |message: &Value| message["role"] == "assistant" && message.get("tool_calls").is_some();
    if messages.last().is_some_and(open) {
        messages.pop();
    }
    messages
}

/// What all parties demand, for the tools that were chosen.
fn joined(parties: &[&Approval], tools: &Tools, chosen: &[Arc<str>], by_request: bool) -> Approval {
    // What the request says counts only where it has said something.
    let parties = if by_request { parties } else { &parties[..parties.len() - 1] };
    let (mut always, mut never) = (BTreeSet::new(), BTreeSet::new());
    for name in chosen {
        let Some(tool) = tools.get(name) else { continue };
        let into = match needs_approval(parties, name, tool.spec().risk) {
            true => &mut always,
            false => &mut never,
        };
        into.insert(name.to_string());
    }
    Approval { default: crate::run::ApprovalDefault::Always, always, never }
}

/// Names of tools, and functions of the caller's. Without a list the names are left open.
fn split_tools(tools: Option<Vec<Value>>) -> Result<(Option<Vec<String>>, Vec<Value>), Rejection> {
    let Some(tools) = tools else { return Ok((None, Vec::new())) };
    let (mut names, mut functions) = (Vec::new(), Vec::new());
    for (at, tool) in tools.into_iter().enumerate() {
        let wrong = |message: &str| {
            Err(Reject::invalid_request(message.to_owned()).with_param(format!("tools[{at}]")))
        };
        match &tool {
            Value::String(name) => names.push(name.clone()),
            Value::Object(object) => match object.get("type").and_then(Value::as_str) {
                Some("function") => {
                    if tool.pointer("/function/name").and_then(Value::as_str).is_none() {
                        return wrong("A function needs a 'name'.");
                    }
                    functions.push(tool);
                }
                // A server of the config, by its name.
                Some("mcp") => match object.get("server_label").and_then(Value::as_str) {
                    Some(label) => match object.get("allowed_tools").and_then(Value::as_array) {
                        Some(allowed) => names.extend(
                            allowed
                                .iter()
                                .filter_map(Value::as_str)
                                .map(|tool| format!("mcp.{label}.{tool}")),
                        ),
                        None => names.push(format!("mcp.{label}")),
                    },
                    None => {
                        return wrong(
                            "An MCP server needs a 'server_label' that the gateway knows.",
                        );
                    }
                },
                Some("code_interpreter") => names.push("code.python".to_owned()),
                Some("web_search" | "web_search_preview") => names.push("web_search".to_owned()),
                _ => return wrong("A tool is a name, or an object of type 'function' or 'mcp'."),
            },
            _ => return wrong("A tool is a name, or an object of type 'function' or 'mcp'."),
        }
    }
    let is_open = names.is_empty() && !functions.is_empty();
    Ok(((!is_open).then_some(names), functions))
}

fn unreadable() -> Rejection {
    Reject::internal("What was kept of it cannot be read.", "a document that is none of ours")
}

/// What a list is asked for with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListQuery {
    /// Runs of this status.
    pub status: Option<String>,
    /// Runs of this thread.
    pub thread_id: Option<String>,
    /// What comes behind this one.
    pub after: Option<String>,
    /// How many at most: 1 to 100.
    pub limit: Option<u64>,
}

impl ListQuery {
    fn limit(&self) -> u64 {
        self.limit.unwrap_or(20).clamp(1, LIST_MAX)
    }
}

/// A list in OpenAI's form. One more than `limit` means that there are more.
pub(crate) fn list(items: impl Iterator<Item = Value>, limit: u64) -> Value {
    let mut items: Vec<Value> = items.collect();
    let has_more = items.len() as u64 > limit;
    items.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
    let id = |item: Option<&Value>| item.and_then(|item| item.get("id")).cloned();
    json!({
        "object": "list",
        "first_id": id(items.first()),
        "last_id": id(items.last()),
        "has_more": has_more,
        "data": items,
    })
}

/// The body of `POST /agent/runs/{id}/resume`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Resume {
    /// What may be done.
    pub decisions: Vec<Decided>,
    /// What the caller's own functions have returned.
    pub tool_outputs: Vec<ToolOutput>,
    /// Whether what follows comes as events.
    pub stream: bool,
    /// Answers at once.
    pub background: bool,
}

/// A decision about one tool call.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Decided {
    /// Which call.
    pub call_id: String,
    /// What may happen.
    pub decision: Decision,
    /// With `edit`: the arguments it is made with.
    #[serde(default)]
    pub arguments: Option<Map<String, Value>>,
    /// The digest that was shown with the request, so that nothing else is approved than was seen.
    #[serde(default)]
    pub arguments_sha256: Option<String>,
    /// Why, for the model.
    #[serde(default)]
    pub reason: Option<String>,
}

/// What one of the caller's own functions has returned.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ToolOutput {
    /// Which call.
    #[serde(alias = "tool_call_id")]
    pub call_id: String,
    /// What it returned.
    pub output: String,
}

impl Resume {
    /// Reads the body.
    ///
    /// # Errors
    /// Where it is not what it should be.
    pub fn read(body: &[u8]) -> Result<Resume, Rejection> {
        read_json(body)
    }

    fn steps(self, state: &State, caller: &Caller) -> Result<Vec<Step>, Rejection> {
        let wrong = |param: &'static str, message: String| {
            Err(Reject::invalid_request(message).with_param(param))
        };
        let mut seen = BTreeMap::new();
        let mut steps = Vec::new();
        for decided in self.decisions {
            let Decided { call_id, decision, arguments, arguments_sha256, reason } = decided;
            let call = state.calls.iter().find(|call| call.asked.id == call_id);
            let Some(call) = call else {
                return wrong("decisions", format!("The run does not wait for call '{call_id}'."));
            };
            if !call.waits_for_approval() || seen.insert(call_id.clone(), ()).is_some() {
                let message = format!("Call '{call_id}' is decided already.");
                return Err(conflict("already_decided", message));
            }
            let asked = &call.asked;
            if arguments_sha256
                .is_some_and(|seen| seen != journal::digest(&asked.tool, &asked.arguments))
            {
                let message = "The arguments are not those that were shown.";
                return Err(conflict("arguments_changed", message));
            }
            if (decision == Decision::Edit) != arguments.is_some() {
                return wrong(
                    "decisions",
                    "'arguments' belong to the decision 'edit', and to no other.".to_owned(),
                );
            }
            steps.push(Step::Decided {
                id: call_id,
                decision,
                arguments: arguments.map(|arguments| Value::Object(arguments).to_string()),
                reason,
                by: Arc::clone(&caller.owner),
            });
        }
        for ToolOutput { call_id, output } in self.tool_outputs {
            let call = state.calls.iter().find(|call| call.asked.id == call_id);
            if !call.is_some_and(|call| call.waits_for_caller())
                || seen.insert(call_id.clone(), ()).is_some()
            {
                return wrong(
                    "tool_outputs",
                    format!("The run does not wait for the output of call '{call_id}'."),
                );
            }
            debug_assert!(call.is_some_and(|call| call.asked.by == CalledBy::Caller));
            steps.push(Step::Result(ToolResult {
                id: call_id,
                is_ok: true,
                content: output,
                data: None,
                files: Vec::new(),
                cost: 0,
                duration_ms: 0,
            }));
        }
        if steps.is_empty() {
            return wrong(
                "decisions",
                "'decisions' or 'tool_outputs' must say something.".to_owned(),
            );
        }
        Ok(steps)
    }
}

/// The body of `POST /agent/runs/{id}/fork`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Fork {
    /// How many of its answers are kept.
    pub step: u32,
    /// What is said then.
    pub messages: Vec<Value>,
    /// Whether what follows comes as events.
    pub stream: bool,
    /// Answers at once.
    pub background: bool,
}

impl Fork {
    /// Reads the body.
    ///
    /// # Errors
    /// Where it is not what it should be.
    pub fn read(body: &[u8]) -> Result<Fork, Rejection> {
        read_json(body)
    }
}

/// A run's place among those at work, given up when it is over.
struct Place {
    shared: Arc<Shared>,
    id: Arc<str>,
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(run) = self.shared.working.lock().remove(&self.id) {
            run.feed.end();
        }
    }
}
