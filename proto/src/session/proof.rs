//! Decides which bytes a device or service signs, and what ties them to one handshake with one server.

use sha2::{Digest, Sha256};

use crate::key::{PublicKey, SigningKey};
use crate::v1::BindingKind;

/// Context of a device's proof. `[WIRE-AUTH-03]`
pub const DEVICE_CONTEXT: &str = "ahoy-device-v1";
/// Context of a service's proof. `[WIRE-AUTH-03]`
pub const SERVICE_CONTEXT: &str = "ahoy-service-v1";

/// SHA-256 over both hello frames as sent, length prefixes included. `[WIRE-AUTH-04]`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transcript([u8; 32]);

impl Transcript {
    /// Over the payloads of the two frames; a length has one form, so the prefixes follow from them.
    pub fn new(client_hello: &[u8], server_hello: &[u8]) -> Self {
        let mut hash = Sha256::new();
        for payload in [client_hello, server_hello] {
            let mut prefix = Vec::with_capacity(5);
            prost::encode_length_delimiter(payload.len(), &mut prefix).expect("a Vec grows");
            hash.update(&prefix);
            hash.update(payload);
        }
        Self(hash.finalize().into())
    }
}

/// What the prover saw of the server, so that a relay in between shows. `[WIRE-AUTH-05]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Binding {
    /// SHA-256 of the SPKI of the server's TLS certificate.
    Spki([u8; 32]),
    /// The page's https origin, in a browser.
    WebOrigin(String),
}

impl Binding {
    /// Which kind this is on the wire.
    pub fn kind(&self) -> BindingKind {
        match self {
            Self::Spki(_) => BindingKind::Spki,
            Self::WebOrigin(_) => BindingKind::WebOrigin,
        }
    }

    fn bytes(&self) -> &[u8] {
        match self {
            Self::Spki(hash) => hash,
            Self::WebOrigin(origin) => origin.as_bytes(),
        }
    }
}

/// Everything that a proof covers. Signed bytes: `context 0x00 | transcript | u16 len | account | key |
/// u16 len | server name | binding kind u8 | u16 len | binding`. `[WIRE-AUTH-03]`
#[derive(Clone, Copy, Debug)]
pub struct ProofParts<'a> {
    /// [`DEVICE_CONTEXT`] or [`SERVICE_CONTEXT`].
    pub context: &'a str,
    /// Of this handshake.
    pub transcript: Transcript,
    /// The account's address, or `service/name`.
    pub account: &'a str,
    /// The name that the client asked for.
    pub server_name: &'a str,
    /// What the prover saw, or the verifier is.
    pub binding: &'a Binding,
}

impl ProofParts<'_> {
    /// The proof by `key`.
    pub fn sign(&self, key: &SigningKey) -> [u8; 64] {
        key.sign(self.context, &[&self.message(&key.public())])
    }

    /// Whether `signature` is the proof by `key`.
    pub fn verifies(&self, key: &PublicKey, signature: &[u8]) -> bool {
        key.verify(self.context, &self.message(key), signature).is_ok()
    }

    fn message(&self, key: &PublicKey) -> Vec<u8> {
        let mut out = Vec::with_capacity(256);
        out.extend_from_slice(&self.transcript.0);
        push(&mut out, self.account.as_bytes());
        out.extend_from_slice(key.as_bytes());
        push(&mut out, self.server_name.as_bytes());
        out.push(self.binding.kind() as u8);
        push(&mut out, self.binding.bytes());
        out
    }
}

fn push(out: &mut Vec<u8>, field: &[u8]) {
    let length = u16::try_from(field.len()).expect("addresses, names and origins are below 64 KiB");
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(field);
}
