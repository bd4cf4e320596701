//! [`ResponseStore`] in a database: a table of its own, and not documents, because a response is
//! replaced without having been read, and must not delay the steps of agents however large it is.

use std::collections::HashSet;
use std::sync::Arc;

use bytes::Bytes;
use tollway_filter_api::KeyHash;
use tollway_filter_api::ledger::Asking;
use tollway_filter_api::responses::{
    Abandoned, Maker, ResponseRow, ResponseStore, StoredResponse, Written,
};

use super::SqlStore;
use super::database::{Failure, Row, Sql, Value, Work, int, rows, sql, sql_rows};
use super::fit::{fit, fits};

/// A provider may give a response the id of another one: that of somebody else is never replaced.
const INSERT: Sql = sql_rows!(
    "INSERT INTO tollway_responses (id, tenant, deployment, original_deployment, original_id, \
     expires_ms, node, process, held_until_ms, is_cancelled, response, items, events) \
     SELECT value->>0, value->>1, value->>2, value->>3, value->>4, CAST(value->>5 AS BIGINT), \
     value->>6, value->>7, CAST(value->>8 AS BIGINT), 0, value->>9, value->>11, value->>10",
    "WHERE true ON CONFLICT (id) DO UPDATE SET deployment = excluded.deployment, \
     original_deployment = excluded.original_deployment, original_id = excluded.original_id, \
     expires_ms = excluded.expires_ms, node = excluded.node, process = excluded.process, \
     held_until_ms = excluded.held_until_ms, is_cancelled = 0, response = excluded.response, \
     items = excluded.items, events = excluded.events \
     WHERE tollway_responses.tenant = excluded.tenant RETURNING id"
);
const UPDATE: Sql = sql_rows!(
    "UPDATE tollway_responses SET deployment = value->>2, original_deployment = value->>3, \
     original_id = value->>4, expires_ms = CAST(value->>5 AS BIGINT), node = value->>6, \
     process = value->>7, held_until_ms = CAST(value->>8 AS BIGINT), response = value->>9, \
     events = value->>10",
    "WHERE tollway_responses.id = value->>0 AND tollway_responses.tenant = value->>1 \
     RETURNING tollway_responses.id"
);
const GET: Sql = sql!(
    "SELECT tenant, deployment, original_deployment, original_id, expires_ms, process, response, \
     items, events FROM tollway_responses WHERE id = $1 AND expires_ms > $2"
);
const IS_THERE: Sql =
    sql!("SELECT is_cancelled FROM tollway_responses WHERE id = $1 AND expires_ms > $2");
const REMOVE: Sql = sql!("DELETE FROM tollway_responses WHERE id = $1");
const CANCEL: Sql =
    sql!("UPDATE tollway_responses SET is_cancelled = 1 WHERE id = $1 AND process IS NOT NULL");
const MADE_BY: Sql = sql!("SELECT id, is_cancelled FROM tollway_responses WHERE process = $1");
const HOLD: Sql = sql!("UPDATE tollway_responses SET held_until_ms = $2 WHERE process = $1");
const ABANDONED: Sql = sql!(
    "SELECT id, process, response FROM tollway_responses WHERE process IS NOT NULL \
     AND process <> $1 AND (node = $2 OR held_until_ms <= $3) LIMIT $4"
);
const END: Sql = sql!(
    "UPDATE tollway_responses SET response = $3, node = NULL, process = NULL \
     WHERE id = $1 AND process = $2"
);
const FORGET: Sql = sql!(
    "DELETE FROM tollway_responses WHERE id IN (SELECT id FROM tollway_responses \
     WHERE expires_ms <= $1 ORDER BY expires_ms LIMIT $2)"
);

/// A row as both databases take it apart: id, tenant, deployment, the original's deployment and id,
/// when it expires, node, process, until when it is held, response, events, and the items of a new one.
type Line<'r> = (
    &'r str,
    String,
    Option<&'r str>,
    Option<&'r str>,
    Option<&'r str>,
    i64,
    Option<&'r str>,
    Option<&'r str>,
    i64,
    &'r str,
    Option<&'r str>,
    Option<&'r str>,
);

/// None, where it is no text that a database keeps.
fn line<'r>(row: &'r ResponseRow, maker: &'r Maker, until_ms: u64) -> Option<Line<'r>> {
    let ResponseRow { id, response, is_new } = row;
    let text = |bytes| std::str::from_utf8(bytes).ok();
    let original = response.original.as_ref();
    let maker = response.is_open.then_some(maker);
    let events = match &response.events {
        Some(events) => Some(text(events)?),
        None => None,
    };
    let items = match is_new {
        true => Some(text(&response.items)?),
        false => None,
    };
    fits(id).then_some((
        id,
        response.tenant.map(|tenant| tenant.hex()).unwrap_or_default(),
        response.deployment.as_deref(),
        original.map(|(deployment, _)| &**deployment),
        original.map(|(_, id)| &**id),
        int(response.expires_ms),
        maker.map(|maker| &*maker.node),
        maker.map(|maker| &*maker.process),
        maker.map_or(0, |_| int(until_ms)),
        text(&response.response)?,
        events,
        items,
    ))
}

impl ResponseStore for SqlStore {
    fn write<'a>(
        &'a self,
        list: &'a [ResponseRow],
        maker: &'a Maker,
        until_ms: u64,
    ) -> Asking<'a, Vec<Written>> {
        Box::pin(async move {
            let maker =
                Maker { node: fit(&maker.node).into(), process: fit(&maker.process).into() };
            let mut kept = HashSet::new();
            let mut refused = HashSet::new();
            let mut todo = vec![list];
            // What the database takes offence at is halved until the one at fault is alone.
            while let Some(part) = todo.pop() {
                let mut work = self.database().write().await?;
                let written = write_part(&mut work, part, &maker, until_ms).await;
                match work.end(written).await {
                    Ok(ids) => kept.extend(ids),
                    Err(failure) if part.len() > 1 && failure.is_about_size() => {
                        let (first, second) = part.split_at(part.len() / 2);
                        todo.extend([second, first]);
                    }
                    Err(failure) if failure.is_about_data() => {
                        refused.extend(part.iter().map(|row| Arc::clone(&row.id)));
                    }
                    Err(failure) => return Err(failure.into()),
                }
            }
            let became = |row: &ResponseRow| match kept.contains(&*row.id) {
                true => Written::Kept,
                false if refused.contains(&row.id) => Written::Refused,
                false if line(row, &maker, until_ms).is_none() => Written::Refused,
                false => Written::Gone,
            };
            Ok(list.iter().map(became).collect())
        })
    }

    fn get<'a>(&'a self, id: &'a str, now_ms: u64) -> Asking<'a, Option<StoredResponse>> {
        Box::pin(async move {
            if !fits(id) {
                return Ok(None);
            }
            let mut work = self.database().read().await?;
            let values = [Value::Text(id), Value::Int(int(now_ms))];
            Ok(work.one(&GET, &values, stored).await?)
        })
    }

    fn is_there<'a>(&'a self, id: &'a str, now_ms: u64) -> Asking<'a, bool> {
        Box::pin(async move {
            if !fits(id) {
                return Ok(false);
            }
            let mut work = self.database().read().await?;
            let values = [Value::Text(id), Value::Int(int(now_ms))];
            Ok(work.one(&IS_THERE, &values, |_| Ok(())).await?.is_some())
        })
    }

    fn remove<'a>(&'a self, id: &'a str) -> Asking<'a, ()> {
        Box::pin(self.change(&REMOVE, [Value::Text(id)]))
    }

    fn cancel<'a>(&'a self, id: &'a str) -> Asking<'a, ()> {
        Box::pin(self.change(&CANCEL, [Value::Text(id)]))
    }

    fn made_by<'a>(&'a self, process: &'a str) -> Asking<'a, Vec<(Arc<str>, bool)>> {
        Box::pin(async move {
            let mut work = self.database().read().await?;
            let mut made = Vec::new();
            work.each(&MADE_BY, &[Value::Text(&fit(process))], |row| {
                made.push((row.text(0)?.into(), row.int(1)? != 0));
                Ok(())
            })
            .await?;
            Ok(made)
        })
    }

    fn hold<'a>(&'a self, process: &'a str, until_ms: u64) -> Asking<'a, ()> {
        Box::pin(self.change(&HOLD, [Value::Text(process), Value::Int(int(until_ms))]))
    }

    fn abandoned<'a>(
        &'a self,
        maker: &'a Maker,
        now_ms: u64,
        limit: u64,
    ) -> Asking<'a, Vec<Abandoned>> {
        Box::pin(async move {
            let (process, node) = (fit(&maker.process), fit(&maker.node));
            let values = [
                Value::Text(&process),
                Value::Text(&node),
                Value::Int(int(now_ms)),
                Value::Int(int(limit)),
            ];
            let mut work = self.database().read().await?;
            let mut found = Vec::new();
            work.each(&ABANDONED, &values, |row| {
                found.push(Abandoned {
                    id: row.text(0)?.into(),
                    process: row.text(1)?.into(),
                    response: bytes(row.text(2)?),
                });
                Ok(())
            })
            .await?;
            Ok(found)
        })
    }

    fn end<'a>(&'a self, abandoned: &'a Abandoned, response: &'a str) -> Asking<'a, ()> {
        let Abandoned { id, process, .. } = abandoned;
        let values = [Value::Text(id), Value::Text(process), Value::Text(response)];
        Box::pin(self.change(&END, values))
    }

    fn forget(&self, now_ms: u64, limit: u64) -> Asking<'_, u64> {
        Box::pin(async move {
            let mut work = self.database().write().await?;
            let values = [Value::Int(int(now_ms)), Value::Int(int(limit))];
            let gone = work.run(&FORGET, &values).await;
            Ok(work.end(gone).await?)
        })
    }
}

impl SqlStore {
    /// Runs one statement that writes. What names something that cannot be there changes nothing.
    async fn change<'v, const N: usize>(
        &self,
        sql: &Sql,
        values: [Value<'v>; N],
    ) -> Result<(), tollway_filter_api::ledger::StoreError> {
        if values.iter().any(|value| matches!(value, Value::Text(text) if text.contains('\0'))) {
            return Ok(());
        }
        let mut work = self.database().write().await?;
        let done = work.run(sql, &values).await;
        Ok(work.end(done).await.map(drop)?)
    }
}

/// Writes rows in one transaction; the ids of those that are there now.
async fn write_part(
    work: &mut Work,
    part: &[ResponseRow],
    maker: &Maker,
    until_ms: u64,
) -> Result<Vec<String>, Failure> {
    let mut kept = Vec::new();
    for (sql, are_new) in [(&INSERT, true), (&UPDATE, false)] {
        let some = part.iter().filter(|row| row.is_new == are_new);
        let lines: Vec<_> = some.filter_map(|row| line(row, maker, until_ms)).collect();
        if !lines.is_empty() {
            work.each(sql, &[Value::Text(&rows(&lines))], |row| {
                kept.push(row.text(0)?.to_owned());
                Ok(())
            })
            .await?;
        }
    }
    Ok(kept)
}

fn stored(row: Row<'_>) -> Result<StoredResponse, sqlx::Error> {
    let original = match (row.maybe_text(2)?, row.maybe_text(3)?) {
        (Some(deployment), Some(id)) => Some((deployment.into(), id.into())),
        _ => None,
    };
    let tenant = row.text(0)?;
    Ok(StoredResponse {
        // What nobody could have written is nobody's: the hash of no key.
        tenant: (!tenant.is_empty()).then(|| KeyHash::from_hex(tenant).unwrap_or(KeyHash([0; 32]))),
        deployment: row.maybe_text(1)?.map(Into::into),
        original,
        expires_ms: row.unsigned(4)?,
        is_open: row.maybe_text(5)?.is_some(),
        response: bytes(row.text(6)?),
        items: bytes(row.text(7)?),
        events: row.maybe_text(8)?.map(bytes),
    })
}

fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}
