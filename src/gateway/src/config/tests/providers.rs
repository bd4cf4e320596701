//! Which provider a model has, and where and how it is called.

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
    let values: Vec<_> =
        config.entries[0].headers.iter().map(|(n, v)| (n.as_str(), v.to_str().unwrap())).collect();
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
