//! Reads what an answer says, so that a fast error never looks like speed.

use serde_json::Value;

use crate::Failure;

/// The text of a complete answer, in any of the forms the upstream and the gateway send: OpenAI's
/// JSON, OpenAI's event stream, Anthropic's event stream.
///
/// # Errors
/// When it is none of them, or a stream without its end.
pub fn text(body: &[u8]) -> Result<String, Failure> {
    if body.starts_with(b"{") {
        let answer: Value = serde_json::from_slice(body)?;
        let content = answer["choices"][0]["message"]["content"].as_str();
        return Ok(content.ok_or("the answer has no message")?.to_owned());
    }
    let mut text = String::new();
    let mut complete = false;
    for line in std::str::from_utf8(body)?.lines() {
        let Some(data) = line.strip_prefix("data:").map(str::trim) else { continue };
        if data == "[DONE]" {
            complete = true;
            continue;
        }
        let event: Value = serde_json::from_str(data)?;
        if let Some(error) = event.get("error") {
            return Err(format!("the stream holds an error: {error}").into());
        }
        complete |= event["type"] == "message_stop";
        let openai = event["choices"][0]["delta"]["content"].as_str();
        let anthropic = event["delta"]["text"].as_str();
        text.push_str(openai.or(anthropic).unwrap_or_default());
    }
    if complete { Ok(text) } else { Err("the stream has no end".into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(body: &str, expect: Result<&str, &str>) {
        let have = text(body.as_bytes()).map_err(|error| error.to_string());
        assert_eq!(have.as_deref().map_err(String::as_str), expect, "{body}");
    }

    #[test]
    fn text_is_read_from_every_form() {
        check(r#"{"choices":[{"message":{"content":"hi"}}]}"#, Ok("hi"));
        check(
            "data: {\"choices\":[{\"delta\":{\"content\":\"h\"}}]}\n\n\
             data: {\"choices\":[{\"delta\":{\"content\":\"i\"}}]}\n\ndata: [DONE]\n\n",
            Ok("hi"),
        );
        check(
            "event: content_block_delta\ndata: {\"delta\":{\"text\":\"hi\"}}\n\n\
             event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n",
            Ok("hi"),
        );
    }

    #[test]
    fn what_is_cut_or_wrong_is_refused() {
        check("data: {\"choices\":[]}\n\n", Err("the stream has no end"));
        check("", Err("the stream has no end"));
        check("{}", Err("the answer has no message"));
        check("data: {\"error\":1}\n\ndata: [DONE]\n\n", Err("the stream holds an error: 1"));
    }
}
