//! Parameters of OpenAI's that Gemini lacks.

use serde_json::{Map, Number, Value, json};

use crate::params::Lacks;

/// Parameters of OpenAI's that Gemini lacks, besides those that are members of a chat request.
const LACKED: &[&str] =
    &["logit_bias", "prediction", "functions", "function_call", "store", "verbosity"];

/// Takes out what Gemini lacks, and notes it unless another dialect brought it along.
pub(super) fn take_unsupported(
    extra: &mut Map<String, Value>,
    translated: bool,
    lacks: &mut Lacks,
) {
    if translated {
        extra.retain(|name, _| !LACKED.contains(&name.as_str()) || lacks.allows(name));
    } else {
        lacks.take(LACKED, extra);
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
        lacks.add(name);
    }
}
