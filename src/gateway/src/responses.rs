//! The state of the Responses API: what a request goes on from, and what is kept of its answer.
//!
//! Every answer is kept, unless the client says `store: false`: as the response and the items that
//! went into it. A later request that names it gets those items put in front of its own, so that any
//! provider can go on. Where a provider has the API itself and made the response, it knows the id
//! too, and the request goes to that same deployment as it is.

use std::sync::Arc;

use bytes::Bytes;
use pingora_core::protocols::http::ServerSession;
use serde_json::Value;
use tollway_filter_api::responses::{ResponseStore, StoredResponse};
use tollway_filter_api::{Answer, AnswerBody, KeyHash, Reject, Rejection, RequestCtx, RequestView};
use tollway_wire::openai::response::ErrorObject;
use tollway_wire::operation::Dialect;
use tollway_wire::responses::stored;
use tollway_wire::scan::{self, Limits, Object};
use tollway_wire::splice::Edits;

use crate::background::Background;
use crate::routes::{self, ResponseRoute};

/// The longest id that is looked for.
const ID_BYTES_MAX: usize = 256;
/// How many earlier responses one request may refer to.
const REFERENCES_MAX: usize = 16;

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
    /// Reads a request of the Responses API. `id` is what ids are made of.
    ///
    /// # Errors
    /// When it goes on from a response that is not there, or is somebody else's.
    pub(crate) fn read(
        view: &RequestView,
        ctx: &RequestCtx,
        store: &dyn ResponseStore,
        id: &str,
    ) -> Result<Turn, Rejection> {
        let tenant = ctx.identity.as_ref().map(|key| key.hash);
        let (object, body) = (&view.object, &view.body);
        let keeps = object.bool(body, "store") != Some(false);
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
            let kept = find(store, &previous, tenant)
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
                if let Some(kept) = find(store, id, tenant) {
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
        store: &dyn ResponseStore,
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
        self.keep_as(store, &id, Bytes::copy_from_slice(response), deployment);
    }

    /// Keeps an answer under an id that it need not have.
    pub(crate) fn keep_as(
        &self,
        store: &dyn ResponseStore,
        id: &str,
        response: Bytes,
        deployment: Option<Arc<str>>,
    ) {
        let items = self.items.clone();
        store.put(id, StoredResponse { tenant: self.tenant, deployment, response, items });
    }
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

/// A kept response of this caller's.
fn find(
    store: &dyn ResponseStore,
    id: &str,
    tenant: Option<KeyHash>,
) -> Option<Arc<StoredResponse>> {
    if id.len() > ID_BYTES_MAX {
        return None;
    }
    store.get(id).filter(|kept| kept.tenant == tenant)
}

/// Serves the routes below `/v1/responses/{id}`.
///
/// # Errors
/// When there is no such response of this caller's.
pub(crate) fn serve(
    route: ResponseRoute,
    session: &ServerSession,
    ctx: &RequestCtx,
    store: &dyn ResponseStore,
    background: &Background,
) -> Result<Answer, Rejection> {
    let head = session.req_header();
    let id = routes::percent_decoded(routes::response_id(head.uri.path()).unwrap_or_default());
    let tenant = ctx.identity.as_ref().map(|key| key.hash);
    let kept =
        find(store, &id, tenant).ok_or_else(|| reject(404, stored::not_found(&shown(&id))))?;
    let query = Query(head.uri.query().unwrap_or_default());
    let bytes = match route {
        ResponseRoute::One if head.method == http::Method::DELETE => {
            background.cancel(&id);
            store.remove(&id);
            stored::deleted(&id).into()
        }
        ResponseRoute::One => {
            if query.get("stream").as_deref() == Some("true") {
                let message = "A stored response cannot be streamed again: leave `stream` out.";
                return Err(Reject::invalid_request(message).with_param("stream"));
            }
            shown_response(&kept, &query)
        }
        ResponseRoute::Cancel => {
            let is_background = background.cancel(&id);
            // It may have ended in the very moment.
            let now = find(store, &id, tenant).unwrap_or(kept);
            if !is_background && !is_of_background(&now.response) {
                let message = "Only responses created with background=true can be cancelled.";
                return Err(Reject::invalid_request(message));
            }
            shown_response(&now, &query)
        }
        ResponseRoute::InputItems => {
            let after = query.get("after");
            let page = stored::Page {
                after: after.as_deref(),
                limit: query.get("limit").map(|limit| limit.parse().unwrap_or(0)),
                ascending: query.get("order").as_deref() == Some("asc"),
            };
            let page = stored::input_items(&kept.items, &page).map_err(|invalid| {
                let reject = Reject::invalid_request(invalid.message);
                match invalid.param {
                    Some(param) => reject.with_param(param),
                    None => reject,
                }
            })?;
            page.into()
        }
    };
    let body = AnswerBody::Full { content_type: "application/json", bytes };
    Ok(Answer { status: 200, headers: Vec::new(), body })
}

/// A kept response as its client gets it.
fn shown_response(kept: &StoredResponse, query: &Query<'_>) -> Bytes {
    let includes = query.all("include").chain(query.all("include[]"));
    let with_encrypted =
        includes.into_iter().any(|wanted| wanted.contains("reasoning.encrypted_content"));
    // What a provider made, it has made as the client wanted it.
    match with_encrypted || kept.deployment.is_some() {
        true => kept.response.clone(),
        false => stored::without_encrypted(&kept.response).into(),
    }
}

fn is_of_background(response: &[u8]) -> bool {
    let object = scan::scan(response, &Limits::default());
    object.is_ok_and(|object| object.bool(response, "background") == Some(true))
}

/// The parameters of a URL.
struct Query<'a>(&'a str);

impl Query<'_> {
    fn all(&self, name: &str) -> impl Iterator<Item = String> {
        let pairs = self.0.split('&').filter_map(|pair| pair.split_once('='));
        pairs
            .filter(move |(have, _)| routes::percent_decoded(have) == name)
            .map(|(_, value)| routes::percent_decoded(value))
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
