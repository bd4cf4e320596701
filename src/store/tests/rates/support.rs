//! Nodes that share a Redis, and the exact check of a sliding window.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use secrecy::SecretString;
use tokio::runtime::Handle;
use tollway_filter_api::Clock;
use tollway_filter_api::limits::{Exceeded, LimitKey, LimitStore, LimitUnit, Ticket};
use tollway_store::limits_redis::{RedisLimits, RedisLimitsSettings};
use tollway_store::redis_link::{RedisLink, RedisServer};
use tollway_tests::servers::Redis;
use tollway_tests::setup::eventually;

/// Nodes in simulated time do not mind waiting.
const WAIT: Duration = Duration::from_secs(10);

pub(crate) const MINUTE: Duration = Duration::from_secs(60);

pub(crate) fn link(redis: &Redis) -> RedisLink {
    let server = RedisServer::Url(SecretString::from(redis.url()));
    RedisLink::connect(&server, "limits are shared", &Handle::current()).expect("a good URL")
}

pub(crate) fn key(subject: &str, unit: LimitUnit) -> LimitKey {
    LimitKey { scope: "api_key", subject: Some(subject.into()), part: None, unit }
}

/// Some nodes in simulated time, and how often they were asked.
pub(crate) struct Nodes {
    pub(crate) clock: Clock,
    /// The time of Redis in ms.
    redis_clock: Arc<AtomicU64>,
    pub(crate) nodes: Vec<RedisLimits>,
    pub(crate) requests: u64,
}

impl Nodes {
    /// Nodes whose clocks began at different times.
    pub(crate) async fn start(redis: &Redis, count: usize) -> Nodes {
        let clock = Clock::manual();
        let redis_clock = Arc::new(AtomicU64::new(1_767_225_600_000));
        let mut nodes = Nodes { clock, redis_clock, nodes: Vec::new(), requests: 0 };
        for _ in 0..count {
            nodes.add(redis).await;
        }
        // All have heard of all.
        for node in &nodes.nodes {
            nodes.pass(Duration::from_secs(1));
            node.round().await;
        }
        nodes
    }

    pub(crate) async fn add(&mut self, redis: &Redis) {
        self.pass(Duration::from_millis(1234));
        let settings = RedisLimitsSettings {
            simulated: Some(Arc::clone(&self.redis_clock)),
            ..RedisLimitsSettings::new(self.clock.clone())
        };
        let link = link(redis);
        link.up().await;
        let node = RedisLimits::without_task(link, settings);
        eventually("the node is up", async || {
            node.round().await;
            node.is_up()
        })
        .await;
        self.nodes.push(node);
    }

    /// A request under one limit.
    pub(crate) async fn admit(
        &mut self,
        node: usize,
        key: &LimitKey,
        limit: u64,
        amount: u64,
    ) -> Result<Ticket, Exceeded> {
        let tickets = self.admit_all(node, &[(key.clone(), limit, amount)]).await?;
        Ok(tickets.into_iter().next().expect("as many as limits"))
    }

    /// A request as a filter makes it: what is missing is asked for together, twice at most.
    pub(crate) async fn admit_all(
        &mut self,
        node: usize,
        limits: &[(LimitKey, u64, u64)],
    ) -> Result<Vec<Ticket>, Exceeded> {
        self.requests += 1;
        let (now, node) = (self.clock.now(), &self.nodes[node]);
        let mut asked = 0;
        loop {
            let (mut tickets, mut refills) = (Vec::new(), Vec::new());
            let mut refused = None;
            for (key, limit, amount) in limits {
                match node.reserve(key.clone(), *limit, *amount, now) {
                    Ok((ticket, _)) => tickets.push(ticket),
                    Err(exceeded) => {
                        refused = Some(exceeded);
                        let refill = node.refill(key, *limit, *amount, now, WAIT);
                        match refill.filter(|_| asked < 2) {
                            Some(refill) => refills.push(refill),
                            None => {
                                refills.clear();
                                break;
                            }
                        }
                    }
                }
            }
            let Some(refused) = refused else { return Ok(tickets) };
            tickets.iter().for_each(|ticket| node.settle(ticket, 0));
            if refills.is_empty() {
                return Err(refused);
            }
            node.round().await;
            for refill in refills {
                refill.await;
            }
            asked += 1;
        }
    }

    /// Lets time go by.
    pub(crate) fn pass(&self, by: Duration) {
        self.clock.advance(by);
        self.redis_clock.fetch_add(by.as_millis() as u64, Ordering::Relaxed);
    }

    /// As if somebody set the clock of Redis, so many seconds forward.
    pub(crate) fn set_redis_clock(&self, seconds: i64) {
        let time = self.redis_clock.load(Ordering::Relaxed);
        self.redis_clock.store(time.saturating_add_signed(1_000 * seconds), Ordering::Relaxed);
    }

    /// Lets time go by, and the nodes do what they have to do.
    pub(crate) async fn advance(&self, by: Duration) {
        self.pass(by);
        for node in &self.nodes {
            node.round().await;
        }
    }
}

/// What was granted, exactly.
#[derive(Default)]
pub(crate) struct Grants(pub(crate) Vec<(Instant, u64)>);

impl Grants {
    /// The most that any 60 seconds hold, both ends included.
    pub(crate) fn busiest(&self) -> u64 {
        let mut grants = self.0.clone();
        grants.sort_unstable();
        let (mut first, mut sum, mut most) = (0, 0, 0);
        for &(at, amount) in &grants {
            sum += amount;
            while at - grants[first].0 > MINUTE {
                sum -= grants[first].1;
                first += 1;
            }
            most = most.max(sum);
        }
        most
    }

    pub(crate) fn total(&self) -> u64 {
        self.0.iter().map(|(_, amount)| amount).sum()
    }
}

/// Numbers that look like chance and are the same each time.
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Dice {
        Dice(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}
