//! `ahoy name`: the key of a name, and the record that publishes it.

use std::path::PathBuf;

use ahoy_proto::anchor::{AnchorDraft, AnchorEndpoint};
use ahoy_proto::name::{Name as DnsName, NamePolicy};
use ahoy_proto::time::Clock;
use ahoy_transport::clock::SystemClock;
use clap::Subcommand;

use super::Failure;
use super::home::load_or_create_key;

/// Arguments of `ahoy name`.
#[derive(Subcommand)]
pub enum Name {
    /// Make the key of a name (mode 0600) and print its public part.
    Keygen {
        /// Where the key goes.
        file: PathBuf,
    },
    /// Print the TXT record to publish at _ahoy.NAME.
    Anchor {
        /// The name.
        name: String,
        /// Its key, as `ahoy name keygen` made it.
        #[arg(long)]
        key: PathBuf,
        /// The homeserver: host, or host:port; may be given up to four times.
        #[arg(long, required = true)]
        endpoint: Vec<String>,
        /// Special-use names that count as names, for tests.
        #[arg(long)]
        allow: Vec<String>,
    },
}

pub fn run(command: Name) -> Result<u8, Failure> {
    match command {
        Name::Keygen { file } => keygen(file),
        Name::Anchor { name, key, endpoint, allow } => {
            let policy = NamePolicy::allowing(allow.iter().map(String::as_str));
            let name = DnsName::parse(&name, &policy)
                .map_err(|error| Failure::Plain(format!("{name:?} is not a name: {error}")))?;
            if !key.exists() {
                let hint = "make it with `ahoy name keygen FILE`";
                return Err(Failure::Plain(format!("there is no key file {}: {hint}", key.display())));
            }
            let key = load_or_create_key(&key)?;
            let endpoints: Result<Vec<_>, _> = endpoint.iter().map(|text| parse_endpoint(text)).collect();
            let draft = AnchorDraft {
                signed_at: SystemClock.now(),
                endpoints: endpoints?,
                capabilities: "mc".to_owned(),
                ..AnchorDraft::default()
            };
            let text = draft.sign(&name, &key).map_err(|error| Failure::Plain(error.to_string()))?;
            println!("{}. 3600 IN TXT \"{text}\"", name.anchor_owner());
            Ok(0)
        }
    }
}

fn keygen(file: PathBuf) -> Result<u8, Failure> {
    if file.exists() {
        let hint = "a key is never overwritten: choose another file";
        return Err(Failure::Plain(format!("{} exists: {hint}", file.display())));
    }
    let key = load_or_create_key(&file)?;
    println!("{}", key.public());
    Ok(0)
}

fn parse_endpoint(text: &str) -> Result<AnchorEndpoint, Failure> {
    let parsed = match text.rsplit_once(':') {
        None => AnchorEndpoint::at(text).ok(),
        Some((host, port)) => port.parse().ok().and_then(|port| AnchorEndpoint::new(host, port, 10, 10).ok()),
    };
    parsed.ok_or_else(|| Failure::Plain(format!("{text:?} is no endpoint: write host or host:port")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_is_a_host_with_or_without_a_port() {
        assert_eq!(parse_endpoint("hs.bank.example").expect("a host").port(), 2469);
        assert_eq!(parse_endpoint("hs.bank.example:443").expect("with port").port(), 443);
        assert!(parse_endpoint("hs.bank.example:x").is_err());
    }

    #[test]
    fn a_key_is_never_overwritten() {
        let dir = tempfile::tempdir().expect("a folder");
        let file = dir.path().join("name.key");
        keygen(file.clone()).expect("made");
        assert!(keygen(file).is_err());
    }
}
