//! What keeps money: the books in memory with their journal, the database behind them, and the task
//! that brings the one to the other.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use secrecy::SecretString;
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tollway_filter_api::Clock;
use tollway_store::redis_link::{RedisLink, RedisServer};
use tollway_store::sql::SqlStore;
use tollway_store::treasury::{Books, BooksConfig, LeaseSettings};

/// The journal's folder and the database's file within the data folder.
const JOURNAL: &str = "journal";
pub(crate) const DATABASE: &str = "tollway.db";
/// How long the last records may take to the database when the process ends. They are in the journal
/// in any case, and come with the next start.
const LAST_WORDS: Duration = Duration::from_secs(10);
/// How long the start waits until the other gateways can be asked for a part of a budget. Without
/// them, calls with budgets are refused.
const OTHERS_WAIT: Duration = Duration::from_secs(3);

/// Everything that money needs. Lives as long as the process.
pub(crate) struct Money {
    /// Budgets, and the journal of all calls.
    pub(crate) books: Books,
    /// Keys, people, and what was spent.
    store: SqlStore,
    stop: Arc<Notify>,
    feeder: Mutex<Option<JoinHandle<()>>>,
    leases: Mutex<Option<JoinHandle<()>>>,
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
        clock: Clock,
    ) -> Result<Money, String> {
        let store = match url {
            Some(url) => SqlStore::postgres(url).await,
            None => SqlStore::sqlite(data.join(DATABASE)).await,
        };
        let store = store.map_err(|error| format!("the database: {error}"))?;
        let redis = redis
            .map(|server| RedisLink::connect(server, "gateways share budgets", &Handle::current()))
            .transpose()
            .map_err(|error| error.to_string())?;
        let is_shared = redis.is_some();
        let leases = redis.map(LeaseSettings::new);
        let config = BooksConfig { leases, ..BooksConfig::new(data.join(JOURNAL)) };
        let (books, _) = Books::open(config, Arc::new(store.clone()), clock)
            .await
            .map_err(|error| format!("the journal: {error}"))?;
        let stop = Arc::new(Notify::new());
        let feeder = {
            let (books, stopped) = (books.clone(), Arc::clone(&stop).notified_owned());
            tokio::spawn(async move { books.run_feeder(stopped).await })
        };
        let mut leases = None;
        if is_shared {
            let (sharing, stopped) = (books.clone(), Arc::clone(&stop).notified_owned());
            leases = Some(tokio::spawn(async move { sharing.run_leases(stopped).await }));
            if !books.leases_ready(OTHERS_WAIT).await {
                tracing::warn!("Redis is away: calls with budgets are refused until it is there");
            }
        }
        let (feeder, leases) = (Mutex::new(Some(feeder)), Mutex::new(leases));
        Ok(Money { books, store, stop, feeder, leases })
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
        self.stop.notify_waiters();
        let leases = self.leases.lock().take();
        if let Some(mut leases) = leases
            && tokio::time::timeout(LAST_WORDS, &mut leases).await.is_err()
        {
            leases.abort();
        }
        let feeder = self.feeder.lock().take();
        if let Some(mut feeder) = feeder
            && tokio::time::timeout(LAST_WORDS, &mut feeder).await.is_err()
        {
            feeder.abort();
            let records = self.books.status().backlog_records;
            tracing::warn!(records, "the database is away: the journal keeps what it lacks");
        }
        self.store.close().await;
    }
}
