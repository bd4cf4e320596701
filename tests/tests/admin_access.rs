//! Who may do what with whose objects: every route of `/openapi.json` × every kind of caller × their
//! own, somebody else's and missing objects. A route that is new fails here until it is said how it
//! is called; one without a rule cannot be served. Whoever is a user calls twice: with a key, and with
//! a token of an identity provider.

use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::{Value, json};
use tollway_tests::access::{Who, Whose};
use tollway_tests::{Issuer, Response, Setup, Signer, client, get, post};

const ALL: [Who; 12] = [
    Who::None,
    Who::Garbage,
    Who::Expired,
    Who::Blocked,
    Who::KeyWithoutUser,
    Who::User,
    Who::OtherTenantsUser,
    Who::TeamMember,
    Who::TeamAdmin,
    Who::OtherTeamsAdmin,
    Who::Viewer,
    Who::Admin,
];

fn is_tenant_b(who: Who) -> bool {
    who.team() == Some("team-b")
}

/// What a request is about.
struct Target {
    key: String,
    user: String,
    team: String,
    member: String,
    /// An end user, budget or tag.
    thing: String,
    /// Nothing has this id yet.
    fresh: String,
}

/// How a route is called, and what its objects are.
struct Way {
    query: Option<String>,
    body: Value,
    about: About,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum About {
    /// Somebody's object, which others do not see.
    Object,
    /// A list or report, which for those who see everything is empty where there is nothing.
    Listing,
    /// Nothing of anybody's: missing ones do not exist.
    Nothing,
}

fn way(path: &str, whose: Whose, target: &Target) -> Way {
    let Target { key, user, team, member, thing, fresh } = target;
    let body = |body: Value| Way { query: None, body, about: About::Object };
    let query = |query: String, about| Way { query: Some(query), body: Value::Null, about };
    let nothing = |body: Value| Way { query: None, body, about: About::Nothing };
    let list = |filter: &str, value: &str| match whose {
        Whose::Own => Way { query: None, body: Value::Null, about: About::Listing },
        _ => query(format!("{filter}={value}"), About::Listing),
    };
    let missing = whose == Whose::Missing;
    match path {
        "/key/generate" if whose == Whose::Own => nothing(json!({"key_alias": fresh})),
        "/key/generate" => Way {
            about: if missing { About::Object } else { About::Listing },
            ..body(json!({"key_alias": fresh, "team_id": team}))
        },
        "/key/info" => query(format!("key={key}"), About::Object),
        "/key/update" => body(json!({"key": key, "metadata": {"touched": true}})),
        "/key/delete" => body(json!({"keys": [key]})),
        "/key/block" | "/key/unblock" | "/key/regenerate" => body(json!({"key": key})),
        "/key/{key}/regenerate" => body(json!({})),
        "/key/list" => list("user_id", user),
        "/user/new" => nothing(json!({"user_id": fresh})),
        "/user/info" => query(format!("user_id={user}"), About::Object),
        "/user/list" => list("user_ids", user),
        "/user/update" => body(json!({"user_id": user, "metadata": {"touched": true}})),
        "/user/delete" => body(json!({"user_ids": [user]})),
        "/team/new" => nothing(json!({"team_id": fresh})),
        "/team/info" => query(format!("team_id={team}"), About::Object),
        "/team/list" => list("user_id", user),
        "/team/update" => body(json!({"team_id": team, "metadata": {"touched": true}})),
        "/team/delete" => body(json!({"team_ids": [team]})),
        "/team/member_add" => {
            body(json!({"team_id": team, "member": {"role": "user", "user_id": fresh}}))
        }
        "/team/member_update" => body(json!({"team_id": team, "user_id": member, "role": "user"})),
        "/team/member_delete" => body(json!({"team_id": team, "user_id": member})),
        "/team/block" | "/team/unblock" => body(json!({"team_id": team})),
        "/customer/new" | "/end_user/new" => nothing(json!({"user_id": fresh})),
        "/customer/info" | "/end_user/info" => query(format!("end_user_id={thing}"), About::Object),
        "/customer/update" | "/end_user/update" => body(json!({"user_id": thing, "alias": "a"})),
        "/customer/delete" | "/end_user/delete" => body(json!({"user_ids": [thing]})),
        "/customer/block" | "/end_user/block" | "/customer/unblock" | "/end_user/unblock" => {
            nothing(json!({"user_ids": [thing]}))
        }
        "/customer/list" | "/end_user/list" | "/budget/list" | "/tag/list" => {
            query(String::new(), About::Nothing)
        }
        "/budget/new" => nothing(json!({"budget_id": fresh, "max_budget": 1})),
        "/budget/info" => body(json!({"budgets": [thing]})),
        "/budget/update" => body(json!({"budget_id": thing, "max_budget": 2})),
        "/budget/delete" => body(json!({"id": thing})),
        "/tag/new" => nothing(json!({"name": fresh})),
        "/tag/info" => body(json!({"names": [thing]})),
        "/tag/update" => body(json!({"name": thing, "description": "d"})),
        "/tag/delete" => body(json!({"name": thing})),
        "/model/info" | "/v1/model/info" | "/model_group/info" | "/openapi.json"
        | "/spend/tags" => query(String::new(), About::Nothing),
        "/spend/logs" | "/spend/logs/v2" => match whose {
            Whose::Own => query(format!("api_key={key}"), About::Listing),
            _ => query(format!("api_key={key}&user_id={user}"), About::Listing),
        },
        "/spend/keys" => query(String::new(), About::Nothing),
        "/spend/users" if whose == Whose::Own => query(String::new(), About::Listing),
        "/spend/users" => query(format!("user_id={user}"), About::Object),
        "/global/spend/report" => {
            query("start_date=2026-01-01&end_date=2026-12-31".to_owned(), About::Nothing)
        }
        "/spend/calculate" => nothing(json!({"model": "gpt-4o-mini", "messages": []})),
        "/cache/ping" => query(String::new(), About::Nothing),
        "/cache/delete" => nothing(json!({"keys": ["ab".repeat(32)]})),
        "/cache/flushall" => nothing(json!({})),
        "/audit" => query(format!("object_type=user&object_id={user}"), About::Nothing),
        path => panic!("{path} is new: say here how it is called, and what it is about"),
    }
}

/// The status that is right.
fn expected(path: &str, rule: &str, who: Who, whose: Whose, about: About) -> u16 {
    if rule == "public" {
        return 200;
    }
    if who.is_nobody() {
        return 401;
    }
    let found = match (about, whose) {
        (About::Nothing, _) | (_, Whose::Own) => 200,
        (About::Listing, Whose::Others | Whose::Missing) if who.sees_all() => 200,
        (About::Object, Whose::Others) if who.sees_all() => 200,
        _ => 404,
    };
    let is_user = who.user().is_some() && !who.sees_all();
    match rule {
        "scoped" => found,
        "manager" | "team_admin" if !is_user && who != Who::Admin => 403,
        "manager" => match path {
            // What somebody has switched off is not for its holder to switch on.
            "/key/unblock" if found == 200 && !who.is_team_admin() && who != Who::Admin => 403,
            _ => found,
        },
        // In a team, and no admin of it.
        "team_admin" if whose == Whose::Own && !who.is_team_admin() && who != Who::Admin => 403,
        "team_admin" => found,
        "viewer" if !who.sees_all() => 403,
        "admin" if who != Who::Admin => 403,
        "viewer" | "admin" => found,
        rule => panic!("{path}: `{rule}` is no rule"),
    }
}

struct Scene {
    setup: Setup,
    keys: Vec<(Who, String)>,
    next: AtomicU64,
}

impl Scene {
    async fn new() -> Scene {
        let signer = Signer::ec("first", "ES256");
        let issuer = Issuer::start(&[&signer]).await;
        let settings = "    user_id_jwt_field: sub\n    roles_jwt_field: roles\n    role_mappings:\n\
                        \x20     - { role: reader, internal_role: proxy_admin_viewer }\n\
                        litellm_settings: { cache: true, cache_params: { type: local } }";
        let setup = Setup::with(&issuer.config(settings)).await;
        let scene = Scene { setup, keys: Vec::new(), next: AtomicU64::new(0) };
        for team in ["team-a", "team-b"] {
            scene.made("/team/new", json!({"team_id": team})).await;
        }
        let mut keys = Vec::new();
        for who in ALL {
            let key = match who {
                Who::None => String::new(),
                Who::Garbage => "sk-garbage-0123456789".to_owned(),
                Who::Expired => scene.made_key(json!({"duration": "1s"})).await,
                Who::Blocked => scene.made_key(json!({"blocked": true})).await,
                Who::KeyWithoutUser => scene.made_key(json!({})).await,
                who => {
                    let teams: Vec<Value> = who
                        .team()
                        .map(|team| json!({"team_id": team, "user_role": who.role_in_team()}))
                        .into_iter()
                        .collect();
                    let body =
                        json!({"user_id": who.user(), "user_role": who.role(), "teams": teams});
                    let made = scene.made("/user/new", body).await;
                    made["key"].as_str().expect("a key").to_owned()
                }
            };
            keys.push((who, key));
            // The same by a token: what the users of the last two are stored as does not count.
            let (user, more) = match who {
                Who::Viewer => ("tom", json!({"sub": "tom", "roles": ["reader"]})),
                Who::Admin => ("kim", json!({"sub": "kim", "scope": "litellm_proxy_admin"})),
                who => match who.user() {
                    Some(user) => ("", json!({"sub": user})),
                    None => continue,
                },
            };
            if !user.is_empty() {
                scene.made("/user/new", json!({"user_id": user, "auto_create_key": false})).await;
            }
            keys.push((who, issuer.token(&signer, &more)));
        }
        Scene { keys, ..scene }
    }

    async fn made(&self, path: &str, body: Value) -> Value {
        let response = post(self.setup.gateway.address, path, &body).await;
        assert_eq!(response.status, 200, "{path}: {}", response.text());
        response.json()
    }

    async fn made_key(&self, body: Value) -> String {
        let made = self.made("/key/generate", body).await;
        made["key"].as_str().expect("a key").to_owned()
    }

    fn fresh(&self) -> String {
        format!("fresh-{}", self.next.fetch_add(1, Ordering::Relaxed))
    }

    /// Objects that are there for one request, so that it may do away with them. `None` where a
    /// caller has none of its own.
    async fn target(&self, path: &str, who: Who, whose: Whose, own_key: &str) -> Option<Target> {
        let fresh = self.fresh();
        let mut target = Target {
            key: "sk-missing-0123456789abcdef".to_owned(),
            user: "nobody".to_owned(),
            team: "nothing".to_owned(),
            member: self.fresh(),
            thing: self.fresh(),
            fresh,
        };
        // Who is not let in gets no further than that.
        if whose == Whose::Missing || who.is_nobody() {
            return Some(target);
        }
        let is_own = whose == Whose::Own;
        let (other_user, other_team) =
            if is_tenant_b(who) { ("uma", "team-a") } else { ("otto", "team-b") };
        let disposable = matches!(
            path,
            "/user/delete" | "/user/update" | "/team/delete" | "/team/block" | "/team/unblock"
        );
        target.user = match who.user() {
            _ if disposable => self.fresh(),
            Some(user) if is_own => user.to_owned(),
            None if is_own && path.starts_with("/user/info") => return None,
            _ => other_user.to_owned(),
        };
        target.team = match who.team() {
            _ if disposable => self.fresh(),
            Some(team) if is_own => team.to_owned(),
            None if is_own && who.sees_all() => "team-a".to_owned(),
            None if is_own && path.starts_with("/team/") && !who.is_nobody() => {
                // It has no team: whatever it names is somebody else's.
                if path != "/team/list" && path != "/team/new" {
                    return None;
                }
                other_team.to_owned()
            }
            _ => other_team.to_owned(),
        };
        if disposable && path.starts_with("/user/") {
            self.made("/user/new", json!({"user_id": target.user, "auto_create_key": false})).await;
        }
        if disposable && path.starts_with("/team/") {
            self.made("/team/new", json!({"team_id": target.team})).await;
        }
        if path.starts_with("/team/member_") && path != "/team/member_add" {
            let member = json!({"role": "user", "user_id": target.member});
            self.made("/team/member_add", json!({"team_id": target.team, "member": member})).await;
        }
        if path.starts_with("/key/") || path.starts_with("/spend/logs") {
            target.key = match who {
                Who::KeyWithoutUser if is_own => own_key.to_owned(),
                who if who.is_team_admin() => self.made_key(json!({"team_id": target.team})).await,
                who if is_own => self.made_key(json!({"user_id": who.user()})).await,
                _ => self.made_key(json!({"user_id": other_user})).await,
            };
        }
        let thing = &target.thing;
        match path.split('/').nth(1) {
            Some("customer" | "end_user") => {
                self.made("/customer/new", json!({"user_id": thing})).await
            }
            Some("budget") => self.made("/budget/new", json!({"budget_id": thing})).await,
            Some("tag") => self.made("/tag/new", json!({"name": thing})).await,
            _ => Value::Null,
        };
        Some(target)
    }

    async fn send(&self, method: &str, path: &str, key: &str, way: &Way) -> Response {
        let bearer = if key.is_empty() { String::new() } else { format!("Bearer {key}") };
        let headers = [("authorization", bearer.as_str())];
        let path = match &way.query {
            Some(query) if !query.is_empty() => format!("{path}?{query}"),
            _ => path.to_owned(),
        };
        let body = if way.body.is_null() { String::new() } else { way.body.to_string() };
        client::send(self.setup.gateway.address, method, &path, &headers, body.as_bytes()).await
    }
}

#[tokio::test]
async fn every_route_answers_every_caller_about_every_object_as_its_rule_says() {
    let scene = Scene::new().await;
    let document = get(scene.setup.gateway.address, "/openapi.json", &[]).await.json();
    let expired = &scene.keys.iter().find(|(who, _)| *who == Who::Expired).expect("it is there").1;
    // It ends within a second of being made.
    let bearer = format!("Bearer {expired}");
    while get(scene.setup.gateway.address, "/v1/models", &[("authorization", &bearer)]).await.status
        != 401
    {}
    let (mut asked, mut wrong) = (0, Vec::new());
    for (path, operations) in document["paths"].as_object().expect("paths") {
        for (method, operation) in operations.as_object().expect("operations") {
            // They have objects of other kinds: see agents_access.rs.
            if operation["tags"][0] == "agents" {
                continue;
            }
            let rule =
                operation["x-access"].as_str().unwrap_or_else(|| panic!("{path} has no rule"));
            for (who, key) in &scene.keys {
                // Some requests do away with the key that makes them.
                let key = match who {
                    Who::KeyWithoutUser => scene.made_key(json!({})).await,
                    _ => key.clone(),
                };
                for whose in [Whose::Own, Whose::Others, Whose::Missing] {
                    let Some(target) = scene.target(path, *who, whose, &key).await else {
                        continue;
                    };
                    let way = way(path, whose, &target);
                    let named = path.replace("{key}", &target.key);
                    let response = scene.send(&method.to_uppercase(), &named, &key, &way).await;
                    let expect = expected(path, rule, *who, whose, way.about);
                    asked += 1;
                    if response.status != expect {
                        wrong.push(format!(
                            "{method} {path} ({rule}) {who:?} {whose:?}: {} instead of {expect}: {}",
                            response.status,
                            response.text().chars().take(200).collect::<String>()
                        ));
                    }
                }
            }
        }
    }
    assert!(asked > 2_800, "only {asked} requests");
    assert!(wrong.is_empty(), "{} of {asked}:\n{}", wrong.len(), wrong.join("\n"));
}
