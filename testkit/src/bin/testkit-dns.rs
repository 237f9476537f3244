//! `testkit-dns`: serves DNSSEC-signed zones from a TOML file, for the demo and for interop runs.
//!
//! Writes the trust anchor file, prints one JSON line when it answers, and reads its zones again on
//! SIGHUP (the zones' keys stay). With `--export DIR` it writes the signed zones as zone files, for
//! another server to serve, and keeps running.

use std::collections::HashSet;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use ahoy_testkit::dns::{Data, Signing, Zone, ZoneRecord, ZoneServer};
use anyhow::{Context, Result, bail};
use clap::Parser;
use serde::Deserialize;
use tokio::signal::unix::{SignalKind, signal};

/// Serves signed zones.
#[derive(Parser)]
struct Arguments {
    /// The TOML file with the zones.
    #[arg(long)]
    config: PathBuf,
    /// Also write every zone, signed, to DIR/<name>.zone (again on each SIGHUP).
    #[arg(long, value_name = "DIR")]
    export: Option<PathBuf>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    /// UDP and TCP address.
    listen: SocketAddr,
    /// The zone above all others, whose key is the trust anchor.
    #[serde(default = "default_parent")]
    parent: String,
    /// Where the trust anchor file is written; relative to this file's folder.
    trust_anchor: PathBuf,
    #[serde(default)]
    zone: Vec<ZoneConfig>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ZoneConfig {
    name: String,
    #[serde(default)]
    signing: Signing,
    #[serde(default)]
    record: Vec<RecordConfig>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RecordConfig {
    /// Absolute, e.g. `_ahoy.home.example`.
    owner: String,
    /// TXT, CNAME, A or AAAA.
    #[serde(rename = "type")]
    kind: String,
    value: String,
    #[serde(default = "default_ttl")]
    ttl: u32,
}

fn default_parent() -> String {
    "example".into()
}

fn default_ttl() -> u32 {
    300
}

impl RecordConfig {
    fn to_record(&self) -> Result<ZoneRecord> {
        let data = match self.kind.to_ascii_uppercase().as_str() {
            "TXT" => Data::Text(self.value.clone()),
            "CNAME" => Data::Alias(self.value.clone()),
            "A" | "AAAA" => Data::Address(self.value.parse().with_context(|| {
                format!("{} {}: {:?} is not an IP address", self.owner, self.kind, self.value)
            })?),
            other => bail!("{}: record type {other} is not one of TXT, CNAME, A, AAAA", self.owner),
        };
        Ok(ZoneRecord { owner: self.owner.clone(), ttl: self.ttl, data })
    }
}

fn load(path: &Path) -> Result<(Config, Vec<Zone>)> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let config: Config = toml::from_str(&text).with_context(|| format!("{}", path.display()))?;
    let mut names = HashSet::new();
    let mut zones = Vec::new();
    for zone in &config.zone {
        if !names.insert(zone.name.clone()) {
            bail!("{}: zone {} stands twice", path.display(), zone.name);
        }
        zones.push(Zone {
            name: zone.name.clone(),
            signing: zone.signing,
            records: zone.record.iter().map(RecordConfig::to_record).collect::<Result<_>>()?,
        });
    }
    Ok((config, zones))
}

/// Takes over the zones and writes what others need of them.
fn publish(server: &ZoneServer, arguments: &Arguments, config: &Config, zones: Vec<Zone>) -> Result<()> {
    server.replace_zones(zones)?;
    let folder = arguments.config.parent().unwrap_or(Path::new("."));
    let anchor = folder.join(&config.trust_anchor);
    fs::write(&anchor, server.trust_anchor()?)
        .with_context(|| format!("cannot write {}", anchor.display()))?;
    if let Some(folder) = &arguments.export {
        fs::create_dir_all(folder)?;
        for (name, text) in server.zone_files()? {
            fs::write(folder.join(format!("{name}.zone")), text)?;
        }
    }
    Ok(())
}

#[tokio::main]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let (config, zones) = load(&arguments.config)?;
    let mut reload = signal(SignalKind::hangup())?;
    let mut stop = signal(SignalKind::terminate())?;
    let server = ZoneServer::start(config.listen, &config.parent).await?;
    publish(&server, &arguments, &config, zones)?;
    println!("{}", serde_json::json!({ "ready": true, "address": server.address().to_string() }));
    loop {
        tokio::select! {
            _ = reload.recv() => match load(&arguments.config) {
                Ok((config, zones)) => match publish(&server, &arguments, &config, zones) {
                    Ok(()) => println!("{}", serde_json::json!({ "reloaded": true })),
                    Err(error) => eprintln!("testkit-dns: kept the old zones: {error:#}"),
                },
                Err(error) => eprintln!("testkit-dns: kept the old zones: {error:#}"),
            },
            _ = stop.recv() => return Ok(()),
            _ = tokio::signal::ctrl_c() => return Ok(()),
        }
    }
}
