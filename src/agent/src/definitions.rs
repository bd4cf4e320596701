//! Agents that are defined by the API, and the tools there are, as clients see them.

use std::sync::Arc;

use serde::Deserialize;
use serde_json::{Map, Value, json};
use tollway_filter_api::documents::{Batch, Collection, Document, Wanted};
use tollway_filter_api::ledger::StoreError;
use tollway_filter_api::{Reject, Rejection};

use crate::agent::AgentSpec;
use crate::ports::Caller;
use crate::request::read_json;
use crate::runs::{ListQuery, list};
use crate::service::{Agents, new_id, refused_tool, unavailable};
use crate::threads;
use crate::tool::{Call, Output, Scope, Tool, ToolError};
use crate::toolbox::NoTool;

/// How many agents are listed.
const AGENTS_MAX: u64 = 1_000;
/// Whose agents everybody may use.
const EVERYBODY: &str = "*";

/// An agent as clients see it.
pub fn view(agent: &AgentSpec) -> Value {
    let mut shown = json!(agent);
    shown["object"] = "agent".into();
    shown["id"] = format!("agent/{}", agent.name).into();
    shown
}

impl Agents {
    /// All agents that a caller may use: those of the config, of admins, and their own.
    pub async fn definitions(&self, caller: &Caller) -> Result<Value, Rejection> {
        let agents = self.all(caller).await?;
        Ok(json!({"object": "list", "data": agents.iter().map(view).collect::<Vec<_>>()}))
    }

    /// The names of all agents that a caller may use.
    pub async fn names(&self, caller: &Caller) -> Result<Vec<String>, Rejection> {
        Ok(self.all(caller).await?.into_iter().map(|agent| agent.name).collect())
    }

    async fn all(&self, caller: &Caller) -> Result<Vec<AgentSpec>, Rejection> {
        let mut agents: Vec<AgentSpec> = self.live().settings.agents.values().cloned().collect();
        for owner in [Arc::from(EVERYBODY), Arc::clone(&caller.owner)] {
            let wanted = Wanted { owner: Some(owner), ..Wanted::of(Collection::Agent, AGENTS_MAX) };
            let found = self.shared.documents.list(wanted).await.map_err(unavailable)?;
            for agent in found.iter().filter_map(read) {
                if !agents.iter().any(|have| have.name == agent.name) {
                    agents.push(agent);
                }
            }
        }
        Ok(agents)
    }

    /// Defines an agent, or changes the one of this name. Those of admins are everybody's.
    pub async fn define(
        &self,
        caller: &Caller,
        name: Option<&str>,
        body: &[u8],
    ) -> Result<Value, Rejection> {
        let given: Map<String, Value> = read_json(body)?;
        let owner: Arc<str> =
            if caller.is_admin { EVERYBODY.into() } else { Arc::clone(&caller.owner) };
        let mut known = None;
        let mut whole = Map::new();
        if let Some(name) = name {
            self.check_free(name)?;
            let found = self.stored(&owner, name).await?;
            let Some(found) = found else { return Err(unknown(name)) };
            whole = serde_json::from_slice(&found.body).unwrap_or_default();
            known = Some(found);
        }
        whole.extend(given);
        let agent: AgentSpec = read_json(Value::Object(whole).to_string().as_bytes())?;
        if let Some((param, message)) = agent.mistake() {
            let message = format!("Invalid value for '{param}': {message}.");
            return Err(Reject::invalid_request(message).with_param(param));
        }
        if name.is_some_and(|name| name != agent.name) {
            let message = "An agent's name cannot be changed.";
            return Err(Reject::invalid_request(message).with_param("name"));
        }
        self.check_free(&agent.name)?;
        let document = Document {
            collection: Collection::Agent,
            id: format!("{owner}/{}", agent.name).into(),
            owner,
            parent: None,
            state: "defined".into(),
            created_ms: known.as_ref().map_or(self.shared.now_ms(), |known| known.created_ms),
            expires_ms: None,
            holder: None,
            held_until_ms: 0,
            size: 0,
            body: serde_json::to_vec(&agent).unwrap_or_default().into(),
            version: known.map_or(0, |known| known.version),
        };
        match self.shared.documents.write(Batch { put: vec![document], ..Batch::default() }).await {
            Ok(_) => Ok(view(&agent)),
            Err(StoreError::Conflict(_)) => {
                let message = format!("There is an agent '{}' already.", agent.name);
                Err(Reject::new(409, "invalid_request_error", message).with_code("agent_exists"))
            }
            Err(error) => Err(unavailable(error)),
        }
    }

    /// Removes an agent.
    pub async fn undefine(&self, caller: &Caller, name: &str) -> Result<Value, Rejection> {
        self.check_free(name)?;
        let owner = if caller.is_admin { EVERYBODY } else { &*caller.owner };
        let Some(found) = self.stored(owner, name).await? else { return Err(unknown(name)) };
        let batch = Batch { remove: vec![(Collection::Agent, found.id)], ..Batch::default() };
        self.shared.documents.write(batch).await.map_err(unavailable)?;
        Ok(json!({"id": format!("agent/{name}"), "object": "agent.deleted", "deleted": true}))
    }

    async fn stored(&self, owner: &str, name: &str) -> Result<Option<Document>, Rejection> {
        let id = format!("{owner}/{name}");
        self.shared.documents.get(Collection::Agent, &id).await.map_err(unavailable)
    }

    /// What stands in the config is changed there.
    fn check_free(&self, name: &str) -> Result<(), Rejection> {
        if !self.live().settings.agents.contains_key(name) {
            return Ok(());
        }
        let message = format!("The agent '{name}' stands in the config and is changed there.");
        Err(Reject::new(409, "invalid_request_error", message).with_code("agent_of_config"))
    }

    /// The threads of a caller.
    pub async fn threads(&self, caller: &Caller, asked: &ListQuery) -> Result<Value, Rejection> {
        let wanted = self.wanted(caller, Collection::Thread, asked).await?;
        let limit = wanted.limit - 1;
        let found = self.shared.documents.list(wanted).await.map_err(unavailable)?;
        Ok(list(found.iter().map(threads::view), limit))
    }

    /// Opens a thread.
    pub async fn open_thread(&self, caller: &Caller, body: &[u8]) -> Result<Value, Rejection> {
        let body: ThreadBody =
            if body.is_empty() { ThreadBody::default() } else { read_json(body)? };
        let mut document = threads::document(&self.shared, &caller.owner, body.metadata);
        let mut batch = Batch::default();
        if !body.messages.is_empty() {
            batch.append.push(threads::append(&mut document, &body.messages));
        }
        batch.put.push(document.clone());
        self.shared.documents.write(batch).await.map_err(unavailable)?;
        Ok(threads::view(&document))
    }

    /// One thread.
    pub async fn thread(&self, caller: &Caller, id: &str) -> Result<Value, Rejection> {
        let found = self.owned(caller, Collection::Thread, "thread", id).await?;
        Ok(threads::view(&found))
    }

    /// Changes what its owner notes about a thread.
    pub async fn change_thread(
        &self,
        caller: &Caller,
        id: &str,
        body: &[u8],
    ) -> Result<Value, Rejection> {
        let mut found = self.ruled(caller, Collection::Thread, "thread", id).await?;
        let body: ThreadBody = read_json(body)?;
        threads::note(&mut found, body.metadata);
        let batch = Batch { put: vec![found.clone()], ..Batch::default() };
        self.shared.documents.write(batch).await.map_err(unavailable)?;
        Ok(threads::view(&found))
    }

    /// Removes a thread with its messages.
    pub async fn remove_thread(&self, caller: &Caller, id: &str) -> Result<Value, Rejection> {
        let found = self.ruled(caller, Collection::Thread, "thread", id).await?;
        let batch = Batch { remove: vec![(Collection::Thread, found.id)], ..Batch::default() };
        self.shared.documents.write(batch).await.map_err(unavailable)?;
        Ok(json!({"id": id, "object": "thread.deleted", "deleted": true}))
    }

    /// The messages of a thread, first to last.
    pub async fn messages(&self, caller: &Caller, id: &str) -> Result<Value, Rejection> {
        let found = self.owned(caller, Collection::Thread, "thread", id).await?;
        let messages = threads::messages(&self.shared, &found.id, 0).await?;
        Ok(json!({"object": "list", "thread_id": id, "data": messages}))
    }

    /// Adds messages to a thread that no run works on.
    pub async fn add_messages(
        &self,
        caller: &Caller,
        id: &str,
        body: &[u8],
    ) -> Result<Value, Rejection> {
        let mut found = self.ruled(caller, Collection::Thread, "thread", id).await?;
        if threads::about(&found).run.is_some() {
            return Err(threads::busy(threads::about(&found).run.as_deref()));
        }
        let body: ThreadBody = read_json(body)?;
        if body.messages.is_empty() {
            let message = "'messages' must have at least one message.";
            return Err(Reject::invalid_request(message).with_param("messages"));
        }
        let append = threads::append(&mut found, &body.messages);
        let batch = Batch { put: vec![found.clone()], append: vec![append], ..Batch::default() };
        self.shared.documents.write(batch).await.map_err(unavailable)?;
        Ok(threads::view(&found))
    }

    /// The tools that a caller may use.
    pub fn tools(&self, caller: &Caller) -> Value {
        let live = self.live();
        let tools: Vec<Value> =
            live.tools.allowed_by(&caller.tools).map(|tool| self.tool_view(&**tool)).collect();
        json!({"object": "list", "data": tools})
    }

    fn tool_view(&self, tool: &dyn Tool) -> Value {
        let mut shown = json!(tool.spec());
        shown["object"] = "tool".into();
        shown["requires_approval"] = self.must_approve(tool).into();
        shown
    }

    /// One tool.
    pub fn tool(&self, caller: &Caller, name: &str) -> Result<Value, Rejection> {
        let live = self.live();
        let tool = live.tools.find(name, &caller.tools).map_err(refused_tool)?;
        Ok(self.tool_view(&**tool))
    }

    /// Searches the web without a run: at `tool`, or whoever comes first.
    pub async fn search(
        &self,
        caller: &Caller,
        tool: Option<String>,
        body: &[u8],
    ) -> Result<Value, Rejection> {
        const NAME: &str = "web_search";
        let live = self.live();
        let search = live.tools.find(NAME, &caller.tools).map_err(refused_tool)?;
        let mut query: Map<String, Value> = read_json(body)?;
        if let Some(tool) = tool {
            query.insert("provider".to_owned(), tool.into());
        }
        let scope =
            Scope { owner: Arc::clone(&caller.owner), run: None, user_context: Arc::default() };
        let call = Call {
            arguments: Value::Object(query),
            scope: &scope,
            idempotency_key: &new_id("call_"),
            progress: &|_| {},
        };
        let output = self.call_tool(caller, &**search, call).await;
        let output = output.map_err(|error| refused_call(&error))?;
        Ok(output.data.unwrap_or_default())
    }

    /// Calls a tool without a run. Who calls it by themselves has approved it.
    pub async fn use_tool(
        &self,
        caller: &Caller,
        name: &str,
        body: &[u8],
    ) -> Result<Value, Rejection> {
        let body: UseTool = if body.is_empty() { UseTool::default() } else { read_json(body)? };
        let output = self.used(caller, name, body).await.map_err(|why| match why {
            NotUsed::Tool(why) => refused_tool(why),
            NotUsed::Call(error) => refused_call(&error),
        })?;
        Ok(json!({
            "object": "tool.result",
            "tool": name,
            "content": output.content,
            "data": output.data,
            "files": output.files,
            "cached": output.is_cached,
            "cost_usd": crate::run::view::dollars(output.cost),
        }))
    }

    /// Calls a tool for who may use it.
    pub(crate) async fn used(
        &self,
        caller: &Caller,
        name: &str,
        body: UseTool,
    ) -> Result<Output, NotUsed> {
        let live = self.live();
        let tool = live.tools.find(name, &caller.tools).map_err(NotUsed::Tool)?;
        let scope = Scope {
            owner: Arc::clone(&caller.owner),
            run: None,
            user_context: Arc::new(Value::Object(body.user_context)),
        };
        let key = body.idempotency_key.unwrap_or_else(|| new_id("call_"));
        let call = Call {
            arguments: Value::Object(body.arguments),
            scope: &scope,
            idempotency_key: &key,
            progress: &|_| {},
        };
        self.call_tool(caller, &**tool, call).await.map_err(NotUsed::Call)
    }
}

/// Why a tool that was called without a run has found nothing.
pub(crate) enum NotUsed {
    /// Its caller does not get it.
    Tool(NoTool),
    /// It went wrong.
    Call(ToolError),
}

/// The refusal of a tool's call that was made without a run.
pub fn refused_call(error: &ToolError) -> Rejection {
    let message = error.to_string();
    match error {
        ToolError::Arguments(_) => {
            Reject::invalid_request(message).with_param("arguments").with_code("invalid_arguments")
        }
        ToolError::Refused(_) => {
            Reject::new(403, "permission_error", message).with_code("tool_refused")
        }
        ToolError::Unavailable { code, .. } => {
            Reject::new(501, "invalid_request_error", message).with_code(*code)
        }
        ToolError::RateLimited(after) => Reject::too_many_requests(message, *after),
        ToolError::TimedOut(_) => {
            Reject::new(504, "timeout_error", message).with_code("tool_timeout")
        }
        ToolError::Failed(_) => Reject::new(502, "api_error", message).with_code("tool_failed"),
    }
}

fn read(document: &Document) -> Option<AgentSpec> {
    serde_json::from_slice(&document.body).ok()
}

fn unknown(name: &str) -> Rejection {
    let name: String = name.chars().take(100).collect();
    let message = format!("No agent found with id '{name}'.");
    Reject::new(404, "invalid_request_error", message).with_code("agent_not_found")
}

/// What is said of a thread.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct ThreadBody {
    messages: Vec<Value>,
    metadata: Map<String, Value>,
}

/// The body of `POST /tools/{name}`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct UseTool {
    pub(crate) arguments: Map<String, Value>,
    pub(crate) user_context: Map<String, Value>,
    pub(crate) idempotency_key: Option<String>,
}
