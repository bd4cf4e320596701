//! What a filter is.

use std::future::Future;
use std::ops::BitOr;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderName, HeaderValue};
use serde::de::DeserializeOwned;

use crate::ctx::{Outcome, RequestCtx, Slot};
use crate::deps::{ConfigError, Deps};
use crate::reject::Rejection;

/// The head of a request: method, URI, headers.
pub type RequestHead = http::request::Parts;

/// The moments at which a filter wants to be called. A moment nobody asked for costs nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Phases(u8);

impl Phases {
    /// The head has been read, the body has not.
    pub const HEAD: Phases = Phases(1);
    /// The body has been read and scanned. Model calls only.
    pub const BODY: Phases = Phases(2);
    /// Every filter has let the request pass: it is about to be sent. Model calls only.
    pub const CALL: Phases = Phases(32);
    /// The answer's head is about to be sent.
    pub const RESPONSE: Phases = Phases(4);
    /// A piece of the answer's body is about to be sent.
    pub const CHUNK: Phases = Phases(8);
    /// The request is over.
    pub const END: Phases = Phases(16);

    /// Whether all of `other` is in it.
    pub fn contains(self, other: Phases) -> bool {
        self.0 & other.0 == other.0
    }
}

impl BitOr for Phases {
    type Output = Phases;
    fn bitor(self, other: Phases) -> Phases {
        Phases(self.0 | other.0)
    }
}

/// What a filter decides: at once, or after waiting. Deciding at once allocates nothing.
pub enum Step<'a> {
    /// Decided.
    Ready(Flow),
    /// Something has to be waited for.
    Wait(Pin<Box<dyn Future<Output = Flow> + Send + 'a>>),
}

impl Step<'_> {
    /// What is decided, once it is.
    pub async fn decided(self) -> Flow {
        match self {
            Step::Ready(flow) => flow,
            Step::Wait(wait) => wait.await,
        }
    }

    /// The request goes on.
    pub fn next() -> Self {
        Step::Ready(Flow::Next)
    }

    /// The request is refused.
    pub fn reject(why: impl Into<Rejection>) -> Self {
        Step::Ready(Flow::Reject(why.into()))
    }

    /// The request is answered here.
    pub fn answer(answer: Answer) -> Self {
        Step::Ready(Flow::Answer(answer))
    }
}

/// Where a request goes from here.
pub enum Flow {
    /// To the next filter.
    Next,
    /// Back to the client, answered.
    Answer(Answer),
    /// Back to the client, refused.
    Reject(Rejection),
}

/// An answer that needs no upstream.
#[derive(Debug)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// Headers besides content type and length.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// The body.
    pub body: AnswerBody,
}

/// The body of an [`Answer`].
#[derive(Debug)]
pub enum AnswerBody {
    /// No body.
    Empty,
    /// A body of known length.
    Full {
        /// Its `content-type`.
        content_type: &'static str,
        /// Its bytes.
        bytes: Bytes,
    },
    /// Server-sent events, written one after another and flushed each.
    Events(Vec<Bytes>),
}

/// The head of an answer, before it is sent.
#[derive(Debug)]
pub struct ResponseHead {
    /// The HTTP status.
    pub status: u16,
    /// Headers besides framing; a later one of the same name replaces an earlier one.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// Whether server-sent events follow.
    pub streaming: bool,
}

impl ResponseHead {
    /// Adds a header, or replaces the one of that name.
    pub fn set(&mut self, name: HeaderName, value: HeaderValue) {
        match self.headers.iter_mut().find(|(have, _)| *have == name) {
            Some(slot) => slot.1 = value,
            None => self.headers.push((name, value)),
        }
    }

    /// Whether there is a header of that name.
    pub fn has(&self, name: &HeaderName) -> bool {
        self.headers.iter().any(|(have, _)| have == name)
    }
}

/// One filter of the stack.
///
/// Methods are named for the moment that calls them. On the way in, filters run in the configured
/// order until one does not say [`Flow::Next`]; on the way out in reverse. `response` and `end` run
/// for every request of the chain, also for one that an earlier filter refused.
#[expect(unused_variables, reason = "defaults ignore what they are given")]
pub trait Filter: Send + Sync {
    /// When it wants to be called.
    fn phases(&self) -> Phases;

    /// The head is read, the body is not: identity, addresses, cheap limits.
    fn head<'a>(&'a self, ctx: &'a mut RequestCtx, head: &'a RequestHead) -> Step<'a> {
        Step::next()
    }

    /// The body is read and scanned: `ctx.view` is there.
    fn body<'a>(&'a self, ctx: &'a mut RequestCtx, head: &'a RequestHead) -> Step<'a> {
        Step::next()
    }

    /// No filter has answered or refused: the call is about to be made. What must be certain before is
    /// waited for here.
    fn call<'a>(&'a self, ctx: &'a mut RequestCtx) -> Step<'a> {
        Step::next()
    }

    /// The request is diverted: it turns out to be for an agent, whose own model calls will pass the
    /// chain one by one. What was reserved for it in the head phase goes back, so that it is not
    /// counted twice and holds up none of them.
    fn diverted(&self, ctx: &mut RequestCtx) {}

    /// The head of the answer is about to be sent, be it an answer or an error.
    fn response(&self, ctx: &mut RequestCtx, head: &RequestHead, response: &mut ResponseHead) {}

    /// A piece of the body is about to be sent: whole events of a stream, or the whole body.
    ///
    /// # Errors
    /// To end the answer here; a stream ends with an error event.
    fn chunk(&self, ctx: &mut RequestCtx, chunk: &mut Bytes) -> Result<(), Rejection> {
        Ok(())
    }

    /// The request is over, whatever happened. Called exactly once; must not wait.
    fn end(&self, ctx: &mut RequestCtx, outcome: Outcome) {}
}

/// How a filter is made from its entry in the config.
pub trait BuildFilter: Filter + Sized + 'static {
    /// Its name in the config.
    const NAME: &'static str;
    /// Its settings.
    type Config: DeserializeOwned;

    /// Makes it. `slot` is its own place on [`RequestCtx`].
    ///
    /// # Errors
    /// When the settings make no sense.
    fn build(config: Self::Config, deps: &Deps, slot: Slot) -> Result<Self, ConfigError>;
}

/// A filter's line in the list of built-in filters.
pub struct Builtin {
    /// Its name in the config.
    pub name: &'static str,
    /// Makes it from the settings beside its name.
    pub build: BuildFn,
}

/// How [`Builtin::build`] makes a filter: from the settings beside its name, with its slot.
pub type BuildFn = fn(serde_json::Value, &Deps, Slot) -> Result<Arc<dyn Filter>, ConfigError>;

impl Builtin {
    /// The line of filter `F`.
    pub const fn of<F: BuildFilter>() -> Builtin {
        Builtin { name: F::NAME, build: build_from_json::<F> }
    }
}

fn build_from_json<F: BuildFilter>(
    settings: serde_json::Value,
    deps: &Deps,
    slot: Slot,
) -> Result<Arc<dyn Filter>, ConfigError> {
    let config = serde_path_to_error::deserialize(settings).map_err(|error| {
        let path = error.path().to_string();
        let path = if path == "." { String::new() } else { path };
        ConfigError { path, message: error.into_inner().to_string() }
    })?;
    Ok(Arc::new(F::build(config, deps, slot)?))
}
