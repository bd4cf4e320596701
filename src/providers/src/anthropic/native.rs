//! Calls in Anthropic's own dialect: the body is spliced, never parsed.

use tollway_wire::splice::{Edits, json_string};

use crate::openai::{is_gateway_only, listed};
use crate::{Call, Target, UpstreamBody};

use super::betas::Betas;

/// Writes the body of one attempt: the client's, but for the model and what is the gateway's own.
pub(super) fn request(call: &Call<'_>, target: &Target) -> UpstreamBody {
    let dropped = listed(call, "additional_drop_params");
    // The one member both have: a list of models the gateway tries, or with this beta a list that
    // Anthropic does (platform.claude.com, "Server-side fallback", 2026-11).
    let keeps_fallbacks = call.betas.is_some_and(|betas| betas.contains("server-side-fallback"));
    let removed: Vec<_> = call
        .object
        .iter()
        .map(|member| member.name(call.body))
        .filter(|name| {
            let name = name.as_ref();
            is_gateway_only(name) && !(name == "fallbacks" && keeps_fallbacks)
                || dropped.iter().any(|dropped| dropped == name)
        })
        .collect();
    let mut edits = Edits::new();
    removed.iter().for_each(|name| edits.remove(name));
    if call.object.str(call.body, "model").as_deref() != Some(&target.model) {
        edits.set("model", json_string(&target.model));
    }
    let mut betas = Betas::default();
    betas.of_header(call.betas);
    UpstreamBody {
        headers: betas.into_headers(),
        ..UpstreamBody::plain(edits.apply(call.body, call.object))
    }
}
