//! Reads what an answer says, so that a fast error or half an answer never looks like speed.

use serde_json::{Value, json};
use tollway_simulator::Shape;

use crate::Failure;

/// What a complete answer says.
#[derive(Debug, PartialEq, Eq)]
pub struct Said {
    /// Its text.
    pub text: String,
    /// In how many pieces a stream brought it; 1 for an answer that is no stream.
    pub pieces: usize,
    /// The tokens of the text as the answer counts them. A stream of OpenAI's does so only if it
    /// was asked to.
    pub tokens: Option<u64>,
}

impl Said {
    /// Whether this is what was expected. Tokens that were left out are nothing wrong.
    pub fn is(&self, expected: &Said) -> bool {
        let tokens = self.tokens.or(expected.tokens);
        (&self.text, self.pieces, tokens) == (&expected.text, expected.pieces, expected.tokens)
    }
}

/// Where a shape has what, as JSON pointers into an answer, or into the events of a stream.
struct Places {
    text: &'static str,
    /// Why it ended, and the value by which it ended well.
    finish: [&'static str; 2],
    tokens: &'static str,
    /// What the very last event has.
    last: Option<[&'static str; 2]>,
}

const fn places(
    text: &'static str,
    finish: [&'static str; 2],
    tokens: &'static str,
    last: Option<[&'static str; 2]>,
) -> Places {
    Places { text, finish, tokens, last }
}

fn whole(shape: Shape) -> Places {
    let [text, finish, well, tokens] = match shape {
        Shape::Chat => [
            "/choices/0/message/content",
            "/choices/0/finish_reason",
            "stop",
            "/usage/completion_tokens",
        ],
        Shape::Responses => {
            ["/output/0/content/0/text", "/status", "completed", "/usage/output_tokens"]
        }
        Shape::Messages => ["/content/0/text", "/stop_reason", "end_turn", "/usage/output_tokens"],
        Shape::Gemini => [
            "/candidates/0/content/parts/0/text",
            "/candidates/0/finishReason",
            "STOP",
            "/usageMetadata/candidatesTokenCount",
        ],
        Shape::Converse => {
            ["/output/message/content/0/text", "/stopReason", "end_turn", "/usage/outputTokens"]
        }
        Shape::Cohere => {
            ["/message/content/0/text", "/finish_reason", "COMPLETE", "/usage/tokens/output_tokens"]
        }
    };
    places(text, [finish, well], tokens, None)
}

fn streamed(shape: Shape) -> Places {
    match shape {
        Shape::Chat => places(
            "/choices/0/delta/content",
            ["/choices/0/finish_reason", "stop"],
            "/usage/completion_tokens",
            // Not an object but a word.
            Some(["", "[DONE]"]),
        ),
        Shape::Responses => places(
            "/delta",
            ["/response/status", "completed"],
            "/response/usage/output_tokens",
            Some(["/type", "response.completed"]),
        ),
        Shape::Messages => places(
            "/delta/text",
            ["/delta/stop_reason", "end_turn"],
            "/usage/output_tokens",
            Some(["/type", "message_stop"]),
        ),
        Shape::Gemini => places(
            "/candidates/0/content/parts/0/text",
            ["/candidates/0/finishReason", "STOP"],
            "/usageMetadata/candidatesTokenCount",
            Some(["/candidates/0/finishReason", "STOP"]),
        ),
        Shape::Converse => places(
            "/contentBlockDelta/delta/text",
            ["/messageStop/stopReason", "end_turn"],
            "/metadata/usage/outputTokens",
            None,
        ),
        Shape::Cohere => places(
            "/delta/message/content/text",
            ["/delta/finish_reason", "COMPLETE"],
            "/delta/usage/tokens/output_tokens",
            Some(["", "[DONE]"]),
        ),
    }
}

/// Reads a complete answer in this shape.
///
/// # Errors
/// When it is none, or does not say that it is complete, or lacks the tokens.
pub fn read(shape: Shape, streams: bool, body: &[u8]) -> Result<Said, Failure> {
    let (places, events) = match (streams, shape) {
        (false, _) => (whole(shape), vec![serde_json::from_slice(body)?]),
        (true, Shape::Converse) => (streamed(shape), frames(body)?),
        (true, _) => (streamed(shape), events(body)?),
    };
    let mut said = Said { text: String::new(), pieces: 0, tokens: None };
    let mut finished = false;
    let is = |event: &Value, [place, value]: [&str; 2]| {
        event.pointer(place).is_some_and(|found| found == value)
    };
    for event in &events {
        let error = event.get("error").filter(|error| !error.is_null());
        if let Some(error) = error {
            return Err(format!("it holds an error: {error}").into());
        }
        let piece = event.pointer(places.text).and_then(Value::as_str).unwrap_or_default();
        if !piece.is_empty() {
            said.text.push_str(piece);
            said.pieces += 1;
        }
        finished |= is(event, places.finish);
        // What counts up is right at the end.
        let tokens = event.pointer(places.tokens).and_then(Value::as_u64);
        said.tokens = tokens.or(said.tokens);
    }
    let ended = match (events.last(), places.last) {
        (Some(last), Some(place)) => is(last, place),
        (_, None) => true,
        (None, _) => false,
    };
    let asked_for_tokens = !(streams && shape == Shape::Chat);
    if !finished || !ended {
        return Err("it has no end".into());
    }
    if asked_for_tokens && said.tokens.is_none() {
        return Err("it has no usage".into());
    }
    Ok(said)
}

/// The data of server-sent events. What is no JSON, such as `[DONE]`, is a text.
fn events(body: &[u8]) -> Result<Vec<Value>, Failure> {
    let data = std::str::from_utf8(body)?.lines().filter_map(|line| line.strip_prefix("data:"));
    let read = |data: &str| match data.trim() {
        word @ "[DONE]" => Ok(word.into()),
        data => Ok(serde_json::from_str(data)?),
    };
    data.map(read).collect()
}

/// The payloads of Amazon's frames, each below the name of its event.
fn frames(mut body: &[u8]) -> Result<Vec<Value>, Failure> {
    const CUT: &str = "a frame is cut";
    let number = |bytes: &[u8], at: usize| {
        let bytes = bytes.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
        bytes.map(|bytes| u32::from_be_bytes(bytes) as usize).ok_or(CUT)
    };
    let mut events = Vec::new();
    while !body.is_empty() {
        let (total, head) = (number(body, 0)?, number(body, 4)?);
        let frame = body.get(..total).ok_or(CUT)?;
        let head_end = head.checked_add(12).ok_or(CUT)?;
        // In front two lengths and a sum, behind another sum.
        let payload = frame.get(head_end..total.saturating_sub(4)).ok_or(CUT)?;
        let name = event_name(&frame[12..head_end]).ok_or("a frame is no event")?;
        events.push(json!({name: serde_json::from_slice::<Value>(payload)?}));
        body = &body[total..];
    }
    Ok(events)
}

/// The value of `:event-type`: each header is a length, a name, a type (7), a length and a value.
fn event_name(mut head: &[u8]) -> Option<&str> {
    loop {
        let (&length, rest) = head.split_first()?;
        let (name, rest) = rest.split_at_checked(usize::from(length))?;
        let (kind, rest) = rest.split_at_checked(3)?;
        let length = usize::from(u16::from_be_bytes([kind[1], kind[2]]));
        let (value, rest) = rest.split_at_checked(length)?;
        if name == b":event-type" {
            return std::str::from_utf8(value).ok();
        }
        head = rest;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(shape: Shape, streams: bool, body: &str, expect: Result<(&str, usize), &str>) {
        let said = read(shape, streams, body.as_bytes()).map_err(|error| error.to_string());
        let have = said.as_ref().map(|said| (said.text.as_str(), said.pieces));
        assert_eq!(have.map_err(String::as_str), expect, "{body}");
    }

    // That every shape is read as the upstream writes it is tested there.

    #[test]
    fn text_is_read_piece_by_piece() {
        check(
            Shape::Chat,
            false,
            r#"{"choices":[{"message":{"content":"hi"},"finish_reason":"stop"}],
                "usage":{"completion_tokens":1}}"#,
            Ok(("hi", 1)),
        );
        check(
            Shape::Chat,
            true,
            "data: {\"choices\":[{\"delta\":{\"content\":\"h\"}}]}\n\n\
             data: {\"choices\":[{\"delta\":{\"content\":\"i\"},\"finish_reason\":\"stop\"}]}\n\n\
             data: [DONE]\n\n",
            Ok(("hi", 2)),
        );
    }

    #[test]
    fn what_is_cut_or_wrong_is_refused() {
        let cut = "data: {\"choices\":[]}\n\n";
        check(Shape::Chat, true, cut, Err("it has no end"));
        check(Shape::Chat, true, "data: [DONE]\n\n", Err("it has no end"));
        for shape in [Shape::Messages, Shape::Gemini, Shape::Converse, Shape::Cohere] {
            check(shape, true, "", Err("it has no end"));
            check(shape, false, "{}", Err("it has no end"));
            check(shape, false, "{\"error\":1}", Err("it holds an error: 1"));
        }
        check(Shape::Messages, false, r#"{"stop_reason":"end_turn"}"#, Err("it has no usage"));
        let error = "data: {\"error\":1}\n\ndata: [DONE]\n\n";
        check(Shape::Chat, true, error, Err("it holds an error: 1"));
    }

    #[test]
    fn damaged_frames_are_refused() {
        for body in [&[0; 3][..], &[0; 16], &[0xff; 64], &[0, 0, 0, 16, 0, 0, 0, 9]] {
            assert!(read(Shape::Converse, true, body).is_err(), "{body:?}");
        }
    }
}
