//! The response cache: the same question is asked once, by one tenant, for as long as it may.

use serde_json::{Value, json};
use tollway_simulator::{Reply, Simulator};
use tollway_tests::servers::Redis;
use tollway_tests::setup::{config, eventually};
use tollway_tests::{Response, Setup, chat, post, stream};

const CACHE: &str = "
litellm_settings: { cache: true }
keys:
  - { alias: anna, key: sk-anna-00000001, user: anna }
  - { alias: ben, key: sk-ben-000000001, user: ben }
";

fn is_hit(response: &Response) -> bool {
    assert_eq!(response.status, 200, "{}", response.text());
    response.header("x-litellm-cache-key").is_some()
}

fn content(response: &Response) -> String {
    response.json()["choices"][0]["message"]["content"].as_str().expect("a text").to_owned()
}

fn streamed_content(response: &Response) -> String {
    let events = response.events();
    assert_eq!(events.last().map(String::as_str), Some("[DONE]"), "{}", response.text());
    events[..events.len() - 1]
        .iter()
        .filter_map(|event| {
            let event: Value = serde_json::from_str(event).expect("JSON");
            event["choices"][0]["delta"]["content"].as_str().map(str::to_owned)
        })
        .collect()
}

/// With a member `cache`.
fn controlled(control: &Value) -> Value {
    let mut body = chat("gpt-4o-mini", "Hi");
    body["cache"] = control.clone();
    body
}

/// Asks, and waits until the answer is kept.
async fn ask(setup: &Setup, body: &Value) -> Response {
    let response = setup.chat(body).await;
    setup.settled(&response).await;
    response
}

#[tokio::test]
async fn second_answer_comes_from_the_cache_and_costs_nothing() {
    let setup = Setup::with(CACHE).await;
    setup.simulator.enqueue(Reply::text("first").usage(1000, 100));
    let miss = ask(&setup, &chat("gpt-4o-mini", "Hi")).await;
    assert!(!is_hit(&miss));
    assert_eq!(miss.header("x-litellm-response-cost"), Some("0.00021"));
    let hit = ask(&setup, &chat("gpt-4o-mini", "Hi")).await;
    assert!(is_hit(&hit));
    assert_eq!(hit.header("x-litellm-response-cost"), Some("0"));
    assert_eq!(hit.body, miss.body);
    assert_eq!(setup.asked().len(), 1);
    let key = hit.header("x-litellm-cache-key").expect("a key");
    assert!(key.len() == 64 && key.bytes().all(|byte| byte.is_ascii_hexdigit()), "{key}");
    let line = setup.settled(&hit).await;
    assert_eq!((&line["cache_hit"], &line["cost_usd"]), (&json!(true), &json!(0)));
    let metrics = setup.gateway.metrics().await;
    for name in ["litellm_cache_hits_metric_total", "litellm_cache_misses_metric_total"] {
        assert_eq!(setup.gateway.metric(name, &[]).await, 1.0, "{name}: {metrics}");
    }
}

#[tokio::test]
async fn who_has_a_whole_answer_finds_it_in_the_cache() {
    let setup = Setup::with(CACHE).await;
    for n in 0..200 {
        let question = chat("gpt-4o-mini", &format!("Question {n}?"));
        setup.chat(&question).await;
        // Nothing is waited for but the answer.
        assert!(is_hit(&setup.chat(&question).await), "question {n}");
    }
}

#[tokio::test]
async fn other_question_is_another_answer() {
    let setup = Setup::with(CACHE).await;
    ask(&setup, &chat("gpt-4o-mini", "Hi")).await;
    let mut warm = chat("gpt-4o-mini", "Hi");
    warm["temperature"] = 1.into();
    for body in [
        chat("gpt-4o-mini", "Hi!"),
        chat("claude", "Hi"),
        chat("fast", "Hi"),
        warm,
        json!({"model": "gpt-4o-mini", "messages": [{"role": "system", "content": "Hi"}]}),
    ] {
        assert!(!is_hit(&ask(&setup, &body).await), "{body}");
    }
    assert_eq!(setup.asked().len(), 6);
}

#[tokio::test]
async fn order_and_layout_of_the_members_do_not_matter() {
    let setup = Setup::with(CACHE).await;
    ask(&setup, &chat("gpt-4o-mini", "Hi")).await;
    let body =
        b"{ \"messages\" : [ {\"role\": \"user\",\n\"content\": \"Hi\"} ],\"model\":\"gpt-4o-mini\" }";
    let path = "/v1/chat/completions";
    let same = tollway_tests::client::send(setup.gateway.address, "POST", path, &[], body).await;
    assert!(is_hit(&same));
}

#[tokio::test]
async fn stream_and_whole_answer_serve_each_other() {
    let setup = Setup::with(CACHE).await;
    for model in ["gpt-4o-mini", "claude"] {
        setup.simulator.enqueue(Reply::text("one two three").usage(7, 3));
        assert!(!is_hit(&ask(&setup, &chat(model, "whole first")).await));
        let replayed = ask(&setup, &stream(model, "whole first")).await;
        assert!(is_hit(&replayed), "{model}");
        assert_eq!(streamed_content(&replayed), "one two three");
        assert_eq!(replayed.header("content-type"), Some("text/event-stream; charset=utf-8"));

        setup.simulator.enqueue(Reply::text("four five six").usage(7, 3));
        let first = ask(&setup, &stream(model, "stream first")).await;
        assert!(!is_hit(&first));
        let whole = ask(&setup, &chat(model, "stream first")).await;
        assert!(is_hit(&whole), "{model}");
        assert_eq!(content(&whole), "four five six");
        assert_eq!(whole.json()["object"], "chat.completion");
        assert_eq!(whole.json()["usage"]["total_tokens"], 10);
        let again = ask(&setup, &stream(model, "stream first")).await;
        assert!(is_hit(&again));
        assert_eq!(streamed_content(&again), "four five six");
    }
    assert_eq!(setup.asked().len(), 4);
}

#[tokio::test]
async fn replayed_stream_has_usage_for_those_who_ask() {
    let setup = Setup::with(CACHE).await;
    setup.simulator.enqueue(Reply::text("one two").usage(7, 3));
    ask(&setup, &stream("gpt-4o-mini", "Hi")).await;
    let mut body = stream("gpt-4o-mini", "Hi");
    body["stream_options"] = json!({"include_usage": true});
    let hit = ask(&setup, &body).await;
    assert!(is_hit(&hit));
    let events = hit.events();
    let usage: Value = serde_json::from_str(&events[events.len() - 2]).expect("JSON");
    assert_eq!((&usage["choices"], &usage["usage"]["total_tokens"]), (&json!([]), &json!(10)));
    assert_eq!(setup.asked().len(), 1);
}

#[tokio::test]
async fn tenants_never_see_each_others_answers() {
    let setup = Setup::with(CACHE).await;
    for key in ["sk-anna-00000001", "sk-ben-000000001", tollway_tests::gateway::MASTER_KEY] {
        let first = setup.chat_as(key, &chat("gpt-4o-mini", "Hi")).await;
        assert!(!is_hit(&first), "{key}");
        setup.settled(&first).await;
        assert!(is_hit(&setup.chat_as(key, &chat("gpt-4o-mini", "Hi")).await));
    }
    // Nor do the end users of one tenant.
    for user in ["mallory", "trent"] {
        let mut body = chat("gpt-4o-mini", "Hi");
        body["user"] = user.into();
        assert!(!is_hit(&ask(&setup, &body).await), "{user}");
        assert!(is_hit(&ask(&setup, &body).await), "{user}");
    }
    assert_eq!(setup.asked().len(), 5);
}

#[tokio::test]
async fn no_store_keeps_nothing() {
    let setup = Setup::with(CACHE).await;
    for _ in 0..2 {
        assert!(!is_hit(&ask(&setup, &controlled(&json!({"no-store": true}))).await));
    }
    assert!(!is_hit(&ask(&setup, &chat("gpt-4o-mini", "Hi")).await));
    // But it takes what others have kept.
    assert!(is_hit(&ask(&setup, &controlled(&json!({"no-store": true}))).await));
}

#[tokio::test]
async fn no_cache_asks_again_and_keeps_the_fresh_answer() {
    let setup = Setup::with(CACHE).await;
    for text in ["old", "new"] {
        setup.simulator.enqueue(Reply::text(text));
    }
    assert_eq!(content(&ask(&setup, &chat("gpt-4o-mini", "Hi")).await), "old");
    let fresh = ask(&setup, &controlled(&json!({"no-cache": true}))).await;
    assert!(!is_hit(&fresh));
    assert_eq!(content(&fresh), "new");
    let kept = ask(&setup, &chat("gpt-4o-mini", "Hi")).await;
    assert!(is_hit(&kept));
    assert_eq!(content(&kept), "new");
}

#[tokio::test]
async fn ttl_of_zero_keeps_nothing_and_s_maxage_of_zero_takes_nothing() {
    let setup = Setup::with(CACHE).await;
    for _ in 0..2 {
        assert!(!is_hit(&ask(&setup, &controlled(&json!({"ttl": 0}))).await));
    }
    assert!(!is_hit(&ask(&setup, &chat("gpt-4o-mini", "Hi")).await));
    assert!(!is_hit(&ask(&setup, &controlled(&json!({"s-maxage": 0}))).await));
    assert!(is_hit(&ask(&setup, &controlled(&json!({"s-maxage": 600}))).await));
}

#[tokio::test]
async fn answer_is_gone_after_its_ttl() {
    let setup = Setup::with(CACHE).await;
    assert!(!is_hit(&ask(&setup, &controlled(&json!({"ttl": 1}))).await));
    let gone = async { while is_hit(&ask(&setup, &chat("gpt-4o-mini", "Hi")).await) {} };
    tollway_tests::setup::within(tollway_tests::gateway::PATIENCE, "it is gone", gone).await;
}

#[tokio::test]
async fn namespaces_are_apart() {
    let setup = Setup::with(CACHE).await;
    assert!(!is_hit(&ask(&setup, &controlled(&json!({"namespace": "a"}))).await));
    assert!(!is_hit(&ask(&setup, &controlled(&json!({"namespace": "b"}))).await));
    assert!(!is_hit(&ask(&setup, &chat("gpt-4o-mini", "Hi")).await));
    assert!(is_hit(&ask(&setup, &controlled(&json!({"namespace": "a"}))).await));
}

#[tokio::test]
async fn caching_false_and_the_header_have_their_say() {
    let setup = Setup::with(CACHE).await;
    let mut body = chat("gpt-4o-mini", "Hi");
    body["caching"] = false.into();
    for _ in 0..2 {
        assert!(!is_hit(&ask(&setup, &body).await));
    }
    ask(&setup, &chat("gpt-4o-mini", "Hi")).await;
    let header = [("cache-control", "no-cache, no-store")];
    assert!(!is_hit(&setup.chat_with(&header, &chat("gpt-4o-mini", "Hi")).await));
    for wrong in [json!(true), json!({"ttl": "long"}), json!({"no-cache": 1}), json!({"ttl": -1})] {
        let refused = setup.chat(&controlled(&wrong)).await;
        assert_eq!((refused.status, refused.error("param")), (400, json!("cache")), "{wrong}");
    }
}

#[tokio::test]
async fn default_off_caches_what_asks_for_it() {
    let config = "litellm_settings: { cache: true, cache_params: { mode: default_off } }";
    let setup = Setup::with(config).await;
    for _ in 0..2 {
        assert!(!is_hit(&ask(&setup, &chat("gpt-4o-mini", "Hi")).await));
    }
    let body = controlled(&json!({"use-cache": true}));
    assert!(!is_hit(&ask(&setup, &body).await));
    assert!(is_hit(&ask(&setup, &body).await));
}

#[tokio::test]
async fn failures_and_broken_streams_are_not_kept() {
    let config = format!("router_settings: {{ num_retries: 0 }}\n{CACHE}");
    let setup = Setup::with(&config).await;
    setup.simulator.enqueue(Reply::error(500));
    let failed = setup.chat(&chat("gpt-4o-mini", "Hi")).await;
    assert_eq!(failed.status, 500);
    setup.settled(&failed).await;
    for model in ["gpt-4o-mini", "claude"] {
        for fault in ["cut_after=1", "error_event=1", "no_finish no_done"] {
            let say = format!("say=\"one two\" {fault}");
            setup.simulator.enqueue(say.parse().expect("it parses"));
            let broken = ask(&setup, &stream(model, fault)).await;
            assert!(!broken.text().contains("[DONE]"), "{model}: {fault}");
            let whole = ask(&setup, &stream(model, fault)).await;
            assert!(!is_hit(&whole), "{model}: {fault}");
        }
    }
}

#[tokio::test]
async fn embeddings_and_completions_are_cached() {
    let setup = Setup::with(CACHE).await;
    for (path, body) in [
        ("/v1/embeddings", json!({"model": "text-embedding-3-small", "input": "Hi"})),
        ("/v1/completions", json!({"model": "gpt-3.5-turbo-instruct", "prompt": "Hi"})),
    ] {
        let miss = post(setup.gateway.address, path, &body).await;
        assert!(!is_hit(&miss));
        setup.settled(&miss).await;
        let hit = post(setup.gateway.address, path, &body).await;
        assert!(is_hit(&hit), "{path}");
        assert_eq!(hit.body, miss.body);
    }
}

#[tokio::test]
async fn hit_counts_towards_the_limits_of_requests() {
    let config = "
litellm_settings: { cache: true }
keys: [{ alias: two, key: sk-two-000000001, rpm: 2 }]
";
    let setup = Setup::with(config).await;
    let body = chat("gpt-4o-mini", "Hi");
    let first = setup.chat_as("sk-two-000000001", &body).await;
    setup.settled(&first).await;
    assert!(is_hit(&setup.chat_as("sk-two-000000001", &body).await));
    assert_eq!(setup.chat_as("sk-two-000000001", &body).await.status, 429);
}

#[tokio::test]
async fn key_that_may_no_longer_call_a_model_gets_nothing_out_of_the_cache() {
    let setup = Setup::with(CACHE).await;
    let body = chat("gpt-4o-mini", "Hi");
    let first = setup.chat_as("sk-anna-00000001", &body).await;
    setup.settled(&first).await;
    let other = CACHE.replace("user: anna", "user: anna, models: [claude]");
    setup.gateway.reload(&tollway_tests::setup::config(&other, &setup.simulator));
    setup.gateway.stderr_line(|line| line.contains("config reloaded")).await;
    assert_eq!(setup.chat_as("sk-anna-00000001", &body).await.status, 403);
}

#[tokio::test]
async fn memory_of_the_cache_is_bounded_in_bytes() {
    let config = "litellm_settings: { cache: true, cache_params: { type: local, max_size_in_memory: 200KiB } }";
    let setup = Setup::with(config).await;
    let long = "word ".repeat(4000);
    for n in 0..50 {
        setup.simulator.enqueue(Reply::text(long.clone()));
        assert!(!is_hit(&ask(&setup, &chat("gpt-4o-mini", &format!("question {n}"))).await));
    }
    // 20 KB each: at most ten of them have room.
    let mut hits = 0;
    for n in 0..50 {
        let mut body = chat("gpt-4o-mini", &format!("question {n}"));
        body["cache"] = json!({"no-store": true});
        hits += usize::from(is_hit(&ask(&setup, &body).await));
    }
    assert!((1..=12).contains(&hits), "{hits} of 50 were kept");
}

#[tokio::test]
async fn names_of_answers_in_memory_tell_nothing_of_the_master_key() {
    let mut names = Vec::new();
    for _ in 0..2 {
        let setup = Setup::with(CACHE).await;
        ask(&setup, &chat("gpt-4o-mini", "Hi")).await;
        let first = setup.chat(&chat("gpt-4o-mini", "Hi")).await;
        setup.gateway.reload(&config(CACHE, &setup.simulator));
        setup.gateway.stderr_line(|line| line.contains("config reloaded")).await;
        let again = setup.chat(&chat("gpt-4o-mini", "Hi")).await;
        let name = |hit: &Response| hit.header("x-litellm-cache-key").expect("a hit").to_owned();
        // What is kept is found after a reload.
        assert_eq!(name(&first), name(&again));
        names.push(name(&first));
    }
    // The master key and the request are the same: whoever knows the one could try the other.
    assert_ne!(names[0], names[1]);
}

fn redis_config(redis: &Redis) -> String {
    format!(
        "
litellm_settings:
  cache: true
  cache_params: {{ type: redis, host: 127.0.0.1, port: {}, namespace: 'test', ttl: 600 }}
",
        redis.port
    )
}

/// Waits until Redis holds so many answers: they are put there beside the request.
async fn kept(redis: &Redis, count: usize) {
    let wanted = format!(":{count}");
    eventually("it is kept", async || redis.command("DBSIZE").await == wanted).await;
}

#[tokio::test]
async fn redis_serves_one_gateway_what_another_has_kept() {
    let redis = Redis::on_port().await;
    let first = Setup::with(&redis_config(&redis)).await;
    let second = Setup::with(&redis_config(&redis)).await;
    first.simulator.enqueue(Reply::text("shared").usage(7, 3));
    assert!(!is_hit(&first.chat(&chat("gpt-4o-mini", "Hi")).await));
    kept(&redis, 1).await;
    let hit = second.chat(&chat("gpt-4o-mini", "Hi")).await;
    assert!(is_hit(&hit));
    assert_eq!(content(&hit), "shared");
    assert_eq!(hit.header("x-litellm-response-cost"), Some("0"));
    let streamed = second.chat(&stream("gpt-4o-mini", "Hi")).await;
    assert!(is_hit(&streamed));
    assert_eq!(streamed_content(&streamed), "shared");
    assert_eq!((first.asked().len(), second.asked().len()), (1, 0));
    let name = redis.command("RANDOMKEY").await;
    assert!(name.starts_with("test:"), "{name}");
}

#[tokio::test]
async fn gateway_does_without_a_redis_that_is_gone() {
    let redis = Redis::on_port().await;
    let setup = Setup::with(&redis_config(&redis)).await;
    setup.chat(&chat("gpt-4o-mini", "Hi")).await;
    kept(&redis, 1).await;
    assert!(is_hit(&setup.chat(&chat("gpt-4o-mini", "Hi")).await));
    drop(redis);
    for _ in 0..3 {
        let begun = std::time::Instant::now();
        let response = setup.chat(&chat("gpt-4o-mini", "Hi")).await;
        assert_eq!(response.status, 200, "{}", response.text());
        // It does not stand and wait for it.
        assert!(begun.elapsed() < std::time::Duration::from_secs(10), "{:?}", begun.elapsed());
    }
}

#[tokio::test]
async fn without_a_cache_nothing_is_cached() {
    let setup = Setup::start().await;
    for _ in 0..2 {
        assert!(!is_hit(&ask(&setup, &chat("gpt-4o-mini", "Hi")).await));
    }
    let simulator: &Simulator = &setup.simulator;
    assert_eq!(simulator.requests().len(), 2);
}

/// In dialects that are not OpenAI's an answer is given out just as it came: to the same form, under
/// the same name.
#[tokio::test]
async fn other_dialects_are_cached_by_their_form() {
    let setup = Setup::with(CACHE).await;
    let address = setup.gateway.address;
    let messages = |stream: bool| json!({"model": "claude", "max_tokens": 9, "stream": stream, "messages": [{"role": "user", "content": "Hi"}]});
    let contents = json!({"contents": [{"parts": [{"text": "Hi"}]}]});
    let ask = [
        ("/v1/messages", messages(false)),
        ("/v1/messages", messages(true)),
        ("/v1beta/models/gpt-4o-mini:generateContent", contents.clone()),
        ("/v1beta/models/claude:streamGenerateContent?alt=sse", contents),
        ("/v1/responses", json!({"model": "claude", "input": "Hi", "store": false})),
    ];
    for (path, body) in &ask {
        let first = post(address, path, body).await;
        assert_eq!((first.status, is_hit(&first)), (200, false), "{path}: {}", first.text());
        setup.settled(&first).await;
        let second = post(address, path, body).await;
        assert!(is_hit(&second), "{path}");
        assert_eq!(second.body, first.body, "{path}");
        assert_eq!(second.header("content-type"), first.header("content-type"));
    }
    assert_eq!(setup.asked().len(), ask.len());

    // One that is kept for later turns has an id of its own.
    let kept = json!({"model": "claude", "input": "Hi"});
    let (first, second) =
        (post(address, "/v1/responses", &kept).await, post(address, "/v1/responses", &kept).await);
    assert_ne!(first.json()["id"], second.json()["id"]);
}
