//! What the Responses API of OpenAI keeps, and the trait of the database that keeps it.

use std::sync::Arc;

use bytes::Bytes;

use crate::identity::KeyHash;
use crate::ledger::Asking;

/// One kept response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredResponse {
    /// The key that asked for it. Nobody else ever sees it.
    pub tenant: Option<KeyHash>,
    /// The deployment that made it and knows it under the same id; none, where only we do.
    pub deployment: Option<Arc<str>>,
    /// The deployment that made it and its id there, where that is another one.
    pub original: Option<(Arc<str>, Arc<str>)>,
    /// The `Response` object as JSON, with all the model needs to go on from it.
    pub response: Bytes,
    /// The JSON array of the items that went into it, those of its own history included. They never
    /// change.
    pub items: Bytes,
    /// The events it was told by, where a client may come back for them: each with its place as its
    /// number. Empty where they were too many to be kept.
    pub events: Option<Bytes>,
    /// It is still being made, by this process or another one. One that is not never changes again.
    pub is_open: bool,
    /// Since the Unix epoch, in milliseconds: it is not there any more from then on.
    pub expires_ms: u64,
}

/// A response to be written.
#[derive(Clone, Debug)]
pub struct ResponseRow {
    /// Its id.
    pub id: Arc<str>,
    /// As it is now.
    pub response: Arc<StoredResponse>,
    /// It was not written before. One that was is left alone where it is gone meanwhile.
    pub is_new: bool,
}

/// What became of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// It is there.
    Kept,
    /// Somebody has removed it, or it is somebody else's.
    Gone,
    /// The database does not take it, now or later.
    Refused,
}

/// A process that makes responses.
#[derive(Clone, Debug)]
pub struct Maker {
    /// The node, which has the same name after a restart.
    pub node: Arc<str>,
    /// The process, which has not.
    pub process: Arc<str>,
}

/// One whose maker is gone.
#[derive(Clone, Debug)]
pub struct Abandoned {
    /// Its id.
    pub id: Arc<str>,
    /// Who made it: the process.
    pub process: Arc<str>,
    /// The `Response` object as it was last written.
    pub response: Bytes,
}

/// Keeps responses in a database.
pub trait ResponseStore: Send + Sync {
    /// Writes responses; what became of each. Those that are open are held by `maker` until `until_ms`.
    fn write<'a>(
        &'a self,
        rows: &'a [ResponseRow],
        maker: &'a Maker,
        until_ms: u64,
    ) -> Asking<'a, Vec<Written>>;

    /// The response of this id, whoever's it is, unless its time is over.
    fn get<'a>(&'a self, id: &'a str, now_ms: u64) -> Asking<'a, Option<StoredResponse>>;

    /// Whether there is one of this id.
    fn is_there<'a>(&'a self, id: &'a str, now_ms: u64) -> Asking<'a, bool>;

    /// Removes a response.
    fn remove<'a>(&'a self, id: &'a str) -> Asking<'a, ()>;

    /// Has whoever makes it give it up.
    fn cancel<'a>(&'a self, id: &'a str) -> Asking<'a, ()>;

    /// What a process makes, and whether it is to give it up. Nothing else of its is open.
    fn made_by<'a>(&'a self, process: &'a str) -> Asking<'a, Vec<(Arc<str>, bool)>>;

    /// Holds on to what a process makes.
    fn hold<'a>(&'a self, process: &'a str, until_ms: u64) -> Asking<'a, ()>;

    /// Some that are open and nobody makes any more: an earlier process of this node has begun them,
    /// or they are not held at this time.
    fn abandoned<'a>(
        &'a self,
        maker: &'a Maker,
        now_ms: u64,
        limit: u64,
    ) -> Asking<'a, Vec<Abandoned>>;

    /// Ends one that was abandoned, with this `Response` object, unless somebody has done so.
    fn end<'a>(&'a self, abandoned: &'a Abandoned, response: &'a str) -> Asking<'a, ()>;

    /// Removes some whose time was over at this time; how many, `limit` at most.
    fn forget(&self, now_ms: u64, limit: u64) -> Asking<'_, u64>;
}
