//! What operators administer besides the config: keys, users, teams and what belongs to them, and
//! the trait of what keeps it.
//!
//! Everything is an [`Object`]: a document of some [`Kind`] under an id. Stores know the few members
//! they look things up by and keep the rest as it is, so that a new setting needs no migration.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::ledger::Asking;

/// A kind of object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A virtual key; its id is its SHA-256 in hexadecimal.
    Key,
    /// Somebody who has keys and a role.
    User,
    /// Users that share models, limits and a budget.
    Team,
    /// A budget that several objects refer to.
    Budget,
    /// An end user named in requests: LiteLLM's customer.
    EndUser,
    /// A tag on requests that has a budget.
    Tag,
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 6] =
        [Kind::Key, Kind::User, Kind::Team, Kind::Budget, Kind::EndUser, Kind::Tag];

    /// The name in stores and in the audit log.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Key => "key",
            Kind::User => "user",
            Kind::Team => "team",
            Kind::Budget => "budget",
            Kind::EndUser => "end_user",
            Kind::Tag => "tag",
        }
    }
}

/// One object as it is stored.
#[derive(Clone, Debug, PartialEq)]
pub struct Object {
    /// What it is.
    pub kind: Kind,
    /// Unique within its kind.
    pub id: Arc<str>,
    /// Unique within its kind as well, where there is one.
    pub alias: Option<Arc<str>>,
    /// Whose it is: of a key its user.
    pub user: Option<Arc<str>>,
    /// Of a key or a user its team.
    pub team: Option<Arc<str>>,
    /// Everything else, with LiteLLM's names. Never a key in clear.
    pub body: Map<String, Value>,
    /// Set by the store: grows with every change of any object.
    pub version: u64,
}

/// What happens to objects: all of it, or nothing, with its audit entries.
#[derive(Clone, Debug, Default)]
pub struct Change {
    /// Objects that are new. It is a [`crate::ledger::StoreError::Conflict`] where one is there.
    pub create: Vec<Object>,
    /// Objects that replace those of the same kind and id, if these still have the `version` that is
    /// in them; else it is a conflict.
    pub replace: Vec<Object>,
    /// Objects that go, with the same condition.
    pub delete: Vec<(Kind, Arc<str>, u64)>,
    /// Who did what.
    pub audit: Vec<AuditEntry>,
}

/// One line of the audit log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AuditEntry {
    /// Since the Unix epoch, in milliseconds.
    pub at_ms: u64,
    /// The user or key that did it.
    pub actor: Arc<str>,
    /// `created`, `updated`, `deleted`, `blocked`, `regenerated` …
    pub action: Arc<str>,
    /// What it was done to.
    pub kind: Kind,
    /// Which one.
    pub id: Arc<str>,
    /// What it was before.
    pub before: Option<Value>,
    /// What it is now.
    pub after: Option<Value>,
}

/// Which objects are wanted. All that is given must hold.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// Of this user.
    pub user: Option<Arc<str>>,
    /// Of this team.
    pub team: Option<Arc<str>>,
    /// Of this alias.
    pub alias: Option<Arc<str>>,
    /// From which one on, in the order of ids.
    pub skip: u64,
    /// How many at most.
    pub limit: u64,
}

/// Some of what was wanted.
#[derive(Clone, Debug, Default)]
pub struct Page {
    /// These.
    pub objects: Vec<Object>,
    /// Of so many.
    pub total: u64,
}

/// What has become of an object.
#[derive(Clone, Debug)]
pub struct Changed {
    /// The version at which it happened.
    pub version: u64,
    /// What it is.
    pub kind: Kind,
    /// Which one.
    pub id: Arc<str>,
    /// What it is now; `None` if it is gone.
    pub object: Option<Object>,
}

/// Keeps objects.
pub trait Accounts: Send + Sync {
    /// One object.
    fn get<'a>(&'a self, kind: Kind, id: &'a str) -> Asking<'a, Option<Object>>;

    /// Some objects of a kind.
    fn list(&self, kind: Kind, wanted: Wanted) -> Asking<'_, Page>;

    /// Changes objects, all or none. The version it got.
    fn change(&self, change: Change) -> Asking<'_, u64>;

    /// What has changed after `version`, in the order of versions, `limit` at most. From 0 it gives
    /// everything that is there now. Objects that one [`Change`] has changed have one version and
    /// are never torn apart: more than `limit` of them come together.
    fn changed_since(&self, version: u64, limit: u64) -> Asking<'_, Vec<Changed>>;

    /// The audit log, latest first.
    fn audit(
        &self,
        kind: Option<Kind>,
        id: Option<&str>,
        skip: u64,
        limit: u64,
    ) -> Asking<'_, Vec<AuditEntry>>;
}

/// How long a change made on another node may take to be seen here.
pub const SEEN_WITHIN: Duration = Duration::from_secs(1);
