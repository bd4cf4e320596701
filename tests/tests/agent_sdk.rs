//! OpenAI's official SDKs with agents as their models. The cases are in `tests/sdk/agents_suite.*`; the
//! agents' model is aimock, whose tool calls are scripted in `tests/sdk/fixtures.json`.

use tollway_tests::agents::{ANN, BOB};
use tollway_tests::mcp::{Fake, connected};
use tollway_tests::suites::{aimock, all_cases_pass};
use tollway_tests::{Gateway, Options};

/// How many cases a suite has at least.
const CASES: usize = 20;

/// One agent that does as it is told, and one whose calculator has to be approved.
const CONFIG: &str = "
model_list:
  - model_name: gpt-4o-mini
    litellm_params: { model: openai/gpt-4o-mini, api_key: sk-openai-canary, api_base: $URL/v1 }
keys:
  - { alias: ann, key: $ANN, user: ann, metadata: { tools: [calculator, mcp.harbour] } }
  - { alias: bob, key: $BOB, user: bob }
agents:
  - { name: reckoner, model: gpt-4o-mini, instructions: You reckon at the ferry., tools: ['*'] }
  - { name: careful, model: gpt-4o-mini, tools: ['*'], approval: { always: [calculator] } }
general_settings: { master_key: $MASTER }
router_settings: { num_retries: 0, disable_cooldowns: true }
mcp_servers:
";

async fn agents_serve(suite: &str) {
    let (_aimock, url) = aimock().await;
    let fake = Fake::program();
    let config = CONFIG
        .replace("$URL", &url)
        .replace("$ANN", ANN)
        .replace("$BOB", BOB)
        .replace("$MASTER", tollway_tests::gateway::MASTER_KEY);
    let options =
        Options { config: Some(config + &fake.entry("harbour", "")), ..Options::default() };
    let gateway = Gateway::start_with(options).await;
    connected(&gateway, "harbour").await;
    let env = [("TOLLWAY_KEY", ANN), ("OTHER_KEY", BOB), ("AIMOCK_URL", &url), ("SIDE", "openai")];
    let secrets = ["six times seven", "forty-two", "ahoy", "Eastgate", ANN, BOB, "canary"];
    all_cases_pass(suite, CASES, &gateway, &env, &secrets).await;
    // What was approved was done, and nothing else of what had to be.
    let echoed = gateway.metric("tollway_tool_calls_total", &["tool=\"mcp.harbour.echo\""]).await;
    assert!(echoed >= 1.0, "{echoed}");
}

#[tokio::test]
async fn python_sdk_drives_agents() {
    agents_serve("agents_suite.py").await;
}

#[tokio::test]
async fn node_sdk_drives_agents() {
    agents_serve("agents_suite.mjs").await;
}
