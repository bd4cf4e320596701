//! All routes of the admin API: from this table they are found, their requests are read, access is
//! decided and `/openapi.json` is written. Nothing is served that is not in it.

use http::Method;

use super::fields::Shape::{
    Amount, BudgetLimits, Count, Counts, Date, Flag, Length, List, Map, Members, ModelBudgets,
    Name, Names, Networks, OneOf, Period, Permission, Renames, Teams, Text, Unsupported,
};
use super::fields::{Field, field, required};

/// One route.
pub(crate) struct Endpoint {
    pub(crate) method: Method,
    /// Its pattern, then other spellings of the path.
    pub(crate) paths: &'static [&'static str],
    /// Which code answers.
    pub(crate) call: Call,
    /// Who may ask.
    pub(crate) rule: Rule,
    /// What a request may say: in the query of a `GET`, else in the body.
    pub(crate) fields: &'static [&'static [Field]],
    /// What it does.
    pub(crate) about: &'static str,
}

/// Who may ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rule {
    /// Everybody, without a key, unless `auth` asks for one.
    Public,
    /// Every key, about what it may see: itself, its user, its team.
    Scoped,
    /// Users, about what is theirs, and team admins about what is their team's.
    Manager,
    /// Team admins about their team.
    TeamAdmin,
    /// Those who see everything.
    Viewer,
    /// Those who may change everything.
    Admin,
}

impl Rule {
    /// Its name in `/openapi.json`.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Rule::Public => "public",
            Rule::Scoped => "scoped",
            Rule::Manager => "manager",
            Rule::TeamAdmin => "team_admin",
            Rule::Viewer => "viewer",
            Rule::Admin => "admin",
        }
    }
}

/// Which code answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    KeyGenerate,
    KeyInfo,
    KeyUpdate,
    KeyDelete,
    KeyBlock,
    KeyUnblock,
    KeyRegenerate,
    KeyList,
    UserNew,
    UserInfo,
    UserList,
    UserUpdate,
    UserDelete,
    TeamNew,
    TeamInfo,
    TeamList,
    TeamUpdate,
    TeamDelete,
    TeamMemberAdd,
    TeamMemberUpdate,
    TeamMemberDelete,
    TeamBlock,
    TeamUnblock,
    CustomerNew,
    CustomerInfo,
    CustomerUpdate,
    CustomerDelete,
    CustomerList,
    CustomerBlock,
    CustomerUnblock,
    BudgetNew,
    BudgetInfo,
    BudgetUpdate,
    BudgetDelete,
    BudgetList,
    TagNew,
    TagInfo,
    TagUpdate,
    TagDelete,
    TagList,
    ModelInfo,
    ModelGroupInfo,
    SpendLogs,
    SpendLogsPaged,
    SpendTags,
    SpendKeys,
    SpendUsers,
    SpendReport,
    SpendCalculate,
    CachePing,
    CacheDelete,
    CacheFlush,
    Audit,
    OpenApi,
}

/// What can be set wherever there is money: the members of a budget.
pub(super) const MONEY: &[Field] = &[
    field("max_budget", Amount, "the most that may be spent, in dollars"),
    field("soft_budget", Amount, "from here on operators are told"),
    field("budget_duration", Period, "how long until it is full again"),
    field("tpm_limit", Count, "tokens a minute"),
    field("rpm_limit", Count, "requests a minute"),
    field("max_parallel_requests", Count, "requests at once"),
    field("tpd_limit", Unsupported, ""),
];

/// What keys, users, teams and budgets have of it.
pub(super) const BY_MODEL: &[Field] =
    &[field("model_max_budget", ModelBudgets, "budgets of single models")];
/// The same for end users and tags, which have it in LiteLLM.
pub(super) const NOT_BY_MODEL: &[Field] = &[field("model_max_budget", Unsupported, "")];

/// The same besides, for keys, users and teams.
pub(super) const LIMITS: &[Field] = &[
    field("models", Names, "what may be called: names, access groups, `openai/*`; empty means all"),
    field("budget_limits", BudgetLimits, "more budgets, of other lengths"),
    field("model_rpm_limit", Counts, "requests a minute by model"),
    field("model_tpm_limit", Counts, "tokens a minute by model"),
    field("metadata", Map, "whatever you note"),
    field("blocked", Flag, "whether it is switched off"),
    field("tags", Names, "tags that all requests carry"),
    field("guardrails", Names, "guards by name"),
    field("budget_fallbacks", Unsupported, ""),
    field("mcp_rpm_limit", Unsupported, ""),
    field("tag_rpm_limit", Unsupported, ""),
    field("object_permission", Permission, "the MCP servers it may use; admins alone say so"),
    field("organization_id", Unsupported, ""),
    field("spend", Unsupported, ""),
];

pub(super) const KEY: &[Field] = &[
    field("key_alias", Name, "its name"),
    field("user_id", Name, "whose it is"),
    field("team_id", Name, "the team it belongs to"),
    field("budget_id", Name, "a budget whose terms it has"),
    field("duration", Length, "when it ends, from now; -1 is never"),
    field("aliases", Renames, "names that mean another model for this key"),
    field("config", Map, "kept and shown"),
    field("permissions", Map, "kept and shown"),
    field(
        "allowed_routes",
        Names,
        "the routes it may use, as patterns or llm_api_routes, management_routes, info_routes",
    ),
    field("allowed_cache_controls", Names, "kept and shown"),
    field("allowed_ips", Networks, "the addresses it may be used from"),
    field("enforced_params", Names, "members that every request must have"),
    field("tools", Names, "the tools of agents it may use; admins alone say so"),
    field(
        "key_type",
        OneOf(&["default", "llm_api", "management", "read_only"]),
        "which routes it may use",
    ),
    field("auto_rotate", Unsupported, ""),
    field("rotation_interval", Unsupported, ""),
    field("temp_budget_increase", Unsupported, ""),
    field("end_user_budget_id", Unsupported, ""),
    field("project_id", Unsupported, ""),
    field("access_group_ids", Unsupported, ""),
    field("allowed_vector_store_indexes", Unsupported, ""),
    field("send_invite_email", Unsupported, ""),
];

const ONE_KEY: Field = required("key", Text, "the key, or its SHA-256");
const NEW_KEY: &[Field] = &[field(
    "key",
    Text,
    "the key itself, instead of a random one: at least 16 characters after `sk-`",
)];
const REGENERATE: &[Field] = &[
    field("key", Text, "the key, or its SHA-256"),
    field("new_key", Text, "the new key itself, instead of a random one"),
    field("grace_period", Length, "how long the old key goes on working"),
    field("new_master_key", Unsupported, ""),
];
const KEYS: &[Field] =
    &[field("keys", Names, "keys, or their SHA-256"), field("key_aliases", Names, "names of keys")];
const PAGE: &[Field] = &[
    field("page", Count, "which page, from 1 on"),
    field("size", Count, "how many a page: at most 100"),
    field("page_size", Count, "the same"),
];
const KEY_LIST: &[Field] = &[
    field("user_id", Name, "of this user"),
    field("team_id", Name, "of this team"),
    field("key_alias", Name, "of this name"),
    field("key_hash", Name, "this one"),
    field("return_full_object", Flag, "rows instead of hashes"),
];

pub(super) const ROLES: &[&str] =
    &["proxy_admin", "proxy_admin_viewer", "internal_user", "internal_user_viewer"];
pub(super) const USER: &[Field] = &[
    field("user_id", Name, "its id"),
    field("user_email", Name, "the address of a person"),
    field("user_alias", Name, "its name"),
    field("user_role", OneOf(ROLES), "what it may administer"),
    field("budget_id", Name, "a budget whose terms it has"),
    field("password", Unsupported, ""),
];
const NEW_USER: &[Field] = &[
    field("teams", Teams, "the teams it is in"),
    field("auto_create_key", Flag, "whether a key is made as well; yes by default"),
    field("key_alias", Name, "the name of that key"),
    field("duration", Length, "when that key ends"),
    field("aliases", Renames, "names that mean another model for that key"),
    field("organizations", Unsupported, ""),
    field("sso_user_id", Unsupported, ""),
    field("send_invite_email", Unsupported, ""),
];
const USER_LIST: &[Field] = &[
    field("user_ids", Text, "these, with commas between them"),
    field("role", Name, "of this role"),
    field("user_email", Name, "with this in their address"),
    field("team", Name, "of this team"),
];

pub(super) const TEAM: &[Field] = &[
    field("team_alias", Name, "its name"),
    field("budget_id", Name, "a budget whose terms it has"),
    field("model_aliases", Unsupported, ""),
    field("team_member_budget", Amount, "what each member may spend that has no budget of its own"),
    field("team_member_budget_duration", Period, "how long until that is full again"),
    field("team_member_rpm_limit", Unsupported, ""),
    field("team_member_tpm_limit", Unsupported, ""),
    field("team_member_key_duration", Unsupported, ""),
    field("team_member_model_max_budget", Unsupported, ""),
];
const TEAM_ID: Field = required("team_id", Name, "which team");
const NEW_TEAM: &[Field] = &[
    field("team_id", Name, "its id"),
    field("members_with_roles", Members, "who is in it"),
    field("members", Names, "the users in it"),
    field("admins", Names, "the users who administer it"),
];
const MEMBER_OF_TEAM: &[Field] =
    &[TEAM_ID, field("user_id", Name, "whom"), field("user_email", Name, "whom, by the address")];
const MEMBER_UPDATE: &[Field] = &[
    field("role", OneOf(&["admin", "user"]), "the role from now on"),
    field("tpm_limit", Unsupported, ""),
    field("rpm_limit", Unsupported, ""),
    field("allowed_models", Unsupported, ""),
    field("model_max_budget", Unsupported, ""),
    field("temp_budget_increase", Unsupported, ""),
];

/// What a member may spend of its team's.
pub(super) const MEMBER_MONEY: &[Field] = &[
    field("max_budget_in_team", Amount, "the most a member may spend of the team's, in dollars"),
    field("budget_duration", Period, "how long until that is full again"),
];

pub(super) const CUSTOMER: &[Field] = &[
    required("user_id", Name, "the id that requests carry as `user`"),
    field("alias", Name, "its name"),
    field("blocked", Flag, "whether it is switched off"),
    field("budget_id", Name, "a budget whose terms it has"),
    field("default_model", Name, "kept and shown"),
    field("models", Names, "what may be called"),
    field("allowed_model_region", Unsupported, ""),
    field("object_permission", Unsupported, ""),
];
const CUSTOMERS: &[Field] = &[required("user_ids", Names, "which")];

const BUDGET_ID: &[Field] = &[required("budget_id", Name, "its id")];
const NEW_BUDGET: &[Field] = &[field("budget_id", Name, "its id")];

pub(super) const TAG: &[Field] = &[
    required("name", Name, "the tag"),
    field("description", Text, "what it is for"),
    field("models", Names, "kept and shown"),
    field("budget_id", Name, "a budget whose terms it has"),
];

const DATES: &[Field] = &[
    field("start_date", Date, "from then on"),
    field("end_date", Date, "until the end of that day, or until that moment"),
];
const SPEND: &[Field] = &[
    field("request_id", Name, "of this request"),
    field("api_key", Text, "of this key, or its SHA-256"),
    field("user_id", Name, "of this user"),
    field("team_id", Name, "of this team"),
    field("end_user", Name, "of this end user"),
    field("tag", Name, "with this tag"),
    field("model", Name, "of this model group"),
    field("summarize", Flag, "sums by day instead of single calls; yes where both dates are given"),
];

const fn get(
    paths: &'static [&'static str],
    call: Call,
    rule: Rule,
    fields: &'static [&'static [Field]],
    about: &'static str,
) -> Endpoint {
    Endpoint { method: Method::GET, paths, call, rule, fields, about }
}

const fn post(
    paths: &'static [&'static str],
    call: Call,
    rule: Rule,
    fields: &'static [&'static [Field]],
    about: &'static str,
) -> Endpoint {
    Endpoint { method: Method::POST, paths, call, rule, fields, about }
}

/// The table.
pub(crate) static ENDPOINTS: &[Endpoint] = &[
    post(
        &["/key/generate"],
        Call::KeyGenerate,
        Rule::Manager,
        &[NEW_KEY, KEY, MONEY, BY_MODEL, LIMITS],
        "Makes a key, which is shown this once.",
    ),
    get(
        &["/key/info"],
        Call::KeyInfo,
        Rule::Scoped,
        &[&[field("key", Text, "the key, or its SHA-256; by default the caller's own")]],
        "Shows a key's settings and spend.",
    ),
    post(
        &["/key/update"],
        Call::KeyUpdate,
        Rule::Manager,
        &[&[ONE_KEY], KEY, MONEY, BY_MODEL, LIMITS],
        "Changes what is named in the request; null takes a setting away.",
    ),
    post(&["/key/delete"], Call::KeyDelete, Rule::Manager, &[KEYS], "Deletes keys, all or none."),
    post(&["/key/block"], Call::KeyBlock, Rule::Manager, &[&[ONE_KEY]], "Switches a key off."),
    post(
        &["/key/unblock"],
        Call::KeyUnblock,
        Rule::Manager,
        &[&[ONE_KEY]],
        "Switches a key on again.",
    ),
    post(
        &["/key/regenerate", "/key/{key}/regenerate"],
        Call::KeyRegenerate,
        Rule::Manager,
        &[REGENERATE, KEY, MONEY, BY_MODEL, LIMITS],
        "Replaces a key by another one with its settings.",
    ),
    get(&["/key/list"], Call::KeyList, Rule::Scoped, &[PAGE, KEY_LIST], "Lists keys."),
    post(
        &["/user/new"],
        Call::UserNew,
        Rule::Admin,
        &[USER, NEW_USER, MONEY, BY_MODEL, LIMITS],
        "Makes a user, and a key for it.",
    ),
    get(
        &["/user/info"],
        Call::UserInfo,
        Rule::Scoped,
        &[&[field("user_id", Name, "whom; by default the caller")]],
        "Shows a user with its keys and teams.",
    ),
    get(&["/user/list"], Call::UserList, Rule::Viewer, &[PAGE, USER_LIST], "Lists users."),
    post(
        &["/user/update"],
        Call::UserUpdate,
        Rule::Admin,
        &[USER, MONEY, BY_MODEL, LIMITS],
        "Changes what is named in the request.",
    ),
    post(
        &["/user/delete"],
        Call::UserDelete,
        Rule::Admin,
        &[&[required("user_ids", Names, "whom")]],
        "Deletes users with their keys.",
    ),
    post(
        &["/team/new"],
        Call::TeamNew,
        Rule::Admin,
        &[NEW_TEAM, TEAM, MONEY, BY_MODEL, LIMITS],
        "Makes a team.",
    ),
    get(
        &["/team/info"],
        Call::TeamInfo,
        Rule::Scoped,
        &[&[field("team_id", Name, "which; by default that of the key")]],
        "Shows a team with its keys.",
    ),
    get(
        &["/team/list"],
        Call::TeamList,
        Rule::Scoped,
        &[&[field("user_id", Name, "of this user")]],
        "Lists teams.",
    ),
    post(
        &["/team/update"],
        Call::TeamUpdate,
        Rule::TeamAdmin,
        &[&[TEAM_ID], TEAM, MONEY, BY_MODEL, LIMITS],
        "Changes what is named in the request. Admins of the team may not change what it is allowed.",
    ),
    post(
        &["/team/delete"],
        Call::TeamDelete,
        Rule::Admin,
        &[&[required("team_ids", Names, "which")]],
        "Deletes teams with their keys.",
    ),
    post(
        &["/team/member_add"],
        Call::TeamMemberAdd,
        Rule::TeamAdmin,
        &[
            &[
                TEAM_ID,
                required("member", Members, "who"),
                field("allowed_models", Unsupported, ""),
            ],
            MEMBER_MONEY,
        ],
        "Adds members, and says what each of them may spend of the team's.",
    ),
    post(
        &["/team/member_update"],
        Call::TeamMemberUpdate,
        Rule::TeamAdmin,
        &[MEMBER_OF_TEAM, MEMBER_UPDATE, MEMBER_MONEY],
        "Changes a member's role, and what it may spend of the team's; null takes that away.",
    ),
    post(
        &["/team/member_delete"],
        Call::TeamMemberDelete,
        Rule::TeamAdmin,
        &[MEMBER_OF_TEAM],
        "Removes a member. Its keys of the team go as well.",
    ),
    post(
        &["/team/block"],
        Call::TeamBlock,
        Rule::Admin,
        &[&[TEAM_ID]],
        "Switches a team's keys off.",
    ),
    post(
        &["/team/unblock"],
        Call::TeamUnblock,
        Rule::Admin,
        &[&[TEAM_ID]],
        "Switches them on again.",
    ),
    post(
        &["/customer/new", "/end_user/new"],
        Call::CustomerNew,
        Rule::Admin,
        &[CUSTOMER, MONEY, NOT_BY_MODEL],
        "Says something about an end user.",
    ),
    get(
        &["/customer/info", "/end_user/info"],
        Call::CustomerInfo,
        Rule::Viewer,
        &[&[required("end_user_id", Name, "whom")]],
        "Shows an end user.",
    ),
    post(
        &["/customer/update", "/end_user/update"],
        Call::CustomerUpdate,
        Rule::Admin,
        &[CUSTOMER, MONEY, NOT_BY_MODEL],
        "Changes what is named in the request.",
    ),
    post(
        &["/customer/delete", "/end_user/delete"],
        Call::CustomerDelete,
        Rule::Admin,
        &[CUSTOMERS],
        "Forgets what was said about end users.",
    ),
    get(
        &["/customer/list", "/end_user/list"],
        Call::CustomerList,
        Rule::Viewer,
        &[PAGE],
        "Lists end users.",
    ),
    post(
        &["/customer/block", "/end_user/block"],
        Call::CustomerBlock,
        Rule::Admin,
        &[CUSTOMERS],
        "Switches end users off.",
    ),
    post(
        &["/customer/unblock", "/end_user/unblock"],
        Call::CustomerUnblock,
        Rule::Admin,
        &[CUSTOMERS],
        "Switches them on again.",
    ),
    post(
        &["/budget/new"],
        Call::BudgetNew,
        Rule::Admin,
        &[NEW_BUDGET, MONEY, BY_MODEL],
        "Makes a budget that others can refer to.",
    ),
    post(
        &["/budget/info"],
        Call::BudgetInfo,
        Rule::Viewer,
        &[&[required("budgets", Names, "which")]],
        "Shows budgets.",
    ),
    post(
        &["/budget/update"],
        Call::BudgetUpdate,
        Rule::Admin,
        &[BUDGET_ID, MONEY, BY_MODEL],
        "Changes what is named in the request, for all that refer to it.",
    ),
    post(
        &["/budget/delete"],
        Call::BudgetDelete,
        Rule::Admin,
        &[&[required("id", Name, "which")]],
        "Deletes a budget that nothing refers to.",
    ),
    get(&["/budget/list"], Call::BudgetList, Rule::Viewer, &[PAGE], "Lists budgets."),
    post(
        &["/tag/new"],
        Call::TagNew,
        Rule::Admin,
        &[TAG, MONEY, NOT_BY_MODEL],
        "Says something about a tag.",
    ),
    post(
        &["/tag/info"],
        Call::TagInfo,
        Rule::Viewer,
        &[&[required("names", Names, "which")]],
        "Shows tags.",
    ),
    post(
        &["/tag/update"],
        Call::TagUpdate,
        Rule::Admin,
        &[TAG, MONEY, NOT_BY_MODEL],
        "Changes what is named in the request.",
    ),
    post(
        &["/tag/delete"],
        Call::TagDelete,
        Rule::Admin,
        &[&[required("name", Name, "which")]],
        "Forgets what was said about a tag.",
    ),
    get(&["/tag/list"], Call::TagList, Rule::Viewer, &[PAGE], "Lists tags."),
    get(
        &["/model/info", "/v1/model/info"],
        Call::ModelInfo,
        Rule::Scoped,
        &[&[field("litellm_model_id", Name, "the deployment of this id")]],
        "Shows the deployments that the caller may call.",
    ),
    get(
        &["/model_group/info"],
        Call::ModelGroupInfo,
        Rule::Scoped,
        &[&[field("model_group", Name, "this one")]],
        "Shows the models that the caller may call.",
    ),
    get(
        &["/spend/logs"],
        Call::SpendLogs,
        Rule::Scoped,
        &[DATES, SPEND],
        "Lists calls, or sums by day.",
    ),
    get(
        &["/spend/logs/v2"],
        Call::SpendLogsPaged,
        Rule::Scoped,
        &[PAGE, DATES, SPEND],
        "Lists calls by the page.",
    ),
    get(&["/spend/tags"], Call::SpendTags, Rule::Viewer, &[DATES], "What was spent by tag."),
    get(
        &["/spend/keys"],
        Call::SpendKeys,
        Rule::Scoped,
        &[PAGE],
        "Keys with what they have spent.",
    ),
    get(
        &["/spend/users"],
        Call::SpendUsers,
        Rule::Scoped,
        &[PAGE, &[field("user_id", Name, "this one")]],
        "Users with what they have spent.",
    ),
    get(
        &["/global/spend/report"],
        Call::SpendReport,
        Rule::Viewer,
        &[
            DATES,
            &[field(
                "group_by",
                OneOf(&["team", "customer", "api_key"]),
                "by what; by team unless said",
            )],
        ],
        "What was spent by day.",
    ),
    post(
        &["/spend/calculate"],
        Call::SpendCalculate,
        Rule::Scoped,
        &[&[
            field("model", Name, "what would be called"),
            field("messages", List, "with what"),
            field("completion_response", Map, "or: what it has answered"),
        ]],
        "What a call costs.",
    ),
    get(&["/cache/ping"], Call::CachePing, Rule::Viewer, &[], "Whether the cache works."),
    post(
        &["/cache/delete"],
        Call::CacheDelete,
        Rule::Admin,
        &[&[required("keys", Names, "`x-litellm-cache-key` of answers")]],
        "Deletes answers.",
    ),
    post(&["/cache/flushall"], Call::CacheFlush, Rule::Admin, &[], "Deletes all answers."),
    get(
        &["/audit"],
        Call::Audit,
        Rule::Viewer,
        &[
            PAGE,
            &[
                field(
                    "object_type",
                    OneOf(&["key", "user", "team", "budget", "end_user", "tag"]),
                    "of this kind",
                ),
                field("object_id", Name, "of this object"),
            ],
        ],
        "Who changed what, latest first.",
    ),
    get(&["/openapi.json"], Call::OpenApi, Rule::Public, &[], "This description."),
];

/// A route that a path has.
#[derive(Clone, Copy)]
pub(crate) struct Found {
    /// Its place in the table.
    pub(crate) at: usize,
    pub(crate) endpoint: &'static Endpoint,
    /// As it stands in the table.
    pub(crate) pattern: &'static str,
}

/// Finds the route of a path, whatever its method.
pub(crate) fn find(path: &str) -> Option<Found> {
    ENDPOINTS.iter().enumerate().find_map(|(at, endpoint)| {
        let pattern = endpoint.paths.iter().find(|pattern| matches(pattern, path))?;
        Some(Found { at, endpoint, pattern })
    })
}

/// Whether a path is as a pattern says. `{name}` stands for anything without a slash.
fn matches(pattern: &str, path: &str) -> bool {
    let (mut pattern, mut path) = (pattern.split('/'), path.split('/'));
    loop {
        match (pattern.next(), path.next()) {
            (None, None) => return true,
            (Some(wanted), Some(have)) if wanted == have => {}
            (Some(wanted), Some(have)) if wanted.starts_with('{') && !have.is_empty() => {}
            _ => return false,
        }
    }
}
