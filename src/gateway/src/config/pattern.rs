//! Names with `*` in them.

/// A name in which each `*` stands for any text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pattern {
    /// What stands between the stars; always one more than there are stars.
    literals: Vec<String>,
}

impl Pattern {
    /// `None` if there is no `*` in it.
    pub(super) fn parse(text: &str) -> Option<Pattern> {
        let literals: Vec<_> = text.split('*').map(str::to_owned).collect();
        (literals.len() > 1).then_some(Pattern { literals })
    }

    pub(super) fn stars(&self) -> usize {
        self.literals.len() - 1
    }

    /// How much of it is spelled out: of two patterns that match, the one with more is meant.
    pub(super) fn spelled_out(&self) -> usize {
        self.literals.iter().map(String::len).sum()
    }

    /// What each star stands for in `name`. Where there is a choice, an earlier star takes as much
    /// as it can, as in LiteLLM's regular expressions.
    pub(super) fn captures<'n>(&self, name: &'n str) -> Option<Vec<&'n str>> {
        let (first, rest) = self.literals.split_first()?;
        let (last, middle) = rest.split_last()?;
        let mut left = name.strip_prefix(first.as_str())?.strip_suffix(last.as_str())?;
        let mut captures = Vec::with_capacity(self.stars());
        for literal in middle.iter().rev() {
            let at = left.rfind(literal.as_str())?;
            captures.push(&left[at + literal.len()..]);
            left = &left[..at];
        }
        captures.push(left);
        captures.reverse();
        Some(captures)
    }

    /// The name in which the stars are `captures`; what is missing of them is nothing.
    pub(super) fn fill(&self, captures: &[&str]) -> String {
        let mut name = String::new();
        for (at, literal) in self.literals.iter().enumerate() {
            if at > 0 {
                name.push_str(captures.get(at - 1).copied().unwrap_or_default());
            }
            name.push_str(literal);
        }
        name
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(pattern: &str, name: &str, expect: Option<&[&str]>) {
        let pattern = Pattern::parse(pattern).unwrap();
        assert_eq!(pattern.captures(name).as_deref(), expect, "{pattern:?} {name}");
    }

    #[test]
    fn stars_stand_for_any_text() {
        check("*", "gpt-4o", Some(&["gpt-4o"]));
        check("openai/*", "openai/gpt-4o", Some(&["gpt-4o"]));
        check("openai/*", "openai/", Some(&[""]));
        check("openai/*", "anthropic/x", None);
        check("*-latest", "claude-latest", Some(&["claude"]));
        check("fo::*::static::*", "fo::a::static::b", Some(&["a", "b"]));
        check("a*b*c", "aXbYbZc", Some(&["XbY", "Z"]));
        check("ab*ba", "aba", None);
        check("**", "x", Some(&["x", ""]));
    }

    #[test]
    fn a_name_without_stars_is_no_pattern() {
        assert_eq!(Pattern::parse("gpt-4o"), None);
    }

    proptest! {
        #[test]
        fn what_is_captured_fills_the_pattern_again(pattern in "[ab*]{1,8}", name in "[ab]{0,12}") {
            if let Some(pattern) = Pattern::parse(&pattern)
                && let Some(captures) = pattern.captures(&name)
            {
                prop_assert_eq!(captures.len(), pattern.stars());
                prop_assert_eq!(pattern.fill(&captures), name);
            }
        }
    }
}
