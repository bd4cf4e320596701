//! A chat completion as a `GenerateContentResponse`.

use memchr::memmem;
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::encode_stream::Stream;
use super::error;
use crate::client::{Asked, EncodeError, Encoder};
use crate::openai::read::completion;
use crate::openai::request::ToolCall;
use crate::openai::response::{Choice, ErrorObject};
use crate::openai::usage::skip_space;
use crate::usage::Usage;

/// Writes one answer as Google does.
#[derive(Debug)]
pub struct GeminiEncoder {
    head: Head,
    stream: Stream,
}

/// What is known of an answer before it comes.
#[derive(Debug)]
pub(super) struct Head {
    pub(super) id: String,
    pub(super) model: String,
    /// The client wants to see thoughts, which Google keeps back unless asked.
    pub(super) thoughts: bool,
}

impl GeminiEncoder {
    /// Starts on the answer to a request.
    pub fn new(asked: &Asked<'_>) -> GeminiEncoder {
        let head = Head {
            id: asked.id.to_owned(),
            model: asked.model.to_owned(),
            thoughts: is_set(asked.body, b"\"includeThoughts\"")
                || is_set(asked.body, b"\"include_thoughts\""),
        };
        GeminiEncoder { head, stream: Stream::default() }
    }
}

/// Whether a member is true anywhere in a request. A raw quote inside a JSON string is escaped, so
/// the word before a colon is always a key.
fn is_set(body: &[u8], key: &[u8]) -> bool {
    memmem::find_iter(body, key).any(|at| {
        let colon = skip_space(body, at + key.len());
        let value = skip_space(body, colon + 1);
        body.get(colon) == Some(&b':')
            && body.get(value..).is_some_and(|rest| rest.starts_with(b"true"))
    })
}

impl Encoder for GeminiEncoder {
    fn whole(&mut self, answer: &[u8]) -> Result<Vec<u8>, EncodeError> {
        whole(&self.head, answer)
    }

    fn stream(&mut self, events: &[u8], out: &mut Vec<u8>) -> Result<(), EncodeError> {
        self.stream.push(&self.head, events, out)
    }

    fn error(&mut self, status: u16, error: &ErrorObject, out: &mut Vec<u8>) {
        out.extend_from_slice(&error::event(status, error));
    }
}

/// Google's reason for OpenAI's.
pub(super) fn finish_reason(finish: &str) -> &'static str {
    match finish {
        "length" => "MAX_TOKENS",
        "content_filter" => "SAFETY",
        _ => "STOP",
    }
}

/// `usageMetadata`. Output tokens are those of thoughts and those of the answer apart.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct UsageOut {
    prompt_token_count: u64,
    candidates_token_count: u64,
    total_token_count: u64,
    #[serde(skip_serializing_if = "is_zero")]
    cached_content_token_count: u64,
    #[serde(skip_serializing_if = "is_zero")]
    thoughts_token_count: u64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    prompt_tokens_details: Vec<Value>,
}

fn is_zero(count: &u64) -> bool {
    *count == 0
}

impl From<Usage> for UsageOut {
    fn from(usage: Usage) -> UsageOut {
        let audio = usage.audio_prompt_tokens;
        let details = || {
            let rest = usage.prompt_tokens.saturating_sub(audio);
            vec![
                json!({"modality": "TEXT", "tokenCount": rest}),
                json!({"modality": "AUDIO", "tokenCount": audio}),
            ]
        };
        UsageOut {
            prompt_token_count: usage.prompt_tokens,
            candidates_token_count: usage.completion_tokens.saturating_sub(usage.reasoning_tokens),
            total_token_count: usage.total_tokens(),
            cached_content_token_count: usage.cache_read_tokens,
            thoughts_token_count: usage.reasoning_tokens,
            prompt_tokens_details: if audio > 0 { details() } else { Vec::new() },
        }
    }
}

fn whole(head: &Head, answer: &[u8]) -> Result<Vec<u8>, EncodeError> {
    let (answer, usage) = completion(answer)?;
    let candidates: Vec<Value> =
        answer.choices.into_iter().map(|choice| candidate(head, choice)).collect();
    let mut written = json!({"candidates": candidates});
    if let Some(usage) = usage {
        written["usageMetadata"] = json!(UsageOut::from(usage));
    }
    written["modelVersion"] = head.model.as_str().into();
    written["responseId"] = head.id.as_str().into();
    Ok(written.to_string().into_bytes())
}

fn candidate(head: &Head, choice: Choice) -> Value {
    let mut message = choice.message;
    let mut parts = Vec::new();
    let mut text_signature = None;
    let blocks = message.thinking_blocks.take().unwrap_or_default();
    for block in &blocks {
        let text = block["thinking"].as_str().unwrap_or_default();
        let signature = block["signature"].as_str().filter(|signature| !signature.is_empty());
        if text.is_empty() {
            // A signature of the text and not of a thought.
            text_signature = signature.map(str::to_owned).or(text_signature);
        } else if head.thoughts {
            let mut part = json!({"text": text, "thought": true});
            if let Some(signature) = signature {
                part["thoughtSignature"] = signature.into();
            }
            parts.push(part);
        }
    }
    if let Some(reasoning) = message.reasoning().filter(|_| head.thoughts && parts.is_empty()) {
        parts.push(json!({"text": reasoning, "thought": true}));
    }
    let text = message.content.take().filter(|text| !text.is_empty());
    let text = text.or_else(|| message.refusal.take().filter(|text| !text.is_empty()));
    let grounding = text.as_deref().and_then(|text| grounding(&message.extra, text));
    if let Some(text) = text {
        parts.push(json!({"text": text}));
    }
    for image in message.extra.get("images").and_then(Value::as_array).into_iter().flatten() {
        parts.extend(inline_data(image));
    }
    if let Some(signature) = text_signature {
        match parts.last_mut().filter(|part| part.get("thought").is_none()) {
            Some(last) => last["thoughtSignature"] = signature.into(),
            None => parts.push(json!({"text": "", "thoughtSignature": signature})),
        }
    }
    for (n, call) in message.tool_calls.into_iter().flatten().enumerate() {
        parts.push(function_call(head, n, call));
    }
    if parts.is_empty() {
        parts.push(json!({"text": ""}));
    }
    let mut written = json!({"content": {"parts": parts, "role": "model"}});
    if let Some(finish) = choice.finish_reason.as_deref() {
        written["finishReason"] = finish_reason(finish).into();
    }
    written["index"] = choice.index.into();
    if let Some(grounding) = grounding {
        written["groundingMetadata"] = grounding;
    }
    if let Some(result) = choice.logprobs.as_ref().and_then(logprobs) {
        written["logprobsResult"] = result;
    }
    written
}

/// An image of the answer, which comes as a data URL.
pub(super) fn inline_data(image: &Value) -> Option<Value> {
    let url = image.get("image_url")?.get("url")?.as_str()?;
    let (media, data) = url.strip_prefix("data:")?.split_once(";base64,")?;
    Some(json!({"inlineData": {"mimeType": media, "data": data}}))
}

fn function_call(head: &Head, n: usize, call: ToolCall) -> Value {
    let google = call.extra.get("extra_content").and_then(|extra| extra.get("google"));
    let signature = google.and_then(|google| google.get("thought_signature")?.as_str());
    call_part(head, n, &call.id, &call.function.name, &call.function.arguments, signature)
}

/// A part with a call. Calls have ids, as newer models of Google's have them, so that answers find
/// their way; `n` counts the calls of providers that give none.
pub(super) fn call_part(
    head: &Head,
    n: usize,
    id: &str,
    name: &str,
    arguments: &str,
    signature: Option<&str>,
) -> Value {
    let id = if id.is_empty() { format!("call_{}_{n}", head.id) } else { id.to_owned() };
    let args = match serde_json::from_str(arguments) {
        Ok(args @ Value::Object(_)) => args,
        _ if arguments.trim().is_empty() => json!({}),
        // What a model wrote need not be JSON, and Google's clients take nothing but an object.
        _ => json!({"arguments": arguments}),
    };
    let mut part = json!({"functionCall": {"id": id, "name": name, "args": args}});
    if let Some(signature) = signature.filter(|signature| !signature.is_empty()) {
        part["thoughtSignature"] = signature.into();
    }
    part
}

/// Google's grounding for OpenAI's annotations. Google counts in bytes, OpenAI in characters.
fn grounding(extra: &Map<String, Value>, text: &str) -> Option<Value> {
    let annotations = extra.get("annotations")?.as_array()?;
    let mut chunks = Vec::new();
    let mut supports = Vec::new();
    for cited in annotations.iter().filter_map(|one| one.get("url_citation")) {
        let Some(url) = cited.get("url").and_then(Value::as_str) else { continue };
        let title = cited.get("title").and_then(Value::as_str).unwrap_or_default();
        let byte = |name: &str| {
            let at = usize::try_from(cited.get(name)?.as_u64()?).ok()?;
            Some(text.char_indices().nth(at).map_or(text.len(), |(byte, _)| byte))
        };
        if let (Some(start), Some(end)) = (byte("start_index"), byte("end_index"))
            && let Some(segment) = text.get(start..end).filter(|segment| !segment.is_empty())
        {
            supports.push(json!({
                "segment": {"startIndex": start, "endIndex": end, "text": segment},
                "groundingChunkIndices": [chunks.len()],
            }));
        }
        chunks.push(json!({"web": {"uri": url, "title": title}}));
    }
    (!chunks.is_empty()).then(|| json!({"groundingChunks": chunks, "groundingSupports": supports}))
}

/// Google's log probabilities for OpenAI's.
pub(super) fn logprobs(logprobs: &Value) -> Option<Value> {
    let tokens = logprobs.get("content")?.as_array().filter(|tokens| !tokens.is_empty())?;
    let one = |token: &Value| json!({"token": token["token"], "logProbability": token["logprob"]});
    let top = |token: &Value| {
        let all = token.get("top_logprobs").and_then(Value::as_array).into_iter().flatten();
        json!({"candidates": all.map(one).collect::<Vec<Value>>()})
    };
    Some(json!({
        "chosenCandidates": tokens.iter().map(one).collect::<Vec<Value>>(),
        "topCandidates": tokens.iter().map(top).collect::<Vec<Value>>(),
    }))
}
