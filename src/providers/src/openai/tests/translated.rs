//! Requests that we made of another dialect.

use super::*;

fn translated(
    name: &str,
    model: &str,
    drop_params: bool,
    body: Value,
) -> Result<Value, RequestError> {
    let bytes = Bytes::from(body.to_string());
    let object = scan(&bytes, &Limits::default()).expect("a valid object");
    let operation = Operation::ChatCompletions;
    let call = Call::new(operation, Dialect::OpenAi, &bytes, &object);
    let call = Call { translated: true, ..call };
    let target = Target { model: model.into(), drop_params, max_output_tokens: None };
    let upstream = provider(name).expect("a provider").request(&call, &target)?;
    Ok(serde_json::from_slice(&upstream.bytes).expect("JSON"))
}

/// What becomes of members beside `model` and `messages`.
#[track_caller]
fn check_members(name: &str, model: &str, members: Value, expect: Value) {
    let with = |mut members: Value| {
        members["model"] = model.into();
        members["messages"] = json!([{"role": "user", "content": "hi"}]);
        members
    };
    assert_eq!(translated(name, model, false, with(members)), Ok(with(expect)));
}

/// What becomes of the messages.
#[track_caller]
fn check_messages(name: &str, messages: Value, expect: Value) {
    let body = json!({"model": "alias", "messages": messages});
    let sent = translated(name, "gpt-4o", false, body).expect("valid");
    assert_eq!(sent["messages"], expect);
}

#[test]
fn what_openai_refuses_is_left_out() {
    check_members(
        "openai",
        "gpt-4o",
        json!({"thinking": {"type": "enabled", "budget_tokens": 2048}, "reasoning_effort": "medium", "top_k": 5,
            "extra_content": {}, "provider_specific_fields": {}, "cache_control": {"type": "ephemeral"},
            "something_new": 1, "service_tier": "standard_only", "seed": 3, "max_tokens": 9,
            "user": "u".repeat(90)}),
        json!({"seed": 3, "max_completion_tokens": 9, "user": "u".repeat(64)}),
    );
}

#[test]
fn tokens_have_their_newer_name() {
    check_members(
        "openai",
        "gpt-4o",
        json!({"max_tokens": 9}),
        json!({"max_completion_tokens": 9}),
    );
    check_members("azure", "mine", json!({"max_tokens": 9}), json!({"max_completion_tokens": 9}));
    check_members("groq", "llama", json!({"max_tokens": 9}), json!({"max_tokens": 9}));
}

#[test]
fn effort_goes_only_to_models_that_take_it() {
    for (name, model, wish, expect) in [
        ("openai", "gpt-4.1", "high", None),
        ("openai", "o3", "minimal", Some("low")),
        ("openai", "gpt-5", "none", Some("minimal")),
        ("openai", "gpt-5.2", "xhigh", Some("xhigh")),
        ("groq", "openai/gpt-oss-120b", "high", Some("high")),
        ("groq", "llama-3.3-70b-versatile", "high", None),
        ("xai", "grok-4", "high", None),
        ("hosted_vllm", "anything", "low", Some("low")),
        ("mistral", "mistral-large-latest", "high", None),
        ("mistral", "mistral-small-latest", "low", Some("high")),
    ] {
        let expect = expect.map_or(json!({}), |expect| json!({ "reasoning_effort": expect }));
        check_members(name, model, json!({ "reasoning_effort": wish }), expect);
    }
    check_members(
        "openai",
        "o3",
        json!({"reasoning_effort": {"effort": "high", "summary": "auto"}}),
        json!({"reasoning_effort": "high"}),
    );
    let tools = json!([{"type": "function", "function": {"name": "f"}}]);
    check_members(
        "openai",
        "gpt-5.4",
        json!({"reasoning_effort": "high", "tools": tools}),
        json!({ "tools": tools }),
    );
}

#[test]
fn thinking_is_said_in_the_providers_words() {
    let on =
        json!({"thinking": {"type": "enabled", "budget_tokens": 4096}, "reasoning_effort": "high"});
    let off = json!({"thinking": {"type": "disabled"}, "reasoning_effort": "none"});
    let switch = |state: &str| json!({"thinking": {"type": state}});
    check_members(
        "deepseek",
        "deepseek-chat",
        on.clone(),
        json!({"thinking": {"type": "enabled"}, "reasoning_effort": "high"}),
    );
    check_members("deepseek", "deepseek-chat", off.clone(), switch("disabled"));
    check_members(
        "deepseek",
        "deepseek-chat",
        json!({"reasoning_effort": "none"}),
        switch("disabled"),
    );
    check_members("zai", "glm-4.6", on.clone(), switch("enabled"));
    check_members("volcengine", "doubao", off, switch("disabled"));
    check_members("moonshot", "kimi-k2.5", on.clone(), switch("enabled"));
    check_members("moonshot", "kimi-k2-0905", on.clone(), json!({}));
    check_members("openrouter", "m", on.clone(), json!({"reasoning": {"max_tokens": 4096}}));
    check_members(
        "openrouter",
        "m",
        json!({"reasoning_effort": "low"}),
        json!({"reasoning_effort": "low"}),
    );
    check_members("litellm_proxy", "m", on.clone(), on);
}

#[test]
fn top_k_is_kept_where_it_is_known() {
    for name in ["hosted_vllm", "ollama", "llamacpp", "openrouter", "together_ai", "fireworks_ai"] {
        check_members(name, "m", json!({"top_k": 5}), json!({"top_k": 5}));
    }
    for name in ["openai", "azure", "groq", "xai", "mistral"] {
        check_members(name, "m", json!({"top_k": 5}), json!({}));
    }
}

#[test]
fn a_web_search_needs_a_model_that_has_it() {
    let search = json!({"web_search_options": {}});
    check_members("openai", "gpt-4o-search-preview", search.clone(), search.clone());
    check_members("perplexity", "sonar", search.clone(), search.clone());
    let body = json!({"model": "m", "messages": [], "web_search_options": {}});
    let refused = translated("openai", "gpt-4o", false, body.clone()).expect_err("refused");
    assert!(refused.to_string().contains("['web_search_options']"), "{refused}");
    let dropped = translated("openai", "gpt-4o", true, body).expect("dropped");
    assert_eq!(dropped, json!({"model": "gpt-4o", "messages": []}));
}

#[test]
fn tools_of_other_providers_servers_are_refused_or_dropped() {
    let body = json!({"model": "m", "messages": [], "tool_choice": "auto", "parallel_tool_calls": false,
        "tools": [{"type": "web_search_20250305", "name": "web_search"}]});
    let refused = translated("openai", "gpt-4o", false, body.clone()).expect_err("refused");
    assert!(refused.to_string().contains("['tools']"), "{refused}");
    let dropped = translated("openai", "gpt-4o", true, body).expect("dropped");
    assert_eq!(dropped, json!({"model": "gpt-4o", "messages": []}));
    let custom = json!({"tools": [{"type": "custom", "custom": {"name": "f"}}]});
    check_members("openai", "gpt-5", custom.clone(), custom);
    check_members(
        "openai",
        "gpt-4o",
        json!({"tools": [{"type": "function", "cache_control": {}, "function": {"name": "f", "cache_control": {}}}]}),
        json!({"tools": [{"type": "function", "function": {"name": "f"}}]}),
    );
}

#[test]
fn cache_marks_go_to_who_knows_them() {
    let mark = json!({"type": "ephemeral"});
    let messages = json!([
        {"role": "system", "content": "s", "cache_control": mark},
        {"role": "user", "content": [{"type": "text", "text": "a", "cache_control": mark}, {"type": "text", "text": "b"}]},
    ]);
    check_messages(
        "openai",
        messages.clone(),
        json!([
            {"role": "system", "content": "s"},
            {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        ]),
    );
    check_messages(
        "openrouter",
        messages,
        json!([
            {"role": "system", "content": [{"type": "text", "text": "s", "cache_control": mark}]},
            {"role": "user", "content": [{"type": "text", "text": "a", "cache_control": mark}, {"type": "text", "text": "b"}]},
        ]),
    );
}

#[test]
fn what_was_thought_goes_back_to_who_wants_it() {
    let turn = json!({"role": "assistant", "content": "4", "reasoning_content": "2+2", "annotations": [],
        "thinking_blocks": [{"type": "thinking", "thinking": "2+2", "signature": "s"}], "provider_specific_fields": {}});
    check_messages("openai", json!([turn]), json!([{"role": "assistant", "content": "4"}]));
    check_messages(
        "moonshot",
        json!([turn]),
        json!([{"role": "assistant", "content": "4", "reasoning_content": "2+2"}]),
    );
    let only_thought = json!([{"role": "assistant", "reasoning_content": "hm"}]);
    check_messages("openai", only_thought, json!([{"role": "assistant", "content": ""}]));
    let body = json!({"model": "m", "messages": [{"role": "assistant", "content": "4"}], "thinking": {"type": "enabled"}});
    let sent = translated("deepseek", "deepseek-chat", false, body).expect("valid");
    assert_eq!(sent["messages"][0]["reasoning_content"], " ");
}

#[test]
fn signatures_stay_with_those_who_made_them() {
    check_messages(
        "openai",
        json!([{"role": "assistant", "tool_calls": [{"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"},
            "extra_content": {"google": {"thought_signature": "s"}}, "provider_specific_fields": {}, "cache_control": {}}]}]),
        json!([{"role": "assistant", "tool_calls": [{"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}]}]),
    );
}

#[test]
fn images_of_tools_follow_in_a_turn_of_the_user() {
    let image =
        |n: u32| json!({"type": "image_url", "image_url": {"url": format!("https://x/{n}.png")}});
    let calls = json!({"role": "assistant", "tool_calls": [
        {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}},
        {"id": "b", "type": "function", "function": {"name": "f", "arguments": "{}"}}]});
    let said = json!({"type": "text", "text": "The tool returned this:"});
    check_messages(
        "openai",
        json!([calls,
            {"role": "tool", "tool_call_id": "a", "content": [{"type": "text", "text": "one"}, image(1)]},
            {"role": "tool", "tool_call_id": "b", "content": [image(2)]},
            {"role": "user", "content": "and?"}]),
        json!([calls,
            {"role": "tool", "tool_call_id": "a", "content": [{"type": "text", "text": "one"}]},
            {"role": "tool", "tool_call_id": "b", "content": "See the next message."},
            {"role": "user", "content": [said, image(1), image(2)]},
            {"role": "user", "content": "and?"}]),
    );
    check_messages(
        "openai",
        json!([calls, {"role": "tool", "tool_call_id": "a", "content": [image(1)]}]),
        json!([calls, {"role": "tool", "tool_call_id": "a", "content": "See the next message."},
            {"role": "user", "content": [said, image(1)]}]),
    );
}

#[test]
fn documents_are_sent_as_the_provider_takes_them() {
    let file = |file: Value| json!([{"role": "user", "content": [{"type": "file", "file": file}]}]);
    let data = "data:application/pdf;base64,AA==";
    check_messages(
        "openai",
        file(json!({"file_data": data, "format": "application/pdf"})),
        file(json!({"file_data": data, "filename": "document.pdf"})),
    );
    check_messages("openai", file(json!({"file_id": "f1"})), file(json!({"file_id": "f1"})));
    let url = "https://x/a.pdf";
    check_messages(
        "openrouter",
        file(json!({"file_id": url, "filename": "a.pdf"})),
        file(json!({"file_data": url, "filename": "a.pdf"})),
    );
    check_messages(
        "openai",
        file(json!({"file_id": "https://x/a.png", "format": "image/png"})),
        json!([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://x/a.png"}}]}]),
    );
    check_messages(
        "mistral",
        file(json!({ "file_id": url })),
        json!([{"role": "user", "content": [{"type": "document_url", "document_url": url, "document_name": "document.pdf"}]}]),
    );
    let body = json!({"model": "m", "messages": file(json!({ "file_id": url }))});
    let refused = translated("openai", "gpt-4o", true, body).expect_err("refused").to_string();
    assert!(refused.contains("Documents by URL"), "{refused}");
}

#[test]
fn developers_are_systems_where_the_word_is_new() {
    let messages = json!([{"role": "developer", "content": "d"}]);
    check_messages("openai", messages.clone(), messages.clone());
    check_messages("groq", messages, json!([{"role": "system", "content": "d"}]));
}

#[test]
fn what_is_no_chat_is_refused() {
    let body = json!({"model": "m", "messages": "hi"});
    assert!(matches!(
        translated("openai", "gpt-4o", false, body),
        Err(RequestError::Invalid { .. })
    ));
}

#[test]
fn what_a_client_sends_is_not_touched() {
    let body = json!({"model": "gpt-4o", "messages": [{"role": "tool", "content": [{"type": "image_url"}]}],
        "top_k": 1, "thinking": {}, "max_tokens": 3, "web_search_options": {}});
    check("openai", "gpt-4o", body.clone(), body);
}
