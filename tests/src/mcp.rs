//! What tests of MCP need: servers of others, one that misbehaves, and the gateway's word about them.

use std::path::PathBuf;

use serde_json::{Value, json};
use tokio::process::Command;

use crate::agents::call_at;
use crate::client::Response;
use crate::gateway::{Folder, Gateway, MASTER_KEY, repository};
use crate::servers::{Server, start, tools};
use crate::setup::eventually;

/// The program of one of the protocol's own servers.
///
/// # Panics
/// When it is not installed.
pub fn official(server: &str) -> PathBuf {
    let program = format!("node/node_modules/@modelcontextprotocol/{server}/dist/index.js");
    tools().join(program)
}

/// A server that misbehaves as it is told, and what it has noted.
pub struct Fake {
    folder: Folder,
    server: Option<Server>,
}

impl Fake {
    /// A program that the gateway starts.
    pub fn program() -> Fake {
        Fake { folder: Folder::fresh(), server: None }
    }

    /// A server by HTTP, whose URL is the end of what it said.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn listening() -> Fake {
        Fake::listening_for("let-me-in").await
    }

    /// The same with a token of its own.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn listening_for(token: &str) -> Fake {
        let mut fake = Fake::program();
        let mut command = Command::new("python3");
        command.env("FAKE_TOKEN", token);
        command.arg(script()).arg("http").arg(fake.notes_file());
        fake.server = Some(start(command, |line| line.starts_with("READY ")).await);
        fake
    }

    /// Where it listens.
    ///
    /// # Panics
    /// When it is a program.
    pub fn url(&self) -> &str {
        let server = self.server.as_ref().expect("it listens");
        server.ready.trim_start_matches("READY ")
    }

    fn notes_file(&self) -> PathBuf {
        self.folder.0.join("notes")
    }

    /// Its entry in `mcp_servers`, by this name, with more in it.
    pub fn entry(&self, name: &str, more: &str) -> String {
        let args = json!([script(), "stdio", self.notes_file()]);
        format!("  {name}: {{ command: python3, args: {args}{more} }}\n")
    }

    /// What it has noted.
    ///
    /// # Panics
    /// When that is no JSON.
    pub fn notes(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(self.notes_file()).unwrap_or_default();
        text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
    }

    /// How many notes have this member.
    pub fn count(&self, member: &str) -> usize {
        self.notes().iter().filter(|note| note.get(member).is_some()).count()
    }
}

fn script() -> PathBuf {
    repository().join("tests/mcp/fake.py")
}

/// How the gateway says a server is.
pub async fn status(gateway: &Gateway, server: &str) -> Value {
    let status = call_at(gateway, "GET", "/agent/status", MASTER_KEY, None).await.json();
    status["mcp_servers"][server].clone()
}

/// Waits until a server is connected.
///
/// # Panics
/// When it never is.
pub async fn connected(gateway: &Gateway, server: &str) {
    let is_there = async || {
        let tools = call_at(gateway, "GET", "/tools", MASTER_KEY, None).await.text();
        status(gateway, server).await["state"] == "connected"
            && tools.contains(&format!("\"mcp.{server}."))
    };
    eventually(&format!("{server} is connected"), is_there).await;
}

/// `POST /tools/{name}`
pub async fn use_tool(gateway: &Gateway, key: &str, name: &str, arguments: Value) -> Response {
    let body = json!({"arguments": arguments});
    call_at(gateway, "POST", &format!("/tools/{name}"), key, Some(&body)).await
}

/// What a tool of a server says, asked with the master key.
///
/// # Panics
/// When it does not answer.
pub async fn said(gateway: &Gateway, name: &str, arguments: Value) -> String {
    let response = use_tool(gateway, MASTER_KEY, name, arguments).await;
    assert_eq!(response.status, 200, "{name}: {}", response.text());
    response.json()["content"].as_str().expect("text").to_owned()
}

/// A request to `/mcp`.
pub async fn ask(gateway: &Gateway, key: &str, method: &str, params: Value) -> Response {
    let body = json!({"jsonrpc": "2.0", "id": 7, "method": method, "params": params});
    call_at(gateway, "POST", "/mcp", key, Some(&body)).await
}
