//! A chat answer as a `Response`, or as the events of one.

use std::borrow::Cow;

use serde_json::json;

use super::answer::{Frame, Outcome, Status, tier};
use super::chunk::{Answer, Call, Choice, Said, inside, inside_of_parts};
use super::output::{Output, Piece};
use super::{error_event, failure_code, usage};
use crate::client::{Asked, EncodeError, Encoder};
use crate::openai::response::ErrorObject;
use crate::sse::Parser;
use crate::usage::Usage;

/// Puts one chat answer into the Responses API.
pub struct ResponsesEncoder {
    parser: Parser,
    state: State,
}

struct State {
    frame: Frame,
    output: Output,
    started: bool,
    ended: bool,
    status: Status,
    usage: Option<Usage>,
    service_tier: Option<&'static str>,
    /// Reasoning comes as text of its own, so that the text of signed reasoning is the same again.
    tells_reasoning: bool,
    /// The response as the gateway keeps it.
    response: Option<Vec<u8>>,
}

impl ResponsesEncoder {
    /// Starts on the answer to a request.
    pub fn new(asked: &Asked<'_>) -> ResponsesEncoder {
        let frame = Frame::new(asked);
        let state = State {
            output: Output::new(&frame.id),
            frame,
            started: false,
            ended: false,
            status: Status::Completed,
            usage: None,
            service_tier: None,
            tells_reasoning: false,
            response: None,
        };
        ResponsesEncoder { parser: Parser::default(), state }
    }
}

impl Encoder for ResponsesEncoder {
    fn whole(&mut self, answer: &[u8]) -> Result<Vec<u8>, EncodeError> {
        let answer: Answer<'_> = read(answer)?;
        let state = &mut self.state;
        state.output.be_silent();
        let mut nothing = Vec::new();
        if answer.choices.as_ref().is_none_or(Vec::is_empty) {
            return Err(EncodeError("it has no choices".into()));
        }
        state.answer(&answer, &mut nothing)?;
        state.output.end(state.status, &state.frame, &mut nothing)?;
        Ok(state.complete())
    }

    fn stream(&mut self, events: &[u8], out: &mut Vec<u8>) -> Result<(), EncodeError> {
        let state = &mut self.state;
        self.parser.push(events, |event| state.event(event.data, out))
    }

    fn error(&mut self, status: u16, error: &ErrorObject, out: &mut Vec<u8>) {
        let state = &mut self.state;
        if std::mem::replace(&mut state.ended, true) {
            return;
        }
        // OpenAI's servers send both: the SDKs raise the first, and who reads on by hand finds the
        // response that failed.
        out.extend(error_event(state.output.next_number(), status, error));
        let code = failure_code(status, error);
        let error = json!({"code": code, "message": error.message}).to_string();
        let outcome = Outcome {
            status: Status::Failed,
            error: Some(error.as_bytes()),
            output: &state.output.items(),
            usage: None,
            service_tier: state.service_tier,
        };
        let response = state.frame.response(&outcome);
        state.output.lifecycle("response.failed", &response, out);
        state.response = Some(response);
    }

    fn response(&self) -> Option<&[u8]> {
        self.state.response.as_deref()
    }
}

fn read(json: &[u8]) -> Result<Answer<'_>, EncodeError> {
    let answer: Answer<'_> =
        serde_json::from_slice(json).map_err(|error| EncodeError(error.to_string()))?;
    match answer.error {
        Some(_) => Err(EncodeError("it is an error".into())),
        None => Ok(answer),
    }
}

impl State {
    fn event(&mut self, data: &[u8], out: &mut Vec<u8>) -> Result<(), EncodeError> {
        if self.ended {
            return Ok(());
        }
        if data == b"[DONE]" {
            self.start(out);
            return self.end(out);
        }
        let answer = read(data)?;
        self.start(out);
        self.answer(&answer, out)
    }

    /// Writes what a stream begins with.
    fn start(&mut self, out: &mut Vec<u8>) {
        if std::mem::replace(&mut self.started, true) {
            return;
        }
        let outcome = Outcome {
            status: Status::InProgress,
            error: None,
            output: &[],
            usage: None,
            service_tier: None,
        };
        let response = self.frame.response(&outcome);
        self.output.lifecycle("response.created", &response, out);
        self.output.lifecycle("response.in_progress", &response, out);
    }

    fn end(&mut self, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        self.output.end(self.status, &self.frame, out)?;
        let response = self.complete();
        let kind = match self.status {
            Status::Incomplete(_) => "response.incomplete",
            _ => "response.completed",
        };
        self.output.lifecycle(kind, &response, out);
        Ok(())
    }

    /// Makes the response as the client gets it, and keeps it as the gateway does: with all signed
    /// reasoning, which the next turn needs.
    fn complete(&mut self) -> Vec<u8> {
        self.ended = true;
        let usage = usage::write(&self.usage.unwrap_or_default());
        let mut outcome = Outcome {
            status: self.status,
            error: None,
            output: &self.output.items(),
            usage: Some(&usage),
            service_tier: self.service_tier,
        };
        let response = self.frame.response(&outcome);
        let items = self.output.items_to_keep();
        self.response = Some(if items == outcome.output {
            response.clone()
        } else {
            outcome.output = &items;
            self.frame.response(&outcome)
        });
        response
    }

    fn answer(&mut self, answer: &Answer<'_>, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        if let Some(raw) = answer.service_tier
            && let Ok(name) = serde_json::from_str::<Cow<'_, str>>(raw.get())
        {
            self.service_tier = Some(tier(Some(&name)));
        }
        if let Some(usage) = usage::of_chat(answer.usage) {
            self.usage = Some(usage);
        }
        let choices = answer.choices.as_deref().unwrap_or_default();
        // The Responses API has one answer.
        for choice in choices.iter().filter(|choice| choice.index.unwrap_or(0) == 0) {
            self.choice(choice, out)?;
        }
        Ok(())
    }

    fn choice(&mut self, choice: &Choice<'_>, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        if let Some(said) = choice.delta.as_ref().or(choice.message.as_ref()) {
            let logprobs = choice.logprobs.filter(|_| self.frame.logprobs);
            let logprobs = logprobs.map(super::output::logprobs).unwrap_or_default();
            self.said(said, choice.message.is_some(), &logprobs, out)?;
        }
        if let Some(reason) = choice.finish_reason.as_deref() {
            self.status = match reason {
                "length" => Status::Incomplete("max_output_tokens"),
                "content_filter" => Status::Incomplete("content_filter"),
                _ => Status::Completed,
            };
            self.output.finish(self.status, &self.frame, out)?;
        }
        Ok(())
    }

    fn said(
        &mut self,
        said: &Said<'_>,
        is_whole: bool,
        logprobs: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), EncodeError> {
        let frame = &self.frame;
        let reasoning = inside(said.reasoning_content).or_else(|| inside(said.reasoning));
        if let Some(text) = reasoning {
            self.tells_reasoning = true;
            self.output.reasoning(text, out)?;
        }
        for block in said.thinking_blocks.iter().flatten() {
            self.output.thinking(block, self.tells_reasoning, out)?;
        }
        if let Some(text) = inside(said.content) {
            self.output.text(Piece { text, logprobs, is_refusal: false }, frame, out)?;
        } else if let Some(text) = inside_of_parts(said.content) {
            self.output.text(Piece { text: &text, logprobs, is_refusal: false }, frame, out)?;
        }
        if let Some(text) = inside(said.refusal) {
            self.output.text(Piece { text, logprobs: b"", is_refusal: true }, frame, out)?;
        }
        for annotation in said.annotations.iter().flatten() {
            self.output.annotation(annotation, out)?;
        }
        for (at, call) in said.tool_calls.iter().flatten().enumerate() {
            let index = if is_whole { Some(at as u64) } else { call.index };
            self.call(index, call, out)?;
        }
        Ok(())
    }

    fn call(
        &mut self,
        index: Option<u64>,
        call: &Call<'_>,
        out: &mut Vec<u8>,
    ) -> Result<(), EncodeError> {
        let (name, text, is_custom) = match (&call.function, &call.custom) {
            (_, Some(custom)) => (custom.name, custom.input, true),
            (Some(function), None) => (function.name, function.arguments, false),
            (None, None) => (None, None, false),
        };
        let piece = super::output::CallPiece {
            index,
            id: inside(call.id),
            name: inside(name),
            text: inside(text),
            is_custom,
            signature: call.signature(),
        };
        // Some servers send arguments as the object they are.
        let object = text.map(|raw| raw.get()).filter(|raw| raw.starts_with('{'));
        if let Some(object) = object {
            let text = serde_json::Value::from(object).to_string().into_bytes();
            let inside = &text[1..text.len() - 1];
            return self.output.call(
                super::output::CallPiece { text: Some(inside), ..piece },
                &self.frame,
                out,
            );
        }
        self.output.call(piece, &self.frame, out)
    }
}
