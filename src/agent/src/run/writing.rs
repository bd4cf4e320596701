//! Writes that wait for a store that is away, and find out whether they were made.

use std::time::{Duration, Instant};

use tollway_filter_api::documents::{Batch, Documents};
use tollway_filter_api::ledger::StoreError;

use crate::run::engine::Stop;

/// How long a run waits for a store that is away.
const STORE_PATIENCE: Duration = Duration::from_secs(30);

/// Writes what a run has to append, and waits for a store that is away. The new versions of what was
/// put, which must have been there.
pub(super) async fn write(documents: &dyn Documents, batch: &Batch) -> Result<Vec<u64>, Stop> {
    let patience = Instant::now() + STORE_PATIENCE;
    let mut pause = Duration::from_millis(50);
    let mut may_be_made = false;
    loop {
        match documents.write(batch.clone()).await {
            Ok(versions) => return Ok(versions),
            Err(StoreError::Unavailable(_)) if Instant::now() + pause < patience => {
                may_be_made = true;
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(Duration::from_secs(2));
            }
            Err(StoreError::Invalid(why)) => return Err(Stop::failed("journal", why)),
            // Where the answer was lost and not the write, it is in the way of itself.
            Err(StoreError::Conflict(_)) if may_be_made && is_made(documents, batch).await => {
                return Ok(batch.put.iter().map(|document| document.version + 1).collect());
            }
            Err(error) => {
                tracing::warn!(%error, "a run's journal cannot be written");
                return Err(Stop::Lost);
            }
        }
    }
}

/// Whether the logs have what was to be appended, where it was to be. The events among it have
/// numbers that nobody else gives.
async fn is_made(documents: &dyn Documents, batch: &Batch) -> bool {
    for append in &batch.append {
        let bytes = append.entries.iter().map(|entry| entry.body.len() as u64).sum();
        let kept = documents.entries(append.collection, &append.id, append.from, bytes).await;
        if !kept.is_ok_and(|kept| kept.starts_with(&append.entries)) {
            return false;
        }
    }
    !batch.append.is_empty()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;
    use parking_lot::Mutex;
    use tollway_filter_api::documents::{Append, Collection, Document, Entry, Wanted};
    use tollway_filter_api::ledger::Asking;

    use super::*;

    /// One log, whose store does not say that it has made the first write.
    #[derive(Default)]
    struct Silent {
        log: Mutex<Vec<Entry>>,
        is_somebody_elses: bool,
    }

    impl Documents for Silent {
        fn write(&self, batch: Batch) -> Asking<'_, Vec<u64>> {
            let mut log = self.log.lock();
            if !log.is_empty() {
                return Box::pin(async { Err(StoreError::Conflict("it has more".to_owned())) });
            }
            let mut entries = batch.append[0].entries.clone();
            if self.is_somebody_elses {
                entries[0].body = Bytes::from_static(b"somebody else's");
            }
            log.extend(entries);
            Box::pin(async { Err(StoreError::Unavailable("it went away".to_owned())) })
        }

        fn get<'a>(&'a self, _: Collection, _: &'a str) -> Asking<'a, Option<Document>> {
            Box::pin(async { Ok(None) })
        }

        fn list(&self, _: Wanted) -> Asking<'_, Vec<Document>> {
            Box::pin(async { Ok(Vec::new()) })
        }

        fn total<'a>(&'a self, _: Collection, _: &'a str) -> Asking<'a, (u64, u64)> {
            Box::pin(async { Ok((0, 0)) })
        }

        fn entries<'a>(
            &'a self,
            _: Collection,
            _: &'a str,
            from: u64,
            _: u64,
        ) -> Asking<'a, Vec<Entry>> {
            let entries = self.log.lock()[from as usize..].to_vec();
            Box::pin(async { Ok(entries) })
        }
    }

    fn batch() -> Batch {
        let entries = vec![Entry { kind: "answer".into(), body: Bytes::from_static(b"ours") }];
        let append = Append { collection: Collection::Run, id: "run_1".into(), from: 0, entries };
        Batch { append: vec![append], ..Batch::default() }
    }

    #[tokio::test]
    async fn write_whose_answer_was_lost_is_not_in_its_own_way() {
        let documents = Arc::new(Silent::default());
        assert!(write(&*documents, &batch()).await.is_ok());
        assert_eq!(documents.log.lock().len(), 1);
    }

    #[tokio::test]
    async fn write_of_somebody_else_is_a_conflict() {
        let documents = Silent { is_somebody_elses: true, ..Silent::default() };
        assert!(matches!(write(&documents, &batch()).await, Err(Stop::Lost)));
    }
}
