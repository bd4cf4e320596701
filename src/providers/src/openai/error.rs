//! Reads what OpenAI and those who copied it say when something goes wrong.

use serde_json::Value;

use crate::UpstreamError;

/// The most of a provider's message that is kept, in characters.
const MESSAGE_CHARS_MAX: usize = 2_000;

/// A provider's text without what is too much of it.
pub(crate) fn bounded(message: &str) -> String {
    match message.char_indices().nth(MESSAGE_CHARS_MAX) {
        Some((end, _)) => format!("{}…", &message[..end]),
        None => message.to_owned(),
    }
}

/// Reads an error: OpenAI's object, one of its many relatives, or something else entirely. With a
/// status below 400 the error came inside a stream.
pub(crate) fn read_error(status: u16, body: &[u8]) -> UpstreamError {
    let Ok(json) = serde_json::from_slice::<Value>(body) else {
        return from_text(if status < 400 { 502 } else { status }, body);
    };
    // Gemini's compatible API wraps its error in an array (ai.google.dev, 2026-11).
    let json = match json {
        Value::Array(mut items) if !items.is_empty() => items.swap_remove(0),
        json => json,
    };
    let error = json.get("error").filter(|error| !error.is_null()).unwrap_or(&json);
    let text = |name: &str| error.get(name).and_then(text_of);
    let message = error
        .as_str()
        .map(str::to_owned)
        .or_else(|| text("message"))
        .or_else(|| text("detail"))
        .or_else(|| json.get("message").and_then(text_of))
        .or_else(|| text("error_description"))
        .or_else(|| text("reason"))
        .unwrap_or_default();
    let kind = text("type").filter(|kind| !kind.is_empty());
    let mut code = text("code").filter(|code| !code.is_empty());
    // Azure's words for what OpenAI has codes for
    // (learn.microsoft.com/azure/ai-foundry/openai/concepts/content-filter, 2026-11).
    let inner = error.pointer("/innererror/code").and_then(Value::as_str);
    if inner == Some("ResponsibleAIPolicyViolation") || code.as_deref() == Some("content_filter") {
        code = Some("content_policy_violation".into());
    } else if code.as_deref() == Some("DeploymentNotFound") {
        code = Some("model_not_found".into());
    }
    let status = if status < 400 { status_inside(&code, &kind) } else { status };
    UpstreamError {
        status,
        code: code
            .filter(|code| code.parse::<u16>().is_err())
            .or_else(|| code_of(status, kind.as_deref(), &message).map(str::to_owned)),
        kind,
        message: if message.is_empty() { unspoken(status) } else { bounded(&message) },
        param: text("param").filter(|param| !param.is_empty()),
    }
}

/// A value as text: FastAPI's `detail` is a list of objects, codes are sometimes numbers.
fn text_of(value: &Value) -> Option<String> {
    match value {
        Value::Null => None,
        Value::String(text) => Some(text.clone()),
        Value::Array(items) => {
            let messages: Vec<&str> =
                items.iter().filter_map(|item| item.get("msg")?.as_str()).collect();
            Some(if messages.is_empty() { value.to_string() } else { messages.join("; ") })
        }
        // Mistral wraps FastAPI's once more.
        Value::Object(object) if object.get("detail").is_some_and(Value::is_array) => {
            text_of(&object["detail"])
        }
        value => Some(value.to_string()),
    }
}

/// The status an error inside a stream would have had.
fn status_inside(code: &Option<String>, kind: &Option<String>) -> u16 {
    let number = code.as_deref().and_then(|code| code.parse::<u16>().ok());
    if let Some(status) = number.filter(|status| (400..600).contains(status)) {
        return status;
    }
    // Mistral's codes are numbers of its own; its types are words.
    match code.as_deref().filter(|_| number.is_none()).or(kind.as_deref()) {
        Some("rate_limit_exceeded" | "rate_limit_error" | "insufficient_quota") => 429,
        Some("invalid_request_error" | "context_length_exceeded" | "content_policy_violation") => {
            400
        }
        Some("invalid_api_key" | "authentication_error") => 401,
        Some("model_not_found" | "not_found_error") => 404,
        Some("overloaded_error" | "service_unavailable" | "server_overloaded") => 503,
        _ => 500,
    }
}

/// OpenAI's code for what a provider tells in words only.
fn code_of(status: u16, kind: Option<&str>, message: &str) -> Option<&'static str> {
    let message = message.to_lowercase();
    let says = |words: &[&str]| words.iter().any(|word| message.contains(word));
    match status {
        400 | 413 | 422
            if says(&[
                "context length",
                "context window",
                "context size",
                "maximum context",
                "prompt is too long",
                "too many tokens",
                "exceeds the available context",
            ]) =>
        {
            Some("context_length_exceeded")
        }
        400 if says(&["content management policy", "content policy", "safety system"]) => {
            Some("content_policy_violation")
        }
        401 => Some("invalid_api_key"),
        404 if says(&["model"]) => Some("model_not_found"),
        429 if kind == Some("insufficient_quota") || says(&["exceeded your current quota"]) => {
            Some("insufficient_quota")
        }
        429 => Some("rate_limit_exceeded"),
        _ => None,
    }
}

/// An error that is not JSON: a proxy's HTML page, a line of text, or nothing.
fn from_text(status: u16, body: &[u8]) -> UpstreamError {
    let text = String::from_utf8_lossy(&body[..body.len().min(8 * MESSAGE_CHARS_MAX)]);
    let text = text.trim();
    let message = match html_title(text) {
        Some(title) => title,
        None if text.is_empty() => unspoken(status),
        None => bounded(text),
    };
    UpstreamError {
        status,
        code: code_of(status, None, &message).map(str::to_owned),
        message,
        ..UpstreamError::default()
    }
}

/// The title of an HTML page, which says more than its markup. `None` if it is not HTML.
fn html_title(text: &str) -> Option<String> {
    if !text.starts_with('<') {
        return None;
    }
    let title = text.split_once("<title>").and_then(|(_, rest)| rest.split_once("</title>"));
    Some(match title {
        Some((title, _)) => bounded(title.trim()),
        None => "the provider answered with an HTML page".to_owned(),
    })
}

fn unspoken(status: u16) -> String {
    format!("the provider answered with status {status} and no message")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(status: u16, body: &str, expect: (u16, Option<&str>, &str)) {
        let error = read_error(status, body.as_bytes());
        let got = (error.status, error.code.as_deref(), error.message.as_str());
        assert_eq!(got, expect, "{body}");
    }

    #[test]
    fn every_shape_is_read() {
        check(
            400,
            r#"{"error":{"message":"m","type":"invalid_request_error","param":"p","code":"c"}}"#,
            (400, Some("c"), "m"),
        );
        check(
            429,
            r#"{"error":{"message":"slow down","code":429}}"#,
            (429, Some("rate_limit_exceeded"), "slow down"),
        );
        check(500, r#"{"error":"boom"}"#, (500, None, "boom"));
        check(401, r#"{"message":"Unauthorized"}"#, (401, Some("invalid_api_key"), "Unauthorized"));
        check(
            422,
            r#"{"detail":[{"loc":["body"],"msg":"field required"}]}"#,
            (422, None, "field required"),
        );
        check(404, r#"{"detail":"Not Found"}"#, (404, None, "Not Found"));
        check(
            400,
            r#"[{"error":{"code":400,"message":"bad","status":"INVALID"}}]"#,
            (400, None, "bad"),
        );
        check(
            400,
            r#"{"object":"error","message":"This model's maximum context length is 8 tokens"}"#,
            (
                400,
                Some("context_length_exceeded"),
                "This model's maximum context length is 8 tokens",
            ),
        );
        check(
            502,
            "<html><head><title>502 Bad Gateway</title></head></html>",
            (502, None, "502 Bad Gateway"),
        );
        check(503, "<!doctype html>", (503, None, "the provider answered with an HTML page"));
        check(503, "", (503, None, "the provider answered with status 503 and no message"));
        check(500, "upstream connect error", (500, None, "upstream connect error"));
        check(500, "[]", (500, None, "the provider answered with status 500 and no message"));
    }

    #[test]
    fn an_error_inside_a_stream_gets_a_status() {
        check(200, r#"{"error":{"message":"m","code":503}}"#, (503, None, "m"));
        check(
            200,
            r#"{"error":{"message":"m","type":"rate_limit_error"}}"#,
            (429, Some("rate_limit_exceeded"), "m"),
        );
        check(200, r#"{"error":{"message":"m"}}"#, (500, None, "m"));
    }

    #[test]
    fn a_long_message_is_cut() {
        let long = format!(r#"{{"error":"{}"}}"#, "é".repeat(5_000));
        assert_eq!(read_error(500, long.as_bytes()).message.chars().count(), MESSAGE_CHARS_MAX + 1);
    }
}
