//! Responses kept in this process, bounded by bytes.

use std::sync::Arc;
use std::time::Duration;

use moka::sync::Cache;
use tollway_filter_api::responses::{ResponseStore, StoredResponse};

/// How long a response is kept: as long as OpenAI keeps it
/// (platform.openai.com/docs/guides/conversation-state, 2026-11).
const KEPT: Duration = Duration::from_secs(30 * 24 * 3600);
/// What an entry costs besides its bytes.
const ENTRY_OVERHEAD_BYTES: usize = 512;

/// Keeps responses in memory, the most useful ones when not all fit. They end with the process.
pub struct MemoryResponses {
    entries: Cache<String, Arc<StoredResponse>>,
}

impl MemoryResponses {
    /// A store that holds at most `bytes_max` bytes. The bound is enforced in batches, so that it
    /// may be passed by a few entries for a moment.
    pub fn new(bytes_max: u64) -> MemoryResponses {
        let entries = Cache::builder()
            .max_capacity(bytes_max)
            .weigher(|id: &String, kept: &Arc<StoredResponse>| {
                let bytes = id.len() + kept.response.len() + kept.items.len();
                let bytes = bytes + kept.events.as_ref().map_or(0, |events| events.len());
                u32::try_from(bytes + ENTRY_OVERHEAD_BYTES).unwrap_or(u32::MAX)
            })
            .time_to_live(KEPT)
            .build();
        MemoryResponses { entries }
    }
}

impl ResponseStore for MemoryResponses {
    fn get(&self, id: &str) -> Option<Arc<StoredResponse>> {
        self.entries.get(id)
    }

    fn put(&self, id: &str, response: StoredResponse) {
        self.entries.insert(id.to_owned(), Arc::new(response));
    }

    fn remove(&self, id: &str) {
        self.entries.invalidate(id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn response(bytes: usize) -> StoredResponse {
        StoredResponse {
            tenant: None,
            deployment: None,
            original: None,
            response: vec![b' '; bytes].into(),
            items: b"[]"[..].into(),
            events: None,
        }
    }

    #[test]
    fn what_is_kept_is_found_and_what_is_removed_is_not() {
        let store = MemoryResponses::new(1 << 20);
        store.put("resp_1", response(7));
        assert_eq!(store.get("resp_1").map(|kept| kept.response.len()), Some(7));
        store.remove("resp_1");
        assert!(store.get("resp_1").is_none());
    }

    #[test]
    fn there_is_a_bound() {
        let store = MemoryResponses::new(64 << 10);
        (0..100).for_each(|n| store.put(&format!("resp_{n}"), response(8 << 10)));
        store.entries.run_pending_tasks();
        assert!(store.entries.entry_count() <= 8, "{}", store.entries.entry_count());
    }
}
