//! Reads the members of a `usage` object that are counted, where they are written in the plainest
//! way: whole numbers, names without escapes, no name twice. All else is left to serde.

use super::{CacheCreation, CompletionCounts, Counts, PromptCounts, ServerToolUse};
use super::{nested_end, skip_space, string_end};

/// The counts; `None` where anything is not as plain as that.
pub(super) fn read(json: &[u8]) -> Option<Counts> {
    let mut counts = Counts::default();
    let mut reader = Reader { json, at: 0 };
    reader.members(&mut |reader, name| match name {
        b"prompt_tokens" => reader.count(&mut counts.prompt_tokens),
        b"completion_tokens" => reader.count(&mut counts.completion_tokens),
        b"total_tokens" => reader.count(&mut counts.total_tokens),
        b"prompt_cache_hit_tokens" => reader.count(&mut counts.prompt_cache_hit_tokens),
        b"cache_read_input_tokens" => reader.count(&mut counts.cache_read_input_tokens),
        b"cache_creation_input_tokens" => reader.count(&mut counts.cache_creation_input_tokens),
        b"prompt_tokens_details" => reader.object(&mut counts.prompt_tokens_details, prompt),
        b"completion_tokens_details" => {
            reader.object(&mut counts.completion_tokens_details, completion)
        }
        b"cache_creation" => reader.object(&mut counts.cache_creation, creation),
        b"server_tool_use" => reader.object(&mut counts.server_tool_use, tool_use),
        _ => reader.skip(),
    })?;
    (skip_space(json, reader.at) == json.len()).then_some(counts)
}

fn prompt(counts: &mut PromptCounts, reader: &mut Reader<'_>, name: &[u8]) -> Option<()> {
    match name {
        b"cached_tokens" => reader.count(&mut counts.cached_tokens),
        b"audio_tokens" => reader.count(&mut counts.audio_tokens),
        b"cache_creation_tokens" => reader.count(&mut counts.cache_creation_tokens),
        b"cache_write_tokens" => reader.count(&mut counts.cache_write_tokens),
        b"image_tokens" => reader.count(&mut counts.image_tokens),
        _ => reader.skip(),
    }
}

fn completion(counts: &mut CompletionCounts, reader: &mut Reader<'_>, name: &[u8]) -> Option<()> {
    match name {
        b"reasoning_tokens" => reader.count(&mut counts.reasoning_tokens),
        b"audio_tokens" => reader.count(&mut counts.audio_tokens),
        b"image_tokens" => reader.count(&mut counts.image_tokens),
        _ => reader.skip(),
    }
}

fn creation(counts: &mut CacheCreation, reader: &mut Reader<'_>, name: &[u8]) -> Option<()> {
    match name {
        b"ephemeral_1h_input_tokens" => reader.count(&mut counts.ephemeral_1h_input_tokens),
        _ => reader.skip(),
    }
}

fn tool_use(counts: &mut ServerToolUse, reader: &mut Reader<'_>, name: &[u8]) -> Option<()> {
    match name {
        b"web_search_requests" => reader.count(&mut counts.web_search_requests),
        _ => reader.skip(),
    }
}

struct Reader<'a> {
    json: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    /// The next byte that is not white space.
    fn peek(&mut self) -> Option<u8> {
        self.at = skip_space(self.json, self.at);
        self.json.get(self.at).copied()
    }

    fn expect(&mut self, byte: u8) -> Option<()> {
        (self.peek()? == byte).then(|| self.at += 1)
    }

    /// Reads an object and gives `each` the names of its members, at their values.
    fn members(&mut self, each: &mut dyn FnMut(&mut Self, &'a [u8]) -> Option<()>) -> Option<()> {
        self.expect(b'{')?;
        if self.peek()? == b'}' {
            self.at += 1;
            return Some(());
        }
        loop {
            self.expect(b'"')?;
            let rest = &self.json[self.at..];
            let end = rest.iter().position(|&byte| matches!(byte, b'"' | b'\\' | 0..b' '))?;
            if rest[end] != b'"' {
                return None;
            }
            self.at += end + 1;
            self.expect(b':')?;
            each(self, &rest[..end])?;
            match self.peek()? {
                b',' => self.at += 1,
                b'}' => {
                    self.at += 1;
                    return Some(());
                }
                _ => return None,
            }
        }
    }

    /// A number without sign, fraction and exponent; null is 0.
    fn count(&mut self, count: &mut u64) -> Option<()> {
        const DIGITS_MAX: usize = 18;
        if *count != 0 {
            return None;
        }
        if self.peek()? == b'n' {
            return self.null();
        }
        let rest = &self.json[self.at..];
        let digits = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let is_plain = (1..=DIGITS_MAX).contains(&digits) && (digits == 1 || rest[0] != b'0');
        if !is_plain || matches!(rest.get(digits), Some(b'.' | b'e' | b'E')) {
            return None;
        }
        *count = rest[..digits].iter().fold(0, |sum, digit| sum * 10 + u64::from(digit - b'0'));
        self.at += digits;
        Some(())
    }

    fn null(&mut self) -> Option<()> {
        self.json[self.at..].starts_with(b"null").then(|| self.at += 4)
    }

    /// An object of counts, or null.
    fn object<T: Default>(
        &mut self,
        to: &mut Option<T>,
        read: fn(&mut T, &mut Reader<'a>, &[u8]) -> Option<()>,
    ) -> Option<()> {
        if to.is_some() {
            return None;
        }
        if self.peek()? == b'n' {
            return self.null();
        }
        let mut counts = T::default();
        self.members(&mut |reader, name| read(&mut counts, reader, name))?;
        *to = Some(counts);
        Some(())
    }

    /// A value that is not counted.
    fn skip(&mut self) -> Option<()> {
        let first = self.peek()?;
        let rest = &self.json[self.at..];
        self.at += match first {
            b'{' | b'[' => nested_end(rest)?,
            b'"' => string_end(rest)?,
            _ => rest.iter().position(|byte| matches!(byte, b',' | b'}'))?,
        };
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::usage::Usage;

    /// Whether the object is read by hand; in any case as serde reads it.
    #[track_caller]
    fn check(json: &str, by_hand: bool) {
        let read = read(json.as_bytes()).map(Usage::from);
        assert_eq!(read.is_some(), by_hand, "{json}");
        if let Some(usage) = read {
            let expect: Counts = serde_json::from_str(json).expect("serde reads it as well");
            assert_eq!(usage, Usage::from(expect), "{json}");
        }
    }

    #[test]
    fn what_providers_write_is_read_by_hand() {
        check("{}", true);
        check(
            r#"{"prompt_tokens":12,"completion_tokens":34,"total_tokens":46,
                "prompt_tokens_details":{"cached_tokens":3,"audio_tokens":0},
                "completion_tokens_details":{"reasoning_tokens":5,"audio_tokens":null,
                "accepted_prediction_tokens":0},"prompt_cache_hit_tokens":1,
                "cost":0.5,"provider":"x \" y","list":[{"a":"}"}],"flag":true}"#,
            true,
        );
        check(r#" { "prompt_tokens" : 1 , "prompt_tokens_details" : null } "#, true);
        check(r#"{"cache_creation":{"ephemeral_1h_input_tokens":4,"x":1}}"#, true);
        check(r#"{"server_tool_use":{"web_search_requests":2}}"#, true);
    }

    #[test]
    fn what_is_not_plain_is_left_to_serde() {
        for json in [
            r#"{"prompt_tokens":1.0}"#,
            r#"{"prompt_tokens":1e3}"#,
            r#"{"prompt_tokens":-1}"#,
            r#"{"prompt_tokens":01}"#,
            r#"{"prompt_tokens":"1"}"#,
            r#"{"prompt_tokens":1,"prompt_tokens":2}"#,
            r#"{"prompt_tokens":12345678901234567890}"#,
            r#"{"prompt_t\u006fkens":1}"#,
            r#"{"prompt_tokens":1"#,
            r#"{"prompt_tokens":1} x"#,
            r#"{"prompt_tokens":1,}"#,
            r#"{"prompt_tokens_details":3}"#,
            "[]",
            "",
        ] {
            check(json, false);
        }
    }

    proptest! {
        #[test]
        fn it_never_differs_from_serde(
            members in prop::collection::vec(
                (
                    prop::sample::select(vec![
                        "prompt_tokens", "completion_tokens", "total_tokens", "cached_tokens",
                        "prompt_tokens_details", "completion_tokens_details", "reasoning_tokens",
                        "cache_creation", "other",
                    ]),
                    prop::sample::select(vec![
                        "0", "7", "31", "null", "1.5", "{}", r#"{"cached_tokens":2}"#,
                        r#"{"reasoning_tokens":3,"audio_tokens":1}"#, r#"{"image_tokens":2}"#, "\"x\"", "[1]",
                    ]),
                ),
                0..6,
            ),
        ) {
            let members: Vec<String> =
                members.iter().map(|(name, value)| format!("\"{name}\":{value}")).collect();
            let json = format!("{{{}}}", members.join(","));
            if let Some(counts) = read(json.as_bytes()) {
                // Serde refuses a name that comes twice, also where it is 0 or null first.
                if let Ok(expect) = serde_json::from_str::<Counts>(&json) {
                    prop_assert_eq!(Usage::from(counts), Usage::from(expect));
                }
            }
        }
    }
}
