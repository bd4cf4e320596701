//! The clients' dialects and the providers' families: how to ask in each, and what a client makes
//! of what it is streamed.

use serde_json::{Value, json};

use crate::client::Response;

/// A dialect in which clients ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Client {
    /// OpenAI's chat completions.
    Chat,
    /// OpenAI's Responses API.
    Responses,
    /// Anthropic's Messages API.
    Messages,
    /// Gemini's `generateContent`.
    Gemini,
}

/// One model of each family of providers, named like its family, all of them at the simulator.
pub const FAMILY_MODELS: &str = "
model_list:
  - model_name: openai
    litellm_params: { model: openai/gpt-4o-mini, api_key: $KEY, api_base: $SIM/v1 }
  - model_name: anthropic
    litellm_params: { model: anthropic/claude-sonnet-4-20250514, api_key: $KEY, api_base: $SIM }
  - model_name: gemini
    litellm_params: { model: gemini/gemini-2.5-flash, api_key: $KEY, api_base: $SIM }
  - model_name: vertex
    litellm_params: { model: vertex_ai/gemini-2.5-flash, api_key: $KEY, api_base: $SIM, vertex_project: p, vertex_location: us-central1 }
  - model_name: bedrock
    litellm_params: { model: 'bedrock/amazon.nova-pro-v1:0', aws_access_key_id: AKIA0000, aws_secret_access_key: $KEY, aws_region_name: us-east-1, api_base: $SIM }
  - model_name: bedrock-claude
    litellm_params: { model: 'bedrock/anthropic.claude-sonnet-4-20250514-v1:0', aws_access_key_id: AKIA0000, aws_secret_access_key: $KEY, aws_region_name: us-east-1, api_base: $SIM }
  - model_name: cohere
    litellm_params: { model: cohere/command-a-03-2025, api_key: $KEY, api_base: $SIM }
  - model_name: mistral
    litellm_params: { model: mistral/mistral-large-latest, api_key: $KEY, api_base: $SIM/v1 }
";

/// The names of [`FAMILY_MODELS`].
pub const FAMILIES: [&str; 8] =
    ["openai", "anthropic", "gemini", "vertex", "bedrock", "bedrock-claude", "cohere", "mistral"];

/// What a client has seen of a stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// The text.
    pub text: String,
    /// What was thought aloud.
    pub thinking: String,
    /// The arguments of all tool calls.
    pub arguments: String,
    /// How many events carried any of these.
    pub pieces: u64,
    /// Something said that the answer, or a part of it, is complete.
    pub ends: Vec<String>,
    /// The messages of error events.
    pub errors: Vec<String>,
    /// Whether an error was the last event.
    pub error_is_last: bool,
}

impl Client {
    /// All of them.
    pub const ALL: [Client; 4] =
        [Client::Chat, Client::Responses, Client::Messages, Client::Gemini];

    /// Where it asks `model`.
    pub fn path(self, model: &str, stream: bool) -> String {
        match self {
            Client::Chat => "/v1/chat/completions".into(),
            Client::Responses => "/v1/responses".into(),
            Client::Messages => "/v1/messages".into(),
            Client::Gemini if stream => {
                format!("/v1beta/models/{model}:streamGenerateContent?alt=sse")
            }
            Client::Gemini => format!("/v1beta/models/{model}:generateContent"),
        }
    }

    /// A request that says this, and may call the tool `find`.
    pub fn body(self, model: &str, said: &str, stream: bool) -> Value {
        let schema = json!({"type": "object", "properties": {"q": {"type": "string"}}});
        let function = json!({"name": "find", "description": "Finds.", "parameters": schema});
        match self {
            Client::Chat => json!({
                "model": model, "stream": stream,
                "messages": [{"role": "user", "content": said}],
                "tools": [{"type": "function", "function": function}],
            }),
            Client::Responses => json!({
                "model": model, "stream": stream, "input": said,
                "tools": [{"type": "function", "name": "find", "parameters": schema}],
            }),
            Client::Messages => json!({
                "model": model, "stream": stream, "max_tokens": 1000,
                "messages": [{"role": "user", "content": said}],
                "tools": [{"name": "find", "input_schema": schema}],
            }),
            Client::Gemini => json!({
                "contents": [{"role": "user", "parts": [{"text": said}]}],
                "tools": [{"functionDeclarations": [function]}],
                "generationConfig": {"thinkingConfig": {"includeThoughts": true}},
            }),
        }
    }

    /// Whether a whole answer is an error as this client knows it: its message.
    pub fn error_message(self, response: &Response) -> Option<String> {
        let body: Value = serde_json::from_slice(&response.body).ok()?;
        let error = &body["error"];
        let is_shaped = match self {
            Client::Chat | Client::Responses => error["type"].is_string(),
            Client::Messages => body["type"] == "error" && error["type"].is_string(),
            Client::Gemini => error["code"].is_u64() && error["status"].is_string(),
        };
        let message = error["message"].as_str().filter(|message| !message.is_empty());
        message.filter(|_| is_shaped && response.status >= 400).map(str::to_owned)
    }

    /// Whether the stream has said that it is complete.
    pub fn is_complete(self, seen: &Seen) -> bool {
        let last = match self {
            Client::Chat => "[DONE]",
            Client::Responses => "response.completed",
            Client::Messages => "message_stop",
            Client::Gemini => "finishReason",
        };
        seen.errors.is_empty() && seen.ends.last().is_some_and(|end| end == last)
    }

    /// Reads a stream's text.
    ///
    /// # Panics
    /// When an event is not what the dialect has.
    pub fn read(self, text: &str) -> Seen {
        let mut seen = Seen::default();
        let text = text.replace("\r\n", "\n");
        let rest = text.rsplit("\n\n").next().unwrap_or_default();
        assert_eq!(rest, "", "the last event is cut: {text}");
        for event in text.split("\n\n").filter(|event| !event.trim().is_empty()) {
            let data: Vec<&str> =
                event.lines().filter_map(|line| line.strip_prefix("data: ")).collect();
            if data.is_empty() {
                let fields = [":", "event:", "id:", "retry:"];
                let is_field = |line: &str| fields.iter().any(|field| line.starts_with(field));
                assert!(event.lines().all(is_field), "{event}");
                continue;
            }
            seen.error_is_last = false;
            if data == ["[DONE]"] {
                seen.ends.push("[DONE]".into());
                continue;
            }
            let json: Value = serde_json::from_str(&data.join("\n"))
                .unwrap_or_else(|error| panic!("{self:?} {error}: {event}"));
            match self {
                Client::Chat => seen.chat(&json),
                Client::Responses => seen.responses(&json),
                Client::Messages => seen.messages(&json),
                Client::Gemini => seen.gemini(&json),
            }
        }
        seen
    }
}

impl Seen {
    fn add(&mut self, to: impl FnOnce(&mut Seen) -> &mut String, piece: &Value) {
        if let Some(piece) = piece.as_str().filter(|piece| !piece.is_empty()) {
            to(self).push_str(piece);
            self.pieces += 1;
        }
    }

    fn error(&mut self, message: &Value) {
        self.errors.push(message.as_str().unwrap_or_default().to_owned());
        self.error_is_last = true;
    }

    fn chat(&mut self, event: &Value) {
        if event.get("error").is_some() {
            return self.error(&event["error"]["message"]);
        }
        for choice in event["choices"].as_array().into_iter().flatten() {
            let delta = &choice["delta"];
            self.add(|seen| &mut seen.text, &delta["content"]);
            self.add(|seen| &mut seen.thinking, &delta["reasoning_content"]);
            for call in delta["tool_calls"].as_array().into_iter().flatten() {
                self.add(|seen| &mut seen.arguments, &call["function"]["arguments"]);
            }
            if let Some(reason) = choice["finish_reason"].as_str() {
                self.ends.push(reason.to_owned());
            }
        }
    }

    fn responses(&mut self, event: &Value) {
        let kind = event["type"].as_str().expect("an event has a type");
        match kind {
            "error" => self.error(&event["message"]),
            "response.failed" => self.error(&event["response"]["error"]["message"]),
            "response.output_text.delta" => self.add(|seen| &mut seen.text, &event["delta"]),
            "response.function_call_arguments.delta" => {
                self.add(|seen| &mut seen.arguments, &event["delta"]);
            }
            _ if kind.contains("reasoning") && kind.ends_with(".delta") => {
                self.add(|seen| &mut seen.thinking, &event["delta"]);
            }
            "response.completed" | "response.incomplete" => self.ends.push(kind.to_owned()),
            _ if kind.ends_with(".done") => self.ends.push(kind.to_owned()),
            _ => {}
        }
    }

    fn messages(&mut self, event: &Value) {
        let kind = event["type"].as_str().expect("an event has a type");
        let delta = &event["delta"];
        match kind {
            "error" => self.error(&event["error"]["message"]),
            "content_block_delta" => {
                self.add(|seen| &mut seen.text, &delta["text"]);
                self.add(|seen| &mut seen.thinking, &delta["thinking"]);
                self.add(|seen| &mut seen.arguments, &delta["partial_json"]);
            }
            "message_delta" | "message_stop" | "content_block_stop" => {
                self.ends.push(kind.to_owned());
            }
            _ => {}
        }
    }

    fn gemini(&mut self, event: &Value) {
        if event.get("error").is_some() {
            return self.error(&event["error"]["message"]);
        }
        for candidate in event["candidates"].as_array().into_iter().flatten() {
            for part in candidate["content"]["parts"].as_array().into_iter().flatten() {
                match part["thought"] == true {
                    true => self.add(|seen| &mut seen.thinking, &part["text"]),
                    false => self.add(|seen| &mut seen.text, &part["text"]),
                }
                if let Some(call) = part.get("functionCall") {
                    self.add(|seen| &mut seen.arguments, &call["args"].to_string().into());
                }
            }
            if candidate["finishReason"].is_string() {
                self.ends.push("finishReason".into());
            }
        }
    }
}
