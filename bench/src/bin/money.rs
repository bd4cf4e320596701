//! Proves at full size that money is exact, and measures what that takes. `bench/money.sh` builds
//! and starts it.

use std::io::Write;
use std::process::ExitCode;

use tollway_bench::measure::note;
use tollway_bench::{Failure, keys};
use tollway_tests::proof::{kill, mixed};

const USAGE: &str = "usage: money [ledger CALLS] [kill TIMES] [keys COUNT]";
const MIB: f64 = 1_048_576.0;

fn main() -> ExitCode {
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            note(&format!("money: {error}"));
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(run()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            note(&format!("money: FAILED: {error}"));
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<bool, Failure> {
    let given: Vec<String> = std::env::args().skip(1).collect();
    let mut all = true;
    for pair in given.chunks(2) {
        let [what, count] = pair else { return Err(USAGE.into()) };
        let count: usize = count.parse().map_err(|_| USAGE)?;
        all &= match what.as_str() {
            "ledger" => ledger(count).await?,
            "kill" => kills(count).await?,
            "keys" => many_keys(count).await?,
            _ => return Err(USAGE.into()),
        };
    }
    Ok(all)
}

/// The ledger against the provider's own sum.
async fn ledger(calls: usize) -> Result<bool, Failure> {
    let report = mixed::prove(64, calls as u64).await;
    let per_dollar = 1e12;
    let [here, there] = report.cut_cost.map(|pico| pico as f64 / per_dollar);
    let difference = (here / there - 1.0) * 100.0;
    let is_right = report.wrong.is_empty() && report.refused == 0;
    writeln!(
        std::io::stdout().lock(),
        "ledger: {} calls in {:.1} s, {} of them billed to their end: {} p$, {} by the provider's sum; \
         {} false refusals\n        {} cut: output equal to the token, cost {difference:+.2} % \
         (their input is our own count)\n        {}",
        report.calls,
        report.took.as_secs_f64(),
        report.billed,
        report.cost,
        if report.wrong.is_empty() { "the same" } else { "NOT the same" },
        report.refused,
        report.cut,
        report.wrong.join("\n        "),
    )?;
    Ok(is_right)
}

/// Killed so often.
async fn kills(times: usize) -> Result<bool, Failure> {
    let report = kill::prove(times, 64).await;
    writeln!(
        std::io::stdout().lock(),
        "kill:   {} times, {} calls, {} of them open then, {} tokens delivered; {} wrong; ready again \
         within {:?}\n        {}",
        report.kills,
        report.calls,
        report.open,
        report.delivered,
        report.wrong.len(),
        report.ready,
        report.wrong.join("\n        "),
    )?;
    Ok(report.wrong.is_empty())
}

/// So many keys in the store.
async fn many_keys(count: usize) -> Result<bool, Failure> {
    for (name, with_postgres) in [("SQLite", false), ("Postgres", true)] {
        let [without, with] = keys::measure(count, with_postgres).await?;
        let added = with.resident.saturating_sub(without.resident) as f64 / MIB;
        writeln!(
            std::io::stdout().lock(),
            "keys:   {count} in {name}: ready in {:?} ({:?} without), {added:.1} MiB more memory",
            with.ready,
            without.ready,
        )?;
    }
    Ok(true)
}
