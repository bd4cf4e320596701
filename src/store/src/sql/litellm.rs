//! LiteLLM's database: reading what it has, and bringing it in.
//!
//! Each row is asked for as one JSON text, so that columns are known by their names whichever
//! version has made the table. Statements are constants; a table that is not there is left out.

use std::future::Future;
use std::time::Duration;

use futures_util::TryStreamExt;
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Map, Value as Json};
use sqlx::postgres::PgConnection;
use sqlx::{ConnectOptions, Connection};
use tollway_filter_api::accounts::Change;
use tollway_filter_api::ledger::{Entry, StoreError};

use super::database::{CONNECT_MAX, Failure};
use super::{SqlStore, accounts, fit, ledger, postgres_options, watch};

/// A row by the names of its columns.
pub type Row = Map<String, Json>;

/// How many rows are read at most, all tables together.
const ROWS_MAX: usize = 2_000_000;

/// How long all of it may take to be read.
const READ_MAX: Duration = Duration::from_secs(600);

/// What LiteLLM's database has. A table that is not there has no rows.
#[derive(Clone, Debug, Default)]
pub struct LitellmTables {
    /// `LiteLLM_BudgetTable`
    pub budgets: Vec<Row>,
    /// `LiteLLM_UserTable`
    pub users: Vec<Row>,
    /// `LiteLLM_TeamTable`
    pub teams: Vec<Row>,
    /// `LiteLLM_VerificationToken`
    pub keys: Vec<Row>,
    /// `LiteLLM_EndUserTable`
    pub end_users: Vec<Row>,
    /// `LiteLLM_TagTable`
    pub tags: Vec<Row>,
    /// `LiteLLM_TeamMembership`
    pub memberships: Vec<Row>,
    /// `LiteLLM_OrganizationTable`
    pub organizations: Vec<Row>,
}

/// The statements that find out whether a table is there, and read it.
macro_rules! table {
    ($name:literal) => {
        (
            concat!("SELECT to_regclass('\"", $name, "\"') IS NOT NULL"),
            concat!("SELECT CAST(to_jsonb(t) AS TEXT) FROM \"", $name, "\" t ORDER BY 1"),
        )
    };
}

impl LitellmTables {
    /// Reads all tables as they are at one moment.
    ///
    /// # Errors
    /// When the server cannot be reached or fails, or the database is no LiteLLM's. No error has the
    /// URL in it.
    pub async fn read(url: &SecretString) -> Result<LitellmTables, StoreError> {
        let options = postgres_options(url)?;
        let connecting = tokio::time::timeout(CONNECT_MAX * 2, options.connect());
        let mut link = connecting
            .await
            .map_err(|_| away("it does not answer"))?
            .map_err(|error| away(&error.to_string()))?;
        let read = in_time(read_all(&mut link, schema(url.expose_secret()))).await;
        let _ = link.close().await;
        read
    }
}

async fn in_time<T>(work: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
    match tokio::time::timeout(READ_MAX, work).await {
        Ok(done) => done,
        Err(_) => Err(away("it is too slow")),
    }
}

fn away(why: &str) -> StoreError {
    StoreError::Unavailable(format!("LiteLLM's database: {why}"))
}

/// The schema that a URL for Prisma names: `?schema=litellm`.
fn schema(url: &str) -> Option<&str> {
    let (_, query) = url.split_once('?')?;
    let named = query.split('&').find_map(|pair| pair.strip_prefix("schema="))?;
    (!named.is_empty()).then_some(named)
}

async fn read_all(
    link: &mut PgConnection,
    schema: Option<&str>,
) -> Result<LitellmTables, StoreError> {
    let failed = |error: sqlx::Error| away(&error.to_string());
    sqlx::raw_sql("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET LOCAL TIME ZONE 'UTC'")
        .execute(&mut *link)
        .await
        .map_err(failed)?;
    if let Some(schema) = schema {
        sqlx::query("SELECT set_config('search_path', quote_ident($1), true)")
            .bind(schema)
            .execute(&mut *link)
            .await
            .map_err(failed)?;
    }
    let mut room = ROWS_MAX;
    let Some(keys) = read_table(link, table!("LiteLLM_VerificationToken"), &mut room).await? else {
        return Err(away("it has no table LiteLLM_VerificationToken: is it the right database?"));
    };
    let mut tables = LitellmTables { keys, ..LitellmTables::default() };
    for (into, sql) in [
        (&mut tables.budgets, table!("LiteLLM_BudgetTable")),
        (&mut tables.users, table!("LiteLLM_UserTable")),
        (&mut tables.teams, table!("LiteLLM_TeamTable")),
        (&mut tables.end_users, table!("LiteLLM_EndUserTable")),
        (&mut tables.tags, table!("LiteLLM_TagTable")),
        (&mut tables.memberships, table!("LiteLLM_TeamMembership")),
        (&mut tables.organizations, table!("LiteLLM_OrganizationTable")),
    ] {
        *into = read_table(link, sql, &mut room).await?.unwrap_or_default();
    }
    Ok(tables)
}

/// The rows of a table. `None` where there is no such table.
async fn read_table(
    link: &mut PgConnection,
    (exists, select): (&'static str, &'static str),
    room: &mut usize,
) -> Result<Option<Vec<Row>>, StoreError> {
    let failed = |error: sqlx::Error| away(&error.to_string());
    let is_there: bool = sqlx::query_scalar(exists).fetch_one(&mut *link).await.map_err(failed)?;
    if !is_there {
        return Ok(None);
    }
    let mut rows = Vec::new();
    let mut texts = sqlx::query_scalar::<_, String>(select).fetch(&mut *link);
    while let Some(text) = texts.try_next().await.map_err(failed)? {
        *room = room
            .checked_sub(1)
            .ok_or_else(|| away(&format!("it has more than {ROWS_MAX} rows")))?;
        match serde_json::from_str(&text) {
            Ok(row) => rows.push(row),
            Err(error) => return Err(away(&format!("a row cannot be read: {error}"))),
        }
    }
    Ok(Some(rows))
}

impl SqlStore {
    /// Makes a change, and takes records of a node that belong to it: all of it or nothing.
    ///
    /// # Errors
    /// Those of [`tollway_filter_api::accounts::Accounts::change`] and of
    /// [`tollway_filter_api::ledger::Ledger::append`].
    pub async fn bring_in(
        &self,
        change: &Change,
        node: &str,
        entries: &[Entry],
    ) -> Result<u64, StoreError> {
        let texts = accounts::Texts::of(change)?;
        let mut work = self.database().write().await?;
        let written = async {
            let version = accounts::apply(&mut work, change, &texts).await?;
            ledger::write_entries(&mut work, &fit(node), entries).await?;
            Ok::<_, Failure>(version)
        }
        .await;
        let version = work.end(written).await?;
        watch::publish(&self.inner.changes, version);
        Ok(version)
    }
}

#[cfg(test)]
mod tests {
    use super::schema;

    #[test]
    fn schemas_are_found_where_prisma_has_them() {
        assert_eq!(schema("postgres://u:p@h/db?connection_limit=5&schema=llm"), Some("llm"));
        assert_eq!(schema("postgres://u:p@h/db?schema="), None);
        assert_eq!(schema("postgres://u:p@h/db"), None);
    }
}
