//! Sign-in with the tokens of an identity provider: which are believed, who they make of somebody,
//! and what the gateway does while the provider changes its keys or is away.

use serde_json::{Value, json};
use tollway_tests::gateway::MASTER_KEY;
use tollway_tests::issuer::now;
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
        while self.models(&token).await.status == 503 {}
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
        loop {
            let answer = self.get(MASTER_KEY, &format!("/user/info?user_id={user}")).await;
            if answer.status == 200 {
                return answer.json();
            }
        }
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
