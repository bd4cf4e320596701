//! Whole answers, as other providers' are written in OpenAI's form.

use serde_json::{Map, Value, json};
use tollway_wire::openai::request::{FunctionCall, ToolCall};
use tollway_wire::openai::response::{ChatResponse, Choice, ResponseMessage};
use tollway_wire::openai::usage::UsageObject;
use tollway_wire::usage::Usage;

use crate::tools::JSON_TOOL;
use crate::{Asked, DecodeError, Decoder};

/// Decodes answers of a kind that never comes as a stream.
pub(crate) trait WholeDecoder: Send {
    /// What is said of a stream of them.
    const NO_STREAM: &str;

    /// As [`Decoder::whole`].
    fn translate(&mut self, body: &[u8]) -> Result<Vec<u8>, DecodeError>;

    /// As [`Decoder::usage`].
    fn counted(&self) -> Option<Usage> {
        None
    }
}

impl<D: WholeDecoder> Decoder for D {
    fn whole(&mut self, body: &[u8]) -> Result<Vec<u8>, DecodeError> {
        self.translate(body)
    }

    fn stream(&mut self, _bytes: &[u8], _out: &mut Vec<u8>) -> Result<(), DecodeError> {
        Err(DecodeError::Malformed(D::NO_STREAM.into()))
    }

    fn finish(&mut self, _out: &mut Vec<u8>) -> Result<(), DecodeError> {
        Err(DecodeError::Truncated)
    }

    fn usage(&self) -> Option<Usage> {
        self.counted()
    }
}

/// Writes a chat completion.
pub(crate) fn completion(
    id: String,
    asked: &Asked,
    choices: Vec<Choice>,
    usage: Option<UsageObject>,
    extra: Map<String, Value>,
) -> Result<Vec<u8>, DecodeError> {
    let response = ChatResponse {
        id,
        object: "chat.completion".into(),
        created: asked.created,
        model: asked.model.clone(),
        choices,
        usage,
        extra,
    };
    serde_json::to_vec(&response)
        .map_err(|error| DecodeError::Malformed(format!("the answer cannot be written: {error}")))
}

/// What the content blocks of Anthropic's and Bedrock's answers come to.
#[derive(Default)]
pub(crate) struct Parts {
    text: Option<String>,
    reasoning: Option<String>,
    thinking_blocks: Vec<Value>,
    tool_calls: Vec<ToolCall>,
    /// The input of the tool that stands in for structured output.
    json: Option<String>,
    citations: Vec<Value>,
    annotations: Vec<Value>,
    pub(crate) images: Vec<Value>,
    pub(crate) search_results: Vec<Value>,
}

impl Parts {
    /// Whether there are calls.
    pub(crate) fn has_calls(&self) -> bool {
        !self.tool_calls.is_empty()
    }

    /// Whether the answer is the input of the tool that stands in for structured output.
    pub(crate) fn is_json(&self) -> bool {
        self.json.is_some() && self.tool_calls.is_empty()
    }

    pub(crate) fn add_text(&mut self, text: &str) {
        self.text.get_or_insert_default().push_str(text);
    }

    /// Adds text and what it cites; `url` is where a citation of something on the web has its
    /// address.
    pub(crate) fn add_cited(&mut self, text: &str, citations: Vec<Value>, url: &str) {
        let before = self.text.get_or_insert_default();
        if !citations.is_empty() {
            let start = before.chars().count();
            let end = start + text.chars().count();
            let annotations = citations.iter().filter_map(|citation| {
                let url = citation.pointer(url)?.as_str()?;
                let title = citation.get("title").and_then(Value::as_str).unwrap_or_default();
                Some(json!({"type": "url_citation", "url_citation": {
                    "start_index": start, "end_index": end, "url": url, "title": title,
                }}))
            });
            self.annotations.extend(annotations);
            self.citations.push(citations.into());
        }
        before.push_str(text);
    }

    pub(crate) fn add_thinking(&mut self, text: &str, signature: &str) {
        self.reasoning.get_or_insert_default().push_str(text);
        self.thinking_blocks
            .push(json!({"type": "thinking", "thinking": text, "signature": signature}));
    }

    pub(crate) fn add_redacted(&mut self, data: Option<Value>) {
        self.thinking_blocks.push(json!({"type": "redacted_thinking", "data": data}));
    }

    pub(crate) fn add_call(
        &mut self,
        id: Option<String>,
        name: String,
        arguments: String,
    ) -> Result<(), DecodeError> {
        if name == JSON_TOOL {
            self.json = Some(arguments);
            return Ok(());
        }
        let id = id.ok_or_else(|| DecodeError::Malformed("a tool call has no id".into()))?;
        let function = FunctionCall { name, arguments };
        let extra = Map::new();
        self.tool_calls.push(ToolCall { id, kind: "function".into(), function, extra });
        Ok(())
    }

    pub(crate) fn into_choice(self, reason: &str) -> Choice {
        Choice {
            message: self.into_message(),
            finish_reason: Some(reason.into()),
            ..Choice::default()
        }
    }

    fn into_message(self) -> ResponseMessage {
        let some = |list: Vec<Value>| (!list.is_empty()).then_some(list);
        let object = |lists: [(&str, Vec<Value>); 2]| -> Map<String, Value> {
            let lists = lists.into_iter().filter(|(_, list)| !list.is_empty());
            lists.map(|(name, list)| (name.to_owned(), list.into())).collect()
        };
        let mut extra = object([("annotations", self.annotations), ("images", self.images)]);
        let fields =
            object([("citations", self.citations), ("web_search_results", self.search_results)]);
        if !fields.is_empty() {
            extra.insert("provider_specific_fields".into(), fields.into());
        }
        let no_calls = self.tool_calls.is_empty();
        ResponseMessage {
            role: "assistant".into(),
            // Content is null where there is nothing but calls, and empty where there is nothing.
            content: self.json.or(self.text).or_else(|| no_calls.then(String::new)),
            refusal: None,
            tool_calls: (!no_calls).then_some(self.tool_calls),
            reasoning_content: self.reasoning,
            thinking_blocks: some(self.thinking_blocks),
            extra,
        }
    }
}
