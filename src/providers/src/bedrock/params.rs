//! Parameters of OpenAI's that Converse lacks.
//!
//! LiteLLM's rule: such a parameter is an error, unless the deployment or the request says
//! `drop_params`, which leaves it out. `allowed_openai_params` sends it as it is.

use serde_json::{Map, Number, Value, json};
use tollway_wire::openai::request::ChatRequest;

use crate::{RequestError, Target};

use super::NAME;

/// The parameters that were sent and that Converse, or this model, lacks.
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
        let allowed = request.extra.get("allowed_openai_params").and_then(Value::as_array);
        let allowed = allowed.into_iter().flatten();
        Lacks {
            names: Vec::new(),
            drops: target.drop_params || asked,
            allowed: allowed.filter_map(|name| name.as_str().map(str::to_owned)).collect(),
        }
    }

    pub(super) fn allows(&self, name: &str) -> bool {
        self.allowed.iter().any(|allowed| allowed == name)
    }

    pub(super) fn add(&mut self, name: &'static str) {
        if !self.names.contains(&name) {
            self.names.push(name);
        }
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

/// Parameters Converse lacks, besides those that are members of [`ChatRequest`].
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

/// Notes the parameters Converse lacks. A value that asks for what happens anyway is left out
/// without a word: clients send `n: 1` and penalties of 0 by habit. What the client wants sent as
/// it is goes into `additional`.
pub(super) fn unsupported(
    request: &mut ChatRequest,
    lacks: &mut Lacks,
    additional: &mut Map<String, Value>,
) {
    let is_zero = |number: &Option<Number>| {
        number.as_ref().and_then(Number::as_f64).is_none_or(|number| number == 0.0)
    };
    let logprobs = request.logprobs.filter(|wanted| *wanted).map(Value::from);
    let top_logprobs = request.top_logprobs.filter(|count| *count > 0).map(Value::from);
    let penalty = |number: Option<Number>| number.filter(|n| !is_zero(&Some(n.clone())));
    for (name, value) in [
        ("n", request.n.filter(|n| *n > 1).map(Value::from)),
        ("logprobs", logprobs),
        ("top_logprobs", top_logprobs),
        ("frequency_penalty", penalty(request.frequency_penalty.take()).map(Value::from)),
        ("presence_penalty", penalty(request.presence_penalty.take()).map(Value::from)),
    ] {
        match value {
            Some(value) if lacks.allows(name) => {
                additional.insert(name.into(), value);
            }
            Some(_) => lacks.add(name),
            None => {}
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
