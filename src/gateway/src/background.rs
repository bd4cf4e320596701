//! Responses that are made in the background: the client gets an id at once and asks for the
//! answer later.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::task::AbortHandle;
use tollway_filter_api::{Outcome, Reject, RequestCtx};
use tollway_wire::client;
use tollway_wire::operation::Dialect;
use tollway_wire::responses::stored;
use tollway_wire::scan;
use tollway_wire::splice::{Edits, json_string};

use crate::exchange::{Call, Opened};
use crate::respond;
use crate::responses::Turn;
use crate::state::{Gateway, RequestState};

/// How many may be under way at once.
const RUNNING_MAX: usize = 1024;

/// What is being made, by id.
#[derive(Default)]
pub(crate) struct Background(Mutex<HashMap<String, AbortHandle>>);

impl Background {
    /// Gives up what is being made under this id. False if nothing is.
    pub(crate) fn cancel(&self, id: &str) -> bool {
        let handle = self.0.lock().remove(id);
        handle.is_some_and(|handle| {
            handle.abort();
            true
        })
    }

    /// Whether one more may begin.
    pub(crate) fn has_room(&self) -> bool {
        self.0.lock().len() < RUNNING_MAX
    }
}

/// A response to be made.
pub(crate) struct Job {
    /// Its id, `resp_` included.
    pub(crate) id: String,
    pub(crate) call: Call,
    pub(crate) turn: Turn,
    /// As it was answered: queued.
    pub(crate) queued: Vec<u8>,
}

/// The first answer of a response in the background.
pub(crate) fn queued(asked: &client::Asked<'_>) -> Vec<u8> {
    stored::queued(asked)
}

/// Makes it. `ctx` is the request's, whose end comes when the response is there.
pub(crate) fn begin(gateway: &Arc<Gateway>, ctx: RequestCtx, job: Job) {
    let mut state = RequestState::new(gateway);
    state.generation = Arc::clone(&job.call.generation);
    state.ctx = Some(ctx);
    let id = job.id.clone();
    let running = Running { gateway: Arc::clone(gateway), state, job, last: None };
    let mut jobs = gateway.background.0.lock();
    let task = tokio::spawn(running.run());
    jobs.insert(id, task.abort_handle());
}

/// One that is being made. When it is given up, it is dropped, and says so.
struct Running {
    gateway: Arc<Gateway>,
    state: RequestState,
    job: Job,
    /// What became of it.
    last: Option<Vec<u8>>,
}

impl Running {
    async fn run(mut self) {
        let store = Arc::clone(&self.gateway.responses);
        let Job { id, call, turn, queued } = &self.job;
        turn.keep_as(&*store, id, stored::in_progress(queued).into(), None);
        let opened = self.gateway.exchange.open(call).await;
        let Some(ctx) = &mut self.state.ctx else { return };
        crate::model_call::told(&mut ctx.report, &mut call.report.lock());
        ctx.report.upstream_ended = Some(self.gateway.clock.now());
        let failed = |reject: &Reject, ctx: &RequestCtx| {
            let codes = call.generation.config.error_codes;
            stored::failed(queued, reject.status, &respond::error_object(reject, ctx, codes))
        };
        self.last = Some(match opened {
            Ok(Opened::Whole(answer)) => renamed(&answer.body, id),
            Ok(Opened::Stream(_)) => {
                failed(&Reject::internal("No answer.", "a stream unasked"), ctx)
            }
            Err(reject) => {
                ctx.report.error_kind = Some(reject.kind.to_string());
                failed(&reject, ctx)
            }
        });
        self.state.outcome = Outcome::Done;
    }
}

/// Also when it was cancelled: the task is dropped where it stands.
impl Drop for Running {
    fn drop(&mut self) {
        let Job { id, turn, queued, .. } = &self.job;
        let response = self.last.take().unwrap_or_else(|| stored::cancelled(queued));
        // Deleted meanwhile: it stays so.
        if self.gateway.responses.get(id).is_some() {
            turn.keep_as(&*self.gateway.responses, id, response.into(), None);
        }
        self.gateway.background.0.lock().remove(id);
    }
}

/// A response under the id that the client knows.
fn renamed(response: &Bytes, id: &str) -> Vec<u8> {
    let Ok(object) = scan::scan(response, &scan::Limits::default()) else {
        return response.to_vec();
    };
    let mut edits = Edits::new();
    edits.set("id", json_string(id));
    edits.set("background", &b"true"[..]);
    edits.apply(response, &object).to_vec()
}

/// Whether a request asks for it.
pub(crate) fn is_wanted(view: &tollway_filter_api::RequestView) -> bool {
    view.dialect == Dialect::Responses
        && !view.stream
        && view.object.bool(&view.body, "background") == Some(true)
}
