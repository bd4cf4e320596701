//! A client's request is put into Anthropic's words or refused, and never panics.

#![no_main]

use arbitrary::Arbitrary;
use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use tollway_fuzz::{pick, sent, steer};
use tollway_providers::anthropic::Anthropic;
use tollway_providers::{Call, Provider, Target, presets};
use tollway_wire::operation::{Dialect, Operation};
use tollway_wire::scan::{Limits, scan};

#[derive(Arbitrary, Debug)]
struct Steering {
    drop_params: bool,
    stream: bool,
    model: u8,
    max_output_tokens: bool,
}

const MODELS: &[&str] = &[
    "claude-3-5-sonnet-20241022",
    "claude-sonnet-4-5-20250929",
    "claude-opus-4-6",
    "claude-3-haiku-20240307",
    "something-else",
];

fuzz_target!(|data: &[u8]| {
    let Some((steering, text)) = steer::<Steering>(data, 4) else { return };
    let body = Bytes::copy_from_slice(text);
    let Ok(object) = scan(&body, &Limits::default()) else { return };
    let call = Call::new(Operation::ChatCompletions, Dialect::OpenAi, &body, &object)
        .streamed(steering.stream);
    let target = Target {
        model: pick(MODELS, steering.model).into(),
        drop_params: steering.drop_params,
        max_output_tokens: steering.max_output_tokens.then_some(4096),
    };
    match Anthropic.request(&call, &target) {
        Ok(written) => {
            let Some(sent) = sent(&written.bytes) else { return };
            assert_eq!(sent["model"], target.model.as_str());
            assert!(sent["max_tokens"].is_u64(), "Anthropic demands max_tokens: {sent}");
            assert_eq!(sent["stream"].as_bool().unwrap_or(false), steering.stream);
            let turns = sent["messages"].as_array().expect("there are messages");
            assert!(!turns.is_empty(), "Anthropic demands a message");
            assert_eq!(turns[0]["role"], "user", "a conversation begins with the user");
            for pair in turns.windows(2) {
                assert_ne!(pair[0]["role"], pair[1]["role"], "turns alternate");
            }
            for turn in turns {
                let blocks = turn["content"].as_array().expect("content is a list");
                assert!(blocks.iter().all(|block| block["type"].is_string()), "{turn}");
            }
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }

    // OpenAI's own dialect is spliced: the same body goes there, as JSON.
    let openai = presets::provider("openai").expect("the preset is there");
    for operation in [Operation::ChatCompletions, Operation::Completions, Operation::Embeddings] {
        if let Ok(written) = openai.request(&Call { operation, ..call }, &target) {
            let sent = scan(&written.bytes, &Limits { members: 300, ..Limits::default() });
            let sent = sent.expect("it is JSON");
            assert_eq!(sent.str(&written.bytes, "model").as_deref(), Some(target.model.as_str()));
        }
    }
});
