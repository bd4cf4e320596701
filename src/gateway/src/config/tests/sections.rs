//! Each section: what it may hold, and what it does without.

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
             mcp_aliases: {x: y}\n",
        &[
            "litellm_params.temperature: `temperature` is LiteLLM's and not supported yet: it has no effect",
            "model_info.my_note: nothing reads this yet",
            "model_info.supports_vision: `supports_vision` is LiteLLM's",
            "config.yaml:5: router_settings.routing_strategy: `auto-router` is not supported yet; `simple-shuffle` is used",
            "router_settings.enable_weighted_failover",
            "litellm_settings.callbacks[1]: only `otel`, and `prometheus`",
            "litellm_settings.enable_preview_features",
            "litellm_settings.json_logs",
            "general_settings.allowed_ips: `allowed_ips` is LiteLLM's and not supported yet: what it restricts is NOT",
            "mcp_aliases",
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
    check("", "litellm_settings: {request_timeout: 10}\nserver: {total_timeout: 1m}\n", (10, 300));
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
