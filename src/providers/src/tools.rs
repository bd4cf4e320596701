//! Tools as clients of OpenAI's dialect describe them, as far as every provider reads them alike.

use std::fmt::Display;

use serde_json::{Map, Value, json};

use crate::RequestError;
use crate::request::invalid_item;

/// What is wrong with one tool.
pub(crate) fn invalid(at: usize, what: impl Display) -> RequestError {
    invalid_item("tools", at, what)
}

/// A `tool_choice` that nobody knows.
pub(crate) fn invalid_choice() -> RequestError {
    RequestError::Invalid {
        message: "tool_choice is none of auto, none, required or a tool by name".into(),
        param: Some("tool_choice".into()),
    }
}

/// The members of a tool.
pub(crate) fn members(at: usize, tool: Value) -> Result<Map<String, Value>, RequestError> {
    match tool {
        Value::Object(tool) => Ok(tool),
        _ => Err(invalid(at, "a tool is an object")),
    }
}

/// A tool that is described in `function` and is not.
pub(crate) fn without_function(at: usize) -> RequestError {
    invalid(at, "a function tool has no `function`")
}

/// Takes the name, which is a JSON string, out of a function.
pub(crate) fn take_name(
    at: usize,
    function: &mut Map<String, Value>,
) -> Result<Value, RequestError> {
    let name = function.remove("name").filter(Value::is_string);
    name.ok_or_else(|| invalid(at, "the function has no name"))
}

/// Takes the schema of its parameters out of a function. Providers demand an object with its type
/// told.
pub(crate) fn take_parameters(function: &mut Map<String, Value>) -> Map<String, Value> {
    let mut schema = match function.remove("parameters") {
        Some(Value::Object(schema)) => schema,
        _ => Map::new(),
    };
    schema.entry("type").or_insert_with(|| "object".into());
    if schema["type"] == "object" {
        schema.entry("properties").or_insert_with(|| json!({}));
    }
    schema
}

/// LiteLLM's form of Anthropic's own tools: what belongs to the tool is in `function`.
pub(crate) fn unfold(kind: &str, tool: &mut Map<String, Value>, function: Map<String, Value>) {
    for (key, value) in function {
        match (key.as_str(), value) {
            ("parameters", Value::Object(parameters)) => tool.extend(parameters),
            ("description", _) => {}
            (_, value) => {
                tool.insert(key, value);
            }
        }
    }
    if kind.starts_with("computer_") {
        tool.entry("name").or_insert_with(|| "computer".into());
    }
}

/// The name of a tool or of a choice, in `function` or without it.
pub(crate) fn name_of(tool: &Value) -> Option<&str> {
    tool.get("function").unwrap_or(tool).get("name")?.as_str()
}

/// The names in a list of tools.
pub(crate) fn names_of(tools: &Value) -> Option<Vec<&str>> {
    Some(tools.as_array()?.iter().filter_map(name_of).collect())
}

/// The tool that stands in for structured output on models that do not have it. Its input is the
/// answer. The name is LiteLLM's.
pub(crate) const JSON_TOOL: &str = "json_tool_call";

/// The schema of its input.
pub(crate) fn answer_schema(wanted: Option<Value>) -> Value {
    match wanted {
        Some(Value::Object(mut schema)) => {
            schema.entry("type").or_insert_with(|| "object".into());
            Value::Object(schema)
        }
        _ => json!({"type": "object", "additionalProperties": true, "properties": {}}),
    }
}
