//! What agents keep: runs, threads, definitions and files as documents, and the journals of runs and
//! threads as logs, and the trait of what keeps them.
//!
//! A [`Document`] is JSON that only its owner's module reads, beside the few members it is looked up
//! by, so that another kind of document (memories, connections, workflows) needs no migration. A log
//! is a sequence of entries without gaps that belongs to a document. A [`Batch`] changes several of
//! them, all or none: that is how a step of a run is written down before it is taken.

use std::sync::Arc;

use bytes::Bytes;

use crate::ledger::Asking;

/// What kind of document.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Collection {
    /// An agent at work, or done. Its log is its journal.
    Run,
    /// A conversation that several runs go on with. Its log has the messages.
    Thread,
    /// An agent that was defined by the API.
    Agent,
    /// What is known of an uploaded file.
    File,
    /// A batch at a provider, until it is billed and for a while after.
    Batch,
}

impl Collection {
    /// All of them.
    pub const ALL: [Collection; 5] = [
        Collection::Run,
        Collection::Thread,
        Collection::Agent,
        Collection::File,
        Collection::Batch,
    ];

    /// The name in stores.
    pub fn name(self) -> &'static str {
        match self {
            Collection::Run => "run",
            Collection::Thread => "thread",
            Collection::Agent => "agent",
            Collection::File => "file",
            Collection::Batch => "batch",
        }
    }
}

/// One document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    /// What it is.
    pub collection: Collection,
    /// Unique within its collection.
    pub id: Arc<str>,
    /// Whose it is. Nobody else ever sees it; the asker compares.
    pub owner: Arc<str>,
    /// What it belongs to: of a run its thread, of a file its folder.
    pub parent: Option<Arc<str>>,
    /// How it stands, in a word that can be asked for: of a run its status.
    pub state: Arc<str>,
    /// Since the Unix epoch, in milliseconds.
    pub created_ms: u64,
    /// After this it may be removed. `None` keeps it.
    pub expires_ms: Option<u64>,
    /// The node that is at work on it, if one is …
    pub holder: Option<Arc<str>>,
    /// … and until when nobody else may take it over, in milliseconds since the Unix epoch.
    pub held_until_ms: u64,
    /// How large it is for a quota: of a file its bytes.
    pub size: u64,
    /// Everything else, as JSON.
    pub body: Bytes,
    /// 0 for one that is new; else the one it was read with. Set by the store.
    pub version: u64,
}

/// An entry of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// What it is, in a word of the log's owner.
    pub kind: Arc<str>,
    /// What it says, as JSON or events.
    pub body: Bytes,
}

/// Entries that follow what a log has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Append {
    /// What the document is that the log belongs to.
    pub collection: Collection,
    /// Which one.
    pub id: Arc<str>,
    /// How many entries the log has before. A conflict where it has another number: somebody else
    /// has written to it.
    pub from: u64,
    /// What is appended.
    pub entries: Vec<Entry>,
}

/// Changes that are made together or not at all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// Documents that are new (`version` 0; a conflict where there is one already), or replace the
    /// one of the same `version` (a conflict where it has another one, or is gone), and get the next.
    pub put: Vec<Document>,
    /// What logs get. The document must be there, or be put in the same batch.
    pub append: Vec<Append>,
    /// Documents that go, with their logs, if they are there.
    pub remove: Vec<(Collection, Arc<str>)>,
}

/// Which documents are wanted. All that is given must hold.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Of this collection.
    pub collection: Collection,
    /// Of this owner.
    pub owner: Option<Arc<str>>,
    /// Of this parent.
    pub parent: Option<Arc<str>>,
    /// In one of these states. Empty means any.
    pub states: Vec<Arc<str>>,
    /// Free to be taken over at this time: `held_until_ms` is not above it.
    pub free_at_ms: Option<u64>,
    /// Past their `expires_ms` at this time.
    pub expired_at_ms: Option<u64>,
    /// Latest first, by `(created_ms, id)`; else the oldest first.
    pub is_latest_first: bool,
    /// Only what comes behind this one in that order.
    pub after: Option<(u64, Arc<str>)>,
    /// How many at most.
    pub limit: u64,
}

impl Wanted {
    /// Some of a collection, latest first.
    pub fn of(collection: Collection, limit: u64) -> Wanted {
        Wanted {
            collection,
            owner: None,
            parent: None,
            states: Vec::new(),
            free_at_ms: None,
            expired_at_ms: None,
            is_latest_first: true,
            after: None,
            limit,
        }
    }
}

/// Keeps documents and logs.
pub trait Documents: Send + Sync {
    /// Makes changes, all or none. The new versions of what was `put`, in its order.
    ///
    /// # Errors
    /// [`crate::ledger::StoreError::Conflict`] where something is not as the batch supposes;
    /// `Invalid` where something cannot be kept.
    fn write(&self, batch: Batch) -> Asking<'_, Vec<u64>>;

    /// One document.
    fn get<'a>(&'a self, collection: Collection, id: &'a str) -> Asking<'a, Option<Document>>;

    /// Some documents.
    fn list(&self, wanted: Wanted) -> Asking<'_, Vec<Document>>;

    /// How many documents an owner has in a collection, and the sum of their `size`.
    fn total<'a>(&'a self, collection: Collection, owner: &'a str) -> Asking<'a, (u64, u64)>;

    /// Entries of a log, from the one with the number `from` (the first has 0), as many as `bytes`
    /// hold, but one at least if there is one.
    fn entries<'a>(
        &'a self,
        collection: Collection,
        id: &'a str,
        from: u64,
        bytes: u64,
    ) -> Asking<'a, Vec<Entry>>;
}
