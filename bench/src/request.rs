//! The requests: chats as people send them, of an exact size.

use std::fmt::Write;

use crate::upstream::Reply;

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

fn body(reply: Reply, bytes: usize, model_first: bool) -> String {
    let model = format!("\"model\":\"{}\",", reply.name());
    let stream = reply.streams();
    let (first, last) = if model_first { (model.as_str(), "") } else { ("", model.as_str()) };
    let start = format!(
        "{{{first}\"messages\":[{{\"role\":\"system\",\"content\":\"You are a helpful assistant. \
         Answer in one paragraph.\"}}"
    );
    let question = format!(",{{\"role\":\"user\",\"content\":\"Question {NUMBER}: what next?");
    let end = format!("\"}}],{last}\"temperature\":0.7,\"max_tokens\":512,\"stream\":{stream}}}");

    let room = bytes.saturating_sub(start.len() + question.len() + end.len());
    // A long chat has many messages and long ones, not only one of them.
    let message_bytes = (room / 40).max(TEXT.len());
    let mut history = String::new();
    let mut roles = ["user", "assistant"].into_iter().cycle();
    while history.len() + message_bytes + 2 * TEXT.len() < room {
        let role = roles.next().unwrap_or("user");
        let _ = write!(history, ",{{\"role\":\"{role}\",\"content\":\"");
        history.push_str(&TEXT.repeat(message_bytes / TEXT.len()));
        history.push_str("\"}");
    }
    let mut body = start + &history + &question;
    body.push_str(&TEXT.repeat((room - history.len()) / TEXT.len()));
    let padding = bytes.saturating_sub(body.len() + end.len());
    body.extend("and so on, ".chars().cycle().take(padding));
    body + &end
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn body_of(request: &Request) -> Value {
        let text = std::str::from_utf8(request.bytes()).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.ends_with(&format!("content-length: {}", body.len())), "{head}");
        serde_json::from_str(body).unwrap()
    }

    #[test]
    fn bodies_are_chats_of_the_size_asked_for() {
        for size in [1 << 10, 4 << 10, 64 << 10, 1 << 20] {
            for model_first in [true, false] {
                assert_eq!(body(Reply::Json, size, model_first).len(), size);
                let request = Request::new("/", Reply::OpenAiLong, size, model_first);
                let body = body_of(&request);
                assert_eq!(body["model"], "openai-long");
                assert_eq!(body["stream"], true);
                assert!(body["messages"].as_array().unwrap().len() > 1);
            }
        }
    }

    #[test]
    fn number_stands_in_the_last_question() {
        let mut request = Request::new("/", Reply::Json, 1 << 10, true);
        request.set_number(1234);
        let body = body_of(&request);
        let last = body["messages"].as_array().unwrap().last().unwrap();
        assert!(last["content"].as_str().unwrap().starts_with("Question 000000001234: "));
    }
}
