//! The config: what was written ([`FileConfig`]), what is true ([`Config`]), and every mistake in
//! between.
//!
//! ```text
//! text ── yaml ── reader (references followed) ── FileConfig ── resolve ── Config
//!                                                     │            │
//!                        (no file: default) ──────────┘            └── every mistake at once
//! ```
//! A LiteLLM `config.yaml` is accepted as it stands; `litellm.rs` lists what has no effect yet.

mod agents;
mod alerts;
mod base;
mod budgets;
mod cache;
mod data;
mod date;
mod default;
mod directory;
mod entry;
mod env;
mod explain;
mod fallbacks;
mod file;
mod filters;
mod jwt;
mod keys;
mod listen;
mod litellm;
mod mcp;
mod mistake;
mod pattern;
mod people;
mod price;
mod reader;
mod redis;
mod resolve;
#[cfg(test)]
mod tests;
mod traces;
mod yaml;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue, Method};
use secrecy::SecretString;
use tollway_filter_api::ConfigError;
use tollway_store::redis_link::RedisServer;
use tollway_wire::price::PicoDollars;

pub(crate) use agents::AgentSettings;
pub(crate) use alerts::{AlertFormat, AlertKind, AlertSettings, AlertTarget};
pub(crate) use base::Base;
pub(crate) use cache::{CacheSettings, CacheStoreSettings};
pub(crate) use data::DataFolder;
pub(crate) use date::parse as moment;
pub(crate) use directory::Directory;
pub(crate) use entry::{Entry, EntryAccess};
pub(crate) use env::Environment;
pub(crate) use file::{
    FileConfig, FileJournal, FileLedger, FileResponses, FilterEntry, Keeping, RetryPolicy,
};
pub(crate) use jwt::{ClaimNames, JwtIssuer, JwtSettings, KeysAt, MappedRole, is_safe_beside};
pub(crate) use keys::Keys;
pub(crate) use listen::{Listen, TlsFiles};
pub(crate) use mistake::{Mistake, Warning};
pub(crate) use traces::TraceSettings;

use crate::respond::ErrorCodes;
use mistake::Report;

/// One config, checked: what the gateway does.
#[derive(Debug)]
pub(crate) struct Config {
    /// Where clients connect.
    pub(crate) listen: Listen,
    /// The data folder, which need not be there yet.
    pub(crate) data: PathBuf,
    /// What a request may be, and how long anything may take.
    pub(crate) server: ServerSettings,
    /// Retries, fallbacks and cooldown.
    pub(crate) router: RouterSettings,
    /// How errors name their `code`.
    pub(crate) error_codes: ErrorCodes,
    /// Endpoints with their credentials, by `Deployment::entry`.
    pub(crate) entries: Vec<Entry>,
    /// Which models there are.
    pub(crate) directory: Arc<Directory>,
    /// Virtual keys, the master key among them once it is known.
    pub(crate) keys: Arc<Keys>,
    /// Where answers are kept, if they are.
    pub(crate) cache: Option<CacheSettings>,
    /// The filters in their order.
    pub(crate) filters: Vec<FilterEntry>,
    /// How often deployments are checked in the background, if they are.
    pub(crate) health_check_interval: Option<Duration>,
    /// How often a provider is asked for a batch that has not ended.
    pub(crate) batch_polling_interval: Duration,
    /// When operators are told of budgets and spend, and where.
    pub(crate) alerts: AlertSettings,
    /// Where traces go, if there are any.
    pub(crate) traces: Option<TraceSettings>,
    /// Paths that are handed to other servers as they are.
    pub(crate) pass_through: Vec<PassThroughSettings>,
    /// The Postgres that keeps keys and the ledger; SQLite in the data folder without it.
    pub(crate) database_url: Option<SecretString>,
    /// How the journal is written.
    pub(crate) journal: FileJournal,
    /// What is kept of the Responses API.
    pub(crate) responses: FileResponses,
    /// How the ledger is kept.
    pub(crate) ledger: FileLedger,
    /// Whose tokens are taken in the place of keys, if any.
    pub(crate) jwt: Option<JwtSettings>,
    /// The Redis through which several gateways share budgets and limits.
    pub(crate) redis: Option<RedisServer>,
    /// Agents and their tools.
    pub(crate) agents: AgentSettings,
    report: Report,
}

/// What a request may be, and how long anything may take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ServerSettings {
    /// How large the body of a model call may be.
    pub(crate) request_body_bytes_max: usize,
    /// How large a request's head may be.
    pub(crate) request_header_bytes_max: usize,
    /// How much all bodies that are being served may take together.
    pub(crate) body_memory_bytes_max: usize,
    /// How long a request's body may take to arrive.
    pub(crate) body_timeout: Duration,
    /// How long requests may go on after SIGTERM.
    pub(crate) drain_timeout: Duration,
}

/// Retries, fallbacks and cooldown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RouterSettings {
    /// Tries after the first one.
    pub(crate) num_retries: u32,
    /// The same after some kinds of failure.
    pub(crate) retry_policy: RetryPolicy,
    /// The shortest pause before a retry.
    pub(crate) retry_after: Duration,
    /// How many failures within a minute a deployment may have before it rests.
    pub(crate) allowed_fails: u32,
    /// How long it rests. Zero: never.
    pub(crate) cooldown_time: Duration,
    /// How many fallbacks are tried.
    pub(crate) max_fallbacks: usize,
    /// Which deployment of a group is asked first.
    pub(crate) strategy: Strategy,
    /// Requests that a deployment cannot read are not sent to it.
    pub(crate) pre_call_checks: bool,
    /// Deployments with tags are kept for requests with such tags.
    pub(crate) tag_filtering: bool,
    /// One tag in common is enough.
    pub(crate) tag_match_any: bool,
    /// How much of the traffic may be retries.
    pub(crate) retry_budget: RetryBudget,
}

/// Which deployment of a group is asked first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Strategy {
    /// At random, by weight.
    #[default]
    Shuffle,
    /// The one with the fewest calls in flight.
    LeastBusy,
    /// The faster one of two, by how it has answered lately and how busy it is.
    LowestLatency,
    /// The one at which the request costs least.
    LowestCost,
    /// The one that has most of its `rpm` and `tpm` left.
    MostRemaining,
}

impl Strategy {
    /// By LiteLLM's names, the newest first where there are several.
    pub(crate) const NAMES: [(&'static str, Strategy); 6] = [
        ("simple-shuffle", Strategy::Shuffle),
        ("least-busy", Strategy::LeastBusy),
        ("latency-based-routing", Strategy::LowestLatency),
        ("cost-based-routing", Strategy::LowestCost),
        ("usage-based-routing-v2", Strategy::MostRemaining),
        ("usage-based-routing", Strategy::MostRemaining),
    ];
}

/// How much of the traffic may be retries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RetryBudget {
    /// Of all requests. 100 is no budget at all.
    pub(crate) percent: u32,
    /// What is allowed in any case.
    pub(crate) min_per_second: u32,
}

/// A path that is handed to another server as it is.
#[derive(Clone, Debug)]
pub(crate) struct PassThroughSettings {
    /// The path here, with everything below it. Without a slash at its end.
    pub(crate) path: String,
    /// Where it goes. What follows `path` in the request is added.
    pub(crate) target: Base,
    /// Set on what goes there.
    pub(crate) headers: Vec<(HeaderName, HeaderValue)>,
    /// Which methods are let through; empty means all.
    pub(crate) methods: Vec<Method>,
    /// Whether callers need a key.
    pub(crate) auth: bool,
    /// What each request costs.
    pub(crate) cost: PicoDollars,
}

impl Config {
    /// Whether the config or the environment names a master key.
    pub(crate) fn has_master_key(&self) -> bool {
        self.keys.iter().any(|key| key.master)
    }

    /// Sets the master key where the config has none.
    pub(crate) fn set_master_key(&mut self, key: &SecretString) {
        Arc::make_mut(&mut self.keys).add_master(key);
    }

    /// The mistake in this file that the builder of the filter at `at` has found.
    pub(crate) fn filter_mistake(&self, at: usize, error: &ConfigError) -> Mistake {
        filters::mistake(&self.report, &self.filters[at], error)
    }
}
