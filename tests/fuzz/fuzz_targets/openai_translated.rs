//! A request translated from another dialect is put into what OpenAI's family takes or refused, and
//! never panics.

#![no_main]

use arbitrary::Arbitrary;
use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use tollway_fuzz::{pick, sent, steer};
use tollway_providers::{Call, Target, presets};
use tollway_wire::operation::{Dialect, Operation};
use tollway_wire::scan::{Limits, scan};

#[derive(Arbitrary, Debug)]
struct Steering {
    drop_params: bool,
    stream: bool,
    provider: u8,
    model: u8,
}

const PROVIDERS: &[&str] =
    &["openai", "azure", "azure_ai", "mistral", "deepseek", "openrouter", "groq", "hosted_vllm"];
const MODELS: &[&str] = &["gpt-4o", "o3", "gpt-5.4", "magistral", "mistral-small", "kimi-k2.5"];

fuzz_target!(|data: &[u8]| {
    let Some((steering, text)) = steer::<Steering>(data, 4) else { return };
    let body = Bytes::copy_from_slice(text);
    let Ok(object) = scan(&body, &Limits::default()) else { return };
    let name = pick(PROVIDERS, steering.provider);
    let provider = presets::provider(name).expect("it is there");
    let operation = Operation::ChatCompletions;
    let call = Call::new(operation, Dialect::OpenAi, &body, &object).streamed(steering.stream);
    let call = Call { translated: true, ..call };
    let target = Target {
        model: pick(MODELS, steering.model).into(),
        drop_params: steering.drop_params,
        max_output_tokens: None,
    };
    match provider.request(&call, &target) {
        Ok(written) => {
            let Some(sent) = sent(&written.bytes) else { return };
            assert_eq!(sent["model"], target.model.as_str());
            for turn in sent["messages"].as_array().into_iter().flatten() {
                assert_eq!(turn.get("thinking_blocks"), None);
                let parts = turn["content"].as_array().into_iter().flatten();
                for part in parts.filter(|_| turn["role"] == "tool") {
                    assert_eq!(part["type"], "text", "OpenAI's tool messages take only text");
                }
            }
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
});
