//! SerpAPI: `GET /search.json`, Google's results. Its key is in the query: no URL of it is ever shown.

use serde::Deserialize;
use url::Url;

use super::provider::{Key, Provider, Unreadable, endpoint, read};
use super::{Kind, Query, Recency, SearchResult};
use crate::outgoing::{OutgoingError, Request};

pub(super) struct SerpApi;

#[derive(Deserialize)]
struct Answer {
    /// Also when nothing was found, with the status 200.
    error: Option<String>,
    #[serde(default)]
    organic_results: Vec<Item>,
    #[serde(default)]
    news_results: Vec<Item>,
}

#[derive(Deserialize)]
struct Item {
    #[serde(default)]
    title: String,
    /// Not there where a paper is only cited, or where a piece of news is a group of others.
    link: Option<String>,
    #[serde(default)]
    snippet: String,
    date: Option<String>,
    publication_info: Option<Publication>,
    #[serde(default)]
    stories: Vec<Item>,
}

#[derive(Deserialize)]
struct Publication {
    summary: Option<String>,
}

impl Provider for SerpApi {
    fn name(&self) -> &'static str {
        "serpapi"
    }

    fn base(&self) -> &'static str {
        "https://serpapi.com"
    }

    fn finds(&self, _kind: Kind) -> bool {
        true
    }

    fn request(&self, base: &Url, key: Key<'_>, query: &Query) -> Result<Request, OutgoingError> {
        let mut url = endpoint(base, "/search.json");
        let mut pairs = url.query_pairs_mut();
        let engine = match query.kind {
            Kind::Web => "google",
            Kind::News => "google_news",
            Kind::Academic => "google_scholar",
        };
        pairs.append_pair("engine", engine);
        let mut words = query.with_sites();
        match (query.kind, query.recency) {
            (_, None) => {}
            (Kind::Web, Some(recency)) => {
                let range = match recency {
                    Recency::Day => "qdr:d",
                    Recency::Week => "qdr:w",
                    Recency::Month => "qdr:m",
                    Recency::Year => "qdr:y",
                };
                pairs.append_pair("tbs", range);
            }
            (Kind::News, Some(recency)) => words.push_str(match recency {
                Recency::Day => " when:1d",
                Recency::Week => " when:7d",
                Recency::Month => " when:30d",
                Recency::Year => " when:1y",
            }),
            // Scholar knows years only: this is the last one, the latest first.
            (Kind::Academic, Some(_)) => {
                pairs.append_pair("scisbd", "1");
            }
        }
        pairs.append_pair("q", &words);
        if query.kind != Kind::News {
            pairs.append_pair("num", &query.count().to_string());
        }
        if let (Some(country), Kind::Web | Kind::News) = (&query.country, query.kind) {
            pairs.append_pair("gl", &country.to_ascii_lowercase());
        }
        pairs.append_pair("api_key", key.0);
        drop(pairs);
        Ok(Request::get(url))
    }

    fn results(&self, _kind: Kind, body: &[u8]) -> Result<Vec<SearchResult>, Unreadable> {
        let answer: Answer = read(body)?;
        let items = answer.organic_results.into_iter().chain(answer.news_results);
        let results: Vec<SearchResult> = items.flat_map(results).collect();
        match answer.error {
            Some(error) if results.is_empty() && !error.contains("hasn't returned any results") => {
                Err(Unreadable)
            }
            _ => Ok(results),
        }
    }
}

/// The results in an item: one, or those it is a group of.
fn results(item: Item) -> Vec<SearchResult> {
    let stories = item.stories.into_iter().flat_map(results);
    let summary = item.publication_info.and_then(|publication| publication.summary);
    let snippet = match summary {
        Some(summary) => format!("{summary}. {}", item.snippet),
        None => item.snippet,
    };
    let own =
        item.link.map(|url| SearchResult { title: item.title, url, snippet, date: item.date });
    own.into_iter().chain(stories).collect()
}
