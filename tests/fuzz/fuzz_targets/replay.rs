//! What the cache makes of a stored answer: a stream becomes one answer and an answer a stream,
//! without panics, and there and back says the same.

#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use tollway_fuzz::Members;
use tollway_wire::openai::{
    add_usage_event, completion_from_events, events_from_completion, strip_usage_event,
    usage_of_body,
};
use tollway_wire::usage::Usage;

fuzz_target!(|data: &[u8]| {
    // Usage is looked for from the end; what is found must be the body's own, not something nested.
    if let Ok(Members(members)) = serde_json::from_slice::<Members>(data) {
        let own: Vec<_> = members.iter().filter(|(name, _)| name == "usage").collect();
        if let [(_, own)] = own[..] {
            let alone = usage_of_body(format!("{{\"usage\":{}}}", own.get()).as_bytes());
            assert_eq!(usage_of_body(data), alone);
        } else if own.is_empty() {
            assert_eq!(usage_of_body(data), None);
        }
    } else {
        let _ = usage_of_body(data);
    }

    if let Some(events) = events_from_completion(data, true) {
        let text = |answer: &[u8]| {
            let answer: Value = serde_json::from_slice(answer).expect("JSON");
            let choices = answer["choices"].as_array().cloned().unwrap_or_default();
            choices
                .iter()
                .map(|choice| {
                    let said = choice.pointer("/message/content").or(choice.get("text"));
                    said.and_then(Value::as_str).unwrap_or_default().to_owned()
                })
                .collect::<Vec<_>>()
        };
        let answer = completion_from_events(&events);
        let indices: Vec<Value> = serde_json::from_slice::<Value>(data).expect("JSON")["choices"]
            .as_array()
            .expect("it has choices")
            .iter()
            .map(|choice| choice["index"].clone())
            .collect();
        let in_order = indices.iter().enumerate().all(|(at, index)| *index == at);
        if let (Some(answer), true) = (&answer, in_order) {
            assert_eq!(text(answer), text(data));
        }
    }

    let stream = Bytes::copy_from_slice(data);
    let stripped = strip_usage_event(&stream);
    assert!(stripped.len() <= stream.len());
    let usage = Usage { prompt_tokens: 3, completion_tokens: 4, ..Usage::default() };
    let added = add_usage_event(&stream, &usage);
    assert!(added.len() >= stream.len());
    if let Some(answer) = completion_from_events(data) {
        let answer: Value = serde_json::from_slice(&answer).expect("JSON");
        // Together's chat chunks have the text of legacy completions as well.
        if stream.starts_with(b"data: {\"id\":\"c\",\"object\":\"chat.completion.chunk\",\"") {
            assert_eq!(answer["object"], "chat.completion");
        }
        completion_from_events(&stripped).expect("it is as whole as before");
        completion_from_events(&added).expect("it is as whole as before");
    }
});
