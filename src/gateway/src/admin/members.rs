//! What the members of a team may spend of it, and have spent: LiteLLM's team memberships.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value, json};
use tollway_filter_api::Rejection;
use tollway_filter_api::accounts::Object;
use tollway_filter_api::identity::{Account, KeyStore};
use tollway_filter_api::ledger::{Dimension, Span};
use tollway_filter_api::treasury::{Budget, Period};

use super::Ask;
use super::rows::{bounds_ms, dollars};
use super::store::refused;
use crate::calendar;
use crate::directory::MEMBER_BUDGETS;

/// Sets what a member may spend of a team.
pub(super) fn set_budget(body: &mut Map<String, Value>, user: &str, limit: Value, length: Value) {
    let all = body.entry(MEMBER_BUDGETS).or_insert_with(|| json!({}));
    if let Some(all) = all.as_object_mut() {
        all.insert(
            user.to_owned(),
            json!({"max_budget_in_team": limit, "budget_duration": length}),
        );
    }
}

/// Takes away what a member may spend of a team: it may spend as much as the others again.
pub(super) fn remove_budget(body: &mut Map<String, Value>, user: &str) {
    if let Some(all) = body.get_mut(MEMBER_BUDGETS).and_then(Value::as_object_mut) {
        all.remove(user);
    }
}

/// What a team's body says of a member's budget.
fn said<'b>(body: &'b Map<String, Value>, user: &str, name: &str) -> Option<&'b Value> {
    body.get(MEMBER_BUDGETS)?.get(user)?.get(name)
}

impl Ask<'_> {
    /// Takes in what a request says about a member's budget.
    pub(super) fn set_member_budget(&self, body: &mut Map<String, Value>, user: &str) {
        let new = |name: &str| {
            let before = said(body, user, name).cloned();
            self.said.0.get(name).cloned().or(before).unwrap_or_default()
        };
        let (limit, length) = (new("max_budget_in_team"), new("budget_duration"));
        match limit {
            Value::Null => remove_budget(body, user),
            limit => set_budget(body, user, limit, length),
        }
    }

    /// LiteLLM's rows of some members: what each may spend, and has spent.
    pub(super) async fn memberships(
        &self,
        team: &Object,
        users: &[Arc<str>],
    ) -> Result<Vec<Value>, Rejection> {
        let account: Option<Arc<Account>> = self.admin.directory.account(team.kind, &team.id);
        let budget = |user: &Arc<str>| account.as_ref().and_then(|team| team.of_member(user));
        let now = self.now();
        // What the ledger says, for every length of period that is in use.
        let mut spent: HashMap<Option<Period>, HashMap<Arc<str>, u128>> = HashMap::new();
        let mut periods: HashSet<Option<Period>> = HashSet::from([None]);
        periods.extend(users.iter().filter_map(budget).map(|budget| budget.id.period));
        for period in periods {
            spent.insert(period, self.spent_of_members(&team.id, period, now).await?);
        }
        let of = |user: &Arc<str>, period| -> u128 {
            spent.get(&period).and_then(|of| of.get(user)).copied().unwrap_or_default()
        };
        let row = |user: &Arc<str>| {
            let budget = budget(user);
            let mut in_period = of(user, budget.as_ref().and_then(|budget| budget.id.period));
            if let (Some(budget), Some(treasury)) = (&budget, &self.admin.treasury) {
                // Of the two, one has not been asked since the start, or the other waits for the last
                // calls: spend only grows.
                let (known, _) = treasury.spent(&budget.id, now);
                in_period = in_period.max(known.0.into());
            }
            json!({
                "user_id": &**user, "team_id": &*team.id, "budget_id": null,
                "spend": dollars(in_period), "total_spend": dollars(of(user, None).max(in_period)),
                "litellm_budget_table": budget.as_deref().map(|budget| terms(budget, now)),
            })
        };
        Ok(users.iter().map(row).collect())
    }

    /// What the members of a team have spent in a period that runs.
    async fn spent_of_members(
        &self,
        team: &str,
        period: Option<Period>,
        now: Duration,
    ) -> Result<HashMap<Arc<str>, u128>, Rejection> {
        let (from, to) = bounds_ms(period, now);
        let asked = self.admin.ledger.sums(Dimension::TeamMember, Span::All, from, to);
        let sums = asked.await.map_err(refused)?;
        let of_team = sums.into_iter().filter_map(|sum| {
            let (of, user) = sum.subject.split_once('\0')?;
            (of == team).then(|| (user.into(), sum.cost))
        });
        Ok(of_team.collect())
    }
}

/// A member's budget as a row.
fn terms(budget: &Budget, now: Duration) -> Value {
    let period = budget.id.period;
    json!({
        "max_budget": budget.limit.map_or(Value::Null, |limit| dollars(limit.0.into())),
        "soft_budget": null, "max_parallel_requests": null, "tpm_limit": null, "rpm_limit": null,
        "model_max_budget": null, "budget_duration": period.map(|period| period.to_string()),
        "budget_reset_at": period.map(|period| calendar::text(period.bounds(now).1)),
    })
}
