//! `tollway spend`: what the ledger has, as a table, CSV and JSON.

use serde_json::{Value, json};
use tollway_tests::gateway::{Folder, Printed, run};
use tollway_tests::setup::eventually;
use tollway_tests::{Response, Setup, chat};

const KEYS: &str = "
teams:
  - { id: platform, alias: Platform }
keys:
  - { alias: ci, key: sk-spend-00000000001, team: platform, tags: ['=cmd', 'a,b'] }
  - { alias: dev, key: sk-spend-00000000002 }
";

/// Dollars as headers write them, in pico-dollars.
fn pico(text: &str) -> u64 {
    let (dollars, rest) = text.split_once('.').unwrap_or((text, ""));
    let number = |text: &str| text.parse::<u64>().unwrap_or_else(|_| panic!("{text}"));
    number(dollars) * 1_000_000_000_000 + number(&format!("{rest:0<12}"))
}

fn cost(response: &Response) -> u64 {
    assert_eq!(response.status, 200, "{}", response.text());
    pico(response.header("x-litellm-response-cost").expect("answers say what they cost"))
}

async fn spend(setup: &Setup, args: &[&str]) -> Printed {
    let mut all = vec!["spend"];
    all.extend_from_slice(args);
    let printed = run(&setup.gateway.folder, &[], &all).await;
    assert!(printed.success, "{args:?}: {}", printed.stderr);
    printed
}

/// A gateway that has answered a few calls and has ended, and what each key has spent.
async fn spent() -> (Setup, [u64; 2]) {
    let mut setup = Setup::with(KEYS).await;
    let mut costs = [0; 2];
    for (at, key) in
        [(0, "sk-spend-00000000001"), (0, "sk-spend-00000000001"), (1, "sk-spend-00000000002")]
    {
        let mut body = chat("gpt-4o-mini", "[[sim tokens=17]] Hi");
        body["user"] = "somebody\u{1b}[2J".into();
        let response = setup.chat_as(key, &body).await;
        setup.settled(&response).await;
        costs[at] += cost(&response);
    }
    setup.gateway.signal("TERM");
    setup.gateway.ended().await;
    (setup, costs)
}

#[tokio::test]
async fn spend_is_told_by_whom_and_to_the_last_digit() {
    let (setup, [ci, dev]) = spent().await;

    let by_key = spend(&setup, &["--by", "key", "--since", "1h", "--format", "json"]).await;
    let told: Value = serde_json::from_str(&by_key.stdout).expect("it is JSON");
    let rows = told["rows"].as_array().expect("a list");
    let names: Vec<&Value> = rows.iter().map(|row| &row["name"]).collect();
    assert_eq!(names, ["ci", "dev"], "the dearest first, by their names: {told}");
    for (row, (calls, expect)) in rows.iter().zip([(2, ci), (1, dev)]) {
        assert_eq!(pico(row["cost_usd"].as_str().expect("a text")), expect);
        assert_eq!(row["calls"], calls);
        assert_eq!(row["completion_tokens"], calls * 17);
        assert_eq!(row["id"].as_str().expect("a hash").len(), 64);
    }
    assert_eq!(pico(told["total"]["cost_usd"].as_str().expect("a text")), ci + dev);
    assert_eq!(told["total"]["calls"], 3);

    let by_tag = spend(&setup, &["--by", "tag", "--format", "csv"]).await;
    let lines: Vec<&str> = by_tag.stdout.lines().collect();
    let head = "tag,name,calls,failed,cache_hits,prompt_tokens,completion_tokens,cost_usd";
    assert_eq!(lines[0], head);
    let mut tags: Vec<&str> =
        lines[1..].iter().filter_map(|line| line.split(",,2,").next()).collect();
    tags.sort_unstable();
    assert!(tags.contains(&"'=cmd"), "no spreadsheet takes it for a formula: {tags:?}");
    assert!(tags.contains(&"\"a,b\""), "{tags:?}");
    for line in &lines[1..] {
        let expect = if line.contains(",,2,") { ci } else { dev };
        assert_eq!(pico(line.rsplit(',').next().expect("the cost is last")), expect, "{line}");
    }

    let by_team = spend(&setup, &[]).await;
    let lines: Vec<&str> = by_team.stdout.lines().collect();
    assert!(lines[0].starts_with("team ") && lines[0].ends_with("cost $"), "{}", lines[0]);
    assert!(lines[1].starts_with("platform "), "{}", by_team.stdout);
    assert!(lines[2].starts_with("(none) "), "{}", by_team.stdout);
    assert!(lines[3].starts_with("total "), "{}", by_team.stdout);
    let shown = lines[3].rsplit(' ').next().expect("the cost is last");
    let expect = (ci + dev + 500_000) / 1_000_000 * 1_000_000;
    assert_eq!(pico(shown), expect, "rounded to six digits");

    let by_day = spend(&setup, &["--by", "end_user", "--per", "day"]).await;
    let line = by_day.stdout.lines().nth(1).expect("a day");
    assert!(line.contains("somebody\u{fffd}[2J"), "it may not command the terminal: {line:?}");
    assert_eq!(line.split_whitespace().nth(2), Some("3"), "{line}");
    for by in ["user", "model", "provider"] {
        let printed = spend(&setup, &["--by", by, "--per", "hour", "--format", "json"]).await;
        let told: Value = serde_json::from_str(&printed.stdout).expect("it is JSON");
        let pieces = told["rows"].as_array().expect("a list").iter();
        let sum: u64 = pieces.map(|row| pico(row["cost_usd"].as_str().expect("a text"))).sum();
        assert_eq!(sum, ci + dev, "{by}");
    }
}

#[tokio::test]
async fn nothing_spent_is_said_and_so_is_a_folder_without_a_ledger() {
    let setup = Setup::start().await;
    // Beside a gateway that is running.
    let none = spend(&setup, &["--since", "2026-01-01", "-c", "config.yaml"]).await;
    assert!(
        none.stdout.starts_with("Nothing was spent from 2026-01-01T00:00:00"),
        "{}",
        none.stdout
    );
    let none = spend(&setup, &["--format", "json"]).await;
    let told: Value = serde_json::from_str(&none.stdout).expect("it is JSON");
    assert_eq!((&told["rows"], &told["total"]["cost_usd"]), (&json!([]), &json!("0")));

    let folder = Folder::fresh();
    for (args, expect) in [
        (&["spend"][..], "tollway-data/tollway.db: there is no such file"),
        (&["spend", "--since", "yesterday"], "--since must be a length of time"),
        (&["spend", "--since", "1h", "--until", "2h"], "--until is not after --since"),
    ] {
        let printed = run(&folder.0, &[], args).await;
        assert!(!printed.success && printed.stderr.contains(expect), "{}", printed.stderr);
    }
    assert!(!folder.0.join("tollway-data").exists(), "asking makes nothing");
}

#[tokio::test]
async fn single_calls_are_forgotten_in_time_and_their_sums_are_not() {
    let setup = Setup::with(
        "general_settings:\n  master_key: $MASTER\n  maximum_spend_logs_retention_period: 1ms\n  \
         maximum_spend_logs_retention_interval: 20ms\n  proxy_batch_write_at: 10ms\n\
         journal: { fsync: always, on_restart: charge_progress, segment_bytes: 64KiB }\n",
    )
    .await;
    let told = cost(&setup.chat(&chat("gpt-4o-mini", "Hi")).await);
    let get = async |path: &str| setup.get(path).await.json();
    let report = "/global/spend/report?start_date=2020-01-01&end_date=2100-01-01&group_by=api_key";
    let mut sum = 0.0;
    eventually("the call is in the ledger", async || {
        sum = get(report).await[0]["total_cost"].as_f64().unwrap_or_default();
        sum > 0.0
    })
    .await;
    assert_eq!((sum * 1e12).round() as u64, told);
    eventually("the call is forgotten", async || get("/spend/logs").await == json!([])).await;
    assert_eq!(get(report).await[0]["total_cost"], sum);
}
