//! A request that we made of another dialect, put into what OpenAI's API and its copies accept.
//!
//! The middle form holds members that only some providers know: `thinking`, `cache_control`, signed
//! thinking, images in the answers of tools … What a client of OpenAI's dialect sends passes byte by
//! byte, because it knows whom it talks to; what we translated is read here, and what the provider
//! would refuse is converted or left out, as LiteLLM does for `/v1/messages` (1.109.1, 2026-11).
//! Which provider keeps what is data: [`crate::presets::Quirks`].

use bytes::Bytes;
use serde_json::{Map, Value, json};
use tollway_wire::openai::request::{FilePart, ImageUrl};
use tollway_wire::openai::{ChatRequest, Content, Message, Part};

use super::is_gateway_only;
use super::reasoning::{nearest_effort, refuses_effort_with_tools};
use crate::media::is_url;
use crate::presets::{Preset, Quirks, Thinking};
use crate::{RequestError, Target};

/// The members of OpenAI's chat request
/// (<https://platform.openai.com/docs/api-reference/chat/create>, 2026-11) that [`ChatRequest`] has
/// no field for. A strict provider refuses every other one.
const KNOWN: &[&str] = &[
    "audio",
    "function_call",
    "functions",
    "logit_bias",
    "modalities",
    "prediction",
    "prompt_cache_key",
    "prompt_cache_retention",
    "safety_identifier",
    "seed",
    "service_tier",
    "store",
    "verbosity",
    "web_search_options",
];

/// Members of the middle form that mean nothing to any API but the one they came from.
const FOREIGN: &[&str] = &["extra_content", "provider_specific_fields", "cache_control"];

/// What an assistant's turn may carry from the provider that wrote it, and no other one takes.
const FOREIGN_IN_TURNS: &[&str] =
    &["annotations", "citations", "extra_content", "provider_specific_fields", "reasoning_details"];

/// OpenAI's limit of `user`, in characters: Claude Code's ids are longer.
const USER_CHARS_MAX: usize = 64;

/// Writes the request anew.
///
/// # Errors
/// When it is no chat request, or asks for what the provider lacks.
pub(super) fn adapt(preset: &Preset, target: &Target, body: &[u8]) -> Result<Bytes, RequestError> {
    let mut request: ChatRequest = serde_json::from_slice(body).map_err(|error| {
        RequestError::Invalid { message: format!("not a chat request: {error}"), param: None }
    })?;
    let quirks = &preset.quirks;
    let mut lacks = Vec::new();
    // Before what is left over, because it looks at `thinking`.
    reasoning(quirks, target, &mut request);
    server_tools(quirks, &mut request, &mut lacks);
    members(quirks, target, &mut request, &mut lacks);
    messages(quirks, &mut request)?;
    let drops = target.drop_params || request.extra.get("drop_params") == Some(&Value::Bool(true));
    if !lacks.is_empty() && !drops {
        return Err(RequestError::Unsupported {
            provider: preset.name,
            model: target.model.clone(),
            params: lacks.into_iter().map(str::to_owned).collect(),
        });
    }
    let bytes = serde_json::to_vec(&request)
        .map_err(|error| RequestError::Invalid { message: error.to_string(), param: None })?;
    Ok(Bytes::from(bytes))
}

/// How hard to think, in the provider's words.
fn reasoning(quirks: &Quirks, target: &Target, request: &mut ChatRequest) {
    let thinking = request.thinking.take();
    let kind = thinking.as_ref().and_then(|thinking| thinking.get("type")?.as_str());
    let effort = match request.reasoning_effort.take() {
        Some(Value::String(effort)) => Some(effort),
        // LiteLLM's object, which has a `summary` beside it.
        Some(Value::Object(object)) => {
            object.get("effort").and_then(Value::as_str).map(str::to_owned)
        }
        _ => None,
    };
    let wants = match (kind, effort.as_deref()) {
        (Some("disabled"), _) | (None, Some("none")) => Some(false),
        (Some(_), _) | (None, Some(_)) => Some(true),
        (None, None) => None,
    };
    match quirks.thinking {
        Thinking::Switch(models) if models.iter().any(|part| target.model.contains(part)) => {
            if let Some(wants) = wants {
                request.thinking =
                    Some(json!({"type": if wants { "enabled" } else { "disabled" }}));
            }
        }
        Thinking::Budget => {
            let budget = thinking.as_ref().and_then(|thinking| thinking.get("budget_tokens"));
            if let (Some(true), Some(budget)) = (wants, budget) {
                // It takes one of the two.
                request.extra.insert("reasoning".into(), json!({ "max_tokens": budget }));
                return;
            }
        }
        _ => {}
    }
    let Some(effort) = effort else { return };
    let has_tools = request.tools.as_ref().is_some_and(|tools| !tools.is_empty());
    request.reasoning_effort = if quirks.effort {
        // A switch that is off says it already.
        Some(effort).filter(|_| request.thinking.is_none() || wants == Some(true)).map(Value::from)
    } else if has_tools && refuses_effort_with_tools(&target.model) {
        None
    } else {
        nearest_effort(&target.model, &effort).map(Value::from)
    };
}

/// Takes out tools that another provider runs on its own servers.
fn server_tools(quirks: &Quirks, request: &mut ChatRequest, lacks: &mut Vec<&'static str>) {
    let Some(tools) = &mut request.tools else { return };
    let before = tools.len();
    tools.retain(|tool| {
        let kind = tool.get("type").and_then(Value::as_str).unwrap_or("function");
        kind == "function" || quirks.server_tools.contains(&kind)
    });
    if tools.len() < before {
        lacks.push("tools");
    }
    for tool in tools.iter_mut().filter_map(Value::as_object_mut) {
        for name in
            FOREIGN.iter().filter(|name| !(quirks.cache_control && **name == "cache_control"))
        {
            tool.shift_remove(*name);
            if let Some(Value::Object(function)) = tool.get_mut("function") {
                function.shift_remove(*name);
            }
        }
    }
    if tools.is_empty() {
        request.tools = None;
        request.tool_choice = None;
        request.parallel_tool_calls = None;
    }
}

/// The other members of the request.
fn members(
    quirks: &Quirks,
    target: &Target,
    request: &mut ChatRequest,
    lacks: &mut Vec<&'static str>,
) {
    let extra = &mut request.extra;
    for name in FOREIGN {
        extra.shift_remove(*name);
    }
    if !quirks.top_k {
        extra.shift_remove("top_k");
    }
    let searches = quirks.web_search.iter().any(|part| target.model.contains(part));
    if !searches && extra.shift_remove("web_search_options").is_some() {
        lacks.push("web_search_options");
    }
    if quirks.strict {
        extra.retain(|name, _| KNOWN.contains(&name.as_str()) || is_gateway_only(name));
        // Anthropic's tiers have other names.
        let tiers = ["auto", "default", "flex", "scale", "priority"];
        if extra.get("service_tier").is_some_and(|tier| !tiers.iter().any(|known| tier == known)) {
            extra.shift_remove("service_tier");
        }
        if let Some(user) = &mut request.user
            && let Some((end, _)) = user.char_indices().nth(USER_CHARS_MAX)
        {
            user.truncate(end);
        }
    }
    // Every model of OpenAI's takes the newer name, and the newest ones refuse the older
    // (platform.openai.com/docs/api-reference/chat/create, 2026-11).
    if quirks.reasoning_rules {
        let tokens = request.max_tokens.take();
        request.max_completion_tokens = request.max_completion_tokens.or(tokens);
    }
}

/// The conversation.
fn messages(quirks: &Quirks, request: &mut ChatRequest) -> Result<(), RequestError> {
    let thinks = request.thinking.as_ref().is_some_and(|thinking| thinking["type"] == "enabled");
    let mut turns: Vec<Message> = Vec::with_capacity(request.messages.len());
    // Images out of tools' answers, until the last of the answers has passed: nothing may come
    // between the calls and their answers.
    let mut images: Vec<Part> = Vec::new();
    for mut turn in std::mem::take(&mut request.messages) {
        if turn.role != "tool" && !images.is_empty() {
            turns.push(shown(std::mem::take(&mut images)));
        }
        if turn.role == "developer" && !quirks.developer_role {
            turn.role = "system".into();
        }
        turn.thinking_blocks = None;
        if !quirks.replays_reasoning {
            turn.reasoning_content = None;
        } else if thinks && turn.role == "assistant" && turn.reasoning_content.is_none() {
            // DeepSeek and Kimi refuse a conversation with thinking whose turns lack theirs; a space
            // is the least they take (LiteLLM `llms/deepseek/chat/transformation.py`, 2026-11).
            turn.reasoning_content = Some(" ".into());
        }
        for name in FOREIGN_IN_TURNS {
            turn.extra.shift_remove(*name);
        }
        cache_mark(quirks, &mut turn);
        for call in turn.tool_calls.iter_mut().flatten() {
            call.extra.retain(|name, _| !FOREIGN.contains(&name.as_str()));
        }
        if let Some(Content::Parts(parts)) = &mut turn.content {
            for part in parts.iter_mut() {
                adapt_part(quirks, part)?;
            }
            if turn.role == "tool" {
                images.extend(parts.extract_if(.., |part| part.kind != "text"));
                if parts.is_empty() {
                    turn.content = Some(Content::Text("See the next message.".into()));
                }
            }
        }
        // A turn that was only thought is empty now, and OpenAI demands one of the two.
        let calls = turn.tool_calls.as_ref().is_some_and(|calls| !calls.is_empty());
        if turn.role == "assistant" && turn.content.is_none() && !calls {
            turn.content = Some(Content::Text(String::new()));
        }
        turns.push(turn);
    }
    if !images.is_empty() {
        turns.push(shown(images));
    }
    request.messages = turns;
    Ok(())
}

/// What tools have returned besides text, as the user's turn: OpenAI's tool messages take only text
/// (<https://platform.openai.com/docs/api-reference/chat/create>, `Tool message`, 2026-11).
fn shown(mut parts: Vec<Part>) -> Message {
    let text = "The tool returned this:".to_owned();
    parts.insert(0, Part { kind: "text".into(), text: Some(text), ..Part::default() });
    Message { role: "user".into(), content: Some(Content::Parts(parts)), ..Message::default() }
}

/// A cache mark on a whole turn goes to its last part, where those who know it want it; for others
/// it is left out.
fn cache_mark(quirks: &Quirks, turn: &mut Message) {
    let Some(mark) = turn.cache_control.take().filter(|_| quirks.cache_control) else { return };
    if let Some(Content::Text(text)) = &mut turn.content {
        let text = Some(std::mem::take(text));
        let part = Part { kind: "text".into(), text, ..Part::default() };
        turn.content = Some(Content::Parts(vec![part]));
    }
    if let Some(Content::Parts(parts)) = &mut turn.content
        && let Some(last) = parts.last_mut()
    {
        last.cache_control.get_or_insert(mark);
    }
}

fn adapt_part(quirks: &Quirks, part: &mut Part) -> Result<(), RequestError> {
    if !quirks.cache_control {
        part.cache_control = None;
    }
    part.extra.retain(|name, _| !FOREIGN.contains(&name.as_str()) && name != "citations");
    match &mut part.image_url {
        // The short form is LiteLLM's.
        Some(ImageUrl::Url(url)) => {
            let url = std::mem::take(url);
            part.image_url = Some(ImageUrl::Object { url, format: None, extra: Map::new() });
        }
        Some(ImageUrl::Object { format, .. }) => *format = None,
        None => {}
    }
    if let Some(file) = &mut part.file
        && let Some(image) = adapt_file(quirks, file)?
    {
        let url = ImageUrl::Object { url: image, format: None, extra: Map::new() };
        *part = Part { kind: "image_url".into(), image_url: Some(url), ..Part::default() };
    }
    Ok(())
}

/// OpenAI's chat takes documents as data or by the id of an upload, not by URL
/// (<https://platform.openai.com/docs/guides/pdf-files?api-mode=chat>, 2026-11). A URL that is an
/// image's is given back.
fn adapt_file(quirks: &Quirks, file: &mut FilePart) -> Result<Option<String>, RequestError> {
    let format = file.format.take();
    let by_id = file.file_id.take_if(|id| is_url(id));
    let url = by_id.or_else(|| file.file_data.take_if(|data| is_url(data)));
    if let Some(url) = url {
        if format.is_some_and(|format| format.starts_with("image/")) {
            return Ok(Some(url));
        }
        if !quirks.file_urls {
            let message = "Documents by URL are not supported by this model. Please send the document as base64 data.";
            return Err(RequestError::Invalid {
                message: message.into(),
                param: Some("messages".into()),
            });
        }
        file.file_data = Some(url);
    }
    if file.file_data.as_deref().is_some_and(|data| data.starts_with("data:image/")) {
        return Ok(file.file_data.take());
    }
    // Data without a name is refused.
    if file.file_data.is_some() && file.filename.as_ref().is_none_or(String::is_empty) {
        file.filename = Some("document.pdf".into());
    }
    Ok(None)
}
