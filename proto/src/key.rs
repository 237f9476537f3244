//! Decides how the protocol signs: ed25519 under a named context, verified strictly, secrets wiped.

use std::fmt;

use ed25519_dalek::Signer as _;
use zeroize::Zeroizing;

use crate::base64url;
use crate::time::Entropy;

const KEY_FILE_TAG: &str = "ahoy-key-v1";

/// An ed25519 signing key. Wiped when dropped, never printed.
#[derive(Clone)]
pub struct SigningKey(ed25519_dalek::SigningKey);

impl SigningKey {
    /// A new key.
    pub fn generate(entropy: &dyn Entropy) -> Self {
        let mut seed = Zeroizing::new([0; 32]);
        entropy.fill(&mut *seed);
        Self(ed25519_dalek::SigningKey::from_bytes(&seed))
    }

    /// The key of a 32-byte seed (RFC 8032 section 5.1.5).
    pub fn from_seed(seed: [u8; 32]) -> Self {
        let seed = Zeroizing::new(seed);
        Self(ed25519_dalek::SigningKey::from_bytes(&seed))
    }

    /// The 32-byte seed.
    pub fn seed(&self) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(self.0.to_bytes())
    }

    /// The public half.
    pub fn public(&self) -> PublicKey {
        PublicKey(self.0.verifying_key())
    }

    /// Signs `context 0x00 parts...`.
    pub fn sign(&self, context: &str, parts: &[&[u8]]) -> [u8; 64] {
        self.0.sign(&signed_bytes(context, parts)).to_bytes()
    }

    /// The text of a key file: `ahoy-key-v1 <base64url seed>` and a line feed.
    pub fn to_key_file(&self) -> Zeroizing<String> {
        let seed = Zeroizing::new(base64url::encode(&*self.seed()));
        Zeroizing::new(format!("{KEY_FILE_TAG} {}\n", *seed))
    }

    /// Reads the text of a key file.
    ///
    /// # Errors
    /// [`KeyError::File`] when it is not `ahoy-key-v1 <43 base64url characters>`.
    pub fn from_key_file(text: &str) -> Result<Self, KeyError> {
        let mut words = text.split_ascii_whitespace();
        let (tag, seed) = (words.next(), words.next());
        if tag != Some(KEY_FILE_TAG) || words.next().is_some() {
            return Err(KeyError::File);
        }
        seed.and_then(base64url::decode).map(Self::from_seed).ok_or(KeyError::File)
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({}, secret)", self.public())
    }
}

/// An ed25519 public key that is a point of full order.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct PublicKey(ed25519_dalek::VerifyingKey);

impl PublicKey {
    /// Reads 32 bytes.
    ///
    /// # Errors
    /// [`KeyError::Public`] for another length, no point, or a point of small order.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, KeyError> {
        let bytes: &[u8; 32] = bytes.try_into().map_err(|_| KeyError::Public)?;
        let key = ed25519_dalek::VerifyingKey::from_bytes(bytes).map_err(|_| KeyError::Public)?;
        if key.is_weak() { Err(KeyError::Public) } else { Ok(Self(key)) }
    }

    /// The 32 bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        self.0.as_bytes()
    }

    /// 43 characters.
    pub fn to_base64url(&self) -> String {
        base64url::encode(self.as_bytes())
    }

    /// Reads 43 characters.
    ///
    /// # Errors
    /// [`KeyError::Public`] when they are not the canonical form of a usable key.
    pub fn parse_base64url(text: &str) -> Result<Self, KeyError> {
        Self::from_bytes(&base64url::decode::<32>(text).ok_or(KeyError::Public)?)
    }

    /// Verifies a signature over `context 0x00 message`, strictly (`verify_strict`).
    ///
    /// # Errors
    /// [`BadSignature`], whatever is wrong with it.
    pub fn verify(&self, context: &str, message: &[u8], signature: &[u8]) -> Result<(), BadSignature> {
        self.verify_parts(context, &[message], signature)
    }

    /// [`PublicKey::verify`] over a message in parts.
    ///
    /// # Errors
    /// [`BadSignature`], whatever is wrong with it.
    pub fn verify_parts(&self, context: &str, parts: &[&[u8]], signature: &[u8]) -> Result<(), BadSignature> {
        let signature = ed25519_dalek::Signature::from_slice(signature).map_err(|_| BadSignature)?;
        self.0.verify_strict(&signed_bytes(context, parts), &signature).map_err(|_| BadSignature)
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_base64url())
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({self})")
    }
}

impl std::hash::Hash for PublicKey {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.as_bytes().hash(state);
    }
}

impl PartialOrd for PublicKey {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for PublicKey {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.as_bytes().cmp(other.as_bytes())
    }
}

/// The bytes that a signature of this protocol covers: `context 0x00 parts...`.
pub fn signed_bytes(context: &str, parts: &[&[u8]]) -> Vec<u8> {
    let mut out = Vec::with_capacity(context.len() + 1 + parts.iter().map(|p| p.len()).sum::<usize>());
    out.extend_from_slice(context.as_bytes());
    out.push(0);
    for part in parts {
        out.extend_from_slice(part);
    }
    out
}

/// The signature does not verify.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the signature does not verify")]
pub struct BadSignature;

/// Why something is not a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Not a usable public key.
    #[error("not an ed25519 public key (32 bytes, base64url in text)")]
    Public,
    /// Not a key file.
    #[error("not a key file: it must read `ahoy-key-v1 <43 base64url characters>`")]
    File,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> SigningKey {
        SigningKey::from_seed([7; 32])
    }

    #[test]
    fn a_signature_holds_only_under_its_context_and_message() {
        let signature = key().sign("ahoy-a", &[b"one", b"two"]);
        assert_eq!(key().public().verify("ahoy-a", b"onetwo", &signature), Ok(()));
        assert_eq!(key().public().verify("ahoy-b", b"onetwo", &signature), Err(BadSignature));
        assert_eq!(key().public().verify("ahoy-a", b"onetwp", &signature), Err(BadSignature));
        assert_eq!(key().public().verify("ahoy-a", b"onetwo", &signature[..63]), Err(BadSignature));
    }

    #[test]
    fn a_key_file_is_read_back_and_anything_else_is_refused() {
        let text = key().to_key_file();
        let read = SigningKey::from_key_file(&text).expect("just written");
        assert_eq!(read.public(), key().public());
        for bad in ["", "ahoy-key-v1", "ahoy-key-v2 AAAA", &format!("{} more", text.trim())] {
            assert!(SigningKey::from_key_file(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn refuses_a_key_of_small_order() {
        let mut one = [0; 32];
        one[0] = 1;
        assert_eq!(PublicKey::from_bytes(&one), Err(KeyError::Public));
    }

    #[test]
    fn debug_does_not_show_the_secret() {
        let shown = format!("{:?}", key());
        assert!(shown.contains("secret") && !shown.contains(&base64url::encode(&*key().seed())));
    }
}
