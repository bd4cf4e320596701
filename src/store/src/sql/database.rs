//! One way to talk to both databases.
//!
//! A [`Sql`] is a text that never has anything from outside in it; what comes from outside is bound
//! to its places. Many rows go as one bound text of JSON that the database takes apart, so that a
//! statement for one row and for five hundred is the same and prepared once.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::TryStreamExt;
use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgArguments, PgPool, PgRow};
use sqlx::query::Query;
use sqlx::sqlite::{SqliteArguments, SqlitePool, SqliteRow};
use sqlx::{Postgres, Row as _, Sqlite};
use tollway_filter_api::ledger::StoreError;

/// What a connection may take to come, from the pool or new.
pub(super) const CONNECT_MAX: Duration = Duration::from_secs(5);

/// What the one writing connection of SQLite may be waited for, and its file's lock.
pub(super) const WRITER_MAX: Duration = Duration::from_secs(20);

/// What Postgres gives a statement before it ends it.
pub(super) const STATEMENT_MAX: Duration = Duration::from_secs(20);

/// When we stop waiting for a statement: the server is away or hangs.
const ANSWER_MAX: Duration = Duration::from_secs(25);

/// A statement in the words of both databases.
pub(super) struct Sql {
    pub(super) sqlite: &'static str,
    pub(super) postgres: &'static str,
}

/// A statement that both databases understand.
macro_rules! sql {
    ($($text:expr),+ $(,)?) => {
        $crate::sql::database::Sql { sqlite: concat!($($text),+), postgres: concat!($($text),+) }
    };
}

/// A statement about the rows that `$1` has as JSON, each an array: `value->>0` is a row's first
/// member. What stands before and after `FROM` is the same in both databases.
macro_rules! sql_rows {
    ($before:expr, $after:expr) => {
        $crate::sql::database::Sql {
            sqlite: concat!($before, " FROM json_each($1) ", $after),
            postgres: concat!(
                $before,
                " FROM jsonb_array_elements(CAST($1 AS jsonb)) AS list(value) ",
                $after
            ),
        }
    };
}

pub(super) use {sql, sql_rows};

/// What is bound to a place in a statement.
#[derive(Clone, Copy)]
pub(super) enum Value<'v> {
    Int(i64),
    Text(&'v str),
    Maybe(Option<&'v str>),
}

/// Why a statement failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    #[error("{0}")]
    Database(#[from] sqlx::Error),
    #[error("no answer in {ANSWER_MAX:?}")]
    Slow,
    #[error("the database could not be reached since the start")]
    NotThere,
    #[error("{0}")]
    Store(#[from] StoreError),
}

impl From<Failure> for StoreError {
    fn from(failure: Failure) -> StoreError {
        match failure {
            Failure::Store(error) => error,
            other => StoreError::Unavailable(other.to_string()),
        }
    }
}

impl Failure {
    /// The database did not like what it was given, rather than being away, full or busy. Asking
    /// again with the same is in vain.
    pub(super) fn is_about_data(&self) -> bool {
        let Failure::Database(sqlx::Error::Database(error)) = self else { return false };
        let Some(code) = error.code() else { return false };
        if error.try_downcast_ref::<sqlx::postgres::PgDatabaseError>().is_some() {
            // Data exceptions, constraints, limits of the program.
            return ["22", "23", "54"].iter().any(|class| code.starts_with(class));
        }
        // ERROR (arithmetic, JSON), TOOBIG, CONSTRAINT, MISMATCH; extended codes have more above.
        code.parse().is_ok_and(|code: u32| matches!(code & 0xff, 1 | 18 | 19 | 20))
    }

    /// The database is away or starting, rather than refusing us: later it may be there.
    pub(super) fn may_pass(&self) -> bool {
        match self {
            Failure::Slow | Failure::NotThere => true,
            Failure::Store(_) => false,
            // Who we are, and which database: nobody can tell but the operator.
            Failure::Database(sqlx::Error::Database(error)) => {
                let code = error.code().unwrap_or_default();
                !["28", "3D", "42"].iter().any(|class| code.starts_with(class))
            }
            Failure::Database(sqlx::Error::Configuration(_) | sqlx::Error::Tls(_)) => false,
            Failure::Database(_) => true,
        }
    }

    /// Another transaction was in the way: the same may work now, or has another outcome.
    pub(super) fn is_race(&self) -> bool {
        let Failure::Database(sqlx::Error::Database(error)) = self else { return false };
        // Two that wait for each other, or have made the same row. SQLite has one writer.
        error.code().is_some_and(|code| ["40001", "40P01", "23505"].contains(&&*code))
    }

    /// Half as much at once may work.
    pub(super) fn is_about_size(&self) -> bool {
        // Postgres ended the statement because it took too long.
        let ended = matches!(self, Failure::Database(sqlx::Error::Database(error))
            if error.code().as_deref() == Some("57014"));
        ended || self.is_about_data()
    }
}

/// A row of an answer.
pub(super) enum Row<'r> {
    Sqlite(&'r SqliteRow),
    Postgres(&'r PgRow),
}

impl Row<'_> {
    pub(super) fn int(&self, column: usize) -> Result<i64, sqlx::Error> {
        match self {
            Row::Sqlite(row) => row.try_get(column),
            Row::Postgres(row) => row.try_get(column),
        }
    }

    /// A number that was a `u64` before it was stored.
    pub(super) fn unsigned(&self, column: usize) -> Result<u64, sqlx::Error> {
        Ok(self.int(column)? as u64)
    }

    pub(super) fn maybe_int(&self, column: usize) -> Result<Option<i64>, sqlx::Error> {
        match self {
            Row::Sqlite(row) => row.try_get(column),
            Row::Postgres(row) => row.try_get(column),
        }
    }

    pub(super) fn text(&self, column: usize) -> Result<&str, sqlx::Error> {
        match self {
            Row::Sqlite(row) => row.try_get(column),
            Row::Postgres(row) => row.try_get(column),
        }
    }

    pub(super) fn maybe_text(&self, column: usize) -> Result<Option<&str>, sqlx::Error> {
        match self {
            Row::Sqlite(row) => row.try_get(column),
            Row::Postgres(row) => row.try_get(column),
        }
    }
}

/// A database.
#[derive(Clone, Debug)]
pub(super) enum Database {
    Sqlite {
        /// One connection.
        writer: SqlitePool,
        /// A few that can only read.
        readers: SqlitePool,
    },
    Postgres {
        pool: PgPool,
        /// One connection, for notifications.
        listener: PgPool,
        /// Whether it has been reached, and has our tables. Nothing is asked of it before.
        is_there: Arc<AtomicBool>,
    },
}

impl Database {
    /// A connection for one statement that reads, or for several that need not see the same state.
    pub(super) async fn read(&self) -> Result<Work, Failure> {
        let link = match self {
            Database::Sqlite { readers, .. } => Link::Sqlite(readers.acquire().await?),
            Database::Postgres { pool, is_there, .. } => {
                if !is_there.load(Ordering::Relaxed) {
                    return Err(Failure::NotThere);
                }
                Link::Postgres(pool.acquire().await?)
            }
        };
        Ok(Work { link, unfinished: false })
    }

    /// A transaction that reads and sees one state.
    pub(super) async fn snapshot(&self) -> Result<Work, Failure> {
        const BEGIN: Sql =
            Sql { sqlite: "BEGIN", postgres: "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY" };
        self.read().await?.begin(&BEGIN).await
    }

    /// A transaction that writes.
    pub(super) async fn write(&self) -> Result<Work, Failure> {
        const BEGIN: Sql = Sql { sqlite: "BEGIN IMMEDIATE", postgres: "BEGIN" };
        let work = match self {
            Database::Sqlite { writer, .. } => {
                Work { link: Link::Sqlite(writer.acquire().await?), unfinished: false }
            }
            Database::Postgres { .. } => self.read().await?,
        };
        work.begin(&BEGIN).await
    }

    /// Closes all connections.
    pub(super) async fn close(&self) {
        match self {
            Database::Sqlite { writer, readers } => {
                readers.close().await;
                writer.close().await;
            }
            Database::Postgres { pool, listener, .. } => {
                listener.close().await;
                pool.close().await;
            }
        }
    }
}

enum Link {
    Sqlite(PoolConnection<Sqlite>),
    Postgres(PoolConnection<Postgres>),
}

/// A connection in use. One that is dropped in the middle of a statement or a transaction is closed
/// rather than given to the next user.
pub(super) struct Work {
    link: Link,
    unfinished: bool,
}

impl Drop for Work {
    fn drop(&mut self) {
        if self.unfinished {
            match &mut self.link {
                Link::Sqlite(link) => link.close_on_drop(),
                Link::Postgres(link) => link.close_on_drop(),
            }
        }
    }
}

impl Work {
    async fn begin(mut self, begin: &Sql) -> Result<Work, Failure> {
        self.unfinished = true;
        self.raw(begin).await?;
        Ok(self)
    }

    /// Ends a transaction; what it wrote is there.
    pub(super) async fn commit(mut self) -> Result<(), Failure> {
        self.raw(&sql!("COMMIT")).await?;
        self.unfinished = false;
        Ok(())
    }

    /// Ends a transaction and forgets what it wrote. If that fails the connection is closed, which
    /// does the same.
    pub(super) async fn rollback(mut self) {
        self.unfinished = self.raw(&sql!("ROLLBACK")).await.is_err();
    }

    /// Ends a transaction by what came of it.
    pub(super) async fn end<T>(self, outcome: Result<T, Failure>) -> Result<T, Failure> {
        match outcome {
            Ok(value) => self.commit().await.map(|()| value),
            Err(failure) => {
                self.rollback().await;
                Err(failure)
            }
        }
    }

    async fn raw(&mut self, sql: &Sql) -> Result<(), Failure> {
        in_time(async {
            match &mut self.link {
                Link::Sqlite(link) => {
                    sqlx::raw_sql(sql.sqlite).execute(&mut **link).await.map(drop)
                }
                Link::Postgres(link) => {
                    sqlx::raw_sql(sql.postgres).execute(&mut **link).await.map(drop)
                }
            }
        })
        .await
    }

    /// Runs a statement; how many rows it changed.
    pub(super) async fn run(&mut self, sql: &Sql, values: &[Value<'_>]) -> Result<u64, Failure> {
        let before = std::mem::replace(&mut self.unfinished, true);
        let changed = in_time(async {
            match &mut self.link {
                Link::Sqlite(link) => {
                    let done = sqlite(sql, values).execute(&mut **link).await?;
                    Ok(done.rows_affected())
                }
                Link::Postgres(link) => {
                    let done = postgres(sql, values).execute(&mut **link).await?;
                    Ok(done.rows_affected())
                }
            }
        })
        .await;
        self.answered(before, changed)
    }

    /// Runs a statement and gives each row of the answer to `take`.
    pub(super) async fn each(
        &mut self,
        sql: &Sql,
        values: &[Value<'_>],
        mut take: impl FnMut(Row<'_>) -> Result<(), sqlx::Error> + Send,
    ) -> Result<(), Failure> {
        let before = std::mem::replace(&mut self.unfinished, true);
        let taken = in_time(async {
            match &mut self.link {
                Link::Sqlite(link) => {
                    let mut rows = sqlite(sql, values).fetch(&mut **link);
                    while let Some(row) = rows.try_next().await? {
                        take(Row::Sqlite(&row))?;
                    }
                }
                Link::Postgres(link) => {
                    let mut rows = postgres(sql, values).fetch(&mut **link);
                    while let Some(row) = rows.try_next().await? {
                        take(Row::Postgres(&row))?;
                    }
                }
            }
            Ok(())
        })
        .await;
        self.answered(before, taken)
    }

    /// Runs a statement and reads the only row of its answer, if there is one.
    pub(super) async fn one<T: Send>(
        &mut self,
        sql: &Sql,
        values: &[Value<'_>],
        mut read: impl FnMut(Row<'_>) -> Result<T, sqlx::Error> + Send,
    ) -> Result<Option<T>, Failure> {
        let mut found = None;
        self.each(sql, values, |row| {
            found = Some(read(row)?);
            Ok(())
        })
        .await?;
        Ok(found)
    }

    /// The connection is as it was `before`, if the database itself has answered.
    fn answered<T>(&mut self, before: bool, result: Result<T, Failure>) -> Result<T, Failure> {
        let answered = matches!(&result, Ok(_) | Err(Failure::Database(sqlx::Error::Database(_))));
        self.unfinished = before || !answered;
        result
    }
}

async fn in_time<T>(
    asking: impl Future<Output = Result<T, sqlx::Error>> + Send,
) -> Result<T, Failure> {
    match tokio::time::timeout(ANSWER_MAX, asking).await {
        Ok(answer) => Ok(answer?),
        Err(_) => Err(Failure::Slow),
    }
}

fn sqlite<'q>(sql: &Sql, values: &[Value<'_>]) -> Query<'q, Sqlite, SqliteArguments> {
    values.iter().fold(sqlx::query(sql.sqlite), |query, value| match *value {
        Value::Int(value) => query.bind(value),
        Value::Text(value) => query.bind(value),
        Value::Maybe(value) => query.bind(value),
    })
}

fn postgres<'q>(sql: &Sql, values: &[Value<'_>]) -> Query<'q, Postgres, PgArguments> {
    values.iter().fold(sqlx::query(sql.postgres), |query, value| match *value {
        Value::Int(value) => query.bind(value),
        Value::Text(value) => query.bind(value),
        Value::Maybe(value) => query.bind(value),
    })
}

/// Rows for [`sql_rows`].
pub(super) fn rows<T: serde::Serialize>(rows: &[T]) -> String {
    serde_json::to_string(rows).expect("tuples of texts and numbers can be written")
}

/// A number from outside as the databases have it: more than they can hold is the most they can.
pub(super) fn int(number: u64) -> i64 {
    number.try_into().unwrap_or(i64::MAX)
}
