//! The load runner: measures the gateway against the bare proxy and prints the table.
//!
//! `run.sh` and `callgrind.sh` build everything and start this on the core it belongs to.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use tollway_bench::measure::{Bench, groups, is_of_family, note, run};
use tollway_bench::process::Launch;
use tollway_bench::report::{Row, table};
use tollway_bench::{Failure, machine};

const USAGE: &str = "\
usage: load [OPTION VALUE ...] [MEASUREMENT or GROUP ...]
  Groups are core and families, which are a full run, instructions and instructions-families.
  training is what dist/build.sh --train asks of an instrumented gateway.
  --rounds N      how often each proxy takes its turn (5)
  --seconds S     how long a turn is (2)
  --core N        the core the proxies run on; start this program on another one (1)
  --config FILE   the gateway's config but for its models, to see what a filter costs
                  (all-filters.yaml)
  --version TEXT  which version is measured, for the report
  --save FILE     writes the report to this file as well";

/// A machine that does this much besides makes figures that nobody should rely on.
const LOAD_MAX: f64 = 0.5;

struct Args {
    bench: Bench,
    names: Vec<String>,
    version: Option<String>,
    save: Option<PathBuf>,
}

fn main() -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            note(&format!("bench: {error}"));
            return ExitCode::FAILURE;
        }
    };
    let folder = std::env::temp_dir().join(format!("tollway-bench-{}", std::process::id()));
    let result = runtime.block_on(measure(&folder));
    // What is left of it there is no harm.
    let _ = fs::remove_dir_all(&folder);
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            note(&format!("bench: FAILED: {error}"));
            ExitCode::FAILURE
        }
    }
}

async fn measure(folder: &Path) -> Result<(), Failure> {
    let args = read_args(folder)?;
    fs::create_dir_all(folder)?;
    let load = machine::load_average();
    if load[0] > LOAD_MAX {
        note(&format!("the machine is busy (load average {}): the figures will be rough", load[0]));
    }
    let (mut rows, mut of_families, mut failures) = (Vec::new(), Vec::new(), Vec::new());
    for name in &args.names {
        // One that fails must not hide what the others say.
        match run(name, &args.bench).await {
            Ok(more) if is_of_family(name) => of_families.extend(more),
            Ok(more) => rows.extend(more),
            Err(error) => {
                note(&format!("{name}: FAILED: {error}"));
                quote_logs(folder);
                failures.push(name.as_str());
            }
        }
    }
    let report = report(&args, &rows, &of_families, load);
    writeln!(std::io::stdout().lock(), "{report}")?;
    if !failures.is_empty() {
        return Err(format!("{}; see above", failures.join(", ")).into());
    }
    if let Some(file) = &args.save {
        fs::write(file, report)?;
    }
    Ok(())
}

/// Shows what the proxies had to say.
fn quote_logs(folder: &Path) {
    const CHARS_MAX: usize = 2000;
    for file in fs::read_dir(folder).into_iter().flatten().flatten() {
        if file.path().extension().is_none_or(|extension| extension != "log") {
            continue;
        }
        let text = fs::read_to_string(file.path()).unwrap_or_default();
        let skipped = text.chars().count().saturating_sub(CHARS_MAX);
        let end: String = text.chars().skip(skipped).collect();
        if !end.trim().is_empty() {
            note(&format!("{}: {}", file.path().display(), end.trim()));
        }
    }
}

fn report(args: &Args, rows: &[Row], of_families: &[Row], load_before: [f64; 3]) -> String {
    let Bench { rounds, turn, .. } = &args.bench;
    let load_after = machine::load_average();
    let [before, after] = [load_before, load_after].map(|[one, five, _]| format!("{one} {five}"));
    let version = args.version.as_deref().unwrap_or("unknown");
    let mut report = format!(
        "# Tollway against bare Pingora\n\n\
         Median (smallest..largest) of {rounds} rounds of {turn:?}; README.md beside this file says \
         what each figure means.\n\n\
         - Machine: {}; load average (1, 5 min) before: {before}, after: {after}\n\
         - Version: {version}, with {}\n",
        machine::describe(),
        args.bench.launch.config.file_name().unwrap_or_default().display(),
    );
    for (heading, rows) in [("", rows), ("\n## By provider family\n", of_families)] {
        if !rows.is_empty() {
            report.push_str(heading);
            report.push('\n');
            report.push_str(&table(rows));
        }
    }
    report
}

fn read_args(folder: &Path) -> Result<Args, Failure> {
    let binary = std::env::current_exe()?;
    let binaries = binary.parent().ok_or("this program is in no folder")?;
    let mut args = Args {
        bench: Bench {
            launch: Launch {
                binaries: binaries.to_owned(),
                config: Path::new(env!("CARGO_MANIFEST_DIR")).join("all-filters.yaml"),
                core: 1,
                folder: folder.to_owned(),
                profiles: binaries.join("callgrind"),
            },
            rounds: 5,
            turn: Duration::from_secs(2),
        },
        names: Vec::new(),
        version: None,
        save: None,
    };
    let groups = groups();
    let [(_, core), (_, families), (_, instructions), ..] = &groups;
    let names = || [core, families, instructions].into_iter().flatten();
    let full = [core.as_slice(), families].concat();
    let mut given = std::env::args().skip(1);
    while let Some(arg) = given.next() {
        if !arg.starts_with('-') {
            match groups.iter().find(|(group, _)| *group == arg) {
                Some((_, names)) => args.names.extend_from_slice(names),
                None if names().any(|name| *name == arg) => args.names.push(arg),
                None => {
                    let groups = groups.iter().map(|(group, _)| *group);
                    let names = groups.chain(names().map(String::as_str)).collect::<Vec<_>>();
                    let names = names.join(", ");
                    let message =
                        format!("there is no measurement {arg}; there are: {names}\n{USAGE}");
                    return Err(message.into());
                }
            }
            continue;
        }
        let mut value = || given.next().ok_or_else(|| format!("{arg} has no value\n{USAGE}"));
        match arg.as_str() {
            "--rounds" => args.bench.rounds = value()?.parse::<usize>()?.max(1),
            "--seconds" => args.bench.turn = Duration::try_from_secs_f64(value()?.parse()?)?,
            "--core" => args.bench.launch.core = value()?.parse()?,
            "--config" => args.bench.launch.config = fs::canonicalize(value()?)?,
            "--version" => args.version = Some(value()?),
            "--save" => args.save = Some(value()?.into()),
            _ => return Err(format!("{arg} is unknown\n{USAGE}").into()),
        }
    }
    if args.names.is_empty() {
        args.names.clone_from(&full);
    }
    // What is kept must not be less than it seems.
    if args.save.is_some() && args.names != full && args.names != *instructions {
        return Err("--save is for a run of all measurements".into());
    }
    Ok(args)
}
