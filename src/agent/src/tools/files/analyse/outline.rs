//! Code: its declarations, by the beginnings of its lines. It is an outline and no parse: what looks
//! like a declaration within a text or a comment is taken for one.

use serde_json::{Value, json};

use super::Analysis;

/// The most declarations that are told.
const DECLARATIONS_MAX: usize = 500;
/// The longest one.
const CHARS_MAX: usize = 160;

/// A language with an outline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Language {
    Python,
    /// TypeScript as well.
    JavaScript,
    Rust,
    Go,
}

/// Words that may stand before the one that declares.
const BEFORE: &[&str] = &[
    "pub",
    "async",
    "export",
    "default",
    "const",
    "unsafe",
    "extern",
    "abstract",
    "declare",
    "static",
    "public",
    "private",
    "protected",
    "readonly",
    "override",
];

impl Language {
    /// The language of a media type.
    pub(super) fn of(media_type: &str) -> Option<Language> {
        Some(match media_type {
            "text/x-python" => Language::Python,
            "text/javascript" | "text/x-typescript" => Language::JavaScript,
            "text/x-rust" => Language::Rust,
            "text/x-go" => Language::Go,
            _ => return None,
        })
    }

    fn name(self) -> &'static str {
        match self {
            Language::Python => "python",
            Language::JavaScript => "javascript",
            Language::Rust => "rust",
            Language::Go => "go",
        }
    }

    /// The words that declare something.
    fn declares(self) -> &'static [&'static str] {
        match self {
            Language::Python => &["def", "class"],
            Language::JavaScript => {
                &["function", "function*", "class", "interface", "enum", "namespace", "type"]
            }
            Language::Rust => {
                &["fn", "struct", "enum", "union", "trait", "impl", "mod", "type", "macro_rules!"]
            }
            Language::Go => &["func", "type"],
        }
    }

    /// Whether a line declares something.
    fn is_declaration(self, line: &str) -> bool {
        let mut words = line.split_whitespace();
        let word = words.by_ref().find(|word| !BEFORE.contains(word) && !word.starts_with("pub("));
        let Some(word) = word else { return false };
        let bare = word.split(['<', '(']).next().unwrap_or_default();
        if self.declares().contains(&bare) {
            return bare.len() < word.len() || words.next().is_some_and(|name| name != "=");
        }
        // const name = (…) => …
        self == Language::JavaScript
            && line.contains("=>")
            && line.contains('=')
            && ["const ", "let ", "var ", "export const "].iter().any(|it| line.starts_with(it))
    }
}

pub(super) fn analyse(language: Language, text: &str) -> Analysis {
    let (mut found, mut all) = (Vec::new(), 0_usize);
    for (at, line) in text.lines().enumerate() {
        let said = line.trim_start();
        if !language.is_declaration(said) {
            continue;
        }
        all += 1;
        if found.len() < DECLARATIONS_MAX {
            let said = said.trim_end().trim_end_matches(['{', ':']).trim_end();
            let said: String = said.chars().take(CHARS_MAX).collect();
            found.push((at + 1, line.len() - line.trim_start().len(), said));
        }
    }
    let count = text.lines().count();
    let mut said =
        format!("Code ({}): {count} lines, {all} declarations, by line:\n", language.name());
    for (line, indent, declaration) in &found {
        let indent = " ".repeat((*indent).min(16));
        said.push_str(&format!("{line}\t{indent}{declaration}\n"));
    }
    let outline: Vec<Value> = found
        .into_iter()
        .map(|(line, _, declaration)| json!({"line": line, "declaration": declaration}))
        .collect();
    let data = json!({
        "language": language.name(),
        "lines": count,
        "declarations": all,
        "outline": outline,
    });
    Analysis { kind: "code".to_owned(), text: said, data }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(language: Language, text: &str, expect: &[&str]) {
        let data = analyse(language, text).data;
        let outline = data["outline"].as_array().unwrap();
        let found: Vec<_> = outline.iter().map(|it| it["declaration"].as_str().unwrap()).collect();
        assert_eq!(found, expect);
    }

    #[test]
    fn declarations_are_found() {
        check(
            Language::Python,
            "import os\nclass A(B):\n    async def f(self):\n        return 1\ndefault = 1\n",
            &["class A(B)", "async def f(self)"],
        );
        check(
            Language::JavaScript,
            "export default class A {\n}\nexport async function f() {\nconst g = (x) => {\n\
             type = 1\nexport type T = string\nlet x = 1\n",
            &[
                "export default class A",
                "export async function f()",
                "const g = (x) =>",
                "export type T = string",
            ],
        );
        check(
            Language::Rust,
            "pub(crate) struct A;\nimpl<T> B for A<T> {\n    pub const fn f() {}\nlet fnord = 1;\n\
             macro_rules! m {\n",
            &[
                "pub(crate) struct A;",
                "impl<T> B for A<T>",
                "pub const fn f() {}",
                "macro_rules! m",
            ],
        );
        check(
            Language::Go,
            "package a\nfunc (s *S) F() error {\n\ttype T struct {\nfunction := 1\n",
            &["func (s *S) F() error", "type T struct"],
        );
    }

    #[test]
    fn outlines_end() {
        let data = analyse(Language::Go, &"func f()\n".repeat(2000)).data;
        assert_eq!(data["declarations"], 2000);
        assert_eq!(data["outline"].as_array().map(Vec::len), Some(DECLARATIONS_MAX));
    }
}
