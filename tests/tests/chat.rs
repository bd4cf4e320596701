//! A call and its answer, one to one: what is passed on, what is changed, and what is kept back.

use serde_json::json;
use tollway_simulator::Reply;
use tollway_tests::gateway::MASTER_KEY;
use tollway_tests::setup::UPSTREAM_KEY;
use tollway_tests::{Connection, Response, Setup, chat, client, post};

/// An answer as no JSON library would write it: every byte of it is to be kept.
const ODD_ANSWER: &str = "{ \"id\" : \"chatcmpl-1\",\n\t\"object\":\"chat.completion\", \"created\":1.7E9,
  \"model\": \"gpt-4o-mini\", \"x_new_member\": {\"model\": \"nested\", \"n\": 1e2, \"b\": 1.10},
  \"choices\":[{\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":\"\\u00e9 \\/ \u{e9}\"},
  \"finish_reason\":\"stop\"}], \"usage\" :{\"prompt_tokens\":5,\"completion_tokens\":7,\"total_tokens\":12} }\n";

#[tokio::test]
async fn answer_is_passed_on_byte_for_byte() {
    let setup = Setup::start().await;
    setup.simulator.enqueue(Reply::body(200, "application/json", ODD_ANSWER));
    let response = setup.chat(&chat("gpt-4o-mini", "Hi")).await;
    assert_eq!((response.status, response.text().as_str()), (200, ODD_ANSWER));
    assert_eq!(response.header("content-type"), Some("application/json"));
    assert_eq!(response.header("content-length"), Some(&*ODD_ANSWER.len().to_string()));
}

#[tokio::test]
async fn answer_under_another_name_differs_in_its_model_only() {
    let setup = Setup::start().await;
    setup.simulator.enqueue(Reply::body(200, "application/json", ODD_ANSWER));
    let response = setup.chat(&chat("fast", "Hi")).await;
    assert_eq!(response.text(), ODD_ANSWER.replace("\"gpt-4o-mini\"", "\"fast\""));
}

#[tokio::test]
async fn request_is_passed_on_with_nothing_but_its_model_changed() {
    let setup = Setup::start().await;
    let body = "{ \"messages\" :[{\"role\":\"user\",\"content\":\"caf\\u00e9 \u{1f980}\"} ],
  \"temperature\":1.0e0, \"seed\": 123456789012345678, \"x_unknown\":{\"model\":\"fast\",\"a\":[1,2.50]},
\t\"model\" :\"fast\" , \"top_p\": 0.10, \"logit_bias\": {\"50256\": -100} }";
    let response =
        client::send(setup.gateway.address, "POST", "/v1/chat/completions", &[], body.as_bytes());
    assert_eq!(response.await.status, 200);
    let asked = setup.simulator.next_request().await;
    let expect = body.replace("\"model\" :\"fast\"", "\"model\" :\"gpt-4o-mini\"");
    assert_eq!(String::from_utf8_lossy(&asked.body), expect);
    assert_eq!(asked.header("content-length"), Some(&*expect.len().to_string()));
    assert_eq!(asked.header("transfer-encoding"), None);
}

#[tokio::test]
async fn members_that_are_meant_for_the_gateway_stay_here() {
    let setup = Setup::start().await;
    let mut body = chat("fast", "Hi");
    let own = json!({
        "cache": {"no-store": true}, "caching": false, "num_retries": 0, "timeout": 30,
        "fallbacks": [], "tags": ["a"], "metadata": {"a": 1}, "guardrails": [],
        "litellm_call_id": "x", "drop_params": true, "additional_drop_params": ["seed"],
        "mock_testing_fallbacks": false,
    });
    for (name, value) in own.as_object().expect("an object") {
        body[name] = value.clone();
    }
    body["seed"] = 1.into();
    body["temperature"] = 0.5.into();
    let response = setup.chat(&body).await;
    assert_eq!(response.status, 200, "{}", response.text());
    let mut expect = chat("gpt-4o-mini", "Hi");
    expect["temperature"] = 0.5.into();
    assert_eq!(setup.simulator.next_request().await.json(), expect);
}

#[tokio::test]
async fn upstream_gets_our_headers_and_none_of_the_callers() {
    let setup = Setup::start().await;
    let headers = [
        ("cookie", "session=canary"),
        ("x-forwarded-for", "10.0.0.1"),
        ("forwarded", "for=10.0.0.1"),
        ("x-nominated", "canary"),
        ("connection", "keep-alive, x-nominated"),
        ("accept-encoding", "gzip, br"),
        ("user-agent", "canary/1"),
        ("openai-organization", "org-canary"),
        ("x-litellm-timeout", "30"),
        ("referer", "https://canary.example.com"),
        ("via", "1.1 canary"),
    ];
    let response = setup.chat_with(&headers, &chat("gpt-4o-mini", "Hi")).await;
    assert_eq!(response.status, 200, "{}", response.text());
    let asked = setup.simulator.next_request().await;
    let mut names: Vec<String> =
        asked.headers.iter().map(|(name, _)| name.to_ascii_lowercase()).collect();
    names.sort();
    let expect =
        ["accept", "authorization", "content-length", "content-type", "host", "user-agent"];
    assert_eq!(names, expect);
    assert_eq!(asked.header("authorization"), Some(&*format!("Bearer {UPSTREAM_KEY}")));
    assert_eq!(asked.header("host"), Some(&*setup.simulator.addr().to_string()));
    assert!(asked.headers.iter().all(|(_, value)| !value.contains("canary")));
    assert!(asked.headers.iter().all(|(_, value)| !value.contains(MASTER_KEY)));
}

#[tokio::test]
async fn anthropic_gets_its_own_headers() {
    let setup = Setup::start().await;
    assert_eq!(setup.chat(&chat("claude", "Hi")).await.status, 200);
    let asked = setup.simulator.next_request().await;
    assert_eq!(asked.path, "/v1/messages");
    assert_eq!(asked.header("x-api-key"), Some(UPSTREAM_KEY));
    assert_eq!(asked.header("anthropic-version"), Some("2023-06-01"));
    assert_eq!(asked.header("authorization"), None);
    assert_eq!(asked.header("accept-encoding"), None);
}

#[tokio::test]
async fn anthropic_answers_in_openais_shape_under_the_callers_name() {
    let setup = Setup::start().await;
    setup.simulator.enqueue(Reply::text("Good day.").usage(11, 5));
    let mut body = chat("claude", "Hello");
    body["messages"] = json!([
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hello"},
    ]);
    body["stop"] = json!(["END"]);
    let response = setup.chat(&body).await;
    assert_eq!(response.status, 200, "{}", response.text());
    let answer = response.json();
    assert_eq!(answer["object"], "chat.completion");
    assert_eq!(answer["model"], "claude");
    assert_eq!(answer["choices"][0]["message"]["content"], "Good day.");
    assert_eq!(answer["choices"][0]["message"]["role"], "assistant");
    assert_eq!(answer["choices"][0]["finish_reason"], "stop");
    assert_eq!(answer["usage"]["prompt_tokens"], 11);
    assert_eq!(answer["usage"]["completion_tokens"], 5);
    assert_eq!(answer["usage"]["total_tokens"], 16);
    let asked = setup.simulator.next_request().await.json();
    assert_eq!(asked["model"], "claude-3-5-sonnet-20241022");
    assert!(asked["system"].to_string().contains("Be brief."));
    assert_eq!(asked["messages"].as_array().map(Vec::len), Some(1));
    assert_eq!(asked["stop_sequences"], json!(["END"]));
    assert!(asked["max_tokens"].is_u64(), "Anthropic requires it");
}

#[tokio::test]
async fn tools_are_called_through_anthropic() {
    let setup = Setup::start().await;
    setup
        .simulator
        .enqueue(Reply::tool("weather", r#"{"city":"Ulm"}"#).and_tool("time", r#"{"zone":"CET"}"#));
    let mut body = chat("claude", "How is the weather?");
    let function = |name: &str| {
        let parameters = json!({"type": "object", "properties": {}});
        json!({"type": "function", "function": {"name": name, "parameters": parameters}})
    };
    body["tools"] = json!([function("weather"), function("time")]);
    let answer = setup.chat(&body).await.json();
    let choice = &answer["choices"][0];
    assert_eq!(choice["finish_reason"], "tool_calls");
    let calls = choice["message"]["tool_calls"].as_array().expect("calls");
    let calls: Vec<_> = calls
        .iter()
        .map(|call| (call["function"]["name"].as_str(), call["function"]["arguments"].as_str()))
        .collect();
    let expect =
        [(Some("weather"), Some(r#"{"city":"Ulm"}"#)), (Some("time"), Some(r#"{"zone":"CET"}"#))];
    assert_eq!(calls, expect);
    let asked = setup.simulator.next_request().await.json();
    assert_eq!(asked["tools"][0]["name"], "weather");
    assert!(asked["tools"][0]["input_schema"].is_object());
}

#[tokio::test]
async fn legacy_completions_and_embeddings_pass_through() {
    let setup = Setup::start().await;
    let address = setup.gateway.address;
    setup.simulator.enqueue(Reply::text("of times"));
    let body = json!({"model": "gpt-3.5-turbo-instruct", "prompt": "It was the best"});
    let completion = post(address, "/v1/completions", &body).await;
    assert_eq!(completion.json()["choices"][0]["text"], "of times");
    let body = json!({"model": "text-embedding-3-small", "input": ["a", "b"], "dimensions": 8});
    let embeddings = post(address, "/v1/embeddings", &body).await;
    let data = embeddings.json()["data"].as_array().expect("a list").len();
    assert_eq!((embeddings.status, data), (200, 2));
    assert_eq!(embeddings.json()["model"], "text-embedding-3-small");
    let asked = setup.simulator.wait_for(|asked| asked.path == "/v1/embeddings").await;
    assert_eq!(asked.json(), body);
}

fn has_hex_id(response: &Response) -> bool {
    let id = response.header("x-litellm-model-id").expect("an id");
    id.len() == 64 && id.bytes().all(|byte| byte.is_ascii_hexdigit())
}

#[tokio::test]
async fn answer_tells_in_litellms_headers_what_became_of_the_call() {
    let config = "keys: [{alias: ci, key: sk-ci-00000000001, rpm: 100, tpm: 100000}]";
    let setup = Setup::with(config).await;
    setup.simulator.enqueue(Reply::text("Hi").usage(1000, 100));
    let response = setup.chat_as("sk-ci-00000000001", &chat("fast", "Hi")).await;
    let base = format!("{}/v1", setup.simulator.base_url());
    for (name, value) in [
        ("x-litellm-model-name", "openai/gpt-4o-mini"),
        ("x-litellm-model-group", "fast"),
        ("x-litellm-model-api-base", base.as_str()),
        // 1000 × $0.15 and 100 × $0.60 a million.
        ("x-litellm-response-cost", "0.00021"),
        ("x-litellm-attempted-retries", "0"),
        ("x-litellm-attempted-fallbacks", "0"),
        ("x-litellm-key-rpm-limit", "100"),
        ("x-litellm-key-tpm-limit", "100000"),
        ("x-ratelimit-limit-requests", "100"),
        ("x-ratelimit-remaining-requests", "99"),
        ("x-ratelimit-limit-tokens", "100000"),
        ("llm_provider-x-request-id", "req_sim_1"),
    ] {
        assert_eq!(response.header(name), Some(value), "{name}");
    }
    assert!(has_hex_id(&response));
    let version = response.header("x-litellm-version").expect("a version");
    assert!(version.starts_with("tollway-"), "{version}");
    assert_eq!(response.header("x-request-id"), response.header("x-litellm-call-id"));
    for name in ["x-litellm-response-duration-ms", "x-litellm-overhead-duration-ms"] {
        let millis: f64 = response.header(name).and_then(|n| n.parse().ok()).expect("a number");
        assert!((0.0..60_000.0).contains(&millis), "{name}: {millis}");
    }
}

#[tokio::test]
async fn callers_id_is_taken_over_where_it_is_sane() {
    let setup = Setup::start().await;
    let id = "trace-0123.4:5_6";
    let response = setup.chat_with(&[("x-litellm-call-id", id)], &chat("gpt-4o-mini", "Hi")).await;
    assert_eq!(response.header("x-litellm-call-id"), Some(id));
    let long = "a".repeat(129);
    for bad in ["a b", "<script>", long.as_str()] {
        let headers = [("x-litellm-call-id", bad)];
        let response = setup.chat_with(&headers, &chat("gpt-4o-mini", "Hi")).await;
        let own = response.header("x-litellm-call-id").expect("an id");
        assert_eq!((own.len(), own.matches('-').count()), (36, 4), "a UUID: {own}");
    }
}

#[tokio::test]
async fn upstreams_own_headers_are_not_passed_on() {
    let setup = Setup::start().await;
    let reply = Reply::text("Hi")
        .header("set-cookie", "canary=1")
        .header("server", "canary")
        .header("x-ratelimit-remaining-requests", "17")
        .header("x-internal", "canary")
        .header("access-control-allow-origin", "canary");
    setup.simulator.enqueue(reply);
    let response = setup.chat(&chat("gpt-4o-mini", "Hi")).await;
    assert_eq!(response.status, 200);
    let leaked = response.headers.iter().find(|(_, value)| value.contains("canary"));
    assert_eq!(leaked, None);
    assert_eq!(response.header("llm_provider-x-ratelimit-remaining-requests"), Some("17"));
    assert_eq!(response.header("x-ratelimit-remaining-requests"), None);
}

#[tokio::test]
async fn upstreams_echo_of_our_credential_does_not_reach_the_caller() {
    let setup = Setup::start().await;
    for model in ["gpt-4o-mini", "claude"] {
        for streamed in [false, true] {
            for split in ["", "split=7"] {
                let mut body = chat(model, &format!("[[sim echo_headers {split}]]"));
                body["stream"] = streamed.into();
                let response = setup.chat(&body).await;
                assert_eq!(response.status, 200);
                assert!(!response.text().contains(UPSTREAM_KEY), "{model} {streamed} {split}");
                let leaked = response.headers.iter().find(|(_, v)| v.contains(UPSTREAM_KEY));
                assert_eq!(leaked, None);
            }
        }
        let message = format!("Incorrect API key provided: {UPSTREAM_KEY}.");
        let error = Reply::error(400).message(message).header("x-request-id", UPSTREAM_KEY);
        setup.simulator.enqueue(error);
        let response = setup.chat(&chat(model, "Hi")).await;
        assert_eq!(response.status, 400);
        assert!(response.text().contains("Incorrect API key"), "{}", response.text());
        assert!(!response.text().contains(UPSTREAM_KEY));
        assert!(response.headers.iter().all(|(_, value)| !value.contains(UPSTREAM_KEY)));
    }
}

#[tokio::test]
async fn connection_carries_one_call_after_the_other() {
    let setup = Setup::start().await;
    let mut connection = Connection::open(setup.gateway.address).await;
    for round in 0..5 {
        let said = format!("round {round}");
        let body = chat("gpt-4o-mini", &format!("[[sim say=\"{said}\"]]")).to_string();
        connection.request("POST", "/v1/chat/completions", &[], body.as_bytes()).await;
        let response = connection.response().await;
        assert_eq!(response.json()["choices"][0]["message"]["content"], said);
    }
    // Upstream as well.
    assert_eq!(setup.simulator.connections().total, 1);
}

#[tokio::test]
async fn pipelined_calls_are_answered_in_order() {
    let setup = Setup::start().await;
    let mut connection = Connection::open(setup.gateway.address).await;
    for said in ["first", "second", "third"] {
        let body = chat("gpt-4o-mini", &format!("[[sim say={said}]]")).to_string();
        connection.request("POST", "/v1/chat/completions", &[], body.as_bytes()).await;
    }
    for said in ["first", "second", "third"] {
        let response = connection.response().await;
        assert_eq!(response.json()["choices"][0]["message"]["content"], said);
    }
}

#[tokio::test]
async fn config_of_litellm_that_puts_claude_under_openais_names_answers() {
    let config = "
model_list:
  - model_name: gpt-4o-mini
    litellm_params: { model: claude-3-5-sonnet-20241022, api_key: os.environ/ANTHROPIC_API_KEY, api_base: $SIM }
  - model_name: gpt-4o
    litellm_params: { model: claude-3-opus-20240229, api_key: os.environ/ANTHROPIC_API_KEY, api_base: $SIM }
  - model_name: text-embedding-3-small
    litellm_params: { model: openai/text-embedding-3-small, api_key: os.environ/OPENAI_API_KEY, api_base: $SIM/v1 }
";
    let env =
        [("ANTHROPIC_API_KEY", "sk-ant-test-123456"), ("OPENAI_API_KEY", "sk-oai-test-123456")];
    let setup = Setup::with_env(config, &env).await;
    for (model, target) in
        [("gpt-4o-mini", "claude-3-5-sonnet-20241022"), ("gpt-4o", "claude-3-opus-20240229")]
    {
        let mut body = chat(model, "[[sim say=\"Good day.\"]]");
        let response = setup.chat(&body).await;
        assert_eq!(response.status, 200, "{}", response.text());
        assert_eq!(response.json()["model"], model);
        let cost = response.header("x-litellm-response-cost").expect("a price is known");
        assert_ne!(cost, "0");
        let asked = setup.simulator.next_request().await;
        assert_eq!(asked.path, "/v1/messages");
        assert_eq!(asked.model().as_deref(), Some(target));
        assert_eq!(asked.header("x-api-key"), Some("sk-ant-test-123456"));
        body["stream"] = true.into();
        let response = setup.chat(&body).await;
        assert_eq!(response.events().last().map(String::as_str), Some("[DONE]"));
        setup.simulator.next_request().await;
    }
    let body = json!({"model": "text-embedding-3-small", "input": "Hi"});
    let response = post(setup.gateway.address, "/v1/embeddings", &body).await;
    assert_eq!(response.status, 200);
    let asked = setup.simulator.next_request().await;
    assert_eq!(asked.header("authorization"), Some("Bearer sk-oai-test-123456"));
}

#[tokio::test]
async fn reasons_to_finish_are_told_in_openais_words() {
    let setup = Setup::start().await;
    for model in ["gpt-4o-mini", "claude"] {
        for reason in ["stop", "length", "content_filter"] {
            let said = format!("[[sim say=\"one two\" finish={reason}]]");
            let response = setup.chat(&chat(model, &said)).await;
            let choice = &response.json()["choices"][0];
            assert_eq!(choice["finish_reason"], reason, "{model}");
            let streamed = setup.chat(&tollway_tests::stream(model, &said)).await;
            let finish = format!("\"finish_reason\":\"{reason}\"");
            assert_eq!(streamed.text().matches(&finish).count(), 1, "{model}: {reason}");
        }
    }
}

#[tokio::test]
async fn thinking_of_anthropics_models_comes_with_its_signature() {
    let config = "
model_list:
  - model_name: claude
    litellm_params: { model: anthropic/claude-haiku-4-5, api_key: $KEY, api_base: $SIM }
";
    let setup = Setup::with(config).await;
    let thinking = || Reply::text("So it is.").thinking("Let me see.");
    let mut body = chat("claude", "Is it?");
    body["thinking"] = json!({"type": "enabled", "budget_tokens": 1024});
    body["max_tokens"] = 2000.into();
    setup.simulator.enqueue(thinking());
    let answer = setup.chat(&body).await.json();
    let message = &answer["choices"][0]["message"];
    assert_eq!(message["reasoning_content"], "Let me see.");
    assert_eq!(message["content"], "So it is.");
    let block = &message["thinking_blocks"][0];
    assert_eq!((&block["type"], &block["thinking"]), (&json!("thinking"), &json!("Let me see.")));
    let signature = block["signature"].as_str().expect("a signature").to_owned();
    assert!(!signature.is_empty());
    let asked = setup.simulator.next_request().await.json();
    assert_eq!(asked["thinking"], json!({"type": "enabled", "budget_tokens": 1024}));

    // It is handed back as it came.
    body["messages"] = json!([
        {"role": "user", "content": "Is it?"},
        message,
        {"role": "user", "content": "Sure?"},
    ]);
    assert_eq!(setup.chat(&body).await.status, 200);
    let asked = setup.simulator.next_request().await.json();
    let kept = &asked["messages"][1]["content"][0];
    assert_eq!((&kept["type"], &kept["signature"]), (&json!("thinking"), &json!(signature)));

    body["stream"] = true.into();
    setup.simulator.enqueue(thinking());
    let streamed = setup.chat(&body).await;
    let mut thought = String::new();
    for event in streamed.events().iter().filter(|event| *event != "[DONE]") {
        let event: serde_json::Value = serde_json::from_str(event).expect("JSON");
        let delta = &event["choices"][0]["delta"];
        thought.push_str(delta["reasoning_content"].as_str().unwrap_or_default());
    }
    assert_eq!(thought, "Let me see.");
    assert!(streamed.text().contains(&signature));
}

#[tokio::test]
async fn images_and_cache_marks_reach_anthropic() {
    let setup = Setup::start().await;
    let mut body = chat("claude", "");
    body["messages"] = json!([{"role": "user", "content": [
        {"type": "text", "text": "What is this?", "cache_control": {"type": "ephemeral"}},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}},
        {"type": "image_url", "image_url": {"url": "https://example.com/cat.png"}},
    ]}]);
    assert_eq!(setup.chat(&body).await.status, 200);
    let asked = setup.simulator.next_request().await.json();
    let content = &asked["messages"][0]["content"];
    assert_eq!(content[0]["cache_control"], json!({"type": "ephemeral"}));
    let source = json!({"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="});
    assert_eq!(content[1], json!({"type": "image", "source": source}));
    let source = json!({"type": "url", "url": "https://example.com/cat.png"});
    assert_eq!(content[2]["source"], source);
}

#[tokio::test]
async fn parameter_that_the_provider_lacks_is_refused_or_dropped() {
    let setup = Setup::start().await;
    let mut body = chat("claude", "Hi");
    body["presence_penalty"] = 0.5.into();
    let refused = setup.chat(&body).await;
    assert_eq!(refused.status, 400, "{}", refused.text());
    let message = refused.error("message").as_str().expect("a text").to_owned();
    let start = "litellm.UnsupportedParamsError: anthropic does not support parameters: \
                 ['presence_penalty'], for model=claude-3-5-sonnet-20241022.";
    assert!(message.starts_with(start), "{message}");
    assert!(setup.asked().is_empty());
    body["drop_params"] = true.into();
    assert_eq!(setup.chat(&body).await.status, 200);
    assert!(setup.simulator.next_request().await.json().get("presence_penalty").is_none());
    body["drop_params"] = false.into();
    let dropping = Setup::with("litellm_settings: { drop_params: true }").await;
    body.as_object_mut().expect("an object").remove("drop_params");
    assert_eq!(dropping.chat(&body).await.status, 200);
}
