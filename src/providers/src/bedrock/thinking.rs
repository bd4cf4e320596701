//! How hard the model thinks: OpenAI's `reasoning_effort` and Anthropic's `thinking` as each
//! family of models has it.

use serde_json::{Map, Value, json};
use tollway_wire::openai::request::ChatRequest;

use crate::anthropic::model::Abilities;
use crate::params::Lacks;

use super::body::Body;
use super::messages::Conversation;
use super::model::{Family, Model};

/// The smallest thinking budget Anthropic takes.
const BUDGET_MIN: u64 = 1024;

/// Sets how the model thinks.
pub(super) fn set_thinking(
    request: &mut ChatRequest,
    body: &mut Body,
    model: &Model<'_>,
    all: &Conversation,
    is_forced: bool,
    translated: bool,
    lacks: &mut Lacks,
) {
    let max_tokens = request.max_completion_tokens.or(request.max_tokens);
    let thinking = request.thinking.take().filter(Value::is_object);
    let effort = match request.reasoning_effort.take() {
        Some(Value::String(effort)) => Some(effort),
        // LiteLLM's form for clients of the Responses API.
        Some(Value::Object(mut object)) => match object.remove("effort") {
            Some(Value::String(effort)) => Some(effort),
            _ => None,
        },
        _ => None,
    };
    // What another dialect asks for by habit is no fault of a model that cannot.
    let by_habit = translated && thinking.is_some();
    match model.family() {
        Family::Claude if by_habit && !model.abilities().thinking => {}
        Family::Claude => {
            let claude = Claude {
                abilities: model.abilities(),
                lacks_thinking: all.lacks_thinking,
                is_forced,
                max_tokens,
            };
            match (thinking, effort) {
                (Some(thinking), effort) => claude.set(thinking, effort, body),
                (None, Some(effort)) => claude.set_effort(&effort, body, lacks),
                (None, None) => {}
            }
        }
        // It may be a Claude, or none: what Anthropic's form says is sent, the other cannot be.
        Family::Opaque => match (thinking, effort) {
            (Some(thinking), _) => {
                body.additional.insert("thinking".into(), thinking);
            }
            (None, Some(effort)) if !is_off(&effort) => lacks.add("reasoning_effort"),
            _ => {}
        },
        family => {
            let name = if thinking.is_some() { "thinking" } else { "reasoning_effort" };
            let Some(effort) = effort.or_else(|| thinking.as_ref().map(effort_of)) else { return };
            if !set_level(family, &effort, body) && !by_habit {
                lacks.add(name);
            }
        }
    }
}

fn is_off(effort: &str) -> bool {
    matches!(effort, "none" | "disable")
}

/// Sets a level for the models that have levels. `false` where there is none.
fn set_level(family: Family, effort: &str, body: &mut Body) -> bool {
    let level = match effort {
        "minimal" | "low" => "low",
        "medium" => "medium",
        _ => "high",
    };
    match family {
        Family::GptOss if is_off(effort) => {
            body.additional.insert("reasoning_effort".into(), "low".into());
        }
        Family::GptOss => {
            body.additional.insert("reasoning_effort".into(), level.into());
        }
        Family::Gpt => {
            body.additional.insert("reasoning".into(), json!({"effort": effort}));
        }
        // <https://docs.aws.amazon.com/nova/latest/nova2-userguide/extended-thinking.html>, 2026-11.
        Family::Nova2 => {
            let config = if is_off(effort) {
                json!({"type": "disabled"})
            } else {
                json!({"type": "enabled", "maxReasoningEffort": level})
            };
            body.additional.insert("reasoningConfig".into(), config);
        }
        _ => return is_off(effort),
    }
    true
}

/// The level for one of Anthropic's budgets.
fn effort_of(thinking: &Value) -> String {
    let level = match (thinking["type"].as_str(), thinking["budget_tokens"].as_u64()) {
        (Some("disabled"), _) => "none",
        (_, Some(..=1024)) => "low",
        (_, Some(1025..=2048)) => "medium",
        (_, Some(_)) => "high",
        (_, None) => "medium",
    };
    level.to_owned()
}

/// What decides how a Claude thinks.
struct Claude {
    abilities: Abilities,
    lacks_thinking: bool,
    is_forced: bool,
    max_tokens: Option<u64>,
}

impl Claude {
    /// Sets what the client says in Anthropic's own form.
    fn set(&self, thinking: Value, effort: Option<String>, body: &mut Body) {
        let abilities = &self.abilities;
        let kind = thinking["type"].as_str().unwrap_or_default();
        // These models always think, and refuse to be told not to.
        if kind == "disabled" && abilities.always_thinks {
            return;
        }
        // The newer models take no budget.
        if kind == "enabled" && abilities.adaptive && !abilities.budget {
            let effort = effort.unwrap_or_else(|| effort_of(&thinking));
            self.set_adaptive(&effort, body);
            return;
        }
        let budget = thinking["budget_tokens"].as_u64().filter(|_| kind == "enabled");
        if let Some(budget) = budget {
            need_room(budget, self.max_tokens, body);
        }
        body.additional.insert("thinking".into(), thinking);
    }

    fn set_effort(&self, effort: &str, body: &mut Body, lacks: &mut Lacks) {
        let abilities = &self.abilities;
        if is_off(effort) {
            if abilities.adaptive && !abilities.always_thinks {
                body.additional.insert("thinking".into(), json!({"type": "disabled"}));
            }
            return;
        }
        if !abilities.thinking {
            lacks.add("reasoning_effort");
            return;
        }
        if abilities.adaptive {
            self.set_adaptive(effort, body);
            return;
        }
        // Thinking and a forced tool exclude each other; the tool is what the client was explicit
        // about. The older models also want the thinking of the turn that called the tools, which a
        // client of OpenAI's does not have.
        if self.is_forced || self.lacks_thinking {
            return;
        }
        let budget = match effort {
            "minimal" | "low" => BUDGET_MIN,
            "medium" => 2048,
            "xhigh" => 8192,
            "max" => 16384,
            _ => 4096,
        };
        // The budget must be below `maxTokens`; where that leaves too little, there is no thinking.
        let budget = self.max_tokens.map_or(budget, |max| budget.min(max.saturating_sub(1)));
        if budget >= BUDGET_MIN {
            need_room(budget, self.max_tokens, body);
            let thinking = json!({"type": "enabled", "budget_tokens": budget});
            body.additional.insert("thinking".into(), thinking);
        }
    }

    fn set_adaptive(&self, effort: &str, body: &mut Body) {
        let level = match effort {
            "minimal" | "low" => "low",
            "medium" => "medium",
            "xhigh" if self.abilities.xhigh => "xhigh",
            "max" => "max",
            _ => "high",
        };
        let config = body.additional.entry("output_config").or_insert_with(|| Map::new().into());
        if let Value::Object(config) = config {
            config.entry("effort").or_insert_with(|| level.into());
        }
        if !self.is_forced {
            let thinking = json!({"type": "adaptive", "display": "summarized"});
            body.additional.insert("thinking".into(), thinking);
        }
    }
}

/// Without a limit of the client's, the answer gets room beside the thinking.
fn need_room(budget: u64, max_tokens: Option<u64>, body: &mut Body) {
    if max_tokens.is_none() {
        body.inference.insert("maxTokens".into(), budget.saturating_add(4096).into());
    }
}
