//! What the exchange yields: a whole answer, or a stream of events.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderName, HeaderValue};
use tollway_filter_api::Rejection;
use tollway_filter_api::ctx::Report;
use tollway_filter_api::trace::Span;
use tollway_wire::client::Encoder;
use tollway_wire::openai::response::ErrorObject;
use tollway_wire::usage::Usage;

use super::codec::{Codec, Step};
use super::fault::{Cause, Fault};
use super::routing::InFlight;
use super::upstream::Upstream;
use super::{Admission, Endpoint};

/// How long the provider may take to close a stream whose end it has announced, before the
/// connection is given up instead of reused.
const CLOSE_WAIT: Duration = Duration::from_millis(200);

/// An answer that has begun.
pub(crate) enum Opened {
    /// It is here, whole.
    Whole(Box<WholeAnswer>),
    /// Its first event is here.
    Stream(Box<AnswerStream>),
}

/// An answer that is not a stream.
pub(crate) struct WholeAnswer {
    /// What of the provider's head the client may see.
    pub(crate) headers: Vec<(HeaderName, HeaderValue)>,
    /// The body, in the client's dialect.
    pub(crate) body: Bytes,
    /// What the provider counted.
    pub(crate) usage: Option<Usage>,
    /// The same with all that the next turn needs, for dialects that keep answers.
    pub(crate) kept: Option<Bytes>,
    /// It is the provider's own, in its own words, and known to it.
    pub(crate) is_native: bool,
}

/// A stream of server-sent events in the client's dialect, or of a file's bytes. Dropping it cancels
/// the upstream call.
pub(crate) struct AnswerStream {
    /// What of the provider's head the client may see.
    headers: Vec<(HeaderName, HeaderValue)>,
    /// What it is, where it is not server-sent events.
    content_type: Option<HeaderValue>,
    /// Events that were taken before the stream was handed out.
    first: Bytes,
    /// What broke while they were taken.
    broken: Option<Fault>,
    /// The rest; `None` once it has ended. Another attempt could take its place: all that the
    /// client's side must remember is outside of it.
    source: Option<Source>,
    /// Puts events into the client's dialect, where the source's is another.
    encoder: Option<Box<dyn Encoder>>,
    endpoint: Arc<Endpoint>,
    admission: Admission,
    /// Dropped with the stream: until then the deployment is busy with it.
    _in_flight: Option<InFlight>,
    /// When the caller's own patience ends.
    patience: Option<Instant>,
    usage: Option<Usage>,
    /// How many events have come.
    events: u64,
    /// The provider's own whole form of it, for dialects that keep answers.
    response: Option<Bytes>,
    /// The span of the attempt, which ends with the stream.
    pub(super) span: Option<Box<Span>>,
}

/// One attempt's side of a stream.
struct Source {
    upstream: Upstream,
    codec: Codec,
}

/// What a stream is begun with.
pub(super) struct Beginning {
    pub(super) headers: Vec<(HeaderName, HeaderValue)>,
    pub(super) content_type: Option<HeaderValue>,
    pub(super) encoder: Option<Box<dyn Encoder>>,
    pub(super) endpoint: Arc<Endpoint>,
    pub(super) admission: Admission,
    pub(super) in_flight: Option<InFlight>,
    /// When the caller's own patience ends.
    pub(super) patience: Option<Instant>,
}

impl Beginning {
    fn stream(self, first: Bytes, source: Option<Source>) -> AnswerStream {
        let Beginning { headers, content_type, encoder, endpoint, admission, in_flight, patience } =
            self;
        AnswerStream {
            headers,
            content_type,
            first,
            broken: None,
            source,
            encoder,
            endpoint,
            admission,
            _in_flight: in_flight,
            patience,
            usage: None,
            events: 0,
            response: None,
            span: None,
        }
    }

    /// Reads until the first event is there, so that a stream that fails before it can still
    /// become another attempt.
    pub(super) async fn read(
        self,
        upstream: Upstream,
        codec: Codec,
    ) -> Result<AnswerStream, Fault> {
        let mut stream = self.stream(Bytes::new(), Some(Source { upstream, codec }));
        while stream.first.is_empty() && stream.source.is_some() {
            let step = stream.step().await;
            match (step.events.is_empty(), step.fault) {
                (true, Some(fault)) => return Err(fault),
                (_, fault) => {
                    stream.first = step.events;
                    stream.broken = fault;
                }
            }
        }
        Ok(stream)
    }

    /// A stream of events that are all here already.
    pub(super) fn of_events(self, events: Bytes, usage: Option<Usage>) -> AnswerStream {
        let mut stream = self.stream(Bytes::new(), None);
        stream.usage = usage;
        let step = stream.encoded(Step::of(events));
        stream.first = step.events;
        stream.broken = step.fault;
        stream
    }
}

impl AnswerStream {
    /// What of the provider's head the client may see.
    pub(crate) fn take_headers(&mut self) -> Vec<(HeaderName, HeaderValue)> {
        std::mem::take(&mut self.headers)
    }

    /// The same, to be looked at.
    pub(crate) fn headers(&self) -> &[(HeaderName, HeaderValue)] {
        &self.headers
    }

    /// What it is, where it is not server-sent events.
    pub(crate) fn content_type(&self) -> Option<&HeaderValue> {
        self.content_type.as_ref()
    }

    /// The next events, whole ones, as many as came together; `None` at the announced end.
    ///
    /// # Errors
    /// When the stream broke: its end was not announced, or the provider reported an error.
    pub(crate) async fn next(&mut self) -> Option<Result<Bytes, Rejection>> {
        if !self.first.is_empty() {
            return Some(Ok(std::mem::take(&mut self.first)));
        }
        loop {
            if let Some(fault) = self.broken.take() {
                let now = Instant::now();
                let is_callers = fault.cause == Cause::Timeout
                    && self.patience.is_some_and(|patience| now >= patience);
                if !is_callers {
                    self.endpoint.cooldown.broke_off(&fault, now);
                }
                self.stop();
                if let Some(span) = &mut self.span {
                    fault.tell(span);
                }
                return Some(Err(fault.into_reject()));
            }
            self.source.as_ref()?;
            let step = self.step().await;
            self.broken = step.fault;
            if !step.events.is_empty() {
                return Some(Ok(step.events));
            }
        }
    }

    /// One read and what comes of it.
    async fn step(&mut self) -> Step {
        let Some(Source { upstream, codec }) = &mut self.source else {
            return Step::of(Bytes::new());
        };
        let ended = codec.ended();
        let idle = if ended { CLOSE_WAIT } else { self.endpoint.deadlines.idle };
        let step = match upstream.chunk(idle).await {
            Ok(Some(bytes)) => codec.push(bytes),
            Ok(None) => {
                let last = codec.finish();
                // Boxed: it comes once, and its state is larger than that of all reads before.
                Box::pin(upstream.release()).await;
                self.stop();
                last
            }
            Err(fault) => {
                self.stop();
                // The provider said that it is done and then did not close: it is done.
                let fault = (!ended).then_some(fault);
                Step { events: Bytes::new(), fault }
            }
        };
        let mut step = self.encoded(step);
        // Whole events, not reads: a read may end within the credential.
        step.events = self.endpoint.scrub(step.events);
        step
    }

    fn encoded(&mut self, step: Step) -> Step {
        match &mut self.encoder {
            Some(encoder) => {
                step.encoded(&mut **encoder, super::attempt::exception_name(self.endpoint.provider))
            }
            None => step,
        }
    }

    /// Tells the client, in its dialect, why the stream ends here. `None` where the dialect can
    /// tell it without knowing what came before.
    pub(crate) fn error_event(&mut self, status: u16, error: &ErrorObject) -> Option<Vec<u8>> {
        if self.content_type.is_some() {
            // There is no way to tell it within a file.
            return Some(Vec::new());
        }
        let encoder = self.encoder.as_mut()?;
        let mut event = Vec::new();
        encoder.error(status, error, &mut event);
        Some(event)
    }

    /// The answer in its whole form, once it is complete, for dialects that keep answers.
    pub(crate) fn response(&self) -> Option<&[u8]> {
        match &self.encoder {
            Some(encoder) => encoder.response(),
            None => match &self.source {
                Some(source) => source.codec.response(),
                None => self.response.as_deref(),
            },
        }
    }

    /// Whether it is the provider's own, in its own words, and known to it.
    pub(crate) fn is_native(&self) -> bool {
        self.encoder.is_none()
    }

    /// Closes the source, and keeps what it has counted.
    fn stop(&mut self) {
        if let Some(source) = self.source.take() {
            self.usage = source.codec.usage();
            self.events = source.codec.events();
            self.response = source.codec.response().map(Bytes::copy_from_slice);
        }
    }

    /// Writes down what it took in the end. The output of a stream that was not `done`, or of a text
    /// that the provider did not count, is counted by its events, which is about a token each, where
    /// that is more than the provider had said until then.
    pub(crate) fn settle(&mut self, report: &mut Report, done: bool, is_text: bool) {
        self.stop();
        if self.usage.is_some() {
            report.usage = self.usage;
        }
        // Some servers never tell what a stream took, and it is not free for that.
        let is_counted = done && (self.usage.is_some() || !is_text);
        if !is_counted && self.content_type.is_none() {
            let usage = report.usage.get_or_insert_default();
            usage.completion_tokens = usage.completion_tokens.max(self.events);
            report.usage_estimated = true;
        }
        self.admission.settle(report.usage.map(|usage| usage.total_tokens()));
    }
}
