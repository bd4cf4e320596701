//! Money after it was spent: the record of a call, and the trait of what keeps all of them.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tollway_wire::price::PicoDollars;
use tollway_wire::usage::Usage;

/// A future that a store returns.
pub type Asking<'a, T> = Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send + 'a>>;

/// Why a store cannot do what it is asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// It cannot be reached, or has failed.
    #[error("the store cannot be used: {0}")]
    Unavailable(String),
    /// There is something of that name already.
    #[error("{0}")]
    Conflict(String),
    /// It cannot be kept as it is, now or later: a name that is too long, a zero byte, too much at
    /// once.
    #[error("{0}")]
    Invalid(String),
}

/// Who made a call, where it went and what it took: one line of the ledger. LiteLLM's spend log has
/// the same facts.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SpendRecord {
    /// The request's id.
    pub request_id: Arc<str>,
    /// Which call: `chat_completions`, `embeddings` …
    pub operation: Arc<str>,
    /// The hash of the virtual key in hexadecimal; empty without one.
    pub key: Arc<str>,
    /// The key's alias.
    pub key_alias: Option<Arc<str>>,
    /// The key's user.
    pub user: Option<Arc<str>>,
    /// The key's team.
    pub team: Option<Arc<str>>,
    /// The end user named in the request.
    pub end_user: Option<Arc<str>>,
    /// The request's tags.
    pub tags: Vec<Arc<str>>,
    /// The model group.
    pub group: Arc<str>,
    /// `provider/model` of the deployment.
    pub model: Arc<str>,
    /// The deployment's id.
    pub model_id: Arc<str>,
    /// The provider's name.
    pub provider: Arc<str>,
    /// Where it was called, without credentials.
    pub api_base: Arc<str>,
    /// When the request came, in milliseconds since the Unix epoch.
    pub started_ms: u64,
    /// When the first byte of the answer came.
    pub first_byte_ms: Option<u64>,
    /// When it was over.
    pub ended_ms: u64,
    /// What it took.
    #[serde(with = "usage_form")]
    pub usage: Usage,
    /// `usage` is our own count.
    pub usage_estimated: bool,
    /// What it cost.
    #[serde(with = "pico_form")]
    pub cost: PicoDollars,
    /// No price was known.
    pub unpriced: bool,
    /// It came out of the cache, or out of another request's call.
    pub cache_hit: bool,
    /// The HTTP status.
    pub status: u16,
    /// The caller's address.
    pub client: Option<Arc<str>>,
}

mod pico_form {
    use serde::{Deserialize, Deserializer, Serializer};
    use tollway_wire::price::PicoDollars;

    pub(super) fn serialize<S: Serializer>(
        amount: &PicoDollars,
        out: S,
    ) -> Result<S::Ok, S::Error> {
        out.serialize_u64(amount.0)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<PicoDollars, D::Error> {
        u64::deserialize(from).map(PicoDollars)
    }
}

/// Writes counts by name and leaves out those that are zero.
mod usage_form {
    use serde::de::Deserialize;
    use serde::ser::SerializeMap;
    use serde::{Deserializer, Serializer};
    use std::collections::BTreeMap;
    use tollway_wire::usage::Usage;

    pub(super) fn serialize<S: Serializer>(usage: &Usage, out: S) -> Result<S::Ok, S::Error> {
        let mut map = out.serialize_map(None)?;
        for (name, count) in Usage::NAMES.iter().zip(usage.counts()) {
            if count > 0 {
                map.serialize_entry(name, &count)?;
            }
        }
        map.end()
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Usage, D::Error> {
        let said = BTreeMap::<String, u64>::deserialize(from)?;
        let mut usage = Usage::default();
        for (name, count) in Usage::NAMES.iter().zip(usage.counts_mut()) {
            *count = said.get(*name).copied().unwrap_or(0);
        }
        Ok(usage)
    }
}

/// A record and its place: which node wrote it, and as which of its records.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// Unique among all records of its node, and growing.
    pub seq: u64,
    /// What it says.
    pub record: SpendRecord,
}

/// Which records are wanted. All that is given must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SpendFilter {
    /// Of this request.
    pub request_id: Option<Arc<str>>,
    /// Of this key, by its hash.
    pub key: Option<Arc<str>>,
    /// Of this user.
    pub user: Option<Arc<str>>,
    /// Of this team.
    pub team: Option<Arc<str>>,
    /// Of this end user.
    pub end_user: Option<Arc<str>>,
    /// With this tag.
    pub tag: Option<Arc<str>>,
    /// Of this model group.
    pub group: Option<Arc<str>>,
    /// That began then or later, in milliseconds since the Unix epoch.
    pub from_ms: Option<u64>,
    /// That began before.
    pub to_ms: Option<u64>,
}

/// By what spend is added up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Dimension {
    /// Not at all: everything together.
    Total,
    /// By key.
    Key,
    /// By user.
    User,
    /// By team.
    Team,
    /// By end user.
    EndUser,
    /// By model group.
    Model,
    /// By provider.
    Provider,
    /// By tag. A call with two tags counts for both.
    Tag,
    /// By key and model group, with a zero byte between them.
    KeyModel,
    /// By team and model group, likewise; nothing for calls without a team.
    TeamModel,
    /// By user and model group, likewise; nothing for calls without a user.
    UserModel,
    /// By team and user, likewise; nothing for calls without both.
    TeamMember,
    /// By deployment; nothing for calls that went to none.
    Deployment,
}

impl Dimension {
    /// All of them.
    pub const ALL: [Dimension; 13] = [
        Dimension::Total,
        Dimension::Key,
        Dimension::User,
        Dimension::Team,
        Dimension::EndUser,
        Dimension::Model,
        Dimension::Provider,
        Dimension::Tag,
        Dimension::KeyModel,
        Dimension::TeamModel,
        Dimension::UserModel,
        Dimension::TeamMember,
        Dimension::Deployment,
    ];

    /// Whether its subjects are of two parts, with a zero byte between them.
    pub fn has_parts(self) -> bool {
        matches!(
            self,
            Dimension::KeyModel
                | Dimension::TeamModel
                | Dimension::UserModel
                | Dimension::TeamMember
        )
    }
}

/// How long the pieces of time are that a sum is made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Span {
    /// A minute.
    Minute,
    /// An hour.
    Hour,
    /// A day, in UTC.
    Day,
    /// All of it.
    All,
}

/// A sum of records.
#[derive(Clone, Debug, PartialEq)]
pub struct Sum {
    /// When its span began, in milliseconds since the Unix epoch; 0 for [`Span::All`].
    pub start_ms: u64,
    /// Of what, in its dimension: a key's hash, a team's id … Empty for those that have none.
    pub subject: Arc<str>,
    /// How many calls.
    pub calls: u64,
    /// How many of them failed.
    pub failed: u64,
    /// How many came out of the cache.
    pub cache_hits: u64,
    /// Their input tokens.
    pub prompt_tokens: u64,
    /// Their output tokens.
    pub completion_tokens: u64,
    /// What they cost. A sum of years can be more than [`PicoDollars`] hold.
    pub cost: u128,
}

/// Keeps records for ever, or for as long as configured.
pub trait Ledger: Send + Sync {
    /// Takes records of a node. One that it has already, by node and `seq`, is left as it is.
    fn append<'a>(&'a self, node: &'a str, entries: &'a [Entry]) -> Asking<'a, ()>;

    /// The highest `seq` of a node that it has.
    fn last_seq<'a>(&'a self, node: &'a str) -> Asking<'a, Option<u64>>;

    /// Records, latest first.
    fn records(&self, filter: SpendFilter, skip: u64, limit: u64) -> Asking<'_, Vec<SpendRecord>>;

    /// Sums over what began in `from_ms..to_ms`, by `dimension` and `span`. Exact wherever the times
    /// lie.
    fn sums(
        &self,
        dimension: Dimension,
        span: Span,
        from_ms: u64,
        to_ms: u64,
    ) -> Asking<'_, Vec<Sum>>;

    /// One subject's sum of [`Span::All`] over what began in `from_ms..to_ms`, if there is any. Stores
    /// that can look it up do so.
    fn sum_of<'a>(
        &'a self,
        dimension: Dimension,
        subject: &'a str,
        from_ms: u64,
        to_ms: u64,
    ) -> Asking<'a, Option<Sum>> {
        let sums = self.sums(dimension, Span::All, from_ms, to_ms);
        Box::pin(async move { Ok(sums.await?.into_iter().find(|sum| *sum.subject == *subject)) })
    }

    /// Forgets records that began before; sums stay. How many went.
    fn forget(&self, before_ms: u64) -> Asking<'_, u64>;
}
