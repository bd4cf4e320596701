//! Who may call: the keys of the config and those that are stored, with their users, teams, end users
//! and tags, all in memory.
//!
//! A look-up takes no lock and asks nobody. One task keeps it as the store is: it asks what has
//! changed a few times a second, and at once after a change that was made here. While the store is
//! away, what is known stays.

mod read;

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tollway_filter_api::accounts::{Accounts, Changed, Kind};
use tollway_filter_api::identity::{Account, KeyStore, Role};
use tollway_filter_api::ledger::StoreError;
use tollway_filter_api::{KeyHash, VirtualKey};

pub(crate) use read::{MEMBER_BUDGETS, OBJECT_PERMISSION, Terms, dollars, network};
use read::{Own, Read, Shared};

use crate::config::Keys;

/// How often the store is asked what has changed. A change on another node is seen after that and
/// the time it takes to ask, which is well below a second.
const EVERY: Duration = Duration::from_millis(250);
/// How many changes are asked for at once: what they take is only needed while they are read.
const PAGE: u64 = 500;

/// What is stored about callers.
pub(crate) struct Directory {
    accounts: Arc<dyn Accounts>,
    keys: papaya::HashMap<KeyHash, StoredKey>,
    /// By [`Kind`].
    people: [papaya::HashMap<Arc<str>, StoredAccount>; Kind::ALL.len()],
    budgets: papaya::HashMap<Arc<str>, Arc<Terms>>,
    /// Held by whoever brings news.
    refreshing: tokio::sync::Mutex<Shared>,
    /// Up to which change everything is known.
    version: AtomicU64,
    /// Whether the store answered when it was last asked.
    reached: AtomicBool,
    /// Whether everything that is stored has been read once.
    complete: AtomicBool,
}

struct StoredKey {
    key: Arc<VirtualKey>,
    own: Option<Box<Own>>,
}

struct StoredAccount {
    account: Arc<Account>,
    own: Option<Box<Own>>,
}

impl Directory {
    /// Nothing yet; [`Directory::refresh`] fills it.
    pub(crate) fn new(accounts: Arc<dyn Accounts>) -> Directory {
        Directory {
            accounts,
            keys: papaya::HashMap::new(),
            people: Default::default(),
            budgets: papaya::HashMap::new(),
            refreshing: tokio::sync::Mutex::default(),
            version: AtomicU64::new(0),
            reached: AtomicBool::new(false),
            complete: AtomicBool::new(false),
        }
    }

    /// Takes in what has changed.
    ///
    /// # Errors
    /// When the store cannot be asked. What is known stays.
    pub(crate) async fn refresh(&self) -> Result<(), StoreError> {
        let mut shared = self.refreshing.lock().await;
        loop {
            let since = self.version.load(Ordering::Relaxed);
            let asked = self.accounts.changed_since(since, PAGE).await;
            let was_reached = self.reached.swap(asked.is_ok(), Ordering::Relaxed);
            let news = match asked {
                Ok(news) => news,
                Err(error) => {
                    if was_reached || since == 0 {
                        tracing::warn!(%error, "the store of keys is away: they stay as last known");
                    }
                    return Err(error);
                }
            };
            let Some(version) = news.last().map(|changed| changed.version) else {
                self.complete.store(true, Ordering::Relaxed);
                return Ok(());
            };
            // What was changed together has one version, and is not torn apart.
            self.take_in(news, &mut shared);
            self.version.store(version, Ordering::Relaxed);
        }
    }

    /// Keeps up with the store, for ever: when it says that there is news, and from time to time.
    pub(crate) async fn follow(self: Arc<Self>, mut news: watch::Receiver<u64>) {
        let mut every = tokio::time::interval(EVERY);
        every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut is_told = true;
        loop {
            tokio::select! {
                _ = every.tick() => {}
                told = news.changed(), if is_told => is_told = told.is_ok(),
            }
            // It has said why not.
            let _ = self.refresh().await;
        }
    }

    /// Whether anything that is stored refers to this budget.
    pub(crate) fn refers_to_budget(&self, id: &str) -> bool {
        let refers = |own: &Option<Box<Own>>| own.as_ref().is_some_and(|own| *own.budget_id == *id);
        self.keys.pin().iter().any(|(_, stored)| refers(&stored.own))
            || self.people.iter().any(|p| p.pin().iter().any(|(_, stored)| refers(&stored.own)))
    }

    /// Whether the store answered when it was last asked.
    pub(crate) fn is_current(&self) -> bool {
        self.reached.load(Ordering::Relaxed)
    }

    fn take_in(&self, news: Vec<Changed>, shared: &mut Shared) {
        let budget_news = news.iter().filter(|changed| changed.kind == Kind::Budget);
        let budget_ids: HashSet<Arc<str>> = budget_news.map(|c| Arc::clone(&c.id)).collect();
        let user_news = news.iter().filter(|changed| changed.kind == Kind::User);
        let user_ids: HashSet<Arc<str>> = user_news.map(|c| Arc::clone(&c.id)).collect();
        // Budgets and users first: keys are made with what these say.
        let (first, rest): (Vec<_>, Vec<_>) =
            news.into_iter().partition(|c| matches!(c.kind, Kind::Budget | Kind::User));
        let (budgets, users): (Vec<_>, Vec<_>) =
            first.into_iter().partition(|changed| changed.kind == Kind::Budget);
        let known_budgets = self.budgets.pin();
        for Changed { id, object, .. } in budgets {
            match object {
                Some(object) => known_budgets.insert(id, Arc::new(Terms::of(&object.body))),
                None => known_budgets.remove(&id),
            };
        }
        let budget = |id: &str| known_budgets.get(id).cloned();
        for changed in users.into_iter().chain(rest) {
            match changed.kind {
                Kind::Key => self.take_in_key(&changed, shared, &budget),
                kind => {
                    let people = self.people[kind as usize].pin();
                    match changed.object {
                        Some(object) => {
                            let Read { made, own } = read::account(&object, &budget);
                            people
                                .insert(changed.id, StoredAccount { account: Arc::new(made), own });
                        }
                        None => {
                            people.remove(&changed.id);
                        }
                    }
                }
            }
        }
        self.follow_up(&budget_ids, &user_ids, shared, &budget);
    }

    fn take_in_key(
        &self,
        changed: &Changed,
        shared: &mut Shared,
        budget: &dyn Fn(&str) -> Option<Arc<Terms>>,
    ) {
        let Some(hash) = KeyHash::from_hex(&changed.id) else { return };
        let object = changed.object.as_ref();
        let read = object.and_then(|object| read::key(object, shared, budget));
        let keys = self.keys.pin();
        match read {
            Some(Read { mut made, own }) => {
                made.role = self.role_of(made.user.as_deref());
                keys.insert(hash, StoredKey { key: Arc::new(made), own });
            }
            None => {
                keys.remove(&hash);
            }
        }
    }

    /// Makes anew what depends on budgets and users that have changed.
    fn follow_up(
        &self,
        budget_ids: &HashSet<Arc<str>>,
        user_ids: &HashSet<Arc<str>>,
        shared: &mut Shared,
        budget: &dyn Fn(&str) -> Option<Arc<Terms>>,
    ) {
        if budget_ids.is_empty() && user_ids.is_empty() {
            return;
        }
        let refers = |own: &Option<Box<Own>>| {
            own.as_ref().filter(|own| budget_ids.contains(&own.budget_id)).is_some()
        };
        let is_theirs =
            |key: &VirtualKey| key.user.as_ref().is_some_and(|user| user_ids.contains(user));
        let keys = self.keys.pin();
        let touched =
            keys.iter().filter(|(_, stored)| refers(&stored.own) || is_theirs(&stored.key));
        let touched: Vec<KeyHash> = touched.map(|(hash, _)| *hash).collect();
        for hash in touched {
            let Some(stored) = keys.get(&hash) else { continue };
            let mut key = match &stored.own {
                Some(own) => own.key_again(&stored.key, budget(&own.budget_id).as_deref(), shared),
                None => (*stored.key).clone(),
            };
            key.role = self.role_of(key.user.as_deref());
            let own = stored.own.as_ref().map(|own| Box::new((**own).clone()));
            keys.insert(hash, StoredKey { key: Arc::new(key), own });
        }
        for people in &self.people {
            let people = people.pin();
            let touched = people.iter().filter(|(_, stored)| refers(&stored.own));
            let touched: Vec<Arc<str>> = touched.map(|(id, _)| Arc::clone(id)).collect();
            for id in touched {
                people.update(id, |stored| {
                    let account = match &stored.own {
                        Some(own) => {
                            own.account_again(&stored.account, budget(&own.budget_id).as_deref())
                        }
                        None => (*stored.account).clone(),
                    };
                    let own = stored.own.as_ref().map(|own| Box::new((**own).clone()));
                    StoredAccount { account: Arc::new(account), own }
                });
            }
        }
    }

    fn role_of(&self, user: Option<&str>) -> Role {
        let people = self.people[Kind::User as usize].pin();
        user.and_then(|user| people.get(user)).map_or(Role::None, |stored| stored.account.role)
    }
}

impl KeyStore for Directory {
    fn find(&self, hash: &KeyHash) -> Option<Arc<VirtualKey>> {
        self.keys.pin().get(hash).map(|stored| Arc::clone(&stored.key))
    }

    fn is_complete(&self) -> bool {
        self.complete.load(Ordering::Relaxed)
    }

    fn account(&self, kind: Kind, id: &str) -> Option<Arc<Account>> {
        self.people[kind as usize].pin().get(id).map(|stored| Arc::clone(&stored.account))
    }
}

/// The keys of one config before those that are stored: of two with the same hash the config's wins.
pub(crate) struct Joined {
    /// Of the config.
    pub(crate) config: Arc<Keys>,
    /// Of the store.
    pub(crate) stored: Arc<Directory>,
}

impl KeyStore for Joined {
    fn find(&self, hash: &KeyHash) -> Option<Arc<VirtualKey>> {
        self.config.find(hash).or_else(|| self.stored.find(hash))
    }

    fn is_complete(&self) -> bool {
        self.stored.is_complete()
    }

    fn account(&self, kind: Kind, id: &str) -> Option<Arc<Account>> {
        self.config.account(kind, id).or_else(|| self.stored.account(kind, id))
    }
}
