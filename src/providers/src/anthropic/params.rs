//! Parameters of OpenAI's that Anthropic lacks.
//!
//! LiteLLM's rule: such a parameter is an error, unless the deployment or the request says
//! `drop_params`, which leaves it out. `allowed_openai_params` sends it as it is.

use serde_json::{Map, Number, Value, json};
use tollway_wire::anthropic::MessagesRequest;
use tollway_wire::openai::request::ChatRequest;

use crate::{RequestError, Target};

use super::NAME;

/// Takes out what the client lists in `additional_drop_params`.
pub(crate) fn drop_listed(request: &mut ChatRequest) {
    for name in names_in(request.extra.get("additional_drop_params")) {
        match name.as_str() {
            "tools" => request.tools = None,
            "tool_choice" => request.tool_choice = None,
            "parallel_tool_calls" => request.parallel_tool_calls = None,
            "response_format" => request.response_format = None,
            "reasoning_effort" => request.reasoning_effort = None,
            "thinking" => request.thinking = None,
            "stop" => request.stop = None,
            "max_tokens" => request.max_tokens = None,
            "max_completion_tokens" => request.max_completion_tokens = None,
            "temperature" => request.temperature = None,
            "top_p" => request.top_p = None,
            "n" => request.n = None,
            "user" => request.user = None,
            "logprobs" => request.logprobs = None,
            "top_logprobs" => request.top_logprobs = None,
            "frequency_penalty" => request.frequency_penalty = None,
            "presence_penalty" => request.presence_penalty = None,
            name => {
                request.extra.shift_remove(name);
            }
        }
    }
}

fn names_in(list: Option<&Value>) -> Vec<String> {
    let names = list.and_then(Value::as_array).into_iter().flatten();
    names.filter_map(|name| name.as_str().map(str::to_owned)).collect()
}

/// The parameters that were sent and that Anthropic lacks.
pub(super) struct Lacks {
    pub(super) names: Vec<&'static str>,
    /// They are left out instead of refused.
    pub(super) drops: bool,
    /// The client wants these sent as they are.
    allowed: Vec<String>,
}

impl Lacks {
    pub(super) fn new(request: &ChatRequest, target: &Target) -> Self {
        let asked = request.extra.get("drop_params") == Some(&Value::Bool(true));
        Lacks {
            names: Vec::new(),
            drops: target.drop_params || asked,
            allowed: names_in(request.extra.get("allowed_openai_params")),
        }
    }

    pub(super) fn allows(&self, name: &str) -> bool {
        self.allowed.iter().any(|allowed| allowed == name)
    }

    pub(super) fn check(self, target: &Target) -> Result<(), RequestError> {
        if self.names.is_empty() || self.drops {
            return Ok(());
        }
        Err(RequestError::Unsupported {
            provider: NAME,
            model: target.model.clone(),
            params: self.names.into_iter().map(str::to_owned).collect(),
        })
    }
}

/// Parameters of OpenAI's that Anthropic lacks, besides those that are members of [`ChatRequest`].
const LACKED: &[&str] = &[
    "logit_bias",
    "modalities",
    "audio",
    "prediction",
    "functions",
    "function_call",
    "store",
    "verbosity",
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
        _ => false,
    }
}

/// Notes the parameters Anthropic lacks. A value that asks for what happens anyway is left out
/// without a word: clients send `n: 1` and penalties of 0 by habit.
pub(super) fn unsupported(
    request: &mut ChatRequest,
    lacks: &mut Lacks,
    body: &mut MessagesRequest,
) {
    let is_zero = |number: &Option<Number>| {
        number.as_ref().and_then(Number::as_f64).is_none_or(|number| number == 0.0)
    };
    for (name, is_default, value) in [
        ("n", request.n.is_none_or(|n| n <= 1), request.n.map(Value::from)),
        ("logprobs", request.logprobs != Some(true), request.logprobs.map(Value::from)),
        (
            "top_logprobs",
            request.top_logprobs.unwrap_or(0) == 0,
            request.top_logprobs.map(Value::from),
        ),
        (
            "frequency_penalty",
            is_zero(&request.frequency_penalty),
            request.frequency_penalty.take().map(Value::from),
        ),
        (
            "presence_penalty",
            is_zero(&request.presence_penalty),
            request.presence_penalty.take().map(Value::from),
        ),
    ] {
        if is_default {
            continue;
        }
        match value {
            Some(value) if lacks.allows(name) => {
                body.extra.insert(name.into(), value);
            }
            _ => lacks.names.push(name),
        }
    }
    for name in LACKED {
        if lacks.allows(name) {
            continue;
        }
        let value = request.extra.shift_remove(*name).filter(|value| !value.is_null());
        if value.is_some_and(|value| !is_default(name, &value)) {
            lacks.names.push(name);
        }
    }
    // Both have tiers, of which only the default means the same.
    match request.extra.get("service_tier").and_then(Value::as_str) {
        None | Some("auto" | "standard_only") => {}
        Some("default") => {
            request.extra.insert("service_tier".into(), "standard_only".into());
        }
        Some(_) => {
            request.extra.shift_remove("service_tier");
            lacks.names.push("service_tier");
        }
    }
}
