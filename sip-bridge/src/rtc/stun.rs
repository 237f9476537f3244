//! Decides what a datagram on a media socket is (RFC 7983), and asks a STUN server for our address (RFC 8489).

use std::net::{IpAddr, SocketAddr};

const COOKIE: [u8; 4] = [0x21, 0x12, 0xa4, 0x42];
const HEADER: usize = 20;
const BINDING_REQUEST: u16 = 0x0001;
const BINDING_SUCCESS: u16 = 0x0101;
const BINDING_ERROR: u16 = 0x0111;
const USERNAME: u16 = 0x0006;
const MAPPED_ADDRESS: u16 = 0x0001;
const XOR_MAPPED_ADDRESS: u16 = 0x0020;

/// The 96 random bits that pair a response with its request.
pub(super) type Transaction = [u8; 12];

/// What a datagram claims to be; nothing in it is verified.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Datagram<'a> {
    /// A connectivity check for the call with this local ufrag.
    Check { ufrag: &'a str },
    /// A response, success or error, to one of our requests.
    Response { transaction: Transaction, mapped: Option<SocketAddr> },
    /// DTLS, SRTP or SRTCP, which only its source address can attribute.
    Encrypted,
    /// Anything else: dropped.
    Noise,
}

/// Looks at a datagram without believing it. Total: any bytes give an answer.
pub(super) fn classify(datagram: &[u8]) -> Datagram<'_> {
    match datagram.first() {
        Some(0..=3) => stun(datagram).unwrap_or(Datagram::Noise),
        Some(20..=63 | 128..=191) => Datagram::Encrypted,
        _ => Datagram::Noise,
    }
}

/// The transaction of a datagram that is a binding request, as we send them.
pub(super) fn request_transaction(datagram: &[u8]) -> Option<Transaction> {
    let (kind, transaction, _) = header(datagram)?;
    (kind == BINDING_REQUEST).then_some(transaction)
}

/// A binding request without attributes: what a STUN server needs to tell us our address.
pub(super) fn binding_request(transaction: Transaction) -> [u8; HEADER] {
    let mut out = [0; HEADER];
    out[..2].copy_from_slice(&BINDING_REQUEST.to_be_bytes());
    out[4..8].copy_from_slice(&COOKIE);
    out[8..].copy_from_slice(&transaction);
    out
}

fn header(datagram: &[u8]) -> Option<(u16, Transaction, &[u8])> {
    let (head, body) = datagram.split_at_checked(HEADER)?;
    let (kind, head) = head.split_first_chunk::<2>()?;
    let (length, head) = head.split_first_chunk::<2>()?;
    let transaction = head.strip_prefix(&COOKIE)?.first_chunk::<12>()?;
    let body = body.get(..usize::from(u16::from_be_bytes(*length)))?;
    Some((u16::from_be_bytes(*kind), *transaction, body))
}

fn stun(datagram: &[u8]) -> Option<Datagram<'_>> {
    let (kind, transaction, body) = header(datagram)?;
    match kind {
        BINDING_REQUEST => {
            let username = attributes(body).find(|(name, _)| *name == USERNAME)?.1;
            let (ufrag, _) = std::str::from_utf8(username).ok()?.split_once(':')?;
            Some(Datagram::Check { ufrag })
        }
        BINDING_SUCCESS => Some(Datagram::Response { transaction, mapped: mapped(body, &transaction) }),
        BINDING_ERROR => Some(Datagram::Response { transaction, mapped: None }),
        _ => None,
    }
}

fn attributes(mut body: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let (name, rest) = body.split_first_chunk::<2>()?;
        let (length, rest) = rest.split_first_chunk::<2>()?;
        let length = usize::from(u16::from_be_bytes(*length));
        let value = rest.get(..length)?;
        body = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((u16::from_be_bytes(*name), value))
    })
}

fn mapped(body: &[u8], transaction: &Transaction) -> Option<SocketAddr> {
    let find = |wanted| attributes(body).find(|(name, _)| *name == wanted).map(|(_, value)| value);
    match find(XOR_MAPPED_ADDRESS) {
        Some(value) => {
            let mut mask = [0; 16];
            mask[..4].copy_from_slice(&COOKIE);
            mask[4..].copy_from_slice(transaction);
            address(value, &mask)
        }
        None => address(find(MAPPED_ADDRESS)?, &[0; 16]),
    }
}

fn address(value: &[u8], mask: &[u8; 16]) -> Option<SocketAddr> {
    let ([_, family, port @ ..], rest) = value.split_first_chunk::<4>()?;
    let port = u16::from_be_bytes(*port) ^ u16::from_be_bytes([mask[0], mask[1]]);
    let ip = match family {
        1 => {
            let mut octets = *rest.first_chunk::<4>()?;
            octets.iter_mut().zip(mask).for_each(|(octet, bits)| *octet ^= bits);
            IpAddr::from(octets)
        }
        2 => {
            let mut octets = *rest.first_chunk::<16>()?;
            octets.iter_mut().zip(mask).for_each(|(octet, bits)| *octet ^= bits);
            IpAddr::from(octets)
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// RFC 5769 section 2.2: the sample IPv4 response.
    const RESPONSE: [u8; 80] = [
        0x01, 0x01, 0x00, 0x3c, 0x21, 0x12, 0xa4, 0x42, 0xb7, 0xe7, 0xa7, 0x01, 0xbc, 0x34, 0xd6, 0x86, 0xfa,
        0x87, 0xdf, 0xae, 0x80, 0x22, 0x00, 0x0b, 0x74, 0x65, 0x73, 0x74, 0x20, 0x76, 0x65, 0x63, 0x74, 0x6f,
        0x72, 0x20, 0x00, 0x20, 0x00, 0x08, 0x00, 0x01, 0xa1, 0x47, 0xe1, 0x12, 0xa6, 0x43, 0x00, 0x08, 0x00,
        0x14, 0x2b, 0x91, 0xf5, 0x99, 0xfd, 0x9e, 0x90, 0xc3, 0x8c, 0x74, 0x89, 0xf9, 0x2a, 0xf9, 0xba, 0x53,
        0xf0, 0x6b, 0xe7, 0xd7, 0x80, 0x28, 0x00, 0x04, 0xc0, 0x7d, 0x4c, 0x96,
    ];

    #[test]
    fn the_sample_response_of_rfc_5769_names_its_address() {
        let Datagram::Response { mapped, transaction } = classify(&RESPONSE) else {
            panic!("a response");
        };
        assert_eq!(mapped, Some("192.0.2.1:32853".parse().expect("an address")));
        assert_eq!(transaction, RESPONSE[8..20]);
    }

    #[test]
    fn a_check_names_the_local_ufrag() {
        let mut check = binding_request([7; 12]).to_vec();
        check.extend_from_slice(&[0, 6, 0, 5, b'm', b'e', b':', b'y', b'o', 0, 0, 0]);
        check[3] = 12;
        assert_eq!(classify(&check), Datagram::Check { ufrag: "me" });
        assert_eq!(request_transaction(&check), Some([7; 12]));
        assert_eq!(classify(&check[..check.len() - 1]), Datagram::Noise);
    }

    #[test]
    fn media_and_noise_are_told_apart_by_the_first_byte() {
        for (first, expected) in
            [(22, Datagram::Encrypted), (128, Datagram::Encrypted), (200, Datagram::Noise)]
        {
            assert_eq!(classify(&[first; 40]), expected);
        }
        assert_eq!(classify(&[]), Datagram::Noise);
    }

    proptest! {
        #[test]
        fn no_datagram_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200), at in 0usize..80, to in any::<u8>()) {
            let _ = (classify(&bytes), request_transaction(&bytes));
            let mut mutated = RESPONSE;
            mutated[at] = to;
            let _ = classify(&mutated);
            let _ = classify(&mutated[..at]);
        }
    }
}
