//! A whole answer: Anthropic's content blocks as one of OpenAI's messages.

use serde_json::{Map, Value, json};
use tollway_wire::anthropic::{Block, ErrorBody, MessagesResponse, UsageCounts};
use tollway_wire::openai::request::{FunctionCall, ToolCall};
use tollway_wire::openai::response::{ChatResponse, Choice, ResponseMessage};
use tollway_wire::surrogate::mend;

use crate::{Asked, DecodeError};

use super::error::read_event;
use super::{JSON_TOOL, finish_reason};

/// Translates an answer. Also returns what it took.
pub(super) fn translate(
    body: &[u8],
    asked: &Asked,
) -> Result<(Vec<u8>, Option<UsageCounts>), DecodeError> {
    let body = &*mend(body);
    let answer: MessagesResponse<'_> = serde_json::from_slice(body).map_err(|error| {
        match serde_json::from_slice::<ErrorBody>(body) {
            Ok(body) if !body.error.kind.is_empty() => {
                DecodeError::Reported(read_event(body.error))
            }
            _ => DecodeError::Malformed(format!("not a message: {error}")),
        }
    })?;
    let mut parts = Parts::default();
    for block in answer.content {
        parts.add(block)?;
    }
    let only_json = parts.json.is_some() && parts.tool_calls.is_empty();
    let mut reason = finish_reason(answer.stop_reason.as_deref());
    if reason == "tool_calls" && only_json {
        reason = "stop";
    }
    let response = ChatResponse {
        id: format!("chatcmpl-{}", answer.id),
        object: "chat.completion".into(),
        created: asked.created,
        model: asked.model.clone(),
        choices: vec![Choice {
            message: parts.into_message(),
            finish_reason: Some(reason.into()),
            ..Choice::default()
        }],
        usage: answer.usage.as_ref().map(UsageCounts::to_openai),
        extra: Map::new(),
    };
    let json = serde_json::to_vec(&response).map_err(|error| {
        DecodeError::Malformed(format!("the answer cannot be written: {error}"))
    })?;
    Ok((json, answer.usage))
}

/// What the blocks of an answer come to.
#[derive(Default)]
struct Parts {
    text: Option<String>,
    reasoning: Option<String>,
    thinking_blocks: Vec<Value>,
    tool_calls: Vec<ToolCall>,
    /// The input of the tool that stands in for structured output.
    json: Option<String>,
    citations: Vec<Value>,
    annotations: Vec<Value>,
    search_results: Vec<Value>,
}

impl Parts {
    fn add(&mut self, block: Block<'_>) -> Result<(), DecodeError> {
        match block.kind.as_ref() {
            "text" => {
                let text = block.text.unwrap_or_default();
                let before = self.text.get_or_insert_default();
                let citations = block.citations.unwrap_or_default();
                if !citations.is_empty() {
                    let start = before.chars().count();
                    let span = (start, start + text.chars().count());
                    let citations: Vec<Value> = citations
                        .into_iter()
                        .filter_map(|raw| serde_json::from_str(raw.get()).ok())
                        .collect();
                    self.annotations.extend(citations.iter().filter_map(|c| annotation(c, span)));
                    self.citations.push(citations.into());
                }
                before.push_str(&text);
            }
            "thinking" => {
                let thinking = block.thinking.unwrap_or_default();
                self.reasoning.get_or_insert_default().push_str(&thinking);
                self.thinking_blocks.push(json!({
                    "type": "thinking",
                    "thinking": thinking,
                    "signature": block.signature.unwrap_or_default(),
                }));
            }
            "redacted_thinking" => {
                let data = block.data.and_then(|raw| serde_json::from_str::<Value>(raw.get()).ok());
                self.thinking_blocks.push(json!({"type": "redacted_thinking", "data": data}));
            }
            "tool_use" => {
                let arguments = block.input.map_or("{}", |raw| raw.get()).to_owned();
                let name = block.name.unwrap_or_default();
                if name == JSON_TOOL {
                    self.json = Some(arguments);
                    return Ok(());
                }
                let Some(id) = block.id else {
                    return Err(DecodeError::Malformed("a tool call has no id".into()));
                };
                self.tool_calls.push(ToolCall {
                    id,
                    kind: "function".into(),
                    function: FunctionCall { name, arguments },
                    extra: Map::new(),
                });
            }
            // What Anthropic's own tools did is no call of the client's; LiteLLM shows the results
            // of a search beside the message.
            "web_search_tool_result" => {
                let content = block.content.and_then(|raw| serde_json::from_str(raw.get()).ok());
                self.search_results.extend(content);
            }
            _ => {}
        }
        Ok(())
    }

    fn into_message(self) -> ResponseMessage {
        let mut fields = Map::new();
        if !self.citations.is_empty() {
            fields.insert("citations".into(), self.citations.into());
        }
        if !self.search_results.is_empty() {
            fields.insert("web_search_results".into(), self.search_results.into());
        }
        let mut extra = Map::new();
        if !self.annotations.is_empty() {
            extra.insert("annotations".into(), self.annotations.into());
        }
        if !fields.is_empty() {
            extra.insert("provider_specific_fields".into(), fields.into());
        }
        let some = |list: Vec<_>| (!list.is_empty()).then_some(list);
        let no_calls = self.tool_calls.is_empty();
        ResponseMessage {
            role: "assistant".into(),
            // Content is null where there is nothing but calls, and empty where there is nothing.
            content: self.json.or(self.text).or_else(|| no_calls.then(String::new)),
            refusal: None,
            tool_calls: (!no_calls).then_some(self.tool_calls),
            reasoning_content: self.reasoning,
            thinking_blocks: some(self.thinking_blocks),
            extra,
        }
    }
}

/// OpenAI's annotation for a citation of something on the web.
fn annotation(citation: &Value, (start, end): (usize, usize)) -> Option<Value> {
    let url = citation.get("url")?.as_str()?;
    let title = citation.get("title").and_then(Value::as_str).unwrap_or_default();
    Some(json!({"type": "url_citation", "url_citation": {
        "start_index": start, "end_index": end, "url": url, "title": title,
    }}))
}
