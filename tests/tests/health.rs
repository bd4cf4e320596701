//! `/health`: whether the deployments work.

use serde_json::{Value, json};
use tollway_tests::gateway::MASTER_KEY;
use tollway_tests::servers::{HandMade, Refusing};
use tollway_tests::setup::{MODELS, Setup, UPSTREAM_KEY, chat};
use tollway_tests::{Gateway, get};

const RESTRICTED: &str = "sk-restricted-0123456789";

fn names(endpoints: &Value) -> Vec<&str> {
    let endpoints = endpoints.as_array().expect("a list").iter();
    let mut names: Vec<_> = endpoints.filter_map(|it| it["model"].as_str()).collect();
    names.sort_unstable();
    names
}

#[tokio::test]
async fn every_deployment_is_called_once_by_the_smallest_call() {
    let more = "
  - model_name: claude-*
    litellm_params: { model: anthropic/claude-*, api_key: $KEY, api_base: $SIM }
  - model_name: groq/*
    litellm_params: { model: groq/*, api_key: $KEY, api_base: $SIM/v1 }
    model_info: { health_check_model: groq/llama-3.3-70b-versatile, health_check_max_tokens: 5 }
  - model_name: pictures
    litellm_params: { model: openai/gpt-image-1, api_key: $KEY, api_base: $SIM/v1 }
";
    let setup = Setup::with(&format!("{MODELS}{more}")).await;
    let health = setup.get("/health").await;
    assert_eq!(health.status, 200);
    let health = health.json();
    assert_eq!((&health["healthy_count"], &health["unhealthy_count"]), (&json!(6), &json!(0)));
    assert_eq!(health["unhealthy_endpoints"], json!([]));
    assert_eq!(
        names(&health["healthy_endpoints"]),
        [
            "anthropic/claude-3-5-sonnet-20241022",
            "groq/*",
            "openai/gpt-3.5-turbo-instruct",
            "openai/gpt-4o-mini",
            "openai/gpt-4o-mini",
            "openai/text-embedding-3-small",
        ]
    );
    let first = &health["healthy_endpoints"][0];
    assert!(first["model_id"].is_string() && first["api_base"].is_string(), "{first}");
    let text = health.to_string();
    assert!(!text.contains(UPSTREAM_KEY) && !text.contains("api_key"), "{text}");

    let asked = setup.asked();
    assert_eq!(asked.len(), 6);
    let body_of = |path: &str| {
        let asked = asked.iter().find(|asked| asked.path == path);
        let asked = asked.unwrap_or_else(|| panic!("{path} was not asked"));
        serde_json::from_slice::<Value>(&asked.body).expect("JSON")
    };
    assert_eq!(body_of("/v1/embeddings")["input"], json!(["Hi"]));
    assert_eq!(body_of("/v1/completions")["prompt"], "Hi");
    assert_eq!(body_of("/v1/messages")["max_tokens"], 1);
    let groq = asked
        .iter()
        .filter_map(|asked| serde_json::from_slice::<Value>(&asked.body).ok())
        .find(|body| body["model"] == "llama-3.3-70b-versatile")
        .expect("the wildcard's own model");
    assert_eq!(groq["max_tokens"], 5);
    // Nobody is billed for it.
    let tokens = setup.gateway.metric("litellm_total_tokens_metric_total", &[]).await;
    assert_eq!(tokens, 0.0);
    assert!(setup.gateway.metrics().await.contains("litellm_deployment_state{"));
}

#[tokio::test]
async fn what_does_not_work_is_told_with_its_reason() {
    let (upstream, nobody) = (HandMade::start().await, Refusing::start());
    let gateway = Gateway::start(&format!(
        "
model_list:
  - model_name: silent
    litellm_params: {{ model: openai/gpt-4o, api_key: {UPSTREAM_KEY}, api_base: 'http://{0}/v1' }}
    model_info: {{ id: silent, health_check_timeout: 200ms }}
  - model_name: refusing
    litellm_params: {{ model: openai/gpt-4o, api_key: {UPSTREAM_KEY}, api_base: 'http://{1}/v1' }}
    model_info: {{ id: refusing }}
general_settings: {{ master_key: {MASTER_KEY} }}
",
        upstream.address, nobody.address
    ))
    .await;
    let health = get(gateway.address, "/health", &[]).await.json();
    assert_eq!((&health["healthy_count"], &health["unhealthy_count"]), (&json!(0), &json!(2)));
    let silent = &health["unhealthy_endpoints"][0];
    assert_eq!(
        (&silent["model_id"], &silent["model"]),
        (&json!("silent"), &json!("openai/gpt-4o"))
    );
    assert!(silent["error"].as_str().is_some_and(|error| error.contains("timed out")), "{silent}");
    let serve = async {
        let mut call = upstream.call().await;
        let body = format!("{{\"error\":{{\"message\":\"no {UPSTREAM_KEY}\"}}}}");
        let head = format!("HTTP/1.1 401 No\r\ncontent-length: {}\r\n\r\n", body.len());
        call.write(head + &body).await;
    };
    // The first check's call has been left: it is there to be taken as well.
    drop(upstream.accept().await);
    let path = "/health?model_id=silent";
    let (health, ()) = tokio::join!(get(gateway.address, path, &[]), serve);
    let health = health.json();
    assert_eq!(health["unhealthy_count"], 1, "{health}");
    let error = health["unhealthy_endpoints"][0]["error"].as_str().expect("an error");
    assert!(error.contains("AuthenticationError") && !error.contains(UPSTREAM_KEY), "{error}");
}

#[tokio::test]
async fn key_sees_what_it_may_call() {
    let keys = format!("keys: [{{ key: {RESTRICTED}, alias: r, models: [claude] }}]\n");
    let setup = Setup::with(&keys).await;
    let bearer = format!("Bearer {RESTRICTED}");
    let health = get(setup.gateway.address, "/health", &[("authorization", &bearer)]).await;
    let health = health.json();
    assert_eq!(names(&health["healthy_endpoints"]), ["anthropic/claude-3-5-sonnet-20241022"]);
    assert_eq!(setup.asked().len(), 1);
    let nobody = get(setup.gateway.address, "/health", &[("authorization", "")]).await;
    assert_eq!(nobody.status, 401);
    let one = setup.get("/health?model=claude").await.json();
    assert_eq!(one["healthy_count"], 1);
}

#[tokio::test]
async fn routing_avoids_what_a_background_check_found_broken() {
    let nobody = Refusing::start();
    let config = |checks: bool| {
        format!(
            "
model_list:
  - model_name: m
    litellm_params: {{ model: openai/gpt-4o-mini, api_key: $KEY, api_base: 'http://{}/v1', order: 1 }}
    model_info: {{ id: broken }}
  - model_name: m
    litellm_params: {{ model: openai/gpt-4o-mini, api_key: $KEY, api_base: $SIM/v1, order: 2 }}
    model_info: {{ id: works }}
  - model_name: unasked
    litellm_params: {{ model: openai/gpt-4o, api_key: $KEY, api_base: $SIM/v1 }}
    model_info: {{ id: unasked, disable_background_health_check: true }}
router_settings: {{ disable_cooldowns: true }}
general_settings: {{ master_key: $MASTER, background_health_checks: {checks}, health_check_interval: 3600 }}
",
            nobody.address
        )
    };
    let setup = Setup::with(&config(false)).await;
    let before = setup.chat(&chat("m", "hi")).await;
    assert_eq!((before.status, before.header("x-litellm-attempted-retries")), (200, Some("1")));

    setup.gateway.reload(&tollway_tests::setup::config(&config(true), &setup.simulator));
    setup.gateway.stderr_line(|line| line.contains("health check failed")).await;
    let state = "litellm_deployment_state";
    setup.gateway.metric_becomes(state, &["model_id=\"broken\""], |state| state == 2.0).await;
    for _ in 0..5 {
        let after = setup.chat(&chat("m", "hi")).await;
        assert_eq!((after.status, after.header("x-litellm-attempted-retries")), (200, Some("0")));
    }
    let asked = setup.asked().len();
    let health = setup.get("/health").await.json();
    assert_eq!(health["healthy_endpoints"][0]["model_id"], "works");
    assert_eq!(health["unhealthy_endpoints"][0]["model_id"], "broken");
    assert_eq!((&health["healthy_count"], &health["unhealthy_count"]), (&json!(1), &json!(1)));
    // What is shown was found before.
    assert_eq!(setup.asked().len(), asked);
}
