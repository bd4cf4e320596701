//! `tollway import litellm`: keys, people and what they have spent, out of LiteLLM's Postgres.

use serde_json::{Value, json};
use tollway_tests::gateway::{Folder, Gateway, MASTER_KEY, Options, Printed, run};
use tollway_tests::postgres::Postgres;
use tollway_tests::setup::{config, simulator};
use tollway_tests::{Response, chat, get, post_with};

/// LiteLLM's tables, as Prisma makes them, without what nobody reads.
const TABLES: &str = r#"
CREATE TABLE "LiteLLM_BudgetTable" (
    budget_id TEXT PRIMARY KEY, max_budget DOUBLE PRECISION, soft_budget DOUBLE PRECISION,
    max_parallel_requests INTEGER, tpm_limit BIGINT, rpm_limit BIGINT, model_max_budget JSONB,
    budget_duration TEXT, budget_reset_at TIMESTAMP(3), created_at TIMESTAMP(3) NOT NULL DEFAULT now(),
    created_by TEXT, updated_at TIMESTAMP(3) NOT NULL DEFAULT now(), updated_by TEXT);
CREATE TABLE "LiteLLM_UserTable" (
    user_id TEXT PRIMARY KEY, user_alias TEXT, team_id TEXT, organization_id TEXT, password TEXT,
    teams TEXT[] DEFAULT '{}', user_role TEXT, max_budget DOUBLE PRECISION,
    spend DOUBLE PRECISION NOT NULL DEFAULT 0, user_email TEXT, models TEXT[] DEFAULT '{}',
    metadata JSONB NOT NULL DEFAULT '{}', max_parallel_requests INTEGER, tpm_limit BIGINT,
    rpm_limit BIGINT, budget_duration TEXT, budget_reset_at TIMESTAMP(3),
    model_max_budget JSONB NOT NULL DEFAULT '{}', something_new JSONB DEFAULT '{"a": 1}');
CREATE TABLE "LiteLLM_TeamTable" (
    team_id TEXT PRIMARY KEY, team_alias TEXT, organization_id TEXT, admins TEXT[] DEFAULT '{}',
    members TEXT[] DEFAULT '{}', members_with_roles JSONB NOT NULL DEFAULT '{}',
    metadata JSONB NOT NULL DEFAULT '{}', max_budget DOUBLE PRECISION,
    spend DOUBLE PRECISION NOT NULL DEFAULT 0, models TEXT[] DEFAULT '{}', tpm_limit BIGINT,
    rpm_limit BIGINT, budget_duration TEXT, budget_reset_at TIMESTAMP(3), blocked BOOLEAN NOT NULL DEFAULT false);
CREATE TABLE "LiteLLM_VerificationToken" (
    token TEXT PRIMARY KEY, key_name TEXT, key_alias TEXT, spend DOUBLE PRECISION NOT NULL DEFAULT 0,
    expires TIMESTAMP(3), models TEXT[] DEFAULT '{}', aliases JSONB NOT NULL DEFAULT '{}',
    config JSONB NOT NULL DEFAULT '{}', user_id TEXT, team_id TEXT, permissions JSONB NOT NULL DEFAULT '{}',
    max_parallel_requests INTEGER, metadata JSONB NOT NULL DEFAULT '{}', blocked BOOLEAN,
    tpm_limit BIGINT, rpm_limit BIGINT, max_budget DOUBLE PRECISION, budget_duration TEXT,
    budget_reset_at TIMESTAMP(3), model_spend JSONB NOT NULL DEFAULT '{}',
    model_max_budget JSONB NOT NULL DEFAULT '{}', budget_id TEXT, organization_id TEXT,
    created_at TIMESTAMP(3) DEFAULT now(), updated_at TIMESTAMP(3) DEFAULT now());
CREATE TABLE "LiteLLM_EndUserTable" (
    user_id TEXT PRIMARY KEY, alias TEXT, spend DOUBLE PRECISION NOT NULL DEFAULT 0,
    allowed_model_region TEXT, default_model TEXT, budget_id TEXT, blocked BOOLEAN NOT NULL DEFAULT false);
"#;

const ROWS: &str = r#"
INSERT INTO "LiteLLM_BudgetTable" (budget_id, max_budget, budget_duration) VALUES
    ('small', 0.01, '30d');
INSERT INTO "LiteLLM_UserTable" (user_id, user_email, user_role, spend, teams, password) VALUES
    ('ada', 'Ada@example.com', 'internal_user', 4, '{dev}', 'hash'),
    ('litellm-proxy-budget', NULL, NULL, 9, '{}', NULL);
INSERT INTO "LiteLLM_TeamTable" (team_id, team_alias, members_with_roles, spend, max_budget) VALUES
    ('dev', 'Developers', '[{"role": "admin", "user_id": "ada"}]', 1.5, 100);
INSERT INTO "LiteLLM_VerificationToken" (token, key_name, key_alias, spend, models, user_id, team_id, max_budget,
    budget_duration, blocked, expires, budget_id, organization_id, metadata, rpm_limit) VALUES
    (encode(sha256('sk-imported-working'), 'hex'), 'sk-...king', 'ci', 1.5000000001, '{gpt-4o-mini}', 'ada', 'dev',
        10, '30d', NULL, NULL, NULL, 'acme', '{"for": "tests"}', 600),
    (encode(sha256('sk-imported-blocked'), 'hex'), 'sk-...cked', 'blocked', 0, '{}', NULL, NULL, NULL, NULL, true, NULL, NULL, NULL, '{}', NULL),
    (encode(sha256('sk-imported-expired'), 'hex'), 'sk-...ired', 'expired', 0, '{}', NULL, NULL, NULL, NULL, NULL, '2025-01-01', NULL, NULL, '{}', NULL),
    (encode(sha256('sk-imported-used-up'), 'hex'), 'sk-...d-up', 'used-up', 0.00999999, '{}', NULL, NULL, 0.01, '30d', NULL, NULL, NULL, NULL, '{}', NULL),
    (encode(sha256('sk-imported-referring'), 'hex'), 'sk-...ring', 'referring', 0.00999999, '{}', NULL, NULL, NULL, NULL, NULL, NULL, 'small', NULL, '{}', NULL),
    ('sk-imported-in-clear', 'sk-imported-in-clear', 'old', 0, '{}', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, '{}', NULL),
    ('no hash', NULL, 'broken', 0, '{}', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, '{}', NULL),
    (encode(sha256('sk-session'), 'hex'), 'sk-...sion', NULL, 0, '{}', NULL, 'litellm-dashboard', NULL, NULL, NULL, NULL, NULL, NULL, '{}', NULL);
-- Its period is over, and LiteLLM has not noticed yet.
INSERT INTO "LiteLLM_VerificationToken" (token, key_alias, spend, max_budget, budget_duration, budget_reset_at) VALUES
    (encode(sha256('sk-imported-full-again'), 'hex'), 'full-again', 5, 1, '30d', '2026-01-01');
INSERT INTO "LiteLLM_EndUserTable" (user_id, spend, budget_id, blocked) VALUES ('visitor', 0.5, 'small', false);
"#;

async fn import(folder: &Folder, url: &str, more: &[&str]) -> Printed {
    let mut args = vec!["import", "litellm", "--database-url", url];
    args.extend_from_slice(more);
    let printed = run(&folder.0, &[], &args).await;
    assert!(printed.success, "{}", printed.stderr);
    let all = format!("{}{}", printed.stdout, printed.stderr);
    assert!(!all.contains("sk-imported") && !all.contains("pass@"), "{all}");
    printed
}

async fn spend(folder: &Folder, by: &str) -> Value {
    let args = ["spend", "--by", by, "--since", "all", "--format", "json"];
    let printed = run(&folder.0, &[], &args).await;
    assert!(printed.success, "{}", printed.stderr);
    let told: Value = serde_json::from_str(&printed.stdout).expect("it is JSON");
    told["rows"].clone()
}

/// What of this name or id has cost.
fn cost<'r>(rows: &'r Value, name: &str) -> &'r str {
    let rows = rows.as_array().expect("a list");
    let row = rows.iter().find(|row| row["name"] == name || row["id"] == name);
    row.and_then(|row| row["cost_usd"].as_str()).unwrap_or_else(|| panic!("{name}: {rows:?}"))
}

async fn ask(gateway: &Gateway, key: &str) -> Response {
    let bearer = format!("Bearer {key}");
    let headers = [("authorization", bearer.as_str())];
    post_with(gateway.address, "/v1/chat/completions", &headers, &chat("gpt-4o-mini", "Hi")).await
}

async fn told(gateway: &Gateway, path: &str) -> Value {
    let bearer = format!("Bearer {MASTER_KEY}");
    let response = get(gateway.address, path, &[("authorization", &bearer)]).await;
    assert_eq!(response.status, 200, "{path}: {}", response.text());
    response.json()
}

#[tokio::test]
async fn imported_keys_work_and_have_spent_what_they_had() {
    let postgres = Postgres::start().await;
    postgres.run(TABLES).await;
    postgres.run(ROWS).await;
    let folder = Folder::fresh();

    let dry = import(&folder, &postgres.url(), &["--dry-run"]).await;
    assert!(dry.stdout.contains("7 new, 2 left out"), "{}", dry.stdout);
    assert!(dry.stdout.contains("dry run"), "{}", dry.stdout);
    assert!(!folder.0.join("tollway-data").exists(), "nothing is made");

    let done = import(&folder, &postgres.url(), &[]).await;
    for expect in [
        "7 new, 2 left out",
        "key: 'organization_id' is not supported (1: ci)",
        "key: left out: its token is no SHA-256 (1: broken)",
        "key: left out: sessions of LiteLLM's dashboard (1: sk-...sion)",
        "user: 'password' is not supported (1: ada)",
        "user: left out: the budget of the whole proxy",
    ] {
        assert!(done.stdout.contains(expect), "{expect}\nis not in\n{}", done.stdout);
    }
    // A key's spend is a part of its user's and not counted twice; a team that has spent less than
    // its key has its own.
    let (keys, users, teams) =
        (spend(&folder, "key").await, spend(&folder, "user").await, spend(&folder, "team").await);
    assert_eq!(cost(&keys, "ci"), "1.5000000001");
    assert_eq!(cost(&users, "ada"), "4");
    assert_eq!(cost(&teams, "dev"), "1.5");
    assert_eq!(cost(&spend(&folder, "end_user").await, "visitor"), "0.5");

    let again = import(&folder, &postgres.url(), &[]).await;
    assert!(again.stdout.contains("0 new, 7 there already"), "{}", again.stdout);
    assert!(again.stdout.contains("all of it is here already"), "{}", again.stdout);
    assert_eq!(spend(&folder, "key").await, keys);
    assert_eq!(spend(&folder, "user").await, users);
    assert_eq!(spend(&folder, "team").await, teams);

    let simulator = simulator().await;
    let options = Options {
        config: Some(config("", &simulator)),
        folder: Some(folder.0.clone()),
        ..Options::default()
    };
    let gateway = Gateway::start_with(options).await;
    for (key, status) in [
        ("sk-imported-working", 200),
        ("sk-imported-in-clear", 200),
        ("sk-imported-full-again", 200),
        ("sk-imported-blocked", 401),
        ("sk-imported-expired", 401),
        ("sk-imported-used-up", 422),
        ("sk-imported-referring", 422),
        ("sk-session", 401),
    ] {
        let response = ask(&gateway, key).await;
        assert_eq!(response.status, status, "{key}: {}", response.text());
        if status == 422 {
            assert_eq!(response.error("type"), "budget_exceeded");
        }
    }
    let info = &told(&gateway, "/key/list?key_alias=ci&return_full_object=true").await["keys"][0];
    assert_eq!((&info["user_id"], &info["team_id"]), (&json!("ada"), &json!("dev")));
    assert_eq!((&info["metadata"], &info["rpm_limit"]), (&json!({"for": "tests"}), &json!(600)));
    let spent = info["spend"].as_f64().expect("a number");
    assert!(spent > 1.5 && spent < 1.51, "with the call just now: {info}");
    let user = told(&gateway, "/user/info?user_id=ada").await;
    assert_eq!(user["user_info"]["user_email"], "Ada@example.com");
    assert_eq!(user["user_info"]["teams"], json!(["dev"]));
    assert!(!user.to_string().contains("password"), "{user}");
    let audit = told(&gateway, "/audit?object_type=team&object_id=dev").await;
    assert_eq!(audit["audit_logs"][0]["changed_by"], "litellm-import");
}

#[tokio::test]
async fn import_goes_into_postgres_as_well_and_survives_old_and_foreign_databases() {
    let postgres = Postgres::start().await;
    let folder = Folder::fresh();
    let url = postgres.url();
    let args = ["import", "litellm", "--database-url", &url];
    let foreign = run(&folder.0, &[], &args).await;
    assert!(!foreign.success);
    assert!(foreign.stderr.contains("no table LiteLLM_VerificationToken"), "{}", foreign.stderr);
    let nowhere = run(&folder.0, &[], &args[..2]).await;
    assert!(nowhere.stderr.contains("LITELLM_DATABASE_URL"), "{}", nowhere.stderr);

    // An old one, with few columns and tables, in a schema that Prisma was told of.
    postgres
        .run(
            "CREATE SCHEMA llm; CREATE TABLE llm.\"LiteLLM_VerificationToken\" (token TEXT PRIMARY KEY, \
             spend DOUBLE PRECISION, max_budget DOUBLE PRECISION); \
             INSERT INTO llm.\"LiteLLM_VerificationToken\" VALUES (encode(sha256('sk-imported-old'), 'hex'), 2, 3)",
        )
        .await;
    let from = format!("{url}?schema=llm");
    folder.write("config.yaml", &format!("general_settings: {{ database_url: '{url}' }}\n"));
    let dry = import(&folder, &from, &["-c", "config.yaml", "--dry-run"]).await;
    assert!(dry.stdout.contains("1 new"), "{}", dry.stdout);
    let tables = "SELECT count(*) FROM pg_tables WHERE tablename LIKE 'tollway%'";
    assert_eq!(postgres.run(tables).await, "0", "a dry run makes nothing");

    import(&folder, &from, &["-c", "config.yaml"]).await;
    let args = ["spend", "--by", "key", "--format", "csv", "-c", "config.yaml"];
    let told = run(&folder.0, &[], &args).await;
    assert!(told.stdout.trim_end().ends_with(",,1,0,0,0,0,2"), "{} {}", told.stdout, told.stderr);
    import(&folder, &from, &["-c", "config.yaml"]).await;
    assert_eq!(run(&folder.0, &[], &args).await.stdout, told.stdout);
}
