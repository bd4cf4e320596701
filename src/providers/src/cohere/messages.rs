//! The conversation: OpenAI's messages as Cohere's, which are much alike.

use serde_json::{Map, Value, json};
use tollway_wire::openai::request::{Content, FilePart, ImageUrl, Message, Part};

use crate::RequestError;
use crate::media::{parse_data_url, text_of_base64};
use crate::messages::{
    check_calls, file_of, invalid, take_text, tool_call_id, unknown_role, without_image,
};

/// A conversation as Cohere takes it.
#[derive(Debug, Default)]
pub(super) struct Conversation {
    /// The turns, the system's among them.
    pub(super) messages: Vec<Value>,
    /// The texts of the user's files, which Cohere takes beside the conversation and cites.
    pub(super) documents: Vec<Value>,
}

/// Translates a conversation. `thinks` says whether the model takes its own thinking back.
pub(super) fn conversation(
    messages: Vec<Message>,
    thinks: bool,
) -> Result<Conversation, RequestError> {
    let mut all = Conversation::default();
    for (at, message) in messages.into_iter().enumerate() {
        let written = match message.role.as_str() {
            "system" | "developer" => {
                let content = all.content(at, message.content.unwrap_or_else(empty))?;
                json!({"role": "system", "content": content})
            }
            "user" => {
                let content = all.content(at, message.content.unwrap_or_else(empty))?;
                json!({"role": "user", "content": content})
            }
            "assistant" => assistant(at, message, thinks)?,
            "tool" => tool_result(at, message)?,
            role => return Err(unknown_role(at, role)),
        };
        all.messages.push(written);
    }
    Ok(all)
}

fn empty() -> Content {
    Content::Text(String::new())
}

impl Conversation {
    /// Text stays a string; parts are translated one by one.
    fn content(&mut self, at: usize, content: Content) -> Result<Value, RequestError> {
        let parts = match content {
            Content::Text(text) => return Ok(text.into()),
            Content::Parts(parts) => parts,
        };
        let mut written = Vec::with_capacity(parts.len());
        for part in parts {
            match part.kind.as_str() {
                "image_url" => written.push(image(at, part)?),
                "file" => self.documents.push(document(at, part.file)?),
                _ => written.push(json!({"type": "text", "text": text(at, part)?})),
            }
        }
        // A turn that was nothing but files still needs a content.
        Ok(if written.is_empty() { "".into() } else { written.into() })
    }
}

/// The text of a part, if it is one of text.
fn text(at: usize, mut part: Part) -> Result<String, RequestError> {
    take_text(&mut part)
        .ok_or_else(|| invalid(at, format_args!("cohere does not take `{}` parts here", part.kind)))
}

/// Cohere takes data URLs and http URLs, as OpenAI does.
fn image(at: usize, part: Part) -> Result<Value, RequestError> {
    let (url, detail) = match part.image_url {
        Some(ImageUrl::Url(url)) => (url, None),
        Some(ImageUrl::Object { url, mut extra, .. }) => (url, extra.shift_remove("detail")),
        None => return Err(without_image(at)),
    };
    let mut image = json!({"url": url});
    if let Some(detail @ Value::String(_)) = detail {
        image["detail"] = detail;
    }
    Ok(json!({"type": "image_url", "image_url": image}))
}

/// A file's text as one of Cohere's documents.
fn document(at: usize, file: Option<FilePart>) -> Result<Value, RequestError> {
    let file = file_of(at, file)?;
    let data = file.file_data.as_deref().and_then(parse_data_url);
    let is_text = |kind: &str| kind.starts_with("text/") || kind == "application/json";
    let Some((_, data)) = data.filter(|(kind, _)| is_text(kind)) else {
        return Err(invalid(at, "cohere takes only files of text, as base64 data URLs"));
    };
    let text = text_of_base64(at, data)?;
    let mut members = Map::new();
    if let Some(name) = file.filename.filter(|name| !name.is_empty()) {
        members.insert("title".into(), name.into());
    }
    members.insert("text".into(), text.into());
    Ok(json!({"data": members}))
}

/// The assistant's turn. What it said beside its tool calls goes into `tool_plan`, where Cohere's
/// models wrote it; what it thought goes there too where the model has no other place for it.
fn assistant(at: usize, message: Message, thinks: bool) -> Result<Value, RequestError> {
    check_calls(at, &message.extra)?;
    let mut thinking = message.reasoning_content.clone().unwrap_or_default();
    if thinking.is_empty() {
        let blocks = message.thinking_blocks.iter().flatten();
        thinking = blocks.filter_map(|block| block.get("thinking")?.as_str()).collect();
    }
    let mut said = String::new();
    match message.content {
        None => {}
        Some(Content::Text(text)) => said = text,
        Some(Content::Parts(parts)) => {
            for part in parts {
                // Anthropic's own blocks, which clients that know of them keep in the content.
                if part.kind != "thinking" && part.kind != "redacted_thinking" {
                    said.push_str(&text(at, part)?);
                }
            }
        }
    }
    let calls: Vec<Value> = message
        .tool_calls
        .unwrap_or_default()
        .into_iter()
        .map(|call| {
            let function = call.function;
            // No arguments at all are not JSON, and Cohere reads them as JSON.
            let arguments =
                if function.arguments.trim().is_empty() { "{}".into() } else { function.arguments };
            json!({"id": call.id, "type": "function",
                "function": {"name": function.name, "arguments": arguments}})
        })
        .collect();
    let mut written = json!({"role": "assistant"});
    if !calls.is_empty() {
        written["tool_calls"] = calls.into();
        let plan = if thinks || thinking.is_empty() {
            std::mem::take(&mut said)
        } else {
            std::mem::take(&mut thinking)
        };
        if !plan.is_empty() {
            written["tool_plan"] = plan.into();
        }
    } else if said.is_empty() {
        // A turn cannot be empty.
        written["content"] = "".into();
    }
    if thinks && !thinking.is_empty() {
        let mut content = vec![json!({"type": "thinking", "thinking": thinking})];
        if !said.is_empty() {
            content.push(json!({"type": "text", "text": said}));
        }
        written["content"] = content.into();
    } else if !said.is_empty() {
        written["content"] = said.into();
    }
    Ok(written)
}

fn tool_result(at: usize, message: Message) -> Result<Value, RequestError> {
    let id = tool_call_id(at, message.tool_call_id)?;
    let content = match message.content.unwrap_or_else(empty) {
        Content::Text(text) => text.into(),
        Content::Parts(parts) => {
            let mut written = Vec::with_capacity(parts.len());
            for mut part in parts {
                written.push(match part.extra.shift_remove("document") {
                    // Cohere's own form, with what it can cite.
                    Some(document) if part.kind == "document" => {
                        json!({"type": "document", "document": document})
                    }
                    _ => json!({"type": "text", "text": text(at, part)?}),
                });
            }
            Value::Array(written)
        }
    };
    Ok(json!({"role": "tool", "tool_call_id": id, "content": content}))
}
