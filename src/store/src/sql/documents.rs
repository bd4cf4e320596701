//! [`Documents`] in a database.
//!
//! All batches are made by one task ([`mod@writer`]): it takes those that wait into one transaction, so
//! that a thousand runs that write a step each cost a few statements and not thousands. Which of
//! them can be made is found out before ([`plan`]): one that cannot be changes nothing, and the
//! others are made.
//!
//! A batch that was answered outlives the process. Whether it outlives the machine's power is the
//! database's: Postgres sees to it, SQLite (`synchronous` is normal) may lose the last moments, but
//! then whole batches. One that fails as unavailable may have been made all the same: who wants to
//! know reads.

mod plan;
mod writer;

use bytes::Bytes;
use tollway_filter_api::documents::{Batch, Collection, Document, Documents, Entry, Wanted};
use tollway_filter_api::ledger::{Asking, StoreError};

use super::SqlStore;
use super::database::{Row, Sql, Value, int, rows, sql, sql_rows};
use super::fit::{fit, fits};

pub use plan::{BATCH_MAX, ENTRY_MAX};
pub(super) use writer::{Writer, writer};

macro_rules! documents {
    () => {
        "SELECT collection, id, owner, parent, state, created_ms, expires_ms, holder, \
         held_until_ms, size, version, body FROM tollway_documents "
    };
}

const GET: Sql = sql!(documents!(), "WHERE collection = $1 AND id = $2");

/// Documents by what [`Wanted`] asks for, whose states `$1` has. `$driver` names the index to find
/// them by, and `$states` whether any state will do without any in `$1`: no index serves a
/// condition that may be left out. Bodies are read only of those that are wanted in the end.
macro_rules! list {
    ($driver:literal, $states:literal, $behind:literal, $order:literal) => {
        sql_rows!(
            concat!(
                documents!(),
                "WHERE collection = $2 AND id IN (SELECT id FROM tollway_documents \
                 WHERE collection = $2 AND ",
                $driver,
                " AND ($3 IS NULL OR owner = $3) AND ($4 IS NULL OR parent = $4) \
                 AND held_until_ms <= $5 AND ($6 < 0 OR expires_ms < $6) AND (created_ms, id) ",
                $behind,
                " ($7, $8) AND (",
                $states,
                " state IN (SELECT value->>0"
            ),
            concat!(
                ")) ORDER BY created_ms ",
                $order,
                ", id ",
                $order,
                " LIMIT $10) ORDER BY created_ms ",
                $order,
                ", id ",
                $order
            )
        )
    };
    ($driver:literal, $states:literal) => {
        List {
            latest_first: list!($driver, $states, "<", "DESC"),
            oldest_first: list!($driver, $states, ">", "ASC"),
        }
    };
}

struct List {
    latest_first: Sql,
    oldest_first: Sql,
}

const LIST: List = list!("true", "$9 = 0 OR");
const LIST_BY_OWNER: List = list!("owner = $3", "$9 = 0 OR");
const LIST_BY_PARENT: List = list!("parent = $4", "$9 = 0 OR");
const LIST_BY_STATE: List = list!("true", "$9 > 0 AND");
const LIST_BY_EXPIRY: List = list!("expires_ms < $6", "$9 = 0 OR");

/// Sizes in two parts, whose sums cannot overflow.
const TOTAL: Sql = sql!(
    "SELECT COUNT(*), CAST(COALESCE(SUM(size >> 32), 0) AS BIGINT), \
     CAST(COALESCE(SUM(size & 4294967295), 0) AS BIGINT) FROM tollway_documents \
     WHERE collection = $1 AND owner = $2"
);

/// Up to the first one that is no longer within `$4` bytes, which is looked for without reading
/// any body.
const ENTRIES: Sql = sql!(
    "SELECT kind, body FROM tollway_log WHERE collection = $1 AND id = $2 AND n >= $3 \
     AND n < COALESCE((SELECT n FROM tollway_log WHERE collection = $1 AND id = $2 AND n > $3 \
     AND ends_at - COALESCE((SELECT ends_at FROM tollway_log \
     WHERE collection = $1 AND id = $2 AND n = $3 - 1), 0) > $4 ORDER BY n LIMIT 1), \
     9223372036854775807) ORDER BY n"
);

impl Documents for SqlStore {
    fn write(&self, batch: Batch) -> Asking<'_, Vec<u64>> {
        Box::pin(writer::write(&self.inner.writer, batch))
    }

    fn get<'a>(&'a self, collection: Collection, id: &'a str) -> Asking<'a, Option<Document>> {
        Box::pin(async move {
            if !fits(id) {
                return Ok(None);
            }
            let values = [Value::Text(collection.name()), Value::Text(id)];
            let mut work = self.database().read().await?;
            Ok(work.one(&GET, &values, |row| document(collection, row)).await?)
        })
    }

    fn list(&self, wanted: Wanted) -> Asking<'_, Vec<Document>> {
        Box::pin(async move {
            let Wanted { collection, owner, parent, states, free_at_ms, expired_at_ms, .. } =
                &wanted;
            let fitting: Vec<_> =
                states.iter().filter(|state| fits(state)).map(|state| (&**state,)).collect();
            let is_in_vain = fitting.is_empty() && !states.is_empty()
                || [owner, parent].into_iter().flatten().any(|text| !fits(text));
            if is_in_vain {
                return Ok(Vec::new());
            }
            let list = match (parent, owner) {
                (Some(_), _) => LIST_BY_PARENT,
                (None, Some(_)) => LIST_BY_OWNER,
                (None, None) if expired_at_ms.is_some() => LIST_BY_EXPIRY,
                (None, None) if !fitting.is_empty() => LIST_BY_STATE,
                (None, None) => LIST,
            };
            let (sql, first) = match wanted.is_latest_first {
                true => (list.latest_first, i64::MAX),
                false => (list.oldest_first, -1),
            };
            let (after_ms, after) = match &wanted.after {
                Some((created_ms, id)) => (int(*created_ms), fit(id)),
                None => (first, "".into()),
            };
            let values = [
                Value::Text(&rows(&fitting)),
                Value::Text(collection.name()),
                Value::Maybe(owner.as_deref()),
                Value::Maybe(parent.as_deref()),
                Value::Int(free_at_ms.map_or(i64::MAX, int)),
                Value::Int(expired_at_ms.map_or(-1, int)),
                Value::Int(after_ms),
                Value::Text(&after),
                Value::Int(fitting.len() as i64),
                Value::Int(int(wanted.limit)),
            ];
            let mut work = self.database().read().await?;
            let mut found = Vec::new();
            work.each(&sql, &values, |row| {
                found.push(document(*collection, row)?);
                Ok(())
            })
            .await?;
            Ok(found)
        })
    }

    fn total<'a>(&'a self, collection: Collection, owner: &'a str) -> Asking<'a, (u64, u64)> {
        Box::pin(async move {
            if !fits(owner) {
                return Ok((0, 0));
            }
            let values = [Value::Text(collection.name()), Value::Text(owner)];
            let mut work = self.database().read().await?;
            let total = work
                .one(&TOTAL, &values, |row| {
                    let (high, low) = (row.unsigned(1)?, row.unsigned(2)?);
                    Ok((row.unsigned(0)?, (u128::from(high) << 32) + u128::from(low)))
                })
                .await?;
            let (count, size) = total.unwrap_or_default();
            Ok((count, size.try_into().unwrap_or(u64::MAX)))
        })
    }

    fn entries<'a>(
        &'a self,
        collection: Collection,
        id: &'a str,
        from: u64,
        bytes: u64,
    ) -> Asking<'a, Vec<Entry>> {
        Box::pin(async move {
            if !fits(id) {
                return Ok(Vec::new());
            }
            let values = [
                Value::Text(collection.name()),
                Value::Text(id),
                Value::Int(int(from)),
                Value::Int(int(bytes)),
            ];
            let mut work = self.database().read().await?;
            let mut found = Vec::new();
            work.each(&ENTRIES, &values, |row| {
                found.push(Entry { kind: row.text(0)?.into(), body: body(&row, 1)? });
                Ok(())
            })
            .await?;
            Ok(found)
        })
    }
}

/// Reads a row of `documents!`.
fn document(collection: Collection, row: Row<'_>) -> Result<Document, sqlx::Error> {
    Ok(Document {
        collection,
        id: row.text(1)?.into(),
        owner: row.text(2)?.into(),
        parent: row.maybe_text(3)?.map(Into::into),
        state: row.text(4)?.into(),
        created_ms: row.unsigned(5)?,
        expires_ms: row.maybe_int(6)?.map(|time| time as u64),
        holder: row.maybe_text(7)?.map(Into::into),
        held_until_ms: row.unsigned(8)?,
        size: row.unsigned(9)?,
        body: body(&row, 11)?,
        version: row.unsigned(10)?,
    })
}

fn body(row: &Row<'_>, column: usize) -> Result<Bytes, sqlx::Error> {
    Ok(Bytes::copy_from_slice(row.text(column)?.as_bytes()))
}

fn conflict(collection: Collection, id: &str, why: &str) -> StoreError {
    StoreError::Conflict(format!("the {} {id} {why}", collection.name()))
}
