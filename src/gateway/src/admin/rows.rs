//! Objects as answers show them: LiteLLM's rows, with all their members, set or not.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value, json};
use tollway_filter_api::Rejection;
use tollway_filter_api::accounts::{Kind, Object};
use tollway_filter_api::identity::KeyStore;
use tollway_filter_api::ledger::{Dimension, Sum};
use tollway_filter_api::treasury::{Budget, Period};
use tollway_filter_api::{KeyHash, VirtualKey};
use tollway_wire::price::PicoDollars;

use super::Ask;
use super::store::refused;
use crate::directory::MEMBER_BUDGETS;
use crate::{calendar, config};

/// Dollars as JSON: a sum of years is more than a `PicoDollars` holds.
pub(super) fn dollars(pico: u128) -> Value {
    let per = u128::from(PicoDollars::PER_DOLLAR);
    let (whole, rest) = (pico / per, pico % per);
    if rest == 0 {
        return u64::try_from(whole).map_or(Value::Null, Value::from);
    }
    // The shortest number that reads as this.
    format!("{whole}.{rest:012}").parse::<f64>().map_or(Value::Null, Value::from)
}

/// When a period that runs begins and ends, in milliseconds since the Unix epoch; all of time where
/// there is none.
pub(super) fn bounds_ms(period: Option<Period>, now: Duration) -> (u64, u64) {
    let ms = |at: Duration| u64::try_from(at.as_millis()).unwrap_or(u64::MAX >> 1);
    period.map_or((0, u64::MAX >> 1), |period| {
        let (from, to) = period.bounds(now);
        (ms(from), ms(to))
    })
}

impl Ask<'_> {
    /// What somebody has spent: of their budget in its present period, where they have one; else in
    /// all.
    pub(super) async fn spent(
        &self,
        dimension: Dimension,
        subject: &str,
        budgets: &[Arc<Budget>],
    ) -> Result<Value, Rejection> {
        let own = budgets.iter().find(|budget| budget.id.part.is_none());
        if let (Some(treasury), Some(budget)) = (&self.admin.treasury, own) {
            let (spent, _) = treasury.spent(&budget.id, self.now());
            // Nothing may also mean that no call has met the budget since the start.
            if spent > PicoDollars::ZERO {
                return Ok(dollars(spent.0.into()));
            }
        }
        let period = own.and_then(|budget| budget.id.period);
        let (from_ms, to_ms) = bounds_ms(period, self.now());
        let asked = self.admin.ledger.sum_of(dimension, subject, from_ms, to_ms);
        let sum: Option<Sum> = asked.await.map_err(refused)?;
        Ok(dollars(sum.map_or(0, |sum| sum.cost)))
    }

    async fn spent_by(&self, dimension: Dimension, object: &Object) -> Result<Value, Rejection> {
        let account = self.admin.directory.account(object.kind, &object.id);
        let budgets = account.as_ref().map_or(&[][..], |account| &account.budgets);
        self.spent(dimension, &object.id, budgets).await
    }

    /// When an object's budget is full again.
    fn resets_at(&self, body: &Map<String, Value>) -> Value {
        let period = body.get("budget_duration").and_then(Value::as_str);
        let period: Option<Period> = period.and_then(|text| text.parse().ok());
        period.map_or(Value::Null, |period| calendar::text(period.bounds(self.now()).1).into())
    }

    /// The budget an object refers to, as a row.
    async fn budget_of(&self, body: &Map<String, Value>) -> Result<Value, Rejection> {
        let Some(id) = body.get("budget_id").and_then(Value::as_str) else {
            return Ok(Value::Null);
        };
        Ok(self.get(Kind::Budget, id).await?.map_or(Value::Null, |budget| self.budget_row(&budget)))
    }

    fn laid_over(&self, mut row: Value, object: &Object) -> Map<String, Value> {
        let mut row = match row.take() {
            Value::Object(row) => row,
            _ => Map::new(),
        };
        row.insert("budget_reset_at".to_owned(), self.resets_at(&object.body));
        for (name, value) in &object.body {
            row.insert(name.clone(), value.clone());
        }
        row
    }

    /// A key.
    pub(super) async fn key_row(&self, key: &Object) -> Result<Map<String, Value>, Rejection> {
        let row = json!({
            "token": &*key.id, "key_name": null, "key_alias": key.alias, "spend": 0, "max_budget": null,
            "expires": null, "models": [], "aliases": {}, "config": {}, "user_id": key.user,
            "team_id": key.team, "permissions": {}, "max_parallel_requests": null, "metadata": {},
            "tpm_limit": null, "rpm_limit": null, "budget_duration": null, "budget_reset_at": null,
            "allowed_cache_controls": [], "allowed_routes": [], "model_spend": {}, "model_max_budget": {},
            "blocked": null, "budget_id": null, "soft_budget": null, "tags": [], "guardrails": [],
            "created_at": null, "created_by": null, "updated_at": null, "updated_by": null,
            "litellm_budget_table": null, "organization_id": null, "object_permission": null,
        });
        let mut row = self.laid_over(row, key);
        // Under which key the ledger has it, where that is the one it was regenerated from.
        let first = row.remove("ledger_key");
        let first = first.as_ref().and_then(Value::as_str).unwrap_or(&key.id);
        let known = KeyHash::from_hex(&key.id).and_then(|hash| self.admin.directory.find(&hash));
        let budgets = known.as_ref().map_or(&[][..], |known| &known.budgets);
        row.insert("spend".to_owned(), self.spent(Dimension::Key, first, budgets).await?);
        row.insert("litellm_budget_table".to_owned(), self.budget_of(&key.body).await?);
        let expires = key.body.get("expires").and_then(Value::as_str).and_then(config::moment);
        let status = match () {
            () if expires.is_some_and(|expires| expires <= self.now()) => "expired",
            () if key.body.get("blocked") == Some(&Value::Bool(true)) => "revoked",
            () => "active",
        };
        row.insert("status".to_owned(), status.into());
        Ok(row)
    }

    /// A key of the config. The config says more about it than this.
    pub(super) async fn config_key_row(
        &self,
        key: &VirtualKey,
    ) -> Result<Map<String, Value>, Rejection> {
        let mut body = Map::new();
        let mut set = |name: &str, value: Value| body.insert(name.to_owned(), value);
        set("models", key.settings.models.clone().into());
        set("aliases", json!(key.settings.aliases));
        set("metadata", Value::Object(key.settings.metadata.clone()));
        set("tpm_limit", key.settings.limits.tpm.into());
        set("rpm_limit", key.settings.limits.rpm.into());
        set("max_parallel_requests", key.settings.limits.max_parallel_requests.into());
        set("blocked", key.blocked.into());
        set("expires", key.expires.map(calendar::text).into());
        set("allowed_routes", key.settings.routes.clone().into());
        let money = key.budgets.iter().find(|budget| budget.id.part.is_none());
        set(
            "max_budget",
            money
                .and_then(|budget| budget.limit)
                .map_or(Value::Null, |limit| dollars(limit.0.into())),
        );
        let object = Object {
            kind: Kind::Key,
            id: key.hash_hex.clone(),
            alias: key.alias.clone(),
            user: key.user.clone(),
            team: key.team.clone(),
            body,
            version: 0,
        };
        let mut row = self.key_row(&object).await?;
        row.insert("from_config".to_owned(), true.into());
        Ok(row)
    }

    /// A user.
    pub(super) async fn user_row(&self, user: &Object) -> Result<Map<String, Value>, Rejection> {
        let row = json!({
            "user_id": &*user.id, "user_alias": null, "user_email": null, "user_role": null, "teams": [],
            "max_budget": null, "spend": 0, "models": [], "metadata": {}, "max_parallel_requests": null,
            "tpm_limit": null, "rpm_limit": null, "budget_duration": null, "budget_reset_at": null,
            "allowed_cache_controls": [], "model_spend": {}, "model_max_budget": {}, "created_at": null,
            "updated_at": null, "organization_memberships": null, "sso_user_id": null,
        });
        let mut row = self.laid_over(row, user);
        row.insert("spend".to_owned(), self.spent_by(Dimension::User, user).await?);
        Ok(row)
    }

    /// A team.
    pub(super) async fn team_row(&self, team: &Object) -> Result<Map<String, Value>, Rejection> {
        let row = json!({
            "team_id": &*team.id, "team_alias": team.alias, "organization_id": null, "admins": [], "members": [],
            "members_with_roles": [], "metadata": {}, "tpm_limit": null, "rpm_limit": null,
            "max_parallel_requests": null, "max_budget": null, "soft_budget": null, "budget_duration": null,
            "budget_reset_at": null, "models": [], "blocked": false, "spend": 0, "model_spend": {},
            "model_max_budget": {}, "model_id": null, "litellm_model_table": null, "object_permission": null,
            "created_at": null, "updated_at": null,
        });
        let mut row = self.laid_over(row, team);
        // Shown as memberships.
        row.remove(MEMBER_BUDGETS);
        row.insert("spend".to_owned(), self.spent_by(Dimension::Team, team).await?);
        Ok(row)
    }

    /// A budget.
    pub(super) fn budget_row(&self, budget: &Object) -> Value {
        let row = json!({
            "budget_id": &*budget.id, "max_budget": null, "soft_budget": null, "max_parallel_requests": null,
            "tpm_limit": null, "rpm_limit": null, "model_max_budget": null, "budget_duration": null,
            "budget_reset_at": null, "created_at": null, "created_by": null, "updated_at": null,
            "updated_by": null,
        });
        Value::Object(self.laid_over(row, budget))
    }

    /// An end user. Its money is shown as a budget, which is where LiteLLM has it.
    pub(super) async fn customer_row(&self, customer: &Object) -> Result<Value, Rejection> {
        let row = json!({
            "user_id": &*customer.id, "alias": null, "blocked": false, "spend": 0, "default_model": null,
            "allowed_model_region": null, "models": [], "budget_id": null, "litellm_budget_table": null,
        });
        let mut row = self.laid_over(row, customer);
        row.insert("spend".to_owned(), self.spent_by(Dimension::EndUser, customer).await?);
        row.insert("litellm_budget_table".to_owned(), self.terms_row(customer).await?);
        Ok(Value::Object(row))
    }

    /// A tag.
    pub(super) async fn tag_row(&self, tag: &Object) -> Result<Value, Rejection> {
        let row = json!({
            "name": &*tag.id, "description": null, "models": [], "model_info": null, "spend": 0,
            "budget_id": null, "litellm_budget_table": null, "created_at": null, "updated_at": null,
            "created_by": null,
        });
        let mut row = self.laid_over(row, tag);
        row.insert("spend".to_owned(), self.spent_by(Dimension::Tag, tag).await?);
        row.insert("litellm_budget_table".to_owned(), self.terms_row(tag).await?);
        Ok(Value::Object(row))
    }

    async fn terms_row(&self, object: &Object) -> Result<Value, Rejection> {
        let referred = self.budget_of(&object.body).await?;
        let says = super::table::MONEY.iter().any(|field| object.body.contains_key(field.name));
        if !referred.is_null() || !says {
            return Ok(referred);
        }
        let own = super::table::MONEY.iter().filter_map(|field| {
            Some((field.name.to_owned(), object.body.get(field.name)?.clone()))
        });
        Ok(Value::Object(own.collect()))
    }
}
