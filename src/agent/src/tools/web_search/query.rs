//! What is searched for, and what is found.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tollway_wire::price::PicoDollars;
use url::{Host, Url};

use crate::tool::ToolError;

/// The longest query, which is the least of what providers take.
const QUERY_CHARS_MAX: usize = 400;

/// How many results there can be.
const RESULTS_MAX: u8 = 20;

/// How many domains can be named.
const DOMAINS_MAX: usize = 20;

/// What is kept of a result.
const TITLE_CHARS_MAX: usize = 300;
const SNIPPET_CHARS_MAX: usize = 2_000;
const DATE_CHARS_MAX: usize = 64;
const URL_BYTES_MAX: usize = 2_048;

/// A search.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Query {
    /// What to search for, in the words of a search engine: at most 400 characters.
    pub query: String,
    /// How many results, 1 to 20. Default 5.
    #[serde(default, alias = "max_results")]
    pub num_results: Option<u8>,
    /// `web` for everything, `news`, or `academic` for papers.
    #[serde(default)]
    pub kind: Kind,
    /// Only what is not older than this.
    #[serde(default)]
    pub recency: Option<Recency>,
    /// Only from these domains and those below: `example.com`.
    #[serde(default, alias = "search_domain_filter")]
    pub include_domains: Vec<String>,
    /// Nothing from these domains and those below.
    #[serde(default)]
    pub exclude_domains: Vec<String>,
    /// Results as they are seen from this country, in two letters: `DE`.
    #[serde(default)]
    pub country: Option<String>,
    /// A configured search tool, or a provider: only that one is asked. Not for models.
    #[serde(default)]
    #[schemars(skip)]
    pub provider: Option<String>,
}

/// What is searched.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Everything.
    #[default]
    Web,
    /// The press.
    News,
    /// Papers.
    Academic,
}

/// How old results may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Recency {
    /// A day.
    Day,
    /// Seven days.
    Week,
    /// A month.
    Month,
    /// A year.
    Year,
}

impl Query {
    /// The query as providers are asked it: domains and country in their usual form.
    ///
    /// # Errors
    /// [`ToolError::Arguments`]
    pub(super) fn checked(mut self) -> Result<Query, ToolError> {
        let wrong = |message: String| Err(ToolError::Arguments(message));
        self.query = self.query.split_whitespace().collect::<Vec<_>>().join(" ");
        let length = self.query.chars().count();
        if length == 0 || length > QUERY_CHARS_MAX {
            return wrong(format!("query: must have 1 to {QUERY_CHARS_MAX} characters"));
        }
        if !(1..=RESULTS_MAX).contains(&self.count()) {
            return wrong(format!("num_results: must be from 1 to {RESULTS_MAX}"));
        }
        for list in [&mut self.include_domains, &mut self.exclude_domains] {
            if list.len() > DOMAINS_MAX {
                return wrong(format!("at most {DOMAINS_MAX} domains can be named"));
            }
            for domain in list.iter_mut() {
                *domain = match Host::parse(domain.trim().trim_start_matches("*.")) {
                    Ok(Host::Domain(host)) => host,
                    _ => return wrong(format!("`{domain}` is not a domain such as example.com")),
                };
            }
        }
        if let Some(country) = &mut self.country {
            if country.len() != 2 || !country.bytes().all(|byte| byte.is_ascii_alphabetic()) {
                return wrong("country: must have two letters, such as DE".to_owned());
            }
            country.make_ascii_uppercase();
        }
        Ok(self)
    }

    /// How many results are wanted.
    pub(super) fn count(&self) -> u8 {
        self.num_results.unwrap_or(5)
    }

    /// The query in a search engine's syntax, domains included where they still fit.
    pub(super) fn with_sites(&self) -> String {
        let sites: Vec<String> =
            self.include_domains.iter().map(|domain| format!("site:{domain}")).collect();
        let mut query = self.query.clone();
        match sites.as_slice() {
            [] => {}
            [one] => query = format!("{query} {one}"),
            several => query = format!("{query} ({})", several.join(" OR ")),
        }
        for domain in &self.exclude_domains {
            query = format!("{query} -site:{domain}");
        }
        // What does not fit is filtered from the results.
        if query.chars().count() > QUERY_CHARS_MAX { self.query.clone() } else { query }
    }

    /// What of a provider's results is an answer to this.
    pub(super) fn select(&self, results: Vec<SearchResult>) -> Vec<SearchResult> {
        let mut selected: Vec<SearchResult> = Vec::new();
        for result in results {
            if selected.len() >= usize::from(self.count()) {
                break;
            }
            let is_new = selected.iter().all(|other| other.url != result.url);
            if is_new && self.wants(&result.url) {
                selected.push(result.bounded());
            }
        }
        selected
    }

    fn wants(&self, url: &str) -> bool {
        let Ok(parsed) = Url::parse(url) else { return false };
        let Some(host) = parsed.host_str() else { return false };
        let is_in = |domain: &String| {
            host.strip_suffix(domain.as_str())
                .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
        };
        matches!(parsed.scheme(), "http" | "https")
            && url.len() <= URL_BYTES_MAX
            && (self.include_domains.is_empty() || self.include_domains.iter().any(is_in))
            && !self.exclude_domains.iter().any(is_in)
    }
}

/// One thing that was found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SearchResult {
    /// What it is called.
    pub title: String,
    /// Where it is.
    pub url: String,
    /// What of it fits the query.
    pub snippet: String,
    /// When it was published, in the provider's words.
    pub date: Option<String>,
}

impl SearchResult {
    fn bounded(self) -> SearchResult {
        SearchResult {
            title: cut(&self.title, TITLE_CHARS_MAX),
            snippet: cut(&self.snippet, SNIPPET_CHARS_MAX),
            date: self.date.map(|date| cut(&date, DATE_CHARS_MAX)).filter(|date| !date.is_empty()),
            url: self.url,
        }
    }
}

/// One line of text, no longer than that.
fn cut(text: &str, chars: usize) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(chars) {
        Some((at, _)) => format!("{}…", &line[..at]),
        None => line,
    }
}

/// What a search has found, in the shape of Perplexity's Search API.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Found {
    /// `search`
    pub object: &'static str,
    /// What was found, the best first.
    pub results: Vec<SearchResult>,
    /// Who found it.
    pub provider: Arc<str>,
    /// It was remembered.
    pub cached: bool,
    /// What it cost now.
    #[serde(rename = "cost_usd", serialize_with = "as_dollars")]
    pub cost: PicoDollars,
}

fn as_dollars<S: serde::Serializer>(cost: &PicoDollars, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_f64(cost.as_dollars())
}
