//! Writes a smaller maximum of output tokens into a request.

use tollway_filter_api::{Reject, Rejection, RequestCtx, RequestView};
use tollway_wire::operation::Dialect;
use tollway_wire::scan::{self, Limits};
use tollway_wire::splice::Edits;

use super::headers::MAX_COST_MEMBER;

const GEMINI: [&str; 2] = ["generationConfig", "generation_config"];
const GEMINI_MAX: [&str; 2] = ["maxOutputTokens", "max_output_tokens"];

/// The request with at most `tokens` in each answer, in its dialect's words. `drops_cap`: without
/// the member that says what it may cost, which is for us alone.
pub(super) fn clamped(
    ctx: &RequestCtx,
    tokens: Option<u64>,
    drops_cap: bool,
) -> Result<Option<RequestView>, Rejection> {
    let Some(view) = ctx.view.as_deref() else { return Ok(None) };
    let has = |name: &str| view.object.get(&view.body, name).is_some();
    let mut edits = Edits::new();
    if drops_cap {
        edits.remove(MAX_COST_MEMBER);
    }
    if let Some(tokens) = tokens {
        let text = tokens.to_string().into_bytes();
        match view.dialect {
            Dialect::OpenAi => {
                // Which of them a provider knows is its own affair: all that are there are set.
                if has("max_completion_tokens") {
                    edits.set("max_completion_tokens", text.clone());
                }
                if has("max_tokens") || !has("max_completion_tokens") {
                    edits.set("max_tokens", text);
                }
            }
            Dialect::Responses => edits.set("max_output_tokens", text),
            Dialect::Anthropic => edits.set("max_tokens", text),
            Dialect::Gemini => {
                let name = GEMINI.into_iter().find(|name| has(name)).unwrap_or(GEMINI[0]);
                edits.set(name, generation_config(view, name, text));
            }
        }
    }
    let body = edits.apply(&view.body, &view.object);
    let object = scan::scan(&body, &Limits::default())
        .map_err(|error| Reject::internal("The request cannot be read again.", error))?;
    Ok(Some(RequestView { body, object, ..view.clone() }))
}

/// Gemini's settings, where the maximum is a member of a member.
fn generation_config(view: &RequestView, name: &str, tokens: Vec<u8>) -> Vec<u8> {
    let member = view.object.get(&view.body, name);
    let members =
        member.and_then(|member| scan::members(&view.body, member.value, &Limits::default()).ok());
    let (Some(member), Some(members)) = (member, members) else {
        return [b"{\"maxOutputTokens\":".as_slice(), &tokens, b"}"].concat();
    };
    let inner = GEMINI_MAX.into_iter().find(|name| members.get(&view.body, name).is_some());
    let mut edits = Edits::new();
    edits.set(inner.unwrap_or(GEMINI_MAX[0]), tokens);
    // The whole body with that one change; what the member has become is what lies between.
    let before = member.value.start as usize;
    let after = view.body.len() - member.value.end as usize;
    let body = edits.apply(&view.body, &members);
    body.slice(before..body.len() - after).to_vec()
}
