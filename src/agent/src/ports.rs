//! What agents need from outside: somebody who makes model calls.

use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use tollway_filter_api::trace::Trace;
use tollway_filter_api::{Rejection, VirtualKey};
use tollway_wire::price::PicoDollars;
use tollway_wire::usage::Usage;

use crate::run::CallerMark;
use crate::toolbox::Allowed;

/// For whom a run works, and who pays for it.
#[derive(Clone, Debug)]
pub struct Caller {
    /// Whose runs, threads and files are this caller's: a user's, whichever of the user's keys is used;
    /// else the key's own.
    pub owner: Arc<str>,
    /// The key. None where the gateway asks for none.
    pub identity: Option<Arc<VirtualKey>>,
    /// The end user that was named.
    pub end_user: Option<Arc<str>>,
    /// The address the request came from.
    pub client: Option<IpAddr>,
    /// The tools that the key, its team and its user may use: all lists must name one.
    pub tools: Vec<Allowed>,
    /// Sees what everybody owns.
    pub sees_all: bool,
    /// Changes what everybody owns.
    pub is_admin: bool,
    /// What is done for it is a part of this, where it is traced.
    pub trace: Option<Trace>,
}

impl Caller {
    /// Whether this caller may see what is `owner`'s.
    pub fn sees(&self, owner: &str) -> bool {
        self.sees_all || *self.owner == *owner
    }

    /// Whether this caller may change what is `owner`'s.
    pub fn rules(&self, owner: &str) -> bool {
        self.is_admin || *self.owner == *owner
    }

    /// Enough to find it again.
    pub fn mark(&self) -> CallerMark {
        let identity = self.identity.as_deref();
        CallerMark {
            key: identity.map(|key| key.hash_hex.to_string()),
            is_token: identity.is_some_and(|key| key.token.is_some()),
            end_user: self.end_user.clone(),
            client: self.client,
        }
    }
}

/// One model call of a run.
pub struct ModelCall<'a> {
    /// Who makes it.
    pub caller: &'a Caller,
    /// The run it belongs to.
    pub run: &'a str,
    /// The agent's name, where it has one.
    pub agent: Option<&'a str>,
    /// The model that is asked.
    pub model: &'a str,
    /// A chat request of OpenAI's with `stream` set.
    pub body: Bytes,
    /// What is left of the run's own budget.
    pub cost_max: Option<PicoDollars>,
}

/// What a call took.
#[derive(Clone, Debug, Default)]
pub struct Spent {
    /// What the provider counted.
    pub usage: Option<Usage>,
    /// What it cost.
    pub cost: PicoDollars,
    /// `provider/model` of the deployment.
    pub model: Option<Arc<str>>,
}

/// A future that a port returns.
pub type Asking<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// An answer on its way. Dropping it cancels the call, which is paid as far as it came.
pub trait ModelStream: Send {
    /// The next server-sent events, in OpenAI's form, whole.
    fn next(&mut self) -> Asking<'_, Option<Result<Bytes, Rejection>>>;

    /// The call is over.
    fn finish(self: Box<Self>) -> Spent;
}

/// What was set aside for one use of a tool. Dropping it spends all of it.
pub trait Payment: Send {
    /// The tool was used, for so much.
    fn settle(self: Box<Self>, cost: PicoDollars);
}

/// Makes model calls, through the same filters, limits and budgets as any other.
pub trait Completions: Send + Sync {
    /// Begins a call.
    fn open<'a>(
        &'a self,
        call: ModelCall<'a>,
    ) -> Asking<'a, Result<Box<dyn ModelStream>, Rejection>>;

    /// Sets aside what one use of a tool may cost, out of all budgets that apply to the caller.
    fn pay<'a>(
        &'a self,
        caller: &'a Caller,
        tool: &'a Arc<str>,
        cost_max: PicoDollars,
    ) -> Asking<'a, Result<Box<dyn Payment>, Rejection>>;

    /// How many tokens the model reads, where that is known.
    fn window(&self, model: &str) -> Option<u64>;

    /// The caller of a run that goes on after a restart, with the key as it is now. None where it is
    /// gone, switched off or over, or was a token that nobody can renew.
    fn caller(&self, owner: &Arc<str>, mark: &CallerMark) -> Option<Caller>;
}
