//! Several gateways with one Postgres and one Redis: a budget is one budget.

use serde_json::Value;
use tokio::task::JoinSet;
use tollway_tests::gateway::{Gateway, PATIENCE};
use tollway_tests::postgres::Postgres;
use tollway_tests::servers::Redis;
use tollway_tests::setup::{config, simulator, within};
use tollway_tests::{Response, chat, post_with, stream};

/// Pico-dollars a token of `gpt-4o-mini`.
const INPUT: u64 = 150_000;
const OUTPUT: u64 = 600_000;
const BUDGET: u64 = 20_000_000_000;
const KEY: &str = "sk-shared-0123456789";

fn body(kind: u64, tokens: u64, said: &str) -> Value {
    let said = format!("[[sim tokens={tokens}]] {said}");
    let mut body = match kind % 2 {
        0 => stream("gpt-4o-mini", &said),
        _ => chat("gpt-4o-mini", &said),
    };
    body["max_tokens"] = 400.into();
    body
}

/// Asks until Redis has answered in time.
async fn ask(address: std::net::SocketAddr, body: &Value) -> Response {
    let bearer = format!("Bearer {KEY}");
    let asking = async {
        loop {
            let headers = [("authorization", bearer.as_str())];
            let response = post_with(address, "/v1/chat/completions", &headers, body).await;
            if response.status != 503 {
                return response;
            }
            assert_eq!(response.error("code"), "spend_not_recorded", "{}", response.text());
        }
    };
    within(PATIENCE, "Redis answers in time", asking).await
}

#[tokio::test]
async fn two_gateways_never_spend_more_than_one_key_may() {
    let (simulator, postgres, redis) =
        (simulator().await, Postgres::start().await, Redis::on_port().await);
    let text = format!(
        "
general_settings:
  master_key: $MASTER
  database_url: '{}'
  redis_url: 'redis://127.0.0.1:{}'
keys:
  - {{ alias: ci, key: {KEY}, max_budget: 0.02, budget_duration: 30d }}
",
        postgres.url(),
        redis.port
    );
    let text = config(&text, &simulator);
    let gateways = [Gateway::start(&text).await, Gateway::start(&text).await];
    let mut clients = JoinSet::new();
    for client in 0..32_u64 {
        let address = gateways[client as usize % 2].address;
        clients.spawn(async move {
            let mut answered = 0_u64;
            for round in 0.. {
                let tokens = 20 + (client * 7 + round * 13) % 300;
                let body = body(client + round, tokens, &format!("client {client}"));
                let response = ask(address, &body).await;
                if response.status != 200 {
                    assert_eq!(response.error("type"), "budget_exceeded", "{}", response.text());
                    break;
                }
                answered += 1;
            }
            answered
        });
    }
    let answered: u64 = clients.join_all().await.into_iter().sum();
    assert!(answered > 32, "{answered}");
    for gateway in &gateways {
        gateway.idle().await;
    }
    // What was reserved is given back: one client after the other uses it up.
    let use_up = async {
        let mut refused = 0;
        for at in 0.. {
            let response = ask(gateways[at % 2].address, &body(1, 400, "")).await;
            refused = if response.status == 200 { 0 } else { refused + 1 };
            if refused == 2 {
                break;
            }
        }
    };
    within(PATIENCE, "it is used up", use_up).await;
    for gateway in &gateways {
        gateway.idle().await;
    }
    let totals = simulator.billed();
    let billed = totals.prompt_tokens * INPUT + totals.completion_tokens * OUTPUT;
    assert!(billed <= BUDGET, "overspent by {}", billed - BUDGET);
    let worst = 100 * INPUT + 400 * OUTPUT;
    assert!(BUDGET - billed <= worst, "{} unused", BUDGET - billed);
}
