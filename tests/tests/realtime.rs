//! `/v1/realtime`: websockets to models.

use serde_json::{Value, json};
use tokio::io::AsyncReadExt;
use tollway_tests::gateway::{Gateway, MASTER_KEY, PATIENCE};
use tollway_tests::servers::HandMade;
use tollway_tests::setup::{Setup, UPSTREAM_KEY, within};
use tollway_tests::{Connection, get};

/// The key of RFC 6455's example, and what a server answers to it.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";
const RESTRICTED: &str = "sk-restricted-0123456789";

const CONFIG: &str = "
model_list:
  - model_name: talk
    litellm_params: { model: openai/gpt-realtime, api_key: $KEY, api_base: $SIM/v1, input_cost_per_token: 0.001, output_cost_per_token: 0.002 }
  - model_name: claude
    litellm_params: { model: anthropic/claude-3-5-sonnet-20241022, api_key: $KEY, api_base: $SIM }
keys:
  - { key: sk-restricted-0123456789, alias: restricted, models: [claude] }
  - { key: sk-limited-0123456789, alias: limited, rpm: 1 }
  - { key: sk-parallel-0123456789, alias: parallel, max_parallel_requests: 1, aliases: { mine: talk } }
";

fn upgrade(path: &str, headers: &[(&str, &str)]) -> String {
    let mut head = format!(
        "GET {path} HTTP/1.1\r\nhost: gateway\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
         sec-websocket-version: 13\r\nsec-websocket-key: {KEY}\r\n\
         sec-websocket-extensions: permessage-deflate\r\n"
    );
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head + "\r\n"
}

/// A frame as clients send them: final, masked.
fn frame(opcode: u8, text: &str) -> Vec<u8> {
    let mask = [0x12, 0x34, 0x56, 0x78];
    let mut frame = vec![0x80 | opcode];
    match text.len() {
        length @ 0..=125 => frame.push(0x80 | length as u8),
        length => {
            frame.push(0x80 | 126);
            frame.extend_from_slice(&(length as u16).to_be_bytes());
        }
    }
    frame.extend_from_slice(&mask);
    frame.extend(text.bytes().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    frame
}

/// The next event of the server.
async fn event(client: &mut Connection) -> Value {
    let head = client.bytes(2).await;
    let length = match head[1] & 0x7f {
        126 => u64::from(u16::from_be_bytes(client.bytes(2).await.try_into().expect("two"))),
        127 => u64::from_be_bytes(client.bytes(8).await.try_into().expect("eight")),
        short => u64::from(short),
    };
    let payload = client.bytes(usize::try_from(length).expect("it is short")).await;
    assert_eq!(head[0], 0x81, "{}", String::from_utf8_lossy(&payload));
    serde_json::from_slice(&payload).expect("JSON")
}

async fn open(
    gateway: &Gateway,
    path: &str,
    headers: &[(&str, &str)],
) -> (Connection, u16, Vec<(String, String)>) {
    let mut client = Connection::open(gateway.address).await;
    client.write(upgrade(path, headers).as_bytes()).await;
    let (status, headers) = client.head().await;
    (client, status, headers)
}

fn bearer(key: &str) -> String {
    format!("Bearer {key}")
}

/// Has the model answer once; the events until it is done.
async fn answered(client: &mut Connection) -> Vec<Value> {
    let item = json!({"type": "conversation.item.create", "item": {"type": "message",
        "role": "user", "content": [{"type": "input_text", "text": "hello there"}]}});
    client.write(&frame(1, &item.to_string())).await;
    client.write(&frame(1, &json!({"type": "response.create"}).to_string())).await;
    let mut events = Vec::new();
    loop {
        events.push(event(client).await);
        if events.last().is_some_and(|event| event["type"] == "response.done") {
            return events;
        }
    }
}

#[tokio::test]
async fn session_is_carried_and_metered() {
    let setup = Setup::with(CONFIG).await;
    let key = bearer(MASTER_KEY);
    let headers = [("authorization", key.as_str()), ("x-litellm-call-id", "rt-1")];
    let (mut client, status, head) =
        open(&setup.gateway, "/v1/realtime?model=talk", &headers).await;
    assert_eq!(status, 101, "{head:?}");
    let has = |name: &str, value: &str| head.iter().any(|(n, v)| n == name && v == value);
    assert!(has("sec-websocket-accept", ACCEPT), "{head:?}");
    assert!(has("x-litellm-call-id", "rt-1"), "{head:?}");
    assert!(head.iter().all(|(name, _)| name != "sec-websocket-extensions"));
    assert_eq!(event(&mut client).await["type"], "session.created");
    let (mut prompt, mut completion) = (0, 0);
    for _ in 0..2 {
        let events = answered(&mut client).await;
        let usage = &events.last().expect("events")["response"]["usage"];
        prompt += usage["input_tokens"].as_u64().expect("a count");
        completion += usage["output_tokens"].as_u64().expect("a count");
        assert!(events.iter().any(|event| event["type"] == "response.output_text.delta"));
    }
    assert!(prompt > 0 && completion > 0);
    client.write(&frame(8, "")).await;
    assert!(client.closes(PATIENCE).await);

    let line = setup.log_line("rt-1").await;
    assert_eq!((line["route"].as_str(), line["status"].as_u64()), {
        (Some("/v1/realtime"), Some(101))
    });
    assert_eq!((line["outcome"].as_str(), line["model"].as_str()), {
        (Some("done"), Some("gpt-realtime"))
    });
    assert_eq!(line["prompt_tokens"], prompt);
    assert_eq!(line["completion_tokens"], completion);
    assert!(line["cost_usd"].as_f64().expect("a cost") > 0.0);
    let tokens = setup.gateway.metric("litellm_input_tokens_metric_total", &["talk"]).await;
    assert_eq!(tokens, prompt as f64);

    let asked = setup.asked();
    let greeting = asked.iter().find(|asked| asked.method == "GET").expect("an upgrade");
    assert_eq!(greeting.path, "/v1/realtime?model=gpt-realtime");
    assert_eq!(greeting.header("authorization"), Some(&*bearer(UPSTREAM_KEY)));
    assert_eq!(greeting.header("sec-websocket-extensions"), None);
}

/// Then Pingora's loop reads the head.
#[tokio::test]
async fn session_is_carried_beside_pass_through_routes_as_well() {
    let through = "
general_settings:
  master_key: $MASTER
  pass_through_endpoints: [{ path: /through, target: $SIM }]
";
    let setup = Setup::with(&format!("{CONFIG}{through}")).await;
    let key = bearer(MASTER_KEY);
    let headers = [("authorization", key.as_str()), ("x-litellm-call-id", "rt-2")];
    let (mut client, status, _) = open(&setup.gateway, "/v1/realtime?model=talk", &headers).await;
    assert_eq!(status, 101);
    assert_eq!(event(&mut client).await["type"], "session.created");
    answered(&mut client).await;
    drop(client);
    let line = setup.log_line("rt-2").await;
    assert_eq!(line["operation"], "realtime", "{line}");
    let labels = ["gen_ai_operation_name=\"realtime\""];
    assert!(setup.gateway.metric("gen_ai_server_request_duration_count", &labels).await >= 1.0);
    assert!(line["completion_tokens"].as_u64().is_some_and(|tokens| tokens > 0), "{line}");
}

#[tokio::test]
async fn key_may_come_as_a_subprotocol_and_stays_here() {
    let setup = Setup::with(CONFIG).await;
    let offered = format!(
        "realtime, openai-insecure-api-key.{MASTER_KEY}, openai-organization.org-1, \
         openai-beta.realtime-v1"
    );
    let headers = [
        ("sec-websocket-protocol", offered.as_str()),
        ("openai-beta", "realtime=v1"),
        ("cookie", "a=b"),
    ];
    let (mut client, status, head) = open(&setup.gateway, "/realtime?model=talk", &headers).await;
    assert_eq!(status, 101);
    let protocols: Vec<_> = head.iter().filter(|(n, _)| n == "sec-websocket-protocol").collect();
    assert_eq!(protocols.len(), 1);
    assert_eq!(protocols[0].1, "realtime");
    assert_eq!(event(&mut client).await["type"], "session.created");
    let asked = setup.asked();
    let asked = asked.first().expect("it was asked");
    let protocols = asked.header("sec-websocket-protocol");
    assert_eq!(protocols, Some("realtime, openai-beta.realtime-v1"));
    assert_eq!(asked.header("openai-beta"), Some("realtime=v1"));
    assert_eq!(asked.header("cookie"), None);
    assert!(asked.headers.iter().all(|(_, value)| !value.contains(MASTER_KEY)));
}

#[tokio::test]
async fn what_may_not_be_called_is_refused_before_anything_is_opened() {
    let setup = Setup::with(CONFIG).await;
    let (master, restricted) = (bearer(MASTER_KEY), bearer(RESTRICTED));
    for (path, key, status) in [
        ("/v1/realtime?model=talk", "Bearer sk-wrong", 401),
        ("/v1/realtime?model=talk", &*restricted, 403),
        ("/v1/realtime?model=nope", &master, 400),
        ("/v1/realtime", &master, 400),
        ("/v1/realtime?model=claude", &master, 400),
    ] {
        let mut client = Connection::open(setup.gateway.address).await;
        client.write(upgrade(path, &[("authorization", key)]).as_bytes()).await;
        let refused = client.response().await;
        assert_eq!(refused.status, status, "{path}: {}", refused.text());
        assert!(refused.error("message").is_string());
    }
    let plain = get(setup.gateway.address, "/v1/realtime?model=talk", &[]).await;
    assert_eq!((plain.status, plain.header("upgrade")), (426, Some("websocket")));
    assert!(setup.asked().is_empty());
}

#[tokio::test]
async fn limits_of_the_key_hold() {
    let filters = tollway_tests::setup::filters_with_limits("");
    let setup = Setup::with(&format!("{CONFIG}{filters}")).await;
    let limited = bearer("sk-limited-0123456789");
    let path = "/v1/realtime?model=talk";
    let headers = [("authorization", limited.as_str())];
    assert_eq!(open(&setup.gateway, path, &headers).await.1, 101);
    assert_eq!(open(&setup.gateway, path, &headers).await.1, 429);

    let parallel = bearer("sk-parallel-0123456789");
    let headers = [("authorization", parallel.as_str())];
    let (client, status, _) = open(&setup.gateway, "/v1/realtime?model=mine", &headers).await;
    assert_eq!(status, 101);
    assert_eq!(open(&setup.gateway, path, &headers).await.1, 429);
    drop(client);
    setup.gateway.idle().await;
    assert_eq!(open(&setup.gateway, path, &headers).await.1, 101);
}

/// A gateway with models at two hand-made servers and Azure's two forms at the first.
async fn hand_made(first: &HandMade, second: &HandMade) -> Gateway {
    let (first, second) = (first.address, second.address);
    Gateway::start(&format!(
        "
model_list:
  - model_name: talk
    litellm_params: {{ model: openai/gpt-realtime, api_key: {UPSTREAM_KEY}, api_base: 'http://{first}/v1', order: 1 }}
  - model_name: talk
    litellm_params: {{ model: openai/gpt-realtime, api_key: {UPSTREAM_KEY}, api_base: 'http://{second}/v1', order: 2 }}
  - model_name: dated
    litellm_params: {{ model: azure/gpt-realtime, api_key: sk-azure-0123456789, api_base: 'http://{first}', api_version: 2025-04-01-preview }}
  - model_name: newer
    litellm_params: {{ model: azure/gpt-realtime, api_key: sk-azure-0123456789, api_base: 'http://{first}', api_version: v1 }}
general_settings: {{ master_key: {MASTER_KEY} }}
"
    ))
    .await
}

#[tokio::test]
async fn deployment_that_declines_is_followed_by_the_next_one() {
    let (first, second) = (HandMade::start().await, HandMade::start().await);
    let gateway = hand_made(&first, &second).await;
    let mut client = Connection::open(gateway.address).await;
    let key = bearer(MASTER_KEY);
    let asked = upgrade("/v1/realtime?model=talk", &[("authorization", &key)]);
    client.write(asked.as_bytes()).await;
    let mut declined = first.call().await;
    declined.write("HTTP/1.1 503 No\r\ncontent-length: 2\r\n\r\n{}").await;
    let mut call = second.call().await;
    call.write(format!(
        "HTTP/1.1 101 Go\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
         sec-websocket-accept: {ACCEPT}\r\nset-cookie: theirs=1\r\n\r\n\x01"
    ))
    .await;
    let (status, head) = client.head().await;
    assert_eq!(status, 101);
    assert!(head.iter().all(|(name, _)| name != "set-cookie" && name != "sec-websocket-protocol"));
    // What came behind the head is part of the stream, and both sides' bytes pass as they are.
    assert_eq!(client.bytes(1).await, [1]);
    client.write(b"ping").await;
    let mut got = [0; 4];
    within(PATIENCE, "a frame", call.stream.read_exact(&mut got)).await.expect("it reads");
    assert_eq!(&got, b"ping");
    drop(client);
    call.closed().await;
    gateway.idle().await;
}

#[tokio::test]
async fn group_whose_upgrade_fails_is_followed_by_its_fallback() {
    let (first, second) = (HandMade::start().await, HandMade::start().await);
    let gateway = Gateway::start(&format!(
        "
model_list:
  - model_name: talk
    litellm_params: {{ model: openai/gpt-realtime, api_key: {UPSTREAM_KEY}, api_base: 'http://{}/v1' }}
  - model_name: spare
    litellm_params: {{ model: openai/gpt-realtime-mini, api_key: {UPSTREAM_KEY}, api_base: 'http://{}/v1' }}
router_settings: {{ num_retries: 0, fallbacks: [{{ talk: [spare] }}] }}
general_settings: {{ master_key: {MASTER_KEY} }}
",
        first.address, second.address
    ))
    .await;
    let key = bearer(MASTER_KEY);
    for (declined, is_followed) in [
        ("HTTP/1.1 503 No\r\ncontent-length: 2\r\n\r\n{}", true),
        ("HTTP/1.1 400 No\r\ncontent-length: 2\r\n\r\n{}", false),
    ] {
        let mut client = Connection::open(gateway.address).await;
        let asked = upgrade("/v1/realtime?model=talk", &[("authorization", &key)]);
        client.write(asked.as_bytes()).await;
        first.call().await.write(declined).await;
        if !is_followed {
            assert_eq!(client.head().await.0, 400);
            continue;
        }
        let mut call = second.call().await;
        call.write(format!(
            "HTTP/1.1 101 Go\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
             sec-websocket-accept: {ACCEPT}\r\n\r\n"
        ))
        .await;
        let (status, head) = client.head().await;
        assert_eq!(status, 101);
        let fallbacks = head.iter().find(|(name, _)| name == "x-litellm-attempted-fallbacks");
        assert_eq!(fallbacks.map(|(_, value)| value.as_str()), Some("1"), "{head:?}");
    }
}

#[tokio::test]
async fn refusal_of_the_provider_is_an_error_in_openais_shape() {
    let (first, second) = (HandMade::start().await, HandMade::start().await);
    let gateway = hand_made(&first, &second).await;
    let mut client = Connection::open(gateway.address).await;
    let key = bearer(MASTER_KEY);
    let asked = upgrade("/v1/realtime?model=talk", &[("authorization", &key)]);
    client.write(asked.as_bytes()).await;
    let body = json!({"error": {"message": format!("no {UPSTREAM_KEY}"), "type": "invalid_request_error"}});
    let body = body.to_string();
    let mut call = first.call().await;
    let head = format!("HTTP/1.1 400 Bad\r\ncontent-length: {}\r\n\r\n", body.len());
    call.write(head + &body).await;
    let refused = client.response().await;
    assert_eq!(refused.status, 400, "{}", refused.text());
    assert!(!refused.text().contains(UPSTREAM_KEY), "{}", refused.text());
}

#[tokio::test]
async fn azure_is_asked_in_its_own_words() {
    let (first, second) = (HandMade::start().await, HandMade::start().await);
    let gateway = hand_made(&first, &second).await;
    let key = bearer(MASTER_KEY);
    for (model, target) in [
        ("dated", "/openai/realtime?api-version=2025-04-01-preview&deployment=gpt-realtime"),
        ("newer", "/openai/v1/realtime?model=gpt-realtime"),
    ] {
        let mut client = Connection::open(gateway.address).await;
        let path = format!("/v1/realtime?model={model}");
        client.write(upgrade(&path, &[("authorization", &key)]).as_bytes()).await;
        let call = first.call().await;
        assert!(call.head.starts_with(&format!("GET {target} HTTP/1.1\r\n")), "{}", call.head);
        assert!(call.head.contains("api-key: sk-azure-0123456789\r\n"), "{}", call.head);
    }
}

#[tokio::test]
async fn session_ends_when_there_is_no_money_for_another_turn() {
    let config = "
model_list:
  - model_name: talk
    litellm_params: { model: openai/gpt-realtime, api_key: $KEY, api_base: $SIM/v1, input_cost_per_token: 0.001, output_cost_per_token: 0.002 }
    model_info: { max_input_tokens: 1000, max_output_tokens: 100 }
keys:
  - { key: sk-spender-0123456789, alias: spender, max_budget: 1.201 }
";
    let setup = Setup::with(config).await;
    let key = bearer("sk-spender-0123456789");
    let headers = [("authorization", key.as_str()), ("x-litellm-call-id", "rt-3")];
    let (mut client, status, _) = open(&setup.gateway, "/v1/realtime?model=talk", &headers).await;
    assert_eq!(status, 101);
    assert_eq!(event(&mut client).await["type"], "session.created");
    answered(&mut client).await;
    assert!(client.closes(PATIENCE).await);
    let line = setup.log_line("rt-3").await;
    assert_eq!(line["outcome"], "broken", "{line}");
    assert!(line["cost_usd"].as_f64().is_some_and(|cost| cost > 0.001), "{line}");
    let (_, status, _) = open(&setup.gateway, "/v1/realtime?model=talk", &headers).await;
    assert_eq!(status, 422, "what is left is not enough for a turn");
}
