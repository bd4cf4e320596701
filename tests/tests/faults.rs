//! A provider that dies: before its answer, at its beginning, and after each piece of it. Whatever
//! it was in the middle of, the client is told the truth as far as it came, then an error in its own
//! dialect, and never that this was the end.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use serde_json::Value;
use tollway_simulator::{Options, Reply, Simulator};
use tollway_tests::client::send;
use tollway_tests::dialects::{Client, FAMILIES, FAMILY_MODELS, Seen};
use tollway_tests::{Response, Setup};

/// How many pieces a stream has.
const PIECES: u64 = 30;
/// How many requests are under way at once.
const AT_ONCE: usize = 8;

/// What is in flight when the provider dies.
const KINDS: [(&str, &str); 4] = [
    ("text", "tokens=30"),
    ("tool", "tool=find arg_tokens=29"),
    ("tools", "tool=find arg_tokens=14 tool=find arg_tokens=14"),
    ("thinking", "think_tokens=29 tokens=1"),
];

const NO_RETRIES: &str = "router_settings: { num_retries: 0 }\n";

async fn ask(setup: &Setup, client: Client, model: &str, said: &str, id: &str) -> Response {
    let headers = [("x-litellm-call-id", id)];
    let (path, body) = (client.path(model, true), client.body(model, said, true));
    let body = body.to_string();
    send(setup.gateway.address, "POST", &path, &headers, body.as_bytes()).await
}

/// The lines of the request log by their ids, once there are `count`.
async fn log_lines(setup: &Setup, count: usize) -> HashMap<String, Value> {
    let is_line = |line: &&str| line.contains("\"msg\":\"request\"");
    setup.gateway.stdout_lines(count, |line| is_line(&line)).await;
    let stdout = setup.gateway.stdout();
    let lines = stdout.lines().filter(is_line);
    let lines = lines.map(|line| serde_json::from_str::<Value>(line).expect("a line is JSON"));
    lines.map(|line| (line["request_id"].as_str().unwrap_or_default().to_owned(), line)).collect()
}

fn is_prefix(seen: &Seen, truth: &Seen) -> bool {
    truth.text.starts_with(&seen.text)
        && truth.thinking.starts_with(&seen.thinking)
        && truth.arguments.starts_with(&seen.arguments)
}

/// Ends of parts that are complete, which is known when the provider said so or the next part began.
fn may_end(client: Client, seen: &Seen, truth: &Seen) -> bool {
    let of_part = |end: &String| match client {
        Client::Messages => end == "content_block_stop",
        Client::Responses => end.ends_with(".done"),
        Client::Chat | Client::Gemini => false,
    };
    let is_told = |part: &str, whole: &str| !whole.is_empty() && part == whole;
    // Of two calls the first is half of it.
    let (half, rest) = truth.arguments.split_at(truth.arguments.len() / 2);
    let is_any_told = is_told(&seen.thinking, &truth.thinking)
        || is_told(&seen.text, &truth.text)
        || is_told(&seen.arguments, &truth.arguments)
        || (half == rest && !half.is_empty() && seen.arguments.starts_with(half));
    seen.ends.iter().all(|end| is_any_told && of_part(end))
}

/// One answer that was cut after `k` pieces.
fn check(client: Client, name: &str, response: &Response, truth: &Seen, line: &Value) {
    if response.status != 200 {
        assert!(client.error_message(response).is_some(), "{name}: {}", response.text());
        return;
    }
    let text = response.text();
    let seen = client.read(&text);
    assert!(is_prefix(&seen, truth), "{name}: not a prefix of the truth: {text}");
    assert!(may_end(client, &seen, truth), "{name}: a made-up end, {:?}: {text}", seen.ends);
    // The Responses API tells it twice: `error`, and the response as far as it came.
    let errors: BTreeSet<&String> = seen.errors.iter().collect();
    assert_eq!(errors.len(), 1, "{name}: one error, not {:?}: {text}", seen.errors);
    assert!(seen.error_is_last, "{name}: something follows the error: {text}");
    assert!(!seen.errors[0].is_empty(), "{name}: no message: {text}");
    assert_eq!(line["outcome"], "broken", "{name}: {line}");
    let metered = line["completion_tokens"].as_u64().unwrap_or_default();
    // A call that is told whole is one piece for a client of Gemini's.
    assert!(metered >= seen.pieces, "{name}: {} delivered, {line}", seen.pieces);
    assert!(metered <= truth.pieces.max(PIECES) + 10, "{name}: {line}");
}

/// What is asked: the family, the kind, an id, what is said.
type Work = (&'static str, &'static str, String, String);

/// Asks all of it, some at once.
async fn ask_all(
    setup: &Arc<Setup>,
    client: Client,
    work: Vec<Work>,
) -> Vec<(&'static str, &'static str, String, Response)> {
    let work = Arc::new(std::sync::Mutex::new(work.into_iter()));
    let mut tasks = Vec::new();
    for _ in 0..AT_ONCE {
        let (setup, work) = (Arc::clone(setup), Arc::clone(&work));
        tasks.push(tokio::spawn(async move {
            let mut answers = Vec::new();
            loop {
                let next = work.lock().expect("nobody panics with it").next();
                let Some((family, kind, id, said)) = next else { return answers };
                let response = ask(&setup, client, family, &said, &id).await;
                answers.push((family, kind, id, response));
            }
        }));
    }
    let mut answers = Vec::new();
    for task in tasks {
        answers.extend(task.await.expect("no request panics"));
    }
    answers
}

/// Cuts the streams of all families after every number of pieces.
async fn cut_everywhere(client: Client) {
    let setup = Arc::new(Setup::with(&format!("{FAMILY_MODELS}{NO_RETRIES}")).await);
    let mut truths = HashMap::new();
    let mut work = Vec::new();
    for family in FAMILIES {
        for (kind, said) in KINDS {
            let id = format!("{family}-{kind}");
            let whole = ask(&setup, client, family, &format!("[[sim {said}]]"), &id).await;
            assert_eq!(whole.status, 200, "{client:?} {id}: {}", whole.text());
            let seen = client.read(&whole.text());
            assert!(client.is_complete(&seen), "{client:?} {id}: {}", whole.text());
            let told = format!("{}{}{}", seen.text, seen.thinking, seen.arguments);
            assert!(told.len() > 30, "{client:?} {id}: {}", whole.text());
            truths.insert((family, kind), seen);
            for k in 0..=PIECES {
                let fault = if k % 5 == 4 { "reset_after" } else { "cut_after" };
                let said = format!("[[sim {said} {fault}={k}]]");
                work.push((family, kind, format!("{family}-{kind}-{k}"), said));
            }
        }
    }
    let count = truths.len() + work.len();
    let answers = ask_all(&setup, client, work).await;
    let lines = log_lines(&setup, count).await;
    let mut begun = 0;
    for (family, kind, id, response) in &answers {
        begun += usize::from(response.status == 200);
        let name = format!("{client:?} {id}");
        check(client, &name, response, &truths[&(*family, *kind)], &lines[id]);
    }
    // Only what is told whole is not begun before it is there.
    assert!(begun * 2 > answers.len(), "{begun} of {} have begun", answers.len());
}

#[tokio::test]
async fn chat_stream_cut_after_any_piece_is_the_truth_and_an_error() {
    cut_everywhere(Client::Chat).await;
}

#[tokio::test]
async fn responses_stream_cut_after_any_piece_is_the_truth_and_an_error() {
    cut_everywhere(Client::Responses).await;
}

#[tokio::test]
async fn messages_stream_cut_after_any_piece_is_the_truth_and_an_error() {
    cut_everywhere(Client::Messages).await;
}

#[tokio::test]
async fn gemini_stream_cut_after_any_piece_is_the_truth_and_an_error() {
    cut_everywhere(Client::Gemini).await;
}

#[tokio::test]
async fn stream_cut_at_any_byte_is_complete_or_an_error() {
    let setup = Arc::new(Setup::with(&format!("{FAMILY_MODELS}{NO_RETRIES}")).await);
    for client in Client::ALL {
        let (mut truths, mut work) = (HashMap::new(), Vec::new());
        for family in FAMILIES {
            for (kind, said) in
                [("text", "say=\"Grüße an 日本\""), ("tool", "tool=find args={\"q\":\"ß\"}")]
            {
                let whole = ask(&setup, client, family, &format!("[[sim {said}]]"), "whole").await;
                truths.insert((family, kind), client.read(&whole.text()));
                for byte in (1..3000).step_by(97) {
                    let said = format!("[[sim {said} cut_at_byte={byte}]]");
                    work.push((family, kind, format!("{family}-{kind}-{byte}"), said));
                }
            }
        }
        for (family, kind, id, response) in ask_all(&setup, client, work).await {
            let (name, truth) = (format!("{client:?} {id}"), &truths[&(family, kind)]);
            if response.status != 200 {
                assert!(client.error_message(&response).is_some(), "{name}: {}", response.text());
                continue;
            }
            let text = response.text();
            let seen = client.read(&text);
            assert!(is_prefix(&seen, truth), "{name}: {text}");
            if seen.errors.is_empty() {
                // All that matters had come.
                let told = (&seen.text, &seen.thinking, &seen.arguments);
                let whole = (&truth.text, &truth.thinking, &truth.arguments);
                assert_eq!(told, whole, "{name}: {text}");
                assert!(!seen.ends.is_empty(), "{name}: neither an end nor an error: {text}");
            } else {
                assert!(seen.error_is_last && !client.is_complete(&seen), "{name}: {text}");
            }
        }
    }
}

/// Whether an answer is complete only with a word of its own after the finish reason.
fn has_last_word(client: Client, family: &str) -> bool {
    family == "anthropic"
        || (client, family) == (Client::Messages, "bedrock-claude")
        || (client, family) == (Client::Responses, "openai")
}

#[tokio::test]
async fn stream_that_breaks_in_another_way_is_the_truth_and_an_error() {
    const FAULTS: [&str; 6] = [
        "garbage=7",
        "error_event=7",
        "bad_crc=7",
        "bad_chunk_after=7",
        "no_finish no_done",
        // The provider gave its reason and then not its last word.
        "no_done",
    ];
    let setup = Setup::with(&format!("{FAMILY_MODELS}{NO_RETRIES}")).await;
    let mut answers = Vec::new();
    for client in Client::ALL {
        for family in FAMILIES {
            let whole = ask(&setup, client, family, "[[sim tokens=30]]", "whole").await;
            let truth = client.read(&whole.text());
            for fault in FAULTS {
                if fault == "no_done" && !has_last_word(client, family) {
                    continue;
                }
                let id = format!("{client:?}-{family}-{}", fault.replace([' ', '='], "-"));
                let said = format!("[[sim tokens=30 {fault}]]");
                let response = ask(&setup, client, family, &said, &id).await;
                answers.push((client, fault, id, truth.clone(), response));
            }
        }
    }
    let lines = log_lines(&setup, answers.len() + Client::ALL.len() * FAMILIES.len()).await;
    for (client, fault, id, truth, response) in &answers {
        if *fault == "no_done" {
            let seen = client.read(&response.text());
            assert!(is_prefix(&seen, truth), "{id}: {}", response.text());
            assert!(!client.is_complete(&seen), "{id}: {}", response.text());
            assert!(seen.error_is_last, "{id}: {}", response.text());
        } else {
            check(*client, id, response, truth, &lines[id]);
        }
    }
}

#[tokio::test]
async fn stream_that_stalls_is_the_truth_and_an_error() {
    let settings = "server: { idle_timeout: 500ms }\n";
    let setup = Arc::new(Setup::with(&format!("{FAMILY_MODELS}{NO_RETRIES}{settings}")).await);
    let mut tasks = Vec::new();
    for client in Client::ALL {
        for family in FAMILIES {
            for (kind, said) in KINDS {
                let setup = Arc::clone(&setup);
                tasks.push(tokio::spawn(async move {
                    let name = format!("{client:?}-{family}-{kind}");
                    let whole = ask(&setup, client, family, &format!("[[sim {said}]]"), "w").await;
                    let truth = client.read(&whole.text());
                    let said = format!("[[sim {said} stall_after=17]]");
                    let response = ask(&setup, client, family, &said, &name).await;
                    (client, name, truth, response)
                }));
            }
        }
    }
    let count = tasks.len() * 2;
    let mut answers = Vec::new();
    for task in tasks {
        answers.push(task.await.expect("no request panics"));
    }
    let lines = log_lines(&setup, count).await;
    for (client, name, truth, response) in &answers {
        check(*client, name, response, truth, &lines[name]);
        assert!(response.text().contains("imed out"), "{name}: {}", response.text());
    }
}

/// Each family as `safe-…`, with a spare one of another provider.
fn with_spare(spare: &Simulator) -> String {
    let (_, entries) = FAMILY_MODELS.split_once("model_list:\n").expect("it is a list");
    let safe = entries.replace("model_name: ", "model_name: safe-");
    let fallbacks: Vec<String> =
        FAMILIES.iter().map(|family| format!("{{safe-{family}: [spare]}}")).collect();
    format!(
        "{FAMILY_MODELS}{safe}  - model_name: spare
    litellm_params: {{ model: openai/gpt-4o-mini, api_key: $KEY, api_base: '{}/v1' }}
router_settings: {{ num_retries: 0, fallbacks: [{}] }}
",
        spare.base_url(),
        fallbacks.join(", ")
    )
}

#[tokio::test]
async fn death_before_the_first_event_falls_back_or_is_an_honest_error() {
    let spare = Options::default().with_script(|_| Some(Reply::text("from the spare one")));
    let spare = Simulator::start(spare).await.expect("a port is free");
    let setup = Setup::with(&with_spare(&spare)).await;
    for client in Client::ALL {
        for family in FAMILIES {
            for fault in [
                "close_before_head",
                "reset_before_head",
                "cut_head",
                "cut_at_byte=0",
                "cut_at_byte=11",
                "status=500",
                "status=503",
                "html",
            ] {
                let name = format!("{client:?} {family} {fault}");
                let said = format!("[[sim tokens=30 {fault}]]");
                let response = ask(&setup, client, family, &said, "alone").await;
                assert!(response.status >= 400, "{name}: {}", response.text());
                let message = client.error_message(&response);
                assert!(message.is_some(), "{name}: {}", response.text());

                let safe = format!("safe-{family}");
                let response = ask(&setup, client, &safe, &said, "safe").await;
                assert_eq!(response.status, 200, "{name}: {}", response.text());
                let seen = client.read(&response.text());
                assert!(client.is_complete(&seen), "{name}: {}", response.text());
                assert_eq!(seen.text, "from the spare one", "{name}");
            }
        }
    }
}

#[tokio::test]
async fn whole_answer_that_is_cut_is_an_honest_error() {
    let setup = Setup::with(&format!("{FAMILY_MODELS}{NO_RETRIES}")).await;
    for client in Client::ALL {
        for family in FAMILIES {
            for fault in ["cut_after=40", "reset_after=40", "cut_at_byte=0", "garbage", "html"] {
                let said = format!("[[sim tokens=30 {fault}]]");
                let (path, body) = (client.path(family, false), client.body(family, &said, false));
                let response = tollway_tests::post(setup.gateway.address, &path, &body).await;
                let name = format!("{client:?} {family} {fault}");
                assert!(response.status >= 500, "{name}: {}", response.text());
                let message = client.error_message(&response);
                assert!(message.is_some(), "{name}: {}", response.text());
            }
        }
    }
}
