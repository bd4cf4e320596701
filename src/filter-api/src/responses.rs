//! The trait of what keeps responses: the state of OpenAI's Responses API.

use std::sync::Arc;

use bytes::Bytes;

use crate::identity::KeyHash;

/// One kept response.
#[derive(Clone, Debug)]
pub struct StoredResponse {
    /// The key that asked for it. Nobody else ever sees it.
    pub tenant: Option<KeyHash>,
    /// The deployment that made it and knows it under the same id; none, where only we do.
    pub deployment: Option<Arc<str>>,
    /// The deployment that made it and its id there, where that is another one.
    pub original: Option<(Arc<str>, Arc<str>)>,
    /// The `Response` object as JSON, with all the model needs to go on from it.
    pub response: Bytes,
    /// The JSON array of the items that went into it, those of its own history included.
    pub items: Bytes,
    /// The events it was told by, where a client may come back for them: each with its place as its
    /// number. Empty where they were too many to be kept.
    pub events: Option<Bytes>,
}

/// Keeps responses for a while.
pub trait ResponseStore: Send + Sync {
    /// The response of this id, whoever's it is.
    fn get(&self, id: &str) -> Option<Arc<StoredResponse>>;

    /// Keeps a response, in place of an earlier one of the same id.
    fn put(&self, id: &str, response: StoredResponse);

    /// Forgets a response.
    fn remove(&self, id: &str);
}
