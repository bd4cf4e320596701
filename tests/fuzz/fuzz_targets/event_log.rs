//! A kept stream out of Redis is what it says it is, or none; and what is packed is unpacked.

#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use tollway_wire::event_log::{Budget, EventLog, Packed};

fuzz_target!(|input: (Vec<Vec<u8>>, u16, Vec<u8>)| {
    let (pieces, length, strange) = input;
    if let Some(text) = Packed::new(Bytes::from(strange), length.into()).unpack() {
        assert_eq!(text.len(), usize::from(length));
    }
    let mut log = EventLog::new(&Budget::new(1 << 24));
    if pieces.iter().all(|piece| log.push(piece).is_ok()) {
        assert_eq!(log.packed().unpack(), Some(Bytes::from(pieces.concat())));
    }
});
