//! `litellm_settings.cache_params` as written.

use std::time::Duration;

use super::super::litellm;
use super::super::mistake::hint;
use super::super::reader::Fields;
use super::super::redis::FileRedis;
use super::super::yaml::{Node, Value};

/// `litellm_settings.cache_params`
#[derive(Debug, Default)]
pub(crate) struct FileCache {
    /// `type`: `local` (memory) or `redis`. Default: `redis` where a Redis is named here or in
    /// `REDIS_HOST` or `REDIS_URL`, else `local`.
    pub(crate) kind: Option<CacheKind>,
    /// Where the Redis is. What is left out is taken from `REDIS_URL`, or from `REDIS_HOST`,
    /// `REDIS_PORT`, `REDIS_USERNAME` and `REDIS_PASSWORD`.
    pub(crate) redis: FileRedis,
    /// `namespace`: what the keys in Redis begin with.
    pub(crate) namespace: Option<String>,
    /// `ttl`: how long an answer is kept.
    pub(crate) ttl: Option<Duration>,
    /// `mode`: `default_on` caches everything, `default_off` what asks for it by
    /// `"cache": {"use-cache": true}`.
    pub(crate) default_off: Option<bool>,
    /// `supported_call_types`: which operations are cached, by LiteLLM's names: `acompletion`,
    /// `atext_completion`, `aembedding`. Default: all.
    pub(crate) supported_call_types: Option<Vec<String>>,
    /// `max_size_in_memory`: the most memory the cache takes, in bytes. Default 64 MiB.
    pub(crate) memory_bytes_max: Option<u64>,
}

/// Where answers are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CacheKind {
    /// In memory.
    Local,
    /// In a Redis.
    Redis,
}

pub(super) fn read_cache(fields: &mut Fields<'_>) -> FileCache {
    let kind = fields.text("type").and_then(|kind| match kind.as_str() {
        "local" => Some(CacheKind::Local),
        "redis" => Some(CacheKind::Redis),
        other if litellm::CACHE_TYPES.contains(&other) => {
            let (instead, name) = match other {
                "redis-semantic" => (CacheKind::Redis, "redis"),
                _ => (CacheKind::Local, "local"),
            };
            let path = fields.path("type");
            let message = format!("`{other}` is not supported yet; `{name}` is used instead");
            fields.reader.report.warning(&path, message);
            Some(instead)
        }
        other => {
            let known = litellm::CACHE_TYPES.iter().copied().chain(["local", "redis"]);
            let hint = hint(other, known);
            fields.wrong("type", format!("must be `local` or `redis`{hint}"));
            None
        }
    });
    let supported_call_types = match fields.take("supported_call_types") {
        None | Some(Node { value: Value::Null, .. }) => None,
        Some(node) => {
            let path = fields.path("supported_call_types");
            Some(fields.reader.texts(node, &path))
        }
    };
    FileCache {
        kind,
        redis: FileRedis::read(fields),
        namespace: fields.text("namespace"),
        ttl: fields.timeout("ttl"),
        default_off: fields.choice("mode", &[("default_on", false), ("default_off", true)]),
        supported_call_types,
        memory_bytes_max: fields.bytes("max_size_in_memory"),
    }
}
