//! Which endpoint a path is, under every name it has: below `/v1` or not, as a deployment of Azure,
//! as a model of Vertex AI or of Bedrock.

use crate::dialect::Dialect;
use crate::encoding::{form_value, percent_decoded};

/// An endpoint. What is in brackets is the part of the path that names a model or an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Endpoint {
    Health,
    Token,
    Models,
    Model(String),
    Chat,
    Completion,
    Embeddings,
    Moderations,
    Rerank,
    Messages,
    CountMessages,
    Responses,
    /// The id, and what of it: nothing, `cancel` or `input_items`.
    Response(String, String),
    Images,
    ImageEdits,
    Picture,
    Speech,
    Transcription,
    Translation,
    Files,
    /// The id, and whether its content is wanted.
    File(String, bool),
    Batches,
    /// The id, and nothing or `cancel`.
    Batch(String, String),
    Jobs,
    /// The id, and nothing, `cancel` or `events`.
    Job(String, String),
    Realtime,
    /// Gemini's verbs, such as `generateContent`.
    Gemini(String),
    /// Vertex AI's verbs for Anthropic's models: `rawPredict`, `streamRawPredict`.
    VertexAnthropic,
    /// Bedrock's verbs, such as `converse`.
    Bedrock(String),
    CohereChat,
    CohereEmbed,
    Unknown,
}

/// Where a request goes.
#[derive(Clone, Debug)]
pub(crate) struct Route {
    pub(crate) endpoint: Endpoint,
    pub(crate) dialect: Dialect,
    /// The model, where the path or the query names it.
    pub(crate) model: Option<String>,
    /// Whether a stream is asked for, where the path says so.
    pub(crate) stream: Option<bool>,
}

impl Route {
    fn new(endpoint: Endpoint, dialect: Dialect) -> Route {
        Route { endpoint, dialect, model: None, stream: None }
    }
}

/// Finds the endpoint of a path with its query.
pub(crate) fn route(path_and_query: &str) -> Route {
    let (path, query) = path_and_query.split_once('?').unwrap_or((path_and_query, ""));
    if let Some(rest) = path.strip_prefix("/model/") {
        return bedrock(rest);
    }
    if path == "/token" || path.ends_with("/oauth2/v2.0/token") || path.ends_with("/default/token")
    {
        return Route::new(Endpoint::Token, Dialect::Chat);
    }
    match path {
        "/v2/chat" => return Route::new(Endpoint::CohereChat, Dialect::Cohere),
        "/v2/embed" => return Route::new(Endpoint::CohereEmbed, Dialect::Cohere),
        "/v2/rerank" => return Route::new(Endpoint::Rerank, Dialect::Cohere),
        _ => {}
    }
    let version = ["/v1beta1", "/v1beta", "/v1alpha", "/v1"]
        .into_iter()
        .find(|version| path.strip_prefix(version).is_some_and(|rest| rest.starts_with('/')));
    let rest = &path[version.map_or(0, str::len)..];
    if rest.starts_with("/projects/") || rest.starts_with("/publishers/") {
        if let Some((_, publisher)) = rest.split_once("/publishers/")
            && let Some((publisher, model)) = publisher.split_once("/models/")
        {
            return vertex(publisher, model, query);
        }
        if let Some((_, openai_path)) = rest.split_once("/endpoints/openapi/") {
            return openai(&format!("/{openai_path}"), query);
        }
    }
    if let Some(model) = rest.strip_prefix("/models/")
        && model.contains(':')
        && version.is_some()
    {
        return vertex("google", model, query);
    }
    if matches!(version, Some("/v1beta" | "/v1alpha")) && !rest.starts_with("/openai/") {
        return match rest.strip_prefix("/models/") {
            Some(model) => Route::new(Endpoint::Model(model.to_owned()), Dialect::GEMINI),
            None if rest == "/models" => Route::new(Endpoint::Models, Dialect::GEMINI),
            None => Route::new(Endpoint::Unknown, Dialect::GEMINI),
        };
    }
    // Azure's, and that of others who keep OpenAI's API in a corner of their own.
    if let Some(rest) = rest.strip_prefix("/openai") {
        if let Some(rest) = rest.strip_prefix("/deployments/")
            && let Some((model, rest)) = rest.split_once('/')
        {
            let mut route = openai(&format!("/{rest}"), query);
            route.model = Some(percent_decoded(model, false));
            return route;
        }
        return openai(rest.strip_prefix("/v1").unwrap_or(rest), query);
    }
    openai(rest, query)
}

fn vertex(publisher: &str, model: &str, query: &str) -> Route {
    let (model, verb) = model.rsplit_once(':').unwrap_or((model, ""));
    let stream = verb.starts_with("stream");
    let mut route = match (publisher, verb) {
        ("anthropic", "rawPredict" | "streamRawPredict") => {
            Route::new(Endpoint::VertexAnthropic, Dialect::Messages)
        }
        _ => {
            // Without `alt=sse` the stream is one long JSON array.
            let array = stream && form_value(query, "alt").as_deref() != Some("sse");
            Route::new(Endpoint::Gemini(verb.to_owned()), Dialect::Gemini { array })
        }
    };
    route.model = Some(percent_decoded(model, false));
    // For Anthropic's models the body says it too, and must agree with the verb.
    route.stream = Some(stream);
    route
}

fn bedrock(rest: &str) -> Route {
    // The id may be an ARN, whose slashes some clients do not encode.
    let (model, verb) = rest.rsplit_once('/').unwrap_or((rest, ""));
    let (dialect, stream) = match verb {
        "invoke" => (Dialect::Invoke, false),
        "invoke-with-response-stream" => (Dialect::Invoke, true),
        "converse-stream" => (Dialect::Converse, true),
        _ => (Dialect::Converse, false),
    };
    let mut route = Route::new(Endpoint::Bedrock(verb.to_owned()), dialect);
    route.model = Some(percent_decoded(model, false));
    route.stream = Some(stream);
    route
}

fn openai(path: &str, query: &str) -> Route {
    let mut parts = path.split('/').skip(1);
    let first = parts.next().unwrap_or_default();
    let (second, third) = (parts.next(), parts.next());
    let known = |endpoint| Route::new(endpoint, Dialect::Chat);
    if parts.next().is_some() && first != "models" && first != "fine_tuning" {
        return known(Endpoint::Unknown);
    }
    let id = || second.unwrap_or_default().to_owned();
    match (first, second, third) {
        ("" | "health", None, _) => known(Endpoint::Health),
        ("models", None, _) => known(Endpoint::Models),
        // A model's name may have slashes.
        ("models", Some(_), _) => known(Endpoint::Model(path["/models/".len()..].to_owned())),
        ("chat", Some("completions"), None) => known(Endpoint::Chat),
        ("completions", None, _) => Route::new(Endpoint::Completion, Dialect::Completion),
        ("embeddings", None, _) => known(Endpoint::Embeddings),
        ("moderations", None, _) => known(Endpoint::Moderations),
        ("rerank", None, _) => known(Endpoint::Rerank),
        ("messages", None, _) => Route::new(Endpoint::Messages, Dialect::Messages),
        ("messages", Some("count_tokens"), None) => {
            Route::new(Endpoint::CountMessages, Dialect::Messages)
        }
        ("responses", None, _) => Route::new(Endpoint::Responses, Dialect::Responses),
        ("responses", Some(_), None | Some("cancel" | "input_items")) => {
            let what = third.unwrap_or_default().to_owned();
            Route::new(Endpoint::Response(id(), what), Dialect::Responses)
        }
        ("images", Some("generations"), None) => known(Endpoint::Images),
        ("images", Some("edits" | "variations"), None) => known(Endpoint::ImageEdits),
        ("simulated.png", None, _) => known(Endpoint::Picture),
        ("audio", Some("speech"), None) => known(Endpoint::Speech),
        ("audio", Some("transcriptions"), None) => known(Endpoint::Transcription),
        ("audio", Some("translations"), None) => known(Endpoint::Translation),
        ("files", None, _) => known(Endpoint::Files),
        ("files", Some(_), None) => known(Endpoint::File(id(), false)),
        ("files", Some(_), Some("content")) => known(Endpoint::File(id(), true)),
        ("batches", None, _) => known(Endpoint::Batches),
        ("batches", Some(_), None | Some("cancel")) => {
            known(Endpoint::Batch(id(), third.unwrap_or_default().to_owned()))
        }
        ("fine_tuning", Some("jobs"), None) => known(Endpoint::Jobs),
        ("fine_tuning", Some("jobs"), Some(job)) => {
            let what = path.split('/').nth(4).unwrap_or_default();
            match (what, path.split('/').nth(5)) {
                ("" | "cancel" | "events", None) => {
                    known(Endpoint::Job(job.to_owned(), what.to_owned()))
                }
                _ => known(Endpoint::Unknown),
            }
        }
        ("realtime", None, _) => {
            let mut route = Route::new(Endpoint::Realtime, Dialect::Realtime);
            route.model = form_value(query, "model").or_else(|| form_value(query, "deployment"));
            route
        }
        _ => known(Endpoint::Unknown),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_of_an_endpoint_leads_to_it() {
        let check = |path: &str, endpoint, model: Option<&str>| {
            let route = route(path);
            assert_eq!((route.endpoint, route.model.as_deref()), (endpoint, model), "{path}");
        };
        check("/v1/chat/completions", Endpoint::Chat, None);
        check("/chat/completions?x=1", Endpoint::Chat, None);
        check("/openai/v1/chat/completions", Endpoint::Chat, None);
        check("/v1beta/openai/chat/completions", Endpoint::Chat, None);
        let azure = "/openai/deployments/my%20gpt/chat/completions?api-version=2024-10-21";
        check(azure, Endpoint::Chat, Some("my gpt"));
        check("/openai/deployments/w/audio/translations", Endpoint::Translation, Some("w"));
        check("/openai/realtime?api-version=1&deployment=rt", Endpoint::Realtime, Some("rt"));
        check("/v1/models/a/b", Endpoint::Model("a/b".into()), None);
        check("/v1beta/models/g", Endpoint::Model("g".into()), None);
        let gemini = |verb: &str| Endpoint::Gemini(verb.to_owned());
        check("/v1beta/models/g:generateContent", gemini("generateContent"), Some("g"));
        let vertex = "/v1/projects/p/locations/l/publishers";
        check(&format!("{vertex}/google/models/g:countTokens"), gemini("countTokens"), Some("g"));
        let claude = format!("{vertex}/anthropic/models/claude@1:streamRawPredict");
        check(&claude, Endpoint::VertexAnthropic, Some("claude@1"));
        let bedrock = |verb: &str| Endpoint::Bedrock(verb.to_owned());
        check("/model/a.b-v1%3A0/converse", bedrock("converse"), Some("a.b-v1:0"));
        check("/model/arn:x/y/invoke", bedrock("invoke"), Some("arn:x/y"));
        check(
            "/v1/responses/r/input_items",
            Endpoint::Response("r".into(), "input_items".into()),
            None,
        );
        check("/v1/fine_tuning/jobs/j/events", Endpoint::Job("j".into(), "events".into()), None);
        check("/tenant/oauth2/v2.0/token", Endpoint::Token, None);
        for unknown in
            ["/v1/nothing", "/v1/chat/completions/x", "/v1/fine_tuning/jobs/j/x/y", "/v9"]
        {
            check(unknown, Endpoint::Unknown, None);
        }
        for odd in ["", "?", "/", "//", "/v1", "/v1/", "/model/", "/v1/projects/", "/v1beta/"] {
            route(odd);
        }
    }

    #[test]
    fn a_stream_of_gemini_is_an_array_unless_events_are_asked_for() {
        let dialect = |path| route(path).dialect;
        let path = "/v1beta/models/g:streamGenerateContent";
        assert_eq!(dialect(path), Dialect::Gemini { array: true });
        assert_eq!(dialect(&format!("{path}?key=k&alt=sse")), Dialect::GEMINI);
    }
}
