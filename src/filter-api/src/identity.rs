//! Who is calling: virtual keys and what they allow.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::limits::RateLimits;

/// The SHA-256 of a virtual key: how keys are stored, found and named. LiteLLM stores the same
/// hash, so that its keys keep working.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyHash(pub [u8; 32]);

impl KeyHash {
    /// The hash as 64 lower-case hexadecimal digits: `hashed_api_key` in metrics.
    pub fn hex(&self) -> String {
        use fmt::Write;
        self.0.iter().fold(String::with_capacity(64), |mut hex, byte| {
            let _ = write!(hex, "{byte:02x}");
            hex
        })
    }

    /// Reads 64 hexadecimal digits.
    pub fn from_hex(hex: &str) -> Option<KeyHash> {
        let hex = hex.as_bytes();
        if hex.len() != 64 {
            return None;
        }
        let mut hash = [0; 32];
        for (byte, digits) in hash.iter_mut().zip(hex.chunks_exact(2)) {
            let high = (digits[0] as char).to_digit(16)?;
            let low = (digits[1] as char).to_digit(16)?;
            *byte = (high * 16 + low) as u8;
        }
        Some(KeyHash(hash))
    }
}

impl fmt::Debug for KeyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyHash({}…)", &self.hex()[..8])
    }
}

/// A key that callers present, and what it allows. The key itself is not kept, only its hash.
#[derive(Clone, Debug)]
pub struct VirtualKey {
    /// The SHA-256 of the key.
    pub hash: KeyHash,
    /// `hash` in hexadecimal, ready for labels and logs.
    pub hash_hex: Arc<str>,
    /// The name operators gave it.
    pub alias: Option<Arc<str>>,
    /// Whether this is the master key, which may call everything.
    pub master: bool,
    /// The user it belongs to.
    pub user: Option<Arc<str>>,
    /// The team it belongs to.
    pub team: Option<Arc<str>>,
    /// The models it may call: names, groups, `prefix/*` or `*`. Empty means all.
    pub models: Vec<String>,
    /// Names that mean another model for this key only.
    pub aliases: BTreeMap<String, String>,
    /// What it may use per minute and at once.
    pub limits: RateLimits,
    /// The same per model group, on top of `limits`.
    pub model_limits: BTreeMap<String, RateLimits>,
    /// Whether it is switched off.
    pub blocked: bool,
    /// When it ends, since the Unix epoch.
    pub expires: Option<Duration>,
    /// Whatever operators noted about it.
    pub metadata: serde_json::Map<String, serde_json::Value>,
}

impl VirtualKey {
    /// A key without limits or a name.
    pub fn new(hash: KeyHash) -> VirtualKey {
        VirtualKey {
            hash,
            hash_hex: hash.hex().into(),
            alias: None,
            master: false,
            user: None,
            team: None,
            models: Vec::new(),
            aliases: BTreeMap::new(),
            limits: RateLimits::default(),
            model_limits: BTreeMap::new(),
            blocked: false,
            expires: None,
            metadata: serde_json::Map::new(),
        }
    }
}

/// Finds keys. The one implementation so far holds the keys of the config in memory.
pub trait KeyStore: Send + Sync {
    /// The key with this hash, whatever its state: blocked and expired ones as well, so that the
    /// caller can be told why.
    fn find(&self, hash: &KeyHash) -> Option<Arc<VirtualKey>>;
}
