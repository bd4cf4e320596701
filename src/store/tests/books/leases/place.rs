//! What these tests share: a Redis, and nodes that use it.

use std::collections::HashMap;
use std::mem::ManuallyDrop;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use secrecy::SecretString;
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tollway_filter_api::Clock;
use tollway_filter_api::ledger::Ledger;
use tollway_store::redis_link::{RedisLink, RedisServer};
use tollway_store::treasury::{Books, BooksConfig, LeaseSettings, RecoveryReport, Timings};

use crate::support::{Folder, MemoryLedger};

/// How long anything that has to happen some time may take on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Shorter than in life, in the same proportions.
pub(crate) const TIMINGS: Timings = Timings {
    ttl: Duration::from_secs(3),
    renew: Duration::from_secs(1),
    beat: Duration::from_millis(100),
    freeze: Duration::from_millis(400),
    grace: Duration::from_secs(4),
    proof: Duration::from_secs(600),
};

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

/// A Redis of one test, on a Unix socket.
pub(crate) struct Redis {
    folder: Folder,
    process: Option<Child>,
}

impl Redis {
    pub(crate) async fn start() -> Redis {
        let folder = Folder::fresh("lease");
        std::fs::create_dir_all(&folder.0).expect("a folder");
        let mut redis = Redis { folder, process: None };
        redis.run().await;
        redis
    }

    pub(crate) async fn run(&mut self) {
        let spawned = Command::new("redis-server")
            .args(["--port", "0", "--save", "", "--appendonly", "no", "--unixsocket", "redis.sock"])
            .current_dir(&self.folder.0)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        self.process = Some(spawned.expect("the Debian package `redis-server` is installed"));
        self.connection().await;
    }

    fn url(&self) -> String {
        format!("redis+unix://{}", self.folder.0.join("redis.sock").display())
    }

    pub(crate) fn link(&self) -> RedisLink {
        let server = RedisServer::Url(SecretString::from(self.url()));
        RedisLink::connect(&server, "budgets are shared", &Handle::current()).expect("a good URL")
    }

    /// A connection beside the nodes'.
    pub(crate) async fn connection(&self) -> redis::aio::MultiplexedConnection {
        let client = redis::Client::open(self.url()).expect("the URL is right");
        let mut found = None;
        eventually("Redis answers", async || {
            let Ok(mut connection) = client.get_multiplexed_async_connection().await else {
                return false;
            };
            let is_up = redis::cmd("PING").exec_async(&mut connection).await.is_ok();
            found = Some(connection);
            is_up
        })
        .await;
        found.expect("it answers by now")
    }

    pub(crate) async fn command(&self, name: &str) {
        let mut connection = self.connection().await;
        redis::cmd(name).exec_async(&mut connection).await.expect("Redis does it");
    }

    /// How many commands it was given, but for those about itself.
    pub(crate) async fn calls(&self) -> u64 {
        let mut connection = self.connection().await;
        let stats: String = redis::cmd("INFO")
            .arg("commandstats")
            .query_async(&mut connection)
            .await
            .expect("Redis answers");
        let of = |name: &str| {
            let line = stats.lines().find_map(|line| line.strip_prefix(name));
            let calls = line.and_then(|line| line.split(',').next()?.parse::<u64>().ok());
            calls.unwrap_or_default()
        };
        of("cmdstat_evalsha:calls=") + of("cmdstat_script|load:calls=") + of("cmdstat_ping:calls=")
    }

    /// What Redis knows of every budget.
    pub(crate) async fn budgets(&self) -> Vec<Shared> {
        let mut connection = self.connection().await;
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

    /// When a node was last heard from.
    pub(crate) async fn heard_from(&self, node: &Node) -> Option<String> {
        let mut command = redis::cmd("HGET");
        command.arg("tollway:{cluster}").arg(format!("m:{}", node.books.status().node));
        command.query_async(&mut self.connection().await).await.expect("Redis answers")
    }

    pub(crate) fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }

    /// Stops the process without ending it: its sockets stay open and nobody answers.
    pub(crate) fn signal(&self, signal: &str) {
        let process = self.process.as_ref().expect("the server runs");
        let status = Command::new("kill").args([signal, &process.id().to_string()]).status();
        assert!(status.expect("kill is there").success());
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.kill();
    }
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
        let leases = LeaseSettings { timings: TIMINGS, ..LeaseSettings::new(redis.link()) };
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
