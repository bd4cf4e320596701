//! Fallbacks as written become fallbacks that exist.

use std::collections::HashSet;
use std::sync::Arc;

use tollway_filter_api::ModelDirectory;

use super::directory::{Directory, Fallbacks, Lists};
use super::file::{FileConfig, FileFallback, FileFallbacks};
use super::mistake::Report;
use super::resolve::no_model;

/// Reads all lists of fallbacks.
pub(super) fn resolve(file: &FileConfig, directory: &Directory, report: &mut Report) -> Fallbacks {
    let (router, litellm) = (&file.router, &file.litellm);
    let mut lists = |router, litellm, what| lists(router, litellm, what, directory, report);
    let mut any = lists(&router.fallbacks, &litellm.fallbacks, "fallbacks");
    let context_window = lists(
        &router.context_window_fallbacks,
        &litellm.context_window_fallbacks,
        "context window fallbacks",
    );
    let content_policy = lists(
        &router.content_policy_fallbacks,
        &litellm.content_policy_fallbacks,
        "content policy fallbacks",
    );
    let (list, path) = match router.default_fallbacks.as_slice() {
        [] => (&litellm.default_fallbacks, "litellm_settings.default_fallbacks"),
        _ => (&router.default_fallbacks, "router_settings.default_fallbacks"),
    };
    if !list.is_empty() {
        any.default = known_models(list, path, directory, report);
    }
    Fallbacks { any, context_window, content_policy }
}

/// One kind of fallbacks. Those of `router_settings` win.
fn lists(
    router: &FileFallbacks,
    litellm: &FileFallbacks,
    what: &str,
    directory: &Directory,
    report: &mut Report,
) -> Lists {
    let mut lists = Lists::default();
    let mut given = HashSet::new();
    for (first, list) in [(true, router), (false, litellm)] {
        let mut here = HashSet::new();
        for FileFallback { path, model, fallbacks: names } in list {
            if !here.insert(model.as_str()) {
                report.mistake(path, format!("the {what} of `{model}` are given twice"));
            }
            if !first && given.contains(model.as_str()) {
                let message = format!("has no effect: router_settings has {what} of `{model}`");
                report.warning(path, message);
                continue;
            }
            let is_known =
                || directory.resolve(model).is_some() || directory.names().any(|n| n == model);
            if model != "*" && !is_known() {
                report.mistake(path, no_model(model, directory));
            }
            if names.contains(model) {
                report.mistake(path, format!("`{model}` cannot fall back to itself"));
            }
            let names = known_models(names, path, directory, report);
            match model.as_str() {
                "*" => lists.default = names,
                _ => drop(lists.by_model.insert(model.clone(), names)),
            }
        }
        given.extend(here);
    }
    lists
}

fn known_models(
    names: &[String],
    path: &str,
    directory: &Directory,
    report: &mut Report,
) -> Vec<Arc<str>> {
    for (at, name) in names.iter().enumerate() {
        if directory.resolve(name).is_none() {
            report.mistake(&format!("{path}[{at}]"), no_model(name, directory));
        }
    }
    names.iter().map(|name| name.as_str().into()).collect()
}
