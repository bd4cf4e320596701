//! Looks at 16 or 64 bytes at once and answers with a bit for each byte.
//!
//! `wide` compiles to SSE2 on x86-64 and to NEON on 64-bit ARM, which every such processor has, so
//! there is nothing to detect at run time. It is here because the standard library's intrinsics
//! are safe to call only from functions marked with `target_feature`, which safe code cannot call
//! in turn, and because the compiler makes no bit mask of a loop over bytes: with such loops, all
//! but plain English text took 3 to 10 times as long.

use wide::i8x16;

/// What a block of the inside of a string holds. Bit `i` speaks of byte `i`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Look {
    /// Quotes, backslashes and control characters.
    pub(super) stops: u64,
    /// Bytes of 0x80 and above.
    pub(super) non_ascii: u64,
}

/// Whether the whole block is ASCII text without a quote, a backslash or a control character.
#[inline(always)]
pub(super) fn is_plain(block: &[u8; 64]) -> bool {
    let [a, b, c, d] = load64(block).map(odd);
    mask((a | b) | (c | d)) == 0
}

/// Where the text of a string is interrupted.
#[inline(always)]
pub(super) fn look(block: &[u8; 64]) -> Look {
    let parts = load64(block);
    let non_ascii = mask64(parts);
    Look { stops: mask64(parts.map(odd)) & !non_ascii, non_ascii }
}

/// How many bytes at the start are ASCII text without a quote, a backslash or a control character;
/// at most 16.
#[inline(always)]
pub(super) fn plain_run(block: &[u8; 16]) -> usize {
    run(!mask(odd(load(block))))
}

/// How many bytes at the start are ASCII digits; at most 16.
#[inline(always)]
pub(super) fn digit_run(block: &[u8; 16]) -> usize {
    run(mask(digit(load(block))))
}

/// How many bytes at the start are integers without sign, each with a comma right after it. Numbers
/// that are not followed by their comma within the block are not counted.
#[inline(always)]
pub(super) fn integers_run(block: &[u8; 64]) -> usize {
    let parts = load64(block);
    let commas = mask64(parts.map(|part| equal(part, b',')));
    let zeros = mask64(parts.map(|part| equal(part, b'0')));
    let digits = mask64(parts.map(digit));

    let others = !(commas | digits);
    let before_others = !others & others.wrapping_sub(1);
    let commas = commas & before_others;
    let end = 64 - commas.leading_zeros();
    // The first number starts the block, the others follow a comma; none follows the last comma.
    let starts = (commas << 1 | 1) & !(1u64.checked_shl(end).unwrap_or(0));
    let leading_zeros = zeros & (digits >> 1);
    if starts & (!digits | leading_zeros) == 0 { end as usize } else { 0 }
}

/// How many bytes at the start are JSON whitespace; at most 16.
#[inline(always)]
pub(super) fn blank_run(block: &[u8; 16]) -> usize {
    let part = load(block);
    let spaces = equal(part, b' ') | equal(part, b'\t');
    run(mask(spaces | equal(part, b'\n') | equal(part, b'\r')))
}

/// Marks quotes, backslashes, control characters and everything that is not ASCII.
#[inline(always)]
fn odd(part: i8x16) -> i8x16 {
    // Flipping bit 1 moves the quote (0x22) to 0x20, next to the control characters, and both
    // 0x20 and 0x21 out of the way. Bytes from 0x80 up are negative, so one signed comparison
    // finds all three kinds.
    let low = (part ^ i8x16::splat(2)).simd_lt(i8x16::splat(0x21));
    low | equal(part, b'\\')
}

/// Marks ASCII digits.
#[inline(always)]
fn digit(part: i8x16) -> i8x16 {
    // Shifts '0'..='9' to the ten lowest signed values, so that one comparison is enough.
    (part + i8x16::splat((0x80 - b'0') as i8)).simd_lt(i8x16::splat(i8::MIN + 10))
}

/// Marks one byte.
#[inline(always)]
fn equal(part: i8x16, byte: u8) -> i8x16 {
    part.simd_eq(i8x16::splat(byte as i8))
}

#[inline(always)]
fn load(block: &[u8; 16]) -> i8x16 {
    i8x16::new(block.map(|byte| byte as i8))
}

#[inline(always)]
fn load64(block: &[u8; 64]) -> [i8x16; 4] {
    let (parts, _) = block.as_chunks::<16>();
    [load(&parts[0]), load(&parts[1]), load(&parts[2]), load(&parts[3])]
}

#[inline(always)]
fn mask(part: i8x16) -> u64 {
    u64::from(part.to_bitmask())
}

#[inline(always)]
fn mask64([a, b, c, d]: [i8x16; 4]) -> u64 {
    mask(a) | mask(b) << 16 | mask(c) << 32 | mask(d) << 48
}

/// How many of the lowest 16 bits are set before the first that is not.
#[inline(always)]
fn run(mask: u64) -> usize {
    (!mask | 1 << 16).trailing_zeros() as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_stop(byte: u8) -> bool {
        byte == b'"' || byte == b'\\' || byte < 0x20
    }

    fn bits(block: &[u8], is: impl Fn(u8) -> bool) -> u64 {
        block.iter().rev().fold(0, |bits, &byte| bits << 1 | u64::from(is(byte)))
    }

    fn run_of(block: &[u8], is: impl Fn(u8) -> bool) -> usize {
        block.iter().position(|&byte| !is(byte)).unwrap_or(block.len())
    }

    #[test]
    fn every_byte_is_told_apart_at_every_position() {
        for filler in *b"a7 " {
            for at in 0..64 {
                for byte in 0..=u8::MAX {
                    let mut block = [filler; 64];
                    block[at] = byte;
                    let is_plain_byte = |byte: u8| byte.is_ascii() && !is_stop(byte);
                    assert_eq!(is_plain(&block), is_plain_byte(byte), "{block:?}");
                    let non_ascii = bits(&block, |byte| !byte.is_ascii());
                    let expected = Look { stops: bits(&block, is_stop), non_ascii };
                    assert_eq!(look(&block), expected, "{block:?}");

                    let Some(block) = block.first_chunk::<16>() else { continue };
                    assert_eq!(plain_run(block), run_of(block, is_plain_byte), "{block:?}");
                    assert_eq!(digit_run(block), run_of(block, |b| b.is_ascii_digit()));
                    assert_eq!(blank_run(block), run_of(block, |b| b" \t\n\r".contains(&b)));
                }
            }
        }
    }

    #[track_caller]
    fn check_integers(text: &str, expect: usize) {
        // Twice: with something else, and with digits, in the rest of the block.
        for filler in *b"]8" {
            let mut block = [filler; 64];
            block[..text.len()].copy_from_slice(text.as_bytes());
            assert_eq!(integers_run(&block), expect, "{text}");
        }
    }

    #[test]
    fn integers_are_counted_up_to_the_last_comma() {
        check_integers("1,", 2);
        check_integers("12,0,345,", 9);
        check_integers("12,3 ,4,", 3);
        check_integers("1,2.5,", 2);
        check_integers("1,-2,", 2);
        check_integers("1,20,x,", 5);
        let whole = "12,".repeat(21) + ",";
        check_integers(&whole.replace(",,", "9,"), 64);
        check_integers(&"1".repeat(64), 0);
        check_integers(&("1".repeat(63) + ","), 64);
        check_integers(&("1,".repeat(32)), 64);
    }

    #[test]
    fn bad_integers_are_left_to_the_slow_path() {
        check_integers("", 0);
        check_integers(",1,", 0);
        check_integers("1,,2,", 0);
        check_integers("01,", 0);
        check_integers("1,02,", 0);
        check_integers("x1,", 0);
    }
}
