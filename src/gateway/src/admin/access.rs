//! Who may see and change what.
//!
//! The master key and `proxy_admin` may everything, `proxy_admin_viewer` sees everything.
//! `internal_user` has its own keys, and those of the teams it administers; `internal_user_viewer`
//! sees the same. A key without a user sees itself. What somebody may not see is, for them, not
//! there: 404. What they see and may not change is 403.
//!
//! Whoever is no admin gives no more than they have: no models, money or rates beyond those of their
//! user, team and key, and no key that speaks for somebody else.

use std::sync::Arc;

use serde_json::{Map, Value};
use tollway_filter_api::accounts::{Kind, Object};
use tollway_filter_api::identity::{Account, KeyStore, Role};
use tollway_filter_api::{KeyHash, Reject, Rejection, VirtualKey};

use super::fields::Said;
use super::table::{Endpoint, Rule};
use crate::directory::{Joined, dollars};

/// What LiteLLM calls a key's own rights.
const MASTER: &str = "master_key";
/// What a key with other limits than its user's cannot hand on.
const LIMITED: [&str; 9] = [
    "max_budget",
    "budget_duration",
    "budget_limits",
    "model_max_budget",
    "tpm_limit",
    "rpm_limit",
    "max_parallel_requests",
    "model_rpm_limit",
    "model_tpm_limit",
];

/// Who asks.
pub(super) struct Caller {
    pub(super) key: Arc<VirtualKey>,
    role: Role,
    /// What is said about its user.
    account: Option<Arc<Account>>,
    directory: Joined,
}

impl Caller {
    pub(super) fn new(key: &Arc<VirtualKey>, directory: Joined) -> Caller {
        let user = key.user.as_deref();
        let account = user.and_then(|user| directory.account(Kind::User, user));
        // A config key has no role of its own but that of its user.
        let role = match &account {
            _ if key.master => Role::Admin,
            // What the identity provider says of somebody is what they are today.
            _ if key.token.is_some() && key.role != Role::None => key.role,
            Some(account) => account.role.max(key.role),
            None => key.role,
        };
        Caller { key: Arc::clone(key), role, account, directory }
    }

    /// Its name in the audit log.
    pub(super) fn name(&self) -> Arc<str> {
        if self.key.master {
            return MASTER.into();
        }
        let name = self.key.user.as_ref().or(self.key.alias.as_ref());
        Arc::clone(name.unwrap_or(&self.key.hash_hex))
    }

    pub(super) fn is_admin(&self) -> bool {
        self.role == Role::Admin
    }

    /// Whether it sees everything.
    pub(super) fn is_viewer(&self) -> bool {
        self.role >= Role::AdminViewer
    }

    /// The user, if the key has one.
    pub(super) fn user(&self) -> Option<&Arc<str>> {
        self.key.user.as_ref()
    }

    pub(super) fn is_user(&self, user: Option<&str>) -> bool {
        user.is_some() && self.key.user.as_deref() == user
    }

    /// Whether it is an admin of this team, and may act as one.
    pub(super) fn is_admin_of(&self, team: Option<&str>) -> bool {
        let acts = matches!(self.role, Role::User | Role::Admin);
        acts && self.membership(team) == Some(true)
    }

    /// Whether it is in this team, and as an admin.
    fn membership(&self, team: Option<&str>) -> Option<bool> {
        let team = self.directory.account(Kind::Team, team?)?;
        team.members.get(self.key.user.as_ref()?).copied()
    }

    /// Whether a request of this kind may be made at all.
    pub(super) fn may_ask(&self, endpoint: &Endpoint, pattern: &str) -> Result<(), Rejection> {
        if !self.key.settings.routes.is_empty()
            && !self.key.master
            && !route_allowed(&self.key.settings.routes, endpoint, pattern)
        {
            let message = format!("This key is not allowed to call {pattern}.");
            return Err(forbidden(message).with_code("route_not_allowed"));
        }
        let may = match endpoint.rule {
            Rule::Public | Rule::Scoped => true,
            // A team admin without any role is none: roles are given by those who may.
            Rule::Manager | Rule::TeamAdmin => matches!(self.role, Role::User | Role::Admin),
            Rule::Viewer => self.is_viewer(),
            Rule::Admin => self.is_admin(),
        };
        if may {
            return Ok(());
        }
        let role = self.role.name().unwrap_or("none");
        let wanted = match endpoint.rule {
            Rule::Viewer => "proxy_admin_viewer",
            Rule::Admin => "proxy_admin",
            Rule::Manager | Rule::TeamAdmin | Rule::Scoped | Rule::Public => "internal_user",
        };
        Err(forbidden(format!("{pattern} needs the role {wanted}; yours is {role}.")))
    }

    pub(super) fn sees_key(&self, key: &Object) -> bool {
        self.is_viewer()
            || KeyHash::from_hex(&key.id) == Some(self.key.hash)
            || self.is_user(key.user.as_deref())
            || self.membership(key.team.as_deref()) == Some(true)
    }

    pub(super) fn changes_key(&self, key: &Object) -> bool {
        let is_own = self.role == Role::User && self.is_user(key.user.as_deref());
        self.is_admin() || is_own || self.is_admin_of(key.team.as_deref())
    }

    /// Whether it may be shown a new key that takes the place of this one. A key speaks for its
    /// user, so that a team's admin gets none of a member's.
    pub(super) fn replaces_key(&self, key: &Object) -> bool {
        let is_ours = key.user.is_none() || self.is_user(key.user.as_deref());
        self.is_admin() || (is_ours && self.changes_key(key))
    }

    pub(super) fn sees_user(&self, user: &str) -> bool {
        self.is_viewer() || self.is_user(Some(user))
    }

    pub(super) fn sees_team(&self, team: &str) -> bool {
        self.is_viewer()
            || self.membership(Some(team)).is_some()
            || self.key.team.as_deref() == Some(team)
    }

    /// Whether it sees what all of a team's keys have spent.
    pub(super) fn sees_spend_of_team(&self, team: &str) -> bool {
        self.is_viewer() || self.membership(Some(team)) == Some(true)
    }

    /// The models that it may hand on; empty means all.
    fn models<'a>(&'a self, team: Option<&'a Account>) -> [&'a [String]; 3] {
        let user = self.account.as_deref().map_or(&[][..], |account| &account.models);
        [&self.key.settings.models, user, team.map_or(&[][..], |team| &team.models)]
    }

    /// Refuses what would give more than the caller has, and fills in what has to be said so that it
    /// does not. `before` is the key as it is, where there is one.
    pub(super) fn limit(
        &self,
        said: &mut Said,
        before: Option<&Object>,
        team: Option<&str>,
    ) -> Result<(), Rejection> {
        if self.is_admin() {
            return Ok(());
        }
        if said.text("budget_id").is_some() {
            return Err(
                forbidden("Only a proxy_admin may refer to a budget.").with_param("budget_id")
            );
        }
        let team = team.and_then(|team| self.directory.account(Kind::Team, team));
        self.limit_models(said, before, team.as_deref())?;
        self.limit_routes(said, before)?;
        self.limit_own(said, before)?;
        for account in [self.account.as_deref(), team.as_deref()].into_iter().flatten() {
            within(account, &said.0)?;
        }
        Ok(())
    }

    fn limit_models(
        &self,
        said: &mut Said,
        before: Option<&Object>,
        team: Option<&Account>,
    ) -> Result<(), Rejection> {
        if before.is_some() && !said.says("models") {
            return Ok(());
        }
        let ceilings = self.models(team);
        let wanted: Vec<String> = said.names("models").into_iter().map(str::to_owned).collect();
        if wanted.is_empty() {
            // All that the caller has: the first list whose names are on the others as well.
            let Some(first) = ceilings.iter().find(|list| !list.is_empty()) else { return Ok(()) };
            let on_all = |name: &&String| ceilings.iter().all(|list| covers(list, name));
            let models: Vec<Value> =
                first.iter().filter(on_all).map(|name| name.as_str().into()).collect();
            if models.is_empty() {
                return Err(forbidden(
                    "There is no model that your key, user and team all may call.",
                )
                .with_param("models"));
            }
            said.0.insert("models".to_owned(), models.into());
            return Ok(());
        }
        match wanted.iter().find(|name| !ceilings.iter().all(|list| covers(list, name))) {
            None => Ok(()),
            Some(name) => {
                let message =
                    format!("You cannot give access to '{name}': you have none yourself.");
                Err(forbidden(message).with_param("models"))
            }
        }
    }

    fn limit_routes(&self, said: &mut Said, before: Option<&Object>) -> Result<(), Rejection> {
        if self.key.settings.routes.is_empty() || (before.is_some() && !said.says("allowed_routes"))
        {
            return Ok(());
        }
        let wanted = said.names("allowed_routes");
        if wanted.is_empty() {
            let own: Vec<Value> =
                self.key.settings.routes.iter().map(|route| route.as_str().into()).collect();
            said.0.insert("allowed_routes".to_owned(), own.into());
            return Ok(());
        }
        if wanted.iter().all(|route| self.key.settings.routes.iter().any(|own| own == route)) {
            return Ok(());
        }
        Err(forbidden("You cannot allow routes that your own key may not use.")
            .with_param("allowed_routes"))
    }

    /// A key with limits of its own hands none on: two keys with its budget would have it twice.
    fn limit_own(&self, said: &Said, before: Option<&Object>) -> Result<(), Rejection> {
        let key = &self.key;
        let is_limited = !key.budgets.is_empty()
            || !key.settings.limits.is_empty()
            || !key.settings.model_limits.is_empty()
            || !key.settings.addresses.is_empty()
            || key.expires.is_some();
        if !is_limited {
            return Ok(());
        }
        let Some(before) = before else {
            return Err(forbidden(
                "Your key has limits of its own: keys it makes would have them again. Use a key without.",
            ));
        };
        for name in LIMITED.into_iter().chain(["duration", "allowed_ips"]) {
            let Some(wanted) = said.0.get(name) else { continue };
            let lowers = match (before.body.get(name).and_then(dollars), dollars(wanted)) {
                (Some(have), Some(wanted)) => wanted <= have,
                (None, Some(_)) => before.body.get(name).is_none_or(Value::is_null),
                _ => false,
            };
            if !lowers && before.body.get(name) != Some(wanted) {
                return Err(forbidden(format!(
                    "A key with limits of its own cannot raise '{name}'."
                ))
                .with_param(name));
            }
        }
        Ok(())
    }
}

/// Refuses amounts beyond those of a user or team.
fn within(account: &Account, said: &Map<String, Value>) -> Result<(), Rejection> {
    let beyond = |name: &'static str| {
        let what = account.kind.name();
        Err(forbidden(format!("'{name}' is more than the {what} has.")).with_param(name))
    };
    let most = account.budgets.iter().filter(|b| b.id.part.is_none()).filter_map(|b| b.limit).max();
    if let (Some(most), Some(wanted)) = (most, said.get("max_budget").and_then(dollars))
        && wanted > most
    {
        return beyond("max_budget");
    }
    for (name, most) in [
        ("rpm_limit", account.limits.rpm),
        ("tpm_limit", account.limits.tpm),
        ("max_parallel_requests", account.limits.max_parallel_requests),
    ] {
        if let (Some(most), Some(wanted)) = (most, said.get(name).and_then(Value::as_u64))
            && wanted > most
        {
            return beyond(name);
        }
    }
    Ok(())
}

/// Whether a list of models lets this name through, be it a model, a prefix or an access group.
fn covers(list: &[String], name: &str) -> bool {
    list.is_empty()
        || list.iter().any(|entry| match entry.strip_suffix('*') {
            Some(prefix) => name.starts_with(prefix),
            None => entry == name || entry == "all-proxy-models",
        })
}

/// Whether a key's list of routes has this one.
fn route_allowed(routes: &[String], endpoint: &Endpoint, pattern: &str) -> bool {
    let is_info = endpoint.method == http::Method::GET && endpoint.rule == Rule::Scoped;
    let is_model_info =
        endpoint.paths.iter().any(|path| path.ends_with("/info") && path.contains("/model"));
    routes.iter().any(|route| match route.as_str() {
        "management_routes" => true,
        "info_routes" => is_info,
        "spend_tracking_routes" => pattern.starts_with("/spend/"),
        "global_spend_tracking_routes" => pattern.starts_with("/global/"),
        "llm_api_routes" | "openai_routes" => is_model_info,
        route => match route.strip_suffix('*') {
            Some(prefix) => pattern.starts_with(prefix),
            None => endpoint.paths.contains(&route),
        },
    })
}

/// 403.
pub(super) fn forbidden(message: impl Into<String>) -> Rejection {
    Reject::new(403, "permission_denied", message).with_code("permission_denied")
}

/// 404: there is none, or none for this caller.
pub(super) fn missing(what: &str, param: &'static str) -> Rejection {
    let message = format!("There is no such {what}, or you may not see it.");
    Reject::new(404, "not_found_error", message).with_param(param).with_code("not_found")
}
