//! The `[dns]` section of every program's configuration file.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::Deserialize;

/// Where names are looked up, and what validation starts from.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DnsConfig {
    /// DNS servers to ask, `address:port`; they must pass DNSSEC records on. Empty: those of
    /// `/etc/resolv.conf`.
    pub servers: Vec<SocketAddr>,
    /// A file with DNSKEY or DS lines in zone-file form, for the root or any zone. Absent: the
    /// IANA root keys. A zone other than the root needs a line for each of its DNSKEYs, or a DS.
    pub trust_anchor: Option<PathBuf>,
}

/// A `[dns]` section that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DnsConfigError {
    /// The trust anchor file is missing or unreadable.
    #[error("cannot read trust anchor file {path}: {source}")]
    Read {
        /// As configured.
        path: PathBuf,
        /// From the operating system.
        source: std::io::Error,
    },
    /// The trust anchor file does not parse, or holds no key.
    #[error(
        "trust anchor file {path}: {detail} (expected DNSKEY or DS records in zone-file form, \
         e.g. \"example. IN DNSKEY 257 3 15 <base64>\")"
    )]
    TrustAnchor {
        /// As configured.
        path: PathBuf,
        /// What is wrong.
        detail: String,
    },
    /// Neither configured nor in the system's file.
    #[error("no DNS server: set [dns] servers = [\"192.0.2.1:53\"], or a nameserver in /etc/resolv.conf")]
    NoServer,
}

/// The `nameserver` lines of a resolv.conf, port 53.
pub(crate) fn resolv_conf_servers(text: &str) -> Vec<SocketAddr> {
    text.lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            (words.next() == Some("nameserver")).then(|| words.next())?
        })
        .filter_map(|ip| ip.parse().ok())
        .map(|ip| SocketAddr::new(ip, 53))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_nameserver_lines_of_resolv_conf() {
        let text = "# c\nsearch x\nnameserver 192.0.2.1\nnameserver 2001:db8::1\nnameserver bad\n";
        assert_eq!(
            resolv_conf_servers(text),
            ["192.0.2.1:53".parse().unwrap(), "[2001:db8::1]:53".parse::<SocketAddr>().unwrap()]
        );
    }
}
