//! Files, uploads, batches and fine-tuning jobs: carried to a provider as they are.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tollway_tests::gateway::{Gateway, MASTER_KEY, PATIENCE};
use tollway_tests::servers::HandMade;
use tollway_tests::setup::{Setup, UPSTREAM_KEY};
use tollway_tests::{Connection, Response, get};

/// What is uploaded and downloaded.
const BYTES: u64 = 500 << 20;
/// How much more memory the gateway may have meanwhile.
const GROWTH_MAX: u64 = 20 << 20;
const RESTRICTED: &str = "sk-restricted-0123456789";

/// A gateway whose OpenAI, Azure and Anthropic are one hand-made server.
async fn gateway(upstream: &HandMade) -> Gateway {
    let at = format!("http://{}", upstream.address);
    Gateway::start(&format!(
        "
model_list:
  - model_name: claude
    litellm_params: {{ model: anthropic/claude-sonnet-4-5, api_key: {UPSTREAM_KEY}, api_base: '{at}' }}
  - model_name: dated
    litellm_params: {{ model: azure/gpt-4o, api_key: sk-azure-0123456789, api_base: '{at}', api_version: 2025-04-01-preview }}
  - model_name: newer
    litellm_params: {{ model: azure/gpt-4o, api_key: sk-azure-0123456789, api_base: '{at}', api_version: v1 }}
  - model_name: gpt
    litellm_params: {{ model: openai/gpt-4o, api_key: {UPSTREAM_KEY}, api_base: '{at}/v1' }}
  - model_name: other-account
    litellm_params: {{ model: openai/gpt-4o, api_key: sk-second-0123456789, api_base: '{at}/v1' }}
keys:
  - {{ key: {RESTRICTED}, alias: restricted, models: [other-account], aliases: {{ mine: other-account }} }}
general_settings: {{ master_key: {MASTER_KEY} }}
"
    ))
    .await
}

fn header<'h>(head: &'h str, name: &str) -> Option<&'h str> {
    head.lines().find_map(|line| {
        let (have, value) = line.split_once(": ")?;
        have.eq_ignore_ascii_case(name).then_some(value)
    })
}

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}";

/// Asks, has the upstream answer, and hands back what the upstream was asked.
async fn asked(
    gateway: &Gateway,
    upstream: &HandMade,
    path: &str,
    headers: &[(&str, &str)],
) -> (String, Response) {
    let serve = async {
        let mut call = upstream.call().await;
        call.write(OK).await;
        call.head
    };
    let (response, head) = tokio::join!(get(gateway.address, path, headers), serve);
    (head, response)
}

#[tokio::test]
async fn objects_are_made_read_listed_and_deleted() {
    let setup = Setup::start().await;
    let address = setup.gateway.address;
    let lines = json!({"custom_id": "1", "method": "POST", "url": "/v1/chat/completions",
        "body": {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "hi"}]}});
    let form = format!(
        "--b\r\ncontent-disposition: form-data; name=\"purpose\"\r\n\r\nbatch\r\n--b\r\n\
         content-disposition: form-data; name=\"file\"; filename=\"in.jsonl\"\r\n\
         content-type: application/jsonl\r\n\r\n{lines}\r\n--b--\r\n"
    );
    let send = async |method: &str, path: &str, content_type: &str, body: &str| {
        let mut client = Connection::open(address).await;
        let headers = [("content-type", content_type)];
        client.request(method, path, &headers, body.as_bytes()).await;
        client.response().await
    };
    let file = send("POST", "/v1/files", "multipart/form-data; boundary=b", &form).await;
    assert_eq!(file.status, 200, "{}", file.text());
    let file = file.json()["id"].as_str().expect("an id").to_owned();
    let content = setup.get(&format!("/files/{file}/content")).await;
    assert_eq!((content.status, content.text()), (200, lines.to_string()));
    assert_eq!(content.header("x-content-type-options"), Some("nosniff"));
    let listed = setup.get("/v1/files?limit=10").await;
    assert_eq!(listed.json()["data"][0]["id"], file.as_str());

    let wanted = json!({"endpoint": "/v1/chat/completions", "input_file_id": file,
        "completion_window": "24h"});
    let batch = send("POST", "/batches", "application/json", &wanted.to_string()).await;
    assert_eq!(batch.status, 200, "{}", batch.text());
    let batch = batch.json()["id"].as_str().expect("an id").to_owned();
    let done = setup.get(&format!("/v1/batches/{batch}")).await;
    assert_eq!(done.json()["status"], "completed");
    let output = done.json()["output_file_id"].as_str().expect("a file").to_owned();
    let output = setup.get(&format!("/v1/files/{output}/content")).await;
    assert!(output.text().contains("chat.completion"), "{}", output.text());
    let cancelled =
        send("POST", &format!("/v1/batches/{batch}/cancel"), "application/json", "").await;
    assert_eq!(cancelled.status, 409);

    let job = json!({"model": "gpt-4o-mini", "training_file": file});
    let job = send("POST", "/v1/fine_tuning/jobs", "application/json", &job.to_string()).await;
    assert_eq!(job.status, 200, "{}", job.text());
    let id = job.json()["id"].as_str().expect("an id").to_owned();
    assert_eq!(setup.get(&format!("/v1/fine_tuning/jobs/{id}/events")).await.status, 200);
    let line = setup.settled(&job).await;
    assert_eq!((line["route"].as_str(), line["outcome"].as_str()), {
        (Some("/v1/fine_tuning/jobs"), Some("done"))
    });

    let deleted = send("DELETE", &format!("/v1/files/{file}"), "application/json", "").await;
    assert_eq!(deleted.json()["deleted"], true);
    let gone = setup.get(&format!("/v1/files/{file}")).await;
    assert_eq!(gone.status, 404);
    let credential = format!("Bearer {UPSTREAM_KEY}");
    assert!(setup.asked().iter().all(|asked| asked.header("authorization") == Some(&credential)));
    let total = "litellm_proxy_total_requests_metric_total";
    assert!(setup.gateway.metric(total, &["route=\"/v1/files\""]).await >= 5.0);
}

#[tokio::test]
async fn provider_gets_our_credentials_and_nothing_of_the_caller() {
    let upstream = HandMade::start().await;
    let gateway = gateway(&upstream).await;
    let headers = [
        ("x-api-key", "sk-of-the-caller"),
        ("cookie", "session=1"),
        ("openai-organization", "org-callers"),
        ("openai-beta", "assistants=v2"),
        ("range", "bytes=0-1"),
        ("accept", "application/json"),
        ("user-agent", "caller/1"),
        ("connection", "x-nominated"),
        ("x-nominated", "gone"),
    ];
    let path = "/v1/files/file-1/content?after=f%201&model=gpt";
    let (head, response) = asked(&gateway, &upstream, path, &headers).await;
    assert_eq!(response.status, 200, "{}", response.text());
    assert!(head.starts_with("GET /v1/files/file-1/content?after=f%201 HTTP/1.1\r\n"), "{head}");
    assert_eq!(header(&head, "authorization"), Some(&*format!("Bearer {UPSTREAM_KEY}")));
    assert_eq!(header(&head, "host"), Some(&*upstream.address.to_string()));
    assert_eq!(header(&head, "openai-beta"), Some("assistants=v2"));
    assert_eq!(header(&head, "range"), Some("bytes=0-1"));
    for secret in ["sk-of-the-caller", MASTER_KEY, "session=1", "org-callers", "caller/1", "gone"] {
        assert!(!head.contains(secret), "{secret}: {head}");
    }
}

#[tokio::test]
async fn request_says_whose_account_is_meant() {
    let upstream = HandMade::start().await;
    let gateway = gateway(&upstream).await;
    let second = "Bearer sk-second-0123456789";
    let first = format!("Bearer {UPSTREAM_KEY}");
    for (path, headers, target, credential) in [
        ("/v1/files", vec![], "/v1/files", first.as_str()),
        ("/files", vec![("x-litellm-model", "other-account")], "/v1/files", second),
        ("/files?target_model_names=other-account", vec![], "/v1/files", second),
        ("/v1/files?provider=openai&limit=1", vec![], "/v1/files?limit=1", &first),
        ("/v1/batches", vec![("custom-llm-provider", "openai")], "/v1/batches", &first),
    ] {
        let (head, response) = asked(&gateway, &upstream, path, &headers).await;
        assert_eq!(response.status, 200, "{}", response.text());
        assert!(head.starts_with(&format!("GET {target} HTTP/1.1\r\n")), "{path}: {head}");
        assert_eq!(header(&head, "authorization"), Some(credential), "{path}");
    }
    for (path, target) in [
        (
            "/v1/files?model=dated&api-version=1999&limit=2",
            "/openai/files?api-version=2025-04-01-preview&limit=2",
        ),
        ("/v1/uploads/u/parts?model=newer&x=1", "/openai/v1/uploads/u/parts?x=1"),
        ("/v1/files?provider=azure", "/openai/files?api-version=2025-04-01-preview"),
    ] {
        let (head, _) = asked(&gateway, &upstream, path, &[]).await;
        assert!(head.starts_with(&format!("GET {target} HTTP/1.1\r\n")), "{path}: {head}");
        assert_eq!(header(&head, "api-key"), Some("sk-azure-0123456789"));
        assert_eq!(header(&head, "authorization"), None);
    }
    for (path, code) in [
        ("/v1/files?model=claude", "unsupported_provider"),
        ("/v1/files?provider=anthropic", "unsupported_provider"),
        ("/v1/files?provider=groq", "unknown_provider"),
        ("/v1/files?model=nope", "model_not_found"),
        ("/v1/files/%2e%2e/models", "invalid_path"),
    ] {
        let refused = get(gateway.address, path, &[]).await;
        assert_eq!((refused.status, refused.error("code")), (400, json!(code)), "{path}");
    }
}

#[tokio::test]
async fn restricted_key_reaches_the_accounts_of_its_models_only() {
    let upstream = HandMade::start().await;
    let gateway = gateway(&upstream).await;
    let bearer = format!("Bearer {RESTRICTED}");
    let as_restricted = [("authorization", bearer.as_str())];
    for path in ["/v1/files", "/v1/files?provider=openai", "/v1/files?model=gpt"] {
        let refused = get(gateway.address, path, &as_restricted).await;
        assert_eq!(refused.status, 403, "{path}: {}", refused.text());
    }
    let path = "/v1/files?model=mine";
    let (head, response) = asked(&gateway, &upstream, path, &as_restricted).await;
    assert_eq!(response.status, 200);
    assert_eq!(header(&head, "authorization"), Some("Bearer sk-second-0123456789"));
    let nobody = get(gateway.address, "/v1/files", &[("authorization", "")]).await;
    assert_eq!(nobody.status, 401);
}

#[tokio::test]
async fn without_a_provider_that_stores_there_is_a_404() {
    let gateway = Gateway::start(&format!(
        "
model_list:
  - model_name: claude
    litellm_params: {{ model: anthropic/claude-sonnet-4-5, api_key: {UPSTREAM_KEY} }}
general_settings: {{ master_key: {MASTER_KEY} }}
"
    ))
    .await;
    let refused = get(gateway.address, "/v1/files", &[]).await;
    assert_eq!((refused.status, refused.error("code")), (404, json!("no_provider")));
}

#[tokio::test]
async fn answer_is_cleaned_of_what_is_not_the_callers() {
    let upstream = HandMade::start().await;
    let gateway = gateway(&upstream).await;
    let serve = async |answer: String| {
        let write = async { upstream.call().await.write(answer).await };
        tokio::join!(get(gateway.address, "/v1/files/f/content", &[]), write).0
    };
    let body = format!("you said {UPSTREAM_KEY}, did you");
    let head = format!(
        "content-length: {}\r\ncontent-type: text/html\r\nset-cookie: a=b\r\nx-request-id: r1\r\n\
         server: theirs\r\ncontent-disposition: attachment; filename=\"{UPSTREAM_KEY}\"\r\n\
         x-echo: Bearer {UPSTREAM_KEY}\r\n",
        body.len()
    );
    let response = serve(format!("HTTP/1.1 200 OK\r\n{head}\r\n{body}")).await;
    assert_eq!(response.status, 200);
    assert_eq!(response.text(), body.replace(UPSTREAM_KEY, &"*".repeat(UPSTREAM_KEY.len())));
    assert_eq!(response.header("content-type"), Some("application/octet-stream"));
    assert_eq!(response.header("llm_provider-x-request-id"), Some("r1"));
    for gone in ["set-cookie", "x-echo", "content-disposition", "server"] {
        assert_eq!(response.header(gone), None, "{gone}");
    }
    let moved =
        serve("HTTP/1.1 302 Found\r\nlocation: http://x/\r\ncontent-length: 0\r\n\r\n".into());
    let moved = moved.await;
    assert_eq!((moved.status, moved.error("code")), (502, json!("upstream_error")));
    assert_eq!(moved.header("location"), None);
    let not_found = "HTTP/1.1 404 Not Found\r\ncontent-type: application/json\r\n\
                     transfer-encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n";
    let not_found = serve(not_found.into()).await;
    assert_eq!((not_found.status, not_found.text().as_str()), (404, "{}"));
}

/// A cut answer must not look like a whole one.
#[tokio::test]
async fn answer_that_breaks_off_breaks_off_for_the_caller() {
    let upstream = HandMade::start().await;
    let gateway = gateway(&upstream).await;
    let mut client = Connection::open(gateway.address).await;
    client.request("GET", "/v1/files/f/content", &[], b"").await;
    let mut call = upstream.call().await;
    call.write("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n").await;
    assert_eq!(client.head().await.0, 200);
    assert_eq!(client.chunk().await.as_deref(), Some(&b"half"[..]));
    drop(call);
    assert_eq!(client.try_chunk().await, None);
    gateway.stdout_line(|line| line.contains("\"outcome\":\"broken\"")).await;
    gateway.idle().await;
}

#[tokio::test]
async fn caller_that_leaves_takes_the_upstream_call_along() {
    let upstream = HandMade::start().await;
    let gateway = gateway(&upstream).await;
    let mut client = Connection::open(gateway.address).await;
    client.request("GET", "/v1/files/f", &[], b"").await;
    let mut call = upstream.call().await;
    drop(client);
    call.closed().await;
    gateway.idle().await;
}

#[tokio::test]
async fn refusal_before_the_upload_ends_reaches_the_caller() {
    let upstream = HandMade::start().await;
    let gateway = gateway(&upstream).await;
    let mut client = Connection::open(gateway.address).await;
    let head = format!(
        "POST /v1/files HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {MASTER_KEY}\r\n\
         content-length: {BYTES}\r\n\r\nsome"
    );
    client.write(head.as_bytes()).await;
    let mut stream = upstream.accept().await;
    let mut buffer = [0; 4096];
    assert_ne!(stream.read(&mut buffer).await.expect("it reads"), 0);
    let refusal = "HTTP/1.1 413 Too Large\r\ncontent-type: application/json\r\n\
                   content-length: 2\r\nconnection: close\r\n\r\n{}";
    stream.write_all(refusal.as_bytes()).await.expect("it writes");
    let response = client.response().await;
    assert_eq!((response.status, response.text().as_str()), (413, "{}"));
    assert!(client.closes(PATIENCE).await);
}

#[tokio::test]
async fn server_that_cannot_be_reached_is_an_error_in_openais_shape() {
    let nobody = tollway_tests::servers::Refusing::start();
    let gateway = Gateway::start(&format!(
        "
model_list:
  - model_name: gpt
    litellm_params: {{ model: openai/gpt-4o, api_key: k, api_base: 'http://{}/v1' }}
general_settings: {{ master_key: {MASTER_KEY} }}
",
        nobody.address
    ))
    .await;
    let response = get(gateway.address, "/v1/files", &[]).await;
    assert_eq!((response.status, response.error("code")), (500, json!("upstream_error")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn upload_of_500_mb_takes_no_memory() {
    let upstream = HandMade::start().await;
    let gateway = gateway(&upstream).await;
    get(gateway.address, "/health/liveliness", &[]).await;
    let before = gateway.resident_bytes();
    let server = tokio::spawn(async move {
        let mut stream = upstream.accept().await;
        let mut buffer = vec![0; 256 << 10];
        let (mut head, mut counted) = (Vec::new(), 0);
        while counted < BYTES {
            let read = stream.read(&mut buffer).await.expect("it reads");
            assert_ne!(read, 0, "closed");
            if counted > 0 {
                counted += read as u64;
                continue;
            }
            head.extend_from_slice(&buffer[..read]);
            if let Some(end) = head.windows(4).position(|four| four == b"\r\n\r\n") {
                counted = (head.len() - end - 4) as u64;
            }
        }
        stream.write_all(OK.as_bytes()).await.expect("it writes");
        // Until the other side is done with it.
        let _ = stream.read(&mut buffer).await;
        (head, counted)
    });
    let mut client = Connection::open(gateway.address).await;
    let head = format!(
        "POST /v1/files HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {MASTER_KEY}\r\n\
         content-type: multipart/form-data; boundary=b\r\ncontent-length: {BYTES}\r\n\r\n"
    );
    client.write(head.as_bytes()).await;
    let piece = vec![b'x'; 1 << 20];
    let mut most = 0;
    for _ in 0..BYTES / piece.len() as u64 {
        client.write(&piece).await;
        most = most.max(gateway.resident_bytes());
    }
    let response = client.response().await;
    assert_eq!((response.status, response.text().as_str()), (200, "{}"));
    let (head, counted) = server.await.expect("it was answered");
    assert_eq!(counted, BYTES);
    let head = String::from_utf8_lossy(&head).to_lowercase();
    assert!(head.contains("content-type: multipart/form-data; boundary=b\r\n"));
    let grown = most.saturating_sub(before);
    assert!(grown < GROWTH_MAX, "grown by {} KiB", grown >> 10);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn download_of_500_mb_takes_no_memory() {
    let upstream = HandMade::start().await;
    let gateway = gateway(&upstream).await;
    get(gateway.address, "/health/liveliness", &[]).await;
    let before = gateway.resident_bytes();
    let mut client = Connection::open(gateway.address).await;
    client.request("GET", "/v1/files/f/content", &[], b"").await;
    let mut call = upstream.call().await;
    call.write(format!("HTTP/1.1 200 OK\r\ncontent-length: {BYTES}\r\n\r\n")).await;
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
    assert_eq!(client.head().await.0, 200);
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
