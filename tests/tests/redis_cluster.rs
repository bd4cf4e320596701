//! A Redis cluster instead of one Redis: answers are spread over its servers, and what must not be
//! parted (budgets, limits) is together on one of them.

use serde_json::json;
use tollway_simulator::Simulator;
use tollway_tests::gateway::{Gateway, MASTER_KEY, PATIENCE};
use tollway_tests::postgres::Postgres;
use tollway_tests::redis_cluster::RedisCluster;
use tollway_tests::setup::{config, simulator, within};
use tollway_tests::{Response, chat, post_with};

/// Pico-dollars a token of `gpt-4o-mini`.
const INPUT: u64 = 150_000;
const OUTPUT: u64 = 600_000;
const BUDGET: u64 = 1_000_000_000;

const SPENDS: &str = "sk-spends-0123456789";
const COUNTS: &str = "sk-counts-0123456789";
const OTHER: [&str; 2] = ["sk-first-01234567890", "sk-second-0123456789"];

/// Asks until Redis has answered in time.
async fn ask(gateway: &Gateway, key: &str, said: &str) -> Response {
    let bearer = format!("Bearer {key}");
    let mut body = chat("gpt-4o-mini", said);
    body["max_tokens"] = 40.into();
    loop {
        let headers = [("authorization", bearer.as_str())];
        let response = post_with(gateway.address, "/v1/chat/completions", &headers, &body).await;
        if response.status != 503 {
            return response;
        }
        assert_eq!(response.error("code"), "spend_not_recorded", "{}", response.text());
    }
}

async fn two(simulator: &Simulator, postgres: &Postgres, redis: &RedisCluster) -> [Gateway; 2] {
    // One of them is enough to find the others.
    let nodes = format!("[{{ host: 127.0.0.1, port: {} }}]", redis.ports[1]);
    let text = format!(
        "
general_settings: {{ master_key: $MASTER, database_url: '{}' }}
router_settings: {{ redis_startup_nodes: {nodes} }}
litellm_settings:
  cache: true
  cache_params: {{ redis_startup_nodes: {nodes}, namespace: answers }}
keys:
  - {{ alias: spends, key: {SPENDS}, max_budget: 0.001 }}
  - {{ alias: counts, key: {COUNTS}, rpm: 5 }}
  - {{ alias: first, key: {}, rpm: 900 }}
  - {{ alias: second, key: {}, rpm: 900 }}
",
        postgres.url(),
        OTHER[0],
        OTHER[1],
    );
    let text = config(&text, simulator);
    [Gateway::start(&text).await, Gateway::start(&text).await]
}

#[tokio::test]
async fn gateways_share_budgets_limits_and_answers_by_a_cluster() {
    let (simulator, postgres, redis) =
        (simulator().await, Postgres::start().await, RedisCluster::start().await);
    let gateways = two(&simulator, &postgres, &redis).await;

    // One budget, to the last call that fits.
    let mut refused = 0;
    for round in 0_usize.. {
        let said = format!("[[sim tokens=40]] {round}");
        let response = ask(&gateways[round % 2], SPENDS, &said).await;
        assert!([200, 422].contains(&response.status), "{}", response.text());
        refused = if response.status == 200 { 0 } else { refused + 1 };
        if refused == 2 {
            break;
        }
        assert!(round < 200);
    }
    for gateway in &gateways {
        gateway.idle().await;
    }
    let billed = simulator.billed();
    let spent = billed.prompt_tokens * INPUT + billed.completion_tokens * OUTPUT;
    assert!(spent <= BUDGET && BUDGET - spent < 60_000_000, "{spent}");
    let budgets = redis.each("KEYS {tollway}:tollway:budget:*").await;
    let holding = budgets.iter().filter(|keys| !keys.is_empty()).count();
    assert_eq!(holding, 1, "with the heartbeat, on one server: {budgets:?}");

    // One limit, once both have found the cluster.
    for (gateway, key) in gateways.iter().zip(OTHER) {
        let counters = async || redis.each("KEYS {tollway:limits}:*").await;
        let before = counters().await;
        let sharing = async {
            while counters().await == before {
                assert_eq!(ask(gateway, key, "Hi").await.status, 200);
            }
        };
        within(PATIENCE, "it shares", sharing).await;
    }
    let mut answered = 0;
    for round in 0..16 {
        let response = ask(&gateways[round % 2], COUNTS, &format!("count {round}")).await;
        answered += usize::from(response.status == 200);
    }
    assert_eq!(answered, 5);

    // Answers of the one are the other's, whichever server has them.
    let said = |number: usize| format!("answer number {number}");
    let is_hit = |response: &Response| response.header("x-litellm-cache-key").is_some();
    for number in 0..24 {
        ask(&gateways[0], OTHER[0], &said(number)).await;
        let found = async { while !is_hit(&ask(&gateways[1], OTHER[0], &said(number)).await) {} };
        within(PATIENCE, "it is found", found).await;
    }
    let kept = redis.each("KEYS answers:*").await;
    assert!(kept.iter().all(|keys| !keys.is_empty()), "{kept:?}");
    let bearer = format!("Bearer {MASTER_KEY}");
    let headers = [("authorization", bearer.as_str())];
    let cleared = post_with(gateways[1].address, "/cache/flushall", &headers, &json!({})).await;
    assert_eq!(cleared.status, 200, "{}", cleared.text());
    let kept = redis.each("KEYS answers:*").await;
    assert!(kept.iter().all(String::is_empty), "{kept:?}");
    let others = redis.each("KEYS {tollway*").await;
    assert!(others.iter().any(|keys| !keys.is_empty()), "only answers go");
}
