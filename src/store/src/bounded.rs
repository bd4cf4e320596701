//! A cache bounded by bytes, as everything that is kept in memory here is made.

use foldhash::fast::RandomState;
use quick_cache::sync::{Cache, DefaultLifecycle};
use quick_cache::{OptionsBuilder, Weighter};

/// A cache that keeps the most useful entries.
pub(crate) type Bounded<K, V, W> = Cache<K, V, W, RandomState>;

/// A cache of at most `bytes_max` bytes, by what `weight` says of each entry. `entry_bytes` is what one
/// takes, about. It has so many `parts`, each with a lock of its own; none holds an entry that is
/// larger than itself.
pub(crate) fn bounded<K, V, W>(
    bytes_max: u64,
    entry_bytes: u64,
    parts: usize,
    weight: W,
) -> Bounded<K, V, W>
where
    K: Eq + std::hash::Hash,
    V: Clone,
    W: Weighter<K, V> + Clone,
{
    let options = OptionsBuilder::new()
        .weight_capacity(bytes_max)
        .estimated_items_capacity(usize::try_from(bytes_max / entry_bytes).unwrap_or(usize::MAX))
        .shards(parts)
        .build()
        .expect("all that must be said is said");
    Cache::with_options(options, weight, RandomState::default(), DefaultLifecycle::default())
}
