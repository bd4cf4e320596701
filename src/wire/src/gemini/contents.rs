//! The conversation: Google's contents as OpenAI's messages.

use std::collections::VecDeque;

use serde_json::{Map, Value, json};

use super::{invalid, take, take_text};
use crate::client::Invalid;
use crate::openai::request::{Content, FilePart, FunctionCall, ImageUrl, Message, Part, ToolCall};

/// Translates the system instruction: a content, or what the SDKs make one of.
pub(super) fn system(instruction: Value) -> Result<Option<Message>, Invalid> {
    const PARAM: &str = "systemInstruction";
    let parts = match instruction {
        Value::String(text) => vec![json!({"text": text})],
        Value::Object(mut content) => match take(&mut content, "parts") {
            Some(parts) => list(parts),
            None => vec![Value::Object(content)],
        },
        Value::Array(parts) => parts,
        _ => return Err(invalid(PARAM, "is not a content")),
    };
    let mut texts = Vec::with_capacity(parts.len());
    for part in parts {
        let text = part.get("text").and_then(Value::as_str);
        let text = text.ok_or_else(|| invalid(PARAM, "has a part that is not text"))?;
        if !text.is_empty() {
            texts.push(text_part(text.to_owned()));
        }
    }
    Ok(plain(texts).map(|content| Message {
        role: "system".into(),
        content: Some(content),
        ..Message::default()
    }))
}

/// A list, or what stands for a list of one.
fn list(value: Value) -> Vec<Value> {
    match value {
        Value::Array(list) => list,
        value => vec![value],
    }
}

/// Translates the contents.
pub(super) fn messages(contents: Value, all: &mut Vec<Message>) -> Result<(), Invalid> {
    // The calls that have no answer yet: their ids and names.
    let mut open = VecDeque::new();
    for (at, content) in list(contents).into_iter().enumerate() {
        let param = format!("contents[{at}]");
        let (role, parts) = match content {
            Value::String(text) => (None, vec![json!({"text": text})]),
            Value::Object(mut content) => {
                let role = take_text(&mut content, "role");
                (role, take(&mut content, "parts").map(list).unwrap_or_default())
            }
            _ => return Err(invalid(&param, "is not a content")),
        };
        match role.as_deref() {
            Some("model" | "assistant") => model(at, parts, &mut open, all)?,
            None | Some("user" | "function" | "tool" | "") => user(at, parts, &mut open, all)?,
            Some("system") => all.extend(system(Value::Array(parts))?),
            Some(role) => {
                return Err(invalid(
                    &param,
                    format_args!("role `{role}` is none of user and model"),
                ));
            }
        }
    }
    Ok(())
}

type Open = VecDeque<(String, String)>;

fn user(
    turn: usize,
    parts: Vec<Value>,
    open: &mut Open,
    all: &mut Vec<Message>,
) -> Result<(), Invalid> {
    let mut translated = Vec::with_capacity(parts.len());
    for (at, part) in parts.into_iter().enumerate() {
        let param = format!("contents[{turn}].parts[{at}]");
        let mut part = object(part, &param)?;
        match take(&mut part, "functionResponse") {
            // OpenAI wants the answers right behind the calls.
            Some(Value::Object(answer)) => all.push(function_response(&param, answer, open)?),
            Some(_) => return Err(invalid(&param, "functionResponse is not an object")),
            None => translated.extend(content_part(&param, &mut part)?),
        }
    }
    if let Some(content) = plain(translated) {
        all.push(Message { role: "user".into(), content: Some(content), ..Message::default() });
    }
    Ok(())
}

fn object(part: Value, param: &str) -> Result<Map<String, Value>, Invalid> {
    match part {
        Value::Object(part) => Ok(part),
        Value::String(text) => Ok(Map::from_iter([("text".to_owned(), text.into())])),
        _ => Err(invalid(param, "is not a part")),
    }
}

fn function_response(
    param: &str,
    mut answer: Map<String, Value>,
    open: &mut Open,
) -> Result<Message, Invalid> {
    let name = take_text(&mut answer, "name").unwrap_or_default();
    let id = take_text(&mut answer, "id").filter(|id| !id.is_empty());
    // Without an id it answers the first open call of its name, as Google matches them.
    let at = open.iter().position(|(open_id, open_name)| match &id {
        Some(id) => open_id == id,
        None => *open_name == name,
    });
    let matched = at.and_then(|at| open.remove(at)).map(|(id, _)| id);
    let id = id.or(matched).ok_or_else(|| {
        invalid(param, format_args!("functionResponse `{name}` answers no functionCall"))
    })?;
    let mut is_error = false;
    let text = match take(&mut answer, "response") {
        None => String::new(),
        Some(Value::Object(response)) => {
            is_error = response.len() == 1 && response.contains_key("error");
            // The members Google's own SDKs wrap an answer in.
            let only = ["output", "result", "error"].into_iter().find_map(|key| {
                response.get(key).filter(|_| response.len() == 1)?.as_str().map(str::to_owned)
            });
            only.unwrap_or_else(|| Value::Object(response).to_string())
        }
        Some(Value::String(text)) => text,
        Some(value) => value.to_string(),
    };
    let mut parts = Vec::new();
    for part in take(&mut answer, "parts").map(list).unwrap_or_default() {
        let mut part = object(part, param)?;
        parts.extend(content_part(param, &mut part)?);
    }
    let content = if parts.is_empty() {
        Content::Text(text)
    } else {
        parts.insert(0, text_part(text));
        Content::Parts(parts)
    };
    let mut message = Message {
        role: "tool".into(),
        content: Some(content),
        tool_call_id: Some(id),
        ..Message::default()
    };
    if is_error {
        message.extra.insert("is_error".into(), true.into());
    }
    Ok(message)
}

fn model(
    turn: usize,
    parts: Vec<Value>,
    open: &mut Open,
    all: &mut Vec<Message>,
) -> Result<(), Invalid> {
    let mut message = Message { role: "assistant".into(), ..Message::default() };
    let mut content: Vec<Part> = Vec::new();
    let mut thinking = Vec::new();
    let mut thought = String::new();
    let mut calls = Vec::new();
    for (at, part) in parts.into_iter().enumerate() {
        let param = format!("contents[{turn}].parts[{at}]");
        let mut part = object(part, &param)?;
        let signature = take_text(&mut part, "thoughtSignature").filter(|text| !text.is_empty());
        if part.get("thought") == Some(&Value::Bool(true)) {
            let text = take_text(&mut part, "text").unwrap_or_default();
            message.reasoning_content.get_or_insert_default().push_str(&text);
            // Clients keep a streamed thought in the pieces it came in; the last has the signature.
            thought.push_str(&text);
            if let Some(signature) = signature {
                thinking.push(thinking_block(&std::mem::take(&mut thought), &signature));
            }
            continue;
        }
        match take(&mut part, "functionCall") {
            Some(Value::Object(call)) => {
                let id = format!("call_{turn}_{at}");
                calls.push(function_call(&param, call, id, signature, open)?);
            }
            Some(_) => return Err(invalid(&param, "functionCall is not an object")),
            None => {
                if let Some(signature) = signature {
                    thinking.push(thinking_block("", &signature));
                }
                let Some(part) = content_part(&param, &mut part)? else { continue };
                // Clients keep a streamed text in the pieces it came in.
                match (content.last_mut(), &part.text) {
                    (Some(Part { text: Some(before), .. }), Some(text)) => before.push_str(text),
                    _ => content.push(part),
                }
            }
        }
    }
    let content = plain(content);
    if content.is_none() && calls.is_empty() && thinking.is_empty() {
        return Ok(());
    }
    message.content = content.or_else(|| calls.is_empty().then(|| Content::Text(String::new())));
    message.thinking_blocks = (!thinking.is_empty()).then_some(thinking);
    message.tool_calls = (!calls.is_empty()).then_some(calls);
    all.push(message);
    Ok(())
}

fn thinking_block(text: &str, signature: &str) -> Value {
    json!({"type": "thinking", "thinking": text, "signature": signature})
}

fn function_call(
    param: &str,
    mut call: Map<String, Value>,
    made: String,
    signature: Option<String>,
    open: &mut Open,
) -> Result<ToolCall, Invalid> {
    let name = take_text(&mut call, "name");
    let name = name.ok_or_else(|| invalid(param, "functionCall has no name"))?;
    let id = take_text(&mut call, "id").filter(|id| !id.is_empty()).unwrap_or(made);
    let arguments = take(&mut call, "args").unwrap_or_else(|| json!({})).to_string();
    open.push_back((id.clone(), name.clone()));
    let mut call = ToolCall {
        id,
        kind: "function".into(),
        function: FunctionCall { name, arguments },
        extra: Map::new(),
    };
    if let Some(signature) = signature {
        let google = json!({"google": {"thought_signature": signature}});
        call.extra.insert("extra_content".into(), google);
    }
    Ok(call)
}

/// Translates one part; `None` where it says nothing.
fn content_part(param: &str, part: &mut Map<String, Value>) -> Result<Option<Part>, Invalid> {
    match take(part, "text") {
        None => {}
        Some(Value::String(text)) => return Ok((!text.is_empty()).then(|| text_part(text))),
        Some(_) => return Err(invalid(&format!("{param}.text"), "is not a string")),
    }
    if let Some(data) = take(part, "inlineData") {
        let Value::Object(mut data) = data else {
            return Err(invalid(param, "inlineData is not an object"));
        };
        let (Some(media), Some(data)) =
            (take_text(&mut data, "mimeType"), take_text(&mut data, "data"))
        else {
            return Err(invalid(param, "inlineData needs `mimeType` and `data`"));
        };
        return Ok(Some(inline(&media, &data)));
    }
    if let Some(data) = take(part, "fileData") {
        let Value::Object(mut data) = data else {
            return Err(invalid(param, "fileData is not an object"));
        };
        let uri = take_text(&mut data, "fileUri");
        let uri = uri.ok_or_else(|| invalid(param, "fileData needs `fileUri`"))?;
        return Ok(Some(file(uri, take_text(&mut data, "mimeType"))));
    }
    if let Some(Value::Object(mut code)) = take(part, "executableCode") {
        let language = take_text(&mut code, "language").unwrap_or_default().to_ascii_lowercase();
        let code = take_text(&mut code, "code").unwrap_or_default();
        return Ok(Some(text_part(format!("\n```{language}\n{code}\n```\n"))));
    }
    if let Some(Value::Object(mut result)) = take(part, "codeExecutionResult") {
        let output = take_text(&mut result, "output").unwrap_or_default();
        return Ok(Some(text_part(format!("\n```\n{output}\n```\n"))));
    }
    // What may stand beside content, and an empty part, which carried a signature.
    const BESIDE: [&str; 6] = [
        "thought",
        "videoMetadata",
        "video_metadata",
        "mediaResolution",
        "media_resolution",
        "partMetadata",
    ];
    match part.keys().find(|key| !BESIDE.contains(&key.as_str())) {
        None => Ok(None),
        Some(key) => Err(invalid(param, format_args!("`{key}` is not for this model"))),
    }
}

fn inline(media: &str, data: &str) -> Part {
    if let Some(format) = media.strip_prefix("audio/") {
        // OpenAI's names for the two it takes.
        let format = match format {
            "mpeg" | "mp3" => "mp3",
            "x-wav" | "wave" | "wav" => "wav",
            other => other,
        };
        let mut part = Part { kind: "input_audio".into(), ..Part::default() };
        part.extra.insert("input_audio".into(), json!({"data": data, "format": format}));
        return part;
    }
    let url = format!("data:{media};base64,{data}");
    if media.starts_with("image/") {
        return image(url, None);
    }
    let file = FilePart {
        file_data: Some(url),
        // OpenAI wants a name beside the data.
        filename: Some(if media == "application/pdf" { "document.pdf" } else { "file" }.into()),
        ..FilePart::default()
    };
    Part { kind: "file".into(), file: Some(file), ..Part::default() }
}

fn file(uri: String, media: Option<String>) -> Part {
    let is_image = media.as_deref().is_some_and(|media| media.starts_with("image/"));
    if is_image && uri.starts_with("http") && !uri.contains("generativelanguage.googleapis.com") {
        return image(uri, media);
    }
    let file = FilePart { file_id: Some(uri), format: media, ..FilePart::default() };
    Part { kind: "file".into(), file: Some(file), ..Part::default() }
}

fn image(url: String, format: Option<String>) -> Part {
    let image_url = ImageUrl::Object { url, format, extra: Map::new() };
    Part { kind: "image_url".into(), image_url: Some(image_url), ..Part::default() }
}

fn text_part(text: String) -> Part {
    Part { kind: "text".into(), text: Some(text), ..Part::default() }
}

/// One text as the string it is; `None` where there is nothing at all.
fn plain(mut parts: Vec<Part>) -> Option<Content> {
    if parts.len() == 1 && parts[0].kind == "text" {
        return parts.pop()?.text.map(Content::Text);
    }
    (!parts.is_empty()).then_some(Content::Parts(parts))
}
