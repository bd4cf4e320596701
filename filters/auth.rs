//! `auth` finds out who is calling, from the key in the request's head.
//!
//! Place it after `cors`, because preflights carry no key, and before everything that asks who the
//! caller is. No body is read for a caller without a valid key.
//!
//! A key is taken from the first of these that is there and not empty: `x-litellm-api-key`,
//! `authorization: Bearer`, `api-key`, `x-api-key`, `x-goog-api-key`, `ocp-apim-subscription-key`,
//! and the websocket subprotocol `openai-insecure-api-key.<key>`. The order is LiteLLM's: its own
//! header wins, so that `authorization` may carry something else.
//!
//! A key may be for some routes and addresses only (`allowed_routes`, `allowed_ips`), and is switched
//! off with its team or its user.
//!
//! Where `general_settings.enable_jwt_auth` is on, a JWT of an identity provider may stand in the
//! place of a key. Of several teams in it, `x-litellm-team-id` chooses one; without that it is the
//! first that may use the model.
//!
//! ```yaml
//! - filter: auth
//!   public_routes: [/health/liveliness, /health/readiness]
//! ```

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use http::header::{AUTHORIZATION, HeaderName, SEC_WEBSOCKET_PROTOCOL, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderValue};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use tollway_filter_api::accounts::Kind;
use tollway_filter_api::identity::{KeyStore, TokenVerifier, Verified, Vouched};
use tollway_filter_api::{
    BuildFilter, Clock, ConfigError, Deps, Filter, Flow, KeyHash, Phases, Reject, Rejection,
    RequestCtx, RequestHead, Slot, Step, VirtualKey,
};

use crate::text::push_date;

/// The longest key that is looked at. Ours have 25 bytes.
const KEY_BYTES_MAX: usize = 1024;
/// The longest token of an identity provider: one of somebody with hundreds of groups stays below.
const TOKEN_BYTES_MAX: usize = 16 * 1024;

static LITELLM: HeaderName = HeaderName::from_static("x-litellm-api-key");
static TEAM: HeaderName = HeaderName::from_static("x-litellm-team-id");

/// The headers that hold nothing but a key, in order of precedence.
static PLAIN: [HeaderName; 4] = [
    HeaderName::from_static("api-key"),
    HeaderName::from_static("x-api-key"),
    HeaderName::from_static("x-goog-api-key"),
    HeaderName::from_static("ocp-apim-subscription-key"),
];

const SUBPROTOCOL: &[u8] = b"openai-insecure-api-key.";

/// The `auth` entry of a filter list.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AuthConfig {
    /// The routes that need no key, as patterns like `/models/{id}`. By default the health checks,
    /// `/metrics` and `/openapi.json`.
    pub public_routes: Vec<String>,
}

impl Default for AuthConfig {
    fn default() -> Self {
        let routes = [
            "/health/liveliness",
            "/health/liveness",
            "/health/readiness",
            "/metrics",
            "/openapi.json",
        ];
        AuthConfig { public_routes: routes.map(str::to_owned).into() }
    }
}

/// Sets `ctx.identity`, or refuses the request.
pub struct Auth {
    clock: Clock,
    keys: Arc<dyn KeyStore>,
    tokens: Option<Arc<dyn TokenVerifier>>,
    public_routes: Vec<String>,
}

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
enum AuthError {
    #[error("Authentication Error, No api key passed in.")]
    Missing,
    #[error("Authentication Error, Invalid API key provided.")]
    Unknown,
    #[error("Keys cannot be looked up: the database has not been reached since the start.")]
    NotRead,
    #[error("Authentication Error, Key is blocked. Update via `/key/unblock` if you're an admin.")]
    Blocked,
    #[error(
        "Authentication Error - Expired Key. Key Expiry time {} and current time {}",
        date(*.expiry),
        date(*.now)
    )]
    Expired { expiry: Duration, now: Duration },
    #[error("Team={0} is blocked. Update via `/team/unblock` if you're an admin.")]
    TeamBlocked(Arc<str>),
    #[error("User={0} is blocked. Update via `/user/update` if you're an admin.")]
    UserBlocked(Arc<str>),
    #[error(
        "Virtual key is not allowed to call this route. Only allowed to call routes: {allowed:?}. \
         Tried to call route: {route}"
    )]
    Route { allowed: Vec<String>, route: &'static str },
    #[error("Access forbidden: IP address {} not allowed.", address(*.0))]
    Address(Option<IpAddr>),
}

impl BuildFilter for Auth {
    const NAME: &'static str = "auth";
    type Config = AuthConfig;

    fn build(config: AuthConfig, deps: &Deps, _slot: Slot) -> Result<Self, ConfigError> {
        let routes = &config.public_routes;
        if let Some(at) = routes.iter().position(|route| !route.starts_with('/')) {
            return Err(ConfigError::new(
                format!("public_routes[{at}]"),
                format!("{:?} is not a route: routes start with a slash", routes[at]),
            ));
        }
        let (keys, tokens) = (Arc::clone(&deps.keys), deps.tokens.clone());
        Ok(Auth { clock: deps.clock.clone(), keys, tokens, public_routes: config.public_routes })
    }
}

impl Filter for Auth {
    fn phases(&self) -> Phases {
        Phases::HEAD
    }

    fn head<'a>(&'a self, ctx: &'a mut RequestCtx, head: &'a RequestHead) -> Step<'a> {
        if self.public_routes.iter().any(|route| route == ctx.route) {
            return Step::next();
        }
        // Made within the gateway for somebody who has shown a key before.
        if let Some(key) = ctx.identity.take() {
            let admitted = self.again(key).and_then(|key| {
                self.admit(&key, ctx)?;
                Ok(key)
            });
            return Step::Ready(settled(admitted.map_err(Rejection::from), ctx));
        }
        match self.identify(&head.headers) {
            Verified::Ready(found) => Step::Ready(self.conclude(found, ctx, head)),
            Verified::Wait(wait) => Step::Wait(Box::pin(async move {
                let found = wait.await;
                self.conclude(found, ctx, head)
            })),
        }
    }
}

impl Auth {
    fn identify<'a>(&'a self, headers: &'a HeaderMap) -> Verified<'a> {
        let refused = |error: AuthError| Verified::Ready(Err(error.into()));
        let Some(key) = presented_key(headers) else { return refused(AuthError::Missing) };
        if key.len() > TOKEN_BYTES_MAX {
            return refused(AuthError::Unknown);
        }
        // Looking up the hash rather than the key is what makes this safe against timing: how long
        // a comparison takes tells something about the hash, and nobody can choose a key to fit.
        let hash = KeyHash(Sha256::digest(key).into());
        // Who was not there before the search may have come during it: not the other way round.
        let is_complete = self.keys.is_complete();
        let unknown = if is_complete { AuthError::Unknown } else { AuthError::NotRead };
        let found = if key.len() <= KEY_BYTES_MAX { self.keys.find(&hash) } else { None };
        match (found, &self.tokens) {
            (Some(key), _) => Verified::Ready(self.current(key).map_err(Rejection::from)),
            (None, Some(tokens)) => match token(key) {
                Some(token) => {
                    let team = headers.get(&TEAM).and_then(|team| team.to_str().ok());
                    let team = team.map(str::trim).filter(|team| !team.is_empty());
                    tokens.verify(token, &hash, team)
                }
                None => refused(unknown),
            },
            (None, None) => refused(unknown),
        }
    }

    /// A key as it is now, so that one that was changed or deleted meanwhile counts as that. What an
    /// identity provider has vouched for is nowhere else.
    fn again(&self, key: Arc<VirtualKey>) -> Result<Arc<VirtualKey>, AuthError> {
        match (key.token.is_some(), self.keys.find(&key.hash)) {
            (false, Some(now)) => self.current(now),
            (false, None) => Err(AuthError::Unknown),
            (true, _) => self.current(key),
        }
    }

    /// A key that is neither switched off nor over.
    fn current(&self, key: Arc<VirtualKey>) -> Result<Arc<VirtualKey>, AuthError> {
        if key.blocked {
            return Err(AuthError::Blocked);
        }
        if let Some(expiry) = key.expires {
            let now = self.clock.unix();
            if now >= expiry {
                return Err(AuthError::Expired { expiry, now });
            }
        }
        Ok(key)
    }

    fn conclude(&self, found: Vouched, ctx: &mut RequestCtx, head: &RequestHead) -> Flow {
        let admitted = found.and_then(|key| {
            self.admit(&key, ctx)?;
            let path = head.uri.path();
            if !key.settings.routes.is_empty()
                && !key.settings.routes.iter().any(|route| covers(route, ctx, path))
            {
                let error =
                    AuthError::Route { allowed: key.settings.routes.clone(), route: ctx.route };
                return Err(error.into());
            }
            Ok(key)
        });
        settled(admitted, ctx)
    }

    /// Whether the key may be used from there, and whoever it belongs to at all.
    fn admit(&self, key: &VirtualKey, ctx: &RequestCtx) -> Result<(), AuthError> {
        // Of what is stored nothing is known yet: whether they are blocked, what they may spend.
        let is_unread = |kind, id: &Option<Arc<str>>| {
            id.as_ref().is_some_and(|id| self.keys.account(kind, id).is_none())
        };
        if !self.keys.is_complete()
            && (is_unread(Kind::Team, &key.team) || is_unread(Kind::User, &key.user))
        {
            return Err(AuthError::NotRead);
        }
        let is_blocked = |kind, id: &Option<Arc<str>>| {
            let id = id.as_ref()?;
            self.keys.account(kind, id)?.blocked.then(|| Arc::clone(id))
        };
        if let Some(team) = is_blocked(Kind::Team, &key.team) {
            return Err(AuthError::TeamBlocked(team));
        }
        if let Some(user) = is_blocked(Kind::User, &key.user) {
            return Err(AuthError::UserBlocked(user));
        }
        if !key.settings.addresses.is_empty()
            && !ctx
                .client
                .is_some_and(|client| key.settings.addresses.iter().any(|n| holds(*n, client)))
        {
            return Err(AuthError::Address(ctx.client));
        }
        Ok(())
    }
}

fn settled(admitted: Result<Arc<VirtualKey>, Rejection>, ctx: &mut RequestCtx) -> Flow {
    match admitted {
        Ok(key) => {
            ctx.identity = Some(key);
            Flow::Next
        }
        Err(why) => Flow::Reject(why),
    }
}

/// Whether a network holds an address. An IPv4 address that an IPv6 socket has seen is one all the
/// same.
fn holds((network, length): (IpAddr, u8), address: IpAddr) -> bool {
    let bits = |address: IpAddr| match address {
        IpAddr::V4(address) => (u128::from(address.to_bits()) << 96, 32),
        IpAddr::V6(address) => (address.to_bits(), 128),
    };
    let ((network, family), (address, other)) =
        (bits(network.to_canonical()), bits(address.to_canonical()));
    let length = u32::from(length).min(family);
    let mask = u128::MAX.checked_shl(128 - length).unwrap_or(0);
    family == other && network & mask == address & mask
}

/// Whether one of a key's routes covers a request: LiteLLM's names for many, a path, or all below
/// one (`/v1/models/*`). As everywhere, a path means the same with and without `/v1`.
fn covers(route: &str, ctx: &RequestCtx, path: &str) -> bool {
    // What a request is asked for at, and the pattern of it, where parts of it are names.
    let plain = |path: &'_ str| path.strip_prefix("/v1").unwrap_or(path).to_owned();
    match route {
        "llm_api_routes" | "openai_routes" => is_llm_api(ctx),
        "spend_tracking_routes" => ctx.route.starts_with("/spend/"),
        "global_spend_tracking_routes" => ctx.route.starts_with("/global/"),
        "info_routes" => {
            const INFO: &[&str] = &["/info", "/list", "/models", "/v1/models", "/health"];
            ctx.route.starts_with("/health") || INFO.iter().any(|end| ctx.route.ends_with(end))
        }
        "management_routes" => {
            const MANAGED: &[&str] = &[
                "/key/",
                "/user/",
                "/team/",
                "/budget/",
                "/customer/",
                "/end_user/",
                "/spend/",
                "/tag/",
                "/global/",
                "/cache/",
                "/audit",
            ];
            MANAGED.iter().any(|start| ctx.route.starts_with(start))
        }
        route => match plain(route).strip_suffix('*') {
            Some(start) => plain(path).starts_with(start) || plain(ctx.route).starts_with(start),
            None => plain(path) == plain(route) || plain(ctx.route) == plain(route),
        },
    }
}

/// Model calls, and what belongs to them.
fn is_llm_api(ctx: &RequestCtx) -> bool {
    const STORED: &[&str] = &[
        "/models",
        "/responses",
        "/files",
        "/uploads",
        "/batches",
        "/fine_tuning",
        "/engines",
        "/chat/agent",
        "/agent",
        "/threads",
        "/tools",
    ];
    let route = ctx.route.strip_prefix("/v1").unwrap_or(ctx.route);
    ctx.operation.is_some() || STORED.iter().any(|start| route.starts_with(start))
}

fn presented_key(headers: &HeaderMap) -> Option<&[u8]> {
    let filled = |key: &&[u8]| !key.is_empty();
    let plain = |name| headers.get(name).map(|value| value.as_bytes().trim_ascii()).filter(filled);
    // LiteLLM's clients send its header with and without the scheme.
    let litellm = plain(&LITELLM).map(|value| bearer(value).unwrap_or(value)).filter(filled);
    litellm
        .or_else(|| plain(&AUTHORIZATION).and_then(bearer).filter(filled))
        .or_else(|| PLAIN.iter().find_map(plain))
        .or_else(|| subprotocol(headers).filter(filled))
}

/// What follows the scheme `Bearer`, in any case and after any number of spaces.
fn bearer(value: &[u8]) -> Option<&[u8]> {
    let (scheme, rest) = value.split_at_checked(b"Bearer".len())?;
    let key = rest.trim_ascii_start();
    let is_apart = key.len() < rest.len() || rest.is_empty();
    (scheme.eq_ignore_ascii_case(b"Bearer") && is_apart).then_some(key)
}

/// What may be a JWT: three parts in base64, of which the first is an object of JSON.
fn token(key: &[u8]) -> Option<&str> {
    let is_base64 = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    let dots = key.iter().filter(|byte| **byte == b'.').count();
    let is_token = dots == 2 && key.starts_with(b"ey") && key.iter().all(is_base64);
    if is_token { std::str::from_utf8(key).ok() } else { None }
}

/// Browsers cannot set headers on a websocket, so OpenAI lets them hide the key among the
/// subprotocols they offer.
fn subprotocol(headers: &HeaderMap) -> Option<&[u8]> {
    headers
        .get_all(SEC_WEBSOCKET_PROTOCOL)
        .iter()
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .find_map(|offer| offer.trim_ascii().strip_prefix(SUBPROTOCOL))
}

fn address(address: Option<IpAddr>) -> String {
    address.map_or_else(|| "unknown".to_owned(), |address| address.to_string())
}

fn date(since_epoch: Duration) -> String {
    let mut date = Vec::new();
    push_date(&mut date, since_epoch);
    String::from_utf8(date).unwrap_or_default()
}

impl From<AuthError> for Rejection {
    fn from(error: AuthError) -> Self {
        if let AuthError::Route { .. } | AuthError::Address(_) = error {
            let code = match error {
                AuthError::Route { .. } => "route_not_allowed",
                _ => "address_not_allowed",
            };
            return Reject::new(403, "auth_error", error.to_string()).with_code(code);
        }
        if error == AuthError::NotRead {
            let reject = Reject::new(503, "internal_server_error", error.to_string());
            let mut reject = reject.with_code("store_unavailable");
            reject.retry_after = Some(Duration::from_secs(1));
            return reject;
        }
        let kind = match error {
            AuthError::NotRead
            | AuthError::Route { .. }
            | AuthError::Address(_)
            | AuthError::TeamBlocked(_)
            | AuthError::UserBlocked(_)
            | AuthError::Missing
            | AuthError::Blocked => "auth_error",
            AuthError::Unknown => "token_not_found_in_db",
            AuthError::Expired { .. } => "expired_key",
        };
        let reject = Reject::unauthorized(kind, error.to_string())
            .with_header(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        match error {
            AuthError::NotRead
            | AuthError::Missing
            | AuthError::Route { .. }
            | AuthError::Address(_) => reject,
            AuthError::TeamBlocked(_) => reject.with_param("team").with_code("team_blocked"),
            AuthError::UserBlocked(_) => reject.with_param("user").with_code("user_blocked"),
            AuthError::Blocked => reject.with_param("key").with_code("key_blocked"),
            AuthError::Expired { .. } => reject.with_param("key").with_code("expired_key"),
            AuthError::Unknown => reject.with_param("key").with_code("invalid_api_key"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use http::Request;
    use tollway_filter_api::Flow;

    use super::*;

    struct Keys(Vec<Arc<VirtualKey>>);

    impl KeyStore for Keys {
        fn find(&self, hash: &KeyHash) -> Option<Arc<VirtualKey>> {
            self.0.iter().find(|key| key.hash == *hash).cloned()
        }
    }

    fn key(name: &str, change: impl FnOnce(&mut VirtualKey)) -> Arc<VirtualKey> {
        let mut key = VirtualKey::new(KeyHash(Sha256::digest(name).into()));
        key.alias = Some(name.into());
        change(&mut key);
        Arc::new(key)
    }

    fn auth() -> Auth {
        let mut deps = Deps::for_test();
        let now = deps.clock.unix();
        deps.keys = Arc::new(Keys(vec![
            key("sk-good", |_| ()),
            key("sk-other", |_| ()),
            key("sk-blocked", |key| key.blocked = true),
            key("sk-ended", |key| key.expires = Some(now)),
            key("sk-ending", |key| key.expires = Some(now + Duration::from_secs(1))),
        ]));
        Auth::build(AuthConfig::default(), &deps, Slot(0)).expect("the defaults are right")
    }

    fn run(route: &'static str, headers: &[(&str, &str)]) -> Result<String, Rejection> {
        let auth = auth();
        let mut request = Request::builder().uri("/");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let head = request.body(()).expect("the head is valid").into_parts().0;
        let mut ctx = RequestCtx::new("id".into(), Instant::now(), route);
        match auth.head(&mut ctx, &head) {
            Step::Ready(Flow::Next) => (),
            Step::Ready(Flow::Reject(why)) => return Err(why),
            _ => panic!("auth neither waits nor answers"),
        }
        let alias = ctx.identity.and_then(|key| key.alias.clone());
        Ok(alias.map(|alias| alias.to_string()).unwrap_or_default())
    }

    #[track_caller]
    fn check(headers: &[(&str, &str)], expect: Result<&str, &str>) {
        let have = run("/v1/models", headers).map_err(|why| why.kind.to_string());
        assert_eq!(have.as_deref().map_err(String::as_str), expect, "{headers:?}");
    }

    #[test]
    fn key_is_found_in_every_place_where_clients_put_it() {
        for name in [
            "x-litellm-api-key",
            "x-api-key",
            "api-key",
            "x-goog-api-key",
            "Ocp-Apim-Subscription-Key",
        ] {
            check(&[(name, "sk-good")], Ok("sk-good"));
        }
        check(&[("authorization", "Bearer sk-good")], Ok("sk-good"));
        check(&[("authorization", "bearer   sk-good ")], Ok("sk-good"));
        check(&[("x-litellm-api-key", "BEARER sk-good")], Ok("sk-good"));
        let offers = "realtime, openai-insecure-api-key.sk-good, openai-beta.realtime-v1";
        check(&[("sec-websocket-protocol", offers)], Ok("sk-good"));
    }

    #[test]
    fn first_place_that_holds_a_key_wins() {
        let bearer = ("authorization", "Bearer sk-good");
        check(&[("x-api-key", "sk-other"), bearer], Ok("sk-good"));
        check(&[("x-litellm-api-key", "sk-other"), bearer], Ok("sk-other"));
        check(&[("x-litellm-api-key", ""), bearer], Ok("sk-good"));
        check(&[("x-api-key", "sk-other"), ("api-key", "sk-good")], Ok("sk-good"));
        check(&[("authorization", "Basic Zm9v"), ("api-key", "sk-good")], Ok("sk-good"));
        check(&[("authorization", "Bearer wrong"), ("api-key", "sk-good")], {
            Err("token_not_found_in_db")
        });
    }

    #[test]
    fn request_without_a_key_is_refused() {
        check(&[], Err("auth_error"));
        check(&[("authorization", "Bearer")], Err("auth_error"));
        check(&[("authorization", "Bearer  ")], Err("auth_error"));
        check(&[("authorization", "sk-good")], Err("auth_error"));
        check(&[("authorization", "Bearersk-good")], Err("auth_error"));
        check(&[("sec-websocket-protocol", "openai-insecure-api-key.")], Err("auth_error"));
        let why = run("/v1/models", &[]).expect_err("it is refused");
        assert_eq!(why.status, 401);
        assert_eq!(why.message, "Authentication Error, No api key passed in.");
        assert_eq!(why.headers[0], (WWW_AUTHENTICATE, HeaderValue::from_static("Bearer")));
    }

    #[test]
    fn unknown_key_is_refused_without_being_quoted() {
        let why = run("/v1/models", &[("api-key", "sk-nope")]).expect_err("it is refused");
        assert_eq!((why.status, &*why.kind), (401, "token_not_found_in_db"));
        assert_eq!(why.code.as_deref(), Some("invalid_api_key"));
        assert_eq!(why.param.as_deref(), Some("key"));
        assert_eq!(why.message, "Authentication Error, Invalid API key provided.");
        check(&[("api-key", &"k".repeat(KEY_BYTES_MAX + 1))], Err("token_not_found_in_db"));
        check(&[("api-key", &"k".repeat(TOKEN_BYTES_MAX + 1))], Err("token_not_found_in_db"));
    }

    #[test]
    fn blocked_key_is_refused() {
        check(&[("api-key", "sk-blocked")], Err("auth_error"));
    }

    #[test]
    fn key_ends_at_its_expiry() {
        check(&[("api-key", "sk-ending")], Ok("sk-ending"));
        let why = run("/v1/models", &[("api-key", "sk-ended")]).expect_err("it is refused");
        assert_eq!((why.status, &*why.kind), (401, "expired_key"));
        assert_eq!(
            why.message,
            "Authentication Error - Expired Key. Key Expiry time 2026-01-01T00:00:00.000Z and \
             current time 2026-01-01T00:00:00.000Z"
        );
    }

    #[test]
    fn public_routes_need_no_key() {
        assert_eq!(run("/metrics", &[]).expect("public"), "");
        assert_eq!(run("/health/liveliness", &[("api-key", "wrong")]).expect("public"), "");
        assert!(run("/health", &[]).is_err());
        let config = AuthConfig { public_routes: vec!["metrics".into()] };
        let error = Auth::build(config, &Deps::for_test(), Slot(0)).err().expect("no slash");
        assert_eq!(error.path, "public_routes[0]");
    }
}
