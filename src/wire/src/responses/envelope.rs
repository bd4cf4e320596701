//! Signed reasoning in a reasoning item's `encrypted_content`.
//!
//! To a client that member is opaque: it comes with an answer and goes back with the next request.
//! OpenAI's own holds ciphertext; ours holds the `thinking_blocks` of the middle form, which the
//! provider signed and must get back unchanged. It is versioned, so that a later gateway can tell
//! what an earlier one wrote, and everything else is left alone: it came from elsewhere.

use serde::Deserialize;
use serde_json::Value;

/// Longer ones are neither written nor read.
const ENVELOPE_BYTES_MAX: usize = 4 << 20;

/// The version this gateway writes. What it writes begins with the same characters always.
const OPEN: &[u8] = b"{\"tollway\":1,\"thinking_blocks\":[";

/// Puts blocks, each one JSON object, into an envelope. `None` where there are none, or too much.
pub(super) fn seal<'a>(blocks: impl IntoIterator<Item = &'a [u8]>) -> Option<String> {
    let mut json = OPEN.to_vec();
    for block in blocks {
        if json.len() > OPEN.len() {
            json.push(b',');
        }
        json.extend_from_slice(block);
        if json.len() > ENVELOPE_BYTES_MAX / 4 * 3 {
            return None;
        }
    }
    if json.len() == OPEN.len() {
        return None;
    }
    json.extend_from_slice(b"]}");
    Some(base64url(&json))
}

/// The blocks of an envelope; none where it is not one of ours.
pub(super) fn open(envelope: &str) -> Vec<Value> {
    #[derive(Deserialize)]
    struct Envelope {
        tollway: u64,
        thinking_blocks: Vec<Value>,
    }
    // The first characters of `{"tollway`, so that a foreign one costs nothing.
    if envelope.len() > ENVELOPE_BYTES_MAX || !envelope.starts_with("eyJ0b2xsd2F5") {
        return Vec::new();
    }
    let json = from_base64url(envelope).unwrap_or_default();
    match serde_json::from_slice::<Envelope>(&json) {
        Ok(Envelope { tollway: 1, mut thinking_blocks }) => {
            thinking_blocks.retain(|block| block["type"].is_string());
            thinking_blocks
        }
        _ => Vec::new(),
    }
}

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// RFC 4648, section 5, without padding.
pub(super) fn base64url(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for three in bytes.chunks(3) {
        let byte = |at: usize| u32::from(three.get(at).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for place in 0..=three.len() {
            let six = (bits >> (18 - 6 * place)) & 63;
            text.push(char::from(ALPHABET[six as usize]));
        }
    }
    text
}

/// Reads both alphabets of RFC 4648, with or without padding.
pub(super) fn from_base64url(text: &str) -> Option<Vec<u8>> {
    let text = text.trim_end_matches('=').as_bytes();
    let mut bytes = Vec::with_capacity(text.len() / 4 * 3 + 2);
    for four in text.chunks(4) {
        let mut bits = 0u32;
        for place in 0..4 {
            let six = match four.get(place) {
                None => 0,
                Some(byte @ b'A'..=b'Z') => byte - b'A',
                Some(byte @ b'a'..=b'z') => byte - b'a' + 26,
                Some(byte @ b'0'..=b'9') => byte - b'0' + 52,
                Some(b'-' | b'+') => 62,
                Some(b'_' | b'/') => 63,
                Some(_) => return None,
            };
            bits = bits << 6 | u32::from(six);
        }
        if four.len() == 1 {
            return None;
        }
        bytes.extend_from_slice(&bits.to_be_bytes()[1..four.len()]);
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn what_was_sealed_opens_again() {
        let thinking = json!({"type": "thinking", "thinking": "hm", "signature": "s"});
        let redacted = json!({"type": "redacted_thinking", "data": "d"});
        let texts = [thinking.to_string(), redacted.to_string()];
        let envelope = seal(texts.iter().map(String::as_bytes)).expect("there are blocks");
        assert_eq!(open(&envelope), [thinking, redacted]);
    }

    #[test]
    fn nothing_is_sealed_in_no_envelope() {
        assert_eq!(seal(std::iter::empty()), None);
        let much = vec![b'1'; ENVELOPE_BYTES_MAX];
        assert_eq!(seal([much.as_slice()]), None);
    }

    #[test]
    fn foreign_ones_are_ignored() {
        for json in [
            "{\"tollway\":2,\"thinking_blocks\":[{\"type\":\"t\"}]}",
            "{\"tollway\":1}",
            "{\"tollway",
        ] {
            assert_eq!(open(&base64url(json.as_bytes())), Vec::<Value>::new());
        }
        assert_eq!(open("gAAAAABo_fernet"), Vec::<Value>::new());
        assert_eq!(open("eyJ0b2xsd2F5!"), Vec::<Value>::new());
    }

    proptest! {
        #[test]
        fn base64_is_read_as_it_was_written(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            let text = base64url(&bytes);
            prop_assert_eq!(from_base64url(&text), Some(bytes));
        }

        #[test]
        fn no_text_makes_it_panic(text in ".{0,40}") {
            let _ = from_base64url(&text);
            let _ = open(&text);
            let _ = open(&format!("eyJ0b2xsd2F5{text}"));
        }
    }
}
