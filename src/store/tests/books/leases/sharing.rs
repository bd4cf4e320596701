//! What one node sees of what another does.

use std::sync::Arc;
use std::time::Duration;

use tollway_filter_api::treasury::{Budget, BudgetScope, Unpaid};
use tollway_tests::gateway::Folder;
use tollway_tests::servers::Redis;
use tollway_tests::setup::eventually;
use tollway_wire::price::PicoDollars;

use super::place::{Node, UNIT};
use crate::support::{DAY, MemoryLedger, START, budget, must_open, open, record};

const DOLLAR: u64 = 1_000_000_000_000;

struct Pair {
    _redis: Redis,
    _folder: Folder,
    one: Node,
    two: Node,
}

async fn pair() -> Pair {
    let redis = Redis::start().await;
    let (folder, ledger) = (Folder::fresh(), Arc::new(MemoryLedger::default()));
    let one = Node::start(&redis, &ledger, &folder.0.join("one")).await;
    let two = Node::start(&redis, &ledger, &folder.0.join("two")).await;
    Pair { _redis: redis, _folder: folder, one, two }
}

fn key(dollars: u64) -> [Arc<Budget>; 1] {
    [budget(BudgetScope::Key, "key", DAY, Some(dollars * DOLLAR))]
}

/// What a refusal says of the spent and the reserved.
async fn refusal(node: &Node, budgets: &[Arc<Budget>], at: Duration, dollars: u64) -> (u64, u64) {
    let mut told = None;
    eventually("Redis is asked", async || {
        match open(&node.books, budgets, "no", at, dollars * DOLLAR, dollars * DOLLAR).await {
            Ok(_) => panic!("there is room for {dollars}"),
            Err(Unpaid::OverBudget(over)) => told = Some((over.spent.0, over.reserved.0)),
            Err(Unpaid::Unavailable(_)) => {}
        }
        told.is_some()
    })
    .await;
    told.expect("it is told by now")
}

/// Opens a call, as soon as there is room.
async fn room(node: &Node, budgets: &[Arc<Budget>], at: Duration, dollars: u64, cost: u64) {
    eventually("there is room", async || {
        let opened =
            open(&node.books, budgets, "yes", at, dollars * DOLLAR, dollars * DOLLAR).await;
        match opened {
            Ok(hold) => hold.close(record("yes", at, cost * DOLLAR)),
            Err(_) => return false,
        }
        true
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_node_has_reserved_the_other_cannot_have_until_it_is_given_back() {
    let Pair { one, two, _redis, _folder } = pair().await;
    let budgets = key(100);
    let hold = must_open(&one.books, &budgets, "a", START, 80 * DOLLAR).await;
    assert_eq!(refusal(&two, &budgets, START, 50).await, (0, 80 * DOLLAR));
    // What is left is granted to a call that can do with less.
    let small = open(&two.books, &budgets, "b", START, 50 * DOLLAR, DOLLAR).await;
    let Ok(small) = small else { panic!("twenty are left") };
    assert_eq!(small.granted(), PicoDollars(20 * DOLLAR));
    small.close(record("b", START, 20 * DOLLAR));
    hold.close(record("a", START, 10 * DOLLAR));
    room(&two, &budgets, START, 70, 70).await;
    let (spent, reserved) = refusal(&one, &budgets, START, 1).await;
    // What the other has not said yet to be spent counts as reserved.
    let used = u128::from(spent) + u128::from(reserved);
    assert!(used.abs_diff(u128::from(100 * DOLLAR)) <= 4 * UNIT, "{spent} and {reserved}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_node_does_not_use_the_other_gets_when_nothing_is_left() {
    let Pair { one, two, _redis, _folder } = pair().await;
    let budgets = key(100);
    // A small call of a large budget: its lease is much larger.
    room(&one, &budgets, START, 1, 1).await;
    room(&two, &budgets, START, 99, 99).await;
    refusal(&one, &budgets, START, 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_budget_that_is_lowered_below_what_was_spent_refuses_everywhere() {
    let Pair { one, two, _redis, _folder } = pair().await;
    room(&one, &key(1_000), START, 60, 60).await;
    room(&two, &key(1_000), START, 30, 30).await;
    refusal(&one, &key(50), START, 1).await;
    refusal(&two, &key(50), START, 1).await;
    room(&two, &key(100), START, 10, 10).await;
    refusal(&one, &key(100), START, 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_period_that_begins_has_all_of_its_budget_and_calls_of_the_one_before_stay_there() {
    let Pair { one, two, _redis, _folder } = pair().await;
    let (budgets, next) = (key(100), START + Duration::from_secs(86_400));
    let late = must_open(&one.books, &budgets, "late", START, 60 * DOLLAR).await;
    room(&two, &budgets, START, 40, 40).await;
    refusal(&two, &budgets, START, 1).await;
    room(&two, &budgets, next, 40, 40).await;
    room(&one, &budgets, next, 60, 30).await;
    late.close(record("late", START, 60 * DOLLAR));
    room(&two, &budgets, next, 30, 30).await;
    refusal(&one, &budgets, next, 1).await;
}
