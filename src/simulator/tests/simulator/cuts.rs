//! Every dialect, with the same faults.

use serde_json::{Value, json};
use tollway_simulator::{DIRECTIVES, End, Simulator};

use crate::client::{Client, Ended, Response};
use crate::simulator;

/// How one dialect asks for a stream.
pub(crate) struct Spoken {
    pub(crate) name: &'static str,
    path: &'static str,
    headers: &'static str,
    /// The request for a stream that says this.
    body: fn(&str) -> Value,
}

fn messages(text: &str) -> Value {
    json!([{"role": "user", "content": text}])
}

fn openai(text: &str) -> Value {
    json!({"model": "m", "stream": true, "max_tokens": 999, "messages": messages(text)})
}

fn responses(text: &str) -> Value {
    json!({"model": "m", "stream": true, "input": text})
}

fn hosted(text: &str) -> Value {
    json!({"anthropic_version": "2026-10-21", "max_tokens": 999, "messages": messages(text)})
}

fn gemini(text: &str) -> Value {
    json!({"contents": [{"role": "user", "parts": [{"text": text}]}]})
}

fn converse(text: &str) -> Value {
    json!({"messages": [{"role": "user", "content": [{"text": text}]}]})
}

pub(crate) const DIALECTS: [Spoken; 11] = [
    Spoken { name: "chat", path: "/v1/chat/completions", headers: "", body: openai },
    Spoken {
        name: "azure",
        path: "/openai/deployments/m/chat/completions?api-version=2024-10-21",
        headers: "",
        body: openai,
    },
    Spoken { name: "responses", path: "/v1/responses", headers: "", body: responses },
    Spoken {
        name: "messages",
        path: "/v1/messages",
        headers: "anthropic-version: 2023-06-01\r\n",
        body: openai,
    },
    Spoken {
        name: "gemini",
        path: "/v1beta/models/m:streamGenerateContent?alt=sse",
        headers: "",
        body: gemini,
    },
    Spoken {
        name: "gemini array",
        path: "/v1beta/models/m:streamGenerateContent",
        headers: "",
        body: gemini,
    },
    Spoken {
        name: "vertex",
        path: "/v1/projects/p/locations/l/publishers/google/models/m:streamGenerateContent?alt=sse",
        headers: "",
        body: gemini,
    },
    Spoken {
        name: "vertex anthropic",
        path: "/v1/projects/p/locations/l/publishers/anthropic/models/m:streamRawPredict",
        headers: "",
        body: hosted,
    },
    Spoken { name: "converse", path: "/model/m/converse-stream", headers: "", body: converse },
    Spoken {
        name: "invoke",
        path: "/model/m/invoke-with-response-stream",
        headers: "",
        body: hosted,
    },
    Spoken { name: "cohere", path: "/v2/chat", headers: "", body: openai },
];

/// Those of them whose events no other one has.
fn writers() -> impl Iterator<Item = Spoken> {
    let others = ["azure", "vertex", "vertex anthropic"];
    DIALECTS.into_iter().filter(move |spoken| !others.contains(&spoken.name))
}

impl Spoken {
    pub(crate) async fn ask(&self, simulator: &Simulator, text: &str) -> Response {
        let mut client = Client::new(simulator).await;
        client.post(self.path, self.headers, &(self.body)(text)).await.unwrap()
    }

    /// The JSON of each event that has arrived whole.
    pub(crate) fn events(&self, response: &Response) -> Vec<Value> {
        match self.name {
            "converse" | "invoke" => {
                let frames = frames(&response.body).into_iter();
                frames
                    .map(|frame| match frame.payload["bytes"].as_str() {
                        Some(inner) => serde_json::from_slice(&decoded(inner)).unwrap(),
                        None => frame.payload,
                    })
                    .collect()
            }
            "gemini array" => {
                let text = response.text();
                let open = text.trim_start_matches('[').trim_end_matches(']');
                open.split(",\r\n")
                    .filter(|element| !element.is_empty())
                    .map(|element| serde_json::from_str(element).unwrap())
                    .collect()
            }
            _ => response.events(),
        }
    }

    /// What an event adds to the text, the thoughts or the calls: one token each.
    fn pieces(&self, event: &Value) -> usize {
        let delta = match self.name {
            "chat" | "azure" => {
                let delta = &event["choices"][0]["delta"];
                let text = delta["content"].as_str().is_some_and(|text| !text.is_empty());
                let others = ["reasoning_content", "tool_calls"];
                text || others.iter().any(|name| delta.get(name).is_some())
            }
            "responses" => {
                let kind = event["type"].as_str().unwrap();
                let call = kind == "response.output_item.added"
                    && event["item"]["type"] == "function_call";
                kind.ends_with(".delta") || call
            }
            "messages" | "vertex anthropic" | "invoke" => {
                let delta = &event["delta"];
                // A block of a tool begins with a delta of nothing, which is its name's token.
                let names = ["text", "thinking", "partial_json"];
                names.iter().any(|name| delta.get(name).is_some())
            }
            "gemini" | "gemini array" | "vertex" => {
                let parts = event["candidates"][0]["content"]["parts"].as_array();
                return parts.into_iter().flatten().map(gemini_tokens).sum();
            }
            "converse" => {
                let delta = &event["delta"];
                delta.get("text").is_some()
                    || delta["reasoningContent"].get("text").is_some()
                    || delta.get("toolUse").is_some()
                    || event.get("start").is_some()
            }
            "cohere" => {
                let kind = event["type"].as_str().unwrap_or_default();
                kind.ends_with("-delta") || kind == "tool-call-start"
            }
            other => panic!("{other}"),
        };
        usize::from(delta)
    }
}

/// A call is whole: its name's token and those of the arguments `arg_tokens` writes, which are
/// separated by blanks.
fn gemini_tokens(part: &Value) -> usize {
    match part.get("functionCall") {
        Some(_) => 30,
        None => usize::from(part["text"] != ""),
    }
}

#[derive(Debug)]
pub(crate) struct Frame {
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) payload: Value,
}

impl Frame {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut all = self.headers.iter().filter(|(key, _)| key == name);
        all.next().map(|(_, value)| value.as_str())
    }
}

/// Another reader of frames than any of ours; it stops where a frame is cut short, and panics
/// where a length makes no sense.
pub(crate) fn frames(mut bytes: &[u8]) -> Vec<Frame> {
    let mut frames = Vec::new();
    let word = |bytes: &[u8]| u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]) as usize;
    while bytes.len() >= 12 && bytes.len() >= word(bytes) {
        let (frame, rest) = bytes.split_at(word(bytes));
        bytes = rest;
        let head_end = 12 + word(&frame[4..]);
        let (mut head, mut headers) = (&frame[12..head_end], Vec::new());
        while let [length, rest @ ..] = head {
            let (name, rest) = rest.split_at(usize::from(*length));
            assert_eq!(rest[0], 7);
            let length = usize::from(u16::from_be_bytes([rest[1], rest[2]]));
            let (value, rest) = rest[3..].split_at(length);
            let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
            headers.push((text(name), text(value)));
            head = rest;
        }
        let payload = serde_json::from_slice(&frame[head_end..frame.len() - 4]).unwrap();
        frames.push(Frame { headers, payload });
    }
    frames
}

/// Undoes base64.
pub(crate) fn decoded(text: &str) -> Vec<u8> {
    const DIGITS: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let digits: Vec<u32> =
        text.chars().filter_map(|c| DIGITS.find(c)).map(|digit| digit as u32).collect();
    digits
        .chunks(4)
        .flat_map(|four| {
            let bits =
                four.iter().fold(0, |bits, digit| bits << 6 | digit) << (6 * (4 - four.len()));
            bits.to_be_bytes()[1..four.len()].to_vec()
        })
        .collect()
}

#[tokio::test]
async fn every_dialect_is_cut_after_any_piece_of_text_thought_and_call() {
    let simulator = simulator().await;
    for spoken in writers() {
        for what in ["tokens=30", "think_tokens=30 say=\"\"", "tool=find arg_tokens=29"] {
            for k in 0..=30 {
                let case = format!("{}: {what} cut_after={k}", spoken.name);
                let response =
                    spoken.ask(&simulator, &format!("[[sim {what} cut_after={k}]]")).await;
                assert_eq!(response.ended, Ended::Short, "{case}");
                let id = simulator.next_request().await.id;
                let outcome = simulator.outcome(id).await;
                assert_eq!((outcome.end, outcome.chunks), (End::Broken, k), "{case}");
                let events = spoken.events(&response);
                let seen: usize = events.iter().map(|event| spoken.pieces(event)).sum();
                let whole_calls = spoken.name.starts_with("gemini") || spoken.name == "vertex";
                let expected =
                    if whole_calls && what.starts_with("tool") && k < 30 { 0 } else { k };
                assert_eq!(seen as u64, expected, "{case}: {events:?}");
            }
        }
    }
    let pieces = writers().count() as u64 * 3 * (0..=30).sum::<u64>();
    assert_eq!(simulator.billed().completion_tokens, pieces);
}

#[tokio::test]
async fn thoughts_text_and_calls_follow_one_another_in_every_dialect() {
    let simulator = simulator().await;
    for spoken in DIALECTS {
        let directive = "[[sim think_tokens=10 tokens=10 tool=find arg_tokens=9]]";
        let response = spoken.ask(&simulator, directive).await;
        assert_eq!(response.ended, Ended::Complete, "{}", spoken.name);
        let id = simulator.next_request().await.id;
        assert_eq!(simulator.outcome(id).await.chunks, 30, "{}", spoken.name);
        assert!(response.text().contains("find") || spoken.name == "invoke", "{}", spoken.name);
    }
}

#[tokio::test]
async fn every_dialect_is_cut_at_any_byte() {
    let simulator = simulator().await;
    for spoken in DIALECTS {
        let whole = spoken.ask(&simulator, "[[sim say=\"one two\"]]").await;
        for bytes in [0, 1, 11, 12, 13, 100, whole.body.len() - 1, whole.body.len()] {
            let directive = format!("[[sim say=\"one two\" cut_at_byte={bytes}]]");
            let cut = spoken.ask(&simulator, &directive).await;
            assert_eq!((cut.ended, cut.body.len()), (Ended::Short, bytes), "{}", spoken.name);
        }
    }
}

#[tokio::test]
async fn every_dialect_has_errors_of_its_own_before_and_within_a_stream() {
    let simulator = simulator().await;
    for spoken in DIALECTS {
        let name = spoken.name;
        let directive = "[[sim status=429 message=\"Slow down.\" retry_after=2]]";
        let refused = spoken.ask(&simulator, directive).await;
        assert_eq!(refused.status, 429, "{name}");
        assert_eq!(refused.header("retry-after").as_deref(), Some("2"), "{name}");
        let error = refused.json();
        let (message, kind) = match name {
            "gemini" | "vertex" => (&error["error"]["message"], &error["error"]["status"]),
            "gemini array" => (&error[0]["error"]["message"], &error[0]["error"]["status"]),
            "converse" | "invoke" | "cohere" => (&error["message"], &Value::Null),
            _ => (&error["error"]["message"], &error["error"]["type"]),
        };
        assert_eq!(message, "Slow down.", "{name}");
        match name {
            "gemini" | "vertex" | "gemini array" => assert_eq!(kind, "RESOURCE_EXHAUSTED"),
            "converse" | "invoke" => {
                let header = refused.header("x-amzn-errortype");
                assert_eq!(header.as_deref(), Some("ThrottlingException"));
            }
            "cohere" => {}
            _ => assert_eq!(kind, "rate_limit_error", "{name}"),
        }
        let broken = spoken.ask(&simulator, "[[sim tokens=9 error_event=3 message=Oh.]]").await;
        assert_eq!(broken.ended, Ended::Complete, "{name}");
        let events = spoken.events(&broken);
        let last = events.last().unwrap();
        assert!(last.to_string().contains("Oh."), "{name}: {last}");
        let seen: usize = events.iter().map(|event| spoken.pieces(event)).sum();
        assert_eq!(seen, 3, "{name}");
    }
}

#[tokio::test]
async fn every_dialect_stalls_leaves_out_its_end_and_sends_garbage() {
    let simulator = simulator().await;
    for spoken in DIALECTS {
        let name = spoken.name;
        let plain = spoken.ask(&simulator, "[[sim tokens=4]]").await;
        let garbage = spoken.ask(&simulator, "[[sim tokens=4 garbage=2]]").await;
        assert!(garbage.body.len() > plain.body.len(), "{name}");
        let no_finish = spoken.ask(&simulator, "[[sim tokens=4 no_finish no_done no_usage]]").await;
        assert!(no_finish.body.len() < plain.body.len(), "{name}");
        assert_eq!(no_finish.ended, Ended::Complete, "{name}");
        let huge = spoken.ask(&simulator, "[[sim tokens=4 huge_line=300000]]").await;
        assert!(huge.body.len() >= plain.body.len() + 300_000, "{name}");

        let mut client = Client::new(&simulator).await;
        let body = (spoken.body)("[[sim tokens=9 stall_after=3]]").to_string();
        let (path, headers, length) = (spoken.path, spoken.headers, body.len());
        let head = format!("POST {path} HTTP/1.1\r\n{headers}content-length: {length}\r\n\r\n");
        client.send(head + &body).await;
        let id = loop {
            let request = simulator.next_request().await;
            if request.body == body {
                break request.id;
            }
        };
        client.until(b"\r\n\r\n").await.unwrap();
        if name != "invoke" {
            client.until(b"word").await.unwrap();
        }
        drop(client);
        let outcome = simulator.next_cancelled().await;
        assert_eq!((outcome.id, outcome.end), (id, End::ClientLeft), "{name}");
    }
}

#[tokio::test]
async fn every_directive_leaves_every_dialect_serving() {
    let simulator = simulator().await;
    for spoken in writers() {
        for directive in DIRECTIVES {
            let body = (spoken.body)(&format!("[[sim {}]]", directive.example)).to_string();
            let (path, headers, length) = (spoken.path, spoken.headers, body.len());
            let mut client = Client::new(&simulator).await;
            let head = format!("POST {path} HTTP/1.1\r\n{headers}content-length: {length}\r\n\r\n");
            client.send(head + &body).await;
            let id = simulator.next_request().await.id;
            // The answer may be endless or never come; only that it is begun and let go matters.
            drop(client);
            simulator.outcome(id).await;
        }
        assert_eq!(spoken.ask(&simulator, "hi").await.status, 200, "{}", spoken.name);
        simulator.next_request().await;
    }
}
