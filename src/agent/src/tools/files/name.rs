//! Names of files, made harmless: they are shown, sent in headers and told to models, but never used as
//! paths.

/// The longest name.
const BYTES_MAX: usize = 255;

/// What a name amounts to: its last segment, without what cannot be seen or turns text around.
pub(super) fn clean(given: &str) -> String {
    let given = given.rsplit(['/', '\\']).next().unwrap_or_default();
    let seen: String = given.chars().filter(|c| !is_unseen(*c)).collect();
    let name = seen.trim().trim_end_matches('.').trim_end();
    if name.is_empty() || name == "." || name == ".." {
        return "file".to_owned();
    }
    if name.len() <= BYTES_MAX {
        return name.to_owned();
    }
    // What stands behind the last dot says what it is, where it is short.
    let end = name.rfind('.').map_or("", |at| &name[at..]);
    let end = if end.len() <= 16 { end } else { "" };
    let mut at = BYTES_MAX - end.len();
    while !name.is_char_boundary(at) {
        at -= 1;
    }
    format!("{}{end}", &name[..at])
}

/// Control characters, and those that have no width or change the direction of text.
fn is_unseen(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{feff}' | '\u{e0000}'..='\u{e007f}')
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_are_made_harmless() {
        for (given, expect) in [
            ("report.pdf", "report.pdf"),
            ("../../etc/passwd", "passwd"),
            ("C:\\Users\\me\\a b.txt", "a b.txt"),
            ("..", "file"),
            ("../..", "file"),
            ("", "file"),
            ("a/", "file"),
            (" . ", "file"),
            ("a\u{0}b\r\nc.txt", "abc.txt"),
            ("invoice\u{202e}fdp.exe", "invoicefdp.exe"),
            ("naïve – 文件.csv", "naïve – 文件.csv"),
        ] {
            assert_eq!(clean(given), expect, "{given:?}");
        }
        let long = clean(&format!("{}.tar.gz", "é".repeat(300)));
        assert!(long.len() <= BYTES_MAX && long.ends_with("é.gz"), "{long}");
    }

    proptest! {
        #[test]
        fn no_name_leads_anywhere(given in "\\PC{0,40}|[./\\\\a\u{0}\u{202e}é]{0,600}") {
            let name = clean(&given);
            prop_assert!(!name.is_empty() && name.len() <= BYTES_MAX);
            prop_assert!(!name.contains(['/', '\\']) && name != "." && name != "..");
            prop_assert!(!name.chars().any(is_unseen));
            prop_assert_eq!(clean(&name), name);
        }
    }
}
