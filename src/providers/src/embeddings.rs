//! Answers with embeddings: as OpenAI writes them, and as base64, for clients that ask for it and
//! providers that have only numbers.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::Asked;

/// OpenAI's answer to an embeddings call, of vectors that stay as they came.
pub(crate) fn answer(vectors: &[&RawValue], tokens: u64, asked: &Asked) -> Vec<u8> {
    let length: usize = vectors.iter().map(|vector| vector.get().len() + 48).sum();
    let mut out = Vec::with_capacity(length + 128);
    out.extend_from_slice(b"{\"object\":\"list\",\"data\":[");
    for (at, vector) in vectors.iter().enumerate() {
        let comma = if at == 0 { "" } else { "," };
        let open = format!("{comma}{{\"object\":\"embedding\",\"index\":{at},\"embedding\":");
        for part in [open.as_bytes(), vector.get().as_bytes(), b"}"] {
            out.extend_from_slice(part);
        }
    }
    let tail = format!(
        "],\"model\":{},\"usage\":{{\"prompt_tokens\":{tokens},\"total_tokens\":{tokens}}}}}",
        Value::from(asked.model.as_str()),
    );
    out.extend_from_slice(tail.as_bytes());
    out
}

/// OpenAI's answer to an embeddings call with its vectors as base64 of little-endian 32-bit floats:
/// what `encoding_format: "base64"` means, and what OpenAI's JavaScript SDK takes for granted.
/// Vectors that are base64 already are left as they are. `None` if it is no such answer.
pub fn to_base64(answer: &[u8]) -> Option<Vec<u8>> {
    let mut answer: Value = serde_json::from_slice(answer).ok()?;
    for item in answer.get_mut("data")?.as_array_mut()? {
        let numbers = match item.get("embedding")? {
            Value::Array(numbers) => numbers,
            Value::String(_) => continue,
            _ => return None,
        };
        let mut bytes = Vec::with_capacity(numbers.len() * 4);
        for number in numbers {
            // OpenAI's own vectors are of this precision.
            bytes.extend_from_slice(&(number.as_f64()? as f32).to_le_bytes());
        }
        item["embedding"] = STANDARD.encode(bytes).into();
    }
    serde_json::to_vec(&answer).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vectors_become_base64() {
        let answer =
            br#"{"object":"list","data":[{"index":0,"embedding":[1.0,-0.5]}],"model":"m"}"#;
        let got = to_base64(answer).expect("an answer");
        let got: Value = serde_json::from_slice(&got).expect("JSON");
        assert_eq!(got["data"][0]["embedding"], "AACAPwAAAL8=");
        assert_eq!(got["model"], "m");
        for other in ["", "{}", r#"{"data":[{}]}"#, r#"{"data":[{"embedding":["x"]}]}"#] {
            assert_eq!(to_base64(other.as_bytes()), None, "{other}");
        }
    }
}
