//! Reads Anthropic's errors: <https://platform.claude.com/docs/en/api/errors>, read 2026-11.

use tollway_wire::anthropic::{ErrorBody, ErrorObject};

use crate::UpstreamError;
use crate::openai::{bounded, read_error as read_other_error};

/// Reads an answer whose status says error, or with a status below 400 an error event.
pub(super) fn read_error(status: u16, body: &[u8]) -> UpstreamError {
    match serde_json::from_slice::<ErrorBody>(body) {
        Ok(body) if !body.error.kind.is_empty() => {
            let status = if status < 400 { status_of(&body.error.kind) } else { status };
            from_object(status, body.error)
        }
        // Not Anthropic's: a proxy before it, or a server that only resembles it.
        _ => read_other_error(status, body),
    }
}

/// The error that JSON with a status of success, or without one, is.
pub(super) fn read_body(body: &[u8]) -> Option<UpstreamError> {
    let body: ErrorBody = serde_json::from_slice(body).ok()?;
    (!body.error.kind.is_empty()).then(|| read_event(body.error))
}

/// Reads the `error` member of an error event, which has no status of its own.
pub(super) fn read_event(error: ErrorObject) -> UpstreamError {
    from_object(status_of(&error.kind), error)
}

fn from_object(status: u16, error: ErrorObject) -> UpstreamError {
    let code = code_of(&error.kind, &error.message).map(str::to_owned);
    UpstreamError {
        status,
        code,
        message: bounded(&error.message),
        kind: Some(error.kind),
        param: None,
    }
}

fn status_of(kind: &str) -> u16 {
    match kind {
        "invalid_request_error" => 400,
        "authentication_error" => 401,
        "billing_error" => 402,
        "permission_error" => 403,
        "not_found_error" => 404,
        "request_too_large" => 413,
        "rate_limit_error" => 429,
        "timeout_error" => 504,
        "overloaded_error" => 529,
        _ => 500,
    }
}

/// OpenAI's code for what Anthropic tells by type and in words.
fn code_of(kind: &str, message: &str) -> Option<&'static str> {
    let says = |words: &str| message.contains(words);
    match kind {
        "invalid_request_error"
            if says("prompt is too long")
                || says("exceed context limit")
                || says("exceeds the maximum context") =>
        {
            Some("context_length_exceeded")
        }
        "invalid_request_error" if says("content filtering policy") => {
            Some("content_policy_violation")
        }
        // Told as a bad request, although it is the account that is empty.
        "invalid_request_error" if says("credit balance is too low") => Some("insufficient_quota"),
        "billing_error" => Some("insufficient_quota"),
        "request_too_large" => Some("request_too_large"),
        "authentication_error" => Some("invalid_api_key"),
        "permission_error" => Some("permission_denied"),
        "not_found_error" if says("model") => Some("model_not_found"),
        "rate_limit_error" => Some("rate_limit_exceeded"),
        "overloaded_error" => Some("overloaded"),
        _ => None,
    }
}
