//! What clients send that they should not: refused with a reason, in good time, and never passed on.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tollway_tests::gateway::{MASTER_KEY, PATIENCE};
use tollway_tests::setup::{UPSTREAM_KEY, within};
use tollway_tests::{Connection, Response, Setup, chat, client};

async fn send(setup: &Setup, body: &[u8]) -> Response {
    client::send(setup.gateway.address, "POST", "/v1/chat/completions", &[], body).await
}

/// Refused as no JSON that policy and provider are sure to read alike.
async fn check_not_json(setup: &Setup, body: &[u8], what: &str) {
    let begun = Instant::now();
    let response = send(setup, body).await;
    let shown = String::from_utf8_lossy(&body[..body.len().min(200)]).into_owned();
    assert_eq!(response.status, 400, "{what}: {shown}: {}", response.text());
    assert_eq!(response.error("type"), "invalid_request_error", "{what}");
    assert_eq!(response.error("param"), "request_body", "{what}");
    let message = response.error("message").as_str().expect("a text").to_owned();
    assert!(message.starts_with("Invalid JSON payload: "), "{what}: {message}");
    assert!(begun.elapsed() < Duration::from_secs(20), "{what}: {:?}", begun.elapsed());
    assert!(setup.asked().is_empty(), "{what} went upstream");
}

#[tokio::test]
async fn two_models_are_refused_however_they_are_written() {
    let setup = Setup::start().await;
    let rest = "\"messages\":[{\"role\":\"user\",\"content\":\"Hi\"}]";
    for (first, second) in [
        ("model", "model"),
        ("model", "mod\\u0065l"),
        ("mod\\u0065l", "model"),
        ("\\u006d\\u006f\\u0064\\u0065\\u006c", "model"),
        ("m\\u006Fdel", "mode\\u006C"),
    ] {
        for body in [
            format!("{{\"{first}\":\"gpt-4o-mini\",\"{second}\":\"claude\",{rest}}}"),
            format!("{{\"{first}\":\"gpt-4o-mini\",{rest},\"{second}\":\"gpt-4o-mini\"}}"),
        ] {
            check_not_json(&setup, body.as_bytes(), "two models").await;
        }
    }
    let twice = format!("{{\"model\":\"gpt-4o-mini\",{rest},{rest}}}");
    check_not_json(&setup, twice.as_bytes(), "two messages").await;
}

#[tokio::test]
async fn model_that_is_written_with_escapes_is_the_model_all_the_same() {
    let setup = Setup::start().await;
    let body =
        "{\"mod\\u0065l\":\"f\\u0061st\",\"messages\":[{\"role\":\"user\",\"content\":\"Hi\"}]}";
    let response = send(&setup, body.as_bytes()).await;
    assert_eq!(response.status, 200, "{}", response.text());
    assert_eq!(setup.simulator.next_request().await.json()["model"], "gpt-4o-mini");
}

#[tokio::test]
async fn nesting_has_a_limit() {
    let setup = Setup::start().await;
    for depth in [200, 100_000, 1_000_000] {
        for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
            let nested = format!("{}1{}", open.repeat(depth), close.repeat(depth));
            let body = format!("{{\"model\":\"gpt-4o-mini\",\"messages\":[{{}}],\"x\":{nested}}}");
            check_not_json(&setup, body.as_bytes(), "a depth bomb").await;
            let unclosed = format!("{{\"x\":{}", open.repeat(depth));
            check_not_json(&setup, unclosed.as_bytes(), "an open depth bomb").await;
        }
    }
}

#[tokio::test]
async fn body_that_is_not_exactly_json_is_refused() {
    let setup = Setup::start().await;
    let around = |inside: &[u8]| {
        let mut body =
            b"{\"model\":\"gpt-4o-mini\",\"messages\":[{\"role\":\"user\",\"content\":".to_vec();
        body.extend_from_slice(inside);
        body.extend_from_slice(b"}]}");
        body
    };
    let plain = chat("gpt-4o-mini", "Hi").to_string();
    let digits = "1".repeat(100_000);
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("nothing", b"".to_vec()),
        ("blanks", b"  \n".to_vec()),
        ("an array", format!("[{plain}]").into_bytes()),
        ("a string", b"\"model\"".to_vec()),
        ("null", b"null".to_vec()),
        ("a byte order mark", [b"\xef\xbb\xbf", plain.as_bytes()].concat()),
        ("UTF-16", plain.encode_utf16().flat_map(u16::to_le_bytes).collect()),
        ("bytes after it", format!("{plain} x").into_bytes()),
        ("a second object", format!("{plain}{plain}").into_bytes()),
        ("a NUL after it", format!("{plain}\0").into_bytes()),
        ("an end too soon", plain.as_bytes()[..plain.len() - 1].to_vec()),
        ("a lone high surrogate", around(br#""\ud800""#)),
        ("a lone low surrogate", around(br#""\udc00 x""#)),
        ("surrogates the wrong way round", around(br#""\udc00\ud800""#)),
        ("a NUL in a string", around(b"\"a\0b\"")),
        ("a line feed in a string", around(b"\"a\nb\"")),
        ("invalid UTF-8", around(b"\"\xff\xfe\"")),
        ("an overlong encoding", around(b"\"\xc0\xaf\"")),
        ("an encoded surrogate", around(b"\"\xed\xa0\x80\"")),
        ("a wrong escape", around(br#""\x41""#)),
        ("single quotes", around(b"'Hi'")),
        ("NaN", around(b"NaN")),
        ("Infinity", around(b"-Infinity")),
        ("a leading zero", around(b"01")),
        ("a bare point", around(b".5")),
        ("hexadecimal", around(b"0x10")),
        ("a trailing comma", around(b"[1,]")),
        ("a comment", around(b"/* Hi */ 1")),
        ("too many digits", around(digits.as_bytes())),
    ];
    for (what, body) in cases {
        check_not_json(&setup, &body, what).await;
    }
    // An escaped pair is a character, an escaped NUL is text, and a huge number of the caller's
    // own is passed on as it came.
    for fine in [r#""\ud83e\udd80""#, r#""a\u0000b""#] {
        assert_eq!(send(&setup, &around(fine.as_bytes())).await.status, 200, "{fine}");
    }
}

#[tokio::test]
async fn missing_and_mistyped_members_are_named() {
    let setup = Setup::start().await;
    let messages = json!([{"role": "user", "content": "Hi"}]);
    let missing = "missing_required_parameter";
    for (body, param, code) in [
        (json!({"model": "gpt-4o-mini"}), "messages", missing),
        (json!({"model": "gpt-4o-mini", "messages": null}), "messages", missing),
        (json!({"messages": messages}), "model", missing),
        (json!({}), "model", missing),
        (json!({"model": 5, "messages": messages}), "model", "invalid_type"),
        (json!({"model": ["gpt-4o-mini"], "messages": messages}), "model", "invalid_type"),
        (json!({"model": "", "messages": messages}), "model", "invalid_value"),
        (json!({"model": "a\nb", "messages": messages}), "model", "invalid_value"),
        (json!({"model": "x".repeat(300), "messages": messages}), "model", "invalid_value"),
        (json!({"model": "gpt-4o-mini", "messages": "Hi"}), "messages", "invalid_type"),
        (json!({"model": "gpt-4o-mini", "messages": {}}), "messages", "invalid_type"),
        (json!({"model": "gpt-4o-mini", "messages": []}), "messages", "empty_array"),
    ] {
        let response = setup.chat(&body).await;
        assert_eq!(response.status, 400, "{body}");
        assert_eq!(response.error("param"), param, "{body}");
        assert_eq!(response.error("code"), code, "{body}");
    }
    let response = setup.chat(&json!({"model": "gpt-4o-mini"})).await;
    let message = "/chat/completions: Missing required parameter: 'messages'.";
    assert_eq!(response.error("message"), message);
    for (path, member) in [("/v1/completions", "prompt"), ("/v1/embeddings", "input")] {
        let body = json!({"model": "gpt-4o-mini"});
        let response = tollway_tests::post(setup.gateway.address, path, &body).await;
        assert_eq!((response.status, response.error("param")), (400, json!(member)));
    }
    assert!(setup.asked().is_empty());
}

#[tokio::test]
async fn parameters_out_of_range_are_named() {
    let setup = Setup::start().await;
    let long = "9".repeat(400);
    for (name, value) in [
        ("temperature", "2.1"),
        ("temperature", "-0.1"),
        ("temperature", "1e400"),
        ("temperature", "-1e400"),
        ("temperature", "\"1\""),
        ("top_p", "1.01"),
        ("presence_penalty", "-3"),
        ("frequency_penalty", "2.5"),
        ("n", "0"),
        ("n", "129"),
        ("n", "1.5"),
        ("n", "1e2"),
        ("max_tokens", "0"),
        ("max_tokens", "-1"),
        ("max_tokens", long.as_str()),
        ("max_completion_tokens", "\"many\""),
        ("top_logprobs", "21"),
        ("logprobs", "1"),
        ("stream", "\"true\""),
        ("stream", "1"),
        ("stream_options", "true"),
        ("stop", "5"),
        ("seed", "0.5"),
        ("tools", "{}"),
        ("user", "[]"),
    ] {
        let body = format!(
            "{{\"model\":\"gpt-4o-mini\",\"messages\":[{{\"role\":\"user\",\"content\":\"Hi\"}}],\
             \"{name}\":{value}}}"
        );
        let response = send(&setup, body.as_bytes()).await;
        assert_eq!(response.status, 400, "{name}: {value}: {}", response.text());
        assert_eq!(response.error("type"), "invalid_request_error", "{name}: {value}");
        assert_eq!(response.error("param"), name, "{name}: {value}");
        // However long it was, the answer is not.
        assert!(response.body.len() < 1000, "{name}: {value}");
    }
    assert!(setup.asked().is_empty());
    // At the edges it is fine.
    for (name, value) in
        [("temperature", json!(2)), ("top_p", json!(0)), ("n", json!(1)), ("stop", Value::Null)]
    {
        let mut body = chat("gpt-4o-mini", "Hi");
        body[name] = value;
        assert_eq!(setup.chat(&body).await.status, 200, "{body}");
    }
}

fn post_head(rest: &str) -> String {
    format!(
        "POST /v1/chat/completions HTTP/1.1\r\nhost: gateway\r\nauthorization: Bearer {MASTER_KEY}\
         \r\ncontent-type: application/json\r\n{rest}\r\n"
    )
}

#[tokio::test]
async fn declared_body_over_the_limit_is_refused_before_it_is_sent() {
    let setup = Setup::with("server: { request_body_bytes_max: 100000 }").await;
    for length in ["100001", "1000000000", "9223372036854775807"] {
        let mut connection = Connection::open(setup.gateway.address).await;
        connection.write(post_head(&format!("content-length: {length}\r\n")).as_bytes()).await;
        let response = connection.response().await;
        assert_eq!(response.status, 413, "{length}: {}", response.text());
        assert_eq!(response.error("code"), "request_too_large");
        assert!(connection.closes(PATIENCE).await);
    }
    // Just below it is read.
    let fits = chat("gpt-4o-mini", &"x".repeat(90_000));
    assert_eq!(setup.chat(&fits).await.status, 200);
}

#[tokio::test]
async fn undeclared_body_over_the_limit_is_refused_as_soon_as_it_is() {
    let setup = Setup::with("server: { request_body_bytes_max: 100000 }").await;
    let before = setup.gateway.resident_bytes();
    let mut connection = Connection::open(setup.gateway.address).await;
    connection.write(post_head("transfer-encoding: chunked\r\n").as_bytes()).await;
    let chunk = format!("2000\r\n{}\r\n", "x".repeat(0x2000));
    let mut sent = 0;
    // 800 MB, if it is let; it is not.
    while sent < 800 << 20 && connection.try_write(chunk.as_bytes()).await {
        sent += chunk.len();
    }
    assert!(sent < 100 << 20, "took {sent} bytes");
    if let Some((status, _)) = connection.try_head().await {
        assert_eq!(status, 413);
    }
    let grown = setup.gateway.resident_bytes().saturating_sub(before);
    assert!(grown < 10 << 20, "grown by {} KiB", grown >> 10);

    // One that stops right after the limit has its answer to read.
    let mut connection = Connection::open(setup.gateway.address).await;
    connection.write(post_head("transfer-encoding: chunked\r\n").as_bytes()).await;
    for _ in 0..13 {
        connection.try_write(chunk.as_bytes()).await;
    }
    let response = connection.response().await;
    assert_eq!(response.status, 413, "{}", response.text());
}

#[tokio::test]
async fn chunked_body_is_read_like_any_other() {
    let setup = Setup::start().await;
    let body = chat("gpt-4o-mini", "Hi").to_string();
    let mut bytes = post_head("transfer-encoding: chunked\r\n");
    for piece in body.as_bytes().chunks(7) {
        let piece = String::from_utf8_lossy(piece);
        bytes.push_str(&format!("{:x};ext=1\r\n{piece}\r\n", piece.len()));
    }
    bytes.push_str("0\r\nx-trailer: 1\r\n\r\n");
    let mut connection = Connection::open(setup.gateway.address).await;
    connection.write(bytes.as_bytes()).await;
    let response = connection.response().await;
    assert_eq!(response.status, 200, "{}", response.text());
    let asked = setup.simulator.next_request().await;
    assert_eq!(asked.body, body);
    assert_eq!(asked.header("content-length"), Some(&*body.len().to_string()));
}

#[tokio::test]
async fn body_limit_of_litellms_config_holds() {
    let config = "general_settings: { master_key: $MASTER, max_request_size_mb: 1 }";
    let setup = Setup::with(config).await;
    let response = setup.chat(&chat("gpt-4o-mini", &"x".repeat(1 << 20))).await;
    assert_eq!(response.status, 413);
}

#[tokio::test]
async fn memory_for_bodies_is_bounded_for_all_together() {
    let setup = Setup::with("server: { body_memory_bytes_max: 100000, body_timeout: 30s }").await;
    let mut first = Connection::open(setup.gateway.address).await;
    let waiting = "content-length: 90000\r\nexpect: 100-continue\r\n";
    first.write(post_head(waiting).as_bytes()).await;
    // It is told to go on when it has its share.
    assert!(first.bytes(25).await.starts_with(b"HTTP/1.1 100"));
    let refused = setup.chat(&chat("gpt-4o-mini", &"x".repeat(20_000))).await;
    assert_eq!(refused.status, 503, "{}", refused.text());
    assert_eq!(refused.error("code"), "overloaded");
    assert_eq!(refused.header("retry-after"), Some("1"));
    drop(first);
    setup.gateway.idle().await;
    let response = setup.chat(&chat("gpt-4o-mini", &"x".repeat(20_000))).await;
    assert_eq!(response.status, 200, "given back: {}", response.text());
}

#[tokio::test]
async fn slow_body_times_out() {
    let setup = Setup::with("server: { body_timeout: 1s }").await;
    for begin in ["content-length: 1000\r\n", "transfer-encoding: chunked\r\n"] {
        let mut connection = Connection::open(setup.gateway.address).await;
        connection.write(post_head(begin).as_bytes()).await;
        let piece = if begin.starts_with('t') { "3\r\n{\"m\r\n" } else { "{\"m" };
        connection.write(piece.as_bytes()).await;
        let response = connection.response().await;
        assert_eq!(response.status, 408, "{}", response.text());
        assert_eq!(response.error("code"), "request_timeout");
        assert!(connection.closes(PATIENCE).await);
    }
    assert!(setup.asked().is_empty());
}

#[tokio::test]
async fn headers_over_64_kib_are_refused() {
    let setup = Setup::start().await;
    let body = chat("gpt-4o-mini", "Hi").to_string();
    let length = format!("content-length: {}\r\n", body.len());
    let one = format!("{length}x-big: {}\r\n", "x".repeat(70_000));
    let many: String = (0..100).map(|n| format!("x-{n}: {}\r\n", "x".repeat(1000))).collect();
    for (what, rest) in [("one", one), ("many", length.clone() + &many)] {
        let mut connection = Connection::open(setup.gateway.address).await;
        connection.try_write((post_head(&rest) + &body).as_bytes()).await;
        let response = connection.response().await;
        assert_eq!(response.status, 431, "{what}");
        assert_eq!(response.error("type"), "invalid_request_error");
    }
    assert!(setup.asked().is_empty());
    // 60 KiB pass.
    let rest = format!("{length}x-big: {}\r\n", "x".repeat(60_000));
    let response =
        Connection::raw_exchange(setup.gateway.address, (post_head(&rest) + &body).as_bytes())
            .await;
    assert_eq!(response.expect("an answer").status, 200);
}

#[tokio::test]
async fn megabytes_of_headers_and_thousands_of_them_are_refused() {
    let setup = Setup::start().await;
    let before = setup.gateway.resident_bytes();
    let endless = format!("GET /v1/models HTTP/1.1\r\nx: {}", "x".repeat(8 << 20));
    let many: String = (0..5000).map(|n| format!("x-{n}: 1\r\n")).collect();
    let many = format!("GET /health/liveliness HTTP/1.1\r\nhost: x\r\n{many}\r\n");
    let path = format!("GET /{} HTTP/1.1\r\nhost: x\r\n\r\n", "x".repeat(8 << 20));
    for bytes in [endless, many, path] {
        let answer = Connection::raw_exchange(setup.gateway.address, bytes.as_bytes()).await;
        // Refused with a status, or by closing: both are clear.
        let status = answer.map_or(400, |response| response.status);
        assert!((400..500).contains(&status), "{status}");
    }
    let grown = setup.gateway.resident_bytes().saturating_sub(before);
    assert!(grown < 32 << 20, "grown by {} KiB", grown >> 10);
    assert_eq!(setup.get("/health/liveliness").await.status, 200);
}

#[tokio::test]
async fn client_that_waits_for_100_continue_is_told_to_go_on() {
    let setup = Setup::start().await;
    let body = chat("gpt-4o-mini", "Hi").to_string();
    let rest = format!("content-length: {}\r\nexpect: 100-continue\r\n", body.len());
    let mut connection = Connection::open(setup.gateway.address).await;
    connection.write(post_head(&rest).as_bytes()).await;
    let interim = connection.bytes(25).await;
    assert_eq!(String::from_utf8_lossy(&interim), "HTTP/1.1 100 Continue\r\n\r\n");
    connection.write(body.as_bytes()).await;
    let response = connection.response().await;
    assert_eq!(response.status, 200, "{}", response.text());
    let asked = setup.simulator.next_request().await;
    assert_eq!(asked.header("expect"), None);
}

#[tokio::test]
async fn client_that_waits_for_100_continue_is_refused_before_it_sends() {
    let setup = Setup::with("server: { request_body_bytes_max: 1000 }").await;
    let too_large = post_head("content-length: 5000\r\nexpect: 100-continue\r\n");
    let no_key = too_large.replace(MASTER_KEY, "sk-wrong");
    for (head, status) in [(too_large, "413"), (no_key, "401")] {
        let mut connection = Connection::open(setup.gateway.address).await;
        connection.write(head.as_bytes()).await;
        // No 100 in front of it.
        let line = connection.bytes(12).await;
        assert_eq!(String::from_utf8_lossy(&line), format!("HTTP/1.1 {status}"));
    }
}

#[tokio::test]
async fn compressed_request_is_refused() {
    let setup = Setup::start().await;
    for encoding in ["gzip", "br", "deflate", "identity, gzip"] {
        let response =
            setup.chat_with(&[("content-encoding", encoding)], &chat("gpt-4o-mini", "Hi")).await;
        assert_eq!(response.status, 415, "{encoding}: {}", response.text());
    }
    assert!(setup.asked().is_empty());
    let identity = [("content-encoding", "identity")];
    assert_eq!(setup.chat_with(&identity, &chat("gpt-4o-mini", "Hi")).await.status, 200);
}

#[tokio::test]
async fn key_is_asked_for_before_the_body_is_read() {
    let setup = Setup::start().await;
    let mut connection = Connection::open(setup.gateway.address).await;
    let head = post_head("content-length: 1000000\r\n").replace(MASTER_KEY, "sk-wrong");
    connection.write(head.as_bytes()).await;
    assert_eq!(connection.response().await.status, 401);
}

#[tokio::test]
async fn connection_header_can_neither_strip_nor_inject() {
    let setup = Setup::start().await;
    for nominated in [
        "authorization, x-api-key",
        "Authorization",
        "close, content-length, host",
        "x-api-key, anthropic-version, content-type",
    ] {
        for model in ["gpt-4o-mini", "claude"] {
            let headers = [("connection", nominated), ("x-api-key", "sk-injected")];
            let response = setup.chat_with(&headers, &chat(model, "Hi")).await;
            assert_eq!(response.status, 200, "{nominated}: {}", response.text());
            let asked = setup.simulator.next_request().await;
            let (name, value) = match model {
                "claude" => ("x-api-key", UPSTREAM_KEY.to_owned()),
                _ => ("authorization", format!("Bearer {UPSTREAM_KEY}")),
            };
            assert_eq!(asked.header(name), Some(&*value), "{nominated}");
            assert!(asked.headers.iter().all(|(_, value)| value != "sk-injected"));
            assert_eq!(asked.header("content-type"), Some("application/json"));
        }
    }
    // Nor is a key forgotten that was shown and nominated away.
    let headers = [("connection", "authorization"), ("authorization", "Bearer sk-wrong")];
    assert_eq!(setup.chat_with(&headers, &chat("gpt-4o-mini", "Hi")).await.status, 401);
}

/// A request that would be a second one, were it read as such. It would be answered: it has a key.
fn smuggled() -> String {
    let body = chat("gpt-4o-mini", "smuggled").to_string();
    post_head(&format!("content-length: {}\r\n", body.len())) + &body
}

/// Whatever is said to it: at most one answer, an end, and nothing smuggled.
async fn check_not_smuggled(bytes: Vec<u8>, what: &str) -> Option<Response> {
    let setup = Setup::start().await;
    let answer = Connection::raw_exchange(setup.gateway.address, &bytes);
    let answer = within(PATIENCE, what, answer).await;
    setup.gateway.idle().await;
    let reached = setup.asked();
    let smuggled = |body: &[u8]| body.windows(8).any(|eight| eight == b"smuggled");
    let first = reached.iter().all(|asked| !smuggled(&asked.body));
    assert!(first, "{what}: {answer:?}");
    assert!(reached.len() <= 1, "{what}: {} requests", reached.len());
    answer
}

/// Refused outright: with a status that says so, or by closing.
async fn check_refused(bytes: Vec<u8>, what: &str) {
    let answer = check_not_smuggled(bytes, what).await;
    let refuses = |answer: &Response| (400..=501).contains(&answer.status);
    assert!(answer.as_ref().is_none_or(refuses), "{what}: {answer:?}");
}

#[tokio::test]
async fn body_whose_length_is_told_twice_is_refused() {
    let body = chat("gpt-4o-mini", "Hi").to_string();
    let length = body.len();
    let smuggled = smuggled();
    let all = length + smuggled.len();
    // CL.TE: whoever believes the length sees one request, whoever believes the chunks sees two.
    let chunked = format!("{length:x}\r\n{body}\r\n0\r\n\r\n{smuggled}");
    for (what, rest) in [
        ("CL.TE", format!("content-length: {}\r\ntransfer-encoding: chunked\r\n", chunked.len())),
        ("TE.CL", format!("transfer-encoding: chunked\r\ncontent-length: {}\r\n", chunked.len())),
        ("TE.CL of nothing", "transfer-encoding: chunked\r\ncontent-length: 0\r\n".to_owned()),
    ] {
        // RFC 9112, 6.3: refused, or read by its chunks and the connection closed after it.
        let bytes = (post_head(&rest) + &chunked).into_bytes();
        let answer = check_not_smuggled(bytes, what).await;
        let closes = |answer: &Response| answer.header("connection") == Some("close");
        let safe = |answer: &Response| answer.status == 400 || closes(answer);
        assert!(answer.as_ref().is_none_or(safe), "{what}: {answer:?}");
    }
    let both = format!("{body}{smuggled}");
    for (what, rest) in [
        ("two lengths", format!("content-length: {length}\r\ncontent-length: {all}\r\n")),
        ("two lengths, the long one first", {
            format!("content-length: {all}\r\ncontent-length: {length}\r\n")
        }),
        ("a list of lengths", format!("content-length: {length}, {all}\r\n")),
        ("a length with a sign", format!("content-length: +{length}\r\n")),
        ("a negative length", "content-length: -1\r\n".to_owned()),
        ("a hexadecimal length", format!("content-length: 0x{length:x}\r\n")),
        ("a length with a space", format!("content-length: {length} {length}\r\n")),
        ("a length beyond 64 bits", "content-length: 18446744073709551617\r\n".to_owned()),
        ("a length that is no number", "content-length: many\r\n".to_owned()),
        ("an empty length", "content-length: \r\n".to_owned()),
    ] {
        check_refused((post_head(&rest) + &both).into_bytes(), what).await;
    }
}

#[tokio::test]
async fn transfer_encodings_that_are_not_plainly_chunked_are_refused() {
    let body = chat("gpt-4o-mini", "Hi").to_string();
    let chunked = format!("{:x}\r\n{body}\r\n0\r\n\r\n{}", body.len(), smuggled());
    for encoding in [
        "transfer-encoding: xchunked\r\n",
        "transfer-encoding: identity\r\n",
        "transfer-encoding: chunked, identity\r\n",
        "transfer-encoding: \"chunked\"\r\n",
        "transfer-encoding: chunked\x0b\r\n",
        "transfer-encoding:\r\n",
        "transfer-encoding: chunked\r\ntransfer-encoding: identity\r\n",
        "transfer-encoding : chunked\r\n",
        " transfer-encoding: chunked\r\n",
        "transfer-encoding: x\r\n chunked\r\n",
    ] {
        check_refused((post_head(encoding) + &chunked).into_bytes(), encoding).await;
    }
}

#[tokio::test]
async fn transfer_encodings_on_top_of_each_other_are_refused() {
    let body = chat("gpt-4o-mini", "Hi").to_string();
    let chunked = format!("{:x}\r\n{body}\r\n0\r\n\r\n{}", body.len(), smuggled());
    for encoding in [
        "transfer-encoding: gzip, chunked\r\n",
        "transfer-encoding: chunked, chunked\r\n",
        "transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n",
    ] {
        check_refused((post_head(encoding) + &chunked).into_bytes(), encoding).await;
    }
}

#[tokio::test]
async fn broken_chunks_are_refused() {
    let body = chat("gpt-4o-mini", "Hi").to_string();
    let length = body.len();
    for (what, chunks) in [
        ("no number", format!("zz\r\n{body}\r\n0\r\n\r\n")),
        ("a negative number", format!("-{length:x}\r\n{body}\r\n0\r\n\r\n")),
        ("a number with 0x", format!("0x{length:x}\r\n{body}\r\n0\r\n\r\n")),
        ("an overflow", format!("fffffffffffffffff\r\n{body}\r\n0\r\n\r\n")),
        ("no line end after the data", format!("{length:x}\r\n{body}XX0\r\n\r\n")),
        ("more data than told", format!("{:x}\r\n{body}\r\n0\r\n\r\n", length - 3)),
    ] {
        let head = post_head("transfer-encoding: chunked\r\n");
        check_refused((head + &chunks).into_bytes(), what).await;
    }
}

#[tokio::test]
async fn heads_that_others_read_differently_are_refused() {
    let body = chat("gpt-4o-mini", "Hi").to_string();
    let length = format!("content-length: {}\r\n", body.len());
    let fine = post_head(&length);
    for (what, head) in [
        ("a folded header", post_head(&format!("{length}x-folded: a\r\n b\r\n"))),
        ("a folded key", { fine.replace("authorization: Bearer", "authorization:\r\n Bearer") }),
        ("a space before the colon", post_head(&format!("{length}x-space : a\r\n"))),
        ("a header without a colon", post_head(&format!("{length}x-none\r\n"))),
        ("a header without a name", post_head(&format!("{length}: a\r\n"))),
        ("a NUL in a value", post_head(&format!("{length}x-nul: a\0b\r\n"))),
        ("a carriage return in a value", post_head(&format!("{length}x-cr: a\rb\r\n"))),
        ("no version", fine.replacen(" HTTP/1.1", "", 1)),
        ("another version", fine.replacen("HTTP/1.1", "HTTP/3.7", 1)),
        ("a space in the path", fine.replacen("completions", "comple tions", 1)),
    ] {
        check_refused((head + &body).into_bytes(), what).await;
    }
}

#[tokio::test]
async fn bare_line_feeds_do_not_hide_a_request() {
    let body = chat("gpt-4o-mini", "Hi").to_string();
    let head = post_head(&format!("content-length: {}\r\n", body.len())).replace("\r\n", "\n");
    let both = format!("{head}{body}{}", smuggled().replace("\r\n", "\n"));
    // It may be read as a request, or refused. Two requests of one key's are two requests; what
    // may not be is that one is taken for the other's body.
    let setup = Setup::start().await;
    let mut connection = Connection::open(setup.gateway.address).await;
    connection.try_write(both.as_bytes()).await;
    let (status, _) = connection.try_head().await.unwrap_or((400, Vec::new()));
    assert!(status == 200 || status == 400, "{status}");
    for asked in setup.asked() {
        assert!(asked.json()["model"] == "gpt-4o-mini", "{asked:?}");
    }
}

#[tokio::test]
async fn http_1_0_with_chunks_is_refused() {
    let body = chat("gpt-4o-mini", "Hi").to_string();
    let head = post_head("transfer-encoding: chunked\r\n").replacen("HTTP/1.1", "HTTP/1.0", 1);
    let chunked = format!("{:x}\r\n{body}\r\n0\r\n\r\n{}", body.len(), smuggled());
    check_refused((head + &chunked).into_bytes(), "HTTP/1.0 with chunks").await;
}

#[tokio::test]
async fn http_1_0_with_a_body_is_served_or_refused_and_nothing_else() {
    let body = chat("gpt-4o-mini", "Hi").to_string();
    let head = post_head(&format!("content-length: {}\r\n", body.len()));
    let head = head.replacen("HTTP/1.1", "HTTP/1.0", 1);
    let bytes = format!("{head}{body}{}", smuggled());
    let answer = check_not_smuggled(bytes.into_bytes(), "HTTP/1.0 with a body").await;
    let status = answer.map(|answer| answer.status);
    assert!(status.is_none_or(|status| status == 200 || status == 400), "{status:?}");
}

#[tokio::test]
async fn absolute_target_leads_nowhere_else() {
    let body = chat("gpt-4o-mini", "Hi").to_string();
    let head = post_head(&format!("content-length: {}\r\nconnection: close\r\n", body.len()));
    for target in ["http://169.254.169.254", "http://127.0.0.1:1", "https://user:pw@evil.example"] {
        let path = "/v1/chat/completions";
        let head = head.replacen(path, &format!("{target}{path}"), 1);
        let bytes = (head + &body).into_bytes();
        let status = check_not_smuggled(bytes, target).await.map(|answer| answer.status);
        // Our own answer, or none.
        assert!(status.is_none_or(|s| s == 200 || (400..500).contains(&s)), "{target}: {status:?}");
    }
}

#[tokio::test]
async fn connect_trace_and_upgrade_lead_nowhere() {
    let setup = Setup::start().await;
    for request in [
        "CONNECT 127.0.0.1:22 HTTP/1.1\r\nhost: 127.0.0.1:22\r\n\r\n".to_owned(),
        format!(
            "TRACE /v1/models HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {MASTER_KEY}\r\n\r\n"
        ),
        "PRI /nowhere HTTP/1.1\r\nhost: x\r\n\r\n".to_owned(),
        "GARBAGE, and more of it than HTTP/2 would say first\r\n\r\n".to_owned(),
        "\0".repeat(30) + "\r\n\r\n",
    ] {
        let mut connection = Connection::open(setup.gateway.address).await;
        connection.try_write(request.as_bytes()).await;
        let status = connection.try_head().await.map_or(400, |(status, _)| status);
        assert!((400..=501).contains(&status), "{request}: {status}");
    }
    // An upgrade that is not configured is a call like any other.
    let headers = [("connection", "upgrade"), ("upgrade", "h2c"), ("http2-settings", "AAMAAABk")];
    let response = setup.chat_with(&headers, &chat("gpt-4o-mini", "Hi")).await;
    assert!(response.status == 200 || response.status == 400, "{}", response.status);
    for asked in setup.asked() {
        assert_eq!(asked.header("upgrade"), None);
    }
}

#[tokio::test]
async fn shortest_request_is_answered() {
    let setup = Setup::start().await;
    // Shorter than the words by which HTTP/2 begins, for which nothing may wait.
    for request in ["GET / HTTP/1.0\r\n\r\n", "GET / HTTP/1.1\r\n\r\n", "GARBAGE\r\n\r\n"] {
        let mut connection = Connection::open(setup.gateway.address).await;
        connection.write(request.as_bytes()).await;
        let head = within(Duration::from_secs(20), request, connection.try_head()).await;
        let status = head.map_or(400, |(status, _)| status);
        assert!(status == 404 || status == 400, "{request}: {status}");
    }
}

#[tokio::test]
async fn bytes_after_a_request_are_the_next_request_or_nothing() {
    let setup = Setup::start().await;
    let body = chat("gpt-4o-mini", "Hi").to_string();
    let first = post_head(&format!("content-length: {}\r\n", body.len())) + &body;
    let mut connection = Connection::open(setup.gateway.address).await;
    connection.write(format!("{first}GARBAGE AFTER IT\r\n\r\n").as_bytes()).await;
    assert_eq!(connection.response().await.status, 200);
    if let Some((status, _)) = connection.try_head().await {
        assert_eq!(status, 400);
    }
    assert_eq!(setup.asked().len(), 1);
}

#[tokio::test]
async fn refused_request_with_a_body_leaves_nothing_on_the_connection() {
    let setup = Setup::start().await;
    // The body is a request by itself: were it left, it would be answered as one.
    let body = smuggled();
    for head in [
        format!("POST /nowhere HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n", body.len()),
        format!(
            "GET /health/liveliness HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n",
            body.len()
        ),
        post_head(&format!("content-length: {}\r\n", body.len())).replace(MASTER_KEY, "sk-wrong"),
    ] {
        let mut connection = Connection::open(setup.gateway.address).await;
        connection.write((head.clone() + &body).as_bytes()).await;
        connection.response().await;
        // Either it is closed, or what comes next is the answer to what is sent next.
        connection.request("GET", "/health/liveness", &[], b"").await;
        if let Some((status, headers)) = connection.try_head().await {
            let length = headers.iter().find(|(name, _)| name == "content-length");
            assert_eq!((status, length.map(|(_, l)| l.as_str())), (200, Some("12")), "{head}");
        }
    }
    assert!(setup.asked().is_empty());
}

#[tokio::test]
async fn half_a_head_does_not_hold_the_gateway() {
    let setup = Setup::start().await;
    let mut slow = Vec::new();
    for _ in 0..50 {
        let mut connection = Connection::open(setup.gateway.address).await;
        connection.write(b"POST /v1/chat/completions HTTP/1.1\r\nhost:").await;
        slow.push(connection);
    }
    assert_eq!(setup.chat(&chat("gpt-4o-mini", "Hi")).await.status, 200);
}
