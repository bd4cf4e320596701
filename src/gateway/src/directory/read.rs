//! From stored objects to what requests are decided by.
//!
//! What is stored may come from a LiteLLM database, so that everything is read with its two or three
//! spellings. A setting that makes no sense is never taken for "no limit": a budget that cannot be
//! read is a budget of nothing.

use std::collections::{BTreeMap, HashSet};
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::Arc;

use serde_json::{Map, Value};
use tollway_filter_api::accounts::{Kind, Object};
use tollway_filter_api::identity::{Account, KeySettings, MembersBudgets, Role};
use tollway_filter_api::limits::RateLimits;
use tollway_filter_api::treasury::{Budget, BudgetId, BudgetScope};
use tollway_filter_api::{KeyHash, VirtualKey};
use tollway_wire::price::PicoDollars;

use crate::config;

/// Where a team has what its members may spend: `{user: {max_budget_in_team, budget_duration}}`.
pub(crate) const MEMBER_BUDGETS: &str = "member_budgets";

/// LiteLLM's name for the MCP servers, and the tools of them, that somebody may use.
pub(crate) const OBJECT_PERMISSION: &str = "object_permission";

/// What an object says about money and rates.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Terms {
    budgets: Vec<Amounts>,
    limits: RateLimits,
    model_limits: BTreeMap<String, RateLimits>,
}

/// One budget, before it is known whose it is.
#[derive(Clone, Debug, PartialEq)]
struct Amounts {
    model: Option<Arc<str>>,
    limit: Option<PicoDollars>,
    soft: Option<PicoDollars>,
    period: Option<tollway_filter_api::treasury::Period>,
}

/// What many keys have in common, kept once.
#[derive(Default)]
pub(super) struct Shared {
    texts: Once<str>,
    settings: Once<KeySettings>,
}

/// Values of which equal ones are one.
struct Once<T: ?Sized> {
    kept: HashSet<Arc<T>>,
    /// With so many it is time to look which of them nobody has any more.
    sweep_at: usize,
}

/// Fewer are not looked through.
const SWEEP_MIN: usize = 1_024;

impl<T: ?Sized> Default for Once<T> {
    fn default() -> Self {
        Once { kept: HashSet::new(), sweep_at: SWEEP_MIN }
    }
}

impl<T: ?Sized + Eq + Hash> Once<T> {
    fn keep(&mut self, value: Arc<T>) -> Arc<T> {
        if let Some(have) = self.kept.get(&value) {
            return Arc::clone(have);
        }
        if self.kept.len() >= self.sweep_at {
            self.kept.retain(|kept| Arc::strong_count(kept) > 1);
            self.sweep_at = SWEEP_MIN.max(self.kept.len() * 2);
        }
        self.kept.insert(Arc::clone(&value));
        value
    }
}

impl Terms {
    /// What `body` says.
    pub(crate) fn of(body: &Map<String, Value>) -> Terms {
        let mut budgets = Vec::new();
        let (limit, soft) = (amount(body.get("max_budget")), amount(body.get("soft_budget")));
        if limit.is_some() || soft.is_some() {
            let period = period(body.get("budget_duration"));
            budgets.push(Amounts { model: None, limit, soft, period });
        }
        for entry in body.get("budget_limits").and_then(Value::as_array).into_iter().flatten() {
            let limit = Some(amount(entry.get("max_budget")).unwrap_or_default());
            let period = period(entry.get("budget_duration"));
            budgets.push(Amounts { model: None, limit, soft: None, period });
        }
        for (model, budget) in
            body.get("model_max_budget").and_then(Value::as_object).into_iter().flatten()
        {
            // `{"gpt-4o": 5}`, or with names of their own for both members.
            let either = |first, second| budget.get(first).or_else(|| budget.get(second));
            let limit = match budget {
                Value::Object(_) => either("budget_limit", "max_budget"),
                plain => Some(plain),
            };
            let period = period(either("time_period", "budget_duration"));
            let limit = Some(amount(limit).unwrap_or_default());
            budgets.push(Amounts { model: Some(model.as_str().into()), limit, soft: None, period });
        }
        Terms { budgets, limits: limits(body), model_limits: model_limits(body) }
    }

    /// These terms, and for what they do not say those of a budget that is referred to.
    fn or(&self, others: Option<&Terms>) -> Terms {
        let Some(others) = others else { return self.clone() };
        let mut terms = self.clone();
        terms.limits = terms.limits.or(others.limits);
        for budget in &others.budgets {
            let same =
                |own: &&mut Amounts| own.model == budget.model && own.period == budget.period;
            match terms.budgets.iter_mut().find(same) {
                // Both must fit.
                Some(own) => {
                    own.limit = match (own.limit, budget.limit) {
                        (Some(own), Some(other)) => Some(own.min(other)),
                        (own, other) => own.or(other),
                    };
                    own.soft = own.soft.or(budget.soft);
                }
                None => terms.budgets.push(budget.clone()),
            }
        }
        for (model, limits) in &others.model_limits {
            let own = terms.model_limits.entry(model.clone()).or_default();
            *own = own.or(*limits);
        }
        terms
    }

    fn budgets(&self, scope: BudgetScope, subject: &Arc<str>, owner: &str) -> Vec<Arc<Budget>> {
        let owner: Arc<str> = owner.into();
        let budget = |amounts: &Amounts| {
            let scope = match amounts.model {
                Some(_) => scope.by_model()?,
                None => scope,
            };
            let (subject, part) = (Arc::clone(subject), amounts.model.clone());
            let id = BudgetId { scope, subject, part, period: amounts.period };
            let Amounts { limit, soft, .. } = *amounts;
            Some(Arc::new(Budget { id, limit, soft, owner: Arc::clone(&owner) }))
        };
        self.budgets.iter().filter_map(budget).collect()
    }
}

/// A key or an account, and what it has to be made anew from when a budget changes that it refers
/// to.
pub(super) struct Read<T> {
    pub(super) made: T,
    pub(super) own: Option<Box<Own>>,
}

/// What an object says itself, where it refers to a budget as well.
#[derive(Clone, Debug)]
pub(super) struct Own {
    pub(super) budget_id: Arc<str>,
    terms: Terms,
    owner: String,
    subject: Arc<str>,
}

fn refers_to(body: &Map<String, Value>) -> Option<Arc<str>> {
    text(body, "budget_id").map(Arc::from)
}

/// A key, and its role if its user has one. `None` where its id is no hash.
pub(super) fn key(
    object: &Object,
    shared: &mut Shared,
    budgets: &dyn Fn(&str) -> Option<Arc<Terms>>,
) -> Option<Read<VirtualKey>> {
    let body = &object.body;
    let mut key = VirtualKey::new(KeyHash::from_hex(&object.id)?);
    key.alias = object.alias.clone();
    key.user = object.user.clone().map(|user| shared.texts.keep(user));
    key.team = object.team.clone().map(|team| shared.texts.keep(team));
    key.blocked = body.get("blocked").and_then(Value::as_bool).unwrap_or(false);
    // One that cannot be read has ended.
    key.expires = match body.get("expires") {
        None | Some(Value::Null) => None,
        Some(expires) => Some(expires.as_str().and_then(config::moment).unwrap_or_default()),
    };
    let mut settings = KeySettings {
        models: strings(body.get("models")),
        aliases: names(body.get("aliases")),
        routes: strings(body.get("allowed_routes")),
        ..KeySettings::default()
    };
    let addresses = strings(body.get("allowed_ips"));
    settings.addresses = addresses.iter().filter_map(|text| network(text)).collect();
    if settings.addresses.is_empty() && !addresses.is_empty() {
        key.blocked = true;
    }
    settings.tags = strings(body.get("tags").or_else(|| metadata_of(body, "tags")))
        .into_iter()
        .map(|tag| shared.texts.keep(tag.into()))
        .collect();
    // Of the metadata only what decides about requests: the rest is as large as all else together,
    // and is in the store for whoever asks.
    for name in ["guardrails", "enforced_params", "tools", OBJECT_PERMISSION] {
        if let Some(value) = body.get(name).filter(|value| !value.is_null()) {
            // Who may set the metadata may not be who has set this.
            settings.metadata.insert(name.to_owned(), value.clone());
        }
    }
    let name = text(body, "key_name").unwrap_or("sk-...");
    let owner = match &key.alias {
        Some(alias) => format!("Key={alias} ({name})"),
        None => format!("Key={name}"),
    };
    // A key that was regenerated is the same for the ledger, limits and budgets: it goes on spending
    // what the old one has left.
    if let Some(first) = text(body, "ledger_key").and_then(KeyHash::from_hex) {
        key.hash_hex = first.hex().into();
    }
    let subject = Arc::clone(&key.hash_hex);
    let terms = Terms::of(body);
    let referred = refers_to(body);
    let own = referred.map(|budget_id| {
        Box::new(Own {
            budget_id,
            terms: terms.clone(),
            owner: owner.clone(),
            subject: Arc::clone(&subject),
        })
    });
    let others = own.as_ref().and_then(|own| budgets(&own.budget_id));
    let terms = terms.or(others.as_deref());
    key.budgets = terms.budgets(BudgetScope::Key, &subject, &owner).into();
    settings.limits = terms.limits;
    settings.model_limits = terms.model_limits;
    key.settings = shared.settings.keep(Arc::new(settings));
    Some(Read { made: key, own })
}

/// A team, user, end user or tag.
pub(super) fn account(
    object: &Object,
    budgets: &dyn Fn(&str) -> Option<Arc<Terms>>,
) -> Read<Account> {
    let body = &object.body;
    let alias_name = match object.kind {
        Kind::Team => "team_alias",
        Kind::User => "user_alias",
        _ => "alias",
    };
    let alias = text(body, alias_name).map(Arc::from).or_else(|| object.alias.clone());
    let (scope, word) = match object.kind {
        Kind::Team => (BudgetScope::Team, "Team"),
        Kind::EndUser => (BudgetScope::EndUser, "EndUser"),
        Kind::Tag => (BudgetScope::Tag, "Tag"),
        Kind::User | Kind::Key | Kind::Budget => (BudgetScope::User, "User"),
    };
    let owner = format!("{word}={}", alias.as_deref().unwrap_or(&object.id));
    let own_terms = Terms::of(body);
    let own = refers_to(body).map(|budget_id| {
        let (terms, subject) = (own_terms.clone(), Arc::clone(&object.id));
        Box::new(Own { budget_id, terms, owner: owner.clone(), subject })
    });
    let others = own.as_ref().and_then(|own| budgets(&own.budget_id));
    let terms = own_terms.or(others.as_deref());
    let members = body.get("members_with_roles").and_then(Value::as_array).into_iter().flatten();
    let members = members.filter_map(|member| {
        let is_admin = member.get("role").and_then(Value::as_str) == Some("admin");
        Some((member.get("user_id")?.as_str()?.into(), is_admin))
    });
    let mut metadata = body.get("metadata").and_then(Value::as_object).cloned().unwrap_or_default();
    if let Some(permission) = body.get(OBJECT_PERMISSION).filter(|value| !value.is_null()) {
        // What admins say of it counts, whatever is noted besides.
        metadata.insert(OBJECT_PERMISSION.to_owned(), permission.clone());
    }
    let made = Account {
        kind: object.kind,
        id: Arc::clone(&object.id),
        alias,
        email: text(body, "user_email").map(Arc::from),
        role: match text(body, "user_role") {
            Some(name) => Role::from_name(name).unwrap_or_default(),
            None => Role::None,
        },
        members: members.collect(),
        models: strings(body.get("models")),
        budgets: terms.budgets(scope, &object.id, &owner),
        limits: terms.limits,
        model_limits: terms.model_limits,
        members_budgets: match object.kind {
            Kind::Team => members_budgets(&object.id, body),
            _ => MembersBudgets::default(),
        },
        blocked: body.get("blocked").and_then(Value::as_bool).unwrap_or(false),
        metadata,
    };
    Read { made, own }
}

/// What the members of a team may spend of it.
fn members_budgets(team: &Arc<str>, body: &Map<String, Value>) -> MembersBudgets {
    let budget = |member: Option<&Arc<str>>, limit: Option<&Value>, length: Option<&Value>| {
        let limit = amount(limit)?;
        Some(Arc::new(MembersBudgets::budget(team, member, limit, period(length))))
    };
    let each =
        budget(None, body.get("team_member_budget"), body.get("team_member_budget_duration"));
    let list = body.get(MEMBER_BUDGETS).and_then(Value::as_object).into_iter().flatten();
    let own = list.filter_map(|(user, terms)| {
        let user: Arc<str> = user.as_str().into();
        let of = |name| terms.get(name);
        let budget = budget(Some(&user), of("max_budget_in_team"), of("budget_duration"))?;
        Some((user, budget))
    });
    MembersBudgets { each, own: own.collect() }
}

impl Own {
    /// The key again, with what the budget it refers to says now.
    pub(super) fn key_again(
        &self,
        key: &VirtualKey,
        budget: Option<&Terms>,
        shared: &mut Shared,
    ) -> VirtualKey {
        let terms = self.terms.or(budget);
        let budgets = terms.budgets(BudgetScope::Key, &self.subject, &self.owner);
        let settings = KeySettings {
            limits: terms.limits,
            model_limits: terms.model_limits,
            ..KeySettings::clone(&key.settings)
        };
        let settings = shared.settings.keep(Arc::new(settings));
        VirtualKey { budgets: budgets.into(), settings, ..key.clone() }
    }

    /// The account again.
    pub(super) fn account_again(&self, account: &Account, budget: Option<&Terms>) -> Account {
        let terms = self.terms.or(budget);
        let scope = match account.kind {
            Kind::Team => BudgetScope::Team,
            Kind::EndUser => BudgetScope::EndUser,
            Kind::Tag => BudgetScope::Tag,
            Kind::User | Kind::Key | Kind::Budget => BudgetScope::User,
        };
        let budgets = terms.budgets(scope, &self.subject, &self.owner);
        Account {
            budgets,
            limits: terms.limits,
            model_limits: terms.model_limits,
            ..account.clone()
        }
    }
}

/// An address, or a network: `10.0.0.0/8`.
pub(crate) fn network(text: &str) -> Option<(IpAddr, u8)> {
    let (address, length) = match text.split_once('/') {
        Some((address, length)) => (address, Some(length)),
        None => (text, None),
    };
    let address: IpAddr = address.parse().ok()?;
    let most = if address.is_ipv4() { 32 } else { 128 };
    let length = length.map_or(Some(most), |length| length.parse().ok())?;
    (length <= most).then_some((address, length))
}

/// An amount of dollars. What is there and is none is nothing, so that it lets nothing through.
fn amount(value: Option<&Value>) -> Option<PicoDollars> {
    match value? {
        Value::Null => None,
        value => Some(dollars(value).unwrap_or_default()),
    }
}

/// Dollars, as a number or a text.
pub(crate) fn dollars(value: &Value) -> Option<PicoDollars> {
    let text = match value {
        Value::Number(number) => number.to_string(),
        Value::String(text) => text.clone(),
        _ => return None,
    };
    PicoDollars::parse_rounding_up(&text).ok()
}

/// One that cannot be read is for ever: what is left then never comes back.
fn period(value: Option<&Value>) -> Option<tollway_filter_api::treasury::Period> {
    value?.as_str()?.parse().ok()
}

fn limits(body: &Map<String, Value>) -> RateLimits {
    let count = |name: &str| body.get(name).and_then(count);
    RateLimits {
        rpm: count("rpm_limit"),
        tpm: count("tpm_limit"),
        max_parallel_requests: count("max_parallel_requests"),
    }
}

/// A count; a number that is none is zero.
fn count(value: &Value) -> Option<u64> {
    value.is_number().then(|| value.as_u64().unwrap_or(0))
}

fn model_limits(body: &Map<String, Value>) -> BTreeMap<String, RateLimits> {
    let mut limits: BTreeMap<String, RateLimits> = BTreeMap::new();
    let mut each = |name: &str, set: &dyn Fn(&mut RateLimits, Option<u64>)| {
        // LiteLLM keeps them in the metadata.
        let found =
            body.get(name).filter(|value| value.is_object()).or_else(|| metadata_of(body, name));
        for (model, value) in found.and_then(Value::as_object).into_iter().flatten() {
            set(limits.entry(model.clone()).or_default(), count(value));
        }
    };
    each("model_rpm_limit", &|limits, rpm| limits.rpm = rpm);
    each("model_tpm_limit", &|limits, tpm| limits.tpm = tpm);
    limits
}

fn metadata_of<'b>(body: &'b Map<String, Value>, name: &str) -> Option<&'b Value> {
    body.get("metadata")?.get(name)
}

fn text<'b>(body: &'b Map<String, Value>, name: &str) -> Option<&'b str> {
    body.get(name)?.as_str().filter(|text| !text.is_empty())
}

fn strings(value: Option<&Value>) -> Vec<String> {
    let list = value.and_then(Value::as_array).into_iter().flatten();
    list.filter_map(|value| value.as_str().map(str::to_owned)).collect()
}

fn names(value: Option<&Value>) -> BTreeMap<String, String> {
    let map = value.and_then(Value::as_object).into_iter().flatten();
    map.filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned()))).collect()
}
