//! Anthropic's bytes, whatever they are, never panic, and where they are cut changes nothing.

#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use tollway_fuzz::{Cuts, steer};
use tollway_providers::anthropic::Anthropic;
use tollway_providers::{Asked, DecodeError, Place, Provider};
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
    let asked = Asked {
        model: "gpt-4o \"mini\"".into(),
        include_usage: steering.include_usage,
        created: 1_700_000_000,
        nonce: 1,
    };
    let place = Place {
        operation: Operation::ChatCompletions,
        dialect: Dialect::OpenAi,
        model: "claude-haiku-4-5",
        stream: true,
    };
    let decoder = || Anthropic.decoder(&place, asked.clone()).expect("it has a dialect of its own");
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

    let (mut done, mut chunks) = (false, 0);
    let read = Parser::default().push(&whole.0, |event| {
        assert!(!done, "nothing comes after the end");
        done = event.data == b"[DONE]";
        if !done {
            let chunk: Value = serde_json::from_slice(event.data).expect("a chunk is JSON");
            assert_eq!(chunk["object"], "chat.completion.chunk");
            assert_eq!(chunk["model"], "gpt-4o \"mini\"");
            assert!(chunk["id"].is_string() && chunk["choices"].is_array());
            chunks += 1;
        }
        Ok::<_, TooLong>(())
    });
    read.expect("no input of a fuzzer is too long");
    assert!(whole.1.is_err() || (done && chunks > 0), "a whole stream ends in [DONE]");

    // The same bytes as an answer in one piece, and as an error.
    if let Ok(answer) = decoder().whole(stream) {
        let answer: Value = serde_json::from_slice(&answer).expect("an answer is JSON");
        assert_eq!(answer["object"], "chat.completion");
        assert!(answer["choices"][0]["message"].is_object());
    }
    let error = Anthropic.error(500, stream);
    assert!(error.status >= 400);
});
