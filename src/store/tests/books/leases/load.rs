//! Many clients on several nodes, until nothing is left.

use std::mem::ManuallyDrop;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::task::JoinSet;
use tollway_filter_api::treasury::{Budget, BudgetScope, Unpaid};
use tollway_store::treasury::Books;
use tollway_tests::gateway::Folder;
use tollway_tests::servers::Redis;
use tollway_tests::setup::eventually;
use tollway_wire::price::PicoDollars;

use super::place::{Node, UNIT, budgets_in, calls};
use crate::support::{DAY, MemoryLedger, START, budget, open, record};

/// A millionth of a dollar.
const MICRO: u64 = 1_000_000;
/// The most a call can cost.
const BOUND: u64 = 1_500 * MICRO;
const CLIENTS: u64 = 64;

/// Numbers that look random.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % below
    }
}

#[derive(Default)]
pub(super) struct Tally {
    pub(super) requests: AtomicU64,
    pub(super) unavailable: AtomicU64,
    pub(super) stop: AtomicBool,
}

/// Calls until the budget is used up.
async fn client(books: Books, budgets: Arc<[Arc<Budget>]>, name: String, tally: Arc<Tally>) {
    let mut dice = Dice(name.bytes().fold(7, |sum, byte| sum * 31 + u64::from(byte)));
    let mut number = 0;
    while !tally.stop.load(Ordering::Relaxed) {
        number += 1;
        let request = format!("{name}-{number}");
        let bound = (100 + dice.roll(1_401)) * MICRO;
        let is_stream = dice.roll(4) == 0;
        let first = if is_stream { bound / 2 } else { bound };
        tally.requests.fetch_add(1, Ordering::Relaxed);
        let hold = match open(&books, &budgets, &request, START, first, first).await {
            // A process that is killed gives nothing back.
            Ok(hold) => ManuallyDrop::new(hold),
            Err(Unpaid::OverBudget(_)) => return,
            Err(Unpaid::Unavailable(_)) => {
                tally.unavailable.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(20)).await;
                continue;
            }
        };
        let mut hold = hold;
        tokio::task::yield_now().await;
        if is_stream {
            // What is not there is not spent.
            let _ = hold.extend(PicoDollars(bound / 2));
        }
        tokio::task::yield_now().await;
        // To the pico-dollar.
        let cost = dice.roll(hold.granted().0) + 1;
        ManuallyDrop::into_inner(hold).close(record(&request, START, cost));
    }
}

pub(super) fn clients(
    node: &Node,
    budgets: &Arc<[Arc<Budget>]>,
    name: &str,
    count: u64,
    tally: &Arc<Tally>,
) -> JoinSet<()> {
    let mut clients = JoinSet::new();
    for at in 0..count {
        let (books, budgets) = (node.books.clone(), Arc::clone(budgets));
        clients.spawn(client(books, budgets, format!("{name}-{at}"), Arc::clone(tally)));
    }
    clients
}

/// Waits until the ledger has all that a node has settled.
async fn fed(node: &Node) {
    eventually("the ledger has everything", async || node.books.status().backlog_records == 0)
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_never_overspend_and_use_up_what_there_is_also_when_one_is_killed() {
    let redis = Redis::start().await;
    let (folder, ledger) = (Folder::fresh(), Arc::new(MemoryLedger::default()));
    let mut nodes = Vec::new();
    for name in ["a", "b", "c"] {
        nodes.push(Node::start(&redis, &ledger, &folder.0.join(name)).await);
    }
    let limit = 20_000_000 * MICRO;
    let budgets: Arc<[_]> = Arc::new([
        budget(BudgetScope::Team, "dev", DAY, Some(limit)),
        budget(BudgetScope::User, "ann", None, Some(2 * limit)),
    ]);
    let tally = Arc::new(Tally::default());
    let before = calls(&redis).await;
    let mut groups: Vec<_> = nodes
        .iter()
        .zip(["a", "b", "c"])
        .map(|(node, name)| clients(node, &budgets, name, CLIENTS / 3, &tally))
        .collect();
    eventually("a third is spent", async || ledger.total() > u128::from(limit) / 3).await;
    let (mut doomed, node) = (groups.remove(1), nodes.remove(1));
    doomed.abort_all();
    while doomed.join_next().await.is_some() {}
    node.kill(&folder.0.join("b-again")).await;
    for group in &mut groups {
        while let Some(client) = group.join_next().await {
            client.expect("no client panics");
        }
    }
    let requests = tally.requests.load(Ordering::Relaxed);
    let calls = calls(&redis).await - before;
    let ratio = calls as f64 / requests as f64;
    assert!(ratio <= 0.15, "{calls} calls to Redis for {requests} requests");

    // Nothing is left but for what the dead node has claimed, and the others hold nothing back.
    // The user's budget is not used up: there, leases are larger than calls.
    eventually("nothing is left", async || {
        // Clients that were refused because of what others had reserved and did not use.
        for node in &nodes {
            clients(node, &budgets, "late", 1, &tally).join_all().await;
        }
        let shared = budgets_in(&redis).await;
        let team = shared.iter().min_by_key(|shared| shared.used()).expect("there are budgets");
        u128::from(limit).saturating_sub(team.used()) <= u128::from(BOUND)
    })
    .await;
    for node in &nodes {
        let name = node.books.status().node;
        fed(node).await;
        eventually("nothing is held back", async || {
            let (spent, shared) = (ledger.of(&name), budgets_in(&redis).await);
            let team = shared.iter().min_by_key(|shared| shared.used()).expect("there are budgets");
            let mut claims = team.claims.iter();
            let claim = claims.find(|(holder, _)| holder.starts_with(&*name));
            claim.is_some_and(|(_, claim)| *claim < spent + UNIT)
        })
        .await;
    }

    // It comes back with its journal, and what it had not spent can be spent.
    let again = Node::start(&redis, &ledger, &folder.0.join("b-again")).await;
    let tally = Arc::new(Tally::default());
    nodes.push(again);
    eventually("what the dead node had is there again", async || {
        let mut group = clients(&nodes[2], &budgets, "b2", 4, &tally);
        while group.join_next().await.is_some() {}
        for node in &nodes {
            fed(node).await;
        }
        u128::from(limit) - ledger.total() <= u128::from(BOUND)
    })
    .await;
    for node in nodes {
        node.stop().await;
    }
    let (spent, limit) = (ledger.total(), u128::from(limit));
    assert!(spent <= limit, "overspent by {}", spent - limit);
    assert!(limit - spent <= u128::from(BOUND), "{} unused", limit - spent);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_never_overspend_when_redis_forgets_everything_under_load() {
    let redis = Redis::start().await;
    let (folder, ledger) = (Folder::fresh(), Arc::new(MemoryLedger::default()));
    let mut nodes = Vec::new();
    for name in ["a", "b", "c"] {
        nodes.push(Node::start(&redis, &ledger, &folder.0.join(name)).await);
    }
    let limit = 20_000_000 * MICRO;
    let budgets: Arc<[_]> = Arc::new([budget(BudgetScope::Team, "dev", DAY, Some(limit))]);
    let tally = Arc::new(Tally::default());
    let mut groups: Vec<_> = nodes
        .iter()
        .zip(["a", "b", "c"])
        .map(|(node, name)| clients(node, &budgets, name, CLIENTS / 3, &tally))
        .collect();
    for part in [5, 3] {
        eventually("some is spent", async || ledger.total() > u128::from(limit) / part).await;
        redis.command("FLUSHALL").await;
    }
    for group in &mut groups {
        while let Some(client) = group.join_next().await {
            client.expect("no client panics");
        }
    }
    for node in nodes {
        node.stop().await;
    }
    let (spent, limit) = (ledger.total(), u128::from(limit));
    assert!(spent <= limit, "overspent by {}", spent - limit);
    let unavailable = tally.unavailable.load(Ordering::Relaxed);
    assert!(spent > limit / 2, "{spent} only, and {unavailable} were told to come again");
}
