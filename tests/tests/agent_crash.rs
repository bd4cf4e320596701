//! Runs that are under way when the process is killed.

use serde_json::{Value, json};
use tollway_simulator::{Reply, Simulator};
use tollway_tests::agents::{ANN, CONFIG, asks, call_at, events, reckons, with};
use tollway_tests::gateway::{Folder, Gateway, Options};
use tollway_tests::mcp::{Fake, connected};
use tollway_tests::setup::{config, eventually, simulator};

/// A gateway that finds what the one before it has left in the folder.
async fn start(text: &str, simulator: &Simulator, folder: &Folder) -> Gateway {
    let options = Options {
        config: Some(config(text, simulator)),
        folder: Some(folder.0.clone()),
        ..Options::default()
    };
    Gateway::start_with(options).await
}

/// The run, once it is completed.
async fn completed(gateway: &Gateway, id: &str) -> Value {
    let path = format!("/agent/runs/{id}");
    let mut done = Value::Null;
    eventually("it is completed", async || {
        done = call_at(gateway, "GET", &path, ANN, None).await.json();
        done["status"] == "completed"
    })
    .await;
    done
}

#[tokio::test]
async fn killed_run_goes_on_where_it_was() {
    let simulator = simulator().await;
    let folder = Folder::fresh();
    let start = async || start(CONFIG, &simulator, &folder).await;
    let mut gateway = start().await;
    simulator.enqueue(reckons("6 * 7").usage(100, 10));
    simulator.enqueue(Reply::text("one two three").stall_after(1));
    let body = with(asks("6*7?"), &json!({"background": true}));
    let begun = call_at(&gateway, "POST", "/chat/agent", ANN, Some(&body)).await.json();
    let id = begun["id"].as_str().expect("an id").to_owned();
    let has_result =
        |body: Value| body["messages"].as_array().is_some_and(|messages| messages.len() == 4);
    simulator.wait_for(|asked| has_result(asked.json())).await;
    gateway.signal("KILL");
    gateway.ended().await;
    simulator.enqueue(Reply::text("It is 42.").usage(150, 5));
    let gateway = start().await;
    let done = completed(&gateway, &id).await;
    assert_eq!(done["choices"][0]["message"]["content"], "It is 42.");
    // The tool's result was written down: it was not called again.
    assert_eq!(gateway.metric("tollway_tool_calls_total", &["tool=\"calculator\""]).await, 0.0);
    assert_eq!(simulator.requests().len(), 3);
    let told =
        events(&call_at(&gateway, "GET", &format!("/agent/runs/{id}/events"), ANN, None).await);
    let (name, last) = told.last().expect("an end");
    assert_eq!(name, "run.completed");
    assert!(last["sequence_number"].as_u64() >= Some(1_000_000), "{last}");
}

/// Ann may use the server's tools without being asked.
fn config_with(fake: &Fake) -> String {
    let text = CONFIG
        .replace("tools: [calculator]", "tools: ['*']")
        .replace("tools: ['*']\n", "tools: ['*']\n    approval: { never: [mcp] }\n");
    format!("{text}\nmcp_servers:\n  fake: {{ url: '{}', auth_value: let-me-in }}\n", fake.url())
}

#[tokio::test]
async fn run_that_is_killed_in_each_of_its_steps_makes_each_write_once() {
    const WRITES: usize = 4;
    let (simulator, fake, folder) = (simulator().await, Fake::listening().await, Folder::fresh());
    let start = async || start(&config_with(&fake), &simulator, &folder).await;
    let mut gateway = start().await;
    connected(&gateway, "fake").await;
    simulator.enqueue(Reply::hang());
    let body = with(asks("Write four lines."), &json!({"background": true}));
    let begun = call_at(&gateway, "POST", "/chat/agent", ANN, Some(&body)).await.json();
    let id = begun["id"].as_str().expect("an id").to_owned();
    for step in 0..=WRITES {
        // The step's model call hangs: 2 messages, and 2 more for each write before it.
        let messages = 2 + 2 * step;
        let is_asked = |body: &Value| body["messages"].as_array().map(Vec::len) == Some(messages);
        simulator.wait_for(|asked| is_asked(&asked.json())).await;
        gateway.signal("KILL");
        gateway.ended().await;
        if step < WRITES {
            let line = json!({"line": step}).to_string();
            simulator.enqueue(Reply::tool("mcp_fake_write", line));
            simulator.enqueue(Reply::hang());
        } else {
            simulator.enqueue(Reply::text("Written."));
        }
        gateway = start().await;
    }
    let done = completed(&gateway, &id).await;
    assert_eq!(done["choices"][0]["message"]["content"], "Written.");
    let notes = fake.notes();
    let wrote: Vec<&Value> = notes.iter().filter(|note| note.get("wrote").is_some()).collect();
    let lines: Vec<_> = wrote.iter().map(|note| note["wrote"]["line"].as_u64()).collect();
    assert_eq!(lines, [Some(0), Some(1), Some(2), Some(3)], "{done}");
    assert!(wrote.iter().all(|note| note["key"].as_str().is_some_and(|key| key.starts_with(&id))));
}

#[tokio::test]
async fn write_of_which_nobody_knows_whether_it_was_made_is_not_made_again() {
    let (simulator, fake, folder) = (simulator().await, Fake::listening().await, Folder::fresh());
    // What hangs is taken for something that writes.
    let text = config_with(&fake).replace("let-me-in }", "let-me-in, risk: { hang: write } }");
    let start = async || start(&text, &simulator, &folder).await;
    let mut gateway = start().await;
    connected(&gateway, "fake").await;
    simulator.enqueue(Reply::tool("mcp_fake_hang", "{}"));
    let body = with(asks("Write."), &json!({"background": true}));
    let begun = call_at(&gateway, "POST", "/chat/agent", ANN, Some(&body)).await.json();
    let id = begun["id"].as_str().expect("an id").to_owned();
    let calls = || fake.notes().iter().filter(|note| note["asked"] == "tools/call").count();
    eventually("the tool is called", async || calls() == 1).await;
    gateway.signal("KILL");
    gateway.ended().await;
    simulator.enqueue(Reply::text("I cannot tell."));
    let gateway = start().await;
    let done = completed(&gateway, &id).await;
    assert_eq!(done["tool_calls"][0]["status"], "failed", "{done}");
    let told = done["tool_calls"][0]["output"].as_str().expect("text");
    assert!(told.contains("Whether it was carried out is not known"), "{told}");
    assert_eq!(calls(), 1);
}
