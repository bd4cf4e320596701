//! Tools and tool choice.

use serde_json::{Map, Value, json};

use crate::RequestError;
use crate::tools::{
    invalid, invalid_choice, members, name_of, names_of, take_name, take_parameters,
    without_function,
};

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
        let mut tool = members(at, tool)?;
        let kind = tool.get("type").and_then(Value::as_str).unwrap_or("function");
        if kind != "function" {
            return Err(invalid(at, format_args!("cohere does not have tools of type {kind}")));
        }
        let Some(Value::Object(mut function)) = tool.remove("function") else {
            return Err(without_function(at));
        };
        let name = take_name(at, &mut function)?;
        let parameters = take_parameters(&mut function);
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
    let choice = match choice {
        None | Some(Value::Null) => None,
        Some(Value::String(word)) => by_word(&word).ok_or_else(invalid_choice)?,
        Some(Value::Object(choice)) => match choice.get("type").and_then(Value::as_str) {
            Some("allowed_tools") => {
                let allowed = choice.get("allowed_tools").unwrap_or(&Value::Null);
                let names = names_of(&allowed["tools"]).ok_or_else(invalid_choice)?;
                retain(tools, |name| names.contains(&name));
                by_word(allowed["mode"].as_str().unwrap_or("auto")).ok_or_else(invalid_choice)?
            }
            Some("function") | None => {
                let choice = Value::Object(choice);
                let wanted = name_of(&choice).ok_or_else(invalid_choice)?;
                retain(tools, |name| name == wanted);
                if tools.is_empty() {
                    return Err(invalid_choice());
                }
                Some("REQUIRED")
            }
            Some(word) => by_word(word).ok_or_else(invalid_choice)?,
        },
        Some(_) => return Err(invalid_choice()),
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

fn retain(tools: &mut Vec<Value>, keep: impl Fn(&str) -> bool) {
    tools.retain(|tool| name_of(tool).is_some_and(&keep));
}
