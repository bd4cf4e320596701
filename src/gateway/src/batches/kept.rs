//! What is kept of a batch.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tollway_filter_api::clock::millis;
use tollway_filter_api::documents::{Collection, Document};
use tollway_filter_api::ledger::SpendRecord;
use tollway_filter_api::{KeyHash, RequestCtx};
use tollway_wire::batch::Batch;

use super::is_name;
use crate::exchange::Endpoint;
use crate::state::Generation;

/// The states of the document: the batch has not ended yet, or not been billed …
pub(super) const OPEN: &str = "open";
/// … it has been billed …
pub(super) const BILLED: &str = "billed";
/// … or will never be, because the provider does not know it any more.
pub(super) const CLOSED: &str = "closed";

/// Who began a batch, and where it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Kept {
    /// Its id at the provider.
    pub(super) batch: Arc<str>,
    /// What its requests call.
    pub(super) endpoint: Arc<str>,
    /// Whose account it is in: the entry of the config …
    pub(super) account: Arc<str>,
    /// … and where another entry must be that has taken its place.
    pub(super) provider: Arc<str>,
    pub(super) api_base: Arc<str>,
    /// The model group that was named, if one was.
    pub(super) group: Option<Arc<str>>,
    /// Who has begun it, as the ledger has it.
    pub(super) key: Arc<str>,
    pub(super) key_alias: Option<Arc<str>>,
    pub(super) user: Option<Arc<str>>,
    pub(super) team: Option<Arc<str>>,
    pub(super) end_user: Option<Arc<str>>,
    pub(super) tags: Vec<Arc<str>>,
    pub(super) client: Option<Arc<str>>,
    /// Since when the provider does not know it any more.
    pub(super) gone_ms: Option<u64>,
    /// Who has billed it: unlike all others.
    pub(super) bill: Option<String>,
}

impl Kept {
    /// A batch that has begun.
    pub(super) fn begun(
        generation: &Generation,
        ctx: &RequestCtx,
        endpoint: &Arc<Endpoint>,
        group: Option<Arc<str>>,
        batch: &Batch,
    ) -> Kept {
        let key = ctx.identity.as_deref();
        Kept {
            batch: batch.id.as_str().into(),
            endpoint: batch.endpoint.as_str().into(),
            account: account(generation, endpoint),
            provider: endpoint.provider.name().into(),
            api_base: endpoint.api_base().into(),
            group,
            key: key.map(|key| Arc::clone(&key.hash_hex)).unwrap_or_default(),
            key_alias: key.and_then(|key| key.alias.clone()),
            user: key.and_then(|key| key.user.clone()),
            team: key.and_then(|key| key.team.clone()),
            end_user: ctx.end_user.clone(),
            tags: ctx.tags.clone(),
            client: ctx.client.map(|address| address.to_string().into()),
            gone_ms: None,
            bill: None,
        }
    }

    /// Its document, which is new.
    pub(super) fn document(&self, generation: &Generation, now: Duration) -> Document {
        Document {
            collection: Collection::Batch,
            id: document_id(&self.provider, &self.api_base, &self.batch),
            owner: Arc::clone(&self.key),
            parent: None,
            state: OPEN.into(),
            created_ms: millis(now),
            expires_ms: None,
            holder: None,
            held_until_ms: millis(now + generation.config.batch_polling_interval),
            size: 0,
            body: self.body(),
            version: 0,
        }
    }

    /// As it stands in the document.
    pub(super) fn body(&self) -> bytes::Bytes {
        serde_json::to_vec(self).expect("texts and numbers can be written").into()
    }

    /// What a document says. `None` where a later version has written it.
    pub(super) fn read(document: &Document) -> Option<Kept> {
        let kept: Kept = serde_json::from_slice(&document.body).ok()?;
        is_name(&kept.batch).then_some(kept)
    }

    /// The endpoints its account may be reached by, the likeliest first. A credential that was
    /// replaced makes another entry, so that those at the same place are among them.
    pub(super) fn endpoints(&self, generation: &Generation) -> Vec<Arc<Endpoint>> {
        let entries = generation.config.entries.iter().zip(&generation.endpoints);
        let mut found: Vec<(bool, &Arc<Endpoint>)> = entries
            .filter(|(_, endpoint)| self.is_at(endpoint))
            .map(|(entry, endpoint)| (entry.id != self.account, endpoint))
            .collect();
        found.sort_by_key(|(is_other, _)| *is_other);
        found.into_iter().map(|(_, endpoint)| Arc::clone(endpoint)).collect()
    }

    /// Whether an endpoint is where the batch is.
    pub(super) fn is_at(&self, endpoint: &Endpoint) -> bool {
        *endpoint.provider.name() == *self.provider && *endpoint.api_base() == *self.api_base
    }

    /// A line of the ledger without what it took.
    pub(super) fn record(&self, now_ms: u64) -> SpendRecord {
        SpendRecord {
            request_id: Arc::clone(&self.batch),
            operation: "aretrieve_batch".into(),
            key: Arc::clone(&self.key),
            key_alias: self.key_alias.clone(),
            user: self.user.clone(),
            team: self.team.clone(),
            end_user: self.end_user.clone(),
            tags: self.tags.clone(),
            provider: Arc::clone(&self.provider),
            api_base: Arc::clone(&self.api_base),
            // The periods of now pay: those in which it was made may be over.
            started_ms: now_ms,
            ended_ms: now_ms,
            status: 200,
            client: self.client.clone(),
            ..SpendRecord::default()
        }
    }
}

/// The document of a batch.
pub(super) fn document_id(provider: &str, api_base: &str, batch: &str) -> Arc<str> {
    let mut hash = Sha256::new();
    // Lengths first, so that no two look alike.
    for text in [provider, api_base, batch] {
        hash.update((text.len() as u64).to_be_bytes());
        hash.update(text);
    }
    KeyHash(hash.finalize().into()).hex().into()
}

/// The config's entry of an endpoint.
fn account(generation: &Generation, endpoint: &Arc<Endpoint>) -> Arc<str> {
    let mut entries = generation.config.entries.iter().zip(&generation.endpoints);
    let entry = entries.find(|(_, other)| Arc::ptr_eq(other, endpoint));
    entry.map(|(entry, _)| Arc::clone(&entry.id)).unwrap_or_default()
}
