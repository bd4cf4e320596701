//! The paths of agents.

use http::Method;

use crate::routes::percent_decoded;

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

const GET: &[Method] = &[Method::GET];
const POST: &[Method] = &[Method::POST];
const BOTH: &[Method] = &[Method::GET, Method::POST];
const ONE: &[Method] = &[Method::GET, Method::PATCH, Method::POST, Method::DELETE];
const NAMED: &[Method] = &[Method::GET, Method::PATCH, Method::DELETE];

/// The route of a path without `/v1`, its pattern, and the methods it takes.
pub(crate) fn find(path: &str) -> Option<(AgentRoute, &'static str, &'static [Method])> {
    let path = path.strip_prefix('/')?;
    let (mut pieces, mut count) = ([""; 4], 0);
    for piece in path.split('/') {
        *pieces.get_mut(count)? = piece;
        count += 1;
    }
    let id = |at: usize| percent_decoded(pieces[at]);
    Some(match (count, pieces) {
        (2, ["chat", "agent", ..]) => (AgentRoute::Chat, "/chat/agent", POST),
        (2, ["agent", "status", ..]) => (AgentRoute::Status, "/agent/status", GET),
        (2, ["agent", "runs", ..]) => (AgentRoute::Runs, "/agent/runs", GET),
        (3, ["agent", "runs", one, _]) if !one.is_empty() => {
            (AgentRoute::Run(id(2)), "/agent/runs/{id}", GET)
        }
        (4, ["agent", "runs", one, action]) if !one.is_empty() => match action {
            "events" => (AgentRoute::Events(id(2)), "/agent/runs/{id}/events", GET),
            "steps" => (AgentRoute::Steps(id(2)), "/agent/runs/{id}/steps", GET),
            "cancel" => (AgentRoute::Cancel(id(2)), "/agent/runs/{id}/cancel", POST),
            "resume" => (AgentRoute::Resume(id(2)), "/agent/runs/{id}/resume", POST),
            "fork" => (AgentRoute::Fork(id(2)), "/agent/runs/{id}/fork", POST),
            _ => return None,
        },
        (1, ["agents", ..]) => (AgentRoute::Agents, "/agents", BOTH),
        (2, ["agents", one, ..]) if !one.is_empty() => {
            (AgentRoute::Agent(id(1)), "/agents/{name}", NAMED)
        }
        (1, ["threads", ..]) => (AgentRoute::Threads, "/threads", BOTH),
        (2, ["threads", one, ..]) if !one.is_empty() => {
            (AgentRoute::Thread(id(1)), "/threads/{id}", ONE)
        }
        (3, ["threads", one, "messages", _]) if !one.is_empty() => {
            (AgentRoute::Messages(id(1)), "/threads/{id}/messages", BOTH)
        }
        (1, ["tools", ..]) => (AgentRoute::Tools, "/tools", GET),
        (2, ["tools", "search", ..]) => (AgentRoute::Search(None), "/tools/search", POST),
        (2, ["search", one, ..]) if !one.is_empty() => {
            (AgentRoute::Search(Some(id(1))), "/search/{tool}", POST)
        }
        (2, ["tools", one, ..]) if !one.is_empty() => {
            (AgentRoute::Tool(id(1)), "/tools/{name}", BOTH)
        }
        (1, ["mcp", ..]) | (2, ["mcp", "", ..]) => (AgentRoute::Mcp, "/mcp", POST),
        _ => return None,
    })
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
