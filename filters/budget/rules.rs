//! Which budgets there are: of a call, and by their ids.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use smallvec::SmallVec;
use tollway_filter_api::accounts::Kind;
use tollway_filter_api::identity::KeyStore;
use tollway_filter_api::treasury::{Budget, BudgetId, BudgetScope};
use tollway_filter_api::{KeyHash, ModelGroup, RequestCtx};

use super::bound::Servers;
use super::config::{Allowance, BudgetConfig};

/// The budgets of one call, and no budget twice.
pub(super) type Applying = SmallVec<[Arc<Budget>; 6]>;

/// The budgets of one config, and whoever keeps those of keys and people.
pub(super) struct Rules {
    pub(super) keys: Arc<dyn KeyStore>,
    global: Option<Arc<Budget>>,
    providers: HashMap<String, Arc<Budget>>,
    models: HashMap<String, Arc<Budget>>,
    deployments: HashMap<String, Arc<Budget>>,
    tags: HashMap<String, Arc<Budget>>,
    per_user: Option<Allowance>,
    per_end_user: Option<Allowance>,
}

impl Rules {
    pub(super) fn new(config: BudgetConfig, keys: Arc<dyn KeyStore>) -> Rules {
        let each = |scope, owner: &str, entries: BTreeMap<String, Allowance>| {
            let budget = |(name, allowance): (String, Allowance)| {
                let budget =
                    allowance.budget(scope, name.as_str().into(), format!("{owner}={name}"));
                (name, Arc::new(budget))
            };
            entries.into_iter().map(budget).collect::<HashMap<_, _>>()
        };
        let global = config
            .global
            .map(|allowance| allowance.budget(BudgetScope::Global, "".into(), String::new()));
        Rules {
            keys,
            global: global.map(Arc::new),
            providers: each(BudgetScope::Provider, "Provider", config.providers),
            models: each(BudgetScope::Model, "Model", config.models),
            deployments: each(BudgetScope::Deployment, "Deployment", config.deployments),
            tags: each(BudgetScope::Tag, "Tag", config.tags),
            per_user: config.per_user,
            per_end_user: config.per_end_user,
        }
    }

    /// The budgets that apply to a call.
    pub(super) fn applying(&self, ctx: &RequestCtx, servers: &Servers) -> Applying {
        let mut budgets = Applying::new();
        let mut add = |budget: &Arc<Budget>| {
            if !budgets.iter().any(|have: &Arc<Budget>| have.id == budget.id) {
                budgets.push(Arc::clone(budget));
            }
        };
        self.global.iter().for_each(&mut add);
        if !self.providers.is_empty() {
            let of = |provider| self.providers.get(provider);
            servers.deployments().filter_map(|d| of(d.provider)).for_each(&mut add);
        }
        if !self.deployments.is_empty() {
            let of = |id: &Arc<str>| self.deployments.get(&**id);
            servers.deployments().filter_map(|d| of(&d.id)).for_each(&mut add);
        }
        if !self.models.is_empty() {
            let of = |group: &Arc<str>| self.models.get(&**group);
            servers.groups().filter_map(|group| of(&group.name)).for_each(&mut add);
        }
        // Those for one model only where that model may come to serve the call.
        let mut add = |budget: &Arc<Budget>| {
            let is_its = |group: &Arc<ModelGroup>| budget.id.part.as_ref() == Some(&group.name);
            if !budget.id.scope.is_by_model() || servers.groups().any(is_its) {
                add(budget);
            }
        };
        if let Some(key) = &ctx.identity {
            if let Some(team) = key.team.as_ref().and_then(|id| self.keys.account(Kind::Team, id)) {
                team.budgets.iter().for_each(&mut add);
                if let Some(user) = &key.user {
                    team.of_member(user).iter().for_each(&mut add);
                }
            }
            if let Some(id) = &key.user {
                self.of_person(Kind::User, id, &mut add);
            }
            key.budgets.iter().for_each(&mut add);
        }
        if let Some(id) = &ctx.end_user {
            self.of_person(Kind::EndUser, id, &mut add);
        }
        for tag in &ctx.tags {
            self.of_tag(tag, &mut add);
        }
        budgets
    }

    /// The budgets of a user or end user: their own, else what each may spend.
    fn of_person(&self, kind: Kind, id: &Arc<str>, add: &mut dyn FnMut(&Arc<Budget>)) {
        let account = self.keys.account(kind, id);
        let own = account.as_ref().map_or(&[][..], |account| &account.budgets);
        own.iter().for_each(&mut *add);
        let (each, scope, word) = match kind {
            Kind::User => (self.per_user, BudgetScope::User, "User"),
            _ => (self.per_end_user, BudgetScope::EndUser, "End User"),
        };
        let has_own = own.iter().any(|budget| !budget.id.scope.is_by_model());
        if let (false, Some(each)) = (has_own, each) {
            add(&Arc::new(each.budget(scope, Arc::clone(id), format!("{word}={id}"))));
        }
    }

    /// The budgets of a tag: those that were given by the API, else the config's.
    fn of_tag(&self, tag: &str, add: &mut dyn FnMut(&Arc<Budget>)) {
        match self.keys.account(Kind::Tag, tag) {
            Some(account) if !account.budgets.is_empty() => account.budgets.iter().for_each(add),
            _ => self.tags.get(tag).into_iter().for_each(add),
        }
    }

    /// The budget of an id as it is now, if there still is one, and what its owner is called.
    pub(super) fn current(&self, id: &BudgetId) -> Option<(Arc<Budget>, Option<Arc<str>>)> {
        let mut found = None;
        let mut look = |budget: &Arc<Budget>| {
            if budget.id == *id {
                found = Some(Arc::clone(budget));
            }
        };
        let mut alias = None;
        match id.scope {
            BudgetScope::Global => self.global.iter().for_each(look),
            BudgetScope::Provider => self.providers.get(&*id.subject).into_iter().for_each(look),
            BudgetScope::Model => self.models.get(&*id.subject).into_iter().for_each(look),
            BudgetScope::Tag => self.of_tag(&id.subject, &mut look),
            BudgetScope::Deployment => {
                self.deployments.get(&*id.subject).into_iter().for_each(look);
            }
            BudgetScope::User | BudgetScope::UserModel => {
                self.of_person(Kind::User, &id.subject, &mut look);
            }
            BudgetScope::EndUser => self.of_person(Kind::EndUser, &id.subject, &mut look),
            BudgetScope::Team | BudgetScope::TeamModel | BudgetScope::TeamMember => {
                let team = self.keys.account(Kind::Team, &id.subject)?;
                match &id.part {
                    Some(user) if id.scope == BudgetScope::TeamMember => {
                        team.of_member(user).iter().for_each(look);
                    }
                    _ => team.budgets.iter().for_each(look),
                }
                alias.clone_from(&team.alias);
            }
            BudgetScope::Key | BudgetScope::KeyModel => {
                let key = self.keys.find(&KeyHash::from_hex(&id.subject)?)?;
                key.budgets.iter().for_each(look);
                alias.clone_from(&key.alias);
            }
            BudgetScope::Request => {}
        }
        found.map(|budget| (budget, alias))
    }
}
