//! Agents as a service: begins runs, takes them up again, and answers for them.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use serde_json::Value;
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;
use tollway_filter_api::documents::{Append, Batch, Collection, Document, Documents};
use tollway_filter_api::ledger::StoreError;
use tollway_filter_api::trace::{Span, SpanKind};
use tollway_filter_api::{Clock, Reject, Rejection};
use tollway_sandbox::Sandbox;
use tollway_wire::event_log::Budget;
use tollway_wire::price::PicoDollars;

use crate::agent::{AgentSpec, ConfigAgents};
use crate::links::LinkPolicy;
use crate::mcp::Servers;
use crate::mcp::settings::ServersSettings;
use crate::metrics::{self, AgentMetrics};
use crate::ports::{Caller, Completions};
use crate::request::{OnDisconnect, RunRequest};
use crate::run::engine::{Engine, Stop};
use crate::run::feed::{self, Feed, Follower};
use crate::run::journal::{self, State, Step};
use crate::run::{Approval, Plan, Status, view};
use crate::threads;
use crate::tool::{Call, Output, Tool, ToolError};
use crate::toolbox::{NoTool, Toolbox, Tools, needs_approval};
use crate::tools::files::Files;

/// For how long a run is held by the node that works on it, unless it says so again.
pub(crate) const HOLD: Duration = Duration::from_secs(60);
/// What the events of all runs that are at work may take.
const EVENTS_BYTES_MAX: usize = 256 << 20;
/// The most of a journal that is read at once.
pub(crate) const JOURNAL_BYTES: u64 = 16 << 20;
/// Runs in a list.
pub(crate) const LIST_MAX: u64 = 100;

/// Why a run that was taken up again fails.
const CALLER_GONE: &str = "The gateway was restarted, and the key this run works for is gone, switched off or \
                           over, or was a token that cannot be renewed.";

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
    /// Which tools have to be approved, whatever agents and requests say, where operators say so.
    pub approval: Option<Approval>,
    /// For how long runs can be asked for.
    pub retention: Duration,
    /// What answers may link to.
    pub links: Arc<LinkPolicy>,
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
            approval: None,
            retention: Duration::from_secs(30 * 86_400),
            links: Arc::default(),
            mcp_servers: ServersSettings::new(),
        }
    }
}

/// What can be changed while runs are at work: a run keeps the tools that it began with.
#[derive(Clone)]
pub struct Live {
    /// What operators set.
    pub settings: Settings,
    /// The tools there are.
    pub tools: Tools,
    /// Runs untrusted code, where a tool wants that.
    pub sandbox: Option<Sandbox>,
    /// Keeps files, where they are kept.
    pub files: Option<Files>,
}

/// What all runs share.
pub struct Shared {
    pub(crate) completions: Arc<dyn Completions>,
    pub(crate) documents: Arc<dyn Documents>,
    pub(crate) metrics: Arc<AgentMetrics>,
    pub(crate) live: ArcSwap<Live>,
    /// Held by who puts other tools in the place of those there are.
    replacing: Mutex<()>,
    pub(crate) servers: Servers,
    clock: Clock,
    /// This node's name: a run that it held before a restart is its own to take up again.
    pub(crate) node: Arc<str>,
    events: Arc<Budget>,
    pub(crate) working: Mutex<HashMap<Arc<str>, Working>>,
    places: Semaphore,
    runs_max: usize,
}

/// A run that this node works on.
pub(crate) struct Working {
    pub(crate) feed: Arc<Feed>,
    cancel: watch::Sender<bool>,
    pub(crate) document: Arc<tokio::sync::Mutex<Document>>,
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
    pub(crate) shared: Arc<Shared>,
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

/// An id that nobody can guess.
pub(crate) fn new_id(prefix: &str) -> String {
    let mut bytes = [0; 16];
    // Without the machine's randomness an id would be guessable: there is none of this kind then.
    getrandom::fill(&mut bytes).expect("the machine has randomness");
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{prefix}{hex}")
}

pub(crate) fn not_found(what: &str, id: &str) -> Rejection {
    let id: String = id.chars().take(100).collect();
    let message = format!("No {what} found with id '{id}'.");
    Reject::new(404, "invalid_request_error", message).with_code(format!("{what}_not_found"))
}

pub(crate) fn conflict(code: &'static str, message: impl Into<String>) -> Rejection {
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

/// Calls a tool: paid, in time, and counted.
pub(crate) async fn call_tool(
    shared: &Shared,
    caller: &Caller,
    tool: &dyn Tool,
    call: Call<'_>,
) -> Result<Output, ToolError> {
    let limit = shared.live.load().settings.tool_timeout;
    let begun = Instant::now();
    let (name, cost_max) = (&tool.spec().name, tool.cost_max());
    let mut span = span(caller, name);
    let payment = match cost_max {
        PicoDollars::ZERO => None,
        _ => {
            let paid = shared.completions.pay(caller, name, cost_max).await;
            Some(paid.map_err(|reject| {
                fail(&mut span, "budget");
                ToolError::Refused(reject.message.clone())
            })?)
        }
    };
    let called = match timeout(limit, tool.call(call)).await {
        Ok(called) => called,
        Err(_) => Err(ToolError::TimedOut(limit)),
    };
    if let Some(payment) = payment {
        match &called {
            Ok(output) => payment.settle(output.cost.min(cost_max)),
            // Whether it was done is not known.
            Err(ToolError::TimedOut(_)) => payment.settle(cost_max),
            Err(_) => payment.settle(PicoDollars::ZERO),
        }
    }
    if called.is_err() {
        fail(&mut span, metrics::outcome(&called));
    }
    shared.metrics.called(name, &called, begun.elapsed());
    called
}

/// The span of a tool call.
fn span(caller: &Caller, tool: &Arc<str>) -> Option<Span> {
    let trace = caller.trace.as_ref()?;
    let mut span = trace.span(SpanKind::Internal, || format!("execute_tool {tool}"));
    span.set("gen_ai.operation.name", "execute_tool");
    span.set("gen_ai.tool.name", tool);
    span.set("gen_ai.tool.type", "function");
    Some(span)
}

fn fail(span: &mut Option<Span>, word: &str) {
    if let Some(span) = span {
        span.fail(word);
    }
}

impl Shared {
    pub(crate) fn now_ms(&self) -> u64 {
        self.clock.unix_ms()
    }

    /// When a run that ends now is forgotten.
    pub(crate) fn expires_ms(&self) -> u64 {
        let retention = self.live.load().settings.retention.as_millis();
        let kept = u64::try_from(retention).unwrap_or(u64::MAX);
        // No store keeps larger numbers.
        self.now_ms().saturating_add(kept).min(i64::MAX as u64)
    }

    pub(crate) fn held_until_ms(&self) -> u64 {
        self.now_ms() + HOLD.as_millis() as u64
    }
}

/// A run that has begun or goes on.
pub struct Begun {
    /// Its id.
    pub id: Arc<str>,
    /// The whole run as it began, if it is a new one.
    first: Option<Value>,
    pub(crate) feed: Arc<Feed>,
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

/// Begins a run to its end, whether or not whoever asked for it still waits: one that is written down
/// is at work, and ends where nobody wants it.
pub(crate) async fn to_its_end(
    goes_on: bool,
    begins: impl Future<Output = Result<Begun, Rejection>> + Send + 'static,
) -> Result<Begun, Rejection> {
    let beginning = tokio::spawn(async move {
        let mut begun = begins.await?;
        if goes_on {
            begun.let_go();
        }
        Ok(begun)
    });
    let ended = beginning.await;
    ended.unwrap_or_else(|error| Err(Reject::internal("The run cannot begin.", error.to_string())))
}

impl Begun {
    /// The whole run as it began, if it is a new one.
    pub fn take_first(&mut self) -> Option<Value> {
        self.first.take()
    }

    /// Follows it from its beginning.
    pub fn follow(&self) -> Follower {
        Follower::new(Arc::clone(&self.feed), 0)
    }

    /// Waits until it stops.
    pub async fn stopped(&self) {
        self.feed.ended().await;
    }

    /// It goes on whether or not somebody listens.
    pub(crate) fn let_go(&mut self) {
        self.guard.0 = None;
    }
}

impl Shared {
    /// Ends a run that this node works on. False if it does not.
    pub(crate) fn cancel_here(&self, id: &str) -> bool {
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
            let mut live = Live::clone(&shared.live.load());
            shared.servers.put_into(&mut live.tools);
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

    /// What a run's journal amounts to, and the number of its last event.
    pub(crate) async fn journal(&self, id: &str) -> Result<(State, u64), Rejection> {
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
    pub(crate) fn spawn(
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
        let (cancel, cancelled) = watch::channel(false);
        let working = Working { feed: Arc::clone(&feed), cancel, document: Arc::clone(&document) };
        shared.working.lock().insert(Arc::clone(&id), working);
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
            cancelled,
            deadline: Instant::now(),
        };
        let place = Place { shared: Arc::clone(shared), id: Arc::clone(&id) };
        tokio::spawn(async move {
            let place = place;
            match is_orphan {
                true => engine.give_up(Stop::failed("caller_gone", CALLER_GONE)).await,
                false => engine.run(&place.shared.places).await,
            }
        });
        let guard = Guard(Some((Arc::clone(shared), Arc::clone(&id))));
        Begun { id, first: None, feed, guard }
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
        let agents = self.clone();
        let goes_on = request.background || request.on_disconnect == OnDisconnect::Continue;
        to_its_end(goes_on, async move { agents.begin_new(caller, request).await }).await
    }

    async fn begin_new(&self, caller: Caller, request: RunRequest) -> Result<Begun, Rejection> {
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

    pub(crate) fn started(
        &self,
        state: State,
        document: Document,
        caller: Caller,
    ) -> Result<Begun, Rejection> {
        let Some(plan) = state.plan.clone() else { return Err(unreadable()) };
        self.shared.metrics.began();
        let first = view::run(&document, Status::InProgress, &plan, &state);
        let begun = self.spawn(document, plan, state, Arc::new(caller), 0, false);
        Ok(Begun { first: Some(first), ..begun })
    }

    /// Writes down that a run begins.
    pub(crate) async fn write_begin(
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

    /// What somebody has to approve of a tool, whoever calls it.
    pub fn must_approve(&self, tool: &dyn Tool) -> bool {
        let live = self.shared.live.load();
        let spec = tool.spec();
        let usual = Approval::default();
        let approval = live.settings.approval.as_ref().unwrap_or(&usual);
        needs_approval(&[approval], &spec.name, spec.risk)
    }

    /// Calls a tool for a caller, without a run.
    pub async fn call_tool(
        &self,
        caller: &Caller,
        tool: &dyn Tool,
        call: Call<'_>,
    ) -> Result<Output, ToolError> {
        call_tool(&self.shared, caller, tool, call).await
    }
}

pub(crate) fn unreadable() -> Rejection {
    Reject::internal("What was kept of it cannot be read.", "a document that is none of ours")
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
