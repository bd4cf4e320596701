//! The paths of agents.

use http::Method;

use crate::percent::percent_decoded;

/// What is wanted of agents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum AgentRoute {
    /// `POST /chat/agent`
    Chat,
    /// `GET /agent/status`
    Status,
    /// `GET /agent/runs`
    Runs,
    /// `GET /agent/runs/{id}`
    Run(String),
    /// `GET /agent/runs/{id}/events`
    Events(String),
    /// `GET /agent/runs/{id}/steps`
    Steps(String),
    /// `POST /agent/runs/{id}/cancel`
    Cancel(String),
    /// `POST /agent/runs/{id}/resume`
    Resume(String),
    /// `POST /agent/runs/{id}/fork`
    Fork(String),
    /// `GET` and `POST /agents`
    Agents,
    /// `GET`, `PATCH` and `DELETE /agents/{name}`
    Agent(String),
    /// `GET` and `POST /threads`
    Threads,
    /// `GET`, `PATCH` and `DELETE /threads/{id}`
    Thread(String),
    /// `GET` and `POST /threads/{id}/messages`
    Messages(String),
    /// `GET /tools`
    Tools,
    /// `GET` and `POST /tools/{name}`
    Tool(String),
    /// `POST /mcp`
    Mcp,
    /// `POST /tools/search`, and LiteLLM's `POST /search/{tool}`
    Search(Option<String>),
}

/// Who may do it. To anybody else somebody's object is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// Whoever has a key, with what is the caller's own.
    Caller,
    /// Of an object: its owner, and those who see everything.
    Reader,
    /// Its owner, and admins.
    Ruler,
    /// Its owner alone.
    Owner,
}

impl Access {
    /// Its name in `/openapi.json`.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Access::Caller => "caller",
            Access::Reader => "reader",
            Access::Ruler => "ruler",
            Access::Owner => "owner",
        }
    }
}

/// A path, what can be done there, and by whom: what is routed, described in `/openapi.json`, and
/// tried by the test of access.
pub(crate) struct Endpoint<M: 'static> {
    pub(crate) pattern: &'static str,
    pub(crate) methods: &'static [Method],
    /// Of each method.
    pub(crate) access: &'static [Access],
    pub(crate) about: &'static str,
    make: M,
}

impl<M> Endpoint<M> {
    /// As many rules as there are methods, or it is not compiled.
    pub(super) const fn new<const N: usize>(
        pattern: &'static str,
        methods: &'static [Method; N],
        access: &'static [Access; N],
        make: M,
        about: &'static str,
    ) -> Endpoint<M> {
        Endpoint { pattern, methods, access, about, make }
    }
}

use Access::{Caller, Owner, Reader, Ruler};

const GET: &[Method; 1] = &[Method::GET];
const POST: &[Method; 1] = &[Method::POST];
const BOTH: &[Method; 2] = &[Method::GET, Method::POST];

/// Makes a route of what stands for the name in its pattern.
type Make = fn(String) -> AgentRoute;

const fn at<const N: usize>(
    pattern: &'static str,
    methods: &'static [Method; N],
    access: &'static [Access; N],
    make: Make,
    about: &'static str,
) -> Endpoint<Make> {
    Endpoint::new(pattern, methods, access, make, about)
}

/// All of them, also with `/v1` in front. The first that fits is taken.
pub(crate) static ENDPOINTS: &[Endpoint<Make>] = &[
    at("/chat/agent", POST, &[Caller], |_| AgentRoute::Chat, "Begins a run of an agent."),
    at("/agent/status", GET, &[Caller], |_| AgentRoute::Status, "How agents and tools are."),
    at("/agent/runs", GET, &[Caller], |_| AgentRoute::Runs, "Lists runs."),
    at("/agent/runs/{id}", GET, &[Reader], AgentRoute::Run, "A run."),
    at("/agent/runs/{id}/events", GET, &[Reader], AgentRoute::Events, "A run's events."),
    at("/agent/runs/{id}/steps", GET, &[Reader], AgentRoute::Steps, "A run, step by step."),
    at("/agent/runs/{id}/cancel", POST, &[Ruler], AgentRoute::Cancel, "Ends a run."),
    at("/agent/runs/{id}/resume", POST, &[Ruler], AgentRoute::Resume, "Decides about a run."),
    at("/agent/runs/{id}/fork", POST, &[Reader], AgentRoute::Fork, "A new run from a step of it."),
    at("/agents", BOTH, &[Caller, Caller], |_| AgentRoute::Agents, "Lists and defines agents."),
    at(
        "/agents/{name}",
        &[Method::GET, Method::PATCH, Method::DELETE],
        &[Owner, Owner, Owner],
        AgentRoute::Agent,
        "An agent: one's own, or everybody's, which admins change.",
    ),
    at("/threads", BOTH, &[Caller, Caller], |_| AgentRoute::Threads, "Lists and opens threads."),
    at(
        "/threads/{id}",
        &[Method::GET, Method::PATCH, Method::POST, Method::DELETE],
        &[Reader, Ruler, Ruler, Ruler],
        AgentRoute::Thread,
        "A thread.",
    ),
    at(
        "/threads/{id}/messages",
        BOTH,
        &[Reader, Ruler],
        AgentRoute::Messages,
        "A thread's messages.",
    ),
    at("/tools", GET, &[Caller], |_| AgentRoute::Tools, "Lists the tools one may use."),
    at("/tools/search", POST, &[Caller], |_| AgentRoute::Search(None), "Searches the web."),
    at(
        "/search/{tool}",
        POST,
        &[Caller],
        |tool| AgentRoute::Search(Some(tool)),
        "The same, as LiteLLM has it.",
    ),
    at("/tools/{name}", BOTH, &[Caller, Caller], AgentRoute::Tool, "Shows and uses a tool."),
    at("/mcp", POST, &[Caller], |_| AgentRoute::Mcp, "The tools, as an MCP server."),
];

/// The route of a path without `/v1`, its pattern, and the methods it takes.
pub(crate) fn find(path: &str) -> Option<(AgentRoute, &'static str, &'static [Method])> {
    let path = if path == "/mcp/" { "/mcp" } else { path };
    ENDPOINTS.iter().find_map(|endpoint| {
        let name = name_in(path, endpoint.pattern)?;
        let route = (endpoint.make)(percent_decoded(name));
        Some((route, endpoint.pattern, endpoint.methods))
    })
}

/// What stands in a path for the name in a pattern; nothing where that has none. `None` where the
/// path is another.
fn name_in<'p>(path: &'p str, pattern: &str) -> Option<&'p str> {
    let Some((before, after)) = pattern.split_once('{') else {
        return (path == pattern).then_some("");
    };
    let after = after.split_once('}').map_or("", |(_, after)| after);
    let name = path.strip_prefix(before)?.strip_suffix(after)?;
    (!name.is_empty() && !name.contains('/')).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_lead_where_they_should() {
        let route = |path| find(path).map(|(route, ..)| route);
        assert_eq!(route("/chat/agent"), Some(AgentRoute::Chat));
        assert_eq!(route("/agent/runs/run_1"), Some(AgentRoute::Run("run_1".into())));
        assert_eq!(route("/agent/runs/run_1/resume"), Some(AgentRoute::Resume("run_1".into())));
        assert_eq!(route("/threads/t/messages"), Some(AgentRoute::Messages("t".into())));
        assert_eq!(route("/tools/code.python"), Some(AgentRoute::Tool("code.python".into())));
        assert_eq!(route("/mcp"), Some(AgentRoute::Mcp));
        assert_eq!(route("/mcp/"), Some(AgentRoute::Mcp));
        for path in [
            "/",
            "/mcp/x",
            "/chat",
            "/agent",
            "/agents/",
            "/agent/runs/",
            "/agent/runs//cancel",
            "/tools/a/b",
            "/agent/runs/a/b/c",
        ] {
            assert_eq!(route(path), None, "{path}");
        }
    }
}
