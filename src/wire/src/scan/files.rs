//! Files in a body, in any dialect: noticed as the scanner passes the strings that tell of them.

use super::{Span, unescape};

/// What the types and members begin with that hold images, documents, recordings and references to
/// such (reference pages of OpenAI, Anthropic and Gemini, 2026-11).
const NAMES: &[&str] = &[
    "document",
    "file",
    "image",
    "inlineData",
    "inline_data",
    "input_audio",
    "input_file",
    "input_image",
    "item_reference",
    "video",
];

/// The longest name of a type or member that begins with one of them: with all of it escaped, a
/// longer string is none.
const NAME_BYTES_MAX: usize = 6 * 16;

/// How long a string is that can be a file of its own, rather than a word or a name.
pub(super) const INLINE_BYTES_MIN: usize = 4096;

/// How far into a data URL its encoding is told.
const MEDIA_TYPE_BYTES_MAX: usize = 256;

/// Files that are written into a value, as base64.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Inline {
    /// How many, but for those smaller than 4 KiB.
    pub files: u32,
    /// Their bytes as they are written.
    pub bytes: u32,
}

impl Inline {
    pub(super) fn since(self, before: Inline) -> Inline {
        Inline { files: self.files - before.files, bytes: self.bytes - before.bytes }
    }
}

/// Whether a string may begin with one of the names, by its first letters.
#[inline(always)]
pub(super) fn may_be_name(first: Option<&[u8; 4]>) -> bool {
    matches!(first, Some(b"docu" | b"file" | b"imag" | b"inli" | b"inpu" | b"item" | b"vide"))
}

/// Whether the string that goes on like this begins with one of the names.
#[cold]
pub(super) fn is_name(text: &[u8]) -> bool {
    NAMES.iter().any(|name| text.starts_with(name.as_bytes()))
}

/// The same of a string with escapes.
#[cold]
pub(super) fn is_escaped_name(body: &[u8], inside: Span) -> bool {
    inside.len() <= NAME_BYTES_MAX
        && unescape(body, inside, true).is_some_and(|text| is_name(text.as_bytes()))
}

/// Whether a long string is a file: a data URL, or what a member `data` holds.
#[cold]
pub(super) fn is_inline(body: &[u8], inside: Span) -> bool {
    let text = inside.of(body);
    let head = &text[..text.len().min(MEDIA_TYPE_BYTES_MAX)];
    if head.starts_with(b"data:") {
        return head.windows(8).any(|part| part == b";base64,");
    }
    let before = body[..inside.start as usize - 1].trim_ascii_end();
    before.strip_suffix(b":").is_some_and(|key| key.trim_ascii_end().ends_with(b"\"data\""))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::scan::{Limits, scan};

    #[track_caller]
    fn names_files(body: &str) -> bool {
        scan(body.as_bytes(), &Limits::default()).expect("valid").names_files()
    }

    #[test]
    fn files_are_known_by_their_types_and_members() {
        for body in [
            r#"{"messages":[{"content":[{"type":"image_url","image_url":{"url":"https://x/y"}}]}]}"#,
            r#"{"messages":[{"content":[{"type":"image","source":{"type":"url","url":"x"}}]}]}"#,
            r#"{"messages":[{"content":[{"type":"document","source":{}}]}]}"#,
            r#"{"input":[{"type":"input_file","file_id":"x"}]}"#,
            r#"{"input":[{"type":"item_reference","id":"x"}]}"#,
            r#"{"contents":[{"parts":[{"inlineData":{}}]}]}"#,
            r#"{"contents":[{"parts":[{"inline_data":{}}]}]}"#,
            r#"{"a":"file"}"#,
            // Written so that the letters are not there.
            r#"{"a":[{"type":"\u0069mage"}]}"#,
            r#"{"a":[{"type":"input\u005faudio"}]}"#,
            r#"{"a":[{"f\u0069le_id":1}]}"#,
        ] {
            assert!(names_files(body), "{body}");
        }
        for body in [
            r#"{"a":"no image"}"#,
            r#"{"a":"fil","b":"imagine","c":["docu","inputs","items"]}"#,
            r#"{"a":"\nimage","b":"an \"image\""}"#,
        ] {
            assert!(!names_files(body), "{body}");
        }
    }

    #[test]
    fn files_that_are_written_into_a_value_are_known_in_every_dialect() {
        let base64 = "QUJD".repeat(2048);
        let slashes = "QU\\/D".repeat(2048);
        for (file, bytes) in [
            (format!(r#"{{"image_url":{{"url":"data:image/png;base64,{base64}"}}}}"#), 22 + 8192),
            (format!(r#"{{"url":"data:image\/png;base64,{slashes}"}}"#), 23 + 10240),
            (format!(r#"{{"source":{{"type":"base64","data":"{base64}"}}}}"#), 8192),
            (format!(r#"{{"inlineData":{{"data" : "{base64}","mimeType":"image/png"}}}}"#), 8192),
            (format!(r#"{{"url":"data:text/plain,{base64}"}}"#), 0),
            (format!(r#"{{"text":"see data:image/png;base64,{base64}"}}"#), 0),
            (format!(r#"{{"text":"\"data\":{base64}"}}"#), 0),
            (r#"{"data":"QUJD"}"#.to_owned(), 0),
        ] {
            let body = format!(r#"{{"none":"x","one":[{file}],"two":[{file},{file}]}}"#);
            let body = body.as_bytes();
            let object = scan(body, &Limits::default()).expect("valid");
            let inline = |name| object.get(body, name).expect("present").inline;
            let files = u32::from(bytes > 0);
            assert_eq!(inline("none"), Inline::default());
            assert_eq!(inline("one"), Inline { files, bytes }, "{file:.60}");
            assert_eq!(inline("two"), Inline { files: 2 * files, bytes: 2 * bytes });
        }
    }

    fn text() -> impl Strategy<Value = String> {
        let name = prop::sample::select(NAMES).prop_map(str::to_owned);
        prop_oneof![name, "[dfiv][a-z]{2,8}", "(docu|file|imag|inpu|item|vide)[a-z_]{0,6}"]
    }

    proptest! {
        #[test]
        fn names_are_seen_wherever_they_are(
            texts in prop::collection::vec((text(), 0..4usize), 1..6),
            (escape, as_key, blanks) in (any::<bool>(), any::<bool>(), 0..70usize),
        ) {
            let mut body = format!("{{{}\"a\":[0", " ".repeat(blanks));
            for (text, at) in &texts {
                let mut letters: Vec<String> = text.chars().map(String::from).collect();
                if escape {
                    letters[*at % text.len()] =
                        format!("\\u{:04x}", text.as_bytes()[*at % text.len()]);
                }
                let text = letters.concat();
                body += &if as_key { format!(",{{\"{text}\":1}}") } else { format!(",\"{text}\"") };
            }
            body += "]}";
            let is_name = |(text, _): &(String, usize)| NAMES.iter().any(|n| text.starts_with(n));
            prop_assert_eq!(names_files(&body), texts.iter().any(is_name), "{}", body);
        }
    }
}
