//! Brave: `GET /web/search` and `GET /news/search`. Its texts are HTML.

use serde::Deserialize;
use url::Url;

use super::provider::{Key, Provider, Unreadable, endpoint, read};
use super::{Kind, Query, Recency, SearchResult};
use crate::outgoing::{OutgoingError, Request};
use crate::tools::html;

pub(super) struct Brave;

#[derive(Deserialize)]
struct Answer {
    /// Of the news endpoint.
    results: Option<Vec<Item>>,
    /// Of the web endpoint. Not there when nothing was found.
    web: Option<Group>,
}

#[derive(Deserialize)]
struct Group {
    results: Vec<Item>,
}

#[derive(Deserialize)]
struct Item {
    #[serde(default)]
    title: String,
    url: String,
    #[serde(default)]
    description: String,
    #[serde(default)]
    extra_snippets: Vec<String>,
    /// `2026-11-21T08:00:00`
    page_age: Option<String>,
    /// `2 days ago`
    age: Option<String>,
}

impl Provider for Brave {
    fn name(&self) -> &'static str {
        "brave"
    }

    fn base(&self) -> &'static str {
        "https://api.search.brave.com/res/v1"
    }

    fn finds(&self, kind: Kind) -> bool {
        kind != Kind::Academic
    }

    fn request(&self, base: &Url, key: Key<'_>, query: &Query) -> Result<Request, OutgoingError> {
        let path = if query.kind == Kind::News { "/news/search" } else { "/web/search" };
        let mut url = endpoint(base, path);
        let mut pairs = url.query_pairs_mut();
        pairs.append_pair("q", &query.with_sites());
        pairs.append_pair("count", &query.count().to_string());
        if let Some(recency) = query.recency {
            let freshness = match recency {
                Recency::Day => "pd",
                Recency::Week => "pw",
                Recency::Month => "pm",
                Recency::Year => "py",
            };
            pairs.append_pair("freshness", freshness);
        }
        if let Some(country) = &query.country {
            pairs.append_pair("country", country);
        }
        drop(pairs);
        Request::get(url).with_secret(http::HeaderName::from_static("x-subscription-token"), key.0)
    }

    fn results(&self, kind: Kind, body: &[u8]) -> Result<Vec<SearchResult>, Unreadable> {
        let answer: Answer = read(body)?;
        let items = match kind {
            Kind::News => answer.results,
            _ => answer.web.map(|web| web.results),
        };
        let result = |item: Item| {
            let texts = std::iter::once(item.description).chain(item.extra_snippets);
            let texts: Vec<String> = texts.map(|text| html::plain(&text)).collect();
            let day = item.page_age.and_then(|age| Some(age.get(..10)?.to_owned()));
            SearchResult {
                title: html::plain(&item.title),
                url: item.url,
                snippet: texts.join(" "),
                date: day.or(item.age),
            }
        };
        Ok(items.unwrap_or_default().into_iter().map(result).collect())
    }
}
