//! Budgets of parts: of a member within a team, of one model for a team or a user, and of one
//! deployment of a group.

use serde_json::{Value, json};
use tollway_tests::gateway::{Gateway, MASTER_KEY, Options};
use tollway_tests::setup::{config, simulator};
use tollway_tests::{Response, Setup, chat, get, post_with};

/// Pico-dollars a token of `gpt-4o-mini`.
const INPUT: u64 = 150_000;
const OUTPUT: u64 = 600_000;

/// A call that costs 24 millionths of a dollar for its output, and never more than twice that.
fn call(model: &str) -> Value {
    let mut body = chat(model, "[[sim tokens=40]]");
    body["max_tokens"] = 40.into();
    body
}

async fn ask(setup: &Setup, key: &str, model: &str) -> Response {
    let response = setup.chat_as(key, &call(model)).await;
    setup.settled(&response).await;
    response
}

/// Asks until a budget has no room: how often there was an answer, and the refusal.
async fn use_up(setup: &Setup, key: &str, model: &str) -> (u32, Response) {
    for answered in 0..1_000 {
        let response = ask(setup, key, model).await;
        if response.status != 200 {
            assert_eq!(response.status, 422, "{}", response.text());
            assert_eq!(response.error("type"), "budget_exceeded");
            return (answered, response);
        }
    }
    panic!("it is never used up");
}

async fn admin(gateway: &Gateway, path: &str, body: Value) -> Value {
    let bearer = format!("Bearer {MASTER_KEY}");
    let headers = [("authorization", bearer.as_str())];
    let response = match body {
        Value::Null => get(gateway.address, path, &headers).await,
        body => post_with(gateway.address, path, &headers, &body).await,
    };
    assert_eq!(response.status, 200, "{path}: {}", response.text());
    response.json()
}

fn pico(dollars: &Value) -> u64 {
    (dollars.as_f64().expect("dollars") * 1e12).round() as u64
}

fn membership<'a>(info: &'a Value, user: &str) -> &'a Value {
    let all = info["team_memberships"].as_array().expect("a list");
    all.iter().find(|row| row["user_id"] == user).expect("a member")
}

#[tokio::test]
async fn member_spends_no_more_of_a_team_than_it_may_and_the_others_go_on() {
    const BUDGET: u64 = 200_000_000;
    let simulator = simulator().await;
    let folder = tollway_tests::gateway::Folder::fresh();
    let text = config("", &simulator);
    let start = || {
        let options = Options {
            config: Some(text.clone()),
            folder: Some(folder.0.clone()),
            ..Options::default()
        };
        Gateway::start_with(options)
    };
    let setup = Setup { gateway: start().await, simulator };
    let gateway = &setup.gateway;
    admin(gateway, "/team/new", json!({"team_id": "dev", "team_alias": "Developers"})).await;
    let added = admin(
        gateway,
        "/team/member_add",
        json!({"team_id": "dev", "max_budget_in_team": 0.0002, "budget_duration": "30d",
               "member": {"role": "user", "user_id": "anna"}}),
    )
    .await;
    let row = &added["updated_team_memberships"][0];
    assert_eq!((&row["user_id"], &row["spend"]), (&json!("anna"), &json!(0)));
    assert_eq!(row["litellm_budget_table"]["max_budget"], 0.0002);
    admin(gateway, "/team/member_add", json!({"team_id": "dev", "member": {"user_id": "ben"}}))
        .await;
    let key = async |user: &str, team: Value| {
        let body = json!({"user_id": user, "team_id": team});
        let made = admin(gateway, "/key/generate", body).await;
        made["key"].as_str().expect("it is shown").to_owned()
    };
    let (anna, ben) = (key("anna", json!("dev")).await, key("ben", json!("dev")).await);
    let (again, alone) = (key("anna", json!("dev")).await, key("anna", Value::Null).await);

    let (answered, refused) = use_up(&setup, &anna, "gpt-4o-mini").await;
    assert!(answered > 2, "{answered}");
    let message = refused.error("message").as_str().expect("a text").to_owned();
    let start_of = "Budget has been exceeded! User=anna in Team=dev Current cost: 0.000";
    assert!(message.starts_with(start_of), "{message}");
    assert_eq!(refused.header("x-tollway-budget-scope"), Some("team_member"));
    let billed = setup.simulator.billed();
    let spent = billed.prompt_tokens * INPUT + billed.completion_tokens * OUTPUT;
    assert!(spent <= BUDGET && BUDGET - spent < 60_000_000, "{spent}");
    // Her other key of the team is no way round it; what she does elsewhere is none of its business.
    assert_eq!(ask(&setup, &again, "gpt-4o-mini").await.status, 422);
    assert_eq!(ask(&setup, &alone, "gpt-4o-mini").await.status, 200);
    assert_eq!(ask(&setup, &ben, "gpt-4o-mini").await.status, 200);

    let labels = ["scope=\"team_member\"", "id=\"dev\"", "user=\"anna\""];
    let told = gateway.metric("tollway_budget_spent_dollars", &labels).await;
    assert_eq!((told * 1e12).round() as u64, spent);
    assert_eq!(gateway.metric("tollway_budget_limit_dollars", &labels).await, 0.0002);
    let info = admin(gateway, "/team/info?team_id=dev", Value::Null).await;
    assert_eq!(pico(&membership(&info, "anna")["spend"]), spent);
    assert_eq!(membership(&info, "ben")["litellm_budget_table"], Value::Null);
    assert!(info["team_info"].get("member_budgets").is_none(), "{info}");

    // What every member may spend that nobody has said anything about.
    let body = json!({"team_id": "dev", "team_member_budget": 0.00001});
    admin(gateway, "/team/update", body).await;
    assert_eq!(ask(&setup, &ben, "gpt-4o-mini").await.status, 422);
    let body = json!({"team_id": "dev", "user_id": "anna", "max_budget_in_team": 0.001});
    let raised = admin(gateway, "/team/member_update", body).await;
    assert_eq!(
        (&raised["max_budget_in_team"], &raised["budget_duration"]),
        (&json!(0.001), &json!("1mo"))
    );
    assert_eq!(ask(&setup, &anna, "gpt-4o-mini").await.status, 200);
    let info = admin(gateway, "/team/info?team_id=dev", Value::Null).await;
    let before = pico(&membership(&info, "anna")["spend"]);
    assert!(before > spent);

    // All of it is known after a restart, before anybody has asked for anything.
    let Setup { mut gateway, simulator } = setup;
    gateway.signal("TERM");
    assert!(gateway.ended().await.success());
    let setup = Setup { gateway: start().await, simulator };
    let info = admin(&setup.gateway, "/team/info?team_id=dev", Value::Null).await;
    assert_eq!(pico(&membership(&info, "anna")["spend"]), before);
    let body = json!({"team_id": "dev", "user_id": "anna", "max_budget_in_team": 0.0002});
    admin(&setup.gateway, "/team/member_update", body).await;
    assert_eq!(ask(&setup, &anna, "gpt-4o-mini").await.status, 422);
}

#[tokio::test]
async fn team_and_user_have_budgets_for_one_model() {
    let setup = Setup::with(
        "
keys:
  - { alias: a, key: sk-of-team-a-012345, team: dev }
  - { alias: b, key: sk-of-anna-b-012345, user: anna }
teams:
  - { id: dev, model_max_budget: { gpt-4o-mini: { budget_limit: 0.0001, time_period: 1d } } }
users:
  - { id: anna, model_max_budget: { gpt-4o-mini: { budget_limit: 0.0001 } } }
",
    )
    .await;
    for (key, scope, owner) in [
        ("sk-of-team-a-012345", "model_per_team", "Team=dev"),
        ("sk-of-anna-b-012345", "model_per_user", "User=anna"),
    ] {
        let (answered, refused) = use_up(&setup, key, "gpt-4o-mini").await;
        assert!(answered > 0);
        assert!(refused.text().contains(owner), "{}", refused.text());
        assert_eq!(refused.header("x-tollway-budget-scope"), Some(scope));
        // `fast` is another group.
        assert_eq!(ask(&setup, key, "fast").await.status, 200);
        let labels = [&*format!("scope=\"{scope}\""), "model=\"gpt-4o-mini\""];
        let told = setup.gateway.metric("tollway_budget_spent_dollars", &labels).await;
        assert!(told > 0.00003 && told <= 0.0001, "{told}");
    }
    // The same by the API.
    let terms = json!({"gpt-4o-mini": {"budget_limit": 0.0001}});
    for (path, id, name) in [("/team/new", "red", "team_id"), ("/user/new", "eve", "user_id")] {
        let body = json!({name: id, "model_max_budget": terms});
        let made = admin(&setup.gateway, path, body).await;
        assert_eq!(made["model_max_budget"], terms);
        let key = admin(&setup.gateway, "/key/generate", json!({name: id})).await;
        let key = key["key"].as_str().expect("it is shown");
        use_up(&setup, key, "gpt-4o-mini").await;
        assert_eq!(ask(&setup, key, "fast").await.status, 200);
    }
}

#[tokio::test]
async fn deployment_whose_budget_is_spent_is_passed_over() {
    let deployment = |group: &str, id: &str, model: &str, more: &str| {
        format!(
            "  - model_name: {group}
    litellm_params: {{ model: openai/{model}, api_key: $KEY, api_base: $SIM/v1, order: {more},
      input_cost_per_token: 0.00000015, output_cost_per_token: 0.0000006 }}
    model_info: {{ id: {id} }}
"
        )
    };
    let text = "model_list:\n".to_owned()
        + &deployment("pool", "first", "a", "1, max_budget: 0.0001, budget_duration: 1d")
        + &deployment("pool", "second", "b", "2, max_budget: 0.0001")
        + &deployment("last", "third", "c", "1")
        + "router_settings: { fallbacks: [{ pool: [last] }] }\n";
    let setup = Setup::with(&text).await;
    let mut served = Vec::new();
    for _ in 0..20 {
        let response = ask(&setup, MASTER_KEY, "pool").await;
        assert_eq!(response.status, 200, "{}", response.text());
        served.push(response.header("x-litellm-model-id").expect("a deployment").to_owned());
    }
    // One after the other, each as long as its budget has room; the fallback has none.
    let mut order = served.clone();
    order.dedup();
    assert_eq!(order, ["first", "second", "third"], "{served:?}");
    for id in ["first", "second"] {
        let labels = ["scope=\"deployment\"", &*format!("id=\"{id}\"")];
        let spent = setup.gateway.metric("tollway_budget_spent_dollars", &labels).await;
        assert!(spent > 0.00005 && spent <= 0.0001, "{id}: {spent}");
    }
    // None of the attempts was a failure: nobody was asked in vain.
    assert_eq!(setup.asked().len(), 20);
    // Who wants no other fallbacks gets what is left, to the last word that fits.
    let mut body = chat("pool", "[[sim tokens=40]]");
    body["fallbacks"] = json!(["nothing"]);
    let mut last = setup.chat(&body).await;
    for _ in 0..20 {
        if last.status != 200 {
            break;
        }
        assert!(last.header("x-tollway-max-tokens-clamped").is_some());
        setup.settled(&last).await;
        last = setup.chat(&body).await;
    }
    assert_eq!(last.status, 422, "{}", last.text());
    assert!(last.text().contains("Deployment="), "{}", last.text());
}
