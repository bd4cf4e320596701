//! What holds for the client's side of every dialect, whatever the bytes are.

use bytes::Bytes;
use serde::de::IgnoredAny;
use serde_json::Value;
use tollway_wire::client::{self, Asked, Encoder};
use tollway_wire::count;
use tollway_wire::openai::response::ErrorObject;
use tollway_wire::operation::{Dialect, Operation};
use tollway_wire::sse::{Parser, TooLong};
use tollway_wire::usage::Usage;

use crate::{Cuts, steer};

/// What steers a case.
#[derive(arbitrary::Arbitrary, Debug)]
struct Steering {
    cuts: Cuts,
    /// Embeddings, a count, or a chat.
    operation: u8,
    renamed: bool,
}

/// Gives the same bytes to everything a client's dialect has: as a request, as an answer in OpenAI's
/// form, as a stream in it, and as a stream that passes.
pub fn check(dialect: Dialect, data: &[u8]) {
    let Some((steering, text)) = steer::<Steering>(data, 6) else { return };
    let operation = match steering.operation % 4 {
        0 => Operation::Embeddings,
        1 => Operation::CountTokens,
        _ => Operation::ChatCompletions,
    };
    if let Ok(chat) = client::to_openai(dialect, operation, text, None) {
        let chat: Value = serde_json::from_slice(&chat).expect("a translated request is JSON");
        let has = |member: &str| !chat[member].is_null();
        assert!(has("messages") || has("input"), "a request without content");
    }
    let _ = count::input_tokens(text);
    encoded(dialect, operation, &steering.cuts, text);
    passed(dialect, &steering.cuts, steering.renamed, text);
    let _ = client::usage_of_body(dialect, operation, text);
    let error = ErrorObject {
        message: String::from_utf8_lossy(text).into_owned(),
        ..ErrorObject::default()
    };
    serde_json::from_slice::<Value>(&client::error_body(dialect, 500, &error)).expect("JSON");
}

fn encoded(dialect: Dialect, operation: Operation, cuts: &Cuts, text: &[u8]) {
    let encoder = || -> Box<dyn Encoder> {
        let (model, id) = ("a \"fast\" one", "0123456789");
        let asked = Asked { operation, model, stream: true, body: text, id, created: 1 };
        client::encoder(dialect, &asked).expect("the dialect is translated")
    };
    let encode = |pieces: &[Bytes]| {
        let mut encoder = encoder();
        let mut out = Vec::new();
        let mut result = Ok(());
        for piece in pieces {
            result = result.and_then(|()| encoder.stream(piece, &mut out));
        }
        (out, result)
    };
    let whole = encode(&[Bytes::copy_from_slice(text)]);
    // Only a chat comes as a stream: everything else refuses the first piece, if there is one.
    if operation == Operation::ChatCompletions {
        assert_eq!(whole, encode(&cuts.of(text)));
    }
    let read = Parser::default().push(&whole.0, |event| {
        serde_json::from_slice::<IgnoredAny>(event.data).expect("an event is JSON");
        Ok::<_, TooLong>(())
    });
    // The same event written anew may be a little longer than what is accepted.
    let _ = read;
    if let Ok(answer) = encoder().whole(text) {
        let answer: Value = serde_json::from_slice(&answer).expect("an answer is JSON");
        assert!(answer.is_object());
    }
}

fn passed(dialect: Dialect, cuts: &Cuts, renamed: bool, text: &[u8]) {
    let watch = |pieces: &[Bytes]| -> (Vec<u8>, String, Option<Usage>, u64, bool) {
        let mut tap = client::tap(dialect, false, renamed.then_some("a \"fast\" one"));
        let mut sent = Vec::new();
        let mut result = Ok(());
        for piece in pieces {
            result =
                result.and_then(|()| tap.push(piece, &mut |bytes| sent.extend_from_slice(&bytes)));
        }
        result = result.and_then(|()| tap.end(&mut |bytes| sent.extend_from_slice(&bytes)));
        (sent, format!("{result:?}"), tap.usage(), tap.events(), tap.is_done())
    };
    let whole = watch(&[Bytes::copy_from_slice(text)]);
    let cut = watch(&cuts.of(text));
    // Where a CRLF was cut, its LF stays with the block before or begins one that is dropped.
    if !text.contains(&b'\r') {
        assert_eq!(whole, cut);
    }
    if whole.1 == "Ok(())" {
        assert!(whole.4, "a stream that is whole has its end");
    }
}
