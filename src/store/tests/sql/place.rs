//! Where a store of a test is.

use std::future::Future;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::atomic::{AtomicU32, Ordering};

use secrecy::SecretString;
use sqlx::{Connection, PgConnection, SqliteConnection};
use tollway_store::sql::SqlStore;
use tollway_tests::gateway::Folder;
use tollway_tests::postgres::Postgres;

/// What every store has to pass.
pub(crate) type Case = fn(Place) -> Pin<Box<dyn Future<Output = ()> + Send>>;

/// An empty database.
pub(crate) enum Place {
    /// A file in a folder.
    Sqlite(Folder),
    /// A URL.
    Postgres(String),
}

impl Place {
    pub(crate) fn sqlite() -> Place {
        Place::Sqlite(Folder::fresh())
    }

    /// A schema of its own in the server's database, which is made faster than a database.
    pub(crate) async fn postgres(server: &Postgres) -> Place {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("test{}", COUNT.fetch_add(1, Ordering::Relaxed));
        let mut link = connection(server).await;
        let create = sqlx::AssertSqlSafe(format!("CREATE SCHEMA {name}"));
        sqlx::raw_sql(create).execute(&mut link).await.expect("a schema is made");
        Place::Postgres(format!("{}?options[search_path]={name}", server.url()))
    }

    /// Opens the database, as every node does.
    pub(crate) async fn open(&self) -> SqlStore {
        let store = match self {
            Place::Sqlite(folder) => SqlStore::sqlite(file(folder)).await,
            Place::Postgres(url) => SqlStore::postgres(SecretString::from(url.clone())).await,
        };
        store.expect("the database can be opened")
    }

    /// Runs a statement past the store.
    pub(crate) async fn execute(&self, sqlite: &'static str, postgres: &'static str) {
        let done = match self {
            Place::Sqlite(folder) => {
                let url = format!("sqlite://{}", file(folder).display());
                let mut link = SqliteConnection::connect(&url).await.expect("it is a database");
                sqlx::raw_sql(sqlite).execute(&mut link).await.map(drop)
            }
            Place::Postgres(url) => {
                let mut link = PgConnection::connect(url).await.expect("it is a database");
                sqlx::raw_sql(postgres).execute(&mut link).await.map(drop)
            }
        };
        done.expect("the statement is right");
    }
}

/// The file of SQLite in a folder.
pub(crate) fn file(folder: &Folder) -> PathBuf {
    folder.0.join("tollway.db")
}

/// A connection beside the store's.
pub(crate) async fn connection(server: &Postgres) -> PgConnection {
    PgConnection::connect(&server.url()).await.expect("the server accepts connections")
}
