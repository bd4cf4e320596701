//! Rest for deployments that fail by their own fault.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::fault::Fault;
use super::tally::Tally;

/// Failures older than this are forgotten.
const MEMORY: Duration = Duration::from_secs(60);

/// Whether a deployment rests, and since how many failures.
pub(crate) struct Cooldown {
    start: Instant,
    /// Failures in a row before it rests.
    allowed_fails: u32,
    time: Duration,
    fails: AtomicU32,
    /// Milliseconds after `start`.
    last_fail: AtomicU64,
    until: AtomicU64,
    tally: Arc<Tally>,
}

impl Cooldown {
    /// Rests for `time` after more than `allowed_fails` failures within a minute. A `time` of zero
    /// switches it off.
    pub(crate) fn new(
        allowed_fails: u32,
        time: Duration,
        now: Instant,
        tally: Arc<Tally>,
    ) -> Cooldown {
        Cooldown {
            start: now,
            allowed_fails,
            time,
            fails: AtomicU32::new(0),
            last_fail: AtomicU64::new(0),
            until: AtomicU64::new(0),
            tally,
        }
    }

    /// How long it still rests, or `None` if it works.
    pub(crate) fn remaining(&self, now: Instant) -> Option<Duration> {
        let until = self.until.load(Ordering::Relaxed);
        let now = self.millis(now);
        (until > now).then(|| Duration::from_millis(until - now))
    }

    /// Counts a failure. Only faults of the deployment count: what one caller did wrong must not
    /// take it from the others.
    pub(crate) fn failed(&self, fault: &Fault, now: Instant) {
        self.tally.count_failure(fault, false);
        self.consider(fault, now);
    }

    /// Counts an answer that broke off.
    pub(crate) fn broke_off(&self, fault: &Fault, now: Instant) {
        self.tally.count_failure(fault, true);
        self.consider(fault, now);
    }

    fn consider(&self, fault: &Fault, now: Instant) {
        if !fault.is_the_deployments() || self.time.is_zero() {
            return;
        }
        let at = self.millis(now);
        let last = self.last_fail.swap(at, Ordering::Relaxed);
        if at.saturating_sub(last) > MEMORY.as_millis() as u64 {
            self.fails.store(0, Ordering::Relaxed);
        }
        let fails = self.fails.fetch_add(1, Ordering::Relaxed) + 1;
        // A 429 is not a guess: the provider says it is enough for now.
        if fault.status == 429 || fails > self.allowed_fails {
            let rest = fault.retry_after.unwrap_or(self.time).max(self.time);
            self.until.fetch_max(at + rest.as_millis() as u64, Ordering::Relaxed);
            self.fails.store(0, Ordering::Relaxed);
            self.tally.count_rest();
        }
    }

    /// Forgets failures: it has answered.
    pub(crate) fn succeeded(&self) {
        self.tally.count_answer();
        if self.fails.load(Ordering::Relaxed) != 0 {
            self.fails.store(0, Ordering::Relaxed);
        }
    }

    /// What became of the attempts.
    pub(crate) fn tally(&self) -> &Tally {
        &self.tally
    }

    /// How many failures in a row are not enough for a rest.
    pub(crate) fn allowed_fails(&self) -> u32 {
        self.allowed_fails
    }

    fn millis(&self, at: Instant) -> u64 {
        at.saturating_duration_since(self.start).as_millis() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(faults: &[Fault], rests: bool) {
        let now = Instant::now();
        let cooldown = Cooldown::new(1, Duration::from_secs(5), now, Arc::default());
        faults.iter().for_each(|fault| cooldown.failed(fault, now));
        assert_eq!(cooldown.remaining(now).is_some(), rests);
        assert_eq!(cooldown.remaining(now + Duration::from_secs(6)), None);
    }

    #[test]
    fn a_429_rests_at_once() {
        check(&[Fault::for_test(429)], true);
    }

    #[test]
    fn server_errors_rest_after_more_than_the_allowed_fails() {
        check(&[Fault::for_test(500)], false);
        check(&[Fault::for_test(500), Fault::for_test(503)], true);
    }

    #[test]
    fn a_callers_mistakes_never_rest_a_deployment() {
        let mistakes: Vec<Fault> = (0..20).map(|_| Fault::for_test(400)).collect();
        check(&mistakes, false);
    }

    #[test]
    fn an_answer_forgets_failures() {
        let now = Instant::now();
        let cooldown = Cooldown::new(1, Duration::from_secs(5), now, Arc::default());
        cooldown.failed(&Fault::for_test(500), now);
        cooldown.succeeded();
        cooldown.failed(&Fault::for_test(500), now);
        assert_eq!(cooldown.remaining(now), None);
    }
}
