//! What filters get from outside.

use std::sync::Arc;

use secrecy::SecretBox;

use crate::cache::CacheStore;
use crate::clock::Clock;
use crate::identity::{KeyStore, TokenVerifier};
use crate::limits::LimitStore;
use crate::model::ModelDirectory;
use crate::treasury::Treasury;

/// Everything a filter may use besides the request.
#[derive(Clone)]
pub struct Deps {
    /// The time.
    pub clock: Clock,
    /// Virtual keys.
    pub keys: Arc<dyn KeyStore>,
    /// Tokens of identity providers, where they may sign in.
    pub tokens: Option<Arc<dyn TokenVerifier>>,
    /// Model groups.
    pub models: Arc<dyn ModelDirectory>,
    /// Rates and parallel requests. The same for all generations of the config.
    pub limits: Arc<dyn LimitStore>,
    /// Stored answers, if a cache is configured.
    pub cache: Option<Arc<dyn CacheStore>>,
    /// Budgets and the journal. `None` in tests of filters that spend nothing.
    pub treasury: Option<Arc<dyn Treasury>>,
    /// Where metrics are registered: [`crate::deps::Metrics`] gives each filter the same
    /// instruments after a reload.
    pub metrics: Arc<Metrics>,
    /// Where the request log goes.
    pub log: Arc<dyn LogSink>,
    /// What callers do not know, and all gateways do that share `cache`: for hashes that callers see.
    /// To be hashed with the name of what it is used for.
    pub secret: Arc<SecretBox<[u8; 32]>>,
}

/// The metrics of the process. Instruments are made once and shared by all generations of the
/// config, because Prometheus refuses to register a name twice.
#[derive(Default)]
pub struct Metrics {
    /// What `/metrics` prints.
    pub registry: prometheus::Registry,
    made: parking_lot::Mutex<Vec<Arc<dyn std::any::Any + Send + Sync>>>,
}

impl Metrics {
    /// The instruments of type `T`: made and registered by `make` the first time they are asked for.
    ///
    /// # Errors
    /// When `make` fails, which is when a name is registered twice.
    pub fn get_or_make<T: Send + Sync + 'static>(
        &self,
        make: impl FnOnce(&prometheus::Registry) -> prometheus::Result<T>,
    ) -> prometheus::Result<Arc<T>> {
        let mut made = self.made.lock();
        for have in made.iter() {
            if let Ok(have) = Arc::clone(have).downcast::<T>() {
                return Ok(have);
            }
        }
        let fresh = Arc::new(make(&self.registry)?);
        made.push(Arc::clone(&fresh) as Arc<dyn std::any::Any + Send + Sync>);
        Ok(fresh)
    }
}

/// Takes finished log lines. Never blocks; says nothing when it has to drop one but counts it.
pub trait LogSink: Send + Sync {
    /// Takes one line, without its line feed.
    fn line(&self, line: &[u8]);
}

/// A mistake in a filter's settings.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {message}")]
pub struct ConfigError {
    /// Where below the filter's entry: `key.rpm`, or empty for the entry itself.
    pub path: String,
    /// What is wrong, and what would be right.
    pub message: String,
}

impl ConfigError {
    /// A mistake at `path`.
    pub fn new(path: impl Into<String>, message: impl Into<String>) -> ConfigError {
        ConfigError { path: path.into(), message: message.into() }
    }
}

impl Deps {
    /// Empty stores, a manual clock and a log that forgets: for tests of one filter. Replace the
    /// fields a test cares about.
    pub fn for_test() -> Deps {
        Deps {
            clock: Clock::manual(),
            keys: Arc::new(Nothing),
            tokens: None,
            models: Arc::new(Nothing),
            limits: Arc::new(Nothing),
            cache: None,
            treasury: None,
            metrics: Arc::new(Metrics::default()),
            log: Arc::new(Nothing),
            secret: Arc::default(),
        }
    }
}

struct Nothing;

impl KeyStore for Nothing {
    fn find(&self, _: &crate::KeyHash) -> Option<Arc<crate::VirtualKey>> {
        None
    }
}

impl ModelDirectory for Nothing {
    fn resolve(&self, _: &str) -> Option<Arc<crate::ModelGroup>> {
        None
    }
    fn groups(&self) -> Vec<Arc<crate::ModelGroup>> {
        Vec::new()
    }
}

impl LimitStore for Nothing {
    fn reserve(
        &self,
        key: crate::limits::LimitKey,
        limit: u64,
        amount: u64,
        now: std::time::Instant,
    ) -> Result<(crate::limits::Ticket, crate::limits::Remaining), crate::limits::Exceeded> {
        let remaining =
            crate::limits::Remaining { limit, remaining: limit, reset: Default::default() };
        Ok((crate::limits::Ticket { key, at: now, amount }, remaining))
    }
    fn settle(&self, _: &crate::limits::Ticket, _: u64) {}
}

impl LogSink for Nothing {
    fn line(&self, _: &[u8]) {}
}
