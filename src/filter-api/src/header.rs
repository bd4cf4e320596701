//! Values of headers that every answer has.

use http::HeaderValue;

/// A number. `HeaderValue::from` would take two allocations.
pub fn number(number: u64) -> HeaderValue {
    let mut buffer = itoa::Buffer::new();
    HeaderValue::from_str(buffer.format(number)).expect("digits are fit for a header")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_in_digits() {
        for given in [0, 1, 1_000_000, u64::MAX] {
            assert_eq!(number(given), given.to_string().as_str());
        }
    }
}
