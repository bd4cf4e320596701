//! OpenAI's Responses API, as clients speak it.
//!
//! A request becomes a chat request ([`to_chat`]), and the chat answer becomes a `Response` or the
//! events of one ([`ResponsesEncoder`]). Where the provider speaks the dialect itself, bytes pass and
//! a [`StreamTap`] watches them. What the gateway must do to keep answers is in [`stored`].
//!
//! Facts from OpenAI's reference, <https://platform.openai.com/docs/api-reference/responses> and
//! `/responses-streaming`, from its OpenAPI document, and from the types of its Python SDK (2.54) and
//! Node SDK; all read 2026-11.

mod answer;
mod calls;
mod check;
mod chunk;
mod encode;
mod envelope;
mod events;
mod items;
mod message;
mod output;
mod parts;
mod reasoning;
pub mod record;
mod request;
pub mod stored;
mod tap;
mod tools;
mod usage;

pub use encode::ResponsesEncoder;
pub use request::to_chat;
pub use tap::StreamTap;
pub use usage::usage_of_body;

use serde_json::json;

use crate::openai::response::ErrorObject;

/// An error inside a stream, as the one event that ends it.
///
/// The reference gives an `error` event flat members, and OpenAI's servers send them inside of
/// `error` (seen 2026-11; Vercel's SDK reads both). Both are written: the official Python and Node
/// SDKs raise `APIError` where an event has a member `error` (`_streaming.py`, `core/streaming.js`),
/// and hand the flat form and `response.failed` to the caller as one event among others, who may take
/// the broken answer for a whole one.
pub fn error_event(sequence_number: u64, status: u16, error: &ErrorObject) -> Vec<u8> {
    let kind = error.kind.clone().unwrap_or_else(|| kind_of(status).to_owned());
    let data = json!({
        "type": "error",
        "sequence_number": sequence_number,
        "code": error.code,
        "message": error.message,
        "param": error.param,
        "error": {
            "type": kind,
            "code": error.code,
            "message": error.message,
            "param": error.param,
        },
    });
    format!("event: error\ndata: {data}\n\n").into_bytes()
}

/// The `code` in a failed response. The reference lists few; servers send others too, and those are
/// kept.
pub(crate) fn failure_code(status: u16, error: &ErrorObject) -> &str {
    match (&error.code, status) {
        (Some(code), _) => code,
        (None, 429) => "rate_limit_exceeded",
        (None, 400..=499) => "invalid_prompt",
        (None, _) => "server_error",
    }
}

fn kind_of(status: u16) -> &'static str {
    match status {
        429 => "rate_limit_error",
        400..=499 => "invalid_request_error",
        _ => "server_error",
    }
}
