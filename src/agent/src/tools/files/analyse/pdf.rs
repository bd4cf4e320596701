//! PDF: the text of some pages.

use pdf_extract::{Document, PlainTextOutput, output_doc_page};
use serde_json::{Value, json};

use super::{Analysis, TEXT_BYTES_MAX, Wishes, cut};

/// How many pages are read where nothing is said, and at most.
const PAGES: (u32, u32) = (10, 100);

pub(super) fn analyse(document: &[u8], wishes: &Wishes) -> Result<Analysis, String> {
    let document = Document::load_mem(document).map_err(|error| error.to_string())?;
    if document.is_encrypted() {
        return Err("it is encrypted".to_owned());
    }
    let count = u32::try_from(document.get_pages().len()).unwrap_or(u32::MAX);
    let first = wishes.first_page.unwrap_or(1).max(1);
    let last = wishes.last_page.unwrap_or(first.saturating_add(PAGES.0 - 1));
    let last = last.min(count).min(first.saturating_add(PAGES.1 - 1));
    let (mut said, mut pages) = (String::new(), Vec::new());
    for number in first..=last {
        let mut text = String::new();
        let mut output = PlainTextOutput::new(&mut text);
        // A page that cannot be read does not spoil the others.
        if let Err(error) = output_doc_page(&document, &mut output, number) {
            text = format!("[this page cannot be read: {error}]");
        }
        cut(&mut text, TEXT_BYTES_MAX);
        let text = text.trim();
        said.push_str(&format!("--- page {number} ---\n{text}\n"));
        pages.push(json!({"page": number, "text": text}));
        if said.len() > TEXT_BYTES_MAX {
            break;
        }
    }
    let read = pages.len();
    let text = format!("PDF: {count} pages, {read} of them from page {first}:\n{said}");
    let data = json!({"pages": count, "first_page": first, "part": Value::Array(pages)});
    Ok(Analysis { kind: "pdf".to_owned(), text, data })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A page for each of: First words, Second words, Third words.
    const THREE: &[u8] = include_bytes!("../../../../tests/files/three.pdf");

    #[test]
    fn pages_are_read() {
        let all = analyse(THREE, &Wishes::default()).unwrap();
        assert_eq!(all.data["pages"], 3);
        assert!(
            all.text.contains("First words") && all.text.contains("Third words"),
            "{}",
            all.text
        );
        let wishes = Wishes { first_page: Some(2), last_page: Some(2), ..Wishes::default() };
        let one = analyse(THREE, &wishes).unwrap();
        assert_eq!(one.data["part"], json!([{"page": 2, "text": "Second words"}]));
        let wishes = Wishes { first_page: Some(9), ..Wishes::default() };
        assert_eq!(analyse(THREE, &wishes).unwrap().data["part"], json!([]));
    }

    #[test]
    fn what_is_cut_off_is_told() {
        assert!(analyse(&THREE[..60], &Wishes::default()).is_err());
        assert!(analyse(b"", &Wishes::default()).is_err());
    }
}
