//! Random numbers for ids, jitter and choices between deployments. Not for secrets.

use std::cell::Cell;
use std::time::{SystemTime, UNIX_EPOCH};

thread_local! {
    static STATE: Cell<u64> = Cell::new(seed());
}

fn seed() -> u64 {
    // The machine's randomness once a thread; an id must not repeat after a restart.
    getrandom::u64().unwrap_or(0x9E37_79B9_7F4A_7C15)
}

/// A uniform 64-bit number (SplitMix64, Steele, Lea and Flood 2014).
pub(crate) fn next() -> u64 {
    STATE.with(|state| {
        let next = state.get().wrapping_add(0x9E37_79B9_7F4A_7C15);
        state.set(next);
        let mixed = (next ^ (next >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    })
}

/// A number in `0..limit`. `limit` is small here, so the bias of the multiplication is nothing.
pub(crate) fn below(limit: u64) -> u64 {
    ((u128::from(next()) * u128::from(limit)) >> 64) as u64
}

/// A number in `0.0..1.0`.
pub(crate) fn unit() -> f64 {
    (next() >> 11) as f64 / (1u64 << 53) as f64
}

/// A UUID that begins with the time in milliseconds (version 7, RFC 9562), in its usual form: what is
/// stored by it is stored where the last one was, which costs a database less.
pub(crate) fn uuid() -> String {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let (high, low) = (next(), next());
    let high = (now.as_millis() as u64) << 16 | 0x7000 | high & 0x0FFF;
    let low = (low & 0x3FFF_FFFF_FFFF_FFFF) | 0x8000_0000_0000_0000;
    let mut text = String::with_capacity(36);
    for (at, byte) in high.to_be_bytes().into_iter().chain(low.to_be_bytes()).enumerate() {
        if matches!(at, 4 | 6 | 8 | 10) {
            text.push('-');
        }
        text.push(char::from(HEX[usize::from(byte >> 4)]));
        text.push(char::from(HEX[usize::from(byte & 15)]));
    }
    text
}

/// 32 hexadecimal digits that nobody can guess, from the machine's randomness.
pub(crate) fn unguessable() -> String {
    // Where the machine has none, ids are at least unique.
    let half = || getrandom::u64().unwrap_or_else(|_| next());
    format!("{:016x}{:016x}", half(), half())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uuids_have_their_version_and_do_not_repeat() {
        let ids: std::collections::HashSet<String> = (0..10_000).map(|_| uuid()).collect();
        assert_eq!(ids.len(), 10_000);
        for id in ids {
            assert_eq!(id.len(), 36);
            assert_eq!(&id[14..15], "7");
            assert!("89ab".contains(&id[19..20]), "{id}");
        }
    }

    #[test]
    fn below_stays_below() {
        assert!((0..1000).all(|_| below(3) < 3));
        assert_eq!(below(1), 0);
    }
}
