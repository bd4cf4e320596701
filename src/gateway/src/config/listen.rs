//! Where clients connect.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

/// The port LiteLLM's proxy has.
const PORT: u16 = 4000;

/// An address to listen on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Address(pub(crate) SocketAddr);

impl Address {
    /// What a text must be to be one.
    pub(crate) const WANTED: &str =
        "an address and port, such as 127.0.0.1:4000, 0.0.0.0:4000 or [::]:4000";
}

impl Default for Address {
    fn default() -> Address {
        Address(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), PORT))
    }
}

impl FromStr for Address {
    type Err = &'static str;

    /// Reads `127.0.0.1:4000`, `localhost:4000`, `*:4000`, an address alone, or a port alone, which
    /// is one of this machine only.
    fn from_str(text: &str) -> Result<Address, &'static str> {
        let text = text.trim();
        if let Ok(address) = text.parse() {
            return Ok(Address(address));
        }
        if let Ok(ip) = text.parse::<IpAddr>() {
            return Ok(Address(SocketAddr::new(ip, PORT)));
        }
        let (host, port) = text.rsplit_once(':').unwrap_or(("localhost", text));
        let ip = match host {
            "localhost" => Ipv4Addr::LOCALHOST,
            "*" => Ipv4Addr::UNSPECIFIED,
            _ => return Err(Address::WANTED),
        };
        let port = port.parse().map_err(|_| Address::WANTED)?;
        Ok(Address(SocketAddr::new(ip.into(), port)))
    }
}

/// Where clients connect, and by TLS or not.
#[derive(Clone, Debug, Default)]
pub(crate) struct Listen {
    /// The address.
    pub(crate) address: Address,
    /// The files for TLS; without them, plain HTTP.
    pub(crate) tls: Option<TlsFiles>,
}

/// The files of a TLS server.
#[derive(Clone, Debug)]
pub(crate) struct TlsFiles {
    /// The certificate and its chain, PEM.
    pub(crate) cert: PathBuf,
    /// Its private key, PEM.
    pub(crate) key: PathBuf,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_as_people_write_them() {
        for (text, expect) in [
            ("127.0.0.1:4000", Some("127.0.0.1:4000")),
            ("0.0.0.0:80", Some("0.0.0.0:80")),
            ("[::1]:0", Some("[::1]:0")),
            ("localhost:8080", Some("127.0.0.1:8080")),
            ("*:8080", Some("0.0.0.0:8080")),
            ("8080", Some("127.0.0.1:8080")),
            ("0.0.0.0", Some("0.0.0.0:4000")),
            ("::", Some("[::]:4000")),
            ("example.com:80", None),
            ("127.0.0.1:99999", None),
            ("", None),
        ] {
            let address = text.parse::<Address>().ok().map(|address| address.0.to_string());
            assert_eq!(address.as_deref(), expect, "{text}");
        }
    }
}
