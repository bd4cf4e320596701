//! Where a provider is called: an `api_base` taken apart.

use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;

use http::Uri;

/// The URL below which a provider's paths are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Base {
    /// Whether it is `https`.
    pub(crate) tls: bool,
    /// A name or an address, lower case, IPv6 without brackets.
    pub(crate) host: String,
    /// The port, also where the URL leaves it out.
    pub(crate) port: u16,
    /// The path in front of the provider's own, without a slash at its end; often empty.
    pub(crate) path: String,
}

impl Base {
    /// What the `host` header says: the port only where it is not the scheme's own.
    pub(crate) fn authority(&self) -> String {
        let host = match self.host.contains(':') {
            true => format!("[{}]", self.host),
            false => self.host.clone(),
        };
        match (self.tls, self.port) {
            (true, 443) | (false, 80) => host,
            (_, port) => format!("{host}:{port}"),
        }
    }
}

impl fmt::Display for Base {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "https" } else { "http" };
        write!(f, "{scheme}://{}{}", self.authority(), self.path)
    }
}

/// Why a text is no base URL. It does not quote the text, which may hold a password.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BaseError {
    /// Not a URL of HTTP.
    #[error("must be a URL that begins with http:// or https://")]
    Scheme,
    /// `user:password@` in it.
    #[error("must not hold a user or password; put the secret into api_key or a header")]
    UserInfo,
    /// `?` or `#` in it.
    #[error("must not hold a query or fragment (`?` or `#`)")]
    Query,
    /// No host, or one that cannot be.
    #[error("must be a URL with a host, such as https://api.example.com/v1")]
    Malformed,
}

impl FromStr for Base {
    type Err = BaseError;

    fn from_str(text: &str) -> Result<Base, BaseError> {
        let text = text.trim();
        let (tls, rest) = match text.split_once("://") {
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("https") => (true, rest),
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => (false, rest),
            _ => return Err(BaseError::Scheme),
        };
        if rest.contains(['?', '#']) {
            return Err(BaseError::Query);
        }
        let authority = rest.split('/').next().unwrap_or("");
        if authority.contains('@') {
            return Err(BaseError::UserInfo);
        }
        let uri: Uri = text.parse().map_err(|_| BaseError::Malformed)?;
        let host = uri.host().filter(|host| !host.is_empty()).ok_or(BaseError::Malformed)?;
        let host = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
            Some(host) => host.parse::<Ipv6Addr>().map_err(|_| BaseError::Malformed)?.to_string(),
            None if host.contains(['[', ']', ':']) => return Err(BaseError::Malformed),
            None => host.to_ascii_lowercase(),
        };
        let port = match authority.rsplit_once(':') {
            // What `Uri` does not take for a port may still stand there: `:0`, `:99999`.
            Some((_, port)) if !port.ends_with(']') => {
                port.parse().ok().filter(|port| *port > 0).ok_or(BaseError::Malformed)?
            }
            _ if tls => 443,
            _ => 80,
        };
        let path = uri.path().trim_end_matches('/').to_owned();
        Ok(Base { tls, host, port, path })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(text: &str, expect: Result<(&str, &str), BaseError>) {
        let base = text.parse::<Base>();
        let shown = base.as_ref().map(|base| (base.to_string(), base.authority()));
        let expect = expect.map(|(url, authority)| (url.to_owned(), authority.to_owned()));
        assert_eq!(shown.map_err(|error| *error), expect, "{text}");
    }

    #[test]
    fn a_base_is_taken_apart() {
        let base: Base = "HTTPS://API.example.com/v1/".parse().unwrap();
        let expect =
            Base { tls: true, host: "api.example.com".into(), port: 443, path: "/v1".into() };
        assert_eq!(base, expect);
    }

    #[test]
    fn the_port_is_shown_where_it_is_not_the_schemes() {
        check("http://localhost:8080", Ok(("http://localhost:8080", "localhost:8080")));
        check("http://localhost:80/", Ok(("http://localhost", "localhost")));
        check("https://localhost:80", Ok(("https://localhost:80", "localhost:80")));
        check("http://[::1]:9000/v1", Ok(("http://[::1]:9000/v1", "[::1]:9000")));
        check("http://[::1]", Ok(("http://[::1]", "[::1]")));
    }

    #[test]
    fn what_is_no_base_is_refused() {
        check("api.openai.com/v1", Err(BaseError::Scheme));
        check("ftp://x", Err(BaseError::Scheme));
        check("https://user:pw@x/", Err(BaseError::UserInfo));
        check("https://x/?a=b", Err(BaseError::Query));
        check("https://x/#a", Err(BaseError::Query));
        check("https://", Err(BaseError::Malformed));
        check("https:///v1", Err(BaseError::Malformed));
        check("https://x:0/", Err(BaseError::Malformed));
        check("https://x:99999/", Err(BaseError::Malformed));
        check("http://[]", Err(BaseError::Malformed));
        check("http://[::1", Err(BaseError::Malformed));
        check("https://x y/", Err(BaseError::Malformed));
        check("https://x/\r\nhost: y", Err(BaseError::Malformed));
    }

    proptest! {
        #[test]
        fn what_is_shown_is_read_back(text in "https?://[a-z\\[\\]:.@]{0,8}(:[0-9]{0,5})?(/[a-z%]{0,3}){0,2}") {
            if let Ok(base) = text.parse::<Base>() {
                prop_assert_eq!(base.to_string().parse(), Ok(base));
            }
        }
    }
}
