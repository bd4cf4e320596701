//! Learns of changes that others have made.
//!
//! Postgres says so at once. Both databases are asked every now and then as well, because a
//! notification can be lost (a connection that has died unnoticed, a pooler that does not pass them
//! on), and another process can write to the same file of SQLite.

use std::sync::atomic::Ordering;
use std::time::Duration;

use sqlx::postgres::{PgListener, PgPool};
use tokio::sync::watch;

use super::database::{CONNECT_MAX, Database, Failure, Sql};
use super::{accounts, migrations};

/// How often the database is asked. Less than [`tollway_filter_api::accounts::SEEN_WITHIN`].
const ASK: Duration = Duration::from_millis(700);

/// What Postgres is told when objects have changed. SQLite is told nothing.
pub(super) const NOTIFY: Sql = Sql { sqlite: "SELECT 1", postgres: "NOTIFY tollway_changes" };

/// Follows changes until it is aborted.
pub(super) async fn follow(database: Database, changes: watch::Sender<u64>) {
    loop {
        let failure = match &database {
            Database::Sqlite { .. } => ask(&database, &changes).await.err(),
            Database::Postgres { listener, .. } => {
                listen(listener, &database, &changes).await.err()
            }
        };
        if let Some(failure) = failure {
            tracing::debug!(%failure, "changes to keys and teams cannot be followed for now");
        }
        tokio::time::sleep(ASK).await;
    }
}

/// Looks for a Postgres that was away at the start, brings it up to date, and follows changes.
pub(super) async fn follow_once_there(database: Database, changes: watch::Sender<u64>) {
    if let Database::Postgres { pool, is_there, .. } = &database {
        while let Err(failure) = migrations::postgres(pool).await {
            match failure.may_pass() {
                true => tracing::debug!(%failure, "the database is still away"),
                false => tracing::error!(%failure, "the database is there and cannot be used"),
            }
            tokio::time::sleep(ASK).await;
        }
        is_there.store(true, Ordering::Relaxed);
        tracing::info!("the database is there now");
    }
    follow(database, changes).await;
}

/// Makes a version known.
pub(super) fn publish(changes: &watch::Sender<u64>, version: u64) {
    changes.send_if_modified(|known| {
        let newer = version > *known;
        *known = version.max(*known);
        newer
    });
}

async fn ask(database: &Database, changes: &watch::Sender<u64>) -> Result<(), Failure> {
    let version = accounts::version(database).await?;
    publish(changes, version);
    Ok(())
}

/// Returns when the connection fails.
async fn listen(
    pool: &PgPool,
    database: &Database,
    changes: &watch::Sender<u64>,
) -> Result<(), Failure> {
    let connected = async {
        let mut listener = PgListener::connect_with(pool).await?;
        listener.listen("tollway_changes").await?;
        Ok::<_, sqlx::Error>(listener)
    };
    let mut listener =
        tokio::time::timeout(2 * CONNECT_MAX, connected).await.map_err(|_| Failure::Slow)??;
    loop {
        ask(database, changes).await?;
        // Whether it is a notification, a connection that was lost and made anew, or the time.
        if let Ok(heard) = tokio::time::timeout(ASK, listener.try_recv()).await {
            heard?;
        }
    }
}
