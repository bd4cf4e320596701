//! A collector of OpenTelemetry's: it takes spans as OTLP's JSON, and reads them strictly.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::gateway::PATIENCE;
use crate::servers::Call;

/// A span as it was received.
#[derive(Clone, Debug)]
pub struct Span {
    /// The trace it belongs to: 32 hexadecimal digits.
    pub trace: String,
    /// Its id: 16 hexadecimal digits.
    pub id: String,
    /// The span it is a part of; empty where it is none's.
    pub parent: String,
    /// What was done.
    pub name: String,
    /// 1 internal, 2 server, 3 client.
    pub kind: u64,
    /// When it began and ended, in nanoseconds since the Unix epoch.
    pub time: (u128, u128),
    /// Whether it says that it failed.
    pub is_error: bool,
    attributes: Vec<(String, Value)>,
}

impl Span {
    /// What it says under this name; null where it says nothing.
    pub fn get(&self, name: &str) -> Value {
        let found = self.attributes.iter().find(|(have, _)| have == name);
        found.map(|(_, value)| value.clone()).unwrap_or_default()
    }
}

/// What a collector was sent.
#[derive(Clone, Debug, Default)]
pub struct Taken {
    /// Heads and bodies, as they came.
    pub raw: Vec<String>,
    /// All spans.
    pub spans: Vec<Span>,
    /// What each body says of the process.
    pub resources: Vec<Value>,
}

/// A collector at work.
pub struct Collector {
    /// Where it is.
    pub url: String,
    taken: watch::Receiver<Taken>,
    says_nothing: Arc<AtomicBool>,
    calls: watch::Receiver<usize>,
}

impl Collector {
    /// One that takes everything.
    pub async fn start() -> Collector {
        Collector::answering("200 OK").await
    }

    /// One that answers with this status.
    ///
    /// # Panics
    /// When there is no free port.
    pub async fn answering(status: &'static str) -> Collector {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        let url = format!("http://{}", listener.local_addr().expect("it is bound"));
        let (sender, taken) = watch::channel(Taken::default());
        let (count, calls) = watch::channel(0);
        let says_nothing = Arc::new(AtomicBool::new(false));
        let is_silent = Arc::clone(&says_nothing);
        tokio::spawn(async move {
            let mut open = Vec::new();
            loop {
                let Ok((stream, _)) = listener.accept().await else { return };
                let mut call = Call::read(stream).await;
                count.send_modify(|count| *count += 1);
                if is_silent.load(Ordering::Relaxed) {
                    open.push(call);
                    continue;
                }
                let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 2\r\n\r\n{{}}");
                if status.starts_with('2') {
                    sender.send_modify(|taken| take(taken, &call.head, &call.body));
                }
                let _ = call.stream.write_all(answer.as_bytes()).await;
            }
        });
        Collector { url, taken, says_nothing, calls }
    }

    /// From now on it takes requests and answers none.
    pub fn fall_silent(&self) {
        self.says_nothing.store(true, Ordering::Relaxed);
    }

    /// The environment of a gateway that traces to it, with more in it.
    pub fn env<'a>(&'a self, more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
        let own = [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", self.url.as_str()),
            // Each span as soon as it is there.
            ("OTEL_BSP_SCHEDULE_DELAY", "1"),
        ];
        own.into_iter().chain(more.iter().copied()).collect()
    }

    /// Waits until it has been called so often.
    ///
    /// # Panics
    /// When it is not.
    pub async fn called(&self, times: usize) {
        let mut calls = self.calls.clone();
        let wait = calls.wait_for(|count| *count >= times);
        tokio::time::timeout(PATIENCE, wait).await.expect("called in time").expect("it lives");
    }

    /// What it has by now.
    pub fn taken(&self) -> Taken {
        self.taken.borrow().clone()
    }

    /// Waits until what it has is as wanted.
    ///
    /// # Panics
    /// When it never is.
    pub async fn wait(&self, wanted: impl Fn(&[Span]) -> bool) -> Vec<Span> {
        let mut taken = self.taken.clone();
        let wait = taken.wait_for(|taken| wanted(&taken.spans));
        match tokio::time::timeout(PATIENCE, wait).await {
            Ok(taken) => taken.expect("it lives").spans.clone(),
            Err(_) => panic!("the spans do not come: {:#?}", self.taken().spans),
        }
    }

    /// Waits for the end of the request with this route, which is the last of its trace: the spans of
    /// that trace.
    pub async fn trace(&self, root: &str) -> Vec<Span> {
        let spans = self.wait(|spans| spans.iter().any(|span| span.name == root)).await;
        let trace = spans.iter().find(|span| span.name == root).map(|span| span.trace.clone());
        spans.into_iter().filter(|span| Some(&span.trace) == trace.as_ref()).collect()
    }
}

/// Reads what was posted, as the specification says it is.
fn take(taken: &mut Taken, head: &str, body: &[u8]) {
    taken.raw.push(format!("{head}{}", String::from_utf8_lossy(body)));
    let posted: Value = serde_json::from_slice(body).expect("JSON");
    for of_resource in posted["resourceSpans"].as_array().expect("resourceSpans") {
        taken.resources.push(of_resource["resource"].clone());
        for of_scope in of_resource["scopeSpans"].as_array().expect("scopeSpans") {
            assert_eq!(of_scope["scope"]["name"], "tollway");
            let spans = of_scope["spans"].as_array().expect("spans");
            taken.spans.extend(spans.iter().map(span));
        }
    }
}

fn span(span: &Value) -> Span {
    let text = |name: &str| span[name].as_str().unwrap_or_else(|| panic!("{name}: {span}"));
    let id = |name: &str, digits: usize| {
        let id = text(name).to_owned();
        assert!(id.len() == digits && id.bytes().all(|b| b.is_ascii_hexdigit()), "{name}: {span}");
        assert!(id.bytes().any(|digit| digit != b'0'), "{name}: {span}");
        id
    };
    let time = |name: &str| text(name).parse::<u128>().expect("a number as a text");
    let time = (time("startTimeUnixNano"), time("endTimeUnixNano"));
    assert!(time.0 <= time.1, "{span}");
    let attributes = span["attributes"].as_array().expect("attributes").iter();
    let attributes = attributes.map(|attribute| {
        let name = attribute["key"].as_str().expect("a key").to_owned();
        (name, value(&attribute["value"]))
    });
    Span {
        trace: id("traceId", 32),
        id: id("spanId", 16),
        parent: match span.get("parentSpanId") {
            Some(_) => id("parentSpanId", 16),
            None => String::new(),
        },
        name: text("name").to_owned(),
        kind: span["kind"].as_u64().expect("a kind"),
        time,
        is_error: span["status"]["code"] == 2,
        attributes: attributes.collect(),
    }
}

fn value(value: &Value) -> Value {
    let members: Vec<_> = value.as_object().expect("a value").iter().collect();
    match members.as_slice() {
        [(kind, text)] if *kind == "stringValue" && text.is_string() => (*text).clone(),
        [(kind, number)] if *kind == "doubleValue" && number.is_number() => (*number).clone(),
        [(kind, number)] if *kind == "intValue" => {
            number.as_str().expect("a text").parse::<i64>().expect("a number").into()
        }
        _ => panic!("no value: {value}"),
    }
}
