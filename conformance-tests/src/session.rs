//! Decides how the suite goes through the handshake, step by step, so that a case can go wrong at any of them, and
//! what it does on a connection after it.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use bytes::{Bytes, BytesMut};
use prost::Message as _;
use sha2::{Digest as _, Sha256};
use tokio::time::timeout;

use ahoy_proto::v1::{self, ControlFrame, control_frame::Frame, open::Open, request, response};

use crate::frame::{End, PATIENCE, Stream, decode, put_length};
use crate::moment::{now_ms, random};
use crate::quic::{Net, Show, peer_spki};
use crate::refusal::Refused;
use crate::sign::Key;

/// Where a homeserver is.
#[derive(Debug, Clone)]
pub struct Target {
    /// The wanted name.
    pub name: String,
    /// The host for SNI.
    pub host: String,
    /// UDP address.
    pub address: SocketAddr,
}

/// A hello of this role that is right in every respect.
pub fn hello(role: v1::Role, wanted: &str) -> v1::ClientHello {
    v1::ClientHello {
        versions: vec![1],
        role: role.into(),
        wanted_name: wanted.to_owned(),
        nonce: Bytes::copy_from_slice(&random::<32>()),
        ..v1::ClientHello::default()
    }
}

/// A control frame.
pub fn control(frame: Frame) -> ControlFrame {
    ControlFrame { frame: Some(frame) }
}

/// The subject has answered the hello; nothing is proved yet.
#[derive(Debug)]
pub struct Greeted {
    /// The connection.
    pub connection: quinn::Connection,
    /// The first stream.
    pub stream: Stream,
    /// What the subject said.
    pub hello: v1::ServerHello,
    /// SHA-256 of the SPKI that it showed.
    pub spki: [u8; 32],
    /// SHA-256 over both hellos as sent.
    pub transcript: [u8; 32],
    name: String,
}

/// Connects and exchanges hellos.
///
/// # Errors
/// [`Refused`] or [`End`], or what the subject did wrong.
pub async fn greet(
    net: &Net,
    target: &Target,
    show: Show,
    hello: v1::ClientHello,
) -> anyhow::Result<Greeted> {
    let connection = net.connect(target.address, &target.host, show).await?;
    let spki = peer_spki(&connection)?;
    let mut stream = Stream::new(connection.open_bi().await.map_err(End::from)?);
    let name = hello.wanted_name.clone();
    let sent = control(Frame::ClientHello(hello));
    stream.send(&sent).await?;
    let payload = stream.payload().await?;
    let transcript = transcript(&sent.encode_to_vec(), &payload);
    let hello = match decode::<ControlFrame>(payload)?.frame {
        Some(Frame::ServerHello(hello)) => hello,
        Some(Frame::Error(error)) => bail!(Refused(error)),
        other => bail!("the answer to a hello is {other:?}"),
    };
    ensure!(hello.version == 1, "WIRE-HELLO-05: version {} was not offered", hello.version);
    ensure!(hello.nonce.len() == 32, "WIRE-HELLO-05: a nonce of {} bytes", hello.nonce.len());
    ensure!(
        hello.time_ms.abs_diff(now_ms()) <= 600_000,
        "WIRE-HELLO-04: the subject's clock differs by more than 10 min"
    );
    Ok(Greeted { connection, stream, hello, spki, transcript, name })
}

fn transcript(client: &[u8], server: &[u8]) -> [u8; 32] {
    let mut hash = Sha256::new();
    for payload in [client, server] {
        let mut prefix = BytesMut::new();
        put_length(&mut prefix, payload.len());
        hash.update(&prefix);
        hash.update(payload);
    }
    hash.finalize().into()
}

/// The bytes that a device or service signs: [WIRE-AUTH-03].
pub fn proof(
    key: &Key,
    context: &str,
    transcript: &[u8; 32],
    account: &str,
    name: &str,
    spki: &[u8; 32],
) -> Bytes {
    let length = |text: &[u8]| (text.len() as u16).to_be_bytes();
    let kind = [v1::BindingKind::Spki as u8];
    key.sign(
        context,
        &[
            transcript,
            &length(account.as_bytes()),
            account.as_bytes(),
            &key.public(),
            &length(name.as_bytes()),
            name.as_bytes(),
            &kind,
            &length(spki),
            spki,
        ],
    )
}

impl Greeted {
    /// The `Auth` of a device on this connection.
    pub fn device_auth(&self, account: &str, key: &Key, invite: Option<&str>) -> v1::Auth {
        let signature = proof(key, "ahoy-device-v1", &self.transcript, account, &self.name, &self.spki);
        auth(v1::auth::Auth::Device(v1::DeviceAuth {
            account: account.to_owned(),
            device_key: key.public(),
            binding: v1::BindingKind::Spki.into(),
            signature,
            enrol: invite.map(enrol),
        }))
    }

    /// The `Auth` of a service on this connection that answers calls and messages.
    pub fn service_auth(
        &self,
        service: &str,
        key: &Key,
        addresses: &[String],
        invite: Option<&str>,
    ) -> v1::Auth {
        let account = format!("{service}/{}", self.name);
        let signature = proof(key, "ahoy-service-v1", &self.transcript, &account, &self.name, &self.spki);
        auth(v1::auth::Auth::Service(v1::ServiceAuth {
            name: self.name.clone(),
            service: service.to_owned(),
            service_key: key.public(),
            binding: v1::BindingKind::Spki.into(),
            signature,
            enrol: invite.map(enrol),
            addresses: addresses.to_vec(),
            calls: true,
            messages: true,
        }))
    }

    /// Sends the proof and takes the decision.
    ///
    /// # Errors
    /// [`Refused`] or [`End`].
    pub async fn authenticate(mut self, auth: v1::Auth) -> anyhow::Result<Session> {
        self.stream.send(&control(Frame::Auth(auth))).await?;
        match self.stream.recv::<ControlFrame>().await?.frame {
            Some(Frame::Ready(ready)) => {
                Ok(Session { connection: self.connection, control: self.stream, ready, spki: self.spki })
            }
            Some(Frame::Error(error)) => bail!(Refused(error)),
            other => bail!("the answer to Auth is {other:?}"),
        }
    }
}

/// An `Auth` around a proof.
pub fn auth(auth: v1::auth::Auth) -> v1::Auth {
    v1::Auth { auth: Some(auth) }
}

fn enrol(invite: &str) -> v1::Enrol {
    v1::Enrol { invite: invite.to_owned(), label: "conformance suite".to_owned() }
}

/// A connection after `Ready`. Dropping it closes it.
#[derive(Debug)]
pub struct Session {
    /// The connection.
    pub connection: quinn::Connection,
    /// The first stream.
    pub control: Stream,
    /// What `Ready` said.
    pub ready: v1::Ready,
    /// SHA-256 of the SPKI that the subject showed.
    pub spki: [u8; 32],
}

impl Drop for Session {
    fn drop(&mut self) {
        self.connection.close(0_u32.into(), b"");
    }
}

impl Session {
    /// Opens a stream of this kind.
    ///
    /// # Errors
    /// [`End`].
    pub async fn open(&self, open: Open) -> anyhow::Result<Stream> {
        let opened = timeout(PATIENCE, self.connection.open_bi()).await;
        let opened = opened.context("the subject gives no credit for a stream")?.map_err(End::from)?;
        let mut stream = Stream::new(opened);
        stream.send(&v1::Open { open: Some(open) }).await?;
        Ok(stream)
    }

    /// The next stream that the subject opens within a time.
    ///
    /// # Errors
    /// [`End::Silent`] when there is none.
    pub async fn accept(&self, time: Duration) -> anyhow::Result<(Open, Stream)> {
        let accepted = async {
            let mut stream = Stream::new(self.connection.accept_bi().await.map_err(End::from)?);
            let open = stream.recv::<v1::Open>().await?;
            Ok::<_, End>((open.open, stream))
        };
        let (open, stream) = timeout(time, accepted).await.map_err(|_| End::Silent(time))??;
        Ok((open.context("the subject opened a stream without saying what it is")?, stream))
    }

    /// One request and its response.
    ///
    /// # Errors
    /// [`Refused`] when the response is an error, else [`End`].
    pub async fn request(&self, request: request::Request) -> anyhow::Result<response::Response> {
        let mut stream = self.open(Open::Request(v1::Request { request: Some(request) })).await?;
        stream.finish();
        match stream.recv::<v1::Response>().await?.response {
            Some(response::Response::Error(error)) => bail!(Refused(error)),
            Some(response) => Ok(response),
            None => bail!("an empty response"),
        }
    }

    /// Asks for the explanation of a name; a refusal in the answer is a refusal.
    ///
    /// # Errors
    /// [`Refused`] with the resolution's code, else [`End`].
    pub async fn explain(&self, name: &str) -> anyhow::Result<v1::ExplainAnswer> {
        let asked = v1::Explain { name: name.to_owned(), fresh: true };
        match self.request(request::Request::Explain(asked)).await? {
            response::Response::Explain(v1::ExplainAnswer { error: Some(error), .. }) => {
                bail!(Refused(error))
            }
            response::Response::Explain(answer) => Ok(answer),
            other => bail!("the answer to Explain is {other:?}"),
        }
    }

    /// Hands a message in.
    ///
    /// # Errors
    /// [`Refused`], [`End`].
    pub async fn submit(&self, submit: v1::Submit) -> anyhow::Result<v1::SubmitAck> {
        match self.request(request::Request::Submit(submit)).await? {
            response::Response::Submit(ack) => Ok(ack),
            other => bail!("the answer to Submit is {other:?}"),
        }
    }

    /// Follows the sync log from a position on.
    ///
    /// # Errors
    /// [`End`].
    pub async fn sync(&self, after: u64) -> anyhow::Result<Sync> {
        Ok(Sync(self.open(Open::Sync(v1::SyncOpen { after })).await?))
    }
}

/// A sync subscription.
#[derive(Debug)]
pub struct Sync(Stream);

impl Sync {
    /// The next item for which `wanted` gives something, within [`PATIENCE`]; others are passed over.
    ///
    /// # Errors
    /// [`End::Silent`] when it does not come.
    pub async fn find<T>(&mut self, wanted: impl Fn(&v1::SyncItem) -> Option<T>) -> anyhow::Result<T> {
        let found = async {
            loop {
                match self.0.recv::<v1::SyncFrame>().await?.frame {
                    Some(v1::sync_frame::Frame::Item(item)) => {
                        if let Some(found) = wanted(&item) {
                            return Ok(found);
                        }
                    }
                    Some(v1::sync_frame::Frame::CaughtUp(_)) => {}
                    Some(v1::sync_frame::Frame::Error(error)) => bail!(Refused(error)),
                    None => bail!("an empty sync frame"),
                }
            }
        };
        timeout(PATIENCE, found).await.map_err(|_| End::Silent(PATIENCE))?
    }

    /// Every item up to the first `CaughtUp`.
    ///
    /// # Errors
    /// [`End`].
    pub async fn all(&mut self) -> anyhow::Result<Vec<v1::SyncItem>> {
        let mut items = Vec::new();
        loop {
            match self.0.recv::<v1::SyncFrame>().await?.frame {
                Some(v1::sync_frame::Frame::Item(item)) => items.push(item),
                Some(v1::sync_frame::Frame::CaughtUp(_)) => return Ok(items),
                Some(v1::sync_frame::Frame::Error(error)) => bail!(Refused(error)),
                None => bail!("an empty sync frame"),
            }
        }
    }
}
