//! What the names of cached answers are hashed with: callers see hashes, and must not be able to try
//! anything with them, neither requests nor master keys.

use std::num::NonZeroU32;
use std::sync::Arc;

use ring::pbkdf2;
use secrecy::{ExposeSecret, SecretBox, SecretString};

/// [`tollway_filter_api::Deps::secret`]
pub(crate) type CacheSecret = Arc<SecretBox<[u8; 32]>>;

/// What one guess at a master key costs: OWASP's figure for PBKDF2 with HMAC-SHA-256 (Password Storage
/// Cheat Sheet, 2026-11). Some tenths of a second, once for each master key.
const ITERATIONS: NonZeroU32 = NonZeroU32::new(600_000).unwrap();

/// Not random, because all gateways of a master key must come to the same.
const SALT: &[u8] = b"tollway cache secret 1";

/// The secrets of this process: the same after each reload.
#[derive(Default)]
pub(crate) struct CacheSecrets {
    own: Option<CacheSecret>,
    /// The last one that was made from a master key, and that key.
    shared: Option<(SecretString, CacheSecret)>,
}

impl CacheSecrets {
    /// One that nobody else has: for answers that this process keeps to itself.
    ///
    /// # Errors
    /// When the machine has no random numbers.
    pub(crate) fn own(&mut self) -> Result<CacheSecret, getrandom::Error> {
        if let Some(own) = &self.own {
            return Ok(Arc::clone(own));
        }
        let mut bytes = Box::new([0; 32]);
        getrandom::fill(&mut *bytes)?;
        Ok(Arc::clone(self.own.insert(Arc::new(SecretBox::new(bytes)))))
    }

    /// The one of all gateways that have this master key.
    pub(crate) fn shared(&mut self, master_key: &SecretString) -> CacheSecret {
        let key = master_key.expose_secret();
        if let Some((made_from, shared)) = &self.shared
            && made_from.expose_secret() == key
        {
            return Arc::clone(shared);
        }
        let mut bytes = Box::new([0; 32]);
        let hmac = pbkdf2::PBKDF2_HMAC_SHA256;
        pbkdf2::derive(hmac, ITERATIONS, SALT, key.as_bytes(), &mut *bytes);
        let shared = Arc::new(SecretBox::new(bytes));
        self.shared = Some((master_key.clone(), Arc::clone(&shared)));
        shared
    }
}
