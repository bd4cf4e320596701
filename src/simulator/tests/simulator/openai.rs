//! OpenAI's endpoints beside chat.

use serde_json::{Value, json};
use tollway_simulator::{Options, Reply, Simulator};

use crate::client::{Client, Ended, Response};
use crate::simulator;

async fn send(simulator: &Simulator, method: &str, path: &str, body: &Value) -> Response {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let mut client = Client::new(simulator).await;
    let length = body.len();
    let head = format!("{method} {path} HTTP/1.1\r\nhost: sim\r\ncontent-length: {length}\r\n\r\n");
    client.send(head + &body).await;
    client.response().await.unwrap()
}

/// Posts a form: fields, and a file.
async fn upload(
    simulator: &Simulator,
    path: &str,
    fields: &[(&str, &str)],
    file: (&str, &str),
) -> Response {
    let mut body = String::new();
    for (name, value) in fields {
        body.push_str(&format!(
            "--b\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n"
        ));
    }
    let (name, content) = file;
    body.push_str(&format!(
        "--b\r\nContent-Disposition: form-data; name=\"{name}\"; filename=\"f\"\r\n\
         Content-Type: application/octet-stream\r\n\r\n{content}\r\n--b--\r\n"
    ));
    let mut client = Client::new(simulator).await;
    let length = body.len();
    let head = format!(
        "POST {path} HTTP/1.1\r\ncontent-type: multipart/form-data; boundary=b\r\n\
         content-length: {length}\r\n\r\n"
    );
    client.send(head + &body).await;
    client.response().await.unwrap()
}

fn kinds(events: &[Value]) -> Vec<&str> {
    events.iter().filter_map(|event| event["type"].as_str()).collect()
}

#[tokio::test]
async fn a_response_has_the_same_items_whole_and_in_events() {
    let simulator = simulator().await;
    let directive = "[[sim think=hm say=one tool=find args={\"q\":1} cached=2]]";
    let mut body = json!({"model": "m", "input": directive, "metadata": {"a": "b"}});
    let whole = send(&simulator, "POST", "/v1/responses", &body).await.json();
    assert_eq!(whole["status"], "completed");
    assert_eq!(whole["metadata"], json!({"a": "b"}));
    assert_eq!(whole["usage"]["input_tokens_details"]["cached_tokens"], 2);
    assert_eq!(whole["usage"]["output_tokens_details"]["reasoning_tokens"], 1);
    assert_eq!(
        kinds(whole["output"].as_array().unwrap()),
        ["reasoning", "message", "function_call"]
    );
    assert_eq!(whole["output"][2]["arguments"], "{\"q\":1}");

    body["stream"] = true.into();
    let events = send(&simulator, "POST", "/v1/responses", &body).await.events();
    let expected = [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.reasoning_summary_part.added",
        "response.reasoning_summary_text.delta",
        "response.reasoning_summary_text.done",
        "response.reasoning_summary_part.done",
        "response.output_item.done",
        "response.output_item.added",
        "response.content_part.added",
        "response.output_text.delta",
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.output_item.added",
        "response.function_call_arguments.delta",
        "response.function_call_arguments.delta",
        "response.function_call_arguments.done",
        "response.output_item.done",
        "response.completed",
    ];
    assert_eq!(kinds(&events), expected);
    let numbers: Vec<_> = events.iter().filter_map(|e| e["sequence_number"].as_u64()).collect();
    assert_eq!(numbers, (0..20).collect::<Vec<u64>>());
    let last = &events[19]["response"];
    assert_eq!(last["usage"], whole["usage"]);
    let same = |response: &Value| response.to_string().replace("sim_2", "sim_1");
    assert_eq!(same(last), same(&whole));

    body["max_output_tokens"] = 1.into();
    let events = send(&simulator, "POST", "/v1/responses", &body).await.events();
    let last = events.last().unwrap();
    assert_eq!(last["type"], "response.incomplete");
    assert_eq!(last["response"]["incomplete_details"]["reason"], "max_output_tokens");
}

#[tokio::test]
async fn responses_take_tools_and_their_results() {
    let simulator = simulator().await;
    let tool = json!({"type": "function", "name": "weather", "parameters": {"type": "object"}});
    let body =
        json!({"model": "tools", "input": "weather?", "tools": [tool, {"type": "web_search"}]});
    let answer = send(&simulator, "POST", "/v1/responses", &body).await.json();
    let call = answer["output"][0].clone();
    assert_eq!((&call["type"], &call["name"]), (&json!("function_call"), &json!("weather")));
    let output =
        json!({"type": "function_call_output", "call_id": call["call_id"], "output": "12 °C"});
    let input = json!([{"role": "user", "content": "weather?"}, call, output]);
    let body = json!({"model": "tools", "input": input, "tools": [tool]});
    let answer = send(&simulator, "POST", "/v1/responses", &body).await.json();
    assert_eq!(answer["output"][0]["content"][0]["text"], "The tool answered: 12 °C");
}

#[tokio::test]
async fn responses_are_kept_until_they_are_deleted() {
    let simulator = simulator().await;
    let ask = async |body: Value| send(&simulator, "POST", "/v1/responses", &body).await.json();
    let first = ask(json!({"model": "m", "input": "hi"})).await;
    let id = first["id"].as_str().unwrap();
    let path = format!("/v1/responses/{id}");
    assert_eq!(send(&simulator, "GET", &path, &Value::Null).await.json(), first);
    let items = send(&simulator, "GET", &format!("{path}/input_items"), &Value::Null).await.json();
    assert_eq!(items["data"][0]["content"], json!([{"type": "input_text", "text": "hi"}]));
    let next = json!({"model": "m", "input": "and?", "previous_response_id": id});
    assert_eq!(ask(next.clone()).await["status"], "completed");
    let cancelled = send(&simulator, "POST", &format!("{path}/cancel"), &Value::Null).await;
    assert_eq!(cancelled.status, 400);
    let deleted = send(&simulator, "DELETE", &path, &Value::Null).await.json();
    assert_eq!(deleted["deleted"], true);
    assert_eq!(send(&simulator, "GET", &path, &Value::Null).await.status, 404);
    assert_eq!(ask(next).await["error"]["code"], "previous_response_not_found");

    let background = ask(json!({"model": "m", "input": "hi", "background": true})).await;
    assert_eq!((&background["status"], &background["output"]), (&json!("queued"), &json!([])));
    let path = format!("/v1/responses/{}", background["id"].as_str().unwrap());
    let done = send(&simulator, "GET", &path, &Value::Null).await.json();
    assert_eq!(done["status"], "completed");
    let cancelled = send(&simulator, "POST", &format!("{path}/cancel"), &Value::Null).await.json();
    assert_eq!(cancelled["status"], "cancelled");

    for (body, kept) in [
        (json!({"model": "m", "input": "hi", "store": false}), false),
        (json!({"model": "m", "input": "[[sim tokens=3]]", "stream": true}), true),
        (json!({"model": "m", "input": "[[sim tokens=3 cut_after=2]]", "stream": true}), false),
    ] {
        send(&simulator, "POST", "/v1/responses", &body).await;
        let number = simulator.requests().last().unwrap().id;
        let path = format!("/v1/responses/resp_sim_{number}");
        let status = send(&simulator, "GET", &path, &Value::Null).await.status;
        assert_eq!(status == 200, kept, "{body}");
    }
}

#[tokio::test]
async fn files_batches_and_jobs_go_through_their_lives() {
    let simulator = simulator().await;
    let get = async |path: String| send(&simulator, "GET", &path, &Value::Null).await;
    let post = async |path: String, body: Value| send(&simulator, "POST", &path, &body).await;
    let line = json!({
        "custom_id": "a",
        "method": "POST",
        "url": "/v1/chat/completions",
        "body": {"model": "echo", "messages": [{"role": "user", "content": "yo"}]},
    });
    let lines = format!("{line}\nbroken\n");
    let file = upload(&simulator, "/v1/files", &[("purpose", "batch")], ("file", &lines)).await;
    let id = file.json()["id"].as_str().unwrap().to_owned();
    assert_eq!(file.json()["bytes"], lines.len());
    assert_eq!(get(format!("/v1/files/{id}/content")).await.text(), lines);
    assert_eq!(get("/v1/files".into()).await.json()["data"][0], file.json());

    let batch = json!({
        "input_file_id": id,
        "endpoint": "/v1/chat/completions",
        "completion_window": "24h",
    });
    let made = post("/v1/batches".into(), batch.clone()).await.json();
    assert_eq!(made["status"], "validating");
    let path = format!("/v1/batches/{}", made["id"].as_str().unwrap());
    let done = get(path.clone()).await.json();
    assert_eq!(done["status"], "completed");
    assert_eq!(done["request_counts"], json!({"total": 2, "completed": 1, "failed": 1}));
    let output = done["output_file_id"].as_str().unwrap();
    let output = get(format!("/v1/files/{output}/content")).await.text();
    let first: Value = serde_json::from_str(output.lines().next().unwrap()).unwrap();
    assert_eq!(first["custom_id"], "a");
    assert_eq!(first["response"]["body"]["choices"][0]["message"]["content"], "yo");
    assert_eq!(post(format!("{path}/cancel"), Value::Null).await.status, 409);
    let other = post("/v1/batches".into(), batch).await.json();
    let path = format!("/v1/batches/{}", other["id"].as_str().unwrap());
    assert_eq!(post(format!("{path}/cancel"), Value::Null).await.json()["status"], "cancelled");

    let job = post("/v1/fine_tuning/jobs".into(), json!({"model": "m", "training_file": id})).await;
    let path = format!("/v1/fine_tuning/jobs/{}", job.json()["id"].as_str().unwrap());
    assert_eq!(get(path.clone()).await.json(), job.json());
    assert_eq!(get(format!("{path}/events")).await.json()["object"], "list");
    assert_eq!(post(format!("{path}/cancel"), Value::Null).await.json()["status"], "cancelled");

    let gone = send(&simulator, "DELETE", &format!("/v1/files/{id}"), &Value::Null).await.json();
    assert_eq!(gone["deleted"], true);
    for path in [format!("/v1/files/{id}"), "/v1/batches/none".into()] {
        assert_eq!(get(path).await.status, 404);
    }
    assert_eq!(send(&simulator, "PUT", "/v1/files", &Value::Null).await.status, 405);
}

#[tokio::test]
async fn simulator_for_people_has_no_models_but_its_own() {
    let options = Options { first_token_delay: std::time::Duration::ZERO, ..Options::demo() };
    let simulator = Simulator::start(options).await.unwrap();
    for (path, body) in [
        ("/v1/moderations", json!({"model": "m", "input": "a"})),
        ("/v1/rerank", json!({"model": "m", "query": "a", "documents": ["a"]})),
        ("/v1/images/generations", json!({"model": "m", "prompt": "a"})),
        ("/v1/audio/speech", json!({"model": "m", "input": "a", "voice": "a"})),
        ("/v1beta/models/m:countTokens", json!({"contents": [{"parts": [{"text": "a"}]}]})),
        ("/model/m/converse", json!({})),
        ("/v2/chat", json!({"model": "m", "messages": [{"role": "user", "content": "a"}]})),
    ] {
        assert_eq!(send(&simulator, "POST", path, &body).await.status, 404, "{path}");
    }
}

#[tokio::test]
async fn pictures_are_one_pixel_and_come_as_events_too() {
    let simulator = simulator().await;
    let body = json!({"model": "gpt-image-1", "prompt": "a cat", "n": 2});
    let answer = send(&simulator, "POST", "/v1/images/generations", &body).await.json();
    assert_eq!(answer["data"].as_array().map(Vec::len), Some(2));
    let picture = send(&simulator, "GET", "/simulated.png", &Value::Null).await;
    assert_eq!(picture.body, crate::cuts::decoded(answer["data"][0]["b64_json"].as_str().unwrap()));
    assert!(picture.body.starts_with(b"\x89PNG\r\n\x1a\n"));
    let body = json!({"prompt": "a cat", "response_format": "url"});
    let answer = send(&simulator, "POST", "/v1/images/generations", &body).await.json();
    assert_eq!(answer["data"][0]["url"], "http://sim/simulated.png");
    let body = json!({"prompt": "a cat", "stream": true, "partial_images": 1});
    let events = send(&simulator, "POST", "/v1/images/generations", &body).await.events();
    assert_eq!(kinds(&events), ["image_generation.partial_image", "image_generation.completed"]);
    let fields = [("prompt", "a hat"), ("model", "m")];
    let answer = upload(&simulator, "/v1/images/edits", &fields, ("image[]", "png")).await.json();
    assert!(answer["data"][0]["b64_json"].is_string());
    assert_eq!(simulator.requests().last().unwrap().model().as_deref(), Some("m"));
    let fields = [("prompt", "[[sim status=503]]")];
    let refused = upload(&simulator, "/v1/images/edits", &fields, ("image", "png")).await;
    assert_eq!(refused.status, 503);
    assert_eq!(upload(&simulator, "/v1/images/edits", &fields, ("mask", "png")).await.status, 400);
}

#[tokio::test]
async fn speech_comes_piece_by_piece() {
    let simulator = simulator().await;
    let body = |input: &str| json!({"model": "tts", "voice": "alloy", "input": input});
    let path = "/openai/deployments/tts/audio/speech?api-version=1";
    let sound = send(&simulator, "POST", path, &body("one two")).await;
    assert_eq!(sound.header("content-type").as_deref(), Some("audio/mpeg"));
    assert_eq!((sound.chunks, &*sound.text()), (2, "[simulated mp3:one][simulated mp3: two]"));
    let cut = send(&simulator, "POST", path, &body("[[sim tokens=30 cut_after=7]]")).await;
    assert_eq!((cut.chunks, cut.ended), (7, Ended::Short));
    let mut wav = body("one two");
    wav["response_format"] = "wav".into();
    assert_eq!(send(&simulator, "POST", path, &wav).await.body.len(), 44 + 2 * 480);
    wav["stream_format"] = "sse".into();
    let events = send(&simulator, "POST", path, &wav).await.events();
    assert_eq!(events.last().unwrap()["type"], "speech.audio.done");
    assert_eq!(
        send(&simulator, "POST", path, &json!({"model": "t", "input": "a"})).await.status,
        400
    );
}

#[tokio::test]
async fn transcripts_have_every_format() {
    let simulator = simulator().await;
    for path in ["/v1/audio/transcriptions", "/v1/audio/translations"] {
        for (format, expected) in [
            ("json", "{\"text\":\"one two\",\"usage\":{\"type\":\"duration\",\"seconds\":2}}"),
            ("text", "one two\n"),
            ("srt", "1\n00:00:00,000 --> 00:00:02,000\none two\n\n"),
            ("vtt", "WEBVTT\n\n00:00:00.000 --> 00:00:02.000\none two\n\n"),
        ] {
            let prompt = "[[sim say=\"one two\"]]";
            let fields = [("model", "w"), ("response_format", format), ("prompt", prompt)];
            let answer = upload(&simulator, path, &fields, ("file", "RIFF")).await;
            assert_eq!(answer.text().trim_start_matches('\u{feff}'), expected, "{format}");
        }
        let fields = [("model", "w"), ("response_format", "verbose_json")];
        let answer = upload(&simulator, path, &fields, ("file", "RIFF")).await.json();
        assert!(answer["text"].as_str().unwrap().ends_with("the 4 bytes."));
        assert_eq!(answer["segments"][0]["text"], answer["text"]);
    }
    simulator.enqueue(Reply::tokens(30).cut_after(12));
    let fields = [("model", "w"), ("stream", "true")];
    let path = "/v1/audio/transcriptions";
    let cut = upload(&simulator, path, &fields, ("file", "RIFF")).await;
    assert_eq!((cut.events().len(), cut.ended), (12, Ended::Short));
    let fields = [("model", "w"), ("response_format", "xml")];
    assert_eq!(upload(&simulator, path, &fields, ("file", "")).await.status, 400);
    let not_a_form = send(&simulator, "POST", path, &json!({})).await;
    assert_eq!(not_a_form.status, 400);
}

#[tokio::test]
async fn moderation_flags_the_categories_a_text_names() {
    let simulator = simulator().await;
    let body = json!({"input": ["all is well", "violence"]});
    let answer = send(&simulator, "POST", "/v1/moderations", &body).await.json();
    assert_eq!(answer["results"][0]["flagged"], false);
    assert_eq!(answer["results"][1]["categories"]["violence"], true);
    let body = json!({"input": [{"type": "text", "text": "hate"}]});
    let answer = send(&simulator, "POST", "/v1/moderations", &body).await.json();
    assert_eq!(answer["results"][0]["flagged"], true);
    let body = json!({"input": "[[sim status=500]]"});
    assert_eq!(send(&simulator, "POST", "/v1/moderations", &body).await.status, 500);
}

#[tokio::test]
async fn azure_names_the_model_in_the_path() {
    let simulator = simulator().await;
    let body = json!({"messages": [{"role": "user", "content": "hi"}]});
    let path = "/openai/deployments/echo/chat/completions?api-version=2024-10-21";
    let answer = send(&simulator, "POST", path, &body).await.json();
    assert_eq!(
        (&answer["model"], &answer["choices"][0]["message"]["content"]),
        (&json!("echo"), &json!("hi"))
    );
    assert_eq!(simulator.requests()[0].model().as_deref(), Some("echo"));
    let body = json!({"input": "a b"});
    let path = "/openai/deployments/emb/embeddings?api-version=2024-10-21";
    assert_eq!(send(&simulator, "POST", path, &body).await.json()["model"], "emb");
    let body = json!({"model": "m", "input": "hi"});
    let path = "/openai/responses?api-version=preview";
    assert_eq!(send(&simulator, "POST", path, &body).await.json()["status"], "completed");
    assert_eq!(send(&simulator, "POST", "/openai/v1/responses", &body).await.status, 200);
}
