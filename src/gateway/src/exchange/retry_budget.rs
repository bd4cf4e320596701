//! How much of the traffic may be retries. When a provider is down, retries of everything would
//! multiply the load on whatever still answers; a budget keeps them to a share of the requests.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::config::RetryBudget as Settings;

/// What one retry takes.
const RETRY: u64 = 1_000;
/// How long unused budget is kept.
const KEPT: Duration = Duration::from_secs(10);

/// The budget of the process: each request pays in a share, each retry takes one out.
pub(super) struct RetryBudget {
    start: Instant,
    /// Thousandths of a retry.
    balance: AtomicU64,
    /// Seconds after `start` up to which the least rate has been paid in.
    paid_until: AtomicU64,
}

impl RetryBudget {
    pub(super) fn new(now: Instant) -> RetryBudget {
        // What the first seconds would have paid in.
        RetryBudget { start: now, balance: AtomicU64::new(u64::MAX), paid_until: AtomicU64::new(0) }
    }

    /// A request has come.
    pub(super) fn pay_in(&self, settings: &Settings) {
        let share = u64::from(settings.percent) * RETRY / 100;
        self.add(share, settings);
    }

    /// Whether one more retry is within the budget, which it then takes.
    pub(super) fn take(&self, settings: &Settings, now: Instant) -> bool {
        if settings.percent >= 100 {
            return true;
        }
        let seconds = now.saturating_duration_since(self.start).as_secs();
        let paid = self.paid_until.swap(seconds, Ordering::Relaxed);
        let due = seconds.saturating_sub(paid).min(KEPT.as_secs());
        self.add(due * u64::from(settings.min_per_second) * RETRY, settings);
        let taken = self.balance.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |balance| {
            balance.min(settings.most()).checked_sub(RETRY)
        });
        taken.is_ok()
    }

    fn add(&self, amount: u64, settings: &Settings) {
        if amount > 0 {
            let _ = self.balance.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |balance| {
                Some(balance.saturating_add(amount).min(settings.most()))
            });
        }
    }
}

impl Settings {
    /// The most that is kept: what the least rate pays in in ten seconds, and a hundred retries
    /// more for the share of a busy gateway's requests.
    fn most(&self) -> u64 {
        (KEPT.as_secs() * u64::from(self.min_per_second) + 100) * RETRY
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retries_are_a_share_of_the_requests_and_a_few_a_second() {
        let now = Instant::now();
        let settings = Settings { percent: 20, min_per_second: 1 };
        let budget = RetryBudget::new(now);
        let taken = (0..1000).filter(|_| budget.take(&settings, now)).count();
        assert_eq!(taken, 110, "what is kept at the start");
        (0..50).for_each(|_| budget.pay_in(&settings));
        let taken = (0..1000).filter(|_| budget.take(&settings, now)).count();
        assert_eq!(taken, 10, "a fifth of the requests");
        let later = now + Duration::from_secs(3);
        let taken = (0..1000).filter(|_| budget.take(&settings, later)).count();
        assert_eq!(taken, 3, "one a second");
    }

    #[test]
    fn a_hundred_percent_is_no_budget() {
        let now = Instant::now();
        let settings = Settings { percent: 100, min_per_second: 0 };
        let budget = RetryBudget::new(now);
        assert!((0..1000).all(|_| budget.take(&settings, now)));
    }
}
