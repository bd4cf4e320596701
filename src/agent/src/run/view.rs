//! A run as clients see it: a superset of a `chat.completion`.

use serde_json::value::RawValue;
use serde_json::{Map, Value, json};
use tollway_filter_api::documents::Document;
use tollway_wire::price::PicoDollars;

use super::journal::{self, AskedCall, OpenCall, State, Took, ToolResult};
use super::{Plan, Status};

/// The whole run.
pub fn run(document: &Document, status: Status, plan: &Plan, state: &State) -> Value {
    let mut run = Map::new();
    let mut set = |name: &str, value: Value| run.insert(name.to_owned(), value);
    set("id", (*document.id).into());
    set("object", "agent.run".into());
    set("created", (document.created_ms / 1000).into());
    set("model", plan.model.as_str().into());
    set("agent", plan.agent.as_deref().into());
    set("status", status.name().into());
    let stopped = state.stopped.as_ref();
    let reason = stopped.and_then(|(_, reason, _)| *reason);
    set(
        "incomplete_details",
        reason.map_or(Value::Null, |reason| json!({"reason": reason.name()})),
    );
    set("error", stopped.and_then(|(_, _, error)| error.clone()).unwrap_or_default());
    set("choices", json!([choice(status, state)]));
    set("tool_calls", tool_calls(state).into());
    set("usage", usage(state));
    set("thread_id", plan.thread.as_deref().into());
    set("metadata", Value::Object(plan.metadata.clone()));
    let action = match status {
        Status::RequiresAction => required_action(&document.id, state),
        _ => Value::Null,
    };
    set("required_action", action);
    Value::Object(run)
}

/// What lists show of a run.
pub fn summary(plan: &Plan, state: &State) -> Value {
    let stopped = state.stopped.as_ref();
    let reason = stopped.and_then(|(_, reason, _)| *reason);
    json!({
        "model": plan.model,
        "agent": plan.agent,
        "incomplete_details": reason.map(|reason| json!({"reason": reason.name()})),
        "error": stopped.and_then(|(_, _, error)| error.clone()),
        "usage": usage(state),
        "thread_id": plan.thread,
        "metadata": plan.metadata,
    })
}

/// A run in a list.
pub fn item(document: &Document) -> Value {
    let body: Map<String, Value> = serde_json::from_slice(&document.body).unwrap_or_default();
    let mut run = Map::new();
    run.insert("id".to_owned(), (*document.id).into());
    run.insert("object".to_owned(), "agent.run".into());
    run.insert("created".to_owned(), (document.created_ms / 1000).into());
    run.insert("status".to_owned(), (*document.state).into());
    run.extend(body);
    Value::Object(run)
}

/// The answer, as OpenAI's clients read it.
fn choice(status: Status, state: &State) -> Value {
    let last = state.answers.last();
    let finish = match status {
        Status::RequiresAction => "tool_calls",
        Status::Incomplete => "length",
        _ => last.map_or("stop", |answer| match answer.finish_reason.as_str() {
            // Those calls were ours to make.
            "tool_calls" => "stop",
            reason => reason,
        }),
    };
    let mut message = last.map(|answer| answer.message.clone()).unwrap_or_default();
    message.remove("tool_calls");
    message.entry("role").or_insert_with(|| "assistant".into());
    message.entry("content").or_insert(Value::Null);
    if status == Status::RequiresAction {
        let calls = state.calls.iter().filter(|call| call.waits_for_caller());
        let calls: Vec<Value> = calls.map(|call| function_call(&call.asked)).collect();
        if !calls.is_empty() {
            message.insert("tool_calls".to_owned(), calls.into());
        }
    }
    json!({"index": 0, "message": message, "finish_reason": finish})
}

/// A tool call in OpenAI's form.
pub fn function_call(call: &AskedCall) -> Value {
    json!({
        "id": call.id,
        "type": "function",
        "function": {"name": call.tool, "arguments": call.arguments},
    })
}

/// What somebody has to say or bring before the run goes on.
pub fn required_action(run: &str, state: &State) -> Value {
    let approvals = state.calls.iter().filter(|call| call.waits_for_approval());
    let approvals: Vec<Value> = approvals
        .map(|OpenCall { asked, .. }| {
            json!({
                "call_id": asked.id,
                "tool": asked.tool,
                "arguments": asked.arguments,
                "arguments_sha256": journal::digest(&asked.tool, &asked.arguments),
                "risk": asked.risk,
            })
        })
        .collect();
    let outputs = state.calls.iter().filter(|call| call.waits_for_caller());
    let outputs: Vec<Value> = outputs.map(|call| function_call(&call.asked)).collect();
    json!({"run_id": run, "approvals": approvals, "tool_outputs": outputs})
}

/// All tool calls, with what became of them.
fn tool_calls(state: &State) -> Vec<Value> {
    let done = state.done.iter().map(|(call, result)| tool_call(call, Some(result), "completed"));
    let open = state.calls.iter().map(|call| {
        let status = match () {
            () if call.waits_for_approval() => "requires_approval",
            () if call.waits_for_caller() => "requires_output",
            () => "in_progress",
        };
        tool_call(&call.asked, call.result.as_ref(), status)
    });
    done.chain(open).collect()
}

fn tool_call(call: &AskedCall, result: Option<&ToolResult>, status: &str) -> Value {
    let status = match result {
        Some(result) if result.is_ok => "completed",
        Some(_) => "failed",
        None => status,
    };
    let mut shown = function_call(call);
    shown["status"] = status.into();
    if let Some(result) = result {
        shown["output"] = result.content.as_str().into();
        shown["duration_ms"] = result.duration_ms.into();
        shown["cost_usd"] = dollars(PicoDollars(result.cost));
        if let Some(data) = &result.data {
            shown["data"] = data.clone();
        }
        if !result.files.is_empty() {
            shown["files"] = json!(result.files);
        }
    }
    shown
}

/// What all of it took.
pub fn usage(state: &State) -> Value {
    let steps = state.answers.iter().map(|answer| &answer.took);
    let all = steps.clone().chain(&state.summaries);
    let sum = all.fold(Took::default(), |mut sum, took| {
        sum.prompt_tokens += took.prompt_tokens;
        sum.completion_tokens += took.completion_tokens;
        sum.reasoning_tokens += took.reasoning_tokens;
        sum.cached_tokens += took.cached_tokens;
        sum
    });
    let mut usage = counts(&sum);
    usage["cost_usd"] = dollars(state.cost());
    usage["steps"] = steps.map(took).collect();
    usage
}

/// What one model call took.
pub fn took(took: &Took) -> Value {
    let mut usage = counts(took);
    usage["cost_usd"] = dollars(PicoDollars(took.cost));
    usage["model"] = took.model.as_deref().into();
    usage
}

fn counts(took: &Took) -> Value {
    json!({
        "prompt_tokens": took.prompt_tokens,
        "completion_tokens": took.completion_tokens,
        "total_tokens": took.prompt_tokens + took.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": took.cached_tokens},
        "completion_tokens_details": {"reasoning_tokens": took.reasoning_tokens},
    })
}

/// Dollars as a JSON number.
pub fn dollars(amount: PicoDollars) -> Value {
    // Exact where it is printed: the shortest decimal form of a float of so few digits.
    RawValue::from_string(amount.to_string())
        .ok()
        .and_then(|raw| serde_json::from_str(raw.get()).ok())
        .unwrap_or_default()
}
