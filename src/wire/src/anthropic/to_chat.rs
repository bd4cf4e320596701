//! A client's Messages request as OpenAI's chat request.
//!
//! What Claude Code sends was read from its traffic and from Anthropic's reference
//! (<https://platform.claude.com/docs/en/api/messages>, 2026-11). Members of Anthropic's that change
//! nothing about the answer of another model are left out; tools that only Anthropic runs are
//! refused by name, because a request without them would be another request.

use serde_json::{Map, Value, json};

use super::history;
use super::names;
use crate::client::Invalid;
use crate::openai::request::{ChatRequest, ResponseFormat, Stop};
use crate::surrogate::mend;

/// Members that OpenAI's dialect or the gateway itself knows by the same name. Anthropic's others
/// (`context_management`, `container`, `betas` …) mean nothing to another model.
const KEPT: &[&str] = &[
    "additional_drop_params",
    "allowed_openai_params",
    "cache",
    "caching",
    "drop_params",
    "fallbacks",
    "frequency_penalty",
    "guardrails",
    "logit_bias",
    "min_p",
    "mock_response",
    "num_retries",
    "presence_penalty",
    "repetition_penalty",
    "seed",
    "tags",
    "timeout",
    "top_k",
];

/// Members of a tool that ride beside OpenAI's `function`.
const TOOL_MEMBERS: &[&str] = &[
    "cache_control",
    "defer_loading",
    "allowed_callers",
    "input_examples",
    "eager_input_streaming",
];

/// OpenAI's longest `user` (`string_above_max_length` says so, 2026-11). Claude Code's is longer.
const USER_MAX: usize = 64;

fn invalid(param: &str, message: impl std::fmt::Display) -> Invalid {
    Invalid::new(format!("{param}: {message}")).with_param(param)
}

/// Writes a Messages request, or one whose tokens are to be counted, as a chat request.
///
/// # Errors
/// When it is malformed, or asks for what only Anthropic's own models have.
pub fn to_chat(body: &[u8]) -> Result<Vec<u8>, Invalid> {
    let mut body: Map<String, Value> = serde_json::from_slice(&mend(body))
        .map_err(|error| Invalid::new(format!("not a Messages request: {error}")))?;
    let mut chat = ChatRequest { model: take_string(&mut body, "model")?, ..Default::default() };
    let turns = match body.remove("messages") {
        Some(Value::Array(turns)) => turns,
        None | Some(Value::Null) => return Err(invalid("messages", "Field required")),
        Some(_) => return Err(invalid("messages", "Input should be a valid list")),
    };
    let system = body.remove("system").filter(|system| !system.is_null());
    chat.messages = history::messages(system, turns)?;
    set_tools(&mut body, &mut chat)?;
    set_thinking(&mut body, &mut chat)?;
    chat.max_tokens = take_u64(&mut body, "max_tokens")?;
    chat.temperature = take_number(&mut body, "temperature")?;
    chat.top_p = take_number(&mut body, "top_p")?;
    chat.stop = stop(body.remove("stop_sequences"))?;
    chat.user = user(body.remove("metadata"));
    if body.get("stream") == Some(&Value::Bool(true)) {
        chat.stream = Some(true);
        chat.stream_options = Some(json!({"include_usage": true}));
    }
    // `auto` is what happens anyway; Anthropic's other tier is OpenAI's default one.
    if body.get("service_tier").is_some_and(|tier| tier == "standard_only") {
        chat.extra.insert("service_tier".into(), "default".into());
    }
    if body.get("mcp_servers").and_then(Value::as_array).is_some_and(|list| !list.is_empty()) {
        return Err(invalid("mcp_servers", "this model has no MCP connector"));
    }
    for name in KEPT {
        if let Some(value) = body.remove(*name).filter(|value| !value.is_null()) {
            put(&mut chat, name, value)?;
        }
    }
    serde_json::to_vec(&chat).map_err(|error| Invalid::new(error.to_string()))
}

/// Sets a member that passes as it is, be it a field or not: one name is never written twice.
fn put(chat: &mut ChatRequest, name: &str, value: Value) -> Result<(), Invalid> {
    let number = |value: Value| match value {
        Value::Number(number) => Ok(Some(number)),
        _ => Err(invalid(name, "Input should be a number")),
    };
    match name {
        "frequency_penalty" => chat.frequency_penalty = number(value)?,
        "presence_penalty" => chat.presence_penalty = number(value)?,
        _ => {
            chat.extra.insert(name.to_owned(), value);
        }
    }
    Ok(())
}

fn take_string(body: &mut Map<String, Value>, name: &str) -> Result<String, Invalid> {
    match body.remove(name) {
        Some(Value::String(text)) => Ok(text),
        None | Some(Value::Null) => Ok(String::new()),
        Some(_) => Err(invalid(name, "Input should be a string")),
    }
}

fn take_u64(body: &mut Map<String, Value>, name: &str) -> Result<Option<u64>, Invalid> {
    match body.remove(name) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => match value.as_u64() {
            Some(number) => Ok(Some(number)),
            None => Err(invalid(name, "Input should be a positive integer")),
        },
    }
}

fn take_number(
    body: &mut Map<String, Value>,
    name: &str,
) -> Result<Option<serde_json::Number>, Invalid> {
    match body.remove(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Number(number)) => Ok(Some(number)),
        Some(_) => Err(invalid(name, "Input should be a number")),
    }
}

fn stop(sequences: Option<Value>) -> Result<Option<Stop>, Invalid> {
    let Some(sequences) = sequences.filter(|sequences| !sequences.is_null()) else {
        return Ok(None);
    };
    let all: Vec<String> = serde_json::from_value(sequences)
        .map_err(|_| invalid("stop_sequences", "Input should be a list of strings"))?;
    let all: Vec<String> = all.into_iter().filter(|one| !one.is_empty()).collect();
    Ok((!all.is_empty()).then_some(Stop::Several(all)))
}

/// The end user. Cut where it is longer than OpenAI takes: its beginning tells users apart.
fn user(metadata: Option<Value>) -> Option<String> {
    let metadata = metadata?;
    let id = metadata.get("user_id")?.as_str().filter(|id| !id.is_empty())?;
    Some(id.chars().take(USER_MAX).collect())
}

fn set_tools(body: &mut Map<String, Value>, chat: &mut ChatRequest) -> Result<(), Invalid> {
    let tools = match body.remove("tools") {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::Array(tools)) => tools,
        Some(_) => return Err(invalid("tools", "Input should be a list")),
    };
    let mut functions = Vec::with_capacity(tools.len());
    for (at, tool) in tools.into_iter().enumerate() {
        let param = format!("tools.{at}");
        let Value::Object(mut tool) = tool else {
            return Err(invalid(&param, "a tool is an object"));
        };
        match tool.get("type").and_then(Value::as_str) {
            None | Some("custom") => functions.push(function(&param, &mut tool)?),
            Some(kind) if kind.starts_with("web_search_") => {
                chat.extra.insert("web_search_options".into(), web_search(&tool));
            }
            Some(kind) => {
                return Err(invalid(
                    &param,
                    format_args!("`{kind}` is a tool of Anthropic's own, which this model lacks"),
                ));
            }
        }
    }
    let choice = body.remove("tool_choice").filter(|choice| !choice.is_null());
    // OpenAI refuses a choice among no tools.
    if functions.is_empty() {
        return Ok(());
    }
    chat.tools = Some(functions);
    let Some(choice) = choice else { return Ok(()) };
    chat.tool_choice = match choice.get("type").and_then(Value::as_str) {
        Some("auto") => Some("auto".into()),
        Some("any") => Some("required".into()),
        Some("none") => Some("none".into()),
        Some("tool") => {
            let name = choice.get("name").and_then(Value::as_str);
            let name = name.ok_or_else(|| invalid("tool_choice.name", "Field required"))?;
            Some(json!({"type": "function", "function": {"name": names::short(name)}}))
        }
        _ => return Err(invalid("tool_choice.type", "is none of auto, any, tool and none")),
    };
    if let Some(disabled) = choice.get("disable_parallel_tool_use").and_then(Value::as_bool) {
        chat.parallel_tool_calls = Some(!disabled);
    }
    Ok(())
}

fn function(param: &str, tool: &mut Map<String, Value>) -> Result<Value, Invalid> {
    let Some(Value::String(name)) = tool.remove("name") else {
        return Err(invalid(&format!("{param}.name"), "Field required"));
    };
    let mut function = Map::new();
    function.insert("name".into(), names::short(&name).into_owned().into());
    if let Some(description @ Value::String(_)) = tool.remove("description") {
        function.insert("description".into(), description);
    }
    match tool.remove("input_schema") {
        Some(schema @ Value::Object(_)) => {
            function.insert("parameters".into(), schema);
        }
        None | Some(Value::Null) => {}
        Some(_) => return Err(invalid(&format!("{param}.input_schema"), "is not an object")),
    }
    if let Some(strict @ Value::Bool(_)) = tool.remove("strict") {
        function.insert("strict".into(), strict);
    }
    let mut translated = Map::new();
    translated.insert("type".into(), "function".into());
    translated.insert("function".into(), function.into());
    for member in TOOL_MEMBERS {
        if let Some(value) = tool.remove(*member).filter(|value| !value.is_null()) {
            translated.insert((*member).into(), value);
        }
    }
    Ok(translated.into())
}

/// OpenAI's web search for Anthropic's. The sizes are LiteLLM's for `max_uses`, where it is one of
/// them; which sites may be searched goes along under Anthropic's names.
fn web_search(tool: &Map<String, Value>) -> Value {
    let mut options = Map::new();
    let size = match tool.get("max_uses").and_then(Value::as_u64) {
        Some(1) => Some("low"),
        Some(5) => Some("medium"),
        Some(10) => Some("high"),
        _ => None,
    };
    if let Some(size) = size {
        options.insert("search_context_size".into(), size.into());
    }
    if let Some(Value::Object(location)) = tool.get("user_location") {
        let mut near = location.clone();
        near.remove("type");
        near.retain(|_, value| !value.is_null());
        options.insert("user_location".into(), json!({"type": "approximate", "approximate": near}));
    }
    for member in ["allowed_domains", "blocked_domains"] {
        let domains = tool.get(member).filter(|domains| domains.as_array().is_some());
        if let Some(domains) = domains {
            options.insert(member.into(), domains.clone());
        }
    }
    options.into()
}

fn set_thinking(body: &mut Map<String, Value>, chat: &mut ChatRequest) -> Result<(), Invalid> {
    let mut config = match body.remove("output_config") {
        Some(Value::Object(config)) => config,
        None | Some(Value::Null) => Map::new(),
        Some(_) => return Err(invalid("output_config", "Input should be an object")),
    };
    // The name it had in its beta.
    let format = config.remove("format").filter(|format| !format.is_null());
    let format = format.or_else(|| body.remove("output_format")).filter(|format| !format.is_null());
    chat.response_format = format.map(response_format).transpose()?;
    let effort = match config.remove("effort") {
        Some(Value::String(effort)) => Some(match effort.as_str() {
            "max" => "xhigh".to_owned(),
            _ => effort,
        }),
        _ => None,
    };
    let thinking = body.remove("thinking").filter(|thinking| !thinking.is_null());
    let kind = thinking.as_ref().map(|thinking| thinking["type"].as_str().unwrap_or_default());
    let effort = match kind {
        None => effort,
        // How deep it thinks is up to the model; Anthropic's effort is high unless told.
        Some("adaptive") => Some(effort.unwrap_or_else(|| "high".into())),
        Some("enabled") => {
            let budget = thinking.as_ref().and_then(|thinking| thinking["budget_tokens"].as_u64());
            let budget = budget
                .ok_or_else(|| invalid("thinking.enabled.budget_tokens", "Field required"))?;
            chat.thinking = Some(json!({"type": "enabled", "budget_tokens": budget}));
            Some(effort.unwrap_or_else(|| effort_of(budget).into()))
        }
        Some("disabled") => {
            chat.thinking = Some(json!({"type": "disabled"}));
            Some("none".into())
        }
        Some(_) => {
            return Err(invalid("thinking.type", "is none of enabled, adaptive and disabled"));
        }
    };
    chat.reasoning_effort = effort.map(Value::from);
    Ok(())
}

/// The level a budget stands for: the inverse of LiteLLM's budgets.
pub(crate) fn effort_of(budget: u64) -> &'static str {
    match budget {
        0..=1024 => "low",
        1025..=2048 => "medium",
        _ => "high",
    }
}

fn response_format(format: Value) -> Result<ResponseFormat, Invalid> {
    let schema = match (format["type"].as_str(), format.get("schema")) {
        (Some("json_schema"), Some(schema @ Value::Object(_))) => schema.clone(),
        _ => return Err(invalid("output_config.format", "is no JSON schema")),
    };
    Ok(ResponseFormat {
        kind: "json_schema".into(),
        // Anthropic always holds the model to it, and gives it no name.
        json_schema: Some(json!({"name": "response", "schema": schema, "strict": true})),
        ..ResponseFormat::default()
    })
}
