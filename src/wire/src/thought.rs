//! Gemini's thought signature inside a tool call's id, for client dialects that have no other place
//! to carry it: `{id}__thought__{base64url of the signature}`.
//!
//! A client hands the id back with the tool's answer and in the history, so the signature comes back
//! too. Base64url has no character that Anthropic or OpenAI refuse in an id. LiteLLM writes the
//! signature, which is base64 already, into the id as it is; such ids are read as well, so that a
//! conversation begun behind LiteLLM goes on.

use std::borrow::Cow;

use crate::base64;

/// What stands between id and signature. The word is LiteLLM's.
const MARK: &str = "__thought__";

/// The longest signature that is put into an id. Gemini's are a few kilobytes.
pub const SIGNATURE_BYTES_MAX: usize = 64 << 10;

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// The id that carries a signature. A signature that is empty or too long is left out: the model
/// then thinks anew, which is better than an id no client can hold.
pub fn join(id: &str, signature: &str) -> String {
    if signature.is_empty() || signature.len() > SIGNATURE_BYTES_MAX {
        return id.to_owned();
    }
    let mut joined = String::with_capacity(id.len() + MARK.len() + signature.len() / 3 * 4 + 4);
    joined.push_str(id);
    joined.push_str(MARK);
    for three in signature.as_bytes().chunks(3) {
        let byte = |at: usize| u32::from(three.get(at).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for at in 0..=three.len() {
            joined.push(char::from(ALPHABET[(bits >> (18 - 6 * at) & 63) as usize]));
        }
    }
    joined
}

/// The id without the signature, and the signature if it carries one.
pub fn split(id: &str) -> (&str, Option<String>) {
    let Some((bare, coded)) = id.split_once(MARK) else { return (id, None) };
    // What is longer was not written by `join`.
    if coded.len() > SIGNATURE_BYTES_MAX.div_ceil(3) * 4 {
        return (id, None);
    }
    match signature(coded) {
        Some(signature) => (bare, Some(signature.into_owned())),
        None => (id, None),
    }
}

fn signature(coded: &str) -> Option<Cow<'_, str>> {
    if coded.is_empty() {
        return None;
    }
    let is_url = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    let bytes = coded.bytes().all(is_url).then(|| base64::decode(coded)).flatten();
    let text = bytes.and_then(|bytes| String::from_utf8(bytes).ok());
    if let Some(text) = text.filter(|text| !text.chars().any(char::is_control)) {
        return (!text.is_empty()).then_some(Cow::Owned(text));
    }
    // LiteLLM's: base64 that is no text when it is decoded.
    let is_base64 = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'=');
    coded.bytes().all(is_base64).then_some(Cow::Borrowed(coded))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_id_without_a_signature_is_left_alone() {
        assert_eq!(split("call_1"), ("call_1", None));
        assert_eq!(split("a__thought__not base64"), ("a__thought__not base64", None));
        assert_eq!(split("a__thought__"), ("a__thought__", None));
        assert_eq!(join("c", "ab"), "c__thought__YWI");
        assert_eq!(join("c", ""), "c");
    }

    #[test]
    fn a_signature_that_is_too_long_is_left_out() {
        let long = "s".repeat(SIGNATURE_BYTES_MAX);
        assert_eq!(split(&join("c", &long)), ("c", Some(long.clone())));
        assert_eq!(join("c", &format!("{long}s")), "c");
        let id = format!("c__thought__{}", "A".repeat(SIGNATURE_BYTES_MAX * 2));
        assert_eq!(split(&id), (id.as_str(), None));
    }

    #[test]
    fn an_id_of_litellms_is_read() {
        let id = "call_1__thought__CiQBcsjafJ3/8+Z0gA==";
        assert_eq!(split(id), ("call_1", Some("CiQBcsjafJ3/8+Z0gA==".to_owned())));
    }

    proptest! {
        #[test]
        fn what_is_joined_is_split(id in "[a-z_]{0,9}", signature in "[ -~é]{1,40}") {
            let joined = join(&id, &signature);
            prop_assert_eq!(split(&joined), (id.as_str(), Some(signature)));
        }

        #[test]
        fn no_id_makes_it_panic(id in ".{0,60}", tail in any::<String>()) {
            split(&id);
            split(&format!("{id}__thought__{tail}"));
        }
    }
}
