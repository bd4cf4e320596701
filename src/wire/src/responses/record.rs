//! The events of a response as they are kept, so that a client can come back for the rest.
//!
//! `GET /v1/responses/{id}?stream=true&starting_after=N` goes on behind the event of number N
//! (<https://platform.openai.com/docs/guides/background>, 2026-11). Each kept event has its place in
//! the list as its number. A response whose events were not kept tells them [anew](of_response).

use bytes::Bytes;
use memchr::memmem;
use serde_json::{Map, Value, json};

use super::error_event;
use super::events::Events;
use super::stored::renamed;
use crate::openai::response::ErrorObject;
use crate::scan::{self, Limits};
use crate::splice::Edits;
use crate::sse::{Parser, TooLong};

/// Numbers the events of a response in the background, and writes its id into them: the client
/// knows it before any provider does.
#[derive(Debug)]
pub struct Record {
    id: String,
    next: u64,
    ended: bool,
}

impl Record {
    /// Starts on a response that nobody has begun to make, and appends its first events.
    pub fn begin(id: &str, queued: &[u8], out: &mut Vec<u8>) -> Record {
        let mut record = Record { id: id.to_owned(), next: 0, ended: false };
        for kind in ["response.created", "response.queued"] {
            record.tell(kind, queued, out);
        }
        record
    }

    /// Takes whole events of a `Response`'s stream, and appends what becomes of them.
    pub fn push(&mut self, events: &[u8], out: &mut Vec<u8>) {
        // What does not fit is no event of this dialect.
        let _ = Parser::default().push(events, |event| {
            self.event(event.data, out);
            Ok::<_, TooLong>(())
        });
    }

    /// The whole response has come at once.
    pub fn whole(&mut self, response: &[u8], out: &mut Vec<u8>) {
        self.push(&of_response(response), out);
    }

    /// It was given up: `response` says so.
    pub fn cancel(&mut self, response: &[u8], out: &mut Vec<u8>) {
        if !std::mem::replace(&mut self.ended, true) {
            self.tell("response.cancelled", response, out);
        }
    }

    /// It failed: `response` says so, and `error` how.
    pub fn fail(&mut self, status: u16, error: &ErrorObject, response: &[u8], out: &mut Vec<u8>) {
        if !std::mem::replace(&mut self.ended, true) {
            out.extend(error_event(self.next, status, error));
            self.next += 1;
            self.tell("response.failed", response, out);
        }
    }

    fn tell(&mut self, kind: &str, response: &[u8], out: &mut Vec<u8>) {
        let mut events = Events::from(self.next);
        events.write(out, kind, &[b",\"response\":", response]);
        self.next += 1;
    }

    fn event(&mut self, data: &[u8], out: &mut Vec<u8>) {
        let Ok(object) = scan::scan(data, &Limits::default()) else { return };
        let is_plain = |b: u8| b.is_ascii_alphanumeric() || b == b'.' || b == b'_';
        let kind = object.str(data, "type").filter(|kind| kind.bytes().all(is_plain));
        let Some(kind) = kind else { return };
        // It was begun already.
        if self.ended || kind == "response.created" || kind == "response.queued" {
            return;
        }
        let response = object.raw(data, "response").map(|raw| renamed(raw, &self.id));
        let mut edits = Edits::new();
        edits.set("sequence_number", self.next.to_string().into_bytes());
        if let Some(response) = response {
            edits.set("response", response);
        }
        let data = edits.apply(&Bytes::copy_from_slice(data), &object);
        // A provider may write JSON over several lines.
        let line = match data.contains(&b'\n') || data.contains(&b'\r') {
            true => match serde_json::from_slice::<Value>(&data) {
                Ok(value) => value.to_string().into(),
                Err(_) => return,
            },
            false => data,
        };
        self.ended = matches!(
            &*kind,
            "response.completed" | "response.incomplete" | "response.failed" | "response.cancelled"
        );
        for part in [b"event: ".as_slice(), kind.as_bytes(), b"\ndata: ", &line, b"\n\n"] {
            out.extend_from_slice(part);
        }
        self.next += 1;
    }
}

/// The kept events behind the one of this number; all of them where there is none.
pub fn after(events: &Bytes, number: Option<u64>) -> Bytes {
    let had = number.map_or(0, |number| number.saturating_add(1));
    let ends = memmem::find_iter(events, b"\n\n").map(|at| at + 2);
    match usize::try_from(had) {
        Ok(0) => events.clone(),
        Ok(had) => events.slice(ends.take(had).nth(had - 1).unwrap_or(events.len())..),
        Err(_) => Bytes::new(),
    }
}

/// The rest of the events that a response could have been told by, behind the one of this number. A
/// client may have had more of them than that, from a process that died: that the response has failed
/// is told in any case.
pub fn rest_of_response(response: &[u8], number: Option<u64>) -> Bytes {
    let rest = after(&of_response(response).into(), number);
    let (Some(number), true) = (number, rest.is_empty()) else { return rest };
    let Ok(whole) = serde_json::from_slice::<Map<String, Value>>(response) else { return rest };
    if whole.get("status").is_none_or(|status| status != "failed") {
        return rest;
    }
    let mut last = Vec::new();
    let events = Events::from(number.min(u64::MAX - 2) + 1);
    Teller { events, out: &mut last }.tell("response.failed", &json!({"response": whole}));
    last.into()
}

/// The events that a response could have been told by. What was written comes in one piece.
pub fn of_response(response: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let Ok(whole) = serde_json::from_slice::<Map<String, Value>>(response) else { return out };
    let mut begun = whole.clone();
    begun.insert("status".into(), "in_progress".into());
    begun.insert("output".into(), json!([]));
    for name in ["usage", "error", "incomplete_details"] {
        begun.insert(name.into(), Value::Null);
    }
    let mut tell = Teller { events: Events::default(), out: &mut out };
    for kind in ["response.created", "response.in_progress"] {
        tell.tell(kind, &json!({"response": begun}));
    }
    for (at, item) in
        whole.get("output").and_then(Value::as_array).into_iter().flatten().enumerate()
    {
        tell.item(at, item);
    }
    let last = match whole.get("status").and_then(Value::as_str) {
        // It goes on.
        Some("queued" | "in_progress") => return out,
        Some("failed") => "response.failed",
        Some("incomplete") => "response.incomplete",
        Some("cancelled") => "response.cancelled",
        _ => "response.completed",
    };
    tell.tell(last, &json!({"response": whole}));
    out
}

/// Writes events out of values.
struct Teller<'a> {
    events: Events,
    out: &'a mut Vec<u8>,
}

impl Teller<'_> {
    fn tell(&mut self, kind: &str, members: &Value) {
        let members = members.to_string();
        let inside = members.get(1..members.len().saturating_sub(1)).unwrap_or_default();
        self.events.write(self.out, kind, &[b",", inside.as_bytes()]);
    }

    fn item(&mut self, at: usize, item: &Value) {
        let kind = item["type"].as_str().unwrap_or_default();
        // What the item has when it begins, and grows by.
        let grows = match kind {
            "message" => Some(("content", json!([]))),
            "reasoning" => Some(("summary", json!([]))),
            "function_call" => Some(("arguments", json!(""))),
            "custom_tool_call" => Some(("input", json!(""))),
            _ => None,
        };
        let mut begun = item.clone();
        if let (Value::Object(begun), Some((name, empty))) = (&mut begun, grows) {
            begun.insert(name.into(), empty);
            if begun.contains_key("status") {
                begun.insert("status".into(), "in_progress".into());
            }
        }
        self.tell("response.output_item.added", &json!({"output_index": at, "item": begun}));
        let place = json!({"item_id": item["id"], "output_index": at});
        let parts = |name: &str| item[name].as_array().into_iter().flatten().enumerate();
        match kind {
            "message" => parts("content").for_each(|(n, part)| self.part(&place, n, part)),
            "reasoning" => parts("summary").for_each(|(n, part)| {
                let place = with(&place, "summary_index", n.into());
                self.growing("response.reasoning_summary", "text", &place, part, "text");
            }),
            "function_call" => self.text(
                "response.function_call_arguments",
                "arguments",
                &place,
                &item["arguments"],
            ),
            "custom_tool_call" => {
                self.text("response.custom_tool_call_input", "input", &place, &item["input"]);
            }
            _ => {}
        }
        self.tell("response.output_item.done", &json!({"output_index": at, "item": item}));
    }

    /// One part of a message.
    fn part(&mut self, place: &Value, at: usize, part: &Value) {
        let place = with(place, "content_index", at.into());
        match part["type"] == "refusal" {
            true => self.growing("response.content", "refusal", &place, part, "refusal"),
            false => self.growing("response.content", "output_text", &place, part, "text"),
        }
    }

    /// A part that begins empty, grows by the text in `member`, and is done.
    fn growing(&mut self, kind: &str, what: &str, place: &Value, part: &Value, member: &str) {
        let mut empty = part.clone();
        if let Value::Object(empty) = &mut empty {
            empty.insert(member.into(), "".into());
            for list in ["annotations", "logprobs"] {
                if let Some(list) = empty.get_mut(list) {
                    *list = json!([]);
                }
            }
        }
        self.tell(&format!("{kind}_part.added"), &with(place, "part", empty));
        let prefix = match what {
            "text" => format!("{kind}_text"),
            what => format!("response.{what}"),
        };
        let place_of_text = match what {
            "output_text" => {
                with(place, "logprobs", part.get("logprobs").cloned().unwrap_or(json!([])))
            }
            _ => place.clone(),
        };
        self.text(&prefix, member, &place_of_text, &part[member]);
        for (n, one) in part["annotations"].as_array().into_iter().flatten().enumerate() {
            let place = with(&with(place, "annotation_index", n.into()), "annotation", one.clone());
            self.tell("response.output_text.annotation.added", &place);
        }
        self.tell(&format!("{kind}_part.done"), &with(place, "part", part.clone()));
    }

    fn text(&mut self, kind: &str, member: &str, place: &Value, text: &Value) {
        if text.as_str().is_some_and(|text| !text.is_empty()) {
            self.tell(&format!("{kind}.delta"), &with(place, "delta", text.clone()));
        }
        self.tell(&format!("{kind}.done"), &with(place, member, text.clone()));
    }
}

fn with(place: &Value, name: &str, value: Value) -> Value {
    let mut place = place.clone();
    place[name] = value;
    place
}

#[cfg(test)]
mod tests {
    use super::*;

    fn events(stream: &[u8]) -> Vec<Value> {
        let mut all = Vec::new();
        Parser::default()
            .push(stream, |event| {
                let data: Value = serde_json::from_slice(event.data).expect("JSON");
                assert_eq!(event.name, data["type"].as_str().expect("a type").as_bytes());
                all.push(data);
                Ok::<_, TooLong>(())
            })
            .expect("short");
        all
    }

    fn kinds(stream: &[u8]) -> Vec<String> {
        let events = events(stream);
        for (number, event) in events.iter().enumerate() {
            assert_eq!(event["sequence_number"], number, "{event}");
        }
        events.iter().map(|event| event["type"].as_str().unwrap_or_default().to_owned()).collect()
    }

    const RESPONSE: &str = r#"{"id":"resp_p","status":"completed","output":[
        {"id":"rs","type":"reasoning","summary":[{"type":"summary_text","text":"Hm."}]},
        {"id":"m","type":"message","status":"completed","role":"assistant","content":[
            {"type":"output_text","text":"4","annotations":[{"type":"url_citation"}],"logprobs":[]},
            {"type":"refusal","refusal":"No."}]},
        {"id":"f","type":"function_call","status":"completed","arguments":"{}","name":"f","call_id":"c"},
        {"id":"w","type":"web_search_call","status":"completed"}],"usage":{"total_tokens":7}}"#;

    #[test]
    fn response_is_told_by_the_events_it_could_have_come_by() {
        let stream = of_response(RESPONSE.as_bytes());
        assert_eq!(
            kinds(&stream),
            [
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
                "response.output_text.annotation.added",
                "response.content_part.done",
                "response.content_part.added",
                "response.refusal.delta",
                "response.refusal.done",
                "response.content_part.done",
                "response.output_item.done",
                "response.output_item.added",
                "response.function_call_arguments.delta",
                "response.function_call_arguments.done",
                "response.output_item.done",
                "response.output_item.added",
                "response.output_item.done",
                "response.completed",
            ]
        );
        let all = events(&stream);
        assert_eq!(all[0]["response"]["output"], json!([]));
        assert_eq!(all[9]["part"]["text"], "");
        let whole: Value = serde_json::from_str(RESPONSE).expect("JSON");
        assert_eq!(all.last().map(|event| &event["response"]), Some(&whole));
        for other in ["", "7", "{}", r#"{"output":[7,{"type":"message","content":7}]}"#] {
            of_response(other.as_bytes());
        }
    }

    #[test]
    fn record_renumbers_and_renames_what_a_provider_sends() {
        let mut out = Vec::new();
        let mut record = Record::begin("resp_own", b"{\"id\":\"resp_own\"}", &mut out);
        let stream = String::from_utf8(of_response(RESPONSE.as_bytes())).expect("text");
        // Over several lines, as JSON may be written.
        record.push(stream.replace(":[{", ":\ndata: [{").as_bytes(), &mut out);
        let mut nothing = Vec::new();
        record.cancel(b"{}", &mut nothing);
        assert!(nothing.is_empty(), "it has ended");
        let kinds = kinds(&out);
        assert_eq!(kinds[..3], ["response.created", "response.queued", "response.in_progress"]);
        for event in events(&out).iter().filter(|event| event.get("response").is_some()) {
            assert_eq!(event["response"]["id"], "resp_own");
        }

        let events = Bytes::from(out);
        for cut in 0..kinds.len() {
            let before: Vec<u8> =
                events[..events.len() - after(&events, Some(cut as u64)).len()].into();
            assert_eq!(super::tests::events(&before).len(), cut + 1);
        }
        assert_eq!(after(&events, None), events);
        assert!(after(&events, Some(u64::MAX)).is_empty());
        assert!(after(&events, Some(kinds.len() as u64)).is_empty());
    }

    #[test]
    fn failure_is_told_behind_whatever_a_client_has_had() {
        let failed = br#"{"id":"resp_p","status":"failed","output":[]}"#;
        for (number, expect) in [
            (None, 3),
            (Some(0), 2),
            (Some(1), 1),
            (Some(2), 1),
            (Some(57), 1),
            (Some(u64::MAX), 1),
        ] {
            let rest = events(&rest_of_response(failed, number));
            assert_eq!(rest.len(), expect, "{number:?}");
            let last = rest.last().expect("there is one");
            assert_eq!(last["type"], "response.failed");
            let behind = number.map_or(2, |number| (number.min(u64::MAX - 2) + 1).max(2));
            assert_eq!(last["sequence_number"], behind, "{number:?}");
        }
        assert!(rest_of_response(RESPONSE.as_bytes(), Some(1000)).is_empty());
    }

    #[test]
    fn record_ends_once() {
        let mut out = Vec::new();
        let mut record = Record::begin("r", b"{}", &mut out);
        let error = ErrorObject { message: "no".into(), ..ErrorObject::default() };
        record.fail(500, &error, b"{\"status\":\"failed\"}", &mut out);
        record.cancel(b"{}", &mut out);
        record.push(b"data: {\"type\":\"response.completed\"}\n\ndata: 7\n\ndata: {\n\n", &mut out);
        assert_eq!(
            kinds(&out),
            ["response.created", "response.queued", "error", "response.failed"]
        );
    }

    proptest::proptest! {
        #[test]
        fn nothing_makes_it_panic(
            at in 0..RESPONSE.len(),
            byte in proptest::prelude::any::<u8>(),
            number in proptest::prelude::any::<u64>(),
        ) {
            let mut damaged = RESPONSE.as_bytes().to_vec();
            damaged[at] = byte;
            let stream = of_response(&damaged);
            rest_of_response(&damaged, Some(number));
            let mut out = Vec::new();
            let mut record = Record::begin("r", &damaged, &mut out);
            record.push(&stream, &mut out);
            record.push(&damaged, &mut out);
            let out = Bytes::from(out);
            proptest::prop_assert!(out.ends_with(&after(&out, Some(number % 32))));
        }
    }
}
