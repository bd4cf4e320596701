//! The dialects on the wire, and what can be read from them without any I/O.
//!
//! This crate knows bytes, not connections: the types of OpenAI, Anthropic and Gemini and what puts
//! one into the other ([`client`] is the way in), the framing of server-sent events and of Amazon's
//! event stream, forms, the byte scanner that finds the few members of a request that matter, token
//! usage, and what that usage costs. Everything here is pure, so that the exchange, the agent loop
//! and the tests share it as it is.

pub mod anthropic;
pub mod base64;
pub mod batch;
pub mod calendar;
pub mod client;
pub mod count;
pub mod event_log;
pub mod event_stream;
pub mod form;
pub mod gemini;
pub mod openai;
pub mod operation;
pub mod price;
pub mod realtime;
pub mod responses;
pub mod scan;
pub mod splice;
pub mod sse;
pub mod surrogate;
pub mod tap;
pub mod thought;
pub mod traceparent;
pub mod usage;
pub mod varint;
