//! Model calls of agents: the same stack as for a client's, without a client.

use std::sync::{Arc, Weak};

use bytes::Bytes;
use http::HeaderValue;
use tollway_agent::ports::{Asking, Caller, Completions, ModelCall, ModelStream, Payment, Spent};
use tollway_agent::run::CallerMark;
use tollway_filter_api::ctx::Passage;
use tollway_filter_api::identity::KeyStore;
use tollway_filter_api::{
    AnswerBody, Flow, KeyHash, ModelDirectory, Outcome, Reject, Rejection, RequestCtx, RequestHead,
    ResponseHead,
};
use tollway_wire::openai::replay;
use tollway_wire::operation::{Dialect, Operation};
use tollway_wire::price::PicoDollars;

use crate::directory::Joined;
use crate::exchange::{AnswerStream, Call, Opened};
use crate::routes::Asked;
use crate::state::{Gateway, Generation, RequestState};
use crate::traces::{self, Traces};
use crate::{agents, model_call, random};

/// What the run's own budget leaves for one call.
const MAX_COST: http::HeaderName = http::HeaderName::from_static("x-tollway-max-cost");

/// Makes them. Weak, because the gateway has the agents.
pub(crate) struct ModelCalls(pub(crate) Weak<Gateway>);

impl Completions for ModelCalls {
    fn open<'a>(
        &'a self,
        call: ModelCall<'a>,
    ) -> Asking<'a, Result<Box<dyn ModelStream>, Rejection>> {
        Box::pin(async move {
            let Some(gateway) = self.0.upgrade() else { return Err(ending()) };
            Ok(Box::new(open(&gateway, call).await?) as Box<dyn ModelStream>)
        })
    }

    fn pay<'a>(
        &'a self,
        caller: &'a Caller,
        tool: &'a Arc<str>,
        cost_max: PicoDollars,
    ) -> Asking<'a, Result<Box<dyn Payment>, Rejection>> {
        Box::pin(async move {
            let Some(gateway) = self.0.upgrade() else { return Err(ending()) };
            Ok(Box::new(pay(&gateway, caller, tool, cost_max).await?) as Box<dyn Payment>)
        })
    }

    fn window(&self, model: &str) -> Option<u64> {
        let group = self.0.upgrade()?.live.load().config.directory.resolve(model)?;
        group.deployments.iter().filter_map(|deployment| deployment.max_input_tokens).min()
    }

    fn caller(&self, owner: &Arc<str>, mark: &CallerMark) -> Option<Caller> {
        let gateway = self.0.upgrade()?;
        let generation = gateway.live.load_full();
        let identity = match &mark.key {
            None => None,
            Some(_) if mark.is_token => return None,
            Some(hash) => {
                let key = keys(&gateway, &generation).find(&KeyHash::from_hex(hash)?)?;
                let is_over = key.expires.is_some_and(|end| gateway.clock.unix() >= end);
                if key.blocked || is_over {
                    return None;
                }
                Some(key)
            }
        };
        let mut caller = agents::caller(&gateway, &generation, identity);
        if *caller.owner != **owner {
            return None;
        }
        caller.end_user.clone_from(&mark.end_user);
        caller.client = mark.client;
        // Whoever asked for the run has had an answer, or is gone.
        caller.trace = generation.traces.as_ref().map(Traces::begin);
        Some(caller)
    }
}

/// The keys as they are.
pub(super) fn keys(gateway: &Gateway, generation: &Generation) -> Joined {
    let stored = gateway.admin.directory();
    Joined { config: Arc::clone(&generation.config.keys), stored }
}

fn ending() -> Rejection {
    Reject::new(503, "internal_server_error", "The gateway is shutting down.")
}

/// Money that is set aside for a use of a tool: to the filters it is something that is handed on.
struct Paid(RequestState);

async fn pay(
    gateway: &Arc<Gateway>,
    caller: &Caller,
    tool: &Arc<str>,
    cost: PicoDollars,
) -> Result<Paid, Rejection> {
    let mut state = RequestState::new(gateway);
    state.outcome = Outcome::Done;
    let generation = Arc::clone(&state.generation);
    let id: Arc<str> = random::uuid(gateway.clock.unix()).into();
    let ctx = state.ctx.insert(RequestCtx::new(id, gateway.clock.now(), "/tools/{name}"));
    ctx.client = caller.client;
    ctx.identity.clone_from(&caller.identity);
    ctx.end_user.clone_from(&caller.end_user);
    ctx.tags = caller.identity.as_ref().map(|key| key.settings.tags.clone()).unwrap_or_default();
    let (name, api_base) = (Arc::clone(tool), Arc::from(""));
    let (call_type, provider, is_billed_later) = ("call_tool", "", false);
    let passage = Passage { call_type, provider, api_base, name, cost, is_billed_later };
    ctx.passage = Some(Box::new(passage));
    let (head, ()) = http::Request::new(()).into_parts();
    match generation.chain.head(ctx, &head).await {
        Flow::Next | Flow::Answer(_) => {}
        Flow::Reject(reject) => {
            ctx.report.status = Some(reject.status);
            ctx.report.error_kind = Some(reject.kind.to_string());
            return Err(reject);
        }
    }
    ctx.report.status = Some(200);
    Ok(Paid(state))
}

impl Payment for Paid {
    fn settle(mut self: Box<Self>, cost: PicoDollars) {
        let passage = self.0.ctx.as_mut().and_then(|ctx| ctx.passage.as_mut());
        if let Some(passage) = passage {
            passage.cost = cost;
        }
    }
}

/// A call under way.
struct Stream {
    gateway: Arc<Gateway>,
    state: RequestState,
    source: Source,
}

enum Source {
    /// Events come from the exchange.
    Live(Box<AnswerStream>),
    /// They are all here: out of a cache.
    Ready(Vec<Bytes>),
}

async fn open(gateway: &Arc<Gateway>, call: ModelCall<'_>) -> Result<Stream, Rejection> {
    let mut state = RequestState::new(gateway);
    let generation = Arc::clone(&state.generation);
    let id: Arc<str> = random::uuid(gateway.clock.unix()).into();
    let ctx = state.ctx.insert(RequestCtx::new(id, gateway.clock.now(), "/chat/agent"));
    ctx.operation = Some(Operation::ChatCompletions);
    ctx.span = call.caller.trace.as_ref().map(|trace| traces::model_call(trace, call.model));
    ctx.client = call.caller.client;
    ctx.identity.clone_from(&call.caller.identity);
    ctx.end_user.clone_from(&call.caller.end_user);
    ctx.tags =
        call.caller.identity.as_ref().map(|key| key.settings.tags.clone()).unwrap_or_default();
    if let Some(agent) = call.agent {
        ctx.tags.push(format!("agent:{agent}").into());
    }
    let head = head(&call)?;
    pass(generation.chain.head(ctx, &head).await)?;
    let asked = Asked {
        operation: Operation::ChatCompletions,
        dialect: Dialect::OpenAi,
        model: None,
        stream: None,
    };
    ctx.view = Some(Arc::new(model_call::view_of(&asked, None, call.body)?));
    let source = match generation.chain.body(ctx, &head).await {
        Flow::Next => exchange(gateway, &generation, ctx).await,
        Flow::Answer(answer) => ready(answer.body).map(Source::Ready),
        Flow::Reject(reject) => Err(reject),
    };
    let source = match source {
        Ok(source) => source,
        Err(reject) => {
            ctx.report.status = Some(reject.status);
            ctx.report.error_kind = Some(reject.kind.to_string());
            state.outcome = Outcome::Done;
            return Err(reject);
        }
    };
    let mut response = ResponseHead { status: 200, headers: Vec::new(), streaming: true };
    generation.chain.response(ctx, &head, &mut response);
    ctx.report.status = Some(200);
    Ok(Stream { gateway: Arc::clone(gateway), state, source })
}

/// What filters read of a head.
fn head(call: &ModelCall<'_>) -> Result<RequestHead, Rejection> {
    let mut request = http::Request::post("/v1/chat/completions");
    if let Some(max) = call.cost_max {
        let max = HeaderValue::try_from(max.to_string())
            .map_err(|error| Reject::internal("The call cannot be made.", error))?;
        request = request.header(MAX_COST, max);
    }
    let (parts, ()) = request
        .body(())
        .map_err(|error| Reject::internal("The call cannot be made.", error))?
        .into_parts();
    Ok(parts)
}

fn pass(flow: Flow) -> Result<(), Rejection> {
    match flow {
        Flow::Next | Flow::Answer(_) => Ok(()),
        Flow::Reject(reject) => Err(reject),
    }
}

/// An answer that needs no upstream.
fn ready(body: AnswerBody) -> Result<Vec<Bytes>, Rejection> {
    let unreadable = || Reject::internal("The answer cannot be read.", "not a chat completion");
    Ok(match body {
        AnswerBody::Empty => return Err(unreadable()),
        AnswerBody::Events(events) => events,
        AnswerBody::Full { bytes, .. } => {
            vec![replay::events_from_completion(&bytes, true).ok_or_else(unreadable)?.into()]
        }
    })
}

async fn exchange(
    gateway: &Gateway,
    generation: &Arc<Generation>,
    ctx: &mut RequestCtx,
) -> Result<Source, Rejection> {
    let Some(view) = ctx.view.clone() else { return Err(ending()) };
    if ctx.plan.is_none() {
        ctx.plan = Some(generation.plan_without_filter(&view)?);
    }
    let Some(plan) = ctx.plan.clone() else { return Err(ending()) };
    let mut call = Call::new(view, plan, Arc::clone(generation), ctx.arrived);
    call.left_out.clone_from(&ctx.left_out);
    call.trace = ctx.span.as_deref().map(|span| span.trace().clone());
    if generation.config.router.tag_filtering {
        call.tags = ctx.tags.iter().map(ToString::to_string).collect();
    }
    let opened = gateway.exchange.open(&call).await;
    model_call::told(&mut ctx.report, &mut call.report.lock());
    match opened? {
        Opened::Stream(stream) => Ok(Source::Live(stream)),
        Opened::Whole(answer) => {
            ctx.report.upstream_ended = Some(gateway.clock.now());
            let body = AnswerBody::Full { content_type: "application/json", bytes: answer.body };
            Ok(Source::Ready(ready(body)?))
        }
    }
}

impl ModelStream for Stream {
    fn next(&mut self) -> Asking<'_, Option<Result<Bytes, Rejection>>> {
        Box::pin(async move {
            let mut events = match &mut self.source {
                Source::Live(stream) => match stream.next().await? {
                    Ok(events) => events,
                    Err(reject) => {
                        self.state.outcome = Outcome::Broken;
                        return Some(Err(reject));
                    }
                },
                Source::Ready(events) if events.is_empty() => return None,
                Source::Ready(events) => events.remove(0),
            };
            let ctx = self.state.ctx.as_mut()?;
            if let Err(reject) = self.state.generation.chain.chunk(ctx, &mut events) {
                self.state.outcome = Outcome::Broken;
                return Some(Err(reject));
            }
            ctx.report.bytes_sent += events.len() as u64;
            Some(Ok(events))
        })
    }

    fn finish(mut self: Box<Self>) -> Spent {
        if self.state.outcome != Outcome::Broken {
            self.state.outcome = Outcome::Done;
        }
        self.end()
    }
}

impl Stream {
    fn end(&mut self) -> Spent {
        let Some(mut ctx) = self.state.ctx.take() else { return Spent::default() };
        let outcome = self.state.outcome;
        if let Source::Live(stream) = &mut self.source {
            model_call::settle(&self.gateway, &mut ctx, stream, &Ok(outcome));
        }
        self.state.generation.chain.end(&mut ctx, outcome);
        traces::end(&mut ctx, outcome);
        Spent {
            usage: ctx.report.usage,
            cost: ctx.report.cost.map(|cost| cost.total()).unwrap_or_default(),
            model: ctx.report.deployment.map(|deployment| Arc::clone(&deployment.litellm_model)),
        }
    }
}

/// Also where the run is cancelled: what has come is paid.
impl Drop for Stream {
    fn drop(&mut self) {
        self.end();
    }
}
