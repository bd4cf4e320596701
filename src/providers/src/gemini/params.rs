//! Parameters of OpenAI's that Gemini lacks.
//!
//! LiteLLM's rule: such a parameter is an error, unless the deployment or the request says
//! `drop_params`, which leaves it out. `allowed_openai_params` sends it as it is.

use serde_json::{Map, Number, Value, json};
use tollway_wire::openai::request::ChatRequest;

use crate::{RequestError, Target};

/// Takes out what the client lists in `additional_drop_params`.
pub(super) fn drop_listed(request: &mut ChatRequest) {
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

/// The parameters that were sent and that Gemini lacks.
pub(super) struct Lacks {
    names: Vec<&'static str>,
    /// They are left out instead of refused.
    drops: bool,
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

    /// Notes a parameter Gemini lacks.
    pub(super) fn note(&mut self, name: &'static str) {
        if !self.names.contains(&name) {
            self.names.push(name);
        }
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

/// Parameters of OpenAI's that Gemini lacks, besides those that are members of [`ChatRequest`].
const LACKED: &[&str] =
    &["logit_bias", "prediction", "functions", "function_call", "store", "verbosity"];

/// Whether one of [`LACKED`] asks for nothing but what happens anyway.
fn is_default(name: &str, value: &Value) -> bool {
    match name {
        "logit_bias" => value.as_object().is_some_and(Map::is_empty),
        "functions" => value.as_array().is_some_and(Vec::is_empty),
        "function_call" => value == "none" || value == "auto",
        "store" => *value == Value::Bool(false),
        "verbosity" => value == "medium",
        _ => false,
    }
}

/// Notes the parameters Gemini lacks. A value that asks for what happens anyway is left out without
/// a word, and so is everything that another dialect brought along.
pub(super) fn unsupported(extra: &mut Map<String, Value>, translated: bool, lacks: &mut Lacks) {
    for name in LACKED {
        if lacks.allows(name) {
            continue;
        }
        let value = extra.shift_remove(*name).filter(|value| !value.is_null());
        if !translated && value.is_some_and(|value| !is_default(name, &value)) {
            lacks.note(name);
        }
    }
}

/// Sets a penalty, which Gemini 3 refuses.
pub(super) fn penalty(
    name: &'static str,
    member: &str,
    value: Option<Number>,
    has_penalties: bool,
    config: &mut Map<String, Value>,
    lacks: &mut Lacks,
) {
    let Some(value) = value else { return };
    if has_penalties || lacks.allows(name) {
        config.insert(member.into(), json!(value));
    } else if value.as_f64() != Some(0.0) {
        lacks.note(name);
    }
}
