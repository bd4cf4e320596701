//! Directives: replies written down inside a request.
//!
//! A directive is a list of words between `[[sim` and `]]` in the last user message, or the value
//! of the request header `x-tollway-sim`. A word is a name (`no_done`) or a name and a value
//! (`rate=50`); a value is bare, a JSON string (`say="two words"`) or, after `args=`, a JSON
//! object. [`DIRECTIVES`] lists every word. The grammar is strict: what it does not know, and what
//! is said twice, is answered with a 400 that names the word.
//!
//! The same grammar builds a [`Reply`] in Rust: `"status=429 retry_after=2".parse::<Reply>()`.

use std::str::FromStr;
use std::time::Duration;

use serde_json::Value;

use crate::reply::{Call, Content, Fault, Finish, Refusal, Reply, filler, filler_arguments};

/// One word of the directive grammar, with an example and what it does.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Directive {
    /// The word itself.
    pub name: &'static str,
    /// A use of it that parses.
    pub example: &'static str,
    /// What it does.
    pub meaning: &'static str,
}

macro_rules! directives {
    ($($name:literal, $example:literal, $meaning:literal;)*) => {
        &[$(Directive { name: $name, example: $example, meaning: $meaning }),*]
    };
}

/// Every word of the directive grammar, the same in every dialect. `k` counts content chunks (one
/// token each, the opening chunk not counted) when the answer is a stream, and bytes of the body
/// when it is not. A tool call is a chunk for its name and one for each token of its arguments, so
/// `tool=find arg_tokens=29` is 30 chunks. Gemini sends a call whole, with its last chunk; of the
/// chunks before there is nothing to see.
pub const DIRECTIVES: &[Directive] = directives! {
    "say", r#"say="Good day.""#, "answer this text";
    "tokens", "tokens=200", "answer exactly this many tokens";
    "think", r#"think="Let me see.""#, "think before the answer, aloud or with a text";
    "think_tokens", "think_tokens=30", "think exactly this many tokens before the answer";
    "tool", "tool=weather", "call this tool, unless its result is already there; may be repeated";
    "args", r#"tool=weather args={"city":"Ulm"}"#, "the arguments of the tool named just before";
    "arg_tokens", "tool=weather arg_tokens=29", "arguments of exactly this many tokens, for the tool named just before";
    "then", "tool=search then tool=fetch", "what follows is the next round of tool calls";
    "forever", "tool=search forever", "repeat the last round of tool calls without end";
    "finish", "finish=content_filter", "finish with stop, length, tool_calls or content_filter";
    "echo_headers", "echo_headers", "repeat the request's headers in the head and as the answer";
    "echo_body", "echo_body", "answer the request's body as the text";
    "status", "status=429", "answer an error with this status, 300 to 599";
    "retry_after", "status=429 retry_after=2", "a retry-after header, with retry-after-ms below 1s";
    "message", r#"status=400 message="Too long.""#, "the error's message";
    "code", "status=400 code=context_length_exceeded", "the error's code";
    "type", "status=400 type=invalid_request_error", "the error's type";
    "header", r#"header="x-ratelimit-remaining-requests: 7""#, "add a response header; repeatable";
    "redirect", "redirect=http://169.254.169.254/", "answer a redirect there, 302 unless status says";
    "html", "html", "answer a web page instead of the API, 200 unless status says";
    "cached", "cached=10", "report this many prompt tokens as read from the provider's cache";
    "prompt_tokens", "prompt_tokens=1000", "report, and bill, this many prompt tokens";
    "completion_tokens", "completion_tokens=5", "report, and bill, this many completion tokens";
    "no_usage", "no_usage", "leave the usage out of the answer";
    "first_byte_delay", "first_byte_delay=500ms", "wait before the head";
    "first_token_delay", "first_token_delay=1s", "wait between the head and the first token";
    "rate", "rate=50", "tokens per second";
    "hang", "hang", "accept the request and never answer";
    "close_before_head", "close_before_head", "close the connection without an answer";
    "reset_before_head", "reset_before_head", "reset the connection without an answer";
    "cut_head", "cut_head", "close in the middle of the head";
    "cut_after", "cut_after=3", "close the connection after k";
    "cut_at_byte", "cut_at_byte=100", "close the connection after this many bytes of the body, also within an event";
    "reset_after", "reset_after=3", "reset the connection (RST) after k";
    "stall_after", "stall_after=3", "stop sending after k, and keep the connection open";
    "bad_chunk_after", "bad_chunk_after=3", "break the chunked encoding after k";
    "error_event", "error_event=3", "an error event (or exception frame) after k (1 if not said), then the end; only streams";
    "garbage", "garbage=3", "bytes that are not JSON nor UTF-8 after k (1 if not said), or as the whole body";
    "bad_crc", "bad_crc=3", "a frame with a wrong check sum after k (1 if not said), in Bedrock's streams; in others as garbage";
    "no_done", "no_done", "end the stream without [DONE], message_stop or response.completed, where the dialect has such a thing";
    "no_finish", "no_finish", "leave out the chunk that carries the finish reason";
    "huge_line", "huge_line=100000000", "a line of this many bytes before the first token";
    "crlf", "crlf", "end the lines of the stream with CR LF";
    "comments", "comments", "an SSE comment before each event";
    "coalesce", "coalesce", "send the whole stream in one piece";
    "split", "split=1", "cut each write into pieces of this many bytes";
    "big_header", "big_header=200000", "a response header of this many bytes";
    "informational", "informational=50", "this many 103 heads before the answer";
    "wrong_content_length", "wrong_content_length=-5", "content-length off by this much (10), or in a stream just this, then close";
    "until_close", "until_close", "no content-length and no chunks: the body ends with the connection";
    "close_after", "close_after", "close after the answer without having said so";
    "gzip", "gzip", "content-encoding: gzip, though nobody asked; not for streams";
};

/// A directive that could not be understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BadDirective {
    /// The word is not in [`DIRECTIVES`].
    #[error("unknown simulator directive `{0}`")]
    Unknown(String),
    /// The word needs another value, or none.
    #[error("simulator directive `{name}` expects {expected}")]
    Value {
        /// The word.
        name: String,
        /// What it takes.
        expected: &'static str,
    },
    /// The word was given twice, or contradicts an earlier one.
    #[error("simulator directive `{0}` is repeated or contradicts an earlier one")]
    Repeated(String),
    /// `[[sim` without its `]]`.
    #[error("simulator directive is not closed by ]]")]
    Unclosed,
}

impl Reply {
    /// The reply that every `[[sim …]]` in this text asks for together, and the text without them.
    pub fn from_text(text: &str) -> Result<(Option<Reply>, String), BadDirective> {
        let mut reply = None;
        let mut kept = String::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once("[[sim") {
            // `[[simple` is a text like any other.
            if !after.starts_with([' ', '\n', '\t', ']']) {
                kept.push_str(before);
                kept.push_str("[[sim");
                rest = after;
                continue;
            }
            kept.push_str(before);
            let mut parser = Parser { rest: after, reply: reply.take().unwrap_or_default() };
            parser.words(true)?;
            reply = Some(parser.reply);
            rest = parser.rest;
        }
        kept.push_str(rest);
        Ok((reply, kept.trim().to_owned()))
    }
}

impl FromStr for Reply {
    type Err = BadDirective;

    /// Reads directives as they stand in the header, without the brackets.
    fn from_str(text: &str) -> Result<Reply, BadDirective> {
        let mut parser = Parser { rest: text, reply: Reply::default() };
        parser.words(false)?;
        Ok(parser.reply)
    }
}

struct Parser<'a> {
    rest: &'a str,
    reply: Reply,
}

impl<'a> Parser<'a> {
    /// Reads words up to `]]` or, outside brackets, up to the end.
    fn words(&mut self, bracketed: bool) -> Result<(), BadDirective> {
        loop {
            self.rest = self.rest.trim_start();
            if bracketed && let Some(rest) = self.rest.strip_prefix("]]") {
                self.rest = rest;
                return Ok(());
            }
            if self.rest.is_empty() {
                return if bracketed { Err(BadDirective::Unclosed) } else { Ok(()) };
            }
            let end = self
                .rest
                .find(|c: char| c.is_whitespace() || c == '=' || c == ']')
                .unwrap_or(self.rest.len());
            let name = &self.rest[..end];
            if name.is_empty() {
                return Err(BadDirective::Unknown(self.rest.chars().take(20).collect()));
            }
            self.rest = &self.rest[end..];
            let value = match self.rest.strip_prefix('=') {
                Some(rest) => {
                    self.rest = rest;
                    Some(self.value(name)?)
                }
                None => None,
            };
            apply(&mut self.reply, name, value)?;
        }
    }

    fn value(&mut self, name: &str) -> Result<String, BadDirective> {
        if self.rest.starts_with(['"', '{']) {
            // serde_json finds the end, so that `]]` may stand inside a string.
            let mut values = serde_json::Deserializer::from_str(self.rest).into_iter::<Value>();
            let Some(Ok(value)) = values.next() else {
                return Err(BadDirective::Value { name: name.to_owned(), expected: "valid JSON" });
            };
            self.rest = &self.rest[values.byte_offset()..];
            return Ok(match value {
                Value::String(text) => text,
                other => other.to_string(),
            });
        }
        let blank = self.rest.find(char::is_whitespace).unwrap_or(self.rest.len());
        let end = self.rest.find("]]").unwrap_or(blank).min(blank);
        let value = &self.rest[..end];
        self.rest = &self.rest[end..];
        Ok(value.to_owned())
    }
}

fn apply(reply: &mut Reply, name: &str, value: Option<String>) -> Result<(), BadDirective> {
    let word = Word { name, value };
    match name {
        "say" => word.once(&mut reply.say, |word| word.text()),
        "tokens" => {
            let count = word.number(200_000)?;
            word.once(&mut reply.say, |_| Ok(filler(count as u32)))
        }
        "think" => word.once(&mut reply.think, |word| {
            Ok(word.value.clone().unwrap_or_else(|| "Nothing needs to be thought here.".into()))
        }),
        "think_tokens" => {
            let count = word.number(200_000)?;
            word.once(&mut reply.think, |_| Ok(filler(count as u32)))
        }
        "tool" => {
            let call = Call { name: word.text()?, arguments: "{}".to_owned() };
            if call.name.is_empty() {
                return Err(word.expects("a tool's name"));
            }
            match reply.rounds.last_mut() {
                Some(round) => round.push(call),
                None => reply.rounds.push(vec![call]),
            }
            Ok(())
        }
        "args" | "arg_tokens" => {
            let arguments = match name {
                "args" => word.text()?,
                _ => match word.number(200_000)? {
                    0 => return Err(word.expects("at least 1")),
                    count => filler_arguments(count as u32),
                },
            };
            let call = reply.rounds.last_mut().and_then(|round| round.last_mut());
            match call {
                Some(call) if arguments.starts_with('{') => call.arguments = arguments,
                Some(_) => return Err(word.expects("a JSON object")),
                None => return Err(word.expects("a `tool` before it")),
            }
            Ok(())
        }
        "then" => {
            word.bare()?;
            if reply.rounds.last().is_none_or(Vec::is_empty) {
                return Err(word.expects("a `tool` before it"));
            }
            reply.rounds.push(Vec::new());
            Ok(())
        }
        "forever" => word.flag(&mut reply.forever),
        "finish" => word.once(&mut reply.finish, |word| match word.value.as_deref() {
            Some("stop") => Ok(Finish::Stop),
            Some("length") => Ok(Finish::Length),
            Some("tool_calls") => Ok(Finish::ToolCalls),
            Some("content_filter") => Ok(Finish::ContentFilter),
            _ => Err(word.expects("stop, length, tool_calls or content_filter")),
        }),
        "echo_headers" => word.bare()?.content(reply, Content::EchoHeaders),
        "echo_body" => word.bare()?.content(reply, Content::EchoBody),
        "html" => word.bare()?.content(reply, Content::Html),
        "redirect" => {
            let location = word.line()?;
            word.content(reply, Content::Redirect(location))
        }
        "status" => word.once(&mut reply.status, |word| match word.number(599)? {
            status @ 300.. => Ok(status as u16),
            _ => Err(word.expects("a status from 300 to 599")),
        }),
        "retry_after" => word.once(&mut reply.retry_after, Word::duration),
        "message" => word.once(&mut reply.message, Word::text),
        "code" => word.once(&mut reply.code, Word::text),
        "type" => word.once(&mut reply.kind, Word::text),
        "header" => {
            let line = word.line()?;
            let Some((name, value)) = line.split_once(':') else {
                return Err(word.expects("\"name: value\""));
            };
            reply.headers.push((name.trim().to_owned(), value.trim().to_owned()));
            Ok(())
        }
        "cached" => word.once(&mut reply.cached, |word| word.number(u32::MAX.into())),
        "prompt_tokens" => word.once(&mut reply.prompt_tokens, |word| word.number(1 << 50)),
        "completion_tokens" => word.once(&mut reply.completion_tokens, |word| word.number(1 << 50)),
        "no_usage" => word.flag(&mut reply.no_usage),
        "first_byte_delay" => word.once(&mut reply.first_byte_delay, Word::duration),
        "first_token_delay" => word.once(&mut reply.first_token_delay, Word::duration),
        "rate" => word.once(&mut reply.rate, |word| {
            let rate = word.value.as_deref().and_then(|value| value.parse::<f64>().ok());
            match rate {
                Some(rate) if rate.is_finite() && rate >= 0.001 => Ok(rate),
                _ => Err(word.expects("a number of tokens per second, at least 0.001")),
            }
        }),
        "hang" => word.bare()?.refusal(reply, Refusal::Hang),
        "close_before_head" => word.bare()?.refusal(reply, Refusal::Close),
        "reset_before_head" => word.bare()?.refusal(reply, Refusal::Reset),
        "cut_head" => word.bare()?.refusal(reply, Refusal::CutHead),
        "cut_after" => word.fault(reply, Fault::Cut, None),
        "reset_after" => word.fault(reply, Fault::Reset, None),
        "stall_after" => word.fault(reply, Fault::Stall, None),
        "bad_chunk_after" => word.fault(reply, Fault::BadChunk, None),
        "error_event" => word.fault(reply, Fault::ErrorEvent, Some(1)),
        "garbage" => word.fault(reply, Fault::Garbage, Some(1)),
        "bad_crc" => word.fault(reply, Fault::BadSum, Some(1)),
        "cut_at_byte" => word.once(&mut reply.cut_at_byte, |word| word.number(1 << 50)),
        "no_done" => word.flag(&mut reply.no_done),
        "no_finish" => word.flag(&mut reply.no_finish),
        "huge_line" => word.once(&mut reply.huge_line, |word| word.number(1 << 40)),
        "crlf" => word.flag(&mut reply.crlf),
        "comments" => word.flag(&mut reply.comments),
        "coalesce" => word.flag(&mut reply.coalesce),
        "split" => word.once(&mut reply.split, |word| match word.number(1 << 30)? {
            0 => Err(word.expects("at least 1")),
            bytes => Ok(bytes as usize),
        }),
        "big_header" => word.once(&mut reply.big_header, |word| Ok(word.number(4 << 20)? as usize)),
        "informational" => {
            word.once(&mut reply.informational, |word| Ok(word.number(1_000_000)? as u32))
        }
        "wrong_content_length" => word.once(&mut reply.wrong_content_length, |word| {
            let value = word.value.as_deref().unwrap_or("10");
            value.parse::<i32>().map(i64::from).map_err(|_| word.expects("a difference in bytes"))
        }),
        "until_close" => word.flag(&mut reply.until_close),
        "close_after" => word.flag(&mut reply.close_after),
        "gzip" => word.flag(&mut reply.gzip),
        unknown => Err(BadDirective::Unknown(unknown.chars().take(64).collect())),
    }
}

struct Word<'a> {
    name: &'a str,
    value: Option<String>,
}

impl Word<'_> {
    fn expects(&self, expected: &'static str) -> BadDirective {
        BadDirective::Value { name: self.name.to_owned(), expected }
    }

    fn repeated(&self) -> BadDirective {
        BadDirective::Repeated(self.name.to_owned())
    }

    fn once<T>(
        &self,
        slot: &mut Option<T>,
        read: impl FnOnce(&Self) -> Result<T, BadDirective>,
    ) -> Result<(), BadDirective> {
        match slot.replace(read(self)?) {
            Some(_) => Err(self.repeated()),
            None => Ok(()),
        }
    }

    fn bare(&self) -> Result<&Self, BadDirective> {
        match self.value {
            Some(_) => Err(self.expects("no value")),
            None => Ok(self),
        }
    }

    fn flag(&self, slot: &mut bool) -> Result<(), BadDirective> {
        self.bare()?;
        match std::mem::replace(slot, true) {
            true => Err(self.repeated()),
            false => Ok(()),
        }
    }

    fn content(&self, reply: &mut Reply, content: Content) -> Result<(), BadDirective> {
        match std::mem::replace(&mut reply.content, content) {
            Content::Natural => Ok(()),
            _ => Err(self.repeated()),
        }
    }

    fn refusal(&self, reply: &mut Reply, refusal: Refusal) -> Result<(), BadDirective> {
        self.once(&mut reply.refusal, |_| Ok(refusal))
    }

    fn fault(
        &self,
        reply: &mut Reply,
        fault: Fault,
        default: Option<u64>,
    ) -> Result<(), BadDirective> {
        let after = match (&self.value, default) {
            (None, Some(default)) => default,
            _ => self.number(1 << 50)?,
        };
        self.once(&mut reply.fault, |_| Ok((after, fault)))
    }

    fn text(&self) -> Result<String, BadDirective> {
        self.value.clone().ok_or_else(|| self.expects("a value"))
    }

    /// A text that can stand in a head without ending its line.
    fn line(&self) -> Result<String, BadDirective> {
        let text = self.text()?;
        match text.contains(|c: char| c.is_control()) {
            true => Err(self.expects("a text without control characters")),
            false => Ok(text),
        }
    }

    fn number(&self, max: u64) -> Result<u64, BadDirective> {
        let value = self.value.as_deref().and_then(|value| value.parse::<u64>().ok());
        value.filter(|value| *value <= max).ok_or_else(|| self.expects("a number within bounds"))
    }

    fn duration(&self) -> Result<Duration, BadDirective> {
        let expected = "a duration such as 500ms, 2s, 1m or 2 (seconds), at most a day";
        let value = self.value.as_deref().unwrap_or_default();
        let digits = value.find(|c: char| !c.is_ascii_digit()).unwrap_or(value.len());
        let (number, unit) = value.split_at(digits);
        let number: u64 = number.parse().map_err(|_| self.expects(expected))?;
        let millis = match unit {
            "ms" => Some(number),
            "s" | "" => number.checked_mul(1000),
            "m" => number.checked_mul(60_000),
            _ => None,
        };
        match millis {
            Some(millis) if millis <= 86_400_000 => Ok(Duration::from_millis(millis)),
            _ => Err(self.expects(expected)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> String {
        text.parse::<Reply>().expect_err("should be refused").to_string()
    }

    #[test]
    fn every_listed_directive_parses_and_uses_its_own_name() {
        for directive in DIRECTIVES {
            let parsed = directive.example.parse::<Reply>();
            assert!(parsed.is_ok(), "{}: {parsed:?}", directive.example);
            assert!(directive.example.contains(directive.name), "{}", directive.name);
        }
    }

    #[test]
    fn unknown_words_wrong_values_and_repetitions_are_refused() {
        assert_eq!(error("no_done statsu=429"), "unknown simulator directive `statsu`");
        assert!(error("status=42").contains("300 to 599"));
        assert!(error("status").contains("expects"));
        assert!(error("rate=0").contains("tokens per second"));
        assert!(error("no_done=1").contains("no value"));
        assert!(error("status=429 status=500").contains("repeated"));
        assert!(error("cut_after=1 stall_after=2").contains("contradicts"));
        assert!(error("args={}").contains("before it"));
        assert!(error(r#"header="x: a\r\nb: c""#).contains("control"));
        assert!(error("=").contains("unknown"));
        assert_eq!(Reply::from_text("[[sim no_done").err(), Some(BadDirective::Unclosed));
    }

    #[test]
    fn text_around_directives_is_kept_and_several_directives_add_up() {
        let text = r#"Hi [[sim say="a ]] b" rate=2.5]] there [[sim retry_after=2 status=429]]"#;
        let (reply, kept) = Reply::from_text(text).expect("parses");
        let reply = reply.expect("a reply");
        assert_eq!(kept, "Hi  there");
        assert_eq!(reply.say.as_deref(), Some("a ]] b"));
        assert_eq!(reply.rate, Some(2.5));
        assert_eq!((reply.status, reply.retry_after), (Some(429), Some(Duration::from_secs(2))));
        let (none, kept) = Reply::from_text("[[simple]] text").expect("parses");
        assert!(none.is_none());
        assert_eq!(kept, "[[simple]] text");
    }

    #[test]
    fn tool_calls_are_grouped_in_rounds() {
        let reply: Reply =
            r#"tool=a args={"x":[1,{"y":"]]"}]} tool=b then tool=c"#.parse().expect("parses");
        let names: Vec<Vec<_>> = reply
            .rounds
            .iter()
            .map(|round| round.iter().map(|call| call.name.as_str()).collect())
            .collect();
        assert_eq!(names, [vec!["a", "b"], vec!["c"]]);
        assert_eq!(reply.rounds[0][0].arguments, r#"{"x":[1,{"y":"]]"}]}"#);
    }
}
