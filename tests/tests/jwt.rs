//! Sign-in with the tokens of an identity provider: which are believed, who they make of somebody,
//! and what the gateway does while the provider changes its keys or is away.

use std::time::Duration;

use serde_json::{Value, json};
use tollway_tests::gateway::MASTER_KEY;
use tollway_tests::issuer::now;
use tollway_tests::setup::within;
use tollway_tests::{Issuer, Response, Setup, Signer, chat, get, post_with};

/// Who everybody is: users by `sub`, made when they first come.
const USERS: &str = "    user_id_jwt_field: sub
    user_email_jwt_field: email
    user_id_upsert: true
    roles_jwt_field: realm_access.roles
    role_mappings:
      - { role: gateway-admin, internal_role: proxy_admin }
      - { role: gateway-reader, internal_role: internal_user_viewer }";

/// An identity provider with one key, and a gateway that believes it.
struct Scene {
    issuer: Issuer,
    signer: Signer,
    setup: Setup,
}

impl Scene {
    async fn new() -> Scene {
        Scene::with(USERS).await
    }

    async fn with(settings: &str) -> Scene {
        let signer = Signer::ec("first", "ES256");
        let issuer = Issuer::start(&[&signer]).await;
        let setup = Setup::with(&issuer.config(settings)).await;
        let scene = Scene { issuer, signer, setup };
        scene.ready().await;
        scene
    }

    /// Waits until the keys are known.
    async fn ready(&self) {
        let token = self.token(json!({"aud": "nobody"}));
        self.until("there are keys", async || self.models(&token).await.status != 503).await;
    }

    /// Asks again and again until it is so.
    async fn until(&self, what: &str, is_so: impl AsyncFn() -> bool) {
        within(Duration::from_secs(20), what, async { while !is_so().await {} }).await;
    }

    fn token(&self, claims: Value) -> String {
        self.issuer.token(&self.signer, &claims)
    }

    async fn models(&self, token: &str) -> Response {
        self.get(token, "/v1/models").await
    }

    async fn get(&self, token: &str, path: &str) -> Response {
        let bearer = format!("Bearer {token}");
        get(self.setup.gateway.address, path, &[("authorization", &bearer)]).await
    }

    async fn post(&self, token: &str, path: &str, body: Value) -> Response {
        let bearer = format!("Bearer {token}");
        let headers = [("authorization", bearer.as_str())];
        post_with(self.setup.gateway.address, path, &headers, &body).await
    }

    /// Posts what the master key may.
    async fn made(&self, path: &str, body: Value) -> Value {
        let response = self.post(MASTER_KEY, path, body).await;
        assert_eq!(response.status, 200, "{path}: {}", response.text());
        response.json()
    }

    async fn chat(&self, token: &str, model: &str) -> Response {
        self.setup.chat_as(token, &chat(model, "Hello!")).await
    }

    /// Waits until a user is stored; its row.
    async fn stored(&self, user: &str) -> Value {
        let path = format!("/user/info?user_id={user}");
        let is_there = async || self.get(MASTER_KEY, &path).await.status == 200;
        self.until("the user is stored", is_there).await;
        self.get(MASTER_KEY, &path).await.json()
    }
}

#[track_caller]
fn is_refused(response: &Response, status: u16, code: &str) {
    assert_eq!(response.status, status, "{}", response.text());
    assert_eq!(response.error("code"), code, "{}", response.text());
}

#[tokio::test]
async fn token_of_every_algorithm_signs_in_and_its_user_is_made() {
    let signers = [
        Signer::rsa("a", "rs256", "RS256"),
        Signer::rsa("a", "rs384", "RS384"),
        Signer::rsa("b", "rs512", "RS512"),
        Signer::rsa("b", "ps256", "PS256"),
        Signer::rsa("a", "ps384", "PS384"),
        Signer::rsa("a", "ps512", "PS512"),
        Signer::ec("es256", "ES256"),
        Signer::ec("es384", "ES384"),
        Signer::ed25519("ed"),
    ];
    let scene = Scene::new().await;
    scene.issuer.publish(&signers.iter().collect::<Vec<_>>());
    for signer in &signers {
        let user = format!("user-{}", signer.kid);
        let claims = json!({"sub": user, "email": format!("{user}@example.com")});
        let token = scene.issuer.token(signer, &claims);
        let answer = scene.chat(&token, "gpt-4o-mini").await;
        assert_eq!(answer.status, 200, "{}: {}", signer.kid, answer.text());
        let row = scene.stored(&user).await;
        assert_eq!(row["user_info"]["user_role"], "internal_user", "{row}");
        assert_eq!(row["user_info"]["user_email"], format!("{user}@example.com"), "{row}");
    }
    // New keys have been fetched once, for the first of these, whatever came after it.
    assert!(scene.issuer.asked() <= 4, "{}", scene.issuer.asked());
}

#[tokio::test]
async fn token_that_is_not_right_in_every_way_is_refused() {
    let rsa = Signer::rsa("a", "rsa", "RS256");
    let scene = Scene::new().await;
    scene.issuer.publish(&[&scene.signer, &rsa]);
    let right = |more: Value| scene.token(more);
    assert_eq!(scene.models(&scene.issuer.token(&rsa, &json!({"sub": "uma"}))).await.status, 200);
    assert_eq!(scene.models(&right(json!({"sub": "uma"}))).await.status, 200);

    let other = Signer::ec("first", "ES256");
    let elsewhere = Issuer::start(&[&other]).await;
    let claims = scene.issuer.claims(&json!({"sub": "uma"}));
    let rsa_n = rsa.jwk()["n"].as_str().expect("a text").to_owned();
    let refused = [
        ("another audience", right(json!({"aud": "shop"}))),
        ("other audiences", right(json!({"aud": ["shop", "tollway2"]}))),
        ("no audience", right(json!({"aud": null}))),
        ("another issuer", right(json!({"iss": "https://evil.example"}))),
        ("an issuer with a slash", right(json!({"iss": format!("{}/", scene.issuer.url())}))),
        ("no issuer", right(json!({"iss": null}))),
        ("not yet", right(json!({"nbf": now() + 120}))),
        ("endless", right(json!({"exp": null}))),
        ("an end that is a text", right(json!({"exp": "tomorrow"}))),
        ("signed by somebody else by our name", other.token(&claims)),
        ("another issuer's token", elsewhere.token(&other, &json!({"sub": "uma"}))),
        ("none", {
            let token = scene.signer.token_with(&json!({"alg": "none", "kid": "first"}), &claims);
            format!("{}.", token.rsplit_once('.').expect("three parts").0)
        }),
        ("none, signed", scene.signer.token_with(&json!({"alg": "none", "kid": "first"}), &claims)),
        ("HS256 with the public key as its secret", hs256(&claims, rsa_n.as_bytes())),
        ("an algorithm that is not its key's", {
            rsa.token_with(&json!({"alg": "PS256", "kid": "rsa"}), &claims)
        }),
        ("another key's algorithm", {
            rsa.token_with(&json!({"alg": "RS256", "kid": "first"}), &claims)
        }),
        ("critical", {
            let head = json!({"alg": "ES256", "kid": "first", "crit": ["b64"], "b64": false});
            scene.signer.token_with(&head, &claims)
        }),
        ("its own key", {
            let head = json!({"alg": "ES256", "kid": "first", "jwk": other.jwk()});
            other.token_with(&head, &claims)
        }),
        ("an unknown key", {
            scene.signer.token_with(&json!({"alg": "ES256", "kid": "third"}), &claims)
        }),
    ];
    for (what, token) in refused {
        let answer = scene.models(&token).await;
        assert_eq!(answer.status, 401, "{what}: {}", answer.text());
        assert_eq!(answer.error("code"), "invalid_token", "{what}: {}", answer.text());
        assert_eq!(answer.header("www-authenticate"), Some("Bearer error=\"invalid_token\""));
    }
    is_refused(&scene.models(&right(json!({"exp": now() - 61}))).await, 401, "token_expired");
    // Clocks differ a little.
    let skewed = json!({"sub": "uma", "exp": now() - 30, "nbf": now() + 30});
    assert_eq!(scene.models(&right(skewed)).await.status, 200);
    let many = json!({"sub": "uma", "aud": ["shop", "tollway"]});
    assert_eq!(scene.models(&right(many)).await.status, 200);
}

/// Signed with a shared secret.
fn hs256(claims: &Value, secret: &[u8]) -> String {
    use base64::Engine;
    let text = |part: &[u8]| base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(part);
    let head = json!({"alg": "HS256", "kid": "rsa"}).to_string();
    let message = format!("{}.{}", text(head.as_bytes()), text(claims.to_string().as_bytes()));
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, secret);
    let tag = ring::hmac::sign(&key, message.as_bytes());
    format!("{message}.{}", text(tag.as_ref()))
}

#[tokio::test]
async fn new_key_works_at_once_and_one_that_is_taken_back_does_not_any_more() {
    let scene = Scene::new().await;
    let old = scene.token(json!({"sub": "uma"}));
    assert_eq!(scene.models(&old).await.status, 200);
    assert_eq!(scene.models(&old).await.status, 200);
    let second = Signer::ed25519("second");
    scene.issuer.publish(&[&second]);
    let before = scene.issuer.asked();
    let new = scene.issuer.token(&second, &json!({"sub": "uma"}));
    assert_eq!(scene.models(&new).await.status, 200);
    // Also one that was verified and is remembered.
    is_refused(&scene.models(&old).await, 401, "invalid_token");
    assert_eq!(scene.issuer.asked(), before + 2, "its configuration and its keys");
    // Names of keys are made up easily: nobody is asked again for a while.
    for number in 0..50 {
        let head = json!({"alg": "EdDSA", "kid": format!("made-up-{number}")});
        let token = second.token_with(&head, &scene.issuer.claims(&json!({"sub": "uma"})));
        is_refused(&scene.models(&token).await, 401, "invalid_token");
    }
    assert_eq!(scene.issuer.asked(), before + 2);
}

#[tokio::test]
async fn keys_are_fetched_again_when_their_time_is_over() {
    let scene = Scene::with(&format!("{USERS}\n    public_key_ttl: 1s")).await;
    let old = scene.token(json!({"sub": "uma"}));
    assert_eq!(scene.models(&old).await.status, 200);
    scene.issuer.publish(&[&Signer::ec("second", "ES384")]);
    scene.until("the key is gone", async || scene.models(&old).await.status != 200).await;
    is_refused(&scene.models(&old).await, 401, "invalid_token");
}

#[tokio::test]
async fn crowd_with_a_new_key_asks_once() {
    let scene = Scene::new().await;
    let second = Signer::rsa("b", "second", "RS256");
    scene.issuer.publish(&[&scene.signer, &second]);
    let before = scene.issuer.asked();
    let address = scene.setup.gateway.address;
    let mut crowd = tokio::task::JoinSet::new();
    for number in 0..32 {
        let user = format!("user-{}", number % 4);
        let token = scene.issuer.token(&second, &json!({"sub": user, "n": number}));
        crowd.spawn(async move {
            let bearer = format!("Bearer {token}");
            get(address, "/v1/models", &[("authorization", &bearer)]).await.status
        });
    }
    assert!(crowd.join_all().await.into_iter().all(|status| status == 200));
    assert_eq!(scene.issuer.asked(), before + 2);
}

#[tokio::test]
async fn provider_that_is_away_at_the_start_is_told_apart_and_comes_back() {
    let signer = Signer::ec("first", "ES256");
    let issuer = Issuer::start(&[&signer]).await;
    issuer.set_away(true);
    let setup = Setup::with(&issuer.config(USERS)).await;
    let scene = Scene { issuer, signer, setup };
    let token = scene.token(json!({"sub": "uma"}));
    let answer = scene.models(&token).await;
    is_refused(&answer, 503, "auth_provider_unavailable");
    assert_eq!(answer.error("type"), "auth_provider_unavailable");
    assert!(answer.header("retry-after").is_some());
    // Keys do not need it.
    assert_eq!(scene.models(MASTER_KEY).await.status, 200);
    scene.issuer.set_away(false);
    scene.until("it is back", async || scene.models(&token).await.status == 200).await;

    // Away again, what is known goes on, and what is not is nobody's.
    scene.issuer.set_away(true);
    let second = Signer::ed25519("second");
    let unknown = scene.issuer.token(&second, &json!({"sub": "uma"}));
    is_refused(&scene.models(&unknown).await, 401, "invalid_token");
    assert_eq!(scene.models(&token).await.status, 200);
    assert_eq!(scene.models(&scene.token(json!({"sub": "otto"}))).await.status, 200);
}

#[tokio::test]
async fn set_of_keys_is_used_as_far_as_it_is_sound() {
    let scene = Scene::with(&format!("{USERS}\n    public_key_ttl: 1s")).await;
    let rsa = Signer::rsa("a", "rsa", "RS256");
    let mut wrong = rsa.jwk();
    wrong["alg"] = "ES256".into();
    let mut sealed = Signer::ec("sealed", "ES256").jwk();
    sealed["use"] = "enc".into();
    let odd = json!({"keys": [wrong, sealed, {"kty": "oct", "k": "c2VjcmV0", "kid": "rsa"}, 7,
                              {"kty": "RSA", "n": "AQAB", "e": "AQAB"}, scene.signer.jwk()]});
    scene.issuer.publish_text(odd.to_string());
    let good = scene.token(json!({"sub": "uma"}));
    assert_eq!(scene.models(&good).await.status, 200);
    let token = scene.issuer.token(&rsa, &json!({"sub": "uma"}));
    is_refused(&scene.models(&token).await, 401, "invalid_token");
    // What is no set at all, or too large for one, leaves the keys as they were.
    for text in
        ["<html>".to_owned(), format!("{{\"keys\": [], \"a\": \"{}\"}}", "x".repeat(300_000))]
    {
        scene.issuer.publish_text(text);
        let before = scene.issuer.asked();
        let is_asked = async || {
            assert_eq!(scene.models(&good).await.status, 200);
            scene.issuer.asked() >= before + 4
        };
        scene.until("it was asked again", is_asked).await;
        assert_eq!(scene.models(&good).await.status, 200);
    }
}

#[tokio::test]
async fn litellms_variables_are_enough() {
    let signer = Signer::ec("first", "ES256");
    let issuer = Issuer::start(&[&signer]).await;
    let other = Issuer::start(&[]).await;
    let urls = format!("{}/keys, {}/keys", other.url(), issuer.url());
    let config = "\ngeneral_settings:\n  master_key: $MASTER\n  enable_jwt_auth: true\n  \
                  litellm_jwtauth: { user_id_jwt_field: sub, user_id_upsert: true }\n";
    let url = issuer.url();
    let env = [("JWT_PUBLIC_KEY_URL", &*urls), ("JWT_AUDIENCE", "tollway"), ("JWT_ISSUER", &url)];
    let setup = Setup::with_env(config, &env).await;
    let scene = Scene { issuer, signer, setup };
    let token = scene.token(json!({"sub": "uma"}));
    scene.until("there are keys", async || scene.models(&token).await.status != 503).await;
    assert_eq!(scene.models(&token).await.status, 200);
    is_refused(&scene.models(&scene.token(json!({"aud": "shop"}))).await, 401, "invalid_token");
    is_refused(&scene.models(&scene.token(json!({"iss": "x"}))).await, 401, "invalid_token");
}

#[tokio::test]
async fn issuers_vouch_for_their_own_tokens_alone() {
    let (first, second) = (Signer::ec("key", "ES256"), Signer::ec("key", "ES256"));
    let (people, programs) = (Issuer::start(&[&first]).await, Issuer::start(&[&second]).await);
    let settings = format!(
        "    user_id_jwt_field: sub\n    user_id_upsert: true\n    issuers:\n      \
         - {{ issuer: \"{}\", audience: jobs, team_id_jwt_field: client }}",
        programs.url()
    );
    let setup = Setup::with(&people.config(&settings)).await;
    let scene = Scene { issuer: people, signer: first, setup };
    scene.ready().await;
    scene.made("/team/new", json!({"team_id": "batch"})).await;
    let claims = json!({"sub": "job-1", "client": "batch", "aud": "jobs"});
    let token = programs.token(&second, &claims);
    scene.until("there are keys", async || scene.models(&token).await.status != 503).await;
    let answer = scene.chat(&token, "gpt-4o-mini").await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    // Neither signs for the other, by the same name of a key.
    let forged = scene.signer.token(&programs.claims(&claims));
    is_refused(&scene.models(&forged).await, 401, "invalid_token");
    let forged = second.token(&scene.issuer.claims(&json!({"sub": "uma"})));
    is_refused(&scene.models(&forged).await, 401, "invalid_token");
    // Each has its own audience.
    let token = programs.token(&second, &json!({"sub": "job-1", "client": "batch"}));
    is_refused(&scene.models(&token).await, 401, "invalid_token");
}

#[tokio::test]
async fn tokens_may_be_large_but_not_huge() {
    let scene = Scene::new().await;
    let groups = |count: usize| -> Vec<String> {
        (0..count).map(|n| format!("group-{n:06}-{}", "x".repeat(20))).collect()
    };
    let large = scene.token(json!({"sub": "uma", "groups": groups(300)}));
    assert!((12_000..16_384).contains(&large.len()), "{}", large.len());
    assert_eq!(scene.models(&large).await.status, 200);
    let huge = scene.token(json!({"sub": "uma", "groups": groups(400)}));
    assert!(huge.len() > 16_384);
    is_refused(&scene.models(&huge).await, 401, "invalid_api_key");
    // What only looks like one.
    for text in ["ey.ey.ey", "eyJhbGciOiJFUzI1NiJ9.e30.", "eyJ9..", "eye.eye.eye"] {
        is_refused(&scene.models(text).await, 401, "invalid_token");
    }
    for text in ["ab.cd.ef", "ey.ey", "eyJ.e30.!", "eyJ.e30.AA.AA"] {
        is_refused(&scene.models(text).await, 401, "invalid_api_key");
    }
    // A key of two dots is a key all the same.
    let key = "eyJrZXki.that-is.no-token-0001";
    scene.made("/key/generate", json!({"key": format!("sk-{key}"), "user_id": "uma"})).await;
    assert_eq!(scene.models(&format!("sk-{key}")).await.status, 200);
}

const TEAMS: &str = "    user_id_jwt_field: sub
    user_id_upsert: true
    team_ids_jwt_field: org.groups";

#[tokio::test]
async fn team_is_the_one_that_may_use_the_model_or_that_is_named() {
    let scene = Scene::with(TEAMS).await;
    let of = |groups: Value| scene.token(json!({"sub": "uma", "org": {"groups": groups}}));
    scene.made("/team/new", json!({"team_id": "minis", "models": ["gpt-4o-mini"]})).await;
    scene
        .made("/team/new", json!({"team_id": "claudes", "models": ["claude"], "rpm_limit": 2}))
        .await;
    let both = of(json!(["strangers", "minis", "claudes"]));
    for (model, team) in [("gpt-4o-mini", "minis"), ("claude", "claudes"), ("fast", "")] {
        let answer = scene.chat(&both, model).await;
        if team.is_empty() {
            assert_eq!(answer.status, 403, "{model}: {}", answer.text());
            assert_eq!(answer.error("type"), "team_model_access_denied");
            continue;
        }
        assert_eq!(answer.status, 200, "{model}: {}", answer.text());
        let logs = spent(&scene, &answer).await;
        assert_eq!((&logs["team_id"], &logs["user"]), (&json!(team), &json!("uma")), "{logs}");
    }
    // The team's own limits hold, whichever team it is in the token, and the others' do not.
    assert_eq!(scene.chat(&both, "claude").await.status, 200);
    assert_eq!(scene.chat(&both, "claude").await.status, 429);
    assert_eq!(scene.chat(&both, "gpt-4o-mini").await.status, 200);

    let named = |team: &'static str, model: &'static str| {
        let bearer = format!("Bearer {both}");
        let address = scene.setup.gateway.address;
        async move {
            let headers = [("authorization", bearer.as_str()), ("x-litellm-team-id", team)];
            post_with(address, "/v1/chat/completions", &headers, &chat(model, "Hi")).await
        }
    };
    assert_eq!(named("minis", "gpt-4o-mini").await.status, 200);
    assert_eq!(named("minis", "claude").await.status, 403);
    is_refused(&named("others", "claude").await, 403, "team_not_allowed");
    is_refused(&named("strangers", "claude").await, 403, "team_not_found");

    let answer = scene.models(&of(json!(["strangers"]))).await;
    is_refused(&answer, 403, "team_not_found");
    assert!(answer.text().contains("Team=strangers"), "{}", answer.text());
    scene.made("/team/block", json!({"team_id": "minis"})).await;
    is_refused(&scene.models(&of(json!("minis"))).await, 401, "team_blocked");
    // Another team is still open.
    assert_eq!(scene.models(&of(json!(["minis", "claudes"]))).await.status, 200);
}

/// The ledger's line of an answer.
async fn spent(scene: &Scene, answer: &Response) -> Value {
    let id = answer.header("x-litellm-call-id").expect("answers have an id").to_owned();
    let path = format!("/spend/logs?request_id={id}");
    let line = async || {
        let found = scene.get(MASTER_KEY, &path).await;
        assert_eq!(found.status, 200, "{}", found.text());
        found.json().get(0).cloned()
    };
    scene.until("it is written down", async || line().await.is_some()).await;
    line().await.expect("it was there")
}

#[tokio::test]
async fn user_or_team_that_nobody_knows_is_refused_unless_it_is_to_be_made() {
    let scene = Scene::with("    user_id_jwt_field: sub\n    team_id_jwt_field: team").await;
    let token = scene.token(json!({"sub": "uma", "team": "red"}));
    is_refused(&scene.models(&token).await, 403, "team_not_found");
    scene.made("/team/new", json!({"team_id": "red"})).await;
    is_refused(&scene.models(&token).await, 403, "user_not_found");
    scene.made("/user/new", json!({"user_id": "uma"})).await;
    assert_eq!(scene.models(&token).await.status, 200);
    is_refused(&scene.models(&scene.token(json!({"sub": "uma"}))).await, 403, "token_not_allowed");
    is_refused(
        &scene.models(&scene.token(json!({"sub": "\u{7}"}))).await,
        403,
        "token_not_allowed",
    );
    scene.made("/user/update", json!({"user_id": "uma", "blocked": true})).await;
    is_refused(&scene.models(&token).await, 401, "user_blocked");

    let settings = "    user_id_jwt_field: sub\n    user_id_upsert: true\n    \
                    user_email_jwt_field: email\n    user_allowed_email_domain: example.com\n    \
                    team_id_jwt_field: team\n    team_id_upsert: true";
    let scene = Scene::with(settings).await;
    let who = |email: &str, more: Value| {
        let mut claims = json!({"sub": "uma", "email": email, "team": "blue"});
        claims.as_object_mut().expect("a map").extend(more.as_object().expect("a map").clone());
        scene.token(claims)
    };
    for email in ["uma@evil.com", "uma@example.com.evil.com", "uma", "example.com@evil.com"] {
        is_refused(&scene.models(&who(email, json!({}))).await, 403, "token_not_allowed");
    }
    let unsure = who("uma@example.com", json!({"email_verified": false}));
    is_refused(&scene.models(&unsure).await, 403, "token_not_allowed");
    let answer = scene.chat(&who("Uma@Example.com", json!({})), "gpt-4o-mini").await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    scene.stored("uma").await;
    let path = "/team/info?team_id=blue";
    scene.until("it is made", async || scene.get(MASTER_KEY, path).await.status == 200).await;
}

#[tokio::test]
async fn roles_of_a_token_are_roles_of_the_admin_api_and_the_audit_log_names_who_it_was() {
    let scene = Scene::new().await;
    scene.made("/team/new", json!({"team_id": "red"})).await;
    scene.made("/team/new", json!({"team_id": "blue"})).await;
    scene
        .made(
            "/user/new",
            json!({"user_id": "ada", "user_role": "internal_user",
        "teams": [{"team_id": "red", "user_role": "admin"}]}),
        )
        .await;
    let of = |user: &str, more: Value| {
        let mut claims = json!({"sub": user});
        claims.as_object_mut().expect("a map").extend(more.as_object().expect("a map").clone());
        scene.token(claims)
    };

    // An admin, by scope or by role, who need not be known. LiteLLM keeps them from models.
    for (user, more) in [
        ("root", json!({"scope": "openid litellm_proxy_admin"})),
        ("boss", json!({"realm_access": {"roles": ["x", "gateway-admin"]}})),
    ] {
        let admin = of(user, more);
        let made = scene.post(&admin, "/team/new", json!({"team_id": format!("of-{user}")})).await;
        assert_eq!(made.status, 200, "{}", made.text());
        let made = scene.post(&admin, "/key/generate", json!({"key_alias": user})).await;
        assert_eq!(made.status, 200, "{}", made.text());
        let key = made.json()["key"].as_str().expect("a key").to_owned();
        assert_eq!(scene.models(&key).await.status, 200);
        is_refused(&scene.chat(&admin, "gpt-4o-mini").await, 403, "route_not_allowed");
        let path = format!("/audit?object_type=team&object_id=of-{user}");
        let log = scene.get(&admin, &path).await.json();
        assert_eq!(log["audit_logs"][0]["changed_by"], user, "{log}");
        assert_eq!(log["audit_logs"][0]["action"], "created", "{log}");
        // Without it the same user is no admin any more: nothing of that was stored.
        let row = scene.stored(user).await;
        assert_eq!(row["user_info"]["user_role"], "internal_user", "{row}");
        let plain = of(user, json!({}));
        let refused = scene.post(&plain, "/team/new", json!({"team_id": "one-more"})).await;
        is_refused(&refused, 403, "permission_denied");
    }

    // A user makes keys of their own and nothing else.
    let uma = of("uma", json!({"scope": "openid not_litellm_proxy_admin"}));
    let answer = scene.chat(&uma, "gpt-4o-mini").await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    scene.stored("uma").await;
    let made = scene.post(&uma, "/key/generate", json!({})).await;
    assert_eq!(made.status, 200, "{}", made.text());
    assert_eq!(made.json()["user_id"], "uma", "{}", made.text());
    for (path, body) in [
        ("/team/new", json!({"team_id": "hers"})),
        ("/user/new", json!({"user_id": "hers"})),
        ("/user/update", json!({"user_id": "uma", "user_role": "proxy_admin"})),
        ("/key/generate", json!({"user_id": "ada"})),
        ("/budget/new", json!({"budget_id": "hers", "max_budget": 1})),
    ] {
        let answer = scene.post(&uma, path, body).await;
        assert!(matches!(answer.status, 403 | 404), "{path}: {}", answer.text());
    }
    let log = scene.get(MASTER_KEY, "/audit?object_type=user&object_id=uma").await.json();
    assert_eq!(log["audit_logs"][0]["changed_by"], "jwt_sign_in", "{log}");

    // An admin of one team is none of the other.
    let ada = of("ada", json!({}));
    let add = |team: &str| json!({"team_id": team, "member": {"role": "user", "user_id": "new"}});
    assert_eq!(scene.post(&ada, "/team/member_add", add("red")).await.status, 200);
    assert_eq!(scene.post(&ada, "/team/member_add", add("blue")).await.status, 404);
    let log = scene.get(MASTER_KEY, "/audit?object_type=team&object_id=red").await.json();
    assert_eq!(log["audit_logs"][0]["changed_by"], "ada", "{log}");

    // Who only reads makes nothing, whatever the user had been before.
    let reader = of("uma", json!({"realm_access": {"roles": ["gateway-reader"]}}));
    assert_eq!(scene.get(&reader, "/user/info").await.status, 200);
    let answer = scene.post(&reader, "/key/generate", json!({})).await;
    assert_eq!(answer.status, 403, "{}", answer.text());
    assert_eq!(scene.get(&reader, "/audit").await.status, 403);
    // What is not signed is not believed.
    let forged = Signer::ec("first", "ES256");
    let forged = scene.issuer.token(&forged, &json!({"scope": "litellm_proxy_admin"}));
    let answer = scene.post(&forged, "/key/generate", json!({})).await;
    is_refused(&answer, 401, "invalid_token");
}

#[tokio::test]
async fn budgets_and_limits_of_users_and_teams_hold_for_tokens() {
    let signer = Signer::ec("first", "ES256");
    let issuer = Issuer::start(&[&signer]).await;
    let settings = "    user_id_jwt_field: sub\n    user_id_upsert: true\n    \
                    team_ids_jwt_field: groups\nlitellm_settings:\n  \
                    max_internal_user_budget: 0.0002\n  internal_user_budget_duration: 30d";
    let setup = Setup::with(&issuer.config(settings)).await;
    let scene = Scene { issuer, signer, setup };
    scene.ready().await;
    let until_refused = async |claims: &Value| {
        for round in 0..200 {
            // A token of its own each time: what was spent is the user's and not the token's.
            let mut claims = claims.clone();
            claims["round"] = round.into();
            let token = scene.token(claims);
            let body = chat("gpt-4o-mini", "[[sim tokens=50]]");
            let answer = scene.setup.chat_as(&token, &body).await;
            if answer.status != 200 {
                assert!(round > 0, "{}", answer.text());
                return answer;
            }
            scene.setup.settled(&answer).await;
        }
        panic!("nobody was stopped");
    };
    // A user whom nobody has made has what each user has.
    let answer = until_refused(&json!({"sub": "uma"})).await;
    is_refused(&answer, 422, "budget_exceeded");
    assert!(answer.text().contains("User=uma"), "{}", answer.text());
    // A team's budget is its members'.
    scene.made("/team/new", json!({"team_id": "red", "max_budget": 0.0001})).await;
    let answer = until_refused(&json!({"sub": "mia", "groups": ["red"]})).await;
    is_refused(&answer, 422, "budget_exceeded");
    assert!(answer.text().contains("Team=red"), "{}", answer.text());
    let token = scene.token(json!({"sub": "otto", "groups": ["red"]}));
    assert_eq!(scene.chat(&token, "gpt-4o-mini").await.status, 422);
    // So are limits.
    scene.made("/user/new", json!({"user_id": "tim", "rpm_limit": 1})).await;
    let first = scene.chat(&scene.token(json!({"sub": "tim"})), "gpt-4o-mini").await;
    assert_eq!(first.status, 200, "{}", first.text());
    let second = scene.chat(&scene.token(json!({"sub": "tim", "n": 2})), "gpt-4o-mini").await;
    assert_eq!(second.status, 429, "{}", second.text());
    let line = spent(&scene, &first).await;
    assert_eq!(line["user"], "tim", "{line}");
    // It is the user's line, by whatever token.
    assert_eq!(line["api_key"].as_str().map(str::len), Some(64), "{line}");
}

#[tokio::test]
async fn no_token_is_in_any_log_or_error() {
    let scene = Scene::new().await;
    let good = scene.token(json!({"sub": "uma", "note": "canary-7f3a"}));
    let expired = scene.token(json!({"sub": "uma", "exp": 1, "note": "canary-7f3a"}));
    let other = Signer::ec("first", "ES256");
    let forged = other.token(&scene.issuer.claims(&json!({"sub": "uma", "note": "canary-7f3a"})));
    let unknown = Signer::ec("unheard-of-canary", "ES256");
    let unknown = scene.issuer.token(&unknown, &json!({"sub": "uma"}));
    let tokens = [good, expired, forged, unknown];
    for token in &tokens {
        for answer in [scene.models(token).await, scene.chat(token, "gpt-4o-mini").await] {
            assert_quiet(&answer.text(), &tokens);
            scene.setup.settled(&answer).await;
        }
    }
    let gateway = &scene.setup.gateway;
    assert!(gateway.stdout().contains("/v1/models"));
    for text in [gateway.stdout(), gateway.stderr(), gateway.metrics().await] {
        assert_quiet(&text, &tokens);
    }
    for asked in scene.setup.asked() {
        assert_quiet(&format!("{asked:?}"), &tokens);
    }
}

#[track_caller]
fn assert_quiet(text: &str, tokens: &[String]) {
    assert!(!text.contains("canary"), "{text}");
    for token in tokens {
        for part in token.split('.') {
            assert!(!text.contains(part), "{text}");
        }
    }
}
