//! Bedrock's answers, whatever they are, never panic, and where they are cut changes nothing.
//!
//! The input is lines of an event's type and its payload, because no fuzzer guesses checksums.

#![no_main]

use arbitrary::Arbitrary;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use libfuzzer_sys::fuzz_target;
use serde::de::IgnoredAny;
use tollway_fuzz::decoders::{asked, decode};
use tollway_fuzz::{Cuts, Event, events, pick, steer};
use tollway_providers::bedrock::Bedrock;
use tollway_providers::{Place, Provider};
use tollway_wire::event_stream::write_message;
use tollway_wire::operation::{Dialect, Operation};

#[derive(Arbitrary, Debug)]
struct Steering {
    cuts: Cuts,
    include_usage: bool,
    call: u8,
}

/// Converse, and InvokeModel for clients of both dialects.
const CALLS: &[(Dialect, &str)] = &[
    (Dialect::OpenAi, "amazon.nova-pro-v1:0"),
    (Dialect::OpenAi, "invoke/anthropic.claude-3-haiku-20240307-v1:0"),
    (Dialect::Anthropic, "anthropic.claude-3-haiku-20240307-v1:0"),
];

fn frames(lines: &[u8]) -> Vec<u8> {
    let mut stream = Vec::new();
    for line in lines.split(|byte| *byte == b'\n') {
        let at = line.iter().position(|byte| *byte == b' ').unwrap_or(line.len());
        let (kind, payload) = line.split_at(at);
        let (kind, payload) = (String::from_utf8_lossy(kind), payload.trim_ascii_start());
        if let Some(kind) = kind.strip_prefix('!') {
            let headers = [(":exception-type", kind), (":message-type", "exception")];
            write_message(&mut stream, &headers, payload);
            continue;
        }
        let headers = [(":event-type", kind.as_ref()), (":message-type", "event")];
        let wrapped = format!("{{\"bytes\":\"{}\"}}", STANDARD.encode(payload));
        let payload = if kind == "chunk" { wrapped.as_bytes() } else { payload };
        write_message(&mut stream, &headers, payload);
    }
    stream
}

fuzz_target!(|data: &[u8]| {
    let Some((steering, lines)) = steer::<Steering>(data, 6) else { return };
    let stream = frames(lines);
    let asked = asked(steering.include_usage);
    let (dialect, model) = pick(CALLS, steering.call);
    let place = Place { operation: Operation::ChatCompletions, dialect, model, stream: true };
    let decoder = || Bedrock.decoder(&place, asked.clone()).expect("it translates");
    let (decoded, result, _) = decode(decoder, &steering.cuts, &stream);

    let mut events = events(&[decoded]);
    let ends = |(name, data): &Event| match dialect {
        Dialect::Anthropic => name == b"message_stop",
        _ => data == b"[DONE]",
    };
    let end = events.pop_if(|last| ends(last));
    assert!(!events.iter().any(ends), "nothing comes after the end");
    for (_, data) in events.iter().chain(&end).filter(|(_, data)| data != b"[DONE]") {
        serde_json::from_slice::<IgnoredAny>(data).expect("an event is JSON");
    }
    assert!(result.is_err() || end.is_some(), "a whole stream announces its end");

    // The same bytes as they are, as an answer in one piece, and as an error.
    let mut out = Vec::new();
    let mut raw = decoder();
    let _ = raw.stream(lines, &mut out).and_then(|()| raw.finish(&mut out));
    if let Ok(answer) = decoder().whole(lines) {
        serde_json::from_slice::<IgnoredAny>(&answer).expect("an answer is JSON");
    }
    assert!(Bedrock.error(500, lines).status >= 400);
});
