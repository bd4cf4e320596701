//! Addresses, paths and tokens.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::signature::{RSA_PKCS1_2048_8192_SHA256, RsaKeyPair, RsaPublicKeyComponents};
use serde_json::{Value, json};

use super::*;

/// A key made for this test and used nowhere else.
const KEY: &str = include_str!("test-key.pem");

const PROVIDER: Vertex = Vertex::new("vertex_ai");

type Settings = BTreeMap<String, String>;

fn settings(list: &[(&str, &str)]) -> Settings {
    list.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn account() -> Value {
    json!({
        "type": "service_account", "project_id": "acme", "private_key_id": "k1",
        "private_key": KEY, "client_email": "bot@acme.iam.gserviceaccount.com",
        "token_uri": "https://oauth2.googleapis.com/token",
    })
}

fn path(model: &str, operation: Operation, stream: bool, set: &Settings) -> String {
    let place = Place { operation, dialect: Dialect::OpenAi, model, stream };
    let access = Access { settings: set, ..Access::default() };
    PROVIDER.path(&place, &access).into_owned()
}

#[test]
fn locations_have_their_hosts() {
    let base = |location: &str| {
        let set = settings(&[("vertex_location", location)]);
        PROVIDER.default_base(&Access { settings: &set, ..Access::default() }).map(Cow::into_owned)
    };
    let google = |host: &str| Some(format!("https://{host}.googleapis.com"));
    assert_eq!(base(""), google("us-central1-aiplatform"));
    assert_eq!(base("europe-west4"), google("europe-west4-aiplatform"));
    assert_eq!(base("global"), google("aiplatform"));
    assert_eq!(base("eu"), google("aiplatform.eu.rep"));
    assert_eq!(base("evil.com/"), None);
    for written in ["https://v/v1", "https://v/v1beta1/projects/p/locations/l", "https://v/"] {
        assert_eq!(PROVIDER.base(written), "https://v");
    }
}

#[test]
fn models_have_their_paths() {
    let set = settings(&[("vertex_project", "acme"), ("vertex_location", "global")]);
    let chat = Operation::ChatCompletions;
    let check = |model: &str, operation, stream, expect: &str| {
        let expect = format!("/v1/projects/acme/locations/global/{expect}");
        assert_eq!(path(model, operation, stream, &set), expect);
    };
    let gemini = "publishers/google/models/gemini-2.5-pro";
    check("gemini-2.5-pro", chat, false, &format!("{gemini}:generateContent"));
    check("gemini-2.5-pro", chat, true, &format!("{gemini}:streamGenerateContent?alt=sse"));
    check("gemini-2.5-pro", Operation::CountTokens, false, &format!("{gemini}:countTokens"));
    let claude = "publishers/anthropic/models/claude-opus-4-5@20251101";
    check("claude-opus-4-5@20251101", chat, false, &format!("{claude}:rawPredict"));
    check("claude-opus-4-5@20251101", chat, true, &format!("{claude}:streamRawPredict"));
    let counter = "publishers/anthropic/models/count-tokens:rawPredict";
    check("claude-opus-4-5@20251101", Operation::CountTokens, false, counter);
    check("gemini/123456", chat, false, "endpoints/123456:generateContent");
    let embeddings = Operation::Embeddings;
    check(
        "text-embedding-005",
        embeddings,
        false,
        "publishers/google/models/text-embedding-005:predict",
    );
    check(
        "gemini-embedding-2",
        embeddings,
        false,
        "publishers/google/models/gemini-embedding-2:embedContent",
    );
    check("meta/llama-4-maas", chat, true, "endpoints/openapi/chat/completions");
    check("../x", chat, false, "publishers/google/models/..%2Fx:generateContent");
}

#[test]
fn a_service_account_signs_for_a_token() {
    let set = settings(&[("vertex_credentials", &account().to_string())]);
    let access = Access { settings: &set, ..Access::default() };
    assert_eq!(PROVIDER.headers(&access), Ok(Vec::new()));
    assert!(path("m", Operation::ChatCompletions, false, &set).starts_with("/v1/projects/acme/"));
    let now = Duration::from_secs(1_790_000_000);
    let request = PROVIDER.token_request(&access, now).expect("good credentials").expect("a token");
    assert_eq!(request.url, "https://oauth2.googleapis.com/token");
    let body = String::from_utf8(request.body).expect("a form");
    let grant = "grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Ajwt-bearer&assertion=";
    let token = body.strip_prefix(grant).expect("the grant comes first");
    let (signed, signature) = token.rsplit_once('.').expect("a JWT");
    let decode = |part: &str| URL_SAFE_NO_PAD.decode(part).expect("base64url");
    let (header, claims) = signed.split_once('.').expect("a JWT");
    let json = |part: &str| serde_json::from_slice::<Value>(&decode(part)).expect("JSON");
    assert_eq!(json(header), json!({"alg": "RS256", "typ": "JWT", "kid": "k1"}));
    assert_eq!(
        json(claims),
        json!({
            "iss": "bot@acme.iam.gserviceaccount.com",
            "scope": "https://www.googleapis.com/auth/cloud-platform",
            "aud": "https://oauth2.googleapis.com/token",
            "iat": 1_790_000_000, "exp": 1_790_003_600,
        })
    );
    let pem: String = KEY.lines().filter(|line| !line.starts_with('-')).collect();
    let der = base64::engine::general_purpose::STANDARD.decode(pem).expect("a key");
    let key = RsaKeyPair::from_pkcs8(&der).expect("a key");
    let public: RsaPublicKeyComponents<Vec<u8>> = key.public().into();
    let verified =
        public.verify(&RSA_PKCS1_2048_8192_SHA256, signed.as_bytes(), &decode(signature));
    assert!(verified.is_ok(), "the signature is the key's");
}

#[test]
fn a_users_login_is_refreshed() {
    let user = json!({
        "type": "authorized_user", "client_id": "id", "client_secret": "s&s",
        "refresh_token": "1//r", "quota_project_id": "acme",
    });
    let set = settings(&[("vertex_credentials", &user.to_string())]);
    let access = Access { settings: &set, ..Access::default() };
    let request = PROVIDER.token_request(&access, Duration::ZERO).expect("good").expect("a token");
    let form = b"grant_type=refresh_token&client_id=id&client_secret=s%26s&refresh_token=1%2F%2Fr";
    assert_eq!(request.body, form);
}

#[test]
fn a_token_at_hand_is_used_as_it_is() {
    let set = settings(&[("vertex_project", "acme")]);
    let access = Access { api_key: Some("ya29.x"), settings: &set, ..Access::default() };
    let headers = PROVIDER.headers(&access).expect("a token");
    assert_eq!(headers[0].1, "Bearer ya29.x");
    assert!(headers[0].1.is_sensitive());
    assert!(matches!(PROVIDER.token_request(&access, Duration::ZERO), Ok(None)));
}

#[test]
fn faulty_settings_are_told_without_their_values() {
    let with = |change: &[(&str, Value)]| {
        let mut account = account();
        for (name, value) in change {
            account[*name] = value.clone();
        }
        account.to_string()
    };
    let credentials = |json: &str| settings(&[("vertex_credentials", json)]);
    for (set, setting) in [
        (settings(&[]), "vertex_project"),
        (settings(&[("vertex_project", "acme")]), "vertex_credentials"),
        (settings(&[("vertex_location", "evil.com/")]), "vertex_location"),
        (credentials("/etc/key.json"), "vertex_credentials"),
        (credentials("{}"), "vertex_credentials"),
        (credentials(&with(&[("type", "external_account".into())])), "vertex_credentials"),
        (credentials(&with(&[("private_key", "SECRET".into())])), "vertex_credentials"),
        (credentials(&with(&[("token_uri", "https://evil.com".into())])), "vertex_credentials"),
        (credentials(&with(&[("client_email", 1.into())])), "vertex_credentials"),
        (credentials(&with(&[("project_id", Value::Null)])), "vertex_project"),
    ] {
        let error = PROVIDER.headers(&Access { settings: &set, ..Access::default() });
        let error = error.expect_err("the settings are faulty");
        assert_eq!(error.setting, setting, "{error}");
        assert!(!error.message.contains("SECRET") && !error.message.contains("evil"), "{error}");
    }
    // An operator may name another address.
    let json = with(&[("token_uri", "https://evil.com".into())]);
    let set =
        settings(&[("vertex_credentials", &json), ("vertex_token_uri", "http://127.0.0.1:9/t")]);
    let access = Access { settings: &set, ..Access::default() };
    let request = PROVIDER.token_request(&access, Duration::ZERO).expect("good").expect("a token");
    assert_eq!(request.url, "http://127.0.0.1:9/t");
}
