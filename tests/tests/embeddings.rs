//! Embeddings of more inputs than a provider takes in one call.

use serde_json::{Value, json};
use tollway_simulator::Reply;
use tollway_tests::{Setup, post};

const CONFIG: &str = "
model_list:
  - model_name: titan
    litellm_params: { model: bedrock/amazon.titan-embed-text-v2:0, api_key: $KEY, api_base: $SIM, input_cost_per_token: 0.001 }
  - model_name: cohere
    litellm_params: { model: cohere/embed-v4.0, api_key: $KEY, api_base: $SIM }
  - model_name: gemini
    litellm_params: { model: gemini/gemini-embedding-001, api_key: $KEY, api_base: $SIM }
router_settings: { num_retries: 0 }
";

fn inputs(count: usize) -> Vec<String> {
    (0..count).map(|n| format!("text number {n}")).collect()
}

#[tokio::test]
async fn more_inputs_than_a_call_takes_go_in_several() {
    let setup = Setup::with(CONFIG).await;
    let address = setup.gateway.address;
    for (model, count, calls) in [
        ("titan", 7, 7),
        ("titan", 1, 1),
        ("cohere", 96, 1),
        ("cohere", 100, 2),
        ("gemini", 250, 3),
    ] {
        let before = setup.asked().len();
        let body = json!({"model": model, "input": inputs(count)});
        let answer = post(address, "/v1/embeddings", &body).await;
        assert_eq!(answer.status, 200, "{model}: {}", answer.text());
        let json = answer.json();
        let data = json["data"].as_array().expect("a list");
        let order: Vec<Option<u64>> = data.iter().map(|item| item["index"].as_u64()).collect();
        assert_eq!(order, (0..count as u64).map(Some).collect::<Vec<_>>(), "{model}");
        assert_eq!(setup.asked().len() - before, calls, "{model}");
        assert_eq!((&json["object"], &json["model"]), (&json!("list"), &json!(model)));
        // Each in its place: alone it is the same vector.
        let alone = json!({"model": model, "input": inputs(count).pop()});
        let alone = post(address, "/v1/embeddings", &alone).await.json();
        assert_eq!(
            data.last().map(|item| &item["embedding"]),
            Some(&alone["data"][0]["embedding"])
        );
        // Google tells no usage of them.
        if model == "gemini" {
            continue;
        }
        let line = setup.settled(&answer).await;
        assert_eq!(line["prompt_tokens"], json["usage"]["prompt_tokens"], "{line}");
        assert!(json["usage"]["prompt_tokens"].as_u64() >= Some(count as u64), "{}", json["usage"]);
    }

    // A client of another dialect gets its own form.
    let requests: Vec<Value> =
        inputs(3).iter().map(|text| json!({"content": {"parts": [{"text": text}]}})).collect();
    let path = "/v1beta/models/titan:batchEmbedContents";
    let answer = post(address, path, &json!({"requests": requests})).await;
    assert_eq!(answer.json()["embeddings"].as_array().map(Vec::len), Some(3), "{}", answer.text());
}

#[tokio::test]
async fn fault_of_one_call_is_that_of_the_request() {
    let setup = Setup::with(CONFIG).await;
    setup.simulator.enqueue(Reply::error(400).message("Not this one."));
    let body = json!({"model": "titan", "input": inputs(5)});
    let answer = post(setup.gateway.address, "/v1/embeddings", &body).await;
    assert_eq!(answer.status, 400);
    let message = answer.error("message");
    assert!(message.as_str().is_some_and(|text| text.contains("Not this one.")), "{message}");
}
