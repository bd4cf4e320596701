//! What operators say of MCP servers.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use http::HeaderMap;
use secrecy::{ExposeSecret, SecretString};
use url::Url;

use crate::secrets::Secrets;
use crate::tool::Risk;

/// All servers, by name.
pub type ServersSettings = BTreeMap<String, ServerSettings>;

/// How long connecting, listing and calling may take where nothing is said.
pub const TIMEOUT: Duration = Duration::from_secs(60);

/// One server.
#[derive(Clone, Debug, PartialEq)]
pub struct ServerSettings {
    /// How it is reached.
    pub transport: Transport,
    /// What it is for, for people.
    pub description: Option<String>,
    /// The tools that are taken, by the server's own names; none means all.
    pub allowed_tools: BTreeSet<String>,
    /// The tools that are not.
    pub disallowed_tools: BTreeSet<String>,
    /// How long connecting, listing and calling may take.
    pub timeout: Duration,
    /// What its tools do to the world, whatever it says itself.
    pub risk: BTreeMap<String, Risk>,
}

impl ServerSettings {
    /// A server of which nothing more is said.
    pub fn new(transport: Transport) -> ServerSettings {
        ServerSettings {
            transport,
            description: None,
            allowed_tools: BTreeSet::new(),
            disallowed_tools: BTreeSet::new(),
            timeout: TIMEOUT,
            risk: BTreeMap::new(),
        }
    }

    /// What it is shown of us, and must not be told to others.
    pub(crate) fn secrets(&self) -> Secrets {
        let mut secrets = Secrets::default();
        match &self.transport {
            Transport::Stdio(program) => {
                for (name, value) in &program.env {
                    secrets.add_named(name, value.expose());
                }
            }
            Transport::Http(endpoint) | Transport::Sse(endpoint) => {
                secrets.add_headers(&endpoint.headers);
                secrets.add_url(&endpoint.url);
            }
        }
        secrets
    }

    /// Whether one of its tools is taken.
    pub(crate) fn takes(&self, tool: &str) -> bool {
        let is_allowed = self.allowed_tools.is_empty() || self.allowed_tools.contains(tool);
        is_allowed && !self.disallowed_tools.contains(tool)
    }
}

/// How a server is reached.
#[derive(Clone, Debug, PartialEq)]
pub enum Transport {
    /// A process of our own, by its standard input and output.
    Stdio(Program),
    /// Streamable HTTP.
    Http(Endpoint),
    /// HTTP as it was in the protocol's first version: one stream of events, and requests beside it.
    Sse(Endpoint),
}

/// A process.
#[derive(Clone, Debug, PartialEq)]
pub struct Program {
    /// What is run.
    pub command: String,
    /// With what.
    pub args: Vec<String>,
    /// Its environment, beside `PATH` and `HOME`.
    pub env: BTreeMap<String, EnvValue>,
}

/// Where a server listens.
#[derive(Clone, PartialEq)]
pub struct Endpoint {
    /// Where. It may hold a secret.
    pub url: Url,
    /// What is said with each request.
    pub headers: HeaderMap,
}

impl Endpoint {
    /// An endpoint. None where the URL is none of HTTP.
    pub fn new(url: &str, headers: HeaderMap) -> Option<Endpoint> {
        let url = Url::parse(url).ok()?;
        let is_http = matches!(url.scheme(), "http" | "https") && url.has_host();
        is_http.then_some(Endpoint { url, headers })
    }
}

/// Without what may be a secret.
impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoint").field("host", &self.url.host_str()).finish_non_exhaustive()
    }
}

/// A variable's value, which may be a secret.
#[derive(Clone)]
pub struct EnvValue(SecretString);

impl EnvValue {
    /// The value.
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }
}

impl From<String> for EnvValue {
    fn from(value: String) -> EnvValue {
        EnvValue(value.into())
    }
}

impl PartialEq for EnvValue {
    fn eq(&self, other: &EnvValue) -> bool {
        self.expose() == other.expose()
    }
}

impl fmt::Debug for EnvValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}
