//! Responses that are made in the background: the client gets an id at once and asks for the answer
//! later, or follows its events and may come back for the rest of them.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use pingora_core::protocols::http::ServerSession;
use pingora_error::Result;
use tokio::task::AbortHandle;
use tollway_filter_api::{Outcome, Reject, Rejection, RequestCtx};
use tollway_wire::client;
use tollway_wire::event_log::Budget;
use tollway_wire::openai::response::ErrorObject;
use tollway_wire::operation::Dialect;
use tollway_wire::responses::record::Record;
use tollway_wire::responses::stored;
use tollway_wire::scan;

use crate::agents::model::Run;
use crate::broadcast::{self, Broadcast, Follower, Next};
use crate::early::refuse;
use crate::exchange::{AnswerStream, Call, Opened};
use crate::model_call::{self, gone_error};
use crate::responses::{ID_BYTES_MAX, Made, Turn, not_kept};
use crate::state::{Gateway, Generation, RequestState};
use crate::{observe, respond};

/// How many may be under way at once.
const RUNNING_MAX: usize = 1024;
/// How long one that is given up may take to say so.
const CANCEL_WAIT: Duration = Duration::from_secs(1);

/// What is being made, by id.
pub(crate) struct Background {
    running: Mutex<HashMap<String, Making>>,
    budget: Arc<Budget>,
}

struct Making {
    /// None before it has begun.
    task: Option<AbortHandle>,
    is_given_up: bool,
    log: Arc<Broadcast>,
}

impl Default for Background {
    fn default() -> Self {
        Background { running: Mutex::default(), budget: broadcast::budget() }
    }
}

impl Background {
    /// Gives up what is being made under this id. False if nothing is.
    pub(crate) async fn cancel(&self, id: &str) -> bool {
        let log = self.running.lock().get_mut(id).map(|run| {
            run.is_given_up = true;
            run.task.iter().for_each(AbortHandle::abort);
            Arc::clone(&run.log)
        });
        let Some(log) = log else { return false };
        let _ = tokio::time::timeout(CANCEL_WAIT, log.ended()).await;
        true
    }

    /// Follows what is being made under this id, behind its first `skips` events.
    pub(crate) fn follow(&self, id: &str, skips: u64) -> Option<Follower> {
        let log = self.running.lock().get(id).map(|run| Arc::clone(&run.log));
        log.map(|log| Follower::new(log, skips))
    }
}

/// A response's place among those that are being made: whoever asks for it finds it there, from
/// before its client knows the id to its end.
struct Place {
    gateway: Arc<Gateway>,
    /// `resp_` included.
    id: String,
    log: Arc<Broadcast>,
}

impl Place {
    /// Takes a place, if there is one more.
    fn take(gateway: &Arc<Gateway>, id: String, is_live: bool) -> Option<Place> {
        let Background { running, budget } = &gateway.background;
        let mut running = running.lock();
        if running.len() >= RUNNING_MAX {
            return None;
        }
        let log = Arc::new(Broadcast::new(budget, is_live));
        let run = Making { task: None, is_given_up: false, log: Arc::clone(&log) };
        running.insert(id.clone(), run);
        Some(Place { gateway: Arc::clone(gateway), id, log })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.gateway.background.running.lock().remove(&self.id);
        self.log.end();
    }
}

/// A response to be made.
pub(crate) struct Job {
    place: Place,
    maker: Maker,
    generation: Arc<Generation>,
    turn: Box<Turn>,
    /// As it was answered: queued.
    queued: Vec<u8>,
}

/// Who makes it.
pub(crate) enum Maker {
    /// A provider.
    Call(Box<Call>),
    /// An agent.
    Run(Box<Run>),
}

/// Answers at once, and leaves the response to be made afterwards.
pub(crate) async fn promise(
    session: &mut ServerSession,
    gateway: &Arc<Gateway>,
    generation: &Arc<Generation>,
    ctx: &mut RequestCtx,
    asked: &client::Asked<'_>,
    turn: Box<Turn>,
    maker: Maker,
) -> Result<Outcome> {
    let id = format!("resp_{}", asked.id);
    let place = match turn.keeps() {
        false => Err(needs_store(gateway)),
        true => Place::take(gateway, id.clone(), asked.stream).ok_or_else(|| {
            Reject::too_many_requests(
                "Too many responses are being made in the background.",
                Duration::from_secs(1),
            )
        }),
    };
    let place = match place {
        Ok(place) => place,
        Err(reject) => return refuse(session, generation, ctx, reject).await,
    };
    let headers = match &maker {
        Maker::Call(_) => Vec::new(),
        Maker::Run(run) => run.headers(),
    };
    let queued = stored::queued(asked);
    // Before the client knows the id, and asks for it.
    let made = Made { is_open: true, ..Made::default() };
    if let Err(lost) = gateway.responses.keep(&id, turn.stored(queued.clone().into(), made)) {
        return refuse(session, generation, ctx, not_kept(lost)).await;
    }
    let answered = match asked.stream {
        // The events follow when the job is begun.
        true => respond::begin_stream(session, &generation.chain, ctx, headers, None)
            .await
            .map(|()| Outcome::Done),
        false => {
            let body = queued.clone().into();
            model_call::whole(session, generation, ctx, headers, body).await
        }
    };
    match answered {
        Ok(_) => {
            let generation = Arc::clone(generation);
            ctx.held = Some(Box::new(Job { place, maker, generation, turn, queued }));
        }
        Err(_) => {
            let cancelled = turn.stored(stored::cancelled(&queued).into(), Made::default());
            let _ = gateway.responses.replace(&id, cancelled);
        }
    }
    answered
}

/// Makes it. `ctx` is the request's, whose end comes when the response is there. Whoever wants its
/// events at once follows it.
pub(crate) fn begin(gateway: &Arc<Gateway>, ctx: RequestCtx, job: Job) -> Option<Follower> {
    let mut state = RequestState::new(gateway);
    state.generation = Arc::clone(&job.generation);
    state.ctx = Some(ctx);
    let (id, log) = (job.place.id.clone(), Arc::clone(&job.place.log));
    let record = log.is_live.then(|| {
        let mut events = Vec::new();
        let record = Record::begin(&id, &job.queued, &mut events);
        log.push(&events);
        record
    });
    let told = Told { record, log: Arc::clone(&log) };
    let running = Running {
        gateway: Arc::clone(gateway),
        state,
        job,
        told,
        stream: None,
        last: None,
        original: None,
    };
    // Its end takes the lock, too: it comes after this.
    let mut jobs = gateway.background.running.lock();
    let task = tokio::spawn(running.run()).abort_handle();
    if let Some(run) = jobs.get_mut(&id) {
        if run.is_given_up {
            task.abort();
        }
        run.task = Some(task);
    }
    log.is_live.then(|| Follower::new(log, 0))
}

/// One that is being made. When it is given up, it is dropped, and says so.
struct Running {
    gateway: Arc<Gateway>,
    state: RequestState,
    job: Job,
    told: Told,
    /// The events as they come, where they do.
    stream: Option<Box<AnswerStream>>,
    /// What became of it.
    last: Option<Vec<u8>>,
    /// The deployment that has made it by itself, and its id there.
    original: Option<(Arc<str>, Arc<str>)>,
}

/// What those who follow are told.
struct Told {
    record: Option<Record>,
    log: Arc<Broadcast>,
}

impl Told {
    fn tell(&mut self, write: impl FnOnce(&mut Record, &mut Vec<u8>)) {
        let Some(record) = &mut self.record else { return };
        let mut events = Vec::new();
        write(record, &mut events);
        self.log.push(&events);
    }
}

impl Running {
    async fn run(mut self) {
        self.keep(stored::in_progress(&self.job.queued));
        match &self.job.maker {
            Maker::Call(_) => self.call().await,
            Maker::Run(_) => self.follow().await,
        }
    }

    /// Has an agent make it.
    async fn follow(&mut self) {
        let broken = loop {
            let Maker::Run(run) = &mut self.job.maker else { return };
            let events = match run.next().await {
                None => break Reject::internal("No answer.", "a run that ends without its answer"),
                Some(Err(reject)) => break reject,
                Some(Ok(events)) => events,
            };
            // Before anybody knows that it is complete, and asks for it.
            let response =
                run.response().map(|response| stored::renamed(response, &self.job.place.id));
            if let Some(last) = response {
                self.keep(last.clone());
                self.last = Some(last);
            }
            self.told.tell(|record, out| record.push(&events, out));
            if self.last.is_some() {
                self.state.outcome = Outcome::Done;
                return;
            }
        };
        self.state.outcome = Outcome::Broken;
        if let Some(ctx) = &mut self.state.ctx {
            ctx.report.error_kind = Some(broken.kind.to_string());
        }
        self.fail(&broken);
    }

    /// Has a provider make it.
    async fn call(&mut self) {
        let Maker::Call(call) = &self.job.maker else { return };
        let opened = self.gateway.exchange.open(call).await;
        let Some(ctx) = &mut self.state.ctx else { return };
        model_call::told(&mut ctx.report, &mut call.report.lock());
        ctx.report.upstream_ended = Some(self.gateway.clock.now());
        self.state.outcome = Outcome::Done;
        match opened {
            Ok(Opened::Whole(answer)) => {
                let kept = answer.kept.as_ref().unwrap_or(&answer.body);
                if answer.is_native {
                    self.original = original(ctx, kept);
                }
                let last = stored::renamed(kept, &self.job.place.id);
                self.keep(last.clone());
                self.last = Some(last);
                self.told.tell(|record, out| record.whole(&answer.body, out));
            }
            Ok(Opened::Stream(stream)) => {
                self.stream = Some(stream);
                let broken = self.pass_on().await;
                self.settle(broken);
            }
            Err(reject) => {
                ctx.report.error_kind = Some(reject.kind.to_string());
                self.fail(&reject);
            }
        }
    }

    /// Takes the events as they come, to the end.
    async fn pass_on(&mut self) -> Option<Rejection> {
        while let Some(stream) = &mut self.stream {
            let mut events = match stream.next().await? {
                Ok(events) => events,
                Err(reject) => return Some(reject),
            };
            // Before anybody knows that it is complete, and asks for it.
            if self.last.is_none()
                && let Some(response) = stream.response()
            {
                if stream.is_native()
                    && let Some(ctx) = &self.state.ctx
                {
                    self.original = original(ctx, response);
                }
                let last = stored::renamed(response, &self.job.place.id);
                self.keep(last.clone());
                self.last = Some(last);
            }
            let Some(ctx) = &mut self.state.ctx else { return None };
            if let Err(reject) = self.state.generation.chain.chunk(ctx, &mut events) {
                self.last = None;
                return Some(reject);
            }
            self.told.tell(|record, out| record.push(&events, out));
        }
        None
    }

    /// Writes down what a stream took, and how it ended.
    fn settle(&mut self, broken: Option<Rejection>) {
        let (Some(mut stream), Some(ctx)) = (self.stream.take(), &mut self.state.ctx) else {
            return;
        };
        let is_whole = self.last.is_some();
        let outcome = if is_whole { Outcome::Done } else { Outcome::Broken };
        model_call::settle(&self.gateway, ctx, &mut stream, &Ok(outcome));
        if is_whole {
            return;
        }
        let broken = broken.unwrap_or_else(|| {
            Reject::internal("No answer.", "a stream that ends without its response")
        });
        observe::broken_stream(ctx, &broken);
        ctx.report.error_kind = Some(broken.kind.to_string());
        self.state.outcome = Outcome::Broken;
        self.fail(&broken);
    }

    fn fail(&mut self, reject: &Reject) {
        let Some(ctx) = &self.state.ctx else { return };
        let codes = self.job.generation.config.error_codes;
        let error = respond::error_object(reject, ctx, codes);
        let last = stored::failed(&self.job.queued, reject.status, &error);
        self.keep(last.clone());
        self.told.tell(|record, out| record.fail(reject.status, &error, &last, out));
        self.last = Some(last);
    }

    /// Keeps the response as it is now. One that was deleted meanwhile stays so.
    fn keep(&self, response: Vec<u8>) {
        self.keep_with(response, None, true);
    }

    fn keep_with(&self, response: Vec<u8>, events: Option<Bytes>, is_open: bool) {
        let made = Made { deployment: None, original: self.original.clone(), events, is_open };
        let Job { place, turn, queued, .. } = &self.job;
        let responses = &self.gateway.responses;
        if let Err(lost) = responses.replace(&place.id, turn.stored(response.into(), made)) {
            let error = ErrorObject { message: format!("{lost}."), ..ErrorObject::default() };
            let failed = stored::failed(queued, 500, &error);
            let made = Made { is_open, ..Made::default() };
            let _ = responses.replace(&place.id, turn.stored(failed.into(), made));
        }
    }
}

/// Who has made it by itself, and its id there.
fn original(ctx: &RequestCtx, response: &[u8]) -> Option<(Arc<str>, Arc<str>)> {
    let deployment = ctx.report.deployment.as_ref()?;
    let object = scan::scan(response, &scan::Limits::default()).ok()?;
    let id = object.str(response, "id").filter(|id| id.len() <= ID_BYTES_MAX)?;
    Some((Arc::clone(&deployment.id), id.as_ref().into()))
}

/// Also when it was cancelled: the task is dropped where it stands.
impl Drop for Running {
    fn drop(&mut self) {
        if let (Some(mut stream), Some(ctx)) = (self.stream.take(), &mut self.state.ctx) {
            model_call::settle(&self.gateway, ctx, &mut stream, &Ok(Outcome::ClientGone));
        }
        let response = self.last.take().unwrap_or_else(|| {
            let cancelled = stored::cancelled(&self.job.queued);
            self.told.tell(|record, out| record.cancel(&cancelled, out));
            cancelled
        });
        let log = &self.told.log;
        self.keep_with(response, log.is_live.then(|| log.events()), false);
        // Its place is given up last: until then the log tells all.
    }
}

/// Passes on events to a client for as long as it is there. False if they are not live, and must be
/// told otherwise now that all is done.
pub(crate) async fn pass_on(session: &mut ServerSession, mut follower: Follower) -> Result<bool> {
    loop {
        let next = tokio::select! {
            biased;
            next = follower.next() => next,
            gone = session.read_body_or_idle(true) => return Err(gone_error(gone)),
        };
        let last = match next {
            Next::Events(events) => {
                session.write_response_body(events, false).await?;
                continue;
            }
            Next::Ended if !follower.is_live() => return Ok(false),
            Next::Ended => Bytes::new(),
            Next::Lost => {
                tollway_wire::responses::error_event(0, 400, &stored::events_lost()).into()
            }
        };
        session.write_response_body(last, true).await?;
        return Ok(true);
    }
}

/// The refusal of what would be made for nobody.
pub(crate) fn needs_store(gateway: &Gateway) -> Rejection {
    Reject::invalid_request(match gateway.responses.are_kept() {
        true => "Background mode requires store=true: there would be nothing to ask for later.",
        false => "Background mode is not available here: no responses are kept.",
    })
}

/// Whether a request asks for it.
pub(crate) fn is_wanted(view: &tollway_filter_api::RequestView) -> bool {
    view.dialect == Dialect::Responses && view.object.bool(&view.body, "background") == Some(true)
}
