//! `GET /v1/models`: what the caller may call, in OpenAI's form, or in that of the caller's SDK:
//! <https://platform.claude.com/docs/en/api/models-list>, <https://ai.google.dev/api/models>, 2026-11.

use http::request::Parts;
use serde_json::{Value, json};
use tollway_filter_api::{ModelDirectory, ModelGroup, Reject, Rejection, VirtualKey};
use tollway_filters::model_alias;
use tollway_providers::prices;
use tollway_wire::operation::Dialect;

use crate::agents;
use crate::state::Generation;

/// LiteLLM's constant `created`; clients want a number and nobody knows a better one.
const CREATED: u64 = 1_677_610_602;
/// The same for Anthropic's `created_at`.
const CREATED_AT: &str = "2023-02-28T16:56:42Z";
/// How many names a wildcard is expanded to.
const EXPANDED_MAX: usize = 500;

/// Whose form the caller wants: the path is one for all, so its SDK's own headers tell.
pub(crate) fn dialect(head: &Parts) -> Dialect {
    let has = |name: &str| head.headers.contains_key(name);
    if head.uri.path().starts_with("/v1beta/") || has("x-goog-api-key") {
        Dialect::Gemini
    } else if has("anthropic-version") {
        Dialect::Anthropic
    } else {
        Dialect::OpenAi
    }
}

/// The list, wildcards expanded to the models we know a price of, and `agents` by their names.
pub(crate) fn list(
    generation: &Generation,
    key: Option<&VirtualKey>,
    dialect: Dialect,
    agents: &[String],
) -> Value {
    let mut data: Vec<Value> = Vec::new();
    let mut seen = std::collections::HashSet::new();
    for group in generation.config.directory.groups() {
        if group.hidden {
            continue;
        }
        let names = match group.name.split_once('*') {
            Some((prefix, _)) => expand(&group, prefix),
            None => vec![group.name.to_string()],
        };
        for name in names {
            if may_call(generation, key, &name) && seen.insert(name.clone()) {
                data.push(model(&name, generation, dialect));
            }
        }
    }
    if dialect == Dialect::OpenAi {
        data.extend(agents.iter().map(|name| agents::as_model(name, CREATED)));
    }
    match dialect {
        Dialect::Gemini => json!({"models": data}),
        Dialect::Anthropic => {
            let id = |model: Option<&Value>| model.map(|model| model["id"].clone());
            let (first, last) = (id(data.first()), id(data.last()));
            json!({"data": data, "has_more": false, "first_id": first, "last_id": last})
        }
        _ => json!({"data": data, "object": "list"}),
    }
}

/// One model, or one of `agents`.
pub(crate) fn one(
    generation: &Generation,
    key: Option<&VirtualKey>,
    id: &str,
    dialect: Dialect,
    agents: &[String],
) -> Result<Value, Rejection> {
    let agent = id.strip_prefix(agents::PREFIX).filter(|_| dialect == Dialect::OpenAi);
    if let Some(name) = agent.filter(|name| agents.iter().any(|have| have == name)) {
        return Ok(agents::as_model(name, CREATED));
    }
    if generation.config.directory.resolve(id).is_none() || !may_call(generation, key, id) {
        // Bounded, because it is the caller's text.
        let shown: String = id.chars().take(200).collect();
        let message =
            format!("The model '{shown}' does not exist or you do not have access to it.");
        return Err(Reject::new(404, "invalid_request_error", message)
            .with_code("model_not_found")
            .with_param("model"));
    }
    Ok(model(id, generation, dialect))
}

/// Whether this key may call a model of that name, if there is one.
pub(crate) fn may_call(generation: &Generation, key: Option<&VirtualKey>, name: &str) -> bool {
    let Some(key) = key else { return true };
    let Some(group) = generation.config.directory.resolve(name) else { return false };
    model_alias::denied_by(key, &*generation.config.keys, Some(&group), name).is_none()
}

fn expand(group: &ModelGroup, prefix: &str) -> Vec<String> {
    let Some(deployment) = group.deployments.first() else { return Vec::new() };
    prices::models_of(deployment.provider)
        .filter(|info| matches!(info.mode, "chat" | "completion" | "embedding" | "responses"))
        .take(EXPANDED_MAX)
        .map(|info| format!("{prefix}{}", info.model()))
        .collect()
}

fn model(name: &str, generation: &Generation, dialect: Dialect) -> Value {
    let group = generation.config.directory.resolve(name);
    let deployment = group.as_ref().and_then(|group| group.deployments.first());
    let reads = deployment.and_then(|deployment| deployment.max_input_tokens);
    let writes = deployment.and_then(|deployment| deployment.max_output_tokens);
    match dialect {
        Dialect::Anthropic => {
            return json!({
                "type": "model", "id": name, "display_name": name, "created_at": CREATED_AT,
                "max_input_tokens": reads, "max_tokens": writes,
            });
        }
        Dialect::Gemini => {
            let methods = match group.as_ref().and_then(|group| group.mode.as_deref()) {
                Some("embedding") => json!(["embedContent", "batchEmbedContents"]),
                _ => json!(["generateContent", "streamGenerateContent", "countTokens"]),
            };
            return json!({
                "name": format!("models/{name}"), "displayName": name,
                "inputTokenLimit": reads, "outputTokenLimit": writes,
                "supportedGenerationMethods": methods,
            });
        }
        _ => {}
    }
    let mut model = json!({
        "id": name,
        "object": "model",
        "created": CREATED,
        "owned_by": deployment.map_or("tollway", |d| d.provider),
    });
    if let Some(mode) = group.as_ref().and_then(|group| group.mode.as_deref()) {
        model["mode"] = mode.into();
    }
    if let Some(max) = reads {
        model["max_input_tokens"] = max.into();
    }
    if let Some(max) = writes {
        model["max_output_tokens"] = max.into();
    }
    model
}
