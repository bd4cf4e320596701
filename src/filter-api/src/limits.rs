//! Rates and parallel requests: what is counted, and the trait of what counts it.

use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What somebody may use. `None` is no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct RateLimits {
    /// Requests in any 60 seconds.
    pub rpm: Option<u64>,
    /// Tokens in any 60 seconds, input and output together.
    pub tpm: Option<u64>,
    /// Requests at once.
    pub max_parallel_requests: Option<u64>,
}

impl RateLimits {
    /// Whether nothing at all is limited.
    pub fn is_empty(&self) -> bool {
        self.rpm.is_none() && self.tpm.is_none() && self.max_parallel_requests.is_none()
    }

    /// These limits, and those of `others` where these have none.
    #[must_use]
    pub fn or(self, others: RateLimits) -> RateLimits {
        RateLimits {
            rpm: self.rpm.or(others.rpm),
            tpm: self.tpm.or(others.tpm),
            max_parallel_requests: self.max_parallel_requests.or(others.max_parallel_requests),
        }
    }
}

/// One thing that is counted, such as "requests of key 1234 in a minute".
///
/// Making one allocates nothing: names are shared with whoever has them already.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct LimitKey {
    /// Whose: `global`, `api_key`, `user`, `model`, `model_per_key` …
    pub scope: &'static str,
    /// Which of them, and `None` where there is only one.
    pub subject: Option<Arc<str>>,
    /// Which part of it, if a part is counted by itself: of `model_per_key` the model.
    pub part: Option<Arc<str>>,
    /// What is counted.
    pub unit: LimitUnit,
}

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LimitUnit {
    /// Requests in any 60 seconds.
    Requests,
    /// Tokens in any 60 seconds.
    Tokens,
    /// Requests at once.
    Parallel,
}

impl LimitUnit {
    /// LiteLLM's name for it, as in headers and messages.
    pub fn name(self) -> &'static str {
        match self {
            LimitUnit::Requests => "requests",
            LimitUnit::Tokens => "tokens",
            LimitUnit::Parallel => "max_parallel_requests",
        }
    }
}

/// A window's state after a reservation, for the `x-ratelimit-*` headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Remaining {
    /// The limit it was measured against.
    pub limit: u64,
    /// What is left now.
    pub remaining: u64,
    /// When the whole limit is free again if nothing more is used. Zero for `Parallel`, where it
    /// cannot be known.
    pub reset: Duration,
}

/// A refusal: the reservation did not fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exceeded {
    /// The limit.
    pub limit: u64,
    /// What is left, less than was asked for.
    pub remaining: u64,
    /// When the same reservation would fit if nothing more is used. A whole minute where it is
    /// larger than the limit and never fits; zero for `Parallel`, where it cannot be known.
    pub retry_after: Duration,
}

/// What was taken and must be given back or settled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ticket {
    /// What was counted.
    pub key: LimitKey,
    /// When it was counted: the moment that was passed in, or a later one the store had seen.
    pub at: Instant,
    /// How much was reserved.
    pub amount: u64,
}

/// Counts. Lives as long as the process, so that reloading the config forgets nothing.
///
/// The promise: for `Requests` and `Tokens`, what is granted in any 60 seconds, wherever they start,
/// never exceeds the limit, and the whole limit may be used at once.
pub trait LimitStore: Send + Sync {
    /// Reserves `amount` under `key` if it fits within `limit`.
    ///
    /// # Errors
    /// When it does not fit; nothing is counted then. Where several reservations must all fit,
    /// give back those that did by settling them with 0.
    fn reserve(
        &self,
        key: LimitKey,
        limit: u64,
        amount: u64,
        now: Instant,
    ) -> Result<(Ticket, Remaining), Exceeded>;

    /// Replaces a reservation by what was really used. More than was reserved counts as well, even
    /// past the limit: it has happened. For `Parallel`, `used` is 0 and gives the place back.
    /// A ticket is settled once at most, and not at all where the reservation was right. What was
    /// counted more than a window ago does not matter any more and is left alone.
    fn settle(&self, ticket: &Ticket, used: u64);

    /// What to wait for before a refusal of [`LimitStore::reserve`] is final: another place may have
    /// to be asked first, and then the same reservation may fit. `None` where there is nothing to
    /// ask. Waits as long as `within` says from now on, and not longer.
    fn refill(
        &self,
        _key: &LimitKey,
        _limit: u64,
        _amount: u64,
        _now: Instant,
        _within: Duration,
    ) -> Option<Refill> {
        None
    }
}

/// A wait for more to reserve from.
pub type Refill = Pin<Box<dyn Future<Output = ()> + Send>>;
