//! Legacy completions over chat: no request and no answer makes either direction panic, and where a
//! stream is cut changes nothing.

#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use tollway_fuzz::{Cuts, events, pick, steer, uncut};
use tollway_wire::client::{Asked, Encoder};
use tollway_wire::openai::text::{TextEncoder, to_chat};
use tollway_wire::operation::Operation;

#[derive(Arbitrary, Debug)]
struct Steering {
    cuts: Cuts,
    body: u8,
}

const BODIES: &[&[u8]] = &[
    b"{\"prompt\":\"p\"}",
    b"{\"prompt\":[\"p\"],\"echo\":true}",
    b"{\"prompt\":\"p\",\"stream_options\":{\"include_usage\":true}}",
    b"[",
];

fuzz_target!(|data: &[u8]| {
    let Some((steering, text)) = steer::<Steering>(data, 5) else { return };
    if let Ok(chat) = to_chat(text) {
        let chat: Value = serde_json::from_slice(&chat).expect("it is JSON");
        assert!(chat["messages"][0]["content"].is_string());
        assert_eq!((chat.get("prompt"), chat.get("echo"), chat.get("suffix")), (None, None, None));
    }
    let asked = Asked {
        operation: Operation::Completions,
        model: "m \"x\"",
        stream: true,
        body: pick(BODIES, steering.body),
        id: "abc",
        created: 1,
    };
    let (encoded, _) = uncut(&steering.cuts, text, |pieces| {
        let mut encoder = TextEncoder::new(&asked);
        let mut out = Vec::new();
        let result = pieces.iter().try_for_each(|piece| encoder.stream(piece, &mut out));
        (out, result.is_ok())
    });
    for (_, data) in events(&[encoded]).iter().filter(|(_, data)| data != b"[DONE]") {
        let chunk: Value = serde_json::from_slice(data).expect("a chunk is JSON");
        assert_eq!(chunk["model"], "m \"x\"");
        assert!(chunk["choices"].is_array());
    }
    if let Ok(answer) = TextEncoder::new(&asked).whole(text) {
        let answer: Value = serde_json::from_slice(&answer).expect("an answer is JSON");
        assert!(answer["choices"][0]["text"].is_string());
    }
});
