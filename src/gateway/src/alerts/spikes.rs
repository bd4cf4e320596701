//! Which hours cost more than usual: a last hour of everybody, a team or a key that costs so many
//! times as much as the same hour did on any of the days before.
//!
//! The dearest of those days is the measure and not their mean, so that a day on which nobody worked
//! makes no Monday a spike. Somebody who has spent nothing on any of those days, at any hour, is new
//! and no spike.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tollway_filter_api::identity::KeyStore;
use tollway_filter_api::ledger::{Dimension, Ledger, Span, StoreError, Sum};
use tollway_filter_api::treasury::BudgetScope;
use tollway_wire::price::PicoDollars;

use super::event::{Event, Who, words};
use crate::config::{AlertKind, AlertSettings};

const MINUTE_MS: u64 = 60_000;
const HOUR_MS: u64 = 60 * MINUTE_MS;
const DAY_MS: u64 = 24 * HOUR_MS;
/// So many of the dearest of a kind are compared.
const COMPARED_MAX: usize = 100;

/// The spikes that were told in the last hour, and when.
#[derive(Default)]
pub(super) struct Spikes {
    told: HashMap<(Dimension, Arc<str>), u64>,
}

/// An hour that ends now. It begins with a minute, because what is added up is added up by minutes.
#[derive(Clone, Copy)]
struct Hour {
    from: u64,
    to: u64,
}

impl Hour {
    fn until(now_ms: u64) -> Hour {
        let minute = now_ms / MINUTE_MS * MINUTE_MS;
        Hour { from: minute.saturating_sub(HOUR_MS), to: minute + MINUTE_MS }
    }

    /// The same, so many days earlier.
    fn before(self, days: u32) -> Hour {
        let back = u64::from(days) * DAY_MS;
        Hour { from: self.from.saturating_sub(back), to: self.to.saturating_sub(back) }
    }
}

impl Spikes {
    /// What is new.
    pub(super) async fn look(
        &mut self,
        ledger: &dyn Ledger,
        settings: &AlertSettings,
        keys: &dyn KeyStore,
        now: Duration,
    ) -> Result<Vec<Event>, StoreError> {
        let now_ms = u64::try_from(now.as_millis()).unwrap_or(u64::MAX >> 1);
        let hour = Hour::until(now_ms);
        self.told.retain(|_, at| *at > hour.from);
        let mut events = Vec::new();
        let kinds = [
            (Dimension::Total, BudgetScope::Global),
            (Dimension::Team, BudgetScope::Team),
            (Dimension::Key, BudgetScope::Key),
        ];
        for (dimension, scope) in kinds {
            let mut sums = ledger.sums(dimension, Span::All, hour.from, now_ms + 1).await?;
            sums.retain(|sum| {
                sum.cost >= u128::from(settings.spike_min.0).max(1)
                    && (dimension == Dimension::Total || !sum.subject.is_empty())
                    && !self.told.contains_key(&(dimension, Arc::clone(&sum.subject)))
            });
            sums.sort_by_key(|sum| std::cmp::Reverse(sum.cost));
            for sum in sums.into_iter().take(COMPARED_MAX) {
                let usual =
                    usual(ledger, dimension, &sum.subject, hour, settings.spike_days).await?;
                let factor = u128::from(settings.spike_factor);
                let is_spike = usual.is_some_and(|usual| sum.cost >= usual.saturating_mul(factor));
                if let Some(usual) = usual.filter(|_| is_spike) {
                    events.push(event(scope, &sum, usual, settings, keys));
                    self.told.insert((dimension, sum.subject), now_ms);
                }
            }
        }
        Ok(events)
    }
}

/// The most that the same hour cost on the days before; `None` for somebody who is new.
async fn usual(
    ledger: &dyn Ledger,
    dimension: Dimension,
    subject: &str,
    hour: Hour,
    days: u32,
) -> Result<Option<u128>, StoreError> {
    let cost = async |from: u64, to: u64| {
        let sum = ledger.sum_of(dimension, subject, from, to).await?;
        Ok::<_, StoreError>(sum.map_or(0, |sum| sum.cost))
    };
    if cost(hour.before(days).from, hour.from).await? == 0 {
        return Ok(None);
    }
    let mut most = 0;
    for day in 1..=days {
        let hour = hour.before(day);
        most = most.max(cost(hour.from, hour.to).await?);
    }
    Ok(Some(most))
}

fn event(
    scope: BudgetScope,
    sum: &Sum,
    usual: u128,
    settings: &AlertSettings,
    keys: &dyn KeyStore,
) -> Event {
    let amount = |cost: u128| PicoDollars(u64::try_from(cost).unwrap_or(u64::MAX));
    let (group, word) = words(scope);
    let who = Who::of(scope, &sum.subject, keys);
    let owner = match scope {
        BudgetScope::Global => "Everybody together".into(),
        _ => format!("{word}={}", who.called(scope, &sum.subject)).into(),
    };
    let days = settings.spike_days;
    let detail = format!(
        "has spent ${} in {} calls in the last hour; the most that this hour cost in the last {days} \
         days is ${}",
        amount(sum.cost),
        sum.calls,
        amount(usual)
    );
    Event {
        kind: AlertKind::Spike,
        name: "spend_spike",
        group,
        title: format!("{word} Spend: Spike"),
        owner,
        detail,
        spend: amount(sum.cost),
        max_budget: None,
        soft_budget: None,
        who,
        projected: None,
    }
}
