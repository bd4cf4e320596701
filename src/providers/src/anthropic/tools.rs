//! Tools and tool choice.

use serde_json::{Map, Value, json};

use crate::RequestError;
use crate::tools::{
    invalid, invalid_choice, members, names_of, take_name, take_parameters, unfold,
    without_function,
};

use super::model::Abilities;

/// What a request's tools become.
#[derive(Debug, Default)]
pub(super) struct Tools {
    /// Anthropic's `tools`.
    pub(super) tools: Vec<Value>,
    /// Anthropic's `mcp_servers`.
    pub(super) mcp_servers: Vec<Value>,
}

/// Members of Anthropic's tools that LiteLLM takes beside OpenAI's.
const ANTHROPIC_MEMBERS: &[&str] = &[
    "cache_control",
    "defer_loading",
    "allowed_callers",
    "input_examples",
    "eager_input_streaming",
];

/// Translates the tools of a request.
pub(super) fn tools(tools: Vec<Value>, abilities: &Abilities) -> Result<Tools, RequestError> {
    let mut all = Tools::default();
    for (at, tool) in tools.into_iter().enumerate() {
        let mut tool = members(at, tool)?;
        let kind = tool.get("type").and_then(Value::as_str).unwrap_or("function").to_owned();
        // Anthropic's own form, which LiteLLM takes as it is.
        if tool.contains_key("input_schema") {
            all.tools.push(Value::Object(tool));
            continue;
        }
        match kind.as_str() {
            // Its input is free text by a grammar, which Anthropic's tools do not have.
            "custom" if !tool.contains_key("function") => {
                return Err(invalid(at, "anthropic does not have tools of type custom"));
            }
            "function" | "custom" => all.tools.push(function(at, tool, abilities)?),
            "mcp" => all.mcp_servers.push(mcp_server(at, &tool)?),
            "url" => all.mcp_servers.push(Value::Object(tool)),
            // OpenAI's names for a search by the provider.
            "web_search" | "web_search_preview" => all.tools.push(web_search(&tool)),
            _ => {
                let function = match tool.remove("function") {
                    Some(Value::Object(function)) => function,
                    _ => Map::new(),
                };
                unfold(&kind, &mut tool, function);
                all.tools.push(Value::Object(tool));
            }
        }
    }
    Ok(all)
}

fn function(
    at: usize,
    mut tool: Map<String, Value>,
    abilities: &Abilities,
) -> Result<Value, RequestError> {
    let Some(Value::Object(mut function)) = tool.remove("function") else {
        return Err(without_function(at));
    };
    let name = take_name(at, &mut function)?;
    let schema = take_parameters(&mut function);
    let mut translated = Map::new();
    translated.insert("name".into(), name);
    if let Some(description @ Value::String(_)) = function.remove("description") {
        translated.insert("description".into(), description);
    }
    translated.insert("input_schema".into(), schema.into());
    if function.get("strict") == Some(&Value::Bool(true)) && abilities.structured {
        translated.insert("strict".into(), true.into());
    }
    for member in ANTHROPIC_MEMBERS {
        let value = tool.remove(*member).or_else(|| function.remove(*member));
        if let Some(value) = value.filter(|value| !value.is_null()) {
            translated.insert((*member).into(), value);
        }
    }
    Ok(Value::Object(translated))
}

/// OpenAI's MCP tool as one of Anthropic's servers.
fn mcp_server(at: usize, tool: &Map<String, Value>) -> Result<Value, RequestError> {
    let Some(url) = tool.get("server_url").and_then(Value::as_str) else {
        return Err(invalid(at, "an mcp tool has no `server_url`"));
    };
    let name = tool.get("server_label").and_then(Value::as_str).unwrap_or("mcp");
    let mut server = json!({"type": "url", "url": url, "name": name});
    if let Some(allowed) = tool.get("allowed_tools").filter(|allowed| allowed.is_array()) {
        server["tool_configuration"] = json!({"allowed_tools": allowed});
    }
    let authorization = tool.get("headers").and_then(|headers| headers.get("Authorization"));
    if let Some(token) = authorization.and_then(Value::as_str) {
        server["authorization_token"] = token.trim_start_matches("Bearer ").into();
    }
    Ok(server)
}

/// Anthropic's search for OpenAI's `web_search_options`, or a tool with the same members.
pub(super) fn web_search(options: &Map<String, Value>) -> Value {
    let mut tool = json!({"type": "web_search_20250305", "name": "web_search"});
    // How often it may search for each of OpenAI's sizes: LiteLLM's numbers.
    match options.get("search_context_size").and_then(Value::as_str) {
        Some("low") => tool["max_uses"] = 1.into(),
        Some("medium") => tool["max_uses"] = 5.into(),
        Some("high") => tool["max_uses"] = 10.into(),
        _ => {}
    }
    if let Some(Value::Object(location)) = options.get("user_location") {
        let location = location.get("approximate").and_then(Value::as_object).unwrap_or(location);
        let mut near = json!({"type": "approximate"});
        for member in ["city", "region", "country", "timezone"] {
            if let Some(value) = location.get(member).filter(|value| value.is_string()) {
                near[member] = value.clone();
            }
        }
        tool["user_location"] = near;
    }
    tool
}

/// Whether a choice makes the model call a tool.
pub(super) fn is_forced(choice: &Value) -> bool {
    choice["type"] == "any" || choice["type"] == "tool"
}

/// Translates `tool_choice` and `parallel_tool_calls`. OpenAI's `allowed_tools` also narrows the
/// tools themselves.
pub(super) fn tool_choice(
    choice: Option<Value>,
    parallel: Option<bool>,
    tools: &mut Vec<Value>,
) -> Result<Option<Value>, RequestError> {
    let mut translated = match choice {
        None | Some(Value::Null) => None,
        Some(Value::String(word)) => Some(by_word(&word).ok_or_else(invalid_choice)?),
        Some(Value::Object(mut choice)) => {
            let kind = choice.get("type").and_then(Value::as_str).unwrap_or("function").to_owned();
            Some(match kind.as_str() {
                "function" | "custom" => {
                    let function = choice.remove("function").or_else(|| choice.remove("custom"));
                    let name = function.and_then(|mut function| {
                        function.as_object_mut().and_then(|function| function.remove("name"))
                    });
                    let name = name.or_else(|| choice.remove("name")).ok_or_else(invalid_choice)?;
                    json!({"type": "tool", "name": name})
                }
                "allowed_tools" => allowed_tools(&choice, tools).ok_or_else(invalid_choice)?,
                "required" => json!({"type": "any"}),
                "auto" | "any" | "tool" | "none" => Value::Object(choice),
                _ => return Err(invalid_choice()),
            })
        }
        Some(_) => return Err(invalid_choice()),
    };
    if tools.is_empty() {
        return Ok(None);
    }
    if let Some(parallel) = parallel
        && translated.as_ref().is_none_or(|choice| choice["type"] != "none")
    {
        let choice = translated.get_or_insert_with(|| json!({"type": "auto"}));
        choice["disable_parallel_tool_use"] = (!parallel).into();
    }
    Ok(translated)
}

fn by_word(word: &str) -> Option<Value> {
    let kind = match word {
        "auto" => "auto",
        "none" => "none",
        "required" | "any" => "any",
        _ => return None,
    };
    Some(json!({"type": kind}))
}

fn allowed_tools(choice: &Map<String, Value>, tools: &mut Vec<Value>) -> Option<Value> {
    let allowed = choice.get("allowed_tools")?;
    let names = names_of(allowed.get("tools")?)?;
    tools.retain(|tool| tool["name"].as_str().is_some_and(|name| names.contains(&name)));
    by_word(allowed.get("mode").and_then(Value::as_str).unwrap_or("auto"))
}
