//! Golden tests: what goes to a provider, and what comes back from it, in both forms.
//!
//! Each `goldens/<provider>/<case>.json` holds one case, told apart by its members, and beside it
//! `<case>.snap` is what must come out. `UPDATE_GOLDENS=1 cargo test -p tollway-providers` writes
//! the snapshots anew; read the difference before it is committed. See `goldens/README.md`.

use std::fmt::Write as _;
use std::path::Path;
use std::{env, fs};

use bytes::Bytes;
use proptest::prelude::*;
use serde::Deserialize;
use serde_json::Value;
use tollway_providers::presets::provider;
use tollway_providers::{Asked, Call, DecodeError, Provider, Target};
use tollway_wire::operation::Operation;
use tollway_wire::scan::{Limits, scan};

/// One case.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    /// What the case is about.
    #[serde(rename = "case")]
    _about: String,
    /// A client's request.
    client: Option<Value>,
    #[serde(default = "default_model")]
    model: String,
    #[serde(default)]
    drop_params: bool,
    max_output_tokens: Option<u64>,
    /// A provider's whole answer.
    answer: Option<Value>,
    /// The events of a provider's stream, by their data.
    events: Option<Vec<Value>>,
    #[serde(default)]
    include_usage: bool,
    /// A provider's error: status and body.
    error: Option<(u16, Value)>,
}

fn default_model() -> String {
    "claude-haiku-4-5".into()
}

fn asked(include_usage: bool) -> Asked {
    Asked { model: "alias".into(), include_usage, created: 1_790_000_000 }
}

/// The stream of a case as Anthropic sends it.
fn stream_of(events: &[Value]) -> String {
    let mut stream = String::new();
    for event in events {
        let _ =
            write!(stream, "event: {}\ndata: {event}\n\n", event["type"].as_str().unwrap_or("x"));
    }
    stream
}

/// Decodes a stream cut into `pieces`: what the client gets, how it ended, and the usage.
fn decode(
    provider: &dyn Provider,
    include_usage: bool,
    pieces: &[&[u8]],
) -> (String, Result<(), DecodeError>, String) {
    let mut decoder = provider.decoder(Operation::ChatCompletions, asked(include_usage));
    let mut out = Vec::new();
    let mut result = Ok(());
    for piece in pieces {
        result = result.and_then(|()| decoder.stream(piece, &mut out));
    }
    result = result.and_then(|()| decoder.finish(&mut out));
    (String::from_utf8(out).expect("UTF-8"), result, format!("{:?}", decoder.usage()))
}

fn pretty(json: &[u8]) -> String {
    let value: Value = serde_json::from_slice(json).expect("valid JSON");
    serde_json::to_string_pretty(&value).expect("it was read")
}

/// What comes out of a case.
fn run(provider: &dyn Provider, case: &Case) -> String {
    let mut out = String::new();
    if let Some(client) = &case.client {
        let body = Bytes::from(client.to_string());
        let object = scan(&body, &Limits::default()).expect("an object");
        let call = Call {
            operation: Operation::ChatCompletions,
            body: &body,
            object: &object,
            stream: client["stream"] == true,
        };
        let target = Target {
            model: case.model.clone(),
            drop_params: case.drop_params,
            max_output_tokens: case.max_output_tokens,
        };
        match provider.request(&call, &target) {
            Ok(sent) => {
                for (name, value) in &sent.headers {
                    let _ = writeln!(out, "{name}: {}", value.to_str().expect("text"));
                }
                let _ = writeln!(out, "{}", pretty(&sent.bytes));
            }
            Err(error) => {
                let _ = writeln!(out, "refused: {error}");
            }
        }
    }
    if let Some(answer) = &case.answer {
        let mut decoder = provider.decoder(Operation::ChatCompletions, asked(false));
        match decoder.whole(answer.to_string().as_bytes()) {
            Ok(json) => {
                let _ = writeln!(out, "{}", pretty(&json));
            }
            Err(error) => {
                let _ = writeln!(out, "{error:?}");
            }
        }
        let _ = writeln!(out, "{:?}", decoder.usage());
    }
    if let Some(events) = &case.events {
        let stream = stream_of(events);
        let (sent, result, usage) = decode(provider, case.include_usage, &[stream.as_bytes()]);
        let _ = writeln!(out, "{sent}{result:?}\n{usage}");
    }
    if let Some((status, body)) = &case.error {
        let body = body.as_str().map_or_else(|| body.to_string(), str::to_owned);
        let _ = writeln!(out, "{:#?}", provider.error(*status, body.as_bytes()));
    }
    out
}

fn cases(folder: &str) -> Vec<(String, Case)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens").join(folder);
    let mut cases = Vec::new();
    for entry in fs::read_dir(&folder).unwrap_or_else(|error| panic!("{folder:?}: {error}")) {
        let path = entry.expect("a folder entry").path();
        if path.extension().is_some_and(|extension| extension == "json") {
            let text = fs::read_to_string(&path).expect("readable");
            let case =
                serde_json::from_str(&text).unwrap_or_else(|error| panic!("{path:?}: {error}"));
            cases.push((path.with_extension("snap").to_string_lossy().into_owned(), case));
        }
    }
    cases.sort_by(|a, b| a.0.cmp(&b.0));
    cases
}

fn check_all(name: &str, least: usize) {
    let provider = provider(name).expect("a known provider");
    let cases = cases(name);
    assert!(cases.len() >= least, "only {} cases of {name}", cases.len());
    let mut wrong = Vec::new();
    for (snap, case) in cases {
        let got = run(provider, &case);
        if env::var_os("UPDATE_GOLDENS").is_some() {
            fs::write(&snap, &got).expect("writable");
        }
        let expect = fs::read_to_string(&snap).unwrap_or_default();
        if got != expect {
            wrong.push(format!("--- {snap}\n{expect}\n+++ got\n{got}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn anthropic_is_translated_as_recorded() {
    check_all("anthropic", 40);
}

/// A stream of one of the cases.
fn any_stream() -> impl Strategy<Value = (String, bool)> {
    let streams: Vec<(String, bool)> = cases("anthropic")
        .into_iter()
        .filter_map(|(_, case)| Some((stream_of(&case.events?), case.include_usage)))
        .collect();
    prop::sample::select(streams)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn any_split_of_a_stream_gives_the_client_the_same_bytes(
        (stream, include_usage) in any_stream(),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8),
    ) {
        let bytes = stream.as_bytes();
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
        cuts.sort_unstable();
        let mut pieces = Vec::new();
        let mut from = 0;
        for cut in cuts.into_iter().chain([bytes.len()]) {
            pieces.push(&bytes[from..cut]);
            from = cut;
        }
        let provider = provider("anthropic").expect("a known provider");
        prop_assert_eq!(
            decode(provider, include_usage, &pieces),
            decode(provider, include_usage, &[bytes])
        );
    }

    #[test]
    fn a_broken_stream_makes_no_decoder_panic(
        (mut stream, _) in any_stream().prop_map(|(stream, usage)| (stream.into_bytes(), usage)),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..12),
        end in any::<prop::sample::Index>(),
    ) {
        for (at, byte) in damage {
            let at = at.index(stream.len());
            stream[at] = byte;
        }
        stream.truncate(end.index(stream.len()) + 1);
        for name in ["anthropic", "openai"] {
            let provider = provider(name).expect("a known provider");
            let mut decoder = provider.decoder(Operation::ChatCompletions, asked(true));
            let mut out = Vec::new();
            let _ = decoder.stream(&stream, &mut out).and_then(|()| decoder.finish(&mut out));
            let _ = decoder.whole(&stream);
            let _ = decoder.usage();
            let _ = provider.error(500, &stream);
        }
    }

    #[test]
    fn no_bytes_make_a_decoder_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        for name in ["anthropic", "openai"] {
            let provider = provider(name).expect("a known provider");
            let mut decoder = provider.decoder(Operation::ChatCompletions, asked(true));
            let mut out = Vec::new();
            let _ = decoder.stream(&bytes, &mut out).and_then(|()| decoder.finish(&mut out));
            let _ = decoder.whole(&bytes);
            let _ = provider.error(200, &bytes);
        }
    }

    #[test]
    fn an_odd_request_is_refused_and_does_not_panic(
        member in prop::sample::select(vec![
            "messages", "tools", "tool_choice", "response_format", "stop", "thinking", "n",
            "reasoning_effort", "user", "metadata", "temperature", "max_tokens", "output_config",
            "web_search_options", "stream_options", "additional_drop_params", "store",
        ]),
        value in prop::sample::select(vec![
            "null", "0", "-1", "1e300", "\"\"", "\"x\"", "[]", "{}", "[null]", "[{}]", "[[]]", "true",
            "{\"type\":\"function\"}", "[{\"role\":\"assistant\",\"tool_calls\":[{}]}]",
            "[{\"type\":\"function\",\"function\":{\"name\":\"f\",\"parameters\":{\"type\":[]}}}]",
            "{\"type\":\"json_schema\",\"json_schema\":{\"schema\":{\"properties\":[]}}}",
            "{\"type\":\"json_object\"}", "[{\"role\":\"user\",\"content\":{}}]",
        ]),
        model in prop::sample::select(vec!["claude-3-opus", "claude-sonnet-5-5", "gpt-5", "o3", ""]),
    ) {
        let body = format!("{{\"model\":\"m\",\"stream\":true,\"{member}\":{value}}}");
        let body = Bytes::from(body);
        let object = scan(&body, &Limits::default()).expect("an object");
        for name in ["anthropic", "openai", "mistral"] {
            let call =
                Call { operation: Operation::ChatCompletions, body: &body, object: &object, stream: true };
            let target = Target { model: model.into(), drop_params: false, max_output_tokens: None };
            if let Ok(sent) = provider(name).expect("a known provider").request(&call, &target) {
                prop_assert!(serde_json::from_slice::<Value>(&sent.bytes).is_ok());
            }
        }
    }
}
