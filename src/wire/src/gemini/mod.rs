//! Google's Gemini API, as a client speaks it.
//!
//! Facts from <https://ai.google.dev/api/generate-content> and the pages beside it, and from the types
//! of Google's Python SDK (google-genai 3.4); read 2026-11. Google's APIs take members in camelCase
//! and in snake_case, and so does everything here; they answer in camelCase.
//!
//! The gateway puts `model` and `stream`, which are in the path, into the body as members.

mod contents;
mod embed;
mod encode;
mod encode_stream;
pub mod error;
mod schema;
mod tap;
mod to_chat;
mod usage;

use serde_json::{Map, Value};

pub use embed::{EmbedEncoder, to_embeddings};
pub use encode::GeminiEncoder;
pub use tap::{GeminiTap, usage_of_body};
pub use to_chat::to_chat;
pub use usage::{ModalityCount, UsageMetadata, of_modality};

use crate::client::Invalid;

/// Takes out a member by its name in camelCase, or else in snake_case. Null is absence.
fn take(map: &mut Map<String, Value>, camel: &str) -> Option<Value> {
    let value = map.remove(camel).or_else(|| {
        let snake = snake(camel);
        (snake != camel).then(|| map.remove(&snake)).flatten()
    });
    value.filter(|value| !value.is_null())
}

/// The snake_case of a name in camelCase.
fn snake(camel: &str) -> String {
    let mut snake = String::with_capacity(camel.len() + 4);
    for letter in camel.chars() {
        if letter.is_ascii_uppercase() {
            snake.push('_');
        }
        snake.push(letter.to_ascii_lowercase());
    }
    snake
}

fn take_text(map: &mut Map<String, Value>, camel: &str) -> Option<String> {
    match take(map, camel) {
        Some(Value::String(text)) => Some(text),
        _ => None,
    }
}

/// A number, which Google also writes as text where it has 64 bits.
fn take_u64(
    map: &mut Map<String, Value>,
    camel: &str,
    param: &str,
) -> Result<Option<u64>, Invalid> {
    let Some(value) = take(map, camel) else { return Ok(None) };
    let number = match &value {
        Value::String(text) => text.parse().ok(),
        value => value.as_u64(),
    };
    match number {
        Some(number) => Ok(Some(number)),
        None => Err(invalid(&format!("{param}.{camel}"), "is not a whole number")),
    }
}

fn invalid(param: &str, message: impl std::fmt::Display) -> Invalid {
    Invalid::new(format!("{param}: {message}")).with_param(param)
}
