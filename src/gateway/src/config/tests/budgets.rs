//! Budgets, and who has them.

use tollway_filter_api::accounts::Kind;
use tollway_filter_api::treasury::{Budget, BudgetScope, Period, PeriodUnit};
use tollway_filters::budget::{Allowance, BudgetConfig};
use tollway_wire::price::PicoDollars;

use super::*;

const DAY: Period = Period { count: 1, unit: PeriodUnit::Day };

fn settings(config: &Config) -> BudgetConfig {
    let filter = config.filters.iter().find(|filter| filter.name == "budget").unwrap();
    serde_json::from_value(filter.settings.clone()).unwrap()
}

fn dollars(text: &str) -> Option<PicoDollars> {
    Some(text.parse().unwrap())
}

fn allowance(max: &str, budget_duration: Option<Period>) -> Allowance {
    Allowance { max_budget: dollars(max), soft_budget: None, budget_duration }
}

#[test]
fn litellms_budgets_become_settings_of_the_filter() {
    let config = config(&with_model(
        "router_settings: {provider_budget_config: {openai: {budget_limit: 0.1, time_period: 1d}}}\n\
             litellm_settings:\n  max_budget: 100\n  budget_duration: 30d\n  \
             tag_budget_config: {'product:chat-bot': {max_budget: 0.000000000001, budget_duration: 1d}}\n  \
             max_internal_user_budget: 5\n  internal_user_budget_duration: 7d\n  \
             max_end_user_budget: '0.25'\n  include_cost_in_streaming_usage: true\n",
    ));
    let settings = settings(&config);
    let month = Period { count: 1, unit: PeriodUnit::Month };
    let week = Period { count: 1, unit: PeriodUnit::Week };
    assert_eq!(settings.global, Some(allowance("100", Some(month))));
    assert_eq!(settings.providers["openai"], allowance("0.1", Some(DAY)));
    assert_eq!(settings.tags["product:chat-bot"], allowance("0.000000000001", Some(DAY)));
    assert_eq!(settings.per_user, Some(allowance("5", Some(week))));
    assert_eq!(settings.per_end_user, Some(allowance("0.25", None)));
    assert!(settings.final_cost);
}

#[test]
fn each_deployment_has_a_budget_of_its_own() {
    let entry = |id: &str, budget: &str| {
        format!(
            "- model_name: m\n  litellm_params: {{model: openai/gpt-4o, {budget}}}\n  \
             model_info: {{id: {id}}}\n"
        )
    };
    let entries = entry("a", "max_budget: 1.5, budget_duration: 1d")
        + &entry("b", "max_budget: 1")
        + &entry("c", "rpm: 1")
        + "- model_name: openai/*\n  litellm_params: {model: openai/*, max_budget: 2}\n  \
           model_info: {id: d}\n";
    let config = config(&format!("model_list:\n{entries}"));
    let settings = settings(&config);
    assert_eq!(settings.deployments["a"], allowance("1.5", Some(DAY)));
    assert_eq!(settings.deployments["b"], allowance("1", None));
    assert_eq!(settings.deployments["d"], allowance("2", None));
    assert_eq!(settings.deployments.len(), 3);
}

#[test]
fn members_of_teams_and_models_of_teams_and_users_have_budgets() {
    let config = config(&with_model(
        "keys: [{alias: k, key: sk-0123456789-AbCd}]\n\
         teams:\n- id: dev\n  model_max_budget: {gpt-4o: {budget_limit: 1, time_period: 1d}}\n  \
         team_member_budget: 2\n  team_member_budget_duration: 30d\n  \
         members: {anna: {role: admin, max_budget_in_team: 5}, ben: user, eve: {max_budget_in_team: 0}}\n\
         users:\n- {id: anna, model_max_budget: {gpt-4o: {budget_limit: 3}}}\n",
    ));
    let team = config.keys.account(Kind::Team, "dev").unwrap();
    let id = |budget: &Budget| (budget.id.scope, budget.id.part.clone(), budget.limit);
    let model = Some(Arc::from("gpt-4o"));
    assert_eq!(id(&team.budgets[0]), (BudgetScope::TeamModel, model.clone(), dollars("1")));
    let of = |user: &str| {
        let budget = team.of_member(&user.into()).expect("everybody has one");
        assert_eq!(budget.id.part.as_deref(), Some(user));
        assert_eq!(*budget.owner, *format!("User={user} in Team=dev"));
        (budget.limit, budget.id.period.map(|period| period.to_string()))
    };
    assert_eq!(of("anna"), (dollars("5"), None));
    assert_eq!(of("eve"), (dollars("0"), None));
    assert_eq!(of("ben"), (dollars("2"), Some("1mo".to_owned())));
    assert_eq!(team.members.values().copied().collect::<Vec<_>>(), [true, false, false]);
    let user = config.keys.account(Kind::User, "anna").unwrap();
    assert_eq!(id(&user.budgets[0]), (BudgetScope::UserModel, model, dollars("3")));
}

#[test]
fn keys_teams_and_users_have_budgets() {
    let config = config(&with_model(
        "keys:\n- alias: ci\n  key: sk-0123456789-AbCd\n  team: dev\n  max_budget: 10\n  soft_budget: 8\n  \
             budget_duration: 1d\n  model_max_budget: {gpt-4o: {budget_limit: 1}}\n  tags: [a]\n  \
             allowed_routes: [/v1/models]\n  allowed_ips: [10.0.0.0/8, 2001:db8::1]\n\
             - {key_hash: ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff, max_budget: 0}\n\
             teams:\n- {id: dev, alias: Dev, max_budget: 1, members: {anna: admin, ben: user}, rpm: 7}\n\
             users:\n- {user_id: anna, user_role: internal_user, user_email: a@b.c, blocked: true}\n",
    ));
    let key = config.keys.iter().find(|key| key.alias.is_some()).unwrap();
    let ids: Vec<_> =
        key.budgets.iter().map(|b| (b.id.scope, b.id.part.as_deref(), b.id.period)).collect();
    assert_eq!(
        ids,
        [(BudgetScope::Key, None, Some(DAY)), (BudgetScope::KeyModel, Some("gpt-4o"), None),]
    );
    let Budget { limit, soft, owner, id } = &*key.budgets[0];
    assert_eq!((*limit, *soft), (dollars("10"), dollars("8")));
    assert_eq!((&**owner, &id.subject), ("Key=ci (sk-...AbCd)", &key.hash_hex));
    assert_eq!(
        (key.settings.tags[0].as_ref(), key.settings.routes[0].as_str()),
        ("a", "/v1/models")
    );
    assert_eq!(
        key.settings.addresses.iter().map(|(_, length)| *length).collect::<Vec<_>>(),
        [8, 128]
    );
    assert!(key.from_config);
    let nameless = config.keys.iter().find(|key| key.hash.0 == [255; 32]).unwrap();
    assert_eq!(&*nameless.budgets[0].owner, "Key=ffffffff...");
    let team = config.keys.account(Kind::Team, "dev").unwrap();
    assert_eq!(&*team.budgets[0].owner, "Team=Dev");
    assert_eq!(
        (team.members["anna"], team.members["ben"], team.limits.rpm),
        (true, false, Some(7))
    );
    let user = config.keys.account(Kind::User, "anna").unwrap();
    assert!(user.blocked && user.role == tollway_filter_api::identity::Role::User);
    assert!(config.keys.account(Kind::Team, "anna").is_none());
    let text = config.explain("gpt-4o").unwrap();
    let told = "ci ($10 each 1d, told from $8 on, $1 on this model, team dev: $1)";
    assert!(text.contains(told), "{text}");
}

#[test]
fn budgets_are_explained() {
    let config = config(include_str!("../../../../../conf/full.yaml"));
    let text = config.explain("gpt-4o").unwrap();
    for part in [
        "budget of everybody: $10000 each 1mo",
        "budget of provider openai: $500 each 1d",
        "budget of each end user: $1\n",
        "budget of tag nightly: $5 each 1d",
        "$10 each 1mo, told from $8 on, $1 each 1d on this model, team platform: $500 each 1mo, team platform: $50 each 1d on this model, user ci@example.com: $100",
    ] {
        assert!(text.contains(part), "{part:?} is not in\n{text}");
    }
}

#[test]
fn every_mistake_has_its_place() {
    mistakes(
        &with_model(
            "litellm_settings: {max_budget: -1, budget_duration: 1y, tag_budget_config: {a: {}}}\n\
                 router_settings: {provider_budget_config: {opnai: {budget_limit: 1}}}\n\
                 general_settings: {database_url: 'mysql://x', proxy_batch_write_at: 0}\n\
                 journal: {fsync: sometimes, on_restart: forget}\n\
                 keys:\n\
                 - {key: sk-a, soft_budget: 2, max_budget: 1}\n\
                 - {key: sk-b, budget_duration: 1d}\n\
                 - {key: sk-c, model_max_budget: {gpt-5o: {budget_limit: 1}}}\n\
                 - {key: sk-d, allowed_ips: [10.0.0.0/33], allowed_routes: [chat]}\n\
                 - {key: sk-e, max_budget: 1e30}\n\
                 teams:\n- {alias: x, members: {a: boss}}\n\
                 users:\n- {id: a, role: god}\n- {id: a, models: [nope]}\n",
        ),
        &[
            "litellm_settings.max_budget: cannot be negative",
            "litellm_settings.budget_duration: must be a time",
            "litellm_settings.tag_budget_config.a: needs a max_budget",
            "router_settings.provider_budget_config.opnai: nothing can reach it: no deployment is `opnai`'s; did you mean `openai`?",
            "general_settings.database_url: must be the URL of a Postgres",
            "general_settings.proxy_batch_write_at: must be a time",
            "journal.fsync: must be a time such as 100ms, `always` or `none`",
            "journal.on_restart: must be `charge_bound` or `charge_progress`",
            "keys[0].soft_budget: is above max_budget",
            "keys[1].budget_duration: needs a max_budget",
            "keys[2].model_max_budget.gpt-5o: there is no model `gpt-5o`",
            "keys[3].allowed_routes[0]: must be a path",
            "keys[3].allowed_ips[0]: must be an address",
            "keys[4].max_budget: is more than 18 million dollars",
            "teams[0].members.a: must be `admin` or `user`",
            "teams[0].id: is missing",
            "users[0].role: must be one of LiteLLM's roles",
            "users[1].models[0]: there is no model or access group `nope`",
            "users[1].id: is there already",
        ],
    );
}

#[test]
fn a_budget_that_nothing_can_reach_is_a_mistake() {
    let check = |more: &str, expect: &[&str]| mistakes(&with_model(more), expect);
    check(
        "litellm_settings: {max_budget: 1}\nkeys: [{key: sk-a, max_budget: 1}]\nfilters: [auth, usage]\n",
        &[
            "litellm_settings.max_budget: nothing enforces it: `filters` does not list `budget`",
            "keys[0].max_budget: nothing enforces it",
        ],
    );
    check(
        "keys: [{key: sk-a, max_budget: 1}]\nfilters: [budget]\n",
        &["keys[0].max_budget: nothing can reach it: `filters` does not list `auth`"],
    );
    check(
        "keys: [{key: sk-a, models: [no-default-models], model_max_budget: {gpt-4o: {budget_limit: 1}}}]\n",
        &["keys[0].model_max_budget.gpt-4o: nothing can reach it: the key may not call"],
    );
    mistakes(
        "model_list:\n- {model_name: m, litellm_params: {model: ollama/llama3, max_budget: 1}}\n",
        &["nothing can reach it: the model costs nothing"],
    );
    check(
        "filters: [auth, budget, model_alias]\n",
        &["filters[1].filter: must come after `model_alias`"],
    );
    check(
        "filters: [auth, rate_limit, budget]\n",
        &["filters[2].filter: must come before `rate_limit`"],
    );
}
