//! What the driver needs to know about a dialect's answers.

use serde_json::Value;

use crate::answer::{Answer, Delta};
use crate::ask::Problem;
use crate::{anthropic, openai};

/// The shape a request's answer has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dialect {
    /// OpenAI's chat completions; also the shape of errors outside the other two.
    Chat,
    /// OpenAI's older completions.
    Completion,
    /// Anthropic's messages.
    Messages,
}

/// What an answer's envelope says.
#[derive(Clone, Debug)]
pub(crate) struct Meta {
    /// Counts the requests.
    pub(crate) number: u64,
    pub(crate) model: String,
    pub(crate) choices: u32,
    pub(crate) include_usage: bool,
    pub(crate) no_usage: bool,
}

/// Token counts as they are reported.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Usage {
    pub(crate) prompt: u64,
    /// Of the prompt, how many were in the provider's cache.
    pub(crate) cached: u64,
    pub(crate) completion: u64,
    /// Of the completion, how many were thinking.
    pub(crate) reasoning: u64,
}

/// Writes the events of one stream, each with its blank line.
pub(crate) trait EventWriter: Send {
    /// What comes before a choice's first token.
    fn open(&mut self, choice: u32, usage: &Usage, calls_only: bool) -> Vec<String>;
    /// The event that carries this step.
    fn delta(&mut self, choice: u32, delta: &Delta<'_>) -> Vec<String>;
    /// What tells why the choice ended; `no_finish` asks for what is left without that.
    fn finish(&mut self, choice: u32, end: &Answer, usage: &Usage, no_finish: bool) -> Vec<String>;
    /// What follows after all choices but the very last event.
    fn usage(&mut self, usage: &Usage) -> Vec<String>;
    /// The very last event.
    fn done(&mut self) -> String;
}

impl Dialect {
    /// The whole answer, not streamed.
    pub(crate) fn whole(self, meta: &Meta, answer: &Answer, usage: &Usage) -> Value {
        match self {
            Dialect::Chat => openai::chat(meta, answer, usage),
            Dialect::Completion => openai::completion(meta, answer, usage),
            Dialect::Messages => anthropic::message(meta, answer, usage),
        }
    }

    pub(crate) fn events(self, meta: Meta) -> Box<dyn EventWriter> {
        match self {
            Dialect::Chat => Box::new(openai::Events::new(meta, false)),
            Dialect::Completion => Box::new(openai::Events::new(meta, true)),
            Dialect::Messages => Box::new(anthropic::Events::new(meta)),
        }
    }

    /// An error's body.
    pub(crate) fn error(self, problem: &Problem) -> Value {
        match self {
            Dialect::Chat | Dialect::Completion => openai::error(problem),
            Dialect::Messages => anthropic::error(problem),
        }
    }

    /// An error in the middle of a stream.
    pub(crate) fn error_event(self, problem: &Problem) -> String {
        let body = self.error(problem);
        match self {
            Dialect::Chat | Dialect::Completion => format!("data: {body}\n\n"),
            Dialect::Messages => format!("event: error\ndata: {body}\n\n"),
        }
    }
}
