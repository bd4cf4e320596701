//! The example configs in `conf/`: each of them starts a gateway that serves what it says.

use std::collections::BTreeSet;

use tollway_tests::examples::examples;
use tollway_tests::gateway::MASTER_KEY;
use tollway_tests::{Gateway, Options, get};

#[tokio::test]
async fn every_example_config_starts_a_gateway() {
    let examples = examples();
    assert!(examples.len() >= 3, "conf/ has a minimal one, a full one and LiteLLM's");
    for example in examples {
        let mut env = example.environment();
        // The full one names a variable for it, the others leave it to the environment.
        env.retain(|(name, _)| name != "LITELLM_MASTER_KEY");
        env.push(("LITELLM_MASTER_KEY".into(), MASTER_KEY.into()));
        let config = Some(example.text.clone());
        let gateway = Gateway::start_with(Options { config, env, ..Options::default() }).await;

        let ready = get(gateway.address, "/health/readiness", &[]).await;
        assert_eq!(ready.status, 200, "{}: {}", example.name, ready.text());
        let listed = get(gateway.address, "/v1/models", &[]).await;
        assert_eq!(listed.status, 200, "{}: {}", example.name, listed.text());
        let listed = listed.json();
        let ids: BTreeSet<&str> = listed["data"]
            .as_array()
            .expect("a list")
            .iter()
            .filter_map(|model| model["id"].as_str())
            .collect();
        for name in example.models() {
            assert!(ids.contains(name), "{}: {name} is not served, but {ids:?}", example.name);
        }
    }
}
