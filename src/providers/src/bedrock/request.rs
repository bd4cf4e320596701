//! A chat as Converse takes it: which of OpenAI's parameters there are, and under which name.

use serde_json::{Map, Number, Value, json};
use tollway_wire::openai::request::ChatRequest;

use crate::openai::is_gateway_only;
use crate::params::{Lacks, OPENAI_ONLY, drop_listed};
use crate::request::{read_chat, stop_sequences, unwritable};
use crate::{Call, RequestError, Target, UpstreamBody};

use super::NAME;
use super::body::Body;
use super::format::set_format;
use super::messages::{Turn, conversation};
use super::model::{Family, Model};
use super::thinking::set_thinking;
use super::tools::{Choice, grounding, set_tools, tool_choice, write_config};

/// Members that are hints to OpenAI's own machinery. They change nothing about the answer, so they
/// are left out without a word, as is `seed`, which OpenAI itself calls best effort.
const HINTS: &[&str] = &[
    "client_metadata",
    "extra_body",
    "extra_headers",
    "prompt_cache_key",
    "prompt_cache_retention",
    "safety_identifier",
    "seed",
    "stream_options",
];

/// Converse's own members, which clients that know it send as they are.
const OWN: &[&str] = &[
    "additionalModelResponseFieldPaths",
    "guardrailConfig",
    "performanceConfig",
    "promptVariables",
    "requestMetadata",
    "serviceTier",
];

/// Writes the body of one attempt.
pub(super) fn translate(
    call: &Call<'_>,
    target: &Target,
    model: &Model<'_>,
) -> Result<UpstreamBody, RequestError> {
    let mut request = read_chat(call.body)?;
    drop_listed(&mut request);
    let mut lacks = Lacks::new(&request, target);
    let mut body = Body::default();
    let all = conversation(std::mem::take(&mut request.messages), model)?;

    lacks.take_sampling(&mut request, &mut body.additional);
    lacks.take(OPENAI_ONLY, &mut request.extra);
    set_own(&mut request.extra, model, &mut body, &mut lacks);
    set_tools(request.tools.take().unwrap_or_default(), model, &all, &mut body, &mut lacks)?;
    if request.extra.shift_remove("web_search_options").is_some_and(|wanted| !wanted.is_null()) {
        if model.family() == Family::Nova2 {
            body.tools.push(grounding());
        } else {
            lacks.add("web_search_options");
        }
    }
    let mut choice = tool_choice(request.tool_choice.take(), &mut body)?;
    let is_forced = choice.as_ref().is_some_and(Choice::is_forced)
        && !(body.tools.is_empty() && body.claude_tools.is_empty());
    set_max_tokens(&request, &mut body);
    set_thinking(&mut request, &mut body, model, &all, is_forced, call.translated, &mut lacks);
    let instruction = set_format(request.response_format.take(), model, &mut choice, &mut body);
    write_config(choice, request.parallel_tool_calls, model, &all, &mut body, &mut lacks);
    set_sampling(&mut request, &mut body, model, &mut lacks);
    if let Some(stop) = stop_sequences(request.stop.take()) {
        body.inference.insert("stopSequences".into(), stop.into());
    }
    set_rest(std::mem::take(&mut request.extra), &mut body);
    lacks.check(NAME, target)?;

    let mut system = all.system;
    system.extend(instruction.map(|text| json!({"text": text})));
    let messages = all.turns.into_iter().map(Turn::into_json).collect();
    let bytes = serde_json::to_vec(&body.into_json(system, messages)).map_err(unwritable)?;
    Ok(UpstreamBody::plain(bytes.into()))
}

/// Takes what is Converse's own, or what LiteLLM puts in its place.
fn set_own(extra: &mut Map<String, Value>, model: &Model<'_>, body: &mut Body, lacks: &mut Lacks) {
    for name in OWN {
        if let Some(value) = extra.shift_remove(*name).filter(|value| !value.is_null()) {
            body.own.insert((*name).into(), value);
        }
    }
    for (name, part) in [
        ("inferenceConfig", &mut body.inference),
        ("outputConfig", &mut body.output),
        ("additionalModelRequestFields", &mut body.additional),
    ] {
        if let Some(Value::Object(members)) = extra.shift_remove(name) {
            part.extend(members);
        }
    }
    match extra.shift_remove("service_tier").as_ref().and_then(Value::as_str) {
        None | Some("auto" | "standard_only") => {}
        Some(tier @ ("default" | "flex" | "priority" | "reserved")) => {
            body.own.entry("serviceTier").or_insert_with(|| json!({"type": tier}));
        }
        Some(_) => lacks.add("service_tier"),
    }
    if matches!(model.family(), Family::Claude | Family::Opaque) {
        set_betas(extra, body);
        if let Some(Value::Object(mut config)) = extra.shift_remove("output_config") {
            let format = config.shift_remove("format");
            let schema = format.as_ref().and_then(|format| format.get("schema"));
            if let Some(schema) = schema {
                let json_schema = json!({"schema": schema.to_string()});
                let format =
                    json!({"type": "json_schema", "structure": {"jsonSchema": json_schema}});
                body.output.entry("textFormat").or_insert(format);
            }
            if config.contains_key("effort") && model.abilities().effort_beta {
                body.add_beta("effort-2025-11-24");
            }
            if !config.is_empty() {
                body.additional.insert("output_config".into(), config.into());
            }
        }
    }
}

/// The betas a client asks for: by Bedrock's member, or by LiteLLM's `extra_headers`.
fn set_betas(extra: &mut Map<String, Value>, body: &mut Body) {
    let listed =
        extra.shift_remove("anthropic_beta").or(body.additional.shift_remove("anthropic_beta"));
    match listed {
        Some(Value::Array(names)) => {
            names.iter().filter_map(Value::as_str).for_each(|name| body.add_beta(name));
        }
        Some(Value::String(names)) => names.split(',').for_each(|name| body.add_beta(name)),
        _ => {}
    }
    let header = extra.get("extra_headers").and_then(|headers| headers.get("anthropic-beta"));
    let names = header.and_then(Value::as_str).unwrap_or_default();
    names.split(',').for_each(|name| body.add_beta(name));
}

fn set_max_tokens(request: &ChatRequest, body: &mut Body) {
    if let Some(max_tokens) = request.max_completion_tokens.or(request.max_tokens) {
        body.inference.insert("maxTokens".into(), max_tokens.into());
    }
}

fn set_sampling(request: &mut ChatRequest, body: &mut Body, model: &Model<'_>, lacks: &mut Lacks) {
    let is_claude = model.family() == Family::Claude;
    let abilities = model.abilities();
    let may_sample = !is_claude || abilities.sampling;
    let thinks = body.thinks();
    let is_one = |number: &Number| number.as_f64() == Some(1.0);
    let (mut temperature, mut top_p) = (request.temperature.take(), request.top_p.take());
    // Clients send both by habit, one of them at its default. Where neither is, the model's own
    // refusal says it best.
    if is_claude && abilities.one_sampling && temperature.is_some() && top_p.is_some() {
        if lacks.drops || top_p.as_ref().is_some_and(is_one) {
            top_p = None;
        } else if temperature.as_ref().is_some_and(is_one) {
            temperature = None;
        }
    }
    let mut set = |name: &'static str, own: &str, value: Option<Number>, may: bool| {
        let Some(value) = value else { return };
        if may || lacks.allows(name) {
            body.inference.insert(own.into(), value.into());
        } else if !is_one(&value) {
            lacks.add(name);
        }
    };
    // Thinking and the newer models leave no choice but 1.
    set("temperature", "temperature", temperature, may_sample && !thinks);
    set("top_p", "topP", top_p, may_sample);
    let Some(top_k) = request.extra.shift_remove("top_k").filter(|top_k| !top_k.is_null()) else {
        return;
    };
    match model.family() {
        Family::Nova | Family::Nova2 => {
            let config = body.additional.entry("inferenceConfig").or_insert_with(|| json!({}));
            if let Value::Object(config) = config {
                config.insert("topK".into(), top_k);
            }
        }
        Family::Claude if !may_sample && !lacks.allows("top_k") => lacks.add("top_k"),
        _ => {
            body.additional.insert("top_k".into(), top_k);
        }
    }
}

/// What nobody here knows is for the model.
fn set_rest(extra: Map<String, Value>, body: &mut Body) {
    for (name, value) in extra {
        if !value.is_null() && !is_gateway_only(&name) && !HINTS.contains(&name.as_str()) {
            body.additional.entry(name).or_insert(value);
        }
    }
}
