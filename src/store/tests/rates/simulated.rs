//! Nodes in simulated time, over a real Redis: what is granted in any 60 seconds, and what it costs.

use std::time::Duration;

use tollway_filter_api::limits::LimitUnit;

use crate::support::{Grants, Nodes, Server, key};

const MS: Duration = Duration::from_millis(1);

/// Clients at three nodes that take all they can get. Returns the share of the limit that was used
/// and the calls of Redis for each request.
async fn greedy(limit: u64, amount: u64, step: Duration, minutes: u32) -> (f64, f64) {
    let server = Server::start().await;
    let mut nodes = Nodes::start(&server, 3).await;
    let key = key("k", if amount == 1 { LimitUnit::Requests } else { LimitUnit::Tokens });
    let before = server.calls().await;
    let begin = nodes.clock.now();
    let mut grants = Grants::default();
    let mut granted = 0_u64;
    while nodes.clock.now() - begin < Duration::from_secs(60) * minutes {
        for node in 0..3 {
            for _client in 0..20 {
                if nodes.admit(node, &key, limit, amount).await.is_ok() {
                    grants.0.push((nodes.clock.now(), amount));
                    granted += 1;
                }
            }
        }
        nodes.advance(step).await;
    }
    assert!(grants.busiest() <= limit, "{} of {limit}", grants.busiest());
    let calls = server.calls().await - before;
    let share = grants.total() as f64 / (limit as f64 * f64::from(minutes));
    let requests = nodes.requests;
    println!(
        "limit {limit} by {amount}: {share:.4} used, {granted} of {requests} granted, {calls} calls"
    );
    (share, calls as f64 / nodes.requests as f64)
}

#[tokio::test]
async fn greedy_clients_at_three_nodes_get_98_percent_and_never_more_than_the_limit() {
    for (limit, amount, step) in
        [(60, 1, 97 * MS), (600, 1, 97 * MS), (6_000, 1, 130 * MS), (90_000, 123, 111 * MS)]
    {
        let (share, calls) = greedy(limit, amount, step, 20).await;
        // What does not divide the limit leaves less than one amount unused.
        let wasted = (limit % amount) as f64 / limit as f64;
        assert!(share + wasted >= 0.98, "{share} of {limit}");
        assert!(calls <= 0.15, "{calls} calls for each request");
    }
}
