//! The TLS key of an endpoint, and the file that keeps it. The certificate around it means nothing.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ahoy_proto::time::Entropy;
use rcgen::{CertificateParams, KeyPair, PKCS_ED25519};
use rustls::crypto::aws_lc_rs::sign::any_eddsa_type;
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::sign::CertifiedKey;
use zeroize::Zeroizing;

use crate::reset::ResetKey;
use crate::tls::spki_sha256;

/// The file inside the data folder.
const FILE: &str = "tls.key";
/// PKCS #8 v1 header of an ed25519 seed (RFC 8410 section 7).
const PKCS8_HEADER: [u8; 16] =
    [0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];

/// An ed25519 key with a self-signed certificate. Cloning shares the key.
#[derive(Clone)]
pub struct TlsIdentity {
    certified: Arc<CertifiedKey>,
    spki: [u8; 32],
    reset: Arc<ResetKey>,
}

impl std::fmt::Debug for TlsIdentity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TlsIdentity").field("spki", &self.spki).finish_non_exhaustive()
    }
}

/// Why an identity could not be made or loaded. All of these are local faults.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The file could not be read or written.
    #[error("{}: {source}", path.display())]
    File {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Others can read the key.
    #[error("{} is readable by others (mode {mode:o}): run `chmod 600` on it, or delete it for a new key", path.display())]
    Exposed {
        /// Which file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The file is not an ed25519 key.
    #[error("{} is not an ed25519 private key in PEM form: restore it, or delete it for a new key", path.display())]
    NotAKey {
        /// Which file.
        path: PathBuf,
    },
    /// The crypto library refused the key.
    #[error("the TLS key cannot be used: {0}")]
    Unusable(String),
}

impl TlsIdentity {
    /// A fresh key from `entropy`, kept only in memory.
    pub fn generate(entropy: &dyn Entropy) -> Result<Self, IdentityError> {
        Self::from_key(&generate_key(entropy)?)
    }

    /// Reads `dir/tls.key`, or makes it (mode 0600, durable before it is used).
    pub fn load_or_create(dir: &Path, entropy: &dyn Entropy) -> Result<Self, IdentityError> {
        let path = dir.join(FILE);
        let at = |source| IdentityError::File { path: path.clone(), source };
        match fs::metadata(&path) {
            Ok(metadata) => {
                let mode = metadata.permissions().mode() & 0o777;
                if mode & 0o077 != 0 {
                    return Err(IdentityError::Exposed { path, mode });
                }
                let pem = Zeroizing::new(fs::read_to_string(&path).map_err(at)?);
                let key = KeyPair::from_pkcs8_pem_and_sign_algo(&pem, &PKCS_ED25519)
                    .map_err(|_| IdentityError::NotAKey { path: path.clone() })?;
                Self::from_key(&key)
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                let key = generate_key(entropy)?;
                write_private(dir, &path, Zeroizing::new(key.serialize_pem()).as_bytes()).map_err(at)?;
                Self::from_key(&key)
            }
            Err(e) => Err(at(e)),
        }
    }

    /// SHA-256 of the SubjectPublicKeyInfo: what a card lists in `tls_spki`.
    pub fn spki(&self) -> [u8; 32] {
        self.spki
    }

    pub(crate) fn certified(&self) -> Arc<CertifiedKey> {
        self.certified.clone()
    }

    /// What signs this endpoint's stateless resets.
    pub(crate) fn reset_key(&self) -> Arc<ResetKey> {
        self.reset.clone()
    }

    fn from_key(key: &KeyPair) -> Result<Self, IdentityError> {
        let unusable = |e: &dyn std::fmt::Display| IdentityError::Unusable(e.to_string());
        let params = CertificateParams::new(vec!["ahoy.invalid".to_owned()]).map_err(|e| unusable(&e))?;
        let certificate = params.self_signed(key).map_err(|e| unusable(&e))?.der().clone();
        let pkcs8 = Zeroizing::new(key.serialize_der());
        let signer = any_eddsa_type(&PrivatePkcs8KeyDer::from(pkcs8.as_slice())).map_err(|e| unusable(&e))?;
        let spki = spki_sha256(&certificate).map_err(|e| unusable(&e))?;
        let reset = Arc::new(ResetKey::derive(&pkcs8));
        Ok(Self { certified: Arc::new(CertifiedKey::new(vec![certificate], signer)), spki, reset })
    }
}

fn generate_key(entropy: &dyn Entropy) -> Result<KeyPair, IdentityError> {
    let mut pkcs8 = Zeroizing::new([0u8; 48]);
    pkcs8[..16].copy_from_slice(&PKCS8_HEADER);
    entropy.fill(&mut pkcs8[16..]);
    KeyPair::from_pkcs8_der_and_sign_algo(&PrivatePkcs8KeyDer::from(pkcs8.as_slice()), &PKCS_ED25519)
        .map_err(|e| IdentityError::Unusable(e.to_string()))
}

/// Writes beside the target and renames, so that a crash leaves either no key or a whole one.
fn write_private(dir: &Path, path: &Path, contents: &[u8]) -> io::Result<()> {
    let temporary = path.with_extension("key.new");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
    file.set_permissions(fs::Permissions::from_mode(0o600))?;
    file.write_all(contents)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    fs::File::open(dir)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::OsEntropy;

    #[test]
    fn a_second_load_yields_the_same_key_from_a_private_file() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let first = TlsIdentity::load_or_create(dir.path(), &OsEntropy).unwrap();
        let second = TlsIdentity::load_or_create(dir.path(), &OsEntropy).unwrap();
        assert_eq!(first.spki(), second.spki());
        let mode = fs::metadata(dir.path().join(FILE)).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600);
        assert_ne!(first.spki(), TlsIdentity::generate(&OsEntropy).unwrap().spki());
    }

    #[test]
    fn a_key_that_others_can_read_is_refused() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        TlsIdentity::load_or_create(dir.path(), &OsEntropy).unwrap();
        fs::set_permissions(dir.path().join(FILE), fs::Permissions::from_mode(0o640)).unwrap();
        let refused = TlsIdentity::load_or_create(dir.path(), &OsEntropy);
        assert!(matches!(refused, Err(IdentityError::Exposed { mode: 0o640, .. })));
    }

    #[test]
    fn a_damaged_key_file_is_named_and_not_replaced() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        write_private(dir.path(), &dir.path().join(FILE), b"not a key").unwrap();
        let refused = TlsIdentity::load_or_create(dir.path(), &OsEntropy);
        assert!(matches!(refused, Err(IdentityError::NotAKey { .. })));
        assert_eq!(fs::read(dir.path().join(FILE)).unwrap(), b"not a key");
    }
}
