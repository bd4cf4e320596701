//! Traces: what a request, its attempts and an agent's run do, as spans at a collector; whatever the
//! collector does, and never with a word of what was said.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tollway_simulator::Reply;
use tollway_tests::agents::{ANN, CONFIG, asks, call, reckons, run, with};
use tollway_tests::collector::{Collector, Span};
use tollway_tests::gateway::{MASTER_KEY, PATIENCE};
use tollway_tests::setup::{UPSTREAM_KEY, within};
use tollway_tests::{Setup, chat, stream};

const TRACED: &str = "\nlitellm_settings: { callbacks: [otel] }\n";
const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

/// Two models, of which one stands in for the other.
const TWO: &str = "
model_list:
  - model_name: first
    litellm_params: { model: openai/gpt-4o-mini, api_key: $KEY, api_base: $SIM/v1 }
  - model_name: second
    litellm_params: { model: anthropic/claude-3-5-sonnet-20241022, api_key: $KEY, api_base: $SIM }
router_settings: { num_retries: 0, fallbacks: [{ first: [second] }] }
litellm_settings: { callbacks: [otel] }
";

async fn traced(config: &str, collector: &Collector) -> Setup {
    Setup::with_env(&format!("{config}{TRACED}"), &collector.env(&[])).await
}

fn named<'s>(spans: &'s [Span], name: &str) -> Vec<&'s Span> {
    spans.iter().filter(|span| span.name == name).collect()
}

fn one<'s>(spans: &'s [Span], name: &str) -> &'s Span {
    let found = named(spans, name);
    assert_eq!(found.len(), 1, "{name}: {spans:#?}");
    found[0]
}

#[tokio::test]
async fn request_goes_on_with_its_clients_trace_and_each_attempt_is_a_span_of_it() {
    let collector = Collector::start().await;
    let setup = Setup::with_env(TWO, &collector.env(&[("OTEL_SERVICE_NAME", "edge")])).await;
    setup.simulator.enqueue(Reply::error(500));
    setup.simulator.enqueue(Reply::text("Hello.").usage(11, 3));
    let headers = [
        ("traceparent", PARENT),
        ("tracestate", "vendor=canary-state"),
        ("baggage", "user=canary-baggage"),
    ];
    let response = setup.chat_with(&headers, &chat("first", "Hi")).await;
    assert_eq!(response.status, 200, "{}", response.text());

    let spans = collector.trace("POST /v1/chat/completions").await;
    assert_eq!(spans.len(), 3, "{spans:#?}");
    assert!(spans.iter().all(|span| span.trace == TRACE));
    let request = one(&spans, "POST /v1/chat/completions");
    assert_eq!((request.parent.as_str(), request.kind), ("b7ad6b7169203331", 2));
    assert_eq!(request.get("http.request.method"), "POST");
    assert_eq!(request.get("http.route"), "/v1/chat/completions");
    assert_eq!(request.get("http.response.status_code"), 200);
    assert_eq!(request.get("gen_ai.operation.name"), "chat");
    assert_eq!(request.get("gen_ai.request.model"), "first");
    assert_eq!(request.get("gen_ai.usage.input_tokens"), 11);
    assert_eq!(request.get("gen_ai.usage.output_tokens"), 3);
    assert_eq!(request.get("tollway.attempts"), 2);
    let id = response.header("x-litellm-call-id").expect("an id");
    assert_eq!(request.get("tollway.call_id"), id);
    assert!(request.get("tollway.cost_usd").as_f64().expect("dollars") > 0.0);
    assert!(!request.is_error);

    let failed = one(&spans, "chat gpt-4o-mini");
    assert_eq!((failed.parent.as_str(), failed.kind), (request.id.as_str(), 3));
    assert!(failed.is_error);
    assert_eq!(failed.get("error.type"), "status");
    assert_eq!(failed.get("http.response.status_code"), 500);
    assert_eq!(failed.get("gen_ai.provider.name"), "openai");
    assert_eq!(failed.get("server.address"), "127.0.0.1");
    let answered = one(&spans, "chat claude-3-5-sonnet-20241022");
    assert_eq!(answered.parent, request.id);
    assert!(!answered.is_error);
    assert_eq!(answered.get("gen_ai.provider.name"), "anthropic");
    assert!(request.time.0 <= failed.time.0 && failed.time.1 <= answered.time.1);

    // Each provider is told of its own attempt, and nothing else that the client said.
    let asked = setup.asked();
    for (asked, span) in asked.iter().zip([failed, answered]) {
        let expect = format!("00-{TRACE}-{}-01", span.id);
        assert_eq!(asked.header("traceparent"), Some(expect.as_str()));
        assert_eq!((asked.header("baggage"), asked.header("tracestate")), (None, None));
    }
    let resource = collector.taken().resources[0].clone();
    let name = json!({"key": "service.name", "value": {"stringValue": "edge"}});
    assert_eq!(resource["attributes"][0], name);
    let took = setup.gateway.metric("tollway_spans_exported_total", &[]).await;
    assert!(took >= 3.0, "{took}");
}

#[tokio::test]
async fn attempt_ends_with_its_stream_and_a_broken_one_is_an_error() {
    let collector = Collector::start().await;
    let setup = traced("", &collector).await;
    setup.simulator.enqueue(Reply::text("one two three four").cut_after(2));
    let response = setup.chat(&stream("gpt-4o-mini", "Hi")).await;
    assert_eq!(response.status, 200);
    let spans = collector.trace("POST /v1/chat/completions").await;
    let (request, attempt) = (one(&spans, "POST /v1/chat/completions"), &spans[0]);
    assert_eq!(attempt.name, "chat gpt-4o-mini");
    assert!(attempt.is_error && request.is_error, "{spans:#?}");
    assert_eq!(attempt.get("error.type"), "broken");
    // A traceparent that is none begins a trace of its own.
    assert!(request.parent.is_empty());

    // What the client did wrong is not our error.
    let bad = setup.chat_with(&[("traceparent", "nonsense")], &json!({"model": "none"})).await;
    assert_eq!(bad.status, 400);
    let spans = collector.wait(|spans| named(spans, "POST /v1/chat/completions").len() == 2).await;
    let bad = named(&spans, "POST /v1/chat/completions")[1];
    assert_eq!(bad.get("http.response.status_code"), 400);
    assert_eq!(bad.get("error.type"), "invalid_request_error");
    assert!(!bad.is_error && bad.parent.is_empty());
}

#[tokio::test]
async fn agents_run_is_a_span_with_its_model_and_tool_calls_below_it() {
    let collector = Collector::start().await;
    let setup = traced(CONFIG, &collector).await;
    setup.simulator.enqueue(reckons("6 * 7").usage(100, 10));
    setup.simulator.enqueue(reckons("1 /").usage(100, 10));
    setup.simulator.enqueue(Reply::text("It is 42.").usage(150, 5));
    let body = with(asks("What is six times seven?"), &json!({"thread_id": null})).to_string();
    let bearer = format!("Bearer {ANN}");
    let headers = [("authorization", bearer.as_str()), ("traceparent", PARENT)];
    let address = setup.gateway.address;
    let response =
        tollway_tests::client::send(address, "POST", "/chat/agent", &headers, body.as_bytes())
            .await;
    assert_eq!(response.status, 200, "{}", response.text());
    let id = response.json()["id"].clone();

    let ended = |spans: &[Span]| {
        ["POST /chat/agent", "invoke_agent reckoner"]
            .iter()
            .all(|name| named(spans, name).len() == 1)
    };
    let spans = collector.wait(ended).await;
    assert!(spans.iter().all(|span| span.trace == TRACE), "{spans:#?}");
    let request = one(&spans, "POST /chat/agent");
    assert_eq!(request.parent, "b7ad6b7169203331");
    let agent = one(&spans, "invoke_agent reckoner");
    assert_eq!((agent.parent.as_str(), agent.kind), (request.id.as_str(), 1));
    assert_eq!(agent.get("gen_ai.operation.name"), "invoke_agent");
    assert_eq!(agent.get("gen_ai.agent.name"), "reckoner");
    assert_eq!(agent.get("tollway.run.id"), id);
    assert_eq!(agent.get("tollway.run.status"), "completed");

    let chats: Vec<&Span> =
        spans.iter().filter(|s| s.name == "chat gpt-4o-mini" && s.kind == 1).collect();
    assert_eq!(chats.len(), 3);
    for chat in &chats {
        assert_eq!(chat.parent, agent.id);
        assert_eq!(chat.get("gen_ai.operation.name"), "chat");
        assert!(chat.get("gen_ai.usage.input_tokens").as_u64() >= Some(100));
        let attempts = spans.iter().filter(|s| s.parent == chat.id && s.kind == 3);
        assert_eq!(attempts.count(), 1, "{spans:#?}");
    }
    let tools = named(&spans, "execute_tool calculator");
    assert_eq!(tools.len(), 2);
    for tool in &tools {
        assert_eq!(tool.parent, agent.id);
        assert_eq!(tool.get("gen_ai.operation.name"), "execute_tool");
        assert_eq!(tool.get("gen_ai.tool.name"), "calculator");
    }
    assert_eq!(tools.iter().filter(|tool| tool.is_error).count(), 1, "{tools:#?}");

    // A tool that is called by itself is a part of the request that calls it.
    let body = json!({"arguments": {"expression": "1 + 1"}});
    let used = call(&setup, "POST", "/tools/calculator", ANN, Some(&body)).await;
    assert_eq!(used.status, 200);
    let spans = collector.trace("POST /tools/{name}").await;
    let tool = one(&spans, "execute_tool calculator");
    assert_eq!(tool.parent, one(&spans, "POST /tools/{name}").id);

    // An agent that is called as a model is one below that request.
    setup.simulator.enqueue(Reply::text("Hello."));
    let response = setup.chat_as(ANN, &chat("agent/reckoner", "Hi")).await;
    assert_eq!(response.status, 200, "{}", response.text());
    let spans = collector.wait(|spans| named(spans, "invoke_agent reckoner").len() == 2).await;
    let agent = named(&spans, "invoke_agent reckoner")[1].clone();
    let spans = collector.trace("POST /v1/chat/completions").await;
    assert_eq!(agent.parent, one(&spans, "POST /v1/chat/completions").id);
}

#[tokio::test]
async fn what_is_passed_through_goes_on_with_the_trace() {
    let collector = Collector::start().await;
    let config = "
general_settings:
  master_key: $MASTER
  pass_through_endpoints: [{ path: /through, target: $SIM/v1/models }]
";
    let setup = traced(config, &collector).await;
    let headers = [("traceparent", PARENT), ("baggage", "user=ann"), ("x-kept", "yes")];
    tollway_tests::get(setup.gateway.address, "/through", &headers).await;
    let spans = collector.trace("GET /through").await;
    let request = one(&spans, "GET /through");
    assert_eq!(request.trace, TRACE);
    let asked = setup.asked().remove(0);
    assert_eq!(asked.header("x-kept"), Some("yes"));
    assert_eq!(asked.header("baggage"), None);
    let expect = format!("00-{TRACE}-{}-01", request.id);
    assert_eq!(asked.header("traceparent"), Some(expect.as_str()));
}

#[tokio::test]
async fn off_there_is_nothing_not_even_for_providers() {
    let collector = Collector::start().await;
    let setup = Setup::with_env("", &collector.env(&[])).await;
    let response = setup.chat_with(&[("traceparent", PARENT)], &chat("gpt-4o-mini", "Hi")).await;
    assert_eq!(response.status, 200);
    assert_eq!(setup.asked()[0].header("traceparent"), None);
    let metrics = setup.gateway.metrics().await;
    assert!(!metrics.contains("tollway_spans"), "{metrics}");
    // Switched on by a reload, and off by the next one.
    let config = std::fs::read_to_string(setup.gateway.folder.join("config.yaml")).expect("config");
    setup.gateway.reload(&format!("{config}{TRACED}"));
    setup.gateway.stderr_line(|line| line.contains("reloaded")).await;
    let response = setup.chat(&chat("gpt-4o-mini", "Hi")).await;
    assert_eq!(response.status, 200);
    collector.trace("POST /v1/chat/completions").await;
    assert!(setup.asked()[1].header("traceparent").is_some());
}

#[tokio::test]
async fn what_a_client_does_not_want_recorded_is_only_passed_on() {
    let collector = Collector::start().await;
    let setup = traced("", &collector).await;
    let unwanted = PARENT.replace("-01", "-00");
    let response = setup.chat_with(&[("traceparent", &unwanted)], &chat("fast", "Hi")).await;
    assert_eq!(response.status, 200);
    let told = setup.asked()[0].header("traceparent").expect("it is told").to_owned();
    assert!(told.starts_with(&format!("00-{TRACE}-")) && told.ends_with("-00"), "{told}");
    assert_ne!(told, unwanted);
    setup.chat(&chat("fast", "Hi")).await;
    let spans = collector.trace("POST /v1/chat/completions").await;
    assert_ne!(spans[0].trace, TRACE);
    assert!(collector.taken().spans.iter().all(|span| span.trace != TRACE));
}

#[tokio::test]
async fn part_of_the_traces_is_recorded_and_providers_need_not_know() {
    let collector = Collector::start().await;
    let sampler = [("OTEL_TRACES_SAMPLER", "traceidratio"), ("OTEL_TRACES_SAMPLER_ARG", "0.5")];
    let config = "\nlitellm_settings: { success_callback: [otel], forward_traceparent_to_llm_provider: false }\n";
    let setup = Setup::with_env(config, &collector.env(&sampler)).await;
    for _ in 0..100 {
        // The client's own wish counts for nothing with this sampler.
        let response = setup.chat_with(&[("traceparent", PARENT)], &chat("fast", "Hi")).await;
        assert_eq!(response.status, 200);
    }
    assert!(setup.asked().iter().all(|asked| asked.header("traceparent").is_none()));
    let exported = async || setup.gateway.metric("tollway_spans_exported_total", &[]).await;
    setup.gateway.metric_becomes("tollway_spans_exported_total", &[], |now| now >= 30.0).await;
    let spans = exported().await / 2.0;
    // Below 15 or above 85 of 100 comes once in 10^12 times.
    assert!((15.0..=85.0).contains(&spans), "{spans}");
}

#[tokio::test]
async fn collector_that_does_not_work_slows_and_fails_nothing() {
    // One that takes requests and is silent: what does not fit is dropped and counted.
    let silent = Collector::start().await;
    silent.fall_silent();
    let small = [("OTEL_BSP_MAX_QUEUE_SIZE", "4"), ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "2")];
    let setup = Setup::with_env(TRACED, &silent.env(&small)).await;
    setup.chat(&chat("fast", "Hi")).await;
    silent.called(1).await;
    let begun = Instant::now();
    for _ in 0..20 {
        assert_eq!(setup.chat(&chat("fast", "Hi")).await.status, 200);
    }
    // Far less than the 10 s that the collector has for one batch.
    assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
    setup.gateway.metric_becomes("tollway_spans_dropped_total", &[], |now| now >= 30.0).await;

    // One that refuses: said once, not with each batch.
    let refusing = Collector::answering("401 Unauthorized").await;
    let setup = Setup::with_env(TRACED, &refusing.env(&[])).await;
    for _ in 0..5 {
        assert_eq!(setup.chat(&chat("fast", "Hi")).await.status, 200);
    }
    setup.gateway.metric_becomes("tollway_spans_failed_total", &[], |now| now >= 10.0).await;
    let said = setup.gateway.stderr();
    let lines = said.lines().filter(|line| line.contains("did not reach the collector"));
    assert_eq!(lines.count(), 1, "{said}");
    assert!(said.contains("it answered 401"), "{said}");

    // Nobody there at all.
    let nowhere =
        [("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:1"), ("OTEL_BSP_SCHEDULE_DELAY", "1")];
    let setup = Setup::with_env(TRACED, &nowhere).await;
    assert_eq!(setup.chat(&chat("fast", "Hi")).await.status, 200);
}

#[tokio::test]
async fn last_spans_are_sent_when_the_process_ends() {
    let collector = Collector::start().await;
    let env = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url.as_str()),
        ("OTEL_BSP_SCHEDULE_DELAY", "600000"),
    ];
    let mut setup = Setup::with_env(TRACED, &env).await;
    assert_eq!(setup.chat(&chat("fast", "Hi")).await.status, 200);
    setup.gateway.idle().await;
    assert!(collector.taken().spans.is_empty());
    setup.gateway.signal("TERM");
    let ended = within(PATIENCE, "its end", setup.gateway.ended()).await;
    assert!(ended.success());
    assert_eq!(collector.taken().spans.len(), 2);
}

#[tokio::test]
async fn nothing_that_is_said_is_in_a_span() {
    let collector = Collector::start().await;
    let env = [("OTEL_EXPORTER_OTLP_HEADERS", "x-collector=canary-collector-key")];
    let setup = Setup::with_env(&format!("{CONFIG}{TRACED}"), &collector.env(&env)).await;
    setup.simulator.enqueue(reckons("4004004 + 1"));
    setup.simulator.enqueue(Reply::text("canary-answer"));
    let body = with(asks("canary-question"), &json!({"user_context": {"home": "canary-home"}}));
    assert_eq!(run(&setup, &body).await.status, 200);
    setup.simulator.enqueue(Reply::error(400).message("canary-message").code("canary-code"));
    let headers = [("x-strange", "canary-header"), ("user-agent", "canary-agent")];
    let mut body = chat("fast", "canary-question");
    body["user"] = "canary-user".into();
    assert_eq!(setup.chat_with(&headers, &body).await.status, 400);
    let path = "/v1/chat/completions?canary-query=1";
    let answer = call(&setup, "canary-method", path, ANN, Some(&Value::Null)).await;
    assert!(answer.status >= 400, "{}", answer.status);
    let all = |spans: &[Span]| {
        named(spans, "_OTHER /v1/chat/completions").len() == 1
            && named(spans, "invoke_agent reckoner").len() == 1
            && named(spans, "POST /v1/chat/completions").len() == 1
    };
    collector.wait(all).await;
    for raw in collector.taken().raw {
        let (head, body) = raw.split_once("\r\n\r\n").expect("a head");
        assert!(head.contains("canary-collector-key"), "{head}");
        for word in ["canary", "4004004", MASTER_KEY, ANN, UPSTREAM_KEY] {
            assert!(!body.contains(word), "{word}: {body}");
        }
    }
}
