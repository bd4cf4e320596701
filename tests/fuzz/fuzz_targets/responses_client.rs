//! The Responses API's client side: a request is translated or refused, an answer is encoded or
//! refused, a native stream is watched; nothing panics, and where a stream is cut changes nothing.

#![no_main]

use arbitrary::Arbitrary;
use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use tollway_fuzz::{Cuts, events, pick, steer, uncut};
use tollway_wire::client::{Asked, Encoder};
use tollway_wire::openai::response::ErrorObject;
use tollway_wire::operation::Operation;
use tollway_wire::responses::{ResponsesEncoder, StreamTap, stored, to_chat, usage_of_body};
use tollway_wire::tap::Tap;

#[derive(Arbitrary, Debug)]
struct Steering {
    cuts: Cuts,
    request: u8,
}

const REQUESTS: &[&str] = &[
    "{}",
    r#"{"store":false,"include":["message.output_text.logprobs"]}"#,
    r#"{"tools":[{"type":"custom","name":"f"},{"type":"function","name":"g"}],"top_logprobs":2}"#,
    r#"{"include":["reasoning.encrypted_content"],"text":{"format":{"type":"json_object"}}}"#,
];

fuzz_target!(|data: &[u8]| {
    let Some((steering, text)) = steer::<Steering>(data, 5) else { return };
    let request = pick(REQUESTS, steering.request);
    let asked = |body| Asked {
        operation: Operation::ChatCompletions,
        model: "a \"fast\" one",
        stream: true,
        body,
        id: "0a1b",
        created: 1_790_000_000,
    };
    let (encoded, ..) = uncut(&steering.cuts, text, |pieces| {
        let mut encoder = ResponsesEncoder::new(&asked(request.as_bytes()));
        let mut out = Vec::new();
        let result = pieces.iter().try_for_each(|piece| encoder.stream(piece, &mut out));
        if result.is_err() {
            encoder.error(502, &ErrorObject::default(), &mut out);
        }
        (out, result, encoder.response().map(<[u8]>::to_vec))
    });
    for (number, (name, data)) in events(&[encoded]).iter().enumerate() {
        let data: Value = serde_json::from_slice(data).expect("an event is JSON");
        assert_eq!(data["type"].as_str().map(str::as_bytes), Some(name.as_slice()));
        assert_eq!(data["sequence_number"], number);
    }

    // The same bytes as a whole answer, as a request, and as what is kept of one.
    let mut encoder = ResponsesEncoder::new(&asked(text));
    if let Ok(response) = encoder.whole(text) {
        serde_json::from_slice::<Value>(&response).expect("a response is JSON");
        let items = stored::items_of_response(&response);
        let _ = to_chat(text, Some(&items));
    }
    if let Ok(chat) = to_chat(text, None) {
        let chat: Value = serde_json::from_slice(&chat).expect("a chat request is JSON");
        assert!(chat["messages"].as_array().is_some_and(|messages| !messages.is_empty()));
    }
    let items = stored::items_of_request(text, "x");
    serde_json::from_slice::<Vec<Value>>(&items).expect("items are a list");
    let _ = stored::input_items(&items, &stored::Page::default());
    let _ = stored::resolve(text, &items);
    let _ = (stored::references(text), stored::without_encrypted(text), usage_of_body(text));

    // And as a native stream.
    let watch = |pieces: &[Bytes]| {
        let mut tap = StreamTap::new(Some("alias")).keeping();
        let mut sent = Vec::new();
        let mut send = |bytes: Bytes| sent.extend_from_slice(&bytes);
        let pushed = pieces.iter().try_for_each(|piece| tap.push(piece, &mut send));
        let result = pushed.and_then(|()| tap.end(&mut send));
        let kept = tap.response().map(<[u8]>::to_vec);
        (sent, result, tap.usage(), tap.events(), tap.is_done(), kept)
    };
    // Where a CRLF is cut, its LF may go to either block.
    if !text.contains(&b'\r') {
        let _ = uncut(&steering.cuts, text, watch);
    } else {
        let _ = watch(&steering.cuts.of(text));
    }
});
