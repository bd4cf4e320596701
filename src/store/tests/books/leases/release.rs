//! What a node that will not come back holds is let go of, and nothing of what it has spent.

use std::sync::Arc;
use std::time::Duration;

use tollway_filter_api::treasury::{BudgetScope, Unpaid};
use tollway_store::treasury::{ReleaseError, holdings, release};

use tollway_tests::gateway::Folder;
use tollway_tests::servers::Redis;
use tollway_tests::setup::eventually;

use super::place::{self, Node};
use crate::support::{DAY, MemoryLedger, START, budget, open, record};

const DOLLAR: u64 = 1_000_000_000_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn claims_of_a_dead_node_are_let_go_of_but_for_what_it_has_spent() {
    let redis = Redis::start().await;
    let (folder, ledger) = (Folder::fresh(), Arc::new(MemoryLedger::default()));
    let budgets = [budget(BudgetScope::Key, "key", DAY, Some(10 * DOLLAR))];
    let one = Node::start(&redis, &ledger, &folder.0.join("one")).await;
    let two = Node::start(&redis, &ledger, &folder.0.join("two")).await;
    let spend = async |node: &Node, amount: u64| {
        open(&node.books, &budgets, "a", START, amount, amount).await.map(|hold| {
            hold.close(record("a", START, amount));
        })
    };
    spend(&one, 2 * DOLLAR).await.expect("there is room");
    // It dies with a call under way.
    let held = open(&one.books, &budgets, "b", START, 7 * DOLLAR, 7 * DOLLAR).await;
    let name = one.books.status().node.to_string();
    let link = place::link(&redis);
    link.up().await;
    eventually("it has said what it has spent", async || {
        let spent = holdings(&link).await.expect("Redis answers")[&name].spent;
        spent == u128::from(2 * DOLLAR)
    })
    .await;
    std::mem::forget(held.expect("there is room"));
    one.kill(&folder.0.join("gone")).await;
    let refused = spend(&two, 2 * DOLLAR).await;
    assert!(matches!(refused, Err(Unpaid::OverBudget(_))), "the dead node has it");

    // One that may be alive keeps what it has.
    let alive = release(&link, &name).await;
    assert!(matches!(alive, Err(ReleaseError::Alive(..))), "{alive:?}");
    assert!(matches!(release(&link, "nobody").await, Err(ReleaseError::Unknown)));
    let mut silence = redis::cmd("HSET");
    let long_ago = Duration::from_secs(1).as_millis() as u64;
    silence.arg("tollway:{cluster}").arg(format!("m:{name}")).arg(long_ago);
    silence.exec_async(&mut place::connection(&redis).await).await.expect("Redis does it");
    let released = release(&link, &name).await.expect("it is gone");
    assert_eq!((released.budgets, released.spent), (1, u128::from(2 * DOLLAR)));
    assert!(released.claimed >= u128::from(9 * DOLLAR), "{released:?}");

    // All but what it has spent can be spent, and not a cent more.
    spend(&two, 7 * DOLLAR).await.expect("it is there again");
    spend(&two, DOLLAR).await.expect("to the last dollar");
    let over = spend(&two, DOLLAR / 100).await;
    assert!(matches!(over, Err(Unpaid::OverBudget(_))));
    assert!(matches!(release(&link, &name).await, Err(ReleaseError::Unknown)), "once is enough");
    two.stop().await;
}
