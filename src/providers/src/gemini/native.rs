//! Calls in Gemini's own dialect: the body is spliced, never parsed.

use serde_json::Value;
use tollway_wire::operation::Operation;
use tollway_wire::splice::{Edits, json_string};

use crate::openai::{is_gateway_only, listed};
use crate::{Call, RequestError, Target, UpstreamBody};

use super::Api;
use super::model::{check_name, resource};

/// Members the API has, although the gateway knows them, too.
const OWN: &[&str] = &["labels"];

/// Writes the body of one attempt: the client's, without the model and `stream`, which are in the
/// path, and without what is the gateway's own.
pub(crate) fn request(
    call: &Call<'_>,
    target: &Target,
    api: Api,
) -> Result<UpstreamBody, RequestError> {
    check_name(&target.model)?;
    let dropped = listed(call, "additional_drop_params");
    let names = call.object.iter().map(|member| member.name(call.body));
    let removed: Vec<_> = names
        .filter(|name| {
            let name = name.as_ref();
            (is_gateway_only(name) && !OWN.contains(&name))
                || matches!(name, "model" | "stream")
                || dropped.iter().any(|dropped| dropped == name)
        })
        .collect();
    let mut edits = Edits::new();
    removed.iter().for_each(|name| edits.remove(name));
    match (call.operation, api) {
        (Operation::Embeddings, Api::Studio) => return embeddings(call, target, edits),
        (Operation::CountTokens, Api::Studio) => count(call, target, &mut edits)?,
        _ => {}
    }
    Ok(UpstreamBody::plain(edits.apply(call.body, call.object)))
}

/// The model's name as members of a body have it.
pub(super) fn resource_name(target: &Target) -> String {
    let (folder, name) = resource(&target.model);
    format!("{folder}/{name}")
}

/// AI Studio wants the model in `generateContentRequest` as well.
fn count(call: &Call<'_>, target: &Target, edits: &mut Edits<'_>) -> Result<(), RequestError> {
    let Some(raw) = call.object.raw(call.body, "generateContentRequest") else { return Ok(()) };
    let mut inner: Value = serde_json::from_slice(raw).unwrap_or_default();
    if !inner.is_object() {
        let message = "`generateContentRequest` is not an object".into();
        return Err(RequestError::Invalid {
            message,
            param: Some("generateContentRequest".into()),
        });
    }
    inner["model"] = resource_name(target).into();
    edits.set("generateContentRequest", inner.to_string().into_bytes());
    Ok(())
}

/// Everything goes to `batchEmbedContents`, where each request names the model: a client's
/// `embedContent` as its only one. The path is chosen before the body is seen.
fn embeddings(
    call: &Call<'_>,
    target: &Target,
    edits: Edits<'_>,
) -> Result<UpstreamBody, RequestError> {
    let name = json_string(&resource_name(target));
    let Some(requests) = call.object.get(call.body, "requests") else {
        let mut edits = edits;
        edits.set("model", name);
        let one = edits.apply(call.body, call.object);
        return Ok(UpstreamBody::plain(
            [b"{\"requests\":[".as_slice(), &one, b"]}"].concat().into(),
        ));
    };
    let mut list: Vec<Value> =
        serde_json::from_slice(requests.value.of(call.body)).map_err(|_| {
            RequestError::Invalid {
                message: "`requests` is not a list".into(),
                param: Some("requests".into()),
            }
        })?;
    // Where all of them name the model as it is meant, nothing is written anew.
    let meant = resource_name(target);
    if list.iter().all(|request| request["model"] == meant.as_str()) {
        return Ok(UpstreamBody::plain(edits.apply(call.body, call.object)));
    }
    for request in list.iter_mut().filter_map(Value::as_object_mut) {
        request.insert("model".into(), meant.as_str().into());
    }
    let mut edits = edits;
    edits.set("requests", Value::from(list).to_string().into_bytes());
    Ok(UpstreamBody::plain(edits.apply(call.body, call.object)))
}
