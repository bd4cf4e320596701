//! What is metered is what the provider bills, and nothing that was said is told to anybody.

use serde_json::{Value, json};
use tollway_simulator::{Reply, Totals};
use tollway_tests::gateway::MASTER_KEY;
use tollway_tests::{Connection, Setup, chat, get, post, post_with, stream};

const INPUT: &str = "litellm_input_tokens_metric_total";
const OUTPUT: &str = "litellm_output_tokens_metric_total";
const SPEND: &str = "litellm_spend_metric_total";

/// Dollars a million tokens, in and out.
const PRICES: [(&str, f64, f64); 4] = [
    ("gpt-4o-mini", 0.15, 0.60),
    ("claude-3-5-sonnet-20241022", 3.0, 15.0),
    ("text-embedding-3-small", 0.02, 0.0),
    ("gpt-3.5-turbo-instruct", 1.5, 2.0),
];

async fn tokens(setup: &Setup) -> (u64, u64) {
    let input = setup.gateway.metric(INPUT, &[]).await;
    (input as u64, setup.gateway.metric(OUTPUT, &[]).await as u64)
}

fn billed(totals: Totals) -> (u64, u64) {
    (totals.prompt_tokens, totals.completion_tokens)
}

#[tokio::test]
async fn metered_tokens_and_spend_are_what_the_provider_bills() {
    let setup = Setup::with("litellm_settings: { cache: true }").await;
    let address = setup.gateway.address;
    let mut calls = 0;
    for model in ["gpt-4o-mini", "fast", "claude"] {
        for said in ["Hi", "A longer question, with more words in it", "[[sim tokens=50]]"] {
            // The stream of what was asked already is a hit, as is every second round.
            for body in [chat(model, said), stream(model, said)] {
                for _ in 0..2 {
                    let response = setup.chat(&body).await;
                    assert_eq!(response.status, 200);
                    setup.settled(&response).await;
                }
            }
            let mut streamed = stream(model, &format!("{said} streamed"));
            streamed["stream_options"] = json!({"include_usage": true});
            setup.settled(&setup.chat(&streamed).await).await;
            calls += 2;
        }
        let mut tools = chat(model, "[[sim tool=weather args={\"city\":\"Ulm\"}]]");
        let parameters = json!({"type": "object", "properties": {}});
        let function = json!({"name": "weather", "parameters": parameters});
        tools["tools"] = json!([{"type": "function", "function": function}]);
        setup.settled(&setup.chat(&tools).await).await;
        calls += 1;
    }
    let body = json!({"model": "text-embedding-3-small", "input": ["some text", "and more"]});
    setup.settled(&post(address, "/v1/embeddings", &body).await).await;
    let body = json!({"model": "gpt-3.5-turbo-instruct", "prompt": "Once upon", "stream": true});
    setup.settled(&post(address, "/v1/completions", &body).await).await;
    calls += 2;
    // Neither of these costs anything.
    setup.settled(&setup.chat(&chat("gpt-4o-mini", "[[sim status=400]]")).await).await;
    setup.settled(&setup.chat(&json!({"model": "gpt-4o-mini"})).await).await;

    let bill = setup.simulator.billed();
    assert_eq!(bill.requests, calls);
    assert_eq!(tokens(&setup).await, billed(bill));
    let total = setup.gateway.metric("litellm_total_tokens_metric_total", &[]).await;
    assert_eq!(total as u64, bill.prompt_tokens + bill.completion_tokens);

    let mut all = 0.0;
    for (model, input_price, output_price) in PRICES {
        let label = format!("model=\"{model}\"");
        let labels = [label.as_str()];
        let input = setup.gateway.metric(INPUT, &labels).await;
        let output = setup.gateway.metric(OUTPUT, &labels).await;
        assert!(input > 0.0, "{model}");
        let expect = (input * input_price + output * output_price) / 1e6;
        let spend = setup.gateway.metric(SPEND, &labels).await;
        assert!((spend - expect).abs() < 1e-12, "{model}: {spend} and not {expect}");
        all += spend;
    }
    assert!((setup.gateway.metric(SPEND, &[]).await - all).abs() < 1e-12);
}

#[tokio::test]
async fn cached_prompt_tokens_have_their_own_price() {
    let setup = Setup::start().await;
    for (model, cost) in [
        // 600 × 0.15, 400 × 0.075, 100 × 0.60
        ("gpt-4o-mini", "0.00018"),
        // 600 × 3, 400 × 0.30, 100 × 15
        ("claude", "0.00342"),
    ] {
        let said = "[[sim prompt_tokens=1000 completion_tokens=100 cached=400]]";
        let response = setup.chat(&chat(model, said)).await;
        assert_eq!(response.header("x-litellm-response-cost"), Some(cost), "{model}");
        assert_eq!(response.json()["usage"]["prompt_tokens"], 1000, "{model}");
        let cached = &response.json()["usage"]["prompt_tokens_details"]["cached_tokens"];
        assert_eq!(*cached, 400);
        let line = setup.settled(&response).await;
        assert_eq!(line["cost_usd"].to_string(), cost);
        assert_eq!(line["cached_tokens"], 400);
        // The same in a stream, where the cost is known only at the end.
        let response = setup.chat(&stream(model, said)).await;
        let line = setup.settled(&response).await;
        assert_eq!(line["cost_usd"].to_string(), cost, "{model} streamed");
    }
    let cached = setup.gateway.metric("litellm_input_cached_tokens_metric_total", &[]).await;
    assert_eq!(cached, 1600.0);
}

#[tokio::test]
async fn price_of_the_config_wins() {
    let config = "
model_list:
  - model_name: own
    litellm_params:
      model: openai/my-own-model
      api_key: $KEY
      api_base: $SIM/v1
      input_cost_per_token: 0.000001
      output_cost_per_token: 0.00001
";
    let setup = Setup::with(config).await;
    setup.simulator.enqueue(Reply::text("Hi").usage(1000, 100));
    let response = setup.chat(&chat("own", "Hi")).await;
    assert_eq!(response.header("x-litellm-response-cost"), Some("0.002"));
}

#[tokio::test]
async fn metrics_have_litellms_labels() {
    let keys = "keys: [{ alias: ci, key: sk-ci-00000000001, user: anna, team: blue }]";
    let setup = Setup::with(keys).await;
    let response = setup.chat_as("sk-ci-00000000001", &stream("fast", "Hi")).await;
    setup.settled(&response).await;
    let labels = [
        "api_key_alias=\"ci\"",
        "user=\"anna\"",
        "team=\"blue\"",
        "requested_model=\"fast\"",
        "model=\"gpt-4o-mini\"",
        "api_provider=\"openai\"",
        "end_user=\"None\"",
    ];
    for name in [INPUT, OUTPUT, SPEND, "litellm_requests_metric_total"] {
        assert!(setup.gateway.metric(name, &labels).await > 0.0, "{name}");
    }
    for name in [
        "litellm_request_total_latency_metric_count",
        "litellm_llm_api_latency_metric_count",
        "litellm_llm_api_time_to_first_token_metric_count",
        "litellm_overhead_latency_metric_count",
        "gen_ai_server_request_duration_count",
        "gen_ai_server_time_to_first_token_count",
    ] {
        assert_eq!(setup.gateway.metric(name, &[]).await, 1.0, "{name}");
    }
    let labels = ["status_code=\"200\"", "route=\"/v1/chat/completions\"", "api_key_alias=\"ci\""];
    let total = "litellm_proxy_total_requests_metric_total";
    assert_eq!(setup.gateway.metric(total, &labels).await, 1.0);
    let refused = setup.chat(&chat("nope", "Hi")).await;
    setup.settled(&refused).await;
    let failed = "litellm_proxy_failed_requests_metric_total";
    assert_eq!(setup.gateway.metric(failed, &["exception_status=\"400\""]).await, 1.0);
}

#[tokio::test]
async fn time_to_first_token_is_that_of_the_first_token() {
    let setup = Setup::start().await;
    let said = "[[sim tokens=5 first_byte_delay=300ms rate=20]]";
    let response = setup.chat(&stream("gpt-4o-mini", said)).await;
    let line = setup.settled(&response).await;
    let millis = |name: &str| line[name].as_f64().unwrap_or_else(|| panic!("{name}: {line}"));
    assert!(millis("ttft_ms") >= 300.0, "{line}");
    // Four more tokens, a twentieth of a second each.
    assert!(millis("latency_ms") - millis("ttft_ms") >= 150.0, "{line}");
    assert!(millis("upstream_ms") <= millis("latency_ms"), "{line}");
    assert!(millis("overhead_ms") >= 0.0);
}

#[tokio::test]
async fn request_log_has_one_line_with_names_numbers_and_times() {
    let keys = "keys: [{ alias: ci, key: sk-ci-00000000001, user: anna, team: blue }]";
    let setup = Setup::with(keys).await;
    setup.simulator.enqueue(Reply::text("Hi").usage(1000, 100));
    let bearer = "Bearer sk-ci-00000000001";
    let headers = [("authorization", bearer), ("x-litellm-call-id", "log-1")];
    let response = setup.chat_with(&headers, &chat("fast", "Hi")).await;
    assert_eq!(response.status, 200);
    let line = setup.log_line("log-1").await;
    for (name, value) in [
        ("level", json!("info")),
        ("msg", json!("request")),
        ("route", json!("/v1/chat/completions")),
        ("status", json!(200)),
        ("outcome", json!("done")),
        ("key_alias", json!("ci")),
        ("user", json!("anna")),
        ("team", json!("blue")),
        ("model_group", json!("fast")),
        ("provider", json!("openai")),
        ("model", json!("gpt-4o-mini")),
        ("stream", json!(false)),
        ("cache_hit", json!(false)),
        ("attempts", json!(1)),
        ("fallbacks", json!(0)),
        ("prompt_tokens", json!(1000)),
        ("completion_tokens", json!(100)),
        ("bytes_sent", json!(response.body.len())),
    ] {
        assert_eq!(line[name], value, "{name}");
    }
    assert_eq!(line["cost_usd"].to_string(), "0.00021");
    assert!(line["ts"].as_str().is_some_and(|ts| ts.starts_with("20") && ts.ends_with('Z')));
    // One line a request, also of those that are refused.
    for id in ["log-2", "log-3"] {
        let headers = [("authorization", "Bearer sk-wrong"), ("x-litellm-call-id", id)];
        setup.chat_with(&headers, &chat("fast", "Hi")).await;
        let line = setup.log_line(id).await;
        assert_eq!((&line["status"], &line["level"]), (&json!(401), &json!("warn")));
    }
    assert_eq!(setup.gateway.stdout().matches("\"request_id\":\"log-").count(), 3);
}

#[tokio::test]
async fn broken_anthropic_stream_is_metered_by_what_was_reported() {
    let setup = Setup::with("router_settings: { num_retries: 0 }").await;
    let said = "[[sim say=\"one two three\" prompt_tokens=30 cut_after=2]]";
    let response = setup.chat(&stream("claude", said)).await;
    setup.settled(&response).await;
    assert_eq!(setup.gateway.metric(INPUT, &[]).await, 30.0);
}

#[tokio::test]
async fn nothing_secret_or_said_appears_in_any_log_or_metric() {
    let config = "
router_settings: { num_retries: 0, timeout: 2s }
server: { idle_timeout: 300ms, request_body_bytes_max: 100000 }
litellm_settings: { cache: true }
keys: [{ alias: ci, key: sk-canary-key-000001 }]
model_list:
  - model_name: gpt-4o-mini
    litellm_params: { model: openai/gpt-4o-mini, api_key: sk-canary-upstream-01, api_base: $SIM/v1 }
  - model_name: claude
    litellm_params: { model: anthropic/claude-3-5-sonnet-20241022, api_key: sk-canary-upstream-02, api_base: $SIM, extra_headers: { x-extra: canary-extra } }
general_settings:
  master_key: $MASTER
  pass_through_endpoints:
    - { path: /through, target: '$SIM/canary-target', headers: { authorization: Bearer sk-canary-through-1 } }
";
    let setup = Setup::with_env(config, &[("TOLLWAY_LOG", "trace")]).await;
    let address = setup.gateway.address;
    let headers = [
        ("authorization", "Bearer sk-canary-key-000001"),
        ("x-custom", "canary-header"),
        ("cookie", "canary=cookie"),
        ("user-agent", "canary-agent"),
        ("x-litellm-end-user-id", "canary-end-user"),
    ];
    for model in ["gpt-4o-mini", "claude"] {
        for directive in [
            "say=canary-answer",
            "echo_headers",
            "status=500 message=canary-error code=canary_code",
            "status=401 message=canary-error",
            "status=400 message=canary-error",
            "say=\"canary one two\" cut_after=1",
            "say=\"canary one two\" stall_after=1",
            "say=\"canary one two\" garbage=1",
            "error_event=1 message=canary-error",
            "html",
            "close_before_head",
            "redirect=http://canary.example.com/",
            "header=\"x-canary: canary\"",
        ] {
            let said = format!("canary-prompt [[sim {directive}]]");
            for mut body in [chat(model, &said), stream(model, &said)] {
                body["user"] = "canary-user".into();
                body["metadata"] = json!({"note": "canary-metadata"});
                body["tools"] = json!([]);
                post_with(address, "/v1/chat/completions?key=canary-query", &headers, &body).await;
            }
        }
    }
    // Refused in every phase.
    let bad: [&[u8]; 5] = [
        b"{\"model\": \"gpt-4o-mini\", \"messages\": \"canary-wrong-type\"}",
        b"{\"canary-broken\": ",
        b"{\"canary\": 1, \"canary\": 2}",
        b"{\"model\": \"gpt-4o-mini\", \"messages\": [{}], \"temperature\": \"canary\"}",
        b"canary-not-json",
    ];
    for body in bad {
        let path = "/v1/chat/completions";
        tollway_tests::client::send(address, "POST", path, &headers, body).await;
    }
    get(address, "/canary-path?key=canary-query", &headers).await;
    get(address, "/v1/models?key=canary-query", &[("authorization", "Bearer sk-canary-wrong")])
        .await;
    get(address, "/through/canary-sub?key=canary-query", &headers).await;
    let mut broken = Connection::open(address).await;
    broken.try_write(b"POST /canary HTTP/1.1\r\nx canary: y\r\n canary-fold\r\n\r\n").await;
    broken.try_head().await;
    let mut left = Connection::open(address).await;
    let bearer = format!("Bearer {MASTER_KEY}");
    let hang = chat("gpt-4o-mini", "canary [[sim hang]]").to_string();
    left.request("POST", "/v1/chat/completions", &[("authorization", &bearer)], hang.as_bytes())
        .await;
    setup.simulator.wait_for(|asked| asked.body.windows(4).any(|four| four == b"hang")).await;
    drop(left);
    setup.gateway.idle().await;
    // A line that only comes after all others.
    let headers = [("x-litellm-call-id", "the-last-one")];
    setup.chat_with(&headers, &chat("gpt-4o-mini", "Hi")).await;
    setup.log_line("the-last-one").await;

    for (where_, text) in [
        ("stdout", setup.gateway.stdout()),
        ("stderr", setup.gateway.stderr()),
        ("metrics", setup.gateway.metrics().await),
    ] {
        let found: Vec<&str> = text
            .lines()
            .filter(|line| line.to_lowercase().contains("canary") || line.contains(MASTER_KEY))
            // What the operator configured, told to the operator at the start.
            .filter(|line| !line.starts_with("passes through:"))
            .collect();
        assert!(found.is_empty(), "{where_}: {found:#?}");
    }
    let lines = setup.gateway.stdout();
    let lines = lines.lines().filter(|line| line.starts_with('{'));
    for line in lines {
        serde_json::from_str::<Value>(line).unwrap_or_else(|error| panic!("{error}: {line}"));
    }
}

#[tokio::test]
async fn invented_model_names_do_not_fill_the_metrics() {
    let config = "
model_list:
  - model_name: 'openai/*'
    litellm_params: { model: 'openai/*', api_key: $KEY, api_base: $SIM/v1 }
";
    let setup = Setup::with(config).await;
    for n in 0..50 {
        setup.simulator.enqueue(Reply::error(404));
        let response = setup.chat(&chat(&format!("openai/invented-{n}"), "Hi")).await;
        assert_eq!(response.status, 404);
        setup.settled(&response).await;
    }
    assert!(!setup.gateway.metrics().await.contains("invented"));
}
