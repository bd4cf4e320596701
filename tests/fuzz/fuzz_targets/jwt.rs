//! Any bytes as a token or as a set of keys are read or refused; what nobody has signed is never
//! believed, whatever keys the set has; claims are looked through without a panic.
//!
//! The modules are the gateway's own and live in a binary, so they are taken in by their paths.

#![no_main]

use std::sync::LazyLock;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use libfuzzer_sys::fuzz_target;
use ring::signature::{Ed25519KeyPair, KeyPair};
use serde_json::json;

#[path = "../../../src/gateway/src/oidc/jwks.rs"]
mod jwks;
#[path = "../../../src/gateway/src/oidc/token.rs"]
#[expect(dead_code, reason = "the gateway uses the rest")]
mod token;

use token::{Doubt, Token};

/// Of a seed that everybody knows.
static OURS: LazyLock<Ed25519KeyPair> =
    LazyLock::new(|| Ed25519KeyPair::from_seed_unchecked(&[7; 32]).expect("it is a seed"));

fuzz_target!(|data: &[u8]| {
    // A set, a line feed, and a token or the claims of one.
    let (set, rest) = match data.iter().position(|byte| *byte == b'\n') {
        Some(at) => (&data[..at], &data[at + 1..]),
        None => (data, data),
    };
    let strangers = jwks::read(set).unwrap_or_default();
    let x = URL_SAFE_NO_PAD.encode(OURS.public_key().as_ref());
    let ours = json!({"keys": [{"kty": "OKP", "crv": "Ed25519", "kid": "ours", "x": x}]});
    let ours = jwks::read(ours.to_string().as_bytes()).expect("it is a set");

    if let Ok(text) = std::str::from_utf8(rest)
        && let Ok(read) = Token::read(text)
    {
        let _ = read.issuer();
        // Its author may have made the set as well; ours has signed nothing of that.
        let _ = read.check(&strangers);
        let read = Token::read(text).expect("it was read before");
        let doubt = read.check(&ours).err().expect("nobody has signed it");
        assert!(matches!(doubt, Doubt::Signature | Doubt::UnknownKey | Doubt::Misfit), "{doubt}");
    }
    let part = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    let message = format!("{}.{}", part(br#"{"alg":"EdDSA","kid":"ours"}"#), part(rest));
    let signed = format!("{message}.{}", part(OURS.sign(message.as_bytes()).as_ref()));
    if let Ok(read) = Token::read(&signed) {
        let claims = read.check(&ours).expect("it is signed");
        let now = Duration::from_secs(1_800_000_000);
        if let Ok(end) = claims.current(now) {
            assert!(end > now);
        }
        let _ = claims.is_for(&["tollway".to_owned()]);
        for path in ["sub", "a.b.c", "", ".", "realm_access.roles"] {
            let _ = claims.get(path);
        }
    }
});
