//! The cache of answers: `/cache/*`.

use std::sync::Arc;

use serde_json::{Value, json};
use tollway_filter_api::cache::{CacheKey, CacheStore};
use tollway_filter_api::{KeyHash, Reject, Rejection};

use super::Ask;
use super::fields;
use super::store::CHANGED_MAX;

impl Ask<'_> {
    fn cache(&self) -> Result<&Arc<dyn CacheStore>, Rejection> {
        self.around.cache.ok_or_else(|| {
            let message = "There is no cache: litellm_settings.cache turns it on.";
            Reject::invalid_request(message).with_code("no_cache")
        })
    }

    pub(super) async fn cache_ping(&self) -> Result<Value, Rejection> {
        let cache = self.cache()?;
        cache.ping().await.map_err(away)?;
        let kind = if cache.bytes_max().is_some() { "local" } else { "redis" };
        Ok(json!({"status": "healthy", "cache_type": kind, "ping_response": true}))
    }

    pub(super) async fn cache_delete(&self) -> Result<Value, Rejection> {
        let named = self.said.names("keys");
        if named.len() > CHANGED_MAX {
            return Err(fields::wrong("keys", &format!("shorter: at most {CHANGED_MAX} entries")));
        }
        // What a namespace puts before the hash is not part of it.
        let key = |name: &&str| {
            let hash = name.rsplit(':').next().and_then(KeyHash::from_hex)?;
            Some(CacheKey(hash.0))
        };
        let keys: Option<Vec<CacheKey>> = named.iter().map(key).collect();
        let keys =
            keys.ok_or_else(|| fields::wrong("keys", "a list of x-litellm-cache-key values"))?;
        self.cache()?.remove(&keys).await.map_err(away)?;
        Ok(json!({"status": "success", "deleted_keys": named}))
    }

    pub(super) async fn cache_flush(&self) -> Result<Value, Rejection> {
        self.cache()?.clear().await.map_err(away)?;
        Ok(json!({"status": "success"}))
    }
}

fn away(why: &'static str) -> Rejection {
    let mut reject =
        Reject::new(503, "internal_server_error", format!("The cache cannot do this: {why}."));
    reject.retry_after = Some(std::time::Duration::from_secs(1));
    reject.with_code("cache_unavailable")
}
