//! A PBX by hand: SIP as text over one UDP socket, RTP over another. It does what the test says
//! and nothing else, but for OPTIONS, which it answers unless told not to.

use std::net::SocketAddr;

use ahoy_bridge::rtp::Packet;
use tokio::net::UdpSocket;

use crate::rig::soon;

/// PCMA and telephone-event.
pub const WITH_KEYS: &str = "RTP/AVP 8 101\r\na=rtpmap:8 PCMA/8000\r\na=rtpmap:101 telephone-event/8000\r\n";
/// PCMA alone.
pub const WITHOUT_KEYS: &str = "RTP/AVP 8\r\na=rtpmap:8 PCMA/8000\r\n";

/// A SIP message.
#[derive(Debug, Clone)]
pub struct Sip(pub String);

impl Sip {
    pub fn method(&self) -> &str {
        self.0.split(' ').next().expect("split gives one")
    }

    /// 0 for a request.
    pub fn status(&self) -> u16 {
        self.0.strip_prefix("SIP/2.0 ").and_then(|rest| rest.get(..3)?.parse().ok()).unwrap_or(0)
    }

    /// The whole first line with this name.
    pub fn line(&self, name: &str) -> &str {
        let found = self.0.lines().find(|line| line.starts_with(&format!("{name}:")));
        found.unwrap_or_else(|| panic!("no {name} in {}", self.0))
    }

    pub fn value(&self, name: &str) -> &str {
        self.line(name)[name.len() + 1..].trim()
    }

    pub fn body(&self) -> &str {
        self.0.split_once("\r\n\r\n").map_or("", |(_, body)| body)
    }

    /// Where the body wants its RTP.
    pub fn rtp(&self) -> SocketAddr {
        let field = |start: &str, index: usize| {
            let line = self.body().lines().find(|line| line.starts_with(start)).expect("an SDP");
            line.split(' ').nth(index).expect("a field").to_owned()
        };
        let (ip, port) = (field("c=", 2), field("m=audio", 1));
        format!("{ip}:{port}").parse().expect("an address")
    }
}

/// A dialog as the PBX sees it.
#[derive(Debug, Clone)]
pub struct Dialog {
    pub call: String,
    ours: String,
    theirs: String,
    target: String,
    sequence: u32,
}

impl Dialog {
    /// Takes the far side from its response.
    pub fn learn_from(&mut self, response: &Sip) {
        self.theirs = response.value("To").to_owned();
        if response.status() < 300 {
            let contact = response.value("Contact").trim_start_matches('<');
            self.target = contact.split('>').next().expect("split gives one").to_owned();
        }
    }
}

pub struct Pbx {
    pub sip: UdpSocket,
    pub rtp: UdpSocket,
    pub bridge: SocketAddr,
    /// OPTIONS get no answer.
    pub deaf: bool,
    counter: u32,
}

impl Pbx {
    /// `bridge` is set once the trunk stands.
    pub async fn start() -> Self {
        let bind = || UdpSocket::bind("127.0.0.3:0");
        let (sip, rtp) = (bind().await.expect("a free port"), bind().await.expect("a free port"));
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 9));
        Self { sip, rtp, bridge: nowhere, deaf: false, counter: 0 }
    }

    pub fn at(&self) -> SocketAddr {
        self.sip.local_addr().expect("it is bound")
    }

    /// An SDP with audio at our RTP socket.
    pub fn sdp(&self, formats: &str, direction: &str) -> String {
        let at = self.rtp.local_addr().expect("it is bound");
        let ip = at.ip();
        format!(
            "v=0\r\no=pbx 1 {} IN IP4 {ip}\r\ns=-\r\nc=IN IP4 {ip}\r\nt=0 0\r\nm=audio {} {formats}a={direction}\r\n",
            self.counter + 1,
            at.port()
        )
    }

    async fn raw(&self) -> Sip {
        let mut buffer = [0; 8192];
        let length = soon(self.sip.recv(&mut buffer)).await.expect("the socket is sound");
        Sip(String::from_utf8_lossy(&buffer[..length]).into_owned())
    }

    /// The next message that `wanted` says is the one; the rest, repetitions above all, is skipped.
    pub async fn until(&mut self, wanted: impl Fn(&Sip) -> bool) -> Sip {
        loop {
            let message = self.raw().await;
            if message.method() == "OPTIONS" && !self.deaf {
                self.reply(&message, "200 OK", "").await;
            }
            if wanted(&message) {
                return message;
            }
        }
    }

    pub async fn request(&mut self, method: &str) -> Sip {
        self.until(|message| message.method() == method).await
    }

    pub async fn response(&mut self, status: u16) -> Sip {
        self.until(|message| message.status() == status).await
    }

    pub async fn send(&self, text: &str) {
        self.sip.send_to(text.as_bytes(), self.bridge).await.expect("loopback takes it");
    }

    /// Answers a request, with our tag and Contact.
    pub async fn reply(&self, request: &Sip, status: &str, sdp: &str) {
        let to = request.line("To");
        let tag = if to.contains(";tag=") { "" } else { ";tag=pbx" };
        let kind = if sdp.is_empty() { "" } else { "Content-Type: application/sdp\r\n" };
        let text = format!(
            "SIP/2.0 {status}\r\n{}\r\n{}\r\n{to}{tag}\r\n{}\r\n{}\r\nContact: <sip:200@{}>\r\n{kind}Content-Length: {}\r\n\r\n{sdp}",
            request.line("Via"),
            request.line("From"),
            request.line("Call-ID"),
            request.line("CSeq"),
            self.at(),
            sdp.len()
        );
        self.send(&text).await;
    }

    /// Our side of the dialog of an INVITE that we answered.
    pub fn dialog_of(&self, invite: &Sip) -> Dialog {
        let contact =
            invite.value("Contact").trim_start_matches('<').split('>').next().expect("split gives one");
        Dialog {
            call: invite.value("Call-ID").to_owned(),
            ours: format!("{};tag=pbx", invite.value("To")),
            theirs: invite.value("From").to_owned(),
            target: contact.to_owned(),
            sequence: 1,
        }
    }

    /// Sends a request of a dialog; `sdp` may be empty. Returns what was sent.
    pub async fn ask(&mut self, dialog: &mut Dialog, method: &str, sdp: &str) -> Sip {
        self.counter += 1;
        let number = match method {
            "ACK" | "CANCEL" => dialog.sequence,
            _ => {
                dialog.sequence += 1;
                dialog.sequence
            }
        };
        let kind = if sdp.is_empty() { "" } else { "Content-Type: application/sdp\r\n" };
        let at = self.at();
        let text = format!(
            "{method} {} SIP/2.0\r\nVia: SIP/2.0/UDP {at};branch=z9hG4bK-{}-{};rport\r\nMax-Forwards: 70\r\nFrom: {}\r\nTo: {}\r\nCall-ID: {}\r\nCSeq: {number} {method}\r\nContact: <sip:200@{at}>\r\n{kind}Content-Length: {}\r\n\r\n{sdp}",
            dialog.target,
            at.port(),
            self.counter,
            dialog.ours,
            dialog.theirs,
            dialog.call,
            sdp.len()
        );
        self.send(&text).await;
        Sip(text)
    }

    /// Places a call to `user`. The dialog's far side is learnt from a response by [`Self::learn`].
    pub async fn call(&mut self, user: &str, sdp: &str) -> (Dialog, Sip) {
        let at = self.at();
        let mut dialog = Dialog {
            call: format!("c{}-{}", at.port(), self.counter),
            ours: format!("\"Desk\" <sip:201@{at}>;tag=desk"),
            theirs: format!("<sip:{user}@{}>", self.bridge),
            target: format!("sip:{user}@{}", self.bridge),
            sequence: 0,
        };
        let invite = self.ask(&mut dialog, "INVITE", sdp).await;
        (dialog, invite)
    }

    /// Takes the far side of a dialog from its response, and acknowledges a final one.
    pub async fn learn(&mut self, dialog: &mut Dialog, response: &Sip) {
        dialog.learn_from(response);
        if response.status() >= 200 {
            self.ask(dialog, "ACK", "").await;
        }
    }

    /// The CANCEL of an INVITE of ours.
    pub async fn cancel(&self, invite: &Sip) {
        let uri = invite.0.split(' ').nth(1).expect("a Request-URI");
        let text = format!(
            "CANCEL {uri} SIP/2.0\r\n{}\r\nMax-Forwards: 70\r\n{}\r\n{}\r\n{}\r\n{}\r\nContent-Length: 0\r\n\r\n",
            invite.line("Via"),
            invite.line("From"),
            invite.line("To"),
            invite.line("Call-ID"),
            invite.line("CSeq").replace("INVITE", "CANCEL")
        );
        self.send(&text).await;
    }

    /// Sends 20 ms frames of A-law silence.
    pub async fn speak(&self, to: SocketAddr, frames: u16) {
        for sequence in 0..frames {
            let packet = Packet {
                marker: sequence == 0,
                payload_type: 8,
                sequence,
                timestamp: u32::from(sequence) * 160,
                ssrc: 77,
                payload: &[0xd5; 160],
            };
            self.rtp.send_to(&packet.to_bytes(), to).await.expect("loopback takes it");
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    }

    /// Presses a key, as telephone-event.
    pub async fn press(&self, to: SocketAddr, event: u8, at: u32) {
        for (sequence, duration) in [(0u16, 160u16), (1, 320), (2, 800), (3, 800), (4, 800)] {
            let [high, low] = duration.to_be_bytes();
            let flags = if duration == 800 { 0x8a } else { 10 };
            let packet = Packet {
                marker: sequence == 0,
                payload_type: 101,
                sequence: 1000 + sequence,
                timestamp: at,
                ssrc: 77,
                payload: &[event, flags, high, low],
            };
            self.rtp.send_to(&packet.to_bytes(), to).await.expect("loopback takes it");
        }
    }

    /// The next RTP packet of this payload type.
    pub async fn hear(&self, payload_type: u8) -> Vec<u8> {
        let mut buffer = [0; 2048];
        loop {
            let length = soon(self.rtp.recv(&mut buffer)).await.expect("the socket is sound");
            if let Some(packet) = Packet::parse(&buffer[..length])
                && packet.payload_type == payload_type
            {
                return packet.payload.to_vec();
            }
        }
    }
}
