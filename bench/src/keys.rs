//! Very many keys in the store: how long the gateway takes to start with them, and what memory.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use tollway_filter_api::KeyHash;
use tollway_filter_api::accounts::{Accounts, Change, Kind, Object};
use tollway_store::sql::SqlStore;
use tollway_tests::gateway::{Folder, Gateway, Options};
use tollway_tests::postgres::Postgres;
use tollway_tests::setup::{config, simulator};
use tollway_tests::{chat, get, post_with};

use crate::Failure;

/// So many are stored at once.
const AT_ONCE: usize = 500;

/// What they cost at the start.
#[derive(Debug)]
pub struct Started {
    /// From the start of the process until it is ready.
    pub ready: Duration,
    /// Resident memory then, in bytes.
    pub resident: u64,
}

fn text_of(number: usize) -> String {
    format!("sk-many-{number:016}")
}

fn key(number: usize) -> Object {
    let text = text_of(number);
    let body: Map<String, Value> = json!({
        "key_name": format!("sk-...{}", &text[text.len() - 4..]), "max_budget": 25.0, "budget_duration": "30d",
        "models": ["gpt-4o-mini"], "tpm_limit": 100_000, "rpm_limit": 600, "metadata": {"owner": number},
        "created_at": "2026-11-22T10:00:00.000Z", "created_by": "admin",
        "updated_at": "2026-11-22T10:00:00.000Z", "updated_by": "admin",
    })
    .as_object()
    .cloned()
    .unwrap_or_default();
    Object {
        kind: Kind::Key,
        id: KeyHash(Sha256::digest(&text).into()).hex().into(),
        alias: Some(format!("key-{number}").into()),
        user: Some(format!("user-{}", number % 5_000).into()),
        team: Some(format!("team-{}", number % 200).into()),
        body,
        version: 0,
    }
}

async fn fill(store: &SqlStore, count: usize) -> Result<(), Failure> {
    for first in (0..count).step_by(AT_ONCE) {
        let create = (first..count.min(first + AT_ONCE)).map(key).collect();
        store.change(Change { create, ..Change::default() }).await?;
    }
    Ok(())
}

async fn start(options: Options, last: Option<usize>) -> Result<Started, Failure> {
    let begun = Instant::now();
    let gateway = Gateway::start_with(options).await;
    let ready = get(gateway.address, "/health/readiness", &[]).await;
    let took = begun.elapsed();
    if ready.status != 200 {
        return Err(ready.text().into());
    }
    if let Some(last) = last {
        let bearer = format!("Bearer {}", text_of(last));
        let headers = [("authorization", bearer.as_str())];
        let body = chat("gpt-4o-mini", "[[sim tokens=3]]");
        let answer = post_with(gateway.address, "/v1/chat/completions", &headers, &body).await;
        if answer.status != 200 {
            return Err(format!("the last key does not work: {}", answer.text()).into());
        }
    }
    Ok(Started { ready: took, resident: gateway.resident_bytes() })
}

/// Starts a gateway without keys and with so many, on SQLite or on Postgres.
///
/// # Errors
/// When it does not start, or does not know the last key at once.
pub async fn measure(count: usize, with_postgres: bool) -> Result<[Started; 2], Failure> {
    let simulator = simulator().await;
    let server = if with_postgres { Some(Postgres::start().await) } else { None };
    let url = server.as_ref().map(Postgres::url);
    let folder = Folder::fresh();
    let text = match &url {
        Some(url) => {
            format!("general_settings: {{ master_key: $MASTER, database_url: \"{url}\" }}\n")
        }
        None => String::new(),
    };
    let options = Options {
        config: Some(config(&text, &simulator)),
        folder: Some(folder.0.clone()),
        ..Options::default()
    };
    let without = start(options.clone(), None).await?;
    let store = match url {
        Some(url) => SqlStore::postgres(url.into()).await?,
        None => SqlStore::sqlite(folder.0.join("tollway-data/tollway.db")).await?,
    };
    let store = Arc::new(store);
    fill(&store, count).await?;
    store.close().await;
    let with = start(options, Some(count - 1)).await?;
    Ok([without, with])
}
