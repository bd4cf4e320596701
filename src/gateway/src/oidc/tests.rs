//! What strangers' bytes are read by: tokens, sets of keys, claims.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use proptest::prelude::*;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use serde_json::{Value, json};
use tollway_filter_api::identity::Role;

use super::claims::{Person, Stranger};
use super::jwks::{self, NoKeys};
use super::token::{Claims, Doubt, Token};
use crate::config::{ClaimNames, JwtSettings, MappedRole};

const NOW: Duration = Duration::from_secs(1_800_000_000);

/// A private key, and the set its public half is in.
struct Signer {
    key: EcdsaKeyPair,
    random: SystemRandom,
}

impl Signer {
    fn new() -> Signer {
        let (kind, random) = (&ECDSA_P256_SHA256_FIXED_SIGNING, SystemRandom::new());
        let der = EcdsaKeyPair::generate_pkcs8(kind, &random).expect("randomness");
        let key = EcdsaKeyPair::from_pkcs8(kind, der.as_ref(), &random).expect("a key");
        Signer { key, random }
    }

    fn jwk(&self) -> Value {
        let (x, y) = self.key.public_key().as_ref()[1..].split_at(32);
        let text = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        json!({"kty": "EC", "crv": "P-256", "x": text(x), "y": text(y), "kid": "k"})
    }

    fn keys(&self) -> Vec<jwks::Key> {
        keys(&[self.jwk()]).expect("it is a key")
    }

    fn token(&self, head: &Value, claims: &Value) -> String {
        let text = |part: &Value| URL_SAFE_NO_PAD.encode(part.to_string());
        let message = format!("{}.{}", text(head), text(claims));
        let signed = self.key.sign(&self.random, message.as_bytes()).expect("it signs");
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(signed))
    }
}

fn keys(list: &[Value]) -> Result<Vec<jwks::Key>, NoKeys> {
    jwks::read(json!({"keys": list}).to_string().as_bytes())
}

fn checked(token: &str, keys: &[jwks::Key]) -> Result<Claims, Doubt> {
    Token::read(token)?.check(keys)
}

fn claims(claims: &Value) -> Claims {
    let signer = Signer::new();
    let token = signer.token(&json!({"alg": "ES256"}), claims);
    checked(&token, &signer.keys()).expect("it is signed")
}

#[test]
fn token_is_checked_by_the_key_it_names_or_by_one_that_fits() {
    let (signer, other) = (Signer::new(), Signer::new());
    let mut second = other.jwk();
    second["kid"] = "other".into();
    let both = keys(&[second, signer.jwk()]).expect("keys");
    let check = |head: Value, expect: Option<Doubt>| {
        let token = signer.token(&head, &json!({}));
        assert_eq!(checked(&token, &both).err(), expect, "{head}");
    };
    check(json!({"alg": "ES256", "kid": "k"}), None);
    check(json!({"alg": "ES256"}), None);
    check(json!({"alg": "ES256", "kid": "other"}), Some(Doubt::Signature));
    check(json!({"alg": "ES256", "kid": "third"}), Some(Doubt::UnknownKey));
    check(json!({"alg": "RS256", "kid": "k"}), Some(Doubt::Misfit));
    check(json!({"alg": "HS256", "kid": "k"}), Some(Doubt::Algorithm));
    check(json!({"alg": "none", "kid": "k"}), Some(Doubt::Algorithm));
    check(json!({"alg": "es256", "kid": "k"}), Some(Doubt::Algorithm));
    check(json!({"alg": "ES256", "kid": 7}), Some(Doubt::Malformed));
    check(json!({"alg": "ES256", "kid": "k", "crit": []}), Some(Doubt::Malformed));
    check(json!({"kid": "k"}), Some(Doubt::Malformed));
}

#[test]
fn keys_that_cannot_check_a_signature_are_left_out() {
    let good = Signer::new().jwk();
    let but = |name: &str, value: Value| {
        let mut jwk = good.clone();
        jwk[name] = value;
        jwk
    };
    for bad in [
        but("use", "enc".into()),
        but("key_ops", json!(["sign"])),
        but("alg", "RS256".into()),
        but("alg", "HS256".into()),
        but("crv", "P-521".into()),
        but("kty", "oct".into()),
        but("x", "AAAA".into()),
        but("y", "=".into()),
        but("kid", "k".repeat(300).into()),
        json!({"kty": "RSA", "n": URL_SAFE_NO_PAD.encode([1; 128]), "e": "AQAB"}),
        json!({"kty": "RSA", "n": URL_SAFE_NO_PAD.encode([1; 256]), "e": ""}),
        json!({"kty": "OKP", "crv": "X25519", "x": URL_SAFE_NO_PAD.encode([1; 32])}),
        json!(7),
    ] {
        assert_eq!(keys(std::slice::from_ref(&bad)).err(), Some(NoKeys::Useless(1)), "{bad}");
        assert_eq!(keys(&[bad.clone(), good.clone()]).map(|keys| keys.len()), Ok(1), "{bad}");
    }
    for good in [but("use", "sig".into()), but("key_ops", json!(["verify"])), but("kid", json!(7))]
    {
        assert!(keys(&[good]).is_ok());
    }
    for text in ["", "[]", "{}", "{\"keys\": {}}", "{\"keys\": []"] {
        assert_eq!(jwks::read(text.as_bytes()).err(), Some(NoKeys::Malformed), "{text}");
    }
    assert_eq!(keys(&vec![good; 1_000]).map(|keys| keys.len()), Ok(64));
}

#[test]
fn times_count_with_a_minute_of_leeway() {
    let now = NOW.as_secs();
    let check = |said: Value, expect: Result<u64, Doubt>| {
        let have = claims(&said).current(NOW).map(|end| end.as_secs());
        assert_eq!(have, expect, "{said}");
    };
    check(json!({"exp": now + 5}), Ok(now + 65));
    check(json!({"exp": now - 59}), Ok(now + 1));
    check(json!({"exp": now as f64 + 0.5}), Ok(now + 60));
    check(json!({"exp": now - 60}), Err(Doubt::Expired));
    check(json!({"exp": 0}), Err(Doubt::Expired));
    check(json!({}), Err(Doubt::Endless));
    for odd in [json!("1"), json!(-1), json!(1e300), json!([now + 5]), json!(true), Value::Null] {
        check(json!({"exp": odd}), Err(Doubt::Malformed));
        check(json!({"exp": now + 5, "nbf": odd}), Err(Doubt::Malformed));
    }
    check(json!({"exp": now + 500, "nbf": now + 60}), Ok(now + 560));
    check(json!({"exp": now + 500, "nbf": now + 61}), Err(Doubt::Early));
}

#[test]
fn claims_are_found_by_name_and_by_path() {
    let claims = claims(&json!({"a": {"b": {"c": 1}}, "https://x.com/roles": 2, "a.b": 3}));
    for (path, expect) in [
        ("a.b.c", Some(1)),
        ("https://x.com/roles", Some(2)),
        ("a.b", Some(3)),
        ("a.b.d", None),
        ("a.b.c.d", None),
        ("", None),
        (".", None),
    ] {
        assert_eq!(claims.get(path).and_then(Value::as_u64), expect, "{path}");
    }
}

fn settings() -> JwtSettings {
    JwtSettings {
        issuers: Vec::new(),
        key_ttl: Duration::from_secs(600),
        admin_scope: "admin".to_owned(),
        admin_routes: Vec::new(),
        team_routes: Vec::new(),
        team_default: None,
        roles_field: Some("roles".to_owned()),
        role_mappings: vec![
            ("boss".to_owned(), MappedRole::User(Role::Admin)),
            ("robot".to_owned(), MappedRole::Team),
        ],
        role_map: vec![("read-*".to_owned(), Role::UserViewer), ("*".to_owned(), Role::User)],
        object_id_field: Some("oid".to_owned()),
        user_roles_field: None,
        user_allowed_roles: Vec::new(),
        email_domain: None,
        user_upsert: true,
        team_upsert: false,
        needs_team: false,
    }
}

fn names() -> ClaimNames {
    let name = |name: &str| Some(name.to_owned());
    ClaimNames {
        user_id: name("sub"),
        user_email: name("email"),
        team_id: None,
        team_ids: name("groups"),
        end_user_id: name("customer"),
    }
}

#[track_caller]
fn person(said: Value, change: impl FnOnce(&mut JwtSettings, &mut ClaimNames)) -> Outcome {
    let (mut settings, mut names) = (settings(), names());
    change(&mut settings, &mut names);
    Person::of(&claims(&said), &names, &settings)
}

type Outcome = Result<Person, Stranger>;

#[test]
fn claims_make_a_person() {
    let as_is = |_: &mut JwtSettings, _: &mut ClaimNames| {};
    let uma =
        person(json!({"sub": "uma", "groups": ["a", 7, "", null, "a"], "customer": 9}), as_is);
    let uma = uma.expect("she may");
    assert_eq!(uma.user.as_deref(), Some("uma"));
    let teams: Vec<&str> = uma.teams.iter().map(|team| &**team).collect();
    assert_eq!(teams, ["a", "7"]);
    assert_eq!((uma.end_user.as_deref(), uma.role), (Some("9"), None));

    let role = |said: Value| person(said, as_is).map(|person| (person.role, person.is_admin));
    assert_eq!(role(json!({"sub": "u", "scope": "x admin"})), Ok((Some(Role::Admin), true)));
    assert_eq!(role(json!({"sub": "u", "scope": ["admin"]})), Ok((Some(Role::Admin), true)));
    assert_eq!(role(json!({"sub": "u", "scope": "administer"})), Ok((None, false)));
    assert_eq!(role(json!({"sub": "u", "roles": "boss"})), Ok((Some(Role::Admin), true)));
    assert_eq!(
        role(json!({"sub": "u", "roles": ["read-all"]})),
        Ok((Some(Role::UserViewer), false))
    );
    assert_eq!(role(json!({"sub": "u", "roles": ["x"]})), Ok((Some(Role::User), false)));

    let robot = person(json!({"roles": ["robot"], "oid": "batch"}), as_is).expect("a team");
    assert_eq!((robot.user, robot.teams), (None, vec!["batch".into()]));
    let address = person(json!({"email": "a@b.c"}), as_is).expect("an address is a name");
    assert_eq!(address.user.as_deref(), Some("a@b.c"));

    assert_eq!(person(json!({}), as_is), Err(Stranger::Nobody));
    for odd in [json!(""), json!({}), json!("a\nb"), json!("x".repeat(257))] {
        assert_eq!(person(json!({"sub": odd}), as_is), Err(Stranger::Id), "{odd}");
    }
    let roles = |settings: &mut JwtSettings, _: &mut ClaimNames| {
        settings.user_roles_field = Some("roles".to_owned());
        settings.user_allowed_roles = vec!["ai".to_owned()];
    };
    assert_eq!(person(json!({"sub": "u", "roles": ["x"]}), roles), Err(Stranger::Role));
    assert!(person(json!({"sub": "u", "roles": ["x", "ai"]}), roles).is_ok());
    let team = |_: &mut JwtSettings, names: &mut ClaimNames| names.team_id = Some("team".into());
    let refused = person(json!({"sub": "u"}), team);
    assert_eq!(refused, Err(Stranger::NoTeam("team".to_owned())));
}

proptest! {
    #[test]
    fn any_flipped_bit_of_a_token_is_seen(at in any::<prop::sample::Index>(), bit in 0..7_u8) {
        let signer = Signer::new();
        let head = json!({"alg": "ES256", "kid": "k"});
        let token = signer.token(&head, &json!({"sub": "uma", "exp": NOW.as_secs() + 60}));
        let keys = signer.keys();
        prop_assert!(checked(&token, &keys).is_ok());
        let mut bytes = token.into_bytes();
        let at = at.index(bytes.len());
        bytes[at] ^= 1 << bit;
        let changed = String::from_utf8(bytes).expect("still ASCII");
        prop_assert!(checked(&changed, &keys).is_err(), "{changed}");
    }

    #[test]
    fn any_text_is_a_token_or_not(text in "[ -~]{0,200}", parts in any::<[Vec<u8>; 3]>()) {
        let keys = Signer::new().keys();
        prop_assert!(checked(&text, &keys).is_err());
        let parts = parts.map(|part| URL_SAFE_NO_PAD.encode(part));
        prop_assert!(checked(&parts.join("."), &keys).is_err());
    }

    #[test]
    fn any_bytes_are_a_set_of_keys_or_not(bytes in any::<Vec<u8>>(), x in any::<Vec<u8>>()) {
        let _ = jwks::read(&bytes);
        let number = URL_SAFE_NO_PAD.encode(&x);
        let jwk = |kty, crv| json!({"kty": kty, "crv": crv, "x": number, "y": number,
                                    "n": number, "e": number});
        for (kty, crv) in [("EC", "P-256"), ("EC", "P-384"), ("OKP", "Ed25519"), ("RSA", "")] {
            let _ = keys(&[jwk(kty, crv)]);
        }
        // A point that is on no curve is a key that has signed nothing.
        let long: Vec<u8> = x.iter().copied().chain([7; 32]).take(32).collect();
        let number = URL_SAFE_NO_PAD.encode(long);
        let odd = json!({"kty": "EC", "crv": "P-256", "x": number, "y": number});
        let token = Signer::new().token(&json!({"alg": "ES256"}), &json!({}));
        prop_assert_eq!(checked(&token, &keys(&[odd]).expect("a key")).err(), Some(Doubt::Signature));
    }
}
