//! Gemini's thought signature inside a tool call's id, for client dialects that have no other place
//! to carry it: `{id}__thought__{signature in base64url}`.
//!
//! The client hands the id back with the tool's answer and in the history, so the signature comes
//! back too. Base64url has no character that Anthropic or OpenAI refuse in an id.

/// What stands between id and signature.
const MARK: &str = "__thought__";

/// The id that carries a signature.
pub fn join(id: &str, signature: &str) -> String {
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
    let Some((bare, coded)) = id.rsplit_once(MARK) else { return (id, None) };
    match decode(coded).and_then(|bytes| String::from_utf8(bytes).ok()) {
        Some(signature) if !signature.is_empty() => (bare, Some(signature)),
        _ => (id, None),
    }
}

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

fn decode(coded: &str) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(coded.len() / 4 * 3 + 3);
    let (mut bits, mut count) = (0u32, 0u32);
    for byte in coded.bytes() {
        let value = ALPHABET.iter().position(|letter| *letter == byte)?;
        bits = bits << 6 | u32::try_from(value).ok()?;
        count += 6;
        if count >= 8 {
            count -= 8;
            out.push((bits >> count & 0xFF) as u8);
        }
    }
    Some(out)
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
    }

    proptest! {
        #[test]
        fn what_is_joined_is_split(id in "[a-z_]{0,9}", signature in ".{1,40}") {
            let joined = join(&id, &signature);
            prop_assert_eq!(split(&joined), (id.as_str(), Some(signature)));
        }
    }
}
