//! A chat completion as a Message: OpenAI's answer for a client that speaks Anthropic's dialect.
//!
//! Facts from <https://platform.claude.com/docs/en/api/messages> and from the types of Anthropic's
//! Python SDK, read 2026-11.

use memchr::memmem;
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::encode_stream::Stream;
use super::error;
use super::names::Names;
use super::usage::{CacheCreation, OutputDetails};
use crate::client::{Asked, EncodeError, Encoder};
use crate::openai::read::completion;
use crate::openai::request::ToolCall;
use crate::openai::response::ErrorObject;
use crate::openai::usage::{nested_end, skip_space};
use crate::thought;
use crate::usage::Usage;

/// Writes one answer as a Message.
#[derive(Debug)]
pub struct MessagesEncoder {
    head: Head,
    stream: Stream,
}

/// What is known of an answer before it comes.
#[derive(Debug)]
pub(super) struct Head {
    /// Unguessable: what ids are made of.
    pub(super) id: String,
    /// The model's name the client used.
    pub(super) model: String,
    /// The client's long tool names.
    pub(super) names: Names,
    /// Where the client wanted the model to stop.
    pub(super) stop_sequences: Vec<String>,
}

impl MessagesEncoder {
    /// Starts on the answer to a request.
    pub fn new(asked: &Asked<'_>) -> MessagesEncoder {
        let head = Head {
            id: asked.id.to_owned(),
            model: asked.model.to_owned(),
            names: Names::of_request(asked.body),
            stop_sequences: stop_sequences(asked.body),
        };
        MessagesEncoder { head, stream: Stream::default() }
    }
}

impl Encoder for MessagesEncoder {
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

/// The client's `stop_sequences`, without reading the rest of its request.
fn stop_sequences(body: &[u8]) -> Vec<String> {
    const KEY: &[u8] = b"\"stop_sequences\"";
    memmem::find_iter(body, KEY)
        .find_map(|at| {
            let colon = skip_space(body, at + KEY.len());
            let open = skip_space(body, colon + 1);
            if body.get(colon) != Some(&b':') || body.get(open) != Some(&b'[') {
                return None;
            }
            let end = open + nested_end(&body[open..])?;
            serde_json::from_slice(&body[open..end]).ok()
        })
        .unwrap_or_default()
}

impl Head {
    /// Why the model stopped, and at which sequence. `at` is what vLLM and its kin add to a choice:
    /// the sequence they stopped at.
    pub(super) fn stop_reason<'a>(
        &self,
        finish: Option<&str>,
        has_tools: bool,
        refused: bool,
        at: Option<&'a str>,
    ) -> (&'static str, Option<&'a str>) {
        match finish {
            _ if refused => ("refusal", None),
            Some("length") => ("max_tokens", None),
            Some("content_filter") => ("refusal", None),
            // Several providers say `stop` beside calls; a client that is told `end_turn` does not
            // run them.
            _ if has_tools => ("tool_use", None),
            _ => match at.filter(|at| self.stop_sequences.iter().any(|one| one == at)) {
                Some(at) => ("stop_sequence", Some(at)),
                None => ("end_turn", None),
            },
        }
    }

    /// The id of a call, which carries Gemini's signature where there is one. `n` counts the calls
    /// of the answer, for providers that give none.
    pub(super) fn call_id(&self, id: &str, n: usize, extra: Option<&Value>) -> String {
        let id = match id {
            "" => format!("toolu_{}_{n}", self.id),
            id => id.to_owned(),
        };
        let signature = extra
            .and_then(|extra| extra.get("google")?.get("thought_signature")?.as_str())
            .filter(|signature| !signature.is_empty());
        signature.map_or_else(|| id.clone(), |signature| thought::join(&id, signature))
    }
}

/// A Message's `usage`: exclusive counts.
#[derive(Debug, Serialize)]
pub(super) struct UsageOut {
    input_tokens: u64,
    cache_creation_input_tokens: u64,
    cache_read_input_tokens: u64,
    cache_creation: CacheCreation,
    output_tokens: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    output_tokens_details: Option<OutputDetails>,
    server_tool_use: Option<ServerToolUse>,
}

#[derive(Debug, Serialize)]
struct ServerToolUse {
    web_search_requests: u64,
    web_fetch_requests: u64,
}

impl From<Usage> for UsageOut {
    fn from(usage: Usage) -> UsageOut {
        let written = usage.cache_write_tokens.saturating_add(usage.cache_write_1h_tokens);
        let cached = usage.cache_read_tokens.saturating_add(written);
        let details = OutputDetails { thinking_tokens: usage.reasoning_tokens };
        UsageOut {
            input_tokens: usage.prompt_tokens.saturating_sub(cached),
            cache_creation_input_tokens: written,
            cache_read_input_tokens: usage.cache_read_tokens,
            cache_creation: CacheCreation {
                ephemeral_5m_input_tokens: usage.cache_write_tokens,
                ephemeral_1h_input_tokens: usage.cache_write_1h_tokens,
            },
            output_tokens: usage.completion_tokens,
            output_tokens_details: (usage.reasoning_tokens > 0).then_some(details),
            server_tool_use: (usage.web_searches > 0).then_some(ServerToolUse {
                web_search_requests: usage.web_searches,
                web_fetch_requests: 0,
            }),
        }
    }
}

fn whole(head: &Head, answer: &[u8]) -> Result<Vec<u8>, EncodeError> {
    let (mut answer, usage) = completion(answer)?;
    // Anthropic has one answer.
    let choice = answer.choices.swap_remove(0);
    let mut message = choice.message;
    let mut content = thinking(message.thinking_blocks.take(), message.reasoning());
    let refused = message.refusal.as_deref().is_some_and(|refusal| !refusal.is_empty());
    let text = message.content.filter(|text| !text.is_empty());
    if let Some(text) = text.or_else(|| message.refusal.filter(|text| !text.is_empty())) {
        let mut block = json!({"type": "text"});
        let citations = citations(&message.extra, &text);
        block["text"] = text.into();
        if !citations.is_empty() {
            block["citations"] = citations.into();
        }
        content.push(block);
    }
    let calls = message.tool_calls.unwrap_or_default();
    let has_tools = !calls.is_empty();
    for (n, call) in calls.into_iter().enumerate() {
        content.push(tool_use(head, n, call));
    }
    let at = choice.extra.get("stop_reason").and_then(Value::as_str);
    let finish = choice.finish_reason.as_deref();
    let (stop_reason, stop_sequence) = head.stop_reason(finish, has_tools, refused, at);
    let written = json!({
        "id": format!("msg_{}", head.id),
        "type": "message",
        "role": "assistant",
        "model": head.model,
        "content": content,
        "stop_reason": stop_reason,
        "stop_sequence": stop_sequence,
        "usage": UsageOut::from(usage.unwrap_or_default()),
    });
    Ok(written.to_string().into_bytes())
}

fn thinking(blocks: Option<Vec<Value>>, reasoning: Option<&str>) -> Vec<Value> {
    let is_known = |block: &Value| match block["type"].as_str() {
        Some("thinking") => Some(json!({
            "type": "thinking",
            "thinking": block["thinking"].as_str().unwrap_or_default(),
            "signature": block["signature"].as_str().unwrap_or_default(),
        })),
        Some("redacted_thinking") => {
            Some(json!({"type": "redacted_thinking", "data": block["data"].as_str()?}))
        }
        _ => None,
    };
    let content: Vec<Value> = blocks.iter().flatten().filter_map(is_known).collect();
    if !content.is_empty() {
        return content;
    }
    let block = |text: &str| json!({"type": "thinking", "thinking": text, "signature": ""});
    reasoning.map(block).into_iter().collect()
}

fn tool_use(head: &Head, n: usize, call: ToolCall) -> Value {
    let arguments = call.function.arguments;
    let input = match serde_json::from_str(&arguments) {
        Ok(input @ Value::Object(_)) => input,
        _ if arguments.trim().is_empty() => json!({}),
        // What a model wrote need not be JSON, and Anthropic's clients take nothing but an object.
        _ => json!({"arguments": arguments}),
    };
    json!({
        "type": "tool_use",
        "id": head.call_id(&call.id, n, call.extra.get("extra_content")),
        "name": head.names.restore(&call.function.name),
        "input": input,
    })
}

/// The citations of a message: the provider's own where it is Anthropic's form, else OpenAI's.
fn citations(extra: &Map<String, Value>, text: &str) -> Vec<Value> {
    let own = extra.get("provider_specific_fields").and_then(|fields| fields.get("citations"));
    let own = own.and_then(Value::as_array).into_iter().flatten();
    let flat: Vec<Value> = own
        .flat_map(|one| one.as_array().map_or(std::slice::from_ref(one), Vec::as_slice))
        .filter(|citation| citation["type"].is_string())
        .cloned()
        .collect();
    if !flat.is_empty() {
        return flat;
    }
    let annotations = extra.get("annotations").and_then(Value::as_array).into_iter().flatten();
    annotations.filter_map(|annotation| citation(annotation, Some(text))).collect()
}

/// Anthropic's citation for OpenAI's. What it cites can be told where the whole text is there.
pub(super) fn citation(annotation: &Value, text: Option<&str>) -> Option<Value> {
    let cited = annotation.get("url_citation")?;
    let url = cited.get("url")?.as_str()?;
    let span = || {
        let at = |name: &str| usize::try_from(cited.get(name)?.as_u64()?).ok();
        let (start, end) = (at("start_index")?, at("end_index")?);
        Some(text?.chars().skip(start).take(end.checked_sub(start)?).collect::<String>())
    };
    Some(json!({
        "type": "web_search_result_location",
        "url": url,
        "title": cited.get("title").and_then(Value::as_str),
        "cited_text": span().unwrap_or_default(),
        "encrypted_index": "",
    }))
}
