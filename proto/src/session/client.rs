//! The client's half: says hello, meets the server, and proves itself only when its owner says so.

use bytes::Bytes;
use prost::Message;

use super::proof::{Binding, DEVICE_CONTEXT, ProofParts, SERVICE_CONTEXT, Transcript};
use super::{DeviceCredentials, Hello, ServiceCredentials, SessionError, control, kind, read};
use crate::limit;
use crate::name::Name;
use crate::time::{Entropy, Timestamp, random};
use crate::v1::auth::Auth as Kind;
use crate::v1::control_frame::Frame;
use crate::v1::{Auth, Claim, ClientHello, ControlFrame, DeviceAuth, Ready, Role, ServerAuth, ServerHello};
use crate::v1::{ServiceAuth, Signed};

/// The hello is on its way.
#[derive(Debug)]
pub struct HelloSent {
    role: Role,
    wanted: Name,
    payload: Vec<u8>,
}

impl HelloSent {
    /// The state, and the frame to send. `[WIRE-HELLO-05]`
    pub fn new(hello: Hello, entropy: &dyn Entropy) -> (Self, Bytes) {
        let frame = Frame::ClientHello(ClientHello {
            versions: vec![limit::VERSION],
            role: hello.role.into(),
            wanted_name: hello.wanted.as_str().to_owned(),
            nonce: Bytes::copy_from_slice(&random::<32>(entropy)),
            features: hello.features,
            limits: Some(hello.limits),
        });
        let payload = ControlFrame { frame: Some(frame.clone()) }.encode_to_vec();
        (Self { role: hello.role, wanted: hello.wanted, payload }, control(frame))
    }

    /// Takes the server's answer.
    ///
    /// # Errors
    /// Every [`SessionError`] but `BadProof`.
    pub fn receive(self, payload: Bytes, now: Timestamp) -> Result<ServerMet, SessionError> {
        let transcript = Transcript::new(&self.payload, &payload);
        let hello = match read(payload)? {
            Frame::ServerHello(hello) => hello,
            other => return Err(SessionError::OutOfOrder(kind(&other))),
        };
        if hello.version != limit::VERSION {
            return Err(SessionError::Version);
        }
        if hello.nonce.len() != 32 {
            return Err(SessionError::Malformed("a nonce is 32 bytes"));
        }
        if hello.card.is_none() {
            return Err(SessionError::Malformed("a ServerHello without a card"));
        }
        let server_time = Timestamp::from_millis(hello.time_ms);
        let skew = now.since(server_time).max(server_time.since(now));
        // A reader of cards judges their dates by its own clock and proves nothing. `[WIRE-HELLO-04]`
        if skew > limit::CLOCK_SKEW && self.role != Role::CardReader {
            return Err(SessionError::ClockSkew(skew.as_secs()));
        }
        Ok(ServerMet { role: self.role, wanted: self.wanted, hello, transcript })
    }
}

/// The server has shown its card. Nothing is proved to it yet.
#[derive(Debug)]
pub struct ServerMet {
    role: Role,
    wanted: Name,
    hello: ServerHello,
    transcript: Transcript,
}

impl ServerMet {
    /// What the server said: its card, limits, features and time.
    pub fn server_hello(&self) -> &ServerHello {
        &self.hello
    }

    /// The name that was asked for.
    pub fn wanted(&self) -> &Name {
        &self.wanted
    }

    /// Proves a device key to this server on this connection, and to no other. `[WIRE-AUTH-03]`
    ///
    /// # Errors
    /// [`SessionError::OutOfOrder`] when the hello announced another role.
    pub fn prove_device(
        self,
        credentials: &DeviceCredentials,
        binding: &Binding,
    ) -> Result<(AuthSent, Bytes), SessionError> {
        let account = credentials.account.to_string();
        let signature = self.parts(DEVICE_CONTEXT, &account, binding).sign(&credentials.key);
        let auth = Kind::Device(DeviceAuth {
            account,
            device_key: Bytes::copy_from_slice(credentials.key.public().as_bytes()),
            binding: binding.kind().into(),
            signature: Bytes::copy_from_slice(&signature),
            enrol: credentials.enrol.clone(),
        });
        self.send(Role::Device, auth)
    }

    /// Proves a service key, likewise.
    ///
    /// # Errors
    /// [`SessionError::OutOfOrder`] when the hello announced another role.
    pub fn prove_service(
        self,
        credentials: &ServiceCredentials,
        binding: &Binding,
    ) -> Result<(AuthSent, Bytes), SessionError> {
        let account = format!("{}/{}", credentials.service, self.wanted);
        let signature = self.parts(SERVICE_CONTEXT, &account, binding).sign(&credentials.key);
        let auth = Kind::Service(ServiceAuth {
            name: self.wanted.as_str().to_owned(),
            service: credentials.service.as_str().to_owned(),
            service_key: Bytes::copy_from_slice(credentials.key.public().as_bytes()),
            binding: binding.kind().into(),
            signature: Bytes::copy_from_slice(&signature),
            enrol: credentials.enrol.clone(),
            addresses: credentials.addresses.iter().map(ToString::to_string).collect(),
            calls: credentials.calls,
            messages: credentials.messages,
        });
        self.send(Role::Service, auth)
    }

    /// Claims the names of `cards`. The TLS key of the connection is the proof; the server looks it up.
    ///
    /// # Errors
    /// [`SessionError::OutOfOrder`] when the hello announced another role.
    pub fn claim(self, cards: Vec<Signed>) -> Result<(AuthSent, Bytes), SessionError> {
        let claims = cards.into_iter().map(|card| Claim { card: Some(card) }).collect();
        self.send(Role::Homeserver, Kind::Server(ServerAuth { claims }))
    }

    fn parts<'a>(&'a self, context: &'a str, account: &'a str, binding: &'a Binding) -> ProofParts<'a> {
        let server_name = self.wanted.as_str();
        ProofParts { context, transcript: self.transcript, account, server_name, binding }
    }

    fn send(self, role: Role, auth: Kind) -> Result<(AuthSent, Bytes), SessionError> {
        if self.role != role {
            return Err(SessionError::OutOfOrder("an Auth of another role than announced"));
        }
        Ok((AuthSent(()), control(Frame::Auth(Auth { auth: Some(auth) }))))
    }
}

/// The proof is on its way.
#[derive(Debug)]
pub struct AuthSent(());

impl AuthSent {
    /// Takes the server's decision.
    ///
    /// # Errors
    /// [`SessionError::Refused`], or what is wrong with the frame.
    pub fn receive(self, payload: Bytes) -> Result<Ready, SessionError> {
        match read(payload)? {
            Frame::Ready(ready) => Ok(ready),
            other => Err(SessionError::OutOfOrder(kind(&other))),
        }
    }
}
