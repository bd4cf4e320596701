//! How hard the model thinks: OpenAI's `reasoning_effort` as Anthropic's `thinking` and `effort`.

use serde_json::{Map, Value, json};
use tollway_wire::anthropic::MessagesRequest;
use tollway_wire::openai::request::ChatRequest;

use crate::params::Lacks;

use super::messages::Conversation;
use super::model::Abilities;
use super::tools;

/// The smallest thinking budget Anthropic takes.
const BUDGET_MIN: u64 = 1024;

/// Sets `thinking` and `effort` from the client's `thinking` or `reasoning_effort`.
pub(super) fn set_thinking(
    request: &mut ChatRequest,
    body: &mut MessagesRequest,
    output_config: &mut Map<String, Value>,
    abilities: &Abilities,
    all: &Conversation,
    max_tokens: Option<u64>,
    lacks: &mut Lacks,
) {
    let is_forced = body.tool_choice.as_ref().is_some_and(tools::is_forced);
    let mut wanted = None;
    if let Some(thinking) = request.thinking.take().filter(Value::is_object) {
        match explicit(thinking, abilities, max_tokens) {
            Explicit::AsIs(thinking) => {
                body.thinking = Some(thinking);
                return;
            }
            // The same rules as for an effort below.
            Explicit::Budget(thinking) => {
                if !is_forced && !all.lacks_thinking {
                    body.thinking = Some(thinking);
                }
                return;
            }
            Explicit::Nothing => return,
            Explicit::Lacks => {
                lacks.add("thinking");
                return;
            }
            Explicit::Effort(effort) => wanted = Some(Value::from(effort)),
        }
    }
    let effort = match request.reasoning_effort.take().or(wanted) {
        Some(Value::String(effort)) => effort,
        // LiteLLM's form for clients of the Responses API.
        Some(Value::Object(mut object)) => match object.remove("effort") {
            Some(Value::String(effort)) => effort,
            _ => return,
        },
        _ => return,
    };
    if !abilities.thinking {
        lacks.add("reasoning_effort");
        return;
    }
    if effort == "none" || effort == "disable" {
        if abilities.adaptive && !abilities.always_thinks {
            body.thinking = Some(json!({"type": "disabled"}));
        }
        return;
    }
    if abilities.adaptive {
        let level = match effort.as_str() {
            "minimal" | "low" => "low",
            "medium" => "medium",
            "xhigh" if abilities.xhigh => "xhigh",
            "max" => "max",
            _ => "high",
        };
        output_config.entry("effort").or_insert_with(|| level.into());
        // Thinking and a forced tool exclude each other; the tool is what the client was explicit
        // about (platform.claude.com, "Extended thinking with tool use", 2026-11).
        if !is_forced {
            body.thinking = Some(json!({"type": "adaptive", "display": "summarized"}));
        }
        return;
    }
    // The older models also want the thinking of the turn that called the tools, which a client of
    // OpenAI's does not have.
    if is_forced || all.lacks_thinking {
        return;
    }
    let budget = match effort.as_str() {
        "minimal" | "low" => BUDGET_MIN,
        "medium" => 2048,
        "xhigh" => 8192,
        "max" => 16384,
        _ => 4096,
    };
    // The budget must be below `max_tokens`; where that leaves too little, there is no thinking.
    let budget = max_tokens.map_or(budget, |max| budget.min(max.saturating_sub(1)));
    if budget >= BUDGET_MIN {
        body.thinking = Some(json!({"type": "enabled", "budget_tokens": budget}));
    }
}

/// What becomes of Anthropic's own `thinking`.
enum Explicit {
    /// It goes as it came.
    AsIs(Value),
    /// It goes with this budget, unless something else forbids it.
    Budget(Value),
    /// The model is told by effort. That of the request counts for more than this one.
    Effort(&'static str),
    /// There is nothing to say.
    Nothing,
    /// The model does not think.
    Lacks,
}

/// Fits `thinking` to the model: it may come from a client of another dialect, whose budgets know
/// nothing of Anthropic's bounds, or have been written for another of Anthropic's models.
fn explicit(mut thinking: Value, abilities: &Abilities, max_tokens: Option<u64>) -> Explicit {
    match thinking["type"].as_str() {
        Some("disabled") => {
            // The older models do not think anyway; the newest always do, and refuse to be told not
            // to.
            if abilities.always_thinks || !abilities.thinking {
                return Explicit::Nothing;
            }
            Explicit::AsIs(thinking)
        }
        Some("adaptive") if abilities.thinking && !abilities.adaptive => Explicit::Effort("high"),
        Some("enabled") | Some("adaptive") if !abilities.thinking => Explicit::Lacks,
        Some("enabled") => {
            let Some(budget) = thinking["budget_tokens"].as_u64() else {
                return Explicit::AsIs(thinking);
            };
            if !abilities.budget && abilities.adaptive {
                return Explicit::Effort(match budget {
                    0..2048 => "low",
                    2048..4096 => "medium",
                    _ => "high",
                });
            }
            let room = max_tokens.map_or(u64::MAX, |max| max.saturating_sub(1));
            if room < BUDGET_MIN {
                return Explicit::Nothing;
            }
            thinking["budget_tokens"] = budget.clamp(BUDGET_MIN, room).into();
            Explicit::Budget(thinking)
        }
        _ => Explicit::AsIs(thinking),
    }
}
