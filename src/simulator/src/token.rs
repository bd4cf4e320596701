//! The endpoint where others trade a credential for a bearer token (RFC 6749): Google's service
//! accounts and users, Azure's applications, and the metadata server of a machine at Google.
//!
//! The form of what is brought is checked; signatures are not, for nobody's key is known here.

use serde_json::{Value, json};

use crate::encoding::{form_value, from_base64};
use crate::flight::Finished;
use crate::journal::Received;

/// Answers a token, which is the key if one is required, so that it lets the bearer in.
pub(crate) fn token(received: &Received, key: Option<&str>) -> Result<Finished, Finished> {
    // RFC 6749 has a form of error of its own.
    let refuse = |code: &str, why: &str| {
        let body = json!({"error": code, "error_description": why});
        let mut refusal = Finished::json(&body);
        refusal.status = 400;
        refusal
    };
    if received.method == "GET" {
        // Only a request that no browser would make may have a machine's token.
        if received.header("metadata-flavor") != Some("Google") {
            let mut refusal = refuse("invalid_request", "Missing Metadata-Flavor:Google header.");
            refusal.status = 403;
            return Err(refusal);
        }
        return Ok(granted(received, key));
    }
    let form = String::from_utf8_lossy(&received.body);
    let value = |name: &str| form_value(&form, name).filter(|value| !value.is_empty());
    let kind = received.header("content-type").unwrap_or_default();
    if !kind.to_ascii_lowercase().starts_with("application/x-www-form-urlencoded") {
        return Err(refuse("invalid_request", "The body must be a form."));
    }
    let wrong = match value("grant_type").as_deref() {
        None => return Err(refuse("invalid_request", "Missing grant_type.")),
        Some("urn:ietf:params:oauth:grant-type:jwt-bearer") => {
            value("assertion").ok_or("Missing assertion.").and_then(|jwt| check(&jwt)).err()
        }
        Some("refresh_token") => ["refresh_token", "client_id", "client_secret"]
            .iter()
            .any(|name| value(name).is_none())
            .then_some("Missing refresh_token, client_id or client_secret."),
        Some("client_credentials") => {
            let proof = value("client_secret").or_else(|| value("client_assertion"));
            let what = value("scope").or_else(|| value("resource"));
            (value("client_id").is_none() || proof.is_none() || what.is_none())
                .then_some("Missing client_id, a secret or a scope.")
        }
        Some(_) => return Err(refuse("unsupported_grant_type", "Invalid grant_type.")),
    };
    match wrong {
        Some(why) => Err(refuse("invalid_grant", why)),
        None => Ok(granted(received, key)),
    }
}

fn granted(received: &Received, key: Option<&str>) -> Finished {
    let token = key.map_or_else(|| format!("ya29.sim-{}", received.id), str::to_owned);
    Finished::json(&json!({"access_token": token, "expires_in": 3599, "token_type": "Bearer"}))
}

/// Whether this looks like a token that a service account has signed.
fn check(jwt: &str) -> Result<(), &'static str> {
    let parts: Vec<&str> = jwt.split('.').collect();
    let [head, claims, signature] = parts[..] else {
        return Err("Invalid JWT: it must have three parts.");
    };
    let read = |part: &str| serde_json::from_slice::<Value>(&from_base64(part)?).ok();
    let (Some(head), Some(claims)) = (read(head), read(claims)) else {
        return Err("Invalid JWT: its parts must be JSON in base64.");
    };
    if head["alg"] != "RS256" {
        return Err("Invalid JWT: its algorithm must be RS256.");
    }
    if from_base64(signature).is_none_or(|signature| signature.is_empty()) {
        return Err("Invalid JWT Signature.");
    }
    let texts = ["iss", "aud"].iter().all(|name| claims[*name].is_string());
    let (issued, expires) = (claims["iat"].as_u64(), claims["exp"].as_u64());
    match (issued, expires) {
        _ if !texts => Err("Invalid JWT: it must have iss and aud."),
        (Some(issued), Some(expires)) if issued < expires && expires - issued <= 3600 => {
            match claims["scope"].is_string() || claims["target_audience"].is_string() {
                true => Ok(()),
                false => Err("Empty or missing scope not allowed."),
            }
        }
        _ => Err(
            "Invalid JWT: Token must be a short-lived token (60 minutes) in a reasonable timeframe.",
        ),
    }
}
