//! Limits of several gateways that share a Redis: together never more than N.

use tokio::task::JoinSet;
use tollway_simulator::{Received, Reply};
use tollway_tests::gateway::PATIENCE;
use tollway_tests::postgres::Postgres;
use tollway_tests::servers::Redis;
use tollway_tests::setup::within;
use tollway_tests::{Setup, chat, post_with};

const KEYS: &str = "
keys:
  - { alias: shared, key: sk-shared-000001, rpm: 12 }
  - { alias: places, key: sk-places-000001, max_parallel_requests: 3 }
  - { alias: later, key: sk-later-0000001, rpm: 4 }
  - { alias: first, key: sk-first-0000001, rpm: 90 }
  - { alias: second, key: sk-second-000001, rpm: 90 }
";

/// Two gateways, which share by now.
async fn two(postgres: &Postgres, redis: &Redis) -> [Setup; 2] {
    let config = format!(
        "{KEYS}
general_settings:
  master_key: $MASTER
  database_url: '{}'
  redis_url: redis://127.0.0.1:{}
",
        postgres.url(),
        redis.port
    );
    let gateways = [Setup::with(&config).await, Setup::with(&config).await];
    for (gateway, key) in gateways.iter().zip(["sk-first-0000001", "sk-second-000001"]) {
        // A gateway that shares asks Redis about a key it has not seen.
        let counters = "EVAL \"return #redis.call('KEYS', '{tollway:limits}:*')\" 0";
        let before = redis.command(counters).await;
        let sharing = async {
            while redis.command(counters).await == before {
                let status = gateway.chat_as(key, &chat("claude", "Hi")).await.status;
                // Of what nobody is known to have used, a slow moment of Redis grants nothing.
                assert!(matches!(status, 200 | 429), "{status}");
            }
        };
        within(PATIENCE, "it shares", sharing).await;
    }
    gateways
}

/// Sends so many to each at once; how many each answered.
async fn burst(gateways: &[Setup; 2], count: usize, key: &str) -> [usize; 2] {
    let mut calls = JoinSet::new();
    for (at, gateway) in gateways.iter().enumerate() {
        let address = gateway.gateway.address;
        for _ in 0..count {
            let (bearer, body) = (format!("Bearer {key}"), chat("claude", "Hi"));
            calls.spawn(async move {
                let headers = [("authorization", bearer.as_str())];
                (at, post_with(address, "/v1/chat/completions", &headers, &body).await)
            });
        }
    }
    let mut answered = [0, 0];
    for (at, response) in calls.join_all().await {
        match response.status {
            200 => answered[at] += 1,
            status => assert_eq!(status, 429, "{}", response.text()),
        }
    }
    answered
}

#[tokio::test]
async fn two_gateways_share_a_keys_requests_and_part_them_when_redis_has_gone() {
    let (postgres, redis) = (Postgres::start().await, Redis::on_port().await);
    let gateways = two(&postgres, &redis).await;
    // A slow moment of Redis refuses what it could have granted; it never grants too much.
    let mut answered = 0;
    let all = async {
        while answered < 12 {
            answered += burst(&gateways, 20, "sk-shared-000001").await.iter().sum::<usize>();
        }
    };
    within(PATIENCE, "all that is allowed is granted", all).await;
    assert_eq!(answered, 12);
    assert_eq!(burst(&gateways, 5, "sk-shared-000001").await, [0, 0]);
    drop(redis);
    assert_eq!(burst(&gateways, 5, "sk-shared-000001").await, [0, 0], "what was used is used");
    let mut shares = [0, 0];
    let each = async {
        while shares != [2, 2] {
            let more = burst(&gateways, 5, "sk-later-0000001").await;
            shares = [shares[0] + more[0], shares[1] + more[1]];
            assert!(shares.iter().all(|share| *share <= 2), "{shares:?}");
        }
    };
    within(PATIENCE, "each has its share", each).await;
}

#[tokio::test]
async fn two_gateways_share_a_keys_parallel_requests() {
    let (postgres, redis) = (Postgres::start().await, Redis::on_port().await);
    let gateways = two(&postgres, &redis).await;
    let mut running = Vec::new();
    for (at, said) in [(0, "the first"), (1, "the second"), (0, "the third")] {
        let gateway = &gateways[at];
        gateway.simulator.enqueue(Reply::hang());
        // By its words: the simulator has been asked other things before.
        let holds_a_place = |asked: &Received| String::from_utf8_lossy(&asked.body).contains(said);
        let held = async {
            loop {
                let mut call = gateway.send_chat("sk-places-000001", &chat("claude", said)).await;
                tokio::select! {
                    _ = gateway.simulator.wait_for(holds_a_place) => return call,
                    // A slow moment of Redis.
                    (status, _) = call.head() => assert_eq!(status, 429),
                }
            }
        };
        running.push(within(PATIENCE, "it holds a place", held).await);
    }
    assert_eq!(burst(&gateways, 3, "sk-places-000001").await, [0, 0]);
    drop(running);
    let free = async { while burst(&gateways, 1, "sk-places-000001").await != [1, 1] {} };
    within(PATIENCE, "the places are free again", free).await;
}
