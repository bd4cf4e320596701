//! What is stored at a provider in OpenAI's way: files, uploads, batches and fine-tuning jobs. They
//! are carried there and back as they are, with nothing buffered, so that a file may have any size.
//!
//! Which account they are in, the request says: by a model (`x-litellm-model`, `?model=`), whose
//! group's first deployment it is, or by a provider. Who says nothing gets the config's first entry
//! of OpenAI, else of Azure, else of whoever stores in OpenAI's way.
//!
//! What is stored belongs to the provider's account. Callers who reach the same account reach each
//! other's objects; a key that is restricted to some models reaches the accounts of those alone.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{
    ACCEPT, ACCEPT_RANGES, CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_ENCODING, CONTENT_LENGTH,
    CONTENT_RANGE, CONTENT_TYPE, ETAG, EXPECT, IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH,
    IF_RANGE, LAST_MODIFIED, RANGE, RETRY_AFTER, TRANSFER_ENCODING, X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderName, HeaderValue, Method, Version};
use pingora_core::protocols::http::ServerSession;
use pingora_core::protocols::http::v1::client::HttpSession as Http1Session;
use pingora_error::{Error, ErrorType, OrErr, Result};
use pingora_http::{RequestHeader, ResponseHeader};
use tokio::time::timeout;
use tollway_filter_api::ctx::Passage;
use tollway_filter_api::{Outcome, Reject, Rejection, RequestCtx, RequestHead, ResponseHead};
use tollway_filters::model_alias;
use tollway_wire::price::PicoDollars;

use crate::batches::{self, Sight};
use crate::early::{linger, refuse};
use crate::exchange::{Endpoint, Line, final_head, no_answer};
use crate::percent::percent_decoded;
use crate::scrub::Scrub;
use crate::state::{Gateway, Generation};
use crate::{model_call, named, wishes};

/// How long an answer is waited for that came before the request was taken whole.
const EARLY_ANSWER: Duration = Duration::from_millis(500);
/// The headers of a client's that a provider gets. All others are about the connection, or about
/// who the client is.
const ASKED: [HeaderName; 11] = [
    ACCEPT,
    CONTENT_TYPE,
    CONTENT_ENCODING,
    IF_MATCH,
    IF_MODIFIED_SINCE,
    IF_NONE_MATCH,
    IF_RANGE,
    RANGE,
    HeaderName::from_static("idempotency-key"),
    HeaderName::from_static("openai-beta"),
    HeaderName::from_static("x-ms-client-request-id"),
];
/// The headers of an answer that the client gets as they are, besides those with a prefix.
const ANSWERED: [HeaderName; 8] = [
    ACCEPT_RANGES,
    CACHE_CONTROL,
    CONTENT_DISPOSITION,
    CONTENT_LENGTH,
    CONTENT_RANGE,
    ETAG,
    LAST_MODIFIED,
    RETRY_AFTER,
];
/// What names a model, and what a provider: in the query, then as headers.
const MODEL: [&str; 2] = ["model", "target_model_names"];
const PROVIDER: [&str; 2] = ["provider", "custom_llm_provider"];
const MODEL_HEADER: &str = "x-litellm-model";
const PROVIDER_HEADERS: [&str; 3] = ["custom-llm-provider", "custom_llm_provider", "provider"];

/// Says what a request is. Of one that begins a batch the head has to say who pays for it: nobody reads
/// its body.
pub(crate) fn arrive(session: &ServerSession, ctx: &mut RequestCtx) {
    let passage = passage(session.req_header());
    if passage.is_billed_later {
        ctx.end_user = model_call::end_user_of_head(session, ctx);
        ctx.tags = wishes::tags_of_head(session, None);
    }
    ctx.passage = Some(Box::new(passage));
}

/// What the ledger is told of a request: LiteLLM's name for it. It costs nothing: a batch is billed when
/// it has ended (`batches`).
fn passage(head: &RequestHeader) -> Passage {
    let path = head.uri.path();
    let mut segments =
        path.strip_prefix("/v1").unwrap_or(path).split('/').filter(|s| !s.is_empty());
    let kind = segments.next().unwrap_or_default();
    // `/fine_tuning/jobs`.
    let rest = usize::from(kind == "fine_tuning");
    let mut rest = segments.skip(rest);
    let place = (rest.next().is_some(), rest.next());
    let method = &head.method;
    let call_type = match (kind, place) {
        ("files", (false, _)) if method == Method::POST => "acreate_file",
        ("files", (false, _)) => "afile_list",
        ("files", (true, Some(_))) => "afile_content",
        ("files", (true, None)) if method == Method::DELETE => "afile_delete",
        ("files", (true, None)) => "afile_retrieve",
        ("batches", (false, _)) if method == Method::POST => "acreate_batch",
        ("batches", (false, _)) => "alist_batches",
        ("batches", (true, Some(_))) => "acancel_batch",
        ("batches", (true, None)) => "aretrieve_batch",
        ("fine_tuning", (false, _)) if method == Method::POST => "acreate_fine_tuning_job",
        ("fine_tuning", (false, _)) => "alist_fine_tuning_jobs",
        ("fine_tuning", (true, Some("cancel"))) => "acancel_fine_tuning_job",
        ("fine_tuning", (true, _)) => "aretrieve_fine_tuning_job",
        _ => "pass_through_endpoint",
    };
    Passage {
        call_type,
        provider: "",
        api_base: Arc::from(""),
        name: Arc::from(""),
        cost: PicoDollars::ZERO,
        is_billed_later: call_type == "acreate_batch",
    }
}

/// Whether a form's field of this name says which account is meant.
pub(crate) fn is_account(field: &str) -> bool {
    MODEL.contains(&field) || PROVIDER.contains(&field)
}

/// Whether a request's head says which account is meant.
pub(crate) fn names_account(head: &RequestHead) -> bool {
    let query = head.uri.query().unwrap_or_default();
    let in_query = |names: &[&str]| named::of_query(query, names).any(|name| !name.is_empty());
    let mut headers = PROVIDER_HEADERS.iter().chain([&MODEL_HEADER]);
    in_query(&MODEL) || in_query(&PROVIDER) || headers.any(|name| head.headers.contains_key(*name))
}

/// Serves a request for something stored. `read` is what has been read of its body, if anybody has
/// looked at it.
pub(crate) async fn serve(
    session: &mut ServerSession,
    gateway: &Gateway,
    generation: &Generation,
    ctx: &mut RequestCtx,
    read: Option<Bytes>,
) -> Result<Outcome> {
    let sight = batches::sight(session.req_header());
    if sight == Some(Sight::Begun) {
        // Its key and token may say more, and without a filter `budget` nobody has read them.
        ctx.end_user = model_call::end_user_of_head(session, ctx);
        ctx.tags = wishes::tags_of_head(session, ctx.identity.as_deref());
    }
    let opened = Box::pin(open(session, gateway, generation, ctx)).await;
    let (Account { endpoint, group }, line) = match opened {
        Ok(opened) => opened,
        Err(reject) => return refuse(session, generation, ctx, reject).await,
    };
    if let Some(passage) = &mut ctx.passage {
        passage.provider = endpoint.provider.name();
        passage.api_base = endpoint.api_base().into();
    }
    let secrets = endpoint.secrets(&line.head);
    let Line { session: mut upstream, head } = line;
    let head = match request_head(session, head, read.is_some()) {
        Ok(head) => head,
        Err(error) => {
            let reject = Reject::internal("The request cannot be passed on.", error);
            return refuse(session, generation, ctx, reject).await;
        }
    };
    ctx.report.upstream_started = Some(gateway.clock.now());
    // What begins a batch is heard out, whoever leaves: it is billed.
    let is_heard_out = sight == Some(Sight::Begun);
    match Box::pin(ask(session, &mut upstream, head, &endpoint, (read, is_heard_out))).await {
        Ok(()) => {}
        Err(Broken::Client(error)) => return Err(error),
        Err(Broken::Upstream(reject)) => return refuse(session, generation, ctx, reject).await,
    }
    ctx.report.first_byte = Some(gateway.clock.now());
    let mut looked_at = Bytes::new();
    if let Some(sight) = sight {
        let answer = (&mut upstream, &endpoint);
        let looked = batches::look(gateway, generation, ctx, answer, (sight, group));
        match Box::pin(looked).await {
            Ok(read) => looked_at = read,
            Err(error) => return refuse(session, generation, ctx, broken(error)).await,
        }
    }
    let answered = answer(session, &mut upstream, generation, ctx, &endpoint, (secrets, looked_at));
    let result = Box::pin(answered).await;
    ctx.report.upstream_ended = Some(gateway.clock.now());
    result
}

/// Whose account is meant.
struct Account {
    endpoint: Arc<Endpoint>,
    /// The model group that was named, if one was.
    group: Option<Arc<str>>,
}

/// Finds out where it goes, and opens a connection there.
async fn open(
    session: &mut ServerSession,
    gateway: &Gateway,
    generation: &Generation,
    ctx: &mut RequestCtx,
) -> Result<(Account, Line), Rejection> {
    if session.is_upgrade_req() {
        return Err(Reject::invalid_request("This path cannot be upgraded."));
    }
    let path = object_path(session.req_header().uri.path())?.to_owned();
    let account = choose(session, generation, ctx).await?;
    let endpoint = &account.endpoint;
    let Some(mut path) = endpoint.stored_path(&path) else {
        let message = format!("{} stores nothing in OpenAI's way.", endpoint.provider.name());
        return Err(Reject::invalid_request(message).with_code("unsupported_provider"));
    };
    for pair in passed_query(session.req_header().uri.query().unwrap_or_default()) {
        // Ours, where the provider has versions, is the config's.
        if path.contains("?api-version=") && pair.starts_with("api-version=") {
            continue;
        }
        path.push(if path.contains('?') { '&' } else { '?' });
        path.push_str(pair);
    }
    let method = session.req_header().method.clone();
    let line = gateway.exchange.line(endpoint, method, &path).await?;
    Ok((account, line))
}

/// The path in OpenAI's words. What would lead anywhere else at the provider is refused: it is
/// reached with our credentials.
fn object_path(path: &str) -> Result<&str, Rejection> {
    let bare = path.strip_prefix("/v1").unwrap_or(path);
    let is_name = |segment: &str| {
        let name = percent_decoded(segment);
        let strange = |c: char| c.is_control() || matches!(c, '/' | '\\' | '%' | '?' | '#' | ';');
        !name.is_empty() && name != "." && name != ".." && !name.contains(strange)
    };
    let whole = bare.strip_suffix('/').unwrap_or(bare);
    match whole.split('/').skip(1).all(is_name) {
        true => Ok(whole),
        false => {
            let message = "This path is not that of a stored object.";
            Err(Reject::invalid_request(message).with_code("invalid_path"))
        }
    }
}

/// The members of a query that are not for us.
fn passed_query(query: &str) -> impl Iterator<Item = &str> {
    query.split('&').filter(|pair| {
        let name = pair.split('=').next().unwrap_or_default();
        !pair.is_empty() && !MODEL.contains(&name) && !PROVIDER.contains(&name)
    })
}

/// Which account is meant.
async fn choose(
    session: &ServerSession,
    generation: &Generation,
    ctx: &mut RequestCtx,
) -> Result<Account, Rejection> {
    let head = session.req_header();
    let query = head.uri.query().unwrap_or_default();
    let header = |name: &str| {
        let value = head.headers.get(name)?.to_str().ok()?.trim();
        (!value.is_empty()).then(|| value.to_owned())
    };
    let filled = |name: &String| !name.is_empty();
    let model = header(MODEL_HEADER).or_else(|| named::of_query(query, &MODEL).find(filled));
    if let Some(model) = model {
        return of_model(session, generation, ctx, &model).await;
    }
    if ctx
        .identity
        .as_deref()
        .is_some_and(|key| !model_alias::may_all(key, &*generation.config.keys))
    {
        let message = "This key is restricted to some models, and has to name one of them to say \
                       whose account is meant: by the header x-litellm-model, or by `model` in the \
                       query.";
        return Err(Reject::new(403, "key_model_access_denied", message)
            .with_param("model")
            .with_code("model_required"));
    }
    let provider = named::of_query(query, &PROVIDER).find(filled);
    let provider = provider.or_else(|| PROVIDER_HEADERS.iter().find_map(|name| header(name)));
    let of = |endpoint: &Arc<Endpoint>| Account { endpoint: Arc::clone(endpoint), group: None };
    let first = |name: &str| {
        generation.endpoints.iter().find(|endpoint| endpoint.provider.name() == name).map(of)
    };
    if let Some(provider) = provider {
        return first(&provider).ok_or_else(|| {
            let shown: String = provider.chars().filter(|c| !c.is_control()).take(64).collect();
            let message = format!("No model of the provider '{shown}' is configured here.");
            Reject::invalid_request(message).with_param("provider").with_code("unknown_provider")
        });
    }
    let stores = |it: &&Arc<Endpoint>| it.stored_path("/files").is_some();
    let any = || generation.endpoints.iter().find(stores).map(of);
    first("openai").or_else(|| first("azure")).or_else(any).ok_or_else(|| {
        let message = "No provider is configured here that stores files, batches or jobs in \
                       OpenAI's way.";
        Reject::new(404, "invalid_request_error", message).with_code("no_provider")
    })
}

/// The account of a model: its first deployment's, so that it is always the same one.
async fn of_model(
    session: &ServerSession,
    generation: &Generation,
    ctx: &mut RequestCtx,
    model: &str,
) -> Result<Account, Rejection> {
    if model.contains(',') {
        let message = "Several models are named: what is stored goes to the account of one.";
        return Err(Reject::invalid_request(message).with_param("model"));
    }
    named::plan(session, generation, ctx, model).await?;
    // It is no call of the model: it has no tokens, and is nothing to fall back from.
    ctx.view = None;
    let group = ctx.plan.take().map(|plan| plan.group);
    let deployments = group.iter().flat_map(|group| &group.deployments);
    let mut endpoints = deployments.map(|deployment| &generation.endpoints[deployment.entry]);
    let stores = |endpoint: &&Arc<Endpoint>| endpoint.stored_path("/files").is_some();
    let endpoint = endpoints.find(stores).cloned();
    let group = group.as_ref().map(|group| Arc::clone(&group.name));
    endpoint.map(|endpoint| Account { endpoint, group }).ok_or_else(|| {
        let message = "The provider of this model stores nothing in OpenAI's way.";
        Reject::invalid_request(message).with_param("model").with_code("unsupported_provider")
    })
}

/// Adds what the client says about its request to the head. `is_read` is whether some of its body, or
/// all, has been read.
fn request_head(
    session: &mut ServerSession,
    mut head: RequestHeader,
    is_read: bool,
) -> Result<RequestHeader> {
    let has_body = is_read || !session.is_body_empty() && !session.is_body_done();
    let asked = session.req_header();
    for name in ASKED {
        if let Some(value) = asked.headers.get(&name) {
            head.insert_header(name, value.clone())?;
        }
    }
    match asked.headers.get(CONTENT_LENGTH) {
        Some(length) => head.insert_header(CONTENT_LENGTH, length.clone())?,
        None if has_body => {
            head.insert_header(TRANSFER_ENCODING, HeaderValue::from_static("chunked"))?;
        }
        None if matches!(head.method, Method::POST | Method::PUT | Method::PATCH) => {
            head.insert_header(CONTENT_LENGTH, HeaderValue::from_static("0"))?;
        }
        None => {}
    }
    Ok(head)
}

/// Whose connection broke.
enum Broken {
    Client(Box<Error>),
    Upstream(Rejection),
}

fn lost(error: Box<Error>) -> Broken {
    Broken::Upstream(broken(error))
}

fn broken(error: Box<Error>) -> Rejection {
    let message = "litellm.APIConnectionError: The provider could not be reached.";
    let mut reject = Reject::new(502, "internal_server_error", message);
    reject.code = Some("upstream_error".into());
    reject.source = Some(error.to_string().into());
    reject
}

fn too_slow(what: &str, after: Duration) -> Rejection {
    let message = format!("Request timed out: {what} within {:.1} s.", after.as_secs_f64());
    Reject::new(408, "invalid_request_error", message).with_code("timeout")
}

/// Sends the request, each piece of its body as it comes, until the head of an answer is there: also
/// where the client leaves meanwhile, if the answer is to be heard out.
async fn ask(
    session: &mut ServerSession,
    upstream: &mut Http1Session,
    head: RequestHeader,
    endpoint: &Endpoint,
    (read, is_heard_out): (Option<Bytes>, bool),
) -> Result<(), Broken> {
    let idle = endpoint.deadlines.idle;
    upstream.write_request_header(Box::new(head)).await.map_err(lost)?;
    // Who has sent something of it waits no more.
    let waits = session.req_header().headers.get(EXPECT).filter(|_| read.is_none());
    if let Some(bytes) = read {
        let written = upstream.write_body(&bytes).await;
        if let Err(error) = written {
            let said = timeout(EARLY_ANSWER, final_head(upstream)).await;
            return if matches!(said, Ok(Ok(()))) { Ok(()) } else { Err(lost(error)) };
        }
    }
    if waits.is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue")) {
        session.write_continue_response().await.map_err(Broken::Client)?;
    }
    session.set_read_timeout(Some(idle));
    while !session.is_body_done() {
        let read = tokio::select! {
            biased;
            // A provider may refuse what it has not read whole.
            head = final_head(upstream) => return head.map_err(lost),
            read = session.read_request_body() => read,
            () = tokio::time::sleep(idle) => {
                return Err(Broken::Upstream(too_slow("the body did not come", idle)));
            }
        };
        let written = match read {
            Ok(Some(bytes)) => upstream.write_body(&bytes).await,
            Ok(None) => break,
            Err(error) => return Err(Broken::Client(error)),
        };
        if let Err(error) = written {
            let said = timeout(EARLY_ANSWER, final_head(upstream)).await;
            return if matches!(said, Ok(Ok(()))) { Ok(()) } else { Err(lost(error)) };
        }
    }
    if let Err(error) = upstream.finish_body().await {
        let said = timeout(EARLY_ANSWER, final_head(upstream)).await;
        return if matches!(said, Ok(Ok(()))) { Ok(()) } else { Err(lost(error)) };
    }
    // What was uploaded may take its time to be stored.
    let wait = endpoint.deadlines.first_byte;
    tokio::select! {
        biased;
        head = timeout(wait, final_head(upstream)) => match head {
            Ok(head) => head.map_err(lost),
            Err(_) => Err(Broken::Upstream(too_slow("no answer", wait))),
        },
        gone = session.read_body_or_idle(true), if !is_heard_out => Err(Broken::Client(match gone {
            Err(error) => error,
            Ok(_) => Error::explain(ErrorType::ConnectionClosed, "the client left"),
        })),
    }
}

/// Passes the answer on.
async fn answer(
    session: &mut ServerSession,
    upstream: &mut Http1Session,
    generation: &Generation,
    ctx: &mut RequestCtx,
    endpoint: &Endpoint,
    (secrets, read): (Vec<Vec<u8>>, Bytes),
) -> Result<Outcome> {
    let said = upstream.resp_header().cloned().ok_or_else(no_answer)?;
    let status = said.status.as_u16();
    let is_redirect = (300..400).contains(&status) && status != 304;
    let is_packed =
        said.headers.get(CONTENT_ENCODING).is_some_and(|value| value.as_bytes() != b"identity");
    if is_redirect || is_packed || status < 200 {
        let message = "litellm.APIConnectionError: The provider's answer cannot be passed on.";
        let mut reject = Reject::new(502, "internal_server_error", message);
        reject.code = Some("upstream_error".into());
        reject.source = Some(format!("status {status}").into());
        return refuse(session, generation, ctx, reject).await;
    }
    let asked_whole = session.is_body_done();
    if !asked_whole {
        // The rest of the request would stand before the next one.
        session.set_keepalive(None);
    }
    let has_body = session.req_header().method != Method::HEAD && !matches!(status, 204 | 304);
    let headers = answer_headers(&said, endpoint, &secrets);
    let head = head_for_client(session, generation, ctx, status, headers, has_body)?;
    session.write_response_header(head).await?;

    if has_body {
        let scrub = Scrub::new(&secrets);
        let sent = &mut ctx.report.bytes_sent;
        relay(session, upstream, scrub, endpoint.deadlines.idle, (sent, read)).await?;
    }
    session.write_response_body(Bytes::new(), true).await?;
    if !asked_whole {
        linger(session).await;
    }
    Ok(Outcome::Done)
}

/// Passes the answer's body on, each piece as it comes, after what was read of it before. `idle` is
/// how long either side may take for one.
async fn relay(
    session: &mut ServerSession,
    upstream: &mut Http1Session,
    mut scrub: Scrub,
    idle: Duration,
    (sent, before): (&mut u64, Bytes),
) -> Result<()> {
    upstream.read_timeout = Some(idle);
    let asked_whole = session.is_body_done();
    let mut before = Some(before).filter(|before| !before.is_empty());
    loop {
        let read = tokio::select! {
            biased;
            before = std::future::ready(before.take()), if before.is_some() => before,
            read = upstream.read_body_bytes() => read.map_err(Error::into_up)?,
            gone = session.read_body_or_idle(true), if asked_whole => {
                gone?;
                return Error::e_explain(ErrorType::ConnectionClosed, "the client left");
            }
        };
        let end = read.is_none();
        let clean = scrub.piece(read.unwrap_or_default(), end);
        *sent += clean.len() as u64;
        if !clean.is_empty() {
            let write = timeout(idle, session.write_response_body(clean, false));
            write.await.or_err(ErrorType::WriteTimedout, "the client reads nothing")??;
        }
        if end {
            return Ok(());
        }
    }
}

/// What of the provider's head the client gets.
fn answer_headers(
    said: &ResponseHeader,
    endpoint: &Endpoint,
    secrets: &[Vec<u8>],
) -> Vec<(HeaderName, HeaderValue)> {
    let holds_secret = |value: &HeaderValue| {
        secrets.iter().any(|secret| memchr::memmem::find(value.as_bytes(), secret).is_some())
    };
    let mut headers = endpoint.passed(&said.headers);
    for name in ANSWERED {
        if let Some(value) = said.headers.get(&name) {
            headers.push((name, value.clone()));
        }
    }
    headers.push((CONTENT_TYPE, safe_type(said.headers.get(CONTENT_TYPE))));
    headers.push((X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")));
    headers.retain(|(_, value)| !holds_secret(value));
    headers
}

/// A file's type, as the client is told: only what cannot run in a browser, because anybody who may
/// upload chose it.
pub(crate) fn safe_type(said: Option<&HeaderValue>) -> HeaderValue {
    const SAFE: [&str; 9] = [
        "application/json",
        "application/jsonl",
        "application/x-ndjson",
        "application/octet-stream",
        "application/pdf",
        "application/zip",
        "audio/",
        "text/event-stream",
        "text/plain",
    ];
    let text = said.and_then(|value| value.to_str().ok()).unwrap_or_default().to_ascii_lowercase();
    let is_safe = SAFE.iter().any(|safe| text.starts_with(safe));
    let safe = said.filter(|_| is_safe).cloned();
    safe.unwrap_or(HeaderValue::from_static("application/octet-stream"))
}

/// The answer's head, with what filters add to it.
pub(crate) fn head_for_client(
    session: &ServerSession,
    generation: &Generation,
    ctx: &mut RequestCtx,
    status: u16,
    headers: Vec<(HeaderName, HeaderValue)>,
    has_body: bool,
) -> Result<Box<ResponseHeader>> {
    let mut response = ResponseHead { status, headers, streaming: false };
    generation.chain.response(ctx, session.req_header(), &mut response);
    ctx.report.status = Some(response.status);
    let mut head = ResponseHeader::build(response.status, Some(response.headers.len() + 3))?;
    for (name, value) in response.headers {
        head.insert_header(name, value)?;
    }
    let is_framed = head.headers.contains_key(CONTENT_LENGTH);
    if has_body && !is_framed && session.req_header().version == Version::HTTP_11 {
        head.insert_header(TRANSFER_ENCODING, HeaderValue::from_static("chunked"))?;
    }
    Ok(Box::new(head))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_paths_of_objects_are_carried() {
        let check = |path: &str, expect: Option<&str>| {
            assert_eq!(object_path(path).ok(), expect, "{path}");
        };
        check("/v1/files", Some("/files"));
        check("/files/", Some("/files"));
        check("/v1/files/file-1/content", Some("/files/file-1/content"));
        check("/v1/files/file%3A1", Some("/files/file%3A1"));
        for wrong in [
            "/v1/files/../models",
            "/v1/files/%2e%2e/models",
            "/v1/files/.%2E/models",
            "/v1/files/a%2Fb",
            "/v1/files/a%5cb",
            "/v1/files/%252e%252e/models",
            "/v1/files//x",
            "/v1/files/./x",
            "/v1/files/..;/x",
            "/v1/files/a%0d%0ab",
        ] {
            check(wrong, None);
        }
    }

    #[test]
    fn what_names_an_account_is_not_passed_on() {
        let passed = |query| passed_query(query).collect::<Vec<_>>().join("&");
        assert_eq!(passed("model=a&limit=2&provider=b&after=f%20x&"), "limit=2&after=f%20x");
        assert_eq!(passed("target_model_names=a"), "");
    }

    #[test]
    fn files_that_could_run_in_a_browser_are_bytes() {
        let check = |said: &str, expect: &str| {
            let said = HeaderValue::from_str(said).expect("a type");
            assert_eq!(safe_type(Some(&said)), expect);
        };
        check("application/json; charset=utf-8", "application/json; charset=utf-8");
        check("text/html", "application/octet-stream");
        check("image/svg+xml", "application/octet-stream");
        assert_eq!(safe_type(None), "application/octet-stream");
    }
}
