//! Runs that are under way when the process is killed.

use serde_json::{Value, json};
use tollway_simulator::Reply;
use tollway_tests::agents::{ANN, CONFIG, asks, call_at, events, reckons, with};
use tollway_tests::gateway::{Folder, Gateway, Options};
use tollway_tests::setup::{config, eventually, simulator};

#[tokio::test]
async fn killed_run_goes_on_where_it_was() {
    let simulator = simulator().await;
    let folder = Folder::fresh();
    let start = async || {
        let options = Options {
            config: Some(config(CONFIG, &simulator)),
            folder: Some(folder.0.clone()),
            ..Options::default()
        };
        Gateway::start_with(options).await
    };
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
    let path = format!("/agent/runs/{id}");
    let mut done = Value::Null;
    eventually("it is completed", async || {
        done = call_at(&gateway, "GET", &path, ANN, None).await.json();
        done["status"] == "completed"
    })
    .await;
    assert_eq!(done["choices"][0]["message"]["content"], "It is 42.");
    // The tool's result was written down: it was not called again.
    assert_eq!(gateway.metric("tollway_tool_calls_total", &["tool=\"calculator\""]).await, 0.0);
    assert_eq!(simulator.requests().len(), 3);
    let told = events(&call_at(&gateway, "GET", &format!("{path}/events"), ANN, None).await);
    let (name, last) = told.last().expect("an end");
    assert_eq!(name, "run.completed");
    assert!(last["sequence_number"].as_u64() >= Some(1_000_000), "{last}");
}
