//! The request's body, read whole and scanned once.

use bytes::Bytes;
use tollway_wire::operation::Operation;
use tollway_wire::scan::Object;

/// A model call's body and where its members are. Filters read members through it and never parse
/// the body again.
#[derive(Clone, Debug)]
pub struct RequestView {
    /// What is asked for.
    pub operation: Operation,
    /// The body as the client sent it: valid JSON, an object without duplicate members.
    pub body: Bytes,
    /// Where its top-level members are.
    pub object: Object,
    /// Whether `"stream": true`.
    pub stream: bool,
    /// Whether `stream_options.include_usage` is true.
    pub include_usage: bool,
}
