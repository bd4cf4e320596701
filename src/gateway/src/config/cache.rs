//! Where answers are kept.

use secrecy::SecretString;
use tollway_store::cache_redis::RedisSettings;
use tollway_store::redis_link::RedisServer;

use super::env::Environment;
use super::file::{CacheKind, FileCache};
use super::mistake::Report;
use super::redis::{self, FileRedis};

/// The memory a cache may take where the config does not say.
const MEMORY_BYTES_MAX: u64 = 64 << 20;
const PATH: &str = "litellm_settings.cache_params";

/// Where answers are kept.
#[derive(Clone, Debug)]
pub(crate) struct CacheSettings {
    /// The store.
    pub(crate) store: CacheStoreSettings,
}

/// The kinds of store.
#[derive(Clone, Debug)]
pub(crate) enum CacheStoreSettings {
    /// In memory.
    Memory {
        /// What it takes at most.
        bytes_max: u64,
    },
    /// In a Redis.
    Redis(RedisSettings),
}

/// Decides on a store. What the config leaves out of Redis's whereabouts is looked for where
/// LiteLLM does: `REDIS_URL`, `REDIS_HOST`, `REDIS_PORT`, `REDIS_USERNAME`, `REDIS_PASSWORD`,
/// `REDIS_CLUSTER_NODES`.
pub(super) fn resolve(
    params: FileCache,
    environment: &Environment,
    report: &mut Report,
) -> Option<CacheSettings> {
    let named = params.redis.is_named();
    let kind = params.kind.unwrap_or_else(|| {
        let named = named
            || ["REDIS_URL", "REDIS_HOST", "REDIS_CLUSTER_NODES"]
                .iter()
                .any(|n| environment.get(n).is_some());
        if named { CacheKind::Redis } else { CacheKind::Local }
    });
    if kind == CacheKind::Local {
        let bytes_max = params.memory_bytes_max.unwrap_or(MEMORY_BYTES_MAX);
        return Some(CacheSettings { store: CacheStoreSettings::Memory { bytes_max } });
    }
    if params.memory_bytes_max.is_some() {
        let path = format!("{PATH}.max_size_in_memory");
        report.warning(&path, "has no effect: answers are kept in Redis");
    }
    let namespace = params.namespace.unwrap_or_default();
    let server = server(params.redis, environment, report)?;
    Some(CacheSettings { store: CacheStoreSettings::Redis(RedisSettings { server, namespace }) })
}

fn server(
    params: FileRedis,
    environment: &Environment,
    report: &mut Report,
) -> Option<RedisServer> {
    let variable = |name: &str| environment.get(name).map(str::to_owned);
    let secret = |name: &str| variable(name).map(SecretString::from);
    let mut redis = params;
    if !redis.is_named()
        && let Some(text) = environment.get("REDIS_CLUSTER_NODES")
    {
        match redis::nodes_of(text) {
            Some(nodes) => redis.nodes = nodes,
            None => {
                let message =
                    "REDIS_CLUSTER_NODES must be a list: [{\"host\": \"h\", \"port\": 1}]";
                report.mistake(&format!("{PATH}.redis_startup_nodes"), message);
            }
        }
    }
    if !redis.is_named() {
        redis.url = secret("REDIS_URL");
        if let Some(Err(message)) = redis.url.as_ref().map(redis::check_url) {
            report.mistake(&format!("{PATH}.url"), format!("REDIS_URL {message}"));
        }
    }
    if redis.nodes.is_empty() {
        redis.host = redis.host.or_else(|| variable("REDIS_HOST"));
    }
    if redis.url.is_none() && redis.port.is_none() {
        redis.port = environment.get("REDIS_PORT").and_then(|port| {
            let port = port.parse().ok();
            if port.is_none() {
                report.mistake(&format!("{PATH}.port"), "REDIS_PORT does not hold a port");
            }
            port
        });
    }
    redis.username = redis.username.or_else(|| variable("REDIS_USERNAME"));
    redis.password = redis.password.or_else(|| secret("REDIS_PASSWORD"));
    let server = redis.server();
    if server.is_none() {
        let message = "`redis` needs a `host` or a `url`, here or in REDIS_HOST or REDIS_URL";
        report.mistake(PATH, message);
    }
    server
}
