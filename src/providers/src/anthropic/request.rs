//! The request: what of OpenAI's parameters Anthropic has, under which name, and what it lacks.

use serde_json::{Map, Number, Value, json};
use tollway_wire::anthropic::MessagesRequest;
use tollway_wire::openai::request::{ChatRequest, ResponseFormat, Stop};
use tollway_wire::operation::Operation;

use crate::openai::is_gateway_only;
use crate::params::{Lacks, drop_listed};
use crate::request::{read_chat, stop_sequences, unwritable};
use crate::tools::{JSON_TOOL, answer_schema};
use crate::{Call, RequestError, Target, UpstreamBody};

use super::betas::Betas;
use super::messages::{Conversation, conversation};
use super::model::Abilities;
use super::params::take_unsupported;
use super::thinking::set_thinking;
use super::{NAME, schema, tools};

/// Anthropic demands `max_tokens`; this is LiteLLM's where neither client nor price table has one.
const MAX_TOKENS_DEFAULT: u64 = 4096;

/// Members that are hints to OpenAI's own machinery. They change nothing about the answer, so they
/// are left out without a word, as is `seed`, which OpenAI itself calls best effort.
const HINTS: &[&str] = &[
    "prompt_cache_key",
    "prompt_cache_retention",
    "safety_identifier",
    "seed",
    "stream_options",
    "extra_body",
    "extra_headers",
];

/// Writes the body of one attempt.
pub(super) fn translate(call: &Call<'_>, target: &Target) -> Result<UpstreamBody, RequestError> {
    let mut request = read_chat(call.body)?;
    drop_listed(&mut request);
    let abilities = Abilities::of(&target.model);
    let mut lacks = Lacks::new(&request, target);
    let mut body = MessagesRequest {
        model: target.model.clone(),
        stream: call.stream.then_some(true),
        ..MessagesRequest::default()
    };
    let mut betas = Betas::default();
    let all = conversation(std::mem::take(&mut request.messages))?;

    take_unsupported(&mut request, &mut lacks, &mut body);
    let choice = set_tools(&mut request, &mut body, &abilities, &all)?;
    body.tool_choice = choice;
    let mut output_config = take_output_config(&mut request.extra);
    let max_tokens = request.max_completion_tokens.or(request.max_tokens);
    set_thinking(
        &mut request,
        &mut body,
        &mut output_config,
        &abilities,
        &all,
        max_tokens,
        &mut lacks,
    );
    set_max_tokens(&mut body, max_tokens, target);
    let instruction =
        set_format(request.response_format.take(), &mut body, &mut output_config, &abilities);
    check_forced_tool(&mut body, &abilities, &mut lacks);
    set_sampling(&mut request, &mut body, &abilities, &mut lacks);
    body.stop_sequences = visible_stop_sequences(request.stop.take(), lacks.drops);
    body.metadata = user_id(&request).map(|id| json!({"user_id": id}));
    if !output_config.is_empty() {
        body.output_config = Some(output_config.into());
    }
    lacks.check(NAME, target)?;

    betas.of_client(&request.extra);
    for (name, value) in std::mem::take(&mut request.extra) {
        if !value.is_null() && !is_gateway_only(&name) && !HINTS.contains(&name.as_str()) {
            body.extra.insert(name, value);
        }
    }
    betas.of_body(&body, &abilities, &all);
    let mut system = all.system;
    system.extend(instruction.map(|text| json!({"type": "text", "text": text})));
    body.system = plain_system(system);
    body.messages = all.turns;
    let bytes = written(&body, call.operation).map_err(unwritable)?;
    Ok(UpstreamBody { headers: betas.into_headers(), ..UpstreamBody::plain(bytes.into()) })
}

/// Members that count: the endpoint that counts tokens refuses all others
/// (platform.claude.com/docs/en/api/messages-count-tokens, 2026-11).
const COUNTED: &[&str] = &[
    "model",
    "messages",
    "system",
    "tools",
    "tool_choice",
    "thinking",
    "output_config",
    "cache_control",
    "context_management",
    "mcp_servers",
    "speed",
];

fn written(body: &MessagesRequest, operation: Operation) -> serde_json::Result<Vec<u8>> {
    if operation != Operation::CountTokens {
        return serde_json::to_vec(body);
    }
    let mut body = serde_json::to_value(body)?;
    if let Value::Object(members) = &mut body {
        members.retain(|name, _| COUNTED.contains(&name.as_str()));
    }
    serde_json::to_vec(&body)
}

/// One plain block is written as the string it is short for.
fn plain_system(mut system: Vec<Value>) -> Option<Value> {
    match system.as_mut_slice() {
        [] => None,
        [only] if only.get("cache_control").is_none() => Some(only["text"].take()),
        _ => Some(system.into()),
    }
}

/// Sets `tools` and returns `tool_choice`.
fn set_tools(
    request: &mut ChatRequest,
    body: &mut MessagesRequest,
    abilities: &Abilities,
    all: &Conversation,
) -> Result<Option<Value>, RequestError> {
    let translated = tools::tools(request.tools.take().unwrap_or_default(), abilities)?;
    let mut list = translated.tools;
    if let Some(Value::Object(options)) = request.extra.shift_remove("web_search_options") {
        list.push(tools::web_search(&options));
    }
    if !translated.mcp_servers.is_empty() {
        body.extra.insert("mcp_servers".into(), translated.mcp_servers.into());
    }
    let choice = request.tool_choice.take();
    let mut choice = tools::tool_choice(choice, request.parallel_tool_calls, &mut list)?;
    // Anthropic refuses a conversation with tool calls in it and no tools (LiteLLM's
    // `add_dummy_tool`, 2026-11); this one cannot be called.
    if list.is_empty() && all.has_tool_blocks {
        list.push(json!({
            "name": "unavailable",
            "description": "The tools used above are no longer available.",
            "input_schema": {"type": "object", "properties": {}},
        }));
        choice = Some(json!({"type": "none"}));
    }
    if !list.is_empty() {
        body.tools = Some(list);
    }
    Ok(choice)
}

/// The client's own `output_config`, also under the name it had in its beta.
fn take_output_config(extra: &mut Map<String, Value>) -> Map<String, Value> {
    let mut config = match extra.shift_remove("output_config") {
        Some(Value::Object(config)) => config,
        _ => Map::new(),
    };
    if let Some(format @ Value::Object(_)) = extra.shift_remove("output_format") {
        config.entry("format").or_insert(format);
    }
    config
}

fn set_max_tokens(body: &mut MessagesRequest, max_tokens: Option<u64>, target: &Target) {
    body.max_tokens = max_tokens.unwrap_or_else(|| {
        let default = target.max_output_tokens.unwrap_or(MAX_TOKENS_DEFAULT);
        let budget = body.thinking.as_ref().and_then(|thinking| thinking["budget_tokens"].as_u64());
        match budget {
            Some(budget) if budget >= default => budget.saturating_add(MAX_TOKENS_DEFAULT),
            _ => default,
        }
    });
}

/// Asks for structured output. Returns an instruction for the system prompt where words are all
/// that is left.
fn set_format(
    format: Option<ResponseFormat>,
    body: &mut MessagesRequest,
    output_config: &mut Map<String, Value>,
    abilities: &Abilities,
) -> Option<&'static str> {
    let format = format.filter(|format| format.kind != "text" && !format.kind.is_empty())?;
    let schema = format.schema().cloned();
    if let Some(mut schema) = schema.clone().filter(|_| abilities.structured) {
        schema::tame(&mut schema);
        let wanted = json!({"type": "json_schema", "schema": schema});
        output_config.entry("format").or_insert(wanted);
        return None;
    }
    let thinks = body.thinking.as_ref().is_some_and(|thinking| thinking["type"] != "disabled");
    let can_force = abilities.forced_tools && !abilities.always_thinks && !thinks;
    if schema.is_none() && !can_force {
        return Some("Answer with one JSON object and nothing else.");
    }
    let tools = body.tools.get_or_insert_default();
    let alone = tools.is_empty();
    tools.push(json!({
        "name": JSON_TOOL,
        "description": "Gives the final answer. Its input is the answer.",
        "input_schema": answer_schema(schema),
    }));
    let forces_another = body.tool_choice.as_ref().is_some_and(tools::is_forced);
    if !can_force {
        body.tool_choice = None;
        return Some("Give the final answer by calling json_tool_call and in no other way.");
    }
    if !forces_another {
        // With other tools at hand the model must still be able to call those first.
        body.tool_choice = Some(if alone {
            json!({"type": "tool", "name": JSON_TOOL})
        } else {
            json!({"type": "any"})
        });
    }
    None
}

/// Some models cannot be made to call a tool.
fn check_forced_tool(body: &mut MessagesRequest, abilities: &Abilities, lacks: &mut Lacks) {
    if abilities.forced_tools || !body.tool_choice.as_ref().is_some_and(tools::is_forced) {
        return;
    }
    if !lacks.allows("tool_choice") {
        lacks.add("tool_choice");
        body.tool_choice = None;
    }
}

fn set_sampling(
    request: &mut ChatRequest,
    body: &mut MessagesRequest,
    abilities: &Abilities,
    lacks: &mut Lacks,
) {
    let thinks = body.thinking.as_ref().is_some_and(|thinking| thinking["type"] != "disabled");
    let is_one = |number: &Number| number.as_f64() == Some(1.0);
    let (mut temperature, mut top_p) = (request.temperature.take(), request.top_p.take());
    // Clients send both by habit, one of them at its default. Where neither is, Anthropic's own
    // refusal says it best.
    if abilities.one_sampling && temperature.is_some() && top_p.is_some() {
        if lacks.drops || top_p.as_ref().is_some_and(is_one) {
            top_p = None;
        } else if temperature.as_ref().is_some_and(is_one) {
            temperature = None;
        }
    }
    if let Some(temperature) = temperature {
        // Thinking and the newer models leave no choice but 1.
        if abilities.sampling && !thinks || lacks.allows("temperature") {
            body.temperature = Some(temperature);
        } else if !is_one(&temperature) {
            lacks.add("temperature");
        }
    }
    if let Some(top_p) = top_p {
        if abilities.sampling || lacks.allows("top_p") {
            body.top_p = Some(top_p);
        } else if !is_one(&top_p) {
            lacks.add("top_p");
        }
    }
    if !abilities.sampling
        && !lacks.allows("top_k")
        && request.extra.get("top_k").is_some_and(|top_k| !top_k.is_null())
    {
        request.extra.shift_remove("top_k");
        lacks.add("top_k");
    }
}

/// Anthropic refuses a sequence of nothing but white space; it is dropped where parameters are.
fn visible_stop_sequences(stop: Option<Stop>, drops: bool) -> Option<Vec<String>> {
    let mut all = stop_sequences(stop)?;
    all.retain(|sequence| !(drops && sequence.trim().is_empty()));
    (!all.is_empty()).then_some(all)
}

/// The end user, unless it is an address or a number to reach them by, which Anthropic refuses.
fn user_id(request: &ChatRequest) -> Option<&str> {
    let of_metadata = || request.metadata.as_ref()?.get("user_id")?.as_str();
    request.user.as_deref().or_else(of_metadata).filter(|id| {
        let digits = id.bytes().filter(u8::is_ascii_digit).count();
        let is_phone = digits >= 7
            && id.chars().all(|c| c.is_ascii_digit() || matches!(c, '+' | '-' | '(' | ')' | ' '));
        !id.is_empty() && !id.contains('@') && !is_phone
    })
}
