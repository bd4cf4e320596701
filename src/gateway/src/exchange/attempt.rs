//! One try at one deployment: write the request, wait for the head, begin to read.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderMap, HeaderName, HeaderValue};
use tollway_filter_api::ctx::Report;
use tollway_filter_api::{Deployment, ModelGroup};
use tollway_providers::{Asked, Call as ProviderCall, Decoder, Provider, Target, UpstreamBody};
use tollway_wire::openai;
use tollway_wire::operation::Dialect;

use super::answer::{AnswerStream, Opened, WholeAnswer};
use super::codec::Codec;
use super::fault::Fault;
use super::upstream::Upstream;
use super::{Call, Endpoint, Exchange};

/// How much of an error's body is read.
const ERROR_BODY_MAX: usize = 64 * 1024;
/// How large an answer that is not a stream may be.
const WHOLE_BODY_MAX: usize = 128 * 1024 * 1024;
/// How long an error's body may take.
const ERROR_BODY_WAIT: Duration = Duration::from_secs(5);

/// LiteLLM's name of a provider in messages: `OpenAI`, `Anthropic`, else the provider's own name.
pub(super) fn exception_name(provider: &dyn Provider) -> &'static str {
    match provider.name() {
        "openai" => "OpenAI",
        "anthropic" => "Anthropic",
        other => other,
    }
}

impl Exchange {
    /// Tries one deployment.
    pub(super) async fn attempt(
        &self,
        call: &Call<'_>,
        group: &ModelGroup,
        deployment: &Arc<Deployment>,
        report: &mut Report,
    ) -> Result<Opened, Fault> {
        let endpoint = &call.endpoints[deployment.entry];
        let provider = endpoint.provider;
        let name = exception_name(provider);
        let operation = call.view.operation;
        let now = self.clock.now();
        report.attempts += 1;
        report.deployment = Some(Arc::clone(deployment));
        report.upstream_started.get_or_insert(now);

        let Some(dialect) = provider.dialect(operation) else {
            return Err(Fault::not_served(name, operation.path(), &group.name));
        };
        let target = Target {
            model: deployment.model.to_string(),
            drop_params: endpoint.drop_params,
            max_output_tokens: deployment.max_output_tokens,
        };
        let provider_call = ProviderCall {
            operation,
            body: &call.view.body,
            object: &call.view.object,
            stream: call.view.stream,
        };
        let body = provider.request(&provider_call, &target).map_err(Fault::request)?;
        let mut admission = self.admit(deployment, call.view, now)?;

        let patience = call.deadline.map(|deadline| deadline.saturating_duration_since(now));
        if patience.is_some_and(|patience| patience.is_zero()) {
            return Err(Fault::timeout(
                name,
                "no answer",
                now.saturating_duration_since(call.arrived),
            ));
        }
        let total = endpoint.deadlines.total.min(patience.unwrap_or(Duration::MAX));
        let mut upstream = self.send(endpoint, operation, &body, name, now + total, total).await?;
        let first_byte = call.view.stream.then_some(endpoint.deadlines.first_byte);
        if let Err(fault) = upstream.head(first_byte, now).await {
            // A pooled connection may have been closed by the provider in the very moment it was
            // taken. Nothing of an answer had come, so a fresh one may be asked.
            if !upstream.reused || fault.cause != super::fault::Cause::Broken {
                return Err(fault);
            }
            upstream = self.send(endpoint, operation, &body, name, now + total, total).await?;
            upstream.head(first_byte, now).await?;
        }

        let head = upstream.response_header().expect("the head was just read");
        let status = head.status.as_u16();
        if !(200..300).contains(&status) {
            let retry_after = retry_after(head.headers);
            // Boxed, like all that is rare or large here: what a future may hold, every request
            // carries, and moves each time a future is put into another.
            let error = error_of(upstream, endpoint, name, status, retry_after);
            return Err(Box::pin(error).await);
        }
        if head.headers.get(CONTENT_ENCODING).is_some_and(|v| v.as_bytes() != b"identity") {
            return Err(Fault::broken(name, "The provider compressed an answer unasked."));
        }
        let headers = passed_headers(head.headers, endpoint);
        let is_event_stream = head
            .headers
            .get(CONTENT_TYPE)
            .is_some_and(|v| v.as_bytes().to_ascii_lowercase().starts_with(b"text/event-stream"));
        let length =
            head.headers.get(CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse::<usize>().ok());

        let asked = || Asked {
            model: call.plan.requested.to_string(),
            include_usage: call.view.include_usage,
            created: self.clock.unix().as_secs(),
        };
        let alias = (*call.plan.requested != *deployment.model).then_some(&*call.plan.requested);
        let opened = if call.view.stream && is_event_stream {
            let codec = match dialect {
                Dialect::OpenAi => Codec::Tap {
                    tap: Box::new(openai::StreamTap::new(body.usage_added, alias)),
                    provider,
                },
                Dialect::Anthropic => Codec::Decode {
                    decoder: provider.decoder(operation, asked()),
                    name,
                    ended: false,
                    events: 0,
                },
            };
            let begin =
                AnswerStream::begin(headers, upstream, codec, Arc::clone(endpoint), admission);
            let stream = Box::pin(begin).await?;
            report.first_byte = Some(self.clock.now());
            Opened::Stream(Box::new(stream))
        } else {
            let whole = read_whole(&mut upstream, length, WHOLE_BODY_MAX, name, total).await?;
            report.first_byte = Some(self.clock.now());
            upstream.release().await;
            let decoder =
                (dialect != Dialect::OpenAi).then(|| provider.decoder(operation, asked()));
            let answer = whole_answer(whole, decoder, alias, endpoint, name, report)?;
            admission.settle(report.usage.map(|usage| usage.total_tokens()));
            if call.view.stream {
                // A provider answered whole although a stream was asked for.
                let events = replay(&answer, call, name)?;
                Opened::Stream(Box::new(AnswerStream::of_events(
                    headers,
                    events,
                    Arc::clone(endpoint),
                    admission,
                )))
            } else {
                Opened::Whole(WholeAnswer { headers, body: answer })
            }
        };
        endpoint.cooldown.succeeded();
        Ok(opened)
    }

    /// Opens a connection and writes the request.
    async fn send(
        &self,
        endpoint: &Arc<Endpoint>,
        operation: tollway_wire::operation::Operation,
        body: &UpstreamBody,
        name: &'static str,
        deadline: Instant,
        total: Duration,
    ) -> Result<Upstream, Fault> {
        let peers = endpoint
            .peers(self.clock.now())
            .await
            .map_err(|error| Fault::connect(name, format!("name lookup: {error}")))?;
        let mut last = None;
        for peer in peers.iter() {
            match Upstream::connect(&self.pool, Arc::clone(peer), name, deadline, total).await {
                Ok(mut upstream) => {
                    match upstream.write(endpoint.head(operation), body).await {
                        // See `attempt`: a pooled connection may just have been closed.
                        Err(_) if upstream.reused => {
                            last = None;
                            continue;
                        }
                        written => return written.map(|()| upstream),
                    }
                }
                Err(fault) => last = Some(fault),
            }
        }
        Err(last.unwrap_or_else(|| Fault::connect(name, "every pooled connection was closed")))
    }
}

/// Reads a body whole.
async fn read_whole(
    upstream: &mut Upstream,
    length: Option<usize>,
    max: usize,
    name: &'static str,
    wait: Duration,
) -> Result<Bytes, Fault> {
    let too_large = || Fault::broken(name, "The provider's answer is too large.");
    if length.is_some_and(|length| length > max) {
        return Err(too_large());
    }
    let Some(first) = upstream.chunk(wait).await? else { return Ok(Bytes::new()) };
    // Mostly the whole body came in one read, and is not copied again.
    if length == Some(first.len()) {
        while upstream.chunk(wait).await?.is_some() {}
        return Ok(first);
    }
    let room = length.unwrap_or(0).clamp(first.len(), 1024 * 1024);
    let mut whole = BytesMut::with_capacity(room);
    whole.extend_from_slice(&first);
    while let Some(bytes) = upstream.chunk(wait).await? {
        if whole.len() + bytes.len() > max {
            return Err(too_large());
        }
        whole.extend_from_slice(&bytes);
    }
    Ok(whole.freeze())
}

/// Reads an error answer.
async fn error_of(
    mut upstream: Upstream,
    endpoint: &Endpoint,
    name: &'static str,
    status: u16,
    retry_after: Option<Duration>,
) -> Fault {
    // We never follow: a provider must not send us, with our credentials, somewhere else.
    if (300..400).contains(&status) {
        return Fault::broken(name, format!("The provider answered with a redirect ({status})."));
    }
    let body = read_whole(&mut upstream, None, ERROR_BODY_MAX, name, ERROR_BODY_WAIT).await;
    let body = match body {
        Ok(body) => {
            upstream.release().await;
            body
        }
        Err(_) => Bytes::new(),
    };
    let error = endpoint.provider.error(status, &endpoint.scrub(body));
    Fault::status(name, error, retry_after)
}

/// Puts a whole answer into the client's dialect and reads its usage.
fn whole_answer(
    whole: Bytes,
    decoder: Option<Box<dyn Decoder>>,
    alias: Option<&str>,
    endpoint: &Endpoint,
    name: &'static str,
    report: &mut Report,
) -> Result<Bytes, Fault> {
    let whole = endpoint.scrub(whole);
    if let Some(mut decoder) = decoder {
        let translated = decoder.whole(&whole).map_err(|error| Fault::decode(name, error))?;
        report.usage = decoder.usage();
        return Ok(translated.into());
    }
    let trimmed = whole.trim_ascii();
    if !trimmed.starts_with(b"{") || !trimmed.ends_with(b"}") {
        return Err(Fault::broken(name, "The provider's answer is not a JSON object."));
    }
    report.usage = openai::usage_of_body(&whole);
    Ok(match alias {
        Some(alias) => openai::rename_model(&whole, alias),
        None => whole,
    })
}

/// The stream a client asked for, made of an answer that came whole.
fn replay(whole: &Bytes, call: &Call<'_>, name: &'static str) -> Result<Bytes, Fault> {
    openai::events_from_completion(whole, call.view.include_usage)
        .map(Bytes::from)
        .ok_or_else(|| Fault::broken(name, "The provider's answer is not a completion."))
}

/// `retry-after` in seconds, as providers send it, or OpenAI's `retry-after-ms`.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let number = |name: &str| headers.get(name)?.to_str().ok()?.trim().parse::<f64>().ok();
    let after = number("retry-after-ms")
        .map(|ms| ms / 1000.0)
        .or_else(|| number(RETRY_AFTER.as_str()))
        .filter(|seconds| seconds.is_finite() && *seconds >= 0.0)?;
    // A provider that says "tomorrow" is not believed beyond a day.
    Some(Duration::from_secs_f64(after.min(86_400.0)))
}

/// Headers of a provider that the client may see, and under which names: with a prefix that says
/// where they come from, as in LiteLLM. An allow-list, so that nothing else gets through.
static PASSED: LazyLock<HashMap<&'static str, HeaderName>> = LazyLock::new(|| {
    const NAMES: &[&str] = &[
        "x-request-id",
        "request-id",
        "retry-after",
        "openai-model",
        "openai-organization",
        "openai-processing-ms",
        "openai-version",
        "x-ratelimit-limit-requests",
        "x-ratelimit-limit-tokens",
        "x-ratelimit-remaining-requests",
        "x-ratelimit-remaining-tokens",
        "x-ratelimit-reset-requests",
        "x-ratelimit-reset-tokens",
        "anthropic-organization-id",
        "anthropic-ratelimit-requests-limit",
        "anthropic-ratelimit-requests-remaining",
        "anthropic-ratelimit-requests-reset",
        "anthropic-ratelimit-tokens-limit",
        "anthropic-ratelimit-tokens-remaining",
        "anthropic-ratelimit-tokens-reset",
        "anthropic-ratelimit-input-tokens-limit",
        "anthropic-ratelimit-input-tokens-remaining",
        "anthropic-ratelimit-input-tokens-reset",
        "anthropic-ratelimit-output-tokens-limit",
        "anthropic-ratelimit-output-tokens-remaining",
        "anthropic-ratelimit-output-tokens-reset",
    ];
    let prefixed = |name: &str| HeaderName::from_bytes(format!("llm_provider-{name}").as_bytes());
    NAMES.iter().filter_map(|name| Some((*name, prefixed(name).ok()?))).collect()
});

/// What of a provider's head the client may see.
fn passed_headers(headers: &HeaderMap, endpoint: &Endpoint) -> Vec<(HeaderName, HeaderValue)> {
    const VALUE_BYTES_MAX: usize = 256;
    let mut passed = Vec::new();
    for (name, value) in headers {
        // Most begin otherwise (`content-…`, `date`, `server`) and need no look-up.
        if matches!(name.as_str().as_bytes().first(), Some(b'a' | b'o' | b'r' | b'x'))
            && let Some(prefixed) = PASSED.get(name.as_str())
            && value.len() <= VALUE_BYTES_MAX
            && !endpoint.echoes_secret(value.as_bytes())
        {
            passed.push((prefixed.clone(), value.clone()));
        }
    }
    passed
}
