//! Several gateways on one Postgres, and a Postgres that goes away.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tollway_simulator::Simulator;
use tollway_tests::gateway::{Folder, Gateway, Options, PATIENCE, run};
use tollway_tests::postgres::Postgres;
use tollway_tests::proof::tell;
use tollway_tests::setup::{config, simulator, within};
use tollway_tests::{Response, chat, get, post, post_with};

/// A key of the config, and one with a budget.
const CONFIG_KEY: &str = "sk-of-config-0123456789";
const LIMITED_KEY: &str = "sk-limited-0123456789";

fn options(postgres: &Postgres, simulator: &Simulator) -> Options {
    let text = format!(
        "
general_settings: {{ master_key: $MASTER, database_url: \"{}\" }}
keys:
  - {{ alias: plain, key: {CONFIG_KEY} }}
  - {{ alias: limited, key: {LIMITED_KEY}, max_budget: 1 }}
",
        postgres.url()
    );
    Options { config: Some(config(&text, simulator)), ..Options::default() }
}

async fn ask(gateway: &Gateway, key: &str) -> Response {
    let bearer = format!("Bearer {key}");
    let headers = [("authorization", bearer.as_str())];
    let body = chat("gpt-4o-mini", "[[sim tokens=3]] Hi");
    post_with(gateway.address, "/v1/chat/completions", &headers, &body).await
}

/// Asks again and again until the status is as wanted; how long that took.
async fn becomes(gateway: &Gateway, key: &str, status: u16) -> Duration {
    let begun = Instant::now();
    loop {
        let response = ask(gateway, key).await;
        if response.status == status {
            return begun.elapsed();
        }
        assert!(begun.elapsed() < PATIENCE, "{}: {}", response.status, response.text());
    }
}

async fn generated(gateway: &Gateway) -> String {
    let made = post(gateway.address, "/key/generate", &json!({})).await;
    assert_eq!(made.status, 200, "{}", made.text());
    made.json()["key"].as_str().expect("a key").to_owned()
}

async fn db(gateway: &Gateway) -> Value {
    let ready = get(gateway.address, "/health/readiness", &[]).await;
    assert_eq!(ready.status, 200, "{}", ready.text());
    ready.json()["db"].clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn revoked_key_is_refused_by_the_other_node_within_a_second() {
    let (postgres, simulator) = (Postgres::start().await, simulator().await);
    let one = Gateway::start_with(options(&postgres, &simulator)).await;
    let other = Gateway::start_with(options(&postgres, &simulator)).await;
    for (path, name) in [("/key/block", "key"), ("/key/delete", "keys")] {
        let key = generated(&one).await;
        let took = becomes(&other, &key, 200).await;
        tell(&format!("known to the other node after {took:?}"));
        let said = if name == "keys" { json!([key]) } else { json!(key) };
        let done = post(one.address, path, &json!({name: said})).await;
        assert_eq!(done.status, 200, "{}", done.text());
        assert_eq!(ask(&one, &key).await.status, 401, "at once where it was revoked");
        let took =
            within(PATIENCE, "the other node learns of it", becomes(&other, &key, 401)).await;
        tell(&format!("{path}: seen by the other node after {took:?}"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn node_with_the_name_of_another_is_refused() {
    let (postgres, simulator) = (Postgres::start().await, simulator().await);
    let mut first = Gateway::start_with(options(&postgres, &simulator)).await;
    assert_eq!(ask(&first, CONFIG_KEY).await.status, 200);
    first.signal("TERM");
    first.ended().await;
    // A copy of a node's folder, as of a machine that was cloned ...
    let copy = Folder::fresh();
    let copied = std::process::Command::new("cp")
        .args(["-r", "tollway-data", "config.yaml"])
        .arg(&copy.0)
        .current_dir(&first.folder)
        .status();
    assert!(copied.expect("cp runs").success());
    // ... while the node itself goes on.
    let again = Options { folder: Some(first.folder.clone()), ..options(&postgres, &simulator) };
    let mut second = Gateway::start_with(again).await;
    assert_eq!(ask(&second, CONFIG_KEY).await.status, 200);
    second.signal("TERM");
    second.ended().await;
    let refused =
        within(PATIENCE, "it ends", run(&copy.0, &[], &["serve", "-c", "config.yaml"])).await;
    assert!(!refused.success, "{}", refused.stdout);
    assert!(refused.stderr.contains("node"), "{}", refused.stderr);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gateway_starts_without_its_postgres_and_finds_it_later() {
    let (mut postgres, simulator) = (Postgres::start().await, simulator().await);
    let stored = {
        let gateway = Gateway::start_with(options(&postgres, &simulator)).await;
        generated(&gateway).await
    };
    postgres.stop().await;
    let gateway = Gateway::start_with(options(&postgres, &simulator)).await;
    assert_eq!(db(&gateway).await, "Not connected");
    assert_eq!(ask(&gateway, CONFIG_KEY).await.status, 200, "it needs no database");
    let limited = ask(&gateway, LIMITED_KEY).await;
    assert_eq!(limited.status, 503, "what it has spent is not known: {}", limited.text());
    let unknown = ask(&gateway, &stored).await;
    assert_eq!((unknown.status, unknown.error("code")), (503, json!("store_unavailable")));
    let refused = post(gateway.address, "/key/generate", &json!({})).await;
    assert_eq!((refused.status, refused.error("code")), (503, json!("store_unavailable")));
    postgres.again().await;
    let took = becomes(&gateway, &stored, 200).await;
    tell(&format!("stored keys known after {took:?}"));
    becomes(&gateway, LIMITED_KEY, 200).await;
    // Until all is read, it might be a key that is stored.
    becomes(&gateway, "sk-nobodys-0123456789", 401).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_go_on_while_postgres_is_away_and_none_is_lost() {
    let (mut postgres, simulator) = (Postgres::start().await, simulator().await);
    let mut gateway = Gateway::start_with(options(&postgres, &simulator)).await;
    let stored = generated(&gateway).await;
    for key in [CONFIG_KEY, LIMITED_KEY, &stored] {
        assert_eq!(ask(&gateway, key).await.status, 200);
    }
    postgres.stop().await;
    for _ in 0..40 {
        for key in [CONFIG_KEY, LIMITED_KEY, &stored] {
            let response = ask(&gateway, key).await;
            assert_eq!(response.status, 200, "{}", response.text());
        }
    }
    for (method, path) in [
        ("GET", "/key/list"),
        ("GET", "/user/list"),
        ("GET", "/team/list"),
        ("GET", "/spend/logs"),
        ("GET", "/spend/tags"),
        ("GET", "/spend/keys"),
        ("GET", "/global/spend/report?start_date=2026-01-01&end_date=2026-12-31"),
        ("GET", "/budget/list"),
        ("GET", "/tag/list"),
        ("GET", "/customer/list"),
        ("GET", "/audit"),
        ("POST", "/key/generate"),
        ("POST", "/user/new"),
        ("POST", "/team/new"),
    ] {
        let body: &[u8] = if method == "POST" { b"{}" } else { b"" };
        let response = tollway_tests::client::send(gateway.address, method, path, &[], body).await;
        assert_eq!(response.status, 503, "{path}: {}", response.text());
        assert_eq!(response.error("code"), "store_unavailable", "{path}");
        assert!(response.header("retry-after").is_some(), "{path}");
        assert!(!response.text().contains("postgres"), "{path}: {}", response.text());
    }
    postgres.again().await;
    gateway.signal("TERM");
    gateway.ended().await;
    let args = ["spend", "--by", "key", "--since", "all", "--format", "json", "-c", "config.yaml"];
    let printed = run(&gateway.folder, &[], &args).await;
    assert!(printed.success, "{}", printed.stderr);
    let told: Value = serde_json::from_str(&printed.stdout).expect("it is JSON");
    assert_eq!(told["total"]["calls"], 3 * 41, "{told}");
}
