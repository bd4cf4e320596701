//! The `model` of an answer: found and replaced without reading the answer.

use std::ops::Range;
use std::sync::LazyLock;

use bytes::Bytes;
use memchr::memmem::Finder;

use super::usage::{nested_end, skip_space, string_end};
use crate::scan::{Limits, scan};
use crate::splice::{Edits, json_string};

/// How far into an answer its `model` is looked for by hand. Chat answers have it in front;
/// embeddings have it behind their vectors, over which the scanner is quicker.
const IN_FRONT_BYTES: usize = 4096;

/// An answer in one piece with another name of its `model`: `alias`. As it is where it has none.
pub fn rename_model(body: &Bytes, alias: &str) -> Bytes {
    if let Some(model) = model_in_front(body) {
        let alias = json_string(alias);
        return [&body[..model.start], &alias, &body[model.end..]].concat().into();
    }
    match scan(body, &Limits::default()) {
        Ok(object) if object.get(body, "model").is_some() => {
            let mut edits = Edits::new();
            edits.set("model", json_string(alias));
            edits.apply(body, &object)
        }
        _ => body.clone(),
    }
}

/// Where the string that is the object's own `model` stands, with its quotes.
fn model_in_front(body: &[u8]) -> Option<Range<usize>> {
    static KEY: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new("\"model\""));
    let front = &body[..body.len().min(IN_FRONT_BYTES)];
    if front.first() != Some(&b'{') {
        return None;
    }
    KEY.find_iter(front).find_map(|at| {
        let colon = skip_space(front, at + KEY.needle().len());
        let is_key = front.get(colon) == Some(&b':') && is_top_level(front, at);
        is_key.then(|| string_at(front, colon + 1)).flatten()
    })
}

/// Where the value begins that follows a colon right before `at`.
pub(super) fn value_at(json: &[u8], at: usize) -> Option<usize> {
    let value = skip_space(json, at);
    (value < json.len()).then_some(value)
}

/// The string that follows a colon right before `at`, with its quotes.
pub(super) fn string_at(json: &[u8], at: usize) -> Option<Range<usize>> {
    let start = value_at(json, at)?;
    let end = (json[start] == b'"').then(|| string_end(&json[start..])).flatten()?;
    Some(start..start + end)
}

/// Whether the key at `at` is a member of the outermost object.
pub(super) fn is_top_level(data: &[u8], at: usize) -> bool {
    let mut here = 1;
    while here < at {
        here += match data[here] {
            b'"' => match string_end(&data[here..]) {
                Some(length) => length,
                None => return false,
            },
            b'{' | b'[' => match nested_end(&data[here..]) {
                Some(length) => length,
                None => return false,
            },
            _ => 1,
        };
    }
    here == at
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(body: &str, expect: &str) {
        let renamed = rename_model(&Bytes::copy_from_slice(body.as_bytes()), "a\"b");
        assert_eq!(renamed, expect);
        let same = rename_model(&renamed, "a\"b");
        assert_eq!(same, renamed);
    }

    #[test]
    fn the_answers_own_model_is_renamed() {
        check(r#"{"id":"x","model":"gpt","n":1}"#, r#"{"id":"x","model":"a\"b","n":1}"#);
        check(r#" {"model" : "gpt"}"#, r#" {"model" : "a\"b"}"#);
        let long = "y".repeat(IN_FRONT_BYTES);
        check(
            &format!(r#"{{"x":"{long}","model":"gpt"}}"#),
            &format!(r#"{{"x":"{long}","model":"a\"b"}}"#),
        );
        check(r#"{"x":["model"],"model":"gpt"}"#, r#"{"x":["model"],"model":"a\"b"}"#);
        check(
            r#"{"x":{"model":"y"},"t":"\"model\":\"z\"","model":"\\"}"#,
            r#"{"x":{"model":"y"},"t":"\"model\":\"z\"","model":"a\"b"}"#,
        );
    }

    #[test]
    fn an_answer_without_one_stays() {
        for body in [
            r#"{"id":"x"}"#,
            r#"{"choices":[{"model":"y"}]}"#,
            r#"{"a":"model"}"#,
            r#"{"model":"y"#,
            r#"["model""#,
            "",
        ] {
            let bytes = Bytes::copy_from_slice(body.as_bytes());
            assert_eq!(rename_model(&bytes, "alias"), body);
        }
    }
}
