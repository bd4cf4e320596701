//! Legacy text completions over chat, for providers that have only chat.
//!
//! `POST /v1/completions` as <https://platform.openai.com/docs/api-reference/completions> has it
//! (read 2026-11): [`to_chat`] makes the prompt a user's turn, [`TextEncoder`] puts the answer back.
//! What a chat cannot do is refused and not ignored: token ids for a prompt, several prompts at
//! once, `suffix`, more tries than answers (`best_of`), log probabilities of the prompt. As in
//! LiteLLM, a request without `max_tokens` is not cut at OpenAI's 16.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::response::{ChatChunk, ChatResponse, ErrorObject};
use crate::client::{Asked, EncodeError, Encoder, Invalid};
use crate::sse::Parser;

/// OpenAI's limit for `n`, and more answers than any stream has at once.
const CHOICES_MAX: usize = 128;

/// Writes a completions request as a chat request.
///
/// # Errors
/// When the request is malformed, or asks for what no chat can do.
pub fn to_chat(body: &[u8]) -> Result<Vec<u8>, Invalid> {
    let mut members: Map<String, Value> = serde_json::from_slice(body)
        .map_err(|_| Invalid::new("The body of the request must be a JSON object."))?;
    members.retain(|_, value| !value.is_null());
    let prompt = prompt_of(members.remove("prompt"))?;
    let answers = members.get("n").and_then(Value::as_u64).unwrap_or(1);
    if members.remove("best_of").is_some_and(|tries| tries.as_u64() != Some(answers)) {
        let message =
            "This model has no text completions, only chat: 'best_of' must be equal to 'n'.";
        return Err(Invalid::new(message).with_param("best_of"));
    }
    if members.remove("suffix").is_some_and(|suffix| suffix != "") {
        let message = "This model has no text completions, only chat: 'suffix' is not supported.";
        return Err(Invalid::new(message).with_param("suffix"));
    }
    let echo = match members.remove("echo") {
        None => false,
        Some(Value::Bool(echo)) => echo,
        Some(_) => return Err(Invalid::new("'echo' must be a boolean.").with_param("echo")),
    };
    match members.remove("logprobs") {
        None | Some(Value::Bool(false)) => {}
        Some(_) if echo => {
            let message = "This model has no text completions, only chat: log probabilities of the prompt ('echo' with 'logprobs') are not supported.";
            return Err(Invalid::new(message).with_param("logprobs"));
        }
        Some(Value::Number(count)) if count.is_u64() => {
            members.insert("logprobs".into(), true.into());
            members.insert("top_logprobs".into(), Value::Number(count));
        }
        Some(_) => {
            return Err(Invalid::new("'logprobs' must be a number.").with_param("logprobs"));
        }
    }
    if members.get("stream") == Some(&Value::Bool(true)) {
        let options = members.entry("stream_options").or_insert_with(|| json!({}));
        match options.as_object_mut() {
            Some(options) => options.insert("include_usage".into(), true.into()),
            None => {
                let message = "'stream_options' must be an object.";
                return Err(Invalid::new(message).with_param("stream_options"));
            }
        };
    }
    members.insert("messages".into(), json!([{"role": "user", "content": prompt}]));
    serde_json::to_vec(&members).map_err(|error| Invalid::new(error.to_string()))
}

/// The one text a prompt consists of.
fn prompt_of(prompt: Option<Value>) -> Result<String, Invalid> {
    let refused = |why| Err(Invalid::new(why).with_param("prompt"));
    match prompt {
        None => refused("Missing required parameter: 'prompt'."),
        Some(Value::String(text)) => Ok(text),
        Some(Value::Array(mut prompts)) => match prompts.as_mut_slice() {
            [Value::String(text)] => Ok(std::mem::take(text)),
            [Value::String(_), ..] => refused(
                "This model has no text completions, only chat: several prompts in one request are not supported.",
            ),
            [Value::Number(_) | Value::Array(_), ..] => refused(
                "This model has no text completions, only chat: a prompt of token ids is not supported.",
            ),
            _ => refused("'prompt' must be a string."),
        },
        Some(_) => refused("'prompt' must be a string."),
    }
}

/// Puts a chat's answer into the shape of a text completion.
pub struct TextEncoder {
    model: String,
    created: u64,
    include_usage: bool,
    /// The prompt, where the client wants it back in front of each answer.
    echo: Option<String>,
    parser: Parser,
    /// How many characters of each answer have been sent.
    sent: BTreeMap<u64, usize>,
}

impl TextEncoder {
    /// Starts on one answer.
    pub fn new(asked: &Asked<'_>) -> TextEncoder {
        #[derive(Default, Deserialize)]
        #[serde(default)]
        struct Wishes {
            echo: Option<bool>,
            prompt: Option<Value>,
            stream_options: Option<StreamOptions>,
        }
        #[derive(Default, Deserialize)]
        #[serde(default)]
        struct StreamOptions {
            include_usage: Option<bool>,
        }
        let wishes: Wishes = serde_json::from_slice(asked.body).unwrap_or_default();
        let echo = wishes.echo == Some(true);
        TextEncoder {
            model: asked.model.to_owned(),
            created: asked.created,
            include_usage: wishes.stream_options.and_then(|options| options.include_usage)
                == Some(true),
            echo: echo.then(|| prompt_of(wishes.prompt).ok()).flatten(),
            parser: Parser::default(),
            sent: BTreeMap::new(),
        }
    }

    /// One choice. `text` is what is new of the answer at `index`.
    fn choice(
        &mut self,
        index: u64,
        text: Option<String>,
        logprobs: Option<&Value>,
        finish_reason: Option<String>,
    ) -> Result<Value, EncodeError> {
        let mut text = text.unwrap_or_default();
        if !self.sent.contains_key(&index) {
            if self.sent.len() == CHOICES_MAX {
                return Err(EncodeError("there are too many choices".into()));
            }
            self.sent.insert(index, 0);
            if let Some(prompt) = &self.echo {
                text.insert_str(0, prompt);
            }
        }
        let sent = self.sent.entry(index).or_default();
        let logprobs = logprobs.and_then(|logprobs| legacy_logprobs(logprobs, *sent));
        *sent += text.chars().count();
        Ok(json!({
            "text": text,
            "index": index,
            "logprobs": logprobs,
            "finish_reason": finish_reason.map(finish),
        }))
    }

    fn body(
        &self,
        id: &str,
        created: u64,
        choices: Vec<Value>,
        extra: Map<String, Value>,
    ) -> Map<String, Value> {
        let mut body = Map::new();
        // The prefix is OpenAI's, and clients tell the kinds of ids apart by it.
        let id = format!("cmpl-{}", id.strip_prefix("chatcmpl-").unwrap_or(id));
        body.insert("id".into(), id.into());
        body.insert("object".into(), "text_completion".into());
        body.insert("created".into(), if created == 0 { self.created } else { created }.into());
        body.insert("model".into(), self.model.clone().into());
        body.insert("choices".into(), choices.into());
        body.extend(extra);
        body
    }

    fn chunk(&mut self, data: &[u8], out: &mut Vec<u8>) -> Result<(), EncodeError> {
        if data == b"[DONE]" {
            out.extend_from_slice(crate::sse::DONE);
            return Ok(());
        }
        let chunk: ChatChunk = serde_json::from_slice(data)
            .map_err(|error| EncodeError(format!("an event is no chunk: {error}")))?;
        let mut choices = Vec::new();
        for choice in chunk.choices {
            let text = choice.delta.content.or(choice.delta.refusal);
            let says_nothing = text.as_ref().is_none_or(String::is_empty);
            // The first chunk only tells the role, which a text completion does not have.
            if says_nothing && choice.finish_reason.is_none() {
                continue;
            }
            let (index, finish) = (choice.index, choice.finish_reason);
            choices.push(self.choice(index, text, choice.logprobs.as_ref(), finish)?);
        }
        let usage = chunk.usage.filter(|_| self.include_usage);
        if choices.is_empty() && usage.is_none() {
            return Ok(());
        }
        let mut body = self.body(&chunk.id, chunk.created, choices, chunk.extra);
        if self.include_usage {
            // With usage asked for, every event says that it has none but the last.
            body.insert("usage".into(), json!(usage));
        }
        out.extend_from_slice(b"data: ");
        serde_json::to_writer(&mut *out, &body).map_err(|error| EncodeError(error.to_string()))?;
        out.extend_from_slice(b"\n\n");
        Ok(())
    }
}

impl Encoder for TextEncoder {
    fn whole(&mut self, answer: &[u8]) -> Result<Vec<u8>, EncodeError> {
        let answer: ChatResponse = serde_json::from_slice(answer)
            .map_err(|error| EncodeError(format!("it is no chat completion: {error}")))?;
        if answer.choices.is_empty() {
            return Err(EncodeError("there are no choices".into()));
        }
        let mut choices = Vec::new();
        for choice in answer.choices {
            let text = choice.message.content.or(choice.message.refusal);
            let (index, finish) = (choice.index, choice.finish_reason);
            choices.push(self.choice(index, text, choice.logprobs.as_ref(), finish)?);
        }
        let mut body = self.body(&answer.id, answer.created, choices, answer.extra);
        if let Some(usage) = answer.usage {
            body.insert("usage".into(), json!(usage));
        }
        serde_json::to_vec(&body).map_err(|error| EncodeError(error.to_string()))
    }

    fn stream(&mut self, events: &[u8], out: &mut Vec<u8>) -> Result<(), EncodeError> {
        let mut parser = std::mem::take(&mut self.parser);
        let result = parser.push(events, |event| self.chunk(event.data.trim_ascii(), out));
        self.parser = parser;
        result
    }

    fn error(&mut self, _status: u16, error: &ErrorObject, out: &mut Vec<u8>) {
        out.extend(error.event());
    }
}

/// A text completion only stops, is cut off or is filtered.
fn finish(reason: String) -> String {
    match reason.as_str() {
        "length" | "content_filter" => reason,
        _ => "stop".into(),
    }
}

/// A chat's log probabilities in the older shape: lists side by side. `offset` is where in the
/// answer the first token begins, in characters.
fn legacy_logprobs(logprobs: &Value, mut offset: usize) -> Option<Value> {
    let entries = logprobs.get("content")?.as_array()?;
    let (mut tokens, mut values, mut tops, mut offsets) = (vec![], vec![], vec![], vec![]);
    for entry in entries {
        let token = entry.get("token")?.as_str()?;
        offsets.push(offset);
        offset += token.chars().count();
        tokens.push(token);
        values.push(entry.get("logprob")?);
        let tops_of = entry.get("top_logprobs").and_then(Value::as_array).into_iter().flatten();
        let tops_of = tops_of.filter_map(|top| {
            Some((top.get("token")?.as_str()?.to_owned(), top.get("logprob")?.clone()))
        });
        tops.push(tops_of.collect::<Map<String, Value>>());
    }
    Some(json!({
        "tokens": tokens,
        "token_logprobs": values,
        "top_logprobs": tops,
        "text_offset": offsets,
    }))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::client;
    use crate::operation::{Dialect, Operation};

    fn asked(body: &'static str) -> Asked<'static> {
        Asked {
            operation: Operation::Completions,
            model: "alias",
            stream: false,
            body: body.as_bytes(),
            id: "abc",
            created: 7,
        }
    }

    #[track_caller]
    fn check(body: Value, expect: Value) {
        let body = body.to_string();
        let operation = Operation::Completions;
        let chat = client::to_openai(Dialect::OpenAi, operation, body.as_bytes(), None);
        let chat: Value = serde_json::from_slice(&chat.expect("carried")).expect("JSON");
        assert_eq!(chat, expect);
    }

    #[track_caller]
    fn refused(body: Value, param: &str) {
        let error = to_chat(body.to_string().as_bytes()).expect_err("refused");
        assert_eq!(error.param.as_deref(), Some(param), "{error}");
    }

    fn whole(client: &'static str, answer: Value) -> Value {
        let mut encoder =
            client::encoder(Dialect::OpenAi, &asked(client)).expect("there is an encoder");
        let text = encoder.whole(answer.to_string().as_bytes()).expect("an answer");
        serde_json::from_slice(&text).expect("JSON")
    }

    fn stream(client: &'static str, events: &str) -> (String, Result<(), EncodeError>) {
        let mut encoder = TextEncoder::new(&asked(client));
        let mut out = Vec::new();
        let result = encoder.stream(events.as_bytes(), &mut out);
        (String::from_utf8(out).expect("UTF-8"), result)
    }

    fn datas(sent: &str) -> Vec<Value> {
        let lines = sent.lines().filter_map(|line| line.strip_prefix("data: "));
        lines.map(|data| serde_json::from_str(data).unwrap_or_else(|_| data.into())).collect()
    }

    #[test]
    fn a_prompt_becomes_a_turn() {
        check(
            json!({"model": "m", "prompt": "Say hi", "max_tokens": 5, "stop": ["\n"], "n": 2, "best_of": 2, "echo": false, "suffix": null, "x": 1}),
            json!({"model": "m", "messages": [{"role": "user", "content": "Say hi"}], "max_tokens": 5, "stop": ["\n"], "n": 2, "x": 1}),
        );
        check(
            json!({"model": "m", "prompt": ["a"], "logprobs": 3, "stream": true, "suffix": ""}),
            json!({"model": "m", "messages": [{"role": "user", "content": "a"}], "logprobs": true, "top_logprobs": 3,
                "stream": true, "stream_options": {"include_usage": true}}),
        );
    }

    #[test]
    fn what_no_chat_can_do_is_refused() {
        refused(json!({"model": "m"}), "prompt");
        refused(json!({"prompt": ["a", "b"]}), "prompt");
        refused(json!({"prompt": [1, 2]}), "prompt");
        refused(json!({"prompt": [[1], [2]]}), "prompt");
        refused(json!({"prompt": []}), "prompt");
        refused(json!({"prompt": {}}), "prompt");
        refused(json!({"prompt": "a", "suffix": "b"}), "suffix");
        refused(json!({"prompt": "a", "best_of": 3}), "best_of");
        refused(json!({"prompt": "a", "best_of": 3, "n": 2}), "best_of");
        refused(json!({"prompt": "a", "echo": true, "logprobs": 0}), "logprobs");
        refused(json!({"prompt": "a", "logprobs": "x"}), "logprobs");
        refused(json!({"prompt": "a", "stream": true, "stream_options": 1}), "stream_options");
        assert!(to_chat(b"[]").is_err());
    }

    #[test]
    fn a_whole_answer_is_a_text_completion() {
        let answer = json!({"id": "chatcmpl-1", "object": "chat.completion", "created": 5, "model": "real", "system_fingerprint": "f",
            "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hi!"}, "finish_reason": "stop",
                "logprobs": {"content": [
                    {"token": "Hi", "logprob": -0.5, "bytes": [72, 105], "top_logprobs": [{"token": "Hi", "logprob": -0.5}, {"token": "Yo", "logprob": -1.5}]},
                    {"token": "!", "logprob": -0.25, "bytes": [33], "top_logprobs": []}]}},
                {"index": 1, "message": {"role": "assistant", "content": null}, "finish_reason": "length"}],
            "usage": {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}});
        assert_eq!(
            whole(r#"{"prompt":"x"}"#, answer),
            json!({"id": "cmpl-1", "object": "text_completion", "created": 5, "model": "alias", "system_fingerprint": "f",
                "choices": [{"text": "Hi!", "index": 0, "finish_reason": "stop", "logprobs": {
                        "tokens": ["Hi", "!"], "token_logprobs": [-0.5, -0.25], "text_offset": [0, 2],
                        "top_logprobs": [{"Hi": -0.5, "Yo": -1.5}, {}]}},
                    {"text": "", "index": 1, "finish_reason": "length", "logprobs": null}],
                "usage": {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}})
        );
    }

    #[test]
    fn an_echo_comes_before_each_answer() {
        let answer =
            json!({"id": "1", "choices": [{"index": 0, "message": {"content": " world"}}]});
        let text = whole(r#"{"prompt":["Hello"],"echo":true}"#, answer);
        assert_eq!(text["choices"][0]["text"], "Hello world");
        let events = "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\" wo\"}}]}\n\ndata: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"rld\"}}]}\n\n";
        let (sent, _) = stream(r#"{"prompt":"Hello","echo":true}"#, events);
        let texts: Vec<Value> =
            datas(&sent).iter().map(|data| data["choices"][0]["text"].clone()).collect();
        assert_eq!(texts, ["Hello wo", "rld"]);
    }

    const EVENTS: &str = concat!(
        "data: {\"id\":\"\",\"choices\":[],\"prompt_filter_results\":[]}\n\n",
        "data: {\"id\":\"c\",\"created\":1,\"model\":\"m\",\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"\"},\"finish_reason\":null}]}\n\n",
        "data: {\"id\":\"c\",\"created\":1,\"model\":\"m\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"Hi\"},\"logprobs\":{\"content\":[{\"token\":\"Hi\",\"logprob\":-1}]}}]}\n\n",
        "data: {\"id\":\"c\",\"created\":1,\"model\":\"m\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"!\"},\"logprobs\":{\"content\":[{\"token\":\"!\",\"logprob\":-2}]}}]}\n\n",
        "data: {\"id\":\"c\",\"created\":1,\"model\":\"m\",\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"tool_calls\"}]}\n\n",
        "data: {\"id\":\"c\",\"created\":1,\"model\":\"m\",\"choices\":[],\"usage\":{\"prompt_tokens\":1,\"completion_tokens\":2,\"total_tokens\":3}}\n\n",
        "data: [DONE]\n\n",
    );

    #[test]
    fn a_stream_is_a_stream_of_text() {
        let (sent, result) = stream(r#"{"prompt":"x"}"#, EVENTS);
        assert_eq!(result, Ok(()));
        let chunk = |choice: Value| json!({"id": "cmpl-c", "object": "text_completion", "created": 1, "model": "alias", "choices": [choice]});
        let logprobs = |token: &str, logprob: i32, offset: usize| json!({"tokens": [token], "token_logprobs": [logprob], "top_logprobs": [{}], "text_offset": [offset]});
        assert_eq!(
            datas(&sent),
            [
                chunk(
                    json!({"text": "Hi", "index": 0, "logprobs": logprobs("Hi", -1, 0), "finish_reason": null})
                ),
                chunk(
                    json!({"text": "!", "index": 0, "logprobs": logprobs("!", -2, 2), "finish_reason": null})
                ),
                chunk(json!({"text": "", "index": 0, "logprobs": null, "finish_reason": "stop"})),
                json!("[DONE]"),
            ]
        );
    }

    #[test]
    fn usage_is_sent_to_who_asked_for_it() {
        let client = r#"{"prompt":"x","stream_options":{"include_usage":true}}"#;
        let sent = datas(&stream(client, EVENTS).0);
        assert_eq!(sent.len(), 5);
        assert!(
            sent[..3].iter().all(|data| data["usage"].is_null() && data.get("usage").is_some())
        );
        assert_eq!(
            (&sent[3]["choices"], &sent[3]["usage"]["total_tokens"]),
            (&json!([]), &json!(3))
        );
    }

    #[test]
    fn what_is_no_answer_is_an_error() {
        let mut encoder = TextEncoder::new(&asked("{}"));
        assert!(encoder.whole(b"{}").is_err());
        assert!(encoder.whole(b"[").is_err());
        assert!(stream("{}", "data: 1\n\n").1.is_err());
        let many = (0..200).map(|i| {
            format!("data: {{\"choices\":[{{\"index\":{i},\"finish_reason\":\"stop\"}}]}}\n\n")
        });
        assert!(stream("{}", &many.collect::<String>()).1.is_err());
        let mut out = Vec::new();
        encoder.error(500, &ErrorObject { message: "m".into(), ..Default::default() }, &mut out);
        assert!(out.starts_with(b"data: {\"error\":"));
    }

    proptest! {
        #[test]
        fn any_split_gives_the_same_bytes(cut in 0..EVENTS.len()) {
            let mut encoder = TextEncoder::new(&asked("{}"));
            let mut out = Vec::new();
            prop_assert_eq!(encoder.stream(&EVENTS.as_bytes()[..cut], &mut out), Ok(()));
            prop_assert_eq!(encoder.stream(&EVENTS.as_bytes()[cut..], &mut out), Ok(()));
            prop_assert_eq!(String::from_utf8(out).expect("UTF-8"), stream("{}", EVENTS).0);
        }

        #[test]
        fn a_damaged_stream_does_not_panic(
            damage in prop::collection::vec((0..EVENTS.len(), any::<u8>()), 1..8),
        ) {
            let mut events = EVENTS.as_bytes().to_vec();
            for (at, byte) in damage {
                events[at] = byte;
            }
            let mut encoder = TextEncoder::new(&asked("{}"));
            let _ = encoder.stream(&events, &mut Vec::new());
            let _ = encoder.whole(&events);
            let _ = to_chat(&events);
        }
    }
}
