//! A whole answer of Converse: its content blocks as one of OpenAI's messages.

use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use tollway_wire::anthropic::UsageCounts;
use tollway_wire::openai::request::{FunctionCall, ToolCall};
use tollway_wire::openai::response::{ChatResponse, Choice, ResponseMessage};

use crate::{Asked, DecodeError};

use super::error::{is_error, read_error};
use super::usage::TokenUsage;
use super::{JSON_TOOL, finish_reason};

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Answer<'a> {
    #[serde(borrow)]
    output: Output<'a>,
    stop_reason: Option<String>,
    usage: Option<TokenUsage>,
    trace: Option<Value>,
    service_tier: Option<ServiceTier>,
}

#[derive(Deserialize)]
struct Output<'a> {
    #[serde(borrow)]
    message: Message<'a>,
}

#[derive(Deserialize)]
struct Message<'a> {
    #[serde(borrow, default)]
    content: Vec<Block<'a>>,
}

/// The tier that served the call.
#[derive(Debug, Deserialize)]
pub(super) struct ServiceTier {
    #[serde(rename = "type")]
    pub(super) kind: String,
}

/// A content block: one of these members is there.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Block<'a> {
    text: Option<String>,
    #[serde(borrow)]
    tool_use: Option<ToolUse<'a>>,
    reasoning_content: Option<Reasoning>,
    citations_content: Option<Cited>,
    image: Option<Image>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ToolUse<'a> {
    tool_use_id: String,
    name: String,
    #[serde(borrow)]
    input: Option<&'a RawValue>,
    /// Told for what Bedrock ran itself.
    #[serde(rename = "type")]
    kind: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Reasoning {
    reasoning_text: Option<ReasoningText>,
    redacted_content: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ReasoningText {
    text: String,
    signature: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Cited {
    content: Vec<CitedText>,
    citations: Vec<Value>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct CitedText {
    text: String,
}

#[derive(Deserialize)]
struct Image {
    format: String,
    source: ImageSource,
}

#[derive(Deserialize)]
struct ImageSource {
    bytes: Option<String>,
}

/// An id for an answer that has none: Converse tells it in a header that is not seen here.
pub(super) fn id_of(asked: &Asked, bytes: &[u8]) -> String {
    let mut hash = Sha256::new();
    hash.update((asked.created ^ asked.nonce).to_be_bytes());
    hash.update(asked.model.as_bytes());
    hash.update(bytes);
    let hash = hash.finalize();
    hash[..12].iter().fold("chatcmpl-".to_owned(), |id, byte| format!("{id}{byte:02x}"))
}

/// Translates an answer. Also returns what it took.
pub(super) fn translate(
    body: &[u8],
    asked: &Asked,
) -> Result<(Vec<u8>, Option<UsageCounts>), DecodeError> {
    let answer: Answer<'_> = serde_json::from_slice(body).map_err(|error| {
        if is_error(body) {
            return DecodeError::Reported(read_error(200, body));
        }
        DecodeError::Malformed(format!("not an answer of Converse: {error}"))
    })?;
    let mut parts = Parts::default();
    for block in answer.output.message.content {
        parts.add(block);
    }
    let mut reason = finish_reason(answer.stop_reason.as_deref());
    if reason == "tool_calls" && parts.tool_calls.is_empty() {
        reason = "stop";
    }
    let usage = answer.usage.as_ref().map(TokenUsage::counts);
    let mut extra = Map::new();
    if let Some(trace) = answer.trace {
        extra.insert("trace".into(), trace);
    }
    if let Some(tier) = answer.service_tier {
        extra.insert("service_tier".into(), tier.kind.into());
    }
    let response = ChatResponse {
        id: id_of(asked, body),
        object: "chat.completion".into(),
        created: asked.created,
        model: asked.model.clone(),
        choices: vec![Choice {
            message: parts.into_message(),
            finish_reason: Some(reason.into()),
            ..Choice::default()
        }],
        usage: usage.as_ref().map(UsageCounts::to_openai),
        extra,
    };
    let json = serde_json::to_vec(&response).map_err(|error| {
        DecodeError::Malformed(format!("the answer cannot be written: {error}"))
    })?;
    Ok((json, usage))
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
    images: Vec<Value>,
}

impl Parts {
    fn add(&mut self, block: Block<'_>) {
        if let Some(text) = block.text {
            self.text.get_or_insert_default().push_str(&text);
        }
        if let Some(call) = block.tool_use.filter(|call| call.kind.is_none()) {
            self.add_call(call);
        }
        if let Some(reasoning) = block.reasoning_content {
            self.add_reasoning(reasoning);
        }
        if let Some(cited) = block.citations_content {
            self.add_cited(cited);
        }
        if let Some(Image { format, source: ImageSource { bytes: Some(bytes) } }) = block.image {
            let url = format!("data:image/{format};base64,{bytes}");
            self.images.push(json!({"type": "image_url", "image_url": {"url": url}}));
        }
    }

    fn add_call(&mut self, call: ToolUse<'_>) {
        let arguments = call.input.map_or("{}", |raw| raw.get()).to_owned();
        if call.name == JSON_TOOL {
            self.json = Some(arguments);
            return;
        }
        self.tool_calls.push(ToolCall {
            id: call.tool_use_id,
            kind: "function".into(),
            function: FunctionCall { name: call.name, arguments },
            extra: Map::new(),
        });
    }

    fn add_reasoning(&mut self, reasoning: Reasoning) {
        if let Some(ReasoningText { text, signature }) = reasoning.reasoning_text {
            self.reasoning.get_or_insert_default().push_str(&text);
            self.thinking_blocks.push(json!({
                "type": "thinking",
                "thinking": text,
                "signature": signature.unwrap_or_default(),
            }));
        }
        if let Some(data) = reasoning.redacted_content {
            self.thinking_blocks.push(json!({"type": "redacted_thinking", "data": data}));
        }
    }

    fn add_cited(&mut self, cited: Cited) {
        let text: String = cited.content.iter().map(|part| part.text.as_str()).collect();
        let before = self.text.get_or_insert_default();
        let start = before.chars().count();
        let span = (start, start + text.chars().count());
        before.push_str(&text);
        self.annotations.extend(cited.citations.iter().filter_map(|c| annotation(c, span)));
        if !cited.citations.is_empty() {
            self.citations.push(cited.citations.into());
        }
    }

    fn into_message(self) -> ResponseMessage {
        let mut extra = Map::new();
        for (name, list) in [("annotations", self.annotations), ("images", self.images)] {
            if !list.is_empty() {
                extra.insert(name.into(), list.into());
            }
        }
        if !self.citations.is_empty() {
            let fields = json!({"citations": self.citations});
            extra.insert("provider_specific_fields".into(), fields);
        }
        let no_calls = self.tool_calls.is_empty();
        ResponseMessage {
            role: "assistant".into(),
            // Content is null where there is nothing but calls, and empty where there is nothing.
            content: self.json.or(self.text).or_else(|| no_calls.then(String::new)),
            refusal: None,
            tool_calls: (!no_calls).then_some(self.tool_calls),
            reasoning_content: self.reasoning,
            thinking_blocks: (!self.thinking_blocks.is_empty()).then_some(self.thinking_blocks),
            extra,
        }
    }
}

/// OpenAI's annotation for a citation of something on the web.
fn annotation(citation: &Value, (start, end): (usize, usize)) -> Option<Value> {
    let url = citation.get("location")?.get("web")?.get("url")?.as_str()?;
    let title = citation.get("title").and_then(Value::as_str).unwrap_or_default();
    Some(json!({"type": "url_citation", "url_citation": {
        "start_index": start, "end_index": end, "url": url, "title": title,
    }}))
}
