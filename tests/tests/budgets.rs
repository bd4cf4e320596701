//! Budgets: nobody spends more than they may, to the last pico-dollar, and what was spent is known
//! after a restart as well.

use serde_json::{Value, json};
use tokio::task::JoinSet;
use tollway_simulator::{Reply, Totals};
use tollway_tests::gateway::{Gateway, Options, PATIENCE};
use tollway_tests::setup::{config, simulator, within};
use tollway_tests::{Response, Setup, chat, get, post_with, stream};

/// Pico-dollars a token of `gpt-4o-mini`.
const INPUT: u64 = 150_000;
const OUTPUT: u64 = 600_000;

const KEY: &str = "sk-budget-0123456789";

fn with_key(settings: &str) -> String {
    format!("\nkeys:\n  - {{ alias: ci, key: {KEY}, {settings} }}\n")
}

/// Dollars as headers write them, in pico-dollars.
fn pico(text: &str) -> u64 {
    let (dollars, rest) = text.split_once('.').unwrap_or((text, ""));
    let rest = format!("{rest:0<12}");
    assert_eq!(rest.len(), 12, "{text}");
    let number = |text: &str| text.parse::<u64>().unwrap_or_else(|_| panic!("{text}"));
    number(dollars) * 1_000_000_000_000 + number(&rest)
}

fn billed(totals: Totals) -> u64 {
    totals.prompt_tokens * INPUT + totals.completion_tokens * OUTPUT
}

fn spend(response: &Response) -> u64 {
    pico(response.header("x-litellm-key-spend").expect("a key with a budget has spent something"))
}

fn with_max(mut body: Value, tokens: u64) -> Value {
    body["max_tokens"] = tokens.into();
    body
}

async fn ask(setup: &Setup, body: &Value) -> Response {
    let response = setup.chat_as(KEY, body).await;
    setup.settled(&response).await;
    response
}

#[track_caller]
fn check_refused(response: &Response) {
    assert_eq!(response.status, 422, "{}", response.text());
    assert_eq!(response.error("type"), "budget_exceeded");
    assert_eq!(response.error("code"), "budget_exceeded");
    assert_eq!(response.header("x-litellm-response-cost"), Some("0"));
    assert!(!response.text().contains(KEY), "{}", response.text());
}

#[tokio::test]
async fn many_clients_at_once_never_spend_more_than_there_is() {
    const BUDGET: u64 = 20_000_000_000;
    let setup = Setup::with(&with_key("max_budget: 0.02, budget_duration: 30d")).await;
    let address = setup.gateway.address;
    let mut clients = JoinSet::new();
    for client in 0..64_u64 {
        clients.spawn(async move {
            let bearer = format!("Bearer {KEY}");
            let headers = [("authorization", bearer.as_str())];
            let mut answered = 0;
            for round in 0.. {
                let tokens = 20 + (client * 7 + round * 13) % 300;
                let said = format!("[[sim tokens={tokens}]] client {client}");
                let body = match (client + round) % 2 {
                    0 => with_max(stream("gpt-4o-mini", &said), 400),
                    _ => with_max(chat("gpt-4o-mini", &said), 400),
                };
                let response = post_with(address, "/v1/chat/completions", &headers, &body).await;
                if response.status != 200 {
                    check_refused(&response);
                    break;
                }
                answered += 1;
            }
            answered
        });
    }
    let answered: u64 = clients.join_all().await.into_iter().sum();
    assert!(answered > 64, "{answered}");
    setup.gateway.idle().await;
    // What was reserved for calls under way is free again: one client uses it up.
    let body = with_max(chat("gpt-4o-mini", "[[sim tokens=400]]"), 400);
    let use_up = async {
        loop {
            let response = ask(&setup, &body).await;
            if response.status != 200 {
                return response;
            }
        }
    };
    let last = within(PATIENCE, "it is used up", use_up).await;
    check_refused(&last);
    let spent = spend(&last);
    assert_eq!(spent, billed(setup.simulator.billed()), "what was spent is what was billed");
    assert!(spent <= BUDGET, "overspent by {}", spent - BUDGET);
    let worst = 100 * INPUT + 400 * OUTPUT;
    assert!(BUDGET - spent <= worst, "unused: {}", BUDGET - spent);
    let message = last.error("message").as_str().expect("a text").to_owned();
    let start = "Budget has been exceeded! Key=ci (sk-...6789) Current cost: 0.0";
    assert!(message.starts_with(start), "{message}");
    assert!(message.contains(", Max budget: 0.02"), "{message}");
    assert_eq!(last.header("x-litellm-key-max-budget"), Some("0.02"));
    assert_eq!(last.header("x-tollway-budget-scope"), Some("key"));
    assert!(last.header("retry-after").is_some(), "it is full again next month");
}

#[tokio::test]
async fn answer_is_made_as_short_as_what_is_left() {
    // Room for the question and about a hundred tokens.
    let setup = Setup::with(&with_key("max_budget: 0.00007")).await;
    let said = "[[sim tokens=1000]]";
    let response = ask(&setup, &with_max(chat("gpt-4o-mini", said), 1_000)).await;
    assert_eq!(response.status, 200, "{}", response.text());
    let told = response.header("x-tollway-max-tokens-clamped").expect("it was clamped");
    let tokens: u64 = told.parse().expect("a number");
    assert!((80..=116).contains(&tokens), "{tokens}");
    let asked = setup.asked().pop().expect("it was asked");
    let body: Value = serde_json::from_slice(&asked.body).expect("it is JSON");
    assert_eq!(body["max_tokens"], tokens);
    assert_eq!(response.json()["choices"][0]["finish_reason"], "length");
    assert_eq!(spend(&response), billed(setup.simulator.billed()));
    let left = pico(response.header("x-tollway-budget-remaining").expect("something is left"));
    assert_eq!(left, 70_000_000 - spend(&response));
}

#[tokio::test]
async fn policy_can_refuse_and_choose_its_status() {
    let filters = "
filters:
  - request_log
  - usage
  - auth
  - model_alias
  - { filter: budget, on_budget: refuse, status: 429 }
";
    let setup = Setup::with(&(with_key("max_budget: 0.00007") + filters)).await;
    let response = ask(&setup, &with_max(chat("gpt-4o-mini", "Hi"), 1_000)).await;
    assert_eq!((response.status, response.error("type")), (429, json!("budget_exceeded")));
    assert!(setup.asked().is_empty(), "no provider was asked");
}

#[tokio::test]
async fn endless_stream_ends_where_the_money_does_and_says_so() {
    let models = "
model_list:
  - model_name: endless
    litellm_params:
      model: openai/of-my-own
      api_key: $KEY
      api_base: $SIM/v1
      input_cost_per_token: 0.00000015
      output_cost_per_token: 0.0000006
filters:
  - request_log
  - usage
  - auth
  - model_alias
  - { filter: budget, output_tokens_default: 50 }
";
    let setup = Setup::with(&(with_key("max_budget: 0.0003") + models)).await;
    let response = ask(&setup, &stream("endless", "[[sim tokens=2000]]")).await;
    assert_eq!(response.status, 200);
    assert!(response.header("x-tollway-cost-max").is_some());
    let events = response.events();
    let last: Value = serde_json::from_str(events.last().expect("events")).expect("it is JSON");
    assert_eq!(last["error"]["type"], "budget_exceeded", "{last}");
    assert!(!response.text().contains("[DONE]"));
    assert!((200..500).contains(&events.len()), "{}", events.len());
    let after = ask(&setup, &chat("endless", "[[sim tokens=2000]]")).await;
    let spent = spend(&after);
    assert!((100_000_000..=300_000_000).contains(&spent), "{spent}");
}

#[tokio::test]
async fn team_user_and_tags_have_budgets_that_their_keys_share() {
    let setup = Setup::with(
        "
litellm_settings:
  tag_budget_config: { nightly: { max_budget: 0.00003 } }
keys:
  - { alias: a, key: sk-of-team-a-012345, team: dev, user: anna }
  - { alias: b, key: sk-of-team-b-012345, team: dev }
  - { alias: c, key: sk-of-anna-c-012345, user: anna }
  - { alias: d, key: sk-of-team-d-012345, team: gone }
  - { alias: e, key: sk-of-user-e-012345, user: gone }
  - { alias: f, key: sk-of-team-f-012345, team: few }
  - { alias: g, key: sk-of-none-g-012345, tags: [nightly] }
teams:
  - { id: dev, alias: Developers, max_budget: 0.00004 }
  - { id: gone, blocked: true }
  - { id: few, models: [claude] }
users:
  - { id: anna, max_budget: 0.00005 }
  - { id: gone, blocked: true }
",
    )
    .await;
    let body = with_max(chat("gpt-4o-mini", "[[sim tokens=40]]"), 40);
    let ask = async |key: &str, body: &Value| {
        let response = setup.chat_as(key, body).await;
        setup.settled(&response).await;
        response
    };
    assert_eq!(ask("sk-of-team-a-012345", &body).await.status, 200);
    let refused = ask("sk-of-team-b-012345", &with_max(body.clone(), 40)).await;
    // Another fifteen tokens may fit; the answer after that does not.
    let refused = match refused.status {
        200 => ask("sk-of-team-b-012345", &body).await,
        _ => refused,
    };
    check_refused(&refused);
    let message = refused.error("message").as_str().expect("a text").to_owned();
    assert!(message.contains("Team=Developers Current cost: 0.0000"), "{message}");
    // The user's other key has what the team's calls left of hers.
    let hers = ask("sk-of-anna-c-012345", &body).await;
    assert_eq!(hers.status, 200);
    let refused = ask("sk-of-anna-c-012345", &body).await;
    check_refused(&refused);
    assert!(refused.text().contains("User=anna Current cost:"), "{}", refused.text());

    for (key, word) in [("sk-of-team-d-012345", "Team=gone"), ("sk-of-user-e-012345", "User=gone")]
    {
        let response = ask(key, &body).await;
        assert_eq!((response.status, response.error("type")), (401, json!("auth_error")));
        assert!(response.text().contains(&format!("{word} is blocked.")), "{}", response.text());
    }
    let denied = ask("sk-of-team-f-012345", &body).await;
    assert_eq!((denied.status, denied.error("type")), (403, json!("team_model_access_denied")));
    let bearer = [("authorization", "Bearer sk-of-team-f-012345")];
    let models = get(setup.gateway.address, "/v1/models", &bearer).await.json();
    let names: Vec<_> = models["data"].as_array().expect("a list").iter().collect();
    assert_eq!((names.len(), &names[0]["id"]), (1, &json!("claude")));

    let tagged = async |headers: &[(&str, &str)]| {
        let response = setup.chat_with(headers, &body).await;
        setup.settled(&response).await;
        response.status
    };
    let of_key = [("authorization", "Bearer sk-of-none-g-012345")];
    assert_eq!(tagged(&of_key).await, 200);
    let master = format!("Bearer {}", tollway_tests::gateway::MASTER_KEY);
    let by_header = [("authorization", master.as_str()), ("x-litellm-tags", "other, nightly")];
    assert_eq!(tagged(&by_header).await, 422, "it is the tag's budget, whoever's key it is");
    assert_eq!(tagged(&by_header[..1]).await, 200);
}

#[tokio::test]
async fn keys_are_for_some_routes_and_addresses() {
    let setup = Setup::with(
        "
keys:
  - { alias: models, key: sk-for-models-01234, allowed_routes: [info_routes] }
  - { alias: chat, key: sk-for-chat-0123456, allowed_routes: [/chat/completions] }
  - { alias: here, key: sk-from-here-012345, allowed_ips: [127.0.0.0/8] }
  - { alias: there, key: sk-from-there-01234, allowed_ips: [192.0.2.0/24] }
",
    )
    .await;
    let body = chat("gpt-4o-mini", "Hi");
    for (key, chat, models) in [
        ("sk-for-models-01234", 403, 200),
        ("sk-for-chat-0123456", 200, 403),
        ("sk-from-here-012345", 200, 200),
        ("sk-from-there-01234", 403, 403),
    ] {
        assert_eq!(setup.chat_as(key, &body).await.status, chat, "{key}");
        let bearer = format!("Bearer {key}");
        let headers = [("authorization", bearer.as_str())];
        assert_eq!(
            get(setup.gateway.address, "/v1/models", &headers).await.status,
            models,
            "{key}"
        );
    }
}

#[tokio::test]
async fn what_was_spent_outlives_the_process() {
    let simulator = simulator().await;
    let text = config(&with_key("max_budget: 0.00007"), &simulator);
    let folder = tollway_tests::gateway::Folder::fresh();
    let options = || Options {
        config: Some(text.clone()),
        folder: Some(folder.0.clone()),
        ..Options::default()
    };
    let bearer = format!("Bearer {KEY}");
    let headers = [("authorization", bearer.as_str())];
    let body = with_max(chat("gpt-4o-mini", "[[sim tokens=90]]"), 90);
    let mut gateway = Gateway::start_with(options()).await;
    let first = post_with(gateway.address, "/v1/chat/completions", &headers, &body).await;
    assert_eq!(first.status, 200);
    let ready = get(gateway.address, "/health/readiness", &[]).await;
    assert_eq!(ready.json()["db"], "connected");
    gateway.signal("TERM");
    assert!(gateway.ended().await.success());
    let gateway = Gateway::start_with(options()).await;
    let refused = post_with(gateway.address, "/v1/chat/completions", &headers, &body).await;
    check_refused(&refused);
    assert_eq!(spend(&refused), spend(&first));
    assert_eq!(spend(&refused), billed(simulator.billed()));
}

#[tokio::test]
async fn stream_says_what_it_costs_when_asked() {
    let setup = Setup::with(&with_key("max_budget: 1")).await;
    let mut body = stream("gpt-4o-mini", "[[sim tokens=20]]");
    body["stream_options"] = json!({"include_usage": true});
    let bearer = format!("Bearer {KEY}");
    let headers = [("authorization", bearer.as_str()), ("x-tollway-stream-cost", "running, final")];
    let response = setup.chat_with(&headers, &body).await;
    assert!(response.text().contains("\n\n: cost 0.0000"), "{}", response.text());
    let events = response.events();
    let mut usage = events.iter().filter_map(|event| serde_json::from_str::<Value>(event).ok());
    let usage = usage.rfind(|event| event["usage"].is_object()).expect("there is usage");
    let cost = usage["usage"]["cost"].as_f64().expect("a cost");
    let bill = billed(setup.simulator.billed());
    assert!((cost - bill as f64 / 1e12).abs() < 1e-13, "{cost} {bill}");
    let most = pico(response.header("x-tollway-cost-max").expect("the most"));
    let estimate = pico(response.header("x-tollway-cost-estimate").expect("an estimate"));
    assert!(most >= bill && most >= estimate && estimate > 0);
    let plain = setup.chat_with(&headers[..1], &body).await;
    assert!(!plain.text().contains(": cost") && !plain.text().contains("\"cost\""));
}

#[tokio::test]
async fn cached_and_failed_calls_cost_nothing() {
    let text = with_key("max_budget: 0.00007") + "litellm_settings: { cache: true }\n";
    let setup = Setup::with(&text).await;
    let body = with_max(chat("gpt-4o-mini", "[[sim tokens=40]]"), 40);
    let first = ask(&setup, &body).await;
    assert_eq!(first.status, 200);
    for _ in 0..5 {
        let again = ask(&setup, &body).await;
        assert_eq!(again.status, 200, "{}", again.text());
        assert_eq!(spend(&again), spend(&first));
    }
    assert_eq!(setup.simulator.billed().requests, 1);
    setup.simulator.enqueue(Reply::error(400));
    let failed = ask(&setup, &with_max(chat("gpt-4o-mini", "no"), 10)).await;
    assert_eq!(failed.status, 400);
    assert_eq!(spend(&failed), spend(&first));
}

#[tokio::test]
async fn request_can_say_what_it_may_cost() {
    let setup = Setup::start().await;
    let master = format!("Bearer {}", tollway_tests::gateway::MASTER_KEY);
    let with_cap = [("authorization", master.as_str()), ("x-tollway-max-cost", "0.00007")];
    let mut body = with_max(chat("gpt-4o-mini", "[[sim tokens=1000]]"), 1_000);
    let response = setup.chat_with(&with_cap, &body).await;
    assert_eq!(response.status, 200);
    assert!(response.header("x-tollway-max-tokens-clamped").is_some());
    assert!(billed(setup.simulator.billed()) <= 70_000_000);
    body["max_cost"] = json!(0.000001);
    let refused = setup.chat_with(&with_cap[..1], &body).await;
    check_refused(&refused);
    assert_eq!(setup.asked().len(), 1);
}

#[tokio::test]
async fn gauges_show_what_is_left_of_budgets() {
    let text = with_key("max_budget: 2")
        + "router_settings: { provider_budget_config: { openai: { budget_limit: 3 } } }\n";
    let setup = Setup::with(&text).await;
    ask(&setup, &chat("gpt-4o-mini", "[[sim tokens=40]]")).await;
    let spent = billed(setup.simulator.billed()) as f64 / 1e12;
    let of_key = ["api_key_alias=\"ci\""];
    let left = setup.gateway.metric("litellm_remaining_api_key_budget_metric", &of_key).await;
    assert!((left - (2.0 - spent)).abs() < 1e-9, "{left}");
    let max = setup.gateway.metric("litellm_api_key_max_budget_metric", &of_key).await;
    assert_eq!(max, 2.0);
    let of_provider = ["api_provider=\"openai\""];
    let left = setup.gateway.metric("litellm_provider_remaining_budget_metric", &of_provider).await;
    assert!((left - (3.0 - spent)).abs() < 1e-9, "{left}");
}
