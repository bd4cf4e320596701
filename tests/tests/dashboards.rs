//! What operators look at: every query of the dashboards and of the alert rules finds what the
//! gateway tells a real Prometheus, and the rules fire when they should.

use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;
use tollway_tests::gateway::{Folder, PATIENCE, repository};
use tollway_tests::servers::{Prometheus, Refusing};
use tollway_tests::setup::within;
use tollway_tests::{Setup, chat, get, post_with, stream};

const KEYS: [&str; 3] = ["sk-boards-0000000001", "sk-boards-0000000002", "sk-boards-0000000003"];

/// Panels that show nothing where nothing goes wrong: their queries need only be right.
const MAY_BE_EMPTY: &[&str] =
    &["Requests that providers say are left", "Alerts that could not be delivered"];

fn folder() -> PathBuf {
    repository().join("conf/prometheus")
}

fn promtool(args: &[&str]) {
    let output = Command::new("promtool").args(args).current_dir(folder()).output();
    let output = output.expect("promtool is missing: install the Debian package `prometheus`");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{}{}", text(&output.stdout), text(&output.stderr));
}

#[test]
fn alert_rules_fire_when_they_should() {
    promtool(&["check", "config", "prometheus.yml"]);
    promtool(&["check", "rules", "alerts.yml"]);
    promtool(&["test", "rules", "alerts.test.yml"]);
}

/// The panels of all dashboards: title and queries.
fn panels() -> Vec<(String, Vec<String>)> {
    let mut panels = Vec::new();
    for name in ["tollway-cost.json", "tollway-operations.json"] {
        let file = repository().join("conf/grafana").join(name);
        let text = std::fs::read_to_string(file).expect("the dashboard is there");
        let board: Value = serde_json::from_str(&text).expect("it is JSON");
        for panel in board["panels"].as_array().expect("panels") {
            let targets = panel["targets"].as_array().map(Vec::as_slice).unwrap_or_default();
            let query = |target: &Value| {
                let query = target["expr"].as_str().expect("a query");
                let query = query.replace("$__rate_interval", "1m").replace("$__range", "5m");
                let query = query.replace("$team", ".*").replace("$model", ".*");
                assert!(!query.contains('$'), "a variable is left: {query}");
                query
            };
            let title = panel["title"].as_str().expect("a title").to_owned();
            let queries: Vec<String> = targets.iter().map(query).collect();
            assert_eq!(queries.is_empty(), panel["type"] == "row", "{title}");
            panels.push((title, queries));
        }
    }
    assert!(panels.len() > 30, "{}", panels.len());
    panels
}

/// Asks Prometheus; its answer is whole and no error.
async fn ask(prometheus: &Prometheus, path: &str) -> Value {
    let response = get(prometheus.address, path, &[]).await;
    let answer = response.json();
    assert_eq!((response.status, &answer["status"]), (200, &"success".into()), "{path}: {answer}");
    assert_eq!(answer["warnings"], Value::Null, "{path}");
    answer["data"].clone()
}

/// The number of samples that a query finds.
async fn query(prometheus: &Prometheus, query: &str) -> usize {
    let encode = |byte: u8| match byte.is_ascii_alphanumeric() {
        true => char::from(byte).to_string(),
        false => format!("%{byte:02X}"),
    };
    let query: String = query.bytes().map(encode).collect();
    let data = ask(prometheus, &format!("/api/v1/query?query={query}")).await;
    data["result"].as_array().expect("a vector").len()
}

/// Waits until a query finds something: the next scrapes bring it.
async fn finds(prometheus: &Prometheus, what: &str, text: &str) {
    let look = async { while query(prometheus, text).await == 0 {} };
    within(PATIENCE, &format!("{what}: {text}"), look).await;
}

async fn traffic(setup: &Setup, round: usize) {
    for (key, model) in KEYS.iter().zip(["gpt-4o-mini", "claude", "fast"]) {
        for said in ["Hi", "[[sim tokens=300]]", "[[sim tokens=20]]"] {
            let mut body = chat(model, &format!("{said} {round}"));
            body["user"] = "jane".into();
            let response = setup.chat_as(key, &body).await;
            assert!([200, 422].contains(&response.status), "{}", response.text());
            // Out of the cache.
            setup.chat_as(key, &body).await;
            let response =
                setup.chat_as(key, &stream(model, &format!("{said} {round}, slowly"))).await;
            assert!([200, 422].contains(&response.status), "{}", response.text());
        }
        setup.chat_as(key, &chat("fails", "Hi")).await;
        setup.chat_as(key, &chat("falls", &format!("Hi {round}"))).await;
        setup.chat_as(key, &chat("nothing", "Hi")).await;
    }
    let wrong = [("authorization", "Bearer sk-wrong")];
    post_with(setup.gateway.address, "/v1/chat/completions", &wrong, &chat("fast", "Hi")).await;
}

#[tokio::test]
async fn every_query_finds_what_the_gateway_tells() {
    let nobody = Refusing::start();
    let setup = Setup::with(&format!(
        "
model_list:
  - model_name: gpt-4o-mini
    litellm_params: {{ model: openai/gpt-4o-mini, api_key: $KEY, api_base: $SIM/v1, rpm: 100000 }}
  - model_name: fast
    litellm_params: {{ model: openai/gpt-4o-mini, api_key: $KEY, api_base: $SIM/v1 }}
  - model_name: claude
    litellm_params: {{ model: anthropic/claude-3-5-sonnet-20241022, api_key: $KEY, api_base: $SIM }}
  - model_name: fails
    litellm_params: {{ model: openai/gpt-4o, api_key: $KEY, api_base: 'http://{nobody}/v1' }}
  - model_name: falls
    litellm_params: {{ model: openai/gpt-4.1, api_key: $KEY, api_base: 'http://{nobody}/v1' }}
  - model_name: 'openai/*'
    litellm_params: {{ model: 'openai/*', api_key: $KEY, api_base: $SIM/v1 }}
router_settings: {{ num_retries: 1, fallbacks: [{{ falls: [fast] }}] }}
litellm_settings:
  cache: true
  max_budget: 100
  budget_duration: 30d
  max_end_user_budget: 1
teams:
  - {{ id: platform, alias: Platform, max_budget: 10, budget_duration: 1mo }}
  - {{ id: research, max_budget: 1 }}
users:
  - {{ id: ann, email: ann@example.com, max_budget: 5, budget_duration: 1d }}
keys:
  - {{ alias: ci, key: {}, team: platform, user: ann, max_budget: 0.0005, budget_duration: 1d }}
  - {{ alias: dev, key: {}, team: research, max_budget: 1, tags: [nightly] }}
  - {{ alias: free, key: {} }}
",
        KEYS[0],
        KEYS[1],
        KEYS[2],
        nobody = nobody.address,
    ))
    .await;
    let place = Folder::fresh();
    let read = |name: &str| std::fs::read_to_string(folder().join(name)).expect("it is there");
    place.write("alerts.yml", &read("alerts.yml"));
    let text = read("prometheus.yml");
    assert!(text.contains("127.0.0.1:4000") && text.contains(": 15s"), "{text}");
    let text = text.replace("127.0.0.1:4000", &setup.gateway.address.to_string());
    let prometheus =
        Prometheus::start(&place.write("prometheus.yml", &text.replace("15s", "1s"))).await;

    // What is counted first is seen as a growth only by the second scrape that has it.
    traffic(&setup, 0).await;
    let unpriced = chat("openai/unheard-of", "Hi");
    setup.chat_as(KEYS[2], &unpriced).await;
    finds(&prometheus, "the first scrape", "litellm_spend_metric_total{api_key_alias=\"free\"}")
        .await;
    traffic(&setup, 1).await;
    for (title, queries) in panels() {
        for text in queries {
            match MAY_BE_EMPTY.contains(&title.as_str()) {
                true => drop(query(&prometheus, &text).await),
                false => finds(&prometheus, &title, &text).await,
            }
        }
    }

    let rules = ask(&prometheus, "/api/v1/rules").await;
    let groups = rules["groups"].as_array().expect("groups");
    let rules = groups.iter().flat_map(|group| group["rules"].as_array().expect("rules"));
    let mut names = Vec::new();
    for rule in rules {
        let text = rule["query"].as_str().expect("a query");
        let name = rule["name"].as_str().expect("a name");
        match name {
            "tollway:spend_dollars:increase1h"
            | "TollwayBudgetAt95Percent"
            | "TollwayDeploymentDown"
            | "TollwayErrorRate" => finds(&prometheus, name, text).await,
            "TollwayDown" | "TollwayAlertsLost" => assert_eq!(query(&prometheus, text).await, 0),
            _ => drop(query(&prometheus, text).await),
        }
        assert_eq!(rule["lastError"], Value::Null, "{name}");
        names.push(name);
    }
    assert_eq!(names.len(), 9, "{names:?}");
    // The names of people and teams that the config has. How many models her budget lasts for depends
    // on how soon each call is settled.
    let hers = r#"litellm_spend_metric_total{user_email="ann@example.com"}"#;
    let named = r#"litellm_spend_metric_total{team_alias="Platform",user_email="ann@example.com"}"#;
    assert!(query(&prometheus, hers).await > 0);
    assert_eq!(query(&prometheus, &format!("{hers} unless {named}")).await, 0);
}
