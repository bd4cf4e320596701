//! Keys, teams and users as they are written.

use std::net::IpAddr;
use std::time::Duration;

use secrecy::ExposeSecret;
use tollway_filter_api::KeyHash;
use tollway_filter_api::identity::Role;

use super::super::reader::Fields;
use super::super::yaml::Node;
use super::super::{date, keys};
use super::money::{FileBudget, NamedBudget, Words};

/// What somebody may use.
#[derive(Debug, Default)]
pub(crate) struct FileLimits {
    /// `rpm` (also `rpm_limit`): requests in any 60 seconds.
    pub(crate) rpm: Option<u64>,
    /// `tpm` (also `tpm_limit`): tokens in any 60 seconds.
    pub(crate) tpm: Option<u64>,
    /// `max_parallel_requests`: requests at once.
    pub(crate) max_parallel_requests: Option<u64>,
    /// `model_rpm_limit`: `{gpt-4o: 10}`: requests in any 60 seconds to one model.
    pub(crate) model_rpm: Vec<(String, u64)>,
    /// `model_tpm_limit`: tokens in any 60 seconds of one model.
    pub(crate) model_tpm: Vec<(String, u64)>,
}

/// One entry of `keys`: a virtual key.
#[derive(Debug, Default)]
pub(crate) struct FileKey {
    /// `alias`: its name in metrics and logs.
    pub(crate) alias: Option<String>,
    /// The SHA-256 of `key`, or `key_hash` (also `sha256`): 64 hexadecimal digits, which is how
    /// LiteLLM's database has it.
    pub(crate) hash: Option<KeyHash>,
    /// How messages call it: `sk-...AbCd`.
    pub(crate) shown: Option<String>,
    /// `models`: what it may call: names, access groups, `openai/*` or `*`. Default: everything.
    pub(crate) models: Vec<String>,
    /// `aliases`: names that mean another model for this key.
    pub(crate) aliases: Vec<(String, String)>,
    /// `rpm`, `tpm` and the like.
    pub(crate) limits: FileLimits,
    /// `max_budget`, `soft_budget`, `budget_duration`: what it may spend.
    pub(crate) budget: Option<FileBudget>,
    /// `model_max_budget`: what it may spend on one model.
    pub(crate) model_budgets: Vec<NamedBudget>,
    /// `user` (also `user_id`): whom it belongs to.
    pub(crate) user: Option<String>,
    /// `team` (also `team_id`): the team it belongs to.
    pub(crate) team: Option<String>,
    /// `metadata`: whatever you note about it.
    pub(crate) metadata: serde_json::Map<String, serde_json::Value>,
    /// `blocked`: it is switched off.
    pub(crate) blocked: bool,
    /// `expires`: when it ends, as a date (`2027-01-31`) or moment (`2027-01-31T12:00:00Z`).
    pub(crate) expires: Option<Duration>,
    /// `allowed_routes`: the routes it may use: `/v1/chat/completions`, `/v1/models/*`, or LiteLLM's
    /// `llm_api_routes`, `management_routes`, `info_routes`. Default: all.
    pub(crate) routes: Vec<String>,
    /// `allowed_ips`: where it may be used from: addresses, or networks as `10.0.0.0/8`.
    pub(crate) addresses: Vec<(IpAddr, u8)>,
    /// `tags`: what all its requests are tagged with.
    pub(crate) tags: Vec<String>,
}

/// One entry of `teams` or `users`.
#[derive(Debug, Default)]
pub(crate) struct FileAccount {
    /// `id` (also `team_id`, `user_id`): what keys name it by.
    pub(crate) id: Option<String>,
    /// `alias` (also `team_alias`, `user_alias`): its name in messages and metrics.
    pub(crate) alias: Option<String>,
    /// `email` (also `user_email`), of a user.
    pub(crate) email: Option<String>,
    /// `role` (also `user_role`), of a user: what it may administer.
    pub(crate) role: Role,
    /// `members`, of a team: `{anna: admin, ben: user}`; with what one may spend of the team's
    /// `{ben: {role: user, max_budget_in_team: 5, budget_duration: 30d}}`.
    pub(crate) members: Vec<FileMember>,
    /// `team_member_budget`, `team_member_budget_duration`, of a team: what each member may spend
    /// of it that has no budget of its own.
    pub(crate) member_budget: Option<FileBudget>,
    /// `models`: what its keys may call. Default: everything.
    pub(crate) models: Vec<String>,
    /// `rpm`, `tpm` and the like, for all its keys together.
    pub(crate) limits: FileLimits,
    /// `max_budget`, `soft_budget`, `budget_duration`: what all its keys may spend together.
    pub(crate) budget: Option<FileBudget>,
    /// `model_max_budget`: what all its keys may spend on one model.
    pub(crate) model_budgets: Vec<NamedBudget>,
    /// `metadata`: whatever you note about it.
    pub(crate) metadata: serde_json::Map<String, serde_json::Value>,
    /// `blocked`: its keys are switched off.
    pub(crate) blocked: bool,
}

/// One of the `members` of a team.
#[derive(Debug)]
pub(crate) struct FileMember {
    /// The user.
    pub(crate) user: String,
    /// Whether it is an admin of the team.
    pub(crate) is_admin: bool,
    /// `max_budget_in_team`, `budget_duration`: what it may spend of the team's.
    pub(crate) budget: Option<FileBudget>,
}

fn read_limits(fields: &mut Fields<'_>) -> FileLimits {
    FileLimits {
        rpm: fields.either("rpm", "rpm_limit", Fields::count),
        tpm: fields.either("tpm", "tpm_limit", Fields::count),
        max_parallel_requests: fields.count("max_parallel_requests"),
        model_rpm: fields.counts("model_rpm_limit"),
        model_tpm: fields.counts("model_tpm_limit"),
    }
}

pub(super) fn read_key(fields: &mut Fields<'_>) -> FileKey {
    let (hash, shown) = read_key_hash(fields);
    FileKey {
        alias: fields.either("alias", "key_alias", Fields::text),
        hash,
        shown,
        models: fields.texts("models"),
        aliases: {
            let entries = fields.entries("aliases");
            let text = |(name, node, path): (&str, &Node, String)| {
                Some((name.to_owned(), fields.reader.text(node, &path)?))
            };
            entries.into_iter().filter_map(text).collect()
        },
        limits: read_limits(fields),
        budget: fields.budget(Words::OF_OWNER),
        model_budgets: fields.budgets("model_max_budget", Words::OF_PART),
        user: fields.either("user", "user_id", Fields::text),
        team: fields.either("team", "team_id", Fields::text),
        metadata: fields.json_map("metadata"),
        blocked: fields.flag("blocked").unwrap_or_default(),
        expires: fields.parsed(
            "expires",
            "a date (2027-01-31) or a moment (2027-01-31T12:00:00Z)",
            date::parse,
        ),
        routes: read_routes(fields),
        addresses: read_addresses(fields),
        tags: fields.texts("tags"),
    }
}

pub(super) fn read_team(fields: &mut Fields<'_>) -> FileAccount {
    const ROLES: &str = "`admin` or `user`";
    let role = |text: &str| match text {
        "admin" => Some(true),
        "user" => Some(false),
        _ => None,
    };
    let mut members = Vec::new();
    for (name, node, path) in fields.entries("members") {
        let (is_admin, budget) = match node.kind() {
            "a mapping" => {
                let read = |fields: &mut Fields<'_>| {
                    let is_admin = fields.parsed("role", ROLES, role);
                    (is_admin.or(Some(false)), fields.budget(Words::OF_MEMBER))
                };
                fields.reader.fields(node, &path, &[], read).unwrap_or_default()
            }
            _ => (fields.reader.parsed(node, &path, ROLES, role), None),
        };
        let user = name.to_owned();
        members.extend(is_admin.map(|is_admin| FileMember { user, is_admin, budget }));
    }
    FileAccount {
        member_budget: fields.budget(Words::OF_EACH_MEMBER),
        id: fields.either("id", "team_id", Fields::text),
        alias: fields.either("alias", "team_alias", Fields::text),
        members,
        ..read_account(fields)
    }
}

pub(super) fn read_user(fields: &mut Fields<'_>) -> FileAccount {
    let role = |fields: &mut Fields<'_>, name: &'static str| {
        let wanted = "one of LiteLLM's roles: `proxy_admin`, `proxy_admin_viewer`, \
                      `internal_user` or `internal_user_viewer`";
        fields.parsed(name, wanted, Role::from_name)
    };
    FileAccount {
        id: fields.either("id", "user_id", Fields::text),
        alias: fields.either("alias", "user_alias", Fields::text),
        email: fields.either("email", "user_email", Fields::text),
        role: fields.either("role", "user_role", role).unwrap_or_default(),
        ..read_account(fields)
    }
}

fn read_account(fields: &mut Fields<'_>) -> FileAccount {
    FileAccount {
        models: fields.texts("models"),
        limits: read_limits(fields),
        budget: fields.budget(Words::OF_OWNER),
        model_budgets: fields.budgets("model_max_budget", Words::OF_PART),
        metadata: fields.json_map("metadata"),
        blocked: fields.flag("blocked").unwrap_or_default(),
        ..FileAccount::default()
    }
}

/// LiteLLM's names for many routes at once.
const ROUTE_GROUPS: &[&str] = &["llm_api_routes", "management_routes", "info_routes"];

fn read_routes(fields: &mut Fields<'_>) -> Vec<String> {
    let routes = fields.texts("allowed_routes");
    for (at, route) in routes.iter().enumerate() {
        if !route.starts_with('/') && !ROUTE_GROUPS.contains(&route.as_str()) {
            let message = "must be a path with a slash in front, such as /v1/chat/completions or \
                           /v1/models/*, or one of `llm_api_routes`, `management_routes` and \
                           `info_routes`";
            fields.wrong(&format!("allowed_routes[{at}]"), message);
        }
    }
    routes
}

fn read_addresses(fields: &mut Fields<'_>) -> Vec<(IpAddr, u8)> {
    let mut addresses = Vec::new();
    for (at, text) in fields.texts("allowed_ips").iter().enumerate() {
        match network(text) {
            Some(network) => addresses.push(network),
            None => {
                let message =
                    "must be an address or a network: 192.0.2.7, 10.0.0.0/8, 2001:db8::/32";
                fields.wrong(&format!("allowed_ips[{at}]"), message);
            }
        }
    }
    addresses
}

/// An address and the length of its prefix.
pub(crate) fn network(text: &str) -> Option<(IpAddr, u8)> {
    let (address, length) = match text.split_once('/') {
        Some((address, length)) => (address, Some(length)),
        None => (text, None),
    };
    let address: IpAddr = address.trim().parse().ok()?;
    let most = if address.is_ipv4() { 32 } else { 128 };
    let length = length.map_or(Some(most), |length| length.trim().parse().ok())?;
    (length <= most).then_some((address, length))
}

fn read_key_hash(fields: &mut Fields<'_>) -> (Option<KeyHash>, Option<String>) {
    let key = fields.secret("key");
    let has_key = key.is_some();
    let wanted = "the SHA-256 of a key: 64 hexadecimal digits";
    let key_hash = fields.parsed("key_hash", wanted, KeyHash::from_hex);
    let sha256 = fields.parsed("sha256", wanted, KeyHash::from_hex);
    if usize::from(has_key) + usize::from(key_hash.is_some()) + usize::from(sha256.is_some()) > 1 {
        fields.wrong("key", "give one of `key`, `key_hash` and `sha256`");
    }
    let shown = key.as_ref().and_then(|key| shown(key.expose_secret()));
    (key.map(|key| keys::hash(&key)).or(key_hash).or(sha256), shown)
}

/// LiteLLM's way to say which key it is. Of a short one, four characters would be too much of it.
fn shown(key: &str) -> Option<String> {
    let (at, _) = key.char_indices().rev().nth(3)?;
    (key.len() >= 16).then(|| format!("sk-...{}", &key[at..]))
}
