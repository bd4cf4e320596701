//! Mistral's bytes, whatever they are, never panic, and where they are cut changes nothing.

#![no_main]

use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use tollway_fuzz::decoders::{Steering, asked, chunks, decode};
use tollway_fuzz::steer;
use tollway_providers::{Place, presets};
use tollway_wire::operation::{Dialect, Operation};

fuzz_target!(|data: &[u8]| {
    let Some((steering, stream)) = steer::<Steering>(data, 5) else { return };
    let asked = asked(steering.include_usage);
    let provider = presets::provider("mistral").expect("the preset is there");
    let place = Place {
        operation: Operation::ChatCompletions,
        dialect: Dialect::OpenAi,
        model: "magistral",
        stream: true,
    };
    let decoder = || provider.decoder(&place, asked.clone()).expect("it thinks");
    let (decoded, result, _) = decode(decoder, &steering.cuts, stream);
    let (_, done) = chunks(&decoded);
    assert!(result.is_err() || done, "a whole stream ends in [DONE]");
    if let Ok(answer) = decoder().whole(stream) {
        let answer: Value = serde_json::from_slice(&answer).expect("an answer is JSON");
        assert!(answer["choices"].is_array());
    }
});
