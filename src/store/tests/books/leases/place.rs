//! What these tests share: nodes that use a Redis, and what it knows of them.

use std::collections::HashMap;
use std::mem::ManuallyDrop;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use secrecy::SecretString;
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tollway_filter_api::Clock;
use tollway_filter_api::ledger::Ledger;
use tollway_store::redis_link::{RedisLink, RedisServer};
use tollway_store::treasury::{Books, BooksConfig, LeaseSettings, RecoveryReport, Timings};
use tollway_tests::gateway::PATIENCE;
use tollway_tests::servers::Redis;

use crate::support::MemoryLedger;

/// Shorter than in life, in the same proportions.
pub(crate) const TIMINGS: Timings = Timings {
    ttl: Duration::from_secs(3),
    renew: Duration::from_secs(1),
    beat: Duration::from_millis(100),
    freeze: Duration::from_millis(400),
    grace: Duration::from_secs(4),
    proof: Duration::from_secs(600),
};

pub(crate) fn link(redis: &Redis) -> RedisLink {
    let server = RedisServer::Url(SecretString::from(redis.url()));
    RedisLink::connect(&server, "budgets are shared", &Handle::current()).expect("a good URL")
}

/// A connection beside the nodes'.
pub(crate) async fn connection(redis: &Redis) -> redis::aio::MultiplexedConnection {
    let client = redis::Client::open(redis.url()).expect("the URL is right");
    client.get_multiplexed_async_connection().await.expect("it runs")
}

/// How many commands it was given, but for those about itself.
pub(crate) async fn calls(redis: &Redis) -> u64 {
    redis.calls(&["evalsha", "script|load", "ping"]).await
}

/// What Redis knows of every budget.
pub(crate) async fn budgets_in(redis: &Redis) -> Vec<Shared> {
    let mut connection = connection(redis).await;
    let keys: Vec<String> = redis::cmd("KEYS")
        .arg("tollway:budget:*")
        .query_async(&mut connection)
        .await
        .expect("Redis answers");
    let mut budgets = Vec::new();
    for key in keys {
        let fields: HashMap<String, String> = redis::cmd("HGETALL")
            .arg(&key)
            .query_async(&mut connection)
            .await
            .expect("Redis answers");
        let base = fields["b"].parse::<u128>().expect("a number") * UNIT;
        let holders = fields.iter().filter(|(field, _)| field.starts_with("h:"));
        let claim = |value: &String| {
            let claim = value.split(' ').next().and_then(|claim| claim.parse::<u128>().ok());
            claim.expect("a claim") * UNIT
        };
        let claims = holders.map(|(field, value)| (field[2..].to_owned(), claim(value)));
        budgets.push(Shared { base, claims: claims.collect() });
    }
    budgets
}

/// When Redis last heard from a node.
pub(crate) async fn heard_from(redis: &Redis, node: &Node) -> Option<String> {
    let mut command = redis::cmd("HGET");
    command.arg("tollway:{cluster}").arg(format!("m:{}", node.books.status().node));
    command.query_async(&mut connection(redis).await).await.expect("Redis answers")
}

/// The unit of amounts in Redis, in pico-dollars.
pub(crate) const UNIT: u128 = 10_000;

/// What Redis knows of a budget.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) base: u128,
    pub(crate) claims: Vec<(String, u128)>,
}

impl Shared {
    /// What is not there for anybody.
    pub(crate) fn used(&self) -> u128 {
        self.base + self.claims.iter().map(|(_, claim)| claim).sum::<u128>()
    }
}

/// One node.
pub(crate) struct Node {
    pub(crate) books: Books,
    stop: Arc<Notify>,
    tasks: Vec<JoinHandle<()>>,
    journal: PathBuf,
}

impl Node {
    pub(crate) async fn start(redis: &Redis, ledger: &Arc<MemoryLedger>, journal: &Path) -> Node {
        Node::start_at(redis, ledger, journal, Clock::manual()).await.0
    }

    pub(crate) async fn start_at(
        redis: &Redis,
        ledger: &Arc<MemoryLedger>,
        journal: &Path,
        clock: Clock,
    ) -> (Node, RecoveryReport) {
        let leases = LeaseSettings { timings: TIMINGS, ..LeaseSettings::new(link(redis)) };
        let config = BooksConfig {
            reserve_bytes: 64 * 1024,
            leases: Some(leases),
            ..BooksConfig::new(journal)
        };
        let ledger = Arc::clone(ledger) as Arc<dyn Ledger>;
        let (books, report) = Books::open(config, ledger, clock).await.expect("the books open");
        let stop = Arc::new(Notify::new());
        let feeding = (books.clone(), Arc::clone(&stop).notified_owned());
        let leasing = (books.clone(), Arc::clone(&stop).notified_owned());
        let tasks = vec![
            tokio::spawn(async move { feeding.0.run_feeder(feeding.1).await }),
            tokio::spawn(async move { leasing.0.run_leases(leasing.1).await }),
        ];
        assert!(books.leases_ready(PATIENCE).await, "Redis is not ready");
        (Node { books, stop, tasks, journal: journal.to_owned() }, report)
    }

    /// Stops in order.
    pub(crate) async fn stop(self) {
        self.stop.notify_waiters();
        for task in self.tasks {
            task.await.expect("it ends");
        }
    }

    /// Dies. What was in its journal is in the folder that is told.
    pub(crate) async fn kill(self, to: &Path) {
        for task in &self.tasks {
            task.abort();
        }
        for task in self.tasks {
            let _ = task.await;
        }
        // A process that is killed has had the kernel's word for what it acknowledged.
        self.books.flush().await.expect("the disk is well");
        std::fs::create_dir_all(to).expect("a folder");
        for file in std::fs::read_dir(&self.journal).expect("the journal is there") {
            let file = file.expect("the journal can be read");
            if file.file_name() != "lock" {
                std::fs::copy(file.path(), to.join(file.file_name())).expect("it can be copied");
            }
        }
        // Nobody gives anything back.
        let _ = ManuallyDrop::new(self.books);
    }
}
