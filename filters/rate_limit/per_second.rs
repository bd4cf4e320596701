//! Requests per second with a burst, by the generic cell rate algorithm.

use std::hash::Hash;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use governor::middleware::NoOpMiddleware;
use governor::state::keyed::DashMapStateStore;
use governor::{Quota, RateLimiter};
use tollway_filter_api::Clock;

use super::config::Rate;

/// After how many checks those that have had their whole burst back are forgotten. There are never
/// more remembered than this and those still short of it.
const SWEEP_CHECKS: u32 = 16_384;

/// A [`Rate`] for each `K`.
pub(super) struct PerSecond<K: Hash + Eq + Clone> {
    limiter: RateLimiter<K, DashMapStateStore<K>, Time, NoOpMiddleware<Instant>>,
    clock: Clock,
    rate: Rate,
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

/// A request came too soon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TooFast {
    pub(super) per_second: u32,
    pub(super) retry_after: Duration,
}

impl<K: Hash + Eq + Clone> PerSecond<K> {
    pub(super) fn new(rate: Rate, clock: &Clock) -> PerSecond<K> {
        let quota = Quota::per_second(rate.requests_per_second)
            .allow_burst(rate.burst.unwrap_or(rate.requests_per_second));
        let limiter = RateLimiter::dashmap_with_clock(quota, Time(clock.clone()));
        PerSecond { limiter, clock: clock.clone(), rate, checks: AtomicU32::new(1) }
    }

    /// Counts one request of `key`.
    pub(super) fn check(&self, key: &K) -> Result<(), TooFast> {
        if self.checks.fetch_add(1, Ordering::Relaxed).is_multiple_of(SWEEP_CHECKS) {
            self.limiter.retain_recent();
            self.limiter.shrink_to_fit();
        }
        self.limiter.check_key(key).map_err(|refused| TooFast {
            per_second: self.rate.requests_per_second.get(),
            retry_after: refused.wait_time_from(self.clock.now()),
        })
    }
}

/// What is taken for one caller: an IPv4 address, or the /64 an IPv6 address is in, because that is
/// the least a network gives to a customer.
pub(super) fn caller_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & !0 << 64)),
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use super::*;

    fn rate(per_second: u32, burst: u32) -> Rate {
        Rate {
            requests_per_second: NonZeroU32::new(per_second).unwrap(),
            burst: NonZeroU32::new(burst),
        }
    }

    #[test]
    fn burst_then_the_rate() {
        let clock = Clock::manual();
        let limit = PerSecond::new(rate(20, 40), &clock);
        assert_eq!((0..100).filter(|_| limit.check(&1).is_ok()).count(), 40);
        let refused = limit.check(&1).unwrap_err();
        assert_eq!(refused, TooFast { per_second: 20, retry_after: Duration::from_millis(50) });
        clock.advance(refused.retry_after);
        assert!(limit.check(&1).is_ok());
        assert!(limit.check(&1).is_err());
        assert!(limit.check(&2).is_ok(), "others have their own");
    }

    #[test]
    fn memory_is_bounded() {
        let clock = Clock::manual();
        let limit = PerSecond::new(rate(20, 40), &clock);
        for n in 0..200_000_u32 {
            assert!(limit.check(&n).is_ok());
            clock.advance(Duration::from_millis(1));
        }
        assert!(limit.limiter.len() <= SWEEP_CHECKS as usize + 2_000, "{}", limit.limiter.len());
    }

    #[test]
    fn ipv6_addresses_are_taken_by_network() {
        fn check(a: &str, b: &str, same: bool) {
            let caller = |address: &str| caller_of(address.parse().unwrap());
            assert_eq!(caller(a) == caller(b), same, "{a} and {b}");
        }
        check("2001:db8::1", "2001:db8::ffff:0:0:1", true);
        check("2001:db8::1", "2001:db8:0:1::1", false);
        check("::ffff:192.0.2.1", "192.0.2.1", true);
        check("192.0.2.1", "192.0.2.2", false);
    }
}
