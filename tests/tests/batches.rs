//! What a batch costs is in the ledger, the budgets and the metrics, once.

use std::sync::Arc;

use serde_json::{Value, json};
use tollway_tests::batches::Provider;
use tollway_tests::gateway::{Folder, Gateway, MASTER_KEY, Options, run};
use tollway_tests::postgres::Postgres;
use tollway_tests::servers::{Redis, signal};
use tollway_tests::setup::{UPSTREAM_KEY, chat, eventually};
use tollway_tests::{Connection, Response, get, post_with};

const KEY: &str = "sk-creator-0123456789";
const OTHER: &str = "sk-other-01234567890";

/// A config with its models: one with prices of its own, of which a million input tokens cost two
/// dollars, in a batch one; cached ones half as much, output ten times.
fn config(provider: &Provider, general: &str) -> String {
    let base = format!("http://{}/v1", provider.address);
    format!(
        "
model_list:
  - model_name: dear
    litellm_params:
      model: openai/gpt-dear
      api_key: {UPSTREAM_KEY}
      api_base: {base}
      input_cost_per_token: 0.000002
      input_cost_per_token_batches: 0.000001
      cache_read_input_token_cost_batches: 0.0000005
      output_cost_per_token: 0.00002
      output_cost_per_token_batches: 0.00001
  - model_name: gpt-4o-mini
    litellm_params: {{ model: openai/gpt-4o-mini, api_key: {UPSTREAM_KEY}, api_base: {base} }}
keys:
  - {{ alias: creator, key: {KEY}, team: dev, user: anna, max_budget: 1 }}
  - {{ alias: other, key: {OTHER} }}
general_settings:
  master_key: {MASTER_KEY}
{general}
"
    )
}

/// Batches are looked at at once.
const SOON: &str = "  proxy_batch_polling_interval: 20ms\n";

async fn begin(gateway: &Gateway, key: &str) -> Response {
    let bearer = format!("Bearer {key}");
    let headers = [
        ("authorization", bearer.as_str()),
        ("x-litellm-tags", "nightly"),
        ("x-litellm-end-user-id", "zoe"),
    ];
    let body = json!({"endpoint": "/v1/chat/completions", "input_file_id": "file-in",
        "completion_window": "24h"});
    post_with(gateway.address, "/v1/batches", &headers, &body).await
}

async fn begun(gateway: &Gateway) -> String {
    let response = begin(gateway, KEY).await;
    assert_eq!(response.status, 200, "{}", response.text());
    response.json()["id"].as_str().expect("an id").to_owned()
}

/// The lines of a bill.
async fn lines(gateway: &Gateway, batch: &str) -> Vec<Value> {
    let bearer = format!("Bearer {MASTER_KEY}");
    let path = format!("/spend/logs?request_id={batch}");
    let found = get(gateway.address, &path, &[("authorization", &bearer)]).await.json();
    found.as_array().cloned().unwrap_or_default()
}

/// The lines of a bill, as soon as there is one.
async fn billed(gateway: &Gateway, batch: &str) -> Vec<Value> {
    let mut found = Vec::new();
    eventually("a bill", async || {
        found = lines(gateway, batch).await;
        !found.is_empty()
    })
    .await;
    found
}

async fn retrieve(gateway: &Gateway, batch: &str, key: &str) -> Response {
    let bearer = format!("Bearer {key}");
    let path = format!("/v1/batches/{batch}");
    get(gateway.address, &path, &[("authorization", &bearer)]).await
}

fn answered(body: Value) -> Value {
    json!({"id": "batch_req_1", "custom_id": "1", "error": null,
        "response": {"status_code": 200, "request_id": "r", "body": body}})
}

fn chat_line(model: &str, prompt: u64, cached: u64, completion: u64) -> Value {
    answered(json!({"object": "chat.completion", "model": model, "service_tier": "priority",
        "choices": [], "usage": {"prompt_tokens": prompt, "completion_tokens": completion,
        "total_tokens": prompt + completion, "prompt_tokens_details": {"cached_tokens": cached}}}))
}

#[tokio::test]
async fn batch_is_billed_once_however_often_it_is_retrieved() {
    let provider = Provider::start().await;
    let gateway = Gateway::start(&config(&provider, "")).await;
    let batch = begun(&gateway).await;
    let before = retrieve(&gateway, &batch, OTHER).await;
    assert_eq!(before.json()["status"], "validating");
    provider.complete(&batch, 123_457, 40_001, 1_009);
    let mut asking = tokio::task::JoinSet::new();
    let gateway = Arc::new(gateway);
    for _ in 0..20 {
        let (gateway, batch) = (Arc::clone(&gateway), batch.clone());
        asking.spawn(async move { retrieve(&gateway, &batch, OTHER).await });
    }
    let expect = provider.state().batches[&batch].clone();
    for response in asking.join_all().await {
        assert_eq!((response.status, response.json()), (200, expect.clone()));
    }
    let found = billed(&gateway, &batch).await;
    // Somebody else's question bills whoever began it.
    let line = &found[0];
    // 83,456 at a millionth, 40,001 at half of that, 1,009 at ten times as much.
    let spend = 0.113_546_5;
    for (name, value) in [
        ("call_type", json!("aretrieve_batch")),
        ("spend", json!(spend)),
        ("prompt_tokens", json!(123_457)),
        ("completion_tokens", json!(1_009)),
        ("total_tokens", json!(124_466)),
        ("user", json!("anna")),
        ("team_id", json!("dev")),
        ("end_user", json!("zoe")),
        ("model_group", json!("dear")),
        ("model", json!("openai/gpt-dear")),
        ("custom_llm_provider", json!("openai")),
        ("status", json!("success")),
        ("request_tags", json!(["nightly"])),
    ] {
        assert_eq!(line[name], value, "{name}: {line}");
    }
    assert_eq!(line["metadata"]["user_api_key_alias"], "creator", "{line}");
    // Another one is billed after all of that: the first still has one line.
    let second = begun(&gateway).await;
    provider.complete(&second, 1, 0, 1);
    for id in [&batch, &second] {
        assert_eq!(retrieve(&gateway, id, KEY).await.status, 200);
    }
    assert_eq!(billed(&gateway, &second).await.len(), 1);
    assert_eq!(lines(&gateway, &batch).await.len(), 1);
    let of_creator = ["api_key_alias=\"creator\"", "model=\"gpt-dear\""];
    let spent = gateway.metric("litellm_spend_metric_total", &of_creator).await;
    assert_eq!(spent, 0.113_557_5);
    for (name, tokens) in [
        ("litellm_input_tokens_metric_total", 123_458.0),
        ("litellm_input_cached_tokens_metric_total", 40_001.0),
        ("litellm_output_tokens_metric_total", 1_010.0),
        ("litellm_output_reasoning_tokens_metric_total", 6.0),
    ] {
        assert_eq!(gateway.metric(name, &of_creator).await, tokens, "{name}");
    }
    let labels = ["scope=\"key\"", "alias=\"creator\""];
    assert_eq!(gateway.metric("tollway_budget_spent_dollars", &labels).await, 0.113_557_5);
    let printed = run(&gateway.folder, &[], &["spend", "--by", "key"]).await;
    assert!(printed.stdout.contains("0.113558"), "{}{}", printed.stdout, printed.stderr);
}

#[tokio::test]
async fn output_is_read_once_by_many_who_see_that_a_batch_has_ended() {
    let provider = Provider::start().await;
    let gateway = Gateway::start(&config(&provider, "")).await;
    let (batch, second) = (begun(&gateway).await, begun(&gateway).await);
    provider.put_file("file-out", &[chat_line("gpt-dear", 10, 0, 1)]);
    provider.serves_files.send_replace(false);
    provider.end(&batch, "completed", json!({"output_file_id": "file-out"}));
    provider.complete(&second, 1, 0, 1);
    for _ in 0..20 {
        retrieve(&gateway, &batch, OTHER).await;
    }
    // What was seen before has been looked at when this one is billed.
    retrieve(&gateway, &second, OTHER).await;
    billed(&gateway, &second).await;
    provider.serves_files.send_replace(true);
    assert_eq!(billed(&gateway, &batch).await.len(), 1);
    assert_eq!(provider.times_asked("GET /v1/files/file-out/content"), 1);
}

#[tokio::test]
async fn batch_that_nobody_asks_for_is_billed_all_the_same() {
    let provider = Provider::start().await;
    let gateway = Gateway::start(&config(&provider, SOON)).await;
    let batch = begun(&gateway).await;
    eventually("it is asked for", async || {
        provider.times_asked(&format!("GET /v1/batches/{batch}")) > 1
    })
    .await;
    assert!(lines(&gateway, &batch).await.is_empty());
    provider.complete(&batch, 1_000, 0, 100);
    let found = billed(&gateway, &batch).await;
    assert_eq!((found.len(), &found[0]["spend"]), (1, &json!(0.002)));
    // Nobody asks for what is billed.
    let asked = provider.times_asked(&format!("GET /v1/batches/{batch}"));
    let second = begun(&gateway).await;
    provider.complete(&second, 1, 0, 1);
    billed(&gateway, &second).await;
    assert_eq!(provider.times_asked(&format!("GET /v1/batches/{batch}")), asked);
}

#[tokio::test]
async fn output_says_what_a_batch_took_that_does_not() {
    let provider = Provider::start().await;
    let gateway = Gateway::start(&config(&provider, "")).await;
    let batch = begun(&gateway).await;
    provider.put_file(
        "file-out",
        &[
            chat_line("gpt-dear-2025-04-01", 1_000, 400, 10),
            chat_line("gpt-4o-mini-2024-07-18", 100, 0, 7),
            answered(json!({"error": {"message": "the model was asleep"}})),
            json!({"id": "batch_req_4", "custom_id": "4", "response": null, "error": {"code": "batch_expired"}}),
            answered(json!({"object": "response", "model": "gpt-dear", "usage": {"input_tokens": 20,
                "output_tokens": 3, "output_tokens_details": {"reasoning_tokens": 2}, "total_tokens": 23}})),
            answered(json!({"object": "list", "data": [{"embedding": [0.5]}],
                "model": "text-embedding-3-small", "usage": {"prompt_tokens": 50, "total_tokens": 50}})),
        ],
    );
    provider.end(&batch, "completed", json!({"output_file_id": "file-out"}));
    retrieve(&gateway, &batch, KEY).await;
    let mut found = billed(&gateway, &batch).await;
    found.sort_by_key(|line| line["model"].to_string());
    let told: Vec<_> = found
        .iter()
        .map(|line| {
            let count = |name: &str| line[name].as_u64().expect("a number");
            let model = line["model"].as_str().expect("a name").to_owned();
            (model, count("prompt_tokens"), count("completion_tokens"), line["spend"].clone())
        })
        .collect();
    let expect = [
        // 100 at 0.075 millionths and 7 at 0.3.
        ("openai/gpt-4o-mini", 100, 7, json!(0.000_009_6)),
        // 600 and 20 at a millionth, 400 at half of that, 13 at ten times as much.
        ("openai/gpt-dear", 1_020, 13, json!(0.000_95)),
        // 50 at a hundredth of a millionth, as the table has it.
        ("openai/text-embedding-3-small", 50, 0, json!(0.000_000_5)),
    ];
    assert_eq!(
        told,
        expect.map(|(model, input, output, spend)| (model.to_owned(), input, output, spend))
    );
    assert_eq!(provider.times_asked("GET /v1/files/file-out/content"), 1);
}

#[tokio::test]
async fn batch_that_fails_half_way_is_billed_for_what_it_did() {
    let provider = Provider::start().await;
    let gateway = Gateway::start(&config(&provider, SOON)).await;
    provider.put_file("file-part", &[chat_line("gpt-dear", 10, 0, 1)]);
    for status in ["failed", "expired", "cancelled"] {
        let batch = begun(&gateway).await;
        provider.end(&batch, status, json!({"output_file_id": "file-part"}));
        let found = billed(&gateway, &batch).await;
        assert_eq!((found.len(), &found[0]["spend"]), (1, &json!(0.000_02)), "{status}");
    }
}

#[tokio::test]
async fn cancelling_a_batch_that_did_nothing_bills_nothing() {
    let provider = Provider::start().await;
    let gateway = Gateway::start(&config(&provider, "")).await;
    let batch = begun(&gateway).await;
    let bearer = format!("Bearer {KEY}");
    let headers = [("authorization", bearer.as_str())];
    let path = format!("/v1/batches/{batch}/cancel");
    let cancelled = post_with(gateway.address, &path, &headers, &json!({})).await;
    assert_eq!((cancelled.status, &cancelled.json()["status"]), (200, &json!("cancelled")));
    gateway.stderr_line(|line| line.contains("a batch is billed")).await;
    assert!(lines(&gateway, &batch).await.is_empty());
}

#[tokio::test]
async fn model_without_a_price_is_free_and_told_of() {
    let provider = Provider::start().await;
    let gateway = Gateway::start(&config(&provider, SOON)).await;
    let batch = begun(&gateway).await;
    let usage = json!({"input_tokens": 7, "output_tokens": 2, "total_tokens": 9});
    provider.end(&batch, "completed", json!({"usage": usage, "model": "gpt-of-tomorrow"}));
    let found = billed(&gateway, &batch).await;
    assert_eq!((&found[0]["spend"], &found[0]["total_tokens"]), (&json!(0), &json!(9)));
    gateway.stderr_line(|line| line.contains("gpt-of-tomorrow") && line.contains("price")).await;
    gateway
        .metric_becomes("tollway_unpriced_requests_total", &["gpt-of-tomorrow"], |count| {
            count == 1.0
        })
        .await;
}

#[tokio::test]
async fn batch_that_ends_while_no_gateway_runs_is_billed_by_the_next_one() {
    let provider = Provider::start().await;
    let folder = Folder::fresh();
    let config = config(&provider, "");
    let start = || {
        let (config, folder) = (Some(config.clone()), Some(folder.0.clone()));
        Gateway::start_with(Options { config, folder, ..Options::default() })
    };
    let mut gateway = start().await;
    let batch = begun(&gateway).await;
    gateway.signal("TERM");
    gateway.ended().await;
    provider.complete(&batch, 1_000, 0, 0);
    let gateway = start().await;
    let found = billed(&gateway, &batch).await;
    assert_eq!((found.len(), &found[0]["spend"]), (1, &json!(0.001)));
}

#[tokio::test]
async fn gateway_that_is_killed_while_it_bills_bills_once() {
    let provider = Provider::start().await;
    let folder = Folder::fresh();
    let config = config(&provider, SOON);
    let start = || {
        let (config, folder) = (Some(config.clone()), Some(folder.0.clone()));
        Gateway::start_with(Options { config, folder, ..Options::default() })
    };
    provider.put_file("file-out", &[chat_line("gpt-dear", 10, 0, 1)]);
    let mut gateway = start().await;
    let batch = begun(&gateway).await;
    // Once while the output is read, then at whatever point it is at.
    provider.serves_files.send_replace(false);
    provider.end(&batch, "completed", json!({"output_file_id": "file-out"}));
    eventually("it is being billed", async || {
        provider.times_asked("GET /v1/files/file-out/content") > 0
    })
    .await;
    signal(gateway.pid(), "KILL");
    gateway.ended().await;
    provider.serves_files.send_replace(true);
    for times in 2..8 {
        let mut gateway = start().await;
        eventually("it is being billed again, or was", async || {
            provider.times_asked("GET /v1/files/file-out/content") >= times
                || !lines(&gateway, &batch).await.is_empty()
        })
        .await;
        signal(gateway.pid(), "KILL");
        gateway.ended().await;
    }
    let gateway = start().await;
    let found = billed(&gateway, &batch).await;
    assert_eq!((found.len(), &found[0]["spend"]), (1, &json!(0.000_02)));
    // The next process has it in the budget, too.
    assert_eq!(begin(&gateway, KEY).await.status, 200);
    let labels = ["scope=\"key\"", "alias=\"creator\""];
    assert_eq!(gateway.metric("tollway_budget_spent_dollars", &labels).await, 0.000_02);
}

#[tokio::test]
async fn two_gateways_of_one_database_bill_once() {
    let (provider, postgres) = (Provider::start().await, Postgres::start().await);
    let general = format!("{SOON}  database_url: '{}'\n", postgres.url());
    let config = config(&provider, &general);
    let gateways = [Gateway::start(&config).await, Gateway::start(&config).await];
    provider.put_file("file-out", &[chat_line("gpt-dear", 10, 0, 1)]);
    let mut batches = Vec::new();
    for at in 0..10 {
        batches.push(begun(&gateways[at % 2]).await);
    }
    for (at, batch) in batches.iter().enumerate() {
        match at % 3 {
            0 => provider.complete(batch, 1_000, 0, 0),
            _ => provider.end(batch, "completed", json!({"output_file_id": "file-out"})),
        }
        // Both pollers and two clients at once.
        tokio::join!(retrieve(&gateways[0], batch, KEY), retrieve(&gateways[1], batch, KEY));
    }
    for batch in &batches {
        billed(&gateways[0], batch).await;
    }
    let told = postgres
        .run(
            "SELECT count(*), count(DISTINCT request_id), sum(picos) FROM tollway_spend WHERE \
              request_id LIKE 'batch_%'",
        )
        .await;
    assert_eq!(told.trim(), format!("10|10|{}", 4 * 1_000_000_000_u64 + 6 * 20_000_000));
    let open = postgres
        .run("SELECT count(*) FROM tollway_documents WHERE collection = 'batch' AND state = 'open'")
        .await;
    assert_eq!(open.trim(), "0");
}

#[tokio::test]
async fn creators_budget_pays_and_nothing_more_is_begun_when_it_is_spent() {
    let provider = Provider::start().await;
    let gateway = Gateway::start(&config(&provider, SOON)).await;
    let batch = begun(&gateway).await;
    // More than the budget: nothing can be refused after the fact.
    provider.complete(&batch, 1_500_000, 0, 0);
    assert_eq!(billed(&gateway, &batch).await[0]["spend"], 1.5);
    let labels = ["scope=\"key\"", "alias=\"creator\""];
    let told = |spent: f64| spent == 1.5;
    gateway.metric_becomes("tollway_budget_spent_dollars", &labels, told).await;
    let refused = begin(&gateway, KEY).await;
    assert_eq!((refused.status, refused.error("type")), (422, json!("budget_exceeded")));
    assert!(refused.text().contains("Current cost: 1.5, Max budget: 1"), "{}", refused.text());
    let bearer = format!("Bearer {KEY}");
    let headers = [("authorization", bearer.as_str())];
    let call =
        post_with(gateway.address, "/v1/chat/completions", &headers, &chat("dear", "hi")).await;
    assert_eq!(call.status, 422, "{}", call.text());
    // What is free goes on, and so do others.
    assert_eq!(retrieve(&gateway, &batch, KEY).await.status, 200);
    assert_eq!(begin(&gateway, OTHER).await.status, 200);
    assert_eq!(provider.times_asked("POST /v1/batches"), 2);
}

#[tokio::test]
async fn all_who_are_named_pay() {
    for budgets in [
        "litellm_settings: { max_budget: 1, budget_duration: 30d }",
        "litellm_settings: { max_end_user_budget: 1 }",
        "litellm_settings: { tag_budget_config: { nightly: { max_budget: 1, budget_duration: 30d } } }",
        "teams: [{ team_id: dev, max_budget: 1 }]",
        "users: [{ user_id: anna, max_budget: 1 }]",
    ] {
        let provider = Provider::start().await;
        let config = config(&provider, SOON).replace("max_budget: 1 }", "max_budget: 100 }");
        let gateway = Gateway::start(&format!("{config}{budgets}\n")).await;
        let batch = begun(&gateway).await;
        provider.complete(&batch, 1_000_001, 0, 0);
        billed(&gateway, &batch).await;
        eventually("it is spent", async || {
            gateway.metrics().await.lines().any(|line| {
                line.starts_with("tollway_budget_spent_dollars") && line.ends_with(" 1.000001")
            })
        })
        .await;
        let refused = begin(&gateway, KEY).await;
        assert_eq!(refused.error("type"), "budget_exceeded", "{budgets}: {}", refused.text());
    }
}

#[tokio::test]
async fn other_gateways_know_what_a_batch_has_cost() {
    let (provider, postgres, redis) =
        (Provider::start().await, Postgres::start().await, Redis::on_port().await);
    let general = |polling: &str| {
        format!(
            "  proxy_batch_polling_interval: {polling}\n  database_url: '{}'\n  redis_url: 'redis://127.0.0.1:{}'\n",
            postgres.url(),
            redis.port
        )
    };
    let text = config(&provider, &general("1h"));
    let (mut first, other) = (Gateway::start(&text).await, Gateway::start(&text).await);
    let mut batch = None;
    // Redis has to answer in time, here and below.
    eventually("it is begun", async || {
        let begun = begin(&first, KEY).await;
        batch = begun.json()["id"].as_str().map(str::to_owned);
        begun.status == 200
    })
    .await;
    first.signal("TERM");
    first.ended().await;
    let batch = batch.expect("it has begun");
    provider.complete(&batch, 1_500_000, 0, 0);
    // One bills it that has never had to do with the key, another one is asked.
    let billing = Gateway::start(&config(&provider, &general("20ms"))).await;
    assert_eq!(billed(&billing, &batch).await[0]["spend"], 1.5);
    let mut answer = None;
    eventually("Redis answers in time", async || {
        let begun = begin(&other, KEY).await;
        let status = begun.status;
        answer = Some(begun);
        status != 503
    })
    .await;
    assert_eq!(answer.expect("it is there").error("type"), "budget_exceeded");
}

#[tokio::test]
async fn batch_of_a_client_who_does_not_wait_is_billed() {
    let provider = Provider::start().await;
    let gateway = Gateway::start(&config(&provider, SOON)).await;
    let mut client = Connection::open(gateway.address).await;
    let bearer = format!("Bearer {KEY}");
    let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
    let body = json!({"endpoint": "/v1/embeddings"}).to_string();
    client.request("POST", "/v1/batches", &headers, body.as_bytes()).await;
    client.reset();
    eventually("it has begun", async || !provider.state().batches.is_empty()).await;
    provider.complete("batch_1", 1_000, 0, 0);
    assert_eq!(billed(&gateway, "batch_1").await[0]["spend"], 0.001);
}

#[tokio::test]
async fn batch_that_begins_while_the_database_is_away_is_billed() {
    let (provider, mut postgres) = (Provider::start().await, Postgres::start().await);
    let general = format!("{SOON}  database_url: '{}'\n", postgres.url());
    let gateway = Gateway::start(&config(&provider, &general)).await;
    // The key's spend is known from here on.
    begun(&gateway).await;
    postgres.kill().await;
    let batch = begun(&gateway).await;
    postgres.again().await;
    provider.complete(&batch, 1_000, 0, 0);
    assert_eq!(billed(&gateway, &batch).await[0]["spend"], 0.001);
}

#[tokio::test]
async fn batch_whose_account_is_gone_is_kept_until_it_is_back() {
    let provider = Provider::start().await;
    let folder = Folder::fresh();
    let start = |config: String| {
        let (config, folder) = (Some(config), Some(folder.0.clone()));
        Gateway::start_with(Options { config, folder, ..Options::default() })
    };
    let mut gateway = start(config(&provider, "")).await;
    let batch = begun(&gateway).await;
    gateway.signal("TERM");
    gateway.ended().await;
    provider.complete(&batch, 1_000, 0, 0);
    let elsewhere = format!("{}/other", provider.address);
    let moved = config(&provider, "").replace(&format!("{}/v1", provider.address), &elsewhere);
    let mut gateway = start(moved).await;
    gateway.stderr_line(|line| line.contains("account is configured any more")).await;
    assert!(lines(&gateway, &batch).await.is_empty());
    gateway.signal("TERM");
    gateway.ended().await;
    // Another entry, at the same place.
    let name = "      organization: org-1\n      api_key:";
    let gateway = start(config(&provider, "").replace("      api_key:", name)).await;
    assert_eq!(billed(&gateway, &batch).await[0]["spend"], 0.001);
}

#[tokio::test]
async fn provider_that_has_forgotten_a_batch_is_believed_after_a_week() {
    let (provider, postgres) = (Provider::start().await, Postgres::start().await);
    let config = config(&provider, &format!("{SOON}  database_url: '{}'\n", postgres.url()));
    let gateway = Gateway::start(&config).await;
    let batch = begun(&gateway).await;
    let found = provider.state().batches.remove(&batch).expect("it has begun");
    let gone =
        "SELECT CAST(body AS jsonb)->>'gone_ms' FROM tollway_documents WHERE collection = 'batch'";
    let mut since = String::new();
    eventually("it is noted", async || {
        since = postgres.run(gone).await.trim().to_owned();
        !since.is_empty()
    })
    .await;
    // It was a mistake of the provider's.
    provider.state().batches.insert(batch.clone(), found);
    eventually("it is there again", async || postgres.run(gone).await.trim().is_empty()).await;
    provider.state().batches.remove(&batch);
    let long_ago = "UPDATE tollway_documents SET body = CAST(jsonb_set(CAST(body AS jsonb), \
        '{gone_ms}', '1') AS text) WHERE collection = 'batch' AND holder IS NULL;";
    let state = "SELECT state FROM tollway_documents WHERE collection = 'batch'";
    eventually("it is closed", async || {
        postgres.run(long_ago).await;
        postgres.run(state).await.trim() == "closed"
    })
    .await;
    gateway.stderr_line(|line| line.contains(&batch) && line.contains("is not billed")).await;
    assert!(lines(&gateway, &batch).await.is_empty());
}

#[tokio::test]
async fn named_group_and_long_prompts_have_their_prices() {
    let provider = Provider::start().await;
    let twin = format!(
        "
  - model_name: twin
    litellm_params:
      model: openai/gpt-dear
      api_key: {UPSTREAM_KEY}
      api_base: http://{}/v1
      input_cost_per_token: 0.000004
      input_cost_per_token_above_1k_tokens: 0.000008
      output_cost_per_token: 0
keys:",
        provider.address
    );
    let gateway = Gateway::start(&config(&provider, "").replace("\nkeys:", &twin)).await;
    let bearer = format!("Bearer {KEY}");
    let headers = [("authorization", bearer.as_str()), ("x-litellm-model", "twin")];
    let body = json!({"endpoint": "/v1/chat/completions"});
    let begun = post_with(gateway.address, "/v1/batches", &headers, &body).await;
    let batch = begun.json()["id"].as_str().expect("an id").to_owned();
    // How long the single prompts were, only the output tells.
    let output = [chat_line("gpt-dear", 900, 0, 1), chat_line("gpt-dear", 1_001, 0, 1)];
    provider.put_file("file-out", &output);
    provider.complete(&batch, 1_901, 0, 2);
    provider.end(&batch, "completed", json!({"output_file_id": "file-out"}));
    retrieve(&gateway, &batch, KEY).await;
    let line = &billed(&gateway, &batch).await[0];
    // Without rates of its own for batches: 900 at four millionths, 1,001 at eight.
    assert_eq!((&line["model_group"], &line["spend"]), (&json!("twin"), &json!(0.011_608)));
    assert_eq!(line["prompt_tokens"], 1_901);
}

#[tokio::test]
async fn answers_reach_the_client_as_they_are() {
    let provider = Provider::start().await;
    let gateway = Gateway::start(&config(&provider, "")).await;
    for size in [0, 10_000, 60_000, 70_000, 3_000_000] {
        provider.state().padding = "x".repeat(size);
        let response = begin(&gateway, KEY).await;
        let id = response.json()["id"].as_str().expect("an id").to_owned();
        assert_eq!(response.json(), provider.state().batches[&id], "{size}");
        assert_eq!(retrieve(&gateway, &id, KEY).await.json(), response.json(), "{size}");
    }
}
