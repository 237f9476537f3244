//! How a peer learns at once that this endpoint was restarted: stateless resets (RFC 9000 section 10.3) under
//! a key that outlives the process, because it is derived from the TLS key. Without it a peer of a crashed
//! homeserver would wait out the idle time before it comes back.

use std::sync::Arc;
use std::time::Duration;

use ahoy_proto::time::Entropy;
use quinn::crypto::{CryptoError, HmacKey};
use quinn::{ConnectionId, ConnectionIdGenerator, EndpointConfig};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

/// Least time between two resets: five hundred former peers a second are told.
const INTERVAL: Duration = Duration::from_millis(2);
/// Bytes of a connection id.
const ID_BYTES: usize = 8;
/// Block size of SHA-256.
const BLOCK: usize = 64;

/// HMAC-SHA-256 (RFC 2104) with a 32-byte key.
pub(crate) struct ResetKey(Zeroizing<[u8; 32]>);

impl ResetKey {
    /// The key that belongs to a TLS private key.
    pub(crate) fn derive(private: &[u8]) -> Self {
        let hash = Sha256::new().chain_update(b"ahoy-reset-v1\0").chain_update(private).finalize();
        Self(Zeroizing::new(hash.into()))
    }

    fn mac(&self, data: &[u8]) -> [u8; 32] {
        let pad = |byte: u8| {
            let mut block = Zeroizing::new([byte; BLOCK]);
            block.iter_mut().zip(self.0.iter()).for_each(|(b, k)| *b ^= k);
            block
        };
        let inner = Sha256::new().chain_update(&pad(0x36)[..]).chain_update(data).finalize();
        Sha256::new().chain_update(&pad(0x5c)[..]).chain_update(inner).finalize().into()
    }
}

impl HmacKey for ResetKey {
    fn sign(&self, data: &[u8], out: &mut [u8]) {
        out.copy_from_slice(&self.mac(data));
    }

    fn signature_len(&self) -> usize {
        32
    }

    fn verify(&self, data: &[u8], signature: &[u8]) -> Result<(), CryptoError> {
        // quinn only signs with this key: a reset is recognised by its whole token, in the peer.
        if self.mac(data)[..] == *signature { Ok(()) } else { Err(CryptoError) }
    }
}

/// Connection ids from the endpoint's own random source. quinn's are recognised by a key of the process, and
/// a restarted endpoint would take those of its predecessor for noise.
struct RandomIds(Arc<dyn Entropy>);

impl ConnectionIdGenerator for RandomIds {
    fn generate_cid(&mut self) -> ConnectionId {
        let mut bytes = [0; ID_BYTES];
        self.0.fill(&mut bytes);
        ConnectionId::new(&bytes)
    }

    fn cid_len(&self) -> usize {
        ID_BYTES
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

/// The settings of a QUIC endpoint whose resets its peers believe after a restart.
pub(crate) fn endpoint_config(key: Arc<ResetKey>, entropy: Arc<dyn Entropy>) -> EndpointConfig {
    let mut config = EndpointConfig::new(key);
    config.min_reset_interval(INTERVAL);
    config.cid_generator(move || Box::new(RandomIds(entropy.clone())));
    config
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mac_is_that_of_rfc_4231() {
        let mut key = [0u8; 32];
        key[..20].fill(0x0b); // test case 1; a shorter key is padded with zeros
        let key = ResetKey(Zeroizing::new(key));
        let expected: String = key.mac(b"Hi There").iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(expected, "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7");
        assert!(key.verify(b"Hi There", &key.mac(b"Hi There")).is_ok());
        assert!(key.verify(b"Hi there", &key.mac(b"Hi There")).is_err());
    }
}
