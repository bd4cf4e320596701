//! Anthropic's dialect: messages, and counting their tokens.

use serde_json::{Value, json};

use crate::answer::{Answer, Delta, MODELS, count_tokens};
use crate::ask::{
    Ask, Problem, Tool, ToolChoice, optional_bool, optional_number, read_messages, required_text,
    texts,
};
use crate::dialect::{self, EventWriter, Meta, Usage, named};
use crate::reply::{Call, Finish};

/// Stands where the real provider signs what was thought.
pub(crate) const SIGNATURE: &str = "c2ltdWxhdGVkLXNpZ25hdHVyZQ==";

/// Reads a messages request; counting tokens does not need `max_tokens`. The model is in the body
/// unless the path names it.
pub(crate) fn read(
    body: &Value,
    model: Option<&str>,
    needs_max_tokens: bool,
) -> Result<Ask, Problem> {
    let model = match model {
        Some(model) => model.to_owned(),
        None => required_text(body, "model")?,
    };
    let mut ask = Ask { model, choices: 1, ..Ask::default() };
    ask.stream = optional_bool(body, "stream")?;
    ask.max_tokens = optional_number(body, "max_tokens")?;
    if needs_max_tokens && ask.max_tokens.is_none_or(|max| max == 0) {
        return Err(Problem::invalid("max_tokens: Field required"));
    }
    match body.get("system") {
        Some(Value::String(text)) => ask.prompt_tokens += count_tokens(text),
        Some(Value::Array(blocks)) => {
            let texts = blocks.iter().filter_map(|block| block["text"].as_str());
            ask.prompt_tokens += texts.map(count_tokens).sum::<u64>();
        }
        _ => {}
    }
    read_messages(&mut ask, body)?;
    let roles = body["messages"].as_array().into_iter().flatten().map(|message| &message["role"]);
    for (index, role) in roles.enumerate() {
        if role != "user" && role != "assistant" {
            let message = format!("messages.{index}.role: must be user or assistant");
            return Err(Problem::invalid(message));
        }
    }
    for tool in body.get("tools").and_then(Value::as_array).into_iter().flatten() {
        ask.prompt_tokens += count_tokens(&tool.to_string());
        ask.tools.push(Tool {
            name: tool["name"].as_str().unwrap_or_default().to_owned(),
            schema: tool["input_schema"].clone(),
        });
    }
    let choice = body.get("tool_choice");
    ask.tool_choice = match choice.and_then(|choice| choice["type"].as_str()) {
        Some("none") => ToolChoice::None,
        Some("any") => ToolChoice::Required,
        Some("tool") => {
            let name = choice.and_then(|choice| choice["name"].as_str());
            ToolChoice::Named(name.unwrap_or_default().to_owned())
        }
        _ => ToolChoice::Auto,
    };
    ask.stop = texts(body.get("stop_sequences"));
    let thinking = body.get("thinking").and_then(|thinking| thinking["type"].as_str());
    ask.think = matches!(thinking, Some("enabled" | "adaptive"));
    Ok(ask)
}

/// The list of models.
pub(crate) fn models() -> Value {
    let data: Vec<Value> = MODELS
        .iter()
        .map(|(name, _)| {
            let created = "2023-11-14T22:13:20Z";
            json!({"type": "model", "id": name, "display_name": name, "created_at": created})
        })
        .collect();
    let last = MODELS.last().map(|(name, _)| name);
    json!({"data": data, "has_more": false, "first_id": MODELS[0].0, "last_id": last})
}

/// An error's body.
pub(crate) fn error(problem: &Problem) -> Value {
    let kind = match problem.status {
        401 => "authentication_error",
        403 => "permission_error",
        404 => "not_found_error",
        413 => "request_too_large",
        429 => "rate_limit_error",
        529 => "overloaded_error",
        status if status >= 500 => "api_error",
        _ => "invalid_request_error",
    };
    let kind = problem.kind.as_deref().unwrap_or(kind);
    json!({
        "type": "error",
        "error": {"type": kind, "message": problem.message},
        "request_id": "req_sim",
    })
}

/// A whole message.
pub(crate) fn message(meta: &Meta, answer: &Answer, usage: &Usage) -> Value {
    let mut content = Vec::new();
    if !answer.thinking.is_empty() {
        content.push(json!({
            "type": "thinking",
            "thinking": answer.thinking,
            "signature": SIGNATURE,
        }));
    }
    if !answer.text.is_empty() {
        content.push(json!({"type": "text", "text": answer.text}));
    }
    for (place, call) in answer.calls.iter().enumerate() {
        // Arguments that `max_tokens` cut are no JSON; the real provider, too, sends what parses.
        let input: Value = serde_json::from_str(&call.arguments).unwrap_or_else(|_| json!({}));
        let mut block = tool_use(meta, place, call);
        block["input"] = input;
        content.push(block);
    }
    let mut message = envelope(meta, content);
    message["stop_reason"] = stop_reason(answer).into();
    message["stop_sequence"] = answer.stopped_by.clone().into();
    if !meta.no_usage {
        message["usage"] = report(usage, usage.completion);
    }
    message
}

fn envelope(meta: &Meta, content: Vec<Value>) -> Value {
    json!({
        "id": format!("msg_sim_{}", meta.number),
        "type": "message",
        "role": "assistant",
        "model": meta.model,
        "content": content,
        "stop_reason": null,
        "stop_sequence": null,
    })
}

fn tool_use(meta: &Meta, place: usize, call: &Call) -> Value {
    let id = format!("toolu_sim_{}_{place}", meta.number);
    json!({"type": "tool_use", "id": id, "name": call.name, "input": {}})
}

fn stop_reason(answer: &Answer) -> &'static str {
    match answer.finish {
        Some(Finish::Length) => "max_tokens",
        Some(Finish::ToolCalls) => "tool_use",
        Some(Finish::ContentFilter) => "refusal",
        _ if answer.stopped_by.is_some() => "stop_sequence",
        _ => "end_turn",
    }
}

/// Anthropic counts what came from its cache apart from `input_tokens`.
fn report(usage: &Usage, output: u64) -> Value {
    json!({
        "input_tokens": usage.prompt.saturating_sub(usage.cached),
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": usage.cached,
        "output_tokens": output,
    })
}

/// Writes the events of a message.
pub(crate) struct Events {
    meta: Meta,
    /// The index of the next content block.
    next: usize,
    open: Option<Block>,
}

/// The kind of the content block that is open.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Block {
    Thinking,
    Text,
    Tool(usize),
}

impl Events {
    pub(crate) fn new(meta: Meta) -> Events {
        Events { meta, next: 0, open: None }
    }

    fn close(&mut self, events: &mut dialect::Events) {
        let Some(block) = self.open.take() else { return };
        let index = self.next.saturating_sub(1);
        if block == Block::Thinking {
            let delta = json!({"type": "signature_delta", "signature": SIGNATURE});
            events.push(named(
                &json!({"type": "content_block_delta", "index": index, "delta": delta}),
            ));
        }
        events.push(named(&json!({"type": "content_block_stop", "index": index})));
    }

    /// Opens a block of this kind, if it is not the one that is open.
    fn enter(&mut self, kind: Block, block: Value, events: &mut dialect::Events) {
        if self.open == Some(kind) {
            return;
        }
        self.close(events);
        events.push(named(
            &json!({"type": "content_block_start", "index": self.next, "content_block": block}),
        ));
        self.open = Some(kind);
        self.next += 1;
    }

    fn piece(&self, delta: Value) -> Vec<u8> {
        let index = self.next.saturating_sub(1);
        named(&json!({"type": "content_block_delta", "index": index, "delta": delta}))
    }
}

impl EventWriter for Events {
    fn open(&mut self, _: u32, usage: &Usage, _: bool) -> dialect::Events {
        let mut message = envelope(&self.meta, Vec::new());
        if !self.meta.no_usage {
            message["usage"] = report(usage, 1);
        }
        vec![
            named(&json!({"type": "message_start", "message": message})),
            named(&json!({"type": "ping"})),
        ]
    }

    fn delta(&mut self, _: u32, delta: &Delta<'_>, _: &Usage) -> dialect::Events {
        let mut events = Vec::new();
        match delta {
            Delta::Thinking(piece) => {
                let block = json!({"type": "thinking", "thinking": "", "signature": ""});
                self.enter(Block::Thinking, block, &mut events);
                events.push(self.piece(json!({"type": "thinking_delta", "thinking": piece})));
            }
            Delta::Text(piece) => {
                self.enter(Block::Text, json!({"type": "text", "text": ""}), &mut events);
                events.push(self.piece(json!({"type": "text_delta", "text": piece})));
            }
            Delta::Call(place, call) => {
                let block = tool_use(&self.meta, *place, call);
                self.enter(Block::Tool(*place), block, &mut events);
                events.push(self.piece(json!({"type": "input_json_delta", "partial_json": ""})));
            }
            Delta::Arguments(_, piece) => {
                events.push(self.piece(json!({"type": "input_json_delta", "partial_json": piece})));
            }
        }
        events
    }

    fn finish(&mut self, _: u32, end: &Answer, usage: &Usage, no_finish: bool) -> dialect::Events {
        let mut events = Vec::new();
        self.close(&mut events);
        if !no_finish {
            let delta = json!({"stop_reason": stop_reason(end), "stop_sequence": end.stopped_by});
            let mut last = json!({"type": "message_delta", "delta": delta});
            if !self.meta.no_usage {
                last["usage"] = report(usage, usage.completion);
            }
            events.push(named(&last));
        }
        events
    }

    fn usage(&mut self, _: &Usage) -> dialect::Events {
        Vec::new()
    }

    fn done(&mut self) -> Vec<u8> {
        named(&json!({"type": "message_stop"}))
    }
}
