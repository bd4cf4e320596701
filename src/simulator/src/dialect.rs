//! What the driver needs to know about a dialect's answers.

use serde_json::Value;

use crate::answer::{Answer, Delta};
use crate::ask::Problem;
use crate::{anthropic, bedrock, cohere, gemini, openai, realtime, responses, websocket};

/// The shape a request's answer has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dialect {
    /// OpenAI's chat completions; also the shape of errors outside the others.
    Chat,
    /// OpenAI's older completions.
    Completion,
    /// OpenAI's responses.
    Responses,
    /// OpenAI's realtime events, each in a frame of a websocket.
    Realtime,
    /// Anthropic's messages.
    Messages,
    /// Google's Gemini, in the Gemini API and in Vertex AI.
    Gemini {
        /// A stream is one JSON array, not server-sent events.
        array: bool,
    },
    /// Bedrock's Converse, whose streams are Amazon's binary frames.
    Converse,
    /// Anthropic's messages as Bedrock's InvokeModel carries them.
    Invoke,
    /// Cohere's chat, version 2.
    Cohere,
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
    /// Members of the request that the answer repeats, as an object.
    pub(crate) repeated: Value,
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

/// Events as they are sent, each with its blank line, or its frame.
pub(crate) type Events = Vec<Vec<u8>>;

/// Writes the events of one stream.
pub(crate) trait EventWriter: Send {
    /// What comes before a choice's first token.
    fn open(&mut self, choice: u32, usage: &Usage, calls_only: bool) -> Events;
    /// The event that carries this step.
    fn delta(&mut self, choice: u32, delta: &Delta<'_>, usage: &Usage) -> Events;
    /// What tells why the choice ended; `no_finish` asks for what is left without that.
    fn finish(&mut self, choice: u32, end: &Answer, usage: &Usage, no_finish: bool) -> Events;
    /// What follows after all choices but the very last event.
    fn usage(&mut self, usage: &Usage) -> Events;
    /// The very last event; nothing where the dialect has none of its own.
    fn done(&mut self) -> Vec<u8>;
}

/// A server-sent event without a name.
pub(crate) fn data(data: &Value) -> Vec<u8> {
    format!("data: {data}\n\n").into_bytes()
}

/// A server-sent event whose name is the `type` of its data.
pub(crate) fn named(data: &Value) -> Vec<u8> {
    let name = data["type"].as_str().unwrap_or_default();
    format!("event: {name}\ndata: {data}\n\n").into_bytes()
}

impl Dialect {
    /// Gemini's without the oddity of arrays.
    pub(crate) const GEMINI: Dialect = Dialect::Gemini { array: false };

    /// The whole answer, not streamed.
    pub(crate) fn whole(self, meta: &Meta, answer: &Answer, usage: &Usage) -> Value {
        match self {
            Dialect::Chat => openai::chat(meta, answer, usage),
            Dialect::Completion => openai::completion(meta, answer, usage),
            Dialect::Responses | Dialect::Realtime => responses::response(meta, answer, usage),
            Dialect::Messages | Dialect::Invoke => anthropic::message(meta, answer, usage),
            Dialect::Gemini { .. } => gemini::response(meta, answer, usage),
            Dialect::Converse => bedrock::converse(meta, answer, usage),
            Dialect::Cohere => cohere::chat(meta, answer, usage),
        }
    }

    pub(crate) fn events(self, meta: Meta) -> Box<dyn EventWriter> {
        match self {
            Dialect::Chat => Box::new(openai::Events::new(meta, false)),
            Dialect::Completion => Box::new(openai::Events::new(meta, true)),
            Dialect::Responses => Box::new(responses::Events::new(meta)),
            Dialect::Realtime => Box::new(realtime::Events::new(meta)),
            Dialect::Messages => Box::new(anthropic::Events::new(meta)),
            Dialect::Gemini { array } => Box::new(gemini::Events::new(meta, array)),
            Dialect::Converse => Box::new(bedrock::Events::new(meta)),
            Dialect::Invoke => Box::new(bedrock::Wrapped::new(meta)),
            Dialect::Cohere => Box::new(cohere::Events::new(meta)),
        }
    }

    /// The type of a stream's body.
    pub(crate) fn stream_type(self) -> &'static str {
        match self {
            Dialect::Gemini { array: true } => "application/json",
            Dialect::Converse | Dialect::Invoke => "application/vnd.amazon.eventstream",
            _ => "text/event-stream; charset=utf-8",
        }
    }

    /// An error's body.
    pub(crate) fn error(self, problem: &Problem) -> Value {
        match self {
            Dialect::Chat | Dialect::Completion | Dialect::Responses | Dialect::Realtime => {
                openai::error(problem)
            }
            Dialect::Messages => anthropic::error(problem),
            Dialect::Gemini { array: false } => gemini::error(problem),
            Dialect::Gemini { array: true } => Value::Array(vec![gemini::error(problem)]),
            Dialect::Converse | Dialect::Invoke => bedrock::error(problem),
            Dialect::Cohere => cohere::error(problem),
        }
    }

    /// A header that names an error.
    pub(crate) fn error_header(self, problem: &Problem) -> Option<(String, String)> {
        matches!(self, Dialect::Converse | Dialect::Invoke)
            .then(|| ("x-amzn-errortype".to_owned(), bedrock::error_type(problem)))
    }

    /// An error in the middle of a stream.
    pub(crate) fn error_event(self, problem: &Problem) -> Vec<u8> {
        match self {
            Dialect::Chat | Dialect::Completion => data(&self.error(problem)),
            Dialect::Gemini { array: false } => data(&self.error(problem)),
            Dialect::Gemini { array: true } => {
                format!(",\r\n{}]", gemini::error(problem)).into_bytes()
            }
            Dialect::Messages => named(&self.error(problem)),
            Dialect::Responses => responses::error_event(problem),
            Dialect::Realtime => realtime::error_event(problem),
            Dialect::Converse | Dialect::Invoke => bedrock::exception(problem),
            Dialect::Cohere => cohere::error_event(problem),
        }
    }

    /// What no reader of this dialect can read.
    pub(crate) fn garbage(self) -> Vec<u8> {
        match self {
            // As a length these bytes are more than any frame may have.
            Dialect::Converse | Dialect::Invoke => vec![0xff; 64],
            Dialect::Realtime => realtime::garbage(),
            Dialect::Gemini { array: true } => b",{\"id\":\xff\xfe<garbage>\x00".to_vec(),
            _ => b"data: {\"id\":\xff\xfe<garbage>\x00\n\n".to_vec(),
        }
    }

    /// A frame whose check sum is wrong; garbage where there are no sums.
    pub(crate) fn bad_sum(self) -> Vec<u8> {
        match self {
            Dialect::Converse | Dialect::Invoke => bedrock::bad_sum(),
            _ => self.garbage(),
        }
    }

    /// Something far larger than any event: what it begins with, a byte that is repeated so often,
    /// and what it ends with. It is this many bytes, but for the head of a websocket's frame.
    pub(crate) fn huge(self, bytes: u64) -> (Vec<u8>, (u8, u64), &'static [u8]) {
        match self {
            Dialect::Converse | Dialect::Invoke => {
                (bedrock::long_frame_head(bytes), (b'a', bytes.saturating_sub(12)), b"")
            }
            Dialect::Realtime => (websocket::long_frame_head(bytes), (b' ', bytes), b""),
            // Blanks before JSON are JSON, so this one is long but not wrong.
            Dialect::Gemini { array: true } => (Vec::new(), (b' ', bytes), b""),
            _ => (b"data: ".to_vec(), (b'a', bytes.saturating_sub(6)), b"\n\n"),
        }
    }
}
