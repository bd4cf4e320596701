//! A chat request: what of OpenAI's parameters Cohere has, under which name, and what it lacks.

use std::borrow::Cow;

use bytes::Bytes;
use serde_json::{Map, Value, json};
use tollway_wire::openai::request::{ChatRequest, ResponseFormat};
use tollway_wire::splice::Edits;

use crate::openai::{is_gateway_only, listed};
use crate::params::Lacks;
use crate::request::{read_chat, stop_sequences, unwritable};
use crate::{Call, RequestError, Target, UpstreamBody};

use super::messages::conversation;
use super::params::{HINTS, take_unsupported};
use super::tools::{tool_choice, tools};

/// A fault of the request as a whole.
pub(super) fn invalid(message: String, param: Option<&str>) -> RequestError {
    RequestError::Invalid { message, param: param.map(str::to_owned) }
}

/// The client's body without what it lists in `additional_drop_params`.
pub(super) fn without_dropped(call: &Call<'_>) -> Bytes {
    let dropped = listed(call, "additional_drop_params");
    let mut edits = Edits::new();
    dropped.iter().for_each(|name| edits.remove(name));
    edits.apply(call.body, call.object)
}

/// Whether a model thinks, told from its name: one of Cohere's that is not known to be older or
/// smaller does. What Cohere's models are to its own API is
/// <https://docs.cohere.com/v2/docs/reasoning>, read 2026-11.
pub(super) fn thinks(model: &str) -> bool {
    const PLAIN: &[&str] = &[
        "command-r",
        "command-light",
        "command-nightly",
        "command-xlarge",
        "command-a-03-2025",
        "command-a-vision",
        "command-a-translate",
        "c4ai-",
        "aya-",
        "tiny-aya",
    ];
    let name = model.rsplit('/').next().unwrap_or(model);
    name != "command" && !PLAIN.iter().any(|plain| name.starts_with(plain))
}

/// Writes the body of one attempt.
pub(super) fn request(
    provider: &'static str,
    call: &Call<'_>,
    target: &Target,
) -> Result<UpstreamBody, RequestError> {
    let body = without_dropped(call);
    let mut request = read_chat(&body)?;
    let mut lacks = Lacks::new(&request, target);
    take_unsupported(&mut request, &mut lacks);
    let thinks = thinks(&target.model);
    let all = conversation(std::mem::take(&mut request.messages), thinks)?;

    let mut out = Map::new();
    out.insert("model".into(), target.model.clone().into());
    out.insert("messages".into(), all.messages.into());
    if call.stream {
        out.insert("stream".into(), true.into());
    }
    let mut put = |name: &str, value: Option<Value>| {
        if let Some(value) = value {
            out.insert(name.into(), value);
        }
    };
    let mut translated = tools(request.tools.take().unwrap_or_default())?;
    let choice = tool_choice(request.tool_choice.take(), &mut translated.list)?;
    put("strict_tools", translated.strict.then(|| true.into()));
    put("tools", (!translated.list.is_empty()).then(|| translated.list.into()));
    put("tool_choice", choice.map(Value::from));
    put("response_format", response_format(request.response_format.take()));
    put("thinking", thinking(&mut request, thinks, &mut lacks));
    put("max_tokens", request.max_completion_tokens.or(request.max_tokens).map(Value::from));
    put("stop_sequences", stop_sequences(request.stop.take()).map(Value::from));
    put("temperature", request.temperature.take().map(Value::from));
    put("p", request.top_p.take().map(Value::from));
    put("k", request.extra.shift_remove("top_k").filter(|k| !k.is_null()));
    put("frequency_penalty", request.frequency_penalty.take().map(Value::from));
    put("presence_penalty", request.presence_penalty.take().map(Value::from));
    put("logprobs", (request.logprobs == Some(true)).then(|| true.into()));
    put("n", request.n.filter(|_| lacks.allows("n")).map(Value::from));
    if !all.documents.is_empty() {
        let mut documents = all.documents;
        if let Some(Value::Array(more)) = request.extra.shift_remove("documents") {
            documents.extend(more);
        }
        put("documents", Some(documents.into()));
    }
    lacks.check(provider, target)?;
    // Cohere's own: `documents`, `citation_options`, `safety_mode`, `seed`, `priority` …
    for (name, value) in std::mem::take(&mut request.extra) {
        if !value.is_null() && !is_gateway_only(&name) && !HINTS.contains(&name.as_str()) {
            out.insert(name, value);
        }
    }
    let bytes = serde_json::to_vec(&out).map_err(unwritable)?;
    Ok(UpstreamBody::plain(bytes.into()))
}

/// Structured output: a schema is a `json_object` with a schema.
fn response_format(format: Option<ResponseFormat>) -> Option<Value> {
    let mut format = format.filter(|format| format.kind.starts_with("json"))?;
    // Cohere's own form has the schema where OpenAI's has the name around it.
    let bare = format.json_schema.take_if(|named| named.get("schema").is_none());
    let schema = format.schema().cloned().or(bare.filter(|schema| schema.get("type").is_some()));
    let mut wanted = json!({"type": "json_object"});
    if let Some(schema) = schema {
        wanted["json_schema"] = schema;
    }
    Some(wanted)
}

/// Cohere's `thinking` for the client's `thinking` or `reasoning_effort`. Models that can think do so
/// unless told otherwise, without any bound.
fn thinking(request: &mut ChatRequest, thinks: bool, lacks: &mut Lacks) -> Option<Value> {
    if let Some(thinking) = request.thinking.take().filter(Value::is_object) {
        if thinking["type"] == "disabled" {
            return thinks.then(|| json!({"type": "disabled"}));
        }
        if !thinks {
            lacks.add("thinking");
            return None;
        }
        let budget = thinking.get("token_budget").or_else(|| thinking.get("budget_tokens"));
        let mut wanted = json!({"type": "enabled"});
        if let Some(budget) = budget.and_then(Value::as_u64).filter(|budget| *budget > 0) {
            wanted["token_budget"] = budget.into();
        }
        return Some(wanted);
    }
    let effort = match request.reasoning_effort.take()? {
        Value::String(effort) => effort,
        Value::Object(object) => object.get("effort")?.as_str()?.to_owned(),
        _ => return None,
    };
    let is_off = matches!(effort.as_str(), "none" | "disable");
    if !thinks {
        if !is_off {
            lacks.add("reasoning_effort");
        }
        return None;
    }
    Some(match effort.as_str() {
        _ if is_off => json!({"type": "disabled"}),
        // LiteLLM's budgets for these efforts.
        "minimal" | "low" => json!({"type": "enabled", "token_budget": 1024}),
        "medium" => json!({"type": "enabled", "token_budget": 2048}),
        _ => json!({"type": "enabled"}),
    })
}

/// The members of a JSON object that is ours to take apart, with those of the gateway taken out.
pub(super) fn members(body: &[u8]) -> Result<Map<String, Value>, RequestError> {
    let mut members: Map<String, Value> = serde_json::from_slice(body)
        .map_err(|error| invalid(format!("not a request: {error}"), None))?;
    members.retain(|name, value| !value.is_null() && !is_gateway_only(name));
    Ok(members)
}

/// The same body spliced: without what is the gateway's.
pub(super) fn without_gateway_members<'a>(call: &Call<'a>) -> Vec<Cow<'a, str>> {
    let names = call.object.iter().map(|member| member.name(call.body));
    names.filter(|name| is_gateway_only(name)).collect()
}

#[cfg(test)]
mod tests {
    use tollway_wire::operation::{Dialect, Operation};
    use tollway_wire::scan::{Limits, scan};

    use super::*;

    #[test]
    fn models_that_think_are_told_by_their_names() {
        for (model, expect) in [
            ("command-a-reasoning-08-2025", true),
            ("command-a-plus-05-2026", true),
            ("command-a-03-2025", false),
            ("command-r7b-12-2024", false),
            ("command-r-plus-08-2024", false),
            ("c4ai-aya-expanse-32b", false),
            ("command", false),
            ("my-deployment", true),
        ] {
            assert_eq!(thinks(model), expect, "{model}");
        }
    }

    #[test]
    fn listed_parameters_are_left_out() {
        let body = Bytes::from_static(br#"{"top_p":1,"a":2,"additional_drop_params":["top_p"]}"#);
        let object = scan(&body, &Limits::default()).expect("an object");
        let call = Call::new(Operation::ChatCompletions, Dialect::OpenAi, &body, &object);
        assert_eq!(&without_dropped(&call)[..], br#"{"a":2,"additional_drop_params":["top_p"]}"#);
    }
}
