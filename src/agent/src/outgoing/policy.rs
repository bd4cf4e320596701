//! Where requests may go.

use std::net::IpAddr;

use serde::Deserialize;
use url::{Host, Url};

use super::address::{Net, is_public, literal};

/// Where a guarded client may go. What it says holds for every redirect as well.
///
/// ```yaml
/// outgoing:
///   allow_http: false
///   ports: [443]
///   denied_hosts: ["*.example.net"]
///   private_hosts: [wiki.internal]
/// ```
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Policy {
    /// Also `http:`, not only `https:`.
    pub allow_http: bool,
    /// The ports that may be called. Default: 80 and 443.
    pub ports: Vec<u16>,
    /// The only hosts that may be called: `example.com`, or `*.example.com` for all below it.
    /// Default: all.
    pub allowed_hosts: Option<Vec<HostPattern>>,
    /// Hosts that may not be called, even if they are allowed above.
    pub denied_hosts: Vec<HostPattern>,
    /// Hosts that may be called although their addresses are not of the public internet.
    pub private_hosts: Vec<HostPattern>,
    /// Networks that may be called although they are not of the public internet.
    pub private_networks: Vec<Net>,
}

impl Default for Policy {
    fn default() -> Policy {
        Policy {
            allow_http: false,
            ports: vec![80, 443],
            allowed_hosts: None,
            denied_hosts: Vec::new(),
            private_hosts: Vec::new(),
            private_networks: Vec::new(),
        }
    }
}

/// A policy forbids a request. Says so to whoever wanted it, and nothing of what names resolve to.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{0}")]
pub struct Refused(pub String);

impl Policy {
    /// Whether a URL may be called, as far as it can be said without looking its host up.
    ///
    /// # Errors
    /// Why it may not.
    pub fn check_url(&self, url: &Url) -> Result<(), Refused> {
        let refuse = |message: String| Err(Refused(message));
        match url.scheme() {
            "https" => {}
            "http" if self.allow_http => {}
            "http" => return refuse("http: is not allowed, https: is".to_owned()),
            scheme => return refuse(format!("{scheme}: is not allowed")),
        }
        // `https://example.com@10.0.0.1/` is made to be misread, and credentials do not belong there.
        if !url.username().is_empty() || url.password().is_some() {
            return refuse("a user name or password in the URL is not allowed".to_owned());
        }
        let Some(host) = url.host_str().map(bare) else {
            return refuse("the URL has no host".to_owned());
        };
        let matches = |patterns: &[HostPattern]| patterns.iter().any(|one| one.matches(host));
        let is_allowed = self.allowed_hosts.as_deref().is_none_or(matches);
        if !is_allowed || matches(&self.denied_hosts) {
            return refuse(format!("the host {host} is not allowed"));
        }
        let port = url.port_or_known_default().unwrap_or_default();
        if !self.ports.contains(&port) {
            return refuse(format!("the port {port} is not allowed"));
        }
        // A resolver never sees a host that is an address.
        match literal(host) {
            Some(address) => self.check_addresses(host, &[address]),
            None => Ok(()),
        }
    }

    /// Whether all addresses of a host may be connected to. One that may not spoils the others: a
    /// name that has both is made to be misused.
    pub(super) fn check_addresses(&self, host: &str, addresses: &[IpAddr]) -> Result<(), Refused> {
        let host = bare(host);
        let may_be_private = self.private_hosts.iter().any(|pattern| pattern.matches(host));
        let is_allowed = |address: &IpAddr| {
            may_be_private
                || is_public(*address)
                || self.private_networks.iter().any(|net| net.contains(*address))
        };
        if addresses.iter().all(is_allowed) {
            return Ok(());
        }
        Err(Refused(format!("the host {host} is not on the public internet")))
    }
}

/// A host without the dot that names may end with.
fn bare(host: &str) -> &str {
    host.strip_suffix('.').unwrap_or(host)
}

/// A host, or all hosts below a domain: `*.example.com`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct HostPattern {
    /// As URLs have it: lower case, punycode, addresses in their usual form.
    host: String,
    is_suffix: bool,
}

impl HostPattern {
    /// Whether it means a host as a URL has it.
    pub fn matches(&self, host: &str) -> bool {
        match bare(host).strip_suffix(&self.host) {
            Some("") => !self.is_suffix,
            Some(below) => self.is_suffix && below.ends_with('.'),
            None => false,
        }
    }
}

/// A text is no pattern of hosts.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("`{0}` is neither a host nor a pattern such as *.example.com")]
pub struct NotAHost(String);

impl TryFrom<String> for HostPattern {
    type Error = NotAHost;

    fn try_from(text: String) -> Result<HostPattern, NotAHost> {
        let (host, is_suffix) = match text.trim().strip_prefix("*.") {
            Some(host) => (host, true),
            None => (text.trim(), false),
        };
        match Host::parse(bare(host)) {
            Ok(Host::Domain(host)) if !host.contains('*') => Ok(HostPattern { host, is_suffix }),
            Ok(host @ (Host::Ipv4(_) | Host::Ipv6(_))) if !is_suffix => {
                Ok(HostPattern { host: host.to_string(), is_suffix })
            }
            _ => Err(NotAHost(text)),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn policy(settings: serde_json::Value) -> Policy {
        serde_json::from_value(settings).unwrap()
    }

    fn check(policy: &Policy, url: &str, expect: Result<(), &str>) {
        let got = policy.check_url(&Url::parse(url).unwrap());
        match expect {
            Ok(()) => assert_eq!(got, Ok(()), "{url}"),
            Err(part) => assert!(got.as_ref().unwrap_err().0.contains(part), "{url}: {got:?}"),
        }
    }

    #[test]
    fn by_default_only_https_to_the_public_internet() {
        let policy = Policy::default();
        check(&policy, "https://example.com/", Ok(()));
        check(&policy, "https://example.com:80/", Ok(()));
        check(&policy, "https://8.8.8.8/", Ok(()));
        check(&policy, "https://[2606:4700::1111]/", Ok(()));
        check(&policy, "http://example.com/", Err("https: is"));
        check(&policy, "ftp://example.com/", Err("ftp: is not allowed"));
        check(&policy, "file:///etc/passwd", Err("file: is not allowed"));
        check(&policy, "gopher://example.com/", Err("gopher: is not allowed"));
        check(&policy, "data:text/plain,hello", Err("data: is not allowed"));
        for port in [1, 22, 25, 3306, 5432, 6379, 8080, 11211] {
            check(&policy, &format!("https://example.com:{port}/"), Err("port"));
        }
        check(&policy, "https://u@example.com/", Err("user name"));
        check(&policy, "https://:p@example.com/", Err("user name"));
        check(&policy, "https://example.com@8.8.8.8/", Err("user name"));
    }

    #[test]
    fn hosts_are_allowed_and_denied() {
        let policy = policy(json!({
            "allowed_hosts": ["example.com", "*.example.com", "Bücher.example", "2130706433"],
            "denied_hosts": ["evil.example.com", "*.evil.example.com"],
        }));
        check(&policy, "https://example.com/", Ok(()));
        check(&policy, "https://EXAMPLE.com./", Ok(()));
        check(&policy, "https://a.b.example.com/", Ok(()));
        check(&policy, "https://xn--bcher-kva.example/", Ok(()));
        check(&policy, "https://bücher.example/", Ok(()));
        check(&policy, "https://notexample.com/", Err("not allowed"));
        check(&policy, "https://example.com.other.net/", Err("not allowed"));
        check(&policy, "https://evil.example.com/", Err("not allowed"));
        check(&policy, "https://evil.example.com./", Err("not allowed"));
        check(&policy, "https://%65vil.example.com/", Err("not allowed"));
        check(&policy, "https://x.evil.example.com/", Err("not allowed"));
        // Allowed by name is not allowed to be private.
        check(&policy, "https://127.1/", Err("public internet"));
    }

    #[test]
    fn private_addresses_can_be_allowed() {
        let policy = policy(json!({
            "private_hosts": ["wiki.internal", "10.9.9.9"], "private_networks": ["10.1.0.0/16", "::1"],
        }));
        let addresses = |texts: &[&str]| -> Vec<IpAddr> {
            texts.iter().map(|text| text.parse().unwrap()).collect()
        };
        let check_all =
            |host: &str, texts: &[&str]| policy.check_addresses(host, &addresses(texts));
        assert_eq!(check_all("wiki.internal", &["10.2.0.1", "127.0.0.1"]), Ok(()));
        assert_eq!(check_all("wiki.internal.", &["10.2.0.1"]), Ok(()));
        assert_eq!(check_all("other.internal", &["10.1.0.1", "8.8.8.8", "::1"]), Ok(()));
        assert!(check_all("other.internal", &["10.2.0.1"]).is_err());
        assert!(check_all("other.internal", &["8.8.8.8", "10.2.0.1"]).is_err());
        check(&policy, "https://10.9.9.9/", Ok(()));
        check(&policy, "https://10.9.9.8/", Err("public internet"));
        check(&policy, "https://[::1]/", Ok(()));
    }

    #[test]
    fn mistakes_in_a_config_are_told() {
        let wrong = |settings| serde_json::from_value::<Policy>(settings).unwrap_err().to_string();
        assert!(wrong(json!({"denied_hosts": ["*.*.com"]})).contains("`*.*.com`"));
        assert!(wrong(json!({"denied_hosts": ["https://x.com"]})).contains("neither a host"));
        assert!(wrong(json!({"denied_hosts": ["*.10.0.0.1"]})).contains("neither a host"));
        assert!(wrong(json!({"private_networks": ["wiki"]})).contains("10.1.0.0/16"));
        assert!(wrong(json!({"alow_http": true})).contains("alow_http"));
    }
}
