//! Providers whose answers are not what their references promise: damaged, endless, compressed,
//! framed in two ways, or errors that call themselves a success. Whoever asked is told so in its own
//! dialect, the memory stays small, and the next request is served on a clean connection.

use serde_json::{Value, json};
use tollway_simulator::Reply;
use tollway_tests::dialects::{Client, FAMILIES, FAMILY_MODELS, Seen};
use tollway_tests::{Response, Setup, post};

const NO_RETRIES: &str = "router_settings: { num_retries: 0 }\n";
const MIB: u64 = 1 << 20;

async fn start() -> Setup {
    Setup::with(&format!("{FAMILY_MODELS}{NO_RETRIES}")).await
}

async fn ask(setup: &Setup, client: Client, family: &str, said: &str, streamed: bool) -> Response {
    let path = client.path(family, streamed);
    post(setup.gateway.address, &path, &client.body(family, said, streamed)).await
}

/// The text of a whole answer.
fn text_of(client: Client, response: &Response) -> String {
    let body = response.json();
    let text = match client {
        Client::Chat => &body["choices"][0]["message"]["content"],
        Client::Responses => {
            let output = body["output"].as_array().expect("an output");
            let message = output.iter().find(|item| item["type"] == "message");
            return message.expect("a message")["content"][0]["text"].as_str().unwrap_or("").into();
        }
        Client::Messages => {
            let content = body["content"].as_array().expect("content");
            let block = content.iter().find(|block| block["type"] == "text");
            return block.expect("a text")["text"].as_str().unwrap_or("").into();
        }
        Client::Gemini => {
            let parts = body["candidates"][0]["content"]["parts"].as_array().expect("parts");
            let part = parts.iter().find(|part| part["thought"] != true);
            return part.expect("a text")["text"].as_str().unwrap_or("").into();
        }
    };
    text.as_str().unwrap_or_default().to_owned()
}

/// The gateway still serves, and nothing of what came before is in the next answer.
async fn check_next(setup: &Setup, client: Client, family: &str, name: &str) {
    let response = ask(setup, client, family, "[[sim say=clean]]", false).await;
    assert_eq!(response.status, 200, "after {name}: {}", response.text());
    assert_eq!(text_of(client, &response), "clean", "after {name}");
}

/// An error that says what is wrong: as the answer, or as the last event of a stream.
fn check_error(client: Client, response: &Response, name: &str) -> Option<Seen> {
    if response.status != 200 {
        assert!(client.error_message(response).is_some(), "{name}: {}", response.text());
        return None;
    }
    let kind = response.header("content-type").unwrap_or_default();
    assert!(kind.starts_with("text/event-stream"), "{name}: {}", response.text());
    let seen = client.read(&response.text());
    assert!(seen.error_is_last, "{name}: {}", response.text());
    assert!(!client.is_complete(&seen), "{name}: {}", response.text());
    Some(seen)
}

/// One kind of damage, for all dialects and families.
async fn check_all(said: &str, streamed: bool) {
    let setup = start().await;
    for client in Client::ALL {
        for family in FAMILIES {
            let name = format!("{client:?} {family} {said} {streamed}");
            let response = ask(&setup, client, family, said, streamed).await;
            check_error(client, &response, &name);
            check_next(&setup, client, family, &name).await;
        }
    }
}

#[tokio::test]
async fn characters_may_be_cut_anywhere() {
    let setup = start().await;
    let text = "Grüße, 日本語, 🎉👩‍👩‍👧 und ẞ\u{10ffff}";
    for client in Client::ALL {
        for family in FAMILIES {
            for split in [1, 2, 3, 7] {
                for streamed in [true, false] {
                    let said = format!("[[sim say={} split={split}]]", json!(text));
                    let response = ask(&setup, client, family, &said, streamed).await;
                    let name = format!("{client:?} {family} {split} {streamed}");
                    assert_eq!(response.status, 200, "{name}: {}", response.text());
                    if streamed {
                        let seen = client.read(&response.text());
                        assert!(client.is_complete(&seen), "{name}: {}", response.text());
                        assert_eq!(seen.text, text, "{name}");
                    } else {
                        assert_eq!(text_of(client, &response), text, "{name}");
                    }
                }
            }
        }
    }
}

#[tokio::test]
async fn damaged_streams_are_errors() {
    for said in [
        "[[sim tokens=9 garbage=0]]",
        "[[sim tokens=9 garbage=4 split=3]]",
        "[[sim tokens=9 bad_crc=4]]",
        "[[sim tokens=9 wrong_content_length=300]]",
        "[[sim html]]",
        "[[sim redirect=http://169.254.169.254/]]",
        "[[sim informational=1000]]",
    ] {
        check_all(said, true).await;
    }
}

#[tokio::test]
async fn damaged_whole_answers_are_errors() {
    for said in [
        "[[sim garbage]]",
        "[[sim gzip]]",
        "[[sim wrong_content_length=25]]",
        "[[sim wrong_content_length=-9]]",
        "[[sim html]]",
        "[[sim redirect=http://169.254.169.254/]]",
        "[[sim cut_at_byte=1]]",
        "[[sim bad_chunk_after=7]]",
    ] {
        check_all(said, false).await;
    }
}

#[tokio::test]
async fn heads_that_come_early_are_skipped() {
    let setup = start().await;
    for client in Client::ALL {
        for streamed in [true, false] {
            let response =
                ask(&setup, client, "anthropic", "[[sim say=Hi informational=3]]", streamed).await;
            assert_eq!(response.status, 200, "{}", response.text());
        }
    }
}

/// Answers that are written down here, each with the body's own idea of what it is.
async fn check_written(answers: &[(&str, Reply)]) {
    let setup = start().await;
    for client in Client::ALL {
        for family in FAMILIES {
            for (what, reply) in answers {
                for streamed in [true, false] {
                    let name = format!("{client:?} {family} {what} {streamed}");
                    setup.simulator.enqueue(reply.clone());
                    let response = ask(&setup, client, family, "Hi", streamed).await;
                    check_error(client, &response, &name);
                    assert_ne!(response.status, 200, "{name}: {}", response.text());
                    check_next(&setup, client, family, &name).await;
                }
            }
        }
    }
}

#[tokio::test]
async fn empty_bodies_are_errors() {
    let head = |rest: &str| Reply::raw(format!("HTTP/1.1 200 OK\r\n{rest}\r\n"));
    check_written(&[
        ("json", Reply::body(200, "application/json", "")),
        ("events", Reply::body(200, "text/event-stream", "")),
        ("frames", Reply::body(200, "application/vnd.amazon.eventstream", "")),
        ("blank", Reply::body(200, "application/json", " \r\n ")),
        ("no head", head("")),
        ("null", Reply::body(200, "application/json", "null")),
        ("list", Reply::body(200, "application/json", "[]")),
        ("204", Reply::raw("HTTP/1.1 204 No Content\r\n\r\n")),
    ])
    .await;
}

#[tokio::test]
async fn answers_with_two_lengths_are_errors() {
    let chunked = "5\r\nhello\r\n0\r\n\r\n";
    let raw = |head: &str, body: &str| {
        Reply::raw(format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n{head}\r\n{body}"))
    };
    check_written(&[
        ("both", raw("content-length: 5\r\ntransfer-encoding: chunked\r\n", chunked)),
        ("two lengths", raw("content-length: 5\r\ncontent-length: 6\r\n", "hello!")),
        ("a list", raw("content-length: 5, 5\r\n", "hello")),
        ("negative", raw("content-length: -5\r\n", "hello")),
        ("gzip", raw("transfer-encoding: gzip, chunked\r\n", chunked)),
        ("twice", raw("transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n", chunked)),
    ])
    .await;
}

#[tokio::test]
async fn error_that_calls_itself_a_success_is_an_error() {
    let openai = json!({"error": {"message": "Out of luck.", "type": "server_error", "code": 502}});
    let anthropic =
        json!({"type": "error", "error": {"type": "overloaded_error", "message": "Out of luck."}});
    let gemini =
        json!({"error": {"code": 503, "message": "Out of luck.", "status": "UNAVAILABLE"}});
    let setup = start().await;
    for (families, body) in [
        (&["openai", "mistral"][..], &openai),
        (&["anthropic"], &anthropic),
        (&["gemini", "vertex"], &gemini),
    ] {
        for client in Client::ALL {
            for family in families {
                for streamed in [true, false] {
                    // As JSON, and as the first event of a stream.
                    let mut replies = vec![Reply::json(200, body)];
                    if streamed {
                        replies.push(Reply::events([format!("event: error\ndata: {body}\n\n")]));
                    }
                    for (at, reply) in replies.into_iter().enumerate() {
                        let name = format!("{client:?} {family} {streamed} {at}");
                        setup.simulator.enqueue(reply);
                        let response = ask(&setup, client, family, "Hi", streamed).await;
                        check_error(client, &response, &name);
                        let text = response.text();
                        assert!(text.contains("Out of luck."), "{name}: {text}");
                        assert_ne!(response.status, 200, "{name}: {text}");
                        check_next(&setup, client, family, &name).await;
                    }
                }
            }
        }
    }
}

#[tokio::test]
async fn compressed_error_is_told_without_its_bytes() {
    let setup = start().await;
    for client in Client::ALL {
        for family in FAMILIES {
            let said = "[[sim status=503 message=Sorry gzip]]";
            let response = ask(&setup, client, family, said, true).await;
            assert_eq!(response.status, 503, "{client:?} {family}: {}", response.text());
            let message = client.error_message(&response).expect("an error");
            let is_plain = message.chars().all(|c| !c.is_control() && c != '\u{fffd}');
            assert!(is_plain, "{client:?} {family}: {message:?}");
        }
    }
}

#[tokio::test]
async fn error_page_is_not_told_whole() {
    let setup = start().await;
    let page = format!("<!DOCTYPE html><html><body>{}</body></html>", "Bad gateway. ".repeat(4000));
    for client in Client::ALL {
        for family in FAMILIES {
            setup.simulator.enqueue(Reply::body(502, "text/html", page.clone()));
            let response = ask(&setup, client, family, "Hi", false).await;
            assert_eq!(response.status, 502, "{client:?} {family}");
            let message = client.error_message(&response).expect("an error");
            assert!(message.len() < 3000, "{client:?} {family}: {} bytes", message.len());
        }
    }
}

/// A stream of OpenAI's.
fn openai_events(deltas: &[Value], finish: &str) -> Vec<String> {
    let event = |delta: &Value, finish: Value| {
        let choice = json!({"index": 0, "delta": delta, "finish_reason": finish});
        let chunk = json!({"id": "c", "object": "chat.completion.chunk", "created": 1,
            "model": "m", "choices": [choice]});
        format!("data: {chunk}\n\n")
    };
    let mut events: Vec<String> = deltas.iter().map(|delta| event(delta, Value::Null)).collect();
    events.push(event(&json!({}), finish.into()));
    events
}

fn usage_event(prompt: u64, completion: u64) -> String {
    let usage = json!({"prompt_tokens": prompt, "completion_tokens": completion,
        "total_tokens": prompt + completion});
    let chunk = json!({"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m",
        "choices": [], "usage": usage});
    format!("data: {chunk}\n\n")
}

#[tokio::test]
async fn unknown_events_are_passed_over() {
    let setup = start().await;
    let mut openai = openai_events(&[json!({"role": "assistant", "content": "one"})], "stop");
    openai.insert(1, "event: brand_new\ndata: {\"object\":\"brand.new\",\"x\":[1]}\n\n".into());
    openai.insert(0, ": a comment\n\nretry: 7\nid: 3\n\n".into());
    openai.push("data: [DONE]\n\n".into());
    let event =
        |data: Value| format!("event: {}\ndata: {data}\n\n", data["type"].as_str().unwrap_or("x"));
    let anthropic = vec![
        event(json!({"type": "message_start", "message": {"id": "m", "type": "message",
            "role": "assistant", "model": "m", "content": [], "stop_reason": null,
            "usage": {"input_tokens": 3, "output_tokens": 1}}})),
        event(json!({"type": "brand_new", "x": {"y": 1}})),
        event(json!({"type": "content_block_start", "index": 0,
            "content_block": {"type": "text", "text": ""}})),
        event(json!({"type": "content_block_delta", "index": 0,
            "delta": {"type": "brand_new_delta", "z": 1}})),
        event(json!({"type": "content_block_delta", "index": 0,
            "delta": {"type": "text_delta", "text": "one"}})),
        event(json!({"type": "content_block_stop", "index": 0})),
        event(json!({"type": "message_delta", "delta": {"stop_reason": "end_turn"},
            "usage": {"output_tokens": 1}})),
        event(json!({"type": "message_stop"})),
    ];
    let part = |candidate: Value| format!("data: {}\n\n", json!({"candidates": [candidate]}));
    let gemini = vec![
        "data: {\"brandNew\":{\"x\":1}}\n\n".to_owned(),
        part(json!({"content": {"role": "model", "parts": [{"brandNew": 1}, {"text": "one"}]}})),
        part(
            json!({"content": {"role": "model", "parts": [{"text": ""}]}, "finishReason": "STOP"}),
        ),
    ];
    for client in Client::ALL {
        for (family, events) in [
            ("openai", &openai),
            ("mistral", &openai),
            ("anthropic", &anthropic),
            ("gemini", &gemini),
        ] {
            if (client, family) == (Client::Responses, "openai") {
                // Bytes of its own dialect pass.
                continue;
            }
            setup.simulator.enqueue(Reply::events(events.clone()));
            let response = ask(&setup, client, family, "Hi", true).await;
            let name = format!("{client:?} {family}");
            assert_eq!(response.status, 200, "{name}: {}", response.text());
            let seen = client.read(&response.text());
            assert_eq!(seen.text, "one", "{name}: {}", response.text());
            assert!(client.is_complete(&seen), "{name}: {}", response.text());
        }
    }
}

#[tokio::test]
async fn usage_that_comes_twice_counts_once() {
    let setup = start().await;
    let mut events = openai_events(&[json!({"role": "assistant", "content": "one"})], "stop");
    events.push(usage_event(10, 3));
    events.push(usage_event(11, 4));
    events.push("data: [DONE]\n\n".into());
    let mut expect = (0.0, 0.0);
    for client in [Client::Chat, Client::Messages, Client::Gemini] {
        setup.simulator.enqueue(Reply::events(events.clone()));
        let response = ask(&setup, client, "openai", "Hi", true).await;
        let seen = client.read(&response.text());
        assert!(client.is_complete(&seen), "{client:?}: {}", response.text());
        setup.settled(&response).await;
        expect = (expect.0 + 11.0, expect.1 + 4.0);
        let input = setup.gateway.metric("litellm_input_tokens_metric_total", &[]).await;
        let output = setup.gateway.metric("litellm_output_tokens_metric_total", &[]).await;
        assert_eq!((input, output), expect, "{client:?}");
    }
}

#[tokio::test]
async fn lone_surrogates_never_make_a_clients_json_invalid() {
    let setup = start().await;
    for text in ["\\ud83d", "\\ude00", "a\\ud83db", "\\ud83d\\ud83d\\ude00"] {
        let chunk = |content: &str| {
            format!(
                "data: {{\"id\":\"c\",\"object\":\"chat.completion.chunk\",\"created\":1,\
                 \"model\":\"m\",\"choices\":[{{\"index\":0,\"delta\":{{\"content\":\"{content}\"}},\
                 \"finish_reason\":null}}]}}\n\n"
            )
        };
        let mut events = vec![chunk(text), chunk("end")];
        events.extend(openai_events(&[], "stop"));
        events.push("data: [DONE]\n\n".into());
        let whole = format!(
            "{{\"id\":\"c\",\"object\":\"chat.completion\",\"created\":1,\"model\":\"m\",\
             \"choices\":[{{\"index\":0,\"message\":{{\"role\":\"assistant\",\
             \"content\":\"{text}end\"}},\"finish_reason\":\"stop\"}}]}}"
        );
        for client in [Client::Responses, Client::Messages, Client::Gemini] {
            let name = format!("{client:?} {text}");
            setup.simulator.enqueue(Reply::events(events.clone()));
            let response = ask(&setup, client, "mistral", "Hi", true).await;
            // Reading it is the test: each event has to be JSON.
            if response.status == 200 {
                let seen = client.read(&response.text());
                let is_told = client.is_complete(&seen) && seen.text.ends_with("end");
                assert!(is_told || seen.error_is_last, "{name}: {}", response.text());
            } else {
                check_error(client, &response, &name);
            }
            setup.simulator.enqueue(Reply::body(200, "application/json", whole.clone()));
            let response = ask(&setup, client, "mistral", "Hi", false).await;
            match response.status {
                200 => assert!(text_of(client, &response).ends_with("end"), "{name}"),
                _ => drop(check_error(client, &response, &name)),
            }
        }
    }
}

#[tokio::test]
async fn line_of_100_mb_breaks_the_stream_and_not_the_memory() {
    let setup = start().await;
    for family in FAMILIES {
        check_next(&setup, Client::Chat, family, "the start").await;
    }
    let before = setup.gateway.resident_bytes();
    let said = "[[sim say=\"one two\" huge_line=100000000]]";
    for client in Client::ALL {
        for family in FAMILIES {
            let name = format!("{client:?} {family}");
            let response = ask(&setup, client, family, said, true).await;
            check_error(client, &response, &name);
            check_next(&setup, client, family, &name).await;
            let grown = setup.gateway.resident_bytes().saturating_sub(before);
            assert!(grown < 64 * MIB, "{name}: grown by {} KiB", grown >> 10);
        }
    }
}

#[tokio::test]
async fn arguments_of_20_mb_are_passed_on_or_refused_in_bounded_memory() {
    const PIECE: usize = 64 << 10;
    let count = (20 << 20) / PIECE;
    let setup = start().await;
    let piece = "a".repeat(PIECE);
    let call = |arguments: &str, first: bool| {
        let mut call = json!({"index": 0, "function": {"arguments": arguments}});
        if first {
            call["id"] = "call_1".into();
            call["type"] = "function".into();
            call["function"]["name"] = "find".into();
        }
        json!({"tool_calls": [call]})
    };
    let mut deltas = vec![call("{\"q\":\"", true)];
    deltas.extend((0..count).map(|_| call(&piece, false)));
    deltas.push(call("\"}", false));
    let mut events = openai_events(&deltas, "tool_calls");
    events.push("data: [DONE]\n\n".into());
    let before = setup.gateway.resident_bytes();
    for client in Client::ALL {
        // Responses pass at OpenAI itself.
        let reply = Reply::events(events.clone());
        setup.simulator.enqueue(reply);
        let response = ask(&setup, client, "mistral", "Hi", true).await;
        let name = format!("{client:?}");
        if response.status == 200 {
            let seen = client.read(&response.text());
            if client.is_complete(&seen) {
                assert!(seen.arguments.len() >= 20 << 20, "{name}: {}", seen.arguments.len());
            } else {
                assert!(seen.error_is_last, "{name}: neither an end nor an error");
            }
        } else {
            check_error(client, &response, &name);
        }
        let grown = setup.gateway.resident_bytes().saturating_sub(before);
        assert!(grown < 256 * MIB, "{name}: grown by {} KiB", grown >> 10);
        check_next(&setup, client, "mistral", &name).await;
    }
}

#[tokio::test]
async fn whole_answer_of_20_mb_is_answered_or_refused_in_bounded_memory() {
    let setup = start().await;
    for client in Client::ALL {
        for family in FAMILIES {
            check_next(&setup, client, family, "the start").await;
        }
    }
    let before = setup.gateway.resident_bytes();
    let said = "[[sim say=one huge_line=20000000]]";
    for (client, family) in [
        (Client::Chat, "openai"),
        (Client::Chat, "anthropic"),
        (Client::Messages, "openai"),
        (Client::Gemini, "gemini"),
        (Client::Responses, "bedrock"),
    ] {
        let name = format!("{client:?} {family}");
        let response = ask(&setup, client, family, said, false).await;
        match response.status {
            200 => assert_eq!(text_of(client, &response), "one", "{name}"),
            _ => drop(check_error(client, &response, &name)),
        }
        check_next(&setup, client, family, &name).await;
        let grown = setup.gateway.resident_bytes().saturating_sub(before);
        assert!(grown < 128 * MIB, "{name}: grown by {} KiB", grown >> 10);
    }
}
