//! What was spent: `/spend/*` and `/global/spend/report`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value, json};
use tollway_filter_api::accounts::{Kind, Wanted};
use tollway_filter_api::identity::KeyStore;
use tollway_filter_api::ledger::{Dimension, Span, SpendFilter, SpendRecord, Sum};
use tollway_filter_api::{KeyHash, Reject, Rejection};

use super::Ask;
use super::access::missing;
use super::keys::hash_hex;
use super::rows::dollars;
use super::store::refused;
use crate::calendar;

/// How many calls `/spend/logs` lists at most, as LiteLLM.
const LOGS_MAX: u64 = 10_000;
/// The largest page of calls.
const PAGE_MAX: u64 = 1_000;
/// How many records are added up one by one, where no sum is kept.
const ADDED_MAX: u64 = 100_000;
const DAY_MS: u64 = 86_400_000;
/// The end of time, as far as databases know.
const FOREVER_MS: u64 = u64::MAX >> 1;

impl Ask<'_> {
    /// From when to when, the end not included.
    fn span(&self) -> (u64, u64) {
        let from = self.said.moment_ms("start_date").unwrap_or(0);
        let to = self.said.moment_ms("end_date").map(|to| {
            // A date means all of that day.
            let is_day =
                self.said.text("end_date").is_some_and(|text| !text.contains([':', 'T', 't']));
            if is_day { to.saturating_add(DAY_MS) } else { to }
        });
        (from, to.unwrap_or(FOREVER_MS))
    }

    /// What of the ledger is asked for, narrowed to what the caller may see.
    async fn spend_filter(&self) -> Result<SpendFilter, Rejection> {
        let said = |name: &str| self.said.text(name).map(Arc::<str>::from);
        let said_key = self.said.text("api_key").map(hash_hex);
        let (from, to) = self.span();
        let mut filter = SpendFilter {
            request_id: said("request_id"),
            key: said_key.as_deref().map(|key| self.ledger_key(key)),
            user: said("user_id"),
            team: said("team_id"),
            end_user: said("end_user"),
            tag: said("tag"),
            group: said("model"),
            from_ms: (from > 0).then_some(from),
            to_ms: (to < FOREVER_MS).then_some(to),
        };
        if self.caller.is_viewer() {
            return Ok(filter);
        }
        if let Some(team) = &filter.team
            && self.caller.sees_spend_of_team(team)
        {
            return Ok(filter);
        }
        let own = Arc::clone(&self.caller.key.hash_hex);
        if let Some(user) = &filter.user
            && !self.caller.is_user(Some(user))
        {
            return Err(missing("user", "user_id"));
        }
        if let Some(key) = &said_key
            && filter.key.as_ref() != Some(&own)
            && !self.sees_key_of(key).await?
        {
            return Err(missing("key", "api_key"));
        }
        if filter.team.as_ref().is_some_and(|team| !self.caller.sees_team(team)) {
            return Err(missing("team", "team_id"));
        }
        // A key that may be seen is enough; else everything is about the caller.
        if filter.key.is_none() {
            match self.caller.user() {
                Some(user) => filter.user = Some(Arc::clone(user)),
                None => filter.key = Some(own),
            }
        }
        Ok(filter)
    }

    /// What the ledger calls a key: the one that it was first, if it was regenerated.
    fn ledger_key(&self, hash: &str) -> Arc<str> {
        let key = KeyHash::from_hex(hash).and_then(|hash| self.admin.directory.find(&hash));
        key.map_or_else(|| hash.into(), |key| Arc::clone(&key.hash_hex))
    }

    async fn sees_key_of(&self, hash: &str) -> Result<bool, Rejection> {
        let known = KeyHash::from_hex(hash).and_then(|hash| self.around.config.keys.find(&hash));
        if let Some(key) = known {
            return Ok(self.caller.is_user(key.user.as_deref()));
        }
        let object = self.get(Kind::Key, hash).await?;
        Ok(object.is_some_and(|object| self.caller.sees_key(&object)))
    }

    async fn records(
        &self,
        filter: SpendFilter,
        skip: u64,
        limit: u64,
    ) -> Result<Vec<SpendRecord>, Rejection> {
        self.admin.ledger.records(filter, skip, limit).await.map_err(refused)
    }

    async fn sums(&self, dimension: Dimension, span: Span) -> Result<Vec<Sum>, Rejection> {
        let (from, to) = self.span();
        self.admin.ledger.sums(dimension, span, from, to).await.map_err(refused)
    }

    pub(super) async fn spend_logs(&self) -> Result<Value, Rejection> {
        let filter = self.spend_filter().await?;
        let has_dates = self.said.says("start_date") && self.said.says("end_date");
        if has_dates && self.said.flag("summarize") != Some(false) {
            return self.spend_by_day(filter).await;
        }
        let records = self.records(filter, 0, LOGS_MAX).await?;
        Ok(records.iter().map(log_row).collect())
    }

    pub(super) async fn spend_logs_paged(&self) -> Result<Value, Rejection> {
        let filter = self.spend_filter().await?;
        let (page, size) = self.page(50, PAGE_MAX)?;
        let total = self.counted(&filter).await?;
        let records = self.records(filter, (page - 1) * size, size).await?;
        Ok(json!({
            "data": records.iter().map(log_row).collect::<Value>(),
            "total": total, "page": page, "page_size": size,
            "total_pages": total.map(|total| total.div_ceil(size)),
        }))
    }

    /// How many records there are, where a sum is kept that says so.
    async fn counted(&self, filter: &SpendFilter) -> Result<Option<u64>, Rejection> {
        let Some((dimension, subject)) = dimension_of(filter) else { return Ok(None) };
        let (from, to) = self.span();
        let sum = self.admin.ledger.sum_of(dimension, subject, from, to).await.map_err(refused)?;
        Ok(Some(sum.map_or(0, |sum| sum.calls)))
    }

    /// Sums by day, with users and models, as LiteLLM's `summarize`.
    async fn spend_by_day(&self, filter: SpendFilter) -> Result<Value, Rejection> {
        let mut days: BTreeMap<u64, Day> = BTreeMap::new();
        let is_all =
            SpendFilter { from_ms: None, to_ms: None, ..filter.clone() } == SpendFilter::default();
        if is_all {
            for sum in self.sums(Dimension::Total, Span::Day).await? {
                days.entry(sum.start_ms).or_default().spend += sum.cost;
            }
            for sum in self.sums(Dimension::User, Span::Day).await? {
                add(&mut days.entry(sum.start_ms).or_default().users, &sum.subject, sum.cost);
            }
            for sum in self.sums(Dimension::Model, Span::Day).await? {
                add(&mut days.entry(sum.start_ms).or_default().models, &sum.subject, sum.cost);
            }
        } else {
            let mut seen = 0;
            loop {
                let records = self.records(filter.clone(), seen, LOGS_MAX).await?;
                let is_last = (records.len() as u64) < LOGS_MAX;
                seen += records.len() as u64;
                for record in &records {
                    let day = days.entry(record.started_ms / DAY_MS * DAY_MS).or_default();
                    let cost = u128::from(record.cost.0);
                    day.spend += cost;
                    add(&mut day.users, record.user.as_deref().unwrap_or_default(), cost);
                    add(&mut day.models, &record.group, cost);
                }
                if is_last {
                    break;
                }
                if seen >= ADDED_MAX {
                    let message = "That is too much to be added up at once: ask for fewer days.";
                    return Err(Reject::invalid_request(message).with_param("start_date"));
                }
            }
        }
        let rows = days.into_iter().map(|(start_ms, day)| {
            json!({
                "startTime": day_text(start_ms), "spend": dollars(day.spend),
                "users": amounts(day.users), "models": amounts(day.models),
            })
        });
        Ok(rows.collect())
    }

    pub(super) async fn spend_tags(&self) -> Result<Value, Rejection> {
        let mut sums = self.sums(Dimension::Tag, Span::All).await?;
        sums.retain(|sum| !sum.subject.is_empty());
        sums.sort_by_key(|sum| std::cmp::Reverse(sum.cost));
        let rows = sums.iter().map(|sum| {
            json!({
                "individual_request_tag": sum.subject, "log_count": sum.calls,
                "total_spend": dollars(sum.cost),
            })
        });
        Ok(rows.collect())
    }

    pub(super) async fn spend_keys(&self) -> Result<Value, Rejection> {
        let (page, size) = self.page(100, 100)?;
        let (keys, _) = self.keys_wanted((page - 1) * size, size).await?.unwrap_or_default();
        let mut rows = Vec::with_capacity(keys.len());
        for key in &keys {
            rows.push(self.key_row(key).await?);
        }
        Ok(by_spend(rows))
    }

    pub(super) async fn spend_users(&self) -> Result<Value, Rejection> {
        let (page, size) = self.page(100, 100)?;
        let asked = self.said.text("user_id");
        let one = match (asked, self.caller.is_viewer()) {
            (Some(user), true) => Some(user),
            (None, true) => None,
            (Some(user), false) if self.caller.is_user(Some(user)) => Some(user),
            (Some(_), false) => return Err(missing("user", "user_id")),
            (None, false) => match self.caller.user() {
                Some(user) => Some(&**user),
                None => return Ok(json!([])),
            },
        };
        let users = match one {
            Some(user) => match self.get(Kind::User, user).await? {
                None if asked.is_some() => return Err(missing("user", "user_id")),
                user => user.into_iter().collect(),
            },
            None => {
                let wanted = Wanted { skip: (page - 1) * size, limit: size, ..Wanted::default() };
                self.admin.accounts.list(Kind::User, wanted).await.map_err(refused)?.objects
            }
        };
        let mut rows = Vec::with_capacity(users.len());
        for user in &users {
            rows.push(self.user_row(user).await?);
        }
        Ok(by_spend(rows))
    }

    pub(super) async fn spend_report(&self) -> Result<Value, Rejection> {
        for name in ["start_date", "end_date"] {
            if !self.said.says(name) {
                let message = "Please provide start_date and end_date.";
                return Err(Reject::invalid_request(message).with_param(name));
            }
        }
        match self.said.text("group_by") {
            Some("api_key") => self.report_by_key().await,
            Some("customer") => self.report_by(Dimension::EndUser, "customers", "customer").await,
            _ => self.report_by(Dimension::Team, "teams", "team_name").await,
        }
    }

    async fn report_by(
        &self,
        dimension: Dimension,
        list: &str,
        name: &str,
    ) -> Result<Value, Rejection> {
        let mut days: BTreeMap<u64, Vec<Value>> = BTreeMap::new();
        for sum in self.sums(dimension, Span::Day).await? {
            let team = match dimension {
                Dimension::Team => self.admin.directory.account(Kind::Team, &sum.subject),
                _ => None,
            };
            let shown = team
                .and_then(|team| team.alias.clone())
                .unwrap_or_else(|| Arc::clone(&sum.subject));
            days.entry(sum.start_ms).or_default().push(json!({
                name: shown, "id": sum.subject, "total_spend": dollars(sum.cost), "calls": sum.calls,
                "prompt_tokens": sum.prompt_tokens, "completion_tokens": sum.completion_tokens, "metadata": [],
            }));
        }
        let rows = days
            .into_iter()
            .map(|(start_ms, rows)| json!({"group_by_day": day_text(start_ms), list: rows}));
        Ok(rows.collect())
    }

    async fn report_by_key(&self) -> Result<Value, Rejection> {
        let mut models: BTreeMap<String, Vec<Value>> = BTreeMap::new();
        for sum in self.sums(Dimension::KeyModel, Span::All).await? {
            let Some((key, model)) = sum.subject.split_once('\0') else { continue };
            models.entry(key.to_owned()).or_default().push(json!({
                "model": model, "total_cost": dollars(sum.cost),
                "total_input_tokens": sum.prompt_tokens, "total_output_tokens": sum.completion_tokens,
            }));
        }
        let mut sums = self.sums(Dimension::Key, Span::All).await?;
        sums.sort_by_key(|sum| std::cmp::Reverse(sum.cost));
        let rows = sums.iter().map(|sum| {
            json!({
                "api_key": sum.subject, "total_cost": dollars(sum.cost),
                "total_input_tokens": sum.prompt_tokens, "total_output_tokens": sum.completion_tokens,
                "model_details": models.remove(&*sum.subject).unwrap_or_default(),
            })
        });
        Ok(rows.collect())
    }
}

#[derive(Default)]
struct Day {
    spend: u128,
    users: BTreeMap<String, u128>,
    models: BTreeMap<String, u128>,
}

fn add(sums: &mut BTreeMap<String, u128>, name: &str, cost: u128) {
    *sums.entry(name.to_owned()).or_default() += cost;
}

fn amounts(sums: BTreeMap<String, u128>) -> Map<String, Value> {
    sums.into_iter().map(|(name, cost)| (name, dollars(cost))).collect()
}

fn day_text(start_ms: u64) -> String {
    calendar::day_text(Duration::from_millis(start_ms))
}

fn by_spend(mut rows: Vec<Map<String, Value>>) -> Value {
    let spend = |row: &Map<String, Value>| row.get("spend").and_then(Value::as_f64).unwrap_or(0.0);
    rows.sort_by(|a, b| spend(b).total_cmp(&spend(a)));
    rows.into_iter().map(Value::Object).collect()
}

/// The sum that holds just what a filter lets through, if one is kept.
fn dimension_of(filter: &SpendFilter) -> Option<(Dimension, &str)> {
    let SpendFilter { request_id, key, user, team, end_user, tag, group, from_ms: _, to_ms: _ } =
        filter;
    let given: Vec<(Dimension, &str)> = [
        (Dimension::Key, key),
        (Dimension::User, user),
        (Dimension::Team, team),
        (Dimension::EndUser, end_user),
        (Dimension::Tag, tag),
        (Dimension::Model, group),
    ]
    .into_iter()
    .filter_map(|(dimension, subject)| Some((dimension, subject.as_deref()?)))
    .collect();
    match (request_id, given.as_slice()) {
        (None, []) => Some((Dimension::Total, "")),
        (None, [one]) => Some(*one),
        _ => None,
    }
}

/// A call as LiteLLM's spend log has it.
fn log_row(record: &SpendRecord) -> Value {
    let moment = |ms: u64| calendar::text(Duration::from_millis(ms));
    let usage = &record.usage;
    let total = usage.prompt_tokens.saturating_add(usage.completion_tokens);
    let status = if (200..400).contains(&record.status) { "success" } else { "failure" };
    json!({
        "request_id": record.request_id,
        "call_type": record.operation,
        "api_key": record.key,
        "spend": dollars(record.cost.0.into()),
        "total_tokens": total,
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "startTime": moment(record.started_ms),
        "endTime": moment(record.ended_ms),
        "completionStartTime": record.first_byte_ms.map(moment),
        "model": record.model,
        "model_id": record.model_id,
        "model_group": record.group,
        "custom_llm_provider": record.provider,
        "api_base": record.api_base,
        "user": record.user.as_deref().unwrap_or_default(),
        "metadata": {
            "user_api_key": record.key,
            "user_api_key_alias": record.key_alias,
            "user_api_key_user_id": record.user,
            "user_api_key_team_id": record.team,
            "usage_object": {
                "prompt_tokens": usage.prompt_tokens,
                "completion_tokens": usage.completion_tokens,
                "total_tokens": total,
                "cache_read_input_tokens": usage.cache_read_tokens,
                "cache_creation_input_tokens": usage.cache_write_tokens,
                "reasoning_tokens": usage.reasoning_tokens,
            },
            "usage_estimated": record.usage_estimated,
            "unpriced": record.unpriced,
            "status_code": record.status,
        },
        "cache_hit": if record.cache_hit { "True" } else { "False" },
        "cache_key": "",
        "request_tags": record.tags,
        "team_id": record.team,
        "organization_id": null,
        "end_user": record.end_user.as_deref().unwrap_or_default(),
        "requester_ip_address": record.client,
        "session_id": null,
        "status": status,
    })
}
