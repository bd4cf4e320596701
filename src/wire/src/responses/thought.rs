//! A thought signature in the id of a call, for clients that keep nothing else of it.

use super::envelope::{base64url, from_base64url};

const MARK: &str = "__thought__";

/// The id that carries a signature.
pub(super) fn join(id: &str, signature: &str) -> String {
    format!("{id}{MARK}{}", base64url(signature.as_bytes()))
}

/// The id proper, and the signature it carried.
pub(super) fn split(id: &str) -> (&str, Option<String>) {
    let Some((plain, encoded)) = id.rsplit_once(MARK) else { return (id, None) };
    match from_base64url(encoded).and_then(|bytes| String::from_utf8(bytes).ok()) {
        Some(signature) if !signature.is_empty() => (plain, Some(signature)),
        _ => (id, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_comes_out_as_it_went_in() {
        let id = join("call_1", "CoYB+/==");
        assert!(id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte)));
        assert_eq!(split(&id), ("call_1", Some("CoYB+/==".into())));
        for id in ["call_1", "", "__thought__", "call__thought__%%", "call__thought__A"] {
            assert_eq!(split(id), (id, None));
        }
    }
}
