//! Our credentials, overwritten where the servers they are for say them: neither a model nor whoever
//! asks it is to learn them from a tool.

use http::{HeaderMap, HeaderName};
use memchr::memmem;
use serde_json::Value;
use url::Url;

/// What is shorter is found in any text, and is none.
const BYTES_MIN: usize = 8;
/// What is so long and looks like chance is one, whatever it is called.
const RANDOM_BYTES_MIN: usize = 16;
/// What is in the name of something that holds one.
const NAMES: [&str; 8] = ["auth", "cookie", "cred", "key", "pass", "secret", "session", "token"];

/// The credentials of one server.
#[derive(Debug, Default)]
pub(crate) struct Secrets(Vec<Secret>);

struct Secret(Box<str>);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("…")
    }
}

impl Secrets {
    /// Adds what is certainly one.
    pub(crate) fn add(&mut self, secret: &str) {
        if secret.len() >= BYTES_MIN && !self.0.iter().any(|have| *have.0 == *secret) {
            self.0.push(Secret(secret.into()));
            // Those that are in others come after them.
            self.0.sort_by_key(|secret| std::cmp::Reverse(secret.0.len()));
        }
    }

    /// Adds a value if it looks like one, or its name says so.
    pub(crate) fn add_named(&mut self, name: &str, value: &str) {
        let name = name.to_ascii_lowercase();
        if NAMES.iter().any(|part| name.contains(part)) || is_random(value) {
            self.add(value);
        }
        // The password in a URL, whatever holds it.
        if let Ok(url) = Url::parse(value)
            && let Some(password) = url.password()
        {
            self.add(password);
        }
    }

    /// Adds those among headers.
    pub(crate) fn add_headers(&mut self, headers: &HeaderMap) {
        for (name, value) in headers {
            let Ok(value) = value.to_str() else { continue };
            // `Bearer …`, `Basic …`
            let bare = value.split_once(' ').map_or(value, |(_, rest)| rest);
            match *name == HeaderName::from_static("authorization") {
                true => self.add(bare),
                false => self.add_named(name.as_str(), bare),
            }
        }
    }

    /// Adds those in a URL.
    pub(crate) fn add_url(&mut self, url: &Url) {
        self.add(url.password().unwrap_or_default());
        for pair in url.query().unwrap_or_default().split('&') {
            let (name, value) = pair.split_once('=').unwrap_or_default();
            self.add_named(name, value);
        }
        for (name, value) in url.query_pairs() {
            self.add_named(&name, &value);
        }
    }

    /// Overwrites them in a text.
    pub(crate) fn hide_in(&self, text: &mut String) {
        for Secret(secret) in &self.0 {
            if memmem::find(text.as_bytes(), secret.as_bytes()).is_some() {
                *text = text.replace(&**secret, &"*".repeat(secret.len()));
            }
        }
    }

    /// Overwrites them in all texts of a value, and in names of members.
    pub(crate) fn hide_in_value(&self, value: &mut Value) {
        match value {
            Value::String(text) => self.hide_in(text),
            Value::Array(items) => items.iter_mut().for_each(|item| self.hide_in_value(item)),
            Value::Object(members) => {
                members.values_mut().for_each(|member| self.hide_in_value(member));
                let is_in = |name: &String| self.0.iter().any(|secret| name.contains(&*secret.0));
                if members.keys().any(is_in) {
                    for (mut name, member) in std::mem::take(members) {
                        self.hide_in(&mut name);
                        members.insert(name, member);
                    }
                }
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => {}
        }
    }
}

/// Letters and digits mixed, and neither a path nor a sentence.
fn is_random(value: &str) -> bool {
    let any = |is: fn(&u8) -> bool| value.as_bytes().iter().any(is);
    value.len() >= RANDOM_BYTES_MIN
        && any(u8::is_ascii_digit)
        && any(u8::is_ascii_alphabetic)
        && !any(|byte| matches!(byte, b'/' | b' ' | b'.'))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn check(secrets: &Secrets, text: &str, expect: &str) {
        let mut text = text.to_owned();
        secrets.hide_in(&mut text);
        assert_eq!(text, expect);
    }

    #[test]
    fn secrets_are_overwritten_wherever_they_stand() {
        let mut secrets = Secrets::default();
        secrets.add("swordfish");
        secrets.add("swordfish-2");
        secrets.add("short");
        check(&secrets, "a swordfish-2, a swordfish, short", "a ***********, a *********, short");
        let mut value = json!({"swordfish": ["a swordfish", 1, {"x": "swordfish-2"}]});
        secrets.hide_in_value(&mut value);
        assert_eq!(value, json!({"*********": ["a *********", 1, {"x": "***********"}]}));
        assert!(!format!("{secrets:?}").contains("sword"));
    }

    #[test]
    fn what_is_a_secret_is_told_by_its_name_or_its_looks() {
        let mut secrets = Secrets::default();
        for (name, value) in [
            ("NODE_ENV", "production"),
            ("DATA", "/srv/data/of/team-1/files"),
            ("GREETING", "hello there 2 you all"),
            ("SERVICE_TOKEN", "swordfish"),
            ("GITHUB_PAT", "ghp_a1b2c3d4e5f6g7h8"),
            ("DATABASE", "postgres://ann:swordfish-2@db/x"),
        ] {
            secrets.add_named(name, value);
        }
        check(
            &secrets,
            "production /srv/data/of/team-1/files",
            "production /srv/data/of/team-1/files",
        );
        check(&secrets, "hello there 2 you all", "hello there 2 you all");
        check(&secrets, "swordfish ghp_a1b2c3d4e5f6g7h8", "********* ********************");
        check(&secrets, "ann:swordfish-2@db", "ann:***********@db");
    }

    #[test]
    fn headers_and_urls_have_some() {
        let mut secrets = Secrets::default();
        let mut headers = HeaderMap::new();
        headers.insert("authorization", HeaderValue::from_static("Bearer let-me-in"));
        headers.insert("x-team", HeaderValue::from_static("platform"));
        headers.insert("x-api-key", HeaderValue::from_static("open sesame"));
        secrets.add_headers(&headers);
        let url = "https://ann:password@host/mcp?api_key=a%20b%20c%20d%20e&page=12345678";
        secrets.add_url(&Url::parse(url).unwrap());
        check(&secrets, "Bearer let-me-in", "Bearer *********");
        check(&secrets, "platform 12345678", "platform 12345678");
        check(&secrets, "password a%20b%20c%20d%20e", "******** *****************");
        check(&secrets, "a b c d e", "*********");
    }

    proptest! {
        #[test]
        fn nothing_is_left_of_a_secret(before in "\\PC*", secret in "[a-z0-9-]{8,20}", after in "\\PC*") {
            let mut secrets = Secrets::default();
            secrets.add(&secret);
            let mut text = format!("{before}{secret}{after}");
            let length = text.len();
            secrets.hide_in(&mut text);
            prop_assert!(!text.contains(&secret));
            prop_assert_eq!(text.len(), length);
        }
    }
}
