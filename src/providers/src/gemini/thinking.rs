//! How hard the model thinks: `reasoning_effort` and Anthropic's `thinking` as `thinkingConfig`.
//!
//! Gemini 2.5 thinks by budget, Gemini 3 by level
//! (<https://ai.google.dev/gemini-api/docs/thinking>, read 2026-11). The budgets for OpenAI's words
//! are LiteLLM's.

use serde_json::{Map, Value, json};
use tollway_wire::openai::request::ChatRequest;

use crate::params::Lacks;

use super::model::Model;

/// What the client wishes.
enum Wish {
    /// No thinking.
    Off,
    /// As much as the model likes, to be shown.
    Shown,
    /// One of OpenAI's words.
    Effort(String),
    /// So many tokens.
    Budget(u64),
}

/// Sets `thinkingConfig` from the client's `thinking` or `reasoning_effort`.
pub(super) fn set_thinking(
    request: &mut ChatRequest,
    config: &mut Map<String, Value>,
    model: Model,
    translated: bool,
    lacks: &mut Lacks,
) {
    let thinking = request.thinking.take();
    let effort = request.reasoning_effort.take();
    // Google's own member says it exactly.
    if config.contains_key("thinkingConfig") {
        return;
    }
    let effort_wish = effort.and_then(|effort| match effort {
        Value::String(effort) => Some(Wish::Effort(effort)),
        // LiteLLM's form for clients of the Responses API.
        Value::Object(mut object) => match object.remove("effort") {
            Some(Value::String(effort)) => Some(Wish::Effort(effort)),
            _ => None,
        },
        _ => None,
    });
    let thinking_wish = thinking.and_then(|thinking| wish_of_thinking(&thinking));
    // The exact budget comes first where budgets are known, the word where levels are.
    let wish = match (model.is_3(), thinking_wish, effort_wish) {
        (true, Some(Wish::Off), _) => Wish::Off,
        (true, thinking, Some(effort)) => {
            let _ = thinking;
            effort
        }
        (_, Some(thinking), _) => thinking,
        (_, None, Some(effort)) => effort,
        (_, None, None) => return,
    };
    let wish = match wish {
        Wish::Effort(word) if word == "none" || word == "disable" => Wish::Off,
        wish => wish,
    };
    if !model.thinks() {
        if !translated && !matches!(wish, Wish::Off) {
            lacks.add("reasoning_effort");
        }
        return;
    }
    let thinking = if model.is_3() { by_level(&wish, model) } else { by_budget(&wish, model) };
    config.insert("thinkingConfig".into(), thinking);
}

fn wish_of_thinking(thinking: &Value) -> Option<Wish> {
    match thinking["type"].as_str()? {
        "disabled" => Some(Wish::Off),
        "enabled" => Some(match thinking["budget_tokens"].as_u64() {
            Some(0) => Wish::Off,
            Some(budget) => Wish::Budget(budget),
            None => Wish::Shown,
        }),
        "adaptive" => Some(Wish::Shown),
        _ => None,
    }
}

fn by_level(wish: &Wish, model: Model) -> Value {
    let minimal = if model.has_minimal_level() { "minimal" } else { "low" };
    let medium = if model.has_medium_level() { "medium" } else { "high" };
    let level = match wish {
        // It cannot be told not to think at all.
        Wish::Off => return json!({"thinkingLevel": minimal, "includeThoughts": false}),
        Wish::Shown => return json!({"includeThoughts": true}),
        Wish::Effort(word) => match word.as_str() {
            "minimal" => minimal,
            "low" => "low",
            "medium" => medium,
            _ => "high",
        },
        Wish::Budget(..=1024) => "low",
        Wish::Budget(..=2048) => medium,
        Wish::Budget(_) => "high",
    };
    json!({"thinkingLevel": level, "includeThoughts": true})
}

fn by_budget(wish: &Wish, model: Model) -> Value {
    let (least, most, may_be_off) = model.budgets();
    let budget = match wish {
        Wish::Off if may_be_off => return json!({"thinkingBudget": 0, "includeThoughts": false}),
        // The least a model thinks that always does.
        Wish::Off => return json!({"thinkingBudget": least, "includeThoughts": false}),
        Wish::Shown => return json!({"includeThoughts": true}),
        Wish::Effort(word) => match word.as_str() {
            "minimal" => least,
            "low" => 1024,
            "medium" => 2048,
            "xhigh" => 8192,
            "max" => 16_384,
            _ => 4096,
        },
        Wish::Budget(budget) => *budget,
    };
    json!({"thinkingBudget": budget.clamp(least, most), "includeThoughts": true})
}
