//! Forms with files: image edits, image variations, transcriptions, translations.

use bytes::Bytes;

use crate::{Form, RequestError, UpstreamBody};

/// The form with another model in it. Everything else is copied once, byte by byte, so the boundary
/// stays what it was.
///
/// # Errors
/// When the name cannot stand in a form. Under a wildcard it comes from the client, and must not be
/// able to bring more fields along.
pub(super) fn with_model(form: &Form, model: &str) -> Result<UpstreamBody, RequestError> {
    let refused = |message: &str| RequestError::Invalid {
        message: message.into(),
        param: Some("model".into()),
    };
    if model.bytes().any(|b| b.is_ascii_control()) {
        return Err(refused("The name of the model holds control characters."));
    }
    let parts = (form.bytes.get(..form.model.start), form.bytes.get(form.model.end..));
    let (Some(before), Some(after)) = parts else {
        return Err(refused("The form has no model."));
    };
    let is_same = form.bytes.get(form.model.clone()) == Some(model.as_bytes());
    let bytes = if is_same {
        form.bytes.clone()
    } else {
        Bytes::from([before, model.as_bytes(), after].concat())
    };
    let content_type = Some(form.content_type.clone());
    Ok(UpstreamBody { content_type, ..UpstreamBody::plain(bytes) })
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn form(model: std::ops::Range<usize>) -> Form {
        Form {
            content_type: HeaderValue::from_static("multipart/form-data; boundary=x"),
            bytes: Bytes::from_static(b"a whisper b"),
            model,
        }
    }

    #[test]
    fn only_the_model_is_replaced() {
        let sent = with_model(&form(2..9), "whisper-large-v3").expect("valid");
        assert_eq!(&sent.bytes[..], b"a whisper-large-v3 b");
        assert_eq!(sent.content_type.expect("kept"), "multipart/form-data; boundary=x");
    }

    #[test]
    fn the_same_model_is_the_same_bytes() {
        let form = form(2..9);
        let sent = with_model(&form, "whisper").expect("valid");
        assert_eq!(sent.bytes.as_ptr(), form.bytes.as_ptr());
    }

    #[test]
    fn a_name_brings_no_fields_along() {
        assert!(with_model(&form(2..9), "a\r\n--x\r\n").is_err());
        assert!(with_model(&form(2..99), "a").is_err());
        assert!(with_model(&form(90..99), "a").is_err());
    }
}
