//! Images and documents: OpenAI's URLs and data URLs as Anthropic's sources.

use serde_json::{Value, json};

use crate::RequestError;
use crate::media::{is_url, parse_data_url, text_of_base64};
use crate::messages::invalid;

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
    let text = text_of_base64(at, data)?;
    // The only text type Anthropic knows.
    Ok(json!({"type": "text", "media_type": "text/plain", "data": text}))
}
