//! How a token is asked for: with a service account's key or a user's own login.
//!
//! A service account signs an assertion (RFC 7523, RS256) that says who asks for what; Google answers
//! with a token for an hour (<https://developers.google.com/identity/protocols/oauth2/service-account>,
//! read 2026-11). Pure: nothing is sent from here.

use std::fmt::Write as _;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use ring::rand::SystemRandom;
use ring::signature::{RSA_PKCS1_SHA256, RsaKeyPair};
use serde::Deserialize;
use serde_json::json;

use crate::{Access, AccessError, TokenRequest};

const SETTING: &str = "vertex_credentials";
const SCOPE: &str = "https://www.googleapis.com/auth/cloud-platform";
const TOKEN_URI: &str = "https://oauth2.googleapis.com/token";
const GRANT: &str = "urn:ietf:params:oauth:grant-type:jwt-bearer";

/// How long an assertion is good for: the longest Google takes.
const LIFETIME: Duration = Duration::from_secs(3600);

/// A file of credentials, as Google Cloud writes it. It does not print.
#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(super) enum Credentials {
    /// A service account and its key.
    ServiceAccount(ServiceAccount),
    /// A user who has logged in with `gcloud auth application-default login`.
    AuthorizedUser(AuthorizedUser),
}

#[derive(Deserialize)]
pub(super) struct ServiceAccount {
    client_email: String,
    private_key: String,
    private_key_id: Option<String>,
    project_id: Option<String>,
    token_uri: Option<String>,
}

#[derive(Deserialize)]
pub(super) struct AuthorizedUser {
    client_id: String,
    client_secret: String,
    refresh_token: String,
    quota_project_id: Option<String>,
    token_uri: Option<String>,
}

fn fault(message: impl Into<String>) -> AccessError {
    AccessError::new(SETTING, message)
}

impl Credentials {
    /// Reads what is set. `None` where nothing is.
    ///
    /// # Errors
    /// When it is no JSON of a kind that can be used. The error does not quote it.
    pub(super) fn of(access: &Access<'_>) -> Result<Option<Credentials>, AccessError> {
        #[derive(Deserialize)]
        struct Kind {
            #[serde(rename = "type")]
            kind: Option<String>,
        }
        let Some(text) = access.setting(SETTING) else { return Ok(None) };
        // What cannot be read may hold a key, so the parser's words are not repeated.
        let kind: Kind = serde_json::from_str(text)
            .map_err(|_| fault("is neither the JSON of credentials nor a file that holds it"))?;
        match kind.kind.as_deref() {
            Some("service_account" | "authorized_user") => {}
            Some(_) => {
                return Err(fault(
                    "is of a type that cannot be used; service_account and authorized_user can",
                ));
            }
            None => return Err(fault("has no `type`")),
        }
        let credentials = serde_json::from_str(text);
        credentials.map(Some).map_err(|_| fault("lacks members that credentials of its type have"))
    }

    /// The project they belong to.
    pub(super) fn project(&self) -> Option<&str> {
        let project = match self {
            Credentials::ServiceAccount(account) => &account.project_id,
            Credentials::AuthorizedUser(user) => &user.quota_project_id,
        };
        project.as_deref().filter(|project| !project.is_empty())
    }

    /// Whether a token can be asked for with them.
    ///
    /// # Errors
    /// When the key or the address cannot be used.
    pub(super) fn check(&self, access: &Access<'_>) -> Result<(), AccessError> {
        self.token_uri(access)?;
        match self {
            Credentials::ServiceAccount(account) => account.key().map(|_| ()),
            Credentials::AuthorizedUser(_) => Ok(()),
        }
    }

    /// Where the token is asked for. A file of credentials may come from anywhere, and what is sent
    /// there is worth a token, so only Google's own addresses are followed; the operator's setting
    /// may say another.
    fn token_uri(&self, access: &Access<'_>) -> Result<String, AccessError> {
        if let Some(uri) = access.setting("vertex_token_uri") {
            return Ok(uri.to_owned());
        }
        let written = match self {
            Credentials::ServiceAccount(account) => &account.token_uri,
            Credentials::AuthorizedUser(user) => &user.token_uri,
        };
        match written.as_deref().unwrap_or(TOKEN_URI) {
            uri if is_googles(uri) => Ok(uri.to_owned()),
            _ => Err(fault(
                "names a token_uri that is not Google's; set vertex_token_uri if it is meant",
            )),
        }
    }

    /// The request for a token.
    ///
    /// # Errors
    /// As [`Credentials::check`].
    pub(super) fn token_request(
        &self,
        access: &Access<'_>,
        now: Duration,
    ) -> Result<TokenRequest, AccessError> {
        let url = self.token_uri(access)?;
        let body = match self {
            Credentials::ServiceAccount(account) => {
                let assertion = account.assertion(&url, now)?;
                form(&[("grant_type", GRANT), ("assertion", &assertion)])
            }
            Credentials::AuthorizedUser(user) => form(&[
                ("grant_type", "refresh_token"),
                ("client_id", &user.client_id),
                ("client_secret", &user.client_secret),
                ("refresh_token", &user.refresh_token),
            ]),
        };
        Ok(TokenRequest { url, body: body.into_bytes() })
    }
}

impl ServiceAccount {
    fn key(&self) -> Result<RsaKeyPair, AccessError> {
        let unusable = || fault("holds a private_key that is not an RSA key in PEM");
        // In variables of the environment line feeds are often escaped twice.
        let pem = self.private_key.replace("\\n", "\n");
        let (label, der) = decode_pem(&pem).ok_or_else(unusable)?;
        match label {
            "PRIVATE KEY" => RsaKeyPair::from_pkcs8(&der),
            "RSA PRIVATE KEY" => RsaKeyPair::from_der(&der),
            _ => return Err(unusable()),
        }
        .map_err(|_| unusable())
    }

    fn assertion(&self, audience: &str, now: Duration) -> Result<String, AccessError> {
        let key = self.key()?;
        let mut header = json!({"alg": "RS256", "typ": "JWT"});
        if let Some(id) = &self.private_key_id {
            header["kid"] = id.as_str().into();
        }
        let claims = json!({
            "iss": self.client_email,
            "scope": SCOPE,
            "aud": audience,
            "iat": now.as_secs(),
            "exp": now.saturating_add(LIFETIME).as_secs(),
        });
        let encode = |part: String| URL_SAFE_NO_PAD.encode(part);
        let mut token = format!("{}.{}", encode(header.to_string()), encode(claims.to_string()));
        let mut signature = vec![0; key.public().modulus_len()];
        key.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), token.as_bytes(), &mut signature)
            .map_err(|_| fault("holds a private_key that does not sign"))?;
        token.push('.');
        URL_SAFE_NO_PAD.encode_string(signature, &mut token);
        Ok(token)
    }
}

/// The label and the bytes of the first block.
fn decode_pem(text: &str) -> Option<(&str, Vec<u8>)> {
    let (_, rest) = text.split_once("-----BEGIN ")?;
    let (label, rest) = rest.split_once("-----")?;
    let (inside, _) = rest.split_once("-----END ")?;
    let base64: String = inside.split_ascii_whitespace().collect();
    Some((label, STANDARD.decode(base64).ok()?))
}

/// Whether a URL is https and of one of the hosts Google gives tokens at.
fn is_googles(url: &str) -> bool {
    let Some(rest) = url.strip_prefix("https://") else { return false };
    let authority = rest.split(['/', '?', '#', '\\']).next().unwrap_or_default();
    let host = authority.strip_suffix(":443").unwrap_or(authority);
    let is_name =
        host.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-'));
    is_name && (host == "accounts.google.com" || host.ends_with(".googleapis.com"))
}

/// A form's body.
fn form(fields: &[(&str, &str)]) -> String {
    let mut body = String::new();
    for (name, value) in fields {
        if !body.is_empty() {
            body.push('&');
        }
        body.push_str(name);
        body.push('=');
        for byte in value.bytes() {
            match byte {
                b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                    body.push(char::from(byte));
                }
                _ => {
                    let _ = write!(body, "%{byte:02X}");
                }
            }
        }
    }
    body
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_googles_addresses_are_followed() {
        for url in [
            TOKEN_URI,
            "https://oauth2.googleapis.com:443/token",
            "https://accounts.google.com/o/oauth2/token",
            "https://oauth2.mtls.googleapis.com/token",
        ] {
            assert!(is_googles(url), "{url}");
        }
        for url in [
            "http://oauth2.googleapis.com/token",
            "https://evil.com/token",
            "https://evil.com#.googleapis.com",
            "https://evil.com\\.googleapis.com",
            "https://evilgoogleapis.com/token",
            "https://x@evil.com/.googleapis.com",
            "https://oauth2.googleapis.com@evil.com/",
            "https://oauth2.googleapis.com:8080/token",
            "https://oauth2.googleapis.com.evil.com/token",
            "",
        ] {
            assert!(!is_googles(url), "{url}");
        }
    }

    #[test]
    fn a_form_is_escaped() {
        assert_eq!(
            form(&[("a", "b c&d=é"), ("e", "1//x-y_z.~")]),
            "a=b%20c%26d%3D%C3%A9&e=1%2F%2Fx-y_z.~"
        );
    }
}
