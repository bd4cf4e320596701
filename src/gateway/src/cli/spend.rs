//! `tollway spend`: what was spent, and by whom, out of the ledger.
//!
//! It reads the database and changes nothing, so that it may run beside a gateway.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, ValueEnum};
use serde_json::{Value, json};
use tollway_filter_api::Clock;
use tollway_filter_api::accounts::{Accounts, Kind};
use tollway_filter_api::clock::millis;
use tollway_filter_api::ledger::{Dimension, Ledger, Span, SpendFilter, StoreError, Sum};
use tollway_store::sql::SqlStore;
use tollway_wire::price::PicoDollars;

use super::say;
use crate::money::DATABASE;
use crate::start::{Place, StartError};
use crate::{calendar, config};
use tollway_filter_api::treasury::Period;

/// How to show what.
#[derive(Debug, Args)]
#[command(after_help = "\
It changes nothing and may run beside a gateway. The ledger is fed from a journal a moment after each
call, so the last seconds may be missing. Times are in UTC. A call with two tags counts for both of
them, and once in the total.")]
pub(crate) struct SpendArgs {
    /// Whose spend is added up
    #[arg(long, value_enum, default_value_t = By::Team)]
    by: By,
    /// From when on: so long ago (24h, 7d, 1mo), a date (2027-01-31), a moment
    /// (2027-01-31T12:00:00Z) or `all`
    #[arg(long, value_name = "WHEN", default_value = "30d")]
    since: String,
    /// Until when, exclusive; until now if it is left out
    #[arg(long, value_name = "WHEN")]
    until: Option<String>,
    /// Sums for each day or hour instead of one
    #[arg(long, value_enum)]
    per: Option<Per>,
    /// A table rounds; CSV and JSON have every digit. In CSV a text that a spreadsheet would take
    /// for a formula begins with an apostrophe
    #[arg(long, value_enum, default_value_t = Format::Table)]
    format: Format,
    /// The config file, for its `database_url` and `data`
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The data folder, instead of the config's `data` or ./tollway-data
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
enum By {
    Team,
    Key,
    User,
    Model,
    Provider,
    Tag,
    #[value(alias = "end-user")]
    EndUser,
}

impl By {
    fn dimension(self) -> Dimension {
        match self {
            By::Team => Dimension::Team,
            By::Key => Dimension::Key,
            By::User => Dimension::User,
            By::Model => Dimension::Model,
            By::Provider => Dimension::Provider,
            By::Tag => Dimension::Tag,
            By::EndUser => Dimension::EndUser,
        }
    }

    fn name(self) -> &'static str {
        match self {
            By::Team => "team",
            By::Key => "key",
            By::User => "user",
            By::Model => "model",
            By::Provider => "provider",
            By::Tag => "tag",
            By::EndUser => "end_user",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Per {
    Day,
    Hour,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    Table,
    Csv,
    Json,
}

/// What is shown.
struct Report {
    by: By,
    per: Option<Per>,
    since: Duration,
    until: Duration,
    /// Each with its name, if it has one besides its id.
    rows: Vec<(Option<Arc<str>>, Sum)>,
    total: Sum,
}

/// `tollway spend`
pub(crate) fn run(args: &SpendArgs) -> Result<(), StartError> {
    let place = Place::find(args.config.as_deref(), args.data.as_deref())?;
    let now = Clock::system().unix();
    let since = match args.since.as_str() {
        "all" => Duration::ZERO,
        text => moment(text, now, "--since")?,
    };
    let until = match &args.until {
        // What begins this very millisecond as well.
        None => now + Duration::from_millis(1),
        Some(text) => moment(text, now, "--until")?,
    };
    if until <= since {
        return Err(StartError::new("--until is not after --since"));
    }
    let report = super::block_on(async {
        let store = match place.database_url {
            Some(url) => SqlStore::postgres_to_read(url).await,
            None => {
                let file = place.folder.join(DATABASE);
                if !file.exists() {
                    return Err(StartError::new(format!(
                        "{}: there is no such file; name the gateway's config with -c, or its data \
                         folder with --data",
                        file.display()
                    )));
                }
                SqlStore::sqlite_to_read(file).await
            }
        };
        let refused = |error: StoreError| StartError::new(error.to_string());
        let store = store.map_err(refused)?;
        let report = read(&store, args, since, until).await.map_err(refused);
        store.close().await;
        report
    })??;
    say(report.text(args.format).trim_end());
    Ok(())
}

fn moment(text: &str, now: Duration, name: &str) -> Result<Duration, StartError> {
    let ago = Period::length(text).ok().map(|period| calendar::before(now, period));
    ago.or_else(|| config::moment(text)).ok_or_else(|| {
        StartError::new(format!(
            "{name} must be a length of time (24h, 7d, 1mo), a date (2027-01-31) or a moment \
             (2027-01-31T12:00:00Z)"
        ))
    })
}

async fn read(
    store: &SqlStore,
    args: &SpendArgs,
    since: Duration,
    until: Duration,
) -> Result<Report, StoreError> {
    let (from, to) = (millis(since), millis(until));
    let span = match args.per {
        None => Span::All,
        Some(Per::Day) => Span::Day,
        Some(Per::Hour) => Span::Hour,
    };
    let mut sums = store.sums(args.by.dimension(), span, from, to).await?;
    sums.sort_by(|a, b| (a.start_ms, b.cost, &a.subject).cmp(&(b.start_ms, a.cost, &b.subject)));
    let total = match args.by {
        // A call with two tags is in two sums.
        By::Tag => store.sum_of(Dimension::Total, "", from, to).await?.unwrap_or_else(nothing),
        _ => sums.iter().fold(nothing(), add),
    };
    let mut names: HashMap<Arc<str>, Option<Arc<str>>> = HashMap::new();
    let mut rows = Vec::with_capacity(sums.len());
    for sum in sums {
        let name = match names.get(&sum.subject) {
            Some(name) => name.clone(),
            None => {
                let name = name_of(store, args.by, &sum.subject).await?;
                names.insert(Arc::clone(&sum.subject), name.clone());
                name
            }
        };
        rows.push((name, sum));
    }
    Ok(Report { by: args.by, per: args.per, since, until, rows, total })
}

fn nothing() -> Sum {
    Sum {
        start_ms: 0,
        subject: "".into(),
        calls: 0,
        failed: 0,
        cache_hits: 0,
        prompt_tokens: 0,
        completion_tokens: 0,
        cost: 0,
    }
}

fn add(mut total: Sum, sum: &Sum) -> Sum {
    total.calls += sum.calls;
    total.failed += sum.failed;
    total.cache_hits += sum.cache_hits;
    total.prompt_tokens += sum.prompt_tokens;
    total.completion_tokens += sum.completion_tokens;
    total.cost += sum.cost;
    total
}

/// What people call it.
async fn name_of(store: &SqlStore, by: By, id: &Arc<str>) -> Result<Option<Arc<str>>, StoreError> {
    let (kind, members): (Kind, &[&str]) = match by {
        _ if id.is_empty() => return Ok(None),
        By::Key => (Kind::Key, &[]),
        By::Team => (Kind::Team, &["team_alias"]),
        By::User => (Kind::User, &["user_alias", "user_email"]),
        By::EndUser => (Kind::EndUser, &["alias"]),
        By::Model | By::Provider | By::Tag => return Ok(None),
    };
    if let Some(object) = store.get(kind, id).await? {
        let said = members.iter().filter_map(|name| object.body.get(*name)?.as_str());
        let said = said.filter(|text| !text.is_empty()).map(Arc::from).next();
        if let Some(name) = said.or(object.alias) {
            return Ok(Some(name));
        }
    }
    if by != By::Key {
        return Ok(None);
    }
    // A key of the config, or one that is gone: its calls have its name.
    let filter = SpendFilter { key: Some(Arc::clone(id)), ..SpendFilter::default() };
    let last = store.records(filter, 0, 1).await?;
    Ok(last.into_iter().next().and_then(|record| record.key_alias))
}

impl Report {
    fn text(&self, format: Format) -> String {
        match format {
            Format::Table => self.table(),
            Format::Csv => self.csv(),
            Format::Json => format!("{:#}", self.json()),
        }
    }

    /// When a row's piece of time began.
    fn start(&self, sum: &Sum) -> Option<String> {
        let at = Duration::from_millis(sum.start_ms);
        match self.per? {
            Per::Day => Some(calendar::day_text(at)),
            Per::Hour => Some(calendar::text(at)),
        }
    }

    fn table(&self) -> String {
        let (since, until) = (calendar::text(self.since), calendar::text(self.until));
        if self.rows.is_empty() {
            return format!(
                "Nothing was spent from {since} to {until}: the ledger has no calls of that time."
            );
        }
        let time = match self.per {
            None => None,
            Some(Per::Day) => Some("day"),
            Some(Per::Hour) => Some("hour"),
        };
        let mut head: Vec<String> = time.into_iter().map(str::to_owned).collect();
        let texts = head.len() + 1;
        head.push(self.by.name().to_owned());
        let numbers = ["calls", "failed", "cached", "input", "output", "cost $"];
        head.extend(numbers.map(str::to_owned));
        let digits = digits(self.total.cost);
        let line = |start: Option<String>, name: String, sum: &Sum| {
            let mut line: Vec<String> = start.into_iter().collect();
            line.push(name);
            let counts =
                [sum.calls, sum.failed, sum.cache_hits, sum.prompt_tokens, sum.completion_tokens];
            line.extend(counts.map(grouped));
            line.push(rounded(sum.cost, digits));
            line
        };
        let mut lines = vec![head];
        for (name, sum) in &self.rows {
            let shown = self.shown(name.as_deref(), &sum.subject);
            let start = self.start(sum).map(|start| start.replace(":00:00.000Z", ":00"));
            lines.push(line(start, shown, sum));
        }
        lines.push(line(
            time.map(|_| "total".to_owned()),
            match time {
                Some(_) => String::new(),
                None => "total".to_owned(),
            },
            &self.total,
        ));
        aligned(&lines, texts)
    }

    /// A name, and enough of the id to find it by.
    fn shown(&self, name: Option<&str>, id: &str) -> String {
        let short = |id: &str| match self.by {
            By::Key => id.chars().take(12).chain("…".chars()).collect(),
            _ => id.to_owned(),
        };
        match name {
            _ if id.is_empty() => "(none)".to_owned(),
            Some(name) if name == id => printable(name),
            Some(name) => printable(&format!("{name} ({})", short(id))),
            None => printable(&short(id)),
        }
    }

    fn csv(&self) -> String {
        let mut text = String::new();
        if self.per.is_some() {
            text.push_str("start,");
        }
        let by = self.by.name();
        let _ = writeln!(
            text,
            "{by},name,calls,failed,cache_hits,prompt_tokens,completion_tokens,cost_usd"
        );
        for (name, sum) in &self.rows {
            if let Some(start) = self.start(sum) {
                let _ = write!(text, "{start},");
            }
            let name = name.as_deref().unwrap_or_default();
            let Sum { calls, failed, cache_hits, prompt_tokens, completion_tokens, .. } = sum;
            let _ = writeln!(
                text,
                "{},{},{calls},{failed},{cache_hits},{prompt_tokens},{completion_tokens},{}",
                cell(&sum.subject),
                cell(name),
                exact(sum.cost)
            );
        }
        text
    }

    fn json(&self) -> Value {
        let counts = |sum: &Sum| {
            json!({
                "calls": sum.calls, "failed": sum.failed, "cache_hits": sum.cache_hits,
                "prompt_tokens": sum.prompt_tokens, "completion_tokens": sum.completion_tokens,
                "cost_usd": exact(sum.cost),
            })
        };
        let rows = self.rows.iter().map(|(name, sum)| {
            let mut row = counts(sum);
            row["id"] = sum.subject.as_ref().into();
            row["name"] = name.as_deref().into();
            if let Some(start) = self.start(sum) {
                row["start"] = start.into();
            }
            row
        });
        json!({
            "by": self.by.name(),
            "since": calendar::text(self.since),
            "until": calendar::text(self.until),
            "rows": rows.collect::<Vec<_>>(),
            "total": counts(&self.total),
        })
    }
}

/// Dollars to the last digit.
fn exact(pico: u128) -> String {
    let per = u128::from(PicoDollars::PER_DOLLAR);
    let (dollars, rest) = (pico / per, pico % per);
    match rest {
        0 => dollars.to_string(),
        rest => format!("{dollars}.{rest:012}").trim_end_matches('0').to_owned(),
    }
}

/// How many digits after the point a column needs whose sum is this.
fn digits(total: u128) -> u32 {
    let dollars = total / u128::from(PicoDollars::PER_DOLLAR);
    match dollars {
        0 => 6,
        1..100 => 4,
        _ => 2,
    }
}

/// Dollars with so many digits after the point, of which there are fewer than twelve.
fn rounded(pico: u128, digits: u32) -> String {
    let unit = 10_u128.pow(12 - digits);
    let units = pico.saturating_add(unit / 2) / unit;
    let per = 10_u128.pow(digits);
    format!("{}.{:0width$}", grouped(units / per), units % per, width = digits as usize)
}

/// `1,234,567`
fn grouped(number: impl Into<u128>) -> String {
    let digits = number.into().to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Clients choose tags and names of end users: none of them may command the terminal.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

/// A text as CSV has it, and as no spreadsheet takes it for a formula.
fn cell(text: &str) -> String {
    let text = match text.starts_with(['=', '+', '-', '@', '\t', '\r']) {
        true => format!("'{text}"),
        false => text.to_owned(),
    };
    match text.contains(['"', ',', '\n', '\r']) {
        true => format!("\"{}\"", text.replace('"', "\"\"")),
        false => text,
    }
}

/// Lines in columns, of which the first `texts` begin at the left.
fn aligned(lines: &[Vec<String>], texts: usize) -> String {
    let columns = lines.first().map_or(0, Vec::len);
    let width = |column: usize| {
        lines.iter().filter_map(|line| line.get(column)).map(|text| text.chars().count()).max()
    };
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    let mut out = String::new();
    for line in lines {
        let mut row = String::new();
        for (column, (text, width)) in line.iter().zip(&widths).enumerate() {
            if column > 0 {
                row.push_str("  ");
            }
            let _ = match column < texts {
                true => write!(row, "{text:<width$}"),
                false => write!(row, "{text:>width$}"),
            };
        }
        out.push_str(row.trim_end());
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::{cell, exact, grouped, printable, rounded};

    #[test]
    fn money_is_exact_where_it_is_not_rounded() {
        assert_eq!(exact(0), "0");
        assert_eq!(exact(1), "0.000000000001");
        assert_eq!(exact(1_500_000_000_000), "1.5");
        assert_eq!(exact(u128::from(u64::MAX) * 10), "184467440.73709551615");
        assert_eq!(rounded(1_005_000_000_000, 2), "1.01");
        assert_eq!(rounded(999_999_999_999, 2), "1.00");
        assert_eq!(rounded(1_234_567_000_000_000_000, 2), "1,234,567.00");
        assert_eq!(grouped(1_234_u64), "1,234");
        assert_eq!(grouped(123_u64), "123");
    }

    #[test]
    fn what_clients_choose_commands_neither_terminals_nor_spreadsheets() {
        assert_eq!(printable("a\u{1b}[2Jb"), "a\u{fffd}[2Jb");
        assert_eq!(cell("=1+1"), "'=1+1");
        assert_eq!(cell("a,\"b\""), "\"a,\"\"b\"\"\"");
        assert_eq!(cell("plain"), "plain");
    }
}
