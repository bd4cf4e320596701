//! What Mistral does otherwise than OpenAI, in conversations and in answers.
//!
//! From <https://docs.mistral.ai/api/> and <https://docs.mistral.ai/capabilities/reasoning/>, read
//! 2026-11, and the errors people met: a tool call's id must have nine letters or digits
//! (`Tool call id was … but must be a-z, A-Z, 0-9, with a length of 9`), and members it does not know
//! are a 422 (`extra_forbidden`).

use std::borrow::Cow;

use memchr::memmem;
use serde_json::{Map, Value, json};
use tollway_wire::openai::usage_of_body;
use tollway_wire::sse::{self, Parser};
use tollway_wire::usage::Usage;

use crate::{Asked, DecodeError, Decoder};

use super::read_error;

/// Whether a model may answer with thinking, and takes it back in the conversation.
pub(super) fn reasons(model: &str) -> bool {
    ["magistral", "mistral-small", "mistral-medium"].iter().any(|part| model.contains(part))
}

/// Mistral's word for an effort: models that can reason do so, or not
/// (docs.mistral.ai/capabilities/reasoning, 2026-11). Magistral always does and has no such
/// parameter.
pub(super) fn effort(model: &str, effort: &str) -> Option<&'static str> {
    match effort {
        _ if !reasons(model) || model.contains("magistral") => None,
        "none" | "minimal" => Some("none"),
        _ => Some("high"),
    }
}

/// Members of a turn that OpenAI's clients hand back and Mistral refuses.
const REFUSED: &[&str] = &[
    "annotations",
    "audio",
    "extra_content",
    "function_call",
    "images",
    "provider_specific_fields",
    "reasoning",
    "refusal",
    "thinking_blocks",
];

/// The conversation as Mistral takes it, as JSON; `None` where it is fit already, which is told
/// without reading it.
///
/// This is done for clients of OpenAI's dialect as well: a conversation begun with another provider
/// is continued here when a fallback happens, and its ids are then not Mistral's. Ids that are fit
/// stay as they are.
pub(super) fn messages(raw: &[u8], model: &str) -> Option<Vec<u8>> {
    let suspects =
        ["\"tool_call", "\"reasoning_content\"", "\"name\"", "\"file\"", "\"input_audio\""];
    let has = |word: &&str| memmem::find(raw, word.as_bytes()).is_some();
    if !suspects.iter().any(has) && !REFUSED.iter().any(|name| has(&format!("\"{name}\"").as_str()))
    {
        return None;
    }
    let mut turns: Vec<Value> = serde_json::from_slice(raw).ok()?;
    let before = turns.clone();
    for turn in turns.iter_mut().filter_map(Value::as_object_mut) {
        adapt(turn, reasons(model));
    }
    if turns == before {
        return None;
    }
    serde_json::to_vec(&turns).ok()
}

fn adapt(turn: &mut Map<String, Value>, reasons: bool) {
    for name in REFUSED {
        turn.shift_remove(*name);
    }
    let role = turn.get("role").and_then(Value::as_str).unwrap_or_default();
    if role != "tool" {
        turn.shift_remove("name");
    }
    if let Some(Value::String(id)) = turn.get_mut("tool_call_id") {
        fit_id(id);
    }
    for call in turn.get_mut("tool_calls").and_then(Value::as_array_mut).into_iter().flatten() {
        if let Some(Value::String(id)) = call.get_mut("id") {
            fit_id(id);
        }
    }
    let thought = turn.shift_remove("reasoning_content");
    let thought = thought.as_ref().and_then(Value::as_str).filter(|text| !text.trim().is_empty());
    if let Some(thought) = thought.filter(|_| reasons) {
        let mut parts = match turn.shift_remove("content") {
            Some(Value::Array(parts)) => parts,
            Some(Value::String(text)) if !text.is_empty() => {
                vec![json!({"type": "text", "text": text})]
            }
            _ => Vec::new(),
        };
        parts.insert(
            0,
            json!({"type": "thinking", "thinking": [{"type": "text", "text": thought}]}),
        );
        turn.insert("content".into(), parts.into());
    }
    if let Some(Value::Array(parts)) = turn.get_mut("content") {
        parts.iter_mut().for_each(adapt_part);
    }
}

/// Documents and audio, whose parts Mistral has in another form (docs.mistral.ai,
/// `DocumentURLChunk`, `FileChunk`, `AudioChunk`, 2026-11).
fn adapt_part(part: &mut Value) {
    if let Some(file) = part.get("file") {
        let text = |name: &str| file.get(name).and_then(Value::as_str);
        let id = text("file_id");
        if let Some(url) = text("file_data").or(id.filter(|id| id.starts_with("http"))) {
            let mut document = json!({"type": "document_url", "document_url": url});
            if let Some(name) = text("filename") {
                document["document_name"] = name.into();
            }
            *part = document;
        } else if let Some(id) = id {
            *part = json!({"type": "file", "file_id": id});
        }
    } else if let Some(Value::String(data)) = part.pointer_mut("/input_audio/data") {
        *part = json!({"type": "input_audio", "input_audio": std::mem::take(data)});
    }
}

/// Makes an id one that Mistral takes. The same id always becomes the same one, so that calls and
/// their answers still belong together.
fn fit_id(id: &mut String) {
    const LETTERS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    if id.len() == 9 && id.bytes().all(|b| b.is_ascii_alphanumeric()) {
        return;
    }
    // FNV-1a. An id that meets another one by intent spoils nobody's conversation but its own.
    let mut hash = id.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    id.clear();
    for _ in 0..9 {
        id.push(char::from(LETTERS[(hash % 62) as usize]));
        hash /= 62;
    }
}

/// Decodes the answers of models that think: content that is a list of thinking and text.
pub(super) struct MistralDecoder {
    parser: Parser,
    state: State,
}

struct State {
    asked: Asked,
    usage: Option<Usage>,
    finished: bool,
    done: bool,
    events: bool,
}

impl MistralDecoder {
    pub(super) fn new(asked: Asked) -> Self {
        let state = State { asked, usage: None, finished: false, done: false, events: false };
        MistralDecoder { parser: Parser::default(), state }
    }
}

impl Decoder for MistralDecoder {
    fn whole(&mut self, body: &[u8]) -> Result<Vec<u8>, DecodeError> {
        let mut answer = object(body)?;
        if is_error(&answer) {
            return Err(DecodeError::Reported(read_error(200, body)));
        }
        if !answer.get("choices").is_some_and(Value::is_array) {
            return Err(DecodeError::Malformed("there are no choices".into()));
        }
        answer.insert("model".into(), self.state.asked.model.clone().into());
        for choice in choices(&mut answer) {
            if let Some(Value::Object(message)) = choice.get_mut("message") {
                plain_content(message, "\n");
            }
        }
        self.state.usage = usage_of_body(body);
        serde_json::to_vec(&answer).map_err(|error| DecodeError::Malformed(error.to_string()))
    }

    fn stream(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<(), DecodeError> {
        let state = &mut self.state;
        self.parser.push(bytes, |event| state.event(event.data.trim_ascii(), out))
    }

    fn finish(&mut self, out: &mut Vec<u8>) -> Result<(), DecodeError> {
        if self.state.done {
            return Ok(());
        }
        let held = self.parser.held().trim_ascii();
        let is_done =
            held.strip_prefix(b"data:").is_some_and(|data| data.trim_ascii() == b"[DONE]");
        if is_done || (held.is_empty() && self.state.finished) {
            self.state.done = true;
            out.extend_from_slice(sse::DONE);
            return Ok(());
        }
        // A server that fails early may answer bare JSON although a stream was asked for.
        if !self.state.events && held.starts_with(b"{") {
            return Err(match object(held) {
                Ok(answer) if is_error(&answer) => DecodeError::Reported(read_error(200, held)),
                _ => DecodeError::Malformed("not an event stream".into()),
            });
        }
        Err(DecodeError::Truncated)
    }

    fn usage(&self) -> Option<Usage> {
        self.state.usage
    }
}

impl State {
    fn event(&mut self, data: &[u8], out: &mut Vec<u8>) -> Result<(), DecodeError> {
        if self.done {
            return Ok(());
        }
        self.events = true;
        if data == b"[DONE]" {
            self.done = true;
            out.extend_from_slice(sse::DONE);
            return Ok(());
        }
        let mut chunk = object(data)?;
        if is_error(&chunk) {
            return Err(DecodeError::Reported(read_error(200, data)));
        }
        chunk.insert("model".into(), self.asked.model.clone().into());
        for choice in choices(&mut chunk) {
            if let Some(Value::Object(delta)) = choice.get_mut("delta") {
                plain_content(delta, "");
            }
            self.finished |= choice.get("finish_reason").is_some_and(|reason| !reason.is_null());
        }
        // Mistral's counts come with the last piece; OpenAI's in an event of their own, if asked for.
        let usage = chunk.shift_remove("usage").filter(Value::is_object);
        self.usage = usage_of_body(data).or(self.usage);
        let mut write = |chunk: &Map<String, Value>| {
            out.extend_from_slice(b"data: ");
            serde_json::to_writer(&mut *out, chunk)
                .map_err(|error| DecodeError::Malformed(error.to_string()))?;
            out.extend_from_slice(b"\n\n");
            Ok(())
        };
        if !self.asked.include_usage {
            return write(&chunk);
        }
        chunk.insert("usage".into(), Value::Null);
        write(&chunk)?;
        let Some(usage) = usage else { return Ok(()) };
        chunk.insert("choices".into(), json!([]));
        chunk.insert("usage".into(), usage);
        write(&chunk)
    }
}

fn object(json: &[u8]) -> Result<Map<String, Value>, DecodeError> {
    serde_json::from_slice(json)
        .map_err(|error| DecodeError::Malformed(format!("not a JSON object: {error}")))
}

fn is_error(answer: &Map<String, Value>) -> bool {
    answer.get("error").is_some_and(|error| !error.is_null())
        || (!answer.contains_key("choices")
            && (answer.get("object").is_some_and(|kind| kind == "error")
                || answer.contains_key("detail")))
}

fn choices(answer: &mut Map<String, Value>) -> impl Iterator<Item = &mut Value> {
    answer.get_mut("choices").and_then(Value::as_array_mut).into_iter().flatten()
}

/// Content that is a list becomes text, and what was thought `reasoning_content`. Several thoughts
/// are joined by `between`. Tool calls get their type.
fn plain_content(message: &mut Map<String, Value>, between: &str) {
    let calls = message.get_mut("tool_calls").and_then(Value::as_array_mut).into_iter().flatten();
    for call in calls.filter_map(Value::as_object_mut).filter(|call| call.contains_key("id")) {
        // Left out by Mistral, because there is only one kind.
        call.entry("type").or_insert_with(|| "function".into());
    }
    let Some(Value::Array(parts)) = message.get("content") else { return };
    let (mut text, mut thought) = (None::<String>, None::<String>);
    for part in parts {
        match part.get("type").and_then(Value::as_str) {
            Some("thinking") => {
                let more = thinking_text(part);
                match &mut thought {
                    Some(thought) => {
                        thought.push_str(between);
                        thought.push_str(&more);
                    }
                    None => thought = Some(more.into_owned()),
                }
            }
            Some("text") => {
                let more = part.get("text").and_then(Value::as_str).unwrap_or_default();
                text.get_or_insert_default().push_str(more);
            }
            // References to sources, say: OpenAI's content has no place for them.
            _ => {}
        }
    }
    message.insert("content".into(), text.into());
    if let Some(thought) = thought.filter(|thought| !thought.is_empty()) {
        message.insert("reasoning_content".into(), thought.into());
    }
}

fn thinking_text(part: &Value) -> Cow<'_, str> {
    match part.get("thinking") {
        Some(Value::String(text)) => Cow::Borrowed(text),
        Some(Value::Array(items)) => {
            items.iter().filter_map(|item| item.get("text")?.as_str()).collect()
        }
        _ => Cow::Borrowed(""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(model: &str, turns: Value, expect: Option<Value>) {
        let got = messages(turns.to_string().as_bytes(), model);
        assert_eq!(got.map(|json| serde_json::from_slice(&json).expect("JSON")), expect);
    }

    #[test]
    fn a_fit_conversation_stays() {
        check("mistral-large", json!([{"role": "user", "content": "hi"}]), None);
        let fit = json!([
            {"role": "assistant", "content": "", "tool_calls": [{"id": "abcDEF123", "type": "function", "function": {"name": "f", "arguments": "{}"}}]},
            {"role": "tool", "name": "f", "tool_call_id": "abcDEF123", "content": "1"},
        ]);
        check("mistral-large", fit, None);
        assert_eq!(messages(b"[{\"name\":", "m"), None);
    }

    #[test]
    fn ids_of_others_become_fit_and_still_belong_together() {
        let turns = json!([
            {"role": "assistant", "content": null, "refusal": null, "annotations": [], "tool_calls": [
                {"id": "call_a", "type": "function", "function": {"name": "f", "arguments": "{}"}},
                {"id": "toolu_01", "type": "function", "function": {"name": "f", "arguments": "{}"}}]},
            {"role": "tool", "tool_call_id": "toolu_01", "content": "1"},
            {"role": "tool", "tool_call_id": "call_a", "content": "2"},
            {"role": "user", "name": "ann", "content": "go on"},
        ]);
        let fit = messages(turns.to_string().as_bytes(), "mistral-large").expect("changed");
        let fit: Value = serde_json::from_slice(&fit).expect("JSON");
        let ids = [
            fit[0]["tool_calls"][0]["id"].as_str(),
            fit[0]["tool_calls"][1]["id"].as_str(),
            fit[1]["tool_call_id"].as_str(),
            fit[2]["tool_call_id"].as_str(),
        ];
        assert_eq!((ids[0], ids[1]), (ids[3], ids[2]));
        assert_ne!(ids[0], ids[1]);
        for id in ids.into_iter().flatten() {
            assert!(id.len() == 9 && id.bytes().all(|b| b.is_ascii_alphanumeric()), "{id}");
        }
        assert_eq!(fit[0].get("refusal").or(fit[0].get("annotations")), None);
        assert_eq!(fit[3], json!({"role": "user", "content": "go on"}));
    }

    #[test]
    fn thoughts_go_back_to_models_that_think() {
        let turns = json!([{"role": "assistant", "content": "4", "reasoning_content": "2+2"}]);
        let thinking = json!({"type": "thinking", "thinking": [{"type": "text", "text": "2+2"}]});
        check(
            "magistral-medium-latest",
            turns.clone(),
            Some(
                json!([{"role": "assistant", "content": [thinking, {"type": "text", "text": "4"}]}]),
            ),
        );
        check("mistral-large", turns, Some(json!([{"role": "assistant", "content": "4"}])));
    }

    #[test]
    fn documents_and_audio_have_their_own_form() {
        check(
            "mistral-large",
            json!([{"role": "user", "content": [
                {"type": "file", "file": {"file_id": "https://x/a.pdf"}},
                {"type": "file", "file": {"file_data": "data:application/pdf;base64,AA==", "filename": "a.pdf"}},
                {"type": "file", "file": {"file_id": "f1"}},
                {"type": "input_audio", "input_audio": {"data": "AA==", "format": "wav"}}]}]),
            Some(json!([{"role": "user", "content": [
                {"type": "document_url", "document_url": "https://x/a.pdf"},
                {"type": "document_url", "document_url": "data:application/pdf;base64,AA==", "document_name": "a.pdf"},
                {"type": "file", "file_id": "f1"},
                {"type": "input_audio", "input_audio": "AA=="}]}])),
        );
    }

    #[test]
    fn effort_is_on_or_off() {
        assert_eq!(effort("mistral-small-latest", "low"), Some("high"));
        assert_eq!(effort("mistral-medium-3-5", "none"), Some("none"));
        assert_eq!(effort("mistral-large-latest", "high"), None);
        assert_eq!(effort("magistral-small", "high"), None);
    }
}
