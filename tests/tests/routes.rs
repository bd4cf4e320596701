//! Which paths there are, and what they say without asking a model.

use serde_json::{Value, json};
use tollway_tests::gateway::MASTER_KEY;
use tollway_tests::{Connection, Response, Setup, chat, client, get, post};

fn ids(list: &Response) -> Vec<String> {
    let list = list.json();
    let data = list["data"].as_array().expect("a list");
    data.iter().map(|model| model["id"].as_str().expect("an id").to_owned()).collect()
}

#[tokio::test]
async fn every_model_call_has_a_path_with_and_without_v1() {
    let setup = Setup::start().await;
    let bodies = [
        ("chat/completions", chat("gpt-4o-mini", "Hi"), "chat.completion"),
        (
            "completions",
            json!({"model": "gpt-3.5-turbo-instruct", "prompt": "Hi"}),
            "text_completion",
        ),
        ("embeddings", json!({"model": "text-embedding-3-small", "input": "Hi"}), "list"),
    ];
    for (path, body, object) in bodies {
        for prefix in ["/", "/v1/"] {
            let response = post(setup.gateway.address, &format!("{prefix}{path}"), &body).await;
            assert_eq!(response.status, 200, "{prefix}{path}: {}", response.text());
            assert_eq!(response.json()["object"], object);
            let asked = setup.simulator.next_request().await;
            assert_eq!((asked.method.as_str(), asked.path), ("POST", format!("/v1/{path}")));
        }
    }
}

#[tokio::test]
async fn health_checks_answer_as_litellm_does_and_need_no_key() {
    let setup = Setup::start().await;
    let no_key = [("authorization", "")];
    for path in ["/health/liveliness", "/health/liveness"] {
        let response = get(setup.gateway.address, path, &no_key).await;
        assert_eq!((response.status, response.text().as_str()), (200, "\"I'm alive!\""));
        assert_eq!(response.header("content-type"), Some("application/json"));
    }
    let ready = get(setup.gateway.address, "/health/readiness", &no_key).await;
    assert_eq!(ready.status, 200);
    assert_eq!(ready.json(), json!({"status": "healthy", "db": "connected"}));
}

#[tokio::test]
async fn metrics_are_prometheus_text_and_need_no_key() {
    let setup = Setup::start().await;
    for path in ["/metrics", "/metrics/"] {
        let response = get(setup.gateway.address, path, &[("authorization", "")]).await;
        assert_eq!(response.status, 200);
        assert_eq!(
            response.header("content-type"),
            Some("text/plain; version=0.0.4; charset=utf-8")
        );
        assert!(response.text().contains("# TYPE litellm_in_flight_requests gauge"));
    }
}

#[tokio::test]
async fn unknown_path_is_a_404_in_openais_shape() {
    let setup = Setup::start().await;
    for path in
        ["/", "/v1", "/v1/", "/v1/chat", "/v1/v1/models", "/healthy", "/v1/models/", "/x?y=1"]
    {
        let response = setup.get(path).await;
        assert_eq!(response.status, 404, "{path}");
        assert_eq!(response.header("content-type"), Some("application/json"));
        let bare = path.split('?').next().expect("a path");
        let expect = json!({"error": {
            "message": format!("Unknown request URL: GET {bare}."),
            "type": "invalid_request_error",
            "param": null,
            "code": "unknown_url",
        }});
        assert_eq!(response.json(), expect);
    }
    assert!(setup.asked().is_empty());
}

#[tokio::test]
async fn wrong_method_is_a_405_that_names_the_right_one() {
    let setup = Setup::start().await;
    for (method, path, allow) in [
        ("GET", "/v1/chat/completions", "POST"),
        ("DELETE", "/v1/embeddings", "POST"),
        ("POST", "/v1/models", "GET"),
        ("PUT", "/metrics", "GET"),
    ] {
        let response = client::send(setup.gateway.address, method, path, &[], b"{}").await;
        assert_eq!(response.status, 405, "{method} {path}");
        assert_eq!(response.header("allow"), Some(allow));
        assert_eq!(response.error("type"), "invalid_request_error");
    }
    assert!(setup.asked().is_empty());
}

#[tokio::test]
async fn head_is_get_without_the_body() {
    let setup = Setup::start().await;
    for path in ["/health/liveliness", "/v1/models", "/metrics"] {
        let mut connection = Connection::open(setup.gateway.address).await;
        let head = format!(
            "HEAD {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {MASTER_KEY}\r\n\r\n"
        );
        connection.write(head.as_bytes()).await;
        let (status, headers) = connection.head().await;
        assert_eq!(status, 200, "{path}");
        let length = headers.iter().find(|(name, _)| name == "content-length");
        assert_ne!(length.expect("a length").1, "0");
        // What follows at once is the answer to the next request, and no body.
        connection.request("GET", "/health/liveliness", &[], b"").await;
        assert_eq!(connection.response().await.text(), "\"I'm alive!\"");
    }
}

#[tokio::test]
async fn browsers_may_ask_without_a_key() {
    let setup = Setup::start().await;
    let headers = [
        ("authorization", ""),
        ("origin", "https://chat.example.com"),
        ("access-control-request-method", "POST"),
        ("access-control-request-headers", "authorization, content-type"),
    ];
    let path = "/v1/chat/completions";
    let response = client::send(setup.gateway.address, "OPTIONS", path, &headers, b"").await;
    assert!((200..300).contains(&response.status), "{}", response.status);
    assert!(response.header("access-control-allow-origin").is_some());
    let origin = [("origin", "https://chat.example.com"), ("authorization", "Bearer sk-wrong")];
    let refused = setup.chat_with(&origin, &chat("gpt-4o-mini", "Hi")).await;
    assert_eq!(refused.status, 401);
    // Else the page could not read why.
    assert!(refused.header("access-control-allow-origin").is_some());
}

const MANY: &str = "
model_list:
  - model_name: gpt-4o-mini
    litellm_params: { model: openai/gpt-4o-mini, api_key: $KEY, api_base: $SIM/v1 }
  - model_name: claude
    litellm_params: { model: anthropic/claude-3-5-sonnet-20241022, api_key: $KEY, api_base: $SIM }
  - model_name: 'openai/*'
    litellm_params: { model: 'openai/*', api_key: $KEY, api_base: $SIM/v1 }
router_settings:
  model_group_alias:
    gpt-4: gpt-4o-mini
    secret: { model: gpt-4o-mini, hidden: true }
keys:
  - { alias: small, key: sk-small-00000001, models: [gpt-4o-mini] }
  - { alias: wild, key: sk-wild-000000001, models: ['openai/*'] }
";

#[tokio::test]
async fn models_are_listed_in_openais_shape() {
    let setup = Setup::with(MANY).await;
    for path in ["/models", "/v1/models"] {
        let list = setup.get(path).await;
        assert_eq!(list.status, 200);
        assert_eq!(list.json()["object"], "list");
        let all = list.json();
        let mini = all["data"].as_array().expect("a list").iter();
        let mini: Vec<&Value> = mini.filter(|model| model["id"] == "gpt-4o-mini").collect();
        assert_eq!(mini.len(), 1, "listed once");
        assert_eq!(mini[0]["object"], "model");
        assert_eq!(mini[0]["created"], 1_677_610_602);
        assert_eq!(mini[0]["owned_by"], "openai");
        assert_eq!(mini[0]["mode"], "chat");
        assert_eq!(mini[0]["max_input_tokens"], 128_000);
        assert_eq!(mini[0]["max_output_tokens"], 16_384);
    }
}

#[tokio::test]
async fn wildcard_is_listed_as_the_models_it_stands_for() {
    let setup = Setup::with(MANY).await;
    let ids = ids(&setup.get("/v1/models").await);
    let below = ids.iter().filter(|id| id.starts_with("openai/")).count();
    assert!(below > 20, "{ids:?}");
    assert!(ids.contains(&"openai/gpt-4o".to_owned()));
    assert!(!ids.iter().any(|id| id.contains('*')));
}

#[tokio::test]
async fn hidden_alias_is_not_listed_and_can_be_called() {
    let setup = Setup::with(MANY).await;
    let ids = ids(&setup.get("/v1/models").await);
    assert!(ids.contains(&"gpt-4".to_owned()), "{ids:?}");
    assert!(!ids.contains(&"secret".to_owned()));
    let response = setup.chat(&chat("secret", "Hi")).await;
    assert_eq!(response.status, 200, "{}", response.text());
    assert_eq!(response.json()["model"], "secret");
}

#[tokio::test]
async fn single_model_is_found_by_its_name_with_slashes_in_it() {
    let setup = Setup::with(MANY).await;
    for (path, id) in [
        ("/v1/models/gpt-4o-mini", "gpt-4o-mini"),
        ("/models/gpt-4o-mini", "gpt-4o-mini"),
        ("/v1/models/openai/gpt-4o", "openai/gpt-4o"),
        ("/v1/models/openai%2Fgpt-4o", "openai/gpt-4o"),
    ] {
        let model = setup.get(path).await;
        assert_eq!((model.status, &model.json()["id"]), (200, &json!(id)), "{path}");
        assert_eq!(model.json()["object"], "model");
    }
    let none = setup.get("/v1/models/nope").await;
    assert_eq!(none.status, 404);
    assert_eq!(none.error("code"), "model_not_found");
}

#[tokio::test]
async fn key_sees_the_models_it_may_call_and_no_others() {
    let setup = Setup::with(MANY).await;
    let address = setup.gateway.address;
    let small = [("authorization", "Bearer sk-small-00000001")];
    let list = ids(&get(address, "/v1/models", &small).await);
    assert!(list.contains(&"gpt-4o-mini".to_owned()));
    assert!(!list.contains(&"claude".to_owned()));
    assert!(!list.iter().any(|id| id.starts_with("openai/")), "{list:?}");
    assert_eq!(get(address, "/v1/models/claude", &small).await.status, 404);
    let wild = [("authorization", "Bearer sk-wild-000000001")];
    let list = ids(&get(address, "/v1/models", &wild).await);
    assert!(!list.is_empty() && list.iter().all(|id| id.starts_with("openai/")), "{list:?}");
    let none = get(address, "/v1/models", &[("authorization", "")]).await;
    assert_eq!(none.status, 401);
}

#[tokio::test]
async fn wildcard_puts_the_callers_suffix_into_the_model() {
    let setup = Setup::with(MANY).await;
    let response = setup.chat(&chat("openai/gpt-4o", "Hi")).await;
    assert_eq!(response.status, 200, "{}", response.text());
    assert_eq!(response.json()["model"], "openai/gpt-4o");
    assert_eq!(setup.simulator.next_request().await.model().as_deref(), Some("gpt-4o"));
}
