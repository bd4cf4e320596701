//! The gateway is killed, again and again, while it streams.
//!
//! Afterwards the ledger must have every call of which a client saw anything, once, and have charged
//! it for all that the client has read: what came to its end by the provider's count, what was open
//! at its bound.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio::task::JoinSet;

use crate::gateway::{Gateway, Options, PATIENCE, fresh_folder};
use crate::setup::{config, simulator};
use crate::{Connection, get};

const KEY: &str = "sk-killed-0123456789";
/// Dollars for a token of `gpt-4o-mini`.
const INPUT: f64 = 1.5e-7;
const OUTPUT: f64 = 6e-7;
/// The most a call's answer may have.
const OUTPUT_MAX: u64 = 400;

/// What came of it.
#[derive(Debug)]
pub struct Report {
    /// How often it was killed.
    pub kills: usize,
    /// How many calls clients had an answer of, or the beginning of one.
    pub calls: usize,
    /// How many of those were open when it was killed.
    pub open: usize,
    /// Tokens that clients read.
    pub delivered: u64,
    /// From the start of the process until it was ready, the longest of all starts.
    pub ready: Duration,
    /// What does not agree; empty if all is well.
    pub wrong: Vec<String>,
}

/// What a client has of a call.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    tokens: u64,
    is_whole: bool,
}

type Calls = BTreeMap<String, Seen>;

/// Counts what all clients have read, and tells who waits for some of it.
#[derive(Default)]
struct Read {
    tokens: AtomicU64,
    more: Notify,
}

/// Reads streams, one after the other, until the gateway is gone.
async fn client(address: SocketAddr, number: u64, read: Arc<Read>) -> Calls {
    let mut calls = Calls::new();
    for round in 0.. {
        let tokens = 20 + (number * 37 + round * 11) % 300;
        let text = format!("[[sim tokens={tokens} rate=2000]] {number} {round}");
        let body = json!({"model": "gpt-4o-mini", "stream": true, "max_tokens": OUTPUT_MAX,
            "messages": [{"role": "user", "content": text}]});
        let Some(mut connection) = Connection::try_open(address).await else { break };
        let bearer = format!("Bearer {KEY}");
        let headers = [("authorization", bearer.as_str())];
        connection
            .request("POST", "/v1/chat/completions", &headers, body.to_string().as_bytes())
            .await;
        let Some((status, headers)) = connection.try_head().await else { break };
        assert_eq!(status, 200);
        let id = headers.into_iter().find(|(name, _)| name == "x-litellm-call-id");
        let seen = calls.entry(id.expect("answers have an id").1).or_default();
        loop {
            match connection.try_event().await {
                Some(Some(event)) if event == "[DONE]" => seen.is_whole = true,
                Some(Some(event)) => {
                    let event: Value = serde_json::from_str(&event).unwrap_or_default();
                    let said = event["choices"][0]["delta"]["content"].as_str();
                    if said.is_some_and(|said| !said.is_empty()) {
                        seen.tokens += 1;
                        read.tokens.fetch_add(1, Ordering::Relaxed);
                        read.more.notify_one();
                    }
                }
                Some(None) => break,
                None => return calls,
            }
        }
    }
    calls
}

/// Starts the gateway; how long it took until it was ready.
async fn start(options: &Options) -> (Gateway, Duration) {
    let begun = Instant::now();
    let gateway = Gateway::start_with(options.clone()).await;
    let ready = get(gateway.address, "/health/readiness", &[]).await;
    assert_eq!(ready.status, 200, "{}", ready.text());
    (gateway, begun.elapsed())
}

/// Kills the gateway so often, with so many streams open each time.
///
/// # Panics
/// When it does not come up again.
pub async fn prove(kills: usize, clients: u64) -> Report {
    let simulator = simulator().await;
    let folder = fresh_folder();
    let text = format!("keys: [{{ alias: killed, key: {KEY}, max_budget: 1000 }}]\n");
    let options = Options {
        config: Some(config(&text, &simulator)),
        folder: Some(folder.clone()),
        ..Options::default()
    };
    let (mut gateway, mut ready) = start(&options).await;
    let mut calls = Calls::new();
    for kill in 0..kills {
        let read = Arc::new(Read::default());
        let mut playing = JoinSet::new();
        for number in 0..clients {
            playing.spawn(client(gateway.address, number, Arc::clone(&read)));
        }
        // At another moment each time, soon after the first token or long after.
        let wanted = (kill as u64 + 1) * 7919 % (clients * 120);
        while read.tokens.load(Ordering::Relaxed) < wanted {
            read.more.notified().await;
        }
        gateway.signal("KILL");
        gateway.ended().await;
        for seen in playing.join_all().await {
            calls.extend(seen);
        }
        let (next, took) = start(&options).await;
        (gateway, ready) = (next, ready.max(took));
    }
    let ledger = ledger_of(&gateway, &calls).await;
    let mut report = Report {
        kills,
        calls: calls.len(),
        open: calls.values().filter(|seen| !seen.is_whole).count(),
        delivered: calls.values().map(|seen| seen.tokens).sum(),
        ready,
        wrong: Vec::new(),
    };
    for (id, seen) in &calls {
        let rows = ledger.get(id).map_or(&[][..], Vec::as_slice);
        let [row] = rows else {
            report.wrong.push(format!("{id} is {} times in the ledger", rows.len()));
            continue;
        };
        let (spend, tokens) = (&row["spend"], &row["completion_tokens"]);
        let (spend, tokens) = (spend.as_f64().unwrap_or(-1.0), tokens.as_u64().unwrap_or(0));
        let least = seen.tokens as f64 * OUTPUT;
        // A short question is bounded by its bytes.
        let most = 200.0 * INPUT + OUTPUT_MAX as f64 * OUTPUT;
        // One that came to its end as the gateway was killed may be charged at its bound as well.
        let is_at_bound = spend >= least && spend <= most && row["metadata"]["status_code"] == 0;
        let is_right = is_at_bound || seen.is_whole && tokens == seen.tokens;
        if !is_right {
            report.wrong.push(format!("{id}: a client has {seen:?}, the ledger {row}"));
        }
    }
    drop(gateway);
    let _ = std::fs::remove_dir_all(folder);
    report
}

/// The ledger's lines by the ids of the calls, once all of these are there.
async fn ledger_of(gateway: &Gateway, calls: &Calls) -> BTreeMap<String, Vec<Value>> {
    let begun = Instant::now();
    loop {
        let mut found: BTreeMap<String, Vec<Value>> = BTreeMap::new();
        for page in 1.. {
            let path = format!("/spend/logs/v2?page_size=1000&page={page}");
            let response = get(gateway.address, &path, &[]).await;
            assert_eq!(response.status, 200, "{}", response.text());
            let told = response.json();
            let rows = told["data"].as_array().expect("a list");
            for row in rows {
                let id = row["request_id"].as_str().unwrap_or_default().to_owned();
                found.entry(id).or_default().push(row.clone());
            }
            if rows.len() < 1000 {
                break;
            }
        }
        if calls.keys().all(|id| found.contains_key(id)) || begun.elapsed() > PATIENCE {
            return found;
        }
    }
}
