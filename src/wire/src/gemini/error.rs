//! Errors as Google's APIs write them (<https://google.aip.dev/193>, 2026-11).

use serde_json::{Value, json};

use crate::openai::response::ErrorObject;

/// The name of Google's canonical code for an HTTP status.
pub fn status_name(status: u16) -> &'static str {
    match status {
        401 => "UNAUTHENTICATED",
        403 => "PERMISSION_DENIED",
        404 => "NOT_FOUND",
        408 | 504 => "DEADLINE_EXCEEDED",
        409 => "ABORTED",
        429 => "RESOURCE_EXHAUSTED",
        499 => "CANCELLED",
        501 => "UNIMPLEMENTED",
        502 | 503 | 529 => "UNAVAILABLE",
        400..=498 => "INVALID_ARGUMENT",
        _ => "INTERNAL",
    }
}

/// Where a member is at fault, Google names it in a detail of its own
/// (`google.rpc.BadRequest` of <https://google.aip.dev/193>).
fn value(status: u16, error: &ErrorObject) -> Value {
    let details: Vec<Value> = error
        .param
        .iter()
        .map(|field| {
            json!({
                "@type": "type.googleapis.com/google.rpc.BadRequest",
                "fieldViolations": [{"field": field, "description": error.message}],
            })
        })
        .collect();
    json!({"error": {
        "code": status,
        "message": error.message,
        "status": status_name(status),
        "details": details,
    }})
}

/// The body of an error answer.
pub fn body(status: u16, error: &ErrorObject) -> Vec<u8> {
    value(status, error).to_string().into_bytes()
}

/// An error inside a stream that has begun.
pub fn event(status: u16, error: &ErrorObject) -> Vec<u8> {
    format!("data: {}\r\n\r\n", value(status, error)).into_bytes()
}
