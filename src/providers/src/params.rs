//! Parameters of OpenAI's that a provider with an API of its own lacks.
//!
//! LiteLLM's rule: such a parameter is an error, unless the deployment or the request says
//! `drop_params`, which leaves it out. `allowed_openai_params` sends it as it is.

use serde_json::{Map, Number, Value, json};
use tollway_wire::openai::request::ChatRequest;

use crate::{RequestError, Target};

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

/// Parameters that are OpenAI's alone, besides those that are members of [`ChatRequest`].
pub(crate) const OPENAI_ONLY: &[&str] = &[
    "logit_bias",
    "modalities",
    "audio",
    "prediction",
    "functions",
    "function_call",
    "store",
    "verbosity",
];

/// Whether such a parameter asks for nothing but what happens anyway.
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

/// The parameters that were sent and that the provider, or the model, lacks.
pub(crate) struct Lacks {
    names: Vec<&'static str>,
    /// They are left out instead of refused.
    pub(crate) drops: bool,
    /// The client wants these sent as they are.
    allowed: Vec<String>,
}

impl Lacks {
    pub(crate) fn new(request: &ChatRequest, target: &Target) -> Self {
        let asked = request.extra.get("drop_params") == Some(&Value::Bool(true));
        Lacks {
            names: Vec::new(),
            drops: target.drop_params || asked,
            allowed: names_in(request.extra.get("allowed_openai_params")),
        }
    }

    /// Notes a parameter that is lacking.
    pub(crate) fn add(&mut self, name: &'static str) {
        if !self.names.contains(&name) {
            self.names.push(name);
        }
    }

    pub(crate) fn allows(&self, name: &str) -> bool {
        self.allowed.iter().any(|allowed| allowed == name)
    }

    /// Takes parameters out and notes them. A value that asks for what happens anyway is left out
    /// without a word.
    pub(crate) fn take(&mut self, names: &[&'static str], extra: &mut Map<String, Value>) {
        for name in names {
            if self.allows(name) {
                continue;
            }
            let value = extra.shift_remove(*name).filter(|value| !value.is_null());
            if value.is_some_and(|value| !is_default(name, &value)) {
                self.add(name);
            }
        }
    }

    /// The same for those that are members of [`ChatRequest`]: several answers, log probabilities
    /// and penalties. Clients send `n: 1` and penalties of 0 by habit. What the client wants sent as
    /// it is goes into `body`.
    pub(crate) fn take_sampling(
        &mut self,
        request: &mut ChatRequest,
        body: &mut Map<String, Value>,
    ) {
        let penalty = |number: Option<Number>| {
            number.filter(|number| number.as_f64().is_some_and(|number| number != 0.0))
        };
        let top_logprobs = request.top_logprobs.filter(|count| *count > 0);
        for (name, value) in [
            ("n", request.n.filter(|n| *n > 1).map(Value::from)),
            ("logprobs", request.logprobs.filter(|wanted| *wanted).map(Value::from)),
            ("top_logprobs", top_logprobs.map(Value::from)),
            ("frequency_penalty", penalty(request.frequency_penalty.take()).map(Value::from)),
            ("presence_penalty", penalty(request.presence_penalty.take()).map(Value::from)),
        ] {
            match value {
                Some(value) if self.allows(name) => {
                    body.insert(name.into(), value);
                }
                Some(_) => self.add(name),
                None => {}
            }
        }
    }

    pub(crate) fn check(self, provider: &'static str, target: &Target) -> Result<(), RequestError> {
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
