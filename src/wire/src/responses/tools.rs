//! The tools a request offers, and which of them it wants called.

use serde_json::{Map, Value, json};

use super::check::{self, FUNCTION, Kind, missing, take_text, wrong_type};
use crate::client::Invalid;

/// What OpenAI runs, or knows how to talk to, and nobody else does. A `type` that is neither one of
/// these nor translated is another provider's own tool and passes to it.
const OPENAI_ONLY: &[&str] = &[
    "apply_patch",
    "code_interpreter",
    "computer",
    "computer_use_preview",
    "computer-preview",
    "file_search",
    "image_generation",
    "local_shell",
    "mcp",
    "namespace",
    "programmatic_tool_calling",
    "shell",
    "tool_search",
];

/// The member that holds the text of a custom tool's call, where it is called as a function.
pub(super) const CUSTOM_INPUT: &str = "input";

/// Tools as chat has them.
#[derive(Default)]
pub(super) struct Tools {
    list: Vec<Value>,
    web_search: Option<Value>,
    choice: Option<Value>,
    parallel: Option<Value>,
}

impl Tools {
    pub(super) fn write(self, chat: &mut Map<String, Value>) {
        if let Some(options) = self.web_search {
            chat.insert("web_search_options".into(), options);
        }
        if self.list.is_empty() {
            return;
        }
        chat.insert("tools".into(), self.list.into());
        let rest = [("tool_choice", self.choice), ("parallel_tool_calls", self.parallel)];
        for (name, value) in rest {
            if let Some(value) = value {
                chat.insert(name.into(), value);
            }
        }
    }
}

/// Whether a tool is OpenAI's web search, under any of its names.
fn is_web_search(kind: &str) -> bool {
    kind == "web_search"
        || kind.starts_with("web_search_preview")
        // Anthropic's own is dated as well.
        || kind.starts_with("web_search_2025_")
}

/// Reads `tools`. With `drops` what cannot be used is left out and not refused.
pub(super) fn tools(tools: Option<Value>, drops: bool) -> Result<Tools, Invalid> {
    let mut all = Tools::default();
    let list = match tools {
        None => return Ok(all),
        Some(Value::Array(list)) => list,
        Some(other) => return Err(wrong_type("tools", "an array", &other)),
    };
    for (at, tool) in list.into_iter().enumerate() {
        let Value::Object(mut tool) = tool else {
            return Err(wrong_type(&format!("tools[{at}]"), "an object", &tool));
        };
        tool.retain(|_, value| !value.is_null());
        check::members(&tool, &[("type", Kind::Text)], &format!("tools[{at}]"))?;
        let kind = tool.get("type").and_then(Value::as_str).unwrap_or("function").to_owned();
        match kind.as_str() {
            "function" => all.list.push(function(tool, at)?),
            "custom" => all.list.push(custom(tool, at)?),
            kind if is_web_search(kind) => all.web_search = Some(web_search(tool)),
            kind if OPENAI_ONLY.contains(&kind) && drops => {}
            kind if OPENAI_ONLY.contains(&kind) => {
                let message = format!(
                    "The tool '{kind}' is run by OpenAI and cannot be used with this model."
                );
                return Err(Invalid::new(message).with_param(format!("tools[{at}].type")));
            }
            _ => all.list.push(Value::Object(tool)),
        }
    }
    Ok(all)
}

/// A function: flat here, nested in chat.
fn function(mut tool: Map<String, Value>, at: usize) -> Result<Value, Invalid> {
    if tool.contains_key("function") {
        return Ok(Value::Object(tool));
    }
    check::members(&tool, FUNCTION, &format!("tools[{at}]"))?;
    let mut function = Map::new();
    for name in ["name", "description", "parameters", "strict"] {
        if let Some(value) = tool.remove(name) {
            function.insert(name.into(), value);
        }
    }
    if !function.contains_key("name") {
        return Err(missing(format!("tools[{at}].name")));
    }
    let mut written = Map::new();
    written.insert("type".into(), "function".into());
    written.insert("function".into(), function.into());
    // Anthropic's mark is the one thing beside it that others know.
    if let Some(mark) = tool.remove("cache_control") {
        written.insert("cache_control".into(), mark);
    }
    Ok(Value::Object(written))
}

/// A custom tool takes text in place of JSON. Only OpenAI's models know that, so it is offered as a
/// function of one string; the encoder turns calls of it back.
fn custom(mut tool: Map<String, Value>, at: usize) -> Result<Value, Invalid> {
    if let Some(Value::Object(nested)) = tool.remove("custom") {
        tool = nested;
    }
    let name = take_text(&mut tool, "name", &format!("tools[{at}]"))?;
    let mut input = json!({"type": "string"});
    if let Some(Value::Object(format)) = tool.get("format") {
        let format = format.get("grammar").and_then(Value::as_object).unwrap_or(format);
        if let Some(definition) = format.get("definition").and_then(Value::as_str) {
            let syntax = format.get("syntax").and_then(Value::as_str).unwrap_or("lark");
            let kind = if syntax == "regex" { "regular expression" } else { "Lark grammar" };
            input["description"] = format!("Must match this {kind}:\n{definition}").into();
        }
    }
    let mut function = json!({
        "name": name,
        "parameters": {
            "type": "object",
            "properties": {CUSTOM_INPUT: input},
            "required": [CUSTOM_INPUT],
            "additionalProperties": false,
        },
    });
    if let Some(description) = tool.remove("description") {
        function["description"] = description;
    }
    Ok(json!({"type": "function", "function": function}))
}

/// Chat asks for web search by an object of options.
fn web_search(mut tool: Map<String, Value>) -> Value {
    let mut options = Map::new();
    for name in ["search_context_size", "filters"] {
        if let Some(value) = tool.remove(name) {
            options.insert(name.into(), value);
        }
    }
    if let Some(Value::Object(mut near)) = tool.remove("user_location") {
        near.remove("type");
        near.retain(|_, value| !value.is_null());
        if !near.is_empty() {
            let near = json!({"type": "approximate", "approximate": near});
            options.insert("user_location".into(), near);
        }
    }
    Value::Object(options)
}

/// Reads `tool_choice`.
pub(super) fn choose(
    choice: Option<Value>,
    parallel: Option<Value>,
    mut tools: Tools,
) -> Result<Tools, Invalid> {
    tools.parallel = parallel;
    let choice = match choice {
        None => return Ok(tools),
        Some(Value::String(word)) => {
            tools.choice = Some(word.into());
            return Ok(tools);
        }
        Some(Value::Object(choice)) => choice,
        Some(other) => return Err(wrong_type("tool_choice", "a string or an object", &other)),
    };
    let kind = choice.get("type").and_then(Value::as_str).unwrap_or_default();
    match kind {
        "function" | "custom" => {
            let nested = choice.get(kind).and_then(|nested| nested.get("name"));
            let param = "tool_choice.name";
            let name = choice.get("name").or(nested).ok_or_else(|| missing(param))?;
            if !name.is_string() {
                return Err(wrong_type(param, "a string", name));
            }
            tools.choice = Some(json!({"type": "function", "function": {"name": name}}));
        }
        // Which tools a turn may use is told by offering those: that means the same to every model.
        "allowed_tools" => {
            let allowed = choice.get("allowed_tools").and_then(Value::as_object).unwrap_or(&choice);
            allow(allowed, &mut tools);
        }
        // The model searches where it is offered, so nothing is left to say.
        kind if is_web_search(kind) && tools.web_search.is_some() => {}
        "auto" | "none" | "required" => tools.choice = Some(kind.into()),
        _ => {
            let message = format!("The tool choice '{kind}' cannot be used with this model.");
            return Err(Invalid::new(message).with_param("tool_choice"));
        }
    }
    Ok(tools)
}

fn name_of(tool: &Value) -> Option<&str> {
    let nested = tool.get("function").or_else(|| tool.get("custom"));
    nested.and_then(|nested| nested.get("name")).or_else(|| tool.get("name"))?.as_str()
}

fn allow(allowed: &Map<String, Value>, tools: &mut Tools) {
    let list = allowed.get("tools").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let kind = |tool: &Value| tool["type"].as_str().unwrap_or_default().to_owned();
    tools.list.retain(|tool| match name_of(tool) {
        Some(name) => list.iter().any(|one| name_of(one) == Some(name)),
        None => list.iter().any(|one| kind(one) == kind(tool)),
    });
    if !list.iter().any(|one| is_web_search(&kind(one))) {
        tools.web_search = None;
    }
    tools.choice = allowed.get("mode").filter(|mode| mode.is_string()).cloned();
}
