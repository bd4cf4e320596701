//! Who is calling: virtual keys and what they allow.

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tollway_wire::price::PicoDollars;

use crate::accounts::Kind;
use crate::hex::hex;
use crate::limits::RateLimits;
use crate::reject::Rejection;
use crate::treasury::{Budget, BudgetId, BudgetScope, Period};

/// The SHA-256 of a virtual key: how keys are stored, found and named. LiteLLM stores the same
/// hash, so that its keys keep working.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyHash(pub [u8; 32]);

impl KeyHash {
    /// The hash as 64 lower-case hexadecimal digits: `hashed_api_key` in metrics.
    pub fn hex(&self) -> String {
        hex(&self.0)
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
    /// Whether it is switched off.
    pub blocked: bool,
    /// When it ends, since the Unix epoch.
    pub expires: Option<Duration>,
    /// What it may spend: its own budgets, and those for one model group.
    pub budgets: Box<[Arc<Budget>]>,
    /// What its holder may do besides calling models.
    pub role: Role,
    /// It stands in the config, and cannot be changed by the API.
    pub from_config: bool,
    /// Set where this is no key but somebody an identity provider has vouched for.
    pub token: Option<Arc<TokenCaller>>,
    /// What it may do. Most keys are made alike: those that say the same share it.
    pub settings: Arc<KeySettings>,
}

/// What a key may do, as far as other keys may do the same.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct KeySettings {
    /// The models it may call: names, groups, `prefix/*` or `*`. Empty means all.
    pub models: Vec<String>,
    /// Names that mean another model for this key only.
    pub aliases: BTreeMap<String, String>,
    /// What it may use per minute and at once.
    pub limits: RateLimits,
    /// The same per model group, on top of `limits`.
    pub model_limits: BTreeMap<String, RateLimits>,
    /// Whatever operators noted about it.
    pub metadata: serde_json::Map<String, serde_json::Value>,
    /// The routes it may use, as patterns: `/v1/chat/completions`, `/key/*`, or LiteLLM's groups
    /// `llm_api_routes`, `management_routes`, `info_routes`. Empty means those of its role.
    pub routes: Vec<String>,
    /// The addresses it may be used from: address and length of the prefix. Empty means all.
    pub addresses: Vec<(IpAddr, u8)>,
    /// Tags that all its requests carry.
    pub tags: Vec<Arc<str>>,
}

/// What is known of a caller from a token besides what keys have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TokenCaller {
    /// The teams it may speak for, where there are several and it has named none: the team of a
    /// model call is the first of them that may use the model.
    pub teams: Vec<Arc<str>>,
    /// The end user it names, who is believed before the one that a request names.
    pub end_user: Option<Arc<str>>,
}

/// What somebody may administer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Nothing: a key without a user calls models, and sees itself.
    #[default]
    None,
    /// Their own keys and spend, to be seen (`internal_user_viewer`).
    UserViewer,
    /// Their own keys and spend, and the teams they are an admin of (`internal_user`).
    User,
    /// Everything, to be seen (`proxy_admin_viewer`).
    AdminViewer,
    /// Everything (`proxy_admin`).
    Admin,
}

impl Role {
    /// LiteLLM's name.
    pub fn name(self) -> Option<&'static str> {
        match self {
            Role::None => None,
            Role::UserViewer => Some("internal_user_viewer"),
            Role::User => Some("internal_user"),
            Role::AdminViewer => Some("proxy_admin_viewer"),
            Role::Admin => Some("proxy_admin"),
        }
    }

    /// The role of LiteLLM's name.
    pub fn from_name(name: &str) -> Option<Role> {
        [Role::UserViewer, Role::User, Role::AdminViewer, Role::Admin]
            .into_iter()
            .find(|role| role.name() == Some(name))
    }
}

/// What applies to all keys of somebody: of a team, a user, an end user, or to requests with a tag.
#[derive(Clone, Debug)]
pub struct Account {
    /// What it is.
    pub kind: Kind,
    /// Unique within its kind.
    pub id: Arc<str>,
    /// The name operators gave it: `team_alias`, `user_alias`.
    pub alias: Option<Arc<str>>,
    /// Of a user.
    pub email: Option<Arc<str>>,
    /// Of a user.
    pub role: Role,
    /// Of a team: the users in it, and whether each is an admin of it.
    pub members: BTreeMap<Arc<str>, bool>,
    /// The models that may be called; empty means all.
    pub models: Vec<String>,
    /// What all its keys may use together.
    pub limits: RateLimits,
    /// The same per model group.
    pub model_limits: BTreeMap<String, RateLimits>,
    /// What all its keys may spend together, and of that on one model.
    pub budgets: Vec<Arc<Budget>>,
    /// Of a team: what single members may spend of it.
    pub members_budgets: MembersBudgets,
    /// Whether it is switched off.
    pub blocked: bool,
    /// Whatever operators noted about it.
    pub metadata: serde_json::Map<String, serde_json::Value>,
}

/// What the members of a team may spend of it.
#[derive(Clone, Debug, Default)]
pub struct MembersBudgets {
    /// Each that has no budget of its own, with nobody as its `part`.
    pub each: Option<Arc<Budget>>,
    /// Those that have.
    pub own: BTreeMap<Arc<str>, Arc<Budget>>,
}

impl MembersBudgets {
    /// The budget of a member.
    pub fn budget(
        team: &Arc<str>,
        member: Option<&Arc<str>>,
        limit: PicoDollars,
        period: Option<Period>,
    ) -> Budget {
        let id = BudgetId {
            scope: BudgetScope::TeamMember,
            subject: Arc::clone(team),
            part: member.cloned(),
            period,
        };
        let owner = member.map_or_else(|| "".into(), |member| owner(member, team));
        Budget { id, limit: Some(limit), soft: None, owner }
    }
}

/// LiteLLM's words for a member.
fn owner(member: &str, team: &str) -> Arc<str> {
    format!("User={member} in Team={team}").into()
}

impl Account {
    /// What a user may spend of this team, if that is limited.
    pub fn of_member(&self, user: &Arc<str>) -> Option<Arc<Budget>> {
        let MembersBudgets { each, own } = &self.members_budgets;
        if let Some(own) = own.get(user) {
            return Some(Arc::clone(own));
        }
        let mut budget = Budget::clone(each.as_ref()?);
        budget.id.part = Some(Arc::clone(user));
        budget.owner = owner(user, &self.id);
        Some(Arc::new(budget))
    }
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
            blocked: false,
            expires: None,
            budgets: Box::default(),
            role: Role::None,
            from_config: false,
            token: None,
            settings: Arc::default(),
        }
    }

    /// The teams of a token that has several. The one that counts is known with the model.
    pub fn other_teams(&self) -> &[Arc<str>] {
        self.token.as_deref().map_or(&[], |token| &token.teams)
    }
}

/// Finds keys and what applies to them, in memory: a request never waits for a database.
pub trait KeyStore: Send + Sync {
    /// The key with this hash, whatever its state: blocked and expired ones as well, so that the
    /// caller can be told why.
    fn find(&self, hash: &KeyHash) -> Option<Arc<VirtualKey>>;

    /// Whether all keys are known. Until then one that is not found may be there all the same.
    fn is_complete(&self) -> bool {
        true
    }

    /// The team, user, end user or tag of this id, if somebody has said something about it.
    fn account(&self, kind: Kind, id: &str) -> Option<Arc<Account>> {
        let _ = (kind, id);
        None
    }
}

/// Finds out for whom a token speaks that an identity provider has signed: a JWT.
pub trait TokenVerifier: Send + Sync {
    /// The caller, as if it were a key. `hash` is the token's, `team` the one that the caller wants
    /// to be of.
    fn verify<'a>(&'a self, token: &'a str, hash: &KeyHash, team: Option<&'a str>) -> Verified<'a>;
}

/// What comes of looking at a token.
pub type Vouched = Result<Arc<VirtualKey>, Rejection>;

/// The same, at once or after the identity provider has been asked for its keys.
pub enum Verified<'a> {
    /// Known.
    Ready(Vouched),
    /// Not yet. The wait is short, and ends whether or not the provider answers.
    Wait(Pin<Box<dyn Future<Output = Vouched> + Send + 'a>>),
}
