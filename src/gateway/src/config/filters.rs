//! The filter stack: which filters, in which order, with which settings.

use std::collections::HashSet;

use serde_json::{Map, Value, json};
use tollway_filter_api::ConfigError;

use super::file::{FileCache, FileConfig, FilterEntry};
use super::mistake::{Mistake, Report, hint};

/// The stack where the config names none. Filters run in reverse on the way out, so that the first
/// two see what became of the request, whoever refused it.
const DEFAULT: &[&str] = &[
    "request_log",
    "usage",
    "cors",
    "auth",
    "validate",
    "model_alias",
    "budget",
    "rate_limit",
    "response_cache",
];

/// The filters of a config. `known` are the names of those there are.
pub(super) fn resolve(
    file: &mut FileConfig,
    known: &[&str],
    report: &mut Report,
) -> Vec<FilterEntry> {
    let is_cached = file.litellm.cache;
    let mut filters = match file.filters.take() {
        Some(filters) => {
            check(&filters, known, report);
            if is_cached && !filters.iter().any(|filter| filter.name == "response_cache") {
                let message = "has no effect: `filters` does not list `response_cache`";
                report.warning("litellm_settings.cache", message);
            }
            filters
        }
        None => {
            let wanted = DEFAULT.iter().filter(|name| is_cached || **name != "response_cache");
            wanted.map(|name| FilterEntry::new(*name, "", Map::new())).collect()
        }
    };
    if let Some(filter) = find(&mut filters, "response_cache") {
        add_defaults(filter, cache_settings(&file.litellm.cache_params));
    }
    if let Some(max) = file.general.global_max_parallel_requests {
        match find(&mut filters, "rate_limit") {
            Some(filter) => {
                add_defaults(filter, json!({"global": {"max_parallel_requests": max}}));
            }
            None => report.mistake(
                "general_settings.global_max_parallel_requests",
                "nothing enforces it: `filters` does not list `rate_limit`",
            ),
        }
    }
    filters
}

fn check(filters: &[FilterEntry], known: &[&str], report: &mut Report) {
    let mut seen = HashSet::new();
    for filter in filters {
        let path = format!("{}.filter", filter.path);
        if !known.contains(&filter.name.as_str()) {
            let hint = hint(&filter.name, known.iter().copied());
            let there_are = known.join(", ");
            let message =
                format!("there is no filter `{}`{hint} (there are {there_are})", filter.name);
            report.mistake(&path, message);
        } else if !seen.insert(&filter.name) {
            report.mistake(&path, format!("`{}` is in the list twice", filter.name));
        }
    }
    if filters.is_empty() {
        report.mistake("filters", "is an empty list: nothing would be checked; leave it out");
    } else if !seen.iter().any(|name| *name == "auth") {
        report.warning("filters", "does not list `auth`: everybody may call everything");
    }
    let at = |name: &str| filters.iter().position(|filter| filter.name == name);
    let Some(budget) = at("budget") else {
        if !filters.is_empty() {
            let message = "does not list `budget`: what calls cost is not recorded, so the ledger, \
                           /spend and the spend of keys stay empty";
            report.warning("filters", message);
        }
        return;
    };
    for before in ["auth", "model_alias"] {
        if at(before).is_some_and(|before| before > budget) {
            let message = format!("must come after `{before}`, which says who pays for what");
            report.mistake(&format!("{}.filter", filters[budget].path), message);
        }
    }
    for after in ["response_cache", "rate_limit"] {
        if at(after).is_some_and(|after| after < budget) {
            let message = format!("must come before `{after}`: it may make requests smaller");
            report.mistake(&format!("{}.filter", filters[budget].path), message);
        }
    }
}

pub(super) fn find<'f>(filters: &'f mut [FilterEntry], name: &str) -> Option<&'f mut FilterEntry> {
    filters.iter_mut().find(|filter| filter.name == name)
}

/// What LiteLLM's `cache_params` say, as the settings of `response_cache`.
fn cache_settings(params: &FileCache) -> Value {
    let mut settings = Map::new();
    if let Some(ttl) = params.ttl {
        settings.insert("ttl".into(), ttl.as_secs().max(1).into());
    }
    if let Some(off) = params.default_off {
        settings.insert("mode".into(), if off { "default_off" } else { "default_on" }.into());
    }
    if let Some(types) = &params.supported_call_types {
        settings.insert("supported_call_types".into(), types.clone().into());
    }
    settings.into()
}

/// Adds settings beside those that stand in `filters`, which win.
pub(super) fn add_defaults(filter: &mut FilterEntry, defaults: Value) {
    fn merge(into: &mut Value, defaults: Value) {
        let (Value::Object(into), Value::Object(defaults)) = (into, defaults) else { return };
        for (name, value) in defaults {
            match into.get_mut(&name) {
                Some(have) => merge(have, value),
                None => {
                    into.insert(name, value);
                }
            }
        }
    }
    merge(&mut filter.settings, defaults);
}

/// Where in the file a filter's builder has found a mistake.
pub(super) fn mistake(report: &Report, filter: &FilterEntry, error: &ConfigError) -> Mistake {
    let place = |parts: &[&str]| {
        let parts = parts.iter().filter(|part| !part.is_empty());
        let mut path = String::new();
        for part in parts {
            // A path within a list begins with its bracket.
            if !path.is_empty() && !part.starts_with('[') {
                path.push('.');
            }
            path.push_str(part);
        }
        path
    };
    let path = place(&[&filter.path, &filter.name, &error.path]);
    report.blame(&place(&[&filter.path, &error.path]), path, error.message.clone())
}
