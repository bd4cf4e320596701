//! The tables, and how they come to be.

use std::time::Duration;

use sqlx::postgres::PgPool;
use sqlx::sqlite::SqlitePool;
use tollway_filter_api::ledger::StoreError;

use super::database::Failure;

/// What is applied in this order, each once: its number, and its text for SQLite and for Postgres.
/// One that has been released is never changed.
const MIGRATIONS: &[(i64, &str, &str)] = &[
    (1, include_str!("migrations/1.sqlite.sql"), include_str!("migrations/1.postgres.sql")),
    (2, include_str!("migrations/2.sqlite.sql"), include_str!("migrations/2.postgres.sql")),
    (3, include_str!("migrations/3.sqlite.sql"), include_str!("migrations/3.postgres.sql")),
    (4, include_str!("migrations/4.sqlite.sql"), include_str!("migrations/4.postgres.sql")),
];

const APPLIED: &str = "CREATE TABLE IF NOT EXISTS tollway_migrations (
    number BIGINT PRIMARY KEY,
    applied_at TEXT NOT NULL DEFAULT (CAST(CURRENT_TIMESTAMP AS TEXT))
)";
const LATEST: &str = "SELECT COALESCE(MAX(number), 0) FROM tollway_migrations";
const NOTE: &str = "INSERT INTO tollway_migrations (number) VALUES ($1)";

/// Any number, as long as nobody else locks the same one in this database.
const LOCK: &str = "SELECT pg_advisory_xact_lock(8170614920345)";

/// How long another node's migrations may be waited for.
const LOCK_MAX: Duration = Duration::from_secs(15);

/// How long our own may take.
const MIGRATION_MAX: Duration = Duration::from_secs(600);

/// Brings a database of SQLite up to date.
pub(super) async fn sqlite(writer: &SqlitePool) -> Result<(), Failure> {
    let mut work = writer.begin_with("BEGIN IMMEDIATE").await?;
    sqlx::raw_sql(APPLIED).execute(&mut *work).await?;
    let latest: i64 = sqlx::query_scalar(LATEST).fetch_one(&mut *work).await?;
    for (number, text, _) in missing(latest)? {
        sqlx::raw_sql(*text).execute(&mut *work).await?;
        sqlx::query(NOTE).bind(number).execute(&mut *work).await?;
    }
    Ok(work.commit().await?)
}

/// Finds out whether a database of SQLite is up to date.
pub(super) async fn check_sqlite(readers: &SqlitePool) -> Result<(), Failure> {
    check(sqlx::query_scalar(LATEST).fetch_one(readers).await)
}

/// Finds out whether a database of Postgres is up to date.
pub(super) async fn check_postgres(pool: &PgPool) -> Result<(), Failure> {
    check(sqlx::query_scalar(LATEST).fetch_one(pool).await)
}

fn check(latest: Result<i64, sqlx::Error>) -> Result<(), Failure> {
    match latest {
        Ok(latest) => match missing(latest)?.next() {
            None => Ok(()),
            Some(_) => {
                Err(unusable("an older version has written to it: start this one once".to_owned()))
            }
        },
        Err(sqlx::Error::Database(_)) => Err(Failure::Store(StoreError::Invalid(
            "the database has none of the tables: no gateway has used it yet".to_owned(),
        ))),
        Err(error) => Err(error.into()),
    }
}

/// Brings a database of Postgres up to date. Several nodes may do so at once: one does it, the
/// others wait for it.
pub(super) async fn postgres(pool: &PgPool) -> Result<(), Failure> {
    // A server that accepts connections and then says nothing is no reason to wait for ever.
    match tokio::time::timeout(MIGRATION_MAX, migrate(pool)).await {
        Ok(done) => done,
        Err(_) => Err(Failure::Slow),
    }
}

async fn migrate(pool: &PgPool) -> Result<(), Failure> {
    let locked = async {
        let mut work = pool.begin().await?;
        let encoding: String =
            sqlx::query_scalar("SHOW server_encoding").fetch_one(&mut *work).await?;
        sqlx::raw_sql("SET LOCAL client_min_messages = warning").execute(&mut *work).await?;
        sqlx::raw_sql(LOCK).execute(&mut *work).await?;
        Ok::<_, sqlx::Error>((work, encoding))
    };
    let locked = tokio::time::timeout(LOCK_MAX, locked).await;
    let (mut work, encoding) = locked.map_err(|_| Failure::Slow)??;
    if encoding != "UTF8" {
        return Err(unusable(format!("its encoding is {encoding}; it has to be UTF8")));
    }
    sqlx::raw_sql(APPLIED).execute(&mut *work).await?;
    let latest: i64 = sqlx::query_scalar(LATEST).fetch_one(&mut *work).await?;
    for (number, _, text) in missing(latest)? {
        // One of a big table may take its time.
        sqlx::raw_sql("SET LOCAL statement_timeout = 0").execute(&mut *work).await?;
        sqlx::raw_sql(*text).execute(&mut *work).await?;
        sqlx::query(NOTE).bind(number).execute(&mut *work).await?;
    }
    Ok(work.commit().await?)
}

fn missing(
    latest: i64,
) -> Result<impl Iterator<Item = &'static (i64, &'static str, &'static str)>, Failure> {
    if MIGRATIONS.iter().all(|(number, ..)| *number < latest) {
        return Err(unusable("a newer version has written to it".to_owned()));
    }
    Ok(MIGRATIONS.iter().filter(move |(number, ..)| *number > latest))
}

fn unusable(why: String) -> Failure {
    Failure::Store(StoreError::Unavailable(format!("the database: {why}")))
}
