//! The conversation: OpenAI's messages as Gemini's system instruction and contents.

use std::collections::HashMap;

use serde_json::{Value, json};
use tollway_wire::openai::request::{Content, Message, Part, ToolCall};
use tollway_wire::thought;

use crate::RequestError;
use crate::messages::{arguments, check_calls, invalid, take_text, unknown_part, unknown_role};

use super::media::media;
use super::model::Model;

/// What stands where Gemini demands a part and the client has none: it refuses empty contents, and
/// a conversation that begins with the model.
const PLACEHOLDER: &str = ".";

/// Google's word for a call whose signature nobody has: one another model made, or the client.
/// Gemini 3 refuses calls without any (<https://ai.google.dev/gemini-api/docs/thought-signatures>,
/// "FAQs", read 2026-11).
const NO_SIGNATURE: &str = "skip_thought_signature_validator";

/// A conversation as Gemini takes it.
#[derive(Debug, Default)]
pub(super) struct Conversation {
    /// The parts of the system instruction.
    pub(super) system: Vec<Value>,
    turns: Vec<Turn>,
}

#[derive(Debug)]
struct Turn {
    kind: Kind,
    parts: Vec<Value>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    User,
    Model,
    /// The user's, too, but it holds what tools answered and nothing else: Gemini counts whether
    /// there are as many answers as calls.
    Results,
}

/// A call of the conversation, as its answer needs to know it.
#[derive(Debug)]
struct Known {
    name: String,
    /// Its place among the calls of its turn.
    place: usize,
}

/// Translates a conversation.
pub(super) fn conversation(
    messages: Vec<Message>,
    model: Model,
) -> Result<Conversation, RequestError> {
    let mut all = Conversation::default();
    // The latest call of an id is meant: ids made by others may come again in a later turn.
    let mut calls: HashMap<String, Known> = HashMap::new();
    let mut results: Vec<(usize, Value)> = Vec::new();
    for (at, message) in messages.into_iter().enumerate() {
        if message.role != "tool" && message.role != "function" {
            all.add_results(&mut results);
        }
        match message.role.as_str() {
            "system" | "developer" => all.add_system(at, message)?,
            "user" => {
                let parts = content_parts(at, message.content)?;
                all.add(Kind::User, parts);
            }
            "assistant" => {
                let parts = model_parts(at, message, model, &mut calls)?;
                all.add(Kind::Model, parts);
            }
            "tool" | "function" => {
                let (place, result, media) = tool_result(at, message, model, &calls)?;
                results.push((place, result));
                if !media.is_empty() {
                    // Before Gemini 3 an answer cannot hold images; they stand beside it.
                    results.extend(media.into_iter().map(|part| (usize::MAX, part)));
                }
            }
            role => return Err(unknown_role(at, role)),
        }
    }
    all.add_results(&mut results);
    all.finish(model);
    Ok(all)
}

impl Conversation {
    /// Gemini's `contents`.
    pub(super) fn contents(&mut self) -> Vec<Value> {
        let role = |kind| if kind == Kind::Model { "model" } else { "user" };
        let turns = std::mem::take(&mut self.turns).into_iter();
        turns.map(|turn| json!({"role": role(turn.kind), "parts": turn.parts})).collect()
    }

    /// Gemini takes the system prompt apart from the turns, so instructions that come later in the
    /// conversation move to its front, as LiteLLM moves them.
    fn add_system(&mut self, at: usize, message: Message) -> Result<(), RequestError> {
        self.system.extend(content_parts(at, message.content)?);
        Ok(())
    }

    fn add(&mut self, kind: Kind, parts: Vec<Value>) {
        if parts.is_empty() {
            return;
        }
        match self.turns.last_mut() {
            Some(last) if last.kind == kind => last.parts.extend(parts),
            _ => self.turns.push(Turn { kind, parts }),
        }
    }

    /// Ends a run of tool answers: they go in one turn, in the order of the calls, which is all that
    /// tells the answers to two calls of one function apart where there are no ids.
    fn add_results(&mut self, results: &mut Vec<(usize, Value)>) {
        results.sort_by_key(|(place, _)| *place);
        let (answers, media): (Vec<_>, Vec<_>) =
            std::mem::take(results).into_iter().partition(|(place, _)| *place != usize::MAX);
        let parts = |list: Vec<(usize, Value)>| list.into_iter().map(|(_, part)| part).collect();
        self.add(Kind::Results, parts(answers));
        self.add(Kind::User, parts(media));
    }

    fn finish(&mut self, model: Model) {
        if !model.has_system() && !self.system.is_empty() {
            let mut parts = std::mem::take(&mut self.system);
            match self.turns.first_mut() {
                Some(first) if first.kind == Kind::User => {
                    parts.append(&mut first.parts);
                    first.parts = parts;
                }
                _ => self.turns.insert(0, Turn { kind: Kind::User, parts }),
            }
        }
        if self.turns.first().is_none_or(|turn| turn.kind != Kind::User) {
            let parts = vec![json!({"text": PLACEHOLDER})];
            self.turns.insert(0, Turn { kind: Kind::User, parts });
        }
        if model.is_3() {
            self.sign_calls();
        }
    }

    /// Gemini 3 wants a signature on the first call of every step since the user last spoke. The
    /// earlier steps are left as they are, because Google says the skipping costs quality.
    fn sign_calls(&mut self) {
        let spoke = self.turns.iter().rposition(|turn| turn.kind == Kind::User).unwrap_or(0);
        for turn in &mut self.turns[spoke..] {
            let mut calls = turn.parts.iter_mut().filter(|part| part.get("functionCall").is_some());
            if let Some(first) = calls.next()
                && first.get("thoughtSignature").is_none()
            {
                first["thoughtSignature"] = NO_SIGNATURE.into();
            }
        }
    }
}

/// A text part; `None` for text Gemini would refuse as empty.
fn text_part(text: String) -> Option<Value> {
    (!text.is_empty()).then(|| json!({"text": text}))
}

fn content_parts(at: usize, content: Option<Content>) -> Result<Vec<Value>, RequestError> {
    match content {
        None => Ok(Vec::new()),
        Some(Content::Text(text)) => Ok(text_part(text).into_iter().collect()),
        Some(Content::Parts(list)) => {
            let mut parts = Vec::with_capacity(list.len());
            for part in list {
                parts.extend(content_part(at, part)?);
            }
            Ok(parts)
        }
    }
}

/// Translates one content part; `None` where it is empty.
fn content_part(at: usize, mut part: Part) -> Result<Option<Value>, RequestError> {
    if let Some(media) = media(at, &mut part)? {
        return Ok(Some(media));
    }
    if let Some(text) = take_text(&mut part) {
        return Ok(text_part(text));
    }
    match part.kind.as_str() {
        // Anthropic's thinking inside of content, which is another model's own.
        "thinking" | "redacted_thinking" | "reasoning" => Ok(None),
        kind => Err(unknown_part(at, kind)),
    }
}

fn model_parts(
    at: usize,
    message: Message,
    model: Model,
    calls: &mut HashMap<String, Known>,
) -> Result<Vec<Value>, RequestError> {
    let signature = message.thinking_blocks.as_deref().and_then(signature_of_blocks);
    let mut parts = content_parts(at, message.content)?;
    check_calls(at, &message.extra)?;
    let tool_calls = message.tool_calls.unwrap_or_default();
    // A signature belongs to the part it came on: to the calls if they carry one, else to the text.
    let calls_are_signed = tool_calls.iter().any(|call| signature_of_call(call).is_some());
    let is_foreign = tool_calls.iter().any(|call| call.id.starts_with("toolu_"));
    if let Some(signature) = signature.filter(|_| !calls_are_signed && !is_foreign) {
        match parts.iter_mut().rev().find(|part| part.get("text").is_some()) {
            Some(last) => last["thoughtSignature"] = signature.into(),
            None if tool_calls.is_empty() => {
                parts.push(json!({"text": "", "thoughtSignature": signature}));
            }
            None => {}
        }
    }
    for (place, call) in tool_calls.into_iter().enumerate() {
        if call.kind == "custom" {
            return Err(invalid(at, "calls of custom tools are not supported"));
        }
        let signature = signature_of_call(&call);
        let (id, _) = thought::split(&call.id);
        let mut function = json!({"name": call.function.name});
        function["args"] = arguments(&call.function.arguments);
        // Only Gemini 3 knows ids, and older models refuse the member.
        if model.is_3() && !id.is_empty() {
            function["id"] = id.into();
        }
        let mut part = json!({"functionCall": function});
        if let Some(signature) = signature {
            part["thoughtSignature"] = signature.into();
        }
        calls.insert(id.to_owned(), Known { name: call.function.name, place });
        parts.push(part);
    }
    Ok(parts)
}

/// The signature of a call: in Google's own member for OpenAI's dialect, in LiteLLM's, or in the id.
fn signature_of_call(call: &ToolCall) -> Option<String> {
    let text = |value: &Value| value.as_str().filter(|text| !text.is_empty()).map(str::to_owned);
    let member = |name: &str| call.extra.get(name);
    member("extra_content")
        .and_then(|extra| text(&extra["google"]["thought_signature"]))
        .or_else(|| {
            member("provider_specific_fields").and_then(|of| text(&of["thought_signature"]))
        })
        .or_else(|| thought::split(&call.id).1)
}

/// The signature Gemini's text carries. Another provider's blocks are told apart where they can be:
/// Google refuses a whole request over a signature that is not its own.
fn signature_of_blocks(blocks: &[Value]) -> Option<String> {
    if blocks.iter().any(|block| block["type"] == "redacted_thinking") {
        return None;
    }
    let mut signatures = blocks.iter().filter_map(|block| block["signature"].as_str());
    let signature = signatures.rfind(|signature| !signature.is_empty())?;
    let is_base64 =
        |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'=' | b'-' | b'_');
    signature.bytes().all(is_base64).then(|| signature.to_owned())
}

/// Translates a tool's answer: its call's place, the answer, and images it cannot hold.
fn tool_result(
    at: usize,
    message: Message,
    model: Model,
    calls: &HashMap<String, Known>,
) -> Result<(usize, Value, Vec<Value>), RequestError> {
    let id = message.tool_call_id.as_deref().map(|id| thought::split(id).0).unwrap_or_default();
    let known = calls.get(id);
    let name = match (known, &message.name) {
        (Some(known), _) => &known.name,
        (None, Some(name)) if !name.is_empty() => name,
        (None, _) => {
            let what = "`tool_call_id` names no tool call of the conversation";
            return Err(invalid(at, what));
        }
    };
    let (mut text, mut media) = (String::new(), Vec::new());
    match message.content {
        None => {}
        Some(Content::Text(all)) => text = all,
        Some(Content::Parts(list)) => {
            for part in list {
                match content_part(at, part)? {
                    Some(mut part) => match part.get_mut("text").map(Value::take) {
                        Some(Value::String(piece)) => text.push_str(&piece),
                        _ => media.push(part),
                    },
                    None => continue,
                }
            }
        }
    }
    // Google's words for an answer that is no object (ai.google.dev/api/caching#FunctionResponse).
    let is_error = message.extra.get("is_error") == Some(&Value::Bool(true));
    let response = match serde_json::from_str(&text) {
        _ if is_error => json!({"error": text}),
        Ok(object @ Value::Object(_)) => object,
        _ => json!({"output": text}),
    };
    let mut result = json!({"name": name, "response": response});
    if model.is_3() {
        if !id.is_empty() {
            result["id"] = id.into();
        }
        if !media.is_empty() {
            result["parts"] = std::mem::take(&mut media).into();
        }
    }
    let place = known.map_or(usize::MAX - 1, |known| known.place);
    Ok((place, json!({"functionResponse": result}), media))
}
