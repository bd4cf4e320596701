//! LiteLLM's gauges of budgets: what is left of each, and how much it was.
//!
//! Requests only make their budgets known; the figures are asked for when Prometheus comes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use papaya::HashMap;
use prometheus::core::{Collector, Desc};
use prometheus::{GaugeVec, Opts, proto};
use tollway_filter_api::Clock;
use tollway_filter_api::treasury::{Budget, BudgetId, BudgetScope, Treasury};

/// The budgets that were in use. The same for all generations of the config.
#[derive(Clone)]
pub(super) struct Known {
    treasury: Arc<dyn Treasury>,
    clock: Clock,
    budgets: Arc<HashMap<BudgetId, Seen>>,
}

struct Seen {
    budget: Arc<Budget>,
    alias: Option<Arc<str>>,
    /// What was spent when operators were told of it; more may be spent in the same period only.
    told_at: AtomicU64,
}

impl Known {
    pub(super) fn new(treasury: Arc<dyn Treasury>, clock: Clock) -> Known {
        Known { treasury, clock, budgets: Arc::default() }
    }

    /// Remembers a budget, unless there are `max` already.
    pub(super) fn note(&self, budget: &Arc<Budget>, alias: Option<&Arc<str>>, max: usize) {
        let budgets = self.budgets.pin();
        if budgets.get(&budget.id).is_some_and(|seen| seen.budget == *budget) {
            return;
        }
        if budgets.len() < max || budgets.contains_key(&budget.id) {
            let seen = Seen {
                budget: Arc::clone(budget),
                alias: alias.cloned(),
                told_at: AtomicU64::new(0),
            };
            budgets.insert(budget.id.clone(), seen);
        }
    }

    /// Tells operators once in a period that a budget is past its soft limit.
    pub(super) fn tell(&self, budget: &Budget) {
        let Some(soft) = budget.soft else { return };
        let budgets = self.budgets.pin();
        let Some(seen) = budgets.get(&budget.id) else { return };
        let (spent, _) = self.treasury.spent(&budget.id, self.clock.unix());
        // What is spent grows until the period ends: less than before is another period.
        let told_at = seen.told_at.load(Ordering::Relaxed);
        let was_told = told_at > 0 && spent.0 >= told_at;
        if spent < soft || was_told {
            if spent < soft && told_at > 0 {
                seen.told_at.store(0, Ordering::Relaxed);
            }
            return;
        }
        let swapped =
            seen.told_at.compare_exchange(told_at, spent.0, Ordering::Relaxed, Ordering::Relaxed);
        if swapped.is_ok() {
            let limit = budget.limit.map(|limit| limit.to_string()).unwrap_or_default();
            tracing::warn!(
                scope = budget.id.scope.name(),
                owner = %budget.owner,
                spent = %spent,
                soft_budget = %soft,
                max_budget = limit,
                "soft budget is exceeded"
            );
        }
    }
}

/// A gauge: the scope it is for, its names, and its labels.
struct Family {
    scope: BudgetScope,
    remaining: &'static str,
    max: Option<&'static str>,
    labels: &'static [&'static str],
}

const FAMILIES: &[Family] = &[
    Family {
        scope: BudgetScope::Key,
        remaining: "litellm_remaining_api_key_budget_metric",
        max: Some("litellm_api_key_max_budget_metric"),
        labels: &["hashed_api_key", "api_key_alias"],
    },
    Family {
        scope: BudgetScope::Team,
        remaining: "litellm_remaining_team_budget_metric",
        max: Some("litellm_team_max_budget_metric"),
        labels: &["team", "team_alias"],
    },
    Family {
        scope: BudgetScope::User,
        remaining: "litellm_remaining_user_budget_metric",
        max: Some("litellm_user_max_budget_metric"),
        labels: &["user"],
    },
    Family {
        scope: BudgetScope::EndUser,
        remaining: "litellm_remaining_customer_budget_metric",
        max: Some("litellm_customer_max_budget_metric"),
        labels: &["end_user"],
    },
    Family {
        scope: BudgetScope::Provider,
        remaining: "litellm_provider_remaining_budget_metric",
        max: None,
        labels: &["api_provider"],
    },
];

/// Shows the budgets to Prometheus.
pub(super) struct Exposition {
    known: Known,
    descriptions: Vec<Desc>,
}

impl Exposition {
    pub(super) fn new(known: Known) -> prometheus::Result<Exposition> {
        let mut descriptions = Vec::new();
        for family in FAMILIES {
            for name in [Some(family.remaining), family.max].into_iter().flatten() {
                let gauge = gauge(name, family.labels)?;
                descriptions.extend(gauge.desc().into_iter().cloned());
            }
        }
        Ok(Exposition { known, descriptions })
    }

    fn family(&self, family: &Family) -> prometheus::Result<Vec<proto::MetricFamily>> {
        let remaining = gauge(family.remaining, family.labels)?;
        let max = family.max.map(|name| gauge(name, family.labels)).transpose()?;
        let now = self.known.clock.unix();
        let budgets = self.known.budgets.pin();
        for (id, seen) in budgets.iter().filter(|(id, _)| id.scope == family.scope) {
            let Some(limit) = seen.budget.limit else { continue };
            let labels = [&*id.subject, seen.alias.as_deref().unwrap_or("None")];
            let labels = &labels[..family.labels.len()];
            let (spent, _) = self.known.treasury.spent(id, now);
            // Of several periods of one owner, the tightest is shown.
            let gauge = remaining.with_label_values(labels);
            let left = limit.saturating_sub(spent).as_dollars();
            let first = max.as_ref().is_none_or(|max| max.with_label_values(labels).get() == 0.0);
            if first || left < gauge.get() {
                gauge.set(left);
                if let Some(max) = &max {
                    max.with_label_values(labels).set(limit.as_dollars());
                }
            }
        }
        let mut families = remaining.collect();
        families.extend(max.iter().flat_map(Collector::collect));
        Ok(families)
    }
}

fn gauge(name: &str, labels: &[&str]) -> prometheus::Result<GaugeVec> {
    let help = match name.contains("max") {
        true => "What may be spent in a period, in dollars",
        false => "What is left of the budget in this period, in dollars",
    };
    GaugeVec::new(Opts::new(name, help), labels)
}

impl Collector for Exposition {
    fn desc(&self) -> Vec<&Desc> {
        self.descriptions.iter().collect()
    }

    fn collect(&self) -> Vec<proto::MetricFamily> {
        // The names and labels were tried when it was made.
        FAMILIES.iter().flat_map(|family| self.family(family).unwrap_or_default()).collect()
    }
}
