//! A `GenerateContentResponse`, whole or as one event of a stream, and what it took.
//!
//! <https://ai.google.dev/api/generate-content#v1beta.GenerateContentResponse>, read 2026-11.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};
use tollway_wire::gemini::{self, ModalityCount, UsageMetadata};
use tollway_wire::openai::usage::{CompletionDetails, PromptDetails, UsageObject};

use super::error::Status;
use crate::Asked;

/// The answer, or a piece of it. Text stays the raw JSON it arrives in.
#[derive(Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[derive(Default)]
pub(super) struct Answer<'a> {
    #[serde(borrow, deserialize_with = "list")]
    pub(super) candidates: Vec<Candidate<'a>>,
    pub(super) prompt_feedback: Option<Feedback>,
    pub(super) usage_metadata: Option<UsageMetadata>,
    pub(super) response_id: Option<String>,
    pub(super) error: Option<Status>,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Candidate<'a> {
    pub(super) index: u64,
    #[serde(borrow)]
    pub(super) content: Option<Content<'a>>,
    pub(super) finish_reason: Option<String>,
    pub(super) grounding_metadata: Option<Value>,
    pub(super) citation_metadata: Option<Value>,
    pub(super) url_context_metadata: Option<Value>,
    pub(super) logprobs_result: Option<Value>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct Content<'a> {
    #[serde(borrow, deserialize_with = "list")]
    pub(super) parts: Vec<Part<'a>>,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Part<'a> {
    #[serde(borrow)]
    pub(super) text: Option<&'a RawValue>,
    pub(super) thought: Option<bool>,
    #[serde(borrow)]
    pub(super) thought_signature: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub(super) function_call: Option<FunctionCall<'a>>,
    #[serde(borrow)]
    pub(super) inline_data: Option<Blob<'a>>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct FunctionCall<'a> {
    pub(super) id: Option<String>,
    pub(super) name: Option<String>,
    #[serde(borrow)]
    pub(super) args: Option<&'a RawValue>,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Blob<'a> {
    #[serde(borrow)]
    pub(super) mime_type: Cow<'a, str>,
    #[serde(borrow)]
    pub(super) data: Cow<'a, str>,
}

#[derive(Deserialize, Default)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct Feedback {
    pub(super) block_reason: Option<String>,
}

/// Reads null as an empty list.
fn list<'de, D, T>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Deserialize<'de>,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

impl FunctionCall<'_> {
    /// The arguments as JSON. A call without any has an empty object.
    pub(super) fn arguments(&self) -> &str {
        match self.args.map(|args| args.get().trim()) {
            None | Some("" | "null") => "{}",
            Some(args) => args,
        }
    }
}

/// OpenAI's object, with the kinds of tokens as LiteLLM names them.
pub(super) fn usage_object(counts: &UsageMetadata, web_searches: u64) -> UsageObject {
    let mut usage = UsageObject::from(&counts.usage(web_searches));
    let kinds = |details: &Option<Vec<ModalityCount>>| {
        let mut extra = Map::new();
        for (name, modality) in
            [("text_tokens", "TEXT"), ("image_tokens", "IMAGE"), ("video_tokens", "VIDEO")]
        {
            let count = gemini::of_modality(details, modality);
            if count > 0 {
                extra.insert(name.into(), count.into());
            }
        }
        extra
    };
    let prompt = usage.prompt_tokens_details.get_or_insert_with(PromptDetails::default);
    prompt.extra = kinds(&counts.prompt_tokens_details);
    let completion = usage.completion_tokens_details.get_or_insert_with(CompletionDetails::default);
    completion.extra = kinds(&counts.candidates_tokens_details);
    if web_searches > 0 {
        let used = json!({"web_search_requests": web_searches});
        usage.extra.insert("server_tool_use".into(), used);
    }
    usage
}

/// OpenAI's `finish_reason`, as LiteLLM maps them. `FUNCTION_CALL` is not Google's own, but servers
/// that resemble it say it.
pub(super) fn finish_reason(reason: &str, has_calls: bool) -> &'static str {
    match reason {
        "MAX_TOKENS" | "CONTINUATION" => "length",
        "SAFETY"
        | "RECITATION"
        | "LANGUAGE"
        | "BLOCKLIST"
        | "PROHIBITED_CONTENT"
        | "SPII"
        | "OTHER"
        | "IMAGE_SAFETY"
        | "IMAGE_PROHIBITED_CONTENT"
        | "IMAGE_RECITATION"
        | "IMAGE_OTHER"
        | "NO_IMAGE"
        | "MODEL_ARMOR"
        | "ESCALATION"
        | "PUP_LIMITED_DISABLED" => "content_filter",
        "FUNCTION_CALL" => "tool_calls",
        _ if has_calls => "tool_calls",
        _ => "stop",
    }
}

/// FNV-1a: nothing that is made of it must be unguessable.
fn hash(parts: &[&[u8]]) -> String {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in parts.iter().copied().flatten() {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    }
    format!("{hash:016x}")
}

/// The answer's id, or one of our own where a server gives none.
pub(super) fn answer_id(given: Option<String>, asked: &Asked, json: &[u8]) -> String {
    let own = || hash(&[&(asked.created ^ asked.nonce).to_be_bytes(), json]);
    given.filter(|id| !id.is_empty()).unwrap_or_else(own)
}

/// An id for a call Google gave none: the same answer always gets the same ids, and two answers get
/// different ones.
pub(super) fn call_id(call: &FunctionCall<'_>, answer_id: &str, at: u64) -> String {
    if let Some(id) = call.id.as_deref().filter(|id| !id.is_empty()) {
        return id.to_owned();
    }
    let name = call.name.as_deref().unwrap_or_default().as_bytes();
    let parts = [answer_id.as_bytes(), &at.to_be_bytes(), name, call.arguments().as_bytes()];
    format!("call_{}", hash(&parts))
}

/// A raw JSON string's text.
pub(super) fn text_of(raw: Option<&RawValue>) -> Option<Cow<'_, str>> {
    let json = raw?.get();
    let inside = json.strip_prefix('"')?.strip_suffix('"')?;
    if inside.contains('\\') {
        return serde_json::from_str(json).ok().map(Cow::Owned);
    }
    Some(Cow::Borrowed(inside))
}

/// The image of a part, as LiteLLM's `images` has it.
pub(super) fn image(blob: &Blob<'_>, at: usize) -> Value {
    let url = format!("data:{};base64,{}", blob.mime_type, blob.data);
    json!({"type": "image_url", "index": at, "image_url": {"url": url}})
}

/// OpenAI's `logprobs`.
pub(super) fn logprobs(result: &Value) -> Option<Value> {
    let chosen = result["chosenCandidates"].as_array()?;
    let entry = |candidate: &Value| {
        json!({
            "token": candidate["token"].as_str().unwrap_or_default(),
            "logprob": candidate["logProbability"].as_f64().unwrap_or(0.0),
            "bytes": null,
        })
    };
    let content: Vec<Value> = chosen
        .iter()
        .enumerate()
        .map(|(at, candidate)| {
            let top = result["topCandidates"][at]["candidates"].as_array();
            let mut entry_of_token = entry(candidate);
            entry_of_token["top_logprobs"] = top.into_iter().flatten().map(entry).collect();
            entry_of_token
        })
        .collect();
    Some(json!({"content": content, "refusal": null}))
}

/// OpenAI's annotations for what the answer is grounded on. Google counts bytes, OpenAI characters.
pub(super) fn annotations(grounding: &Value, text: &str) -> Vec<Value> {
    let chunks = grounding["groundingChunks"].as_array().map(Vec::as_slice).unwrap_or_default();
    let supports = grounding["groundingSupports"].as_array().map(Vec::as_slice).unwrap_or_default();
    if text.len() > CITED_BYTES_MAX {
        return Vec::new();
    }
    let chars = |bytes: &Value| {
        let at = usize::try_from(bytes.as_u64().unwrap_or(0)).unwrap_or(usize::MAX).min(text.len());
        // An offset inside a character is none of Google's; it counts up to that character.
        let at = (0..=at).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        text[..at].chars().count()
    };
    let mut all = Vec::new();
    for support in supports {
        let segment = &support["segment"];
        let indices = support["groundingChunkIndices"].as_array().into_iter().flatten();
        for index in indices.filter_map(Value::as_u64) {
            let chunk = usize::try_from(index).ok().and_then(|index| chunks.get(index));
            let Some(web) = chunk.and_then(|chunk| chunk.get("web")) else { continue };
            let Some(url) = web["uri"].as_str() else { continue };
            all.push(json!({"type": "url_citation", "url_citation": {
                "start_index": chars(&segment["startIndex"]),
                "end_index": chars(&segment["endIndex"]),
                "url": url,
                "title": web["title"].as_str().unwrap_or_default(),
            }}));
            if all.len() >= ANNOTATIONS_MAX {
                return all;
            }
        }
    }
    all
}

/// In longer answers places are not counted out.
pub(super) const CITED_BYTES_MAX: usize = 256 << 10;

/// More citations than this are no honest answer.
const ANNOTATIONS_MAX: usize = 1_000;

/// How many searches Google bills: each query with Gemini 3, each answer before
/// (<https://ai.google.dev/gemini-api/docs/google-search>, "Pricing", read 2026-11).
pub(super) fn web_searches(grounding: &Value, by_query: bool) -> u64 {
    let queries = grounding["webSearchQueries"].as_array().map_or(0, Vec::len) as u64;
    if by_query { queries } else { queries.min(1) }
}
