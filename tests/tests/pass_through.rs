//! Paths that are handed to another server as they are, by Pingora's own loop.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tollway_tests::gateway::{Gateway, MASTER_KEY, PATIENCE};
use tollway_tests::servers::{Call, HandMade};
use tollway_tests::setup::{UPSTREAM_KEY, within};
use tollway_tests::{Connection, get};

/// What is uploaded and downloaded.
const BYTES: u64 = 200 << 20;
/// How much more memory the gateway may have meanwhile.
const GROWTH_MAX: u64 = 20 << 20;

async fn gateway(upstream: &HandMade) -> Gateway {
    Gateway::start(&config(upstream)).await
}

fn config(upstream: &HandMade) -> String {
    let target = format!("http://{}", upstream.address);
    format!(
        "
general_settings:
  master_key: {MASTER_KEY}
  pass_through_endpoints:
    - {{ path: /through, target: '{target}/base', headers: {{ authorization: Bearer {UPSTREAM_KEY}, x-team: blue }} }}
    - {{ path: /open, target: '{target}', auth: false }}
    - {{ path: /read-only, target: '{target}', methods: [GET] }}
"
    )
}

fn header<'h>(head: &'h str, name: &str) -> Option<&'h str> {
    head.lines().find_map(|line| {
        let (have, value) = line.split_once(": ")?;
        have.eq_ignore_ascii_case(name).then_some(value)
    })
}

/// A frame as clients send them: final, masked.
fn frame(text: &str) -> Vec<u8> {
    let mask = [0x12, 0x34, 0x56, 0x78];
    let mut frame = vec![0x81, 0x80 | u8::try_from(text.len()).expect("it is short")];
    frame.extend_from_slice(&mask);
    frame.extend(text.bytes().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    frame
}

#[tokio::test]
async fn websocket_carries_frames_both_ways() {
    let upstream = HandMade::start().await;
    let gateway = gateway(&upstream).await;
    let mut client = Connection::open(gateway.address).await;
    client
        .write(
            format!(
                "GET /through/room?name=1 HTTP/1.1\r\nhost: gateway\r\nconnection: Upgrade\r\n\
                 upgrade: websocket\r\nsec-websocket-version: 13\r\n\
                 sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
                 sec-websocket-protocol: realtime, openai-insecure-api-key.{MASTER_KEY}\r\n\r\n"
            )
            .as_bytes(),
        )
        .await;
    let mut call = upstream.call().await;
    assert!(call.head.starts_with("GET /base/room?name=1 HTTP/1.1\r\n"), "{}", call.head);
    assert_eq!(header(&call.head, "upgrade"), Some("websocket"));
    assert_eq!(header(&call.head, "sec-websocket-key"), Some("dGhlIHNhbXBsZSBub25jZQ=="));
    assert_eq!(header(&call.head, "sec-websocket-protocol"), Some("realtime"));
    assert_eq!(header(&call.head, "authorization"), Some(&*format!("Bearer {UPSTREAM_KEY}")));
    assert_eq!(header(&call.head, "x-team"), Some("blue"));
    assert!(!call.head.contains(MASTER_KEY));
    // The next test is about servers that answer at once; this one gives the gateway some turns.
    for _ in 0..5 {
        get(gateway.address, "/health/liveliness", &[]).await;
    }
    call.write(
        "HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
         sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nsec-websocket-protocol: realtime\r\n\r\n",
    )
    .await;
    let (status, headers) = client.head().await;
    assert_eq!(status, 101);
    let has = |name: &str, value: &str| headers.iter().any(|(n, v)| n == name && v == value);
    assert!(has("sec-websocket-accept", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "{headers:?}");
    assert!(has("sec-websocket-protocol", "realtime"));
    for round in 0..20 {
        let sent = frame(&format!("message {round}"));
        client.write(&sent).await;
        let mut got = vec![0; sent.len()];
        let read = call.stream.read_exact(&mut got);
        let read = within(PATIENCE, "a frame", read).await;
        read.unwrap_or_else(|error| panic!("round {round}: {error}\n{}", gateway.stdout()));
        assert_eq!(got, sent);
        call.write(&got).await;
        assert_eq!(client.bytes(sent.len()).await, sent);
    }
    // The server speaks first as well.
    call.write(b"\x81\x05hello").await;
    assert_eq!(client.bytes(7).await, b"\x81\x05hello");
    // And the one side's end is the other's.
    drop(call);
    assert!(client.closes(PATIENCE).await);
}

/// A websocket that is open at both ends.
async fn websocket(upstream: &HandMade, gateway: &Gateway) -> (Connection, Call) {
    let mut client = Connection::open(gateway.address).await;
    let request = format!(
        "GET /through HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {MASTER_KEY}\r\n\
         connection: upgrade\r\nupgrade: websocket\r\n\r\n"
    );
    client.write(request.as_bytes()).await;
    let mut call = upstream.call().await;
    call.write("HTTP/1.1 101 Go\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n").await;
    assert_eq!(client.head().await.0, 101);
    (client, call)
}

#[tokio::test]
async fn websocket_whose_server_answers_at_once_is_carried_as_well() {
    let upstream = HandMade::start().await;
    let gateway = gateway(&upstream).await;
    for round in 0..40 {
        let (mut client, mut call) = websocket(&upstream, &gateway).await;
        client.write(b"ping").await;
        let mut got = [0; 4];
        let read = within(PATIENCE, "a frame", call.stream.read_exact(&mut got)).await;
        read.unwrap_or_else(|error| panic!("round {round}: {error}"));
        call.write(b"pong").await;
        assert_eq!(client.bytes(4).await, b"pong");
    }
}

#[tokio::test]
async fn websocket_that_the_client_leaves_is_closed_upstream() {
    let upstream = HandMade::start().await;
    let gateway = gateway(&upstream).await;
    let (client, mut call) = websocket(&upstream, &gateway).await;
    drop(client);
    call.closed().await;
    gateway.idle().await;
}

#[tokio::test]
async fn upgrade_that_is_declined_opens_no_tunnel() {
    let upstream = HandMade::start().await;
    let gateway = gateway(&upstream).await;
    let mut client = Connection::open(gateway.address).await;
    // The second request has no key. As bytes of a tunnel it would need none.
    let request = format!(
        "GET /through HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {MASTER_KEY}\r\n\
         connection: upgrade\r\nupgrade: websocket\r\n\r\n\
         GET /through/smuggled HTTP/1.1\r\nhost: x\r\n\r\n"
    );
    client.write(request.as_bytes()).await;
    let mut call = upstream.call().await;
    assert!(!call.head.contains("smuggled"));
    call.write("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nno").await;
    assert_eq!(client.response().await.text(), "no");
    if let Some((status, _)) = client.try_head().await {
        assert_eq!(status, 401);
    }
    drop(client);
    gateway.idle().await;
    drop(gateway);
    let rest = call.closed().await;
    assert!(rest.is_empty(), "{}", String::from_utf8_lossy(&rest));
}

/// Counts the bytes of one request's body, whatever its framing, and answers how many.
async fn count_upload(upstream: HandMade, counted: Arc<AtomicU64>) {
    let mut stream = upstream.accept().await;
    let mut buffer = vec![0; 256 << 10];
    let mut head = Vec::new();
    let end = loop {
        if let Some(end) = head.windows(4).position(|four: &[u8]| four == b"\r\n\r\n") {
            break end + 4;
        }
        let read = stream.read(&mut buffer).await.expect("it reads");
        assert_ne!(read, 0, "closed");
        head.extend_from_slice(&buffer[..read]);
    };
    counted.fetch_add((head.len() - end) as u64, Ordering::Relaxed);
    while counted.load(Ordering::Relaxed) < BYTES {
        let read = stream.read(&mut buffer).await.expect("it reads");
        assert_ne!(read, 0, "closed");
        counted.fetch_add(read as u64, Ordering::Relaxed);
    }
    let answer = "HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\nreceived";
    stream.write_all(answer.as_bytes()).await.expect("it writes");
    // Until the other side is done with it.
    let _ = stream.read(&mut buffer).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn upload_of_200_mb_takes_no_memory() {
    let upstream = HandMade::start().await;
    let gateway = gateway(&upstream).await;
    get(gateway.address, "/health/liveliness", &[]).await;
    let before = gateway.resident_bytes();
    let counted = Arc::new(AtomicU64::new(0));
    let server = tokio::spawn(count_upload(upstream, Arc::clone(&counted)));
    let mut client = Connection::open(gateway.address).await;
    let head = format!(
        "POST /through/files HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {MASTER_KEY}\r\n\
         content-type: application/octet-stream\r\ncontent-length: {BYTES}\r\n\r\n"
    );
    client.write(head.as_bytes()).await;
    let piece = vec![b'x'; 1 << 20];
    let mut most = 0;
    for _ in 0..BYTES / piece.len() as u64 {
        client.write(&piece).await;
        most = most.max(gateway.resident_bytes());
    }
    let response = client.response().await;
    assert_eq!((response.status, response.text().as_str()), (200, "received"));
    assert_eq!(counted.load(Ordering::Relaxed), BYTES);
    let grown = most.saturating_sub(before);
    assert!(grown < GROWTH_MAX, "grown by {} KiB", grown >> 10);
    drop(client);
    server.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn download_of_200_mb_takes_no_memory_even_when_nobody_reads() {
    let upstream = HandMade::start().await;
    let gateway = gateway(&upstream).await;
    get(gateway.address, "/health/liveliness", &[]).await;
    let before = gateway.resident_bytes();
    let mut client = Connection::open(gateway.address).await;
    client.request("GET", "/through/file", &[], b"").await;
    let mut call = upstream.call().await;
    let head = format!("HTTP/1.1 200 OK\r\ncontent-type: x/y\r\ncontent-length: {BYTES}\r\n\r\n");
    call.write(head).await;
    let sent = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&sent);
    let server = tokio::spawn(async move {
        let piece = vec![b'x'; 1 << 20];
        for _ in 0..BYTES >> 20 {
            call.write(&piece).await;
            count.fetch_add(1 << 20, Ordering::Relaxed);
        }
        call
    });
    let (status, headers) = client.head().await;
    assert_eq!(status, 200);
    assert!(headers.iter().any(|(name, value)| name == "content-type" && value == "x/y"));
    let mut most = 0;
    for _ in 0..BYTES >> 20 {
        client.bytes(1 << 20).await;
        most = most.max(gateway.resident_bytes());
    }
    assert_eq!(sent.load(Ordering::Relaxed), BYTES);
    let grown = most.saturating_sub(before);
    assert!(grown < GROWTH_MAX, "grown by {} KiB", grown >> 10);
    server.await.expect("all was sent");
}

#[tokio::test]
async fn key_is_asked_for_unless_the_config_says_otherwise() {
    let upstream = HandMade::start().await;
    let gateway = gateway(&upstream).await;
    for headers in [[("authorization", "")], [("authorization", "Bearer sk-wrong")]] {
        let refused = get(gateway.address, "/through/file", &headers).await;
        assert_eq!(refused.status, 401, "{}", refused.text());
    }
    let open = [("authorization", "")];
    let (response, ()) = tokio::join!(get(gateway.address, "/open/file", &open), async {
        let mut call = upstream.call().await;
        // The refused ones were not passed on: this is the first call.
        assert!(call.head.starts_with("GET /file HTTP/1.1"), "{}", call.head);
        assert_eq!(header(&call.head, "authorization"), None);
        call.write("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
    });
    assert_eq!((response.status, response.text().as_str()), (200, "ok"));
}

/// Without such a route Pingora's loop is not used, so that a connection must be made anew.
#[tokio::test]
async fn routes_that_come_with_a_reload_are_served() {
    let upstream = HandMade::start().await;
    let none = format!(
        "{{ general_settings: {{ master_key: {MASTER_KEY} }}, \
         model_list: [{{ model_name: m, litellm_params: {{ model: demo/chat }} }}] }}"
    );
    let gateway = Gateway::start(&none).await;
    let mut waiting = Connection::open(gateway.address).await;
    waiting.request("GET", "/health/liveliness", &[], b"").await;
    assert_eq!(waiting.response().await.status, 200);
    gateway.reload(&config(&upstream));
    gateway.stderr_line(|line| line.contains("config reloaded")).await;
    assert!(waiting.closes(PATIENCE).await);
    let (response, ()) = tokio::join!(get(gateway.address, "/open/file", &[]), async {
        upstream.call().await.write("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
    });
    assert_eq!((response.status, response.text().as_str()), (200, "ok"));
}

#[tokio::test]
async fn request_and_answer_are_passed_on_as_they_are() {
    let upstream = HandMade::start().await;
    let gateway = gateway(&upstream).await;
    let headers = [
        ("x-own", "kept"),
        ("x-api-key", "sk-of-the-caller"),
        ("connection", "x-nominated, authorization, x-team"),
        ("x-nominated", "gone"),
    ];
    let body = b"\x00\xff not JSON, and none of our business";
    let mut client = Connection::open(gateway.address).await;
    client.request("PUT", "/through/a%2Fb?x=%20&y", &headers, body).await;
    let mut call = upstream.call().await;
    assert!(call.head.starts_with("PUT /base/a%2Fb?x=%20&y HTTP/1.1\r\n"), "{}", call.head);
    assert_eq!(call.body, body);
    assert_eq!(header(&call.head, "x-own"), Some("kept"));
    // Our own cannot be nominated away.
    assert_eq!(header(&call.head, "authorization"), Some(&*format!("Bearer {UPSTREAM_KEY}")));
    assert_eq!(header(&call.head, "x-team"), Some("blue"));
    assert_eq!(header(&call.head, "x-nominated"), None);
    assert_eq!(header(&call.head, "x-api-key"), None);
    assert_eq!(header(&call.head, "host"), Some(&*upstream.address.to_string()));
    assert!(!call.head.contains(MASTER_KEY));
    call.write("HTTP/1.1 418 Teapot\r\nx-theirs: kept\r\ncontent-length: 5\r\n\r\nshort").await;
    let response = client.response().await;
    assert_eq!((response.status, response.text().as_str()), (418, "short"));
    assert_eq!(response.header("x-theirs"), Some("kept"));
    assert!(response.header("x-litellm-call-id").is_some());
}

#[tokio::test]
async fn methods_and_neighbours_of_the_path_are_not_let_through() {
    let upstream = HandMade::start().await;
    let gateway = gateway(&upstream).await;
    let mut client = Connection::open(gateway.address).await;
    client.request("POST", "/read-only/x", &[], b"{}").await;
    let response = client.response().await;
    assert_eq!((response.status, response.header("allow")), (405, Some("GET")));
    for path in ["/throughput", "/read-onlyx", "/base"] {
        assert_eq!(get(gateway.address, path, &[]).await.status, 404, "{path}");
    }
}

async fn answer(gateway: &Gateway, upstream: &HandMade, answer: &str) -> tollway_tests::Response {
    let serve = async {
        let mut call: Call = upstream.call().await;
        call.write(answer).await;
    };
    tokio::join!(get(gateway.address, "/through", &[]), serve).0
}

#[tokio::test]
async fn echo_of_our_credential_in_the_head_does_not_reach_the_caller() {
    let upstream = HandMade::start().await;
    let gateway = gateway(&upstream).await;
    let echo = format!(
        "HTTP/1.1 200 OK\r\nx-echo: Bearer {UPSTREAM_KEY}\r\nx-fine: yes\r\ncontent-length: 2\r\n\
         connection: close\r\n\r\nok"
    );
    let response = answer(&gateway, &upstream, &echo).await;
    assert_eq!(response.status, 200);
    assert_eq!(response.header("x-fine"), Some("yes"));
    assert!(response.headers.iter().all(|(_, value)| !value.contains(UPSTREAM_KEY)));
}

#[tokio::test]
async fn echo_of_our_credential_in_the_body_does_not_reach_the_caller() {
    let upstream = HandMade::start().await;
    let gateway = gateway(&upstream).await;
    let body = format!("{{\"headers\":{{\"authorization\":\"Bearer {UPSTREAM_KEY}\"}}}}");
    let echo = format!(
        "HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    );
    let response = answer(&gateway, &upstream, &echo).await;
    assert_eq!(response.status, 200);
    assert!(!response.text().contains(UPSTREAM_KEY), "{}", response.text());
}

#[tokio::test]
async fn server_that_cannot_be_reached_is_a_502_in_openais_shape() {
    let nobody = tollway_tests::servers::Refusing::start();
    let gateway = Gateway::start(&format!(
        "
general_settings:
  master_key: {MASTER_KEY}
  pass_through_endpoints: [{{ path: /through, target: 'http://{}' }}]
",
        nobody.address
    ))
    .await;
    let response = get(gateway.address, "/through", &[]).await;
    assert_eq!(response.status, 502, "{}", response.text());
    assert_eq!(response.error("code"), "upstream_error");
    assert!(response.error("message").is_string());
}

#[tokio::test]
async fn passed_through_request_is_logged_and_counted() {
    let upstream = HandMade::start().await;
    let gateway = gateway(&upstream).await;
    let ok = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok";
    let response = answer(&gateway, &upstream, ok).await;
    let id = response.header("x-litellm-call-id").expect("an id").to_owned();
    let line = gateway.stdout_line(|line| line.contains(&id)).await;
    let line: serde_json::Value = serde_json::from_str(&line).expect("JSON");
    assert_eq!((line["route"].as_str(), line["status"].as_u64()), (Some("/through"), Some(200)));
    assert_eq!(line["outcome"], "done");
    let total = "litellm_proxy_total_requests_metric_total";
    assert_eq!(gateway.metric(total, &["route=\"/through\""]).await, 1.0);
}
