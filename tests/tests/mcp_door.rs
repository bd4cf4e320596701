//! The gateway as an MCP server: by hand, and by the inspector, which is a client of others.

use std::process::Stdio;

use serde_json::{Value, json};
use tokio::process::Command;
use tollway_tests::agents::{ANN, BOB, CONFIG, call};
use tollway_tests::client::send;
use tollway_tests::gateway::{MASTER_KEY, PATIENCE};
use tollway_tests::mcp::{Fake, ask, connected, official};
use tollway_tests::servers::tools;
use tollway_tests::{Gateway, Setup};

#[tokio::test]
async fn client_is_greeted_and_sees_and_calls_its_tools() {
    let setup = Setup::with(CONFIG).await;
    let gateway = &setup.gateway;
    for (asked, spoken) in
        [("2025-06-18", "2025-06-18"), ("2024-11-05", "2024-11-05"), ("1999-01-01", "2025-06-18")]
    {
        let params =
            json!({"protocolVersion": asked, "capabilities": {}, "clientInfo": {"name": "t"}});
        let greeted = ask(gateway, ANN, "initialize", params).await;
        assert_eq!(greeted.header("content-type"), Some("application/json"));
        let greeted = greeted.json();
        assert_eq!(greeted["id"], 7);
        assert_eq!(greeted["result"]["protocolVersion"], spoken);
        assert_eq!(greeted["result"]["serverInfo"]["name"], "tollway");
    }
    let said = json!({"jsonrpc": "2.0", "method": "notifications/initialized"});
    let said = call(&setup, "POST", "/v1/mcp", ANN, Some(&said)).await;
    assert_eq!((said.status, said.text().as_str()), (202, ""));
    assert_eq!(ask(gateway, ANN, "ping", json!({})).await.json()["result"], json!({}));
    let listed = ask(gateway, ANN, "tools/list", json!({})).await.json();
    assert_eq!(listed["result"]["tools"][0]["name"], "calculator");
    assert_eq!(listed["result"]["tools"][0]["annotations"]["readOnlyHint"], true);
    let params = json!({"name": "calculator", "arguments": {"expression": "6 * 7"}});
    let called = ask(gateway, ANN, "tools/call", params.clone()).await.json();
    assert_eq!(called["result"]["isError"], false);
    assert!(called["result"]["content"][0]["text"].as_str().expect("text").contains("42"));
    // What goes wrong in a tool is for the model; it is counted as any call.
    let wrong = json!({"name": "calculator", "arguments": {"expression": "6 *"}});
    let wrong = ask(gateway, ANN, "tools/call", wrong).await.json();
    assert_eq!(wrong["result"]["isError"], true, "{wrong}");
    assert_eq!(gateway.metric("tollway_tool_calls_total", &["tool=\"calculator\""]).await, 2.0);

    // Who may use no tools sees none, and cannot tell which there are.
    let none = ask(gateway, BOB, "tools/list", json!({})).await.json();
    assert_eq!(none["result"]["tools"], json!([]));
    let refused = ask(gateway, BOB, "tools/call", params).await.json();
    let unknown = ask(gateway, BOB, "tools/call", json!({"name": "nothing"})).await.json();
    assert_eq!(refused["error"], json!({"code": -32602, "message": "Unknown tool: calculator"}));
    assert_eq!(unknown["error"], json!({"code": -32602, "message": "Unknown tool: nothing"}));
    assert_eq!(gateway.metric("tollway_tool_calls_total", &["tool=\"calculator\""]).await, 2.0);
}

#[tokio::test]
async fn what_is_no_request_is_refused_as_the_protocol_says() {
    let setup = Setup::with(CONFIG).await;
    let gateway = &setup.gateway;
    let bearer = format!("Bearer {ANN}");
    let with = |body: &'static str, more: &'static [(&'static str, &'static str)]| {
        let mut headers = vec![("authorization", bearer.clone())];
        headers.extend(more.iter().map(|(name, value)| (*name, (*value).to_owned())));
        async move {
            let headers: Vec<(&str, &str)> =
                headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
            send(gateway.address, "POST", "/mcp", &headers, body.as_bytes()).await
        }
    };
    const PING: &str = r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#;
    for (body, status, code) in [
        ("", 400, -32700),
        ("{\"jsonrpc\"", 400, -32700),
        (r#"[{"jsonrpc":"2.0","id":1,"method":"ping"}]"#, 400, -32600),
        (r#"{"jsonrpc":"1.0","id":1,"method":"ping"}"#, 400, -32600),
        (r#"{"jsonrpc":"2.0","id":1,"method":"prompts/list"}"#, 200, -32601),
        (r#"{"jsonrpc":"2.0","id":1,"method":"tools/call"}"#, 200, -32602),
        (r#"{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{"cursor":"x"}}"#, 200, -32602),
        (
            r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"calculator","arguments":[]}}"#,
            200,
            -32602,
        ),
    ] {
        let response = with(body, &[]).await;
        assert_eq!(
            (response.status, &response.json()["error"]["code"]),
            (status, &json!(code)),
            "{body}"
        );
    }
    let wrong = with(PING, &[("mcp-protocol-version", "1999-01-01")]).await;
    assert_eq!((wrong.status, &wrong.json()["error"]["code"]), (400, &json!(-32600)));
    let right = with(PING, &[("mcp-protocol-version", "2025-06-18")]).await;
    assert_eq!(right.status, 200);
    // There are no streams and no sessions, and nothing without a key.
    for method in ["GET", "DELETE"] {
        let response = call(&setup, method, "/mcp", ANN, None).await;
        assert_eq!((response.status, response.header("allow")), (405, Some("POST")), "{method}");
    }
    let nobody = [("authorization", "Bearer sk-nobody")];
    let stranger = send(gateway.address, "POST", "/mcp", &nobody, PING.as_bytes()).await;
    assert_eq!((stranger.status, stranger.header("www-authenticate")), (401, Some("Bearer")));
}

/// What the inspector says, and whether it is content.
async fn inspector(gateway: &Gateway, key: &str, arguments: &[&str]) -> (bool, Value) {
    let program = tools().join("node/node_modules/.bin/mcp-inspector");
    let mut command = Command::new(program);
    command
        .args(["--cli", &format!("http://{}/mcp", gateway.address), "--transport", "http"])
        .args(["--header", &format!("Authorization: Bearer {key}")])
        .args(arguments)
        .stdin(Stdio::null())
        .kill_on_drop(true);
    let output = tokio::time::timeout(PATIENCE, command.output()).await.expect("it ends in time");
    let output = output.expect("it can be started");
    let said = String::from_utf8_lossy(&output.stdout);
    let said = serde_json::from_str(&said).unwrap_or_else(|_| json!(said));
    (output.status.success(), said)
}

#[tokio::test]
async fn inspector_lists_and_calls_tools_of_ours_and_of_other_servers() {
    let fake = Fake::program();
    let args = json!([official("server-everything"), "stdio"]);
    let setup = Setup::with(&format!(
        "{CONFIG}mcp_servers:\n  everything: {{ command: node, args: {args} }}\n{}",
        fake.entry("fake", "")
    ))
    .await;
    let gateway = &setup.gateway;
    connected(gateway, "everything").await;
    connected(gateway, "fake").await;
    let (is_fine, listed) = inspector(gateway, MASTER_KEY, &["--method", "tools/list"]).await;
    assert!(is_fine, "{listed}");
    let names = listed["tools"].as_array().expect("tools").iter().map(|tool| tool["name"].clone());
    let names: Vec<Value> = names.collect();
    for name in ["calculator", "mcp_everything_echo", "mcp_fake_write"] {
        assert!(names.contains(&json!(name)), "{name}: {listed}");
    }
    let echo = [
        "--method",
        "tools/call",
        "--tool-name",
        "mcp_everything_echo",
        "--tool-arg",
        "message=ahoy",
    ];
    let (is_fine, called) = inspector(gateway, MASTER_KEY, &echo).await;
    assert!(is_fine, "{called}");
    assert_eq!(called["content"][0]["text"], "Echo: ahoy");
    // An image of another server is an image.
    let image = ["--method", "tools/call", "--tool-name", "mcp_everything_get-tiny-image"];
    let (is_fine, called) = inspector(gateway, MASTER_KEY, &image).await;
    assert!(is_fine, "{called}");
    assert_eq!(called["content"][1]["mimeType"], "image/png");
    // Ann sees one tool, and gets no other.
    let (is_fine, listed) = inspector(gateway, ANN, &["--method", "tools/list"]).await;
    assert!(is_fine, "{listed}");
    assert_eq!(listed["tools"].as_array().expect("tools").len(), 1);
    let (_, refused) = inspector(gateway, ANN, &echo).await;
    assert!(refused["content"][0]["text"] != "Echo: ahoy", "{refused}");
    assert_eq!(
        gateway.metric("tollway_tool_calls_total", &["tool=\"mcp.everything.echo\""]).await,
        1.0
    );
}
