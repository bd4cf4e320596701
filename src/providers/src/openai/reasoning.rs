//! OpenAI's reasoning models, told by their names, and how hard they can be asked to think.
//!
//! From <https://platform.openai.com/docs/guides/reasoning> and the community price table
//! (`model_prices.json`: `supports_…_reasoning_effort`), both read 2026-11. Models of others that
//! take `reasoning_effort` and refuse it elsewhere are here too: docs.x.ai, docs.perplexity.ai,
//! console.groq.com/docs/reasoning.

/// OpenAI's reasoning models, by how strict they are about sampling.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reasoning {
    /// o1, o3, o4-mini …
    OSeries,
    /// gpt-5 and its small versions.
    Always,
    /// gpt-5.1 to gpt-5.4, whose reasoning is off unless asked for.
    MayBeOff,
    /// gpt-5.5 and later, whose reasoning is on unless told otherwise.
    OnByDefault,
}

impl Reasoning {
    pub(super) fn of(model: &str) -> Option<Reasoning> {
        // LiteLLM's prefixes for Azure deployments whose names do not tell.
        if model.starts_with("o_series/") {
            return Some(Reasoning::OSeries);
        }
        if model.starts_with("gpt5_series/") {
            return Some(Reasoning::Always);
        }
        let name = model.rsplit('/').next().unwrap_or(model);
        if is_o_series(name) {
            return Some(Reasoning::OSeries);
        }
        let version = gpt_version(name)?;
        if version < (5, 0) || name.contains("chat") {
            return None;
        }
        Some(match version {
            (5, 0) => Reasoning::Always,
            (5, 1..=4) => Reasoning::MayBeOff,
            _ => Reasoning::OnByDefault,
        })
    }

    /// Whether it takes sampling parameters with this effort.
    pub(super) fn may_sample(self, effort: Option<&str>) -> bool {
        match self {
            Reasoning::OSeries | Reasoning::Always => false,
            Reasoning::MayBeOff => effort.is_none_or(|effort| effort == "none"),
            Reasoning::OnByDefault => effort == Some("none"),
        }
    }
}

fn is_o_series(name: &str) -> bool {
    let bytes = name.as_bytes();
    bytes.len() > 1
        && bytes[0] == b'o'
        && bytes[1].is_ascii_digit()
        && bytes.get(2).is_none_or(|b| *b == b'-')
}

/// The version in `gpt-5.2-codex`.
fn gpt_version(name: &str) -> Option<(u8, u8)> {
    let rest = name.strip_prefix("gpt-")?;
    let version = rest.split('-').next()?;
    let (major, minor) = match version.split_once('.') {
        Some((major, minor)) => (major, minor.parse().ok()?),
        None => (version, 0),
    };
    // `gpt-50` is nobody's yet, and no version of five.
    (major.len() == 1).then_some((major.parse().ok()?, minor))
}

/// The levels there are, in their order.
const LEVELS: &[&str] = &["none", "minimal", "low", "medium", "high", "xhigh", "max"];

/// The levels of `reasoning_effort` a model takes; none if it refuses the parameter.
fn accepted(model: &str) -> &'static [&'static str] {
    const THREE: &[&str] = &["low", "medium", "high"];
    let name = model.rsplit('/').next().unwrap_or(model);
    if name.contains("gpt-oss") || model.starts_with("o_series/") {
        return THREE;
    }
    if is_o_series(name) {
        let first = name.starts_with("o1-mini") || name.starts_with("o1-preview");
        return if first { &[] } else { THREE };
    }
    if name.contains("grok-3-mini") {
        return &["low", "high"];
    }
    if name.contains("grok-4.3") {
        return &["none", "low", "medium", "high"];
    }
    if name.contains("sonar-deep-research") || name.contains("sonar-reasoning") {
        return &["minimal", "low", "medium", "high"];
    }
    if model.starts_with("gpt5_series/") {
        return THREE;
    }
    let Some(version) = gpt_version(name).filter(|version| *version >= (5, 0)) else {
        return &[];
    };
    let is = |word| name.contains(word);
    if is("chat") || is("search") {
        return &[];
    }
    match version {
        (5, 0) if is("-pro") => &["high"],
        (5, 0) if is("codex") => THREE,
        (5, 0) => &["minimal", "low", "medium", "high"],
        (5, 1) if is("codex-max") => &["low", "medium", "high", "xhigh"],
        (5, 1) if is("codex") => THREE,
        (5, 1) => &["none", "low", "medium", "high"],
        (5, _) if is("-pro") => &["medium", "high", "xhigh"],
        (5, _) if is("codex") => &["low", "medium", "high", "xhigh"],
        (5, _) => &["none", "low", "medium", "high", "xhigh"],
        _ => &["low", "medium", "high", "xhigh", "max"],
    }
}

/// The nearest level a model takes to the one that is wished for: that one, else the next one up,
/// else the highest. `None` if it takes none.
pub(super) fn nearest_effort(model: &str, wish: &str) -> Option<&'static str> {
    let accepted = accepted(model);
    let rank = |level: &str| LEVELS.iter().position(|known| *known == level);
    let wish = rank(wish)?;
    let above = accepted.iter().find(|level| rank(level).is_some_and(|rank| rank >= wish));
    above.or(accepted.last()).copied()
}

/// Whether a model's chat refuses tools together with `reasoning_effort` and wants the Responses
/// API for that: gpt-5.4 and later (LiteLLM 1.109.1, `main.py`, 2026-11).
pub(super) fn refuses_effort_with_tools(model: &str) -> bool {
    let name = model.rsplit('/').next().unwrap_or(model);
    gpt_version(name).is_some_and(|version| version >= (5, 4))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn models_are_told_by_their_names() {
        for name in ["o1", "o3-mini", "o4-mini-2025-04-16", "openai/o1-pro", "o_series/mine"] {
            assert_eq!(Reasoning::of(name), Some(Reasoning::OSeries), "{name}");
        }
        for name in [
            "gpt-4o",
            "gpt-5-chat-latest",
            "omni-moderation",
            "o",
            "o100",
            "gpt-50",
            "ollama",
            "gpt-4.1",
        ] {
            assert_eq!(Reasoning::of(name), None, "{name}");
        }
        assert_eq!(Reasoning::of("gpt-5-mini"), Some(Reasoning::Always));
        assert_eq!(Reasoning::of("gpt-5.1"), Some(Reasoning::MayBeOff));
        assert_eq!(Reasoning::of("gpt-5.5"), Some(Reasoning::OnByDefault));
        assert_eq!(Reasoning::of("gpt-6-sol"), Some(Reasoning::OnByDefault));
    }

    #[test]
    fn effort_is_what_the_model_takes() {
        for (model, wish, expect) in [
            ("gpt-4o", "high", None),
            ("gpt-5-chat-latest", "high", None),
            ("gpt-4o-search-preview", "high", None),
            ("o1-mini", "high", None),
            ("o3", "minimal", Some("low")),
            ("o3", "none", Some("low")),
            ("o3", "xhigh", Some("high")),
            ("gpt-5", "none", Some("minimal")),
            ("gpt-5-pro", "low", Some("high")),
            ("gpt-5.1", "minimal", Some("low")),
            ("gpt-5.1", "none", Some("none")),
            ("gpt-5.2", "xhigh", Some("xhigh")),
            ("gpt-5.2", "max", Some("xhigh")),
            ("gpt-6-astra", "none", Some("low")),
            ("openai/gpt-oss-120b", "xhigh", Some("high")),
            ("llama-3.3-70b", "low", None),
            ("grok-3-mini", "medium", Some("high")),
            ("gpt-5", "hard", None),
        ] {
            assert_eq!(nearest_effort(model, wish), expect, "{model} {wish}");
        }
        assert!(refuses_effort_with_tools("gpt-5.4-mini") && !refuses_effort_with_tools("gpt-5.2"));
    }
}
