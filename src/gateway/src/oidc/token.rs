//! A JWT as it comes (RFC 7519 in RFC 7515's compact form): taken apart, its signature checked, and
//! the claims that say when, by whom and for whom it was made.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};

use super::jwks::{Algorithm, KID_BYTES_MAX, Key};

/// How far the clocks of the identity provider and of this machine may differ.
const LEEWAY: Duration = Duration::from_secs(60);
/// How many keys are tried for a token that names none.
const TRIED_MAX: usize = 8;

/// A token that nobody has checked yet.
pub(crate) struct Token<'a> {
    algorithm: Algorithm,
    kid: Option<String>,
    /// What is signed.
    message: &'a str,
    signature: Vec<u8>,
    claims: Map<String, Value>,
}

/// Why a token is not believed. The text goes to the client, and holds nothing of the token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Doubt {
    #[error("it is not well-formed")]
    Malformed,
    #[error(
        "its algorithm is not one of RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384 and EdDSA"
    )]
    Algorithm,
    #[error("its key is not for its algorithm")]
    Misfit,
    #[error("the identity provider has no such key")]
    UnknownKey,
    #[error("its signature does not match")]
    Signature,
    #[error("it does not say when it ends")]
    Endless,
    #[error("it has expired")]
    Expired,
    #[error("it is not valid yet")]
    Early,
    #[error("its issuer is not trusted here")]
    Issuer,
    #[error("it is for another audience")]
    Audience,
}

impl<'a> Token<'a> {
    /// Takes a token apart. Nothing of it is to be believed.
    pub(crate) fn read(text: &'a str) -> Result<Token<'a>, Doubt> {
        let (message, signature) = text.rsplit_once('.').ok_or(Doubt::Malformed)?;
        let (head, claims) = message.split_once('.').ok_or(Doubt::Malformed)?;
        let head = object(head)?;
        // Nothing that a token could declare critical is understood here.
        if head.contains_key("crit") {
            return Err(Doubt::Malformed);
        }
        let name = head.get("alg").and_then(Value::as_str).ok_or(Doubt::Malformed)?;
        let algorithm = Algorithm::from_name(name).ok_or(Doubt::Algorithm)?;
        let kid = match head.get("kid") {
            None => None,
            Some(Value::String(kid)) if kid.len() <= KID_BYTES_MAX => Some(kid.clone()),
            Some(_) => return Err(Doubt::Malformed),
        };
        let signature = URL_SAFE_NO_PAD.decode(signature).map_err(|_| Doubt::Malformed)?;
        Ok(Token { algorithm, kid, message, signature, claims: object(claims)? })
    }

    /// Who it says has made it: to choose the keys to check that by.
    pub(crate) fn issuer(&self) -> Option<&str> {
        self.claims.get("iss")?.as_str()
    }

    /// Its claims, if one of these keys has signed it.
    pub(crate) fn check(self, keys: &[Key]) -> Result<Claims, Doubt> {
        let kid = self.kid.as_deref();
        let mut fitting = keys.iter().filter(|key| key.is_for(kid, self.algorithm)).peekable();
        if fitting.peek().is_none() {
            // One of that name for another algorithm is no reason to ask for new keys.
            let is_known = kid.is_some_and(|kid| keys.iter().any(|key| key.is_called(kid)));
            return Err(if is_known { Doubt::Misfit } else { Doubt::UnknownKey });
        }
        let message = self.message.as_bytes();
        let signed = |key: &Key| key.has_signed(self.algorithm, message, &self.signature);
        match fitting.take(TRIED_MAX).any(signed) {
            true => Ok(Claims(self.claims)),
            false => Err(Doubt::Signature),
        }
    }
}

/// The claims of a token whose signature is right.
#[derive(Debug)]
pub(crate) struct Claims(Map<String, Value>);

impl Claims {
    /// When the token ends, if it holds now.
    pub(crate) fn current(&self, now: Duration) -> Result<Duration, Doubt> {
        let seconds = |name| match self.0.get(name) {
            None => Ok(None),
            Some(value) => {
                let seconds = value.as_f64().filter(|seconds| *seconds >= 0.0);
                let time = seconds.and_then(|s| Duration::try_from_secs_f64(s).ok());
                time.map(Some).ok_or(Doubt::Malformed)
            }
        };
        let end = seconds("exp")?.ok_or(Doubt::Endless)?.saturating_add(LEEWAY);
        if now >= end {
            return Err(Doubt::Expired);
        }
        match seconds("nbf")? {
            Some(begin) if now.saturating_add(LEEWAY) < begin => Err(Doubt::Early),
            _ => Ok(end),
        }
    }

    /// Whether it was made for one of these, or whether that does not matter: for an empty list.
    pub(crate) fn is_for(&self, audiences: &[String]) -> Result<(), Doubt> {
        let is_ours = |value: &Value| {
            value.as_str().is_some_and(|value| audiences.iter().any(|audience| audience == value))
        };
        let fits = match self.0.get("aud") {
            Some(Value::Array(list)) => list.iter().any(is_ours),
            Some(value) => is_ours(value),
            None => false,
        };
        if fits || audiences.is_empty() { Ok(()) } else { Err(Doubt::Audience) }
    }

    /// A claim by its name, or by its path with dots: `resource_access.tollway.roles`. A name that
    /// has dots of its own, as those that are URLs, comes first.
    pub(crate) fn get(&self, path: &str) -> Option<&Value> {
        if let Some(value) = self.0.get(path) {
            return Some(value);
        }
        let mut names = path.split('.');
        let first = self.0.get(names.next()?)?;
        names.try_fold(first, |value, name| value.get(name))
    }
}

fn object(part: &str) -> Result<Map<String, Value>, Doubt> {
    let bytes = URL_SAFE_NO_PAD.decode(part).map_err(|_| Doubt::Malformed)?;
    match serde_json::from_slice(&bytes) {
        Ok(Value::Object(object)) => Ok(object),
        _ => Err(Doubt::Malformed),
    }
}
