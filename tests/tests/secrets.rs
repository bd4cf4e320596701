//! Canaries: secrets stand wherever one can stand, everybody who knows one says it wherever they can,
//! and none of them is anywhere it does not belong. What people and tools say is in no log, metric or
//! trace either.

use std::path::Path;

use serde_json::{Value, json};
use tollway_simulator::{Reply, Simulator};
use tollway_tests::agents::call_at;
use tollway_tests::collector::{Collector, Span};
use tollway_tests::gateway::{Folder, Gateway, MASTER_KEY, Options, run};
use tollway_tests::mcp::{Fake, ask, connected, use_tool};
use tollway_tests::setup::simulator;
use tollway_tests::{Issuer, Response, Setup, Signer, chat, client, post, stream};

const PROVIDER: &str = "sk-canary-provider-4f1d7c";
const ANN: &str = "sk-canary-of-ann-93b2e8a1";
const TAVILY: &str = "tvly-canary-d08e55b1";
const SERPAPI: &str = "serp-canary-7711aa90";
const MCP_TOKEN: &str = "mcp-canary-token-5c20";
const MCP_HEADER: &str = "mcp-canary-header-8e41";
const MCP_QUERY: &str = "mcp-canary-query-0b9d";
const MCP_ENV: &str = "mcp-canary-env-2f6a1b";
const WEBHOOK: &str = "T00CANARY/B00/webhook81";
const REDIS: &str = "redis-canary-pw-11c0e2";
const COLLECTOR: &str = "otel-canary-key-6a77d3";
const DOTENV: &str = "dotenv-canary-e5b8814c";
const GARBAGE: &str = "sk-canary-garbage-a3f2";

/// What nobody may learn.
const SECRETS: [(&str, &str); 14] = [
    ("the master key", MASTER_KEY),
    ("a virtual key", ANN),
    ("the provider's key", PROVIDER),
    ("Tavily's key", TAVILY),
    ("SerpAPI's key", SERPAPI),
    ("an MCP server's token", MCP_TOKEN),
    ("an MCP server's header", MCP_HEADER),
    ("the query of an MCP server's URL", MCP_QUERY),
    ("the environment of an MCP server", MCP_ENV),
    ("a webhook's URL", WEBHOOK),
    ("Redis' password", REDIS),
    ("the collector's key", COLLECTOR),
    ("what only .env has", DOTENV),
    ("a key that is none", GARBAGE),
];

/// What was said, by people, models and tools.
const SAID: [&str; 8] = [
    "canary-question",
    "canary-context",
    "canary-answer",
    "canary-argument",
    "canary-result",
    "canary-file",
    "canary-found",
    "canary-thought",
];

struct Scene {
    gateway: Gateway,
    simulator: Simulator,
    collector: Collector,
    webhook: Collector,
    _mcp: Fake,
    _program: Fake,
    folder: Folder,
    env: Vec<(String, String)>,
    /// Everything that was answered, and what it was the answer to.
    answers: Vec<(String, String)>,
}

impl Scene {
    async fn start() -> Scene {
        let simulator = simulator().await;
        let (collector, webhook) = (Collector::start().await, Collector::answering("500 No").await);
        let (mcp, program) = (Fake::listening_for(MCP_TOKEN).await, Fake::program());
        let sim = simulator.base_url();
        let entry = program.entry("program", &format!(", env: {{ SERVICE_TOKEN: {MCP_ENV} }}"));
        let config = format!(
            "
model_list:
  - model_name: gpt-4o-mini
    litellm_params: {{ model: openai/gpt-4o-mini, api_key: os.environ/CANARY_PROVIDER, api_base: {sim}/v1 }}
router_settings: {{ num_retries: 0 }}
general_settings:
  master_key: os.environ/CANARY_MASTER
  alerting: [slack, webhook]
litellm_settings:
  callbacks: [otel]
  cache: true
  cache_params: {{ type: redis, host: 127.0.0.1, port: 1, password: os.environ/CANARY_REDIS }}
keys:
  - {{ alias: ann, key: {ANN}, user: ann, max_budget: 5, soft_budget: 0.0000001, metadata: {{ tools: ['*'] }} }}
agents:
  - name: helper
    model: gpt-4o-mini
    instructions: You help.
    tools: ['*']
    approval: {{ default: never }}
tools:
  code: {{}}
  files: {{}}
  search_tools:
    - search_tool_name: tavily
      litellm_params: {{ search_provider: tavily, api_key: {TAVILY}, api_base: \"{sim}\" }}
    - search_tool_name: serpapi
      litellm_params: {{ search_provider: serpapi, api_key: {SERPAPI}, api_base: \"{sim}\" }}
mcp_servers:
  web:
    url: \"{}?api_key={MCP_QUERY}\"
    auth_type: bearer_token
    auth_value: {MCP_TOKEN}
    static_headers: {{ x-service-key: {MCP_HEADER} }}
{entry}",
            mcp.url(),
        );
        let folder = Folder::fresh();
        folder.write(".env", &format!("CANARY_PROVIDER={PROVIDER}\nCANARY_UNUSED={DOTENV}\n"));
        let hook = format!("{}/services/{WEBHOOK}", webhook.url);
        let headers = format!("authorization=Bearer {COLLECTOR}");
        let more = [
            ("OTEL_EXPORTER_OTLP_HEADERS", headers.as_str()),
            ("CANARY_MASTER", MASTER_KEY),
            ("CANARY_REDIS", REDIS),
            ("SLACK_WEBHOOK_URL", &hook),
            ("WEBHOOK_URL", &hook),
            ("TOLLWAY_LOG", "trace"),
            ("PATH", "/usr/local/bin:/usr/bin:/bin"),
        ];
        let env = collector.env(&more);
        let env: Vec<(String, String)> =
            env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let options = Options {
            config: Some(config),
            env: env.clone(),
            folder: Some(folder.0.clone()),
            ..Options::default()
        };
        let gateway = Gateway::start_with(options).await;
        connected(&gateway, "web").await;
        connected(&gateway, "program").await;
        let (_mcp, _program, answers) = (mcp, program, Vec::new());
        Scene { gateway, simulator, collector, webhook, _mcp, _program, folder, env, answers }
    }

    fn keep(&mut self, what: &str, response: Response) -> Response {
        let heads = response.headers.iter().map(|(name, value)| format!("{name}: {value}\n"));
        let text = format!("{}{}", heads.collect::<String>(), response.text());
        self.answers.push((format!("{what} ({})", response.status), text));
        response
    }

    async fn call(
        &mut self,
        method: &str,
        path: &str,
        key: &str,
        body: Option<&Value>,
    ) -> Response {
        let response = call_at(&self.gateway, method, path, key, body).await;
        self.keep(&format!("{method} {path}"), response)
    }

    fn says(&self, replies: impl IntoIterator<Item = Reply>) {
        replies.into_iter().for_each(|reply| self.simulator.enqueue(reply));
    }
}

fn tool(name: &str, arguments: &Value) -> Reply {
    Reply::tool(name, arguments.to_string())
}

/// A provider that repeats the key it was shown.
fn tells(status: u16, key: &str) -> Reply {
    let error = json!({"message": format!("Incorrect API key provided: {key}."), "type": key,
                       "code": key, "param": key});
    let body = json!({"error": error, "detail": {"error": key}, "message": key});
    Reply::json(status, &body).header("x-request-id", key)
}

/// What a program in the sandbox finds when it looks for secrets.
const SNOOP: &str = "
import os, glob
print('canary-result', dict(os.environ))
for path in glob.glob('/proc/*/environ') + glob.glob('/proc/*/cmdline') + ['.env', '../.env', '/proc/1/mem']:
    try:
        print(path, open(path, 'rb').read()[:100000])
    except OSError as error:
        print(path, error.errno)
# canary-argument
";

/// Agents and people do all that could make somebody say a secret.
async fn live(scene: &mut Scene) {
    let question = |text: &str| {
        let context = json!({"home": "canary-context"});
        let messages = json!([{"role": "user", "content": text}]);
        json!({"agent": "helper", "messages": messages, "user_context": context})
    };
    // A run that meets everybody who knows a secret, and fails in the end.
    let found = json!({"results": [{"title": format!("canary-found {TAVILY}"), "content": TAVILY,
                                    "url": format!("https://found.example/?key={TAVILY}")}]});
    scene.says([
        tool("mcp_web_environment", &json!({})).and_tool("mcp_program_environment", "{}"),
        tool("mcp_program_refuse", &json!({"message": "canary-argument"})),
        tool("web_search", &json!({"query": "canary-argument one"})),
        tells(401, TAVILY),
        tells(401, SERPAPI),
        tool("web_search", &json!({"query": "canary-argument two"})),
        Reply::json(200, &found),
        tool("code_python", &json!({"code": SNOOP})),
        tool("files_write", &json!({"name": "canary-file.txt", "content": "canary-file"})),
        tool("mcp_web_echo", &json!({"message": "canary-argument"})),
        tool("canary-argument", &json!({"no": "such tool"})),
        Reply::text("Hm."),
    ]);
    let done = scene.call("POST", "/chat/agent", ANN, Some(&question("canary-question"))).await;
    let done = done.json();
    assert_eq!(done["status"], "completed", "{done}");
    let calls = done["tool_calls"].as_array().expect("tool calls").clone();
    // All of it was there to be told.
    let output = |name: &str| {
        let call = calls.iter().find(|call| call["function"]["name"] == name);
        call.unwrap_or_else(|| panic!("{name}: {done}"))["output"]
            .as_str()
            .expect("text")
            .to_owned()
    };
    assert!(output("mcp.web.environment").contains("authorization"), "{done}");
    assert!(output("mcp.program.environment").contains("SERVICE_TOKEN"), "{done}");
    assert!(output("mcp.program.refuse").contains("SERVICE_TOKEN"), "{done}");
    assert!(output("web_search").contains("401"), "{done}");
    assert!(output("code.python").contains("/proc/"), "{done}");
    let id = done["id"].as_str().expect("an id").to_owned();

    scene.says([tool("calculator", &json!({"expression": "1+"})), tells(401, PROVIDER)]);
    let failed = scene.call("POST", "/chat/agent", ANN, Some(&question("canary-question"))).await;
    assert_eq!(failed.json()["status"], "failed", "{}", failed.text());
    let failed = failed.json()["id"].as_str().expect("an id").to_owned();
    for id in [id, failed] {
        for path in ["", "/events", "/steps"] {
            scene.call("GET", &format!("/agent/runs/{id}{path}"), ANN, None).await;
        }
    }
    // As a stream, with the key in what the model says.
    let said = json!({"id": "x", "object": "chat.completion.chunk", "choices": [{"index": 0,
                      "delta": {"role": "assistant", "reasoning_content": "canary-thought",
                                "content": format!("canary-answer {PROVIDER}")},
                      "finish_reason": "stop"}]});
    let says = || Reply::events([format!("data: {said}\n\n"), "data: [DONE]\n\n".to_owned()]);
    scene.says([says()]);
    let mut streamed = question("canary-question");
    streamed["stream"] = true.into();
    scene.call("POST", "/chat/agent", ANN, Some(&streamed)).await;
    scene.says([Reply::text("canary-answer")]);
    scene
        .call("POST", "/v1/chat/completions", ANN, Some(&chat("agent/helper", "canary-question")))
        .await;

    // Tools by themselves, as MCP as well.
    for name in
        ["mcp.web.environment", "mcp.program.environment", "mcp.program.refuse", "web_search"]
    {
        scene.says((name == "web_search").then(|| tells(500, TAVILY)));
        scene.says((name == "web_search").then(|| tells(403, SERPAPI)));
        let used = use_tool(&scene.gateway, ANN, name, json!({"query": "canary-argument"})).await;
        scene.keep(name, used);
        scene.says((name == "web_search").then(|| Reply::json(200, &found)));
        let params = json!({"name": name, "arguments": {"query": "canary-argument three"}});
        let used = ask(&scene.gateway, ANN, "tools/call", params).await;
        scene.keep(name, used);
    }
    scene.says([tells(401, TAVILY), tells(401, SERPAPI)]);
    let search = json!({"query": "canary-argument four"});
    scene.call("POST", "/tools/search", ANN, Some(&search)).await;

    // Model calls that go wrong, and keys that are none.
    for status in [400, 401, 403, 404, 429, 500] {
        scene.says([tells(status, PROVIDER)]);
        scene
            .call(
                "POST",
                "/v1/chat/completions",
                ANN,
                Some(&chat("gpt-4o-mini", "canary-question")),
            )
            .await;
    }
    scene.says([Reply::text(format!("canary-answer {PROVIDER}")), says()]);
    for body in [chat, stream].map(|of| of("gpt-4o-mini", "canary-question")) {
        scene.call("POST", "/v1/chat/completions", ANN, Some(&body)).await;
    }
    let body = chat("gpt-4o-mini", "canary-question");
    scene.call("POST", "/v1/chat/completions", GARBAGE, Some(&body)).await;
    let query = format!("/v1/models?key={GARBAGE}&api_key={ANN}");
    scene.call("GET", &query, GARBAGE, None).await;
    let headers = [("x-api-key", GARBAGE), ("authorization", "")];
    let address = scene.gateway.address;
    let response = client::send(address, "GET", "/v1/models", &headers, b"").await;
    scene.keep("x-api-key", response);
    scene.call("POST", "/chat/agent", ANN, Some(&json!({"messages": "canary-question"}))).await;
    scene.call("POST", "/chat/agent", GARBAGE, Some(&question("canary-question"))).await;
}

/// Everything operators can ask for.
async fn look_around(scene: &mut Scene) {
    let document = scene.call("GET", "/openapi.json", MASTER_KEY, None).await.json();
    for (path, operations) in document["paths"].as_object().expect("paths") {
        if operations.get("get").is_some() && !path.contains('{') {
            scene.call("GET", path, MASTER_KEY, None).await;
        }
    }
    let day = "start_date=2020-01-01&end_date=2099-01-01";
    // Who names a key is answered with the name; nobody else is to hear of it.
    call_at(&scene.gateway, "GET", &format!("/key/info?key={ANN}"), MASTER_KEY, None).await;
    for path in [
        "/agent/status",
        "/agent/runs",
        "/agents",
        "/threads",
        "/tools",
        "/files",
        "/v1/models",
        "/health",
        "/health/readiness",
        &format!("/global/spend/report?{day}"),
        "/tools/mcp.web.environment",
        "/no/such/path",
    ] {
        scene.call("GET", path, MASTER_KEY, None).await;
    }
}

/// What is in the files below a folder.
fn files(folder: &Path, found: &mut Vec<(String, String)>) {
    for entry in std::fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        match path.is_dir() {
            true => files(&path, found),
            false => found.push((
                path.display().to_string(),
                text(&std::fs::read(&path).unwrap_or_default()),
            )),
        }
    }
}

#[tokio::test]
async fn no_secret_is_anywhere_and_nothing_that_was_said_is_in_logs_metrics_or_traces() {
    let mut scene = Scene::start().await;
    // A key that is made here is shown once, and never again.
    let made = json!({"key_alias": "made", "user_id": "ann", "metadata": {"tools": ["*"]}});
    let made = call_at(&scene.gateway, "POST", "/key/generate", MASTER_KEY, Some(&made)).await;
    assert_eq!(made.status, 200, "{}", made.text());
    let made = made.json()["key"].as_str().expect("a key").to_owned();
    let listed = scene.call("GET", "/v1/models", &made, None).await;
    assert_eq!(listed.status, 200);
    live(&mut scene).await;
    look_around(&mut scene).await;
    scene.webhook.called(2).await;

    let env: Vec<(&str, &str)> =
        scene.env.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    for args in [
        &["check", "-c", "config.yaml"][..],
        &["check", "-c", "config.yaml", "--model", "gpt-4o-mini"],
        &["spend", "-c", "config.yaml", "--by", "key"],
    ] {
        let printed = run(&scene.folder.0, &env, args).await;
        assert!(printed.success, "{printed:?}");
        scene.answers.push((args.join(" "), format!("{}{}", printed.stdout, printed.stderr)));
    }
    // Each of four runs has its span: what came before them has, too.
    let is_run = |span: &&Span| span.name.starts_with("invoke_agent");
    scene.collector.wait(|spans| spans.iter().filter(is_run).count() == 4).await;
    scene.gateway.idle().await;
    let metrics = scene.gateway.metrics().await;
    scene.gateway.signal("TERM");
    scene.gateway.ended().await;
    scene.gateway.stderr_line(|line| line.contains("stopped")).await;

    let traces = scene.collector.taken().raw;
    let traces: Vec<&str> =
        traces.iter().map(|raw| raw.split_once("\r\n\r\n").expect("a head").1).collect();
    let told = [
        ("the request log", scene.gateway.stdout()),
        ("the log", scene.gateway.stderr()),
        ("the metrics", metrics),
        ("the traces", traces.concat()),
    ];
    let mut found = Vec::new();
    for (place, text) in &told {
        for word in SAID {
            if text.contains(word) {
                found.push(format!("{word} in {place}: {}", around(text, word)));
            }
        }
    }
    let mut places: Vec<(String, String)> =
        told.into_iter().map(|(place, text)| (place.to_owned(), text)).collect();
    places.extend(scene.answers.iter().cloned());
    let asked = scene.simulator.requests();
    let asked = asked.iter().filter(|asked| asked.path.starts_with("/v1/chat"));
    places.extend(asked.map(|asked| ("what a model was told".to_owned(), text(&asked.body))));
    let before = places.len();
    files(&scene.folder.0.join("tollway-data"), &mut places);
    assert!(places.len() > before, "there are files");
    let secrets = SECRETS.iter().copied().chain([("a key that was made", made.as_str())]);
    for (name, secret) in secrets {
        for (place, said) in &places {
            if said.contains(secret) {
                found.push(format!("{name} in {place}: {}", around(said, secret)));
            }
        }
    }
    assert!(places.len() > 80, "only {} places", places.len());
    assert!(found.is_empty(), "{} of {}:\n{}", found.len(), places.len(), found.join("\n"));
}

/// Bytes of which those that are no text are replaced.
fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A word where it stands.
fn around(text: &str, word: &str) -> String {
    let at = text.find(word).unwrap_or_default();
    let (from, to) = (text.floor_char_boundary(at.saturating_sub(150)), at + word.len() + 60);
    text[from..text.ceil_char_boundary(to.min(text.len()))].replace('\n', " ")
}

#[tokio::test]
async fn passwords_of_databases_are_in_nothing_that_commands_print() {
    const POSTGRES: &str = "pg-canary-pw-77e1";
    const BUCKET: &str = "s3-canary-secret-19ff";
    let folder = Folder::fresh();
    let config = format!(
        "
model_list:
  - model_name: m
    litellm_params: {{ model: openai/gpt-4o-mini, api_key: {PROVIDER} }}
general_settings:
  master_key: {MASTER_KEY}
  database_url: postgres://tollway:{POSTGRES}@127.0.0.1:1/tollway
  redis_url: redis://:{REDIS}@127.0.0.1:1/0
tools:
  files: {{ store: s3://bucket/x, options: {{ access_key_id: a, secret_access_key: {BUCKET}, region: r }} }}
"
    );
    folder.write("config.yaml", &config);
    let env = [("TOLLWAY_LOG", "trace")];
    let mut said = String::new();
    for (command, succeeds) in [("check", true), ("spend", false)] {
        let printed = run(&folder.0, &env, &[command, "-c", "config.yaml"]).await;
        assert_eq!(printed.success, succeeds, "{command}: {printed:?}");
        said += &printed.stdout;
        said += &printed.stderr;
    }
    // Each of them in a place where it cannot stand.
    let wrong = config
        .replace("127.0.0.1:1/tollway", "127.0.0.1:port/tollway")
        .replace("127.0.0.1:1/0", "127.0.0.1:port/0")
        .replace("openai/gpt-4o-mini", "no-such-provider/x")
        .replace("region: r", "no_such_option: r");
    folder.write("config.yaml", &wrong);
    let printed = run(&folder.0, &env, &["check", "-c", "config.yaml"]).await;
    assert!(!printed.success, "{printed:?}");
    said += &format!("{}{}", printed.stdout, printed.stderr);
    for secret in [POSTGRES, REDIS, BUCKET, PROVIDER, MASTER_KEY] {
        assert!(!said.contains(secret), "{}", around(&said, secret));
    }
}

#[tokio::test]
async fn tokens_of_people_are_in_no_log_and_no_answer() {
    let (signer, stranger) = (Signer::ec("first", "ES256"), Signer::ec("first", "ES256"));
    let issuer = Issuer::start(&[&signer]).await;
    let config = issuer.config("    user_id_jwt_field: sub");
    let setup = Setup::with_env(&config, &[("TOLLWAY_LOG", "trace")]).await;
    let ann = json!({"user_id": "ann", "auto_create_key": false});
    assert_eq!(post(setup.gateway.address, "/user/new", &ann).await.status, 200);
    let claims = json!({"sub": "ann"});
    let (good, forged) = (issuer.token(&signer, &claims), issuer.token(&stranger, &claims));
    let over = issuer.token(&signer, &json!({"sub": "ann", "exp": 1}));
    let mut said = String::new();
    for (token, status) in [(&good, 200), (&forged, 401), (&over, 401)] {
        for path in ["/v1/models", "/tools"] {
            let answer = call_at(&setup.gateway, "GET", path, token, None).await;
            assert_eq!(answer.status, status, "{}", answer.text());
            said += &answer.text();
        }
    }
    said += &setup.gateway.metrics().await;
    said += &setup.gateway.stderr();
    said += &setup.gateway.stdout();
    for token in [good, forged, over] {
        for part in token.split('.').skip(1) {
            assert!(!said.contains(part), "{}", around(&said, part));
        }
    }
}
