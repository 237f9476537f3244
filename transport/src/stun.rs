//! STUN Binding (RFC 8489) as the QUIC port speaks it: pure functions over one datagram.
//!
//! Only requests with the magic cookie are answered, with the one attribute that was asked for, and never
//! because of a response or an indication, so two servers cannot be made to talk to each other.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

const BINDING_REQUEST: u16 = 0x0001;
const BINDING_SUCCESS: u16 = 0x0101;
const BINDING_ERROR: u16 = 0x0111;
const COOKIE: u32 = 0x2112_A442;
const HEADER: usize = 20;
const FINGERPRINT: u16 = 0x8028;
const FINGERPRINT_XOR: u32 = 0x5354_554E;
const XOR_MAPPED_ADDRESS: u16 = 0x0020;
const ERROR_CODE: u16 = 0x0009;
const UNKNOWN_ATTRIBUTES: u16 = 0x000A;
/// Comprehension-required attributes that a client may send to a server without credentials:
/// USERNAME, MESSAGE-INTEGRITY, MESSAGE-INTEGRITY-SHA256, USERHASH, PRIORITY, USE-CANDIDATE.
const UNDERSTOOD: [u16; 6] = [0x0006, 0x0008, 0x001C, 0x001E, 0x0024, 0x0025];
/// Requests are small; a longer one is not answered.
const MAX_REQUEST: usize = 548;
/// How many unknown attributes are named in an error, which keeps it shorter than its request.
const MAX_UNKNOWN: usize = 4;

/// A transaction id as chosen by the client.
pub type TransactionId = [u8; 12];

/// A well-formed Binding request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Copied into the answer.
    pub transaction: TransactionId,
    /// Whether the request carried FINGERPRINT (and it was right), so that the answer must.
    pub fingerprint: bool,
    /// The first few comprehension-required attributes that are not understood.
    pub unknown: Vec<u16>,
}

/// Whether a datagram's first byte is STUN's (RFC 9443 section 3).
pub fn is_stun(first: u8) -> bool {
    first <= 3
}

/// Whether a datagram's first byte is QUIC's (RFC 9443 section 3).
pub fn is_quic(first: u8) -> bool {
    (64..=127).contains(&first) || first >= 192
}

/// Parses a Binding request; `None` for everything else, which is not answered.
pub fn parse_request(datagram: &[u8]) -> Option<Request> {
    if datagram.len() > MAX_REQUEST {
        return None;
    }
    let message = Message::parse(datagram)?;
    if message.kind != BINDING_REQUEST {
        return None;
    }
    let required = |kind: &u16| *kind < 0x8000 && !UNDERSTOOD.contains(kind);
    let mut unknown: Vec<u16> = message.attributes().map(|(kind, _)| kind).filter(required).collect();
    unknown.truncate(MAX_UNKNOWN);
    Some(Request { transaction: message.transaction, fingerprint: message.fingerprint, unknown })
}

/// The answer to a datagram from `source`, or `None` when it gets none.
pub fn answer(datagram: &[u8], source: SocketAddr) -> Option<Vec<u8>> {
    let request = parse_request(datagram)?;
    let answer = if request.unknown.is_empty() {
        let mut body = Builder::new(BINDING_SUCCESS, request.transaction);
        body.attribute(XOR_MAPPED_ADDRESS, &xor_address(source, &request.transaction));
        body
    } else {
        let mut body = Builder::new(BINDING_ERROR, request.transaction);
        body.attribute(ERROR_CODE, &[0, 0, 4, 20]);
        let kinds: Vec<u8> = request.unknown.iter().flat_map(|kind| kind.to_be_bytes()).collect();
        body.attribute(UNKNOWN_ATTRIBUTES, &kinds);
        body
    };
    Some(answer.finish(request.fingerprint))
}

/// A Binding request for `transaction`, with FINGERPRINT.
pub fn binding_request(transaction: TransactionId) -> Vec<u8> {
    Builder::new(BINDING_REQUEST, transaction).finish(true)
}

/// The address in a Binding success response to `transaction`.
pub fn parse_response(datagram: &[u8], transaction: &TransactionId) -> Option<SocketAddr> {
    let message = Message::parse(datagram)?;
    if message.kind != BINDING_SUCCESS || message.transaction != *transaction {
        return None;
    }
    let (_, value) = message.attributes().find(|(kind, _)| *kind == XOR_MAPPED_ADDRESS)?;
    unxor_address(value, transaction)
}

struct Message<'a> {
    kind: u16,
    transaction: TransactionId,
    body: &'a [u8],
    fingerprint: bool,
}

impl<'a> Message<'a> {
    fn parse(datagram: &'a [u8]) -> Option<Self> {
        let (header, body) = datagram.split_at_checked(HEADER)?;
        let kind = u16::from_be_bytes([header[0], header[1]]);
        let length = usize::from(u16::from_be_bytes([header[2], header[3]]));
        let cookie = u32::from_be_bytes([header[4], header[5], header[6], header[7]]);
        if kind & 0xC000 != 0 || cookie != COOKIE || length != body.len() || length % 4 != 0 {
            return None;
        }
        let transaction = header[8..].try_into().ok()?;
        let mut message = Self { kind, transaction, body, fingerprint: false };
        message.check(datagram)?;
        Some(message)
    }

    /// Every attribute must fit, and FINGERPRINT, where present, be last and right.
    fn check(&mut self, datagram: &[u8]) -> Option<()> {
        let mut rest = self.body;
        while !rest.is_empty() {
            let (kind, value, after) = split_attribute(rest)?;
            if kind == FINGERPRINT {
                let covered = datagram.len() - rest.len();
                let expected = crc32(&datagram[..covered]) ^ FINGERPRINT_XOR;
                if !after.is_empty() || value != expected.to_be_bytes() {
                    return None;
                }
                self.fingerprint = true;
            }
            rest = after;
        }
        Some(())
    }

    fn attributes(&self) -> impl Iterator<Item = (u16, &'a [u8])> {
        let mut rest = self.body;
        std::iter::from_fn(move || {
            let (kind, value, after) = split_attribute(rest)?;
            rest = after;
            Some((kind, value))
        })
    }
}

/// One attribute, its value, and what follows after padding to four bytes.
fn split_attribute(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let (head, rest) = bytes.split_at_checked(4)?;
    let kind = u16::from_be_bytes([head[0], head[1]]);
    let length = usize::from(u16::from_be_bytes([head[2], head[3]]));
    let value = rest.get(..length)?;
    Some((kind, value, rest.get(length.next_multiple_of(4)..)?))
}

struct Builder(Vec<u8>);

impl Builder {
    fn new(kind: u16, transaction: TransactionId) -> Self {
        let mut bytes = Vec::with_capacity(64);
        bytes.extend_from_slice(&kind.to_be_bytes());
        bytes.extend_from_slice(&[0, 0]);
        bytes.extend_from_slice(&COOKIE.to_be_bytes());
        bytes.extend_from_slice(&transaction);
        Self(bytes)
    }

    /// `value` is at most a few dozen bytes.
    fn attribute(&mut self, kind: u16, value: &[u8]) {
        let length = u16::try_from(value.len()).expect("values are short");
        self.0.extend_from_slice(&kind.to_be_bytes());
        self.0.extend_from_slice(&length.to_be_bytes());
        self.0.extend_from_slice(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }

    fn set_length(&mut self, extra: usize) {
        let length = u16::try_from(self.0.len() - HEADER + extra).expect("messages are short");
        self.0[2..4].copy_from_slice(&length.to_be_bytes());
    }

    fn finish(mut self, fingerprint: bool) -> Vec<u8> {
        if fingerprint {
            // The checksum covers the length as it will be with the attribute (RFC 8489 section 14.7).
            self.set_length(8);
            let sum = crc32(&self.0) ^ FINGERPRINT_XOR;
            self.attribute(FINGERPRINT, &sum.to_be_bytes());
        }
        self.set_length(0);
        self.0
    }
}

fn xor_address(address: SocketAddr, transaction: &TransactionId) -> Vec<u8> {
    let port = address.port() ^ (COOKIE >> 16) as u16;
    let mask = address_mask(transaction);
    let (family, octets): (u8, Vec<u8>) = match address.ip().to_canonical() {
        IpAddr::V4(ip) => (1, ip.octets().to_vec()),
        IpAddr::V6(ip) => (2, ip.octets().to_vec()),
    };
    let mut value = vec![0, family];
    value.extend_from_slice(&port.to_be_bytes());
    value.extend(octets.iter().zip(mask).map(|(octet, m)| octet ^ m));
    value
}

fn unxor_address(value: &[u8], transaction: &TransactionId) -> Option<SocketAddr> {
    let (head, octets) = value.split_at_checked(4)?;
    let port = u16::from_be_bytes([head[2], head[3]]) ^ (COOKIE >> 16) as u16;
    let plain: Vec<u8> = octets.iter().zip(address_mask(transaction)).map(|(octet, m)| octet ^ m).collect();
    let ip: IpAddr = match (head[1], octets.len()) {
        (1, 4) => Ipv4Addr::from(<[u8; 4]>::try_from(plain).ok()?).into(),
        (2, 16) => Ipv6Addr::from(<[u8; 16]>::try_from(plain).ok()?).into(),
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

fn address_mask(transaction: &TransactionId) -> [u8; 16] {
    let mut mask = [0; 16];
    mask[..4].copy_from_slice(&COOKIE.to_be_bytes());
    mask[4..].copy_from_slice(transaction);
    mask
}

/// CRC-32 of ITU-T V.42, bit by bit: messages are a few dozen bytes.
fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = !0u32;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = (crc >> 1) ^ (0xEDB8_8320 & (crc & 1).wrapping_neg());
        }
    }
    !crc
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOURCE: &str = "192.0.2.1:32853";

    fn source() -> SocketAddr {
        SOURCE.parse().expect("an address")
    }

    #[test]
    fn the_request_of_rfc_5769_is_understood_and_its_response_address_reproduced() {
        // RFC 5769 section 2.1 and 2.2: ids and addresses of the test vectors.
        let transaction = [0xb7, 0xe7, 0xa7, 0x01, 0xbc, 0x34, 0xd6, 0x86, 0xfa, 0x87, 0xdf, 0xae];
        let expected = [0x00, 0x01, 0xa1, 0x47, 0xe1, 0x12, 0xa6, 0x43];
        assert_eq!(xor_address(source(), &transaction), expected);
        let reply = answer(&binding_request(transaction), source()).expect("an answer");
        assert_eq!(parse_response(&reply, &transaction), Some(source()));
    }

    #[test]
    fn the_checksum_is_the_one_of_the_standard_check_value() {
        assert_eq!(crc32(b"123456789"), 0xCBF4_3926);
    }

    #[test]
    fn fingerprint_is_given_only_when_asked_for_and_a_wrong_one_is_silent() {
        let plain = Builder::new(BINDING_REQUEST, [7; 12]).finish(false);
        let reply = answer(&plain, source()).expect("an answer");
        assert_eq!(reply.len(), 32);
        let mut wrong = binding_request([7; 12]);
        assert_eq!(answer(&wrong, source()).expect("an answer").len(), 40);
        *wrong.last_mut().expect("bytes") ^= 1;
        assert_eq!(answer(&wrong, source()), None);
    }

    #[test]
    fn ipv6_addresses_survive_and_mapped_ones_are_shown_as_ipv4() {
        let six: SocketAddr = "[2001:db8::1]:9".parse().expect("an address");
        let reply = answer(&binding_request([1; 12]), six).expect("an answer");
        assert_eq!(parse_response(&reply, &[1; 12]), Some(six));
        let mapped: SocketAddr = "[::ffff:192.0.2.1]:32853".parse().expect("an address");
        let reply = answer(&binding_request([1; 12]), mapped).expect("an answer");
        assert_eq!(parse_response(&reply, &[1; 12]), Some(source()));
    }

    #[test]
    fn unknown_required_attributes_are_named_in_error_420() {
        let mut request = Builder::new(BINDING_REQUEST, [2; 12]);
        request.attribute(0x7001, &[]);
        let reply = answer(&request.finish(false), source()).expect("an answer");
        assert_eq!(&reply[..2], &BINDING_ERROR.to_be_bytes());
        assert_eq!(&reply[24..28], &[0, 0, 4, 20]);
        assert_eq!(&reply[32..34], &[0x70, 0x01]);
    }

    #[test]
    fn responses_indications_and_old_stun_are_not_answered() {
        let reply = answer(&binding_request([3; 12]), source()).expect("an answer");
        assert_eq!(answer(&reply, source()), None);
        assert_eq!(answer(&Builder::new(0x0011, [3; 12]).finish(true), source()), None);
        let mut old = Builder::new(BINDING_REQUEST, [3; 12]).finish(false);
        old[4] ^= 1;
        assert_eq!(answer(&old, source()), None);
    }

    #[test]
    fn no_cut_or_flipped_request_panics_or_grows() {
        let mut request = Builder::new(BINDING_REQUEST, [9; 12]);
        request.attribute(0x0006, b"abc");
        request.attribute(0x7002, &[1, 2]);
        let request = request.finish(true);
        for cut in 0..request.len() {
            assert_eq!(answer(&request[..cut], source()), None);
        }
        for bit in 0..request.len() * 8 {
            let mut flipped = request.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(answer(&flipped, source()).is_none_or(|reply| reply.len() <= 48));
        }
    }
}
