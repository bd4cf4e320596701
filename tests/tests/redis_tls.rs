//! Redis over TLS: budgets and answers are shared by it, and only with a server that is vouched for.

use std::net::SocketAddr;

use serde_json::json;
use tollway_tests::gateway::{Folder, Gateway};
use tollway_tests::postgres::Postgres;
use tollway_tests::servers::Redis;
use tollway_tests::setup::{config, simulator};
use tollway_tests::{Response, chat, post_with};

const KEY: &str = "sk-secured-0123456789";
/// One that has spent nothing.
const OTHER: &str = "sk-unspent-0123456789";

async fn ask(address: SocketAddr, key: &str, said: &str) -> Response {
    let bearer = format!("Bearer {key}");
    let mut body = chat("gpt-4o-mini", said);
    body["max_tokens"] = 40.into();
    let headers = [("authorization", bearer.as_str())];
    post_with(address, "/v1/chat/completions", &headers, &body).await
}

/// Asks until Redis has answered in time.
async fn ask_until_known(address: SocketAddr, said: &str) -> Response {
    loop {
        let response = ask(address, KEY, said).await;
        if response.status != 503 {
            return response;
        }
        assert_eq!(response.error("code"), "spend_not_recorded", "{}", response.text());
    }
}

#[tokio::test]
async fn budgets_and_answers_are_shared_over_tls_with_a_server_that_is_vouched_for() {
    let own = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    let (cert, key) = (own.cert.pem(), own.signing_key.serialize_pem());
    let (simulator, postgres, redis) =
        (simulator().await, Postgres::start().await, Redis::with_tls(&cert, &key).await);
    let folder = Folder::fresh();
    let (roots, port) = (folder.write("ca.pem", &cert), redis.port);
    let roots = format!("'{}'", roots.display());
    let text = |trust: &str| {
        let text = format!(
            "
general_settings:
  master_key: $MASTER
  database_url: '{}'
  redis_url: 'rediss://localhost:{port}'
{trust}
litellm_settings:
  cache: true
  cache_params: {{ host: localhost, port: {port}, ssl: true, ssl_ca_certs: {roots} }}
keys:
  - {{ alias: ci, key: {KEY}, max_budget: 0.0003, budget_duration: 30d }}
  - {{ alias: other, key: {OTHER}, max_budget: 1 }}
",
            postgres.url()
        );
        config(&text, &simulator)
    };
    let good = text(&format!("  redis_ssl_ca_certs: {roots}"));
    let (one, two) = (Gateway::start(&good).await, Gateway::start(&good).await);
    assert_eq!(ask_until_known(one.address, "kept").await.status, 200);
    // One's answer is the other's, once it is written.
    let hit = loop {
        let response = ask_until_known(two.address, "kept").await;
        if response.header("x-litellm-cache-key").is_some() {
            break response;
        }
    };
    assert_eq!(hit.status, 200);
    // What the one has spent, the other has not left.
    let mut round = 0;
    let refused = loop {
        let response = ask_until_known(one.address, &format!("[[sim tokens=40]] {round}")).await;
        if response.status != 200 {
            break response;
        }
        round += 1;
    };
    assert_eq!((refused.status, refused.error("type")), (422, json!("budget_exceeded")));
    assert!(round > 2, "{round}");
    let other = ask_until_known(two.address, "[[sim tokens=40]] there").await;
    assert_eq!(other.status, 422, "{}", other.text());

    // A server that only its own certificate vouches for is none.
    let stranger = Gateway::start(&text("")).await;
    stranger.stderr_line(|line| line.contains("Redis is away")).await;
    let unknown = ask(stranger.address, OTHER, "anybody").await;
    assert_eq!((unknown.status, unknown.error("code")), (503, json!("spend_not_recorded")));
}
