//! Parameters of OpenAI's that Anthropic lacks.

use serde_json::Value;
use tollway_wire::anthropic::MessagesRequest;
use tollway_wire::openai::request::ChatRequest;

use crate::params::{Lacks, OPENAI_ONLY};

/// Takes out and notes what Anthropic lacks.
pub(super) fn take_unsupported(
    request: &mut ChatRequest,
    lacks: &mut Lacks,
    body: &mut MessagesRequest,
) {
    lacks.take_sampling(request, &mut body.extra);
    lacks.take(OPENAI_ONLY, &mut request.extra);
    // Both have tiers, of which only the default means the same.
    match request.extra.get("service_tier").and_then(Value::as_str) {
        None | Some("auto" | "standard_only") => {}
        Some("default") => {
            request.extra.insert("service_tier".into(), "standard_only".into());
        }
        Some(_) => {
            request.extra.shift_remove("service_tier");
            lacks.add("service_tier");
        }
    }
}
