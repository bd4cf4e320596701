//! What a search provider is: how it is asked, and what its answers say. Nothing here touches a socket.

use serde::de::DeserializeOwned;
use url::Url;

use super::config::ProviderName;
use super::{Kind, Query, SearchResult, brave, serpapi, tavily};
use crate::outgoing::{OutgoingError, Request};

/// A key, while a request is written with it.
#[derive(Clone, Copy)]
pub(super) struct Key<'a>(pub(super) &'a str);

/// An answer that is not what the provider promises.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Unreadable;

/// Search results of somebody's.
pub(super) trait Provider: Send + Sync {
    /// As configs name it.
    fn name(&self) -> &'static str;

    /// Where it is.
    fn base(&self) -> &'static str;

    /// Whether it can search for that.
    fn finds(&self, kind: Kind) -> bool;

    /// Asks for results. What it cannot restrict is filtered afterwards.
    fn request(&self, base: &Url, key: Key<'_>, query: &Query) -> Result<Request, OutgoingError>;

    /// Reads them.
    fn results(&self, kind: Kind, body: &[u8]) -> Result<Vec<SearchResult>, Unreadable>;
}

/// The one of that name.
pub(super) fn provider(name: ProviderName) -> &'static dyn Provider {
    match name {
        ProviderName::Tavily => &tavily::Tavily,
        ProviderName::Brave => &brave::Brave,
        ProviderName::Serpapi => &serpapi::SerpApi,
    }
}

/// A path below the base.
pub(super) fn endpoint(base: &Url, path: &str) -> Url {
    let mut url = base.clone();
    url.set_path(&format!("{}{path}", base.path().trim_end_matches('/')));
    url
}

/// Reads JSON.
pub(super) fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T, Unreadable> {
    serde_json::from_slice(body).map_err(|_| Unreadable)
}
