//! No URL that a policy lets pass has a host that a lenient reader would take for this machine or
//! the network it is in.

#![no_main]

use std::net::{IpAddr, Ipv4Addr};

use libfuzzer_sys::fuzz_target;
use tollway_agent::outgoing::{HostPattern, Net, Policy};
use url::Url;

fuzz_target!(|text: &str| {
    if let Ok(net) = text.parse::<Net>() {
        assert_eq!(net.to_string().parse(), Ok(net));
    }
    let pattern = HostPattern::try_from(text.to_owned());
    // Most texts are no URL by themselves.
    for text in [text.to_owned(), format!("http://{text}/"), format!("https://x.example{text}")] {
        let Ok(url) = Url::parse(&text) else { continue };
        let policy = Policy { allow_http: true, ..Policy::default() };
        if policy.check_url(&url).is_err() {
            continue;
        }
        assert!(matches!(url.scheme(), "http" | "https"));
        assert!(matches!(url.port_or_known_default(), Some(80 | 443)));
        assert!(url.username().is_empty() && url.password().is_none());
        let host = url.host_str().expect("a URL that may be called has a host");
        assert!(!host.contains(['@', '/', '\\', '%', '?', '#', ' ', '\0']), "{host}");
        if let Some(address) = lenient(host) {
            let is_special = match address {
                IpAddr::V4(v4) => is_special(v4),
                IpAddr::V6(v6) => {
                    v6.is_loopback() || v6.is_unspecified() || v6.is_unique_local()
                        || v6.is_unicast_link_local() || v6.is_multicast()
                        || v6.to_ipv4().is_some_and(is_special)
                }
            };
            assert!(!is_special, "{text}: {address}");
        }
        // The whole of it, written again, is the same to everybody who reads it.
        assert_eq!(Url::parse(url.as_str()).as_ref(), Ok(&url));
        if let Ok(pattern) = &pattern
            && pattern.matches(host)
        {
            let policy = Policy { denied_hosts: vec![pattern.clone()], ..policy };
            assert!(policy.check_url(&url).is_err());
        }
    }
});

fn is_special(address: Ipv4Addr) -> bool {
    address.is_loopback()
        || address.is_private()
        || address.is_link_local()
        || address.is_unspecified()
        || address.is_multicast()
        || address.is_broadcast()
        || address.is_documentation()
}

/// Reads an address as `inet_aton` does: one to four numbers, decimal, octal or hexadecimal.
fn lenient(host: &str) -> Option<IpAddr> {
    let host = host.trim_end_matches('.').trim_start_matches('[').trim_end_matches(']');
    if let Ok(address) = host.parse() {
        return Some(address);
    }
    let numbers: Option<Vec<u64>> = host.split('.').map(number).collect();
    let numbers = numbers.filter(|numbers| numbers.len() <= 4)?;
    let (last, first) = numbers.split_last()?;
    let mut bits = *last & 0xffff_ffff;
    for (at, number) in first.iter().enumerate() {
        bits |= (number & 0xff) << (24 - 8 * at);
    }
    Some(IpAddr::V4(Ipv4Addr::from_bits(u32::try_from(bits).ok()?)))
}

fn number(text: &str) -> Option<u64> {
    match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some("") => Some(0),
        Some(hex) => u64::from_str_radix(hex, 16).ok(),
        None if text.len() > 1 && text.starts_with('0') => u64::from_str_radix(text, 8).ok(),
        None => text.parse().ok(),
    }
}
