//! URLs and data URLs of images and files.

use crate::RequestError;
use crate::messages::invalid;

/// Whether a text is an http URL.
pub(crate) fn is_url(text: &str) -> bool {
    text.starts_with("https://") || text.starts_with("http://")
}

/// The media type and the base64 of a data URL.
pub(crate) fn parse_data_url(url: &str) -> Option<(&str, &str)> {
    let (head, data) = url.strip_prefix("data:")?.split_once(',')?;
    let mut head = head.split(';');
    let media_type = head.next()?;
    head.any(|word| word.trim().eq_ignore_ascii_case("base64")).then_some((media_type, data))
}

/// The text of a file.
pub(crate) fn text_of_base64(at: usize, data: &str) -> Result<String, RequestError> {
    let text = decode_base64(data).and_then(|bytes| String::from_utf8(bytes).ok());
    text.ok_or_else(|| invalid(at, "the file is not text in base64"))
}

/// Decodes base64, with or without padding.
fn decode_base64(text: &str) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len() / 4 * 3 + 3);
    let (mut bits, mut count) = (0u32, 0u32);
    for byte in text.trim_end_matches('=').bytes() {
        let value = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' | b'-' => 62,
            b'/' | b'_' => 63,
            b'\r' | b'\n' => continue,
            _ => return None,
        };
        bits = bits << 6 | u32::from(value);
        count += 6;
        if count >= 8 {
            count -= 8;
            out.push((bits >> count & 0xFF) as u8);
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_decoded() {
        assert_eq!(decode_base64("aGVsbG8="), Some(b"hello".to_vec()));
        assert_eq!(decode_base64("aGVsbG8"), Some(b"hello".to_vec()));
        assert_eq!(decode_base64("__--"), decode_base64("//++"));
        assert_eq!(decode_base64("a b"), None);
    }

    #[test]
    fn data_urls_are_taken_apart() {
        assert_eq!(parse_data_url("data:image/png;base64,AA=="), Some(("image/png", "AA==")));
        assert_eq!(parse_data_url("data:image/png;x=y;base64,AA"), Some(("image/png", "AA")));
        assert_eq!(parse_data_url("data:text/plain,hello"), None);
        assert_eq!(parse_data_url("https://x"), None);
    }
}
