//! Prebuilt answers for measuring: one read, one write, and nothing in between is parsed but the
//! request's head.

use bytes::Bytes;
use serde_json::{Map, json};
use tokio::time::Duration;

use crate::answer::{Answer, Delta, count_tokens};
use crate::dialect::{Dialect, Meta, Usage};
use crate::reply::Finish;

/// The shape of a chat's prebuilt answer: whose API it is from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// OpenAI's chat completions.
    Chat,
    /// OpenAI's responses.
    Responses,
    /// Anthropic's messages.
    Messages,
    /// Gemini's `generateContent` and `streamGenerateContent?alt=sse`.
    Gemini,
    /// Bedrock's Converse, whose streams are Amazon's binary frames.
    Converse,
    /// Cohere's chat, version 2.
    Cohere,
}

impl Shape {
    fn dialect(self) -> Dialect {
        match self {
            Shape::Chat => Dialect::Chat,
            Shape::Responses => Dialect::Responses,
            Shape::Messages => Dialect::Messages,
            Shape::Gemini => Dialect::GEMINI,
            Shape::Converse => Dialect::Converse,
            Shape::Cohere => Dialect::Cohere,
        }
    }
}

/// The text of a chunk: one token.
const PIECE: &str = " sim";
/// The tokens of every question.
const PROMPT_TOKENS: u64 = 10;

/// An answer that is the same for every request to its path. The request's body is counted and
/// thrown away; the request is not in the journal.
#[derive(Clone, Debug)]
pub struct Fixed {
    pub(crate) path: String,
    /// The head with the beginning of the body, then further writes.
    pub(crate) writes: Vec<Bytes>,
    pub(crate) interval: Duration,
}

impl Fixed {
    /// Answers this JSON with status 200. The path is compared as a whole, with its query.
    pub fn json(path: impl Into<String>, body: impl AsRef<[u8]>) -> Fixed {
        let body = body.as_ref();
        let mut write = format!(
            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\
             x-tollway-simulated: true\r\n\r\n",
            body.len()
        )
        .into_bytes();
        write.extend_from_slice(body);
        Fixed { path: path.into(), writes: vec![write.into()], interval: Duration::ZERO }
    }

    /// Answers an event stream, one chunk for each of these events (`data: …\n\n`), the first one
    /// at once and each further one an interval later. With an interval of zero the whole stream
    /// is one write.
    pub fn events<E: AsRef<[u8]>>(
        path: impl Into<String>,
        events: impl IntoIterator<Item = E>,
        interval: Duration,
    ) -> Fixed {
        Fixed::chunks(path, Dialect::Chat.stream_type(), events, interval)
    }

    fn chunks<E: AsRef<[u8]>>(
        path: impl Into<String>,
        content_type: &str,
        events: impl IntoIterator<Item = E>,
        interval: Duration,
    ) -> Fixed {
        let head = format!(
            "HTTP/1.1 200 OK\r\ncontent-type: {content_type}\r\n\
             transfer-encoding: chunked\r\nx-tollway-simulated: true\r\n\r\n"
        );
        let mut writes = vec![head.into_bytes()];
        for (index, event) in events.into_iter().enumerate() {
            let event = event.as_ref();
            let mut frame = format!("{:x}\r\n", event.len()).into_bytes();
            frame.extend_from_slice(event);
            frame.extend_from_slice(b"\r\n");
            match writes.last_mut() {
                Some(last) if index == 0 || interval.is_zero() => last.extend_from_slice(&frame),
                _ => writes.push(frame),
            }
        }
        if let Some(last) = writes.last_mut() {
            last.extend_from_slice(b"0\r\n\r\n");
        }
        let writes = writes.into_iter().map(Bytes::from).collect();
        Fixed { path: path.into(), writes, interval }
    }

    /// Answers a chat with a text of this many bytes, in this shape.
    pub fn answer(path: impl Into<String>, shape: Shape, text_bytes: usize) -> Fixed {
        if shape == Shape::Chat {
            return Fixed::completion(path, text_bytes);
        }
        let text = "sim ".repeat(text_bytes.div_ceil(4))[..text_bytes].to_owned();
        let usage = usage(count_tokens(&text));
        let answer = Answer { text, finish: Some(Finish::Stop), ..Answer::default() };
        Fixed::json(path, shape.dialect().whole(&meta(), &answer, &usage).to_string())
    }

    /// Answers a chat as a stream in this shape. It has as many content chunks as are asked for,
    /// and the same text in every shape; what comes before and after them is the provider's.
    pub fn stream(path: impl Into<String>, shape: Shape, chunks: u32, interval: Duration) -> Fixed {
        if shape == Shape::Chat {
            return Fixed::completion_stream(path, chunks, interval);
        }
        let dialect = shape.dialect();
        let mut writer = dialect.events(meta());
        let mut events = writer.open(0, &usage(0), false);
        events.extend((1..=u64::from(chunks)).map(|so_far| {
            // What opens the content comes with its first piece.
            writer.delta(0, &Delta::Text(PIECE), &usage(so_far)).concat()
        }));
        let (text, finish) = (PIECE.repeat(chunks as usize), Some(Finish::Stop));
        let answer = Answer { text, finish, ..Answer::default() };
        let usage = usage(u64::from(chunks));
        events.extend(writer.finish(0, &answer, &usage, false));
        events.extend(writer.usage(&usage));
        events.push(writer.done());
        // An empty chunk would end the body.
        events.retain(|event| !event.is_empty());
        Fixed::chunks(path, dialect.stream_type(), events, interval)
    }

    /// Answers an OpenAI chat completion whose text is this many bytes.
    pub fn completion(path: impl Into<String>, text_bytes: usize) -> Fixed {
        let tokens = text_bytes.div_ceil(4);
        let body = json!({
            "id": "chatcmpl-sim-fixed",
            "object": "chat.completion",
            "created": crate::openai::CREATED,
            "model": "fixed",
            "choices": [{
                "index": 0,
                "message": {
                    "role": "assistant",
                    "content": "sim ".repeat(tokens)[..text_bytes],
                    "refusal": null,
                },
                "logprobs": null,
                "finish_reason": "stop",
            }],
            "usage": {
                "prompt_tokens": PROMPT_TOKENS,
                "completion_tokens": tokens,
                "total_tokens": PROMPT_TOKENS + tokens as u64,
            },
            "system_fingerprint": "simulated",
        });
        Fixed::json(path, body.to_string())
    }

    /// Answers an OpenAI chat completion stream with this many content chunks, the finish, the
    /// usage and `[DONE]`.
    pub fn completion_stream(path: impl Into<String>, chunks: u32, interval: Duration) -> Fixed {
        let event = |choices: serde_json::Value, usage: serde_json::Value| {
            let chunk = json!({
                "id": "chatcmpl-sim-fixed",
                "object": "chat.completion.chunk",
                "created": crate::openai::CREATED,
                "model": "fixed",
                "system_fingerprint": "simulated",
                "choices": choices,
                "usage": usage,
            });
            format!("data: {chunk}\n\n")
        };
        let choice = |delta: serde_json::Value, finish: Option<&str>| {
            let choice =
                json!([{"index": 0, "delta": delta, "logprobs": null, "finish_reason": finish}]);
            event(choice, serde_json::Value::Null)
        };
        let mut events = vec![choice(json!({"role": "assistant", "content": ""}), None)];
        events.extend((0..chunks).map(|_| choice(json!({"content": PIECE}), None)));
        events.push(choice(json!({}), Some("stop")));
        let usage = json!({
            "prompt_tokens": PROMPT_TOKENS,
            "completion_tokens": chunks,
            "total_tokens": u64::from(chunks) + PROMPT_TOKENS,
        });
        events.push(event(json!([]), usage));
        events.push("data: [DONE]\n\n".to_owned());
        Fixed::events(path, events, interval)
    }
}

fn meta() -> Meta {
    Meta {
        number: 0,
        model: "fixed".to_owned(),
        choices: 1,
        include_usage: true,
        no_usage: false,
        repeated: Map::new().into(),
    }
}

fn usage(completion: u64) -> Usage {
    Usage { prompt: PROMPT_TOKENS, completion, ..Usage::default() }
}
