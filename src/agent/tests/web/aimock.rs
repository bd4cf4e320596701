//! A Tavily nobody here wrote: aimock.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tollway_agent::outgoing::Outgoing;
use tollway_agent::tools::web_search::Query;
use tollway_agent::tools::{Services, Settings};
use tollway_filter_api::Clock;

/// Serves one fixture until its standard input ends. The first argument is where npm's packages are.
const SCRIPT: &str = r#"
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";
const aimock = createRequire(pathToFileURL(process.argv[1] + "/")).resolve("@copilotkit/aimock");
const { LLMock } = await import(pathToFileURL(aimock).href);
const mock = new LLMock({ port: 0, host: "127.0.0.1" });
mock.onSearch("ferry", [
  { title: "Ferries", url: "https://ferries.example/", content: "Two a day.", score: 0.9 },
  { title: "Times", url: "https://ferries.example/times", content: "At nine.", score: 0.8 },
]);
await mock.start();
console.log(mock.url);
"#;

async fn aimock() -> (Child, String) {
    let tools = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../.tools/node");
    assert!(tools.join("node_modules").exists(), "run `make tools` first");
    let mut command = Command::new("node");
    command.args(["--input-type=module", "-e", SCRIPT]).arg(tools);
    command.stdout(Stdio::piped()).stdin(Stdio::null()).kill_on_drop(true);
    let mut child = command.spawn().expect("node can be started");
    let mut lines = BufReader::new(child.stdout.take().expect("it is a pipe")).lines();
    let ready = tokio::time::timeout(Duration::from_secs(60), lines.next_line()).await;
    let url = ready.expect("it starts in time").expect("it says where it is").expect("a line");
    (child, url)
}

#[tokio::test]
async fn aimock_is_searched_as_tavily() {
    let (_aimock, url) = aimock().await;
    let settings: Settings = serde_json::from_value(json!({
        "search_tools": [{
            "search_tool_name": "mock",
            "litellm_params": {"search_provider": "tavily", "api_key": "tvly-x", "api_base": url},
        }],
    }))
    .unwrap();
    let services = Services::new(&settings, Outgoing::new().unwrap(), Clock::system()).unwrap();
    let search = services.web_search.expect("it is configured");
    let query = |text: &str, count| Query {
        query: text.to_owned(),
        num_results: Some(count),
        ..Query::default()
    };
    let found = search.search(query("the ferry to Skye", 5), "me").await.unwrap();
    let urls: Vec<&str> = found.results.iter().map(|result| result.url.as_str()).collect();
    assert_eq!(urls, ["https://ferries.example/", "https://ferries.example/times"]);
    assert_eq!(found.results[0].snippet, "Two a day.");
    let one = search.search(query("the ferry to Skye", 1), "me").await.unwrap();
    assert_eq!(one.results.len(), 1);
    let none = search.search(query("something else", 5), "me").await.unwrap();
    assert_eq!(none.results, []);
}
