//! Answers kept in this process, bounded by bytes.

use std::time::{Duration, Instant};

use foldhash::fast::RandomState;
use moka::Expiry;
use moka::sync::Cache;
use tollway_filter_api::cache::{CacheKey, CacheStore, CachedAnswer, Lookup, Managing};

/// What an entry costs besides its body: the key, the counts, and moka's bookkeeping (two queue
/// nodes, a timer node, and a place in the hash table, which is at most half full).
const ENTRY_OVERHEAD_BYTES: usize = 512;

/// Keeps answers in memory, the most useful ones when not all fit. Entries end on the machine's
/// clock, each after its own time.
pub struct MemoryCache {
    entries: Cache<CacheKey, Entry, RandomState>,
}

#[derive(Clone)]
struct Entry {
    answer: CachedAnswer,
    ttl: Duration,
}

impl MemoryCache {
    /// A cache that holds at most `bytes_max` bytes, bookkeeping included. The bound is enforced in
    /// batches, so that it may be passed by a few entries for a moment.
    pub fn new(bytes_max: u64) -> MemoryCache {
        let entries = Cache::builder()
            .max_capacity(bytes_max)
            .weigher(|_, entry: &Entry| weight(&entry.answer))
            .expire_after(OwnTtl)
            .build_with_hasher(RandomState::default());
        MemoryCache { entries }
    }
}

impl CacheStore for MemoryCache {
    fn get(&self, key: CacheKey) -> Lookup<'_> {
        Lookup::Ready(self.entries.get(&key).map(|entry| entry.answer))
    }

    fn put(&self, key: CacheKey, answer: CachedAnswer, ttl: Duration) {
        if !ttl.is_zero() {
            self.entries.insert(key, Entry { answer, ttl });
        }
    }

    fn bytes_max(&self) -> Option<u64> {
        self.entries.policy().max_capacity()
    }

    fn remove<'a>(&'a self, keys: &'a [CacheKey]) -> Managing<'a> {
        for key in keys {
            self.entries.invalidate(key);
        }
        Box::pin(async { Ok(()) })
    }

    fn clear(&self) -> Managing<'_> {
        self.entries.invalidate_all();
        Box::pin(async { Ok(()) })
    }
}

fn weight(answer: &CachedAnswer) -> u32 {
    let bytes = ENTRY_OVERHEAD_BYTES + answer.body.len() + answer.model.len();
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

/// Each entry says itself how long it lives.
struct OwnTtl;

impl Expiry<CacheKey, Entry> for OwnTtl {
    fn expire_after_create(&self, _: &CacheKey, entry: &Entry, _: Instant) -> Option<Duration> {
        Some(entry.ttl)
    }

    // By default moka lets a replaced entry live on for what was left of the one before it.
    fn expire_after_update(
        &self,
        _: &CacheKey,
        entry: &Entry,
        _: Instant,
        _: Option<Duration>,
    ) -> Option<Duration> {
        Some(entry.ttl)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;

    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn answer(body: impl Into<Bytes>) -> CachedAnswer {
        CachedAnswer {
            streamed: false,
            usage_event: false,
            model: Arc::from("gpt-4o"),
            body: body.into(),
            usage: None,
            stored: Duration::ZERO,
        }
    }

    fn key(number: u32) -> CacheKey {
        let mut bytes = [0; 32];
        bytes[..4].copy_from_slice(&number.to_le_bytes());
        CacheKey(bytes)
    }

    fn get(cache: &MemoryCache, key: CacheKey) -> Option<CachedAnswer> {
        match cache.get(key) {
            Lookup::Ready(found) => found,
            Lookup::Wait(_) => panic!("memory does not have to wait"),
        }
    }

    #[test]
    fn what_was_put_is_found_under_its_key_only() {
        let cache = MemoryCache::new(1 << 20);
        cache.put(key(1), answer("one"), MINUTE);
        assert_eq!(get(&cache, key(1)), Some(answer("one")));
        assert_eq!(get(&cache, key(2)), None);
    }

    #[test]
    fn an_entry_ends_after_its_own_time() {
        let cache = MemoryCache::new(1 << 20);
        cache.put(key(1), answer("short"), Duration::from_millis(20));
        cache.put(key(2), answer("long"), MINUTE);
        let started = Instant::now();
        while get(&cache, key(1)).is_some() {
            assert!(started.elapsed() < MINUTE, "the entry does not end");
            std::thread::yield_now();
        }
        assert!(started.elapsed() >= Duration::from_millis(19), "the entry ended early");
        assert!(get(&cache, key(2)).is_some());
    }

    #[test]
    fn a_replaced_entry_starts_anew_with_its_own_time() {
        let expiry = OwnTtl;
        let entry = Entry { answer: answer("x"), ttl: MINUTE };
        let left = Some(Duration::from_millis(1));
        assert_eq!(expiry.expire_after_update(&key(1), &entry, Instant::now(), left), Some(MINUTE));
    }

    #[test]
    fn an_entry_without_a_lifetime_is_not_kept() {
        let cache = MemoryCache::new(1 << 20);
        cache.put(key(1), answer("x"), Duration::ZERO);
        assert_eq!(get(&cache, key(1)), None);
    }

    #[test]
    fn no_more_bytes_are_kept_than_allowed() {
        let bytes_max = 1 << 20;
        let cache = MemoryCache::new(bytes_max);
        for number in 0..200 {
            cache.put(key(number), answer(vec![b'x'; 32 << 10]), MINUTE);
        }
        cache.entries.run_pending_tasks();
        assert!(cache.entries.weighted_size() <= bytes_max);
        let kept = (0..200).filter(|&number| get(&cache, key(number)).is_some()).count();
        assert!((20..=31).contains(&kept), "{kept} of 32 KiB in 1 MiB");
    }

    #[test]
    fn an_entry_larger_than_the_cache_is_not_kept() {
        let cache = MemoryCache::new(10_000);
        cache.put(key(1), answer(vec![b'x'; 20_000]), MINUTE);
        cache.entries.run_pending_tasks();
        assert_eq!(get(&cache, key(1)), None);
    }

    #[tokio::test]
    async fn a_cleared_cache_is_empty() {
        let cache = MemoryCache::new(1 << 20);
        cache.put(key(1), answer("one"), MINUTE);
        cache.clear().await.expect("memory can always be cleared");
        assert_eq!(get(&cache, key(1)), None);
    }
}
