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

    /// A PDF with a line of text on each page.
    fn pdf(lines: &[&str]) -> Vec<u8> {
        let kids: Vec<String> = (0..lines.len()).map(|at| format!("{} 0 R", 4 + 2 * at)).collect();
        let mut objects = vec![
            "<</Type/Catalog/Pages 2 0 R>>".to_owned(),
            format!("<</Type/Pages/Kids[{}]/Count {}>>", kids.join(" "), lines.len()),
            "<</Type/Font/Subtype/Type1/BaseFont/Helvetica/Encoding/WinAnsiEncoding>>".to_owned(),
        ];
        for (at, line) in lines.iter().enumerate() {
            let content = format!("BT /F1 12 Tf 72 720 Td ({line}) Tj ET");
            objects.push(format!(
                "<</Type/Page/Parent 2 0 R/MediaBox[0 0 612 792]/Contents {} 0 R\
                 /Resources<</Font<</F1 3 0 R>>>>>>",
                5 + 2 * at
            ));
            let length = content.len();
            objects.push(format!("<</Length {length}>>\nstream\n{content}\nendstream"));
        }
        let (mut pdf, mut places) = ("%PDF-1.4\n".to_owned(), String::new());
        for (at, object) in objects.iter().enumerate() {
            places.push_str(&format!("{:010} 00000 n \n", pdf.len()));
            pdf.push_str(&format!("{} 0 obj\n{object}\nendobj\n", at + 1));
        }
        let (start, size) = (pdf.len(), objects.len() + 1);
        pdf.push_str(&format!(
            "xref\n0 {size}\n0000000000 65535 f \n{places}trailer\n<</Size {size}/Root 1 0 R>>\n\
             startxref\n{start}\n%%EOF\n"
        ));
        pdf.into_bytes()
    }

    #[test]
    fn pages_are_read() {
        let document = pdf(&["First words", "Second words", "Third words"]);
        let all = analyse(&document, &Wishes::default()).unwrap();
        assert_eq!(all.data["pages"], 3);
        assert!(
            all.text.contains("First words") && all.text.contains("Third words"),
            "{}",
            all.text
        );
        let wishes = Wishes { first_page: Some(2), last_page: Some(2), ..Wishes::default() };
        let one = analyse(&document, &wishes).unwrap();
        assert_eq!(one.data["part"], json!([{"page": 2, "text": "Second words"}]));
        let wishes = Wishes { first_page: Some(9), ..Wishes::default() };
        assert_eq!(analyse(&document, &wishes).unwrap().data["part"], json!([]));
    }

    #[test]
    fn what_is_cut_off_is_told() {
        let document = pdf(&["words"]);
        assert!(analyse(&document[..60], &Wishes::default()).is_err());
        assert!(analyse(b"", &Wishes::default()).is_err());
    }
}
