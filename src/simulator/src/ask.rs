//! What a request asks for, whatever dialect it is written in.

use std::time::Duration;

use serde_json::Value;

use crate::answer::count_tokens;

/// Which tools the caller wants called.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum ToolChoice {
    #[default]
    Auto,
    None,
    Required,
    Named(String),
}

/// A tool the caller offers.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tool {
    pub(crate) name: String,
    pub(crate) schema: Value,
}

/// A request for an answer, as both dialects say it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ask {
    pub(crate) model: String,
    pub(crate) stream: bool,
    pub(crate) include_usage: bool,
    pub(crate) max_tokens: Option<u64>,
    pub(crate) stop: Vec<String>,
    pub(crate) choices: u32,
    /// The text of the last user message, without directives.
    pub(crate) said: String,
    /// What tools answered after it.
    pub(crate) tool_results: Vec<String>,
    /// How many assistant messages with tool calls follow it.
    pub(crate) rounds_done: usize,
    pub(crate) tools: Vec<Tool>,
    pub(crate) tool_choice: ToolChoice,
    pub(crate) think: bool,
    pub(crate) json: bool,
    pub(crate) prompt_tokens: u64,
    /// Members of the request that the answer repeats, as an object.
    pub(crate) repeated: Value,
    /// Where the finished answer is kept, if it is.
    pub(crate) kept: Option<Kept>,
}

/// An answer that can be asked for again.
#[derive(Clone, Debug)]
pub(crate) struct Kept {
    /// What was put in, as a list of items.
    pub(crate) input: Value,
    /// The caller does not wait for it.
    pub(crate) background: bool,
}

/// A request that a dialect refuses, or an error that a script asks for.
#[derive(Clone, Debug)]
pub(crate) struct Problem {
    pub(crate) status: u16,
    pub(crate) message: String,
    pub(crate) code: Option<String>,
    /// The error's `type`, when it is not the one its status has.
    pub(crate) kind: Option<String>,
    /// When to try again, for dialects that say it in the body.
    pub(crate) retry_after: Option<Duration>,
}

impl Ask {
    /// Takes a tool the caller offers; `written` is how the request has it, which costs tokens.
    pub(crate) fn offer(&mut self, name: &Value, schema: &Value, written: &Value) {
        self.prompt_tokens += count_tokens(&written.to_string());
        let name = name.as_str().unwrap_or_default().to_owned();
        self.tools.push(Tool { name, schema: schema.clone() });
    }
}

impl Problem {
    pub(crate) fn new(status: u16, message: impl Into<String>) -> Problem {
        Problem { status, message: message.into(), code: None, kind: None, retry_after: None }
    }

    pub(crate) fn invalid(message: impl Into<String>) -> Problem {
        Problem::new(400, message)
    }

    pub(crate) fn code(mut self, code: &str) -> Problem {
        self.code = Some(code.to_owned());
        self
    }
}

/// A field that must be a non-empty text.
pub(crate) fn required_text(body: &Value, name: &str) -> Result<String, Problem> {
    match body.get(name).and_then(Value::as_str) {
        Some(text) if !text.is_empty() => Ok(text.to_owned()),
        _ => Err(Problem::invalid(format!("you must provide a {name} parameter"))),
    }
}

/// A field that may be absent or null, and else must be a boolean.
pub(crate) fn optional_bool(body: &Value, name: &str) -> Result<bool, Problem> {
    match body.get(name) {
        None | Some(Value::Null) => Ok(false),
        Some(Value::Bool(value)) => Ok(*value),
        Some(_) => Err(Problem::invalid(format!("{name} must be a boolean"))),
    }
}

/// A field that may be absent or null, and else must be a whole number.
pub(crate) fn optional_number(body: &Value, name: &str) -> Result<Option<u64>, Problem> {
    match body.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => match value.as_u64() {
            Some(number) => Ok(Some(number)),
            None => Err(Problem::invalid(format!("{name} must be a whole number"))),
        },
    }
}

/// One text or several.
pub(crate) fn texts(value: Option<&Value>) -> Vec<String> {
    match value {
        Some(Value::String(text)) => vec![text.clone()],
        Some(Value::Array(texts)) => {
            texts.iter().filter_map(Value::as_str).map(str::to_owned).collect()
        }
        _ => Vec::new(),
    }
}

/// Reads the conversation into the ask: what was said last, and what happened since. Both
/// dialects' messages are near enough for one reader.
///
/// A prompt costs three tokens for each message, its texts, and 85 for each image or file.
pub(crate) fn read_messages(ask: &mut Ask, body: &Value) -> Result<(), Problem> {
    let messages = match body.get("messages") {
        Some(Value::Array(messages)) if !messages.is_empty() => messages,
        _ => return Err(Problem::invalid("messages must be a list with at least one message")),
    };
    for (index, message) in messages.iter().enumerate() {
        let Some(role) = message.get("role").and_then(Value::as_str) else {
            return Err(Problem::invalid(format!("messages[{index}].role must be a string")));
        };
        let mut content = Content::default();
        content.read(&message["content"], &mut ask.prompt_tokens);
        ask.prompt_tokens += 3;
        let calls = message.get("tool_calls").and_then(Value::as_array);
        for call in calls.into_iter().flatten() {
            content.calls_tools = true;
            ask.prompt_tokens += count_tokens(&call["function"].to_string());
        }
        match role {
            "tool" | "function" => ask.tool_results.push(content.text),
            _ if !content.tool_results.is_empty() => ask.tool_results.extend(content.tool_results),
            "user" => {
                ask.said = content.text;
                ask.tool_results.clear();
                ask.rounds_done = 0;
            }
            _ if content.calls_tools => ask.rounds_done += 1,
            _ => {}
        }
    }
    Ok(())
}

/// The content of one message.
#[derive(Default)]
struct Content {
    text: String,
    tool_results: Vec<String>,
    calls_tools: bool,
}

impl Content {
    fn read(&mut self, content: &Value, tokens: &mut u64) {
        match content {
            Value::String(text) => self.add(text, tokens),
            Value::Array(parts) => {
                for part in parts {
                    self.part(part, tokens);
                }
            }
            _ => {}
        }
    }

    fn part(&mut self, part: &Value, tokens: &mut u64) {
        match part.get("type").and_then(Value::as_str).unwrap_or_default() {
            "text" | "input_text" | "output_text" => {
                self.add(part["text"].as_str().unwrap_or_default(), tokens)
            }
            "thinking" => *tokens += count_tokens(part["thinking"].as_str().unwrap_or_default()),
            "tool_use" => {
                self.calls_tools = true;
                *tokens += count_tokens(part["name"].as_str().unwrap_or_default());
                *tokens += count_tokens(&part["input"].to_string());
            }
            "tool_result" => {
                // Not `read` on itself: a result within a result is not part of either API.
                let text = match &part["content"] {
                    Value::String(text) => text.clone(),
                    Value::Array(parts) => {
                        let texts = parts.iter().filter_map(|part| part["text"].as_str());
                        texts.collect::<Vec<_>>().join("\n")
                    }
                    _ => String::new(),
                };
                *tokens += count_tokens(&text);
                self.tool_results.push(text);
            }
            _ => *tokens += 85,
        }
    }

    fn add(&mut self, text: &str, tokens: &mut u64) {
        if !self.text.is_empty() {
            self.text.push('\n');
        }
        self.text.push_str(text);
        *tokens += count_tokens(text);
    }
}
