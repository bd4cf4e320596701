//! Turning a stream into one answer and one answer into a stream, for the cache: whichever form
//! was stored can serve a client that wants the other.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde_json::{Map, Value, json};

use super::response::{ChatChunk, ChunkChoice, ToolCallDelta};
use super::usage::UsageObject;
use crate::sse::{self, Parser, Splitter, TooLong};
use crate::usage::Usage;

/// Why the events of a stream could not be read to the end.
struct Stop;

impl From<TooLong> for Stop {
    fn from(_: TooLong) -> Self {
        Stop
    }
}

/// Puts the events of a whole stream together as the answer it would have been without `stream`.
///
/// `None` where the stream is not whole, holds an error, or is none of chat or legacy completion.
pub fn completion_from_events(stream: &[u8]) -> Option<Vec<u8>> {
    let mut whole = Whole::default();
    let mut done = false;
    Parser::default()
        .push(stream, |event| {
            if event.data == b"[DONE]" {
                done = true;
                return Ok(());
            }
            let chunk: ChatChunk = serde_json::from_slice(event.data).map_err(|_| Stop)?;
            if chunk.extra.get("error").is_some_and(|error| !error.is_null()) {
                return Err(Stop);
            }
            whole.add(chunk);
            Ok(())
        })
        .ok()?;
    if !done || whole.choices.is_empty() {
        return None;
    }
    serde_json::to_vec(&whole.into_value()).ok()
}

/// The answer as far as it has been put together.
#[derive(Default)]
struct Whole {
    head: Option<ChatChunk>,
    extra: Map<String, Value>,
    usage: Option<UsageObject>,
    choices: BTreeMap<u64, WholeChoice>,
}

#[derive(Default)]
struct WholeChoice {
    /// `None` until a chunk has text, so that an answer of tool calls alone has null content.
    content: Option<String>,
    text: Option<String>,
    refusal: Option<String>,
    reasoning: Option<String>,
    role: Option<String>,
    tool_calls: BTreeMap<u64, ToolCallDelta>,
    thinking_blocks: Vec<Value>,
    logprobs: Option<Value>,
    finish_reason: Option<String>,
    message_extra: Map<String, Value>,
    extra: Map<String, Value>,
}

fn append(to: &mut Option<String>, more: Option<String>) {
    match (to.as_mut(), more) {
        (Some(text), Some(more)) => text.push_str(&more),
        (None, more) => *to = more,
        _ => {}
    }
}

impl Whole {
    fn add(&mut self, mut chunk: ChatChunk) {
        for choice in std::mem::take(&mut chunk.choices) {
            self.choices.entry(choice.index).or_default().add(choice);
        }
        if let Some(usage) = chunk.usage.take() {
            self.usage = Some(usage);
        }
        for (key, value) in std::mem::take(&mut chunk.extra) {
            // Padding against traffic analysis (platform.openai.com, `include_obfuscation`, 2026-11).
            if !value.is_null() && key != "obfuscation" {
                self.extra.insert(key, value);
            }
        }
        // Azure's first event has its own empty id and model.
        if self.head.as_ref().is_none_or(|head| head.id.is_empty()) {
            self.head = Some(chunk);
        }
    }

    fn into_value(self) -> Value {
        let head = self.head.unwrap_or_default();
        // Together sends `text` beside `delta` in chat chunks (seen 2026-11), so it tells only where
        // `object` does not.
        let legacy = head.object == "text_completion"
            || (head.object != "chat.completion.chunk"
                && self.choices.values().all(|choice| choice.text.is_some()));
        let mut body = Map::new();
        body.insert("id".into(), head.id.into());
        let object = if legacy { "text_completion" } else { "chat.completion" };
        body.insert("object".into(), object.into());
        body.insert("created".into(), head.created.into());
        body.insert("model".into(), head.model.into());
        let choices =
            self.choices.into_iter().map(|(index, choice)| choice.into_value(index, legacy));
        body.insert("choices".into(), choices.collect());
        if let Some(usage) = self.usage {
            body.insert("usage".into(), serde_json::to_value(usage).unwrap_or_default());
        }
        body.extend(self.extra);
        Value::Object(body)
    }
}

impl WholeChoice {
    fn add(&mut self, choice: ChunkChoice) {
        let delta = choice.delta;
        append(&mut self.content, delta.content);
        append(&mut self.refusal, delta.refusal);
        append(&mut self.reasoning, delta.reasoning_content);
        if self.role.is_none() {
            self.role = delta.role;
        }
        for piece in delta.tool_calls.unwrap_or_default() {
            match self.tool_calls.get_mut(&piece.index) {
                None => {
                    self.tool_calls.insert(piece.index, piece);
                }
                Some(call) => merge_tool_call(call, piece),
            }
        }
        for block in delta.thinking_blocks.unwrap_or_default() {
            merge_thinking(&mut self.thinking_blocks, block);
        }
        for (key, value) in delta.extra {
            match (self.message_extra.get_mut(&key), value) {
                (_, Value::Null) => {}
                (known, Value::Array(pieces)) if key == "reasoning_details" => {
                    let details = match known {
                        Some(known) => known,
                        None => self.message_extra.entry(key).or_insert(json!([])),
                    };
                    if let Value::Array(details) = details {
                        pieces.into_iter().for_each(|piece| merge_detail(details, piece));
                    }
                }
                (Some(Value::String(text)), Value::String(more)) => text.push_str(&more),
                (Some(Value::Array(items)), Value::Array(more)) => items.extend(more),
                (_, value) => {
                    self.message_extra.insert(key, value);
                }
            }
        }
        if let Some(more) = choice.logprobs.filter(|logprobs| !logprobs.is_null()) {
            match &mut self.logprobs {
                None => self.logprobs = Some(more),
                Some(logprobs) => merge_logprobs(logprobs, more),
            }
        }
        if choice.finish_reason.is_some() {
            self.finish_reason = choice.finish_reason;
        }
        for (key, value) in choice.extra {
            match (key.as_str(), value) {
                ("text", Value::String(more)) => append(&mut self.text, Some(more)),
                (_, Value::Null) => {}
                (_, value) => {
                    self.extra.insert(key, value);
                }
            }
        }
    }

    fn into_value(self, index: u64, legacy: bool) -> Value {
        let mut choice = Map::new();
        choice.insert("index".into(), index.into());
        if legacy {
            choice.insert("text".into(), self.text.unwrap_or_default().into());
        } else {
            let mut message = Map::new();
            message.insert("role".into(), self.role.unwrap_or_else(|| "assistant".into()).into());
            // Some servers begin with an empty piece of content even if tool calls are all there is.
            let content =
                self.content.filter(|text| !text.is_empty() || self.tool_calls.is_empty());
            message.insert("content".into(), content.into());
            message.insert("refusal".into(), self.refusal.into());
            if let Some(reasoning) = self.reasoning {
                message.insert("reasoning_content".into(), reasoning.into());
            }
            if !self.thinking_blocks.is_empty() {
                message.insert("thinking_blocks".into(), self.thinking_blocks.into());
            }
            if !self.tool_calls.is_empty() {
                let calls = self.tool_calls.into_values().map(|call| {
                    let function = call.function.unwrap_or_default();
                    let mut whole = call.extra;
                    whole.insert("id".into(), call.id.unwrap_or_default().into());
                    let kind = call.kind.unwrap_or_else(|| "function".into());
                    whole.insert("type".into(), kind.into());
                    let function = json!({
                        "name": function.name.unwrap_or_default(),
                        "arguments": function.arguments.unwrap_or_default(),
                    });
                    whole.insert("function".into(), function);
                    Value::Object(whole)
                });
                message.insert("tool_calls".into(), calls.collect());
            }
            message.extend(self.message_extra);
            choice.insert("message".into(), Value::Object(message));
        }
        choice.insert("logprobs".into(), self.logprobs.unwrap_or_default());
        choice.insert("finish_reason".into(), self.finish_reason.into());
        choice.extend(self.extra);
        Value::Object(choice)
    }
}

fn merge_tool_call(call: &mut ToolCallDelta, piece: ToolCallDelta) {
    if call.id.is_none() {
        call.id = piece.id;
    }
    if call.kind.is_none() {
        call.kind = piece.kind;
    }
    if let Some(more) = piece.function {
        let function = call.function.get_or_insert_default();
        if function.name.as_ref().is_none_or(String::is_empty) {
            function.name = more.name;
        }
        append(&mut function.arguments, more.arguments);
    }
    // Gemini's signature of the call is among it.
    call.extra.extend(piece.extra.into_iter().filter(|(_, value)| !value.is_null()));
}

/// Adds a piece of OpenRouter's `reasoning_details`: what has the same place and type is the same
/// block, whose text comes in pieces and whose signature comes last
/// (<https://openrouter.ai/docs/use-cases/reasoning-tokens>, 2026-11). Clients hand the blocks back
/// as they are.
fn merge_detail(details: &mut Vec<Value>, piece: Value) {
    let same = |name: &str, a: &Value, b: &Value| a.get(name) == b.get(name);
    let open = details.last_mut().filter(|last| {
        last.is_object() && same("type", last, &piece) && same("index", last, &piece)
    });
    let (Some(Value::Object(open)), Value::Object(_)) = (open, &piece) else {
        details.push(piece);
        return;
    };
    let Value::Object(piece) = piece else { return };
    for (name, value) in piece {
        let grows = matches!(name.as_str(), "text" | "summary" | "data");
        match (open.get_mut(&name), value) {
            (_, Value::Null) => {}
            (Some(Value::String(text)), Value::String(more)) if grows => text.push_str(&more),
            (_, value) => {
                open.insert(name, value);
            }
        }
    }
}

/// Adds a piece of signed thinking: text is appended to the block that is open, and a signature
/// closes it.
fn merge_thinking(blocks: &mut Vec<Value>, piece: Value) {
    let open = blocks.last_mut().filter(|last| {
        last["type"] == "thinking"
            && piece["type"] == "thinking"
            && last["signature"].as_str().is_none_or(str::is_empty)
    });
    let Some(open) = open else {
        blocks.push(piece);
        return;
    };
    let text = |value: &Value| value["thinking"].as_str().unwrap_or_default().to_owned();
    let joined = text(open) + &text(&piece);
    open["thinking"] = joined.into();
    if let Some(signature) = piece["signature"].as_str().filter(|signature| !signature.is_empty()) {
        open["signature"] = signature.into();
    }
}

/// Appends the lists of one `logprobs` object to another's.
fn merge_logprobs(logprobs: &mut Value, more: Value) {
    let (Value::Object(all), Value::Object(more)) = (logprobs, more) else { return };
    for (key, value) in more {
        match (all.get_mut(&key), value) {
            (_, Value::Null) => {}
            (Some(Value::Array(items)), Value::Array(more)) => items.extend(more),
            (_, value) => {
                all.insert(key, value);
            }
        }
    }
}

/// Writes a whole answer as the stream it would have been, ending in `[DONE]`.
///
/// Text comes in pieces, as a client expects of a stream; with `include_usage` the usage follows
/// in an event of its own. `None` where the body is none of chat or legacy completion.
pub fn events_from_completion(body: &[u8], include_usage: bool) -> Option<Vec<u8>> {
    let mut body: Map<String, Value> = serde_json::from_slice(body).ok()?;
    let Some(Value::Array(choices)) = body.remove("choices") else { return None };
    let usage = body.remove("usage").filter(|usage| !usage.is_null());
    let legacy = body.get("object").is_some_and(|object| object == "text_completion");
    if !legacy {
        body.insert("object".into(), "chat.completion.chunk".into());
    }
    let mut out = Vec::new();
    let mut send = |choices: Value, usage: Option<&Value>| {
        let mut chunk = body.clone();
        chunk.insert("choices".into(), choices);
        if include_usage {
            chunk.insert("usage".into(), usage.cloned().unwrap_or_default());
        }
        if let Ok(json) = serde_json::to_vec(&chunk) {
            sse::write_data(&mut out, &json);
        }
    };
    for choice in choices {
        let Value::Object(mut choice) = choice else { return None };
        let index = choice.remove("index").unwrap_or_else(|| 0.into());
        let finish = choice.remove("finish_reason").unwrap_or_default();
        let mut logprobs = choice.remove("logprobs").filter(|logprobs| !logprobs.is_null());
        if legacy {
            let text = choice.remove("text")?;
            for piece in pieces(text.as_str()?) {
                let logprobs = logprobs.take().unwrap_or_default();
                send(
                    json!([{"index": index, "text": piece, "logprobs": logprobs, "finish_reason": null}]),
                    None,
                );
            }
            send(
                json!([{"index": index, "text": "", "logprobs": null, "finish_reason": finish}]),
                None,
            );
            continue;
        }
        let Some(Value::Object(message)) = choice.remove("message") else { return None };
        let mut delta = |delta: Value| {
            let mut choice = json!({"index": index, "delta": delta, "finish_reason": null});
            if delta_has_text(&choice)
                && let Some(logprobs) = logprobs.take()
            {
                choice["logprobs"] = logprobs;
            }
            send(json!([choice]), None);
        };
        message_deltas(message, &mut delta);
        let mut last = json!({"index": index, "delta": {}, "finish_reason": finish});
        if let Value::Object(last) = &mut last {
            last.extend(choice);
        }
        send(json!([last]), None);
    }
    if include_usage && let Some(usage) = usage {
        send(json!([]), Some(&usage));
    }
    sse::write_done(&mut out);
    Some(out)
}

fn delta_has_text(choice: &Value) -> bool {
    choice["delta"]["content"].as_str().is_some_and(|text| !text.is_empty())
}

/// Gives `send` the deltas that make up a message, in the order a provider would send them.
fn message_deltas(mut message: Map<String, Value>, send: &mut impl FnMut(Value)) {
    let role = message.remove("role").unwrap_or_else(|| "assistant".into());
    let content = message.remove("content").unwrap_or_default();
    let has_content = content.is_string();
    send(json!({"role": role, "content": if has_content { json!("") } else { Value::Null }}));
    if let Some(Value::String(text)) = message.remove("reasoning_content") {
        pieces(&text).for_each(|piece| send(json!({"reasoning_content": piece})));
    }
    // The other name for it, and what belongs to it: before the text, as the model thought it.
    if let Some(Value::String(text)) = message.remove("reasoning") {
        pieces(&text).for_each(|piece| send(json!({"reasoning": piece})));
    }
    for name in ["reasoning_details", "thinking_blocks"] {
        if let Some(blocks @ Value::Array(_)) = message.remove(name) {
            let mut delta = Map::new();
            delta.insert(name.into(), blocks);
            send(Value::Object(delta));
        }
    }
    if let Some(text) = content.as_str() {
        pieces(text).for_each(|piece| send(json!({"content": piece})));
    }
    if let Some(Value::String(text)) = message.remove("refusal") {
        pieces(&text).for_each(|piece| send(json!({"refusal": piece})));
    }
    if let Some(Value::Array(calls)) = message.remove("tool_calls") {
        for (index, call) in calls.into_iter().enumerate() {
            // A stored answer is a provider's, which may have sent anything.
            let Value::Object(mut call) = call else { continue };
            let mut arguments = Value::Null;
            if let Some(Value::Object(function)) = call.get_mut("function") {
                arguments = function.insert("arguments".into(), "".into()).unwrap_or_default();
            }
            call.insert("index".into(), index.into());
            send(json!({"tool_calls": [call]}));
            for piece in pieces(arguments.as_str().unwrap_or_default()) {
                send(json!({"tool_calls": [{"index": index, "function": {"arguments": piece}}]}));
            }
        }
    }
    message.retain(|_, value| !value.is_null());
    if !message.is_empty() {
        send(Value::Object(message));
    }
}

/// Cuts text into pieces the size of a few words; longer ones where there is much of it, so that
/// the events stay few.
fn pieces(text: &str) -> impl Iterator<Item = &str> {
    let size = (text.len() / 256).max(24);
    let mut rest = text;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let mut end = size.min(rest.len());
        while !rest.is_char_boundary(end) {
            end += 1;
        }
        let (piece, after) = rest.split_at(end);
        rest = after;
        Some(piece)
    })
}

/// A stored stream without the event that carries only usage, for a client that did not ask for it.
pub fn strip_usage_event(stream: &Bytes) -> Bytes {
    let mut kept: Vec<Bytes> = Vec::new();
    let mut stripped = false;
    let mut splitter = Splitter::default();
    let split = splitter.push(stream, |block| {
        if is_usage_event(&block) {
            stripped = true;
        } else {
            kept.push(block);
        }
        Ok::<_, TooLong>(())
    });
    if !stripped || split.is_err() {
        return stream.clone();
    }
    kept.push(Bytes::from(splitter.take_held()));
    Bytes::from(kept.concat())
}

/// A stored stream with an event that carries the usage, if it has none: before `[DONE]`, with the
/// id, model and time of the stream's last event.
pub fn add_usage_event(stream: &Bytes, usage: &Usage) -> Bytes {
    let mut last: Option<ChatChunk> = None;
    let mut present = false;
    let mut before_done = 0;
    let mut at = 0;
    let mut scratch = Vec::new();
    let split = Splitter::default().push(stream, |block| {
        if let Some(event) = sse::read_block(&block, &mut scratch) {
            if event.data == b"[DONE]" {
                before_done = at;
            } else {
                present |= is_usage_event(&block);
                last = serde_json::from_slice(event.data).ok().or(last.take());
            }
        }
        at += block.len();
        Ok::<_, TooLong>(())
    });
    let Some(mut chunk) = last else { return stream.clone() };
    if present || split.is_err() || before_done == 0 {
        return stream.clone();
    }
    chunk.choices.clear();
    chunk.extra.retain(|key, _| matches!(key.as_str(), "system_fingerprint" | "service_tier"));
    chunk.usage = Some(UsageObject::from(usage));
    let Ok(json) = serde_json::to_vec(&chunk) else { return stream.clone() };
    let mut out = Vec::with_capacity(stream.len() + json.len() + 8);
    out.extend_from_slice(&stream[..before_done]);
    sse::write_data(&mut out, &json);
    out.extend_from_slice(&stream[before_done..]);
    Bytes::from(out)
}

/// Whether an event has usage and no choices.
fn is_usage_event(block: &[u8]) -> bool {
    if memchr::memmem::find(block, b"\"usage\"").is_none() {
        return false;
    }
    let mut scratch = Vec::new();
    sse::read_block(block, &mut scratch)
        .and_then(|event| serde_json::from_slice::<ChatChunk>(event.data).ok())
        .is_some_and(|chunk| chunk.usage.is_some() && chunk.choices.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Writes `message` as a stream and reads it back.
    fn check_round_trip(choice: Value, object: &str) {
        let body = json!({
            "id": "c1", "object": object, "created": 7, "model": "m", "choices": [choice],
            "usage": {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7},
            "system_fingerprint": "fp",
        });
        let stream = events_from_completion(body.to_string().as_bytes(), true).expect("a stream");
        let back = completion_from_events(&stream).expect("an answer");
        assert_eq!(serde_json::from_slice::<Value>(&back).expect("JSON"), body);
    }

    #[test]
    fn an_answer_survives_becoming_a_stream() {
        let text = "Grüße, 世界! ".repeat(40);
        check_round_trip(
            json!({"index": 0, "finish_reason": "stop", "logprobs": {"content": [{"token": "a"}], "refusal": null},
                "message": {"role": "assistant", "content": text, "refusal": null,
                    "reasoning_content": "Let me see.",
                    "thinking_blocks": [{"type": "thinking", "thinking": "x", "signature": "s"}]}}),
            "chat.completion",
        );
        check_round_trip(
            json!({"index": 0, "finish_reason": "tool_calls", "logprobs": null,
                "message": {"role": "assistant", "content": null, "refusal": null, "tool_calls": [
                    {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{\"city\":\"Paris, the capital of France\"}"}},
                    {"id": "b", "type": "function", "function": {"name": "g", "arguments": "{}"}}]}}),
            "chat.completion",
        );
        check_round_trip(
            json!({"index": 0, "finish_reason": "length", "logprobs": null, "text": "once upon"}),
            "text_completion",
        );
    }

    #[test]
    fn openrouters_reasoning_survives_becoming_a_stream() {
        check_round_trip(
            json!({"index": 0, "finish_reason": "stop", "logprobs": null,
                "message": {"role": "assistant", "content": "4", "refusal": null,
                    "reasoning": "Two and two are four, as far as I remember.",
                    "reasoning_details": [
                        {"type": "reasoning.text", "text": "Two", "signature": "s", "index": 0},
                        {"type": "reasoning.encrypted", "data": "d", "id": "e", "index": 1}]}}),
            "chat.completion",
        );
        let body = json!({"object": "chat.completion", "choices": [{"index": 0, "message": {
            "content": "4", "reasoning": "2", "reasoning_details": [{"type": "reasoning.text"}]}}]});
        let stream = events_from_completion(body.to_string().as_bytes(), false).expect("a stream");
        let stream = String::from_utf8(stream).expect("text");
        let at = |part: &str| stream.find(part).unwrap_or_else(|| panic!("{part}: {stream}"));
        assert!(at("\"reasoning\":\"2\"") < at("\"content\":\"4\""));
        assert!(at("reasoning_details") < at("\"content\":\"4\""));
    }

    fn whole_of(deltas: &[Value]) -> Value {
        let mut stream = Vec::new();
        for delta in deltas {
            let chunk = json!({"object": "chat.completion.chunk",
                "choices": [{"index": 0, "delta": delta}]});
            sse::write_data(&mut stream, chunk.to_string().as_bytes());
        }
        sse::write_done(&mut stream);
        let whole = completion_from_events(&stream).expect("an answer");
        let mut whole: Value = serde_json::from_slice(&whole).expect("JSON");
        whole["choices"][0]["message"].take()
    }

    #[test]
    fn openrouters_reasoning_is_put_together_from_its_pieces() {
        let piece = |text: &str| {
            json!({"reasoning": text, "reasoning_details": [
                {"type": "reasoning.text", "text": text, "format": "f", "index": 0}]})
        };
        let message = whole_of(&[
            piece("a"),
            piece("b"),
            json!({"reasoning_details": [
                {"type": "reasoning.text", "signature": "s", "text": null, "index": 0}]}),
            json!({"reasoning_details": [
                {"type": "reasoning.encrypted", "data": "x", "id": "e", "index": 1}]}),
            json!({"content": "c"}),
        ]);
        assert_eq!(message["reasoning"], "ab");
        assert_eq!(
            message["reasoning_details"],
            json!([
                {"type": "reasoning.text", "text": "ab", "format": "f", "index": 0, "signature": "s"},
                {"type": "reasoning.encrypted", "data": "x", "id": "e", "index": 1},
            ])
        );
    }

    #[test]
    fn signature_of_a_call_survives_being_put_together() {
        let google = json!({"google": {"thought_signature": "s"}});
        let message = whole_of(&[
            json!({"tool_calls": [{"index": 0, "id": "a", "type": "function",
                "function": {"name": "f", "arguments": ""}}]}),
            json!({"tool_calls": [{"index": 0, "extra_content": google,
                "function": {"arguments": "{}"}}]}),
        ]);
        assert_eq!(message["tool_calls"][0]["extra_content"], google);
        assert_eq!(message["tool_calls"][0]["function"]["arguments"], "{}");
    }

    #[test]
    fn a_broken_stream_is_no_answer() {
        let chunk = r#"data: {"choices":[{"index":0,"delta":{"content":"x"}}]}"#;
        assert_eq!(completion_from_events(format!("{chunk}\n\n").as_bytes()), None);
        let error = format!("{chunk}\n\ndata: {{\"error\":{{}}}}\n\ndata: [DONE]\n\n");
        assert_eq!(completion_from_events(error.as_bytes()), None);
        assert_eq!(completion_from_events(b"data: [DONE]\n\n"), None);
        assert_eq!(events_from_completion(b"{\"data\":[]}", true), None);
    }

    #[test]
    fn signed_thinking_is_put_together_from_its_pieces() {
        let mut blocks = Vec::new();
        for piece in [
            json!({"type": "thinking", "thinking": "a", "signature": ""}),
            json!({"type": "thinking", "thinking": "b", "signature": ""}),
            json!({"type": "thinking", "thinking": "", "signature": "s1"}),
            json!({"type": "thinking", "thinking": "c", "signature": ""}),
            json!({"type": "redacted_thinking", "data": "d"}),
        ] {
            merge_thinking(&mut blocks, piece);
        }
        let expect = json!([
            {"type": "thinking", "thinking": "ab", "signature": "s1"},
            {"type": "thinking", "thinking": "c", "signature": ""},
            {"type": "redacted_thinking", "data": "d"},
        ]);
        assert_eq!(Value::from(blocks), expect);
    }

    proptest::proptest! {
        #[test]
        fn no_answer_makes_it_panic(
            member in proptest::sample::select(vec![
                "role", "content", "tool_calls", "thinking_blocks", "refusal", "reasoning_content", "x",
                "reasoning", "reasoning_details",
            ]),
            value in proptest::sample::select(vec![
                "null", "1", "\"x\"", "[]", "{}", "[1]", "[null]", "[\"x\"]", "[{}]",
                "[{\"function\":1}]", "[{\"function\":{\"arguments\":{}}}]", "[{\"type\":\"thinking\"}]",
                "[{\"type\":\"thinking\",\"thinking\":7},{\"type\":\"thinking\",\"signature\":[]}]",
            ]),
            usage in proptest::sample::select(vec!["null", "{}", "1", "{\"prompt_tokens\":-1}"]),
        ) {
            for kind in ["message", "delta"] {
                let body = format!(
                    "{{\"choices\":[{{\"index\":0,\"{kind}\":{{\"{member}\":{value}}}}}],\"usage\":{usage}}}"
                );
                let stream = format!("data: {body}\n\ndata: {body}\n\ndata: [DONE]\n\n");
                let _ = completion_from_events(stream.as_bytes());
                let _ = strip_usage_event(&Bytes::from(stream));
                if let Some(stream) = events_from_completion(body.as_bytes(), true) {
                    let _ = completion_from_events(&stream);
                }
            }
        }
    }

    #[test]
    fn usage_events_are_taken_out_and_put_in() {
        let chunk = r#"data: {"id":"c","object":"chat.completion.chunk","created":1,"model":"m","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}"#;
        let plain = Bytes::from(format!("{chunk}\n\ndata: [DONE]\n\n"));
        let usage = Usage { prompt_tokens: 3, completion_tokens: 4, ..Usage::default() };
        let with = add_usage_event(&plain, &usage);
        let text = String::from_utf8_lossy(&with).into_owned();
        assert!(text.contains(r#""choices":[],"usage":{"prompt_tokens":3"#), "{text}");
        assert!(text.ends_with("data: [DONE]\n\n"));
        assert_eq!(strip_usage_event(&with), plain);
        assert_eq!(strip_usage_event(&plain), plain);
        assert_eq!(add_usage_event(&with, &usage), with);
    }
}
