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
    /// `redis_startup_nodes` (also `startup_nodes`): some servers of a cluster, `[{host, port}]`,
    /// instead of `host`.
    pub(crate) nodes: Vec<(String, u16)>,
    /// `ssl`, `redis_ssl`: it is spoken to by TLS, as with a `url` that begins with `rediss://`.
    pub(crate) ssl: bool,
    /// `ssl_ca_certs`, `redis_ssl_ca_certs`: a file with the certificates, as PEM, that vouch for the
    /// server's, instead of those that browsers know.
    pub(crate) roots: Option<Vec<u8>>,
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
    roots: &'static str,
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
                roots: "ssl_ca_certs",
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
                roots: "redis_ssl_ca_certs",
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
            nodes: read_nodes(fields),
            ssl: fields.flag(names.ssl).unwrap_or_default(),
            roots: read_roots(fields, names.roots),
        };
        if redis.ssl && redis.url.as_ref().is_some_and(|url| !is_tls(url)) {
            let message = format!("does not go with a `{}` that is not rediss://", names.url);
            fields.wrong(names.ssl, message);
        }
        let places = [redis.host.is_some(), redis.url.is_some(), !redis.nodes.is_empty()];
        if !redis.nodes.is_empty() && places.into_iter().filter(|is_said| *is_said).count() > 1 {
            let message = format!("give these, a `{}` or a `{}`", names.host, names.url);
            fields.wrong(NODES, message);
        }
        if !redis.nodes.is_empty() && redis.db.is_some_and(|db| db != 0) {
            fields.wrong(names.db, "a Redis cluster has no numbered databases");
        }
        if redis.host.is_some() && redis.url.is_some() {
            let message = format!("give a `{}` or a `{}`, not both", names.host, names.url);
            fields.wrong(names.url, message);
        }
        redis
    }

    /// Whether it names one.
    pub(super) fn is_named(&self) -> bool {
        self.host.is_some() || self.url.is_some() || !self.nodes.is_empty()
    }

    /// The server, if it names one.
    pub(super) fn server(self) -> Option<RedisServer> {
        let server = match self.url {
            Some(url) => RedisServer::Url(url),
            None if !self.nodes.is_empty() => RedisServer::Cluster {
                nodes: self.nodes,
                username: self.username,
                password: self.password,
                tls: self.ssl,
            },
            None => RedisServer::Parts {
                host: self.host?,
                port: self.port.unwrap_or(PORT),
                username: self.username,
                password: self.password,
                db: self.db.unwrap_or(0).into(),
                tls: self.ssl,
            },
        };
        Some(vouched(server, self.roots))
    }
}

/// A server whose certificate is vouched for by these, if any.
fn vouched(server: RedisServer, roots: Option<Vec<u8>>) -> RedisServer {
    let is_tls = match &server {
        RedisServer::Url(url) => is_tls(url),
        RedisServer::Parts { tls, .. } | RedisServer::Cluster { tls, .. } => *tls,
        RedisServer::Private { .. } => false,
    };
    match roots.filter(|_| is_tls) {
        Some(roots) => RedisServer::Private { server: Box::new(server), roots },
        None => server,
    }
}

/// LiteLLM's name for some servers of a cluster.
const NODES: &str = "redis_startup_nodes";

/// The servers of a cluster in JSON, as LiteLLM's `REDIS_CLUSTER_NODES` has them.
pub(super) fn nodes_of(json: &str) -> Option<Vec<(String, u16)>> {
    let list: Vec<serde_json::Value> = serde_json::from_str(json).ok()?;
    let node = |node: &serde_json::Value| {
        let port = match node.get("port")? {
            serde_json::Value::String(text) => text.parse().ok()?,
            port => u16::try_from(port.as_u64()?).ok()?,
        };
        Some((node.get("host")?.as_str()?.to_owned(), port))
    };
    let nodes: Option<Vec<_>> = list.iter().map(node).collect();
    nodes.filter(|nodes| !nodes.is_empty())
}

fn read_nodes(fields: &mut Fields<'_>) -> Vec<(String, u16)> {
    let port = |text: &str| text.parse().ok().filter(|port| *port > 0);
    let mut nodes = Vec::new();
    for name in [NODES, "startup_nodes"] {
        let read = fields.sections(name, &[], |fields| {
            let host = fields.text("host");
            if host.is_none() {
                fields.wrong("host", "is missing");
            }
            host.map(|host| (host, fields.parsed("port", "a port", port).unwrap_or(PORT)))
        });
        nodes.extend(read.into_iter().flatten());
    }
    nodes
}

fn is_tls(url: &SecretString) -> bool {
    ["rediss://", "valkeys://"].iter().any(|scheme| url.expose_secret().starts_with(scheme))
}

/// Reads the file of certificates that a setting names.
pub(super) fn read_roots(fields: &mut Fields<'_>, name: &'static str) -> Option<Vec<u8>> {
    let path = fields.text(name)?;
    match std::fs::read(&path) {
        Ok(roots) if memchr::memmem::find(&roots, b"-----BEGIN CERTIFICATE-----").is_some() => {
            Some(roots)
        }
        Ok(_) => {
            fields.wrong(name, "there is no certificate in this file: PEM is wanted");
            None
        }
        Err(error) => {
            fields.wrong(name, format!("this file cannot be read: {error}"));
            None
        }
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
    if url.expose_secret().ends_with("#insecure") {
        return Err("must not end with #insecure: anybody could claim to be the server");
    }
    if is_tls(url) || SCHEMES.iter().any(|scheme| url.expose_secret().starts_with(scheme)) {
        return Ok(());
    }
    Err("must be of the form redis://[user][:password@]host[:port][/db], or rediss:// for TLS")
}

/// The Redis that several gateways share: `general_settings.redis_url`, or LiteLLM's
/// `router_settings.redis_*`.
pub(super) fn shared(file: &mut FileConfig, report: &mut Report) -> Option<RedisServer> {
    let router = std::mem::take(&mut file.router.redis);
    let roots = file.general.redis_roots.take();
    let (path, server) = match file.general.redis_url.take() {
        Some(url) if router.is_named() => {
            let message = "router_settings names a Redis as well: give one of them";
            report.mistake("general_settings.redis_url", message);
            (None, Some(RedisServer::Url(url)))
        }
        Some(url) => {
            let server = vouched(RedisServer::Url(url), roots);
            (Some("general_settings.redis_url"), Some(server))
        }
        None if router.url.is_some() => (Some("router_settings.redis_url"), router.server()),
        None if !router.nodes.is_empty() => {
            (Some("router_settings.redis_startup_nodes"), router.server())
        }
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
