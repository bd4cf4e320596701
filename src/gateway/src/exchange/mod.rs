//! The exchange carries every model call: it takes a plan and a whole request, opens attempts over
//! Pingora's connector, and yields the answer.
//!
//! ```text
//! plan ─ group ─ deployments in order ─ attempt ─ answer
//!          │            │ (fault of the deployment: next one, after a pause if it is the same one)
//!          └ (all failed: the next fallback group)
//! ```
//! Retry, fallback, deadlines and cooldown live here, once, and cancellation is dropping what
//! [`Exchange::open`] returned, or its future. Nobody who consumes an answer, be it the proxy or an
//! agent, knows about attempts.

mod answer;
mod attempt;
mod check;
mod codec;
mod cooldown;

mod endpoint;
mod fault;
mod fetch;
mod framing;
mod http1;
mod lane;
mod line;
mod parts;
mod pool;
mod retry_budget;
mod routing;
mod tally;
mod token;
mod upstream;

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::HeaderValue;
use parking_lot::Mutex;
use smallvec::{SmallVec, smallvec};
use tollway_filter_api::ctx::Report;
use tollway_filter_api::limits::{LimitStore, LimitUnit, Refill, Ticket};
use tollway_filter_api::trace::{Span, Trace};
use tollway_filter_api::{
    Clock, Deployment, ModelDirectory, ModelGroup, Plan, Rejection, RequestView,
};

pub(crate) use answer::{AnswerStream, Opened};
pub(crate) use check::{Condition, can_be_checked};
pub(crate) use endpoint::Endpoint;
use fault::{Cause, Fault};
pub(crate) use fetch::Asked;
use lane::Translated;
pub(crate) use line::{Line, Upgraded, final_head, no_answer};
pub(crate) use pool::Pool;
use retry_budget::RetryBudget;
pub(crate) use tally::Tallies;

use tollway_wire::scan::Object;

use crate::config::RouterSettings;
use crate::random;
use crate::state::Generation;
use crate::traces;

/// How long a stated `retry-after` may be for us to wait it out ourselves. A longer one is passed
/// on: the client waits better than a held connection does.
const RETRY_AFTER_WAITED: Duration = Duration::from_secs(2);
/// The first pause before the same deployment is tried again; doubled each time, with jitter.
const BACKOFF_FIRST: Duration = Duration::from_millis(200);
/// The longest pause.
const BACKOFF_LONGEST: Duration = Duration::from_secs(4);

/// How long an attempt waits to hear whether its deployment's limits leave room. With what filters
/// wait for theirs, a request waits 50 ms at most.
const LIMITS_WAIT_MAX: Duration = Duration::from_millis(25);

/// What the exchange is to do for one request. It owns all it needs, so that a call can outlive the
/// request that began it.
pub(crate) struct Call {
    /// The request.
    pub(crate) view: Arc<RequestView>,
    /// The request in OpenAI's form, once a provider has needed it.
    pub(crate) translated: Translated,
    /// What came before, where the request refers to it: the items of a stored response.
    pub(crate) history: Option<Bytes>,
    /// The request with that written out, for a provider that has the dialect but not the response.
    pub(crate) expanded: Option<(Bytes, Object)>,
    /// The deployment that has it.
    pub(crate) prefers: Option<Arc<str>>,
    /// What ids of the answer are made of, where they are decided on before it.
    pub(crate) id: Option<String>,
    /// The features of Anthropic's that the client asks for by header.
    pub(crate) betas: Option<String>,
    /// Where it goes.
    pub(crate) plan: Plan,
    /// The config this request began with: its endpoints, groups, and rules for retries.
    pub(crate) generation: Arc<Generation>,
    /// The request's tags, for deployments that are kept for some.
    pub(crate) tags: Vec<String>,
    /// Deployments that are not to be asked, by their ids.
    pub(crate) left_out: Vec<Arc<str>>,
    /// About how many tokens it has, once somebody wanted to know.
    pub(crate) input_tokens: OnceLock<u64>,
    /// How often a group is tried again after the first attempt, if the request said so.
    pub(crate) retries: Option<u32>,
    /// Groups to fall back to instead of the plan's own, from the request itself.
    pub(crate) fallbacks: Option<Vec<Arc<str>>>,
    /// When the request came.
    pub(crate) arrived: Instant,
    /// When the caller's patience ends, all attempts together, if the request said so.
    pub(crate) deadline: Option<Instant>,
    /// Where its attempts belong, where it is traced.
    pub(crate) trace: Option<Trace>,
    /// What is to be told of it.
    pub(crate) report: Arc<Mutex<Report>>,
}

impl Call {
    /// A call for a request that says nothing more about how it is to be made.
    pub(crate) fn new(
        view: Arc<RequestView>,
        plan: Plan,
        generation: Arc<Generation>,
        arrived: Instant,
    ) -> Call {
        Call {
            view,
            translated: Translated::default(),
            history: None,
            expanded: None,
            prefers: None,
            id: None,
            betas: None,
            plan,
            generation,
            tags: Vec::new(),
            left_out: Vec::new(),
            input_tokens: OnceLock::new(),
            retries: None,
            fallbacks: None,
            arrived,
            deadline: None,
            trace: None,
            report: Arc::default(),
        }
    }

    fn router(&self) -> &RouterSettings {
        &self.generation.config.router
    }

    /// The span of an attempt at a deployment, where this is traced.
    fn span(&self, deployment: &Deployment) -> Option<Box<Span>> {
        let trace = self.trace.as_ref()?;
        let mut span = traces::attempt(trace, self.view.operation, deployment);
        self.endpoint(deployment).tell(&mut span);
        Some(span)
    }

    /// What a provider is told of a span.
    fn traceparent(&self, span: &Span) -> Option<HeaderValue> {
        let traces = self.generation.traces.as_ref().filter(|traces| traces.tells_providers());
        traces.and_then(|_| HeaderValue::try_from(span.traceparent().to_string()).ok())
    }

    fn endpoint(&self, deployment: &Deployment) -> &Arc<Endpoint> {
        &self.generation.endpoints[deployment.entry]
    }

    /// Whether the caller's own patience is at its end. What fails then is nobody else's fault, and
    /// there is no time for another try.
    fn is_overdue(&self, now: Instant) -> bool {
        self.deadline.is_some_and(|deadline| now >= deadline)
    }

    /// How many tries may follow the first one after this fault: the request's own number, else
    /// that of the retry policy for this kind of fault, the deployment's, the router's.
    fn retries_after(&self, fault: &Fault, deployment: &Deployment) -> usize {
        let policy = &self.router().retry_policy;
        let by_kind = match (fault.cause, fault.status) {
            (Cause::Timeout, _) | (Cause::Status, 408) => policy.timeout,
            (Cause::Status, 401 | 403) => policy.authentication,
            _ if fault.is_content_policy() => policy.content_policy,
            (Cause::Status, 429) => policy.rate_limit,
            (Cause::Status, 500..) | (Cause::Broken | Cause::Connect, _) => policy.internal_server,
            _ => None,
        };
        let endpoint = self.endpoint(deployment);
        let retries = self.retries.or(by_kind).or(endpoint.retries);
        retries.unwrap_or(self.router().num_retries) as usize
    }
}

/// One try.
struct Trying<'a> {
    group: &'a ModelGroup,
    deployment: &'a Arc<Deployment>,
    now: Instant,
    span: Option<&'a Span>,
}

/// Carries model calls. One for the whole process, so that connections are shared by all of them
/// and survive a reload.
pub(crate) struct Exchange {
    pool: Arc<Pool>,
    limits: Arc<dyn LimitStore>,
    retry_budget: RetryBudget,
    started: Instant,
    clock: Clock,
}

impl Exchange {
    pub(crate) fn new(pool: Arc<Pool>, limits: Arc<dyn LimitStore>, clock: Clock) -> Exchange {
        let started = clock.now();
        Exchange { pool, limits, retry_budget: RetryBudget::new(started), started, clock }
    }

    /// Gets an answer: the first one that is not a fault, else the last fault.
    ///
    /// Returns when the answer's head and, for a stream, its first event are there, so that every
    /// failure until then could still be turned into another attempt. Dropping the future, or what
    /// it returned, closes the upstream connection.
    pub(crate) async fn open(&self, call: &Call) -> Result<Opened, Rejection> {
        self.retry_budget.pay_in(&call.router().retry_budget);
        let group = &call.plan.group;
        let mut fault = match self.group(call, group).await {
            Ok(opened) => return Ok(opened),
            Err(fault) => fault,
        };
        let fallbacks = match &call.fallbacks {
            Some(own) => own,
            None if fault.is_context_window() && !group.context_window_fallbacks.is_empty() => {
                &group.context_window_fallbacks
            }
            None if fault.is_content_policy() && !group.content_policy_fallbacks.is_empty() => {
                &group.content_policy_fallbacks
            }
            None => &group.fallbacks,
        };
        for name in fallbacks.iter().take(call.router().max_fallbacks) {
            let is_special = fault.is_context_window() || fault.is_content_policy();
            if (!fault.falls_back() && !is_special) || call.is_overdue(self.clock.now()) {
                break;
            }
            let directory = &call.generation.config.directory;
            let Some(group) = directory.resolve(name) else { continue };
            call.report.lock().fallbacks += 1;
            fault = match self.group(call, &group).await {
                Ok(opened) => return Ok(opened),
                Err(fault) => fault,
            };
        }
        Err(fault.into_reject())
    }

    /// Tries the deployments of one group.
    async fn group(&self, call: &Call, group: &Arc<ModelGroup>) -> Result<Opened, Fault> {
        let mut now = self.clock.now();
        let order = self.order(call, group, now)?;
        let mut last: Option<Fault> = None;
        // How often each deployment was asked; `None` for one that refused for a reason of its own
        // (credentials, no such model, its limits): asked again, it would say the same.
        let mut asked: SmallVec<[Option<u32>; 4]> = smallvec![Some(0); order.len()];
        let mut attempts = 0;
        loop {
            if last.as_ref().is_some_and(|fault| attempts > call.retries_after(fault, order[0])) {
                break;
            }
            // Whoever was asked least, in their order.
            let candidates = asked.iter().enumerate().filter_map(|(at, n)| Some(((*n)?, at)));
            let Some((times, at)) = candidates.min() else { break };
            // One whose limits are used up was not called: to ask the next one is no retry.
            if last.as_ref().is_some_and(|fault| fault.cause != Cause::Full)
                && !self.retry_budget.take(&call.router().retry_budget, self.clock.now())
            {
                break;
            }
            if times > 0
                && let Some(fault) = &last
                && !pause(times - 1, fault, call.router().retry_after).await
            {
                break;
            }
            let deployment = order[at];
            if last.is_some() {
                now = self.clock.now();
            }
            {
                let mut report = call.report.lock();
                report.attempts += 1;
                report.deployment = Some(Arc::clone(deployment));
                report.upstream_started.get_or_insert(now);
            }
            let mut span = call.span(deployment);
            let trying = Trying { group, deployment, now, span: span.as_deref() };
            let opened = match self.parts(call, deployment) {
                None => self.attempt(call, &trying).await,
                Some(parts) => Box::pin(self.attempt_in_parts(call, &trying, parts)).await,
            };
            match opened {
                Ok(mut opened) => {
                    if let Opened::Stream(stream) = &mut opened {
                        stream.span = span;
                    }
                    let mut report = call.report.lock();
                    report.first_byte = Some(self.clock.now());
                    if let Opened::Whole(answer) = &opened {
                        report.usage = answer.usage;
                    }
                    return Ok(opened);
                }
                Err(fault) => {
                    if let Some(span) = &mut span {
                        fault.tell(span);
                    }
                    now = self.clock.now();
                    if fault.cause == Cause::Timeout && call.is_overdue(now) {
                        return Err(fault);
                    }
                    call.endpoint(deployment).cooldown.failed(&fault, now);
                    if !fault.retries() {
                        return Err(fault);
                    }
                    // One whose limits are used up was not called at all.
                    attempts += usize::from(fault.cause != Cause::Full);
                    asked[at] = fault.same_deployment_may_help().then_some(times + 1);
                    last = Some(fault);
                }
            }
        }
        Err(last.unwrap_or_else(|| Fault::no_deployment(&group.name)))
    }

    /// Takes what the deployment's own `rpm`, `tpm` and `max_parallel_requests` allow. Where they
    /// are counted elsewhere, that is asked before the answer is no.
    async fn admit(
        &self,
        deployment: &Deployment,
        view: &RequestView,
        now: Instant,
    ) -> Result<Admission, Fault> {
        let mut refills = Vec::new();
        let admitted = self.try_admit(deployment, view, now, Some(&mut refills));
        if refills.is_empty() {
            return admitted;
        }
        drop(admitted);
        for refill in refills {
            refill.await;
        }
        self.try_admit(deployment, view, self.clock.now(), None)
    }

    /// The same without waiting: what could be waited for goes into `refills`.
    fn try_admit(
        &self,
        deployment: &Deployment,
        view: &RequestView,
        now: Instant,
        mut refills: Option<&mut Vec<Refill>>,
    ) -> Result<Admission, Fault> {
        let limits = deployment.limits;
        let mut admission =
            Admission { limits: Arc::clone(&self.limits), held: Default::default() };
        let wants = [
            (LimitUnit::Parallel, limits.max_parallel_requests, 1),
            (LimitUnit::Requests, limits.rpm, 1),
            // Four bytes a token is the usual rule of thumb; settled with the real count.
            (LimitUnit::Tokens, limits.tpm, 1 + view.body.len() as u64 / 4),
        ];
        let mut full = None;
        for (unit, limit, amount) in wants {
            let Some(limit) = limit else { continue };
            match self.limits.reserve(routing::key(deployment, unit), limit, amount, now) {
                Ok((ticket, _)) => admission.held.push(ticket),
                Err(exceeded) => {
                    full = Some(Fault::deployment_full(exceeded.retry_after));
                    // What else is missing is asked for at the same time.
                    let key = routing::key(deployment, unit);
                    let refill = refills.as_ref().and_then(|_| {
                        self.limits.refill(&key, limit, amount, now, LIMITS_WAIT_MAX)
                    });
                    match (refill, &mut refills) {
                        (Some(refill), Some(refills)) => refills.push(refill),
                        _ => {
                            // Nothing helps any more.
                            if let Some(refills) = &mut refills {
                                refills.clear();
                            }
                            break;
                        }
                    }
                }
            }
        }
        match full {
            None => Ok(admission),
            Some(fault) => {
                admission.give_back();
                Err(fault)
            }
        }
    }
}

/// Waits before the same deployment is asked again. False where the wait is not worth holding
/// the client for.
async fn pause(round: u32, fault: &Fault, least: Duration) -> bool {
    let wait = match fault.retry_after {
        Some(after) if after > RETRY_AFTER_WAITED => return false,
        Some(after) => after,
        None => {
            let doubled = BACKOFF_FIRST.saturating_mul(1 << round.min(8));
            // Full jitter on the upper half, so that clients that failed together do not come
            // back together.
            let whole = doubled.min(BACKOFF_LONGEST);
            whole / 2 + whole.mul_f64(random::unit() / 2.0)
        }
    };
    tokio::time::sleep(wait.max(least)).await;
    true
}

/// What an attempt holds of its deployment's limits, until it is over.
pub(crate) struct Admission {
    limits: Arc<dyn LimitStore>,
    held: SmallVec<[Ticket; 2]>,
}

impl Admission {
    /// Nothing was used after all.
    fn give_back(&mut self) {
        for ticket in self.held.drain(..) {
            self.limits.settle(&ticket, 0);
        }
    }

    /// The attempt is over: parallel places are free again, tokens are settled.
    pub(crate) fn settle(&mut self, tokens: Option<u64>) {
        for ticket in self.held.drain(..) {
            match ticket.key.unit {
                LimitUnit::Parallel => self.limits.settle(&ticket, 0),
                LimitUnit::Requests => {}
                LimitUnit::Tokens => {
                    if let Some(tokens) = tokens {
                        self.limits.settle(&ticket, tokens);
                    }
                }
            }
        }
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        self.settle(None);
    }
}
