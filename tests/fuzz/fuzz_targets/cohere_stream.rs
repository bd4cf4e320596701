//! Cohere's bytes, whatever they are, never panic, and where they are cut changes nothing.

#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use tollway_fuzz::{Cuts, steer};
use tollway_providers::cohere::Cohere;
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
    let cohere = Cohere::named("cohere");
    let asked = Asked {
        model: "command \"a\"".into(),
        include_usage: steering.include_usage,
        created: 1_700_000_000,
        nonce: 1,
    };
    let decoder = |operation| {
        let place = Place { operation, dialect: Dialect::OpenAi, model: "m", stream: true };
        cohere.decoder(&place, asked.clone()).expect("it has a dialect of its own")
    };
    let decode = |pieces: &[bytes::Bytes]| -> (Vec<u8>, Result<(), DecodeError>, Option<Usage>) {
        let mut decoder = decoder(Operation::ChatCompletions);
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
            assert_eq!(chunk["model"], "command \"a\"");
            assert!(chunk["id"].is_string() && chunk["choices"].is_array());
            chunks += 1;
        }
        Ok::<_, TooLong>(())
    });
    read.expect("no input of a fuzzer is too long");
    assert!(whole.1.is_err() || (done && chunks > 0), "a whole stream ends in [DONE]");

    // The same bytes as an answer in one piece, of each kind, and as an error.
    for (operation, object) in [
        (Operation::ChatCompletions, Some("chat.completion")),
        (Operation::Embeddings, Some("list")),
        (Operation::Rerank, None),
    ] {
        if let Ok(answer) = decoder(operation).whole(stream) {
            let answer: Result<Value, _> = serde_json::from_slice(&answer);
            // A ranking passes as it came, also where its text cannot be held.
            if let Some(object) = object {
                assert_eq!(answer.expect("an answer is JSON")["object"], object);
            }
        }
    }
    let error = cohere.error(500, stream);
    assert!(error.status >= 400);
});
