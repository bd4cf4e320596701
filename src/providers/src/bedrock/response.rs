//! A whole answer of Converse: its content blocks as one of OpenAI's messages.

use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use tollway_wire::anthropic::UsageCounts;

use crate::response::{Parts, completion};
use crate::{Asked, DecodeError};

use super::error::{is_error, read_error};
use super::finish_reason;
use super::usage::TokenUsage;

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
        add(&mut parts, block)?;
    }
    let mut reason = finish_reason(answer.stop_reason.as_deref());
    if reason == "tool_calls" && !parts.has_calls() {
        reason = "stop";
    }
    let mut usage = answer.usage.as_ref().map(TokenUsage::counts);
    let written = usage.as_ref().map(UsageCounts::to_openai);
    let mut extra = Map::new();
    if let Some(trace) = answer.trace {
        extra.insert("trace".into(), trace);
    }
    if let Some(tier) = answer.service_tier {
        if let Some(usage) = &mut usage {
            usage.service_tier = Some(tier.kind.clone());
        }
        extra.insert("service_tier".into(), tier.kind.into());
    }
    let choices = vec![parts.into_choice(reason)];
    Ok((completion(id_of(asked, body), asked, choices, written, extra)?, usage))
}

fn add(parts: &mut Parts, block: Block<'_>) -> Result<(), DecodeError> {
    if let Some(text) = block.text {
        parts.add_text(&text);
    }
    if let Some(call) = block.tool_use.filter(|call| call.kind.is_none()) {
        let arguments = call.input.map_or("{}", |raw| raw.get()).to_owned();
        parts.add_call(Some(call.tool_use_id), call.name, arguments)?;
    }
    if let Some(reasoning) = block.reasoning_content {
        if let Some(ReasoningText { text, signature }) = reasoning.reasoning_text {
            parts.add_thinking(&text, &signature.unwrap_or_default());
        }
        if let Some(data) = reasoning.redacted_content {
            parts.add_redacted(Some(data.into()));
        }
    }
    if let Some(cited) = block.citations_content {
        let text: String = cited.content.iter().map(|part| part.text.as_str()).collect();
        parts.add_cited(&text, cited.citations, "/location/web/url");
    }
    if let Some(Image { format, source: ImageSource { bytes: Some(bytes) } }) = block.image {
        let url = format!("data:image/{format};base64,{bytes}");
        parts.images.push(json!({"type": "image_url", "image_url": {"url": url}}));
    }
    Ok(())
}
