//! Anthropic's dialect: the Messages API.
//!
//! Facts from <https://platform.claude.com/docs/en/api/messages> and the pages it links to, and
//! from the types of Anthropic's Python SDK; read 2026-11.

pub mod encode;
mod encode_stream;
pub mod error;
mod history;
mod names;
pub mod request;
pub mod response;
pub mod tap;
pub mod to_chat;
pub mod usage;

pub use encode::MessagesEncoder;
pub use request::{MessagesRequest, Role, Turn};
pub use response::{
    Block, BlockStart, Delta, ErrorBody, ErrorObject, MessageStart, MessagesResponse, StreamEvent,
};
pub use tap::{MessagesTap, usage_of_body};
pub use to_chat::to_chat;
pub use usage::UsageCounts;
