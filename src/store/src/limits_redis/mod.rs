//! Limits that several nodes keep together, through a Redis or Valkey.
//!
//! A node admits requests by itself, from *leases*: parts of a limit that Redis has set aside for
//! it. What Redis counts of a limit is what all nodes have used in the last minute and what their
//! leases still hold; a lease is granted only where that leaves room, so that no 60 seconds, wherever
//! they start and whoever is asked, hold more than the limit. A node reports what it used by ticks of
//! its own clock, next time it calls or after `DUE` at the latest; a lease may therefore be long
//! without making what was used count for longer.
//!
//! A hundredth of each rate is for those who do not ask, in equal parts: a node needs no call for a
//! key that is hardly used. Other calls are rare because leases follow a node's own rate: half a minute's worth where much is left
//! of the limit, half a second's where little is, and what a request needs at the very end. One task
//! (`pump.rs`) makes all calls, one at a time, each about all counters that have something to say;
//! so a busy node makes few calls however many keys it serves. Whoever is refused makes the others
//! give back what they do not need, within a beat.
//!
//! Redis away: leases run out; of places nothing else is granted until all have. Then each node
//! grants its share of what nobody had used when Redis was last heard, which grows to limit ÷ nodes as the past minute goes by. No request waits any more. When
//! Redis is back, perhaps emptied, each node first says what it used, and nothing is granted until
//! all have. A node that is silent while the others are heard may be cut off and serve on: its
//! share is kept for it, for five minutes. What cannot be known then: what others took between the last word
//! of Redis and its end (a cautious guess is made), and what was used of a counter that this node
//! has not touched for a minute.
//!
//! All keys have one hash tag, so that one call can be about many. Redis must not evict them: give
//! it `noeviction`, or a `volatile` policy and enough memory.

use std::fmt;
use std::hash::BuildHasher;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use hashbrown::{DefaultHashBuilder, HashMap};
use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use tokio::runtime::Handle;
use tokio::sync::{Notify, oneshot, watch};
use tokio::task::AbortHandle;
use tokio::time::timeout;
use tollway_filter_api::Clock;
use tollway_filter_api::clock::millis;
use tollway_filter_api::limits::{
    Exceeded, LimitKey, LimitStore, LimitUnit, Refill, Remaining, Ticket,
};

use self::counter::{Counter, Place, Short, View};
use self::pump::Pump;
use crate::redis_link::RedisLink;

mod counter;
mod pump;
mod script;

/// How long what was granted counts.
const WINDOW: Duration = Duration::from_secs(60);
/// What is used is told apart by so much. 60 / 60.25 of a limit can be used in the long run.
const TICK: Duration = Duration::from_millis(250);
const WINDOW_TICKS: u32 = 240;
/// How long a lease may be used.
const LIFE: Duration = Duration::from_secs(30);
/// How long places are held by a node that is not heard of any more.
const PLACES_LIFE: Duration = Duration::from_secs(10);
/// After how long a counter is brought to Redis without being asked.
const DUE: Duration = Duration::from_secs(20);
/// The same for places.
const PLACES_DUE: Duration = Duration::from_secs(3);
/// A request that has waited so long in vain is treated as if Redis were away.
const IN_VAIN: Duration = Duration::from_millis(20);
/// Above this, a limit is as good as none; below, Lua's numbers are exact.
const LIMIT_MAX: u64 = 1 << 50;
/// How long it may take until all nodes have heard that one has come or gone.
const SETTLING: Duration = Duration::from_secs(5);
const SHARDS: usize = 64;
/// Counters in use at once unless told otherwise.
const COUNTERS_MAX: usize = 500_000;

/// What several nodes count together with.
#[derive(Clone, Debug)]
pub struct RedisLimitsSettings {
    /// What the keys in Redis start with.
    pub namespace: String,
    /// How many counters may be in use at once. Beyond, new subjects of a scope share one.
    pub counters_max: usize,
    /// Tells the time.
    pub clock: Clock,
    /// The time of Redis in ms, instead of its own: for tests that do not wait.
    pub simulated: Option<Arc<AtomicU64>>,
}

impl RedisLimitsSettings {
    /// The usual ones.
    pub fn new(clock: Clock) -> RedisLimitsSettings {
        RedisLimitsSettings {
            namespace: "tollway".to_owned(),
            counters_max: COUNTERS_MAX,
            clock,
            simulated: None,
        }
    }
}

/// A [`LimitStore`] that several nodes share.
pub struct RedisLimits {
    core: Arc<Core>,
    pump: Arc<tokio::sync::Mutex<Pump>>,
    task: Option<AbortHandle>,
}

/// What requests and the pump share.
struct Core {
    clock: Clock,
    /// Ticks are counted from here.
    origin: Instant,
    /// `{tollway:limits}:`
    prefix: String,
    hasher: DefaultHashBuilder,
    shards: Box<[Mutex<Shard>]>,
    counters_per_shard: usize,
    /// The subject under which counters are shared once there are too many.
    others: Arc<str>,
    /// What Redis calls the counters.
    names: Mutex<HashMap<Arc<str>, LimitKey>>,
    queue: Mutex<Vec<Ask>>,
    wake: Notify,
    view: Mutex<View>,
    /// Whether Redis has ever granted leases to this node.
    shared: watch::Sender<bool>,
}

type Shard = HashMap<LimitKey, Counter>;

/// A counter that has to be brought to Redis.
struct Ask {
    key: LimitKey,
    /// What a request waits for, and how it learns that it can try again.
    want: Option<(u64, oneshot::Sender<()>)>,
}

impl RedisLimits {
    /// Starts to share limits. Returns at once, whether or not Redis is there.
    pub fn start(link: RedisLink, settings: RedisLimitsSettings, runtime: &Handle) -> RedisLimits {
        let mut limits = RedisLimits::without_task(link, settings);
        let (core, pump) = (Arc::clone(&limits.core), Arc::clone(&limits.pump));
        limits.task = Some(runtime.spawn(pump::run(core, pump)).abort_handle());
        limits
    }

    /// The same without the task that calls Redis: whoever has it calls [`RedisLimits::round`].
    pub fn without_task(link: RedisLink, settings: RedisLimitsSettings) -> RedisLimits {
        let RedisLimitsSettings { namespace, counters_max, clock, simulated } = settings;
        let origin = clock.now();
        let core = Arc::new(Core {
            clock,
            origin,
            prefix: format!("{{{namespace}:limits}}:"),
            hasher: DefaultHashBuilder::default(),
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            counters_per_shard: counters_max.div_ceil(SHARDS).max(1),
            others: Arc::from("(others)"),
            names: Mutex::default(),
            queue: Mutex::default(),
            wake: Notify::new(),
            view: Mutex::new(View {
                place: Place { rank: 0, nodes: 1 },
                placed: None,
                away_since: Some(origin),
            }),
            shared: watch::Sender::new(false),
        });
        let pump = Arc::new(tokio::sync::Mutex::new(Pump::new(link, simulated)));
        RedisLimits { core, pump, task: None }
    }

    /// One call of Redis about all that waits, and what has to be done from time to time. Without
    /// Redis it only says so to those who wait.
    pub async fn round(&self) {
        self.pump.lock().await.round(&self.core).await;
    }

    /// Waits until limits are shared for the first time, for so long at most, and says whether they
    /// are. Before that, requests are refused what nobody has used yet: others may have it.
    pub async fn ready(&self, within: Duration) -> bool {
        let mut shared = self.core.shared.subscribe();
        timeout(within, shared.wait_for(|shared| *shared)).await.is_ok_and(|heard| heard.is_ok())
    }

    /// Whether Redis grants leases at the moment.
    pub fn is_up(&self) -> bool {
        self.core.view.lock().away_since.is_none()
    }

    /// Among how many nodes limits are shared, as far as is known.
    pub fn nodes(&self) -> u64 {
        self.core.view.lock().place.nodes
    }

    /// How many counters are held, idle ones included until they are noticed.
    pub fn counters(&self) -> usize {
        self.core.shards.iter().map(|shard| shard.lock().len()).sum()
    }

    /// Tells the others that this node will not come again, so that its share is theirs at once.
    pub async fn leave(&self) {
        self.pump.lock().await.leave(&self.core).await;
    }
}

impl fmt::Debug for RedisLimits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisLimits").field("counters", &self.counters()).finish_non_exhaustive()
    }
}

impl Drop for RedisLimits {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}

impl Core {
    /// The shard by the hash's upper bits: the table inside uses the others.
    fn shard(&self, key: &LimitKey) -> &Mutex<Shard> {
        &self.shards[(self.hasher.hash_one(key) >> 32) as usize % SHARDS]
    }

    fn millis(&self, at: Instant) -> u64 {
        millis(at.saturating_duration_since(self.origin))
    }

    fn tick(&self, at: Instant) -> u32 {
        u32::try_from(self.millis(at) / TICK.as_millis() as u64).unwrap_or(u32::MAX)
    }

    /// Does something with a counter, which is made where there is none and there is room.
    fn with<T>(
        &self,
        mut key: LimitKey,
        now: Instant,
        act: impl FnOnce(&LimitKey, &mut Counter) -> T,
    ) -> T {
        let mut shard = self.shard(&key).lock();
        if !shard.contains_key(&key) && shard.len() >= self.counters_per_shard {
            // Without the lock: the shared counter may live in another shard.
            drop(shard);
            key.subject = Some(Arc::clone(&self.others));
            key.part = None;
            shard = self.shard(&key).lock();
        }
        if let Some(counter) = shard.get_mut(&key) {
            return act(&key, counter);
        }
        let name: Arc<str> = self.name(&key).into();
        self.names.lock().insert(Arc::clone(&name), key.clone());
        let counter = shard.entry(key.clone()).or_insert(Counter::new(name, key.unit, now));
        act(&key, counter)
    }

    /// Does something with a counter if it is there.
    fn with_known<T>(&self, key: &LimitKey, act: impl FnOnce(&mut Counter) -> T) -> Option<T> {
        self.shard(key).lock().get_mut(key).map(act)
    }

    /// A counter's key in Redis. A digest: subjects are made by users and may be of any length.
    fn name(&self, key: &LimitKey) -> String {
        let mut digest = Sha256::new();
        for part in [Some(key.scope), key.subject.as_deref(), key.part.as_deref()] {
            // What is not there differs from what is empty.
            digest.update(part.map_or(u64::MAX, |part| part.len() as u64).to_le_bytes());
            digest.update(part.unwrap_or_default());
        }
        digest.update(key.unit.name());
        let mut name = self.prefix.clone();
        for byte in &digest.finalize()[..16] {
            name.push_str(&format!("{byte:02x}"));
        }
        name
    }

    /// Has a counter brought to Redis, once.
    fn enqueue(&self, key: &LimitKey, counter: &mut Counter) {
        if !std::mem::replace(&mut counter.is_queued, true) {
            self.queue.lock().push(Ask { key: key.clone(), want: None });
            self.wake.notify_one();
        }
    }
}

impl LimitStore for RedisLimits {
    fn reserve(
        &self,
        key: LimitKey,
        limit: u64,
        amount: u64,
        now: Instant,
    ) -> Result<(Ticket, Remaining), Exceeded> {
        let core = &*self.core;
        let limit = limit.min(LIMIT_MAX);
        let view = *core.view.lock();
        let is_places = key.unit == LimitUnit::Parallel;
        core.with(key, now, |key, counter| {
            let reserved = counter.reserve(limit, amount, now, core.tick(now), view);
            let remaining = counter.remaining(now);
            let Err(short) = reserved else {
                if view.away_since.is_none() && counter.runs_low() {
                    core.enqueue(key, counter);
                }
                // Others may have been here with a later time: that is when it was counted.
                let tick = counter.last_tick().filter(|tick| *tick > core.tick(now));
                let at = tick.map_or(now, |tick| core.origin + TICK * tick);
                let reset = if is_places { Duration::ZERO } else { WINDOW + TICK };
                let ticket = Ticket { key: key.clone(), at, amount };
                return Ok((ticket, Remaining { limit, remaining, reset }));
            };
            let retry_after = match short {
                Short::Ask if is_places => Duration::ZERO,
                Short::Ask => Duration::from_secs(1),
                Short::Wait(wait) => wait,
            };
            let remaining = remaining.min(amount.saturating_sub(1));
            Err(Exceeded { limit, remaining, retry_after })
        })
    }

    fn settle(&self, ticket: &Ticket, used: u64) {
        let (core, now) = (&*self.core, self.core.clock.now());
        core.with_known(&ticket.key, |counter| {
            let tick = core.tick(ticket.at);
            if counter.settle(tick, ticket.amount, used.min(LIMIT_MAX), now) {
                core.enqueue(&ticket.key, counter);
            }
        });
    }

    fn refill(
        &self,
        key: &LimitKey,
        limit: u64,
        amount: u64,
        now: Instant,
        within: Duration,
    ) -> Option<Refill> {
        let core = &*self.core;
        if amount > limit || within.is_zero() || core.view.lock().away_since.is_some() {
            return None;
        }
        let (key, amount) = core.with(key.clone(), now, |key, counter| {
            Some((key.clone(), counter.is_asked_for(amount, now)?))
        })?;
        let (done, waiting) = oneshot::channel();
        core.queue.lock().push(Ask { key, want: Some((amount, done)) });
        core.wake.notify_one();
        // From now on, not from when it is first polled: several may be waited for in turn.
        let waiting = timeout(within, waiting);
        Some(Box::pin(async {
            // Whether it was served, or Redis is away, or this takes too long: trying again tells.
            let _ = waiting.await;
        }))
    }
}
