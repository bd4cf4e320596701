//! One try at one deployment: write the request, wait for the head, begin to read.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use memchr::memmem;
use tollway_filter_api::{Deployment, RequestView};
use tollway_providers::{
    Asked, Call as ProviderCall, Form, Place, Provider, RequestError, Target, UpstreamBody,
    embeddings,
};
use tollway_wire::client::{self, Encoder};
use tollway_wire::operation::{Dialect, Operation};
use tollway_wire::scan;
use tollway_wire::usage::Usage;
use tollway_wire::{count, openai};

use super::answer::{Beginning, Opened, WholeAnswer};
use super::codec::Codec;
use super::fault::Fault;
use super::lane::Lane;
use super::routing::Traffic;
use super::upstream::Upstream;
use super::{Call, Endpoint, Exchange, Trying};
use crate::random;

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

/// The path names the model, as at Azure, and the form does not: it has no place for it.
fn no_model_in_form() -> Fault {
    Fault::request(RequestError::Invalid {
        message: "The form must have a field `model`.".into(),
        param: Some("model".into()),
    })
}

/// The answer to a count that the provider cannot make: ours.
fn estimated(view: &RequestView) -> WholeAnswer {
    let body = count::answer(view.dialect, count::input_tokens(&view.body));
    WholeAnswer {
        headers: Vec::new(),
        body: body.into(),
        usage: None,
        kept: None,
        is_native: false,
    }
}

/// Puts a whole answer from OpenAI's form into the client's dialect.
fn encoded(
    answer: Bytes,
    view: &RequestView,
    lane: &Lane,
    encoder: Option<&mut Box<dyn Encoder>>,
    name: &'static str,
) -> Result<Bytes, Fault> {
    if lane.translated && view.operation == Operation::CountTokens {
        let counted: serde_json::Value = serde_json::from_slice(&answer).unwrap_or_default();
        let tokens = counted["input_tokens"].as_u64();
        let tokens = tokens.ok_or_else(|| Fault::broken(name, "The answer is not a count."))?;
        return Ok(count::answer(view.dialect, tokens).into());
    }
    match encoder {
        Some(encoder) => encoder
            .whole(&answer)
            .map(Bytes::from)
            .map_err(|error| Fault::broken(name, error.to_string())),
        None => Ok(answer),
    }
}

/// How an answer is to be put for the client.
struct Wanted<'a> {
    lane: Lane,
    place: Place<'a>,
    /// The name the client used, where it is not the provider's and bytes pass.
    alias: Option<&'a str>,
    /// Usage was asked for although the client had not.
    usage_added: bool,
}

impl Exchange {
    /// Tries one deployment. All that it changes is the endpoint's own state: what is to be told of
    /// the request, the caller writes down, so that two attempts of one request can run at once.
    pub(super) async fn attempt(&self, call: &Call, trying: &Trying<'_>) -> Result<Opened, Fault> {
        let Trying { group, deployment, now, span } = *trying;
        let endpoint = call.endpoint(deployment);
        let provider = endpoint.provider;
        let name = exception_name(provider);
        let view = &*call.view;

        let Some(lane) = Lane::of(provider, view, &deployment.model) else {
            if view.operation == Operation::CountTokens {
                return Ok(Opened::Whole(Box::new(estimated(view))));
            }
            let path = view.operation.path_in(view.dialect);
            return Err(Fault::not_served(name, path, &group.name));
        };
        let place = Place {
            operation: lane.operation,
            dialect: lane.dialect,
            model: &deployment.model,
            stream: view.stream,
        };
        let body = self.body(call, &lane, deployment, endpoint)?;
        let mut admission = self.admit(deployment, view, now).await?;

        let patience = call.deadline.map(|deadline| deadline.saturating_duration_since(now));
        if patience.is_some_and(|patience| patience.is_zero()) {
            return Err(Fault::timeout(
                name,
                "no answer",
                now.saturating_duration_since(call.arrived),
            ));
        }
        let in_flight = Traffic::enter(endpoint);
        let total = endpoint.deadlines.total.min(patience.unwrap_or(Duration::MAX));
        let traceparent = span.and_then(|span| call.traceparent(span));
        let traceparent = traceparent.as_ref();
        let deadline = now + total;
        let sending = Sending { endpoint, place, body: &body, name, deadline, total, traceparent };
        let mut upstream = self.send(&sending).await?;
        let first_byte = view.stream.then_some(endpoint.deadlines.first_byte);
        if let Err(fault) = upstream.head(first_byte, now).await {
            if !upstream.was_closed_meanwhile(&fault) {
                return Err(fault);
            }
            upstream = self.send(&sending).await?;
            upstream.head(first_byte, now).await?;
        }

        let head = upstream.response_header().expect("the head was just read");
        let status = head.status.as_u16();
        if !(200..300).contains(&status) {
            let retry_after = retry_after(head.headers);
            if status == 401 {
                endpoint.token.forget();
            }
            // A server that resembles this provider, and cannot count.
            if view.operation == Operation::CountTokens && matches!(status, 404 | 405 | 501) {
                return Ok(Opened::Whole(Box::new(estimated(view))));
            }
            // Boxed, like all that is rare or large here: what a future may hold, every request
            // carries, and moves each time a future is put into another.
            let error = error_of(upstream, endpoint, name, status, retry_after);
            return Err(Box::pin(error).await);
        }
        if is_compressed(head.headers) {
            return Err(Fault::broken(name, "The provider compressed an answer unasked."));
        }
        let headers = passed_headers(head.headers, endpoint);
        let kind = Kind::of(head.headers.get(CONTENT_TYPE));
        let length =
            head.headers.get(CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse::<usize>().ok());
        let content_type = match (view.operation, kind) {
            (Operation::Speech | Operation::Transcription | Operation::Translation, kind)
                if kind != Kind::Json =>
            {
                Some(file_type(head.headers.get(CONTENT_TYPE)))
            }
            _ => None,
        };

        let alias = (*call.plan.requested != *deployment.model).then_some(&*call.plan.requested);
        let wanted = Wanted { lane, place, alias, usage_added: body.usage_added };
        let opened = if content_type.is_some() || (view.stream && kind == Kind::Events) {
            let codec = match &content_type {
                Some(_) => Codec::Raw,
                None => self.codec(call, &wanted, provider, name),
            };
            let beginning = Beginning {
                headers,
                content_type,
                encoder: self.encoder(call, &lane),
                endpoint: Arc::clone(endpoint),
                admission,
                in_flight: Some(in_flight),
                patience: call.deadline,
            };
            let stream = Box::pin(beginning.read(upstream, codec)).await?;
            Opened::Stream(Box::new(stream))
        } else {
            let whole = read_whole(&mut upstream, length, WHOLE_BODY_MAX, name, total).await?;
            upstream.release().await;
            let (answer, usage) = self.whole(whole, call, &wanted, endpoint, name)?;
            admission.settle(usage.map(|usage| usage.total_tokens()));
            let mut encoder = self.encoder(call, &lane);
            if view.stream {
                // A provider answered whole although a stream was asked for.
                let events = replay(&answer, call, &lane, name)?;
                let beginning = Beginning {
                    headers,
                    content_type: None,
                    encoder,
                    endpoint: Arc::clone(endpoint),
                    admission,
                    in_flight: None,
                    patience: call.deadline,
                };
                Opened::Stream(Box::new(beginning.of_events(events, usage)))
            } else {
                let body = encoded(answer, view, &lane, encoder.as_mut(), name)?;
                let kept = encoder.as_ref().and_then(|encoder| encoder.response());
                let kept = kept.map(Bytes::copy_from_slice);
                Opened::Whole(Box::new(WholeAnswer {
                    headers,
                    body,
                    usage,
                    kept,
                    is_native: encoder.is_none(),
                }))
            }
        };
        endpoint.cooldown.succeeded();
        let answered = self.clock.now();
        endpoint.traffic.answered(
            view.stream,
            answered.saturating_duration_since(now),
            answered.saturating_duration_since(self.started),
        );
        Ok(opened)
    }

    /// The body for one provider.
    fn body(
        &self,
        call: &Call,
        lane: &Lane,
        deployment: &Deployment,
        endpoint: &Endpoint,
    ) -> Result<UpstreamBody, Fault> {
        let view = &*call.view;
        let (body, object) = match lane.translated {
            true => call.translated.of(view, call.history.as_deref())?,
            false => match &call.expanded {
                // A provider that does not know what the request goes on from is told all of it.
                Some((body, object)) if call.prefers.as_ref() != Some(&deployment.id) => {
                    (body, object)
                }
                _ => (&view.body, &view.object),
            },
        };
        let target = Target {
            model: deployment.model.to_string(),
            drop_params: endpoint.drop_params,
            max_output_tokens: deployment.max_output_tokens,
        };
        let form = match view.form.as_deref() {
            Some(form) => Some(Form {
                content_type: form.content_type.clone(),
                bytes: form.bytes.clone(),
                model: form.model.clone().ok_or_else(no_model_in_form)?,
            }),
            None => None,
        };
        let provider_call = ProviderCall {
            operation: lane.operation,
            dialect: lane.dialect,
            body,
            object,
            stream: view.stream,
            translated: lane.translated,
            form: form.as_ref(),
            betas: call.betas.as_deref(),
        };
        endpoint.provider.request(&provider_call, &target).map_err(Fault::request)
    }

    fn asked(&self, call: &Call, lane: &Lane) -> Asked {
        Asked {
            model: call.plan.requested.to_string(),
            // Every encoder needs usage.
            include_usage: call.view.include_usage || lane.translated,
            created: self.clock.unix().as_secs(),
            nonce: random::next(),
        }
    }

    /// What reads a provider's stream.
    fn codec(
        &self,
        call: &Call,
        wanted: &Wanted<'_>,
        provider: &'static dyn Provider,
        name: &'static str,
    ) -> Codec {
        match provider.decoder(&wanted.place, self.asked(call, &wanted.lane)) {
            Some(decoder) => Codec::Decode { decoder, name, ended: false, events: 0 },
            None => Codec::Tap {
                tap: client::tap(wanted.lane.dialect, wanted.usage_added, wanted.alias),
                provider,
            },
        }
    }

    /// What puts an answer into the client's dialect, where the lane's is another.
    pub(super) fn encoder(&self, call: &Call, lane: &Lane) -> Option<Box<dyn Encoder>> {
        if !lane.translated {
            return None;
        }
        let id = call.id.clone().unwrap_or_else(random::unguessable);
        let asked = client::Asked {
            operation: call.view.operation,
            model: &call.plan.requested,
            stream: call.view.stream,
            body: &call.view.body,
            id: &id,
            created: self.clock.unix().as_secs(),
        };
        client::encoder(call.view.dialect, &asked)
    }

    /// Puts a whole answer into the lane's dialect and reads its usage.
    fn whole(
        &self,
        whole: Bytes,
        call: &Call,
        wanted: &Wanted<'_>,
        endpoint: &Endpoint,
        name: &'static str,
    ) -> Result<(Bytes, Option<Usage>), Fault> {
        let whole = endpoint.scrub(whole);
        if is_error(&whole) {
            // The status line said 200: what the error is worth stands in it, if anywhere.
            let status = StatusCode::INTERNAL_SERVER_ERROR.as_u16();
            return Err(Fault::status(name, endpoint.provider.error(status, &whole), None));
        }
        let lane = &wanted.lane;
        if let Some(mut decoder) = endpoint.provider.decoder(&wanted.place, self.asked(call, lane))
        {
            let mut answer = decoder.whole(&whole).map_err(|error| Fault::decode(name, error))?;
            // Decoders make numbers; what the client wants to have of them, it says here.
            let view = &call.view;
            if lane.operation == Operation::Embeddings
                && view.object.str(&view.body, "encoding_format").as_deref() == Some("base64")
            {
                answer = embeddings::to_base64(&answer).unwrap_or(answer);
            }
            return Ok((answer.into(), decoder.usage()));
        }
        let trimmed = whole.trim_ascii();
        if !trimmed.starts_with(b"{") || !trimmed.ends_with(b"}") {
            return Err(Fault::broken(name, "The provider's answer is not a JSON object."));
        }
        let usage = client::usage_of_body(lane.dialect, lane.operation, &whole);
        // An encoder writes the client's name of the model itself.
        let answer = match wanted.alias.filter(|_| !lane.translated) {
            Some(alias) => openai::rename_model(&whole, alias),
            None => whole,
        };
        Ok((answer, usage))
    }

    /// Opens a connection and writes the request.
    async fn send(&self, sending: &Sending<'_>) -> Result<Upstream, Fault> {
        let Sending { endpoint, name, deadline, total, body, .. } = *sending;
        let now = self.clock.now();
        let peers = endpoint
            .peers(now)
            .await
            .map_err(|error| Fault::connect(name, format!("name lookup: {error}")))?;
        let token = match endpoint.needs_token() {
            true => Box::pin(endpoint.token.get(endpoint, &self.pool, &self.clock)).await?,
            false => None,
        };
        let mut last = None;
        for peer in peers.iter() {
            match Upstream::connect(&self.pool, Arc::clone(peer), name, deadline, total).await {
                Ok(mut upstream) => {
                    let head = endpoint.head(sending, token.as_ref(), &self.clock)?;
                    match upstream.write(&head, body).await {
                        // A pooled connection may just have been closed.
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

/// One request on its way out.
pub(super) struct Sending<'a> {
    endpoint: &'a Arc<Endpoint>,
    pub(super) place: Place<'a>,
    pub(super) body: &'a UpstreamBody,
    name: &'static str,
    deadline: Instant,
    total: Duration,
    /// The span that this is, for whoever is told of it.
    pub(super) traceparent: Option<&'a HeaderValue>,
}

/// What a provider says its answer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Json,
    /// Server-sent events, or Amazon's binary ones.
    Events,
    Other,
}

impl Kind {
    fn of(content_type: Option<&HeaderValue>) -> Kind {
        // Nothing said is JSON, as ever.
        let Some(value) = content_type else { return Kind::Json };
        let value = value.as_bytes();
        let is = |kind: &[u8]| {
            value.get(..kind.len()).is_some_and(|start| start.eq_ignore_ascii_case(kind))
        };
        if is(b"text/event-stream") || is(b"application/vnd.amazon.eventstream") {
            Kind::Events
        } else if is(b"application/json") {
            Kind::Json
        } else {
            Kind::Other
        }
    }
}

/// The type of an answer that is a file, as the client is told: only what cannot run in a browser.
fn file_type(content_type: Option<&HeaderValue>) -> HeaderValue {
    const SAFE: [&str; 5] =
        ["audio/", "text/plain", "text/vtt", "text/event-stream", "application/x-subrip"];
    let said = content_type.and_then(|value| value.to_str().ok()).unwrap_or_default();
    match SAFE.iter().any(|safe| said.to_ascii_lowercase().starts_with(safe)) {
        true => content_type.cloned(),
        false => None,
    }
    .unwrap_or(HeaderValue::from_static("application/octet-stream"))
}

/// Reads a body whole.
pub(super) async fn read_whole(
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

/// Whether a body is compressed, which nobody has asked for.
fn is_compressed(headers: &HeaderMap) -> bool {
    headers
        .get_all(CONTENT_ENCODING)
        .iter()
        .any(|coding| !coding.as_bytes().eq_ignore_ascii_case(b"identity"))
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
    let is_compressed = upstream.response_header().is_some_and(|head| is_compressed(head.headers));
    let body = read_whole(&mut upstream, None, ERROR_BODY_MAX, name, ERROR_BODY_WAIT).await;
    let body = match body {
        Ok(_) if is_compressed => Bytes::new(),
        Ok(body) => {
            upstream.release().await;
            body
        }
        Err(_) => Bytes::new(),
    };
    let retry_after = retry_after.or_else(|| endpoint.provider.retry_after(&body));
    let error = endpoint.provider.error(status, &endpoint.scrub(body));
    Fault::status(name, error, retry_after)
}

/// Whether a body is nothing but an error, as some providers send it with status 200.
fn is_error(body: &[u8]) -> bool {
    const ANSWERS: [&str; 8] =
        ["choices", "output", "candidates", "content", "data", "results", "object", "id"];
    // What is larger is an answer, and not worth to be read twice.
    if body.len() > ERROR_BODY_MAX || memmem::find(body, b"\"error\"").is_none() {
        return false;
    }
    let Ok(object) = scan::scan(body, &scan::Limits::default()) else { return false };
    let error = object.raw(body, "error").unwrap_or(b"null");
    !matches!(error, b"null" | b"false" | b"\"\"" | b"{}")
        && ANSWERS.iter().all(|name| object.get(body, name).is_none())
}

/// The stream a client asked for, made of an answer that came whole.
fn replay(whole: &Bytes, call: &Call, lane: &Lane, name: &'static str) -> Result<Bytes, Fault> {
    if lane.dialect != Dialect::OpenAi {
        return Err(Fault::broken(name, "The provider sent no stream although one was asked for."));
    }
    openai::events_from_completion(whole, call.view.include_usage || lane.translated)
        .map(Bytes::from)
        .ok_or_else(|| Fault::broken(name, "The provider's answer is not a completion."))
}

/// `retry-after` in seconds, as providers send it, or OpenAI's `retry-after-ms`.
pub(super) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
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
pub(super) fn passed_headers(
    headers: &HeaderMap,
    endpoint: &Endpoint,
) -> Vec<(HeaderName, HeaderValue)> {
    const VALUE_BYTES_MAX: usize = 256;
    let mut passed = Vec::new();
    for (name, value) in headers {
        // Most begin otherwise (`content-…`, `date`, `server`) and need no look-up.
        if matches!(name.as_str().as_bytes().first(), Some(b'a' | b'o' | b'r' | b'x'))
            && let Some(prefixed) = PASSED.get(name.as_str())
            && value.len() <= VALUE_BYTES_MAX
            && !endpoint.echoes_secret(value.as_bytes())
        {
            endpoint.cooldown.tally().note(name.as_str(), value.to_str().unwrap_or_default());
            passed.push((prefixed.clone(), value.clone()));
        }
    }
    passed
}
