//! A conversation as clients of OpenAI's dialect write it, as far as every provider reads it alike.

use std::fmt::Display;

use serde_json::{Map, Value, json};
use tollway_wire::openai::request::{Content, FilePart, Part};

use crate::RequestError;
use crate::request::invalid_item;

/// What is wrong with one message.
pub(crate) fn invalid(at: usize, what: impl Display) -> RequestError {
    invalid_item("messages", at, what)
}

/// A role that nobody knows.
pub(crate) fn unknown_role(at: usize, role: &str) -> RequestError {
    invalid(at, format_args!("role `{role}` is not supported"))
}

/// A content part that the provider does not know.
pub(crate) fn unknown_part(at: usize, kind: &str) -> RequestError {
    invalid(at, format_args!("content part `{kind}` is not supported"))
}

/// An `image_url` part that names no image.
pub(crate) fn without_image(at: usize) -> RequestError {
    invalid(at, "an image_url part has no `image_url`")
}

/// Content as parts: a text is one of them.
pub(crate) fn parts(content: Option<Content>) -> Vec<Part> {
    match content {
        None => Vec::new(),
        Some(Content::Text(text)) => vec![Part { text: Some(text), ..Part::default() }],
        Some(Content::Parts(parts)) => parts,
    }
}

/// Takes the text out of a part, if it is one of text.
pub(crate) fn take_text(part: &mut Part) -> Option<String> {
    match part.kind.as_str() {
        "text" | "input_text" | "output_text" => Some(part.text.take().unwrap_or_default()),
        "refusal" => {
            let text = part.extra.get("refusal").and_then(Value::as_str);
            Some(text.unwrap_or_default().to_owned())
        }
        _ => None,
    }
}

/// The file of a `file` part.
pub(crate) fn file_of(at: usize, file: Option<FilePart>) -> Result<FilePart, RequestError> {
    file.ok_or_else(|| invalid(at, "a file part has no `file`"))
}

/// A file whose data URL cannot be read.
pub(crate) fn not_base64(at: usize) -> RequestError {
    invalid(at, "the file is a data URL that is not base64")
}

/// A file that is nowhere.
pub(crate) fn without_data(at: usize) -> RequestError {
    invalid(at, "a file part has neither `file_data` nor `file_id`")
}

/// Which call a tool's answer is for.
pub(crate) fn tool_call_id(at: usize, id: Option<String>) -> Result<String, RequestError> {
    id.ok_or_else(|| invalid(at, "a tool message has no `tool_call_id`"))
}

/// Refuses what OpenAI had before `tool_calls`.
pub(crate) fn check_calls(at: usize, extra: &Map<String, Value>) -> Result<(), RequestError> {
    match extra.get("function_call").filter(|call| !call.is_null()) {
        Some(_) => Err(invalid(at, "`function_call` is not supported; use `tool_calls`")),
        None => Ok(()),
    }
}

/// A call's arguments as an object. What a model once wrote need not be JSON, and providers take
/// nothing but an object.
pub(crate) fn arguments(text: &str) -> Value {
    match serde_json::from_str(text) {
        Ok(arguments @ Value::Object(_)) => arguments,
        _ if text.trim().is_empty() => json!({}),
        _ => json!({"arguments": text}),
    }
}

/// Takes white space off the end of a text block with which the model is to go on: it is refused
/// there.
pub(crate) fn trim_end(block: &mut Value) {
    if let Some(text) = block.get("text").and_then(Value::as_str)
        && text.trim_end().len() < text.len()
    {
        block["text"] = text.trim_end().into();
    }
}
