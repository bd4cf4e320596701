//! Whatever is in the files, and in whatever order calls come and go.

use std::path::Path;
use std::sync::Arc;

use proptest::prelude::*;
use tollway_filter_api::Clock;
use tollway_filter_api::ledger::{Ledger, SpendRecord};
use tollway_filter_api::treasury::{BudgetScope, Hold, Treasury};
use tollway_store::journal::codec::{Event, Salt, decode, encode};
use tollway_store::journal::reader::{Found, Scan};
use tollway_store::treasury::{Books, BooksConfig, Fsync, RecoveryReport};
use tollway_tests::gateway::Folder;
use tollway_wire::price::PicoDollars;
use tollway_wire::usage::Usage;

use crate::support::{DAY, MemoryLedger, START, budget, must_open, open, record};

fn runtime() -> tokio::runtime::Runtime {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime")
}

fn config(folder: &Path) -> BooksConfig {
    BooksConfig { reserve_bytes: 0, fsync: Fsync::None, ..BooksConfig::new(folder) }
}

async fn reopen(folder: &Path, ledger: &Arc<MemoryLedger>) -> (Books, RecoveryReport) {
    let ledger = Arc::clone(ledger) as Arc<dyn Ledger>;
    Books::open(config(folder), ledger, Clock::manual()).await.expect("the books open")
}

fn salt_of(folder: &Path) -> Salt {
    let node = std::fs::read_to_string(folder.join("node")).expect("a node");
    let salt = node.lines().find_map(|line| line.strip_prefix("salt ")).expect("a salt");
    Salt(u32::from_str_radix(salt, 16).expect("a number"))
}

/// The only segment of a folder, and what is in it.
fn segment(folder: &Path) -> (std::path::PathBuf, Vec<u8>) {
    let path = folder.join("0000000000000001.seg");
    let bytes = std::fs::read(&path).expect("a segment");
    (path, bytes)
}

/// A journal with calls of every kind, and its folder. Every step is in it, the last ones too: the
/// process was killed.
fn sample() -> Folder {
    let (folder, live) = (Folder::fresh(), Folder::fresh());
    runtime().block_on(async {
        let (books, _) = reopen(&live.0, &Arc::default()).await;
        let team = [budget(BudgetScope::Team, "dev", DAY, Some(10_000))];
        let mut stream = must_open(&books, &team, "stream", START, 100).await;
        must_open(&books, &team, "one", START, 50).await.close(record("one", START, 20));
        stream.extend(PicoDollars(30)).expect("there is room");
        stream.progress(&Usage { completion_tokens: 4, ..Usage::default() }, PicoDollars(9));
        let two = must_open(&books, &team, "two", START, 50).await;
        stream.close(record("stream", START, 111));
        let three = must_open(&books, &team, "three", START, 60).await;
        two.close(record("two", START, 2));
        books.flush().await.expect("the disk is well");
        std::fs::create_dir_all(&folder.0).expect("a folder");
        for name in ["node", "0000000000000001.seg"] {
            std::fs::copy(live.0.join(name), folder.0.join(name)).expect("a copy");
        }
        drop(three);
    });
    folder
}

/// What has to come of a journal that ends somewhere: every call whose reservation is whole, at
/// what its settlement says or at its bound.
fn expected(bytes: &[u8], salt: Salt) -> Vec<(String, u64)> {
    let mut calls: Vec<(u64, String, u64)> = Vec::new();
    let mut settled = Vec::new();
    for found in Scan::new(bytes, salt) {
        let Found::Record(payload) = found else { continue };
        match decode(payload).expect("it makes sense") {
            Event::Reserve { call, amount, draft, .. } => {
                calls.push((call, draft.request_id.to_string(), amount.0));
            }
            Event::Extend { call, amount } => {
                let known = calls.iter_mut().find(|(number, ..)| *number == call);
                known.expect("it was opened").2 = amount.0;
            }
            Event::Settle { call, record, .. } => {
                calls.retain(|(number, ..)| *number != call);
                settled.push((record.request_id.to_string(), record.cost.0));
            }
            _ => {}
        }
    }
    settled.extend(calls.into_iter().map(|(_, name, amount)| (name, amount)));
    settled
}

#[test]
fn a_journal_that_ends_anywhere_is_settled_from_what_there_is() {
    let sample = sample();
    let (path, bytes) = segment(&sample.0);
    let salt = salt_of(&sample.0);
    let node = std::fs::read(sample.0.join("node")).expect("a node");
    let whole: Vec<usize> = {
        let mut at = 0;
        let records = Scan::new(&bytes, salt).map(|found| match found {
            Found::Record(payload) => 8 + payload.len(),
            other => panic!("{other:?}"),
        });
        std::iter::once(0)
            .chain(records.map(|length| {
                at += length;
                at
            }))
            .collect()
    };
    assert_eq!(*whole.last().expect("records"), bytes.len());
    for end in 0..=bytes.len() {
        let folder = Folder::fresh();
        std::fs::create_dir_all(&folder.0).expect("a folder");
        std::fs::write(folder.0.join("node"), &node).expect("a file");
        let path = folder.0.join(path.file_name().expect("a name"));
        std::fs::write(&path, &bytes[..end]).expect("a file");
        let mut expect = expected(&bytes[..end], salt);
        expect.sort();
        runtime().block_on(async {
            let ledger = Arc::default();
            let (books, report) = reopen(&folder.0, &ledger).await;
            let is_torn = !whole.contains(&end);
            assert_eq!(report.torn.len(), usize::from(is_torn), "{end}");
            assert_eq!(report.damaged, [], "{end}");
            let cut = whole.iter().rfind(|whole| **whole <= end).expect("zero");
            assert_eq!(std::fs::metadata(&path).expect("a file").len(), *cut as u64);
            // And again: what was settled by the first start is not settled by the second.
            drop(books);
            let (books, report) = reopen(&folder.0, &ledger).await;
            assert_eq!((report.open_calls, report.torn.len()), (0, 0), "{end}");
            books.run_feeder(std::future::ready(())).await;
            let found = ledger.all().into_iter();
            let mut found: Vec<_> =
                found.map(|record| (record.request_id.to_string(), record.cost.0)).collect();
            found.sort();
            assert_eq!(found, expect, "cut at {end}");
        });
    }
}

#[test]
fn damage_in_the_middle_is_reported_and_what_follows_is_used() {
    let sample = sample();
    let (path, bytes) = segment(&sample.0);
    let salt = salt_of(&sample.0);
    let node = std::fs::read(sample.0.join("node")).expect("a node");
    // Every seventh byte, one at a time.
    for at in (0..bytes.len()).step_by(7) {
        let mut damaged = bytes.clone();
        damaged[at] ^= 0x55;
        let folder = Folder::fresh();
        std::fs::create_dir_all(&folder.0).expect("a folder");
        std::fs::write(folder.0.join("node"), &node).expect("a file");
        std::fs::write(folder.0.join(path.file_name().expect("a name")), &damaged).expect("a file");
        let lost = Scan::new(&damaged, salt).filter(|found| !matches!(found, Found::Record(_)));
        assert_eq!(lost.count(), 1, "one piece is lost at {at}");
        runtime().block_on(async {
            let ledger = Arc::default();
            let (books, report) = reopen(&folder.0, &ledger).await;
            assert_eq!(report.damaged.len() + report.torn.len(), 1, "{at}");
            books.run_feeder(std::future::ready(())).await;
            // One record is lost: one call at most is missing or charged at its bound.
            let names: Vec<String> =
                ledger.all().iter().map(|record| record.request_id.to_string()).collect();
            let found = ["stream", "one", "two", "three"]
                .iter()
                .filter(|name| names.iter().any(|n| n == *name));
            assert!(found.count() >= 3, "{at}: {names:?}");
            let mut once = names.clone();
            once.sort();
            once.dedup();
            assert_eq!(once.len(), names.len(), "{at}: {names:?}");
        });
    }
}

fn text() -> impl Strategy<Value = Arc<str>> {
    prop_oneof![Just(Arc::from("")), ".{0,40}".prop_map(Arc::from)]
}

prop_compose! {
    fn a_record()(
        texts in prop::collection::vec(text(), 8),
        maybe in prop::collection::vec(prop::option::of(text()), 5),
        tags in prop::collection::vec(text(), 0..5),
        (started_ms, first_byte, lasted) in (0..u64::MAX / 4, prop::option::of(0..1_000_000u64), 0..1_000_000u64),
        counts in prop::collection::vec(prop_oneof![Just(0), any::<u64>()], 4),
        (cost, status, flags) in (any::<u64>(), any::<u16>(), any::<[bool; 3]>()),
    ) -> SpendRecord {
        SpendRecord {
            request_id: Arc::clone(&texts[0]),
            operation: Arc::clone(&texts[1]),
            key: Arc::clone(&texts[2]),
            key_alias: maybe[0].clone(),
            user: maybe[1].clone(),
            team: maybe[2].clone(),
            end_user: maybe[3].clone(),
            tags,
            group: Arc::clone(&texts[3]),
            model: Arc::clone(&texts[4]),
            model_id: Arc::clone(&texts[5]),
            provider: Arc::clone(&texts[6]),
            api_base: Arc::clone(&texts[7]),
            started_ms,
            first_byte_ms: first_byte.map(|after| started_ms + after),
            ended_ms: started_ms + lasted,
            usage: Usage {
                prompt_tokens: counts[0],
                completion_tokens: counts[1],
                web_searches: counts[2],
                characters: counts[3],
                ..Usage::default()
            },
            usage_estimated: flags[0],
            cost: PicoDollars(cost),
            unpriced: flags[1],
            cache_hit: flags[2],
            status,
            client: maybe[4].clone(),
        }
    }
}

/// What callers do.
#[derive(Clone, Debug)]
enum Step {
    Open { most: u64, least: u64, budgets: u8 },
    Extend { which: usize, more: u64 },
    Close { which: usize, cost: u64 },
    Drop { which: usize },
    Feed,
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..400u64, 0..400u64, 0..8u8).prop_map(|(a, b, budgets)| Step::Open {
            most: a.max(b),
            least: a.min(b),
            budgets,
        }),
        3 => (any::<usize>(), 0..200u64).prop_map(|(which, more)| Step::Extend { which, more }),
        4 => (any::<usize>(), 0..=100u64).prop_map(|(which, cost)| Step::Close { which, cost }),
        1 => any::<usize>().prop_map(|which| Step::Drop { which }),
        1 => Just(Step::Feed),
        1 => Just(Step::Restart),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_are_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..4096)) {
        let records = Scan::new(&bytes, Salt(7)).count();
        prop_assert!(records <= bytes.len());
        let _ = decode(&bytes);
    }

    #[test]
    fn records_are_read_as_they_were_written(records in prop::collection::vec(a_record(), 1..5)) {
        let salt = Salt(0x1234_5678);
        let mut bytes = Vec::new();
        let events: Vec<Event> = records.into_iter().enumerate().flat_map(|(at, record)| {
            let call = at as u64;
            let draft = Box::new(record.clone());
            let usage = record.usage;
            [
                Event::Reserve { call, amount: record.cost, at_ms: record.started_ms, draft },
                Event::Extend { call, amount: record.cost },
                Event::Progress { call, cost: record.cost, usage },
                Event::Settle { call, seq: u64::MAX - call, record: Box::new(record) },
                Event::Cancel { call },
            ]
        }).collect();
        events.iter().for_each(|event| encode(&mut bytes, salt, event));
        let read: Vec<Event> = Scan::new(&bytes, salt).map(|found| match found {
            Found::Record(payload) => decode(payload).expect("it makes sense"),
            other => panic!("{other:?}"),
        }).collect();
        prop_assert_eq!(read, events);
        // With another folder's number nothing is a record.
        let foreign = Scan::new(&bytes, Salt(0)).any(|found| matches!(found, Found::Record(_)));
        prop_assert!(!foreign);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn no_order_of_calls_passes_a_limit(steps in prop::collection::vec(step(), 1..60)) {
        let folder = Folder::fresh();
        let ledger = Arc::<MemoryLedger>::default();
        let runtime = runtime();
        let budgets = [
            budget(BudgetScope::Team, "dev", DAY, Some(1_000)),
            budget(BudgetScope::User, "ann", None, Some(2_000)),
            budget(BudgetScope::Global, "", DAY, Some(1_500)),
        ];
        runtime.block_on(async {
            let (mut books, _) = reopen(&folder.0, &ledger).await;
            // Every call goes to the team, to Ann and to everybody, whatever budgets it is asked
            // for: some are only counted.
            let counted = budgets.each_ref().map(|budget| {
                let mut budget = tollway_filter_api::treasury::Budget::clone(budget);
                budget.limit = None;
                Arc::new(budget)
            });
            let mut holds: Vec<(String, u64, Box<dyn Hold>)> = Vec::new();
            let (mut total, mut number) = (0u64, 0);
            for step in steps {
                match step {
                    Step::Open { most, least, budgets: mask } => {
                        number += 1;
                        let name = format!("call-{number}");
                        // At least one limit for each call, so that all three cannot be passed.
                        let mask = mask | 1 << (number % 3);
                        let asked: Vec<_> = (0..3).map(|at| {
                            let limited = mask >> at & 1 == 1 || at == 0;
                            Arc::clone(if limited { &budgets[at] } else { &counted[at] })
                        }).collect();
                        if let Ok(hold) = open(&books, &asked, &name, START, most, least).await {
                            assert!((least..=most).contains(&hold.granted().0));
                            holds.push((name, hold.granted().0, hold));
                        }
                    }
                    Step::Extend { which, more } if !holds.is_empty() => {
                        let at = which % holds.len();
                        let (_, granted, hold) = &mut holds[at];
                        if hold.extend(PicoDollars(more)).is_ok() {
                            *granted += more;
                        }
                        assert_eq!(hold.granted().0, *granted);
                    }
                    Step::Close { which, cost } if !holds.is_empty() => {
                        let (name, granted, hold) = holds.swap_remove(which % holds.len());
                        let cost = granted * cost / 100;
                        total += cost;
                        hold.close(record(&name, START, cost));
                    }
                    Step::Drop { which } if !holds.is_empty() => {
                        let (_, granted, _) = holds.swap_remove(which % holds.len());
                        total += granted;
                    }
                    Step::Feed => books.run_feeder(std::future::ready(())).await,
                    Step::Restart => {
                        // Open calls are charged whole, by their holds.
                        total += holds.drain(..).map(|(_, granted, _)| granted).sum::<u64>();
                        drop(books);
                        books = reopen(&folder.0, &ledger).await.0;
                    }
                    _ => {}
                }
                let reserved: u64 = holds.iter().map(|(_, granted, _)| *granted).sum();
                let (spent, held) = books.spent(&budgets[0].id, START);
                assert!(spent.0 + held.0 <= 1_000);
                if spent.0 + held.0 > 0 {
                    // After a restart nothing is known until a call asks.
                    assert_eq!((spent.0, held.0), (total, reserved));
                }
            }
            drop(holds);
            drop(books);
            let (books, report) = reopen(&folder.0, &ledger).await;
            assert_eq!(report.open_calls, 0);
            books.run_feeder(std::future::ready(())).await;
            assert!(ledger.total() <= 1_000);
        });
    }
}
