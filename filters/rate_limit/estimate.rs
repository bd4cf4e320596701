//! How many tokens a request may use, before the provider has counted them.
//!
//! A guess that is settled at the end; what matters is that it costs next to nothing and is rarely
//! too low. Input: a quarter of the bytes of `messages` (or `prompt`, `input`) and `tools`, files
//! in them by the piece. Output: the maximum the request sets, times `n`, or a default. Neither
//! passes what the model can read or write, where that is known.

use memchr::{memchr, memmem};
use tollway_filter_api::{Deployment, ModelGroup, RequestView};
use tollway_wire::operation::Operation;

/// What four bytes of text are taken for: one token. English is a little less, code a little more.
const BYTES_PER_TOKEN: u64 = 4;
/// What a file within a message is taken for. Providers count images at 85 to 1,600 tokens by
/// their pixels, never by their bytes: at a token per four bytes, one photo would use up a minute.
const TOKENS_PER_FILE: u64 = 1_024;

/// Input and output tokens to reserve: at least 1.
pub(super) fn tokens(view: &RequestView, group: Option<&ModelGroup>, output_default: u64) -> u64 {
    let most = |of: fn(&Deployment) -> Option<u64>| {
        // Fallbacks and load balancing may choose any of them: a bound holds if all have one.
        let mut deployments = group?.deployments.iter();
        let first = of(deployments.next()?)?;
        deployments.try_fold(first, |most, next| Some(most.max(of(next)?)))
    };
    let number = |name| view.object.u64(&view.body, name);
    let input = input(view).min(most(|model| model.max_input_tokens).unwrap_or(u64::MAX));
    let output = match view.operation {
        Operation::Embeddings => 0,
        Operation::ChatCompletions | Operation::Completions => {
            let asked = number("max_completion_tokens").or(number("max_tokens"));
            let output = asked.unwrap_or(output_default);
            output
                .min(most(|model| model.max_output_tokens).unwrap_or(u64::MAX))
                .saturating_mul(number("n").unwrap_or(1).max(1))
        }
    };
    input.saturating_add(output).max(1)
}

fn input(view: &RequestView) -> u64 {
    [view.operation.required(), "tools"]
        .into_iter()
        .filter_map(|name| view.object.raw(&view.body, name))
        .map(part)
        .fold(0, u64::saturating_add)
}

/// The tokens of one member of the request.
fn part(mut json: &[u8]) -> u64 {
    // A file that is smaller than what files are taken for needs no exception.
    if json.len() as u64 <= TOKENS_PER_FILE * BYTES_PER_TOKEN {
        return json.len() as u64 / BYTES_PER_TOKEN;
    }
    let (mut bytes, mut files) = (0, 0);
    while let Some(start) = memmem::find(json, b";base64,") {
        bytes += start;
        files += 1;
        json = &json[start..];
        json = &json[memchr(b'"', json).unwrap_or(json.len())..];
    }
    (bytes + json.len()) as u64 / BYTES_PER_TOKEN + files * TOKENS_PER_FILE
}
