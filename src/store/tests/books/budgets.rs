//! The books through their door: budgets, restarts, periods, the way to the ledger.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::support::{DAY, MemoryLedger, START, budget, draft, must_open, open, record};
use tollway_filter_api::Clock;
use tollway_filter_api::ledger::{Ledger, SpendRecord};
use tollway_filter_api::treasury::{
    Budget, BudgetScope, Opening, Period, PeriodUnit, Treasury, Unpaid,
};
use tollway_store::treasury::{Books, BooksConfig, Fsync, OnRestart, RecoveryReport};
use tollway_tests::gateway::Folder;
use tollway_wire::price::PicoDollars;
use tollway_wire::usage::Usage;

fn config(folder: &Folder) -> BooksConfig {
    BooksConfig { reserve_bytes: 64 * 1024, ..BooksConfig::new(folder.0.join("journal")) }
}

async fn books(folder: &Folder, ledger: &Arc<MemoryLedger>) -> (Books, RecoveryReport) {
    books_with(config(folder), ledger).await
}

async fn books_with(config: BooksConfig, ledger: &Arc<MemoryLedger>) -> (Books, RecoveryReport) {
    books_at(config, ledger, &Clock::manual()).await
}

async fn books_at(
    config: BooksConfig,
    ledger: &Arc<MemoryLedger>,
    clock: &Clock,
) -> (Books, RecoveryReport) {
    let ledger = Arc::clone(ledger) as Arc<dyn Ledger>;
    Books::open(config, ledger, clock.clone()).await.expect("the books open")
}

/// Brings everything to the ledger.
async fn feed(books: &Books) {
    books.run_feeder(std::future::ready(())).await;
}

fn spent(books: &Books, budget: &Budget, now: Duration) -> (u64, u64) {
    let (spent, reserved) = books.spent(&budget.id, now);
    (spent.0, reserved.0)
}

#[tokio::test]
async fn all_budgets_must_have_room_and_none_is_touched_if_one_has_not() {
    let (folder, ledger) = (Folder::fresh(), Arc::default());
    let (books, _) = books(&folder, &ledger).await;
    let key = budget(BudgetScope::Key, "key", DAY, Some(100));
    let team = budget(BudgetScope::Team, "dev", None, Some(60));
    let both = [Arc::clone(&key), Arc::clone(&team)];
    let hold = must_open(&books, &both, "a", START, 50).await;
    assert_eq!((spent(&books, &key, START), spent(&books, &team, START)), ((0, 50), (0, 50)));
    let Err(Unpaid::OverBudget(over)) = open(&books, &both, "b", START, 50, 20).await else {
        panic!("the team has ten left");
    };
    assert_eq!(over.budget, team);
    assert_eq!((over.spent.0, over.reserved.0, over.resets_in), (0, 50, None));
    assert_eq!(spent(&books, &key, START), (0, 50));
    let Ok(small) = open(&books, &both, "c", START, 50, 5).await else { panic!("ten are left") };
    assert_eq!(small.granted(), PicoDollars(10));
    let left: Vec<u64> = small.left().iter().map(|(_, left)| left.0).collect();
    assert_eq!(left, [0, 40]);
    small.close(record("c", START, 1));
    hold.close(record("a", START, 30));
    assert_eq!(spent(&books, &team, START), (31, 0));
    // `key` is not the record's key: whoever was asked pays.
    assert_eq!(spent(&books, &key, START), (31, 0));
}

#[tokio::test]
async fn a_stream_extends_until_the_last_pico_dollar() {
    let (folder, ledger) = (Folder::fresh(), Arc::default());
    let (books, _) = books(&folder, &ledger).await;
    let team = [budget(BudgetScope::Team, "dev", DAY, Some(100))];
    let mut hold = must_open(&books, &team, "a", START, 60).await;
    hold.extend(PicoDollars(40)).expect("there is room");
    let over = hold.extend(PicoDollars(1)).expect_err("there is none");
    assert_eq!((over.spent.0, over.reserved.0), (0, 100));
    assert_eq!(over.resets_in, Some(Duration::from_secs(86_400)));
    assert_eq!(hold.granted(), PicoDollars(100));
    hold.close(record("a", START, 100));
    assert_eq!(spent(&books, &team[0], START), (100, 0));
    assert!(open(&books, &team, "b", START, 1, 1).await.is_err());
}

#[tokio::test]
async fn what_a_call_cost_beyond_its_grant_is_recorded_and_reported() {
    let (folder, ledger) = (Folder::fresh(), Arc::<MemoryLedger>::default());
    let (books, _) = books(&folder, &ledger).await;
    let team = [budget(BudgetScope::Team, "dev", DAY, Some(100))];
    let hold = must_open(&books, &team, "a", START, 60).await;
    hold.close(record("a", START, 250));
    assert_eq!(spent(&books, &team[0], START), (250, 0));
    let status = books.status();
    assert_eq!((status.over_granted_calls, status.over_granted), (1, 190));
    feed(&books).await;
    assert_eq!(ledger.total(), 250);
    // The budget is far behind what was spent: it just refuses.
    assert!(open(&books, &team, "b", START, 1, 1).await.is_err());
}

#[tokio::test]
async fn a_dropped_hold_is_charged_whole_and_one_that_was_never_made_is_not() {
    let (folder, ledger) = (Folder::fresh(), Arc::<MemoryLedger>::default());
    // Calls wait for the journal.
    let config = BooksConfig { fsync: Fsync::Always, ..config(&folder) };
    let (books, _) = books_with(config.clone(), &ledger).await;
    let team = [budget(BudgetScope::Team, "dev", DAY, Some(100))];
    drop(must_open(&books, &team, "a", START, 60).await);
    assert_eq!(spent(&books, &team[0], START), (60, 0));
    // The caller goes before the journal has it.
    let opening = open(&books, &team, "b", START, 40, 40);
    drop(Box::pin(opening));
    let (most, least) = (PicoDollars(40), PicoDollars(40));
    let opening = Opening { budgets: &team, most, least, now: START };
    drop(books.open(opening.clone()));
    let Ok(hold) = books.open(opening.clone()).paid().await else { panic!("there is room") };
    drop(hold.written(&draft("c", START)));
    assert_eq!(spent(&books, &team[0], START), (60, 0));
    // One that needs no call, and is only recorded.
    let Ok(hold) = books.open(opening).paid().await else { panic!("there is room") };
    assert_eq!(spent(&books, &team[0], START), (60, 40));
    hold.close(SpendRecord { cache_hit: true, ..record("d", START, 0) });
    assert_eq!(spent(&books, &team[0], START), (60, 0));
    feed(&books).await;
    let all = ledger.all();
    let lines = all.iter().map(|record| (&*record.request_id, record.cost.0, record.cache_hit));
    assert_eq!(lines.collect::<Vec<_>>(), [("a", 60, false), ("d", 0, true)]);
    assert!(all[0].usage_estimated);
    assert_eq!(books.status().dropped_calls, 1);
    // None of them is open for whoever comes after a crash.
    let copy = Folder::fresh();
    copy_folder(&folder.0, &copy.0);
    let copied = BooksConfig { folder: copy.0.join("journal"), ..config };
    let (_, report) = books_with(copied, &Arc::default()).await;
    assert_eq!(report.open_calls, 0);
}

#[tokio::test]
async fn after_a_restart_every_pico_dollar_is_where_it_was() {
    let (folder, ledger) = (Folder::fresh(), Arc::<MemoryLedger>::default());
    let mut budgets = Vec::new();
    for (scope, subject) in [
        (BudgetScope::Global, ""),
        (BudgetScope::Provider, "openai"),
        (BudgetScope::Model, "gpt"),
        (BudgetScope::Deployment, "at-openai"),
        (BudgetScope::Team, "dev"),
        (BudgetScope::User, "ann"),
        (BudgetScope::EndUser, "zoe"),
        (BudgetScope::Tag, "x"),
    ] {
        for period in [DAY, None] {
            budgets.push(budget(scope, subject, period, Some(1_000_000)));
        }
    }
    let key = crate::support::draft("", START).key;
    budgets.push(budget(BudgetScope::Key, &key, DAY, Some(1_000_000)));
    for (scope, subject, part) in [
        (BudgetScope::KeyModel, &*key, "gpt"),
        (BudgetScope::TeamModel, "dev", "gpt"),
        (BudgetScope::UserModel, "ann", "gpt"),
        (BudgetScope::TeamMember, "dev", "ann"),
    ] {
        let mut by_part = Budget::clone(&budget(scope, subject, None, Some(1_000_000)));
        by_part.id.part = Some(part.into());
        budgets.push(Arc::new(by_part));
    }

    let made = |request: &str, at, cost| SpendRecord {
        model_id: "at-openai".into(),
        end_user: Some("zoe".into()),
        tags: vec!["x".into(), "y".into(), "x".into()],
        ..record(request, at, cost)
    };
    let tomorrow = START + Duration::from_secs(86_400);
    let mut expect = (0, 0);
    for round in 0..4u64 {
        let (books, _) = books(&folder, &ledger).await;
        // Some rounds are in the ledger, some only in the journal.
        for call in 0..3 {
            let cost = 100 * round + call;
            let at = if round < 2 { START } else { tomorrow };
            let name = format!("{round}-{call}");
            let hold = must_open(&books, &budgets, &name, at, 1000).await;
            hold.close(made(&name, at, cost));
            expect.0 += cost;
            expect.1 += if round < 2 { 0 } else { cost };
        }
        if round % 2 == 0 {
            feed(&books).await;
        }
    }
    let (books, report) = books(&folder, &ledger).await;
    assert_eq!((report.open_calls, report.backlog), (0, 3));
    // Nothing is known until a budget is met.
    let ids: Vec<_> = budgets.iter().map(|budget| budget.id.clone()).collect();
    let hold = must_open(&books, &budgets, "now", tomorrow, 7).await;
    for budget in &budgets {
        let expect = if budget.id.period.is_some() { expect.1 } else { expect.0 };
        assert_eq!(spent(&books, budget, tomorrow), (expect, 7), "{:?}", budget.id);
    }
    hold.close(made("now", tomorrow, 7));
    feed(&books).await;
    assert_eq!(ledger.total(), u128::from(expect.0 + 7));
    assert_eq!(ledger.all().len(), 13);
    books.prepare(&ids).await.expect("the ledger answers");
}

#[tokio::test]
async fn a_budget_given_in_the_middle_of_a_period_knows_what_was_spent_in_it() {
    let (folder, ledger) = (Folder::fresh(), Arc::<MemoryLedger>::default());
    let (books, _) = books(&folder, &ledger).await;
    for (name, fed) in [("a", true), ("b", false)] {
        must_open(&books, &[], name, START, 10).await.close(record(name, START, 10));
        if fed {
            feed(&books).await;
        }
    }
    let team = [budget(BudgetScope::Team, "dev", DAY, Some(25))];
    assert!(open(&books, &team, "c", START, 10, 10).await.is_err());
    assert_eq!(spent(&books, &team[0], START), (20, 0));
    // A call without the budget counts from now on as well, whoever's it is.
    must_open(&books, &[], "d", START, 4).await.close(record("d", START, 4));
    assert_eq!(spent(&books, &team[0], START), (24, 0));
}

#[tokio::test]
async fn open_calls_are_charged_by_policy_after_a_crash_and_only_once() {
    for on_restart in [OnRestart::ChargeBound, OnRestart::ChargeProgress] {
        let (folder, ledger) = (Folder::fresh(), Arc::<MemoryLedger>::default());
        let team = [budget(BudgetScope::Team, "dev", DAY, Some(10_000))];
        let (first, _) = books(&folder, &ledger).await;
        let mut streams = must_open(&first, &team, "streams", START, 500).await;
        streams.extend(PicoDollars(300)).expect("there is room");
        let usage = Usage { prompt_tokens: 9, completion_tokens: 3, ..Usage::default() };
        streams.progress(&usage, PicoDollars(120));
        // Within the same second: left out.
        streams.progress(&usage, PicoDollars(121));
        let silent = must_open(&first, &team, "silent", START, 70).await;
        let done = must_open(&first, &team, "done", START, 70).await;
        done.close(record("done", START, 5));
        first.flush().await.expect("the disk is well");
        // The process dies: nobody closes anything, and the lock is free.
        let copy = Folder::fresh();
        copy_folder(&folder.0, &copy.0);
        let config = BooksConfig { on_restart, ..config(&copy) };
        let (books, report) = books_with(config.clone(), &ledger).await;
        assert_eq!(report.open_calls, 2);
        let streamed = if on_restart == OnRestart::ChargeBound { 800 } else { 120 };
        assert_eq!(report.charged, streamed + 70);
        assert_eq!(report.recovered[0].record.usage, usage);
        assert_eq!(report.recovered[0].bound, PicoDollars(800));
        drop(books);
        let (books, report) = books_with(config, &ledger).await;
        assert_eq!((report.open_calls, report.backlog), (0, 3));
        feed(&books).await;
        assert_eq!(ledger.total(), streamed + 70 + 5);
        drop((streams, silent));
    }
}

/// Copies what a folder holds, also while a journal in it renames its files.
fn copy_folder(from: &std::path::Path, to: &std::path::Path) {
    std::fs::create_dir_all(to).expect("a folder");
    let mut has_all = false;
    while !has_all {
        has_all = true;
        for entry in std::fs::read_dir(from).expect("a folder") {
            let entry = entry.expect("an entry");
            let target = to.join(entry.file_name());
            if entry.path().is_dir() {
                copy_folder(&entry.path(), &target);
            } else if let Err(error) = std::fs::copy(entry.path(), target) {
                // It has another name by now, under which it is listed the next time.
                assert_eq!(error.kind(), std::io::ErrorKind::NotFound, "{error}");
                has_all = false;
            }
        }
    }
}

#[tokio::test]
async fn a_folder_belongs_to_one_process_and_a_copy_of_it_is_refused() {
    let (folder, ledger) = (Folder::fresh(), Arc::<MemoryLedger>::default());
    drop(books(&folder, &ledger).await);
    let copy = Folder::fresh();
    // While nobody makes and renames files in it.
    copy_folder(&folder.0, &copy.0);
    let (first, _) = books(&folder, &ledger).await;
    let second = Books::open(config(&folder), Arc::clone(&ledger) as _, Clock::manual()).await;
    let error = second.err().expect("the folder is taken").to_string();
    assert!(error.contains("in use by another process"), "{error}");

    must_open(&first, &[], "a", START, 1).await.close(record("a", START, 1));
    feed(&first).await;
    drop(first);
    // The original starts again and writes; then the copy, which thinks that it is as far.
    let (second, _) = books(&folder, &ledger).await;
    must_open(&second, &[], "b", START, 1).await.close(record("b", START, 1));
    feed(&second).await;
    let copied = Books::open(config(&copy), Arc::clone(&ledger) as _, Clock::manual()).await;
    let error = copied.err().expect("the copy is noticed").to_string();
    assert!(error.contains("copy of the folder"), "{error}");
    assert_eq!(ledger.all().len(), 2);
}

#[tokio::test]
async fn two_nodes_of_one_name_that_run_together_are_noticed() {
    let (folder, ledger) = (Folder::fresh(), Arc::<MemoryLedger>::default());
    drop(books(&folder, &ledger).await);
    let copy = Folder::fresh();
    copy_folder(&folder.0, &copy.0);
    let (one, _) = books(&folder, &ledger).await;
    let (other, _) = books(&copy, &ledger).await;
    for (books, names) in [(&one, ["a", "b"]), (&other, ["c", "d"])] {
        for name in names {
            must_open(books, &[], name, START, 1).await.close(record(name, START, 1));
        }
    }
    feed(&one).await;
    feed(&other).await;
    let error = other.status().last_error.expect("it says so");
    assert!(error.contains("another gateway writes to the ledger"), "{error}");
    assert_eq!(other.status().backlog_records, 2);
}

#[tokio::test]
async fn a_ledger_that_is_away_costs_disk_only() {
    let (folder, ledger) = (Folder::fresh(), Arc::<MemoryLedger>::default());
    let config = BooksConfig { segment_bytes: 20_000, ..config(&folder) };
    let (books, _) = books_with(config, &ledger).await;
    let team = [budget(BudgetScope::Team, "dev", DAY, Some(1_000_000))];
    must_open(&books, &team, "first", START, 1).await.close(record("first", START, 1));
    ledger.away.store(true, Ordering::Relaxed);
    for call in 0..1_500 {
        let name = format!("call-{call}");
        must_open(&books, &team, &name, START, 10).await.close(record(&name, START, 10));
    }
    feed(&books).await;
    let status = books.status();
    assert_eq!(status.backlog_records, 1_501);
    assert!(status.disk_bytes > 200_000, "{status:?}");
    assert!(status.last_error.is_some_and(|error| error.contains("nobody listens")));
    // A batch whose answer is lost is not brought twice.
    ledger.away.store(false, Ordering::Relaxed);
    ledger.lies.store(true, Ordering::Relaxed);
    feed(&books).await;
    feed(&books).await;
    let status = books.status();
    assert_eq!((status.backlog_records, status.last_error.as_deref()), (0, None));
    assert_eq!(ledger.all().len(), 1_501);
    assert_eq!(ledger.doubles.load(Ordering::Relaxed), 0);
    assert!(status.disk_bytes < 50_000, "segments go when the ledger has them: {status:?}");
}

#[tokio::test]
async fn a_ledger_that_is_away_at_the_start_refuses_calls_with_budgets_alone() {
    let (folder, ledger) = (Folder::fresh(), Arc::<MemoryLedger>::default());
    ledger.away.store(true, Ordering::Relaxed);
    let (books, report) = books(&folder, &ledger).await;
    assert!(report.ledger_error.is_some());
    let team = [budget(BudgetScope::Team, "dev", DAY, Some(100))];
    let refused = open(&books, &team, "a", START, 1, 1).await.err().expect("nobody knows");
    assert!(matches!(refused, Unpaid::Unavailable(_)), "{refused:?}");
    must_open(&books, &[], "b", START, 1).await.close(record("b", START, 1));
}

#[tokio::test]
async fn a_call_that_lasts_does_not_keep_the_journal_from_shrinking() {
    let (folder, ledger) = (Folder::fresh(), Arc::<MemoryLedger>::default());
    let config = BooksConfig { segment_bytes: 10_000, ..config(&folder) };
    let team = [budget(BudgetScope::Team, "dev", DAY, Some(1_000_000))];
    let (first, _) = books_with(config.clone(), &ledger).await;
    let mut lasts = must_open(&first, &team, "lasts", START, 500).await;
    lasts.extend(PicoDollars(11)).expect("there is room");
    for call in 0..1_000 {
        let name = format!("call-{call}");
        must_open(&first, &team, &name, START, 10).await.close(record(&name, START, 10));
        if call % 100 == 0 {
            feed(&first).await;
        }
    }
    feed(&first).await;
    let status = first.status();
    assert!(status.disk_bytes < 100_000, "{status:?}");
    assert_eq!(status.open_calls, 1);
    // It is still known to be open, and for how much.
    let copy = Folder::fresh();
    copy_folder(&folder.0, &copy.0);
    let other = Arc::<MemoryLedger>::default();
    let copied = BooksConfig { folder: copy.0.join("journal"), ..config };
    let (_, report) = books_with(copied, &other).await;
    assert_eq!((report.open_calls, report.charged), (1, 511));
    lasts.close(record("lasts", START, 400));
    feed(&first).await;
    assert_eq!(ledger.all().len(), 1_001);
}

#[tokio::test]
async fn clocks_that_jump_refund_nothing_and_lock_nobody_out() {
    let (folder, ledger) = (Folder::fresh(), Arc::<MemoryLedger>::default());
    let clock = Clock::manual();
    let (books, _) = books_at(config(&folder), &ledger, &clock).await;
    let hour = Some(Period { count: 1, unit: PeriodUnit::Hour });
    let team = [budget(BudgetScope::Team, "dev", hour, Some(100))];
    let at = |minutes: u64| START + Duration::from_secs(60 * 60 * 24 + minutes * 60);
    clock.set(at(30));
    must_open(&books, &team, "a", at(30), 60).await.close(record("a", at(30), 60));
    // Back by a little and by a lot: what was spent stays spent.
    for now in [at(29), at(0), START] {
        clock.set(now);
        assert!(open(&books, &team, "b", now, 50, 50).await.is_err(), "{now:?}");
    }
    // The next hour, by the clock that was set back.
    let later = START + Duration::from_secs(60 * 60);
    clock.set(later);
    must_open(&books, &team, "c", later, 80).await.close(record("c", later, 80));
    // Forward: an hour like any other; and one who is late by a minute pays in it.
    clock.set(at(60));
    must_open(&books, &team, "d", at(60), 70).await.close(record("d", at(60), 70));
    assert!(open(&books, &team, "e", at(59), 50, 50).await.is_err());
    let late = must_open(&books, &team, "f", at(59), 30).await;
    late.close(record("f", at(59), 30));
    assert_eq!(spent(&books, &team[0], at(61)), (100, 0));
    // The ledger agrees.
    feed(&books).await;
    let of_hour = ledger.all().into_iter();
    let of_hour = of_hour.filter(|record| record.started_ms >= at(60).as_millis() as u64);
    assert_eq!(of_hour.map(|record| record.cost.0).sum::<u64>(), 100);
}

#[tokio::test]
async fn who_comes_late_or_ends_late_makes_no_period_begin_anew() {
    let (folder, ledger) = (Folder::fresh(), Arc::<MemoryLedger>::default());
    let clock = Clock::manual();
    let (books, _) = books_at(config(&folder), &ledger, &clock).await;
    let ten = Some(Period { count: 10, unit: PeriodUnit::Second });
    let short = [budget(BudgetScope::Team, "dev", ten, Some(100))];
    let other = [budget(BudgetScope::Team, "ops", ten, Some(100))];
    let daily = [budget(BudgetScope::Team, "dev", DAY, Some(1_000))];
    must_open(&books, &short, "a", START, 100).await.close(record("a", START, 100));
    let long = must_open(&books, &daily, "b", START, 10).await;
    // Six periods later.
    clock.advance(Duration::from_secs(60));
    let now = clock.unix();
    must_open(&books, &short, "c", now, 100).await.close(record("c", now, 100));
    open(&books, &short, "d", now, 1, 1).await.err().expect("the period is spent");
    // One that began before them ends.
    long.close(record("b", START, 10));
    open(&books, &short, "e", now, 1, 1).await.err().expect("it stays spent");
    // And one that has waited for long opens, and pays in the period that runs.
    must_open(&books, &other, "f", START, 100).await.close(record("f", START, 100));
    open(&books, &short, "g", now, 1, 1).await.err().expect("it stays spent");
    open(&books, &other, "h", now, 1, 1).await.err().expect("and so is theirs");
}

#[tokio::test]
async fn a_call_pays_in_the_period_it_was_opened_in() {
    let (folder, ledger) = (Folder::fresh(), Arc::<MemoryLedger>::default());
    let (books, _) = books(&folder, &ledger).await;
    let team = [budget(BudgetScope::Team, "dev", DAY, Some(100))];
    let tomorrow = START + Duration::from_secs(86_400);
    let mut hold = must_open(&books, &team, "a", START, 60).await;
    let next = must_open(&books, &team, "b", tomorrow, 100).await;
    // Yesterday's limit still holds for yesterday's call.
    hold.extend(PicoDollars(40)).expect("yesterday has room");
    hold.extend(PicoDollars(1)).expect_err("and now it has not");
    hold.close(record("a", START, 90));
    assert_eq!(spent(&books, &team[0], tomorrow), (0, 100));
    next.close(record("b", tomorrow, 1));
    assert_eq!(spent(&books, &team[0], tomorrow), (1, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn sixty_four_callers_of_one_budget_spend_it_and_no_more() {
    const LIMIT: u64 = 2_000_000;
    const WORST: u64 = 1_500;
    for fsync in [Fsync::None, Fsync::default(), Fsync::Always] {
        let (folder, ledger) = (Folder::fresh(), Arc::<MemoryLedger>::default());
        let (books, _) = books_with(BooksConfig { fsync, ..config(&folder) }, &ledger).await;
        let team = [budget(BudgetScope::Team, "dev", DAY, Some(LIMIT))];
        let callers: Vec<_> = (0..64u64)
            .map(|caller| {
                let (books, team) = (books.clone(), team.clone());
                tokio::spawn(async move {
                    let mut seed = caller * 7919 + 1;
                    loop {
                        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                        let cost = 100 + (seed >> 33) % 1_400;
                        let Ok(hold) = open(&books, &team, "x", START, WORST, WORST).await else {
                            // Others may still give something back; who is alone is refused for good.
                            return;
                        };
                        tokio::task::yield_now().await;
                        hold.close(record("x", START, cost));
                    }
                })
            })
            .collect();
        for caller in callers {
            caller.await.expect("a caller");
        }
        // Reservations are given back when calls are over: one who comes now gets what is left.
        while let Ok(hold) = open(&books, &team, "x", START, WORST, WORST).await {
            hold.close(record("x", START, 1_000));
        }
        let (spent, reserved) = spent(&books, &team[0], START);
        assert!(spent <= LIMIT, "{spent}");
        assert!(LIMIT - spent < WORST, "{} are not used", LIMIT - spent);
        assert_eq!(reserved, 0);
        feed(&books).await;
        assert_eq!(ledger.total(), u128::from(spent));
    }
}
