//! An IP network in CIDR form.

use std::net::IpAddr;

use serde::Deserialize;

/// `10.0.0.0/8`, `fd00::/8`, or one address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Net {
    address: IpAddr,
    prefix: u32,
}

impl TryFrom<String> for Net {
    type Error = String;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let error = || format!("\"{text}\" is not a network such as 10.0.0.0/8");
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text.as_str(), None),
        };
        let address: IpAddr = address.parse().map_err(|_| error())?;
        let longest = if address.is_ipv4() { 32 } else { 128 };
        let prefix = prefix.map_or(Ok(longest), str::parse).map_err(|_| error())?;
        if prefix > longest {
            return Err(error());
        }
        Ok(Self { address, prefix })
    }
}

impl Net {
    /// Whether the address is in the network; never for another family.
    pub fn contains(&self, address: IpAddr) -> bool {
        let (ours, theirs, longest) = match (self.address, address) {
            (IpAddr::V4(ours), IpAddr::V4(theirs)) => {
                (u128::from(ours.to_bits()), u128::from(theirs.to_bits()), 32)
            }
            (IpAddr::V6(ours), IpAddr::V6(theirs)) => (ours.to_bits(), theirs.to_bits(), 128),
            _ => return false,
        };
        let host_bits = longest - self.prefix;
        ours.checked_shr(host_bits) == theirs.checked_shr(host_bits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_holds_its_addresses_and_no_others() {
        for (net, inside, outside) in [
            ("10.0.0.0/8", "10.255.0.1", "11.0.0.1"),
            ("192.0.2.7", "192.0.2.7", "192.0.2.8"),
            ("fd00::/8", "fd12::1", "fe80::1"),
            ("fd00::/8", "fdff::", "10.0.0.1"),
        ] {
            let net = Net::try_from(net.to_owned()).unwrap();
            assert!(
                net.contains(inside.parse().unwrap()) && !net.contains(outside.parse().unwrap()),
                "{net:?}"
            );
        }
        assert!(Net::try_from("0.0.0.0/0".to_owned()).unwrap().contains("8.8.8.8".parse().unwrap()));
    }
}
