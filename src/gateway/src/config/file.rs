//! What was written: the config file, typed, with references to the environment followed.
//!
//! The sections `model_list`, `router_settings`, `litellm_settings`, `general_settings`, `mcp_servers`
//! and `environment_variables` are LiteLLM's; `listen`, `data`, `server`, `journal`, `responses`, `alerts`,
//! `filters`, `keys`, `teams`, `users`, `agents`, `agent_settings`, `tools` and `compat` are ours. The fields' docs are the reference manual; `conf/full.yaml` shows them all.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http::{HeaderName, HeaderValue};
use secrecy::{ExposeSecret, SecretString};
use tollway_wire::price::PicoDollars;

use super::base::Base;
use super::env::Environment;
use super::mistake::Report;
use super::reader::{Fields, Reader};
use super::redis;
use super::{litellm, yaml};

mod agents;
mod alerts;
mod cache;
mod filters;
mod journal;
mod jwt;
mod mcp;
mod model;
mod money;
mod people;
mod responses;
mod router;
mod server;

use agents::read_agent_settings;
pub(crate) use agents::{FileAgentSettings, Written};
pub(crate) use alerts::{FileAlerting, FileAlerts};
use alerts::{read_alerting, read_alerts};
use cache::read_cache;
pub(crate) use cache::{CacheKind, FileCache};
pub(crate) use filters::FilterEntry;
use filters::read_filters;
pub(crate) use journal::{FileJournal, FileLedger};
use journal::{read_journal, read_ledger};
use jwt::read_jwt;
pub(crate) use jwt::{FileIssuer, FileJwt};
use mcp::read_servers;
pub(crate) use mcp::{FileAuth, FileMcpServer, FileTransport};
use model::read_model;
pub(crate) use model::{FileInfo, FileModel, FileParams};
use money::Words;
pub(crate) use money::{FileBudget, NamedBudget};
pub(crate) use people::{FileAccount, FileKey, FileLimits};
use people::{read_key, read_team, read_user};
use responses::read_responses;
pub(crate) use responses::{FileResponses, Keeping};
pub(crate) use router::{FileFallback, FileFallbacks, FileRouter, RetryPolicy};
use router::{read_fallbacks, read_router};
pub(crate) use server::{FileListen, FileServer};
use server::{read_listen, read_server};

/// A config file as it was written. What could not be read is `None` and has left a mistake, which
/// comes out of `Config::resolve` together with all others.
#[derive(Debug, Default)]
pub(crate) struct FileConfig {
    pub(super) report: Report,
    /// The file is no mapping: there is nothing to resolve.
    pub(super) is_unreadable: bool,
    pub(super) environment: Environment,
    /// `model_list`: what can be called. Entries of the same `model_name` share its load.
    pub(crate) model_list: Vec<FileModel>,
    /// `router_settings`
    pub(crate) router: FileRouter,
    /// `litellm_settings`
    pub(crate) litellm: FileLitellm,
    /// `general_settings`
    pub(crate) general: FileGeneral,
    /// `listen`: where clients connect.
    pub(crate) listen: FileListen,
    /// `alerts`: when operators are told of budgets and spend.
    pub(crate) alerts: FileAlerts,
    /// `data`: the folder of the generated master key. Default `./tollway-data`.
    pub(crate) data: Option<PathBuf>,
    /// `server`: what a request may be, and how long anything may take.
    pub(crate) server: FileServer,
    /// `journal`: what calls cost, before it is in the database.
    pub(crate) journal: FileJournal,
    /// `responses`: what is kept of the Responses API.
    pub(crate) responses: FileResponses,
    /// `filters`: the stack, in the order in which requests go through it. Without it, the usual
    /// one.
    pub(crate) filters: Option<Vec<FilterEntry>>,
    /// `keys`: virtual keys.
    pub(crate) keys: Vec<FileKey>,
    /// `teams`: what keys share models, limits and a budget.
    pub(crate) teams: Vec<FileAccount>,
    /// `users`: who keys belong to.
    pub(crate) users: Vec<FileAccount>,
    /// `agents`: agents by name: `name`, `model`, `instructions`, `tools`, `max_steps`,
    /// `max_cost_usd`, `deadline_s`, `approval`.
    pub(crate) agents: Vec<serde_json::Value>,
    /// `agent_settings`
    pub(crate) agent_settings: FileAgentSettings,
    /// `mcp_servers`: servers whose tools agents may use.
    pub(crate) mcp_servers: Vec<FileMcpServer>,
    /// `tools`: the tools that agents may use.
    pub(crate) tools: Option<Written>,
    /// `search_tools`: who searches the web, in the order in which they are asked. LiteLLM's form.
    pub(crate) search_tools: Option<Written>,
    /// `compat: litellm`: errors carry their HTTP status as a string in `code`, as LiteLLM's do,
    /// instead of OpenAI's machine-readable codes.
    pub(crate) compat_litellm: bool,
}

/// `litellm_settings`
#[derive(Debug, Default)]
pub(crate) struct FileLitellm {
    /// `num_retries`, where `router_settings` has none.
    pub(crate) num_retries: Option<u32>,
    /// `request_timeout`: the `timeout` of deployments that have none, where `router_settings` has
    /// none either.
    pub(crate) request_timeout: Option<Duration>,
    /// `drop_params`, for deployments that do not say.
    pub(crate) drop_params: Option<bool>,
    /// `fallbacks`, as in `router_settings`, which wins.
    pub(crate) fallbacks: FileFallbacks,
    /// `context_window_fallbacks`, as in `router_settings`, which wins.
    pub(crate) context_window_fallbacks: FileFallbacks,
    /// `content_policy_fallbacks`, as in `router_settings`, which wins.
    pub(crate) content_policy_fallbacks: FileFallbacks,
    /// `default_fallbacks`, where `router_settings` has none.
    pub(crate) default_fallbacks: Vec<String>,
    /// `cache`: whether answers are cached.
    pub(crate) cache: bool,
    /// `cache_params`
    pub(crate) cache_params: FileCache,
    /// `max_budget`, `budget_duration`: what everybody together may spend.
    pub(crate) budget: Option<FileBudget>,
    /// `tag_budget_config`: what requests with a tag may cost.
    pub(crate) tag_budgets: Vec<NamedBudget>,
    /// `max_internal_user_budget`, `internal_user_budget_duration`: what each user may spend that
    /// has no budget of its own.
    pub(crate) user_budget: Option<FileBudget>,
    /// `max_end_user_budget`: what each end user may spend.
    pub(crate) end_user_budget: Option<FileBudget>,
    /// `include_cost_in_streaming_usage`: the usage of streams carries what they cost.
    pub(crate) cost_in_usage: Option<bool>,
    /// One of the callbacks is `otel`.
    pub(crate) is_traced: bool,
    /// `forward_traceparent_to_llm_provider`: providers are told of the trace.
    pub(crate) tells_providers: Option<bool>,
}

/// `general_settings`
#[derive(Debug, Default)]
pub(crate) struct FileGeneral {
    /// `master_key`: may do everything. Default: `TOLLWAY_MASTER_KEY` or `LITELLM_MASTER_KEY`
    /// of the environment, else one that is generated and kept in the data folder.
    pub(crate) master_key: Option<SecretString>,
    /// `database_url`: the Postgres that keeps keys and the ledger. Without it, SQLite in the data
    /// folder.
    pub(crate) database_url: Option<SecretString>,
    /// How the ledger in it is kept.
    pub(crate) ledger: FileLedger,
    /// `redis_url`: the Redis or Valkey through which several gateways share budgets.
    pub(crate) redis_url: Option<SecretString>,
    /// `redis_ssl_ca_certs`: a file with the certificates, as PEM, that vouch for that Redis's, where
    /// it is `rediss://`. Default: those that browsers know.
    pub(crate) redis_roots: Option<Vec<u8>>,
    /// `max_parallel_requests`: the `max_parallel_requests` of deployments that have none.
    pub(crate) max_parallel_requests: Option<u64>,
    /// `global_max_parallel_requests`: requests at once, all together.
    pub(crate) global_max_parallel_requests: Option<u64>,
    /// `max_request_size_mb`: LiteLLM's name of `server.request_body_bytes_max`.
    pub(crate) max_request_size_mb: Option<u64>,
    /// `background_health_checks`: deployments are checked from time to time, `/health` shows what
    /// was found, and routing avoids what does not work.
    pub(crate) background_health_checks: bool,
    /// `health_check_interval`: how often. Default 5 minutes.
    pub(crate) health_check_interval: Option<Duration>,
    /// `proxy_batch_polling_interval`: how often a provider is asked for a batch that has not ended,
    /// so that it is billed when it has. Default one hour.
    pub(crate) batch_polling_interval: Option<Duration>,
    /// `alerting`, `alert_types`, `alert_to_webhook_url`: who is told.
    pub(crate) alerting: FileAlerting,
    /// `pass_through_endpoints`
    pub(crate) pass_through: Vec<FilePassThrough>,
    /// `enable_jwt_auth`: tokens of identity providers are taken in the place of keys.
    pub(crate) enable_jwt_auth: bool,
    /// `litellm_jwtauth`
    pub(crate) jwt: Option<FileJwt>,
}

/// One of `general_settings.pass_through_endpoints`: a path that is handed to another server as it
/// is.
#[derive(Debug, Default)]
pub(crate) struct FilePassThrough {
    /// `path`: the path here, with everything below it.
    pub(crate) path: Option<String>,
    /// `target`: where it goes. What follows `path` in the request is added.
    pub(crate) target: Option<Base>,
    /// `headers`: set on what goes there.
    pub(crate) headers: Vec<(HeaderName, HeaderValue)>,
    /// `methods`: which are let through. Default: all.
    pub(crate) methods: Vec<String>,
    /// `auth`: whether callers need a key. Default true (LiteLLM: false, without an enterprise
    /// licence).
    pub(crate) auth: Option<bool>,
    /// `cost_per_request`: dollars that each request costs which is not refused. Default: nothing.
    pub(crate) cost: Option<PicoDollars>,
}

impl FileConfig {
    /// A file with nothing in it.
    pub(crate) fn empty(environment: Environment) -> FileConfig {
        FileConfig { environment, ..FileConfig::default() }
    }

    /// Reads a file. What keeps it from being read is a mistake like any other.
    pub(crate) fn open(path: &Path, environment: Environment) -> FileConfig {
        let name = path.display().to_string();
        let mut text = String::new();
        // One byte more than allowed, so that what is too large is seen to be.
        let read = File::open(path)
            .and_then(|file| file.take(yaml::FILE_BYTES_MAX as u64 + 1).read_to_string(&mut text));
        match read {
            Ok(_) => FileConfig::read(&name, &text, environment),
            Err(error) => {
                let mut report = Report::new(&name);
                report.mistake("", format!("cannot be read: {error}"));
                FileConfig { report, is_unreadable: true, ..FileConfig::empty(environment) }
            }
        }
    }

    /// Reads a file's text. `name` is what messages call it.
    pub(crate) fn read(name: &str, text: &str, environment: Environment) -> FileConfig {
        let (mut reader, root) = Reader::open(name, text, environment);
        let mut file = FileConfig::default();
        let read = |fields: &mut Fields<'_>| read_top(fields, &mut file);
        let done = root.and_then(|root| reader.fields(&root, "", litellm::TOP, read));
        file.is_unreadable = done.is_none();
        FileConfig { report: reader.report, environment: reader.environment, ..file }
    }
}

fn read_top(fields: &mut Fields<'_>, file: &mut FileConfig) {
    // First, because everything else may refer to them.
    for (name, node, path) in fields.entries("environment_variables") {
        if let Some(value) = fields.reader.scalar(node, &path, "text") {
            fields.reader.environment.add(name.to_owned(), value);
        }
    }
    let not_there = "including other files is not supported yet; put everything into this one";
    if fields.take("include").is_some() {
        fields.wrong("include", not_there);
    }
    file.model_list = fields.sections("model_list", &[], read_model);
    file.router =
        fields.section("router_settings", litellm::ROUTER, read_router).unwrap_or_default();
    file.litellm =
        fields.section("litellm_settings", litellm::LITELLM, read_litellm).unwrap_or_default();
    file.general =
        fields.section("general_settings", litellm::GENERAL, read_general).unwrap_or_default();
    file.listen = read_listen(fields);
    file.alerts = fields.section("alerts", &[], read_alerts).unwrap_or_default();
    file.data = fields.text("data").map(PathBuf::from);
    file.server = fields.section("server", &[], read_server).unwrap_or_default();
    file.journal = fields.section("journal", &[], read_journal).unwrap_or_default();
    file.responses = fields.section("responses", &[], read_responses).unwrap_or_default();
    file.filters = read_filters(fields);
    file.keys = fields.sections("keys", &[], read_key);
    file.teams = fields.sections("teams", &[], read_team);
    file.users = fields.sections("users", &[], read_user);
    for (node, path) in fields.items("agents") {
        let agent = fields.reader.json(node, &path, true);
        file.agents.push(agent);
    }
    file.agent_settings =
        fields.section("agent_settings", &[], read_agent_settings).unwrap_or_default();
    file.tools = fields.json("tools");
    read_servers(fields, file);
    file.search_tools = fields.json("search_tools");
    file.compat_litellm =
        fields.choice("compat", &[("litellm", true), ("openai", false)]).unwrap_or_default();
}

fn read_litellm(fields: &mut Fields<'_>) -> FileLitellm {
    // These switch off what is never on here: prompts and keys are in no log.
    for always in ["turn_off_message_logging", "redact_messages_in_exceptions"] {
        fields.flag(always);
    }
    let mut is_traced = false;
    for name in ["callbacks", "success_callback", "failure_callback", "service_callback"] {
        for (at, callback) in fields.texts(name).into_iter().enumerate() {
            is_traced |= callback == "otel";
            if !matches!(callback.as_str(), "prometheus" | "otel") {
                let path = format!("{}[{at}]", fields.path(name));
                let message = "only `otel`, and `prometheus`, which is always on, are supported \
                               yet; this callback is not called";
                fields.reader.report.warning(&path, message);
            }
        }
    }
    FileLitellm {
        num_retries: fields.small_number("num_retries"),
        request_timeout: fields.timeout("request_timeout"),
        drop_params: fields.flag("drop_params"),
        context_window_fallbacks: read_fallbacks(fields, "context_window_fallbacks"),
        content_policy_fallbacks: read_fallbacks(fields, "content_policy_fallbacks"),
        fallbacks: read_fallbacks(fields, "fallbacks"),
        default_fallbacks: fields.texts("default_fallbacks"),
        cache: fields.flag("cache").unwrap_or_default(),
        cache_params: fields
            .section("cache_params", litellm::CACHE, read_cache)
            .unwrap_or_default(),
        budget: fields.budget(Words::USUAL),
        tag_budgets: fields.budgets("tag_budget_config", Words::USUAL),
        user_budget: fields.budget(Words::OF_EACH_USER),
        end_user_budget: fields.budget(Words::OF_EACH_END_USER),
        cost_in_usage: fields.flag("include_cost_in_streaming_usage"),
        is_traced,
        tells_providers: fields.flag("forward_traceparent_to_llm_provider"),
    }
}

fn read_general(fields: &mut Fields<'_>) -> FileGeneral {
    FileGeneral {
        master_key: fields.secret("master_key"),
        database_url: read_database_url(fields),
        ledger: read_ledger(fields),
        redis_url: redis::read_url(fields, "redis_url"),
        redis_roots: redis::read_roots(fields, "redis_ssl_ca_certs"),
        max_parallel_requests: fields.count("max_parallel_requests"),
        global_max_parallel_requests: fields.count("global_max_parallel_requests"),
        max_request_size_mb: fields.count("max_request_size_mb"),
        background_health_checks: fields.flag("background_health_checks").unwrap_or_default(),
        health_check_interval: fields.timeout("health_check_interval"),
        batch_polling_interval: fields.timeout("proxy_batch_polling_interval"),
        alerting: read_alerting(fields),
        enable_jwt_auth: fields.flag("enable_jwt_auth").unwrap_or_default(),
        jwt: fields.section("litellm_jwtauth", litellm::JWT, read_jwt),
        pass_through: fields.sections("pass_through_endpoints", litellm::PASS_THROUGH, |fields| {
            if fields.flag("include_subpath") == Some(false) {
                let path = fields.path("include_subpath");
                fields
                    .reader
                    .report
                    .warning(&path, "has no effect: what is below the path is included");
            }
            FilePassThrough {
                path: fields.text("path"),
                target: fields.base("target"),
                headers: fields.headers("headers"),
                methods: fields.texts("methods"),
                auth: fields.flag("auth"),
                cost: fields.dollars("cost_per_request"),
            }
        }),
    }
}

fn read_database_url(fields: &mut Fields<'_>) -> Option<SecretString> {
    let url = fields.secret("database_url")?;
    let schemes = ["postgres://", "postgresql://"];
    if !schemes.iter().any(|scheme| url.expose_secret().starts_with(scheme)) {
        fields.wrong("database_url", "must be the URL of a Postgres: postgres://user@host/name");
        return None;
    }
    Some(url)
}

/// Header names that frame a message or belong to one connection.
const FRAMING: &[&str] = &[
    "connection",
    "content-length",
    "expect",
    "host",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

impl Fields<'_> {
    fn base(&mut self, name: &'static str) -> Option<Base> {
        let text = self.text(name)?;
        match text.parse() {
            Ok(base) => Some(base),
            Err(error) => {
                let error: super::base::BaseError = error;
                self.wrong(name, error.to_string());
                None
            }
        }
    }

    /// Headers to send. All values are marked sensitive: which of them are secrets is not known.
    fn headers(&mut self, name: &'static str) -> Vec<(HeaderName, HeaderValue)> {
        let at = self.path(name);
        let mut headers = Vec::new();
        for (name, node, path) in self.entries(name) {
            let reader = &mut *self.reader;
            let Ok(name) = HeaderName::from_bytes(name.as_bytes()) else {
                // Not shown: `{x-key:secret}` lacks a space, and the secret is part of the name.
                let message = "one of its keys is not the name of a header; is a space missing \
                               after a colon?";
                reader.report.mistake_at(&at, Some(node.line), message);
                continue;
            };
            if FRAMING.contains(&name.as_str()) {
                reader.report.mistake(&path, "this header is the gateway's own and cannot be set");
                continue;
            }
            let Some(value) = reader.scalar(node, &path, "text") else { continue };
            match HeaderValue::from_str(&value) {
                Ok(mut value) => {
                    value.set_sensitive(true);
                    headers.push((name, value));
                }
                Err(_) => {
                    reader.report.mistake(&path, "holds what no header can: a line feed, say")
                }
            }
        }
        headers
    }

    /// A value that has two names.
    fn either<T>(
        &mut self,
        name: &'static str,
        other: &'static str,
        read: impl Fn(&mut Self, &'static str) -> Option<T>,
    ) -> Option<T> {
        let (first, second) = (read(self, name), read(self, other));
        if first.is_some() && second.is_some() {
            self.wrong(other, format!("is another name of {name}, which is set as well"));
        }
        first.or(second)
    }

    /// `{name: number}`
    fn counts(&mut self, name: &'static str) -> Vec<(String, u64)> {
        let mut counts = Vec::new();
        for (name, node, path) in self.entries(name) {
            let wanted = "a whole number above 0";
            let count = |text: &str| super::reader::whole(text).filter(|count| *count > 0);
            let count = self.reader.parsed(node, &path, wanted, count);
            counts.extend(count.map(|count| (name.to_owned(), count)));
        }
        counts
    }

    /// Whatever people note. References are not followed: a secret is nothing to note.
    fn json_map(&mut self, name: &'static str) -> serde_json::Map<String, serde_json::Value> {
        let mut map = serde_json::Map::new();
        for (name, node, path) in self.entries(name) {
            map.insert(name.to_owned(), self.reader.json(node, &path, false));
        }
        map
    }
}
