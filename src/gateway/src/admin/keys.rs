//! Virtual keys: `/key/*`.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use tollway_filter_api::accounts::{Change, Kind, Object, Wanted};
use tollway_filter_api::identity::KeyStore;
use tollway_filter_api::{KeyHash, Reject, Rejection};

use super::Ask;
use super::access::{forbidden, missing};
use super::fields::{self, Said};
use super::store::{Plan, merge, refused};
use super::table::{BY_MODEL, KEY, LIMITS, MONEY};
use crate::calendar;

/// The shortest key that somebody may choose, and the longest: `auth` looks at no longer one.
const KEY_CHARS: std::ops::RangeInclusive<usize> = 19..=512;
/// What is kept of a request under other names, or not at all.
const NOT_IN_BODY: [&str; 5] = ["key_alias", "user_id", "team_id", "duration", "key"];
/// The largest page of keys.
const PAGE_MAX: u64 = 100;

/// A key's hash, from the key or from the hash itself: which of them it is, its form tells.
fn hash_of(text: &str) -> KeyHash {
    KeyHash::from_hex(text).unwrap_or_else(|| KeyHash(Sha256::digest(text).into()))
}

/// The hash that a request names.
pub(super) fn hash_hex(text: &str) -> String {
    hash_of(text).hex()
}

/// `sk-` and 22 characters that nobody can guess.
pub(super) fn fresh_key() -> Result<String, Rejection> {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    // 22 times six bits, each from a byte of its own.
    let mut random = [0; 22];
    getrandom::fill(&mut random)
        .map_err(|error| Reject::internal("No key can be made.", error.to_string()))?;
    let digits = random.iter().map(|byte| char::from(ALPHABET[usize::from(byte & 63)]));
    Ok("sk-".chars().chain(digits).collect())
}

/// A key that somebody has chosen.
fn chosen_key(text: &str, param: &'static str) -> Result<String, Rejection> {
    let is_right = text.starts_with("sk-")
        && KEY_CHARS.contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_graphic());
    // What looks like a hash could never be named.
    if !is_right || KeyHash::from_hex(text).is_some() {
        return Err(fields::wrong(param, "a key: `sk-` and 16 to 509 visible ASCII characters"));
    }
    Ok(text.to_owned())
}

/// `sk-...AbCd`
fn key_name(key: &str) -> String {
    format!("sk-...{}", &key[key.len().saturating_sub(4)..])
}

fn is_regular(name: &&str) -> bool {
    !NOT_IN_BODY.contains(name)
}

fn body_names() -> impl Iterator<Item = &'static str> {
    let fields = KEY.iter().chain(MONEY).chain(BY_MODEL).chain(LIMITS);
    fields.map(|field| field.name).filter(is_regular)
}

impl Ask<'_> {
    fn new_key_text(&self, name: &'static str) -> Result<String, Rejection> {
        match self.said.text(name) {
            Some(text) => chosen_key(text, name),
            None => fresh_key(),
        }
    }

    /// When something ends that is to last so long from now. `-1` and null are never.
    fn ends(&self) -> Option<String> {
        let period = self.said.length("duration")?;
        Some(calendar::text(calendar::after(self.now(), period)))
    }

    /// What LiteLLM's types of keys may use.
    fn routes_of_type(said: &mut Said) {
        let routes: &[&str] = match said.text("key_type") {
            Some("llm_api") => &["llm_api_routes"],
            Some("management") => &["management_routes"],
            Some("read_only") => &["info_routes"],
            _ => return,
        };
        said.0.insert("allowed_routes".to_owned(), json!(routes));
    }

    /// The team that a new key will be in: it has to be there, and somebody has to have a say in it.
    async fn team_for_key(&self, team: Option<&str>) -> Result<(), Rejection> {
        let Some(team) = team else { return Ok(()) };
        if !self.caller.sees_team(team) || self.get(Kind::Team, team).await?.is_none() {
            return Err(missing("team", "team_id"));
        }
        if !self.caller.is_admin() && !self.caller.is_admin_of(Some(team)) {
            return Err(forbidden("Only admins of a team make keys for it.").with_param("team_id"));
        }
        Ok(())
    }

    async fn budget_for(&self, said: &Said) -> Result<(), Rejection> {
        match said.text("budget_id") {
            Some(id) if self.get(Kind::Budget, id).await?.is_none() => {
                Err(missing("budget", "budget_id"))
            }
            _ => Ok(()),
        }
    }

    pub(super) async fn check_budget_id(&self) -> Result<(), Rejection> {
        self.budget_for(&self.said).await
    }

    /// A new key's object.
    pub(super) fn key_object(
        &self,
        key: &str,
        said: &Said,
        user: Option<&str>,
        team: Option<&str>,
    ) -> Object {
        let mut body = Map::new();
        merge(&mut body, &said.0, body_names());
        body.retain(|_, value| !value.is_null());
        body.insert("key_name".to_owned(), key_name(key).into());
        if let Some(ends) = self.ends() {
            body.insert("expires".to_owned(), ends.into());
        }
        self.stamp_new(&mut body);
        Object {
            kind: Kind::Key,
            id: hash_hex(key).into(),
            alias: said.text("key_alias").map(Arc::from),
            user: user.map(Arc::from),
            team: team.map(Arc::from),
            body,
            version: 0,
        }
    }

    /// A key, in the answer that shows it this once.
    pub(super) async fn shown_once(
        &self,
        key: &str,
        object: &Object,
    ) -> Result<Map<String, Value>, Rejection> {
        let mut row = self.key_row(object).await?;
        row.insert("key".to_owned(), key.into());
        row.insert("token_id".to_owned(), object.id.as_ref().into());
        Ok(row)
    }

    pub(super) fn refuse_known_key(&self, object: &Object) -> Result<(), Rejection> {
        let hash = KeyHash::from_hex(&object.id);
        if hash.is_some_and(|hash| self.around.config.keys.find(&hash).is_some()) {
            return Err(Reject::invalid_request("There is such a key already.")
                .with_param("key")
                .with_code("key_exists"));
        }
        Ok(())
    }

    pub(super) async fn key_generate(mut self) -> Result<Value, Rejection> {
        let user = match self.said.text("user_id") {
            // Keys speak for their users: nobody makes one that speaks for somebody else.
            Some(user) if !self.caller.is_admin() && !self.caller.is_user(Some(user)) => {
                return Err(missing("user", "user_id"));
            }
            Some(user) => Some(user.to_owned()),
            // A team's admin makes keys of nobody's where it says so with a null.
            None if self.said.says("user_id") && self.said.text("team_id").is_some() => None,
            None if self.caller.is_admin() => None,
            None => self.caller.user().map(|user| user.to_string()),
        };
        let team = self.said.text("team_id").map(str::to_owned);
        self.check_tools()?;
        self.team_for_key(team.as_deref()).await?;
        self.budget_for(&self.said).await?;
        Self::routes_of_type(&mut self.said);
        let mut said = std::mem::take(&mut self.said);
        self.caller.limit(&mut said, None, team.as_deref())?;
        self.said = said;
        let key = self.new_key_text("key")?;
        let object = self.key_object(&key, &self.said, user.as_deref(), team.as_deref());
        self.refuse_known_key(&object)?;
        let object = self
            .change(|| async {
                self.refuse_taken(&object).await?;
                Ok(Plan { change: self.created(object.clone()), result: object.clone() })
            })
            .await?;
        Ok(Value::Object(self.shown_once(&key, &object).await?))
    }

    /// Refuses an object whose id or alias another one has, so that the client is told which.
    pub(super) async fn refuse_taken(&self, object: &Object) -> Result<(), Rejection> {
        let refuse = |param: &'static str| {
            let message =
                format!("There is such a {} already: its {param} is taken.", object.kind.name());
            Err(Reject::invalid_request(message).with_param(param).with_code("already_exists"))
        };
        if self.get(object.kind, &object.id).await?.is_some() {
            return refuse(match object.kind {
                Kind::Key => "key",
                Kind::Team => "team_id",
                Kind::Budget => "budget_id",
                Kind::User | Kind::EndUser => "user_id",
                Kind::Tag => "name",
            });
        }
        self.refuse_taken_alias(object).await
    }

    async fn refuse_taken_alias(&self, object: &Object) -> Result<(), Rejection> {
        let Some(alias) = &object.alias else { return Ok(()) };
        let wanted = Wanted { alias: Some(Arc::clone(alias)), limit: 2, ..Wanted::default() };
        let page = self.admin.accounts.list(object.kind, wanted).await.map_err(refused)?;
        if page.objects.iter().all(|other| other.id == object.id) {
            return Ok(());
        }
        let param = match object.kind {
            Kind::Key => "key_alias",
            Kind::Team => "team_alias",
            Kind::User => "user_email",
            Kind::Budget | Kind::EndUser | Kind::Tag => "alias",
        };
        let message = format!("There is another {} of that {param}.", object.kind.name());
        Err(Reject::invalid_request(message).with_param(param).with_code("already_exists"))
    }

    /// The key of a request that is to be changed.
    async fn key_to_change(&self, named: &str) -> Result<Object, Rejection> {
        let hash = hash_of(named);
        if let Some(key) = self.around.config.keys.find(&hash) {
            let is_own = key.hash == self.caller.key.hash;
            if is_own || self.caller.is_viewer() || self.caller.is_user(key.user.as_deref()) {
                let message = "This key stands in the config: change it there, and reload.";
                return Err(forbidden(message).with_param("key").with_code("config_key"));
            }
            return Err(missing("key", "key"));
        }
        let object = self.get(Kind::Key, &hash.hex()).await?;
        let Some(object) = object.filter(|object| self.caller.sees_key(object)) else {
            return Err(missing("key", "key"));
        };
        if !self.caller.changes_key(&object) {
            return Err(forbidden("You may see this key, but not change it.").with_param("key"));
        }
        Ok(object)
    }

    pub(super) async fn key_info(&self) -> Result<Value, Rejection> {
        let own = self.caller.key.hash;
        let named = self.said.text("key");
        let hash = named.map_or(own, hash_of);
        let shown = named.map_or_else(|| hash.hex(), str::to_owned);
        if let Some(key) = self.around.config.keys.find(&hash) {
            let sees =
                hash == own || self.caller.is_viewer() || self.caller.is_user(key.user.as_deref());
            if !sees {
                return Err(missing("key", "key"));
            }
            let mut info = self.config_key_row(&key).await?;
            info.remove("token");
            return Ok(json!({"key": shown, "info": info}));
        }
        let object = self.get(Kind::Key, &hash.hex()).await?;
        let Some(object) = object.filter(|object| self.caller.sees_key(object)) else {
            return Err(missing("key", "key"));
        };
        let mut info = self.key_row(&object).await?;
        info.remove("token");
        Ok(json!({"key": shown, "info": info}))
    }

    pub(super) async fn key_update(mut self) -> Result<Value, Rejection> {
        let named = self.said.text("key").unwrap_or_default().to_owned();
        let before = self.key_to_change(&named).await?;
        self.check_owner_stays(&before)?;
        let team = match self.said.says("team_id") {
            true => self.said.text("team_id").map(str::to_owned),
            false => before.team.as_deref().map(str::to_owned),
        };
        if self.said.says("team_id") && team.as_deref() != before.team.as_deref() {
            self.team_for_key(team.as_deref()).await?;
        }
        self.budget_for(&self.said).await?;
        Self::routes_of_type(&mut self.said);
        let mut said = std::mem::take(&mut self.said);
        self.caller.limit(&mut said, Some(&before), team.as_deref())?;
        self.said = said;
        let after = self
            .change(|| async {
                let before = self.key_to_change(&named).await?;
                self.check_guards_stay(&before)?;
                self.check_tools()?;
                let mut after = self.updated_key(&before);
                after.team = team.as_deref().map(Arc::from);
                self.refuse_taken_alias(&after).await?;
                Ok(Plan { change: self.replaced("updated", &before, after.clone()), result: after })
            })
            .await?;
        let mut row = self.key_row(&after).await?;
        row.insert("key".to_owned(), named.into());
        Ok(Value::Object(row))
    }

    /// Only admins give keys to others, or take them into other teams.
    fn check_owner_stays(&self, before: &Object) -> Result<(), Rejection> {
        for (name, have) in [("user_id", &before.user), ("team_id", &before.team)] {
            let stays = !self.said.says(name) || self.said.text(name) == have.as_deref();
            if !stays && !self.caller.is_admin() {
                return Err(forbidden(format!(
                    "Only a proxy_admin changes the '{name}' of a key."
                ))
                .with_param(name));
            }
        }
        Ok(())
    }

    /// Which tools a key may use is not its holder's to say.
    fn check_tools(&self) -> Result<(), Rejection> {
        if self.said.says("tools") && !self.caller.is_admin() {
            return Err(
                forbidden("Only an admin says which 'tools' a key may use.").with_param("tools")
            );
        }
        Ok(())
    }

    /// What is put on a key to guard it, its holder does not take off.
    fn check_guards_stay(&self, before: &Object) -> Result<(), Rejection> {
        if self.caller.is_admin() || self.caller.is_admin_of(before.team.as_deref()) {
            return Ok(());
        }
        for name in ["guardrails", "enforced_params", "blocked", "allowed_ips", "allowed_routes"] {
            let have = before.body.get(name).filter(|value| !value.is_null());
            let is_set =
                have.is_some_and(|value| *value != Value::Bool(false) && *value != json!([]));
            if is_set && self.said.says(name) && self.said.0.get(name) != have {
                return Err(
                    forbidden(format!("Only an admin changes '{name}' here.")).with_param(name)
                );
            }
        }
        Ok(())
    }

    /// A key with what is said about it.
    fn updated_key(&self, before: &Object) -> Object {
        let mut after = before.clone();
        merge(&mut after.body, &self.said.0, body_names());
        if self.said.says("duration") {
            match self.ends() {
                Some(ends) => after.body.insert("expires".to_owned(), ends.into()),
                None => after.body.remove("expires"),
            };
        }
        if self.said.says("key_alias") {
            after.alias = self.said.text("key_alias").map(Arc::from);
        }
        if self.said.says("user_id") {
            after.user = self.said.text("user_id").map(Arc::from);
        }
        self.stamp_changed(&mut after.body);
        after
    }

    pub(super) async fn key_delete(&self) -> Result<Value, Rejection> {
        let (keys, aliases) = (self.said.names("keys"), self.said.names("key_aliases"));
        if keys.is_empty() && aliases.is_empty() {
            let message = "At least one of 'keys' or 'key_aliases' must be provided.";
            return Err(Reject::invalid_request(message).with_param("keys"));
        }
        let named: Vec<&str> = keys.iter().chain(&aliases).copied().collect();
        self.change(|| async {
            let mut change = Change::default();
            let mut objects: Vec<Object> = Vec::new();
            for key in &keys {
                objects.push(self.key_to_change(key).await?);
            }
            for alias in &aliases {
                let wanted = Wanted { alias: Some((*alias).into()), limit: 1, ..Wanted::default() };
                let page = self.admin.accounts.list(Kind::Key, wanted).await.map_err(refused)?;
                let found = page.objects.into_iter().next();
                let Some(found) = found.filter(|object| self.caller.sees_key(object)) else {
                    return Err(missing("key", "key_aliases"));
                };
                objects.push(self.key_to_change(&found.id).await?);
            }
            objects.sort_by(|a, b| a.id.cmp(&b.id));
            objects.dedup_by(|a, b| a.id == b.id);
            for object in &objects {
                self.delete(&mut change, object);
            }
            Ok(Plan { change, result: json!({"deleted_keys": named}) })
        })
        .await
    }

    pub(super) async fn key_set_blocked(&self, blocked: bool) -> Result<Value, Rejection> {
        let named = self.said.text("key").unwrap_or_default();
        let after = self
            .change(|| async {
                let before = self.key_to_change(named).await?;
                if !blocked
                    && !self.caller.is_admin()
                    && !self.caller.is_admin_of(before.team.as_deref())
                {
                    return Err(forbidden("Only an admin unblocks keys.").with_param("key"));
                }
                let mut after = before.clone();
                after.body.insert("blocked".to_owned(), blocked.into());
                self.stamp_changed(&mut after.body);
                let action = if blocked { "blocked" } else { "unblocked" };
                Ok(Plan { change: self.replaced(action, &before, after.clone()), result: after })
            })
            .await?;
        Ok(Value::Object(self.key_row(&after).await?))
    }

    pub(super) async fn key_regenerate(mut self) -> Result<Value, Rejection> {
        let named = self.named.clone().or_else(|| self.said.text("key").map(str::to_owned));
        // Without a name it is the caller's own.
        let named = named.unwrap_or_else(|| self.caller.key.hash.hex());
        let before = self.key_to_change(&named).await?;
        self.check_owner_stays(&before)?;
        if !self.caller.replaces_key(&before) {
            let message =
                "This key speaks for another user: only that user or a proxy_admin regenerates it.";
            return Err(forbidden(message).with_param("key"));
        }
        self.budget_for(&self.said).await?;
        Self::routes_of_type(&mut self.said);
        let team = before.team.clone();
        let mut said = std::mem::take(&mut self.said);
        self.caller.limit(&mut said, Some(&before), team.as_deref())?;
        self.said = said;
        let key = self.new_key_text("new_key")?;
        let after = self
            .change(|| async {
                let before = self.key_to_change(&named).await?;
                self.check_guards_stay(&before)?;
                self.check_tools()?;
                let mut after = self.updated_key(&before);
                after.id = hash_hex(&key).into();
                after.version = 0;
                after.body.insert("key_name".to_owned(), key_name(&key).into());
                // The money is the same, so that a new key is no way to more of it.
                let first = before.body.get("ledger_key").cloned();
                let first = first.unwrap_or_else(|| before.id.as_ref().into());
                after.body.insert("ledger_key".to_owned(), first);
                self.refuse_known_key(&after)?;
                if self.get(Kind::Key, &after.id).await?.is_some() {
                    return Err(Reject::invalid_request("There is such a key already.")
                        .with_param("new_key")
                        .with_code("key_exists"));
                }
                let mut change = Change { create: vec![after.clone()], ..Change::default() };
                change.audit.extend(self.audited("regenerated", Some(&before), Some(&after)));
                match self.said.length("grace_period") {
                    Some(grace) => {
                        let ends = calendar::after(self.now(), grace);
                        change.replace.push(self.with_end(&before, ends, &after));
                    }
                    None => change.delete.push((Kind::Key, Arc::clone(&before.id), before.version)),
                }
                Ok(Plan { change, result: after })
            })
            .await?;
        Ok(Value::Object(self.shown_once(&key, &after).await?))
    }

    /// An old key, which works for a while beside the new one.
    fn with_end(&self, before: &Object, ends: Duration, after: &Object) -> Object {
        let mut old = before.clone();
        // Names are unique, and this one is the new key's now.
        old.alias = None;
        let ended = old.body.get("expires").and_then(Value::as_str).and_then(crate::config::moment);
        let ends = ended.map_or(ends, |ended| ended.min(ends));
        old.body.insert("expires".to_owned(), calendar::text(ends).into());
        old.body.insert("replaced_by".to_owned(), after.id.as_ref().into());
        self.stamp_changed(&mut old.body);
        old
    }

    pub(super) async fn key_list(&self) -> Result<Value, Rejection> {
        let (page, size) = self.page(10, PAGE_MAX)?;
        let found = self.keys_wanted((page - 1) * size, size).await?;
        let Some((objects, total)) = found else { return Err(missing("user or team", "user_id")) };
        let mut keys = Vec::with_capacity(objects.len());
        for object in &objects {
            keys.push(match self.said.flag("return_full_object") {
                Some(true) => Value::Object(self.key_row(object).await?),
                _ => object.id.as_ref().into(),
            });
        }
        Ok(json!({
            "keys": keys, "total_count": total, "current_page": page, "total_pages": total.div_ceil(size),
        }))
    }

    /// The keys that a request asks for and may see. `None` where it asks for somebody else's.
    pub(super) async fn keys_wanted(
        &self,
        skip: u64,
        limit: u64,
    ) -> Result<Option<(Vec<Object>, u64)>, Rejection> {
        let (user, team) = (self.said.text("user_id"), self.said.text("team_id"));
        let alias = self.said.text("key_alias");
        let one = match self.said.text("key_hash") {
            Some(hash) => Some(hash_hex(hash)),
            // A key without a user has itself and nothing more.
            None if !self.caller.is_viewer() && self.caller.user().is_none() => {
                let asks_more = user.is_some()
                    || team.is_some_and(|team| self.caller.key.team.as_deref() != Some(team));
                if asks_more {
                    return Ok(None);
                }
                Some(self.caller.key.hash.hex())
            }
            None => None,
        };
        if let Some(hash) = one {
            let object = self.get(Kind::Key, &hash).await?;
            let objects: Vec<Object> =
                object.into_iter().filter(|object| self.caller.sees_key(object)).collect();
            let total = objects.len() as u64;
            return Ok(Some((if skip == 0 { objects } else { Vec::new() }, total)));
        }
        let mut wanted = Wanted { skip, limit, ..Wanted::default() };
        wanted.alias = alias.map(Arc::from);
        wanted.user = user.map(Arc::from);
        wanted.team = team.map(Arc::from);
        if !self.caller.is_viewer() {
            let is_team = team.is_some_and(|team| self.caller.sees_spend_of_team(team));
            let is_own = self.caller.is_user(user) || (user.is_none() && team.is_none());
            let is_own_in_team =
                user.is_none() && team.is_some_and(|team| self.caller.sees_team(team));
            let is_foreign = team.is_some_and(|team| !self.caller.sees_team(team));
            if is_foreign || (!is_team && !is_own && !is_own_in_team) {
                return Ok(None);
            }
            if !is_team {
                wanted.user = self.caller.user().cloned();
            }
        }
        let page = self.admin.accounts.list(Kind::Key, wanted).await.map_err(refused)?;
        Ok(Some((page.objects, page.total)))
    }
}
