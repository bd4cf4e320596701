//! OpenAI's realtime API: events in the frames of a websocket. It speaks in text; sound that comes
//! in is taken and not listened to.

use serde_json::{Map, Value, json};

use crate::answer::{Answer, Delta, count_tokens};
use crate::ask::{Ask, Problem};
use crate::dialect::{self, EventWriter, Meta, Usage};
use crate::openai;
use crate::reply::Finish;
use crate::responses::call_id;
use crate::websocket;

/// What the events of a session may be together, as far as they are remembered.
const SESSION_BYTES_MAX: usize = 16 << 20;

/// What one connection has come to.
pub(crate) struct Session {
    model: String,
    settings: Map<String, Value>,
    /// The conversation, as the common reader of messages understands it.
    messages: Vec<Value>,
    items: u64,
    /// So many bytes more may be remembered.
    room: usize,
}

/// What a client's event leads to.
pub(crate) enum Step {
    /// These frames, and nothing else.
    Send(dialect::Events),
    /// An answer of the model.
    Answer(Box<Ask>),
}

fn frame(kind: &str, rest: Value) -> Vec<u8> {
    let mut event = Map::new();
    event.insert("type".into(), kind.into());
    event.insert("event_id".into(), "event_sim".into());
    if let Value::Object(rest) = rest {
        event.extend(rest);
    }
    websocket::frame(websocket::TEXT, Value::Object(event).to_string().as_bytes())
}

/// An event that says what went wrong; the connection goes on.
pub(crate) fn error_event(problem: &Problem) -> Vec<u8> {
    frame("error", openai::error(problem))
}

/// A frame whose text is no JSON.
pub(crate) fn garbage() -> Vec<u8> {
    websocket::frame(websocket::TEXT, b"{\"type\":<garbage>")
}

impl Session {
    pub(crate) fn new(model: &str) -> Session {
        let settings = json!({
            "type": "realtime",
            "object": "realtime.session",
            "id": "sess_sim",
            "model": model,
            "output_modalities": ["text"],
            "instructions": "",
            "tools": [],
            "tool_choice": "auto",
        });
        let settings = settings.as_object().cloned().unwrap_or_default();
        Session {
            model: model.to_owned(),
            settings,
            messages: Vec::new(),
            items: 0,
            room: SESSION_BYTES_MAX,
        }
    }

    /// What the server says first.
    pub(crate) fn created(&self) -> Vec<u8> {
        frame("session.created", json!({"session": self.settings}))
    }

    /// Takes one event of the client.
    pub(crate) fn take(&mut self, text: &[u8]) -> Step {
        let Ok(event) = serde_json::from_slice::<Value>(text) else {
            let problem = Problem::invalid("The event is not valid JSON.");
            return Step::Send(vec![error_event(&problem.code("invalid_json"))]);
        };
        let kind = event["type"].as_str().unwrap_or_default();
        if kind != "input_audio_buffer.append" {
            // What is kept of a small event is larger than the event.
            let Some(room) = self.room.checked_sub(text.len() + 256) else {
                let problem = Problem::invalid("The simulated session remembers no more.");
                return Step::Send(vec![error_event(&problem.code("session_full"))]);
            };
            self.room = room;
        }
        Step::Send(match kind {
            "session.update" => {
                let wanted = event["session"].as_object().cloned().unwrap_or_default();
                self.settings.extend(wanted);
                vec![frame("session.updated", json!({"session": self.settings}))]
            }
            "conversation.item.create" => self.add(&event["item"]),
            "input_audio_buffer.append" => Vec::new(),
            "input_audio_buffer.clear" => vec![frame("input_audio_buffer.cleared", json!({}))],
            "input_audio_buffer.commit" => {
                let said = "(sound that nobody listened to)";
                let content = json!([{"type": "input_text", "text": said}]);
                let item = json!({"type": "message", "role": "user", "content": content});
                let mut events = vec![frame(
                    "input_audio_buffer.committed",
                    json!({"item_id": format!("item_sim_{}", self.items + 1)}),
                )];
                events.extend(self.add(&item));
                events
            }
            "response.cancel" => Vec::new(),
            "response.create" => return self.answer(&event["response"]),
            other => {
                let message = format!("The simulated provider has no realtime event `{other}`.");
                vec![error_event(&Problem::invalid(message).code("unknown_event"))]
            }
        })
    }

    fn add(&mut self, item: &Value) -> dialect::Events {
        self.items += 1;
        let mut item = item.clone();
        if let Some(item) = item.as_object_mut() {
            item.entry("id").or_insert_with(|| format!("item_sim_{}", self.items).into());
            item.insert("object".into(), "realtime.item".into());
            item.insert("status".into(), "completed".into());
        }
        self.messages.extend(crate::responses::message_of(&item));
        let added = json!({"previous_item_id": null, "item": item});
        vec![
            frame("conversation.item.added", added.clone()),
            frame("conversation.item.done", added),
        ]
    }

    /// Remembers what the model has called, so that the results are not taken for an answer to
    /// nothing.
    pub(crate) fn answered(&mut self, answer: &Answer) {
        if !answer.calls.is_empty() {
            let calls = answer.calls.iter();
            let calls: Vec<Value> =
                calls.map(|call| json!({"type": "tool_use", "name": call.name})).collect();
            self.messages.push(json!({"role": "assistant", "content": calls}));
        }
    }

    fn answer(&mut self, wanted: &Value) -> Step {
        let mut ask = Ask { model: self.model.clone(), choices: 1, ..Ask::default() };
        ask.stream = true;
        let said: Vec<Value> = match wanted["input"].as_array() {
            Some(items) => items.iter().filter_map(crate::responses::message_of).collect(),
            None => self.messages.clone(),
        };
        let said = match said.is_empty() {
            true => json!({"messages": [{"role": "user", "content": ""}]}),
            false => json!({"messages": said}),
        };
        if let Err(problem) = crate::ask::read_messages(&mut ask, &said) {
            return Step::Send(vec![error_event(&problem)]);
        }
        let setting = |name: &str| match &wanted[name] {
            Value::Null => self.settings.get(name).cloned().unwrap_or_default(),
            wanted => wanted.clone(),
        };
        ask.prompt_tokens += setting("instructions").as_str().map_or(0, count_tokens);
        for tool in setting("tools").as_array().into_iter().flatten() {
            ask.offer(&tool["name"], &tool["parameters"], tool);
        }
        ask.max_tokens = setting("max_output_tokens").as_u64();
        Step::Answer(Box::new(ask))
    }
}

/// Writes the events of one response, each in its frame.
pub(crate) struct Events {
    meta: Meta,
    output: Vec<Value>,
    /// The call that is being written, or none if it is text, and what there is of it.
    open: Option<(Option<(usize, String)>, String)>,
    last: Option<Value>,
}

impl Events {
    pub(crate) fn new(meta: Meta) -> Events {
        Events { meta, output: Vec::new(), open: None, last: None }
    }

    fn id(&self) -> String {
        format!("resp_sim_{}", self.meta.number)
    }

    fn response(&self, status: &str, output: Vec<Value>) -> Value {
        json!({
            "object": "realtime.response",
            "id": self.id(),
            "status": status,
            "status_details": null,
            "output": output,
            "conversation_id": "conv_sim",
            "output_modalities": ["text"],
            "usage": null,
        })
    }

    fn item(&self, call: Option<&(usize, String)>, text: &str, status: &str) -> Value {
        let mut item = json!({
            "id": format!("item_sim_{}_{}", self.meta.number, self.output.len()),
            "object": "realtime.item",
            "status": status,
        });
        match call {
            Some((place, name)) => {
                item["type"] = "function_call".into();
                item["name"] = name.clone().into();
                item["call_id"] = call_id(&self.meta, *place).into();
                item["arguments"] = text.into();
            }
            None => {
                let part = json!([{"type": "output_text", "text": text}]);
                item["type"] = "message".into();
                item["role"] = "assistant".into();
                item["content"] = if status == "in_progress" { json!([]) } else { part };
            }
        }
        item
    }

    /// An event about the item that is being written.
    fn about(&self, kind: &str, is_text: bool, rest: Value) -> Vec<u8> {
        let mut all = json!({
            "response_id": self.id(),
            "item_id": format!("item_sim_{}_{}", self.meta.number, self.output.len()),
            "output_index": self.output.len(),
        });
        if is_text {
            all["content_index"] = 0.into();
        }
        if let (Some(all), Value::Object(rest)) = (all.as_object_mut(), rest) {
            all.extend(rest);
        }
        frame(kind, all)
    }

    fn close(&mut self, status: &str) -> dialect::Events {
        let Some((call, text)) = self.open.take() else { return Vec::new() };
        let mut events = match &call {
            Some((place, name)) => {
                let done = json!({"call_id": call_id(&self.meta, *place), "name": name, "arguments": text});
                vec![self.about("response.function_call_arguments.done", false, done)]
            }
            None => {
                let part = json!({"part": {"type": "text", "text": text}});
                vec![
                    self.about("response.output_text.done", true, json!({"text": text})),
                    self.about("response.content_part.done", true, part),
                ]
            }
        };
        let item = self.item(call.as_ref(), &text, status);
        let index = self.output.len();
        let done = json!({"response_id": self.id(), "output_index": index, "item": item});
        events.push(frame("response.output_item.done", done));
        events.push(frame("conversation.item.done", json!({"item": item})));
        self.output.push(item);
        events
    }

    fn enter(&mut self, call: Option<(usize, String)>) -> dialect::Events {
        if self.open.as_ref().is_some_and(|(open, _)| *open == call) {
            return Vec::new();
        }
        let mut events = self.close("completed");
        let item = self.item(call.as_ref(), "", "in_progress");
        let index = self.output.len();
        let added = json!({"response_id": self.id(), "output_index": index, "item": item});
        events.push(frame("response.output_item.added", added));
        events.push(frame("conversation.item.added", json!({"item": item})));
        if call.is_none() {
            let part = json!({"part": {"type": "text", "text": ""}});
            events.push(self.about("response.content_part.added", true, part));
        }
        self.open = Some((call, String::new()));
        events
    }

    fn piece(&mut self, kind: &str, is_text: bool, piece: &str, rest: Value) -> Vec<u8> {
        if let Some((_, text)) = &mut self.open {
            text.push_str(piece);
        }
        self.about(kind, is_text, rest)
    }
}

impl EventWriter for Events {
    fn open(&mut self, _: u32, _: &Usage, _: bool) -> dialect::Events {
        let response = self.response("in_progress", Vec::new());
        vec![frame("response.created", json!({"response": response}))]
    }

    fn delta(&mut self, _: u32, delta: &Delta<'_>, _: &Usage) -> dialect::Events {
        match delta {
            // What a model thinks is not heard in this API.
            Delta::Thinking(_) => Vec::new(),
            Delta::Text(piece) => {
                let mut events = self.enter(None);
                let kind = "response.output_text.delta";
                events.push(self.piece(kind, true, piece, json!({"delta": piece})));
                events
            }
            Delta::Call(place, call) => self.enter(Some((*place, call.name.clone()))),
            Delta::Arguments(place, piece) => {
                let kind = "response.function_call_arguments.delta";
                let rest = json!({"call_id": call_id(&self.meta, *place), "delta": piece});
                vec![self.piece(kind, false, piece, rest)]
            }
        }
    }

    fn finish(&mut self, _: u32, end: &Answer, usage: &Usage, no_finish: bool) -> dialect::Events {
        let reason = match end.finish {
            Some(Finish::Length) => Some("max_output_tokens"),
            Some(Finish::ContentFilter) => Some("content_filter"),
            _ => None,
        };
        let status = if reason.is_some() { "incomplete" } else { "completed" };
        let events = self.close(status);
        let output = std::mem::take(&mut self.output);
        let mut response = self.response(status, output);
        if let Some(reason) = reason {
            response["status_details"] = json!({"type": "incomplete", "reason": reason});
        }
        if !self.meta.no_usage {
            response["usage"] = json!({
                "total_tokens": usage.prompt.saturating_add(usage.completion),
                "input_tokens": usage.prompt,
                "output_tokens": usage.completion,
                "input_token_details": {
                    "text_tokens": usage.prompt,
                    "audio_tokens": 0,
                    "cached_tokens": usage.cached,
                },
                "output_token_details": {"text_tokens": usage.completion, "audio_tokens": 0},
            });
        }
        self.last = (!no_finish).then_some(response);
        events
    }

    fn usage(&mut self, _: &Usage) -> dialect::Events {
        Vec::new()
    }

    fn done(&mut self) -> Vec<u8> {
        match self.last.take() {
            Some(response) => frame("response.done", json!({"response": response})),
            None => Vec::new(),
        }
    }
}
