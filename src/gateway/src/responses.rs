//! The state of the Responses API: what a request goes on from, and what is kept of its answer.
//!
//! Every answer is kept, unless the client says `store: false`: as the response and the items that
//! went into it. A later request that names it gets those items put in front of its own, so that any
//! provider can go on. Where a provider has the API itself and made the response, it knows the id
//! too, and the request goes to that same deployment as it is.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use pingora_core::protocols::http::ServerSession;
use pingora_error::Result;
use serde_json::Value;
use tollway_filter_api::ledger::StoreError;
use tollway_filter_api::responses::StoredResponse;
use tollway_filter_api::{
    Answer, AnswerBody, KeyHash, Outcome, Reject, Rejection, RequestCtx, RequestView,
};
use tollway_store::responses::{Lost, Responses};
use tollway_wire::openai::response::ErrorObject;
use tollway_wire::operation::Dialect;
use tollway_wire::responses::{record, stored};
use tollway_wire::scan::{self, Limits, Object};
use tollway_wire::splice::Edits;

use crate::broadcast::Follower;
use crate::early::{finish, refuse};
use crate::model_call::gone_error;
use crate::percent::percent_decoded;
use crate::routes::{self, ResponseRoute};
use crate::state::{Gateway, Generation};
use crate::{background, respond};

/// The longest id that is looked for.
pub(crate) const ID_BYTES_MAX: usize = 256;
/// How many earlier responses one request may refer to.
const REFERENCES_MAX: usize = 16;
/// How often it is looked whether one that is made elsewhere has ended.
const LOOK_AGAIN: Duration = Duration::from_millis(500);
/// How long one that is given up elsewhere may take to say so.
const CANCEL_WAIT: Duration = Duration::from_secs(5);

/// What one request has to do with kept responses.
pub(crate) struct Turn {
    tenant: Option<KeyHash>,
    /// The items that came before.
    pub(crate) history: Option<Bytes>,
    /// The body with those items in it, for a provider that has the API but not that response.
    pub(crate) expanded: Option<(Bytes, Object)>,
    /// The deployment that knows the response by itself.
    pub(crate) deployment: Option<Arc<str>>,
    /// Whether the answer is to be kept.
    keeps: bool,
    /// The request's own items, with what came before.
    items: Bytes,
}

impl Turn {
    /// Reads a request of the Responses API. `id` is what ids are made of. The database may be asked,
    /// but only where the request names a response.
    ///
    /// # Errors
    /// When it goes on from a response that is not there, or is somebody else's.
    pub(crate) async fn read(
        view: &RequestView,
        tenant: Option<KeyHash>,
        responses: &Responses,
        id: &str,
    ) -> Result<Turn, Rejection> {
        let (object, body) = (&view.object, &view.body);
        let keeps = responses.are_kept() && object.bool(body, "store") != Some(false);
        let mut turn = Turn {
            tenant,
            history: None,
            expanded: None,
            deployment: None,
            keeps,
            items: Bytes::new(),
        };
        let mut history = Vec::new();
        if let Some(previous) = object.str(body, "previous_response_id") {
            let kept = find(responses, &previous, tenant)
                .await?
                .ok_or_else(|| reject(400, stored::previous_not_found(&shown(&previous))))?;
            history = stored::join_items(&kept.items, &stored::items_of_response(&kept.response));
            turn.deployment = kept.deployment.clone();
            turn.history = Some(history.clone().into());
        }
        let mut own = body.clone();
        let references = stored::references(body);
        if !references.is_empty() {
            let mut known = Vec::new();
            for id in references.iter().take(REFERENCES_MAX) {
                let kept = responses.get(id).await.map_err(unavailable)?;
                if let Some(kept) = kept.filter(|kept| kept.tenant == tenant) {
                    let items = stored::items_of_response(&kept.response);
                    known = stored::join_items(&known, &kept.items);
                    known = stored::join_items(&known, &items);
                }
            }
            if known.len() > 2 {
                own = stored::resolve(body, &known).into();
            }
        }
        if turn.history.is_some() || own != *body {
            turn.expanded = Some(expand(&own, &history)?);
        }
        if keeps {
            let items = stored::items_of_request(&own, id);
            turn.items = stored::join_items(&history, &items).into();
        }
        Ok(turn)
    }

    /// The id of the response, if the answer is to be kept at all.
    pub(crate) fn keeps(&self) -> bool {
        self.keeps
    }

    /// Keeps an answer. `deployment` is the one that knows it by the same id, if one does.
    pub(crate) fn keep(
        &self,
        responses: &Responses,
        response: &[u8],
        deployment: Option<Arc<str>>,
    ) {
        if !self.keeps {
            return;
        }
        let Ok(object) = scan::scan(response, &Limits::default()) else { return };
        let Some(id) = object.str(response, "id").filter(|id| id.len() <= ID_BYTES_MAX) else {
            return;
        };
        let made = Made { deployment, ..Made::default() };
        // What is lost is counted; the answer goes on.
        let _ = responses.keep(&id, self.stored(stored::without_credentials(response), made));
    }

    /// What is kept of an answer.
    pub(crate) fn stored(&self, response: Bytes, made: Made) -> StoredResponse {
        let (tenant, items) = (self.tenant, self.items.clone());
        let Made { deployment, original, events, is_open } = made;
        StoredResponse {
            tenant,
            deployment,
            original,
            response,
            items,
            events,
            is_open,
            expires_ms: 0,
        }
    }
}

/// How a response came to be.
#[derive(Clone, Default)]
pub(crate) struct Made {
    /// The deployment that knows it by the same id.
    pub(crate) deployment: Option<Arc<str>>,
    /// The deployment that knows it by another id, and that id.
    pub(crate) original: Option<(Arc<str>, Arc<str>)>,
    /// Its events, where a client may come back for them.
    pub(crate) events: Option<Bytes>,
    /// It is still being made.
    pub(crate) is_open: bool,
}

/// The body with what came before written out. Reasoning is left out: it is signed for the model
/// that did it.
fn expand(body: &Bytes, history: &[u8]) -> Result<(Bytes, Object), Rejection> {
    let malformed = |error: scan::ScanError| Reject::invalid_request(error.to_string());
    let object = scan::scan(body, &Limits::default()).map_err(malformed)?;
    let mut items: Vec<Value> = serde_json::from_slice(history).unwrap_or_default();
    items.retain(|item| item["type"] != "reasoning");
    let before = Value::Array(items).to_string().into_bytes();
    let own = match object.raw(body, "input") {
        Some(list) if list.starts_with(b"[") => list.to_vec(),
        Some(text) if text.starts_with(b"\"") => {
            [br#"[{"role":"user","content":"#, text, b"}]"].concat()
        }
        _ => b"[]".to_vec(),
    };
    let mut edits = Edits::new();
    edits.set("input", stored::join_items(&before, &own));
    edits.remove("previous_response_id");
    let body = edits.apply(body, &object);
    let object = scan::scan(&body, &Limits::default()).map_err(malformed)?;
    Ok((body, object))
}

/// A kept response of this caller's, which may have been made elsewhere a moment ago.
async fn find(
    responses: &Responses,
    id: &str,
    tenant: Option<KeyHash>,
) -> Result<Option<Arc<StoredResponse>>, Rejection> {
    if id.len() > ID_BYTES_MAX {
        return Ok(None);
    }
    let kept = responses.get_named(id).await.map_err(unavailable)?;
    Ok(kept.filter(|kept| kept.tenant == tenant))
}

fn unavailable(error: StoreError) -> Rejection {
    let message = "Kept responses cannot be reached at the moment.";
    let mut reject = Reject::new(503, "internal_server_error", message);
    reject.source = Some(error.into());
    reject
}

/// The refusal of a response that would be made in the background, and cannot be kept.
pub(crate) fn not_kept(lost: Lost) -> Rejection {
    match lost {
        Lost::TooLarge => Reject::invalid_request("The request is too large to be kept."),
        Lost::Full | Lost::Refused => unavailable(StoreError::Unavailable(lost.to_string())),
    }
}

/// What a route gives.
enum Served {
    Json(Bytes),
    /// Events that are all there.
    Events(Bytes),
    /// Events that are still to come.
    Follow(Follower),
    /// Another process makes it.
    Elsewhere,
}

/// Serves the routes below `/v1/responses/{id}`.
pub(crate) async fn serve(
    route: ResponseRoute,
    session: &mut ServerSession,
    gateway: &Arc<Gateway>,
    generation: &Generation,
    ctx: &mut RequestCtx,
) -> Result<Outcome> {
    let head = session.req_header();
    let id = percent_decoded(routes::response_id(head.uri.path()).unwrap_or_default());
    let query = Query(head.uri.query().unwrap_or_default().to_owned());
    let is_delete = head.method == http::Method::DELETE;
    let wanted = Wanted { id, query, tenant: ctx.identity.as_ref().map(|key| key.hash) };
    let served = match route {
        ResponseRoute::One if is_delete => wanted.delete(gateway, generation).await,
        ResponseRoute::One if wanted.query.get("stream").as_deref() == Some("true") => {
            wanted.stream(gateway).await
        }
        ResponseRoute::One => {
            wanted.find(gateway).await.map(|kept| Served::Json(wanted.shown(&kept)))
        }
        ResponseRoute::Cancel => wanted.cancel(gateway).await,
        ResponseRoute::InputItems => wanted.input_items(gateway).await,
    };
    let follower = match served {
        Ok(Served::Follow(follower)) => Some(follower),
        Ok(Served::Elsewhere) => None,
        Ok(Served::Json(bytes)) => {
            let body = AnswerBody::Full { content_type: "application/json", bytes };
            let answer = Answer { status: 200, headers: Vec::new(), body };
            return finish(session, generation, ctx, Ok(answer)).await;
        }
        Ok(Served::Events(events)) => {
            let body = AnswerBody::Events(vec![events]);
            let answer = Answer { status: 200, headers: Vec::new(), body };
            return finish(session, generation, ctx, Ok(answer)).await;
        }
        Err(reject) => return refuse(session, generation, ctx, reject).await,
    };
    respond::begin_stream(session, &generation.chain, ctx, Vec::new(), None).await?;
    let is_told = match follower {
        Some(follower) => background::pass_on(session, follower).await?,
        None => {
            tokio::select! {
                () = wanted.ended(gateway) => {}
                gone = session.read_body_or_idle(true) => return Err(gone_error(gone)),
            }
            false
        }
    };
    if !is_told {
        // It was made whole, or elsewhere: now it is there, or gone.
        let events = match wanted.stream(gateway).await {
            Ok(Served::Events(events)) => events,
            _ => Bytes::new(),
        };
        session.write_response_body(events, true).await?;
    }
    Ok(Outcome::Done)
}

/// A request for what is kept.
struct Wanted {
    id: String,
    query: Query,
    tenant: Option<KeyHash>,
}

impl Wanted {
    async fn find(&self, gateway: &Gateway) -> Result<Arc<StoredResponse>, Rejection> {
        find(&gateway.responses, &self.id, self.tenant)
            .await?
            .ok_or_else(|| reject(404, stored::not_found(&shown(&self.id))))
    }

    async fn delete(
        &self,
        gateway: &Arc<Gateway>,
        generation: &Generation,
    ) -> Result<Served, Rejection> {
        let kept = self.find(gateway).await?;
        gateway.responses.remove(&self.id).await.map_err(unavailable)?;
        gateway.background.cancel(&self.id).await;
        let same = kept.deployment.as_ref().map(|deployment| (deployment, self.id.as_str()));
        let original = kept.original.as_ref().map(|(deployment, id)| (deployment, &**id));
        if let Some((deployment, id)) = same.or(original) {
            delete_copy(gateway, generation, deployment, id);
        }
        Ok(Served::Json(stored::deleted(&self.id).into()))
    }

    async fn cancel(&self, gateway: &Gateway) -> Result<Served, Rejection> {
        let kept = self.find(gateway).await?;
        let was_running = gateway.background.cancel(&self.id).await;
        if !was_running && kept.is_open {
            gateway.responses.cancel_elsewhere(&self.id).await.map_err(unavailable)?;
            // Where its maker does not hear of it, it is told as it is.
            let _ = tokio::time::timeout(CANCEL_WAIT, self.ended(gateway)).await;
        }
        // As it is now: it may have ended in the very moment.
        let now = self.find(gateway).await?;
        if !was_running && !is_of_background(&now.response) {
            let message = "Only responses created with background=true can be cancelled.";
            return Err(Reject::invalid_request(message));
        }
        Ok(Served::Json(self.shown(&now)))
    }

    /// Waits until one that is made elsewhere has ended, or is gone.
    async fn ended(&self, gateway: &Gateway) {
        while let Ok(Some(kept)) = gateway.responses.get(&self.id).await
            && kept.is_open
        {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    async fn input_items(&self, gateway: &Gateway) -> Result<Served, Rejection> {
        let after = self.query.get("after");
        let page = stored::Page {
            after: after.as_deref(),
            limit: self.query.get("limit").map(|limit| limit.parse().unwrap_or(0)),
            ascending: self.query.get("order").as_deref() == Some("asc"),
        };
        let items = self.find(gateway).await?.items.clone();
        let page = stored::input_items(&items, &page).map_err(|invalid| {
            let reject = Reject::invalid_request(invalid.message);
            match invalid.param {
                Some(param) => reject.with_param(param),
                None => reject,
            }
        })?;
        Ok(Served::Json(page.into()))
    }

    /// The events of a response, or the rest of them.
    async fn stream(&self, gateway: &Gateway) -> Result<Served, Rejection> {
        self.find(gateway).await?;
        let after = match self.query.get("starting_after") {
            None => None,
            Some(number) => Some(number.parse::<u64>().map_err(|_| {
                let message = "Invalid type for 'starting_after': expected an integer.";
                Reject::invalid_request(message).with_param("starting_after")
            })?),
        };
        let skips = after.map_or(0, |number| number.saturating_add(1));
        if let Some(follower) = gateway.background.follow(&self.id, skips) {
            return Ok(Served::Follow(follower));
        }
        // Not before it is known that nobody is at it: it may have ended in the very moment.
        let kept = self.find(gateway).await?;
        if kept.is_open {
            return Ok(Served::Elsewhere);
        }
        Ok(Served::Events(match &kept.events {
            Some(events) if events.is_empty() => return Err(reject(400, stored::events_lost())),
            Some(events) => record::after(events, after),
            None => record::rest_of_response(&self.shown(&kept), after),
        }))
    }

    /// A kept response as its client gets it.
    fn shown(&self, kept: &StoredResponse) -> Bytes {
        let includes = self.query.all("include").chain(self.query.all("include[]"));
        let with_encrypted =
            includes.into_iter().any(|wanted| wanted.contains("reasoning.encrypted_content"));
        // What a provider made, it has made as the client wanted it.
        match with_encrypted || kept.deployment.is_some() {
            true => kept.response.clone(),
            false => stored::without_encrypted(&kept.response).into(),
        }
    }
}

/// Has the provider forget its own copy as well. The client is not kept waiting for that, nor told
/// if it fails.
fn delete_copy(gateway: &Arc<Gateway>, generation: &Generation, deployment: &str, id: &str) {
    let at = generation.config.entries.iter().position(|entry| *entry.id == *deployment);
    // It goes into a path: an id that a provider made may be anything.
    let is_plain = id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
    let Some(endpoint) = at.map(|at| Arc::clone(&generation.endpoints[at])).filter(|_| is_plain)
    else {
        return;
    };
    let Some(path) = endpoint.stored_path(&format!("/responses/{id}")) else { return };
    let gateway = Arc::clone(gateway);
    tokio::spawn(async move {
        match gateway.exchange.delete(&endpoint, &path).await {
            // It may have forgotten it by itself.
            Ok(status) if status < 300 || status == 404 => {}
            Ok(status) => {
                tracing::warn!(status, "a provider did not delete its copy of a response");
            }
            Err(reject) => {
                let error = reject.message.as_str();
                tracing::warn!(error, "a provider's copy of a response was not deleted");
            }
        }
    });
}

fn is_of_background(response: &[u8]) -> bool {
    let object = scan::scan(response, &Limits::default());
    object.is_ok_and(|object| object.bool(response, "background") == Some(true))
}

/// The parameters of a URL.
struct Query(String);

impl Query {
    fn all(&self, name: &str) -> impl Iterator<Item = String> {
        let pairs = self.0.split('&').filter_map(|pair| pair.split_once('='));
        pairs
            .filter(move |(have, _)| percent_decoded(have) == name)
            .map(|(_, value)| percent_decoded(value))
    }

    fn get(&self, name: &str) -> Option<String> {
        self.all(name).next()
    }
}

fn reject(status: u16, error: ErrorObject) -> Rejection {
    let mut reject = Reject::new(status, "invalid_request_error", error.message);
    reject.param = error.param.map(Into::into);
    reject.code = error.code.map(Into::into);
    reject
}

/// A caller's text, bounded, because it is repeated.
fn shown(id: &str) -> String {
    id.chars().take(100).collect()
}

/// Whether a request has to do with kept responses.
pub(crate) fn concerns(view: &RequestView) -> bool {
    view.dialect == Dialect::Responses
}
