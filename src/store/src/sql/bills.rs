//! Bills for what was done at a provider long before anybody knows its cost: a change of the document
//! that says whether it was billed, and its lines of the ledger, in one transaction.
//!
//! Whoever dies leaves both or neither, and of several who bill the same only the first changes the
//! version of the document that all of them have read. So each bill is there once, whatever the
//! nodes and their journals do.

use tollway_filter_api::documents::Document;
use tollway_filter_api::ledger::{Entry, SpendRecord, StoreError};

use super::SqlStore;
use super::database::{Failure, Sql, Value, int, sql};
use super::ledger;

/// What the ledger calls the node of such lines. No gateway has a name with a space.
const NODE: &str = "bills of batches";

/// The next numbers of that node. The row is locked from here on, so that no two bills have the same.
const NUMBERS: Sql = sql!(
    "INSERT INTO tollway_nodes (name, last_seq) VALUES ($1, $2) ON CONFLICT (name) DO UPDATE \
     SET last_seq = tollway_nodes.last_seq + excluded.last_seq RETURNING last_seq"
);
const SETTLE: Sql = sql!(
    "UPDATE tollway_documents SET state = $4, body = $5, expires_ms = $6, holder = NULL, \
     held_until_ms = 0, version = version + 1 WHERE collection = $1 AND id = $2 AND version = $3"
);

impl SqlStore {
    /// Replaces a document's state, body and end, and takes records that belong to the change: all of
    /// it or nothing.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] where the document has another version or is gone. One that fails as
    /// unavailable may have been made all the same: who wants to know reads.
    pub async fn bill(
        &self,
        document: &Document,
        records: Vec<SpendRecord>,
    ) -> Result<(), StoreError> {
        let body = std::str::from_utf8(&document.body)
            .map_err(|_| StoreError::Invalid("the document is no text".to_owned()))?;
        let values = [
            Value::Text(document.collection.name()),
            Value::Text(&document.id),
            Value::Int(int(document.version)),
            Value::Text(&document.state),
            Value::Text(body),
            Value::Int(document.expires_ms.map_or(i64::MAX, int)),
        ];
        let mut work = self.database().write().await?;
        let billed = async {
            if work.run(&SETTLE, &values).await? == 0 {
                let (collection, id) = (document.collection.name(), &document.id);
                let why = format!("the {collection} {id} was changed meanwhile");
                return Err(Failure::Store(StoreError::Conflict(why)));
            }
            if records.is_empty() {
                return Ok(());
            }
            let count = records.len() as i64;
            let numbers = [Value::Text(NODE), Value::Int(count)];
            let last = work.one(&NUMBERS, &numbers, |row| row.int(0)).await?;
            let first = last.ok_or(sqlx::Error::RowNotFound)? - count + 1;
            let entries: Vec<Entry> =
                (first as u64..).zip(records).map(|(seq, record)| Entry { seq, record }).collect();
            ledger::write_entries(&mut work, NODE, &entries).await
        }
        .await;
        Ok(work.end(billed).await?)
    }
}
