//! A whole answer: Gemini's candidates as OpenAI's choices.

use serde_json::{Map, Value, json};
use tollway_wire::openai::request::{FunctionCall, ToolCall};
use tollway_wire::openai::response::{Choice, ResponseMessage};
use tollway_wire::surrogate::mend;
use tollway_wire::usage::Usage;

use crate::response::completion;
use crate::{Asked, DecodeError};

use super::answer::{
    Answer, Candidate, annotations, answer_id, call_id, finish_reason, image, logprobs, text_of,
    usage_object, web_searches,
};
use super::error::read_event;

/// Translates an answer. Also returns what it took.
pub(super) fn translate(
    body: &[u8],
    asked: &Asked,
    by_query: bool,
) -> Result<(Vec<u8>, Option<Usage>), DecodeError> {
    let body = &*mend(body);
    let answer: Answer<'_> = serde_json::from_slice(body)
        .map_err(|error| DecodeError::Malformed(format!("not an answer of Gemini's: {error}")))?;
    if let Some(error) = answer.error {
        return Err(DecodeError::Reported(read_event(error)));
    }
    let answer_id = answer_id(answer.response_id, asked, body);
    let blocked = answer.prompt_feedback.and_then(|feedback| feedback.block_reason);
    let mut searches = 0;
    let mut grounding = Vec::new();
    let mut choices = Vec::new();
    for candidate in answer.candidates {
        if let Some(metadata) = &candidate.grounding_metadata {
            searches += web_searches(metadata, by_query);
            grounding.push(metadata.clone());
        }
        choices.push(choice(candidate, &answer_id, asked));
    }
    if choices.is_empty() {
        // Google answers a prompt it refuses without any candidate.
        if blocked.is_none() {
            return Err(DecodeError::Malformed("the answer has no candidates".into()));
        }
        let message = ResponseMessage { role: "assistant".into(), ..ResponseMessage::default() };
        let finish_reason = Some("content_filter".into());
        choices.push(Choice { message, finish_reason, ..Choice::default() });
    }
    let mut extra = Map::new();
    if !grounding.is_empty() {
        extra.insert("vertex_ai_grounding_metadata".into(), grounding.into());
    }
    let counts = answer.usage_metadata;
    let usage = counts.as_ref().map(|counts| usage_object(counts, searches));
    let json = completion(format!("chatcmpl-{answer_id}"), asked, choices, usage, extra)?;
    Ok((json, counts.map(|counts| counts.usage(searches))))
}

fn choice(candidate: Candidate<'_>, answer_id: &str, asked: &Asked) -> Choice {
    let index = candidate.index;
    let mut message = ResponseMessage { role: "assistant".into(), ..ResponseMessage::default() };
    let (mut text, mut reasoning) = (None::<String>, None::<String>);
    let mut blocks: Vec<Value> = Vec::new();
    let mut calls: Vec<ToolCall> = Vec::new();
    let mut images: Vec<Value> = Vec::new();
    for part in candidate.content.unwrap_or_default().parts {
        let signature = part.thought_signature.filter(|signature| !signature.is_empty());
        if let Some(call) = part.function_call {
            let at = index << 32 | calls.len() as u64;
            let mut extra = Map::new();
            if let Some(signature) = signature {
                let google = json!({"google": {"thought_signature": signature}});
                extra.insert("extra_content".into(), google);
            }
            calls.push(ToolCall {
                id: call_id(&call, answer_id, at),
                kind: "function".into(),
                function: FunctionCall {
                    arguments: call.arguments().to_owned(),
                    name: call.name.unwrap_or_default(),
                },
                extra,
            });
            continue;
        }
        let piece = text_of(part.text).unwrap_or_default();
        if part.thought == Some(true) {
            reasoning.get_or_insert_default().push_str(&piece);
            blocks.push(json!({
                "type": "thinking",
                "thinking": piece,
                "signature": signature.unwrap_or_default(),
            }));
            continue;
        }
        if let Some(signature) = signature {
            blocks.push(json!({"type": "thinking", "thinking": "", "signature": signature}));
        }
        if let Some(blob) = part.inline_data {
            if blob.mime_type.starts_with("audio/") {
                let audio = json!({
                    "id": format!("audio_{}", asked.created), "data": blob.data, "transcript": "",
                    "expires_at": 0,
                });
                message.extra.insert("audio".into(), audio);
            } else {
                images.push(image(&blob, images.len()));
            }
        } else if part.text.is_some() {
            text.get_or_insert_default().push_str(&piece);
        }
    }
    let has_calls = !calls.is_empty();
    let reason = candidate.finish_reason.as_deref().unwrap_or("STOP");
    if let Some(metadata) = &candidate.grounding_metadata {
        let list = annotations(metadata, text.as_deref().unwrap_or_default());
        if !list.is_empty() {
            message.extra.insert("annotations".into(), list.into());
        }
    }
    let mut fields = Map::new();
    for (name, value) in [
        ("citations", candidate.citation_metadata),
        ("url_context_metadata", candidate.url_context_metadata),
    ] {
        if let Some(value) = value {
            fields.insert(name.into(), value);
        }
    }
    if !fields.is_empty() {
        message.extra.insert("provider_specific_fields".into(), fields.into());
    }
    if !images.is_empty() {
        message.extra.insert("images".into(), images.into());
    }
    // Content is null where there is nothing but calls, and empty where there is nothing.
    message.content = text.or_else(|| (!has_calls).then(String::new));
    message.tool_calls = has_calls.then_some(calls);
    message.reasoning_content = reasoning;
    message.thinking_blocks = (!blocks.is_empty()).then_some(blocks);
    Choice {
        index,
        message,
        finish_reason: Some(finish_reason(reason, has_calls).into()),
        logprobs: candidate.logprobs_result.as_ref().and_then(logprobs),
        extra: Map::new(),
    }
}
