//! A Redis that is slow, gone, or back without its data.

use std::sync::Arc;
use std::time::Duration;

use tollway_filter_api::treasury::{Budget, BudgetScope, Unpaid};
use tollway_tests::gateway::Folder;
use tollway_tests::servers::Redis;
use tollway_tests::setup::eventually;

use super::place::{Node, TIMINGS, heard_from};
use crate::support::{DAY, MemoryLedger, START, budget, open, record};

const DOLLAR: u64 = 1_000_000_000_000;
/// What a call may take: far more than it waits for Redis, for a busy machine, and less than those
/// wait who have time.
const IN_TIME: Duration = Duration::from_millis(1_500);

#[derive(Debug, PartialEq)]
enum Said {
    Yes,
    No,
    Unavailable,
}

/// Makes a call of a dollar.
async fn call(node: &Node, budgets: &[Arc<Budget>]) -> Said {
    let opening = open(&node.books, budgets, "a", START, DOLLAR, DOLLAR);
    let opened = tokio::time::timeout(IN_TIME, opening).await.expect("no call waits for Redis");
    match opened {
        Ok(hold) => {
            hold.close(record("a", START, DOLLAR));
            Said::Yes
        }
        Err(Unpaid::OverBudget(_)) => Said::No,
        Err(Unpaid::Unavailable(_)) => Said::Unavailable,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_redis_leases_run_out_and_calls_are_refused_until_it_is_back() {
    let mut redis = Redis::start().await;
    let (folder, ledger) = (Folder::fresh(), Arc::new(MemoryLedger::default()));
    let node = Node::start(&redis, &ledger, &folder.0.join("one")).await;
    let budgets = [budget(BudgetScope::Key, "key", DAY, Some(1_000 * DOLLAR))];
    let free = [budget(BudgetScope::User, "ann", DAY, None)];
    let mut calls = 0;
    for is_killed in [false, true, false] {
        eventually("a call is made", async || {
            let said = call(&node, &budgets).await;
            calls += u128::from(said == Said::Yes);
            said == Said::Yes
        })
        .await;
        match is_killed {
            true => redis.kill().await,
            false => redis.signal("STOP"),
        }
        let since = std::time::Instant::now();
        eventually("the lease runs out", async || {
            let said = call(&node, &budgets).await;
            assert_ne!(said, Said::No);
            calls += u128::from(said == Said::Yes);
            assert_eq!(call(&node, &free).await, Said::Yes, "nobody has to be asked");
            tokio::time::sleep(Duration::from_millis(20)).await;
            said == Said::Unavailable
        })
        .await;
        assert!(since.elapsed() < TIMINGS.ttl * 4, "{:?}", since.elapsed());
        match is_killed {
            true => redis.again().await,
            false => redis.signal("CONT"),
        }
    }
    eventually("what is left is spent", async || {
        loop {
            match call(&node, &budgets).await {
                Said::Yes => calls += 1,
                said => return said == Said::No,
            }
        }
    })
    .await;
    node.stop().await;
    let free = ledger.all().len() as u128 - calls;
    let spent = ledger.total() / u128::from(DOLLAR) - free;
    assert_eq!(spent, calls);
    assert!(spent <= 1_000, "{spent} of 1000");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_silent_when_redis_forgets_is_waited_for() {
    let redis = Redis::start().await;
    let (folder, ledger) = (Folder::fresh(), Arc::new(MemoryLedger::default()));
    let one = Node::start(&redis, &ledger, &folder.0.join("one")).await;
    let two = Node::start(&redis, &ledger, &folder.0.join("two")).await;
    let budgets = [budget(BudgetScope::Key, "key", DAY, Some(100 * DOLLAR))];
    eventually("a call is made", async || call(&two, &budgets).await == Said::Yes).await;
    eventually("a call is made", async || call(&one, &budgets).await == Said::Yes).await;
    // Each has heard of the other.
    for _ in 0..2 {
        let before = heard_from(&redis, &one).await;
        eventually("a heartbeat", async || heard_from(&redis, &one).await != before).await;
    }
    two.kill(&folder.0.join("copy")).await;
    redis.command("FLUSHALL").await;
    let since = std::time::Instant::now();
    eventually("Redis has forgotten", async || call(&one, &budgets).await == Said::Unavailable)
        .await;
    eventually("a call is made", async || call(&one, &budgets).await == Said::Yes).await;
    // Longer than the other's lease can have lasted.
    assert!(since.elapsed() > TIMINGS.ttl, "{:?}", since.elapsed());
}
