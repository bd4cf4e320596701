//! URLs and data URLs of images and files.

use tollway_wire::base64;

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
    let text = base64::decode(data).and_then(|bytes| String::from_utf8(bytes).ok());
    text.ok_or_else(|| invalid(at, "the file is not text in base64"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_urls_are_taken_apart() {
        assert_eq!(parse_data_url("data:image/png;base64,AA=="), Some(("image/png", "AA==")));
        assert_eq!(parse_data_url("data:image/png;x=y;base64,AA"), Some(("image/png", "AA")));
        assert_eq!(parse_data_url("data:text/plain,hello"), None);
        assert_eq!(parse_data_url("https://x"), None);
    }
}
