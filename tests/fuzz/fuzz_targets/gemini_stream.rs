//! Gemini's bytes, whatever they are, never panic, and where they are cut changes nothing.

#![no_main]

use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use tollway_fuzz::decoders::{Steering, asked, check};
use tollway_fuzz::steer;
use tollway_providers::gemini::Gemini;
use tollway_providers::{Place, Provider};
use tollway_wire::operation::{Dialect, Operation};

fn place(operation: Operation, dialect: Dialect) -> Place<'static> {
    Place { operation, dialect, model: "gemini-3-pro-preview", stream: true }
}

fuzz_target!(|data: &[u8]| {
    let Some((steering, stream)) = steer::<Steering>(data, 5) else { return };
    let asked = asked(steering.include_usage);
    let decoder = || {
        let decoder =
            Gemini.decoder(&place(Operation::ChatCompletions, Dialect::OpenAi), asked.clone());
        decoder.expect("a chat is translated")
    };
    let (done, result) = check(decoder, &steering.cuts, stream);
    assert_eq!(result.is_ok(), done, "a whole stream ends in [DONE], and no other");

    // The same bytes as an answer of another kind, and as an error.
    for (operation, dialect) in [
        (Operation::CountTokens, Dialect::OpenAi),
        (Operation::Embeddings, Dialect::OpenAi),
        (Operation::Embeddings, Dialect::Gemini),
    ] {
        let decoder = Gemini.decoder(&place(operation, dialect), asked.clone());
        if let Ok(answer) = decoder.expect("it is translated").whole(stream) {
            serde_json::from_slice::<Value>(&answer).expect("an answer is JSON");
        }
    }
    assert!(Gemini.error(500, stream).status >= 400);
    assert!(Gemini.error(200, stream).status >= 400);
    let _ = Gemini.retry_after(stream);
});
