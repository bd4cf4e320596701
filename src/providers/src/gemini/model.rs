//! What a Gemini model can do, told from its name, and its name in a path.
//!
//! The rules are those of Google's pages on thinking and on Gemini 3
//! (<https://ai.google.dev/gemini-api/docs/thinking>, `/gemini-3`, `/thought-signatures`) and of
//! LiteLLM's table, read 2026-11; written by version, so that models that come later fall on the
//! right side of them.

use std::fmt::Write as _;

use crate::RequestError;

/// A model by its generation: `(2, 5)`, `(3, 0)` …
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Model {
    version: (u8, u8),
    size: Size,
    /// Gemma 3 and older, which take no system instruction.
    old_gemma: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Size {
    Pro,
    Flash,
    FlashLite,
    Other,
}

impl Model {
    /// Reads a name: `gemini-2.5-flash-lite`, `gemini-3-pro-preview`, `gemini-flash-latest` … A name
    /// that says nothing, such as a tuned model's number, is taken for Gemini 2.5.
    pub(crate) fn of(name: &str) -> Model {
        let name = bare(name).to_ascii_lowercase();
        let size = if name.contains("flash-lite") {
            Size::FlashLite
        } else if name.contains("flash") {
            Size::Flash
        } else if name.contains("pro") {
            Size::Pro
        } else {
            Size::Other
        };
        let old_gemma = ["gemma-1", "gemma-2", "gemma-3"].iter().any(|old| name.starts_with(old));
        Model { version: version(&name), size, old_gemma }
    }

    /// Gemini 3 or later: thinks by level, checks thought signatures, knows calls by id.
    pub(crate) fn is_3(self) -> bool {
        self.version >= (3, 0)
    }

    /// It has `responseJsonSchema` and `parametersJsonSchema`.
    pub(super) fn has_json_schema(self) -> bool {
        self.version >= (2, 0)
    }

    /// It takes the penalties. Gemini 3 refuses them.
    pub(super) fn has_penalties(self) -> bool {
        !self.is_3()
    }

    /// It thinks.
    pub(super) fn thinks(self) -> bool {
        self.version >= (2, 5)
    }

    /// It takes a system instruction.
    pub(super) fn has_system(self) -> bool {
        !self.old_gemma
    }

    /// It takes `thinkingLevel: "minimal"`: the small models of Gemini 3.
    pub(super) fn has_minimal_level(self) -> bool {
        matches!(self.size, Size::Flash | Size::FlashLite)
    }

    /// It takes `thinkingLevel: "medium"`: all but the first Gemini 3 Pro.
    pub(super) fn has_medium_level(self) -> bool {
        !(self.version == (3, 0) && self.size == Size::Pro)
    }

    /// The smallest thinking budget other than none, the largest, and whether none is allowed.
    pub(super) fn budgets(self) -> (u64, u64, bool) {
        match self.size {
            Size::Pro => (128, 32_768, false),
            Size::FlashLite => (512, 24_576, true),
            Size::Flash | Size::Other => (1, 24_576, true),
        }
    }
}

/// A model's name without the folders people write before it.
fn bare(name: &str) -> &str {
    name.rsplit('/').next().unwrap_or(name)
}

fn version(name: &str) -> (u8, u8) {
    if name.starts_with("gemma-") {
        // They are asked as the older models are, and do not think by these means.
        return (2, 0);
    }
    let Some((_, rest)) = name.split_once("gemini-") else { return (2, 5) };
    let mut numbers = rest.split('-').next().unwrap_or_default().split('.');
    let major = numbers.next().and_then(|text| text.parse::<u8>().ok());
    let minor = numbers.next().and_then(|text| text.parse::<u8>().ok());
    match major {
        Some(major) => (major, minor.unwrap_or(0)),
        // `gemini-flash-latest` moves with the newest model; `gemini-pro` was the first.
        None if rest.ends_with("-latest") => (3, 1),
        None if matches!(rest, "pro" | "pro-vision" | "ultra") => (1, 0),
        None => (2, 5),
    }
}

/// Refuses a name no model of Google's has. Names come from clients where a route has a wildcard,
/// and a server behind us may decode what is encoded here.
pub(crate) fn check_name(name: &str) -> Result<(), RequestError> {
    let is_fine = |byte: u8| {
        byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'@' | b'~' | b':')
    };
    let name = resource(name).1;
    if name.bytes().all(is_fine) && !name.is_empty() && name.bytes().any(|byte| byte != b'.') {
        return Ok(());
    }
    Err(RequestError::Invalid {
        message: "the model's name holds characters that no name of Google's has".into(),
        param: Some("model".into()),
    })
}

/// The folder of AI Studio a model is in, and its name there.
pub(super) fn resource(name: &str) -> (&'static str, &str) {
    match name.strip_prefix("tunedModels/") {
        Some(rest) => ("tunedModels", rest),
        None => ("models", name.strip_prefix("models/").unwrap_or(name)),
    }
}

/// A name as one segment of a path: it can neither end the segment nor be one that means another.
pub(crate) fn segment(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    for byte in name.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'@' | b'~' => {
                out.push(char::from(byte));
            }
            _ => {
                let _ = write!(out, "%{byte:02X}");
            }
        }
    }
    // Alone, these would be taken for steps in the path.
    if out.bytes().all(|byte| byte == b'.') { out.replace('.', "%2E") } else { out }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_from_names() {
        for (name, expect) in [
            ("gemini-2.5-flash-lite", ((2, 5), Size::FlashLite)),
            ("gemini-3-pro-preview", ((3, 0), Size::Pro)),
            ("models/gemini-3.8-flash", ((3, 8), Size::Flash)),
            ("gemini-2.0-flash-001", ((2, 0), Size::Flash)),
            ("gemini-1.5-pro", ((1, 5), Size::Pro)),
            ("gemini-pro", ((1, 0), Size::Pro)),
            ("gemini-flash-latest", ((3, 1), Size::Flash)),
            ("gemini-flash-lite-latest", ((3, 1), Size::FlashLite)),
            ("1234567890", ((2, 5), Size::Other)),
            ("gemma-3-27b-it", ((2, 0), Size::Other)),
        ] {
            let model = Model::of(name);
            assert_eq!((model.version, model.size), expect, "{name}");
        }
        assert!(!Model::of("gemma-3-27b-it").has_system());
        assert!(Model::of("gemma-4-31b-it").has_system());
    }

    #[test]
    fn no_name_leaves_its_segment() {
        assert_eq!(segment("gemini-2.5-pro"), "gemini-2.5-pro");
        assert_eq!(segment("claude-opus-4-5@20251101"), "claude-opus-4-5@20251101");
        assert_eq!(segment("../../x?y#z"), "..%2F..%2Fx%3Fy%23z");
        assert_eq!(segment(".."), "%2E%2E");
        assert_eq!(segment("a:b c%2F\n"), "a%3Ab%20c%252F%0A");
        assert!(check_name("gemini-2.5-pro").is_ok());
        assert!(check_name("tunedModels/my-model-1").is_ok());
        for name in ["", ".", "..", "a/b", "../x", "a?b", "a#b", "a%2Fb", "a b", "é"] {
            assert!(check_name(name).is_err(), "{name}");
        }
    }
}
