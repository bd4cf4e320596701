//! Start-up: from arguments to a serving gateway, and the same way again for a reload or a check.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};
use std::time::Duration;

use arc_swap::ArcSwap;
use secrecy::SecretString;
use sha2::{Digest, Sha256};
use tokio::sync::Notify;
use tollway_agent::mcp::Servers;
use tollway_agent::metrics::AgentMetrics;
use tollway_agent::outgoing::Outgoing;
use tollway_agent::service::{Agents, Live, Parts};
use tollway_agent::toolbox::Tools;
use tollway_agent::tools::{self, Services};
use tollway_filter_api::cache::CacheStore;
use tollway_filter_api::deps::Metrics;
use tollway_filter_api::documents::Documents;
use tollway_filter_api::identity::KeyStore;
use tollway_filter_api::limits::LimitStore;
use tollway_filter_api::responses::{Maker, ResponseStore};
use tollway_filter_api::treasury::Treasury;
use tollway_filter_api::{Clock, Deps, KeyHash, LogSink, ModelDirectory, Slot};
use tollway_filters::BUILTIN;
use tollway_sandbox::{self as sandbox, Sandbox};
use tollway_simulator::Simulator;
use tollway_store::cache_memory::MemoryCache;
use tollway_store::cache_redis::RedisCache;
use tollway_store::limits::MemoryLimits;
use tollway_store::limits_redis::{RedisLimits, RedisLimitsSettings};
use tollway_store::redis_link::{RedisLink, RedisServer};
use tollway_store::responses::{Responses, ResponsesConfig};

use crate::admin::Admin;
use crate::agents::calls::ModelCalls;
use crate::alerts;
use crate::background::Background;
use crate::batches::{self, Batches};
use crate::body::BodyMemory;
use crate::cache_secret::{CacheSecret, CacheSecrets};
use crate::chain::Chain;
use crate::cli::{CheckArgs, ServeArgs, say};
use crate::config::{
    CacheStoreSettings, Config, DataFolder, Environment, FileConfig, FileResponses, Keeping,
    Mistake, TraceSettings, Warning,
};
use crate::directory::{Directory, Joined};
use crate::exchange::{Endpoint, Exchange, Pool, Tallies};
use crate::health::{self, Health};
use crate::log::{self, StdoutLog};
use crate::money::{LAST_WORDS, Money, OTHERS_WAIT};
use crate::oidc::Oidc;
use crate::pass_through::PassThrough;
use crate::random;
use crate::responses_upkeep;
use crate::server;
use crate::state::{Gateway, Generation, InFlight};
use crate::traces::{self, Traces};

/// How many connections to upstreams are kept for the next request.
const POOL: usize = 4096;
/// How long a response is kept unless the config says so: as long as OpenAI keeps it
/// (platform.openai.com/docs/guides/conversation-state, 2026-11).
const RETENTION: Duration = Duration::from_secs(30 * 24 * 3600);
/// How large it may be.
const RESPONSE_BYTES_MAX: u64 = 16 << 20;
/// Where `tollway check` supposes the simulated provider; nothing is called there.
const NO_SIMULATOR: &str = "http://127.0.0.1:1";

/// Why the gateway does not start, ready to be printed.
#[derive(Debug)]
pub(crate) struct StartError(String);

impl StartError {
    pub(crate) fn new(message: impl Into<String>) -> StartError {
        StartError(message.into())
    }

    fn of_mistakes(mistakes: &[Mistake]) -> StartError {
        let count = mistakes.len();
        let what = if count == 1 { "mistake" } else { "mistakes" };
        let lines: String = mistakes.iter().map(|mistake| format!("\n  {mistake}")).collect();
        StartError(format!("the config has {count} {what}:{lines}"))
    }
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// `tollway serve`
pub(crate) fn serve(args: &ServeArgs) -> Result<(), StartError> {
    let environment = environment()?;
    log::start_messages(environment.get("TOLLWAY_LOG"));
    let threads = threads(&environment)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads)
        .enable_all()
        .build()
        .map_err(|error| StartError::new(format!("cannot start threads: {error}")))?;
    let result = runtime.block_on(serve_on(args, environment, runtime.handle().clone()));
    // What still runs now was told to stop, twice or too late: it is not waited for.
    runtime.shutdown_background();
    result
}

async fn serve_on(
    args: &ServeArgs,
    environment: Environment,
    runtime: tokio::runtime::Handle,
) -> Result<(), StartError> {
    let simulator = Simulator::start(tollway_simulator::Options::demo())
        .await
        .map_err(|error| StartError::new(format!("the simulated provider: {error}")))?;
    let log = StdoutLog::start()
        .map_err(|error| StartError::new(format!("cannot start the request log: {error}")))?;
    let metrics = Arc::new(Metrics::default());
    let clock = Clock::system();
    let mut loader = Loader {
        file: args.config.clone(),
        data: args.data.clone(),
        environment,
        simulator_base: simulator.base_url(),
        new_master_key: None,
        stores: Stores {
            clock: clock.clone(),
            limits: Arc::new(MemoryLimits::new()),
            metrics: Arc::clone(&metrics),
            log: Arc::clone(&log) as Arc<dyn LogSink>,
            runtime,
            tallies: Tallies::default(),
            cache: None,
            cache_secrets: CacheSecrets::default(),
            directory: None,
            treasury: None,
            oidc: None,
            sandbox: None,
            documents: None,
            pool: None,
            traces: None,
        },
    };
    let shared = loader.shared_limits()?;
    let asked_others = clock.now();
    let limits = Arc::clone(&loader.stores.limits);
    let money = Arc::new(loader.money().await?);
    loader.stores.documents = Some(Arc::new(money.store().clone()));
    let directory = Arc::new(Directory::new(Arc::new(money.store().clone())));
    // Where it is away now, it comes when it is back.
    let _ = directory.refresh().await;
    if let Some(shared) = &shared {
        let waited = clock.now().saturating_duration_since(asked_others);
        if !shared.ready(OTHERS_WAIT.saturating_sub(waited)).await {
            tracing::warn!("Redis is away: limits are shared once it is there");
        }
    }
    loader.stores.directory = Some(Arc::clone(&directory));
    let pool = pool()?;
    loader.stores.pool = Some(Arc::clone(&pool));
    loader.stores.oidc = Some(Oidc::new(
        Arc::clone(&pool),
        clock.clone(),
        loader.stores.runtime.clone(),
        Arc::new(money.store().clone()),
        Arc::clone(&directory),
    ));
    let generation = loader.generation()?;
    let listen = &generation.config.listen;
    let address = args.listen.clone().unwrap_or_else(|| listen.address.0.to_string());
    let bound = server::bind(&address, listen.tls.as_ref())?;
    let announcement = banner(&generation, &loader, bound.address, listen.tls.is_some());

    let drain = generation.config.server.drain_timeout;
    let body_memory = BodyMemory::new(generation.config.server.body_memory_bytes_max);
    let agent_metrics = AgentMetrics::new(&metrics.registry)
        .map_err(|error| StartError::new(format!("the metrics of agents: {error}")))?;
    let live = loader.agents(&generation.config).await?;
    let outgoing = Outgoing::new().map_err(|error| StartError::new(error.to_string()))?;
    let servers = Servers::new(outgoing);
    let responses = responses(&generation.config, &money, clock.clone());
    let gateway = Arc::new_cyclic(|gateway| Gateway {
        agents: Agents::new(
            Parts {
                completions: Arc::new(ModelCalls(Weak::clone(gateway))),
                documents: Arc::new(money.store().clone()),
                metrics: Arc::new(agent_metrics),
                servers,
                clock: clock.clone(),
                node: money.books.status().node,
                running_max: generation.config.agents.running_max,
                waiting_max: generation.config.agents.waiting_max,
            },
            live,
        ),
        live: ArcSwap::from_pointee(generation),
        exchange: Exchange::new(Arc::clone(&pool), limits, clock.clone()),
        pool,
        flights: Arc::default(),
        responses: responses.clone(),
        background: Background::default(),
        batches: Batches::default(),
        admin: Admin::new(
            Arc::new(money.store().clone()),
            Arc::new(money.store().clone()),
            Some(Arc::new(money.books.clone())),
            Arc::clone(&directory),
            clock.clone(),
        ),
        body_memory,
        metrics,
        clock,
        in_flight: InFlight::default(),
        health: Health::default(),
        money: Arc::clone(&money),
        wake_waiting: Notify::new(),
    });
    let watching = tokio::spawn(health::watch(Arc::clone(&gateway)));
    let alerting = tokio::spawn(alerts::watch(Arc::clone(&gateway)));
    let billing = tokio::spawn(batches::watch(Arc::clone(&gateway)));
    let following = tokio::spawn(directory.follow(money.store().changes()));
    let keeping = tokio::spawn(responses_upkeep::watch(Arc::clone(&gateway)));
    let agents = gateway.agents.clone();
    let of_servers = agents.clone();
    let of_servers = tokio::spawn(async move { of_servers.watch_servers().await });
    let runs = agents.clone();
    let runs = tokio::spawn(async move { runs.watch().await });
    let result = server::run(Arc::clone(&gateway), bound, loader, drain, &announcement).await;
    watching.abort();
    alerting.abort();
    billing.abort();
    following.abort();
    runs.abort();
    keeping.abort();
    of_servers.abort();
    agents.close().await;
    let traces = gateway.live.load().traces.clone();
    drop(gateway);
    if let Some(traces) = traces {
        traces.flush().await;
    }
    if let Some(shared) = shared {
        // What is left of its leases is for the others at once.
        shared.leave().await;
    }
    responses.close(LAST_WORDS).await;
    money.close().await;
    log.flush();
    drop(simulator);
    result
}

/// `tollway check`
pub(crate) fn check(args: &CheckArgs) -> Result<(), StartError> {
    let environment = environment()?;
    // Filters may want a runtime for what they connect to; nothing is connected here.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| StartError::new(format!("cannot start threads: {error}")))?;
    let mut loader = Loader {
        file: Some(args.config.clone()),
        data: None,
        environment,
        simulator_base: NO_SIMULATOR.to_owned(),
        new_master_key: None,
        stores: Stores {
            clock: Clock::system(),
            limits: Arc::new(MemoryLimits::new()),
            metrics: Arc::new(Metrics::default()),
            log: Arc::new(Silent),
            runtime: runtime.handle().clone(),
            tallies: Tallies::default(),
            cache: None,
            cache_secrets: CacheSecrets::default(),
            directory: None,
            treasury: None,
            oidc: None,
            sandbox: None,
            documents: None,
            pool: None,
            traces: None,
        },
    };
    let (config, warnings) = loader.config()?;
    for warning in &warnings {
        say(&format!("warning: {warning}"));
    }
    let config = loader.made_ready(config)?.config;
    match &args.model {
        Some(model) => say(&config.explain(model).map_err(StartError::new)?),
        None => say(&config.summary()),
    }
    say(&format!("{}: ok", args.config.display()));
    Ok(())
}

/// Where a command that serves nothing finds keys and spend.
pub(crate) struct Place {
    /// The data folder.
    pub(crate) folder: PathBuf,
    /// The Postgres that is used instead of it.
    pub(crate) database_url: Option<SecretString>,
    /// The Redis that gateways share.
    pub(crate) redis: Option<RedisServer>,
    pub(crate) environment: Environment,
}

impl Place {
    /// As a gateway that is started like this.
    pub(crate) fn find(file: Option<&Path>, data: Option<&Path>) -> Result<Place, StartError> {
        let environment = environment()?;
        log::start_messages(environment.get("TOLLWAY_LOG"));
        let file = match file {
            Some(file) => FileConfig::open(file, environment.clone()),
            None => FileConfig::of_environment(environment.clone()),
        };
        let found = file.place().map_err(|mistakes| StartError::of_mistakes(&mistakes))?;
        let (folder, database_url, redis) = found;
        let folder = data.map_or(folder, Path::to_owned);
        Ok(Place { folder, database_url, redis, environment })
    }
}

struct Silent;

impl LogSink for Silent {
    fn line(&self, _: &[u8]) {}
}

/// What outlives all generations and goes into each.
struct Stores {
    clock: Clock,
    limits: Arc<dyn LimitStore>,
    metrics: Arc<Metrics>,
    log: Arc<dyn LogSink>,
    runtime: tokio::runtime::Handle,
    /// What became of the attempts at deployments.
    tallies: Tallies,
    /// The cache of the last generation, and what it was made from.
    cache: Option<(String, Arc<dyn CacheStore>)>,
    cache_secrets: CacheSecrets,
    /// The stored keys; none where nothing is served.
    directory: Option<Arc<Directory>>,
    /// Who keeps the budgets; nobody where nothing is spent.
    treasury: Option<Arc<dyn Treasury>>,
    /// Who verifies tokens; nobody where nothing is served.
    oidc: Option<Oidc>,
    /// What untrusted code runs in, once it is wanted.
    sandbox: Option<Sandbox>,
    /// What agents keep; nothing where nothing is served.
    documents: Option<Arc<dyn Documents>>,
    /// What carries traces; nothing where nothing is served.
    pool: Option<Arc<Pool>>,
    /// What makes spans, where requests are traced.
    traces: Option<Arc<Traces>>,
}

/// Makes generations of the config: at the start, and at every reload.
pub(crate) struct Loader {
    file: Option<PathBuf>,
    data: Option<PathBuf>,
    environment: Environment,
    simulator_base: String,
    /// Set where the master key was made just now: it is shown once.
    new_master_key: Option<secrecy::SecretString>,
    stores: Stores,
}

impl Loader {
    /// The config file, if there is one.
    pub(crate) fn file(&self) -> Option<&Path> {
        self.file.as_deref()
    }

    /// Reads the config and makes everything that depends on it.
    pub(crate) fn generation(&mut self) -> Result<Generation, StartError> {
        let (mut config, warnings) = self.config()?;
        for warning in &warnings {
            tracing::warn!("{warning}");
        }
        if let Some(data) = &self.data {
            config.data.clone_from(data);
        }
        if !config.has_master_key() {
            let stored = DataFolder::open(&config.data)
                .and_then(|folder| folder.master_key())
                .map_err(|error| StartError::new(error.to_string()))?;
            config.set_master_key(&stored.key);
            if stored.is_new {
                self.new_master_key = Some(stored.key);
            }
        }
        self.made_ready(config)
    }

    /// Opens the books, which all generations share.
    async fn money(&mut self) -> Result<Money, StartError> {
        let (config, _) = self.config()?;
        let data = self.data.as_ref().unwrap_or(&config.data);
        DataFolder::open(data).map_err(|error| StartError::new(error.to_string()))?;
        let clock = self.stores.clock.clone();
        let Config { database_url, redis, journal, ledger, .. } = config;
        let money = Money::open(data, database_url, redis.as_ref(), journal, ledger, clock)
            .await
            .map_err(StartError::new)?;
        self.stores.treasury = Some(Arc::new(money.books.clone()));
        Ok(money)
    }

    /// Counts limits in the Redis that several gateways share, if there is one.
    fn shared_limits(&mut self) -> Result<Option<Arc<RedisLimits>>, StartError> {
        let (config, _) = self.config()?;
        let Some(redis) = &config.redis else { return Ok(None) };
        let Stores { clock, runtime, .. } = &self.stores;
        let link = RedisLink::connect(redis, "limits are shared", runtime)
            .map_err(|error| StartError::new(format!("the Redis for limits: {error}")))?;
        let settings = RedisLimitsSettings::new(clock.clone());
        let limits = Arc::new(RedisLimits::start(link, settings, runtime));
        self.stores.limits = Arc::clone(&limits) as _;
        Ok(Some(limits))
    }

    /// The agents and tools of a config.
    pub(crate) async fn agents(&mut self, config: &Config) -> Result<Live, StartError> {
        let settings = config.agents.service.clone();
        let wrong = |error: &dyn fmt::Display| StartError::new(format!("tools: {error}"));
        let outgoing = Outgoing::new().map_err(|error| wrong(&error))?;
        let clock = self.stores.clock.clone();
        let services = Services::new(&config.agents.tools, outgoing, clock);
        let mut services = services.map_err(|error| wrong(&error))?;
        if config.agents.tools.needs_sandbox() {
            services.sandbox = Some(self.sandbox(&config.data).await);
        }
        if let Some(documents) = &self.stores.documents {
            let folder = config.data.join("files");
            services = services
                .with_files(&config.agents.tools, Arc::clone(documents), &folder)
                .map_err(|error| wrong(&error))?;
        }
        let mut tools = Tools::default();
        let built_in = tools::built_in(&config.agents.tools, &services);
        for tool in built_in.map_err(|error| wrong(&error))? {
            tools.add(tool);
        }
        for (name, why) in tools::missing(&config.agents.tools, &services) {
            tracing::warn!(tool = name, code = why.code, "{}", why.message);
            tools.add_missing(name, why);
        }
        let Services { sandbox, files, .. } = services;
        Ok(Live { settings, tools, sandbox, files })
    }

    /// What untrusted code runs in: tried once, when it is wanted first.
    async fn sandbox(&mut self, data: &Path) -> Sandbox {
        if let Some(sandbox) = &self.stores.sandbox {
            return sandbox.clone();
        }
        let data = self.data.as_deref().unwrap_or(data);
        let sandbox = Sandbox::probe(sandbox::Settings::new(sandbox_folder(data))).await;
        let status = sandbox.status();
        tracing::info!(
            python = ?status.python,
            javascript = ?status.javascript,
            shell = ?status.shell,
            "the sandbox has been tried"
        );
        self.stores.sandbox.insert(sandbox).clone()
    }

    fn config(&self) -> Result<(Config, Vec<Warning>), StartError> {
        let names: Vec<&str> = BUILTIN.iter().map(|filter| filter.name).collect();
        let file = match &self.file {
            Some(file) => FileConfig::open(file, self.environment.clone()),
            None => FileConfig::of_environment(self.environment.clone()),
        };
        Config::resolve(file, &names, &self.simulator_base)
            .map_err(|mistakes| StartError::of_mistakes(&mistakes))
    }

    fn made_ready(&mut self, config: Config) -> Result<Generation, StartError> {
        let keys = self.keys(&config);
        let tokens = match (&config.jwt, &mut self.stores.oidc) {
            (Some(settings), Some(oidc)) => {
                Some(oidc.verifier(settings.clone(), Arc::clone(&keys)) as _)
            }
            _ => None,
        };
        let deps = Deps {
            clock: self.stores.clock.clone(),
            keys,
            tokens,
            models: Arc::clone(&config.directory) as _,
            limits: Arc::clone(&self.stores.limits),
            cache: self.cache(&config)?,
            treasury: self.stores.treasury.clone(),
            metrics: Arc::clone(&self.stores.metrics),
            log: Arc::clone(&self.stores.log),
            secret: self.cache_secret(&config)?,
        };
        let mut filters = Vec::with_capacity(config.filters.len());
        let mut mistakes = Vec::new();
        for (at, entry) in config.filters.iter().enumerate() {
            let builtin = BUILTIN.iter().find(|builtin| builtin.name == entry.name);
            let Some(builtin) = builtin else { continue };
            let slot = Slot(u8::try_from(at).unwrap_or(u8::MAX));
            let mut settings = entry.settings.clone();
            if entry.name == "auth" {
                open_routes(&mut settings, &config);
            }
            match (builtin.build)(settings, &deps, slot) {
                Ok(filter) => filters.push(filter),
                Err(error) => mistakes.push(config.filter_mistake(at, &error)),
            }
        }
        if !mistakes.is_empty() {
            return Err(StartError::of_mistakes(&mistakes));
        }
        let now = self.stores.clock.now();
        let not_ready = |error: Box<pingora_error::Error>| StartError::new(error.to_string());
        let endpoints = config
            .entries
            .iter()
            .map(|entry| {
                Endpoint::new(entry, &config.router, &self.stores.tallies, now).map(Arc::new)
            })
            .collect::<Result<_, _>>()
            .map_err(not_ready)?;
        let pass_through = config
            .pass_through
            .iter()
            .map(PassThrough::new)
            .collect::<Result<_, _>>()
            .map_err(not_ready)?;
        let chain = Chain::new(&filters);
        let traces = self.traces(config.traces.as_ref())?;
        Ok(Generation { chain, endpoints, pass_through, cache: deps.cache, traces, config })
    }

    /// What makes spans; the one there is where its settings have not changed.
    fn traces(
        &mut self,
        settings: Option<&TraceSettings>,
    ) -> Result<Option<Arc<Traces>>, StartError> {
        let stores = &mut self.stores;
        let (Some(settings), Some(pool)) = (settings, &stores.pool) else {
            stores.traces = None;
            return Ok(None);
        };
        if stores.traces.as_ref().is_none_or(|traces| traces.settings() != settings) {
            let counts = stores.metrics.get_or_make(traces::Counts::register);
            let counts = counts
                .map_err(|error| StartError::new(format!("the metrics of traces: {error}")))?;
            let (clock, pool) = (stores.clock.clone(), Arc::clone(pool));
            let traces = Traces::start(settings.clone(), pool, clock, counts, &stores.runtime);
            stores.traces = Some(traces);
        }
        Ok(stores.traces.clone())
    }

    /// The keys of the config, and those that are stored where there is a store.
    fn keys(&self, config: &Config) -> Arc<dyn KeyStore> {
        let config = Arc::clone(&config.keys);
        match &self.stores.directory {
            Some(stored) => Arc::new(Joined { config, stored: Arc::clone(stored) }),
            None => config,
        }
    }

    /// The cache's store; the one there is where its settings have not changed.
    fn cache(&mut self, config: &Config) -> Result<Option<Arc<dyn CacheStore>>, StartError> {
        let Some(settings) = &config.cache else { return Ok(None) };
        let made_from = format!("{:?}", settings.store);
        if let Some((have, store)) = &self.stores.cache
            && *have == made_from
        {
            return Ok(Some(Arc::clone(store)));
        }
        let store: Arc<dyn CacheStore> = match &settings.store {
            CacheStoreSettings::Memory { bytes_max } => {
                Arc::new(MemoryCache::new(*bytes_max, self.stores.clock.clone()))
            }
            CacheStoreSettings::Redis(redis) => Arc::new(
                RedisCache::connect(redis.clone(), &self.stores.runtime)
                    .map_err(|error| StartError::new(format!("the cache's Redis: {error}")))?,
            ),
        };
        self.stores.cache = Some((made_from, Arc::clone(&store)));
        Ok(Some(store))
    }

    /// What the names of its answers are hashed with.
    fn cache_secret(&mut self, config: &Config) -> Result<CacheSecret, StartError> {
        let secrets = &mut self.stores.cache_secrets;
        match config.cache.as_ref().map(|settings| &settings.store) {
            Some(CacheStoreSettings::Redis(_)) => Ok(secrets.shared(config.keys.master())),
            Some(CacheStoreSettings::Memory { .. }) | None => secrets
                .own()
                .map_err(|error| StartError::new(format!("the machine's random numbers: {error}"))),
        }
    }
}

/// Where the sandbox's runs have their folders: not in the data folder, which lets nobody through.
/// The same after each start, so that what a killed gateway leaves is not left for ever; unless there
/// is something of that name which somebody else has made.
fn sandbox_folder(data: &Path) -> PathBuf {
    use std::os::unix::fs::MetadataExt;
    let data = data.canonicalize().unwrap_or_else(|_| data.to_owned());
    let hash = KeyHash(Sha256::digest(data.as_os_str().as_encoded_bytes()).into()).hex();
    let folder = std::env::temp_dir().join(format!("tollway-sandbox-{}", &hash[..16]));
    let owner = std::fs::metadata(&data).map(|data| data.uid()).ok();
    match std::fs::symlink_metadata(&folder) {
        Ok(there) if !there.is_dir() || Some(there.uid()) != owner => {
            folder.with_file_name(format!("tollway-sandbox-{}", random::unguessable()))
        }
        _ => folder,
    }
}

/// Tells `auth` which pass-through routes need no key.
fn open_routes(settings: &mut serde_json::Value, config: &Config) {
    let open = config.pass_through.iter().filter(|route| !route.auth);
    let open: Vec<serde_json::Value> = open.map(|route| route.path.clone().into()).collect();
    if open.is_empty() {
        return;
    }
    let usual = || tollway_filters::auth::AuthConfig::default().public_routes.into();
    let mut routes = settings.get("public_routes").cloned().unwrap_or_else(usual);
    if let Some(routes) = routes.as_array_mut() {
        routes.extend(open);
    }
    settings["public_routes"] = routes;
}

fn environment() -> Result<Environment, StartError> {
    let mut environment = Environment::of_process();
    environment.add_dotenv(Path::new(".")).map_err(|error| StartError::new(error.to_string()))?;
    Ok(environment)
}

/// One thread a core, or `TOLLWAY_THREADS`.
fn threads(environment: &Environment) -> Result<usize, StartError> {
    match environment.get("TOLLWAY_THREADS") {
        Some(given) => match given.parse() {
            Ok(threads) if (1..=1024).contains(&threads) => Ok(threads),
            _ => Err(StartError::new("TOLLWAY_THREADS must be a number from 1 to 1024")),
        },
        None => Ok(std::thread::available_parallelism().map_or(1, usize::from)),
    }
}

/// What keeps responses.
fn responses(config: &Config, money: &Money, clock: Clock) -> Responses {
    let FileResponses { store, retention, response_bytes_max } = config.responses;
    let store = store.unwrap_or(Keeping::Database);
    let database = || Arc::new(money.store().clone()) as Arc<dyn ResponseStore>;
    let bytes_max = response_bytes_max.unwrap_or(RESPONSE_BYTES_MAX);
    let config = ResponsesConfig {
        is_on: store != Keeping::Nowhere,
        database: (store == Keeping::Database).then(database),
        is_shared: config.database_url.is_some(),
        maker: Maker { node: money.books.status().node, process: random::unguessable().into() },
        retention: retention.unwrap_or(RETENTION),
        bytes_max: usize::try_from(bytes_max).unwrap_or(usize::MAX),
    };
    Responses::new(config, clock)
}

/// What carries calls to providers.
fn pool() -> Result<Arc<Pool>, StartError> {
    // Pingora panics where it finds no certificates to trust.
    let made = std::panic::catch_unwind(|| Pool::new(POOL));
    made.map(Arc::new).map_err(|_| {
        StartError::new(
            "no trusted certificates were found: install the Debian package ca-certificates, or \
             name a file in SSL_CERT_FILE",
        )
    })
}

/// A model to show in the line to try: one that needs no provider's key, if there is one.
fn example_model(config: &Config) -> Option<String> {
    let groups = config.directory.groups();
    let chats = || groups.iter().filter(|group| !group.name.contains('*'));
    let demo = chats().find(|group| group.deployments.iter().any(|d| d.provider == "demo"));
    let chat = || chats().find(|group| group.mode.as_deref() != Some("embedding"));
    Some(demo.or_else(chat)?.name.to_string())
}

/// What is printed when it serves: what there is, and a line to try it with.
fn banner(
    generation: &Generation,
    loader: &Loader,
    address: std::net::SocketAddr,
    tls: bool,
) -> String {
    use secrecy::ExposeSecret;
    let config = &generation.config;
    let scheme = if tls { "https" } else { "http" };
    let mut text =
        format!("tollway {} listening on {scheme}://{address}\n", env!("CARGO_PKG_VERSION"));
    text.push_str(&config.summary());
    let data = config.data.join("master_key");
    match &loader.new_master_key {
        Some(key) => text.push_str(&format!(
            "\n\nmaster key (shown once, kept in {}): {}",
            data.display(),
            key.expose_secret()
        )),
        None if loader.environment.get("TOLLWAY_MASTER_KEY").is_none() && data.exists() => {
            text.push_str(&format!("\n\nmaster key: in {}", data.display()));
        }
        None => {}
    }
    let key = match &loader.new_master_key {
        Some(key) => key.expose_secret().to_owned(),
        None if data.exists() => format!("$(cat {})", data.display()),
        None => "$TOLLWAY_MASTER_KEY".to_owned(),
    };
    let insecure = if tls { " -k" } else { "" };
    if let Some(model) = example_model(config) {
        text.push_str(&format!(
            "\n\ntry it:\n  curl{insecure} {scheme}://{address}/v1/chat/completions \
             -H \"Authorization: Bearer {key}\" -H \"Content-Type: application/json\" \
             -d '{{\"model\": \"{model}\", \"messages\": [{{\"role\": \"user\", \"content\": \"Hello!\"}}]}}'\n"
        ));
    }
    text
}
