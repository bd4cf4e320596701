//! A connection to a Redis or Valkey that may never hold a request up.
//!
//! Whoever asks waits as long as it says, 50 ms by custom; once one question has failed, the
//! following ones fail at once, until a task in the background has found that the server answers
//! again.
//!
//! The task, and the socket, live on the runtime that [`RedisLink::connect`] is given. Questions may
//! come from any other tokio runtime: what they hold of the connection is only a sender to its task.
//! This is why the connection is not redis' `ConnectionManager`, which reconnects on whatever
//! runtime happens to notice the loss, and lets requests wait for it.

mod connection;

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use redis::{Cmd, ErrorKind, Value};
use secrecy::SecretString;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout};

pub use self::connection::Part;
use self::connection::{Connection, Reach};

/// How long a request waits for Redis.
pub const WAIT_MAX: Duration = Duration::from_millis(50);

/// How long nothing is asked after Redis was too slow.
const REST: Duration = Duration::from_secs(1);

/// How often an idle connection is tried, so that the next request does not have to find out.
const HEARTBEAT: Duration = Duration::from_secs(1);

/// How long connecting, with authentication, may take.
const CONNECT_MAX: Duration = Duration::from_secs(1);

/// How long to wait before the first attempt to connect again; doubled each time, up to [`REST`].
const RETRY_MIN: Duration = Duration::from_millis(50);

/// How long anything in the background may take.
pub const BACKGROUND_MAX: Duration = Duration::from_secs(2);

/// Where a Redis is, in one of the two ways in which LiteLLM's config says it.
#[derive(Clone, Debug)]
pub enum RedisServer {
    /// `redis://[user][:password@]host[:port][/db]`, `rediss://` for TLS, or
    /// `redis+unix:///path?db=1&user=u&pass=p`.
    Url(SecretString),
    /// The parts one by one.
    Parts {
        /// The host's name or address.
        host: String,
        /// The TCP port, by custom 6379.
        port: u16,
        /// The ACL user; `default` if there is none.
        username: Option<String>,
        /// The password.
        password: Option<SecretString>,
        /// The number of the database, by custom 0.
        db: i64,
        /// It is spoken to by TLS.
        tls: bool,
    },
    /// A cluster, by some of its servers: the others are found by them.
    Cluster {
        /// Hosts and ports.
        nodes: Vec<(String, u16)>,
        /// The ACL user; `default` if there is none.
        username: Option<String>,
        /// The password.
        password: Option<SecretString>,
        /// They are spoken to by TLS.
        tls: bool,
    },
    /// A server that is spoken to by TLS, whose certificate is not one of those that browsers know.
    Private {
        /// The server.
        server: Box<RedisServer>,
        /// Who vouches for its certificate: certificates as PEM.
        roots: Vec<u8>,
    },
}

/// Settings that no Redis can be reached with. Says nothing of the settings' values: there is a
/// password among them.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RedisSettingsError {
    /// The URL cannot be read.
    #[error("the Redis URL is not of the form redis://[user][:password@]host[:port][/db]")]
    Url,
    /// A cluster without servers, or with strange ones.
    #[error("the servers of the Redis cluster cannot be used")]
    Nodes,
    /// Certificates that are none, or for a server without TLS.
    #[error("the certificates that are to vouch for Redis cannot be used")]
    Roots,
    /// A server that anybody could claim to be.
    #[error("a Redis over TLS whose certificate nobody looks at (#insecure) is not supported")]
    Insecure,
}

/// Why Redis has not answered a question.
#[derive(Debug, thiserror::Error)]
pub enum RedisError {
    /// It is not there, or too slow. Whether it has done what it was asked is not known.
    #[error("Redis cannot be reached")]
    Away,
    /// It is there and does not do it: somebody else's key holds a list, it is out of memory, it is
    /// a replica.
    #[error("Redis refused: {0}")]
    Refused(redis::RedisError),
}

/// A connection that is made again and again. Cloning shares it.
#[derive(Clone)]
pub struct RedisLink {
    link: Arc<Link>,
    _task: Arc<Aborting>,
}

/// Ends a task when the last who uses it has gone.
struct Aborting(AbortHandle);

impl Drop for Aborting {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// What those who ask and the keeper of the connection share.
#[derive(Default)]
struct Link {
    /// The connection, while it is good.
    live: watch::Sender<Option<Live>>,
}

/// A connection that was good a moment ago.
#[derive(Clone)]
struct Live {
    /// Counts up each time a connection is found good, so that a late complaint about an earlier
    /// one does no harm to this one.
    number: u64,
    connection: Connection,
}

impl Link {
    /// Takes the connection out of use; its keeper looks after it.
    fn fail(&self, number: u64) {
        self.live.send_if_modified(|live| live.take_if(|live| live.number == number).is_some());
    }
}

impl RedisLink {
    /// Starts to connect. Returns at once, whether or not the server is there. `purpose` is what the
    /// log calls the use that is made of it: "answers are cached".
    ///
    /// # Errors
    /// When the settings cannot be right.
    pub fn connect(
        server: &RedisServer,
        purpose: &'static str,
        runtime: &Handle,
    ) -> Result<RedisLink, RedisSettingsError> {
        let reach = Reach::of(server)?;
        let link = Arc::new(Link::default());
        let keeping = runtime.spawn(keep_connected(reach, Arc::clone(&link), purpose));
        Ok(RedisLink { link, _task: Arc::new(Aborting(keeping.abort_handle())) })
    }

    /// Whether Redis is being used at the moment.
    pub fn is_up(&self) -> bool {
        self.link.live.borrow().is_some()
    }

    /// Which connection is in use: another number after each time that Redis was away.
    pub fn connection(&self) -> Option<u64> {
        self.link.live.borrow().as_ref().map(|live| live.number)
    }

    /// Waits until Redis can be used.
    pub async fn up(&self) {
        // The sender lives as long as `self`.
        let _ = self.link.live.subscribe().wait_for(Option::is_some).await;
    }

    /// Sends a command, and waits for the answer, but not longer than said.
    ///
    /// # Errors
    /// At once, while Redis is away.
    pub async fn ask(&self, command: &Cmd, within: Duration) -> Result<Value, RedisError> {
        let asking = async |mut live: Live| live.connection.ask(command).await;
        self.with_live(within, asking).await
    }

    /// Sends a command that is about no key to the server that has this one.
    ///
    /// # Errors
    /// As [`RedisLink::ask`].
    pub async fn ask_at(
        &self,
        key: &[u8],
        command: &Cmd,
        within: Duration,
    ) -> Result<Value, RedisError> {
        let asking = async |mut live: Live| live.connection.ask_at(key, command).await;
        self.with_live(within, asking).await
    }

    /// All servers that have keys: more than one in a cluster.
    ///
    /// # Errors
    /// As [`RedisLink::ask`].
    pub async fn parts(&self, within: Duration) -> Result<Vec<Part>, RedisError> {
        self.with_live(within, async |mut live: Live| live.connection.parts().await).await
    }

    /// Sends a command to one of them.
    ///
    /// # Errors
    /// As [`RedisLink::ask`].
    pub async fn ask_part(
        &self,
        part: Part,
        command: &Cmd,
        within: Duration,
    ) -> Result<Value, RedisError> {
        let asking = async |mut live: Live| live.connection.ask_part(part, command).await;
        self.with_live(within, asking).await
    }

    /// Sends several commands at once.
    ///
    /// # Errors
    /// As [`RedisLink::ask`].
    pub async fn send(&self, pipe: &redis::Pipeline, within: Duration) -> Result<(), RedisError> {
        let sending = async |mut live: Live| live.connection.send(pipe).await;
        self.with_live(within, sending).await
    }

    /// Runs a script on one key. Where the server does not know it (any more), it is given to it.
    ///
    /// # Errors
    /// As [`RedisLink::ask`].
    pub async fn run(
        &self,
        script: &Script,
        key: &[u8],
        args: &[Vec<u8>],
        within: Duration,
    ) -> Result<Value, RedisError> {
        let running = async |mut live: Live| {
            let key = &live.connection.home(key);
            let known = script.sha.lock().clone();
            if let Some(sha) = known {
                match live.connection.ask(&script.call(&sha, key, args)).await {
                    Err(error) if is_unknown_script(&error) => {}
                    answer => return answer,
                }
            }
            let mut load = redis::cmd("SCRIPT");
            load.arg("LOAD").arg(script.text);
            let told = live.connection.ask_at(key, &load).await?;
            let sha: Arc<str> = redis::from_redis_value::<String>(told)?.into();
            *script.sha.lock() = Some(Arc::clone(&sha));
            live.connection.ask(&script.call(&sha, key, args)).await
        };
        self.with_live(within, running).await
    }

    /// The keys of scripts that are as a pattern says.
    ///
    /// # Errors
    /// As [`RedisLink::ask`].
    pub async fn script_keys(
        &self,
        pattern: &str,
        within: Duration,
    ) -> Result<Vec<Vec<u8>>, RedisError> {
        let scanning = async |mut live: Live| {
            let own = live.connection.home(b"").len();
            let pattern = live.connection.home(pattern.as_bytes());
            let mut keys = Vec::new();
            for part in live.connection.parts().await? {
                let mut cursor = "0".to_owned();
                loop {
                    let mut scan = redis::cmd("SCAN");
                    scan.arg(&cursor).arg("MATCH").arg(pattern.as_slice()).arg("COUNT").arg(1_000);
                    let found = live.connection.ask_part(part, &scan).await?;
                    let found: (String, Vec<Vec<u8>>) = redis::from_redis_value(found)?;
                    keys.extend(
                        found.1.into_iter().map(|key| key.get(own..).unwrap_or_default().to_vec()),
                    );
                    cursor = found.0;
                    if cursor == "0" {
                        break;
                    }
                }
            }
            Ok(keys)
        };
        self.with_live(within, scanning).await
    }

    async fn with_live<T>(
        &self,
        within: Duration,
        asking: impl AsyncFnOnce(Live) -> redis::RedisResult<T>,
    ) -> Result<T, RedisError> {
        let Some(live) = self.link.live.borrow().clone() else { return Err(RedisError::Away) };
        let number = live.number;
        match timeout(within, asking(live)).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) if speaks(&error) => Err(RedisError::Refused(error)),
            Ok(Err(_)) | Err(_) => {
                self.link.fail(number);
                Err(RedisError::Away)
            }
        }
    }
}

/// A Lua script. The server knows it by a hash, which it says itself.
pub struct Script {
    text: &'static str,
    sha: Mutex<Option<Arc<str>>>,
}

impl Script {
    /// A script that works on one key, `KEYS[1]`.
    pub const fn new(text: &'static str) -> Script {
        Script { text, sha: Mutex::new(None) }
    }

    fn call(&self, sha: &str, key: &[u8], args: &[Vec<u8>]) -> Cmd {
        let mut command = redis::cmd("EVALSHA");
        command.arg(sha).arg(1).arg(key).arg(args);
        command
    }
}

fn is_unknown_script(error: &redis::RedisError) -> bool {
    error.kind() == ErrorKind::Server(redis::ServerErrorKind::NoScript)
}

/// Connects again and again, as long as somebody uses the link.
async fn keep_connected(reach: Reach, link: Arc<Link>, purpose: &'static str) {
    let mut number = 0;
    let mut pause = RETRY_MIN;
    let mut is_reported = false;
    loop {
        match reach.connect().await {
            Ok(connection) => {
                tracing::info!("Redis is there: {purpose}");
                watch_over(connection, &link, &mut number).await;
                tracing::warn!("Redis is away; while it was there, {purpose}");
                pause = RETRY_MIN;
                is_reported = true;
            }
            Err(error) => {
                if !std::mem::replace(&mut is_reported, true) {
                    tracing::warn!(%error, "Redis is away; when it is there, {purpose}");
                }
            }
        }
        sleep(pause).await;
        pause = (pause * 2).min(REST);
    }
}

/// Lets a connection be used as long as it is good. Returns when another one is needed.
async fn watch_over(connection: Connection, link: &Link, number: &mut u64) {
    let mut watching = link.live.subscribe();
    loop {
        *number += 1;
        link.live.send_replace(Some(Live { number: *number, connection: connection.clone() }));
        loop {
            let was_failed = timeout(HEARTBEAT, watching.wait_for(Option::is_none)).await.is_ok();
            if was_failed {
                break;
            }
            if ping(&connection, CONNECT_MAX).await != Health::Good {
                link.fail(*number);
                return;
            }
        }
        // A question failed. If the connection is gone, reconnecting can begin at once; if it is
        // slow, it is left alone for a while.
        if ping(&connection, WAIT_MAX).await == Health::Gone {
            return;
        }
        sleep(REST).await;
        if ping(&connection, WAIT_MAX).await != Health::Good {
            return;
        }
    }
}

#[derive(PartialEq)]
enum Health {
    Good,
    Slow,
    Gone,
}

async fn ping(connection: &Connection, within: Duration) -> Health {
    let mut connection = connection.clone();
    match timeout(within, connection.ask(&redis::cmd("PING"))).await {
        Ok(Ok(_)) => Health::Good,
        Ok(Err(error)) if speaks(&error) => Health::Slow,
        Ok(Err(_)) => Health::Gone,
        Err(_) => Health::Slow,
    }
}

/// Whether an error is what the server said, and the connection is good.
fn speaks(error: &redis::RedisError) -> bool {
    !error.is_io_error() && !error.is_unrecoverable_error()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(url: &str, expect: Result<(), &str>) {
        let got = Reach::of(&RedisServer::Url(SecretString::from(url)));
        match (got, expect) {
            (Ok(_), Ok(())) => {}
            (Err(error), Err(expect)) => {
                assert!(error.to_string().contains(expect), "{url}: {error}");
                assert!(!error.to_string().contains("hunter2"));
            }
            (got, expect) => panic!("{url}: {:?} instead of {expect:?}", got.map(|_| ())),
        }
    }

    #[test]
    fn urls_of_redis_and_valkey_are_read() {
        check("redis://localhost", Ok(()));
        check("redis://:hunter2@localhost:6380/3", Ok(()));
        check("valkey://user:hunter2@localhost", Ok(()));
        check("redis+unix:///run/redis.sock?pass=hunter2", Ok(()));
        check("rediss://:hunter2@localhost", Ok(()));
        check("valkeys://:hunter2@localhost", Ok(()));
    }

    #[test]
    fn wrong_urls_are_refused_without_telling_the_password() {
        check("http://:hunter2@localhost", Err("not of the form"));
        check("localhost:6379 hunter2", Err("not of the form"));
        check("redis://:hunter2@localhost/db", Err("not of the form"));
        check("rediss://:hunter2@localhost/#insecure", Err("nobody looks at"));
    }

    #[test]
    fn parts_are_put_together() {
        let server = RedisServer::Parts {
            host: "cache.internal".to_owned(),
            port: 6380,
            username: Some("tollway".to_owned()),
            password: Some(SecretString::from("hunter2")),
            db: 2,
            tls: false,
        };
        assert!(!format!("{server:?}").contains("hunter2"));
        let reach = Reach::of(&server).expect("the parts are right");
        let info = reach.info();
        assert_eq!(info.addr().to_string(), "cache.internal:6380");
        assert_eq!(info.redis_settings().username(), Some("tollway"));
        assert_eq!(info.redis_settings().password(), Some("hunter2"));
        assert_eq!(info.redis_settings().db(), 2);
    }

    #[test]
    fn certificates_that_are_none_are_refused() {
        let check = |url: &str, roots: &[u8]| {
            let server = Box::new(RedisServer::Url(SecretString::from(url)));
            let got = Reach::of(&RedisServer::Private { server, roots: roots.to_vec() });
            assert!(matches!(got, Err(RedisSettingsError::Roots)), "{url}");
        };
        check("rediss://localhost", b"");
        check(
            "rediss://localhost",
            b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        );
        check("redis://localhost", b"-----BEGIN CERTIFICATE-----");
    }
}
