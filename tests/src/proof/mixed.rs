//! The ledger against the provider's own sum.
//!
//! Clients make calls of all kinds through a gateway: whole and streamed, with tools, in three
//! dialects, embeddings, answers out of the cache; calls that are retried at another deployment, that
//! fall back to another model, that are refused; streams that break off and clients that leave. The
//! simulated provider adds up what it bills, by key and by model.
//!
//! Where the provider says what a call took, the ledger must say the same, to the pico-dollar. Of
//! calls that are cut it does not say it: those are made with keys of their own, whose output must be
//! counted to the token, and whose input is the gateway's own count.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::task::JoinSet;
use tollway_simulator::{Received, Reply, Simulator, Totals};

use super::{Spent, ledger, pico};
use crate::gateway::{Gateway, PATIENCE};
use crate::setup::config;
use crate::{Connection, Response};

/// Pico-dollars for a token of the prompt, of the prompt out of the cache, and of the answer, by the
/// name that the provider is asked by.
const PRICES: [(&str, [u64; 3]); 5] = [
    ("gpt-4o-mini", [150_000, 75_000, 600_000]),
    ("gpt-4o", [2_500_000, 1_250_000, 10_000_000]),
    ("claude-3-5-sonnet-20241022", [3_000_000, 300_000, 15_000_000]),
    ("text-embedding-3-small", [20_000, 20_000, 0]),
    ("of-our-own", [1_234_567, 76_543, 7_654_321]),
];

/// Keys whose calls come to their end.
const KEYS: [&str; 4] = ["alpha", "beta", "gamma", "delta"];
/// Keys whose calls are cut.
const CUT_KEYS: [&str; 2] = ["cut-one", "cut-two"];
/// A credential at which the provider fails.
const BAD: &str = "sk-upstream-bad-123456";

const CONFIG: &str = "
model_list:
  - model_name: mini
    litellm_params: { model: openai/gpt-4o-mini, api_key: $KEY, api_base: $SIM/v1 }
  - model_name: large
    litellm_params: { model: openai/gpt-4o, api_key: $KEY, api_base: $SIM/v1 }
  - model_name: sonnet
    litellm_params: { model: anthropic/claude-3-5-sonnet-20241022, api_key: $KEY, api_base: $SIM }
  - model_name: vectors
    litellm_params: { model: openai/text-embedding-3-small, api_key: $KEY, api_base: $SIM/v1 }
  - model_name: shaky
    litellm_params: { model: openai/of-our-own, api_key: $BAD, api_base: $SIM/v1, input_cost_per_token: 0.000001234567, cache_read_input_token_cost: 0.000000076543, output_cost_per_token: 0.000007654321 }
  - model_name: shaky
    litellm_params: { model: openai/of-our-own, api_key: $KEY, api_base: $SIM/v1, input_cost_per_token: 0.000001234567, cache_read_input_token_cost: 0.000000076543, output_cost_per_token: 0.000007654321 }
  - model_name: down
    litellm_params: { model: openai/gpt-4o, api_key: $BAD, api_base: $SIM/v1 }
router_settings:
  disable_cooldowns: true
  num_retries: 3
  fallbacks: [{ down: [mini] }]
litellm_settings:
  cache: true
  cache_params: { type: local }
teams:
  - { id: red, max_budget: $BUDGET }
";

/// What came of it.
#[derive(Debug)]
pub struct Report {
    /// Calls that were made.
    pub calls: u64,
    /// Of those, how many came to their end and were billed by the provider.
    pub billed: u64,
    /// How many were cut.
    pub cut: u64,
    /// How many were refused for want of money.
    pub refused: u64,
    /// What was billed for those that came to their end, in pico-dollars.
    pub cost: u64,
    /// What the ledger and the provider say of those that were cut.
    pub cut_cost: [u64; 2],
    /// What does not agree; empty if all is well.
    pub wrong: Vec<String>,
    /// How long the calls took.
    pub took: Duration,
}

type Bill = Arc<Mutex<BTreeMap<String, Spent>>>;

fn price(model: &str, totals: Totals) -> u64 {
    let (_, [input, cached, output]) = PRICES
        .into_iter()
        .find(|(name, _)| *name == model)
        .unwrap_or_else(|| panic!("{model} has no price"));
    (totals.prompt_tokens - totals.cached_tokens) * input
        + totals.cached_tokens * cached
        + totals.completion_tokens * output
}

/// The key that a request was made with, which stands in its text: `by=alpha.`
fn said_key(received: &Received) -> String {
    let body = String::from_utf8_lossy(&received.body);
    let (_, rest) = body.rsplit_once("by=").unwrap_or_else(|| panic!("no key in {body}"));
    rest.split('.').next().unwrap_or_default().to_owned()
}

fn add(bill: &Bill, received: &Received, totals: Totals) {
    let model = received.model().unwrap_or_default();
    let spent = Spent {
        calls: totals.requests,
        prompt: totals.prompt_tokens,
        completion: totals.completion_tokens,
        cost: price(&model, totals),
    };
    let key = said_key(received);
    let is_cut = CUT_KEYS.contains(&key.as_str());
    let mut bill = bill.lock().unwrap_or_else(PoisonError::into_inner);
    *bill.entry(key).or_default() += spent;
    if !is_cut {
        *bill.entry(format!("model {model}")).or_default() += spent;
    }
}

/// The provider, which fails at once where its bad credential is shown.
async fn provider(bill: &Bill) -> Simulator {
    let bill = Arc::clone(bill);
    let options = tollway_simulator::Options {
        journal: 0,
        on_bill: Some(Arc::new(move |received, totals| add(&bill, received, totals))),
        ..tollway_simulator::Options::default()
    };
    let options = options.with_script(|received| {
        let is_bad = received.header("authorization").is_some_and(|value| value.contains(BAD));
        let faults =
            ["status=500", "close_before_head", "reset_before_head", "cut_head", "status=429"];
        let fault = faults[received.id as usize % faults.len()];
        is_bad.then(|| fault.parse::<Reply>().expect("a directive"))
    });
    Simulator::start(options).await.expect("a port is free")
}

/// A client's connection, opened anew where it was closed.
struct Client {
    address: SocketAddr,
    bearer: String,
    connection: Option<Connection>,
}

impl Client {
    async fn send(&mut self, path: &str, body: &Value) -> &mut Connection {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => Connection::open(self.address).await,
        };
        let headers = [("authorization", self.bearer.as_str())];
        connection.request("POST", path, &headers, body.to_string().as_bytes()).await;
        self.connection.insert(connection)
    }

    async fn ask(&mut self, path: &str, body: &Value) -> Response {
        let connection = self.send(path, body).await;
        let response = connection.response().await;
        if response.header("connection") == Some("close") {
            self.connection = None;
        }
        response
    }
}

/// A call that comes to its end.
async fn whole(client: &mut Client, key: &str, number: u64) -> Response {
    let tokens = 1 + number * 7 % 60;
    let said = |directives: &str| format!("[[sim {directives}]] Call {number} by={key}.");
    let plain = said(&format!("tokens={tokens}"));
    let cached = said(&format!("tokens={tokens} prompt_tokens=900 cached=700"));
    let chat = |model: &str, text: &str| json!({"model": model, "max_tokens": 100, "messages": [{"role": "user", "content": text}]});
    let stream = |model: &str, text: &str| {
        let mut body = chat(model, text);
        body["stream"] = true.into();
        body
    };
    let (path, body) = match number % 16 {
        0 => ("/v1/chat/completions", chat("mini", &plain)),
        1 => ("/v1/chat/completions", chat("large", &cached)),
        2 => ("/v1/chat/completions", stream("mini", &plain)),
        3 => ("/v1/chat/completions", stream("large", &cached)),
        4 => ("/v1/chat/completions", chat("sonnet", &cached)),
        5 => ("/v1/chat/completions", stream("sonnet", &plain)),
        6 => {
            let mut body = stream("mini", &said("tool=look args={\"at\":\"it\"} tool=go"));
            let tool = |name: &str| {
                json!({"type": "function",
                    "function": {"name": name, "parameters": {"type": "object", "properties": {}}}})
            };
            body["tools"] = json!([tool("look"), tool("go")]);
            ("/v1/chat/completions", body)
        }
        7 => (
            "/v1/embeddings",
            json!({"model": "vectors", "input": format!("Call {number} by={key}.")}),
        ),
        8 => ("/v1/messages", chat("mini", &plain)),
        9 => ("/v1/messages", stream("sonnet", &cached)),
        10 => ("/v1/responses", json!({"model": "large", "input": plain, "store": false})),
        // The same each time: out of the cache but for the first.
        11 => ("/v1/chat/completions", chat("mini", &format!("[[sim tokens=9]] Again by={key}."))),
        12 => ("/v1/chat/completions", chat("shaky", &cached)),
        13 => ("/v1/chat/completions", stream("shaky", &plain)),
        14 => ("/v1/chat/completions", chat("down", &plain)),
        // Refused by the provider, whom it cost nothing.
        _ => ("/v1/chat/completions", chat("mini", &said("status=400"))),
    };
    client.ask(path, &body).await
}

/// A stream that breaks off, or that its client leaves.
async fn cut(client: &mut Client, key: &str, number: u64) {
    let tokens = 1 + number % 7;
    let fault = match number % 2 {
        0 => format!("tokens=30 cut_after={tokens}"),
        _ => format!("tokens=30 stall_after={tokens}"),
    };
    let model = if number % 4 < 2 { "mini" } else { "sonnet" };
    let text = format!("[[sim {fault}]] Call {number} by={key}.");
    let body = json!({"model": model, "stream": true, "max_tokens": 100,
        "messages": [{"role": "user", "content": text}]});
    let connection = client.send("/v1/chat/completions", &body).await;
    let (status, _) = connection.head().await;
    assert_eq!(status, 200, "its first token came");
    let mut seen = 0;
    while let Some(event) = connection.next_event().await {
        let event: Value = serde_json::from_str(&event).unwrap_or_default();
        if event.get("error").is_some() {
            break;
        }
        let text = event["choices"][0]["delta"]["content"].as_str().unwrap_or_default();
        seen += u64::from(!text.is_empty());
        if number % 2 == 1 && seen == tokens {
            break;
        }
    }
    assert_eq!(seen, tokens, "every token that was sent has come");
    if let Some(connection) = client.connection.take() {
        connection.reset();
    }
}

async fn play(address: SocketAddr, client: u64, calls: u64) -> u64 {
    let key = |name: &str| format!("Bearer sk-proof-{name}-0123456789");
    let connect = |name: &str| Client { address, bearer: key(name), connection: None };
    let own = KEYS[client as usize % KEYS.len()];
    let own_cut = CUT_KEYS[client as usize % CUT_KEYS.len()];
    let (mut paying, mut leaving) = (connect(own), connect(own_cut));
    let mut refused = 0;
    for at in 0..calls {
        let number = client * 1_000_003 + at;
        // One call in eleven is cut.
        if at % 11 == 10 {
            cut(&mut leaving, own_cut, number).await;
            continue;
        }
        let response = whole(&mut paying, own, number).await;
        refused += u64::from(response.text().contains("budget_exceeded"));
        let expect = if number % 16 == 15 { 400 } else { 200 };
        let text = || response.text().chars().take(300).collect::<String>();
        assert_eq!(response.status, expect, "kind {}: {}", number % 16, text());
    }
    refused
}

/// Makes so many calls with so many clients at once, and compares.
///
/// # Panics
/// When a call is not answered as it should be.
pub async fn prove(clients: u64, calls: u64) -> Report {
    let bill = Bill::default();
    let simulator = provider(&bill).await;
    let each = calls / clients;
    // Enough, but not by much: a fifth of a cent for a call, where the dearest costs a tenth of that,
    // and what all clients together can have reserved.
    let budget = format!("{:.3}", calls as f64 * 0.002 + clients as f64 * 0.01);
    let mut text = CONFIG.replace("$BAD", BAD).replace("$BUDGET", &budget) + "keys:\n";
    for (at, name) in KEYS.iter().chain(&CUT_KEYS).enumerate() {
        let team = if at % 2 == 0 { ", team: red" } else { "" };
        text.push_str(&format!(
            "  - {{ alias: {name}, key: sk-proof-{name}-0123456789, tags: [tag-{}], \
             max_budget: {budget}{team} }}\n",
            at % 3
        ));
    }
    let gateway = Gateway::start(&config(&text, &simulator)).await;
    let begun = Instant::now();
    let mut playing = JoinSet::new();
    for client in 0..clients {
        playing.spawn(play(gateway.address, client, each));
    }
    let refused = playing.join_all().await.into_iter().sum();
    let took = begun.elapsed();
    gateway.idle().await;
    let bill = settled(&simulator, &bill).await;
    let mut report = compare(gateway, &bill).await;
    (report.refused, report.took, report.calls) = (refused, took, clients * each);
    report.cut = clients * (0..each).filter(|at| at % 11 == 10).count() as u64;
    report
}

/// The bill, once every call is on it.
async fn settled(simulator: &Simulator, bill: &Bill) -> BTreeMap<String, Spent> {
    let look = async {
        loop {
            let now = bill.lock().unwrap_or_else(PoisonError::into_inner).clone();
            let keys = now.iter().filter(|(name, _)| !name.starts_with("model "));
            let calls: u64 = keys.map(|(_, spent)| spent.calls).sum();
            if calls == simulator.billed().requests {
                return now;
            }
            simulator.wait_connections(|_| true).await;
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, look).await.expect("the provider ends every call")
}

async fn compare(mut gateway: Gateway, bill: &BTreeMap<String, Spent>) -> Report {
    let mut counted = Vec::new();
    for key in KEYS {
        counted.push((key, key_spend(&gateway, key).await));
    }
    // At its end everything is in the ledger.
    gateway.signal("TERM");
    gateway.ended().await;
    let (by_key, by_model) = (ledger(&gateway, "key").await, ledger(&gateway, "model").await);
    let mut wrong = Vec::new();
    let mut report_cost = 0;
    let mut billed = 0;
    let of =
        |from: &BTreeMap<String, Spent>, name: &str| from.get(name).copied().unwrap_or_default();
    for key in KEYS {
        let (here, there) = (of(&by_key, key), of(bill, key));
        (billed, report_cost) = (billed + there.calls, report_cost + there.cost);
        if (here.calls, here.cost) != (there.calls, there.cost) {
            wrong.push(format!("{key}: the ledger has {here:?}, the provider {there:?}"));
        }
    }
    let mut cut_cost = [0; 2];
    let mut cut_by_model = 0;
    for key in CUT_KEYS {
        let (here, there) = (of(&by_key, key), of(bill, key));
        cut_cost = [cut_cost[0] + here.cost, cut_cost[1] + there.cost];
        cut_by_model += here.cost;
        if here.completion != there.completion {
            wrong.push(format!("{key}: the ledger has {here:?}, the provider {there:?}"));
        }
    }
    // By model the ledger has both kinds of calls.
    let groups = [
        ("mini", "gpt-4o-mini"),
        ("large", "gpt-4o"),
        ("vectors", "text-embedding-3-small"),
        ("shaky", "of-our-own"),
        ("sonnet", "claude-3-5-sonnet-20241022"),
    ];
    let sum: u64 = groups.iter().map(|(group, _)| of(&by_model, group).cost).sum();
    if sum != report_cost + cut_by_model {
        wrong.push(format!("the models cost {sum}, the keys {report_cost} + {cut_by_model}"));
    }
    for (group, model) in groups.into_iter().skip(1).take(3) {
        let (here, there) = (of(&by_model, group), of(bill, &format!("model {model}")));
        if (here.calls, here.cost) != (there.calls, there.cost) {
            wrong.push(format!("{group}: the ledger has {here:?}, the provider {there:?}"));
        }
    }
    for (key, spend) in counted {
        let expect = of(&by_key, key).cost;
        if spend != expect {
            wrong.push(format!("{key}: its budget counts {spend}, the ledger {expect}"));
        }
    }
    let none = Duration::ZERO;
    Report { calls: 0, billed, cut: 0, refused: 0, cost: report_cost, cut_cost, wrong, took: none }
}

/// What a key's budget counts as spent, which an answer out of the cache tells and does not change.
async fn key_spend(gateway: &Gateway, key: &str) -> u64 {
    let bearer = format!("Bearer sk-proof-{key}-0123456789");
    let text = format!("[[sim tokens=9]] Again by={key}.");
    let body = json!({"model": "mini", "max_tokens": 100,
        "messages": [{"role": "user", "content": text}]});
    let headers = [("authorization", bearer.as_str())];
    let response = crate::post_with(gateway.address, "/v1/chat/completions", &headers, &body).await;
    pico(response.header("x-litellm-key-spend").expect("a key with a budget has spent something"))
}
