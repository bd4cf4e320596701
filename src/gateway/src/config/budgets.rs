//! Budgets: from where they stand in the file to the filter that holds calls to them.
//!
//! What keys, teams and users may spend goes with them (`people.rs`); the rest becomes settings of
//! the filter `budget`. A budget that no call can reach is a mistake: whoever wrote it trusts in it.

use serde_json::{Map, Value, json};
use tollway_filter_api::{ModelDirectory, ModelGroup};
use tollway_filters::budget::Allowance;
use tollway_wire::price::PicoDollars;

use super::directory::Directory;
use super::entry::Entry;
use super::file::{FileBudget, FileConfig, FilterEntry, NamedBudget};
use super::filters::{add_defaults, find};
use super::mistake::{Report, hint};

/// Where all budgets of a file stand that need the filter.
#[derive(Default)]
pub(super) struct Places {
    /// Of everybody, providers, models, tags: any caller can reach them.
    general: Vec<String>,
    /// Of somebody: who it is has to be known.
    of_callers: Vec<String>,
}

impl Places {
    /// Notes a budget of a key, team or user.
    pub(super) fn of_caller(&mut self, budget: &FileBudget) {
        self.of_callers.push(budget.path.clone());
    }
}

/// Hands the budgets of the file to the filter.
pub(super) fn resolve(
    file: &mut FileConfig,
    (entries, directory): (&[Entry], &Directory),
    filters: &mut [FilterEntry],
    mut places: Places,
    report: &mut Report,
) {
    let mut settings = Map::new();
    let litellm = &file.litellm;
    let mut put = |name: &str, budget: &FileBudget| {
        places.general.push(budget.path.clone());
        settings.insert(name.to_owned(), written(budget.allowance));
    };
    litellm.budget.iter().for_each(|budget| put("global", budget));
    litellm.end_user_budget.iter().for_each(|budget| put("per_end_user", budget));
    if let Some(budget) = &litellm.user_budget {
        places.of_caller(budget);
        settings.insert("per_user".to_owned(), written(budget.allowance));
    }
    let mut put = |name: &str, budgets: &[NamedBudget]| {
        if budgets.is_empty() {
            return;
        }
        let each = |named: &NamedBudget| (named.name.clone(), written(named.budget.allowance));
        places.general.extend(budgets.iter().map(|named| named.budget.path.clone()));
        settings.insert(name.to_owned(), budgets.iter().map(each).collect::<Map<_, _>>().into());
    };
    put("tags", &litellm.tag_budgets);
    check_providers(&file.router.provider_budgets, directory, report);
    put("providers", &file.router.provider_budgets);
    put("deployments", &of_deployments(file, entries, directory, report));
    if let Some(told) = file.litellm.cost_in_usage {
        settings.insert("final_cost".to_owned(), told.into());
    }
    let has_auth = filters.iter().any(|filter| filter.name == "auth");
    match find(filters, "budget") {
        Some(filter) => add_defaults(filter, settings.into()),
        None => {
            for path in places.general.iter().chain(&places.of_callers) {
                report.mistake(path, "nothing enforces it: `filters` does not list `budget`");
            }
            return;
        }
    }
    if !has_auth {
        for path in &places.of_callers {
            report.mistake(path, "nothing can reach it: `filters` does not list `auth`");
        }
    }
}

/// As the filter's settings have it.
fn written(allowance: Allowance) -> Value {
    let Allowance { max_budget, soft_budget, budget_duration } = allowance;
    let text = |amount: Option<PicoDollars>| amount.map(|amount| amount.to_string());
    json!({
        "max_budget": text(max_budget),
        "soft_budget": text(soft_budget),
        "budget_duration": budget_duration.map(|period| period.to_string()),
    })
}

fn check_providers(budgets: &[NamedBudget], directory: &Directory, report: &mut Report) {
    let groups = directory.groups();
    let called: Vec<&str> =
        groups.iter().flat_map(|group| &group.deployments).map(|d| d.provider).collect();
    for NamedBudget { name, budget } in budgets {
        if !called.contains(&name.as_str()) {
            let hint = hint(name, called.iter().copied());
            let message = format!("nothing can reach it: no deployment is `{name}`'s{hint}");
            report.mistake(&budget.path, message);
        }
    }
}

/// The budgets of deployments, by their ids: what one of them has spent is nothing to the others of
/// its group.
fn of_deployments(
    file: &FileConfig,
    entries: &[Entry],
    directory: &Directory,
    report: &mut Report,
) -> Vec<NamedBudget> {
    let mut budgets = Vec::new();
    let groups = directory.groups();
    for (at, model) in file.model_list.iter().enumerate() {
        let Some(budget) = &model.params.budget else { continue };
        let path = format!("model_list[{at}]");
        let mut its = entries.iter().filter(|entry| entry.path == path);
        // Without any, the entry has another mistake.
        let Some(entry) = its.next() else { continue };
        if its.next().is_some() {
            let message = "nothing can reach it: each provider under `*` is a deployment of its \
                           own; what they cost is a matter of provider_budget_config";
            report.mistake(&budget.path, message);
            continue;
        }
        let mut deployments = groups.iter().flat_map(|group| &group.deployments);
        let its = deployments.find(|deployment| deployment.id == entry.id);
        let price = its.and_then(|deployment| deployment.price.as_ref());
        if price.is_some_and(|price| price.is_free()) {
            report.mistake(&budget.path, "nothing can reach it: the model costs nothing");
            continue;
        }
        budgets.push(NamedBudget { name: entry.id.to_string(), budget: budget.clone() });
    }
    budgets
}

/// Whether no call of it can cost anything.
pub(super) fn is_free(group: &ModelGroup) -> bool {
    let is_free = |deployment: &std::sync::Arc<tollway_filter_api::Deployment>| {
        deployment.price.as_ref().is_some_and(|price| price.is_free())
    };
    group.deployments.iter().all(is_free)
}
