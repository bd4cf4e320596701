//! The virtual keys of the config, by their hashes.

use std::collections::HashMap;
use std::sync::Arc;

use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
use tollway_filter_api::accounts::Kind;
use tollway_filter_api::identity::{Account, KeyStore};
use tollway_filter_api::{KeyHash, VirtualKey};

/// How keys are stored and found. LiteLLM hashes its own in the same way.
pub(super) fn hash(key: &SecretString) -> KeyHash {
    KeyHash(Sha256::digest(key.expose_secret()).into())
}

/// The keys of one config, the master key among them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Keys {
    keys: HashMap<KeyHash, Arc<VirtualKey>>,
    /// In the order of the config.
    listed: Vec<Arc<VirtualKey>>,
    /// Teams and users.
    accounts: HashMap<Kind, HashMap<Arc<str>, Arc<Account>>>,
    /// Empty as long as there is none.
    master: SecretString,
}

impl Keys {
    /// Adds the key that may do everything.
    pub(super) fn add_master(&mut self, key: &SecretString) {
        self.master = key.clone();
        self.add(VirtualKey { master: true, ..VirtualKey::new(hash(key)) });
    }

    /// The key that may do everything.
    pub(crate) fn master(&self) -> &SecretString {
        &self.master
    }

    /// Adds a key, unless it is there already.
    pub(super) fn add(&mut self, key: VirtualKey) -> bool {
        if self.keys.contains_key(&key.hash) {
            return false;
        }
        let key = Arc::new(key);
        self.keys.insert(key.hash, Arc::clone(&key));
        self.listed.push(key);
        true
    }

    /// Adds a team or user, unless it is there already.
    pub(super) fn add_account(&mut self, account: Account) -> bool {
        let of_kind = self.accounts.entry(account.kind).or_default();
        let is_new = !of_kind.contains_key(&account.id);
        of_kind.entry(Arc::clone(&account.id)).or_insert_with(|| Arc::new(account));
        is_new
    }

    /// All of them, in the order of the config, the master key first.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &VirtualKey> {
        self.listed.iter().map(|key| &**key)
    }
}

impl KeyStore for Keys {
    fn find(&self, hash: &KeyHash) -> Option<Arc<VirtualKey>> {
        self.keys.get(hash).cloned()
    }

    fn account(&self, kind: Kind, id: &str) -> Option<Arc<Account>> {
        self.accounts.get(&kind)?.get(id).cloned()
    }
}
