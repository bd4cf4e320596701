//! Where a Redis is: one for answers (`cache_params`), and one that several gateways share.

use secrecy::{ExposeSecret, SecretString};
use tollway_store::redis_link::RedisServer;

use super::file::FileConfig;
use super::mistake::Report;
use super::reader::Fields;

/// Redis's own port.
const PORT: u16 = 6379;

/// What names a server, as written.
#[derive(Debug, Default)]
pub(crate) struct FileRedis {
    /// `host`, `redis_host`
    pub(crate) host: Option<String>,
    /// `port`, `redis_port`. Default 6379.
    pub(crate) port: Option<u16>,
    /// `username`, `redis_username`
    pub(crate) username: Option<String>,
    /// `password`, `redis_password`
    pub(crate) password: Option<SecretString>,
    /// `db`, `redis_db`: the number of the database. Default 0.
    pub(crate) db: Option<u32>,
    /// `url`, `redis_url`: all of the above in one.
    pub(crate) url: Option<SecretString>,
    /// `ssl`, `redis_ssl`: Redis over TLS, which is not supported yet.
    pub(crate) ssl: bool,
}

/// What the parts of a server are called.
struct Names {
    host: &'static str,
    port: &'static str,
    username: &'static str,
    password: &'static str,
    db: &'static str,
    url: &'static str,
    ssl: &'static str,
}

impl FileRedis {
    /// Reads it from `cache_params`.
    pub(super) fn read(fields: &mut Fields<'_>) -> FileRedis {
        FileRedis::read_named(
            fields,
            Names {
                host: "host",
                port: "port",
                username: "username",
                password: "password",
                db: "db",
                url: "url",
                ssl: "ssl",
            },
        )
    }

    /// Reads it from `router_settings`.
    pub(super) fn read_prefixed(fields: &mut Fields<'_>) -> FileRedis {
        FileRedis::read_named(
            fields,
            Names {
                host: "redis_host",
                port: "redis_port",
                username: "redis_username",
                password: "redis_password",
                db: "redis_db",
                url: "redis_url",
                ssl: "redis_ssl",
            },
        )
    }

    fn read_named(fields: &mut Fields<'_>, names: Names) -> FileRedis {
        let port = |text: &str| text.parse().ok().filter(|port| *port > 0);
        let redis = FileRedis {
            host: fields.text(names.host),
            port: fields.parsed(names.port, "a port", port),
            username: fields.text(names.username),
            password: fields.secret(names.password),
            db: fields.small_number(names.db),
            url: read_url(fields, names.url),
            ssl: fields.flag(names.ssl).unwrap_or_default(),
        };
        if redis.ssl {
            fields.wrong(names.ssl, "Redis over TLS is not supported yet");
        }
        if redis.host.is_some() && redis.url.is_some() {
            let message = format!("give a `{}` or a `{}`, not both", names.host, names.url);
            fields.wrong(names.url, message);
        }
        redis
    }

    /// Whether it names one.
    pub(super) fn is_named(&self) -> bool {
        self.host.is_some() || self.url.is_some()
    }

    /// The server, if it names one.
    pub(super) fn server(self) -> Option<RedisServer> {
        if let Some(url) = self.url {
            return Some(RedisServer::Url(url));
        }
        Some(RedisServer::Parts {
            host: self.host?,
            port: self.port.unwrap_or(PORT),
            username: self.username,
            password: self.password,
            db: self.db.unwrap_or(0).into(),
        })
    }
}

/// Reads the URL of a server.
pub(super) fn read_url(fields: &mut Fields<'_>, name: &'static str) -> Option<SecretString> {
    let url = fields.secret(name)?;
    if let Err(message) = check_url(&url) {
        fields.wrong(name, message);
    }
    Some(url)
}

/// Whether a URL can be that of a server.
pub(super) fn check_url(url: &SecretString) -> Result<(), &'static str> {
    const SCHEMES: [&str; 5] =
        ["redis://", "valkey://", "redis+unix://", "valkey+unix://", "unix://"];
    if SCHEMES.iter().any(|scheme| url.expose_secret().starts_with(scheme)) {
        return Ok(());
    }
    Err("must be of the form redis://[user][:password@]host[:port][/db]; TLS (rediss://) is not \
         supported yet")
}

/// The Redis that several gateways share: `general_settings.redis_url`, or LiteLLM's
/// `router_settings.redis_*`.
pub(super) fn shared(file: &mut FileConfig, report: &mut Report) -> Option<RedisServer> {
    let router = std::mem::take(&mut file.router.redis);
    let (path, server) = match file.general.redis_url.take() {
        Some(url) if router.is_named() => {
            let message = "router_settings names a Redis as well: give one of them";
            report.mistake("general_settings.redis_url", message);
            (None, Some(RedisServer::Url(url)))
        }
        Some(url) => (Some("general_settings.redis_url"), Some(RedisServer::Url(url))),
        None if router.url.is_some() => (Some("router_settings.redis_url"), router.server()),
        None => (Some("router_settings.redis_host"), router.server()),
    };
    let server = server?;
    if let Some(path) = path.filter(|_| file.general.database_url.is_none()) {
        let message = "gateways that share a Redis share what was spent as well, for which a \
                       Postgres is missing: set general_settings.database_url";
        report.mistake(path, message);
    }
    Some(server)
}
