//! What is in LiteLLM's tables as our objects, and what was spent so far as records of the ledger.
//!
//! A row is read by the same fields as a request to the admin API. What LiteLLM has and we do not do
//! is left out and told; a setting that makes no sense is kept as it is, so that it never turns into
//! no limit at all.
//!
//! What was spent is one record for each object, at the time of the import: so it lies in the period
//! that is running. LiteLLM adds what a key spends to its user and its team as well. The record of a
//! key therefore names them, as far as their own sums have room for it, and they have a record of
//! the rest.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use tollway_filter_api::KeyHash;
use tollway_filter_api::accounts::{AuditEntry, Change, Kind, Object};
use tollway_filter_api::clock::millis;
use tollway_filter_api::ledger::{Entry, SpendRecord};
use tollway_store::sql::TEXT_MAX;
use tollway_store::sql::litellm::{LitellmTables, Row};
use tollway_wire::price::PicoDollars;

use super::fields::{Field, Shape};
use super::people::email_key;
use super::store::shown;
use super::table::{BY_MODEL, CUSTOMER, KEY, LIMITS, MONEY, TAG, TEAM, USER};
use crate::{calendar, config, directory};

/// Who brings it in: the node of its records, and the actor of its audit entries.
pub(crate) const NODE: &str = "litellm-import";
/// Keys of this team are sessions of LiteLLM's dashboard.
const DASHBOARD: &str = "litellm-dashboard";
/// This user is what LiteLLM counts the budget of the whole proxy by.
const PROXY: &str = "litellm-proxy-budget";
/// How much of an object's texts and nesting is room enough for everything else around it.
const BODY_MAX: usize = 900 << 10;
const DEPTH_MAX: usize = 60;
/// How many are named where something is told of several.
const NAMED_MAX: usize = 5;
/// What is kept beside the body, or comes from elsewhere.
const NOT_IN_BODY: [&str; 8] =
    ["key_alias", "user_id", "team_id", "name", "spend", "duration", "key_type", "key"];

/// What is there already.
#[derive(Default)]
pub(crate) struct Known {
    pub(crate) ids: HashSet<(Kind, Arc<str>)>,
    pub(crate) aliases: HashSet<(Kind, Arc<str>)>,
}

/// What is to be written, and what is to be told.
#[derive(Default)]
pub(crate) struct Import {
    pub(crate) change: Change,
    pub(crate) entries: Vec<Entry>,
    /// New ones, those that are there already, and those that are left out, by kind.
    pub(crate) counts: BTreeMap<Kind, [u64; 3]>,
    /// What could not come over, why, and of whom.
    losses: BTreeMap<(Kind, String), (u64, Vec<String>)>,
}

/// A new object, and what it has spent.
struct New {
    object: Object,
    spent: PicoDollars,
    /// When what it has spent counts.
    at: Duration,
}

struct Maker<'k> {
    known: &'k Known,
    now: Duration,
    import: Import,
    new: Vec<New>,
    taken: HashSet<(Kind, Arc<str>)>,
    aliases: HashSet<(Kind, Arc<str>)>,
    /// When LiteLLM would reset what refers to a budget.
    resets: HashMap<String, Duration>,
}

/// Makes objects and records of rows.
pub(crate) fn convert(tables: &LitellmTables, known: &Known, now: Duration) -> Import {
    let mut maker = Maker {
        known,
        now,
        import: Import::default(),
        new: Vec::new(),
        taken: HashSet::new(),
        aliases: HashSet::new(),
        resets: HashMap::new(),
    };
    for row in &tables.budgets {
        if let (Some(id), Some(at)) = (text(row, "budget_id"), reset(row)) {
            maker.resets.insert(id.to_owned(), at);
        }
        maker.plain(Kind::Budget, row, "budget_id");
    }
    let members = members(&tables.teams);
    for row in &tables.users {
        maker.user(row, &members);
    }
    let members_budgets = members_budgets(tables);
    for row in &tables.teams {
        maker.team(row, &members_budgets);
    }
    for row in &tables.keys {
        maker.key(row);
    }
    for row in &tables.end_users {
        maker.plain(Kind::EndUser, row, "user_id");
    }
    for row in &tables.tags {
        maker.plain(Kind::Tag, row, "tag_name");
    }
    for row in &tables.organizations {
        let who = text(row, "organization_alias").or(text(row, "organization_id"));
        let why = "organizations are not supported, nor are their budgets and models";
        maker.lose(Kind::Team, why, who.unwrap_or_default());
    }
    maker.finish()
}

impl Maker<'_> {
    fn lose(&mut self, kind: Kind, why: impl Into<String>, who: &str) {
        let (count, named) = self.import.losses.entry((kind, why.into())).or_default();
        *count += 1;
        if named.len() < NAMED_MAX {
            named.push(who.chars().filter(|c| !c.is_control()).take(64).collect());
        }
    }

    fn leave_out(&mut self, kind: Kind, why: &str, who: &str) {
        self.import.counts.entry(kind).or_default()[2] += 1;
        self.lose(kind, format!("left out: {why}"), who);
    }

    fn key(&mut self, row: &Row) {
        let name = key_name(row);
        let alias = text(row, "key_alias");
        let token = text(row, "token").unwrap_or_default();
        let who = alias.unwrap_or(name.unwrap_or("sk-..."));
        if text(row, "team_id") == Some(DASHBOARD) {
            self.leave_out(Kind::Key, "sessions of LiteLLM's dashboard", who);
            return;
        }
        let hash = match KeyHash::from_hex(token) {
            Some(hash) => hash,
            // Very old versions kept some keys as they were.
            None if token.starts_with("sk-") => KeyHash(Sha256::digest(token).into()),
            None => {
                self.leave_out(Kind::Key, "its token is no SHA-256", who);
                return;
            }
        };
        let id: Arc<str> = hash.hex().into();
        let mut body = self.body(Kind::Key, row, who);
        body.insert("key_name".to_owned(), name.unwrap_or("sk-...").into());
        if let Some(expires) = row.get("expires").filter(|expires| !expires.is_null()) {
            let ends = expires.as_str().and_then(moment).map(calendar::text);
            if ends.is_none() {
                self.lose(Kind::Key, "'expires' cannot be read: taken for ended", who);
            }
            body.insert("expires".to_owned(), ends.map_or_else(|| expires.clone(), Value::from));
        }
        self.say_model_budgets(Kind::Key, &body, who);
        let owner = |name: &str| text(row, name).map(Arc::from);
        let object = Object {
            kind: Kind::Key,
            id,
            alias: alias.map(Arc::from),
            user: owner("user_id"),
            team: owner("team_id"),
            body,
            version: 0,
        };
        self.add(object, row, who);
    }

    fn user(&mut self, row: &Row, members: &HashMap<&str, Vec<&str>>) {
        let Some(id) = text(row, "user_id") else { return };
        if id == PROXY {
            let why = "the budget of the whole proxy stands in the config (litellm_settings)";
            self.leave_out(Kind::User, why, id);
            return;
        }
        let mut body = self.body(Kind::User, row, id);
        self.say_model_budgets(Kind::User, &body, id);
        let listed = strings(row.get("teams"));
        let mut teams: Vec<&str> = listed;
        teams.extend(members.get(id).into_iter().flatten());
        let mut seen = HashSet::new();
        teams.retain(|team| seen.insert(*team));
        body.insert("teams".to_owned(), teams.into());
        let alias = text(row, "user_email").map(email_key);
        self.add(object(Kind::User, id, alias, body), row, id);
    }

    fn team(&mut self, row: &Row, budgets: &MembersBudgets<'_>) {
        let Some(id) = text(row, "team_id") else { return };
        let who = text(row, "team_alias").unwrap_or(id);
        let mut body = self.body(Kind::Team, row, who);
        self.say_model_budgets(Kind::Team, &body, who);
        for (user, budget) in budgets.get(id).into_iter().flatten() {
            self.member(&mut body, user, budget);
        }
        for (user, email, role) in team_members(row) {
            super::teams::add_member(&mut body, user, email, role);
        }
        let alias = text(row, "team_alias").map(Arc::from);
        self.add(object(Kind::Team, id, alias, body), row, who);
    }

    /// What a member of a team may spend of it.
    fn member(&mut self, body: &mut Map<String, Value>, user: &str, budget: &Row) {
        let said = |name: &str| budget.get(name).filter(|value| is_said(value));
        if ["tpm_limit", "rpm_limit", "model_max_budget"]
            .into_iter()
            .any(|name| said(name).is_some())
        {
            let why = "limits and budgets by model of single members are not supported";
            self.lose(Kind::Team, why, user);
        }
        let Some(limit) = said("max_budget") else { return };
        let length = said("budget_duration").cloned().unwrap_or_default();
        super::members::set_budget(body, user, limit.clone(), length);
        self.lose(Kind::Team, "budgets of single members begin with nothing spent", user);
    }

    fn say_model_budgets(&mut self, kind: Kind, body: &Map<String, Value>, who: &str) {
        if body.get("model_max_budget").is_some() {
            let why = "budgets of single models begin with nothing spent";
            self.lose(kind, why, who);
        }
    }

    /// What has nothing but its id and what is said about it.
    fn plain(&mut self, kind: Kind, row: &Row, id: &str) {
        let Some(id) = text(row, id) else { return };
        let body = self.body(kind, row, id);
        self.add(object(kind, id, None, body), row, id);
    }

    /// What a row says, as the admin API keeps it.
    fn body(&mut self, kind: Kind, row: &Row, who: &str) -> Map<String, Value> {
        let mut body = Map::new();
        for field in fields(kind) {
            let Some(value) = row.get(field.name).filter(|value| is_said(value)) else { continue };
            let value = unpacked(field.shape, value);
            match field.shape.check(field.name, value.clone()) {
                Ok(Some(value)) => {
                    body.insert(field.name.to_owned(), value);
                }
                Ok(None) => {}
                Err(_) if field.shape == Shape::Unsupported => {
                    self.lose(kind, format!("'{}' is not supported", field.name), who);
                }
                Err(_) => {
                    self.lose(kind, format!("'{}' is not what it should be", field.name), who);
                    // A role that is not known is none.
                    if !matches!(field.shape, Shape::OneOf(_)) {
                        body.insert(field.name.to_owned(), value);
                    }
                }
            }
        }
        for name in ["created_at", "updated_at"] {
            if let Some(at) = text(row, name).and_then(moment) {
                body.insert(name.to_owned(), calendar::text(at).into());
            }
        }
        for name in ["created_by", "updated_by"] {
            if let Some(by) = text(row, name) {
                body.insert(name.to_owned(), by.into());
            }
        }
        body
    }

    /// Takes an object, if it is new and can be kept.
    fn add(&mut self, mut object: Object, row: &Row, who: &str) {
        let kind = object.kind;
        let name = (kind, Arc::clone(&object.id));
        if self.known.ids.contains(&name) {
            self.import.counts.entry(kind).or_default()[1] += 1;
            return;
        }
        let is_long = |text: &Option<Arc<str>>| text.as_ref().is_some_and(|t| t.len() > TEXT_MAX);
        if object.id.len() > TEXT_MAX || is_long(&object.user) || is_long(&object.team) {
            self.leave_out(kind, "an id is too long", who);
            return;
        }
        let is_deep = object.body.values().any(|value| depth(value) > DEPTH_MAX);
        if is_deep || Value::Object(object.body.clone()).to_string().len() > BODY_MAX {
            self.leave_out(kind, "more is said about it than can be kept", who);
            return;
        }
        if !self.taken.insert(name) {
            self.leave_out(kind, "it is there twice", who);
            return;
        }
        if is_long(&object.alias) {
            object.alias = None;
            self.lose(kind, "the name is too long: it has none now", who);
        }
        if let Some(alias) = &object.alias {
            let alias = (kind, Arc::clone(alias));
            if self.known.aliases.contains(&alias) || !self.aliases.insert(alias) {
                object.alias = None;
                let why = "another has the same name or address: it cannot be found by it";
                self.lose(kind, why, who);
            }
        }
        let spent = match row.get("spend").filter(|spend| is_said(spend)).map(directory::dollars) {
            None => PicoDollars::ZERO,
            Some(Some(spent)) => spent,
            Some(None) => {
                self.lose(kind, "'spend' cannot be read: it begins with nothing spent", who);
                PicoDollars::ZERO
            }
        };
        // What LiteLLM would have reset by now was spent before.
        let referred = text(row, "budget_id").and_then(|id| self.resets.get(id).copied());
        let reset = reset(row).or(referred).filter(|reset| *reset <= self.now);
        let at = reset.map_or(self.now, |reset| reset.saturating_sub(Duration::from_millis(1)));
        self.new.push(New { object, spent, at });
    }

    fn finish(mut self) -> Import {
        let new = std::mem::take(&mut self.new);
        let mut shares = Shares::of(&new, self.now, self.known);
        for New { object, spent, at } in new {
            self.import.counts.entry(object.kind).or_default()[0] += 1;
            let record = shares.record(&object, spent, at);
            if record.cost > PicoDollars::ZERO {
                self.import.entries.push(Entry { seq: seq(&object), record });
            }
            self.import.change.audit.push(AuditEntry {
                at_ms: millis(self.now),
                actor: NODE.into(),
                action: "imported".into(),
                kind: object.kind,
                id: Arc::clone(&object.id),
                before: None,
                after: Some(shown(&object)),
            });
            self.import.change.create.push(object);
        }
        self.import
    }
}

/// How what keys have spent is a part of what users and teams have spent.
struct Shares {
    /// What the keys of a user or team have spent that name it in their records.
    of_keys: HashMap<(Kind, Arc<str>), PicoDollars>,
    now: Duration,
}

impl Shares {
    fn of(new: &[New], now: Duration, known: &Known) -> Shares {
        let mut of_keys: HashMap<(Kind, Arc<str>), u128> = HashMap::new();
        // Only what counts at the same time can be a part of something.
        for New { object, spent, at } in new {
            if object.kind == Kind::Key && *at == now {
                for owner in owners(object) {
                    *of_keys.entry(owner).or_default() += u128::from(spent.0);
                }
            }
        }
        let owned: HashMap<(Kind, &Arc<str>), (PicoDollars, Duration)> =
            new.iter().map(|n| ((n.object.kind, &n.object.id), (n.spent, n.at))).collect();
        let of_keys = of_keys.into_iter().filter_map(|((kind, id), sum)| {
            let is_part = match owned.get(&(kind, &id)) {
                Some((spent, at)) => u128::from(spent.0) >= sum && *at == now,
                // Nobody has counted for it, neither there nor here.
                None => !known.ids.contains(&(kind, Arc::clone(&id))),
            };
            let sum = PicoDollars(u64::try_from(sum).ok()?);
            is_part.then_some(((kind, id), sum))
        });
        Shares { of_keys: of_keys.collect(), now }
    }

    fn record(&mut self, object: &Object, spent: PicoDollars, at: Duration) -> SpendRecord {
        let at_ms = millis(at);
        let mut record = SpendRecord {
            request_id: format!("{NODE}:{}:{}", object.kind.name(), object.id).into(),
            operation: NODE.into(),
            group: NODE.into(),
            model: NODE.into(),
            provider: NODE.into(),
            started_ms: at_ms,
            ended_ms: at_ms,
            cost: spent,
            status: 200,
            ..SpendRecord::default()
        };
        let id = Arc::clone(&object.id);
        match object.kind {
            Kind::Key => {
                record.key = id;
                record.key_alias = object.alias.clone();
                if at == self.now {
                    for (kind, id) in owners(object) {
                        if self.of_keys.contains_key(&(kind, Arc::clone(&id))) {
                            match kind {
                                Kind::User => record.user = Some(id),
                                _ => record.team = Some(id),
                            }
                        }
                    }
                }
            }
            Kind::User | Kind::Team => {
                let by_keys = self.of_keys.get(&(object.kind, Arc::clone(&id)));
                record.cost = spent.saturating_sub(by_keys.copied().unwrap_or_default());
                match object.kind {
                    Kind::User => record.user = Some(id),
                    _ => record.team = Some(id),
                }
            }
            // Their keys have spent it. Only where there is a limit is it counted once more.
            Kind::EndUser if has_budget(object) => record.end_user = Some(id),
            Kind::Tag if has_budget(object) => record.tags = vec![id],
            Kind::EndUser | Kind::Tag | Kind::Budget => record.cost = PicoDollars::ZERO,
        }
        record
    }
}

impl Import {
    /// What came over and what could not, for whoever sits at the terminal.
    pub(crate) fn report(&self) -> String {
        let mut text = "From LiteLLM's database:".to_owned();
        for kind in Kind::ALL {
            let Some([new, there, left_out]) = self.counts.get(&kind) else { continue };
            let name = format!("{}s", kind.name().replace('_', " "));
            text.push_str(&format!("\n  {name:<10} {new:>7} new"));
            for (count, what) in [(there, "there already"), (left_out, "left out")] {
                if *count > 0 {
                    text.push_str(&format!(", {count} {what}"));
                }
            }
        }
        let spent: u128 = self.entries.iter().map(|entry| u128::from(entry.record.cost.0)).sum();
        if spent > 0 {
            let dollars = spent as f64 / PicoDollars::PER_DOLLAR as f64;
            let count = self.entries.len();
            text.push_str(&format!("\n  spent so far: ${dollars:.2} in {count} records"));
        }
        if !self.losses.is_empty() {
            text.push_str("\nNot as it was there:");
        }
        for ((kind, why), (count, named)) in &self.losses {
            let more = if *count > named.len() as u64 { ", …" } else { "" };
            let kind = kind.name().replace('_', " ");
            text.push_str(&format!("\n  {kind}: {why} ({count}: {}{more})", named.join(", ")));
        }
        text
    }
}

fn object(kind: Kind, id: &str, alias: Option<Arc<str>>, body: Map<String, Value>) -> Object {
    Object { kind, id: id.into(), alias, user: None, team: None, body, version: 0 }
}

/// The fields of the admin API that a row may have.
fn fields(kind: Kind) -> impl Iterator<Item = &'static Field> {
    let lists: &[&[Field]] = match kind {
        Kind::Key => &[KEY, MONEY, BY_MODEL, LIMITS],
        Kind::User => &[USER, MONEY, BY_MODEL, LIMITS],
        Kind::Team => &[TEAM, MONEY, BY_MODEL, LIMITS],
        Kind::Budget => &[MONEY, BY_MODEL],
        Kind::EndUser => &[CUSTOMER, MONEY, BY_MODEL],
        Kind::Tag => &[TAG, MONEY, BY_MODEL],
    };
    let all = lists.iter().flat_map(|list| list.iter());
    all.filter(|field| !NOT_IN_BODY.contains(&field.name))
}

/// Whose a key is.
fn owners(key: &Object) -> impl Iterator<Item = (Kind, Arc<str>)> {
    let user = key.user.clone().map(|id| (Kind::User, id));
    user.into_iter().chain(key.team.clone().map(|id| (Kind::Team, id)))
}

fn has_budget(object: &Object) -> bool {
    ["max_budget", "budget_id"].iter().any(|name| object.body.contains_key(*name))
}

/// The same for the same object at every import.
fn seq(object: &Object) -> u64 {
    let digest = Sha256::digest(format!("{}\0{}", object.kind.name(), object.id));
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&digest[..8]);
    // What a signed column has as a positive number.
    u64::from_be_bytes(bytes) >> 1
}

/// `sk-...AbCd`, and nothing that could be more of a key than that.
fn key_name(row: &Row) -> Option<&str> {
    text(row, "key_name").filter(|name| name.starts_with("sk-...") && name.chars().count() <= 10)
}

/// When LiteLLM would set to nothing what was spent.
fn reset(row: &Row) -> Option<Duration> {
    moment(text(row, "budget_reset_at")?)
}

/// A moment. Prisma's have no offset and are in UTC.
fn moment(text: &str) -> Option<Duration> {
    config::moment(text).or_else(|| config::moment(&format!("{text}Z")))
}

fn text<'r>(row: &'r Row, name: &str) -> Option<&'r str> {
    row.get(name)?.as_str().filter(|text| !text.is_empty())
}

fn strings(value: Option<&Value>) -> Vec<&str> {
    let list = value.and_then(Value::as_array).into_iter().flatten();
    list.filter_map(Value::as_str).filter(|text| !text.is_empty()).collect()
}

/// Columns that hold nothing are as if they were not there.
fn is_said(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::String(text) => !text.is_empty(),
        Value::Array(list) => !list.is_empty(),
        Value::Object(map) => !map.is_empty(),
        Value::Bool(_) | Value::Number(_) => true,
    }
}

/// A map or list that was written as a text of JSON.
fn unpacked(shape: Shape, value: &Value) -> Value {
    let is_text = matches!(shape, Shape::Name | Shape::Text | Shape::OneOf(_) | Shape::Period);
    let unpacked = match value {
        Value::String(text) if !is_text => serde_json::from_str(text).ok(),
        _ => None,
    };
    unpacked.unwrap_or_else(|| value.clone())
}

/// Who is in a team, with their addresses and roles. Who comes twice counts as the last.
fn team_members(row: &Row) -> Vec<(&str, Option<&str>, &str)> {
    let mut members = Vec::new();
    for (name, role) in [("members", "user"), ("admins", "admin")] {
        members.extend(strings(row.get(name)).into_iter().map(|user| (user, None, role)));
    }
    let list = row.get("members_with_roles").and_then(Value::as_array).into_iter().flatten();
    members.extend(list.filter_map(|member| {
        let said = |name: &str| member.get(name).and_then(Value::as_str).filter(|t| !t.is_empty());
        let role = if said("role") == Some("admin") { "admin" } else { "user" };
        Some((said("user_id")?, said("user_email"), role))
    }));
    members
}

/// Users, with the teams that say they are in them.
fn members(teams: &[Row]) -> HashMap<&str, Vec<&str>> {
    let mut members: HashMap<&str, Vec<&str>> = HashMap::new();
    for row in teams {
        let Some(team) = text(row, "team_id") else { continue };
        for (user, ..) in team_members(row) {
            members.entry(user).or_default().push(team);
        }
    }
    members
}

/// By team: users, and the budgets they have in it.
type MembersBudgets<'t> = HashMap<&'t str, Vec<(&'t str, &'t Row)>>;

fn members_budgets(tables: &LitellmTables) -> MembersBudgets<'_> {
    let budgets: HashMap<&str, &Row> =
        tables.budgets.iter().filter_map(|row| Some((text(row, "budget_id")?, row))).collect();
    let mut members = MembersBudgets::new();
    for row in &tables.memberships {
        let budget = text(row, "budget_id").and_then(|id| budgets.get(id));
        if let (Some(team), Some(user), Some(budget)) =
            (text(row, "team_id"), text(row, "user_id"), budget)
        {
            members.entry(team).or_default().push((user, budget));
        }
    }
    members
}

fn depth(value: &Value) -> usize {
    match value {
        Value::Array(list) => 1 + list.iter().map(depth).max().unwrap_or(0),
        Value::Object(map) => 1 + map.values().map(depth).max().unwrap_or(0),
        _ => 1,
    }
}
