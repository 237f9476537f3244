//! Builds and signs one zone: SOA and NS around the given records, NSEC, RRSIG, and the ways to break it.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use hickory_net::runtime::TokioRuntimeProvider;
use hickory_proto::dnssec::crypto::Ed25519SigningKey;
use hickory_proto::dnssec::rdata::{DNSKEY, DNSSECRData, DS, RRSIG};
use hickory_proto::dnssec::{Algorithm, DigestType, DnssecSigner, SigningKey, TBS};
use hickory_proto::rr::rdata::{A, AAAA, CNAME, NS, SOA, TXT};
use hickory_proto::rr::{DNSClass, LowerName, Name, RData, Record, RecordSet, RecordType, SerialNumber};
use hickory_server::dnssec::NxProofKind;
use hickory_server::store::in_memory::InMemoryZoneHandler;
use hickory_server::zone_handler::{AxfrPolicy, ZoneType};

use super::{Data, Signing, Zone, ZoneRecord};

/// How long signatures are valid: longer than any demo is left running.
const SIGNATURE_LIFE: Duration = Duration::from_secs(90 * 86_400);
/// TTL of SOA, NS, DS, DNSKEY and of denials, seconds.
const ZONE_TTL: u32 = 300;

pub(super) type BuiltZone = InMemoryZoneHandler<TokioRuntimeProvider>;

/// A zone's ed25519 key, for everything in it (a combined signing key).
pub(super) struct ZoneKey(Vec<u8>);

impl ZoneKey {
    pub(super) fn generate() -> Result<Self> {
        let key = Ed25519SigningKey::generate_pkcs8().map_err(|error| anyhow!("zone key: {error}"))?;
        Ok(Self(key.secret_pkcs8_der().to_vec()))
    }

    fn pair(&self) -> Result<Ed25519SigningKey> {
        Ed25519SigningKey::from_pkcs8(&self.0.as_slice().into()).map_err(|error| anyhow!("zone key: {error}"))
    }

    fn dnskey(&self) -> Result<DNSKEY> {
        let public = self.pair()?.to_public_key().map_err(|error| anyhow!("zone key: {error}"))?;
        Ok(DNSKEY::from_key(&public))
    }

    fn signer(&self, zone: &Name) -> Result<DnssecSigner> {
        let (key, pair) = (self.dnskey()?, Box::new(self.pair()?));
        Ok(DnssecSigner::new(key, pair, zone.clone(), SIGNATURE_LIFE))
    }

    fn ds(&self, zone: &Name) -> Result<DS> {
        let key = self.dnskey()?;
        let digest = key.to_digest(zone, DigestType::SHA256)?;
        Ok(DS::new(
            key.calculate_key_tag()?,
            Algorithm::ED25519,
            DigestType::SHA256,
            digest.as_ref().to_vec(),
        ))
    }

    pub(super) fn ds_line(&self, zone: &Name) -> Result<String> {
        Ok(format!("{zone} {ZONE_TTL} IN DS {}\n", self.ds(zone)?))
    }

    pub(super) fn dnskey_line(&self, zone: &Name) -> Result<String> {
        Ok(format!("{zone} {ZONE_TTL} IN DNSKEY {}\n", self.dnskey()?))
    }
}

/// A domain name, absolute.
pub(super) fn parse_name(text: &str) -> Result<Name> {
    let mut name = Name::from_ascii(text).with_context(|| format!("not a domain name: {text:?}"))?;
    name.set_fqdn(true);
    Ok(name)
}

/// A child zone, signed or broken as it asks.
pub(super) fn build_zone(name: &LowerName, zone: &Zone, key: &ZoneKey, serial: u32) -> Result<BuiltZone> {
    let apex = Name::from(name.clone());
    let mut built = bare_zone(&apex, serial)?;
    for record in &zone.records {
        insert(&mut built, to_record(record)?, serial)?;
    }
    if matches!(zone.signing, Signing::Unsigned | Signing::Stripped) {
        return Ok(built);
    }
    sign(&mut built, key.signer(&apex)?)?;
    match zone.signing {
        Signing::Tampered => tamper(&mut built),
        Signing::Expired => expire(&mut built, &key.signer(&apex)?)?,
        Signing::Signed | Signing::Unsigned | Signing::Stripped => {}
    }
    Ok(built)
}

/// The parent: a delegation per child, with a DS where the child has a key.
pub(super) fn build_parent(
    name: &Name,
    key: &ZoneKey,
    delegations: &[(Name, Option<&ZoneKey>)],
    serial: u32,
) -> Result<BuiltZone> {
    let mut built = bare_zone(name, serial)?;
    // The parent's own server: needs no glue.
    let server = Name::from_ascii("ns")?.append_domain(name)?;
    for (child, child_key) in delegations {
        let server = RData::NS(NS(server.clone()));
        insert(&mut built, Record::from_rdata(child.clone(), ZONE_TTL, server), serial)?;
        if let Some(child_key) = child_key {
            let ds = RData::DNSSEC(DNSSECRData::DS(child_key.ds(child)?));
            insert(&mut built, Record::from_rdata(child.clone(), ZONE_TTL, ds), serial)?;
        }
    }
    sign(&mut built, key.signer(name)?)?;
    // A delegation is not the parent's data and is not signed (RFC 4035 section 2.2); hickory signs it.
    for (key, set) in built.records_get_mut() {
        if key.record_type == RecordType::NS && Name::from(key.name().clone()) != *name {
            Arc::make_mut(set).clear_rrsigs();
        }
    }
    Ok(built)
}

/// SOA, NS and the name server's address.
fn bare_zone(apex: &Name, serial: u32) -> Result<BuiltZone> {
    let mut zone =
        BuiltZone::empty(apex.clone(), ZoneType::Primary, AxfrPolicy::Deny, Some(NxProofKind::Nsec));
    let server = Name::from_ascii("ns")?.append_domain(apex)?;
    let admin = Name::from_ascii("hostmaster")?.append_domain(apex)?;
    let soa = SOA::new(server.clone(), admin, serial, 3600, 600, 86_400, ZONE_TTL);
    let own = [
        (apex, RData::SOA(soa)),
        (apex, RData::NS(NS(server.clone()))),
        (&server, RData::A(A(Ipv4Addr::LOCALHOST))),
    ];
    for (owner, data) in own {
        insert(&mut zone, Record::from_rdata(owner.clone(), ZONE_TTL, data), serial)?;
    }
    Ok(zone)
}

fn insert(zone: &mut BuiltZone, record: Record, serial: u32) -> Result<()> {
    let what = format!("{} {}", record.name, record.record_type());
    match zone.upsert_mut(record, serial) {
        true => Ok(()),
        false => Err(anyhow!("{what}: refused (twice, or an alias beside other data?)")),
    }
}

fn sign(zone: &mut BuiltZone, signer: DnssecSigner) -> Result<()> {
    zone.add_zone_signing_key_mut(signer).map_err(|error| anyhow!("zone key: {error}"))?;
    zone.secure_zone_mut().map_err(|error| anyhow!("signing: {error}"))
}

fn to_record(record: &ZoneRecord) -> Result<Record> {
    let data = match &record.data {
        Data::Text(text) => {
            let strings: Vec<&[u8]> = text.as_bytes().chunks(255).collect();
            RData::TXT(TXT::from_bytes(strings))
        }
        Data::Strings(strings) => RData::TXT(TXT::new(strings.clone())),
        Data::Alias(target) => RData::CNAME(CNAME(parse_name(target)?)),
        Data::Address(IpAddr::V4(ip)) => RData::A(A(*ip)),
        Data::Address(IpAddr::V6(ip)) => RData::AAAA(AAAA(*ip)),
    };
    Ok(Record::from_rdata(parse_name(&record.owner)?, record.ttl, data))
}

/// Changes data under its signature.
fn tamper(zone: &mut BuiltZone) {
    for set in zone.records_get_mut().values_mut() {
        let changed: Vec<Record> = set.records_without_rrsigs().cloned().map(tampered).collect();
        if changed.iter().any(|record| has_content(record.record_type())) {
            let signatures: Vec<Record> = set.rrsigs().to_vec();
            let mut forged = RecordSet::new(set.name().clone(), set.record_type(), 1);
            for record in changed {
                forged.insert(record, 1);
            }
            for signature in signatures {
                forged.insert_rrsig(signature);
            }
            *set = Arc::new(forged);
        }
    }
}

fn has_content(kind: RecordType) -> bool {
    matches!(kind, RecordType::TXT | RecordType::CNAME)
}

fn tampered(mut record: Record) -> Record {
    record.data = match record.data {
        RData::TXT(text) => {
            let mut strings: Vec<Vec<u8>> = text.txt_data.iter().map(|s| s.to_vec()).collect();
            strings.push(b" forged".to_vec());
            RData::TXT(TXT::from_bytes(strings.iter().map(Vec::as_slice).collect()))
        }
        RData::CNAME(_) => RData::CNAME(CNAME(Name::root())),
        other => other,
    };
    record
}

/// Signs everything anew, with signatures that ended a month ago.
fn expire(zone: &mut BuiltZone, signer: &DnssecSigner) -> Result<()> {
    const MONTH: u32 = 30 * 86_400;
    for set in zone.records_get_mut().values_mut() {
        let set = Arc::make_mut(set);
        let Some(signature) = set.rrsigs().first().cloned() else {
            continue;
        };
        let RData::DNSSEC(DNSSECRData::RRSIG(valid)) = &signature.data else {
            continue;
        };
        let mut input = valid.input().clone();
        let start = input.sig_inception.get();
        input.sig_inception = SerialNumber::new(start - 2 * MONTH);
        input.sig_expiration = SerialNumber::new(start - MONTH);
        let signed = TBS::from_input(set.name(), DNSClass::IN, &input, set.records_without_rrsigs())?;
        let bytes = signer.sign(&signed)?;
        let old = RData::DNSSEC(DNSSECRData::RRSIG(RRSIG::from_sig(input, bytes)));
        let record = Record::from_rdata(signature.name.clone(), signature.ttl, old);
        set.clear_rrsigs();
        set.insert_rrsig(record);
    }
    Ok(())
}

/// The zone in the form that NSD, Knot and BIND read, SOA first.
pub(super) fn zone_file(mut zone: BuiltZone) -> Result<String> {
    let mut lines = Vec::new();
    for set in zone.records_get_mut().values() {
        for record in set.records_with_rrsigs() {
            let first = record.record_type() != RecordType::SOA;
            lines.push((first, format!("{} {} IN {}\n", record.name, record.ttl, rdata(record))));
        }
    }
    lines.sort_by_key(|(first, _)| *first);
    Ok(lines.into_iter().map(|(_, line)| line).collect())
}

fn rdata(record: &Record) -> String {
    let kind = record.record_type();
    match &record.data {
        RData::TXT(text) => {
            let strings: Vec<String> = text.txt_data.iter().map(|string| quoted(string)).collect();
            format!("{kind} {}", strings.join(" "))
        }
        RData::DNSSEC(DNSSECRData::RRSIG(rrsig)) => {
            // hickory prints the algorithm by name; zone files take its number everywhere.
            let input = rrsig.input();
            format!(
                "RRSIG {} {} {} {} {} {} {} {} {}",
                input.type_covered,
                u8::from(input.algorithm),
                input.num_labels,
                input.original_ttl,
                date(input.sig_expiration.get()),
                date(input.sig_inception.get()),
                input.key_tag,
                input.signer_name,
                rrsig.to_string().rsplit(' ').next().unwrap_or_default(),
            )
        }
        other => format!("{kind} {other}"),
    }
}

/// Unix seconds as YYYYMMDDHHMMSS (RFC 4034 section 3.2); days to date by Hinnant's algorithm.
fn date(seconds: u32) -> String {
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = era * 400 + year_of_era + u32::from(month <= 2);
    let (hour, minute, second) = (rest / 3600, rest / 60 % 60, rest % 60);
    format!("{year:04}{month:02}{day:02}{hour:02}{minute:02}{second:02}")
}

fn quoted(string: &[u8]) -> String {
    let escaped: String = string
        .iter()
        .map(|&byte| match byte {
            b'"' | b'\\' => format!("\\{}", char::from(byte)),
            0x20..=0x7e => char::from(byte).to_string(),
            _ => format!("\\{byte:03}"),
        })
        .collect();
    format!("\"{escaped}\"")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_written_as_zone_files_want_them() {
        assert_eq!(date(0), "19700101000000");
        assert_eq!(date(1_709_164_799), "20240228235959");
        assert_eq!(date(1_709_251_199), "20240229235959");
        assert_eq!(date(1_767_225_600), "20260101000000");
    }

    #[test]
    fn a_zone_file_starts_with_the_soa_and_quotes_text() {
        let record = ZoneRecord::new("_ahoy.home.example", Data::Text("a;b\"c".into()));
        let zone = Zone::signed("home.example", vec![record]);
        let name = LowerName::from(parse_name("home.example").unwrap());
        let built = build_zone(&name, &zone, &ZoneKey::generate().unwrap(), 1).unwrap();
        let text = zone_file(built).unwrap();
        assert!(text.lines().next().unwrap().contains(" IN SOA "), "{text}");
        assert!(text.contains(r#"_ahoy.home.example. 300 IN TXT "a;b\"c""#), "{text}");
        assert!(text.contains(" IN RRSIG TXT 15 3 300 "), "{text}");
        assert!(text.contains(" IN DNSKEY 257 3 15 "), "{text}");
    }
}
