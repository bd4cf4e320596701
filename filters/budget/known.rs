//! The budgets that calls have met, and how each of them stands: for Prometheus, and for whoever
//! warns operators.
//!
//! A call only makes its budgets known. What they are and what is left is asked for when somebody
//! wants to know, from what is configured then: one that was changed shows as it is, one that was
//! taken away is forgotten.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use foldhash::fast::RandomState;
use papaya::HashMap;
use parking_lot::RwLock;
use tollway_filter_api::deps::Metrics;
use tollway_filter_api::identity::KeyStore;
use tollway_filter_api::treasury::{Budget, BudgetId, BudgetScope, Treasury};
use tollway_filter_api::{Clock, ModelGroup, RequestCtx};
use tollway_wire::price::PicoDollars;

use super::bound::Servers;
use super::gauges::Exposition;
use super::rules::Rules;

/// How many scopes there are.
const SCOPES: usize = BudgetScope::Request as usize + 1;

/// The budgets that were in use. The same for all generations of the config.
pub struct Known {
    treasury: Arc<dyn Treasury>,
    clock: Clock,
    /// Those of the latest config.
    rules: RwLock<Option<Arc<Rules>>>,
    /// With the second in which a call was last refused for each.
    budgets: HashMap<BudgetId, AtomicU64, RandomState>,
    /// How many there are of each scope: end users, whom callers make up, push out nobody else.
    counts: [AtomicUsize; SCOPES],
}

/// How a budget stands.
#[derive(Clone, Debug)]
pub struct Standing {
    /// The budget.
    pub budget: Arc<Budget>,
    /// What its key or team is called.
    pub alias: Option<Arc<str>>,
    /// What was spent of it in the present period.
    pub spent: PicoDollars,
    /// What calls under way have reserved.
    pub reserved: PicoDollars,
    /// When the present period began and when it ends, since the Unix epoch.
    pub period: Option<(Duration, Duration)>,
    /// A call was refused for it in the present period.
    pub has_refused: bool,
}

impl Known {
    /// Those of this process.
    ///
    /// # Errors
    /// When the name of a metric is taken.
    pub fn of(
        metrics: &Metrics,
        treasury: &Arc<dyn Treasury>,
        clock: &Clock,
    ) -> prometheus::Result<Arc<Known>> {
        let known = metrics.get_or_make(|registry| {
            let known = Arc::new(Known {
                treasury: Arc::clone(treasury),
                clock: clock.clone(),
                rules: RwLock::default(),
                budgets: HashMap::default(),
                counts: Default::default(),
            });
            registry.register(Box::new(Exposition::new(Arc::clone(&known))?))?;
            Ok(known)
        })?;
        Ok(Arc::clone(&known))
    }

    /// Looks budgets up in a new config from now on.
    pub(super) fn follow(&self, rules: Arc<Rules>) {
        *self.rules.write() = Some(rules);
    }

    /// Remembers a budget, unless there are `max` of its scope already.
    pub(super) fn note(&self, id: &BudgetId, max: usize) {
        let budgets = self.budgets.pin();
        if budgets.contains_key(id) {
            return;
        }
        let count = &self.counts[id.scope as usize];
        if count.load(Ordering::Relaxed) < max
            && budgets.try_insert(id.clone(), AtomicU64::new(0)).is_ok()
        {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Remembers that a call was refused for a budget.
    pub(super) fn refused(&self, id: &BudgetId) {
        if let Some(at) = self.budgets.pin().get(id) {
            at.store(self.clock.unix().as_secs(), Ordering::Relaxed);
        }
    }

    /// The budgets that apply to what a deployment has done for somebody, once there is a config.
    pub fn applying(&self, ctx: &RequestCtx) -> Vec<Arc<Budget>> {
        let Some(rules) = self.rules.read().clone() else { return Vec::new() };
        let mut servers = Servers::default();
        if let (Some(plan), Some(deployment)) = (&ctx.plan, &ctx.report.deployment) {
            let deployments = vec![Arc::clone(deployment)];
            servers.add(Some(Arc::new(ModelGroup { deployments, ..(*plan.group).clone() })));
        }
        rules.applying(ctx, &servers).into_vec()
    }

    /// Who keeps keys, teams and users, once there is a config.
    pub fn keys(&self) -> Option<Arc<dyn KeyStore>> {
        self.rules.read().as_ref().map(|rules| Arc::clone(&rules.keys))
    }

    /// How all of them stand.
    pub fn standings(&self) -> Vec<Standing> {
        let Some(rules) = self.rules.read().clone() else { return Vec::new() };
        let now = self.clock.unix();
        let budgets = self.budgets.pin();
        let mut standings = Vec::with_capacity(budgets.len());
        for (id, refused) in &budgets {
            let (spent, reserved) = self.treasury.spent(id, now);
            // An end user of an earlier period is somebody whom nobody may ever name again.
            let is_idle = id.scope == BudgetScope::EndUser
                && spent.saturating_add(reserved) == PicoDollars::ZERO;
            let current = rules.current(id).filter(|_| !is_idle);
            let Some((budget, alias)) = current else {
                if budgets.remove(id).is_some() {
                    self.counts[id.scope as usize].fetch_sub(1, Ordering::Relaxed);
                }
                continue;
            };
            let period = id.period.map(|period| period.bounds(now));
            let began = period.map_or(0, |(start, _)| start.as_secs());
            let refused = refused.load(Ordering::Relaxed);
            let has_refused = refused > 0 && refused >= began;
            standings.push(Standing { budget, alias, spent, reserved, period, has_refused });
        }
        standings
    }

    /// The time by which they are told.
    pub(super) fn now(&self) -> Duration {
        self.clock.unix()
    }
}
