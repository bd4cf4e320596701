//! The items of a conversation as the messages of a chat.
//!
//! What chat has in one assistant's message the Responses API has in several items: reasoning, text
//! and calls follow one another. They are gathered until somebody else speaks.

use std::collections::HashSet;

use serde_json::{Map, Value, json};

use super::check::{self, Kind, missing, take_text, wrong_type};
use super::envelope;
use super::message;
use super::tools::CUSTOM_INPUT;
use crate::client::Invalid;
use crate::thought;

/// What OpenAI's own tools did in an earlier turn. The model's text tells what came of it.
const IGNORED: &[&str] = &[
    "code_interpreter_call",
    "file_search_call",
    "image_generation_call",
    "mcp_call",
    "mcp_list_tools",
    "program",
    "program_output",
    "tool_search_call",
    "tool_search_output",
    "web_search_call",
];

/// The messages so far, and the assistant's turn that is being gathered.
#[derive(Default)]
pub(super) struct Conversation {
    messages: Vec<Value>,
    turn: Turn,
    /// The ids of the items that came before this request.
    known: HashSet<String>,
}

#[derive(Default)]
struct Turn {
    content: Vec<Value>,
    calls: Vec<Value>,
    reasoning: String,
    thinking: Vec<Value>,
}

impl Conversation {
    pub(super) fn add_system(&mut self, content: Value) {
        self.add("system", content);
    }

    pub(super) fn add_user(&mut self, content: Value) {
        self.add("user", content);
    }

    /// Adds what came before.
    pub(super) fn add_history(&mut self, items: Vec<Value>) -> Result<(), Invalid> {
        let ids = items.iter().filter_map(|item| item["id"].as_str());
        self.known.extend(ids.map(str::to_owned));
        self.add_items(items, "previous_response_id")
    }

    /// Adds items; `param` is the member of the request they come from.
    pub(super) fn add_items(&mut self, items: Vec<Value>, param: &str) -> Result<(), Invalid> {
        for (at, item) in items.into_iter().enumerate() {
            let param = format!("{param}[{at}]");
            let Value::Object(item) = item else {
                return Err(wrong_type(&param, "an object", &item));
            };
            self.add_item(item, &param)?;
        }
        Ok(())
    }

    pub(super) fn finish(mut self) -> Vec<Value> {
        self.end_turn();
        self.messages
    }

    fn add(&mut self, role: &str, content: Value) {
        self.end_turn();
        self.messages.push(json!({"role": role, "content": content}));
    }

    fn add_item(&mut self, mut item: Map<String, Value>, param: &str) -> Result<(), Invalid> {
        check::members(&item, &[("type", Kind::Text)], param)?;
        let kind = match item.get("type").and_then(Value::as_str) {
            Some(kind) => kind.to_owned(),
            None if item.contains_key("role") => "message".to_owned(),
            // A reference's type may be null.
            None if item.contains_key("id") => "item_reference".to_owned(),
            None => return Err(missing(format!("{param}.type"))),
        };
        match kind.as_str() {
            "message" => self.add_message(item, param)?,
            "function_call" => {
                let name = take_text(&mut item, "name", param)?;
                check::members(&item, &[("arguments", Kind::Text)], param)?;
                // Clients of a function without parameters leave them out, or empty.
                let arguments = item.remove("arguments");
                let arguments =
                    arguments.filter(|text| text.as_str().is_some_and(|t| !t.is_empty()));
                let arguments = arguments.unwrap_or_else(|| "{}".into());
                self.add_call(&mut item, name, arguments, param)?;
            }
            "custom_tool_call" => {
                let name = take_text(&mut item, "name", param)?;
                check::members(&item, &[("input", Kind::Text)], param)?;
                let input = item.remove("input").unwrap_or_else(|| "".into());
                let arguments = json!({CUSTOM_INPUT: input}).to_string();
                self.add_call(&mut item, name, arguments.into(), param)?;
            }
            "function_call_output" | "custom_tool_call_output" => {
                let id = take_text(&mut item, "call_id", param)?;
                let output = match item.remove("output") {
                    None => "".into(),
                    Some(output @ (Value::String(_) | Value::Array(_) | Value::Null)) => output,
                    // Tools answer with JSON now and then, where JSON written as text is asked for.
                    Some(other) => other.to_string().into(),
                };
                let content = message::content(output, &format!("{param}.output"))?;
                self.end_turn();
                let (id, _) = thought::split(&id);
                let mut answer = json!({"role": "tool", "tool_call_id": id, "content": content});
                keep_mark(&mut item, &mut answer);
                self.messages.push(answer);
            }
            "reasoning" => self.add_reasoning(&mut item),
            "item_reference" => {
                let id = take_text(&mut item, "id", param)?;
                // What came before is in the conversation already. Thoughts may be missing: clients
                // refer to those they were shown, as OpenAI would have kept them, and a model that
                // must have them back gets the answer without them.
                if !self.known.contains(&id) && !id.starts_with("rs_") {
                    let message = format!("Item with id '{id}' not found.");
                    return Err(Invalid::new(message).with_param("input"));
                }
            }
            kind if IGNORED.contains(&kind) => {}
            kind => {
                let message = format!(
                    "An item of type '{kind}' at '{param}' cannot be used with this model."
                );
                return Err(Invalid::new(message).with_param(param));
            }
        }
        Ok(())
    }

    fn add_message(&mut self, mut item: Map<String, Value>, param: &str) -> Result<(), Invalid> {
        let role = take_text(&mut item, "role", param)?;
        let content = item.remove("content").unwrap_or_else(|| "".into());
        let content = message::content(content, &format!("{param}.content"))?;
        let role = match role.as_str() {
            "assistant" => {
                match content {
                    Value::Array(parts) => self.turn.content.extend(parts),
                    Value::String(text) if text.is_empty() => {}
                    text => self.turn.content.push(json!({"type": "text", "text": text})),
                }
                return Ok(());
            }
            // Only OpenAI's models tell the two apart.
            "developer" | "system" => "system",
            "user" => "user",
            role => {
                let message = format!("Invalid value for '{param}.role': '{role}'.");
                return Err(Invalid::new(message).with_param(format!("{param}.role")));
            }
        };
        self.end_turn();
        let mut message = json!({"role": role, "content": content});
        keep_mark(&mut item, &mut message);
        self.messages.push(message);
        Ok(())
    }

    fn add_call(
        &mut self,
        item: &mut Map<String, Value>,
        name: String,
        arguments: Value,
        param: &str,
    ) -> Result<(), Invalid> {
        let id = take_text(item, "call_id", param)?;
        let (id, signature) = thought::split(&id);
        let mut call = json!({
            "id": id,
            "type": "function",
            "function": {"name": name, "arguments": arguments},
        });
        if let Some(signature) = signature {
            call["extra_content"] = json!({"google": {"thought_signature": signature}});
        }
        self.turn.calls.push(call);
        Ok(())
    }

    fn add_reasoning(&mut self, item: &mut Map<String, Value>) {
        if let Some(sealed) = item.get("encrypted_content").and_then(Value::as_str) {
            self.turn.thinking.extend(envelope::open(sealed));
        }
        // The reasoning itself where it is shown, and else what sums it up.
        let texts = |item: &Map<String, Value>, name: &str| -> Vec<String> {
            let parts = item.get(name).and_then(Value::as_array).into_iter().flatten();
            let texts = parts.filter_map(|part| part["text"].as_str());
            texts.filter(|text| !text.is_empty()).map(str::to_owned).collect()
        };
        let mut all = texts(item, "content");
        if all.is_empty() {
            all = texts(item, "summary");
        }
        for text in all {
            if !self.turn.reasoning.is_empty() {
                self.turn.reasoning.push_str("\n\n");
            }
            self.turn.reasoning.push_str(&text);
        }
    }

    /// Writes what the assistant said. Reasoning that led to nothing is forgotten.
    fn end_turn(&mut self) {
        let mut turn = std::mem::take(&mut self.turn);
        if turn.content.is_empty() && turn.calls.is_empty() {
            return;
        }
        let content = match turn.content.as_mut_slice() {
            [] => Value::Null,
            [only] if message::is_plain(only) => only["text"].take(),
            _ => turn.content.into(),
        };
        let mut message = json!({"role": "assistant", "content": content});
        if !turn.calls.is_empty() {
            message["tool_calls"] = turn.calls.into();
        }
        if !turn.reasoning.is_empty() {
            message["reasoning_content"] = turn.reasoning.into();
        }
        if !turn.thinking.is_empty() {
            message["thinking_blocks"] = turn.thinking.into();
        }
        self.messages.push(message);
    }
}

/// Anthropic's cache mark stays where a client put it.
fn keep_mark(item: &mut Map<String, Value>, message: &mut Value) {
    if let Some(mark) = item.remove("cache_control").filter(Value::is_object) {
        message["cache_control"] = mark;
    }
}
