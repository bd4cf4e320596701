//! What is wrong with a request, in OpenAI's words, each with the path of the member at fault:
//! `input[0].content[1].type`. The words are those of its servers' answers (2026-11).

use serde_json::{Map, Value};

use crate::client::Invalid;

/// The kinds of value a member may be of.
#[derive(Clone, Copy)]
pub(super) enum Kind {
    Text,
    Integer,
    Number,
    Switch,
    Object,
    List,
}

impl Kind {
    fn fits(self, value: &Value) -> bool {
        match self {
            Kind::Text => value.is_string(),
            Kind::Integer => value.is_u64(),
            Kind::Number => value.is_number(),
            Kind::Switch => value.is_boolean(),
            Kind::Object => value.is_object(),
            Kind::List => value.is_array(),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Kind::Text => "a string",
            Kind::Integer => "an integer",
            Kind::Number => "a number",
            Kind::Switch => "a boolean",
            Kind::Object => "an object",
            Kind::List => "an array",
        }
    }
}

/// The members of a request whose kind is known. Others go along unseen.
const MEMBERS: &[(&str, Kind)] = &[
    ("background", Kind::Switch),
    ("include", Kind::List),
    ("max_output_tokens", Kind::Integer),
    ("max_tool_calls", Kind::Integer),
    ("metadata", Kind::Object),
    ("model", Kind::Text),
    ("parallel_tool_calls", Kind::Switch),
    ("previous_response_id", Kind::Text),
    ("prompt_cache_key", Kind::Text),
    ("reasoning", Kind::Object),
    ("safety_identifier", Kind::Text),
    ("service_tier", Kind::Text),
    ("store", Kind::Switch),
    ("stream", Kind::Switch),
    ("temperature", Kind::Number),
    ("text", Kind::Object),
    ("tools", Kind::List),
    ("top_logprobs", Kind::Integer),
    ("top_p", Kind::Number),
    ("truncation", Kind::Text),
    ("user", Kind::Text),
];

/// Members of a request that are objects, and what is in them.
const NESTED: &[(&str, &[(&str, Kind)])] = &[
    ("reasoning", &[("effort", Kind::Text), ("summary", Kind::Text)]),
    ("text", &[("format", Kind::Object), ("verbosity", Kind::Text)]),
];

/// Members of a tool that is a function.
pub(super) const FUNCTION: &[(&str, Kind)] = &[
    ("description", Kind::Text),
    ("name", Kind::Text),
    ("parameters", Kind::Object),
    ("strict", Kind::Switch),
];

/// Refuses a request with a member of the wrong kind.
pub(super) fn request(request: &Map<String, Value>) -> Result<(), Invalid> {
    members(request, MEMBERS, "")?;
    for (name, known) in NESTED {
        if let Some(Value::Object(nested)) = request.get(*name) {
            members(nested, known, name)?;
        }
    }
    Ok(())
}

/// Refuses an object at `param` with a member of the wrong kind. Null is absence.
pub(super) fn members(
    object: &Map<String, Value>,
    known: &[(&str, Kind)],
    param: &str,
) -> Result<(), Invalid> {
    let wrong = known.iter().find_map(|(name, kind)| {
        let value = object.get(*name).filter(|value| !value.is_null() && !kind.fits(value))?;
        Some((name, kind, value))
    });
    match wrong {
        None => Ok(()),
        Some((name, kind, value)) if param.is_empty() => Err(wrong_type(name, kind.name(), value)),
        Some((name, kind, value)) => {
            Err(wrong_type(&format!("{param}.{name}"), kind.name(), value))
        }
    }
}

/// A value of the wrong kind.
pub(super) fn wrong_type(param: &str, expected: &str, got: &Value) -> Invalid {
    let got = match got {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(number) if number.is_f64() => "a decimal number",
        Value::Number(_) => "an integer",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    };
    let message =
        format!("Invalid type for '{param}': expected {expected}, but got {got} instead.");
    Invalid::new(message).with_param(param)
}

/// A member that is not there.
pub(super) fn missing(param: impl Into<String>) -> Invalid {
    let param = param.into();
    Invalid::new(format!("Missing required parameter: '{param}'.")).with_param(param)
}

/// Takes out a member that must be text.
pub(super) fn take_text(
    object: &mut Map<String, Value>,
    name: &str,
    param: &str,
) -> Result<String, Invalid> {
    match object.remove(name) {
        Some(Value::String(text)) => Ok(text),
        None | Some(Value::Null) => Err(missing(format!("{param}.{name}"))),
        Some(other) => Err(wrong_type(&format!("{param}.{name}"), "a string", &other)),
    }
}
