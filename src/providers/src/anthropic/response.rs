//! A whole answer: Anthropic's content blocks as one of OpenAI's messages.

use serde_json::Map;
use tollway_wire::anthropic::{Block, MessagesResponse, UsageCounts};
use tollway_wire::surrogate::mend;

use crate::response::{Parts, completion};
use crate::{Asked, DecodeError};

use super::error::read_body;
use super::finish_reason;

/// Translates an answer. Also returns what it took.
pub(super) fn translate(
    body: &[u8],
    asked: &Asked,
) -> Result<(Vec<u8>, Option<UsageCounts>), DecodeError> {
    let body = &*mend(body);
    let answer: MessagesResponse<'_> =
        serde_json::from_slice(body).map_err(|error| match read_body(body) {
            Some(error) => DecodeError::Reported(error),
            None => DecodeError::Malformed(format!("not a message: {error}")),
        })?;
    let mut parts = Parts::default();
    for block in answer.content {
        add(&mut parts, block)?;
    }
    let mut reason = finish_reason(answer.stop_reason.as_deref());
    if reason == "tool_calls" && parts.is_json() {
        reason = "stop";
    }
    let id = format!("chatcmpl-{}", answer.id);
    let usage = answer.usage.as_ref().map(UsageCounts::to_openai);
    let json = completion(id, asked, vec![parts.into_choice(reason)], usage, Map::new())?;
    Ok((json, answer.usage))
}

fn add(parts: &mut Parts, block: Block<'_>) -> Result<(), DecodeError> {
    match block.kind.as_ref() {
        "text" => {
            let citations = block.citations.unwrap_or_default();
            let citations = citations.into_iter();
            let citations = citations.filter_map(|raw| serde_json::from_str(raw.get()).ok());
            parts.add_cited(&block.text.unwrap_or_default(), citations.collect(), "/url");
        }
        "thinking" => {
            let thinking = block.thinking.unwrap_or_default();
            parts.add_thinking(&thinking, &block.signature.unwrap_or_default());
        }
        "redacted_thinking" => {
            parts.add_redacted(block.data.and_then(|raw| serde_json::from_str(raw.get()).ok()));
        }
        "tool_use" => {
            let arguments = block.input.map_or("{}", |raw| raw.get()).to_owned();
            parts.add_call(block.id, block.name.unwrap_or_default(), arguments)?;
        }
        // What Anthropic's own tools did is no call of the client's; LiteLLM shows the results of a
        // search beside the message.
        "web_search_tool_result" => {
            let content = block.content.and_then(|raw| serde_json::from_str(raw.get()).ok());
            parts.search_results.extend(content);
        }
        _ => {}
    }
    Ok(())
}
