//! Models whose names have a star.

use super::*;

fn config_of(name: &str, model: &str) -> Config {
    config(&format!(
        "model_list:\n- {{model_name: '{name}', litellm_params: {{model: '{model}'}}}}\n"
    ))
}

#[track_caller]
fn check(name: &str, model: &str, asked: &str, expect: Option<&str>) {
    let config = config_of(name, model);
    let group = config.directory.resolve(asked);
    let found = group.as_ref().map(|group| &*group.deployments[0].litellm_model);
    assert_eq!(found, expect);
}

#[test]
fn what_the_star_stands_for_is_put_into_the_model() {
    check("openai/*", "openai/*", "openai/gpt-4o", Some("openai/gpt-4o"));
    check("*", "openai/*", "gpt-4o", Some("openai/gpt-4o"));
    check("my-*", "openai/gpt-*", "my-4o", Some("openai/gpt-4o"));
    check("a::*::*", "openai/*/x/*", "a::b::c", Some("openai/b/x/c"));
    check("team/*", "openai/gpt-4o", "team/anything", Some("openai/gpt-4o"));
    check("openai/*", "openai/*", "anthropic/claude", None);
    check("openai/*", "openai/*", "openai/", None);
    check("openai/*", "openai/*", "openai/a*", None);
    check("openai/*", "openai/*", "openai/a\nb", None);
}

#[test]
fn a_bare_name_is_found_under_its_providers_wildcard() {
    check("openai/*", "openai/*", "gpt-4o", Some("openai/gpt-4o"));
    check("anthropic/*", "anthropic/*", "gpt-4o", None);
}

#[test]
fn a_bare_star_leads_to_the_provider_of_the_name() {
    for (asked, expect) in [
        ("gpt-4o", Some("openai/gpt-4o")),
        ("openai/gpt-4o", Some("openai/gpt-4o")),
        ("claude-3-opus-20240229", Some("anthropic/claude-3-opus-20240229")),
        ("groq/x", None),
        ("my-model", None),
    ] {
        check("*", "*", asked, expect);
    }
}

#[test]
fn prices_under_a_wildcard_are_the_tables_or_unknown() {
    let config = config_of("openai/*", "openai/*");
    assert!(only(&config, "openai/gpt-4o").price.is_some());
    assert_eq!(only(&config, "openai/gpt-4o").max_output_tokens, Some(16_384));
    assert!(only(&config, "openai/unheard-of").price.is_none());
    let config = config_of("ollama/*", "ollama/*");
    assert!(only(&config, "ollama/unheard-of").price.as_ref().unwrap().is_free());
}

#[test]
fn the_more_specific_name_wins() {
    let config = config(
        "model_list:\n\
             - {model_name: '*', litellm_params: {model: 'openai/*'}}\n\
             - {model_name: 'claude-*', litellm_params: {model: 'anthropic/claude-*'}}\n\
             - {model_name: claude-x, litellm_params: {model: openai/gpt-4o}}\n",
    );
    let provider = |name: &str| config.directory.resolve(name).unwrap().deployments[0].provider;
    assert_eq!(provider("claude-3-opus-20240229"), "anthropic");
    assert_eq!(provider("gpt-4o"), "openai");
    assert_eq!(provider("claude-x"), "openai");
}

#[test]
fn names_that_clients_invent_do_not_grow_memory() {
    let config = config_of("openai/*", "openai/*");
    for n in 0..10_000 {
        assert!(config.directory.resolve(&format!("openai/{n}")).is_some());
    }
    assert!(config.directory.made() <= 4096);
    assert!(config.directory.resolve(&format!("openai/{}", "x".repeat(300))).is_none());
}

#[test]
fn a_star_that_nothing_can_replace_is_a_mistake() {
    let of = |name: &str, model: &str| {
        format!("model_list:\n- {{model_name: '{name}', litellm_params: {{model: '{model}'}}}}\n")
    };
    mistakes(&of("m", "openai/*"), &["has more `*` than model_name"]);
    mistakes(&of("a*", "openai/*/*"), &["has more `*` than model_name"]);
    mistakes(&of("m", "*"), &["model_name must have a `*` as well"]);
}

#[test]
fn wildcards_are_listed_by_their_pattern_and_have_fallbacks() {
    let config = config(
        "model_list:\n\
             - {model_name: 'openai/*', litellm_params: {model: 'openai/*'}}\n\
             - {model_name: small, litellm_params: {model: openai/gpt-4o-mini}}\n\
             router_settings: {fallbacks: [{'openai/*': [small]}]}\n",
    );
    let listed: Vec<_> = config.directory.groups().iter().map(|g| g.name.to_string()).collect();
    assert_eq!(listed, ["openai/*", "small"]);
    assert_eq!(&*config.directory.resolve("openai/gpt-4o").unwrap().fallbacks[0], "small");
}
