//! Deployments of one name, aliases and fallbacks.

use super::*;

fn two(first: &str, second: &str) -> String {
    format!(
        "model_list:\n- model_name: m\n  litellm_params: {{model: openai/gpt-4o{first}}}\n\
             - model_name: m\n  litellm_params: {{model: openai/gpt-4o-mini{second}}}\n"
    )
}

#[track_caller]
fn weights(first: &str, second: &str, expect: [u32; 2]) {
    let config = config(&two(first, second));
    let group = config.directory.resolve("m").unwrap();
    let weights: Vec<_> = group.deployments.iter().map(|d| d.weight).collect();
    assert_eq!(weights, expect);
}

#[test]
fn deployments_of_one_name_are_one_group_with_weights() {
    weights("", "", [1, 1]);
    weights(", weight: 3", ", weight: 1", [3, 1]);
    weights(", weight: 0.75", ", weight: 0.25", [3, 1]);
    weights(", weight: 2", "", [2, 1]);
    weights(", weight: 0", ", weight: 5", [0, 1]);
    weights(", rpm: 600", ", rpm: 200", [3, 1]);
    weights(", tpm: 1000", ", tpm: 3000", [1, 3]);
    weights(", rpm: 600", ", tpm: 200", [1, 1]);
}

#[test]
fn limits_of_a_deployment_are_kept() {
    let config = config(&with_params("model: openai/gpt-4o, rpm: env:LIMIT, tpm: 1e5"));
    let expect = RateLimits { rpm: Some(7), tpm: Some(100_000), max_parallel_requests: None };
    assert_eq!(only(&config, "m").limits, expect);
}

#[test]
fn ids_are_made_of_the_entry_and_are_its_own() {
    let config = config(&two("", ""));
    let again = super::config(&two("", ""));
    let ids = |config: &Config| config.entries.iter().map(|e| e.id.to_string()).collect::<Vec<_>>();
    assert_eq!(ids(&config), ids(&again));
    assert_ne!(ids(&config)[0], ids(&config)[1]);
    assert!(KeyHash::from_hex(&ids(&config)[0]).is_some());

    let other = [("OPENAI_API_KEY", "sk-other")].into_iter().collect::<Environment>();
    let (changed, _) = load_with(&two("", ""), other).unwrap();
    assert_ne!(ids(&changed), ids(&config));
}

#[test]
fn the_same_entry_twice_gets_two_ids_and_a_given_id_only_one() {
    let text = with_params("model: openai/gpt-4o");
    let twice = format!("{text}{}", text.trim_start_matches("model_list:\n"));
    let config = config(&twice);
    assert_ne!(config.entries[0].id, config.entries[1].id);

    let entry =
        "- model_name: m\n  litellm_params: {model: openai/gpt-4o}\n  model_info: {id: x}\n";
    mistakes(
        &format!("model_list:\n{entry}{entry}"),
        &["config.yaml:7: model_list[1].model_info.id: belongs to another entry"],
    );
}

#[test]
fn aliases_lead_to_their_model_and_are_listed_unless_hidden() {
    let config = config(&with_model(
        "router_settings:\n  model_group_alias: {gpt-4: gpt-4o, old: {model: gpt-4o, hidden: true}}\n",
    ));
    for alias in ["gpt-4", "old"] {
        assert_eq!(&*config.directory.resolve(alias).unwrap().name, "gpt-4o");
    }
    let listed: Vec<_> = config.directory.groups().iter().map(|g| g.name.to_string()).collect();
    assert_eq!(listed, ["gpt-4o", "gpt-4"]);
}

#[test]
fn fallbacks_are_their_own_or_the_default_ones() {
    let text = "model_list:\n\
            - {model_name: a, litellm_params: {model: openai/gpt-4o}}\n\
            - {model_name: b, litellm_params: {model: openai/gpt-4o}}\n\
            - {model_name: c, litellm_params: {model: openai/gpt-4o}}\n\
            litellm_settings: {fallbacks: [{b: [c]}], default_fallbacks: [c]}\n\
            router_settings: {fallbacks: [{a: [b, c]}]}\n";
    let config = config(text);
    let fallbacks = |name: &str| {
        let group = config.directory.resolve(name).unwrap();
        group.fallbacks.iter().map(|f| f.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(fallbacks("a"), ["b", "c"]);
    assert_eq!(fallbacks("b"), ["c"]);
    assert_eq!(fallbacks("c"), [""; 0]);
}

#[test]
fn names_that_nothing_serves_are_mistakes() {
    mistakes(
        &with_model(
            "router_settings:\n  model_group_alias: {x: gpt-4}\n  fallbacks:\n  - gpt-4o: [gpt4o]\n  \
                 - nope: [gpt-4o]\n  - gpt-4o: [gpt-4o]\n  default_fallbacks: [y]\n",
        ),
        &[
            "config.yaml:5: router_settings.model_group_alias.x: there is no model `gpt-4`; did you mean `gpt-4o`?",
            "fallbacks[0].gpt-4o[0]: there is no model `gpt4o`; did you mean `gpt-4o`?",
            "fallbacks[1].nope: there is no model `nope`",
            "fallbacks[2].gpt-4o: the fallbacks of `gpt-4o` are given twice",
            "default_fallbacks[0]: there is no model `y`",
        ],
    );
    mistakes(
        &with_model("router_settings: {fallbacks: [{gpt-4o: [gpt-4o]}]}\n"),
        &["`gpt-4o` cannot fall back to itself"],
    );
}

#[test]
fn nothing_to_serve_is_a_mistake() {
    mistakes("", &["model_list: is missing or empty"]);
    mistakes("model_list: []", &["model_list: is missing or empty"]);
    mistakes("- a", &["config.yaml: must be a mapping, not a list"]);
}
