//! The request: what of OpenAI's parameters Gemini has, under which name, and what it lacks.
//!
//! Members of `generateContent`: <https://ai.google.dev/api/generate-content> and, for Vertex AI,
//! <https://docs.cloud.google.com/vertex-ai/generative-ai/docs/model-reference/inference>, read
//! 2026-11.

use serde_json::{Map, Value, json};
use tollway_wire::openai::request::{ChatRequest, ResponseFormat};

use crate::openai::is_gateway_only;
use crate::params::{Lacks, drop_listed};
use crate::request::{read_chat, stop_sequences};
use crate::{Call, RequestError, Target};

use super::Api;
use super::contents::conversation;
use super::model::{Model, check_name};
use super::params::{penalty, take_unsupported};
use super::schema;
use super::thinking::set_thinking;
use super::tools::Tools;

/// Members that are hints to OpenAI's own machinery. They change nothing about the answer, so they
/// are left out without a word. Calls in parallel cannot be forbidden, and clients of the Responses
/// API forbid them by habit.
const HINTS: &[&str] = &[
    "prompt_cache_key",
    "prompt_cache_retention",
    "safety_identifier",
    "stream_options",
    "extra_body",
    "extra_headers",
    "parallel_tool_calls",
];

/// Members of `generationConfig` that OpenAI has no word for, as the API and LiteLLM's users write
/// them.
const CONFIG: &[(&str, &str)] = &[
    ("topK", "top_k"),
    ("responseModalities", "response_modalities"),
    ("speechConfig", "speech_config"),
    ("mediaResolution", "media_resolution"),
    ("imageConfig", "image_config"),
    ("thinkingConfig", "thinking_config"),
    ("responseMimeType", "response_mime_type"),
    ("responseSchema", "response_schema"),
    ("responseJsonSchema", "response_json_schema"),
    ("maxOutputTokens", "max_output_tokens"),
    ("stopSequences", "stop_sequences"),
    ("responseLogprobs", "response_logprobs"),
    ("audioTimestamp", "audio_timestamp"),
    ("routingConfig", "routing_config"),
    ("enableEnhancedCivicAnswers", "enable_enhanced_civic_answers"),
];

/// Members beside it.
const TOP: &[(&str, &str)] = &[
    ("safetySettings", "safety_settings"),
    ("cachedContent", "cached_content"),
    ("toolConfig", "tool_config"),
    ("labels", "labels"),
    ("modelArmorConfig", "model_armor_config"),
];

/// Writes the body of a `generateContent` call.
pub(super) fn translate(
    call: &Call<'_>,
    target: &Target,
    api: Api,
) -> Result<Map<String, Value>, RequestError> {
    check_name(&target.model)?;
    let mut request = read_chat(call.body)?;
    drop_listed(&mut request);
    let model = Model::of(&target.model);
    let mut lacks = Lacks::new(&request, target);
    let mut all = conversation(std::mem::take(&mut request.messages), model)?;

    let mut body = Map::new();
    body.insert("contents".into(), all.contents().into());
    if !all.system.is_empty() {
        body.insert("systemInstruction".into(), json!({"parts": all.system}));
    }
    let mut extra = std::mem::take(&mut request.extra);
    take_google(&mut extra);
    take_unsupported(&mut extra, call.translated, &mut lacks);
    set_tools(&mut request, &mut extra, &mut body, model, &mut lacks)?;
    let config = generation_config(&mut request, &mut extra, model, call.translated, &mut lacks);
    if !config.is_empty() {
        body.insert("generationConfig".into(), config.into());
    }
    set_tier(&mut extra, &mut body, api);
    lacks.check(api.provider(), target)?;
    for (name, snake) in TOP {
        let value = extra.shift_remove(*name).or_else(|| extra.shift_remove(*snake));
        if let Some(value) = value.filter(|value| !value.is_null()) {
            merge(&mut body, name, value);
        }
    }
    if api == Api::Studio {
        // Labels are for bills of Google Cloud, and AI Studio refuses what it does not know.
        body.shift_remove("labels");
    }
    for (name, value) in extra {
        // What another dialect brought along means nothing here.
        let is_hint = HINTS.contains(&name.as_str()) || call.translated;
        if !value.is_null() && !is_gateway_only(&name) && !is_hint && !is_translated(&name) {
            body.insert(name, value);
        }
    }
    Ok(body)
}

/// Whether a member is what OpenAI's are translated into: filters have seen `messages`, and the
/// provider must not see another conversation.
fn is_translated(name: &str) -> bool {
    let plain: String = name.chars().filter(|c| *c != '_').collect();
    ["contents", "systeminstruction", "tools", "generationconfig", "model"]
        .contains(&plain.to_ascii_lowercase().as_str())
}

/// Sets a member, or adds to it where both are objects.
fn merge(body: &mut Map<String, Value>, name: &str, value: Value) {
    match (body.get_mut(name), value) {
        (Some(Value::Object(there)), Value::Object(value)) => there.extend(value),
        (_, value) => {
            body.insert(name.into(), value);
        }
    }
}

/// Google's own members for OpenAI's dialect: `extra_body: {"google": {"thinking_config": …}}`
/// (<https://ai.google.dev/gemini-api/docs/openai>, read 2026-11).
fn take_google(extra: &mut Map<String, Value>) {
    let inner = extra.get_mut("extra_body").and_then(|body| body.get_mut("google"));
    let google = inner.map(Value::take).or_else(|| extra.shift_remove("google"));
    if let Some(Value::Object(google)) = google {
        for name in ["thinking_config", "cached_content", "safety_settings"] {
            if let Some(value) = google.get(name) {
                extra.entry(name).or_insert_with(|| value.clone());
            }
        }
    }
}

fn set_tools(
    request: &mut ChatRequest,
    extra: &mut Map<String, Value>,
    body: &mut Map<String, Value>,
    model: Model,
    lacks: &mut Lacks,
) -> Result<(), RequestError> {
    let mut tools = Tools::of(request.tools.take().unwrap_or_default(), model, lacks)?;
    if extra.shift_remove("web_search_options").is_some_and(|options| options.is_object()) {
        tools.add_search();
    }
    let mixed = extra.shift_remove("include_server_side_tool_invocations");
    let mixed = mixed == Some(Value::Bool(true));
    tools.separate(mixed);
    if let Some(choice) = tools.choice(request.tool_choice.take())? {
        body.insert("toolConfig".into(), choice);
    }
    if mixed {
        merge(body, "toolConfig", json!({"includeServerSideToolInvocations": true}));
    }
    if let Some(tools) = tools.into_value() {
        body.insert("tools".into(), tools);
    }
    Ok(())
}

fn generation_config(
    request: &mut ChatRequest,
    extra: &mut Map<String, Value>,
    model: Model,
    translated: bool,
    lacks: &mut Lacks,
) -> Map<String, Value> {
    let mut config = Map::new();
    let own = extra.shift_remove("generationConfig");
    if let Some(Value::Object(own)) = own.or_else(|| extra.shift_remove("generation_config")) {
        config.extend(own);
        // How many answers there are is counted by `n`.
        config.shift_remove("candidateCount");
        config.shift_remove("candidate_count");
    }
    for (name, snake) in CONFIG {
        // One dialect's `logprobs` is the other's, so only names that are Gemini's alone are here.
        let value = extra.shift_remove(*name).or_else(|| extra.shift_remove(*snake));
        if let Some(value) = value.filter(|value| !value.is_null()) {
            config.insert((*name).into(), value);
        }
    }
    let max_tokens = request.max_completion_tokens.or(request.max_tokens);
    for (name, value) in [
        ("temperature", request.temperature.take().map(Value::from)),
        ("topP", request.top_p.take().map(Value::from)),
        ("maxOutputTokens", max_tokens.map(Value::from)),
        ("candidateCount", request.n.filter(|n| *n > 1).map(Value::from)),
        ("stopSequences", stop_sequences(request.stop.take()).map(Value::from)),
        ("seed", extra.shift_remove("seed").filter(|seed| !seed.is_null())),
        ("responseLogprobs", request.logprobs.filter(|wanted| *wanted).map(Value::from)),
        ("logprobs", request.top_logprobs.filter(|count| *count > 0).map(Value::from)),
    ] {
        if let Some(value) = value {
            config.insert(name.into(), value);
        }
    }
    let has = model.has_penalties();
    let presence = request.presence_penalty.take();
    penalty("presence_penalty", "presencePenalty", presence, has, &mut config, lacks);
    let frequency = request.frequency_penalty.take();
    penalty("frequency_penalty", "frequencyPenalty", frequency, has, &mut config, lacks);
    set_format(request.response_format.take(), &mut config, model);
    set_modalities(extra, &mut config, lacks);
    set_thinking(request, &mut config, model, translated, lacks);
    config
}

fn set_format(format: Option<ResponseFormat>, config: &mut Map<String, Value>, model: Model) {
    let Some(format) = format.filter(|format| format.kind != "text" && !format.kind.is_empty())
    else {
        return;
    };
    config.insert("responseMimeType".into(), "application/json".into());
    let Some(mut schema) = format.schema().cloned() else { return };
    if model.has_json_schema() {
        schema::tame(&mut schema);
        config.insert("responseJsonSchema".into(), schema);
    } else {
        config.insert("responseSchema".into(), schema::open_api(&schema));
    }
}

/// OpenAI's `modalities` and `audio`.
fn set_modalities(
    extra: &mut Map<String, Value>,
    config: &mut Map<String, Value>,
    lacks: &mut Lacks,
) {
    if let Some(Value::Array(list)) = extra.shift_remove("modalities") {
        let names = list.iter().filter_map(Value::as_str);
        let names: Vec<String> = names.map(str::to_ascii_uppercase).collect();
        if names != ["TEXT"] && !names.is_empty() {
            config.entry("responseModalities").or_insert_with(|| names.into());
        }
    }
    let Some(Value::Object(audio)) = extra.shift_remove("audio") else { return };
    // Google speaks raw samples and nothing else.
    let format = audio.get("format").and_then(Value::as_str).unwrap_or("pcm16");
    if format != "pcm16" && format != "pcm" {
        lacks.add("audio");
        return;
    }
    let voice = audio.get("voice").filter(|voice| voice.is_string());
    let voice = voice.map(|name| json!({"prebuiltVoiceConfig": {"voiceName": name}}));
    let speech = voice.map_or_else(|| json!({}), |voice| json!({"voiceConfig": voice}));
    config.entry("speechConfig").or_insert(speech);
    config.entry("responseModalities").or_insert_with(|| json!(["AUDIO"]));
}

/// OpenAI's tiers, of which AI Studio has two beside the usual one
/// (<https://ai.google.dev/gemini-api/docs/flex-inference>, read 2026-11). Vertex AI sells them
/// otherwise.
fn set_tier(extra: &mut Map<String, Value>, body: &mut Map<String, Value>, api: Api) {
    let tier = extra.shift_remove("service_tier").or_else(|| extra.shift_remove("serviceTier"));
    let tier = tier.as_ref().and_then(Value::as_str).map(str::to_ascii_lowercase);
    if let (Api::Studio, Some(tier @ ("flex" | "priority"))) = (api, tier.as_deref()) {
        body.insert("serviceTier".into(), tier.into());
    }
}
