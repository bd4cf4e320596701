//! Limits counted in this process: what one node needs, and what several fall back to.
//!
//! A minute is a sliding window made of small buckets. What was granted in a bucket counts until a
//! minute after the bucket's *last* moment, so that no 60 seconds, wherever they start, ever hold
//! more than the limit. The price is that a grant counts for up to one bucket longer than it must:
//! with buckets of half a second, a client that takes all it can get is given 99.2 % of its limit.
//! Only buckets in which something was counted take memory, so a quiet key is small.
//!
//! Counters nobody uses are removed as their shard is visited, once a minute at most. Memory is
//! bounded besides: once the counters in use reach the maximum, *new* subjects of a scope share one
//! counter until older ones have gone idle. They may be refused early then, which a flood of
//! made-up names brings on itself; the promise that no limit is passed holds throughout.

use std::collections::VecDeque;
use std::fmt;
use std::hash::BuildHasher;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hashbrown::DefaultHashBuilder;
use hashbrown::hash_table::{Entry, HashTable};
use parking_lot::Mutex;
use tollway_filter_api::limits::{Exceeded, LimitKey, LimitStore, LimitUnit, Remaining, Ticket};

/// How long what was granted counts.
const WINDOW: Duration = Duration::from_secs(60);
/// The width of a bucket. 60 / 60.5 of a limit can be used in the long run.
const TICK: Duration = Duration::from_millis(500);
/// Ticks in a window, which has to be a whole number of them: counts then end exactly where a tick
/// begins.
const WINDOW_TICKS: u32 = 120;
/// How often a shard looks for idle counters, in ticks.
const SWEEP_TICKS: u32 = WINDOW_TICKS;
/// Locks. More than there are cores, so that two requests rarely want the same.
const SHARDS: usize = 64;
/// Counters in use at once unless told otherwise: some 250 MB of quiet ones, 2 KB more for each that
/// is used all the time.
const COUNTERS_MAX: usize = 1_000_000;

/// A [`LimitStore`] in memory.
pub struct MemoryLimits {
    /// Ticks are counted from here.
    origin: Instant,
    hasher: DefaultHashBuilder,
    shards: Box<[Padded]>,
    counters_per_shard: usize,
    /// The subject under which counters are shared once there are too many.
    others: Arc<str>,
}

/// A shard on cache lines of its own: neighbours do not slow one another down.
#[repr(align(128))]
struct Padded(Mutex<Shard>);

#[derive(Default)]
struct Shard {
    counters: HashTable<Counter>,
    /// The tick from which on idle counters are looked for again.
    sweep_at: u32,
}

struct Counter {
    key: LimitKey,
    count: Count,
}

enum Count {
    Window(Window),
    Parallel(u64),
}

/// What was granted in the last minute.
#[derive(Default)]
struct Window {
    /// The sum of `buckets`.
    used: u64,
    /// The latest tick anybody came with. Time does not go back for a window, whichever of two
    /// threads gets the lock first.
    seen: u32,
    /// By time, without gaps being stored.
    buckets: VecDeque<Bucket>,
}

struct Bucket {
    tick: u32,
    amount: u64,
}

/// It did not fit. Holds the tick at which it would, if there is one.
struct Full {
    fits_at: Option<u32>,
}

impl MemoryLimits {
    /// A store with room for a million counters in use at once.
    pub fn new() -> MemoryLimits {
        MemoryLimits::with_max_counters(COUNTERS_MAX)
    }

    /// A store with room for about this many counters in use at once. A key with limits on
    /// requests, tokens and parallel requests takes three.
    pub fn with_max_counters(max: usize) -> MemoryLimits {
        MemoryLimits {
            origin: Instant::now(),
            hasher: DefaultHashBuilder::default(),
            shards: (0..SHARDS).map(|_| Padded(Mutex::default())).collect(),
            counters_per_shard: max.div_ceil(SHARDS).max(1),
            others: Arc::from("(others)"),
        }
    }

    /// How many counters are held, idle ones included until they are noticed.
    pub fn counters(&self) -> usize {
        self.shards.iter().map(|shard| shard.0.lock().counters.len()).sum()
    }

    /// The shard by the hash's upper bits: the table inside uses the others.
    fn shard(&self, hash: u64) -> &Mutex<Shard> {
        &self.shards[(hash >> 32) as usize % SHARDS].0
    }

    /// The time as the store sees it.
    fn since(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.origin)
    }
}

/// The tick a moment falls into.
fn tick_of(since: Duration) -> u32 {
    let per_second = u64::from(1_000_000_000 / TICK.subsec_nanos());
    let tick = since.as_secs().saturating_mul(per_second)
        + u64::from(since.subsec_nanos() / TICK.subsec_nanos());
    u32::try_from(tick).unwrap_or(u32::MAX)
}

/// How long it is until a tick begins.
fn until(tick: u32, since: Duration) -> Duration {
    (TICK * tick).saturating_sub(since)
}

impl Default for MemoryLimits {
    fn default() -> MemoryLimits {
        MemoryLimits::new()
    }
}

impl fmt::Debug for MemoryLimits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryLimits").field("counters", &self.counters()).finish_non_exhaustive()
    }
}

impl LimitStore for MemoryLimits {
    fn reserve(
        &self,
        mut key: LimitKey,
        limit: u64,
        amount: u64,
        now: Instant,
    ) -> Result<(Ticket, Remaining), Exceeded> {
        let since = self.since(now);
        let tick = tick_of(since);
        let mut shared = false;
        loop {
            let hash = self.hasher.hash_one(&key);
            let mut shard = self.shard(hash).lock();
            if tick >= shard.sweep_at {
                shard.sweep(tick, &self.hasher);
            }
            let Some(count) = shard.find_or_make(hash, &key, self, tick, shared) else {
                // Without the lock: the shared counter may live in another shard.
                drop(shard);
                key.subject = Some(Arc::clone(&self.others));
                key.part = None;
                shared = true;
                continue;
            };
            return match count {
                Count::Window(window) => {
                    reserve_in(window, limit, amount, since).map(|(counted, remaining)| {
                        // Others may have been here with a later time: that is when it was counted.
                        let at = if counted == tick { now } else { self.origin + TICK * counted };
                        (Ticket { key, at, amount }, remaining)
                    })
                }
                Count::Parallel(count) => reserve_places(count, limit, amount)
                    .map(|remaining| (Ticket { key, at: now, amount }, remaining)),
            };
        }
    }

    fn settle(&self, ticket: &Ticket, used: u64) {
        let hash = self.hasher.hash_one(&ticket.key);
        let mut shard = self.shard(hash).lock();
        let Some(counter) = shard.counters.find_mut(hash, |have| have.key == ticket.key) else {
            return;
        };
        match &mut counter.count {
            Count::Window(window) => {
                window.settle(tick_of(self.since(ticket.at)), ticket.amount, used);
            }
            Count::Parallel(count) => {
                *count = count.saturating_sub(ticket.amount).saturating_add(used);
            }
        }
    }
}

impl Shard {
    /// The count of `key`. `None` when there is no room for another and it is not the one that is
    /// shared, which always has a place.
    fn find_or_make(
        &mut self,
        hash: u64,
        key: &LimitKey,
        store: &MemoryLimits,
        tick: u32,
        shared: bool,
    ) -> Option<&mut Count> {
        let hasher = &store.hasher;
        if self.counters.len() >= store.counters_per_shard && !shared {
            let known = self.counters.find(hash, |have| have.key == *key).is_some();
            // Full, but perhaps not of counters in use. Looked into once per tick at most: a flood
            // of new names must not make every request walk the shard.
            if !known && tick.saturating_add(SWEEP_TICKS - 1) >= self.sweep_at {
                self.sweep(tick, hasher);
            }
            if !known && self.counters.len() >= store.counters_per_shard {
                return None;
            }
        }
        let hash_of = |counter: &Counter| hasher.hash_one(&counter.key);
        match self.counters.entry(hash, |have| have.key == *key, hash_of) {
            Entry::Occupied(counter) => Some(&mut counter.into_mut().count),
            Entry::Vacant(place) => {
                let count = match key.unit {
                    LimitUnit::Requests | LimitUnit::Tokens => Count::Window(Window::default()),
                    LimitUnit::Parallel => Count::Parallel(0),
                };
                Some(&mut place.insert(Counter { key: key.clone(), count }).into_mut().count)
            }
        }
    }

    /// Removes idle counters and gives memory back that a busier time had needed.
    fn sweep(&mut self, tick: u32, hasher: &DefaultHashBuilder) {
        self.sweep_at = tick.saturating_add(SWEEP_TICKS);
        self.counters.retain(|counter| match &mut counter.count {
            Count::Window(window) => {
                window.advance(tick);
                window.shrink();
                !window.buckets.is_empty()
            }
            Count::Parallel(count) => *count > 0,
        });
        if self.counters.capacity() > 64 && self.counters.capacity() / 4 > self.counters.len() {
            self.counters.shrink_to(self.counters.len() * 2, |have| hasher.hash_one(&have.key));
        }
    }
}

impl Window {
    /// Forgets what counts no more. Returns the tick it is for this window.
    fn advance(&mut self, tick: u32) -> u32 {
        self.seen = self.seen.max(tick);
        while let Some(first) = self.buckets.front()
            && expiry(first.tick) <= self.seen
        {
            self.used -= first.amount;
            self.buckets.pop_front();
        }
        self.seen
    }

    /// Counts `amount` if it fits, and says in which tick.
    fn reserve(&mut self, limit: u64, amount: u64, tick: u32) -> Result<u32, Full> {
        let tick = self.advance(tick);
        if amount > limit.saturating_sub(self.used) {
            return Err(Full { fits_at: self.fits_at(limit, amount) });
        }
        // Cannot overflow: what is counted already fits beside it below `limit`, or is zero.
        self.used += amount;
        match self.buckets.back_mut() {
            Some(last) if last.tick == tick => last.amount += amount,
            _ => self.buckets.push_back(Bucket { tick, amount }),
        }
        Ok(tick)
    }

    /// The tick at which enough will have been forgotten for `amount` to fit.
    fn fits_at(&self, limit: u64, amount: u64) -> Option<u32> {
        let mut left = self.used;
        for bucket in &self.buckets {
            left -= bucket.amount;
            if amount <= limit.saturating_sub(left) {
                return Some(expiry(bucket.tick));
            }
        }
        None
    }

    /// Replaces `reserved`, counted in `tick`, by `used`. The bucket is gone when the ticket is
    /// older than the window.
    fn settle(&mut self, tick: u32, reserved: u64, used: u64) {
        let Ok(at) = self.buckets.binary_search_by_key(&tick, |bucket| bucket.tick) else {
            return;
        };
        let bucket = &mut self.buckets[at];
        // Neither bound is reached while every ticket is settled once; `used` stays the exact sum
        // of the buckets even when they are.
        let less = reserved.saturating_sub(used).min(bucket.amount);
        let more = used.saturating_sub(reserved).min(u64::MAX - self.used);
        bucket.amount = bucket.amount - less + more;
        self.used = self.used - less + more;
    }

    fn shrink(&mut self) {
        if self.buckets.capacity() > 8 && self.buckets.capacity() / 4 > self.buckets.len() {
            self.buckets.shrink_to(self.buckets.len() * 2);
        }
    }
}

/// The tick from which on what was granted in `tick` counts no more: its last moment is where the
/// next one begins, and that is a window ago.
fn expiry(tick: u32) -> u32 {
    tick.saturating_add(1 + WINDOW_TICKS)
}

/// Counts in a window, and puts the outcome in the words of the contract. Also says in which tick.
fn reserve_in(
    window: &mut Window,
    limit: u64,
    amount: u64,
    since: Duration,
) -> Result<(u32, Remaining), Exceeded> {
    let granted = window.reserve(limit, amount, tick_of(since));
    let remaining = limit.saturating_sub(window.used);
    match granted {
        Ok(tick) => Ok((tick, Remaining { limit, remaining, reset: until(expiry(tick), since) })),
        Err(Full { fits_at }) => {
            let retry_after = fits_at.map_or(WINDOW, |tick| until(tick, since));
            Err(Exceeded { limit, remaining, retry_after })
        }
    }
}

/// Takes places among `limit` parallel ones.
fn reserve_places(count: &mut u64, limit: u64, amount: u64) -> Result<Remaining, Exceeded> {
    let remaining = limit.saturating_sub(*count);
    if amount > remaining {
        return Err(Exceeded { limit, remaining, retry_after: Duration::ZERO });
    }
    *count += amount;
    Ok(Remaining { limit, remaining: remaining - amount, reset: Duration::ZERO })
}

#[cfg(test)]
mod tests {
    use std::thread;

    use proptest::prelude::*;

    use super::*;

    const MS: Duration = Duration::from_millis(1);
    const NS: Duration = Duration::from_nanos(1);

    fn key(subject: &str, unit: LimitUnit) -> LimitKey {
        LimitKey { scope: "api_key", subject: Some(subject.into()), part: None, unit }
    }

    fn tokens() -> LimitKey {
        key("k", LimitUnit::Tokens)
    }

    /// What was granted, exactly: when, and how much of it counts by now.
    #[derive(Default)]
    struct Model {
        grants: Vec<(Instant, u64)>,
    }

    impl Model {
        /// What was granted in the `window` that ends at `now`, both ends included.
        fn used(&self, now: Instant, window: Duration) -> u64 {
            let counts = |at: Instant| now.saturating_duration_since(at) <= window;
            self.grants.iter().filter(|(at, _)| counts(*at)).map(|(_, amount)| amount).sum()
        }

        /// The most that any 60 seconds hold.
        fn busiest(&self) -> u64 {
            let (mut first, mut sum, mut most) = (0, 0, 0);
            for &(at, amount) in &self.grants {
                sum += amount;
                while at - self.grants[first].0 > WINDOW {
                    sum -= self.grants[first].1;
                    first += 1;
                }
                most = most.max(sum);
            }
            most
        }
    }

    /// Takes all it can get for `minutes`, `amount` at a time, asking again when told to but never
    /// waiting less than `pause`. Returns which share of its limit it got.
    fn greedy(limit: u64, amount: u64, pause: Duration, start: Duration, minutes: u32) -> f64 {
        let store = MemoryLimits::new();
        let mut model = Model::default();
        let begin = store.origin + start;
        let mut now = begin;
        while now < begin + WINDOW * minutes {
            match store.reserve(tokens(), limit, amount, now) {
                Ok(_) => {
                    model.grants.push((now, amount));
                    now += pause;
                }
                Err(refused) => now += refused.retry_after.max(NS),
            }
        }
        assert!(model.busiest() <= limit, "{} of {limit}", model.busiest());
        let total: u64 = model.grants.iter().map(|(_, amount)| amount).sum();
        total as f64 / (limit as f64 * f64::from(minutes))
    }

    #[test]
    fn whole_limit_may_be_used_at_once() {
        let store = MemoryLimits::new();
        let (_, left) = store.reserve(tokens(), 100, 100, store.origin).unwrap();
        assert_eq!(left.remaining, 0);
        let refused = store.reserve(tokens(), 100, 1, store.origin).unwrap_err();
        assert_eq!((refused.limit, refused.remaining), (100, 0));
    }

    #[test]
    fn greedy_client_gets_98_percent_and_never_more_than_the_limit() {
        for (limit, amount, pause) in [
            (1, 1, Duration::ZERO),
            (60, 1, Duration::ZERO),
            (600, 1, 97 * MS),
            (601, 1, Duration::from_micros(99_834)),
            (1000, 7, 333 * MS),
            (90_000, 123, 80 * MS),
        ] {
            for start in [Duration::ZERO, 499 * MS, 1_250 * MS] {
                let share = greedy(limit, amount, pause, start, 180);
                // What does not divide the limit leaves less than one amount unused.
                let wasted = (limit % amount) as f64 / limit as f64;
                assert!(share + wasted >= 0.98, "{share} of {limit} by {amount} each {pause:?}");
            }
        }
    }

    #[test]
    fn retry_after_is_exact() {
        let store = MemoryLimits::new();
        let start = store.origin + 130 * MS;
        for second in 0..10 {
            store.reserve(tokens(), 100, 10, start + 1000 * MS * second).unwrap();
        }
        let now = start + 9_500 * MS;
        let refused = store.reserve(tokens(), 100, 25, now).unwrap_err();
        let then = now + refused.retry_after;
        assert!(store.reserve(tokens(), 100, 25, then - NS).is_err());
        assert!(store.reserve(tokens(), 100, 25, then).is_ok());
    }

    #[test]
    fn what_never_fits_says_a_minute() {
        let store = MemoryLimits::new();
        let refused = store.reserve(tokens(), 100, 101, store.origin).unwrap_err();
        assert_eq!(refused, Exceeded { limit: 100, remaining: 100, retry_after: WINDOW });
    }

    #[test]
    fn limit_of_zero_grants_nothing() {
        let store = MemoryLimits::new();
        assert!(store.reserve(tokens(), 0, 1, store.origin).is_err());
    }

    #[test]
    fn reset_is_when_the_whole_limit_is_free() {
        let store = MemoryLimits::new();
        let now = store.origin + 700 * MS;
        let (_, left) = store.reserve(tokens(), 100, 1, now).unwrap();
        assert!(store.reserve(tokens(), 100, 100, now + left.reset - NS).is_err());
        assert!(store.reserve(tokens(), 100, 100, now + left.reset).is_ok());
    }

    #[test]
    fn settling_gives_back_what_was_not_used() {
        let store = MemoryLimits::new();
        let (ticket, _) = store.reserve(tokens(), 100, 90, store.origin).unwrap();
        store.settle(&ticket, 20);
        let (_, left) = store.reserve(tokens(), 100, 80, store.origin + 1000 * MS).unwrap();
        assert_eq!(left.remaining, 0);
    }

    #[test]
    fn settling_for_more_counts_past_the_limit() {
        let store = MemoryLimits::new();
        let (ticket, _) = store.reserve(tokens(), 100, 50, store.origin).unwrap();
        store.settle(&ticket, 250);
        let refused = store.reserve(tokens(), 100, 1, store.origin).unwrap_err();
        assert_eq!(refused.remaining, 0);
        assert_eq!(refused.retry_after, WINDOW + TICK);
    }

    #[test]
    fn ticket_older_than_the_window_is_ignored() {
        let store = MemoryLimits::new();
        let (ticket, _) = store.reserve(tokens(), 100, 50, store.origin).unwrap();
        let later = store.origin + WINDOW * 2;
        store.reserve(tokens(), 100, 40, later).unwrap();
        store.settle(&ticket, 1000);
        store.settle(&ticket, 0);
        let (_, left) = store.reserve(tokens(), 100, 60, later).unwrap();
        assert_eq!(left.remaining, 0);
    }

    #[test]
    fn settling_twice_never_underflows() {
        let store = MemoryLimits::new();
        let (ticket, _) = store.reserve(tokens(), 100, 50, store.origin).unwrap();
        store.settle(&ticket, 0);
        store.settle(&ticket, 0);
        store.settle(&ticket, u64::MAX);
        store.settle(&ticket, u64::MAX);
        assert!(store.reserve(tokens(), u64::MAX, 1, store.origin).is_err());
        let (_, left) = store.reserve(tokens(), 100, 1, store.origin + WINDOW * 2).unwrap();
        assert_eq!(left.remaining, 99);
    }

    #[test]
    fn parallel_places_are_given_back() {
        let store = MemoryLimits::new();
        let places = || key("k", LimitUnit::Parallel);
        let (first, left) = store.reserve(places(), 2, 1, store.origin).unwrap();
        assert_eq!(left.remaining, 1);
        store.reserve(places(), 2, 1, store.origin).unwrap();
        let refused = store.reserve(places(), 2, 1, store.origin + WINDOW * 9).unwrap_err();
        assert_eq!(refused.retry_after, Duration::ZERO);
        store.settle(&first, 0);
        assert!(store.reserve(places(), 2, 1, store.origin).is_ok());
    }

    #[test]
    fn keys_units_and_parts_are_counted_apart() {
        let store = MemoryLimits::new();
        let part = LimitKey { part: Some("gpt".into()), ..tokens() };
        let user = LimitKey { scope: "user", ..tokens() };
        let all =
            [tokens(), key("k", LimitUnit::Requests), key("l", LimitUnit::Tokens), part, user];
        for key in &all {
            assert!(store.reserve(key.clone(), 1, 1, store.origin).is_ok());
        }
        for key in all {
            assert!(store.reserve(key, 1, 1, store.origin).is_err());
        }
    }

    #[test]
    fn time_does_not_go_back() {
        let store = MemoryLimits::new();
        let (_, _) = store.reserve(tokens(), 10, 10, store.origin).unwrap();
        let later = store.origin + WINDOW + TICK;
        let (_, _) = store.reserve(tokens(), 10, 5, later).unwrap();
        let (ticket, _) = store.reserve(tokens(), 10, 5, later - 2 * TICK).unwrap();
        assert_eq!(ticket.at, later);
        assert!(store.reserve(tokens(), 10, 1, later - 2 * TICK).is_err());
        store.settle(&ticket, 4);
        assert!(store.reserve(tokens(), 10, 1, later).is_ok());
    }

    #[test]
    fn idle_counters_are_removed() {
        let store = MemoryLimits::new();
        for n in 0..10_000 {
            store.reserve(key(&n.to_string(), LimitUnit::Requests), 9, 1, store.origin).unwrap();
            let places = key(&n.to_string(), LimitUnit::Parallel);
            let (place, _) = store.reserve(places, 9, 1, store.origin).unwrap();
            if n > 0 {
                store.settle(&place, 0);
            }
        }
        assert_eq!(store.counters(), 20_000);
        // Enough visitors to reach every shard.
        let later = store.origin + WINDOW * 2;
        for n in 0..2_000 {
            store.reserve(key(&n.to_string(), LimitUnit::Requests), 9, 1, later).unwrap();
        }
        assert_eq!(store.counters(), 2_001, "the visitors and the place still held");
    }

    #[test]
    fn counters_are_bounded_and_newcomers_share_one() {
        let store = MemoryLimits::with_max_counters(640);
        let granted = (0..100_000)
            .filter(|n| {
                let key = key(&n.to_string(), LimitUnit::Requests);
                store.reserve(key, 1, 1, store.origin).is_ok()
            })
            .count();
        assert!(store.counters() <= 641, "{} counters", store.counters());
        assert!((600..=641).contains(&granted), "{granted} granted");
        // Those who have a counter are not bothered, and room comes back as they go idle.
        let later = store.origin + WINDOW + TICK;
        let granted = (200_000..200_600)
            .filter(|n| {
                store.reserve(key(&n.to_string(), LimitUnit::Requests), 1, 1, later).is_ok()
            })
            .count();
        assert!(granted > 500, "{granted} granted");
    }

    #[test]
    fn shared_counter_is_settled_under_its_own_key() {
        let store = MemoryLimits::with_max_counters(0);
        let places = |name: &str| key(name, LimitUnit::Parallel);
        let tickets: Vec<_> = (0..200)
            .map(|n| store.reserve(places(&n.to_string()), 1000, 1, store.origin).unwrap().0)
            .collect();
        tickets.iter().for_each(|ticket| store.settle(ticket, 0));
        for shard in &store.shards {
            for counter in &shard.0.lock().counters {
                assert!(matches!(counter.count, Count::Parallel(0)));
            }
        }
    }

    #[test]
    fn threads_together_never_pass_the_limit() {
        let store = MemoryLimits::new();
        let grants = Mutex::new(Model::default());
        thread::scope(|scope| {
            for thread in 0..8_u64 {
                let (store, grants) = (&store, &grants);
                scope.spawn(move || {
                    for step in 0..4_000_u64 {
                        // Each thread has its own idea of the time, a little off.
                        let now = store.origin + MS * (step * 50 + thread * 30) as u32;
                        let wanted = 1 + (step + thread) % 3;
                        if let Ok((ticket, _)) = store.reserve(tokens(), 1000, wanted, now) {
                            let used = if step % 5 == 0 { 0 } else { wanted };
                            store.settle(&ticket, used);
                            grants.lock().grants.push((ticket.at, used));
                        }
                    }
                });
            }
        });
        let mut model = grants.into_inner();
        model.grants.sort();
        assert!(model.busiest() <= 1000, "{}", model.busiest());
    }

    #[derive(Clone, Debug)]
    enum Act {
        Wait(u64),
        Reserve(u64),
        Settle(usize, u64),
    }

    fn acts() -> impl Strategy<Value = Vec<Act>> {
        let act = prop_oneof![
            2 => (0_u64..3_000_000_000).prop_map(Act::Wait),
            1 => (0_u64..70_000_000_000).prop_map(Act::Wait),
            6 => (1_u64..120).prop_map(Act::Reserve),
            3 => (any::<usize>(), 0_u64..150).prop_map(|(which, used)| Act::Settle(which, used)),
        ];
        proptest::collection::vec(act, 1..200)
    }

    proptest! {
        /// Against a list of all grants: what is granted fits exactly, and what is refused would
        /// not fit into a window that is one bucket longer.
        #[test]
        fn agrees_with_an_exact_list_of_grants(acts in acts(), limit in 1_u64..300) {
            let store = MemoryLimits::new();
            let mut model = Model::default();
            let mut open: Vec<(usize, Ticket)> = Vec::new();
            let mut now = store.origin;
            for act in acts {
                match act {
                    Act::Wait(nanos) => now += Duration::from_nanos(nanos),
                    Act::Reserve(amount) => match store.reserve(tokens(), limit, amount, now) {
                        Ok((ticket, left)) => {
                            model.grants.push((now, amount));
                            open.push((model.grants.len() - 1, ticket));
                            prop_assert!(model.used(now, WINDOW) <= limit);
                            prop_assert!(left.remaining <= limit - model.used(now, WINDOW));
                        }
                        Err(refused) => {
                            prop_assert!(model.used(now, WINDOW + TICK) + amount > limit);
                            if amount <= limit {
                                let then = now + refused.retry_after;
                                prop_assert!(model.used(then, WINDOW - NS) + amount <= limit);
                                let early = then - TICK;
                                prop_assert!(model.used(early, WINDOW) + amount > limit);
                            }
                        }
                    },
                    Act::Settle(which, used) if !open.is_empty() => {
                        let (grant, ticket) = open.swap_remove(which % open.len());
                        store.settle(&ticket, used);
                        model.grants[grant].1 = used;
                    }
                    Act::Settle(..) => {}
                }
            }
        }

        /// Whatever is settled how often: the sum stays that of the buckets and nothing underflows.
        #[test]
        fn any_settlement_keeps_the_sum(
            steps in proptest::collection::vec((0_u32..30, any::<u64>(), any::<u64>(), any::<u64>()), 1..60),
        ) {
            let mut window = Window::default();
            let mut tick = 0;
            for (wait, limit, amount, used) in steps {
                tick += wait;
                let _ = window.reserve(limit, amount, tick);
                window.settle(tick.saturating_sub(wait / 2), amount / 2, used);
                window.settle(tick, amount, 0);
                let sum: u128 = window.buckets.iter().map(|bucket| u128::from(bucket.amount)).sum();
                prop_assert_eq!(sum, u128::from(window.used));
            }
        }
    }
}
