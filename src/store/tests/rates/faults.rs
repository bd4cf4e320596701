//! Redis that is slow, away, emptied or comes and goes, and nodes that do.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::runtime::Handle;
use tollway_filter_api::Clock;
use tollway_filter_api::limits::{LimitKey, LimitStore, LimitUnit};
use tollway_store::limits_redis::{RedisLimits, RedisLimitsSettings};
use tollway_tests::gateway::PATIENCE;
use tollway_tests::servers::Redis;
use tollway_tests::setup::eventually;

use crate::support::{Dice, Grants, MINUTE, Nodes, key, link};

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
/// What a request may wait for Redis.
const WAIT_MAX: Duration = Duration::from_millis(50);
/// A busy machine may wake it later than it should. Who waited for Redis itself would wait longer.
const BUSY: Duration = Duration::from_secs(1);

/// Takes single requests until none is left at any node. Returns what each got.
async fn exhaust(nodes: &mut Nodes, key: &LimitKey, limit: u64) -> Vec<u64> {
    let mut got = vec![0; nodes.nodes.len()];
    for (node, got) in got.iter_mut().enumerate() {
        while nodes.admit(node, key, limit, 1).await.is_ok() {
            *got += 1;
            assert!(*got <= limit, "more than {limit}");
        }
    }
    got
}

async fn all_down(nodes: &Nodes) {
    eventually("all have noticed", async || {
        nodes.advance(Duration::ZERO).await;
        nodes.pass(SECOND);
        nodes.advance(Duration::ZERO).await;
        nodes.nodes.iter().all(|node| !node.is_up())
    })
    .await;
}

async fn all_up(nodes: &Nodes) {
    eventually("all share again", async || {
        nodes.advance(20 * MS).await;
        nodes.nodes.iter().all(RedisLimits::is_up)
    })
    .await;
}

#[tokio::test]
async fn without_redis_each_node_has_its_share() {
    let mut redis = Redis::start().await;
    let mut nodes = Nodes::start(&redis, 3).await;
    redis.kill().await;
    all_down(&nodes).await;
    // Who has leased places may use them on: nobody knows of all that were.
    let early = exhaust(&mut nodes, &key("early", LimitUnit::Parallel), 7).await;
    assert_eq!(early.iter().sum::<u64>(), 0);
    nodes.advance(10_000 * MS).await;
    for (limit, shares) in [(100, [34, 33, 33]), (1, [1, 0, 0]), (2, [1, 1, 0]), (0, [0, 0, 0])] {
        for unit in [LimitUnit::Requests, LimitUnit::Parallel] {
            let mut got = exhaust(&mut nodes, &key(&limit.to_string(), unit), limit).await;
            got.sort_unstable_by(|a, b| b.cmp(a));
            // A hundredth is kept for nodes that do not ask, and they have not been here for long.
            let kept = if unit == LimitUnit::Requests { limit / 100 } else { 0 };
            assert_eq!(got.iter().sum::<u64>(), limit - kept, "{unit:?}");
            assert!(got.iter().zip(shares).all(|(got, share)| got.abs_diff(share) <= kept));
        }
    }
}

#[tokio::test]
async fn node_that_has_just_started_is_ready_once_limits_are_shared() {
    let redis = Redis::start().await;
    let start = |redis: &Redis| {
        let settings = RedisLimitsSettings::new(Clock::system());
        RedisLimits::start(link(redis), settings, &Handle::current())
    };
    let node = start(&redis);
    assert!(node.ready(PATIENCE).await && node.is_up());
    redis.signal("STOP");
    assert!(!start(&redis).ready(50 * MS).await, "nobody has answered");
    redis.signal("CONT");
}

#[tokio::test]
async fn what_was_used_before_redis_went_away_counts_until_it_is_a_minute_old() {
    let mut redis = Redis::start().await;
    let mut nodes = Nodes::start(&redis, 3).await;
    let key = key("k", LimitUnit::Requests);
    let mut grants = Grants::default();
    let mut dice = Dice::new(5);
    let mut before = 0;
    let mut lowest_late = u64::MAX;
    let mut late = Vec::new();
    for step in 0..3_000 {
        if step == 300 {
            before = grants.total();
            redis.kill().await;
        }
        nodes.advance(100 * MS).await;
        for _ in 0..4 {
            let node = dice.below(3) as usize;
            if nodes.admit(node, &key, 600, 1).await.is_ok() {
                grants.0.push((nodes.clock.now(), 1));
                late.push(step);
            }
        }
    }
    assert!(before > 300, "{before} before");
    assert!(grants.busiest() <= 600, "{}", grants.busiest());
    // Each minute without Redis has its 600 as well: less what does not divide.
    for minute in [900_u64, 1_500, 2_100] {
        let in_it = late.iter().filter(|step| (minute..minute + 600).contains(*step)).count();
        lowest_late = lowest_late.min(in_it as u64);
    }
    assert!(lowest_late >= 580, "{lowest_late} in a minute");
}

#[tokio::test]
async fn emptied_redis_is_told_what_was_used_before_it_grants_again() {
    let redis = Redis::start().await;
    let mut nodes = Nodes::start(&redis, 3).await;
    let key = key("k", LimitUnit::Requests);
    let first: u64 = exhaust(&mut nodes, &key, 300).await.iter().sum();
    assert_eq!(first, 297, "all but what is kept for those who do not ask");
    redis.command("FLUSHALL").await;
    // Nobody has noticed yet: the first to ask is told to begin anew.
    let node = &nodes.nodes[1];
    let now = nodes.clock.now() + 10 * SECOND;
    nodes.pass(10 * SECOND);
    assert!(node.reserve(key.clone(), 300, 1, now).is_err());
    assert_eq!(exhaust(&mut nodes, &key, 300).await, [0, 0, 0]);
    all_up(&nodes).await;
    assert_eq!(exhaust(&mut nodes, &key, 300).await, [0, 0, 0]);
    nodes.advance(MINUTE).await;
    let again: u64 = exhaust(&mut nodes, &key, 300).await.iter().sum();
    assert_eq!(again, 300, "a minute later all of it is there");
}

#[tokio::test]
async fn redis_that_comes_back_empty_is_told_what_was_used() {
    let mut redis = Redis::start().await;
    let mut nodes = Nodes::start(&redis, 3).await;
    let key = key("k", LimitUnit::Tokens);
    let mut grants = Grants::default();
    for node in 0..3 {
        for _ in 0..4 {
            nodes.admit(node, &key, 10_000, 500).await.expect("there is room");
            grants.0.push((nodes.clock.now(), 500));
        }
    }
    redis.kill().await;
    all_down(&nodes).await;
    redis.again().await;
    all_up(&nodes).await;
    for _ in 0..2 {
        for node in 0..3 {
            while nodes.admit(node, &key, 10_000, 100).await.is_ok() {
                grants.0.push((nodes.clock.now(), 100));
            }
        }
        nodes.advance(2 * SECOND).await;
    }
    assert!(grants.busiest() <= 10_000, "{}", grants.busiest());
    assert!(grants.total() >= 9_700, "{}", grants.total());
}

#[tokio::test]
async fn places_of_a_killed_node_come_free_and_those_of_others_stay() {
    let redis = Redis::start().await;
    let mut nodes = Nodes::start(&redis, 2).await;
    let key = key("k", LimitUnit::Parallel);
    let mut got = [0, 0];
    for place in 0..10 {
        let node = place % 2;
        got[node] += usize::from(nodes.admit(node, &key, 10, 1).await.is_ok());
    }
    assert_eq!(got, [5, 5]);
    assert!(nodes.admit(0, &key, 10, 1).await.is_err());
    // As a killed one: it says nothing any more.
    drop(nodes.nodes.pop());
    for _ in 0..8 {
        nodes.advance(SECOND).await;
        assert!(nodes.admit(0, &key, 10, 1).await.is_err(), "not yet");
    }
    for _ in 0..4 {
        nodes.advance(SECOND).await;
    }
    let more = exhaust(&mut nodes, &key, 10).await;
    assert_eq!(more, [5]);
}

#[tokio::test]
async fn node_that_is_not_needed_any_more_gives_its_lease_to_who_wants_it() {
    let redis = Redis::start().await;
    let mut nodes = Nodes::start(&redis, 2).await;
    let key = key("k", LimitUnit::Requests);
    // The first node has been busy.
    for _ in 0..300 {
        nodes.advance(10 * MS).await;
        nodes.admit(0, &key, 1_000, 1).await.expect("there is room");
    }
    let mut got = 0;
    for _ in 0..40 {
        nodes.advance(100 * MS).await;
        while nodes.admit(1, &key, 1_000, 1).await.is_ok() {
            got += 1;
        }
    }
    assert!((680..=690).contains(&got), "{got}");
}

#[tokio::test]
async fn share_of_a_node_that_is_cut_off_is_kept_for_it() {
    let redis = Redis::start().await;
    let mut nodes = Nodes::start(&redis, 2).await;
    let key = key("k", LimitUnit::Requests);
    let cut_off = nodes.nodes.pop().expect("there are two");
    for _ in 0..5 {
        nodes.advance(SECOND).await;
    }
    assert_eq!(exhaust(&mut nodes, &key, 100).await, [50]);
    drop(cut_off);
}

#[tokio::test]
async fn node_that_leaves_leaves_everything_to_the_others() {
    let redis = Redis::start().await;
    let mut nodes = Nodes::start(&redis, 2).await;
    let key = key("k", LimitUnit::Requests);
    nodes.admit(1, &key, 100, 1).await.expect("there is room");
    let gone = nodes.nodes.pop().expect("there are two");
    gone.leave().await;
    drop(gone);
    nodes.advance(SECOND).await;
    assert_eq!(nodes.nodes[0].nodes(), 1);
    assert_eq!(exhaust(&mut nodes, &key, 100).await, [98]);
}

#[tokio::test]
async fn clock_of_redis_that_is_set_neither_frees_nor_blocks_anything() {
    let redis = Redis::start().await;
    for hour in [3_600_i64, -3_600] {
        let mut nodes = Nodes::start(&redis, 2).await;
        let key = key(&hour.to_string(), LimitUnit::Requests);
        exhaust(&mut nodes, &key, 200).await;
        nodes.set_redis_clock(hour);
        nodes.advance(SECOND).await;
        assert_eq!(exhaust(&mut nodes, &key, 200).await, [0, 0]);
        nodes.advance(MINUTE).await;
        assert!(exhaust(&mut nodes, &key, 200).await.iter().sum::<u64>() >= 198);
        for node in &nodes.nodes {
            node.leave().await;
        }
    }
}

/// Nodes that do all by themselves, in real time.
async fn real_nodes(redis: &Redis, count: usize) -> Vec<Arc<RedisLimits>> {
    let mut nodes = Vec::new();
    for _ in 0..count {
        let settings = RedisLimitsSettings::new(Clock::system());
        nodes.push(Arc::new(RedisLimits::start(link(redis), settings, &Handle::current())));
    }
    eventually("all nodes know one another", async || {
        nodes.iter().all(|node| node.is_up() && node.nodes() == count as u64)
    })
    .await;
    nodes
}

/// A request under one limit. Says how long it waited for Redis.
async fn request(node: &RedisLimits, key: &LimitKey, limit: u64) -> (bool, Duration) {
    let began = Instant::now();
    if node.reserve(key.clone(), limit, 1, began).is_ok() {
        return (true, began.elapsed());
    }
    if let Some(refill) = node.refill(key, limit, 1, began, WAIT_MAX) {
        refill.await;
    }
    let granted = node.reserve(key.clone(), limit, 1, Instant::now()).is_ok();
    (granted, began.elapsed())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_waits_for_a_redis_that_does_not_answer() {
    let redis = Redis::start().await;
    let nodes = real_nodes(&redis, 2).await;
    assert!(request(&nodes[0], &key("a", LimitUnit::Requests), 1_000).await.0);
    redis.signal("STOP");
    let mut waits = Vec::new();
    for n in 0..200 {
        // A key that nobody has used: there is no lease for it.
        let key = key(&n.to_string(), LimitUnit::Requests);
        let (_, waited) = request(&nodes[0], &key, 1_000).await;
        assert!(waited < WAIT_MAX + BUSY, "waited for {waited:?}");
        waits.push(waited);
    }
    // Not at once: others may have been granted all of it the moment before.
    let unused = key("unused", LimitUnit::Requests);
    eventually("its share is free", async || request(&nodes[0], &unused, 1_000).await.0).await;
    // One or two find out; a busy machine holds up some more.
    waits.sort_unstable();
    assert!(waits[180] < 10 * MS, "{waits:?}");
    assert!(!nodes[0].is_up());
    redis.signal("CONT");
    eventually("Redis is used again", async || nodes.iter().all(|node| node.is_up())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_that_comes_and_goes_lets_nobody_pass_the_limit() {
    let mut redis = Redis::start().await;
    let nodes = real_nodes(&redis, 3).await;
    let limit = 900;
    let grants = Arc::new(Mutex::new(Grants::default()));
    let longest = Arc::new(Mutex::new(Duration::ZERO));
    let mut clients = Vec::new();
    for client in 0..12 {
        let (node, grants) = (Arc::clone(&nodes[client % 3]), Arc::clone(&grants));
        let longest = Arc::clone(&longest);
        clients.push(tokio::spawn(async move {
            let key = key("k", LimitUnit::Requests);
            loop {
                let (granted, waited) = request(&node, &key, limit).await;
                if granted {
                    grants.lock().0.push((Instant::now(), 1));
                }
                {
                    let mut longest = longest.lock();
                    *longest = waited.max(*longest);
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }));
    }
    let up = async |nodes: &[Arc<RedisLimits>]| {
        eventually("Redis is used", async || nodes.iter().all(|node| node.is_up())).await;
    };
    for round in 0..4 {
        up(&nodes).await;
        match round {
            0 => redis.signal("STOP"),
            2 => drop(redis.command("FLUSHALL").await),
            _ => redis.kill().await,
        }
        if round != 2 {
            eventually("it is missed", async || nodes.iter().all(|node| !node.is_up())).await;
        }
        match round {
            0 => redis.signal("CONT"),
            2 => {}
            _ => redis.again().await,
        }
    }
    up(&nodes).await;
    eventually("the limit is used up", async || {
        let used = grants.lock().total();
        used >= limit * 97 / 100
    })
    .await;
    // Once more, now that nothing is left.
    redis.kill().await;
    eventually("it is missed", async || nodes.iter().all(|node| !node.is_up())).await;
    for client in clients {
        client.abort();
    }
    assert!(grants.lock().busiest() <= limit, "{} of {limit}", grants.lock().busiest());
    let longest = *longest.lock();
    assert!(longest < WAIT_MAX + BUSY, "a request waited for {longest:?}");
}
