//! The cache over a real Redis, started by each test in a folder of its own.
//!
//! Needs the `redis-server` program (Debian and Ubuntu: package `redis-server`).

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use secrecy::SecretString;
use tokio::runtime::Handle;
use tollway_filter_api::cache::{CacheKey, CacheStore, CachedAnswer, CachedBody, Lookup};
use tollway_store::cache_redis::{LOOKUP_MAX, RedisCache, RedisSettings};
use tollway_store::redis_link::RedisServer;
use tollway_tests::servers::Redis;
use tollway_tests::setup::eventually;
use tollway_wire::event_log::{Budget, EventLog};
use tollway_wire::usage::Usage;

/// What a look-up may take: room for a busy machine, and far below what redis by itself waits.
const IN_TIME: Duration = Duration::from_millis(20 * LOOKUP_MAX.as_millis() as u64);

const MINUTE: Duration = Duration::from_secs(60);

/// The URL of a database that is not the first one, which the caches use.
fn url(redis: &Redis) -> String {
    format!("{}?db=1", redis.url())
}

fn settings(url: String) -> RedisSettings {
    RedisSettings {
        server: RedisServer::Url(SecretString::from(url)),
        namespace: "tollway".to_owned(),
    }
}

async fn cache(redis: &Redis) -> RedisCache {
    let cache = RedisCache::connect(settings(url(redis)), &Handle::current()).expect("good URL");
    is_up(&cache).await;
    cache
}

/// A connection beside the caches'.
async fn connection(redis: &Redis) -> redis::aio::MultiplexedConnection {
    let client = redis::Client::open(url(redis)).expect("the URL is right");
    client.get_multiplexed_async_connection().await.expect("it runs")
}

async fn is_up(cache: &RedisCache) {
    eventually("the cache is up", async || cache.is_up()).await;
}

async fn get(cache: &RedisCache, key: CacheKey) -> Option<CachedAnswer> {
    let found = match cache.get(key) {
        Lookup::Ready(found) => found,
        Lookup::Wait(lookup) => lookup.await,
    };
    found.map(Arc::unwrap_or_clone)
}

/// What is kept, once it is there. A single look-up may miss on a busy machine: it waits 50 ms only.
async fn find(cache: &RedisCache, key: CacheKey) -> CachedAnswer {
    let mut found = None;
    eventually("what was put is found", async || {
        found = get(cache, key).await;
        found.is_some()
    })
    .await;
    found.expect("it is there by now")
}

fn answer(body: impl AsRef<[u8]>) -> CachedAnswer {
    let mut log = EventLog::new(&Budget::new(usize::MAX));
    log.push(body.as_ref()).expect("there is room");
    CachedAnswer {
        usage_event: true,
        model: Arc::from("gpt-4o"),
        body: CachedBody::Events(log.packed()),
        usage: Some(Usage { prompt_tokens: 11, completion_tokens: 5, ..Usage::default() }),
        stored: Duration::from_millis(1_767_225_600_123),
    }
}

fn key(number: u8) -> CacheKey {
    CacheKey([number; 32])
}

fn redis_key(number: u8) -> String {
    format!("tollway:{}", format!("{number:02x}").repeat(32))
}

#[tokio::test]
async fn what_was_put_is_found_by_every_node() {
    let redis = Redis::start().await;
    let (here, there) = (cache(&redis).await, cache(&redis).await);
    let body: Bytes = (0..300_000).map(|i| i as u8).collect::<Vec<_>>().into();
    here.put(key(1), answer(body.clone()), MINUTE);
    find(&here, key(1)).await;
    assert_eq!(find(&there, key(1)).await, answer(body));
    assert_eq!(get(&there, key(2)).await, None);
    assert_eq!(here.dropped(), 0);
}

#[tokio::test]
async fn many_answers_are_written_in_the_order_they_came() {
    let redis = Redis::start().await;
    let cache = cache(&redis).await;
    for number in 0..200 {
        cache.put(key(200), answer(vec![number]), MINUTE);
        cache.put(key(number), answer(vec![number; 3000]), MINUTE);
    }
    find(&cache, key(199)).await;
    assert_eq!(find(&cache, key(200)).await, answer(vec![199]));
    for number in 0..200 {
        assert_eq!(find(&cache, key(number)).await, answer(vec![number; 3000]));
    }
    assert_eq!(cache.dropped(), 0);
}

#[tokio::test]
async fn an_entry_ends_after_its_time() {
    let redis = Redis::start().await;
    let cache = cache(&redis).await;
    cache.put(key(1), answer("short"), Duration::from_millis(200));
    cache.put(key(2), answer("long"), MINUTE);
    find(&cache, key(2)).await;
    eventually("the entry is over", async || get(&cache, key(1)).await.is_none()).await;
    let mut connection = connection(&redis).await;
    let left: i64 =
        redis::cmd("PTTL").arg(redis_key(2)).query_async(&mut connection).await.expect("a number");
    assert!((1..=60_000).contains(&left), "{left} ms left");
    find(&cache, key(2)).await;
}

#[tokio::test]
async fn values_of_somebody_else_are_misses() {
    let redis = Redis::start().await;
    let cache = cache(&redis).await;
    let mut connection = connection(&redis).await;
    for value in
        [&b""[..], b"{\"response\": 1}", b"TWA\x01", b"TWA\x03\x00", b"TWA\x02\x00\x00\x00\x00"]
    {
        let mut set = redis::cmd("SET");
        set.arg(redis_key(1)).arg(value).exec_async(&mut connection).await.expect("it is set");
        assert_eq!(get(&cache, key(1)).await, None);
    }
    let mut push = redis::cmd("RPUSH");
    push.arg(redis_key(2)).arg("x").exec_async(&mut connection).await.expect("it is pushed");
    eventually("a wrong type is no reason to stop using Redis", async || {
        is_up(&cache).await;
        get(&cache, key(2)).await.is_none() && cache.is_up()
    })
    .await;
}

#[tokio::test]
async fn a_server_that_is_killed_is_a_miss_in_time_and_is_used_again_when_it_is_back() {
    let mut redis = Redis::start().await;
    let cache = cache(&redis).await;
    cache.put(key(1), answer("before"), MINUTE);
    find(&cache, key(1)).await;

    redis.kill().await;
    // The first look-up may have to find out; the ones after it know.
    let started = Instant::now();
    assert_eq!(get(&cache, key(1)).await, None);
    assert!(started.elapsed() < IN_TIME);
    assert!(matches!(cache.get(key(1)), Lookup::Ready(None)), "known to be away");
    let dropped = cache.dropped();
    cache.put(key(2), answer("meanwhile"), MINUTE);
    assert_eq!(cache.dropped(), dropped + 1);

    redis.again().await;
    is_up(&cache).await;
    cache.put(key(3), answer("after"), MINUTE);
    find(&cache, key(3)).await;
    assert_eq!(get(&cache, key(1)).await, None, "nothing was on disk");
}

#[tokio::test]
async fn a_server_that_hangs_is_a_miss_in_time_and_is_left_alone_for_a_while() {
    let redis = Redis::start().await;
    let cache = cache(&redis).await;
    cache.put(key(1), answer("kept"), MINUTE);
    find(&cache, key(1)).await;

    redis.signal("STOP");
    let started = Instant::now();
    let found = get(&cache, key(1)).await;
    let waited = started.elapsed();
    assert_eq!(found, None);
    assert!((LOOKUP_MAX..IN_TIME).contains(&waited), "waited {waited:?}");
    assert!(matches!(cache.get(key(1)), Lookup::Ready(None)), "known to hang");

    redis.signal("CONT");
    find(&cache, key(1)).await;
}

#[tokio::test]
async fn a_server_that_comes_later_is_used() {
    let mut redis = Redis::start().await;
    redis.kill().await;
    let cache = RedisCache::connect(settings(url(&redis)), &Handle::current()).expect("good URL");
    assert_eq!(get(&cache, key(1)).await, None);
    redis.again().await;
    is_up(&cache).await;
    cache.put(key(1), answer("x"), MINUTE);
    find(&cache, key(1)).await;
}

#[tokio::test]
async fn a_wrong_password_is_an_absent_server() {
    let redis = Redis::start().await;
    redis.command("CONFIG SET requirepass pass").await;
    let with = |password| {
        let settings = settings(format!("{}&pass={password}", url(&redis)));
        RedisCache::connect(settings, &Handle::current()).expect("good URL")
    };
    let (wrong, right) = (with("wrong"), with("pass"));
    // By the time this one is up, the other one has had its chance.
    is_up(&right).await;
    assert!(!wrong.is_up());
    assert_eq!(get(&wrong, key(1)).await, None);
}

#[test]
fn look_ups_may_come_from_other_runtimes_than_the_one_it_lives_on() {
    let home = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime");
    let (redis, cache) = home.block_on(async {
        let redis = Redis::start().await;
        let cache = cache(&redis).await;
        (redis, cache)
    });
    let look_up = |number| {
        let other = tokio::runtime::Builder::new_current_thread().enable_all().build();
        other.expect("a runtime").block_on(async {
            cache.put(key(number), answer("x"), MINUTE);
            find(&cache, key(number)).await;
        });
    };
    look_up(1);
    // The runtime of the first look-up is gone, and the connection is not.
    look_up(2);
    drop(redis);
}

#[tokio::test]
async fn a_cache_that_is_dropped_leaves_no_connection_behind() {
    let redis = Redis::start().await;
    let mut connection = connection(&redis).await;
    let cache = cache(&redis).await;
    let mut clients = async || {
        let list: String = redis::cmd("CLIENT")
            .arg("LIST")
            .query_async(&mut connection)
            .await
            .expect("a list of clients");
        list.lines().count()
    };
    eventually("both are connected", async || clients().await == 2).await;
    drop(cache);
    eventually("one is left", async || clients().await == 1).await;
}
