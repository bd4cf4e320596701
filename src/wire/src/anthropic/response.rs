//! Answers: whole, in events, and errors. What is copied to the client stays raw JSON, so that a
//! string is neither unescaped nor escaped again on its way.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::usage::UsageCounts;

/// An answer that is not a stream.
#[derive(Debug, Deserialize)]
pub struct MessagesResponse<'a> {
    /// The message's id.
    #[serde(borrow, default)]
    pub id: Cow<'a, str>,
    /// Its content blocks.
    #[serde(borrow)]
    pub content: Vec<Block<'a>>,
    /// Why the model stopped.
    #[serde(default)]
    pub stop_reason: Option<String>,
    /// What it took.
    #[serde(default)]
    pub usage: Option<UsageCounts>,
}

/// A content block of an answer.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Block<'a> {
    /// `text`, `thinking`, `redacted_thinking`, `tool_use`, or one of the blocks of Anthropic's own
    /// tools.
    #[serde(rename = "type", borrow)]
    pub kind: Cow<'a, str>,
    /// The text of a `text` block.
    pub text: Option<String>,
    /// Where the text comes from.
    #[serde(borrow)]
    pub citations: Option<Vec<&'a RawValue>>,
    /// The text of a `thinking` block.
    pub thinking: Option<String>,
    /// The signature of a `thinking` block.
    pub signature: Option<String>,
    /// The content of a `redacted_thinking` block.
    #[serde(borrow)]
    pub data: Option<&'a RawValue>,
    /// The id of a `tool_use` block.
    pub id: Option<String>,
    /// The tool's name.
    pub name: Option<String>,
    /// The tool's input: a JSON object.
    #[serde(borrow)]
    pub input: Option<&'a RawValue>,
    /// What one of Anthropic's own tools found.
    #[serde(borrow)]
    pub content: Option<&'a RawValue>,
}

/// One event of a stream. One type for all kinds: a tagged enum would have serde copy every event
/// before it knows its kind.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct StreamEvent<'a> {
    /// `message_start`, `content_block_delta` …
    #[serde(rename = "type", borrow)]
    pub kind: Cow<'a, str>,
    /// The content block it is about.
    pub index: u64,
    /// Of `content_block_delta` and `message_delta`.
    #[serde(borrow)]
    pub delta: Option<Delta<'a>>,
    /// Of `message_start`.
    #[serde(borrow)]
    pub message: Option<MessageStart<'a>>,
    /// Of `content_block_start`.
    #[serde(borrow)]
    pub content_block: Option<BlockStart<'a>>,
    /// Of `message_delta`.
    pub usage: Option<UsageCounts>,
    /// Of `error`.
    pub error: Option<ErrorObject>,
}

/// What `message_start` says of the message.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct MessageStart<'a> {
    /// The message's id.
    #[serde(borrow)]
    pub id: Cow<'a, str>,
    /// The input tokens, and what else is known at the start.
    pub usage: Option<UsageCounts>,
}

/// What `content_block_start` says of the block. Strings stay raw.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct BlockStart<'a> {
    /// As in [`Block`].
    #[serde(rename = "type", borrow)]
    pub kind: Cow<'a, str>,
    /// The text a `text` block begins with: usually none.
    #[serde(borrow)]
    pub text: Option<&'a RawValue>,
    /// The text a `thinking` block begins with: usually none.
    #[serde(borrow)]
    pub thinking: Option<&'a RawValue>,
    /// The content of a `redacted_thinking` block.
    #[serde(borrow)]
    pub data: Option<&'a RawValue>,
    /// The id of a `tool_use` block.
    #[serde(borrow)]
    pub id: Option<&'a RawValue>,
    /// The tool's name.
    #[serde(borrow)]
    pub name: Option<&'a RawValue>,
    /// The tool's input, where it is not sent in pieces.
    #[serde(borrow)]
    pub input: Option<&'a RawValue>,
}

/// What is new. Strings stay raw.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Delta<'a> {
    /// `text_delta`, `input_json_delta` … Empty in a `message_delta`.
    #[serde(rename = "type", borrow)]
    pub kind: Cow<'a, str>,
    /// More text.
    #[serde(borrow)]
    pub text: Option<&'a RawValue>,
    /// More of a tool's input.
    #[serde(borrow)]
    pub partial_json: Option<&'a RawValue>,
    /// More thinking.
    #[serde(borrow)]
    pub thinking: Option<&'a RawValue>,
    /// The signature of the thinking before.
    #[serde(borrow)]
    pub signature: Option<&'a RawValue>,
    /// Where the text before comes from.
    #[serde(borrow)]
    pub citation: Option<&'a RawValue>,
    /// Why the model stopped.
    pub stop_reason: Option<String>,
}

/// The body of an answer whose status says error, and of an `error` event.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct ErrorBody {
    /// What went wrong.
    pub error: ErrorObject,
}

/// What went wrong.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct ErrorObject {
    /// `invalid_request_error`, `overloaded_error` …
    #[serde(rename = "type")]
    pub kind: String,
    /// The text for humans.
    pub message: String,
}
