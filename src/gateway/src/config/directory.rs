//! Which models there are: groups by name, aliases, and wildcards.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::RwLock;
use tollway_filter_api::{Deployment, ModelDirectory, ModelGroup};
use tollway_providers::{Provider, prices};
use tollway_wire::price::Price;

use super::pattern::Pattern;

/// How many groups are kept that were made for names under a wildcard. Clients choose those names,
/// so that there must be an end to it.
const MADE_MAX: usize = 4096;
/// The longest name a wildcard stands for.
const NAME_BYTES_MAX: usize = 256;

/// The models of one config.
#[derive(Debug, Default)]
pub(crate) struct Directory {
    /// By name and by alias.
    groups: HashMap<String, Arc<ModelGroup>>,
    /// In the order of the config, then aliases that are not hidden.
    listed: Vec<Arc<ModelGroup>>,
    /// Most specific first.
    wildcards: Vec<Wildcard>,
    fallbacks: Fallbacks,
    made: RwLock<HashMap<String, Arc<ModelGroup>>>,
}

/// A group whose name has a `*` in it.
#[derive(Debug)]
pub(super) struct Wildcard {
    pub(super) pattern: Pattern,
    /// The group as it is listed, under the name with the `*`.
    pub(super) group: Arc<ModelGroup>,
    pub(super) templates: Vec<Template>,
}

/// What makes a deployment of a name under a wildcard.
#[derive(Debug)]
pub(super) struct Template {
    /// All but what depends on the name.
    pub(super) deployment: Deployment,
    /// The model at the provider.
    pub(super) model: TemplateModel,
    /// The price the config states, which holds for all names.
    pub(super) price: Option<Arc<Price>>,
    pub(super) provider: &'static dyn Provider,
}

#[derive(Debug)]
pub(super) enum TemplateModel {
    /// The same for all names.
    Fixed(String),
    /// With the name's part under the wildcard put in.
    Filled(Pattern),
    /// The name itself, if it is one of this provider's: how `model: "*"` leads everywhere.
    OfProvider,
}

/// Which groups to try when one fails, by why it has failed.
#[derive(Debug, Default)]
pub(super) struct Fallbacks {
    pub(super) any: Lists,
    pub(super) context_window: Lists,
    pub(super) content_policy: Lists,
}

/// Which groups to try after which.
#[derive(Debug, Default)]
pub(super) struct Lists {
    pub(super) by_model: HashMap<String, Vec<Arc<str>>>,
    /// For those that have none of their own.
    pub(super) default: Vec<Arc<str>>,
}

impl Fallbacks {
    /// Gives a group, which may have been made under `wildcard`, its fallbacks.
    fn set(&self, group: &mut ModelGroup, wildcard: Option<&str>) {
        group.fallbacks = self.any.of(&group.name, wildcard);
        group.context_window_fallbacks = self.context_window.of(&group.name, wildcard);
        group.content_policy_fallbacks = self.content_policy.of(&group.name, wildcard);
    }
}

impl Lists {
    /// The fallbacks of the group `name`, which may have been made under `wildcard`.
    fn of(&self, name: &str, wildcard: Option<&str>) -> Vec<Arc<str>> {
        let own = self.by_model.get(name).or_else(|| self.by_model.get(wildcard?));
        let fallbacks = own.unwrap_or(&self.default).iter();
        fallbacks.filter(|fallback| &***fallback != name).cloned().collect()
    }
}

impl Directory {
    pub(super) fn new(
        groups: Vec<ModelGroup>,
        wildcards: Vec<Wildcard>,
        order: &[String],
    ) -> Directory {
        let mut directory = Directory { wildcards, ..Directory::default() };
        // A stable sort: of two that spell out as much, the config's first wins.
        directory.wildcards.sort_by_key(|w| std::cmp::Reverse(w.pattern.spelled_out()));
        for group in groups {
            directory.groups.insert(group.name.to_string(), Arc::new(group));
        }
        for name in order {
            let wildcard =
                directory.wildcards.iter().find(|wildcard| *wildcard.group.name == **name);
            let group = directory.groups.get(name).or(wildcard.map(|wildcard| &wildcard.group));
            directory.listed.extend(group.cloned());
        }
        directory
    }

    /// Lets `alias` mean the model `name`, which may be under a wildcard. False if there is none.
    pub(super) fn add_alias(&mut self, alias: &str, name: &str, hidden: bool) -> bool {
        let Some(group) = self.groups.get(name).cloned().or_else(|| self.make(name)) else {
            return false;
        };
        if !hidden {
            self.listed.retain(|listed| *listed.name != *alias);
            self.listed.push(Arc::new(ModelGroup { name: alias.into(), ..(*group).clone() }));
        }
        self.groups.insert(alias.to_owned(), group);
        true
    }

    /// Sets the fallbacks of all groups, those that will be made as well.
    pub(super) fn set_fallbacks(&mut self, fallbacks: Fallbacks) {
        let update = |group: &mut Arc<ModelGroup>| {
            let mut changed = (**group).clone();
            fallbacks.set(&mut changed, None);
            *group = Arc::new(changed);
        };
        self.groups.values_mut().for_each(update);
        self.listed.iter_mut().for_each(update);
        for wildcard in &mut self.wildcards {
            update(&mut wildcard.group);
        }
        self.fallbacks = fallbacks;
    }

    /// Whether a name, access group or prefix (`openai/*`) can mean anything to a key.
    pub(super) fn knows(&self, name: &str) -> bool {
        if let Some(prefix) = name.strip_suffix('*') {
            let listed = |group: &Arc<ModelGroup>| group.name.starts_with(prefix);
            // Any name will do to see whether a wildcard covers the prefix.
            return self.listed.iter().any(listed) || self.make(&format!("{prefix}x")).is_some();
        }
        let accessible = |group: &Arc<ModelGroup>| group.access_groups.iter().any(|g| g == name);
        self.listed.iter().any(accessible) || self.resolve(name).is_some()
    }

    /// The names to choose from in a hint.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.groups.keys().map(String::as_str).chain(self.wildcards.iter().map(|w| &*w.group.name))
    }

    /// Makes the group of a name under a wildcard.
    fn make(&self, name: &str) -> Option<Arc<ModelGroup>> {
        let usable = |c: char| c != '*' && !c.is_control();
        if name.len() > NAME_BYTES_MAX || !name.chars().all(usable) {
            return None;
        }
        if let Some(group) = self.made_under(name) {
            return Some(Arc::new(group));
        }
        // LiteLLM finds `gpt-4o` under `openai/*` as well.
        let provider = prices::infer_provider(name)?;
        Some(Arc::new(self.made_under(&format!("{provider}/{name}"))?))
    }

    fn made_under(&self, name: &str) -> Option<ModelGroup> {
        self.wildcards.iter().find_map(|wildcard| {
            let captures = wildcard.pattern.captures(name)?;
            let made = wildcard.templates.iter().filter_map(|t| t.make(name, &captures));
            let deployments: Vec<_> = made.map(Arc::new).collect();
            let mode = prices::find(deployments.first()?.provider, &deployments.first()?.model)
                .map(|info| info.mode)
                .filter(|mode| !mode.is_empty());
            let mut group = ModelGroup {
                name: name.into(),
                deployments,
                mode: wildcard.group.mode.clone().or(mode.map(Arc::from)),
                ..(*wildcard.group).clone()
            };
            self.fallbacks.set(&mut group, Some(&wildcard.group.name));
            Some(group)
        })
    }
}

impl Template {
    fn make(&self, name: &str, captures: &[&str]) -> Option<Deployment> {
        let provider = self.provider.name();
        let model = match &self.model {
            TemplateModel::Fixed(model) => model.clone(),
            TemplateModel::Filled(pattern) => pattern.fill(captures),
            TemplateModel::OfProvider => match name.split_once('/') {
                Some((first, model)) if first == provider => model.to_owned(),
                _ if prices::infer_provider(name)? == provider => name.to_owned(),
                _ => return None,
            },
        };
        if model.is_empty() {
            return None;
        }
        let info = prices::find(provider, &model);
        let known = info.as_ref();
        let free = self.provider.is_free().then(Price::default);
        let table = || known.and_then(|info| info.price.clone()).or(free).map(Arc::new);
        let deployment = &self.deployment;
        Some(Deployment {
            litellm_model: format!("{provider}/{model}").into(),
            price: self.price.clone().or_else(table),
            max_input_tokens: deployment
                .max_input_tokens
                .or(known.and_then(|info| info.max_input_tokens)),
            max_output_tokens: deployment
                .max_output_tokens
                .or(known.and_then(|info| info.max_output_tokens)),
            model: model.into(),
            ..deployment.clone()
        })
    }
}

impl ModelDirectory for Directory {
    fn resolve(&self, name: &str) -> Option<Arc<ModelGroup>> {
        if let Some(group) = self.groups.get(name) {
            return Some(Arc::clone(group));
        }
        if self.wildcards.is_empty() {
            return None;
        }
        if let Some(group) = self.made.read().get(name) {
            return Some(Arc::clone(group));
        }
        let group = self.make(name)?;
        let mut made = self.made.write();
        if made.len() >= MADE_MAX {
            // All at once: cheaper than knowing which were used last, and names that matter are
            // back with their next request.
            made.clear();
        }
        made.insert(name.to_owned(), Arc::clone(&group));
        Some(group)
    }

    fn groups(&self) -> Vec<Arc<ModelGroup>> {
        self.listed.clone()
    }
}

#[cfg(test)]
impl Directory {
    pub(super) fn made(&self) -> usize {
        self.made.read().len()
    }
}
