//! Answers kept in a Redis or Valkey that several nodes share.
//!
//! Redis is a convenience here, so it may never hold a request up. A look-up waits 50 ms at most;
//! once one look-up has failed, the following ones are answered "not there" at once, until a task
//! in the background has found that the server answers again. Writing is left to another task.
//!
//! Both tasks, and the sockets, live on the runtime that [`RedisCache::connect`] is given. Look-ups
//! may come from any other tokio runtime: what they hold of the connection is only a sender to its
//! task. This is why the connection is not redis' `ConnectionManager`, which reconnects on whatever
//! runtime happens to notice the loss, and lets requests wait for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, IntoConnectionInfo};
use secrecy::{ExposeSecret, SecretString};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;
use tokio::time::{sleep, timeout};
use tollway_filter_api::cache::{CacheKey, CacheStore, CachedAnswer, Lookup, Managing};

mod codec;

/// How long a look-up waits for Redis before the answer is "not there".
pub const LOOKUP_MAX: Duration = Duration::from_millis(50);

/// How long nothing is looked up after Redis was too slow.
const REST: Duration = Duration::from_secs(1);

/// How often an idle connection is tried, so that the next request does not have to find out.
const HEARTBEAT: Duration = Duration::from_secs(1);

/// How long connecting, with authentication, may take.
const CONNECT_MAX: Duration = Duration::from_secs(1);

/// How long to wait before the first attempt to connect again; doubled each time, up to [`REST`].
const RETRY_MIN: Duration = Duration::from_millis(50);

/// How long a batch of writes may take.
const WRITE_MAX: Duration = Duration::from_secs(2);

/// How many answers may wait to be written.
const QUEUE_ENTRIES_MAX: usize = 1024;

/// How many bytes of answers may wait to be written.
const QUEUE_BYTES_MAX: usize = 32 << 20;

/// How many bytes are written at once: what look-ups may have to wait behind.
const BATCH_BYTES_MAX: usize = 256 << 10;

/// What operators are told while Redis is away.
const AWAY: &str = "Redis cannot be reached";
/// How many keys a step of clearing looks at.
const SCAN_COUNT: usize = 500;

/// Where a Redis is and what it is used for.
#[derive(Clone, Debug)]
pub struct RedisSettings {
    /// Where it is.
    pub server: RedisServer,
    /// What its keys start with, before a colon. LiteLLM's `cache_params.namespace`.
    pub namespace: String,
}

/// Where a Redis is, in one of the two ways in which LiteLLM's `cache_params` say it.
#[derive(Clone, Debug)]
pub enum RedisServer {
    /// `redis://[user][:password@]host[:port][/db]`, or `redis+unix:///path?db=1&user=u&pass=p`.
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
    /// The server would have to be spoken to by TLS.
    #[error("Redis over TLS (rediss://) is not supported yet")]
    Tls,
}

/// Keeps answers in Redis.
pub struct RedisCache {
    namespace: Arc<str>,
    link: Arc<Link>,
    queue: mpsc::Sender<Put>,
    tasks: [AbortHandle; 2],
}

impl RedisCache {
    /// Starts to use a Redis. Returns at once, whether or not the server is there; until it is,
    /// nothing is found and nothing is kept.
    ///
    /// # Errors
    /// When the settings cannot be right.
    pub fn connect(
        settings: RedisSettings,
        runtime: &Handle,
    ) -> Result<RedisCache, RedisSettingsError> {
        let client = client(&settings.server)?;
        let namespace: Arc<str> = settings.namespace.into();
        let link = Arc::new(Link::default());
        let (queue, waiting) = mpsc::channel(QUEUE_ENTRIES_MAX);
        let tasks = [
            runtime.spawn(keep_connected(client, Arc::clone(&link))).abort_handle(),
            runtime.spawn(write(waiting, Arc::clone(&link), Arc::clone(&namespace))).abort_handle(),
        ];
        Ok(RedisCache { namespace, link, queue, tasks })
    }

    /// Whether Redis is being used at the moment.
    pub fn is_up(&self) -> bool {
        self.link.live.borrow().is_some()
    }

    /// How many answers could not be written, because Redis was away or too slow.
    pub fn dropped(&self) -> u64 {
        self.link.dropped.load(Ordering::Relaxed)
    }

    async fn ask(&self, mut live: Live, key: CacheKey) -> Option<CachedAnswer> {
        let mut command = redis::cmd("GET");
        command.arg(redis_key(&self.namespace, key));
        match timeout(LOOKUP_MAX, command.query_async::<Option<Vec<u8>>>(&mut live.connection))
            .await
        {
            Ok(Ok(value)) => codec::decode(Bytes::from(value?)),
            Ok(Err(error)) if speaks(&error) => {
                tracing::debug!(%error, "Redis refused a look-up");
                None
            }
            Ok(Err(_)) | Err(_) => {
                self.link.fail(live.number);
                None
            }
        }
    }
}

impl CacheStore for RedisCache {
    fn get(&self, key: CacheKey) -> Lookup<'_> {
        match self.link.live() {
            Some(live) => Lookup::Wait(Box::pin(self.ask(live, key))),
            None => Lookup::Ready(None),
        }
    }

    fn put(&self, key: CacheKey, answer: CachedAnswer, ttl: Duration) {
        let ttl_ms = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX).min(TTL_MS_MAX);
        if ttl_ms == 0 {
            return;
        }
        let bytes = answer.body.len();
        let before = self.link.queued_bytes.fetch_add(bytes, Ordering::Relaxed);
        let fits = self.is_up() && before + bytes <= QUEUE_BYTES_MAX;
        if !fits || self.queue.try_send(Put { key, answer, ttl_ms }).is_err() {
            self.link.queued_bytes.fetch_sub(bytes, Ordering::Relaxed);
            self.link.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn ping(&self) -> Managing<'_> {
        Box::pin(async {
            let live = self.link.live().ok_or(AWAY)?;
            self.manage(&live, &redis::cmd("PING")).await.map(|_| ())
        })
    }

    fn remove<'a>(&'a self, keys: &'a [CacheKey]) -> Managing<'a> {
        Box::pin(async move {
            let live = self.link.live().ok_or(AWAY)?;
            for key in keys {
                // One by one: in a cluster they are not on one server.
                let mut command = redis::cmd("DEL");
                command.arg(redis_key(&self.namespace, *key));
                self.manage(&live, &command).await?;
            }
            Ok(())
        })
    }

    fn clear(&self) -> Managing<'_> {
        Box::pin(async {
            let live = self.link.live().ok_or(AWAY)?;
            // The namespace may be shared with nobody, the server is: only our own keys go.
            let pattern = format!("{}:*", escaped(&self.namespace));
            let mut cursor = "0".to_owned();
            loop {
                let mut scan = redis::cmd("SCAN");
                scan.arg(&cursor).arg("MATCH").arg(&pattern).arg("COUNT").arg(SCAN_COUNT);
                let found = self.manage(&live, &scan).await?;
                let found: (String, Vec<Vec<u8>>) =
                    redis::from_redis_value(found).map_err(|_| AWAY)?;
                for key in &found.1 {
                    let mut command = redis::cmd("DEL");
                    command.arg(key.as_slice());
                    self.manage(&live, &command).await?;
                }
                cursor = found.0;
                if cursor == "0" {
                    return Ok(());
                }
            }
        })
    }
}

impl RedisCache {
    /// Sends a command of an operator's, who can wait longer than a request.
    async fn manage(
        &self,
        live: &Live,
        command: &redis::Cmd,
    ) -> Result<redis::Value, &'static str> {
        let mut connection = live.connection.clone();
        match timeout(WRITE_MAX, command.query_async::<redis::Value>(&mut connection)).await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) if speaks(&error) => {
                tracing::warn!(%error, "Redis refused a command");
                Err("Redis refused the command")
            }
            Ok(Err(_)) | Err(_) => {
                self.link.fail(live.number);
                Err(AWAY)
            }
        }
    }
}

/// A namespace in a pattern of Redis, where some characters mean more than themselves.
fn escaped(namespace: &str) -> String {
    let mut pattern = String::with_capacity(namespace.len());
    for char in namespace.chars() {
        if matches!(char, '*' | '?' | '[' | ']' | '\\' | '^') {
            pattern.push('\\');
        }
        pattern.push(char);
    }
    pattern
}

impl Drop for RedisCache {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

/// Redis adds the time to live to the time of day and refuses what overflows; a century is enough.
const TTL_MS_MAX: u64 = 100 * 365 * 24 * 3600 * 1000;

/// One answer that waits to be written.
struct Put {
    key: CacheKey,
    answer: CachedAnswer,
    ttl_ms: u64,
}

/// What look-ups, the writer and the keeper of the connection share.
#[derive(Default)]
struct Link {
    /// The connection, while it is good.
    live: watch::Sender<Option<Live>>,
    queued_bytes: AtomicUsize,
    dropped: AtomicU64,
}

#[derive(Clone)]
struct Live {
    /// Counts up each time a connection is found good, so that a late complaint about an earlier
    /// one does no harm to this one.
    number: u64,
    connection: MultiplexedConnection,
}

impl Link {
    fn live(&self) -> Option<Live> {
        self.live.borrow().clone()
    }

    /// Takes the connection out of use; its keeper looks after it.
    fn fail(&self, number: u64) {
        self.live.send_if_modified(|live| live.take_if(|live| live.number == number).is_some());
    }

    fn forget(&self, entries: usize) {
        self.dropped.fetch_add(entries as u64, Ordering::Relaxed);
    }
}

fn client(server: &RedisServer) -> Result<Client, RedisSettingsError> {
    let info = match server {
        RedisServer::Url(url) => {
            let url = url.expose_secret();
            // Without redis' TLS feature such a URL is an error like any other.
            let is_tls = url.starts_with("rediss:") || url.starts_with("valkeys:");
            let wrong = if is_tls { RedisSettingsError::Tls } else { RedisSettingsError::Url };
            url.into_connection_info().map_err(|_| wrong)?
        }
        RedisServer::Parts { host, port, username, password, db } => {
            let info = (host.as_str(), *port)
                .into_connection_info()
                .map_err(|_| RedisSettingsError::Url)?;
            let mut redis = info.redis_settings().clone().set_db(*db);
            if let Some(username) = username {
                redis = redis.set_username(username);
            }
            if let Some(password) = password {
                redis = redis.set_password(password.expose_secret());
            }
            info.set_redis_settings(redis)
        }
    };
    Client::open(info).map_err(|_| RedisSettingsError::Url)
}

/// Connects again and again, as long as the cache is there.
async fn keep_connected(client: Client, link: Arc<Link>) {
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(CONNECT_MAX))
        .set_response_timeout(Some(WRITE_MAX));
    let mut number = 0;
    let mut pause = RETRY_MIN;
    let mut is_reported = false;
    loop {
        match client.get_multiplexed_async_connection_with_config(&config).await {
            Ok(connection) => {
                tracing::info!("Redis is there: answers are cached");
                watch_over(connection, &link, &mut number).await;
                tracing::warn!("Redis is away: answers are not cached");
                pause = RETRY_MIN;
                is_reported = true;
            }
            Err(error) => {
                if !std::mem::replace(&mut is_reported, true) {
                    tracing::warn!(%error, "Redis is away: answers are not cached");
                }
            }
        }
        sleep(pause).await;
        pause = (pause * 2).min(REST);
    }
}

/// Lets a connection be used as long as it is good. Returns when another one is needed.
async fn watch_over(connection: MultiplexedConnection, link: &Link, number: &mut u64) {
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
        // A look-up or a write failed. If the connection is gone, reconnecting can begin at once;
        // if it is slow, it is left alone for a while.
        if ping(&connection, LOOKUP_MAX).await == Health::Gone {
            return;
        }
        sleep(REST).await;
        if ping(&connection, LOOKUP_MAX).await != Health::Good {
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

async fn ping(connection: &MultiplexedConnection, within: Duration) -> Health {
    let mut connection = connection.clone();
    match timeout(within, redis::cmd("PING").exec_async(&mut connection)).await {
        Ok(Ok(())) => Health::Good,
        Ok(Err(error)) if speaks(&error) => Health::Slow,
        Ok(Err(_)) => Health::Gone,
        Err(_) => Health::Slow,
    }
}

/// Whether an error is what the server said, and the connection is good. What it may say: that
/// somebody else's key holds a list, that it is out of memory, that it is a replica.
fn speaks(error: &redis::RedisError) -> bool {
    !error.is_io_error() && !error.is_unrecoverable_error()
}

/// Writes what is in the queue, as long as the cache is there.
async fn write(mut queue: mpsc::Receiver<Put>, link: Arc<Link>, namespace: Arc<str>) {
    while let Some(first) = queue.recv().await {
        let mut pipe = redis::pipe();
        let (mut entries, mut bytes) = (0, 0);
        let mut next = Some(first);
        while let Some(put) = next {
            bytes += put.answer.body.len();
            entries += 1;
            pipe.cmd("SET")
                .arg(redis_key(&namespace, put.key))
                .arg(codec::encode(&put.answer))
                .arg("PX")
                .arg(put.ttl_ms)
                .ignore();
            next = if bytes < BATCH_BYTES_MAX { queue.try_recv().ok() } else { None };
        }
        match link.live() {
            None => link.forget(entries),
            Some(mut live) => {
                match timeout(WRITE_MAX, pipe.exec_async(&mut live.connection)).await {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) if speaks(&error) => {
                        tracing::debug!(%error, "Redis refused a write");
                        link.forget(entries);
                    }
                    Ok(Err(_)) | Err(_) => {
                        link.fail(live.number);
                        link.forget(entries);
                    }
                }
            }
        }
        link.queued_bytes.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// `<namespace>:<64 hexadecimal digits>`; the digits alone where there is no namespace, as LiteLLM
/// does it.
fn redis_key(namespace: &str, key: CacheKey) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut name = String::with_capacity(namespace.len() + 1 + 2 * key.0.len());
    if !namespace.is_empty() {
        name.push_str(namespace);
        name.push(':');
    }
    for byte in key.0 {
        name.push(char::from(DIGITS[usize::from(byte >> 4)]));
        name.push(char::from(DIGITS[usize::from(byte & 15)]));
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(url: &str, expect: Result<(), &str>) {
        let got = client(&RedisServer::Url(SecretString::from(url)));
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
    }

    #[test]
    fn wrong_urls_are_refused_without_telling_the_password() {
        check("http://:hunter2@localhost", Err("not of the form"));
        check("localhost:6379 hunter2", Err("not of the form"));
        check("redis://:hunter2@localhost/db", Err("not of the form"));
        check("rediss://:hunter2@localhost", Err("TLS"));
    }

    #[test]
    fn parts_are_put_together() {
        let server = RedisServer::Parts {
            host: "cache.internal".to_owned(),
            port: 6380,
            username: Some("tollway".to_owned()),
            password: Some(SecretString::from("hunter2")),
            db: 2,
        };
        assert!(!format!("{server:?}").contains("hunter2"));
        let client = client(&server).expect("the parts are right");
        let info = client.get_connection_info();
        assert_eq!(info.addr().to_string(), "cache.internal:6380");
        assert_eq!(info.redis_settings().username(), Some("tollway"));
        assert_eq!(info.redis_settings().password(), Some("hunter2"));
        assert_eq!(info.redis_settings().db(), 2);
    }

    #[test]
    fn keys_are_hexadecimal_under_the_namespace() {
        let mut key = CacheKey([0; 32]);
        key.0[0] = 0xAB;
        key.0[31] = 0x01;
        let hex = format!("ab{}01", "00".repeat(30));
        assert_eq!(redis_key("tollway", key), format!("tollway:{hex}"));
        assert_eq!(redis_key("", key), hex);
    }

    #[tokio::test]
    async fn a_server_that_was_never_there_is_a_miss_at_once_and_what_is_put_is_counted() {
        let url = "redis+unix:///nonexistent/redis.sock";
        let settings = RedisSettings {
            server: RedisServer::Url(SecretString::from(url)),
            namespace: "tollway".to_owned(),
        };
        let cache = RedisCache::connect(settings, &Handle::current()).expect("the URL is right");
        assert!(matches!(cache.get(CacheKey([0; 32])), Lookup::Ready(None)));
        let answer = CachedAnswer {
            streamed: false,
            usage_event: false,
            model: Arc::from("m"),
            body: Bytes::from_static(b"{}"),
            usage: None,
            stored: Duration::ZERO,
        };
        cache.put(CacheKey([0; 32]), answer, Duration::from_secs(60));
        assert_eq!(cache.dropped(), 1);
        assert!(!cache.is_up());
    }
}
