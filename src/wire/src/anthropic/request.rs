//! A Messages request.
//!
//! Content blocks and tools stay JSON: there are dozens of kinds, each with members that only its
//! own feature knows, and what is not translated must survive as it is.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Number, Value};

/// The body of `POST /v1/messages`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct MessagesRequest {
    /// The model to ask.
    pub model: String,
    /// The most tokens the answer may have, thinking included. Anthropic demands it.
    pub max_tokens: u64,
    /// The system prompt: text, or text blocks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub system: Option<Value>,
    /// The conversation so far, in turns that alternate.
    pub messages: Vec<Turn>,
    /// The tools the model may call.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tools: Option<Vec<Value>>,
    /// Whether and what it must call.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tool_choice: Option<Value>,
    /// Whether and how long it thinks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub thinking: Option<Value>,
    /// `effort` and `format`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output_config: Option<Value>,
    /// Where to stop.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_sequences: Option<Vec<String>>,
    /// Sampling temperature, 0 to 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub temperature: Option<Number>,
    /// Nucleus sampling.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top_p: Option<Number>,
    /// `user_id`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metadata: Option<Value>,
    /// Whether the answer comes as events.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stream: Option<bool>,
    /// `top_k`, `service_tier`, `container`, `mcp_servers` and everything else.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// One turn of the conversation.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Turn {
    /// Whose turn it is.
    pub role: Role,
    /// Its content blocks. Anthropic also takes a string, which is short for one text block.
    pub content: Vec<Value>,
}

/// Whose turn it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// The client, and the tools it ran.
    User,
    /// The model.
    Assistant,
}
