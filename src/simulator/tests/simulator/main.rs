//! The simulator over real sockets, through a client that sees every byte.

#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

mod client;
mod cuts;
mod gemini_bedrock_cohere;
mod openai;
mod realtime;

use std::time::Duration;

use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tollway_simulator::{DIRECTIVES, End, Fixed, Options, Reply, Simulator};

use crate::client::{Client, Ended, Response};

const CHAT: &str = "/v1/chat/completions";

async fn simulator() -> Simulator {
    Simulator::start(Options::default()).await.unwrap()
}

fn chat(text: &str) -> Value {
    json!({"model": "echo", "messages": [{"role": "user", "content": text}]})
}

fn streamed(text: &str) -> Value {
    json!({
        "model": "echo",
        "messages": [{"role": "user", "content": text}],
        "stream": true,
        "stream_options": {"include_usage": true},
    })
}

async fn ask(simulator: &Simulator, body: &Value) -> Response {
    Client::new(simulator).await.post(CHAT, "", body).await.unwrap()
}

async fn ask_anthropic(simulator: &Simulator, body: &Value) -> Response {
    let headers = "anthropic-version: 2023-06-01\r\n";
    Client::new(simulator).await.post("/v1/messages", headers, body).await.unwrap()
}

#[tokio::test]
async fn chat_says_that_it_is_simulated() {
    let simulator = simulator().await;
    let body = json!({"model": "demo/chat", "messages": [{"role": "user", "content": "Hi there"}]});
    let response = ask(&simulator, &body).await;
    let answer = response.json();
    assert_eq!(response.header("x-tollway-simulated").as_deref(), Some("true"));
    assert_eq!(
        answer["choices"][0]["message"]["content"],
        "This is Tollway's simulated provider; no model was asked. You said: Hi there"
    );
    assert_eq!(answer["system_fingerprint"], "simulated");
    assert_eq!(answer["model"], "demo/chat");
    assert_eq!(answer["choices"][0]["finish_reason"], "stop");
}

#[tokio::test]
async fn a_stream_carries_the_same_answer_and_usage_as_json_and_both_are_billed() {
    let simulator = simulator().await;
    let text = "one two simulated 🦀";
    let whole = ask(&simulator, &chat(text)).await.json();
    let stream = ask(&simulator, &streamed(text)).await;
    assert_eq!(stream.streamed(), text);
    assert_eq!(whole["choices"][0]["message"]["content"], text);
    let events = stream.events();
    assert_eq!(events.last(), Some(&json!("[DONE]")));
    let usage = &events[events.len() - 2];
    assert_eq!(usage["choices"], json!([]));
    assert_eq!(usage["usage"], whole["usage"]);
    assert_eq!(usage["usage"]["completion_tokens"], 6);
    assert_eq!(events[0]["choices"][0]["delta"]["role"], "assistant");
    assert!(events[..events.len() - 2].iter().all(|e| e.get("usage") == Some(&Value::Null)));
    assert_eq!(events[events.len() - 3]["choices"][0]["finish_reason"], "stop");
    let billed = simulator.billed();
    assert_eq!((billed.requests, billed.completion_tokens), (2, 12));
    assert_eq!(usage["usage"]["prompt_tokens"].as_u64(), Some(billed.prompt_tokens / 2));
}

#[tokio::test]
async fn max_tokens_stop_and_n_are_honoured() {
    let simulator = simulator().await;
    let mut body = streamed("[[sim tokens=200]]");
    body["max_tokens"] = 7.into();
    let response = ask(&simulator, &body).await;
    let events = response.events();
    assert_eq!(events[events.len() - 2]["usage"]["completion_tokens"], 7);
    assert_eq!(events[events.len() - 3]["choices"][0]["finish_reason"], "length");
    let mut body = chat("one two three");
    body["stop"] = json!(["thr"]);
    body["n"] = 2.into();
    let answer = ask(&simulator, &body).await.json();
    assert_eq!(answer["choices"][1]["message"]["content"], "one two ");
    assert_eq!(answer["usage"]["completion_tokens"], 4);
}

#[tokio::test]
async fn tokens_directive_answers_exactly_that_many() {
    let simulator = simulator().await;
    for count in [0, 1, 200] {
        let answer = ask(&simulator, &chat(&format!("[[sim tokens={count}]]"))).await.json();
        assert_eq!(answer["usage"]["completion_tokens"], count);
    }
}

#[tokio::test]
async fn anthropic_streams_have_every_event_in_order() {
    let simulator = simulator().await;
    let body = json!({
        "model": "m",
        "max_tokens": 1000,
        "stream": true,
        "thinking": {"type": "enabled", "budget_tokens": 1024},
        "messages": [{"role": "user", "content": [
            {"type": "text", "text": "[[sim say=\"Hello\" think=hm tool=find args={\"q\":1} cached=2]]"}
        ]}],
    });
    let response = ask_anthropic(&simulator, &body).await;
    let events = response.events();
    let kinds: Vec<_> = events.iter().filter_map(|event| event["type"].as_str()).collect();
    assert_eq!(
        kinds,
        [
            "message_start",
            "ping",
            "content_block_start",
            "content_block_delta",
            "content_block_delta",
            "content_block_stop",
            "content_block_start",
            "content_block_delta",
            "content_block_delta",
            "content_block_stop",
            "content_block_start",
            "content_block_delta",
            "content_block_delta",
            "content_block_delta",
            "content_block_stop",
            "message_delta",
            "message_stop",
        ]
    );
    let indexes: Vec<_> = events.iter().filter_map(|event| event["index"].as_u64()).collect();
    assert_eq!(indexes, [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 2]);
    assert_eq!(events[4]["delta"]["type"], "signature_delta");
    assert_eq!(events[10]["content_block"]["name"], "find");
    let arguments: String =
        events.iter().filter_map(|event| event["delta"]["partial_json"].as_str()).collect();
    assert_eq!(arguments, r#"{"q":1}"#);
    assert_eq!(events[15]["delta"]["stop_reason"], "tool_use");
    assert_eq!(events[15]["usage"]["cache_read_input_tokens"], 2);
    let text = response.text();
    assert!(text.contains("event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n"));

    let mut body = body;
    body["stream"] = false.into();
    let message = ask_anthropic(&simulator, &body).await.json();
    let kinds: Vec<_> =
        message["content"].as_array().unwrap().iter().map(|block| &block["type"]).collect();
    assert_eq!(kinds, ["thinking", "text", "tool_use"]);
    assert_eq!(message["content"][2]["input"], json!({"q": 1}));
    assert_eq!(message["usage"]["output_tokens"], events[15]["usage"]["output_tokens"]);
}

#[tokio::test]
async fn anthropic_errors_have_their_own_shape() {
    let simulator = simulator().await;
    let mut body = json!({"model": "m", "max_tokens": 5, "messages": [
        {"role": "user", "content": "[[sim status=529]]"}
    ]});
    let response = ask_anthropic(&simulator, &body).await;
    assert_eq!(response.status, 529);
    assert_eq!(response.json()["error"]["type"], "overloaded_error");
    body["max_tokens"] = Value::Null;
    let error = ask_anthropic(&simulator, &body).await.json();
    assert_eq!(error["type"], "error");
    assert!(error["error"]["message"].as_str().unwrap().contains("max_tokens"));
    let mut client = Client::new(&simulator).await;
    let error = client.post("/v1/messages", "", &body).await.unwrap().json();
    assert!(error["error"]["message"].as_str().unwrap().contains("anthropic-version"));
}

#[tokio::test]
async fn tools_are_called_once_and_their_result_is_reported() {
    let simulator = simulator().await;
    let mut body = json!({
        "model": "tools",
        "messages": [{"role": "user", "content": "weather in Ulm"}],
        "tools": [{"type": "function", "function": {"name": "weather", "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
        }}}],
    });
    let answer = ask(&simulator, &body).await.json();
    let message = answer["choices"][0]["message"].clone();
    assert_eq!(answer["choices"][0]["finish_reason"], "tool_calls");
    assert_eq!(message["content"], Value::Null);
    assert_eq!(message["tool_calls"][0]["function"]["name"], "weather");
    assert_eq!(message["tool_calls"][0]["function"]["arguments"], r#"{"city":"weather in Ulm"}"#);
    let id = message["tool_calls"][0]["id"].clone();
    let messages = body["messages"].as_array_mut().unwrap();
    messages.push(message);
    messages.push(json!({"role": "tool", "tool_call_id": id, "content": "12 °C"}));
    let answer = ask(&simulator, &body).await.json();
    assert_eq!(answer["choices"][0]["message"]["content"], "The tool answered: 12 °C");
}

#[tokio::test]
async fn scripted_tool_calls_go_round_by_round() {
    let simulator = simulator().await;
    let mut body = chat("[[sim tool=search then tool=fetch args={\"n\":[1]} then]] go");
    for expected in ["search", "fetch"] {
        let answer = ask(&simulator, &body).await.json();
        let message = answer["choices"][0]["message"].clone();
        assert_eq!(message["tool_calls"][0]["function"]["name"], expected);
        let messages = body["messages"].as_array_mut().unwrap();
        messages.push(message);
        messages.push(json!({"role": "tool", "tool_call_id": "x", "content": "done"}));
    }
    let answer = ask(&simulator, &body).await.json();
    assert_eq!(answer["choices"][0]["message"]["content"], "The tool answered: done; done");
}

#[tokio::test]
async fn streamed_tool_calls_add_up() {
    let simulator = simulator().await;
    simulator.enqueue(Reply::tool("a", r#"{"long argument":"value"}"#).and_tool("b", "{}"));
    let response = ask(&simulator, &streamed("hi")).await;
    let mut arguments = [String::new(), String::new()];
    let mut names = Vec::new();
    for event in response.events() {
        for call in event["choices"][0]["delta"]["tool_calls"].as_array().into_iter().flatten() {
            let index = call["index"].as_u64().unwrap() as usize;
            arguments[index].push_str(call["function"]["arguments"].as_str().unwrap());
            names.extend(call["function"]["name"].as_str().map(str::to_owned));
        }
    }
    assert_eq!(names, ["a", "b"]);
    assert_eq!(arguments, [r#"{"long argument":"value"}"#, "{}"]);
}

#[tokio::test]
async fn other_endpoints_answer() {
    let simulator = simulator().await;
    let mut client = Client::new(&simulator).await;
    client.send("GET /v1/models HTTP/1.1\r\n\r\n").await;
    assert_eq!(client.response().await.unwrap().json()["data"][0]["id"], "chat");
    let body = json!({"model": "echo", "prompt": "one two", "stream": true});
    let events = client.post("/v1/completions", "", &body).await.unwrap().events();
    assert_eq!(events[1]["choices"][0]["text"], " two");
    assert_eq!(events[1]["object"], "text_completion");
    let body = json!({"model": "embed", "input": "x", "dimensions": 2});
    let answer = client.post("/embeddings", "", &body).await.unwrap().json();
    assert_eq!(answer["data"][0]["embedding"].as_array().unwrap().len(), 2);
    let body = json!({"model": "embed", "input": "x [[sim status=503]]"});
    assert_eq!(client.post("/embeddings", "", &body).await.unwrap().status, 503);
    assert_eq!(client.post("/v1/nothing", "", &body).await.unwrap().status, 404);
    client.send("DELETE /v1/models HTTP/1.1\r\n\r\n").await;
    assert_eq!(client.response().await.unwrap().status, 405);
    assert_eq!(simulator.connections().total, 1);
}

#[tokio::test]
async fn a_required_key_is_required_in_any_of_its_headers() {
    let options = Options { required_key: Some("sk-1".into()), ..Options::default() };
    let simulator = Simulator::start(options).await.unwrap();
    let mut client = Client::new(&simulator).await;
    for (headers, status) in [
        ("", 401),
        ("authorization: Bearer sk-2\r\n", 401),
        ("authorization: Bearer sk-1\r\n", 200),
        ("x-api-key: sk-1\r\n", 200),
        ("api-key: sk-1\r\n", 200),
    ] {
        let response = client.post(CHAT, headers, &chat("hi")).await.unwrap();
        assert_eq!(response.status, status, "{headers}");
    }
}

#[tokio::test]
async fn demo_refuses_unknown_models_and_remembers_nothing() {
    let options = Options { first_token_delay: Duration::ZERO, ..Options::demo() };
    let simulator = Simulator::start(options).await.unwrap();
    let mut body = chat("a");
    assert_eq!(ask(&simulator, &body).await.status, 200);
    body["model"] = "gpt-9".into();
    let response = ask(&simulator, &body).await;
    assert_eq!(
        (response.status, &response.json()["error"]["code"]),
        (404, &json!("model_not_found"))
    );
    assert!(simulator.requests().is_empty());
}

#[tokio::test]
async fn errors_carry_what_was_asked_for_and_cost_nothing() {
    let simulator = simulator().await;
    let directive = r#"[[sim status=400 code=context_length_exceeded message="Too long."]]"#;
    let response = ask(&simulator, &streamed(directive)).await;
    assert_eq!(response.status, 400);
    let error = json!({
        "message": "Too long.",
        "type": "invalid_request_error",
        "param": null,
        "code": "context_length_exceeded",
    });
    assert_eq!(response.json()["error"], error);
    let response = ask(&simulator, &chat("[[sim status=429 retry_after=1500ms]]")).await;
    assert_eq!(response.header("retry-after").as_deref(), Some("2"));
    assert_eq!(response.header("retry-after-ms").as_deref(), Some("1500"));
    assert_eq!(simulator.billed().requests, 0);
}

#[tokio::test]
async fn unknown_directives_are_refused_and_all_are_ignored_unless_allowed() {
    let simulator = simulator().await;
    let response = ask(&simulator, &chat("[[sim statsu=1]]")).await;
    assert_eq!(response.status, 400);
    assert!(response.text().contains("unknown simulator directive `statsu`"));
    let mut client = Client::new(&simulator).await;
    let header = "x-tollway-sim: status=503\r\n";
    assert_eq!(client.post(CHAT, header, &chat("hi")).await.unwrap().status, 503);
    let options = Options { directives: false, ..Options::default() };
    let simulator = Simulator::start(options).await.unwrap();
    let response = ask(&simulator, &chat("[[sim status=429]]")).await;
    assert_eq!(response.json()["choices"][0]["message"]["content"], "[[sim status=429]]");
}

#[tokio::test]
async fn enqueued_replies_go_first_then_the_script() {
    let options = Options::default()
        .with_script(|request| request.is_stream().then(|| Reply::text("scripted")));
    let simulator = Simulator::start(options).await.unwrap();
    simulator.enqueue(Reply::error(500));
    assert_eq!(ask(&simulator, &streamed("hi")).await.status, 500);
    assert_eq!(ask(&simulator, &streamed("hi")).await.streamed(), "scripted");
    let answer = ask(&simulator, &chat("hi")).await.json();
    assert_eq!(answer["choices"][0]["message"]["content"], "hi");
}

#[tokio::test]
async fn streams_break_where_they_are_told_to() {
    let simulator = simulator().await;
    let stream = |directive: &str| streamed(&format!("[[sim tokens=9 {directive}]]"));
    for (directive, ended) in [
        ("cut_after=3", Ended::Short),
        ("reset_after=3", Ended::Reset),
        ("bad_chunk_after=3", Ended::BadChunk),
        ("cut_after=3 coalesce", Ended::Short),
    ] {
        let response = ask(&simulator, &stream(directive)).await;
        assert_eq!(response.ended, ended, "{directive}");
        assert_eq!(response.streamed(), "one more word", "{directive}");
        let id = simulator.next_request().await.id;
        let outcome = simulator.outcome(id).await;
        assert_eq!((outcome.end, outcome.chunks), (End::Broken, 3), "{directive}");
    }
    assert_eq!(simulator.billed().completion_tokens, 12);
    // A fault beyond the end of the text happens at its end.
    let response = ask(&simulator, &stream("cut_after=99")).await;
    assert_eq!((response.ended, response.events().len()), (Ended::Short, 10));
}

#[tokio::test]
async fn json_bodies_break_after_so_many_bytes() {
    let simulator = simulator().await;
    for (directive, ended, length) in
        [("cut_after=5", Ended::Short, 5), ("reset_after=5", Ended::Reset, 5)]
    {
        let response = ask(&simulator, &chat(&format!("[[sim {directive}]]"))).await;
        assert_eq!((response.ended, response.body.len()), (ended, length), "{directive}");
    }
    let response = ask(&simulator, &chat("[[sim wrong_content_length]]")).await;
    assert_eq!(response.ended, Ended::Short);
    assert!(response.text().ends_with("\"simulated\"}"));
    let response = ask(&simulator, &chat("[[sim wrong_content_length=-5]]")).await;
    assert_eq!(response.ended, Ended::Complete);
    assert!(response.text().ends_with("\"simula"));
}

#[tokio::test]
async fn streams_that_end_in_good_order_can_still_lack_parts() {
    let simulator = simulator().await;
    let response = ask(&simulator, &streamed("[[sim tokens=2 no_done]]")).await;
    assert_eq!(response.ended, Ended::Complete);
    assert!(response.events().last().unwrap()["usage"].is_object());
    let response = ask(&simulator, &streamed("[[sim tokens=2 no_finish no_usage]]")).await;
    assert!(!response.text().contains("\"stop\""));
    assert!(!response.text().contains("usage"));
    let response = ask(&simulator, &streamed("[[sim tokens=2 error_event]]")).await;
    assert_eq!(response.ended, Ended::Complete);
    assert_eq!(response.events()[2]["error"]["type"], "server_error");
    assert_eq!(response.events().len(), 3);
    let response = ask(&simulator, &streamed("[[sim tokens=2 garbage]]")).await;
    assert!(response.body.windows(2).any(|window| window == [0xff, 0xfe]));
    assert!(response.text().ends_with("data: [DONE]\n\n"));
}

#[tokio::test]
async fn no_answer_is_an_answer_too() {
    let simulator = simulator().await;
    for directive in ["close_before_head", "reset_before_head", "cut_head"] {
        let body = chat(&format!("[[sim {directive}]]"));
        let mut client = Client::new(&simulator).await;
        assert!(client.post(CHAT, "", &body).await.is_none(), "{directive}");
        let expected = if directive.starts_with("reset") { Ended::Reset } else { Ended::Short };
        assert_eq!(client.gone, Some(expected), "{directive}");
    }
}

#[tokio::test]
async fn writes_can_be_split_gathered_and_decorated() {
    let simulator = simulator().await;
    let plain = ask(&simulator, &streamed("[[sim say=\"a b\"]]")).await;
    for directive in ["split=1", "coalesce", "crlf", "comments", "until_close", "split=7 crlf"] {
        let body = streamed(&format!("[[sim say=\"a b\" {directive}]]"));
        let response = ask(&simulator, &body).await;
        assert_eq!(response.streamed(), "a b", "{directive}");
        assert_eq!(response.events().len(), plain.events().len(), "{directive}");
        assert_eq!(response.ended, Ended::Complete, "{directive}");
        match directive {
            "coalesce" => assert_eq!(response.chunks, 1),
            "crlf" => assert!(response.text().ends_with("[DONE]\r\n\r\n")),
            "comments" => assert!(response.text().starts_with(": ")),
            _ => {}
        }
    }
}

#[tokio::test]
async fn oversized_things_have_the_size_asked_for() {
    let simulator = simulator().await;
    let response = ask(&simulator, &streamed("[[sim say=a huge_line=1000000]]")).await;
    let longest = response.text().lines().map(str::len).max();
    assert_eq!((longest, response.streamed().as_str()), (Some(1_000_000), "a"));
    let response = ask(&simulator, &chat("[[sim huge_line=1000000]]")).await;
    assert!(response.body.len() > 1_000_000 && response.json().is_object());
    let response = ask(&simulator, &chat("[[sim big_header=200000]]")).await;
    assert_eq!(response.header("x-simulated-big").map(|value| value.len()), Some(200_000));
    let mut client = Client::new(&simulator).await;
    let mut response = client.post(CHAT, "", &chat("[[sim informational=50]]")).await.unwrap();
    for _ in 0..50 {
        assert_eq!(response.status, 103);
        response = client.response().await.unwrap();
    }
    assert_eq!(response.status, 200);
}

#[tokio::test]
async fn other_kinds_of_answer() {
    let simulator = simulator().await;
    let response = ask(&simulator, &chat("[[sim html status=502]]")).await;
    assert_eq!(
        (response.status, response.header("content-type").unwrap().as_str()),
        (502, "text/html")
    );
    let response = ask(&simulator, &chat("[[sim redirect=http://169.254.169.254/]]")).await;
    assert_eq!(response.status, 302);
    assert_eq!(response.header("location").as_deref(), Some("http://169.254.169.254/"));
    let response = ask(&simulator, &chat("[[sim gzip]]")).await;
    assert_eq!(response.header("content-encoding").as_deref(), Some("gzip"));
    assert!(response.body.starts_with(&[0x1f, 0x8b]));
    let response = ask(&simulator, &chat("[[sim header=\"x-a: b\" echo_body]]")).await;
    assert_eq!(response.header("x-a").as_deref(), Some("b"));
    assert!(response.text().contains("\\\"messages\\\""));
    simulator.enqueue(Reply::json(201, &json!({"a": 1})));
    let response = ask(&simulator, &chat("")).await;
    assert_eq!((response.status, response.json()), (201, json!({"a": 1})));
    simulator.enqueue(Reply::events(["data: 1\n\n", "data: 2\n\n"]));
    assert_eq!(ask(&simulator, &chat("")).await.events(), [1, 2]);
    simulator.enqueue(Reply::raw("HTTP/1.1 777 No\r\n\r\nbye"));
    let response = ask(&simulator, &chat("")).await;
    assert_eq!((response.status, response.text().as_str()), (777, "bye"));
}

#[tokio::test]
async fn echoed_headers_come_back_in_the_head_and_in_the_text() {
    let simulator = simulator().await;
    let mut client = Client::new(&simulator).await;
    let headers = "Authorization: Bearer sk-secret\r\n";
    let body = chat("[[sim echo_headers]]");
    let response = client.post(CHAT, headers, &body).await.unwrap();
    assert_eq!(response.header("authorization").as_deref(), Some("Bearer sk-secret"));
    assert_eq!(response.header("x-echo-authorization").as_deref(), Some("Bearer sk-secret"));
    assert!(response.text().contains("Authorization: Bearer sk-secret"));
    assert_eq!(client.post(CHAT, "", &chat("hi")).await.unwrap().status, 200);
}

#[tokio::test]
async fn close_after_closes_a_connection_that_looked_alive() {
    let simulator = simulator().await;
    let mut client = Client::new(&simulator).await;
    let response = client.post(CHAT, "", &chat("[[sim close_after]]")).await.unwrap();
    assert_eq!(response.header("connection"), None);
    assert!(client.is_closed().await);
}

#[tokio::test(start_paused = true)]
async fn tokens_come_at_the_rate_asked_for() {
    let simulator = simulator().await;
    let directives = "[[sim tokens=101 rate=50 first_byte_delay=500ms first_token_delay=2s]]";
    for body in [streamed(directives), chat(directives)] {
        let start = Instant::now();
        let response = ask(&simulator, &body).await;
        assert_eq!(response.ended, Ended::Complete);
        let seconds = start.elapsed().as_secs_f64();
        assert!((4.5..4.7).contains(&seconds), "{seconds}");
    }
}

#[tokio::test]
async fn a_client_that_leaves_is_noticed_and_pays_for_what_was_sent() {
    let simulator = simulator().await;
    for directive in ["stall_after=3", "hang", "first_byte_delay=1m", "tokens=4 rate=0.001"] {
        let mut client = Client::new(&simulator).await;
        let body = streamed(&format!("[[sim tokens=9 {directive}]]").replace("tokens=9 t", "t"));
        let head =
            format!("POST {CHAT} HTTP/1.1\r\ncontent-length: {}\r\n\r\n", body.to_string().len());
        client.send(head + &body.to_string()).await;
        let id = simulator.next_request().await.id;
        if directive.starts_with("stall") {
            client.until(b" word").await.unwrap();
        }
        drop(client);
        let outcome = simulator.next_cancelled().await;
        assert_eq!((outcome.id, outcome.end), (id, End::ClientLeft), "{directive}");
        if directive.starts_with("stall") {
            assert_eq!(outcome.chunks, 3);
            assert_eq!(simulator.billed().completion_tokens, 3);
        }
    }
    simulator.wait_connections(|now| now.open == 0).await;
}

#[tokio::test]
async fn a_client_that_leaves_a_stream_it_does_not_read_is_noticed() {
    let simulator = simulator().await;
    let mut client = Client::new(&simulator).await;
    let body = streamed("[[sim huge_line=1000000000000]]").to_string();
    let head = format!("POST {CHAT} HTTP/1.1\r\ncontent-length: {}\r\n\r\n", body.len());
    client.send(head + &body).await;
    client.until(b"aaaa").await.unwrap();
    drop(client);
    assert_eq!(simulator.next_cancelled().await.end, End::ClientLeft);
}

#[tokio::test]
async fn bodies_arrive_whole_however_they_are_sent() {
    let simulator = simulator().await;
    let body = chat("chunked").to_string();
    let (first, second) = body.split_at(10);
    let mut client = Client::new(&simulator).await;
    let head = format!("POST {CHAT} HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n");
    let chunks = format!("a\r\n{first}\r\n{:x};x=y\r\n{second}\r\n0\r\n\r\n", second.len());
    for byte in (head + &chunks).as_bytes() {
        client.send([*byte]).await;
    }
    assert_eq!(client.response().await.unwrap().status, 200);
    assert_eq!(simulator.next_request().await.body, body);

    let length = body.len();
    let head =
        format!("POST {CHAT} HTTP/1.1\r\nexpect: 100-continue\r\ncontent-length: {length}\r\n\r\n");
    client.send(head).await;
    assert_eq!(client.response().await.unwrap().status, 100);
    client.send(&body).await;
    assert_eq!(client.response().await.unwrap().status, 200);
    let received = simulator.wait_for(|request| request.header("Expect").is_some()).await;
    assert_eq!((received.json(), received.connection), (chat("chunked"), 1));
    assert_eq!(received.model().as_deref(), Some("echo"));

    // Two at once are answered one after the other.
    let request = format!("POST {CHAT} HTTP/1.1\r\ncontent-length: {length}\r\n\r\n{body}");
    client.send(request.repeat(2)).await;
    for _ in 0..2 {
        assert_eq!(client.response().await.unwrap().status, 200);
    }
}

#[tokio::test]
async fn old_clients_get_a_body_that_ends_with_the_connection() {
    let simulator = simulator().await;
    let mut client = Client::new(&simulator).await;
    let body = streamed("hi").to_string();
    client
        .send(format!("POST {CHAT} HTTP/1.0\r\ncontent-length: {}\r\n\r\n{body}", body.len()))
        .await;
    let response = client.response().await.unwrap();
    assert_eq!(response.header("transfer-encoding"), None);
    assert!(response.text().ends_with("[DONE]\n\n"));
}

#[tokio::test]
async fn bytes_that_are_no_request_are_refused_politely() {
    let simulator =
        Simulator::start(Options { body_bytes_max: 100, ..Options::default() }).await.unwrap();
    let long = format!("GET / HTTP/1.1\r\nx: {}\r\n\r\n", "a".repeat(70_000));
    let many = format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(101));
    let large = "POST / HTTP/1.1\r\ncontent-length: 101\r\n\r\n".to_owned();
    let chunk = "POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\nffff\r\n".to_owned();
    let bad = "POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\nxyz\r\n".to_owned();
    let tls = "\x16\x03\x01\x02\0\x01".to_owned();
    for (bytes, status) in
        [(long, 431), (many, 431), (large, 413), (chunk, 413), (bad, 400), (tls, 400)]
    {
        let mut client = Client::new(&simulator).await;
        client.send(&bytes).await;
        let response = client.response().await.unwrap();
        assert_eq!(response.status, status, "{:?}", bytes.get(..50));
        assert!(response.json()["error"]["message"].is_string());
        assert!(client.is_closed().await);
    }
    for body in ["", "{", "[]", "null", "{\"model\":1}", "{\"model\":\"a\",\"messages\":[1]}"] {
        let mut client = Client::new(&simulator).await;
        let length = body.len();
        client
            .send(format!("POST {CHAT} HTTP/1.1\r\ncontent-length: {length}\r\n\r\n{body}"))
            .await;
        assert_eq!(client.response().await.unwrap().status, 400, "{body}");
    }
}

#[tokio::test]
async fn fixed_answers_take_any_body_and_keep_the_connection() {
    let simulator = Simulator::start(Options::bench([
        Fixed::completion("/json", 1000),
        Fixed::completion_stream("/burst", 5, Duration::ZERO),
    ]))
    .await
    .unwrap();
    let mut client = Client::new(&simulator).await;
    let large = json!("x".repeat(3_000_000));
    for body in [json!(null), large] {
        let answer = client.post("/json", "", &body).await.unwrap().json();
        assert_eq!(answer["choices"][0]["message"]["content"].as_str().map(str::len), Some(1000));
    }
    let response = client.post("/burst", "", &json!({})).await.unwrap();
    assert_eq!((response.chunks, response.streamed().as_str()), (9, " sim sim sim sim sim"));
    assert_eq!((simulator.billed().requests, simulator.connections().total), (3, 1));
}

#[tokio::test(start_paused = true)]
async fn fixed_streams_are_paced() {
    let fixed = Fixed::events("/s", ["data: 1\n\n"; 11], Duration::from_millis(100));
    let simulator = Simulator::start(Options::bench([fixed])).await.unwrap();
    let mut client = Client::new(&simulator).await;
    let start = Instant::now();
    let response = client.post("/s", "", &json!({})).await.unwrap();
    assert_eq!(response.chunks, 11);
    let millis = start.elapsed().as_millis();
    assert!((1000..1100).contains(&millis), "{millis}");
}

#[tokio::test]
async fn stopping_closes_the_port_and_the_connections() {
    let simulator = simulator().await;
    let addr = simulator.addr();
    let mut client = Client::new(&simulator).await;
    assert_eq!(client.post(CHAT, "", &chat("hi")).await.unwrap().status, 200);
    simulator.stop().await;
    assert!(client.is_closed().await);
    assert!(TcpStream::connect(addr).await.is_err());
}

#[tokio::test]
async fn every_directive_leaves_the_simulator_serving() {
    let simulator = simulator().await;
    for directive in DIRECTIVES {
        for stream in [false, true] {
            let mut body = chat(&format!("[[sim {}]]", directive.example));
            body["stream"] = stream.into();
            let length = body.to_string().len();
            let mut client = Client::new(&simulator).await;
            let head = format!("POST {CHAT} HTTP/1.1\r\ncontent-length: {length}\r\n\r\n");
            client.send(head + &body.to_string()).await;
            let id = simulator.next_request().await.id;
            // The answer may be endless or never come; only that it is begun and let go matters.
            drop(client);
            simulator.outcome(id).await;
        }
    }
    assert_eq!(ask(&simulator, &chat("hi")).await.status, 200);
}
