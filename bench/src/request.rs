//! The requests: chats as people send them, of an exact size.

use std::fmt::Write;

use crate::families::{Client, Reply};

/// The virtual key of `all-filters.yaml`.
const KEY: &str = "sk-bench-6c1f0e9ad2b84775";

/// Stands for the number that makes a request unlike all others.
const NUMBER: &str = "000000000000";

/// A kilobyte or so of a chat as JSON has it: prose, code, quotes, line feeds, a few letters beyond
/// ASCII. Three bytes in a hundred are backslashes.
const TEXT: &str = "The service answers most calls within 40 ms, but every few minutes one of \
    them takes longer than a second, and nobody could say why so far.\\n\\nWhat we know: it happens \
    on both nodes, never at the same time; the caf\u{e9} branch in Z\u{fc}rich sees it as well; and \
    the log says \\\"upstream timed out\\\" each time.\\n\\n```rust\\nfn retry(mut left: u32) -> \
    Result<Answer, Error> {\\n    loop {\\n        match ask() {\\n            Err(error) if left > \
    0 => left -= 1,\\n            other => return other,\\n        }\\n    }\\n}\\n```\\nThis is the \
    code that calls it. I suspect that it tries again at once instead of waiting a little, so that \
    a slow moment of one node turns into a storm, but I would like to be sure before we change it. \
    Which measurement would tell? We have request counts by status and a latency histogram with \
    ten buckets, and could add one more series if it helps. ";

/// One request's bytes, head and body.
#[derive(Clone, Debug)]
pub struct Request {
    bytes: Vec<u8>,
    number_at: usize,
}

impl Request {
    /// A request for this answer whose body has exactly this many bytes, or as few as it can.
    /// Clients differ in where they put `model`: in front (`model_first`) or behind the messages.
    pub fn new(path: &str, reply: Reply, body_bytes: usize, model_first: bool) -> Request {
        let body = body(reply, body_bytes, model_first);
        // As few headers as a client can send: the bare proxy passes them all on and the gateway
        // does not, so that more of them would flatter the gateway.
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: bench\r\nauthorization: Bearer {KEY}\r\n\
             content-type: application/json\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        let whole = head + &body;
        let number_at = whole.find(NUMBER).unwrap_or(0);
        Request { bytes: whole.into_bytes(), number_at }
    }

    /// What to send.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Makes it unlike every request with another number.
    pub fn set_number(&mut self, mut number: u64) {
        for digit in self.bytes[self.number_at..][..NUMBER.len()].iter_mut().rev() {
            *digit = b'0' + (number % 10) as u8;
            number /= 10;
        }
    }
}

/// How a client writes what every chat has.
struct Words {
    /// What stands in front of the first question.
    start: &'static str,
    /// What stands around the text of a turn; `ROLE` is whose it is.
    turn: [&'static str; 2],
    /// The assistant's role.
    assistant: &'static str,
    /// What stands behind the last turn.
    end: &'static str,
}

impl Client {
    fn words(self) -> Words {
        let plain = [r#"{"role":"ROLE","content":""#, r#""}"#];
        match self {
            Client::Chat => Words {
                start: r#""messages":[{"role":"system","content":"SYSTEM"},"#,
                turn: plain,
                assistant: "assistant",
                end: r#"],MODEL"temperature":0.7,"max_tokens":512,"stream":STREAM}"#,
            },
            Client::Messages => Words {
                start: r#""system":"SYSTEM","messages":["#,
                turn: plain,
                assistant: "assistant",
                end: r#"],MODEL"temperature":0.7,"max_tokens":512,"stream":STREAM}"#,
            },
            Client::Responses => Words {
                start: r#""instructions":"SYSTEM","input":["#,
                turn: plain,
                assistant: "assistant",
                // Not kept: what the store costs is not the translation's.
                end: r#"],MODEL"temperature":0.7,"max_output_tokens":512,"store":false,"stream":STREAM}"#,
            },
            Client::Gemini => Words {
                start: r#""systemInstruction":{"parts":[{"text":"SYSTEM"}]},"contents":["#,
                turn: [r#"{"role":"ROLE","parts":[{"text":""#, r#""}]}"#],
                assistant: "model",
                // The path names the model, and whether it is to stream.
                end: r#"],"generationConfig":{"temperature":0.7,"maxOutputTokens":512}}"#,
            },
        }
    }
}

fn body(reply: Reply, bytes: usize, model_first: bool) -> String {
    const SYSTEM: &str = "You are a helpful assistant. Answer in one paragraph.";
    let client = reply.family.client;
    let words = client.words();
    let model = match client {
        Client::Gemini => String::new(),
        _ => format!("\"model\":\"{}\",", reply.name()),
    };
    let (first, last) = if model_first { (model.as_str(), "") } else { ("", model.as_str()) };
    let start = format!("{{{first}{}", words.start.replace("SYSTEM", SYSTEM));
    let turn = |role| words.turn[0].replace("ROLE", role);
    let question = format!("{}Question {NUMBER}: what next?", turn("user"));
    let stream = if reply.streams() { "true" } else { "false" };
    let end = words.end.replace("MODEL", last).replace("STREAM", stream);
    let end = words.turn[1].to_owned() + &end;

    let room = bytes.saturating_sub(start.len() + question.len() + end.len());
    // A long chat has many messages and long ones, not only one of them.
    let message_bytes = (room / 40).max(TEXT.len());
    let mut history = String::new();
    let mut roles = ["user", words.assistant].into_iter().cycle();
    while history.len() + message_bytes + 2 * TEXT.len() < room {
        history.push_str(&turn(roles.next().unwrap_or("user")));
        history.push_str(&TEXT.repeat(message_bytes / TEXT.len()));
        let _ = write!(history, "{},", words.turn[1]);
    }
    let mut body = start + &history + &question;
    body.push_str(&TEXT.repeat(room.saturating_sub(history.len()) / TEXT.len()));
    let padding = bytes.saturating_sub(body.len() + end.len());
    body.extend("and so on, ".chars().cycle().take(padding));
    body + &end
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use crate::families::{FAMILIES, Form, OPENAI};

    use super::*;

    fn body_of(request: &Request) -> Value {
        let text = std::str::from_utf8(request.bytes()).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.ends_with(&format!("content-length: {}", body.len())), "{head}");
        serde_json::from_str(body).unwrap()
    }

    fn turns(body: &Value) -> &Vec<Value> {
        let lists = ["messages", "input", "contents"];
        lists.iter().find_map(|list| body[list].as_array()).unwrap()
    }

    #[test]
    fn bodies_are_chats_of_the_size_asked_for() {
        for reply in FAMILIES.iter().map(|family| family.reply(Form::Long)) {
            for size in [1 << 10, 4 << 10, 64 << 10, 1 << 20] {
                for model_first in [true, false] {
                    assert_eq!(body(reply, size, model_first).len(), size);
                    let body = body_of(&Request::new("/", reply, size, model_first));
                    if reply.family.client != Client::Gemini {
                        assert_eq!(body["model"], reply.name());
                        assert_eq!(body["stream"], true);
                    }
                    assert_eq!(turns(&body).last().unwrap()["role"], "user");
                    assert!(size < (4 << 10) || turns(&body).len() > 2, "{body}");
                }
            }
        }
    }

    #[test]
    fn number_stands_in_the_last_question() {
        for family in &FAMILIES {
            let mut request = Request::new("/", family.reply(Form::Json), 1 << 10, true);
            request.set_number(1234);
            let body = body_of(&request);
            let last = turns(&body).last().unwrap().to_string();
            assert!(last.contains("\"Question 000000001234: "), "{last}");
        }
        let mut request = Request::new("/", OPENAI.reply(Form::Json), 64 << 10, false);
        request.set_number(7);
        assert!(turns(&body_of(&request)).last().unwrap().to_string().contains("000000000007: "));
    }
}
