//! A chat request, typed. Members that are not named here survive in `extra`.

use std::fmt;

use serde::de::{self, Deserializer, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Number, Value};

/// The body of `POST /v1/chat/completions`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ChatRequest {
    /// The model to ask.
    pub model: String,
    /// The conversation so far.
    pub messages: Vec<Message>,
    /// The tools the model may call.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tools: Option<Vec<Value>>,
    /// `auto`, `none`, `required`, or one tool by name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tool_choice: Option<Value>,
    /// Whether one answer may hold several tool calls.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parallel_tool_calls: Option<bool>,
    /// The form the answer must have.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub response_format: Option<ResponseFormat>,
    /// How hard a reasoning model thinks: a level by name, or LiteLLM's object with `effort`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reasoning_effort: Option<Value>,
    /// Anthropic's `thinking`, which LiteLLM takes from OpenAI clients.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub thinking: Option<Value>,
    /// Where to stop: one sequence or several.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop: Option<Stop>,
    /// The older name of `max_completion_tokens`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_tokens: Option<u64>,
    /// The most tokens the answer may have, reasoning included.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_completion_tokens: Option<u64>,
    /// Sampling temperature, 0 to 2.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub temperature: Option<Number>,
    /// Nucleus sampling.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top_p: Option<Number>,
    /// How many answers are asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub n: Option<u64>,
    /// Whether the answer comes as events.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stream: Option<bool>,
    /// What a stream carries besides its content.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stream_options: Option<Value>,
    /// The end user, as the client calls them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// What the client keeps with the request. LiteLLM keeps it for itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metadata: Option<Value>,
    /// Whether each token comes with its log probability.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub logprobs: Option<bool>,
    /// How many alternatives each token comes with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top_logprobs: Option<u64>,
    /// Penalty for tokens by how often they were used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub frequency_penalty: Option<Number>,
    /// Penalty for tokens that were used at all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub presence_penalty: Option<Number>,
    /// Everything else.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// One turn of the conversation. One type for all roles, because providers and frameworks mix
/// their members freely.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Message {
    /// `system`, `developer`, `user`, `assistant` or `tool`.
    pub role: String,
    /// What was said. Null in an assistant's turn that only calls tools.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content: Option<Content>,
    /// The name of who speaks.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The tools the assistant called.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tool_calls: Option<Vec<ToolCall>>,
    /// In a `tool` turn, the call it answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tool_call_id: Option<String>,
    /// Anthropic's signed thinking, which must be handed back as it came.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub thinking_blocks: Option<Vec<Value>>,
    /// Thinking as text, which is not handed back to Anthropic: it carries no signature.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reasoning_content: Option<String>,
    /// Anthropic's cache mark on the whole turn.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache_control: Option<Value>,
    /// Everything else.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// A turn's content: text, or parts.
#[derive(Clone, Debug, PartialEq)]
pub enum Content {
    /// Plain text.
    Text(String),
    /// Text, images, files and so on.
    Parts(Vec<Part>),
}

impl Content {
    /// The text of it, parts joined as they are.
    pub fn text(&self) -> String {
        match self {
            Content::Text(text) => text.clone(),
            Content::Parts(parts) => parts.iter().filter_map(|part| part.text.as_deref()).collect(),
        }
    }
}

impl Serialize for Content {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Content::Text(text) => serializer.serialize_str(text),
            Content::Parts(parts) => parts.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Content {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ContentVisitor;
        impl<'de> Visitor<'de> for ContentVisitor {
            type Value = Content;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string or an array of content parts")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Content, E> {
                Ok(Content::Text(text.to_owned()))
            }
            fn visit_string<E: de::Error>(self, text: String) -> Result<Content, E> {
                Ok(Content::Text(text))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut parts: A) -> Result<Content, A::Error> {
                let mut all = Vec::new();
                while let Some(part) = parts.next_element()? {
                    all.push(part);
                }
                Ok(Content::Parts(all))
            }
            // One part without its array, which some frameworks send.
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Content, A::Error> {
                let part = Part::deserialize(de::value::MapAccessDeserializer::new(map))?;
                Ok(Content::Parts(vec![part]))
            }
        }
        deserializer.deserialize_any(ContentVisitor)
    }
}

/// One part of a turn's content.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Part {
    /// `text`, `image_url`, `file`, `input_audio`, or a kind only one provider knows.
    #[serde(rename = "type")]
    pub kind: String,
    /// The text of a `text` part.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// The image of an `image_url` part.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image_url: Option<ImageUrl>,
    /// The document of a `file` part.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<FilePart>,
    /// Anthropic's cache mark.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache_control: Option<Value>,
    /// Everything else.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// An image: its URL, which may be a data URL.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum ImageUrl {
    /// Only the URL, which LiteLLM accepts.
    Url(String),
    /// OpenAI's form.
    Object {
        /// The URL.
        url: String,
        /// LiteLLM's media type, for URLs that do not tell.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        format: Option<String>,
        /// OpenAI's `detail` and everything else.
        #[serde(flatten)]
        extra: Map<String, Value>,
    },
}

/// A document: uploaded before, or in place.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct FilePart {
    /// The id of an uploaded file; LiteLLM also takes a URL here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file_id: Option<String>,
    /// The document as a data URL.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file_data: Option<String>,
    /// Its name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub filename: Option<String>,
    /// LiteLLM's media type, for data that does not tell.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub format: Option<String>,
    /// Everything else.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// A tool the assistant called.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ToolCall {
    /// The name of this call, which the tool's answer repeats.
    pub id: String,
    /// `function`.
    #[serde(rename = "type")]
    pub kind: String,
    /// What is called, and with what.
    pub function: FunctionCall,
    /// `index` in streams, Anthropic's `cache_control`, and everything else.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// The function of a tool call.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct FunctionCall {
    /// Its name.
    #[serde(deserialize_with = "null_as_default")]
    pub name: String,
    /// Its arguments: JSON, written as a string by the model and not checked by anybody.
    #[serde(deserialize_with = "null_as_default")]
    pub arguments: String,
}

/// Reads null as the type's default, which some clients send for an empty string.
fn null_as_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

/// The form the answer must have.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ResponseFormat {
    /// `text`, `json_object` or `json_schema`.
    #[serde(rename = "type")]
    pub kind: String,
    /// For `json_schema`: `name`, `schema`, `strict`, `description`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub json_schema: Option<Value>,
    /// LiteLLM's `response_schema` and everything else.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

impl ResponseFormat {
    /// The JSON schema, wherever the client put it.
    pub fn schema(&self) -> Option<&Value> {
        let named = self.json_schema.as_ref().and_then(|named| named.get("schema"));
        named.or_else(|| self.extra.get("response_schema")).filter(|schema| schema.is_object())
    }
}

/// Where to stop.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Stop {
    /// At one sequence.
    One(String),
    /// At any of several.
    Several(Vec<String>),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_survives_being_read_and_written() {
        let text = r#"{"model":"m","messages":[{"role":"developer","content":"Be brief."},
            {"role":"user","content":[{"type":"text","text":"hi","cache_control":{"type":"ephemeral"}},
              {"type":"image_url","image_url":{"url":"https://x/y.png","detail":"low"}},
              {"type":"file","file":{"file_id":"f1"}},
              {"type":"input_audio","input_audio":{"data":"AA==","format":"wav"}}]},
            {"role":"assistant","content":"calling","tool_calls":[{"id":"c1","type":"function","function":{"name":"f","arguments":"{}"}}],
             "thinking_blocks":[{"type":"thinking","thinking":"t","signature":"s"}]},
            {"role":"tool","content":"4","tool_call_id":"c1"}],
            "stop":["a","b"],"temperature":0.2,"seed":7,"x_unknown":{"deep":[1,2.5]}}"#;
        let request: ChatRequest = serde_json::from_str(text).expect("valid");
        let written: Value = serde_json::to_value(&request).expect("writes");
        assert_eq!(written, serde_json::from_str::<Value>(text).expect("valid"));
        assert_eq!(request.extra["seed"], 7);
    }

    #[test]
    fn nulls_are_the_same_as_absence() {
        let text = r#"{"model":"m","messages":[{"role":"assistant","content":null,"tool_calls":null}],
            "temperature":null,"stop":null,"tools":null,"n":null}"#;
        let request: ChatRequest = serde_json::from_str(text).expect("valid");
        assert_eq!((request.temperature, request.stop, request.n), (None, None, None));
    }
}
