//! Reads Google's errors: `google.rpc.Status`, <https://ai.google.dev/gemini-api/docs/troubleshooting>
//! and <https://cloud.google.com/apis/design/errors>, read 2026-11.

use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;

use crate::UpstreamError;
use crate::openai::{bounded, read_error as read_other_error};

#[derive(Deserialize)]
pub(super) struct ErrorBody {
    pub(super) error: Status,
}

/// Google's error, whatever the API.
#[derive(Deserialize, Default)]
#[serde(default)]
pub(crate) struct Status {
    code: Option<Value>,
    message: String,
    status: String,
    details: Vec<Value>,
}

/// The error in a body. A stream's first error may come wrapped in an array, as streams without
/// `alt=sse` are.
fn status_of_body(body: &[u8]) -> Option<Status> {
    let parsed: ErrorBody = match body.trim_ascii_start().first()? {
        b'[' => serde_json::from_slice::<Vec<ErrorBody>>(body).ok()?.into_iter().next()?,
        _ => serde_json::from_slice(body).ok()?,
    };
    let is_googles = !parsed.error.status.is_empty() || !parsed.error.details.is_empty();
    is_googles.then_some(parsed.error)
}

/// Reads an answer whose status says error, or with a status below 400 an error event.
pub(crate) fn read_error(status: u16, body: &[u8]) -> UpstreamError {
    match status_of_body(body) {
        Some(error) => from_status(status, error),
        // Not Google's: a proxy before it, or a server that only resembles it.
        None => read_other_error(status, body),
    }
}

/// Reads the `error` member of an event, which has no status of its own.
pub(super) fn read_event(error: Status) -> UpstreamError {
    from_status(200, error)
}

/// How long Google says to wait: `google.rpc.RetryInfo`. It sends no `retry-after`.
pub(crate) fn retry_delay(body: &[u8]) -> Option<Duration> {
    let error = status_of_body(body)?;
    let is_retry = |detail: &&Value| {
        detail["@type"].as_str().is_some_and(|kind| kind.ends_with("google.rpc.RetryInfo"))
    };
    let delay = error.details.iter().find(is_retry)?.get("retryDelay")?.as_str()?;
    let seconds: f64 = delay.strip_suffix('s')?.parse().ok()?;
    Duration::try_from_secs_f64(seconds).ok()
}

fn from_status(status: u16, error: Status) -> UpstreamError {
    let has_reason = |reason: &str| error.details.iter().any(|detail| detail["reason"] == reason);
    // Told as a bad request, although it is the credential that is wrong: the deployment's fault,
    // not the caller's.
    let bad_key = has_reason("API_KEY_INVALID") || error.message.contains("API key not valid");
    let status = match status {
        _ if bad_key => 401,
        status if status >= 400 => status,
        _ => inner_status(&error),
    };
    let code = if bad_key { Some("invalid_api_key") } else { code_of(status, &error) };
    let message = match error.message.is_empty() {
        true => format!("the provider answered with {}", error.status),
        false => bounded(&error.message),
    };
    UpstreamError {
        status,
        kind: Some(kind_of(status).to_owned()),
        code: code.map(str::to_owned),
        message,
        param: None,
    }
}

/// The status an error inside a stream would have had.
fn inner_status(error: &Status) -> u16 {
    let code = match &error.code {
        Some(Value::Number(number)) => number.as_u64(),
        Some(Value::String(text)) => text.parse().ok(),
        _ => None,
    };
    if let Some(code) = code.filter(|code| (400..600).contains(code)) {
        return u16::try_from(code).unwrap_or(500);
    }
    match error.status.as_str() {
        "INVALID_ARGUMENT" | "FAILED_PRECONDITION" | "OUT_OF_RANGE" => 400,
        "UNAUTHENTICATED" => 401,
        "PERMISSION_DENIED" => 403,
        "NOT_FOUND" => 404,
        "ABORTED" | "ALREADY_EXISTS" => 409,
        "RESOURCE_EXHAUSTED" => 429,
        "CANCELLED" => 499,
        "UNIMPLEMENTED" => 501,
        "UNAVAILABLE" => 503,
        "DEADLINE_EXCEEDED" => 504,
        _ => 500,
    }
}

fn kind_of(status: u16) -> &'static str {
    match status {
        401 => "authentication_error",
        403 => "permission_error",
        404 => "not_found_error",
        429 => "rate_limit_error",
        400..=499 => "invalid_request_error",
        _ => "server_error",
    }
}

/// OpenAI's code for what Google tells by status and in words.
fn code_of(status: u16, error: &Status) -> Option<&'static str> {
    let message = error.message.to_lowercase();
    let says = |words: &str| message.contains(words);
    match status {
        400 | 413
            if says("input token count") && says("exceeds")
                || says("exceeds the maximum number of tokens")
                || says("context length")
                || says("prompt is too long") =>
        {
            Some("context_length_exceeded")
        }
        400 if says("safety") && says("block") => Some("content_policy_violation"),
        401 => Some("invalid_api_key"),
        403 => Some("permission_denied"),
        404 if says("model") => Some("model_not_found"),
        // The words are those of a limit per minute as well, so they do not tell an empty account.
        429 => Some("rate_limit_exceeded"),
        503 => Some("overloaded"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_delay_is_read_from_the_details() {
        let body = |delay: &str| {
            format!(
                r#"[{{"error":{{"code":429,"status":"RESOURCE_EXHAUSTED","details":[
                {{"@type":"type.googleapis.com/google.rpc.Help"}},
                {{"@type":"type.googleapis.com/google.rpc.RetryInfo","retryDelay":"{delay}"}}]}}}}]"#
            )
        };
        let read = |delay: &str| retry_delay(body(delay).as_bytes());
        assert_eq!(read("34.5s"), Some(Duration::from_millis(34_500)));
        assert_eq!(read("7s"), Some(Duration::from_secs(7)));
        for odd in ["", "s", "-1s", "1e300s", "NaNs", "7"] {
            assert_eq!(read(odd), None, "{odd}");
        }
        assert_eq!(retry_delay(b"<html>"), None);
    }
}
