//! Keys, and the master key.

use super::*;

#[test]
fn a_key_is_found_by_its_hash_with_all_that_was_said_of_it() {
    let config = config(&with_model(
        "keys:\n- alias: ci\n  key: env:CI_KEY\n  models: [gpt-4o]\n  rpm: 60\n  tpm: 1000\n  \
             max_parallel_requests: 2\n  model_rpm_limit: {gpt-4o: 5}\n  user: u\n  team: t\n  \
             metadata: {n: 1, s: x}\n  blocked: true\n  expires: 2030-01-01\n  aliases: {a: gpt-4o}\n",
    ));
    let key = config.keys.find(&keys::hash(&"sk-ci-secret".to_owned().into())).unwrap();
    assert_eq!(
        (key.alias.as_deref(), key.user.as_deref(), key.team.as_deref()),
        (Some("ci"), Some("u"), Some("t"))
    );
    let expect = RateLimits { rpm: Some(60), tpm: Some(1000), max_parallel_requests: Some(2) };
    assert_eq!(key.settings.limits, expect);
    assert_eq!(key.settings.model_limits["gpt-4o"].rpm, Some(5));
    assert_eq!(serde_json::Value::from(key.settings.metadata.clone()), json!({"n": 1, "s": "x"}));
    assert!(key.blocked && !key.master);
    assert_eq!(key.expires, Some(Duration::from_secs(1_893_456_000)));
    assert_eq!(key.settings.aliases["a"], "gpt-4o");
}

#[test]
fn a_key_may_be_given_by_its_hash() {
    let hex = keys::hash(&"sk-x".to_owned().into()).hex();
    for name in ["key_hash", "sha256"] {
        let config = config(&with_model(&format!("keys: [{{{name}: {hex}}}]\n")));
        assert!(config.keys.find(&KeyHash::from_hex(&hex).unwrap()).is_some());
    }
}

#[test]
fn keys_that_are_wrong_are_mistakes() {
    mistakes(
        &with_model(
            "keys:\n- alias: a\n- {alias: a, key_hash: xyz}\n- {key: sk-1, key_hash: xyz}\n\
                 - {key: sk-2, models: [gpt-4p]}\n- {key: sk-2}\n- {key: sk-master-secret}\n\
                 - {key: sk-3, expires: 30d, rpm: 0, aliases: {x: y}, model_tpm_limit: {z: 1}}\n",
        ),
        &[
            "keys[0].key: is missing",
            "keys[1].key_hash: must be the SHA-256 of a key",
            "keys[1].alias: another key has this alias",
            "keys[2].key_hash: must be the SHA-256 of a key",
            "keys[3].models[0]: there is no model or access group `gpt-4p`; did you mean `gpt-4o`?",
            "keys[4].key: this key is there already",
            "keys[5].key: this key is there already",
            "keys[6].rpm: must be a whole number above 0",
            "keys[6].expires: must be a date",
            "keys[6].aliases.x: there is no model `y`",
            "keys[6].model_tpm_limit.z: there is no model `z`",
        ],
    );
}

#[test]
fn keys_may_name_access_groups_and_prefixes() {
    let text = "model_list:\n\
            - {model_name: a, litellm_params: {model: openai/gpt-4o}, model_info: {access_groups: [beta]}}\n\
            - {model_name: 'openai/*', litellm_params: {model: 'openai/*'}}\n\
            keys: [{key: sk-1, models: [a, beta, 'openai/*', 'openai/gpt-4o', 'openai/gpt-*', '*', all-proxy-models]}]\n";
    config(text);
    mistakes(
        &with_model("keys: [{key: sk-1, models: ['anthropic/*', 'gpt-*']}]\n"),
        &["there is no model or access group `anthropic/*`"],
    );
}

#[test]
fn the_master_key_is_the_configs_or_the_environments() {
    let check = |more: &str, environment: Environment, expect: Option<&str>| {
        let (config, _) = load_with(&with_model(more), environment).unwrap();
        let hash = config.keys.iter().find(|key| key.master).map(|key| key.hash);
        assert_eq!(hash, expect.map(|key| keys::hash(&key.to_owned().into())));
        assert_eq!(config.has_master_key(), expect.is_some());
    };
    let key = ("OPENAI_API_KEY", "sk-x");
    let bare = || [key].into_iter().collect::<Environment>();
    check("general_settings: {master_key: sk-a}\n", environment(), Some("sk-a"));
    check("", environment(), Some("sk-master-secret"));
    check("", bare(), None);
    let both = [key, ("TOLLWAY_MASTER_KEY", "sk-t"), ("LITELLM_MASTER_KEY", "sk-l")];
    check("", both.into_iter().collect(), Some("sk-t"));
    mistakes(&with_model("general_settings: {master_key: ''}\n"), &["master_key: is empty"]);
}

#[test]
fn a_master_key_may_be_set_later() {
    let environment = [("OPENAI_API_KEY", "sk-x")].into_iter().collect();
    let (mut config, _) = load_with(&with_model(""), environment).unwrap();
    let key = "sk-made".to_owned().into();
    config.set_master_key(&key);
    assert!(config.keys.find(&keys::hash(&key)).unwrap().master);
}
