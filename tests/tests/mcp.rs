//! MCP servers as tools: the protocol's own servers, and one that does everything wrong.

use serde_json::{Value, json};
use tokio::process::Command;
use tollway_simulator::Reply;
use tollway_tests::agents::{call, events};
use tollway_tests::gateway::{Folder, MASTER_KEY};
use tollway_tests::mcp::{Fake, connected, official, said, status, use_tool};
use tollway_tests::servers::{Refusing, signal, start};
use tollway_tests::setup::eventually;
use tollway_tests::{Gateway, Setup, get, post, post_with};

/// May use one server.
const ANN: &str = "sk-ann-0000000001";
/// May use one tool of another, and is told so LiteLLM's way.
const BOB: &str = "sk-bob-0000000001";
const KEYS: &str = "
keys:
  - { alias: ann, key: sk-ann-0000000001, user: ann, metadata: { tools: [mcp.everything] } }
  - alias: bob
    key: sk-bob-0000000001
    user: bob
    metadata: { object_permission: { mcp_servers: [files], mcp_tool_permissions: { files: [read_text_file] } } }
";

async fn with(servers: &str) -> Setup {
    Setup::with(&format!("{KEYS}mcp_servers:\n{servers}")).await
}

/// An entry of `mcp_servers`: one of the protocol's own servers.
fn entry(name: &str, server: &str, argument: &str) -> String {
    let args = json!([official(server), argument]);
    format!("  {name}: {{ command: node, args: {args} }}\n")
}

/// The names of the tools a key sees.
async fn seen_by(gateway: &Gateway, key: &str) -> Vec<String> {
    let tools = tollway_tests::agents::call_at(gateway, "GET", "/tools", key, None).await.json();
    let tools = tools["data"].as_array().expect("a list").clone();
    tools.iter().map(|tool| tool["name"].as_str().expect("a name").to_owned()).collect()
}

#[tokio::test]
async fn run_uses_a_tool_of_a_program() {
    let setup = with(&entry("everything", "server-everything", "stdio")).await;
    connected(&setup.gateway, "everything").await;
    setup.simulator.enqueue(Reply::tool("mcp_everything_echo", r#"{"message": "ahoy"}"#));
    setup.simulator.enqueue(Reply::text("It says ahoy."));
    let body = json!({
        "model": "gpt-4o-mini",
        "tools": ["mcp.everything"],
        "messages": [{"role": "user", "content": "What does it say?"}],
        "stream": true,
    });
    let response = call(&setup, "POST", "/chat/agent", ANN, Some(&body)).await;
    assert_eq!(response.status, 200, "{}", response.text());
    let told = events(&response);
    let done = told.iter().find(|(name, _)| name == "tool_call.completed").expect("it was called");
    assert_eq!(done.1["output"], "Echo: ahoy");
    assert_eq!(told.last().expect("an end").0, "run.completed");
    // The model was told the server's own schema, and what came back as data.
    let asked = setup.asked();
    let tools = asked[0].json()["tools"].as_array().expect("tools").clone();
    let echo = tools.iter().find(|tool| tool["function"]["name"] == "mcp_everything_echo");
    let echo = &echo.expect("it is there")["function"];
    assert_eq!(echo["parameters"]["required"], json!(["message"]));
    let messages = asked[1].json()["messages"].as_array().expect("messages").clone();
    let result = messages.last().expect("a result")["content"].as_str().expect("text").to_owned();
    assert!(result.starts_with("<tool_result tool=\"mcp.everything.echo\""), "{result}");
    let labels = ["tool=\"mcp.everything.echo\"", "outcome=\"ok\""];
    assert_eq!(setup.gateway.metric("tollway_tool_calls_total", &labels).await, 1.0);
}

#[tokio::test]
async fn results_are_text_and_data() {
    let setup = with(&entry("everything", "server-everything", "stdio")).await;
    let gateway = &setup.gateway;
    connected(gateway, "everything").await;
    let of = async |tool: &str, arguments: Value| {
        let name = format!("mcp.everything.{tool}");
        let response = use_tool(gateway, ANN, &name, arguments).await;
        assert_eq!(response.status, 200, "{tool}: {}", response.text());
        response.json()
    };
    assert_eq!(
        of("get-sum", json!({"a": 2, "b": 40})).await["content"],
        "The sum of 2 and 40 is 42."
    );
    let image = of("get-tiny-image", json!({})).await;
    assert!(image["content"].as_str().expect("text").contains("[image: image/png, about "));
    assert_eq!(image["data"]["content"][0]["mimeType"], "image/png");
    let weather = of("get-structured-content", json!({"location": "New York"})).await;
    assert!(weather["data"]["structured_content"]["temperature"].is_number(), "{weather}");
    let links = of("get-resource-links", json!({"count": 2})).await;
    assert!(links["content"].as_str().expect("text").contains("[resource "), "{links}");
    // What the server finds wrong with arguments is an error that models read.
    let wrong = use_tool(gateway, ANN, "mcp.everything.get-sum", json!({"a": "two"})).await;
    assert_eq!((wrong.status, &wrong.json()["error"]["code"]), (502, &json!("tool_failed")));
}

#[tokio::test]
async fn tools_of_http_and_of_the_first_version_are_the_same() {
    let port = Refusing::start();
    // The server takes its port from its environment and does not say which it got.
    let (http, sse) = (port.address.port(), Refusing::start().address.port());
    drop(port);
    let serve = async |transport: &str, port: u16, ready: &'static str| {
        let mut command = Command::new("sh");
        command
            .args(["-c", "exec node \"$0\" \"$@\" 2>&1"])
            .arg(official("server-everything"))
            .arg(transport)
            .env("PORT", port.to_string());
        start(command, move |line| line.contains(ready)).await
    };
    let setup = with(&format!(
        "  web: {{ url: \"http://127.0.0.1:{http}/mcp\" }}\n  \
         old: {{ url: \"http://127.0.0.1:{sse}/sse\", transport: sse }}\n"
    ))
    .await;
    // They are away when the gateway starts, and come later.
    eventually("they are away", async || {
        status(&setup.gateway, "web").await["state"] == "away"
            && status(&setup.gateway, "old").await["state"] == "away"
    })
    .await;
    let missing = use_tool(&setup.gateway, MASTER_KEY, "mcp.web.echo", json!({})).await;
    assert_eq!(missing.status, 501, "{}", missing.text());
    assert_eq!(missing.json()["error"]["code"], "mcp_server_unavailable");
    let _http = serve("streamableHttp", http, "listening on port").await;
    let _sse = serve("sse", sse, "is running on port").await;
    for server in ["web", "old"] {
        connected(&setup.gateway, server).await;
        let name = format!("mcp.{server}.echo");
        assert_eq!(said(&setup.gateway, &name, json!({"message": "hi"})).await, "Echo: hi");
    }
}

/// A key that the gateway has made.
async fn generated(gateway: &Gateway, body: &Value) -> String {
    let made = post(gateway.address, "/key/generate", body).await;
    assert_eq!(made.status, 200, "{}", made.text());
    made.json()["key"].as_str().expect("a key").to_owned()
}

#[tokio::test]
async fn servers_that_admins_name_in_litellms_way_are_those_of_a_key_and_its_team() {
    let (one, other) = (Fake::program(), Fake::program());
    let setup = with(&(one.entry("one", "") + &other.entry("other", ""))).await;
    let gateway = &setup.gateway;
    connected(gateway, "one").await;
    connected(gateway, "other").await;
    let servers = async |key: &str| {
        let seen = seen_by(gateway, key).await;
        let servers = seen.iter().filter_map(|name| name.split('.').nth(1));
        let mut seen: Vec<String> = servers.map(str::to_owned).collect();
        seen.dedup();
        seen
    };
    let permission = json!({"mcp_servers": ["one"], "vector_stores": [], "agents": null});
    let boss = json!({"user_id": "boss", "user_role": "internal_user"});
    let made = post(gateway.address, "/user/new", &boss).await;
    assert_eq!(made.status, 200, "{}", made.text());
    let members = json!([{"role": "admin", "user_id": "boss"}]);
    let team = json!({"team_id": "red", "members_with_roles": members,
        "object_permission": {"mcp_servers": ["other"]}});
    let made = post(gateway.address, "/team/new", &team).await;
    assert_eq!(made.status, 200, "{}", made.text());
    assert_eq!(made.json()["object_permission"], json!({"mcp_servers": ["other"]}));

    let key = generated(gateway, &json!({"object_permission": permission})).await;
    assert_eq!(servers(&key).await, ["one"]);
    let refused = use_tool(gateway, &key, "mcp.other.echo", json!({})).await;
    assert_eq!(refused.status, 403, "{}", refused.text());
    let bearer = format!("Bearer {MASTER_KEY}");
    let headers = [("authorization", bearer.as_str())];
    let info = get(gateway.address, &format!("/key/info?key={key}"), &headers).await.json();
    assert_eq!(info["info"]["object_permission"], json!({"mcp_servers": ["one"]}), "{info}");
    // One tool of a server, by an update.
    let narrow = json!({"mcp_tool_permissions": {"other": ["echo"]}});
    let update = json!({"key": key, "object_permission": narrow});
    let updated = post(gateway.address, "/key/update", &update).await;
    assert_eq!(updated.status, 200, "{}", updated.text());
    eventually("it is narrowed", async || seen_by(gateway, &key).await == ["mcp.other.echo"]).await;

    // A team's only takes away.
    let both = json!({"mcp_servers": ["one", "other"]});
    let theirs = generated(gateway, &json!({"team_id": "red", "object_permission": both})).await;
    assert_eq!(servers(&theirs).await, ["other"]);
    let foreign = json!({"team_id": "red", "object_permission": permission});
    let foreign = generated(gateway, &foreign).await;
    assert_eq!(servers(&foreign).await, Vec::<String>::new());

    // Nobody but an admin says so, be it of a key or of the team that they administer.
    let own = generated(gateway, &json!({"user_id": "boss", "team_id": "red"})).await;
    let bearer = format!("Bearer {own}");
    let headers = [("authorization", bearer.as_str())];
    for (path, mut body) in [
        ("/key/generate", json!({"team_id": "red"})),
        ("/key/update", json!({"key": own})),
        ("/team/update", json!({"team_id": "red"})),
    ] {
        for said in [both.clone(), Value::Null] {
            body["object_permission"] = said;
            let refused = post_with(gateway.address, path, &headers, &body).await;
            assert_eq!(refused.status, 403, "{path}: {}", refused.text());
            assert_eq!(refused.error("param"), "object_permission", "{path}");
        }
    }
    // What would have no effect is refused, by its name.
    for (said, named) in [
        (json!({"vector_stores": ["docs"]}), "object_permission.vector_stores"),
        (json!({"mcp_access_groups": ["all"]}), "object_permission.mcp_access_groups"),
        (json!({"mcp_servers": "one"}), "mcp_servers"),
        (json!({"mcp_tool_permissions": {"one": "echo"}}), "mcp_tool_permissions"),
        (json!(["one"]), "object_permission"),
    ] {
        let body = json!({"object_permission": said});
        let refused = post(gateway.address, "/key/generate", &body).await;
        assert!(matches!(refused.status, 400 | 422), "{said}: {}", refused.text());
        let message = refused.error("message");
        assert!(message.as_str().is_some_and(|text| text.contains(named)), "{said}: {message}");
    }
}

#[tokio::test]
async fn keys_see_and_call_what_they_may_and_nothing_else() {
    let folder = Folder::fresh();
    let file = folder.write("note.txt", "for bob");
    let servers = entry("everything", "server-everything", "stdio")
        + &entry("files", "server-filesystem", &folder.0.display().to_string());
    let setup = with(&servers).await;
    let gateway = &setup.gateway;
    connected(gateway, "everything").await;
    connected(gateway, "files").await;
    let ann = seen_by(gateway, ANN).await;
    assert!(ann.len() > 3 && ann.iter().all(|name| name.starts_with("mcp.everything.")), "{ann:?}");
    assert_eq!(seen_by(gateway, BOB).await, ["mcp.files.read_text_file"]);
    let path = json!({"path": file});
    let read = use_tool(gateway, BOB, "mcp.files.read_text_file", path.clone()).await;
    assert_eq!(read.json()["content"], "for bob", "{}", read.text());
    for (key, tool) in [
        (ANN, "mcp.files.read_text_file"),
        (BOB, "mcp.files.write_file"),
        (BOB, "mcp.everything.echo"),
    ] {
        let refused = use_tool(gateway, key, tool, path.clone()).await;
        assert_eq!(refused.status, 403, "{tool}: {}", refused.text());
        assert_eq!(refused.json()["error"]["code"], "tool_not_allowed");
        let body = json!({
            "model": "gpt-4o-mini",
            "tools": [tool],
            "messages": [{"role": "user", "content": "Go."}],
        });
        let run = call(&setup, "POST", "/chat/agent", key, Some(&body)).await;
        assert_eq!(run.status, 403, "{tool}: {}", run.text());
    }
    // Nor does anybody see how the servers of others are.
    let status = call(&setup, "GET", "/agent/status", ANN, None).await.json();
    let servers: Vec<&String> =
        status["mcp_servers"].as_object().expect("servers").keys().collect();
    assert_eq!(servers, ["everything"]);
}

#[tokio::test]
async fn program_that_dies_is_started_again_and_its_call_is_not_made_twice() {
    let fake = Fake::program();
    let setup = with(&fake.entry("fake", "")).await;
    let gateway = &setup.gateway;
    connected(gateway, "fake").await;
    let died = use_tool(gateway, MASTER_KEY, "mcp.fake.die", json!({})).await;
    assert_eq!(died.status, 502, "{}", died.text());
    let why = died.json()["error"]["message"].as_str().expect("text").to_owned();
    assert!(why.contains("exit status: 3"), "{why}");
    eventually("it is back", async || fake.count("began") == 2).await;
    connected(gateway, "fake").await;
    assert_eq!(said(gateway, "mcp.fake.echo", json!({"message": 1})).await, "again: 1");
}

#[tokio::test]
async fn call_that_hangs_is_given_up_and_the_server_is_told() {
    let fake = Fake::program();
    let web = Fake::listening().await;
    let servers = format!(
        "{}  web: {{ url: {}, auth_type: bearer_token, auth_value: let-me-in, timeout: 1s }}\n",
        fake.entry("fake", ", timeout: 1s"),
        web.url()
    );
    let setup = with(&servers).await;
    let gateway = &setup.gateway;
    for (server, fake) in [("fake", &fake), ("web", &web)] {
        connected(gateway, server).await;
        let hung = use_tool(gateway, MASTER_KEY, &format!("mcp.{server}.hang"), json!({})).await;
        assert_eq!(hung.status, 504, "{}", hung.text());
        assert_eq!(hung.json()["error"]["code"], "tool_timeout");
        let is_told = |note: &Value| {
            note["told"] == "notifications/cancelled" && note["params"]["requestId"].is_u64()
        };
        eventually("it is told", async || fake.notes().iter().any(is_told)).await;
        let name = format!("mcp.{server}.echo");
        assert_eq!(said(gateway, &name, json!({"message": "still"})).await, "again: still");
    }
}

#[tokio::test]
async fn garbage_and_answers_to_nobody_are_passed_over_and_what_is_huge_ends_the_connection() {
    let fake = Fake::program();
    let setup = with(&fake.entry("fake", "")).await;
    let gateway = &setup.gateway;
    connected(gateway, "fake").await;
    assert_eq!(said(gateway, "mcp.fake.garbage", json!({})).await, "at last");
    let huge = use_tool(gateway, MASTER_KEY, "mcp.fake.huge", json!({})).await;
    assert_eq!(huge.status, 502, "{}", huge.text());
    assert!(huge.text().contains("a line of more than"), "{}", huge.text());
    eventually("it is started again", async || fake.count("began") == 2).await;
    connected(gateway, "fake").await;
}

#[tokio::test]
async fn server_by_http_keeps_a_session_and_gets_a_new_one() {
    let web = Fake::listening().await;
    let url = web.url();
    let servers = format!(
        "  web: {{ url: {url}, auth_value: let-me-in, static_headers: {{ x-team: seven }} }}\n  \
         wrong: {{ url: {url}, auth_value: open-sesame }}\n"
    );
    let setup = with(&servers).await;
    let gateway = &setup.gateway;
    connected(gateway, "web").await;
    assert_eq!(said(gateway, "mcp.web.forget", json!({})).await, "forgotten");
    // The server has no such session any more: it is greeted again, and the call made once.
    assert_eq!(said(gateway, "mcp.web.write", json!({"at": 1})).await, "written");
    assert_eq!(web.count("wrote"), 1);
    for note in web.notes().iter().filter(|note| note["asked"] == "tools/call") {
        let heads = &note["heads"];
        assert_eq!(heads["mcp-protocol-version"], "2025-06-18", "{note}");
        assert!(heads["mcp-session-id"].is_string(), "{note}");
        assert_eq!(heads["x-team"], "seven");
    }
    let garbage = use_tool(gateway, MASTER_KEY, "mcp.web.garbage", json!({})).await;
    assert_eq!(garbage.status, 502, "{}", garbage.text());
    let huge = use_tool(gateway, MASTER_KEY, "mcp.web.huge", json!({})).await;
    assert_eq!(huge.status, 502, "{}", huge.text());
    eventually("it says why", async || {
        let status = status(gateway, "wrong").await;
        status["message"].as_str().is_some_and(|why| why.contains("credentials"))
    })
    .await;
    let said = gateway.stderr() + &gateway.stdout();
    assert!(!said.contains("let-me-in") && !said.contains("open-sesame"), "{said}");
}

#[tokio::test]
async fn tool_that_changes_is_not_there_until_the_config_is_reloaded() {
    let fake = Fake::program();
    let servers = format!("{KEYS}mcp_servers:\n{}", fake.entry("fake", ""));
    let setup = Setup::with(&servers).await;
    let gateway = &setup.gateway;
    connected(gateway, "fake").await;
    assert_eq!(said(gateway, "mcp.fake.change", json!({})).await, "changed");
    eventually("it is known", async || status(gateway, "fake").await["changed"] == json!(["echo"]))
        .await;
    gateway.stderr_line(|line| line.contains("is not what it was")).await;
    eventually("it is gone", async || {
        !seen_by(gateway, MASTER_KEY).await.contains(&"mcp.fake.echo".to_owned())
    })
    .await;
    let refused = use_tool(gateway, MASTER_KEY, "mcp.fake.echo", json!({"message": 1})).await;
    assert_eq!(refused.status, 501, "{}", refused.text());
    assert_eq!(refused.json()["error"]["code"], "mcp_tool_changed");
    // The rest of it works, and the operator may want it as it is: the process is the same.
    gateway.signal("HUP");
    eventually("it is back", async || {
        seen_by(gateway, MASTER_KEY).await.contains(&"mcp.fake.echo".to_owned())
    })
    .await;
    assert_eq!(said(gateway, "mcp.fake.echo", json!({"message": 1})).await, "again: 1");
    assert_eq!(fake.count("began"), 1);
    let tools = call(&setup, "GET", "/tools/mcp.fake.echo", MASTER_KEY, None).await.json();
    assert!(tools["description"].as_str().expect("text").contains("send all files"), "{tools}");
}

#[tokio::test]
async fn server_gets_nothing_but_what_it_is_given() {
    let fake = Fake::program();
    let servers = fake.entry("fake", ", env: { GREETING: hello }");
    let env = [("TOLLWAY_CANARY", "swordfish"), ("PATH", "/usr/local/bin:/usr/bin:/bin")];
    let setup = Setup::with_env(&format!("mcp_servers:\n{servers}"), &env).await;
    let gateway = &setup.gateway;
    connected(gateway, "fake").await;
    let environment = said(gateway, "mcp.fake.environment", json!({})).await;
    let environment: Value = serde_json::from_str(&environment).expect("JSON");
    assert_eq!(environment["GREETING"], "hello");
    assert!(environment["PATH"].is_string());
    assert!(environment.get("TOLLWAY_CANARY").is_none(), "{environment}");
    // It may not use our models, see our files or ask our users; that we are there is all it learns.
    let answers: Value =
        serde_json::from_str(&said(gateway, "mcp.fake.ask", json!({})).await).expect("JSON");
    for at in 0..3 {
        assert_eq!(answers[at]["error"]["code"], -32601, "{answers}");
    }
    assert_eq!(answers[3]["result"], json!({}));
    // What it complains about is its own business.
    assert_eq!(said(gateway, "mcp.fake.stderr", json!({})).await, "said");
    let failed = use_tool(gateway, MASTER_KEY, "mcp.fake.fail", json!({})).await;
    assert!(failed.text().contains("it does not work"), "{}", failed.text());
    assert!(!gateway.stderr().contains("swordfish"));
    let refused = status(gateway, "fake").await["refused"].to_string();
    assert!(refused.contains("a tool with spaces"), "{refused}");
}

#[tokio::test]
async fn write_is_sent_its_idempotency_key_and_waits_for_approval() {
    let fake = Fake::program();
    let setup = with(&fake.entry("fake", ", disallowed_tools: [die], risk: { slow: exec }")).await;
    let gateway = &setup.gateway;
    connected(gateway, "fake").await;
    let tools = seen_by(gateway, MASTER_KEY).await;
    assert!(!tools.contains(&"mcp.fake.die".to_owned()), "{tools:?}");
    for (tool, risk) in [("echo", "read"), ("write", "write"), ("slow", "exec")] {
        let path = format!("/tools/mcp.fake.{tool}");
        let shown = call(&setup, "GET", &path, MASTER_KEY, None).await.json();
        assert_eq!(shown["risk"], risk, "{shown}");
    }
    setup.simulator.enqueue(Reply::tool("mcp_fake_write", r#"{"line": 1}"#));
    setup.simulator.enqueue(Reply::tool("mcp_fake_slow", "{}"));
    setup.simulator.enqueue(Reply::text("Done."));
    let body = json!({
        "model": "gpt-4o-mini",
        "tools": ["mcp.fake"],
        "messages": [{"role": "user", "content": "Write it."}],
    });
    let run = call(&setup, "POST", "/chat/agent", MASTER_KEY, Some(&body)).await.json();
    assert_eq!(run["status"], "requires_action", "{run}");
    assert_eq!(fake.count("wrote"), 0);
    let (id, asked) = (run["id"].as_str().expect("an id"), &run["tool_calls"][0]["id"]);
    let decisions = json!({
        "decisions": [{"call_id": asked, "decision": "approve"}],
        "stream": true,
    });
    let path = format!("/agent/runs/{id}/resume");
    let told = events(&call(&setup, "POST", &path, MASTER_KEY, Some(&decisions)).await);
    assert_eq!(told.last().expect("an end").0, "run.completed");
    // What the server says while it works is told as it comes.
    let progress = told.iter().filter(|(name, _)| name == "tool_call.output.delta");
    let progress: String =
        progress.map(|(_, data)| data["delta"].as_str().expect("text")).collect();
    assert_eq!(progress, "step 1 of 2\nstep 2 of 2\n");
    let notes = fake.notes();
    let wrote: Vec<&Value> = notes.iter().filter(|note| note.get("wrote").is_some()).collect();
    assert_eq!(wrote.len(), 1);
    let key = wrote[0]["key"].as_str().expect("a key");
    assert_eq!(key, format!("{id}/{}", asked.as_str().expect("an id")));
}

#[tokio::test]
async fn programs_end_with_the_gateway_and_with_their_entry() {
    let (one, other) = (Fake::program(), Fake::program());
    let config = |servers: &str| {
        format!(
            "model_list: [{{ model_name: m, litellm_params: {{ model: demo/chat }} }}]\n\
             general_settings: {{ master_key: {MASTER_KEY} }}\nmcp_servers:\n{servers}"
        )
    };
    let both = one.entry("one", "") + &other.entry("other", "");
    let mut gateway = Gateway::start(&config(&both)).await;
    connected(&gateway, "one").await;
    connected(&gateway, "other").await;
    gateway.reload(&config(&one.entry("one", "")));
    eventually("the other has ended", async || other.count("ended") == 1).await;
    assert!(status(&gateway, "other").await.is_null());
    // The one that has not changed was left alone.
    assert_eq!(said(&gateway, "mcp.one.echo", json!({"message": 1})).await, "again: 1");
    assert_eq!((one.count("began"), one.count("ended")), (1, 0));
    signal(gateway.pid(), "TERM");
    gateway.ended().await;
    assert_eq!(one.count("ended"), 1);
    // Also where the gateway has no time to say so.
    let gateway = Gateway::start(&config(&one.entry("one", ""))).await;
    connected(&gateway, "one").await;
    signal(gateway.pid(), "KILL");
    eventually("it has ended again", async || one.count("ended") == 2).await;
}
