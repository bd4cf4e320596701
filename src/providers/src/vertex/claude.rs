//! Anthropic's models at Google Cloud: the Messages API, with the model in the path and the version in
//! the body (<https://platform.claude.com/docs/en/build-with-claude/claude-on-vertex-ai>, read
//! 2026-11).

use tollway_wire::operation::{Dialect, Operation};
use tollway_wire::scan::{Limits, scan};
use tollway_wire::splice::{Edits, json_string};

use crate::anthropic::Anthropic;
use crate::gemini::check_name;
use crate::request::unwritable;
use crate::{
    Asked, Call, Decoder, Place, Provider, RequestError, Target, UpstreamBody, UpstreamError,
};

/// Stands where Anthropic itself has a header.
const VERSION: &[u8] = b"\"vertex-2023-10-16\"";

pub(super) fn dialect(operation: Operation, client: Dialect) -> Option<Dialect> {
    Anthropic.dialect(operation, client, "")
}

/// The path of a call below the location.
pub(super) fn call(name: &str, place: &Place<'_>) -> String {
    match place.operation {
        // One counter for all models, which are named in the body.
        Operation::CountTokens => "publishers/anthropic/models/count-tokens:rawPredict".into(),
        _ if place.stream => format!("publishers/anthropic/models/{name}:streamRawPredict"),
        _ => format!("publishers/anthropic/models/{name}:rawPredict"),
    }
}

/// Anthropic's own body, without the model and with the version.
pub(super) fn request(call: &Call<'_>, target: &Target) -> Result<UpstreamBody, RequestError> {
    check_name(&target.model)?;
    let body = Anthropic.request(call, target)?;
    let object = scan(&body.bytes, &Limits { members: 512, ..Limits::default() });
    let object = object.map_err(unwritable)?;
    let mut edits = Edits::new();
    if call.operation == Operation::CountTokens {
        // The counter knows no versions of models.
        let name = target.model.split('@').next().unwrap_or_default();
        edits.set("model", json_string(name));
        edits.remove("anthropic_version");
    } else {
        edits.remove("model");
        edits.set("anthropic_version", VERSION);
    }
    Ok(UpstreamBody { bytes: edits.apply(&body.bytes, &object), ..body })
}

pub(super) fn decoder(place: &Place<'_>, asked: Asked) -> Option<Box<dyn Decoder>> {
    Anthropic.decoder(place, asked)
}

/// Reads an error in Anthropic's form; `None` if it is in Google's, which Google itself answers.
pub(super) fn error(status: u16, body: &[u8]) -> Option<UpstreamError> {
    #[derive(serde::Deserialize)]
    struct Body {
        #[serde(rename = "type")]
        kind: String,
    }
    let body_of_error: Body = serde_json::from_slice(body).ok()?;
    (body_of_error.kind == "error").then(|| Anthropic.error(status, body))
}
