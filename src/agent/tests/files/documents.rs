//! Documents in memory.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use tollway_filter_api::documents::{Batch, Collection, Document, Documents, Entry, Wanted};
use tollway_filter_api::ledger::{Asking, StoreError};

/// Keeps documents for as long as it is there. It has no logs.
#[derive(Default)]
pub(crate) struct InMemoryDocuments(Mutex<BTreeMap<(Collection, Arc<str>), Document>>);

impl InMemoryDocuments {
    fn apply(&self, batch: Batch) -> Result<Vec<u64>, StoreError> {
        let mut all = self.0.lock().unwrap();
        for document in &batch.put {
            let have = all.get(&(document.collection, Arc::clone(&document.id)));
            if have.map_or(0, |have| have.version) != document.version {
                return Err(StoreError::Conflict("it was changed".into()));
            }
        }
        let mut versions = Vec::new();
        for mut document in batch.put {
            document.version += 1;
            versions.push(document.version);
            all.insert((document.collection, Arc::clone(&document.id)), document);
        }
        for key in batch.remove {
            all.remove(&key);
        }
        Ok(versions)
    }

    fn found(&self, wanted: &Wanted) -> Vec<Document> {
        let all = self.0.lock().unwrap();
        let is_wanted = |document: &&Document| {
            let place = (document.created_ms, Arc::clone(&document.id));
            let is_behind =
                wanted.after.as_ref().is_none_or(|after| match wanted.is_latest_first {
                    true => place < *after,
                    false => place > *after,
                });
            document.collection == wanted.collection
                && wanted.owner.as_ref().is_none_or(|owner| *owner == document.owner)
                && (wanted.parent.is_none() || wanted.parent == document.parent)
                && (wanted.states.is_empty() || wanted.states.contains(&document.state))
                && wanted
                    .expired_at_ms
                    .is_none_or(|at| document.expires_ms.is_some_and(|expires| expires <= at))
                && is_behind
        };
        let mut found: Vec<Document> = all.values().filter(is_wanted).cloned().collect();
        found.sort_by_key(|document| (document.created_ms, Arc::clone(&document.id)));
        if wanted.is_latest_first {
            found.reverse();
        }
        found.truncate(usize::try_from(wanted.limit).unwrap());
        found
    }
}

impl Documents for InMemoryDocuments {
    fn write(&self, batch: Batch) -> Asking<'_, Vec<u64>> {
        Box::pin(async move {
            // Others may come first, as they may where a database is asked.
            tokio::task::yield_now().await;
            let done = self.apply(batch);
            tokio::task::yield_now().await;
            done
        })
    }

    fn get<'a>(&'a self, collection: Collection, id: &'a str) -> Asking<'a, Option<Document>> {
        let found = self.0.lock().unwrap().get(&(collection, id.into())).cloned();
        Box::pin(async move { Ok(found) })
    }

    fn list(&self, wanted: Wanted) -> Asking<'_, Vec<Document>> {
        Box::pin(async move {
            tokio::task::yield_now().await;
            let found = self.found(&wanted);
            tokio::task::yield_now().await;
            Ok(found)
        })
    }

    fn total<'a>(&'a self, collection: Collection, owner: &'a str) -> Asking<'a, (u64, u64)> {
        Box::pin(async move {
            tokio::task::yield_now().await;
            let all = self.0.lock().unwrap();
            let own = all.values().filter(|it| it.collection == collection && *it.owner == *owner);
            Ok(own.fold((0, 0), |(count, size), it| (count + 1, size + it.size)))
        })
    }

    fn entries<'a>(&'a self, _: Collection, _: &'a str, _: u64, _: u64) -> Asking<'a, Vec<Entry>> {
        Box::pin(async { Ok(Vec::new()) })
    }
}
