//! The content of one message or tool result: text, or parts.

use serde_json::{Map, Value, json};

use super::check::{self, Kind, missing, wrong_type};
use crate::client::Invalid;

/// Writes content as chat has it. One part that is only text is written as that text.
pub(super) fn content(content: Value, param: &str) -> Result<Value, Invalid> {
    let parts = match content {
        Value::Null => return Ok("".into()),
        Value::String(text) => return Ok(text.into()),
        Value::Array(parts) => parts,
        other => return Err(wrong_type(param, "a string or an array of content parts", &other)),
    };
    let mut written = Vec::with_capacity(parts.len());
    for (at, part) in parts.into_iter().enumerate() {
        written.push(match part {
            Value::String(text) => json!({"type": "text", "text": text}),
            Value::Object(part) => translate(part, &format!("{param}[{at}]"))?,
            other => return Err(wrong_type(&format!("{param}[{at}]"), "an object", &other)),
        });
    }
    Ok(match written.as_mut_slice() {
        [] => "".into(),
        [only] if is_plain(only) => only["text"].take(),
        _ => written.into(),
    })
}

/// Whether a part is text and nothing else.
pub(super) fn is_plain(part: &Value) -> bool {
    part["type"] == "text" && part.as_object().is_some_and(|part| part.len() == 2)
}

/// Members of parts that are text, whatever the part is.
const PART: &[(&str, Kind)] = &[
    ("detail", Kind::Text),
    ("file_data", Kind::Text),
    ("file_id", Kind::Text),
    ("file_url", Kind::Text),
    ("filename", Kind::Text),
    ("refusal", Kind::Text),
    ("text", Kind::Text),
    ("type", Kind::Text),
];

fn translate(mut part: Map<String, Value>, param: &str) -> Result<Value, Invalid> {
    part.retain(|_, value| !value.is_null());
    check::members(&part, PART, param)?;
    let Some(kind) = part.get("type").and_then(Value::as_str).map(str::to_owned) else {
        return Err(missing(format!("{param}.type")));
    };
    let mark = part.remove("cache_control");
    let mut written = match kind.as_str() {
        "input_text" | "output_text" | "text" | "summary_text" | "reasoning_text" => {
            text(part.remove("text").ok_or_else(|| missing(format!("{param}.text")))?)
        }
        // Also the model's words.
        "refusal" => {
            text(part.remove("refusal").ok_or_else(|| missing(format!("{param}.refusal")))?)
        }
        "input_image" => image(part, param)?,
        "input_file" => file(part, param)?,
        "input_audio" => match part.remove("input_audio") {
            Some(audio @ Value::Object(_)) => json!({"type": "input_audio", "input_audio": audio}),
            Some(other) => {
                return Err(wrong_type(&format!("{param}.input_audio"), "an object", &other));
            }
            None => return Err(missing(format!("{param}.input_audio"))),
        },
        "computer_screenshot" => {
            let message =
                format!("Content of type '{kind}' at '{param}' cannot be used with this model.");
            return Err(Invalid::new(message).with_param(param));
        }
        // A part of chat's, or one that only the provider knows.
        _ => Value::Object(part),
    };
    if let Some(mark) = mark {
        written["cache_control"] = mark;
    }
    Ok(written)
}

fn text(text: Value) -> Value {
    json!({"type": "text", "text": text})
}

fn image(mut part: Map<String, Value>, param: &str) -> Result<Value, Invalid> {
    let url = match part.remove("image_url") {
        Some(Value::Object(mut nested)) => nested.remove("url"),
        url => url,
    };
    if let Some(other) = url.as_ref().filter(|url| !url.is_string()) {
        return Err(wrong_type(&format!("{param}.image_url"), "a string", other));
    }
    if let Some(url) = url {
        let mut image = json!({"url": url});
        // Automatic is what leaving it out means.
        if let Some(detail) = part.remove("detail").filter(|detail| detail != "auto") {
            image["detail"] = detail;
        }
        return Ok(json!({"type": "image_url", "image_url": image}));
    }
    // Chat has no image that was uploaded before; as a file it goes where files are known.
    match part.remove("file_id") {
        Some(id @ Value::String(_)) => Ok(json!({"type": "file", "file": {"file_id": id}})),
        _ => Err(missing(format!("{param}.image_url"))),
    }
}

fn file(mut part: Map<String, Value>, param: &str) -> Result<Value, Invalid> {
    let mut file = Map::new();
    if let Some(url) = part.remove("file_url") {
        file.insert("file_id".into(), url);
    }
    for name in ["file_id", "file_data", "filename"] {
        if let Some(value) = part.remove(name) {
            file.insert(name.into(), value);
        }
    }
    if !file.contains_key("file_id") && !file.contains_key("file_data") {
        let message = format!("'{param}' needs one of 'file_data', 'file_id' and 'file_url'.");
        return Err(Invalid::new(message).with_param(param));
    }
    Ok(json!({"type": "file", "file": file}))
}
