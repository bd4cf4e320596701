//! Every client dialect against every family of providers: one request for each of {whole, stream}
//! and {text, tool call, thinking}. What the provider said must reach the client, and every count of
//! tokens, the client's and that of `/metrics`, must be what the provider would bill.
//!
//! The details of each translation are golden tests (`src/providers/tests`, `src/wire/tests`); this
//! is about the whole way: route, lane, credentials, connection, framing, metering.

use serde_json::{Value, json};
use tollway_simulator::Reply;
use tollway_tests::setup::Setup;
use tollway_tests::{Response, post};

const TEXT: &str = "The \"north\" gate is open, naïvely: 門 🌉.";
const THOUGHT: &str = "First the gate, then the tide.";
const TOOL: &str = "get_weather";
const ARGUMENTS: &str = r#"{"city":"Zürich","days":[1,2]}"#;

/// What a client may speak.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Client {
    Chat,
    Completions,
    Responses,
    Messages,
    Gemini,
}

/// What the provider is made to say.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Said {
    Text,
    Tool,
    Thinking,
}

/// What reached the client, whatever it speaks.
#[derive(Debug, Default, PartialEq)]
struct Seen {
    text: String,
    tool: Option<(String, Value)>,
    thinking: String,
    stop: String,
    tokens: (u64, u64),
}

impl Said {
    fn reply(self) -> Reply {
        match self {
            Said::Text => Reply::text(TEXT),
            Said::Tool => Reply::tool(TOOL, ARGUMENTS),
            Said::Thinking => Reply::text(TEXT).thinking(THOUGHT),
        }
    }
}

impl Client {
    const ALL: [Client; 5] =
        [Client::Chat, Client::Completions, Client::Responses, Client::Messages, Client::Gemini];

    /// Path and body of a request.
    fn request(self, model: &str, said: Said, stream: bool) -> (String, Value) {
        let schema = json!({"type": "object", "properties": {"city": {"type": "string"}}});
        let (tool, think) = (said == Said::Tool, said == Said::Thinking);
        let question = "Is the gate open?";
        let (path, mut body) = match self {
            Client::Chat => {
                let mut body = json!({"messages": [{"role": "user", "content": question}]});
                if tool {
                    let function = json!({"name": TOOL, "parameters": schema});
                    body["tools"] = json!([{"type": "function", "function": function}]);
                }
                if think {
                    body["reasoning_effort"] = "low".into();
                }
                if stream {
                    body["stream_options"] = json!({"include_usage": true});
                }
                ("/v1/chat/completions".to_owned(), body)
            }
            Client::Completions => {
                let mut body = json!({"prompt": question, "max_tokens": 500});
                if stream {
                    body["stream_options"] = json!({"include_usage": true});
                }
                ("/v1/completions".to_owned(), body)
            }
            Client::Responses => {
                let mut body = json!({"input": question});
                if tool {
                    body["tools"] =
                        json!([{"type": "function", "name": TOOL, "parameters": schema}]);
                }
                if think {
                    body["reasoning"] = json!({"effort": "low", "summary": "auto"});
                }
                ("/v1/responses".to_owned(), body)
            }
            Client::Messages => {
                let messages = json!([{"role": "user", "content": question}]);
                let mut body = json!({"max_tokens": 4000, "messages": messages});
                if tool {
                    body["tools"] = json!([{"name": TOOL, "input_schema": schema}]);
                }
                if think {
                    body["thinking"] = json!({"type": "enabled", "budget_tokens": 1024});
                }
                ("/v1/messages".to_owned(), body)
            }
            Client::Gemini => {
                let parts = json!([{"text": question}]);
                let mut body = json!({"contents": [{"role": "user", "parts": parts}]});
                if tool {
                    let function = json!({"name": TOOL, "parameters": schema});
                    body["tools"] = json!([{"functionDeclarations": [function]}]);
                }
                if think {
                    body["generationConfig"]["thinkingConfig"] =
                        json!({"includeThoughts": true, "thinkingBudget": 1024});
                }
                let method =
                    if stream { "streamGenerateContent?alt=sse" } else { "generateContent" };
                return (format!("/v1beta/models/{model}:{method}"), body);
            }
        };
        body["model"] = model.into();
        if stream {
            body["stream"] = true.into();
        }
        (path, body)
    }

    /// How it is told that a model has said all, or wants a tool.
    fn stop(self, said: Said) -> &'static str {
        match (self, said == Said::Tool) {
            (Client::Chat, true) => "tool_calls",
            (Client::Chat | Client::Completions, _) => "stop",
            (Client::Messages, true) => "tool_use",
            (Client::Messages, false) => "end_turn",
            (Client::Responses, _) => "completed",
            (Client::Gemini, _) => "STOP",
        }
    }

    /// Reads an answer: a whole one is read as the only event of a stream.
    fn read(self, response: &Response, stream: bool) -> Seen {
        let mut seen = Seen::default();
        let mut arguments = String::new();
        let body = response.text();
        let events: Vec<&str> = match stream {
            true => body.lines().filter_map(|line| line.strip_prefix("data: ")).collect(),
            false => vec![&body],
        };
        for event in events.into_iter().filter(|event| *event != "[DONE]") {
            let event: Value = serde_json::from_str(event).expect("an event is JSON");
            match self {
                Client::Chat | Client::Completions => seen.chat(&event, &mut arguments),
                Client::Responses => seen.responses(&event, &mut arguments),
                Client::Messages => seen.messages(&event, &mut arguments),
                Client::Gemini => seen.gemini(&event),
            }
        }
        if let Some((_, input)) = seen.tool.as_mut().filter(|_| !arguments.is_empty()) {
            *input = serde_json::from_str(&arguments).unwrap_or(arguments.into());
        }
        seen
    }
}

/// A text, or none.
fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// A list, or none.
fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

impl Seen {
    fn count(&mut self, input: &Value, output: u64) {
        if let Some(input) = input.as_u64() {
            self.tokens = (input, output);
        }
    }

    fn stop(&mut self, stop: &Value) {
        if let Some(stop) = stop.as_str() {
            self.stop = stop.to_owned();
        }
    }

    fn chat(&mut self, event: &Value, arguments: &mut String) {
        for choice in list(&event["choices"]) {
            let message = choice.get("message").or(choice.get("delta")).unwrap_or(choice);
            self.text.push_str(text(&message["content"]));
            self.text.push_str(text(&message["text"]));
            self.thinking.push_str(text(&message["reasoning_content"]));
            for call in list(&message["tool_calls"]) {
                if let Some(name) = call["function"]["name"].as_str().filter(|n| !n.is_empty()) {
                    self.tool = Some((name.to_owned(), Value::Null));
                }
                arguments.push_str(text(&call["function"]["arguments"]));
            }
            self.stop(&choice["finish_reason"]);
        }
        let usage = &event["usage"];
        self.count(&usage["prompt_tokens"], usage["completion_tokens"].as_u64().unwrap_or(0));
    }

    fn responses(&mut self, event: &Value, arguments: &mut String) {
        let response = match event["type"].as_str() {
            None => event,
            Some("response.completed") => &event["response"],
            Some("response.output_text.delta") => {
                return self.text.push_str(text(&event["delta"]));
            }
            Some("response.reasoning_summary_text.delta") => {
                return self.thinking.push_str(text(&event["delta"]));
            }
            Some("response.function_call_arguments.delta") => {
                return arguments.push_str(text(&event["delta"]));
            }
            Some(_) => return,
        };
        let mut whole = Seen::default();
        for item in list(&response["output"]) {
            for part in list(&item["content"]).iter().chain(list(&item["summary"])) {
                match text(&part["type"]) {
                    "summary_text" => whole.thinking.push_str(text(&part["text"])),
                    _ => whole.text.push_str(text(&part["text"])),
                }
            }
            if item["type"] == "function_call" {
                let input = serde_json::from_str(text(&item["arguments"]));
                let input = input.unwrap_or_else(|_| item["arguments"].clone());
                whole.tool = Some((text(&item["name"]).to_owned(), input));
            }
        }
        // At the end of a stream everything is said once more.
        if event["type"].is_string() {
            assert_eq!((&whole.text, &whole.thinking), (&self.text, &self.thinking));
        }
        *self = whole;
        self.stop(&response["status"]);
        let usage = &response["usage"];
        self.count(&usage["input_tokens"], usage["output_tokens"].as_u64().unwrap_or(0));
    }

    fn messages(&mut self, event: &Value, arguments: &mut String) {
        let begun = event.get("content_block");
        for block in list(&event["content"]).iter().chain(begun).chain(event.get("delta")) {
            self.text.push_str(text(&block["text"]));
            self.thinking.push_str(text(&block["thinking"]));
            arguments.push_str(text(&block["partial_json"]));
            if block["type"] == "tool_use" {
                self.tool = Some((text(&block["name"]).to_owned(), block["input"].clone()));
            }
        }
        self.stop(&event["stop_reason"]);
        self.stop(&event["delta"]["stop_reason"]);
        let usage = event["message"].get("usage").unwrap_or(&event["usage"]);
        let input = usage["input_tokens"].as_u64().unwrap_or(self.tokens.0);
        self.tokens = (input, usage["output_tokens"].as_u64().unwrap_or(self.tokens.1));
    }

    fn gemini(&mut self, event: &Value) {
        for candidate in list(&event["candidates"]) {
            for part in list(&candidate["content"]["parts"]) {
                match part["thought"] == true {
                    true => self.thinking.push_str(text(&part["text"])),
                    false => self.text.push_str(text(&part["text"])),
                }
                if let Some(call) = part.get("functionCall") {
                    self.tool = Some((text(&call["name"]).to_owned(), call["args"].clone()));
                }
            }
            self.stop(&candidate["finishReason"]);
        }
        let usage = &event["usageMetadata"];
        let output = |name: &str| usage[name].as_u64().unwrap_or(0);
        self.count(
            &usage["promptTokenCount"],
            output("candidatesTokenCount") + output("thoughtsTokenCount"),
        );
    }
}

/// Every client against one deployment: `model` and its other parameters.
async fn check(parameters: &str) {
    let config = format!(
        "
model_list:
  - model_name: subject
    litellm_params: {{ {parameters}, api_key: $KEY }}
litellm_settings: {{ drop_params: true }}
router_settings: {{ num_retries: 0, disable_cooldowns: true }}
"
    );
    let setup = Setup::with(&config).await;
    let mut wrong = Vec::new();
    for client in Client::ALL {
        for said in [Said::Text, Said::Tool, Said::Thinking] {
            // Neither has a place in a legacy completion.
            if client == Client::Completions && said != Said::Text {
                continue;
            }
            for stream in [false, true] {
                let what = format!("{client:?} {said:?} stream={stream}");
                let before = setup.simulator.billed();
                setup.simulator.enqueue(said.reply());
                let (path, body) = client.request("subject", said, stream);
                let response = post(setup.gateway.address, &path, &body).await;
                if response.status != 200 {
                    wrong.push(format!("{what}: {} {}", response.status, response.text()));
                    continue;
                }
                let after = setup.simulator.billed();
                let call = || (TOOL.to_owned(), serde_json::from_str(ARGUMENTS).expect("JSON"));
                let expected = Seen {
                    text: if said == Said::Tool { "" } else { TEXT }.to_owned(),
                    tool: (said == Said::Tool).then(call),
                    thinking: if said == Said::Thinking { THOUGHT } else { "" }.to_owned(),
                    stop: client.stop(said).to_owned(),
                    tokens: (
                        after.prompt_tokens - before.prompt_tokens,
                        after.completion_tokens - before.completion_tokens,
                    ),
                };
                let seen = client.read(&response, stream);
                if seen != expected {
                    wrong.push(format!("{what}:\n  {seen:?}\n  {expected:?}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let billed = setup.simulator.billed();
    for (metric, tokens) in [
        ("litellm_input_tokens_metric_total", billed.prompt_tokens),
        ("litellm_output_tokens_metric_total", billed.completion_tokens),
    ] {
        let counted = |now: f64| now as u64 == tokens;
        setup.gateway.metric_becomes(metric, &["model=\"", "subject"], counted).await;
    }
}

#[tokio::test]
async fn openai_serves_every_client() {
    check("model: openai/gpt-5-mini, api_base: $SIM/v1").await;
}

#[tokio::test]
async fn a_compatible_provider_serves_every_client() {
    check("model: deepseek/deepseek-reasoner, api_base: $SIM/v1").await;
}

#[tokio::test]
async fn mistral_serves_every_client() {
    check("model: mistral/mistral-large-latest, api_base: $SIM/v1").await;
}

#[tokio::test]
async fn azure_serves_every_client() {
    check("model: azure/gpt-4o-mini, api_version: \"2024-10-21\", api_base: $SIM").await;
}

#[tokio::test]
async fn anthropic_serves_every_client() {
    check("model: anthropic/claude-sonnet-4-5-20250929, api_base: $SIM").await;
}

#[tokio::test]
async fn gemini_serves_every_client() {
    check("model: gemini/gemini-2.5-flash, api_base: $SIM").await;
}

#[tokio::test]
async fn vertex_ai_serves_every_client() {
    check("model: vertex_ai/gemini-2.5-flash, vertex_project: p, api_base: $SIM").await;
}

#[tokio::test]
async fn claude_on_vertex_ai_serves_every_client() {
    check("model: vertex_ai/claude-sonnet-4-5@20250929, vertex_project: p, api_base: $SIM").await;
}

#[tokio::test]
async fn bedrock_serves_every_client() {
    check("model: bedrock/amazon.nova-pro-v1:0, api_base: $SIM").await;
}

#[tokio::test]
async fn claude_on_bedrock_serves_every_client() {
    check("model: bedrock/anthropic.claude-sonnet-4-5-20250929-v1:0, api_base: $SIM").await;
}

#[tokio::test]
async fn claude_on_bedrock_by_converse_serves_every_client() {
    let model = "bedrock/converse/anthropic.claude-sonnet-4-5-20250929-v1:0";
    check(&format!("model: {model}, api_base: $SIM")).await;
}

#[tokio::test]
async fn claude_on_bedrock_by_invoke_serves_every_client() {
    let model = "bedrock/invoke/anthropic.claude-sonnet-4-5-20250929-v1:0";
    check(&format!("model: {model}, api_base: $SIM")).await;
}

#[tokio::test]
async fn cohere_serves_every_client() {
    check("model: cohere/command-a-03-2025, api_base: $SIM").await;
}
