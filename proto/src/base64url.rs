//! Decides how keys and signatures are written in text: base64url, unpadded, canonical (RFC 4648 section 5).

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// Writes `bytes`.
pub fn encode(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// Reads exactly `N` bytes; `None` for another length, padding, or bits set beyond the last byte.
pub fn decode<const N: usize>(text: &str) -> Option<[u8; N]> {
    // The length is checked first: what a stranger writes decides no allocation.
    if text.len() != (N * 4).div_ceil(3) {
        return None;
    }
    URL_SAFE_NO_PAD.decode(text).ok()?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_written_is_read_back(bytes: [u8; 32]) {
            prop_assert_eq!(decode::<32>(&encode(&bytes)), Some(bytes));
        }
    }

    #[test]
    fn refuses_padding_and_stray_bits() {
        assert_eq!(decode::<1>("AA"), Some([0]));
        assert_eq!(decode::<1>("AB"), None);
        assert_eq!(decode::<1>("AA=="), None);
        assert_eq!(decode::<1>("+A"), None);
    }
}
