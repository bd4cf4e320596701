//! Streams: each event at once, an honest end, and nothing made up.

use std::time::Duration;

use serde_json::{Value, json};
use tollway_simulator::{End, Reply};
use tollway_tests::gateway::{MASTER_KEY, PATIENCE};
use tollway_tests::servers::HandMade;
use tollway_tests::setup::{UPSTREAM_KEY, within};
use tollway_tests::{Connection, Response, Setup, post, stream};

/// Patience that a stalled upstream uses up soon.
const SHORT: &str = "
server: { idle_timeout: 300ms }
router_settings: { num_retries: 0 }
";

/// Both dialects.
const MODELS: [&str; 2] = ["gpt-4o-mini", "claude"];

fn delta(event: &str) -> Value {
    let event: Value = serde_json::from_str(event).unwrap_or_else(|e| panic!("{e}: {event}"));
    event["choices"][0]["delta"].clone()
}

/// The text of a stream's events.
fn text(events: &[String]) -> String {
    let pieces = events.iter().filter(|event| *event != "[DONE]");
    pieces.filter_map(|event| delta(event)["content"].as_str().map(str::to_owned)).collect()
}

fn finish_reasons(events: &[String]) -> Vec<String> {
    let pieces = events.iter().filter(|event| *event != "[DONE]");
    pieces
        .filter_map(|event| {
            let event: Value = serde_json::from_str(event).expect("JSON");
            event["choices"][0]["finish_reason"].as_str().map(str::to_owned)
        })
        .collect()
}

/// What a broken stream must look like: what had come, then one error in OpenAI's shape, and no
/// claim that it is complete.
#[track_caller]
fn check_broken(response: &Response, what: &str) {
    let events = response.events();
    assert_eq!(response.status, 200, "{what}");
    assert!(!response.text().contains("[DONE]"), "{what}: {}", response.text());
    let (last, before) = events.split_last().unwrap_or_else(|| panic!("{what}: nothing came"));
    let last: Value = serde_json::from_str(last).unwrap_or_else(|e| panic!("{what}: {e}: {last}"));
    let error = last["error"].as_object().unwrap_or_else(|| panic!("{what}: no error: {last}"));
    for member in ["message", "type", "param", "code"] {
        assert!(error.contains_key(member), "{what}: {last}");
    }
    assert!(error["message"].as_str().is_some_and(|m| m.starts_with("litellm.")), "{what}: {last}");
    assert_eq!(finish_reasons(before), [""; 0], "{what}");
}

/// The next call is none the worse for what went before.
async fn check_next(setup: &Setup, model: &str) {
    setup.simulator.enqueue(Reply::text("as ever"));
    let response = setup.chat(&stream(model, "Hi")).await;
    assert_eq!(text(&response.events()), "as ever");
    assert_eq!(response.events().last().map(String::as_str), Some("[DONE]"));
}

#[tokio::test]
async fn event_is_passed_on_before_the_next_one_is_made() {
    for model in MODELS {
        let setup = Setup::start().await;
        setup.simulator.enqueue(Reply::text("one two").stall_after(1));
        let mut connection = setup.open_stream(&stream(model, "Hi")).await;
        // The upstream is silent from here on: what is not passed on now never is.
        let mut seen = String::new();
        while seen != "one" {
            let event = connection.next_event().await.expect("no end");
            seen.push_str(delta(&event)["content"].as_str().unwrap_or_default());
        }
    }
}

#[tokio::test]
async fn head_is_there_with_the_first_event() {
    let setup = Setup::start().await;
    // The opening event comes at once, the first token never.
    setup.simulator.enqueue(Reply::text("one").stall_after(0));
    let mut connection = setup.send_chat(MASTER_KEY, &stream("gpt-4o-mini", "Hi")).await;
    let (status, _) = connection.head().await;
    assert_eq!(status, 200);
    let event = connection.next_event().await.expect("no end");
    assert_eq!(delta(&event)["role"], "assistant");
}

#[tokio::test]
async fn stream_has_the_headers_that_keep_others_from_collecting_it() {
    let setup = Setup::start().await;
    for model in MODELS {
        let response = setup.chat(&stream(model, "Hi")).await;
        assert_eq!(response.header("content-type"), Some("text/event-stream; charset=utf-8"));
        assert_eq!(response.header("cache-control"), Some("no-cache"));
        assert_eq!(response.header("x-accel-buffering"), Some("no"));
        assert_eq!(response.header("transfer-encoding"), Some("chunked"));
        assert_eq!(response.header("content-length"), None);
        assert_eq!(response.header("x-litellm-model-group"), Some(model));
        // Nobody knows it yet.
        assert_eq!(response.header("x-litellm-response-cost"), None);
    }
}

#[tokio::test]
async fn stream_says_what_the_upstream_said_and_ends_with_done() {
    let setup = Setup::start().await;
    for model in MODELS {
        let said = "one two three \u{e9}\u{1f980} \\\" four";
        setup.simulator.enqueue(Reply::text(said));
        let response = setup.chat(&stream(model, "Hi")).await;
        let events = response.events();
        assert_eq!(text(&events), said, "{model}");
        assert_eq!(finish_reasons(&events), ["stop"]);
        assert_eq!(events.last().map(String::as_str), Some("[DONE]"));
        assert_eq!(events.iter().filter(|event| *event == "[DONE]").count(), 1);
        for event in &events[..events.len() - 1] {
            let event: Value = serde_json::from_str(event).expect("JSON");
            assert_eq!(event["object"], "chat.completion.chunk");
            assert_eq!(event["model"], model);
        }
    }
}

#[tokio::test]
async fn openais_events_pass_byte_for_byte() {
    let setup = Setup::start().await;
    let events = [
        "data: { \"model\" : \"gpt-4o-mini\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"\\u00e9\"},\"x\":1.0e0}]}\n\n",
        ": a comment\n\n",
        "data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n",
        "data: [DONE]\n\n",
    ];
    setup.simulator.enqueue(Reply::events(events));
    let response = setup.chat(&stream("gpt-4o-mini", "Hi")).await;
    assert_eq!(response.text(), events.concat());
}

#[tokio::test]
async fn usage_is_asked_for_upstream_and_kept_from_a_client_that_did_not_ask() {
    let setup = Setup::start().await;
    for model in MODELS {
        setup.simulator.enqueue(Reply::text("Hi").usage(21, 4));
        let response = setup.chat(&stream(model, "Hi")).await;
        let asked = setup.simulator.next_request().await;
        if model == "gpt-4o-mini" {
            assert_eq!(asked.json()["stream_options"], json!({"include_usage": true}));
        }
        for event in response.events().iter().filter(|event| *event != "[DONE]") {
            let event: Value = serde_json::from_str(event).expect("JSON");
            assert_ne!(event["choices"], json!([]), "{model}: {event}");
            assert!(event["usage"].is_null(), "{model}: {event}");
        }
        // It was metered all the same.
        let line = setup.settled(&response).await;
        assert_eq!((&line["prompt_tokens"], &line["completion_tokens"]), (&json!(21), &json!(4)));
    }
}

#[tokio::test]
async fn usage_is_given_in_an_event_of_its_own_when_asked_for() {
    let setup = Setup::start().await;
    for model in MODELS {
        setup.simulator.enqueue(Reply::text("Hi").usage(21, 4));
        let mut body = stream(model, "Hi");
        body["stream_options"] = json!({"include_usage": true});
        let events = setup.chat(&body).await.events();
        let usage = &events[events.len() - 2];
        let usage: Value = serde_json::from_str(usage).expect("JSON");
        assert_eq!(usage["choices"], json!([]), "{model}");
        assert_eq!(usage["usage"]["prompt_tokens"], 21, "{model}");
        assert_eq!(usage["usage"]["completion_tokens"], 4);
        assert_eq!(usage["usage"]["total_tokens"], 25);
        let others = &events[..events.len() - 2];
        assert!(others.iter().all(|event| !event.contains("\"total_tokens\"")), "{others:?}");
    }
}

#[tokio::test]
async fn legacy_completions_stream() {
    let setup = Setup::start().await;
    setup.simulator.enqueue(Reply::text("of times"));
    let body = json!({"model": "gpt-3.5-turbo-instruct", "prompt": "It was", "stream": true});
    let response = post(setup.gateway.address, "/v1/completions", &body).await;
    let events = response.events();
    let said: String = events[..events.len() - 1]
        .iter()
        .filter_map(|event| {
            let event: Value = serde_json::from_str(event).expect("JSON");
            event["choices"][0]["text"].as_str().map(str::to_owned)
        })
        .collect();
    assert_eq!(said, "of times");
    assert_eq!(events.last().map(String::as_str), Some("[DONE]"));
}

#[tokio::test]
async fn tool_calls_are_streamed_with_their_own_indexes() {
    let setup = Setup::start().await;
    for model in MODELS {
        let reply = Reply::tool("weather", r#"{"city":"Ulm"}"#).and_tool("time", r#"{"zone":1}"#);
        setup.simulator.enqueue(reply);
        let mut body = stream(model, "Hi");
        let parameters = json!({"type": "object", "properties": {}});
        body["tools"] = ["weather", "time"]
            .map(|name| {
                json!({"type": "function", "function": {"name": name, "parameters": parameters}})
            })
            .to_vec()
            .into();
        let response = setup.chat(&body).await;
        let mut calls = [(String::new(), String::new()), (String::new(), String::new())];
        for event in response.events().iter().filter(|event| *event != "[DONE]") {
            for call in delta(event)["tool_calls"].as_array().into_iter().flatten() {
                let index = call["index"].as_u64().expect("an index") as usize;
                let (name, arguments) = &mut calls[index];
                name.push_str(call["function"]["name"].as_str().unwrap_or_default());
                arguments.push_str(call["function"]["arguments"].as_str().unwrap_or_default());
            }
        }
        let expect = [("weather", r#"{"city":"Ulm"}"#), ("time", r#"{"zone":1}"#)];
        let expect = expect.map(|(name, arguments)| (name.to_owned(), arguments.to_owned()));
        assert_eq!(calls, expect, "{model}");
        assert_eq!(finish_reasons(&response.events()), ["tool_calls"]);
    }
}

#[tokio::test]
async fn http_1_0_client_gets_the_stream_without_chunks_until_the_connection_closes() {
    let setup = Setup::start().await;
    for model in MODELS {
        setup.simulator.enqueue(Reply::text("one two"));
        let body = stream(model, "Hi").to_string();
        let head = format!(
            "POST /v1/chat/completions HTTP/1.0\r\nauthorization: Bearer {MASTER_KEY}\r\n\
             content-type: application/json\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        let mut connection = Connection::open(setup.gateway.address).await;
        connection.write((head + &body).as_bytes()).await;
        let response = connection.response().await;
        assert_eq!(response.header("transfer-encoding"), None);
        assert_eq!(response.status, 200, "{model}: {}", response.text());
        assert_eq!(text(&response.events()), "one two");
        assert_eq!(response.events().last().map(String::as_str), Some("[DONE]"));
    }
}

#[tokio::test]
async fn slow_reader_slows_the_upstream_instead_of_filling_memory() {
    let setup = Setup::start().await;
    assert_eq!(setup.chat(&stream("gpt-4o-mini", "Hi")).await.status, 200);
    setup.simulator.next_request().await;
    let before = setup.gateway.resident_bytes();
    // 64 MB, which no socket buffers hold.
    let event = format!(
        "data: {{\"choices\":[{{\"index\":0,\"delta\":{{\"content\":\"{}\"}}}}]}}\n\n",
        "x".repeat(64 << 10)
    );
    let mut events = vec![event; 1000];
    events.push("data: {\"choices\":[{\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n".into());
    events.push("data: [DONE]\n\n".into());
    let length: usize = events.iter().map(String::len).sum();
    setup.simulator.enqueue(Reply::events(events));
    let mut connection = setup.open_stream(&stream("gpt-4o-mini", "Hi")).await;
    let asked = setup.simulator.next_request().await;
    connection.next_event().await.expect("no end");
    // The reader has read one event. The upstream is stuck in its writes; other calls are not.
    for _ in 0..20 {
        assert_eq!(setup.chat(&stream("claude", "Hi")).await.status, 200);
    }
    let grown = setup.gateway.resident_bytes().saturating_sub(before);
    assert!(grown < 24 << 20, "grown by {} KiB", grown >> 10);
    let mut left = length;
    while let Some(event) = connection.next_event().await {
        left = left.saturating_sub(event.len());
    }
    assert!(left < length / 100, "the rest came: {left} missing");
    assert_eq!(setup.simulator.outcome(asked.id).await.end, End::Complete);
}

#[tokio::test]
async fn stream_that_breaks_in_the_middle_ends_with_an_error_and_no_done() {
    let setup = Setup::with(SHORT).await;
    for model in MODELS {
        for fault in [
            "cut_after=2",
            "reset_after=2",
            "bad_chunk_after=2",
            "stall_after=2",
            "error_event=2",
            "garbage=2",
        ] {
            let what = format!("{model}: {fault}");
            let said = format!("[[sim say=\"one two three four\" {fault}]]");
            let response = within(PATIENCE, &what, setup.chat(&stream(model, &said))).await;
            check_broken(&response, &what);
            assert_eq!(
                text(&response.events()[..response.events().len() - 1]),
                "one two",
                "{what}"
            );
            let line = setup.settled(&response).await;
            assert_eq!((&line["outcome"], &line["level"]), (&json!("broken"), &json!("error")));
            check_next(&setup, model).await;
        }
    }
}

#[tokio::test]
async fn stream_that_stops_without_saying_so_is_not_called_complete() {
    let setup = Setup::with(SHORT).await;
    // No finish, no [DONE]: the connection ends in good order all the same.
    for model in MODELS {
        for fault in ["no_done no_finish", "no_done no_finish until_close"] {
            let said = format!("[[sim say=\"one two\" {fault}]]");
            let response = setup.chat(&stream(model, &said)).await;
            check_broken(&response, &format!("{model}: {fault}"));
        }
    }
    // Anthropic ends with message_stop; without it the answer is not complete.
    let response = setup.chat(&stream("claude", "[[sim say=\"one two\" no_done]]")).await;
    assert!(!response.text().contains("[DONE]"), "{}", response.text());
}

#[tokio::test]
async fn openai_stream_that_finished_without_done_gets_one() {
    // Servers that are only nearly compatible do that; all that matters has come.
    let setup = Setup::start().await;
    let response = setup.chat(&stream("gpt-4o-mini", "[[sim say=\"one two\" no_done]]")).await;
    let events = response.events();
    assert_eq!(text(&events), "one two");
    assert_eq!(finish_reasons(&events), ["stop"]);
    assert_eq!(events.last().map(String::as_str), Some("[DONE]"));
}

#[tokio::test]
async fn finish_reason_is_never_made_up() {
    let setup = Setup::with(SHORT).await;
    let response = setup.chat(&stream("gpt-4o-mini", "[[sim say=\"one two\" no_finish]]")).await;
    assert_eq!(finish_reasons(&response.events()), [""; 0], "{}", response.text());
}

#[tokio::test]
async fn line_without_end_breaks_the_stream_and_not_the_memory() {
    let setup = Setup::with(SHORT).await;
    for model in MODELS {
        assert_eq!(setup.chat(&stream(model, "Hi")).await.status, 200);
        let before = setup.gateway.resident_bytes();
        let said = "[[sim say=\"one two\" huge_line=100000000]]";
        let response = setup.chat(&stream(model, said)).await;
        assert!(!response.text().contains("[DONE]"), "{model}");
        // Before the first event that failed nothing was sent: a status can still tell.
        if response.status == 200 {
            check_broken(&response, model);
        }
        let grown = setup.gateway.resident_bytes().saturating_sub(before);
        assert!(grown < 40 << 20, "{model}: grown by {} KiB", grown >> 10);
        check_next(&setup, model).await;
    }
}

#[tokio::test]
async fn how_the_upstream_cuts_its_bytes_does_not_matter() {
    let setup = Setup::start().await;
    for model in MODELS {
        for shape in
            ["split=1", "split=3", "crlf", "comments", "coalesce", "crlf split=1", "until_close"]
        {
            let what = format!("{model}: {shape}");
            let said = format!("[[sim say=\"one two \u{e9}\u{1f980}\" {shape}]]");
            let response = setup.chat(&stream(model, &said)).await;
            let events = response.events();
            assert_eq!(text(&events), "one two \u{e9}\u{1f980}", "{what}");
            assert_eq!(finish_reasons(&events), ["stop"], "{what}");
            assert_eq!(events.last().map(String::as_str), Some("[DONE]"), "{what}");
        }
    }
}

#[tokio::test]
async fn failure_before_the_first_event_is_an_ordinary_error() {
    let setup = Setup::with(SHORT).await;
    for model in MODELS {
        for (directive, status) in [
            ("status=500", 500),
            ("status=429", 429),
            ("status=400", 400),
            ("close_before_head", 500),
            ("html", 500),
        ] {
            let response = setup.chat(&stream(model, &format!("[[sim {directive}]]"))).await;
            assert_eq!(response.status, status, "{model}: {directive}: {}", response.text());
            assert_eq!(response.header("content-type"), Some("application/json"));
            assert!(response.error("message").is_string());
        }
    }
}

#[tokio::test]
async fn stall_is_given_up_after_the_idle_timeout() {
    let setup = Setup::with(SHORT).await;
    for model in MODELS {
        let response = setup.chat(&stream(model, "[[sim say=\"one two\" stall_after=1]]")).await;
        check_broken(&response, model);
        let last = response.events().pop().expect("an error");
        assert!(last.contains("litellm.Timeout"), "{last}");
        // And the upstream is told.
        assert_eq!(setup.simulator.next_cancelled().await.end, End::ClientLeft);
    }
}

#[tokio::test]
async fn stream_keeps_the_upstreams_connection_for_the_next_one() {
    let setup = Setup::start().await;
    for model in MODELS {
        for _ in 0..4 {
            let response = setup.chat(&stream(model, "Hi")).await;
            assert_eq!(response.events().last().map(String::as_str), Some("[DONE]"));
            setup.settled(&response).await;
        }
    }
    // Both models are at one address, and what was dirty would not have been kept.
    assert_eq!(setup.simulator.connections().total, 1);
    assert_eq!(setup.asked().len(), 8);
}

#[tokio::test]
async fn connection_that_broke_is_not_used_again() {
    let setup = Setup::with(SHORT).await;
    let said = "[[sim say=\"one two\" error_event=1]]";
    setup.chat(&stream("gpt-4o-mini", said)).await;
    for fault in ["stall_after=1", "garbage=1"] {
        let said = format!("[[sim say=\"one two\" {fault}]]");
        let broken = setup.chat(&stream("gpt-4o-mini", &said)).await;
        setup.settled(&broken).await;
        let broken_on = setup.asked().last().expect("a request").connection;
        check_next(&setup, "gpt-4o-mini").await;
        assert_ne!(setup.asked().last().expect("a request").connection, broken_on, "{fault}");
    }
}

#[tokio::test]
async fn client_connection_is_as_good_as_new_after_a_stream() {
    let setup = Setup::with(SHORT).await;
    let mut connection = Connection::open(setup.gateway.address).await;
    for said in ["Hi", "[[sim say=\"one two\" cut_after=1]]", "Hi"] {
        let body = stream("claude", said).to_string();
        connection.request("POST", "/v1/chat/completions", &[], body.as_bytes()).await;
        let response = connection.response().await;
        assert_eq!(response.status, 200);
    }
}

#[tokio::test]
async fn whole_answer_becomes_a_stream_where_one_was_asked_for() {
    let setup = Setup::start().await;
    let answer = json!({
        "id": "c", "object": "chat.completion", "created": 1, "model": "gpt-4o-mini",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "one two"},
                     "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5},
    });
    setup.simulator.enqueue(Reply::json(200, &answer));
    let response = setup.chat(&stream("gpt-4o-mini", "Hi")).await;
    let events = response.events();
    assert_eq!(text(&events), "one two");
    assert_eq!(finish_reasons(&events), ["stop"]);
    assert_eq!(events.last().map(String::as_str), Some("[DONE]"));
    let line = setup.settled(&response).await;
    assert_eq!((&line["prompt_tokens"], &line["completion_tokens"]), (&json!(3), &json!(2)));
}

#[tokio::test]
async fn credential_is_found_in_a_stream_also_where_a_read_cuts_it() {
    let upstream = HandMade::start().await;
    let config = format!(
        "
model_list:
  - model_name: gpt-4o-mini
    litellm_params: {{ model: openai/gpt-4o-mini, api_key: $KEY, api_base: 'http://{}/v1' }}
",
        upstream.address
    );
    let setup = Setup::with(&config).await;
    let (begin, rest) = UPSTREAM_KEY.split_at(10);
    let event = |content: &str| {
        format!(
            "data: {{\"choices\":[{{\"index\":0,\"delta\":{{\"content\":\"{content}\"}}}}]}}\n\n"
        )
    };
    let whole = event(UPSTREAM_KEY);
    let cut = whole.find(rest).expect("it is in there");
    assert!(whole[..cut].ends_with(begin));
    let mut connection = setup.send_chat(MASTER_KEY, &stream("gpt-4o-mini", "Hi")).await;
    let mut call = upstream.call().await;
    let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n";
    call.write(format!("{head}{}{}", event("first"), &whole[..cut])).await;
    connection.head().await;
    // The client has the first event, so the gateway has read all of the first write.
    let first = connection.next_event().await.expect("no end");
    assert_eq!(delta(&first)["content"], "first");
    call.write(&whole[cut..]).await;
    let second = connection.next_event().await.expect("no end");
    assert!(!second.contains(UPSTREAM_KEY), "{second}");
}

#[tokio::test]
async fn client_that_only_closes_its_sending_side_is_not_served_for_ever() {
    let setup = Setup::start().await;
    setup.simulator.enqueue(Reply::tokens(1000).rate(50.0));
    let mut connection = setup.open_stream(&stream("gpt-4o-mini", "Hi")).await;
    let asked = setup.simulator.next_request().await;
    connection.next_event().await.expect("no end");
    connection.half_close().await;
    // Pingora takes it for a client that left, and HTTP clients do not do it: whether it is told
    // is open, but it is decided long before the 20 seconds that the stream would last.
    let outcome =
        within(Duration::from_secs(10), "an end", setup.simulator.outcome(asked.id)).await;
    assert_eq!(outcome.end, End::ClientLeft);
    setup.gateway.idle().await;
}
