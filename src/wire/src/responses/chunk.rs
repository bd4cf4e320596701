//! Chat's answers as the encoder reads them: borrowed, and what the model wrote left as raw JSON.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

pub(super) use crate::openai::read::inside;

/// One event of a chat stream, or a whole answer: they differ in `delta` and `message`.
#[derive(Deserialize)]
pub(super) struct Answer<'a> {
    #[serde(borrow, default)]
    pub(super) choices: Option<Vec<Choice<'a>>>,
    #[serde(borrow, default)]
    pub(super) usage: Option<&'a RawValue>,
    #[serde(borrow, default)]
    pub(super) service_tier: Option<&'a RawValue>,
    #[serde(borrow, default)]
    pub(super) error: Option<&'a RawValue>,
}

#[derive(Deserialize)]
pub(super) struct Choice<'a> {
    #[serde(default)]
    pub(super) index: Option<u64>,
    #[serde(borrow, default)]
    pub(super) delta: Option<Said<'a>>,
    #[serde(borrow, default)]
    pub(super) message: Option<Said<'a>>,
    #[serde(borrow, default)]
    pub(super) finish_reason: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    pub(super) logprobs: Option<&'a RawValue>,
}

/// What the model said, or more of it.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Said<'a> {
    #[serde(borrow)]
    pub(super) content: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(super) refusal: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(super) reasoning_content: Option<&'a RawValue>,
    /// What some servers call it.
    #[serde(borrow)]
    pub(super) reasoning: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(super) thinking_blocks: Option<Vec<&'a RawValue>>,
    #[serde(borrow)]
    pub(super) tool_calls: Option<Vec<Call<'a>>>,
    #[serde(borrow)]
    pub(super) annotations: Option<Vec<&'a RawValue>>,
}

#[derive(Deserialize)]
pub(super) struct Call<'a> {
    #[serde(default)]
    pub(super) index: Option<u64>,
    #[serde(borrow, default)]
    pub(super) id: Option<&'a RawValue>,
    #[serde(borrow, default)]
    pub(super) function: Option<Function<'a>>,
    #[serde(borrow, default)]
    pub(super) custom: Option<Custom<'a>>,
    #[serde(borrow, default)]
    pub(super) extra_content: Option<&'a RawValue>,
}

#[derive(Deserialize)]
pub(super) struct Function<'a> {
    #[serde(borrow, default)]
    pub(super) name: Option<&'a RawValue>,
    #[serde(borrow, default)]
    pub(super) arguments: Option<&'a RawValue>,
}

#[derive(Deserialize)]
pub(super) struct Custom<'a> {
    #[serde(borrow, default)]
    pub(super) name: Option<&'a RawValue>,
    #[serde(borrow, default)]
    pub(super) input: Option<&'a RawValue>,
}

impl Call<'_> {
    /// Gemini's signature of a call, where Google's own compatibility layer puts it.
    pub(super) fn signature(&self) -> Option<String> {
        #[derive(Deserialize)]
        struct Extra {
            google: Google,
        }
        #[derive(Deserialize)]
        struct Google {
            thought_signature: String,
        }
        let extra: Extra = serde_json::from_str(self.extra_content?.get()).ok()?;
        Some(extra.google.thought_signature)
    }
}

/// The text of content that some servers send as a list of parts, as the inside of a JSON string.
pub(super) fn inside_of_parts(raw: Option<&RawValue>) -> Option<Vec<u8>> {
    #[derive(Deserialize)]
    struct Part<'a> {
        #[serde(rename = "type", borrow, default)]
        kind: Cow<'a, str>,
        #[serde(borrow, default)]
        text: Option<&'a RawValue>,
    }
    let raw = raw?.get();
    if !raw.starts_with('[') {
        return None;
    }
    let parts: Vec<Part<'_>> = serde_json::from_str(raw).ok()?;
    let mut text = Vec::new();
    for part in parts.iter().filter(|part| part.kind == "text") {
        text.extend_from_slice(inside(part.text).unwrap_or_default());
    }
    (!text.is_empty()).then_some(text)
}
