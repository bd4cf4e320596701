//! What holds for the decoder of every provider, whatever the bytes are.

use serde_json::Value;
use tollway_providers::{Asked, DecodeError, Decoder};
use tollway_wire::usage::Usage;

use crate::{Cuts, events, uncut};

/// The model's name the client used.
const MODEL: &str = "gpt-4o \"mini\"";

/// What steers a case.
#[derive(arbitrary::Arbitrary, Debug)]
pub struct Steering {
    pub cuts: Cuts,
    pub include_usage: bool,
}

/// What a decoder is told of the request.
pub fn asked(include_usage: bool) -> Asked {
    Asked { model: MODEL.into(), include_usage, created: 1_700_000_000, nonce: 1 }
}

/// What a stream becomes, and how it ends.
pub type Decoded = (Vec<u8>, Result<(), DecodeError>, Option<Usage>);

/// Decodes a stream, which becomes the same wherever it is cut.
pub fn decode(decoder: impl Fn() -> Box<dyn Decoder>, cuts: &Cuts, stream: &[u8]) -> Decoded {
    uncut(cuts, stream, |pieces| {
        let mut decoder = decoder();
        let mut out = Vec::new();
        for piece in pieces {
            if let Err(error) = decoder.stream(piece, &mut out) {
                return (out, Err(error), decoder.usage());
            }
        }
        let end = decoder.finish(&mut out);
        (out, end, decoder.usage())
    })
}

/// The chunks of a stream in OpenAI's dialect, and whether its end came. Nothing comes after it.
pub fn chunks(stream: &[u8]) -> (Vec<Value>, bool) {
    let mut events = events(&[stream]);
    let done = events.pop_if(|(_, data)| data == b"[DONE]").is_some();
    let chunk = |(_, data): &(_, Vec<u8>)| serde_json::from_slice(data);
    let chunks: Result<Vec<Value>, _> = events.iter().map(chunk).collect();
    let chunks = chunks.expect("a chunk is JSON");
    assert!(chunks.iter().all(|chunk| chunk["model"] == MODEL));
    (chunks, done)
}

/// Decodes a stream into OpenAI's chunks, and the same bytes as an answer in one piece. Returns
/// whether the stream's end came, and how it was received.
pub fn check(
    decoder: impl Fn() -> Box<dyn Decoder>,
    cuts: &Cuts,
    stream: &[u8],
) -> (bool, Result<(), DecodeError>) {
    let (decoded, result, _) = decode(&decoder, cuts, stream);
    let (chunks, done) = chunks(&decoded);
    for chunk in &chunks {
        assert_eq!(chunk["object"], "chat.completion.chunk");
        assert!(chunk["id"].is_string() && chunk["choices"].is_array());
    }
    assert!(result.is_err() || (done && !chunks.is_empty()), "a whole stream ends in [DONE]");
    if let Ok(answer) = decoder().whole(stream) {
        let answer: Value = serde_json::from_slice(&answer).expect("an answer is JSON");
        assert_eq!(answer["object"], "chat.completion");
        assert!(answer["choices"][0]["message"].is_object());
    }
    (done, result)
}
