//! One server or many: what is asked of a Redis, and which of its servers answers.
//!
//! In a cluster a key is where its hash tag says. What is about no key is asked of the server that
//! has one that is named with it: a script is known to the server that is to run it, and it is that
//! server which has lost everything, or has not.

use futures_util::future::try_join_all;
use redis::aio::MultiplexedConnection;
use redis::cluster::ClusterClient;
use redis::cluster_async::ClusterConnection;
use redis::cluster_routing::{Route, RoutingInfo, SingleNodeRoutingInfo, SlotAddr};
use redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionAddr, ConnectionInfo, ErrorKind,
    IntoConnectionInfo, Pipeline, RedisError, RedisResult, TlsCertificates, Value,
};
use secrecy::{ExposeSecret, SecretString};

use super::{BACKGROUND_MAX, CONNECT_MAX, RedisServer, RedisSettingsError};

/// The hash tag that all keys of scripts have in a cluster: whether a server has lost what nodes
/// share is found out by one key, so that all of it must be on the same one.
const HOME: &[u8] = b"{tollway}:";

/// How often the cluster's client follows a key that has moved.
const MOVES_MAX: u32 = 2;

/// How connections are made.
pub(super) enum Reach {
    One(Box<Client>),
    Cluster(Box<ClusterClient>),
}

/// A connection that is there. Cloning shares it.
#[derive(Clone)]
pub(super) enum Connection {
    One(MultiplexedConnection),
    Cluster(ClusterConnection),
}

/// One server of a cluster, by a slot that it has; `None` is the only one.
#[derive(Clone, Copy, Debug)]
pub struct Part(Option<u16>);

impl Reach {
    /// Reads the settings.
    pub(super) fn of(server: &RedisServer) -> Result<Reach, RedisSettingsError> {
        let (server, roots) = match server {
            RedisServer::Private { server, roots } => (&**server, Some(roots)),
            server => (server, None),
        };
        // A text without any certificate would vouch for nobody.
        let is_pem = |roots: &&Vec<u8>| roots.windows(PEM.len()).any(|part| part == PEM);
        if !roots.as_ref().is_none_or(is_pem) {
            return Err(RedisSettingsError::Roots);
        }
        let certificates =
            roots.map(|roots| TlsCertificates { client_tls: None, root_cert: Some(roots.clone()) });
        let infos = infos(server)?;
        let is_tls = |info: &ConnectionInfo| matches!(info.addr(), ConnectionAddr::TcpTls { .. });
        if certificates.is_some() && !infos.iter().all(is_tls) {
            return Err(RedisSettingsError::Roots);
        }
        if matches!(server, RedisServer::Cluster { .. }) {
            let mut builder = ClusterClient::builder(infos)
                .connection_timeout(CONNECT_MAX)
                .response_timeout(BACKGROUND_MAX)
                .retries(MOVES_MAX);
            if let Some(certificates) = certificates {
                builder = builder.certs(certificates);
            }
            let client = builder.build().map_err(|_| RedisSettingsError::Nodes)?;
            return Ok(Reach::Cluster(Box::new(client)));
        }
        let info = infos.into_iter().next().ok_or(RedisSettingsError::Url)?;
        match certificates {
            Some(certificates) => {
                Client::build_with_tls(info, certificates).map_err(|_| RedisSettingsError::Roots)
            }
            None => Client::open(info).map_err(|_| RedisSettingsError::Url),
        }
        .map(|client| Reach::One(Box::new(client)))
    }

    /// Connects.
    pub(super) async fn connect(&self) -> RedisResult<Connection> {
        match self {
            Reach::One(client) => {
                let config = AsyncConnectionConfig::new()
                    .set_connection_timeout(Some(CONNECT_MAX))
                    .set_response_timeout(Some(BACKGROUND_MAX));
                let connecting = client.get_multiplexed_async_connection_with_config(&config);
                connecting.await.map(Connection::One)
            }
            Reach::Cluster(client) => {
                let connecting = client.get_async_connection();
                // It may have to ask one server after the other.
                match tokio::time::timeout(BACKGROUND_MAX, connecting).await {
                    Ok(connected) => connected.map(Connection::Cluster),
                    Err(_) => Err(RedisError::from((ErrorKind::Io, "the cluster is too slow"))),
                }
            }
        }
    }

    #[cfg(test)]
    pub(super) fn info(&self) -> &ConnectionInfo {
        match self {
            Reach::One(client) => client.get_connection_info(),
            Reach::Cluster(_) => panic!("there are several"),
        }
    }
}

const PEM: &[u8] = b"-----BEGIN CERTIFICATE-----";

/// How a server, or each that is named of a cluster, is reached, as redis has it.
fn infos(server: &RedisServer) -> Result<Vec<ConnectionInfo>, RedisSettingsError> {
    let info = |host: &str, port: u16, tls: bool| {
        let host = host.to_owned();
        let address = match tls {
            true => ConnectionAddr::TcpTls { host, port, insecure: false, tls_params: None },
            false => ConnectionAddr::Tcp(host, port),
        };
        address.into_connection_info().map_err(|_| RedisSettingsError::Url)
    };
    let as_user = |info: ConnectionInfo, name: &Option<String>, word: &Option<SecretString>| {
        let mut redis = info.redis_settings().clone();
        if let Some(name) = name {
            redis = redis.set_username(name);
        }
        if let Some(word) = word {
            redis = redis.set_password(word.expose_secret());
        }
        info.set_redis_settings(redis)
    };
    let infos = match server {
        RedisServer::Private { server, .. } => return infos(server),
        RedisServer::Url(url) => {
            vec![url.expose_secret().into_connection_info().map_err(|_| RedisSettingsError::Url)?]
        }
        RedisServer::Parts { host, port, username, password, db, tls } => {
            let info = as_user(info(host, *port, *tls)?, username, password);
            let redis = info.redis_settings().clone().set_db(*db);
            vec![info.set_redis_settings(redis)]
        }
        RedisServer::Cluster { nodes, username, password, tls } => {
            let each = |(host, port): &(String, u16)| {
                Ok(as_user(info(host, *port, *tls)?, username, password))
            };
            nodes.iter().map(each).collect::<Result<Vec<_>, _>>()?
        }
    };
    let is_open = |info: &ConnectionInfo| {
        matches!(info.addr(), ConnectionAddr::TcpTls { insecure: true, .. })
    };
    if infos.is_empty() {
        return Err(RedisSettingsError::Nodes);
    }
    if infos.iter().any(is_open) {
        return Err(RedisSettingsError::Insecure);
    }
    Ok(infos)
}

impl Connection {
    /// Asks whoever has the command's key.
    pub(super) async fn ask(&mut self, command: &Cmd) -> RedisResult<Value> {
        match self {
            Connection::One(connection) => command.query_async(connection).await,
            Connection::Cluster(connection) => command.query_async(connection).await,
        }
    }

    /// Asks whoever has this key.
    pub(super) async fn ask_at(&mut self, key: &[u8], command: &Cmd) -> RedisResult<Value> {
        let Connection::Cluster(connection) = self else { return self.ask(command).await };
        let route = Route::with_key(key, SlotAddr::Master);
        connection.route_command(command.clone(), to(route)).await
    }

    /// Asks one of several servers.
    pub(super) async fn ask_part(&mut self, part: Part, command: &Cmd) -> RedisResult<Value> {
        match (self, part) {
            (Connection::Cluster(connection), Part(Some(slot))) => {
                let route = Route::new(slot, SlotAddr::Master);
                connection.route_command(command.clone(), to(route)).await
            }
            (connection, _) => connection.ask(command).await,
        }
    }

    /// Sends commands whose answers nobody needs.
    pub(super) async fn send(&mut self, pipe: &Pipeline) -> RedisResult<()> {
        match self {
            Connection::One(connection) => pipe.exec_async(connection).await,
            // They are not on one server.
            Connection::Cluster(connection) => {
                let each = pipe.cmd_iter().map(|command| {
                    let mut connection = connection.clone();
                    async move { command.exec_async(&mut connection).await }
                });
                try_join_all(each).await.map(|_| ())
            }
        }
    }

    /// All servers that have keys.
    pub(super) async fn parts(&mut self) -> RedisResult<Vec<Part>> {
        let Connection::Cluster(connection) = self else { return Ok(vec![Part(None)]) };
        let mut command = redis::cmd("CLUSTER");
        command.arg("SLOTS");
        let route = Route::new(0, SlotAddr::Master);
        let told = connection.route_command(command, to(route)).await?;
        let mut known: Vec<Value> = Vec::new();
        let mut parts = Vec::new();
        let Value::Array(ranges) = told else { return Ok(parts) };
        for range in ranges {
            let Value::Array(range) = range else { continue };
            let [Value::Int(first), _, master, ..] = range.as_slice() else { continue };
            // One server can have several ranges.
            if let (Ok(slot), false) = (u16::try_from(*first), known.contains(master)) {
                known.push(master.clone());
                parts.push(Part(Some(slot)));
            }
        }
        Ok(parts)
    }

    /// A key of a script as it is called here.
    pub(super) fn home(&self, key: &[u8]) -> Vec<u8> {
        match self {
            Connection::One(_) => key.to_vec(),
            Connection::Cluster(_) => [HOME, key].concat(),
        }
    }
}

fn to(route: Route) -> RoutingInfo {
    RoutingInfo::SingleNode(SingleNodeRoutingInfo::SpecificNode(route))
}
