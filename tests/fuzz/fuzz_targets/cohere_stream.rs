//! Cohere's bytes, whatever they are, never panic, and where they are cut changes nothing.

#![no_main]

use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use tollway_fuzz::decoders::{Steering, asked, check};
use tollway_fuzz::steer;
use tollway_providers::cohere::Cohere;
use tollway_providers::{Place, Provider};
use tollway_wire::operation::{Dialect, Operation};

fuzz_target!(|data: &[u8]| {
    let Some((steering, stream)) = steer::<Steering>(data, 5) else { return };
    let cohere = Cohere::named("cohere");
    let asked = asked(steering.include_usage);
    let decoder = |operation| {
        let place = Place { operation, dialect: Dialect::OpenAi, model: "m", stream: true };
        cohere.decoder(&place, asked.clone()).expect("it has a dialect of its own")
    };
    let _ = check(|| decoder(Operation::ChatCompletions), &steering.cuts, stream);

    // The same bytes as an answer of another kind, and as an error.
    if let Ok(answer) = decoder(Operation::Embeddings).whole(stream) {
        let answer: Value = serde_json::from_slice(&answer).expect("an answer is JSON");
        assert_eq!(answer["object"], "list");
    }
    // A ranking passes as it came, also where its text cannot be held.
    let _ = decoder(Operation::Rerank).whole(stream);
    assert!(cohere.error(500, stream).status >= 400);
});
