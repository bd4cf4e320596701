//! Cohere's errors: `{"message": "…"}`, sometimes with an `id`. What else there is to know is in the
//! status: <https://docs.cohere.com/v2/reference/errors>, read 2026-11.

use serde::Deserialize;

use crate::UpstreamError;
use crate::openai::{bounded, read_error as read_openai_error};

/// Reads an answer whose status says error, or with a status below 400 an error event.
pub(super) fn read_error(status: u16, body: &[u8]) -> UpstreamError {
    let mut error = read_openai_error(status, body);
    let message = error.message.to_lowercase();
    let says = |words: &str| message.contains(words);
    // An event has no status, and the object nothing that tells one, except by its words.
    if status < 400 && error.status == 500 {
        error.status = if says("too many tokens") {
            400
        } else if says("rate limit") {
            429
        } else if says("timed out") || says("timeout") {
            504
        } else {
            500
        };
    }
    // Cohere's own number for a text with something on a list of what is not allowed in it.
    if error.status == 498 {
        error.status = 400;
        error.code = Some("content_policy_violation".into());
    }
    // A trial key's month is over: waiting a moment, which the limit of a minute asks for, is no help.
    if error.status == 429 && says("trial key") && says("month") {
        error.code = Some("insufficient_quota".into());
    }
    let code = match error.status {
        400 | 422 if says("too many tokens") || says("exceeds the context") => {
            Some("context_length_exceeded")
        }
        402 => Some("insufficient_quota"),
        403 => Some("permission_denied"),
        429 => Some("rate_limit_exceeded"),
        _ => None,
    };
    error.code = error.code.or(code.map(str::to_owned));
    error.kind = error.kind.or_else(|| kind_of(error.status).map(str::to_owned));
    error
}

/// OpenAI's `type` for a status.
fn kind_of(status: u16) -> Option<&'static str> {
    Some(match status {
        400 | 404 | 405 | 413 | 422 => "invalid_request_error",
        401 => "authentication_error",
        402 | 403 => "permission_error",
        429 => "rate_limit_error",
        500..600 => "server_error",
        _ => return None,
    })
}

/// The error in an event or in an answer whose status says success.
pub(crate) fn inside(body: &[u8]) -> Option<UpstreamError> {
    #[derive(Deserialize)]
    struct Body {
        #[serde(default)]
        error: Option<serde_json::Value>,
        #[serde(default)]
        message: Option<serde_json::Value>,
    }
    let body_read: Body = serde_json::from_slice(body).ok()?;
    let is_error = body_read.message.is_some_and(|message| message.is_string())
        || body_read.error.is_some_and(|error| !error.is_null());
    is_error.then(|| read_error(200, body))
}

/// The failure a generation ended with, told as if it were a reason to finish.
pub(super) fn of_finish(reason: Option<&str>, text: Option<&str>) -> Option<UpstreamError> {
    let text = text.filter(|text| !text.is_empty());
    let (status, unspoken) = match reason {
        Some("ERROR") => (500, "the generation failed"),
        Some("TIMEOUT") => (504, "the generation took too long"),
        _ => (500, text?),
    };
    Some(UpstreamError {
        status,
        kind: Some("server_error".into()),
        message: bounded(text.unwrap_or(unspoken)),
        ..UpstreamError::default()
    })
}
