//! A Messages request that goes through OpenAI's form to an Anthropic model comes out as it went in.
//!
//! This is what happens where Anthropic's models stand behind another API and bytes cannot pass; it
//! also tells what the client's side and the provider's side of the translation leave out.

use bytes::Bytes;
use serde_json::{Value, json};
use tollway_providers::presets::provider;
use tollway_providers::{Call, Target};
use tollway_wire::client;
use tollway_wire::operation::{Dialect, Operation};
use tollway_wire::scan::{Limits, scan};

const MODEL: &str = "claude-sonnet-4-5";

fn there_and_back(body: &Value) -> Value {
    let operation = Operation::ChatCompletions;
    let body = body.to_string();
    let chat = client::to_openai(Dialect::Anthropic, operation, body.as_bytes(), None);
    let chat = Bytes::from(chat.expect("the request can be translated"));
    let object = scan(&chat, &Limits::default()).expect("an object");
    let stream = object.bool(&chat, "stream") == Some(true);
    let call = Call::new(operation, Dialect::OpenAi, &chat, &object).streamed(stream);
    let call = Call { translated: true, ..call };
    let target = Target { model: MODEL.into(), drop_params: false, max_output_tokens: None };
    let anthropic = provider("anthropic").expect("a known provider");
    let sent = anthropic.request(&call, &target).expect("Anthropic takes it");
    serde_json::from_slice(&sent.bytes).expect("JSON")
}

/// Writes a request in its long form: strings as the blocks they are short for.
fn normal(mut body: Value) -> Value {
    body["model"] = MODEL.into();
    if let Some(system) = body.get_mut("system") {
        long(system);
    }
    for turn in body["messages"].as_array_mut().expect("turns") {
        long(&mut turn["content"]);
        for block in turn["content"].as_array_mut().expect("blocks") {
            if block["type"] == "tool_result" && block.get("content").is_some() {
                long(&mut block["content"]);
            }
        }
    }
    body
}

fn long(content: &mut Value) {
    if let Some(text) = content.as_str() {
        *content = json!([{"type": "text", "text": text}]);
    }
}

#[track_caller]
fn check(members: Value) {
    let mut body = json!({
        "model": "alias",
        "max_tokens": 4096,
        "messages": [{"role": "user", "content": "Hello"}],
    });
    for (name, value) in members.as_object().expect("members") {
        body[name] = value.clone();
    }
    let came = normal(there_and_back(&body));
    assert_eq!(came, normal(body));
}

fn weather() -> Value {
    json!({"name": "get_weather", "description": "Looks it up.", "input_schema": {
        "type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}})
}

#[test]
fn parameters_come_back() {
    check(json!({"system": "Be brief.", "temperature": 0.5, "stop_sequences": ["END", "STOP"],
        "metadata": {"user_id": "u-1"}, "stream": true}));
    check(json!({"top_p": 0.9, "top_k": 40, "service_tier": "standard_only"}));
}

#[test]
fn cache_marks_come_back() {
    let mark = json!({"type": "ephemeral", "ttl": "1h"});
    check(json!({
        "system": [{"type": "text", "text": "One."},
            {"type": "text", "text": "Two.", "cache_control": mark}],
        "messages": [{"role": "user", "content": [{"type": "text", "text": "a"},
            {"type": "text", "text": "b", "cache_control": {"type": "ephemeral"}}]}],
        "tools": [{"name": "f", "input_schema": {"type": "object", "properties": {}},
            "cache_control": mark}],
    }));
}

#[test]
fn tools_and_choices_come_back() {
    for choice in [
        json!({"type": "any", "disable_parallel_tool_use": true}),
        json!({"type": "tool", "name": "get_weather"}),
        json!({"type": "auto"}),
        json!({"type": "none"}),
    ] {
        check(json!({"tools": [weather()], "tool_choice": choice}));
    }
    let mut eager = weather();
    eager["eager_input_streaming"] = true.into();
    eager["strict"] = true.into();
    check(json!({"tools": [eager]}));
}

#[test]
fn calls_and_results_come_back() {
    check(json!({"tools": [weather()], "messages": [
        {"role": "user", "content": "Weather?"},
        {"role": "assistant", "content": [
            {"type": "thinking", "thinking": "Two cities.", "signature": "s1"},
            {"type": "redacted_thinking", "data": "r1"},
            {"type": "text", "text": "Looking."},
            {"type": "tool_use", "id": "toolu_1", "name": "get_weather", "input": {"city": "Oslo"}},
            {"type": "tool_use", "id": "toolu_2", "name": "get_weather", "input": {}}]},
        {"role": "user", "content": [
            {"type": "tool_result", "tool_use_id": "toolu_1", "content": [
                {"type": "text", "text": "3 degrees"},
                {"type": "image", "source":
                    {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="}}]},
            {"type": "tool_result", "tool_use_id": "toolu_2", "content": "no city",
                "is_error": true, "cache_control": {"type": "ephemeral"}},
            {"type": "text", "text": "Go on."}]},
    ]}));
}

#[test]
fn images_and_documents_come_back() {
    check(json!({"messages": [{"role": "user", "content": [
        {"type": "image", "source": {"type": "url", "url": "https://example.com/a.png"}},
        {"type": "image", "source":
            {"type": "base64", "media_type": "image/jpeg", "data": "/9j/4A=="}},
        {"type": "image", "source": {"type": "file", "file_id": "file_1"}},
        {"type": "document", "source":
            {"type": "base64", "media_type": "application/pdf", "data": "JVBERi0="},
            "title": "report.pdf", "citations": {"enabled": true}, "context": "A draft.",
            "cache_control": {"type": "ephemeral"}},
        {"type": "document", "source": {"type": "url", "url": "https://example.com/a.pdf"}},
        {"type": "document", "source": {"type": "file", "file_id": "file_2"}},
        {"type": "text", "text": "What are these?"}]}]}));
}

#[test]
fn thinking_comes_back() {
    check(json!({"thinking": {"type": "enabled", "budget_tokens": 2048}}));
}

#[test]
fn structured_output_comes_back() {
    check(json!({"output_config": {"format": {"type": "json_schema", "schema": {
        "type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"],
        "additionalProperties": false}}}}));
}

#[test]
fn a_search_comes_back() {
    check(json!({"tools": [{"type": "web_search_20250305", "name": "web_search", "max_uses": 5,
        "user_location": {"type": "approximate", "city": "Oslo", "country": "NO"}}]}));
}
