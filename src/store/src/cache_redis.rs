//! Answers kept in a Redis or Valkey that several nodes share.
//!
//! Redis is a convenience here, so it may never hold a request up. A look-up waits 50 ms at most;
//! once one look-up has failed, the following ones are answered "not there" at once, until Redis
//! answers again ([`redis_link`](crate::redis_link)). Writing is left to another task.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tollway_filter_api::cache::{CacheKey, CacheStore, CachedAnswer, Lookup, Managing};
use tollway_filter_api::clock::millis;

use crate::redis_link::{
    BACKGROUND_MAX, Part, RedisError, RedisLink, RedisServer, RedisSettingsError,
};

mod codec;

/// How long a look-up waits for Redis before the answer is "not there".
pub use crate::redis_link::WAIT_MAX as LOOKUP_MAX;

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

/// Keeps answers in Redis.
pub struct RedisCache {
    namespace: Arc<str>,
    link: RedisLink,
    waiting: Arc<Waiting>,
    queue: mpsc::Sender<Put>,
    writer: AbortHandle,
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
        let namespace: Arc<str> = settings.namespace.into();
        let link = RedisLink::connect(&settings.server, "answers are cached", runtime)?;
        let waiting = Arc::new(Waiting::default());
        let (queue, puts) = mpsc::channel(QUEUE_ENTRIES_MAX);
        let writing = write(puts, link.clone(), Arc::clone(&waiting), Arc::clone(&namespace));
        let writer = runtime.spawn(writing).abort_handle();
        Ok(RedisCache { namespace, link, waiting, queue, writer })
    }

    /// Whether Redis is being used at the moment.
    pub fn is_up(&self) -> bool {
        self.link.is_up()
    }

    /// How many answers could not be written, because Redis was away or too slow.
    pub fn dropped(&self) -> u64 {
        self.waiting.dropped.load(Ordering::Relaxed)
    }

    async fn find(&self, key: CacheKey) -> Option<Arc<CachedAnswer>> {
        let mut command = redis::cmd("GET");
        command.arg(redis_key(&self.namespace, key));
        match self.link.ask(&command, LOOKUP_MAX).await {
            Ok(value) => {
                let value: Option<Vec<u8>> = redis::from_redis_value(value).ok()?;
                codec::decode(Bytes::from(value?)).map(Arc::new)
            }
            Err(RedisError::Refused(error)) => {
                tracing::debug!(%error, "Redis refused a look-up");
                None
            }
            Err(RedisError::Away) => None,
        }
    }
}

impl CacheStore for RedisCache {
    fn get(&self, key: CacheKey) -> Lookup<'_> {
        match self.is_up() {
            true => Lookup::Wait(Box::pin(self.find(key))),
            false => Lookup::Ready(None),
        }
    }

    fn put(&self, key: CacheKey, answer: CachedAnswer, ttl: Duration) {
        let ttl_ms = millis(ttl).min(TTL_MS_MAX);
        if ttl_ms == 0 {
            return;
        }
        let bytes = answer.body.held();
        let before = self.waiting.queued_bytes.fetch_add(bytes, Ordering::Relaxed);
        let fits = self.is_up() && before + bytes <= QUEUE_BYTES_MAX;
        if !fits || self.queue.try_send(Put { key, answer, ttl_ms }).is_err() {
            self.waiting.queued_bytes.fetch_sub(bytes, Ordering::Relaxed);
            self.waiting.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn ping(&self) -> Managing<'_> {
        Box::pin(async { self.manage(&redis::cmd("PING")).await.map(|_| ()) })
    }

    fn remove<'a>(&'a self, keys: &'a [CacheKey]) -> Managing<'a> {
        Box::pin(async move {
            for key in keys {
                // One by one: in a cluster they are not on one server.
                let mut command = redis::cmd("DEL");
                command.arg(redis_key(&self.namespace, *key));
                self.manage(&command).await?;
            }
            Ok(())
        })
    }

    fn clear(&self) -> Managing<'_> {
        Box::pin(async {
            // The namespace may be shared with nobody, the server is: only our own keys go.
            let pattern = format!("{}:*", escaped(&self.namespace));
            for part in self.link.parts(BACKGROUND_MAX).await.map_err(told)? {
                self.clear_part(part, &pattern).await?;
            }
            Ok(())
        })
    }
}

/// What operators are told.
fn told(error: RedisError) -> &'static str {
    match error {
        RedisError::Away => AWAY,
        RedisError::Refused(error) => {
            tracing::warn!(%error, "Redis refused a command");
            "Redis refused the command"
        }
    }
}

impl RedisCache {
    /// Sends a command of an operator's, who can wait longer than a request.
    async fn manage(&self, command: &redis::Cmd) -> Result<redis::Value, &'static str> {
        self.link.ask(command, BACKGROUND_MAX).await.map_err(told)
    }

    /// Deletes what one server has of our own.
    async fn clear_part(&self, part: Part, pattern: &str) -> Result<(), &'static str> {
        let mut cursor = "0".to_owned();
        loop {
            let mut scan = redis::cmd("SCAN");
            scan.arg(&cursor).arg("MATCH").arg(pattern).arg("COUNT").arg(SCAN_COUNT);
            let found = self.link.ask_part(part, &scan, BACKGROUND_MAX).await.map_err(told)?;
            let found: (String, Vec<Vec<u8>>) = redis::from_redis_value(found).map_err(|_| AWAY)?;
            for key in &found.1 {
                let mut command = redis::cmd("DEL");
                command.arg(key.as_slice());
                self.manage(&command).await?;
            }
            cursor = found.0;
            if cursor == "0" {
                return Ok(());
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
        self.writer.abort();
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

/// What is on its way to Redis.
#[derive(Default)]
struct Waiting {
    queued_bytes: AtomicUsize,
    dropped: AtomicU64,
}

impl Waiting {
    fn forget(&self, entries: usize) {
        self.dropped.fetch_add(entries as u64, Ordering::Relaxed);
    }
}

/// Writes what is in the queue, as long as the cache is there.
async fn write(
    mut queue: mpsc::Receiver<Put>,
    link: RedisLink,
    waiting: Arc<Waiting>,
    namespace: Arc<str>,
) {
    while let Some(first) = queue.recv().await {
        let mut pipe = redis::pipe();
        let (mut entries, mut bytes) = (0, 0);
        let mut next = Some(first);
        while let Some(put) = next {
            bytes += put.answer.body.held();
            entries += 1;
            pipe.cmd("SET")
                .arg(redis_key(&namespace, put.key))
                .arg(codec::encode(&put.answer))
                .arg("PX")
                .arg(put.ttl_ms)
                .ignore();
            next = if bytes < BATCH_BYTES_MAX { queue.try_recv().ok() } else { None };
        }
        if let Err(error) = link.send(&pipe, BACKGROUND_MAX).await {
            tracing::debug!(%error, "answers are not written");
            waiting.forget(entries);
        }
        waiting.queued_bytes.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// `<namespace>:<64 hexadecimal digits>`; the digits alone where there is no namespace, as LiteLLM
/// does it.
fn redis_key(namespace: &str, key: CacheKey) -> String {
    let mut name = String::with_capacity(namespace.len() + 1 + 2 * key.0.len());
    if !namespace.is_empty() {
        name.push_str(namespace);
        name.push(':');
    }
    name.push_str(&key.hex());
    name
}

#[cfg(test)]
mod tests {
    use secrecy::SecretString;
    use tollway_filter_api::cache::CachedBody;

    use super::*;

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
            usage_event: false,
            model: Arc::from("m"),
            body: CachedBody::Whole(Bytes::from_static(b"{}")),
            usage: None,
            stored: Duration::ZERO,
        };
        cache.put(CacheKey([0; 32]), answer, Duration::from_secs(60));
        assert_eq!(cache.dropped(), 1);
        assert!(!cache.is_up());
    }
}
