//! What is measured, one function for each kind of it.

use std::io::Write;
use std::time::{Duration, Instant};

use crate::families::{ANTHROPIC, FAMILIES, Family, Form, OPENAI, Reply};
use crate::instructions::{per_chunk as chunks, per_request as requests};
use crate::load::{Awake, Load, Target, streams_at_once};
use crate::process::{Cpu, Launch, Proxy, Side, Spent};
use crate::report::Target as Goal;
use crate::report::{COUNT, KILOBYTES, MEGABYTES, MICROS, MILLIS, Row, percentile};
use crate::training::train;
use crate::upstream::{Pace, Upstream};
use crate::{Failure, instructions};

/// The names of the measurements that are not of one provider family, in the order of the table.
pub const CORE: [&str; 9] = [
    "cpu-1k",
    "cpu-64k",
    "cpu-1m",
    "chunk-openai",
    "chunk-anthropic",
    "latency",
    "cache-hit",
    "memory",
    "streams",
];

/// The groups of measurements: what each is called, and all that are in it.
pub fn groups() -> [(&'static str, Vec<String>); 5] {
    let families = |prefix| FAMILIES.iter().map(move |family| format!("{prefix}{}", family.name));
    let core = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    let counts = instructions::CORE.map(str::to_owned).into_iter();
    [
        ("core", core(&CORE)),
        ("families", families(FAMILY).collect()),
        ("instructions", counts.chain(families(INSTRUCTIONS_FAMILY)).collect()),
        ("instructions-families", families(INSTRUCTIONS_FAMILY).collect()),
        (TRAINING, core(&[TRAINING])),
    ]
}

/// Whether this measurement is of one provider family.
pub fn is_of_family(name: &str) -> bool {
    name.starts_with(FAMILY) || name.starts_with(INSTRUCTIONS_FAMILY)
}

/// In front of a family's name, the name of its measurement.
const FAMILY: &str = "family-";
const INSTRUCTIONS_FAMILY: &str = "instructions-family-";
/// Measures nothing: an instrumented gateway does.
const TRAINING: &str = "training";

/// How to measure.
#[derive(Clone, Debug)]
pub struct Bench {
    /// How to start the proxies.
    pub launch: Launch,
    /// How often both proxies take their turn.
    pub rounds: usize,
    /// How long a turn is, where that can be chosen.
    pub turn: Duration,
}

/// For measurements with JSON answers, and for streams that come faster than people read: fast
/// enough to have many chunks to count, slow enough that each of them is a read of its own.
const STREAM_PACE: Pace = Pace { short: 20, long: 500, interval: Duration::from_millis(3) };
/// Ten tokens a second, for long enough that all streams are open at once for 11 s.
const READING_PACE: Pace = Pace { short: 1, long: 150, interval: Duration::from_millis(100) };
const READING_STREAMS: u32 = 2000;
/// How many of them begin in a second.
const READING_RAMP: u32 = 500;

const CONNECTIONS: usize = 16;
/// Where CPU per request is measured, the two turns of a round are taken in slices of this time, one by
/// one: a shared host keeps its pace for seconds and then changes it by a third, so that whole turns
/// would compare the host's paces.
const SLICE: Duration = Duration::from_millis(60);
const LATENCY_RATE: u32 = 500;
const MEMORY_CONNECTIONS: usize = 64;
const MEMORY_TIME: Duration = Duration::from_secs(10);
/// Memory varies little, and a turn takes long.
const MEMORY_ROUNDS_MAX: usize = 3;

const KB: usize = 1 << 10;

/// Runs the measurement of this name.
///
/// # Errors
/// When there is none, a proxy does not start, or any answer is wrong.
pub async fn run(name: &str, bench: &Bench) -> Result<Vec<Row>, Failure> {
    match name {
        "cpu-1k" => cpu(bench, "CPU per request, 1 KB", KB, 1.15).await,
        "cpu-64k" => cpu(bench, "CPU per request, 64 KB", 64 * KB, 1.5).await,
        "cpu-1m" => cpu(bench, "CPU per request, 1 MB", KB * KB, 1.4).await,
        "chunk-openai" => {
            let name = "CPU per streamed chunk, OpenAI passthrough";
            chunk(bench, name, OPENAI, Goal::Ratio(1.0)).await
        }
        "chunk-anthropic" => {
            let name = "CPU per streamed chunk, Anthropic translated";
            chunk(bench, name, ANTHROPIC, Goal::Ratio(1.3)).await
        }
        "latency" => latency(bench).await,
        "cache-hit" => cache_hit(bench).await,
        "memory" => memory(bench).await,
        "streams" => streams(bench).await,
        "instructions-1k" => requests(bench, "1 KB", OPENAI, KB, [200, 1200]).await,
        "instructions-64k" => requests(bench, "64 KB", OPENAI, 64 * KB, [100, 600]).await,
        "instructions-1m" => requests(bench, "1 MB", OPENAI, KB * KB, [20, 120]).await,
        "instructions-openai" => chunks(bench, "OpenAI passthrough", OPENAI).await,
        "instructions-anthropic" => chunks(bench, "Anthropic translated", ANTHROPIC).await,
        TRAINING => train(bench).await.map(|()| Vec::new()),
        _ => {
            let family = |prefix| name.strip_prefix(prefix).and_then(Family::named);
            if let Some(family) = family(FAMILY) {
                return of_family(bench, family).await;
            }
            if let Some(family) = family(INSTRUCTIONS_FAMILY) {
                let mut rows = requests(bench, family.title, family, KB, [200, 1200]).await?;
                rows.extend(chunks(bench, family.title, family).await?);
                return Ok(rows);
            }
            Err(format!("there is no measurement {name}").into())
        }
    }
}

/// CPU per request and per chunk of a provider family.
async fn of_family(bench: &Bench, family: &'static Family) -> Result<Vec<Row>, Failure> {
    let mut rows = Vec::new();
    let name = format!("CPU per request, {}", family.title);
    let ask = Ask { reply: family.reply(Form::Json), body_bytes: KB, unique: true };
    let [bare, tollway, _] = cpu_per_request(bench, &name, ask).await?;
    rows.push(Row::new(name, MICROS, &bare, &tollway, Goal::None));
    let name = format!("CPU per streamed chunk, {}", family.title);
    rows.extend(chunk(bench, &name, family, Goal::None).await?);
    Ok(rows)
}

/// Tells whoever waits how it goes.
pub fn note(text: &str) {
    // Nobody is left to tell when stderr is closed.
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

/// Both proxies in front of the same upstream. They share a core, and take turns on it.
struct Pair {
    upstream: Upstream,
    proxies: [Proxy; 2],
}

impl Pair {
    async fn start(bench: &Bench, upstream: Upstream) -> Result<Pair, Failure> {
        let bare = Proxy::start(&bench.launch, Side::Bare, &upstream).await?;
        let tollway = Proxy::start(&bench.launch, Side::Tollway, &upstream).await?;
        Ok(Pair { upstream, proxies: [bare, tollway] })
    }

    /// Connections to both, for the same requests.
    async fn loads(&self, ask: Ask, connections: usize) -> Result<[Load; 2], Failure> {
        let [bare, tollway] = &self.proxies;
        Ok([
            Load::open(ask.of(bare), &self.upstream, connections).await?,
            Load::open(ask.of(tollway), &self.upstream, connections).await?,
        ])
    }
}

/// What to ask for, of whomever.
#[derive(Clone, Copy)]
struct Ask {
    reply: Reply,
    body_bytes: usize,
    unique: bool,
}

impl Ask {
    fn of(self, proxy: &Proxy) -> Target {
        let Ask { reply, body_bytes, unique } = self;
        let (address, side) = (proxy.address(), Some(proxy.side()));
        Target { address, side, reply, body_bytes, unique }
    }
}

/// What some requests took.
#[derive(Default)]
struct Cost {
    requests: u64,
    cpu: Spent,
    time: Duration,
}

impl Cost {
    /// Of requests for a time.
    async fn of(proxy: &Proxy, load: &mut Load, time: Duration) -> Result<Cost, Failure> {
        let (start, before) = (Instant::now(), proxy.cpu()?);
        let requests = load.for_time(time).await?;
        Cost::since(start, before, proxy, requests)
    }

    /// Of a number of requests on each connection.
    async fn of_times(proxy: &Proxy, load: &mut Load, times: u64) -> Result<Cost, Failure> {
        let (start, before) = (Instant::now(), proxy.cpu()?);
        let requests = load.times(times).await?;
        Cost::since(start, before, proxy, requests)
    }

    fn since(start: Instant, before: Cpu, proxy: &Proxy, requests: u64) -> Result<Cost, Failure> {
        let cpu = proxy.cpu()?.since(&before);
        Ok(Cost { requests, cpu, time: start.elapsed() })
    }

    fn micros_per_request(&self) -> f64 {
        self.cpu.requests.as_secs_f64() * 1e6 / self.requests as f64
    }

    fn ledger_micros_per_request(&self) -> f64 {
        self.cpu.ledger.as_secs_f64() * 1e6 / self.requests as f64
    }

    fn per_second(&self) -> f64 {
        self.requests as f64 / self.time.as_secs_f64()
    }

    /// How much of its core the proxy used. Far below 1, the load runner was the bottleneck.
    fn busy(&self) -> f64 {
        (self.cpu.requests + self.cpu.ledger).as_secs_f64() / self.time.as_secs_f64()
    }
}

/// CPU per request with all filters on, every request another one.
async fn cpu(
    bench: &Bench,
    name: &str,
    body_bytes: usize,
    ratio_max: f64,
) -> Result<Vec<Row>, Failure> {
    let ask = Ask { reply: OPENAI.reply(Form::Json), body_bytes, unique: true };
    let [bare, tollway, ledger] = cpu_per_request(bench, name, ask).await?;
    let mut rows = vec![Row::new(name, MICROS, &bare, &tollway, Goal::Ratio(ratio_max))];
    if body_bytes == KB {
        let name = "CPU of the ledger per request, beside it";
        rows.push(Row::new(name, MICROS, &vec![0.0; ledger.len()], &ledger, Goal::None));
    }
    Ok(rows)
}

/// CPU per request that the cache answers, against the bare proxy, which asks the upstream.
async fn cache_hit(bench: &Bench) -> Result<Vec<Row>, Failure> {
    let name = "CPU per request, 1 KB, cache hit";
    let ask = Ask { reply: OPENAI.reply(Form::Json), body_bytes: KB, unique: false };
    let [bare, tollway, _] = cpu_per_request(bench, name, ask).await?;
    Ok(vec![Row::new(name, MICROS, &bare, &tollway, Goal::Ratio(0.6))])
}

async fn cpu_per_request(bench: &Bench, name: &str, ask: Ask) -> Result<[Vec<f64>; 3], Failure> {
    let pair = Pair::start(bench, Upstream::start(STREAM_PACE, &[ask.reply.family]).await?).await?;
    let mut loads = pair.loads(ask, CONNECTIONS).await?;
    for load in &mut loads {
        load.for_time(bench.turn / 2).await?;
    }
    let _awake = Awake::begin();
    let (mut micros, mut ledger) = ([Vec::new(), Vec::new()], Vec::new());
    let slices = bench.turn.div_duration_f64(SLICE).ceil().max(1.0) as u64;
    for round in 1..=bench.rounds {
        let before = [pair.proxies[0].cpu()?, pair.proxies[1].cpu()?];
        let mut costs = [Cost::default(), Cost::default()];
        for _ in 0..slices {
            for ((proxy, load), cost) in pair.proxies.iter().zip(&mut loads).zip(&mut costs) {
                let (start, answered_before) = (Instant::now(), pair.upstream.requests());
                let requests = load.for_time(bench.turn.min(SLICE)).await?;
                let answered = pair.upstream.requests() - answered_before;
                let cached = proxy.side() == Side::Tollway && !ask.unique;
                let expected = if cached { 0 } else { requests };
                if answered != expected {
                    let side = proxy.side().name();
                    return Err(format!(
                        "{side} sent {answered} requests upstream where {expected} were expected"
                    )
                    .into());
                }
                cost.requests += requests;
                cost.time += start.elapsed();
            }
        }
        for (at, proxy) in pair.proxies.iter().enumerate() {
            let cost = &mut costs[at];
            // What a proxy does while it is the other one's slice is its own work, done later.
            cost.cpu = proxy.cpu()?.since(&before[at]);
            micros[at].push(cost.micros_per_request());
            if proxy.side() == Side::Tollway {
                ledger.push(cost.ledger_micros_per_request());
            }
            note(&format!(
                "{name}, round {round}, {}: {:.1} µs, and {:.1} µs for the ledger; {:.0} \
                 requests/s, {:.0} % busy",
                proxy.side().name(),
                cost.micros_per_request(),
                cost.ledger_micros_per_request(),
                cost.per_second(),
                100.0 * cost.busy(),
            ));
        }
    }
    let [bare, tollway] = micros;
    Ok([bare, tollway, ledger])
}

/// CPU per streamed chunk: what long streams take more than short ones, divided by the chunks they
/// have more, so that what a request costs by itself is not in it.
async fn chunk(
    bench: &Bench,
    name: &str,
    family: &'static Family,
    goal: Goal,
) -> Result<Vec<Row>, Failure> {
    let pair = Pair::start(bench, Upstream::start(STREAM_PACE, &[family]).await?).await?;
    let ask = |form| Ask { reply: family.reply(form), body_bytes: KB, unique: true };
    let mut shorts = pair.loads(ask(Form::Short), CONNECTIONS).await?;
    let mut longs = pair.loads(ask(Form::Long), CONNECTIONS).await?;
    let Pace { short, long, interval } = pair.upstream.pace();
    let times = |chunks| bench.turn.div_duration_f64(interval * chunks).ceil() as u64;
    let _awake = Awake::begin();
    let mut micros = [Vec::new(), Vec::new()];
    for round in 1..=bench.rounds {
        for (at, proxy) in pair.proxies.iter().enumerate() {
            let few = Cost::of_times(proxy, &mut shorts[at], times(short)).await?;
            let many = Cost::of_times(proxy, &mut longs[at], times(long)).await?;
            let more = many.micros_per_request() - few.micros_per_request();
            let each = more / f64::from(long - short);
            micros[at].push(each);
            let side = proxy.side().name();
            note(&format!("{name}, round {round}, {side}: {each:.2} µs"));
        }
    }
    let [bare, tollway] = micros;
    Ok(vec![Row::new(name, MICROS, &bare, &tollway, goal)])
}

/// What a proxy adds to the latency of the upstream, at a rate far below what it can do.
async fn latency(bench: &Bench) -> Result<Vec<Row>, Failure> {
    let pair = Pair::start(bench, Upstream::start_apart(STREAM_PACE, &[OPENAI])?).await?;
    let ask = Ask { reply: OPENAI.reply(Form::Json), body_bytes: KB, unique: true };
    let direct =
        Target { address: pair.upstream.address(), side: None, ..ask.of(&pair.proxies[0]) };
    let mut direct = Load::open(direct, &pair.upstream, CONNECTIONS).await?;
    let [mut bare, mut tollway] = pair.loads(ask, CONNECTIONS).await?;
    let (mut p50s, mut p99s) = ([Vec::new(), Vec::new()], [Vec::new(), Vec::new()]);
    for round in 1..=bench.rounds {
        let mut millis = Vec::new();
        for load in [&mut direct, &mut bare, &mut tollway] {
            let took = load.at_rate(LATENCY_RATE, 2 * bench.turn).await?;
            let took: Vec<_> = took.iter().map(|took| took.as_secs_f64() * 1e3).collect();
            millis.push((percentile(&took, 0.5), percentile(&took, 0.99)));
        }
        for at in [0, 1] {
            p50s[at].push(millis[at + 1].0 - millis[0].0);
            p99s[at].push(millis[at + 1].1 - millis[0].1);
        }
        note(&format!(
            "latency, round {round}: p50 (p99) direct {:.3} ({:.3}) ms, bare {:.3} ({:.3}), \
             tollway {:.3} ({:.3})",
            millis[0].0, millis[0].1, millis[1].0, millis[1].1, millis[2].0, millis[2].1,
        ));
    }
    let name = |p| format!("Added latency {p} at {LATENCY_RATE} requests/s");
    Ok(vec![
        Row::new(name("p50"), MILLIS, &p50s[0], &p50s[1], Goal::AtMost(0.25)),
        Row::new(name("p99"), MILLIS, &p99s[0], &p99s[1], Goal::None),
    ])
}

/// Memory before and after a load without pauses; and, since that is one, requests per second.
async fn memory(bench: &Bench) -> Result<Vec<Row>, Failure> {
    let (mut idle, mut after) = ([Vec::new(), Vec::new()], [Vec::new(), Vec::new()]);
    let mut per_second = [Vec::new(), Vec::new()];
    let ask = Ask { reply: OPENAI.reply(Form::Json), body_bytes: KB, unique: true };
    for round in 1..=bench.rounds.min(MEMORY_ROUNDS_MAX) {
        for (at, side) in Side::BOTH.into_iter().enumerate() {
            let upstream = Upstream::start_apart(STREAM_PACE, &[OPENAI])?;
            let proxy = Proxy::start(&bench.launch, side, &upstream).await?;
            idle[at].push(megabytes(proxy.rss()?));
            let mut load = Load::open(ask.of(&proxy), &upstream, MEMORY_CONNECTIONS).await?;
            let cost = Cost::of(&proxy, &mut load, MEMORY_TIME).await?;
            after[at].push(megabytes(proxy.rss()?));
            per_second[at].push(cost.per_second());
            note(&format!(
                "memory, round {round}, {}: {:.1} MB, then {:.1} MB; {:.0} requests/s, {:.0} % busy",
                side.name(),
                idle[at][round - 1],
                after[at][round - 1],
                cost.per_second(),
                100.0 * cost.busy(),
            ));
        }
    }
    let name = format!("RSS after 10 s at {MEMORY_CONNECTIONS} connections");
    Ok(vec![
        Row::new("RSS idle", MEGABYTES, &idle[0], &idle[1], Goal::AtMost(20.0)),
        Row::new(name, MEGABYTES, &after[0], &after[1], Goal::AtMost(40.0)),
        Row::new(
            format!("Requests/s on one core, 1 KB, {MEMORY_CONNECTIONS} connections"),
            COUNT,
            &per_second[0],
            &per_second[1],
            Goal::None,
        ),
    ])
}

/// Many slow streams at once: that none is cut, and the memory each takes.
async fn streams(bench: &Bench) -> Result<Vec<Row>, Failure> {
    let (mut cuts, mut each) = ([Vec::new(), Vec::new()], [Vec::new(), Vec::new()]);
    let ask = Ask { reply: OPENAI.reply(Form::Long), body_bytes: KB, unique: true };
    let warm = Ask { reply: OPENAI.reply(Form::Short), ..ask };
    for round in 1..=bench.rounds.min(MEMORY_ROUNDS_MAX) {
        for (at, side) in Side::BOTH.into_iter().enumerate() {
            let upstream = Upstream::start_apart(READING_PACE, &[OPENAI])?;
            let proxy = Proxy::start(&bench.launch, side, &upstream).await?;
            drop(Load::open(warm.of(&proxy), &upstream, 1).await?);
            proxy.forget_peak()?;
            let before = proxy.rss()?;
            let (cut, reason) =
                streams_at_once(ask.of(&proxy), &upstream, READING_STREAMS, READING_RAMP).await?;
            let more = proxy.peak_rss()?.saturating_sub(before);
            cuts[at].push(f64::from(cut));
            each[at].push(more as f64 / 1024.0 / f64::from(READING_STREAMS));
            let side = side.name();
            if let Some(reason) = reason {
                return Err(format!(
                    "{cut} of {READING_STREAMS} streams through {side} were cut or wrong; the \
                     first: {reason}"
                )
                .into());
            }
            note(&format!("streams, round {round}, {side}: {:.1} KB each", each[at][round - 1]));
        }
    }
    Ok(vec![
        Row::new("2,000 concurrent streams, cut", COUNT, &cuts[0], &cuts[1], Goal::AtMost(0.0)),
        Row::new(
            "2,000 concurrent streams, memory each",
            KILOBYTES,
            &each[0],
            &each[1],
            Goal::AtMost(40.0),
        ),
    ])
}

fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1024.0 / 1024.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_told_apart_and_lead_to_their_family() {
        let [(_, core), (_, families), (_, instructions), (_, of_families), _] = groups();
        assert!(!core.iter().any(|name| is_of_family(name)));
        assert_eq!(families.len(), FAMILIES.len());
        assert!(instructions.ends_with(&of_families));
        assert_eq!(instructions.len(), instructions::CORE.len() + FAMILIES.len());
        for (prefix, names) in [(FAMILY, families), (INSTRUCTIONS_FAMILY, of_families)] {
            for name in names {
                assert!(is_of_family(&name), "{name}");
                let family = name.strip_prefix(prefix).and_then(Family::named);
                assert!(family.is_some(), "{name}");
            }
        }
    }
}
