//! Mistral's bytes, whatever they are, never panic, and where they are cut changes nothing.

#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use tollway_fuzz::{Cuts, steer};
use tollway_providers::{Asked, DecodeError, Place, presets};
use tollway_wire::operation::{Dialect, Operation};
use tollway_wire::sse::{Parser, TooLong};
use tollway_wire::usage::Usage;

#[derive(Arbitrary, Debug)]
struct Steering {
    cuts: Cuts,
    include_usage: bool,
}

fuzz_target!(|data: &[u8]| {
    let Some((steering, stream)) = steer::<Steering>(data, 5) else { return };
    let asked =
        Asked { model: "m \"x\"".into(), include_usage: steering.include_usage, created: 1, nonce: 1 };
    let provider = presets::provider("mistral").expect("the preset is there");
    let place = Place {
        operation: Operation::ChatCompletions,
        dialect: Dialect::OpenAi,
        model: "magistral",
        stream: true,
    };
    let decoder = || provider.decoder(&place, asked.clone()).expect("it thinks");
    let decode = |pieces: &[bytes::Bytes]| -> (Vec<u8>, Result<(), DecodeError>, Option<Usage>) {
        let mut decoder = decoder();
        let mut out = Vec::new();
        for piece in pieces {
            if let Err(error) = decoder.stream(piece, &mut out) {
                return (out, Err(error), decoder.usage());
            }
        }
        let end = decoder.finish(&mut out);
        (out, end, decoder.usage())
    };
    let whole = decode(&[bytes::Bytes::copy_from_slice(stream)]);
    assert_eq!(whole, decode(&steering.cuts.of(stream)));
    let mut done = false;
    let read = Parser::default().push(&whole.0, |event| {
        assert!(!done, "nothing comes after the end");
        done = event.data == b"[DONE]";
        if !done {
            let chunk: Value = serde_json::from_slice(event.data).expect("a chunk is JSON");
            assert_eq!(chunk["model"], "m \"x\"");
        }
        Ok::<_, TooLong>(())
    });
    read.expect("no input of a fuzzer is too long");
    assert!(whole.1.is_err() || done, "a whole stream ends in [DONE]");
    if let Ok(answer) = decoder().whole(stream) {
        let answer: Value = serde_json::from_slice(&answer).expect("an answer is JSON");
        assert!(answer["choices"].is_array());
    }
});
