//! Trust anchors: what DNSSEC validation starts from, read from zone-file lines.

use std::fs;
use std::path::Path;

use hickory_proto::dnssec::rdata::{DNSKEY, DNSSECRData, DS};
use hickory_proto::dnssec::{TrustAnchors, Verifier};
use hickory_proto::rr::{LowerName, Name, RData};
use hickory_proto::serialize::txt::Parser;
use hickory_proto::serialize::txt::trust_anchor::{self, Entry};

use crate::config::DnsConfigError;

/// The configured anchors. DS lines need one look-up, to learn the key that they stand for.
#[derive(Clone, Default)]
pub(crate) struct TrustConfig {
    keys: Vec<(Name, DNSKEY)>,
    pub(crate) digests: Vec<(Name, DS)>,
    iana: bool,
}

impl TrustConfig {
    /// The IANA root keys, as shipped with hickory.
    pub(crate) fn iana() -> Self {
        Self { iana: true, ..Self::default() }
    }

    /// Reads a trust anchor file.
    pub(crate) fn load(path: &Path) -> Result<Self, DnsConfigError> {
        let text = fs::read_to_string(path)
            .map_err(|source| DnsConfigError::Read { path: path.to_owned(), source })?;
        Self::parse(&text).map_err(|detail| DnsConfigError::TrustAnchor { path: path.to_owned(), detail })
    }

    /// Reads zone-file text: DNSKEY and DS records only, at least one.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let mut config = Self::default();
        for line in logical_lines(text) {
            config.add(&line).map_err(|error| format!("{error} in line {line:?}"))?;
        }
        if config.keys.is_empty() && config.digests.is_empty() {
            return Err("no DNSKEY or DS record".into());
        }
        Ok(config)
    }

    /// Adds one record. hickory reads DNSKEY and DS lines with two different parsers.
    fn add(&mut self, line: &str) -> Result<(), String> {
        let is = |kind: &str| line.split_whitespace().any(|word| word.eq_ignore_ascii_case(kind));
        if is("DNSKEY") {
            let entries = trust_anchor::Parser::new(format!("{line}\n")).parse();
            for entry in entries.map_err(|error| error.to_string())? {
                let Entry::DNSKEY(record) = entry else {
                    return Err("not a DNSKEY record".into());
                };
                let key = record.data();
                if !key.zone_key() || key.revoke() {
                    return Err("a key that is no zone key, or revoked".into());
                }
                key.key().map_err(|error| error.to_string())?;
                self.keys.push((record.name().clone(), key.clone()));
            }
            return Ok(());
        }
        if !is("DS") {
            return Err("neither a DNSKEY nor a DS record".into());
        }
        // A record without a TTL takes the file's default.
        let (_, sets) = Parser::new(format!("$TTL 3600\n{line}\n"), None, Some(Name::root()))
            .parse()
            .map_err(|error| error.to_string())?;
        for record in sets.values().flat_map(|set| set.records_without_rrsigs()) {
            if let RData::DNSSEC(DNSSECRData::DS(digest)) = &record.data {
                self.digests.push((record.name.clone(), digest.clone()));
            }
        }
        Ok(())
    }

    /// The anchors for hickory, given the DNSKEYs that were found for the DS lines.
    ///
    /// # Errors
    /// A zone of which no DNSKEY matches its DS line: somebody lies, or the line is old.
    pub(crate) fn anchors(&self, found: &[(Name, DNSKEY)]) -> Result<TrustAnchors, String> {
        let mut anchors = match self.iana {
            true => TrustAnchors::default(),
            false => TrustAnchors::empty(),
        };
        let mut insert = |name: &Name, key: &DNSKEY| -> Result<(), String> {
            let public = key.key().map_err(|error| format!("{name} DNSKEY: {error}"))?;
            anchors.insert_with_name(&*public, LowerName::from(name));
            Ok(())
        };
        for (name, key) in &self.keys {
            insert(name, key)?;
        }
        for (name, _) in &self.digests {
            let mut matched = false;
            for (owner, key) in found.iter().filter(|(owner, _)| owner == name) {
                let covered = self
                    .digests
                    .iter()
                    .any(|(zone, ds)| zone == name && ds.covers(owner, key).unwrap_or(false));
                if covered {
                    insert(owner, key)?;
                    matched = true;
                }
            }
            if !matched {
                return Err(format!("no DNSKEY of {name} matches its DS trust anchor"));
            }
        }
        Ok(anchors)
    }
}

/// The lines of a zone file without comments, those in parentheses joined.
fn logical_lines(text: &str) -> Vec<String> {
    let mut lines = Vec::new();
    let (mut current, mut depth) = (String::new(), 0i32);
    for line in text.lines() {
        let line = line.split(';').next().unwrap_or_default();
        depth += line.matches('(').count() as i32 - line.matches(')').count() as i32;
        current.push_str(&line.replace(['(', ')'], " "));
        if depth <= 0 {
            lines.push(std::mem::take(&mut current));
            depth = 0;
        } else {
            current.push(' ');
        }
    }
    lines.push(current);
    lines.retain(|line| !line.trim().is_empty());
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOT_DS: &str =
        ". IN DS 20326 8 2 E06D44B80B8F1D39A95C0B0D7C65D08458E880409BBC683457104237C7F8EC8D";
    const KEY: &str = "example. 3600 IN DNSKEY 257 3 15 l02Woi0iS8Aa25FQkUd9RMzZHJpBoRQwAQEX1SxZJA4=";

    #[test]
    fn reads_dnskey_and_ds_lines_for_any_zone() {
        let config = TrustConfig::parse(&format!("; c\n{ROOT_DS}\n{KEY}\n")).unwrap();
        assert_eq!((config.keys.len(), config.digests.len()), (1, 1));
        assert_eq!(config.keys[0].0, Name::from_ascii("example.").unwrap());
        let wrapped = KEY.replace("257 3 15 ", "257 3 15 ( ; c\n  ") + " )";
        assert_eq!(TrustConfig::parse(&wrapped).unwrap().keys.len(), 1);
    }

    #[test]
    fn refuses_a_file_without_keys_and_one_with_other_records() {
        assert!(TrustConfig::parse("; nothing\n").is_err());
        assert!(TrustConfig::parse("example. IN A 192.0.2.1\n").is_err());
        assert!(TrustConfig::parse("example. IN DNSKEY what\n").is_err());
    }

    #[test]
    fn refuses_a_zone_whose_keys_match_no_ds_line() {
        let config = TrustConfig::parse(ROOT_DS).unwrap();
        let stranger = TrustConfig::parse(&KEY.replace("example.", ".")).unwrap().keys;
        assert!(config.anchors(&stranger).is_err());
        assert!(config.anchors(&[]).is_err());
    }
}
