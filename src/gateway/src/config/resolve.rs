//! From what was written to what is true. Finds every mistake before it gives up.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::Method;
use secrecy::SecretString;
use tollway_filter_api::limits::RateLimits;
use tollway_filter_api::{Deployment, ModelDirectory, ModelGroup};
use tollway_providers::prices;
use tollway_providers::{Provider, presets};
use tollway_store::redis_link::RedisServer;
use tollway_wire::price::Price;

use super::directory::{Directory, Template, TemplateModel, Wildcard};
use super::entry::{self, Context, Defaults, Entry, Route};
use super::file::{FileConfig, FileModel, FileServer};
use super::listen::{Listen, TlsFiles};
use super::mistake::{Mistake, Report, Warning, hint};
use super::pattern::Pattern;
use super::{
    Config, PassThroughSettings, RetryBudget, RouterSettings, ServerSettings, agents, alerts,
    budgets, cache, data, fallbacks, filters, jwt, people, price, redis, traces,
};
use crate::respond::ErrorCodes;

impl FileConfig {
    /// Where data is, and the Postgres that keeps it instead.
    ///
    /// # Errors
    /// All that is wrong with the file, as far as it shows without looking at what it means.
    pub(crate) fn place(mut self) -> Result<Kept, Vec<Mistake>> {
        self.report.finish()?;
        // What it means is a matter of `resolve`.
        let redis = redis::shared(&mut self, &mut Report::default());
        let folder = self.data.unwrap_or_else(|| PathBuf::from(data::DEFAULT));
        Ok((folder, self.general.database_url, redis))
    }
}

/// The data folder, a Postgres instead of its database, and the Redis that gateways share.
type Kept = (PathBuf, Option<SecretString>, Option<RedisServer>);

/// How often deployments are checked in the background: LiteLLM's default.
const HEALTH_CHECK_INTERVAL: Duration = Duration::from_secs(300);
/// How often providers are asked for batches that have not ended: LiteLLM's default.
const BATCH_POLLING_INTERVAL: Duration = Duration::from_secs(3600);

impl Config {
    /// Checks a file and makes of it what the gateway runs on. `known_filters` are the names of the
    /// filters there are; `simulator_base` is the URL of the simulated provider.
    ///
    /// # Errors
    /// Every mistake there is, in the order of the file.
    pub(crate) fn resolve(
        mut file: FileConfig,
        known_filters: &[&str],
        simulator_base: &str,
    ) -> Result<(Config, Vec<Warning>), Vec<Mistake>> {
        let mut report = std::mem::take(&mut file.report);
        if file.is_unreadable {
            return Err(report.finish().err().unwrap_or_default());
        }
        let server = server_settings(&file);
        let router = router_settings(&file);
        let (entries, mut directory) = models(&file, simulator_base, &mut report);
        add_aliases(&file, &mut directory, &mut report);
        let fallbacks = fallbacks::resolve(&file, &directory, &mut report);
        directory.set_fallbacks(fallbacks);
        let mut places = budgets::Places::default();
        let keys = people::resolve(&mut file, &directory, &mut places, &mut report);
        let jwt = jwt::resolve(&mut file.general, &file.environment, &mut report);
        let listen = listen(&mut file, &mut report);
        let pass_through = pass_through(&mut file, &mut report);
        let mut filters = filters::resolve(&mut file, known_filters, &mut report);
        budgets::resolve(&mut file, (&entries, &directory), &mut filters, places, &mut report);
        let is_cached = filters.iter().any(|filter| filter.name == "response_cache");
        let params = std::mem::take(&mut file.litellm.cache_params);
        let cache = match is_cached {
            true => cache::resolve(params, &file.environment, &mut report),
            false => None,
        };
        let alerting = std::mem::take(&mut file.general.alerting);
        let alerts = std::mem::take(&mut file.alerts);
        let alerts = alerts::resolve(alerting, alerts, &file.environment, &mut report);
        let litellm = &file.litellm;
        let (is_traced, tells_providers) = (litellm.is_traced, litellm.tells_providers);
        let traces = traces::resolve(is_traced, tells_providers, &file.environment, &mut report);
        let redis = redis::shared(&mut file, &mut report);
        let agents = agents::resolve(&mut file, &directory, &mut report);
        let warnings = report.finish()?;
        let config = Config {
            listen,
            data: file.data.unwrap_or_else(|| PathBuf::from(data::DEFAULT)),
            server,
            router,
            error_codes: match file.compat_litellm {
                true => ErrorCodes::LiteLlm,
                false => ErrorCodes::OpenAi,
            },
            entries,
            directory: Arc::new(directory),
            keys: Arc::new(keys),
            cache,
            filters,
            health_check_interval: file
                .general
                .background_health_checks
                .then(|| file.general.health_check_interval.unwrap_or(HEALTH_CHECK_INTERVAL)),
            batch_polling_interval: file
                .general
                .batch_polling_interval
                .unwrap_or(BATCH_POLLING_INTERVAL),
            alerts,
            traces,
            pass_through,
            database_url: file.general.database_url,
            journal: file.journal,
            responses: file.responses,
            ledger: file.general.ledger,
            jwt,
            redis,
            agents,
            report,
        };
        Ok((config, warnings))
    }
}

fn server_settings(file: &FileConfig) -> ServerSettings {
    let FileServer {
        request_body_bytes_max,
        request_header_bytes_max,
        body_memory_bytes_max,
        body_timeout,
        drain_timeout,
        ..
    } = file.server;
    let megabytes = file.general.max_request_size_mb.map(|mb| mb.saturating_mul(1 << 20));
    let bytes = |bytes: Option<u64>, default: u64| {
        usize::try_from(bytes.unwrap_or(default)).unwrap_or(usize::MAX)
    };
    ServerSettings {
        request_body_bytes_max: bytes(request_body_bytes_max.or(megabytes), 50 << 20),
        request_header_bytes_max: bytes(request_header_bytes_max, 64 << 10),
        body_memory_bytes_max: bytes(body_memory_bytes_max, 1 << 30),
        body_timeout: body_timeout.unwrap_or(Duration::from_secs(30)),
        drain_timeout: drain_timeout.unwrap_or(Duration::from_secs(30)),
    }
}

fn router_settings(file: &FileConfig) -> RouterSettings {
    let router = &file.router;
    let rest = router.cooldown_time.unwrap_or(Duration::from_secs(5));
    RouterSettings {
        num_retries: router.num_retries.or(file.litellm.num_retries).unwrap_or(2),
        retry_policy: router.retry_policy,
        retry_after: router.retry_after.unwrap_or_default(),
        allowed_fails: router.allowed_fails.unwrap_or(3),
        cooldown_time: if router.disable_cooldowns { Duration::ZERO } else { rest },
        max_fallbacks: router.max_fallbacks.unwrap_or(5) as usize,
        strategy: router.strategy.unwrap_or_default(),
        // Whoever names groups for large requests wants them to be used.
        pre_call_checks: router.pre_call_checks
            || !router.context_window_fallbacks.is_empty()
            || !file.litellm.context_window_fallbacks.is_empty(),
        tag_filtering: router.tag_filtering,
        tag_match_any: router.tag_match_any.unwrap_or(true),
        retry_budget: RetryBudget {
            percent: router.retry_budget.and_then(|(percent, _)| percent).unwrap_or(20),
            min_per_second: router.retry_budget.and_then(|(_, least)| least).unwrap_or(10),
        },
    }
}

fn defaults(file: &FileConfig) -> Defaults {
    let (router, server) = (&file.router, &file.server);
    let seconds = Duration::from_secs;
    let timeout = router.timeout.or(file.litellm.request_timeout).or(server.total_timeout);
    let first_byte = router.stream_timeout.or(server.first_byte_timeout);
    Defaults {
        drop_params: file.litellm.drop_params.unwrap_or_default(),
        connect_timeout: server.connect_timeout.unwrap_or(seconds(10)),
        first_byte_timeout: first_byte.unwrap_or(seconds(300)),
        idle_timeout: server.idle_timeout.unwrap_or(seconds(120)),
        timeout: timeout.unwrap_or(seconds(600)),
    }
}

/// Deployments of one name, while they are being collected.
#[derive(Default)]
struct Gathered {
    deployments: Vec<Deployment>,
    templates: Vec<Template>,
    /// In thousandths, where the config says.
    weights: Vec<Option<u64>>,
    access_groups: Vec<String>,
    mode: Option<Arc<str>>,
}

/// Collects the deployments of all names.
struct Models<'a> {
    file: &'a FileConfig,
    context: Context<'a>,
    entries: Vec<Entry>,
    groups: HashMap<String, Gathered>,
    /// Names in the order in which they first come.
    order: Vec<String>,
    ids: HashSet<Arc<str>>,
}

fn models(file: &FileConfig, simulator_base: &str, report: &mut Report) -> (Vec<Entry>, Directory) {
    let defaults = defaults(file);
    let context = Context { environment: &file.environment, defaults: &defaults, simulator_base };
    let mut models = Models {
        file,
        context,
        entries: Vec::new(),
        groups: HashMap::new(),
        order: Vec::new(),
        ids: HashSet::new(),
    };
    if file.model_list.is_empty() && file.general.pass_through.is_empty() {
        report.mistake("model_list", "is missing or empty: there is nothing to serve");
    }
    for (at, model) in file.model_list.iter().enumerate() {
        models.add(model, &format!("model_list[{at}]"), report);
    }
    let Models { entries, mut groups, order, .. } = models;
    let (mut exact, mut wildcards) = (Vec::new(), Vec::new());
    for name in &order {
        let Some(mut gathered) = groups.remove(name) else { continue };
        gathered.set_weights();
        let Gathered { deployments, templates, access_groups, mode, .. } = gathered;
        let group = ModelGroup {
            name: name.as_str().into(),
            deployments: deployments.into_iter().map(Arc::new).collect(),
            fallbacks: Vec::new(),
            context_window_fallbacks: Vec::new(),
            content_policy_fallbacks: Vec::new(),
            limits: RateLimits::default(),
            access_groups,
            hidden: false,
            mode,
        };
        match Pattern::parse(name) {
            Some(pattern) => {
                wildcards.push(Wildcard { pattern, group: Arc::new(group), templates });
            }
            None => exact.push(group),
        }
    }
    let directory = Directory::new(exact, wildcards, &order);
    (entries, directory)
}

impl Models<'_> {
    fn add(&mut self, model: &FileModel, path: &str, report: &mut Report) {
        let name = model.model_name.clone();
        if name.is_none() {
            let message = "is missing: what do clients call it?";
            report.mistake(&format!("{path}.model_name"), message);
        }
        let params = format!("{path}.litellm_params");
        let Some(route) = entry::route(&model.params, &params, report) else { return };
        // Also without a name, so that all that is wrong with the entry is told at once.
        let name = name.unwrap_or_default();
        if !self.order.contains(&name) {
            self.order.push(name.clone());
        }
        match route {
            Route::Model(provider, target) => {
                self.deploy(model, path, &name, provider, &target, report)
            }
            Route::AnyProvider => self.deploy_everywhere(model, path, &name, report),
        }
    }

    /// A model at a provider; or, with a `*` in it, many.
    fn deploy(
        &mut self,
        model: &FileModel,
        path: &str,
        name: &str,
        provider: &'static dyn Provider,
        target: &str,
        report: &mut Report,
    ) {
        let stars = Pattern::parse(name).map_or(0, |pattern| pattern.stars());
        let target_pattern = Pattern::parse(target);
        if target_pattern.as_ref().is_some_and(|pattern| pattern.stars() > stars) {
            let message = "has more `*` than model_name, so that nothing can take their place";
            report.mistake(&format!("{path}.litellm_params.model"), message);
            return;
        }
        let stated = stated_prices(model);
        // What a wildcard leads to is priced when it is called.
        let known = if target_pattern.is_some() {
            let price = (!stated.is_empty()).then(|| price_of(&stated));
            price.map(|price| price::Known { price, info: None })
        } else {
            let base_model = model.info.base_model.as_deref();
            let mode = model.info.mode.as_deref();
            match price::find(provider, target, base_model, mode, &stated) {
                Ok(known) => Some(known),
                Err(error) => {
                    report.mistake(&format!("{path}.litellm_params.model"), error.to_string());
                    None
                }
            }
        };
        let Some(entry) = self.context.entry(model, path, provider, target, report) else { return };
        let Some(entry) = self.enter(entry, model, report) else { return };
        let deployment = self.deployment(model, entry, target, known);
        let template = (stars > 0).then(|| Template {
            model: match target_pattern {
                Some(pattern) => TemplateModel::Filled(pattern),
                None => TemplateModel::Fixed(target.to_owned()),
            },
            price: deployment.price.clone(),
            deployment: deployment.clone(),
            provider,
        });
        let mode = model.info.mode.as_deref().or_else(|| {
            let info = prices::find(provider.name(), target)?;
            Some(info.mode).filter(|mode| !mode.is_empty())
        });
        self.gather(model, name, deployment, template, mode);
    }

    /// `model: "*"`: one entry for every provider there is a key for.
    fn deploy_everywhere(
        &mut self,
        model: &FileModel,
        path: &str,
        name: &str,
        report: &mut Report,
    ) {
        let at = format!("{path}.litellm_params.model");
        if Pattern::parse(name).is_none() {
            report.mistake(
                &at,
                "`*` takes its provider from the client's model name, so that model_name \
                 must have a `*` as well",
            );
            return;
        }
        if model.params.api_key.is_some() || model.params.api_base.is_some() {
            report.mistake(
                &at,
                "`*` leads to several providers, which cannot share an api_key or api_base: write \
                 `provider/*`",
            );
            return;
        }
        let usable = |provider: &&'static dyn Provider| {
            let key = self.context.api_key(&model.params, *provider);
            provider.default_base(&Default::default()).is_some() && key.is_some()
        };
        let providers: Vec<_> = presets::all().filter(usable).collect();
        if providers.is_empty() {
            report.mistake(
                &at,
                "`*` leads to the providers whose keys are in the environment, and there is none",
            );
        }
        let stated = stated_prices(model);
        for provider in providers {
            let Some(entry) = self.context.entry(model, path, provider, "*", report) else {
                continue;
            };
            let Some(entry) = self.enter(entry, model, report) else { continue };
            let known =
                (!stated.is_empty()).then(|| price::Known { price: price_of(&stated), info: None });
            let deployment = self.deployment(model, entry, "*", known);
            let template = Template {
                model: TemplateModel::OfProvider,
                price: deployment.price.clone(),
                deployment: deployment.clone(),
                provider,
            };
            self.gather(model, name, deployment, Some(template), model.info.mode.as_deref());
        }
    }

    /// Keeps an entry, under an id of its own. Its place in the list.
    fn enter(&mut self, mut entry: Entry, model: &FileModel, report: &mut Report) -> Option<usize> {
        if self.ids.contains(&entry.id) {
            let same_entry = self.entries.last().is_some_and(|last| last.path == entry.path);
            if model.info.id.is_some() && !same_entry {
                let path = format!("{}.model_info.id", entry.path);
                report.mistake(&path, "belongs to another entry as well");
                return None;
            }
            // The same thing twice is a way to give it more weight.
            let id = Arc::clone(&entry.id);
            let mut free = (2..).map(|n: usize| Arc::from(format!("{id}-{n}")));
            entry.id = free.find(|id| !self.ids.contains(id))?;
        }
        self.ids.insert(Arc::clone(&entry.id));
        self.entries.push(entry);
        Some(self.entries.len() - 1)
    }

    fn deployment(
        &self,
        model: &FileModel,
        at: usize,
        target: &str,
        known: Option<price::Known>,
    ) -> Deployment {
        let (params, entry) = (&model.params, &self.entries[at]);
        let (price, info) = match known {
            Some(known) => (Some(Arc::new(known.price)), known.info),
            None => (None, None),
        };
        let provider = entry.provider.name();
        let general = &self.file.general;
        let parallel = params.max_parallel_requests.or(general.max_parallel_requests);
        let info = info.as_ref();
        Deployment {
            id: Arc::clone(&entry.id),
            entry: at,
            provider,
            model: target.into(),
            litellm_model: format!("{provider}/{target}").into(),
            api_base: entry.base.to_string().into(),
            price,
            max_input_tokens: model
                .info
                .max_input_tokens
                .or(info.and_then(|info| info.max_input_tokens)),
            max_output_tokens: model
                .info
                .max_output_tokens
                .or(info.and_then(|info| info.max_output_tokens)),
            limits: RateLimits {
                rpm: params.rpm,
                tpm: params.tpm,
                max_parallel_requests: parallel.or(self.file.router.default_max_parallel_requests),
            },
            weight: 1,
        }
    }

    fn gather(
        &mut self,
        model: &FileModel,
        name: &str,
        deployment: Deployment,
        template: Option<Template>,
        mode: Option<&str>,
    ) {
        let gathered = self.groups.entry(name.to_owned()).or_default();
        gathered.deployments.push(deployment);
        gathered.templates.extend(template);
        gathered.weights.push(model.params.weight);
        for access in &model.info.access_groups {
            if !gathered.access_groups.contains(access) {
                gathered.access_groups.push(access.clone());
            }
        }
        if gathered.mode.is_none() {
            gathered.mode = mode.map(Arc::from);
        }
    }
}

impl Gathered {
    /// Weights as LiteLLM takes them: `weight`, else `rpm`, else `tpm`, else all alike.
    fn set_weights(&mut self) {
        let all = |of: fn(&RateLimits) -> Option<u64>| {
            self.deployments.iter().map(|d| of(&d.limits)).collect::<Option<Vec<_>>>()
        };
        let weights = if self.weights.iter().any(Option::is_some) {
            self.weights.iter().map(|weight| weight.unwrap_or(1000)).collect()
        } else {
            match all(|limits| limits.rpm).or(all(|limits| limits.tpm)) {
                Some(weights) => weights,
                None => vec![1; self.deployments.len()],
            }
        };
        // The smallest whole numbers of the same proportions.
        let common = weights.iter().copied().fold(0, greatest_common_divisor).max(1);
        let set = |(deployment, weight): (&mut Deployment, &u64)| {
            deployment.weight = u32::try_from(weight / common).unwrap_or(u32::MAX);
        };
        self.deployments.iter_mut().zip(&weights).for_each(set);
        let templates = self.templates.iter_mut().map(|template| &mut template.deployment);
        templates.zip(&weights).for_each(set);
    }
}

fn greatest_common_divisor(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { greatest_common_divisor(b, a % b) }
}

/// The config's own prices. What stands in `litellm_params` wins over `model_info`.
fn stated_prices(model: &FileModel) -> Vec<(String, tollway_wire::price::PicoDollars)> {
    model.info.prices.iter().chain(&model.params.prices).cloned().collect()
}

fn price_of(stated: &[(String, tollway_wire::price::PicoDollars)]) -> Price {
    let mut price = Price::default();
    for (key, amount) in stated {
        let _ = price.set(key, *amount);
    }
    price
}

fn add_aliases(file: &FileConfig, directory: &mut Directory, report: &mut Report) {
    for alias in &file.router.model_group_alias {
        let path = format!("router_settings.model_group_alias.{}", alias.name);
        if directory.groups().iter().any(|group| *group.name == *alias.name) {
            report.warning(&path, format!("hides the model of the same name, `{}`", alias.name));
        }
        if !directory.add_alias(&alias.name, &alias.model, alias.hidden) {
            report.mistake(&path, no_model(&alias.model, directory));
        }
    }
}

pub(super) fn no_model(name: &str, directory: &Directory) -> String {
    format!("there is no model `{name}`{}", hint(name, directory.names()))
}

fn listen(file: &mut FileConfig, report: &mut Report) -> Listen {
    let tls = file.listen.tls.take().and_then(|tls| match (tls.cert, tls.key) {
        (Some(cert), Some(key)) => {
            for (name, path) in [("cert", &cert), ("key", &key)] {
                if !path.is_file() {
                    let message = format!("there is no file {}", path.display());
                    report.mistake(&format!("listen.tls.{name}"), message);
                }
            }
            Some(TlsFiles { cert, key })
        }
        (cert, _) => {
            let missing = if cert.is_some() { "key" } else { "cert" };
            let message = "is missing: TLS needs a `cert` and a `key`, the paths of PEM files";
            report.mistake(&format!("listen.tls.{missing}"), message);
            None
        }
    });
    Listen { address: file.listen.address.unwrap_or_default(), tls }
}

fn pass_through(file: &mut FileConfig, report: &mut Report) -> Vec<PassThroughSettings> {
    let mut settings: Vec<PassThroughSettings> = Vec::new();
    for (at, endpoint) in std::mem::take(&mut file.general.pass_through).into_iter().enumerate() {
        let at = format!("general_settings.pass_through_endpoints[{at}]");
        let mut methods = Vec::new();
        for method in &endpoint.methods {
            match Method::from_bytes(method.to_ascii_uppercase().as_bytes()) {
                Ok(method) => methods.push(method),
                Err(_) => {
                    report.mistake(&format!("{at}.methods"), format!("`{method}` is no method"))
                }
            }
        }
        let path = endpoint.path.unwrap_or_default();
        let path = path.trim_end_matches('/');
        let is_path = path.starts_with('/') && !path.contains(['?', '#', '*', ' ']);
        if !is_path {
            let message = "must be a path with a slash in front, such as /rerank; it stands for \
                           all paths below it";
            report.mistake(&format!("{at}.path"), message);
        }
        if settings.iter().any(|other| other.path == path) {
            report.mistake(&format!("{at}.path"), "another endpoint has this path as well");
        }
        let Some(target) = endpoint.target else {
            report.mistake(&format!("{at}.target"), "is missing: the URL it leads to");
            continue;
        };
        settings.push(PassThroughSettings {
            path: path.to_owned(),
            target,
            headers: endpoint.headers,
            methods,
            auth: endpoint.auth.unwrap_or(true),
            cost: endpoint.cost.unwrap_or_default(),
        });
    }
    settings
}
