//! Where an identity provider's keys come from, and how they stay true.
//!
//! One task a provider fetches them at the start and after every `public_key_ttl`. A token with a key
//! that is not known makes it fetch them at once, at most every 30 seconds, and the requests that
//! need them wait for that, a second at most. While the provider is away, its last keys are used.

use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use serde_json::Value;
use tokio::sync::{Notify, watch};
use tokio::time::{sleep, timeout};
use tollway_filter_api::Clock;

use super::jwks::{self, Key};
use crate::config::{KeysAt, is_safe_beside};
use crate::exchange::{Asked, Pool};

/// How long one document may take to come.
const FETCH_WAIT: Duration = Duration::from_secs(5);
/// The largest document.
const BYTES_MAX: usize = 256 * 1024;
/// How long requests wait for keys that are being fetched.
pub(super) const REQUEST_WAIT: Duration = Duration::from_secs(1);
/// How long after one fetch for an unknown key the next may be. Tokens are made up easily.
const UNKNOWN_EVERY: Duration = Duration::from_secs(30);
/// The first pause after a fetch that failed; doubled each time up to the second, or the TTL.
const RETRY_FIRST: Duration = Duration::from_millis(500);
const RETRY_LAST: Duration = Duration::from_secs(30);
/// What faults call an identity provider.
const NAME: &str = "identity provider";

/// The keys of one identity provider.
pub(crate) struct Source {
    at: KeysAt,
    ttl: Duration,
    pool: Arc<Pool>,
    clock: Clock,
    set: ArcSwap<KeySet>,
    state: Mutex<State>,
    wanted: Notify,
    /// How many fetches there were.
    finished: watch::Sender<u64>,
}

/// The keys at one moment.
#[derive(Default)]
pub(super) struct KeySet {
    /// Grows with every change. 0: there was none yet.
    pub(super) version: u64,
    pub(super) keys: Vec<Key>,
}

#[derive(Default)]
struct State {
    /// A fetch is under way, or about to be.
    is_busy: bool,
    /// When one was last made for an unknown key.
    unknown_at: Option<Instant>,
}

impl Source {
    /// Starts to follow the keys at `at`, until nobody has the source any more.
    pub(super) fn start(
        at: KeysAt,
        ttl: Duration,
        pool: Arc<Pool>,
        clock: Clock,
        runtime: &tokio::runtime::Handle,
    ) -> Arc<Source> {
        let source = Arc::new(Source {
            at,
            ttl,
            pool,
            clock,
            set: ArcSwap::default(),
            state: Mutex::new(State { is_busy: true, unknown_at: None }),
            wanted: Notify::new(),
            finished: watch::Sender::new(0),
        });
        runtime.spawn(follow(Arc::downgrade(&source)));
        source
    }

    /// Whether this is where these keys come from, as often.
    pub(super) fn is_of(&self, at: &KeysAt, ttl: Duration) -> bool {
        self.at == *at && self.ttl == ttl
    }

    pub(super) fn keys(&self) -> Arc<KeySet> {
        self.set.load_full()
    }

    /// Has the keys fetched, if that may be now. Whether keys are coming.
    pub(super) fn ask(&self) -> bool {
        let now = self.clock.now();
        let mut state = self.state.lock();
        if !state.is_busy {
            if state.unknown_at.is_some_and(|at| now < at + UNKNOWN_EVERY) {
                return false;
            }
            state.is_busy = true;
            state.unknown_at = Some(now);
            self.wanted.notify_one();
        }
        true
    }

    /// Waits until the keys that are coming are there, not for long.
    pub(super) async fn arrival(&self) {
        let mut finished = self.finished.subscribe();
        // Only after that, so that no end is missed.
        if self.state.lock().is_busy {
            let _ = timeout(REQUEST_WAIT, finished.changed()).await;
        }
    }

    /// Fetches the keys once. `last` are the documents as they were, and stay where one is away.
    async fn refresh(&self, last: &mut Vec<Vec<Key>>) -> bool {
        let mut is_whole = true;
        let urls = match self.urls().await {
            Ok(urls) => urls,
            Err(why) => {
                self.complain(&why);
                is_whole = false;
                Vec::new()
            }
        };
        last.resize_with(urls.len().max(last.len()), Vec::new);
        for (url, last) in urls.iter().zip(last.iter_mut()) {
            let fetched = self.document(url).await;
            match fetched.and_then(|text| jwks::read(&text).map_err(|e| e.to_string())) {
                Ok(keys) => *last = keys,
                Err(why) => {
                    self.complain(&why);
                    is_whole = false;
                }
            }
        }
        let keys = last.concat();
        let have = self.set.load();
        if have.keys != keys {
            tracing::info!(keys = keys.len(), from = %self.at, "identity provider: new keys");
            self.set.store(Arc::new(KeySet { version: have.version + 1, keys }));
        }
        is_whole
    }

    fn complain(&self, why: &str) {
        tracing::warn!(from = %self.at, why, "the identity provider's keys cannot be fetched");
    }

    /// Where the sets are.
    async fn urls(&self) -> Result<Vec<String>, String> {
        let (document, issuer) = match &self.at {
            KeysAt::Sets(urls) => return Ok(urls.clone()),
            KeysAt::Discovery { url, issuer } => (url, issuer),
        };
        let text = self.document(document).await?;
        let said: Value =
            serde_json::from_slice(&text).map_err(|_| "its configuration is no JSON".to_owned())?;
        let member = |name| said.get(name).and_then(Value::as_str);
        // OpenID Connect Discovery 4.3: else somebody could send us to another one's keys.
        if issuer.as_deref().is_some_and(|issuer| member("issuer") != Some(issuer)) {
            return Err("its configuration names another issuer".to_owned());
        }
        let url = member("jwks_uri").ok_or("its configuration has no jwks_uri")?;
        if !is_safe_beside(url, document) {
            return Err("its jwks_uri is not https".to_owned());
        }
        Ok(vec![url.to_owned()])
    }

    async fn document(&self, url: &str) -> Result<bytes::Bytes, String> {
        let asked = Asked { url, form: None, wait: FETCH_WAIT, bytes_max: BYTES_MAX };
        let fetch = asked.fetch(&self.pool, &self.clock, NAME);
        match timeout(FETCH_WAIT, fetch).await {
            Ok(Ok((200, text))) => Ok(text),
            Ok(Ok((status, _))) => Err(format!("it answered {status}")),
            Ok(Err(fault)) => {
                let reject = fault.into_reject();
                let source = reject.source.as_ref().map(ToString::to_string);
                Err(source.unwrap_or_else(|| reject.message.to_string()))
            }
            Err(_) => Err("it took too long".to_owned()),
        }
    }
}

/// Keeps a source's keys true.
async fn follow(source: Weak<Source>) {
    let mut last = Vec::new();
    let mut retry = RETRY_FIRST;
    loop {
        let Some(strong) = source.upgrade() else { return };
        let is_whole = strong.refresh(&mut last).await;
        strong.state.lock().is_busy = false;
        strong.finished.send_modify(|count| *count += 1);
        let pause = if is_whole { strong.ttl } else { retry.min(strong.ttl) };
        retry = if is_whole { RETRY_FIRST } else { (retry * 2).min(RETRY_LAST) };
        wait(strong, pause).await;
        let Some(strong) = source.upgrade() else { return };
        strong.state.lock().is_busy = true;
    }
}

/// Waits until it is time, or until keys are wanted; does not keep a source that nobody has.
async fn wait(source: Arc<Source>, pause: Duration) {
    const LOOK: Duration = Duration::from_secs(5);
    let weak = Arc::downgrade(&source);
    let mut left = pause;
    let mut held = Some(source);
    while let Some(source) = held.take() {
        let step = left.min(LOOK);
        tokio::select! {
            _ = source.wanted.notified() => return,
            _ = sleep(step) => left -= step,
        }
        drop(source);
        if left.is_zero() {
            return;
        }
        held = weak.upgrade();
    }
}
