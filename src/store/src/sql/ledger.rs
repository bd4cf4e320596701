//! [`Ledger`] in a database.
//!
//! A batch is one transaction: its rows, and the sums of those rows that were not there before. So
//! a batch that is sent again, whole or in part, changes nothing.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use tollway_filter_api::ledger::{
    Asking, Dimension, Entry, Ledger, Span, SpendFilter, SpendRecord, Sum,
};

use super::SqlStore;
use super::database::{Failure, Sql, Value, Work, int, rows, sql, sql_rows};
use super::fit::{fit, fit_arc};
use super::sums::{self, PICOS, Sums};

/// How many tags of a record are kept.
pub const TAGS_MAX: usize = 64;

/// What one record can add to a sum of tokens, in either direction: no call takes so many, and sums
/// cannot overflow. The record itself keeps what it said.
pub const TOKENS_MAX: u64 = 1_000_000_000;

/// The latest time a record can have begun, in milliseconds: the end of the year 9999.
const TIME_MAX: i64 = sums::END_OF_TIME - 1;

/// How many records are written in one transaction.
const BATCH: usize = 500;

/// How many records are forgotten in one transaction.
const FORGET: i64 = 5_000;

/// The node's row is locked from here on, so that batches of one node come one after the other.
/// The comparison is of unsigned numbers.
const NODE: Sql = sql!(
    "INSERT INTO tollway_nodes (name, last_seq) VALUES ($1, $2) ON CONFLICT (name) DO UPDATE SET \
     last_seq = CASE WHEN (excluded.last_seq < 0 AND tollway_nodes.last_seq >= 0) \
     OR ((excluded.last_seq < 0) = (tollway_nodes.last_seq < 0) \
     AND excluded.last_seq > tollway_nodes.last_seq) \
     THEN excluded.last_seq ELSE tollway_nodes.last_seq END RETURNING node, forgotten_seq"
);
const SPEND: Sql = sql_rows!(
    "INSERT INTO tollway_spend (node, seq, started_ms, request_id, key_hash, user_id, team_id, \
     end_user, model_group, provider, failed, cache_hit, prompt_tokens, completion_tokens, \
     dollars, picos, record, model_id) SELECT $2, CAST(value->>0 AS BIGINT), CAST(value->>1 AS BIGINT), \
     value->>2, value->>3, value->>4, value->>5, value->>6, value->>7, value->>8, \
     CAST(value->>9 AS BIGINT), CAST(value->>10 AS BIGINT), CAST(value->>11 AS BIGINT), \
     CAST(value->>12 AS BIGINT), CAST(value->>13 AS BIGINT), CAST(value->>14 AS BIGINT), \
     value->15->>0, value->15->>1",
    "WHERE true ON CONFLICT (node, seq) DO NOTHING RETURNING seq"
);
/// Of (seq): what there is of the node `$2`.
const THERE: Sql = sql_rows!(
    "SELECT seq, started_ms, request_id FROM tollway_spend WHERE node = $2 AND seq IN \
     (SELECT CAST(value->>0 AS BIGINT)",
    ")"
);
const TAGS: Sql = sql_rows!(
    "INSERT INTO tollway_spend_tags (tag, started_ms, node, seq) \
     SELECT value->>0, CAST(value->>1 AS BIGINT), $2, CAST(value->>2 AS BIGINT)",
    ""
);

const LAST_SEQ: Sql = sql!("SELECT last_seq FROM tollway_nodes WHERE name = $1");

const FORGOTTEN: Sql = sql!("SELECT forgotten_before FROM tollway_ledger");
/// Locks, so that there is one at a time.
const FORGET_BEFORE: Sql = sql!(
    "UPDATE tollway_ledger SET forgotten_before = \
     CASE WHEN $1 > forgotten_before THEN $1 ELSE forgotten_before END"
);
/// Waits for batches that are being written, and makes later ones wait.
const LOCK_NODES: Sql = sql!("UPDATE tollway_nodes SET last_seq = last_seq");
const FORGET_SPEND: Sql = sql!(
    "DELETE FROM tollway_spend WHERE (node, seq) IN (SELECT node, seq FROM tollway_spend \
     WHERE started_ms < $1 ORDER BY started_ms LIMIT $2) RETURNING node, seq"
);
const FORGET_TAGS: Sql = sql_rows!(
    "DELETE FROM tollway_spend_tags WHERE (node, seq) IN \
     (SELECT CAST(value->>0 AS BIGINT), CAST(value->>1 AS BIGINT)",
    ")"
);
const FORGOTTEN_SEQ: Sql = sql!("SELECT forgotten_seq FROM tollway_nodes WHERE node = $1");
const FORGET_SEQ: Sql = sql!("UPDATE tollway_nodes SET forgotten_seq = $2 WHERE node = $1");

/// Records by what [`SpendFilter`] asks for, found through `$driver`: no index serves a condition
/// that may be left out.
macro_rules! records {
    ($from:literal, $driver:literal, $order:literal) => {
        sql!(
            "SELECT s.record FROM ",
            $from,
            " WHERE ",
            $driver,
            " AND ($1 IS NULL OR s.request_id = $1) AND ($2 IS NULL OR s.key_hash = $2) \
             AND ($3 IS NULL OR s.user_id = $3) AND ($4 IS NULL OR s.team_id = $4) \
             AND ($5 IS NULL OR s.end_user = $5) AND ($6 IS NULL OR EXISTS (SELECT 1 \
             FROM tollway_spend_tags u WHERE u.node = s.node AND u.seq = s.seq AND u.tag = $6)) \
             AND ($7 IS NULL OR s.model_group = $7) AND s.started_ms >= $8 AND s.started_ms < $9 \
             ORDER BY ",
            $order,
            " LIMIT $10 OFFSET $11"
        )
    };
    ($driver:literal) => {
        records!(
            "tollway_spend s",
            $driver,
            "s.started_ms DESC, s.node DESC, s.seq DESC"
        )
    };
}

const RECORDS: Sql = records!("s.started_ms >= $8");
const RECORDS_BY_REQUEST: Sql = records!("s.request_id = $1");
const RECORDS_BY_KEY: Sql = records!("s.key_hash = $2");
const RECORDS_BY_USER: Sql = records!("s.user_id <> '' AND s.user_id = $3");
const RECORDS_BY_TEAM: Sql = records!("s.team_id <> '' AND s.team_id = $4");
const RECORDS_BY_END_USER: Sql = records!("s.end_user <> '' AND s.end_user = $5");
const RECORDS_BY_TAG: Sql = records!(
    "tollway_spend_tags t JOIN tollway_spend s ON s.node = t.node AND s.seq = t.seq",
    "t.tag = $6 AND t.started_ms >= $8 AND t.started_ms < $9",
    "t.started_ms DESC, t.node DESC, t.seq DESC"
);

impl Ledger for SqlStore {
    fn append<'a>(&'a self, node: &'a str, entries: &'a [Entry]) -> Asking<'a, ()> {
        Box::pin(async move {
            for batch in entries.chunks(BATCH) {
                self.append_batch(&fit(node), batch).await?;
            }
            Ok(())
        })
    }

    fn last_seq<'a>(&'a self, node: &'a str) -> Asking<'a, Option<u64>> {
        Box::pin(async move {
            let mut work = self.database().read().await?;
            let values = [Value::Text(&fit(node))];
            Ok(work.one(&LAST_SEQ, &values, |row| row.unsigned(0)).await?)
        })
    }

    fn records(&self, filter: SpendFilter, skip: u64, limit: u64) -> Asking<'_, Vec<SpendRecord>> {
        Box::pin(async move {
            let sql = match &filter {
                SpendFilter { request_id: Some(_), .. } => RECORDS_BY_REQUEST,
                SpendFilter { key: Some(_), .. } => RECORDS_BY_KEY,
                SpendFilter { user: Some(_), .. } => RECORDS_BY_USER,
                SpendFilter { end_user: Some(_), .. } => RECORDS_BY_END_USER,
                SpendFilter { tag: Some(_), .. } => RECORDS_BY_TAG,
                SpendFilter { team: Some(_), .. } => RECORDS_BY_TEAM,
                _ => RECORDS,
            };
            let SpendFilter { request_id, key, user, team, end_user, tag, group, from_ms, to_ms } =
                filter;
            let texts = [request_id, key, user, team, end_user, tag, group];
            let texts = texts.each_ref().map(|text| text.as_deref().map(fit));
            let mut values: Vec<_> =
                texts.iter().map(|text| Value::Maybe(text.as_deref())).collect();
            values.push(Value::Int(int(from_ms.unwrap_or(0))));
            values.push(Value::Int(int(to_ms.unwrap_or(u64::MAX))));
            values.push(Value::Int(int(limit)));
            values.push(Value::Int(int(skip)));

            let mut work = self.database().read().await?;
            let mut found = Vec::new();
            work.each(&sql, &values, |row| {
                match serde_json::from_str(row.text(0)?) {
                    Ok(record) => found.push(record),
                    Err(error) => tracing::error!(%error, "a record of spend cannot be read"),
                }
                Ok(())
            })
            .await?;
            Ok(found)
        })
    }

    fn sums(
        &self,
        dimension: Dimension,
        span: Span,
        from_ms: u64,
        to_ms: u64,
    ) -> Asking<'_, Vec<Sum>> {
        Box::pin(async move {
            let mut work = self.database().snapshot().await?;
            let sums = async {
                let forgotten = forgotten_before(&mut work).await?;
                sums::read(&mut work, forgotten, dimension, span, int(from_ms), int(to_ms)).await
            }
            .await;
            Ok(work.end(sums).await?)
        })
    }

    fn forget(&self, before_ms: u64) -> Asking<'_, u64> {
        Box::pin(async move {
            let before = int(before_ms).min(sums::END_OF_TIME);
            let mut forgotten = 0;
            loop {
                let mut work = self.database().write().await?;
                let some = forget_some(&mut work, before).await;
                let some = work.end(some).await?;
                forgotten += some;
                if some < FORGET as u64 {
                    return Ok(forgotten);
                }
            }
        })
    }
}

impl SqlStore {
    /// Writes a batch. One that the database takes offence at is halved until the record at fault
    /// is found, and that one is written without its texts: nothing may stop those behind it.
    async fn append_batch(&self, node: &str, batch: &[Entry]) -> Result<(), Failure> {
        let mut todo = vec![batch];
        while let Some(part) = todo.pop() {
            let Err(failure) = self.write_batch(node, part, reduced).await else { continue };
            match part {
                [_, _, ..] if failure.is_about_size() => {
                    let (first, second) = part.split_at(part.len() / 2);
                    todo.extend([second, first]);
                }
                [entry] if failure.is_about_data() => {
                    let seq = entry.seq;
                    tracing::error!(node, seq, %failure, "spend is stored without its texts");
                    self.write_batch(node, part, bare).await?;
                }
                _ => return Err(failure),
            }
        }
        Ok(())
    }

    async fn write_batch(
        &self,
        node: &str,
        batch: &[Entry],
        form: fn(&SpendRecord) -> SpendRecord,
    ) -> Result<(), Failure> {
        // By `seq`, the first of each: in this order.
        let mut entries = BTreeMap::new();
        for Entry { seq, record } in batch {
            entries.entry(*seq).or_insert(record);
        }
        let Some(last) = entries.keys().next_back().copied() else { return Ok(()) };
        let records: Vec<_> =
            entries.into_iter().map(|(seq, record)| (seq as i64, form(record))).collect();
        let lines: Vec<_> = records.iter().map(|(seq, record)| Line::of(*seq, record)).collect();
        let mut work = self.database().write().await?;
        let written = write_lines(&mut work, node, last, lines).await;
        work.end(written).await
    }
}

/// Writes records within a transaction that writes something else as well.
pub(super) async fn write_entries(
    work: &mut Work,
    node: &str,
    entries: &[Entry],
) -> Result<(), Failure> {
    for batch in entries.chunks(BATCH) {
        let records: BTreeMap<u64, SpendRecord> =
            batch.iter().map(|entry| (entry.seq, reduced(&entry.record))).collect();
        let Some(last) = records.keys().next_back().copied() else { continue };
        let lines = records.iter().map(|(seq, record)| Line::of(*seq as i64, record)).collect();
        write_lines(work, node, last, lines).await?;
    }
    Ok(())
}

async fn write_lines(
    work: &mut Work,
    node: &str,
    last: u64,
    mut lines: Vec<Line<'_>>,
) -> Result<(), Failure> {
    let values = [Value::Text(node), Value::Int(last as i64)];
    let name = node;
    let (node, forgotten_seq) = work
        .one(&NODE, &values, |row| Ok((row.int(0)?, row.maybe_int(1)?)))
        .await?
        .ok_or(sqlx::Error::RowNotFound)?;
    if let Some(forgotten_seq) = forgotten_seq {
        let before = forgotten_before(work).await?;
        // It was here once, or else it would have come before those that were forgotten.
        lines.retain(|line| line.started_ms >= before || line.seq as u64 > forgotten_seq as u64);
    }
    let spend: Vec<_> = lines.iter().map(Line::row).collect();
    let mut new = std::collections::HashSet::new();
    work.each(&SPEND, &[Value::Text(&rows(&spend)), Value::Int(node)], |row| {
        new.insert(row.int(0)?);
        Ok(())
    })
    .await?;
    if new.len() < lines.len() {
        look_for_doubles(work, name, node, lines.iter().filter(|line| !new.contains(&line.seq)))
            .await?;
    }
    lines.retain(|line| new.contains(&line.seq));
    if lines.is_empty() {
        return Ok(());
    }
    let tags: Vec<_> = lines
        .iter()
        .flat_map(|line| line.tags().into_iter().map(|tag| (tag, line.started_ms, line.seq)))
        .collect();
    if !tags.is_empty() {
        work.run(&TAGS, &[Value::Text(&rows(&tags)), Value::Int(node)]).await?;
    }
    let mut sums = Sums::default();
    for line in &lines {
        line.add_to(&mut sums);
    }
    sums.write(work).await
}

/// Tells of records that were not written because the node has others of the same number: two
/// nodes have one name, and what one of them spends is lost.
async fn look_for_doubles<'l>(
    work: &mut Work,
    name: &str,
    node: i64,
    known: impl Iterator<Item = &'l Line<'l>>,
) -> Result<(), Failure> {
    let known: HashMap<i64, &Line<'_>> = known.map(|line| (line.seq, line)).collect();
    let seqs: Vec<_> = known.keys().map(|seq| (seq,)).collect();
    let mut doubles = 0;
    work.each(&THERE, &[Value::Text(&rows(&seqs)), Value::Int(node)], |row| {
        let line = known.get(&row.int(0)?);
        // One that was stored without its texts is no other.
        let request = row.text(2)?;
        doubles += u64::from(line.is_some_and(|line| {
            row.int(1).is_ok_and(|started| started != line.started_ms)
                || !request.is_empty() && *request != *line.record.request_id
        }));
        Ok(())
    })
    .await?;
    if doubles > 0 {
        tracing::error!(
            node = name,
            records = doubles,
            "another node of the same name has written spend: give every node its own name and \
             data folder; these records are not in the ledger"
        );
    }
    Ok(())
}

async fn forgotten_before(work: &mut Work) -> Result<i64, Failure> {
    Ok(work.one(&FORGOTTEN, &[], |row| row.int(0)).await?.unwrap_or(0))
}

async fn forget_some(work: &mut Work, before: i64) -> Result<u64, Failure> {
    work.run(&FORGET_BEFORE, &[Value::Int(before)]).await?;
    work.run(&LOCK_NODES, &[]).await?;
    let mut gone = Vec::new();
    work.each(&FORGET_SPEND, &[Value::Int(before), Value::Int(FORGET)], |row| {
        gone.push((row.int(0)?, row.int(1)?));
        Ok(())
    })
    .await?;
    if gone.is_empty() {
        return Ok(0);
    }
    work.run(&FORGET_TAGS, &[Value::Text(&rows(&gone))]).await?;
    let mut highest: HashMap<i64, u64> = HashMap::new();
    for (node, seq) in &gone {
        let highest = highest.entry(*node).or_default();
        *highest = (*highest).max(*seq as u64);
    }
    for (node, seq) in highest {
        let known = work.one(&FORGOTTEN_SEQ, &[Value::Int(node)], |row| row.maybe_int(0)).await?;
        let seq = known.flatten().map_or(seq, |known| seq.max(known as u64));
        work.run(&FORGET_SEQ, &[Value::Int(node), Value::Int(seq as i64)]).await?;
    }
    Ok(gone.len() as u64)
}

/// A record that can be stored: texts that are no longer than they may be.
fn reduced(record: &SpendRecord) -> SpendRecord {
    let maybe = |text: &Option<Arc<str>>| text.as_ref().map(fit_arc);
    SpendRecord {
        request_id: fit_arc(&record.request_id),
        operation: fit_arc(&record.operation),
        key: fit_arc(&record.key),
        key_alias: maybe(&record.key_alias),
        user: maybe(&record.user),
        team: maybe(&record.team),
        end_user: maybe(&record.end_user),
        tags: record.tags.iter().take(TAGS_MAX).map(fit_arc).collect(),
        group: fit_arc(&record.group),
        model: fit_arc(&record.model),
        model_id: fit_arc(&record.model_id),
        provider: fit_arc(&record.provider),
        api_base: fit_arc(&record.api_base),
        client: maybe(&record.client),
        ..*record
    }
}

/// What is left when its texts cannot be stored: when, how much, and what came of it.
fn bare(record: &SpendRecord) -> SpendRecord {
    SpendRecord {
        started_ms: record.started_ms,
        first_byte_ms: record.first_byte_ms,
        ended_ms: record.ended_ms,
        usage: record.usage,
        usage_estimated: record.usage_estimated,
        cost: record.cost,
        unpriced: record.unpriced,
        cache_hit: record.cache_hit,
        status: record.status,
        ..SpendRecord::default()
    }
}

/// A record on its way into the database.
struct Line<'r> {
    seq: i64,
    started_ms: i64,
    record: &'r SpendRecord,
    json: String,
}

/// As [`SPEND`] reads it.
type SpendRow<'l> = (
    i64,
    i64,
    &'l str,
    &'l str,
    &'l str,
    &'l str,
    &'l str,
    &'l str,
    &'l str,
    i64,
    i64,
    i64,
    i64,
    i64,
    i64,
    (&'l str, &'l str),
);

impl<'r> Line<'r> {
    fn of(seq: i64, record: &'r SpendRecord) -> Line<'r> {
        let json = serde_json::to_string(record).expect("texts and numbers can be written");
        Line { seq, started_ms: int(record.started_ms).min(TIME_MAX), record, json }
    }

    fn row(&self) -> SpendRow<'_> {
        let record = self.record;
        let maybe = |text: &'r Option<Arc<str>>| text.as_deref().unwrap_or_default();
        let amounts = sums::Amounts::of(record);
        (
            self.seq,
            self.started_ms,
            &record.request_id,
            &record.key,
            maybe(&record.user),
            maybe(&record.team),
            maybe(&record.end_user),
            &record.group,
            &record.provider,
            amounts.failed,
            amounts.cache_hits,
            amounts.prompt_tokens,
            amounts.completion_tokens,
            (amounts.cost / PICOS) as i64,
            (amounts.cost % PICOS) as i64,
            (&self.json, &record.model_id),
        )
    }

    /// Each once.
    fn tags(&self) -> BTreeSet<&'r str> {
        self.record.tags.iter().map(AsRef::as_ref).collect()
    }

    fn add_to(&self, sums: &mut Sums<'r>) {
        let record = self.record;
        let amounts = sums::Amounts::of(record);
        let maybe = |text: &'r Option<Arc<str>>| text.as_deref().unwrap_or_default();
        let mut tags = self.tags();
        if tags.is_empty() {
            tags.insert("");
        }
        let mut add = |dimension, subject: &'r str, part: &'r str| {
            sums.add(dimension, self.started_ms, subject, part, &amounts);
        };
        let (user, team) = (maybe(&record.user), maybe(&record.team));
        for dimension in Dimension::ALL {
            match dimension {
                Dimension::Total => add(dimension, "", ""),
                Dimension::Key => add(dimension, &record.key, ""),
                Dimension::User => add(dimension, user, ""),
                Dimension::Team => add(dimension, team, ""),
                Dimension::EndUser => add(dimension, maybe(&record.end_user), ""),
                Dimension::Model => add(dimension, &record.group, ""),
                Dimension::Provider => add(dimension, &record.provider, ""),
                Dimension::Tag => tags.iter().for_each(|tag| add(dimension, tag, "")),
                Dimension::KeyModel => add(dimension, &record.key, &record.group),
                Dimension::TeamModel if !team.is_empty() => add(dimension, team, &record.group),
                Dimension::UserModel if !user.is_empty() => add(dimension, user, &record.group),
                Dimension::TeamMember if !team.is_empty() && !user.is_empty() => {
                    add(dimension, team, user);
                }
                Dimension::Deployment if !record.model_id.is_empty() => {
                    add(dimension, &record.model_id, "");
                }
                Dimension::TeamModel
                | Dimension::UserModel
                | Dimension::TeamMember
                | Dimension::Deployment => {}
            }
        }
    }
}
