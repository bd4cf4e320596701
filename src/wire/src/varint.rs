//! Numbers of any size in as few bytes as they need: LEB128, seven bits to a byte, the lowest first.

/// The most bytes a number takes.
pub const BYTES_MAX: usize = 10;

/// Appends a number.
pub fn put(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

/// Reads a number, and moves past it. `None` where the bytes end before it does, or where it has more
/// than 64 bits.
pub fn take(rest: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let (&byte, after) = rest.split_first()?;
        *rest = after;
        let bits = u64::from(byte & 0x7F);
        // The tenth byte has room for one bit only.
        if shift == 63 && bits > 1 {
            return None;
        }
        number |= bits << shift;
        if byte < 0x80 {
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn numbers_are_read_as_they_are_written(shift in 0_u32..64, bits in any::<u64>(), more in any::<u8>()) {
            let number = bits >> shift;
            let mut bytes = Vec::new();
            put(&mut bytes, number);
            prop_assert!(bytes.len() <= BYTES_MAX);
            for cut in 0..bytes.len() {
                prop_assert_eq!(take(&mut &bytes[..cut]), None);
            }
            bytes.push(more);
            let mut rest = &bytes[..];
            prop_assert_eq!(take(&mut rest), Some(number));
            prop_assert_eq!(rest, &[more][..]);
        }
    }

    #[test]
    fn more_than_64_bits_are_no_number() {
        assert_eq!(take(&mut &[0xFF; 10][..]), None);
        let most = [0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 1];
        assert_eq!(take(&mut &most[..]), Some(u64::MAX));
    }
}
