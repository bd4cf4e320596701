//! What text a database can keep: no zero bytes, and no more than an index takes.

use std::borrow::Cow;
use std::sync::Arc;

use sha2::{Digest, Sha256};

/// The most bytes of a text that is looked up or added up by: an id, an alias, a tag, a model …
/// Two of them have to fit into an entry of a Postgres index (2,704 bytes).
pub const TEXT_MAX: usize = 512;

/// What is kept of a text. One of at most [`TEXT_MAX`] bytes without a zero byte is kept as it is.
/// Any other is cut and ends in `…` and 16 hexadecimal digits of its SHA-256, so that two that
/// begin alike stay two.
pub fn fit(text: &str) -> Cow<'_, str> {
    if fits(text) {
        return Cow::Borrowed(text);
    }
    let digest = Sha256::digest(text.as_bytes());
    let mark: String = digest[..8].iter().map(|byte| format!("{byte:02x}")).collect();
    // Room for `…` and the digits.
    let kept = text.floor_char_boundary(TEXT_MAX - 3 - 16);
    Cow::Owned(format!("{}…{mark}", text[..kept].replace('\0', " ")))
}

/// Whether [`fit`] leaves it as it is.
pub(super) fn fits(text: &str) -> bool {
    text.len() <= TEXT_MAX && !text.contains('\0')
}

/// [`fit`] for shared text.
pub(super) fn fit_arc(text: &Arc<str>) -> Arc<str> {
    match fit(text) {
        Cow::Borrowed(_) => Arc::clone(text),
        Cow::Owned(cut) => cut.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::{TEXT_MAX, fit};
    use proptest::prelude::*;

    #[test]
    fn long_texts_that_begin_alike_stay_two() {
        let (one, two) = ("é".repeat(1_000_000), "é".repeat(1_000_001));
        assert_ne!(fit(&one), fit(&two));
        assert_ne!(fit("a\0"), fit("a "));
        assert_eq!(fit(&"x".repeat(TEXT_MAX)), "x".repeat(TEXT_MAX));
        assert_eq!(fit(""), "");
    }

    proptest! {
        #[test]
        fn whatever_comes_fits_and_stays(text in "(\\PC|\0){0,600}") {
            let kept = fit(&text);
            prop_assert!(kept.len() <= TEXT_MAX && !kept.contains('\0'));
            prop_assert_eq!(fit(&kept), kept.as_ref());
        }
    }
}
