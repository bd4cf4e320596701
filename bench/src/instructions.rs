//! Instructions per request and per chunk, counted by callgrind: the same on every run, whatever
//! else the machine does.

use std::fs;
use std::time::Duration;

use crate::Failure;
use crate::load::{Load, Target};
use crate::measure::{Bench, note};
use crate::process::{Proxy, Side};
use crate::report::{COUNT, Row, Target as Goal};
use crate::upstream::{Pace, Reply, Upstream};

/// Under valgrind a chunk takes up to a millisecond; each must still be a read of its own.
const PACE: Pace = Pace { short: 20, long: 320, interval: Duration::from_millis(10) };
const STREAMS: u64 = 2;

/// Counts what both proxies execute, with all filters on: the difference of two runs, so that
/// starting and stopping are not in it.
///
/// # Errors
/// When valgrind is missing, or any answer is wrong.
pub async fn run(bench: &Bench) -> Result<Vec<Row>, Failure> {
    let mut rows = Vec::new();
    for (name, body_bytes, few, many, ratio_max) in [
        ("1 KB", 1 << 10, 200, 1200, 1.15),
        ("64 KB", 64 << 10, 100, 600, 1.5),
        ("1 MB", 1 << 20, 20, 120, 1.4),
    ] {
        let mut each = [0.0; 2];
        for (at, side) in Side::BOTH.into_iter().enumerate() {
            let less = count(bench, side, Reply::Json, body_bytes, few).await?;
            let more = count(bench, side, Reply::Json, body_bytes, many).await?;
            each[at] = (more - less) / (many - few) as f64;
        }
        rows.push(row(format!("Instructions per request, {name}"), each, ratio_max));
    }
    for (name, short, long, ratio_max) in [
        ("OpenAI passthrough", Reply::OpenAiShort, Reply::OpenAiLong, 1.0),
        ("Anthropic translated", Reply::AnthropicShort, Reply::AnthropicLong, 1.3),
    ] {
        let mut each = [0.0; 2];
        for (at, side) in Side::BOTH.into_iter().enumerate() {
            let less = count(bench, side, short, 1 << 10, STREAMS).await?;
            let more = count(bench, side, long, 1 << 10, STREAMS).await?;
            let chunks = STREAMS * u64::from(PACE.long - PACE.short);
            each[at] = (more - less) / chunks as f64;
        }
        rows.push(row(format!("Instructions per streamed chunk, {name}"), each, ratio_max));
    }
    Ok(rows)
}

fn row(name: String, [bare, tollway]: [f64; 2], ratio_max: f64) -> Row {
    note(&format!("{name}: bare {bare:.0}, tollway {tollway:.0}"));
    Row::new(name, COUNT, &[bare], &[tollway], Goal::Ratio(ratio_max))
}

/// All instructions of a proxy that serves this many requests on one connection.
async fn count(
    bench: &Bench,
    side: Side,
    reply: Reply,
    body_bytes: usize,
    requests: u64,
) -> Result<f64, Failure> {
    let file = bench.launch.folder.join("callgrind.out");
    let option = format!("--callgrind-out-file={}", file.display());
    let valgrind = ["valgrind", "--tool=callgrind", &option];
    let upstream = Upstream::start(PACE)?;
    let proxy = Proxy::start_under(&valgrind, &bench.launch, side, &upstream).await?;
    let target =
        Target { address: proxy.address(), side: Some(side), reply, body_bytes, unique: true };
    let mut load = Load::open(target, &upstream, 1).await?;
    load.times(requests).await?;
    drop(load);
    proxy.stop().await?;
    let text = fs::read_to_string(&file)?;
    let total = text.lines().find_map(|line| line.strip_prefix("totals: "));
    Ok(total.ok_or("callgrind wrote no totals")?.trim().parse()?)
}
