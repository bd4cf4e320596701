//! `cache_params`, and the Redis they may name.

use super::*;

fn store(params: &str, more: &[(&'static str, &'static str)]) -> CacheStoreSettings {
    let text =
        with_model(&format!("litellm_settings: {{cache: true, cache_params: {{{params}}}}}\n"));
    let mut environment = environment();
    for (name, value) in more {
        environment.add(name.to_string(), value.to_string());
    }
    let (config, _) = load_with(&text, environment).unwrap_or_else(|m| panic!("{}", lines(&m)));
    config.cache.unwrap().store
}

#[track_caller]
fn redis(params: &str, more: &[(&'static str, &'static str)], expect: &str) {
    use tollway_store::redis_link::RedisServer;
    let CacheStoreSettings::Redis(settings) = store(params, more) else { panic!("not Redis") };
    let found = match &settings.server {
        RedisServer::Url(url) => url.expose_secret().to_owned(),
        RedisServer::Parts { host, port, username, password, db, tls } => {
            let password = password.as_ref().map(|password| password.expose_secret());
            let tls = if *tls { "tls " } else { "" };
            format!("{tls}{username:?} {password:?} {host}:{port}/{db} {}", settings.namespace)
        }
        RedisServer::Cluster { nodes, .. } => format!("{nodes:?}"),
        RedisServer::Private { .. } => panic!("no certificates are named"),
    };
    assert_eq!(found, expect);
}

#[test]
fn the_store_is_memory_unless_a_redis_is_named() {
    let memory = |params: &str| match store(params, &[]) {
        CacheStoreSettings::Memory { bytes_max } => bytes_max,
        CacheStoreSettings::Redis(_) => panic!("Redis"),
    };
    assert_eq!(memory(""), 64 << 20);
    assert_eq!(memory("type: local, max_size_in_memory: 1MiB"), 1 << 20);
    redis("host: h, password: p, namespace: n", &[], "None Some(\"p\") h:6379/0 n");
    redis(
        "host: h, port: 7000, username: u, db: 2",
        &[("REDIS_PASSWORD", "p")],
        "Some(\"u\") Some(\"p\") h:7000/2 ",
    );
    redis("type: redis", &[("REDIS_HOST", "h"), ("REDIS_PORT", "7")], "None None h:7/0 ");
    redis("", &[("REDIS_URL", "redis://h:1/0")], "redis://h:1/0");
    redis("url: 'rediss://h'", &[], "rediss://h");
    redis("host: h, ssl: true", &[], "tls None None h:6379/0 ");
    redis(
        "redis_startup_nodes: [{host: a, port: 7001}, {host: b}]",
        &[],
        "[(\"a\", 7001), (\"b\", 6379)]",
    );
    redis("", &[("REDIS_CLUSTER_NODES", r#"[{"host": "a", "port": 7001}]"#)], "[(\"a\", 7001)]");
    redis("host: h", &[("REDIS_URL", "redis://h:1/0")], "None None h:6379/0 ");
}

#[test]
fn the_shared_redis_has_litellms_names() {
    use tollway_store::redis_link::RedisServer;
    let database = "database_url: 'postgres://h/d'";
    assert!(config(&with_model("")).redis.is_none());
    let text = format!("general_settings: {{{database}, redis_url: 'redis://h:1'}}\n");
    let Some(RedisServer::Url(url)) = config(&with_model(&text)).redis else { panic!("no URL") };
    assert_eq!(url.expose_secret(), "redis://h:1");
    let text = format!(
        "router_settings: {{redis_host: h, redis_port: 7, redis_username: u, redis_db: 2}}\n\
         general_settings: {{{database}}}\n"
    );
    let Some(RedisServer::Parts { host, port, username, password, db, .. }) =
        config(&with_model(&text)).redis
    else {
        panic!("no parts")
    };
    assert_eq!((host.as_str(), port, username.as_deref(), db), ("h", 7, Some("u"), 2));
    assert!(password.is_none());
    let without = "router_settings: {redis_host: h}\n";
    mistakes(
        &with_model(without),
        &[
            "router_settings.redis_host: gateways that share a Redis share what was spent as well, for which a Postgres is missing: set general_settings.database_url",
        ],
    );
    let twice = format!(
        "router_settings: {{redis_url: 'redis://h'}}\n\
         general_settings: {{{database}, redis_url: 'redis://h'}}\n"
    );
    mistakes(
        &with_model(&twice),
        &["general_settings.redis_url: router_settings names a Redis as well: give one of them"],
    );
    let odd = format!("general_settings: {{{database}, redis_url: 'http://h'}}\n");
    mistakes(&with_model(&odd), &["general_settings.redis_url: must be of the form redis://"]);
}

#[test]
fn a_redis_that_cannot_be_reached_is_a_mistake() {
    let with = |params: &str| {
        with_model(&format!("litellm_settings: {{cache: true, cache_params: {{{params}}}}}\n"))
    };
    mistakes(
        &with("host: h, redis_startup_nodes: [{host: a}], db: 3"),
        &["redis_startup_nodes: give these, a `host` or a `url`", "db: a Redis cluster has no"],
    );
    mistakes(&with("type: redis"), &["cache_params: `redis` needs a `host` or a `url`"]);
    mistakes(&with("url: 'rediss://:hunter2@h/#insecure'"), &["must not end with #insecure"]);
    mistakes(&with("url: 'redis://h', ssl: true"), &["ssl: does not go with a `url` that is not"]);
    mistakes(&with("type: local2"), &["type: must be `local` or `redis`; did you mean `local`?"]);
    mistakes(
        &with("host: h, ssl: true, ssl_ca_certs: /nowhere/at/all"),
        &["cache_params.ssl_ca_certs: this file cannot be read"],
    );
}

#[test]
fn other_caches_of_litellms_are_replaced_with_a_warning() {
    warnings(
        &with_model(
            "litellm_settings: {cache: true, cache_params: {type: s3, s3_bucket_name: b}}\n",
        ),
        &["type: `s3` is not supported yet; `local` is used instead", "s3_bucket_name"],
    );
}

#[test]
fn cache_params_become_the_filters_settings() {
    let config = config(&with_model(
        "litellm_settings:\n  cache: true\n  cache_params: {ttl: 10m, mode: default_off, supported_call_types: [acompletion]}\n",
    ));
    let filter = config.filters.last().unwrap();
    assert_eq!(filter.name, "response_cache");
    let expect =
        json!({"ttl": 600, "mode": "default_off", "supported_call_types": ["acompletion"]});
    assert_eq!(filter.settings, expect);
}
