//! Images and documents: OpenAI's URLs and data URLs as Anthropic's sources.

use serde_json::{Value, json};

use crate::RequestError;

use super::messages::invalid;

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

/// Anthropic knows JPEG by its registered name only.
pub(super) fn image_type(media_type: &str) -> String {
    let media_type = media_type.to_ascii_lowercase();
    if media_type == "image/jpg" { "image/jpeg".to_owned() } else { media_type }
}

/// A block whose content is in place.
pub(super) fn base64_block(kind: &str, media_type: &str, data: &str) -> Value {
    json!({"type": kind, "source": {"type": "base64", "media_type": media_type, "data": data}})
}

/// The block of an image, by data URL or http URL; a PDF among them becomes a document.
pub(super) fn image(at: usize, url: String, format: Option<String>) -> Result<Value, RequestError> {
    if let Some((media_type, data)) = parse_data_url(&url) {
        let media_type = format.as_deref().unwrap_or(media_type);
        return Ok(if media_type == "application/pdf" {
            base64_block("document", media_type, data)
        } else {
            base64_block("image", &image_type(media_type), data)
        });
    }
    if is_url(&url) {
        let path = url.split(['?', '#']).next().unwrap_or_default();
        let kind = if path.ends_with(".pdf") { "document" } else { "image" };
        return Ok(json!({"type": kind, "source": {"type": "url", "url": url}}));
    }
    Err(invalid(at, "an image is neither a base64 data URL nor an http URL"))
}

/// The source of a document: PDF goes as it is, text as text.
pub(super) fn document_source(
    at: usize,
    media_type: &str,
    data: &str,
) -> Result<Value, RequestError> {
    if !media_type.starts_with("text/") {
        return Ok(json!({"type": "base64", "media_type": media_type, "data": data}));
    }
    let text = decode_base64(data).and_then(|bytes| String::from_utf8(bytes).ok());
    let text = text.ok_or_else(|| invalid(at, "the file is not text in base64"))?;
    // The only text type Anthropic knows.
    Ok(json!({"type": "text", "media_type": "text/plain", "data": text}))
}

/// Decodes base64, with or without padding.
pub(crate) fn decode_base64(text: &str) -> Option<Vec<u8>> {
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
