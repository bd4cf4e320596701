//! Amazon's event stream: no bytes panic, where they are cut changes nothing, and what was written
//! is read again.

#![no_main]

use arbitrary::Arbitrary;
use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use tollway_fuzz::{Cuts, steer, uncut};
use tollway_wire::event_stream::{FrameError, Parser, write_message};

/// Small, so that the limit is met.
const LIMIT: usize = 4096;

#[derive(Arbitrary, Debug)]
struct Steering {
    cuts: Cuts,
    /// The bytes are one payload after another and not a stream.
    written: bool,
}

type Read = (Vec<(Vec<String>, Vec<u8>)>, Result<(), FrameError>);

fn read(pieces: &[Bytes]) -> Read {
    let mut parser = Parser::new(LIMIT);
    let mut messages = Vec::new();
    for piece in pieces {
        let result = parser.push(piece, |message| {
            let headers = message.headers().map(|header| format!("{header:?}")).collect();
            messages.push((headers, message.payload.to_vec()));
            Ok(())
        });
        assert!(parser.held().len() <= LIMIT, "no more is held than the limit");
        if result.is_err() {
            return (messages, result);
        }
    }
    (messages, Ok(()))
}

fuzz_target!(|data: &[u8]| {
    let Some((steering, bytes)) = steer::<Steering>(data, 5) else { return };
    let mut stream = bytes.to_vec();
    let payloads: Vec<&[u8]> = bytes.split(|byte| *byte == b'\n').collect();
    if steering.written {
        stream.clear();
        for payload in &payloads {
            let headers = [(":event-type", "chunk"), (":message-type", "event")];
            write_message(&mut stream, &headers, payload);
        }
    }
    let whole = uncut(&steering.cuts, &stream, read);
    if steering.written && payloads.iter().all(|payload| payload.len() < LIMIT / 2) {
        let read: Vec<&[u8]> = whole.0.iter().map(|(_, payload)| payload.as_slice()).collect();
        assert_eq!((read, whole.1), (payloads, Ok(())));
    }
});
