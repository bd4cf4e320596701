//! The admin API through the public door: a key's life, LiteLLM's shapes, what is refused, and what
//! is never shown or kept.

use serde_json::{Value, json};
use tollway_tests::gateway::{Folder, MASTER_KEY, Options};
use tollway_tests::setup::{config, eventually, simulator};
use tollway_tests::{Gateway, Response, Setup, chat, get, post_with};

const CONFIG_KEY: &str = "
keys:
  - { alias: ci, key: sk-config-0000000001, models: [gpt-4o-mini] }
";

/// A caller of the admin API.
struct Caller<'s> {
    setup: &'s Setup,
    bearer: String,
}

impl<'s> Caller<'s> {
    fn new(setup: &'s Setup, key: &str) -> Caller<'s> {
        Caller { setup, bearer: format!("Bearer {key}") }
    }

    async fn get(&self, path: &str) -> Response {
        get(self.setup.gateway.address, path, &[("authorization", &self.bearer)]).await
    }

    async fn post(&self, path: &str, body: &Value) -> Response {
        let headers = [("authorization", self.bearer.as_str())];
        post_with(self.setup.gateway.address, path, &headers, body).await
    }

    /// Posts what has to be accepted; the answer.
    async fn done(&self, path: &str, body: Value) -> Value {
        let response = self.post(path, &body).await;
        assert_eq!(response.status, 200, "{path} {body}: {}", response.text());
        response.json()
    }

    /// Posts what has to be refused, because of `param`.
    async fn refused(&self, path: &str, body: Value, status: u16, param: &str) -> Response {
        let response = self.post(path, &body).await;
        assert_eq!(response.status, status, "{path} {body}: {}", response.text());
        assert_eq!(response.error("param"), param, "{path} {body}: {}", response.text());
        response
    }

    async fn key(&self, body: Value) -> String {
        let made = self.done("/key/generate", body).await;
        made["key"].as_str().expect("it is shown").to_owned()
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("a text: {value}"))
}

#[tokio::test]
async fn key_works_from_the_answer_on_that_shows_it_until_it_is_blocked_or_deleted() {
    let setup = Setup::start().await;
    let admin = Caller::new(&setup, MASTER_KEY);
    let made = admin
        .done(
            "/key/generate",
            json!({"key_alias": "ci", "models": ["gpt-4o-mini"], "duration": "30d", "max_budget": 10.5,
                   "budget_duration": "30d", "rpm_limit": 100, "metadata": {"for": "tests"}}),
        )
        .await;
    let key = text(&made["key"]).to_owned();
    assert!(key.starts_with("sk-") && key.len() == 25, "{key}");
    assert_eq!(made["key_name"], format!("sk-...{}", &key[21..]));
    assert_eq!(made["token"], made["token_id"]);
    assert_eq!(text(&made["token"]).len(), 64);
    assert_eq!(made["max_budget"], 10.5);
    assert!(text(&made["expires"]).ends_with('Z'));
    assert_eq!(setup.chat_as(&key, &chat("gpt-4o-mini", "Hi")).await.status, 200);
    assert_eq!(setup.chat_as(&key, &chat("claude", "Hi")).await.status, 403);

    // It may be named by itself or by its hash, and is not shown again.
    for name in [key.as_str(), text(&made["token"])] {
        let response = admin.get(&format!("/key/info?key={name}")).await;
        let info = response.json();
        assert_eq!(info["key"], name);
        assert_eq!(info["info"]["key_alias"], "ci");
        assert_eq!(info["info"]["metadata"], json!({"for": "tests"}));
        assert_eq!(info["info"]["status"], "active");
        if name != key {
            assert!(!response.text().contains(&key));
        }
    }
    admin.done("/key/update", json!({"key": key, "models": ["claude"], "rpm_limit": null})).await;
    assert_eq!(setup.chat_as(&key, &chat("claude", "Hi")).await.status, 200);
    let info = admin.get(&format!("/key/info?key={key}")).await.json();
    assert_eq!(info["info"]["rpm_limit"], Value::Null);

    let blocked = admin.done("/key/block", json!({"key": key})).await;
    assert_eq!(blocked["blocked"], true);
    let refused = setup.chat_as(&key, &chat("claude", "Hi")).await;
    assert_eq!(refused.status, 401);
    assert_eq!(
        refused.error("message"),
        "Authentication Error, Key is blocked. Update via `/key/unblock` if you're an admin."
    );
    admin.done("/key/unblock", json!({"key": key})).await;
    assert_eq!(setup.chat_as(&key, &chat("claude", "Hi")).await.status, 200);

    let deleted = admin.done("/key/delete", json!({"key_aliases": ["ci"]})).await;
    assert_eq!(deleted, json!({"deleted_keys": ["ci"]}));
    assert_eq!(setup.chat_as(&key, &chat("claude", "Hi")).await.status, 401);
    assert_eq!(admin.get(&format!("/key/info?key={key}")).await.status, 404);
    let actions: Vec<Value> = admin.get("/audit?object_type=key").await.json()["audit_logs"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|entry| entry["action"].clone())
        .collect();
    assert_eq!(actions, ["deleted", "unblocked", "blocked", "updated", "created"]);
}

#[tokio::test]
async fn keys_outlive_the_process_and_only_their_hashes_are_kept() {
    let folder = Folder::fresh();
    let simulator = simulator().await;
    let start = || {
        let config = Some(config("", &simulator));
        let folder = Some(folder.0.clone());
        Gateway::start_with(Options { config, folder, ..Options::default() })
    };
    let mut gateway = start().await;
    let made =
        tollway_tests::post(gateway.address, "/key/generate", &json!({"key_alias": "kept"})).await;
    let key = text(&made.json()["key"]).to_owned();
    let custom = "sk-my-own-0123456789abcdef";
    let body = json!({"key": custom});
    assert_eq!(tollway_tests::post(gateway.address, "/key/generate", &body).await.status, 200);
    gateway.signal("TERM");
    gateway.ended().await;
    let logged = gateway.stdout() + &gateway.stderr();
    let gateway = start().await;
    for key in [key.as_str(), custom] {
        let bearer = format!("Bearer {key}");
        let response = get(gateway.address, "/v1/models", &[("authorization", &bearer)]).await;
        assert_eq!(response.status, 200, "{}", response.text());
        assert!(!logged.contains(key));
    }
    let mut files = 0;
    let mut folders = vec![folder.0.clone()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("it is there") {
            let path = entry.expect("it can be read").path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            files += 1;
            let bytes = std::fs::read(&path).expect("it can be read");
            for key in [key.as_bytes(), custom.as_bytes()] {
                let found = bytes.windows(key.len()).any(|window| window == key);
                assert!(!found, "{} has a key in it", path.display());
            }
        }
    }
    assert!(files >= 2, "the database is there");
}

#[tokio::test]
async fn regenerated_key_has_the_same_settings_and_the_old_one_works_as_long_as_it_was_given() {
    let setup = Setup::start().await;
    let admin = Caller::new(&setup, MASTER_KEY);
    let first = admin.key(json!({"key_alias": "ci", "models": ["gpt-4o-mini"]})).await;
    let made = admin.done(&format!("/key/{first}/regenerate"), json!({"grace_period": "1h"})).await;
    let second = text(&made["key"]).to_owned();
    assert_ne!(first, second);
    assert_eq!(made["key_alias"], "ci");
    assert_eq!(made["models"], json!(["gpt-4o-mini"]));
    for key in [&first, &second] {
        assert_eq!(setup.chat_as(key, &chat("gpt-4o-mini", "Hi")).await.status, 200);
    }
    let old = admin.get(&format!("/key/info?key={first}")).await.json();
    assert_eq!(old["info"]["replaced_by"], made["token"]);
    assert!(text(&old["info"]["expires"]) > text(&made["created_at"]));

    let third = admin
        .done("/key/regenerate", json!({"key": second, "new_key": "sk-third-0123456789abcdef"}))
        .await;
    assert_eq!(third["key"], "sk-third-0123456789abcdef");
    assert_eq!(setup.chat_as(&second, &chat("gpt-4o-mini", "Hi")).await.status, 401);
    assert_eq!(
        setup.chat_as("sk-third-0123456789abcdef", &chat("gpt-4o-mini", "Hi")).await.status,
        200
    );
    let audit = admin.get("/audit").await.text();
    for key in [&first, &second, "sk-third-0123456789abcdef"] {
        assert!(!audit.contains(key));
    }
}

#[tokio::test]
async fn key_of_the_config_is_shown_and_not_changed() {
    let setup = Setup::with(CONFIG_KEY).await;
    let admin = Caller::new(&setup, MASTER_KEY);
    let info = admin.get("/key/info?key=sk-config-0000000001").await.json();
    assert_eq!(info["info"]["key_alias"], "ci");
    assert_eq!(info["info"]["from_config"], true);
    for (path, body) in [
        ("/key/update", json!({"key": "sk-config-0000000001", "models": []})),
        ("/key/block", json!({"key": "sk-config-0000000001"})),
        ("/key/delete", json!({"keys": ["sk-config-0000000001"]})),
        ("/key/regenerate", json!({"key": "sk-config-0000000001"})),
    ] {
        let response = admin.refused(path, body, 403, "key").await;
        assert_eq!(response.error("code"), "config_key");
    }
    admin.refused("/key/generate", json!({"key": "sk-config-0000000001"}), 400, "key").await;
    assert_eq!(setup.chat_as("sk-config-0000000001", &chat("gpt-4o-mini", "Hi")).await.status, 200);
}

#[tokio::test]
async fn absurd_requests_are_refused_naming_the_member() {
    let setup = Setup::start().await;
    let admin = Caller::new(&setup, MASTER_KEY);
    for (body, param) in [
        (json!({"max_budget": -1}), "max_budget"),
        (json!({"max_budget": "lots"}), "max_budget"),
        (json!({"max_budget": 1e30}), "max_budget"),
        (json!({"max_budget": [1]}), "max_budget"),
        (json!({"rpm_limit": -5}), "rpm_limit"),
        (json!({"rpm_limit": 1.5}), "rpm_limit"),
        (json!({"tpm_limit": 1e300}), "tpm_limit"),
        (json!({"models": "gpt-4o"}), "models"),
        (json!({"models": [1]}), "models"),
        (json!({"key_alias": "x".repeat(1_000_000)}), "key_alias"),
        (json!({"key_alias": "a\u{0}b"}), "key_alias"),
        (json!({"key_alias": 7}), "key_alias"),
        (json!({"duration": "soon"}), "duration"),
        (json!({"budget_duration": "99999999999999999999d"}), "budget_duration"),
        (json!({"metadata": "text"}), "metadata"),
        (json!({"metadata": {"big": "x".repeat(100_000)}}), "metadata"),
        (json!({"metadata": {"nul": ["\u{0}"]}}), "metadata"),
        (json!({"blocked": "perhaps"}), "blocked"),
        (json!({"model_max_budget": {"gpt-4o": {"budget_limit": -1}}}), "model_max_budget"),
        (json!({"budget_limits": [{"max_budget": 1}]}), "budget_limits"),
        (json!({"allowed_ips": ["10.0.0.0/40"]}), "allowed_ips"),
        (json!({"key_type": "root"}), "key_type"),
        (json!({"key": "short"}), "key"),
        (json!({"key": format!("sk-{}", "x".repeat(600))}), "key"),
    ] {
        admin.refused("/key/generate", body, 422, param).await;
    }
    // What would have no effect is not taken as if it had one.
    for (body, param) in
        [(json!({"tpd_limit": 5}), "tpd_limit"), (json!({"auto_rotate": true}), "auto_rotate")]
    {
        let response = admin.refused("/key/generate", body, 400, param).await;
        assert_eq!(response.error("code"), "unsupported_parameter");
    }
    admin.refused("/key/delete", json!({}), 400, "keys").await;
    admin.refused("/key/generate", json!({"team_id": "none"}), 404, "team_id").await;
    admin.refused("/key/generate", json!({"budget_id": "none"}), 404, "budget_id").await;
    for bytes in [&b"{"[..], b"[]", b"\xff", b"{\"a\":1}}", &b"[".repeat(100_000)] {
        let bearer = [("authorization", format!("Bearer {MASTER_KEY}"))];
        let headers = bearer.each_ref().map(|(name, value)| (*name, value.as_str()));
        let response = tollway_tests::client::send(
            setup.gateway.address,
            "POST",
            "/key/generate",
            &headers,
            bytes,
        )
        .await;
        assert_eq!(response.status, 400, "{}", response.text());
        assert_eq!(response.error("param"), "request_body");
    }
    let large = vec![b' '; (1 << 20) + 1];
    let response =
        tollway_tests::client::send(setup.gateway.address, "POST", "/key/generate", &[], &large)
            .await;
    assert_eq!(response.status, 413);
    // What LiteLLM does not know it ignores.
    admin
        .done("/key/generate", json!({"what_is_this": {"a": 1}, "send_invite_email": false}))
        .await;
}

#[tokio::test]
async fn sql_in_every_member_is_kept_as_it_is() {
    let setup = Setup::start().await;
    let admin = Caller::new(&setup, MASTER_KEY);
    let evil = "'; DROP TABLE objects; -- \" ` \\ %_ ${x} 𝕊";
    let key = admin
        .key(json!({"key_alias": evil, "user_id": evil, "models": [evil], "tags": [evil],
                    "metadata": {evil: evil}, "aliases": {evil: evil}}))
        .await;
    let info = admin.get(&format!("/key/info?key={key}")).await.json();
    for member in ["key_alias", "user_id"] {
        assert_eq!(info["info"][member], evil);
    }
    assert_eq!(info["info"]["metadata"][evil], evil);
    admin.done("/team/new", json!({"team_id": evil, "team_alias": evil})).await;
    admin.done("/customer/new", json!({"user_id": evil, "max_budget": 1})).await;
    admin.done("/tag/new", json!({"name": evil, "description": evil})).await;
    admin.done("/budget/new", json!({"budget_id": evil, "max_budget": 1})).await;
    let found = admin.done("/tag/info", json!({"names": [evil]})).await;
    assert_eq!(found[evil]["description"], evil);
    admin.done("/key/delete", json!({"key_aliases": [evil]})).await;
    assert_eq!(admin.get("/key/list").await.json()["total_count"], 0);
}

#[tokio::test]
async fn names_are_unique_and_lists_come_by_the_page() {
    let setup = Setup::start().await;
    let admin = Caller::new(&setup, MASTER_KEY);
    for number in 0..25 {
        admin
            .key(json!({"key_alias": format!("k{number}"), "user_id": format!("u{}", number % 2)}))
            .await;
    }
    admin.refused("/key/generate", json!({"key_alias": "k7"}), 400, "key_alias").await;
    let page = admin.get("/key/list?page=3&size=10").await.json();
    assert_eq!(page["keys"].as_array().map(Vec::len), Some(5));
    assert_eq!((&page["total_count"], &page["total_pages"]), (&json!(25), &json!(3)));
    let rows = admin.get("/key/list?user_id=u1&size=100&return_full_object=true").await.json();
    assert_eq!(rows["total_count"], 12);
    assert!(
        rows["keys"].as_array().is_some_and(|rows| rows.iter().all(|row| row["user_id"] == "u1"))
    );
    assert_eq!(admin.get("/key/list?size=101").await.status, 422);
    assert_eq!(admin.get("/key/list?page=0").await.status, 422);
    assert_eq!(admin.get("/key/list?page=x").await.error("param"), "page");
}

#[tokio::test]
async fn concurrent_changes_of_one_object_all_count() {
    let setup = Setup::start().await;
    let admin = Caller::new(&setup, MASTER_KEY);
    admin.done("/team/new", json!({"team_id": "t"})).await;
    let mut adding = tokio::task::JoinSet::new();
    let address = setup.gateway.address;
    for number in 0..8 {
        adding.spawn(async move {
            let member = json!({"role": "user", "user_id": format!("u{number}")});
            let body = json!({"team_id": "t", "member": member});
            tollway_tests::post(address, "/team/member_add", &body).await.status
        });
    }
    let statuses = adding.join_all().await;
    let done = statuses.iter().filter(|status| **status == 200).count();
    // One that lost too often is told so, and nothing of it is kept.
    assert!(statuses.iter().all(|status| [200, 409].contains(status)), "{statuses:?}");
    let info = admin.get("/team/info?team_id=t").await.json();
    assert_eq!(info["team_info"]["members_with_roles"].as_array().map(Vec::len), Some(done));
}

#[tokio::test]
async fn people_and_teams_come_and_go_with_their_keys() {
    let setup = Setup::start().await;
    let admin = Caller::new(&setup, MASTER_KEY);
    admin
        .done("/team/new", json!({"team_id": "dev", "team_alias": "Developers", "max_budget": 100}))
        .await;
    let anna = admin
        .done(
            "/user/new",
            json!({"user_id": "anna", "user_email": "Anna@Example.com", "teams": ["dev"]}),
        )
        .await;
    assert_eq!(anna["user_role"], "internal_user");
    let key = text(&anna["key"]).to_owned();
    assert_eq!(setup.chat_as(&key, &chat("gpt-4o-mini", "Hi")).await.status, 200);
    admin.refused("/user/new", json!({"user_email": "anna@example.com"}), 400, "user_email").await;
    let in_team = admin.key(json!({"team_id": "dev", "user_id": "anna"})).await;
    let info = admin.get("/user/info?user_id=anna").await.json();
    assert_eq!(info["teams"][0]["team_alias"], "Developers");
    assert_eq!(info["keys"].as_array().map(Vec::len), Some(2));
    let team = admin.get("/team/info?team_id=dev").await.json();
    assert_eq!(team["team_info"]["members_with_roles"][0]["user_id"], "anna");

    admin.done("/team/member_delete", json!({"team_id": "dev", "user_id": "anna"})).await;
    assert_eq!(setup.chat_as(&in_team, &chat("gpt-4o-mini", "Hi")).await.status, 401);
    assert_eq!(setup.chat_as(&key, &chat("gpt-4o-mini", "Hi")).await.status, 200);
    admin.done("/user/delete", json!({"user_ids": ["anna"]})).await;
    assert_eq!(setup.chat_as(&key, &chat("gpt-4o-mini", "Hi")).await.status, 401);
    let of_team = admin.key(json!({"team_id": "dev"})).await;
    admin.done("/team/delete", json!({"team_ids": ["dev"]})).await;
    assert_eq!(setup.chat_as(&of_team, &chat("gpt-4o-mini", "Hi")).await.status, 401);
    assert_eq!(admin.get("/key/list").await.json()["total_count"], 0);
}

#[tokio::test]
async fn budget_in_use_is_not_deleted() {
    let setup = Setup::start().await;
    let admin = Caller::new(&setup, MASTER_KEY);
    admin
        .done(
            "/budget/new",
            json!({"budget_id": "small", "max_budget": 1, "budget_duration": "1d"}),
        )
        .await;
    let key = admin.key(json!({"budget_id": "small"})).await;
    let info = admin.get(&format!("/key/info?key={key}")).await.json();
    assert_eq!(info["info"]["litellm_budget_table"]["max_budget"], 1);
    admin.refused("/budget/delete", json!({"id": "small"}), 409, "id").await;
    admin.done("/key/delete", json!({"keys": [key]})).await;
    admin.done("/budget/delete", json!({"id": "small"})).await;
    assert_eq!(admin.get("/budget/list").await.json(), json!([]));
}

#[tokio::test]
async fn models_are_shown_to_those_who_may_call_them() {
    let setup = Setup::start().await;
    let admin = Caller::new(&setup, MASTER_KEY);
    let all = admin.get("/v1/model/info").await;
    assert!(!all.text().contains("sk-upstream"), "no credential is shown");
    let names = |answer: &Value, name: &str| -> Vec<Value> {
        answer["data"].as_array().expect("a list").iter().map(|row| row[name].clone()).collect()
    };
    assert_eq!(names(&all.json(), "model_name").len(), 5);
    let key = admin.key(json!({"models": ["claude"]})).await;
    let caller = Caller::new(&setup, &key);
    let few = caller.get("/model/info").await.json();
    assert_eq!(names(&few, "model_name"), ["claude"]);
    assert_eq!(few["data"][0]["litellm_params"].get("api_base"), None);
    let groups = caller.get("/model_group/info").await.json();
    assert_eq!(names(&groups, "model_group"), ["claude"]);
    assert_eq!(groups["data"][0]["providers"], json!(["anthropic"]));
    let body = json!({"model": "gpt-4o-mini", "completion_response":
        {"usage": {"prompt_tokens": 1000, "completion_tokens": 100, "total_tokens": 1100}}});
    assert_eq!(admin.done("/spend/calculate", body.clone()).await, json!({"cost": 0.00021}));
    caller.refused("/spend/calculate", body, 400, "model").await;
}

#[tokio::test]
async fn cache_is_emptied_on_demand() {
    let setup =
        Setup::with("litellm_settings: { cache: true, cache_params: { type: local } }").await;
    let admin = Caller::new(&setup, MASTER_KEY);
    assert_eq!(admin.get("/cache/ping").await.json()["status"], "healthy");
    let ask = || async { setup.chat(&chat("gpt-4o-mini", "Hi")).await };
    ask().await;
    let hit = ask().await;
    let key = hit.header("x-litellm-cache-key").expect("a hit").to_owned();
    assert_eq!(setup.asked().len(), 1);
    admin.done("/cache/delete", json!({"keys": [key]})).await;
    ask().await;
    assert_eq!(setup.asked().len(), 2);
    admin.done("/cache/flushall", json!({})).await;
    ask().await;
    assert_eq!(setup.asked().len(), 3);
    let without = Setup::start().await;
    assert_eq!(Caller::new(&without, MASTER_KEY).get("/cache/ping").await.status, 400);
}

#[tokio::test]
async fn nobody_gives_more_than_they_have() {
    let setup = Setup::start().await;
    let admin = Caller::new(&setup, MASTER_KEY);
    admin.done("/team/new", json!({"team_id": "dev"})).await;
    let user = |id: &str, more: Value| {
        let mut body =
            json!({"user_id": id, "models": ["claude"], "max_budget": 5, "rpm_limit": 10});
        body.as_object_mut().expect("a map").extend(more.as_object().expect("a map").clone());
        body
    };
    let made = admin.done("/user/new", user("anna", json!({}))).await;
    let anna = Caller::new(&setup, text(&made["key"]));
    for (body, param) in [
        (json!({"models": ["gpt-4o-mini"]}), "models"),
        (json!({"models": ["*"]}), "models"),
        (json!({"max_budget": 5.01}), "max_budget"),
        (json!({"rpm_limit": 11}), "rpm_limit"),
        (json!({"budget_id": "any"}), "budget_id"),
    ] {
        let status = if param == "budget_id" { 404 } else { 403 };
        anna.refused("/key/generate", body, status, param).await;
    }
    anna.refused("/key/generate", json!({"user_id": "otto"}), 404, "user_id").await;
    // Without a word it has what its maker has.
    let made = anna.done("/key/generate", json!({"max_budget": 5, "rpm_limit": 10})).await;
    assert_eq!((&made["models"], &made["user_id"]), (&json!(["claude"]), &json!("anna")));
    // A key with a budget of its own does not hand it on twice, nor raises it.
    let key = text(&made["key"]).to_owned();
    let limited = Caller::new(&setup, &key);
    assert_eq!(limited.post("/key/generate", &json!({})).await.status, 403);
    limited.refused("/key/update", json!({"key": key, "max_budget": 5.5}), 403, "max_budget").await;
    limited
        .refused("/key/update", json!({"key": key, "max_budget": null}), 403, "max_budget")
        .await;
    limited.done("/key/update", json!({"key": key, "max_budget": 4})).await;
    // What an admin has put on a key stays on it.
    admin.done("/key/update", json!({"key": key, "guardrails": ["pii"], "blocked": true})).await;
    anna.refused("/key/update", json!({"key": key, "guardrails": []}), 403, "guardrails").await;
    anna.refused("/key/update", json!({"key": key, "blocked": false}), 403, "blocked").await;
    anna.refused("/key/update", json!({"key": key, "user_id": "otto"}), 403, "user_id").await;

    // A team's admin does not get a key that speaks for a member, nor more for the team.
    let ada = json!({"teams": [{"team_id": "dev", "user_role": "admin"}], "models": []});
    let made = admin.done("/user/new", user("ada", ada)).await;
    let ada = Caller::new(&setup, text(&made["key"]));
    let chief = json!({"user_role": "proxy_admin", "teams": ["dev"]});
    admin.done("/user/new", user("chief", chief)).await;
    let of_chief = admin.key(json!({"user_id": "chief", "team_id": "dev"})).await;
    ada.refused("/key/regenerate", json!({"key": of_chief}), 403, "key").await;
    ada.refused("/key/generate", json!({"user_id": "chief", "team_id": "dev"}), 404, "user_id")
        .await;
    ada.refused("/team/update", json!({"team_id": "dev", "max_budget": 1000}), 403, "max_budget")
        .await;
    ada.done("/key/block", json!({"key": of_chief})).await;
    ada.done("/key/generate", json!({"team_id": "dev", "user_id": null})).await;
}

#[tokio::test]
async fn key_types_may_use_their_routes() {
    let setup = Setup::start().await;
    let admin = Caller::new(&setup, MASTER_KEY);
    admin.done("/user/new", json!({"user_id": "anna", "auto_create_key": false})).await;
    for (kind, chats, makes, shows) in [
        ("default", 200, 200, 200),
        ("llm_api", 200, 403, 403),
        ("management", 403, 200, 200),
        ("read_only", 403, 403, 200),
    ] {
        let key = admin.key(json!({"user_id": "anna", "key_type": kind})).await;
        let caller = Caller::new(&setup, &key);
        assert_eq!(setup.chat_as(&key, &chat("claude", "Hi")).await.status, chats, "{kind}");
        assert_eq!(caller.post("/key/generate", &json!({})).await.status, makes, "{kind}");
        assert_eq!(caller.get("/key/info").await.status, shows, "{kind}");
    }
}

#[tokio::test]
async fn what_was_spent_is_told_to_those_who_may_know() {
    let setup = Setup::start().await;
    let admin = Caller::new(&setup, MASTER_KEY);
    let made = admin.done("/user/new", json!({"user_id": "anna"})).await;
    let key = text(&made["key"]).to_owned();
    let mut body = chat("gpt-4o-mini", "Hi");
    body["user"] = "end-1".into();
    body["metadata"] = json!({"tags": ["app"]});
    assert_eq!(setup.chat_as(&key, &body).await.status, 200);
    let anna = Caller::new(&setup, &key);
    // The ledger is fed from the journal, a little later.
    let mut logs = json!([]);
    eventually("the call is in the ledger", async || {
        logs = anna.get("/spend/logs").await.json();
        logs != json!([])
    })
    .await;
    let log = &logs[0];
    assert_eq!(
        (&log["user"], &log["end_user"], &log["model_group"]),
        (&json!("anna"), &json!("end-1"), &json!("gpt-4o-mini"))
    );
    assert_eq!((&log["api_key"], &log["status"]), (&made["token"], &json!("success")));
    let spend = log["spend"].as_f64().expect("a number");
    assert!(spend > 0.0);
    let paged = admin.get("/spend/logs/v2?user_id=anna&page_size=10").await.json();
    assert_eq!((&paged["total"], &paged["data"][0]["request_id"]), (&json!(1), &log["request_id"]));
    let by_day = admin.get("/spend/logs?start_date=2020-01-01&end_date=2100-01-01").await.json();
    assert_eq!(by_day[0]["users"]["anna"], spend);
    assert_eq!(by_day[0]["models"]["gpt-4o-mini"], spend);
    assert_eq!(admin.get("/spend/users").await.json()[0]["spend"], spend);
    assert_eq!(anna.get("/key/info").await.json()["info"]["spend"], spend);
    let report = "/global/spend/report?start_date=2020-01-01&end_date=2100-01-01&group_by=api_key";
    let report = admin.get(report).await.json();
    assert_eq!(report[0]["total_cost"], spend);
    assert_eq!(report[0]["model_details"][0]["model"], "gpt-4o-mini");
    // Somebody else sees nothing of it.
    let made = admin.done("/user/new", json!({"user_id": "otto"})).await;
    let otto = Caller::new(&setup, text(&made["key"]));
    assert_eq!(otto.get("/spend/logs").await.json(), json!([]));
    let id = text(&log["request_id"]);
    assert_eq!(otto.get(&format!("/spend/logs?request_id={id}")).await.json(), json!([]));
    assert_eq!(otto.get("/spend/logs?user_id=anna").await.status, 404);
}
