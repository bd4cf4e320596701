//! The conversation: OpenAI's messages as Converse's system prompt and alternating turns.

use std::fmt::Write as _;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tollway_wire::openai::request::{Content, Message, Part, ToolCall};

use crate::RequestError;
use crate::messages::{
    arguments, check_calls, file_of, invalid, parts, take_text, tool_call_id, trim_end,
    unknown_part, unknown_role, without_image,
};

use super::media;
use super::model::{Family, Model};

/// What stands where Bedrock demands text and the client has none: it refuses blank text blocks,
/// an empty conversation, one that begins with the assistant, and a document without any text.
const PLACEHOLDER: &str = ".";

/// The longest id of a tool call.
const ID_CHARS_MAX: usize = 64;

/// A conversation as Converse takes it.
#[derive(Debug, Default)]
pub(super) struct Conversation {
    /// The blocks of the system prompt.
    pub(super) system: Vec<Value>,
    /// The turns, which alternate and begin with the user's.
    pub(super) turns: Vec<Turn>,
    /// There are calls or answers of tools.
    pub(super) has_tool_blocks: bool,
    /// The assistant's last turn called tools and its thinking was not handed back.
    pub(super) lacks_thinking: bool,
    names: DocumentNames,
    takes: Takes,
}

/// One turn.
#[derive(Debug)]
pub(super) struct Turn {
    is_user: bool,
    content: Vec<Value>,
}

impl Turn {
    pub(super) fn into_json(self) -> Value {
        let role = if self.is_user { "user" } else { "assistant" };
        json!({"role": role, "content": self.content})
    }
}

/// What a model takes in a conversation, where that differs.
#[derive(Clone, Copy, Debug, Default)]
struct Takes {
    cache: bool,
    /// Caches that live for an hour.
    ttl: bool,
    reasoning: bool,
    /// Whether a tool failed.
    status: bool,
}

/// The names of the documents so far: no two may be the same.
#[derive(Debug, Default)]
pub(super) struct DocumentNames(Vec<String>);

impl DocumentNames {
    pub(super) fn unique(&mut self, name: String) -> String {
        let mut unique = name.clone();
        let mut count = 1u32;
        while self.0.contains(&unique) {
            count += 1;
            unique = format!("{name} {count}");
        }
        self.0.push(unique.clone());
        unique
    }
}

/// Translates a conversation.
pub(super) fn conversation(
    messages: Vec<Message>,
    model: &Model<'_>,
) -> Result<Conversation, RequestError> {
    let family = model.family();
    let is_claude = family == Family::Claude;
    let takes = Takes {
        cache: model.caches(),
        // Claude 4.5 and later.
        ttl: family == Family::Opaque || is_claude && model.is_structured(),
        // Others refuse reasoning in what they are handed.
        reasoning: family == Family::Opaque || is_claude && model.abilities().thinking,
        status: matches!(family, Family::Claude | Family::Nova | Family::Nova2),
    };
    let mut all = Conversation { takes, ..Conversation::default() };
    for (at, message) in messages.into_iter().enumerate() {
        match message.role.as_str() {
            "system" | "developer" => all.add_system(message),
            "user" => {
                let blocks = all.user_blocks(at, message.content, message.cache_control)?;
                all.add_turn(true, blocks);
            }
            "assistant" => {
                let blocks = all.assistant_blocks(at, message)?;
                all.add_turn(false, blocks);
            }
            "tool" => {
                let blocks = all.tool_result(at, message)?;
                all.add_turn(true, blocks);
            }
            role => return Err(unknown_role(at, role)),
        }
    }
    all.finish();
    Ok(all)
}

impl Conversation {
    /// A mark that what stands before it is to be cached, where the model caches.
    pub(super) fn cache_point(&self, mark: Option<&Value>) -> Option<Value> {
        let mark = mark.filter(|mark| mark.is_object() && self.takes.cache)?;
        let mut point = json!({"type": "default"});
        if let Some(ttl) = mark.get("ttl").and_then(Value::as_str)
            && self.takes.ttl
            && matches!(ttl, "5m" | "1h")
        {
            point["ttl"] = ttl.into();
        }
        Some(json!({"cachePoint": point}))
    }

    fn mark(&self, blocks: &mut Vec<Value>, mark: Option<&Value>) {
        // A mark needs something before it, and not another mark.
        if blocks.last().is_some_and(|last| last.get("cachePoint").is_none()) {
            blocks.extend(self.cache_point(mark));
        }
    }

    /// Converse takes the system prompt apart from the turns, so instructions that come later in
    /// the conversation move to its front, as LiteLLM moves them.
    fn add_system(&mut self, message: Message) {
        let mut blocks = Vec::new();
        for part in parts(message.content) {
            let text = part.text.unwrap_or_default();
            if part.kind == "guarded_text" {
                blocks.push(guarded(text));
            } else {
                blocks.extend(text_block(text));
            }
            self.mark(&mut blocks, part.cache_control.as_ref());
        }
        self.mark(&mut blocks, message.cache_control.as_ref());
        self.system.extend(blocks);
    }

    fn add_turn(&mut self, is_user: bool, blocks: Vec<Value>) {
        if blocks.is_empty() {
            return;
        }
        // Turns must alternate, and all answers to one turn's tool calls come together.
        match self.turns.last_mut() {
            Some(last) if last.is_user == is_user => last.content.extend(blocks),
            _ => self.turns.push(Turn { is_user, content: blocks }),
        }
    }

    fn user_blocks(
        &mut self,
        at: usize,
        content: Option<Content>,
        cache_control: Option<Value>,
    ) -> Result<Vec<Value>, RequestError> {
        let mut blocks = Vec::new();
        match content {
            None => {}
            Some(Content::Text(text)) => blocks.extend(text_block(text)),
            Some(Content::Parts(parts)) => {
                for part in parts {
                    self.add_part(at, part, &mut blocks)?;
                }
            }
        }
        self.mark(&mut blocks, cache_control.as_ref());
        Ok(blocks)
    }

    fn assistant_blocks(
        &mut self,
        at: usize,
        message: Message,
    ) -> Result<Vec<Value>, RequestError> {
        let mut blocks: Vec<Value> = Vec::new();
        // Thinking comes first and exactly as it was signed.
        if self.takes.reasoning {
            let thinking = message.thinking_blocks.unwrap_or_default();
            blocks.extend(thinking.into_iter().filter_map(reasoning));
        }
        let has_thinking = !blocks.is_empty();
        match message.content {
            None => {}
            Some(Content::Text(text)) => blocks.extend(text_block(text)),
            Some(Content::Parts(parts)) => {
                for part in parts {
                    self.add_part(at, part, &mut blocks)?;
                }
            }
        }
        check_calls(at, &message.extra)?;
        let calls = message.tool_calls.unwrap_or_default();
        let has_calls = !calls.is_empty();
        for call in calls {
            let mark = call.extra.get("cache_control").cloned();
            blocks.push(tool_use(call));
            self.mark(&mut blocks, mark.as_ref());
        }
        self.has_tool_blocks |= has_calls;
        self.lacks_thinking = has_calls && !has_thinking;
        if blocks.last().is_some_and(|last| last.get("reasoningContent").is_none()) {
            self.mark(&mut blocks, message.cache_control.as_ref());
        }
        Ok(blocks)
    }

    fn tool_result(&mut self, at: usize, message: Message) -> Result<Vec<Value>, RequestError> {
        let id = tool_call_id(at, message.tool_call_id)?;
        self.has_tool_blocks = true;
        let mut mark = message.cache_control;
        let mut content = Vec::new();
        match message.content {
            None => {}
            Some(Content::Text(text)) => content.extend(text_block(text)),
            Some(Content::Parts(parts)) => {
                for mut part in parts {
                    // What is inside a result cannot be marked; the result can.
                    mark = part.cache_control.take().or(mark);
                    self.add_part(at, part, &mut content)?;
                }
            }
        }
        let mut result = json!({"toolUseId": safe_id(&id), "content": content});
        if message.extra.get("is_error") == Some(&Value::Bool(true)) && self.takes.status {
            result["status"] = "error".into();
        }
        let mut blocks = vec![json!({"toolResult": result})];
        self.mark(&mut blocks, mark.as_ref());
        Ok(blocks)
    }

    /// Translates one content part.
    fn add_part(
        &mut self,
        at: usize,
        mut part: Part,
        blocks: &mut Vec<Value>,
    ) -> Result<(), RequestError> {
        let mark = part.cache_control.take();
        let text = take_text(&mut part);
        let block = match part.kind.as_str() {
            _ if text.is_some() => text.and_then(text_block),
            // LiteLLM's word for what a guardrail is to look at.
            "guarded_text" => part.text.filter(|text| !text.trim().is_empty()).map(guarded),
            "image_url" => match part.image_url {
                Some(image) => Some(media::image(at, image, &mut self.names)?),
                None => return Err(without_image(at)),
            },
            "file" => {
                let file = file_of(at, part.file)?;
                Some(media::file(at, file, &part.extra, &mut self.names)?)
            }
            "video_url" => Some(media::video(at, &part)?),
            "input_audio" => Some(media::audio(at, &part)?),
            // What a tool found, as an object.
            "json" => match part.extra.get("json") {
                Some(found @ Value::Object(_)) => Some(json!({"json": found})),
                _ => return Err(invalid(at, "a json part has no object `json`")),
            },
            kind => return Err(unknown_part(at, kind)),
        };
        if let Some(block) = block {
            blocks.push(block);
            self.mark(blocks, mark.as_ref());
        }
        Ok(())
    }

    fn finish(&mut self) {
        for turn in &mut self.turns {
            let has = |member: &str| turn.content.iter().any(|block| block.get(member).is_some());
            if has("document") && !has("text") {
                turn.content.insert(0, json!({"text": PLACEHOLDER}));
            }
        }
        // Text that ends in white space is refused where the assistant is to go on with it.
        if let Some(last) = self.turns.last_mut().filter(|turn| !turn.is_user)
            && let Some(block) = last.content.last_mut()
        {
            trim_end(block);
        }
        if self.turns.first().is_none_or(|turn| !turn.is_user) {
            let content = vec![json!({"text": PLACEHOLDER})];
            self.turns.insert(0, Turn { is_user: true, content });
        }
    }
}

/// A text block; `None` for text Bedrock would refuse as blank.
fn text_block(text: String) -> Option<Value> {
    (!text.trim().is_empty()).then(|| json!({"text": text}))
}

fn guarded(text: String) -> Value {
    json!({"guardContent": {"text": {"text": text}}})
}

/// Thinking as Converse takes it back: its own, with the signature.
fn reasoning(block: Value) -> Option<Value> {
    let text = |member: &str| block[member].as_str().filter(|text| !text.is_empty());
    match block["type"].as_str() {
        Some("thinking") => {
            let thinking = block["thinking"].as_str().unwrap_or_default();
            let signature = text("signature")?;
            let signed = json!({"text": thinking, "signature": signature});
            Some(json!({"reasoningContent": {"reasoningText": signed}}))
        }
        Some("redacted_thinking") => {
            let data = media::blob(text("data")?)?;
            Some(json!({"reasoningContent": {"redactedContent": data}}))
        }
        _ => None,
    }
}

fn tool_use(call: ToolCall) -> Value {
    let input = arguments(&call.function.arguments);
    let name = safe_name(&call.function.name);
    json!({"toolUse": {"toolUseId": safe_id(&call.id), "name": name, "input": input}})
}

/// A tool's name as Bedrock takes it. Only the conversation is mended: names of tools on offer
/// come back in calls, so for those its refusal says it best.
fn safe_name(name: &str) -> String {
    let safe = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '_' | '-') { c } else { '_' };
    if name.is_empty() { "_".to_owned() } else { name.chars().map(safe).take(64).collect() }
}

/// A tool call's id as Bedrock takes it: 64 letters, digits, `_`, `.`, `:` and `-`. Other
/// providers' ids, which a conversation brings along after a fallback, have more; a long one keeps
/// its beginning and gets a hash of all of it, the same in the call and in the answer.
fn safe_id(id: &str) -> String {
    let safe = |c: char| {
        if c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | ':' | '-') { c } else { '_' }
    };
    if id.is_empty() {
        return "_".to_owned();
    }
    if id.chars().count() <= ID_CHARS_MAX {
        return id.chars().map(safe).collect();
    }
    let mut short: String = id.chars().map(safe).take(40).collect();
    short.push('-');
    for byte in &Sha256::digest(id.as_bytes())[..11] {
        let _ = write!(short, "{byte:02x}");
    }
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_made_safe() {
        assert_eq!(safe_id("call_A-1"), "call_A-1");
        assert_eq!(safe_id("call/1/é"), "call_1__");
        assert_eq!(safe_id(""), "_");
        let (long, other) = ("x".repeat(65), format!("{}y", "x".repeat(65)));
        assert_eq!(safe_id(&long).len(), 63);
        assert_ne!(safe_id(&long), safe_id(&other));
    }
}
