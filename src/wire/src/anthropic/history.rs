//! The conversation: Anthropic's system prompt and turns as OpenAI's messages.

use serde_json::{Map, Value, json};

use super::names;
use crate::client::Invalid;
use crate::openai::request::{Content, FilePart, FunctionCall, ImageUrl, Message, Part, ToolCall};
use crate::thought;

/// Claude Code's first system block, which is for Anthropic's accounting. It changes with every
/// request, so that a prompt cache behind it would never hit (seen in its traffic, 2026-11).
const BILLING: &str = "x-anthropic-billing-header:";

/// Where a block is, for the error message, which names it as Anthropic's do: by a path with dots.
#[derive(Clone, Copy)]
struct At {
    turn: usize,
    block: usize,
}

impl At {
    fn invalid(self, what: impl std::fmt::Display) -> Invalid {
        let param = format!("messages.{}.content.{}", self.turn, self.block);
        Invalid::new(format!("{param}: {what}")).with_param(param)
    }

    /// Takes out a member of the block that must be text.
    fn text(self, block: &mut Map<String, Value>, name: &str) -> Result<String, Invalid> {
        let what = match block.remove(name) {
            Some(Value::String(text)) => return Ok(text),
            None | Some(Value::Null) => "Field required",
            Some(_) => "Input should be a valid string",
        };
        let param = format!("messages.{}.content.{}.{name}", self.turn, self.block);
        Err(Invalid::new(format!("{param}: {what}")).with_param(param))
    }
}

/// Translates a conversation.
pub(super) fn messages(system: Option<Value>, turns: Vec<Value>) -> Result<Vec<Message>, Invalid> {
    let mut all = Vec::with_capacity(turns.len() + 1);
    if let Some(system) = system {
        all.extend(system_message(system, "system")?);
    }
    for (at, turn) in turns.into_iter().enumerate() {
        let param = format!("messages.{at}");
        let fault = |what: &str| Invalid::new(format!("{param}: {what}")).with_param(&param);
        let Value::Object(mut turn) = turn else { return Err(fault("a turn is an object")) };
        let content = turn.remove("content").unwrap_or_default();
        match turn.get("role").and_then(Value::as_str) {
            Some("user") => user(at, blocks(at, content)?, &mut all)?,
            Some("assistant") => all.extend(assistant(at, blocks(at, content)?)?),
            // Instructions in the middle of the conversation, which some models take.
            Some("system") => all.extend(system_message(content, &param)?),
            _ => return Err(fault("role is none of user, assistant and system")),
        }
    }
    Ok(all)
}

/// A turn's blocks. A string is short for one text block.
fn blocks(turn: usize, content: Value) -> Result<Vec<Map<String, Value>>, Invalid> {
    let blocks = match content {
        Value::String(text) => vec![json!({"type": "text", "text": text})],
        Value::Array(blocks) => blocks,
        Value::Null => Vec::new(),
        _ => {
            let param = format!("messages.{turn}.content");
            let message = format!("{param}: Input should be a valid string or list");
            return Err(Invalid::new(message).with_param(param));
        }
    };
    blocks
        .into_iter()
        .enumerate()
        .map(|(block, value)| match value {
            Value::Object(map) => Ok(map),
            _ => Err(At { turn, block }.invalid("a block is an object")),
        })
        .collect()
}

fn system_message(system: Value, param: &str) -> Result<Option<Message>, Invalid> {
    let fault = || Invalid::new(format!("{param}: is neither text nor text blocks"));
    let blocks = match system {
        Value::String(text) => vec![json!({"type": "text", "text": text})],
        Value::Array(blocks) => blocks,
        _ => return Err(fault().with_param(param)),
    };
    let mut parts = Vec::with_capacity(blocks.len());
    for block in blocks {
        let Value::Object(mut block) = block else { return Err(fault().with_param(param)) };
        let Some(text) = take_text(&mut block, "text") else {
            return Err(fault().with_param(param));
        };
        if !text.trim().is_empty() && !text.starts_with(BILLING) {
            parts.push(text_part(text, block.remove("cache_control")));
        }
    }
    Ok(plain(parts).map(|content| Message {
        role: "system".into(),
        content: Some(content),
        ..Message::default()
    }))
}

fn user(
    turn: usize,
    blocks: Vec<Map<String, Value>>,
    all: &mut Vec<Message>,
) -> Result<(), Invalid> {
    let mut parts = Vec::with_capacity(blocks.len());
    for (block, mut map) in blocks.into_iter().enumerate() {
        let at = At { turn, block };
        // OpenAI wants the answers right behind the calls, before what else the user says.
        if map.get("type").is_some_and(|kind| kind == "tool_result") {
            all.push(tool_result(at, &mut map)?);
        } else {
            add_part(at, map, &mut parts)?;
        }
    }
    if let Some(content) = plain(parts) {
        all.push(Message { role: "user".into(), content: Some(content), ..Message::default() });
    }
    Ok(())
}

fn tool_result(at: At, block: &mut Map<String, Value>) -> Result<Message, Invalid> {
    let id = at.text(block, "tool_use_id")?;
    let mut parts = Vec::new();
    match block.remove("content") {
        None | Some(Value::Null) => {}
        Some(Value::String(text)) => parts.push(text_part(text, None)),
        Some(Value::Array(inner)) => {
            for value in inner {
                match value {
                    Value::Object(map) => add_part(at, map, &mut parts)?,
                    _ => return Err(at.invalid("a block is an object")),
                }
            }
        }
        Some(_) => return Err(at.invalid("content is a string or a list of blocks")),
    }
    let mut message = Message {
        role: "tool".into(),
        content: Some(plain(parts).unwrap_or_else(|| Content::Text(String::new()))),
        tool_call_id: Some(thought::split(&id).0.to_owned()),
        cache_control: mark(block.remove("cache_control")),
        ..Message::default()
    };
    if block.get("is_error") == Some(&Value::Bool(true)) {
        message.extra.insert("is_error".into(), true.into());
    }
    Ok(message)
}

fn assistant(turn: usize, blocks: Vec<Map<String, Value>>) -> Result<Option<Message>, Invalid> {
    let mut message = Message { role: "assistant".into(), ..Message::default() };
    let mut parts = Vec::new();
    let mut thinking_blocks = Vec::new();
    let mut calls = Vec::new();
    for (block, mut map) in blocks.into_iter().enumerate() {
        let at = At { turn, block };
        match map.get("type").and_then(Value::as_str).unwrap_or_default() {
            "thinking" => {
                let thinking = take_text(&mut map, "thinking").unwrap_or_default();
                if !thinking.is_empty() {
                    message.reasoning_content.get_or_insert_default().push_str(&thinking);
                }
                // Without a signature it is what this gateway made of another provider's reasoning:
                // nothing to be checked by anybody.
                let signature = take_text(&mut map, "signature").unwrap_or_default();
                if !signature.is_empty() {
                    thinking_blocks.push(json!({
                        "type": "thinking", "thinking": thinking, "signature": signature,
                    }));
                }
            }
            "redacted_thinking" => {
                let data = map.remove("data").unwrap_or_default();
                thinking_blocks.push(json!({"type": "redacted_thinking", "data": data}));
            }
            "tool_use" => calls.push(tool_use(at, &mut map)?),
            _ => add_part(at, map, &mut parts)?,
        }
    }
    let content = plain(parts);
    if content.is_none() && calls.is_empty() && thinking_blocks.is_empty() {
        return Ok(None);
    }
    // OpenAI takes no content only beside calls.
    message.content = content.or_else(|| calls.is_empty().then(|| Content::Text(String::new())));
    message.thinking_blocks = (!thinking_blocks.is_empty()).then_some(thinking_blocks);
    message.tool_calls = (!calls.is_empty()).then_some(calls);
    Ok(Some(message))
}

fn tool_use(at: At, block: &mut Map<String, Value>) -> Result<ToolCall, Invalid> {
    let (id, name) = (at.text(block, "id")?, at.text(block, "name")?);
    let arguments = match block.remove("input") {
        None | Some(Value::Null) => "{}".to_owned(),
        Some(input) => input.to_string(),
    };
    let (id, signature) = thought::split(&id);
    let mut call = ToolCall {
        id: id.to_owned(),
        kind: "function".into(),
        function: FunctionCall { name: names::short(&name).into_owned(), arguments },
        extra: Map::new(),
    };
    if let Some(signature) = signature {
        let google = json!({"google": {"thought_signature": signature}});
        call.extra.insert("extra_content".into(), google);
    }
    if let Some(mark) = mark(block.remove("cache_control")) {
        call.extra.insert("cache_control".into(), mark);
    }
    Ok(call)
}

/// Translates one block into content parts: none where it says nothing, several where a document
/// is made of blocks.
fn add_part(at: At, mut block: Map<String, Value>, parts: &mut Vec<Part>) -> Result<(), Invalid> {
    let cache_control = mark(block.remove("cache_control"));
    let kind = at.text(&mut block, "type")?;
    let before = parts.len();
    match kind.as_str() {
        "text" => {
            let text = at.text(&mut block, "text")?;
            if !text.is_empty() {
                parts.push(text_part(text, None));
            }
        }
        "image" => parts.push(image(at, &mut block)?),
        "document" => document(at, &mut block, parts)?,
        "search_result" => parts.push(text_part(search_result(&block), None)),
        "tool_reference" => {
            let name = take_text(&mut block, "tool_name").unwrap_or_default();
            parts.push(text_part(format!("Tool found: {name}"), None));
        }
        // What Anthropic's own tools were asked shows in what they found.
        "server_tool_use" | "mcp_tool_use" => {}
        "web_search_tool_result" => {
            parts.extend(found(&block).map(|text| text_part(text, None)));
        }
        kind if kind.ends_with("_tool_result") => {
            if let Some(content) = block.remove("content") {
                parts.push(text_part(told(content), None));
            }
        }
        // The summary that stands for the turns before it.
        "compaction" => {
            let summary = take_text(&mut block, "content").filter(|text| !text.is_empty());
            parts.extend(summary.map(|text| text_part(text, None)));
        }
        kind => return Err(at.invalid(format_args!("`{kind}` blocks are not for this model"))),
    }
    if let Some(last) = parts[before..].last_mut() {
        last.cache_control = cache_control;
    }
    Ok(())
}

fn image(at: At, block: &mut Map<String, Value>) -> Result<Part, Invalid> {
    let Some(Value::Object(mut source)) = block.remove("source") else {
        return Err(at.invalid("source: Field required"));
    };
    let missing = |member: &str| at.invalid(format_args!("source.{member}: Field required"));
    let url = match source.get("type").and_then(Value::as_str) {
        Some("base64") => data_url(&mut source, "image/png").ok_or_else(|| missing("data"))?,
        Some("url") => take_text(&mut source, "url").ok_or_else(|| missing("url"))?,
        Some("file") => {
            let id = take_text(&mut source, "file_id").ok_or_else(|| missing("file_id"))?;
            // OpenAI's form has one kind of part for all uploaded files.
            let file = FilePart {
                file_id: Some(id),
                format: Some("image/*".into()),
                ..FilePart::default()
            };
            return Ok(Part { kind: "file".into(), file: Some(file), ..Part::default() });
        }
        _ => return Err(at.invalid("source.type is none of base64, url and file")),
    };
    let image_url = ImageUrl::Object { url, format: None, extra: Map::new() };
    Ok(Part { kind: "image_url".into(), image_url: Some(image_url), ..Part::default() })
}

fn document(at: At, block: &mut Map<String, Value>, parts: &mut Vec<Part>) -> Result<(), Invalid> {
    let Some(Value::Object(mut source)) = block.remove("source") else {
        return Err(at.invalid("source: Field required"));
    };
    let missing = |member: &str| at.invalid(format_args!("source.{member}: Field required"));
    let title = take_text(block, "title").filter(|title| !title.is_empty());
    let mut file = FilePart::default();
    match source.get("type").and_then(Value::as_str) {
        Some("base64") => {
            let data = data_url(&mut source, "application/pdf").ok_or_else(|| missing("data"))?;
            file.file_data = Some(data);
            // OpenAI wants a name beside the data.
            file.filename = Some(title.unwrap_or_else(|| "document.pdf".into()));
        }
        Some("url") => {
            file.file_id = Some(take_text(&mut source, "url").ok_or_else(|| missing("url"))?);
            file.filename = title;
        }
        Some("file") => {
            let id = take_text(&mut source, "file_id").ok_or_else(|| missing("file_id"))?;
            file.file_id = Some(id);
            file.filename = title;
        }
        // Text needs no file: every model takes it as it is.
        Some("text") => {
            let data = take_text(&mut source, "data").ok_or_else(|| missing("data"))?;
            let context = take_text(block, "context").filter(|context| !context.is_empty());
            let head = [title, context].into_iter().flatten();
            let text: Vec<String> = head.chain([data]).collect();
            parts.push(text_part(text.join("\n\n"), None));
            return Ok(());
        }
        Some("content") => {
            parts.extend(title.map(|title| text_part(title, None)));
            match source.remove("content") {
                Some(Value::String(text)) => parts.push(text_part(text, None)),
                Some(Value::Array(inner)) => {
                    for value in inner {
                        match value {
                            Value::Object(mut map) if map.get("type") == Some(&"image".into()) => {
                                parts.push(image(at, &mut map)?);
                            }
                            Value::Object(mut map) => {
                                let text = take_text(&mut map, "text");
                                parts.extend(text.map(|text| text_part(text, None)));
                            }
                            _ => return Err(at.invalid("a block is an object")),
                        }
                    }
                }
                _ => return Err(missing("content")),
            }
            return Ok(());
        }
        _ => return Err(at.invalid("source.type is none of base64, text, url, file and content")),
    }
    if let Some(context) = block.remove("context").filter(Value::is_string) {
        file.extra.insert("context".into(), context);
    }
    if let Some(citations) = block.remove("citations").filter(|asked| asked["enabled"] == true) {
        file.extra.insert("citations".into(), citations);
    }
    parts.push(Part { kind: "file".into(), file: Some(file), ..Part::default() });
    Ok(())
}

/// A source's content in place, as a data URL.
fn data_url(source: &mut Map<String, Value>, otherwise: &str) -> Option<String> {
    let data = take_text(source, "data")?;
    let media_type = take_text(source, "media_type");
    Some(format!("data:{};base64,{data}", media_type.as_deref().unwrap_or(otherwise)))
}

/// A search result of the client's own, in words.
fn search_result(block: &Map<String, Value>) -> String {
    let member = |name: &str| block.get(name).and_then(Value::as_str).unwrap_or_default();
    let mut text = format!("{}\n{}", member("title"), member("source"));
    for inner in block.get("content").and_then(Value::as_array).into_iter().flatten() {
        if let Some(inner) = inner.get("text").and_then(Value::as_str) {
            text.push_str("\n\n");
            text.push_str(inner);
        }
    }
    text
}

/// What Anthropic's search found, as a list: its text is encrypted and for Anthropic alone.
fn found(block: &Map<String, Value>) -> Option<String> {
    let mut text = String::from("Web search results:");
    let mut any = false;
    for result in block.get("content")?.as_array()? {
        let member = |name: &str| result.get(name).and_then(Value::as_str).unwrap_or_default();
        text.push_str(&format!("\n- {} ({})", member("title"), member("url")));
        any = true;
    }
    any.then_some(text)
}

/// What another of Anthropic's own tools answered: its text, or the JSON it is.
fn told(content: Value) -> String {
    match content {
        Value::String(text) => text,
        Value::Array(blocks) if blocks.iter().all(|block| block["text"].is_string()) => {
            blocks.iter().filter_map(|block| block["text"].as_str()).collect()
        }
        content => content.to_string(),
    }
}

fn take_text(map: &mut Map<String, Value>, member: &str) -> Option<String> {
    match map.remove(member) {
        Some(Value::String(text)) => Some(text),
        _ => None,
    }
}

fn mark(cache_control: Option<Value>) -> Option<Value> {
    cache_control.filter(Value::is_object)
}

fn text_part(text: String, cache_control: Option<Value>) -> Part {
    Part {
        kind: "text".into(),
        text: Some(text),
        cache_control: mark(cache_control),
        ..Part::default()
    }
}

/// One unmarked text as the string it is; `None` where there is nothing at all.
fn plain(mut parts: Vec<Part>) -> Option<Content> {
    let is_plain = |part: &Part| part.kind == "text" && part.cache_control.is_none();
    if parts.len() == 1 && is_plain(&parts[0]) {
        return parts.pop()?.text.map(Content::Text);
    }
    (!parts.is_empty()).then_some(Content::Parts(parts))
}
