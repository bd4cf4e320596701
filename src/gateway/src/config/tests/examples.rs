//! The example configs.

use super::*;

#[test]
fn the_minimal_config_loads() {
    let (config, warnings) = load(include_str!("../../../../../conf/minimal.yaml")).unwrap();
    assert_eq!(lines(&warnings), "");
    assert_eq!(&*only(&config, "gpt-4o").litellm_model, "openai/gpt-4o");
}

#[test]
fn the_full_config_loads_without_a_warning() {
    let (config, warnings) = load(include_str!("../../../../../conf/full.yaml"))
        .unwrap_or_else(|mistakes| panic!("{}", lines(&mistakes)));
    assert_eq!(lines(&warnings), "");
    assert_eq!(config.directory.resolve("gpt-4").unwrap().deployments.len(), 2);
}

/// LiteLLM drops these models silently, because Anthropic has retired them.
#[test]
fn the_litellm_config_loads_with_its_retired_models_priced() {
    let (config, warnings) = load(include_str!("../../../../../conf/litellm.yaml"))
        .unwrap_or_else(|mistakes| panic!("{}", lines(&mistakes)));
    assert_eq!(lines(&warnings), "");
    for (name, provider, model) in [
        ("gpt-4o-mini", "anthropic", "claude-3-5-sonnet-20241022"),
        ("gpt-4o", "anthropic", "claude-3-opus-20240229"),
        ("text-embedding-3-small", "openai", "text-embedding-3-small"),
    ] {
        let deployment = only(&config, name);
        assert_eq!((deployment.provider, &*deployment.model), (provider, model));
        assert!(!deployment.price.as_ref().unwrap().is_free(), "{name}");
    }
}

#[test]
fn the_full_config_documents_every_key() {
    let text = include_str!("../../../../../conf/full.yaml");
    // Commented out in there for want of files; any will do.
    let exe = std::env::current_exe().unwrap().display().to_string();
    let tls = text.replace("  # tls:", "  tls:").replace("/etc/tollway/cert.pem", &exe);
    config(&tls.replace("/etc/tollway/key.pem", &exe));
    let missing: Vec<_> = reader::ASKED
        .with_borrow(|asked| asked.iter().filter(|key| !text.contains(**key)).copied().collect());
    assert_eq!(missing, [""; 0], "full.yaml does not have these keys");
}
