//! Counting a request's tokens: <https://ai.google.dev/api/tokens>, read 2026-11.
//!
//! In OpenAI's dialect the request is a chat and the answer `{"input_tokens": 1}`, as Anthropic has
//! it.

use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::response::WholeDecoder;
use crate::{DecodeError, Target};

use super::Api;
use super::error::{Status, read_event};
use super::native::resource_name;

/// Makes a chat's body one that asks how long it is.
pub(super) fn request(
    mut chat: Map<String, Value>,
    target: &Target,
    api: Api,
) -> Map<String, Value> {
    let mut body = Map::new();
    match api {
        // Beside bare contents it takes a whole request, instruction and tools included.
        Api::Studio => {
            chat.insert("model".into(), resource_name(target).into());
            body.insert("generateContentRequest".into(), chat.into());
        }
        Api::Vertex => {
            for name in ["contents", "systemInstruction", "tools", "generationConfig"] {
                if let Some(value) = chat.shift_remove(name) {
                    body.insert(name.into(), value);
                }
            }
        }
    }
    body
}

/// Decodes the count.
pub(super) struct CountDecoder;

impl WholeDecoder for CountDecoder {
    const NO_STREAM: &str = "a count does not come in a stream";

    fn translate(&mut self, body: &[u8]) -> Result<Vec<u8>, DecodeError> {
        #[derive(Default, Deserialize)]
        #[serde(default, rename_all = "camelCase")]
        struct Answer {
            total_tokens: Option<u64>,
            error: Option<Status>,
        }
        let answer: Answer = serde_json::from_slice(body)
            .map_err(|error| DecodeError::Malformed(format!("not a count of tokens: {error}")))?;
        match answer {
            Answer { error: Some(error), .. } => Err(DecodeError::Reported(read_event(error))),
            // Nothing at all is how Google writes none.
            answer => {
                let count = json!({"input_tokens": answer.total_tokens.unwrap_or(0)});
                Ok(count.to_string().into_bytes())
            }
        }
    }
}
