//! OpenAI's newer dialect: responses.

use serde_json::{Map, Value, json};

use crate::answer::{Answer, Delta, count_tokens};
use crate::ask::{Ask, Kept, Problem, ToolChoice, optional_bool, optional_number, read_messages};
use crate::dialect::{self, EventWriter, Meta, Usage, named};
use crate::openai::{CREATED, model_of};
use crate::reply::{Call, Finish};
use crate::store::{Kind, Store};

/// Stands where the real provider hides what was thought.
const ENCRYPTED: &str = "c2ltdWxhdGVkLXJlYXNvbmluZw==";

/// What the answer repeats of the request, and what it says where the request did not.
fn repeated(body: &Value) -> Value {
    let defaults = [
        ("background", json!(false)),
        ("instructions", Value::Null),
        ("max_output_tokens", Value::Null),
        ("metadata", json!({})),
        ("parallel_tool_calls", json!(true)),
        ("previous_response_id", Value::Null),
        ("reasoning", json!({"effort": null, "summary": null})),
        ("service_tier", json!("default")),
        ("store", json!(true)),
        ("temperature", json!(1.0)),
        ("text", json!({"format": {"type": "text"}})),
        ("tool_choice", json!("auto")),
        ("tools", json!([])),
        ("top_p", json!(1.0)),
        ("truncation", json!("disabled")),
        ("user", Value::Null),
    ];
    let said = |name: &str| body.get(name).filter(|value| !value.is_null()).cloned();
    let all =
        defaults.into_iter().map(|(name, value)| (name.to_owned(), said(name).unwrap_or(value)));
    Value::Object(all.collect())
}

/// Reads a responses request. An earlier response it goes on from must be in the store.
pub(crate) fn read(body: &Value, model: Option<&str>, store: &Store) -> Result<Ask, Problem> {
    let mut ask = Ask { model: model_of(body, model)?, choices: 1, ..Ask::default() };
    ask.stream = optional_bool(body, "stream")?;
    if let Some(previous) = body.get("previous_response_id").and_then(Value::as_str)
        && store.get(Kind::Response, previous).is_none()
    {
        let message = format!("Previous response with id '{previous}' not found.");
        return Err(Problem::invalid(message).code("previous_response_not_found"));
    }
    let items = match &body["input"] {
        Value::String(text) => vec![json!({"role": "user", "content": text})],
        Value::Array(items) if !items.is_empty() => items.clone(),
        _ => return Err(Problem::invalid("Missing required parameter: 'input'.")),
    };
    read_messages(&mut ask, &json!({"messages": messages(&items)?}))?;
    ask.prompt_tokens += body["instructions"].as_str().map_or(0, count_tokens);
    for tool in body["tools"].as_array().into_iter().flatten() {
        // The provider's own tools have no name, and are not called here.
        if tool["type"] == "function" || tool["type"] == "custom" {
            ask.offer(&tool["name"], &tool["parameters"], tool);
        }
    }
    ask.tool_choice = match &body["tool_choice"] {
        Value::String(choice) if choice == "none" => ToolChoice::None,
        Value::String(choice) if choice == "required" => ToolChoice::Required,
        Value::Object(choice) => match choice.get("name").and_then(Value::as_str) {
            Some(name) => ToolChoice::Named(name.to_owned()),
            None => ToolChoice::Auto,
        },
        _ => ToolChoice::Auto,
    };
    ask.max_tokens = optional_number(body, "max_output_tokens")?;
    let format = body["text"]["format"]["type"].as_str();
    ask.json = format.is_some_and(|format| format.starts_with("json"));
    ask.think = body["reasoning"].get("summary").is_some_and(|summary| !summary.is_null());
    ask.repeated = repeated(body);
    if ask.repeated["store"] != false {
        let input = items.into_iter().enumerate().map(|(place, item)| input_item(place, item));
        let background = ask.repeated["background"] == true;
        ask.kept = Some(Kept { input: input.collect(), background });
    }
    Ok(ask)
}

/// The items as the common reader understands them. Calls that follow one another are one turn.
fn messages(items: &[Value]) -> Result<Vec<Value>, Problem> {
    let mut messages: Vec<Value> = Vec::new();
    let mut calling = false;
    for (index, item) in items.iter().enumerate() {
        let kind = item["type"].as_str().unwrap_or("message");
        let was_calling = std::mem::replace(&mut calling, kind == "function_call");
        match kind {
            "message" if item["role"].is_string() => {
                messages.push(json!({"role": item["role"], "content": item["content"]}));
            }
            "message" => {
                let message = format!("Invalid value: input[{index}] has no role.");
                return Err(Problem::invalid(message));
            }
            "function_call" | "custom_tool_call" => {
                let input = item.get("arguments").unwrap_or(&item["input"]);
                let call = json!({"type": "tool_use", "name": item["name"], "input": input});
                let turn = messages.last_mut().filter(|_| was_calling);
                match turn.and_then(|turn| turn["content"].as_array_mut()) {
                    Some(calls) => calls.push(call),
                    None => messages.push(json!({"role": "assistant", "content": [call]})),
                }
            }
            "function_call_output" | "custom_tool_call_output" => {
                messages.push(json!({"role": "tool", "content": item["output"]}));
            }
            "reasoning" => {
                let summary = item["summary"].as_array().into_iter().flatten();
                let texts: Vec<&str> = summary.filter_map(|part| part["text"].as_str()).collect();
                let thought = json!({"type": "thinking", "thinking": texts.join("\n")});
                messages.push(json!({"role": "assistant", "content": [thought]}));
            }
            // References and the provider's own tools say nothing here.
            _ => {}
        }
    }
    Ok(messages)
}

/// One item as the common reader understands it; none if it says nothing there.
pub(crate) fn message_of(item: &Value) -> Option<Value> {
    messages(std::slice::from_ref(item)).ok()?.pop()
}

/// An item of the input as it is given back, with an id and its text in parts.
fn input_item(place: usize, mut item: Value) -> Value {
    if let Some(text) = item["content"].as_str().map(str::to_owned) {
        let kind = if item["role"] == "assistant" { "output_text" } else { "input_text" };
        item["content"] = json!([{"type": kind, "text": text}]);
    }
    if let Some(item) = item.as_object_mut() {
        item.entry("type").or_insert_with(|| "message".into());
        item.entry("id").or_insert_with(|| format!("msg_sim_input_{place}").into());
        item.entry("status").or_insert_with(|| "completed".into());
    }
    item
}

/// An error in the middle of a stream.
pub(crate) fn error_event(problem: &Problem) -> Vec<u8> {
    let code = problem.code.as_deref().or(problem.kind.as_deref()).unwrap_or("server_error");
    named(&json!({
        "type": "error",
        "code": code,
        "message": problem.message,
        "param": null,
        "sequence_number": 0,
    }))
}

/// A response's id, as the store knows it.
pub(crate) fn id(meta: &Meta) -> String {
    format!("resp_sim_{}", meta.number)
}

fn report(usage: &Usage) -> Value {
    json!({
        "input_tokens": usage.prompt,
        "input_tokens_details": {"cached_tokens": usage.cached, "cache_write_tokens": 0},
        "output_tokens": usage.completion,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning},
        "total_tokens": usage.prompt.saturating_add(usage.completion),
    })
}

fn envelope(meta: &Meta, status: &str, output: Vec<Value>) -> Value {
    let mut response = json!({
        "id": id(meta),
        "object": "response",
        "created_at": CREATED,
        "status": status,
        "error": null,
        "incomplete_details": null,
        "model": meta.model,
        "output": output,
        "usage": null,
    });
    if let (Some(response), Some(repeated)) = (response.as_object_mut(), meta.repeated.as_object())
    {
        response.extend(repeated.clone());
    }
    response
}

/// The response once it has ended.
fn ended(meta: &Meta, finish: Option<Finish>, output: Vec<Value>, usage: &Usage) -> Value {
    let reason = match finish {
        Some(Finish::Length) => Some("max_output_tokens"),
        Some(Finish::ContentFilter) => Some("content_filter"),
        _ => None,
    };
    let status = if reason.is_some() { "incomplete" } else { "completed" };
    let mut response = envelope(meta, status, output);
    if let Some(reason) = reason {
        response["incomplete_details"] = json!({"reason": reason});
    }
    if !meta.no_usage {
        response["usage"] = report(usage);
    }
    response
}

/// What an item of the output is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Item {
    Reasoning,
    Message,
    Call(usize),
}

impl Item {
    fn id(self, meta: &Meta) -> String {
        match self {
            Item::Reasoning => format!("rs_sim_{}", meta.number),
            Item::Message => format!("msg_sim_{}", meta.number),
            Item::Call(place) => format!("fc_sim_{}_{place}", meta.number),
        }
    }

    /// The item when it holds this much; nothing yet is an item that has just begun.
    fn written(self, meta: &Meta, name: &str, text: &str, status: &str) -> Value {
        let begun = status == "in_progress";
        let mut item = json!({"id": self.id(meta)});
        match self {
            Item::Reasoning => {
                let summary = json!({"type": "summary_text", "text": text});
                item["type"] = "reasoning".into();
                item["summary"] = if begun { json!([]) } else { json!([summary]) };
                item["encrypted_content"] = ENCRYPTED.into();
            }
            Item::Message => {
                item["type"] = "message".into();
                item["status"] = status.into();
                item["role"] = "assistant".into();
                item["content"] = if begun { json!([]) } else { json!([text_part(text)]) };
            }
            Item::Call(place) => {
                item["type"] = "function_call".into();
                item["status"] = status.into();
                item["call_id"] = call_id(meta, place).into();
                item["name"] = name.into();
                item["arguments"] = text.into();
            }
        }
        item
    }
}

pub(crate) fn call_id(meta: &Meta, place: usize) -> String {
    format!("call_sim_{}_0_{place}", meta.number)
}

fn text_part(text: &str) -> Value {
    json!({"type": "output_text", "annotations": [], "logprobs": [], "text": text})
}

/// A whole response.
pub(crate) fn response(meta: &Meta, answer: &Answer, usage: &Usage) -> Value {
    let mut output = Vec::new();
    if !answer.thinking.is_empty() {
        output.push(Item::Reasoning.written(meta, "", &answer.thinking, "completed"));
    }
    let status = match answer.finish {
        Some(Finish::Length | Finish::ContentFilter) => "incomplete",
        _ => "completed",
    };
    if !answer.text.is_empty() || answer.calls.is_empty() {
        output.push(Item::Message.written(meta, "", &answer.text, status));
    }
    for (place, Call { name, arguments }) in answer.calls.iter().enumerate() {
        output.push(Item::Call(place).written(meta, name, arguments, "completed"));
    }
    ended(meta, answer.finish, output, usage)
}

/// A response that is still to be written, as one in the background is answered at first.
pub(crate) fn queued(meta: &Meta) -> Value {
    envelope(meta, "queued", Vec::new())
}

/// Writes the events of a response.
pub(crate) struct Events {
    meta: Meta,
    sequence: u64,
    /// The items that are finished.
    output: Vec<Value>,
    /// The item that is being written, its name, and its text so far.
    open: Option<(Item, String, String)>,
    /// The response as its last event has it; none if that is to be left out.
    last: Option<Value>,
}

impl Events {
    pub(crate) fn new(meta: Meta) -> Events {
        Events { meta, sequence: 0, output: Vec::new(), open: None, last: None }
    }

    fn event(&mut self, kind: &str, rest: Value) -> Vec<u8> {
        let mut event = Map::new();
        event.insert("type".into(), kind.into());
        event.insert("sequence_number".into(), self.sequence.into());
        self.sequence += 1;
        if let Value::Object(rest) = rest {
            event.extend(rest);
        }
        named(&Value::Object(event))
    }

    /// An event about the item that is being written.
    fn about(&mut self, kind: &str, item: Item, index: &str, rest: Value) -> Vec<u8> {
        let mut all = json!({"item_id": item.id(&self.meta), "output_index": self.output.len()});
        if !index.is_empty() {
            all[index] = 0.into();
        }
        if let (Some(all), Value::Object(rest)) = (all.as_object_mut(), rest) {
            all.extend(rest);
        }
        self.event(kind, all)
    }

    /// Finishes the item that is being written, if there is one.
    fn close(&mut self, status: &str) -> dialect::Events {
        let Some((item, name, text)) = self.open.take() else { return Vec::new() };
        let mut events = match item {
            Item::Reasoning => {
                let (kind, index) = ("response.reasoning_summary_text.done", "summary_index");
                let part = json!({"type": "summary_text", "text": text});
                vec![
                    self.about(kind, item, index, json!({"text": text})),
                    self.about(
                        "response.reasoning_summary_part.done",
                        item,
                        index,
                        json!({"part": part}),
                    ),
                ]
            }
            Item::Message => {
                let (kind, index) = ("response.output_text.done", "content_index");
                let part = json!({"part": text_part(&text)});
                vec![
                    self.about(kind, item, index, json!({"text": text, "logprobs": []})),
                    self.about("response.content_part.done", item, index, part),
                ]
            }
            Item::Call(_) => {
                let kind = "response.function_call_arguments.done";
                let arguments = json!({"name": name, "arguments": text});
                vec![self.about(kind, item, "", arguments)]
            }
        };
        let item = item.written(&self.meta, &name, &text, status);
        let done = json!({"output_index": self.output.len(), "item": item});
        events.push(self.event("response.output_item.done", done));
        self.output.push(item);
        events
    }

    /// Begins an item of this kind, if it is not the one that is being written.
    fn enter(&mut self, item: Item, name: &str) -> dialect::Events {
        if self.open.as_ref().is_some_and(|(open, ..)| *open == item) {
            return Vec::new();
        }
        let mut events = self.close("completed");
        let begun = item.written(&self.meta, name, "", "in_progress");
        let added = json!({"output_index": self.output.len(), "item": begun});
        events.push(self.event("response.output_item.added", added));
        match item {
            Item::Reasoning => {
                let part = json!({"part": {"type": "summary_text", "text": ""}});
                let kind = "response.reasoning_summary_part.added";
                events.push(self.about(kind, item, "summary_index", part));
            }
            Item::Message => {
                let part = json!({"part": text_part("")});
                let kind = "response.content_part.added";
                events.push(self.about(kind, item, "content_index", part));
            }
            Item::Call(_) => {}
        }
        self.open = Some((item, name.to_owned(), String::new()));
        events
    }

    fn piece(&mut self, kind: &str, index: &str, piece: &str, rest: Value) -> dialect::Events {
        let Some((item, _, text)) = &mut self.open else { return Vec::new() };
        text.push_str(piece);
        let item = *item;
        vec![self.about(kind, item, index, rest)]
    }
}

impl EventWriter for Events {
    fn open(&mut self, _: u32, _: &Usage, _: bool) -> dialect::Events {
        let begun = json!({"response": envelope(&self.meta, "in_progress", Vec::new())});
        vec![
            self.event("response.created", begun.clone()),
            self.event("response.in_progress", begun),
        ]
    }

    fn delta(&mut self, _: u32, delta: &Delta<'_>, _: &Usage) -> dialect::Events {
        let (mut events, more) = match delta {
            Delta::Thinking(piece) => {
                let kind = "response.reasoning_summary_text.delta";
                let events = self.enter(Item::Reasoning, "");
                (events, self.piece(kind, "summary_index", piece, json!({"delta": piece})))
            }
            Delta::Text(piece) => {
                let kind = "response.output_text.delta";
                let events = self.enter(Item::Message, "");
                let rest = json!({"delta": piece, "logprobs": []});
                (events, self.piece(kind, "content_index", piece, rest))
            }
            Delta::Call(place, call) => (self.enter(Item::Call(*place), &call.name), Vec::new()),
            Delta::Arguments(_, piece) => {
                let kind = "response.function_call_arguments.delta";
                (Vec::new(), self.piece(kind, "", piece, json!({"delta": piece})))
            }
        };
        events.extend(more);
        events
    }

    fn finish(&mut self, _: u32, end: &Answer, usage: &Usage, no_finish: bool) -> dialect::Events {
        let cut = matches!(end.finish, Some(Finish::Length | Finish::ContentFilter));
        let mut events = Vec::new();
        if self.open.is_none() && self.output.is_empty() {
            // An answer of nothing is a message of nothing.
            events = self.enter(Item::Message, "");
        }
        events.extend(self.close(if cut { "incomplete" } else { "completed" }));
        let output = std::mem::take(&mut self.output);
        self.last = (!no_finish).then(|| ended(&self.meta, end.finish, output, usage));
        events
    }

    fn usage(&mut self, _: &Usage) -> dialect::Events {
        Vec::new()
    }

    fn done(&mut self) -> Vec<u8> {
        let Some(response) = self.last.take() else { return Vec::new() };
        let kind = match response["status"] == "incomplete" {
            true => "response.incomplete",
            false => "response.completed",
        };
        self.event(kind, json!({"response": response}))
    }
}
