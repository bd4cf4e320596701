//! Sums of spend by minute, hour and day: how they are kept, and how a sum over any time is made of
//! them.

use std::collections::BTreeMap;
use std::sync::Arc;

use tollway_filter_api::ledger::{Dimension, Span, SpendRecord, StoreError, Sum};

use super::database::{Failure, Sql, Value, Work, rows, sql, sql_rows};
use super::ledger::TOKENS_MAX;

/// How many pico-dollars are a dollar: the columns are one for dollars and one for what is left.
pub(super) const PICOS: u128 = 1_000_000_000_000;

/// The first millisecond of the year 10000, which is the beginning of a day.
pub(super) const END_OF_TIME: i64 = 253_402_300_800_000;

/// How many sums are given at once.
const SUMS_MAX: usize = 1_000_000;

const MINUTE: i64 = 60_000;

/// What is added up, from fine to coarse. Their numbers are in the database.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Level {
    Records = 0,
    Minutes = 1,
    Hours = 2,
    Days = 3,
}

impl Level {
    /// Those there are rows of sums for.
    const KEPT: [Level; 3] = [Level::Minutes, Level::Hours, Level::Days];

    fn milliseconds(self) -> i64 {
        match self {
            Level::Records => 1,
            Level::Minutes => MINUTE,
            Level::Hours => 60 * MINUTE,
            Level::Days => 24 * 60 * MINUTE,
        }
    }

    fn finer(self) -> Level {
        match self {
            Level::Days => Level::Hours,
            Level::Hours => Level::Minutes,
            Level::Minutes | Level::Records => Level::Records,
        }
    }
}

const PUT: Sql = sql_rows!(
    "INSERT INTO tollway_sums (dimension, span, start_ms, subject, part, calls, failed, \
     cache_hits, prompt_tokens, completion_tokens, dollars, picos) SELECT \
     CAST(value->>0 AS BIGINT), CAST(value->>1 AS BIGINT), CAST(value->>2 AS BIGINT), value->>3, \
     value->>4, CAST(value->>5 AS BIGINT), CAST(value->>6 AS BIGINT), CAST(value->>7 AS BIGINT), \
     CAST(value->>8 AS BIGINT), CAST(value->>9 AS BIGINT), CAST(value->>10 AS BIGINT), \
     CAST(value->>11 AS BIGINT)",
    "WHERE true ON CONFLICT (dimension, span, start_ms, subject, part) DO UPDATE SET \
     calls = tollway_sums.calls + excluded.calls, \
     failed = tollway_sums.failed + excluded.failed, \
     cache_hits = tollway_sums.cache_hits + excluded.cache_hits, \
     prompt_tokens = tollway_sums.prompt_tokens + excluded.prompt_tokens, \
     completion_tokens = tollway_sums.completion_tokens + excluded.completion_tokens, \
     dollars = tollway_sums.dollars + excluded.dollars \
     + (tollway_sums.picos + excluded.picos) / 1000000000000, \
     picos = (tollway_sums.picos + excluded.picos) % 1000000000000"
);

/// Of kept sums. `$5`: how long the pieces of time are.
const OF_SUMS: Sql = sql!(
    "SELECT start_ms - start_ms % $5, subject, part, CAST(SUM(calls) AS BIGINT), \
     CAST(SUM(failed) AS BIGINT), CAST(SUM(cache_hits) AS BIGINT), \
     CAST(SUM(prompt_tokens) AS BIGINT), CAST(SUM(completion_tokens) AS BIGINT), \
     CAST(SUM(dollars) AS BIGINT), CAST(SUM(picos) AS BIGINT) FROM tollway_sums \
     WHERE dimension = $1 AND span = $2 AND start_ms >= $3 AND start_ms < $4 GROUP BY 1, 2, 3"
);

/// Of records; `$2` is not used but to have the same places.
const OF_RECORDS: Sql = sql!(
    "SELECT s.started_ms - s.started_ms % $5, CASE $1 WHEN 1 THEN s.key_hash \
     WHEN 2 THEN s.user_id WHEN 3 THEN s.team_id WHEN 4 THEN s.end_user WHEN 5 THEN s.model_group \
     WHEN 6 THEN s.provider WHEN 7 THEN COALESCE(t.tag, '') WHEN 8 THEN s.key_hash \
     WHEN 9 THEN s.team_id WHEN 10 THEN s.user_id WHEN 11 THEN s.team_id WHEN 12 THEN s.model_id \
     ELSE '' END, CASE $1 WHEN 8 THEN s.model_group WHEN 9 THEN s.model_group \
     WHEN 10 THEN s.model_group WHEN 11 THEN s.user_id ELSE '' END, COUNT(*), CAST(SUM(s.failed) AS BIGINT), \
     CAST(SUM(s.cache_hit) AS BIGINT), CAST(SUM(s.prompt_tokens) AS BIGINT), \
     CAST(SUM(s.completion_tokens) AS BIGINT), CAST(SUM(s.dollars) AS BIGINT), \
     CAST(SUM(s.picos) AS BIGINT) FROM tollway_spend s LEFT JOIN tollway_spend_tags t \
     ON $1 = 7 AND t.node = s.node AND t.seq = s.seq \
     WHERE $2 = 0 AND s.started_ms >= $3 AND s.started_ms < $4 \
     AND ($1 NOT IN (9, 11) OR s.team_id <> '') AND ($1 NOT IN (10, 11) OR s.user_id <> '') \
     AND ($1 <> 12 OR s.model_id <> '') GROUP BY 1, 2, 3"
);

/// What is added up.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Amounts {
    pub(super) calls: i64,
    pub(super) failed: i64,
    pub(super) cache_hits: i64,
    pub(super) prompt_tokens: i64,
    pub(super) completion_tokens: i64,
    pub(super) cost: u128,
}

impl Amounts {
    pub(super) fn of(record: &SpendRecord) -> Amounts {
        let tokens = |count: u64| count.min(TOKENS_MAX) as i64;
        Amounts {
            calls: 1,
            failed: i64::from(!(200..400).contains(&record.status)),
            cache_hits: i64::from(record.cache_hit),
            prompt_tokens: tokens(record.usage.prompt_tokens),
            completion_tokens: tokens(record.usage.completion_tokens),
            cost: record.cost.0.into(),
        }
    }

    fn add(&mut self, other: &Amounts) {
        self.calls = self.calls.saturating_add(other.calls);
        self.failed = self.failed.saturating_add(other.failed);
        self.cache_hits = self.cache_hits.saturating_add(other.cache_hits);
        self.prompt_tokens = self.prompt_tokens.saturating_add(other.prompt_tokens);
        self.completion_tokens = self.completion_tokens.saturating_add(other.completion_tokens);
        self.cost = self.cost.saturating_add(other.cost);
    }
}

/// The number of a dimension in the database.
fn number(dimension: Dimension) -> i64 {
    match dimension {
        Dimension::Total => 0,
        Dimension::Key => 1,
        Dimension::User => 2,
        Dimension::Team => 3,
        Dimension::EndUser => 4,
        Dimension::Model => 5,
        Dimension::Provider => 6,
        Dimension::Tag => 7,
        Dimension::KeyModel => 8,
        Dimension::TeamModel => 9,
        Dimension::UserModel => 10,
        Dimension::TeamMember => 11,
        Dimension::Deployment => 12,
    }
}

/// What a batch adds to the sums. In order, so that two batches that are written at once do not
/// wait for one another.
#[derive(Default)]
pub(super) struct Sums<'r> {
    minutes: BTreeMap<(i64, i64, &'r str, &'r str), Amounts>,
}

impl<'r> Sums<'r> {
    pub(super) fn add(
        &mut self,
        dimension: Dimension,
        at_ms: i64,
        subject: &'r str,
        part: &'r str,
        amounts: &Amounts,
    ) {
        let minute = at_ms - at_ms % MINUTE;
        self.minutes.entry((number(dimension), minute, subject, part)).or_default().add(amounts);
    }

    pub(super) async fn write(self, work: &mut Work) -> Result<(), Failure> {
        let mut kept: BTreeMap<_, Amounts> = BTreeMap::new();
        for ((dimension, minute, subject, part), amounts) in &self.minutes {
            for level in Level::KEPT {
                let start = minute - minute % level.milliseconds();
                let key = (*dimension, level as i64, start, *subject, *part);
                kept.entry(key).or_default().add(amounts);
            }
        }
        let lines: Vec<_> = kept
            .into_iter()
            .map(|((dimension, level, start, subject, part), amounts)| {
                (
                    dimension,
                    level,
                    start,
                    subject,
                    part,
                    amounts.calls,
                    amounts.failed,
                    amounts.cache_hits,
                    amounts.prompt_tokens,
                    amounts.completion_tokens,
                    (amounts.cost / PICOS) as i64,
                    (amounts.cost % PICOS) as i64,
                )
            })
            .collect();
        work.run(&PUT, &[Value::Text(&rows(&lines))]).await?;
        Ok(())
    }
}

/// Sums over `from..to`. In minutes of which records have been `forgotten` times can only be told
/// by the minute: `from` and `to` there are those of their minute's beginning.
pub(super) async fn read(
    work: &mut Work,
    forgotten: i64,
    dimension: Dimension,
    span: Span,
    from: i64,
    to: i64,
) -> Result<Vec<Sum>, Failure> {
    let told = |at: i64| {
        let at = at.min(END_OF_TIME);
        let minute = at - at % MINUTE;
        if minute < forgotten { minute } else { at }
    };
    let (level, length) = match span {
        Span::Minute => (Level::Minutes, Level::Minutes.milliseconds()),
        Span::Hour => (Level::Hours, Level::Hours.milliseconds()),
        Span::Day => (Level::Days, Level::Days.milliseconds()),
        Span::All => (Level::Days, END_OF_TIME),
    };
    let mut found: BTreeMap<(i64, Arc<str>, Arc<str>), Amounts> = BTreeMap::new();
    let mut too_many = false;
    for (level, from, to) in pieces(level, told(from), told(to)) {
        let sql = if level == Level::Records { OF_RECORDS } else { OF_SUMS };
        let values = [number(dimension), level as i64, from, to, length].map(Value::Int);
        work.each(&sql, &values, |row| {
            let key = (row.int(0)?, row.text(1)?.into(), row.text(2)?.into());
            let amounts = Amounts {
                calls: row.int(3)?,
                failed: row.int(4)?,
                cache_hits: row.int(5)?,
                prompt_tokens: row.int(6)?,
                completion_tokens: row.int(7)?,
                cost: row.unsigned(8)? as u128 * PICOS + row.unsigned(9)? as u128,
            };
            too_many |= found.len() >= SUMS_MAX;
            if !too_many {
                found.entry(key).or_default().add(&amounts);
            }
            Ok(())
        })
        .await?;
    }
    if too_many {
        return Err(Failure::Store(StoreError::Invalid(format!(
            "more than {SUMS_MAX} sums: ask for less time, or for longer pieces of it"
        ))));
    }
    let sums = found.into_iter().map(|((start, subject, part), amounts)| Sum {
        start_ms: start as u64,
        subject: match dimension.has_parts() {
            true => format!("{subject}\0{part}").into(),
            false => subject,
        },
        calls: amounts.calls as u64,
        failed: amounts.failed as u64,
        cache_hits: amounts.cache_hits as u64,
        prompt_tokens: amounts.prompt_tokens as u64,
        completion_tokens: amounts.completion_tokens as u64,
        cost: amounts.cost,
    });
    Ok(sums.collect())
}

/// What covers `from..to` exactly: whole pieces of `level` in the middle, finer ones around them.
fn pieces(level: Level, from: i64, to: i64) -> Vec<(Level, i64, i64)> {
    if from >= to {
        return Vec::new();
    }
    if level == Level::Records {
        return vec![(level, from, to)];
    }
    let length = level.milliseconds();
    let last = to - to % length;
    let first = from + (length - from % length) % length;
    if first >= last {
        return pieces(level.finer(), from, to);
    }
    let mut all = pieces(level.finer(), from, first);
    all.push((level, first, last));
    all.extend(pieces(level.finer(), last, to));
    all
}

#[cfg(test)]
mod tests {
    use super::{Level, pieces};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn pieces_cover_all_of_it_once(from in 0..400_000_000i64, length in 0..400_000_000i64) {
            for level in [Level::Minutes, Level::Hours, Level::Days] {
                let pieces = pieces(level, from, from + length);
                prop_assert!(pieces.len() <= 7);
                let mut at = from;
                for (level, first, last) in pieces {
                    prop_assert_eq!(first, at);
                    prop_assert!(first % level.milliseconds() == 0 && last % level.milliseconds() == 0);
                    at = last;
                }
                prop_assert_eq!(at, from + length);
            }
        }
    }
}
