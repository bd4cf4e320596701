//! The guests that parse documents: pure functions, with a process of their own around them.

use std::io::Write;

use bytes::{BufMut, Bytes, BytesMut};
use serde_json::{Value, json};

use super::{Analysis, Wishes, image, pdf, sheet};

/// A guest: is given its input and where to write, and returns its exit code.
pub type Native = fn(&[u8], &mut dyn Write) -> i32;

/// All guests, by name: what a worker process is given.
pub const NATIVES: &[(&str, Native)] =
    &[("files.pdf", of_pdf), ("files.sheet", of_sheet), ("files.image", of_image)];

/// What a parser is.
type Parse = fn(&[u8], &Wishes) -> Result<Analysis, String>;

/// Who looks into files of a media type.
pub(super) fn guest_of(media_type: &str) -> Option<&'static str> {
    Some(match media_type {
        "application/pdf" => "files.pdf",
        "application/vnd.ms-excel"
        | "application/vnd.oasis.opendocument.spreadsheet"
        | "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"
        | "application/zip"
        | "application/x-ole-storage" => "files.sheet",
        "image/png" | "image/jpeg" | "image/gif" | "image/webp" => "files.image",
        _ => return None,
    })
}

/// What a guest is given: what is wanted, as a line of JSON, and the document.
pub(super) fn input(wishes: &Wishes, document: &[u8]) -> Bytes {
    let wishes = json!(wishes).to_string();
    let mut input = BytesMut::with_capacity(wishes.len() + 1 + document.len());
    input.put(wishes.as_bytes());
    input.put_u8(b'\n');
    input.put(document);
    input.freeze()
}

/// What a guest has answered: its last line. Parsers may have printed something before.
pub(super) fn answer(written: &[u8]) -> Result<Analysis, String> {
    let unreadable = || "the document cannot be read".to_owned();
    let line = written.rsplit(|byte| *byte == b'\n').next().unwrap_or_default();
    let answer: Result<Analysis, String> =
        serde_json::from_slice(line).map_err(|_| unreadable())?;
    answer.map_err(|error| {
        let said: String = error.chars().filter(|c| !c.is_control()).take(300).collect();
        format!("the document cannot be read: {said}")
    })
}

fn of_pdf(input: &[u8], out: &mut dyn Write) -> i32 {
    serve(pdf::analyse, input, out)
}

fn of_sheet(input: &[u8], out: &mut dyn Write) -> i32 {
    serve(sheet::analyse, input, out)
}

fn of_image(input: &[u8], out: &mut dyn Write) -> i32 {
    serve(image::analyse, input, out)
}

fn serve(parse: Parse, input: &[u8], out: &mut dyn Write) -> i32 {
    let mut parts = input.splitn(2, |byte| *byte == b'\n');
    let (wishes, document) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let answer = match serde_json::from_slice(wishes) {
        Ok(wishes) => parse(document, &wishes),
        Err(error) => Err(error.to_string()),
    };
    let answer: Value = json!(answer);
    match write!(out, "\n{answer}").and_then(|()| out.flush()) {
        Ok(()) => 0,
        Err(_) => 1,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn guests_answer_behind_whatever_was_printed() {
        let analysis = Analysis { kind: "pdf".into(), text: "a\nb".into(), data: json!({"a": 1}) };
        let answered: Result<_, String> = Ok(analysis.clone());
        assert_eq!(answer(format!("debug\n\n{}", json!(answered)).as_bytes()), Ok(analysis));
        let refused: Result<Analysis, _> = Err("no\u{0} page".to_owned());
        let said = answer(json!(refused).to_string().as_bytes()).unwrap_err();
        assert_eq!(said, "the document cannot be read: no page");
        assert!(answer(b"").is_err() && answer(b"{}").is_err());
    }

    proptest! {
        #[test]
        fn no_answer_makes_it_panic(written in prop::collection::vec(any::<u8>(), 0..80)) {
            let _ = answer(&written);
        }

        #[test]
        fn broken_documents_are_told_or_break_alone(
            head in prop::sample::select(vec![&b"%PDF-1.4\n"[..], b"PK\x03\x04", b"\x89PNG\r\n\x1a\n", b"GIF89a"]),
            rest in prop::collection::vec(any::<u8>(), 0..300),
        ) {
            let document = [head, &rest].concat();
            for (_, native) in NATIVES {
                let input = input(&Wishes::default(), &document);
                let ran = std::panic::catch_unwind(move || {
                    let mut out = Vec::new();
                    (native(&input, &mut out), out)
                });
                if let Ok((code, out)) = ran {
                    prop_assert_eq!(code, 0);
                    let is_told = |error: String| error.contains("cannot be read: ");
                    prop_assert!(answer(&out).map_or_else(is_told, |_| true));
                }
            }
        }
    }
}
