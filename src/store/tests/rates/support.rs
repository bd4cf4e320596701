//! A Redis of one test, nodes that share it, and the exact check of a sliding window.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use secrecy::SecretString;
use tokio::runtime::Handle;
use tollway_filter_api::Clock;
use tollway_filter_api::limits::{Exceeded, LimitKey, LimitStore, LimitUnit, Ticket};
use tollway_store::limits_redis::{RedisLimits, RedisLimitsSettings};
use tollway_store::redis_link::{RedisLink, RedisServer};

/// How long anything that has to happen some time may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// Nodes in simulated time do not mind waiting.
const WAIT: Duration = Duration::from_secs(10);

pub(crate) const MINUTE: Duration = Duration::from_secs(60);

/// It listens on a Unix socket, so that no port has to be found.
pub(crate) struct Server {
    folder: PathBuf,
    process: Option<Child>,
}

impl Server {
    pub(crate) async fn start() -> Server {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        // The path of a Unix socket may have no more than 107 bytes, so it is kept short.
        let folder =
            std::env::temp_dir().join(format!("tollway-rates-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder in the temporary folder");
        let mut server = Server { folder, process: None };
        server.run().await;
        server
    }

    pub(crate) async fn run(&mut self) {
        let spawned = Command::new("redis-server")
            .args(["--port", "0", "--save", "", "--appendonly", "no"])
            .args(["--unixsocket", "redis.sock"])
            .current_dir(&self.folder)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        self.process = Some(spawned.expect("redis-server is installed (package redis-server)"));
        self.command(&["PING"]).await;
    }

    fn url(&self) -> String {
        format!("redis+unix://{}", self.folder.join("redis.sock").display())
    }

    pub(crate) fn link(&self) -> RedisLink {
        let server = RedisServer::Url(SecretString::from(self.url()));
        RedisLink::connect(&server, "limits are shared", &Handle::current()).expect("a good URL")
    }

    /// Runs a command beside the nodes.
    pub(crate) async fn command(&self, words: &[&str]) -> redis::Value {
        let client = redis::Client::open(self.url()).expect("the URL is right");
        let mut command = redis::cmd(words[0]);
        command.arg(&words[1..]);
        let mut answer = None;
        eventually("Redis answers", async || {
            let Ok(mut connection) = client.get_multiplexed_async_connection().await else {
                return false;
            };
            answer = command.query_async(&mut connection).await.ok();
            answer.is_some()
        })
        .await;
        answer.expect("it is there by now")
    }

    /// How often the nodes have called so far.
    pub(crate) async fn calls(&self) -> u64 {
        let stats: String =
            redis::from_redis_value(self.command(&["INFO", "commandstats"]).await).expect("text");
        let line = stats.lines().find_map(|line| line.strip_prefix("cmdstat_evalsha:calls="));
        line.and_then(|line| line.split(',').next()?.parse().ok()).unwrap_or(0)
    }

    pub(crate) fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }

    /// Stops the process without ending it (`-STOP`), or lets it go on (`-CONT`).
    pub(crate) fn signal(&self, signal: &str) {
        let process = self.process.as_ref().expect("the server runs");
        let status = Command::new("kill").args([signal, &process.id().to_string()]).status();
        assert!(status.expect("kill is there").success());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// Waits until something is so, a little longer each time it is not.
pub(crate) async fn eventually(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let started = Instant::now();
    let mut pause = Duration::from_millis(1);
    while !is_so().await {
        assert!(started.elapsed() < PATIENCE, "in vain: {what}");
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_millis(50));
    }
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
    pub(crate) async fn start(server: &Server, count: usize) -> Nodes {
        let clock = Clock::manual();
        let redis_clock = Arc::new(AtomicU64::new(1_767_225_600_000));
        let mut nodes = Nodes { clock, redis_clock, nodes: Vec::new(), requests: 0 };
        for _ in 0..count {
            nodes.add(server).await;
        }
        // All have heard of all.
        for node in &nodes.nodes {
            nodes.pass(Duration::from_secs(1));
            node.round().await;
        }
        nodes
    }

    pub(crate) async fn add(&mut self, server: &Server) {
        self.pass(Duration::from_millis(1234));
        let settings = RedisLimitsSettings {
            simulated: Some(Arc::clone(&self.redis_clock)),
            ..RedisLimitsSettings::new(self.clock.clone())
        };
        let link = server.link();
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
