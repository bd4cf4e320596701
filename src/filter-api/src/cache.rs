//! The trait of what keeps answers.

use std::future::Future;
use std::hash::{Hash, Hasher};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tollway_wire::event_log::Packed;
use tollway_wire::usage::Usage;

use crate::hex::hex;

/// The name of an entry: a keyed hash over tenant, group and canonical request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheKey(pub [u8; 32]);

impl CacheKey {
    /// 64 lower-case hexadecimal digits: what `x-litellm-cache-key` says.
    pub fn hex(&self) -> String {
        hex(&self.0)
    }
}

impl Hash for CacheKey {
    /// Of a hash, any part is one.
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write(&self.0[..8]);
    }
}

/// One stored answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CachedAnswer {
    /// Whether a streamed `body` has the event that carries nothing but usage: its first caller had
    /// asked for `stream_options.include_usage`.
    pub usage_event: bool,
    /// The model name in `body`: the one its first caller had asked for. Another name of the same
    /// group may be what the next one asks for.
    pub model: Arc<str>,
    /// The answer as the client got it.
    pub body: CachedBody,
    /// What the provider counted for it.
    pub usage: Option<Usage>,
    /// When it was stored, since the Unix epoch: for `s-maxage`.
    pub stored: Duration,
}

/// What was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CachedBody {
    /// One JSON document.
    Whole(Bytes),
    /// Server-sent events.
    Events(Packed),
}

impl CachedBody {
    /// How many bytes are kept of it.
    pub fn held(&self) -> usize {
        match self {
            CachedBody::Whole(json) => json.len(),
            CachedBody::Events(events) => events.pieces().len(),
        }
    }
}

/// What a look-up gives: at once from memory, or after asking a server.
pub enum Lookup<'a> {
    /// The answer is here.
    Ready(Option<Arc<CachedAnswer>>),
    /// A server has to be asked. An unreachable server is a miss.
    Wait(Pin<Box<dyn Future<Output = Option<Arc<CachedAnswer>>> + Send + 'a>>),
}

/// What managing a cache comes to: why it could not be done, in words for operators.
pub type Managing<'a> = Pin<Box<dyn Future<Output = Result<(), &'static str>> + Send + 'a>>;

/// Keeps answers for a while.
pub trait CacheStore: Send + Sync {
    /// Looks an entry up.
    fn get(&self, key: CacheKey) -> Lookup<'_>;

    /// Stores an entry for `ttl`. Does not wait and cannot fail: a cache that is full or away just
    /// does not keep it.
    fn put(&self, key: CacheKey, answer: CachedAnswer, ttl: Duration);

    /// How many bytes it keeps at most, if it knows.
    fn bytes_max(&self) -> Option<u64> {
        None
    }

    /// Whether it works at the moment.
    fn ping(&self) -> Managing<'_> {
        Box::pin(async { Ok(()) })
    }

    /// Forgets some entries, if they are there.
    fn remove<'a>(&'a self, keys: &'a [CacheKey]) -> Managing<'a> {
        let _ = keys;
        Box::pin(async { Err("this cache forgets nothing on demand") })
    }

    /// Forgets everything.
    fn clear(&self) -> Managing<'_> {
        Box::pin(async { Err("this cache forgets nothing on demand") })
    }
}

/// The events of an answer, where the gateway writes them down anyway.
pub trait Recorded: Send + Sync {
    /// All of them, once the last one has come; `None` where some are missing or they are more than
    /// `bytes_max`.
    fn events(&self, bytes_max: usize) -> Option<Packed>;
}
