//! Golden tests of the client's side: a client's request as OpenAI's, OpenAI's answers as the
//! client's, and streams of the client's own dialect that pass.
//!
//! Each `<dialect>/<case>.json` holds one case, told apart by its members, and beside it
//! `<case>.snap` is what must come out. `UPDATE_GOLDENS=1 cargo test -p tollway-wire --test clients`
//! writes the snapshots anew; read the difference before it is committed. See `README.md`.

use std::fmt::Write as _;
use std::sync::Arc;

use bytes::Bytes;
use proptest::prelude::*;
use serde::Deserialize;
use serde_json::Value;
use tollway_wire::client::{self, Asked, EncodeError, Encoder};
use tollway_wire::openai::response::ErrorObject;
use tollway_wire::operation::{Dialect, Operation};
use tollway_wire::tap::TapError;

mod golden;

use golden::{cases, cut, cuts, damage, pretty};

/// The folders of cases, each with its dialect and how many cases it has at least.
const FOLDERS: &[(&str, Dialect, usize)] =
    &[("messages", Dialect::Anthropic, 45), ("gemini", Dialect::Gemini, 25)];

/// One case.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    /// What the case is about.
    #[serde(rename = "case")]
    _about: String,
    /// What is asked for, by the name of the operation; a chat unless said.
    operation: Option<String>,
    /// A client's request.
    client: Option<Value>,
    /// What the client asked, where an answer depends on it.
    #[serde(default)]
    asked: Value,
    /// A whole answer in OpenAI's form.
    answer: Option<Value>,
    /// A stream in OpenAI's form: chunks, and `[DONE]`.
    chunks: Option<Vec<Value>>,
    /// An error: status and OpenAI's `error`.
    error: Option<(u16, ErrorObject)>,
    /// A stream of the dialect's own, by the data of its events. A text stands for itself.
    pass: Option<Vec<Value>>,
    /// A whole answer of the dialect's own, whose usage is read.
    body: Option<Value>,
    /// The model's name that passing answers carry.
    alias: Option<String>,
}

impl Case {
    fn operation(&self) -> Operation {
        let Some(name) = self.operation.as_deref() else { return Operation::ChatCompletions };
        let named = Operation::ALL.into_iter().find(|operation| operation.name() == name);
        named.unwrap_or_else(|| panic!("there is no operation {name}"))
    }

    fn encoder(&self, dialect: Dialect, stream: bool) -> Box<dyn Encoder> {
        let body = self.asked.to_string();
        let asked = Asked {
            operation: self.operation(),
            model: "alias \"a\"",
            stream,
            body: body.as_bytes(),
            id: "0123456789abcdef",
            created: 1_790_000_000,
        };
        client::encoder(dialect, &asked).expect("the dialect is translated")
    }

    /// The chunks as events, one after the other.
    fn events(&self) -> Option<Vec<Vec<u8>>> {
        let event = |chunk: &Value| match chunk {
            Value::String(text) => format!("data: {text}\n\n").into_bytes(),
            chunk => format!("data: {chunk}\n\n").into_bytes(),
        };
        Some(self.chunks.as_ref()?.iter().map(event).collect())
    }

    /// The dialect's own stream.
    fn passing(&self) -> Option<Vec<u8>> {
        let mut stream = String::new();
        for event in self.pass.as_ref()? {
            match event {
                Value::String(text) => stream.push_str(text),
                event => {
                    if let Some(kind) = event["type"].as_str() {
                        let _ = writeln!(stream, "event: {kind}");
                    }
                    let _ = write!(stream, "data: {event}\n\n");
                }
            }
        }
        Some(stream.into_bytes())
    }
}

fn encode(case: &Case, dialect: Dialect, groups: &[&[u8]]) -> (String, Result<(), EncodeError>) {
    let mut encoder = case.encoder(dialect, true);
    let mut out = Vec::new();
    let mut result = Ok(());
    for group in groups {
        result = result.and_then(|()| encoder.stream(group, &mut out));
    }
    (String::from_utf8(out).expect("UTF-8"), result)
}

/// Watches a stream in pieces: what the client gets, how it ended, the usage and the events.
fn watch(
    case: &Case,
    dialect: Dialect,
    pieces: &[&[u8]],
) -> (Vec<u8>, Result<(), TapError>, String) {
    let mut tap = client::tap(dialect, false, case.alias.as_deref());
    let mut out = Vec::new();
    let mut result = Ok(());
    for piece in pieces {
        result = result.and_then(|()| {
            tap.push(&Bytes::copy_from_slice(piece), &mut |bytes| out.extend_from_slice(&bytes))
        });
    }
    result = result.and_then(|()| tap.end(&mut |bytes| out.extend_from_slice(&bytes)));
    let seen = format!("{:?}, {} events, done: {}", tap.usage(), tap.events(), tap.is_done());
    (out, result, seen)
}

/// What comes out of a case.
fn run(dialect: Dialect, case: &Case) -> String {
    let mut out = String::new();
    if let Some(body) = &case.client {
        let body = body.to_string();
        match client::to_openai(dialect, case.operation(), body.as_bytes(), None) {
            Ok(chat) => {
                let _ = writeln!(out, "{}", pretty(&chat));
            }
            Err(error) => {
                let _ = writeln!(out, "refused: {error:?}");
            }
        }
    }
    if let Some(answer) = &case.answer {
        match case.encoder(dialect, false).whole(answer.to_string().as_bytes()) {
            Ok(json) => {
                let read = client::usage_of_body(dialect, case.operation(), &json);
                let _ = writeln!(out, "{}\n{read:?}", pretty(&json));
            }
            Err(error) => {
                let _ = writeln!(out, "{error:?}");
            }
        }
    }
    if let Some(events) = case.events() {
        let (sent, result) = encode(case, dialect, &[&events.concat()]);
        let _ = writeln!(out, "{sent}{result:?}");
        // What is written must be what the tap of the same dialect understands.
        let (_, read, seen) = watch(case, dialect, &[sent.as_bytes()]);
        let _ = writeln!(out, "read back: {read:?}, {seen}");
    }
    if let Some((status, error)) = &case.error {
        let body = client::error_body(dialect, *status, error);
        let _ = writeln!(out, "{}", pretty(&body));
        let event = client::error_event(dialect, *status, error);
        let mut encoded = Vec::new();
        case.encoder(dialect, true).error(*status, error, &mut encoded);
        let _ = write!(out, "{}", String::from_utf8(event).expect("UTF-8"));
        let _ = write!(out, "{}", String::from_utf8(encoded).expect("UTF-8"));
    }
    if let Some(stream) = case.passing() {
        let (sent, result, seen) = watch(case, dialect, &[&stream]);
        let same = sent == stream;
        let _ = writeln!(out, "{}", if same { "(as it came)\n" } else { "" });
        if !same {
            out.push_str(&String::from_utf8(sent).expect("UTF-8"));
        }
        let _ = writeln!(out, "{result:?}\n{seen}");
    }
    if let Some(body) = &case.body {
        let body = body.to_string();
        let usage = client::usage_of_body(dialect, case.operation(), body.as_bytes());
        let _ = writeln!(out, "{usage:?}");
    }
    out
}

#[test]
fn every_dialect_is_translated_as_recorded() {
    for (folder, dialect, least) in FOLDERS {
        golden::check(folder, *least, |case| run(*dialect, case));
    }
}

type Picked = (Dialect, Arc<Case>);

/// One of the cases that `has` what is looked for.
fn pick(has: impl Fn(&Case) -> bool) -> impl Strategy<Value = Picked> {
    let mut all = Vec::new();
    for (folder, dialect, _) in FOLDERS {
        let of_folder = cases(folder).into_iter().filter(|(_, case)| has(case));
        all.extend(of_folder.map(|(_, case)| (*dialect, Arc::new(case))));
    }
    prop::sample::select(all)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn how_events_are_grouped_changes_nothing(
        (dialect, case) in pick(|case| case.chunks.is_some()),
        cuts in cuts(),
    ) {
        let events = case.events().expect("picked");
        let groups: Vec<Vec<u8>> = cut(&events, cuts).iter().map(|group| group.concat()).collect();
        let groups: Vec<&[u8]> = groups.iter().map(Vec::as_slice).collect();
        let whole = events.concat();
        prop_assert_eq!(encode(&case, dialect, &groups), encode(&case, dialect, &[&whole]));
    }

    #[test]
    fn any_split_of_a_passing_stream_is_seen_the_same(
        (dialect, case) in pick(|case| case.pass.is_some()),
        cuts in cuts(),
    ) {
        let stream = case.passing().expect("picked");
        let pieces = cut(&stream, cuts);
        // An event may go out before the last half of a line end that is CR LF is there; the blank
        // line is complete without it.
        let seen = |pieces: &[&[u8]]| {
            let (out, result, seen) = watch(&case, dialect, pieces);
            (String::from_utf8_lossy(&out).replace("\r\n", "\n").replace('\r', "\n"), result, seen)
        };
        prop_assert_eq!(seen(&pieces), seen(&[&stream]));
    }

    #[test]
    fn a_damaged_stream_makes_nothing_panic(
        (dialect, case) in pick(|case| case.chunks.is_some() || case.pass.is_some()),
        damage in damage(),
    ) {
        let events = case.events().map(|events| events.concat());
        let mut stream = events.or_else(|| case.passing()).expect("picked");
        if !stream.is_empty() {
            damage.apply(&mut stream);
        }
        let mut out = Vec::new();
        let mut encoder = case.encoder(dialect, true);
        let _ = encoder.stream(&stream, &mut out);
        let _ = encoder.whole(&stream);
        let _ = watch(&case, dialect, &[&stream]);
    }

    #[test]
    fn a_damaged_answer_makes_nothing_panic(
        (dialect, case) in pick(|case| case.answer.is_some() || case.body.is_some()),
        damage in damage(),
    ) {
        let body = case.answer.as_ref().or(case.body.as_ref()).expect("picked");
        let mut body = body.to_string().into_bytes();
        damage.apply(&mut body);
        let _ = case.encoder(dialect, false).whole(&body);
        let _ = client::usage_of_body(dialect, case.operation(), &body);
    }

    #[test]
    fn an_odd_request_is_refused_and_does_not_panic(
        (dialect, case) in pick(|case| case.client.as_ref().is_some_and(Value::is_object)),
        member in any::<prop::sample::Index>(),
        value in prop::sample::select(vec![
            "null", "0", "-1", "1e300", "\"\"", "\"x\"", "[]", "{}", "[null]", "[{}]", "[[]]", "true",
            "[{\"type\":\"tool_use\"}]", "{\"type\":\"tool\"}", "{\"type\":\"enabled\"}",
            "[{\"role\":\"user\",\"content\":[{\"type\":\"tool_result\"}]}]",
            "[{\"role\":\"user\",\"content\":[{\"type\":\"image\",\"source\":{}}]}]",
            "[{\"role\":\"user\",\"parts\":[{\"functionResponse\":{}}]}]",
            "[{\"role\":\"model\",\"parts\":[{\"functionCall\":[]}]}]",
            "{\"parts\":[{}]}", "{\"format\":{}}", "{\"responseSchema\":{\"type\":[]}}",
            "[{\"functionDeclarations\":[{\"name\":\"f\",\"parameters\":{\"type\":\"OBJECT\",\"properties\":[]}}]}]",
        ]),
    ) {
        let mut body = case.client.clone().expect("picked");
        let object = body.as_object_mut().expect("picked");
        let keys: Vec<String> = object.keys().cloned().collect();
        if let Some(key) = keys.get(member.index(keys.len().max(1))) {
            object.insert(key.clone(), serde_json::from_str(value).expect("valid"));
        }
        let body = body.to_string();
        if let Ok(chat) = client::to_openai(dialect, case.operation(), body.as_bytes(), None) {
            prop_assert!(serde_json::from_slice::<Value>(&chat).is_ok());
        }
        let _ = client::to_openai(dialect, case.operation(), &body.as_bytes()[..body.len() / 2], None);
        let _ = tollway_wire::count::input_tokens(body.as_bytes());
    }
}

#[test]
fn half_a_surrogate_pair_becomes_a_replacement() {
    let requests = [
        (Dialect::Anthropic, r#"{"messages":[{"role":"user","content":"a\ud83d"}]}"#),
        (Dialect::Gemini, r#"{"contents":[{"parts":[{"text":"a\ud83d"}]}]}"#),
    ];
    for (dialect, request) in requests {
        let operation = Operation::ChatCompletions;
        let chat = client::to_openai(dialect, operation, request.as_bytes(), None).expect("taken");
        let chat: Value = serde_json::from_slice(&chat).expect("JSON");
        assert_eq!(chat["messages"][0]["content"], "a\u{FFFD}");
        let asked = Asked { operation, model: "m", stream: true, body: b"{}", id: "i", created: 0 };
        let mut encoder = client::encoder(dialect, &asked).expect("translated");
        let mut out = Vec::new();
        let chunk = br#"data: {"choices":[{"delta":{"content":"a\ud83d"}}]}"#;
        encoder.stream(&[chunk.as_slice(), b"\n\n"].concat(), &mut out).expect("taken");
        assert!(String::from_utf8(out).expect("UTF-8").contains("\"a\\ufffd\""));
    }
}
