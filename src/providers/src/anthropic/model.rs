//! What a Claude model can do, told from its name.
//!
//! The rules are those of the community price table (`data/model_prices.json`, 2026-11), written
//! by version, so that models that come later fall on the right side of them.

/// What a model can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Abilities {
    /// It thinks if asked to.
    pub(crate) thinking: bool,
    /// It takes `thinking: {type: "adaptive"}`.
    pub(crate) adaptive: bool,
    /// It takes `thinking: {type: "enabled", budget_tokens}`, which 4.7 and later refuse.
    pub(crate) budget: bool,
    /// It cannot be told not to think.
    pub(crate) always_thinks: bool,
    /// It takes `output_config.effort`.
    pub(crate) effort: bool,
    /// It takes `effort: "xhigh"`.
    pub(crate) xhigh: bool,
    /// It takes `temperature`, `top_p` and `top_k`.
    pub(crate) sampling: bool,
    /// It takes `temperature` or `top_p`, but refuses both together.
    pub(crate) one_sampling: bool,
    /// It can be made to call a tool.
    pub(crate) forced_tools: bool,
    /// It has structured output of its own.
    pub(crate) structured: bool,
    /// Its effort is still behind a beta: Opus 4.5 only.
    pub(crate) effort_beta: bool,
}

impl Abilities {
    /// Reads them from a name: `claude-opus-4-5-20251101`, `claude-3-7-sonnet-latest`,
    /// `eu.anthropic.claude-sonnet-4.6` … A name that says nothing is taken for an older model that
    /// thinks, which is what every model understands.
    pub(crate) fn of(name: &str) -> Abilities {
        let Some((family, version)) = family_and_version(name) else {
            return Abilities::at("", (4, 0));
        };
        Abilities::at(family, version)
    }

    fn at(family: &str, version: (u8, u8)) -> Abilities {
        let big = matches!(family, "opus" | "sonnet");
        let mythical = matches!(family, "fable" | "mythos");
        Abilities {
            thinking: version >= (3, 7),
            adaptive: version >= (4, 6),
            budget: ((3, 7)..=(4, 6)).contains(&version),
            always_thinks: mythical || (big && version >= (5, 5)),
            effort: version >= (4, 6) || (family == "opus" && version == (4, 5)),
            xhigh: version >= (4, 7),
            sampling: version < (4, 7),
            one_sampling: version >= (4, 1),
            forced_tools: !(mythical && version >= (5, 1) || big && version >= (5, 5)),
            structured: version >= (4, 5) || (family == "opus" && version == (4, 1)),
            effort_beta: family == "opus" && version == (4, 5),
        }
    }
}

fn family_and_version(name: &str) -> Option<(&str, (u8, u8))> {
    let (_, rest) = name.split_once("claude-")?;
    let mut tokens = rest.split(['-', '_', '.', '@', ':']);
    // Dates and other long numbers are no versions.
    let number = |token: &str| -> Option<u8> {
        (token.len() <= 2 && token.bytes().all(|b| b.is_ascii_digit()))
            .then(|| token.parse().ok())?
    };
    let first = tokens.next()?;
    if let Some(major) = number(first) {
        // The old order: `claude-3-5-sonnet`.
        let second = tokens.next().unwrap_or_default();
        let minor = number(second);
        let family = if minor.is_some() { tokens.next().unwrap_or_default() } else { second };
        return Some((family, (major, minor.unwrap_or(0))));
    }
    let major = tokens.next().and_then(number).filter(|major| *major < 10);
    let minor = tokens.next().and_then(number);
    match (first, major) {
        (family, Some(major)) => Some((family, (major, minor.unwrap_or(0)))),
        // `claude-mythos-preview`, the only family that began without a number.
        ("mythos" | "fable", None) => Some((first, (5, 0))),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_from_names() {
        for (name, expect) in [
            ("claude-opus-4-5-20251101", Some(("opus", (4, 5)))),
            ("claude-opus-4-20250514", Some(("opus", (4, 0)))),
            ("claude-sonnet-4.6", Some(("sonnet", (4, 6)))),
            ("eu.anthropic.claude-sonnet-4-5-20250929-v1:0", Some(("sonnet", (4, 5)))),
            ("claude-3-5-sonnet-20241022", Some(("sonnet", (3, 5)))),
            ("claude-3-opus-20240229", Some(("opus", (3, 0)))),
            ("claude-2.1", Some(("", (2, 1)))),
            ("claude-sonnet-5", Some(("sonnet", (5, 0)))),
            ("claude-mythos-preview", Some(("mythos", (5, 0)))),
            ("claude-opus-41", None),
            ("my-model", None),
        ] {
            assert_eq!(family_and_version(name), expect, "{name}");
        }
    }

    #[test]
    fn abilities_follow_versions() {
        let haiku = Abilities::of("claude-haiku-4-5");
        assert!(haiku.structured && haiku.budget && !haiku.adaptive && haiku.sampling);
        let fable = Abilities::of("claude-fable-5-1");
        assert!(fable.always_thinks && !fable.forced_tools && !fable.sampling && !fable.budget);
        assert!(Abilities::of("claude-fable-5").forced_tools);
        let haiku = Abilities::of("claude-haiku-5-5");
        assert!(haiku.forced_tools && !haiku.always_thinks && haiku.xhigh);
        assert!(!Abilities::of("claude-3-5-sonnet-latest").thinking);
        assert!(Abilities::of("claude-sonnet-4-6").budget);
    }
}
