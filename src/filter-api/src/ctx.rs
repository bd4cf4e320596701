//! What is known of one request: the shared, typed part, and each filter's own slot.

use std::any::Any;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use smallvec::SmallVec;
use tollway_wire::operation::{Dialect, Operation};
use tollway_wire::price::{Cost, PicoDollars};
use tollway_wire::usage::Usage;

use crate::cache::{CacheKey, Recorded};
use crate::clock::Clock;
use crate::identity::VirtualKey;
use crate::model::{Deployment, Plan};
use crate::trace::Span;
use crate::view::RequestView;

/// One request, from its head to its end.
pub struct RequestCtx {
    /// The id that goes into headers and logs: the caller's `x-litellm-call-id` where it is sane,
    /// else a fresh one.
    pub id: Arc<str>,
    /// When the head was read.
    pub arrived: Instant,
    /// When it was over; set by the gateway before the `end` phase.
    pub ended: Option<Instant>,
    /// The route it matched, as a pattern: `/v1/chat/completions`, `/models/{id}`. Bounded, so that
    /// it can be a metric label.
    pub route: &'static str,
    /// Which model call it is, if it is one.
    pub operation: Option<Operation>,
    /// The API the client speaks: errors are told in it.
    pub dialect: Dialect,
    /// The address the connection came from.
    pub client: Option<IpAddr>,
    /// Who is calling; set by `auth`.
    pub identity: Option<Arc<VirtualKey>>,
    /// The end user named in the body's `user` or in a header; set by the gateway after the scan.
    pub end_user: Option<Arc<str>>,
    /// The request's tags, those of its key included; set by the gateway after the scan.
    pub tags: Vec<Arc<str>>,
    /// The body; set by the gateway before the body phase of a model call.
    pub view: Option<Arc<RequestView>>,
    /// What it is where it is handed on as it is, and no call of a model; set by the gateway.
    pub passage: Option<Box<Passage>>,
    /// Where it goes; set by `model_alias`.
    pub plan: Option<Plan>,
    /// Deployments that are not to be asked, by their ids; set by `budget`.
    pub left_out: Vec<Arc<str>>,
    /// Requests with the same key may share one upstream call; set by `response_cache`.
    pub coalesce: Option<Coalesce>,
    /// The events of the answer, from before the first of them on, where requests that may come to
    /// share it make the gateway keep them.
    pub recorded: Option<Arc<dyn Recorded>>,
    /// Kept until the request is over, its `end` phase included.
    pub held: Option<Box<dyn Any + Send + Sync>>,
    /// Its span, where it is traced.
    pub span: Option<Box<Span>>,
    /// What became of it; written by the exchange, read by metering.
    pub report: Report,
    slots: SmallVec<[Option<Box<dyn Any + Send + Sync>>; 8]>,
}

/// A request that is handed on as it is, or a use of a tool that costs something.
#[derive(Clone, Debug)]
pub struct Passage {
    /// LiteLLM's name for it: `pass_through_endpoint`, `acreate_file` …
    pub call_type: &'static str,
    /// The provider's name, where it is one of those we know.
    pub provider: &'static str,
    /// Where it goes, without credentials; empty where that is not known yet.
    pub api_base: Arc<str>,
    /// What is used, where that has a name: a tool's. Bounded, so that it can be a label.
    pub name: Arc<str>,
    /// What it costs.
    pub cost: PicoDollars,
    /// What it begins costs something that is billed when it has ended, and is not known before:
    /// nobody may begin it who has nothing left.
    pub is_billed_later: bool,
}

/// How a request may share the upstream call of another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Coalesce {
    /// What the requests have in common.
    pub key: CacheKey,
    /// Each of them is metered as if it had been alone; otherwise one of them pays for all.
    pub each_pays: bool,
}

/// What the exchange tells about a request.
#[derive(Debug, Default)]
pub struct Report {
    /// The status sent to the client, once it is sent.
    pub status: Option<u16>,
    /// Attempts that were started.
    pub attempts: u32,
    /// How often another group was turned to.
    pub fallbacks: u32,
    /// The deployment of the last attempt.
    pub deployment: Option<Arc<Deployment>>,
    /// When the first attempt was sent.
    pub upstream_started: Option<Instant>,
    /// When the first body byte (a stream's first event) of the answer came.
    pub first_byte: Option<Instant>,
    /// When the answer was complete.
    pub upstream_ended: Option<Instant>,
    /// What the provider counted. On a broken stream, what it had reported until then.
    pub usage: Option<Usage>,
    /// The provider could not finish counting, because the stream was cut short: `usage` is what had
    /// been delivered, by our own count.
    pub usage_estimated: bool,
    /// Bytes of answer body sent to the client.
    pub bytes_sent: u64,
    /// What it costs; set by the first of `usage` and `budget` that knows the counts.
    pub cost: Option<Cost>,
    /// The answer came out of the cache.
    pub cache_hit: bool,
    /// The answer was another request's as well, and came from its upstream call.
    pub coalesced: bool,
    /// The kind of error the client was told, if any: `rate_limit_error`, `timeout` …
    pub error_kind: Option<String>,
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The client has the whole answer, be it an error.
    Done,
    /// The client left before the answer was complete.
    ClientGone,
    /// The answer broke off: the client was told so in the stream.
    Broken,
}

/// The place of one filter's private state. Given out when the chain is built.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Slot(pub u8);

impl RequestCtx {
    /// A request that has just arrived.
    pub fn new(id: Arc<str>, arrived: Instant, route: &'static str) -> RequestCtx {
        RequestCtx {
            id,
            arrived,
            ended: None,
            route,
            operation: None,
            dialect: Dialect::OpenAi,
            client: None,
            identity: None,
            end_user: None,
            tags: Vec::new(),
            view: None,
            passage: None,
            plan: None,
            left_out: Vec::new(),
            coalesce: None,
            recorded: None,
            held: None,
            span: None,
            report: Report::default(),
            slots: SmallVec::new(),
        }
    }

    /// What a filter kept in its slot.
    pub fn slot<T: Any>(&self, slot: Slot) -> Option<&T> {
        self.slots.get(usize::from(slot.0))?.as_ref()?.downcast_ref()
    }

    /// What a filter kept in its slot, to change it.
    pub fn slot_mut<T: Any>(&mut self, slot: Slot) -> Option<&mut T> {
        self.slots.get_mut(usize::from(slot.0))?.as_mut()?.downcast_mut()
    }

    /// Keeps something in a filter's slot.
    pub fn set_slot<T: Any + Send + Sync>(&mut self, slot: Slot, value: T) {
        let at = usize::from(slot.0);
        if self.slots.len() <= at {
            self.slots.resize_with(at + 1, || None);
        }
        self.slots[at] = Some(Box::new(value));
    }

    /// Takes what a filter kept out of its slot.
    pub fn take_slot<T: Any>(&mut self, slot: Slot) -> Option<Box<T>> {
        self.slots.get_mut(usize::from(slot.0))?.take()?.downcast().ok()
    }

    /// When it was over, for filters in their `end` phase: each looking at the clock would take longer
    /// than what some of them do.
    pub fn ended(&self, clock: &Clock) -> Instant {
        self.ended.unwrap_or_else(|| clock.now())
    }

    /// How long the request has been with us.
    pub fn elapsed(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.arrived)
    }
}
