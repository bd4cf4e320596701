//! Tools and tool choice.

use serde_json::{Map, Value, json};

use crate::RequestError;

fn invalid(at: usize, what: impl std::fmt::Display) -> RequestError {
    RequestError::Invalid {
        message: format!("tools[{at}]: {what}"),
        param: Some(format!("tools[{at}]")),
    }
}

/// What a request's tools become.
#[derive(Debug, Default)]
pub(super) struct Tools {
    /// Cohere's `tools`.
    pub(super) list: Vec<Value>,
    /// One of them is to be called by its schema and not otherwise. Cohere has it for all or none.
    pub(super) strict: bool,
}

/// Translates the tools of a request: functions, for Cohere has no others.
pub(super) fn tools(tools: Vec<Value>) -> Result<Tools, RequestError> {
    let mut all = Tools::default();
    for (at, tool) in tools.into_iter().enumerate() {
        let Value::Object(mut tool) = tool else {
            return Err(invalid(at, "a tool is an object"));
        };
        let kind = tool.get("type").and_then(Value::as_str).unwrap_or("function");
        if kind != "function" {
            return Err(invalid(at, format_args!("cohere does not have tools of type {kind}")));
        }
        let Some(Value::Object(mut function)) = tool.remove("function") else {
            return Err(invalid(at, "a function tool has no `function`"));
        };
        let Some(name @ Value::String(_)) = function.remove("name") else {
            return Err(invalid(at, "the function has no name"));
        };
        // Cohere demands parameters.
        let mut parameters = match function.remove("parameters") {
            Some(Value::Object(parameters)) => parameters,
            _ => Map::new(),
        };
        parameters.entry("type").or_insert_with(|| "object".into());
        if parameters["type"] == "object" {
            parameters.entry("properties").or_insert_with(|| json!({}));
        }
        all.strict |= function.get("strict") == Some(&Value::Bool(true));
        let mut written = Map::new();
        written.insert("name".into(), name);
        if let Some(description @ Value::String(_)) = function.remove("description") {
            written.insert("description".into(), description);
        }
        written.insert("parameters".into(), parameters.into());
        all.list.push(json!({"type": "function", "function": written}));
    }
    Ok(all)
}

/// Translates `tool_choice`: Cohere can demand a call, or forbid them. That one tool is to be called
/// is told by leaving it the only one.
pub(super) fn tool_choice(
    choice: Option<Value>,
    tools: &mut Vec<Value>,
) -> Result<Option<&'static str>, RequestError> {
    let invalid = || RequestError::Invalid {
        message: "tool_choice is none of auto, none, required or a tool by name".into(),
        param: Some("tool_choice".into()),
    };
    let choice = match choice {
        None | Some(Value::Null) => None,
        Some(Value::String(word)) => by_word(&word).ok_or_else(invalid)?,
        Some(Value::Object(choice)) => match choice.get("type").and_then(Value::as_str) {
            Some("allowed_tools") => {
                let allowed = choice.get("allowed_tools").unwrap_or(&Value::Null);
                let list = allowed["tools"].as_array().ok_or_else(invalid)?;
                let name = |tool: &Value| Some(name_of(tool)?.to_owned());
                let names: Vec<String> = list.iter().filter_map(name).collect();
                retain(tools, |name| names.iter().any(|allowed| allowed == name));
                by_word(allowed["mode"].as_str().unwrap_or("auto")).ok_or_else(invalid)?
            }
            Some("function") | None => {
                let choice = Value::Object(choice);
                let wanted = name_of(&choice).ok_or_else(invalid)?;
                retain(tools, |name| name == wanted);
                if tools.is_empty() {
                    return Err(invalid());
                }
                Some("REQUIRED")
            }
            Some(word) => by_word(word).ok_or_else(invalid)?,
        },
        Some(_) => return Err(invalid()),
    };
    Ok(choice.filter(|_| !tools.is_empty()))
}

fn by_word(word: &str) -> Option<Option<&'static str>> {
    Some(match word {
        "auto" => None,
        "none" | "NONE" => Some("NONE"),
        "required" | "any" | "REQUIRED" => Some("REQUIRED"),
        _ => return None,
    })
}

fn name_of(tool: &Value) -> Option<&str> {
    tool.get("function").unwrap_or(tool).get("name")?.as_str()
}

fn retain(tools: &mut Vec<Value>, keep: impl Fn(&str) -> bool) {
    tools.retain(|tool| name_of(tool).is_some_and(&keep));
}
