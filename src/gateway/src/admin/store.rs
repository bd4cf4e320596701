//! Changing what is stored: read, decide, write under the condition that nobody was faster, with the
//! audit log in the same transaction; and again where somebody was.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value};
use tollway_filter_api::accounts::{AuditEntry, Change, Kind, Object, Wanted};
use tollway_filter_api::clock::millis;
use tollway_filter_api::ledger::StoreError;
use tollway_filter_api::{Reject, Rejection};

use super::Ask;
use crate::calendar;

/// How often a change is tried where others change the same.
const TRIES: u32 = 8;
/// How long a client waits before it asks a store again that is away.
const AWAY: Duration = Duration::from_secs(1);
/// How many objects a change may have.
pub(super) const CHANGED_MAX: usize = 500;

/// What a change comes to.
pub(super) struct Plan<T> {
    pub(super) change: Change,
    pub(super) result: T,
}

/// What the store's refusal is to the client. What it says itself is for the log alone.
pub(super) fn refused(error: StoreError) -> Rejection {
    match error {
        StoreError::Unavailable(why) => {
            let mut reject = Reject::new(
                503,
                "internal_server_error",
                "The store cannot be reached at the moment.",
            )
            .with_code("store_unavailable");
            reject.retry_after = Some(AWAY);
            reject.source = Some(why.into());
            reject
        }
        StoreError::Conflict(_) => taken(),
        StoreError::Invalid(why) => {
            let message = "The store cannot keep this: a text in it is too long, or not one.";
            let mut reject = Reject::invalid_request(message).with_code("not_storable");
            reject.source = Some(why.into());
            reject
        }
    }
}

fn taken() -> Rejection {
    let message =
        "There is something of that id or alias already, or it is being changed by others.";
    Reject::new(409, "invalid_request_error", message).with_code("conflict")
}

impl Ask<'_> {
    pub(super) async fn get(&self, kind: Kind, id: &str) -> Result<Option<Object>, Rejection> {
        self.admin.accounts.get(kind, id).await.map_err(refused)
    }

    /// All of a kind that are wanted, however many: by the page, so that no answer of the store is
    /// large. Stops at `most`.
    pub(super) async fn all(
        &self,
        kind: Kind,
        wanted: Wanted,
        most: usize,
    ) -> Result<Vec<Object>, Rejection> {
        let mut all = Vec::new();
        loop {
            let wanted = Wanted { skip: all.len() as u64, limit: 1_000, ..wanted.clone() };
            let page = self.admin.accounts.list(kind, wanted).await.map_err(refused)?;
            let is_last = page.objects.len() < 1_000;
            all.extend(page.objects);
            if is_last || all.len() >= most {
                all.truncate(most);
                return Ok(all);
            }
        }
    }

    /// Makes a change and has it known here before it returns. `plan` reads what is there and says
    /// what to do; it is asked again where somebody else was faster.
    pub(super) async fn change<T, F>(&self, mut plan: impl FnMut() -> F) -> Result<T, Rejection>
    where
        F: Future<Output = Result<Plan<T>, Rejection>>,
    {
        for _ in 0..TRIES {
            let Plan { change, result } = plan().await?;
            let changed = change.create.len() + change.replace.len() + change.delete.len();
            if changed == 0 {
                return Ok(result);
            }
            if changed > CHANGED_MAX {
                let message =
                    format!("That would change {changed} objects at once: at most {CHANGED_MAX}.");
                return Err(Reject::invalid_request(message));
            }
            match self.admin.accounts.change(change).await {
                Ok(_) => {
                    // Whoever gets the answer may use the key at once. If the store went away just
                    // now, it is seen when it comes back.
                    let _ = self.admin.directory.refresh().await;
                    return Ok(result);
                }
                Err(StoreError::Conflict(_)) => tokio::task::yield_now().await,
                Err(error) => return Err(refused(error)),
            }
        }
        Err(taken())
    }

    /// A line of the audit log.
    pub(super) fn audited(
        &self,
        action: &str,
        before: Option<&Object>,
        after: Option<&Object>,
    ) -> Option<AuditEntry> {
        let object = after.or(before)?;
        Some(AuditEntry {
            at_ms: millis(self.now()),
            actor: self.caller.name(),
            action: action.into(),
            kind: object.kind,
            id: Arc::clone(&object.id),
            before: before.map(shown),
            after: after.map(shown),
        })
    }

    /// A change of one object.
    pub(super) fn replaced(&self, action: &str, before: &Object, after: Object) -> Change {
        let audit = self.audited(action, Some(before), Some(&after)).into_iter().collect();
        Change { replace: vec![after], audit, ..Change::default() }
    }

    /// A new object.
    pub(super) fn created(&self, object: Object) -> Change {
        let audit = self.audited("created", None, Some(&object)).into_iter().collect();
        Change { create: vec![object], audit, ..Change::default() }
    }

    /// Adds the end of an object to a change.
    pub(super) fn delete(&self, change: &mut Change, object: &Object) {
        change.delete.push((object.kind, Arc::clone(&object.id), object.version));
        change.audit.extend(self.audited("deleted", Some(object), None));
    }

    /// Marks a new body.
    pub(super) fn stamp_new(&self, body: &mut Map<String, Value>) {
        let now = calendar::text(self.now());
        body.insert("created_at".to_owned(), now.clone().into());
        body.insert("created_by".to_owned(), self.caller.name().as_ref().into());
        body.insert("updated_at".to_owned(), now.into());
        body.insert("updated_by".to_owned(), self.caller.name().as_ref().into());
    }

    /// Marks a changed body.
    pub(super) fn stamp_changed(&self, body: &mut Map<String, Value>) {
        body.insert("updated_at".to_owned(), calendar::text(self.now()).into());
        body.insert("updated_by".to_owned(), self.caller.name().as_ref().into());
    }

    /// The audit log.
    pub(super) async fn audit(&self) -> Result<Value, Rejection> {
        let (page, size) = self.page(50, 1_000)?;
        let kind = self.said.text("object_type");
        let kind = kind.and_then(|name| Kind::ALL.into_iter().find(|kind| kind.name() == name));
        let id = self.said.text("object_id");
        let asked = self.admin.accounts.audit(kind, id, (page - 1) * size, size);
        let entries = asked.await.map_err(refused)?;
        let entries: Vec<Value> = entries
            .into_iter()
            .map(|entry| {
                serde_json::json!({
                    "updated_at": calendar::text(Duration::from_millis(entry.at_ms)),
                    "changed_by": entry.actor,
                    "action": entry.action,
                    "object_type": entry.kind.name(),
                    "object_id": entry.id,
                    "before_value": entry.before,
                    "updated_values": entry.after,
                })
            })
            .collect();
        Ok(serde_json::json!({"audit_logs": entries, "page": page, "page_size": size}))
    }
}

/// Takes what was said about `names` into a body; null takes a member away.
pub(super) fn merge<'n>(
    body: &mut Map<String, Value>,
    said: &Map<String, Value>,
    names: impl Iterator<Item = &'n str>,
) {
    for name in names {
        match said.get(name) {
            None => {}
            Some(Value::Null) => {
                body.remove(name);
            }
            Some(value) => {
                body.insert(name.to_owned(), value.clone());
            }
        }
    }
}

/// An object as the audit log has it: all of it, with what is apart from the body.
pub(super) fn shown(object: &Object) -> Value {
    let mut body = object.body.clone();
    for (name, value) in
        [("alias", &object.alias), ("user_id", &object.user), ("team_id", &object.team)]
    {
        if let Some(value) = value {
            body.insert(name.to_owned(), value.as_ref().into());
        }
    }
    Value::Object(body)
}
