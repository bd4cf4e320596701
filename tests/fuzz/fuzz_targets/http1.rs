//! However a provider's answer is cut into reads, it reads the same, and nothing is taken from what
//! comes after it.
//!
//! The module is the gateway's own and lives in a binary, so it is taken in by its path.

#![no_main]

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use tollway_fuzz::{Cuts, steer};

#[path = "../../../src/gateway/src/exchange/framing.rs"]
#[expect(dead_code, reason = "the gateway uses the rest")]
mod framing;

use framing::{Answer, Malformed, Piece};

/// What came of an answer: its statuses, its body, what is left, whether it may be followed.
type Read = (Vec<u16>, Vec<u8>, Vec<u8>, bool);

fuzz_target!(|data: &[u8]| {
    let Some((cuts, stream)) = steer::<Cuts>(data, 4) else { return };
    let whole = read(&[bytes::Bytes::copy_from_slice(stream)]);
    assert_eq!(read(&cuts.of(stream)), whole);
    if let Ok((_, body, left, _)) = whole {
        assert!(body.len() + left.len() <= stream.len());
        assert!(stream.ends_with(&left));
    }
});

fn read(pieces: &[bytes::Bytes]) -> Result<Read, Malformed> {
    let (mut answer, mut read, mut has_head) = (Answer::new(), BytesMut::new(), false);
    let (mut statuses, mut body) = (Vec::new(), Vec::new());
    'pieces: for piece in pieces {
        read.extend_from_slice(piece);
        while !has_head {
            let Some(head) = answer.head(&mut read)? else { continue 'pieces };
            statuses.push(head.status.as_u16());
            has_head = !head.status.is_informational();
        }
        while let Piece::Bytes(bytes) = answer.body(&mut read)? {
            body.extend_from_slice(&bytes);
        }
    }
    let keeps = answer.keeps_connection();
    if !keeps {
        // A connection that closes must not hide that an answer is not complete.
        answer.closed()?;
    }
    Ok((statuses, body, read.to_vec(), keeps))
}
