//! Reads Bedrock's errors: AWS's JSON, and the exceptions inside a stream
//! (<https://docs.aws.amazon.com/bedrock/latest/APIReference/CommonErrors.html>, read 2026-11).
//!
//! Which exception an answer is stands in a header that is not seen here; the status tells enough.

use serde::Deserialize;

use crate::UpstreamError;
use crate::openai::{bounded, read_error as read_other_error};

/// The body of an error.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct ErrorBody {
    #[serde(alias = "Message", alias = "errorMessage")]
    message: Option<String>,
    #[serde(rename = "__type")]
    kind: Option<String>,
    /// What the model's own server said, in an exception that is only about that.
    original_status_code: Option<u16>,
    original_message: Option<String>,
}

/// Reads an answer whose status says error, or with a status below 400 an error that came where a
/// stream was expected.
pub(super) fn read_error(status: u16, body: &[u8]) -> UpstreamError {
    match serde_json::from_slice::<ErrorBody>(body) {
        Ok(error) if error.message.is_some() || error.kind.is_some() => {
            let kind = error.kind.clone();
            from_body(status, kind.as_deref(), error)
        }
        // Not AWS's: a proxy before it, or a server that only resembles it.
        _ => read_other_error(status, body),
    }
}

/// Whether a body is an error of AWS's.
pub(super) fn is_error(body: &[u8]) -> bool {
    serde_json::from_slice::<ErrorBody>(body)
        .is_ok_and(|error| error.message.is_some() || error.kind.is_some())
}

/// An exception inside a stream: its `:exception-type`, and its payload.
pub(super) fn read_exception(kind: &[u8], payload: &[u8]) -> UpstreamError {
    let error = serde_json::from_slice(payload).unwrap_or_default();
    from_body(0, Some(&String::from_utf8_lossy(kind)), error)
}

/// An error of the stream itself: its `:error-code`, and its `:error-message`.
pub(super) fn read_stream_error(code: &[u8], message: &[u8]) -> UpstreamError {
    let message = Some(String::from_utf8_lossy(message).into_owned());
    let error = ErrorBody { message, ..ErrorBody::default() };
    from_body(0, Some(&String::from_utf8_lossy(code)), error)
}

fn from_body(status: u16, kind: Option<&str>, error: ErrorBody) -> UpstreamError {
    // `com.amazon.coral.validate#ValidationException`, `ValidationException:http://…`
    let kind = kind.and_then(|kind| kind.rsplit('#').next()?.split(':').next());
    let kind = kind.filter(|kind| !kind.is_empty()).map(bounded);
    let told = kind.as_deref().and_then(status_of);
    let of_model = error.original_status_code.filter(|status| (400..600).contains(status));
    let status = match (status, told) {
        // Quotas are told as bad requests, too.
        (_, Some(429)) => 429,
        // The model's own server failed, which is no fault of the caller's.
        (424, _) => of_model.unwrap_or(500),
        (400.., _) => status,
        (_, Some(status)) => status,
        _ => of_model.unwrap_or(500),
    };
    let message = [error.message, error.original_message].into_iter().flatten();
    let message = message.into_iter().find(|message| !message.is_empty());
    let message = message
        .or_else(|| kind.clone())
        .unwrap_or_else(|| format!("the provider answered with status {status} and no message"));
    UpstreamError {
        status,
        code: code_of(status, &message).map(str::to_owned),
        message: bounded(&message),
        kind,
        param: None,
    }
}

/// The status of an exception by its name, which is written in both cases.
fn status_of(kind: &str) -> Option<u16> {
    Some(match kind.to_ascii_lowercase().trim_end_matches("exception") {
        "validation" | "conflict" | "serialization" => 400,
        "unrecognizedclient"
        | "expiredtoken"
        | "accessdenied"
        | "invalidsignature"
        | "incompletesignature"
        | "missingauthenticationtoken" => 403,
        "resourcenotfound" | "unknownoperation" => 404,
        "modeltimeout" => 408,
        "throttling" | "toomanyrequests" | "servicequotaexceeded" | "modelnotready" => 429,
        "internalserver" | "internalfailure" => 500,
        "serviceunavailable" => 503,
        _ => return None,
    })
}

/// OpenAI's code for what AWS tells in words.
fn code_of(status: u16, message: &str) -> Option<&'static str> {
    let message = message.to_ascii_lowercase();
    let says = |words: &[&str]| words.iter().any(|word| message.contains(word));
    match status {
        // The limit of the answer is another one than that of the context.
        400 | 413 if says(&["maximum tokens you requested exceeds"]) => None,
        400 | 413
            if says(&["too long", "too many input tokens", "maximum context length"])
                || (message.contains("exceed")
                    && says(&["context", "input token", "number of tokens", "input length"])) =>
        {
            Some("context_length_exceeded")
        }
        400 if says(&["model identifier is invalid"]) => Some("model_not_found"),
        400 if says(&["content filtering policy", "blocked by our content"]) => {
            Some("content_policy_violation")
        }
        401 => Some("invalid_api_key"),
        403 if says(&["security token", "signature", "api key", "bearer token"]) => {
            Some("invalid_api_key")
        }
        403 => Some("permission_denied"),
        404 => Some("model_not_found"),
        429 => Some("rate_limit_exceeded"),
        503 => Some("overloaded"),
        _ => None,
    }
}
