//! The process is killed under load, again and again; what it had said is compared with the ledger.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use tollway_filter_api::Clock;
use tollway_filter_api::ledger::Ledger;
use tollway_filter_api::treasury::BudgetScope;
use tollway_store::treasury::{Books, BooksConfig, Fsync};
use tollway_tests::gateway::Folder;
use tollway_wire::price::PicoDollars;
use tollway_wire::usage::Usage;

use crate::support::{DAY, MemoryLedger, START, budget, open, record};

const KILLS: u64 = 50;
/// Where the child finds its folder, and the number of its round.
const FOLDER: &str = "TOLLWAY_CRASH_FOLDER";
const ROUND: &str = "TOLLWAY_CRASH_ROUND";
const BOUND: u64 = 1_000;

fn config(folder: &std::path::Path, fsync: Fsync) -> BooksConfig {
    BooksConfig {
        fsync,
        // Small, so that the process is also killed while segments come and go.
        segment_bytes: 64 * 1024,
        reserve_bytes: 64 * 1024,
        ..BooksConfig::new(folder.join("journal"))
    }
}

fn fsync(round: u64) -> Fsync {
    match round % 3 {
        0 => Fsync::Interval(Duration::from_millis(10)),
        1 => Fsync::Always,
        _ => Fsync::None,
    }
}

/// What a call costs: its name says it.
fn cost(number: u64) -> u64 {
    1 + number * 37 % BOUND
}

/// A line on the pipe is out before anything else happens.
fn say(text: &str) {
    std::io::stdout().write_all(format!("\n{text}\n").as_bytes()).expect("the parent listens");
}

/// What [`nothing_acknowledged_is_lost_and_nothing_counted_twice`] starts and kills: itself.
fn child(folder: PathBuf) {
    let round: u64 = std::env::var(ROUND).expect("a round").parse().expect("a number");
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async move {
        let ledger: Arc<dyn Ledger> = Arc::new(MemoryLedger::in_folder(&folder.join("ledger")));
        let config = config(&folder, fsync(round));
        let (books, report) =
            Books::open(config, ledger, Clock::manual()).await.expect("the books open");
        assert!(report.damaged.is_empty(), "{report:?}");
        let feeding = books.clone();
        tokio::spawn(async move { feeding.run_feeder(std::future::pending()).await });
        say("ready");
        let callers: Vec<_> = (0..8u64)
            .map(|caller| {
                let books = books.clone();
                tokio::spawn(async move {
                    let team = [budget(BudgetScope::Team, "dev", DAY, Some(u64::MAX))];
                    for number in 0.. {
                        let name = format!("{round}-{caller}-{number}");
                        let opened = open(&books, &team, &name, START, BOUND / 2, BOUND / 2).await;
                        let Ok(mut hold) = opened else { panic!("{name} is not opened") };
                        say(&format!("opened {name}"));
                        hold.extend(PicoDollars(BOUND / 2)).expect("there is room");
                        hold.progress(&Usage::default(), PicoDollars(1));
                        tokio::task::yield_now().await;
                        hold.close(record(&name, START, cost(number)));
                        if number % 16 == caller {
                            books.flush().await.expect("the disk is well");
                            say(&format!("safe {name}"));
                        }
                    }
                })
            })
            .collect();
        for caller in callers {
            caller.await.expect("a caller");
        }
    });
}

#[test]
fn nothing_acknowledged_is_lost_and_nothing_counted_twice() {
    if let Some(folder) = std::env::var_os(FOLDER) {
        return child(folder.into());
    }
    let folder = Folder::fresh();
    std::fs::create_dir_all(&folder.0).expect("a folder");
    let mut opened = Vec::new();
    let mut safe = Vec::new();
    for round in 0..KILLS {
        let mut child = Command::new(std::env::current_exe().expect("this program"))
            .args(["--exact", "--nocapture"])
            .arg("crash::nothing_acknowledged_is_lost_and_nothing_counted_twice")
            .env(FOLDER, &folder.0)
            .env(ROUND, round.to_string())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .expect("the child starts");
        let mut said = BufReader::new(child.stdout.take().expect("a pipe"));
        let mut line = String::new();
        // A different moment each time, by what the child has said and not by the clock.
        let mut left = 20 + round * 53 % 900;
        let mut is_ready = false;
        while said.read_line(&mut line).expect("the child speaks") > 0 {
            let words: Vec<&str> = line.split_whitespace().collect();
            match words[..] {
                ["ready"] => is_ready = true,
                ["opened", name] => opened.push(name.to_owned()),
                ["safe", name] => safe.push(name.to_owned()),
                _ => {}
            }
            if is_ready {
                left = left.saturating_sub(1);
                if left == 0 {
                    // SIGKILL. What it still says up to its end counts as well.
                    child.kill().expect("it lives");
                }
            }
            line.clear();
        }
        child.wait().expect("it is dead");
        assert!(is_ready && left == 0, "the child died by itself in round {round}");
    }

    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(async {
        let ledger = Arc::new(MemoryLedger::in_folder(&folder.0.join("ledger")));
        let shared = Arc::clone(&ledger) as Arc<dyn Ledger>;
        let config = config(&folder.0, Fsync::default());
        let (books, report) =
            Books::open(config, shared, Clock::manual()).await.expect("the books open");
        assert!(report.damaged.is_empty() && report.unreadable == 0, "{report:?}");
        // Long before anybody would give up on the start, on a busy machine as well.
        assert!(report.took < Duration::from_secs(10), "{:?}", report.took);
        // What the budget knows is what the ledger will say.
        let team = budget(BudgetScope::Team, "dev", DAY, None);
        let probe = open(&books, &[Arc::clone(&team)], "probe", START, 0, 0).await;
        let Ok(probe) = probe else { panic!("the probe is not opened") };
        probe.close(record("probe", START, 0));
        books.run_feeder(std::future::ready(())).await;
        assert_eq!(books.status().backlog_records, 0);
        use tollway_filter_api::treasury::Treasury;
        assert_eq!(u128::from(books.spent(&team.id, START).0.0), ledger.total());

        let mut costs: HashMap<String, u64> = HashMap::new();
        for record in ledger.all() {
            let name = record.request_id.to_string();
            let twice = costs.insert(name, record.cost.0);
            assert_eq!(twice, None, "{} is there twice", record.request_id);
        }
        assert!(opened.len() > KILLS as usize * 10 && safe.len() > 100, "{}", opened.len());
        for name in &opened {
            let charged = costs.get(name).copied();
            let number = name.rsplit('-').next().and_then(|number| number.parse().ok());
            let exact = cost(number.expect("a number"));
            let bounds = [exact, BOUND / 2, BOUND];
            assert!(charged.is_some_and(|cost| bounds.contains(&cost)), "{name}: {charged:?}");
        }
        for name in &safe {
            let number = name.rsplit('-').next().and_then(|number| number.parse().ok());
            assert_eq!(costs[name], cost(number.expect("a number")), "{name}");
        }
    });
}
