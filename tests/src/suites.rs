//! The suites of official SDKs in `tests/sdk`: what they are in front of, and how they are run.

use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;

use crate::gateway::{Gateway, repository};
use crate::servers::{Server, start, tools};

/// How long a suite may take. Two of them, two gateways and a compiler may share one core.
const PATIENCE: Duration = Duration::from_secs(300);

/// Starts aimock, a provider that nobody here wrote; its URL.
///
/// # Panics
/// When it does not start.
pub async fn aimock() -> (Server, String) {
    tools();
    let mut command = Command::new("node");
    command.arg(repository().join("tests/sdk/aimock.mjs"));
    let server = start(command, |line| line.starts_with("READY ")).await;
    let url = server.ready.trim_start_matches("READY ").to_owned();
    (server, url)
}

/// The command that runs a suite, without anything of the test's environment that could lead it
/// elsewhere.
fn command(suite: &str) -> Command {
    let mut command = match suite.ends_with(".mjs") {
        true => Command::new("node"),
        false => Command::new(tools().join("python/bin/python")),
    };
    command.arg(repository().join("tests/sdk").join(suite));
    command.env_clear().env("PYTHONDONTWRITEBYTECODE", "1");
    if let Some(path) = std::env::var_os("PATH") {
        command.env("PATH", path);
    }
    command
}

/// Runs every case of a suite against a gateway, and demands that all of them pass, `least` at
/// least, and that nothing of `secrets` is in the gateway's log.
///
/// # Panics
/// When that is not so.
pub async fn all_cases_pass(
    suite: &str,
    least: usize,
    gateway: &Gateway,
    env: &[(&str, &str)],
    secrets: &[&str],
) {
    let run = command(suite)
        .env("TOLLWAY_URL", format!("http://{}", gateway.address))
        .envs(env.iter().copied())
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(PATIENCE, run)
        .await
        .expect("the suite ends in time")
        .expect("the suite can be started");
    let said = String::from_utf8_lossy(&output.stdout);
    let failures: Vec<&str> = said.lines().filter(|line| !line.starts_with("ok ")).collect();
    assert!(
        output.status.success(),
        "{}\n{}\nthe gateway said:\n{}",
        failures.join("\n"),
        String::from_utf8_lossy(&output.stderr),
        gateway.stderr()
    );
    let passed = said.lines().filter(|line| line.starts_with("ok ")).count();
    assert_eq!(failures, [format!("{passed} passed, 0 failed")]);
    assert!(passed >= least, "only {passed} cases were run");

    // What went through it is nobody's business.
    let logged = gateway.stdout() + &gateway.stderr();
    for secret in secrets {
        assert!(!logged.contains(secret), "{secret} is in the log");
    }
    assert!(!logged.contains("panicked"), "{logged}");
}
