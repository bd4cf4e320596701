//! Alerts: operators are told of budgets and of hours that cost too much, in LiteLLM's form and in
//! Slack's, whatever their receivers do, and nobody learns where.

use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tollway_tests::gateway::{Gateway, Options, PATIENCE};
use tollway_tests::postgres::Postgres;
use tollway_tests::servers::Call;
use tollway_tests::setup::{config, simulator, within};
use tollway_tests::{Setup, chat};

const KEY: &str = "sk-alerts-00000000001";
const OTHER: &str = "sk-alerts-00000000002";
/// What nobody may learn.
const SECRET: &str = "T00SECRET/B00/XXXX";

/// Takes what is posted, and answers each as it is told to.
struct Receiver {
    url: String,
    posts: mpsc::Receiver<(String, Value)>,
}

impl Receiver {
    async fn start(answer: &'static str) -> Receiver {
        Receiver::with(vec![], answer).await
    }

    /// Answers the first ones differently.
    async fn with(first: Vec<&'static str>, rest: &'static str) -> Receiver {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        let address = listener.local_addr().expect("it is bound");
        let url = format!("http://{address}/services/{SECRET}");
        let (sender, posts) = mpsc::channel(64);
        tokio::spawn(async move {
            let mut first = first.into_iter();
            let mut open = Vec::new();
            loop {
                let Ok((stream, _)) = listener.accept().await else { return };
                let mut call = Call::read(stream).await;
                let body = serde_json::from_slice(&call.body).expect("JSON");
                let answer = first.next().unwrap_or(rest);
                let _ = call.stream.write_all(answer.as_bytes()).await;
                let _ = sender.send((call.head.clone(), body)).await;
                // One that says nothing keeps the line open.
                if answer.is_empty() {
                    open.push(call);
                }
            }
        });
        Receiver { url, posts }
    }

    async fn next(&mut self) -> (String, Value) {
        within(PATIENCE, "an alert", self.posts.recv()).await.expect("the listener lives")
    }
}

const FINE: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

fn with_alerts(alerting: &str) -> String {
    format!(
        "
general_settings:
  master_key: $MASTER
  {alerting}
teams:
  - {{ id: platform, alias: Platform }}
users:
  - {{ id: ann, email: ann@example.com }}
keys:
  - {{ alias: ci, key: {KEY}, team: platform, user: ann, max_budget: 0.001, soft_budget: 0.0007 }}
  - {{ alias: dev, key: {OTHER}, max_budget: 0.0001 }}
"
    )
}

async fn spend(setup: &Setup, key: &str, tokens: u64) -> u16 {
    let mut body = chat("gpt-4o-mini", &format!("[[sim tokens={tokens}]]"));
    body["max_tokens"] = tokens.into();
    let response = setup.chat_as(key, &body).await;
    setup.settled(&response).await;
    response.status
}

fn no_secret_in(setup: &Setup, metrics: &str) {
    for text in [&setup.gateway.stderr(), &setup.gateway.stdout(), metrics] {
        assert!(!text.contains("T00SECRET") && !text.contains("XXXX"), "{text}");
    }
}

#[tokio::test]
async fn each_threshold_of_a_budget_is_told_once_in_both_forms() {
    let (mut slack, mut webhook) = (Receiver::start(FINE).await, Receiver::start(FINE).await);
    let env = [("SLACK_WEBHOOK_URL", slack.url.as_str()), ("WEBHOOK_URL", webhook.url.as_str())];
    let setup = Setup::with_env(&with_alerts("alerting: [slack, webhook]"), &env).await;
    for (tokens, event, title) in [
        (1_210, "soft_budget_crossed", "Key Budget: Soft Budget Crossed"),
        (140, "threshold_crossed", "Key Budget: 80% Threshold Crossed"),
        (250, "threshold_crossed", "Key Budget: 95% Threshold Crossed"),
        (0, "budget_crossed", "Key Budget: Budget Crossed"),
    ] {
        match tokens {
            0 => while spend(&setup, KEY, 400).await == 200 {},
            tokens => assert_eq!(spend(&setup, KEY, tokens).await, 200),
        }
        let (head, told) = webhook.next().await;
        assert!(head.starts_with(&format!("POST /services/{SECRET} HTTP/1.1\r\n")), "{head}");
        assert_eq!((&told["event"], &told["event_group"]), (&json!(event), &json!("key")));
        let spent = told["spend"].as_f64().expect("dollars");
        assert!(spent > 0.0007 && spent <= 0.001, "{told}");
        assert_eq!((&told["max_budget"], &told["soft_budget"]), (&json!(0.001), &json!(0.0007)));
        assert_eq!(told["token"].as_str().map(str::len), Some(64));
        assert_eq!((&told["key_alias"], &told["team_id"]), (&json!("ci"), &json!("platform")));
        assert_eq!((&told["team_alias"], &told["user_id"]), (&json!("Platform"), &json!("ann")));
        assert_eq!(told["user_email"], "ann@example.com");
        assert_eq!((&told["projected_spend"], &told["customer_id"]), (&Value::Null, &Value::Null));
        let message = told["event_message"].as_str().expect("a text");
        let start = format!("{title}. Key=ci (sk-...0001) has spent $0.00");
        assert!(message.starts_with(&start), "{message}");
        let (_, told) = slack.next().await;
        let text = told["text"].as_str().expect("a text");
        let start = format!("*{title}*\nKey=ci (sk-...0001) has spent $0.00");
        assert!(text.starts_with(&start), "{text}");
        assert!(!told.to_string().contains(KEY), "{told}");
    }
    // Another key's comes after whatever was told again of the first.
    while spend(&setup, OTHER, 400).await == 200 {}
    while webhook.next().await.1["key_alias"] != "dev" {}
    while !slack.next().await.1["text"].as_str().expect("a text").contains("Key=dev") {}
    spend(&setup, KEY, 400).await;
    let told = setup.gateway.stderr();
    let told = told.lines().filter(|line| line.contains("Key=ci")).count();
    assert_eq!(told, 4, "{}", setup.gateway.stderr());
    let metrics = setup.gateway.metrics().await;
    assert!(metrics.contains(r#"tollway_alerts_delivered_total{callback_name="slack"}"#));
    no_secret_in(&setup, &metrics);
}

#[tokio::test]
async fn receivers_that_do_not_work_hold_up_nobody() {
    let mut silent = Receiver::start("").await;
    let failing = vec!["HTTP/1.1 500 No\r\ncontent-length: 0\r\n\r\n"];
    let mut failing = Receiver::with(failing, FINE).await;
    let mut babbling = Receiver::start("\u{0}\u{1}garbage\r\n\r\nT00SECRET").await;
    let gone = "HTTP/1.1 404 /services/T00SECRET\r\ncontent-length: 9\r\n\r\nT00SECRET";
    let mut gone = Receiver::start(gone).await;
    let mut sent_on =
        Receiver::start("HTTP/1.1 307 On\r\nlocation: /elsewhere\r\ncontent-length: 0\r\n\r\n")
            .await;
    let mut fine = Receiver::start(FINE).await;
    let receivers = [&silent, &failing, &babbling, &gone, &sent_on];
    let urls = receivers.map(|receiver| receiver.url.as_str()).join(", ");
    let alerting = format!(
        "alerting: [slack, webhook]\n  alert_types: [budget_alerts]\n  \
         alert_to_webhook_url: {{ budget_alerts: [{urls}] }}"
    );
    let setup = Setup::with_env(&with_alerts(&alerting), &[("WEBHOOK_URL", &fine.url)]).await;
    // Each call gives all of them something to do.
    for (tokens, event) in
        [(1_210, "soft_budget_crossed"), (140, "threshold_crossed"), (250, "threshold_crossed")]
    {
        assert_eq!(spend(&setup, KEY, tokens).await, 200);
        assert_eq!(fine.next().await.1["event"], event);
    }
    let first = silent.next().await.1;
    for receiver in [&mut failing, &mut babbling, &mut gone, &mut sent_on] {
        assert_eq!(receiver.next().await.1, first);
    }
    assert_eq!(failing.next().await.1, first, "what failed is tried again");
    // What makes no sense to try again is not: the next event is the next thing they get.
    for receiver in [&mut failing, &mut gone, &mut sent_on] {
        let (head, told) = receiver.next().await;
        assert_ne!(told, first);
        assert!(head.contains(SECRET), "{head}");
    }
    for why in ["it answered 404", "it answered 307"] {
        setup.gateway.stderr_line(|l| l.contains("was not delivered") && l.contains(why)).await;
    }
    let failed = "litellm_callback_logging_failures_metric_total";
    setup.gateway.metric_becomes(failed, &[r#"callback_name="slack""#], |n| n >= 4.0).await;
    let metrics = setup.gateway.metrics().await;
    no_secret_in(&setup, &metrics);
}

#[tokio::test]
async fn hour_that_costs_more_than_on_other_days_is_told() {
    let postgres = Postgres::start().await;
    let simulator = simulator().await;
    let mut webhook = Receiver::start(FINE).await;
    let text = with_alerts("database_url: $URL\n  alerting: [webhook]")
        .replace("$URL", &postgres.url())
        .replace("max_budget: 0.001, soft_budget: 0.0007", "max_budget: 1")
        + "alerts: { spike_factor: 3, spike_min: 0.0001, spike_days: 7 }\n";
    let options = Options {
        config: Some(config(&text, &simulator)),
        env: vec![("WEBHOOK_URL".into(), webhook.url.clone())],
        ..Options::default()
    };
    let mut setup = Setup { gateway: Gateway::start_with(options.clone()).await, simulator };
    spend(&setup, KEY, 1_000).await;
    spend(&setup, OTHER, 40).await;
    setup.gateway.signal("TERM");
    setup.gateway.ended().await;
    // A quarter of it at the same time on the three days before.
    postgres
        .run(
            "INSERT INTO tollway_sums SELECT dimension, span, start_ms - day * 86400000, subject, \
             part, calls, failed, cache_hits, prompt_tokens, completion_tokens, 0, picos / 4 \
             FROM tollway_sums, generate_series(1, 3) AS day",
        )
        .await;
    setup.gateway = Gateway::start_with(options).await;
    let mut told = Vec::new();
    for _ in 0..3 {
        told.push(webhook.next().await.1);
    }
    for (event, group) in told.iter().zip(["proxy", "team", "key"]) {
        assert_eq!(
            (&event["event"], &event["event_group"]),
            (&json!("spend_spike"), &json!(group))
        );
        let message = event["event_message"].as_str().expect("a text");
        assert!(message.contains("the most that this hour cost in the last 7 days is $0.00"));
        assert!(event["spend"].as_f64().expect("dollars") > 0.0006, "{event}");
    }
    assert_eq!(told[1]["team_id"], "platform");
    // The other key's hour is too cheap to be one.
    assert_eq!(told[2]["key_alias"], "ci");
}
