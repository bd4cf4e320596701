//! Instructions per request and per chunk, counted by callgrind: the same on every run, whatever
//! else the machine does.

use std::fs;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::Failure;
use crate::families::{Family, Form, Reply};
use crate::load::{Load, Target};
use crate::measure::{Bench, note};
use crate::process::{Proxy, Side};
use crate::report::{COUNT, Row, Target as Goal};
use crate::upstream::{Pace, Upstream};

/// Under valgrind a chunk takes up to a millisecond; each must still be a read of its own.
const PACE: Pace = Pace { short: 20, long: 320, interval: Duration::from_millis(10) };
const STREAMS: u64 = 2;
/// Of the requests for streams.
const BODY_BYTES: usize = 1 << 10;

/// The names of the counts that are not of one provider family.
pub const CORE: [&str; 5] = [
    "instructions-1k",
    "instructions-64k",
    "instructions-1m",
    "instructions-openai",
    "instructions-anthropic",
];

/// Counts what both proxies execute for a request with a body of this size, all filters on: the
/// difference of two runs, so that starting and stopping are not in it.
///
/// # Errors
/// When valgrind is missing, or any answer is wrong.
pub async fn per_request(
    bench: &Bench,
    name: &str,
    family: &'static Family,
    body_bytes: usize,
    [few, many]: [u64; 2],
) -> Result<Vec<Row>, Failure> {
    let mut each = [0.0; 2];
    for (at, side) in Side::BOTH.into_iter().enumerate() {
        let less = count(bench, side, family.reply(Form::Json), body_bytes, few).await?;
        let more = count(bench, side, family.reply(Form::Json), body_bytes, many).await?;
        each[at] = (more - less) / (many - few) as f64;
    }
    Ok(row(format!("Instructions per request, {name}"), each))
}

/// Counts what both proxies execute for a streamed chunk: the difference of as many requests for
/// long streams and for short ones.
///
/// # Errors
/// When valgrind is missing, or any answer is wrong.
pub async fn per_chunk(
    bench: &Bench,
    name: &str,
    family: &'static Family,
) -> Result<Vec<Row>, Failure> {
    let mut each = [0.0; 2];
    for (at, side) in Side::BOTH.into_iter().enumerate() {
        let less = count(bench, side, family.reply(Form::Short), BODY_BYTES, STREAMS).await?;
        let more = count(bench, side, family.reply(Form::Long), BODY_BYTES, STREAMS).await?;
        let chunks = STREAMS * u64::from(PACE.long - PACE.short);
        each[at] = (more - less) / chunks as f64;
    }
    Ok(row(format!("Instructions per streamed chunk, {name}"), each))
}

fn row(name: String, [bare, tollway]: [f64; 2]) -> Vec<Row> {
    note(&format!("{name}: bare {bare:.0}, tollway {tollway:.0}"));
    vec![Row::new(name, COUNT, &[bare], &[tollway], Goal::None)]
}

/// All instructions of a proxy that serves this many requests on one connection. The profile stays
/// for `callgrind_annotate`.
async fn count(
    bench: &Bench,
    side: Side,
    reply: Reply,
    body_bytes: usize,
    requests: u64,
) -> Result<f64, Failure> {
    let file = format!("{}-{}-{body_bytes}.out", side.binary(), reply.name());
    let file = bench.launch.profiles.join(file);
    fs::create_dir_all(&bench.launch.profiles)?;
    let option = format!("--callgrind-out-file={}", file.display());
    let valgrind = ["valgrind", "--tool=callgrind", &option];
    let upstream = Upstream::start(PACE, &[reply.family]).await?;
    let proxy = Proxy::start_under(&valgrind, &bench.launch, side, &upstream).await?;
    let target =
        Target { address: proxy.address(), side: Some(side), reply, body_bytes, unique: true };
    let mut load = Load::open(target, &upstream, 1).await?;
    load.times(requests).await?;
    drop(load);
    // Before it stops, because the ledger is fed then.
    let dumped = Command::new("callgrind_control")
        .args(["--dump", &proxy.pid().to_string()])
        .stdout(Stdio::null())
        .status()?;
    if !dumped.success() {
        return Err(format!("callgrind_control: {dumped}").into());
    }
    proxy.stop().await?;
    let dump = file.with_added_extension("1");
    let text = fs::read_to_string(&dump)?;
    fs::rename(&dump, &file)?;
    let total = text.lines().find_map(|line| line.strip_prefix("totals: "));
    Ok(total.ok_or("callgrind wrote no totals")?.trim().parse()?)
}
