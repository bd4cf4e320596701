//! Searches per minute, by the generic cell rate algorithm.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use governor::middleware::NoOpMiddleware;
use governor::state::keyed::DashMapStateStore;
use governor::{Quota, RateLimiter};
use tollway_filter_api::Clock;

/// After how many checks those that have had their whole minute back are forgotten.
const SWEEP_CHECKS: u32 = 4_096;

/// So many a minute for each owner, all at once or one after the other.
pub(super) struct PerMinute {
    limiter: RateLimiter<Arc<str>, DashMapStateStore<Arc<str>>, Time, NoOpMiddleware<Instant>>,
    clock: Clock,
    checks: AtomicU32,
}

/// The time for governor, which wants to ask for it by itself.
#[derive(Clone)]
struct Time(Clock);

impl governor::clock::Clock for Time {
    type Instant = Instant;

    fn now(&self) -> Instant {
        self.0.now()
    }
}

impl PerMinute {
    pub(super) fn new(count: NonZeroU32, clock: &Clock) -> PerMinute {
        let limiter =
            RateLimiter::dashmap_with_clock(Quota::per_minute(count), Time(clock.clone()));
        PerMinute { limiter, clock: clock.clone(), checks: AtomicU32::new(1) }
    }

    /// Counts one search; how long to wait, if it is one too many.
    pub(super) fn check(&self, owner: &Arc<str>) -> Result<(), Duration> {
        if self.checks.fetch_add(1, Ordering::Relaxed).is_multiple_of(SWEEP_CHECKS) {
            self.limiter.retain_recent();
            self.limiter.shrink_to_fit();
        }
        let now = || self.clock.now();
        self.limiter.check_key(owner).map_err(|refused| refused.wait_time_from(now()))
    }
}
