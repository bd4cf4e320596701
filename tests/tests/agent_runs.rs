//! How agents' runs live and end: their limits, those who listen, threads, forks, many at once.

use serde_json::{Value, json};
use tokio::task::JoinSet;
use tollway_simulator::Reply;
use tollway_tests::Setup;
use tollway_tests::agents::{ANN, CONFIG, asks, call, reckons, run, with};
use tollway_tests::client::{Connection, send};
use tollway_tests::setup::eventually;

#[tokio::test]
async fn limits_end_a_run_with_what_it_has() {
    let setup = Setup::with(CONFIG).await;
    let incomplete = |run: &Value, reason: &str| {
        assert_eq!(run["status"], "incomplete", "{run}");
        assert_eq!(run["incomplete_details"]["reason"], reason, "{run}");
        assert_eq!(run["choices"][0]["finish_reason"], "length");
    };
    for at in 0..2 {
        setup.simulator.enqueue(reckons(&format!("{at} + 1")));
    }
    let ended = run(&setup, &with(asks("Hi"), &json!({"max_steps": 2}))).await.json();
    incomplete(&ended, "max_steps");
    assert_eq!(ended["tool_calls"].as_array().expect("calls").len(), 2);

    // The same call over and over.
    for _ in 0..6 {
        setup.simulator.enqueue(reckons("1 + 1"));
    }
    let before = setup.asked().len();
    let ended = run(&setup, &asks("Hi")).await.json();
    incomplete(&ended, "loop");
    assert_eq!(setup.asked().len() - before, 6);
    let made = ended["tool_calls"].as_array().expect("calls");
    assert_eq!(made.iter().filter(|call| call["status"] == "completed").count(), 2);

    // The first call leaves too little for another one.
    setup.simulator.enqueue(reckons("2 + 2").usage(100_000, 1_000));
    let body = with(asks("Hi"), &json!({"max_cost_usd": 0.015605, "max_completion_tokens": 1000}));
    let ended = run(&setup, &body).await.json();
    incomplete(&ended, "max_cost");
    assert_eq!(ended["usage"]["prompt_tokens"], 100_000);

    setup.simulator.enqueue(Reply::text("one two three four").stall_after(3));
    let ended = run(&setup, &with(asks("Hi"), &json!({"deadline_s": 1}))).await.json();
    incomplete(&ended, "deadline");
    let said = ended["choices"][0]["message"]["content"].as_str().expect("what was said");
    assert!(said.starts_with("one"), "{said}");
    assert!(ended["usage"]["completion_tokens"].as_u64().expect("a count") > 0, "{ended}");
}

#[tokio::test]
async fn thread_remembers_and_serves_one_run_at_a_time() {
    let setup = Setup::with(CONFIG).await;
    let thread = call(&setup, "POST", "/threads", ANN, None).await.json();
    let id = thread["id"].as_str().expect("an id").to_owned();
    let said = |text: &str| with(asks(text), &json!({"thread_id": id}));
    setup.simulator.enqueue(Reply::text("Hello, Ann."));
    assert_eq!(run(&setup, &said("I am Ann.")).await.json()["thread_id"], id.as_str());
    setup.simulator.enqueue(Reply::text("Ann."));
    run(&setup, &said("Who am I?")).await;
    let told = setup.asked()[1].json()["messages"].clone();
    let texts: Vec<_> = told
        .as_array()
        .expect("messages")
        .iter()
        .skip(1)
        .map(|message| message["content"].as_str().expect("text").to_owned())
        .collect();
    assert_eq!(texts, ["I am Ann.", "Hello, Ann.", "Who am I?"]);
    let path = format!("/threads/{id}/messages");
    let kept = call(&setup, "GET", &path, ANN, None).await.json();
    assert_eq!(kept["data"].as_array().expect("messages").len(), 4);

    setup.simulator.enqueue(Reply::hang());
    let begun = run(&setup, &with(said("Think."), &json!({"background": true}))).await.json();
    assert_eq!(begun["status"], "in_progress", "{begun}");
    let refused = run(&setup, &said("And this?")).await;
    assert_eq!((refused.status, refused.error("code")), (409, json!("thread_busy")));
    setup.simulator.wait_for(|asked| asked.json().to_string().contains("Think.")).await;
    let run_id = begun["id"].as_str().expect("an id");
    let cancel = format!("/agent/runs/{run_id}/cancel");
    for _ in 0..2 {
        let cancelled = call(&setup, "POST", &cancel, ANN, None).await;
        assert_eq!(cancelled.json()["status"], "cancelled", "{}", cancelled.text());
    }
    setup.simulator.enqueue(Reply::text("Now."));
    assert_eq!(run(&setup, &said("Now?")).await.json()["status"], "completed");
}

#[tokio::test]
async fn run_ends_when_its_listener_leaves_unless_it_is_to_go_on() {
    let setup = Setup::with(CONFIG).await;
    for goes_on in [false, true] {
        setup.simulator.enqueue(Reply::text("one two three").stall_after(1));
        let mut body = with(asks("Hi"), &json!({"stream": true}));
        if goes_on {
            body["on_disconnect"] = "continue".into();
        }
        let mut connection = Connection::open(setup.gateway.address).await;
        let bearer = format!("Bearer {ANN}");
        let headers = [("authorization", bearer.as_str())];
        connection.request("POST", "/chat/agent", &headers, body.to_string().as_bytes()).await;
        connection.head().await;
        while !connection.next_event().await.expect("more").contains("message.delta") {}
        drop(connection);
        let runs = call(&setup, "GET", "/agent/runs?limit=1", ANN, None).await.json();
        let id = runs["data"][0]["id"].as_str().expect("an id").to_owned();
        let path = format!("/agent/runs/{id}");
        if goes_on {
            // Nobody serves its client any more, and it is still at work.
            setup.gateway.metric_becomes("tollway_agent_runs_running", &[], |n| n == 1.0).await;
            let cancelled = call(&setup, "POST", &format!("{path}/cancel"), ANN, None).await;
            assert_eq!(cancelled.json()["status"], "cancelled");
        } else {
            eventually("it is cancelled", async || {
                call(&setup, "GET", &path, ANN, None).await.json()["status"] == "cancelled"
            })
            .await;
        }
        setup.simulator.next_cancelled().await;
    }
}

#[tokio::test]
async fn run_is_not_left_behind_by_a_client_that_leaves_at_once() {
    const CLIENTS: usize = 50;
    let setup = Setup::with(CONFIG).await;
    let bearer = format!("Bearer {ANN}");
    let headers = [("authorization", bearer.as_str())];
    let body = asks("Hi").to_string();
    for _ in 0..CLIENTS {
        let mut connection = Connection::open(setup.gateway.address).await;
        connection.request("POST", "/chat/agent", &headers, body.as_bytes()).await;
    }
    eventually("none of them is held and not worked on", async || {
        let path = format!("/agent/runs?limit={CLIENTS}");
        let runs = call(&setup, "GET", &path, ANN, None).await.json();
        let runs = runs["data"].as_array().expect("runs");
        runs.len() == CLIENTS && runs.iter().all(|run| run["status"] != "in_progress")
    })
    .await;
}

#[tokio::test]
async fn run_is_paid_by_its_caller_within_the_callers_budget() {
    let text = CONFIG.replace("user: ann,", "user: ann, max_budget: 0.00012,");
    let setup = Setup::with(&text).await;
    setup.simulator.enqueue(reckons("6 * 7").usage(100, 10));
    setup.simulator.enqueue(Reply::text("42").usage(150, 100));
    let body = with(asks("6*7?"), &json!({"max_completion_tokens": 100}));
    let first = run(&setup, &body).await.json();
    assert_eq!(first["status"], "completed", "{first}");
    // What is left of the budget is too little for another call.
    let failed = run(&setup, &body).await.json();
    assert_eq!(failed["status"], "failed", "{failed}");
    assert_eq!(failed["error"]["code"], "budget_exceeded");
    let body = json!({"model": "agent/reckoner", "max_completion_tokens": 100,
                      "messages": [{"role": "user", "content": "6*7?"}]});
    let refused = call(&setup, "POST", "/v1/chat/completions", ANN, Some(&body)).await;
    assert_eq!(refused.error("code"), "budget_exceeded", "{}", refused.text());
    assert_eq!(setup.asked().len(), 2);
}

#[tokio::test]
async fn parallel_limit_of_one_does_not_stop_an_agent() {
    let text = CONFIG.replace("user: ann,", "user: ann, max_parallel_requests: 1, rpm: 2,");
    let setup = Setup::with(&text).await;
    setup.simulator.enqueue(reckons("6 * 7"));
    setup.simulator.enqueue(Reply::text("42"));
    let body =
        json!({"model": "agent/reckoner", "messages": [{"role": "user", "content": "6*7?"}]});
    let done = call(&setup, "POST", "/v1/chat/completions", ANN, Some(&body)).await;
    assert_eq!(done.status, 200, "{}", done.text());
}

#[tokio::test]
async fn fork_goes_on_from_an_earlier_step() {
    let setup = Setup::with(CONFIG).await;
    setup.simulator.enqueue(reckons("6 * 7"));
    setup.simulator.enqueue(Reply::text("It is 42."));
    let id = run(&setup, &asks("6*7?")).await.json()["id"].as_str().expect("an id").to_owned();
    setup.simulator.enqueue(Reply::text("Half of it is 21."));
    let body = json!({"step": 1, "messages": [{"role": "user", "content": "And half of it?"}]});
    let path = format!("/agent/runs/{id}/fork");
    let forked = call(&setup, "POST", &path, ANN, Some(&body)).await.json();
    assert_ne!(forked["id"], id.as_str());
    assert_eq!(forked["choices"][0]["message"]["content"], "Half of it is 21.", "{forked}");
    let told = setup.asked()[2].json()["messages"].clone();
    let roles: Vec<_> =
        told.as_array().expect("messages").iter().map(|m| m["role"].clone()).collect();
    assert_eq!(roles, ["system", "user", "assistant", "tool", "user"]);
    let refused = call(&setup, "POST", &path, ANN, Some(&json!({"step": 9}))).await;
    assert_eq!((refused.status, refused.error("param")), (400, json!("step")));
}

#[tokio::test]
async fn many_runs_at_once_are_all_there_and_paid_exactly() {
    const RUNS: usize = 100;
    let setup = Setup::with(CONFIG).await;
    for _ in 0..RUNS {
        setup.simulator.enqueue(Reply::text("Yes.").usage(100, 10));
    }
    let mut runs = JoinSet::new();
    for _ in 0..RUNS {
        let address = setup.gateway.address;
        let body = asks("Well?").to_string();
        runs.spawn(async move {
            let bearer = format!("Bearer {ANN}");
            let headers = [("authorization", bearer.as_str())];
            send(address, "POST", "/chat/agent", &headers, body.as_bytes()).await
        });
    }
    for response in runs.join_all().await {
        assert_eq!(response.json()["status"], "completed", "{}", response.text());
    }
    let spent =
        setup.gateway.metric("litellm_spend_metric_total", &["api_key_alias=\"ann\""]).await;
    assert!((spent - 0.000021 * RUNS as f64).abs() < 1e-9, "{spent}");
}

#[tokio::test]
async fn run_that_is_cancelled_ends_wherever_it_is() {
    const RUNS: usize = 100;
    let setup = Setup::with(CONFIG).await;
    // Each is cancelled in another moment: while it begins, asks, or writes down a step.
    for at in 0..RUNS {
        setup.simulator.enqueue(reckons(&format!("{at} + 1")));
    }
    let mut runs = JoinSet::new();
    for _ in 0..RUNS {
        let address = setup.gateway.address;
        let body = with(asks("Reckon."), &json!({"background": true})).to_string();
        runs.spawn(async move {
            let bearer = format!("Bearer {ANN}");
            let headers = [("authorization", bearer.as_str())];
            let begun = send(address, "POST", "/chat/agent", &headers, body.as_bytes()).await;
            let id = begun.json()["id"].as_str().expect("an id").to_owned();
            let cancel = format!("/agent/runs/{id}/cancel");
            send(address, "POST", &cancel, &headers, b"").await.json()["status"].clone()
        });
    }
    for status in runs.join_all().await {
        assert!(status == "cancelled" || status == "completed", "{status}");
    }
    assert!(!setup.gateway.stderr().contains("could not be written down"));
}
