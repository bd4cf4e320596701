//! What the process holds: the live generation of the config, and what outlives all generations.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use arc_swap::ArcSwap;
use tokio::sync::Notify;
use tollway_agent::service::Agents;
use tollway_filter_api::cache::CacheStore;
use tollway_filter_api::deps::Metrics;
use tollway_filter_api::{Clock, ModelDirectory, Plan, Reject, Rejection, RequestCtx, RequestView};
use tollway_store::responses::Responses;

use crate::admin::Admin;
use crate::background::Background;
use crate::batches::Batches;
use crate::body::BodyMemory;
use crate::chain::Chain;
use crate::coalesce::Flights;
use crate::config::Config;
use crate::exchange::{Endpoint, Exchange, Pool};
use crate::health::Health;
use crate::money::Money;
use crate::pass_through::PassThrough;
use crate::scrub::Scrub;
use crate::traces::{self, Traces};

/// One config, made ready. A request keeps the generation it began with, so that a reload changes
/// nothing under its feet.
pub(crate) struct Generation {
    pub(crate) config: Config,
    pub(crate) chain: Chain,
    /// By `Deployment::entry`.
    pub(crate) endpoints: Vec<Arc<Endpoint>>,
    pub(crate) pass_through: Vec<PassThrough>,
    /// The store of the cache, if there is one.
    pub(crate) cache: Option<Arc<dyn CacheStore>>,
    /// Makes spans, where requests are traced.
    pub(crate) traces: Option<Arc<Traces>>,
}

impl Generation {
    /// The plan of a request that no `model_alias` filter has made one for: the model's name as it
    /// stands.
    pub(crate) fn plan_without_filter(&self, view: &RequestView) -> Result<Plan, Rejection> {
        let Some(requested) = view.object.str(&view.body, "model") else {
            let message = "Missing required parameter: 'model'.";
            return Err(Reject::invalid_request(message).with_param("model"));
        };
        let Some(group) = self.config.directory.resolve(&requested) else {
            let message = "There is no such model.";
            return Err(Reject::invalid_request(message)
                .with_param("model")
                .with_code("model_not_found"));
        };
        Ok(Plan { requested: requested.as_ref().into(), group })
    }
}

/// The gateway.
pub(crate) struct Gateway {
    pub(crate) live: ArcSwap<Generation>,
    pub(crate) exchange: Exchange,
    /// The exchange's connections.
    pub(crate) pool: Arc<Pool>,
    /// Calls that several requests share.
    pub(crate) flights: Arc<Flights>,
    /// The state of the Responses API.
    pub(crate) responses: Responses,
    /// Responses that are being made in the background.
    pub(crate) background: Background,
    /// Batches at providers that wait to be looked at.
    pub(crate) batches: Batches,
    /// Keys, users, teams and spend over HTTP.
    pub(crate) admin: Admin,
    /// Agents and their tools.
    pub(crate) agents: Agents,
    pub(crate) body_memory: Arc<BodyMemory>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) clock: Clock,
    pub(crate) in_flight: InFlight,
    /// How the deployments are.
    pub(crate) health: Health,
    /// The books, and the database behind them.
    pub(crate) money: Arc<Money>,
    /// Ends connections that wait for a request.
    pub(crate) wake_waiting: Notify,
}

impl Gateway {
    /// Puts a new generation in place of the live one.
    pub(crate) fn replace(&self, generation: Generation) {
        let passes_through = !generation.pass_through.is_empty();
        self.live.store(Arc::new(generation));
        self.health.reloaded.notify_waiters();
        // They are served by Pingora's loop, which must then read the head itself.
        if passes_through {
            self.wake_waiting.notify_waiters();
        }
    }
}

/// Requests that are being served, and whether new ones should still come.
#[derive(Default)]
pub(crate) struct InFlight {
    count: AtomicUsize,
    draining: AtomicBool,
    empty: Notify,
}

impl InFlight {
    pub(crate) fn enter(&self) {
        self.count.fetch_add(1, Ordering::AcqRel);
    }

    pub(crate) fn leave(&self) {
        if self.count.fetch_sub(1, Ordering::AcqRel) == 1 && self.draining() {
            self.empty.notify_waiters();
        }
    }

    pub(crate) fn count(&self) -> usize {
        self.count.load(Ordering::Acquire)
    }

    pub(crate) fn draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    /// Marks the process as ending: from now on it says that it is not ready.
    pub(crate) fn begin_draining(&self) {
        self.draining.store(true, Ordering::Release);
    }

    /// Marks the process as ending and waits until nothing is served any more.
    pub(crate) async fn drained(&self) {
        self.begin_draining();
        loop {
            let empty = self.empty.notified();
            tokio::pin!(empty);
            empty.as_mut().enable();
            if self.count() == 0 {
                return;
            }
            empty.await;
        }
    }
}

/// One request's state, which Pingora hands from phase to phase.
pub(crate) struct RequestState {
    pub(crate) gateway: Arc<Gateway>,
    pub(crate) generation: Arc<Generation>,
    /// `None` until the head was read.
    pub(crate) ctx: Option<RequestCtx>,
    /// The pass-through route it matched.
    pub(crate) pass_through: Option<usize>,
    /// Keeps our credentials out of what is passed through.
    pub(crate) scrub: Option<Scrub>,
    pub(crate) outcome: tollway_filter_api::Outcome,
}

impl RequestState {
    pub(crate) fn new(gateway: &Arc<Gateway>) -> RequestState {
        gateway.in_flight.enter();
        RequestState {
            gateway: Arc::clone(gateway),
            generation: gateway.live.load_full(),
            ctx: None,
            pass_through: None,
            scrub: None,
            // Until an answer is complete, whatever ends the request is the client leaving.
            outcome: tollway_filter_api::Outcome::ClientGone,
        }
    }

    /// Runs the end phase, once.
    pub(crate) fn end(&mut self) {
        if let Some(mut ctx) = self.ctx.take() {
            ctx.ended = Some(self.gateway.clock.now());
            self.generation.chain.end(&mut ctx, self.outcome);
            traces::end(&mut ctx, self.outcome);
        }
    }
}

/// Also when a request is dropped half-way, or a filter panicked: what it holds of limits goes back,
/// and the process does not wait for it.
impl Drop for RequestState {
    fn drop(&mut self) {
        self.end();
        self.gateway.in_flight.leave();
    }
}
