//! What became of the attempts at a deployment: for metrics.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use foldhash::fast::RandomState;
use papaya::HashMap;
use parking_lot::Mutex;

use super::fault::{Cause, Fault};

/// What a provider has not told.
const UNKNOWN: u64 = u64::MAX;

/// The figures of one deployment.
pub(crate) struct Tally {
    /// Attempts that were answered.
    answered: AtomicU64,
    /// Attempts that failed, and answers that broke off, by status.
    failed: Mutex<BTreeMap<u16, u64>>,
    /// Attempts, whatever became of them.
    attempts: AtomicU64,
    /// How often it was given a rest.
    rests: AtomicU64,
    /// Failures by its own fault since it last answered.
    streak: AtomicU32,
    /// What the provider said last is left of its own limits.
    remaining_requests: AtomicU64,
    remaining_tokens: AtomicU64,
}

impl Default for Tally {
    fn default() -> Tally {
        Tally {
            answered: AtomicU64::new(0),
            failed: Mutex::default(),
            attempts: AtomicU64::new(0),
            rests: AtomicU64::new(0),
            streak: AtomicU32::new(0),
            remaining_requests: AtomicU64::new(UNKNOWN),
            remaining_tokens: AtomicU64::new(UNKNOWN),
        }
    }
}

impl Tally {
    pub(super) fn count_answer(&self) {
        self.attempts.fetch_add(1, Relaxed);
        self.answered.fetch_add(1, Relaxed);
        self.works();
    }

    /// It works, as far as is known.
    pub(super) fn works(&self) {
        if self.streak.load(Relaxed) != 0 {
            self.streak.store(0, Relaxed);
        }
    }

    /// Counts a failure: of an attempt, or of an answer that had begun.
    pub(super) fn count_failure(&self, fault: &Fault, had_begun: bool) {
        // One whose limits are used up was not called.
        if fault.cause == Cause::Full {
            return;
        }
        self.attempts.fetch_add(u64::from(!had_begun), Relaxed);
        *self.failed.lock().entry(fault.status).or_default() += 1;
        // A 429 says that it is busy, not that it is down.
        if fault.is_the_deployments() && fault.status != 429 {
            self.streak.fetch_add(1, Relaxed);
        }
    }

    pub(super) fn count_rest(&self) {
        self.rests.fetch_add(1, Relaxed);
    }

    /// Notes what a provider says of its own limits.
    pub(super) fn note(&self, header: &str, value: &str) {
        let kept = match header {
            "x-ratelimit-remaining-requests" | "anthropic-ratelimit-requests-remaining" => {
                &self.remaining_requests
            }
            "x-ratelimit-remaining-tokens" | "anthropic-ratelimit-tokens-remaining" => {
                &self.remaining_tokens
            }
            _ => return,
        };
        kept.store(value.trim().parse().unwrap_or(UNKNOWN), Relaxed);
    }

    pub(crate) fn figures(&self) -> Figures {
        let known = |figure: &AtomicU64| Some(figure.load(Relaxed)).filter(|n| *n != UNKNOWN);
        Figures {
            answered: self.answered.load(Relaxed),
            failed: self.failed.lock().clone(),
            attempts: self.attempts.load(Relaxed),
            rests: self.rests.load(Relaxed),
            streak: self.streak.load(Relaxed),
            remaining_requests: known(&self.remaining_requests),
            remaining_tokens: known(&self.remaining_tokens),
        }
    }
}

/// The figures, read.
pub(crate) struct Figures {
    pub(crate) answered: u64,
    pub(crate) failed: BTreeMap<u16, u64>,
    pub(crate) attempts: u64,
    pub(crate) rests: u64,
    pub(crate) streak: u32,
    pub(crate) remaining_requests: Option<u64>,
    pub(crate) remaining_tokens: Option<u64>,
}

/// The figures of all deployments, by their ids. They outlive a reload.
#[derive(Default)]
pub(crate) struct Tallies(HashMap<Arc<str>, Arc<Tally>, RandomState>);

impl Tallies {
    /// Those of one deployment.
    pub(crate) fn of(&self, id: &Arc<str>) -> Arc<Tally> {
        let tallies = self.0.pin();
        Arc::clone(tallies.get_or_insert_with(Arc::clone(id), Arc::default))
    }
}
