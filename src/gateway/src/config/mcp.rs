//! MCP servers, checked.

use base64::Engine;
use base64::prelude::BASE64_STANDARD as STANDARD;
use http::header::AUTHORIZATION;
use http::{HeaderName, HeaderValue};
use secrecy::ExposeSecret;
use tollway_agent::mcp::settings::{
    Endpoint, Program, ServerSettings, ServersSettings, TIMEOUT, Transport,
};

use super::file::{FileAuth, FileConfig, FileMcpServer, FileTransport};
use super::mistake::Report;

const X_API_KEY: HeaderName = HeaderName::from_static("x-api-key");

pub(super) fn resolve(file: &mut FileConfig, report: &mut Report) -> ServersSettings {
    let mut servers = ServersSettings::new();
    for given in std::mem::take(&mut file.mcp_servers) {
        let path = format!("mcp_servers.{}", given.name);
        let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
        if given.name.is_empty() || given.name.len() > 40 || !given.name.chars().all(is_plain) {
            let message = "a server's name is 1 to 40 letters, digits, dashes and underscores";
            report.mistake(&path, message);
            continue;
        }
        let name = given.name.clone();
        servers.extend(server(given, &path, report).map(|server| (name, server)));
    }
    servers
}

fn server(given: FileMcpServer, path: &str, report: &mut Report) -> Option<ServerSettings> {
    let usual = match given.command {
        Some(_) => FileTransport::Stdio,
        None => FileTransport::Http,
    };
    let transport = match given.transport.unwrap_or(usual) {
        FileTransport::Stdio => {
            let Some(command) = given.command else {
                report.mistake(path, "needs `command`, the program to start");
                return None;
            };
            for (name, is_there) in [
                ("url", given.url.is_some()),
                ("auth_value", given.auth_value.is_some()),
                ("static_headers", !given.headers.is_empty()),
            ] {
                if is_there {
                    report.mistake(&format!("{path}.{name}"), "a program has none");
                }
            }
            let env = given.env.into_iter().map(|(name, value)| (name, value.into())).collect();
            Transport::Stdio(Program { command, args: given.args, env })
        }
        over_http => {
            let endpoint = endpoint(&given, path, report)?;
            match over_http {
                FileTransport::Sse => Transport::Sse(endpoint),
                _ => Transport::Http(endpoint),
            }
        }
    };
    Some(ServerSettings {
        transport,
        description: given.description,
        allowed_tools: given.allowed_tools.into_iter().collect(),
        disallowed_tools: given.disallowed_tools.into_iter().collect(),
        timeout: given.timeout.unwrap_or(TIMEOUT),
        risk: given.risk.into_iter().collect(),
    })
}

fn endpoint(given: &FileMcpServer, path: &str, report: &mut Report) -> Option<Endpoint> {
    for (name, is_there) in [
        ("command", given.command.is_some()),
        ("args", !given.args.is_empty()),
        ("env", !given.env.is_empty()),
    ] {
        if is_there {
            report.mistake(&format!("{path}.{name}"), "belongs to a program: `transport: stdio`");
        }
    }
    let Some(url) = &given.url else {
        report.mistake(path, "needs `url`, or `command` of a program to start");
        return None;
    };
    let headers = given.headers.iter().cloned().collect();
    let Some(mut endpoint) = Endpoint::new(url.expose_secret(), headers) else {
        report.mistake(&format!("{path}.url"), "must be a URL: https://mcp.example.com/mcp");
        return None;
    };
    let auth = match (given.auth_type, &given.auth_value) {
        (None | Some(FileAuth::None), None) => return Some(endpoint),
        (Some(FileAuth::None), Some(_)) => {
            report.mistake(&format!("{path}.auth_value"), "has no use with `auth_type: none`");
            return None;
        }
        (Some(_), None) => {
            report.mistake(path, "needs `auth_value`, the credential of its `auth_type`");
            return None;
        }
        (auth, Some(value)) => (auth.unwrap_or(FileAuth::Bearer), value.expose_secret()),
    };
    let (name, value) = match auth {
        (FileAuth::ApiKey, value) => (X_API_KEY, value.to_owned()),
        (FileAuth::Basic, value) => (AUTHORIZATION, format!("Basic {}", STANDARD.encode(value))),
        (FileAuth::Authorization, value) => (AUTHORIZATION, value.to_owned()),
        (_, value) => (AUTHORIZATION, format!("Bearer {value}")),
    };
    let Ok(mut value) = HeaderValue::from_str(&value) else {
        report.mistake(&format!("{path}.auth_value"), "holds what no header can: a line feed, say");
        return None;
    };
    value.set_sensitive(true);
    endpoint.headers.insert(name, value);
    Some(endpoint)
}
