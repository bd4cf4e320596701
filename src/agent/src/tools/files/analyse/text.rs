//! Text: how much there is, and how it begins.

use serde_json::json;

use super::{Analysis, cut};

/// How much of its beginning is shown.
const PREVIEW_BYTES: usize = 2 * 1024;

pub(super) fn analyse(text: &str) -> Analysis {
    let (lines, words) = (text.lines().count(), text.split_whitespace().count());
    let characters = text.chars().count();
    let longest = text.lines().map(|line| line.chars().count()).max().unwrap_or(0);
    let mut preview = text[..text.floor_char_boundary(PREVIEW_BYTES + 1)].to_owned();
    cut(&mut preview, PREVIEW_BYTES);
    let said = format!(
        "Text: {lines} lines, {words} words, {characters} characters; the longest line has \
         {longest}. It begins:\n{preview}"
    );
    let data = json!({
        "lines": lines,
        "words": words,
        "characters": characters,
        "longest_line": longest,
        "preview": preview,
    });
    Analysis { kind: "text".to_owned(), text: said, data }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn text_is_counted() {
        let analysis = analyse("one two\nthree\n\nvier ü");
        let expect = json!({"lines": 4, "words": 5, "characters": 21, "longest_line": 7,
            "preview": "one two\nthree\n\nvier ü"});
        assert_eq!(analysis.data, expect);
        assert_eq!(analyse("").data["lines"], 0);
    }

    proptest! {
        #[test]
        fn previews_are_short(text in "[aé\n]{900,1200}[aé]{900,1200}") {
            let analysis = analyse(&text);
            prop_assert!(analysis.data["preview"].as_str().is_some_and(|it| it.len() <= PREVIEW_BYTES));
        }
    }
}
