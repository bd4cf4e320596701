//! Golden tests of the Responses API's client side: requests as chat requests, chat answers as
//! responses and their events.
//!
//! Each `responses/<case>.json` holds one case, and beside it `<case>.snap` is what must come out.
//! `UPDATE_GOLDENS=1 cargo test -p tollway-wire --test responses` writes the snapshots anew; read the
//! difference before it is committed. See `responses/README.md`.

use std::fmt::Write as _;
use std::sync::Arc;

use proptest::prelude::*;
use serde::Deserialize;
use serde_json::{Value, json};
use tollway_wire::client::{Asked, Encoder, encoder, to_openai};
use tollway_wire::openai::response::ErrorObject;
use tollway_wire::openai::{ChatRequest, events_from_completion};
use tollway_wire::operation::{Dialect, Operation};
use tollway_wire::responses::stored;
use tollway_wire::sse::{Parser, TooLong};

mod golden;

use golden::{cut, cuts, damage, pretty};

/// There are at least this many cases.
const FOLDER: &str = "responses";
const CASES_MIN: usize = 45;

/// One case.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    /// What the case is about.
    #[serde(rename = "case")]
    _about: String,
    /// A client's request. It is translated, unless the case has an answer.
    #[serde(default)]
    client: Value,
    /// The items that came before.
    history: Option<Value>,
    /// A whole chat answer.
    answer: Option<Value>,
    /// The events of a chat stream, by their data.
    events: Option<Vec<Value>>,
    /// A chat stream as it is on the wire, where its events are not what serde_json would write.
    stream: Option<String>,
    /// The stream ends without `[DONE]`, and then this happens: status and error.
    error: Option<(u16, ErrorObject)>,
}

fn asked(body: &[u8], stream: bool) -> Asked<'_> {
    Asked {
        operation: Operation::ChatCompletions,
        model: "alias",
        stream,
        body,
        id: "0a1b2c3d",
        created: 1_790_000_000,
    }
}

fn new_encoder(body: &[u8], stream: bool) -> Box<dyn Encoder> {
    encoder(Dialect::Responses, &asked(body, stream)).expect("it has an encoder")
}

impl Case {
    fn body(&self) -> Vec<u8> {
        self.client.to_string().into_bytes()
    }

    /// The case's stream, event by event.
    fn stream(&self) -> Option<Vec<Vec<u8>>> {
        if let Some(stream) = &self.stream {
            let events = stream.split_inclusive("\n\n");
            return Some(events.map(|event| event.as_bytes().to_vec()).collect());
        }
        let mut events: Vec<Vec<u8>> = self
            .events
            .as_ref()?
            .iter()
            .map(|event| format!("data: {event}\n\n").into_bytes())
            .collect();
        if self.error.is_none() {
            events.push(b"data: [DONE]\n\n".to_vec());
        }
        Some(events)
    }

    /// What the client gets of a stream in these pieces, and what is kept.
    fn encode(&self, pieces: &[Vec<u8>]) -> (String, String) {
        let body = self.body();
        let mut encoder = new_encoder(&body, true);
        let mut out = Vec::new();
        for piece in pieces {
            encoder.stream(piece, &mut out).expect("the cases are good");
        }
        if let Some((status, error)) = &self.error {
            encoder.error(*status, error, &mut out);
        }
        let kept = encoder.response().map(pretty).unwrap_or_default();
        (String::from_utf8(out).expect("UTF-8"), kept)
    }
}

/// The response in the last event of a stream.
fn last_response(stream: &str) -> Option<String> {
    let mut last = None;
    let _ = Parser::default().push(stream.as_bytes(), |event| {
        let event: Value = serde_json::from_slice(event.data).expect("JSON");
        last = Some(event["response"].clone());
        Ok::<_, TooLong>(())
    });
    Some(serde_json::to_string_pretty(&last?).expect("it was read"))
}

/// What comes out of a case.
fn run(case: &Case) -> String {
    let mut out = String::new();
    let body = case.body();
    if let Some(answer) = &case.answer {
        let mut encoder = new_encoder(&body, false);
        match encoder.whole(answer.to_string().as_bytes()) {
            Ok(json) => {
                let response = pretty(&json);
                let kept = encoder.response().map(pretty).expect("a whole answer is kept");
                let _ = writeln!(out, "{response}");
                if kept != response {
                    let _ = writeln!(out, "kept: {kept}");
                }
            }
            Err(error) => {
                let _ = writeln!(out, "{error}");
            }
        }
    } else if let Some(stream) = case.stream() {
        let (sent, kept) = case.encode(&stream);
        let _ = write!(out, "{sent}");
        if last_response(&sent).as_ref() != Some(&kept) {
            let _ = writeln!(out, "kept: {kept}");
        }
    } else {
        let history = case.history.as_ref().map(|items| items.to_string().into_bytes());
        let operation = Operation::ChatCompletions;
        match to_openai(Dialect::Responses, operation, &body, history.as_deref()) {
            Ok(chat) => {
                serde_json::from_slice::<ChatRequest>(&chat).expect("it is a chat request");
                let _ = writeln!(out, "{}", pretty(&chat));
            }
            Err(error) => {
                let param = error.param.unwrap_or_default();
                let _ = writeln!(out, "refused: {} [{param}]", error.message);
            }
        }
    }
    out
}

fn cases() -> Vec<(String, Case)> {
    golden::cases(FOLDER)
}

#[test]
fn every_case_comes_out_as_recorded() {
    golden::check(FOLDER, CASES_MIN, run);
}

/// The same answer as a stream and whole gives the same response, in another order of items at most.
#[test]
fn a_whole_answer_and_its_stream_agree() {
    for (name, case) in cases() {
        let Some(answer) = &case.answer else { continue };
        let Some(events) = events_from_completion(answer.to_string().as_bytes(), true) else {
            continue;
        };
        let body = case.body();
        let mut whole = new_encoder(&body, false);
        if whole.whole(answer.to_string().as_bytes()).is_err() {
            continue;
        }
        // What is made into a stream elsewhere, or not at all.
        let choice = &answer["choices"][0];
        if answer["choices"].as_array().is_some_and(|choices| choices.len() > 1)
            || choice["message"]["content"].is_array()
            || !choice["logprobs"].is_null()
            || !choice["message"]["annotations"].is_null()
        {
            continue;
        }
        let mut stream = new_encoder(&body, true);
        let mut out = Vec::new();
        stream.stream(&events, &mut out).expect("the cases are good");
        let read = |encoder: &dyn Encoder| encoder.response().map(pretty);
        assert_eq!(read(&*stream), read(&*whole), "{name}");
    }
}

/// What is kept of an answer is the next request's history, and says what the answer said: signed
/// reasoning and the signature of a call included.
#[test]
fn a_kept_answer_comes_back_as_the_assistants_turn() {
    let message = json!({
        "role": "assistant",
        "content": "Looking.",
        "reasoning_content": "Let me see.",
        "thinking_blocks": [
            {"type": "thinking", "thinking": "Let me see.", "signature": "c2ln"},
            {"type": "redacted_thinking", "data": "b3BhcXVl"},
        ],
        "tool_calls": [
            {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{\"a\":1}"},
             "extra_content": {"google": {"thought_signature": "sig=="}}},
            {"id": "c2", "type": "function", "function": {"name": "patch", "arguments": "{\"input\":\"x\\n\"}"}},
        ],
    });
    let answer = json!({"choices": [{"message": message, "finish_reason": "tool_calls"}]});
    let first = br#"{"model":"m","input":"Hi","tools":[{"type":"custom","name":"patch"}]}"#;
    let mut encoder = new_encoder(first, false);
    let response = encoder.whole(answer.to_string().as_bytes()).expect("a good answer");
    let response: Value = serde_json::from_slice(&response).expect("JSON");
    assert!(response["output"][0].get("encrypted_content").is_none(), "nobody asked for it");

    let items = stored::items_of_request(first, "0a1b2c3d");
    let kept = stored::items_of_response(encoder.response().expect("it is kept"));
    let history = stored::join_items(&items, &kept);
    let call = response["output"][2]["call_id"].clone();
    let next = json!({"model": "m", "previous_response_id": "resp_0a1b2c3d", "input": [
        {"type": "function_call_output", "call_id": call, "output": "1"},
        {"type": "custom_tool_call_output", "call_id": "c2", "output": "2"},
    ]});
    let operation = Operation::ChatCompletions;
    let next = next.to_string().into_bytes();
    let chat = to_openai(Dialect::Responses, operation, &next, Some(&history)).expect("it is good");
    let chat: Value = serde_json::from_slice(&chat).expect("JSON");
    assert_eq!(chat["messages"][0], json!({"role": "user", "content": "Hi"}));
    assert_eq!(chat["messages"][1], message);
    assert_eq!(chat["messages"][2], json!({"role": "tool", "tool_call_id": "c1", "content": "1"}));
    assert_eq!(chat["messages"][3], json!({"role": "tool", "tool_call_id": "c2", "content": "2"}));

    // A client that keeps the items itself and refers to them gets the same.
    let by_reference = json!({"model": "m", "input": [
        {"type": "item_reference", "id": response["output"][1]["id"]},
        {"role": "user", "content": "And?"},
    ]});
    let by_reference = by_reference.to_string().into_bytes();
    assert_eq!(stored::references(&by_reference), ["resp_0a1b2c3d"]);
    let resolved = stored::resolve(&by_reference, &history);
    let chat = to_openai(Dialect::Responses, operation, &resolved, None).expect("it is good");
    let chat: Value = serde_json::from_slice(&chat).expect("JSON");
    assert_eq!(chat["messages"][0], json!({"role": "assistant", "content": "Looking."}));
}

/// Every event of a stream is JSON, has its own name as `type`, and the next number; the first and
/// the last are what clients wait for.
#[test]
fn events_are_named_numbered_and_in_order() {
    for (name, case) in cases() {
        let Some(stream) = case.stream() else { continue };
        let (sent, _) = case.encode(&stream);
        let mut kinds = Vec::new();
        let read = Parser::default().push(sent.as_bytes(), |event| {
            let data: Value = serde_json::from_slice(event.data).expect("JSON");
            assert_eq!(data["type"].as_str().map(str::as_bytes), Some(event.name), "{name}");
            assert_eq!(data["sequence_number"], kinds.len(), "{name}");
            kinds.push(data["type"].as_str().unwrap_or_default().to_owned());
            Ok::<_, TooLong>(())
        });
        assert_eq!(read, Ok(()));
        if stream.len() > 1 {
            assert_eq!(kinds[..2], ["response.created", "response.in_progress"], "{name}");
        }
        let last = kinds.last().map(String::as_str);
        let ends = ["response.completed", "response.incomplete", "response.failed"];
        assert!(last.is_some_and(|last| ends.contains(&last)), "{name}: {last:?}");
        let count = |what: &str| kinds.iter().filter(|kind| kind.ends_with(what)).count();
        if case.error.is_none() {
            assert_eq!(count("output_item.added"), count("output_item.done"), "{name}");
            assert_eq!(count("part.added"), count("part.done"), "{name}");
        }
    }
}

/// The stream of one of the cases.
fn any_stream() -> impl Strategy<Value = (Arc<Case>, Vec<Vec<u8>>)> {
    let streams: Vec<_> = cases()
        .into_iter()
        .filter_map(|(_, case)| case.stream().map(|stream| (Arc::new(case), stream)))
        .filter(|(_, stream)| !stream.is_empty())
        .collect();
    prop::sample::select(streams)
}

#[test]
fn a_member_of_the_wrong_kind_is_named_by_its_path() {
    let text = json!({"type": "input_text", "text": "Hi"});
    let in_content = |part: Value| json!([{"role": "user", "content": [text, part]}]);
    let tool = |tool: Value| json!([{"type": "function", "name": "f"}, tool]);
    for (member, value, param) in [
        ("temperature", json!("hot"), "temperature"),
        ("max_output_tokens", json!(1.5), "max_output_tokens"),
        ("reasoning", json!({"effort": 7}), "reasoning.effort"),
        ("text", json!("json"), "text"),
        ("text", json!({"format": "json"}), "text.format"),
        ("text", json!({"format": {"type": "json_schema", "schema": 1}}), "text.format.schema"),
        ("tools", json!({}), "tools"),
        ("tools", json!([7]), "tools[0]"),
        ("tools", tool(json!({"type": "function", "name": 7})), "tools[1].name"),
        ("tools", tool(json!({"name": "g", "parameters": "x"})), "tools[1].parameters"),
        ("tools", tool(json!({"type": 7})), "tools[1].type"),
        ("tool_choice", json!(7), "tool_choice"),
        ("tool_choice", json!({"type": "function"}), "tool_choice.name"),
        ("input", json!(7), "input"),
        ("input", json!([7]), "input[0]"),
        ("input", json!([{"role": 7, "content": "x"}]), "input[0].role"),
        ("input", json!([{"role": "user", "content": 7}]), "input[0].content"),
        ("input", in_content(json!(7)), "input[0].content[1]"),
        ("input", in_content(json!({"text": "x"})), "input[0].content[1].type"),
        ("input", in_content(json!({"type": 7})), "input[0].content[1].type"),
        ("input", in_content(json!({"type": "input_text"})), "input[0].content[1].text"),
        (
            "input",
            in_content(json!({"type": "input_image", "image_url": 7})),
            "input[0].content[1].image_url",
        ),
        (
            "input",
            in_content(json!({"type": "input_file", "file_data": 7})),
            "input[0].content[1].file_data",
        ),
        (
            "input",
            json!([{"type": "function_call", "call_id": "c", "name": "f", "arguments": {}}]),
            "input[0].arguments",
        ),
        ("input", json!([{"type": "function_call_output", "call_id": 7}]), "input[0].call_id"),
    ] {
        let mut body = json!({"model": "m", "input": "Hi"});
        body[member] = value;
        let body = body.to_string();
        let invalid =
            to_openai(Dialect::Responses, Operation::ChatCompletions, body.as_bytes(), None)
                .expect_err(&body);
        assert_eq!(invalid.param.as_deref(), Some(param), "{body}: {}", invalid.message);
        assert!(invalid.message.contains(&format!("'{param}'")), "{}", invalid.message);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn any_grouping_of_events_gives_the_same_bytes(
        (case, events) in any_stream(),
        cuts in cuts(),
    ) {
        let groups: Vec<Vec<u8>> = cut(&events, cuts).iter().map(|group| group.concat()).collect();
        prop_assert_eq!(case.encode(&groups), case.encode(&events));
    }

    #[test]
    fn any_split_of_bytes_gives_the_same_bytes(
        (case, events) in any_stream(),
        cuts in cuts(),
    ) {
        let bytes = events.concat();
        let pieces: Vec<Vec<u8>> = cut(&bytes, cuts).iter().map(|piece| piece.to_vec()).collect();
        prop_assert_eq!(case.encode(&pieces), case.encode(&events));
    }

    #[test]
    fn a_damaged_stream_makes_no_encoder_panic(
        (case, events) in any_stream(),
        damage in damage(),
    ) {
        let mut bytes = events.concat();
        damage.apply(&mut bytes);
        let body = case.body();
        let mut encoder = new_encoder(&body, true);
        let mut out = Vec::new();
        if encoder.stream(&bytes, &mut out).is_err() {
            encoder.error(502, &ErrorObject::default(), &mut out);
        }
        let _ = encoder.response();
        let _ = new_encoder(&bytes, false).whole(&bytes);
        let _ = to_openai(Dialect::Responses, Operation::ChatCompletions, &bytes, Some(&bytes));
    }

    #[test]
    fn an_odd_request_is_refused_and_does_not_panic(
        member in prop::sample::select(vec![
            "input", "instructions", "tools", "tool_choice", "text", "reasoning", "include",
            "metadata", "max_output_tokens", "top_logprobs", "previous_response_id", "stream",
            "service_tier", "user", "safety_identifier", "parallel_tool_calls", "store",
        ]),
        value in prop::sample::select(vec![
            "null", "0", "-1", "1e300", "\"\"", "\"x\"", "[]", "{}", "[null]", "[{}]", "[[]]", "true",
            "[{\"role\":\"user\"}]", "[{\"role\":7}]", "[{\"type\":\"function_call\"}]",
            "[{\"type\":\"reasoning\",\"summary\":7,\"content\":[7],\"encrypted_content\":7}]",
            "[{\"role\":\"user\",\"content\":[7,{},{\"type\":\"input_image\"},{\"type\":\"input_file\"}]}]",
            "[{\"type\":\"function\"}]", "[{\"type\":\"custom\",\"name\":\"c\",\"format\":7}]",
            "{\"type\":\"function\"}", "{\"type\":\"allowed_tools\",\"tools\":[7],\"mode\":7}",
            "{\"format\":{\"type\":\"json_schema\"},\"verbosity\":7}", "{\"effort\":7}",
        ]),
    ) {
        let body = format!("{{\"model\":\"m\",\"input\":\"hi\",\"{member}\":{value}}}");
        let body = body.as_bytes();
        if let Ok(chat) = to_openai(Dialect::Responses, Operation::ChatCompletions, body, None) {
            prop_assert!(serde_json::from_slice::<Value>(&chat).is_ok());
        }
        let answer = br#"{"choices":[{"message":{"content":"hi"}}]}"#;
        let response = new_encoder(body, false).whole(answer).expect("a good answer");
        let response: Value = serde_json::from_slice(&response).expect("JSON");
        prop_assert_eq!(&response["status"], "completed");
    }
}
