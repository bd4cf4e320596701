//! The official SDKs of OpenAI (Python and Node), Anthropic and Google against the gateway, in front
//! of a provider nobody here wrote: aimock. The cases are in `tests/sdk/`; here they are run, once for each way in which the
//! gateway calls its upstream.

use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;
use tollway_tests::gateway::{MASTER_KEY, repository};
use tollway_tests::servers::{Server, start, tools};
use tollway_tests::{Gateway, Options};

/// How long a suite may take. Two of them, two gateways and a compiler may share one core.
const SUITE_PATIENCE: Duration = Duration::from_secs(300);

/// No retries, because each error is to be seen, and no rest for a deployment that has failed.
const MORE: &str = "
  - model_name: demo
    litellm_params: { model: demo/chat }
router_settings: { num_retries: 0, disable_cooldowns: true }
general_settings: { master_key: $MASTER }
";

/// Everything is asked for in OpenAI's dialect.
const OPENAI: &str = "
model_list:
  - model_name: gpt-4o-mini
    litellm_params: { model: openai/gpt-4o-mini, api_key: \"os.environ/OPENAI_API_KEY\" }
  - model_name: gpt-4o
    litellm_params: { model: openai/gpt-4o, api_key: \"os.environ/OPENAI_API_KEY\" }
  - model_name: text-embedding-3-small
    litellm_params: { model: openai/text-embedding-3-small, api_key: \"os.environ/OPENAI_API_KEY\" }
";

/// Everything is asked for in Google's dialect.
const GEMINI: &str = "
model_list:
  - model_name: gpt-4o-mini
    litellm_params: { model: gemini/gemini-2.5-flash, api_key: \"os.environ/GEMINI_API_KEY\" }
";

/// The config people bring from LiteLLM, as it stands in `conf/`: OpenAI's names, Anthropic's
/// models.
fn litellms() -> String {
    std::fs::read_to_string(repository().join("conf/litellm.yaml")).expect("conf/litellm.yaml")
}

/// What kind of language a suite is written in.
enum Sdk {
    Python,
    Node,
    Anthropic,
    Google,
}

impl Sdk {
    /// How many cases a suite has at least.
    fn cases(&self) -> usize {
        match self {
            Sdk::Python | Sdk::Node => 30,
            Sdk::Anthropic | Sdk::Google => 10,
        }
    }

    /// The command that runs the suite, without anything of the test's environment that could
    /// lead it elsewhere.
    fn command(&self) -> Command {
        let suites = repository().join("tests/sdk");
        let (program, suite) = match self {
            Sdk::Python => (tools().join("python/bin/python"), "openai_suite.py"),
            Sdk::Node => ("node".into(), "openai_suite.mjs"),
            Sdk::Anthropic => (tools().join("python/bin/python"), "anthropic_suite.py"),
            Sdk::Google => (tools().join("python/bin/python"), "google_suite.py"),
        };
        let mut command = Command::new(program);
        command.arg(suites.join(suite)).env_clear().env("PYTHONDONTWRITEBYTECODE", "1");
        if let Some(path) = std::env::var_os("PATH") {
            command.env("PATH", path);
        }
        command
    }
}

/// Starts aimock; its URL.
async fn aimock() -> (Server, String) {
    tools();
    let mut command = Command::new("node");
    command.arg(repository().join("tests/sdk/aimock.mjs"));
    let server = start(command, |line| line.starts_with("READY ")).await;
    let url = server.ready.trim_start_matches("READY ").to_owned();
    (server, url)
}

/// Points every deployment of a config at a test upstream.
fn at(config: &str, url: &str) -> String {
    let mut config = config.to_owned();
    for (provider, path) in [("OPENAI", "/v1"), ("ANTHROPIC", ""), ("GEMINI", "")] {
        let key = format!("api_key: \"os.environ/{provider}_API_KEY\"");
        config = config.replace(&key, &format!("{key}, api_base: {url}{path}"));
    }
    assert!(config.contains(url), "no deployment to point elsewhere in:\n{config}");
    config + &MORE.replace("$MASTER", MASTER_KEY)
}

/// Runs every case of a suite, and demands that all of them pass.
async fn all_cases_pass(sdk: Sdk, side: &str, config: &str) {
    let (_aimock, url) = aimock().await;
    let env = [
        ("OPENAI_API_KEY", "sk-openai-canary"),
        ("ANTHROPIC_API_KEY", "sk-ant-canary"),
        ("GEMINI_API_KEY", "AIza-canary"),
    ];
    let gateway = Gateway::start_with(Options {
        config: Some(at(config, &url)),
        env: env.map(|(name, value)| (name.into(), value.into())).into(),
        ..Options::default()
    })
    .await;
    let least = sdk.cases();
    let suite = sdk
        .command()
        .env("TOLLWAY_URL", format!("http://{}", gateway.address))
        .env("TOLLWAY_KEY", MASTER_KEY)
        .env("AIMOCK_URL", url)
        .env("SIDE", side)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(SUITE_PATIENCE, suite)
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
    for secret in ["ferryman", "Two coins", "Eastgate", MASTER_KEY, "canary", "sk-stranger"] {
        assert!(!logged.contains(secret), "{secret} is in the log");
    }
    assert!(!logged.contains("panicked"), "{logged}");
}

#[tokio::test]
async fn python_sdk_is_served_by_an_openai_provider() {
    all_cases_pass(Sdk::Python, "openai", OPENAI).await;
}

#[tokio::test]
async fn node_sdk_is_served_by_an_openai_provider() {
    all_cases_pass(Sdk::Node, "openai", OPENAI).await;
}

#[tokio::test]
async fn python_sdk_is_served_by_anthropic_under_openais_names() {
    all_cases_pass(Sdk::Python, "anthropic", &litellms()).await;
}

#[tokio::test]
async fn node_sdk_is_served_by_anthropic_under_openais_names() {
    all_cases_pass(Sdk::Node, "anthropic", &litellms()).await;
}

#[tokio::test]
async fn anthropics_sdk_is_served_by_openai() {
    all_cases_pass(Sdk::Anthropic, "openai", OPENAI).await;
}

#[tokio::test]
async fn anthropics_sdk_is_served_by_anthropic() {
    all_cases_pass(Sdk::Anthropic, "anthropic", &litellms()).await;
}

#[tokio::test]
async fn anthropics_sdk_is_served_by_gemini() {
    all_cases_pass(Sdk::Anthropic, "gemini", GEMINI).await;
}

#[tokio::test]
async fn googles_sdk_is_served_by_openai() {
    all_cases_pass(Sdk::Google, "openai", OPENAI).await;
}

#[tokio::test]
async fn googles_sdk_is_served_by_anthropic() {
    all_cases_pass(Sdk::Google, "anthropic", &litellms()).await;
}

#[tokio::test]
async fn googles_sdk_is_served_by_gemini() {
    all_cases_pass(Sdk::Google, "gemini", GEMINI).await;
}
