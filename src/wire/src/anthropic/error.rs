//! Errors as Anthropic writes them (<https://platform.claude.com/docs/en/api/errors>, 2026-11).

use serde_json::{Value, json};

use crate::openai::response::ErrorObject;

/// The `type` Anthropic gives an error of this status.
pub fn kind(status: u16) -> &'static str {
    match status {
        401 => "authentication_error",
        402 => "billing_error",
        403 => "permission_error",
        404 => "not_found_error",
        408 | 504 => "timeout_error",
        413 => "request_too_large",
        429 => "rate_limit_error",
        503 | 529 => "overloaded_error",
        400..=499 => "invalid_request_error",
        _ => "api_error",
    }
}

fn value(status: u16, error: &ErrorObject) -> Value {
    // Claude Code shortens the conversation and tries again when it reads these words.
    const TOO_LONG: &str = "prompt is too long";
    let is_too_long = error.code.as_deref() == Some("context_length_exceeded");
    let message = if is_too_long && !error.message.contains(TOO_LONG) {
        format!("{TOO_LONG}: {}", error.message)
    } else {
        error.message.clone()
    };
    json!({
        "type": "error",
        "error": {"type": kind(status), "message": message},
        "request_id": error.request_id,
    })
}

/// The body of an error answer.
pub fn body(status: u16, error: &ErrorObject) -> Vec<u8> {
    value(status, error).to_string().into_bytes()
}

/// An error inside a stream that has begun.
pub fn event(status: u16, error: &ErrorObject) -> Vec<u8> {
    format!("event: error\ndata: {}\n\n", value(status, error)).into_bytes()
}
