//! The official SDKs of OpenAI (Python and Node), Anthropic and Google against the gateway, in front
//! of a provider nobody here wrote: aimock. The cases are in `tests/sdk/`; here they are run, once for each way in which the
//! gateway calls its upstream.

use tollway_tests::gateway::{MASTER_KEY, repository};
use tollway_tests::suites::{self, aimock};
use tollway_tests::{Gateway, Options};

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

    /// Its file in `tests/sdk`.
    fn suite(&self) -> &'static str {
        match self {
            Sdk::Python => "openai_suite.py",
            Sdk::Node => "openai_suite.mjs",
            Sdk::Anthropic => "anthropic_suite.py",
            Sdk::Google => "google_suite.py",
        }
    }
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
    let secrets = ["ferryman", "Two coins", "Eastgate", MASTER_KEY, "canary", "sk-stranger"];
    let env = [("TOLLWAY_KEY", MASTER_KEY), ("AIMOCK_URL", &url), ("SIDE", side)];
    suites::all_cases_pass(sdk.suite(), sdk.cases(), &gateway, &env, &secrets).await;
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
