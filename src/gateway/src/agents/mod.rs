//! Agents over HTTP: which path means what, who asks, and runs as answers and event streams. What
//! agents do is in `tollway-agent`; model calls come back to this crate by [`calls`].

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method};
use pingora_core::protocols::http::ServerSession;
use pingora_error::Result;
use serde_json::{Value, json};
use tollway_agent::mcp::GROUP;
use tollway_agent::mcp::door::Answered;
use tollway_agent::ports::Caller;
use tollway_agent::request::{OnDisconnect, RunRequest};
use tollway_agent::resume::{Fork, Resume};
use tollway_agent::run::feed::{Follower, Next};
use tollway_agent::runs::ListQuery;
use tollway_agent::service::Begun;
use tollway_agent::toolbox::Allowed;
use tollway_filter_api::accounts::Kind;
use tollway_filter_api::identity::{KeyStore, Role};
use tollway_filter_api::{Answer, AnswerBody, Outcome, Reject, Rejection, RequestCtx, VirtualKey};

use crate::body::{self, BodyError};
use crate::directory::OBJECT_PERMISSION;
use crate::early::{finish, refuse};
use crate::model_call::gone_error;
use crate::percent::percent_decoded;
use crate::respond;
use crate::state::{Gateway, Generation};

pub(crate) mod calls;
pub(crate) mod files;
pub(crate) mod model;
mod route;

pub(crate) use model::PREFIX;
pub(crate) use route::{Access, AgentRoute, ENDPOINTS, Endpoint, find};

/// How often a stream says that it is still there.
const HEARTBEAT: Duration = Duration::from_secs(15);
const DONE: &[u8] = b"data: [DONE]\n\n";
/// By which an MCP client says which version of the protocol it speaks.
const MCP_VERSION: HeaderName = HeaderName::from_static("mcp-protocol-version");
/// Under which an answer names the run it comes from.
const RUN_ID: HeaderName = HeaderName::from_static("x-tollway-run-id");
/// Of whom lists, keys, teams and users say what tools they may use.
const TOOLS: &str = "tools";

/// Who asks.
pub(crate) fn caller(
    gateway: &Gateway,
    generation: &Generation,
    identity: Option<Arc<VirtualKey>>,
) -> Caller {
    let mut tools = Vec::new();
    let (mut sees_all, mut is_admin) = (false, false);
    let usual = || generation.config.agents.default_tools.clone();
    let owner: Arc<str> = match identity.as_deref() {
        // Without a key everybody is the same.
        None => {
            tools.push(usual());
            "anonymous".into()
        }
        Some(key) => {
            let keys = calls::keys(gateway, generation);
            let user = key.user.as_ref().and_then(|id| keys.account(Kind::User, id));
            let team = key.team.as_ref().and_then(|id| keys.account(Kind::Team, id));
            let role = user.as_ref().map_or(key.role, |user| user.role.max(key.role));
            is_admin = key.master || role == Role::Admin;
            sees_all = is_admin || role == Role::AdminViewer;
            if key.master {
                tools.push(Allowed(["*".to_owned()].into()));
            } else {
                let own = listed(&key.settings.metadata);
                let of_team = team.as_ref().and_then(|team| listed(&team.metadata));
                let of_user = user.as_ref().and_then(|user| listed(&user.metadata));
                // A team's and a user's only narrow what there is: their admins set them.
                tools.push(own.unwrap_or_else(usual));
                tools.extend([of_team, of_user].into_iter().flatten());
            }
            match &key.user {
                Some(user) => format!("user:{user}").into(),
                None => format!("key:{}", key.hash_hex).into(),
            }
        }
    };
    Caller { owner, identity, end_user: None, client: None, tools, sees_all, is_admin, trace: None }
}

/// The tools that metadata names: by `tools`, and as LiteLLM names those of MCP servers, by
/// `object_permission`.
fn listed(metadata: &serde_json::Map<String, Value>) -> Option<Allowed> {
    let texts = |list: &Value| -> Option<Vec<String>> {
        Some(list.as_array()?.iter().filter_map(Value::as_str).map(str::to_owned).collect())
    };
    let own = metadata.get(TOOLS).and_then(texts);
    let permission = metadata.get(OBJECT_PERMISSION);
    let tools = permission.and_then(|given| given.get("mcp_tool_permissions")?.as_object());
    let servers = permission.and_then(|given| texts(given.get("mcp_servers")?));
    if own.is_none() && tools.is_none() && servers.is_none() {
        return None;
    }
    let mut allowed: BTreeSet<String> = own.into_iter().flatten().collect();
    // A server of which tools are named has these and no others.
    let is_whole = |server: &String| !tools.is_some_and(|tools| tools.contains_key(server));
    let whole = servers.into_iter().flatten().filter(is_whole);
    allowed.extend(whole.map(|server| format!("{GROUP}.{server}")));
    for (server, named) in tools.into_iter().flatten() {
        let named = texts(named).unwrap_or_default();
        allowed.extend(named.into_iter().map(|tool| format!("{GROUP}.{server}.{tool}")));
    }
    Some(Allowed(allowed))
}

/// The names of the agents that somebody may call. Where the store is away, there are the other models
/// all the same.
pub(crate) async fn names(gateway: &Gateway, who: &Caller) -> Vec<String> {
    gateway.agents.names(who).await.unwrap_or_default()
}

/// A request for agents, read.
struct Ask<'a> {
    gateway: &'a Gateway,
    caller: Caller,
    query: String,
    body: Bytes,
    /// Behind which event a client goes on that has had some.
    last_event: Option<u64>,
    /// The version of MCP that a client says it speaks.
    mcp_version: Option<HeaderValue>,
}

/// What becomes of a request.
enum Reply {
    Json(Value),
    /// A message of MCP, or none.
    Mcp(Answered),
    /// A run that is at work: its events, or its end.
    Run {
        begun: Box<Begun>,
        is_stream: bool,
    },
    /// Events of a run, the stored ones and those to come.
    Events(Vec<u8>, Option<Follower>),
}

/// Serves a request whose head filters have let it through.
pub(crate) async fn serve(
    session: &mut ServerSession,
    gateway: &Gateway,
    generation: &Generation,
    ctx: &mut RequestCtx,
    route: AgentRoute,
) -> Result<Outcome> {
    let mut who = caller(gateway, generation, ctx.identity.clone());
    who.client = ctx.client;
    who.trace = ctx.span.as_deref().map(|span| span.trace().clone());
    let server = &generation.config.server;
    let head = session.req_header();
    let query = head.uri.query().unwrap_or_default().to_owned();
    let last_event = head.headers.get("last-event-id");
    let last_event = last_event.and_then(|id| id.to_str().ok()?.trim().parse().ok());
    let mcp_version = head.headers.get(MCP_VERSION).cloned();
    let mut held = None;
    let mut bytes = Bytes::new();
    if head.method == Method::POST || head.method == Method::PATCH || head.method == Method::PUT {
        let (max, patience) = (server.request_body_bytes_max, server.body_timeout);
        match body::read(session, max, patience, &gateway.body_memory).await {
            Ok((body, memory)) => {
                bytes = body;
                held = Some(memory);
            }
            Err(BodyError::Rejected(reject)) => {
                return refuse(session, generation, ctx, reject).await;
            }
            Err(BodyError::Gone(error)) => return Err(error),
        }
    }
    let method = session.req_header().method.clone();
    let ask = Ask { gateway, caller: who, query, body: bytes, last_event, mcp_version };
    let reply = {
        let answer = ask.answer(route, &method);
        tokio::pin!(answer);
        tokio::select! {
            biased;
            reply = &mut answer => reply,
            gone = session.read_body_or_idle(true) => return Err(gone_error(gone)),
        }
    };
    drop(held);
    match reply {
        Ok(Reply::Json(value)) => finish(session, generation, ctx, Ok(json_answer(&value))).await,
        Ok(Reply::Mcp(Answered { status, body })) => {
            let answer = match body {
                Some(body) => Answer { status, ..json_answer(&body) },
                None => Answer { status, headers: Vec::new(), body: AnswerBody::Empty },
            };
            finish(session, generation, ctx, Ok(answer)).await
        }
        Ok(Reply::Run { begun, is_stream: true }) => follow(session, generation, ctx, &begun).await,
        Ok(Reply::Run { begun, .. }) => {
            let who = caller(gateway, generation, ctx.identity.clone());
            let stopped = tokio::select! {
                biased;
                () = begun.stopped() => Ok(()),
                gone = session.read_body_or_idle(true) => Err(gone_error(gone)),
            };
            stopped?;
            let run = gateway.agents.ended(&who, &begun).await;
            let answer = run.map(|run| {
                let mut answer = json_answer(&run);
                answer.headers.extend(named(&begun.id));
                answer
            });
            finish(session, generation, ctx, answer).await
        }
        Ok(Reply::Events(stored, follower)) => {
            respond::begin_stream(session, &generation.chain, ctx, Vec::new(), None).await?;
            if !stored.is_empty() {
                session.write_response_body(stored.into(), false).await?;
            }
            if let Some(mut follower) = follower {
                pass_on(session, &mut follower).await?;
            }
            session.write_response_body(Bytes::from_static(DONE), true).await?;
            Ok(Outcome::Done)
        }
        Err(reject) => refuse(session, generation, ctx, reject).await,
    }
}

/// The header that names the run an answer comes from.
fn named(run: &str) -> Option<(HeaderName, HeaderValue)> {
    HeaderValue::from_str(run).ok().map(|id| (RUN_ID, id))
}

fn json_answer(value: &Value) -> Answer {
    let bytes = value.to_string().into();
    let headers = vec![(http::header::CACHE_CONTROL, HeaderValue::from_static("no-store"))];
    let body = AnswerBody::Full { content_type: "application/json", bytes };
    Answer { status: 200, headers, body }
}

/// Streams a run from its beginning.
async fn follow(
    session: &mut ServerSession,
    generation: &Generation,
    ctx: &mut RequestCtx,
    begun: &Begun,
) -> Result<Outcome> {
    let mut follower = begun.follow();
    let headers = named(&begun.id).into_iter().collect();
    respond::begin_stream(session, &generation.chain, ctx, headers, None).await?;
    pass_on(session, &mut follower).await?;
    session.write_response_body(Bytes::from_static(DONE), true).await?;
    Ok(Outcome::Done)
}

/// Passes on events for as long as the client is there.
async fn pass_on(session: &mut ServerSession, follower: &mut Follower) -> Result<()> {
    loop {
        let next = tokio::select! {
            biased;
            next = follower.next() => next,
            gone = session.read_body_or_idle(true) => return Err(gone_error(gone)),
            () = tokio::time::sleep(HEARTBEAT) => {
                session.write_response_body(Bytes::from_static(b": still here\n\n"), false).await?;
                continue;
            }
        };
        match next {
            Next::Events(events) => session.write_response_body(events, false).await?,
            Next::Ended => return Ok(()),
            Next::Lost => {
                let event =
                    b"event: error\ndata: {\"error\":{\"code\":\"events_lost\",\"message\":\
                    \"There are too many events to be kept: ask for the run.\"}}\n\n";
                return session.write_response_body(Bytes::from_static(event), false).await;
            }
        }
    }
}

impl Ask<'_> {
    async fn answer(self, route: AgentRoute, method: &Method) -> Result<Reply, Rejection> {
        let agents = &self.gateway.agents;
        let by_get = *method == Method::GET || *method == Method::HEAD;
        match route {
            AgentRoute::Chat => {
                let request = RunRequest::read(&self.body)?;
                let (is_stream, in_background) = (request.stream, request.background);
                let caller = self.caller.clone();
                let begun = agents.begin(self.caller, request).await?;
                reply(agents, caller, begun, is_stream, in_background).await
            }
            AgentRoute::Status => match self.parameter("run_id") {
                Some(id) => agents.run(&self.caller, &id).await.map(Reply::Json),
                None => Ok(Reply::Json(agents.status(&self.caller))),
            },
            AgentRoute::Runs => {
                agents.runs(&self.caller, &self.list_query()?).await.map(Reply::Json)
            }
            AgentRoute::Run(id) => agents.run(&self.caller, &id).await.map(Reply::Json),
            AgentRoute::Steps(id) => agents.steps(&self.caller, &id).await.map(Reply::Json),
            AgentRoute::Cancel(id) => agents.cancel(&self.caller, &id).await.map(Reply::Json),
            AgentRoute::Events(id) => {
                let after = match self.parameter("starting_after") {
                    Some(text) => text.parse().map_err(|_| {
                        Reject::invalid_request("'starting_after' must be a number.")
                            .with_param("starting_after")
                    })?,
                    None => self.last_event.unwrap_or(0),
                };
                let (stored, follower) = agents.events(&self.caller, &id, after).await?;
                Ok(Reply::Events(stored, follower))
            }
            AgentRoute::Resume(id) => {
                let body = Resume::read(&self.body)?;
                let (is_stream, in_background) = (body.stream, body.background);
                let caller = self.caller.clone();
                let begun = agents.resume(self.caller, &id, body, OnDisconnect::Continue).await?;
                reply(agents, caller, begun, is_stream, in_background).await
            }
            AgentRoute::Fork(id) => {
                let body = Fork::read(&self.body)?;
                let (is_stream, in_background) = (body.stream, body.background);
                let caller = self.caller.clone();
                let begun = agents.fork(self.caller, &id, body).await?;
                reply(agents, caller, begun, is_stream, in_background).await
            }
            AgentRoute::Agents if by_get => agents.definitions(&self.caller).await.map(Reply::Json),
            AgentRoute::Agents => {
                agents.define(&self.caller, None, &self.body).await.map(Reply::Json)
            }
            AgentRoute::Agent(name) => match *method {
                Method::DELETE => agents.undefine(&self.caller, &name).await.map(Reply::Json),
                Method::PATCH => {
                    agents.define(&self.caller, Some(&name), &self.body).await.map(Reply::Json)
                }
                _ => {
                    let agent = agents.agent(&self.caller, &name).await?;
                    Ok(Reply::Json(tollway_agent::definitions::view(&agent)))
                }
            },
            AgentRoute::Threads if by_get => {
                agents.threads(&self.caller, &self.list_query()?).await.map(Reply::Json)
            }
            AgentRoute::Threads => {
                agents.open_thread(&self.caller, &self.body).await.map(Reply::Json)
            }
            AgentRoute::Thread(id) => match *method {
                Method::DELETE => agents.remove_thread(&self.caller, &id).await.map(Reply::Json),
                Method::GET | Method::HEAD => {
                    agents.thread(&self.caller, &id).await.map(Reply::Json)
                }
                _ => agents.change_thread(&self.caller, &id, &self.body).await.map(Reply::Json),
            },
            AgentRoute::Messages(id) if by_get => {
                agents.messages(&self.caller, &id).await.map(Reply::Json)
            }
            AgentRoute::Messages(id) => {
                agents.add_messages(&self.caller, &id, &self.body).await.map(Reply::Json)
            }
            AgentRoute::Search(tool) => {
                agents.search(&self.caller, tool, &self.body).await.map(Reply::Json)
            }
            AgentRoute::Tools => Ok(Reply::Json(agents.tools(&self.caller))),
            AgentRoute::Tool(name) if by_get => agents.tool(&self.caller, &name).map(Reply::Json),
            AgentRoute::Tool(name) => {
                agents.use_tool(&self.caller, &name, &self.body).await.map(Reply::Json)
            }
            AgentRoute::Mcp => {
                let version = self.mcp_version.as_ref().map(HeaderValue::as_bytes);
                let answered = agents.answer_mcp(&self.caller, version, &self.body).await;
                Ok(Reply::Mcp(answered))
            }
        }
    }

    /// A parameter of the query.
    fn parameter(&self, name: &str) -> Option<String> {
        let pairs = self.query.split('&').filter_map(|pair| pair.split_once('='));
        let mut values = pairs.filter(|(have, _)| *have == name).map(|(_, value)| value);
        values.next().map(|value| percent_decoded(&value.replace('+', " ")))
    }

    fn list_query(&self) -> Result<ListQuery, Rejection> {
        let limit = match self.parameter("limit") {
            Some(text) => Some(text.parse().map_err(|_| {
                Reject::invalid_request("'limit' must be a number.").with_param("limit")
            })?),
            None => None,
        };
        Ok(ListQuery {
            status: self.parameter("status"),
            thread_id: self.parameter("thread_id"),
            after: self.parameter("after"),
            limit,
        })
    }
}

/// How a run that has begun is answered.
async fn reply(
    agents: &tollway_agent::service::Agents,
    caller: Caller,
    mut begun: Begun,
    is_stream: bool,
    in_background: bool,
) -> Result<Reply, Rejection> {
    if in_background && !is_stream {
        return match begun.take_first() {
            Some(run) => Ok(Reply::Json(run)),
            None => agents.run(&caller, &begun.id).await.map(Reply::Json),
        };
    }
    Ok(Reply::Run { begun: Box::new(begun), is_stream })
}

/// What is told of an agent in a list of models.
pub(crate) fn as_model(name: &str, created: u64) -> Value {
    json!({"id": format!("{PREFIX}{name}"), "object": "model", "created": created, "owned_by": "tollway"})
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(metadata: Value) -> Option<Vec<String>> {
        let Value::Object(metadata) = metadata else { return None };
        listed(&metadata).map(|allowed| allowed.0.into_iter().collect())
    }

    #[test]
    fn tools_are_named_our_way_and_litellms() {
        assert_eq!(names(json!({"purpose": "tests"})), None);
        assert_eq!(names(json!({"tools": ["code"]})), Some(vec!["code".into()]));
        let permission = json!({
            "mcp_servers": ["github", "files"],
            "mcp_tool_permissions": {"files": ["read"], "mail": ["list"]},
        });
        let wanted = ["mcp.files.read", "mcp.github", "mcp.mail.list"].map(str::to_owned);
        assert_eq!(names(json!({"object_permission": permission})), Some(wanted.into()));
        let nothing = json!({"object_permission": {"mcp_servers": []}});
        assert_eq!(names(nothing), Some(Vec::new()));
    }
}
