//! The task that makes all batches, those that wait at once in one transaction.

use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tollway_filter_api::documents::Batch;
use tollway_filter_api::ledger::StoreError;

use super::super::database::{Database, Failure, Sql, Value, Work, rows, sql_rows};
use super::plan::{Plan, checked};

/// How many batches are made in one transaction, and how many can wait for the next one.
const GROUP_MAX: usize = 1_000;

/// From how many bytes on a transaction takes no further batch.
const GROUP_BYTES: usize = 8 * 1024 * 1024;

/// How often a transaction is tried that others are in the way of.
const TRIES: u32 = 5;

/// What a batch may take from the call to the answer.
const WRITE_MAX: Duration = Duration::from_secs(40);

/// `FOR UPDATE` in the order of names, so that nodes come one after the other. SQLite has one
/// writer anyway.
const DOCUMENTS: Sql = Sql {
    sqlite: "SELECT CAST(value->>2 AS BIGINT), d.version FROM json_each($1) \
             JOIN tollway_documents d ON d.collection = value->>0 AND d.id = value->>1",
    postgres: "SELECT CAST(value->>2 AS BIGINT), d.version \
               FROM jsonb_array_elements(CAST($1 AS jsonb)) AS list(value) \
               JOIN tollway_documents d ON d.collection = value->>0 AND d.id = value->>1 \
               ORDER BY d.collection, d.id FOR UPDATE OF d",
};
/// The last entries of logs. A statement of its own: another node may have appended while we waited
/// for the lock, which the statement that waited does not see.
const LOGS: Sql = sql_rows!(
    "SELECT CAST(value->>2 AS BIGINT), l.n, l.ends_at",
    "JOIN tollway_log l ON l.collection = value->>0 AND l.id = value->>1 AND l.n = \
     (SELECT MAX(n) FROM tollway_log WHERE collection = value->>0 AND id = value->>1)"
);
const REMOVE: Sql = sql_rows!(
    "DELETE FROM tollway_documents WHERE (collection, id) IN (SELECT value->>0, value->>1",
    ")"
);
const REMOVE_LOGS: Sql = sql_rows!(
    "DELETE FROM tollway_log WHERE (collection, id) IN (SELECT value->>0, value->>1",
    ")"
);

macro_rules! put {
    ($after:literal) => {
        sql_rows!(
            "INSERT INTO tollway_documents (collection, id, owner, parent, state, created_ms, \
             expires_ms, holder, held_until_ms, size, version, body) SELECT value->>0, value->>1, \
             value->>2, value->>3, value->>4, CAST(value->>5 AS BIGINT), \
             CAST(value->>6 AS BIGINT), value->>7, CAST(value->>8 AS BIGINT), \
             CAST(value->>9 AS BIGINT), CAST(value->>10 AS BIGINT), value->>11",
            $after
        )
    };
}

/// Fails where another node has made one of them meanwhile.
const CREATE: Sql = put!("");
const REPLACE: Sql = put!(
    "WHERE true ON CONFLICT (collection, id) DO UPDATE SET owner = excluded.owner, \
     parent = excluded.parent, state = excluded.state, created_ms = excluded.created_ms, \
     expires_ms = excluded.expires_ms, holder = excluded.holder, \
     held_until_ms = excluded.held_until_ms, size = excluded.size, version = excluded.version, \
     body = excluded.body"
);
const APPEND: Sql = sql_rows!(
    "INSERT INTO tollway_log (collection, id, n, ends_at, kind, body) SELECT value->>0, \
     value->>1, CAST(value->>2 AS BIGINT), CAST(value->>3 AS BIGINT), value->>4, value->>5",
    ""
);

type Outcome = Result<Vec<u64>, StoreError>;

/// A batch that waits.
pub(in crate::sql) struct Waiting {
    batch: Batch,
    bytes: usize,
    answer: oneshot::Sender<Outcome>,
}

/// Where batches are handed in. The task ends when all of them are gone.
pub(in crate::sql) type Writer = mpsc::Sender<Waiting>;

/// Starts the task.
pub(in crate::sql) fn writer(database: Database) -> Writer {
    let (writer, waiting) = mpsc::channel(GROUP_MAX);
    tokio::spawn(write_all(database, waiting));
    writer
}

/// Has a batch made.
pub(super) async fn write(writer: &Writer, batch: Batch) -> Outcome {
    let bytes = checked(&batch)?;
    let unavailable = |why: &str| StoreError::Unavailable(why.to_owned());
    let made = async {
        let (answer, answered) = oneshot::channel();
        let closed = |_| unavailable("it is closed");
        writer.send(Waiting { batch, bytes, answer }).await.map_err(closed)?;
        answered.await.unwrap_or_else(|_| Err(unavailable("it is closed")))
    };
    match tokio::time::timeout(WRITE_MAX, made).await {
        Ok(outcome) => outcome,
        Err(_) => Err(unavailable("it has too much to write")),
    }
}

async fn write_all(database: Database, mut waiting: mpsc::Receiver<Waiting>) {
    while let Some(first) = waiting.recv().await {
        let mut bytes = first.bytes;
        let mut group = vec![first];
        while group.len() < GROUP_MAX && bytes < GROUP_BYTES {
            let Ok(next) = waiting.try_recv() else { break };
            bytes += next.bytes;
            group.push(next);
        }
        write_group(&database, group).await;
    }
}

/// Makes batches and answers them. A group that the database takes offence at is halved until the
/// batch at fault is alone.
async fn write_group(database: &Database, group: Vec<Waiting>) {
    let mut todo = vec![group];
    while let Some(mut group) = todo.pop() {
        // Who has gone was not told that it is written: it need not be.
        group.retain(|one| !one.answer.is_closed());
        if group.is_empty() {
            continue;
        }
        let batches: Vec<&Batch> = group.iter().map(|one| &one.batch).collect();
        match transact(database, &batches).await {
            Ok(outcomes) => {
                for (one, outcome) in group.into_iter().zip(outcomes) {
                    let _ = one.answer.send(outcome);
                }
            }
            Err(failure) if group.len() > 1 && failure.is_about_size() => {
                let second = group.split_off(group.len() / 2);
                todo.extend([second, group]);
            }
            Err(failure) => {
                let is_about_data = failure.is_about_data();
                let why = failure.to_string();
                for one in group {
                    let _ = one.answer.send(Err(match is_about_data {
                        true => StoreError::Invalid(why.clone()),
                        false => StoreError::Unavailable(why.clone()),
                    }));
                }
            }
        }
    }
}

/// Makes those batches that can be made, in one transaction. What became of each.
async fn transact(database: &Database, batches: &[&Batch]) -> Result<Vec<Outcome>, Failure> {
    let mut tried = 1;
    loop {
        let mut work = database.write().await?;
        let outcomes = write_batches(&mut work, batches).await;
        match work.end(outcomes).await {
            Err(failure) if failure.is_race() && tried < TRIES => tried += 1,
            outcomes => return outcomes,
        }
    }
}

async fn write_batches(work: &mut Work, batches: &[&Batch]) -> Result<Vec<Outcome>, Failure> {
    let mut plan = Plan::about(batches);
    let names = rows(&plan.names());
    let names = [Value::Text(&names)];
    work.each(&DOCUMENTS, &names, |row| {
        plan.has_document(row.unsigned(0)? as usize, row.unsigned(1)?);
        Ok(())
    })
    .await?;
    if batches.iter().any(|batch| !batch.append.is_empty()) {
        work.each(&LOGS, &names, |row| {
            plan.has_log(row.unsigned(0)? as usize, row.unsigned(1)? + 1, row.unsigned(2)?);
            Ok(())
        })
        .await?;
    }
    let outcomes = batches.iter().map(|batch| plan.make(batch)).collect();
    write_rows(work, &REMOVE, &plan.removed()).await?;
    write_rows(work, &REMOVE_LOGS, &plan.removed()).await?;
    write_rows(work, &CREATE, &plan.put(true)).await?;
    write_rows(work, &REPLACE, &plan.put(false)).await?;
    write_rows(work, &APPEND, &plan.lines()).await?;
    Ok(outcomes)
}

async fn write_rows<T: serde::Serialize>(
    work: &mut Work,
    sql: &Sql,
    list: &[T],
) -> Result<(), Failure> {
    if !list.is_empty() {
        work.run(sql, &[Value::Text(&rows(list))]).await?;
    }
    Ok(())
}
