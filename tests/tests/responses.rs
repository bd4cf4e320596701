//! The state of the Responses API: what is kept, who may see it, and what answers go on from.

use serde_json::{Value, json};
use tollway_simulator::Reply;
use tollway_tests::client::{get, post_with, send};
use tollway_tests::responses::{CONFIG, ONE, TWO, text_of};
use tollway_tests::{Response, Setup, post};

async fn create(setup: &Setup, body: &Value) -> Response {
    post(setup.gateway.address, "/v1/responses", body).await
}

fn id_of(response: &Response) -> String {
    assert_eq!(response.status, 200, "{}", response.text());
    response.json()["id"].as_str().expect("an id").to_owned()
}

async fn delete(setup: &Setup, path: &str, headers: &[(&str, &str)]) -> Response {
    send(setup.gateway.address, "DELETE", path, headers, b"").await
}

#[tokio::test]
async fn a_translated_answer_is_gone_on_from() {
    let setup = Setup::with(CONFIG).await;
    setup.simulator.enqueue(Reply::text("The first answer."));
    let first = create(&setup, &json!({"model": "claude", "input": "The first question."})).await;
    let id = id_of(&first);
    assert_eq!(text_of(&first.json()), "The first answer.");
    setup.simulator.next_request().await;

    setup.simulator.enqueue(Reply::text("The second answer."));
    let second = json!({"model": "claude", "input": "And then?", "previous_response_id": id});
    let second = create(&setup, &second).await;
    assert_eq!(second.json()["previous_response_id"], id.as_str());
    let asked = setup.simulator.next_request().await.json();
    let turns = asked["messages"].as_array().expect("turns");
    let said: Vec<_> = turns.iter().map(|turn| turn["content"].to_string()).collect();
    assert_eq!(turns.len(), 3, "{asked}");
    for (said, expect) in said.iter().zip(["The first question.", "The first answer.", "And then?"])
    {
        assert!(said.contains(expect), "{said}");
    }

    // And once more: what came before the second one counts as well.
    let third =
        json!({"model": "claude", "input": "More.", "previous_response_id": id_of(&second)});
    assert_eq!(create(&setup, &third).await.status, 200);
    let asked = setup.simulator.next_request().await.json();
    assert_eq!(asked["messages"].as_array().map(Vec::len), Some(5), "{asked}");
}

#[tokio::test]
async fn a_streamed_answer_is_kept_as_well() {
    let setup = Setup::with(CONFIG).await;
    for model in ["claude", "gpt"] {
        setup.simulator.enqueue(Reply::text("Streamed words."));
        let body = json!({"model": model, "input": "Go.", "stream": true});
        let stream = create(&setup, &body).await;
        let text = stream.text();
        let last: Value = text
            .lines()
            .filter_map(|line| serde_json::from_str(line.strip_prefix("data: ")?).ok())
            .find(|event: &Value| event["type"] == "response.completed")
            .expect("it is completed");
        let id = last["response"]["id"].as_str().expect("an id");
        let kept = setup.get(&format!("/v1/responses/{id}")).await;
        assert_eq!(kept.status, 200, "{model}: {}", kept.text());
        assert_eq!(text_of(&kept.json()), "Streamed words.");
        setup.simulator.next_request().await;
    }
}

#[tokio::test]
async fn nobody_else_sees_a_kept_response() {
    let setup = Setup::with(CONFIG).await;
    let address = setup.gateway.address;
    let body = json!({"model": "claude", "input": [{"role": "user", "content": "Secret."}]});
    let id = id_of(&post_with(address, "/v1/responses", &ONE, &body).await);
    let path = format!("/v1/responses/{id}");

    assert_eq!(get(address, &path, &ONE).await.status, 200);
    let items = get(address, &format!("{path}/input_items?order=asc"), &ONE).await.json();
    assert_eq!(items["data"][0]["content"][0]["text"], "Secret.", "{items}");

    let missing = get(address, &path, &TWO).await;
    assert_eq!(missing.status, 404);
    assert_eq!(missing.error("message"), format!("Response with id '{id}' not found."));
    assert_eq!(get(address, &format!("{path}/input_items"), &TWO).await.status, 404);
    assert_eq!(delete(&setup, &path, &TWO).await.status, 404);
    let on = json!({"model": "claude", "input": "Tell me.", "previous_response_id": id});
    let refused = post_with(address, "/v1/responses", &TWO, &on).await;
    assert_eq!(refused.status, 400);
    assert_eq!(refused.error("code"), "previous_response_not_found");

    let deleted = delete(&setup, &path, &ONE).await;
    assert_eq!(deleted.json(), json!({"id": id, "object": "response", "deleted": true}));
    assert_eq!(get(address, &path, &ONE).await.status, 404);
    let refused = post_with(address, "/v1/responses", &ONE, &on).await;
    assert_eq!(refused.error("code"), "previous_response_not_found");
}

#[tokio::test]
async fn what_is_not_to_be_kept_is_not() {
    let setup = Setup::with(CONFIG).await;
    for model in ["claude", "gpt"] {
        let body = json!({"model": model, "input": "Forget it.", "store": false});
        let id = id_of(&post_with(setup.gateway.address, "/v1/responses", &ONE, &body).await);
        let kept = get(setup.gateway.address, &format!("/v1/responses/{id}"), &ONE).await;
        assert_eq!(kept.status, 404, "{model}");
    }
}

#[tokio::test]
async fn a_provider_that_has_the_api_goes_on_by_itself() {
    let setup = Setup::with(CONFIG).await;
    let id = id_of(&create(&setup, &json!({"model": "gpt", "input": "One."})).await);
    setup.simulator.next_request().await;
    let body = json!({"model": "gpt", "input": "Two.", "previous_response_id": id});
    create(&setup, &body).await;
    let asked = setup.simulator.next_request().await;
    assert_eq!(asked.path, "/v1/responses");
    assert_eq!(asked.json()["previous_response_id"], id.as_str());
    assert_eq!(asked.json()["input"], "Two.");

    // Another provider does not know it, and is told what came before.
    let body = json!({"model": "claude", "input": "Three.", "previous_response_id": id});
    let id = id_of(&create(&setup, &body).await);
    let asked = setup.simulator.next_request().await;
    assert_eq!(asked.json()["messages"].as_array().map(Vec::len), Some(3), "{}", asked.json());

    // And the other way round.
    let body = json!({"model": "gpt", "input": "Four.", "previous_response_id": id});
    id_of(&create(&setup, &body).await);
    let asked = setup.simulator.next_request().await.json();
    assert_eq!(asked.get("previous_response_id"), None);
    assert_eq!(asked["input"].as_array().map(Vec::len), Some(5), "{asked}");
}

#[tokio::test]
async fn deleting_reaches_the_copy_of_the_provider_that_made_it() {
    let setup = Setup::with(CONFIG).await;
    for (extra, is_background) in [
        (json!({}), false),
        (json!({"stream": true}), false),
        (json!({"background": true, "stream": true}), true),
    ] {
        let mut body = json!({"model": "gpt", "input": "Keep it."});
        body.as_object_mut().expect("an object").extend(extra.as_object().expect("one").clone());
        let made = create(&setup, &body).await;
        let text = made.text();
        let objects = text.lines().map(|line| line.strip_prefix("data: ").unwrap_or(line));
        let last: Value = objects
            .filter_map(|json| serde_json::from_str(json).ok())
            .find(|json: &Value| {
                json["status"] == "completed" || json["type"] == "response.completed"
            })
            .expect("it is completed");
        let response = last.get("response").unwrap_or(&last);
        let id = response["id"].as_str().expect("an id");
        setup.settled(&made).await;
        setup.simulator.next_request().await;
        assert_eq!(delete(&setup, &format!("/v1/responses/{id}"), &[]).await.status, 200);
        let asked = setup.simulator.next_request().await;
        assert_eq!(asked.method, "DELETE");
        assert!(asked.path.starts_with("/v1/responses/resp_sim_"), "{}", asked.path);
        assert_eq!(asked.path.ends_with(id), !is_background);
    }

    // What only we have made, and a provider that is gone, are nothing to the client.
    let id = id_of(&create(&setup, &json!({"model": "claude", "input": "Keep it."})).await);
    setup.simulator.next_request().await;
    assert_eq!(delete(&setup, &format!("/v1/responses/{id}"), &[]).await.status, 200);
    let id = id_of(&create(&setup, &json!({"model": "gpt", "input": "Keep it."})).await);
    assert_eq!(setup.simulator.next_request().await.path, "/v1/responses");
    setup.simulator.enqueue(Reply::error(500));
    let deleted = delete(&setup, &format!("/v1/responses/{id}"), &[]).await;
    assert_eq!(deleted.json()["deleted"], true);
    let warned = |line: &str| line.contains("did not delete its copy");
    setup.gateway.stderr_line(warned).await;
}

#[tokio::test]
async fn a_response_in_the_background_is_asked_for_later() {
    let setup = Setup::with(CONFIG).await;
    let address = setup.gateway.address;
    for model in ["claude", "gpt"] {
        setup.simulator.enqueue(Reply::text("At leisure."));
        let body = json!({"model": model, "input": "Take your time.", "background": true});
        let first = post_with(address, "/v1/responses", &ONE, &body).await;
        let id = id_of(&first);
        assert_eq!(first.json()["status"], "queued");
        assert_eq!(first.json()["background"], true);
        // The request ends, and is metered, when the response is there.
        let line = setup.settled(&first).await;
        assert!(line["completion_tokens"].as_u64() > Some(0), "{line}");
        let path = format!("/v1/responses/{id}");
        let done = get(address, &path, &ONE).await.json();
        assert_eq!((&done["status"], &done["id"]), (&json!("completed"), &json!(id)), "{model}");
        assert_eq!(text_of(&done), "At leisure.");
        assert_eq!(get(address, &path, &TWO).await.status, 404);
        assert_eq!(setup.simulator.next_request().await.json().get("background"), None);
    }
}

#[tokio::test]
async fn a_response_in_the_background_keeps_its_signed_reasoning() {
    let setup = Setup::with(CONFIG).await;
    for extra in [json!({}), json!({"stream": true})] {
        setup.simulator.enqueue(Reply::text("4").thinking("Two and two."));
        let mut body = json!({"model": "claude", "input": "2+2?", "background": true});
        body.as_object_mut().expect("an object").extend(extra.as_object().expect("one").clone());
        let first = create(&setup, &body).await;
        setup.settled(&first).await;
        let text = first.text();
        let id = text.split("\"id\":\"").nth(1).and_then(|rest| rest.split('"').next());
        let path = format!("/v1/responses/{}", id.expect("an id"));
        let has_signed = |response: Value| {
            let items = response["output"].as_array().cloned().unwrap_or_default();
            items.iter().any(|item| item["encrypted_content"].is_string())
        };
        let query = "?include[]=reasoning.encrypted_content";
        assert!(has_signed(setup.get(&format!("{path}{query}")).await.json()), "{extra}");
        assert!(!has_signed(setup.get(&path).await.json()), "{extra}");
        setup.simulator.next_request().await;
    }
}

#[tokio::test]
async fn a_response_in_the_background_can_be_cancelled() {
    let setup = Setup::with(CONFIG).await;
    let address = setup.gateway.address;
    setup.simulator.enqueue(Reply::hang());
    let body = json!({"model": "claude", "input": "Never.", "background": true});
    let first = post_with(address, "/v1/responses", &ONE, &body).await;
    let path = format!("/v1/responses/{}", id_of(&first));
    setup.simulator.next_request().await;
    assert_eq!(get(address, &path, &ONE).await.json()["status"], "in_progress");
    let other = post_with(address, &format!("{path}/cancel"), &TWO, &json!({})).await;
    assert_eq!(other.status, 404);
    let cancelled = post_with(address, &format!("{path}/cancel"), &ONE, &json!({})).await;
    assert_eq!(cancelled.status, 200, "{}", cancelled.text());
    setup.settled(&first).await;
    assert_eq!(get(address, &path, &ONE).await.json()["status"], "cancelled");
    setup.simulator.next_cancelled().await;
}

#[tokio::test]
async fn a_failure_in_the_background_is_told() {
    let setup = Setup::with(CONFIG).await;
    let address = setup.gateway.address;
    setup.simulator.enqueue(Reply::error(400).message("No such thing."));
    let body = json!({"model": "claude", "input": "Fail.", "background": true});
    let first = post_with(address, "/v1/responses", &ONE, &body).await;
    setup.settled(&first).await;
    let path = format!("/v1/responses/{}", id_of(&first));
    let failed = get(address, &path, &ONE).await.json();
    assert_eq!(failed["status"], "failed");
    assert!(failed["error"]["message"].as_str().is_some_and(|m| m.contains("No such thing.")));

    let refused = json!({"model": "claude", "input": "x", "background": true, "store": false});
    let refused = post_with(address, "/v1/responses", &ONE, &refused).await;
    assert_eq!(refused.status, 400);
    let plain = json!({"model": "claude", "input": "x"});
    let id = id_of(&post_with(address, "/v1/responses", &ONE, &plain).await);
    let cancel = format!("/v1/responses/{id}/cancel");
    let refused = post_with(address, &cancel, &ONE, &json!({})).await;
    assert_eq!(refused.status, 400, "it is not in the background");
}
