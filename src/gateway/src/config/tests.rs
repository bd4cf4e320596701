//! From a file's text to a config or its mistakes.

use proptest::prelude::*;
use secrecy::ExposeSecret;
use serde_json::json;
use tollway_filter_api::identity::KeyStore;
use tollway_filter_api::limits::RateLimits;
use tollway_filter_api::{KeyHash, ModelDirectory};

use super::mistake::Warning;
use super::*;

const FILTERS: &[&str] = &[
    "request_log",
    "usage",
    "cors",
    "auth",
    "validate",
    "model_alias",
    "budget",
    "rate_limit",
    "response_cache",
];

fn environment() -> Environment {
    [
        ("OPENAI_API_KEY", "sk-openai-secret"),
        ("AZURE_API_KEY", "azure-secret-1234"),
        ("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE"),
        ("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMI/K7MDENG"),
        ("ANTHROPIC_API_KEY", "sk-ant-secret"),
        ("LITELLM_MASTER_KEY", "sk-master-secret"),
        ("CI_KEY", "sk-ci-secret"),
        ("LIMIT", "7"),
    ]
    .into_iter()
    .collect()
}

fn load(text: &str) -> Result<(Config, Vec<Warning>), Vec<Mistake>> {
    load_with(text, environment())
}

fn load_with(text: &str, environment: Environment) -> Result<(Config, Vec<Warning>), Vec<Mistake>> {
    let file = FileConfig::read("config.yaml", text, environment);
    Config::resolve(file, FILTERS, "http://127.0.0.1:9/v1")
}

#[track_caller]
fn config(text: &str) -> Config {
    match load(text) {
        Ok((config, _)) => config,
        Err(mistakes) => panic!("{}", lines(&mistakes)),
    }
}

fn lines<T: ToString>(list: &[T]) -> String {
    list.iter().map(T::to_string).collect::<Vec<_>>().join("\n")
}

/// The file has these mistakes, in this order, and no others.
#[track_caller]
fn mistakes(text: &str, expect: &[&str]) {
    let found = load(text).map(|_| ()).expect_err("no mistake was found");
    let found: Vec<_> = found.iter().map(Mistake::to_string).collect();
    let all = found.join("\n");
    assert_eq!(found.len(), expect.len(), "{all}");
    for (found, expect) in found.iter().zip(expect) {
        assert!(found.contains(expect), "{expect:?} is not in\n{all}");
    }
}

#[track_caller]
fn warnings(text: &str, expect: &[&str]) {
    let (_, found) = load(text).unwrap_or_else(|mistakes| panic!("{}", lines(&mistakes)));
    let all = lines(&found);
    assert_eq!(found.len(), expect.len(), "{all}");
    for (found, expect) in found.iter().zip(expect) {
        assert!(found.to_string().contains(expect), "{expect:?} is not in\n{all}");
    }
}

/// A file with one good model, and more.
fn with_model(more: &str) -> String {
    format!("model_list:\n- model_name: gpt-4o\n  litellm_params: {{model: openai/gpt-4o}}\n{more}")
}

/// A file with one model of these `litellm_params`.
fn with_params(params: &str) -> String {
    format!("model_list:\n- model_name: m\n  litellm_params: {{{params}}}\n")
}

fn only(config: &Config, name: &str) -> Arc<tollway_filter_api::Deployment> {
    let group = config.directory.resolve(name).unwrap_or_else(|| panic!("no {name}"));
    assert_eq!(group.deployments.len(), 1);
    Arc::clone(&group.deployments[0])
}

mod examples {
    use super::*;

    #[test]
    fn the_minimal_config_loads() {
        let (config, warnings) = load(include_str!("../../../../conf/minimal.yaml")).unwrap();
        assert_eq!(lines(&warnings), "");
        assert_eq!(&*only(&config, "gpt-4o").litellm_model, "openai/gpt-4o");
    }

    #[test]
    fn the_full_config_loads_without_a_warning() {
        let (config, warnings) = load(include_str!("../../../../conf/full.yaml"))
            .unwrap_or_else(|mistakes| panic!("{}", lines(&mistakes)));
        assert_eq!(lines(&warnings), "");
        assert_eq!(config.directory.resolve("gpt-4").unwrap().deployments.len(), 2);
    }

    /// What the mission asks for, as it stands; LiteLLM drops these models silently.
    #[test]
    fn the_litellm_config_loads_with_its_retired_models_priced() {
        let (config, warnings) = load(include_str!("../../../../conf/litellm.yaml"))
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
        let text = include_str!("../../../../conf/full.yaml");
        // Commented out in there for want of files; any will do.
        let exe = std::env::current_exe().unwrap().display().to_string();
        let tls = text.replace("  # tls:", "  tls:").replace("/etc/tollway/cert.pem", &exe);
        config(&tls.replace("/etc/tollway/key.pem", &exe));
        let missing: Vec<_> = reader::ASKED.with_borrow(|asked| {
            asked.iter().filter(|key| !text.contains(**key)).copied().collect()
        });
        assert_eq!(missing, [""; 0], "full.yaml does not have these keys");
    }
}

mod alerts {
    use super::*;
    use crate::config::{AlertFormat, AlertKind};

    #[test]
    fn alerts_go_where_the_file_and_the_environment_say() {
        let text = with_model(
            "general_settings:\n  alerting: [slack, webhook]\n  alert_to_webhook_url:\n    \
             budget_alerts: ['https://hooks.example/a/secret?x=1', 'http://127.0.0.1:9/b']\n\
             environment_variables:\n  SLACK_WEBHOOK_URL: https://hooks.example/c\n  \
             WEBHOOK_URL: http://here\n",
        );
        let alerts = config(&text).alerts;
        let told: Vec<_> = alerts.targets.iter().map(|t| (t.format, t.kinds.as_slice())).collect();
        let expect = [
            (AlertFormat::Slack, &[AlertKind::Budget][..]),
            (AlertFormat::Slack, &[AlertKind::Budget]),
            (AlertFormat::Slack, &[AlertKind::Spike]),
            (AlertFormat::Webhook, &[AlertKind::Budget, AlertKind::Spike]),
        ];
        assert_eq!(told, expect);
        let paths: Vec<&str> = alerts
            .targets
            .iter()
            .map(|target| secrecy::ExposeSecret::expose_secret(&target.path))
            .collect();
        assert_eq!(paths, ["/a/secret?x=1", "/b", "/c", "/"]);
        assert!(!format!("{alerts:?}").contains("secret?"), "{alerts:?}");
        assert_eq!(
            (alerts.thresholds, alerts.spike_factor, alerts.spike_days),
            (vec![80, 95], 3, 7)
        );
    }

    #[test]
    fn receivers_that_cannot_be_are_mistakes_that_quote_nothing() {
        mistakes(
            &with_model(
                "general_settings:\n  alerting: [slack, smoke]\n  alert_types: [budget_alert, spend_spikes]\n  \
                 alert_to_webhook_url: {spend_spikes: ['ftp://secret', 'https://user:secret@x/']}\n\
                 alerts: {budget_thresholds: [0, 80, 100], spike_factor: 1, spike_min: -1}\n",
            ),
            &[
                "alerting[1]: must be `slack` or `webhook`",
                "alert_types[0]: there are no such alerts; did you mean `budget_alerts`?",
                "alert_to_webhook_url.spend_spikes[0]: must be a URL that begins with http",
                "alert_to_webhook_url.spend_spikes[1]: must not hold a user",
                "alerts.budget_thresholds[0]: must be a percentage",
                "alerts.budget_thresholds[2]: must be a percentage",
                "alerts.spike_factor: must be a whole number from 2 to 1000",
                "alerts.spike_min: cannot be negative",
            ],
        );
        mistakes(
            &with_model("general_settings: {alerting: [webhook]}\n"),
            &["alerting[0]: needs its URL as WEBHOOK_URL in the environment"],
        );
        warnings(
            &with_model(
                "general_settings:\n  alert_types: [llm_too_slow]\n  \
                 alert_to_webhook_url: {budget_alerts: http://x}\n",
            ),
            &["alert_types[0]: has no effect", "alert_to_webhook_url: has no effect"],
        );
    }
}

mod providers {
    use super::*;

    #[track_caller]
    fn check(params: &str, provider: &str, model: &str) {
        let config = config(&with_params(params));
        let deployment = only(&config, "m");
        assert_eq!((deployment.provider, &*deployment.model), (provider, model));
        assert_eq!(*deployment.litellm_model, format!("{provider}/{model}"));
    }

    #[test]
    fn the_provider_is_told_by_prefix_name_or_custom_llm_provider() {
        check("model: openai/gpt-4o", "openai", "gpt-4o");
        check("model: gpt-4o", "openai", "gpt-4o");
        check("model: claude-3-5-sonnet-20241022", "anthropic", "claude-3-5-sonnet-20241022");
        check("model: gpt-4o, custom_llm_provider: openai", "openai", "gpt-4o");
        check("model: openai/gpt-4o, custom_llm_provider: openai", "openai", "gpt-4o");
        check(
            "model: openrouter/openai/gpt-4o, api_key: sk-x, input_cost_per_token: 1e-6, output_cost_per_token: 1e-6",
            "openrouter",
            "openai/gpt-4o",
        );
        check("model: ollama/some/model", "ollama", "some/model");
        check("model: demo/chat", "demo", "chat");
    }

    #[test]
    fn a_provider_that_cannot_be_told_is_a_mistake_that_says_what_to_write() {
        mistakes(
            &with_params("model: my-model"),
            &["config.yaml:3: model_list[0].litellm_params.model: the provider of `my-model` \
               cannot be told: write `provider/my-model`"],
        );
        mistakes(&with_params("model: opnai/x"), &["did you mean `openai`?"]);
        mistakes(
            &with_params("model: x, custom_llm_provider: anthropc"),
            &["custom_llm_provider: there is no provider `anthropc`; did you mean `anthropic`?"],
        );
        mistakes(&with_params("model: sagemaker/x"), &["`sagemaker` is not supported yet"]);
        mistakes(&with_params("model: openai/"), &["names the provider `openai` and no model"]);
        mistakes(&with_params("rpm: 1"), &["litellm_params.model: is missing"]);
    }

    #[test]
    fn a_key_that_is_needed_and_nowhere_is_a_mistake_that_names_its_variable() {
        mistakes(
            &with_params("model: groq/llama-3.3-70b-versatile"),
            &["litellm_params.api_key: is missing: `groq` needs a key; write one here, or set \
               GROQ_API_KEY in the environment"],
        );
    }

    #[test]
    fn a_variable_that_is_not_set_is_a_mistake_that_names_it_once() {
        mistakes(
            &with_params("model: openai/gpt-4o, api_key: os.environ/NOWHERE"),
            &["config.yaml:3: model_list[0].litellm_params.api_key: the environment variable \
               NOWHERE is not set"],
        );
        mistakes(
            &with_params("model: groq/llama-3.3-70b-versatile, api_key: os.environ/NOWHERE"),
            &["NOWHERE is not set"],
        );
    }

    #[test]
    fn the_environments_key_is_sent_marked_sensitive() {
        let config = config(&with_params("model: openai/gpt-4o"));
        let entry = &config.entries[0];
        let (_, value) = entry.headers.iter().find(|(name, _)| name == "authorization").unwrap();
        assert_eq!(value.to_str().unwrap(), "Bearer sk-openai-secret");
        assert!(value.is_sensitive());
        assert_eq!(entry.secret(), Some("sk-openai-secret"));
    }

    #[test]
    fn a_header_of_the_config_takes_the_place_of_the_providers() {
        let config = config(&with_params(
            "model: groq/llama-3.3-70b-versatile, extra_headers: {authorization: env:CI_KEY, x-a: 1}",
        ));
        let values: Vec<_> = config.entries[0]
            .headers
            .iter()
            .map(|(n, v)| (n.as_str(), v.to_str().unwrap()))
            .collect();
        assert_eq!(values, [("authorization", "sk-ci-secret"), ("x-a", "1")]);
    }

    #[test]
    fn headers_that_frame_a_message_are_refused() {
        for name in ["host", "Content-Length", "transfer-encoding", "connection", "te"] {
            let text = with_params(&format!("model: openai/gpt-4o, extra_headers: {{{name}: x}}"));
            mistakes(&text, &["this header is the gateway's own"]);
        }
        mistakes(
            &with_params("model: openai/gpt-4o, extra_headers: {'a b': x, c: \"x\\ny\"}"),
            &[
                "extra_headers: one of its keys is not the name of a header",
                "extra_headers.c: holds what no header can",
            ],
        );
        mistakes(
            &with_params("model: openai/gpt-4o, api_key: \"x\\ny\""),
            &["holds what no header can"],
        );
    }

    #[test]
    fn an_api_base_is_taken_apart() {
        let check = |params: &str, expect: &str| {
            let config = config(&with_params(params));
            assert_eq!(config.entries[0].base.to_string(), expect);
            assert_eq!(&*only(&config, "m").api_base, expect);
        };
        check("model: openai/gpt-4o", "https://api.openai.com/v1");
        check(
            "model: openai/gpt-4o, api_base: 'http://127.0.0.1:8080/v1/'",
            "http://127.0.0.1:8080/v1",
        );
        check("model: openai/gpt-4o, base_url: 'http://x/v1'", "http://x/v1");
        check("model: demo/chat", "http://127.0.0.1:9/v1");
        // What people write by mistake.
        check("model: openai/gpt-4o, api_base: 'http://x/v1/chat/completions'", "http://x/v1");
        check("model: openai/gpt-4o, api_base: 'http://x/v1/embeddings'", "http://x/v1");
        check("model: ollama/llama3, api_base: 'http://x:11434'", "http://x:11434/v1");
    }

    #[test]
    fn an_api_base_that_is_none_is_a_mistake_without_its_text() {
        let text = with_params("model: openai/gpt-4o, api_base: 'https://user:hunter2@x/'");
        mistakes(&text, &["api_base: must not hold a user or password"]);
        mistakes(&with_params("model: openai/gpt-4o, api_base: x"), &["must be a URL"]);
        mistakes(&with_params("model: hosted_vllm/x"), &["api_base: is missing: `hosted_vllm`"]);
    }

    #[test]
    fn the_providers_own_variable_gives_the_base() {
        let mut environment = environment();
        environment.add("OPENAI_BASE_URL".into(), "http://proxy/v1".into());
        let (config, _) = load_with(&with_params("model: openai/gpt-4o"), environment).unwrap();
        assert_eq!(config.entries[0].base.to_string(), "http://proxy/v1");
    }
}

mod prices {
    use tollway_wire::price::{PicoDollars, Tier};

    use super::*;

    #[track_caller]
    fn check(params: &str, input: &str, output: &str) {
        let config = config(&with_params(params));
        let rates = only(&config, "m").price.as_ref().unwrap().rates(Tier::Standard, 0);
        let expect: (PicoDollars, PicoDollars) = (input.parse().unwrap(), output.parse().unwrap());
        assert_eq!((rates.input, rates.output), expect);
    }

    #[test]
    fn prices_are_the_tables_or_the_configs_exactly() {
        check("model: openai/gpt-4o", "0.0000025", "0.00001");
        check(
            "model: openai/mine, input_cost_per_token: 2.5e-06, output_cost_per_token: 0.00001",
            "0.0000025",
            "0.00001",
        );
        check("model: openai/gpt-4o, input_cost_per_token: 1e-6", "0.000001", "0.00001");
        check("model: openai/mine, input_cost_per_token: 0, output_cost_per_token: 0", "0", "0");
        check("model: ollama/anything", "0", "0");
        check("model: demo/anything", "0", "0");
    }

    #[test]
    fn a_whole_price_of_zero_is_free_also_for_a_model_of_the_table() {
        let text =
            with_params("model: openai/gpt-4o, input_cost_per_token: 0, output_cost_per_token: 0");
        assert!(only(&config(&text), "m").price.as_ref().unwrap().is_free());
    }

    #[test]
    fn a_base_model_lends_its_price_and_limits() {
        for base_model in ["gpt-4o", "openai/gpt-4o"] {
            let text = format!(
                "{}  model_info: {{base_model: {base_model}}}\n",
                with_params("model: openai/mine")
            );
            let deployment = only(&config(&text), "m");
            assert!(!deployment.price.as_ref().unwrap().is_free());
            assert_eq!(deployment.max_output_tokens, Some(16_384));
            assert_eq!(&*deployment.model, "mine");
        }
    }

    #[test]
    fn a_model_without_a_price_is_a_mistake_that_names_the_fields() {
        mistakes(
            &with_params("model: openai/mine"),
            &[
                "litellm_params.model: `mine` is not in the price table: set `input_cost_per_token` \
               and `output_cost_per_token` in litellm_params (dollars; 0 declares it free)",
            ],
        );
        mistakes(
            &with_params("model: openai/mine, input_cost_per_token: 0"),
            &["only some of the prices are stated"],
        );
        let text =
            format!("{}  model_info: {{base_model: other}}\n", with_params("model: openai/mine"));
        mistakes(&text, &["`other` is not in the price table"]);
    }

    #[test]
    fn an_embedding_needs_no_price_of_output() {
        let params = with_params("model: openai/mine, input_cost_per_token: 1e-7");
        let config = config(&format!("{params}  model_info: {{mode: embedding}}\n"));
        let group = config.directory.resolve("m").unwrap();
        assert_eq!(group.mode.as_deref(), Some("embedding"));
    }

    #[test]
    fn a_price_that_is_no_number_is_a_mistake() {
        let text =
            with_params("model: openai/gpt-4o, input_cost_per_token: -1, output_cost_per_token: x");
        mistakes(
            &text,
            &[
                "input_cost_per_token: is a price cannot be negative",
                "output_cost_per_token: is not a decimal number",
            ],
        );
    }
}

mod groups {
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
        let ids =
            |config: &Config| config.entries.iter().map(|e| e.id.to_string()).collect::<Vec<_>>();
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
}

mod wildcards {
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
            format!(
                "model_list:\n- {{model_name: '{name}', litellm_params: {{model: '{model}'}}}}\n"
            )
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
}

mod keys_section {
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
        assert_eq!(key.limits, expect);
        assert_eq!(key.model_limits["gpt-4o"].rpm, Some(5));
        assert_eq!(serde_json::Value::from(key.metadata.clone()), json!({"n": 1, "s": "x"}));
        assert!(key.blocked && !key.master);
        assert_eq!(key.expires, Some(Duration::from_secs(1_893_456_000)));
        assert_eq!(key.aliases["a"], "gpt-4o");
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
}

mod sections {
    use super::*;

    #[test]
    fn unknown_keys_are_mistakes_with_a_hint_in_every_section() {
        mistakes(
            "model_lst: []\n\
             model_list:\n- model_name: gpt-4o\n  litellm_params:\n    model: openai/gpt-4o\n    rpmm: 5\n  \
             model_info: {base_modle: x}\n  tags: []\n\
             router_settings: {num_retrys: 1}\nlitellm_settings: {cach: true, cache_params: {tttl: 1}}\n\
             general_settings: {master_kee: x, pass_through_endpoints: [{path: /x, target: 'http://x', tagret: 1}]}\n\
             server: {idle_timout: 5}\nkeys: [{key: sk-1, rmp: 1}]\nlisten: {adress: x, tls: {crt: x}}\n\
             something: else\n",
            &[
                "config.yaml:1: model_lst: unknown key; did you mean `model_list`?",
                "config.yaml:6: model_list[0].litellm_params.rpmm: unknown key; did you mean `rpm`?",
                "config.yaml:7: model_list[0].model_info.base_modle: unknown key; did you mean `base_model`?",
                "config.yaml:8: model_list[0].tags: unknown key",
                "router_settings.num_retrys: unknown key; did you mean `num_retries`?",
                "litellm_settings.cache_params.tttl: unknown key; did you mean `ttl`?",
                "litellm_settings.cach: unknown key; did you mean `cache`?",
                "pass_through_endpoints[0].tagret: unknown key; did you mean `target`?",
                "general_settings.master_kee: unknown key; did you mean `master_key`?",
                "server.idle_timout: unknown key; did you mean `idle_timeout`?",
                "keys[0].rmp: unknown key; did you mean `rpm`?",
                "listen.tls.crt: unknown key; did you mean `cert`?",
                "listen.adress: unknown key; did you mean `address`?",
                "listen.tls.cert: is missing",
                "something: unknown key",
            ],
        );
    }

    #[test]
    fn keys_that_litellm_has_and_we_do_not_are_warnings_that_name_them() {
        warnings(
            "model_list:\n- model_name: gpt-4o\n  litellm_params: {model: openai/gpt-4o, temperature: 0.5}\n  \
             model_info: {supports_vision: true, my_note: x}\n\
             router_settings: {routing_strategy: auto-router, enable_weighted_failover: true, set_verbose: false}\n\
             litellm_settings:\n  callbacks: [prometheus, langfuse]\n  enable_preview_features: true\n  \
             json_logs: true\n  turn_off_message_logging: true\n\
             general_settings: {allowed_ips: [10.0.0.1], alerting_args: {}}\n\
             mcp_servers: {x: {url: y}}\n",
            &[
                "litellm_params.temperature: `temperature` is LiteLLM's and not supported yet: it has no effect",
                "model_info.my_note: nothing reads this yet",
                "model_info.supports_vision: `supports_vision` is LiteLLM's",
                "config.yaml:5: router_settings.routing_strategy: `auto-router` is not supported yet; `simple-shuffle` is used",
                "router_settings.enable_weighted_failover",
                "litellm_settings.callbacks[1]: only `prometheus`",
                "litellm_settings.enable_preview_features",
                "litellm_settings.json_logs",
                "general_settings.allowed_ips: `allowed_ips` is LiteLLM's and not supported yet: what it restricts is NOT",
                "mcp_servers",
            ],
        );
    }

    #[test]
    fn settings_have_their_defaults() {
        let config = config(&with_model(""));
        assert_eq!(config.listen.address.0.to_string(), "127.0.0.1:4000");
        assert_eq!(config.data, PathBuf::from("tollway-data"));
        let server = ServerSettings {
            request_body_bytes_max: 50 << 20,
            request_header_bytes_max: 64 << 10,
            body_memory_bytes_max: 1 << 30,
            body_timeout: Duration::from_secs(30),
            drain_timeout: Duration::from_secs(30),
        };
        assert_eq!(config.server, server);
        let router = RouterSettings {
            num_retries: 2,
            retry_policy: RetryPolicy::default(),
            retry_after: Duration::ZERO,
            allowed_fails: 3,
            cooldown_time: Duration::from_secs(5),
            max_fallbacks: 5,
            strategy: super::super::Strategy::Shuffle,
            pre_call_checks: false,
            tag_filtering: false,
            tag_match_any: true,
            retry_budget: RetryBudget { percent: 20, min_per_second: 10 },
        };
        assert_eq!(config.router, router);
        assert_eq!(config.error_codes, ErrorCodes::OpenAi);
        assert!(config.cache.is_none());
        let entry = &config.entries[0];
        let timeouts =
            (entry.connect_timeout, entry.first_byte_timeout, entry.idle_timeout, entry.timeout);
        let seconds = Duration::from_secs;
        assert_eq!(timeouts, (seconds(10), seconds(300), seconds(120), seconds(600)));
    }

    #[test]
    fn timeouts_are_the_deployments_then_the_routers_then_the_rest() {
        let check = |params: &str, more: &str, expect: (u64, u64)| {
            let config =
                config(&format!("{}{more}", with_params(&format!("model: openai/gpt-4o{params}"))));
            let entry = &config.entries[0];
            let seconds = (entry.timeout.as_secs(), entry.first_byte_timeout.as_secs());
            assert_eq!(seconds, expect);
        };
        check(", timeout: 30, stream_timeout: 5s", "router_settings: {timeout: 20}\n", (30, 5));
        check(
            "",
            "router_settings: {timeout: 20, stream_timeout: 4}\nlitellm_settings: {request_timeout: 10}\n",
            (20, 4),
        );
        check(
            "",
            "litellm_settings: {request_timeout: 10}\nserver: {total_timeout: 1m}\n",
            (10, 300),
        );
        check("", "server: {total_timeout: 1m, first_byte_timeout: 7s}\n", (60, 7));
    }

    #[test]
    fn values_of_the_wrong_kind_are_mistakes() {
        mistakes(
            &with_model(
                "server: {body_timeout: 5 parsecs, idle_timeout: 0, request_body_bytes_max: 1TB}\n\
                 litellm_settings: {drop_params: maybe, cache: [1]}\nrouter_settings: [x]\n\
                 listen: 'nowhere:1'\ncompat: litelm\ndata: ''\n",
            ),
            &[
                "request_body_bytes_max: must be a size",
                "body_timeout: must be a time with its unit",
                "idle_timeout: must be a time with its unit (`500ms`, `30s`, `5m`, `1h`, `2d`, `1w`, `1mo`) or in seconds, more than 0",
                "drop_params: must be true or false",
                "cache: must be true or false, not a list",
                "router_settings: must be a mapping, not a list",
                "listen: must be an address and port",
                "compat: must be `litellm` or `openai`; did you mean `litellm`?",
                "data: is empty",
            ],
        );
    }

    #[test]
    fn a_number_or_flag_may_stand_in_the_environment() {
        let config = config(&with_model("router_settings: {num_retries: os.environ/LIMIT}\n"));
        assert_eq!(config.router.num_retries, 7);
    }

    #[test]
    fn environment_variables_of_the_config_are_seen_by_its_references() {
        let config = config(&with_model(
            "environment_variables: {RETRIES: 4, LIMIT: 9}\n\
             router_settings: {num_retries: os.environ/RETRIES, allowed_fails: os.environ/LIMIT}\n",
        ));
        // The real environment wins.
        assert_eq!((config.router.num_retries, config.router.allowed_fails), (4, 7));
    }

    #[test]
    fn pass_through_endpoints_need_a_key_unless_they_say_otherwise() {
        let config = config(&with_model(
            "general_settings:\n  pass_through_endpoints:\n  \
             - {path: /a/, target: 'https://x/y', headers: {x-key: env:CI_KEY}, methods: [get, POST]}\n  \
             - {path: /b, target: 'http://z', auth: false}\n",
        ));
        let [a, b] = config.pass_through.as_slice() else { panic!() };
        assert_eq!(
            (a.path.as_str(), a.target.to_string().as_str(), a.auth),
            ("/a", "https://x/y", true)
        );
        assert_eq!(a.methods, [Method::GET, Method::POST]);
        assert_eq!(a.headers[0].1.to_str().unwrap(), "sk-ci-secret");
        assert_eq!((b.path.as_str(), b.auth), ("/b", false));
        mistakes(
            &with_model(
                "general_settings:\n  pass_through_endpoints:\n  - {path: a, target: x}\n  \
                 - {path: /, target: 'http://x'}\n  - {path: /b, target: 'http://x', methods: ['a b']}\n  \
                 - {path: /b, target: 'http://x'}\n",
            ),
            &[
                "endpoints[0].target: must be a URL",
                "endpoints[0].path: must be a path",
                "endpoints[1].path: must be a path",
                "endpoints[2].methods: `a b` is no method",
                "endpoints[3].path: another endpoint",
            ],
        );
    }

    #[test]
    fn litellms_codes_are_a_choice() {
        assert_eq!(config(&with_model("compat: litellm\n")).error_codes, ErrorCodes::LiteLlm);
    }

    #[test]
    fn tls_needs_both_files_and_that_they_are_there() {
        mistakes(
            &with_model("listen: {tls: {cert: /no/cert.pem, key: /no/key.pem}}\n"),
            &["tls.cert: there is no file /no/cert.pem", "tls.key: there is no file /no/key.pem"],
        );
    }

    #[test]
    fn yaml_that_is_none_is_one_mistake_with_its_line() {
        let found = load("model_list:\n- a: [\n").map(|_| ()).unwrap_err();
        assert_eq!(found[0].line, Some(3));
        mistakes("a: 1\na: 2\n", &["config.yaml:2: this key stands here twice"]);
    }
}

mod cache_section {
    use super::*;

    fn store(params: &str, more: &[(&'static str, &'static str)]) -> CacheStoreSettings {
        let text =
            with_model(&format!("litellm_settings: {{cache: true, cache_params: {{{params}}}}}\n"));
        let mut environment = environment();
        for (name, value) in more {
            environment.add(name.to_string(), value.to_string());
        }
        let (config, _) = load_with(&text, environment).unwrap_or_else(|m| panic!("{}", lines(&m)));
        config.cache.unwrap().store
    }

    #[track_caller]
    fn redis(params: &str, more: &[(&'static str, &'static str)], expect: &str) {
        use tollway_store::redis_link::RedisServer;
        let CacheStoreSettings::Redis(settings) = store(params, more) else { panic!("not Redis") };
        let found = match &settings.server {
            RedisServer::Url(url) => url.expose_secret().to_owned(),
            RedisServer::Parts { host, port, username, password, db, tls } => {
                let password = password.as_ref().map(|password| password.expose_secret());
                let tls = if *tls { "tls " } else { "" };
                format!("{tls}{username:?} {password:?} {host}:{port}/{db} {}", settings.namespace)
            }
            RedisServer::Cluster { nodes, .. } => format!("{nodes:?}"),
            RedisServer::Private { .. } => panic!("no certificates are named"),
        };
        assert_eq!(found, expect);
    }

    #[test]
    fn the_store_is_memory_unless_a_redis_is_named() {
        let memory = |params: &str| match store(params, &[]) {
            CacheStoreSettings::Memory { bytes_max } => bytes_max,
            CacheStoreSettings::Redis(_) => panic!("Redis"),
        };
        assert_eq!(memory(""), 64 << 20);
        assert_eq!(memory("type: local, max_size_in_memory: 1MiB"), 1 << 20);
        redis("host: h, password: p, namespace: n", &[], "None Some(\"p\") h:6379/0 n");
        redis(
            "host: h, port: 7000, username: u, db: 2",
            &[("REDIS_PASSWORD", "p")],
            "Some(\"u\") Some(\"p\") h:7000/2 ",
        );
        redis("type: redis", &[("REDIS_HOST", "h"), ("REDIS_PORT", "7")], "None None h:7/0 ");
        redis("", &[("REDIS_URL", "redis://h:1/0")], "redis://h:1/0");
        redis("url: 'rediss://h'", &[], "rediss://h");
        redis("host: h, ssl: true", &[], "tls None None h:6379/0 ");
        redis(
            "redis_startup_nodes: [{host: a, port: 7001}, {host: b}]",
            &[],
            "[(\"a\", 7001), (\"b\", 6379)]",
        );
        redis(
            "",
            &[("REDIS_CLUSTER_NODES", r#"[{"host": "a", "port": 7001}]"#)],
            "[(\"a\", 7001)]",
        );
        redis("host: h", &[("REDIS_URL", "redis://h:1/0")], "None None h:6379/0 ");
    }

    #[test]
    fn the_shared_redis_has_litellms_names() {
        use tollway_store::redis_link::RedisServer;
        let database = "database_url: 'postgres://h/d'";
        assert!(config(&with_model("")).redis.is_none());
        let text = format!("general_settings: {{{database}, redis_url: 'redis://h:1'}}\n");
        let Some(RedisServer::Url(url)) = config(&with_model(&text)).redis else {
            panic!("no URL")
        };
        assert_eq!(url.expose_secret(), "redis://h:1");
        let text = format!(
            "router_settings: {{redis_host: h, redis_port: 7, redis_username: u, redis_db: 2}}\n\
             general_settings: {{{database}}}\n"
        );
        let Some(RedisServer::Parts { host, port, username, password, db, .. }) =
            config(&with_model(&text)).redis
        else {
            panic!("no parts")
        };
        assert_eq!((host.as_str(), port, username.as_deref(), db), ("h", 7, Some("u"), 2));
        assert!(password.is_none());
        let without = "router_settings: {redis_host: h}\n";
        mistakes(
            &with_model(without),
            &[
                "router_settings.redis_host: gateways that share a Redis share what was spent as well, for which a Postgres is missing: set general_settings.database_url",
            ],
        );
        let twice = format!(
            "router_settings: {{redis_url: 'redis://h'}}\n\
             general_settings: {{{database}, redis_url: 'redis://h'}}\n"
        );
        mistakes(
            &with_model(&twice),
            &[
                "general_settings.redis_url: router_settings names a Redis as well: give one of them",
            ],
        );
        let odd = format!("general_settings: {{{database}, redis_url: 'http://h'}}\n");
        mistakes(&with_model(&odd), &["general_settings.redis_url: must be of the form redis://"]);
    }

    #[test]
    fn a_redis_that_cannot_be_reached_is_a_mistake() {
        let with = |params: &str| {
            with_model(&format!("litellm_settings: {{cache: true, cache_params: {{{params}}}}}\n"))
        };
        mistakes(
            &with("host: h, redis_startup_nodes: [{host: a}], db: 3"),
            &["redis_startup_nodes: give these, a `host` or a `url`", "db: a Redis cluster has no"],
        );
        mistakes(&with("type: redis"), &["cache_params: `redis` needs a `host` or a `url`"]);
        mistakes(&with("url: 'rediss://:hunter2@h/#insecure'"), &["must not end with #insecure"]);
        mistakes(
            &with("url: 'redis://h', ssl: true"),
            &["ssl: does not go with a `url` that is not"],
        );
        mistakes(
            &with("type: local2"),
            &["type: must be `local` or `redis`; did you mean `local`?"],
        );
        mistakes(
            &with("host: h, ssl: true, ssl_ca_certs: /nowhere/at/all"),
            &["cache_params.ssl_ca_certs: this file cannot be read"],
        );
    }

    #[test]
    fn other_caches_of_litellms_are_replaced_with_a_warning() {
        warnings(
            &with_model(
                "litellm_settings: {cache: true, cache_params: {type: s3, s3_bucket_name: b}}\n",
            ),
            &["type: `s3` is not supported yet; `local` is used instead", "s3_bucket_name"],
        );
    }

    #[test]
    fn cache_params_become_the_filters_settings() {
        let config = config(&with_model(
            "litellm_settings:\n  cache: true\n  cache_params: {ttl: 10m, mode: default_off, supported_call_types: [acompletion]}\n",
        ));
        let filter = config.filters.last().unwrap();
        assert_eq!(filter.name, "response_cache");
        let expect =
            json!({"ttl": 600, "mode": "default_off", "supported_call_types": ["acompletion"]});
        assert_eq!(filter.settings, expect);
    }
}

mod filter_stack {
    use super::*;

    fn names(config: &Config) -> Vec<&str> {
        config.filters.iter().map(|filter| filter.name.as_str()).collect()
    }

    #[test]
    fn without_filters_the_usual_stack_is_there() {
        assert_eq!(names(&config(&with_model(""))), FILTERS[..8]);
        assert_eq!(names(&config(&with_model("litellm_settings: {cache: true}\n"))), FILTERS);
    }

    #[test]
    fn filters_keep_their_order_and_settings() {
        let config = config(&with_model(
            "filters:\n- auth\n- filter: rate_limit\n  global: {rpm: 5}\n  on: true\n\
             general_settings: {global_max_parallel_requests: 9}\n",
        ));
        assert_eq!(names(&config), ["auth", "rate_limit"]);
        let expect = json!({"global": {"rpm": 5, "max_parallel_requests": 9}, "on": true});
        assert_eq!(config.filters[1].settings, expect);
    }

    #[test]
    fn filters_that_are_not_there_or_there_twice_are_mistakes() {
        mistakes(
            &with_model(
                "filters:\n- filter: auht\n- auth\n- filter: auth\n- {settings: 1}\n- [x]\n",
            ),
            &[
                "config.yaml:5: filters[0].filter: there is no filter `auht`; did you mean `auth`?",
                "filters[2].filter: `auth` is in the list twice",
                "filters[3]: needs a `filter`",
                "filters[4]: must be a mapping",
            ],
        );
        mistakes(&with_model("filters: []\n"), &["filters: is an empty list"]);
    }

    #[test]
    fn what_a_list_of_filters_leaves_out_is_said() {
        warnings(
            &with_model("filters: [cors]\nlitellm_settings: {cache: true}\n"),
            &[
                "filters: does not list `auth`",
                "filters: does not list `budget`: what calls cost is not recorded",
                "`filters` does not list `response_cache`",
            ],
        );
        mistakes(
            &with_model("filters: [auth]\ngeneral_settings: {global_max_parallel_requests: 5}\n"),
            &["`filters` does not list `rate_limit`"],
        );
    }

    #[test]
    fn a_mistake_of_a_filters_builder_gets_its_path_and_line() {
        let config = config(&with_model(
            "filters:\n- filter: auth\n- filter: rate_limit\n  global:\n    rpm: 5\n    rpmm: 5\n",
        ));
        let error = ConfigError::new("global.rpmm", "unknown field `rpmm`");
        assert_eq!(
            config.filter_mistake(1, &error).to_string(),
            "config.yaml:9: filters[1].rate_limit.global.rpmm: unknown field `rpmm`"
        );
        let error = ConfigError::new("", "makes no sense");
        assert_eq!(
            config.filter_mistake(0, &error).to_string(),
            "config.yaml:5: filters[0].auth: makes no sense"
        );
    }
}

mod without_a_file {
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
        for (name, model) in
            [("demo/chat", "chat"), ("demo/think", "think"), ("demo/other", "other")]
        {
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
        let config = served(&[
            ("OPENAI_API_KEY", "sk-o"),
            ("ANTHROPIC_API_KEY", "sk-a"),
            ("GROQ_API_KEY", "g"),
        ]);
        for name in ["openai/gpt-4o", "anthropic/claude-3-opus-20240229", "groq/anything", "gpt-4o"]
        {
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
}

mod explained {
    use super::*;

    #[test]
    fn a_model_is_explained_from_route_to_callers() {
        let config = config(include_str!("../../../../conf/full.yaml"));
        let text = config.explain("gpt-4").unwrap();
        for part in [
            "gpt-4 means gpt-4o",
            "deployment openai/gpt-4o (model_list[0])",
            "at: https://llm.example.com/v1",
            "id: openai-main",
            "weight: 3 (75 % of the calls)",
            "price: $2.5 in, $10 out, $1.25 cached",
            "$2 in, $8 out, $1 cached",
            "above 200000 prompt tokens $4 in",
            "limits: 500 requests a minute, 200000 tokens a minute, 50 at once",
            "fallbacks: claude, then gpt-4.1",
            "the master key, ci (60 requests a minute, 100000 tokens a minute, 5 at once, 10 requests a minute",
        ] {
            assert!(text.contains(part), "{part:?} is not in\n{text}");
        }
        let text = config.explain("anthropic/unheard-of").unwrap();
        assert!(text.contains("price: not known"), "{text}");
        assert!(config.explain("demo").unwrap().contains("price: free"));
        let error = config.explain("gpt-4p").unwrap_err();
        assert_eq!(error, "there is no model `gpt-4p`; did you mean `gpt-4`?");
    }
}

mod budgets {
    use tollway_filter_api::accounts::Kind;
    use tollway_filter_api::treasury::{Budget, BudgetScope, Period, PeriodUnit};
    use tollway_filters::budget::{Allowance, BudgetConfig};
    use tollway_wire::price::PicoDollars;

    use super::*;

    const DAY: Period = Period { count: 1, unit: PeriodUnit::Day };

    fn settings(config: &Config) -> BudgetConfig {
        let filter = config.filters.iter().find(|filter| filter.name == "budget").unwrap();
        serde_json::from_value(filter.settings.clone()).unwrap()
    }

    fn dollars(text: &str) -> Option<PicoDollars> {
        Some(text.parse().unwrap())
    }

    fn allowance(max: &str, budget_duration: Option<Period>) -> Allowance {
        Allowance { max_budget: dollars(max), soft_budget: None, budget_duration }
    }

    #[test]
    fn litellms_budgets_become_settings_of_the_filter() {
        let config = config(&with_model(
            "router_settings: {provider_budget_config: {openai: {budget_limit: 0.1, time_period: 1d}}}\n\
             litellm_settings:\n  max_budget: 100\n  budget_duration: 30d\n  \
             tag_budget_config: {'product:chat-bot': {max_budget: 0.000000000001, budget_duration: 1d}}\n  \
             max_internal_user_budget: 5\n  internal_user_budget_duration: 7d\n  \
             max_end_user_budget: '0.25'\n  include_cost_in_streaming_usage: true\n",
        ));
        let settings = settings(&config);
        let month = Period { count: 1, unit: PeriodUnit::Month };
        let week = Period { count: 1, unit: PeriodUnit::Week };
        assert_eq!(settings.global, Some(allowance("100", Some(month))));
        assert_eq!(settings.providers["openai"], allowance("0.1", Some(DAY)));
        assert_eq!(settings.tags["product:chat-bot"], allowance("0.000000000001", Some(DAY)));
        assert_eq!(settings.per_user, Some(allowance("5", Some(week))));
        assert_eq!(settings.per_end_user, Some(allowance("0.25", None)));
        assert!(settings.final_cost);
    }

    #[test]
    fn each_deployment_has_a_budget_of_its_own() {
        let entry = |id: &str, budget: &str| {
            format!(
                "- model_name: m\n  litellm_params: {{model: openai/gpt-4o, {budget}}}\n  \
                 model_info: {{id: {id}}}\n"
            )
        };
        let entries = entry("a", "max_budget: 1.5, budget_duration: 1d")
            + &entry("b", "max_budget: 1")
            + &entry("c", "rpm: 1")
            + "- model_name: openai/*\n  litellm_params: {model: openai/*, max_budget: 2}\n  \
               model_info: {id: d}\n";
        let config = config(&format!("model_list:\n{entries}"));
        let settings = settings(&config);
        assert_eq!(settings.deployments["a"], allowance("1.5", Some(DAY)));
        assert_eq!(settings.deployments["b"], allowance("1", None));
        assert_eq!(settings.deployments["d"], allowance("2", None));
        assert_eq!(settings.deployments.len(), 3);
    }

    #[test]
    fn members_of_teams_and_models_of_teams_and_users_have_budgets() {
        let config = config(&with_model(
            "keys: [{alias: k, key: sk-0123456789-AbCd}]\n\
             teams:\n- id: dev\n  model_max_budget: {gpt-4o: {budget_limit: 1, time_period: 1d}}\n  \
             team_member_budget: 2\n  team_member_budget_duration: 30d\n  \
             members: {anna: {role: admin, max_budget_in_team: 5}, ben: user, eve: {max_budget_in_team: 0}}\n\
             users:\n- {id: anna, model_max_budget: {gpt-4o: {budget_limit: 3}}}\n",
        ));
        let team = config.keys.account(Kind::Team, "dev").unwrap();
        let id = |budget: &Budget| (budget.id.scope, budget.id.part.clone(), budget.limit);
        let model = Some(Arc::from("gpt-4o"));
        assert_eq!(id(&team.budgets[0]), (BudgetScope::TeamModel, model.clone(), dollars("1")));
        let of = |user: &str| {
            let budget = team.of_member(&user.into()).expect("everybody has one");
            assert_eq!(budget.id.part.as_deref(), Some(user));
            assert_eq!(*budget.owner, *format!("User={user} in Team=dev"));
            (budget.limit, budget.id.period.map(|period| period.to_string()))
        };
        assert_eq!(of("anna"), (dollars("5"), None));
        assert_eq!(of("eve"), (dollars("0"), None));
        assert_eq!(of("ben"), (dollars("2"), Some("1mo".to_owned())));
        assert_eq!(team.members.values().copied().collect::<Vec<_>>(), [true, false, false]);
        let user = config.keys.account(Kind::User, "anna").unwrap();
        assert_eq!(id(&user.budgets[0]), (BudgetScope::UserModel, model, dollars("3")));
    }

    #[test]
    fn keys_teams_and_users_have_budgets() {
        let config = config(&with_model(
            "keys:\n- alias: ci\n  key: sk-0123456789-AbCd\n  team: dev\n  max_budget: 10\n  soft_budget: 8\n  \
             budget_duration: 1d\n  model_max_budget: {gpt-4o: {budget_limit: 1}}\n  tags: [a]\n  \
             allowed_routes: [/v1/models]\n  allowed_ips: [10.0.0.0/8, 2001:db8::1]\n\
             - {key_hash: ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff, max_budget: 0}\n\
             teams:\n- {id: dev, alias: Dev, max_budget: 1, members: {anna: admin, ben: user}, rpm: 7}\n\
             users:\n- {user_id: anna, user_role: internal_user, user_email: a@b.c, blocked: true}\n",
        ));
        let key = config.keys.iter().find(|key| key.alias.is_some()).unwrap();
        let ids: Vec<_> =
            key.budgets.iter().map(|b| (b.id.scope, b.id.part.as_deref(), b.id.period)).collect();
        assert_eq!(
            ids,
            [(BudgetScope::Key, None, Some(DAY)), (BudgetScope::KeyModel, Some("gpt-4o"), None),]
        );
        let Budget { limit, soft, owner, id } = &*key.budgets[0];
        assert_eq!((*limit, *soft), (dollars("10"), dollars("8")));
        assert_eq!((&**owner, &id.subject), ("Key=ci (sk-...AbCd)", &key.hash_hex));
        assert_eq!((key.tags[0].as_ref(), key.routes[0].as_str()), ("a", "/v1/models"));
        assert_eq!(key.addresses.iter().map(|(_, length)| *length).collect::<Vec<_>>(), [8, 128]);
        assert!(key.from_config);
        let nameless = config.keys.iter().find(|key| key.hash.0 == [255; 32]).unwrap();
        assert_eq!(&*nameless.budgets[0].owner, "Key=ffffffff...");
        let team = config.keys.account(Kind::Team, "dev").unwrap();
        assert_eq!(&*team.budgets[0].owner, "Team=Dev");
        assert_eq!(
            (team.members["anna"], team.members["ben"], team.limits.rpm),
            (true, false, Some(7))
        );
        let user = config.keys.account(Kind::User, "anna").unwrap();
        assert!(user.blocked && user.role == tollway_filter_api::identity::Role::User);
        assert!(config.keys.account(Kind::Team, "anna").is_none());
        let text = config.explain("gpt-4o").unwrap();
        let told = "ci ($10 each 1d, told from $8 on, $1 on this model, team dev: $1)";
        assert!(text.contains(told), "{text}");
    }

    #[test]
    fn budgets_are_explained() {
        let config = config(include_str!("../../../../conf/full.yaml"));
        let text = config.explain("gpt-4o").unwrap();
        for part in [
            "budget of everybody: $10000 each 1mo",
            "budget of provider openai: $500 each 1d",
            "budget of each end user: $1\n",
            "budget of tag nightly: $5 each 1d",
            "$10 each 1mo, told from $8 on, $1 each 1d on this model, team platform: $500 each 1mo, user ci@example.com: $100",
        ] {
            assert!(text.contains(part), "{part:?} is not in\n{text}");
        }
    }

    #[test]
    fn every_mistake_has_its_place() {
        mistakes(
            &with_model(
                "litellm_settings: {max_budget: -1, budget_duration: 1y, tag_budget_config: {a: {}}}\n\
                 router_settings: {provider_budget_config: {opnai: {budget_limit: 1}}}\n\
                 general_settings: {database_url: 'mysql://x', proxy_batch_write_at: 0}\n\
                 journal: {fsync: sometimes, on_restart: forget}\n\
                 keys:\n\
                 - {key: sk-a, soft_budget: 2, max_budget: 1}\n\
                 - {key: sk-b, budget_duration: 1d}\n\
                 - {key: sk-c, model_max_budget: {gpt-5o: {budget_limit: 1}}}\n\
                 - {key: sk-d, allowed_ips: [10.0.0.0/33], allowed_routes: [chat]}\n\
                 - {key: sk-e, max_budget: 1e30}\n\
                 teams:\n- {alias: x, members: {a: boss}}\n\
                 users:\n- {id: a, role: god}\n- {id: a, models: [nope]}\n",
            ),
            &[
                "litellm_settings.max_budget: cannot be negative",
                "litellm_settings.budget_duration: must be a time",
                "litellm_settings.tag_budget_config.a: needs a max_budget",
                "router_settings.provider_budget_config.opnai: nothing can reach it: no deployment is `opnai`'s; did you mean `openai`?",
                "general_settings.database_url: must be the URL of a Postgres",
                "general_settings.proxy_batch_write_at: must be a time",
                "journal.fsync: must be a time such as 100ms, `always` or `none`",
                "journal.on_restart: must be `charge_bound` or `charge_progress`",
                "keys[0].soft_budget: is above max_budget",
                "keys[1].budget_duration: needs a max_budget",
                "keys[2].model_max_budget.gpt-5o: there is no model `gpt-5o`",
                "keys[3].allowed_routes[0]: must be a path",
                "keys[3].allowed_ips[0]: must be an address",
                "keys[4].max_budget: is more than 18 million dollars",
                "teams[0].members.a: must be `admin` or `user`",
                "teams[0].id: is missing",
                "users[0].role: must be one of LiteLLM's roles",
                "users[1].models[0]: there is no model or access group `nope`",
                "users[1].id: is there already",
            ],
        );
    }

    #[test]
    fn a_budget_that_nothing_can_reach_is_a_mistake() {
        let check = |more: &str, expect: &[&str]| mistakes(&with_model(more), expect);
        check(
            "litellm_settings: {max_budget: 1}\nkeys: [{key: sk-a, max_budget: 1}]\nfilters: [auth, usage]\n",
            &[
                "litellm_settings.max_budget: nothing enforces it: `filters` does not list `budget`",
                "keys[0].max_budget: nothing enforces it",
            ],
        );
        check(
            "keys: [{key: sk-a, max_budget: 1}]\nfilters: [budget]\n",
            &["keys[0].max_budget: nothing can reach it: `filters` does not list `auth`"],
        );
        check(
            "keys: [{key: sk-a, models: [no-default-models], model_max_budget: {gpt-4o: {budget_limit: 1}}}]\n",
            &["keys[0].model_max_budget.gpt-4o: nothing can reach it: the key may not call"],
        );
        mistakes(
            "model_list:\n- {model_name: m, litellm_params: {model: ollama/llama3, max_budget: 1}}\n",
            &["nothing can reach it: the model costs nothing"],
        );
        check(
            "filters: [auth, budget, model_alias]\n",
            &["filters[1].filter: must come after `model_alias`"],
        );
        check(
            "filters: [auth, rate_limit, budget]\n",
            &["filters[2].filter: must come before `rate_limit`"],
        );
    }
}

mod secrets {
    use super::*;

    /// Each `SECRET` of a text stands for this.
    const SECRET: &str = "hunter2-hunter2";

    const EVERYWHERE: &str = "\
environment_variables: {A: SECRET}
model_list:
- model_name: m
  litellm_params: {model: openai/gpt-4o, api_key: SECRET, extra_headers: {x-key: SECRET}}
- model_name: n
  litellm_params: {model: openai/gpt-4o, api_key: env:OTHER}
general_settings:
  master_key: SECRET-master
  pass_through_endpoints: [{path: /x, target: 'http://x', headers: {authorization: SECRET}}]
litellm_settings: {cache: true, cache_params: {host: h, password: SECRET}}
keys: [{key: SECRET-key}]
filters: [{filter: auth, password: SECRET}, response_cache, rate_limit]
";

    fn environment() -> Environment {
        [("OTHER", SECRET), ("OPENAI_API_KEY", SECRET)].into_iter().collect()
    }

    #[test]
    fn secrets_are_in_no_debug_output() {
        let text = EVERYWHERE.replace("SECRET", SECRET);
        let file = FileConfig::read("config.yaml", &text, environment());
        assert!(!format!("{file:?}").contains("hunter2"), "{file:#?}");
        let (config, warnings) =
            Config::resolve(file, FILTERS, "http://x").unwrap_or_else(|m| panic!("{}", lines(&m)));
        assert!(!format!("{config:?}").contains("hunter2"), "{config:#?}");
        assert!(!lines(&warnings).contains("hunter2"));
        assert!(!config.summary().contains("hunter2"));
        assert!(!config.explain("m").unwrap().contains("hunter2"));
    }

    proptest! {
        /// However a file is damaged, what was a secret in it is in no message.
        #[test]
        fn secrets_are_in_no_mistake(cuts in prop::collection::vec((0..700_usize, "[-:{}\\[\\]'\",#x \n]{0,3}"), 1..3)) {
            let mut text = EVERYWHERE.to_owned();
            for (at, sign) in cuts {
                // A cut within the word would make of it something that is no secret any more.
                let at = at.min(text.len());
                let inside = (1..6).any(|back| text[..].get(at.saturating_sub(back)..).is_some_and(|t| t.starts_with("SECRET")));
                if !inside {
                    text.insert_str(at, &sign);
                }
            }
            let text = text.replace("SECRET", SECRET);
            let file = FileConfig::read("config.yaml", &text, environment());
            prop_assert!(!format!("{file:?}").contains("hunter2"), "{:?}", file);
            match Config::resolve(file, FILTERS, "http://x") {
                Ok((config, _)) => prop_assert!(!format!("{config:?}").contains("hunter2"), "{:?}", config),
                Err(mistakes) => prop_assert!(!lines(&mistakes).contains("hunter2"), "{}", lines(&mistakes)),
            }
        }
    }
}

proptest! {
    #[test]
    fn no_text_panics_the_loader(text in "\\PC{0,200}") {
        let _ = load(&text);
    }

    /// The keys and values of a real file, shuffled.
    #[test]
    fn no_mix_of_real_lines_panics_the_loader(lines in prop::collection::vec(0..400_usize, 0..40), indent in 0..6_usize) {
        let full = include_str!("../../../../conf/full.yaml");
        let all: Vec<_> = full.lines().filter(|line| !line.trim_start().starts_with('#')).collect();
        let text: Vec<_> = lines.iter().map(|at| {
            let line = all[at % all.len()];
            &line[indent.min(line.len() - line.trim_start().len())..]
        }).collect();
        let _ = load(&text.join("\n"));
    }
}
