//! One question that needs a search, a program and a file, from its first event to its bill.

use serde_json::{Value, json};
use tollway_simulator::Reply;
use tollway_tests::Setup;
use tollway_tests::agents::{ANN, CONFIG, asks, call, events, run, with};

#[tokio::test]
async fn question_that_needs_search_code_and_a_file_is_answered_with_its_bill() {
    let text = CONFIG.replace("tools: [calculator]", "tools: [web_search, code, files]");
    let text = format!(
        "{text}    approval: {{ never: [files.write] }}
tools:
  code: {{}}
  files: {{}}
  search_tools:
    - search_tool_name: tavily
      litellm_params: {{ search_provider: tavily, api_key: tvly-1, api_base: $SIM, cost_per_query: 0.008 }}
"
    );
    let setup = Setup::with(&text).await;
    let tool = |name: &str, arguments: Value| Reply::tool(name, arguments.to_string());
    let found = json!({"results": [{"title": "Bonn", "url": "https://bonn.example/",
                                    "content": "Bonn has 340,000 inhabitants."}]});
    let program = "print(round(340000 * 0.17))";
    let script = [
        tool("web_search", json!({"query": "inhabitants of Bonn"})).usage(400, 20),
        Reply::json(200, &found),
        tool("code_python", json!({"code": program})).usage(600, 30),
        tool("files_write", json!({"name": "answer.txt", "content": "57800"})).usage(700, 25),
        Reply::text("17 % of Bonn's inhabitants are 57,800; it is in answer.txt.").usage(800, 40),
    ];
    script.into_iter().for_each(|reply| setup.simulator.enqueue(reply));
    let question = asks("How many are 17 % of Bonn's inhabitants? Keep it in a file.");
    let told = events(&run(&setup, &with(question, &json!({"stream": true}))).await);
    let used: Vec<(&str, &str)> = told
        .iter()
        .filter(|(name, _)| name == "tool_call.completed" || name == "tool_call.started")
        .map(|(name, data)| (name.as_str(), data["tool"].as_str().unwrap_or_default()))
        .collect();
    assert_eq!(
        used,
        [
            ("tool_call.started", "web_search"),
            ("tool_call.completed", ""),
            ("tool_call.started", "code.python"),
            ("tool_call.completed", ""),
            ("tool_call.started", "files.write"),
            ("tool_call.completed", ""),
        ]
    );
    let (name, last) = told.last().expect("an end");
    assert_eq!(name, "run.completed", "{last}");
    let run = &last["run"];
    assert!(run["tool_calls"][1]["output"].as_str().expect("text").starts_with("57800"), "{run}");
    // Four calls of gpt-4o-mini, 2,500 tokens in and 115 out, and one search.
    assert_eq!(run["usage"]["cost_usd"], json!(0.000375 + 0.000069 + 0.008), "{run}");
    let files = call(&setup, "GET", "/v1/files", ANN, None).await.json();
    let file = &files["data"][0];
    assert_eq!(file["filename"], "answer.txt", "{files}");
    let path = format!("/v1/files/{}/content", file["id"].as_str().expect("an id"));
    assert_eq!(call(&setup, "GET", &path, ANN, None).await.text(), "57800");
    let spent =
        setup.gateway.metric("litellm_spend_metric_total", &["api_key_alias=\"ann\""]).await;
    assert!((spent - 0.008444).abs() < 1e-9, "{spent}");
}
