//! Keys, teams and users: from what was written to what is true.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use tollway_filter_api::accounts::Kind;
use tollway_filter_api::identity::{Account, KeySettings, MembersBudgets};
use tollway_filter_api::limits::RateLimits;
use tollway_filter_api::treasury::{Budget, BudgetScope};
use tollway_filter_api::{ModelDirectory, ModelGroup, VirtualKey};
use tollway_filters::budget::Allowance;
use tollway_filters::model_alias;

use super::budgets::{self, Places};
use super::directory::Directory;
use super::file::{FileAccount, FileBudget, FileConfig, FileKey, FileLimits, NamedBudget};
use super::keys::Keys;
use super::mistake::{Report, hint};
use super::resolve::no_model;

/// What keys may name besides models: LiteLLM's words for all of them, and for all their team's.
const ALL_MODELS: &[&str] = &["*", "all-proxy-models", "all-team-models"];

/// The keys of a file, the master key among them, and whom they belong to.
pub(super) fn resolve(
    file: &mut FileConfig,
    directory: &Directory,
    places: &mut Places,
    report: &mut Report,
) -> Keys {
    let mut keys = Keys::default();
    let environment = &file.environment;
    let variable = |name| environment.get(name).map(secrecy::SecretString::from);
    let names = ["TOLLWAY_MASTER_KEY", "LITELLM_MASTER_KEY"];
    let given = file.general.master_key.clone();
    if let Some(key) = given.or_else(|| names.into_iter().find_map(variable)) {
        if !secrecy::ExposeSecret::expose_secret(&key).starts_with("sk-") {
            let message = "does not begin with `sk-`, which some of LiteLLM's clients ask for";
            report.warning("general_settings.master_key", message);
        }
        keys.add_master(&key);
    }
    let mut aliases = HashSet::new();
    for (at, key) in std::mem::take(&mut file.keys).into_iter().enumerate() {
        let path = format!("keys[{at}]");
        if let Some(alias) = &key.alias
            && !aliases.insert(alias.clone())
        {
            report.mistake(&format!("{path}.alias"), "another key has this alias as well");
        }
        check_models(&key.models, &path, directory, report);
        check_named(&key, &path, directory, report);
        key.budget.iter().for_each(|budget| places.of_caller(budget));
        key.model_budgets.iter().for_each(|named| places.of_caller(&named.budget));
        let Some(key) = virtual_key(key, &path, directory, report) else { continue };
        if !keys.add(key) {
            report.mistake(&format!("{path}.key"), "this key is there already");
        }
    }
    for (section, kind, accounts) in [
        ("teams", Kind::Team, std::mem::take(&mut file.teams)),
        ("users", Kind::User, std::mem::take(&mut file.users)),
    ] {
        for (at, account) in accounts.into_iter().enumerate() {
            let path = format!("{section}[{at}]");
            check_models(&account.models, &path, directory, report);
            check_limits(&account.limits, &path, directory, report);
            let budgets = [&account.budget, &account.member_budget].into_iter().flatten();
            let of_models = account.model_budgets.iter().map(|named| &named.budget);
            let of_members = account.members.iter().filter_map(|member| member.budget.as_ref());
            let all = budgets.chain(of_models).chain(of_members);
            all.for_each(|budget| places.of_caller(budget));
            let account = self::account(account, kind, &path, directory, report);
            let Some(account) = account else { continue };
            if !keys.add_account(account) {
                report.mistake(&format!("{path}.id"), "is there already");
            }
        }
    }
    keys
}

fn check_models(models: &[String], path: &str, directory: &Directory, report: &mut Report) {
    for (at, name) in models.iter().enumerate() {
        // LiteLLM's way to allow none.
        let is_word = ALL_MODELS.contains(&name.as_str()) || name == "no-default-models";
        if !is_word && !directory.knows(name) {
            let message = format!(
                "there is no model or access group `{name}`{}",
                hint(name, directory.names())
            );
            report.mistake(&format!("{path}.models[{at}]"), message);
        }
    }
}

fn check_limits(limits: &FileLimits, path: &str, directory: &Directory, report: &mut Report) {
    let sections = [("model_rpm_limit", &limits.model_rpm), ("model_tpm_limit", &limits.model_tpm)];
    for (section, entries) in sections {
        for (name, _) in entries {
            if directory.resolve(name).is_none() {
                report.mistake(&format!("{path}.{section}.{name}"), no_model(name, directory));
            }
        }
    }
}

fn check_named(key: &FileKey, path: &str, directory: &Directory, report: &mut Report) {
    for (alias, name) in &key.aliases {
        if directory.resolve(name).is_none() {
            report.mistake(&format!("{path}.aliases.{alias}"), no_model(name, directory));
        }
    }
    check_limits(&key.limits, path, directory, report);
}

fn limits(limits: FileLimits) -> (RateLimits, BTreeMap<String, RateLimits>) {
    let mut of_models: BTreeMap<String, RateLimits> = BTreeMap::new();
    for (name, rpm) in limits.model_rpm {
        of_models.entry(name).or_default().rpm = Some(rpm);
    }
    for (name, tpm) in limits.model_tpm {
        of_models.entry(name).or_default().tpm = Some(tpm);
    }
    let own = RateLimits {
        rpm: limits.rpm,
        tpm: limits.tpm,
        max_parallel_requests: limits.max_parallel_requests,
    };
    (own, of_models)
}

fn virtual_key(
    key: FileKey,
    path: &str,
    directory: &Directory,
    report: &mut Report,
) -> Option<VirtualKey> {
    let Some(hash) = key.hash else {
        let message = "is missing: write the key here, or its SHA-256 as key_hash";
        if !report.has_mistake(&format!("{path}.key_hash"))
            && !report.has_mistake(&format!("{path}.sha256"))
        {
            report.mistake(&format!("{path}.key"), message);
        }
        return None;
    };
    let (limits, model_limits) = limits(key.limits);
    let mut made = VirtualKey {
        alias: key.alias.map(Arc::from),
        user: key.user.map(Arc::from),
        team: key.team.map(Arc::from),
        blocked: key.blocked,
        expires: key.expires,
        from_config: true,
        settings: Arc::new(KeySettings {
            models: key.models,
            aliases: key.aliases.into_iter().collect(),
            limits,
            model_limits,
            metadata: key.metadata,
            routes: key.routes,
            addresses: key.addresses,
            tags: key.tags.into_iter().map(Arc::from).collect(),
        }),
        ..VirtualKey::new(hash)
    };
    // LiteLLM shows the end of the key; of one that only its hash is known of, the hash's beginning.
    let shown = key.shown.unwrap_or_else(|| format!("{}...", &made.hash_hex[..8]));
    let owner = match &made.alias {
        Some(alias) => format!("Key={alias} ({shown})"),
        None => format!("Key={shown}"),
    };
    let subject = Arc::clone(&made.hash_hex);
    let of = |scope, budget: &FileBudget| {
        budget.allowance.budget(scope, Arc::clone(&subject), owner.clone())
    };
    let mut budgets: Vec<Budget> =
        key.budget.iter().map(|budget| of(BudgetScope::Key, budget)).collect();
    for named in &key.model_budgets {
        let Some(group) = of_model(named, directory, report) else { continue };
        if !model_alias::allowed(&made, &group) {
            let message = "nothing can reach it: the key may not call this model";
            report.mistake(&named.budget.path, message);
        }
        let mut budget = of(BudgetScope::KeyModel, &named.budget);
        budget.id.part = Some(Arc::clone(&group.name));
        budgets.push(budget);
    }
    made.budgets = budgets.into_iter().map(Arc::new).collect();
    Some(made)
}

/// The model that a budget is for.
fn of_model(
    named: &NamedBudget,
    directory: &Directory,
    report: &mut Report,
) -> Option<Arc<ModelGroup>> {
    let path = &named.budget.path;
    let group = directory.resolve(&named.name);
    match &group {
        None => report.mistake(path, no_model(&named.name, directory)),
        Some(group) if budgets::is_free(group) => {
            report.mistake(path, "nothing can reach it: the model costs nothing");
        }
        Some(_) => {}
    }
    group
}

fn account(
    account: FileAccount,
    kind: Kind,
    path: &str,
    directory: &Directory,
    report: &mut Report,
) -> Option<Account> {
    let Some(id) = account.id else {
        if !report.has_mistake(&format!("{path}.id")) {
            report.mistake(&format!("{path}.id"), "is missing: what keys name it by");
        }
        return None;
    };
    let id: Arc<str> = id.into();
    let (limits, model_limits) = limits(account.limits);
    let (scope, word) = match kind {
        Kind::Team => (BudgetScope::Team, "Team"),
        _ => (BudgetScope::User, "User"),
    };
    let owner = format!("{word}={}", account.alias.as_deref().unwrap_or(&id));
    let of =
        |scope, budget: &FileBudget| budget.allowance.budget(scope, Arc::clone(&id), owner.clone());
    let mut budgets: Vec<Budget> = account.budget.iter().map(|budget| of(scope, budget)).collect();
    for named in &account.model_budgets {
        let group = of_model(named, directory, report);
        let (Some(group), Some(scope)) = (group, scope.by_model()) else { continue };
        let mut budget = of(scope, &named.budget);
        budget.id.part = Some(Arc::clone(&group.name));
        budgets.push(budget);
    }
    let of_member = |user: Option<&Arc<str>>, budget: &FileBudget| {
        let Allowance { max_budget, budget_duration, .. } = budget.allowance;
        let limit = max_budget.unwrap_or_default();
        Arc::new(MembersBudgets::budget(&id, user, limit, budget_duration))
    };
    let mut members_budgets = MembersBudgets {
        each: account.member_budget.as_ref().map(|budget| of_member(None, budget)),
        ..MembersBudgets::default()
    };
    let mut members = BTreeMap::new();
    for member in account.members {
        let user: Arc<str> = member.user.into();
        if let Some(budget) = &member.budget {
            let budget = of_member(Some(&user), budget);
            members_budgets.own.insert(Arc::clone(&user), budget);
        }
        members.insert(user, member.is_admin);
    }
    Some(Account {
        kind,
        id: Arc::clone(&id),
        alias: account.alias.map(Arc::from),
        email: account.email.map(Arc::from),
        role: account.role,
        members,
        models: account.models,
        limits,
        model_limits,
        budgets: budgets.into_iter().map(Arc::new).collect(),
        members_budgets,
        blocked: account.blocked,
        metadata: account.metadata,
    })
}
