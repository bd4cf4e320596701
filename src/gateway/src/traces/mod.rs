//! Distributed traces, in OpenTelemetry's form: the span of a request, and of an attempt at a
//! deployment. Agents make their own, below the request's. `export` brings them to a collector.
//!
//! The names are those of OpenTelemetry's semantic conventions for HTTP and for generative AI; what
//! these have no name for begins with `tollway.`.

mod export;
mod otlp;

use std::sync::Arc;

use http::Method;
use prometheus::{IntCounter, Registry};
use tokio::sync::{mpsc, oneshot};
use tollway_filter_api::trace::{Ended, Span, SpanKind, Trace, Tracer};
use tollway_filter_api::{Clock, Deployment, Outcome, RequestCtx, RequestHead};
use tollway_wire::operation::Operation;
use tollway_wire::traceparent::TraceParent;

use crate::config::TraceSettings;
use crate::exchange::Pool;
use crate::random;

/// Counts what becomes of spans.
#[derive(Debug)]
pub(crate) struct Counts {
    exported: IntCounter,
    dropped: IntCounter,
    failed: IntCounter,
}

impl Counts {
    pub(crate) fn register(registry: &Registry) -> prometheus::Result<Counts> {
        let register = |name, help| {
            let counter = IntCounter::new(name, help)?;
            registry.register(Box::new(counter.clone()))?;
            Ok::<_, prometheus::Error>(counter)
        };
        Ok(Counts {
            exported: register("tollway_spans_exported_total", "Spans the collector has taken")?,
            dropped: register(
                "tollway_spans_dropped_total",
                "Spans that were dropped because too many waited for the collector",
            )?,
            failed: register(
                "tollway_spans_failed_total",
                "Spans that could not be brought to the collector",
            )?,
        })
    }
}

/// What waits for the collector.
enum Waiting {
    Span(Box<Ended>),
    /// Whoever wants to know when all before it is sent.
    Flush(oneshot::Sender<()>),
}

/// Makes spans, and has them brought to the collector.
pub(crate) struct Traces {
    settings: TraceSettings,
    clock: Clock,
    queue: mpsc::Sender<Waiting>,
    counts: Arc<Counts>,
}

impl Traces {
    /// Begins to bring spans to the collector, until it is dropped.
    pub(crate) fn start(
        settings: TraceSettings,
        pool: Arc<Pool>,
        clock: Clock,
        counts: Arc<Counts>,
        runtime: &tokio::runtime::Handle,
    ) -> Arc<Traces> {
        let (queue, waiting) = mpsc::channel(settings.queue);
        let exporter = export::Exporter::new(settings.clone(), pool, Arc::clone(&counts));
        runtime.spawn(exporter.run(waiting));
        Arc::new(Traces { settings, clock, queue, counts })
    }

    pub(crate) fn settings(&self) -> &TraceSettings {
        &self.settings
    }

    /// Waits until what has ended is sent, or cannot be.
    pub(crate) async fn flush(&self) {
        let (done, is_done) = oneshot::channel();
        let flushed = async {
            if self.queue.send(Waiting::Flush(done)).await.is_ok() {
                let _ = is_done.await;
            }
        };
        // A process that ends does not wait for a collector that is away.
        let _ = tokio::time::timeout(export::FLUSH_WAIT, flushed).await;
    }

    /// A trace that nobody has begun before us.
    pub(crate) fn begin(self: &Arc<Self>) -> Trace {
        let is_sampled = random::unit() < self.settings.sampling.ratio;
        Trace::begin(Arc::clone(self) as _, is_sampled)
    }

    /// The span of a request, as a part of what its client is doing, where the client says so.
    pub(crate) fn request(self: &Arc<Self>, head: &RequestHead, route: &'static str) -> Box<Span> {
        let mut given = head.headers.get_all("traceparent").iter();
        let parent = match (given.next(), given.next()) {
            (Some(one), None) => {
                one.to_str().ok().and_then(|text| text.parse::<TraceParent>().ok())
            }
            _ => None,
        };
        let trace = match parent {
            None => self.begin(),
            Some(mut parent) => {
                let sampling = self.settings.sampling;
                if !sampling.follows_parent {
                    parent.is_sampled = random::unit() < sampling.ratio;
                }
                Trace::of(Arc::clone(self) as _, parent)
            }
        };
        let method = method(&head.method);
        let mut span = trace.span(SpanKind::Server, || format!("{method} {route}"));
        if span.is_recorded() {
            span.set("http.request.method", method);
            span.set("http.route", route);
        }
        Box::new(span)
    }

    /// Providers are told of the trace.
    pub(crate) fn tells_providers(&self) -> bool {
        self.settings.tells_providers
    }
}

impl Tracer for Traces {
    fn clock(&self) -> &Clock {
        &self.clock
    }

    fn fresh_id(&self) -> u64 {
        random::next().max(1)
    }

    fn take(&self, span: Ended) {
        if self.queue.try_send(Waiting::Span(Box::new(span))).is_err() {
            self.counts.dropped.inc();
        }
    }
}

/// A method as a label: one that nobody knows is the client's own words.
fn method(method: &Method) -> &'static str {
    match method.as_str() {
        "GET" => "GET",
        "HEAD" => "HEAD",
        "POST" => "POST",
        "PUT" => "PUT",
        "PATCH" => "PATCH",
        "DELETE" => "DELETE",
        "OPTIONS" => "OPTIONS",
        _ => "_OTHER",
    }
}

/// What an operation is called in `gen_ai.operation.name`.
fn operation_name(operation: Operation) -> &'static str {
    match operation {
        Operation::ChatCompletions => "chat",
        Operation::Completions => "text_completion",
        other => other.name(),
    }
}

/// The span of an agent's model call, all its attempts together.
pub(crate) fn model_call(trace: &Trace, model: &str) -> Box<Span> {
    Box::new(trace.span(SpanKind::Internal, || format!("chat {model}")))
}

/// The span of an attempt at a deployment.
pub(crate) fn attempt(trace: &Trace, operation: Operation, deployment: &Deployment) -> Box<Span> {
    let name = operation_name(operation);
    let mut span = trace.span(SpanKind::Client, || format!("{name} {}", deployment.model));
    if span.is_recorded() {
        span.set("gen_ai.operation.name", name);
        span.set("gen_ai.provider.name", deployment.provider.to_string());
        span.set("gen_ai.request.model", &deployment.model);
    }
    Box::new(span)
}

/// Says of a request's span what has become of the request, and ends it.
pub(crate) fn end(ctx: &mut RequestCtx, outcome: Outcome) {
    let Some(mut span) = ctx.span.take() else { return };
    if !span.is_recorded() {
        return;
    }
    let report = &ctx.report;
    span.set("tollway.call_id", &ctx.id);
    if let Some(operation) = ctx.operation {
        span.set("gen_ai.operation.name", operation_name(operation));
    }
    if let Some(plan) = &ctx.plan {
        span.set("gen_ai.request.model", &plan.requested);
    }
    if let Some(deployment) = &report.deployment {
        span.set("gen_ai.provider.name", deployment.provider.to_string());
        span.set("gen_ai.response.model", &deployment.model);
        span.set("tollway.attempts", u64::from(report.attempts));
    }
    if let Some(usage) = &report.usage {
        span.set("gen_ai.usage.input_tokens", usage.prompt_tokens);
        span.set("gen_ai.usage.output_tokens", usage.completion_tokens);
    }
    if let Some(cost) = &report.cost {
        span.set("tollway.cost_usd", cost.total().as_dollars());
    }
    if report.cache_hit {
        span.set("tollway.cache_hit", 1);
    }
    if let Some(status) = report.status {
        span.set("http.response.status_code", u64::from(status));
    }
    match (outcome, &report.error_kind) {
        (Outcome::ClientGone, _) => span.fail("client_gone"),
        (Outcome::Broken, kind) => span.fail(kind.as_deref().unwrap_or("broken")),
        // What a client did wrong is no fault of the server.
        (Outcome::Done, Some(kind)) if report.status.is_some_and(|status| status < 500) => {
            span.set_error_type(kind);
        }
        (Outcome::Done, Some(kind)) => span.fail(kind),
        (Outcome::Done, None) => {}
    }
}
