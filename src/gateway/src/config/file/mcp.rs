//! MCP servers as they are written: LiteLLM's `mcp_servers`.

use std::time::Duration;

use http::{HeaderName, HeaderValue};
use secrecy::SecretString;

use super::super::litellm;
use super::super::reader::Fields;
use super::FileConfig;

/// One of `mcp_servers`: a server whose tools agents may use as `mcp.<name>.<tool>`.
#[derive(Debug, Default)]
pub(crate) struct FileMcpServer {
    /// By which people name it.
    pub(crate) name: String,
    /// `transport`: `http` (streamable), `sse` (as it was before) or `stdio` (a program). Default:
    /// `stdio` where there is a `command`, else `http`.
    pub(crate) transport: Option<FileTransport>,
    /// `url`: where it listens.
    pub(crate) url: Option<SecretString>,
    /// `command`: the program that is started. It gets `PATH`, `HOME` and `env`, and nothing else
    /// of the gateway's environment.
    pub(crate) command: Option<String>,
    /// `args`: with what.
    pub(crate) args: Vec<String>,
    /// `env`: its environment.
    pub(crate) env: Vec<(String, String)>,
    /// `auth_type`: `none`, `api_key` (in `x-api-key`), `bearer_token`, `basic` (`user:password`) or
    /// `authorization` (the header as it stands).
    pub(crate) auth_type: Option<FileAuth>,
    /// `auth_value`, or `authentication_token`: the credential.
    pub(crate) auth_value: Option<SecretString>,
    /// `static_headers`: sent with each request.
    pub(crate) headers: Vec<(HeaderName, HeaderValue)>,
    /// `description`: what it is for, for people.
    pub(crate) description: Option<String>,
    /// `allowed_tools`: those that are taken, by the server's own names. Default: all.
    pub(crate) allowed_tools: Vec<String>,
    /// `disallowed_tools`: those that are not.
    pub(crate) disallowed_tools: Vec<String>,
    /// `timeout`: how long connecting, listing and calling may take. Default `1m`.
    pub(crate) timeout: Option<Duration>,
    /// `risk`: what its tools do, whatever it says itself: `{search: read, send: write}`, and `exec`.
    pub(crate) risk: Vec<(String, tollway_agent::tool::Risk)>,
}

/// How a server is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FileTransport {
    Http,
    Sse,
    Stdio,
}

/// How it knows us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FileAuth {
    None,
    ApiKey,
    Bearer,
    Basic,
    Authorization,
}

pub(super) fn read_servers(fields: &mut Fields<'_>, file: &mut FileConfig) {
    for (name, node, path) in fields.entries("mcp_servers") {
        let read = |fields: &mut Fields<'_>| read_server(fields, name);
        file.mcp_servers.extend(fields.reader.fields(node, &path, litellm::MCP_SERVER, read));
    }
}

fn read_server(fields: &mut Fields<'_>, name: &str) -> FileMcpServer {
    use tollway_agent::tool::Risk;
    const TRANSPORTS: &[(&str, FileTransport)] = &[
        ("http", FileTransport::Http),
        ("sse", FileTransport::Sse),
        ("stdio", FileTransport::Stdio),
    ];
    const AUTHS: &[(&str, FileAuth)] = &[
        ("none", FileAuth::None),
        ("api_key", FileAuth::ApiKey),
        ("bearer_token", FileAuth::Bearer),
        ("basic", FileAuth::Basic),
        ("authorization", FileAuth::Authorization),
    ];
    let mut env = Vec::new();
    for (name, node, path) in fields.entries("env") {
        env.extend(fields.reader.scalar(node, &path, "text").map(|text| (name.to_owned(), text)));
    }
    let mut risk = Vec::new();
    for (tool, node, path) in fields.entries("risk") {
        let parse = |text: &str| match text {
            "read" => Some(Risk::Read),
            "write" => Some(Risk::Write),
            "exec" => Some(Risk::Exec),
            _ => None,
        };
        let given = fields.reader.parsed(node, &path, "read, write or exec", parse);
        risk.extend(given.map(|risk| (tool.to_owned(), risk)));
    }
    FileMcpServer {
        name: name.to_owned(),
        transport: fields.choice("transport", TRANSPORTS),
        url: fields.secret("url"),
        command: fields.text("command"),
        args: fields.texts("args"),
        env,
        auth_type: fields.choice("auth_type", AUTHS),
        auth_value: fields.either("auth_value", "authentication_token", Fields::secret),
        headers: fields.headers("static_headers"),
        description: fields.text("description"),
        allowed_tools: fields.texts("allowed_tools"),
        disallowed_tools: fields.texts("disallowed_tools"),
        timeout: fields.timeout("timeout"),
        risk,
    }
}
