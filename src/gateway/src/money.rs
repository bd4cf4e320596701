//! What keeps money: the books in memory with their journal, the database behind them, and the thread
//! that brings the one to the other.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use secrecy::SecretString;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tollway_filter_api::Clock;
use tollway_filter_api::clock::millis;
use tollway_filter_api::ledger::Ledger;
use tollway_filter_api::treasury::BudgetId;
use tollway_store::redis_link::{RedisLink, RedisServer};
use tollway_store::sql::SqlStore;
use tollway_store::treasury::{Books, BooksConfig, LeaseSettings};

use crate::config::{FileJournal, FileLedger};

/// The journal's folder and the database's file within the data folder.
const JOURNAL: &str = "journal";
pub(crate) const DATABASE: &str = "tollway.db";
/// How long the last records may take to the database when the process ends. They are in the journal
/// in any case, and come with the next start.
pub(crate) const LAST_WORDS: Duration = Duration::from_secs(10);
/// How long the start waits until the other gateways can be asked for a part of a budget or a limit.
/// Without them, calls with budgets are refused.
pub(crate) const OTHERS_WAIT: Duration = Duration::from_secs(3);
/// How often old calls are deleted unless the config says so.
const FORGET_EVERY: Duration = Duration::from_secs(86_400);

/// When a ledger that is away is asked again.
const LEDGER_AGAIN: Duration = Duration::from_secs(5);

/// Everything that money needs. Lives as long as the process.
pub(crate) struct Money {
    /// Budgets, and the journal of all calls.
    pub(crate) books: Books,
    /// Keys, people, and what was spent.
    store: SqlStore,
    feeder: Mutex<Option<Feeder>>,
    /// The task that shares budgets with other gateways.
    sharing: Mutex<Option<(oneshot::Sender<()>, JoinHandle<()>)>>,
}

/// The thread that brings the journal to the database: a thread of its own, so that no request
/// waits for it, whatever a batch takes.
struct Feeder {
    /// Brings what is left, and ends.
    stop: oneshot::Sender<()>,
    /// Ends at once, when dropped.
    give_up: oneshot::Sender<()>,
    ended: oneshot::Receiver<()>,
}

impl Feeder {
    fn start(
        books: Books,
        forgetting: impl Future<Output = ()> + Send + 'static,
    ) -> io::Result<Feeder> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .thread_name("ledger")
            .max_blocking_threads(1)
            .build()?;
        let (stop, stopped) = oneshot::channel::<()>();
        let (give_up, given_up) = oneshot::channel::<()>();
        let (ends, ended) = oneshot::channel();
        let feed = async move {
            tokio::select! {
                () = books.run_feeder(async { drop(stopped.await) }) => {}
                _ = given_up => {}
                () = forgetting => {}
            }
        };
        std::thread::Builder::new().name("ledger".to_owned()).spawn(move || {
            runtime.block_on(feed);
            let _ = ends.send(());
        })?;
        Ok(Feeder { stop, give_up, ended })
    }
}

/// Deletes calls from the ledger that are older than the config has them. Never ends.
async fn forgetting(store: SqlStore, ledger: FileLedger, clock: Clock) {
    let Some(keep_for) = ledger.keep_for else { return std::future::pending().await };
    loop {
        let before = clock.unix().saturating_sub(keep_for);
        let before_ms = millis(before);
        match store.forget(before_ms).await {
            Ok(0) => {}
            Ok(calls) => tracing::info!(calls, "calls of long ago are deleted from the ledger"),
            Err(error) => tracing::warn!(%error, "old calls cannot be deleted from the ledger"),
        }
        tokio::time::sleep(ledger.forget_every.unwrap_or(FORGET_EVERY)).await;
    }
}

impl Money {
    /// Opens what is in the data folder, or the database of this URL, and begins to feed it. Budgets
    /// are shared with the gateways that use the same Redis.
    ///
    /// # Errors
    /// When one of them cannot be used, as a sentence.
    pub(crate) async fn open(
        data: &Path,
        url: Option<SecretString>,
        redis: Option<&RedisServer>,
        journal: FileJournal,
        ledger: FileLedger,
        clock: Clock,
    ) -> Result<Money, String> {
        let store = match url {
            Some(url) => SqlStore::postgres_once_there(url).await.map(|(store, away)| {
                if let Some(error) = away {
                    tracing::warn!(%error, "the database is away: what needs it waits until it is there");
                }
                store
            }),
            None => SqlStore::sqlite(data.join(DATABASE)).await,
        };
        let store = store.map_err(|error| format!("the database: {error}"))?;
        let redis = redis
            .map(|server| RedisLink::connect(server, "gateways share budgets", &Handle::current()))
            .transpose()
            .map_err(|error| error.to_string())?;
        let is_shared = redis.is_some();
        let usual = BooksConfig::new(data.join(JOURNAL));
        let config = BooksConfig {
            fsync: journal.fsync.unwrap_or(usual.fsync),
            on_restart: journal.on_restart.unwrap_or(usual.on_restart),
            segment_bytes: journal.segment_bytes.unwrap_or(usual.segment_bytes),
            reserve_bytes: journal.reserve_bytes.unwrap_or(usual.reserve_bytes),
            feed_every: ledger.write_every.unwrap_or(usual.feed_every),
            leases: redis.map(LeaseSettings::new),
            ..usual
        };
        let (books, _) = Books::open(config, Arc::new(store.clone()), clock.clone())
            .await
            .map_err(|error| format!("the journal: {error}"))?;
        let feeder = Feeder::start(books.clone(), forgetting(store.clone(), ledger, clock))
            .map_err(|error| format!("the thread of the ledger: {error}"))?;
        tokio::spawn(count_keys(books.clone()));
        let mut sharing = None;
        if is_shared {
            let (stop, stopped) = oneshot::channel::<()>();
            let leasing = books.clone();
            let task = async move { leasing.run_leases(async { drop(stopped.await) }).await };
            sharing = Some((stop, tokio::spawn(task)));
            if !books.leases_ready(OTHERS_WAIT).await {
                tracing::warn!("Redis is away: calls with budgets are refused until it is there");
            }
        }
        let (feeder, sharing) = (Mutex::new(Some(feeder)), Mutex::new(sharing));
        Ok(Money { books, store, feeder, sharing })
    }

    /// The database.
    pub(crate) fn store(&self) -> &SqlStore {
        &self.store
    }

    /// Whether the database was there when it was last needed.
    pub(crate) fn is_connected(&self) -> bool {
        self.books.status().last_error.is_none()
    }

    /// Brings the last records to the database, and closes it. To be called when no request is
    /// served any more.
    pub(crate) async fn close(&self) {
        if let Err(error) = self.books.flush().await {
            tracing::error!(%error, "the journal cannot be written: the last records are lost");
        }
        let sharing = self.sharing.lock().take();
        if let Some((stop, mut task)) = sharing {
            let _ = stop.send(());
            if tokio::time::timeout(LAST_WORDS, &mut task).await.is_err() {
                task.abort();
            }
        }
        let feeder = self.feeder.lock().take();
        if let Some(Feeder { stop, give_up, ended }) = feeder {
            let _ = stop.send(());
            if tokio::time::timeout(LAST_WORDS, ended).await.is_err() {
                let records = self.books.status().backlog_records;
                tracing::warn!(records, "the database is away: the journal keeps what it lacks");
            }
            drop(give_up);
        }
        self.store.close().await;
    }
}

/// Has the books count what every key spends altogether, which answers tell also where there is no
/// budget. Until the ledger has said what was spent before, they tell what was spent since the start.
async fn count_keys(books: Books) {
    let any = BudgetId::of_key(&Arc::from(""));
    while books.prepare(std::slice::from_ref(&any)).await.is_err() {
        tokio::time::sleep(LEDGER_AGAIN).await;
    }
}
