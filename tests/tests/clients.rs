//! What the clients of each dialect rely on besides the answers themselves: ids, counts, lists of
//! models, defaults, and errors in their own form. Each was found with an official SDK.

use serde_json::{Value, json};
use tollway_simulator::Reply;
use tollway_tests::gateway::MASTER_KEY;
use tollway_tests::{Response, Setup, chat, get, post, post_with, stream};

const BEDROCK: &str = "
model_list:
  - model_name: nova
    litellm_params: { model: bedrock/amazon.nova-pro-v1:0, api_key: $KEY, api_base: $SIM }
";

/// Path and body of a chat in each dialect.
fn requests(model: &str, stream: bool) -> [(&'static str, String, Value); 4] {
    let messages = json!([{"role": "user", "content": "Hi"}]);
    let contents = json!([{"role": "user", "parts": [{"text": "Hi"}]}]);
    let method = if stream { "streamGenerateContent?alt=sse" } else { "generateContent" };
    [
        (
            "chat",
            "/v1/chat/completions".into(),
            json!({"model": model, "messages": messages, "stream": stream}),
        ),
        (
            "responses",
            "/v1/responses".into(),
            json!({"model": model, "input": "Hi", "stream": stream}),
        ),
        (
            "messages",
            "/v1/messages".into(),
            json!({"model": model, "max_tokens": 9, "messages": messages, "stream": stream}),
        ),
        ("gemini", format!("/v1beta/models/{model}:{method}"), json!({"contents": contents})),
    ]
}

/// What an error is told by: OpenAI's and Anthropic's `type`, Google's `status`.
fn word(dialect: &str, error: &Value) -> String {
    let member = if dialect == "gemini" { "status" } else { "type" };
    error["error"][member].as_str().unwrap_or_default().to_owned()
}

/// The last event of a stream.
fn last_event(response: &Response) -> Value {
    let body = response.text();
    let last = body.lines().rev().find_map(|line| line.strip_prefix("data: "));
    serde_json::from_str(last.unwrap_or_default()).unwrap_or_default()
}

#[tokio::test]
async fn errors_of_a_provider_are_told_in_each_dialect() {
    let setup = Setup::with("router_settings: { num_retries: 0 }").await;
    for model in ["gpt-4o-mini", "claude"] {
        for (status, openai, anthropic, google) in [
            (400, "invalid_request_error", "invalid_request_error", "INVALID_ARGUMENT"),
            (401, "authentication_error", "authentication_error", "UNAUTHENTICATED"),
            (403, "permission_error", "permission_error", "PERMISSION_DENIED"),
            (404, "invalid_request_error", "not_found_error", "NOT_FOUND"),
            (429, "throttling_error", "rate_limit_error", "RESOURCE_EXHAUSTED"),
            (500, "internal_server_error", "api_error", "INTERNAL"),
        ] {
            for stream in [false, true] {
                for (dialect, path, body) in requests(model, stream) {
                    setup.simulator.enqueue(Reply::error(status));
                    let response = post(setup.gateway.address, &path, &body).await;
                    assert_eq!(response.status, status, "{dialect}");
                    let expected = match dialect {
                        "messages" => anthropic,
                        "gemini" => google,
                        _ => openai,
                    };
                    let error = response.json();
                    assert_eq!(word(dialect, &error), expected, "{dialect} {status}: {error}");
                }
            }
        }
    }
}

#[tokio::test]
async fn a_refused_key_and_an_unknown_model_are_told_in_each_dialect() {
    let setup = Setup::start().await;
    let address = setup.gateway.address;
    for (dialect, path, body) in requests("nobody", false) {
        let stranger = [("authorization", "Bearer sk-stranger")];
        let refused = post_with(address, &path, &stranger, &body).await;
        let unknown = post(address, &path, &body).await;
        assert_eq!((refused.status, unknown.status), (401, 400), "{dialect}");
        let words = [word(dialect, &refused.json()), word(dialect, &unknown.json())];
        let expected = match dialect {
            "messages" => ["authentication_error", "invalid_request_error"],
            "gemini" => ["UNAUTHENTICATED", "INVALID_ARGUMENT"],
            _ => ["token_not_found_in_db", "invalid_request_error"],
        };
        assert_eq!(words, expected, "{dialect}");
    }
}

#[tokio::test]
async fn a_stream_that_breaks_ends_in_an_error_of_its_dialect() {
    let setup = Setup::with("router_settings: { num_retries: 0 }").await;
    for model in ["gpt-4o-mini", "claude"] {
        for (dialect, path, body) in requests(model, true) {
            setup.simulator.enqueue(Reply::text("one two three four five").cut_after(3));
            let response = post(setup.gateway.address, &path, &body).await;
            assert_eq!(response.status, 200, "{dialect}");
            let text = response.text();
            let last = last_event(&response);
            let is_told = match dialect {
                "chat" => last["error"]["message"].is_string(),
                "messages" => last["type"] == "error" && last["error"]["type"] == "api_error",
                "gemini" => last["error"]["code"] == 500,
                _ => last["type"] == "response.failed" || last["type"] == "error",
            };
            assert!(is_told, "{dialect}: {text}");
            for end in ["[DONE]", "message_stop", "response.completed", "\"STOP\"", "end_turn"] {
                assert!(!text.contains(end), "{dialect}: {end} in {text}");
            }
        }
    }
}

#[tokio::test]
async fn a_chat_model_serves_legacy_completions() {
    let setup = Setup::start().await;
    setup.simulator.enqueue(Reply::text("in a land"));
    let body = json!({"model": "gpt-4o-mini", "prompt": "Once", "max_tokens": 9});
    let response = post(setup.gateway.address, "/v1/completions", &body).await;
    assert_eq!(response.json()["choices"][0]["text"], "in a land");
    assert_eq!(response.json()["object"], "text_completion");
    assert!(setup.asked()[0].path.ends_with("/chat/completions"));
}

#[tokio::test]
async fn a_moderation_needs_no_model() {
    let config = "
model_list:
  - model_name: omni-moderation-latest
    litellm_params: { model: openai/omni-moderation-latest, api_key: $KEY, api_base: $SIM/v1 }
";
    let setup = Setup::with(config).await;
    let body = json!({"input": "hello"});
    let response = post(setup.gateway.address, "/v1/moderations", &body).await;
    assert_eq!(response.status, 200, "{}", response.text());
    assert_eq!(setup.asked()[0].json()["model"], "omni-moderation-latest");
}

#[tokio::test]
async fn two_answers_have_two_ids_where_the_provider_gives_none() {
    let setup = Setup::with(BEDROCK).await;
    for body in [chat("nova", "Hi"), stream("nova", "Hi")] {
        let mut ids = Vec::new();
        for _ in 0..2 {
            setup.simulator.enqueue(Reply::text("Hello"));
            let response = setup.chat(&body).await;
            let answer = match body["stream"] == true {
                true => serde_json::from_str(&response.events()[0]).expect("JSON"),
                false => response.json(),
            };
            ids.push(answer["id"].as_str().expect("an id").to_owned());
        }
        assert_ne!(ids[0], ids[1]);
    }
}

#[tokio::test]
async fn tokens_are_counted_where_the_provider_cannot() {
    let setup = Setup::start().await;
    let messages = json!([{"role": "user", "content": "How many tokens is this?"}]);
    let body = json!({"model": "claude", "messages": messages});
    for status in [404, 405, 501] {
        setup.simulator.enqueue(Reply::error(status));
        let response = post(setup.gateway.address, "/v1/messages/count_tokens", &body).await;
        assert_eq!(response.status, 200);
        let counted = response.json()["input_tokens"].as_u64();
        assert!(counted.is_some_and(|tokens| (3..30).contains(&tokens)), "{}", response.text());
    }
    // What is wrong with the request is still told.
    setup.simulator.enqueue(Reply::error(400));
    let response = post(setup.gateway.address, "/v1/messages/count_tokens", &body).await;
    assert_eq!(response.status, 400);
}

#[tokio::test]
async fn a_stream_without_usage_is_not_free() {
    let setup = Setup::start().await;
    for (model, said) in [("gpt-4o-mini", "one two"), ("claude", "three four")] {
        let said = format!("[[sim no_usage]] {said}");
        let response = setup.chat(&stream(model, &said)).await;
        assert_eq!(response.events().last().map(String::as_str), Some("[DONE]"));
        let line = setup.settled(&response).await;
        assert_eq!(line["usage_estimated"], true, "{line}");
    }
    let metric = |name| setup.gateway.metric(name, &[]);
    assert!(metric("litellm_input_tokens_metric_total").await >= 2.0);
    assert!(metric("litellm_output_tokens_metric_total").await >= 2.0);
}

#[tokio::test]
async fn each_sdk_is_told_the_models_in_its_form() {
    let setup = Setup::start().await;
    let address = setup.gateway.address;
    let anthropic = [("anthropic-version", "2023-06-01")];
    let list = get(address, "/v1/models", &anthropic).await;
    let (models, id) = (list.json(), "gpt-4o-mini");
    assert_eq!(models["data"][0]["type"], "model");
    assert_eq!((&models["first_id"], &models["has_more"]), (&json!(id), &json!(false)));
    let one = get(address, "/v1/models/claude", &anthropic).await.json();
    assert_eq!((&one["display_name"], one["max_tokens"].is_u64()), (&json!("claude"), true));
    let none = get(address, "/v1/models/nobody", &anthropic).await;
    assert_eq!((none.status, &none.json()["error"]["type"]), (404, &json!("not_found_error")));
    assert!(none.header("request-id").is_some());

    let own_header = [("x-goog-api-key", MASTER_KEY)];
    for (path, headers) in [("/v1beta/models", &[][..]), ("/v1/models", &own_header)] {
        let models = get(address, path, headers).await.json();
        assert_eq!(models["models"][0]["name"], "models/gpt-4o-mini");
    }
    let one = get(address, "/v1beta/models/claude", &[]).await.json();
    assert_eq!(one["name"], "models/claude");
    let none = get(address, "/v1beta/models/nobody", &[]).await;
    assert_eq!((none.status, &none.json()["error"]["status"]), (404, &json!("NOT_FOUND")));

    let openai = get(address, "/v1/models", &[]).await.json();
    assert_eq!(
        (&openai["object"], &openai["data"][0]["object"]),
        (&json!("list"), &json!("model"))
    );
}

#[tokio::test]
async fn anthropics_sdk_finds_the_requests_id() {
    let setup = Setup::start().await;
    for stream in [false, true] {
        for (dialect, path, body) in requests("claude", stream) {
            let response = post(setup.gateway.address, &path, &body).await;
            let (own, ours) = (response.header("request-id"), response.header("x-request-id"));
            assert_eq!(own, ours.filter(|_| dialect == "messages"), "{dialect}");
        }
    }
}

#[tokio::test]
async fn anthropics_errors_carry_the_requests_id() {
    let setup = Setup::start().await;
    let address = setup.gateway.address;
    let [_, _, (_, path, body), _] = requests("claude", false);
    setup.simulator.enqueue(Reply::error(400));
    for model in ["claude", "nobody"] {
        let mut body = body.clone();
        body["model"] = model.into();
        let refused = post(address, &path, &body).await;
        assert!(refused.status >= 400, "{}", refused.text());
        let id = refused.header("request-id").expect("an id");
        assert_eq!(refused.json()["request_id"], id, "{}", refused.text());
    }
}

#[tokio::test]
async fn wrong_types_are_named_in_the_clients_own_shape() {
    let setup = Setup::start().await;
    let address = setup.gateway.address;

    let part = json!({"type": "input_text", "text": 7});
    let body = json!({"model": "claude", "input": [{"role": "user", "content": ["Hi", part]}]});
    let refused = post(address, "/v1/responses", &body).await;
    assert_eq!(refused.status, 400, "{}", refused.text());
    assert_eq!(refused.error("param"), "input[0].content[1].text");
    assert_eq!(
        refused.error("message"),
        "litellm.BadRequestError: Invalid type for 'input[0].content[1].text': expected a string, but \
         got an integer instead."
    );

    let block = json!({"type": "text", "text": 7});
    let body = json!({"model": "gpt-4o-mini", "max_tokens": 9,
        "messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}, block]}]});
    let refused = post(address, "/v1/messages", &body).await;
    assert_eq!(refused.status, 400, "{}", refused.text());
    let expect =
        "litellm.BadRequestError: messages.0.content.1.text: Input should be a valid string";
    assert_eq!(refused.json()["error"]["message"], expect);

    let body = json!({"contents": [{"parts": [{"text": "Hi"}, {"text": 7}]}]});
    let refused = post(address, "/v1beta/models/gpt-4o-mini:generateContent", &body).await;
    assert_eq!(refused.status, 400, "{}", refused.text());
    let error = &refused.json()["error"];
    assert_eq!(error["status"], "INVALID_ARGUMENT");
    let field = &error["details"][0]["fieldViolations"][0]["field"];
    assert_eq!(field, "contents[0].parts[1].text", "{error}");
}
