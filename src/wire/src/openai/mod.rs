//! OpenAI's dialect: what clients speak to the gateway, and most providers to it.
//!
//! Facts from OpenAI's API reference, <https://platform.openai.com/docs/api-reference/chat>, and
//! from what LiteLLM accepts beyond it; both read 2026-11. A request to a provider of the same
//! dialect never becomes one of these types: [`tap`] and [`usage`] look at the bytes as they pass.

pub mod media;
pub mod model;
pub(crate) mod read;
pub mod replay;
pub mod request;
pub mod response;
pub mod tap;
pub mod text;
pub mod usage;

pub use model::rename_model;
pub use replay::{
    add_usage_event, completion_from_events, events_from_completion, strip_usage_event,
};
pub use request::{ChatRequest, Content, Message, Part};
pub use response::{ChatChunk, ChatResponse, ErrorBody};
pub use tap::{StreamTap, TapError};
pub use usage::{UsageObject, usage_of_body};
