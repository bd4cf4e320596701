//! Who may do what with whose runs, threads, agents and files: every route of agents in
//! `/openapi.json`, which is made from the table that routes, × every kind of caller × their own,
//! somebody else's and missing objects. A route that is new fails here until it is said how it is
//! called. What belongs to somebody else is not there.

use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::{Value, json};
use tollway_simulator::Reply;
use tollway_tests::access::{Who, Whose};
use tollway_tests::agents::{call, reckons};
use tollway_tests::client::send;
use tollway_tests::gateway::MASTER_KEY;
use tollway_tests::setup::eventually;
use tollway_tests::{Response, Setup, get, post};

const ALL: [Who; 14] = [
    Who::None,
    Who::Garbage,
    Who::Expired,
    Who::Blocked,
    Who::KeyWithoutUser,
    Who::User,
    Who::UsersOtherKey,
    Who::OtherTenantsUser,
    Who::TeamMember,
    Who::TeamsOtherKey,
    Who::TeamAdmin,
    Who::Viewer,
    Who::Admin,
    Who::Master,
];

/// With whose key the caller's own objects are made.
fn maker(who: Who) -> Who {
    match who {
        Who::UsersOtherKey => Who::User,
        who => who,
    }
}

/// Somebody else, as near as can be.
fn stranger(who: Who) -> Who {
    match who {
        Who::TeamMember => Who::TeamAdmin,
        Who::TeamsOtherKey | Who::TeamAdmin => Who::TeamMember,
        Who::User | Who::UsersOtherKey => Who::OtherTenantsUser,
        _ => Who::User,
    }
}

const CONFIG: &str = "
agents:
  - { name: reckoner, model: gpt-4o-mini, tools: [calculator], approval: { always: [calculator] } }
tools:
  files: {}
  search_tools:
    - search_tool_name: tavily
      litellm_params: { search_provider: tavily, api_key: tvly-1, api_base: $SIM }
";

/// A file as it is sent.
const FORM: &str = "--b\r\ncontent-disposition: form-data; name=\"purpose\"\r\n\r\nuser_data\r\n\
                    --b\r\ncontent-disposition: form-data; name=\"file\"; filename=\"a.txt\"\r\n\r\n\
                    a file\r\n--b--\r\n";

/// An object, and how a route is called about it.
struct Target {
    /// What stands in the path.
    name: String,
    body: Value,
}

struct Scene {
    setup: Setup,
    keys: Vec<(Who, String)>,
    next: AtomicU64,
}

impl Scene {
    async fn new() -> Scene {
        let setup = Setup::with(CONFIG).await;
        let mut scene = Scene { setup, keys: Vec::new(), next: AtomicU64::new(0) };
        for team in ["team-a", "team-b"] {
            scene.made("/team/new", json!({"team_id": team})).await;
        }
        let people = ALL.into_iter().filter(|who| *who != Who::UsersOtherKey);
        for (who, user) in people.filter_map(|who| Some((who, who.user()?))) {
            let in_team = |team| json!({"team_id": team, "user_role": who.role_in_team()});
            let teams: Vec<Value> = who.team().map(in_team).into_iter().collect();
            let body = json!({"user_id": user, "user_role": who.role(), "teams": teams,
                              "auto_create_key": false});
            scene.made("/user/new", body).await;
        }
        for who in ALL {
            let key = match who {
                Who::None => String::new(),
                Who::Garbage => "sk-garbage-0123456789".to_owned(),
                Who::Master => MASTER_KEY.to_owned(),
                _ => {
                    let tools = json!(["calculator", "files", "web_search"]);
                    let mut body =
                        json!({"user_id": who.user(), "team_id": who.team(), "tools": tools});
                    match who {
                        Who::Expired => body["duration"] = json!("1s"),
                        Who::Blocked => body["blocked"] = json!(true),
                        _ => {}
                    }
                    let made = scene.made("/key/generate", body).await;
                    made["key"].as_str().expect("a key").to_owned()
                }
            };
            scene.keys.push((who, key));
        }
        let bearer = format!("Bearer {}", scene.key(Who::Expired));
        let headers = [("authorization", bearer.as_str())];
        eventually("it is over", async || {
            get(scene.setup.gateway.address, "/v1/models", &headers).await.status == 401
        })
        .await;
        scene
    }

    fn key(&self, who: Who) -> &str {
        &self.keys.iter().find(|(have, _)| *have == who).expect("everybody has one").1
    }

    async fn made(&self, path: &str, body: Value) -> Value {
        let response = post(self.setup.gateway.address, path, &body).await;
        assert_eq!(response.status, 200, "{path}: {}", response.text());
        response.json()
    }

    /// What somebody makes, which must work.
    async fn by(&self, who: Who, path: &str, body: Value) -> Value {
        let made = call(&self.setup, "POST", path, self.key(who), Some(&body)).await;
        assert_eq!(made.status, 200, "{who:?} {path}: {}", made.text());
        made.json()
    }

    fn fresh(&self) -> String {
        format!("fresh-{}", self.next.fetch_add(1, Ordering::Relaxed))
    }

    /// A run that waits for somebody's word.
    async fn run(&self, who: Who) -> Value {
        self.setup.simulator.enqueue(reckons("6 * 7"));
        let messages = json!([{"role": "user", "content": "6 * 7?"}]);
        let run = self.by(who, "/chat/agent", json!({"agent": "reckoner", "messages": messages}));
        let run = run.await;
        assert_eq!(run["status"], "requires_action", "{run}");
        run
    }

    async fn file(&self, who: Who) -> String {
        let made = self.upload(self.key(who)).await;
        assert_eq!(made.status, 200, "{}", made.text());
        made.json()["id"].as_str().expect("an id").to_owned()
    }

    async fn upload(&self, key: &str) -> Response {
        let bearer = if key.is_empty() { String::new() } else { format!("Bearer {key}") };
        let headers = [
            ("authorization", bearer.as_str()),
            ("content-type", "multipart/form-data; boundary=b"),
        ];
        send(self.setup.gateway.address, "POST", "/files", &headers, FORM.as_bytes()).await
    }

    /// What `who` asks for: an object that `maker` has, or one that there is not.
    async fn target(&self, method: &str, path: &str, who: Who, maker: Option<Who>) -> Target {
        let text = |value: &Value| value.as_str().expect("an id").to_owned();
        let says = json!([{"role": "user", "content": "Hello."}]);
        let with = |name: String, body: Value| Target { name, body };
        match path {
            "/chat/agent" => {
                let body = json!({"model": "gpt-4o-mini", "messages": says, "tools": []});
                with(String::new(), body)
            }
            "/agents" if method == "post" => {
                with(String::new(), json!({"name": self.fresh(), "model": "gpt-4o-mini"}))
            }
            "/threads" if method == "post" => with(String::new(), json!({"messages": says})),
            "/mcp" => {
                with(String::new(), json!({"jsonrpc": "2.0", "id": 1, "method": "tools/list"}))
            }
            "/agent/status" | "/agent/runs" | "/agents" | "/threads" | "/tools" | "/files" => {
                with(String::new(), Value::Null)
            }
            "/tools/search" | "/search/{tool}" => {
                let found = json!({"results": []});
                if !who.is_nobody() {
                    self.setup.simulator.enqueue(Reply::json(200, &found));
                }
                with("tavily".to_owned(), json!({"query": self.fresh()}))
            }
            "/tools/{name}" => {
                with("calculator".to_owned(), json!({"arguments": {"expression": "1 + 1"}}))
            }
            "/agents/{name}" => {
                let name = self.fresh();
                if let Some(who) = maker {
                    let body = json!({"name": name, "model": "gpt-4o-mini"});
                    self.by(who, "/agents", body).await;
                }
                with(name, json!({"instructions": "Be kind."}))
            }
            "/threads/{id}" | "/threads/{id}/messages" => {
                let id = match maker {
                    Some(who) => text(&self.by(who, "/threads", json!({})).await["id"]),
                    None => format!("thread_{}", self.fresh()),
                };
                let is_messages = path.ends_with("messages");
                with(id, if is_messages { json!({"messages": says}) } else { json!({}) })
            }
            path if path.starts_with("/agent/runs/{id}") => {
                let Some(who) = maker else {
                    return with(format!("run_{}", self.fresh()), self.about(path, &Value::Null));
                };
                let run = self.run(who).await;
                with(text(&run["id"]), self.about(path, &run))
            }
            path if path.starts_with("/files/{id}") => {
                let id = match maker {
                    Some(who) => self.file(who).await,
                    None => format!("file-tw{}", self.fresh()),
                };
                with(id, json!({}))
            }
            path => panic!("{path} is new: say here how it is called, and what it is about"),
        }
    }

    /// What is said about a run.
    fn about(&self, path: &str, run: &Value) -> Value {
        match path.rsplit('/').next() {
            Some("resume") => {
                let call = &run["tool_calls"][0]["id"];
                let call = if call.is_null() { &json!("call_1") } else { call };
                json!({"decisions": [{"call_id": call, "decision": "approve"}]})
            }
            Some("fork") => json!({"step": 0}),
            _ => Value::Null,
        }
    }

    async fn send(&self, method: &str, path: &str, key: &str, target: &Target) -> Response {
        if (method, path) == ("post", "/files") {
            return self.upload(key).await;
        }
        let bearer = if key.is_empty() { String::new() } else { format!("Bearer {key}") };
        let headers = [("authorization", bearer.as_str())];
        let named = match path.split_once('{') {
            Some((before, after)) => {
                let after = after.split_once('}').expect("it ends").1;
                format!("{before}{}{after}", target.name)
            }
            None => path.to_owned(),
        };
        let has_body = method != "get" && method != "delete" && !target.body.is_null();
        let body = if has_body { target.body.to_string() } else { String::new() };
        let (address, method) = (self.setup.gateway.address, method.to_uppercase());
        send(address, &method, &named, &headers, body.as_bytes()).await
    }
}

/// The status that is right.
fn expected(rule: &str, who: Who, whose: Whose) -> u16 {
    if who.is_nobody() {
        return 401;
    }
    match (rule, whose) {
        ("caller", _) | ("reader" | "ruler" | "owner", Whose::Own) => 200,
        ("reader", Whose::Others) if who.sees_all() => 200,
        ("ruler", Whose::Others) if who.is_admin() => 200,
        ("reader" | "ruler" | "owner", _) => 404,
        (rule, _) => panic!("`{rule}` is no rule"),
    }
}

#[tokio::test]
async fn every_route_of_agents_answers_every_caller_about_every_object_as_its_rule_says() {
    let scene = Scene::new().await;
    let document = get(scene.setup.gateway.address, "/openapi.json", &[]).await.json();
    let (mut asked, mut wrong) = (0, Vec::new());
    for (path, operations) in document["paths"].as_object().expect("paths") {
        for (method, operation) in operations.as_object().expect("operations") {
            if operation["tags"][0] != "agents" {
                continue;
            }
            let rule = operation["x-access"].as_str().expect("a rule");
            for (who, key) in &scene.keys {
                for whose in [Whose::Own, Whose::Others, Whose::Missing] {
                    if rule == "caller" && whose != Whose::Own {
                        continue;
                    }
                    let maker = match whose {
                        // Who is not let in gets no further than that.
                        Whose::Own if who.is_nobody() => Some(Who::User),
                        Whose::Own => Some(maker(*who)),
                        Whose::Others => Some(stranger(*who)),
                        Whose::Missing => None,
                    };
                    let target = scene.target(method, path, *who, maker).await;
                    let response = scene.send(method, path, key, &target).await;
                    let expect = expected(rule, *who, whose);
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
    assert!(asked > 700, "only {asked} requests");
    assert!(wrong.is_empty(), "{} of {asked}:\n{}", wrong.len(), wrong.join("\n"));
}

#[tokio::test]
async fn lists_show_what_is_ones_own_and_those_who_see_everything_all() {
    let scene = Scene::new().await;
    let mut made = Vec::new();
    for who in [Who::User, Who::OtherTenantsUser, Who::TeamMember, Who::TeamsOtherKey] {
        let run = scene.run(who).await["id"].clone();
        let thread = scene.by(who, "/threads", json!({})).await["id"].clone();
        let name = scene.fresh();
        scene.by(who, "/agents", json!({"name": name, "model": "gpt-4o-mini"})).await;
        let file = json!(scene.file(who).await);
        made.push((who, [run, thread, json!(format!("agent/{name}")), file]));
    }
    for (who, key) in &scene.keys {
        if who.is_nobody() {
            continue;
        }
        for (at, path) in ["/agent/runs", "/threads", "/agents", "/files"].into_iter().enumerate() {
            let listed = call(&scene.setup, "GET", path, key, None).await.json();
            let listed = listed["data"].as_array().expect("a list").clone();
            let ids: Vec<Value> = listed.iter().map(|item| item["id"].clone()).collect();
            for (owner, objects) in &made {
                let sees_all = who.sees_all() && at < 2;
                let is_shown = sees_all || maker(*who) == *owner;
                let shows = ids.contains(&objects[at]);
                assert_eq!(shows, is_shown, "{path}: {who:?} {owner:?}: {ids:?}");
            }
        }
    }
}
