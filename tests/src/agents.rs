//! What tests of agents need: two people, an agent that reckons, and its events.

use serde_json::{Value, json};
use tollway_simulator::Reply;

use crate::client::{Response, send};
use crate::gateway::Gateway;
use crate::setup::Setup;

/// May use the calculator.
pub const ANN: &str = "sk-ann-0000000001";
/// May use no tools.
pub const BOB: &str = "sk-bob-0000000001";

/// Both, and the agent.
pub const CONFIG: &str = "
keys:
  - { alias: ann, key: sk-ann-0000000001, user: ann, metadata: { tools: [calculator] } }
  - { alias: bob, key: sk-bob-0000000001, user: bob }
agents:
  - name: reckoner
    model: gpt-4o-mini
    instructions: You reckon.
    tools: ['*']
";

/// A request with this key.
pub async fn call(
    setup: &Setup,
    method: &str,
    path: &str,
    key: &str,
    body: Option<&Value>,
) -> Response {
    call_at(&setup.gateway, method, path, key, body).await
}

/// The same to this gateway.
pub async fn call_at(
    gateway: &Gateway,
    method: &str,
    path: &str,
    key: &str,
    body: Option<&Value>,
) -> Response {
    let bearer = format!("Bearer {key}");
    let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
    let body = body.map(Value::to_string).unwrap_or_default();
    send(gateway.address, method, path, &headers, body.as_bytes()).await
}

/// `POST /chat/agent` of Ann's.
pub async fn run(setup: &Setup, body: &Value) -> Response {
    call(setup, "POST", "/chat/agent", ANN, Some(body)).await
}

/// What she asks the agent.
pub fn asks(text: &str) -> Value {
    json!({"agent": "reckoner", "messages": [{"role": "user", "content": text}]})
}

/// The same with more members.
///
/// # Panics
/// When one of them is no object.
pub fn with(mut body: Value, more: &Value) -> Value {
    for (name, value) in more.as_object().expect("an object") {
        body[name] = value.clone();
    }
    body
}

/// The model wants something reckoned.
pub fn reckons(expression: &str) -> Reply {
    Reply::tool("calculator", json!({"expression": expression}).to_string())
}

/// Name and data of each event.
///
/// # Panics
/// When an event is not in order.
pub fn events(response: &Response) -> Vec<(String, Value)> {
    let mut events = Vec::new();
    let mut last = 0;
    for block in response.text().split("\n\n").filter(|block| block.starts_with("id: ")) {
        let mut lines = block.lines();
        let mut field = |name: &str| {
            let line = lines.next().unwrap_or_default();
            line.strip_prefix(name).unwrap_or_else(|| panic!("{name}: {block}")).to_owned()
        };
        let number: u64 = field("id: ").parse().expect("a number");
        assert!(number > last, "{block}");
        last = number;
        let name = field("event: ");
        let data: Value = serde_json::from_str(&field("data: ")).expect("JSON");
        assert_eq!(data["type"], name.as_str());
        assert_eq!(data["sequence_number"], number);
        events.push((name, data));
    }
    events
}

/// The names of events, each once where several follow each other.
pub fn names(events: &[(String, Value)]) -> Vec<&str> {
    let mut names: Vec<&str> = events.iter().map(|(name, _)| name.as_str()).collect();
    names.dedup();
    names
}
