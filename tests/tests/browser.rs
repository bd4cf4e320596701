//! Pages of other origins that use agents, in a real browser: preflights, event streams that are cut
//! and gone on with, the headers a page may read, and origins that may not.

use serde_json::{Value, json};
use tollway_simulator::Reply;
use tollway_tests::Setup;
use tollway_tests::agents::{ANN, CONFIG, reckons};
use tollway_tests::browser::Site;

const PAGE: &str = "agents.html";

/// A gateway that lets pages of this origin call it, and no others.
async fn gateway_for(origin: &str) -> Setup {
    let filters = format!(
        "
filters:
  - request_log
  - usage
  - filter: cors
    allow_origins: ['{origin}']
  - auth
  - validate
  - model_alias
"
    );
    Setup::with(&format!("{CONFIG}{filters}")).await
}

/// The data of an event as it came.
fn data(event: &Value) -> Value {
    serde_json::from_str(event["data"].as_str().expect("data")).expect("JSON")
}

/// The events but for the last, which says that there are no more.
fn numbered(events: &Value) -> &[Value] {
    let (last, events) =
        events.as_array().and_then(|events| events.split_last()).expect("there are events");
    assert_eq!(last["data"], "[DONE]");
    events
}

#[tokio::test]
async fn page_of_an_allowed_origin_uses_agents() {
    let mut site = Site::start(PAGE).await;
    let setup = gateway_for(&site.origin()).await;
    setup.simulator.enqueue(reckons("6 * 7"));
    setup.simulator.enqueue(Reply::text("It is 42."));
    setup.simulator.enqueue(Reply::text("Hello."));
    setup.simulator.enqueue(Reply::text("one two three four").stall_after(1));
    let gateway = format!("http://{}", setup.gateway.address);
    let told = site.visit(&[("gateway", &gateway), ("key", ANN)]).await;
    assert_eq!(told["failed"], Value::Null, "{told}");

    let headers = &told["begun"]["headers"];
    let run = headers["x-tollway-run-id"].as_str().expect("the run's id can be read");
    assert!(run.starts_with("run_"), "{headers}");
    assert!(headers["x-request-id"].is_string(), "{headers}");
    assert_eq!(headers["x-request-id"], headers["x-litellm-call-id"]);
    // What came before the cut and what came after it is the whole run, once.
    let rest = numbered(&told["byHeader"]);
    assert_eq!(numbered(&told["byQuery"]), rest);
    let all: Vec<&Value> = told["first"].as_array().expect("events").iter().chain(rest).collect();
    let numbers: Vec<&str> = all.iter().filter_map(|event| event["id"].as_str()).collect();
    let whole: Vec<String> = (1..=all.len()).map(|number| number.to_string()).collect();
    assert_eq!(numbers, whole);
    assert_eq!(all[0]["event"], "run.created");
    let text: String = all
        .iter()
        .filter(|event| event["event"] == "message.delta")
        .map(|event| data(event)["delta"].as_str().expect("text").to_owned())
        .collect();
    assert_eq!(text, "It is 42.");
    let last = all.last().expect("an end");
    assert_eq!(last["event"], "run.completed");
    // The bill is in the events as in the run.
    let cost = &told["run"]["body"]["usage"]["cost_usd"];
    assert!(cost.as_f64().is_some_and(|cost| cost > 0.0), "{told}");
    assert_eq!(&data(last)["run"]["usage"]["cost_usd"], cost);
    assert_eq!(told["run"]["body"]["id"], run);

    let said: String = told["model"]
        .as_array()
        .expect("chunks")
        .iter()
        .filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str())
        .collect();
    assert_eq!(said, "Hello.");
    assert_eq!(told["cancelled"]["body"]["status"], "cancelled", "{}", told["cancelled"]);
    assert_eq!(told["patched"]["body"]["metadata"], json!({"a": "b"}), "{}", told["patched"]);
    assert_eq!(told["deleted"]["body"]["deleted"], true, "{}", told["deleted"]);
    assert_eq!(told["unknown"]["status"], 404);
    assert_eq!(told["unknown"]["body"]["error"]["code"], "agent_not_found");
    assert_eq!(told["stranger"]["status"], 401);
    assert_eq!(told["stranger"]["body"]["error"]["code"], "invalid_api_key");
}

#[tokio::test]
async fn page_of_another_origin_is_refused_by_the_browser() {
    let (friend, mut stranger) = (Site::start(PAGE).await, Site::start(PAGE).await);
    let setup = gateway_for(&friend.origin()).await;
    let gateway = format!("http://{}", setup.gateway.address);
    let told = stranger.visit(&[("gateway", &gateway), ("key", ANN)]).await;
    assert_eq!(told, json!({"failed": "TypeError: Failed to fetch"}));
    // The preflight was not granted, so nothing was asked for.
    assert!(setup.asked().is_empty());
}
