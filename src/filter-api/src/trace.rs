//! Distributed traces: spans, and who takes them. Off, there is no [`Trace`] anywhere, and nothing
//! is made.
//!
//! A span says what was done, when, and how it ended, in OpenTelemetry's words. It never holds what
//! was said: no message, argument, result, header or key.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tollway_wire::traceparent::TraceParent;

use crate::clock::Clock;

/// How long a text in a span may be.
const TEXT_BYTES_MAX: usize = 256;
/// How long the name of an error may be.
const ERROR_BYTES_MAX: usize = 64;

/// Takes spans that have ended.
pub trait Tracer: Send + Sync {
    /// The time.
    fn clock(&self) -> &Clock;

    /// A random number for the id of a span; not 0.
    fn fresh_id(&self) -> u64;

    /// Takes a span. Never waits: one for which there is no room is counted and dropped.
    fn take(&self, span: Ended);
}

/// A place in a trace: what is done from here is a child of its span.
#[derive(Clone)]
pub struct Trace {
    tracer: Arc<dyn Tracer>,
    id: u128,
    /// 0 where the trace begins here.
    span: u64,
    is_sampled: bool,
}

impl fmt::Debug for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Trace({:032x}-{:016x})", self.id, self.span)
    }
}

/// Whose side of a call a span is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpanKind {
    /// Work of our own.
    Internal,
    /// Somebody's request to us.
    Server,
    /// Our request to somebody.
    Client,
}

/// What is said of a span.
#[derive(Clone, Debug, PartialEq)]
pub enum SpanValue {
    /// A text, cut where it is long.
    Text(Cow<'static, str>),
    /// A number.
    Number(u64),
    /// Dollars.
    Float(f64),
}

impl From<u64> for SpanValue {
    fn from(number: u64) -> Self {
        SpanValue::Number(number)
    }
}

impl From<f64> for SpanValue {
    fn from(number: f64) -> Self {
        SpanValue::Float(number)
    }
}

impl From<&'static str> for SpanValue {
    fn from(text: &'static str) -> Self {
        SpanValue::Text(text.into())
    }
}

impl From<String> for SpanValue {
    fn from(mut text: String) -> Self {
        text.truncate(text.floor_char_boundary(TEXT_BYTES_MAX));
        SpanValue::Text(text.into())
    }
}

impl From<&Arc<str>> for SpanValue {
    fn from(text: &Arc<str>) -> Self {
        text.to_string().into()
    }
}

/// A span that has ended.
#[derive(Clone, Debug)]
pub struct Ended {
    /// The trace it belongs to.
    pub trace: u128,
    /// Its own id.
    pub id: u64,
    /// The span it is a part of; 0 where it is none's.
    pub parent: u64,
    /// What was done, in few words.
    pub name: Cow<'static, str>,
    /// Whose side it is.
    pub kind: SpanKind,
    /// When it began, since the Unix epoch.
    pub began: Duration,
    /// How long it took.
    pub took: Duration,
    /// What is said of it.
    pub attributes: Vec<(&'static str, SpanValue)>,
    /// It failed.
    pub is_error: bool,
}

/// Something that is being done. It ends when it is dropped.
pub struct Span {
    /// With this span as the parent.
    trace: Trace,
    began: Instant,
    /// None where nobody wants it recorded: then it is only passed on.
    record: Option<Box<Ended>>,
}

impl Trace {
    /// Goes on with a trace.
    pub fn of(tracer: Arc<dyn Tracer>, parent: TraceParent) -> Trace {
        let TraceParent { trace: id, span, is_sampled } = parent;
        Trace { tracer, id, span, is_sampled }
    }

    /// Begins a trace.
    pub fn begin(tracer: Arc<dyn Tracer>, is_sampled: bool) -> Trace {
        let id = u128::from(tracer.fresh_id()) << 64 | u128::from(tracer.fresh_id());
        Trace { tracer, id, span: 0, is_sampled }
    }

    /// Begins something that is done here. The name is made only where it is wanted.
    pub fn span<N: Into<Cow<'static, str>>>(
        &self,
        kind: SpanKind,
        name: impl FnOnce() -> N,
    ) -> Span {
        let (id, clock) = (self.tracer.fresh_id(), self.tracer.clock());
        let record = self.is_sampled.then(|| {
            Box::new(Ended {
                trace: self.id,
                id,
                parent: self.span,
                name: name().into(),
                kind,
                began: clock.unix(),
                took: Duration::ZERO,
                attributes: Vec::with_capacity(8),
                is_error: false,
            })
        });
        Span { began: clock.now(), trace: Trace { span: id, ..self.clone() }, record }
    }
}

impl Span {
    /// For what is done as a part of this.
    pub fn trace(&self) -> &Trace {
        &self.trace
    }

    /// For whom we ask next.
    pub fn traceparent(&self) -> TraceParent {
        let Trace { id, span, is_sampled, .. } = self.trace;
        TraceParent { trace: id, span, is_sampled }
    }

    /// Whether anybody will read what is said of it.
    pub fn is_recorded(&self) -> bool {
        self.record.is_some()
    }

    /// Says something of it.
    pub fn set(&mut self, name: &'static str, value: impl Into<SpanValue>) {
        if let Some(record) = &mut self.record {
            record.attributes.push((name, value.into()));
        }
    }

    /// Names what went wrong, by a word for programs. What others say is taken only where it is such
    /// a word: a text could repeat what was asked.
    pub fn set_error_type(&mut self, word: &str) {
        let is_word = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
        let is_named =
            !word.is_empty() && word.len() <= ERROR_BYTES_MAX && word.bytes().all(is_word);
        self.set("error.type", if is_named { word } else { "_OTHER" }.to_owned());
    }

    /// It went wrong.
    pub fn fail(&mut self, word: &str) {
        self.set_error_type(word);
        if let Some(record) = &mut self.record {
            record.is_error = true;
        }
    }
}

impl Drop for Span {
    fn drop(&mut self) {
        if let Some(mut record) = self.record.take() {
            let tracer = &self.trace.tracer;
            record.took = tracer.clock().now().saturating_duration_since(self.began);
            tracer.take(*record);
        }
    }
}
