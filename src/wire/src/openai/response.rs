//! Answers: whole, in chunks, and errors. Members that are not named here survive in `extra`.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::request::ToolCall;
use super::usage::UsageObject;

/// An answer that is not a stream.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ChatResponse {
    /// The answer's id.
    pub id: String,
    /// `chat.completion`.
    pub object: String,
    /// When it was made, in seconds since the Unix epoch.
    pub created: u64,
    /// The model that answered.
    pub model: String,
    /// One answer, or as many as were asked for.
    pub choices: Vec<Choice>,
    /// What it took.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usage: Option<UsageObject>,
    /// `system_fingerprint`, `service_tier` and everything else.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// One of the answers asked for.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Choice {
    /// Its place among them.
    pub index: u64,
    /// What the model said.
    pub message: ResponseMessage,
    /// Why it stopped: `stop`, `length`, `tool_calls` or `content_filter`.
    pub finish_reason: Option<String>,
    /// Log probabilities, if asked for.
    pub logprobs: Option<Value>,
    /// Everything else.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// What the model said.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ResponseMessage {
    /// `assistant`.
    pub role: String,
    /// The text. Null where there are only tool calls.
    pub content: Option<String>,
    /// The model's refusal, in its own words.
    pub refusal: Option<String>,
    /// The tools it wants called.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tool_calls: Option<Vec<ToolCall>>,
    /// Its thinking as text, where the provider shows it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reasoning_content: Option<String>,
    /// Anthropic's signed thinking, which the client must hand back.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub thinking_blocks: Option<Vec<Value>>,
    /// `annotations` and everything else.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

impl ResponseMessage {
    /// The thinking, under whichever of its two names the provider has for it: `reasoning_content`
    /// is DeepSeek's, `reasoning` that of Groq, OpenRouter, Cerebras and newer versions of vLLM
    /// (console.groq.com/docs/reasoning, openrouter.ai/docs/use-cases/reasoning-tokens, 2026-11).
    pub fn reasoning(&self) -> Option<&str> {
        thinking(self.reasoning_content.as_deref(), &self.extra)
    }
}

/// One event of a stream.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ChatChunk {
    /// The answer's id, the same in every chunk.
    pub id: String,
    /// `chat.completion.chunk`.
    pub object: String,
    /// When the answer was begun.
    pub created: u64,
    /// The model that answers.
    pub model: String,
    /// What is new. Empty in the chunk that carries the usage.
    pub choices: Vec<ChunkChoice>,
    /// What it took; in the last chunk, if asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usage: Option<UsageObject>,
    /// Everything else.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// What is new in one of the answers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ChunkChoice {
    /// The answer's place.
    pub index: u64,
    /// What is new of the message.
    pub delta: Delta,
    /// Why it stopped, in the answer's last chunk.
    pub finish_reason: Option<String>,
    /// Log probabilities, if asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub logprobs: Option<Value>,
    /// Everything else; `text` in a legacy completion.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// What is new of a message.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Delta {
    /// `assistant`, in the first chunk.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
    /// More text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content: Option<String>,
    /// More of a refusal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refusal: Option<String>,
    /// More thinking.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reasoning_content: Option<String>,
    /// More of tool calls: their first piece has id and name, the others only arguments.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tool_calls: Option<Vec<ToolCallDelta>>,
    /// More of Anthropic's signed thinking.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub thinking_blocks: Option<Vec<Value>>,
    /// Everything else.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

impl Delta {
    /// The thinking, under whichever of its two names the provider has for it: `reasoning_content`
    /// is DeepSeek's, `reasoning` that of Groq, OpenRouter, Cerebras and newer versions of vLLM
    /// (console.groq.com/docs/reasoning, openrouter.ai/docs/use-cases/reasoning-tokens, 2026-11).
    pub fn reasoning(&self) -> Option<&str> {
        thinking(self.reasoning_content.as_deref(), &self.extra)
    }
}

/// The first of the two names that says something: some send an empty one beside the other.
fn thinking<'a>(content: Option<&'a str>, extra: &'a Map<String, Value>) -> Option<&'a str> {
    let other = || extra.get("reasoning").and_then(Value::as_str);
    content.filter(|text| !text.is_empty()).or_else(other).filter(|text| !text.is_empty())
}

/// A piece of a tool call.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ToolCallDelta {
    /// Which of the answer's tool calls this belongs to.
    pub index: u64,
    /// The call's id, in its first piece.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// `function`, in its first piece.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// Name and arguments.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub function: Option<FunctionDelta>,
    /// Everything else.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// A piece of a function call.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct FunctionDelta {
    /// The function's name, in the first piece.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// More of the arguments.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub arguments: Option<String>,
}

/// The body of an answer whose status says error, and of an error inside a stream.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// What went wrong.
    pub error: ErrorObject,
}

/// What went wrong. OpenAI's specification requires all four members, null where there is none.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ErrorObject {
    /// The text for humans.
    pub message: String,
    /// The kind of error: `invalid_request_error` …
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// The parameter at fault.
    pub param: Option<String>,
    /// The machine-readable code: `context_length_exceeded` …
    pub code: Option<String>,
    /// The request's id, for dialects whose errors carry it. OpenAI's do not.
    #[serde(skip)]
    pub request_id: Option<String>,
}

impl ErrorObject {
    /// The body of an error answer.
    pub fn body(&self) -> Vec<u8> {
        serde_json::json!({ "error": self }).to_string().into_bytes()
    }

    /// An error inside a stream that has begun: one event. No `[DONE]` follows, because the answer
    /// is not complete.
    pub fn event(&self) -> Vec<u8> {
        let mut event = b"data: ".to_vec();
        event.extend(self.body());
        event.extend_from_slice(b"\n\n");
        event
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thinking_has_two_names() {
        for (json, expect) in [
            (r#"{"reasoning_content":"a"}"#, Some("a")),
            (r#"{"reasoning":"b"}"#, Some("b")),
            (r#"{"reasoning_content":"a","reasoning":"b"}"#, Some("a")),
            (r#"{"reasoning_content":"","reasoning":"b"}"#, Some("b")),
            (r#"{"reasoning_content":null,"reasoning":""}"#, None),
            (r#"{"reasoning":{"effort":"low"}}"#, None),
            ("{}", None),
        ] {
            let delta: Delta = serde_json::from_str(json).expect("valid");
            assert_eq!(delta.reasoning(), expect, "{json}");
            let message: ResponseMessage = serde_json::from_str(json).expect("valid");
            assert_eq!(message.reasoning(), expect, "{json}");
        }
    }
}
