//! Which deployment of a group is asked: by the strategy, its limits, the request's tags and size,
//! and which group comes next when none of them can answer.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use serde_json::{Value, json};
use tollway_simulator::{Options, Received, Reply, Simulator};
use tollway_tests::gateway::PATIENCE;
use tollway_tests::setup::{config, within};
use tollway_tests::{Connection, Gateway, Response, Setup, chat, gateway, stream};

/// The group `pool` of deployments of the models `a`, `b` and so on, each with these parameters.
fn pool(parameters: &[&str], rest: &str) -> String {
    let deployments: String = parameters
        .iter()
        .zip(["a", "b", "c", "d"])
        .map(|(more, model)| deployment("pool", model, more))
        .collect();
    format!("model_list:\n{deployments}{rest}\n")
}

fn deployment(group: &str, model: &str, more: &str) -> String {
    let free = ", input_cost_per_token: 0, output_cost_per_token: 0";
    let free = if more.contains("cost_per_token") { "" } else { free };
    let more = if more.is_empty() { String::new() } else { format!(", {more}") };
    format!(
        "  - model_name: {group}
    litellm_params: {{ model: openai/{model}, api_key: $KEY, api_base: $SIM/v1{free}{more} }}
"
    )
}

/// What each model answers, where it is not the usual.
async fn scripted(
    text: &str,
    script: impl Fn(&Received, &str) -> Option<&'static str> + Send + Sync + 'static,
) -> Setup {
    let script = move |received: &Received| {
        let reply = script(received, &received.model()?)?;
        Some(reply.parse::<Reply>().expect("it parses"))
    };
    let options = Options { journal: 10_000, ..Options::default() }.with_script(script);
    let simulator = Simulator::start(options).await.expect("a port is free");
    let options =
        gateway::Options { config: Some(config(text, &simulator)), ..gateway::Options::default() };
    Setup { gateway: Gateway::start_with(options).await, simulator }
}

/// How often each model was asked.
fn counts(setup: &Setup) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for asked in setup.asked() {
        *counts.entry(asked.model().unwrap_or_default()).or_default() += 1;
    }
    counts
}

fn count(setup: &Setup, model: &str) -> usize {
    counts(setup).get(model).copied().unwrap_or_default()
}

/// Asks so often, eight at once.
async fn ask(setup: &Arc<Setup>, total: usize, body: &Value) -> Vec<Response> {
    let mut tasks = Vec::new();
    for at in 0..8 {
        let (setup, body) = (Arc::clone(setup), body.clone());
        let mine = total / 8 + usize::from(at < total % 8);
        tasks.push(tokio::spawn(async move {
            let mut answers = Vec::new();
            for _ in 0..mine {
                answers.push(setup.chat(&body).await);
            }
            answers
        }));
    }
    let mut answers = Vec::new();
    for task in tasks {
        answers.extend(task.await.expect("no request panics"));
    }
    answers
}

/// Begins a stream and keeps it open.
async fn hold(setup: &Setup) -> Connection {
    let mut connection = setup.open_stream(&stream("pool", "[[sim tokens=5 stall_after=1]]")).await;
    connection.next_event().await.expect("a first event");
    connection
}

#[tokio::test]
async fn shuffle_follows_the_weights() {
    let setup = scripted(&pool(&["weight: 3", "weight: 1", "weight: 0"], ""), |_, _| None).await;
    let setup = Arc::new(setup);
    for response in ask(&setup, 800, &chat("pool", "Hi")).await {
        assert_eq!(response.status, 200, "{}", response.text());
    }
    let counts = counts(&setup);
    // 600 are expected; six standard deviations of a fair draw are 74.
    assert!((520..=680).contains(&counts["a"]), "{counts:?}");
    assert_eq!(counts.get("c"), None, "{counts:?}");
}

#[tokio::test]
async fn least_busy_spreads_what_is_in_flight() {
    let rest = "router_settings: { routing_strategy: least-busy }";
    let setup = scripted(&pool(&["", "", ""], rest), |_, _| None).await;
    let mut held = Vec::new();
    for round in 1..=4 {
        for _ in 0..3 {
            held.push(hold(&setup).await);
        }
        assert!(counts(&setup).values().all(|n| *n == round), "{:?}", counts(&setup));
    }
    // Those of one deployment end: it is the one to ask.
    let of_b: Vec<usize> = setup
        .asked()
        .iter()
        .enumerate()
        .filter(|(_, asked)| asked.model().as_deref() == Some("b"))
        .map(|(at, _)| at)
        .collect();
    for at in of_b.into_iter().rev() {
        held.remove(at).reset();
        within(PATIENCE, "it is cancelled", setup.simulator.next_cancelled()).await;
    }
    setup.gateway.metric_becomes("litellm_in_flight_requests", &[], |now| now <= 9.0).await;
    for _ in 0..4 {
        held.push(hold(&setup).await);
    }
    assert_eq!(counts(&setup)["b"], 8, "{:?}", counts(&setup));
}

#[tokio::test]
async fn latency_based_prefers_the_fast_one() {
    let rest = "router_settings: { routing_strategy: latency-based-routing }";
    let setup = scripted(&pool(&["", ""], rest), |_, model| {
        (model == "a").then_some("first_byte_delay=300ms tokens=3")
    })
    .await;
    for _ in 0..60 {
        assert_eq!(setup.chat(&chat("pool", "Hi")).await.status, 200);
    }
    let slow = count(&setup, "a");
    assert!((1..=5).contains(&slow), "{:?}", counts(&setup));
}

#[tokio::test]
async fn cost_based_takes_the_cheapest() {
    let rest = "router_settings: { routing_strategy: cost-based-routing }";
    let price =
        |input, output| format!("input_cost_per_token: {input}, output_cost_per_token: {output}");
    let (dear, cheap) = (price("0.00001", "0.00001"), price("0.000001", "0.000001"));
    let dearest_out = price("0.0000001", "0.0001");
    let setup = scripted(&pool(&[&dear, &cheap, &dearest_out], rest), |_, _| None).await;
    for _ in 0..10 {
        assert_eq!(setup.chat(&chat("pool", "Hi")).await.status, 200);
    }
    assert_eq!(count(&setup, "b"), 10, "{:?}", counts(&setup));
}

#[tokio::test]
async fn usage_based_fills_the_limits_evenly_and_no_further() {
    let rest = "router_settings: { routing_strategy: usage-based-routing-v2, num_retries: 0 }";
    let setup = scripted(&pool(&["rpm: 20", "rpm: 10"], rest), |_, _| None).await;
    for at in 1..=30 {
        assert_eq!(setup.chat(&chat("pool", "Hi")).await.status, 200);
        let (a, b) = (count(&setup, "a"), count(&setup, "b"));
        assert!(a.abs_diff(2 * b) <= 3, "after {at}: {a} {b}");
    }
    let refused = setup.chat(&chat("pool", "Hi")).await;
    assert_eq!(refused.status, 429, "{}", refused.text());
    assert!(refused.header("retry-after").is_some());
    assert_eq!((count(&setup, "a"), count(&setup, "b")), (20, 10));
}

#[tokio::test]
async fn lower_order_is_asked_first_whatever_the_weights() {
    let parameters = ["order: 2, weight: 1000", "order: 1, weight: 1"];
    let rest = "router_settings: { allowed_fails: 100 }";
    let setup = scripted(&pool(&parameters, rest), |received, model| {
        let is_bad = String::from_utf8_lossy(&received.body).contains("fails");
        (model == "b" && is_bad).then_some("status=500")
    })
    .await;
    for _ in 0..20 {
        assert_eq!(setup.chat(&chat("pool", "Hi")).await.status, 200);
    }
    assert_eq!((count(&setup, "a"), count(&setup, "b")), (0, 20));
    for _ in 0..5 {
        assert_eq!(setup.chat(&chat("pool", "fails")).await.status, 200);
    }
    assert_eq!((count(&setup, "a"), count(&setup, "b")), (5, 25));
}

#[tokio::test]
async fn tags_lead_to_the_deployments_that_are_kept_for_them() {
    let parameters = ["tags: [paid]", "tags: [free, trial]", "tags: [default]"];
    let rest = "router_settings: { enable_tag_filtering: true }";
    let setup = scripted(&pool(&parameters, rest), |_, _| None).await;
    for (tags, model) in [
        (json!(["paid"]), "a"),
        (json!(["trial"]), "b"),
        (json!(["trial", "unknown"]), "b"),
        (json!(["unknown"]), "c"),
        (json!([]), "c"),
    ] {
        let before = count(&setup, model);
        for _ in 0..5 {
            let mut body = chat("pool", "Hi");
            body["metadata"] = json!({"tags": tags});
            assert_eq!(setup.chat(&body).await.status, 200);
        }
        assert_eq!(count(&setup, model) - before, 5, "{tags}: {:?}", counts(&setup));
    }
    let before = count(&setup, "a");
    let header = [("x-litellm-tags", "paid, other")];
    assert_eq!(setup.chat_with(&header, &chat("pool", "Hi")).await.status, 200);
    assert_eq!(count(&setup, "a") - before, 1);
}

/// The groups `small` and `large`, and one for everything else.
fn windows(settings: &str) -> String {
    let small = deployment("small", "small", "").trim_end().to_owned();
    format!(
        "model_list:\n{small}\n    model_info: {{ max_input_tokens: 100 }}\n{}{}router_settings: {{ num_retries: 0, {settings} }}\n",
        deployment("large", "large", ""),
        deployment("other", "other", ""),
    )
}

#[tokio::test]
async fn request_too_large_for_the_window_goes_to_the_larger_group() {
    let long = "many words ".repeat(400);
    let fallbacks = "context_window_fallbacks: [{small: [large]}], fallbacks: [{small: [other]}]";
    // By our own count, before anybody is asked.
    let text = windows(&format!("enable_pre_call_checks: true, {fallbacks}"));
    let setup = scripted(&text, |_, _| None).await;
    assert_eq!(setup.chat(&chat("small", "Hi")).await.status, 200);
    let response = setup.chat(&chat("small", &long)).await;
    assert_eq!(response.status, 200, "{}", response.text());
    assert_eq!(response.json()["model"], "small");
    assert_eq!(response.header("x-litellm-attempted-fallbacks"), Some("1"));
    assert_eq!((count(&setup, "small"), count(&setup, "large")), (1, 1));
    // By the provider's word.
    let refuses = "status=400 code=context_length_exceeded message=Long";
    for streamed in [false, true] {
        let setup =
            scripted(&windows(fallbacks), move |_, model| (model == "small").then_some(refuses))
                .await;
        let mut body = chat("small", "Hi");
        body["stream"] = streamed.into();
        let response = setup.chat(&body).await;
        assert_eq!(response.status, 200, "{}", response.text());
        let counts = counts(&setup);
        let expect = [("large".to_owned(), 1), ("small".to_owned(), 1)];
        assert_eq!(counts, BTreeMap::from(expect));
    }
    // Without a larger group the usual one is asked, and without that one nobody.
    let text = windows("fallbacks: [{small: [other]}]");
    let setup = scripted(&text, move |_, model| (model == "small").then_some(refuses)).await;
    assert_eq!(setup.chat(&chat("small", &long)).await.status, 200);
    assert_eq!((count(&setup, "small"), count(&setup, "other")), (1, 1));
    let setup = scripted(&windows("fallbacks: []"), move |_, _| Some(refuses)).await;
    let response = setup.chat(&chat("small", &long)).await;
    assert_eq!(response.status, 400, "{}", response.text());
    assert_eq!(response.error("code"), "context_length_exceeded");
}

#[tokio::test]
async fn deployments_with_a_small_window_are_left_out() {
    let text = format!(
        "model_list:\n{}    model_info: {{ max_input_tokens: 100 }}\n{}router_settings: {{ enable_pre_call_checks: true }}\n",
        deployment("pool", "a", ""),
        deployment("pool", "b", ""),
    );
    let setup = scripted(&text, |_, _| None).await;
    for _ in 0..20 {
        let response = setup.chat(&chat("pool", &"many words ".repeat(400))).await;
        assert_eq!(response.status, 200, "{}", response.text());
    }
    assert_eq!(counts(&setup), BTreeMap::from([("b".to_owned(), 20)]));
}

#[tokio::test]
async fn refused_content_goes_to_the_group_for_it() {
    let fallbacks = "content_policy_fallbacks: [{small: [large]}], fallbacks: [{small: [other]}]";
    for code in ["content_policy_violation", "content_filter"] {
        let refuses: &'static str = match code {
            "content_filter" => "status=400 code=content_filter message=No",
            _ => "status=400 code=content_policy_violation message=No",
        };
        let setup =
            scripted(&windows(fallbacks), move |_, model| (model == "small").then_some(refuses))
                .await;
        let response = setup.chat(&chat("small", "Hi")).await;
        assert_eq!(response.status, 200, "{code}: {}", response.text());
        assert_eq!(counts(&setup).keys().collect::<Vec<_>>(), ["large", "small"], "{code}");
    }
}

#[tokio::test]
async fn default_fallbacks_serve_groups_that_have_none() {
    let settings = "fallbacks: [{small: [large]}], default_fallbacks: [other]";
    let setup =
        scripted(&windows(settings), |_, model| (model != "other").then_some("status=500")).await;
    let response = setup.chat(&chat("large", "Hi")).await;
    assert_eq!(response.status, 200, "{}", response.text());
    assert_eq!(counts(&setup).keys().collect::<Vec<_>>(), ["large", "other"]);
    // A group with fallbacks of its own has only those.
    let response = setup.chat(&chat("small", "Hi")).await;
    assert_eq!(response.status, 500, "{}", response.text());
    assert_eq!((count(&setup, "small"), count(&setup, "other")), (1, 1));
}

const NO_BUDGET: &str = "router_settings: { num_retries: 1, disable_cooldowns: true, retry_budget: { percent: 0, min_per_second: 0 } }";

#[tokio::test]
async fn retries_end_with_their_budget() {
    let setup = Arc::new(scripted(&pool(&[""], NO_BUDGET), |_, _| Some("status=500")).await);
    // The first hundred are there from the start; the pauses before them run side by side.
    let mut tasks = Vec::new();
    for _ in 0..150 {
        let setup = Arc::clone(&setup);
        tasks.push(tokio::spawn(async move { setup.chat(&chat("pool", "Hi")).await }));
    }
    for task in tasks {
        assert_eq!(task.await.expect("no request panics").status, 500);
    }
    assert_eq!(setup.asked().len(), 250);
    assert_eq!(setup.chat(&chat("pool", "Hi")).await.status, 500);
    assert_eq!(setup.asked().len(), 251);
}

#[tokio::test]
async fn deployment_that_is_full_takes_nothing_of_the_retry_budget() {
    let parameters = ["rpm: 1, order: 1", "order: 2"];
    let setup = Arc::new(scripted(&pool(&parameters, NO_BUDGET), |_, _| None).await);
    // Each but the first finds `a` full: that is no retry, however many there are.
    for response in ask(&setup, 150, &chat("pool", "Hi")).await {
        assert_eq!(response.status, 200, "{}", response.text());
    }
    assert_eq!((count(&setup, "a"), count(&setup, "b")), (1, 149));
}

#[tokio::test]
async fn deployments_rpm_tpm_and_parallel_limits_are_real() {
    let no_retries = "router_settings: { num_retries: 0 }";
    let setup = Arc::new(scripted(&pool(&["rpm: 3"], no_retries), |_, _| None).await);
    let answers = ask(&setup, 16, &chat("pool", "Hi")).await;
    assert_eq!(answers.iter().filter(|response| response.status == 200).count(), 3);
    assert_eq!(setup.asked().len(), 3);
    for refused in answers.iter().filter(|response| response.status != 200) {
        assert_eq!(refused.status, 429, "{}", refused.text());
        assert_eq!(refused.error("code"), "rate_limit_exceeded");
    }

    let setup = scripted(&pool(&["tpm: 1000"], no_retries), |_, _| {
        Some("tokens=3 prompt_tokens=600 completion_tokens=300")
    })
    .await;
    assert_eq!(setup.chat(&chat("pool", "Hi")).await.status, 200);
    // 900 are used; another one reserves what its body may be.
    let response = setup.chat(&chat("pool", &"word ".repeat(200))).await;
    assert_eq!(response.status, 429, "{}", response.text());
    assert_eq!(setup.asked().len(), 1);

    let setup = scripted(&pool(&["max_parallel_requests: 2"], no_retries), |_, _| None).await;
    let held = [hold(&setup).await, hold(&setup).await];
    assert_eq!(setup.chat(&chat("pool", "Hi")).await.status, 429);
    let [one, _other] = held;
    one.reset();
    within(PATIENCE, "it is cancelled", setup.simulator.next_cancelled()).await;
    setup.gateway.metric_becomes("litellm_in_flight_requests", &[], |now| now <= 2.0).await;
    assert_eq!(setup.chat(&chat("pool", "Hi")).await.status, 200);
}

#[tokio::test]
async fn what_one_caller_does_wrong_rests_no_deployment() {
    let rest = "router_settings: { num_retries: 0, allowed_fails: 0, cooldown_time: 1h }";
    let setup = scripted(&pool(&["", ""], rest), |_, _| None).await;
    for status in [400, 401, 403, 404, 405, 409, 413, 415, 422] {
        for _ in 0..6 {
            let said = format!("[[sim status={status} message=No]]");
            let response = setup.chat(&chat("pool", &said)).await;
            assert!(response.status >= 400, "{status}: {}", response.text());
        }
        let response = setup.chat(&chat("pool", "Hi")).await;
        assert_eq!(response.status, 200, "after {status}: {}", response.text());
    }
}

#[tokio::test]
async fn callers_own_impatience_rests_no_deployment() {
    let rest = "router_settings: { num_retries: 0, allowed_fails: 0, cooldown_time: 1h }";
    let setup = scripted(&pool(&["", ""], rest), |_, _| None).await;
    let header = [("x-litellm-timeout", "0.05")];
    for _ in 0..4 {
        let response = setup.chat_with(&header, &chat("pool", "[[sim hang]]")).await;
        assert_eq!(response.status, 408, "{}", response.text());
        let body = stream("pool", "[[sim tokens=9 rate=5]]");
        let response = setup.chat_with(&header, &body).await;
        assert!(!response.text().contains("[DONE]"), "{}", response.text());
    }
    let response = setup.chat(&chat("pool", "Hi")).await;
    assert_eq!(response.status, 200, "{}", response.text());
}

#[tokio::test]
async fn configured_timeout_rests_a_deployment() {
    let rest =
        "router_settings: { num_retries: 0, allowed_fails: 0, cooldown_time: 1h, timeout: 0.2 }";
    let setup = scripted(&pool(&["order: 1", "order: 2"], rest), |_, model| {
        (model == "a").then_some("hang")
    })
    .await;
    assert_eq!(setup.chat(&chat("pool", "Hi")).await.status, 408);
    for _ in 0..3 {
        assert_eq!(setup.chat(&chat("pool", "Hi")).await.status, 200);
    }
    assert_eq!((count(&setup, "a"), count(&setup, "b")), (1, 3));
}

#[tokio::test]
async fn wildcards_and_aliases_lead_where_they_say() {
    let text = format!(
        "model_list:\n{}{}{}router_settings: {{ model_group_alias: {{ nick: exact, hidden: {{ model: exact, hidden: true }} }} }}\n",
        deployment("exact", "exact-model", ""),
        deployment("'my/*'", "'*'", "").replace("openai/'*'", "'openai/mine-*'"),
        deployment("'*'", "'*'", "").replace("openai/'*'", "'openai/*'"),
    );
    let setup = scripted(&text, |_, _| None).await;
    for (asked, model) in [
        ("exact", "exact-model"),
        ("nick", "exact-model"),
        ("hidden", "exact-model"),
        ("my/own", "mine-own"),
        ("gpt-9", "gpt-9"),
    ] {
        let response = setup.chat(&chat(asked, "Hi")).await;
        assert_eq!(response.status, 200, "{asked}: {}", response.text());
        assert_eq!(response.json()["model"], asked);
        let last = setup.asked().pop().expect("a request");
        assert_eq!(last.model().as_deref(), Some(model), "{asked}");
    }
}

#[tokio::test]
async fn request_overrides_fallbacks_retries_and_timeout() {
    let settings = "fallbacks: [{small: [large]}]";
    let setup = scripted(&windows(settings), |_, model| match model {
        "small" => Some("status=500"),
        "large" => Some("hang"),
        _ => None,
    })
    .await;
    let mut body = chat("small", "Hi");
    body["fallbacks"] = json!(["other"]);
    body["num_retries"] = 1.into();
    let response = setup.chat(&body).await;
    assert_eq!(response.status, 200, "{}", response.text());
    let counts_now = counts(&setup);
    assert_eq!((counts_now["small"], counts_now.get("large"), counts_now["other"]), (2, None, 1));
    // None at all.
    body["fallbacks"] = json!([]);
    body["num_retries"] = 0.into();
    assert_eq!(setup.chat(&body).await.status, 500);
    assert_eq!((count(&setup, "small"), count(&setup, "large")), (3, 0));
    // The timeout is for all attempts together.
    let mut body = chat("small", "Hi");
    body["timeout"] = json!(0.3);
    let began = Instant::now();
    let response = setup.chat(&body).await;
    assert_eq!(response.status, 408, "{}", response.text());
    assert!(began.elapsed().as_secs() < 20, "{:?}", began.elapsed());
    assert_eq!(count(&setup, "large"), 1);
    // None of it is for the provider to see.
    for asked in setup.asked() {
        for name in ["fallbacks", "num_retries", "timeout"] {
            assert!(asked.json().get(name).is_none(), "{name} went out");
        }
    }
}
