//! Tools and tool choice.

use serde_json::{Map, Value, json};

use crate::RequestError;
use crate::params::Lacks;
use crate::tools::{
    invalid_choice, members, names_of, take_name, take_parameters, unfold, without_function,
};

use super::body::Body;
use super::messages::Conversation;
use super::model::{Family, Model};

/// Anthropic's own tools that Claude has on Bedrock as well, by how their types begin, and the beta
/// each is (<https://docs.aws.amazon.com/bedrock/latest/userguide/model-parameters-anthropic-claude-messages-tool-use.html>,
/// 2026-11).
const CLAUDE_TOOLS: &[(&str, &str)] = &[
    ("computer_20241022", "computer-use-2024-10-22"),
    ("text_editor_20241022", "computer-use-2024-10-22"),
    ("bash_20241022", "computer-use-2024-10-22"),
    ("computer_20250124", "computer-use-2025-01-24"),
    ("text_editor_20250", "computer-use-2025-01-24"),
    ("bash_20250124", "computer-use-2025-01-24"),
    ("computer_20251124", "computer-use-2025-11-24"),
    ("memory_20250818", "context-management-2025-06-27"),
    ("tool_search_tool", "tool-search-tool-2025-10-19"),
];

/// Whether a model must call a tool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Choice {
    Auto,
    /// Any of them.
    Any,
    /// This one.
    Tool(String),
}

impl Choice {
    pub(super) fn is_forced(&self) -> bool {
        *self != Choice::Auto
    }

    fn to_converse(&self) -> Value {
        match self {
            Choice::Auto => json!({"auto": {}}),
            Choice::Any => json!({"any": {}}),
            Choice::Tool(name) => json!({"tool": {"name": name}}),
        }
    }

    /// Anthropic's form of it, which also says that calls come one by one.
    fn to_single(&self) -> Value {
        let mut choice = match self {
            Choice::Auto => json!({"type": "auto"}),
            Choice::Any => json!({"type": "any"}),
            Choice::Tool(name) => json!({"type": "tool", "name": name}),
        };
        choice["disable_parallel_tool_use"] = true.into();
        choice
    }
}

/// Which choices a model takes: to call any tool, and to call a certain one
/// (<https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_ToolChoice.html>, 2026-11).
pub(super) fn can_force(model: &Model<'_>) -> (bool, bool) {
    match model.family() {
        Family::Claude => {
            let can = model.abilities().forced_tools;
            (can, can)
        }
        Family::Nova | Family::Nova2 | Family::Opaque => (true, true),
        Family::Mistral => (true, false),
        _ => (false, false),
    }
}

/// Translates the tools of a request.
pub(super) fn set_tools(
    tools: Vec<Value>,
    model: &Model<'_>,
    all: &Conversation,
    body: &mut Body,
    lacks: &mut Lacks,
) -> Result<(), RequestError> {
    for (at, tool) in tools.into_iter().enumerate() {
        let mut tool = members(at, tool)?;
        let kind = tool.get("type").and_then(Value::as_str).unwrap_or("function").to_owned();
        let function = match tool.remove("function") {
            Some(Value::Object(function)) => Some(function),
            _ => None,
        };
        let of_function = || function.as_ref().and_then(|function| function.get("cache_control"));
        let mark = tool.get("cache_control").or_else(of_function).cloned();
        match kind.as_str() {
            "function" | "custom" => {
                body.tools.push(tool_spec(at, tool, function, model)?);
                body.tools.extend(all.cache_point(mark.as_ref()));
            }
            // Bedrock's own form of what it runs itself.
            "system_tool" => {
                let name = tool.get("name").cloned().unwrap_or_default();
                body.tools.push(json!({"systemTool": {"name": name}}));
            }
            "web_search" | "web_search_preview" if model.family() == Family::Nova2 => {
                body.tools.push(grounding());
            }
            kind => set_claude_tool(kind, tool, function, model, body, lacks),
        }
    }
    Ok(())
}

/// Nova's search of the web.
pub(super) fn grounding() -> Value {
    json!({"systemTool": {"name": "nova_grounding"}})
}

/// Hands on one of Anthropic's own tools, which go past Converse.
fn set_claude_tool(
    kind: &str,
    mut tool: Map<String, Value>,
    function: Option<Map<String, Value>>,
    model: &Model<'_>,
    body: &mut Body,
    lacks: &mut Lacks,
) {
    let known = CLAUDE_TOOLS.iter().find(|(begins, _)| kind.starts_with(begins));
    let Some((_, beta)) = known.filter(|_| model.family() == Family::Claude) else {
        lacks.add("tools");
        return;
    };
    unfold(kind, &mut tool, function.unwrap_or_default());
    body.add_beta(beta);
    body.claude_tools.push(tool.into());
}

/// One tool, from OpenAI's form or Anthropic's.
fn tool_spec(
    at: usize,
    mut tool: Map<String, Value>,
    function: Option<Map<String, Value>>,
    model: &Model<'_>,
) -> Result<Value, RequestError> {
    let mut function = match function {
        Some(function) => function,
        None if tool.contains_key("input_schema") => {
            if let Some(schema) = tool.remove("input_schema") {
                tool.insert("parameters".into(), schema);
            }
            tool
        }
        None => return Err(without_function(at)),
    };
    let name = take_name(at, &mut function)?;
    let schema = take_parameters(&mut function);
    let mut spec = json!({"name": name, "inputSchema": {"json": schema}});
    let description = function.get("description").and_then(Value::as_str);
    if let Some(description) = description.filter(|text| !text.is_empty()) {
        spec["description"] = description.into();
    }
    if function.get("strict") == Some(&Value::Bool(true)) && model.is_structured() {
        spec["strict"] = true.into();
    }
    Ok(json!({"toolSpec": spec}))
}

/// Translates `tool_choice`: what must be called, and whether the tools may be used at all.
/// OpenAI's `allowed_tools` also narrows the tools themselves.
pub(super) fn tool_choice(
    choice: Option<Value>,
    body: &mut Body,
) -> Result<Option<Choice>, RequestError> {
    match choice {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(word)) => by_word(&word, body).ok_or_else(invalid_choice),
        Some(Value::Object(choice)) => {
            let kind = choice.get("type").and_then(Value::as_str).unwrap_or("function");
            match kind {
                "function" | "custom" | "tool" => {
                    let function = choice.get("function").or_else(|| choice.get("custom"));
                    let name = function.and_then(|function| function.get("name"));
                    let name = name.or_else(|| choice.get("name")).and_then(Value::as_str);
                    Ok(Some(Choice::Tool(name.ok_or_else(invalid_choice)?.to_owned())))
                }
                "allowed_tools" => {
                    let allowed = choice.get("allowed_tools").ok_or_else(invalid_choice)?;
                    let names =
                        allowed.get("tools").and_then(names_of).ok_or_else(invalid_choice)?;
                    keep(body, &names);
                    let mode = allowed.get("mode").and_then(Value::as_str).unwrap_or("auto");
                    by_word(mode, body).ok_or_else(invalid_choice)
                }
                word => by_word(word, body).ok_or_else(invalid_choice),
            }
        }
        Some(_) => Err(invalid_choice()),
    }
}

fn by_word(word: &str, body: &mut Body) -> Option<Option<Choice>> {
    match word {
        "auto" => Some(Some(Choice::Auto)),
        "required" | "any" => Some(Some(Choice::Any)),
        // Converse has no word for it, but a tool that is not there is not called.
        "none" => {
            body.tools.clear();
            body.claude_tools.clear();
            Some(None)
        }
        _ => None,
    }
}

/// Keeps the tools of these names.
fn keep(body: &mut Body, names: &[&str]) {
    body.tools.retain(|tool| {
        let name = tool.get("toolSpec").and_then(|spec| spec["name"].as_str());
        name.is_none_or(|name| names.contains(&name))
    });
    if !body.has_tool_specs() {
        body.tools.clear();
    }
}

/// Writes `toolConfig`, once it is known what must be called.
pub(super) fn write_config(
    choice: Option<Choice>,
    parallel: Option<bool>,
    model: &Model<'_>,
    all: &Conversation,
    body: &mut Body,
    lacks: &mut Lacks,
) {
    // A conversation with tool calls in it and no tools is refused (LiteLLM's `add_dummy_tool`,
    // 2026-11).
    if body.tools.is_empty() && all.has_tool_blocks {
        body.tools.push(json!({"toolSpec": {
            "name": "unavailable",
            "description": "The tools used above are no longer available. Do not call this.",
            "inputSchema": {"json": {"type": "object", "properties": {}}},
        }}));
        return;
    }
    if body.tools.is_empty() && body.claude_tools.is_empty() {
        return;
    }
    let mut choice = choice;
    let (any, one) = can_force(model);
    match &choice {
        Some(Choice::Any) if !any => {
            lacks.add("tool_choice");
            choice = None;
        }
        Some(Choice::Tool(name)) if !one => {
            // One tool on offer, and one that must be called, is the same.
            if any {
                keep(body, &[name.as_str()]);
                choice = Some(Choice::Any);
            } else {
                lacks.add("tool_choice");
                choice = None;
            }
        }
        _ => {}
    }
    if parallel == Some(false) {
        if matches!(model.family(), Family::Claude | Family::Opaque) {
            // Only Anthropic's own form says it, and both forms together are refused.
            let choice = choice.unwrap_or(Choice::Auto).to_single();
            body.additional.insert("tool_choice".into(), choice);
            return;
        }
        lacks.add("parallel_tool_calls");
    }
    // `auto` is what happens anyway, and not every model takes the member.
    let choice = choice.filter(|choice| choice.is_forced() && !body.tools.is_empty());
    body.tool_choice = choice.map(|choice| choice.to_converse());
}
