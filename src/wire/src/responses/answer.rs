//! The `Response` object around what the model said.
//!
//! Most of its members repeat the request. They are written once, when the answer begins, and
//! copied into each event that carries the whole object.

use std::collections::HashSet;

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::{Map, Value, json};

use super::request::asks_for;
use super::stored::forget_credentials;
use crate::client::Asked;
use crate::splice::json_string;
use crate::surrogate::mend;

/// The state of a response. OpenAI has `queued` and `cancelled` too; see [`super::stored`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Status {
    InProgress,
    Completed,
    /// With the reason.
    Incomplete(&'static str),
    Failed,
    Queued,
}

impl Status {
    pub(super) fn name(self) -> &'static str {
        match self {
            Status::InProgress => "in_progress",
            Status::Completed => "completed",
            Status::Incomplete(_) => "incomplete",
            Status::Failed => "failed",
            Status::Queued => "queued",
        }
    }

    /// The state of an item that ends now: only the last one was cut off.
    pub(super) fn of_item(self, is_last: bool) -> &'static str {
        match self {
            Status::Incomplete(_) if is_last => "incomplete",
            _ => "completed",
        }
    }
}

/// What is known of an answer before it comes.
pub(super) struct Frame {
    /// What the ids of its items are made of.
    pub(super) id: String,
    /// The object up to `status`.
    head: Vec<u8>,
    /// What the request said, as members that begin with a comma each.
    echo: Vec<u8>,
    service_tier: String,
    /// Whether the client gets signed reasoning.
    pub(super) sealed: bool,
    pub(super) logprobs: bool,
    /// The custom tools, by the raw JSON of their names.
    custom: HashSet<Vec<u8>>,
}

/// What of a `Response` is only known as it goes.
pub(super) struct Outcome<'a> {
    pub(super) status: Status,
    /// JSON.
    pub(super) error: Option<&'a [u8]>,
    /// The items, as JSON.
    pub(super) output: &'a [&'a [u8]],
    /// JSON.
    pub(super) usage: Option<&'a str>,
    pub(super) service_tier: Option<&'a str>,
}

/// A request without its input, which may hold images and is never repeated.
#[derive(Default, Deserialize)]
struct Request {
    #[serde(default, rename = "input")]
    _input: IgnoredAny,
    #[serde(flatten)]
    rest: Map<String, Value>,
}

impl Frame {
    pub(super) fn new(asked: &Asked<'_>) -> Frame {
        let request: Request = serde_json::from_slice(&mend(asked.body)).unwrap_or_default();
        let request = request.rest;
        let id: String = asked.id.chars().filter(char::is_ascii_alphanumeric).collect();
        let mut head = format!(
            "{{\"id\":\"resp_{id}\",\"object\":\"response\",\"created_at\":{},\"model\":",
            asked.created
        )
        .into_bytes();
        head.extend(json_string(asked.model));
        let mut echo = Vec::new();
        for (name, value) in repeated(&request) {
            echo.push(b',');
            echo.extend(json_string(name));
            echo.push(b':');
            echo.extend(value.to_string().into_bytes());
        }
        let tools = request.get("tools").and_then(Value::as_array).into_iter().flatten();
        let custom = tools.filter(|tool| tool["type"] == "custom").filter_map(|tool| {
            let name = tool.get("name").or_else(|| tool.get("custom")?.get("name"));
            Some(json_string(name?.as_str()?))
        });
        let is_stored = request.get("store") != Some(&Value::Bool(false));
        Frame {
            id,
            head,
            echo,
            service_tier: tier(request.get("service_tier").and_then(Value::as_str)).to_owned(),
            sealed: !is_stored || asks_for(&request, "reasoning.encrypted_content"),
            logprobs: asks_for(&request, "message.output_text.logprobs")
                || request.get("top_logprobs").and_then(Value::as_u64).unwrap_or(0) > 0,
            custom: custom.collect(),
        }
    }

    /// Whether the tool of this name, in raw JSON, takes text.
    pub(super) fn is_custom(&self, name: &[u8]) -> bool {
        !self.custom.is_empty() && self.custom.contains(name)
    }

    /// Writes the object.
    pub(super) fn response(&self, outcome: &Outcome<'_>) -> Vec<u8> {
        let output: usize = outcome.output.iter().map(|item| item.len() + 1).sum();
        let mut json = Vec::with_capacity(self.head.len() + self.echo.len() + output + 512);
        json.extend_from_slice(&self.head);
        for part in [",\"status\":\"", outcome.status.name(), "\",\"error\":"] {
            json.extend_from_slice(part.as_bytes());
        }
        json.extend_from_slice(outcome.error.unwrap_or(b"null"));
        json.extend_from_slice(b",\"incomplete_details\":");
        match outcome.status {
            Status::Incomplete(reason) => {
                for part in ["{\"reason\":\"", reason, "\"}"] {
                    json.extend_from_slice(part.as_bytes());
                }
            }
            _ => json.extend_from_slice(b"null"),
        }
        json.extend_from_slice(b",\"output\":[");
        for (at, item) in outcome.output.iter().enumerate() {
            if at > 0 {
                json.push(b',');
            }
            json.extend_from_slice(item);
        }
        json.push(b']');
        if let Some(usage) = outcome.usage {
            json.extend_from_slice(b",\"usage\":");
            json.extend_from_slice(usage.as_bytes());
        }
        let tier = outcome.service_tier.unwrap_or(&self.service_tier);
        for part in [",\"service_tier\":\"", tier, "\""] {
            json.extend_from_slice(part.as_bytes());
        }
        json.extend_from_slice(&self.echo);
        json.push(b'}');
        json
    }
}

/// A tier of OpenAI's; other providers have others, which its SDK's types do not.
pub(super) fn tier(name: Option<&str>) -> &'static str {
    match name {
        Some("auto") => "auto",
        Some("flex") => "flex",
        Some("scale") => "scale",
        Some("priority" | "fast") => "priority",
        _ => "default",
    }
}

/// The members that repeat the request, with what OpenAI fills in where it said nothing. A value of
/// the wrong kind is not repeated: clients read answers by their types.
fn repeated(request: &Map<String, Value>) -> Vec<(&'static str, Value)> {
    let get = |name: &str, fits: fn(&Value) -> bool| {
        request.get(name).filter(|value| fits(value)).cloned().unwrap_or_default()
    };
    let or = |name: &str, fits: fn(&Value) -> bool, default: Value| {
        request.get(name).filter(|value| fits(value)).cloned().unwrap_or(default)
    };
    let mut all = vec![
        ("background", or("background", Value::is_boolean, false.into())),
        ("instructions", get("instructions", Value::is_string)),
        ("max_output_tokens", get("max_output_tokens", Value::is_u64)),
        ("max_tool_calls", get("max_tool_calls", Value::is_u64)),
        ("metadata", or("metadata", Value::is_object, json!({}))),
        ("parallel_tool_calls", or("parallel_tool_calls", Value::is_boolean, true.into())),
        ("previous_response_id", get("previous_response_id", Value::is_string)),
        ("prompt_cache_key", get("prompt_cache_key", Value::is_string)),
        ("safety_identifier", get("safety_identifier", Value::is_string)),
        ("store", or("store", Value::is_boolean, true.into())),
        ("temperature", or("temperature", Value::is_number, 1.0.into())),
        ("top_logprobs", or("top_logprobs", Value::is_u64, 0.into())),
        ("top_p", or("top_p", Value::is_number, 1.0.into())),
        ("truncation", or("truncation", Value::is_string, "disabled".into())),
        ("tool_choice", or("tool_choice", |v| v.is_string() || v.is_object(), "auto".into())),
    ];
    // Null is no value of this one's type.
    if let Some(user @ Value::String(_)) = request.get("user") {
        all.push(("user", user.clone()));
    }
    let mut reasoning = json!({"effort": null, "summary": null});
    merge(&mut reasoning, request.get("reasoning"));
    let mut text = json!({"format": {"type": "text"}, "verbosity": "medium"});
    merge(&mut text, request.get("text"));
    all.push(("reasoning", reasoning));
    all.push(("text", text));
    let tools = request.get("tools").and_then(Value::as_array).into_iter().flatten();
    all.push(("tools", tools.map(tool).collect()));
    all
}

fn merge(default: &mut Value, said: Option<&Value>) {
    let (Value::Object(default), Some(Value::Object(said))) = (default, said) else { return };
    for (name, value) in said.iter().filter(|(_, value)| !value.is_null()) {
        default.insert(name.clone(), value.clone());
    }
}

/// A tool as OpenAI repeats it: a function has its parameters and `strict`, whether told or not.
fn tool(tool: &Value) -> Value {
    let mut tool = tool.clone();
    forget_credentials(&mut tool);
    let Value::Object(members) = &mut tool else { return json!({}) };
    members.entry("type").or_insert_with(|| "function".into());
    if members.get("type").is_some_and(|kind| kind == "function") {
        if let Some(Value::Object(nested)) = members.remove("function") {
            members.extend(nested);
        }
        members.entry("parameters").or_insert(Value::Null);
        let strict = members.entry("strict").or_insert(Value::Null);
        // What was not asked for is not promised: providers differ.
        if strict.is_null() {
            *strict = false.into();
        }
    }
    tool
}
