//! How many tokens a request may use, before the provider has counted them.
//!
//! A guess that is settled at the end; what matters is that it costs next to nothing and is rarely
//! too low. Input: a quarter of the bytes of `messages` (or `prompt`, `input`) and `tools`, files
//! in them by the piece. Output: the maximum the request sets, times `n`, or a default. Neither
//! passes what the model can read or write, where that is known.

use tollway_filter_api::{Deployment, ModelGroup, RequestView};
use tollway_wire::operation::{Dialect, Operation};
use tollway_wire::scan::Member;

/// What four bytes of text are taken for: one token. English is a little less, code a little more.
const BYTES_PER_TOKEN: u64 = 4;
/// What a file within a message is taken for. Providers count images at 85 to 1,600 tokens by
/// their pixels, never by their bytes: at a token per four bytes, one photo would use up a minute.
const TOKENS_PER_FILE: u64 = 1_024;

/// Input and output tokens to reserve: at least 1.
pub(super) fn tokens(view: &RequestView, group: Option<&ModelGroup>, output_default: u64) -> u64 {
    let number = |name| view.object.u64(&view.body, name);
    let output = match view.operation {
        Operation::ChatCompletions | Operation::Completions => {
            // The last one is what the Responses API calls it.
            let names = ["max_completion_tokens", "max_tokens", "max_output_tokens"];
            let asked = names.into_iter().find_map(number);
            asked
                .unwrap_or(output_default)
                .min(most(group, |model| model.max_output_tokens))
                .saturating_mul(number("n").unwrap_or(1).max(1))
        }
        // What has no text for an answer.
        _ => 0,
    };
    input(view, group).saturating_add(output).max(1)
}

/// Input tokens.
pub(super) fn input(view: &RequestView, group: Option<&ModelGroup>) -> u64 {
    // What each dialect calls the conversation, and what comes with it.
    let members: &[&str] = match view.dialect {
        Dialect::OpenAi => &[view.operation.required(view.dialect).unwrap_or("input"), "tools"],
        Dialect::Responses => &["input", "instructions", "tools"],
        Dialect::Anthropic => &["messages", "system", "tools"],
        Dialect::Gemini => &["contents", "content", "requests", "systemInstruction", "tools"],
    };
    members
        .iter()
        .filter_map(|name| view.object.get(&view.body, name))
        .map(part)
        .fold(0, u64::saturating_add)
        .min(most(group, |model| model.max_input_tokens))
}

/// The most that a model of the group can do. Load balancing may choose any of them: there is a
/// bound if all have one.
fn most(group: Option<&ModelGroup>, of: fn(&Deployment) -> Option<u64>) -> u64 {
    let bounds = group.into_iter().flat_map(|group| &group.deployments).map(|model| of(model));
    bounds.map(|bound| bound.unwrap_or(u64::MAX)).max().unwrap_or(u64::MAX)
}

/// The tokens of one member of the request.
fn part(member: &Member) -> u64 {
    let text = (member.value.len() as u64).saturating_sub(member.inline.bytes.into());
    text / BYTES_PER_TOKEN + u64::from(member.inline.files) * TOKENS_PER_FILE
}
