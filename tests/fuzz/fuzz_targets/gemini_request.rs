//! A client's request is put into Gemini's words or refused, and never panics.

#![no_main]

use arbitrary::Arbitrary;
use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use tollway_fuzz::{pick, sent, steer};
use tollway_providers::{Access, Call, Place, Target, presets};
use tollway_wire::operation::{Dialect, Operation};
use tollway_wire::scan::{Limits, scan};

#[derive(Arbitrary, Debug)]
struct Steering {
    drop_params: bool,
    translated: bool,
    model: u8,
    provider: bool,
}

const MODELS: &[&str] = &[
    "gemini-1.5-pro",
    "gemini-2.5-flash",
    "gemini-3-pro-preview",
    "gemma-3-27b-it",
    "gemini-embedding-001",
    "claude-sonnet-4-5@20250929",
    "../../x?y",
];

fuzz_target!(|data: &[u8]| {
    let Some((steering, text)) = steer::<Steering>(data, 4) else { return };
    let body = Bytes::copy_from_slice(text);
    let Ok(object) = scan(&body, &Limits::default()) else { return };
    let name = if steering.provider { "gemini" } else { "vertex_ai" };
    let provider = presets::provider(name).expect("it is there");
    let target = Target {
        model: pick(MODELS, steering.model).into(),
        drop_params: steering.drop_params,
        max_output_tokens: None,
    };
    for operation in [Operation::ChatCompletions, Operation::CountTokens, Operation::Embeddings] {
        for client in [Dialect::OpenAi, Dialect::Gemini, Dialect::Anthropic] {
            let Some(dialect) = provider.dialect(operation, client, &target.model) else {
                continue;
            };
            let place = Place { operation, dialect, model: &target.model, stream: true };
            let path = provider.path(&place, &Access::default());
            assert!(path.starts_with("/v1") && !path.contains("../"), "{path}");
            let call = Call {
                translated: steering.translated,
                ..Call::new(operation, dialect, &body, &object)
            };
            match provider.request(&call, &target) {
                Ok(written) => check(operation, dialect, &written.bytes, &target),
                Err(error) => assert!(!error.to_string().is_empty()),
            }
        }
    }
});

fn check(operation: Operation, dialect: Dialect, bytes: &[u8], target: &Target) {
    let Some(sent) = sent(bytes) else { return };
    assert!(!target.model.contains('/'), "such a name is refused");
    if operation != Operation::ChatCompletions || target.model.starts_with("claude") {
        return;
    }
    assert!(sent.get("model").is_none() && sent.get("stream").is_none(), "they are in the path");
    if dialect != Dialect::OpenAi {
        return;
    }
    let turns = sent["contents"].as_array().expect("there are contents");
    assert_eq!(turns[0]["role"], "user", "a conversation begins with the user");
    for turn in turns {
        let parts = turn["parts"].as_array().expect("parts are a list");
        assert!(!parts.is_empty() && parts.iter().all(Value::is_object), "{turn}");
    }
}
