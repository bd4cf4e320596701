//! A stream: Gemini's events, each a whole `GenerateContentResponse`, as OpenAI's chunks.
//!
//! There is no last event: the end is announced by each candidate's `finishReason`, and what comes
//! with or after it (usage, what the answer is grounded on) still counts. So the last chunks are
//! written when the provider closes the stream, and only if every candidate has finished.

use serde_json::{Value, json};
use tollway_wire::gemini::UsageMetadata;
use tollway_wire::sse::Parser;
use tollway_wire::surrogate::mend;
use tollway_wire::usage::Usage;

use crate::chunks::{Chunks, string};
use crate::{Asked, DecodeError, Decoder};

use super::answer::{
    Answer, CITED_BYTES_MAX, Candidate, FunctionCall, Part, annotations, answer_id, call_id,
    finish_reason, image, logprobs, text_of, usage_object, web_searches,
};
use super::error::{read_error, read_event};
use super::model::Model;
use super::response;

/// Gemini gives at most eight candidates.
const CANDIDATES_MAX: usize = 16;

/// The longest event of a model that draws: a large image is one part, in base64.
const IMAGE_EVENT_BYTES_MAX: usize = 32 << 20;

/// Decodes one answer of Gemini's.
pub(super) struct GeminiDecoder {
    parser: Parser,
    state: State,
}

struct State {
    chunks: Chunks,
    /// Searches are counted by query and not by answer.
    by_query: bool,
    answer_id: String,
    candidates: Vec<Progress>,
    blocked: bool,
    counts: Option<UsageMetadata>,
    /// Usage of an answer in one piece.
    whole: Option<Usage>,
}

/// How far one candidate has come.
#[derive(Default)]
struct Progress {
    index: u64,
    calls: u64,
    images: usize,
    finish_reason: Option<String>,
    /// The text so far, as long as it is short enough to be cited from.
    text: String,
    text_is_long: bool,
    grounding: Option<Value>,
    fields: Option<Value>,
}

impl GeminiDecoder {
    pub(super) fn new(asked: Asked, model: Model) -> Self {
        let parser = match model.draws() {
            true => Parser::new(IMAGE_EVENT_BYTES_MAX),
            false => Parser::default(),
        };
        let state = State {
            chunks: Chunks::new(asked),
            by_query: model.is_3(),
            answer_id: String::new(),
            candidates: Vec::new(),
            blocked: false,
            counts: None,
            whole: None,
        };
        GeminiDecoder { parser, state }
    }
}

impl Decoder for GeminiDecoder {
    fn whole(&mut self, body: &[u8]) -> Result<Vec<u8>, DecodeError> {
        let (json, usage) =
            response::translate(body, &self.state.chunks.asked, self.state.by_query)?;
        self.state.whole = usage;
        Ok(json)
    }

    fn stream(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<(), DecodeError> {
        let state = &mut self.state;
        self.parser.push(bytes, |event| state.event(event.data, out))
    }

    fn finish(&mut self, out: &mut Vec<u8>) -> Result<(), DecodeError> {
        let state = &mut self.state;
        if state.chunks.has_ended() {
            return Ok(());
        }
        // An error may come as plain JSON.
        let read = |held: &[u8]| matches!(held[0], b'{' | b'[').then(|| read_error(200, held));
        match state.chunks.unfinished(self.parser.held(), read) {
            DecodeError::Truncated => state.end(out),
            fault => Err(fault),
        }
    }

    fn usage(&self) -> Option<Usage> {
        let state = &self.state;
        let counted = || state.counts.as_ref().map(|counts| counts.usage(state.searches()));
        // Counts of nothing at all are no counts.
        state.whole.or_else(counted).filter(|usage| *usage != Usage::default())
    }
}

impl State {
    fn event(&mut self, data: &[u8], out: &mut Vec<u8>) -> Result<(), DecodeError> {
        // Not Google's, but servers that resemble it end that way.
        if self.chunks.has_ended() || data == b"[DONE]" {
            return Ok(());
        }
        let data = &*mend(data);
        let answer: Answer<'_> = serde_json::from_slice(data)
            .map_err(|error| DecodeError::Malformed(error.to_string()))?;
        if let Some(error) = answer.error {
            return Err(DecodeError::Reported(read_event(error)));
        }
        if let Some(counts) = answer.usage_metadata {
            self.counts.get_or_insert_default().update(counts);
        }
        if answer.prompt_feedback.is_some_and(|feedback| feedback.block_reason.is_some()) {
            self.blocked = true;
        }
        if !self.chunks.has_begun() {
            self.answer_id = answer_id(answer.response_id, &self.chunks.asked, data);
            self.chunks.identify(|_| format!("chatcmpl-{}", self.answer_id));
        }
        for candidate in answer.candidates {
            self.candidate(candidate, out)?;
        }
        Ok(())
    }

    fn candidate(
        &mut self,
        candidate: Candidate<'_>,
        out: &mut Vec<u8>,
    ) -> Result<(), DecodeError> {
        let at = self.progress(candidate.index, out)?;
        for part in candidate.content.unwrap_or_default().parts {
            self.part(at, part, out);
        }
        if let Some(logprobs) = candidate.logprobs_result.as_ref().and_then(logprobs) {
            let logprobs = logprobs.to_string();
            self.choice(at).delta(&[b"{},\"logprobs\":", logprobs.as_bytes()], out);
        }
        let progress = &mut self.candidates[at];
        if let Some(grounding) = candidate.grounding_metadata {
            progress.grounding = Some(grounding);
        }
        for (name, value) in [
            ("citations", candidate.citation_metadata),
            ("url_context_metadata", candidate.url_context_metadata),
        ] {
            if let Some(value) = value {
                progress.fields.get_or_insert_with(|| json!({}))[name] = value;
            }
        }
        if candidate.finish_reason.is_some() {
            progress.finish_reason = candidate.finish_reason;
        }
        Ok(())
    }

    /// The candidate's place; its first chunk is written where it is new.
    fn progress(&mut self, index: u64, out: &mut Vec<u8>) -> Result<usize, DecodeError> {
        if let Some(at) = self.candidates.iter().position(|known| known.index == index) {
            return Ok(at);
        }
        if self.candidates.len() >= CANDIDATES_MAX {
            return Err(DecodeError::Malformed("there are too many candidates".into()));
        }
        self.candidates.push(Progress { index, ..Progress::default() });
        let at = self.candidates.len() - 1;
        self.choice(at).role(out);
        Ok(at)
    }

    fn part(&mut self, at: usize, part: Part<'_>, out: &mut Vec<u8>) {
        let signature = part.thought_signature.filter(|signature| !signature.is_empty());
        let signature = signature.map(|signature| Value::from(signature).to_string());
        if let Some(call) = part.function_call {
            self.call(at, &call, signature.as_deref(), out);
            return;
        }
        let text = string(part.text);
        if part.thought == Some(true) {
            text.into_iter().for_each(|text| self.choice(at).thinking(text, out));
            self.signature(at, signature.as_deref(), out);
            return;
        }
        if let Some(blob) = part.inline_data {
            let progress = &mut self.candidates[at];
            let delta = if blob.mime_type.starts_with("audio/") {
                let id = format!("audio_{}", self.chunks.asked.created);
                json!({"audio": {"id": id, "data": blob.data, "transcript": ""}})
            } else {
                progress.images += 1;
                json!({"images": [image(&blob, progress.images - 1)]})
            };
            self.choice(at).delta(&[delta.to_string().as_bytes()], out);
        } else if let Some(raw) = text {
            self.choice(at).text(raw, out);
            self.candidates[at].remember(&text_of(part.text).unwrap_or_default());
        }
        self.signature(at, signature.as_deref(), out);
    }

    /// The signature of text, as the block to hand back.
    fn signature(&mut self, at: usize, signature: Option<&str>, out: &mut Vec<u8>) {
        if let Some(signature) = signature {
            self.choice(at).signature(signature.as_bytes(), out);
        }
    }

    /// Gemini's calls come whole.
    fn call(
        &mut self,
        at: usize,
        call: &FunctionCall<'_>,
        signature: Option<&str>,
        out: &mut Vec<u8>,
    ) {
        let progress = &mut self.candidates[at];
        let place = progress.calls;
        progress.calls += 1;
        let id = progress.index << 32 | place;
        let id = call_id(call, &self.answer_id, id);
        let quoted = |text: &str| Value::from(text).to_string();
        let (index, id) = (place.to_string(), quoted(&id));
        let name = quoted(call.name.as_deref().unwrap_or_default());
        let arguments = quoted(call.arguments());
        let mut parts: Vec<&[u8]> = vec![
            b"{\"tool_calls\":[{\"index\":",
            index.as_bytes(),
            b",\"id\":",
            id.as_bytes(),
            b",\"type\":\"function\",\"function\":{\"name\":",
            name.as_bytes(),
            b",\"arguments\":",
            arguments.as_bytes(),
            b"}",
        ];
        if let Some(signature) = signature {
            parts.extend([
                b",\"extra_content\":{\"google\":{\"thought_signature\":".as_slice(),
                signature.as_bytes(),
                b"}}",
            ]);
        }
        parts.push(b"}]}");
        self.choice(at).delta(&parts, out);
    }

    fn choice(&mut self, at: usize) -> &mut Chunks {
        self.chunks.of_choice(self.candidates[at].index)
    }

    fn searches(&self) -> u64 {
        let all = self.candidates.iter().filter_map(|candidate| candidate.grounding.as_ref());
        all.map(|grounding| web_searches(grounding, self.by_query)).sum()
    }

    /// Writes the last chunks, if the answer is complete.
    fn end(&mut self, out: &mut Vec<u8>) -> Result<(), DecodeError> {
        if self.candidates.is_empty() && self.blocked {
            // Google answers a prompt it refuses without any candidate.
            self.progress(0, out)?;
        }
        if self.blocked {
            for one in &mut self.candidates {
                one.finish_reason.get_or_insert_with(|| "SAFETY".into());
            }
        }
        let is_complete = self.candidates.iter().all(|one| one.finish_reason.is_some());
        if self.candidates.is_empty() || !is_complete {
            return Err(DecodeError::Truncated);
        }
        for at in 0..self.candidates.len() {
            self.last_words(at, out);
        }
        for one in &self.candidates {
            let reason = one.finish_reason.as_deref().unwrap_or_default();
            self.chunks.of_choice(one.index).finish(finish_reason(reason, one.calls > 0), out);
        }
        let counts = self.counts.as_ref();
        let usage = counts.map(|counts| usage_object(counts, self.searches()));
        self.chunks.end(usage, "", out);
        Ok(())
    }

    /// What can be said of a candidate only when it is complete.
    fn last_words(&mut self, at: usize, out: &mut Vec<u8>) {
        let one = &self.candidates[at];
        let chunks = self.chunks.of_choice(one.index);
        if let Some(grounding) = one.grounding.as_ref().filter(|_| !one.text_is_long) {
            let list = annotations(grounding, &one.text);
            if !list.is_empty() {
                chunks.delta(&[json!({"annotations": list}).to_string().as_bytes()], out);
            }
        }
        if let Some(fields) = &one.fields {
            let delta = json!({"provider_specific_fields": fields}).to_string();
            chunks.delta(&[delta.as_bytes()], out);
        }
    }
}

impl Progress {
    fn remember(&mut self, text: &str) {
        if self.text_is_long || text.len() > CITED_BYTES_MAX - self.text.len() {
            self.text_is_long = true;
            self.text = String::new();
        } else {
            self.text.push_str(text);
        }
    }
}
