//! Prebuilt answers for measuring: one read, one write, and nothing in between is parsed but the
//! request's head.

use bytes::Bytes;
use serde_json::json;
use tokio::time::Duration;

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
        let mut writes = vec![
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n\
              transfer-encoding: chunked\r\nx-tollway-simulated: true\r\n\r\n"
                .to_vec(),
        ];
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
                "prompt_tokens": 10,
                "completion_tokens": tokens,
                "total_tokens": 10 + tokens,
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
        events.extend((0..chunks).map(|_| choice(json!({"content": " sim"}), None)));
        events.push(choice(json!({}), Some("stop")));
        let usage = json!({
            "prompt_tokens": 10,
            "completion_tokens": chunks,
            "total_tokens": u64::from(chunks) + 10,
        });
        events.push(event(json!([]), usage));
        events.push("data: [DONE]\n\n".to_owned());
        Fixed::events(path, events, interval)
    }
}
