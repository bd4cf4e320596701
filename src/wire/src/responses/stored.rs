//! What the gateway needs to keep responses: pure, over bytes.
//!
//! A stored response is two things: the `Response` object, and the JSON array of the items that went
//! into it, its own history included. [`join_items`] of those and [`items_of_response`] is the history
//! of the next one.
//!
//! What [`Encoder::response`](crate::client::Encoder::response) gives to be kept has all signed
//! reasoning, because a model that reasons over tools must get it back. A client that fetches the
//! response gets it [without](without_encrypted), unless it asks for `reasoning.encrypted_content`.

use bytes::Bytes;
use memchr::memmem;
use serde_json::{Map, Value, json};

use super::answer::{Frame, Outcome, Status};
use super::failure_code;
use crate::client::{Asked, Invalid};
use crate::openai::response::ErrorObject;
use crate::scan;
use crate::splice::{Edits, json_string};
use crate::surrogate::mend;

/// What tools have to show to their servers.
const CREDENTIALS: [&str; 2] = ["authorization", "headers"];

/// How many items a page has unless the client says otherwise, and at most.
const PAGE: (usize, usize) = (20, 100);

/// The `input` of a request as items: strings written out, and every item with an id. `id` is what
/// the ids are made of: the same as [`Asked::id`]. References to earlier items are not among them.
pub fn items_of_request(body: &[u8], id: &str) -> Vec<u8> {
    let request: Map<String, Value> = read(body);
    let items = match request.get("input") {
        Some(Value::String(text)) => vec![json!({"role": "user", "content": text})],
        Some(Value::Array(items)) => items.clone(),
        _ => Vec::new(),
    };
    let items = items.into_iter().enumerate().filter_map(|(at, item)| {
        let Value::Object(item) = item else { return None };
        normal(item, &format!("{id}_i{at}"))
    });
    Value::Array(items.collect()).to_string().into_bytes()
}

/// Reads JSON; what is none counts as empty.
fn read<T: serde::de::DeserializeOwned + Default>(json: &[u8]) -> T {
    serde_json::from_slice(&mend(json)).unwrap_or_default()
}

/// Gives an item the members that a listed one has.
fn normal(mut item: Map<String, Value>, id: &str) -> Option<Value> {
    item.retain(|_, value| !value.is_null());
    let kind = match item.get("type").and_then(Value::as_str) {
        Some(kind) => kind.to_owned(),
        None if item.contains_key("role") => "message".to_owned(),
        None => return None,
    };
    let prefix = match kind.as_str() {
        "item_reference" => return None,
        "message" => "msg",
        "reasoning" => "rs",
        "function_call" => "fc",
        "function_call_output" => "fco",
        "custom_tool_call" => "ctc",
        "custom_tool_call_output" => "ctco",
        _ => "item",
    };
    item.entry("id").or_insert_with(|| format!("{prefix}_{id}").into());
    if kind == "message" {
        let is_assistant = item.get("role").is_some_and(|role| role == "assistant");
        if let Some(Value::String(text)) = item.get("content") {
            let part = if is_assistant {
                json!({"type": "output_text", "text": text, "annotations": [], "logprobs": []})
            } else {
                json!({"type": "input_text", "text": text})
            };
            item.insert("content".into(), json!([part]));
        }
    }
    if matches!(kind.as_str(), "message" | "function_call" | "function_call_output") {
        item.entry("status").or_insert_with(|| "completed".into());
    }
    item.insert("type".into(), kind.into());
    Some(Value::Object(item))
}

/// The `output` of a response: its items.
pub fn items_of_response(response: &[u8]) -> Vec<u8> {
    let response: Map<String, Value> = read(response);
    match response.get("output") {
        Some(output @ Value::Array(_)) => output.to_string().into_bytes(),
        _ => b"[]".to_vec(),
    }
}

/// Two JSON arrays as one. What is no array counts as an empty one.
pub fn join_items(before: &[u8], after: &[u8]) -> Vec<u8> {
    let inside = |json: &[u8]| -> Vec<u8> {
        let json = json.trim_ascii();
        let inside = json.strip_prefix(b"[").and_then(|rest| rest.strip_suffix(b"]"));
        inside.unwrap_or_default().trim_ascii().to_vec()
    };
    let (before, after) = (inside(before), inside(after));
    let comma: &[u8] = if before.is_empty() || after.is_empty() { b"" } else { b"," };
    [b"[".as_slice(), &before, comma, &after, b"]"].concat()
}

/// Which items of a response are listed: the query of `GET /v1/responses/{id}/input_items`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Page<'a> {
    /// Items after this id.
    pub after: Option<&'a str>,
    /// How many: 1 to 100, 20 unless said.
    pub limit: Option<usize>,
    /// From the first to the last; the other way round unless said.
    pub ascending: bool,
}

/// A page of items.
///
/// # Errors
/// When the limit is out of range, or no item has the id to go on from.
pub fn input_items(items: &[u8], page: &Page<'_>) -> Result<Vec<u8>, Invalid> {
    let limit = page.limit.unwrap_or(PAGE.0);
    if !(1..=PAGE.1).contains(&limit) {
        let message = format!("Invalid 'limit': must be from 1 to {}.", PAGE.1);
        return Err(Invalid::new(message).with_param("limit"));
    }
    let mut items: Vec<Value> = read(items);
    if !page.ascending {
        items.reverse();
    }
    let from = match page.after {
        None => 0,
        Some(id) => match items.iter().position(|item| item["id"] == id) {
            Some(at) => at + 1,
            None => {
                let message = format!("Item with id '{id}' not found.");
                return Err(Invalid::new(message).with_param("after"));
            }
        },
    };
    let rest = items.split_off(from);
    let has_more = rest.len() > limit;
    let data: Vec<Value> = rest.into_iter().take(limit).collect();
    let id = |item: Option<&Value>| item.map(|item| item["id"].clone()).unwrap_or_default();
    let (first, last) = (id(data.first()), id(data.last()));
    let page = json!({
        "object": "list",
        "data": data,
        "first_id": first,
        "last_id": last,
        "has_more": has_more,
    });
    Ok(page.to_string().into_bytes())
}

/// The answer to `DELETE /v1/responses/{id}`.
pub fn deleted(id: &str) -> Vec<u8> {
    json!({"id": id, "object": "response", "deleted": true}).to_string().into_bytes()
}

/// A response in the background that nobody has begun to make: the answer to the request for it.
pub fn queued(asked: &Asked<'_>) -> Vec<u8> {
    let outcome = Outcome {
        status: Status::Queued,
        error: None,
        output: &[],
        usage: None,
        service_tier: None,
    };
    Frame::new(asked).response(&outcome)
}

/// The same response, now being made.
pub fn in_progress(response: &[u8]) -> Vec<u8> {
    with(response, "in_progress", Value::Null)
}

/// The same response, given up on the client's wish.
pub fn cancelled(response: &[u8]) -> Vec<u8> {
    with(response, "cancelled", Value::Null)
}

/// The same response, given up because of an error.
pub fn failed(response: &[u8], status: u16, error: &ErrorObject) -> Vec<u8> {
    let error = json!({"code": failure_code(status, error), "message": error.message});
    with(response, "failed", error)
}

/// Whether a response will not change any more.
pub fn has_ended(response: &[u8]) -> bool {
    let object = scan::scan(response, &scan::Limits::default());
    let status =
        object.ok().and_then(|object| object.str(response, "status").map(|s| s.into_owned()));
    !matches!(status.as_deref(), Some("queued" | "in_progress"))
}

/// A response of a provider's under the id that the client knows, as one in the background.
pub fn renamed(response: &[u8], id: &str) -> Vec<u8> {
    let Ok(object) = scan::scan(response, &scan::Limits::default()) else {
        return response.to_vec();
    };
    let mut edits = Edits::new();
    edits.set("id", json_string(id));
    edits.set("background", &b"true"[..]);
    if let Some(tools) = tools_without_credentials(response, &object) {
        edits.set("tools", tools);
    }
    edits.apply(&Bytes::copy_from_slice(response), &object).to_vec()
}

/// A response of a provider's as it is kept: without what a client has given the provider to show to
/// the servers of its tools, should it be repeated there.
pub fn without_credentials(response: &[u8]) -> Bytes {
    let whole = Bytes::copy_from_slice(response);
    let Ok(object) = scan::scan(response, &scan::Limits::default()) else { return whole };
    let Some(tools) = tools_without_credentials(response, &object) else { return whole };
    let mut edits = Edits::new();
    edits.set("tools", tools);
    edits.apply(&whole, &object)
}

/// The tools of a response, if there are credentials among them.
fn tools_without_credentials(response: &[u8], object: &scan::Object) -> Option<Vec<u8>> {
    let raw = object.raw(response, "tools")?;
    // As good as no response has any.
    CREDENTIALS.iter().find(|name| memmem::find(raw, name.as_bytes()).is_some())?;
    let mut tools: Vec<Value> = read(raw);
    tools.iter_mut().for_each(forget_credentials);
    Some(Value::Array(tools).to_string().into_bytes())
}

/// Takes from a tool what its server is to be shown.
pub(super) fn forget_credentials(tool: &mut Value) {
    if let Value::Object(members) = tool {
        members.retain(|name, _| !CREDENTIALS.contains(&name.as_str()));
    }
}

fn with(response: &[u8], status: &str, error: Value) -> Vec<u8> {
    let mut response: Map<String, Value> = read(response);
    response.insert("status".into(), status.into());
    response.insert("error".into(), error);
    Value::Object(response).to_string().into_bytes()
}

/// A stored response as a client gets it that did not ask for `reasoning.encrypted_content`: the
/// encoder keeps that for the next turn's sake.
pub fn without_encrypted(response: &[u8]) -> Vec<u8> {
    let Ok(mut parsed) = serde_json::from_slice::<Map<String, Value>>(&mend(response)) else {
        return response.to_vec();
    };
    for item in parsed.get_mut("output").and_then(Value::as_array_mut).into_iter().flatten() {
        if let Value::Object(item) = item {
            item.retain(|name, _| name != "encrypted_content");
        }
    }
    Value::Object(parsed).to_string().into_bytes()
}

/// The ids of the responses whose items a request refers to by `item_reference`, each once. An
/// item's id tells which response it belongs to.
pub fn references(body: &[u8]) -> Vec<String> {
    let request: Map<String, Value> = read(body);
    let mut ids: Vec<String> = Vec::new();
    for item in request.get("input").and_then(Value::as_array).into_iter().flatten() {
        let Some(id) = reference(item) else { continue };
        let Some(of) = id.split('_').nth(1).filter(|of| !of.is_empty()) else { continue };
        let of = format!("resp_{of}");
        if !ids.contains(&of) {
            ids.push(of);
        }
    }
    ids
}

/// The request with every `item_reference` that is among `items` replaced by that item. One that is
/// not stays, and is refused where the request is translated.
pub fn resolve(body: &[u8], items: &[u8]) -> Vec<u8> {
    let items: Vec<Value> = read(items);
    let Ok(mut request) = serde_json::from_slice::<Map<String, Value>>(&mend(body)) else {
        return body.to_vec();
    };
    for item in request.get_mut("input").and_then(Value::as_array_mut).into_iter().flatten() {
        let found = reference(item).and_then(|id| items.iter().find(|item| item["id"] == id));
        if let Some(found) = found {
            *item = found.clone();
        }
    }
    Value::Object(request).to_string().into_bytes()
}

fn reference(item: &Value) -> Option<&str> {
    let is_reference = match item.get("type") {
        Some(Value::String(kind)) => kind == "item_reference",
        _ => item.get("role").is_none(),
    };
    item.get("id").and_then(Value::as_str).filter(|_| is_reference)
}

/// What is said of a response that is not, or no longer, kept; status 404.
pub fn not_found(id: &str) -> ErrorObject {
    ErrorObject {
        message: format!("Response with id '{id}' not found."),
        kind: Some("invalid_request_error".into()),
        ..ErrorObject::default()
    }
}

/// What is said where a client comes back for events that were too many to be kept.
pub fn events_lost() -> ErrorObject {
    ErrorObject {
        message: "The events of this response are too many to be kept: fetch it without 'stream'."
            .into(),
        kind: Some("invalid_request_error".into()),
        param: Some("stream".into()),
        ..ErrorObject::default()
    }
}

/// The same where a request goes on from it; status 400.
pub fn previous_not_found(id: &str) -> ErrorObject {
    ErrorObject {
        message: format!("Previous response with id '{id}' not found."),
        kind: Some("invalid_request_error".into()),
        param: Some("previous_response_id".into()),
        code: Some("previous_response_not_found".into()),
        request_id: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(json: &[u8]) -> Value {
        serde_json::from_slice(json).expect("JSON")
    }

    #[test]
    fn a_string_becomes_an_item() {
        assert_eq!(
            value(&items_of_request(br#"{"input":"hi"}"#, "x")),
            json!([{"id": "msg_x_i0", "type": "message", "role": "user", "status": "completed",
                "content": [{"type": "input_text", "text": "hi"}]}])
        );
        assert_eq!(items_of_request(b"{}", "x"), b"[]");
        assert_eq!(items_of_request(b"nothing", "x"), b"[]");
    }

    #[test]
    fn items_get_ids_and_references_are_left_out() {
        let body = json!({"input": [
            {"role": "assistant", "content": "hm"},
            {"type": "function_call_output", "call_id": "c", "output": "4"},
            {"type": "item_reference", "id": "msg_y_0"},
            {"id": "msg_z", "type": "message", "role": "user", "content": []},
            7,
        ]});
        let items = value(&items_of_request(body.to_string().as_bytes(), "x"));
        let ids: Vec<&str> =
            items.as_array().expect("a list").iter().filter_map(|i| i["id"].as_str()).collect();
        assert_eq!(ids, ["msg_x_i0", "fco_x_i1", "msg_z"]);
        assert_eq!(items[0]["content"][0]["type"], "output_text");
    }

    #[test]
    fn arrays_are_joined() {
        for (a, b, expect) in [
            ("[1, 2]", " [3]\n", "[1, 2,3]"),
            ("[]", "[3]", "[3]"),
            ("[1]", "[ ]", "[1]"),
            ("[]", "nothing", "[]"),
        ] {
            assert_eq!(join_items(a.as_bytes(), b.as_bytes()), expect.as_bytes());
        }
    }

    #[test]
    fn items_are_listed_by_page() {
        let items = br#"[{"id":"a"},{"id":"b"},{"id":"c"}]"#;
        let check = |page: Page<'_>, ids: &[&str], has_more: bool| {
            let page = value(&input_items(items, &page).expect("a page"));
            let got: Vec<&str> = page["data"]
                .as_array()
                .expect("a list")
                .iter()
                .filter_map(|i| i["id"].as_str())
                .collect();
            assert_eq!((got.as_slice(), &page["has_more"]), (ids, &json!(has_more)));
            assert_eq!(page["first_id"].as_str(), ids.first().copied());
            assert_eq!(page["last_id"].as_str(), ids.last().copied());
        };
        check(Page::default(), &["c", "b", "a"], false);
        check(Page { ascending: true, limit: Some(2), ..Page::default() }, &["a", "b"], true);
        check(Page { ascending: true, after: Some("b"), ..Page::default() }, &["c"], false);
        check(Page { after: Some("a"), ..Page::default() }, &[], false);
        assert!(input_items(items, &Page { limit: Some(0), ..Page::default() }).is_err());
        assert!(input_items(items, &Page { after: Some("z"), ..Page::default() }).is_err());
    }

    #[test]
    fn references_are_found_and_resolved() {
        let body = br#"{"input":[{"type":"item_reference","id":"msg_abc_0"},{"id":"rs_abc_1"},{"role":"user","content":"hi"},{"type":"item_reference","id":"odd"}]}"#;
        assert_eq!(references(body), ["resp_abc"]);
        let resolved = value(&resolve(
            body,
            br#"[{"id":"msg_abc_0","type":"message"},{"id":"rs_abc_1","type":"reasoning"}]"#,
        ));
        assert_eq!(resolved["input"][0]["type"], "message");
        assert_eq!(resolved["input"][1]["type"], "reasoning");
        assert_eq!(resolved["input"][3]["id"], "odd");
    }

    #[test]
    fn a_background_response_goes_from_state_to_state() {
        let asked = Asked {
            operation: crate::operation::Operation::ChatCompletions,
            model: "m",
            stream: false,
            body: br#"{"background":true,"input":"hi"}"#,
            id: "x",
            created: 7,
        };
        let queued = queued(&asked);
        assert_eq!(
            (&value(&queued)["status"], &value(&queued)["background"]),
            (&json!("queued"), &json!(true))
        );
        assert_eq!(value(&in_progress(&queued))["status"], "in_progress");
        assert!(!has_ended(&queued) && !has_ended(&in_progress(&queued)));
        assert!(has_ended(&cancelled(&queued)) && has_ended(b"{}"));
        assert_eq!(value(&cancelled(&queued))["status"], "cancelled");
        let error = ErrorObject { message: "no".into(), ..ErrorObject::default() };
        assert_eq!(
            value(&failed(&queued, 500, &error))["error"],
            json!({"code": "server_error", "message": "no"})
        );
    }

    #[test]
    fn credentials_of_tools_are_taken_out() {
        let response = br#"{"id":"r","tools":[{"type":"mcp","authorization":"x","headers":{"a":"x"},"server_label":"s"},{"type":"function","parameters":{"headers":1}}]}"#;
        let expect = json!([{"type": "mcp", "server_label": "s"},
            {"type": "function", "parameters": {"headers": 1}}]);
        assert_eq!(value(&without_credentials(response))["tools"], expect);
        assert_eq!(value(&renamed(response, "q"))["tools"], expect);
        for other in [&b"{\"tools\":[{}]}"[..], b"{\"tools\":\"headers\"}", b"nothing"] {
            assert!(!without_credentials(other).is_empty());
        }
    }

    #[test]
    fn signed_reasoning_is_taken_out() {
        let response = br#"{"output":[{"type":"reasoning","encrypted_content":"x","summary":[]}]}"#;
        assert_eq!(
            value(&without_encrypted(response)),
            json!({"output": [{"type": "reasoning", "summary": []}]})
        );
        assert_eq!(without_encrypted(b"no"), b"no");
    }
}
