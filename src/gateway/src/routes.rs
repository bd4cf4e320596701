//! Which path means what.

use http::Method;
use tollway_wire::operation::{Dialect, Operation};

use crate::admin;
use crate::agents::{self, AgentRoute};
use crate::percent::percent_decoded;

/// What a request is for, by its path alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Route {
    /// A model call, carried by the exchange.
    Call(Asked),
    /// A stored response, by its id.
    Response(ResponseRoute),
    /// `GET /v1/models`
    Models,
    /// `GET /v1/models/{id}`
    Model,
    /// `GET /health/liveliness` and its other spelling: the process runs.
    Alive,
    /// `GET /health/readiness`: it takes requests.
    Ready,
    /// `GET /health`: how the deployments are.
    Health,
    /// `GET /metrics`
    Metrics,
    /// OpenAI's files, batches and fine-tuning jobs: carried to the provider as they are.
    Stored,
    /// `GET /v1/realtime`: a websocket to a model.
    Realtime,
    /// A configured pass-through, carried by Pingora's loop: its place in the config.
    PassThrough(usize),
    /// Agents, their runs, threads and tools.
    Agent(AgentRoute),
    /// The admin API: its place in the table of `admin`.
    Admin(usize),
    /// Nothing we know.
    Unknown,
}

/// A model call as its path tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Asked {
    pub(crate) operation: Operation,
    pub(crate) dialect: Dialect,
    /// The model, where the path names it.
    pub(crate) model: Option<String>,
    /// Whether a stream is wanted, where the path says so.
    pub(crate) stream: Option<bool>,
}

/// What is wanted of a stored response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ResponseRoute {
    /// `GET` or `DELETE /v1/responses/{id}`
    One,
    /// `POST /v1/responses/{id}/cancel`
    Cancel,
    /// `GET /v1/responses/{id}/input_items`
    InputItems,
}

/// A route, its pattern for labels and logs, and the methods it takes; none means any.
#[derive(Clone, Debug)]
pub(crate) struct Match {
    pub(crate) route: Route,
    pub(crate) pattern: &'static str,
    pub(crate) methods: &'static [Method],
}

const GET: &[Method] = &[Method::GET];
const POST: &[Method] = &[Method::POST];

const fn found(route: Route, pattern: &'static str, methods: &'static [Method]) -> Match {
    Match { route, pattern, methods }
}

const fn call(operation: Operation, dialect: Dialect, pattern: &'static str) -> Match {
    let asked = Asked { operation, dialect, model: None, stream: None };
    found(Route::Call(asked), pattern, POST)
}

const UNKNOWN: Match = found(Route::Unknown, "unknown", &[]);

/// Finds the route of `path`. Every route of OpenAI's API exists with and without `/v1`.
pub(crate) fn find(path: &str) -> Match {
    use Dialect::{Anthropic, OpenAi, Responses};
    use Operation as Op;

    let bare = path.strip_prefix("/v1/").map_or(path, |_| &path[3..]);
    match bare {
        "/chat/completions" => call(Op::ChatCompletions, OpenAi, "/v1/chat/completions"),
        "/completions" => call(Op::Completions, OpenAi, "/v1/completions"),
        "/embeddings" => call(Op::Embeddings, OpenAi, "/v1/embeddings"),
        "/responses" => call(Op::ChatCompletions, Responses, "/v1/responses"),
        "/messages" => call(Op::ChatCompletions, Anthropic, "/v1/messages"),
        "/messages/count_tokens" => call(Op::CountTokens, Anthropic, "/v1/messages/count_tokens"),
        "/moderations" => call(Op::Moderations, OpenAi, "/v1/moderations"),
        "/rerank" => call(Op::Rerank, OpenAi, "/v1/rerank"),
        "/images/generations" => call(Op::ImageGeneration, OpenAi, "/v1/images/generations"),
        "/images/edits" => call(Op::ImageEdit, OpenAi, "/v1/images/edits"),
        "/images/variations" => call(Op::ImageVariation, OpenAi, "/v1/images/variations"),
        "/audio/speech" => call(Op::Speech, OpenAi, "/v1/audio/speech"),
        "/audio/transcriptions" => call(Op::Transcription, OpenAi, "/v1/audio/transcriptions"),
        "/audio/translations" => call(Op::Translation, OpenAi, "/v1/audio/translations"),
        "/models" => found(Route::Models, "/v1/models", GET),
        "/realtime" => found(Route::Realtime, "/v1/realtime", GET),
        _ => match path {
            "/v2/rerank" => call(Op::Rerank, OpenAi, "/v2/rerank"),
            "/v1beta/models" => found(Route::Models, "/v1/models", GET),
            "/health" => found(Route::Health, "/health", GET),
            "/health/liveliness" => found(Route::Alive, "/health/liveliness", GET),
            "/health/liveness" => found(Route::Alive, "/health/liveness", GET),
            "/health/readiness" => found(Route::Ready, "/health/readiness", GET),
            "/metrics" | "/metrics/" => found(Route::Metrics, "/metrics", GET),
            _ => match admin::find(path) {
                Some(found) => of_admin(found),
                None => match agents::find(bare) {
                    Some((route, pattern, methods)) => found(Route::Agent(route), pattern, methods),
                    None => with_names(path, bare),
                },
            },
        },
    }
}

fn of_admin(found: admin::Found) -> Match {
    let methods = if found.endpoint.method == Method::GET { GET } else { POST };
    Match { route: Route::Admin(found.at), pattern: found.pattern, methods }
}

/// Routes with a name in the path: rarer, and asked last.
fn with_names(path: &str, bare: &str) -> Match {
    if model_id(path).is_some() {
        return found(Route::Model, "/v1/models/{id}", GET);
    }
    if let Some(rest) = bare.strip_prefix("/responses/") {
        return of_response(rest);
    }
    for (prefix, pattern) in [
        ("/files", "/v1/files"),
        ("/batches", "/v1/batches"),
        ("/fine_tuning/jobs", "/v1/fine_tuning/jobs"),
        ("/uploads", "/v1/uploads"),
    ] {
        let rest = bare.strip_prefix(prefix);
        if rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/')) {
            return found(Route::Stored, pattern, &[]);
        }
    }
    if let Some(asked) = of_gemini(path) {
        return asked;
    }
    // Azure's deployments, and OpenAI's engines of old: the path names the model.
    let prefixes = [
        ("/openai/deployments/", "/openai/deployments/{model}"),
        ("/engines/", "/engines/{model}"),
    ];
    for (prefix, pattern) in prefixes {
        let of_prefix = path.strip_prefix(prefix).or_else(|| bare.strip_prefix(prefix));
        if let Some((model, operation)) = of_prefix.and_then(model_and_operation) {
            let mut found = call(operation, Dialect::OpenAi, pattern);
            if let Route::Call(asked) = &mut found.route {
                asked.model = Some(model);
            }
            return found;
        }
    }
    // Azure's newer form is OpenAI's own below another prefix.
    if let Some(rest) = path.strip_prefix("/openai/v1") {
        let below = find(rest);
        let is_call = matches!(below.route, Route::Call(_) | Route::Response(_));
        return if rest.starts_with('/') && is_call { below } else { UNKNOWN };
    }
    UNKNOWN
}

/// `{model}/chat/completions` and its like. A model's name may hold slashes.
fn model_and_operation(rest: &str) -> Option<(String, Operation)> {
    let operations = Operation::ALL.into_iter().filter(|it| *it != Operation::CountTokens);
    // The longest path that fits: that of chat ends in that of text completions.
    let fits = operations.filter(|operation| rest.ends_with(operation.path()));
    let operation = fits.max_by_key(|operation| operation.path().len())?;
    Some((name(rest.strip_suffix(operation.path())?)?, operation))
}

/// Gemini's `/v1beta/models/{model}:{method}`.
fn of_gemini(path: &str) -> Option<Match> {
    const PATTERN: &str = "/v1beta/models/{model}";
    let rest = ["/v1beta/models/", "/v1/models/", "/models/"]
        .into_iter()
        .find_map(|prefix| path.strip_prefix(prefix))?;
    let (model, method) = rest.rsplit_once(':')?;
    let (operation, stream) = match method {
        "generateContent" => (Operation::ChatCompletions, false),
        "streamGenerateContent" => (Operation::ChatCompletions, true),
        "countTokens" => (Operation::CountTokens, false),
        "embedContent" | "batchEmbedContents" => (Operation::Embeddings, false),
        _ => return None,
    };
    let dialect = Dialect::Gemini;
    let asked = Asked { operation, dialect, model: Some(name(model)?), stream: Some(stream) };
    Some(found(Route::Call(asked), PATTERN, POST))
}

fn of_response(rest: &str) -> Match {
    const ONE: &[Method] = &[Method::GET, Method::DELETE];
    let (id, action) = rest.split_once('/').unwrap_or((rest, ""));
    match (id, action) {
        ("", _) => UNKNOWN,
        (_, "") => found(Route::Response(ResponseRoute::One), "/v1/responses/{id}", ONE),
        (_, "cancel") => {
            found(Route::Response(ResponseRoute::Cancel), "/v1/responses/{id}/cancel", POST)
        }
        (_, "input_items") => {
            found(Route::Response(ResponseRoute::InputItems), "/v1/responses/{id}/input_items", GET)
        }
        _ => UNKNOWN,
    }
}

/// A name of a path, decoded; none, if it is empty.
fn name(encoded: &str) -> Option<String> {
    let name = percent_decoded(encoded);
    (!name.is_empty()).then_some(name)
}

/// The `{id}` of `/v1/models/{id}`, still percent-encoded. It may hold slashes: `openai/gpt-4o`.
pub(crate) fn model_id(path: &str) -> Option<&str> {
    if let Some(id) = path.strip_prefix("/v1beta/models/") {
        // What comes after a colon there is a method.
        return Some(id).filter(|id| !id.is_empty() && !id.contains(':'));
    }
    let bare = path.strip_prefix("/v1").unwrap_or(path);
    let id = bare.strip_prefix("/models/").filter(|id| !id.is_empty())?;
    // What has one of Gemini's methods at its end is a call.
    of_gemini(path).is_none().then_some(id)
}

/// The `{id}` of `/v1/responses/{id}…`.
pub(crate) fn response_id(path: &str) -> Option<&str> {
    let (_, rest) = path.split_once("/responses/")?;
    rest.split('/').next().filter(|id| !id.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(path: &str, route: &Route) {
        assert_eq!(find(path).route, *route, "{path}");
    }

    fn asked(operation: Operation, dialect: Dialect) -> Asked {
        Asked { operation, dialect, model: None, stream: None }
    }

    #[test]
    fn every_route_exists_with_and_without_v1() {
        for operation in Operation::ALL {
            let dialect = match operation {
                Operation::CountTokens => Dialect::Anthropic,
                _ => Dialect::OpenAi,
            };
            let route = Route::Call(asked(operation, dialect));
            check(operation.path(), &route);
            check(&format!("/v1{}", operation.path()), &route);
        }
        for (path, dialect) in
            [("/responses", Dialect::Responses), ("/messages", Dialect::Anthropic)]
        {
            let route = Route::Call(asked(Operation::ChatCompletions, dialect));
            check(path, &route);
            check(&format!("/v1{path}"), &route);
        }
        check("/models", &Route::Models);
        check("/v1/models", &Route::Models);
        check("/models/gpt-4o", &Route::Model);
        check("/v1/models/openai/gpt-4o", &Route::Model);
        check("/v1beta/models", &Route::Models);
        check("/v1beta/models/gemini-2.5-pro", &Route::Model);
        check("/v1/files/file-1/content", &Route::Stored);
        check("/batches", &Route::Stored);
        check("/v1/responses/resp_1", &Route::Response(ResponseRoute::One));
        check("/responses/resp_1/cancel", &Route::Response(ResponseRoute::Cancel));
        assert_eq!(response_id("/v1/responses/resp_1/cancel"), Some("resp_1"));
    }

    #[test]
    fn a_path_may_name_the_model() {
        let of = |model: &str, operation, dialect, stream| {
            Route::Call(Asked { operation, dialect, model: Some(model.into()), stream })
        };
        let chat = Operation::ChatCompletions;
        let azure = of("gpt-4o", chat, Dialect::OpenAi, None);
        check("/openai/deployments/gpt-4o/chat/completions", &azure);
        check("/engines/gpt-4o/chat/completions", &azure);
        check("/v1/engines/gpt-4o/chat/completions", &azure);
        check(
            "/openai/deployments/a%2Fb/audio/speech",
            &of("a/b", Operation::Speech, Dialect::OpenAi, None),
        );
        check("/openai/v1/responses", &Route::Call(asked(chat, Dialect::Responses)));
        let gemini = |stream| of("gemini-2.5-pro", chat, Dialect::Gemini, Some(stream));
        check("/v1beta/models/gemini-2.5-pro:generateContent", &gemini(false));
        check("/v1beta/models/gemini-2.5-pro:streamGenerateContent", &gemini(true));
        check("/v1/models/gemini-2.5-pro:generateContent", &gemini(false));
        // A colon alone makes no call of a model's name.
        check("/v1/models/ollama/llama3:8b", &Route::Model);
    }

    #[test]
    fn near_misses_are_unknown() {
        for path in [
            "/",
            "/v1",
            "/v1/",
            "/v1//models",
            "/v1/chat",
            "/models/",
            "/v1/v1/models",
            "/responses/",
            "/v1/filesystem",
            "/openai/deployments/gpt-4o",
            "/openai/deployments//chat/completions",
            "/openai/v1",
            "/openai/v1/models/x",
            "/v1beta/models/:generateContent",
            "/v1beta/models/m:forget",
        ] {
            check(path, &Route::Unknown);
        }
    }
}
