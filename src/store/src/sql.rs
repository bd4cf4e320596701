//! Accounts, the ledger, documents and responses in a database: SQLite in a file of the data folder, or Postgres, which
//! several nodes can share.
//!
//! Both have the same tables, named `tollway_…`, and understand the same statements but for a few
//! words. The tables are made, and brought up to date, when the store is opened.
//!
//! Bounds: an id, alias, user or team of an object has at most [`TEXT_MAX`] bytes and no zero byte,
//! and its body at most [`BODY_MAX`] bytes of JSON; what has more is refused. So it is with
//! documents and the entries of logs, whose bodies may have [`ENTRY_MAX`] bytes, and those of one
//! batch together [`BATCH_MAX`]. Spend is never refused: texts of a record are cut by [`fit()`], and
//! of its tags the first [`TAGS_MAX`] are kept.

mod accounts;
mod bills;
mod database;
mod documents;
mod fit;
mod ledger;
pub mod litellm;
mod migrations;
mod responses;
mod sums;
mod watch;

use std::fmt;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use sqlx::error::DatabaseError;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};
use sqlx::{ConnectOptions, Executor};
use tokio::task::AbortHandle;
use tollway_filter_api::ledger::StoreError;

pub use accounts::BODY_MAX;
pub use documents::{BATCH_MAX, ENTRY_MAX};
pub use fit::{TEXT_MAX, fit};
pub use ledger::{TAGS_MAX, TOKENS_MAX};

use database::{CONNECT_MAX, Database, Failure, STATEMENT_MAX, WRITER_MAX};

/// How many connections read a file of SQLite.
const READERS: u32 = 4;

/// How long a server may take to be there when we start, before we start without it.
const FIRST_MAX: Duration = Duration::from_secs(2);

/// How many connections to Postgres there are at most, with the one that hears of changes.
pub const CONNECTIONS_MAX: u32 = 10;

/// Keeps objects and spend in a database. Cloning shares it.
///
/// It is opened on a Tokio runtime that lives as long as the process; it may be used from others.
#[derive(Clone)]
pub struct SqlStore {
    inner: Arc<Inner>,
}

struct Inner {
    database: Database,
    changes: tokio::sync::watch::Sender<u64>,
    follower: AbortHandle,
    writer: documents::Writer,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.follower.abort();
    }
}

impl fmt::Debug for SqlStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self.inner.database {
            Database::Sqlite { .. } => "SQLite",
            Database::Postgres { .. } => "Postgres",
        };
        f.debug_tuple("SqlStore").field(&name).finish()
    }
}

impl SqlStore {
    /// Opens a file of SQLite, which is made if it is not there. Nobody but its owner may read it.
    ///
    /// # Errors
    /// When it cannot be made, read or written, is no database, or was written by a newer version.
    pub async fn sqlite(path: impl AsRef<Path>) -> Result<SqlStore, StoreError> {
        let path = path.as_ref();
        let unusable =
            |why: &dyn fmt::Display| StoreError::Unavailable(format!("{}: {why}", path.display()));
        private(path).map_err(|error| unusable(&error))?;
        let options = sqlite_options(path);
        let writer = open_writer(options.clone()).await.map_err(|error| unusable(&error))?;
        migrations::sqlite(&writer).await.map_err(|error| unusable(&error))?;
        let readers = SqlitePoolOptions::new()
            .max_connections(READERS)
            .acquire_timeout(CONNECT_MAX)
            .connect_lazy_with(options.read_only(true));
        SqlStore::open(Database::Sqlite { writer, readers }).await
    }

    /// Opens a file of SQLite to read it, beside a gateway that may be writing to it. Nothing is
    /// made or changed.
    ///
    /// # Errors
    /// When it is not there, cannot be read, is no database, or is of another version.
    pub async fn sqlite_to_read(path: impl AsRef<Path>) -> Result<SqlStore, StoreError> {
        let path = path.as_ref();
        let unusable =
            |why: &dyn fmt::Display| StoreError::Unavailable(format!("{}: {why}", path.display()));
        let readers = SqlitePoolOptions::new()
            .max_connections(READERS)
            .acquire_timeout(WRITER_MAX)
            .connect_with(sqlite_options(path).read_only(true))
            .await
            .map_err(|error| unusable(&error))?;
        migrations::check_sqlite(&readers).await.map_err(|error| unusable(&error))?;
        SqlStore::open(Database::Sqlite { writer: readers.clone(), readers }).await
    }

    /// Opens a database of Postgres. Several nodes may do so at once.
    ///
    /// # Errors
    /// When the server cannot be reached within seconds, refuses us, or the database was written by
    /// a newer version. Trying again later is right but for mistakes in the URL. No error has the
    /// URL in it.
    pub async fn postgres(url: SecretString) -> Result<SqlStore, StoreError> {
        let database = postgres_database(&url)?;
        if let Database::Postgres { pool, .. } = &database {
            migrations::postgres(pool).await?;
        }
        SqlStore::open(database).await
    }

    /// As [`SqlStore::postgres`], and where the server is away for now, a store that is refused
    /// everything until it is back, and why. It is looked for a few times a second.
    ///
    /// # Errors
    /// When waiting is in vain: the URL is malformed, the server refuses us, or the database was
    /// written by a newer version.
    pub async fn postgres_once_there(
        url: SecretString,
    ) -> Result<(SqlStore, Option<StoreError>), StoreError> {
        let database = postgres_database(&url)?;
        let Database::Postgres { pool, is_there, .. } = &database else {
            return SqlStore::open(database).await.map(|store| (store, None));
        };
        let reached = match tokio::time::timeout(FIRST_MAX, migrations::postgres(pool)).await {
            Ok(reached) => reached,
            Err(_) => Err(Failure::NotThere),
        };
        match reached {
            Ok(()) => SqlStore::open(database).await.map(|store| (store, None)),
            Err(failure) if failure.may_pass() => {
                is_there.store(false, Ordering::Relaxed);
                let changes = tokio::sync::watch::Sender::new(0);
                let follower = watch::follow_once_there(database.clone(), changes.clone());
                let store = SqlStore::of(database, changes, tokio::spawn(follower).abort_handle());
                Ok((store, Some(failure.into())))
            }
            Err(failure) => Err(failure.into()),
        }
    }

    /// Opens a database of Postgres to read it. Nothing is made or changed.
    ///
    /// # Errors
    /// As with [`SqlStore::postgres`], and when it is of another version; [`StoreError::Invalid`]
    /// when no gateway has used it yet.
    pub async fn postgres_to_read(url: SecretString) -> Result<SqlStore, StoreError> {
        let database = postgres_database(&url)?;
        if let Database::Postgres { pool, .. } = &database {
            migrations::check_postgres(pool).await?;
        }
        SqlStore::open(database).await
    }

    async fn open(database: Database) -> Result<SqlStore, StoreError> {
        let changes = tokio::sync::watch::Sender::new(accounts::version(&database).await?);
        let follower = tokio::spawn(watch::follow(database.clone(), changes.clone()));
        Ok(SqlStore::of(database, changes, follower.abort_handle()))
    }

    fn of(
        database: Database,
        changes: tokio::sync::watch::Sender<u64>,
        follower: AbortHandle,
    ) -> SqlStore {
        let writer = documents::writer(database.clone());
        SqlStore { inner: Arc::new(Inner { database, changes, follower, writer }) }
    }

    /// The version of the latest change to objects that is known here. It wakes whoever waits for
    /// it as soon as something has changed: at once for changes made through this store or through
    /// Postgres, and within [`tollway_filter_api::accounts::SEEN_WITHIN`] in any case while the
    /// database can be reached. Ask [`tollway_filter_api::accounts::Accounts::changed_since`] then.
    pub fn changes(&self) -> tokio::sync::watch::Receiver<u64> {
        self.inner.changes.subscribe()
    }

    /// Closes the connections: what is asked from now on fails. A file of SQLite is left without
    /// its `-wal`.
    pub async fn close(&self) {
        self.inner.follower.abort();
        self.inner.database.close().await;
    }

    fn database(&self) -> &Database {
        &self.inner.database
    }
}

fn sqlite_options(path: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(path)
        .synchronous(SqliteSynchronous::Normal)
        .busy_timeout(WRITER_MAX)
        // Rows come from a thread of SQLite's own: fewer changes between it and us.
        .row_buffer_size(1_000)
        .disable_statement_logging()
}

/// What a URL says. No error has the URL in it.
fn postgres_options(url: &SecretString) -> Result<PgConnectOptions, StoreError> {
    // What is wrong with a URL could quote the password.
    let malformed = || {
        StoreError::Unavailable(
            "database_url: not a URL of Postgres; write \
             postgres://user:password@host:5432/database"
                .to_owned(),
        )
    };
    let url = url.expose_secret();
    if !url.starts_with("postgres://") && !url.starts_with("postgresql://") {
        return Err(malformed());
    }
    let options = PgConnectOptions::from_str(url).map_err(|_| malformed())?;
    Ok(options.application_name("tollway").disable_statement_logging())
}

fn postgres_database(url: &SecretString) -> Result<Database, StoreError> {
    let options = postgres_options(url)?;
    let pool = |connections| {
        PgPoolOptions::new()
            .max_connections(connections)
            .acquire_timeout(CONNECT_MAX)
            .after_connect(|link, _| {
                Box::pin(async move {
                    // Not as options of the connection: poolers refuse those.
                    link.execute(SETTINGS).await.map(drop)
                })
            })
            .connect_lazy_with(options.clone())
    };
    Ok(Database::Postgres {
        pool: pool(CONNECTIONS_MAX - 1),
        listener: pool(1),
        is_there: Arc::new(AtomicBool::new(true)),
    })
}

/// What every connection to Postgres begins with.
const SETTINGS: &str = "SET statement_timeout = '20s'; SET lock_timeout = '10s'; \
    SET idle_in_transaction_session_timeout = '60s'";

/// Makes the file if it is not there, and takes others' permissions from it. SQLite gives the files
/// beside it the same ones.
///
/// A file that is there is not opened: closing it would end the locks that SQLite has on it for
/// another store of this process.
fn private(path: &Path) -> std::io::Result<()> {
    static ONE_AT_A_TIME: parking_lot::Mutex<()> = parking_lot::Mutex::new(());
    let _one = ONE_AT_A_TIME.lock();
    let mut options = std::fs::OpenOptions::new();
    match options.write(true).create_new(true).mode(0o600).open(path) {
        Ok(_) => return Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(error),
    }
    let found = std::fs::metadata(path)?;
    if found.is_file()
        && found.permissions().mode() & 0o077 != 0
        && let Err(error) = std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))
    {
        // Not ours, or a file system without permissions: no reason to be of no use.
        tracing::warn!(path = %path.display(), %error, "others may be able to read the database");
    }
    Ok(())
}

/// Opens the connection that writes. SQLite does not wait when two processes make a new file one
/// with a log beside it (WAL), so we do.
async fn open_writer(options: SqliteConnectOptions) -> Result<SqlitePool, sqlx::Error> {
    let started = tokio::time::Instant::now();
    let options = options.journal_mode(SqliteJournalMode::Wal);
    loop {
        let writer = SqlitePoolOptions::new()
            .max_connections(1)
            .acquire_timeout(WRITER_MAX)
            .idle_timeout(None)
            .max_lifetime(None)
            .connect_with(options.clone())
            .await;
        match writer {
            Err(sqlx::Error::Database(error))
                if is_busy(&*error) && started.elapsed() < WRITER_MAX => {}
            done => return done,
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Somebody else has locked the file; extended codes have more above.
fn is_busy(error: &dyn DatabaseError) -> bool {
    error.code().is_some_and(|code| code.parse().is_ok_and(|code: u32| code & 0xff == 5))
}

const _: () = assert!(STATEMENT_MAX.as_secs() == 20, "as SETTINGS has it");
