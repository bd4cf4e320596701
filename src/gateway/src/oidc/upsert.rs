//! Users and teams that a token names and nobody has made yet, written behind: the request that
//! brought them goes on at once, and never waits for the database.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::{Map, Value, json};
use tokio::sync::mpsc;
use tollway_filter_api::Clock;
use tollway_filter_api::accounts::{Accounts, AuditEntry, Change, Kind, Object};
use tollway_filter_api::clock::millis;
use tollway_filter_api::identity::Role;
use tollway_filter_api::ledger::StoreError;

use super::claims::Person;
use crate::calendar;
use crate::directory::Directory;

/// How many may wait to be written. Whoever finds no place comes again with the next request.
const WAITING_MAX: usize = 1024;
/// Who makes them, in the audit log.
const ACTOR: &str = "jwt_sign_in";

/// What is in the queue.
type Waiting = HashSet<(Kind, Arc<str>)>;

/// Writes new users and teams.
pub(super) struct Upsert {
    queue: mpsc::Sender<Object>,
    /// What is in the queue, so that a crowd of requests is one entry.
    waiting: Arc<Mutex<Waiting>>,
    clock: Clock,
}

impl Upsert {
    /// Starts the task that writes; it ends with the process.
    pub(super) fn start(
        accounts: Arc<dyn Accounts>,
        directory: Arc<Directory>,
        clock: Clock,
        runtime: &tokio::runtime::Handle,
    ) -> Arc<Upsert> {
        let (queue, mut queued) = mpsc::channel::<Object>(WAITING_MAX);
        let waiting = Arc::new(Mutex::new(Waiting::new()));
        let (writer_clock, written) = (clock.clone(), Arc::clone(&waiting));
        runtime.spawn(async move {
            while let Some(object) = queued.recv().await {
                let (kind, id) = (object.kind, Arc::clone(&object.id));
                if let Err(error) = write(&*accounts, object, writer_clock.unix()).await {
                    tracing::warn!(%error, kind = kind.name(), "sign-in: cannot be written now");
                }
                // Known before it may be written again.
                let _ = directory.refresh().await;
                written.lock().remove(&(kind, id));
            }
        });
        Arc::new(Upsert { queue, waiting, clock })
    }

    /// A user, with LiteLLM's usual role. A higher one that a token gives lasts as long as the token:
    /// what is stored would outlive it.
    pub(super) fn user(&self, id: &Arc<str>, person: &Person) {
        let role = person.role.unwrap_or(Role::User).min(Role::User).name();
        let mut body = Map::from_iter([("user_role".to_owned(), role.into())]);
        if let Some(email) = &person.email {
            body.insert("user_email".to_owned(), email.as_ref().into());
        }
        // A token's teams are the token's: nobody becomes a member by it.
        body.insert("teams".to_owned(), Value::Array(Vec::new()));
        let alias = person.email.as_ref().map(|email| email.to_lowercase().into());
        self.put(Kind::User, id, alias, body);
    }

    /// A team, which restricts nothing yet.
    pub(super) fn team(&self, id: &Arc<str>) {
        let body = json!({"team_alias": id, "members_with_roles": []});
        let Value::Object(body) = body else { return };
        self.put(Kind::Team, id, None, body);
    }

    fn put(
        &self,
        kind: Kind,
        id: &Arc<str>,
        alias: Option<Arc<str>>,
        mut body: Map<String, Value>,
    ) {
        let name = (kind, Arc::clone(id));
        if !self.waiting.lock().insert(name.clone()) {
            return;
        }
        let now = calendar::text(self.clock.unix());
        for (moment, by) in [("created_at", "created_by"), ("updated_at", "updated_by")] {
            body.insert(moment.to_owned(), now.clone().into());
            body.insert(by.to_owned(), ACTOR.into());
        }
        let id = Arc::clone(id);
        let object = Object { kind, id, alias, user: None, team: None, body, version: 0 };
        if self.queue.try_send(object).is_err() {
            self.waiting.lock().remove(&name);
        }
    }
}

async fn write(
    accounts: &dyn Accounts,
    mut object: Object,
    now: Duration,
) -> Result<(), StoreError> {
    match accounts.change(created(&object, now)).await {
        Err(StoreError::Conflict(_)) => {}
        other => return other.map(drop),
    }
    // Another node was faster, or the address is somebody else's.
    if accounts.get(object.kind, &object.id).await?.is_some() {
        return Ok(());
    }
    object.alias = None;
    object.body.remove("user_email");
    accounts.change(created(&object, now)).await.map(drop)
}

fn created(object: &Object, now: Duration) -> Change {
    let audit = AuditEntry {
        at_ms: millis(now),
        actor: ACTOR.into(),
        action: "created".into(),
        kind: object.kind,
        id: Arc::clone(&object.id),
        before: None,
        after: Some(Value::Object(object.body.clone())),
    };
    Change { create: vec![object.clone()], audit: vec![audit], ..Change::default() }
}
