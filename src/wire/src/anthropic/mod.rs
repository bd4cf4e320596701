//! Anthropic's dialect: the Messages API.
//!
//! Facts from <https://platform.claude.com/docs/en/api/messages> and the pages it links to, and
//! from the types of Anthropic's Python SDK; read 2026-11.

pub mod request;
pub mod response;
pub mod usage;

pub use request::{MessagesRequest, Role, Turn};
pub use response::{
    Block, BlockStart, Delta, ErrorBody, ErrorObject, MessageStart, MessagesResponse, StreamEvent,
};
pub use usage::UsageCounts;
