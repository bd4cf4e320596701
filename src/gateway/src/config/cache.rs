//! Where answers are kept.

use secrecy::{ExposeSecret, SecretString};
use tollway_store::cache_redis::{RedisServer, RedisSettings};

use super::env::Environment;
use super::file::{CacheKind, FileCache};
use super::mistake::Report;

/// The memory a cache may take where the config does not say.
const MEMORY_BYTES_MAX: u64 = 64 << 20;
/// Redis's own port.
const REDIS_PORT: u16 = 6379;
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
/// LiteLLM does: `REDIS_URL`, `REDIS_HOST`, `REDIS_PORT`, `REDIS_USERNAME`, `REDIS_PASSWORD`.
pub(super) fn resolve(
    params: FileCache,
    environment: &Environment,
    report: &mut Report,
) -> Option<CacheSettings> {
    let named = params.host.is_some() || params.url.is_some();
    let kind = params.kind.unwrap_or_else(|| {
        let named =
            named || ["REDIS_URL", "REDIS_HOST"].iter().any(|n| environment.get(n).is_some());
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
    if params.ssl {
        report.mistake(&format!("{PATH}.ssl"), "Redis over TLS is not supported yet");
    }
    let namespace = params.namespace.clone().unwrap_or_default();
    let server = server(params, environment, report)?;
    Some(CacheSettings { store: CacheStoreSettings::Redis(RedisSettings { server, namespace }) })
}

fn server(
    params: FileCache,
    environment: &Environment,
    report: &mut Report,
) -> Option<RedisServer> {
    let variable = |name: &str| environment.get(name).map(str::to_owned);
    let secret = |name: &str| variable(name).map(SecretString::from);
    if params.host.is_some() && params.url.is_some() {
        report.mistake(&format!("{PATH}.url"), "give a `host` or a `url`, not both");
        return None;
    }
    let url = params.url.or_else(|| secret("REDIS_URL").filter(|_| params.host.is_none()));
    if let Some(url) = url {
        let schemes = ["redis://", "redis+unix://", "unix://"];
        if !schemes.iter().any(|scheme| url.expose_secret().starts_with(scheme)) {
            let message = "must be of the form redis://[user][:password@]host[:port][/db]; TLS \
                           (rediss://) is not supported yet";
            report.mistake(&format!("{PATH}.url"), message);
        }
        return Some(RedisServer::Url(url));
    }
    let Some(host) = params.host.or_else(|| variable("REDIS_HOST")) else {
        let message = "`redis` needs a `host` or a `url`, here or in REDIS_HOST or REDIS_URL";
        report.mistake(PATH, message);
        return None;
    };
    let port = match (params.port, environment.get("REDIS_PORT")) {
        (Some(port), _) => port,
        (None, None) => REDIS_PORT,
        (None, Some(port)) => port.parse().unwrap_or_else(|_| {
            report.mistake(&format!("{PATH}.port"), "REDIS_PORT does not hold a port");
            REDIS_PORT
        }),
    };
    let username = params.username.or_else(|| variable("REDIS_USERNAME"));
    let password = params.password.or_else(|| secret("REDIS_PASSWORD"));
    Some(RedisServer::Parts { host, port, username, password, db: params.db.unwrap_or(0).into() })
}
