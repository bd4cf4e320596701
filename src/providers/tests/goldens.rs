//! Golden tests: what goes to a provider, and what comes back from it, in both forms.
//!
//! Each `goldens/<provider>/<case>.json` holds one case, told apart by its members, and beside it
//! `<case>.snap` is what must come out. `UPDATE_GOLDENS=1 cargo test -p tollway-providers` writes
//! the snapshots anew; read the difference before it is committed. See `goldens/README.md`.

use std::fmt::Write as _;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use proptest::prelude::*;
use serde::Deserialize;
use serde_json::{Value, json};
use tollway_providers::presets::provider;
use tollway_providers::{Asked, Call, DecodeError, Place, Provider, Target};
use tollway_wire::event_stream::write_message;
use tollway_wire::operation::{Dialect, Operation};
use tollway_wire::scan::{Limits, scan};

// Sources and no crate: what only tests need is no part of `tollway-wire`.
#[path = "../../wire/tests/golden/mod.rs"]
mod golden;

use golden::{cut, cuts, damage, pretty};

/// The folders of cases, each named for its provider, and how many cases it has at least.
const FOLDERS: &[(&str, usize)] = &[
    ("anthropic", 100),
    ("bedrock", 60),
    ("cohere", 100),
    ("gemini", 65),
    ("mistral", 18),
    ("vertex_ai", 12),
];

/// One case.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    /// What the case is about.
    #[serde(rename = "case")]
    _about: String,
    /// A client's request.
    client: Option<Value>,
    /// The dialect the client speaks: `anthropic` where the case is about bytes that pass.
    dialect: Option<String>,
    /// What is asked for, by the name of the operation; a chat unless said.
    operation: Option<String>,
    /// The client's `anthropic-beta` header.
    betas: Option<String>,
    #[serde(default = "default_model")]
    model: String,
    #[serde(default)]
    drop_params: bool,
    /// The request came from another dialect.
    #[serde(default)]
    translated: bool,
    max_output_tokens: Option<u64>,
    /// A provider's whole answer.
    answer: Option<Value>,
    /// The same, as it is on the wire: where it is no text that a test could hold.
    raw: Option<String>,
    /// The events of a provider's stream, by their data.
    events: Option<Vec<Value>>,
    /// The messages of a provider's binary stream: event type and payload each. A type with a colon
    /// says what kind of message it is: `exception:throttlingException`, `error:500`; the type
    /// `chunk` carries its payload in base64, as InvokeModel does, `plain:chunk` does not, and
    /// `broken` has a wrong checksum.
    frames: Option<Vec<(String, Value)>>,
    /// A provider's stream that is not made of JSON events, as it is on the wire.
    stream: Option<String>,
    #[serde(default)]
    include_usage: bool,
    /// A provider's error: status and body.
    error: Option<(u16, Value)>,
}

fn default_model() -> String {
    "claude-haiku-4-5".into()
}

fn asked(include_usage: bool) -> Asked {
    Asked { model: "alias".into(), include_usage, created: 1_790_000_000, nonce: 0 }
}

impl Case {
    fn dialect(&self) -> Dialect {
        match self.dialect.as_deref() {
            None | Some("openai") => Dialect::OpenAi,
            Some("responses") => Dialect::Responses,
            Some("anthropic") => Dialect::Anthropic,
            Some("gemini") => Dialect::Gemini,
            Some(other) => panic!("there is no dialect {other}"),
        }
    }

    fn operation(&self) -> Operation {
        let Some(name) = self.operation.as_deref() else { return Operation::ChatCompletions };
        let named = Operation::ALL.into_iter().find(|operation| operation.name() == name);
        named.unwrap_or_else(|| panic!("there is no operation {name}"))
    }

    /// The case's call at `provider`.
    fn place(&self, provider: &dyn Provider, stream: bool) -> Place<'_> {
        let (operation, model) = (self.operation(), self.model.as_str());
        let dialect = provider.dialect(operation, self.dialect(), model);
        let dialect = dialect.expect("the provider has the operation");
        Place { operation, dialect, model, stream }
    }

    /// The case's stream as the provider sends it, if it has one.
    fn bytes(&self) -> Option<Vec<u8>> {
        if let Some(stream) = &self.stream {
            return Some(stream.clone().into_bytes());
        }
        if let Some(frames) = &self.frames {
            let mut stream = Vec::new();
            frames.iter().for_each(|(kind, payload)| write_frame(&mut stream, kind, payload));
            return Some(stream);
        }
        let mut stream = String::new();
        for event in self.events.as_ref()? {
            if let Some(kind) = event["type"].as_str() {
                let _ = writeln!(stream, "event: {kind}");
            }
            let _ = write!(stream, "data: {event}\n\n");
        }
        Some(stream.into_bytes())
    }
}

/// Decodes a stream cut into `pieces`: what the client gets, how it ended, and the usage.
fn decode(
    provider: &dyn Provider,
    case: &Case,
    pieces: &[&[u8]],
) -> (String, Result<(), DecodeError>, String) {
    let asked = asked(case.include_usage);
    let decoder = provider.decoder(&case.place(provider, true), asked);
    let mut decoder = decoder.expect("the provider has a dialect of its own");
    let mut out = Vec::new();
    let mut result = Ok(());
    for piece in pieces {
        result = result.and_then(|()| decoder.stream(piece, &mut out));
    }
    result = result.and_then(|()| decoder.finish(&mut out));
    (String::from_utf8(out).expect("UTF-8"), result, format!("{:?}", decoder.usage()))
}

/// Writes one message of a binary stream, with the headers Bedrock gives it.
fn write_frame(out: &mut Vec<u8>, kind: &str, payload: &Value) {
    let content = (":content-type", "application/json");
    let text = payload.to_string();
    match kind.split_once(':') {
        Some(("exception", kind)) => {
            let headers = [(":exception-type", kind), content, (":message-type", "exception")];
            write_message(out, &headers, text.as_bytes());
        }
        Some(("plain", kind)) => {
            let headers = [(":event-type", kind), content, (":message-type", "event")];
            write_message(out, &headers, text.as_bytes());
        }
        Some((_, code)) => {
            let message = payload.as_str().unwrap_or_default();
            let headers =
                [(":error-code", code), (":error-message", message), (":message-type", "error")];
            write_message(out, &headers, b"");
        }
        None => {
            let headers = [(":event-type", kind), content, (":message-type", "event")];
            let payload = match kind {
                "chunk" => json!({"bytes": STANDARD.encode(&text), "p": "abcdef"}).to_string(),
                _ => text,
            };
            write_message(out, &headers, payload.as_bytes());
            if kind == "broken"
                && let Some(last) = out.last_mut()
            {
                *last ^= 1;
            }
        }
    }
}

/// What comes out of a case.
fn run(provider: &dyn Provider, case: &Case) -> String {
    let mut out = String::new();
    if let Some(client) = &case.client {
        let body = Bytes::from(client.to_string());
        let object = scan(&body, &Limits::default()).expect("an object");
        let stream = client["stream"] == true;
        let place = case.place(provider, stream);
        let call = Call::new(place.operation, place.dialect, &body, &object).streamed(stream);
        let call = Call { betas: case.betas.as_deref(), translated: case.translated, ..call };
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
    let whole = case.answer.as_ref().map(Value::to_string);
    if let Some(answer) = whole.as_ref().or(case.raw.as_ref()) {
        let decoder = provider.decoder(&case.place(provider, false), asked(false));
        let mut decoder = decoder.expect("the provider has a dialect of its own");
        match decoder.whole(answer.as_bytes()) {
            Ok(json) => {
                let _ = writeln!(out, "{}", pretty(&json));
            }
            Err(error) => {
                let _ = writeln!(out, "{error:?}");
            }
        }
        let _ = writeln!(out, "{:?}", decoder.usage());
    }
    if let Some(stream) = case.bytes() {
        let (sent, result, usage) = decode(provider, case, &[&stream]);
        let _ = writeln!(out, "{sent}{result:?}\n{usage}");
    }
    if let Some((status, body)) = &case.error {
        let body = body.as_str().map_or_else(|| body.to_string(), str::to_owned);
        let _ = writeln!(out, "{:#?}", provider.error(*status, body.as_bytes()));
    }
    out
}

fn cases(provider: &str) -> Vec<(String, Case)> {
    golden::cases(&format!("goldens/{provider}"))
}

#[test]
fn every_provider_is_translated_as_recorded() {
    for (name, least) in FOLDERS {
        let provider = provider(name).expect("a known provider");
        golden::check(&format!("goldens/{name}"), *least, |case| run(provider, case));
    }
}

/// The stream of one of the cases, with its provider.
fn any_stream() -> impl Strategy<Value = (&'static str, Arc<Case>, Vec<u8>)> {
    let mut streams = Vec::new();
    for (folder, _) in FOLDERS {
        let with_bytes = |(_, case): (String, Case)| Some((*folder, case.bytes()?, case));
        let of_folder = cases(folder).into_iter().filter_map(with_bytes);
        streams.extend(of_folder.map(|(folder, bytes, case)| (folder, Arc::new(case), bytes)));
    }
    prop::sample::select(streams)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn any_split_of_a_stream_gives_the_client_the_same_bytes(
        (name, case, bytes) in any_stream(),
        cuts in cuts(),
    ) {
        let provider = provider(name).expect("a known provider");
        let pieces = cut(&bytes, cuts);
        prop_assert_eq!(decode(provider, &case, &pieces), decode(provider, &case, &[&bytes]));
    }

    #[test]
    fn a_broken_stream_makes_no_decoder_panic(
        (name, case, mut stream) in any_stream(),
        damage in damage(),
    ) {
        damage.apply(&mut stream);
        let provider = provider(name).expect("a known provider");
        let decoder = provider.decoder(&case.place(provider, true), asked(true));
        let mut decoder = decoder.expect("the provider has a dialect of its own");
        let mut out = Vec::new();
        let _ = decoder.stream(&stream, &mut out).and_then(|()| decoder.finish(&mut out));
        let _ = decoder.whole(&stream);
        let _ = decoder.usage();
        let _ = provider.error(500, &stream);
    }

    #[test]
    fn no_bytes_make_a_decoder_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        for (name, _) in FOLDERS {
            let provider = provider(name).expect("a known provider");
            let place = Place {
                operation: Operation::ChatCompletions,
                dialect: Dialect::OpenAi,
                // Mistral's other models answer in OpenAI's dialect.
                model: "magistral",
                stream: true,
            };
            let decoder = provider.decoder(&place, asked(true));
            let mut decoder = decoder.expect("the provider has a dialect of its own");
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
        model in prop::sample::select(vec![
            "claude-3-opus", "claude-sonnet-5-5", "gpt-5", "o3", "", "gemini-1.5-pro",
            "gemini-2.5-flash", "gemini-3-pro-preview",
        ]),
    ) {
        let body = format!("{{\"model\":\"m\",\"stream\":true,\"{member}\":{value}}}");
        let body = Bytes::from(body);
        let object = scan(&body, &Limits::default()).expect("an object");
        let others = ["openai", "azure", "deepseek", "openrouter", "groq"];
        let names = FOLDERS.iter().map(|(name, _)| *name).chain(others);
        for (name, translated) in names.flat_map(|name| [(name, false), (name, true)]) {
            let operation = Operation::ChatCompletions;
            let call = Call::new(operation, Dialect::OpenAi, &body, &object).streamed(true);
            let call = Call { translated, ..call };
            let target = Target { model: model.into(), drop_params: false, max_output_tokens: None };
            if let Ok(sent) = provider(name).expect("a known provider").request(&call, &target) {
                prop_assert!(serde_json::from_slice::<Value>(&sent.bytes).is_ok());
            }
        }
    }
}
