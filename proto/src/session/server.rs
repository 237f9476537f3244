//! The server's half: reads a stranger's hello, shows the card, and checks what the stranger proves.
//!
//! Whether a key is enrolled and a claim is true are the homeserver's questions, asked after this.

use bytes::Bytes;
use prost::Message;

use super::proof::{Binding, DEVICE_CONTEXT, ProofParts, SERVICE_CONTEXT, Transcript};
use super::{
    FEATURE_BYTES, FEATURES, INVITE_BYTES, LABEL_BYTES, SERVICE_ADDRESSES, SessionError, VERSIONS, control,
    kind, read,
};
use crate::address::{Address, Local};
use crate::key::PublicKey;
use crate::limit;
use crate::name::{Name, NamePolicy};
use crate::time::Timestamp;
use crate::v1::auth::Auth as Kind;
use crate::v1::control_frame::Frame;
use crate::v1::{ClientHello, ControlFrame, DeviceAuth, Enrol, Limits, Ready, Role, ServerAuth, ServerHello};
use crate::v1::{ServiceAuth, Signed};

/// What the server offers to this client.
#[derive(Clone, Debug, Default)]
pub struct ServerTerms {
    /// The card of the wanted name.
    pub card: Signed,
    /// Optional behaviour that both may use.
    pub features: Vec<String>,
    /// What the server accepts.
    pub limits: Limits,
}

/// Nothing was received yet.
#[derive(Debug)]
pub struct HelloAwaited {
    policy: NamePolicy,
}

impl HelloAwaited {
    /// `policy` decides which special-use names may be asked for and signed in to.
    pub fn new(policy: NamePolicy) -> Self {
        Self { policy }
    }

    /// Takes the client's hello. `[WIRE-HELLO-05]`
    ///
    /// # Errors
    /// Every [`SessionError`] but `BadProof` and `ClockSkew`.
    pub fn receive(self, payload: Bytes) -> Result<ClientMet, SessionError> {
        let hello = match read(payload.clone())? {
            Frame::ClientHello(hello) => hello,
            other => return Err(SessionError::OutOfOrder(kind(&other))),
        };
        check_sizes(&hello)?;
        if !hello.versions.contains(&limit::VERSION) {
            return Err(SessionError::Version);
        }
        let role = match Role::try_from(hello.role) {
            Ok(Role::Unspecified) => return Err(SessionError::Malformed("a ClientHello without a role")),
            Ok(role) => role,
            Err(_) => return Err(SessionError::Unsupported("this role")),
        };
        let wanted = Name::from_wire(&hello.wanted_name, &self.policy)
            .map_err(|_| SessionError::Malformed("the wanted name is not a name in wire form"))?;
        Ok(ClientMet { policy: self.policy, payload, hello, role, wanted })
    }
}

fn check_sizes(hello: &ClientHello) -> Result<(), SessionError> {
    if hello.nonce.len() != 32 {
        return Err(SessionError::Malformed("a nonce is 32 bytes"));
    }
    if hello.versions.len() > VERSIONS {
        return Err(SessionError::Malformed("too many versions"));
    }
    if hello.features.len() > FEATURES || hello.features.iter().any(|f| f.len() > FEATURE_BYTES) {
        return Err(SessionError::Malformed("too many features, or one that is too long"));
    }
    Ok(())
}

/// The client has said who it wants; nothing is known of itself.
#[derive(Debug)]
pub struct ClientMet {
    policy: NamePolicy,
    payload: Bytes,
    hello: ClientHello,
    role: Role,
    wanted: Name,
}

impl ClientMet {
    /// As what it will authenticate.
    pub fn role(&self) -> Role {
        self.role
    }

    /// Whose card it asks for.
    pub fn wanted(&self) -> &Name {
        &self.wanted
    }

    /// Shows the card; the frame to send comes with the next state. `nonce` is fresh randomness.
    ///
    /// # Errors
    /// [`SessionError::Malformed`] never happens for terms that fit the frame limit.
    pub fn answer(
        self,
        terms: ServerTerms,
        nonce: [u8; 32],
        now: Timestamp,
    ) -> Result<(AuthAwaited, Bytes), SessionError> {
        let frame = Frame::ServerHello(ServerHello {
            card: Some(terms.card),
            version: limit::VERSION,
            features: terms.features,
            limits: Some(terms.limits),
            time_ms: now.as_millis(),
            nonce: Bytes::copy_from_slice(&nonce),
        });
        let payload = ControlFrame { frame: Some(frame.clone()) }.encode_to_vec();
        if payload.len() > limit::HANDSHAKE_BYTES {
            return Err(SessionError::Malformed("the card is too large for a hello"));
        }
        let transcript = Transcript::new(&self.payload, &payload);
        let Self { policy, hello, role, wanted, .. } = self;
        Ok((AuthAwaited { policy, hello, role, wanted, transcript }, control(frame)))
    }
}

/// The card was shown; a proof is due.
#[derive(Debug)]
pub struct AuthAwaited {
    policy: NamePolicy,
    hello: ClientHello,
    role: Role,
    wanted: Name,
    transcript: Transcript,
}

impl AuthAwaited {
    /// Takes the proof. `own` is the binding as this server knows it, never as the client states it.
    /// `[WIRE-AUTH-05]`
    ///
    /// # Errors
    /// [`SessionError::BadProof`] when it was made for another handshake, server or key; else what is wrong
    /// with the frame.
    pub fn receive(self, payload: Bytes, own: &Binding) -> Result<Authenticated, SessionError> {
        let auth = match read(payload)? {
            Frame::Auth(auth) => auth.auth.ok_or(SessionError::Malformed("an empty Auth"))?,
            other => return Err(SessionError::OutOfOrder(kind(&other))),
        };
        match (&auth, self.role) {
            (Kind::Device(device), Role::Device) => self.check_device(device, own)?,
            (Kind::Service(service), Role::Service) => self.check_service(service, own)?,
            (Kind::Server(server), Role::Homeserver) => check_claims(server)?,
            _ => return Err(SessionError::OutOfOrder("an Auth of another role than announced")),
        }
        Ok(Authenticated { auth, hello: self.hello, role: self.role, wanted: self.wanted })
    }

    fn check_device(&self, auth: &DeviceAuth, own: &Binding) -> Result<(), SessionError> {
        let account = Address::from_wire(&auth.account, &self.policy)
            .map_err(|_| SessionError::Malformed("the account is not an address in wire form"))?;
        if account.name() != &self.wanted {
            return Err(SessionError::Malformed("the account is of another name than the wanted one"));
        }
        check_enrol(auth.enrol.as_ref())?;
        let proof = Proof { binding: auth.binding, key: &auth.device_key, signature: &auth.signature };
        self.check_proof(DEVICE_CONTEXT, &auth.account, proof, own)
    }

    fn check_service(&self, auth: &ServiceAuth, own: &Binding) -> Result<(), SessionError> {
        if auth.name != self.wanted.as_str() {
            return Err(SessionError::Malformed("the service is of another name than the wanted one"));
        }
        Local::from_wire(&auth.service)
            .map_err(|_| SessionError::Malformed("a service is named like the local part of an address"))?;
        let is_address = |text: &String| Address::from_wire(text, &self.policy).is_ok();
        if auth.addresses.len() > SERVICE_ADDRESSES || !auth.addresses.iter().all(is_address) {
            return Err(SessionError::Malformed("too many addresses, or one not in wire form"));
        }
        check_enrol(auth.enrol.as_ref())?;
        let proof = Proof { binding: auth.binding, key: &auth.service_key, signature: &auth.signature };
        self.check_proof(SERVICE_CONTEXT, &format!("{}/{}", auth.service, auth.name), proof, own)
    }

    fn check_proof(
        &self,
        context: &str,
        account: &str,
        proof: Proof<'_>,
        own: &Binding,
    ) -> Result<(), SessionError> {
        if proof.binding != i32::from(own.kind()) {
            return Err(SessionError::BadProof);
        }
        let key = PublicKey::from_bytes(proof.key).map_err(|_| SessionError::BadProof)?;
        let server_name = self.wanted.as_str();
        let parts = ProofParts { context, transcript: self.transcript, account, server_name, binding: own };
        if parts.verifies(&key, proof.signature) { Ok(()) } else { Err(SessionError::BadProof) }
    }
}

struct Proof<'a> {
    binding: i32,
    key: &'a [u8],
    signature: &'a [u8],
}

fn check_enrol(enrol: Option<&Enrol>) -> Result<(), SessionError> {
    match enrol {
        Some(enrol) if enrol.invite.len() > INVITE_BYTES || enrol.label.len() > LABEL_BYTES => {
            Err(SessionError::Malformed("an invite or label that is too long"))
        }
        _ => Ok(()),
    }
}

fn check_claims(auth: &ServerAuth) -> Result<(), SessionError> {
    if auth.claims.len() > limit::PENDING_CLAIMS {
        return Err(SessionError::Malformed("too many claims"));
    }
    if auth.claims.iter().any(|claim| claim.card.is_none()) {
        return Err(SessionError::Malformed("a claim without a card"));
    }
    Ok(())
}

/// The proof holds for this connection. What it is worth is the homeserver's decision.
#[derive(Debug)]
pub struct Authenticated {
    auth: Kind,
    hello: ClientHello,
    role: Role,
    wanted: Name,
}

impl Authenticated {
    /// What was proved or claimed.
    pub fn auth(&self) -> &Kind {
        &self.auth
    }

    /// The same, without the rest.
    pub fn into_auth(self) -> Kind {
        self.auth
    }

    /// The client's hello: its features and limits.
    pub fn hello(&self) -> &ClientHello {
        &self.hello
    }

    /// As what it authenticated.
    pub fn role(&self) -> Role {
        self.role
    }

    /// The name that it asked for.
    pub fn wanted(&self) -> &Name {
        &self.wanted
    }

    /// The frame that ends the handshake.
    pub fn ready(ready: Ready) -> Bytes {
        control(Frame::Ready(ready))
    }
}
