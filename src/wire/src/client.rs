//! The client's side of every dialect: its requests into OpenAI's form, OpenAI's answers out of it.
//!
//! OpenAI's chat is the middle form. Where a provider speaks the client's dialect, none of this
//! runs: bytes pass, and a [`Tap`] watches them. Otherwise [`to_openai`] writes the request anew, the
//! provider answers in OpenAI's dialect (or its decoder does), and an [`Encoder`] puts that answer
//! into the client's. What OpenAI's form has no word for travels in it as LiteLLM and the providers
//! themselves write it; see [`crate::openai::request`].

use crate::openai::response::ErrorObject;
use crate::operation::{Dialect, Operation};
use crate::sse::TooLong;
use crate::tap::Tap;
use crate::usage::Usage;
use crate::{anthropic, gemini, openai, responses};

/// Why a client's request cannot be put into OpenAI's form. The fault is the client's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Invalid {
    /// What is wrong, for the client.
    pub message: String,
    /// The member at fault.
    pub param: Option<String>,
}

impl Invalid {
    /// A fault of the request as a whole.
    pub fn new(message: impl Into<String>) -> Invalid {
        Invalid { message: message.into(), param: None }
    }

    /// Says which member is at fault.
    #[must_use]
    pub fn with_param(mut self, param: impl Into<String>) -> Invalid {
        self.param = Some(param.into());
        self
    }
}

/// What was answered in the middle form is not an answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the provider's answer cannot be put into the client's dialect: {0}")]
pub struct EncodeError(pub String);

impl From<TooLong> for EncodeError {
    fn from(error: TooLong) -> Self {
        EncodeError(error.to_string())
    }
}

/// A request as an encoder needs to know it.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// What was asked for.
    pub operation: Operation,
    /// The model name the client used; the answer carries it.
    pub model: &'a str,
    /// Whether the client asked for a stream.
    pub stream: bool,
    /// The client's own body: some dialects repeat parts of it in the answer.
    pub body: &'a [u8],
    /// Unguessable and unique, letters and digits only: what ids of the answer are made of.
    pub id: &'a str,
    /// When the answer is begun, in seconds since the Unix epoch.
    pub created: u64,
}

/// Puts one answer from OpenAI's form into a client's dialect.
pub trait Encoder: Send + Sync {
    /// Translates a whole answer: OpenAI's JSON in, the client's JSON out.
    ///
    /// # Errors
    /// When the answer is not one of the operation that was asked for.
    fn whole(&mut self, answer: &[u8]) -> Result<Vec<u8>, EncodeError>;

    /// Takes whole server-sent events of OpenAI's, one or more, and appends the client's to `out`.
    /// `data: [DONE]` is the announced end; a stream that breaks never has it.
    ///
    /// # Errors
    /// When an event is not what OpenAI's reference promises. What was appended is good.
    fn stream(&mut self, events: &[u8], out: &mut Vec<u8>) -> Result<(), EncodeError>;

    /// The stream broke: appends the error as the client's dialect tells it. Nothing follows.
    fn error(&mut self, status: u16, error: &ErrorObject, out: &mut Vec<u8>) {
        let _ = (status, error, out);
    }

    /// The answer in its whole form, once it is complete, for dialects that keep answers.
    fn response(&self) -> Option<&[u8]> {
        None
    }
}

/// Writes a client's request in OpenAI's form. `history` is what came before, for dialects that
/// refer to it: the JSON array of a stored response's items.
///
/// Streams are asked for with `stream_options.include_usage`, because every encoder needs usage.
///
/// # Errors
/// When the request is malformed, or holds what OpenAI's form cannot carry.
pub fn to_openai(
    dialect: Dialect,
    operation: Operation,
    body: &[u8],
    history: Option<&[u8]>,
) -> Result<Vec<u8>, Invalid> {
    match dialect {
        // Asked for only where the provider has chat alone.
        Dialect::OpenAi if operation == Operation::Completions => openai::text::to_chat(body),
        Dialect::OpenAi => Ok(body.to_vec()),
        Dialect::Anthropic => anthropic::to_chat(body),
        Dialect::Gemini if operation == Operation::Embeddings => gemini::to_embeddings(body),
        Dialect::Gemini => gemini::to_chat(body),
        Dialect::Responses => responses::to_chat(body, history),
    }
}

/// What puts answers into `dialect`; `None` where they are in it already. In OpenAI's dialect this is
/// only asked where a text completion was asked for and the provider has chat alone.
pub fn encoder(dialect: Dialect, asked: &Asked<'_>) -> Option<Box<dyn Encoder>> {
    match dialect {
        Dialect::OpenAi if asked.operation == Operation::Completions => {
            Some(Box::new(openai::text::TextEncoder::new(asked)))
        }
        Dialect::OpenAi => None,
        Dialect::Anthropic => Some(Box::new(anthropic::MessagesEncoder::new(asked))),
        Dialect::Gemini if asked.operation == Operation::Embeddings => {
            Some(Box::new(gemini::EmbedEncoder::new(asked)))
        }
        Dialect::Gemini => Some(Box::new(gemini::GeminiEncoder::new(asked))),
        Dialect::Responses => Some(Box::new(responses::ResponsesEncoder::new(asked))),
    }
}

/// Watches a stream that is in the client's dialect already. With `usage_added` the event that
/// carries only usage is the gateway's and is kept from the client; `alias` is the model's name
/// that answers carry, where it is not the provider's.
pub fn tap(dialect: Dialect, usage_added: bool, alias: Option<&str>) -> Box<dyn Tap> {
    match dialect {
        Dialect::OpenAi => Box::new(openai::StreamTap::new(usage_added, alias)),
        Dialect::Anthropic => Box::new(anthropic::MessagesTap::new(alias)),
        Dialect::Gemini => Box::new(gemini::GeminiTap::new(alias)),
        Dialect::Responses => Box::new(responses::StreamTap::new(alias).keeping()),
    }
}

/// The usage in a whole answer of `dialect`.
pub fn usage_of_body(dialect: Dialect, operation: Operation, body: &[u8]) -> Option<Usage> {
    match dialect {
        Dialect::OpenAi => match operation {
            Operation::ImageGeneration | Operation::ImageEdit | Operation::ImageVariation => {
                openai::media::usage_of_images(body)
            }
            Operation::Transcription | Operation::Translation => {
                openai::media::usage_of_transcript(body)
            }
            _ => openai::usage_of_body(body),
        },
        Dialect::Anthropic => anthropic::usage_of_body(body),
        Dialect::Gemini => gemini::usage_of_body(body),
        Dialect::Responses => responses::usage_of_body(body),
    }
}

/// The body of an error answer.
pub fn error_body(dialect: Dialect, status: u16, error: &ErrorObject) -> Vec<u8> {
    match dialect {
        Dialect::OpenAi | Dialect::Responses => error.body(),
        Dialect::Anthropic => anthropic::error::body(status, error),
        Dialect::Gemini => gemini::error::body(status, error),
    }
}

/// An error inside a stream that has begun and has no encoder: one event.
pub fn error_event(dialect: Dialect, status: u16, error: &ErrorObject) -> Vec<u8> {
    match dialect {
        Dialect::Anthropic => anthropic::error::event(status, error),
        Dialect::Gemini => gemini::error::event(status, error),
        Dialect::OpenAi => error.event(),
        Dialect::Responses => responses::error_event(0, status, error),
    }
}
