//! `tollway release`: an operator lets go of what a gateway that is gone for good had claimed.

use serde_json::json;
use tollway_simulator::Reply;
use tollway_tests::gateway::{Folder, Gateway, MASTER_KEY, run};
use tollway_tests::postgres::Postgres;
use tollway_tests::servers::Redis;
use tollway_tests::setup::{config, simulator};
use tollway_tests::{Response, Setup, chat, get, post_with};

const KEY: &str = "sk-release-0123456789";

async fn ask(gateway: &Gateway) -> Response {
    let bearer = format!("Bearer {KEY}");
    let mut body = chat("gpt-4o-mini", "[[sim tokens=40]]");
    body["max_tokens"] = 40.into();
    let headers = [("authorization", bearer.as_str())];
    loop {
        let response = post_with(gateway.address, "/v1/chat/completions", &headers, &body).await;
        if response.status != 503 {
            return response;
        }
        assert_eq!(response.error("code"), "spend_not_recorded", "{}", response.text());
    }
}

/// How many calls a gateway can still make.
async fn use_up(gateway: &Gateway) -> u32 {
    let mut answered = 0;
    while ask(gateway).await.status == 200 {
        answered += 1;
        assert!(answered < 100);
    }
    answered
}

#[tokio::test]
async fn operator_lets_go_of_what_a_dead_gateway_had_claimed() {
    let (simulator, postgres, redis) =
        (simulator().await, Postgres::start().await, Redis::on_port().await);
    let text = format!(
        "
general_settings:
  master_key: $MASTER
  database_url: '{}'
  redis_url: 'redis://127.0.0.1:{}'
keys:
  - {{ alias: ci, key: {KEY}, max_budget: 0.0003 }}
",
        postgres.url(),
        redis.port
    );
    let text = config(&text, &simulator);
    let folder = Folder::fresh();
    let file = folder.write("config.yaml", &text).display().to_string();
    let release = async |node: &[&str]| {
        let args = [&["release", "-c", &file], node].concat();
        run(&folder.0, &[], &args).await
    };
    assert_eq!(release(&[]).await.stdout.trim(), "No node holds anything.");
    let doomed = Setup { gateway: Gateway::start(&text).await, simulator };
    let other = Gateway::start(&text).await;
    // It dies with a call under way, which had most of the budget.
    assert_eq!(ask(&doomed.gateway).await.status, 200);
    doomed.simulator.enqueue(Reply::hang());
    let mut body = chat("gpt-4o-mini", "the one that hangs");
    body["max_tokens"] = 350.into();
    let hanging = doomed.send_chat(KEY, &body).await;
    let is_it = |asked: &tollway_simulator::Received| {
        String::from_utf8_lossy(&asked.body).contains("the one that hangs")
    };
    doomed.simulator.wait_for(is_it).await;
    let Setup { mut gateway, simulator: _simulator } = doomed;
    gateway.signal("KILL");
    gateway.ended().await;
    drop(hanging);
    let before = use_up(&other).await;
    assert!(before <= 2, "{before}: the dead one has most of it");

    let held = release(&[]).await;
    assert!(held.success, "{}", held.stderr);
    let largest = held.stdout.lines().max_by(|a, b| {
        let claimed = |line: &str| -> f64 {
            let (_, rest) = line.split_once("claimed ").unwrap_or(("", "0 "));
            rest.split(' ').next().and_then(|dollars| dollars.parse().ok()).unwrap_or(0.0)
        };
        claimed(a).total_cmp(&claimed(b))
    });
    let node = largest.and_then(|line| line.split('\t').next()).expect("a node").to_owned();
    let early = release(&[&node]).await;
    assert!(!early.success && early.stderr.contains("may be alive"), "{}", early.stderr);
    // A while later.
    redis.command(&format!("HDEL tollway:{{cluster}} m:{node}")).await;
    let done = release(&[&node]).await;
    assert!(done.success, "{}", done.stderr);
    assert!(done.stdout.contains(&node) && done.stdout.contains(" are free."), "{}", done.stdout);
    let after = use_up(&other).await;
    assert!(after >= 4, "{after}: it is there again");

    let bearer = format!("Bearer {MASTER_KEY}");
    let path = "/audit?object_type=budget";
    let log = get(other.address, path, &[("authorization", &bearer)]).await.json();
    let entry = &log["audit_logs"][0];
    assert_eq!((&entry["action"], &entry["object_id"]), (&json!("released"), &json!(node)));
    assert_eq!(entry["changed_by"], "tollway release");
    assert!(!release(&["nobody"]).await.success);
}
