//! Tavily: `POST /search`. Its results are text, made for models.

use serde::Deserialize;
use serde_json::{Map, json};
use url::Url;

use super::provider::{Key, Provider, Unreadable, endpoint, read};
use super::{Kind, Query, Recency, SearchResult};
use crate::outgoing::{OutgoingError, Request};

/// Where papers are: Tavily has no such topic, but it can keep to domains.
const ACADEMIC: &[&str] = &[
    "arxiv.org",
    "pubmed.ncbi.nlm.nih.gov",
    "ncbi.nlm.nih.gov",
    "semanticscholar.org",
    "nature.com",
    "science.org",
    "sciencedirect.com",
    "springer.com",
    "ieee.org",
    "acm.org",
    "jstor.org",
    "plos.org",
    "biorxiv.org",
    "medrxiv.org",
    "ssrn.com",
    "researchgate.net",
];

pub(super) struct Tavily;

#[derive(Deserialize)]
struct Answer {
    results: Vec<Item>,
}

#[derive(Deserialize)]
struct Item {
    #[serde(default)]
    title: String,
    url: String,
    #[serde(default)]
    content: String,
    published_date: Option<String>,
}

impl Provider for Tavily {
    fn name(&self) -> &'static str {
        "tavily"
    }

    fn base(&self) -> &'static str {
        "https://api.tavily.com"
    }

    fn finds(&self, _kind: Kind) -> bool {
        true
    }

    fn request(&self, base: &Url, key: Key<'_>, query: &Query) -> Result<Request, OutgoingError> {
        let mut body = Map::new();
        body.insert("query".to_owned(), query.query.as_str().into());
        body.insert("max_results".to_owned(), query.count().into());
        let topic = if query.kind == Kind::News { "news" } else { "general" };
        body.insert("topic".to_owned(), topic.into());
        if let Some(recency) = query.recency {
            let range = match recency {
                Recency::Day => "day",
                Recency::Week => "week",
                Recency::Month => "month",
                Recency::Year => "year",
            };
            body.insert("time_range".to_owned(), range.into());
        }
        if !query.include_domains.is_empty() {
            body.insert("include_domains".to_owned(), json!(query.include_domains));
        } else if query.kind == Kind::Academic {
            body.insert("include_domains".to_owned(), json!(ACADEMIC));
        }
        if !query.exclude_domains.is_empty() {
            body.insert("exclude_domains".to_owned(), json!(query.exclude_domains));
        }
        Request::post_json(endpoint(base, "/search"), &body.into())
            .with_secret(http::header::AUTHORIZATION, &format!("Bearer {}", key.0))
    }

    fn results(&self, _kind: Kind, body: &[u8]) -> Result<Vec<SearchResult>, Unreadable> {
        let answer: Answer = read(body)?;
        let result = |item: Item| SearchResult {
            title: item.title,
            url: item.url,
            snippet: item.content,
            date: item.published_date,
        };
        Ok(answer.results.into_iter().map(result).collect())
    }
}
