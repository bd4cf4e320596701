//! Sign-in with the tokens of identity providers: JWTs, verified here.
//!
//! ```text
//! auth filter ── cache by SHA-256 ──────────────────────────────┐
//!                    │ (unknown)                                ├── who is it, now? ── VirtualKey
//!                    └── token (taken apart) ── source (keys) ──┘      │ directory: user, teams
//!                                                  claims → person     └ upsert: written behind
//! ```
//! A caller with a token is a [`VirtualKey`] that nobody has stored, so that models, limits, budgets,
//! roles and the audit log work as they do for keys. Its hash is made of who it is and not of the
//! token: whatever counts by key counts by person, however often the token changes. No key can have
//! that hash, because what is hashed has a byte that no header can have.

mod cache;
mod claims;
mod jwks;
mod source;
#[cfg(test)]
mod tests;
mod token;
mod upsert;

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;
use http::header::WWW_AUTHENTICATE;
use sha2::{Digest, Sha256};
use tollway_filter_api::accounts::{Accounts, Kind};
use tollway_filter_api::identity::{
    Account, KeyStore, Role, TokenCaller, TokenVerifier, Verified, Vouched,
};
use tollway_filter_api::{Clock, KeyHash, Reject, Rejection, VirtualKey};

use crate::config::{JwtIssuer, JwtSettings, KeysAt};
use crate::directory::Directory;
use crate::exchange::Pool;
use cache::{Cache, Seen};
use claims::{Person, Stranger};
use source::Source;
use token::{Doubt, Token};
use upsert::Upsert;

/// What outlives a config: connections, where new people are written, and keys that are known.
pub(crate) struct Oidc {
    pool: Arc<Pool>,
    clock: Clock,
    runtime: tokio::runtime::Handle,
    upsert: Arc<Upsert>,
    sources: Vec<Arc<Source>>,
}

impl Oidc {
    /// Nothing yet.
    pub(crate) fn new(
        pool: Arc<Pool>,
        clock: Clock,
        runtime: tokio::runtime::Handle,
        accounts: Arc<dyn Accounts>,
        directory: Arc<Directory>,
    ) -> Oidc {
        let upsert = Upsert::start(accounts, directory, clock.clone(), &runtime);
        Oidc { pool, clock, runtime, upsert, sources: Vec::new() }
    }

    /// What verifies by these settings. Keys that an earlier one knew from the same place stay.
    pub(crate) fn verifier(
        &mut self,
        settings: JwtSettings,
        keys: Arc<dyn KeyStore>,
    ) -> Arc<Verifier> {
        let known = std::mem::take(&mut self.sources);
        let source = |at: &KeysAt| {
            let have = known.iter().find(|source| source.is_of(at, settings.key_ttl));
            have.cloned().unwrap_or_else(|| {
                let (pool, clock) = (Arc::clone(&self.pool), self.clock.clone());
                Source::start(at.clone(), settings.key_ttl, pool, clock, &self.runtime)
            })
        };
        self.sources = settings.issuers.iter().map(|issuer| source(&issuer.keys)).collect();
        Arc::new(Verifier {
            settings,
            sources: self.sources.clone(),
            keys,
            clock: self.clock.clone(),
            upsert: Arc::clone(&self.upsert),
            cache: Cache::default(),
        })
    }
}

/// Verifies tokens by one config.
pub(crate) struct Verifier {
    settings: JwtSettings,
    /// By the place in `settings.issuers`.
    sources: Vec<Arc<Source>>,
    keys: Arc<dyn KeyStore>,
    clock: Clock,
    upsert: Arc<Upsert>,
    cache: Cache,
}

/// Why a token does not get in. Goes to the client; nothing of the token is in it but the ids of
/// teams and users.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
enum Refused {
    #[error("Authentication Error, the JWT is refused: {0}.")]
    Doubtful(#[from] Doubt),
    #[error("Authentication Error, {0}.")]
    Stranger(#[from] Stranger),
    #[error(
        "Authentication Error, Team={0} of the token does not exist. Create it via `/team/new`."
    )]
    NoSuchTeam(Arc<str>),
    #[error("Authentication Error, the token is not of Team={0}, which `x-litellm-team-id` names.")]
    NotInTeam(String),
    #[error(
        "Authentication Error, User={0} of the token does not exist. Create it via `/user/new`."
    )]
    NoSuchUser(Arc<str>),
    #[error("Authentication Error, the token is of no team, and without one nobody calls models.")]
    TeamNeeded,
    #[error(
        "Service Unavailable, the identity provider's keys cannot be fetched at the moment, so that \
         the JWT cannot be verified."
    )]
    NoKeys,
}

impl TokenVerifier for Verifier {
    fn verify<'a>(&'a self, token: &'a str, hash: &KeyHash, team: Option<&'a str>) -> Verified<'a> {
        let hash = *hash;
        if let Some(vouched) = self.remembered(&hash, team) {
            return Verified::Ready(vouched);
        }
        let why = match self.check(token, hash) {
            Ok(seen) => return Verified::Ready(self.admit(&seen, team).map_err(Into::into)),
            Err((why, source)) => match source {
                Some(source) if source.ask() => source,
                _ => return Verified::Ready(Err(why.into())),
            },
        };
        Verified::Wait(Box::pin(async move {
            why.arrival().await;
            let seen = self.check(token, hash).map_err(|(why, _)| why)?;
            Ok(self.admit(&seen, team)?)
        }))
    }
}

impl Verifier {
    /// What is known of a token that has been here before.
    fn remembered(&self, hash: &KeyHash, team: Option<&str>) -> Option<Vouched> {
        let seen = self.cache.get(hash)?;
        // One whose key the provider has taken back is looked at again.
        let is_current = seen.version == self.sources[seen.issuer].keys().version
            && self.clock.unix() < seen.ends;
        is_current.then(|| self.admit(&seen, team).map_err(Into::into))
    }

    /// Verifies a token, and remembers it. A source comes with a doubt that new keys may end.
    fn check(
        &self,
        text: &str,
        hash: KeyHash,
    ) -> Result<Arc<Seen>, (Refused, Option<&Arc<Source>>)> {
        let plain = |doubt: Doubt| (Refused::Doubtful(doubt), None);
        let token = Token::read(text).map_err(plain)?;
        let said = token.issuer();
        let trusted = |issuer: &JwtIssuer| issuer.issuer.as_deref() == said;
        let issuers = &self.settings.issuers;
        // What one says that names no issuer holds for those that no other names.
        let found = issuers.iter().position(|issuer| issuer.issuer.is_some() && trusted(issuer));
        let found = found.or_else(|| issuers.iter().position(|issuer| issuer.issuer.is_none()));
        let Some(at) = found else { return Err(plain(Doubt::Issuer)) };
        let (issuer, source) = (&issuers[at], &self.sources[at]);
        let set = source.keys();
        if set.keys.is_empty() {
            return Err((Refused::NoKeys, Some(source)));
        }
        let claims = token.check(&set.keys).map_err(|doubt| {
            let is_known = doubt != Doubt::UnknownKey;
            (Refused::Doubtful(doubt), (!is_known).then_some(source))
        })?;
        let ends = claims.current(self.clock.unix()).map_err(plain)?;
        claims.is_for(&issuer.audiences).map_err(plain)?;
        let person = Person::of(&claims, &issuer.names, &self.settings);
        let person = person.map_err(|stranger| (Refused::Stranger(stranger), None))?;
        let key = Arc::new(self.key(&person));
        let seen = Arc::new(Seen { key, person, issuer: at, version: set.version, ends });
        self.cache.put(hash, Arc::clone(&seen));
        Ok(seen)
    }

    /// The key that stands for somebody, as far as the token decides about it.
    fn key(&self, person: &Person) -> VirtualKey {
        let who: [(&str, Option<&Arc<str>>); 3] = [
            ("user", person.user.as_ref()),
            ("subject", person.subject.as_ref().filter(|_| person.is_admin)),
            ("team", person.teams.first()),
        ];
        let (what, id) = who.into_iter().find_map(|(what, id)| Some((what, id?))).unzip();
        let mut text = Sha256::new();
        for part in ["token", what.unwrap_or_default(), id.map_or("", |id| id)] {
            text.update(part);
            text.update([0]);
        }
        let mut key = VirtualKey::new(KeyHash(text.finalize().into()));
        key.user = person.user.clone();
        key.team = person.teams.first().cloned();
        key.role = person.role.unwrap_or_default();
        if person.user.is_none() {
            key.alias = person.subject.clone();
        }
        Arc::make_mut(&mut key.settings).routes = match (person.is_admin, &person.user) {
            (true, _) => self.settings.admin_routes.clone(),
            (false, None) => self.settings.team_routes.clone(),
            (false, Some(_)) => Vec::new(),
        };
        let teams = if person.teams.len() > 1 { person.teams.clone() } else { Vec::new() };
        key.token = Some(Arc::new(TokenCaller { teams, end_user: person.end_user.clone() }));
        key
    }

    /// Who somebody is now: users and teams come and go while a token holds.
    fn admit(&self, seen: &Seen, wanted: Option<&str>) -> Result<Arc<VirtualKey>, Refused> {
        let person = &seen.person;
        let (team, is_chosen) = self.team(person, wanted)?;
        let role = match &person.user {
            Some(user) => self.role(person, user)?,
            None => seen.key.role,
        };
        if team.is_none() && self.settings.needs_team && !person.is_admin {
            return Err(Refused::TeamNeeded);
        }
        if seen.key.team == team && seen.key.role == role && !is_chosen {
            return Ok(Arc::clone(&seen.key));
        }
        let mut key = VirtualKey { team, role, ..(*seen.key).clone() };
        if is_chosen {
            let end_user = person.end_user.clone();
            key.token = Some(Arc::new(TokenCaller { teams: Vec::new(), end_user }));
        }
        Ok(Arc::new(key))
    }

    /// The team that counts: the one that is asked for; else the first that is there and not
    /// blocked. And whether somebody has chosen it.
    fn team(
        &self,
        person: &Person,
        wanted: Option<&str>,
    ) -> Result<(Option<Arc<str>>, bool), Refused> {
        let account = |id: &str| self.keys.account(Kind::Team, id);
        if let Some(wanted) = wanted {
            let Some(team) = person.teams.iter().find(|team| ***team == *wanted) else {
                return Err(Refused::NotInTeam(wanted.chars().take(256).collect()));
            };
            if account(team).is_none() && !self.make_team(team) {
                return Err(Refused::NoSuchTeam(Arc::clone(team)));
            }
            return Ok((Some(Arc::clone(team)), true));
        }
        let is_open = |team: &&Arc<str>| account(team).is_some_and(|account| !account.blocked);
        let found = person.teams.iter().find(is_open);
        // That it is blocked is for the caller to hear.
        let found = found.or_else(|| person.teams.iter().find(|team| account(team).is_some()));
        if let Some(team) = found {
            return Ok((Some(Arc::clone(team)), false));
        }
        if let Some(team) = person.teams.first()
            && self.make_team(team)
        {
            return Ok((Some(Arc::clone(team)), true));
        }
        match (&self.settings.team_default, person.teams.first()) {
            (Some(team), _) if account(team).is_some() => Ok((Some(team.as_str().into()), false)),
            _ if person.is_admin => Ok((None, false)),
            (Some(team), _) => Err(Refused::NoSuchTeam(team.as_str().into())),
            (None, Some(team)) => Err(Refused::NoSuchTeam(Arc::clone(team))),
            (None, None) => Ok((None, false)),
        }
    }

    /// Has a team written that is not there, if that is wanted.
    fn make_team(&self, team: &Arc<str>) -> bool {
        if self.settings.team_upsert {
            self.upsert.team(team);
        }
        self.settings.team_upsert
    }

    /// The role of a user: the token's if it says one; else the user's own.
    fn role(&self, person: &Person, user: &Arc<str>) -> Result<Role, Refused> {
        let known: Option<Arc<Account>> = self.keys.account(Kind::User, user);
        if known.is_none() {
            match (self.settings.user_upsert, person.is_admin) {
                (true, _) => self.upsert.user(user, person),
                (false, true) => {}
                (false, false) => return Err(Refused::NoSuchUser(Arc::clone(user))),
            }
        }
        Ok(match (person.role, known) {
            (Some(role), _) => role,
            (None, Some(_)) => Role::None,
            // What will be written of them.
            (None, None) => Role::User,
        })
    }
}

impl From<Refused> for Rejection {
    fn from(why: Refused) -> Rejection {
        let message = why.to_string();
        let forbidden = |code: &'static str| {
            Reject::new(403, "auth_error", message.clone()).with_code(Cow::Borrowed(code))
        };
        match &why {
            Refused::Doubtful(doubt) => {
                let (kind, code) = match doubt {
                    Doubt::Expired => ("expired_key", "token_expired"),
                    _ => ("auth_error", "invalid_token"),
                };
                let scheme = HeaderValue::from_static("Bearer error=\"invalid_token\"");
                Reject::unauthorized(kind, message)
                    .with_code(code)
                    .with_header(WWW_AUTHENTICATE, scheme)
            }
            Refused::Stranger(_) => forbidden("token_not_allowed"),
            Refused::NoSuchTeam(_) => forbidden("team_not_found").with_param("team"),
            Refused::NotInTeam(_) => forbidden("team_not_allowed").with_param("team"),
            Refused::TeamNeeded => forbidden("team_required").with_param("team"),
            Refused::NoSuchUser(_) => forbidden("user_not_found").with_param("user"),
            Refused::NoKeys => {
                let mut reject = Reject::new(503, "auth_provider_unavailable", message)
                    .with_code("auth_provider_unavailable");
                reject.retry_after = Some(Duration::from_secs(1));
                reject
            }
        }
    }
}
