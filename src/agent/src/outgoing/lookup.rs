//! From names to addresses, once for each connection, with the check in between.

use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};

use super::Rule;

/// What becomes of a look-up.
pub type LookingUp<'a> = Pin<Box<dyn Future<Output = io::Result<Vec<IpAddr>>> + Send + 'a>>;

/// Finds the addresses of a name.
pub trait Lookup: Send + Sync {
    /// Asks for them.
    fn lookup<'a>(&'a self, host: &'a str) -> LookingUp<'a>;
}

/// Asks as the system is configured to.
pub struct SystemLookup;

impl Lookup for SystemLookup {
    fn lookup<'a>(&'a self, host: &'a str) -> LookingUp<'a> {
        Box::pin(async move {
            let addresses = tokio::net::lookup_host((host, 0)).await?;
            Ok(addresses.map(|address| address.ip()).collect())
        })
    }
}

/// Looks names up for the HTTP client, which connects to what comes out of this and asks nobody
/// else. A name that changes its mind later changes nothing.
pub(super) struct Guard {
    pub(super) lookup: Arc<dyn Lookup>,
    pub(super) rule: Arc<Rule>,
}

impl Resolve for Guard {
    fn resolve(&self, name: Name) -> Resolving {
        let (lookup, rule) = (self.lookup.clone(), self.rule.clone());
        Box::pin(async move {
            let addresses = lookup.lookup(name.as_str()).await?;
            rule.check_addresses(name.as_str(), &addresses)?;
            // The port 0 stands for the URL's.
            let addresses = addresses.into_iter().map(|address| SocketAddr::new(address, 0));
            Ok(Box::new(addresses) as Addrs)
        })
    }
}
