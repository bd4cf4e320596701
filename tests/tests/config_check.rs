//! `tollway check`: the start's own code, every mistake at once, each with its place.

use tollway_tests::gateway::{Folder, Printed, repository, run};

async fn check_with(text: &str, env: &[(&str, &str)], args: &[&str]) -> Printed {
    let folder = Folder::fresh();
    folder.write("config.yaml", text);
    let mut all = vec!["check", "-c", "config.yaml"];
    all.extend_from_slice(args);
    let printed = run(&folder.0, env, &all).await;
    assert!(!printed.stderr.contains("panicked"), "{}", printed.stderr);
    printed
}

async fn check(text: &str) -> Printed {
    check_with(text, &[], &[]).await
}

/// Wrong, with every one of these in what it says.
async fn check_wrong(text: &str, expect: &[&str]) {
    let printed = check(text).await;
    assert!(!printed.success, "{text}: {}", printed.stdout);
    for expect in expect {
        assert!(printed.stderr.contains(expect), "{expect}\nis not in\n{}", printed.stderr);
    }
}

/// Names that a file takes from the environment.
fn variables(text: &str) -> Vec<String> {
    let mut names = Vec::new();
    for mark in ["os.environ/", "env:"] {
        for rest in text.split(mark).skip(1) {
            let name: String =
                rest.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
            names.push(name);
        }
    }
    names
}

#[tokio::test]
async fn every_file_of_conf_is_fine() {
    let conf = repository().join("conf");
    let mut files: Vec<_> = std::fs::read_dir(&conf)
        .expect("conf/ is there")
        .map(|entry| entry.expect("it can be read").path())
        .filter(|path| path.extension().is_some_and(|ext| ext == "yaml" || ext == "yml"))
        .collect();
    files.sort();
    assert!(files.len() >= 3, "a minimal, a full one and one of LiteLLM's: {files:?}");
    for file in files {
        let text = std::fs::read_to_string(&file).expect("it can be read");
        let mut names = variables(&text);
        names.extend(["OPENAI_API_KEY", "ANTHROPIC_API_KEY"].map(str::to_owned));
        let values: Vec<_> = names.iter().map(|name| format!("sk-example-{name}")).collect();
        let env: Vec<_> =
            names.iter().zip(&values).map(|(n, v)| (n.as_str(), v.as_str())).collect();
        let file = file.display().to_string();
        let printed = run(&conf, &env, &["check", "-c", &file]).await;
        assert!(printed.success, "{file}: {}", printed.stderr);
        assert!(printed.stdout.contains(&format!("{file}: ok")), "{}", printed.stdout);
        assert!(!printed.stdout.contains("warning:"), "{file}: {}", printed.stdout);
        assert!(!printed.stdout.contains("sk-example"), "{file}");
    }
}

const ANTHROPIC_AS_OPENAI: &str = r#"
model_list:
  - model_name: gpt-4o-mini
    litellm_params: { model: claude-3-5-sonnet-20241022, api_key: "os.environ/ANTHROPIC_API_KEY" }
  - model_name: gpt-4o
    litellm_params: { model: claude-3-opus-20240229, api_key: "os.environ/ANTHROPIC_API_KEY" }
  - model_name: text-embedding-3-small
    litellm_params: { model: openai/text-embedding-3-small, api_key: "os.environ/OPENAI_API_KEY" }
"#;

#[tokio::test]
async fn config_of_litellm_that_puts_claude_under_openais_names_is_fine() {
    let env = [("ANTHROPIC_API_KEY", "sk-ant-0123456789"), ("OPENAI_API_KEY", "sk-oai-0123456789")];
    let printed = check_with(ANTHROPIC_AS_OPENAI, &env, &[]).await;
    assert!(printed.success, "{}", printed.stderr);
    assert!(printed.stdout.contains("config.yaml: ok"));
    assert!(!printed.stdout.contains("warning"), "{}", printed.stdout);
    assert!(!printed.stdout.contains("0123456789"), "no secret is shown: {}", printed.stdout);
}

#[tokio::test]
async fn missing_secret_is_a_mistake_that_names_the_variable() {
    check_wrong(
        ANTHROPIC_AS_OPENAI,
        &[
            "the config has 3 mistakes",
            "model_list[0].litellm_params.api_key",
            "model_list[1].litellm_params.api_key",
            "model_list[2].litellm_params.api_key",
            "ANTHROPIC_API_KEY",
            "OPENAI_API_KEY",
        ],
    )
    .await;
}

#[tokio::test]
async fn all_mistakes_are_told_at_once_with_file_line_and_path() {
    check_wrong(
        "\
model_list:
  - model_name: one
    litellm_params: { model: nobody/gpt-4o, api_key: sk-0123456789 }
  - model_name: two
    litellm_params:
      model: openai/gpt-4o
      api_key: sk-0123456789
      api_base: not-a-url
      rpmm: 5
  - litellm_params: { model: openai/gpt-4o, api_key: sk-0123456789, timeout: soon }
router_settings:
  num_retries: -1
  fallbacks: [{two: [three]}]
  colour: blue
keys:
  - { alias: a, key: sk-a-0123456789, models: [tow], rpm: 0 }
  - { alias: a }
filters:
  - filter: rate_limit
    per_key: { rpmm: 1 }
  - filter: rate_limt
",
        &[
            "config.yaml:3: model_list[0].litellm_params.model",
            "config.yaml:8: model_list[1].litellm_params.api_base",
            "config.yaml:9: model_list[1].litellm_params.rpmm",
            "did you mean `rpm`?",
            "model_list[2].model_name",
            "config.yaml:10: model_list[2].litellm_params.timeout",
            "config.yaml:12: router_settings.num_retries",
            "config.yaml:13: router_settings.fallbacks",
            "`three`",
            "config.yaml:14: router_settings.colour",
            "config.yaml:16: keys[0].models[0]",
            "did you mean `two`?",
            "config.yaml:16: keys[0].rpm",
            "config.yaml:17: keys[1]",
            "filters[1].filter",
            "did you mean `rate_limit`?",
        ],
    )
    .await;
}

#[tokio::test]
async fn mistake_in_a_filters_settings_names_its_path() {
    let text = "
model_list: [{ model_name: a, litellm_params: { model: demo/chat } }]
filters:
  - auth
  - filter: rate_limit
    per_key: { rpmm: 1 }
";
    check_wrong(text, &["filters[1].rate_limit.per_key", "rpmm"]).await;
}

#[tokio::test]
async fn key_of_litellms_that_has_no_effect_yet_is_a_warning_that_names_it() {
    let text = "
model_list:
  - model_name: a
    litellm_params: { model: demo/chat, max_file_size_mb: 5, aws_region_name: eu }
    model_info: { health_check_voice: x }
router_settings: { enable_weighted_failover: true, debug_level: INFO }
litellm_settings: { max_user_budget: 100, success_callback: [langfuse] }
general_settings: { custom_auth: a.b, proxy_budget_rescheduler_min_time: 5 }
";
    let printed = check(text).await;
    assert!(printed.success, "{}", printed.stderr);
    for path in [
        "model_list[0].litellm_params.max_file_size_mb",
        "model_list[0].litellm_params.aws_region_name",
        "model_list[0].model_info.health_check_voice",
        "router_settings.enable_weighted_failover",
        "router_settings.debug_level",
        "litellm_settings.max_user_budget",
        "litellm_settings.success_callback[0]",
        "general_settings.custom_auth",
        "general_settings.proxy_budget_rescheduler_min_time",
    ] {
        let line = printed.stdout.lines().find(|line| line.contains(path));
        let line = line.unwrap_or_else(|| panic!("{path} is not in\n{}", printed.stdout));
        assert!(line.starts_with("warning: "), "{line}");
    }
}

#[tokio::test]
async fn start_prints_the_same_warnings_and_mistakes() {
    let folder = Folder::fresh();
    folder
        .write("config.yaml", "model_list: [{ model_name: a, litellm_params: { model: x/y } }]\n");
    let serve = ["serve", "-c", "config.yaml", "--listen", "127.0.0.1:0"];
    let printed = run(&folder.0, &[], &serve).await;
    assert!(!printed.success);
    assert!(printed.stderr.contains("model_list[0].litellm_params.model"), "{}", printed.stderr);
    let missing = run(&folder.0, &[], &["serve", "-c", "nothing.yaml"]).await;
    assert!(!missing.success && missing.stderr.contains("nothing.yaml"), "{}", missing.stderr);
}

#[tokio::test]
async fn model_without_a_price_is_a_mistake() {
    let unpriced = "
model_list:
  - model_name: a
    litellm_params: { model: openai/my-own-finetune, api_key: sk-0123456789 }
";
    check_wrong(unpriced, &["model_list[0].litellm_params.model", "price"]).await;
    let priced = unpriced.replace(
        "api_key: sk-0123456789",
        "api_key: sk-0123456789, input_cost_per_token: 1e-6, output_cost_per_token: 0.00001",
    );
    let printed = check(&priced).await;
    assert!(printed.success, "{}", printed.stderr);
    let based = format!("{unpriced}    model_info: {{ base_model: gpt-4o }}\n");
    let printed = check(&based).await;
    assert!(printed.success, "{}", printed.stderr);
}

#[tokio::test]
async fn provider_that_cannot_be_told_is_a_mistake() {
    for (model, expect) in [
        ("my-model", "the provider of `my-model` cannot be told"),
        ("opnai/gpt-4o", "did you mean `openai`?"),
        ("sagemaker/my-endpoint", "the provider `sagemaker` is not supported yet"),
        ("openai/", "names the provider `openai` and no model"),
    ] {
        let text = format!(
            "model_list: [{{ model_name: a, litellm_params: {{ model: '{model}', api_key: sk-0123456789 }} }}]\n"
        );
        check_wrong(&text, &["model_list[0].litellm_params.model", expect]).await;
    }
}

#[tokio::test]
async fn text_that_is_no_config_is_refused_with_its_line() {
    for (text, expect) in [
        ("", "model_list"),
        ("model_list: []", "model_list"),
        ("model_list:\n  - a: [\n", "config.yaml:"),
        ("- a\n- b\n", "config.yaml"),
        ("model_list: x\n", "model_list"),
        ("modle_list: []\n", "did you mean `model_list`?"),
        ("a: &a [*a]\n", "config.yaml"),
        ("model_list: [{model_name: a, model_name: b}]\n", "twice"),
    ] {
        check_wrong(text, &[expect]).await;
    }
}

#[tokio::test]
async fn secret_is_never_part_of_a_mistake() {
    let text = "
general_settings: { master_key: [canary-0123456789] }
model_list:
  - model_name: a
    litellm_params: { model: openai/gpt-4o, api_key: { canary-9876543210: 1 }, api_base: 'https://user:canary-pw@host/' }
keys:
  - { alias: a, key: sk-canary-0123456789, sha256: canary }
";
    let printed = check(text).await;
    assert!(!printed.success);
    assert!(!printed.stderr.contains("canary-0123456789"), "{}", printed.stderr);
    assert!(!printed.stderr.contains("canary-pw"), "{}", printed.stderr);
    assert!(!printed.stderr.contains("sk-canary"), "{}", printed.stderr);
}

#[tokio::test]
async fn model_is_explained_with_route_deployments_price_and_limits() {
    let text = "
model_list:
  - model_name: gpt-4o-mini
    litellm_params: { model: openai/gpt-4o-mini, api_key: sk-0123456789, rpm: 300, tpm: 90000, api_base: 'https://eu.example.com/v1' }
    model_info: { id: my-id }
  - model_name: gpt-4o-mini
    litellm_params: { model: openai/gpt-4o-mini, api_key: sk-9876543210, rpm: 100, tpm: 90000 }
  - model_name: claude
    litellm_params: { model: anthropic/claude-3-5-sonnet-20241022, api_key: sk-0123456789 }
router_settings:
  num_retries: 4
  fallbacks: [{ gpt-4o-mini: [claude] }]
  model_group_alias: { cheap: gpt-4o-mini }
keys:
  - { alias: ci, key: sk-ci-0123456789, models: [gpt-4o-mini], rpm: 60, model_rpm_limit: { gpt-4o-mini: 7 } }
  - { alias: other, key: sk-other-012345678, models: [claude] }
";
    let printed = check_with(text, &[], &["--model", "gpt-4o-mini"]).await;
    assert!(printed.success, "{}", printed.stderr);
    let said = &printed.stdout;
    for expect in [
        "deployment openai/gpt-4o-mini (model_list[0])",
        "deployment openai/gpt-4o-mini (model_list[1])",
        "https://eu.example.com/v1",
        "id: my-id",
        "75 % of the calls",
        "25 % of the calls",
        "$0.15 in, $0.6 out",
        "per million tokens",
        "300 requests a minute, 90000 tokens a minute",
        "retries: 4",
        "fallbacks: claude",
        "may call it: the master key, ci",
        "60 requests a minute",
        "7 requests a minute",
        "reads at most: 128000 tokens",
        "writes at most: 16384 tokens",
    ] {
        assert!(said.contains(expect), "{expect}\nis not in\n{said}");
    }
    assert!(!said.contains("other"), "{said}");
    assert!(!said.contains("0123456789") && !said.contains("9876543210"), "{said}");

    let alias = check_with(text, &[], &["--model", "cheap"]).await;
    assert!(alias.stdout.contains("cheap means gpt-4o-mini"), "{}", alias.stdout);
    let unknown = check_with(text, &[], &["--model", "gpt-4o-mni"]).await;
    assert!(!unknown.success);
    assert!(unknown.stderr.contains("did you mean `gpt-4o-mini`?"), "{}", unknown.stderr);
}

#[tokio::test]
async fn check_starts_and_makes_nothing() {
    let folder = Folder::fresh();
    folder.write(
        "config.yaml",
        "model_list: [{ model_name: a, litellm_params: { model: demo/chat } }]\n",
    );
    let printed = run(&folder.0, &[], &["check", "-c", "config.yaml"]).await;
    assert!(printed.success, "{}", printed.stderr);
    let left: Vec<_> = std::fs::read_dir(&folder.0)
        .expect("it can be read")
        .map(|entry| entry.expect("it can be read").file_name())
        .collect();
    assert_eq!(left, ["config.yaml"]);
}

#[tokio::test]
async fn help_is_worth_reading() {
    let folder = Folder::fresh();
    let help = run(&folder.0, &[], &["--help"]).await;
    assert!(help.success);
    for expect in [
        "serve",
        "check",
        "--config",
        "--listen",
        "--data",
        "Examples:",
        "Environment:",
        "TOLLWAY_MASTER_KEY",
        "TOLLWAY_LOG",
        "OPENAI_API_KEY",
        "demo/",
        "LiteLLM",
        ".env",
        "SIGHUP",
        "SIGTERM",
    ] {
        assert!(help.stdout.contains(expect), "{expect}\nis not in\n{}", help.stdout);
    }
    for (command, expect) in [("serve", "--listen"), ("check", "--model")] {
        let help = run(&folder.0, &[], &[command, "--help"]).await;
        assert!(help.success && help.stdout.contains(expect), "{}", help.stdout);
    }
    let version = run(&folder.0, &[], &["--version"]).await;
    assert!(version.stdout.starts_with("tollway "), "{}", version.stdout);
    let wrong = run(&folder.0, &[], &["srve"]).await;
    assert!(!wrong.success && !wrong.stderr.is_empty());
}
