//! What is served without a file.

use super::*;

fn served(variables: &[(&'static str, &'static str)]) -> Config {
    let environment = variables.iter().copied().collect();
    let file = FileConfig::of_environment(environment);
    Config::resolve(file, FILTERS, "http://127.0.0.1:9/v1")
        .unwrap_or_else(|m| panic!("{}", lines(&m)))
        .0
}

#[test]
fn the_simulated_provider_is_served_with_no_key_at_all() {
    let config = served(&[]);
    for (name, model) in [("demo/chat", "chat"), ("demo/think", "think"), ("demo/other", "other")] {
        let deployment = only(&config, name);
        assert_eq!((deployment.provider, &*deployment.model), ("demo", model));
        assert!(deployment.price.as_ref().unwrap().is_free());
        assert_eq!(&*deployment.api_base, "http://127.0.0.1:9/v1");
    }
    assert!(config.directory.resolve("gpt-4o").is_none());
    assert!(!config.has_master_key());
}

#[test]
fn providers_that_need_settings_and_no_key_are_served() {
    let serves = |variables: &[(&'static str, &'static str)], name: &str| {
        served(variables).directory.resolve(name).is_some()
    };
    let claude = "bedrock/anthropic.claude-3-5-sonnet-20241022-v2:0";
    let keys = [("AWS_ACCESS_KEY_ID", "AKIA0"), ("AWS_SECRET_ACCESS_KEY", "secret")];
    let region = ("AWS_REGION", "eu-central-1");
    assert!(serves(&[keys[0], keys[1], region], claude));
    assert!(serves(&[("AWS_BEARER_TOKEN_BEDROCK", "token"), region], claude));
    assert!(!serves(&[keys[0], region], claude));
    assert!(!serves(&[region], claude));
    let gemini = "vertex_ai/gemini-2.5-pro";
    let project = ("GOOGLE_CLOUD_PROJECT", "p");
    let user =
        r#"{"type":"authorized_user","client_id":"c","client_secret":"s","refresh_token":"r"}"#;
    assert!(serves(&[("VERTEX_CREDENTIALS", user), project], gemini));
    assert!(!serves(&[project], gemini));
    assert!(!serves(&[("GOOGLE_APPLICATION_CREDENTIALS", "/nowhere.json"), project], gemini));
}

#[test]
fn every_provider_with_a_key_is_served() {
    let config =
        served(&[("OPENAI_API_KEY", "sk-o"), ("ANTHROPIC_API_KEY", "sk-a"), ("GROQ_API_KEY", "g")]);
    for name in ["openai/gpt-4o", "anthropic/claude-3-opus-20240229", "groq/anything", "gpt-4o"] {
        assert!(config.directory.resolve(name).is_some(), "{name}");
    }
    let wild: Vec<_> = config
        .directory
        .groups()
        .iter()
        .map(|g| g.name.to_string())
        .filter(|n| n.ends_with("/*"))
        .collect();
    assert_eq!(wild, ["openai/*", "groq/*", "anthropic/*", "demo/*"]);
    assert!(config.summary().contains("openai/*"), "{}", config.summary());
}
