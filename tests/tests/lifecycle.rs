//! Start, reload and end of a gateway.

use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::net::TcpStream;
use tollway_simulator::Reply;
use tollway_tests::client::send;
use tollway_tests::gateway::{Folder, Gateway, MASTER_KEY, Options, PATIENCE};
use tollway_tests::servers::{Call, HandMade};
use tollway_tests::setup::{config, simulator, within};
use tollway_tests::{Connection, Setup, chat, get, post_with, stream};

/// Far above what an end takes that waits for nothing, far below what it may wait for.
const AT_ONCE: Duration = Duration::from_secs(10);

const EVENT: &str = "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"one\"}}]}\n\n";
const END: &str = "data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n\
                   data: [DONE]\n\n";

/// A stream in the middle: the test has both of its ends.
struct Running {
    gateway: Gateway,
    client: Connection,
    upstream: Call,
}

/// Starts a gateway with a stream running through it. The bound of the drain is for the slowest.
async fn running(rest: &str) -> Running {
    let upstream = HandMade::start().await;
    let gateway = Gateway::start(&format!(
        "
general_settings: {{ master_key: {MASTER_KEY} }}
model_list:
  - model_name: gpt-4o-mini
    litellm_params: {{ model: openai/gpt-4o-mini, api_key: sk-test-0123456789, api_base: 'http://{}/v1' }}
{rest}
",
        upstream.address
    ))
    .await;
    let mut client = Connection::open(gateway.address).await;
    let body = stream("gpt-4o-mini", "Hi").to_string();
    client.request("POST", "/v1/chat/completions", &[], body.as_bytes()).await;
    let mut call = upstream.call().await;
    call.write("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n")
        .await;
    call.write(EVENT).await;
    assert_eq!(client.head().await.0, 200);
    assert!(client.next_event().await.expect("no end").contains("one"));
    Running { gateway, client, upstream: call }
}

/// Waits until nobody listens any more.
async fn refused(gateway: &Gateway) {
    let look = async { while TcpStream::connect(gateway.address).await.is_ok() {} };
    within(PATIENCE, "no new connections", look).await;
}

#[tokio::test]
async fn sigterm_lets_a_stream_end_and_takes_nothing_new() {
    let mut it = running("server: { drain_timeout: 5m }").await;
    // A connection that waits for its next request is no reason to stay.
    let mut idle = Connection::open(it.gateway.address).await;
    idle.request("GET", "/health/liveliness", &[], b"").await;
    assert_eq!(idle.response().await.status, 200);
    it.gateway.signal("TERM");
    it.gateway.stderr_line(|line| line.contains("stopping")).await;
    refused(&it.gateway).await;
    // The stream goes on as if nothing had happened.
    it.upstream.write(EVENT).await;
    assert!(it.client.next_event().await.expect("no end").contains("one"));
    it.upstream.write(END).await;
    drop(it.upstream);
    assert!(it.client.next_event().await.expect("no end").contains("stop"));
    assert_eq!(it.client.next_event().await.as_deref(), Some("[DONE]"));
    assert_eq!(it.client.next_event().await, None);
    let done = Instant::now();
    let status = it.gateway.ended().await;
    assert!(status.success(), "{status}");
    // Not after a fixed time, and not after the drain's.
    assert!(done.elapsed() < AT_ONCE, "{:?}", done.elapsed());
    // The last line of the log is written all the same.
    let last =
        |line: &str| line.contains("chat/completions") && line.contains("\"outcome\":\"done\"");
    it.gateway.stdout_line(last).await;
}

#[tokio::test]
async fn sigterm_without_requests_ends_at_once() {
    let mut setup = Setup::with("server: { drain_timeout: 5m }").await;
    assert_eq!(setup.chat(&chat("gpt-4o-mini", "Hi")).await.status, 200);
    let _idle = Connection::open(setup.gateway.address).await;
    for signal in ["TERM", "INT"] {
        let begun = Instant::now();
        setup.gateway.signal(signal);
        assert!(setup.gateway.ended().await.success());
        assert!(begun.elapsed() < AT_ONCE, "{signal}: {:?}", begun.elapsed());
        setup = Setup::with("server: { drain_timeout: 5m }").await;
    }
}

#[tokio::test]
async fn second_sigterm_waits_for_nothing() {
    let mut it = running("server: { drain_timeout: 5m }").await;
    it.gateway.signal("TERM");
    it.gateway.stderr_line(|line| line.contains("stopping")).await;
    let begun = Instant::now();
    it.gateway.signal("TERM");
    it.gateway.ended().await;
    assert!(begun.elapsed() < AT_ONCE, "{:?}", begun.elapsed());
    // The client sees that it is cut.
    assert!(it.client.try_chunk().await.is_none());
}

#[tokio::test]
async fn drain_has_a_bound() {
    let mut it = running("server: { drain_timeout: 500ms }").await;
    let begun = Instant::now();
    it.gateway.signal("TERM");
    it.gateway.ended().await;
    assert!(begun.elapsed() >= Duration::from_millis(500), "{:?}", begun.elapsed());
    assert!(begun.elapsed() < AT_ONCE, "{:?}", begun.elapsed());
    it.gateway.stderr_line(|line| line.contains("cut=1")).await;
}

#[tokio::test]
async fn requests_that_wait_for_an_answer_are_drained_as_well() {
    let mut setup = Setup::with("server: { drain_timeout: 5m }").await;
    let said = "[[sim say=late first_byte_delay=700ms]]";
    let mut connection = setup.send_chat(MASTER_KEY, &chat("gpt-4o-mini", said)).await;
    setup.simulator.next_request().await;
    setup.gateway.signal("TERM");
    let response = connection.response().await;
    assert_eq!(response.json()["choices"][0]["message"]["content"], "late");
    assert!(setup.gateway.ended().await.success());
}

const KEYS: &str = "
keys: [{ alias: old, key: sk-old-000000001 }]
";
const OTHER: &str = "
model_list:
  - model_name: claude
    litellm_params: { model: anthropic/claude-3-5-sonnet-20241022, api_key: $KEY, api_base: $SIM }
  - model_name: brand-new
    litellm_params: { model: openai/gpt-4o, api_key: $KEY, api_base: $SIM/v1 }
keys: [{ alias: new, key: sk-new-000000001 }]
";

#[tokio::test]
async fn reload_changes_models_and_keys_and_drops_no_stream() {
    let setup = Setup::with(KEYS).await;
    let simulated = stream("gpt-4o-mini", "[[sim tokens=40 rate=40]]");
    let mut running = setup.send_chat("sk-old-000000001", &simulated).await;
    running.head().await;
    running.next_event().await.expect("no end");
    setup.gateway.reload(&config(OTHER, &setup.simulator));
    setup.gateway.stderr_line(|line| line.contains("config reloaded")).await;

    assert_eq!(setup.chat_as("sk-new-000000001", &chat("brand-new", "Hi")).await.status, 200);
    assert_eq!(setup.chat_as("sk-old-000000001", &chat("brand-new", "Hi")).await.status, 401);
    assert_eq!(setup.chat_as("sk-new-000000001", &chat("gpt-4o-mini", "Hi")).await.status, 400);
    assert_eq!(setup.chat(&chat("claude", "Hi")).await.status, 200);

    let mut last = String::new();
    while let Some(event) = running.next_event().await {
        last = event;
    }
    assert_eq!(last, "[DONE]");
    // Connections to what stayed are kept.
    assert!(setup.simulator.connections().total <= 2);
}

#[tokio::test]
async fn changed_file_is_noticed_without_a_signal() {
    let setup = Setup::with(KEYS).await;
    let fresh = setup.gateway.folder.join("fresh");
    std::fs::write(&fresh, config(OTHER, &setup.simulator)).expect("it can be written");
    std::fs::rename(fresh, setup.gateway.folder.join("config.yaml")).expect("it can be moved");
    setup.gateway.stderr_line(|line| line.contains("config reloaded")).await;
    assert_eq!(setup.chat(&chat("brand-new", "Hi")).await.status, 200);
}

#[tokio::test]
async fn bad_file_leaves_the_old_config_serving_and_says_what_is_wrong() {
    let setup = Setup::with(KEYS).await;
    let good = config(KEYS, &setup.simulator);
    for (bad, path) in [
        (
            good.replace("openai/gpt-4o-mini,", "nobody/gpt-4o-mini,"),
            "model_list[0].litellm_params.model",
        ),
        (good.replace("alias: old", "alais: old"), "keys[0].alais"),
        (good.clone() + "\nfilters: [{ filter: rate_limit, per_kye: { rpm: 1 } }]\n", "per_kye"),
        ("model_list: [".to_owned(), "config.yaml"),
        (String::new(), "model_list"),
        ("\u{0}\u{1}".to_owned(), "config.yaml"),
    ] {
        let before = setup.gateway.stderr().lines().count();
        setup.gateway.reload(&bad);
        // The path stands in that line, or in those below it.
        setup.gateway.stderr_lines(before, 1, |line| line.contains("config not reloaded")).await;
        setup.gateway.stderr_lines(before, 1, |line| line.contains(path)).await;
        let response = setup.chat_as("sk-old-000000001", &chat("gpt-4o-mini", "Hi")).await;
        assert_eq!(response.status, 200, "{path}: {}", response.text());
    }
    setup.gateway.reload(&config(OTHER, &setup.simulator));
    setup.gateway.stderr_line(|line| line.contains("config reloaded")).await;
    assert_eq!(setup.chat(&chat("brand-new", "Hi")).await.status, 200);
}

fn mode(path: &std::path::Path) -> u32 {
    std::fs::metadata(path).expect("it is there").permissions().mode() & 0o777
}

/// The key in a start's `master key (shown once, kept in …): sk-…`.
fn shown_key(gateway: &Gateway) -> Option<String> {
    let said = gateway.stdout();
    let line = said.lines().find(|line| line.contains("shown once"))?;
    Some(line.rsplit(' ').next()?.to_owned())
}

#[tokio::test]
async fn master_key_is_made_shown_once_kept_and_used_again() {
    let folder = Folder::fresh();
    let options = || Options { folder: Some(folder.0.clone()), ..Options::default() };
    let mut first = Gateway::start_with(options()).await;
    first.stdout_line(|line| line.contains("curl")).await;
    let key = shown_key(&first).expect("it is shown");
    assert!(key.starts_with("sk-") && key.len() > 40, "{key}");
    let data = folder.0.join("tollway-data");
    assert_eq!(mode(&data), 0o700);
    assert_eq!(mode(&data.join("master_key")), 0o600);
    let kept = std::fs::read_to_string(data.join("master_key")).expect("it is kept");
    assert_eq!(kept.trim(), key);
    let bearer = format!("Bearer {key}");
    let headers = [("authorization", bearer.as_str())];
    assert_eq!(get(first.address, "/v1/models", &headers).await.status, 200);
    first.signal("TERM");
    first.ended().await;

    let second = Gateway::start_with(options()).await;
    second.stdout_line(|line| line.contains("curl")).await;
    assert_eq!(shown_key(&second), None);
    assert!(!second.stdout().contains(&key), "it is not shown again");
    assert_eq!(get(second.address, "/v1/models", &headers).await.status, 200);
    let mine = [("authorization", "Bearer sk-other-0000001")];
    assert_eq!(get(second.address, "/v1/models", &mine).await.status, 401);
}

#[tokio::test]
async fn two_fresh_folders_have_two_keys() {
    let (one, two) = tokio::join!(
        Gateway::start_with(Options::default()),
        Gateway::start_with(Options::default())
    );
    for gateway in [&one, &two] {
        gateway.stdout_line(|line| line.contains("curl")).await;
    }
    assert_ne!(shown_key(&one), shown_key(&two));
}

#[tokio::test]
async fn start_without_anything_serves_demo_models_and_prints_a_request_that_works() {
    let options = Options { without_command: true, ..Options::default() };
    let gateway = Gateway::start_with(options).await;
    let line = gateway.stdout_line(|line| line.contains("curl http://")).await;
    // The line as a shell would take it apart.
    let url = line.split_whitespace().find(|word| word.starts_with("http://")).expect("a URL");
    assert_eq!(url, format!("http://{}/v1/chat/completions", gateway.address));
    let bearer = line.split("Authorization: ").nth(1).and_then(|rest| rest.split('"').next());
    let body = line.split("-d '").nth(1).and_then(|rest| rest.split('\'').next()).expect("a body");
    let body: Value = serde_json::from_str(body).expect("JSON");
    assert!(body["model"].as_str().is_some_and(|model| model.starts_with("demo/")), "{body}");
    let headers = [("authorization", bearer.expect("a key"))];
    let response = post_with(gateway.address, "/v1/chat/completions", &headers, &body).await;
    assert_eq!(response.status, 200, "{}", response.text());
    let text = response.json()["choices"][0]["message"]["content"].to_string();
    assert!(text.contains("simulated"), "it is honest: {text}");
    assert_eq!(response.header("x-litellm-response-cost"), Some("0"));

    let said = gateway.stdout();
    let serves = said.lines().find(|line| line.starts_with("serves: ")).expect("what it serves");
    for model in ["demo/chat", "demo/echo", "demo/slow", "demo/tools", "demo/think"] {
        assert!(serves.contains(model), "{serves}");
        let body = if model == "demo/slow" { continue } else { stream(model, "Hello") };
        let response = post_with(gateway.address, "/v1/chat/completions", &headers, &body).await;
        assert_eq!(response.events().last().map(String::as_str), Some("[DONE]"), "{model}");
    }
    assert!(!serves.contains("openai/"), "{serves}");
}

#[tokio::test]
async fn batch_can_be_tried_without_a_providers_key() {
    let env = vec![("TOLLWAY_MASTER_KEY".to_owned(), MASTER_KEY.to_owned())];
    let gateway = Gateway::start_with(Options { env, ..Options::default() }).await;
    let bearer = format!("Bearer {MASTER_KEY}");
    let key = ("authorization", bearer.as_str());
    let line = json!({"custom_id": "a", "method": "POST", "url": "/v1/chat/completions",
        "body": chat("echo", "Hi")});
    let form = format!(
        "--b\r\ncontent-disposition: form-data; name=\"purpose\"\r\n\r\nbatch\r\n\
         --b\r\ncontent-disposition: form-data; name=\"file\"; filename=\"in.jsonl\"\r\n\r\n\
         {line}\n\r\n--b--\r\n"
    );
    let typed = ("content-type", "multipart/form-data; boundary=b");
    let file = send(gateway.address, "POST", "/v1/files", &[key, typed], form.as_bytes()).await;
    let body = json!({"input_file_id": file.json()["id"], "endpoint": "/v1/chat/completions",
        "completion_window": "24h"});
    let batch = post_with(gateway.address, "/v1/batches", &[key], &body).await;
    let path = format!("/v1/batches/{}", batch.json()["id"].as_str().expect("an id"));
    let batch = get(gateway.address, &path, &[key]).await.json();
    assert_eq!(batch["status"], "completed", "{batch}");
    let output = batch["output_file_id"].as_str().expect("a file");
    let path = format!("/v1/files/{output}/content");
    let output = get(gateway.address, &path, &[key]).await.json();
    assert_eq!(output["response"]["status_code"], 200, "{output}");
}

#[tokio::test]
async fn provider_whose_key_is_in_the_environment_is_served() {
    let simulator = simulator().await;
    let env = [
        ("OPENAI_API_KEY", "sk-from-the-environment".to_owned()),
        ("OPENAI_API_BASE", format!("{}/v1", simulator.base_url())),
        ("ANTHROPIC_API_KEY", "sk-ant-environment".to_owned()),
        ("ANTHROPIC_API_BASE", simulator.base_url()),
        ("TOLLWAY_MASTER_KEY", MASTER_KEY.to_owned()),
    ];
    let options = Options {
        env: env.map(|(name, value)| (name.to_owned(), value)).to_vec(),
        ..Options::default()
    };
    let gateway = Gateway::start_with(options).await;
    let serves = gateway.stdout_line(|line| line.starts_with("serves: ")).await;
    assert!(serves.contains("openai/*") && serves.contains("anthropic/*"), "{serves}");
    for (model, key) in [
        ("openai/gpt-4o-mini", "Bearer sk-from-the-environment"),
        ("anthropic/claude-3-5-sonnet-20241022", "sk-ant-environment"),
    ] {
        let path = "/v1/chat/completions";
        let response = tollway_tests::post(gateway.address, path, &chat(model, "Hi")).await;
        assert_eq!(response.status, 200, "{model}: {}", response.text());
        let asked = simulator.next_request().await;
        let name = if model.starts_with("openai") { "authorization" } else { "x-api-key" };
        assert_eq!(asked.header(name), Some(key));
    }
    // The key that is given is not written anywhere.
    let mut folders = vec![gateway.folder.join("tollway-data")];
    let mut files = 0;
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("the data folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            files += 1;
            let bytes = std::fs::read(&path).expect("a file");
            let is_there =
                bytes.windows(MASTER_KEY.len()).any(|part| part == MASTER_KEY.as_bytes());
            assert!(!is_there, "{}", path.display());
        }
    }
    assert!(files > 0, "the database at least");
    assert!(!gateway.stdout().contains(MASTER_KEY));
}

#[tokio::test]
async fn dotenv_is_read_and_the_environment_wins() {
    let simulator = simulator().await;
    let text = "
model_list:
  - model_name: first
    litellm_params: { model: openai/gpt-4o-mini, api_key: os.environ/FIRST_KEY, api_base: $SIM/v1 }
  - model_name: second
    litellm_params: { model: openai/gpt-4o-mini, api_key: os.environ/SECOND_KEY, api_base: $SIM/v1 }
environment_variables: { THIRD_KEY: sk-of-the-config-1 }
";
    let folder = Folder::fresh();
    let lines =
        "# a comment\nexport FIRST_KEY=\"sk-of-dotenv-00001\"\nSECOND_KEY=sk-of-dotenv-00002\n";
    folder.write(".env", lines);
    let options = Options {
        config: Some(config(text, &simulator)),
        env: vec![("SECOND_KEY".into(), "sk-of-environment".into())],
        folder: Some(folder.0.clone()),
        ..Options::default()
    };
    let gateway = Gateway::start_with(options).await;
    for (model, key) in [("first", "sk-of-dotenv-00001"), ("second", "sk-of-environment")] {
        let path = "/v1/chat/completions";
        let response = tollway_tests::post(gateway.address, path, &chat(model, "Hi")).await;
        assert_eq!(response.status, 200, "{}", response.text());
        let asked = simulator.next_request().await;
        assert_eq!(asked.header("authorization"), Some(&*format!("Bearer {key}")));
    }
}

#[tokio::test]
async fn connections_of_clients_are_kept() {
    let setup = Setup::start().await;
    let mut connection = Connection::open(setup.gateway.address).await;
    for _ in 0..50 {
        connection.request("GET", "/health/liveliness", &[], b"").await;
        assert_eq!(connection.response().await.status, 200);
    }
    // Unless they say otherwise.
    let headers = [("connection", "close")];
    connection.request("GET", "/health/liveliness", &headers, b"").await;
    assert_eq!(connection.response().await.status, 200);
    assert!(connection.closes(PATIENCE).await);
}

#[tokio::test]
async fn readiness_says_so_when_it_stops() {
    let mut it = running("server: { drain_timeout: 5m }").await;
    let mut probe = Connection::open(it.gateway.address).await;
    probe.request("GET", "/health/readiness", &[], b"").await;
    assert_eq!(probe.response().await.status, 200);
    it.gateway.signal("TERM");
    it.gateway.stderr_line(|line| line.contains("stopping")).await;
    refused(&it.gateway).await;
    // A probe that is connected still is told, or closed.
    probe.request("GET", "/health/readiness", &[], b"").await;
    if let Some((status, _)) = probe.try_head().await {
        assert_eq!(status, 503);
    }
    it.upstream.write(END).await;
    drop(it.upstream);
    assert!(it.gateway.ended().await.success());
}

#[tokio::test]
async fn address_that_is_taken_is_an_error_and_no_panic() {
    let setup = Setup::start().await;
    let folder = Folder::fresh();
    let address = setup.gateway.address.to_string();
    let printed =
        tollway_tests::gateway::run(&folder.0, &[], &["serve", "--listen", &address]).await;
    assert!(!printed.success);
    let expect = format!("tollway: cannot listen on {address}");
    assert!(printed.stderr.contains(&expect), "{}", printed.stderr);
    assert!(!printed.stderr.contains("panicked"), "{}", printed.stderr);
}

#[tokio::test]
async fn data_folder_may_be_elsewhere() {
    let text = "data: ./elsewhere\nmodel_list: [{ model_name: a, litellm_params: { model: demo/chat } }]\n";
    for (arguments, name) in [(vec![], "elsewhere"), (vec!["--data", "by-argument"], "by-argument")]
    {
        let folder = Folder::fresh();
        let options = Options {
            config: Some(text.to_owned()),
            folder: Some(folder.0.clone()),
            arguments: arguments.into_iter().map(str::to_owned).collect(),
            ..Options::default()
        };
        let gateway = Gateway::start_with(options).await;
        gateway.stdout_line(|line| line.contains("curl")).await;
        let key = shown_key(&gateway).expect("it is shown");
        let kept = std::fs::read_to_string(folder.0.join(name).join("master_key"));
        assert_eq!(kept.expect("it is kept").trim(), key);
        assert_eq!(mode(&folder.0.join(name)), 0o700);
        assert!(!folder.0.join("tollway-data").exists());
    }
}

#[tokio::test]
async fn folder_that_others_may_enter_is_closed_to_them() {
    let folder = Folder::fresh();
    let data = folder.0.join("tollway-data");
    std::fs::create_dir(&data).expect("a folder can be made");
    std::fs::set_permissions(&data, std::fs::Permissions::from_mode(0o755)).expect("it is ours");
    let options = Options { folder: Some(folder.0.clone()), ..Options::default() };
    let _gateway = Gateway::start_with(options).await;
    assert_eq!(mode(&data), 0o700);
}

#[tokio::test]
async fn thousand_calls_during_reloads_all_succeed() {
    let setup = Setup::with(KEYS).await;
    setup.simulator.enqueue(Reply::text("warm"));
    let address = setup.gateway.address;
    let callers = (0..8).map(|_| {
        tokio::spawn(async move {
            let mut connection = Connection::open(address).await;
            for _ in 0..125 {
                let body = chat("gpt-4o-mini", "Hi").to_string();
                connection.request("POST", "/v1/chat/completions", &[], body.as_bytes()).await;
                assert_eq!(connection.response().await.status, 200);
            }
        })
    });
    let callers: Vec<_> = callers.collect();
    let texts = [config(KEYS, &setup.simulator), config("", &setup.simulator)];
    for round in 0..10 {
        setup.gateway.reload(&texts[round % 2]);
        let told =
            setup.gateway.stderr_lines(0, round + 1, |line| line.contains("config reloaded"));
        told.await;
    }
    for caller in callers {
        caller.await.expect("no call fails");
    }
}
