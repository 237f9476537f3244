//! Plays one side of one hop of a call: numbers, tokens, and the Invite.

use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use bytes::Bytes;
use prost::Message as _;
use sha2::{Digest as _, Sha256};
use tokio::time::timeout;

use ahoy_proto::v1::{self, HangupReason, call_frame::Message, open::Open};

use crate::frame::{End, PATIENCE, Stream};
use crate::moment::{now_ms, random};
use crate::refusal::Refused;
use crate::session::Session;
use crate::sign::{Key, is_message_key, verify};

/// An offer that is complete as far as a homeserver can see.
pub const OFFER: &str = "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\nm=audio 9 UDP/TLS/RTP/SAVPF 8 0 101\r\n\
    c=IN IP4 127.0.0.1\r\na=rtpmap:8 PCMA/8000\r\na=rtpmap:0 PCMU/8000\r\na=rtpmap:101 telephone-event/8000\r\n\
    a=sendrecv\r\na=rtcp-mux\r\n";
/// An answer to it.
pub const ANSWER: &str = "v=0\r\no=- 2 2 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\nm=audio 9 UDP/TLS/RTP/SAVPF 8 101\r\n\
    c=IN IP4 127.0.0.1\r\na=rtpmap:8 PCMA/8000\r\na=rtpmap:101 telephone-event/8000\r\na=sendrecv\r\na=rtcp-mux\r\n";

/// A call that the suite places.
#[derive(Debug, Clone)]
pub struct Call {
    /// Its id.
    pub id: Bytes,
    /// Caller.
    pub from: String,
    /// Callee.
    pub to: String,
}

impl Call {
    /// A new call.
    pub fn new(from: &str, to: &str) -> Self {
        Self { id: Bytes::copy_from_slice(&random::<16>()), from: from.to_owned(), to: to.to_owned() }
    }

    /// What its stream begins with.
    pub fn open(&self) -> v1::CallOpen {
        v1::CallOpen { call: self.id.clone(), to: self.to.clone(), from: self.from.clone(), resume: None }
    }

    /// The body of its Invite, for [`OFFER`].
    pub fn body(&self) -> v1::InviteBody {
        v1::InviteBody {
            call: self.id.clone(),
            from: self.from.clone(),
            to: self.to.clone(),
            time_ms: now_ms(),
            sdp_sha256: Bytes::copy_from_slice(&Sha256::digest(OFFER)),
            diversions: Vec::new(),
        }
    }

    /// Its Invite, signed when a homeserver sends it.
    pub fn invite(&self, key: Option<&Key>, remaining_ms: u32) -> v1::Invite {
        invite(&self.body(), key, remaining_ms)
    }

    /// Places it: opens the stream and sends the Invite.
    ///
    /// # Errors
    /// [`End`].
    pub async fn place(
        &self,
        session: &Session,
        key: Option<&Key>,
        remaining_ms: u32,
    ) -> anyhow::Result<Leg> {
        let mut leg = Leg::new(session.open(Open::Call(self.open())).await?);
        leg.send(Message::Invite(self.invite(key, remaining_ms))).await?;
        Ok(leg)
    }

    /// Opens a stream that resumes it.
    ///
    /// # Errors
    /// [`End`].
    pub async fn resume(&self, session: &Session, resume: v1::Resume) -> anyhow::Result<Stream> {
        session.open(Open::Call(v1::CallOpen { resume: Some(resume), ..self.open() })).await
    }

    /// Takes it at a device or service, and checks its Invite.
    ///
    /// # Errors
    /// [`End::Silent`] when it does not come, or the requirement that the Invite breaks.
    pub async fn taken(&self, session: &Session) -> anyhow::Result<(Leg, v1::Invite)> {
        self.taken_within(session, PATIENCE).await
    }

    /// The same, within a time.
    ///
    /// # Errors
    /// As [`Call::taken`].
    pub async fn taken_within(&self, session: &Session, time: Duration) -> anyhow::Result<(Leg, v1::Invite)> {
        let arrived = async {
            loop {
                if let (Open::Call(open), stream) = session.accept(time).await?
                    && open.call == self.id
                {
                    return anyhow::Ok((open, stream));
                }
            }
        };
        let (open, stream) = timeout(time, arrived).await.map_err(|_| End::Silent(time))??;
        self.answered(open, stream).await
    }

    /// Accepts a stream of it: gives a token, takes the Invite.
    ///
    /// # Errors
    /// [`End`], or the requirement that the Invite breaks.
    pub async fn answered(&self, open: v1::CallOpen, stream: Stream) -> anyhow::Result<(Leg, v1::Invite)> {
        ensure!(
            open.to == self.to && open.from == self.from,
            "the call is from {} to {}",
            open.from,
            open.to
        );
        ensure!(open.resume.is_none(), "a new call is opened as a resumption");
        let mut leg = Leg::new(stream);
        leg.give_token().await?;
        let Message::Invite(invite) = leg.next().await? else { bail!("a call begins without an Invite") };
        let body = v1::InviteBody::decode(invite.body.clone()).context("the Invite does not decode")?;
        ensure!(body.call == self.id, "CALL-INVITE-06: the Invite is of another call than its stream");
        ensure!(
            body.sdp_sha256 == Sha256::digest(&invite.sdp)[..],
            "CALL-INVITE-02: the hash is not that of the offer"
        );
        Ok((leg, invite))
    }
}

/// An Invite around a body, signed when a homeserver sends it.
pub fn invite(body: &v1::InviteBody, key: Option<&Key>, remaining_ms: u32) -> v1::Invite {
    let bytes = Bytes::from(body.encode_to_vec());
    v1::Invite {
        key: key.map(Key::public).unwrap_or_default(),
        signature: key.map(|key| key.sign("ahoy-invite-v1", &[&bytes])).unwrap_or_default(),
        body: bytes,
        sdp: OFFER.to_owned(),
        remaining_ms,
        caller_display: "Conformance Suite".to_owned(),
    }
}

/// Verifies an Invite by a message key of the caller's card.
///
/// # Errors
/// When it does not verify.
pub fn check_invite(invite: &v1::Invite, caller: &v1::Card) -> anyhow::Result<()> {
    ensure!(
        is_message_key(caller, &invite.key, now_ms()),
        "CALL-INVITE-03: the signing key is no message key of {}",
        caller.name
    );
    verify(&invite.key, "ahoy-invite-v1", &[&invite.body], &invite.signature).context("CALL-INVITE-03")
}

/// One side of one hop.
#[derive(Debug)]
pub struct Leg {
    stream: Stream,
    /// The number of the last message sent.
    pub sent: u64,
    /// The number of the last message received.
    pub received: u64,
    /// The token that was given last, by whichever side.
    pub token: Option<Bytes>,
}

impl Leg {
    /// On a stream on which nothing was said.
    pub fn new(stream: Stream) -> Self {
        Self { stream, sent: 0, received: 0, token: None }
    }

    /// The same hop on another stream.
    pub fn on(self, stream: Stream) -> Self {
        Self { stream, ..self }
    }

    /// As the acceptor: the first frame of a stream.
    ///
    /// # Errors
    /// [`End`].
    pub async fn give_token(&mut self) -> anyhow::Result<()> {
        let token = Bytes::copy_from_slice(&random::<16>());
        self.token = Some(token.clone());
        self.send_as(0, Message::Token(v1::HopToken { token })).await
    }

    /// Sends the next message.
    ///
    /// # Errors
    /// [`End`].
    pub async fn send(&mut self, message: Message) -> anyhow::Result<()> {
        self.sent += 1;
        self.send_as(self.sent, message).await
    }

    /// Sends a message under this number.
    ///
    /// # Errors
    /// [`End`].
    pub async fn send_as(&mut self, counter: u64, message: Message) -> anyhow::Result<()> {
        Ok(self.stream.send(&v1::CallFrame { counter, message: Some(message) }).await?)
    }

    /// Hangs up.
    ///
    /// # Errors
    /// [`End`].
    pub async fn hang_up(&mut self, reason: HangupReason) -> anyhow::Result<()> {
        self.send(Message::Hangup(v1::Hangup { reason: reason.into(), ..v1::Hangup::default() })).await?;
        self.stream.finish();
        Ok(())
    }

    /// The next message of the call within [`PATIENCE`]; tokens are kept, numbers are checked.
    ///
    /// # Errors
    /// [`Refused`] for an `Error`, [`End`], or the requirement that it breaks.
    pub async fn next(&mut self) -> anyhow::Result<Message> {
        self.next_within(PATIENCE).await
    }

    /// The same within a time.
    ///
    /// # Errors
    /// As [`Leg::next`].
    pub async fn next_within(&mut self, time: Duration) -> anyhow::Result<Message> {
        loop {
            let frame = self.stream.recv_within::<v1::CallFrame>(time).await?;
            match frame.message {
                Some(Message::Token(token)) => {
                    ensure!(
                        (16..=64).contains(&token.token.len()),
                        "CALL-RESUME-03: a token of {} bytes",
                        token.token.len()
                    );
                    self.token = Some(token.token);
                }
                Some(Message::Error(error)) => bail!(Refused(error)),
                Some(resumed @ Message::Resumed(_)) => return Ok(resumed),
                Some(message) => {
                    ensure!(
                        frame.counter == self.received + 1,
                        "CALL-RESUME-01: message {} after {}",
                        frame.counter,
                        self.received
                    );
                    self.received = frame.counter;
                    return Ok(message);
                }
                None => self.received = frame.counter,
            }
        }
    }

    /// The reason and the words with which the call ends; other messages are passed over.
    ///
    /// # Errors
    /// [`Refused`] when the stream ends with an `Error`, [`End`] when the call does not end.
    pub async fn end(&mut self) -> anyhow::Result<v1::Hangup> {
        self.end_within(PATIENCE).await
    }

    /// The same within a time.
    ///
    /// # Errors
    /// As [`Leg::end`].
    pub async fn end_within(&mut self, time: Duration) -> anyhow::Result<v1::Hangup> {
        let ended = async {
            loop {
                if let Message::Hangup(hangup) = self.next_within(time).await? {
                    return anyhow::Ok(hangup);
                }
            }
        };
        let hangup = timeout(time, ended).await.map_err(|_| End::Silent(time))??;
        self.stream.finish();
        Ok(hangup)
    }

    /// Ends with this reason.
    ///
    /// # Errors
    /// When it ends otherwise.
    pub async fn ends_with(&mut self, wanted: HangupReason) -> anyhow::Result<String> {
        let hangup = self.end().await.with_context(|| format!("expected Hangup {}", reason_name(wanted)))?;
        ensure!(
            hangup.reason() == wanted,
            "expected Hangup {}, got {} ({:?})",
            reason_name(wanted),
            reason_name(hangup.reason()),
            hangup.message
        );
        ensure!(hangup.message.len() <= 256, "a hang-up with {} bytes of words", hangup.message.len());
        Ok(format!("Hangup {} {:?}", reason_name(wanted), hangup.message))
    }

    /// The same hop on another stream, and the stream that it was on.
    pub fn moved_to(self, stream: Stream) -> (Self, Stream) {
        let Self { stream: before, sent, received, token } = self;
        (Self { stream, sent, received, token }, before)
    }

    /// What to resume this hop with.
    ///
    /// # Errors
    /// When the acceptor gave no token.
    pub fn to_resume(&self) -> anyhow::Result<v1::Resume> {
        let token = self.token.clone().context("CALL-RESUME-03: the acceptor gave no token")?;
        Ok(v1::Resume { token, last_received: self.received })
    }
}

/// A reason as the schema spells it, without its prefix.
pub fn reason_name(reason: HangupReason) -> &'static str {
    reason.as_str_name().trim_start_matches("HANGUP_REASON_")
}
