//! Drives a run: asks the model, calls the tools it wants, and so on until it has answered, somebody
//! must say something, or a limit ends it.
//!
//! Whatever is about to happen is in the journal first. What was about to happen when the process
//! ended is therefore known to whoever takes the run up again: a model call is made once more, and a
//! tool call where that can do no harm.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use serde_json::{Map, Value, json};
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout_at;
use tollway_filter_api::Reject;
use tollway_filter_api::clock::millis;
use tollway_filter_api::documents::{Append, Batch, Collection, Document};
use tollway_filter_api::trace::{Span, SpanKind};
use tollway_wire::price::PicoDollars;

use super::feed::Feed;
use super::journal::{
    self, Answer, AskedCall, CalledBy, Decision, OpenCall, State, Step, ToolResult,
};
use super::turn::{self, Heard, Hearing};
use super::writing::write;
use super::{Plan, Reason, Status, view};
use crate::links::Known;
use crate::ports::{Caller, ModelCall, Spent};
use crate::service::Shared;
use crate::threads;
use crate::tool::{CONTENT_BYTES_MAX, Call, Output, Risk, Scope, Tool, ToolError};
use crate::toolbox::Toolbox;

/// Tools at work at once for one run.
const TOOLS_AT_ONCE: usize = 8;
/// The same call is answered so often by a reminder that it was made before …
const REPEATS_TOLD: u32 = 3;
/// … and then ends the run.
const REPEATS_MAX: u32 = 6;
/// How often a model call is tried whose answer broke off.
const TRIES: u32 = 3;

/// Why a run stops.
#[derive(Debug)]
pub(crate) enum Stop {
    /// With this to be said of it.
    With(Status, Option<Reason>, Option<Value>),
    /// Somebody else has taken it over, or its journal cannot be written: nothing is to be said.
    Lost,
}

impl Stop {
    fn incomplete(reason: Reason) -> Stop {
        Stop::With(Status::Incomplete, Some(reason), None)
    }

    pub(crate) fn failed(code: &str, message: impl Into<String>) -> Stop {
        let error = json!({"code": code, "message": message.into()});
        Stop::With(Status::Failed, None, Some(error))
    }
}

/// Somebody has ended it.
const CANCELLED: Stop = Stop::With(Status::Cancelled, None, None);

/// A run at work.
pub(crate) struct Engine {
    pub(crate) shared: Arc<Shared>,
    pub(crate) caller: Arc<Caller>,
    pub(crate) plan: Arc<Plan>,
    pub(crate) state: State,
    pub(crate) toolbox: Toolbox,
    pub(crate) feed: Arc<Feed>,
    /// The run's document as it is stored; shared with whoever holds the run for this node.
    pub(crate) document: Arc<tokio::sync::Mutex<Document>>,
    pub(crate) id: Arc<str>,
    /// Calls of which nobody knows whether they were made.
    pub(crate) interrupted: BTreeSet<String>,
    /// Somebody wants it to end.
    pub(crate) cancelled: watch::Receiver<bool>,
    /// When its time is over, once it is at work.
    pub(crate) deadline: Instant,
}

impl Engine {
    /// Works until there is nothing to do, and writes down why.
    pub(crate) async fn run(mut self, places: &Semaphore) {
        let mut span = self.span();
        let stop = self.work(places).await;
        self.stop(stop).await;
        if let (Some(span), Some((status, reason, _))) = (&mut span, &self.state.stopped) {
            span.set("tollway.run.status", status.name());
            match (status, reason) {
                (Status::Failed, _) => span.fail("failed"),
                (_, Some(reason)) => span.set_error_type(reason.name()),
                _ => {}
            }
        }
    }

    /// The span of what is done now; all that is done for the caller becomes a part of it.
    fn span(&mut self) -> Option<Span> {
        let agent = self.plan.agent.as_deref();
        let mut span = self.caller.trace.as_ref()?.span(SpanKind::Internal, || match agent {
            Some(agent) => format!("invoke_agent {agent}"),
            None => "invoke_agent".to_owned(),
        });
        span.set("gen_ai.operation.name", "invoke_agent");
        span.set("gen_ai.request.model", self.plan.model.to_string());
        span.set("tollway.run.id", &self.id);
        if let Some(agent) = agent {
            span.set("gen_ai.agent.name", agent.to_owned());
        }
        if let Some(thread) = &self.plan.thread {
            span.set("gen_ai.conversation.id", thread.to_string());
        }
        let trace = Some(span.trace().clone());
        self.caller = Arc::new(Caller { trace, ..Caller::clone(&self.caller) });
        Some(span)
    }

    /// Does nothing but say why.
    pub(crate) async fn give_up(mut self, why: Stop) {
        self.stop(why).await;
    }

    async fn work(&mut self, places: &Semaphore) -> Stop {
        if self.state.answers.is_empty() {
            self.tell("run.created", json!({"model": self.plan.model, "agent": self.plan.agent}));
        }
        let place = tokio::select! {
            biased;
            () = self.cancelled() => return CANCELLED,
            place = places.acquire() => place,
        };
        let Ok(_place) = place else { return Stop::Lost };
        self.deadline = Instant::now() + Duration::from_secs(self.plan.deadline_s);
        let running = self.shared.metrics.running.clone();
        running.inc();
        let _running = Running(running);
        self.tell("run.in_progress", json!({}));
        loop {
            if *self.cancelled.borrow() {
                return CANCELLED;
            }
            let next = match self.state.calls.is_empty() {
                true => self.turn().await,
                false => self.call_tools().await,
            };
            if let Err(stop) = next {
                return stop;
            }
        }
    }

    /// Resolves when somebody wants the run to end.
    async fn cancelled(&self) {
        let mut cancelled = self.cancelled.clone();
        // An error means that nobody can want it any more.
        if cancelled.wait_for(|is_cancelled| *is_cancelled).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Waits for something that may take long. Only what is waited for here is given up when the run
    /// has to end: a step that is being written down never is, or nobody would know how far it came.
    async fn in_time<T>(&self, work: impl Future<Output = T>) -> Result<T, Stop> {
        tokio::select! {
            biased;
            () = self.cancelled() => Err(CANCELLED),
            done = timeout_at(self.deadline.into(), work) => {
                done.map_err(|_| Stop::incomplete(Reason::Deadline))
            }
        }
    }

    /// Asks the model once.
    async fn turn(&mut self) -> Result<(), Stop> {
        if let Some(answer) = self.state.answers.last()
            && answer.calls.is_empty()
        {
            return Err(match answer.finish_reason.as_str() {
                turn::CUT_SHORT => Stop::incomplete(Reason::Deadline),
                "length" => Stop::incomplete(Reason::Length),
                _ => Stop::With(Status::Completed, None, None),
            });
        }
        if self.state.answers.len() >= self.plan.max_steps as usize {
            return Err(Stop::incomplete(Reason::MaxSteps));
        }
        threads::shorten(self).await?;
        self.commit(vec![Step::Turn], None).await?;
        let step = self.state.answers.len() + 1;
        self.tell("step.started", json!({"step": step}));
        let body = turn::request(&self.plan, &self.state, &self.toolbox);
        let answer = self.ask(body, true).await?;
        let usage = view::took(&answer.took);
        self.tell("usage", json!({"step": step, "usage": usage}));
        self.commit(vec![Step::Answer(answer)], None).await?;
        if self.state.repeats.values().any(|count| *count >= REPEATS_MAX) {
            return Err(Stop::incomplete(Reason::Loop));
        }
        Ok(())
    }

    /// Makes a model call, again where that can help. Whoever follows hears it where `is_told`.
    pub(crate) async fn ask(&mut self, body: bytes::Bytes, is_told: bool) -> Result<Answer, Stop> {
        let mut tries = 0;
        let mut paid = PicoDollars::ZERO;
        loop {
            tries += 1;
            let cost_max = self.left(paid)?;
            let mut spent = Spent::default();
            // What broke off has to be paid as well.
            match self.ask_once(body.clone(), is_told, cost_max, &mut spent).await {
                Ok(mut answer) => {
                    answer.took.cost = answer.took.cost.saturating_add(paid.0);
                    return Ok(answer);
                }
                Err(Again::Never(stop)) => return Err(stop),
                Err(Again::After(pause, why)) => {
                    paid = paid.saturating_add(spent.cost);
                    // Who is over a rate waits as told; what breaks is not tried for ever.
                    let must_wait = !pause.is_zero();
                    if !must_wait && tries >= TRIES {
                        return Err(why);
                    }
                    let until = Instant::now() + pause.max(Duration::from_millis(50));
                    if until >= self.deadline {
                        return Err(if must_wait {
                            why
                        } else {
                            Stop::incomplete(Reason::Deadline)
                        });
                    }
                    self.tell("step.retried", json!({"after_s": pause.as_secs_f64()}));
                    self.in_time(tokio::time::sleep_until(until.into())).await?;
                }
            }
        }
    }

    /// What is left of the run's own budget.
    fn left(&self, paid: PicoDollars) -> Result<Option<PicoDollars>, Stop> {
        let Some(max) = self.plan.max_cost else { return Ok(None) };
        let spent = self.state.cost().saturating_add(paid);
        if spent >= max {
            return Err(Stop::incomplete(Reason::MaxCost));
        }
        Ok(Some(max.saturating_sub(spent)))
    }

    async fn ask_once(
        &self,
        body: bytes::Bytes,
        is_told: bool,
        cost_max: Option<PicoDollars>,
        spent: &mut Spent,
    ) -> Result<Answer, Again> {
        let call = ModelCall {
            caller: &self.caller,
            run: &self.id,
            agent: self.plan.agent.as_deref(),
            model: &self.plan.model,
            body,
            cost_max,
        };
        let opening = self.shared.completions.open(call);
        let opened = self.in_time(opening).await.map_err(Again::Never)?;
        let mut stream = opened.map_err(|reject| refused(&reject))?;
        let links = Arc::clone(&self.shared.live.load().settings.links);
        let known = Known::of(&links, &self.plan, &self.state);
        let feed = is_told.then_some(&*self.feed);
        let mut hearing = Hearing::new(feed, &self.toolbox, &links, known);
        let mut broken = None;
        loop {
            let heard = match self.in_time(stream.next()).await {
                Ok(None) => break,
                Ok(Some(Ok(events))) => hearing
                    .hear(&events)
                    .map_err(|error| Again::Never(Stop::failed("bad_answer", error.to_string()))),
                Ok(Some(Err(reject))) => Err(refused(&reject)),
                Err(_) => {
                    // What was said until then is the answer, and is paid.
                    *spent = stream.finish();
                    return Ok(self.heard(hearing.cut_short(spent)));
                }
            };
            if let Err(again) = heard {
                broken = Some(again);
                break;
            }
        }
        *spent = stream.finish();
        if let Some(again) = broken {
            return Err(again);
        }
        let heard = hearing.finish(&self.plan, &self.state, spent).map_err(|error| {
            Again::After(Duration::ZERO, Stop::failed("bad_answer", error.to_string()))
        })?;
        Ok(self.heard(heard))
    }

    fn heard(&self, heard: Heard) -> Answer {
        self.shared.metrics.changed_links(heard.changed);
        heard.answer
    }

    /// Makes the tool calls that are due; then those that wait hold up the run.
    async fn call_tools(&mut self) -> Result<(), Stop> {
        let (mut results, mut begun, mut due) = (Vec::new(), Vec::new(), Vec::new());
        for call in self.state.calls.iter().filter(|call| call.is_due()) {
            match self.without_calling(call) {
                Some(result) => results.push(result),
                None => {
                    if !call.was_begun {
                        begun.push(Step::Call { id: call.asked.id.clone() });
                    }
                    due.push((call.asked.clone(), call.arguments().to_owned()));
                }
            }
        }
        for result in &results {
            self.tell_result(result);
        }
        let steps: Vec<Step> = results.into_iter().map(Step::Result).chain(begun).collect();
        if !steps.is_empty() {
            self.commit(steps, None).await?;
        }
        self.make(due).await?;
        if self.state.calls.is_empty() {
            return Ok(());
        }
        self.tell("approval.required", view::required_action(&self.id, &self.state));
        Err(Stop::With(Status::RequiresAction, None, None))
    }

    /// What becomes of a call that is not made.
    fn without_calling(&self, call: &OpenCall) -> Option<ToolResult> {
        let id = &call.asked.id;
        if let Some((Decision::Reject, reason)) = &call.decision {
            let why = reason.as_deref().map_or(String::new(), |reason| format!(": {reason}"));
            return Some(refusal(id, format!("The user did not approve this call{why}.")));
        }
        if call.asked.by == CalledBy::Nobody {
            return Some(refusal(id, format!("There is no tool {:?}.", call.asked.tool)));
        }
        let Some(tool) = self.toolbox.named(&call.asked.tool) else {
            return Some(refusal(id, format!("The tool {} is gone.", call.asked.tool)));
        };
        let left = self.plan.max_cost.map(|max| max.saturating_sub(self.state.cost()));
        if left.is_some_and(|left| tool.cost_max() > left) {
            let why = "What is left of this run's budget is too little for this tool.";
            return Some(refusal(id, why.to_owned()));
        }
        let count = self.state.repeats.get(&journal::fingerprint(&call.asked)).copied();
        if count.is_some_and(|count| count >= REPEATS_TOLD) {
            return Some(refusal(
                id,
                "This very call was made before, more than once: its result is above. Go on \
                 with it, or do something else."
                    .to_owned(),
            ));
        }
        let spec = tool.spec();
        let may_be_repeated = spec.risk != Risk::Write || spec.is_idempotent;
        (self.interrupted.contains(id) && !may_be_repeated).then(|| {
            refusal(
                id,
                "The gateway was restarted while this call was under way. Whether it was carried \
                 out is not known, and it is not made again: find out, or ask the user."
                    .to_owned(),
            )
        })
    }

    /// Makes calls, several at once where that is wanted. Results are written down as they come.
    async fn make(&mut self, due: Vec<(AskedCall, String)>) -> Result<(), Stop> {
        let at_once = if self.plan.parallel_tool_calls { TOOLS_AT_ONCE } else { 1 };
        let scope = Arc::new(Scope {
            owner: Arc::clone(&self.caller.owner),
            run: Some(Arc::clone(&self.id)),
            user_context: Arc::clone(&self.plan.user_context),
        });
        let mut waiting = due.into_iter();
        let mut working = FuturesUnordered::new();
        loop {
            while working.len() < at_once
                && let Some((call, arguments)) = waiting.next()
            {
                let Some(tool) = self.toolbox.named(&call.tool) else { continue };
                self.tell(
                    "tool_call.started",
                    json!({"call_id": call.id, "tool": call.tool, "arguments": arguments}),
                );
                let work = Work {
                    tool: Arc::clone(tool),
                    arguments,
                    key: format!("{}/{}", self.id, call.id),
                    id: call.id,
                    scope: Arc::clone(&scope),
                    feed: Arc::clone(&self.feed),
                    shared: Arc::clone(&self.shared),
                    caller: Arc::clone(&self.caller),
                };
                working.push(work.run());
            }
            let Some(result) = self.in_time(working.next()).await? else { return Ok(()) };
            self.tell_result(&result);
            self.commit(vec![Step::Result(result)], None).await?;
        }
    }

    fn tell_result(&self, result: &ToolResult) {
        let name = if result.is_ok { "tool_call.completed" } else { "tool_call.failed" };
        self.tell(
            name,
            json!({
                "call_id": result.id,
                "output": result.content,
                "data": result.data,
                "files": result.files,
                "cost_usd": view::dollars(PicoDollars(result.cost)),
                "duration_ms": result.duration_ms,
            }),
        );
    }

    pub(crate) fn tell(&self, name: &str, data: Value) {
        let data = match data {
            Value::Object(data) => data,
            _ => Map::new(),
        };
        self.feed.push(name, data);
    }

    /// Writes down steps, and how the run stands where that changes.
    pub(crate) async fn commit(
        &mut self,
        steps: Vec<Step>,
        status: Option<Status>,
    ) -> Result<(), Stop> {
        let mut entries: Vec<_> = steps.iter().map(Step::entry).collect();
        let unsaved = self.feed.take_unsaved();
        if !unsaved.is_empty() {
            entries.push(journal::events(unsaved));
        }
        let count = entries.len() as u64;
        let append = Append {
            collection: Collection::Run,
            id: Arc::clone(&self.id),
            from: self.state.entries,
            entries,
        };
        for step in steps {
            self.state.apply(step);
        }
        let mut batch = Batch { append: vec![append], ..Batch::default() };
        let mut document = self.document.lock().await;
        if let Some(status) = status {
            let mut changed = document.clone();
            changed.state = status.name().into();
            changed.body = view::summary(&self.plan, &self.state).to_string().into();
            if status != Status::InProgress {
                changed.holder = None;
                changed.held_until_ms = 0;
            }
            if status.is_final() {
                let kept = self.plan.is_kept.then(|| self.shared.expires_ms());
                changed.expires_ms = Some(kept.unwrap_or_else(|| self.shared.now_ms()));
            }
            batch.put.push(changed);
            if status.is_final() {
                threads::close(&self.shared, &self.plan, &self.state, status, &mut batch).await?;
            }
        }
        let written = write(&*self.shared.documents, &batch).await?;
        if let (Some(version), Some(mut changed)) = (written.first(), batch.put.into_iter().next())
        {
            changed.version = *version;
            *document = changed;
        }
        self.state.entries += count;
        Ok(())
    }

    async fn stop(&mut self, stop: Stop) {
        let Stop::With(status, reason, error) = stop else {
            self.tell("run.interrupted", json!({}));
            return;
        };
        if let Some(error) = &error {
            tracing::info!(run = &*self.id, code = %error["code"], "a run has failed");
        }
        self.state.stopped = Some((status, reason, error.clone()));
        let name = match status {
            Status::Completed => "run.completed",
            Status::Failed => "run.failed",
            Status::Cancelled => "run.cancelled",
            Status::Incomplete => "run.incomplete",
            Status::RequiresAction => "run.requires_action",
            Status::Queued | Status::InProgress => "run.in_progress",
        };
        let document = self.document.lock().await.clone();
        let run = view::run(&document, status, &self.plan, &self.state);
        self.tell(name, json!({"run": &run}));
        let mut steps = Vec::new();
        if status == Status::RequiresAction {
            steps.push(Step::Asked);
        }
        steps.push(Step::Stopped { status, reason, error });
        self.shared.metrics.stopped(status);
        match self.commit(steps, Some(status)).await {
            Err(Stop::Lost) => {
                tracing::warn!(run = &*self.id, "how a run ended could not be written down");
            }
            _ => self.feed.conclude(run),
        }
    }
}

/// Counts a run that is at work.
struct Running(prometheus::IntGauge);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// Whether a model call can be made again.
enum Again {
    After(Duration, Stop),
    Never(Stop),
}

/// What a refused or broken call means.
fn refused(reject: &Reject) -> Again {
    let is_own_budget = reject.headers.iter().any(|(name, value)| {
        name.as_str() == "x-tollway-budget-scope" && value.as_bytes() == b"request"
    });
    if is_own_budget {
        return Again::Never(Stop::incomplete(Reason::MaxCost));
    }
    let error = json!({
        "message": reject.message,
        "type": reject.kind,
        "code": reject.code,
        "param": reject.param,
        "status": reject.status,
    });
    let stop = Stop::With(Status::Failed, None, Some(error));
    match (reject.status, reject.retry_after) {
        (429, Some(after)) => Again::After(after.max(Duration::from_millis(50)), stop),
        (408 | 409 | 425 | 500.., _) => Again::After(Duration::ZERO, stop),
        _ => Again::Never(stop),
    }
}

/// One tool call at work.
struct Work {
    tool: Arc<dyn Tool>,
    id: String,
    arguments: String,
    key: String,
    scope: Arc<Scope>,
    feed: Arc<Feed>,
    shared: Arc<Shared>,
    caller: Arc<Caller>,
}

impl Work {
    async fn run(self) -> ToolResult {
        let Work { tool, id, arguments, key, scope, feed, shared, caller } = self;
        let progress = |text: &str| {
            let data = json!({"call_id": id, "delta": text});
            if let Value::Object(data) = data {
                feed.push("tool_call.output.delta", data);
            }
        };
        let begun = Instant::now();
        let called = match serde_json::from_str::<Value>(&arguments) {
            Ok(arguments @ Value::Object(_)) => {
                let call =
                    Call { arguments, scope: &scope, idempotency_key: &key, progress: &progress };
                crate::service::call_tool(&shared, &caller, &*tool, call).await
            }
            _ => Err(ToolError::Arguments("they must be a JSON object".to_owned())),
        };
        let duration_ms = millis(begun.elapsed());
        result_of(id, called, duration_ms)
    }
}

fn result_of(id: String, called: Result<Output, ToolError>, duration_ms: u64) -> ToolResult {
    match called {
        Ok(output) => ToolResult {
            id,
            is_ok: true,
            content: cut(output.content),
            data: output.data,
            files: output.files,
            cost: output.cost.0,
            duration_ms,
        },
        Err(error) => ToolResult { duration_ms, ..refusal(&id, cut(error.to_string())) },
    }
}

fn refusal(id: &str, content: String) -> ToolResult {
    ToolResult {
        id: id.to_owned(),
        is_ok: false,
        content,
        data: None,
        files: Vec::new(),
        cost: 0,
        duration_ms: 0,
    }
}

/// At most what a model can be told.
fn cut(mut content: String) -> String {
    if content.len() > CONTENT_BYTES_MAX {
        let whole = content.len();
        let end = content.floor_char_boundary(CONTENT_BYTES_MAX);
        content.truncate(end);
        content.push_str(&format!("\n[cut: {end} of {whole} bytes]"));
    }
    content
}
