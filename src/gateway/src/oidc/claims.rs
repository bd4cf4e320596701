//! From a token's claims to who calls, as the config says where what stands.

use std::sync::Arc;

use serde_json::Value;
use tollway_filter_api::identity::Role;

use super::token::Claims;
use crate::config::{ClaimNames, JwtSettings, MappedRole};

/// The longest id, and how many teams of one token are looked at.
const ID_BYTES_MAX: usize = 256;
const TEAMS_MAX: usize = 256;

/// Who a token speaks for, by what it says alone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Person {
    pub(super) user: Option<Arc<str>>,
    pub(super) email: Option<Arc<str>>,
    /// What to call somebody who is no user: a program, mostly.
    pub(super) subject: Option<Arc<str>>,
    /// In the order in which they count.
    pub(super) teams: Vec<Arc<str>>,
    pub(super) end_user: Option<Arc<str>>,
    /// What the token says of its role, if anything.
    pub(super) role: Option<Role>,
    /// It is an admin by `admin_jwt_scope` or `role_mappings`, and need not be known.
    pub(super) is_admin: bool,
}

/// Why somebody whose token is right may not come in. Goes to the client.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Stranger {
    #[error("the token names nobody: neither a user nor a team")]
    Nobody,
    #[error("an id in the token is empty, longer than 256 bytes or has control characters")]
    Id,
    #[error("the token's email address is not of the domain {0}")]
    Domain(String),
    #[error("the token has none of the roles that may sign in")]
    Role,
    #[error("the token names no team, which is asked for in `{0}`")]
    NoTeam(String),
}

impl Person {
    pub(super) fn of(
        claims: &Claims,
        names: &ClaimNames,
        settings: &JwtSettings,
    ) -> Result<Person, Stranger> {
        let named = |name: &Option<String>| match name.as_ref().and_then(|name| claims.get(name)) {
            None => Ok(None),
            Some(value) => id(value),
        };
        let mut person = Person {
            user: named(&names.user_id)?,
            email: named(&names.user_email)?,
            subject: ["sub", "azp", "client_id"]
                .iter()
                .find_map(|name| claims.get(name).and_then(|value| id(value).ok()?)),
            teams: Vec::new(),
            end_user: named(&names.end_user_id)?,
            role: None,
            is_admin: false,
        };
        for name in [&names.team_id, &names.team_ids] {
            for value in list(name.as_ref().and_then(|name| claims.get(name))) {
                // Groups that cannot be teams are none of ours.
                let Ok(Some(team)) = id(value) else { continue };
                if person.teams.len() < TEAMS_MAX && !person.teams.contains(&team) {
                    person.teams.push(team);
                }
            }
        }
        person.set_role(claims, names, settings)?;
        // LiteLLM's way as well: an address is a name where there is no other.
        person.user = person.user.take().or_else(|| person.email.clone());
        person.admit(claims, names, settings)?;
        Ok(person)
    }

    fn set_role(
        &mut self,
        claims: &Claims,
        names: &ClaimNames,
        settings: &JwtSettings,
    ) -> Result<(), Stranger> {
        let scopes = texts(claims.get("scope"));
        let mut scopes = scopes.iter().flat_map(|text| text.split_ascii_whitespace());
        if scopes.any(|scope| scope == settings.admin_scope) {
            (self.role, self.is_admin) = (Some(Role::Admin), true);
            return Ok(());
        }
        let roles = texts(settings.roles_field.as_ref().and_then(|name| claims.get(name)));
        let has = |wanted: &str| roles.iter().any(|role| matches(wanted, role));
        let object = match settings.object_id_field.as_ref().and_then(|name| claims.get(name)) {
            Some(value) => id(value)?,
            None => None,
        };
        let exact = settings.role_mappings.iter().find(|(role, _)| roles.contains(&role.as_str()));
        match exact.map(|(_, mapped)| *mapped) {
            Some(MappedRole::Team) => {
                if let Some(team) = object {
                    self.teams.retain(|have| *have != team);
                    self.teams.insert(0, team);
                }
                if names.user_id.is_none() {
                    self.email = None;
                }
            }
            Some(MappedRole::User(role)) => {
                self.user = object.or(self.user.take());
                (self.role, self.is_admin) = (Some(role), role == Role::Admin);
            }
            None => {
                let found = settings.role_map.iter().find(|(role, _)| has(role));
                self.role = found.map(|(_, role)| *role);
            }
        }
        Ok(())
    }

    /// Whether it may come in at all.
    fn admit(
        &mut self,
        claims: &Claims,
        names: &ClaimNames,
        settings: &JwtSettings,
    ) -> Result<(), Stranger> {
        if let (Some(domain), Some(_)) = (&settings.email_domain, &self.user) {
            // An address that nobody has confirmed may be anybody's.
            let is_sure = claims.get("email_verified") != Some(&Value::Bool(false));
            let of_email = self.email.as_ref().and_then(|email| email.rsplit_once('@'));
            if !is_sure || !of_email.is_some_and(|(_, of)| of.eq_ignore_ascii_case(domain)) {
                return Err(Stranger::Domain(domain.clone()));
            }
        }
        if self.is_admin {
            return Ok(());
        }
        if let (Some(field), Some(_)) = (&settings.user_roles_field, &self.user) {
            let roles = texts(claims.get(field));
            if !roles.iter().any(|role| settings.user_allowed_roles.iter().any(|a| a == role)) {
                return Err(Stranger::Role);
            }
        }
        if self.teams.is_empty() && settings.team_default.is_none() {
            if let Some(field) = &names.team_id {
                return Err(Stranger::NoTeam(field.clone()));
            }
            if self.user.is_none() {
                return Err(Stranger::Nobody);
            }
        }
        Ok(())
    }
}

/// An id, which may be a number. Null is none.
fn id(value: &Value) -> Result<Option<Arc<str>>, Stranger> {
    let text = match value {
        Value::Null => return Ok(None),
        Value::String(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        _ => return Err(Stranger::Id),
    };
    let is_id = (1..=ID_BYTES_MAX).contains(&text.len()) && !text.chars().any(char::is_control);
    if is_id { Ok(Some(text.into())) } else { Err(Stranger::Id) }
}

/// A list, or one value that stands for a list of one.
fn list(value: Option<&Value>) -> &[Value] {
    match value {
        Some(Value::Array(list)) => list,
        Some(one) => std::slice::from_ref(one),
        None => &[],
    }
}

fn texts(value: Option<&Value>) -> Vec<&str> {
    list(value).iter().filter_map(Value::as_str).collect()
}

/// Whether a role is the one that is meant, which may end with a `*`.
fn matches(wanted: &str, role: &str) -> bool {
    match wanted.strip_suffix('*') {
        Some(start) => role.starts_with(start),
        None => wanted == role,
    }
}
