//! The request's body, read whole and scanned once.

use std::ops::Range;

use bytes::Bytes;
use http::HeaderValue;
use tollway_wire::operation::{Dialect, Operation};
use tollway_wire::scan::Object;

/// A model call's body and where its members are. Filters read members through it and never parse
/// the body again.
#[derive(Clone, Debug)]
pub struct RequestView {
    /// What is asked for.
    pub operation: Operation,
    /// In whose words.
    pub dialect: Dialect,
    /// The body as the client sent it: valid JSON, an object without duplicate members. Where the
    /// path names the model, or that a stream is wanted, the members `model` and `stream` have been
    /// added. Of a form with files it holds the text fields.
    pub body: Bytes,
    /// Where its top-level members are.
    pub object: Object,
    /// Whether `"stream": true`.
    pub stream: bool,
    /// Whether `stream_options.include_usage` is true.
    pub include_usage: bool,
    /// The body as it came, where it is a form with files.
    pub form: Option<Box<Form>>,
}

/// A `multipart/form-data` body.
#[derive(Clone, Debug)]
pub struct Form {
    /// Its `content-type`, boundary included.
    pub content_type: HeaderValue,
    /// The whole body.
    pub bytes: Bytes,
    /// Where the value of the field `model` is in `bytes`; none, where only the path names the
    /// model.
    pub model: Option<Range<usize>>,
}
