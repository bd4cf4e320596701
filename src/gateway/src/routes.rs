//! Which path means what.

use http::Method;
use tollway_wire::operation::Operation;

/// What a request is for, by its path alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Route {
    /// A model call, carried by the exchange.
    Call(Operation),
    /// `GET /v1/models`
    Models,
    /// `GET /v1/models/{id}`
    Model,
    /// `GET /health/liveliness` and its other spelling: the process runs.
    Alive,
    /// `GET /health/readiness`: it takes requests.
    Ready,
    /// `GET /metrics`
    Metrics,
    /// A configured pass-through, carried by Pingora's loop: its place in the config.
    PassThrough(usize),
    /// Nothing we know.
    Unknown,
}

/// A route, its pattern for labels and logs, and the method it wants.
#[derive(Clone, Debug)]
pub(crate) struct Match {
    pub(crate) route: Route,
    pub(crate) pattern: &'static str,
    pub(crate) method: Option<Method>,
}

const fn found(route: Route, pattern: &'static str, method: Option<Method>) -> Match {
    Match { route, pattern, method }
}

/// Finds the route of `path`. Every route of OpenAI's API exists with and without `/v1`.
pub(crate) fn find(path: &str) -> Match {
    let bare = path.strip_prefix("/v1/").map_or(path, |_| &path[3..]);
    match bare {
        "/chat/completions" => found(
            Route::Call(Operation::ChatCompletions),
            "/v1/chat/completions",
            Some(Method::POST),
        ),
        "/completions" => {
            found(Route::Call(Operation::Completions), "/v1/completions", Some(Method::POST))
        }
        "/embeddings" => {
            found(Route::Call(Operation::Embeddings), "/v1/embeddings", Some(Method::POST))
        }
        "/models" => found(Route::Models, "/v1/models", Some(Method::GET)),
        _ if model_id(path).is_some() => found(Route::Model, "/v1/models/{id}", Some(Method::GET)),
        _ => match path {
            "/health/liveliness" => found(Route::Alive, "/health/liveliness", Some(Method::GET)),
            "/health/liveness" => found(Route::Alive, "/health/liveness", Some(Method::GET)),
            "/health/readiness" => found(Route::Ready, "/health/readiness", Some(Method::GET)),
            "/metrics" | "/metrics/" => found(Route::Metrics, "/metrics", Some(Method::GET)),
            _ => found(Route::Unknown, "unknown", None),
        },
    }
}

/// The `{id}` of `/v1/models/{id}`, still percent-encoded. It may hold slashes: `openai/gpt-4o`.
pub(crate) fn model_id(path: &str) -> Option<&str> {
    let path = path.strip_prefix("/v1").unwrap_or(path);
    path.strip_prefix("/models/").filter(|id| !id.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(path: &str, route: Route) {
        assert_eq!(find(path).route, route, "{path}");
    }

    #[test]
    fn every_route_exists_with_and_without_v1() {
        for (path, operation) in [
            ("/chat/completions", Operation::ChatCompletions),
            ("/completions", Operation::Completions),
            ("/embeddings", Operation::Embeddings),
        ] {
            check(path, Route::Call(operation));
            check(&format!("/v1{path}"), Route::Call(operation));
        }
        check("/models", Route::Models);
        check("/v1/models", Route::Models);
        check("/models/gpt-4o", Route::Model);
        check("/v1/models/openai/gpt-4o", Route::Model);
    }

    #[test]
    fn near_misses_are_unknown() {
        for path in ["/", "/v1", "/v1/", "/v1//models", "/v1/chat", "/models/", "/v1/v1/models"] {
            check(path, Route::Unknown);
        }
    }
}
