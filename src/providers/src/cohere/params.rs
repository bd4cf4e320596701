//! Parameters of OpenAI's that Cohere lacks.
//!
//! LiteLLM's rule: such a parameter is an error, unless the deployment or the request says
//! `drop_params`, which leaves it out. `allowed_openai_params` sends it as it is.

use serde_json::{Map, Value, json};
use tollway_wire::openai::request::ChatRequest;

use crate::openai::listed;
use crate::{Call, RequestError, Target};

/// The parameters that were sent and that Cohere lacks.
pub(super) struct Lacks {
    names: Vec<&'static str>,
    drops: bool,
    allowed: Vec<String>,
}

impl Lacks {
    pub(super) fn new(call: &Call<'_>, target: &Target) -> Self {
        Lacks {
            names: Vec::new(),
            drops: target.drop_params || call.object.bool(call.body, "drop_params") == Some(true),
            allowed: listed(call, "allowed_openai_params"),
        }
    }

    pub(super) fn add(&mut self, name: &'static str) {
        self.names.push(name);
    }

    pub(super) fn allows(&self, name: &str) -> bool {
        self.allowed.iter().any(|allowed| allowed == name)
    }

    pub(super) fn check(self, provider: &'static str, target: &Target) -> Result<(), RequestError> {
        if self.names.is_empty() || self.drops {
            return Ok(());
        }
        Err(RequestError::Unsupported {
            provider,
            model: target.model.clone(),
            params: self.names.into_iter().map(str::to_owned).collect(),
        })
    }
}

/// Parameters of OpenAI's that Cohere lacks, besides those that are members of [`ChatRequest`].
const LACKED: &[&str] = &[
    "logit_bias",
    "modalities",
    "audio",
    "prediction",
    "functions",
    "function_call",
    "store",
    "verbosity",
    "service_tier",
    "web_search_options",
];

/// Members that are hints to a provider's own machinery. They change nothing about the answer.
pub(super) const HINTS: &[&str] = &[
    "prompt_cache_key",
    "prompt_cache_retention",
    "safety_identifier",
    "cache_control",
    "extra_body",
    "extra_headers",
];

/// Whether one of [`LACKED`] asks for nothing but what happens anyway.
fn is_default(name: &str, value: &Value) -> bool {
    match name {
        "logit_bias" => value.as_object().is_some_and(Map::is_empty),
        "modalities" => *value == json!(["text"]),
        "functions" => value.as_array().is_some_and(Vec::is_empty),
        "function_call" => value == "none" || value == "auto",
        "store" => *value == Value::Bool(false),
        "verbosity" => value == "medium",
        "service_tier" => value == "auto" || value == "default",
        _ => false,
    }
}

/// Takes out and notes what Cohere lacks. A value that asks for what happens anyway is left out
/// without a word.
pub(super) fn unsupported(request: &mut ChatRequest, lacks: &mut Lacks) {
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
    for name in LACKED {
        if lacks.allows(name) {
            continue;
        }
        let value = request.extra.shift_remove(*name).filter(|value| !value.is_null());
        if value.is_some_and(|value| !is_default(name, &value)) {
            lacks.add(name);
        }
    }
}
