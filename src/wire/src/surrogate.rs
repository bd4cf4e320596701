//! Halves of surrogate pairs in JSON.
//!
//! `"\ud83d"` is JSON by its grammar (RFC 8259, 8.2) and no text: half of the UTF-16 code of a
//! character. A model that is cut off in the middle of an emoji may write one. Some readers refuse
//! it, some pass it on, so an answer would be good in a stream and bad in one piece, or the other way
//! round. Everywhere a provider's JSON is copied or read, each half becomes U+FFFD instead, which is
//! what a browser's decoder makes of it.

use std::borrow::Cow;

/// The JSON with every escaped half of a surrogate pair replaced by an escaped U+FFFD. Nothing moves:
/// both are six bytes. What is not JSON is left as it is, or becomes something that is not JSON.
pub fn mend(json: &[u8]) -> Cow<'_, [u8]> {
    let mut mended: Option<Vec<u8>> = None;
    let mut at = 0;
    // Outside of strings JSON has no backslash, so strings need not be told from the rest.
    while let Some(offset) = json.get(at..).and_then(|rest| memchr::memchr(b'\\', rest)) {
        at += offset;
        match code_unit(json, at) {
            None => at += 2,
            Some(0xD800..=0xDBFF) if matches!(code_unit(json, at + 6), Some(0xDC00..=0xDFFF)) => {
                at += 12;
            }
            Some(0xD800..=0xDFFF) => {
                let copy = mended.get_or_insert_with(|| json.to_vec());
                copy[at..at + 6].copy_from_slice(b"\\ufffd");
                at += 6;
            }
            Some(_) => at += 6,
        }
    }
    mended.map_or(Cow::Borrowed(json), Cow::Owned)
}

/// The code unit of the escape `\uXXXX` at `at`, if there is one.
fn code_unit(json: &[u8], at: usize) -> Option<u32> {
    let digits = json.get(at..at + 6)?.strip_prefix(b"\\u")?;
    digits.iter().try_fold(0, |unit, digit| Some(unit << 4 | char::from(*digit).to_digit(16)?))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check(json: &str, expect: &str) {
        assert_eq!(String::from_utf8_lossy(&mend(json.as_bytes())), expect, "{json}");
    }

    #[test]
    fn halves_are_replaced_and_pairs_are_not() {
        check(r#""\ud83d\ude00""#, r#""\ud83d\ude00""#);
        check(r#""\ud83d""#, r#""\ufffd""#);
        check(r#""\uDE00 \uD83D!""#, r#""\ufffd \ufffd!""#);
        check(r#""\ud83d\ud83d\ude00""#, r#""\ufffd\ud83d\ude00""#);
        check(r#""\ud83d\n""#, r#""\ufffd\n""#);
        check(r#""\ud83d\u0041""#, r#""\ufffd\u0041""#);
    }

    #[test]
    fn an_escaped_backslash_begins_nothing() {
        check(r#""\\ud83d""#, r#""\\ud83d""#);
        check(r#""\\\ud83d""#, r#""\\\ufffd""#);
        check(r#""\ud8"#, r#""\ud8"#);
        check("\\", "\\");
        check("", "");
    }

    proptest! {
        #[test]
        fn what_is_json_can_be_read_as_text_afterwards(
            text in r#"(\\u[dD][89a-fA-F0-9][0-9a-f]{2}|\\\\|\\n|u|d|[a-z]){0,12}"#
        ) {
            let json = format!("\"{text}\"");
            let mended = mend(json.as_bytes());
            prop_assert_eq!(mended.len(), json.len());
            prop_assert!(serde_json::from_slice::<String>(&mended).is_ok(), "{}", json);
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            prop_assert_eq!(mend(&bytes).len(), bytes.len());
        }
    }
}
