//! The gauges of budgets: LiteLLM's, which know some of them, and our own of all.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use prometheus::core::{Collector, Desc};
use prometheus::{GaugeVec, Opts, proto};
use tollway_filter_api::treasury::BudgetScope;
use tollway_wire::price::PicoDollars;

use super::known::{Known, Standing};

/// What stands where a label has no value, as LiteLLM writes it.
const NONE: &str = "None";

/// LiteLLM's gauges of one scope, and their labels.
struct Family {
    scope: BudgetScope,
    remaining: &'static str,
    max: Option<&'static str>,
    hours: Option<&'static str>,
    labels: &'static [&'static str],
}

macro_rules! family {
    ($scope:ident, $name:literal, $labels:expr) => {
        Family {
            scope: BudgetScope::$scope,
            remaining: concat!("litellm_remaining_", $name, "_budget_metric"),
            max: Some(concat!("litellm_", $name, "_max_budget_metric")),
            hours: Some(concat!("litellm_", $name, "_budget_remaining_hours_metric")),
            labels: $labels,
        }
    };
}

const FAMILIES: &[Family] = &[
    family!(Key, "api_key", &["hashed_api_key", "api_key_alias"]),
    family!(Team, "team", &["team", "team_alias"]),
    family!(User, "user", &["user"]),
    family!(EndUser, "customer", &["end_user"]),
    Family {
        scope: BudgetScope::Provider,
        remaining: "litellm_provider_remaining_budget_metric",
        max: None,
        hours: None,
        labels: &["api_provider"],
    },
];

/// The labels of our own gauges. Those without a value are empty, which Prometheus takes for absent.
const LABELS: &[&str] = &["scope", "id", "alias", "model", "user", "period"];

const LIMIT: &str = "tollway_budget_limit_dollars";
const SPENT: &str = "tollway_budget_spent_dollars";
const RESERVED: &str = "tollway_budget_reserved_dollars";
const RESET: &str = "tollway_budget_reset_seconds";

/// Every gauge, with what it says and its labels.
fn names() -> impl Iterator<Item = (&'static str, &'static str, &'static [&'static str])> {
    let of_litellm = FAMILIES.iter().flat_map(|family| {
        let names = [Some(family.remaining), family.max, family.hours];
        names.into_iter().flatten().map(|name| (name, help(name), family.labels))
    });
    of_litellm.chain([LIMIT, SPENT, RESERVED, RESET].map(|name| (name, help(name), LABELS)))
}

fn help(name: &str) -> &'static str {
    match name {
        LIMIT => "What may be spent of a budget in a period",
        SPENT => "What was spent of a budget in the present period",
        RESERVED => "What calls under way have reserved of a budget",
        RESET => "Seconds until a budget is full again",
        _ if name.contains("hours") => "Hours until the budget is full again",
        _ if name.contains("max") => "What may be spent in a period, in dollars",
        _ => "What is left of the budget in this period, in dollars",
    }
}

/// Shows the budgets to Prometheus.
pub(super) struct Exposition {
    known: Arc<Known>,
    descriptions: Vec<Desc>,
}

impl Exposition {
    pub(super) fn new(known: Arc<Known>) -> prometheus::Result<Exposition> {
        let mut descriptions = Vec::new();
        for (name, help, labels) in names() {
            let gauge = GaugeVec::new(Opts::new(name, help), labels)?;
            descriptions.extend(gauge.desc().into_iter().cloned());
        }
        Ok(Exposition { known, descriptions })
    }

    fn shown(&self) -> prometheus::Result<Vec<proto::MetricFamily>> {
        let standings = self.known.standings();
        let now = self.known.now();
        let mut gauges = BTreeMap::new();
        for (name, help, labels) in names() {
            gauges.insert(name, GaugeVec::new(Opts::new(name, help), labels)?);
        }
        let set = |name: &str, labels: &[&str], value: f64| {
            if let Some(gauge) = gauges.get(name) {
                gauge.with_label_values(labels).set(value);
            }
        };
        for standing in &standings {
            let id = &standing.budget.id;
            let period = id.period.map(|period| period.to_string());
            let part = id.part.as_deref().unwrap_or_default();
            let (model, user) = match id.scope {
                BudgetScope::TeamMember => ("", part),
                _ => (part, ""),
            };
            let labels = [
                id.scope.name(),
                &id.subject,
                standing.alias.as_deref().unwrap_or_else(|| short(&id.subject)),
                model,
                user,
                period.as_deref().unwrap_or_default(),
            ];
            if let Some(limit) = standing.budget.limit {
                set(LIMIT, &labels, limit.as_dollars());
            }
            set(SPENT, &labels, standing.spent.as_dollars());
            set(RESERVED, &labels, standing.reserved.as_dollars());
            if let Some(left) = left(standing, now) {
                set(RESET, &labels, left.as_secs_f64());
            }
        }
        for (family, standing, limit, remaining) in tightest(&standings) {
            let id = &standing.budget.id;
            let labels = [&*id.subject, standing.alias.as_deref().unwrap_or(NONE)];
            let labels = &labels[..family.labels.len()];
            set(family.remaining, labels, remaining.as_dollars());
            if let Some(name) = family.max {
                set(name, labels, limit.as_dollars());
            }
            if let (Some(name), Some(left)) = (family.hours, left(standing, now)) {
                set(name, labels, left.as_secs_f64() / 3_600.0);
            }
        }
        Ok(gauges.values().flat_map(Collector::collect).collect())
    }
}

/// What is shown of those that nobody has given a name: enough of a hash to find the key by.
fn short(subject: &str) -> &str {
    match subject.len() {
        64 => subject.get(..12).unwrap_or(subject),
        _ => subject,
    }
}

/// Until a budget is full again.
fn left(standing: &Standing, now: Duration) -> Option<Duration> {
    standing.period.map(|(_, end)| end.saturating_sub(now))
}

/// LiteLLM knows one budget of each owner: of several periods, the one of which least is left.
fn tightest(
    standings: &[Standing],
) -> impl Iterator<Item = (&'static Family, &Standing, PicoDollars, PicoDollars)> {
    let mut tightest = BTreeMap::new();
    for standing in standings {
        let id = &standing.budget.id;
        let family = FAMILIES.iter().find(|family| family.scope == id.scope);
        let (Some(family), Some(limit)) = (family, standing.budget.limit) else { continue };
        let remaining = limit.saturating_sub(standing.spent);
        let found = (family, standing, limit, remaining);
        let kept = tightest.entry((id.scope, &*id.subject)).or_insert(found);
        if remaining < kept.3 {
            *kept = found;
        }
    }
    tightest.into_values()
}

impl Collector for Exposition {
    fn desc(&self) -> Vec<&Desc> {
        self.descriptions.iter().collect()
    }

    fn collect(&self) -> Vec<proto::MetricFamily> {
        // The names and labels were tried when it was made.
        self.shown().unwrap_or_default()
    }
}
