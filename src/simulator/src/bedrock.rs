//! Amazon's dialect: Bedrock's Converse, and InvokeModel around Anthropic's messages, with their
//! binary event stream.
//!
//! A frame is: its length and that of its headers (u32, big-endian), the CRC-32 of these eight
//! bytes, the headers, the payload, and the CRC-32 of all before. A header is a length byte, a
//! name, the type (7: a text), a length (u16) and the text.
//! <https://docs.aws.amazon.com/AmazonS3/latest/API/RESTSelectObjectAppendix.html> (2026-11)

use serde_json::{Map, Value, json};

use crate::answer::{Answer, Delta, count_tokens, embedding, numbers};
use crate::ask::{Ask, Problem, ToolChoice, optional_number, read_messages, required_text, texts};
use crate::dialect::{self, EventWriter, Meta, Usage};
use crate::encoding::{base64, crc32, from_base64};
use crate::reply::{Call, Finish};
use crate::{anthropic, cohere};

/// A frame with these headers and this payload.
fn frame(headers: &[(&str, &str)], payload: &[u8]) -> Vec<u8> {
    let mut head = Vec::new();
    for (name, value) in headers {
        head.push(name.len() as u8);
        head.extend_from_slice(name.as_bytes());
        head.push(7);
        head.extend_from_slice(&(value.len() as u16).to_be_bytes());
        head.extend_from_slice(value.as_bytes());
    }
    let total = 12 + head.len() + payload.len() + 4;
    let mut frame = Vec::with_capacity(total);
    frame.extend_from_slice(&(total as u32).to_be_bytes());
    frame.extend_from_slice(&(head.len() as u32).to_be_bytes());
    frame.extend_from_slice(&crc32(&frame).to_be_bytes());
    frame.extend_from_slice(&head);
    frame.extend_from_slice(payload);
    frame.extend_from_slice(&crc32(&frame).to_be_bytes());
    frame
}

fn event(name: &str, payload: &Value) -> Vec<u8> {
    let headers =
        [(":event-type", name), (":content-type", "application/json"), (":message-type", "event")];
    frame(&headers, payload.to_string().as_bytes())
}

/// The head of a frame whose payload is this long, with no payload yet.
pub(crate) fn long_frame_head(payload: u64) -> Vec<u8> {
    let mut head = Vec::new();
    head.extend_from_slice(&u32::try_from(payload).unwrap_or(u32::MAX).to_be_bytes());
    head.extend_from_slice(&0_u32.to_be_bytes());
    head.extend_from_slice(&crc32(&head).to_be_bytes());
    head
}

/// A frame that would be right but for its last check sum.
pub(crate) fn bad_sum() -> Vec<u8> {
    let delta = json!({"contentBlockIndex": 0, "delta": {"text": "damaged"}});
    let mut frame = event("contentBlockDelta", &delta);
    if let Some(last) = frame.last_mut() {
        *last ^= 1;
    }
    frame
}

/// The name of an error, as Amazon's SDKs know them.
pub(crate) fn error_type(problem: &Problem) -> String {
    let kind = match problem.status {
        401 | 403 => "AccessDeniedException",
        404 => "ResourceNotFoundException",
        408 => "ModelTimeoutException",
        424 => "ModelErrorException",
        429 => "ThrottlingException",
        503 => "ServiceUnavailableException",
        status if status >= 500 => "InternalServerException",
        _ => "ValidationException",
    };
    problem.kind.clone().unwrap_or_else(|| kind.to_owned())
}

/// An error's body; its name is in a header.
pub(crate) fn error(problem: &Problem) -> Value {
    json!({"message": problem.message})
}

/// An error in the middle of a stream.
pub(crate) fn exception(problem: &Problem) -> Vec<u8> {
    // In a stream the names begin with a small letter.
    let mut kind = error_type(problem);
    if let Some(first) = kind.get_mut(..1) {
        first.make_ascii_lowercase();
    }
    let headers = [
        (":exception-type", &*kind),
        (":content-type", "application/json"),
        (":message-type", "exception"),
    ];
    frame(&headers, error(problem).to_string().as_bytes())
}

/// Reads a Converse request, whose model is in the path.
pub(crate) fn read(body: &Value, model: &str, stream: bool) -> Result<Ask, Problem> {
    let mut ask = Ask { model: model.to_owned(), stream, choices: 1, ..Ask::default() };
    let messages: Vec<Value> = body["messages"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|message| {
            let parts: Vec<Value> =
                message["content"].as_array().into_iter().flatten().map(part).collect();
            json!({"role": message["role"], "content": parts})
        })
        .collect();
    read_messages(&mut ask, &json!({"messages": messages}))?;
    let system = body["system"].as_array().into_iter().flatten();
    ask.prompt_tokens +=
        system.filter_map(|block| block["text"].as_str()).map(count_tokens).sum::<u64>();
    let tools = &body["toolConfig"];
    for tool in tools["tools"].as_array().into_iter().flatten() {
        let spec = &tool["toolSpec"];
        // Cache points stand among the tools.
        if !spec.is_null() {
            ask.offer(&spec["name"], &spec["inputSchema"]["json"], spec);
        }
    }
    let choice = &tools["toolChoice"];
    ask.tool_choice = match (choice.get("any"), choice["tool"]["name"].as_str()) {
        (Some(_), _) => ToolChoice::Required,
        (_, Some(name)) => ToolChoice::Named(name.to_owned()),
        _ => ToolChoice::Auto,
    };
    let config = &body["inferenceConfig"];
    ask.max_tokens = optional_number(config, "maxTokens")?;
    ask.stop = texts(config.get("stopSequences"));
    let extra = &body["additionalModelRequestFields"];
    ask.think = matches!(extra["thinking"]["type"].as_str(), Some("enabled" | "adaptive"))
        || extra.get("reasoning_config").is_some();
    Ok(ask)
}

/// A block as Anthropic would write it, which the common reader understands.
fn part(part: &Value) -> Value {
    if let Some(text) = part["text"].as_str() {
        return json!({"type": "text", "text": text});
    }
    if let Some(call) = part.get("toolUse") {
        return json!({"type": "tool_use", "name": call["name"], "input": call["input"]});
    }
    if let Some(result) = part.get("toolResult") {
        let texts: Vec<Value> = result["content"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|part| match (part["text"].as_str(), part.get("json")) {
                (Some(text), _) => json!({"text": text}),
                (None, Some(value)) => json!({"text": value.to_string()}),
                (None, None) => json!({}),
            })
            .collect();
        return json!({"type": "tool_result", "content": texts});
    }
    if let Some(thought) = part["reasoningContent"]["reasoningText"]["text"].as_str() {
        return json!({"type": "thinking", "thinking": thought});
    }
    match part.get("cachePoint") {
        Some(_) => json!({"type": "text", "text": ""}),
        None => json!({"type": "image"}),
    }
}

/// Counts the tokens of a request.
pub(crate) fn count(body: &Value, model: &str) -> Result<Value, Problem> {
    let input = &body["input"];
    let ask = match input["invokeModel"]["body"].as_str() {
        Some(encoded) => {
            let inner = from_base64(encoded).and_then(|json| serde_json::from_slice(&json).ok());
            let inner: Value = inner.ok_or_else(|| Problem::invalid("the body is not JSON"))?;
            anthropic::read(&inner, Some(model), false)?
        }
        None => read(&input["converse"], model, false)?,
    };
    Ok(json!({"inputTokens": ask.prompt_tokens}))
}

/// Answers an InvokeModel request for a model that does not talk; none if it is for one that does.
pub(crate) fn invoke_other(body: &Value) -> Option<Result<(Value, String, u64), Problem>> {
    if body.get("inputText").is_some() {
        let titan = || {
            let text = required_text(body, "inputText")?;
            let dimensions = match optional_number(body, "dimensions")?.unwrap_or(16) {
                dimensions @ 1..=1024 => dimensions as usize,
                _ => return Err(Problem::invalid("dimensions must be from 1 to 1024")),
            };
            let (vector, tokens) = (numbers(&embedding(&text, dimensions)), count_tokens(&text));
            let answer = json!({
                "embedding": vector,
                "embeddingsByType": {"float": vector},
                "inputTextTokenCount": tokens,
            });
            Ok((answer, text, tokens))
        };
        return Some(titan());
    }
    body.get("texts").map(|_| cohere::embed(body))
}

fn stop_reason(answer: &Answer) -> &'static str {
    match answer.finish {
        Some(Finish::Length) => "max_tokens",
        Some(Finish::ToolCalls) => "tool_use",
        Some(Finish::ContentFilter) => "content_filtered",
        _ if answer.stopped_by.is_some() => "stop_sequence",
        _ => "end_turn",
    }
}

/// As Anthropic does, Converse counts what came from the cache apart.
fn report(usage: &Usage) -> Value {
    json!({
        "inputTokens": usage.prompt.saturating_sub(usage.cached),
        "outputTokens": usage.completion,
        "totalTokens": usage.prompt.saturating_add(usage.completion),
        "cacheReadInputTokens": usage.cached,
        "cacheWriteInputTokens": 0,
    })
}

fn tool_use(meta: &Meta, place: usize, call: &Call) -> Value {
    json!({"toolUseId": format!("tooluse_sim_{}_{place}", meta.number), "name": call.name})
}

/// A whole answer.
pub(crate) fn converse(meta: &Meta, answer: &Answer, usage: &Usage) -> Value {
    let mut content = Vec::new();
    if !answer.thinking.is_empty() {
        let thought = json!({"text": answer.thinking, "signature": anthropic::SIGNATURE});
        content.push(json!({"reasoningContent": {"reasoningText": thought}}));
    }
    if !answer.text.is_empty() {
        content.push(json!({"text": answer.text}));
    }
    for (place, call) in answer.calls.iter().enumerate() {
        let mut block = tool_use(meta, place, call);
        block["input"] = serde_json::from_str(&call.arguments).unwrap_or(Value::Object(Map::new()));
        content.push(json!({"toolUse": block}));
    }
    let mut whole = json!({
        "output": {"message": {"role": "assistant", "content": content}},
        "stopReason": stop_reason(answer),
        "metrics": {"latencyMs": 1},
    });
    if !meta.no_usage {
        whole["usage"] = report(usage);
    }
    whole
}

/// The kind of the content block that is open.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Block {
    Thinking,
    Text,
    Tool(usize),
}

/// Writes the frames of a Converse stream.
pub(crate) struct Events {
    meta: Meta,
    /// The index of the next content block.
    next: usize,
    open: Option<Block>,
}

impl Events {
    pub(crate) fn new(meta: Meta) -> Events {
        Events { meta, next: 0, open: None }
    }

    fn piece(&self, delta: Value) -> Vec<u8> {
        let index = self.next.saturating_sub(1);
        event("contentBlockDelta", &json!({"contentBlockIndex": index, "delta": delta}))
    }

    fn close(&mut self, events: &mut dialect::Events) {
        let Some(block) = self.open.take() else { return };
        if block == Block::Thinking {
            let signature = json!({"signature": anthropic::SIGNATURE});
            events.push(self.piece(json!({"reasoningContent": signature})));
        }
        let index = self.next.saturating_sub(1);
        events.push(event("contentBlockStop", &json!({"contentBlockIndex": index})));
    }

    /// Enters a block of this kind. Only tools have an event for the beginning.
    fn enter(&mut self, kind: Block, start: Option<Value>, events: &mut dialect::Events) {
        if self.open == Some(kind) {
            return;
        }
        self.close(events);
        if let Some(start) = start {
            let start = json!({"contentBlockIndex": self.next, "start": {"toolUse": start}});
            events.push(event("contentBlockStart", &start));
        }
        self.open = Some(kind);
        self.next += 1;
    }
}

impl EventWriter for Events {
    fn open(&mut self, _: u32, _: &Usage, _: bool) -> dialect::Events {
        vec![event("messageStart", &json!({"role": "assistant"}))]
    }

    fn delta(&mut self, _: u32, delta: &Delta<'_>, _: &Usage) -> dialect::Events {
        let mut events = Vec::new();
        match delta {
            Delta::Thinking(piece) => {
                self.enter(Block::Thinking, None, &mut events);
                events.push(self.piece(json!({"reasoningContent": {"text": piece}})));
            }
            Delta::Text(piece) => {
                self.enter(Block::Text, None, &mut events);
                events.push(self.piece(json!({"text": piece})));
            }
            Delta::Call(place, call) => {
                let start = tool_use(&self.meta, *place, call);
                self.enter(Block::Tool(*place), Some(start), &mut events);
            }
            Delta::Arguments(_, piece) => {
                events.push(self.piece(json!({"toolUse": {"input": piece}})));
            }
        }
        events
    }

    fn finish(&mut self, _: u32, end: &Answer, _: &Usage, no_finish: bool) -> dialect::Events {
        let mut events = Vec::new();
        self.close(&mut events);
        if !no_finish {
            events.push(event("messageStop", &json!({"stopReason": stop_reason(end)})));
        }
        events
    }

    fn usage(&mut self, usage: &Usage) -> dialect::Events {
        match self.meta.no_usage {
            true => Vec::new(),
            false => {
                let metrics = json!({"latencyMs": 1});
                vec![event("metadata", &json!({"usage": report(usage), "metrics": metrics}))]
            }
        }
    }

    fn done(&mut self) -> Vec<u8> {
        Vec::new()
    }
}

/// Writes Anthropic's events, each as the payload of a frame.
pub(crate) struct Wrapped(anthropic::Events);

impl Wrapped {
    pub(crate) fn new(meta: Meta) -> Wrapped {
        Wrapped(anthropic::Events::new(meta))
    }
}

fn wrap(events: dialect::Events) -> dialect::Events {
    events.iter().map(|event| wrap_one(event)).collect()
}

fn wrap_one(sse: &[u8]) -> Vec<u8> {
    let text = String::from_utf8_lossy(sse);
    let data = text.lines().find_map(|line| line.strip_prefix("data: ")).unwrap_or_default();
    event("chunk", &json!({"bytes": base64(data.as_bytes())}))
}

impl EventWriter for Wrapped {
    fn open(&mut self, choice: u32, usage: &Usage, calls_only: bool) -> dialect::Events {
        wrap(self.0.open(choice, usage, calls_only))
    }

    fn delta(&mut self, choice: u32, delta: &Delta<'_>, usage: &Usage) -> dialect::Events {
        wrap(self.0.delta(choice, delta, usage))
    }

    fn finish(
        &mut self,
        choice: u32,
        end: &Answer,
        usage: &Usage,
        no_finish: bool,
    ) -> dialect::Events {
        wrap(self.0.finish(choice, end, usage, no_finish))
    }

    fn usage(&mut self, usage: &Usage) -> dialect::Events {
        wrap(self.0.usage(usage))
    }

    fn done(&mut self) -> Vec<u8> {
        wrap_one(&self.0.done())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_have_the_sums_and_lengths_they_should() {
        let frame = frame(&[("event-type", "application/json")], b"{'foo':'bar'}");
        let total = u32::from_be_bytes([frame[0], frame[1], frame[2], frame[3]]);
        assert_eq!(total as usize, frame.len());
        let body = &frame[..frame.len() - 4];
        assert_eq!(frame[frame.len() - 4..], crc32(body).to_be_bytes());
        // The empty frame is one of the test vectors of Amazon's SDKs.
        let empty = [0, 0, 0, 16, 0, 0, 0, 0, 0x05, 0xc2, 0x48, 0xeb, 0x7d, 0x98, 0xc8, 0xff];
        assert_eq!(super::frame(&[], b""), empty);
    }
}
