//! A trunk: one file in `trunks.d`, the line table, the short codes, and what follows from
//! them: who may call where, and which address is told to the other side. [BRIDGE-SIP-10]

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use ahoy_proto::address::Address;
use ahoy_proto::name::{Name, NamePolicy};
use bytes::Bytes;
use serde::Deserialize;
use sipx_sip::Uri;

use crate::rtp::PortRange;
use crate::sdp::Codec;
use crate::sip::{Identity, Transport};

mod net;

pub use net::Net;

/// Emergency numbers of many countries: no table may name one, since calls to them must not depend
/// on this software. Those that are plain extensions of a PBX are allowed one by one.
const EMERGENCY: [&str; 8] = ["112", "911", "999", "000", "110", "119", "111", "108"];
/// Never anybody's extension.
const ALWAYS: [&str; 2] = ["112", "911"];

/// One file of `trunks.d`, as written.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrunkFile {
    /// Local address of SIP, UDP and TCP.
    pub bind: SocketAddr,
    /// The PBX, `host:port`.
    pub peer: String,
    /// How requests go there.
    #[serde(default = "udp")]
    pub transport: Transport,
    /// Further addresses that requests of this trunk come from.
    #[serde(default)]
    pub sources: Vec<IpAddr>,
    /// Our address as seen from outside `local_nets`.
    pub external_address: Option<IpAddr>,
    /// Networks in which our own address is used instead.
    #[serde(default)]
    pub local_nets: Vec<Net>,
    /// Ports for RTP and RTCP.
    pub rtp_ports: PortRange,
    /// Codecs, the preferred first.
    #[serde(default = "both_codecs")]
    pub codecs: Vec<String>,
    /// Whether UDP requests above 1,300 bytes go over TCP.
    #[serde(default = "yes")]
    pub large_over_tcp: bool,
    /// Whether the PBX is asked by OPTIONS if it is alive.
    #[serde(default = "yes")]
    pub probe: bool,
    /// Whether the PBX is told the caller as `P-Asserted-Identity`.
    #[serde(default)]
    pub assert_identity: bool,
    /// Line -> SIP URI.
    #[serde(default)]
    pub lines: BTreeMap<String, String>,
    /// Number that a phone dials -> Ahoy address.
    #[serde(default)]
    pub short_codes: BTreeMap<String, String>,
    /// Extensions of this PBX that look like emergency numbers and are none.
    #[serde(default)]
    pub own_extensions: Vec<String>,
    /// The line that calls from this trunk come from.
    pub outbound_line: Option<String>,
}

fn udp() -> Transport {
    Transport::Udp
}

fn yes() -> bool {
    true
}

fn both_codecs() -> Vec<String> {
    Codec::ALL.iter().map(|codec| codec.name().to_owned()).collect()
}

/// Why a trunk file cannot be used. Says where, what and what to do.
#[derive(Debug, thiserror::Error)]
#[error("trunk file {path}: {what}")]
pub struct TrunkError {
    path: PathBuf,
    what: String,
}

/// A trunk that can be used: everything in it was checked.
#[derive(Debug, Clone)]
pub struct Trunk {
    /// The file's name without `.toml`.
    pub id: String,
    /// As written.
    pub file: TrunkFile,
    /// Parsed codecs, the preferred first.
    pub codecs: Vec<Codec>,
    lines: BTreeMap<Address, Uri>,
    short_codes: BTreeMap<String, Address>,
    /// Who calls from this trunk appear as.
    pub outbound: Option<Address>,
}

impl Trunk {
    /// Reads one file. `name` completes lines that are written without one.
    pub fn load(path: &Path, name: &Name, policy: &NamePolicy) -> Result<Self, TrunkError> {
        let error = |what: String| TrunkError { path: path.to_owned(), what };
        let text =
            std::fs::read_to_string(path).map_err(|failed| error(format!("cannot be read: {failed}")))?;
        let id = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
        Self::parse(id, &text, name, policy).map_err(error)
    }

    fn parse(id: String, text: &str, name: &Name, policy: &NamePolicy) -> Result<Self, String> {
        let file: TrunkFile = toml::from_str(text).map_err(|failed| failed.to_string())?;
        let address = |line: &str| {
            let whole = if line.contains('@') { line.to_owned() } else { format!("{line}@{name}") };
            Address::parse(&whole, policy).map_err(|failed| format!("line \"{line}\": {failed}"))
        };
        if let Some(never) = file.own_extensions.iter().find(|number| ALWAYS.contains(&number.as_str())) {
            return Err(format!("own_extensions has the emergency number {never}: it is nobody's extension"));
        }
        let mut lines = BTreeMap::new();
        for (line, target) in &file.lines {
            lines.insert(address(line)?, line_target(line, target, &file.own_extensions)?);
        }
        let mut short_codes = BTreeMap::new();
        for (code, target) in &file.short_codes {
            if is_emergency(code, &file.own_extensions) {
                return Err(format!("short code {code} is an emergency number: choose another one"));
            }
            let target =
                Address::parse(target, policy).map_err(|failed| format!("short code {code}: {failed}"))?;
            short_codes.insert(code.clone(), target);
        }
        let codecs: Option<Vec<Codec>> = file.codecs.iter().map(|codec| Codec::from_name(codec)).collect();
        let codecs = codecs
            .filter(|codecs| !codecs.is_empty())
            .ok_or_else(|| format!("codecs = {:?}: use \"PCMA\", \"PCMU\" or both", file.codecs))?;
        let outbound = file.outbound_line.as_deref().map(address).transpose()?;
        if let Some(outbound) = &outbound
            && !lines.contains_key(outbound)
        {
            return Err(format!(
                "outbound_line \"{outbound}\" is not in [lines]: calls back could not reach it"
            ));
        }
        Ok(Self { id, file, codecs, lines, short_codes, outbound })
    }

    /// The lines that this trunk answers for.
    pub fn lines(&self) -> impl Iterator<Item = &Address> {
        self.lines.keys()
    }

    /// Where a call to `line` goes.
    pub fn target(&self, line: &Address) -> Option<&Uri> {
        self.lines.get(line)
    }

    /// Whom a phone means by what it dialled: an Ahoy address, or a short code. A number that
    /// is no short code means nobody; nothing from outside is dialled as digits. [BRIDGE-SIP-11]
    pub fn dialled(&self, user: &[u8], policy: &NamePolicy) -> Option<Address> {
        let text = std::str::from_utf8(user).ok()?;
        if let Some(address) = self.short_codes.get(text) {
            return Some(address.clone());
        }
        text.contains('@').then(|| Address::parse(text, policy).ok()).flatten()
    }

    /// How a caller of the network appears at this PBX.
    pub fn identity(&self, from: &Address, display: &str) -> Identity {
        let display: String = display.chars().filter(|c| !c.is_control()).take(64).collect();
        let name =
            if display.is_empty() { from.to_display() } else { format!("{display} ({})", from.to_display()) };
        Identity { display: Some(name), user: from.to_string(), asserted: self.file.assert_identity }
    }

    /// The address that `peer` is told: the external one, unless the peer is in a local network.
    pub fn advertised(&self, own: IpAddr, peer: IpAddr) -> IpAddr {
        let local = peer.is_loopback() || self.file.local_nets.iter().any(|net| net.contains(peer));
        self.file.external_address.filter(|_| !local).unwrap_or(own)
    }
}

/// Whether a PBX would take these digits for an emergency call, however they are written.
fn is_emergency(user: &str, own: &[String]) -> bool {
    let number = user.split(';').next().unwrap_or_default();
    let digits: String = number.chars().filter(|c| !matches!(c, '-' | '.' | '(' | ')' | ' ' | '+')).collect();
    EMERGENCY.contains(&digits.as_str()) && !own.contains(&digits)
}

fn line_target(line: &str, target: &str, own: &[String]) -> Result<Uri, String> {
    let uri = Uri::parse(Bytes::copy_from_slice(target.as_bytes()))
        .map_err(|failed| format!("line \"{line}\" = \"{target}\": {failed}"))?;
    if !uri.scheme().is_sip() || uri.scheme().is_secure() || uri.user().is_none() || uri.has_headers() {
        return Err(format!("line \"{line}\" = \"{target}\": write sip:EXTENSION@PBX"));
    }
    let user = uri.decoded_user().unwrap_or_default();
    if is_emergency(&String::from_utf8_lossy(&user), own) {
        return Err(format!(
            "line \"{line}\" would dial the emergency number in \"{target}\": this is refused; if it is an \
             extension of this PBX, list it in own_extensions"
        ));
    }
    Ok(uri)
}

/// Every `*.toml` of a folder, in the order of their names.
pub fn load_folder(folder: &Path, name: &Name, policy: &NamePolicy) -> Result<Vec<Trunk>, TrunkError> {
    let error = |what: String| TrunkError { path: folder.to_owned(), what };
    let entries = std::fs::read_dir(folder).map_err(|failed| error(format!("cannot be read: {failed}")))?;
    let mut paths: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "toml"))
        .collect();
    paths.sort();
    if paths.is_empty() {
        return Err(error("has no *.toml: write one file per trunk".to_owned()));
    }
    let trunks: Vec<Trunk> =
        paths.iter().map(|path| Trunk::load(path, name, policy)).collect::<Result<_, _>>()?;
    let mut seen = std::collections::BTreeSet::new();
    for line in trunks.iter().flat_map(Trunk::lines) {
        if !seen.insert(line) {
            return Err(error(format!("line {line} is in two trunks: leave it in one")));
        }
    }
    Ok(trunks)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = r#"
        bind = "127.0.0.2:5060"
        peer = "127.0.0.1:5070"
        external_address = "203.0.113.9"
        local_nets = ["10.0.0.0/8", "fd00::/8"]
        rtp_ports = [30000, 30999]
        outbound_line = "support"
        [lines]
        support = "sip:200@127.0.0.1:5070"
        [short_codes]
        9001 = "caller@home.example"
    "#;

    fn policy() -> NamePolicy {
        NamePolicy::allowing(["example"])
    }

    fn parse(text: &str) -> Result<Trunk, String> {
        let name = Name::parse("bank.example", &policy()).unwrap();
        Trunk::parse("pbx".into(), text, &name, &policy())
    }

    fn address(text: &str) -> Address {
        Address::parse(text, &policy()).unwrap()
    }

    #[test]
    fn a_line_leads_to_its_extension_and_another_name_nowhere() {
        let trunk = parse(FILE).unwrap();
        let target = trunk.target(&address("support@bank.example")).unwrap();
        assert_eq!(target.to_bytes(), "sip:200@127.0.0.1:5070");
        assert!(trunk.target(&address("support@home.example")).is_none());
        assert_eq!(trunk.outbound, Some(address("support@bank.example")));
    }

    #[test]
    fn a_phone_reaches_addresses_and_short_codes_and_never_a_number() {
        let trunk = parse(FILE).unwrap();
        let dial = |user: &str| trunk.dialled(user.as_bytes(), &policy()).map(|to| to.to_string());
        assert_eq!(dial("caller@home.example").as_deref(), Some("caller@home.example"));
        assert_eq!(dial("9001").as_deref(), Some("caller@home.example"));
        for refused in ["112", "911", "+41441234567", "9002", "caller", "@", "a@b@c", "\u{0}@home.example"] {
            assert_eq!(dial(refused), None, "{refused:?}");
        }
        assert_eq!(trunk.dialled(&[0xff, b'@'], &policy()), None);
    }

    #[test]
    fn the_external_address_is_told_outside_the_local_networks_only() {
        let trunk = parse(FILE).unwrap();
        let own: IpAddr = "10.0.0.5".parse().unwrap();
        let told = |peer: &str| trunk.advertised(own, peer.parse().unwrap()).to_string();
        assert_eq!(told("198.51.100.1"), "203.0.113.9");
        assert_eq!(told("10.9.9.9"), "10.0.0.5");
        assert_eq!(told("127.0.0.1"), "10.0.0.5");
    }

    #[test]
    fn a_bad_file_is_refused_with_what_is_wrong() {
        for (from, to, expected) in [
            ("sip:200@127.0.0.1:5070", "sip:112@127.0.0.1:5070", "emergency"),
            ("sip:200@127.0.0.1:5070", "tel:+1", "sip:EXTENSION@PBX"),
            ("9001 =", "911 =", "emergency"),
            ("9001 =", "000 =", "emergency"),
            ("sip:200@", "sip:999@", "own_extensions"),
            ("sip:200@", "sip:1-1-0@", "emergency"),
            ("sip:200@", "sip:%39%31%31@", "emergency"),
            ("outbound_line", "own_extensions = [\"911\"]\noutbound_line", "nobody's extension"),
            ("caller@home.example", "caller home", "short code 9001"),
            ("outbound_line = \"support\"", "outbound_line = \"sales\"", "not in [lines]"),
            ("[30000, 30999]", "[30000, 30000]", "below the last"),
            ("bind =", "binnd =", "binnd"),
            ("10.0.0.0/8", "10.0.0.0/33", "10.0.0.0/33"),
            ("outbound_line", "codecs = [\"opus\"]\noutbound_line", "PCMA"),
        ] {
            let failed = parse(&FILE.replace(from, to)).unwrap_err();
            assert!(failed.contains(expected), "{to}: {failed}");
        }
    }

    #[test]
    fn an_extension_that_looks_like_an_emergency_number_is_dialled_when_it_is_listed() {
        let listed = FILE.replace("outbound_line", "own_extensions = [\"110\"]\noutbound_line");
        let trunk = parse(&listed.replace("sip:200@", "sip:110@")).unwrap();
        assert_eq!(
            trunk.target(&address("support@bank.example")).unwrap().to_bytes(),
            "sip:110@127.0.0.1:5070"
        );
        assert!(parse(&listed.replace("sip:200@", "sip:119@")).is_err());
    }

    #[test]
    fn a_caller_is_shown_with_its_verified_address() {
        let trunk = parse(FILE).unwrap();
        let who = trunk.identity(&address("caller@home.example"), "Ann\r\nX: y");
        assert_eq!(who.display.as_deref(), Some("AnnX: y (caller@home.example)"));
        assert_eq!((who.user.as_str(), who.asserted), ("caller@home.example", false));
    }
}
