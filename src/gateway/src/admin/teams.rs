//! Teams and who is in them: `/team/*`.

use std::sync::Arc;

use serde_json::{Map, Value, json};
use tollway_filter_api::accounts::{Change, Kind, Object, Wanted};
use tollway_filter_api::identity::Role;
use tollway_filter_api::{Reject, Rejection};

use super::Ask;
use super::access::{forbidden, missing};
use super::members::remove_budget;
use super::people::{SHOWN_MAX, teams_of};
use super::store::{Plan, merge};
use super::table::{BY_MODEL, LIMITS, MONEY, TEAM};
use crate::random;

/// How many members a team has at most.
const MEMBERS_MAX: usize = 10_000;
/// What a team's own admins may say about it; all else is what the team is allowed.
const OF_TEAM_ADMINS: [&str; 4] = ["team_id", "team_alias", "metadata", "tags"];

fn body_names() -> impl Iterator<Item = &'static str> {
    TEAM.iter().chain(MONEY).chain(BY_MODEL).chain(LIMITS).map(|field| field.name)
}

fn members(body: &Map<String, Value>) -> Vec<Value> {
    body.get("members_with_roles").and_then(Value::as_array).cloned().unwrap_or_default()
}

fn is_member(member: &Value, user: &str) -> bool {
    member.get("user_id").and_then(Value::as_str) == Some(user)
}

/// Adds a member to a team, or changes its role.
pub(super) fn add_member(
    body: &mut Map<String, Value>,
    user: &str,
    email: Option<&str>,
    role: &str,
) {
    let mut members = members(body);
    members.retain(|member| !is_member(member, user));
    members.push(json!({"user_id": user, "user_email": email, "role": role}));
    body.insert("members_with_roles".to_owned(), members.into());
}

/// Removes a member from a team.
pub(super) fn remove_member(body: &mut Map<String, Value>, user: &str) {
    let mut members = members(body);
    members.retain(|member| !is_member(member, user));
    body.insert("members_with_roles".to_owned(), members.into());
    remove_budget(body, user);
}

/// A user with one more team, or one less.
fn with_team(user: &Object, team: &str, is_in: bool) -> Object {
    let mut after = user.clone();
    let mut teams: Vec<Value> =
        teams_of(user).filter(|have| *have != team).map(Value::from).collect();
    if is_in {
        teams.push(team.into());
    }
    after.body.insert("teams".to_owned(), teams.into());
    after
}

impl Ask<'_> {
    pub(super) async fn team_new(&self) -> Result<Value, Rejection> {
        self.check_budget_id().await?;
        let id: Arc<str> = match self.said.text("team_id") {
            Some(id) => id.into(),
            None => random::uuid(self.now()).into(),
        };
        let mut body = Map::new();
        merge(&mut body, &self.said.0, body_names());
        body.retain(|_, value| !value.is_null());
        self.stamp_new(&mut body);
        let alias = self.said.text("team_alias").map(Arc::from);
        let team = Object { kind: Kind::Team, id, alias, user: None, team: None, body, version: 0 };
        let mut wanted: Vec<Value> = self
            .said
            .0
            .get("members_with_roles")
            .and_then(Value::as_array)
            .cloned()
            .unwrap_or_default();
        for (name, role) in [("members", "user"), ("admins", "admin")] {
            wanted.extend(
                self.said
                    .names(name)
                    .into_iter()
                    .map(|user| json!({"user_id": user, "role": role})),
            );
        }
        let team = self
            .change(|| async {
                self.refuse_taken(&team).await?;
                let mut team = team.clone();
                let mut change = Change::default();
                self.join(&mut team, &wanted, &mut change).await?;
                change.audit.extend(self.audited("created", None, Some(&team)));
                change.create.push(team.clone());
                Ok(Plan { change, result: team })
            })
            .await?;
        Ok(Value::Object(self.team_row(&team).await?))
    }

    /// Puts members into a team. Users that are not there yet are made, as LiteLLM does.
    async fn join(
        &self,
        team: &mut Object,
        wanted: &[Value],
        change: &mut Change,
    ) -> Result<Vec<Object>, Rejection> {
        let mut users: Vec<Object> = Vec::new();
        for member in wanted {
            let text = |name: &str| member.get(name).and_then(Value::as_str);
            let (id, email, role) =
                (text("user_id"), text("user_email"), text("role").unwrap_or("user"));
            let known = match users.iter().position(|user| id == Some(&*user.id)) {
                Some(at) => Some(users.remove(at)),
                None => self.user_named(id, email).await?,
            };
            let user = match known {
                Some(user) => user,
                // Also where only an address is given: the answer is the same whether or not there
                // was somebody of that address.
                None => {
                    let mut body = Map::new();
                    body.insert("user_role".to_owned(), Role::User.name().into());
                    if let Some(email) = email {
                        body.insert("user_email".to_owned(), email.into());
                    }
                    self.stamp_new(&mut body);
                    let id = id.map_or_else(|| random::uuid(self.now()), str::to_owned).into();
                    let alias = email.map(|email| email.to_lowercase().into());
                    Object { kind: Kind::User, id, alias, user: None, team: None, body, version: 0 }
                }
            };
            let have = user.body.get("user_email").and_then(Value::as_str);
            add_member(&mut team.body, &user.id, have, role);
            users.push(with_team(&user, &team.id, true));
        }
        if members(&team.body).len() > MEMBERS_MAX {
            return Err(Reject::invalid_request(format!(
                "A team has at most {MEMBERS_MAX} members."
            ))
            .with_param("member"));
        }
        for user in &users {
            if user.version == 0 {
                change.audit.extend(self.audited("created", None, Some(user)));
                change.create.push(user.clone());
            } else {
                change.replace.push(user.clone());
            }
        }
        Ok(users)
    }

    /// The team of a request that the caller may see.
    async fn team_seen(&self, id: &str) -> Result<Object, Rejection> {
        let team = match self.caller.sees_team(id) {
            true => self.get(Kind::Team, id).await?,
            false => None,
        };
        team.ok_or_else(|| missing("team", "team_id"))
    }

    /// The team of a request that the caller may change.
    async fn team_to_change(&self) -> Result<Object, Rejection> {
        let team = self.team_seen(self.said.text("team_id").unwrap_or_default()).await?;
        if self.caller.is_admin() || self.caller.is_admin_of(Some(&team.id)) {
            return Ok(team);
        }
        Err(forbidden("Only admins of the team change it.").with_param("team_id"))
    }

    pub(super) async fn team_info(&self) -> Result<Value, Rejection> {
        let own = self.caller.key.team.clone();
        let Some(id) = self.said.text("team_id").map(Arc::from).or(own) else {
            return Err(missing("team", "team_id"));
        };
        let team = self.team_seen(&id).await?;
        let wanted = Wanted { team: Some(Arc::clone(&team.id)), ..Wanted::default() };
        let mut keys = Vec::new();
        for key in self.all(Kind::Key, wanted, SHOWN_MAX).await? {
            if self.caller.sees_key(&key) {
                keys.push(Value::Object(self.key_row(&key).await?));
            }
        }
        let mut row = self.team_row(&team).await?;
        if !self.caller.sees_spend_of_team(&team.id) {
            hide_people(&mut row);
        }
        let mut users: Vec<Arc<str>> = members(&team.body)
            .iter()
            .filter_map(|m| m.get("user_id")?.as_str())
            .map(Arc::from)
            .collect();
        if !self.caller.sees_spend_of_team(&team.id) {
            users.retain(|user| self.caller.user() == Some(user));
        }
        let memberships = self.memberships(&team, &users).await?;
        Ok(json!({
            "team_id": &*team.id, "team_info": row, "keys": keys, "team_memberships": memberships,
        }))
    }

    pub(super) async fn team_list(&self) -> Result<Value, Rejection> {
        let user = self.said.text("user_id");
        let teams = match user {
            Some(user) if !self.caller.sees_user(user) => return Err(missing("user", "user_id")),
            None if self.caller.is_viewer() => {
                self.all(Kind::Team, Wanted::default(), SHOWN_MAX).await?
            }
            user => {
                let id = user.or(self.caller.user().map(|user| &**user));
                let known = match id {
                    Some(id) => self.get(Kind::User, id).await?,
                    None => None,
                };
                let mut ids: Vec<&str> = known.as_ref().into_iter().flat_map(teams_of).collect();
                if user.is_none() {
                    ids.extend(self.caller.key.team.as_deref());
                }
                ids.sort_unstable();
                ids.dedup();
                let mut teams = Vec::new();
                for id in ids {
                    teams.extend(self.get(Kind::Team, id).await?);
                }
                teams
            }
        };
        let mut rows = Vec::with_capacity(teams.len());
        for team in &teams {
            let mut row = self.team_row(team).await?;
            if !self.caller.sees_spend_of_team(&team.id) {
                hide_people(&mut row);
            }
            rows.push(Value::Object(row));
        }
        Ok(rows.into())
    }

    pub(super) async fn team_update(&self) -> Result<Value, Rejection> {
        self.check_budget_id().await?;
        if !self.caller.is_admin() {
            self.team_to_change().await?;
            if let Some(name) =
                self.said.0.keys().find(|name| !OF_TEAM_ADMINS.contains(&name.as_str()))
            {
                let message = format!("Only a proxy_admin changes '{name}' of a team.");
                return Err(forbidden(message).with_param(name.clone()));
            }
        }
        let after = self
            .change(|| async {
                let before = self.team_to_change().await?;
                let mut after = before.clone();
                merge(&mut after.body, &self.said.0, body_names());
                if self.said.says("team_alias") {
                    after.alias = self.said.text("team_alias").map(Arc::from);
                }
                self.stamp_changed(&mut after.body);
                Ok(Plan { change: self.replaced("updated", &before, after.clone()), result: after })
            })
            .await?;
        let row = self.team_row(&after).await?;
        Ok(json!({"team_id": &*after.id, "data": row}))
    }

    pub(super) async fn team_delete(&self) -> Result<Value, Rejection> {
        let ids = self.said.names("team_ids");
        for id in &ids {
            if self.get(Kind::Team, id).await?.is_none() {
                return Err(missing("team", "team_ids"));
            }
        }
        for id in &ids {
            self.delete_keys_of(&Wanted { team: Some((*id).into()), ..Wanted::default() }).await?;
            // Users before the team, some at a time: they may be more than go in one change.
            loop {
                let left = self.change(|| self.plan_leaving(id)).await?;
                if left == 0 {
                    break;
                }
            }
        }
        Ok(json!({"deleted_teams": ids}))
    }

    /// Takes some members out of a team, and the last ones with the team itself. How many are left.
    async fn plan_leaving(&self, id: &str) -> Result<Plan<usize>, Rejection> {
        const AT_ONCE: usize = 200;
        let mut change = Change::default();
        let Some(team) = self.get(Kind::Team, id).await? else {
            return Ok(Plan { change, result: 0 });
        };
        let members = members(&team.body);
        let (going, staying) = members.split_at(members.len().min(AT_ONCE));
        for member in going {
            let user = member.get("user_id").and_then(Value::as_str).unwrap_or_default();
            if let Some(user) = self.get(Kind::User, user).await? {
                change.replace.push(with_team(&user, id, false));
            }
        }
        if staying.is_empty() {
            self.delete(&mut change, &team);
        } else {
            let mut after = team.clone();
            after.body.insert("members_with_roles".to_owned(), staying.into());
            change.audit.extend(self.audited("member_deleted", Some(&team), Some(&after)));
            change.replace.push(after);
        }
        Ok(Plan { change, result: staying.len() })
    }

    pub(super) async fn team_member_add(&self) -> Result<Value, Rejection> {
        let wanted =
            self.said.0.get("member").and_then(Value::as_array).cloned().unwrap_or_default();
        let (team, users) = self
            .change(|| async {
                let before = self.team_to_change().await?;
                let mut team = before.clone();
                let mut change = Change::default();
                let users = self.join(&mut team, &wanted, &mut change).await?;
                for user in &users {
                    self.set_member_budget(&mut team.body, &user.id);
                }
                self.stamp_changed(&mut team.body);
                change.audit.extend(self.audited("member_added", Some(&before), Some(&team)));
                change.replace.push(team.clone());
                Ok(Plan { change, result: (team, users) })
            })
            .await?;
        let mut row = self.team_row(&team).await?;
        let mut updated = Vec::new();
        for user in &users {
            // Who adds somebody learns no more about them than their id.
            updated.push(match self.caller.sees_user(&user.id) {
                true => Value::Object(self.user_row(user).await?),
                false => json!({"user_id": &*user.id}),
            });
        }
        row.insert("updated_users".to_owned(), updated.into());
        let ids: Vec<Arc<str>> = users.iter().map(|user| Arc::clone(&user.id)).collect();
        let memberships = self.memberships(&team, &ids).await?;
        row.insert("updated_team_memberships".to_owned(), memberships.into());
        Ok(Value::Object(row))
    }

    /// The member of a team that a request names.
    async fn member_named(&self, team: &Object) -> Result<Value, Rejection> {
        let (id, email) = (self.said.text("user_id"), self.said.text("user_email"));
        let mut members = members(&team.body).into_iter();
        let found = match (id, email) {
            (Some(id), _) => members.find(|member| is_member(member, id)),
            (None, Some(email)) => members
                .find(|member| member.get("user_email").and_then(Value::as_str) == Some(email)),
            (None, None) => {
                let message = "Either user id or user email must be provided.";
                return Err(Reject::invalid_request(message).with_param("user_id"));
            }
        };
        found.ok_or_else(|| missing("member", "user_id"))
    }

    pub(super) async fn team_member_update(&self) -> Result<Value, Rejection> {
        let (team, member) = self
            .change(|| async {
                let before = self.team_to_change().await?;
                let member = self.member_named(&before).await?;
                let mut after = before.clone();
                let text = |name: &str| member.get(name).and_then(Value::as_str);
                let role = self.said.text("role").or(text("role")).unwrap_or("user");
                add_member(
                    &mut after.body,
                    text("user_id").unwrap_or_default(),
                    text("user_email"),
                    role,
                );
                self.set_member_budget(&mut after.body, text("user_id").unwrap_or_default());
                self.stamp_changed(&mut after.body);
                let mut member = member.clone();
                member["role"] = role.into();
                Ok(Plan {
                    change: self.replaced("member_updated", &before, after.clone()),
                    result: (after, member),
                })
            })
            .await?;
        let user = member["user_id"].as_str().unwrap_or_default().into();
        let memberships = self.memberships(&team, &[user]).await?;
        let budget = &memberships[0]["litellm_budget_table"];
        Ok(json!({
            "team_id": &*team.id, "user_id": member["user_id"], "user_email": member["user_email"],
            "role": member["role"], "max_budget_in_team": budget["max_budget"],
            "budget_duration": budget["budget_duration"],
        }))
    }

    pub(super) async fn team_member_delete(&self) -> Result<Value, Rejection> {
        let before = self.team_to_change().await?;
        let member = self.member_named(&before).await?;
        let user: Arc<str> =
            member.get("user_id").and_then(Value::as_str).unwrap_or_default().into();
        let team = Some(Arc::clone(&before.id));
        self.delete_keys_of(&Wanted { user: Some(Arc::clone(&user)), team, ..Wanted::default() })
            .await?;
        let after = self
            .change(|| async {
                let before = self.team_to_change().await?;
                let mut after = before.clone();
                remove_member(&mut after.body, &user);
                self.stamp_changed(&mut after.body);
                let mut change = self.replaced("member_deleted", &before, after.clone());
                if let Some(user) = self.get(Kind::User, &user).await? {
                    change.replace.push(with_team(&user, &before.id, false));
                }
                Ok(Plan { change, result: after })
            })
            .await?;
        Ok(Value::Object(self.team_row(&after).await?))
    }

    pub(super) async fn team_set_blocked(&self, blocked: bool) -> Result<Value, Rejection> {
        let after = self
            .change(|| async {
                let before = self.team_to_change().await?;
                let mut after = before.clone();
                after.body.insert("blocked".to_owned(), blocked.into());
                self.stamp_changed(&mut after.body);
                let action = if blocked { "blocked" } else { "unblocked" };
                Ok(Plan { change: self.replaced(action, &before, after.clone()), result: after })
            })
            .await?;
        Ok(Value::Object(self.team_row(&after).await?))
    }
}

/// A key without a user sees its team's terms, and not who is in it.
fn hide_people(row: &mut Map<String, Value>) {
    for name in ["members_with_roles", "members", "admins"] {
        row.insert(name.to_owned(), json!([]));
    }
    row.insert("spend".to_owned(), Value::Null);
}
