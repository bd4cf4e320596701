//! Files over HTTP, in OpenAI's shape: which requests mean files that are kept here, and which go on
//! to a provider as ever.
//!
//! A file is ours by its id. An upload and a list are ours where they name no provider, neither by a
//! header nor in the query or the form, and their purpose is none of a provider's: `batch` and
//! `fine-tune` with what comes of them.

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use http::header::{
    CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_LENGTH, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderName, HeaderValue, Method};
use pingora_core::protocols::http::ServerSession;
use pingora_error::{Error, ErrorType, OrErr, Result};
use serde_json::{Map, Value, json};
use tokio::time::timeout;
use tollway_agent::definitions::refused_call;
use tollway_agent::request::read_json;
use tollway_agent::tools::files::{
    FileInfo, Files, FilesError, ID_PREFIX, Listed, NewFile, Wishes,
};
use tollway_filter_api::{Outcome, Reject, Rejection, RequestCtx};
use tollway_wire::form::{self, Early, Limits};

use super::route::Endpoint;
use super::{Access, caller, json_answer};
use crate::body::{self, BodyError};
use crate::early::{finish, refuse};
use crate::model_call::gone_error;
use crate::named;
use crate::percent::percent_decoded;
use crate::serve_request::wrong_method_of;
use crate::state::{Gateway, Generation};
use crate::stored;

/// What a form may have beside its file.
const FORM_BYTES: u64 = 64 << 10;
/// What may be said of what is wanted of a file.
const WISHES_BYTES_MAX: usize = 64 << 10;
/// How many files are in a list where nothing is said, and at most.
const LISTED: (usize, usize) = (1_000, 10_000);

/// What is wanted of files.
#[derive(Clone, Debug, PartialEq, Eq)]
enum FileRoute {
    /// `POST /files`, if its purpose is ours.
    Upload,
    /// `GET /files`
    List,
    /// `GET` and `DELETE /files/{id}`
    One(String),
    /// `GET /files/{id}/content`
    Content(String),
    /// `POST /files/{id}/analyze`
    Analyze(String),
    /// Something else about one of our files.
    Unknown,
}

/// All of them, also with `/v1` in front.
pub(crate) static ENDPOINTS: &[Endpoint<()>] = &[
    at("/files", &[Method::GET, Method::POST], &[Access::Caller; 2], "Lists and takes files."),
    at("/files/{id}", &[Method::GET, Method::DELETE], &[Access::Owner; 2], "A file."),
    at("/files/{id}/content", &[Method::GET], &[Access::Owner], "What is in a file."),
    at("/files/{id}/analyze", &[Method::POST], &[Access::Owner], "Looks into a file."),
];

const fn at<const N: usize>(
    pattern: &'static str,
    methods: &'static [Method; N],
    access: &'static [Access; N],
    about: &'static str,
) -> Endpoint<()> {
    Endpoint::new(pattern, methods, access, (), about)
}

impl FileRoute {
    /// The methods it takes.
    fn methods(&self) -> &'static [Method] {
        let at = match self {
            FileRoute::Upload | FileRoute::List => 0,
            FileRoute::One(_) => 1,
            FileRoute::Content(_) => 2,
            FileRoute::Analyze(_) => 3,
            FileRoute::Unknown => return &[],
        };
        ENDPOINTS[at].methods
    }
}

/// What becomes of a request.
enum Reply {
    Json(Value),
    Content(FileInfo, BoxStream<'static, Result<Bytes, FilesError>>),
}

/// Serves a request for something stored: here, or at a provider.
pub(crate) async fn serve(
    session: &mut ServerSession,
    gateway: &Gateway,
    generation: &Generation,
    ctx: &mut RequestCtx,
) -> Result<Outcome> {
    let files = gateway.agents.live().files.clone();
    let route = find(session.req_header());
    let (Some(files), Some(route)) = (files, route) else {
        return stored::serve(session, gateway, generation, ctx, None).await;
    };
    if let Some(passage) = &mut ctx.passage {
        passage.provider = "tollway";
    }
    if route == FileRoute::Upload {
        return upload(session, gateway, generation, ctx, &files).await;
    }
    let mut wishes = Bytes::new();
    if matches!(route, FileRoute::Analyze(_)) {
        let patience = generation.config.server.body_timeout;
        match body::read(session, WISHES_BYTES_MAX, patience, &gateway.body_memory).await {
            Ok((read, _)) => wishes = read,
            Err(BodyError::Rejected(reject)) => {
                return refuse(session, generation, ctx, reject).await;
            }
            Err(BodyError::Gone(error)) => return Err(error),
        }
    }
    let owner = caller(gateway, generation, ctx.identity.clone()).owner;
    let head = session.req_header();
    let method = head.method.clone();
    let query = head.uri.query().unwrap_or_default().to_owned();
    let asked = async {
        let reads = [Method::GET, Method::HEAD].contains(&method);
        match route {
            FileRoute::List if reads => list(&files, &owner, &query).await.map(Reply::Json),
            FileRoute::One(id) if reads => Ok(Reply::Json(files.info(&owner, &id).await?.view())),
            FileRoute::One(id) if method == Method::DELETE => {
                files.remove(&owner, &id).await?;
                Ok(Reply::Json(json!({"id": id, "object": "file", "deleted": true})))
            }
            FileRoute::Content(id) if reads => {
                let (info, content) = files.content(&owner, &id).await?;
                Ok(Reply::Content(info, content))
            }
            FileRoute::Analyze(id) if method == Method::POST => {
                analyze(&files, &owner, &id, &wishes).await.map(Reply::Json)
            }
            FileRoute::Unknown => {
                let message = "There is nothing of this name about a file.";
                Err(Reject::new(404, "invalid_request_error", message).with_code("not_found"))
            }
            route => Err(wrong_method_of(route.methods().iter().map(Method::as_str))),
        }
    };
    let reply = tokio::select! {
        biased;
        reply = asked => reply,
        gone = session.read_body_or_idle(true), if session.is_body_done() => {
            return Err(gone_error(gone));
        }
    };
    match reply {
        Ok(Reply::Json(value)) => finish(session, generation, ctx, Ok(json_answer(&value))).await,
        Ok(Reply::Content(info, content)) => {
            let idle = generation.config.server.body_timeout;
            send(session, generation, ctx, &info, content, idle).await
        }
        Err(reject) => refuse(session, generation, ctx, reject).await,
    }
}

/// What a request wants of our files; none, if it means a provider's. Of an upload only its form can
/// tell.
fn find(head: &http::request::Parts) -> Option<FileRoute> {
    let path = head.uri.path();
    let path = path.strip_prefix("/v1/").map_or(path, |_| &path[3..]);
    let rest = path.strip_suffix('/').unwrap_or(path).strip_prefix("/files")?;
    let mut pieces = rest.split('/');
    // What stands before the first slash.
    if !pieces.next()?.is_empty() {
        return None;
    }
    let Some(id) = pieces.next() else {
        if stored::names_account(head) {
            return None;
        }
        let query = head.uri.query().unwrap_or_default();
        return match head.method {
            Method::POST => Some(FileRoute::Upload),
            Method::GET | Method::HEAD => {
                let of_provider = named::of_query(query, &["purpose"]).any(|it| is_theirs(&it));
                (!of_provider).then_some(FileRoute::List)
            }
            _ => None,
        };
    };
    let id = percent_decoded(id);
    if !id.starts_with(ID_PREFIX) {
        return None;
    }
    Some(match (pieces.next(), pieces.next()) {
        (None, _) => FileRoute::One(id),
        (Some("content"), None) => FileRoute::Content(id),
        (Some("analyze"), None) => FileRoute::Analyze(id),
        _ => FileRoute::Unknown,
    })
}

/// Whether files with this purpose are for a provider to work with: `batch`, `fine-tune`, and their
/// results (`batch_output`, `fine-tune-results`).
fn is_theirs(purpose: &str) -> bool {
    purpose.starts_with("batch") || purpose.starts_with("fine-tune")
}

/// Takes a file, or finds out while it comes that it is for a provider.
async fn upload(
    session: &mut ServerSession,
    gateway: &Gateway,
    generation: &Generation,
    ctx: &mut RequestCtx,
    files: &Files,
) -> Result<Outcome> {
    let content_type = session.req_header().headers.get(CONTENT_TYPE);
    let content_type = content_type.and_then(|value| value.to_str().ok()).unwrap_or_default();
    let content_type = content_type.to_owned();
    let limits = Limits::default();
    let mut early = Early::new(&content_type);
    let mut meant_elsewhere = |body: &[u8]| {
        let Some(early) = &mut early else { return false };
        while let Some((name, value)) = early.next(body, &limits) {
            if names_provider(&name, &value) {
                return true;
            }
        }
        false
    };
    let max = usize::try_from(files.file_bytes_max().saturating_add(FORM_BYTES));
    let max = max.unwrap_or(usize::MAX);
    let patience = generation.config.server.body_timeout;
    let memory = &gateway.body_memory;
    let read = body::read_until(session, max, patience, memory, &mut meant_elsewhere).await;
    // What is held counts until the request is over.
    let (bytes, _held, is_elsewhere) = match read {
        Ok(read) => read,
        Err(BodyError::Rejected(mut reject)) => {
            if reject.status == 413 {
                let max = files.file_bytes_max();
                reject.message = format!(
                    "The file is too large: at most {max} bytes are kept here. If it is for a \
                     provider, name the provider, or send `purpose` before `file`."
                );
            }
            return refuse(session, generation, ctx, reject).await;
        }
        Err(BodyError::Gone(error)) => return Err(error),
    };
    if is_elsewhere {
        return stored::serve(session, gateway, generation, ctx, Some(bytes)).await;
    }
    let kept = match new_file(&content_type, &bytes, &limits) {
        Ok(new) => {
            drop(bytes);
            let owner = caller(gateway, generation, ctx.identity.clone()).owner;
            files.add(&owner, new).await.map_err(Rejection::from)
        }
        Err(reject) => Err(reject),
    };
    let answer = kept.map(|file| json_answer(&file.view()));
    finish(session, generation, ctx, answer).await
}

/// Whether a field of a form says that the file is for a provider.
fn names_provider(name: &str, value: &str) -> bool {
    match name {
        "purpose" => is_theirs(value),
        _ => !value.is_empty() && stored::is_account(name),
    }
}

/// The file in a form.
fn new_file(content_type: &str, body: &Bytes, limits: &Limits) -> Result<NewFile, Rejection> {
    let view = form::scan(content_type, body, limits).map_err(|error| {
        Reject::invalid_request(format!("The request's body cannot be read: {error}."))
            .with_code("invalid_form")
    })?;
    let fields: Map<String, Value> = serde_json::from_slice(&view.fields)
        .map_err(|error| Reject::internal("The form cannot be read.", error))?;
    let missing = |name: &str| {
        Reject::invalid_request(format!("Missing required parameter: '{name}'."))
            .with_param(name.to_owned())
    };
    let text = |name: &str| fields.get(name).and_then(Value::as_str);
    let purpose = text("purpose").ok_or_else(|| missing("purpose"))?.to_owned();
    let mut contents = view.files.into_iter().filter(|(name, _)| name == "file");
    let (Some((_, content)), None) = (contents.next(), contents.next()) else {
        return Err(missing("file"));
    };
    let name = fields.get("file").and_then(|file| file["filename"].as_str()).unwrap_or_default();
    let expires_after = match (text("expires_after[anchor]"), text("expires_after[seconds]")) {
        (None, None) => None,
        (Some("created_at"), Some(seconds)) => Some(seconds.parse().unwrap_or(0)),
        _ => {
            let message = "'expires_after' has an anchor, which is created_at, and seconds.";
            return Err(Reject::invalid_request(message).with_param("expires_after"));
        }
    };
    let name = match name.strip_prefix("UTF-8''") {
        Some(encoded) => percent_decoded(encoded),
        None => name.to_owned(),
    };
    Ok(NewFile { name, purpose, bytes: body.slice(content), expires_after })
}

async fn list(files: &Files, owner: &std::sync::Arc<str>, query: &str) -> Result<Value, Rejection> {
    let one = |name: &'static str| named::of_query(query, &[name][..]).next();
    let wrong = |name: &'static str, message: &str| {
        Reject::invalid_request(format!("'{name}' {message}.")).with_param(name)
    };
    let of = |name| {
        let value: Option<String> = one(name);
        value.filter(|value| !value.is_empty())
    };
    let limit = match of("limit") {
        None => LISTED.0,
        Some(limit) => match limit.parse() {
            Ok(limit) if (1..=LISTED.1).contains(&limit) => limit,
            _ => return Err(wrong("limit", "must be a number from 1 to 10000")),
        },
    };
    let is_latest_first = match of("order").as_deref() {
        None | Some("desc") => true,
        Some("asc") => false,
        Some(_) => return Err(wrong("order", "must be asc or desc")),
    };
    let (purpose, after) = (of("purpose"), of("after"));
    let listed =
        Listed { purpose: purpose.as_deref(), after: after.as_deref(), limit, is_latest_first };
    let (found, has_more) = files.list(owner, &listed).await?;
    Ok(json!({
        "object": "list",
        "data": found.iter().map(FileInfo::view).collect::<Vec<_>>(),
        "first_id": found.first().map(|file| &file.id),
        "last_id": found.last().map(|file| &file.id),
        "has_more": has_more,
    }))
}

async fn analyze(files: &Files, owner: &str, id: &str, body: &[u8]) -> Result<Value, Rejection> {
    let wishes: Wishes = if body.is_empty() { Wishes::default() } else { read_json(body)? };
    // Asked first, because that it is not there has a status of its own.
    files.info(owner, id).await?;
    let (info, analysis) =
        files.analyse(owner, id, &wishes).await.map_err(|error| refused_call(&error))?;
    Ok(json!({
        "object": "file.analysis",
        "file_id": info.id,
        "content_type": info.media_type,
        "kind": analysis.kind,
        "text": analysis.text,
        "data": analysis.data,
    }))
}

/// Sends a file, each piece as it comes.
async fn send(
    session: &mut ServerSession,
    generation: &Generation,
    ctx: &mut RequestCtx,
    info: &FileInfo,
    mut content: BoxStream<'static, Result<Bytes, FilesError>>,
    idle: std::time::Duration,
) -> Result<Outcome> {
    let media_type = HeaderValue::from_str(&info.media_type).ok();
    let headers: Vec<(HeaderName, HeaderValue)> = vec![
        (CONTENT_TYPE, stored::safe_type(media_type.as_ref())),
        (CONTENT_LENGTH, HeaderValue::from(info.bytes)),
        (CONTENT_DISPOSITION, disposition(&info.name)),
        (CACHE_CONTROL, HeaderValue::from_static("no-store")),
        (X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    ];
    let has_body = session.req_header().method != Method::HEAD;
    let head = stored::head_for_client(session, generation, ctx, 200, headers, has_body)?;
    session.write_response_header(head).await?;
    let watched = session.is_body_done();
    if !has_body {
        content = Box::pin(futures_util::stream::empty());
    }
    loop {
        let piece = tokio::select! {
            biased;
            piece = content.next() => piece,
            gone = session.read_body_or_idle(true), if watched => return Err(gone_error(gone)),
        };
        let Some(piece) = piece else { break };
        let piece = piece.or_err(ErrorType::ReadError, "a file that is kept cannot be read")?;
        ctx.report.bytes_sent += piece.len() as u64;
        timeout(idle, session.write_response_body(piece, false))
            .await
            .or_err(ErrorType::WriteTimedout, "the client reads nothing")
            .map_err(Error::into_down)??;
    }
    session.write_response_body(Bytes::new(), true).await?;
    Ok(Outcome::Done)
}

/// Says that a file is to be saved, and as what (RFC 6266).
fn disposition(name: &str) -> HeaderValue {
    let is_plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.~".contains(&b);
    let mut encoded = String::new();
    for byte in name.bytes() {
        match is_plain(byte) {
            true => encoded.push(char::from(byte)),
            false => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    let value = HeaderValue::from_str(&format!("attachment; filename*=UTF-8''{encoded}"));
    value.unwrap_or(HeaderValue::from_static("attachment"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_ours_by_their_id_or_their_purpose() {
        let route = |method: &str, path: &str, header: Option<&str>| {
            let mut request = http::Request::builder().method(method).uri(path);
            if let Some(name) = header {
                request = request.header(name, "openai");
            }
            find(&request.body(()).expect("a request").into_parts().0)
        };
        let id = || "file-tw1".to_owned();
        for (method, path, expect) in [
            ("POST", "/v1/files", Some(FileRoute::Upload)),
            ("POST", "/files/", Some(FileRoute::Upload)),
            ("POST", "/files?provider=openai", None),
            ("POST", "/files?model=gpt", None),
            ("GET", "/v1/files", Some(FileRoute::List)),
            ("GET", "/v1/files?purpose=user_data&limit=2", Some(FileRoute::List)),
            ("GET", "/v1/files?purpose=batch", None),
            ("GET", "/v1/files?purpose=fine-tune-results", None),
            ("GET", "/v1/files?custom_llm_provider=azure", None),
            ("GET", "/v1/files/file-tw1", Some(FileRoute::One(id()))),
            ("GET", "/v1/files/file%2Dtw1?provider=openai", Some(FileRoute::One(id()))),
            ("GET", "/files/file-tw1/content", Some(FileRoute::Content(id()))),
            ("POST", "/files/file-tw1/analyze", Some(FileRoute::Analyze(id()))),
            ("POST", "/files/file-tw1/analyze/x", Some(FileRoute::Unknown)),
            ("GET", "/v1/files/file-abc", None),
            ("POST", "/v1/files/file-abc/analyze", None),
            ("GET", "/v1/filesystem", None),
            ("GET", "/v1/batches", None),
            ("PUT", "/v1/files", None),
        ] {
            assert_eq!(route(method, path, None), expect, "{method} {path}");
        }
        for header in ["custom-llm-provider", "x-litellm-model", "provider"] {
            assert_eq!(route("POST", "/v1/files", Some(header)), None, "{header}");
        }
    }

    #[test]
    fn names_cannot_leave_their_header() {
        let check = |name: &str, expect: &str| assert_eq!(disposition(name), expect);
        check("a b.txt", "attachment; filename*=UTF-8''a%20b.txt");
        check("x\"; filename=\"y", "attachment; filename*=UTF-8''x%22%3B%20filename%3D%22y");
        check("naïve", "attachment; filename*=UTF-8''na%C3%AFve");
    }
}
