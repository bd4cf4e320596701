//! What was written: the config file, typed, with references to the environment followed.
//!
//! The sections `model_list`, `router_settings`, `litellm_settings`, `general_settings` and
//! `environment_variables` are LiteLLM's; `listen`, `data`, `server`, `journal`, `alerts`, `filters`,
//! `keys`, `teams`, `users` and `compat` are ours. The fields' docs are the reference manual; `conf/full.yaml` shows them all.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http::{HeaderName, HeaderValue};
use secrecy::{ExposeSecret, SecretString};
use tollway_providers::presets;
use tollway_wire::price::PicoDollars;

use super::base::Base;
use super::env::Environment;
use super::listen::Address;
use super::mistake::{Report, hint};
use super::reader::{Fields, Reader};
use super::redis::{self, FileRedis};
use super::yaml::{Node, Value};
use super::{litellm, yaml};

mod alerts;
mod journal;
mod jwt;
mod money;
mod people;
mod router;

pub(crate) use alerts::{FileAlerting, FileAlerts};
use alerts::{read_alerting, read_alerts};
pub(crate) use journal::{FileJournal, FileLedger};
use journal::{read_journal, read_ledger};
use jwt::read_jwt;
pub(crate) use jwt::{FileIssuer, FileJwt};
use money::Words;
pub(crate) use money::{FileBudget, NamedBudget};
pub(crate) use people::{FileAccount, FileKey, FileLimits};
use people::{read_key, read_team, read_user};
pub(crate) use router::{FileFallback, FileFallbacks, FileRouter, RetryPolicy};
use router::{read_fallbacks, read_router};

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
    /// `filters`: the stack, in the order in which requests go through it. Without it, the usual
    /// one.
    pub(crate) filters: Option<Vec<FilterEntry>>,
    /// `keys`: virtual keys.
    pub(crate) keys: Vec<FileKey>,
    /// `teams`: what keys share models, limits and a budget.
    pub(crate) teams: Vec<FileAccount>,
    /// `users`: who keys belong to.
    pub(crate) users: Vec<FileAccount>,
    /// `compat: litellm`: errors carry their HTTP status as a string in `code`, as LiteLLM's do,
    /// instead of OpenAI's machine-readable codes.
    pub(crate) compat_litellm: bool,
}

/// One entry of `model_list`.
#[derive(Debug, Default)]
pub(crate) struct FileModel {
    /// `model_name`: what clients call it. With `*` in it (`openai/*`) it stands for all names of
    /// that form, and what the `*` stands for is put in the place of the `*` in `model`.
    pub(crate) model_name: Option<String>,
    /// `litellm_params`
    pub(crate) params: FileParams,
    /// `model_info`
    pub(crate) info: FileInfo,
}

/// `litellm_params`: one model at one endpoint with one credential.
#[derive(Debug, Default)]
pub(crate) struct FileParams {
    /// `model`: `provider/model`; or a model's name alone where that tells the provider.
    pub(crate) model: Option<String>,
    /// `custom_llm_provider`: the provider, where `model` does not begin with it.
    pub(crate) provider: Option<String>,
    /// `api_key`. Default: the provider's usual variable, such as `OPENAI_API_KEY`.
    pub(crate) api_key: Option<SecretString>,
    /// `api_base` or `base_url`: where to call it, if not where the provider usually is.
    pub(crate) api_base: Option<Base>,
    /// `api_version`, where the provider has versions.
    pub(crate) api_version: Option<String>,
    /// `organization`: OpenAI's.
    pub(crate) organization: Option<String>,
    /// What single providers want to know besides: `aws_region_name`, `vertex_project` …
    pub(crate) settings: BTreeMap<&'static str, SecretString>,
    /// `extra_headers`: sent with every call, besides the provider's own. Those that frame a
    /// message or belong to one connection cannot be set.
    pub(crate) extra_headers: Vec<(HeaderName, HeaderValue)>,
    /// `drop_params`: leave out parameters the provider lacks instead of refusing the call.
    /// Default: that of `litellm_settings`.
    pub(crate) drop_params: Option<bool>,
    /// `timeout`: how long an answer may take, from the request to its end.
    pub(crate) timeout: Option<Duration>,
    /// `stream_timeout`: how long a streamed answer may take to begin.
    pub(crate) stream_timeout: Option<Duration>,
    /// `max_retries` (also `num_retries`): tries after the first one, for calls that begin here.
    pub(crate) max_retries: Option<u32>,
    /// `weight`: the share of the group's load, relative to the others, in thousandths. Without any
    /// weight in the group, `rpm` or `tpm` take its place if all entries have them.
    pub(crate) weight: Option<u64>,
    /// `rpm`: requests in any 60 seconds. A limit, not only a weight.
    pub(crate) rpm: Option<u64>,
    /// `tpm`: tokens in any 60 seconds.
    pub(crate) tpm: Option<u64>,
    /// `max_parallel_requests`: requests at once.
    pub(crate) max_parallel_requests: Option<u64>,
    /// `max_budget`, `budget_duration`: what the deployment may cost. One whose budget is spent is
    /// left out, and the group's others are asked.
    pub(crate) budget: Option<FileBudget>,
    /// `tags`: the requests it is kept for, where `enable_tag_filtering` is on.
    pub(crate) tags: Vec<String>,
    /// `order`: deployments with a lower one are asked first. Default 0.
    pub(crate) order: Option<u32>,
    /// `input_cost_per_token`, `output_cost_per_token` and the like, in dollars; LiteLLM's names.
    pub(crate) prices: Vec<(String, PicoDollars)>,
}

/// `model_info`: what is known of a deployment.
#[derive(Debug, Default)]
pub(crate) struct FileInfo {
    /// `id`: its name in metrics, logs and headers. Default: 64 hexadecimal digits made from the
    /// entry.
    pub(crate) id: Option<String>,
    /// `mode`: `chat`, `embedding`, `completion` … Default: what the price table says.
    pub(crate) mode: Option<String>,
    /// `base_model`: the model whose price and limits hold, where `model` is a name of your own.
    pub(crate) base_model: Option<String>,
    /// `access_groups`: names by which keys may be given access to several models.
    pub(crate) access_groups: Vec<String>,
    /// `max_input_tokens`: how much the model reads. Default: what the price table says.
    pub(crate) max_input_tokens: Option<u64>,
    /// `max_output_tokens`, or `max_tokens`: how much the model writes.
    pub(crate) max_output_tokens: Option<u64>,
    /// `health_check_model`: what a health check calls instead of the entry's own model. A wildcard
    /// is checked only where it is set.
    pub(crate) health_check_model: Option<String>,
    /// `health_check_timeout`: how long a check may take. Default one minute.
    pub(crate) health_check_timeout: Option<Duration>,
    /// `health_check_max_tokens`: how much the model may say to it. Default 1.
    pub(crate) health_check_max_tokens: Option<u64>,
    /// `disable_background_health_check`: it is checked only when `/health` is asked.
    pub(crate) disable_background_health_check: bool,
    /// Prices, as in `litellm_params`, which wins.
    pub(crate) prices: Vec<(String, PicoDollars)>,
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
}

/// `litellm_settings.cache_params`
#[derive(Debug, Default)]
pub(crate) struct FileCache {
    /// `type`: `local` (memory) or `redis`. Default: `redis` where a Redis is named here or in
    /// `REDIS_HOST` or `REDIS_URL`, else `local`.
    pub(crate) kind: Option<CacheKind>,
    /// Where the Redis is. What is left out is taken from `REDIS_URL`, or from `REDIS_HOST`,
    /// `REDIS_PORT`, `REDIS_USERNAME` and `REDIS_PASSWORD`.
    pub(crate) redis: FileRedis,
    /// `namespace`: what the keys in Redis begin with.
    pub(crate) namespace: Option<String>,
    /// `ttl`: how long an answer is kept.
    pub(crate) ttl: Option<Duration>,
    /// `mode`: `default_on` caches everything, `default_off` what asks for it by
    /// `"cache": {"use-cache": true}`.
    pub(crate) default_off: Option<bool>,
    /// `supported_call_types`: which operations are cached, by LiteLLM's names: `acompletion`,
    /// `atext_completion`, `aembedding`. Default: all.
    pub(crate) supported_call_types: Option<Vec<String>>,
    /// `max_size_in_memory`: the most memory the cache takes, in bytes. Default 64 MiB.
    pub(crate) memory_bytes_max: Option<u64>,
}

/// Where answers are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CacheKind {
    /// In memory.
    Local,
    /// In a Redis.
    Redis,
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

/// `listen`: an address alone, or a mapping.
#[derive(Debug, Default)]
pub(crate) struct FileListen {
    /// `address`: `127.0.0.1:4000` by default. `0.0.0.0:4000` is every address of the machine.
    pub(crate) address: Option<Address>,
    /// `tls`: `cert` and `key`, the paths of PEM files. Without it, plain HTTP.
    pub(crate) tls: Option<FileTls>,
}

/// `listen.tls`
#[derive(Debug, Default)]
pub(crate) struct FileTls {
    /// `cert`: the certificate and its chain.
    pub(crate) cert: Option<PathBuf>,
    /// `key`: its private key.
    pub(crate) key: Option<PathBuf>,
}

/// `server`: what a request may be, and how long anything may take.
#[derive(Debug, Default)]
pub(crate) struct FileServer {
    /// `request_body_bytes_max`: how large the body of a model call may be. Default 50 MiB.
    pub(crate) request_body_bytes_max: Option<u64>,
    /// `request_header_bytes_max`: how large a request's head may be. Default 64 KiB.
    pub(crate) request_header_bytes_max: Option<u64>,
    /// `body_memory_bytes_max`: how much all bodies that are being served may take together.
    /// Default 1 GiB.
    pub(crate) body_memory_bytes_max: Option<u64>,
    /// `body_timeout`: how long a request's body may take to arrive. Default 30 s.
    pub(crate) body_timeout: Option<Duration>,
    /// `connect_timeout`: how long connecting to a provider may take, TLS included. Default 10 s.
    pub(crate) connect_timeout: Option<Duration>,
    /// `first_byte_timeout`: how long a streamed answer may take to begin, where no
    /// `stream_timeout` says otherwise. Default 5 minutes.
    pub(crate) first_byte_timeout: Option<Duration>,
    /// `idle_timeout`: how long a stream may be silent. Default 2 minutes.
    pub(crate) idle_timeout: Option<Duration>,
    /// `total_timeout`: how long an answer may take as a whole, where no `timeout` says otherwise.
    /// Default 10 minutes.
    pub(crate) total_timeout: Option<Duration>,
    /// `drain_timeout`: how long requests may go on after SIGTERM. Default 30 s.
    pub(crate) drain_timeout: Option<Duration>,
}

/// One entry of `filters`: its name, and whatever stands beside it.
#[derive(Clone)]
pub(crate) struct FilterEntry {
    /// `filter`: which one.
    pub(crate) name: String,
    /// Where it stands: `filters[2]`. Empty where it comes from no file.
    pub(crate) path: String,
    /// The settings, for the filter to read.
    pub(crate) settings: serde_json::Value,
}

impl FilterEntry {
    pub(super) fn new(
        name: impl Into<String>,
        path: &str,
        settings: serde_json::Map<String, serde_json::Value>,
    ) -> FilterEntry {
        FilterEntry { name: name.into(), path: path.to_owned(), settings: settings.into() }
    }
}

/// Settings may hold secrets.
impl fmt::Debug for FilterEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FilterEntry({} at {:?})", self.name, self.path)
    }
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
    file.filters = read_filters(fields);
    file.keys = fields.sections("keys", &[], read_key);
    file.teams = fields.sections("teams", &[], read_team);
    file.users = fields.sections("users", &[], read_user);
    file.compat_litellm =
        fields.choice("compat", &[("litellm", true), ("openai", false)]).unwrap_or_default();
}

fn read_model(fields: &mut Fields<'_>) -> FileModel {
    FileModel {
        model_name: fields.text("model_name"),
        params: fields.section("litellm_params", litellm::PARAMS, read_params).unwrap_or_default(),
        info: match fields.take("model_info") {
            Some(node) => {
                let path = fields.path("model_info");
                fields.reader.fields(node, &path, litellm::INFO, read_info).unwrap_or_default()
            }
            None => FileInfo::default(),
        },
    }
}

fn read_params(fields: &mut Fields<'_>) -> FileParams {
    let api_base = fields.base("api_base");
    let base_url = fields.base("base_url");
    if api_base.is_some() && base_url.is_some() {
        fields.wrong("base_url", "is another name of api_base, which is set as well");
    }
    FileParams {
        model: fields.text("model"),
        provider: fields.text("custom_llm_provider"),
        api_key: fields.secret("api_key"),
        api_base: api_base.or(base_url),
        api_version: fields.text("api_version"),
        organization: fields.text("organization"),
        settings: read_settings(fields),
        extra_headers: fields.headers("extra_headers"),
        drop_params: fields.flag("drop_params"),
        timeout: fields.timeout("timeout"),
        stream_timeout: fields.timeout("stream_timeout"),
        max_retries: fields.either("max_retries", "num_retries", Fields::small_number),
        weight: fields.parsed("weight", "a number that is not negative", weight),
        rpm: fields.count("rpm"),
        tpm: fields.count("tpm"),
        max_parallel_requests: fields.count("max_parallel_requests"),
        budget: fields.budget(Words::USUAL),
        tags: fields.texts("tags"),
        order: fields.small_number("order"),
        prices: fields.prices(),
    }
}

/// The settings of all providers: which of them this entry's provider reads is its own affair.
fn read_settings(fields: &mut Fields<'_>) -> BTreeMap<&'static str, SecretString> {
    let names: BTreeSet<&'static str> = presets::all()
        .flat_map(|provider| provider.settings())
        .map(|setting| setting.name)
        .collect();
    let mut settings = BTreeMap::new();
    for name in names {
        let Some(node) = fields.take(name) else { continue };
        let path = fields.path(name);
        // A service account may stand in the file as it is.
        let value = match node.value {
            Value::Map(_) => Some(fields.reader.json(node, &path, true).to_string()),
            _ => fields.reader.text(node, &path),
        };
        settings.extend(value.map(|value| (name, SecretString::from(value))));
    }
    settings
}

/// Thousandths, so that `0.5` is a weight as well.
fn weight(text: &str) -> Option<u64> {
    let weight: f64 = text.parse().ok()?;
    (0.0..=1e6).contains(&weight).then_some((weight * 1000.0).round() as u64)
}

fn read_info(fields: &mut Fields<'_>) -> FileInfo {
    let max_output_tokens = fields.count("max_output_tokens");
    let max_tokens = fields.count("max_tokens");
    let info = FileInfo {
        id: fields.text("id"),
        mode: fields.text("mode"),
        base_model: fields.text("base_model"),
        access_groups: fields.texts("access_groups"),
        max_input_tokens: fields.count("max_input_tokens"),
        max_output_tokens: max_output_tokens.or(max_tokens),
        health_check_model: fields.text("health_check_model"),
        health_check_timeout: fields.timeout("health_check_timeout"),
        health_check_max_tokens: fields.count("health_check_max_tokens"),
        disable_background_health_check: fields
            .flag("disable_background_health_check")
            .unwrap_or_default(),
        prices: fields.prices(),
    };
    fields.anything_else(litellm::INFO);
    info
}

fn read_litellm(fields: &mut Fields<'_>) -> FileLitellm {
    // These switch off what is never on here: prompts and keys are in no log.
    for always in ["turn_off_message_logging", "redact_messages_in_exceptions"] {
        fields.flag(always);
    }
    for name in ["callbacks", "success_callback", "failure_callback", "service_callback"] {
        for (at, callback) in fields.texts(name).into_iter().enumerate() {
            if callback != "prometheus" {
                let path = format!("{}[{at}]", fields.path(name));
                let message = "only `prometheus` is supported yet, and always on; this callback \
                               is not called";
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
    }
}

fn read_cache(fields: &mut Fields<'_>) -> FileCache {
    let kind = fields.text("type").and_then(|kind| match kind.as_str() {
        "local" => Some(CacheKind::Local),
        "redis" => Some(CacheKind::Redis),
        other if litellm::CACHE_TYPES.contains(&other) => {
            let (instead, name) = match other {
                "redis-semantic" => (CacheKind::Redis, "redis"),
                _ => (CacheKind::Local, "local"),
            };
            let path = fields.path("type");
            let message = format!("`{other}` is not supported yet; `{name}` is used instead");
            fields.reader.report.warning(&path, message);
            Some(instead)
        }
        other => {
            let known = litellm::CACHE_TYPES.iter().copied().chain(["local", "redis"]);
            let hint = hint(other, known);
            fields.wrong("type", format!("must be `local` or `redis`{hint}"));
            None
        }
    });
    let supported_call_types = match fields.take("supported_call_types") {
        None | Some(Node { value: Value::Null, .. }) => None,
        Some(node) => {
            let path = fields.path("supported_call_types");
            Some(fields.reader.texts(node, &path))
        }
    };
    FileCache {
        kind,
        redis: FileRedis::read(fields),
        namespace: fields.text("namespace"),
        ttl: fields.timeout("ttl"),
        default_off: fields.choice("mode", &[("default_on", false), ("default_off", true)]),
        supported_call_types,
        memory_bytes_max: fields.bytes("max_size_in_memory"),
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

fn read_listen(fields: &mut Fields<'_>) -> FileListen {
    let Some(node) = fields.take("listen") else { return FileListen::default() };
    let path = fields.path("listen");
    if let Value::Scalar { .. } = node.value {
        let address = fields.reader.parsed(node, &path, Address::WANTED, |text| text.parse().ok());
        return FileListen { address, tls: None };
    }
    let read = |fields: &mut Fields<'_>| FileListen {
        address: fields.parsed("address", Address::WANTED, |text| text.parse().ok()),
        tls: fields.section("tls", &[], |fields| FileTls {
            cert: fields.text("cert").map(PathBuf::from),
            key: fields.text("key").map(PathBuf::from),
        }),
    };
    fields.reader.fields(node, &path, &[], read).unwrap_or_default()
}

fn read_server(fields: &mut Fields<'_>) -> FileServer {
    FileServer {
        request_body_bytes_max: fields.bytes("request_body_bytes_max"),
        request_header_bytes_max: fields.bytes("request_header_bytes_max"),
        body_memory_bytes_max: fields.bytes("body_memory_bytes_max"),
        body_timeout: fields.timeout("body_timeout"),
        connect_timeout: fields.timeout("connect_timeout"),
        first_byte_timeout: fields.timeout("first_byte_timeout"),
        idle_timeout: fields.timeout("idle_timeout"),
        total_timeout: fields.timeout("total_timeout"),
        drain_timeout: fields.timeout("drain_timeout"),
    }
}

fn read_filters(fields: &mut Fields<'_>) -> Option<Vec<FilterEntry>> {
    if matches!(fields.take("filters")?.value, Value::Null) {
        return None;
    }
    let mut filters = Vec::new();
    for (node, path) in fields.items("filters") {
        filters.extend(read_filter(fields.reader, node, &path));
    }
    Some(filters)
}

/// `- filter: name` with settings beside it; `- name` alone is one without settings.
fn read_filter(reader: &mut Reader, node: &Node, path: &str) -> Option<FilterEntry> {
    if let Value::Scalar { .. } = node.value {
        let name = reader.text(node, path)?;
        return Some(FilterEntry::new(name, path, serde_json::Map::new()));
    }
    let Value::Map(members) = &node.value else {
        reader.report.mistake(path, "must be a mapping that begins with `filter: name`");
        return None;
    };
    let Some(filter) = members.iter().find(|member| member.name == "filter") else {
        reader.report.mistake(path, "needs a `filter`: its name");
        return None;
    };
    let name = reader.text(&filter.node, &format!("{path}.filter"))?;
    let mut settings = serde_json::Map::new();
    for member in members.iter().filter(|member| member.name != "filter") {
        let at = format!("{path}.{}", member.name);
        settings.insert(member.name.clone(), reader.json(&member.node, &at, true));
    }
    Some(FilterEntry::new(name, path, settings))
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
