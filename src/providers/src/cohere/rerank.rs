//! Rerank: what clients send is Cohere's own shape, of one version or the other.

use std::fmt::Write as _;

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::{Map, Value};
use tollway_wire::splice::{Edits, json_string};
use tollway_wire::usage::Usage;

use crate::openai::listed;
use crate::{Call, DecodeError, Decoder, RequestError, Target, UpstreamBody};

use super::error;
use super::request::{invalid, without_gateway_members};
use super::usage::Counts;

/// Members of the first version of the API that the second refuses or passes over:
/// `return_documents` and `rank_fields` (<https://docs.cohere.com/v2/docs/migrating-v1-to-v2>, read
/// 2026-11); `max_chunks_per_doc`, which `max_tokens_per_doc` has replaced.
const OLD: &[&str] = &["return_documents", "rank_fields", "max_chunks_per_doc", "user"];

/// Writes the body of one attempt: the client's, spliced.
pub(super) fn request(call: &Call<'_>, target: &Target) -> Result<UpstreamBody, RequestError> {
    let (body, object) = (call.body, call.object);
    let raw = object.raw(body, "documents").ok_or_else(|| {
        invalid("Missing required parameter: 'documents'.".into(), Some("documents"))
    })?;
    let fields: Vec<String> = object
        .raw(body, "rank_fields")
        .and_then(|fields| serde_json::from_slice(fields).ok())
        .unwrap_or_default();
    let documents: Vec<Document> = serde_json::from_slice(raw).map_err(|error| {
        invalid(format!("documents is no list of texts: {error}"), Some("documents"))
    })?;
    let mut removed = without_gateway_members(call);
    removed.extend(listed(call, "additional_drop_params").into_iter().map(Into::into));
    removed.extend(OLD.iter().map(|name| (*name).into()));
    let mut edits = Edits::new();
    removed.iter().for_each(|name| edits.remove(name));
    if object.str(body, "model").as_deref() != Some(&target.model) {
        edits.set("model", json_string(&target.model));
    }
    if documents.iter().any(|document| matches!(document, Document::Fields(_))) {
        let texts: Vec<String> =
            documents.into_iter().map(|document| document.into_text(&fields)).collect();
        edits.set("documents", Value::from(texts).to_string().into_bytes());
    }
    Ok(UpstreamBody::plain(edits.apply(body, object)))
}

/// A document: a text, or fields.
#[derive(Deserialize)]
#[serde(untagged)]
enum Document {
    Text(String),
    Fields(Map<String, Value>),
}

impl Document {
    /// The second version of the API takes texts only, and wants fields as YAML
    /// (<https://docs.cohere.com/v2/reference/rerank>, read 2026-11).
    fn into_text(self, fields: &[String]) -> String {
        let members = match self {
            Document::Text(text) => return text,
            Document::Fields(members) => members,
        };
        let wanted = |name: &str| fields.is_empty() || fields.iter().any(|field| field == name);
        let mut members: Vec<(String, Value)> =
            members.into_iter().filter(|(name, _)| wanted(name)).collect();
        if let [(name, Value::String(text))] = members.as_mut_slice()
            && name == "text"
        {
            return std::mem::take(text);
        }
        let mut yaml = String::new();
        for (name, value) in members {
            // A value as JSON is YAML. Plain text is left plain, which the model reads best.
            let _ = match value {
                Value::String(text) if !text.contains('\n') => writeln!(yaml, "{name}: {text}"),
                value => writeln!(yaml, "{name}: {value}"),
            };
        }
        yaml
    }
}

/// Reads one answer to a rerank call, which passes as it is.
#[derive(Default)]
pub(super) struct RerankDecoder {
    usage: Option<Usage>,
}

impl Decoder for RerankDecoder {
    fn whole(&mut self, body: &[u8]) -> Result<Vec<u8>, DecodeError> {
        #[derive(Deserialize)]
        struct Answer {
            #[serde(rename = "results")]
            _results: Vec<IgnoredAny>,
            #[serde(default)]
            meta: Option<Counts>,
        }
        let answer: Answer =
            serde_json::from_slice(body).map_err(|fault| match error::inside(body) {
                Some(error) => DecodeError::Reported(error),
                None => DecodeError::Malformed(format!("not a ranking: {fault}")),
            })?;
        self.usage = answer.meta.and_then(|counts| counts.total());
        Ok(body.to_vec())
    }

    fn stream(&mut self, _bytes: &[u8], _out: &mut Vec<u8>) -> Result<(), DecodeError> {
        Err(DecodeError::Malformed("a ranking does not come as a stream".into()))
    }

    fn finish(&mut self, _out: &mut Vec<u8>) -> Result<(), DecodeError> {
        Err(DecodeError::Truncated)
    }

    fn usage(&self) -> Option<Usage> {
        self.usage
    }
}
