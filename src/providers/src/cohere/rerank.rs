//! Rerank: what clients send is Cohere's own shape, of one version or the other.

use std::fmt::Write as _;

use serde_json::value::RawValue;
use serde_json::{Map, Value};
use tollway_wire::splice::{Edits, json_string};

use crate::openai::listed;
use crate::{Call, RequestError, Target, UpstreamBody};

use super::request::{invalid, without_gateway_members};

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
    let refused = || invalid("documents is no list of texts".into(), Some("documents"));
    let documents: Vec<&RawValue> = serde_json::from_slice(raw).map_err(|_| refused())?;
    if documents.iter().any(|document| !document.get().starts_with(['"', '{'])) {
        return Err(refused());
    }
    let mut removed = without_gateway_members(call);
    removed.extend(listed(call, "additional_drop_params").into_iter().map(Into::into));
    removed.extend(OLD.iter().map(|name| (*name).into()));
    let mut edits = Edits::new();
    removed.iter().for_each(|name| edits.remove(name));
    if object.str(body, "model").as_deref() != Some(&target.model) {
        edits.set("model", json_string(&target.model));
    }
    // Texts are not read at all.
    if documents.iter().any(|document| document.get().starts_with('{')) {
        let texts: Option<Vec<String>> =
            documents.into_iter().map(|document| text_of(document, &fields)).collect();
        let texts = texts.ok_or_else(refused)?;
        edits.set("documents", Value::from(texts).to_string().into_bytes());
    }
    Ok(UpstreamBody::plain(edits.apply(body, object)))
}

/// The text of a document, which is one already or has fields. The second version of the API takes
/// texts only, and wants fields as YAML (<https://docs.cohere.com/v2/reference/rerank>, read 2026-11).
fn text_of(document: &RawValue, fields: &[String]) -> Option<String> {
    if document.get().starts_with('"') {
        return serde_json::from_str(document.get()).ok();
    }
    let members: Map<String, Value> = serde_json::from_str(document.get()).ok()?;
    let wanted = |name: &str| fields.is_empty() || fields.iter().any(|field| field == name);
    let mut members: Vec<(String, Value)> =
        members.into_iter().filter(|(name, _)| wanted(name)).collect();
    if let [(name, Value::String(text))] = members.as_mut_slice()
        && name == "text"
    {
        return Some(std::mem::take(text));
    }
    let mut yaml = String::new();
    for (name, value) in members {
        // A value as JSON is YAML. Plain text is left plain, which the model reads best.
        let _ = match value {
            Value::String(text) if !text.contains('\n') => writeln!(yaml, "{name}: {text}"),
            value => writeln!(yaml, "{name}: {value}"),
        };
    }
    Some(yaml)
}
