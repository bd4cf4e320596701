//! The conversation: OpenAI's messages as Anthropic's system prompt and alternating turns.

use serde_json::{Map, Value, json};
use tollway_wire::anthropic::{Role, Turn};
use tollway_wire::openai::request::{Content, FilePart, ImageUrl, Message, Part, ToolCall};

use crate::RequestError;
use crate::media::{is_url, parse_data_url};
use crate::messages::{
    arguments, check_calls, file_of, invalid, not_base64, parts, take_text, tool_call_id, trim_end,
    unknown_part, unknown_role, without_data, without_image,
};

use super::media::{base64_block, document_source, image, image_type};

/// What stands where Anthropic demands text and the client has none: it refuses empty text blocks,
/// an empty conversation, and one that begins with the assistant.
const PLACEHOLDER: &str = ".";

/// A conversation as Anthropic takes it.
#[derive(Debug, Default)]
pub(super) struct Conversation {
    /// The blocks of the system prompt.
    pub(super) system: Vec<Value>,
    /// The turns, which alternate and begin with the user's.
    pub(super) turns: Vec<Turn>,
    /// A file is named that was uploaded before, which is still a beta.
    pub(super) has_uploaded_file: bool,
    /// There are calls or answers of tools.
    pub(super) has_tool_blocks: bool,
    /// The assistant's last turn called tools and its thinking was not handed back.
    pub(super) lacks_thinking: bool,
}

/// Translates a conversation.
pub(super) fn conversation(messages: Vec<Message>) -> Result<Conversation, RequestError> {
    let mut all = Conversation::default();
    for (at, message) in messages.into_iter().enumerate() {
        match message.role.as_str() {
            "system" | "developer" => all.add_system(message),
            "user" => {
                let blocks = all.user_blocks(at, message.content, message.cache_control)?;
                all.add_turn(Role::User, blocks);
            }
            "assistant" => {
                let blocks = all.assistant_blocks(at, message)?;
                all.add_turn(Role::Assistant, blocks);
            }
            "tool" => {
                let block = all.tool_result(at, message)?;
                all.add_turn(Role::User, vec![block]);
            }
            role => return Err(unknown_role(at, role)),
        }
    }
    all.finish();
    Ok(all)
}

impl Conversation {
    /// Anthropic takes the system prompt apart from the turns, so instructions that come later in
    /// the conversation move to its front, as LiteLLM moves them.
    fn add_system(&mut self, message: Message) {
        let before = self.system.len();
        for part in parts(message.content) {
            self.system.extend(text_block(part.text.unwrap_or_default(), part.cache_control));
        }
        if self.system.len() > before {
            mark_last(&mut self.system, message.cache_control);
        }
    }

    fn add_turn(&mut self, role: Role, blocks: Vec<Value>) {
        if blocks.is_empty() {
            return;
        }
        // Anthropic wants turns that alternate, and all answers to one turn's tool calls together.
        match self.turns.last_mut() {
            Some(last) if last.role == role => last.content.extend(blocks),
            _ => self.turns.push(Turn { role, content: blocks }),
        }
    }

    fn user_blocks(
        &mut self,
        at: usize,
        content: Option<Content>,
        cache_control: Option<Value>,
    ) -> Result<Vec<Value>, RequestError> {
        let mut blocks = match content {
            None => Vec::new(),
            Some(Content::Text(text)) => text_block(text, None).into_iter().collect(),
            Some(Content::Parts(parts)) => {
                let mut blocks = Vec::with_capacity(parts.len());
                for part in parts {
                    blocks.extend(self.part(at, part)?);
                }
                blocks
            }
        };
        mark_last(&mut blocks, cache_control);
        Ok(blocks)
    }

    fn assistant_blocks(
        &mut self,
        at: usize,
        message: Message,
    ) -> Result<Vec<Value>, RequestError> {
        // Thinking comes first and exactly as it was signed.
        let thinking = message.thinking_blocks.unwrap_or_default();
        let mut blocks: Vec<Value> = thinking.into_iter().filter(is_signed).collect();
        let has_thinking = !blocks.is_empty();
        match message.content {
            None => {}
            Some(Content::Text(text)) => blocks.extend(text_block(text, None)),
            Some(Content::Parts(parts)) => {
                for part in parts {
                    blocks.extend(self.part(at, part)?);
                }
            }
        }
        check_calls(at, &message.extra)?;
        let calls = message.tool_calls.unwrap_or_default();
        let has_calls = !calls.is_empty();
        for call in calls {
            blocks.push(tool_use(call));
        }
        self.has_tool_blocks |= has_calls;
        self.lacks_thinking = has_calls && !has_thinking;
        mark_last(&mut blocks, message.cache_control);
        Ok(blocks)
    }

    fn tool_result(&mut self, at: usize, message: Message) -> Result<Value, RequestError> {
        let id = tool_call_id(at, message.tool_call_id)?;
        self.has_tool_blocks = true;
        let mut block = json!({"type": "tool_result", "tool_use_id": safe_id(&id)});
        let mut cache_control = message.cache_control;
        match message.content {
            None => {}
            // An answer may be empty, but an empty text block may not.
            Some(Content::Text(text)) if text.trim().is_empty() => {}
            Some(Content::Text(text)) => block["content"] = text.into(),
            Some(Content::Parts(parts)) => {
                let mut inner = Vec::with_capacity(parts.len());
                for mut part in parts {
                    // What is inside a result cannot be marked; the result can.
                    cache_control = part.cache_control.take().or(cache_control);
                    inner.extend(self.part(at, part)?);
                }
                if !inner.is_empty() {
                    block["content"] = inner.into();
                }
            }
        }
        if message.extra.get("is_error") == Some(&Value::Bool(true)) {
            block["is_error"] = true.into();
        }
        if let Some(cache_control) = cache_control {
            block["cache_control"] = cache_control;
        }
        Ok(block)
    }

    /// Translates one content part; `None` where it is empty.
    fn part(&mut self, at: usize, mut part: Part) -> Result<Option<Value>, RequestError> {
        let cache_control = part.cache_control.clone();
        if let Some(text) = take_text(&mut part) {
            return Ok(text_block(text, cache_control));
        }
        let mut block = match part.kind.as_str() {
            "image_url" => match part.image_url {
                Some(ImageUrl::Url(url)) => image(at, url, None)?,
                Some(ImageUrl::Object { url, format, .. }) => image(at, url, format)?,
                None => return Err(without_image(at)),
            },
            "file" => {
                let file = file_of(at, part.file)?;
                self.file(at, file, &part.extra)?
            }
            "input_audio" | "video_url" => {
                let kind = part.kind;
                return Err(invalid(at, format_args!("anthropic does not take `{kind}` parts")));
            }
            // Anthropic's own blocks, which clients that know of it send as they are.
            kind if is_anthropic_block(kind) => {
                let source = part.extra.get("source").and_then(|source| source.get("type"));
                self.has_uploaded_file |= source.is_some_and(|kind| kind == "file");
                let block = serde_json::to_value(part);
                return Ok(Some(block.map_err(|error| invalid(at, error))?));
            }
            kind => return Err(unknown_part(at, kind)),
        };
        if let Some(cache_control) = cache_control {
            block["cache_control"] = cache_control;
        }
        Ok(Some(block))
    }

    fn file(
        &mut self,
        at: usize,
        file: FilePart,
        extra: &Map<String, Value>,
    ) -> Result<Value, RequestError> {
        let source = match (file.file_data, file.file_id) {
            (Some(data), _) => match parse_data_url(&data) {
                Some((media_type, data)) => {
                    if media_type.starts_with("image/") {
                        return Ok(base64_block("image", &image_type(media_type), data));
                    }
                    document_source(at, media_type, data)?
                }
                None if data.starts_with("data:") => {
                    return Err(not_base64(at));
                }
                // Bare base64, which OpenAI refuses and LiteLLM takes.
                None => {
                    document_source(at, file.format.as_deref().unwrap_or("application/pdf"), &data)?
                }
            },
            (None, Some(id)) if is_url(&id) => {
                if file.format.as_deref().is_some_and(|format| format.starts_with("image/")) {
                    return Ok(json!({"type": "image", "source": {"type": "url", "url": id}}));
                }
                json!({"type": "url", "url": id})
            }
            (None, Some(id)) => {
                self.has_uploaded_file = true;
                if file.format.as_deref().is_some_and(|format| format.starts_with("image/")) {
                    return Ok(json!({"type": "image", "source": {"type": "file", "file_id": id}}));
                }
                json!({"type": "file", "file_id": id})
            }
            (None, None) => {
                return Err(without_data(at));
            }
        };
        let mut block = json!({"type": "document", "source": source});
        if let Some(name) = file.filename.filter(|name| !name.is_empty()) {
            block["title"] = name.into();
        }
        for member in ["citations", "context", "title"] {
            let value = file.extra.get(member).or_else(|| extra.get(member));
            if let Some(value) = value.filter(|value| !value.is_null()) {
                block[member] = value.clone();
            }
        }
        Ok(block)
    }

    fn finish(&mut self) {
        // Text that ends in white space is refused where the assistant is to go on with it.
        if let Some(last) = self.turns.last_mut().filter(|turn| turn.role == Role::Assistant)
            && let Some(block) = last.content.last_mut()
        {
            trim_end(block);
        }
        if self.turns.first().is_none_or(|turn| turn.role == Role::Assistant) {
            let content = vec![json!({"type": "text", "text": PLACEHOLDER})];
            self.turns.insert(0, Turn { role: Role::User, content });
        }
    }
}

/// A text block; `None` for text Anthropic would refuse as empty.
fn text_block(text: String, cache_control: Option<Value>) -> Option<Value> {
    if text.trim().is_empty() {
        return None;
    }
    let mut block = json!({"type": "text"});
    block["text"] = text.into();
    if let Some(cache_control) = cache_control {
        block["cache_control"] = cache_control;
    }
    Some(block)
}

/// Puts a turn's cache mark on its last block, but never on thinking, which cannot carry one.
fn mark_last(blocks: &mut [Value], cache_control: Option<Value>) {
    if let (Some(mark), Some(last)) = (cache_control, blocks.last_mut())
        && !last["type"].as_str().unwrap_or_default().ends_with("thinking")
    {
        last["cache_control"] = mark;
    }
}

/// Whether a thinking block is one Anthropic takes back: its own, with the signature.
fn is_signed(block: &Value) -> bool {
    let has = |member: &str| block[member].as_str().is_some_and(|text| !text.is_empty());
    match block["type"].as_str() {
        Some("thinking") => has("signature"),
        Some("redacted_thinking") => has("data"),
        _ => false,
    }
}

fn is_anthropic_block(kind: &str) -> bool {
    matches!(
        kind,
        "image"
            | "document"
            | "search_result"
            | "container_upload"
            | "thinking"
            | "redacted_thinking"
            | "compaction"
            | "tool_use"
            | "server_tool_use"
            | "tool_reference"
            | "mcp_tool_use"
    ) || kind.ends_with("tool_result")
}

fn tool_use(call: ToolCall) -> Value {
    let input = arguments(&call.function.arguments);
    let mut block = json!({"type": "tool_use", "id": safe_id(&call.id)});
    block["name"] = call.function.name.into();
    block["input"] = input;
    if let Some(mark) = call.extra.get("cache_control").filter(|mark| !mark.is_null()) {
        block["cache_control"] = mark.clone();
    }
    block
}

/// A tool call's id as Anthropic takes it: letters, digits, `_` and `-`. Other providers' ids,
/// which a conversation brings along after a fallback, have more.
fn safe_id(id: &str) -> String {
    let safe = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '_' | '-') { c } else { '_' };
    if id.is_empty() { "_".to_owned() } else { id.chars().map(safe).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_made_safe() {
        assert_eq!(safe_id("call_A-1"), "call_A-1");
        assert_eq!(safe_id("call:1/é"), "call_1__");
        assert_eq!(safe_id(""), "_");
    }
}
