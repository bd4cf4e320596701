//! A server's websocket frames, cut anywhere: nothing panics, and cuts change nothing.

#![no_main]

use libfuzzer_sys::fuzz_target;
use tollway_wire::realtime::Meter;

fuzz_target!(|data: &[u8]| {
    let Some((size, frames)) = data.split_first() else { return };
    let (mut whole, mut pieces) = (Meter::default(), Meter::default());
    whole.take(frames);
    frames.chunks(usize::from(*size).max(1)).for_each(|piece| pieces.take(piece));
    assert_eq!(whole.usage(), pieces.usage());
    assert_eq!(whole.responses(), pieces.responses());
});
