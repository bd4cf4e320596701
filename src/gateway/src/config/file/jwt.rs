//! `general_settings.litellm_jwtauth` as written.

use std::time::Duration;

use tollway_filter_api::identity::Role;

use super::super::jwt::{ClaimNames, MappedRole};
use super::super::litellm;
use super::super::reader::Fields;
use super::super::yaml::Node;

/// `litellm_jwtauth`: who may sign in with a token of an identity provider. Claims are named, or
/// given as a path: `resource_access.tollway.roles`.
#[derive(Debug, Default)]
pub(crate) struct FileJwt {
    /// `issuer`, `audience`, `jwks_url` and the names of claims, which hold for `issuers` as well.
    pub(crate) main: FileIssuer,
    /// `issuers`: several identity providers, each with what differs for it.
    pub(crate) issuers: Vec<FileIssuer>,
    /// `public_key_ttl`: how long their keys are used before they are fetched again. Default 10
    /// minutes.
    pub(crate) public_key_ttl: Option<Duration>,
    /// `admin_jwt_scope`: the scope that makes a `proxy_admin`. Default `litellm_proxy_admin`.
    pub(crate) admin_jwt_scope: Option<String>,
    /// `admin_allowed_routes`: what such an admin may call. Default: everything but models.
    pub(crate) admin_allowed_routes: Vec<String>,
    /// `team_allowed_routes`: what a token may call that is of a team and of no user. Default:
    /// `openai_routes` and `info_routes`.
    pub(crate) team_allowed_routes: Vec<String>,
    /// `team_id_default`: the team of tokens without one that exists.
    pub(crate) team_id_default: Option<String>,
    /// `team_id_upsert`: a team that does not exist is made.
    pub(crate) team_id_upsert: bool,
    /// `user_id_upsert`: a user who does not exist is made; else they are refused.
    pub(crate) user_id_upsert: bool,
    /// `user_allowed_email_domain`: users with an address of another one are refused.
    pub(crate) user_allowed_email_domain: Option<String>,
    /// `user_roles_jwt_field`: where the roles are of which a user must have one …
    pub(crate) user_roles_jwt_field: Option<String>,
    /// `user_allowed_roles`: … of these.
    pub(crate) user_allowed_roles: Vec<String>,
    /// `roles_jwt_field`: where the roles are that are mapped.
    pub(crate) roles_jwt_field: Option<String>,
    /// `role_mappings`: `[{role: gateway-admins, internal_role: proxy_admin}]`; also `team`,
    /// `internal_user` and the two viewers. The first that fits holds.
    pub(crate) role_mappings: Vec<(String, MappedRole)>,
    /// `jwt_litellm_role_map`: `[{jwt_role: "ops-*", litellm_role: proxy_admin_viewer}]`.
    pub(crate) jwt_litellm_role_map: Vec<(String, Role)>,
    /// `object_id_jwt_field`: the id of whatever `role_mappings` makes of the caller.
    pub(crate) object_id_jwt_field: Option<String>,
    /// `enforce_team_based_model_access`: whoever has no team calls no models.
    pub(crate) enforce_team_based_model_access: bool,
}

/// One identity provider.
#[derive(Clone, Debug, Default)]
pub(crate) struct FileIssuer {
    /// `issuer`: what `iss` must be, and where the keys are found. Default `JWT_ISSUER`.
    pub(crate) issuer: Option<String>,
    /// `audience`: `aud` must have one of these. Default `JWT_AUDIENCE`.
    pub(crate) audience: Vec<String>,
    /// `jwks_url`: where the keys are, if not where the issuer says. Default `JWT_PUBLIC_KEY_URL`.
    pub(crate) jwks_url: Vec<String>,
    /// `disable_audience_validation`: `aud` does not matter.
    pub(crate) disable_audience_validation: bool,
    /// `user_id_jwt_field`, `user_email_jwt_field`, `team_id_jwt_field`, `team_ids_jwt_field`,
    /// `end_user_id_jwt_field`.
    pub(crate) names: ClaimNames,
}

pub(super) fn read_jwt(fields: &mut Fields<'_>) -> FileJwt {
    if fields.flag("enforce_rbac") == Some(false) {
        let path = fields.path("enforce_rbac");
        let message = "has no effect: a token that names nobody is always refused";
        fields.reader.report.warning(&path, message);
    }
    FileJwt {
        main: read_issuer(fields),
        issuers: fields.sections("issuers", litellm::JWT_ISSUER, read_issuer),
        public_key_ttl: fields.timeout("public_key_ttl"),
        admin_jwt_scope: fields.text("admin_jwt_scope"),
        admin_allowed_routes: read_routes(fields, "admin_allowed_routes"),
        team_allowed_routes: read_routes(fields, "team_allowed_routes"),
        team_id_default: fields.text("team_id_default"),
        team_id_upsert: fields.flag("team_id_upsert").unwrap_or_default(),
        user_id_upsert: fields.flag("user_id_upsert").unwrap_or_default(),
        user_allowed_email_domain: fields.text("user_allowed_email_domain"),
        user_roles_jwt_field: fields.text("user_roles_jwt_field"),
        user_allowed_roles: fields.texts("user_allowed_roles"),
        roles_jwt_field: fields.text("roles_jwt_field"),
        role_mappings: read_roles(fields, "role_mappings", "role", "internal_role", mapped_role),
        jwt_litellm_role_map: read_roles(
            fields,
            "jwt_litellm_role_map",
            "jwt_role",
            "litellm_role",
            Role::from_name,
        ),
        object_id_jwt_field: fields.text("object_id_jwt_field"),
        enforce_team_based_model_access: fields
            .flag("enforce_team_based_model_access")
            .unwrap_or_default(),
    }
}

fn read_issuer(fields: &mut Fields<'_>) -> FileIssuer {
    FileIssuer {
        issuer: fields.text("issuer"),
        audience: fields.texts("audience"),
        jwks_url: fields.texts("jwks_url"),
        disable_audience_validation: fields.flag("disable_audience_validation").unwrap_or_default(),
        names: ClaimNames {
            user_id: fields.text("user_id_jwt_field"),
            user_email: fields.text("user_email_jwt_field"),
            team_id: fields.text("team_id_jwt_field"),
            team_ids: fields.text("team_ids_jwt_field"),
            end_user_id: fields.text("end_user_id_jwt_field"),
        },
    }
}

fn mapped_role(name: &str) -> Option<MappedRole> {
    match name {
        "team" => Some(MappedRole::Team),
        name => Role::from_name(name).map(MappedRole::User),
    }
}

/// Pairs of the identity provider's role and LiteLLM's.
fn read_roles<T>(
    fields: &mut Fields<'_>,
    name: &'static str,
    theirs: &'static str,
    ours: &'static str,
    parse: fn(&str) -> Option<T>,
) -> Vec<(String, T)> {
    let wanted = "one of LiteLLM's roles, such as `proxy_admin` or `internal_user`";
    let items: Vec<(&Node, String)> = fields.items(name);
    let mut roles = Vec::new();
    for (node, path) in items {
        let read =
            |fields: &mut Fields<'_>| (fields.text(theirs), fields.parsed(ours, wanted, parse));
        match fields.reader.fields(node, &path, &[], read) {
            Some((Some(role), Some(mapped))) => roles.push((role, mapped)),
            Some((None, _)) => fields.reader.report.mistake(&path, format!("needs a `{theirs}`")),
            _ => {}
        }
    }
    roles
}

/// LiteLLM's names for many routes at once, as its JWT settings have them.
const ROUTE_GROUPS: &[&str] = &[
    "llm_api_routes",
    "openai_routes",
    "info_routes",
    "management_routes",
    "spend_tracking_routes",
    "global_spend_tracking_routes",
];

fn read_routes(fields: &mut Fields<'_>, name: &'static str) -> Vec<String> {
    let routes = fields.texts(name);
    for (at, route) in routes.iter().enumerate() {
        if !route.starts_with('/') && !ROUTE_GROUPS.contains(&route.as_str()) {
            let groups = ROUTE_GROUPS.join("`, `");
            let message = format!("must be a path with a slash in front, or one of `{groups}`");
            fields.wrong(&format!("{name}[{at}]"), message);
        }
    }
    routes
}
