//! `general_settings.litellm_jwtauth`: from what was written to what is true.

use std::fmt;
use std::time::Duration;

use tollway_filter_api::identity::Role;

use super::base::Base;
use super::env::Environment;
use super::file::{FileGeneral, FileIssuer, FileJwt};
use super::mistake::Report;

/// Where an issuer's keys are named: OpenID Connect Discovery.
const DISCOVERY: &str = "/.well-known/openid-configuration";
/// LiteLLM's defaults.
const ADMIN_SCOPE: &str = "litellm_proxy_admin";
const ADMIN_ROUTES: [&str; 4] =
    ["management_routes", "spend_tracking_routes", "global_spend_tracking_routes", "info_routes"];
const TEAM_ROUTES: [&str; 2] = ["openai_routes", "info_routes"];
const TTL: Duration = Duration::from_secs(600);
/// The shortest time between two fetches of the same keys.
const TTL_MIN: Duration = Duration::from_secs(1);

/// Who may sign in with a token, and what its claims mean.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct JwtSettings {
    /// Whose tokens are believed.
    pub(crate) issuers: Vec<JwtIssuer>,
    /// How long their keys are used before they are fetched again.
    pub(crate) key_ttl: Duration,
    /// The scope that makes an admin.
    pub(crate) admin_scope: String,
    /// What such an admin may call.
    pub(crate) admin_routes: Vec<String>,
    /// What a token may call that is of a team and of no user.
    pub(crate) team_routes: Vec<String>,
    /// The team of tokens that name none.
    pub(crate) team_default: Option<String>,
    /// Where the roles are that the next two are about.
    pub(crate) roles_field: Option<String>,
    /// LiteLLM's `role_mappings`.
    pub(crate) role_mappings: Vec<(String, MappedRole)>,
    /// LiteLLM's `jwt_litellm_role_map`; a role may end with a `*`.
    pub(crate) role_map: Vec<(String, Role)>,
    /// The id of a user or team, whichever `role_mappings` finds it to be.
    pub(crate) object_id_field: Option<String>,
    /// Where the roles are of which a user must have one.
    pub(crate) user_roles_field: Option<String>,
    /// These.
    pub(crate) user_allowed_roles: Vec<String>,
    /// Users whose address is of another domain are refused.
    pub(crate) email_domain: Option<String>,
    /// Users who are not known are made.
    pub(crate) user_upsert: bool,
    /// The same for teams.
    pub(crate) team_upsert: bool,
    /// Whoever has no team calls no models.
    pub(crate) needs_team: bool,
}

/// One identity provider.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct JwtIssuer {
    /// What `iss` must be; `None` where anything is believed that its keys have signed.
    pub(crate) issuer: Option<String>,
    /// `aud` must have one of these, unless there is none.
    pub(crate) audiences: Vec<String>,
    /// Where its keys are.
    pub(crate) keys: KeysAt,
    /// Where its tokens say what.
    pub(crate) names: ClaimNames,
}

/// The claims that say who somebody is, by name or by a path with dots.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ClaimNames {
    pub(crate) user_id: Option<String>,
    pub(crate) user_email: Option<String>,
    pub(crate) team_id: Option<String>,
    pub(crate) team_ids: Option<String>,
    pub(crate) end_user_id: Option<String>,
}

/// What `role_mappings` makes of somebody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MappedRole {
    /// A team.
    Team,
    /// A user with this role.
    User(Role),
}

/// Where keys are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum KeysAt {
    /// Where this document says, which must be of this issuer.
    Discovery {
        /// The document.
        url: String,
        /// The issuer.
        issuer: Option<String>,
    },
    /// Here, all together.
    Sets(Vec<String>),
}

impl fmt::Display for KeysAt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            KeysAt::Discovery { url, .. } => f.write_str(url),
            KeysAt::Sets(urls) => f.write_str(&urls.join(", ")),
        }
    }
}

/// Whether keys may be fetched from `url` where a document at `from` says so: over plain HTTP only
/// where that came over plain HTTP as well.
pub(crate) fn is_safe_beside(url: &str, from: &str) -> bool {
    is_url(url) && (is_https(url) || !is_https(from))
}

fn is_https(url: &str) -> bool {
    url.get(..8).is_some_and(|start| start.eq_ignore_ascii_case("https://"))
}

/// A URL of HTTP, perhaps with a query.
fn is_url(url: &str) -> bool {
    !url.contains('#') && url.split('?').next().is_some_and(|url| url.parse::<Base>().is_ok())
}

/// Plain HTTP to another machine: whoever is in between can sign in as anybody.
fn is_exposed(url: &str) -> bool {
    let base = url.split('?').next().and_then(|url| url.parse::<Base>().ok());
    base.is_some_and(|base| {
        let is_here = base.host == "localhost"
            || base.host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback());
        !base.tls && !is_here
    })
}

/// The settings, where tokens may sign in.
pub(super) fn resolve(
    general: &mut FileGeneral,
    environment: &Environment,
    report: &mut Report,
) -> Option<JwtSettings> {
    const AT: &str = "general_settings.litellm_jwtauth";
    let file = general.jwt.take();
    if !general.enable_jwt_auth {
        if file.is_some() {
            report.warning(AT, "has no effect without `enable_jwt_auth: true`");
        }
        return None;
    }
    let file = file.unwrap_or_default();
    let ttl = file.public_key_ttl.unwrap_or(TTL).max(TTL_MIN);
    let issuers = issuers(&file, environment, AT, report);
    if file.user_roles_jwt_field.is_some() == file.user_allowed_roles.is_empty() {
        let message = "`user_roles_jwt_field` and `user_allowed_roles` must be given together";
        report.mistake(AT, message);
    }
    if file.object_id_jwt_field.is_some() && file.role_mappings.is_empty() {
        let at = format!("{AT}.object_id_jwt_field");
        report.mistake(&at, "needs `role_mappings`, which tell whether it is a user or a team");
    }
    if file.roles_jwt_field.is_none() {
        for (name, is_there) in [
            ("role_mappings", !file.role_mappings.is_empty()),
            ("jwt_litellm_role_map", !file.jwt_litellm_role_map.is_empty()),
        ] {
            if is_there {
                report.mistake(&format!("{AT}.{name}"), "needs `roles_jwt_field`");
            }
        }
    }
    let names_anybody = |issuer: &JwtIssuer| {
        let ClaimNames { user_id, user_email, team_id, team_ids, .. } = &issuer.names;
        [user_id, user_email, team_id, team_ids].iter().any(|name| name.is_some())
    };
    if file.object_id_jwt_field.is_none()
        && file.team_id_default.is_none()
        && !issuers.is_empty()
        && !issuers.iter().any(names_anybody)
    {
        let message = "names no claim of a user or team (`user_id_jwt_field: sub`): nobody but \
                       admins can sign in";
        report.warning(AT, message);
    }
    let or = |given: Vec<String>, usual: &[&str]| match given.is_empty() {
        true => usual.iter().map(|name| (*name).to_owned()).collect(),
        false => given,
    };
    Some(JwtSettings {
        issuers,
        key_ttl: ttl,
        admin_scope: file.admin_jwt_scope.unwrap_or_else(|| ADMIN_SCOPE.to_owned()),
        admin_routes: or(file.admin_allowed_routes, &ADMIN_ROUTES),
        team_routes: or(file.team_allowed_routes, &TEAM_ROUTES),
        team_default: file.team_id_default,
        roles_field: file.roles_jwt_field,
        role_mappings: file.role_mappings,
        role_map: file.jwt_litellm_role_map,
        object_id_field: file.object_id_jwt_field,
        user_roles_field: file.user_roles_jwt_field,
        user_allowed_roles: file.user_allowed_roles,
        email_domain: file.user_allowed_email_domain,
        user_upsert: file.user_id_upsert,
        team_upsert: file.team_id_upsert,
        needs_team: file.enforce_team_based_model_access,
    })
}

fn issuers(
    file: &FileJwt,
    environment: &Environment,
    at: &str,
    report: &mut Report,
) -> Vec<JwtIssuer> {
    let variable = |name| environment.get(name).map(str::trim).filter(|text| !text.is_empty());
    let mut main = file.main.clone();
    main.issuer = main.issuer.or_else(|| variable("JWT_ISSUER").map(str::to_owned));
    if main.audience.is_empty() {
        main.audience.extend(variable("JWT_AUDIENCE").map(str::to_owned));
    }
    if main.jwks_url.is_empty() {
        let urls = variable("JWT_PUBLIC_KEY_URL").unwrap_or_default().split(',');
        main.jwks_url.extend(urls.map(str::trim).filter(|u| !u.is_empty()).map(str::to_owned));
    }
    let mut issuers = Vec::new();
    if main.issuer.is_some() || !main.jwks_url.is_empty() {
        issuers.extend(issuer(main, &ClaimNames::default(), at, report));
    }
    for (number, other) in file.issuers.iter().enumerate() {
        let at = format!("{at}.issuers[{number}]");
        if other.issuer.is_none() {
            report.mistake(&format!("{at}.issuer"), "is missing: what tokens have as `iss`");
        }
        issuers.extend(issuer(other.clone(), &file.main.names, &at, report));
    }
    if issuers.is_empty() && file.issuers.is_empty() {
        let message = "names no identity provider: give its `issuer`, or a `jwks_url` (in the \
                       environment: JWT_ISSUER, JWT_PUBLIC_KEY_URL)";
        report.mistake(at, message);
    }
    issuers
}

fn issuer(
    file: FileIssuer,
    usual: &ClaimNames,
    at: &str,
    report: &mut Report,
) -> Option<JwtIssuer> {
    let mut is_sound = true;
    let urls = file.jwks_url.iter().map(|url| ("jwks_url", url));
    let keys_of = urls.chain(file.issuer.iter().map(|url| ("issuer", url)));
    for (name, url) in keys_of {
        let is_fetched = name == "jwks_url" || file.jwks_url.is_empty();
        if is_fetched && !is_url(url) {
            let message = "must be a URL that begins with https://";
            report.mistake(&format!("{at}.{name}"), message);
            is_sound = false;
        } else if is_fetched && is_exposed(url) {
            let message = "is plain HTTP: whoever can change what passes can sign in as anybody";
            report.warning(&format!("{at}.{name}"), message);
        }
    }
    if file.issuer.is_none() {
        let message = "has no `issuer`: every token that these keys have signed is believed";
        report.warning(at, message);
    }
    match (file.audience.is_empty(), file.disable_audience_validation) {
        (true, false) => {
            let message = "has no `audience`: tokens that were made for other applications are \
                           let in";
            report.warning(at, message);
        }
        (false, true) => {
            let message = "contradicts `audience`";
            report.mistake(&format!("{at}.disable_audience_validation"), message);
        }
        _ => {}
    }
    let keys = match (&*file.jwks_url, &file.issuer) {
        ([], None) => return None,
        ([], Some(issuer)) => KeysAt::Discovery {
            url: format!("{}{DISCOVERY}", issuer.trim_end_matches('/')),
            issuer: Some(issuer.clone()),
        },
        ([url], issuer) if url.ends_with(DISCOVERY) => {
            KeysAt::Discovery { url: url.clone(), issuer: issuer.clone() }
        }
        (urls, _) => KeysAt::Sets(urls.to_vec()),
    };
    let or = |own: Option<String>, usual: &Option<String>| own.or_else(|| usual.clone());
    let names = ClaimNames {
        user_id: or(file.names.user_id, &usual.user_id),
        user_email: or(file.names.user_email, &usual.user_email),
        team_id: or(file.names.team_id, &usual.team_id),
        team_ids: or(file.names.team_ids, &usual.team_ids),
        end_user_id: or(file.names.end_user_id, &usual.end_user_id),
    };
    is_sound.then_some(JwtIssuer { issuer: file.issuer, audiences: file.audience, keys, names })
}

#[cfg(test)]
mod tests {
    use super::super::{Config, FileConfig};
    use super::*;

    /// The settings of `litellm_jwtauth` in flow style; or the messages of mistakes. And warnings.
    fn read(text: &str, env: &[(&str, &str)]) -> (Result<JwtSettings, String>, String) {
        let text = format!(
            "general_settings: {{ enable_jwt_auth: true, litellm_jwtauth: {{ {text} }} }}\n\
             model_list: [{{ model_name: a, litellm_params: {{ model: demo/chat }} }}]\n"
        );
        let environment: Environment = env.iter().copied().collect();
        let file = FileConfig::read("config.yaml", &text, environment);
        match Config::resolve(file, &["auth"], "http://127.0.0.1:9/v1") {
            Ok((config, warnings)) => {
                let lines: Vec<String> = warnings.iter().map(ToString::to_string).collect();
                (Ok(config.jwt.expect("it is on")), lines.join("\n"))
            }
            Err(mistakes) => {
                let lines: Vec<String> = mistakes.iter().map(ToString::to_string).collect();
                (Err(lines.join("\n")), String::new())
            }
        }
    }

    fn keys(text: &str, env: &[(&str, &str)]) -> KeysAt {
        let settings = read(text, env).0.expect("it is right");
        settings.issuers[0].keys.clone()
    }

    #[track_caller]
    fn check_mistake(text: &str, expect: &str) {
        let message = read(text, &[]).0.expect_err("it is a mistake");
        assert!(message.contains(expect), "{message}");
    }

    #[track_caller]
    fn check_warning(text: &str, expect: &str) {
        let (settings, warnings) = read(text, &[]);
        assert!(settings.is_ok(), "{settings:?}");
        assert!(warnings.contains(expect), "{warnings}");
    }

    #[test]
    fn keys_are_where_the_issuer_says_or_where_they_are_said_to_be() {
        let discovery = |url: &str, issuer: Option<&str>| KeysAt::Discovery {
            url: url.to_owned(),
            issuer: issuer.map(str::to_owned),
        };
        let found = "https://a.com/x/.well-known/openid-configuration";
        assert_eq!(keys("issuer: https://a.com/x", &[]), discovery(found, Some("https://a.com/x")));
        assert_eq!(
            keys("issuer: https://a.com/x/", &[]),
            discovery(found, Some("https://a.com/x/"))
        );
        assert_eq!(keys(&format!("jwks_url: {found}"), &[]), discovery(found, None));
        let set = |urls: &[&str]| KeysAt::Sets(urls.iter().map(|url| (*url).to_owned()).collect());
        let jwks = "https://a.com/.well-known/openid-configuration/jwks?p=b2c";
        assert_eq!(keys(&format!("issuer: me, jwks_url: \"{jwks}\""), &[]), set(&[jwks]));
        let env = [("JWT_PUBLIC_KEY_URL", "https://a.com/1, https://b.com/2,")];
        assert_eq!(keys("", &env), set(&["https://a.com/1", "https://b.com/2"]));
        assert_eq!(keys("jwks_url: https://c.com/3", &env), set(&["https://c.com/3"]));
    }

    #[test]
    fn variables_stand_in_for_what_the_file_does_not_say() {
        let env = [("JWT_ISSUER", "https://a.com"), ("JWT_AUDIENCE", "ours")];
        let settings = read("user_id_jwt_field: sub", &env).0.expect("it is right");
        assert_eq!(settings.issuers[0].issuer.as_deref(), Some("https://a.com"));
        assert_eq!(settings.issuers[0].audiences, ["ours"]);
        assert_eq!(settings.key_ttl, TTL);
        let (settings, warnings) = read("audience: [b, c], user_id_jwt_field: sub", &env);
        assert_eq!(settings.expect("it is right").issuers[0].audiences, ["b", "c"]);
        assert_eq!(warnings, "");
    }

    #[test]
    fn mistakes_are_told() {
        check_mistake("", "names no identity provider");
        check_mistake("issuer: https://a.com, user_id_field: sub", "user_id_field: unknown");
        check_mistake("issuer: a.com", "must be a URL");
        check_mistake("issuer: https://a.com, jwks_url: \"ftp://a.com\"", "must be a URL");
        check_mistake("issuer: https://a.com, user_roles_jwt_field: r", "must be given together");
        check_mistake("issuer: https://a.com, object_id_jwt_field: r", "needs `role_mappings`");
        let mapping = "role_mappings: [{ role: a, internal_role: king }]";
        let text = format!("issuer: https://a.com, roles_jwt_field: r, {mapping}");
        check_mistake(&text, "must be one of LiteLLM's roles");
        let mapping = "role_mappings: [{ role: a, internal_role: team }]";
        check_mistake(&format!("issuer: https://a.com, {mapping}"), "needs `roles_jwt_field`");
        check_mistake("issuer: https://a.com, admin_allowed_routes: [all]", "must be a path");
        check_mistake("issuers: [{ jwks_url: https://a.com/keys }]", "issuers[0].issuer");
        let text = "issuer: https://a.com, audience: a, disable_audience_validation: true";
        check_mistake(text, "contradicts");
    }

    #[test]
    fn what_lets_in_more_than_meant_is_warned_of() {
        check_warning("issuer: https://a.com", "has no `audience`");
        check_warning("jwks_url: https://a.com/k", "has no `issuer`");
        check_warning("issuer: http://a.com", "plain HTTP");
        check_warning("issuer: https://a.com", "nobody but admins");
        check_warning("issuer: https://a.com, scope_mappings: [{ scope: a }]", "NOT restricted");
        check_warning("issuer: https://a.com, enforce_rbac: false", "has no effect");
        let (_, warnings) = read("issuer: http://127.0.0.1:9, audience: a", &[]);
        assert!(!warnings.contains("plain HTTP"), "{warnings}");
    }

    #[test]
    fn plain_http_is_not_where_https_leads() {
        assert!(is_safe_beside("https://a.com/k", "https://b.com"));
        assert!(is_safe_beside("http://a.com/k", "http://a.com"));
        assert!(!is_safe_beside("http://a.com/k", "HTTPS://a.com"));
        assert!(!is_safe_beside("file:///etc/passwd", "http://a.com"));
        assert!(!is_safe_beside("https://a@b.com/k", "https://b.com"));
    }
}
