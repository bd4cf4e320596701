//! A whole answer: Cohere's message as OpenAI's.

use serde::Deserialize;
use serde_json::{Map, Value, json};
use tollway_wire::openai::request::ToolCall;
use tollway_wire::openai::response::{Choice, ResponseMessage};
use tollway_wire::openai::usage::UsageObject;
use tollway_wire::surrogate::mend;
use tollway_wire::usage::Usage;

use crate::response::completion;
use crate::{Asked, DecodeError};

use super::usage::Counts;
use super::{error, finish_reason};

/// An answer that is not a stream.
#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    id: String,
    message: Message,
    #[serde(default)]
    finish_reason: Option<String>,
    #[serde(default)]
    usage: Option<Counts>,
    #[serde(default)]
    logprobs: Option<Vec<Logprob>>,
}

/// What the model said.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Message {
    content: Option<Vec<Content>>,
    tool_calls: Option<Vec<ToolCall>>,
    tool_plan: Option<String>,
    citations: Option<Vec<Value>>,
}

/// One part of it.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Content {
    text: Option<String>,
    thinking: Option<String>,
}

/// The log probabilities of a piece of the text, which may be several tokens.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Logprob {
    text: Option<String>,
    logprobs: Option<Vec<f64>>,
}

/// OpenAI's `logprobs`. It has one number for each entry: that of a piece is the sum of its tokens'.
pub(super) fn logprobs(pieces: Vec<Logprob>) -> Value {
    let entries: Vec<Value> = pieces
        .into_iter()
        .map(|piece| {
            let sum: f64 = piece.logprobs.unwrap_or_default().iter().sum();
            let text = piece.text.unwrap_or_default();
            json!({"token": text, "logprob": sum, "bytes": text.as_bytes(), "top_logprobs": []})
        })
        .collect();
    json!({"content": entries, "refusal": null})
}

/// Translates an answer. Also returns what it took.
pub(super) fn translate(
    body: &[u8],
    asked: &Asked,
) -> Result<(Vec<u8>, Option<Usage>), DecodeError> {
    let body = &*mend(body);
    let answer: Answer =
        serde_json::from_slice(body).map_err(|fault| match error::inside(body) {
            Some(error) => DecodeError::Reported(error),
            None => DecodeError::Malformed(format!("not a chat answer: {fault}")),
        })?;
    if let Some(error) = error::of_finish(answer.finish_reason.as_deref(), None) {
        return Err(DecodeError::Reported(error));
    }
    let usage = answer.usage.map(|counts| counts.total());
    let tool_calls = answer.message.tool_calls.filter(|calls| !calls.is_empty());
    let mut reason = finish_reason(answer.finish_reason.as_deref());
    // OpenAI's clients look for calls by this word alone.
    if tool_calls.is_some() && reason == "stop" {
        reason = "tool_calls";
    }
    let (mut text, mut reasoning) =
        (None, answer.message.tool_plan.filter(|plan| !plan.is_empty()));
    for part in answer.message.content.into_iter().flatten() {
        if let Some(more) = part.text {
            text.get_or_insert_with(String::new).push_str(&more);
        }
        if let Some(more) = part.thinking.filter(|more| !more.is_empty()) {
            reasoning.get_or_insert_with(String::new).push_str(&more);
        }
    }
    let text = text.filter(|text: &String| !text.is_empty() || tool_calls.is_none());
    let mut extra = Map::new();
    if let Some(citations) = answer.message.citations.filter(|citations| !citations.is_empty()) {
        let annotations: Vec<Value> = citations.iter().flat_map(annotations).collect();
        if !annotations.is_empty() {
            extra.insert("annotations".into(), annotations.into());
        }
        extra.insert("provider_specific_fields".into(), json!({"citations": citations}));
    }
    let choice = Choice {
        message: ResponseMessage {
            role: "assistant".into(),
            content: text.or_else(|| tool_calls.is_none().then(String::new)),
            tool_calls,
            reasoning_content: reasoning,
            extra,
            ..ResponseMessage::default()
        },
        finish_reason: Some(reason.into()),
        logprobs: answer.logprobs.map(logprobs),
        ..Choice::default()
    };
    let id = format!("chatcmpl-{}", answer.id);
    let written = usage.as_ref().map(UsageObject::from);
    Ok((completion(id, asked, vec![choice], written, Map::new())?, usage))
}

/// OpenAI's annotations for a citation: one for each of its sources that is on the web. Where the
/// source is a document without an address, Cohere's own form is all there is.
pub(super) fn annotations(citation: &Value) -> Vec<Value> {
    // What is cited in the thinking or in a plan is not in the content.
    if citation["type"].as_str().is_some_and(|kind| kind != "TEXT_CONTENT") {
        return Vec::new();
    }
    let sources = citation["sources"].as_array().into_iter().flatten();
    sources
        .filter_map(|source| {
            let of = source.get("document").or_else(|| source.get("tool_output"))?;
            let url = of.get("url").and_then(Value::as_str)?;
            let title = of.get("title").and_then(Value::as_str).unwrap_or_default();
            Some(json!({"type": "url_citation", "url_citation": {
                "start_index": citation["start"], "end_index": citation["end"],
                "url": url, "title": title,
            }}))
        })
        .collect()
}
