//! Users: `/user/*`.

use std::sync::Arc;

use serde_json::{Map, Value, json};
use tollway_filter_api::accounts::{Change, Kind, Object, Wanted};
use tollway_filter_api::identity::Role;
use tollway_filter_api::{Reject, Rejection};

use super::Ask;
use super::access::missing;
use super::store::{CHANGED_MAX, Plan, merge, refused};
use super::table::{BY_MODEL, LIMITS, MONEY, USER};
use crate::random;

/// The largest page of users.
const PAGE_MAX: u64 = 1_000;
/// How many keys or users an answer shows at most.
pub(super) const SHOWN_MAX: usize = 1_000;
/// How many users are looked through.
const SCANNED_MAX: usize = 200_000;
/// What a key that is made with a user does not have from it: the user's own holds for all its keys.
const OF_THE_USER: [&str; 9] = [
    "max_budget",
    "soft_budget",
    "budget_duration",
    "budget_id",
    "budget_limits",
    "model_max_budget",
    "tpm_limit",
    "rpm_limit",
    "max_parallel_requests",
];

fn body_names() -> impl Iterator<Item = &'static str> {
    USER.iter()
        .chain(MONEY)
        .chain(BY_MODEL)
        .chain(LIMITS)
        .map(|field| field.name)
        .filter(|name| *name != "user_id")
}

/// An address as it is looked up.
pub(super) fn email_key(email: &str) -> Arc<str> {
    email.to_lowercase().into()
}

impl Ask<'_> {
    pub(super) async fn user_new(mut self) -> Result<Value, Rejection> {
        self.check_budget_id().await?;
        let id: Arc<str> = match self.said.text("user_id") {
            Some(id) => id.into(),
            None => random::uuid(self.now()).into(),
        };
        let mut body = Map::new();
        merge(&mut body, &self.said.0, body_names());
        body.retain(|_, value| !value.is_null());
        body.entry("user_role").or_insert_with(|| Role::User.name().into());
        let teams = self.teams_said();
        let team_ids: Vec<Value> = teams.iter().map(|(team, _)| team.as_str().into()).collect();
        body.insert("teams".to_owned(), team_ids.clone().into());
        self.stamp_new(&mut body);
        let alias = self.said.text("user_email").map(email_key);
        let user = Object {
            kind: Kind::User,
            id: Arc::clone(&id),
            alias,
            user: None,
            team: None,
            body,
            version: 0,
        };
        // The first key, which has nothing of its own but what it may call.
        let key = match self.said.flag("auto_create_key") {
            Some(false) => None,
            _ => {
                let text = super::keys::fresh_key()?;
                let mut said = std::mem::take(&mut self.said);
                for name in OF_THE_USER {
                    said.0.remove(name);
                }
                let object = self.key_object(&text, &said, Some(&id), None);
                self.said = said;
                Some((text, object))
            }
        };
        self.change(|| async {
            self.refuse_taken(&user).await?;
            let mut change = self.created(user.clone());
            if let Some((_, key)) = &key {
                self.refuse_taken(key).await?;
                change.create.push(key.clone());
                change.audit.extend(self.audited("created", None, Some(key)));
            }
            for (team, role) in &teams {
                let Some(before) = self.get(Kind::Team, team).await? else {
                    return Err(missing("team", "teams"));
                };
                let mut after = before.clone();
                super::teams::add_member(&mut after.body, &id, self.said.text("user_email"), role);
                change.audit.extend(self.audited("member_added", Some(&before), Some(&after)));
                change.replace.push(after);
            }
            Ok(Plan { change, result: () })
        })
        .await?;
        let mut row = match &key {
            Some((text, object)) => self.shown_once(text, object).await?,
            None => Map::from_iter([("key".to_owned(), Value::Null)]),
        };
        row.extend(self.user_row(&user).await?);
        Ok(Value::Object(row))
    }

    /// Team ids with roles.
    fn teams_said(&self) -> Vec<(String, String)> {
        let list = self.said.0.get("teams").and_then(Value::as_array).into_iter().flatten();
        list.filter_map(|team| match team {
            Value::String(id) => Some((id.clone(), "user".to_owned())),
            team => {
                let role = team.get("user_role").and_then(Value::as_str).unwrap_or("user");
                Some((team.get("team_id")?.as_str()?.to_owned(), role.to_owned()))
            }
        })
        .collect()
    }

    pub(super) async fn user_info(&self) -> Result<Value, Rejection> {
        let own = self.caller.user().map(|user| user.to_string());
        let Some(id) = self.said.text("user_id").map(str::to_owned).or(own) else {
            // LiteLLM shows admins everything here; there is `/user/list` for that.
            return Err(missing("user", "user_id"));
        };
        if !self.caller.sees_user(&id) {
            return Err(missing("user", "user_id"));
        }
        let Some(user) = self.get(Kind::User, &id).await? else {
            return Err(missing("user", "user_id"));
        };
        let wanted = Wanted { user: Some(Arc::clone(&user.id)), ..Wanted::default() };
        let mut keys = Vec::new();
        for key in self.all(Kind::Key, wanted, SHOWN_MAX).await? {
            keys.push(Value::Object(self.key_row(&key).await?));
        }
        let mut teams = Vec::new();
        for team in teams_of(&user) {
            if let Some(team) = self.get(Kind::Team, team).await? {
                teams.push(Value::Object(self.team_row(&team).await?));
            }
        }
        let info = self.user_row(&user).await?;
        Ok(json!({"user_id": id, "user_info": info, "keys": keys, "teams": teams}))
    }

    pub(super) async fn user_list(&self) -> Result<Value, Rejection> {
        let (page, size) = self.page(25, PAGE_MAX)?;
        let (skip, limit) = ((page - 1) * size, size);
        let (role, email) =
            (self.said.text("role"), self.said.text("user_email").map(str::to_lowercase));
        let (team, ids) = (self.said.text("team"), self.said.text("user_ids"));
        let ids: Option<Vec<&str>> =
            ids.map(|ids| ids.split(',').map(str::trim).take(SHOWN_MAX).collect());
        let is_plain = role.is_none() && email.is_none() && team.is_none() && ids.is_none();
        let (users, total) = if is_plain {
            let wanted = Wanted { skip, limit, ..Wanted::default() };
            let page = self.admin.accounts.list(Kind::User, wanted).await.map_err(refused)?;
            (page.objects, page.total)
        } else {
            let has = |user: &Object, name: &str| {
                user.body.get(name).and_then(Value::as_str).map(str::to_lowercase)
            };
            let fits = |user: &Object| {
                role.is_none_or(|role| has(user, "user_role").as_deref() == Some(role))
                    && email.as_ref().is_none_or(|part| {
                        has(user, "user_email").is_some_and(|have| have.contains(part))
                    })
                    && team.is_none_or(|team| teams_of(user).any(|have| have == team))
                    && ids.as_ref().is_none_or(|ids| ids.contains(&&*user.id))
            };
            let all = self.all(Kind::User, Wanted::default(), SCANNED_MAX).await?;
            let fitting: Vec<Object> = all.into_iter().filter(fits).collect();
            let total = fitting.len() as u64;
            let skip = usize::try_from(skip).unwrap_or(usize::MAX);
            (
                fitting.into_iter().skip(skip).take(usize::try_from(limit).unwrap_or(0)).collect(),
                total,
            )
        };
        let mut rows = Vec::with_capacity(users.len());
        for user in &users {
            let mut row = self.user_row(user).await?;
            let wanted = Wanted { user: Some(Arc::clone(&user.id)), limit: 1, ..Wanted::default() };
            let keys = self.admin.accounts.list(Kind::Key, wanted).await.map_err(refused)?;
            row.insert("key_count".to_owned(), keys.total.into());
            rows.push(Value::Object(row));
        }
        Ok(json!({
            "users": rows, "total": total, "page": page, "page_size": size,
            "total_pages": total.div_ceil(size),
        }))
    }

    /// The user that a request names by its id or address.
    pub(super) async fn user_named(
        &self,
        id: Option<&str>,
        email: Option<&str>,
    ) -> Result<Option<Object>, Rejection> {
        if let Some(id) = id {
            return self.get(Kind::User, id).await;
        }
        let Some(email) = email else {
            let message = "Either user id or user email must be provided.";
            return Err(Reject::invalid_request(message).with_param("user_id"));
        };
        let wanted = Wanted { alias: Some(email_key(email)), limit: 1, ..Wanted::default() };
        let page = self.admin.accounts.list(Kind::User, wanted).await.map_err(refused)?;
        Ok(page.objects.into_iter().next())
    }

    pub(super) async fn user_update(&self) -> Result<Value, Rejection> {
        self.check_budget_id().await?;
        let (id, email) = (self.said.text("user_id"), self.said.text("user_email"));
        let after = self
            .change(|| async {
                let Some(before) = self.user_named(id, email).await? else {
                    return Err(missing("user", "user_id"));
                };
                let mut after = before.clone();
                merge(&mut after.body, &self.said.0, body_names());
                if self.said.says("user_email") {
                    after.alias = email.map(email_key);
                }
                self.stamp_changed(&mut after.body);
                Ok(Plan { change: self.replaced("updated", &before, after.clone()), result: after })
            })
            .await?;
        let row = self.user_row(&after).await?;
        Ok(json!({"user_id": &*after.id, "data": row}))
    }

    /// Deletes the keys of somebody, by the batch: they may be more than go in one change.
    pub(super) async fn delete_keys_of(&self, wanted: &Wanted) -> Result<(), Rejection> {
        loop {
            let wanted = Wanted { skip: 0, limit: CHANGED_MAX as u64, ..wanted.clone() };
            let left = self
                .change(|| async {
                    let page = self
                        .admin
                        .accounts
                        .list(Kind::Key, wanted.clone())
                        .await
                        .map_err(refused)?;
                    let mut change = Change::default();
                    for key in &page.objects {
                        self.delete(&mut change, key);
                    }
                    let left = page.total.saturating_sub(page.objects.len() as u64);
                    Ok(Plan { change, result: left })
                })
                .await?;
            if left == 0 {
                return Ok(());
            }
        }
    }

    pub(super) async fn user_delete(&self) -> Result<Value, Rejection> {
        let ids = self.said.names("user_ids");
        for id in &ids {
            if self.get(Kind::User, id).await?.is_none() {
                return Err(missing("user", "user_ids"));
            }
        }
        // Keys first: what is cut off in between has no more access than before.
        for id in &ids {
            self.delete_keys_of(&Wanted { user: Some((*id).into()), ..Wanted::default() }).await?;
        }
        let mut deleted = 0;
        for id in &ids {
            deleted += self
                .change(|| async {
                    let mut change = Change::default();
                    let Some(user) = self.get(Kind::User, id).await? else {
                        return Ok(Plan { change, result: 0 });
                    };
                    self.delete(&mut change, &user);
                    for team in teams_of(&user) {
                        let Some(before) = self.get(Kind::Team, team).await? else { continue };
                        let mut after = before.clone();
                        super::teams::remove_member(&mut after.body, id);
                        change.audit.extend(self.audited(
                            "member_deleted",
                            Some(&before),
                            Some(&after),
                        ));
                        change.replace.push(after);
                    }
                    Ok(Plan { change, result: 1 })
                })
                .await?;
        }
        Ok(json!({"deleted_users": deleted}))
    }
}

/// The teams that a user is in.
pub(super) fn teams_of(user: &Object) -> impl Iterator<Item = &str> {
    let teams = user.body.get("teams").and_then(Value::as_array).into_iter().flatten();
    teams.filter_map(Value::as_str)
}
