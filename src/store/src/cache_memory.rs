//! Answers kept in this process, bounded by bytes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use quick_cache::Weighter;
use tollway_filter_api::Clock;
use tollway_filter_api::cache::{CacheKey, CacheStore, CachedAnswer, Lookup, Managing};

use crate::bounded::{Bounded, bounded};

/// What an entry costs besides its body: the key, the counts, the cache's bookkeeping and what the
/// allocator rounds up.
const ENTRY_OVERHEAD_BYTES: usize = 384;
/// What an answer takes, about: for how many there will be.
const ENTRY_BYTES: u64 = 2048;
/// A part with a lock of its own is not made smaller: an answer must fit into one.
const PART_BYTES_MIN: u64 = 32 << 20;
/// More parts than this keep nobody from waiting for a lock.
const PARTS_MAX: u64 = 16;

/// Keeps answers in memory, the most useful ones when not all fit. Each has its own time, after which
/// it is not given out any more; its room is taken back when somebody asks for it or needs it.
pub struct MemoryCache {
    entries: Bounded<CacheKey, Entry, Weight>,
    bytes_max: u64,
    clock: Clock,
}

#[derive(Clone)]
struct Entry {
    answer: Arc<CachedAnswer>,
    until: Instant,
}

impl MemoryCache {
    /// A cache that holds at most `bytes_max` bytes, bookkeeping included.
    pub fn new(bytes_max: u64, clock: Clock) -> MemoryCache {
        let parts = (bytes_max / PART_BYTES_MIN).clamp(1, PARTS_MAX);
        let entries = bounded(bytes_max, ENTRY_BYTES, parts as usize, Weight);
        MemoryCache { entries, bytes_max, clock }
    }
}

impl CacheStore for MemoryCache {
    fn get(&self, key: CacheKey) -> Lookup<'_> {
        let Some(entry) = self.entries.get(&key) else { return Lookup::Ready(None) };
        let now = self.clock.now();
        if now < entry.until {
            return Lookup::Ready(Some(entry.answer));
        }
        // Unless another one has come in its place.
        self.entries.remove_if(&key, |entry| entry.until <= now);
        Lookup::Ready(None)
    }

    fn put(&self, key: CacheKey, answer: CachedAnswer, ttl: Duration) {
        // A time beyond what the clock can tell is no time at all.
        if let Some(until) = self.clock.now().checked_add(ttl).filter(|_| !ttl.is_zero()) {
            self.entries.insert(key, Entry { answer: Arc::new(answer), until });
        }
    }

    fn bytes_max(&self) -> Option<u64> {
        Some(self.bytes_max)
    }

    fn remove<'a>(&'a self, keys: &'a [CacheKey]) -> Managing<'a> {
        for key in keys {
            self.entries.remove(key);
        }
        Box::pin(async { Ok(()) })
    }

    fn clear(&self) -> Managing<'_> {
        self.entries.clear();
        Box::pin(async { Ok(()) })
    }
}

#[derive(Clone)]
struct Weight;

impl Weighter<CacheKey, Entry> for Weight {
    fn weight(&self, _: &CacheKey, entry: &Entry) -> u64 {
        let answer = &entry.answer;
        (ENTRY_OVERHEAD_BYTES + answer.body.held() + answer.model.len()) as u64
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use tollway_filter_api::cache::CachedBody;

    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn cache_of(bytes_max: u64) -> MemoryCache {
        MemoryCache::new(bytes_max, Clock::manual())
    }

    fn answer(body: impl Into<Bytes>) -> CachedAnswer {
        CachedAnswer {
            usage_event: false,
            model: Arc::from("gpt-4o"),
            body: CachedBody::Whole(body.into()),
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
            Lookup::Ready(found) => found.map(Arc::unwrap_or_clone),
            Lookup::Wait(_) => panic!("memory does not have to wait"),
        }
    }

    #[test]
    fn what_was_put_is_found_under_its_key_only() {
        let cache = cache_of(1 << 20);
        cache.put(key(1), answer("one"), MINUTE);
        assert_eq!(get(&cache, key(1)), Some(answer("one")));
        assert_eq!(get(&cache, key(2)), None);
    }

    #[test]
    fn an_entry_ends_after_its_own_time() {
        let cache = cache_of(1 << 20);
        cache.put(key(1), answer("short"), Duration::from_millis(20));
        cache.put(key(2), answer("long"), MINUTE);
        cache.clock.advance(Duration::from_millis(19));
        assert!(get(&cache, key(1)).is_some());
        cache.clock.advance(Duration::from_millis(1));
        assert_eq!(get(&cache, key(1)), None);
        assert!(get(&cache, key(2)).is_some());
        assert_eq!(cache.entries.len(), 1, "what has ended takes no room once it was asked for");
    }

    #[test]
    fn a_replaced_entry_starts_anew_with_its_own_time() {
        let cache = cache_of(1 << 20);
        cache.put(key(1), answer("first"), Duration::from_millis(20));
        cache.clock.advance(Duration::from_millis(19));
        cache.put(key(1), answer("second"), MINUTE);
        cache.clock.advance(MINUTE - Duration::from_millis(1));
        assert_eq!(get(&cache, key(1)), Some(answer("second")));
        cache.clock.advance(Duration::from_millis(1));
        assert_eq!(get(&cache, key(1)), None);
    }

    #[test]
    fn an_entry_without_a_lifetime_is_not_kept() {
        let cache = cache_of(1 << 20);
        cache.put(key(1), answer("x"), Duration::ZERO);
        assert_eq!(get(&cache, key(1)), None);
    }

    #[test]
    fn no_more_bytes_are_kept_than_allowed() {
        let bytes_max = 1 << 20;
        let cache = cache_of(bytes_max);
        for number in 0..200 {
            cache.put(key(number), answer(vec![b'x'; 32 << 10]), MINUTE);
        }
        assert!(cache.entries.weight() <= bytes_max);
        let kept = (0..200).filter(|&number| get(&cache, key(number)).is_some()).count();
        assert!((20..=31).contains(&kept), "{kept} of 32 KiB in 1 MiB");
    }

    #[test]
    fn an_entry_larger_than_the_cache_is_not_kept() {
        let cache = cache_of(10_000);
        cache.put(key(1), answer(vec![b'x'; 20_000]), MINUTE);
        assert_eq!(get(&cache, key(1)), None);
    }

    #[tokio::test]
    async fn a_cleared_cache_is_empty() {
        let cache = cache_of(1 << 20);
        cache.put(key(1), answer("one"), MINUTE);
        cache.clear().await.expect("memory can always be cleared");
        assert_eq!(get(&cache, key(1)), None);
    }
}
