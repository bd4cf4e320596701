//! What passes through the tap does not depend on where it was cut, and without a reason to change
//! it, it passes as it came.

#![no_main]

use arbitrary::Arbitrary;
use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use tollway_fuzz::{Cuts, events, steer};
use tollway_wire::openai::{StreamTap, TapError};
use tollway_wire::usage::Usage;

#[derive(Arbitrary, Debug)]
struct Steering {
    cuts: Cuts,
    usage_added: bool,
    renamed: bool,
}

#[derive(Debug, PartialEq)]
struct Seen {
    sent: Vec<u8>,
    result: Result<(), TapError>,
    usage: Option<Usage>,
    events: u64,
    finished: bool,
    done: bool,
}

fuzz_target!(|data: &[u8]| {
    let Some((steering, stream)) = steer::<Steering>(data, 6) else { return };
    let watch = |pieces: &[Bytes]| {
        let alias = steering.renamed.then_some("a \"fast\" one");
        let mut tap = StreamTap::new(steering.usage_added, alias);
        let mut sent = Vec::new();
        let mut result = Ok(());
        for piece in pieces {
            result = tap.push(piece, |bytes| sent.extend_from_slice(&bytes));
            if result.is_err() {
                break;
            }
        }
        if result.is_ok() {
            result = tap.end(|bytes| sent.extend_from_slice(&bytes));
        }
        let (usage, events) = (tap.usage(), tap.events());
        Seen { sent, result, usage, events, finished: tap.is_finished(), done: tap.is_done() }
    };
    let whole = watch(&[Bytes::copy_from_slice(stream)]);
    let cut = watch(&steering.cuts.of(stream));
    // Where a CRLF was cut, its LF stays with the block before or begins one that is dropped.
    if stream.contains(&b'\r') {
        assert_eq!(events(&[&whole.sent]), events(&[&cut.sent]));
        assert_eq!(
            (&whole.result, whole.usage, whole.events, whole.finished, whole.done),
            (&cut.result, cut.usage, cut.events, cut.finished, cut.done)
        );
    } else {
        assert_eq!(whole, cut);
    }
    if !steering.renamed && !steering.usage_added {
        // What the tap adds by itself is the end that a server has left unsaid.
        let made = whole.sent.strip_suffix(b"data: [DONE]\n\n").unwrap_or(&whole.sent);
        assert!(stream.starts_with(&whole.sent) || stream.starts_with(made));
    }
    if whole.result.is_ok() {
        assert!(whole.done);
        let (_, last) = events(&[whole.sent]).pop().expect("a whole stream has an end");
        assert_eq!(last.trim_ascii(), b"[DONE]");
    }
});
