//! How long things take. Prints; run it with `--release --run-ignored all --no-capture`.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tollway_filter_api::Clock;
use tollway_filter_api::ledger::Ledger;
use tollway_filter_api::treasury::{BudgetId, BudgetScope};
use tollway_store::treasury::{Books, BooksConfig, Fsync};

use crate::support::{DAY, Folder, MemoryLedger, START, budget, must_open, record};

/// What this process has used of the processors, all its threads and the kernel's work for them.
fn processor() -> Duration {
    let text = std::fs::read_to_string("/proc/self/schedstat").unwrap_or_default();
    let main = text.split(' ').next().and_then(|text| text.parse().ok()).unwrap_or(0);
    let tasks = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let of_tasks: u64 = tasks
        .filter_map(|task| std::fs::read_to_string(task.path().join("schedstat")).ok())
        .filter_map(|text| text.split(' ').next()?.parse::<u64>().ok())
        .sum();
    Duration::from_nanos(of_tasks.max(main))
}

fn print(text: &str) {
    std::io::stdout().write_all(text.as_bytes()).expect("somebody reads");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn nanoseconds_of_an_open_and_a_close() {
    const CALLS: u32 = 200_000;
    for fsync in [Fsync::None, Fsync::default(), Fsync::Always] {
        for callers in [1, 64] {
            let calls = if fsync == Fsync::Always { CALLS / 50 } else { CALLS };
            let folder = Folder::fresh("speed");
            let config = BooksConfig { fsync, ..BooksConfig::new(&folder.0) };
            let ledger = Arc::<MemoryLedger>::default() as Arc<dyn Ledger>;
            let (books, _) = Books::open(config, ledger, Clock::system()).await.expect("books");
            let budgets: Vec<_> = [
                (BudgetScope::Global, ""),
                (BudgetScope::Provider, "openai"),
                (BudgetScope::Team, "dev"),
                (BudgetScope::User, "ann"),
                (BudgetScope::EndUser, "zoe"),
            ]
            .map(|(scope, subject)| budget(scope, subject, DAY, Some(u64::MAX)))
            .into();
            let ids: Vec<BudgetId> = budgets.iter().map(|budget| budget.id.clone()).collect();
            books.prepare(&ids).await.expect("the ledger answers");
            let (since, before) = (Instant::now(), processor());
            let tasks: Vec<_> = (0..callers)
                .map(|_| {
                    let (books, budgets) = (books.clone(), budgets.clone());
                    tokio::spawn(async move {
                        let record = record("0123456789abcdef0123456789abcdef", START, 100);
                        for _ in 0..calls / callers {
                            let hold = must_open(&books, &budgets, "x", START, 100).await;
                            hold.close(record.clone());
                        }
                    })
                })
                .collect();
            for task in tasks {
                task.await.expect("a caller");
            }
            let (wall, cpu) = (since.elapsed() / calls, (processor() - before) / calls);
            print(&format!(
                "{fsync:?}, {callers} callers: {} ns of wall time, {} ns of processor for an open and a close\n",
                wall.as_nanos(),
                cpu.as_nanos(),
            ));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn records_a_second_to_the_ledger() {
    const CALLS: u32 = 100_000;
    let folder = Folder::fresh("drain");
    let ledger = Arc::<MemoryLedger>::default();
    ledger.away.store(true, Ordering::Relaxed);
    let shared = Arc::clone(&ledger) as Arc<dyn Ledger>;
    let config = BooksConfig::new(&folder.0);
    let (books, _) =
        Books::open(config.clone(), Arc::clone(&shared), Clock::system()).await.expect("books");
    for _ in 0..CALLS {
        must_open(&books, &[], "x", START, 100).await.close(record("x", START, 100));
    }
    books.flush().await.expect("the disk is well");
    drop(books);
    let since = Instant::now();
    let (books, report) = Books::open(config, shared, Clock::system()).await.expect("books");
    print(&format!("opened in {:?}: {} records\n", since.elapsed(), report.records));
    ledger.away.store(false, Ordering::Relaxed);
    let since = Instant::now();
    books.run_feeder(std::future::ready(())).await;
    assert_eq!(ledger.all().len(), CALLS as usize);
    let rate = f64::from(CALLS) / since.elapsed().as_secs_f64();
    print(&format!("{rate:.0} records a second from the journal to a ledger in memory\n"));
}
