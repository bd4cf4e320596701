//! Tokens that were verified, by their hash, so that a signature is checked once.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tollway_filter_api::{KeyHash, VirtualKey};

use super::claims::Person;

/// How many tokens are known at once. What is remembered of one is smaller than the token, which
/// has 16 KiB at most.
const SEEN_MAX: usize = 8192;

/// A token that was verified.
pub(super) struct Seen {
    /// The caller, in the first team of the token.
    pub(super) key: Arc<VirtualKey>,
    pub(super) person: Person,
    /// Whose token it is, by its place in the config.
    pub(super) issuer: usize,
    /// Which of the issuer's key sets had its key.
    pub(super) version: u64,
    /// Until when it holds, since the Unix epoch.
    pub(super) ends: Duration,
}

/// Forgets what was used least recently, by halves: what is used stays in the younger one, and the
/// older is dropped when that is full.
#[derive(Default)]
pub(super) struct Cache(Mutex<Halves>);

#[derive(Default)]
struct Halves {
    younger: HashMap<KeyHash, Arc<Seen>>,
    older: HashMap<KeyHash, Arc<Seen>>,
}

impl Cache {
    pub(super) fn get(&self, hash: &KeyHash) -> Option<Arc<Seen>> {
        let mut halves = self.0.lock();
        if let Some(seen) = halves.younger.get(hash) {
            return Some(Arc::clone(seen));
        }
        let seen = halves.older.remove(hash)?;
        halves.keep(*hash, Arc::clone(&seen));
        Some(seen)
    }

    pub(super) fn put(&self, hash: KeyHash, seen: Arc<Seen>) {
        self.0.lock().keep(hash, seen);
    }
}

impl Halves {
    fn keep(&mut self, hash: KeyHash, seen: Arc<Seen>) {
        if self.younger.len() >= SEEN_MAX / 2 {
            self.older = std::mem::take(&mut self.younger);
        }
        self.younger.insert(hash, seen);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_used_stays_and_the_rest_is_forgotten() {
        let cache = Cache::default();
        let hash = |number: usize| {
            let mut hash = [0; 32];
            hash[..8].copy_from_slice(&number.to_le_bytes());
            KeyHash(hash)
        };
        let seen = Arc::new(Seen {
            key: Arc::new(VirtualKey::new(hash(0))),
            person: Person::default(),
            issuer: 0,
            version: 1,
            ends: Duration::ZERO,
        });
        for number in 0..SEEN_MAX * 3 {
            cache.put(hash(number), Arc::clone(&seen));
            assert!(cache.get(&hash(0)).is_some(), "after {number}");
        }
        assert!(cache.get(&hash(1)).is_none());
        assert!(cache.get(&hash(SEEN_MAX * 3 - 1)).is_some());
        let halves = cache.0.lock();
        assert!(halves.younger.len() + halves.older.len() <= SEEN_MAX);
    }
}
