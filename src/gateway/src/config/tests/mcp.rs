//! `mcp_servers`.

use tollway_agent::mcp::settings::{ServerSettings, Transport};
use tollway_agent::tool::Risk;

use super::*;

fn servers(text: &str) -> String {
    with_model(&format!("mcp_servers:\n{text}"))
}

fn server(text: &str) -> ServerSettings {
    config(&servers(text)).agents.service.mcp_servers.remove("x").expect("it is there")
}

#[test]
fn servers_are_written_as_litellm_writes_them() {
    let program = server(
        "  x: {command: npx, args: [-y, thing], env: {TOKEN: env:CI_KEY}, timeout: 5s, \
         allowed_tools: [a, b], disallowed_tools: b, risk: {a: exec}}\n",
    );
    let Transport::Stdio(stdio) = &program.transport else { panic!("{program:?}") };
    assert_eq!((stdio.command.as_str(), stdio.args.len()), ("npx", 2));
    assert_eq!(stdio.env["TOKEN"].expose(), "sk-ci-secret");
    assert_eq!(program.timeout, Duration::from_secs(5));
    assert_eq!(program.risk["a"], Risk::Exec);
    assert_eq!((program.allowed_tools.len(), program.disallowed_tools.len()), (2, 1));
    assert!(!format!("{program:?}").contains("sk-ci-secret"));

    for (auth, name, value) in [
        ("auth_type: bearer_token, auth_value: env:CI_KEY", "authorization", "Bearer sk-ci-secret"),
        ("authentication_token: secret", "authorization", "Bearer secret"),
        ("auth_type: api_key, auth_value: secret", "x-api-key", "secret"),
        ("auth_type: basic, auth_value: 'user:word'", "authorization", "Basic dXNlcjp3b3Jk"),
        ("auth_type: authorization, auth_value: Token t", "authorization", "Token t"),
        ("static_headers: {x-team: seven}", "x-team", "seven"),
    ] {
        let server = server(&format!("  x: {{url: 'https://a.example/mcp', {auth}}}\n"));
        let Transport::Http(endpoint) = &server.transport else { panic!("{server:?}") };
        assert_eq!(endpoint.headers[name], value, "{auth}");
        assert!(endpoint.headers[name].is_sensitive(), "{auth}");
        assert!(!format!("{server:?}").contains(value), "{server:?}");
    }
    let old = server("  x: {url: 'http://a.example/sse', transport: sse, auth_type: none}\n");
    assert!(matches!(old.transport, Transport::Sse(_)));
}

#[test]
fn what_makes_no_server_is_a_mistake() {
    for (text, wanted) in [
        ("  x: {}\n", "mcp_servers.x: needs `url`, or `command`"),
        ("  x: {transport: stdio}\n", "mcp_servers.x: needs `command`"),
        ("  x: {command: a, url: 'http://b'}\n", "mcp_servers.x.url: a program has none"),
        ("  x: {url: 'ftp://b'}\n", "mcp_servers.x.url: must be a URL"),
        ("  x: {url: 'http://b', args: [c]}\n", "mcp_servers.x.args: belongs to a program"),
        ("  x: {url: 'http://b', auth_type: basic}\n", "mcp_servers.x: needs `auth_value`"),
        ("  x: {url: 'http://b', auth_type: magic}\n", "mcp_servers.x.auth_type: must be"),
        (
            "  x: {command: a, risk: {t: much}}\n",
            "mcp_servers.x.risk.t: must be read, write or exec",
        ),
        ("  x: {command: a, comand: b}\n", "mcp_servers.x.comand"),
        ("  a.b: {command: a}\n", "a server's name is 1 to 40"),
    ] {
        let mistakes = load(&servers(text)).expect_err(text);
        let mistakes = lines(&mistakes);
        assert!(mistakes.contains(wanted), "{text}: {mistakes}");
    }
}
