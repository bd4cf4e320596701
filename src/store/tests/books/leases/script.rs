//! The script that keeps claims, against a model.

use std::collections::HashMap;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use redis::aio::MultiplexedConnection;

use tollway_tests::servers::Redis;

use super::place::connection;

const SHARE: &str = include_str!("../../../src/treasury/leases/share.lua");
/// 18 million dollars in hundred-millionths: the largest limit.
const LIMIT_MAX: u64 = 1_844_674_407_370_955;

#[derive(Clone, Debug)]
struct Ask {
    holder: usize,
    limit: u64,
    /// In thousandths of what is claimed.
    keep: u64,
    least: u64,
    most: u64,
    cap: u64,
    parts: u64,
    fold: bool,
    late: bool,
}

fn ask() -> impl Strategy<Value = Ask> {
    let amount = || prop_oneof![0..=100u64, 0..=LIMIT_MAX];
    let limit = prop_oneof![0..=1_000u64, Just(LIMIT_MAX), 0..=LIMIT_MAX];
    let rest = (amount(), 1..=40u64, prop::bool::weighted(0.1), prop::bool::weighted(0.1));
    (0..3usize, limit, 0..=1_000u64, amount(), amount(), rest).prop_map(
        |(holder, limit, keep, one, other, (cap, parts, fold, late))| Ask {
            holder,
            limit,
            keep,
            least: one.min(other),
            most: one.max(other),
            cap,
            parts,
            fold,
            late,
        },
    )
}

/// The same, with whole numbers that do not end.
#[derive(Default)]
struct Model {
    base: u128,
    claims: HashMap<usize, u128>,
}

impl Model {
    fn ask(&mut self, ask: &Ask, keep: u128, spent: u128) -> (u128, u128) {
        let others: u128 =
            self.claims.iter().filter(|(h, _)| **h != ask.holder).map(|(_, c)| c).sum();
        let free = u128::from(ask.limit).saturating_sub(self.base + others + keep);
        let mut grant = 0;
        if free >= ask.least.into() {
            let part = (free / u128::from(ask.parts)).min(ask.cap.into());
            grant = part.max(ask.most.into()).min(free);
        }
        if ask.fold {
            self.base += spent;
            self.claims.insert(ask.holder, grant);
            return (grant, free - grant);
        }
        self.claims.insert(ask.holder, keep + grant);
        (keep + grant, free - grant)
    }
}

async fn run(
    redis: &mut MultiplexedConnection,
    base: u64,
    asks: &[Ask],
) -> Result<(), TestCaseError> {
    redis::cmd("FLUSHALL").exec_async(redis).await.expect("Redis answers");
    let mut model = Model { base: base.into(), ..Model::default() };
    for (at, ask) in asks.iter().enumerate() {
        let claim = model.claims.get(&ask.holder).copied().unwrap_or_default();
        let keep = claim * u128::from(ask.keep) / 1_000;
        let spent = keep / 2;
        let number = if ask.late { 0 } else { at + 1 };
        let mut command = redis::cmd("EVAL");
        command.arg(SHARE).arg(1).arg("budget").arg(7).arg(format!("n:{}", ask.holder)).arg(number);
        command.arg(ask.limit).arg(keep.to_string()).arg(spent.to_string()).arg(at);
        command.arg(ask.least).arg(ask.most).arg(ask.cap).arg(ask.parts).arg(60_000).arg(base);
        command.arg(u8::from(ask.fold));
        let said: Vec<String> = command.query_async(redis).await.expect("the script runs");
        if ask.late {
            prop_assert_eq!(&said[..], ["late"]);
            continue;
        }
        let (claim, free) = model.ask(ask, keep, spent);
        prop_assert_eq!(&said[..3], ["ok".to_owned(), claim.to_string(), free.to_string()]);
        // What is granted was there.
        let used = model.base + model.claims.values().sum::<u128>();
        prop_assert!(free == 0 || used <= ask.limit.into());
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_script_adds_up_exactly() {
    let redis = Redis::start().await;
    let connection = connection(&redis).await;
    let handle = tokio::runtime::Handle::current();
    let strategy = (0..=LIMIT_MAX, prop::collection::vec(ask(), 1..40));
    tokio::task::spawn_blocking(move || {
        let mut runner =
            TestRunner::new(Config { failure_persistence: None, ..Config::with_cases(200) });
        let tested = runner.run(&strategy, |(base, asks)| {
            handle.block_on(run(&mut connection.clone(), base, &asks))
        });
        if let Err(error) = tested {
            panic!("{error}");
        }
    })
    .await
    .expect("the script is as the model");
}
