//! How hard the model thinks: OpenAI's `reasoning_effort` as Anthropic's `thinking` and `effort`.

use serde_json::{Map, Value, json};
use tollway_wire::anthropic::MessagesRequest;
use tollway_wire::openai::request::ChatRequest;

use super::messages::Conversation;
use super::model::Abilities;
use super::params::Lacks;
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
    if let Some(thinking) = request.thinking.take().filter(|thinking| thinking.is_object()) {
        // These models always think, and refuse to be told not to.
        if !(abilities.always_thinks && thinking["type"] == "disabled") {
            body.thinking = Some(thinking);
        }
        return;
    }
    let effort = match request.reasoning_effort.take() {
        Some(Value::String(effort)) => effort,
        // LiteLLM's form for clients of the Responses API.
        Some(Value::Object(mut object)) => match object.remove("effort") {
            Some(Value::String(effort)) => effort,
            _ => return,
        },
        _ => return,
    };
    if !abilities.thinking {
        lacks.names.push("reasoning_effort");
        return;
    }
    if effort == "none" || effort == "disable" {
        if abilities.adaptive && !abilities.always_thinks {
            body.thinking = Some(json!({"type": "disabled"}));
        }
        return;
    }
    let is_forced = body.tool_choice.as_ref().is_some_and(tools::is_forced);
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
