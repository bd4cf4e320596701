//! Cohere's dialect, version 2: chat and embed.

use serde_json::{Map, Value, json};

use crate::answer::{Answer, Delta, count_tokens, embedding, numbers};
use crate::ask::{
    Ask, Problem, ToolChoice, optional_bool, optional_number, read_messages, required_text, texts,
};
use crate::dialect::{self, EventWriter, Meta, Usage, named};
use crate::encoding::base64;
use crate::reply::{Call, Finish};

/// Texts one request may have embedded.
const TEXTS_MAX: usize = 96;

/// Reads a chat request.
pub(crate) fn read(body: &Value) -> Result<Ask, Problem> {
    let mut ask = Ask { model: required_text(body, "model")?, choices: 1, ..Ask::default() };
    ask.stream = optional_bool(body, "stream")?;
    read_messages(&mut ask, body)?;
    // A tool's result may be documents, of which the common reader knows nothing.
    let last_user = body["messages"].as_array().into_iter().flatten().rev();
    let results = last_user.take_while(|message| message["role"] != "user");
    let mut results: Vec<String> =
        results.filter(|message| message["role"] == "tool").map(tool_result).collect();
    results.reverse();
    if results.len() == ask.tool_results.len() {
        ask.tool_results = results;
    }
    for tool in body["tools"].as_array().into_iter().flatten() {
        let function = &tool["function"];
        ask.offer(&function["name"], &function["parameters"], tool);
    }
    ask.tool_choice = match body["tool_choice"].as_str() {
        Some("NONE") => ToolChoice::None,
        Some("REQUIRED") => ToolChoice::Required,
        _ => ToolChoice::Auto,
    };
    ask.max_tokens = optional_number(body, "max_tokens")?;
    ask.stop = texts(body.get("stop_sequences"));
    ask.json = body["response_format"]["type"] == "json_object";
    ask.think = body["thinking"]["type"] == "enabled";
    Ok(ask)
}

fn tool_result(message: &Value) -> String {
    match &message["content"] {
        Value::String(text) => text.clone(),
        Value::Array(parts) => {
            let texts = parts.iter().map(|part| match part["type"].as_str() {
                Some("document") => match &part["document"]["data"] {
                    Value::String(text) => text.clone(),
                    data => data.to_string(),
                },
                _ => part["text"].as_str().unwrap_or_default().to_owned(),
            });
            texts.collect::<Vec<_>>().join("\n")
        }
        _ => String::new(),
    }
}

/// Answers an embed request, with what was said and its tokens.
pub(crate) fn embed(body: &Value) -> Result<(Value, String, u64), Problem> {
    let mut inputs = texts(body.get("texts"));
    for input in body["inputs"].as_array().into_iter().flatten() {
        let parts = input["content"].as_array().into_iter().flatten();
        let parts: Vec<&str> = parts.filter_map(|part| part["text"].as_str()).collect();
        inputs.push(parts.join("\n"));
    }
    // A picture is embedded by the text of its data URL: the same for the same picture.
    inputs.extend(texts(body.get("images")));
    if inputs.is_empty() || inputs.len() > TEXTS_MAX {
        let message = format!("invalid request: there must be 1 to {TEXTS_MAX} texts");
        return Err(Problem::invalid(message));
    }
    required_text(body, "input_type")?;
    let dimensions = match optional_number(body, "output_dimension")?.unwrap_or(16) {
        dimensions @ 1..=1536 => dimensions as usize,
        _ => return Err(Problem::invalid("output_dimension must be from 1 to 1536")),
    };
    let mut kinds = texts(body.get("embedding_types"));
    // There are no more kinds than these, so others are repetitions.
    kinds.truncate(6);
    if kinds.is_empty() {
        kinds.push("float".to_owned());
    }
    let vectors: Vec<Vec<f32>> = inputs.iter().map(|text| embedding(text, dimensions)).collect();
    let mut embeddings = Map::new();
    for kind in kinds {
        let all: Vec<Value> =
            vectors.iter().map(|vector| in_type(vector, &kind)).collect::<Result<_, _>>()?;
        embeddings.insert(kind, all.into());
    }
    let tokens: u64 = inputs.iter().map(|input| count_tokens(input)).sum();
    let answer = json!({
        "id": "sim-embed",
        "embeddings": embeddings,
        "texts": inputs,
        "meta": {
            "api_version": {"version": "2"},
            "billed_units": {"input_tokens": tokens},
        },
        "response_type": "embeddings_by_type",
    });
    Ok((answer, inputs.join("\n"), tokens))
}

fn in_type(vector: &[f32], kind: &str) -> Result<Value, Problem> {
    let small = vector.iter().map(|x| (x * 127.0) as i8);
    Ok(match kind {
        "float" => numbers(vector),
        "int8" => small.collect(),
        "uint8" => small.map(|x| (i16::from(x) + 128) as u8).collect(),
        "base64" => {
            let bytes: Vec<u8> = vector.iter().flat_map(|x| x.to_le_bytes()).collect();
            base64(&bytes).into()
        }
        _ => return Err(Problem::invalid("embedding_types: float, int8, uint8 or base64")),
    })
}

/// An error's body.
pub(crate) fn error(problem: &Problem) -> Value {
    json!({"id": "sim-error", "message": problem.message})
}

/// An error in the middle of a stream: the end, with the reason.
pub(crate) fn error_event(problem: &Problem) -> Vec<u8> {
    let delta = json!({"finish_reason": "ERROR", "error": problem.message});
    named(&json!({"type": "message-end", "delta": delta}))
}

fn finish_reason(answer: &Answer) -> &'static str {
    match answer.finish {
        Some(Finish::Length) => "MAX_TOKENS",
        Some(Finish::ToolCalls) => "TOOL_CALL",
        Some(Finish::ContentFilter) => "ERROR_TOXIC",
        _ if answer.stopped_by.is_some() => "STOP_SEQUENCE",
        _ => "COMPLETE",
    }
}

fn report(usage: &Usage) -> Value {
    json!({
        "billed_units": {"input_tokens": usage.prompt, "output_tokens": usage.completion},
        "tokens": {"input_tokens": usage.prompt, "output_tokens": usage.completion},
        "cached_tokens": usage.cached,
    })
}

fn tool_call(meta: &Meta, place: usize, call: &Call, arguments: &str) -> Value {
    json!({
        "id": format!("call_sim_{}_{place}", meta.number),
        "type": "function",
        "function": {"name": call.name, "arguments": arguments},
    })
}

/// A whole answer.
pub(crate) fn chat(meta: &Meta, answer: &Answer, usage: &Usage) -> Value {
    let mut content = Vec::new();
    if !answer.thinking.is_empty() {
        content.push(json!({"type": "thinking", "thinking": answer.thinking}));
    }
    if !answer.text.is_empty() {
        content.push(json!({"type": "text", "text": answer.text}));
    }
    let mut message = json!({"role": "assistant"});
    if !content.is_empty() {
        message["content"] = content.into();
    }
    if !answer.calls.is_empty() {
        let calls = answer.calls.iter().enumerate();
        message["tool_calls"] =
            calls.map(|(place, call)| tool_call(meta, place, call, &call.arguments)).collect();
    }
    let mut whole = json!({
        "id": format!("sim-{}", meta.number),
        "finish_reason": finish_reason(answer),
        "message": message,
    });
    if !meta.no_usage {
        whole["usage"] = report(usage);
    }
    whole
}

/// What the open part of a message is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Thinking,
    Text,
    Tool(usize),
}

/// Writes the events of a chat.
pub(crate) struct Events {
    meta: Meta,
    /// The index of the next part of the content.
    next: usize,
    open: Option<Part>,
}

impl Events {
    pub(crate) fn new(meta: Meta) -> Events {
        Events { meta, next: 0, open: None }
    }

    fn close(&mut self, events: &mut dialect::Events) {
        match self.open.take() {
            None => {}
            Some(Part::Tool(place)) => {
                events.push(named(&json!({"type": "tool-call-end", "index": place})));
            }
            Some(_) => {
                let index = self.next.saturating_sub(1);
                events.push(named(&json!({"type": "content-end", "index": index})));
            }
        }
    }

    /// A piece of the content, after what opens its part.
    fn content(&mut self, part: Part, kind: &str, piece: &str) -> dialect::Events {
        let mut events = Vec::new();
        if self.open != Some(part) {
            self.close(&mut events);
            let content = json!({"type": kind, kind: ""});
            events.push(named(&json!({
                "type": "content-start",
                "index": self.next,
                "delta": {"message": {"content": content}},
            })));
            self.open = Some(part);
            self.next += 1;
        }
        events.push(named(&json!({
            "type": "content-delta",
            "index": self.next.saturating_sub(1),
            "delta": {"message": {"content": {kind: piece}}},
        })));
        events
    }
}

impl EventWriter for Events {
    fn open(&mut self, _: u32, _: &Usage, _: bool) -> dialect::Events {
        let message = json!({
            "role": "assistant",
            "content": [],
            "tool_plan": "",
            "tool_calls": [],
            "citations": [],
        });
        vec![named(&json!({
            "id": format!("sim-{}", self.meta.number),
            "type": "message-start",
            "delta": {"message": message},
        }))]
    }

    fn delta(&mut self, _: u32, delta: &Delta<'_>, _: &Usage) -> dialect::Events {
        match delta {
            Delta::Thinking(piece) => self.content(Part::Thinking, "thinking", piece),
            Delta::Text(piece) => self.content(Part::Text, "text", piece),
            Delta::Call(place, call) => {
                let mut events = Vec::new();
                self.close(&mut events);
                self.open = Some(Part::Tool(*place));
                let call = tool_call(&self.meta, *place, call, "");
                events.push(named(&json!({
                    "type": "tool-call-start",
                    "index": place,
                    "delta": {"message": {"tool_calls": call}},
                })));
                events
            }
            Delta::Arguments(place, piece) => vec![named(&json!({
                "type": "tool-call-delta",
                "index": place,
                "delta": {"message": {"tool_calls": {"function": {"arguments": piece}}}},
            }))],
        }
    }

    fn finish(&mut self, _: u32, end: &Answer, usage: &Usage, no_finish: bool) -> dialect::Events {
        let mut events = Vec::new();
        self.close(&mut events);
        if !no_finish {
            let mut delta = json!({"finish_reason": finish_reason(end)});
            if !self.meta.no_usage {
                delta["usage"] = report(usage);
            }
            events.push(named(&json!({"type": "message-end", "delta": delta})));
        }
        events
    }

    fn usage(&mut self, _: &Usage) -> dialect::Events {
        Vec::new()
    }

    fn done(&mut self) -> Vec<u8> {
        b"data: [DONE]\n\n".to_vec()
    }
}
