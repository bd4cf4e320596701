//! `validate` refuses requests that cannot succeed, before they cost anything.
//!
//! Place it after `auth` and before everything that counts or spends. It looks at the members it
//! knows, by the ranges of OpenAI's reference, and lets all others pass: providers have parameters
//! of their own. `null` counts as absent. Nothing that a caller wrote is quoted, except numbers.
//!
//! ```yaml
//! - filter: validate
//!   tools_max: 64
//!   body_bytes_max: { chat_completions: 20000000, embeddings: 4000000 }
//! ```

use std::borrow::Cow;

use memchr::{memchr_iter, memchr2};
use serde::Deserialize;
use tollway_filter_api::{
    BuildFilter, ConfigError, Deps, Filter, Phases, Reject, Rejection, RequestCtx, RequestHead,
    RequestView, Slot, Step,
};
use tollway_wire::operation::{Dialect, Operation};
use tollway_wire::scan::{Kind, Member};

/// How much of a number an error message quotes.
const NUMBER_CHARS_MAX: usize = 32;

/// The `validate` entry of a filter list.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ValidateConfig {
    /// How many bytes the body may have, per operation, below the limit of the whole gateway.
    pub body_bytes_max: BodyBytesMax,
    /// How many bytes a model name may have.
    pub model_bytes_max: usize,
    /// How many messages a chat may have. Not limited by default: counting them takes a walk over
    /// the whole body.
    pub messages_max: Option<usize>,
    /// How many tools a chat may offer. Not limited by default, for the same reason; providers have
    /// limits of their own (OpenAI 128).
    pub tools_max: Option<usize>,
    /// How many inputs one embeddings request may have.
    pub inputs_max: usize,
    /// How many answers may be asked for at once.
    pub n_max: u64,
    /// The highest `temperature`.
    pub temperature_max: f64,
    /// How many output tokens may be asked for. Not limited by default: models differ.
    pub max_tokens_max: Option<u64>,
}

impl Default for ValidateConfig {
    fn default() -> Self {
        ValidateConfig {
            body_bytes_max: BodyBytesMax::default(),
            model_bytes_max: 256,
            messages_max: None,
            tools_max: None,
            inputs_max: 2048,
            n_max: 128,
            temperature_max: 2.0,
            max_tokens_max: None,
        }
    }
}

/// Body limits per operation. Where there is none, only the gateway's own limit holds.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BodyBytesMax {
    /// For `/chat/completions`.
    pub chat_completions: Option<usize>,
    /// For `/completions`.
    pub completions: Option<usize>,
    /// For `/embeddings`.
    pub embeddings: Option<usize>,
}

/// Checks the members of a request's body.
pub struct Validate {
    config: ValidateConfig,
}

/// What is wrong with a request.
#[derive(Debug, PartialEq, thiserror::Error)]
enum Invalid {
    #[error("{path}: Missing required parameter: '{name}'.")]
    Missing { path: &'static str, name: &'static str },
    #[error("Invalid type for '{name}': expected {expected}, but got {got} instead.")]
    Type { name: &'static str, expected: &'static str, got: &'static str },
    #[error("Invalid value for '{name}': expected {expected}, got {got}.")]
    Number { name: &'static str, expected: String, got: String },
    #[error("Invalid value for '{name}': expected {expected}.")]
    Value { name: &'static str, expected: Cow<'static, str> },
    #[error("Invalid '{name}': expected at least one element, but got an empty {got} instead.")]
    Empty { name: &'static str, got: &'static str },
    #[error("Invalid '{name}': expected at most {max} elements.")]
    TooMany { name: &'static str, max: usize },
    #[error("The 'stream_options' parameter is only allowed when 'stream' is enabled.")]
    StreamOptions,
    #[error("The request body has {bytes} bytes, which is more than the {max} allowed here.")]
    TooLarge { bytes: usize, max: usize },
}

impl BuildFilter for Validate {
    const NAME: &'static str = "validate";
    type Config = ValidateConfig;

    fn build(config: ValidateConfig, _deps: &Deps, _slot: Slot) -> Result<Self, ConfigError> {
        let positive = |path: &str, value: f64| match value > 0.0 {
            true => Ok(()),
            false => Err(ConfigError::new(path, "must be greater than 0")),
        };
        positive("model_bytes_max", config.model_bytes_max as f64)?;
        positive("n_max", config.n_max as f64)?;
        positive("inputs_max", config.inputs_max as f64)?;
        positive("temperature_max", config.temperature_max)?;
        Ok(Validate { config })
    }
}

impl Filter for Validate {
    fn phases(&self) -> Phases {
        Phases::BODY
    }

    fn body<'a>(&'a self, ctx: &'a mut RequestCtx, _head: &'a RequestHead) -> Step<'a> {
        match ctx.view.as_ref().map_or(Ok(()), |view| self.check(view)) {
            Ok(()) => Step::next(),
            Err(invalid) => Step::reject(invalid),
        }
    }
}

impl Validate {
    fn check(&self, view: &RequestView) -> Result<(), Invalid> {
        let bytes = view.body.len();
        if let Some(max) = self.body_bytes_max(view.operation).filter(|max| bytes > *max) {
            return Err(Invalid::TooLarge { bytes, max });
        }
        let required = view.operation.required(view.dialect);
        let (mut has_model, mut has_required, mut has_stream_options) = (false, false, false);
        // One pass over what is there is cheaper than asking for everything that could be.
        for member in view.object.iter().filter(|member| member.kind != Kind::Null) {
            let escaped = member.key_escaped.then(|| member.name(&view.body));
            let name = match &escaped {
                Some(name) => name.as_bytes(),
                None => member.key.of(&view.body),
            };
            has_model |= name == b"model";
            has_required |= required.is_some_and(|required| name == required.as_bytes());
            has_stream_options |= name == b"stream_options";
            self.check_member(view, name, Value { member, body: &view.body })?;
        }
        let path = view.operation.path_in(view.dialect);
        match (has_model, required) {
            (false, _) => return Err(Invalid::Missing { path, name: "model" }),
            (true, Some(name)) if !has_required => return Err(Invalid::Missing { path, name }),
            (true, _) => (),
        }
        let is_openai = view.dialect == Dialect::OpenAi;
        if has_stream_options && is_openai && !view.stream {
            Err(Invalid::StreamOptions)
        } else {
            Ok(())
        }
    }

    fn body_bytes_max(&self, operation: Operation) -> Option<usize> {
        let max = &self.config.body_bytes_max;
        match operation {
            Operation::ChatCompletions => max.chat_completions,
            Operation::Completions => max.completions,
            Operation::Embeddings => max.embeddings,
            _ => None,
        }
    }

    fn check_member(
        &self,
        view: &RequestView,
        name: &[u8],
        value: Value<'_>,
    ) -> Result<(), Invalid> {
        use Operation::{ChatCompletions, Completions, Embeddings};
        let config = &self.config;
        let max_tokens = config.max_tokens_max.unwrap_or(u64::MAX);
        match (view.operation, name) {
            (_, b"model") => value.model(config.model_bytes_max),
            (ChatCompletions, b"tools") => value.tools("tools", config.tools_max),
            (ChatCompletions, b"messages") => value.array("messages", config.messages_max),
            (_, b"stream") => value.boolean("stream"),
            // The others' parameters have other names and ranges, which their providers know.
            _ if view.dialect != Dialect::OpenAi => Ok(()),
            (_, b"user") => value.string("user"),

            (ChatCompletions, b"functions") => value.tools("functions", config.tools_max),
            (ChatCompletions, b"logprobs") => value.boolean("logprobs"),
            (ChatCompletions, b"top_logprobs") => value.integer("top_logprobs", 0, 20),
            (ChatCompletions, b"max_tokens") => value.integer("max_tokens", 1, max_tokens),
            (ChatCompletions, b"max_completion_tokens") => {
                value.integer("max_completion_tokens", 1, max_tokens)
            }

            (Completions, b"prompt") => value.text_or_array("prompt", None),
            (Completions, b"logprobs") => value.integer("logprobs", 0, 5),
            (Completions, b"best_of") => value.integer("best_of", 0, 20),
            (Completions, b"echo") => value.boolean("echo"),
            // 0 is of use together with `echo`: it scores the prompt.
            (Completions, b"max_tokens") => value.integer("max_tokens", 0, max_tokens),

            (Embeddings, b"input") => value.text_or_array("input", Some(config.inputs_max)),
            (Embeddings, b"dimensions") => value.integer("dimensions", 1, u64::MAX),
            (Embeddings, b"encoding_format") => {
                value.one_of("encoding_format", &["float", "base64"], "'float' or 'base64'")
            }
            (ChatCompletions | Completions, _) => self.check_sampling(name, value),
            _ => Ok(()),
        }
    }

    /// What chat and legacy completions have in common.
    fn check_sampling(&self, name: &[u8], value: Value<'_>) -> Result<(), Invalid> {
        let config = &self.config;
        match name {
            b"stream_options" => value.object("stream_options"),
            b"temperature" => value.number("temperature", 0.0, config.temperature_max),
            b"top_p" => value.number("top_p", 0.0, 1.0),
            b"presence_penalty" => value.number("presence_penalty", -2.0, 2.0),
            b"frequency_penalty" => value.number("frequency_penalty", -2.0, 2.0),
            b"n" => value.integer("n", 1, config.n_max),
            b"seed" => value.seed("seed"),
            // OpenAI takes four, others more: they know how many themselves.
            b"stop" => value.string_or_array("stop"),
            _ => Ok(()),
        }
    }
}

/// The value of one member, to be checked.
#[derive(Clone, Copy)]
struct Value<'a> {
    member: &'a Member,
    body: &'a [u8],
}

impl<'a> Value<'a> {
    fn raw(self) -> &'a [u8] {
        self.member.value.of(self.body)
    }

    /// The value as it is written, which the scan has found to be UTF-8. For what is short.
    fn written(self) -> &'a str {
        std::str::from_utf8(self.raw()).unwrap_or_default()
    }

    fn wrong_type<T>(self, name: &'static str, expected: &'static str) -> Result<T, Invalid> {
        let got = match self.member.kind {
            Kind::Null => "null",
            Kind::Bool(_) => "a boolean",
            Kind::Number => "a number",
            Kind::String { .. } => "a string",
            Kind::Array { .. } => "an array",
            Kind::Object => "an object",
        };
        Err(Invalid::Type { name, expected, got })
    }

    fn wrong_number<T>(self, name: &'static str, expected: String) -> Result<T, Invalid> {
        let got = self.written().chars().take(NUMBER_CHARS_MAX).collect();
        Err(Invalid::Number { name, expected, got })
    }

    fn boolean(self, name: &'static str) -> Result<(), Invalid> {
        match self.member.kind {
            Kind::Bool(_) => Ok(()),
            _ => self.wrong_type(name, "a boolean"),
        }
    }

    fn string(self, name: &'static str) -> Result<(), Invalid> {
        match self.member.kind {
            Kind::String { .. } => Ok(()),
            _ => self.wrong_type(name, "a string"),
        }
    }

    fn object(self, name: &'static str) -> Result<(), Invalid> {
        match self.member.kind {
            Kind::Object => Ok(()),
            _ => self.wrong_type(name, "an object"),
        }
    }

    fn string_or_array(self, name: &'static str) -> Result<(), Invalid> {
        match self.member.kind {
            Kind::String { .. } | Kind::Array { .. } => Ok(()),
            _ => self.wrong_type(name, "a string or an array of strings"),
        }
    }

    fn number(self, name: &'static str, min: f64, max: f64) -> Result<(), Invalid> {
        let Kind::Number = self.member.kind else {
            return self.wrong_type(name, "a number");
        };
        match self.written().parse::<f64>() {
            Ok(number) if (min..=max).contains(&number) => Ok(()),
            _ => self.wrong_number(name, format!("a number between {min} and {max}")),
        }
    }

    fn integer(self, name: &'static str, min: u64, max: u64) -> Result<(), Invalid> {
        let Kind::Number = self.member.kind else {
            return self.wrong_type(name, "an integer");
        };
        match self.written().parse::<u64>() {
            Ok(number) if (min..=max).contains(&number) => Ok(()),
            _ if max == u64::MAX => {
                self.wrong_number(name, format!("an integer of at least {min}"))
            }
            _ => self.wrong_number(name, format!("an integer between {min} and {max}")),
        }
    }

    fn seed(self, name: &'static str) -> Result<(), Invalid> {
        let Kind::Number = self.member.kind else {
            return self.wrong_type(name, "an integer");
        };
        match self.written().parse::<i64>() {
            Ok(_) => Ok(()),
            Err(_) => self.wrong_number(name, "an integer of 64 bits".to_owned()),
        }
    }

    fn one_of(
        self,
        name: &'static str,
        choices: &[&str],
        expected: &'static str,
    ) -> Result<(), Invalid> {
        self.string(name)?;
        let text = self.text();
        match choices.contains(&&*text) {
            true => Ok(()),
            false => Err(Invalid::Value { name, expected: expected.into() }),
        }
    }

    fn model(self, bytes_max: usize) -> Result<(), Invalid> {
        self.string("model")?;
        let model = self.text();
        let is_name = (1..=bytes_max).contains(&model.len()) && !model.contains(char::is_control);
        if is_name {
            return Ok(());
        }
        let expected = format!("a model name of 1 to {bytes_max} bytes without control characters");
        Err(Invalid::Value { name: "model", expected: expected.into() })
    }

    /// An array with something in it.
    fn array(self, name: &'static str, max: Option<usize>) -> Result<(), Invalid> {
        let Kind::Array { .. } = self.member.kind else {
            return self.wrong_type(name, "an array of objects");
        };
        if first_element(self.raw()).is_none() {
            return Err(Invalid::Empty { name, got: "array" });
        }
        self.at_most(name, max)
    }

    /// Like [`Value::array`], but no tools are as good as none mentioned.
    fn tools(self, name: &'static str, max: Option<usize>) -> Result<(), Invalid> {
        match self.member.kind {
            Kind::Array { .. } => self.at_most(name, max),
            _ => self.wrong_type(name, "an array of objects"),
        }
    }

    /// A text, texts, tokens, or texts as tokens: what is completed or embedded.
    fn text_or_array(self, name: &'static str, max: Option<usize>) -> Result<(), Invalid> {
        match self.member.kind {
            // `""` is two quotes. An empty prompt is a beginning like any other.
            Kind::String { .. } if self.raw().len() == 2 && name == "input" => {
                Err(Invalid::Empty { name, got: "string" })
            }
            Kind::String { .. } => Ok(()),
            Kind::Array { .. } => match first_element(self.raw()) {
                None => Err(Invalid::Empty { name, got: "array" }),
                // An array of numbers is one text, as tokens.
                Some(b'-' | b'0'..=b'9') => Ok(()),
                Some(_) => self.at_most(name, max),
            },
            _ => self.wrong_type(name, "a string or an array"),
        }
    }

    fn at_most(self, name: &'static str, max: Option<usize>) -> Result<(), Invalid> {
        match max {
            Some(max) if has_more_than(self.raw(), max) => Err(Invalid::TooMany { name, max }),
            _ => Ok(()),
        }
    }

    /// The text of a string.
    fn text(self) -> Cow<'a, str> {
        let raw = self.written();
        match self.member.kind {
            Kind::String { escaped: true } => serde_json::from_str(raw).unwrap_or_default(),
            _ => Cow::Borrowed(raw.get(1..raw.len().saturating_sub(1)).unwrap_or_default()),
        }
    }
}

/// The first byte of an array's first element, if it has any. `array` is valid JSON.
fn first_element(array: &[u8]) -> Option<u8> {
    let inside = array.get(1..)?.trim_ascii_start();
    inside.first().copied().filter(|byte| *byte != b']')
}

/// Whether an array has more than `max` elements. `array` is valid JSON.
fn has_more_than(array: &[u8], max: usize) -> bool {
    // Most arrays are so short, or have so few commas, that there is nothing to tell apart.
    if array.len() <= max.saturating_mul(2).saturating_add(2)
        || memchr_iter(b',', array).count() < max
    {
        return false;
    }
    let (mut at, mut depth, mut elements) = (0, 0_usize, 1_usize);
    while let Some(byte) = array.get(at) {
        match byte {
            b'"' => at = string_end(array, at + 1),
            b'[' | b'{' => depth += 1,
            b']' | b'}' => depth = depth.saturating_sub(1),
            b',' if depth == 1 => {
                elements += 1;
                if elements > max {
                    return true;
                }
            }
            _ => (),
        }
        at += 1;
    }
    first_element(array).is_some() && elements > max
}

/// Where a string's closing quote is; `from` is after the opening one.
fn string_end(bytes: &[u8], mut from: usize) -> usize {
    while let Some(rest) = bytes.get(from..) {
        match memchr2(b'"', b'\\', rest) {
            Some(at) if rest[at] == b'"' => return from + at,
            // Whatever a backslash stands before is part of the string.
            Some(at) => from += at + 2,
            None => break,
        }
    }
    bytes.len()
}

impl From<Invalid> for Rejection {
    fn from(invalid: Invalid) -> Self {
        let (code, param) = match &invalid {
            Invalid::Missing { name, .. } => ("missing_required_parameter", *name),
            Invalid::Type { name, .. } => ("invalid_type", *name),
            Invalid::Number { name, .. } | Invalid::Value { name, .. } => ("invalid_value", *name),
            Invalid::Empty { name, got: "array" } => ("empty_array", *name),
            Invalid::Empty { name, .. } => ("empty_string", *name),
            Invalid::TooMany { name, .. } => ("array_above_max_length", *name),
            Invalid::StreamOptions => ("invalid_value", "stream_options"),
            Invalid::TooLarge { .. } => {
                return Reject::new(413, "invalid_request_error", invalid.to_string())
                    .with_code("request_too_large");
            }
        };
        Reject::invalid_request(invalid.to_string()).with_code(code).with_param(param)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use bytes::Bytes;
    use serde_json::json;
    use tollway_filter_api::Flow;
    use tollway_wire::scan::{Limits, scan};

    use super::*;

    fn validate(settings: serde_json::Value) -> Validate {
        let config = serde_json::from_value(settings).expect("settings are of the right kind");
        Validate::build(config, &Deps::for_test(), Slot(0)).expect("the settings are right")
    }

    fn run(settings: serde_json::Value, operation: Operation, body: &str) -> Result<(), Rejection> {
        let filter = validate(settings);
        let object = scan(body.as_bytes(), &Limits::default()).expect("the body is valid");
        let stream = object.bool(body.as_bytes(), "stream") == Some(true);
        let body = Bytes::copy_from_slice(body.as_bytes());
        let view = RequestView {
            operation,
            dialect: Dialect::OpenAi,
            form: None,
            body,
            object,
            stream,
            include_usage: false,
        };
        let mut ctx = RequestCtx::new("id".into(), Instant::now(), "/v1/chat/completions");
        ctx.view = Some(std::sync::Arc::new(view));
        let head = http::Request::new(()).into_parts().0;
        match filter.body(&mut ctx, &head) {
            Step::Ready(Flow::Next) => Ok(()),
            Step::Ready(Flow::Reject(why)) => Err(why),
            _ => panic!("validate neither waits nor answers"),
        }
    }

    /// `extra` stands after the members that a request must have.
    #[track_caller]
    fn check(operation: Operation, extra: &str, expect: Result<(), &str>) {
        let required = match operation {
            Operation::ChatCompletions => r#""messages":[{"role":"user","content":"hi"}]"#,
            Operation::Completions => r#""prompt":"Once""#,
            _ => r#""input":"hi""#,
        };
        let body = format!(r#"{{"model":"m",{required}{extra}}}"#);
        let have = run(json!({}), operation, &body).map_err(|why| why.message);
        assert_eq!(have.as_ref().map_err(String::as_str).copied(), expect, "{body}");
    }

    #[track_caller]
    fn check_code(operation: Operation, body: &str, code: &str, param: &str) {
        let why = run(json!({}), operation, body).expect_err(body);
        assert_eq!((why.status, &*why.kind), (400, "invalid_request_error"));
        assert_eq!(
            (why.code.as_deref(), why.param.as_deref()),
            (Some(code), Some(param)),
            "{body}"
        );
    }

    use Operation::{ChatCompletions as Chat, Completions as Text, Embeddings as Embed};

    #[test]
    fn plain_requests_pass() {
        check(Chat, "", Ok(()));
        check(Text, "", Ok(()));
        check(Embed, "", Ok(()));
        check(Chat, r#","some_provider_option":{"a":[1]}"#, Ok(()));
    }

    #[test]
    fn missing_members_are_named_as_litellm_does() {
        let message = |operation, body| run(json!({}), operation, body).expect_err(body).message;
        assert_eq!(
            message(Chat, r#"{"model":"m"}"#),
            "/chat/completions: Missing required parameter: 'messages'."
        );
        check_code(Chat, r#"{"model":"m"}"#, "missing_required_parameter", "messages");
        check_code(
            Chat,
            r#"{"model":"m","messages":null}"#,
            "missing_required_parameter",
            "messages",
        );
        check_code(Chat, r#"{"messages":[{}]}"#, "missing_required_parameter", "model");
        check_code(Text, r#"{"model":"m"}"#, "missing_required_parameter", "prompt");
        check_code(Embed, r#"{"model":"m","prompt":""}"#, "missing_required_parameter", "input");
        check_code(Embed, r#"{}"#, "missing_required_parameter", "model");
    }

    #[test]
    fn required_members_hold_something() {
        check_code(Chat, r#"{"model":"m","messages":[]}"#, "empty_array", "messages");
        check_code(Chat, r#"{"model":"m","messages":[ ]}"#, "empty_array", "messages");
        check_code(Chat, r#"{"model":"m","messages":"hi"}"#, "invalid_type", "messages");
        check_code(Embed, r#"{"model":"m","input":""}"#, "empty_string", "input");
        check_code(Embed, r#"{"model":"m","input":[]}"#, "empty_array", "input");
        check_code(Embed, r#"{"model":"m","input":{}}"#, "invalid_type", "input");
        check_code(Text, r#"{"model":"m","prompt":1}"#, "invalid_type", "prompt");
    }

    #[test]
    fn model_is_a_name() {
        let body = |model: &str| format!(r#"{{"model":{model},"messages":[{{}}]}}"#);
        for wrong in [r#""""#, r#""a\nb""#, r#""a\u0000""#, &format!(r#""{}""#, "m".repeat(257))] {
            check_code(Chat, &body(wrong), "invalid_value", "model");
        }
        check_code(Chat, &body("1"), "invalid_type", "model");
        for right in [r#""m""#, r#""\u006d""#, &format!(r#""{}""#, "m".repeat(256))] {
            assert!(run(json!({}), Chat, &body(right)).is_ok(), "{right}");
        }
    }

    #[test]
    fn numbers_stay_in_their_range() {
        check(
            Chat,
            r#","temperature":3"#,
            Err("Invalid value for 'temperature': expected a number between 0 and 2, got 3."),
        );
        check(
            Chat,
            r#","n":0"#,
            Err("Invalid value for 'n': expected an integer between 1 and 128, got 0."),
        );
        check(
            Chat,
            r#","max_tokens":1.5"#,
            Err("Invalid value for 'max_tokens': expected an integer of at least 1, got 1.5."),
        );
        for right in [
            r#""temperature":0"#,
            r#""temperature":2.0"#,
            r#""temperature":null"#,
            r#""top_p":1e0"#,
            r#""presence_penalty":-2"#,
            r#""frequency_penalty":2"#,
            r#""n":128"#,
            r#""max_tokens":1"#,
            r#""max_completion_tokens":100000"#,
            r#""top_logprobs":20"#,
            r#""seed":-9223372036854775808"#,
        ] {
            check(Chat, &format!(",{right}"), Ok(()));
        }
        for wrong in [
            r#""temperature":-0.1"#,
            r#""temperature":1e999"#,
            r#""top_p":1.1"#,
            r#""presence_penalty":-2.1"#,
            r#""n":129"#,
            r#""n":-1"#,
            r#""max_tokens":0"#,
            r#""top_logprobs":21"#,
            r#""seed":1.5"#,
            r#""seed":99999999999999999999"#,
        ] {
            let body = format!(r#"{{"model":"m","messages":[{{}}],{wrong}}}"#);
            let param = wrong.split('"').nth(1).unwrap();
            check_code(Chat, &body, "invalid_value", param);
        }
    }

    #[test]
    fn long_numbers_are_not_quoted_in_full() {
        let body = format!(r#"{{"model":"m","messages":[1],"n":{}}}"#, "9".repeat(500));
        let why = run(json!({}), Chat, &body).expect_err("too large");
        assert!(why.message.len() < 120, "{}", why.message);
    }

    #[test]
    fn kinds_are_checked_without_quoting_values() {
        check(
            Chat,
            r#","temperature":"hot""#,
            Err("Invalid type for 'temperature': expected a number, but got a string instead."),
        );
        for wrong in [
            r#""stream":"true""#,
            r#""stream_options":[]"#,
            r#""logprobs":1"#,
            r#""stop":5"#,
            r#""user":{}"#,
            r#""tools":{}"#,
            r#""n":"1""#,
            r#""seed":"x""#,
        ] {
            let body = format!(r#"{{"model":"m","messages":[{{}}],{wrong}}}"#);
            let param = wrong.split('"').nth(1).unwrap();
            check_code(Chat, &body, "invalid_type", param);
        }
        check(Chat, r#","stop":["a","b","c","d","e"],"tools":[],"user":"u""#, Ok(()));
    }

    #[test]
    fn operations_differ() {
        check(Text, r#","max_tokens":0,"echo":true,"logprobs":5,"best_of":2"#, Ok(()));
        check_code(
            Text,
            r#"{"model":"m","prompt":"","logprobs":true}"#,
            "invalid_type",
            "logprobs",
        );
        check(Embed, r#","dimensions":1,"encoding_format":"base64","temperature":99"#, Ok(()));
        let body = r#"{"model":"m","input":"x","encoding_format":"int8"}"#;
        check_code(Embed, body, "invalid_value", "encoding_format");
        let body = r#"{"model":"m","input":"x","dimensions":0}"#;
        check_code(Embed, body, "invalid_value", "dimensions");
    }

    #[test]
    fn stream_options_need_a_stream() {
        check(Chat, r#","stream":true,"stream_options":{"include_usage":true}"#, Ok(()));
        check(Chat, r#","stream_options":null"#, Ok(()));
        let refused = "The 'stream_options' parameter is only allowed when 'stream' is enabled.";
        check(Chat, r#","stream_options":{}"#, Err(refused));
        check(Chat, r#","stream":false,"stream_options":{}"#, Err(refused));
    }

    #[test]
    fn arrays_are_counted_only_as_far_as_needed() {
        let check = |array: &str, max: usize, expect: bool| {
            assert_eq!(has_more_than(array.as_bytes(), max), expect, "{array} {max}");
        };
        check("[]", 0, false);
        check("[ \n\t ]", 0, false);
        check("[1]", 0, true);
        check("[1,2]", 2, false);
        check("[1,2,3]", 2, true);
        check(r#"["a,b,c,d,e,f,g,h"]"#, 1, false);
        check(r#"["a\",\"\\\\\",b,c","\\"]"#, 2, false);
        check(r#"["a\",\"\\\\\",b,c","\\",""]"#, 2, true);
        check("[[1,2,3],[4,5,6]]", 2, false);
        check(r#"[{"a":1,"b":[1,2]},{"c":"]"}]"#, 2, false);
        check(r#"[{"a":1,"b":[1,2]},{"c":"]"}]"#, 1, true);
    }

    #[test]
    fn limits_can_be_set() {
        let check = |settings, operation, body: &str, code: Option<&str>| {
            let have = run(settings, operation, body).err().and_then(|why| why.code);
            assert_eq!(have.as_deref(), code, "{body}");
        };
        let tools = r#"{"model":"m","messages":[{}],"tools":[{"a":"b"},{"c":"d"}]}"#;
        check(json!({"tools_max": 2}), Chat, tools, None);
        check(json!({"tools_max": 1}), Chat, tools, Some("array_above_max_length"));
        let chat = r#"{"model":"m","messages":[{"a":"b"},{"c":"d"}],"max_tokens":50}"#;
        check(json!({"messages_max": 2}), Chat, chat, None);
        check(json!({"messages_max": 1}), Chat, chat, Some("array_above_max_length"));
        check(json!({"max_tokens_max": 49}), Chat, chat, Some("invalid_value"));
        let texts = r#"{"model":"m","input":["a","b","c"]}"#;
        check(json!({"inputs_max": 2}), Embed, texts, Some("array_above_max_length"));
        let tokens = r#"{"model":"m","input":[1,2,3,4,5,6,7,8,9]}"#;
        check(json!({"inputs_max": 2}), Embed, tokens, None);
        let limits = json!({"body_bytes_max": {"embeddings": 20}});
        check(limits.clone(), Embed, tokens, Some("request_too_large"));
        check(limits, Chat, chat, None);
    }
}
