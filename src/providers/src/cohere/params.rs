//! Parameters of OpenAI's that Cohere lacks.

use tollway_wire::openai::request::ChatRequest;

use crate::params::{Lacks, OPENAI_ONLY};

/// Members that are hints to a provider's own machinery. They change nothing about the answer.
pub(super) const HINTS: &[&str] = &[
    "prompt_cache_key",
    "prompt_cache_retention",
    "safety_identifier",
    "cache_control",
    "extra_body",
    "extra_headers",
];

/// Takes out and notes what Cohere lacks.
pub(super) fn take_unsupported(request: &mut ChatRequest, lacks: &mut Lacks) {
    for (name, is_asked) in [
        ("n", request.n.is_some_and(|n| n > 1)),
        ("top_logprobs", request.top_logprobs.unwrap_or(0) > 0),
        // Cohere always may call several.
        ("parallel_tool_calls", request.parallel_tool_calls == Some(false)),
    ] {
        if is_asked && !lacks.allows(name) {
            lacks.add(name);
        }
    }
    lacks.take(OPENAI_ONLY, &mut request.extra);
    lacks.take(&["service_tier", "web_search_options"], &mut request.extra);
}
