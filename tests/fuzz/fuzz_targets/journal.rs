//! Any bytes as a segment of the journal are read to their end without a panic; what is a record is
//! written as it was read, and found again behind damage.

#![no_main]

use libfuzzer_sys::fuzz_target;
use tollway_store::journal::codec::{Salt, decode, encode};
use tollway_store::journal::reader::{Found, Scan};

fuzz_target!(|data: &[u8]| {
    // The bytes as they are: the checksums keep nearly all of them out.
    let mut events = Vec::new();
    let mut end = 0;
    for found in Scan::new(data, Salt::default()) {
        match found {
            Found::Record(payload) => events.extend(decode(payload)),
            Found::Damage { from, to } => {
                assert!(end <= from && from < to && to <= data.len() as u64);
                end = to;
            }
            Found::Torn { from, .. } => assert!(from < data.len() as u64),
        }
    }
    // And as a payload that has come through.
    events.extend(decode(data));

    let mut written = Vec::new();
    for event in &events {
        encode(&mut written, Salt(1), event);
    }
    let read = |bytes: &[u8]| {
        let mut read = Vec::new();
        for found in Scan::new(bytes, Salt(1)) {
            if let Found::Record(payload) = found {
                read.push(decode(payload).expect("what was written makes sense"));
            }
        }
        read
    };
    let again = read(&written);
    assert_eq!(again.len(), events.len());
    let mut twice = Vec::new();
    again.iter().for_each(|event| encode(&mut twice, Salt(1), event));
    // Texts that are too long are cut the first time.
    assert_eq!(read(&twice), again);
    // Behind a damaged byte, everything but what it was part of is there.
    if let Some(byte) = twice.first_mut() {
        *byte ^= 0x10;
        assert_eq!(read(&twice), again[1..]);
    }
});
