//! [`Accounts`] in a database.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use serde_json::{Map, Value as Json};
use tollway_filter_api::accounts::{
    Accounts, AuditEntry, Change, Changed, Kind, Object, Page, Wanted,
};
use tollway_filter_api::ledger::{Asking, StoreError};

use super::database::{Database, Failure, Row, Sql, Value, Work, int, rows, sql, sql_rows};
use super::fit::{TEXT_MAX, fit, fits};
use super::{SqlStore, watch};

/// The most bytes of JSON that an object's body may have.
pub const BODY_MAX: usize = 1024 * 1024;

/// How deep a body may be nested. More than 127 can be written and not read.
const DEPTH_MAX: usize = 100;

const VERSION: Sql = sql!("SELECT version FROM tollway_counter");
const NEXT: Sql = sql!("UPDATE tollway_counter SET version = version + 1 RETURNING version");

/// The columns of [`object`].
macro_rules! objects {
    ($($rest:expr),+ $(,)?) => {
        sql!("SELECT kind, id, alias, user_id, team_id, body, version FROM tollway_objects ", $($rest),+)
    };
}

const GET: Sql = objects!("WHERE kind = $1 AND id = $2 AND body IS NOT NULL");

/// What [`Wanted`] asks for. `$driver` names the index to find them by: no index serves a
/// condition that may be left out.
macro_rules! wanted {
    ($driver:literal) => {
        concat!(
            "WHERE kind = $1 AND ",
            $driver,
            " AND ($2 IS NULL OR user_id = $2) AND ($3 IS NULL OR team_id = $3) \
             AND ($4 IS NULL OR alias = $4) AND body IS NOT NULL"
        )
    };
}

macro_rules! list {
    ($driver:literal) => {
        List {
            count: sql!("SELECT COUNT(*) FROM tollway_objects ", wanted!($driver)),
            page: objects!(wanted!($driver), " ORDER BY id LIMIT $5 OFFSET $6"),
        }
    };
}

struct List {
    count: Sql,
    page: Sql,
}

const LIST: List = list!("id >= ''");
const LIST_BY_USER: List = list!("user_id = $2");
const LIST_BY_TEAM: List = list!("team_id = $3");
const LIST_BY_ALIAS: List = list!("alias = $4");

/// By the index alone: to sort all that is left for each page takes a server longer with every page.
const CHANGED: Sql =
    objects!("WHERE version > $1 AND ($1 > 0 OR body IS NOT NULL) ORDER BY version LIMIT $2");
const CHANGED_AT: Sql = objects!("WHERE version = $1 ORDER BY kind, id LIMIT $2");

/// Of (kind, id): those that are there.
const PRESENT: Sql = sql_rows!(
    "SELECT o.kind, o.id, o.version",
    "JOIN tollway_objects o ON o.kind = value->>0 AND o.id = value->>1 WHERE o.body IS NOT NULL"
);
/// Of (kind, alias): those that are taken.
const TAKEN: Sql = sql_rows!(
    "SELECT o.kind, o.alias",
    "JOIN tollway_objects o ON o.kind = value->>0 AND o.alias = value->>1"
);
const DELETE: Sql = sql_rows!(
    "UPDATE tollway_objects SET alias = NULL, user_id = NULL, team_id = NULL, body = NULL, \
     version = $2 WHERE (kind, id) IN (SELECT value->>0, value->>1",
    ")"
);
const RELEASE: Sql = sql_rows!(
    "UPDATE tollway_objects SET alias = NULL WHERE (kind, id) IN (SELECT value->>0, value->>1",
    ")"
);
const PUT: Sql = sql_rows!(
    "INSERT INTO tollway_objects (kind, id, alias, user_id, team_id, body, version) \
     SELECT value->>0, value->>1, value->>2, value->>3, value->>4, value->>5, $2",
    "WHERE true ON CONFLICT (kind, id) DO UPDATE SET alias = excluded.alias, \
     user_id = excluded.user_id, team_id = excluded.team_id, body = excluded.body, \
     version = excluded.version"
);
const NOTE: Sql = sql_rows!(
    "INSERT INTO tollway_audit (version, at_ms, actor, action, kind, id, before, after) \
     SELECT $2, CAST(value->>0 AS BIGINT), value->>1, value->>2, value->>3, value->>4, \
     value->>5, value->>6",
    ""
);

macro_rules! audit {
    ($conditions:literal) => {
        sql!(
            "SELECT at_ms, actor, action, kind, id, before, after FROM tollway_audit WHERE ",
            $conditions,
            " ORDER BY n DESC LIMIT $3 OFFSET $4"
        )
    };
}

const AUDIT: Sql = audit!("($1 IS NULL OR kind = $1) AND ($2 IS NULL OR id = $2)");
const AUDIT_OF: Sql = audit!("kind = $1 AND id = $2");

/// The version of the latest change.
pub(super) async fn version(database: &Database) -> Result<u64, Failure> {
    let mut work = database.read().await?;
    Ok(work.one(&VERSION, &[], |row| row.unsigned(0)).await?.unwrap_or(0))
}

impl Accounts for SqlStore {
    fn get<'a>(&'a self, kind: Kind, id: &'a str) -> Asking<'a, Option<Object>> {
        Box::pin(async move {
            if !fits(id) {
                return Ok(None);
            }
            let mut work = self.database().read().await?;
            let values = [Value::Text(kind.name()), Value::Text(id)];
            let found = work.one(&GET, &values, object).await?;
            Ok(found.and_then(|changed| changed?.object))
        })
    }

    fn list(&self, kind: Kind, wanted: Wanted) -> Asking<'_, Page> {
        Box::pin(async move {
            let Wanted { user, team, alias, skip, limit } = wanted;
            if [&user, &team, &alias].into_iter().flatten().any(|text| !fits(text)) {
                return Ok(Page::default());
            }
            let list = match (&alias, &user, &team) {
                (Some(_), _, _) => LIST_BY_ALIAS,
                (None, Some(_), _) => LIST_BY_USER,
                (None, None, Some(_)) => LIST_BY_TEAM,
                (None, None, None) => LIST,
            };
            let values = [
                Value::Text(kind.name()),
                Value::Maybe(user.as_deref()),
                Value::Maybe(team.as_deref()),
                Value::Maybe(alias.as_deref()),
                Value::Int(int(limit)),
                Value::Int(int(skip)),
            ];
            let mut work = self.database().snapshot().await?;
            let page = page(&mut work, &list, &values).await;
            Ok(work.end(page).await?)
        })
    }

    fn change(&self, change: Change) -> Asking<'_, u64> {
        Box::pin(async move {
            let texts = Texts::of(&change)?;
            let mut work = self.database().write().await?;
            let version = apply(&mut work, &change, &texts).await;
            let version = work.end(version).await?;
            watch::publish(&self.inner.changes, version);
            Ok(version)
        })
    }

    fn changed_since(&self, version: u64, limit: u64) -> Asking<'_, Vec<Changed>> {
        Box::pin(async move {
            let mut work = self.database().snapshot().await?;
            let changed = changed(&mut work, version, limit.max(1)).await;
            Ok(work.end(changed).await?)
        })
    }

    fn audit(
        &self,
        kind: Option<Kind>,
        id: Option<&str>,
        skip: u64,
        limit: u64,
    ) -> Asking<'_, Vec<AuditEntry>> {
        let id = id.map(|id| fit(id).into_owned());
        Box::pin(async move {
            let sql = if kind.is_some() && id.is_some() { AUDIT_OF } else { AUDIT };
            let values = [
                Value::Maybe(kind.map(Kind::name)),
                Value::Maybe(id.as_deref()),
                Value::Int(int(limit)),
                Value::Int(int(skip)),
            ];
            let mut work = self.database().read().await?;
            let mut entries = Vec::new();
            work.each(&sql, &values, |row| {
                entries.extend(audit_entry(row)?);
                Ok(())
            })
            .await?;
            Ok(entries)
        })
    }
}

async fn page(work: &mut Work, list: &List, values: &[Value<'_>]) -> Result<Page, Failure> {
    let total = work.one(&list.count, &values[..4], |row| row.unsigned(0)).await?;
    let mut objects = Vec::new();
    work.each(&list.page, values, |row| {
        objects.extend(object(row)?.and_then(|changed| changed.object));
        Ok(())
    })
    .await?;
    Ok(Page { objects, total: total.unwrap_or(0) })
}

async fn changed(work: &mut Work, version: u64, limit: u64) -> Result<Vec<Changed>, Failure> {
    let mut from = int(version);
    loop {
        let mut found: Vec<Changed> = Vec::new();
        let (mut read, mut last) = (0, from);
        // One more than is wanted tells whether the last version is whole.
        let values = [Value::Int(from), Value::Int(int(limit).saturating_add(1))];
        work.each(&CHANGED, &values, |row| {
            read += 1;
            last = row.int(6)?;
            found.extend(object(row)?);
            Ok(())
        })
        .await?;
        if read > limit {
            found.retain(|changed| int(changed.version) < last);
            if found.is_empty() {
                let values = [Value::Int(last), Value::Int(i64::MAX)];
                work.each(&CHANGED_AT, &values, |row| {
                    found.extend(object(row)?);
                    Ok(())
                })
                .await?;
            }
        }
        // Objects of kinds that only a newer version knows are no reason to stop here.
        if !found.is_empty() || read == 0 {
            return Ok(found);
        }
        from = last;
    }
}

/// Reads a row of `objects!`. `None` if it is of a kind that is not known.
fn object(row: Row<'_>) -> Result<Option<Changed>, sqlx::Error> {
    let Some(kind) = kind(row.text(0)?) else { return Ok(None) };
    let id: Arc<str> = row.text(1)?.into();
    let version = row.unsigned(6)?;
    let object = match row.maybe_text(5)? {
        None => None,
        Some(body) => {
            let body: Map<String, Json> = serde_json::from_str(body)
                .map_err(|error| sqlx::Error::Decode(format!("{kind:?} {id}: {error}").into()))?;
            Some(Object {
                kind,
                id: Arc::clone(&id),
                alias: row.maybe_text(2)?.map(Arc::from),
                user: row.maybe_text(3)?.map(Arc::from),
                team: row.maybe_text(4)?.map(Arc::from),
                body,
                version,
            })
        }
    };
    Ok(Some(Changed { version, kind, id, object }))
}

fn audit_entry(row: Row<'_>) -> Result<Option<AuditEntry>, sqlx::Error> {
    let json = |column| {
        let text = row.maybe_text(column)?;
        Ok::<_, sqlx::Error>(
            text.map(|text| serde_json::from_str(text).unwrap_or_else(|_| Json::from(text))),
        )
    };
    let Some(kind) = kind(row.text(3)?) else { return Ok(None) };
    Ok(Some(AuditEntry {
        at_ms: row.unsigned(0)?,
        actor: row.text(1)?.into(),
        action: row.text(2)?.into(),
        kind,
        id: row.text(4)?.into(),
        before: json(5)?,
        after: json(6)?,
    }))
}

fn kind(name: &str) -> Option<Kind> {
    Kind::ALL.into_iter().find(|kind| kind.name() == name)
}

/// The rows of a change, checked and written before the database is asked for anything.
pub(super) struct Texts {
    /// (kind, id) of what is replaced or deleted or made.
    all: String,
    deleted: String,
    replaced: String,
    aliases: String,
    put: String,
    audit: String,
}

impl Texts {
    pub(super) fn of(change: &Change) -> Result<Texts, StoreError> {
        let put = || change.create.iter().chain(&change.replace);
        let deleted: Vec<_> =
            change.delete.iter().map(|(kind, id, _)| (kind.name(), id.as_ref())).collect();
        let name = |object: &'_ Object| (object.kind.name(), Arc::clone(&object.id));

        let mut seen = HashSet::new();
        let mut aliases = HashSet::new();
        let mut bodies = Vec::with_capacity(change.create.len() + change.replace.len());
        for object in put() {
            bodies.push(checked(object)?);
            if !seen.insert((object.kind.name(), object.id.as_ref())) {
                return Err(twice(object.kind, &object.id));
            }
            if let Some(alias) = &object.alias
                && !aliases.insert((object.kind.name(), alias.as_ref()))
            {
                return Err(taken(object.kind.name(), alias));
            }
        }
        for (kind, id, _) in &change.delete {
            if !fits(id) {
                return Err(gone(*kind, id));
            }
            if !seen.insert((kind.name(), id.as_ref())) {
                return Err(twice(*kind, id));
            }
        }
        let audit: Vec<_> = change.audit.iter().map(audit_row).collect();
        let replaced: Vec<_> = change.replace.iter().map(name).collect();
        let replaced: Vec<_> = replaced.iter().map(|(kind, id)| (*kind, id.as_ref())).collect();
        let put: Vec<_> = put()
            .zip(&bodies)
            .map(|(object, body)| {
                let Object { kind, id, alias, user, team, .. } = object;
                (kind.name(), id.as_ref(), alias.as_deref(), user.as_deref(), team.as_deref(), body)
            })
            .collect();
        Ok(Texts {
            all: rows(&seen.into_iter().collect::<Vec<_>>()),
            deleted: rows(&deleted),
            replaced: rows(&replaced),
            aliases: rows(&aliases.into_iter().collect::<Vec<_>>()),
            put: rows(&put),
            audit: rows(&audit),
        })
    }
}

type AuditRow<'e> = (i64, String, String, &'e str, String, Option<String>, Option<String>);

/// Who did what is cut rather than refused.
fn audit_row(entry: &AuditEntry) -> AuditRow<'_> {
    let json = |value: &Option<Json>| value.as_ref().map(Json::to_string);
    (
        int(entry.at_ms),
        fit(&entry.actor).into_owned(),
        fit(&entry.action).into_owned(),
        entry.kind.name(),
        fit(&entry.id).into_owned(),
        json(&entry.before),
        json(&entry.after),
    )
}

pub(super) async fn apply(work: &mut Work, change: &Change, texts: &Texts) -> Result<u64, Failure> {
    // From here on until the end there is no other change.
    let version = work.one(&NEXT, &[], |row| row.int(0)).await?.ok_or(sqlx::Error::RowNotFound)?;

    let mut present = HashMap::new();
    work.each(&PRESENT, &[Value::Text(&texts.all)], |row| {
        present.insert((row.text(0)?.to_owned(), row.text(1)?.to_owned()), row.unsigned(2)?);
        Ok(())
    })
    .await?;
    let version_of =
        |kind: Kind, id: &str| present.get(&(kind.name().to_owned(), id.to_owned())).copied();
    for object in &change.create {
        if version_of(object.kind, &object.id).is_some() {
            return Err(there(object.kind, &object.id).into());
        }
    }
    let replaced = change.replace.iter().map(|object| (object.kind, &object.id, object.version));
    let deleted = change.delete.iter().map(|(kind, id, version)| (*kind, id, *version));
    for (kind, id, expected) in replaced.chain(deleted) {
        match version_of(kind, id) {
            None => return Err(gone(kind, id).into()),
            Some(found) if found != expected => return Err(changed_meanwhile(kind, id).into()),
            Some(_) => {}
        }
    }

    // An alias may go from one object to another in one change.
    let at = Value::Int(version);
    if !change.delete.is_empty() {
        work.run(&DELETE, &[Value::Text(&texts.deleted), at]).await?;
    }
    if !change.replace.is_empty() {
        work.run(&RELEASE, &[Value::Text(&texts.replaced)]).await?;
    }
    let name = |row: Row<'_>| Ok((row.text(0)?.to_owned(), row.text(1)?.to_owned()));
    if let Some((kind, alias)) = work.one(&TAKEN, &[Value::Text(&texts.aliases)], name).await? {
        return Err(taken(&kind, &alias).into());
    }
    if !change.create.is_empty() || !change.replace.is_empty() {
        work.run(&PUT, &[Value::Text(&texts.put), at]).await?;
    }
    if !change.audit.is_empty() {
        work.run(&NOTE, &[Value::Text(&texts.audit), at]).await?;
    }
    work.run(&watch::NOTIFY, &[]).await?;
    Ok(version as u64)
}

/// Whether an object can be kept: its body as JSON.
fn checked(object: &Object) -> Result<String, StoreError> {
    let kind = object.kind.name();
    let texts = [
        ("id", Some(&object.id)),
        ("alias", object.alias.as_ref()),
        ("user", object.user.as_ref()),
        ("team", object.team.as_ref()),
    ];
    for (what, text) in texts {
        if text.is_some_and(|text| !fits(text)) {
            return Err(StoreError::Invalid(format!(
                "the {what} of a {kind} has at most {TEXT_MAX} bytes and no zero byte"
            )));
        }
    }
    if object.body.values().any(|value| deeper(value, DEPTH_MAX)) {
        return Err(StoreError::Invalid(format!(
            "what is said about a {kind} is nested at most {DEPTH_MAX} deep"
        )));
    }
    let body = serde_json::to_string(&object.body)
        .map_err(|error| StoreError::Invalid(format!("the {kind} cannot be written: {error}")))?;
    if body.len() > BODY_MAX {
        return Err(StoreError::Invalid(format!(
            "what is said about a {kind} has at most {BODY_MAX} bytes"
        )));
    }
    Ok(body)
}

fn deeper(value: &Json, than: usize) -> bool {
    let Some(left) = than.checked_sub(1) else { return true };
    match value {
        Json::Array(list) => list.iter().any(|value| deeper(value, left)),
        Json::Object(map) => map.values().any(|value| deeper(value, left)),
        _ => false,
    }
}

fn there(kind: Kind, id: &str) -> StoreError {
    StoreError::Conflict(format!("the {} {id} is there already", kind.name()))
}

fn taken(kind: &str, alias: &str) -> StoreError {
    StoreError::Conflict(format!("there is another {kind} with the alias {alias}"))
}

fn gone(kind: Kind, id: &str) -> StoreError {
    StoreError::Conflict(format!("the {} {} is not there", kind.name(), fit(id)))
}

fn changed_meanwhile(kind: Kind, id: &str) -> StoreError {
    StoreError::Conflict(format!("the {} {id} was changed meanwhile", kind.name()))
}

fn twice(kind: Kind, id: &str) -> StoreError {
    StoreError::Invalid(format!("the {} {id} is in one change twice", kind.name()))
}
