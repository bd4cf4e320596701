//! What a file is, by its bytes. Only of what is text, and so cannot be anything else, its name says
//! which kind of text.

/// Kinds of text by the end of the name.
const TEXTS: &[(&str, &str)] = &[
    ("csv", "text/csv"),
    ("tsv", "text/tab-separated-values"),
    ("json", "application/json"),
    ("jsonl", "application/jsonl"),
    ("md", "text/markdown"),
    ("html", "text/html"),
    ("htm", "text/html"),
    ("xml", "application/xml"),
    ("svg", "image/svg+xml"),
    ("py", "text/x-python"),
    ("js", "text/javascript"),
    ("mjs", "text/javascript"),
    ("jsx", "text/javascript"),
    ("ts", "text/x-typescript"),
    ("tsx", "text/x-typescript"),
    ("rs", "text/x-rust"),
    ("go", "text/x-go"),
];

/// What is known of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Kind {
    /// The media type.
    pub(super) media_type: &'static str,
    /// It is UTF-8, and can be read as it is.
    pub(super) is_text: bool,
}

/// Tells what `bytes` are.
pub(super) fn of(bytes: &[u8], name: &str) -> Kind {
    // What old Office files are packed in. Which kind it is, only a parser can tell.
    if bytes.starts_with(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1") {
        return Kind { media_type: "application/x-ole-storage", is_text: false };
    }
    // What begins like a PDF is one for every reader, also where the rest happens to be text.
    let known = infer::get(bytes).map(|found| found.mime_type());
    if let Some(media_type) = known.filter(|found| !found.starts_with("text/")) {
        return Kind { media_type, is_text: false };
    }
    if bytes.contains(&0) || std::str::from_utf8(bytes).is_err() {
        return Kind { media_type: "application/octet-stream", is_text: false };
    }
    let end = name.rsplit_once('.').map(|(_, end)| end.to_ascii_lowercase());
    let named = TEXTS.iter().find(|(have, _)| Some(*have) == end.as_deref());
    Kind { media_type: named.map_or("text/plain", |(_, media_type)| media_type), is_text: true }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn bytes_say_what_a_file_is() {
        let check = |bytes: &[u8], name: &str, expect: &str| {
            assert_eq!(of(bytes, name).media_type, expect, "{name}");
        };
        check(b"%PDF-1.7\n1 0 obj", "notes.txt", "application/pdf");
        check(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "a.pdf", "image/png");
        check(b"just words", "a.pdf", "text/plain");
        check(b"just words", "a.exe", "text/plain");
        check(b"", "a.png", "text/plain");
        check(b"a,b\n1,2", "A.CSV", "text/csv");
        check(b"fn main() {}", "main.rs", "text/x-rust");
        check(b"\xff\xfe\x00", "a.txt", "application/octet-stream");
        check(b"words\0", "a.txt", "application/octet-stream");
        assert!(of("héllo".as_bytes(), "a").is_text);
        assert!(!of(b"%PDF-1.7", "a.txt").is_text);
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(
            head in prop::sample::select(vec![
                &b""[..], b"PK\x03\x04", b"%PDF-", b"\x89PNG\r\n\x1a\n", b"RIFF", b"\0\0\0\x18ftyp",
                b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", b"II*\0", b"GIF8", b"\x1f\x8b", b"\x7fELF", b"MZ",
                b"\x1aE\xdf\xa3", b"BM", b"<?xml", b"<html",
            ]),
            rest in prop::collection::vec(any::<u8>(), 0..600),
        ) {
            let bytes = [head, &rest].concat();
            let kind = of(&bytes, "a.txt");
            prop_assert!(!kind.is_text || std::str::from_utf8(&bytes).is_ok());
            for end in 0..bytes.len().min(64) {
                let _ = of(&bytes[..end], "a");
            }
        }
    }
}
