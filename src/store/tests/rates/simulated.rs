//! Nodes in simulated time, over a real Redis: what is granted in any 60 seconds, and what it costs.

use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use tollway_filter_api::limits::{LimitStore, LimitUnit, Ticket};
use tollway_tests::servers::Redis;

use crate::support::{Dice, Grants, MINUTE, Nodes, key};

const MS: Duration = Duration::from_millis(1);

/// How much of a limit three nodes get out of it, and what it costs.
struct Got {
    /// The share that was used, from the second minute on.
    share: f64,
    /// Calls of Redis for each request.
    calls: f64,
}

/// Clients send `per_second` requests in all, more than the limit allows, to those of three nodes
/// that `places` names, in turns of chance.
async fn offered(places: &[usize], limit: u64, amount: u64, per_second: u32, minutes: u32) -> Got {
    let redis = Redis::start().await;
    let mut nodes = Nodes::start(&redis, 3).await;
    let key = key("k", if amount == 1 { LimitUnit::Requests } else { LimitUnit::Tokens });
    let before = redis.calls(&["evalsha"]).await;
    let begin = nodes.clock.now();
    let mut grants = Grants::default();
    let mut dice = Dice::new(u64::from(per_second));
    let mut asked = 0;
    while nodes.clock.now() - begin < MINUTE * minutes {
        nodes.advance(20 * MS).await;
        let passed = (nodes.clock.now() - begin).as_millis() as u64;
        while asked * 1000 < passed * u64::from(per_second) {
            asked += 1;
            let node = places[dice.below(places.len() as u64) as usize];
            if nodes.admit(node, &key, limit, amount).await.is_ok() {
                grants.0.push((nodes.clock.now(), amount));
            }
        }
    }
    assert!(grants.busiest() <= limit, "{} of {limit}", grants.busiest());
    let calls = redis.calls(&["evalsha"]).await - before;
    let first = grants.0.iter().filter(|(at, _)| *at - begin < MINUTE).map(|(_, n)| n).sum::<u64>();
    let share = (grants.total() - first) as f64 / (limit as f64 * f64::from(minutes - 1));
    Got { share, calls: calls as f64 / nodes.requests as f64 }
}

#[tokio::test]
async fn busy_clients_at_three_nodes_get_98_percent_and_never_more_than_the_limit() {
    // One node has more to do than the others, or all; a limit is far too small, or nearly enough.
    let (uneven, single) = (&[0, 0, 1, 2][..], &[1][..]);
    for (places, limit, amount, per_second) in [
        (uneven, 60, 1, 30),
        (uneven, 600, 1, 40),
        (uneven, 600, 1, 400),
        (single, 600, 1, 40),
        (uneven, 6_000, 1, 110),
        (single, 6_000, 1, 110),
        (uneven, 6_000, 1, 1_000),
        (uneven, 90_000, 123, 100),
    ] {
        let got = offered(places, limit, amount, per_second, 8).await;
        // What does not divide the limit leaves less than one amount unused.
        let wasted = (limit % amount) as f64 / limit as f64;
        assert!(got.share + wasted >= 0.98, "{} of {limit} at {places:?}", got.share);
        assert!(got.calls <= 0.15, "{} calls for each request to {limit}", got.calls);
    }
}

#[tokio::test]
async fn many_keys_of_which_most_are_quiet_cost_few_calls() {
    let redis = Redis::start().await;
    let mut nodes = Nodes::start(&redis, 3).await;
    let mut dice = Dice::new(7);
    let keys: Vec<String> = (0..1_000).map(|n| format!("key {n}")).collect();
    // 60 requests a second: a third for ten keys, a third for a hundred, a third for a thousand.
    for minute in 0..6 {
        let (before, requests) = (redis.calls(&["evalsha"]).await, nodes.requests);
        for _ in 0..1_200 {
            nodes.advance(50 * MS).await;
            for _ in 0..3 {
                let among = 10_u64.pow(1 + dice.below(3) as u32);
                let subject = &keys[dice.below(among) as usize];
                let node = dice.below(3) as usize;
                let limits = [
                    (key(subject, LimitUnit::Requests), 600, 1),
                    (key(subject, LimitUnit::Tokens), 500_000, 700),
                    (key("all", LimitUnit::Requests), 6_000, 1),
                ];
                let granted = nodes.admit_all(node, &limits).await;
                granted.expect("nobody comes near a limit");
            }
        }
        let calls = redis.calls(&["evalsha"]).await - before;
        let calls = calls as f64 / (nodes.requests - requests) as f64;
        // In the first minute every key is new to every node.
        let most = if minute == 0 { 0.5 } else { 0.15 };
        assert!(calls <= most, "{calls} calls a request in minute {minute}");
    }
}

/// What can happen to nodes that share a limit.
#[derive(Clone, Debug)]
enum Act {
    Wait(u64),
    /// At a node, so much.
    Reserve(usize, u64),
    /// Without asking Redis.
    ReserveHere(usize, u64),
    /// What was really used: of the tickets one, so much less.
    Settle(usize, u64),
    Round(usize),
    /// A node leaves, and another one comes.
    Replace(usize),
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let node = || 0_usize..3;
    let act = prop_oneof![
        3 => (0_u64..3_000).prop_map(Act::Wait),
        2 => (0_u64..25_000).prop_map(Act::Wait),
        10 => (node(), 1_u64..60).prop_map(|(node, amount)| Act::Reserve(node, amount)),
        6 => (node(), 1_u64..20).prop_map(|(node, amount)| Act::ReserveHere(node, amount)),
        6 => (any::<usize>(), 0_u64..30).prop_map(|(which, less)| Act::Settle(which, less)),
        4 => node().prop_map(Act::Round),
        1 => node().prop_map(Act::Replace),
    ];
    proptest::collection::vec(act, 1..150)
}

/// Plays a script of events and checks what was used in any 60 seconds.
async fn play(redis: &Redis, case: u64, acts: Vec<Act>, limit: u64) {
    let mut nodes = Nodes::start(redis, 3).await;
    let key = key(&format!("case {case}"), LimitUnit::Tokens);
    let mut grants = Grants::default();
    let mut open: Vec<(usize, usize, Ticket)> = Vec::new();
    for act in acts {
        match act {
            Act::Wait(ms) => nodes.pass(MS * ms as u32),
            Act::Reserve(node, amount) => {
                if let Ok(ticket) = nodes.admit(node, &key, limit, amount).await {
                    grants.0.push((nodes.clock.now(), amount));
                    open.push((node, grants.0.len() - 1, ticket));
                }
            }
            Act::ReserveHere(node, amount) => {
                let now = nodes.clock.now();
                if let Ok((ticket, _)) = nodes.nodes[node].reserve(key.clone(), limit, amount, now)
                {
                    grants.0.push((now, amount));
                    open.push((node, grants.0.len() - 1, ticket));
                }
            }
            Act::Settle(which, less) if !open.is_empty() => {
                let (node, grant, ticket) = open.swap_remove(which % open.len());
                let used = ticket.amount.saturating_sub(less);
                nodes.nodes[node].settle(&ticket, used);
                grants.0[grant].1 = used;
            }
            Act::Settle(..) => {}
            Act::Round(node) => nodes.nodes[node].round().await,
            Act::Replace(node) => {
                nodes.nodes[node].leave().await;
                open.retain(|(at, ..)| *at != node);
                nodes.add(redis).await;
                let fresh = nodes.nodes.pop().expect("it was just added");
                nodes.nodes[node] = fresh;
            }
        }
        assert!(grants.busiest() <= limit, "{} of {limit}", grants.busiest());
    }
    for node in &nodes.nodes {
        node.leave().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_order_of_events_passes_the_limit() {
    let redis = Redis::start().await;
    let runtime = tokio::runtime::Handle::current();
    tokio::task::block_in_place(|| {
        let mut runner = TestRunner::new(Config { cases: 200, ..Config::default() });
        let case = std::cell::Cell::new(0);
        let outcome = runner.run(&(acts(), 1_u64..200), |(acts, limit)| {
            case.set(case.get() + 1);
            runtime.block_on(play(&redis, case.get(), acts, limit));
            Ok(())
        });
        outcome.expect("no limit is passed");
    });
}
