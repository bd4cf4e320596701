//! Answers with embeddings: as OpenAI writes them, and as base64, for clients that ask for it and
//! providers that have only numbers. And several calls for one request, for providers that take
//! fewer inputs at once.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value};
use tollway_wire::scan::{self, Limits, Object};
use tollway_wire::splice::Edits;

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

/// A request in OpenAI's form as several, each with at most `most` inputs. `None` where one will do.
pub fn split(body: &Bytes, object: &Object, most: usize) -> Option<Vec<Bytes>> {
    let inputs: Vec<&RawValue> = serde_json::from_slice(object.raw(body, "input")?).ok()?;
    // A list of numbers is one input: a text in tokens.
    let are_tokens = inputs.iter().any(|input| !input.get().starts_with(['"', '[', '{']));
    if inputs.len() <= most || are_tokens || most == 0 {
        return None;
    }
    let parts = inputs.chunks(most).map(|part| {
        let part: Vec<&str> = part.iter().map(|input| input.get()).collect();
        let mut edits = Edits::new();
        edits.set("input", format!("[{}]", part.join(",")).into_bytes());
        edits.apply(body, object)
    });
    Some(parts.collect())
}

/// The answers to those as one: their vectors in order, and their usage added. `None` where one of
/// them is no answer in OpenAI's form.
pub fn join(answers: &[Bytes]) -> Option<Vec<u8>> {
    #[derive(Deserialize)]
    struct Answer<'a> {
        #[serde(borrow)]
        data: Vec<BTreeMap<&'a str, &'a RawValue>>,
        #[serde(default)]
        usage: Map<String, Value>,
    }
    let mut data = Vec::new();
    let mut usage: Map<String, Value> = Map::new();
    for answer in answers {
        let answer: Answer<'_> = serde_json::from_slice(answer).ok()?;
        for item in answer.data {
            let members = item.iter().filter(|(name, _)| **name != "index");
            let members = members.map(|(name, raw)| format!(",\"{name}\":{}", raw.get()));
            data.push(format!("{{\"index\":{}{}}}", data.len(), members.collect::<String>()));
        }
        for (name, more) in answer.usage {
            let Some(more) = more.as_u64() else { continue };
            let before = usage.get(&name).and_then(Value::as_u64).unwrap_or_default();
            usage.insert(name, before.saturating_add(more).into());
        }
    }
    let first = answers.first()?;
    let object = scan::scan(first, &Limits::default()).ok()?;
    let mut edits = Edits::new();
    edits.set("data", format!("[{}]", data.join(",")).into_bytes());
    edits.set("usage", Value::Object(usage).to_string().into_bytes());
    Some(edits.apply(first, &object).to_vec())
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

    fn parts(body: &str, most: usize) -> Option<Vec<Value>> {
        let body = Bytes::copy_from_slice(body.as_bytes());
        let object = scan::scan(&body, &Limits::default()).expect("JSON");
        let parts = split(&body, &object, most)?;
        Some(parts.iter().map(|part| serde_json::from_slice(part).expect("JSON")).collect())
    }

    #[test]
    fn inputs_go_in_as_many_calls_as_it_takes() {
        let expect = [
            serde_json::json!({"model": "m", "input": ["a", "b"]}),
            serde_json::json!({"model": "m", "input": ["c"]}),
        ];
        let body = r#"{"model":"m","input":["a", "b","c"]}"#;
        assert_eq!(parts(body, 2).as_deref(), Some(&expect[..]));
        let tokens = r#"{"input":[[1,2],[3]]}"#;
        assert_eq!(
            parts(tokens, 1).map(|parts| parts[1]["input"].clone()),
            Some(serde_json::json!([[3]]))
        );
        for whole in
            [r#"{"input":"a"}"#, r#"{"input":["a"]}"#, r#"{"input":[1,2]}"#, "{}", r#"{"input":7}"#]
        {
            assert_eq!(parts(whole, 1), None, "{whole}");
        }
    }

    #[test]
    fn answers_are_joined_in_order() {
        let answer = |n: u8| {
            Bytes::from(format!(
                r#"{{"object":"list","data":[{{"object":"embedding","index":0,"embedding":[{n}.50]}}],"model":"m","usage":{{"prompt_tokens":{n},"total_tokens":{n}}}}}"#
            ))
        };
        let joined = join(&[answer(1), answer(2)]).expect("an answer");
        let text = String::from_utf8_lossy(&joined);
        assert!(text.contains("[2.50]"), "{text}");
        let joined: Value = serde_json::from_slice(&joined).expect("JSON");
        assert_eq!(joined["data"][1]["index"], 1);
        assert_eq!(joined["data"][1]["object"], "embedding");
        assert_eq!(joined["usage"], serde_json::json!({"prompt_tokens": 3, "total_tokens": 3}));
        assert_eq!(joined["model"], "m");
        assert_eq!(join(&[answer(1), Bytes::from_static(b"{}")]), None);
        assert_eq!(join(&[]), None);
    }
}
